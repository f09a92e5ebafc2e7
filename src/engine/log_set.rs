//! The logs of one process, each with a life of its own.
//!
//! Owns the task that each log lives in. A log whose storage fails stops and starts again without the others, and its
//! readers stay where they are; ports and servers are not in here.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::task::{self, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, warn};

use super::ingest::{self, IngestError, LiveLog, Run};
use super::log_life::{Closing, LogLife, report, report_content};
use super::losses::LossWatch;
use super::thread;

pub use super::log_life::Sources;

/// How long the search for losses may take to end before the process ends without.
const SEARCH_END_TIME_MAX: Duration = Duration::from_secs(5);

/// The logs of one process that are fed.
#[derive(Default)]
pub struct LogSet {
    /// Cancelled when all logs are to be closed.
    end: CancellationToken,
    lives: JoinSet<(Box<str>, Closing)>,
    /// The logs of those lives.
    live: HashMap<task::Id, Arc<LiveLog>>,
    closings: Vec<Closing>,
    losses: Vec<LossWatch>,
}

/// A log that is open, and not fed yet.
pub struct OpenedLog {
    /// The log; its readers need nothing else.
    pub live: Arc<LiveLog>,
    run: Run,
    /// Names the log in the lines about it.
    span: Span,
}

impl OpenedLog {
    /// Opens a log, or makes it, and says what was found. Lines about it are written within `span`; where there is one log
    /// only, it needs no name.
    ///
    /// # Errors
    /// When the log cannot be opened or made, or no thread can be started. Must be called within a Tokio runtime.
    pub fn open(options: ingest::Options, span: Span) -> Result<OpenedLog, IngestError> {
        let (begun, directory) = (Instant::now(), options.log_directory.clone());
        let (live, run) = span.in_scope(|| {
            let (live, run) = LiveLog::open(options)?;
            report(&run.recovery);
            report_content(&live.log, &directory, begun.elapsed());
            Ok::<_, IngestError>((live, run))
        })?;
        Ok(OpenedLog { live: Arc::new(live), run, span })
    }
}

impl LogSet {
    /// Stores from now on what `sources` say, and looks for events that the log has lost.
    ///
    /// # Errors
    /// Where the system has no thread for that.
    pub fn start(&mut self, name: &str, opened: OpenedLog, sources: Sources) -> io::Result<()> {
        let OpenedLog { live, run, span } = opened;
        self.losses.push(span.in_scope(|| LossWatch::start(live.log.clone()))?);
        let (name, life) = (name.into(), LogLife::new(Arc::clone(&live), sources, self.end.clone()));
        let life = self.lives.spawn(async move { (name, life.live(run).await) }.instrument(span));
        self.live.insert(life.id(), live);
        Ok(())
    }

    /// Waits for the next log whose sources have all ended by themselves, and names it; `None` once all have. Nothing is
    /// lost when it is not waited for to the end.
    pub async fn next_over(&mut self) -> Option<Box<str>> {
        loop {
            match self.lives.join_next().await? {
                Ok((name, closing)) => {
                    self.closings.push(closing);
                    return Some(name);
                }
                Err(panic) => {
                    let reason = format!("{panic}; this is a mistake in Sidecar, please report it and restart");
                    let log = self.live.get(&panic.id()).map(|live| {
                        live.counters.stopped.set(Some(reason.clone()));
                        live.log_directory().display().to_string()
                    });
                    error!(log, reason, "a log stores nothing any more");
                }
            }
        }
    }

    /// Ends all logs: what was received is stored, and each is closed.
    pub async fn close(mut self) {
        self.end.cancel();
        while self.next_over().await.is_some() {}
        join_all(self.closings.into_iter().map(Closing::wait)).await;
        end_searches(self.losses).await;
    }
}

/// Ends the threads that look for losses, but for those that wait for a disk that hangs.
async fn end_searches(losses: Vec<LossWatch>) {
    let (end, ended) = oneshot::channel::<()>();
    let ending = thread::start("losses_end", move || {
        drop(losses);
        drop(end);
    });
    if ending.is_err() || timeout(SEARCH_END_TIME_MAX, ended).await.is_err() {
        warn!("a search for lost events did not end, and the process ends without it; check the disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::failing_reads::log_of_blocks;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_in_a_search_for_losses_does_not_hold_up_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (log, reads) = log_of_blocks(folder.path(), &[100]);
        let hanging = reads.hang();
        end_searches(vec![LossWatch::start(log).unwrap()]).await;
        drop(hanging);
    }
}
