//! The SSE server: `GET /events` and `GET /events/sidecar`.
//!
//! Owns the requests of one HTTP front and one cursor per client. The log's blocks flow in, woken by one
//! watch on its head; the bytes of a client's stream flow out. Nothing is queued, copied or parsed per client: the log
//! holds events in the form in which they are sent, and a client is a position in it (`cursor`), a filter, and the HTTP
//! body that walks on from there (`subscriber`). A slow client keeps its place and falls back to the disk; it is never
//! cut while it takes anything at all, and never holds a block while it waits.
//!
//! Not in here: what an event means (`source`), how it got a sequence (`ingest`), and the 1.x endpoints.

mod ahead;
mod compression;
mod cursor;
mod large;
mod lending;
mod log_name;
mod readers;
mod request;
mod server;
mod subscriber;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use sidecar_log_format::Kind;

use crate::engine::http::front::FrontCounters;

pub use readers::{ClassLag, ReaderClass, Readers};
#[cfg(any(test, fuzzing))]
pub(crate) use request::door as request_door;
pub use server::{BindError, Handle, Server};

/// Names the range of sequences that the log retained when the stream began, as `OLDEST-NEWEST`, both inclusive. On every
/// `200` of `/events`; absent while the log is empty.
pub const RETAINED_RANGE_HEADER: &str = "sidecar-retained-range";

/// Names the log whose events a stream has, as `ID;epoch=N`. On every answer of `/events` that has to do with ids. An id of
/// one log says nothing about another, nor about another epoch of the same.
pub const LOG_HEADER: &str = "sidecar-log";

/// How the server listens and what it grants a client.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The TCP port; 0 lets the system choose one.
    pub port: u16,
    /// The address to listen on.
    pub listen: IpAddr,
    /// Open streams on all endpoints together; a request beyond is refused with 503.
    pub max_concurrent_subscribers: u32,
    /// How a replay is cut into HTTP chunks.
    pub replay_chunks: ReplayChunks,
    /// Who gets a zstd stream.
    pub zstd: ZstdPassThrough,
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
    /// Blocks that are read and decoded at the same time, at least 1.
    pub decode_concurrency: usize,
    /// The dialect's kinds and their names, as `types=` takes them.
    pub kinds: &'static [(Kind, &'static str)],
    /// Whether `emulate_legacy_sse_apis` names `V1`: the 404 then names other paths.
    pub legacy_enabled: bool,
    /// The kind of a node's `"Shutdown"`, which passes every filter.
    pub shutdown_kind: Kind,
    /// What `/events/sidecar` announces.
    pub sidecar_version: String,
}

impl StreamOptions {
    /// The defaults, for a dialect of these kinds.
    #[must_use]
    pub fn new(kinds: &'static [(Kind, &'static str)], shutdown_kind: Kind) -> Self {
        StreamOptions {
            port: 0,
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            max_concurrent_subscribers: 100,
            replay_chunks: ReplayChunks::Event,
            zstd: ZstdPassThrough::Sole,
            client_buffer_bytes: 16 << 10,
            max_connections: 1100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(900),
            decode_concurrency: 2,
            kinds,
            legacy_enabled: false,
            shutdown_kind,
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// How a stream is cut into HTTP chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplayChunks {
    /// One message per chunk, as many client libraries expect; one of more than 64 KiB takes several.
    #[default]
    Event,
    /// Up to a whole block of messages: cheaper.
    Block,
}

/// Who gets stored blocks as they are, with `content-encoding: zstd`. Only unfiltered streams do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZstdPassThrough {
    /// A client whose `Accept-Encoding` names zstd and no other coding, or that asks with `?encoding=zstd`.
    #[default]
    Sole,
    /// Also a client that names zstd among others.
    Any,
    /// Nobody.
    Off,
}

/// What the server has done since it was bound, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Open streams.
    pub subscribers: AtomicUsize,
    /// What happened to connections.
    pub front: Arc<FrontCounters>,
    /// Bytes of streams handed to HTTP, before chunking.
    pub bytes_sent: AtomicU64,
    /// Streams ever opened.
    pub streams_opened: AtomicU64,
    /// Requests refused with 404, 422 or 503.
    pub refused: AtomicU64,
    /// How far the open streams have come.
    pub readers: Readers,
}
