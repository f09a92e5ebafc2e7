//! The one call that feeds a recorded stream's log: subscribe, read, and subscribe again.
//!
//! gRPC streams have no replay. What an upstream sent between two subscriptions is a gap, and the log marks from when to when.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use prost_reflect::DynamicMessage;
use sidecar_log_format::{ApiVersion, Log, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::{info, warn};

use super::counters::StreamCounters;
use super::descriptors::Schema;
use super::json::JsonForm;
use super::options::StreamOptions;
use super::recorded::{Recorded, RecordingError, Stored, subscription};
use super::rules::Rpc;
use super::upstream::{Call, DEAD_UNNOTICED_MAX, Upstream};
use crate::engine::backoff::Backoff;
use crate::engine::counters::microseconds;
use crate::engine::ingest::newest_received;
use crate::engine::source::{BATCH_BYTES, BATCH_EVENTS_MAX, Batch, Connection, End, Received, now};

/// Pauses between attempts to subscribe.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A subscription that has lasted so long begins with the shortest pause again. One that ends at once every time, as of a
/// method that lists what there is, is not asked for over and over.
const STEADY: Duration = Duration::from_secs(10);

/// A recorded stream's subscription.
pub(super) struct Subscription {
    pub(super) options: StreamOptions,
    pub(super) upstream: Arc<Upstream>,
    pub(super) place: usize,
    pub(super) recorded: Arc<Recorded>,
    pub(super) json: JsonForm,
    pub(super) counters: Arc<StreamCounters>,
    pub(super) log: Log,
}

/// Why a subscription is over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the upstream has ended the stream")]
    Ended,
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error("the receiver of the events is gone")]
    ReceiverGone,
}

impl Subscription {
    /// Reads the stream until ingest has ended. May be dropped at any moment.
    pub(super) async fn run(&self, out: mpsc::Sender<Batch>) -> End {
        tokio::select! {
            end = self.listen(&out) => end,
            () = out.closed() => End::ReceiverGone,
        }
    }

    async fn listen(&self, out: &mpsc::Sender<Batch>) -> End {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut reason = None;
        // The log's newest event bounds what earlier runs received.
        let mut received_until = newest_received(&self.log);
        loop {
            let begun = Instant::now();
            let lost = self.attempt(out, &mut received_until).await;
            self.counters.is_connected.set(false);
            if let Lost::ReceiverGone = lost {
                return End::ReceiverGone;
            }
            if begun.elapsed() >= STEADY {
                backoff.reset();
                reason = None;
            }
            // The same reason repeated is logged once.
            let text = lost.to_string();
            if reason.as_ref() != Some(&text) {
                let (stream, upstream) = (&self.options.name, self.upstream.address());
                warn!(stream, upstream, reason = text, "the recorded stream is interrupted; it is subscribed to again");
                reason = Some(text);
            }
            self.counters.reconnects.add(1);
            tokio::time::sleep(backoff.take()).await;
        }
    }

    async fn attempt(&self, out: &mpsc::Sender<Batch>, received_until: &mut Option<Timestamp>) -> Lost {
        let (rpc, mut call) = match self.subscribe().await {
            Ok(subscribed) => subscribed,
            Err(lost) => return lost,
        };
        self.counters.is_connected.set(true);
        let (stream, upstream) = (&self.options.name, self.upstream.address());
        info!(stream, upstream, method = self.options.method, "subscribed");
        let connection = Arc::new(Connection {
            source: self.upstream.address().to_owned(),
            network: self.upstream.name().to_owned(),
            api_version: ApiVersion::NONE,
            event_lines: None,
        });
        if let Some(from) = received_until.take() {
            let gap = Batch::Gap { connection: Arc::clone(&connection), of: "time", from, to: now().max(from) };
            if out.send(gap).await.is_err() {
                return Lost::ReceiverGone;
            }
        }
        let begun = now();
        let lost = self.read(&rpc, &mut call, &connection, out).await;
        *received_until =
            Some(received_before(&lost, self.counters.last_received.get().unwrap_or(begun).max(begun), now()));
        lost
    }

    /// Waits for the descriptors if they are not known yet, and calls.
    async fn subscribe(&self) -> Result<(Rpc, Call), Lost> {
        let schema = described(self.upstream.schema()).await.ok_or(Lost::ReceiverGone)?;
        let (rpc, request) = subscription(&self.options, self.place, schema.method(&self.options.method))?;
        let call = self.upstream.call(&rpc, request, MetadataMap::new(), None).await?;
        Ok((rpc, call))
    }

    /// Reads to the end. What is there already makes a batch; nothing more is read while ingest has enough.
    async fn read(&self, rpc: &Rpc, call: &mut Call, connection: &Arc<Connection>, out: &mpsc::Sender<Batch>) -> Lost {
        loop {
            let mut next = call.messages.next().await;
            let (mut events, mut bytes) = (Vec::new(), 0);
            let received_at = now();
            let lost = loop {
                match next {
                    Some(Ok(message)) => {
                        bytes += self.take(rpc, &message, received_at, &mut events);
                    }
                    Some(Err(status)) => break Some(Lost::Status(status)),
                    None => break Some(Lost::Ended),
                }
                if events.len() >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES {
                    break None;
                }
                match call.messages.next().now_or_never() {
                    Some(ready) => next = ready,
                    None => break None,
                }
            };
            if !events.is_empty() {
                let batch = Batch::Events { connection: Arc::clone(connection), events };
                if out.send(batch).await.is_err() {
                    return Lost::ReceiverGone;
                }
            }
            if let Some(lost) = lost {
                return lost;
            }
        }
    }

    /// Adds what is stored of a message; returns its bytes.
    fn take(&self, rpc: &Rpc, message: &DynamicMessage, received_at: Timestamp, events: &mut Vec<Received>) -> usize {
        match self.recorded.store(message, rpc.answer, self.json) {
            Ok(Stored { payload, kind, name, facts }) => {
                self.counters.received.add(1);
                self.counters.last_received.set(received_at);
                let bytes = payload.len();
                events.push(Received { payload, kind, name, facts, upstream_id: None, received_at, line: None });
                bytes
            }
            Err(status) => {
                if self.counters.malformed.get() == 0 {
                    let (stream, reason) = (&self.options.name, status.message());
                    warn!(stream, reason, "a message cannot be stored; more of that is only counted");
                }
                self.counters.malformed.add(1);
                0
            }
        }
    }
}

/// Until when everything was received. What the upstream ends is whole; a connection that broke may have been dead for as
/// long as that takes to be noticed.
fn received_before(lost: &Lost, newest: Timestamp, now: Timestamp) -> Timestamp {
    match lost {
        Lost::Status(status) if status.source().is_some() => {
            newest.max(now.saturating_sub(microseconds(DEAD_UNNOTICED_MAX))).min(now)
        }
        _ => now,
    }
}

async fn described(mut schema: watch::Receiver<Option<Arc<Schema>>>) -> Option<Arc<Schema>> {
    schema.wait_for(Option::is_some).await.ok().and_then(|schema| schema.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_begins_before_a_connection_that_broke_was_noticed_and_after_what_was_received() {
        let second = 1_000_000;
        let now = 1_000 * second;
        let broken = || Lost::Status(Status::from_error(Box::new(std::io::Error::other("broken"))));
        let unnoticed = microseconds(DEAD_UNNOTICED_MAX);
        assert_eq!(received_before(&broken(), now - 3 * second, now), now - 3 * second);
        assert_eq!(received_before(&broken(), 0, now), now - unnoticed);
        assert_eq!(received_before(&broken(), now + second, now), now, "a clock that was set back");
        assert_eq!(received_before(&Lost::Status(Status::unavailable("the upstream says so")), 0, now), now);
        assert_eq!(received_before(&Lost::Ended, 0, now), now);
    }
}
