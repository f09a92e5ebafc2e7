//! `[sse_server.event_stream_server]`.

use serde::Deserialize;

use crate::{
    casper::events::{self, ZstdPassThrough},
    config::{
        error::ConfigError,
        section::{COUNT_MAX, DAY_SECONDS, KIB, MIB, PORT_MAX, Section},
    },
    engine::stream::{PortOptions, ReplayChunks},
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

pub(in crate::config) fn check(
    keys: &Keys,
    legacy_enabled: bool,
    section: &Section<'_>,
) -> Result<events::Options, ConfigError> {
    let default = PortOptions::default();
    let port = section.number("port", keys.port, 0..=PORT_MAX)?;
    let streams_max: usize =
        section.number("max_concurrent_subscribers", keys.max_concurrent_subscribers, 1..=COUNT_MAX)?;
    let port = PortOptions {
        port,
        streams_max,
        replay_chunks: keys.replay_chunks,
        client_buffer_bytes: section.number_or(
            "client_buffer_bytes",
            keys.client_buffer_bytes,
            default.client_buffer_bytes,
            KIB..=16 * MIB,
        )?,
        max_connections: section.number_or(
            "max_connections",
            keys.max_connections,
            streams_max.saturating_add(SPARE_CONNECTIONS).min(CONNECTIONS_MAX),
            1..=CONNECTIONS_MAX as i64,
        )?,
        header_timeout: section.seconds_or(
            "header_timeout_seconds",
            keys.header_timeout_seconds,
            default.header_timeout,
            1..=3600,
        )?,
        idle_timeout: section.seconds_or(
            "idle_timeout_seconds",
            keys.idle_timeout_seconds,
            default.idle_timeout,
            1..=DAY_SECONDS,
        )?,
        write_stall_timeout: section.seconds_or(
            "write_stall_timeout_seconds",
            keys.write_stall_timeout_seconds,
            default.write_stall_timeout,
            1..=DAY_SECONDS,
        )?,
        ..default
    };
    Ok(events::Options { port, zstd: keys.zstd, legacy_enabled, ..events::Options::default() })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        time::Duration,
    };

    use super::*;
    use crate::config::samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, loaded};

    fn stream(text: &str) -> events::Options {
        loaded(text).config.sse_server.unwrap().event_stream_server
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let port = PortOptions {
            port: 19999,
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            streams_max: 100,
            replay_chunks: ReplayChunks::Event,
            client_buffer_bytes: 16_384,
            max_connections: 1100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(900),
        };
        let expected = events::Options {
            port,
            zstd: ZstdPassThrough::Sole,
            legacy_enabled: false,
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        assert_eq!(stream(DEFAULT_SSE_ONLY), expected);
        let many = DEFAULT_SSE_ONLY.replace("max_concurrent_subscribers = 100", "max_concurrent_subscribers = 999_500");
        assert_eq!(stream(&many).port.max_connections, 1_000_000);
    }

    #[test]
    fn words_choose_chunks_and_compression() {
        let text = DEFAULT_FULL.replace("\"event\"", "\"block\"").replace("\"sole\"", "\"any\"");
        assert_eq!((stream(&text).port.replay_chunks, stream(&text).zstd), (ReplayChunks::Block, ZstdPassThrough::Any));
        assert_eq!(stream(&DEFAULT_FULL.replace("\"sole\"", "\"off\"")).zstd, ZstdPassThrough::Off);
    }
}
