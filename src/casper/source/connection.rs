//! One node's life: check it, connect, read until the stream ends, and begin again.
//!
//! Owns what is Casper's in that: the check of `/status` before every connection, the handshake, and what a message says.
//! What every source of Server-Sent Events needs is in [`sse_client`](crate::sse_client). Every connection asks for the
//! node's whole ring, because a node that was killed reuses its ids; identity drops later what is known already.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use eventsource_client::Event;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::NodeOptions;
use super::counters::{CountedError, Counters};
use super::event_lines::EventLines;
use super::status::{self, NodeInfo, StatusError};
use crate::casper::event::{self, Classified, EventFacts, classify};
use crate::engine::dialect::{Facts, Identity};
use crate::engine::source::watch::SourceStatus;
use crate::engine::source::{self, ApiVersion, Batch, Connection, End, Received};
use crate::sse_client::attempts::{Attempt, Attempts};
use crate::sse_client::delivery::{Delivery, DeliveryError, Undelivered};
use crate::sse_client::frames::{DropReason, DroppedFrame};
use crate::sse_client::log_lines::{LineBudget, shown};
use crate::sse_client::stream::{EventStream, StreamError, StreamOptions, http_client, with_causes};

/// Listens to one node and sends what it says to `out`, until there is a reason to [`End`].
///
/// May be dropped at any moment; events that were read but not sent yet are then read again by the next listener.
pub async fn run(node: NodeOptions, out: mpsc::Sender<Batch>, counters: Arc<Counters>) -> End {
    let listener = Listener::new(node, out, counters);
    tokio::select! {
        end = listener.listen() => end,
        () = listener.out.closed() => End::ReceiverGone,
    }
}

/// Why an attempt is over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error("First event was empty")]
    NoHandshake,
    #[error("Expected first message to be ApiVersion, got: {shown}")]
    NotApiVersion { shown: String },
}

impl Lost {
    /// The end that leaves nothing to try again.
    fn end(&self) -> Option<End> {
        match self {
            Self::Status(StatusError::Incompatible { .. }) => Some(End::Incompatible),
            Self::Status(StatusError::WrongNetwork { .. } | StatusError::OtherNetwork { .. }) => {
                Some(End::WrongNetwork)
            }
            Self::Delivery(DeliveryError::ReceiverGone(_)) => Some(End::ReceiverGone),
            _ => None,
        }
    }

    /// How the reference counts it, where it does.
    fn counted(&self) -> Option<CountedError> {
        match self {
            Self::Status(StatusError::BuildVersionMissing) => Some(CountedError::BuildVersionMissing),
            Self::Status(StatusError::BuildVersionForm { .. }) => Some(CountedError::BuildVersionForm),
            Self::Status(StatusError::ChainNameMissing | StatusError::ChainNameForm { .. }) => {
                Some(CountedError::ChainNameMissing)
            }
            Self::Stream(stream) | Self::Delivery(DeliveryError::Stream(stream)) => {
                let failed =
                    matches!(stream, StreamError::Failed(_) | StreamError::Refused(_) | StreamError::Silent { .. });
                failed.then_some(CountedError::StreamFailed)
            }
            Self::Delivery(DeliveryError::ReceiverGone(Undelivered::Events)) => Some(CountedError::SendingEvent),
            Self::Delivery(DeliveryError::ReceiverGone(Undelivered::Version)) => Some(CountedError::SendingApiVersion),
            _ => None,
        }
    }
}

struct Listener {
    node: NodeOptions,
    source: String,
    out: mpsc::Sender<Batch>,
    counters: Arc<Counters>,
    lines: Arc<Lines>,
    event_lines: Arc<EventLines>,
}

/// What may be written about one node, by kind, so that one kind does not hide another.
struct Lines {
    connection: LineBudget,
    bad_input: LineBudget,
}

impl Lines {
    fn new() -> Self {
        Self { connection: LineBudget::new(), bad_input: LineBudget::new() }
    }
}

impl Listener {
    fn new(node: NodeOptions, out: mpsc::Sender<Batch>, counters: Arc<Counters>) -> Self {
        let event_lines = Arc::new(EventLines::new(node.source(), node.enable_logging));
        Self { source: node.source(), node, out, counters, lines: Arc::new(Lines::new()), event_lines }
    }

    async fn listen(&self) -> End {
        let Self { node, source, counters, .. } = self;
        let attempts = Attempts::new(node.max_attempts, node.delay_between_retries);
        let mut attempts = if node.keep_trying { attempts.without_end() } else { attempts };
        let mut last_seen = None;
        counters.common.status.set(SourceStatus::Connecting);
        while !attempts.are_over() {
            let before = last_seen.clone();
            let (lost, has_delivered) = self.attempt(&mut last_seen).await;
            if let Some(counted) = lost.counted() {
                counters.count(counted);
            }
            let end = lost.end();
            // Where the receiver is gone, the committer has reported why.
            if end == Some(End::ReceiverGone) {
                return End::ReceiverGone;
            }
            if let Some(end) = end {
                counters.common.status.set(SourceStatus::Incompatible);
                if !node.keep_trying {
                    error!(node = source, "listening to node ends: {}", with_causes(&lost));
                    return end;
                }
            }
            let failed = attempts.count(match before {
                _ if has_delivered => Attempt::Delivered,
                Some(before) if last_seen.as_ref() != Some(&before) => Attempt::OtherNode,
                _ => Attempt::Failed,
            });
            let of = node.max_attempts;
            let attempt = if failed > of { failed.to_string() } else { format!("{}/{of}", failed.max(1)) };
            self.lines.connection.spend(source, || match end {
                Some(_) => error!(node = source, "node cannot be used yet, retries continue: {}", with_causes(&lost)),
                None => warn!("Lost connection to node {source}, on attempt {attempt}: {}", with_causes(&lost)),
            });
            if attempts.are_used_up() && end.is_none() {
                counters.common.status.set(SourceStatus::AttemptsUsedUp);
            }
            if failed == of && !attempts.are_over() {
                error!(node = source, "Max connection attempts reached; retries continue with longer pauses");
            }
            if !attempts.are_over() {
                counters.common.reconnects.add(1);
                attempts.pause().await;
            }
        }
        error!(node = source, "Max connection attempts reached");
        End::AttemptsUsedUp
    }

    /// One connection from check to end: why it is over, and whether it delivered an event.
    async fn attempt(&self, last_seen: &mut Option<NodeInfo>) -> (Lost, bool) {
        let mut stream = match self.connect(last_seen).await {
            Ok(stream) => stream,
            Err(lost) => return (lost, false),
        };
        let lost = stream.read_to_end().await;
        self.counters.common.status.set(SourceStatus::Reconnecting);
        (lost, stream.has_delivered)
    }

    /// Checks the node, opens its stream and does the handshake.
    async fn connect(&self, last_seen: &mut Option<NodeInfo>) -> Result<NodeStream<'_>, Lost> {
        let client = http_client(self.node.timeouts.connection)?;
        let rest_address = self.node.address(self.node.rest_port);
        let NodeOptions { network_name, log_network, .. } = &self.node;
        let info = status::check(&client, &rest_address, network_name.as_deref()).await?;
        if let Some(name) = log_network.name() {
            status::is_same_network(name, &info.chain_name)?;
        }
        let network = info.chain_name.clone();
        *last_seen = Some(info);

        let mut messages = self.open(client)?;
        let api_version = self.handshake(&mut messages).await?;
        // Another node may have been faster.
        if let Some(name) = log_network.name() {
            status::is_same_network(name, &network)?;
        }
        self.counters.common.status.set(SourceStatus::Connected);
        info!(node = self.source, network, "connected, protocol version {api_version}");
        let connection = Connection {
            source: self.source.clone(),
            network,
            api_version,
            event_lines: Some(self.event_lines.clone() as Arc<dyn source::EventLines>),
        };
        let mut delivery = Delivery::new(messages, self.out.clone(), connection);
        delivery.announce(api_version).await?;
        Ok(NodeStream { listener: self, delivery, previous: None, has_delivered: false })
    }

    /// The node's messages, not asked for before the first is awaited.
    fn open(&self, client: reqwest::Client) -> Result<EventStream, StreamError> {
        let options = StreamOptions {
            url: format!("http://{}/events?start_from=0", self.source),
            event_bytes_max: self.node.event_bytes_max,
            timeouts: self.node.timeouts,
        };
        let (source, counters) = (self.source.clone(), Arc::clone(&self.counters));
        let lines = Arc::clone(&self.lines);
        EventStream::open(client, &options, move |frame| note_dropped(&source, &counters, &lines, &frame))
    }

    /// Takes the first message, which must announce the protocol version.
    async fn handshake(&self, messages: &mut EventStream) -> Result<ApiVersion, Lost> {
        let first = match messages.next().await {
            Ok(event) => event.data,
            Err(StreamError::Ended) => return Err(Lost::NoHandshake),
            Err(lost) => return Err(lost.into()),
        };
        let classified = classify(&first);
        if let Ok(Classified::ApiVersion(version)) = classified {
            self.counters.api_versions.add(&first);
            return Ok(version);
        }
        if first.contains("ApiVersion") {
            self.counters.count(match classified {
                Ok(Classified::Event(EventFacts { unclassified: true, .. })) | Err(_) => {
                    CountedError::ApiVersionDeserialization
                }
                Ok(_) => CountedError::ApiVersionExpected,
            });
        }
        Err(Lost::NotApiVersion { shown: shown(first.as_bytes()) })
    }
}

/// Counts and logs a frame that was taken out of a node's stream.
fn note_dropped(source: &str, counters: &Counters, lines: &Lines, frame: &DroppedFrame) {
    match frame.reason {
        DropReason::NotUtf8 => {
            counters.common.malformed.add(1);
            counters.count(CountedError::Deserialization);
        }
        DropReason::Oversized { .. } => counters.common.oversized.add(1),
    }
    lines.bad_input.spend(source, || {
        error!(node = source, "dropped a frame because {}: {}", frame.reason, shown(&frame.first_bytes));
    });
}

/// A connection after its handshake.
struct NodeStream<'a> {
    listener: &'a Listener,
    delivery: Delivery,
    /// The event before, which is part of a shutdown's identity.
    previous: Option<Identity>,
    has_delivered: bool,
}

impl NodeStream<'_> {
    /// Reads until the connection is over, and returns why.
    async fn read_to_end(&mut self) -> Lost {
        loop {
            let taken = match self.delivery.next().await {
                Ok(message) => self.take(message).await,
                Err(lost) => Err(lost.into()),
            };
            if let Err(lost) = taken {
                return lost;
            }
        }
    }

    /// Takes what one message says.
    async fn take(&mut self, message: Event) -> Result<(), Lost> {
        let Listener { source, counters, lines, .. } = self.listener;
        let payload = message.data;
        let upstream_id = message.id.and_then(|id| id.parse().ok());
        if upstream_id.is_none() && !payload.contains("ApiVersion") {
            counters.count(CountedError::EventWithoutId);
            lines.bad_input.spend(source, || {
                warn!(node = source, "event without an id: {}", shown(payload.as_bytes()));
            });
        }
        match classify(&payload) {
            Ok(Classified::Event(facts)) => {
                self.claim_network()?;
                self.record(&facts, &payload);
                let line = self.listener.event_lines.line(&facts);
                let identity = self.identity(&facts, upstream_id);
                let (kind, facts) = (facts.kind, Facts { identity, ..facts.facts() });
                self.delivery.push(|received_at| {
                    counters.common.last_received.set(received_at);
                    Received { payload, kind, name: Box::default(), facts, upstream_id, received_at, line }
                });
                self.previous = Some(identity);
                self.has_delivered = true;
            }
            Ok(Classified::ApiVersion(version)) => {
                counters.api_versions.add(&payload);
                self.delivery.announce(version).await?;
            }
            Ok(Classified::SidecarVersion) => {
                counters.sidecar_versions.add(&payload);
                lines.bad_input.spend(source, || {
                    error!(node = source, "ignored a SidecarVersion, which no node should send");
                });
            }
            Err(malformed) => {
                counters.common.malformed.add(1);
                counters.count(CountedError::Deserialization);
                lines.bad_input.spend(source, || {
                    error!(node = source, upstream_id, "Serde Error: {malformed}: {}", shown(payload.as_bytes()));
                });
            }
        }
        Ok(())
    }

    /// With its first event a node decides for its network, unless that is decided: one that has none keeps no other out.
    fn claim_network(&self) -> Result<(), Lost> {
        if self.has_delivered {
            return Ok(());
        }
        let network = &self.delivery.connection().network;
        let decided = self.listener.node.log_network.claim(network);
        Ok(status::is_same_network(decided, network)?)
    }

    /// Counts an event.
    fn record(&self, facts: &EventFacts<'_>, payload: &str) {
        let Listener { source, counters, .. } = self.listener;
        counters.common.received.add(1);
        counters.received(facts.kind).add(payload);
        counters.contract_messages.add(facts.message_count);
        if facts.unclassified {
            counters.common.unclassified.add(1);
            debug!(node = source, "event of an unknown kind or shape: {}", shown(payload.as_bytes()));
        }
    }

    /// The event's identity. All shutdowns say the same: one differs from another by its source, and by the event before it.
    fn identity(&self, facts: &EventFacts<'_>, upstream_id: Option<u64>) -> Identity {
        if facts.kind != event::SHUTDOWN || facts.unclassified {
            return facts.identity;
        }
        let before = self.previous.map(|Identity { class, time, hash }| (class, time.to_le_bytes(), hash));
        let (class, time, hash) = before.unwrap_or_default();
        let natural_key: [&[u8]; 6] = [
            &[u8::from(upstream_id.is_some()), u8::from(before.is_some()), class],
            &upstream_id.unwrap_or_default().to_le_bytes(),
            &time,
            &hash,
            b"\0",
            self.listener.source.as_bytes(),
        ];
        Identity { hash: event::hash_of(&natural_key), ..facts.identity }
    }
}
