//! One node's life: check it, connect, read until the stream ends, and begin again.
//!
//! Owns the attempts, the handshake and the batches. Events of one node flow out in the node's order; the bounded
//! channel they go into is the back-pressure: while it is full nothing is read from the node. Every connection asks for
//! the node's whole ring, because a node that was killed reuses its ids; what is known already is dropped by identity
//! further on.

use std::error::Error;
use std::iter;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eventsource_client::{BoxStream, Client, ClientBuilder, Event, ReconnectOptions, SSE};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tracing::{debug, error, info, warn};

use super::NodeOptions;
use super::counters::{CountedError, Counters, NodeStatus};
use super::event::{self, Classified, EventFacts, classify};
use super::frames::{DropReason, DroppedFrame};
use super::silence::SilenceMonitor;
use super::status::{self, NodeInfo, StatusError};
use super::transport::{FilteringTransport, StreamObserver};
use crate::source::{ApiVersion, Batch, Connection, Identity, Received, Timestamp};

/// The most events of one batch.
const BATCH_EVENTS_MAX: usize = 512;

/// A batch is sent on as soon as its payloads have this many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// The most of a payload that a log line shows, in bytes.
const SHOWN_BYTES_MAX: usize = 80;

/// Why a listener ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// [`NodeOptions::max_attempts`] in a row have failed.
    AttemptsUsedUp,
    /// The node is too old.
    Incompatible,
    /// The node is on another network than configured.
    WrongNetwork,
    /// Nobody takes the events any more.
    ReceiverGone,
}

/// Listens to one node and sends what it says to `out`, until there is a reason to [`End`].
///
/// May be dropped at any moment; events that were read but not sent yet are then read again by the next listener.
pub async fn run(node: NodeOptions, out: mpsc::Sender<Batch>, counters: Arc<Counters>) -> End {
    let source = node.source();
    let listener = Listener { node, source, out, counters };
    let end = tokio::select! {
        end = listener.listen() => end,
        () = listener.out.closed() => End::ReceiverGone,
    };
    match end {
        End::AttemptsUsedUp => listener.counters.set_status(NodeStatus::AttemptsUsedUp),
        End::Incompatible => listener.counters.set_status(NodeStatus::Incompatible),
        End::WrongNetwork | End::ReceiverGone => {}
    }
    end
}

/// Why an attempt is over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
    #[error("{0}")]
    Stream(String),
    #[error("no bytes for {} s", no_message_timeout.as_secs())]
    Silent { no_message_timeout: Duration },
    #[error("the node ended the stream")]
    Ended,
    #[error("First event was empty")]
    NoHandshake,
    #[error("Expected first message to be ApiVersion, got: {shown}")]
    NotApiVersion { shown: String },
    #[error("nobody takes the events any more")]
    ReceiverGone,
}

impl Lost {
    /// The end that leaves nothing to try again.
    fn end(&self) -> Option<End> {
        match self {
            Self::Status(StatusError::Incompatible { .. }) => Some(End::Incompatible),
            Self::Status(StatusError::WrongNetwork { .. }) => Some(End::WrongNetwork),
            Self::ReceiverGone => Some(End::ReceiverGone),
            _ => None,
        }
    }

    /// How the reference counts it, where it does.
    fn counted(&self) -> Option<CountedError> {
        match self {
            Self::Status(StatusError::BuildVersionMissing) => Some(CountedError::BuildVersionMissing),
            Self::Status(StatusError::BuildVersionForm { .. }) => Some(CountedError::BuildVersionForm),
            Self::Status(StatusError::ChainNameMissing) => Some(CountedError::ChainNameMissing),
            Self::Stream(_) | Self::Silent { .. } => Some(CountedError::StreamFailed),
            _ => None,
        }
    }
}

struct Listener {
    node: NodeOptions,
    source: String,
    out: mpsc::Sender<Batch>,
    counters: Arc<Counters>,
}

impl Listener {
    async fn listen(&self) -> End {
        let Self { node, source, counters, .. } = self;
        let mut failures = 0;
        let mut last_seen = None;
        counters.set_status(NodeStatus::Connecting);
        while failures < node.max_attempts {
            let before = last_seen.clone();
            let (lost, delivered) = self.attempt(&mut last_seen).await;
            if let Some(counted) = lost.counted() {
                counters.count(counted);
            }
            if let Some(end) = lost.end() {
                error!(node = source, "listening to node ends: {}", with_causes(&lost));
                return end;
            }
            let upgraded = before.is_some() && before != last_seen;
            failures = if delivered {
                0
            } else if upgraded {
                1
            } else {
                failures + 1
            };
            let of = node.max_attempts;
            warn!("Lost connection to node {source}, on attempt {}/{of}: {}", failures.max(1), with_causes(&lost));
            if failures < node.max_attempts {
                counters.reconnects.add(1);
                sleep(node.delay_between_retries).await;
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
        self.counters.set_status(NodeStatus::Reconnecting);
        (lost, stream.delivered)
    }

    /// Checks the node, opens its stream and does the handshake.
    async fn connect(&self, last_seen: &mut Option<NodeInfo>) -> Result<NodeStream<'_>, Lost> {
        let client = reqwest::Client::builder()
            .connect_timeout(self.node.connection_timeout)
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|error| Lost::Client(with_causes(&error)))?;
        let rest_address = self.node.address(self.node.rest_port);
        let info = status::check(&client, &rest_address, self.node.network_name.as_deref()).await?;
        let network = last_seen.insert(info).chain_name.clone();

        let mut messages = self.open(client)?;
        let api_version = self.handshake(&mut messages).await?;
        self.counters.set_status(NodeStatus::Connected);
        info!(node = self.source, network, "connected, protocol version {api_version}");
        let connection = Arc::new(Connection { source: self.source.clone(), network, api_version });
        let mut stream = NodeStream {
            listener: self,
            messages,
            connection,
            batch: Vec::new(),
            batch_bytes: 0,
            batch_received_at: 0,
            previous: None,
            delivered: false,
        };
        stream.announce(api_version).await?;
        Ok(stream)
    }

    /// The node's messages, not asked for before the first is awaited.
    fn open(&self, client: reqwest::Client) -> Result<Messages, Lost> {
        let monitor = Arc::new(SilenceMonitor::new());
        let observer = Observer {
            source: self.source.clone(),
            counters: Arc::clone(&self.counters),
            monitor: Arc::clone(&monitor),
        };
        let transport = FilteringTransport::new(client, self.node.event_bytes_max, Arc::new(observer));
        let events = ClientBuilder::for_url(&format!("http://{}/events?start_from=0", self.source))
            .map_err(|error| Lost::Client(error.to_string()))?
            .reconnect(ReconnectOptions::reconnect(false).retry_initial(false).build())
            .build_with_transport(transport)
            .stream();
        // An interval of zero would never let anything else happen.
        let check_interval = self.node.keep_alive_check_interval.max(Duration::from_millis(1));
        let mut checks = interval_at(Instant::now() + check_interval, check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Messages { events, monitor, checks, no_message_timeout: self.node.no_message_timeout })
    }

    /// Takes the first message, which must announce the protocol version.
    async fn handshake(&self, messages: &mut Messages) -> Result<ApiVersion, Lost> {
        let first = match messages.next().await {
            Ok(event) => event.data,
            Err(Lost::Ended) => return Err(Lost::NoHandshake),
            Err(lost) => return Err(lost),
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

/// The messages of one connection, under the eye of the silence monitor.
struct Messages {
    events: BoxStream<eventsource_client::Result<SSE>>,
    monitor: Arc<SilenceMonitor>,
    checks: Interval,
    no_message_timeout: Duration,
}

impl Messages {
    /// The next message.
    async fn next(&mut self) -> Result<Event, Lost> {
        loop {
            tokio::select! {
                biased;
                item = self.events.next() => if let Some(message) = message(item) {
                    return message;
                },
                _ = self.checks.tick() => if self.monitor.is_silent(self.no_message_timeout) {
                    return Err(Lost::Silent { no_message_timeout: self.no_message_timeout });
                },
            }
        }
    }

    /// The next message if it is there already.
    fn ready(&mut self) -> Option<Result<Event, Lost>> {
        loop {
            let item = self.events.next().now_or_never()?;
            if let Some(message) = message(item) {
                return Some(message);
            }
        }
    }
}

/// The message or the end that eventsource-client's item stands for, if it does for any.
fn message(item: Option<eventsource_client::Result<SSE>>) -> Option<Result<Event, Lost>> {
    use eventsource_client::Error;
    match item {
        Some(Ok(SSE::Event(event))) => Some(Ok(event)),
        Some(Ok(SSE::Connected(_) | SSE::Comment(_))) => None,
        Some(Err(Error::Eof | Error::UnexpectedEof)) | None => Some(Err(Lost::Ended)),
        Some(Err(Error::Transport(error))) => Some(Err(Lost::Stream(with_causes(error.inner())))),
        Some(Err(error)) => Some(Err(Lost::Stream(with_causes(&error)))),
    }
}

/// A connection after its handshake.
struct NodeStream<'a> {
    listener: &'a Listener,
    messages: Messages,
    connection: Arc<Connection>,
    batch: Vec<Received>,
    /// The bytes of the batch's payloads.
    batch_bytes: usize,
    /// When the batch's first event was received, which stands for all of them.
    batch_received_at: Timestamp,
    /// The event before, which is part of a shutdown's identity.
    previous: Option<Identity>,
    delivered: bool,
}

impl NodeStream<'_> {
    /// Reads until the connection is over, and tells why.
    async fn read_to_end(&mut self) -> Lost {
        loop {
            let lost = match self.read().await {
                Ok(()) => continue,
                Err(lost) => lost,
            };
            // What came before the end is as good as ever.
            return self.flush().await.err().unwrap_or(lost);
        }
    }

    /// Takes one message. A batch is sent before anything is waited for, so it adds no delay.
    async fn read(&mut self) -> Result<(), Lost> {
        let event = match self.messages.ready() {
            Some(message) => message?,
            None => {
                self.flush().await?;
                self.messages.next().await?
            }
        };
        self.take(event).await?;
        if self.batch.len() >= BATCH_EVENTS_MAX || self.batch_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Takes what one message says.
    async fn take(&mut self, message: Event) -> Result<(), Lost> {
        let Listener { source, counters, .. } = self.listener;
        let payload = message.data;
        let upstream_id = message.id.and_then(|id| id.parse().ok());
        if upstream_id.is_none() && !payload.contains("ApiVersion") {
            counters.count(CountedError::EventWithoutId);
            warn!(node = source, "event without an id: {}", shown(payload.as_bytes()));
        }
        match classify(&payload) {
            Ok(Classified::Event(facts)) => {
                self.record(&facts, &payload);
                let identity = self.identity(&facts, upstream_id);
                let (kind, has_messages, block_height) = (facts.kind, facts.message_count > 0, facts.block_height);
                self.push(|received_at| Received {
                    payload,
                    kind,
                    identity,
                    has_messages,
                    block_height,
                    upstream_id,
                    received_at,
                });
            }
            Ok(Classified::ApiVersion(version)) => {
                counters.api_versions.add(&payload);
                self.flush().await?;
                self.announce(version).await?;
            }
            Ok(Classified::SidecarVersion) => {
                counters.sidecar_versions.add(&payload);
                error!(node = source, "ignored a SidecarVersion, which no node should send");
            }
            Err(malformed) => {
                counters.malformed.add(1);
                counters.count(CountedError::Deserialization);
                error!(node = source, upstream_id, "Serde Error: {malformed}: {}", shown(payload.as_bytes()));
            }
        }
        Ok(())
    }

    /// Counts and logs an event.
    fn record(&self, facts: &EventFacts<'_>, payload: &str) {
        let Listener { source, counters, node, .. } = self.listener;
        counters.received(facts.kind).add(payload);
        counters.contract_messages.add(facts.message_count);
        if facts.unclassified {
            counters.unclassified.add(1);
            debug!(node = source, "event of an unknown kind or shape: {}", shown(payload.as_bytes()));
        }
        match facts.kind {
            event::FAULT | event::SHUTDOWN => warn!(node = source, "{facts}"),
            _ if !node.enable_logging => {}
            event::FINALITY_SIGNATURE => debug!(node = source, "{facts}"),
            _ => info!(node = source, "{facts}"),
        }
    }

    /// The event's identity. All shutdowns say the same: what tells one from another is where and after what it came.
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
            self.connection.source.as_bytes(),
        ];
        Identity { hash: event::hash_of(&natural_key), ..facts.identity }
    }

    fn push(&mut self, received: impl FnOnce(Timestamp) -> Received) {
        if self.batch.is_empty() {
            self.batch_received_at = now();
        }
        let received = received(self.batch_received_at);
        self.previous = Some(received.identity);
        self.batch_bytes += received.payload.len();
        self.batch.push(received);
        self.delivered = true;
    }

    /// Sends the batch on.
    async fn flush(&mut self) -> Result<(), Lost> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let events = mem::take(&mut self.batch);
        let connection = Arc::clone(&self.connection);
        self.send(Batch::Events { connection, events }, CountedError::SendingEvent).await
    }

    /// Sends a version on.
    async fn announce(&mut self, version: ApiVersion) -> Result<(), Lost> {
        let connection = Arc::clone(&self.connection);
        self.send(Batch::Version { connection, version }, CountedError::SendingApiVersion).await
    }

    async fn send(&mut self, batch: Batch, failure: CountedError) -> Result<(), Lost> {
        let sent = match self.listener.out.try_send(batch) {
            Err(TrySendError::Full(batch)) => {
                let sent = self.listener.out.send(batch).await;
                // Nobody has listened meanwhile, so the node was not silent.
                self.messages.monitor.heard();
                sent.is_ok()
            }
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
        };
        if sent {
            return Ok(());
        }
        self.listener.counters.count(failure);
        Err(Lost::ReceiverGone)
    }
}

/// Hears for one connection what its stream does not show.
struct Observer {
    source: String,
    counters: Arc<Counters>,
    monitor: Arc<SilenceMonitor>,
}

impl StreamObserver for Observer {
    fn bytes_received(&self) {
        self.monitor.heard();
    }

    fn frame_dropped(&self, frame: DroppedFrame) {
        match frame.reason {
            DropReason::NotUtf8 => {
                self.counters.malformed.add(1);
                self.counters.count(CountedError::Deserialization);
            }
            DropReason::Oversized { .. } => self.counters.oversized.add(1),
        }
        error!(node = self.source, "dropped a frame because {}: {}", frame.reason, shown(&frame.first_bytes));
    }
}

/// The first bytes of a payload, fit for a log line.
fn shown(payload: &[u8]) -> String {
    let first_bytes = payload.get(..SHOWN_BYTES_MAX).unwrap_or(payload);
    first_bytes.escape_ascii().to_string()
}

/// An error with all that led to it.
fn with_causes(error: &dyn Error) -> String {
    let texts: Vec<_> = iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect();
    texts.join(": ")
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
