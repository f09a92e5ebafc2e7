//! The follower: one thread that keeps the views up with the log.
//!
//! Wake-ups flow in from the log's committer, batches flow out into the store. It reads blocks out of the log's shared
//! cache, where those just committed are, and nobody waits for it. A failure of the file closes it; after a pause it is
//! opened again, or made anew, and projection goes on from its checkpoint. While the log cannot be read on from there, the
//! views stay open and fall behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Durability;
use sidecar_log_format::{Head, Log, Sequence};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::batch::Batch;
use super::rows::RowError;
use super::store::{self, Rebuild, Store};
use super::{Options, Shared, ViewError};

/// Most events of a batch, which bounds its memory: some 60 bytes an event.
const BATCH_EVENTS: usize = 65_536;
/// Rows looked at between two batches while those of dropped events are taken out.
const SWEEP_ROWS: usize = 2_048;
/// A start that has more than this to read says so.
const WORTH_TELLING_EVENTS: u64 = 100_000;
/// How long the thread waits for the log before it looks whether there is something else to do.
const LOOK_AROUND: Duration = Duration::from_millis(200);
/// Pauses after failures.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The state of the views' thread.
pub(super) struct Follower {
    pub(super) options: Options,
    pub(super) log: Log,
    pub(super) committed: watch::Receiver<Head>,
    pub(super) shared: Arc<Shared>,
    pub(super) projected: watch::Sender<Sequence>,
}

impl Drop for Follower {
    /// However the thread ends, nobody is answered from views that stand still.
    fn drop(&mut self) {
        self.close("the log's writer has ended");
    }
}

impl Follower {
    /// Follows until the log's writer has ended.
    pub(super) fn run(self) {
        let mut pauses = Pauses::default();
        let mut distrusted = None;
        while !self.is_over() {
            let begun = Instant::now();
            // A panic was not redb's, which is caught closer to it, so the file may well be sound.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow(distrusted.take())));
            let Err(failure) = followed.unwrap_or(Err(ViewError::Panicked)) else { return };
            self.close(&failure.to_string());
            self.shared.counters.failures.add(1);
            if begun.elapsed() > PAUSE_MAX {
                pauses = Pauses::default();
            }
            let pause = pauses.begin();
            error!(?pause, "the views are closed: {failure}; ingest and the event stream continue meanwhile");
            distrusted = match failure {
                ViewError::Damaged { how, .. } => Some(Rebuild::Damaged(how)),
                _ => None,
            };
            while pauses.is_pause() && !self.is_over() {
                std::thread::sleep(LOOK_AROUND);
            }
        }
    }

    /// Follows with one opening of the file.
    fn follow(&self, distrusted: Option<Rebuild>) -> Result<(), ViewError> {
        let mut store = self.open(distrusted)?;
        let mut unsynced = Unsynced::default();
        let mut pauses = Pauses::default();
        loop {
            let has_moved = !pauses.is_pause() && self.project(&mut store, &mut unsynced, &mut pauses)?;
            store.note_oldest(self.log.oldest());
            if store.is_sweeping() {
                let durability = unsynced.add(0, &self.options);
                let swept = store.sweep(SWEEP_ROWS, durability);
                self.or_failure(&store, swept)?;
                self.count_commit(durability);
            }
            // Somebody who asked may have found it.
            if let Some(how) = store.database().damage() {
                return Err(ViewError::Damaged { path: self.options.path.clone(), how: how.to_owned() });
            }
            if self.is_over() {
                return self.sync(&mut store, &mut unsynced);
            }
            if has_moved || store.is_sweeping() {
                continue;
            }
            if unsynced.is_due(&self.options) {
                self.sync(&mut store, &mut unsynced)?;
            }
            if pauses.is_pause() {
                std::thread::sleep(LOOK_AROUND);
            } else {
                let _more = self.log.wait(store.next(), LOOK_AROUND);
            }
        }
    }

    fn or_failure(&self, store: &Store, result: Result<(), RowError>) -> Result<(), ViewError> {
        result.map_err(|error| store::of(&self.options.path, store.database(), error))
    }

    /// Projects the next batch, if the log has gone on; says whether it has. A log that cannot be read makes a pause: what
    /// is there already is sound, and answers on.
    fn project(&self, store: &mut Store, unsynced: &mut Unsynced, pauses: &mut Pauses) -> Result<bool, ViewError> {
        let before = store.next();
        if before >= self.log.head().next_sequence {
            return Ok(false);
        }
        let batch = match Batch::read(&self.log, before, BATCH_EVENTS) {
            Ok(batch) => batch,
            Err(failure) => {
                self.shared.counters.failures.add(1);
                let pause = pauses.begin();
                error!("the views stay behind at event {before}: {failure}; the log is read again in {pause:?}");
                return Ok(false);
            }
        };
        *pauses = Pauses::default();
        let events = batch.events();
        let durability = unsynced.add(events, &self.options);
        let committed = store.commit(batch, durability);
        self.or_failure(store, committed)?;
        self.shared.counters.projected.add(events as u64);
        self.count_commit(durability);
        self.publish(store.next());
        Ok(store.next() > before)
    }

    fn open(&self, distrusted: Option<Rebuild>) -> Result<Store, ViewError> {
        let (store, rebuild) = match distrusted {
            Some(rebuild) => (store::begin(&self.options, &self.log, &rebuild)?, Some(rebuild)),
            None => store::open(&self.options, &self.log)?,
        };
        let events = self.log.head().next_sequence.saturating_sub(store.next());
        if let Some(rebuild) = rebuild {
            self.shared.counters.rebuilds.add(1);
            let file = self.options.path.display();
            if events > 0 && rebuild.is_expected() {
                info!(%file, events, reason = %rebuild, "the views are made from the log");
            } else if events > 0 {
                warn!(%file, events, reason = %rebuild, "the views are rebuilt from the log");
            }
        } else if events > WORTH_TELLING_EVENTS {
            info!(events, "the views catch up with the log");
        }
        // Between the two, as since it was closed, the views know of no event: nobody takes what is older for the newest.
        self.shared.open(store.database());
        self.publish(store.next());
        Ok(store)
    }

    /// Nothing is known any more, which is said before the file is closed: then nobody takes an answer for the newest, and
    /// whoever asks waits for the file to be opened again.
    fn close(&self, reason: &str) {
        self.publish(0);
        self.shared.close(reason);
    }

    fn sync(&self, store: &mut Store, unsynced: &mut Unsynced) -> Result<(), ViewError> {
        let synced = store.sync();
        self.or_failure(store, synced)?;
        *unsynced = Unsynced::default();
        self.count_commit(Durability::Immediate);
        Ok(())
    }

    fn count_commit(&self, durability: Durability) {
        self.shared.counters.commits.add(1);
        if matches!(durability, Durability::Immediate) {
            self.shared.counters.syncs.add(1);
        }
    }

    fn publish(&self, next: Sequence) {
        self.shared.publish(next);
        self.projected.send_replace(next);
    }

    fn is_over(&self) -> bool {
        self.committed.has_changed().is_err()
    }
}

/// Pauses between attempts, each longer than the one before.
struct Pauses {
    next: Duration,
    until: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSE_MIN, until: None }
    }
}

impl Pauses {
    /// Begins one; says how long it is.
    fn begin(&mut self) -> Duration {
        let pause = self.next;
        self.until = Some(Instant::now() + pause);
        self.next = (pause * 2).min(PAUSE_MAX);
        pause
    }

    fn is_pause(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// What a crash would have projected again.
#[derive(Default)]
struct Unsynced {
    events: usize,
    since: Option<Instant>,
}

impl Unsynced {
    /// How to commit `events` more.
    fn add(&mut self, events: usize, options: &Options) -> Durability {
        self.events += events;
        self.since.get_or_insert_with(Instant::now);
        if self.is_due(options) {
            *self = Self::default();
            return Durability::Immediate;
        }
        Durability::None
    }

    /// Whether it is time for a durable commit.
    fn is_due(&self, options: &Options) -> bool {
        self.events >= options.sync_events || self.since.is_some_and(|since| since.elapsed() >= options.sync_period)
    }
}
