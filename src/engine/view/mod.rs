//! Views: from a key to the sequences of the events that have it.
//!
//! Owns one redb file beside the log and the thread that keeps it up with the log. Committed events flow in, and a
//! dialect's `Projection` names their keys. Sequences flow out, never events: a caller reads the event itself from the
//! log. The views hold nothing that the log does not, so they may be deleted at any time. Views that cannot be trusted are
//! rebuilt.
//!
//! ```text
//! log ──► batch: projected keys ──► tables in redb, with the checkpoint ──► snapshot ──► sequences
//! ```
//!
//! * **The answers are those of the retained log**, as if it were read from its oldest event on each time. What retention
//!   dropped is in no answer from then on; its rows are removed later, a few at a time.
//! * **Every event is found by its own keys, and the first event of a key answers.** Ingest drops nearly all duplicates
//!   before they are stored. A richer copy of an event, which the log keeps as a mark, answers nothing: the log's event does.
//! * **A commit is cheap, and now and then durable.** A crash takes what came since the last durable one, and that is read
//!   from the log again.

pub(crate) mod batch;
pub mod counters;
mod error;
mod follower;
pub(crate) mod keys;
mod options;
pub(crate) mod posting;
pub(crate) mod postings;
pub(crate) mod projection;
mod shared;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod tables;
#[cfg(test)]
mod tests;

#[cfg(test)]
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sidecar_log_format::{Head, Log, Sequence};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::engine::thread;
use batch::Batch;
use counters::Counters;
pub use error::{Result, ViewError};
use follower::Follower;
pub use options::Options;
use projection::Projection;
use shared::Shared;
use snapshot::Snapshot;
pub use store::Rebuild;

/// The views of one log. Clones share everything; see the module's description.
#[derive(Clone)]
pub struct Views {
    shared: Arc<Shared>,
    projected: watch::Receiver<Sequence>,
}

impl Views {
    /// Starts the thread that opens the views of `log`, or makes them, and follows the log until the other end of
    /// `committed`, the log's writer, is gone. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ViewError::Thread`]. The thread reports what is wrong with the file, and tries again.
    pub(crate) fn open(
        projection: Arc<dyn Projection>,
        options: Options,
        log: Log,
        committed: watch::Receiver<Head>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::new(options.path.clone(), log.clone()));
        let (projected, receiver) = watch::channel(0);
        let runtime = Handle::current();
        let follower =
            Follower { projection, options, log, committed, shared: Arc::clone(&shared), projected, runtime };
        let thread = thread::start("views", || follower.run());
        thread.map_err(ViewError::Thread)?;
        Ok(Self { shared, projected: receiver })
    }

    /// Look-ups in a store without a thread.
    #[cfg(test)]
    pub(crate) fn of_store(store: &store::Store, path: PathBuf, log: Log) -> Self {
        let shared = Shared::new(path, log);
        shared.open(store.database());
        Self { shared: Arc::new(shared), projected: watch::channel(0).1 }
    }

    /// The log that they are of.
    pub(crate) fn log(&self) -> &Log {
        &self.shared.log
    }

    /// Answers from one snapshot.
    ///
    /// # Errors
    /// [`ViewError::Closed`] for a moment around a failure of the file, or what redb answers.
    pub(crate) fn query<T>(&self, look: impl FnOnce(&Snapshot) -> tables::Result<T>) -> Result<T> {
        let shared = &self.shared;
        let database = match &*shared.database.read().unwrap_or_else(PoisonError::into_inner) {
            Ok(database) => Arc::clone(database),
            Err(reason) => {
                return Err(ViewError::Closed { path: shared.path.clone(), reason: reason.clone() });
            }
        };
        let oldest = shared.log.oldest();
        let answer = database.work(|database| look(&Snapshot::new(database, oldest)?));
        if answer.is_err() && database.damage().is_some() {
            shared.damaged.notify_one();
        }
        Ok(answer?)
    }

    /// Waits until every event before `sequence` is in the views, at most `timeout`; returns whether it is so. With the log's
    /// `head().next_sequence`, a query afterwards sees every commit before this call.
    pub async fn caught_up_to(&self, sequence: Sequence, timeout: Duration) -> bool {
        let mut projected = self.projected.clone();
        let arrived = projected.wait_for(|next| *next >= sequence);
        matches!(tokio::time::timeout(timeout, arrived).await, Ok(Ok(_)))
    }

    /// The checkpoint: the first sequence that is not yet in the views. It goes back when they are rebuilt, and is 0 while
    /// they are closed.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.shared.next.load(Ordering::Acquire)
    }

    /// The checkpoint, to read at any time.
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

/// How far a rebuild has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Events read.
    pub events: u64,
    /// Events to read in all.
    pub events_total: u64,
}

/// Rebuilds the views of a log and brings them up to its head, in this thread. The caller holds the log's lock, so that
/// nothing writes it meanwhile.
///
/// # Errors
/// What the log, the file system or redb answers; then the next start continues with what is made so far.
pub(crate) fn rebuild(
    projection: &Arc<dyn Projection>,
    options: &Options,
    log: &Log,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let mut store = store::begin_asked(projection, options, log)?;
    let (first, end) = (store.next(), log.head().next_sequence);
    while store.next() < end {
        let batch = Batch::read(projection.as_ref(), log, store.next(), REBUILD_BATCH_EVENTS)?;
        store.commit(batch, redb::Durability::Immediate)?;
        progress(Progress { events: store.next() - first, events_total: end - first });
    }
    Ok(())
}

/// The larger a batch, the fewer pages are written twice. About 14 MB of keys.
const REBUILD_BATCH_EVENTS: usize = 262_144;
