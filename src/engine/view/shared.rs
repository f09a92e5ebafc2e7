//! What the views' thread and look-ups have in common.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sidecar_log_format::{Log, Sequence};
use tokio::sync::Notify;

use super::counters::Counters;
use crate::engine::derived::Database;

/// What the thread and look-ups have in common.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) log: Log,
    /// The open database, or why there is none.
    pub(super) database: RwLock<std::result::Result<Arc<Database>, String>>,
    pub(super) next: Arc<AtomicU64>,
    /// A look-up has found damage.
    pub(super) damaged: Notify,
    pub(super) counters: Counters,
}

impl Shared {
    /// Views whose file is not open yet.
    pub(super) fn new(path: PathBuf, log: Log) -> Self {
        Shared {
            path,
            log,
            database: RwLock::new(Err("they are being opened".to_owned())),
            next: Arc::default(),
            damaged: Notify::new(),
            counters: Counters::default(),
        }
    }

    pub(super) fn open(&self, database: &Arc<Database>) {
        self.set_database(Ok(Arc::clone(database)));
    }

    pub(super) fn close(&self, reason: &str) {
        self.set_database(Err(reason.to_owned()));
    }

    fn set_database(&self, database: std::result::Result<Arc<Database>, String>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
    }

    pub(super) fn publish(&self, next: Sequence) {
        self.next.store(next, Ordering::Release);
    }
}
