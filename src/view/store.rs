//! The views' file: whether it can be trusted, what it says of itself, and commits.
//!
//! Owns the redb database and its table of state. Batches flow in; each is committed with the checkpoint behind it in one
//! transaction. The file holds nothing that the log does not, so its commits need not be durable one by one: now and then
//! one is, and after a crash projection goes on from that one's checkpoint. What cannot be trusted is not repaired but
//! set aside, and projection begins anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, StorageError, TableDefinition, WriteTransaction,
};
use sidecar_log_format::{Log, MarkKind, Sequence};

use super::batch::Batch;
use super::rows::{self, RowError, Sweep};
use super::{Options, ViewError};

/// Raised when tables or rows change their form: then the views are made anew.
const FORMAT: u64 = 2;

const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");
const STATE_FORMAT: &str = "format";
const STATE_LOG_ID: &str = "log_id";
const STATE_EPOCH: &str = "epoch";
/// Positions of the log's LOSS marks, eight bytes each.
const STATE_LOSSES: &str = "losses";
/// Nothing before this sequence is in the tables.
const STATE_FIRST: &str = "first_sequence";
/// The checkpoint: everything before this sequence is in the tables.
const STATE_NEXT: &str = "next_sequence";

/// Why the views begin empty.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebuild {
    /// There were none.
    Missing,
    /// redb does not open the file, or its checksums are wrong; its reason.
    Unreadable(String),
    /// The file is of another format version.
    OtherFormat,
    /// It belongs to another log.
    OtherLog,
    /// The log's epoch has changed: sequences may name other events now.
    OtherEpoch,
    /// It knows events that the log does not have yet.
    AheadOfLog,
    /// The log has lost events since.
    LogLostEvents,
    /// The log has got older events since.
    LogGotOlderEvents,
    /// A row was not in the form that this version writes.
    MalformedRow,
    /// Somebody asked for it.
    Asked,
}

impl Rebuild {
    /// Whether somebody may want to see the file: it was damaged, or is not ours to throw away.
    fn leaves_evidence(&self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::OtherFormat | Self::OtherLog | Self::MalformedRow)
    }
}

/// Open views, and how far they have come.
#[derive(Debug)]
pub(super) struct Store {
    database: Arc<Database>,
    next: Sequence,
    /// Nothing before this sequence is in the tables, or will be once `sweep` is done.
    first: Sequence,
    sweep: Option<Sweep>,
}

/// Opens the views of `log`, or begins empty ones; says why.
pub(super) fn open(options: &Options, log: &Log) -> Result<(Store, Option<Rebuild>), ViewError> {
    let Options { path, cache_bytes, .. } = options;
    let rebuild = match open_file(path, *cache_bytes)? {
        Ok(database) => match Store::adopt(database, log).map_err(|error| at(path, error))? {
            Ok(store) => return Ok((store, None)),
            Err(rebuild) => rebuild,
        },
        Err(rebuild) => rebuild,
    };
    Ok((begin(options, log, &rebuild)?, Some(rebuild)))
}

/// Begins empty views because somebody asked for it. What stands there and is no views of this log, as when its path was
/// mistyped, is set aside.
pub(super) fn begin_anew(options: &Options, log: &Log) -> Result<Store, ViewError> {
    let is_of_this_log = match Builder::new().open(&options.path) {
        Ok(database) => State::read(&database).is_ok_and(|state| state.log_id.as_deref() == Some(&log.id())),
        Err(error @ DatabaseError::DatabaseAlreadyOpen) => return Err(at(&options.path, error.into())),
        Err(_) => false,
    };
    begin(options, log, if is_of_this_log { &Rebuild::Asked } else { &Rebuild::OtherLog })
}

/// Begins empty views where others may stand.
pub(super) fn begin(options: &Options, log: &Log, rebuild: &Rebuild) -> Result<Store, ViewError> {
    let Options { path, cache_bytes, .. } = options;
    clear_away(path, rebuild)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(|error| file_error(directory, "make the directory", error))?;
    let database = builder(*cache_bytes).create(path).map_err(|error| at(path, error.into()))?;
    Store::begin(database, log).map_err(|error| at(path, error))
}

/// Every page's checksum is looked at: the file is small beside the log, redb does not look again when it reads, and a
/// copy that was made while the file was written shows no other sign.
fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    builder
}

fn open_file(path: &Path, cache_bytes: usize) -> Result<Result<Database, Rebuild>, ViewError> {
    if !fs::exists(path).map_err(|error| file_error(path, "look for it", error))? {
        return Ok(Err(Rebuild::Missing));
    }
    match builder(cache_bytes).open(path) {
        Ok(database) => Ok(Ok(database)),
        Err(error) if is_of_no_use(&error) => Ok(Err(Rebuild::Unreadable(error.to_string()))),
        Err(error) => Err(at(path, error.into())),
    }
}

/// Whether the file itself is the trouble, rather than the disk, permissions, or another process that has it open.
fn is_of_no_use(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

fn clear_away(path: &Path, rebuild: &Rebuild) -> Result<(), ViewError> {
    let result = match rebuild {
        Rebuild::Missing => return Ok(()),
        rebuild if rebuild.leaves_evidence() => fs::rename(path, set_aside(path)),
        _ => fs::remove_file(path),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path, "clear it away", error)),
        _ => Ok(()),
    }
}

/// Where a file that cannot be used is kept; the next one replaces it.
pub(super) fn set_aside(path: &Path) -> PathBuf {
    path.with_added_extension("aside")
}

impl Store {
    /// Takes up a database, if its views are of this log as it is now.
    pub(super) fn adopt(database: Database, log: &Log) -> Result<Result<Self, Rebuild>, RowError> {
        let state = match State::read(&database) {
            Ok(state) => state,
            Err(error) => return Ok(Err(Rebuild::Unreadable(error.to_string()))),
        };
        let (head, oldest) = (log.head(), log.oldest());
        let lost_since = || {
            let known = state.losses.as_deref().unwrap_or_default();
            losses(log).chunks_exact(8).any(|position| !known.chunks_exact(8).any(|known| known == position))
        };
        let (Some(first), Some(next)) = (state.first, state.next) else { return Ok(Err(Rebuild::OtherFormat)) };
        let rebuild = if state.format != Some(FORMAT) {
            Rebuild::OtherFormat
        } else if state.log_id.as_deref() != Some(&log.id()) {
            Rebuild::OtherLog
        } else if state.epoch != Some(head.epoch) {
            Rebuild::OtherEpoch
        } else if next > head.next_sequence {
            Rebuild::AheadOfLog
        } else if oldest < first {
            Rebuild::LogGotOlderEvents
        } else if lost_since() {
            Rebuild::LogLostEvents
        } else {
            return Ok(Ok(Self { database: Arc::new(database), next, first, sweep: None }));
        };
        Ok(Err(rebuild))
    }

    /// Makes empty views in an empty database.
    pub(super) fn begin(database: Database, log: &Log) -> Result<Self, RowError> {
        let first = log.oldest();
        let transaction = database.begin_write()?;
        rows::create(&transaction)?;
        {
            let mut state = transaction.open_table(STATE)?;
            state.insert(STATE_FORMAT, FORMAT.to_le_bytes().as_slice())?;
            state.insert(STATE_LOG_ID, log.id().as_slice())?;
            state.insert(STATE_EPOCH, log.head().epoch.to_le_bytes().as_slice())?;
            state.insert(STATE_LOSSES, losses(log).as_slice())?;
            state.insert(STATE_FIRST, first.to_le_bytes().as_slice())?;
            state.insert(STATE_NEXT, first.to_le_bytes().as_slice())?;
        }
        transaction.commit()?;
        Ok(Self { database: Arc::new(database), next: first, first, sweep: None })
    }

    pub(super) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// The first sequence that is not projected.
    pub(super) fn next(&self) -> Sequence {
        self.next
    }

    /// Commits a batch with its checkpoint.
    pub(super) fn commit(&mut self, batch: Batch, durability: Durability) -> Result<(), RowError> {
        let next = batch.next();
        let transaction = self.begin_write(durability)?;
        batch.write(&transaction)?;
        transaction.open_table(STATE)?.insert(STATE_NEXT, next.to_le_bytes().as_slice())?;
        transaction.commit()?;
        self.next = next;
        Ok(())
    }

    /// Makes everything committed so far durable.
    pub(super) fn sync(&mut self) -> Result<(), RowError> {
        Ok(self.begin_write(Durability::Immediate)?.commit()?)
    }

    /// Begins to take out the rows of events older than `oldest` once enough of them are in the tables for it to be worth
    /// looking at every row.
    pub(super) fn note_oldest(&mut self, oldest: Sequence) {
        let dropped = oldest.saturating_sub(self.first);
        let retained = self.next.saturating_sub(oldest);
        if self.sweep.is_none() && dropped > retained / SWEEP_FRACTION {
            self.sweep = Some(Sweep::new(oldest));
        }
    }

    /// Whether rows of dropped events are being taken out.
    pub(super) fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Goes on taking out rows of dropped events: looks at `rows` of them.
    pub(super) fn sweep(&mut self, rows: usize, durability: Durability) -> Result<(), RowError> {
        let Some(mut sweep) = self.sweep.take() else { return Ok(()) };
        let transaction = self.begin_write(durability)?;
        // From the first step on, so that a log that gets these events back is noticed.
        transaction.open_table(STATE)?.insert(STATE_FIRST, sweep.oldest().to_le_bytes().as_slice())?;
        let is_done = sweep.step(&transaction, rows)?;
        transaction.commit()?;
        self.first = sweep.oldest();
        self.sweep = (!is_done).then_some(sweep);
        Ok(())
    }

    fn begin_write(&self, durability: Durability) -> Result<WriteTransaction, RowError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        Ok(transaction)
    }
}

/// A sweep looks at every row, so it waits until the dropped events are this part of those retained.
const SWEEP_FRACTION: u64 = 8;

/// Positions of the log's LOSS marks. One that cannot be read is as if it were not there: then so is its segment.
fn losses(log: &Log) -> Vec<u8> {
    let marks = log.marks(log.oldest()).unwrap_or_default();
    let losses = marks.into_iter().filter(|mark| mark.kind == MarkKind::LOSS);
    losses.flat_map(|mark| mark.position.to_le_bytes()).collect()
}

struct State {
    format: Option<u64>,
    log_id: Option<Vec<u8>>,
    epoch: Option<u64>,
    losses: Option<Vec<u8>>,
    first: Option<Sequence>,
    next: Option<Sequence>,
}

impl State {
    fn read(database: &Database) -> Result<Self, redb::Error> {
        let table = database.begin_read()?.open_table(STATE)?;
        let bytes = |key| -> Result<_, redb::Error> { Ok(table.get(key)?.map(|value| value.value().to_vec())) };
        let number = |key| -> Result<_, redb::Error> {
            Ok(bytes(key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes))
        };
        Ok(Self {
            format: number(STATE_FORMAT)?,
            log_id: bytes(STATE_LOG_ID)?,
            epoch: number(STATE_EPOCH)?,
            losses: bytes(STATE_LOSSES)?,
            first: number(STATE_FIRST)?,
            next: number(STATE_NEXT)?,
        })
    }
}

/// The error with its file.
pub(super) fn at(path: &Path, error: RowError) -> ViewError {
    match error {
        RowError::Redb(source) => ViewError::Redb { path: path.to_owned(), source },
        RowError::Malformed => ViewError::MalformedRow { path: path.to_owned() },
    }
}

fn file_error(path: &Path, action: &'static str, source: io::Error) -> ViewError {
    ViewError::File { path: path.to_owned(), action, source }
}
