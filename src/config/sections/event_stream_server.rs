//! `[sse_server.event_stream_server]`.

use std::net::IpAddr;

use serde::Deserialize;

use super::listen::{self, OneOrSeveral, TlsKeys, TokenKeys};
use crate::{
    casper::events::{self, ZstdPassThrough},
    config::{
        bounds::{COUNT_MAX, DAY_SECONDS, KIB, MIB},
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, bytes, count, seconds},
        error::ConfigError,
        section::Section,
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
    ip_address: Option<OneOrSeveral<IpAddr>>,
    cors_origin: Option<OneOrSeveral<String>>,
    tls: Option<TlsKeys>,
    bearer_tokens: Option<TokenKeys>,
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
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "sse_server.event_stream_server",
    is_list: false,
    text: "The event stream server.",
    keys: &[
        listen::IP_ADDRESS,
        listen::port("19999"),
        listen::cors_origin("\"*\""),
        KeyDescription::reference(
            "max_concurrent_subscribers",
            count(1, COUNT_MAX),
            DefaultValue::Required,
            "The most streams that are open at once. Further clients are refused.",
        )
        .with_example("100"),
        KeyDescription::reference(
            "event_stream_buffer_length",
            count(1, COUNT_MAX),
            DefaultValue::Value("5000"),
            "With disable_event_persistence: how many of the newest events are kept, at least. Otherwise it has no effect: a \
             client may start at any event of the log.",
        ),
        KeyDescription::new(
            "replay_chunks",
            Kind::Word(&["event", "block"]),
            DefaultValue::Value("\"event\""),
            "How stored events are cut into HTTP chunks. \"event\": one per chunk, which every client library can read. \
             \"block\": many per chunk, which is several times faster.",
        ),
        KeyDescription::new(
            "zstd",
            Kind::Word(&["sole", "any", "off"]),
            DefaultValue::Value("\"sole\""),
            "Which clients get stored events compressed, in the form in which they are on disk. \"sole\": those whose \
             Accept-Encoding is zstd alone. \"any\": those that name zstd among others. \"off\": none.",
        ),
        KeyDescription::new(
            "client_buffer_bytes",
            bytes(KIB, 16 * MIB),
            DefaultValue::Value("\"16 KiB\""),
            "The buffer of each client's connection. The head of its request must fit in it.",
        ),
        KeyDescription::new(
            "max_connections",
            count(1, CONNECTIONS_MAX as i64),
            DefaultValue::Otherwise("max_concurrent_subscribers + 1000"),
            "The most connections that are open at once, those without a stream included. One more closes the one that has \
             been idle for longest. With a low limit of open files (ulimit -n, LimitNOFILE) fewer fit; a warning at start \
             reports how many.",
        )
        .with_example("1100"),
        KeyDescription::new(
            "header_timeout_seconds",
            seconds(1, 3600),
            DefaultValue::Value("10"),
            "The time limit for the head of a client's first request.",
        ),
        KeyDescription::new(
            "idle_timeout_seconds",
            seconds(1, DAY_SECONDS),
            DefaultValue::Value("60"),
            "How long a connection may be idle. That is one without a request, or with an unfinished one after its first.",
        ),
        KeyDescription::new(
            "write_stall_timeout_seconds",
            seconds(1, DAY_SECONDS),
            DefaultValue::Value("900"),
            "How long a client may read nothing of its stream. Then the stream is cut; the client may come back and resume. A \
             slow client that reads a little now and then is not cut.",
        ),
    ],
};

pub(in crate::config) fn check(
    keys: &Keys,
    legacy_enabled: bool,
    section: &Section<'_>,
) -> Result<events::Options, ConfigError> {
    let default = PortOptions::default();
    let port = section.number("port", keys.port)?;
    let streams_max: usize = section.number("max_concurrent_subscribers", keys.max_concurrent_subscribers)?;
    let listen = listen::Keys::new(&keys.ip_address, &keys.cors_origin, &keys.tls, &keys.bearer_tokens);
    let port = PortOptions {
        port,
        listen: listen.check(default.listen.origins, section)?,
        streams_max,
        replay_chunks: keys.replay_chunks,
        client_buffer_bytes: section.number_or(
            "client_buffer_bytes",
            keys.client_buffer_bytes,
            default.client_buffer_bytes,
        )?,
        max_connections: section.number_or(
            "max_connections",
            keys.max_connections,
            streams_max.saturating_add(SPARE_CONNECTIONS).min(CONNECTIONS_MAX),
        )?,
        header_timeout: section.seconds_or(
            "header_timeout_seconds",
            keys.header_timeout_seconds,
            default.header_timeout,
        )?,
        idle_timeout: section.seconds_or("idle_timeout_seconds", keys.idle_timeout_seconds, default.idle_timeout)?,
        write_stall_timeout: section.seconds_or(
            "write_stall_timeout_seconds",
            keys.write_stall_timeout_seconds,
            default.write_stall_timeout,
        )?,
    };
    Ok(events::Options { port, zstd: keys.zstd, legacy_enabled, ..events::Options::default() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, loaded},
        engine::http::ListenOptions,
    };

    fn stream(text: &str) -> events::Options {
        loaded(text).config.sse_server.unwrap().event_stream_server
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let port = PortOptions {
            port: 19999,
            listen: ListenOptions::default(),
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
