//! Telling the operator what the log has lost: once after it was opened, and when readers meet more.
//!
//! Owns a thread that looks through the segments after everything serves, so that a start takes as long whatever the size
//! of the log. What it and the readers find is in the log's own [`Losses`](sidecar_log_format::Losses), which `/status`,
//! `/ready` and `/metrics` read; only the log lines are made here.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sidecar_log_format::{Log, LostRange, Sequence};
use tracing::{error, info, warn};

/// How often it is looked whether readers have met more.
const PERIOD: Duration = Duration::from_secs(5);
/// How many ranges get a line of their own at a time; all are counted.
const RANGES_LOGGED_MAX: usize = 10;

/// The running thread; it ends when this is dropped.
pub(crate) struct LossWatch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LossWatch {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(crate) fn start(log: Log) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("losses".to_owned()).spawn(move || watch(&log, &stopped))?;
        Ok(LossWatch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LossWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends before the next segment, and has nothing to report.
            let _ = thread.join();
        }
    }
}

fn watch(log: &Log, stopped: &mpsc::Receiver<()>) {
    let wait = |time| match stopped.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let mut is_stopped = false;
    let found = log.find_losses(&mut || {
        let step = wait(Duration::ZERO);
        is_stopped = step.is_break();
        step
    });
    if is_stopped {
        return;
    }
    let mut logged = Vec::new();
    report(log, &mut logged);
    match found {
        Ok(()) if logged.is_empty() => info!("all segments of the log are there"),
        Ok(()) => {}
        Err(error) => warn!(%error, "the log could not be looked through for losses; the next start tries again"),
    }
    while wait(PERIOD).is_continue() {
        report(log, &mut logged);
    }
}

/// Logs the ranges that were not logged before.
fn report(log: &Log, logged: &mut Vec<(Sequence, Sequence)>) {
    let losses = log.losses();
    let place = |lost: &LostRange| (lost.first_sequence, lost.last_sequence);
    let new: Vec<_> = losses.unmarked().filter(|lost| !logged.contains(&place(lost))).collect();
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
            "the rest of the log is served; put a back-up of the files in their place, or stop the sidecar and run \
             `sidecar-log repair`, which marks what is lost"
        );
    }
    *logged = losses.unmarked().map(place).collect();
}
