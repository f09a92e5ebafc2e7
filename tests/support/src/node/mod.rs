//! A Casper node's outside, under a test's control: `/status` and `/events` on one port of loopback.
//!
//! In: events and orders (disconnect, die, come back, fall silent …) from the test. Out: what a real node would then send
//! to the connected clients. It keeps a node's ring of recent events and its habits with ids, and it can
//! misbehave in every way that was seen on real networks. It does not check what it sends.
//!
//! A node runs on a thread of its own, so it continues while the test blocks. `frames` has the bytes of its stream,
//! `connection` what one client gets.

mod connection;
mod frames;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::port::ReservedPort;
use connection::{Inbox, Outbox};
pub use frames::{api_version_frame, frame, malformed, stream};

/// How long a wait for a client lasts before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a node starts.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// How many of the newest events the node still has for clients that connect later.
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
    /// contains one or not; [`next_id`](Self::next_id) is that id.
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

    /// Lets the ids continue at `id`.
    pub fn set_next_id(&self, id: u64) {
        self.shared.state().next_id = id;
    }

    // How it behaves.

    /// Cuts all connections without a last chunk; every client may connect again at once.
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

    /// Comes back after a clean stop: the ring is empty, the ids continue.
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

    /// Changes what `/status` answers.
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
        let listening = runtime.spawn(connection::accept(Arc::clone(&self.shared), listener));
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
