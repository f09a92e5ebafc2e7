//! A Casper node's outside, under a test's control: `/status` and `/events` on one port of loopback.
//!
//! In: events and orders (disconnect, die, come back, fall silent …) from the test. Out: what a real node would then send
//! to those who are connected. It keeps a node's ring of recent events and its habits with ids, and it can
//! misbehave in every way that was seen on real networks. It checks nothing of what it is told to send.
//!
//! A node runs on a thread of its own: it goes on while the test blocks.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::http;
use crate::port::ReservedPort;

/// How long a wait for somebody else lasts before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a node starts.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// How many of the newest events the node still has for those who connect later.
    pub ring_events: usize,
    /// The id of its first event.
    pub first_id: u64,
    /// `build_version` of `/status`.
    pub build_version: String,
    /// `chainspec_name` of `/status`.
    pub chainspec_name: String,
    /// What the stream announces first.
    pub api_version: String,
    /// A comment is sent after this time without an event.
    pub keep_alive: Duration,
    /// More streams than this at once get 503.
    pub streams_max: usize,
    /// A client for which more bytes than this wait is cut, as a real node cuts one that lags.
    pub waiting_bytes_max: usize,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            ring_events: 5_000,
            first_id: 0,
            build_version: "2.0.3-simulated".to_owned(),
            chainspec_name: "casper-test".to_owned(),
            api_version: "2.0.0".to_owned(),
            keep_alive: Duration::from_secs(15),
            streams_max: 100,
            waiting_bytes_max: 256 << 20,
        }
    }
}

/// A running node, or one that is down for the moment. It is gone for good when this is dropped.
pub struct SimulatedNode {
    port: ReservedPort,
    shared: Arc<Shared>,
    listening: Mutex<Option<JoinHandle<()>>>,
    /// Taken only on drop.
    runtime: Option<Runtime>,
}

struct Shared {
    options: NodeOptions,
    state: Mutex<State>,
    open_streams: watch::Sender<usize>,
    streams_so_far: watch::Sender<u64>,
    status_requests: watch::Sender<u64>,
    silent: watch::Sender<bool>,
}

struct State {
    ring: VecDeque<(u64, Bytes)>,
    next_id: u64,
    api_version: String,
    status: StatusAnswer,
    refusal: Option<u16>,
    next_connection: u64,
    /// Every open connection, those that only ask for `/status` included.
    connections: HashMap<u64, JoinHandle<()>>,
    streams: HashMap<u64, Outbox>,
}

enum StatusAnswer {
    Normal { build_version: String, chainspec_name: String },
    Verbatim(String),
}

/// What waits for one open stream, bounded by its bytes.
struct Outbox {
    sender: mpsc::UnboundedSender<Outgoing>,
    waiting_bytes: Arc<AtomicUsize>,
    waiting_bytes_max: usize,
}

/// The other end of an [`Outbox`].
struct Inbox {
    receiver: mpsc::UnboundedReceiver<Outgoing>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Outbox {
    fn new(waiting_bytes_max: usize) -> (Self, Inbox) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let inbox = Inbox { receiver, waiting_bytes: Arc::clone(&waiting_bytes) };
        (Self { sender, waiting_bytes, waiting_bytes_max }, inbox)
    }

    /// `false` when the client lags too far behind; one that is closing just now does not.
    fn send(&self, bytes: &Bytes) -> bool {
        let waiting = self.waiting_bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        let _ = self.sender.send(Outgoing::Chunk(bytes.clone()));
        waiting <= self.waiting_bytes_max
    }

    fn end(&self) {
        let _ = self.sender.send(Outgoing::End); // it may be closing by itself
    }
}

impl Inbox {
    async fn recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.receiver.recv().await;
        self.taken(outgoing.as_ref());
        outgoing
    }

    fn try_recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.receiver.try_recv().ok();
        self.taken(outgoing.as_ref());
        outgoing
    }

    fn taken(&self, outgoing: Option<&Outgoing>) {
        if let Some(Outgoing::Chunk(bytes)) = outgoing {
            self.waiting_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

/// What goes to one open stream.
enum Outgoing {
    /// Sent as one HTTP chunk, as a real node sends each of its events.
    Chunk(Bytes),
    /// The orderly end of the body.
    End,
}

impl SimulatedNode {
    /// Starts a node with a real node's settings.
    pub fn start() -> Self {
        Self::with(NodeOptions::default())
    }

    /// Starts a node on a free port.
    pub fn with(options: NodeOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("simulated-node")
            .enable_all()
            .build()
            .unwrap();
        let state = State {
            ring: VecDeque::new(),
            next_id: options.first_id,
            api_version: options.api_version.clone(),
            status: StatusAnswer::Normal {
                build_version: options.build_version.clone(),
                chainspec_name: options.chainspec_name.clone(),
            },
            refusal: None,
            next_connection: 0,
            connections: HashMap::new(),
            streams: HashMap::new(),
        };
        let shared = Shared {
            options,
            state: Mutex::new(state),
            open_streams: watch::Sender::new(0),
            streams_so_far: watch::Sender::new(0),
            status_requests: watch::Sender::new(0),
            silent: watch::Sender::new(false),
        };
        let node = Self {
            port: ReservedPort::new(),
            shared: Arc::new(shared),
            listening: Mutex::new(None),
            runtime: Some(runtime),
        };
        node.listen();
        node
    }

    /// Where the node serves both `/status` and `/events`; it stays the same over restarts.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    // What it sends.

    /// Puts an event into the ring, sends it to all streams, and returns its id. Each line of the payload becomes a
    /// `data:` line.
    pub fn push(&self, payload: impl AsRef<str>) -> u64 {
        self.push_all([payload]).start
    }

    /// Like [`push`](Self::push) for many, with nothing in between; returns their ids.
    pub fn push_all(&self, payloads: impl IntoIterator<Item = impl AsRef<str>>) -> Range<u64> {
        let mut state = self.shared.state();
        let first = state.next_id;
        for payload in payloads {
            let bytes = frame(payload.as_ref(), Some(state.next_id));
            state.publish(bytes, self.shared.options.ring_events);
        }
        first..state.next_id
    }

    /// Puts a frame exactly as it is, well-formed or not, into the ring and the streams. It takes an id, whether it
    /// contains one or not; [`next_id`](Self::next_id) says which.
    pub fn push_raw(&self, frame: impl Into<Bytes>) -> u64 {
        let mut state = self.shared.state();
        let id = state.next_id;
        state.publish(frame.into(), self.shared.options.ring_events);
        id
    }

    /// Sends bytes to all open streams, past the ring.
    pub fn send_raw(&self, bytes: impl Into<Bytes>) {
        self.shared.state().broadcast(&bytes.into());
    }

    /// Pushes events evenly at `events_per_second`.
    pub async fn play(&self, payloads: impl IntoIterator<Item = impl AsRef<str>>, events_per_second: u32) {
        let start = tokio::time::Instant::now();
        for (position, payload) in (0_u32..).zip(payloads) {
            tokio::time::sleep_until(start + Duration::from_secs(1) * position / events_per_second).await;
            self.push(payload);
        }
    }

    /// Announces another version on all streams and at the start of later ones.
    pub fn announce_api_version(&self, version: &str) {
        let mut state = self.shared.state();
        state.api_version = version.to_owned();
        let announcement = api_version_frame(version);
        state.broadcast(&announcement);
    }

    /// The id that the next event will get.
    pub fn next_id(&self) -> u64 {
        self.shared.state().next_id
    }

    /// Lets the ids go on at `id`.
    pub fn set_next_id(&self, id: u64) {
        self.shared.state().next_id = id;
    }

    // How it behaves.

    /// Cuts all connections without a last chunk; everybody may connect again at once.
    pub async fn disconnect_all(&self) {
        let connections: Vec<_> = self.shared.state().connections.drain().collect();
        for (_, connection) in connections {
            stop(connection).await;
        }
    }

    /// Ends all streams in an orderly way, as a node does that shuts down.
    pub fn end_streams(&self) {
        for stream in self.shared.state().streams.values() {
            stream.end();
        }
    }

    /// Stops listening and cuts all connections, as a killed process does. Connecting is refused from now on.
    pub async fn kill(&self) {
        let listening = self.listening.lock().unwrap().take();
        if let Some(listening) = listening {
            stop(listening).await;
        }
        self.disconnect_all().await;
    }

    /// Comes back after a clean stop: the ring is empty, the ids go on.
    pub async fn restart_clean(&self) {
        let next_id = self.next_id();
        self.restart_hard(next_id).await;
    }

    /// Comes back after a hard kill: the ring is empty, and ids from `first_id` on are given out (again), whatever
    /// they were used for before.
    pub async fn restart_hard(&self, first_id: u64) {
        self.kill().await;
        {
            let mut state = self.shared.state();
            state.ring.clear();
            state.next_id = first_id;
        }
        self.listen();
    }

    /// Sends nothing any more, not even keep-alives, and keeps all connections. What is pushed waits.
    pub fn go_silent(&self) {
        self.shared.silent.send_replace(true);
    }

    /// Speaks again, and sends what has waited.
    pub fn resume(&self) {
        self.shared.silent.send_replace(false);
    }

    /// Answers `/events` with `status` (503, 404 …) from now on. Open streams stay.
    pub fn refuse(&self, status: u16) {
        self.shared.state().refusal = Some(status);
    }

    /// Ends [`refuse`](Self::refuse).
    pub fn accept(&self) {
        self.shared.state().refusal = None;
    }

    /// Changes what `/status` says.
    pub fn set_status(&self, build_version: &str, chainspec_name: &str) {
        self.shared.state().status =
            StatusAnswer::Normal { build_version: build_version.to_owned(), chainspec_name: chainspec_name.to_owned() };
    }

    /// Makes `/status` answer with `body`, JSON or not.
    pub fn set_status_body(&self, body: &str) {
        self.shared.state().status = StatusAnswer::Verbatim(body.to_owned());
    }

    // What it sees.

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        *self.shared.open_streams.borrow()
    }

    /// Waits until at least `count` streams are open at once.
    pub async fn wait_for_connections(&self, count: usize) {
        wait_for(&self.shared.open_streams, "open streams", |open| *open >= count).await;
    }

    /// Waits until no stream is open.
    pub async fn wait_for_no_connections(&self) {
        wait_for(&self.shared.open_streams, "open streams", |open| *open == 0).await;
    }

    /// Waits until at least `count` streams have been opened since the node was made, closed ones included.
    pub async fn wait_for_streams_so_far(&self, count: u64) {
        wait_for(&self.shared.streams_so_far, "streams so far", |so_far| *so_far >= count).await;
    }

    /// How many streams have been opened since the node was made.
    pub fn streams_so_far(&self) -> u64 {
        *self.shared.streams_so_far.borrow()
    }

    /// Waits until `/status` has been asked for at least `count` times since the node was made.
    pub async fn wait_for_status_requests(&self, count: u64) {
        wait_for(&self.shared.status_requests, "status requests", |requests| *requests >= count).await;
    }

    fn listen(&self) {
        let runtime = self.runtime.as_ref().unwrap();
        let _inside = runtime.enter();
        let listener = self.port.listen();
        let listening = runtime.spawn(accept(Arc::clone(&self.shared), listener));
        *self.listening.lock().unwrap() = Some(listening);
    }
}

impl Drop for SimulatedNode {
    fn drop(&mut self) {
        // A plain drop would block, which is not allowed in an async test.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The bytes of one event on the stream: `data:` lines, the `id:` line if there is one, an empty line.
pub fn frame(payload: &str, id: Option<u64>) -> Bytes {
    let mut bytes = String::with_capacity(payload.len() + 32);
    for line in payload.split('\n') {
        bytes.push_str("data:");
        bytes.push_str(line);
        bytes.push('\n');
    }
    if let Some(id) = id {
        bytes.push_str(&format!("id:{id}\n"));
    }
    bytes.push('\n');
    bytes.into()
}

/// The bytes of a whole stream: the announcement of `api_version`, then the events with ids from `first_id` on.
pub fn stream(api_version: &str, first_id: u64, payloads: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let mut bytes = api_version_frame(api_version).to_vec();
    for (payload, id) in payloads.into_iter().zip(first_id..) {
        bytes.extend_from_slice(&frame(payload.as_ref(), Some(id)));
    }
    bytes
}

/// The announcement of a version.
pub fn api_version_frame(version: &str) -> Bytes {
    frame(&format!("{{\"ApiVersion\":\"{version}\"}}"), None)
}

/// Frames as no node should send them, for [`SimulatedNode::push_raw`] and [`SimulatedNode::send_raw`].
pub mod malformed {
    use bytes::Bytes;

    /// A payload that is JSON but for a byte that no UTF-8 text has.
    pub fn not_utf8(id: u64) -> Bytes {
        let mut bytes = b"data:{\"BlockAdded\":\"\xFF\xFE\"}\n".to_vec();
        bytes.extend_from_slice(format!("id:{id}\n\n").as_bytes());
        bytes.into()
    }

    /// A payload that is not JSON at all.
    pub fn not_json(id: u64) -> Bytes {
        super::frame("this is not JSON", Some(id))
    }

    /// A payload that stops in its middle, in a complete frame.
    pub fn truncated_json(payload: &str, id: u64) -> Bytes {
        let middle = (0..=payload.len() / 2).rev().find(|&at| payload.is_char_boundary(at)).unwrap();
        super::frame(&payload[..middle], Some(id))
    }

    /// A good event with `\r\n` at its line ends: allowed by the standard, sent by no node.
    pub fn carriage_returns(payload: &str, id: u64) -> Bytes {
        format!("data:{payload}\r\nid:{id}\r\n\r\n").into()
    }

    /// A good event without an id.
    pub fn without_id(payload: &str) -> Bytes {
        super::frame(payload, None)
    }

    /// The start of an event, without the empty line that ends it: what follows becomes part of it.
    pub fn without_end(payload: &str, id: u64) -> Bytes {
        format!("data:{payload}\nid:{id}\n").into()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Opens a stream: everything that the ring still has from `start_from` on is already waiting in it.
    fn open_stream(&self, connection: u64, start_from: Option<u64>) -> Result<Inbox, u16> {
        let mut state = self.state();
        if let Some(status) = state.refusal {
            return Err(status);
        }
        if state.streams.len() >= self.options.streams_max {
            return Err(503);
        }
        let (outbox, inbox) = Outbox::new(self.options.waiting_bytes_max);
        let replay = state.ring.iter().filter(|(id, _)| start_from.is_some_and(|start| *id >= start));
        for bytes in std::iter::once(&api_version_frame(&state.api_version)).chain(replay.map(|(_, bytes)| bytes)) {
            outbox.send(bytes);
        }
        state.streams.insert(connection, outbox);
        self.open_streams.send_replace(state.streams.len());
        self.streams_so_far.send_modify(|so_far| *so_far += 1);
        Ok(inbox)
    }

    fn status_body(&self) -> String {
        self.status_requests.send_modify(|requests| *requests += 1);
        let state = self.state();
        match &state.status {
            StatusAnswer::Verbatim(body) => body.clone(),
            StatusAnswer::Normal { build_version, chainspec_name } => serde_json::json!({
                "peers": [],
                "api_version": state.api_version,
                "build_version": build_version,
                "chainspec_name": chainspec_name,
                "reactor_state": "Validate",
            })
            .to_string(),
        }
    }
}

impl State {
    fn publish(&mut self, bytes: Bytes, ring_events: usize) {
        self.broadcast(&bytes);
        self.ring.push_back((self.next_id, bytes));
        self.next_id += 1;
        while self.ring.len() > ring_events {
            self.ring.pop_front();
        }
    }

    fn broadcast(&self, bytes: &Bytes) {
        for (number, stream) in &self.streams {
            if !stream.send(bytes)
                && let Some(connection) = self.connections.get(number)
            {
                connection.abort();
            }
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let mut state = shared.state();
        let number = state.next_connection;
        state.next_connection += 1;
        let connection = tokio::spawn(serve(Leaving { shared: Arc::clone(&shared), number }, socket));
        state.connections.insert(number, connection);
    }
}

/// Takes a connection out of the books however it ends.
struct Leaving {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.connections.remove(&self.number);
        if state.streams.remove(&self.number).is_some() {
            self.shared.open_streams.send_replace(state.streams.len());
        }
    }
}

async fn serve(connection: Leaving, mut socket: TcpStream) {
    let shared = &connection.shared;
    let Some(target) = read_target(&mut socket).await else { return };
    let path = target.split('?').next().unwrap();
    let answer = match path {
        "/status" => http::answer(200, "application/json", &shared.status_body()),
        "/events" => match http::start_from(&target) {
            Err(complaint) => http::answer(422, "text/plain", &complaint),
            Ok(start_from) => match shared.open_stream(connection.number, start_from) {
                Err(status) => http::answer(status, "text/plain", "refused\n"),
                Ok(stream) => {
                    let (reader, writer) = socket.into_split();
                    tokio::select! {
                        () = closed_by_peer(reader) => {}
                        _ = send(shared, stream, writer) => {}
                    }
                    return;
                }
            },
        },
        _ => http::answer(404, "text/plain", "no such path\n"),
    };
    let _ = socket.write_all(answer.as_bytes()).await; // whoever has gone needs no answer
}

async fn read_target(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < http::HEAD_BYTES_MAX {
        if socket.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
        if let Some((_, target)) = http::request(&head) {
            return Some(target);
        }
    }
    None
}

async fn closed_by_peer(mut reader: OwnedReadHalf) {
    let mut ignored = [0; 256];
    while matches!(reader.read(&mut ignored).await, Ok(1..)) {}
}

async fn send(shared: &Shared, mut stream: Inbox, mut writer: OwnedWriteHalf) -> std::io::Result<()> {
    /// Chunks that wait are written together up to this size.
    const WRITE_BYTES: usize = 64 * 1024;
    let mut silent = shared.silent.subscribe();
    writer.write_all(http::STREAM_HEAD.as_bytes()).await?;
    loop {
        let first = match timeout(shared.options.keep_alive, stream.recv()).await {
            Ok(outgoing) => outgoing,
            Err(_) => Some(Outgoing::Chunk(Bytes::from_static(b":\n\n"))),
        };
        if silent.wait_for(|silent| !silent).await.is_err() {
            return Ok(());
        }
        let mut outgoing = first;
        let mut pending = Vec::new();
        loop {
            match outgoing {
                Some(Outgoing::Chunk(bytes)) => http::append_chunk(&mut pending, &bytes),
                Some(Outgoing::End) | None => {
                    pending.extend_from_slice(http::LAST_CHUNK);
                    return writer.write_all(&pending).await;
                }
            }
            if pending.len() >= WRITE_BYTES {
                break;
            }
            match stream.try_recv() {
                Some(next) => outgoing = Some(next),
                None => break,
            }
        }
        writer.write_all(&pending).await?;
    }
}

/// Ends a task and waits until all that it held, its sockets too, is gone.
async fn stop(task: JoinHandle<()>) {
    task.abort();
    if let Err(error) = task.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn wait_for<T: std::fmt::Debug + Copy>(value: &watch::Sender<T>, what: &str, reached: impl FnMut(&T) -> bool) {
    let mut receiver = value.subscribe();
    let waited = timeout(PATIENCE, receiver.wait_for(reached)).await.is_ok();
    assert!(waited, "waited {PATIENCE:?} in vain; {what}: {:?}", *value.borrow());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Ending, Message, SseClient};
    use crate::story::{self, Story, StoryOptions};

    const API_VERSION: &str = r#"{"ApiVersion":"2.0.0"}"#;

    fn data(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|message| message.data.as_str()).collect()
    }

    fn ids(messages: &[Message]) -> Vec<Option<u64>> {
        messages.iter().map(|message| message.id).collect()
    }

    async fn get(node: &SimulatedNode, target: &str) -> SseClient {
        SseClient::connect(node.address(), target).await
    }

    #[tokio::test]
    async fn a_client_parses_what_the_node_sent_stored_and_live() {
        let node = SimulatedNode::start();
        let story = Story::new(1, &StoryOptions::small(6));
        let (stored, live) = story.events().split_at(20);
        node.push_all(stored);
        let mut client = get(&node, "/events?start_from=0").await;
        let first = client.expect_message().await;
        assert_eq!((first.data.as_str(), first.id), (API_VERSION, None));
        node.push_all(live);
        let messages = client.read_messages(story.events().len()).await;
        assert_eq!(data(&messages), story.events().iter().map(AsRef::as_ref).collect::<Vec<&str>>());
        assert_eq!(ids(&messages), (0..story.events().len() as u64).map(Some).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_stream_is_byte_for_byte_a_nodes_and_one_event_per_chunk() {
        let node = SimulatedNode::start();
        node.push_all(["{\"a\":1}", "{\n\"b\":2}"]);
        let mut client = get(&node, "/events?start_from=0").await;
        assert_eq!((client.status(), client.header("Content-Type")), (200, Some("text/event-stream")));
        for expected in
            ["data:{\"ApiVersion\":\"2.0.0\"}\n\n", "data:{\"a\":1}\nid:0\n\n", "data:{\ndata:\"b\":2}\nid:1\n\n"]
        {
            assert_eq!(client.next_chunk().await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn start_from_is_inclusive_and_reaches_back_to_the_rings_oldest() {
        let node = SimulatedNode::with(NodeOptions { ring_events: 3, first_id: 100, ..NodeOptions::default() });
        node.push_all((0..5).map(|number| number.to_string()));
        for (start_from, expected) in [("?start_from=0", 102), ("?start_from=103", 103), ("?start_from=104", 104)] {
            let mut client = get(&node, &format!("/events{start_from}")).await;
            client.expect_message().await;
            assert_eq!(client.expect_message().await.id, Some(expected), "{start_from}");
        }
        for from_now_on in ["", "?start_from=900"] {
            let mut client = get(&node, &format!("/events{from_now_on}")).await;
            client.expect_message().await;
            let next = node.push("live");
            assert_eq!(client.expect_message().await.id, Some(next), "{from_now_on}");
        }
    }

    #[tokio::test]
    async fn bad_queries_refusals_and_too_many_streams_are_answered_with_their_status() {
        let node = SimulatedNode::with(NodeOptions { streams_max: 1, ..NodeOptions::default() });
        assert_eq!(get(&node, "/events?start_from=-1").await.status(), 422);
        assert_eq!(get(&node, "/nowhere").await.status(), 404);
        node.refuse(502);
        assert_eq!(get(&node, "/events").await.status(), 502);
        node.accept();
        let _only = get(&node, "/events").await;
        assert_eq!(get(&node, "/events").await.status(), 503);
    }

    #[tokio::test]
    async fn status_says_what_the_test_wants() {
        let node = SimulatedNode::start();
        node.set_status("1.5.8-old", "casper-other");
        let mut answer = get(&node, "/status").await;
        let status: serde_json::Value = serde_json::from_slice(&answer.body().await).unwrap();
        assert_eq!(
            (status["build_version"].as_str(), status["chainspec_name"].as_str()),
            (Some("1.5.8-old"), Some("casper-other"))
        );
        node.set_status_body("<html>");
        assert_eq!(get(&node, "/status").await.body().await, b"<html>");
        node.wait_for_status_requests(2).await;
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_cut_before_too_much_waits_for_it() {
        let node = SimulatedNode::with(NodeOptions { waiting_bytes_max: 1 << 20, ..NodeOptions::default() });
        let mut stalled = get(&node, "/events").await;
        let event = "x".repeat(100_000);
        while node.open_streams() > 0 {
            node.push(&event);
            tokio::task::yield_now().await;
        }
        stalled.read_to_end().await;
        assert_eq!(stalled.ending(), Some(Ending::Cut));
    }

    #[tokio::test]
    async fn streams_are_cut_or_ended_as_ordered() {
        let node = SimulatedNode::start();
        let mut cut = get(&node, "/events").await;
        node.wait_for_connections(1).await;
        node.disconnect_all().await;
        cut.read_to_end().await;
        assert_eq!(cut.ending(), Some(Ending::Cut));
        node.wait_for_no_connections().await;

        let mut ended = get(&node, "/events").await;
        node.push(story::shutdown());
        node.end_streams();
        assert_eq!(data(&ended.read_to_end().await), [API_VERSION, "\"Shutdown\""]);
        assert_eq!(ended.ending(), Some(Ending::Finished));
        assert_eq!(node.streams_so_far(), 2);
    }

    #[tokio::test]
    async fn a_killed_node_refuses_connections_until_it_is_back_with_an_empty_ring() {
        let node = SimulatedNode::start();
        node.push_all(["1", "2", "3"]);
        node.kill().await;
        let refused = crate::client::Request::get(node.address(), "/events").try_open().await;
        assert_eq!(refused.err().map(|error| error.kind()), Some(std::io::ErrorKind::ConnectionRefused));

        node.restart_clean().await;
        assert_eq!(node.push("4"), 3);
        node.restart_hard(1).await;
        assert_eq!(node.push("other content"), 1);
        let mut client = get(&node, "/events?start_from=0").await;
        assert_eq!(data(&client.read_messages(2).await), [API_VERSION, "other content"]);
    }

    #[tokio::test]
    async fn a_silent_node_keeps_the_connection_and_what_was_pushed() {
        let keep_alive = Duration::from_millis(20);
        let node = SimulatedNode::with(NodeOptions { keep_alive, ..NodeOptions::default() });
        let mut client = get(&node, "/events").await;
        client.expect_message().await;
        assert_eq!(client.next_chunk().await.unwrap(), ":\n\n");
        node.go_silent();
        node.push("waits");
        // What was on its way may still arrive; then nothing does, however many keep-alives are due.
        while tokio::time::timeout(10 * keep_alive, client.next_chunk()).await.is_ok() {}
        node.resume();
        assert_eq!(client.expect_message().await.data, "waits");
    }

    #[tokio::test]
    async fn a_new_version_is_announced_at_once_and_to_later_clients() {
        let node = SimulatedNode::start();
        let mut early = get(&node, "/events").await;
        early.expect_message().await;
        node.announce_api_version("2.1.0");
        assert_eq!(early.expect_message().await.data, r#"{"ApiVersion":"2.1.0"}"#);
        assert_eq!(get(&node, "/events").await.expect_message().await.data, r#"{"ApiVersion":"2.1.0"}"#);
    }

    #[tokio::test]
    async fn malformed_frames_stand_in_the_ring_where_they_were_pushed() {
        let node = SimulatedNode::start();
        node.push("0");
        node.push_raw(malformed::not_utf8(1));
        node.push_raw(malformed::truncated_json("{\"a\":\"b\"}", 2));
        node.push("3");
        let mut client = get(&node, "/events?start_from=1").await;
        let body = client.body_until(|bytes| bytes.ends_with(b"id:3\n\n")).await;
        let expected = [
            &b"data:{\"ApiVersion\":\"2.0.0\"}\n\n"[..],
            &malformed::not_utf8(1),
            b"data:{\"a\"\nid:2\n\n",
            b"data:3\nid:3\n\n",
        ];
        assert_eq!(body, expected.concat());
    }

    #[tokio::test]
    async fn a_reconnecting_client_names_the_last_id_it_read() {
        let node = SimulatedNode::start();
        node.push_all(["0", "1", "2"]);
        let mut client = get(&node, "/events?start_from=1").await;
        client.read_messages(2).await;
        assert_eq!(client.last_event_id(), Some(1));
        let mut again = client.reconnect().await;
        // The simulated node ignores the header, as a real one does.
        assert_eq!(ids(&again.read_messages(2).await), [None, Some(1)]);
    }
}
