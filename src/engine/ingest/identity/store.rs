//! The index file: whether it can be trusted, and what it says of itself.
//!
//! Owns the [derived file](crate::engine::derived), its table of state, and a *stamp* beside it. The stamp says which file on this
//! disk the index was created in (inode number and time of birth): a copy has others, and a copy of a file that was being
//! written may be torn. So the stamp is looked at before redb is.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use redb::{ReadableDatabase, TableDefinition, WriteTransaction};
use sidecar_log_format::ChainValue;

use super::rows::{self, ROWS};
use super::{Durable, LogPosition, Result};
use crate::engine::derived::{Database, DerivedFile, RowError, Unusable, ignore_missing};

const FORMAT: u128 = 2;
const STATE: TableDefinition<&str, u128> = TableDefinition::new("state");
const STATE_FORMAT: &str = "format";
const STATE_LOG_ID: &str = "log_id";
/// What stands for the rule of the identities; not there for the dialect's own.
const STATE_RULE: &str = "rule";
const STATE_CHECKPOINT: &str = "checkpoint";
/// The log's chain value after the checkpoint, in two halves.
const STATE_CHAIN: [&str; 2] = ["chain_first_half", "chain_second_half"];

/// Why an index begins empty.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebuild {
    /// There was none.
    Missing,
    /// The file is not where it was created: a copy, maybe of a file that was being written.
    Copied,
    /// The file is damaged; how it showed.
    Damaged(String),
    /// It is of another format version.
    OtherFormat,
    /// It belongs to another log.
    OtherLog,
    /// Its identities were made by another rule.
    OtherRule,
    /// It knows events that the log does not hold.
    AheadOfLog {
        /// The sequence up to which it was written.
        checkpoint: u64,
    },
    /// At its checkpoint the log's chain has another value: the log has had other events since, or was put back.
    OtherHistory {
        /// The sequence up to which it was written.
        checkpoint: u64,
    },
}

impl Rebuild {
    /// Whether the file was damaged, so that somebody may want to see it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }
}

impl fmt::Display for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none"),
            Self::Copied => f.write_str("the file is a copy"),
            Self::Damaged(how) => write!(f, "the file is damaged: {how}"),
            Self::OtherFormat => f.write_str("another version wrote the file"),
            Self::OtherLog => f.write_str("the file belongs to another log"),
            Self::OtherRule => f.write_str("events are identified by another rule than before"),
            Self::AheadOfLog { checkpoint } => {
                write!(f, "the file knows events up to {checkpoint}, which the log does not hold")
            }
            Self::OtherHistory { checkpoint } => {
                write!(f, "the log holds other events up to {checkpoint} than the file was made from")
            }
        }
    }
}

pub(super) struct Stored {
    pub(super) database: Database,
    pub(super) checkpoint: Option<u64>,
    /// Per class that has rows, the newest time.
    pub(super) newest_times: Vec<(u8, u64)>,
    pub(super) rebuild: Option<Rebuild>,
}

/// The index at `path`.
pub(super) fn file(path: &Path) -> DerivedFile {
    let advice = "check the disk, then restart: the index recovers, or is rebuilt from the log";
    DerivedFile::new("identity index", advice, path)
}

pub(super) fn open_or_create(path: &Path, log: LogPosition<'_>, cache_bytes: usize) -> Result<Stored> {
    match open(&file(path), log, cache_bytes)? {
        Ok(stored) => Ok(stored),
        Err(rebuild) => begin(path, log.id, log.rule, cache_bytes, rebuild),
    }
}

/// An empty index, where another may be.
pub(super) fn begin(path: &Path, log_id: [u8; 16], rule: &str, cache_bytes: usize, rebuild: Rebuild) -> Result<Stored> {
    let file = file(path);
    file.clear_away(rebuild.is_damage())?;
    let database = create(&file, log_id, rule, cache_bytes)?;
    Ok(Stored { database, checkpoint: None, newest_times: Vec::new(), rebuild: Some(rebuild) })
}

/// Notes in a batch's own transaction that the index is complete up to `durable`.
pub(super) fn set_checkpoint(transaction: &WriteTransaction, durable: Durable) -> std::result::Result<(), redb::Error> {
    let mut state = transaction.open_table(STATE)?;
    state.insert(STATE_CHECKPOINT, u128::from(durable.sequence))?;
    for (key, half) in STATE_CHAIN.into_iter().zip(halves(durable.chain)) {
        match half {
            Some(half) => state.insert(key, half)?,
            None => state.remove(key)?,
        };
    }
    Ok(())
}

fn halves(chain: Option<ChainValue>) -> [Option<u128>; 2] {
    let Some(chain) = chain else { return [None; 2] };
    let (halves, _) = chain.as_chunks::<16>();
    let mut halves = halves.iter().map(|half| u128::from_be_bytes(*half));
    [halves.next(), halves.next()]
}

fn open(file: &DerivedFile, log: LogPosition<'_>, cache_bytes: usize) -> Result<std::result::Result<Stored, Rebuild>> {
    if !file.exists()? {
        return Ok(Err(Rebuild::Missing));
    }
    if !is_where_it_was_created(file)? {
        return Ok(Err(Rebuild::Copied));
    }
    let database = match file.open(cache_bytes, false)? {
        Ok(database) => database,
        Err(Unusable::OtherFormat) => return Ok(Err(Rebuild::OtherFormat)),
        Err(Unusable::Damaged(how)) => return Ok(Err(Rebuild::Damaged(how))),
    };
    let contents = database.run(|database| {
        let state = read_state(database)?;
        // Of another format's rows nothing is known.
        let has_rows = state.format == Some(FORMAT);
        let newest_times = has_rows.then(|| rows::newest_times(&database.begin_read()?.open_table(ROWS)?));
        Ok::<_, RowError>((state, newest_times.transpose()?.unwrap_or_default()))
    });
    let (state, newest_times) = match contents {
        Ok(contents) => contents,
        Err(error) => return Ok(Err(Rebuild::Damaged(error.to_string()))),
    };
    let rebuild = match state.checkpoint {
        _ if state.format != Some(FORMAT) => Rebuild::OtherFormat,
        _ if state.log_id != Some(u128::from_be_bytes(log.id)) => Rebuild::OtherLog,
        _ if state.rule != digest_of(log.rule) => Rebuild::OtherRule,
        Some(checkpoint) if log.head.is_none_or(|head| checkpoint > head) => Rebuild::AheadOfLog { checkpoint },
        Some(checkpoint) if has_other_history(log, checkpoint, state.chain)? => Rebuild::OtherHistory { checkpoint },
        checkpoint => return Ok(Ok(Stored { database, checkpoint, newest_times, rebuild: None })),
    };
    Ok(Err(rebuild))
}

/// Whether the log's chain has another value after the checkpoint than when that was written. Of events that were dropped
/// since, the log cannot tell.
fn has_other_history(log: LogPosition<'_>, checkpoint: u64, stored: [Option<u128>; 2]) -> Result<bool> {
    let now = (log.chain_after)(checkpoint)?;
    Ok(halves(now) != stored && (now.is_some() || checkpoint >= log.oldest))
}

fn create(file: &DerivedFile, log_id: [u8; 16], rule: &str, cache_bytes: usize) -> Result<Database> {
    let stamp = stamp(file);
    ignore_missing(fs::remove_file(stamp.path())).map_err(stamp.cannot("remove it"))?;
    let database = file.create(cache_bytes)?;
    database.work(|database| {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(ROWS)?;
        {
            let mut state = transaction.open_table(STATE)?;
            state.insert(STATE_FORMAT, FORMAT)?;
            state.insert(STATE_LOG_ID, u128::from_be_bytes(log_id))?;
            if let Some(rule) = digest_of(rule) {
                state.insert(STATE_RULE, rule)?;
            }
        }
        Ok(transaction.commit()?)
    })?;
    // Last, so that a crash on the way leaves no stamp, and the next open begins again.
    fs::write(stamp.path(), stamp_of(file)?).map_err(stamp.cannot("write it"))?;
    Ok(database)
}

struct State {
    format: Option<u128>,
    log_id: Option<u128>,
    rule: Option<u128>,
    checkpoint: Option<u64>,
    chain: [Option<u128>; 2],
}

fn read_state(database: &redb::Database) -> std::result::Result<State, redb::Error> {
    let state = database.begin_read()?.open_table(STATE)?;
    let read = |key| -> std::result::Result<_, redb::Error> { Ok(state.get(key)?.map(|value| value.value())) };
    let [first_half, second_half] = STATE_CHAIN;
    Ok(State {
        format: read(STATE_FORMAT)?,
        log_id: read(STATE_LOG_ID)?,
        rule: read(STATE_RULE)?,
        checkpoint: read(STATE_CHECKPOINT)?.map(|checkpoint| u64::try_from(checkpoint).unwrap_or(u64::MAX)),
        chain: [read(first_half)?, read(second_half)?],
    })
}

/// Half of a BLAKE3 hash of a rule; `None` for the dialect's own.
fn digest_of(rule: &str) -> Option<u128> {
    let mut half = [0; 16];
    blake3::Hasher::new().update(rule.as_bytes()).finalize_xof().fill(&mut half);
    (!rule.is_empty()).then(|| u128::from_be_bytes(half))
}

fn is_where_it_was_created(file: &DerivedFile) -> Result<bool> {
    let stamp = stamp(file);
    match fs::read(stamp.path()) {
        Ok(stamped) => Ok(stamped == stamp_of(file)?.into_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(stamp.cannot("read it")(error).into()),
    }
}

/// The time of birth beside the inode number, because a file system gives a removed file's number to the next. Where it
/// keeps none, the number must do.
fn stamp_of(file: &DerivedFile) -> Result<String> {
    let metadata = fs::metadata(file.path()).map_err(file.cannot("look at it"))?;
    let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("inode {} born {}\n", metadata.ino(), born.as_nanos()))
}

/// Where the stamp of an index is.
fn stamp(file: &DerivedFile) -> DerivedFile {
    file.with_path(file.path().with_added_extension("stamp"))
}
