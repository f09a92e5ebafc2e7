//! `[sse_server.event_stream_server]`.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    casper::events::ZstdPassThrough,
    config::{
        error::ConfigError,
        section::{COUNT_MAX, DAY_SECONDS, KIB, MIB, PORT_MAX, Section},
    },
    engine::stream::ReplayChunks,
};

/// More than any system here lets one process have.
const CONNECTIONS_MAX: usize = 1_000_000;
/// Connections without a stream, beside those that may have one.
const SPARE_CONNECTIONS: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct EventStreamServer")]
pub(in crate::config) struct Keys {
    port: i64,
    max_concurrent_subscribers: i64,
    /// Only with `disable_event_persistence`, one section above.
    pub(super) event_stream_buffer_length: Option<i64>,
    #[serde(default)]
    replay_chunks: ReplayChunks,
    #[serde(default)]
    zstd: ZstdPassThrough,
    client_buffer_bytes: Option<i64>,
    max_connections: Option<i64>,
    header_timeout_seconds: Option<i64>,
    idle_timeout_seconds: Option<i64>,
    write_stall_timeout_seconds: Option<i64>,
}

/// `[sse_server.event_stream_server]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventStreamServer {
    /// Listening port; 0 is any free one.
    pub port: u16,
    /// The most streams open at once, on all endpoints together.
    pub max_concurrent_subscribers: u32,
    /// How replayed events are cut into HTTP chunks.
    pub replay_chunks: ReplayChunks,
    /// Which clients get stored zstd frames as they are.
    pub zstd: ZstdPassThrough,
    /// The buffer that a client's connection writes from, in bytes.
    pub client_buffer_bytes: usize,
    /// The most connections open at once, those without a stream included.
    pub max_connections: usize,
    /// The limit for a client to send its first request's header.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of its stream before it is cut off.
    pub write_stall_timeout: Duration,
}

pub(in crate::config) fn check(keys: &Keys, section: &Section<'_>) -> Result<EventStreamServer, ConfigError> {
    let port = section.number("port", keys.port, 0..=PORT_MAX)?;
    let subscribers = keys.max_concurrent_subscribers;
    let subscribers: u32 = section.number("max_concurrent_subscribers", subscribers, 1..=COUNT_MAX)?;
    Ok(EventStreamServer {
        port,
        max_concurrent_subscribers: subscribers,
        replay_chunks: keys.replay_chunks,
        zstd: keys.zstd,
        client_buffer_bytes: section.number_or(
            "client_buffer_bytes",
            keys.client_buffer_bytes,
            16 << 10,
            KIB..=16 * MIB,
        )?,
        max_connections: section.number_or(
            "max_connections",
            keys.max_connections,
            (subscribers as usize).saturating_add(SPARE_CONNECTIONS).min(CONNECTIONS_MAX),
            1..=CONNECTIONS_MAX as i64,
        )?,
        header_timeout: section.seconds_or(
            "header_timeout_seconds",
            keys.header_timeout_seconds,
            Duration::from_secs(10),
            1..=3600,
        )?,
        idle_timeout: section.seconds_or(
            "idle_timeout_seconds",
            keys.idle_timeout_seconds,
            Duration::from_secs(60),
            1..=DAY_SECONDS,
        )?,
        write_stall_timeout: section.seconds_or(
            "write_stall_timeout_seconds",
            keys.write_stall_timeout_seconds,
            Duration::from_secs(900),
            1..=DAY_SECONDS,
        )?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, loaded};

    fn stream(text: &str) -> EventStreamServer {
        loaded(text).config.sse_server.unwrap().event_stream_server
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let expected = EventStreamServer {
            port: 19999,
            max_concurrent_subscribers: 100,
            replay_chunks: ReplayChunks::Event,
            zstd: ZstdPassThrough::Sole,
            client_buffer_bytes: 16_384,
            max_connections: 1100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(900),
        };
        assert_eq!(stream(DEFAULT_SSE_ONLY), expected);
        let many = DEFAULT_SSE_ONLY.replace("max_concurrent_subscribers = 100", "max_concurrent_subscribers = 999_500");
        assert_eq!(stream(&many).max_connections, 1_000_000);
    }

    #[test]
    fn words_choose_chunks_and_compression() {
        let text = DEFAULT_FULL.replace("\"event\"", "\"block\"").replace("\"sole\"", "\"any\"");
        assert_eq!((stream(&text).replay_chunks, stream(&text).zstd), (ReplayChunks::Block, ZstdPassThrough::Any));
        assert_eq!(stream(&DEFAULT_FULL.replace("\"sole\"", "\"off\"")).zstd, ZstdPassThrough::Off);
    }
}
