//! Views: from what somebody asks for to the sequence of the event that answers.
//!
//! Owns one redb file beside the log and the thread that keeps it up with the log. The natural keys of committed events
//! flow in; sequences, never events, flow out: who asks reads the event itself from the log. The views hold nothing that the
//! log does not, so they may be deleted at any time, and are made anew when they cannot be trusted.
//!
//! ```text
//! log ──► batch: keys ──► rows: tables in redb, with the checkpoint ──► query ──► sequences
//! ```
//!
//! * **The answers are those of the retained log**, as if it were read from its oldest event on each time. What retention
//!   dropped is in no answer from then on; its rows go later, a few at a time.
//! * **Every event is found by its own key, and the first event of a key answers.** Of two blocks of one height the first
//!   answers for the height, as in the reference's tables, and each for its own hash. Keys are compared as bytes: the case
//!   of their digits means nothing. Ingest drops nearly all duplicates before they are stored. A richer copy of a processed
//!   transaction, which the log keeps as a mark, answers nothing: the log's event does.
//! * **A commit is cheap, and now and then durable.** A crash takes what came since the last durable one, and that is read
//!   from the log again.

mod batch;
pub mod counters;
mod follower;
mod postings;
mod query;
mod rows;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use sidecar_log_format::{Head, Log, Sequence};
use tokio::sync::watch;

use crate::engine::derived::Database;
use batch::Batch;
use counters::Counters;
use follower::Follower;
pub use store::Rebuild;

/// Where the views live, and what they may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; its directory is made if missing.
    pub path: PathBuf,
    /// redb's page cache, in bytes.
    pub cache_bytes: usize,
    /// A commit is durable when this many events have come since the last such one,
    pub sync_events: usize,
    /// or so much time. What is projected again after a crash is no more than that.
    pub sync_period: Duration,
}

impl Options {
    /// Views at `path`; a crash costs a million events or ten seconds.
    #[must_use]
    pub fn new(path: PathBuf, cache_bytes: usize) -> Self {
        Self { path, cache_bytes, sync_events: 1_000_000, sync_period: Duration::from_secs(10) }
    }
}

/// What went wrong with the views. The log is not touched by any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A file or directory cannot be made, looked at or moved.
    #[error("views {}: cannot {action}: {source}; check the directory's permissions and free space", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed. The message has it, so it is no `source()` that would be printed once more.
        r#source: std::io::Error,
    },
    /// redb failed to open, read or write.
    #[error("views {}: {source}; check the disk and its free space: the views recover, or are made anew from the log", path.display())]
    Redb {
        /// The views' file.
        path: PathBuf,
        /// Why it failed; as above.
        r#source: Box<redb::Error>,
    },
    /// The file is damaged; the views are rebuilt.
    #[error("views {}: the file is damaged: {how}; it is set aside and rebuilt from the log", path.display())]
    Damaged {
        /// The views' file.
        path: PathBuf,
        /// How it showed.
        how: String,
    },
    /// The views' thread has panicked.
    #[error("the views' thread has panicked: this is a mistake in Sidecar, please report it")]
    Panicked,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] sidecar_log_format::Error),
    /// There is no thread for the views.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The views are not open: they are about to be, or have ended with the log's writer.
    #[error("views {}: not open now: {reason}; ask again in a moment", path.display())]
    Closed {
        /// The views' file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A result of the views.
pub type Result<T> = std::result::Result<T, ViewError>;

/// The views of one log. Clones share everything; see the module's description.
#[derive(Clone)]
pub struct Views {
    shared: Arc<Shared>,
    projected: watch::Receiver<Sequence>,
}

/// What the thread and those who ask have in common.
struct Shared {
    path: PathBuf,
    log: Log,
    /// The open database, or why there is none.
    database: RwLock<std::result::Result<Arc<Database>, String>>,
    next: Arc<AtomicU64>,
    counters: Counters,
}

impl Views {
    /// Starts the thread that opens the views of `log`, or makes them, and follows the log until the other end of
    /// `committed`, the log's writer, is gone.
    ///
    /// # Errors
    /// [`ViewError::Thread`]. What is wrong with the file is told by the thread, which tries again.
    pub fn open(options: Options, log: Log, committed: watch::Receiver<Head>) -> Result<Self> {
        let shared = Arc::new(Shared {
            path: options.path.clone(),
            log: log.clone(),
            database: RwLock::new(Err("they are being opened".to_owned())),
            next: Arc::default(),
            counters: Counters::default(),
        });
        let (projected, receiver) = watch::channel(0);
        let follower = Follower { options, log, committed, shared: Arc::clone(&shared), projected };
        let thread = thread::Builder::new().name("views".to_owned()).spawn(|| follower.run());
        thread.map_err(ViewError::Thread)?;
        Ok(Self { shared, projected: receiver })
    }

    /// Waits until every event before `sequence` is in the views, at most `timeout`; says whether it is so. With the log's
    /// `head().next_sequence`, a query afterwards sees every commit before this call.
    pub async fn caught_up_to(&self, sequence: Sequence, timeout: Duration) -> bool {
        let mut projected = self.projected.clone();
        let arrived = projected.wait_for(|next| *next >= sequence);
        matches!(tokio::time::timeout(timeout, arrived).await, Ok(Ok(_)))
    }

    /// The checkpoint: the first sequence that is not yet in the views. It goes back when they are made anew, and is 0 while
    /// they are closed.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.shared.next.load(Ordering::Acquire)
    }

    /// The same, to be looked at at any time.
    #[must_use]
    pub fn position(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.next)
    }

    /// Why they are not open, when they are not.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.shared.database.read().unwrap_or_else(PoisonError::into_inner).as_ref().err().cloned()
    }

    /// What the thread counts.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Waits until the thread has ended and the file is closed, which follows the end of the log's writer.
    pub async fn ended(&self) {
        let mut projected = self.projected.clone();
        while projected.changed().await.is_ok() {}
    }
}

impl Shared {
    fn open(&self, database: &Arc<Database>) {
        self.set_database(Ok(Arc::clone(database)));
    }

    fn close(&self, reason: &str) {
        self.set_database(Err(reason.to_owned()));
    }

    fn set_database(&self, database: std::result::Result<Arc<Database>, String>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
    }

    fn publish(&self, next: Sequence) {
        self.next.store(next, Ordering::Release);
    }
}

/// How far a rebuild has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Events read.
    pub events: u64,
    /// Events to read in all.
    pub events_total: u64,
}

/// Makes the views of a log anew and brings them up to its head, in this thread. Nobody may be writing the log: whoever
/// calls this holds its lock.
///
/// # Errors
/// What the log, the file system or redb answers; then what is made so far is gone on with at the next start.
pub fn rebuild(options: &Options, log: &Log, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let mut store = store::begin_anew(options, log)?;
    let (first, end) = (store.next(), log.head().next_sequence);
    while store.next() < end {
        let batch = Batch::read(log, store.next(), REBUILD_BATCH_EVENTS)?;
        let committed = store.commit(batch, redb::Durability::Immediate);
        committed.map_err(|error| store::of(&options.path, store.database(), error))?;
        progress(Progress { events: store.next() - first, events_total: end - first });
    }
    Ok(())
}

/// The larger a batch, the fewer pages are written twice. 16 MB of keys.
const REBUILD_BATCH_EVENTS: usize = 262_144;
