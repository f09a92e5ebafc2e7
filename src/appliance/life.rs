//! One log's life in this process: the nodes are read and their events stored, until a signal or until all nodes are gone.
//!
//! A failure of the storage ends a run of ingest, and nothing else: ports, readers and counters stay as they are. The log is
//! recovered from disk in place, again and again until that succeeds, and then the nodes are read again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use sidecar_log_format::Recovery;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::Node;
use crate::casper::source::{self, End};
use crate::engine::ingest::{IngestError, LiveLog, Run};
use crate::engine::source::Batch;

/// How long closing the log may take before the process ends without (nothing durable is lost then).
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);
/// Pauses before the log is opened again after its storage has failed. They stay short: looking costs little, and a volume
/// that is mounted again shall not wait.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Why the life of a log is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// SIGTERM or SIGINT.
    Signal,
    /// Every node's listener has ended.
    NodesUnavailable,
}

/// The log and the nodes whose events it stores.
pub(super) struct LogLife {
    live: Arc<LiveLog>,
    nodes: Vec<Node>,
    pause: Duration,
}

/// A log that is being closed.
pub(super) struct Closing {
    live: Arc<LiveLog>,
    /// `None` where no run was left to close it.
    ended: Option<oneshot::Receiver<Result<(), IngestError>>>,
}

/// How a run of ingest ended.
enum RunEnd {
    Over(Outcome, oneshot::Receiver<Result<(), IngestError>>),
    Failed(IngestError),
}

impl LogLife {
    pub(super) fn new(live: Arc<LiveLog>, nodes: Vec<Node>) -> Self {
        LogLife { live, nodes, pause: PAUSE_MIN }
    }

    /// Begins with `run` and lives until `end`, or until every node's listener has ended by itself.
    pub(super) async fn live(
        mut self,
        mut run: Run,
        end: impl Future<Output = ()>,
    ) -> anyhow::Result<(Outcome, Closing)> {
        tokio::pin!(end);
        loop {
            let begun = Instant::now();
            let failure = match self.run(run, end.as_mut()).await? {
                RunEnd::Over(outcome, ended) => return Ok((outcome, self.closing(Some(ended)))),
                RunEnd::Failed(failure) => failure,
            };
            if begun.elapsed() > PAUSE_MAX {
                self.pause = PAUSE_MIN;
            }
            run = tokio::select! {
                run = self.resume(&failure) => run,
                () = end.as_mut() => return Ok((Outcome::Signal, self.closing(None))),
            };
        }
    }

    /// Stores what the nodes say.
    async fn run(&self, run: Run, end: impl Future<Output = ()>) -> anyhow::Result<RunEnd> {
        let Run { batches, mut ended, .. } = run;
        let mut listeners = self.listen(&batches);
        drop(batches);
        let failed_or_over = tokio::select! {
            () = end => Ok(Outcome::Signal),
            () = all_ended(&mut listeners) => Ok(Outcome::NodesUnavailable),
            result = &mut ended => match result {
                Ok(Err(failure)) => Err(failure),
                Ok(Ok(())) => Ok(Outcome::NodesUnavailable),
                Err(_) => bail!("the committer's thread has panicked; this is a mistake in Sidecar, please report it"),
            },
        };
        // Dropping the listeners drops the last senders: ingest stores what it has and closes the log.
        listeners.shutdown().await;
        Ok(match failed_or_over {
            Ok(outcome) => RunEnd::Over(outcome, ended),
            Err(failure) => RunEnd::Failed(failure),
        })
    }

    fn listen(&self, batches: &mpsc::Sender<Batch>) -> JoinSet<End> {
        let run = |node: &Node| source::run(node.options.clone(), batches.clone(), Arc::clone(&node.source.counters));
        self.nodes.iter().map(run).collect()
    }

    /// Opens the log again until that succeeds. What keeps it from that is logged once, not with every attempt.
    async fn resume(&mut self, failure: &IngestError) -> Run {
        let begun = Instant::now();
        let mut reason = failure.to_string();
        // What `/ready` and `/metrics` say holds before the operator reads of it.
        self.live.counters.stopped.set(Some(reason.clone()));
        error!(reason, "storing has stopped, serving continues; the log is opened again as soon as its storage works");
        loop {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            let live = Arc::clone(&self.live);
            // A disk that hangs must not hold up what serves.
            let failure = match tokio::task::spawn_blocking(move || live.resume()).await {
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

    fn closing(&self, ended: Option<oneshot::Receiver<Result<(), IngestError>>>) -> Closing {
        Closing { live: Arc::clone(&self.live), ended }
    }
}

impl Closing {
    /// Waits until the log is closed, and says what it holds.
    pub(super) async fn wait(self) {
        let next = |live: &LiveLog| live.log.head().next_sequence;
        let Some(ended) = self.ended else {
            return warn!("stopped, next id {}; the log is recovered at the next start", next(&self.live));
        };
        match tokio::time::timeout(CLOSE_TIME_MAX, ended).await {
            Ok(Ok(Err(failure))) => error!("closing the log: {failure}; it is recovered at the next start"),
            Err(_) => warn!("the log did not close within {CLOSE_TIME_MAX:?}; it is recovered at the next start"),
            // The end was received when it was the reason.
            Ok(_) => info!("stopped, next id {}", next(&self.live)),
        }
    }
}

/// Ends when every node's listener has ended by itself. One that ended because nobody takes its events never counts: ingest
/// has failed then, and is about to say why.
async fn all_ended(listeners: &mut JoinSet<End>) {
    while let Some(end) = listeners.join_next().await {
        if matches!(end, Ok(End::ReceiverGone)) {
            std::future::pending::<()>().await;
        }
    }
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
        warn!("what could not be read after the last stored event is kept in {file}, beside the log's segments");
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
