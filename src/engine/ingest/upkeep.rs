//! Upkeep of sealed segments: one thread of low priority beside the committer.
//!
//! It drops what retention has no room for ([`retention`]), and makes the rest small: with compaction, every segment is
//! rewritten once into large blocks at a high level, at a pace that other programs do not notice, slower while the
//! other threads are busy; without, only the small blocks of quiet times are merged. The committer and the readers
//! continue meanwhile; nothing waits for this thread.

mod clock;
mod forgetting;
pub(super) mod retention;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sidecar_log_format::{Maintenance, RewriteOptions, Sequence};
use tracing::{error, info, warn};

use super::counters::Counters;
use crate::engine::thread::{Stoppable, Stopped};
use clock::BelievedClock;
use retention::Retainer;

/// How often newly sealed segments, and old ones, are looked for. A look without news takes no I/O.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the thread does nothing after a panic.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(60);
/// How long segments are left as they are after one could not be made smaller for a reason that may pass.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// The niceness of this thread: it gets what others leave.
const NICENESS: i32 = 19;
/// The share of the machine's cores from which on the other threads are busy. A block at a high level takes a core for
/// some tenths of a second, which requests would feel in spite of the niceness: cores share caches and memory.
const BUSY: f64 = 1.0 / 8.0;
/// How many times slower work continues then. It must continue: some servers are always busy.
const SLOWER_WHILE_BUSY: f64 = 16.0;

/// Which sealed segments are rewritten, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewriting {
    /// Those whose blocks are small, at once.
    Merge(RewriteOptions),
    /// All, once.
    Compact {
        /// How.
        options: RewriteOptions,
        /// Wire bytes a second that are taken in at most, on average. While Sidecar's other threads are busy, it is a
        /// sixteenth of that.
        bytes_per_second: u64,
    },
}

/// The running thread; it ends, and lets go of the log, when this is dropped.
pub(super) struct Upkeep(#[expect(dead_code, reason = "it is held for its end")] Stoppable);

impl Upkeep {
    /// Starts the thread.
    pub(super) fn start(
        maintenance: Maintenance,
        rewriting: Rewriting,
        free_bytes_min: u64,
        retainer: Retainer,
        counters: Arc<Counters>,
    ) -> std::io::Result<Self> {
        let pace = match rewriting {
            Rewriting::Merge(_) => None,
            Rewriting::Compact { bytes_per_second, .. } => Some(bytes_per_second),
        };
        let run = move |stopped| {
            let mut keeper = Keeper {
                maintenance,
                rewriting,
                free_bytes_min,
                retainer,
                counters,
                stopped,
                pace: Pace::new(pace),
                others: Others::new(),
                failed_at: None,
            };
            // Its panic is on standard error already. What it may have left half done is only a file of its own.
            while catch_unwind(AssertUnwindSafe(|| keeper.run())).is_err() {
                error!(
                    pause = ?PAUSE_AFTER_PANIC,
                    "the upkeep of the log has panicked: this is a mistake in Sidecar, please report it; old segments \
                     stay until it resumes"
                );
                if keeper.stopped.wait(PAUSE_AFTER_PANIC).is_break() {
                    return;
                }
                info!("the upkeep of the log resumes");
            }
        };
        Stoppable::start("upkeep", run).map(Upkeep)
    }
}

/// What the upkeep knows for as long as the process lives, whatever becomes of its thread. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Carried(Arc<Mutex<CarriedState>>);

#[derive(Default)]
struct CarriedState {
    /// Made with the first look, where events are dropped by age.
    clock: Option<BelievedClock>,
    /// Segments before this one were rewritten, or need not be.
    looked_at: Sequence,
    /// Of the others, those that stay as they are: they are damaged, or would grow.
    left: BTreeSet<Sequence>,
}

impl Carried {
    fn lock(&self) -> MutexGuard<'_, CarriedState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread works with.
struct Keeper {
    maintenance: Maintenance,
    rewriting: Rewriting,
    /// What is to stay free on the device.
    free_bytes_min: u64,
    retainer: Retainer,
    counters: Arc<Counters>,
    stopped: Stopped,
    pace: Pace,
    others: Others,
    /// When a rewrite has failed for a reason that may pass.
    failed_at: Option<Instant>,
}

/// What became of a segment that was due to be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing more is to be done.
    Settled,
    /// It stays as it is, now and later.
    Left,
    /// Later it may succeed.
    Failed,
}

impl Keeper {
    fn run(&mut self) {
        // On Linux, of this thread alone. Without the permission it is only less polite.
        let _ = rustix::process::nice(NICENESS);
        while self.stopped.wait(PERIOD).is_continue() {
            self.retainer.look(&self.maintenance, &self.stopped);
            if self.rewrite_what_is_due().is_break() {
                return;
            }
        }
    }

    fn rewrite_what_is_due(&mut self) -> ControlFlow<()> {
        let looked_at = self.retainer.carried.lock().looked_at;
        // Asked for before the look, so that a segment sealed meanwhile is looked at the next time.
        let next = self.maintenance.unsealed_segment().unwrap_or(looked_at);
        if next == looked_at || self.failed_at.is_some_and(|failed| failed.elapsed() < PAUSE_AFTER_FAILURE) {
            return ControlFlow::Continue(());
        }
        let had_failed = self.failed_at.take().is_some();
        let due = match self.rewriting {
            Rewriting::Merge(options) => self.maintenance.segments_with_small_blocks(looked_at, options.block_bytes),
            Rewriting::Compact { options, .. } => self.maintenance.segments_to_compact(looked_at, options),
        };
        let due = match due {
            Ok(due) => due,
            Err(error) => {
                self.failed_at = Some(Instant::now());
                if !had_failed {
                    warn!(
                        from = looked_at, %error, retry = ?PAUSE_AFTER_FAILURE,
                        "segments are not made smaller for now: they cannot be looked at"
                    );
                }
                return ControlFlow::Continue(());
            }
        };
        let mut first_failed = None;
        for segment in due {
            if self.retainer.carried.lock().left.contains(&segment) {
                continue;
            }
            match self.rewrite(segment, had_failed)? {
                Outcome::Settled => {}
                Outcome::Left => {
                    self.retainer.carried.lock().left.insert(segment);
                }
                Outcome::Failed => {
                    first_failed.get_or_insert(segment);
                }
            }
        }
        if first_failed.is_some() {
            self.failed_at = Some(Instant::now());
        } else if had_failed {
            info!("segments can be made smaller again");
        }
        let mut carried = self.retainer.carried.lock();
        let CarriedState { looked_at, left, .. } = &mut *carried;
        *looked_at = first_failed.unwrap_or(next);
        *left = left.split_off(looked_at);
        ControlFlow::Continue(())
    }

    /// Rewrites a segment; a failure that may pass is logged unless one was before.
    fn rewrite(&mut self, segment: Sequence, had_failed: bool) -> ControlFlow<(), Outcome> {
        if !self.has_room_for(segment) {
            if !had_failed {
                info!(
                    segment, retry = ?PAUSE_AFTER_FAILURE,
                    "segment is not made smaller for now: rewriting needs more space than the device has"
                );
            }
            return ControlFlow::Continue(Outcome::Failed);
        }
        let Keeper { maintenance, rewriting, retainer, stopped, pace, others, .. } = self;
        let (Rewriting::Merge(options) | Rewriting::Compact { options, .. }) = *rewriting;
        let mut last_look = Instant::now();
        let result = maintenance.rewrite_at_pace(segment, options, &mut |bytes| {
            pace.took(bytes);
            loop {
                // A large segment takes an hour; what is old must not wait for that.
                if last_look.elapsed() >= PERIOD {
                    last_look = Instant::now();
                    retainer.look(maintenance, stopped);
                }
                let wait = pace.wait(others.are_busy());
                stopped.wait(wait.min(PERIOD))?;
                if wait.is_zero() {
                    return ControlFlow::Continue(());
                }
            }
        });
        let outcome = match result {
            Ok(Some(done)) if done.is_left => {
                info!(
                    segment,
                    bytes = done.bytes_before,
                    bytes_after = done.bytes_after,
                    "segment left as it is: it would grow"
                );
                Outcome::Left
            }
            Ok(Some(done)) => {
                self.retainer.was_rewritten(segment);
                self.counters.rewritten_segments.add(1);
                self.counters.rewritten_bytes_before.add(done.bytes_before);
                self.counters.rewritten_bytes_after.add(done.bytes_after);
                info!(segment, bytes = done.bytes_before, bytes_after = done.bytes_after, "segment was made smaller");
                Outcome::Settled
            }
            Ok(None) => Outcome::Settled,
            // It stays as it is: nothing is lost but room.
            Err(error) if error.is_damage() && !error.is_unreadable() => {
                warn!(segment, %error, "segment is not made smaller");
                Outcome::Left
            }
            Err(error) => {
                if !had_failed {
                    warn!(segment, %error, retry = ?PAUSE_AFTER_FAILURE, "segment is not made smaller for now");
                }
                Outcome::Failed
            }
        };
        self.stopped.wait(Duration::ZERO)?;
        ControlFlow::Continue(outcome)
    }

    /// The old file and the new one are there together for a moment, and ingest must not wait for that.
    fn has_room_for(&self, segment: Sequence) -> bool {
        let size = self.maintenance.describe(segment).map_or(0, |segment| segment.bytes);
        self.maintenance.free_bytes().is_ok_and(|free| free >= self.free_bytes_min.saturating_add(2 * size))
    }
}

/// Spreads work over time.
struct Pace {
    /// `None`: as fast as it goes.
    bytes_per_second: Option<f64>,
    /// Bytes that were taken, and that time has not paid for yet.
    debt: f64,
    paid_at: Instant,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Pace { bytes_per_second: bytes_per_second.map(|bytes| bytes as f64), debt: 0.0, paid_at: Instant::now() }
    }

    fn took(&mut self, bytes: u64) {
        self.debt += bytes as f64;
        // Time that was not used is not made up for.
        self.paid_at = Instant::now();
    }

    /// How long it takes until the next bytes may be taken, if it goes on like this.
    fn wait(&mut self, others_are_busy: bool) -> Duration {
        let Some(bytes_per_second) = self.bytes_per_second else { return Duration::ZERO };
        let rate = if others_are_busy { bytes_per_second / SLOWER_WHILE_BUSY } else { bytes_per_second };
        let elapsed = std::mem::replace(&mut self.paid_at, Instant::now()).elapsed();
        self.debt = (self.debt - elapsed.as_secs_f64() * rate).max(0.0);
        Duration::try_from_secs_f64(self.debt / rate).unwrap_or(Duration::MAX)
    }
}

/// How much the process's other threads have to do: a node that is caught up with and clients that ask need the machine
/// more than old segments do.
struct Others {
    looked_at: Instant,
    cpu_time: Duration,
    are_busy: bool,
}

impl Others {
    /// On the thread that is not one of them.
    fn new() -> Self {
        Others { looked_at: Instant::now(), cpu_time: Self::cpu_time(), are_busy: false }
    }

    /// Whether they are, measured over at least one [`PERIOD`].
    fn are_busy(&mut self) -> bool {
        let elapsed = self.looked_at.elapsed();
        if elapsed >= PERIOD {
            let before = std::mem::replace(&mut self.cpu_time, Self::cpu_time());
            self.are_busy = is_busy(self.cpu_time.saturating_sub(before), elapsed);
            self.looked_at = Instant::now();
        }
        self.are_busy
    }

    fn cpu_time() -> Duration {
        let time = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        time(ClockId::ProcessCPUTime).saturating_sub(time(ClockId::ThreadCPUTime))
    }
}

/// Whether so much CPU time in so much time makes the machine [`BUSY`].
fn is_busy(cpu_time: Duration, elapsed: Duration) -> bool {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    cpu_time.as_secs_f64() > elapsed.as_secs_f64() * cores as f64 * BUSY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ingest::upkeep::retention::tests::four_segments;

    #[test]
    fn what_could_not_be_made_smaller_for_lack_of_room_is_made_smaller_later_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, retainer) = four_segments(folder.path());
        let (_stop, stopped) = Stopped::with_sender();
        let mut keeper = Keeper {
            maintenance: writer.maintenance(),
            rewriting: Rewriting::Compact { options: RewriteOptions::COMPACTION, bytes_per_second: u64::MAX },
            free_bytes_min: u64::MAX,
            counters: Arc::clone(&retainer.counters),
            retainer,
            stopped,
            pace: Pace::new(None),
            others: Others::new(),
            failed_at: None,
        };
        let rewritten = |keeper: &mut Keeper| {
            assert!(keeper.rewrite_what_is_due().is_continue());
            keeper.counters.rewritten_segments.get()
        };
        assert_eq!(rewritten(&mut keeper), 0);
        keeper.free_bytes_min = 0;
        assert_eq!(rewritten(&mut keeper), 0, "it waits a while");
        keeper.failed_at = keeper.failed_at.and_then(|failed| failed.checked_sub(PAUSE_AFTER_FAILURE));
        assert_eq!(rewritten(&mut keeper), 4);
        assert_eq!(rewritten(&mut keeper), 4);
        assert_eq!((keeper.failed_at, keeper.retainer.carried.lock().looked_at), (None, 40));
    }

    #[test]
    fn a_pace_is_held_on_average_and_none_waits_for_nothing() {
        let mut pace = Pace::new(Some(1_000));
        pace.took(50_000);
        pace.took(50_000);
        assert!((90..=100).contains(&pace.wait(false).as_secs()), "{:?}", pace.wait(false));
        pace.paid_at -= Duration::from_secs(200);
        assert_eq!(pace.wait(false), Duration::ZERO);
        let mut pace = Pace::new(None);
        pace.took(u64::MAX);
        assert_eq!(pace.wait(true), Duration::ZERO);
    }

    #[test]
    fn work_is_slower_while_others_are_busy_and_at_its_pace_afterwards() {
        let mut pace = Pace::new(Some(1_600));
        pace.took(16_000);
        assert!((150..=160).contains(&pace.wait(true).as_secs()), "{:?}", pace.wait(true));
        pace.paid_at -= Duration::from_secs(80);
        assert!((70..=80).contains(&pace.wait(true).as_secs()), "{:?}", pace.wait(true));
        assert!((1..=5).contains(&pace.wait(false).as_secs()), "{:?}", pace.wait(false));
    }

    #[test]
    fn others_are_busy_with_what_this_thread_did_not_do() {
        let (second, cores) = (Duration::from_secs(1), thread::available_parallelism().map_or(1, usize::from) as u32);
        assert!(is_busy(second * cores / 4, second));
        assert!(!is_busy(second * cores / 16, second));

        let before = Others::cpu_time();
        let spin = |time: Duration| {
            let own = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
            let end = own() + time;
            while own() < end {}
        };
        thread::spawn(move || spin(Duration::from_millis(50))).join().unwrap();
        let after = Others::cpu_time();
        assert!(after - before >= Duration::from_millis(50), "{before:?}, {after:?}");
    }
}
