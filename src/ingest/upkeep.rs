//! Upkeep of sealed segments: one thread of low priority beside the committer.
//!
//! It drops what retention has no room for ([`retention`]), and makes the rest small: with compaction, every segment is
//! rewritten once into large blocks at a high level, at a pace that nobody else on the machine feels, and not at all while
//! events come in faster than that; without, only the small blocks of quiet times are merged. The committer goes on and
//! readers read meanwhile; nothing waits for this thread.

mod forgetting;
pub(super) mod retention;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sidecar_log_format::{Maintenance, RewriteOptions, Sequence};
use tracing::{info, warn};

use super::counters::Counters;
use retention::Retainer;

/// How often newly sealed segments, and old ones, are looked for. A look without news takes no I/O.
const PERIOD: Duration = Duration::from_secs(1);
/// The niceness of this thread: it gets what others leave.
const NICENESS: i32 = 19;

/// Which sealed segments are rewritten, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewriting {
    /// Those whose blocks are small, at once.
    Merge(RewriteOptions),
    /// All, once.
    Compact {
        /// How.
        options: RewriteOptions,
        /// Wire bytes a second that are taken in at most, on average.
        bytes_per_second: u64,
    },
}

/// The running thread; it ends, and lets go of the log, when this is dropped.
pub(super) struct Upkeep {
    /// Hung up to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts the thread.
    pub(super) fn start(
        maintenance: Maintenance,
        rewriting: Rewriting,
        free_bytes_min: u64,
        retainer: Retainer,
        counters: Arc<Counters>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let pace = match rewriting {
            Rewriting::Merge(_) => None,
            Rewriting::Compact { bytes_per_second, .. } => Some(bytes_per_second),
        };
        let mut keeper = Keeper {
            maintenance,
            rewriting,
            free_bytes_min,
            retainer,
            inflow: Inflow::new(Arc::clone(&counters)),
            counters,
            stopped: Stopped(stopped),
            pace: Pace { bytes_per_second: pace, due: Instant::now() },
            looked_at: 0,
        };
        let thread = thread::Builder::new().name("upkeep".to_owned()).spawn(move || keeper.run())?;
        Ok(Upkeep { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has told of its failures itself.
            let _ = thread.join();
        }
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
    inflow: Inflow,
    /// Segments before this one were rewritten, or need not be.
    looked_at: Sequence,
}

impl Keeper {
    fn run(&mut self) {
        // On Linux, of this thread alone. Without the permission it is only less polite.
        let _ = rustix::process::nice(NICENESS);
        while self.stopped.wait(PERIOD).is_continue() {
            self.retainer.look(&self.maintenance);
            if self.rewrite_what_is_due().is_break() {
                return;
            }
        }
    }

    fn rewrite_what_is_due(&mut self) -> ControlFlow<()> {
        // Asked for before the look, so that a segment sealed meanwhile is looked at the next time.
        let next = self.maintenance.unsealed_segment().unwrap_or(self.looked_at);
        if next == self.looked_at || self.inflow.outruns(&self.pace) {
            return ControlFlow::Continue(());
        }
        let due = match self.rewriting {
            Rewriting::Merge(options) => {
                self.maintenance.segments_with_small_blocks(self.looked_at, options.block_bytes)
            }
            Rewriting::Compact { options, .. } => self.maintenance.segments_to_compact(self.looked_at, options),
        };
        match due {
            Ok(due) => due.into_iter().try_for_each(|segment| self.rewrite(segment))?,
            Err(error) => warn!("segments from {} on are not made smaller: {error}", self.looked_at),
        }
        self.looked_at = next;
        ControlFlow::Continue(())
    }

    fn rewrite(&mut self, segment: Sequence) -> ControlFlow<()> {
        if !self.has_room_for(segment) {
            info!("segment {segment} is not made smaller: for a while that takes more room than the device has");
            return ControlFlow::Continue(());
        }
        let Keeper { maintenance, rewriting, retainer, stopped, pace, inflow, .. } = self;
        let (Rewriting::Merge(options) | Rewriting::Compact { options, .. }) = *rewriting;
        let mut last_look = Instant::now();
        let result = maintenance.rewrite_at_pace(segment, options, &mut |bytes| {
            pace.took(bytes);
            loop {
                // A large segment takes an hour; what is old must not wait for that.
                if last_look.elapsed() >= PERIOD {
                    last_look = Instant::now();
                    retainer.look(maintenance);
                }
                let wait = if inflow.outruns(pace) { Duration::MAX } else { pace.wait() };
                stopped.wait(wait.min(PERIOD))?;
                if wait <= PERIOD {
                    return ControlFlow::Continue(());
                }
            }
        });
        match result {
            Ok(Some(done)) => {
                self.retainer.was_rewritten(segment);
                self.counters.rewritten_segments.add(1);
                self.counters.rewritten_bytes_before.add(done.bytes_before);
                self.counters.rewritten_bytes_after.add(done.bytes_after);
                info!("segment {segment} was made smaller: {} bytes became {}", done.bytes_before, done.bytes_after);
            }
            Ok(None) => {}
            // It stays as it is: nothing is lost but room.
            Err(error) => warn!("segment {segment} is not made smaller: {error}"),
        }
        self.stopped.wait(Duration::ZERO)
    }

    /// The old file and the new one are there together for a moment, and ingest must not wait for that.
    fn has_room_for(&self, segment: Sequence) -> bool {
        let size = self.maintenance.describe(segment).map_or(0, |segment| segment.bytes);
        self.maintenance.free_bytes().is_ok_and(|free| free >= self.free_bytes_min.saturating_add(2 * size))
    }
}

/// Tells whether the thread is to end.
struct Stopped(mpsc::Receiver<()>);

impl Stopped {
    /// Waits, unless the thread is to end.
    fn wait(&self, time: Duration) -> ControlFlow<()> {
        match self.0.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

/// Spreads work over time.
struct Pace {
    /// `None`: as fast as it goes.
    bytes_per_second: Option<u64>,
    /// When what was done so far should have been done.
    due: Instant,
}

impl Pace {
    fn took(&mut self, bytes: u64) {
        if let Some(rate) = self.bytes_per_second {
            // Time that was not used is not made up for.
            self.due = self.due.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        }
    }

    fn wait(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }
}

/// How fast events come in: a node that is caught up with needs the machine more than old segments do.
struct Inflow {
    counters: Arc<Counters>,
    looked_at: Instant,
    stored_bytes: u64,
    bytes_per_second: f64,
}

impl Inflow {
    fn new(counters: Arc<Counters>) -> Self {
        Inflow { stored_bytes: counters.stored_bytes.get(), counters, looked_at: Instant::now(), bytes_per_second: 0.0 }
    }

    /// Whether work at this pace would not keep up. It is measured over at least one [`PERIOD`].
    fn outruns(&mut self, pace: &Pace) -> bool {
        let elapsed = self.looked_at.elapsed();
        if elapsed >= PERIOD {
            let before = std::mem::replace(&mut self.stored_bytes, self.counters.stored_bytes.get());
            self.bytes_per_second = (self.stored_bytes - before) as f64 / elapsed.as_secs_f64();
            self.looked_at = Instant::now();
        }
        pace.bytes_per_second.is_some_and(|bytes_per_second| self.bytes_per_second > bytes_per_second as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_waits_while_events_come_in_faster_than_its_pace() {
        let counters = Arc::new(Counters::default());
        let mut inflow = Inflow::new(Arc::clone(&counters));
        let mut outruns = |stored, bytes_per_second| {
            counters.stored_bytes.add(stored);
            inflow.looked_at -= 10 * PERIOD;
            inflow.outruns(&Pace { bytes_per_second, due: Instant::now() })
        };
        assert!(outruns(20_000, Some(1_000)));
        assert!(!outruns(20_000, Some(3_000)));
        assert!(!outruns(20_000, None));
        assert!(!outruns(0, Some(1_000)));
    }

    #[test]
    fn a_pace_is_held_on_average_and_none_waits_for_nothing() {
        let mut pace = Pace { bytes_per_second: Some(1_000), due: Instant::now() };
        pace.took(50_000);
        pace.took(50_000);
        assert!((90..=100).contains(&pace.wait().as_secs()), "{:?}", pace.wait());
        let mut pace = Pace { bytes_per_second: None, due: Instant::now() };
        pace.took(u64::MAX);
        assert_eq!(pace.wait(), Duration::ZERO);
    }
}
