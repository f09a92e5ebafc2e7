//! A port that streams are served on: its connections, the streams that may be open, and how HTTP takes their pieces.
//!
//! A dialect binds one and hands in its router; the streams of several hubs may be behind it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, middleware};

use super::counters::PortCounters;
use crate::engine::http::{
    BindError, ListenOptions,
    cors::{Origins, PageMethods, let_pages_in},
    front::Front,
    limits::{BYTES_PER_SECOND_MIN, FrontLimits},
};

/// What hyper asks for at least, and the room below.
const CLIENT_BUFFER_BYTES_MIN: usize = 9 << 10;
/// Once its buffer is full but for this, a connection writes before it takes another event.
const BUFFER_ROOM_BYTES: usize = 1 << 10;
/// What a buffer holds beside one large piece: the response's head, or the chunk's length.
const BESIDE_PIECE_BYTES: usize = 512;

/// How a port listens, and what it grants a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// The TCP port; 0 lets the system choose one.
    pub port: u16,
    /// Where it listens on that port, and whom it lets in.
    pub listen: ListenOptions,
    /// Open streams on all paths together.
    pub streams_max: usize,
    /// How a replay is cut into HTTP chunks.
    pub replay_chunks: ReplayChunks,
    /// Bytes that HTTP holds ready for one client, at least 8192; one piece may come on top.
    pub client_buffer_bytes: usize,
    /// Open connections, those without a stream included; see [`crate::engine::http::front`] for this and the time-outs.
    pub max_connections: usize,
    /// How long a connection may take to send the head of its first request.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of what it is sent.
    pub write_stall_timeout: Duration,
}

impl Default for PortOptions {
    fn default() -> Self {
        PortOptions {
            port: 0,
            listen: ListenOptions::default(),
            streams_max: 100,
            replay_chunks: ReplayChunks::Event,
            client_buffer_bytes: 16 << 10,
            max_connections: 1100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(900),
        }
    }
}

/// How a stream is cut into HTTP chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayChunks {
    /// One message per chunk, as many client libraries expect; one of more than 64 KiB takes several.
    #[default]
    Event,
    /// Up to a whole block of messages: cheaper.
    Block,
}

/// How the HTTP of a port takes the pieces of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    replay_chunks: ReplayChunks,
    buffer_bytes: usize,
}

impl Delivery {
    /// Whether HTTP/1.1 copies all that it is given into one buffer: best for many small chunks, which then leave in one
    /// write.
    pub(super) fn copies(self) -> bool {
        self.replay_chunks == ReplayChunks::Event
    }

    /// The pieces that a stored frame is cut into: where they are copied, one fills the buffer without making it grow.
    pub(super) fn stored_piece_bytes(self) -> usize {
        if self.copies() { self.buffer_bytes - BESIDE_PIECE_BYTES } else { usize::MAX }
    }
}

/// A bound port.
pub struct Port {
    front: Front,
    origins: Origins,
    page_methods: PageMethods,
    open_streams: OpenStreams,
    delivery: Delivery,
}

impl Port {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address or the file.
    pub fn bind(options: &PortOptions) -> Result<Port, BindError> {
        let buffer_bytes = options.client_buffer_bytes.max(CLIENT_BUFFER_BYTES_MIN);
        let delivery = Delivery { replay_chunks: options.replay_chunks, buffer_bytes };
        let limits = FrontLimits {
            connections_max: options.max_connections,
            // Streams do not end by themselves.
            waits_for_places: false,
            // Streams may all come through one proxy.
            connections_per_client_max: options.max_connections,
            descriptors_percent: 60,
            header_timeout: options.header_timeout,
            idle_timeout: options.idle_timeout,
            write_stall_timeout: options.write_stall_timeout,
            bytes_per_second_min: BYTES_PER_SECOND_MIN,
            http1_buffer_bytes: buffer_bytes - BUFFER_ROOM_BYTES,
            http2_buffer_bytes: buffer_bytes,
            http1_vectored: !delivery.copies(),
        };
        let counters: Arc<PortCounters> = Arc::default();
        let front = Front::bind(&options.listen, options.port, limits, Arc::clone(&counters.front))?;
        let origins = options.listen.origins.clone();
        let open_streams = OpenStreams { max: options.streams_max, counters };
        Ok(Port { front, origins, page_methods: PageMethods::Read, open_streams, delivery })
    }

    /// Lets web pages use these methods; without it, only those that read.
    #[must_use]
    pub fn with_page_methods(self, page_methods: PageMethods) -> Port {
        Port { page_methods, ..self }
    }

    /// Where it listens, and what it counts of connections and requests.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// The streams that are open on it.
    #[must_use]
    pub fn open_streams(&self) -> OpenStreams {
        self.open_streams.clone()
    }

    /// How it takes the pieces of a stream.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// Hands requests to `router` until `cancel` is done; then every connection is cut, without a message.
    pub async fn serve(self, router: Router, cancel: impl Future<Output = ()>) {
        let cors = middleware::from_fn_with_state((self.origins, self.page_methods), let_pages_in);
        self.front.serve(router.layer(cors), cancel).await;
    }
}

/// The streams that are open on one port, and how many may be. Clones share everything.
#[derive(Clone, Debug)]
pub struct OpenStreams {
    max: usize,
    counters: Arc<PortCounters>,
}

/// One of the streams that may be open; another may take its place when this is dropped.
#[derive(Debug)]
pub struct OpenStream(Arc<PortCounters>);

impl OpenStreams {
    /// What the port has done so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<PortCounters> {
        &self.counters
    }

    /// How many may be open.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Whether as many are open as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.counters.open_streams.load(Ordering::Relaxed) >= self.max
    }

    /// Takes a place, if one is free.
    #[must_use]
    pub fn open(&self) -> Option<OpenStream> {
        let room_for_one = |open| (open < self.max).then_some(open + 1);
        let open = &self.counters.open_streams;
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room_for_one).ok()?;
        Some(OpenStream(Arc::clone(&self.counters)))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}
