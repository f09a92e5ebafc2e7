//! One node's life: check it, connect, read until the stream ends, and begin again.
//!
//! Owns the attempts, the handshake and the batches. Events of one node flow out in the node's order; the bounded
//! channel they go into is the back-pressure: while it is full nothing is read from the node. Every connection asks for
//! the node's whole ring, because a node that was killed reuses its ids; what is known already is dropped by identity
//! further on.

use std::error::Error;
use std::future::poll_fn;
use std::iter;
use std::mem;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eventsource_client::{BoxStream, Client, ClientBuilder, Event, ReconnectOptions, SSE};
use futures_util::{FutureExt, StreamExt};
use reqwest::redirect::Policy;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tracing::{debug, error, info, warn};

use super::NodeOptions;
use super::counters::{CountedError, Counters, NodeStatus};
use super::event_lines::EventLines;
use super::status::{self, NodeInfo, StatusError};
use crate::casper::event::{self, Classified, EventFacts, classify};
use crate::engine::source::{ApiVersion, Batch, Connection, Identity, Received, Timestamp};
use crate::sse_client::frames::{DropReason, DroppedFrame};
use crate::sse_client::log_lines::LineBudget;
use crate::sse_client::silence::SilenceMonitor;
use crate::sse_client::transport::{FilteringTransport, StreamObserver};

/// The most events of one batch.
const BATCH_EVENTS_MAX: usize = 512;

/// A batch is sent on as soon as its payloads have this many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// How often a node may send a request on.
const REDIRECTS_MAX: usize = 5;

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
    /// The node is on another network than configured, or than the log.
    WrongNetwork,
    /// Nobody takes the events any more.
    ReceiverGone,
}

/// Listens to one node and sends what it says to `out`, until there is a reason to [`End`].
///
/// May be dropped at any moment; events that were read but not sent yet are then read again by the next listener.
pub async fn run(node: NodeOptions, out: mpsc::Sender<Batch>, counters: Arc<Counters>) -> End {
    let listener = Listener::new(node, out, counters);
    let end = tokio::select! {
        end = listener.listen() => end,
        () = listener.out.closed() => End::ReceiverGone,
    };
    match end {
        End::AttemptsUsedUp => listener.counters.set_status(NodeStatus::AttemptsUsedUp),
        End::Incompatible | End::WrongNetwork => listener.counters.set_status(NodeStatus::Incompatible),
        End::ReceiverGone => {}
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
            Self::Status(StatusError::WrongNetwork { .. } | StatusError::OtherNetwork { .. }) => {
                Some(End::WrongNetwork)
            }
            Self::ReceiverGone => Some(End::ReceiverGone),
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
                // Where nobody takes the events, the committer has reported why.
                if end != End::ReceiverGone {
                    error!(node = source, "listening to node ends: {}", with_causes(&lost));
                }
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
            self.lines.connection.spend(source, || {
                warn!("Lost connection to node {source}, on attempt {}/{of}: {}", failures.max(1), with_causes(&lost));
            });
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
            .redirect(same_host())
            .build()
            .map_err(|error| Lost::Client(with_causes(&error)))?;
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
        self.counters.set_status(NodeStatus::Connected);
        info!(node = self.source, network, "connected, protocol version {api_version}");
        let event_lines = Arc::clone(&self.event_lines);
        let connection = Arc::new(Connection { source: self.source.clone(), network, api_version, event_lines });
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
            lines: Arc::clone(&self.lines),
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
        let mut ready = self.messages.ready();
        if ready.is_none() && !self.batch.is_empty() {
            // The HTTP task hands over one chunk at a time, and a node puts each event into a chunk of its own: without
            // a turn for that task every event would be a batch.
            give_a_turn().await;
            ready = self.messages.ready();
        }
        let event = match ready {
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
                let identity = self.identity(&facts, upstream_id);
                let line = self.connection.event_lines.line(&facts);
                let (kind, message_count, block_height) = (facts.kind, facts.message_count, facts.block_height);
                self.push(|received_at| Received {
                    payload,
                    kind,
                    identity,
                    message_count,
                    block_height,
                    upstream_id,
                    received_at,
                    line,
                });
            }
            Ok(Classified::ApiVersion(version)) => {
                counters.api_versions.add(&payload);
                self.flush().await?;
                self.announce(version).await?;
            }
            Ok(Classified::SidecarVersion) => {
                counters.sidecar_versions.add(&payload);
                lines.bad_input.spend(source, || {
                    error!(node = source, "ignored a SidecarVersion, which no node should send");
                });
            }
            Err(malformed) => {
                counters.malformed.add(1);
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
        if self.delivered {
            return Ok(());
        }
        let network = &self.connection.network;
        let decided = self.listener.node.log_network.claim(network);
        Ok(status::is_same_network(decided, network)?)
    }

    /// Counts an event.
    fn record(&self, facts: &EventFacts<'_>, payload: &str) {
        let Listener { source, counters, .. } = self.listener;
        counters.received(facts.kind).add(payload);
        counters.contract_messages.add(facts.message_count);
        if facts.unclassified {
            counters.unclassified.add(1);
            debug!(node = source, "event of an unknown kind or shape: {}", shown(payload.as_bytes()));
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
    lines: Arc<Lines>,
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
        self.lines.bad_input.spend(&self.source, || {
            error!(node = self.source, "dropped a frame because {}: {}", frame.reason, shown(&frame.first_bytes));
        });
    }
}

/// A node may send a client on to another of its ports or paths, but not elsewhere: it does not decide whom Sidecar reads.
fn same_host() -> Policy {
    Policy::custom(|attempt| {
        let asked_first = attempt.previous().first().and_then(|url| url.host_str());
        if attempt.previous().len() > REDIRECTS_MAX || asked_first != attempt.url().host_str() {
            return attempt.stop();
        }
        attempt.follow()
    })
}

/// Lets the tasks that are ready run first. Unlike tokio's `yield_now` it does not ask the operating system for more.
async fn give_a_turn() {
    let mut given = false;
    poll_fn(|context| {
        if mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;
    use tokio::task::AbortHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::engine::source::LogNetwork;

    const STATUS: &str = r#"{"build_version":"2.0.3-","chainspec_name":"casper-test"}"#;
    const VERSION: &str = "data:{\"ApiVersion\":\"2.0.0\"}\n\n";

    /// How the node answers one request of `/events`.
    enum Answer {
        /// With these bytes, then the end.
        Stream(Vec<u8>),
        /// With these bytes, then silence.
        StreamThenSilence(Vec<u8>),
        /// With the handshake and blocks of ascending height as fast as they are taken. Once one is not taken for a
        /// while it stops, and its blocks and that are told.
        Flood(Arc<Mutex<u64>>, Arc<Notify>),
        /// With this HTTP head and nothing else.
        Head(&'static str),
    }

    /// A node that follows a script; with the script at its end it refuses streams with 503.
    struct ScriptedNode {
        address: SocketAddr,
        requests: Arc<Mutex<Vec<String>>>,
        task: AbortHandle,
    }

    impl ScriptedNode {
        async fn start(statuses: &[&'static str], answers: Vec<Answer>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let requests = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&requests);
            let mut statuses: VecDeque<_> = statuses.to_vec().into();
            let mut answers: VecDeque<_> = answers.into();
            let task = tokio::spawn(async move {
                loop {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    let request = read_head(&mut socket).await;
                    seen.lock().unwrap().push(request.lines().next().unwrap_or_default().to_owned());
                    if request.starts_with("GET /status ") {
                        let status = if statuses.len() > 1 { statuses.pop_front() } else { statuses.front().copied() };
                        let status = status.unwrap();
                        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}", status.len());
                        socket.write_all(format!("{head}\r\n\r\n{status}").as_bytes()).await.unwrap();
                    } else {
                        let answer = answers.pop_front().unwrap_or(Answer::Head("503 Service Unavailable"));
                        tokio::spawn(answer.give(socket));
                    }
                }
            });
            Self { address, requests, task: task.abort_handle() }
        }

        fn options(&self) -> NodeOptions {
            options(&self.address.ip().to_string(), self.address.port())
        }

        fn event_requests(&self) -> Vec<String> {
            self.requests.lock().unwrap().iter().filter(|request| request.contains("/events")).cloned().collect()
        }
    }

    impl Drop for ScriptedNode {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn read_head(socket: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).unwrap()
    }

    impl Answer {
        async fn give(self, mut socket: TcpStream) {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n";
            match self {
                Self::Head(head) => {
                    socket.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await.unwrap();
                }
                Self::Stream(body) => {
                    socket.write_all(head).await.unwrap();
                    socket.write_all(&body).await.unwrap();
                }
                Self::StreamThenSilence(body) => {
                    socket.write_all(head).await.unwrap();
                    socket.write_all(&body).await.unwrap();
                    let _closed = socket.read_u8().await;
                }
                Self::Flood(written, stalled) => {
                    socket.write_all(head).await.unwrap();
                    socket.write_all(VERSION.as_bytes()).await.unwrap();
                    loop {
                        let height = *written.lock().unwrap();
                        let frame = block(height);
                        let mut writing = Box::pin(socket.write_all(frame.as_bytes()));
                        let taken = timeout(Duration::from_millis(200), &mut writing).await.is_ok();
                        if !taken {
                            stalled.notify_one();
                            writing.await.unwrap();
                        }
                        *written.lock().unwrap() += 1;
                        if !taken {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn options(host: &str, port: u16) -> NodeOptions {
        NodeOptions {
            host: host.into(),
            sse_port: port,
            rest_port: port,
            max_attempts: 2,
            delay_between_retries: Duration::ZERO,
            enable_logging: true,
            connection_timeout: Duration::from_secs(5),
            no_message_timeout: Duration::from_secs(120),
            keep_alive_check_interval: Duration::from_secs(60),
            network_name: Some("casper-test".into()),
            log_network: LogNetwork::default(),
            event_bytes_max: 10_000,
        }
    }

    fn frame(id: u64, payload: &str) -> String {
        format!("data:{payload}\nid:{id}\n\n")
    }

    fn block(height: u64) -> String {
        let content = format!(r#"{{"Version2":{{"header":{{"height":{height}}}}}}}"#);
        frame(height, &format!(r#"{{"BlockAdded":{{"block_hash":"{height:064x}","block":{content}}}}}"#))
    }

    fn ring(frames: &[String]) -> Vec<u8> {
        [VERSION, &frames.concat()].concat().into_bytes()
    }

    /// Runs a listener to its end: the end, its batches and its counters.
    async fn run_to_end(node: NodeOptions) -> (End, Vec<Batch>, Arc<Counters>) {
        let (out, mut batches) = mpsc::channel(1000);
        let counters = Arc::new(Counters::default());
        let end = run(node, out, Arc::clone(&counters)).await;
        let mut received = Vec::new();
        while let Some(batch) = batches.recv().await {
            received.push(batch);
        }
        (end, received, counters)
    }

    fn events(batches: Vec<Batch>) -> Vec<Received> {
        let events = batches.into_iter().filter_map(|batch| match batch {
            Batch::Events { events, .. } => Some(events),
            Batch::Version { .. } => None,
        });
        events.flatten().collect()
    }

    fn ids(events: &[Received]) -> Vec<u64> {
        events.iter().filter_map(|event| event.upstream_id).collect()
    }

    #[tokio::test]
    async fn events_come_after_the_version_in_the_nodes_order_with_what_their_connection_says() {
        let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(ring(&[block(7), block(8)]))]).await;
        let (end, mut batches, counters) = run_to_end(node.options()).await;
        assert_eq!(end, End::AttemptsUsedUp);
        let Batch::Version { connection, version } = batches.remove(0) else { panic!("no version first") };
        assert_eq!(version, ApiVersion { major: 2, minor: 0, patch: 0 });
        assert_eq!(
            (connection.source.as_str(), connection.network.as_str()),
            (&*node.options().source(), "casper-test")
        );
        let events = events(batches);
        assert_eq!(ids(&events), [7, 8]);
        let event = events.first().unwrap();
        assert_eq!(frame(7, &event.payload), block(7));
        assert_eq!((event.kind, event.block_height), (event::BLOCK_ADDED, Some(7)));
        assert!(event.received_at > 1_700_000_000_000_000);
        assert_eq!(counters.received(event::BLOCK_ADDED).snapshot().count, 2);
        assert_eq!(counters.api_versions.snapshot().count, 1);
    }

    #[tokio::test]
    async fn every_connection_asks_for_the_whole_ring_and_only_failures_in_a_row_count() {
        let answers = (0..5).map(|height| Answer::Stream(ring(&[block(height)]))).collect();
        let node = ScriptedNode::start(&[STATUS], answers).await;
        let (end, batches, counters) = run_to_end(node.options()).await;
        assert_eq!(end, End::AttemptsUsedUp);
        assert_eq!(ids(&events(batches)), [0, 1, 2, 3, 4]);
        assert_eq!(node.event_requests(), vec!["GET /events?start_from=0 HTTP/1.1"; 7]);
        assert_eq!(counters.status(), NodeStatus::AttemptsUsedUp as i8);
        assert_eq!(counters.reconnects.get(), 6);
    }

    #[tokio::test]
    async fn a_connection_without_an_event_is_a_failure() {
        let answers = (0..5).map(|_| Answer::Stream(VERSION.into())).collect();
        let node = ScriptedNode::start(&[STATUS], answers).await;
        let (end, _, _) = run_to_end(node.options()).await;
        assert_eq!(end, End::AttemptsUsedUp);
        assert_eq!(node.event_requests().len(), 2);
    }

    #[tokio::test]
    async fn an_upgrade_of_the_node_begins_the_count_anew() {
        let upgraded = r#"{"build_version":"2.1.0","chainspec_name":"casper-test"}"#;
        let node = ScriptedNode::start(&[STATUS, upgraded], vec![]).await;
        let (end, _, _) = run_to_end(node.options()).await;
        assert_eq!(end, End::AttemptsUsedUp);
        assert_eq!(node.event_requests().len(), 3);
    }

    #[tokio::test]
    async fn a_failed_handshake_is_a_failed_attempt_and_is_counted_as_what_it_is() {
        let cases = [
            (block(1), None),
            (String::new(), None),
            ("data:{\"ApiVersion\":\"two\"}\n\n".into(), Some(CountedError::ApiVersionDeserialization)),
            ("data:ApiVersion\n\n".into(), Some(CountedError::ApiVersionDeserialization)),
            (
                "data:{\"Step\":{\"era_id\":1,\"execution_effects\":\"ApiVersion\"}}\n\n".into(),
                Some(CountedError::ApiVersionExpected),
            ),
        ];
        for (first, counted) in cases {
            let body = [&first, VERSION, &block(2)].concat();
            let answer = if first.is_empty() { Answer::Stream(vec![]) } else { Answer::Stream(body.into()) };
            let node = ScriptedNode::start(&[STATUS], vec![answer]).await;
            let (end, batches, counters) = run_to_end(node.options()).await;
            assert_eq!(end, End::AttemptsUsedUp);
            assert!(batches.is_empty(), "{first}");
            for error in [CountedError::ApiVersionDeserialization, CountedError::ApiVersionExpected] {
                assert_eq!(counters.errors(error), u64::from(counted == Some(error)), "{first}: {error:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_no_event_stream_is_a_failed_attempt() {
        let heads = ["404 Not Found", "200 OK\r\ncontent-type: text/html", "204 No Content", "200 OK"];
        for head in heads {
            let answers = vec![Answer::Head(head), Answer::Stream(ring(&[block(1)]))];
            let node = ScriptedNode::start(&[STATUS], answers).await;
            let (_, batches, counters) = run_to_end(node.options()).await;
            assert_eq!(ids(&events(batches)), [1], "{head}");
            assert_eq!(counters.errors(CountedError::StreamFailed), 3, "{head}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_too_old_or_on_another_network_ends_the_listener_at_once() {
        let old = r#"{"build_version":"1.5.8","chainspec_name":"casper-test"}"#;
        let elsewhere = r#"{"build_version":"2.0.0","chainspec_name":"casper"}"#;
        for (status, end, number) in [(old, End::Incompatible, -2), (elsewhere, End::WrongNetwork, -2)] {
            let node = ScriptedNode::start(&[status], vec![]).await;
            let (ended, batches, counters) = run_to_end(node.options()).await;
            assert_eq!(ended, end);
            assert_eq!(counters.status(), number);
            assert!(batches.is_empty() && node.event_requests().is_empty());
        }
    }

    #[tokio::test]
    async fn the_first_event_decides_for_a_network_and_a_node_without_events_does_not() {
        let elsewhere = r#"{"build_version":"2.0.0","chainspec_name":"casper"}"#;
        let log_network = LogNetwork::default();
        let options = |node: &ScriptedNode| NodeOptions {
            network_name: None,
            log_network: log_network.clone(),
            max_attempts: 1,
            ..node.options()
        };
        let silent = ScriptedNode::start(&[elsewhere], vec![Answer::Stream(ring(&[]))]).await;
        assert_eq!(run_to_end(options(&silent)).await.0, End::AttemptsUsedUp);
        assert_eq!(log_network.name(), None);
        let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(ring(&[block(1)]))]).await;
        assert_eq!(ids(&events(run_to_end(options(&node)).await.1)), [1]);
        assert_eq!(log_network.name(), Some("casper-test"));
        let other = ScriptedNode::start(&[elsewhere], vec![Answer::Stream(ring(&[block(2)]))]).await;
        let (end, batches, _) = run_to_end(options(&other)).await;
        assert_eq!((end, batches.len()), (End::WrongNetwork, 0));
    }

    #[tokio::test]
    async fn a_useless_status_is_a_failed_attempt_and_is_counted() {
        let cases = [
            ("<html>", None),
            ("{}", Some(CountedError::BuildVersionMissing)),
            (r#"{"build_version":"2.0.0"}"#, Some(CountedError::ChainNameMissing)),
            (r#"{"build_version":"2.0","chainspec_name":"casper-test"}"#, Some(CountedError::BuildVersionForm)),
        ];
        for (status, counted) in cases {
            let node = ScriptedNode::start(&[status], vec![]).await;
            let (end, _, counters) = run_to_end(node.options()).await;
            assert_eq!(end, End::AttemptsUsedUp);
            for error in CountedError::ALL {
                assert_eq!(counters.errors(error), if counted == Some(error) { 2 } else { 0 }, "{status}: {error:?}");
            }
        }
    }

    #[tokio::test]
    async fn bad_frames_are_counted_and_everything_after_them_arrives() {
        let mut body = ring(&[block(1)]);
        body.extend_from_slice(b"data:\"\xFF\"\nid:2\n\n");
        body.extend_from_slice(frame(3, r#"{"Step":"#).as_bytes());
        body.extend_from_slice(frame(4, &format!("\"{}\"", "x".repeat(20_000))).as_bytes());
        body.extend_from_slice(frame(5, r#"{"SidecarVersion":"1.0.0"}"#).as_bytes());
        body.extend_from_slice(frame(6, r#"{"BlockFinalized":{}}"#).as_bytes());
        body.extend_from_slice(block(7).as_bytes());
        let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(body)]).await;
        let (_, batches, counters) = run_to_end(node.options()).await;
        assert_eq!(ids(&events(batches)), [1, 6, 7]);
        let counts = [&counters.malformed, &counters.oversized, &counters.unclassified];
        assert_eq!(counts.map(|count| count.get()), [2, 1, 1]);
        assert_eq!(counters.sidecar_versions.snapshot().count, 1);
        assert_eq!(counters.errors(CountedError::Deserialization), 2);
    }

    #[tokio::test]
    async fn an_event_without_an_id_is_delivered_and_counted() {
        let body = [VERSION, "data:{\"Step\":{\"era_id\":1}}\n\n"].concat();
        let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(body.into())]).await;
        let (_, batches, counters) = run_to_end(node.options()).await;
        assert_eq!(events(batches).first().unwrap().upstream_id, None);
        assert_eq!(counters.errors(CountedError::EventWithoutId), 1);
    }

    #[tokio::test]
    async fn a_version_announced_on_the_way_stands_between_the_events_it_came_between() {
        let version = "data:{\"ApiVersion\":\"2.1.0\"}\n\n".to_owned();
        let answer = Answer::Stream(ring(&[block(1), version, block(2)]));
        let node = ScriptedNode::start(&[STATUS], vec![answer]).await;
        let (_, batches, _) = run_to_end(node.options()).await;
        let told: Vec<_> = batches
            .iter()
            .map(|batch| match batch {
                Batch::Version { version, connection } => format!("{version} on {}", connection.api_version),
                Batch::Events { events, .. } => format!("{:?}", ids(events)),
            })
            .collect();
        assert_eq!(told, ["2.0.0 on 2.0.0", "[1]", "2.1.0 on 2.0.0", "[2]"]);
    }

    #[tokio::test]
    async fn a_shutdown_is_the_same_when_read_again_and_another_after_another_event_or_from_another_node() {
        let shutdown = || frame(9, "\"Shutdown\"");
        let answers = || {
            vec![
                Answer::Stream(ring(&[block(7), shutdown()])),
                Answer::Stream(ring(&[block(6), block(7), shutdown()])),
                Answer::Stream(ring(&[block(8), shutdown()])),
                Answer::Stream(ring(&[block(7), frame(10, "\"Shutdown\"")])),
            ]
        };
        let mut shutdowns = Vec::new();
        for _ in 0..2 {
            let node = ScriptedNode::start(&[STATUS], answers()).await;
            let (_, batches, _) = run_to_end(node.options()).await;
            let found = events(batches).into_iter().filter(|event| event.kind == event::SHUTDOWN);
            shutdowns.push(found.map(|event| event.identity).collect::<Vec<_>>());
        }
        let [first_node, second_node] = &shutdowns[..] else { panic!("two nodes") };
        let [first, read_again, after_another, other_id] = first_node[..] else { panic!("four shutdowns") };
        assert_eq!(first, read_again);
        assert!(first != after_another && first != other_id && after_another != other_id);
        assert_ne!(first, second_node[0]);
    }

    #[tokio::test]
    async fn a_silent_connection_is_given_up_and_tried_again() {
        let answers = vec![Answer::StreamThenSilence(ring(&[block(1)])), Answer::Stream(ring(&[block(2)]))];
        let node = ScriptedNode::start(&[STATUS], answers).await;
        let no_message_timeout = Duration::from_millis(500);
        let keep_alive_check_interval = Duration::from_millis(10);
        let options = NodeOptions { no_message_timeout, keep_alive_check_interval, ..node.options() };
        let (_, batches, _) = run_to_end(options).await;
        assert_eq!(ids(&events(batches)), [1, 2]);
    }

    #[tokio::test]
    async fn an_event_is_sent_on_before_anything_more_is_waited_for() {
        let node = ScriptedNode::start(&[STATUS], vec![Answer::StreamThenSilence(ring(&[block(1)]))]).await;
        let (out, mut batches) = mpsc::channel(1);
        let listener = tokio::spawn(run(node.options(), out, Arc::default()));
        assert!(matches!(batches.recv().await, Some(Batch::Version { .. })));
        assert!(matches!(batches.recv().await, Some(Batch::Events { .. })));
        drop(batches);
        assert_eq!(listener.await.unwrap(), End::ReceiverGone);
    }

    #[tokio::test]
    async fn a_full_channel_stops_the_reading_and_loses_nothing() {
        let (written, stalled) = (Arc::new(Mutex::new(0)), Arc::new(Notify::new()));
        let flood = Answer::Flood(Arc::clone(&written), Arc::clone(&stalled));
        let node = ScriptedNode::start(&[STATUS], vec![flood]).await;
        let (out, mut batches) = mpsc::channel(1);
        let listener = tokio::spawn(run(node.options(), out, Arc::default()));
        stalled.notified().await;
        let mut received = Vec::new();
        while let Some(batch) = batches.recv().await {
            if let Batch::Events { events, .. } = &batch {
                assert!(!events.is_empty() && events.len() <= BATCH_EVENTS_MAX);
            }
            received.push(batch);
        }
        assert_eq!(listener.await.unwrap(), End::AttemptsUsedUp);
        let count = *written.lock().unwrap();
        assert_eq!(ids(&events(received)), (0..count).collect::<Vec<_>>());
        // The flood, and two refusals.
        assert_eq!(node.event_requests().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_full_channel_is_no_silence_of_the_node() {
        let (out, mut batches) = mpsc::channel(1);
        let node = options("node", 1);
        let no_message_timeout = node.no_message_timeout;
        let listener = Listener::new(node, out, Arc::default());
        let version = status::BUILD_VERSION_MIN;
        let mut stream = NodeStream {
            listener: &listener,
            messages: listener.open(reqwest::Client::new()).unwrap(),
            connection: Arc::new(Connection {
                source: "node:1".into(),
                network: "n".into(),
                api_version: version,
                event_lines: Arc::clone(&listener.event_lines),
            }),
            batch: Vec::new(),
            batch_bytes: 0,
            batch_received_at: 0,
            previous: None,
            delivered: false,
        };
        stream.messages.monitor.heard();
        stream.announce(version).await.unwrap();
        let (sent, _) = tokio::join!(stream.announce(version), async {
            sleep(2 * no_message_timeout).await;
            batches.recv().await
        });
        sent.unwrap();
        assert!(!stream.messages.monitor.is_silent(no_message_timeout));
    }

    #[test]
    fn a_host_name_or_an_address_of_either_family_makes_a_url() {
        let source = |host| options(host, 9999).source();
        assert_eq!(source("node.example.com"), "node.example.com:9999");
        assert_eq!(source("10.0.0.1"), "10.0.0.1:9999");
        assert_eq!(source("::1"), "[::1]:9999");
    }
}
