//! `[sse_server]`: which nodes to read, and what is above the sections for each node and for the server.

use serde::Deserialize;

use super::{
    event_stream_server,
    node_connection::{self, NodeConnection},
};
use crate::casper::events;
use crate::config::{
    description::{DefaultValue, KeyDescription, Kind, SectionDescription, count},
    error::ConfigError,
    section::{Section, yes},
};

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct SseServer")]
pub(in crate::config) struct Keys {
    #[serde(default = "yes")]
    pub(in crate::config) enable_server: bool,
    #[serde(default)]
    emulate_legacy_sse_apis: Vec<LegacySseApi>,
    #[serde(default)]
    pub(in crate::config) disable_event_persistence: bool,
    #[serde(default)]
    keep_trying: bool,
    inbound_channel_size: Option<i64>,
    // Subscribers read the log themselves, so no queue is between the handler and them.
    #[serde(rename = "outbound_channel_size")]
    _outbound_channel_size: Option<i64>,
    connections: Vec<node_connection::Keys>,
    event_stream_server: event_stream_server::Keys,
}

/// `[sse_server]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "sse_server",
    is_list: false,
    text: "The nodes to read, and the server of their events.",
    keys: &[
        KeyDescription::reference(
            "enable_server",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether nodes are read and their events are served.",
        ),
        KeyDescription::reference(
            "emulate_legacy_sse_apis",
            Kind::Words(&["V1"]),
            DefaultValue::Value("[]"),
            "Former APIs to serve as well. \"V1\": /events/main, /events/deploys and /events/sigs, as nodes of version 1 had \
             them.",
        )
        .with_example("[\"V1\"]"),
        KeyDescription::reference(
            "disable_event_persistence",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether only the newest events are kept, see event_stream_buffer_length. None are exported then.",
        ),
        KeyDescription::new(
            "keep_trying",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether a node is still tried after max_attempts failures, with growing pauses of up to a minute, while the \
             stored events are served. With false such a node is given up, and when no node is left, Sidecar exits with \
             status 1, as the Casper Sidecar does.",
        )
        .with_example("true"),
        KeyDescription::reference(
            "inbound_channel_size",
            count(1, 1_000_000),
            DefaultValue::Value("1000"),
            "Events that may wait between a node's reader and the log.",
        ),
        KeyDescription::no_effect(
            "outbound_channel_size",
            count(i64::MIN, i64::MAX),
            "1000",
            "No effect: clients read the log themselves.",
        ),
    ],
};

/// `[sse_server]`, enabled.
#[derive(Clone, Debug, PartialEq)]
pub struct SseServer {
    /// `[[sse_server.connections]]`: the nodes to read, in the file's order. With none, there is nothing to connect to.
    pub connections: Vec<NodeConnection>,
    /// Whether nodes are tried without end, and history is served while none is left.
    pub keep_trying: bool,
    /// `[sse_server.event_stream_server]`.
    pub event_stream_server: events::Options,
    /// How many events may wait between a node's reader and the writer of the log.
    pub inbound_channel_size: usize,
    /// With `disable_event_persistence`: how many of the newest events to keep at least, `event_stream_buffer_length`.
    /// `None` keeps all.
    pub keep_only_newest: Option<u64>,
}

/// A former API of the event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(in crate::config) enum LegacySseApi {
    /// `/events/main`, `/events/deploys` and `/events/sigs` of 1.x nodes.
    V1,
}

pub(in crate::config) fn check(keys: Keys, section: &Section<'_>) -> Result<SseServer, ConfigError> {
    let connections = keys.connections.into_iter().enumerate();
    let stream = &keys.event_stream_server;
    let stream_section = section.below("event_stream_server");
    let buffer_length = stream.event_stream_buffer_length;
    let buffer_length = stream_section.number_or("event_stream_buffer_length", buffer_length, 5000)?;
    Ok(SseServer {
        connections: connections
            .map(|(index, node)| node_connection::check(&node, &section.below(&format!("connections[{index}]"))))
            .collect::<Result<_, _>>()?,
        keep_trying: keys.keep_trying,
        event_stream_server: event_stream_server::check(
            stream,
            !keys.emulate_legacy_sse_apis.is_empty(),
            &stream_section,
        )?,
        inbound_channel_size: section.number_or("inbound_channel_size", keys.inbound_channel_size, 1000)?,
        keep_only_newest: keys.disable_event_persistence.then_some(buffer_length),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, loaded};

    #[test]
    fn defaults_are_the_documented_ones() {
        let sse = loaded(DEFAULT_SSE_ONLY).config.sse_server.unwrap();
        assert_eq!((sse.inbound_channel_size, sse.keep_only_newest), (1000, None));
        assert!(!sse.event_stream_server.legacy_enabled);
        let old = DEFAULT_SSE_ONLY.replace("keep_trying = true\n", "");
        assert!(sse.keep_trying && !loaded(&old).config.sse_server.unwrap().keep_trying);
    }

    #[test]
    fn without_event_persistence_the_buffer_length_is_the_number_of_events_to_keep() {
        let text = DEFAULT_FULL.replace("disable_event_persistence = false", "disable_event_persistence = true");
        let kept = |text: &str| loaded(text).config.sse_server.unwrap().keep_only_newest;
        assert_eq!(kept(&text), Some(5000));
        assert_eq!(kept(&text.replace("event_stream_buffer_length = 5000", "event_stream_buffer_length = 7")), Some(7));
        assert_eq!(kept(DEFAULT_FULL), None);
    }
}
