//! A node that says again what another one said.
//!
//! A recording flows in; `/events` gives it out frame by frame, a recorded block a second divided by the speed, and
//! `/status` answers as the recorded node did. It keeps all it has said, so `start_from` works as on a node.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The stream of one node, frame by frame.
pub(super) struct Recording {
    /// The `ApiVersion` frame that every connection begins with.
    first: Bytes,
    frames: Vec<Frame>,
}

struct Frame {
    bytes: Bytes,
    /// Whether a block is announced, which takes a second.
    is_block: bool,
}

impl Recording {
    /// Reads what `GET /events` gave; keep-alive comments are left out.
    pub(super) fn parse(stream: &str) -> Self {
        let mut frames = stream
            .split_inclusive("\n\n")
            .filter(|frame| frame.starts_with("data:"))
            .map(|frame| Frame {
                bytes: Bytes::copy_from_slice(frame.as_bytes()),
                is_block: frame.starts_with("data:{\"BlockAdded\""),
            })
            .collect::<Vec<_>>();
        let first = if frames.is_empty() { Bytes::new() } else { frames.remove(0).bytes };
        Recording { first, frames }
    }

    /// How many events it holds.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// How long it takes at this speed; `None` at full speed.
    pub(super) fn duration(&self, speed: f64) -> Option<Duration> {
        let blocks = self.frames.iter().filter(|frame| frame.is_block).count();
        block_pause(speed).map(|pause| pause.saturating_mul(u32::try_from(blocks).unwrap_or(u32::MAX)))
    }

    /// The payloads of its events.
    pub(super) fn payloads(&self) -> Vec<String> {
        let payload = |frame: &Frame| {
            let frame = std::str::from_utf8(&frame.bytes).ok()?.strip_prefix("data:")?;
            frame.rsplit_once("\nid:").map(|(payload, _)| payload.to_owned())
        };
        self.frames.iter().map(|frame| payload(frame).unwrap_or_default()).collect()
    }
}

/// The running node.
pub(super) struct DemoNode {
    address: SocketAddr,
    said: watch::Receiver<usize>,
}

struct Shared {
    recording: Recording,
    status: &'static str,
    /// How many frames have been said.
    said: watch::Receiver<usize>,
}

impl DemoNode {
    /// Starts it on a free port of the loopback interface; it begins to speak when the first client listens.
    pub(super) async fn start(recording: Recording, status: &'static str, speed: f64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot open a port for the node")?;
        let address = listener.local_addr()?;
        let (say, said) = watch::channel(0);
        let shared = std::sync::Arc::new(Shared { recording, status, said: said.clone() });
        tokio::spawn(speak(std::sync::Arc::clone(&shared), say, speed));
        let router = Router::new()
            .route("/events", get(events))
            .route("/status", get(|State(shared): State<std::sync::Arc<Shared>>| async move { shared.status }))
            .with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(DemoNode { address, said })
    }

    /// How many events it has said.
    pub(super) fn said(&self) -> watch::Receiver<usize> {
        self.said.clone()
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }
}

/// How long a block takes at this speed; `None` at full speed.
fn block_pause(speed: f64) -> Option<Duration> {
    (speed > 0.0).then(|| Duration::try_from_secs_f64(1.0 / speed).unwrap_or(Duration::MAX))
}

/// Says frame after frame, at the pace of the recorded blocks.
async fn speak(shared: std::sync::Arc<Shared>, say: watch::Sender<usize>, speed: f64) {
    let pause = block_pause(speed);
    for (number, frame) in shared.recording.frames.iter().enumerate() {
        if let Some(pause) = pause.filter(|_| frame.is_block) {
            tokio::time::sleep(pause).await;
        }
        say.send_replace(number + 1);
    }
    // The channel stays open: a node that has nothing new to say is silent, not gone.
    say.closed().await;
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    start_from: usize,
}

async fn events(State(shared): State<std::sync::Arc<Shared>>, Query(start): Query<Start>) -> Response {
    let first = stream::once(std::future::ready(shared.recording.first.clone()));
    let rest = stream::unfold((start.start_from, shared), |(next, shared)| async move {
        let mut said = shared.said.clone();
        let silence = tokio::time::timeout(Duration::from_secs(15), said.wait_for(|said| *said > next)).await;
        match silence {
            Err(_) => Some((Bytes::from_static(b":\n\n"), (next, shared))),
            Ok(Err(_)) => None,
            Ok(Ok(_)) => {
                let frame = shared.recording.frames.get(next)?.bytes.clone();
                Some((frame, (next + 1, shared)))
            }
        }
    });
    let body = Body::from_stream(first.chain(rest).map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_keeps_every_frame_but_the_comments() {
        let stream =
            "data:{\"ApiVersion\":\"2.0.0\"}\n\n:\n\ndata:{\"BlockAdded\":1}\nid:0\n\ndata:\"Shutdown\"\nid:1\n\n";
        let recording = Recording::parse(stream);
        assert_eq!(recording.first, "data:{\"ApiVersion\":\"2.0.0\"}\n\n");
        assert_eq!(recording.len(), 2);
        assert!(recording.frames[0].is_block && !recording.frames[1].is_block);
        assert_eq!(recording.payloads().last().map(String::as_str), Some("\"Shutdown\""));
    }
}
