//! The right to change a log: one process holds it at a time, and it counts only while the directory is in its place.

use std::sync::Arc;

use crate::{
    Error, Result,
    error::{Operation, storage_error},
    storage::{LOCK_FILE, Lock, Storage},
};

/// Takes the lock of the one writer.
pub(crate) fn lock(storage: &dyn Storage) -> Result<Arc<dyn Lock>> {
    let lock = storage.lock().map_err(storage_error(Operation::Lock, &storage.name()))?;
    lock.map(Arc::from).ok_or_else(|| Error::Locked { directory: storage.name() })
}

/// Refuses to change a directory whose lock is not held any more.
pub(crate) fn check_lock(lock: &dyn Lock, storage: &dyn Storage) -> Result<()> {
    match lock.is_held().map_err(storage_error(Operation::LookFor, LOCK_FILE))? {
        true => Ok(()),
        false => Err(not_in_place(storage, LOCK_FILE)),
    }
}

/// A file that is being written is not the one that others find under its name.
pub(crate) fn not_in_place(storage: &dyn Storage, file: &str) -> Error {
    Error::NotInPlace { directory: storage.name(), file: file.to_owned() }
}
