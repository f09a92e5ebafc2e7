//! One log's life in this process: its sources are read and their events stored, until the end is asked for or until all
//! sources are gone.
//!
//! A failure of the storage ends a run of ingest, and nothing else: ports, readers and counters stay as they are. The log is
//! recovered from disk in place, again and again until that succeeds, and then the sources are read again. The same follows
//! when a source has panicked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sidecar_log_format::{Log, Recovery};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, error, info, warn};

use super::backoff::Backoff;
use super::ingest::{IngestError, LiveLog, Run};
use super::source::{Batch, End};
use super::storage_folder::segments;

/// How long closing the log may take before the process ends without (nothing durable is lost then).
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);
/// Pauses before the log is opened again after its storage has failed. They stay short: looking costs little, and a volume
/// that is mounted again shall not wait.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Starts the sources of a log, which send what they hear. They are started again after each failure of the log's storage.
pub type Sources = Box<dyn Fn(&mpsc::Sender<Batch>) -> JoinSet<End> + Send + Sync>;

/// A log and the sources whose events it stores.
pub(super) struct LogLife {
    live: Arc<LiveLog>,
    sources: Sources,
    /// Cancelled when the log is to be closed.
    end: CancellationToken,
    backoff: Backoff,
}

/// A log whose life is over, and which is being closed.
pub(super) struct Closing {
    live: Arc<LiveLog>,
    state: Ending,
}

/// How far the closing of a log has come.
enum Ending {
    /// The last run closes it, and says when it has.
    Runs(oneshot::Receiver<Result<(), IngestError>>),
    /// The last run has closed it.
    Closed,
    /// No run was left to close it.
    Unclosed,
}

/// What ended a run.
enum First {
    /// The end was asked for.
    Asked,
    /// All sources ended by themselves, or one has panicked.
    Sources(Result<(), JoinError>),
    /// Ingest, which has closed the log or failed.
    Ingest(Result<(), IngestError>),
}

/// How a run of ingest ended.
enum RunEnd {
    Over(Ending),
    Failed(IngestError),
}

impl LogLife {
    pub(super) fn new(live: Arc<LiveLog>, sources: Sources, end: CancellationToken) -> Self {
        LogLife { live, sources, end, backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX) }
    }

    /// Begins with `run` and lives until the end is asked for, or until every source has ended by itself.
    pub(super) async fn live(mut self, mut run: Run) -> Closing {
        loop {
            let begun = Instant::now();
            let failure = match self.run(run).await {
                RunEnd::Over(state) => return Closing { live: self.live, state },
                RunEnd::Failed(failure) => failure,
            };
            if begun.elapsed() > PAUSE_MAX {
                self.backoff.reset();
            }
            let end = self.end.clone();
            run = tokio::select! {
                run = self.resume(&failure) => run,
                () = end.cancelled() => {
                    return Closing { live: self.live, state: Ending::Unclosed };
                }
            };
        }
    }

    /// Stores what the sources say.
    async fn run(&self, run: Run) -> RunEnd {
        let Run { batches, mut ended, .. } = run;
        let mut sources = (self.sources)(&batches);
        drop(batches);
        let first = tokio::select! {
            () = self.end.cancelled() => First::Asked,
            sources_ended = all_ended(&mut sources) => First::Sources(sources_ended),
            // The thread ended without a report.
            end = &mut ended => First::Ingest(end.unwrap_or(Err(IngestError::Panicked))),
        };
        // Dropping the sources drops the last senders: ingest stores what it has and closes the log.
        sources.shutdown().await;
        match first {
            First::Asked | First::Sources(Ok(())) => RunEnd::Over(Ending::Runs(ended)),
            First::Sources(Err(panic)) => {
                // The next run opens the log that this one closes. What hangs meanwhile, opening it again reports.
                let _closed = tokio::time::timeout(CLOSE_TIME_MAX, ended).await;
                RunEnd::Failed(IngestError::SourcePanicked { message: panic.to_string() })
            }
            First::Ingest(Ok(())) => RunEnd::Over(Ending::Closed),
            First::Ingest(Err(failure)) => RunEnd::Failed(failure),
        }
    }

    /// Opens the log again until that succeeds. What keeps it from that is logged once, not with every attempt.
    async fn resume(&mut self, failure: &IngestError) -> Run {
        let begun = Instant::now();
        let mut reason = failure.to_string();
        // What `/ready` and `/metrics` say holds before the operator reads of it.
        self.live.counters.stopped.set(Some(reason.clone()));
        error!(reason, "storing has stopped, serving continues; the log is opened again as soon as its storage works");
        loop {
            tokio::time::sleep(self.backoff.take()).await;
            let live = Arc::clone(&self.live);
            let span = Span::current();
            // A disk that hangs must not hold up what serves.
            let failure = match tokio::task::spawn_blocking(move || span.in_scope(|| live.resume())).await {
                Ok(Ok(run)) => {
                    report(&run.recovery);
                    self.live.counters.stopped.set(None);
                    let (after, next_id) = (begun.elapsed(), self.live.log.head().next_sequence);
                    info!(?after, next_id, "storing resumes, the nodes are read again");
                    return run;
                }
                Ok(Err(failure)) => failure.to_string(),
                Err(panic) => {
                    format!("opening the log has failed: {panic}; this is a mistake in Sidecar, please report it")
                }
            };
            if failure == reason {
                debug!(reason, "the log cannot be opened yet");
            } else {
                self.live.counters.stopped.set(Some(failure.clone()));
                error!(reason = failure, "the log cannot be opened yet");
                reason = failure;
            }
        }
    }
}

impl Closing {
    /// Waits until the log is closed, and says what it holds.
    pub(super) async fn wait(self) {
        let next = |live: &LiveLog| live.log.head().next_sequence;
        let ended = match self.state {
            Ending::Runs(ended) => ended,
            Ending::Closed => return info!("stopped, next id {}", next(&self.live)),
            Ending::Unclosed => {
                return warn!("stopped, next id {}; the log is recovered at the next start", next(&self.live));
            }
        };
        match tokio::time::timeout(CLOSE_TIME_MAX, ended).await {
            Ok(Ok(Ok(()))) => info!("stopped, next id {}", next(&self.live)),
            Ok(Ok(Err(failure))) => error!("closing the log: {failure}; it is recovered at the next start"),
            Ok(Err(_)) => error!("closing the log: {}; it is recovered at the next start", IngestError::Panicked),
            Err(_) => warn!("the log did not close within {CLOSE_TIME_MAX:?}; it is recovered at the next start"),
        }
    }
}

/// Ends when every source has ended by itself, or one has panicked. One that ended because its receiver is gone never
/// counts: ingest has failed then, and is about to say why.
async fn all_ended(sources: &mut JoinSet<End>) -> Result<(), JoinError> {
    while let Some(end) = sources.join_next().await {
        if matches!(end?, End::ReceiverGone) {
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

/// What an opened log holds, for the operator.
pub(super) fn report_content(log: &Log, directory: &Path, took: Duration) {
    let next_id = log.head().next_sequence;
    let (segments, bytes) = segments(directory).ok().unzip();
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let folder = directory.display();
    info!(oldest = log.oldest(), next_id, segments, bytes, milliseconds, %folder, "the log is open");
}

/// What opening the log found, for the operator.
pub(super) fn report(recovery: &Recovery) {
    if recovery.created {
        info!("a new log begins");
    }
    if recovery.cut_bytes > 0 {
        let bytes = recovery.cut_bytes;
        info!(bytes, "cut a commit that was interrupted; nothing that was published is lost");
    }
    if let Some(lost) = &recovery.lost {
        let (from, to) = (lost.start, lost.end.saturating_sub(1));
        error!(from, to, next_id = lost.end, "events were stored and are gone; the log carries a mark");
    }
    if let Some(file) = &recovery.kept_aside {
        warn!(file, "unreadable bytes after the last stored event are kept beside the log's segments");
    }
    if let Some(reason) = &recovery.header_restored {
        error!(%reason, "the newest segment's header was damaged and is restored from its copy; check the disk");
    }
    for damage in &recovery.damage {
        error!("{damage}");
    }
    if recovery.copied {
        warn!(
            "this log is a copy: it continues under a new epoch, and sequences that the original gave out after the copy \
             was made come again; if an older copy was put back by mistake, stop the sidecar and put the newer files back"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::engine::testing::{connection, note, options};

    #[tokio::test]
    async fn a_source_that_panics_is_started_again_with_the_others_and_its_log_is_not_ready_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let (live, run) = LiveLog::open(options(folder.path())).unwrap();
        let live = Arc::new(live);
        let starts = Arc::new(AtomicU32::new(0));
        let started = Arc::clone(&starts);
        let stopped_at_second_start = Arc::new(std::sync::Mutex::new(None));
        let (seen, counters) = (Arc::clone(&stopped_at_second_start), Arc::clone(&live.counters));
        let sources: Sources = Box::new(move |batches| {
            let number = started.fetch_add(1, Ordering::Relaxed);
            let mut sources = JoinSet::new();
            let batches = batches.clone();
            if number > 0 {
                *seen.lock().unwrap() = Some(counters.reopened.get());
            }
            sources.spawn(async move {
                let events = vec![note(&number.to_string(), 0)];
                batches.send(Batch::Events { connection: Arc::new(connection("source")), events }).await.unwrap();
                assert!(number > 0, "a mistake in a source");
                std::future::pending().await
            });
            sources
        });
        let end = CancellationToken::new();
        let life = tokio::spawn(LogLife::new(Arc::clone(&live), sources, end.clone()).live(run));
        let mut committed = live.committed.clone();
        committed.wait_for(|head| head.next_sequence == 2).await.unwrap();
        assert_eq!(starts.load(Ordering::Relaxed), 2);
        assert_eq!(*stopped_at_second_start.lock().unwrap(), Some(1), "the log was opened again");
        end.cancel();
        life.await.unwrap().wait().await;
    }
}
