//! Telling the operator what the log has lost: soon after it was opened, and when more is found. And what is lost as
//! `/status` shows it, of REST and of the admin server.
//!
//! Owns a thread that looks through the lists of all segments after everything serves, so that a start takes as long
//! whatever the size of the log; then it checks the blocks at a slow pace, and again every day. It looks through the lists
//! again after the log was recovered in place, and now and then while something is lost: files may have been put back.
//! What it and the readers find is in the log's own [`Losses`](sidecar_log_format::Losses), which `/status`, `/ready` and
//! `/metrics` read; only the log lines are made here.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde::Serialize;
use sidecar_log_format::{Log, LossKind, LostRange, Sequence};
use tracing::{error, info, warn};

use super::thread::{Stoppable, Stopped};

/// How often it is looked whether more is known to be lost.
const PERIOD: Duration = Duration::from_secs(5);
/// How long until the lists are looked through again while something is lost.
const SURVEY_PERIOD: Duration = Duration::from_secs(600);
/// The same after an error.
const RETRY_PERIOD: Duration = Duration::from_secs(60);
/// How long after a check of all blocks the next one begins.
const CHECK_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How fast blocks are read for that.
const CHECKED_BYTES_PER_SECOND: f64 = (16 << 20) as f64;
/// Shorter waits are put together.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// How many ranges get a line of their own at a time; all are counted.
const RANGES_LOGGED_MAX: usize = 10;
/// How many ranges `/status` shows; all are counted.
const RANGES_SHOWN_MAX: usize = 100;

/// Events that were stored and are lost, as `/status` shows them.
#[derive(Debug, Serialize)]
pub(crate) struct Lost {
    /// How many no segment holds.
    missing: u64,
    /// How many are in a damaged place.
    damaged: u64,
    /// How many a mark in the log names.
    marked: u64,
    /// The first hundred ranges.
    ranges: Vec<LostRange>,
}

impl Lost {
    /// What is known now, with the reasons that operators read.
    pub(crate) fn of(log: &Log) -> Lost {
        let losses = log.losses();
        Lost {
            missing: losses.events(LossKind::Missing),
            damaged: losses.events(LossKind::Damaged),
            marked: losses.events(LossKind::Marked),
            ranges: losses.ranges().iter().take(RANGES_SHOWN_MAX).cloned().collect(),
        }
    }

    /// The same with the reasons that clients may read.
    pub(crate) fn for_clients(mut self) -> Lost {
        for range in &mut self.ranges {
            range.kind.for_clients().clone_into(&mut range.reason);
        }
        self
    }
}

/// The running thread; it ends, before the next segment or block, when this is dropped.
pub(crate) struct LossWatch(#[expect(dead_code, reason = "it is held for its end")] Stoppable);

impl LossWatch {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(crate) fn start(log: Log) -> std::io::Result<Self> {
        let run = move |stopped| {
            let logged = Logged::default();
            let mut watch = Watch { log, stopped, logged, generation: 0, is_announced: false, check_fails: false };
            // Its panic is on standard error already.
            while catch_unwind(AssertUnwindSafe(|| watch.run())).is_err() {
                error!(retry = ?RETRY_PERIOD, "the search for losses has panicked: this is a mistake in Sidecar, please report it");
                if watch.stopped.wait(RETRY_PERIOD).is_break() {
                    return;
                }
            }
        };
        Stoppable::start("losses", run).map(LossWatch)
    }
}

struct Watch {
    log: Log,
    stopped: Stopped,
    logged: Logged,
    /// Of the losses, when the last survey began.
    generation: u64,
    /// Whether it was reported that all segments are there, or which are not.
    is_announced: bool,
    /// Whether the blocks could not be checked the last time.
    check_fails: bool,
}

impl Watch {
    /// Surveys and checks until the thread is to end.
    fn run(&mut self) -> ControlFlow<()> {
        let mut next_survey = Some(Instant::now());
        let mut next_check = Instant::now();
        loop {
            if next_survey.is_some_and(|at| at <= Instant::now()) || self.log.losses_generation() != self.generation {
                next_survey = self.survey()?.map(|wait| Instant::now() + wait);
            }
            self.logged.report(&self.log);
            if next_survey.is_none() && !self.logged.ranges.is_empty() {
                next_survey = Some(Instant::now() + SURVEY_PERIOD);
            }
            if next_check <= Instant::now() {
                next_check = Instant::now() + self.check()?;
                continue;
            }
            self.stopped.wait(PERIOD)?;
        }
    }

    /// Looks through the lists; returns after what time to do so again, if that is known.
    fn survey(&mut self) -> ControlFlow<(), Option<Duration>> {
        self.generation = self.log.losses_generation();
        let mut step = ControlFlow::Continue(());
        let found = self.log.find_losses(&mut || {
            step = self.stopped.wait(Duration::ZERO);
            step
        });
        step?;
        self.logged.report(&self.log);
        ControlFlow::Continue(match found {
            Ok(()) => {
                if !self.is_announced && self.logged.ranges.is_empty() {
                    info!("all segments of the log are there");
                }
                self.is_announced = true;
                None
            }
            Err(error) => {
                warn!(%error, retry = ?RETRY_PERIOD, "the log could not be looked through for losses");
                Some(RETRY_PERIOD)
            }
        })
    }

    /// Checks all blocks at a slow pace; returns after what time to do so again.
    fn check(&mut self) -> ControlFlow<(), Duration> {
        let Watch { log, stopped, logged, generation, check_fails, .. } = self;
        let mut step = ControlFlow::Continue(());
        let mut debt = Duration::ZERO;
        let mut reported_at = Instant::now();
        let mut is_interrupted = false;
        let checked = log.check_blocks(&mut |bytes| {
            debt += Duration::from_secs_f64(bytes as f64 / CHECKED_BYTES_PER_SECOND);
            let pause = if debt < PAUSE_MIN { Duration::ZERO } else { std::mem::take(&mut debt) };
            step = stopped.wait(pause);
            step?;
            if reported_at.elapsed() >= PERIOD {
                reported_at = Instant::now();
                logged.report(log);
            }
            // What is lost now must be known soon.
            is_interrupted = log.losses_generation() != *generation;
            if is_interrupted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        step?;
        logged.report(log);
        ControlFlow::Continue(match checked {
            Ok(()) if is_interrupted => Duration::ZERO,
            Ok(()) => {
                if std::mem::take(check_fails) {
                    info!("all blocks of the log could be checked again");
                }
                CHECK_PERIOD
            }
            Err(error) => {
                *check_fails = true;
                warn!(%error, retry = ?SURVEY_PERIOD, "the blocks of the log could not be checked");
                SURVEY_PERIOD
            }
        })
    }
}

/// What was logged for the operator.
#[derive(Default)]
struct Logged {
    /// The first sequences of the ranges that are lost, and the last ones.
    ranges: BTreeMap<Sequence, Sequence>,
    /// Of the losses, when they were last looked at.
    version: Option<u64>,
}

impl Logged {
    /// Logs the ranges that were not logged before.
    fn report(&mut self, log: &Log) {
        let version = log.losses_version();
        if self.version.replace(version) == Some(version) {
            return;
        }
        let losses = log.losses();
        let new: Vec<_> = losses.unmarked().filter(|lost| !self.covers(lost)).collect();
        for lost in new.iter().take(RANGES_LOGGED_MAX) {
            let LostRange { first_sequence, last_sequence, kind, reason } = lost;
            let (kind, events) = (kind.name(), lost.events());
            error!(first_sequence, last_sequence, events, kind, reason, "stored events are lost");
        }
        let more = new.len().saturating_sub(RANGES_LOGGED_MAX);
        if more > 0 {
            error!(ranges = more, "stored events are lost in more ranges");
        }
        if !new.is_empty() {
            warn!(
                "the rest of the log is served; put a back-up of the files in their place and restart the sidecar, or \
                 stop it and run `sidecar-log repair`, which marks what is lost"
            );
        }
        if !self.ranges.is_empty() && losses.unmarked().next().is_none() {
            info!("no stored event is lost any more, but for those that a mark in the log names");
        }
        self.ranges = losses.unmarked().map(|lost| (lost.first_sequence, lost.last_sequence)).collect();
    }

    /// Retention may have cut a range.
    fn covers(&self, lost: &LostRange) -> bool {
        let before = self.ranges.range(..=lost.first_sequence).next_back();
        before.is_some_and(|(_, &last)| lost.last_sequence <= last)
    }
}
