//! `[[sse_server.connections]]`: one table for each node to read.

use std::{net::IpAddr, time::Duration};

use serde::Deserialize;
use url::Host;

use super::timeouts;
use crate::config::{
    bounds::SECONDS_MAX,
    description::{DefaultValue, KeyDescription, Kind, SectionDescription, count, port, seconds},
    error::{ConfigError, Refusal},
    section::Section,
};
use crate::sse_client::stream::Timeouts;

/// Where a Casper node's REST server listens, unless its operator says otherwise.
const REST_PORT: u16 = 8888;

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Connection")]
pub(in crate::config) struct Keys {
    ip_address: String,
    sse_port: i64,
    /// Files of 2022 lack it: the listener did not ask the node for its version then.
    rest_port: Option<i64>,
    max_attempts: i64,
    delay_between_retries_in_seconds: i64,
    // A leftover of the time when a node had several streams.
    #[serde(rename = "allow_partial_connection")]
    _allow_partial_connection: Option<bool>,
    #[serde(default)]
    enable_logging: bool,
    connection_timeout_in_seconds: Option<i64>,
    no_message_timeout_in_seconds: Option<i64>,
    sleep_between_keep_alive_checks_in_seconds: Option<i64>,
}

/// `[[sse_server.connections]]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "sse_server.connections",
    is_list: true,
    text: "One such table per node. An event that several nodes report is stored and served once.",
    keys: &[
        KeyDescription::reference("ip_address", Kind::Host, DefaultValue::Required, "The node's IP address or host name.")
            .with_example("\"127.0.0.1\""),
        KeyDescription::reference("sse_port", port(1), DefaultValue::Required, "The port of the node's event stream.")
            .with_example("9999"),
        KeyDescription::reference(
            "rest_port",
            port(1),
            DefaultValue::Value("8888"),
            "The port of the node's REST server, where its version and network name are read.",
        ),
        KeyDescription::reference(
            "max_attempts",
            count(1, i64::MAX),
            DefaultValue::Required,
            "How many attempts in a row may fail. After that, with keep_trying, the pauses between attempts grow. Without it the \
             node is given up until Sidecar restarts, and when no node is left, Sidecar exits with status 1 and serves nothing.",
        )
        .with_example("10"),
        KeyDescription::reference(
            "delay_between_retries_in_seconds",
            seconds(0, SECONDS_MAX),
            DefaultValue::Required,
            "The pause before each further attempt.",
        )
        .with_example("5"),
        KeyDescription::no_effect(
            "allow_partial_connection",
            Kind::Switch,
            "false",
            "No effect: a node has only one stream.",
        ),
        KeyDescription::reference(
            "enable_logging",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether each event of this node is logged, at level INFO, which RUST_LOG=info shows.",
        ),
        timeouts::CONNECTION.in_reference(),
        timeouts::SILENCE.in_reference(),
        timeouts::SILENCE_CHECK.in_reference(),
    ],
};

/// One of `[[sse_server.connections]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConnection {
    /// The node's address or host name; displayed, it is ready for a URL.
    pub host: Host,
    /// The port of its event stream.
    pub sse_port: u16,
    /// The port of its REST server.
    pub rest_port: u16,
    /// How many failures in a row end the attempts; at least 1.
    pub max_attempts: u64,
    /// The pause before another attempt; may be zero.
    pub delay_between_retries: Duration,
    /// Whether each of this node's events is logged.
    pub enable_logging: bool,
    /// How long it is waited for.
    pub timeouts: Timeouts,
}

pub(in crate::config) fn check(keys: &Keys, section: &Section<'_>) -> Result<NodeConnection, ConfigError> {
    if keys.max_attempts < 1 {
        let fix = "set it to 1 or more, or delete this connection";
        return Err(Refusal::NoAttempts(section.invalid("max_attempts", keys.max_attempts, fix)).into());
    }
    let delay = keys.delay_between_retries_in_seconds;
    let timeouts = timeouts::Keys {
        connection: keys.connection_timeout_in_seconds,
        silence: keys.no_message_timeout_in_seconds,
        silence_check: keys.sleep_between_keep_alive_checks_in_seconds,
    };
    Ok(NodeConnection {
        host: host(&keys.ip_address, section)?,
        sse_port: section.number("sse_port", keys.sse_port)?,
        rest_port: section.number_or("rest_port", keys.rest_port, REST_PORT)?,
        max_attempts: section.number("max_attempts", keys.max_attempts)?,
        delay_between_retries: section.number("delay_between_retries_in_seconds", delay).map(Duration::from_secs)?,
        enable_logging: keys.enable_logging,
        timeouts: timeouts.check(section)?,
    })
}

fn host(text: &str, section: &Section<'_>) -> Result<Host, ConfigError> {
    parse_host(text).ok_or_else(|| {
        let fix = "set it to an IP address or a host name, without scheme and port";
        section.invalid("ip_address", format_args!("'{text}'"), fix)
    })
}

/// A node's address, or a name that a URL can carry.
pub(in crate::config) fn parse_host(text: &str) -> Option<Host> {
    match (text.parse::<IpAddr>(), Host::parse(text)) {
        (Ok(IpAddr::V4(address)), _) => Some(Host::Ipv4(address)),
        (Ok(IpAddr::V6(address)), _) => Some(Host::Ipv6(address)),
        (Err(_), Ok(Host::Domain(name))) => Some(Host::Domain(name)),
        // URLs also read `127.1` as an address; here that is a typing error.
        (Err(_), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{DEFAULT_SSE_ONLY, load, loaded, refused, with};

    #[test]
    fn defaults_are_the_documented_ones() {
        let node = &loaded(DEFAULT_SSE_ONLY).config.sse_server.unwrap().connections[0];
        let Timeouts { connection, silence, silence_check } = node.timeouts;
        assert_eq!([connection, silence, silence_check].map(|time| time.as_secs()), [5, 120, 60]);
        let of_2022 = DEFAULT_SSE_ONLY.replace("rest_port = 8888\n", "");
        assert_eq!(loaded(&of_2022).config.sse_server.unwrap().connections[0].rest_port, 8888);
    }

    #[test]
    fn no_attempts_are_refused_in_the_words_operators_know() {
        let error = refused(&DEFAULT_SSE_ONLY.replace("max_attempts = 10", "max_attempts = 0"));
        let expected = "Error running component 'sse_event_server': \
                        Unable to run: max_attempts setting must be above 0 for the sidecar to attempt connection\n\
                        `sse_server.connections[0].max_attempts` is 0 (line 29); set it to 1 or more, or delete this connection";
        assert_eq!(error, expected);
        let largest = with(DEFAULT_SSE_ONLY, "sse_server.connections.max_attempts", toml::Value::Integer(i64::MAX));
        assert_eq!(loaded(&largest).config.sse_server.unwrap().connections[0].max_attempts, i64::MAX as u64);
    }

    #[test]
    fn a_node_has_an_address_or_a_name() {
        let host = |text: &str| {
            let file = DEFAULT_SSE_ONLY.replace("\"127.0.0.1\"", &format!("\"{text}\""));
            load(&file).map(|loaded| loaded.config.sse_server.unwrap().connections.remove(0).host.to_string())
        };
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
            ("localhost", "localhost"),
            ("casper_node-1.internal", "casper_node-1.internal"),
            ("node.example.org", "node.example.org"),
        ] {
            assert_eq!(host(text).unwrap(), shown);
        }
        for text in ["", "http://node", "node:9999", "300.1.1.1", "127.1", "a b", "node/path"] {
            let error = refused(&DEFAULT_SSE_ONLY.replace("\"127.0.0.1\"", &format!("\"{text}\"")));
            let expected =
                format!("`sse_server.connections[0].ip_address` is '{text}' (line 21); set it to an IP address or");
            assert!(error.contains(&expected), "{error}");
        }
    }
}
