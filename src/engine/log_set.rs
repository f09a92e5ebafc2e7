//! The logs of one process, each with a life of its own.
//!
//! Owns the task that each log lives in. A log whose storage fails stops and starts again without the others, and its
//! readers stay where they are; ports and servers are not in here.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error};

use super::ingest::{self, IngestError, LiveLog, Run};
use super::log_life::{Closing, LogLife, report, report_content};
use super::losses::LossWatch;

pub use super::log_life::Sources;

/// The logs of one process that are fed.
#[derive(Default)]
pub struct LogSet {
    /// Cancelled when all logs are to be closed.
    end: CancellationToken,
    lives: JoinSet<(Box<str>, Closing)>,
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
        let (name, life) = (name.into(), LogLife::new(live, sources, self.end.clone()));
        self.lives.spawn(async move { (name, life.live(run).await) }.instrument(span));
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
                    error!("the life of a log has ended: {panic}; this is a mistake in Sidecar, please report it");
                }
            }
        }
    }

    /// Ends all logs: what was received is stored, and each is closed.
    pub async fn close(mut self) {
        self.end.cancel();
        while self.next_over().await.is_some() {}
        join_all(self.closings.into_iter().map(Closing::wait)).await;
    }
}
