//! The index file: whether it can be trusted, and what it says of itself.
//!
//! Owns the redb file, its table of state, and a *stamp* beside it. The stamp says which file on this disk the index
//! was created in (inode number and time of birth): a copy has others, and a copy of a file that was being written may be
//! torn. So the stamp is looked at before redb is.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition, WriteTransaction};

use super::rows::ROWS;
use super::{IdentityIndexError, Result, redb_error};

const FORMAT: u128 = 1;
const STATE: TableDefinition<&str, u128> = TableDefinition::new("state");
const STATE_FORMAT: &str = "format";
const STATE_LOG_ID: &str = "log_id";
const STATE_CHECKPOINT: &str = "checkpoint";

/// Why an index begins empty.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebuild {
    /// There was none.
    Missing,
    /// The file is not where it was created: a copy, maybe of a file that was being written.
    Copied,
    /// redb does not open it; its reason.
    Unreadable(String),
    /// It is of another format version.
    OtherFormat,
    /// It belongs to another log.
    OtherLog,
    /// It knows events that the log does not hold.
    AheadOfLog {
        /// The sequence up to which it was written.
        checkpoint: u64,
    },
}

pub(super) struct Stored {
    pub(super) database: Database,
    pub(super) checkpoint: Option<u64>,
    pub(super) rebuild: Option<Rebuild>,
}

pub(super) fn open_or_create(path: &Path, log_id: [u8; 16], head: Option<u64>, cache_bytes: usize) -> Result<Stored> {
    match open(path, log_id, head, cache_bytes)? {
        Ok((database, checkpoint)) => Ok(Stored { database, checkpoint, rebuild: None }),
        Err(rebuild) => {
            let database = create(path, log_id, cache_bytes)?;
            Ok(Stored { database, checkpoint: None, rebuild: Some(rebuild) })
        }
    }
}

/// Notes in a batch's own transaction that the index is complete up to `checkpoint`.
pub(super) fn set_checkpoint(transaction: &WriteTransaction, checkpoint: u64) -> std::result::Result<(), redb::Error> {
    transaction.open_table(STATE)?.insert(STATE_CHECKPOINT, u128::from(checkpoint))?;
    Ok(())
}

type Trusted = std::result::Result<(Database, Option<u64>), Rebuild>;

fn open(path: &Path, log_id: [u8; 16], head: Option<u64>, cache_bytes: usize) -> Result<Trusted> {
    if !fs::exists(path).map_err(file_error(path, "look for it"))? {
        return Ok(Err(Rebuild::Missing));
    }
    if !is_where_it_was_created(path)? {
        return Ok(Err(Rebuild::Copied));
    }
    let database = match Database::builder().set_cache_size(cache_bytes).open(path) {
        Ok(database) => database,
        Err(error) if is_of_no_use(&error) => return Ok(Err(Rebuild::Unreadable(error.to_string()))),
        Err(error) => return Err(redb_error(path, error)),
    };
    let state = match read_state(&database) {
        Ok(state) => state,
        Err(error) => return Ok(Err(Rebuild::Unreadable(error.to_string()))),
    };
    Ok(match state.checkpoint {
        _ if state.format != Some(FORMAT) => Err(Rebuild::OtherFormat),
        _ if state.log_id != Some(u128::from_be_bytes(log_id)) => Err(Rebuild::OtherLog),
        Some(checkpoint) if head.is_none_or(|head| checkpoint > head) => Err(Rebuild::AheadOfLog { checkpoint }),
        checkpoint => Ok((database, checkpoint)),
    })
}

fn create(path: &Path, log_id: [u8; 16], cache_bytes: usize) -> Result<Database> {
    remove_if_there(path)?;
    remove_if_there(&stamp_path(path))?;
    let database =
        Database::builder().set_cache_size(cache_bytes).create(path).map_err(|error| redb_error(path, error))?;
    let write_state = || -> std::result::Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(ROWS)?;
        {
            let mut state = transaction.open_table(STATE)?;
            state.insert(STATE_FORMAT, FORMAT)?;
            state.insert(STATE_LOG_ID, u128::from_be_bytes(log_id))?;
        }
        Ok(transaction.commit()?)
    };
    write_state().map_err(|error| redb_error(path, error))?;
    // Last, so that a crash on the way leaves no stamp, and the next open begins again.
    let stamp = stamp_of(path)?;
    fs::write(stamp_path(path), stamp).map_err(file_error(&stamp_path(path), "write it"))?;
    Ok(database)
}

struct State {
    format: Option<u128>,
    log_id: Option<u128>,
    checkpoint: Option<u64>,
}

fn read_state(database: &Database) -> std::result::Result<State, redb::Error> {
    let state = database.begin_read()?.open_table(STATE)?;
    let read = |key| -> std::result::Result<_, redb::Error> { Ok(state.get(key)?.map(|value| value.value())) };
    Ok(State {
        format: read(STATE_FORMAT)?,
        log_id: read(STATE_LOG_ID)?,
        checkpoint: read(STATE_CHECKPOINT)?.map(|checkpoint| u64::try_from(checkpoint).unwrap_or(u64::MAX)),
    })
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

fn is_where_it_was_created(path: &Path) -> Result<bool> {
    match fs::read(stamp_path(path)) {
        Ok(stamp) => Ok(stamp == stamp_of(path)?.into_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file_error(&stamp_path(path), "read it")(error)),
    }
}

/// The time of birth beside the inode number, because a file system gives a removed file's number to the next. Where it
/// keeps none, the number must do.
fn stamp_of(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).map_err(file_error(path, "look at it"))?;
    let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("inode {} born {}\n", metadata.ino(), born.as_nanos()))
}

fn stamp_path(path: &Path) -> PathBuf {
    path.with_added_extension("stamp")
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path, "remove it")(error)),
        _ => Ok(()),
    }
}

fn file_error(path: &Path, action: &'static str) -> impl Fn(io::Error) -> IdentityIndexError {
    let path = path.to_owned();
    move |source| IdentityIndexError::File { path: path.clone(), action, source }
}
