//! The views' file: whether it can be trusted, its own state, and commits.
//!
//! Owns the redb database and its table of state. Batches flow in; each is committed with the checkpoint behind it in one
//! transaction. The file holds nothing that the log does not, so its commits need not be durable one by one: now and then
//! one is, and after a crash projection resumes from that one's checkpoint. What cannot be trusted is not repaired but
//! set aside, and rebuilt from the log.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use redb::{Durability, ReadableDatabase, TableDefinition, WriteTransaction};
use sidecar_log_format::{ChainValue, Log, MarkCursor, MarkKind, Sequence};

use super::batch::{Batch, chain_before};
use super::error::ViewError;
use super::options::Options;
use super::projection::Projection;
use super::tables::Sweep;
use crate::engine::derived::{Database, DerivedError, DerivedFile, RowError, Unusable};

/// Raised when rows change their form: then the views are rebuilt.
const FORMAT: u64 = 3;

const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");
const STATE_FORMAT: &str = "format";
/// See [`Projection::form`].
const STATE_PROJECTION: &str = "projection";
const STATE_LOG_ID: &str = "log_id";
const STATE_EPOCH: &str = "epoch";
/// Positions of the log's LOSS marks, eight bytes each.
const STATE_LOSSES: &str = "losses";
/// Nothing before this sequence is in the tables.
const STATE_FIRST: &str = "first_sequence";
/// The checkpoint: everything before this sequence is in the tables.
const STATE_NEXT: &str = "next_sequence";
/// The log's chain value before the checkpoint; not there where the log could not tell.
const STATE_CHAIN: &str = "chain_before_next";

/// Why the views begin empty.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebuild {
    /// There were none.
    Missing,
    /// The file is damaged, or something else; how it showed.
    Damaged(String),
    /// The file is of another format version.
    OtherFormat,
    /// It belongs to another log.
    OtherLog,
    /// The log's epoch has changed: sequences may name other events now.
    OtherEpoch,
    /// It knows events that the log does not have yet.
    AheadOfLog,
    /// At the checkpoint the log's chain has another value: the log has had other events since, or was put back.
    OtherHistory,
    /// The log has lost events since.
    LogLostEvents,
    /// The log has got older events since.
    LogGotOlderEvents,
    /// Somebody asked for it.
    Asked,
}

impl Rebuild {
    /// Whether somebody may want to see the file: it was damaged, or is not ours to throw away.
    fn leaves_evidence(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::OtherFormat | Self::OtherLog)
    }

    /// Whether it is what a start may find when nothing has gone wrong.
    pub(super) fn is_expected(&self) -> bool {
        matches!(self, Self::Missing | Self::OtherFormat | Self::Asked)
    }
}

impl fmt::Display for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there are none",
            Self::Damaged(how) => return write!(f, "the file is damaged: {how}"),
            Self::OtherFormat => "another version wrote the file",
            Self::OtherLog => "the file belongs to another log",
            Self::OtherEpoch => "the log has begun a new epoch",
            Self::AheadOfLog => "the file knows events that the log does not hold",
            Self::OtherHistory => "the log holds other events than the file was made from",
            Self::LogLostEvents => "the log has lost events",
            Self::LogGotOlderEvents => "the log holds older events than before",
            Self::Asked => "it was asked for",
        })
    }
}

/// Open views, and how far they have come.
pub(crate) struct Store {
    projection: Arc<dyn Projection>,
    database: Arc<Database>,
    next: Sequence,
    /// Nothing before this sequence is in the tables, or will be once `sweep` is done.
    first: Sequence,
    sweep: Option<Sweep>,
}

/// The views' file at `path`.
pub(crate) fn file(path: &Path) -> DerivedFile {
    let advice = "check the disk and its free space: the views recover, or are rebuilt from the log";
    DerivedFile::new("views", advice, path)
}

/// Opens the views of `log`, or begins empty ones; returns why.
pub(crate) fn open(
    projection: &Arc<dyn Projection>,
    options: &Options,
    log: &Log,
) -> Result<(Store, Option<Rebuild>), ViewError> {
    let rebuild = match open_file(options)? {
        Ok(database) => match Store::adopt(projection, database, log)? {
            Ok(store) => return Ok((store, None)),
            Err(rebuild) => rebuild,
        },
        Err(rebuild) => rebuild,
    };
    Ok((begin(projection, options, log, &rebuild)?, Some(rebuild)))
}

/// Begins empty views because somebody asked for it. A file that is not the views of this log, as when its path was
/// mistyped, is set aside.
pub(super) fn begin_asked(projection: &Arc<dyn Projection>, options: &Options, log: &Log) -> Result<Store, ViewError> {
    let is_of_this_log = match open_file(options)? {
        Ok(database) => database.run(State::read).is_ok_and(|state| state.log_id.as_deref() == Some(&log.id())),
        Err(_) => false,
    };
    begin(projection, options, log, if is_of_this_log { &Rebuild::Asked } else { &Rebuild::OtherLog })
}

/// Begins empty views where others may be.
pub(super) fn begin(
    projection: &Arc<dyn Projection>,
    options: &Options,
    log: &Log,
    rebuild: &Rebuild,
) -> Result<Store, ViewError> {
    let (file, losses) = (file(&options.path), losses(log)?);
    file.clear_away(rebuild.leaves_evidence())?;
    let directory = file.with_path(options.path.parent().unwrap_or(Path::new(".")).to_owned());
    fs::create_dir_all(directory.path()).map_err(directory.cannot("make the directory"))?;
    Ok(Store::begin(projection, file.create(options.cache_bytes)?, log, &losses)?)
}

/// Every page is read and checked first: a copy that was made while the file was written shows no other sign, and damage
/// is found before somebody asks.
const CHECK_INTEGRITY: bool = true;

fn open_file(options: &Options) -> Result<Result<Database, Rebuild>, DerivedError> {
    let file = file(&options.path);
    if !file.exists()? {
        return Ok(Err(Rebuild::Missing));
    }
    Ok(file.open(options.cache_bytes, CHECK_INTEGRITY)?.map_err(|unusable| match unusable {
        Unusable::OtherFormat => Rebuild::OtherFormat,
        Unusable::Damaged(how) => Rebuild::Damaged(how),
    }))
}

impl Store {
    /// Continues with a database, if its views are of this log as it is now.
    pub(crate) fn adopt(
        projection: &Arc<dyn Projection>,
        database: Database,
        log: &Log,
    ) -> sidecar_log_format::Result<Result<Self, Rebuild>> {
        let state = match database.run(State::read) {
            Ok(state) => state,
            Err(error) => return Ok(Err(Rebuild::Damaged(error.to_string()))),
        };
        let (Some(first), Some(next)) = (state.first, state.next) else { return Ok(Err(Rebuild::OtherFormat)) };
        Ok(match state.difference(projection.as_ref(), log, first, next)? {
            Some(rebuild) => Err(rebuild),
            None => {
                let (projection, database) = (Arc::clone(projection), Arc::new(database));
                Ok(Self { projection, database, next, first, sweep: None })
            }
        })
    }

    /// Why the views are not those of the log any more, which was recovered in place since they were opened.
    pub(super) fn outdated(&self, log: &Log) -> sidecar_log_format::Result<Option<Rebuild>> {
        match self.database.run(State::read) {
            Ok(state) => state.difference(self.projection.as_ref(), log, self.first, self.next),
            Err(error) => Ok(Some(Rebuild::Damaged(error.to_string()))),
        }
    }

    /// Makes empty views in an empty database; `losses` are the log's [`losses`].
    pub(crate) fn begin(
        projection: &Arc<dyn Projection>,
        database: Database,
        log: &Log,
        losses: &[u8],
    ) -> Result<Self, DerivedError> {
        let first = log.oldest();
        let (projection, database) = (Arc::clone(projection), Arc::new(database));
        let store = Self { projection, database, next: first, first, sweep: None };
        let chain = chain_before(log, first).unwrap_or_default();
        store.write(Durability::Immediate, |transaction| {
            store.projection.tables().iter().try_for_each(|table| table.create(transaction))?;
            let mut state = transaction.open_table(STATE)?;
            state.insert(STATE_FORMAT, FORMAT.to_le_bytes().as_slice())?;
            state.insert(STATE_PROJECTION, store.projection.form().as_bytes())?;
            state.insert(STATE_LOG_ID, log.id().as_slice())?;
            state.insert(STATE_EPOCH, log.head().epoch.to_le_bytes().as_slice())?;
            state.insert(STATE_LOSSES, losses)?;
            state.insert(STATE_FIRST, first.to_le_bytes().as_slice())?;
            Ok(set_checkpoint(&mut state, first, chain)?)
        })?;
        Ok(store)
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// The first sequence that is not projected.
    pub(crate) fn next(&self) -> Sequence {
        self.next
    }

    /// Commits a batch with its checkpoint.
    pub(crate) fn commit(&mut self, batch: Batch, durability: Durability) -> Result<(), DerivedError> {
        let (next, chain) = (batch.next(), batch.chain_before_next());
        self.write(durability, |transaction| {
            batch.write(transaction, self.projection.tables())?;
            Ok(set_checkpoint(&mut transaction.open_table(STATE)?, next, chain)?)
        })?;
        self.next = next;
        Ok(())
    }

    /// Makes everything committed so far durable.
    pub(super) fn sync(&mut self) -> Result<(), DerivedError> {
        self.write(Durability::Immediate, |_| Ok(()))
    }

    /// Begins to remove the rows of events older than `oldest` once enough of them are in the tables for it to be worth
    /// looking at every row.
    pub(crate) fn note_oldest(&mut self, oldest: Sequence) {
        let dropped = oldest.saturating_sub(self.first);
        let retained = self.next.saturating_sub(oldest);
        if self.sweep.is_none() && dropped > retained / SWEEP_FRACTION {
            self.sweep = Some(Sweep::new(oldest));
        }
    }

    /// Whether rows of dropped events are being removed.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Continues to remove rows of dropped events: looks at `rows` of them.
    pub(crate) fn sweep(&mut self, rows: usize, durability: Durability) -> Result<(), DerivedError> {
        let Some(mut sweep) = self.sweep.take() else { return Ok(()) };
        let mut is_done = false;
        self.write(durability, |transaction| {
            // From the first step on, so that a log that gets these events back is noticed.
            transaction.open_table(STATE)?.insert(STATE_FIRST, sweep.oldest().to_le_bytes().as_slice())?;
            is_done = sweep.step(transaction, self.projection.tables(), rows)?;
            Ok(())
        })?;
        self.first = sweep.oldest();
        self.sweep = (!is_done).then_some(sweep);
        Ok(())
    }

    fn write(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<(), RowError>,
    ) -> Result<(), DerivedError> {
        self.database.work(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability)?;
            // A crash must leave the last durable commit whole: what is torn fails its checksum.
            transaction.set_two_phase_commit(true);
            work(&transaction)?;
            Ok(transaction.commit()?)
        })
    }
}

fn set_checkpoint(
    state: &mut redb::Table<'_, &'static str, &'static [u8]>,
    next: Sequence,
    chain: Option<ChainValue>,
) -> Result<(), redb::Error> {
    state.insert(STATE_NEXT, next.to_le_bytes().as_slice())?;
    match chain {
        Some(chain) => state.insert(STATE_CHAIN, chain.as_slice())?,
        None => state.remove(STATE_CHAIN)?,
    };
    Ok(())
}

/// Whether the log's chain has another value before the checkpoint than when that was written. Of events that were dropped
/// since, the log cannot tell.
fn has_other_history(log: &Log, next: Sequence, stored: Option<ChainValue>) -> sidecar_log_format::Result<bool> {
    let now = chain_before(log, next)?;
    Ok(now != stored && (now.is_some() || next > log.oldest()))
}

/// A sweep looks at every row, so it waits until the dropped events are this part of those retained.
const SWEEP_FRACTION: u64 = 8;

/// Positions of the log's LOSS marks. One that is damaged is as if it were not there: then so is its segment.
pub(crate) fn losses(log: &Log) -> sidecar_log_format::Result<Vec<u8>> {
    let mut marks = MarkCursor::new(log, log.oldest()).of_kinds(MarkKind::LOSS.bit()).waiting_for_the_device();
    let mut positions = Vec::new();
    while let Some(mark) = marks.next_to(Sequence::MAX)? {
        positions.extend(mark.position.to_le_bytes());
    }
    Ok(positions)
}

struct State {
    format: Option<u64>,
    projection: Option<Vec<u8>>,
    log_id: Option<Vec<u8>>,
    epoch: Option<u64>,
    losses: Option<Vec<u8>>,
    first: Option<Sequence>,
    next: Option<Sequence>,
    chain: Option<ChainValue>,
}

impl State {
    /// Why views in this state, of the events from `first` on and before `next`, are not those of the log as it is now.
    fn difference(
        &self,
        projection: &dyn Projection,
        log: &Log,
        first: Sequence,
        next: Sequence,
    ) -> sidecar_log_format::Result<Option<Rebuild>> {
        let head = log.head();
        let lost_since = || -> sidecar_log_format::Result<bool> {
            let known = self.losses.as_deref().unwrap_or_default();
            Ok(losses(log)?.chunks_exact(8).any(|position| !known.chunks_exact(8).any(|known| known == position)))
        };
        Ok(if self.format != Some(FORMAT) || self.projection.as_deref() != Some(projection.form().as_bytes()) {
            Some(Rebuild::OtherFormat)
        } else if self.log_id.as_deref() != Some(&log.id()) {
            Some(Rebuild::OtherLog)
        } else if self.epoch != Some(head.epoch) {
            Some(Rebuild::OtherEpoch)
        } else if next > head.next_sequence {
            Some(Rebuild::AheadOfLog)
        } else if log.oldest() < first {
            Some(Rebuild::LogGotOlderEvents)
        } else if lost_since()? {
            Some(Rebuild::LogLostEvents)
        } else if has_other_history(log, next, self.chain)? {
            Some(Rebuild::OtherHistory)
        } else {
            None
        })
    }

    fn read(database: &redb::Database) -> Result<Self, redb::Error> {
        let table = database.begin_read()?.open_table(STATE)?;
        let bytes = |key| -> Result<_, redb::Error> { Ok(table.get(key)?.map(|value| value.value().to_vec())) };
        let number = |key| -> Result<_, redb::Error> {
            Ok(bytes(key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes))
        };
        Ok(Self {
            format: number(STATE_FORMAT)?,
            projection: bytes(STATE_PROJECTION)?,
            log_id: bytes(STATE_LOG_ID)?,
            epoch: number(STATE_EPOCH)?,
            losses: bytes(STATE_LOSSES)?,
            first: number(STATE_FIRST)?,
            next: number(STATE_NEXT)?,
            chain: bytes(STATE_CHAIN)?.and_then(|bytes| bytes.try_into().ok()),
        })
    }
}
