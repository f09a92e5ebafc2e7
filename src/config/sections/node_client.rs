//! `[rpc_server.node_client]`: the link to a node's binary port.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    casper::rpc::{Backoff, NodeLinkOptions},
    config::{
        bounds::{COUNT_MAX, MILLISECONDS_MAX, SECONDS_MAX},
        description::{
            DefaultValue, KeyDescription, Kind, SectionDescription, bytes, count, milliseconds, port, seconds,
        },
        error::ConfigError,
        section::Section,
    },
};

/// Half of the numbers that requests on one connection to a node can have.
const REQUESTS_MAX: i64 = 32_768;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct NodeClient")]
pub(in crate::config) struct Keys {
    ip_address: Option<IpAddr>,
    port: Option<i64>,
    max_message_size_bytes: Option<i64>,
    message_timeout_secs: Option<i64>,
    client_access_timeout_secs: Option<i64>,
    keepalive_timeout_ms: Option<i64>,
    request_limit: Option<i64>,
    request_buffer_size: Option<i64>,
    #[serde(default)]
    exponential_backoff: BackoffKeys,
}

/// `[rpc_server.node_client.exponential_backoff]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct ExponentialBackoff")]
pub(in crate::config) struct BackoffKeys {
    initial_delay_ms: Option<i64>,
    max_delay_ms: Option<i64>,
    coefficient: Option<i64>,
    max_attempts: Option<i64>,
}

/// `[rpc_server.node_client]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "rpc_server.node_client",
    is_list: false,
    text: "The link to the node's binary port.",
    keys: &[
        KeyDescription::reference(
            "ip_address",
            Kind::IpAddress,
            DefaultValue::Value("\"127.0.0.1\""),
            "The node's IP address.",
        ),
        KeyDescription::reference("port", port(1), DefaultValue::Value("28104"), "The node's binary port.")
            .with_example("7779"),
        KeyDescription::reference(
            "max_message_size_bytes",
            bytes(1, COUNT_MAX),
            DefaultValue::Value("4_194_304"),
            "The largest frame in either direction.",
        ),
        KeyDescription::reference(
            "message_timeout_secs",
            seconds(1, SECONDS_MAX),
            DefaultValue::Value("30"),
            "The time limit for sending a request, and again for each wait for a response.",
        ),
        KeyDescription::reference(
            "client_access_timeout_secs",
            seconds(1, SECONDS_MAX),
            DefaultValue::Value("10"),
            "The time limit for a request's turn on the link, and for a reconnect inside a request.",
        ),
        KeyDescription::reference(
            "keepalive_timeout_ms",
            milliseconds(1, MILLISECONDS_MAX),
            DefaultValue::Value("1000"),
            "The interval of keep-alive requests.",
        ),
        KeyDescription::reference(
            "request_limit",
            count(1, REQUESTS_MAX),
            DefaultValue::Value("256"),
            "The most requests that are sent to the node and not answered. Others wait.",
        ),
        KeyDescription::reference(
            "request_buffer_size",
            count(0, COUNT_MAX),
            DefaultValue::Value("4096"),
            "The most requests that wait for their turn to be sent. Further ones are refused.",
        ),
    ],
};

/// `[rpc_server.node_client.exponential_backoff]`.
pub(in crate::config) const EXPONENTIAL_BACKOFF: SectionDescription = SectionDescription {
    path: "rpc_server.node_client.exponential_backoff",
    is_list: false,
    text: "How a lost node is connected again.",
    keys: &[
        KeyDescription::reference(
            "initial_delay_ms",
            milliseconds(0, MILLISECONDS_MAX),
            DefaultValue::Value("1000"),
            "The first pause.",
        ),
        KeyDescription::reference(
            "max_delay_ms",
            milliseconds(0, MILLISECONDS_MAX),
            DefaultValue::Value("64_000"),
            "The longest pause.",
        ),
        KeyDescription::reference(
            "coefficient",
            count(1, COUNT_MAX),
            DefaultValue::Value("2"),
            "The factor from each pause to the next one.",
        ),
        KeyDescription::reference(
            "max_attempts",
            count(1, COUNT_MAX),
            DefaultValue::Value("3"),
            "How many attempts in a row may fail until requests fail at once instead of waiting. Attempts continue.",
        ),
    ],
};

pub(in crate::config) fn check(
    keys: &Keys,
    network_name: Option<&str>,
    section: &Section<'_>,
) -> Result<NodeLinkOptions, ConfigError> {
    let message_size = keys.max_message_size_bytes;
    let (limit, buffer_size) = (keys.request_limit, keys.request_buffer_size);
    Ok(NodeLinkOptions {
        address: SocketAddr::new(
            keys.ip_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            section.number_or("port", keys.port, 28104)?,
        ),
        network_name: network_name.map(str::to_owned),
        message_bytes_max: section.number_or("max_message_size_bytes", message_size, 4 << 20)?,
        message_timeout: section.seconds_or(
            "message_timeout_secs",
            keys.message_timeout_secs,
            Duration::from_secs(30),
        )?,
        access_timeout: section.seconds_or(
            "client_access_timeout_secs",
            keys.client_access_timeout_secs,
            Duration::from_secs(10),
        )?,
        keepalive_interval: section.milliseconds_or(
            "keepalive_timeout_ms",
            keys.keepalive_timeout_ms,
            Duration::from_millis(1000),
        )?,
        request_limit: section.number_or("request_limit", limit, 256)?,
        request_buffer_size: section.number_or("request_buffer_size", buffer_size, 4096)?,
        backoff: check_backoff(&keys.exponential_backoff, &section.below("exponential_backoff"))?,
    })
}

fn check_backoff(keys: &BackoffKeys, section: &Section<'_>) -> Result<Backoff, ConfigError> {
    Ok(Backoff {
        initial_delay: section.milliseconds_or(
            "initial_delay_ms",
            keys.initial_delay_ms,
            Duration::from_millis(1000),
        )?,
        max_delay: section.milliseconds_or("max_delay_ms", keys.max_delay_ms, Duration::from_millis(64_000))?,
        coefficient: section.number_or("coefficient", keys.coefficient, 2)?,
        max_attempts: section.number_or("max_attempts", keys.max_attempts, 3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{RPC_ONLY, loaded};

    #[test]
    fn defaults_are_the_documented_ones() {
        let expected = NodeLinkOptions {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 28104),
            network_name: None,
            message_bytes_max: 4_194_304,
            message_timeout: Duration::from_secs(30),
            access_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_millis(1000),
            backoff: Backoff {
                initial_delay: Duration::from_millis(1000),
                max_delay: Duration::from_millis(64_000),
                coefficient: 2,
                max_attempts: 3,
            },
            request_limit: 256,
            request_buffer_size: 4096,
        };
        assert_eq!(loaded(RPC_ONLY).config.rpc_server.unwrap().options.link, expected);
        let named = format!("network_name = 'casper'\n{RPC_ONLY}");
        let link = loaded(&named).config.rpc_server.unwrap().options.link;
        assert_eq!(link, NodeLinkOptions { network_name: Some("casper".into()), ..expected });
    }
}
