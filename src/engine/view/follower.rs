//! The follower: one thread that keeps the views up with the log.
//!
//! Wake-ups flow in from the watch on the log's committed head, batches flow out into the store. It reads blocks out of the
//! log's shared cache, where those just committed are, and no other thread waits for it. A failure of the file closes it. After a
//! pause it is opened again, or rebuilt, and projection continues from its checkpoint. While the log cannot be read from
//! there, the views stay open and lag. After the log was recovered in place, they are rebuilt if it has lost events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Durability;
use sidecar_log_format::{Head, Log, Sequence};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::batch::Batch;
use super::error::ViewError;
use super::options::Options;
use super::projection::Projection;
use super::shared::Shared;
use super::store::{self, Rebuild, Store};
use crate::engine::backoff::Backoff;
use crate::engine::derived::DerivedError;

/// Most events of a batch, which bounds its memory: some 60 bytes an event.
const BATCH_EVENTS: usize = 65_536;
/// Rows looked at between two batches while those of dropped events are removed.
const SWEEP_ROWS: usize = 2_048;
/// A start that has more than this to read is logged.
const WORTH_TELLING_EVENTS: u64 = 100_000;
/// How often an idle thread looks whether retention has dropped events.
const LOOK_AROUND: Duration = Duration::from_secs(10);
/// Pauses after failures.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The state of the views' thread.
pub(super) struct Follower {
    pub(super) projection: Arc<dyn Projection>,
    pub(super) options: Options,
    pub(super) log: Log,
    pub(super) committed: watch::Receiver<Head>,
    pub(super) shared: Arc<Shared>,
    pub(super) projected: watch::Sender<Sequence>,
    /// Its timers bound the thread's waits.
    pub(super) runtime: Handle,
}

impl Drop for Follower {
    /// However the thread ends, no look-up is answered from views that are not updated any more.
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
            error!(?pause, %failure, "the views are closed; ingest and the event stream continue meanwhile");
            distrusted = match failure {
                ViewError::File(DerivedError::Damaged { how, .. }) => Some(Rebuild::Damaged(how)),
                _ => None,
            };
            while pauses.is_pause() && !self.is_over() {
                self.wait(pauses.left(), Wake::AtEnd);
            }
        }
    }

    /// Follows with one opening of the file.
    fn follow(&self, distrusted: Option<Rebuild>) -> Result<(), ViewError> {
        let mut generation = self.log.losses_generation();
        let mut store = self.open(distrusted)?;
        let mut unsynced = Unsynced::default();
        let mut pauses = Pauses::default();
        loop {
            let is_recovered = std::mem::replace(&mut generation, self.log.losses_generation()) != generation;
            if is_recovered && let Some(rebuild) = store.outdated(&self.log)? {
                self.close(&rebuild.to_string());
                drop(store);
                store = self.open(Some(rebuild))?;
                unsynced = Unsynced::default();
            }
            let has_moved = !pauses.is_pause() && self.project(&mut store, &mut unsynced, &mut pauses)?;
            store.note_oldest(self.log.oldest());
            if store.is_sweeping() {
                let durability = unsynced.add(0, &self.options);
                store.sweep(SWEEP_ROWS, durability)?;
                self.count_commit(durability);
            }
            // A look-up may have found it.
            store.database().check()?;
            if self.is_over() {
                return self.sync(&mut store, &mut unsynced);
            }
            if has_moved || store.is_sweeping() {
                continue;
            }
            if unsynced.is_due(&self.options) {
                self.sync(&mut store, &mut unsynced)?;
            }
            let timeout = unsynced.left(&self.options).min(LOOK_AROUND);
            match pauses.is_pause() {
                true => self.wait(pauses.left().min(timeout), Wake::AtEnd),
                false => self.wait(timeout, Wake::AtEvent(store.next())),
            }
        }
    }

    /// Waits for events or the writer's end, or until a look-up finds damage, at most `timeout`.
    fn wait(&self, timeout: Duration, wake: Wake) {
        let mut committed = self.committed.clone();
        let is_awaited = |head: &Head| match wake {
            Wake::AtEvent(next) => head.next_sequence > next,
            Wake::AtEnd => false,
        };
        self.runtime.block_on(async {
            tokio::select! {
                // That the writer has ended is an error here, and is looked at next.
                _ = committed.wait_for(is_awaited) => {}
                () = self.shared.damaged.notified() => {}
                () = tokio::time::sleep(timeout) => {}
            }
        });
    }

    /// Projects the next batch, if there is one; returns whether there was. A log that cannot be read makes a pause: what is
    /// there already is sound, and still answers.
    fn project(&self, store: &mut Store, unsynced: &mut Unsynced, pauses: &mut Pauses) -> Result<bool, ViewError> {
        let before = store.next();
        if before >= self.log.head().next_sequence {
            return Ok(false);
        }
        let batch = match Batch::read(self.projection.as_ref(), &self.log, before, BATCH_EVENTS) {
            Ok(batch) => batch,
            Err(failure) => {
                self.shared.counters.failures.add(1);
                let pause = pauses.begin();
                error!(next = before, ?pause, %failure, "the views lag; the log is read again after the pause");
                return Ok(false);
            }
        };
        if std::mem::take(pauses).until.is_some() {
            info!(next = before, "the views recovered, the log is read again");
        }
        let events = batch.events();
        let durability = unsynced.add(events, &self.options);
        store.commit(batch, durability)?;
        self.shared.counters.projected.add(events as u64);
        self.count_commit(durability);
        self.publish(store.next());
        Ok(store.next() > before)
    }

    fn open(&self, distrusted: Option<Rebuild>) -> Result<Store, ViewError> {
        let (store, rebuild) = match distrusted {
            Some(rebuild) => (store::begin(&self.projection, &self.options, &self.log, &rebuild)?, Some(rebuild)),
            None => store::open(&self.projection, &self.options, &self.log)?,
        };
        let events = self.log.head().next_sequence.saturating_sub(store.next());
        if let Some(rebuild) = rebuild {
            self.shared.counters.rebuilds.add(1);
            let file = self.options.path.display();
            if events > 0 && rebuild.is_expected() {
                info!(%file, events, reason = %rebuild, "the views are built from the log");
            } else if events > 0 {
                warn!(%file, events, reason = %rebuild, "the views are rebuilt from the log");
            }
        } else if events > WORTH_TELLING_EVENTS {
            info!(events, "the views catch up with the log");
        }
        // Between the two, as since it was closed, the views know of no event: no reader takes an old one for the newest.
        self.shared.open(store.database());
        if self.shared.counters.failures.get() > 0 {
            info!(next = store.next(), "the views are open again");
        }
        self.publish(store.next());
        Ok(store)
    }

    /// Publishes that nothing is known before the file is closed: then no reader takes an old answer for the newest, and a look-up
    /// waits for the file to be opened again.
    fn close(&self, reason: &str) {
        self.publish(0);
        self.shared.close(reason);
    }

    fn sync(&self, store: &mut Store, unsynced: &mut Unsynced) -> Result<(), ViewError> {
        store.sync()?;
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

/// What ends a wait before its time.
#[derive(Clone, Copy)]
enum Wake {
    /// The event at this sequence, and the writer's end.
    AtEvent(Sequence),
    /// The writer's end alone.
    AtEnd,
}

/// The pauses between attempts, and the one that lasts.
struct Pauses {
    backoff: Backoff,
    until: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX), until: None }
    }
}

impl Pauses {
    /// Begins one; returns how long it is.
    fn begin(&mut self) -> Duration {
        let pause = self.backoff.take();
        self.until = Some(Instant::now() + pause);
        pause
    }

    fn is_pause(&self) -> bool {
        !self.left().is_zero()
    }

    fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
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
        self.events >= options.sync_events || self.left(options).is_zero()
    }

    /// How long until it is.
    fn left(&self, options: &Options) -> Duration {
        self.since.map_or(Duration::MAX, |since| options.sync_period.saturating_sub(since.elapsed()))
    }
}
