//! A simulated consensus client: `/eth/v1/events` without replay, and answers that a test gives it.
//!
//! A test sets which events it sends, which topics it does not know, when it is away, and what it answers on other paths.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::http::{self, STREAM_HEAD, append_chunk};
use crate::port::ReservedPort;

/// A running client, or one that is away.
pub struct BeaconNode {
    port: ReservedPort,
    shared: Arc<Shared>,
    serving: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    readers: Vec<Reader>,
    answers: HashMap<String, String>,
    unknown_topics: HashSet<String>,
    heads: Vec<String>,
}

struct Reader {
    topics: Vec<String>,
    frames: mpsc::UnboundedSender<Bytes>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl BeaconNode {
    /// Starts a client on a port that stays its own. Within a Tokio runtime only.
    pub fn start() -> Self {
        let mut node = Self { port: ReservedPort::new(), shared: Arc::default(), serving: JoinSet::new() };
        node.come_back();
        node
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where it is, as a configuration has it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Listens again.
    pub fn come_back(&mut self) {
        let (listener, shared) = (self.port.listen(), Arc::clone(&self.shared));
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
    }

    /// Cuts every connection and refuses new ones.
    pub async fn go_away(&mut self) {
        self.serving.shutdown().await;
        self.shared.state().readers.clear();
    }

    /// Answers a path with this JSON.
    pub fn answer(&self, path: &str, json: &str) {
        self.shared.state().answers.insert(path.to_owned(), json.to_owned());
    }

    /// Does not know this topic.
    pub fn forget_topic(&self, topic: &str) {
        self.shared.state().unknown_topics.insert(topic.to_owned());
    }

    /// Sends an event to the clients that read its topic.
    pub fn push(&self, topic: &str, payload: &str) {
        self.send(topic, format!("event: {topic}\ndata: {payload}\n\n"));
    }

    /// Sends a frame as it is to the clients that read the topic.
    pub fn send(&self, topic: &str, frame: impl Into<Bytes>) {
        let frame = frame.into();
        let mut state = self.shared.state();
        state.readers.retain(|reader| {
            let wants = reader.topics.iter().any(|wanted| wanted == topic);
            !wants || reader.frames.send(frame.clone()).is_ok()
        });
    }

    /// The heads of all requests so far.
    pub fn request_heads(&self) -> Vec<String> {
        self.shared.state().heads.clone()
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let Some(head) = http::read_head(&mut stream).await else { return };
    let Some((method, target)) = http::request(&head) else { return };
    assert_eq!(method, "GET");
    shared.state().heads.push(String::from_utf8_lossy(&head).into_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    if path != "/eth/v1/events" {
        let answer = shared.state().answers.get(path).cloned();
        let answer = match answer {
            Some(json) => http::answer(200, "application/json", &json),
            None => http::answer(404, "application/json", r#"{"code":404,"message":"not found"}"#),
        };
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    let topics = query.split('&').filter_map(|field| field.strip_prefix("topics="));
    let topics: Vec<String> = topics.flat_map(|topics| topics.split(',')).map(str::to_owned).collect();
    let unknown = topics.iter().find(|topic| shared.state().unknown_topics.contains(*topic)).cloned();
    if let Some(unknown) = unknown {
        let body = format!(r#"{{"code":400,"message":"Invalid topic: {unknown}"}}"#);
        let _ = stream.write_all(http::answer(400, "application/json", &body).as_bytes()).await;
        return;
    }
    if stream.write_all(STREAM_HEAD.as_bytes()).await.is_err() {
        return;
    }
    let (frames, mut to_send) = mpsc::unbounded_channel();
    shared.state().readers.push(Reader { topics, frames });
    let mut closed = [0];
    loop {
        let frame = tokio::select! {
            frame = to_send.recv() => frame,
            // The reader sends nothing any more.
            _ = stream.read(&mut closed) => None,
        };
        let Some(frame) = frame else { break };
        let mut chunks = Vec::new();
        append_chunk(&mut chunks, &frame);
        while let Ok(frame) = to_send.try_recv() {
            append_chunk(&mut chunks, &frame);
            if chunks.len() > 1 << 16 {
                break;
            }
        }
        if stream.write_all(&chunks).await.is_err() {
            break;
        }
    }
}
