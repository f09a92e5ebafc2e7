//! `[rpc_server.node_client]`: the link to a node's binary port.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    casper::rpc::{Backoff, NodeLinkOptions},
    config::{
        error::ConfigError,
        section::{COUNT_MAX, MILLISECONDS_MAX, PORT_MAX, SECONDS_MAX, Section},
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
            section.number_or("port", keys.port, 28104, 1..=PORT_MAX)?,
        ),
        network_name: network_name.map(str::to_owned),
        message_bytes_max: section.number_or("max_message_size_bytes", message_size, 4 << 20, 1..=COUNT_MAX)?,
        message_timeout: section.seconds_or(
            "message_timeout_secs",
            keys.message_timeout_secs,
            Duration::from_secs(30),
            1..=SECONDS_MAX,
        )?,
        access_timeout: section.seconds_or(
            "client_access_timeout_secs",
            keys.client_access_timeout_secs,
            Duration::from_secs(10),
            1..=SECONDS_MAX,
        )?,
        keepalive_interval: section.milliseconds_or(
            "keepalive_timeout_ms",
            keys.keepalive_timeout_ms,
            Duration::from_millis(1000),
            1..=MILLISECONDS_MAX,
        )?,
        request_limit: section.number_or("request_limit", limit, 256, 1..=REQUESTS_MAX)?,
        request_buffer_size: section.number_or("request_buffer_size", buffer_size, 4096, 0..=COUNT_MAX)?,
        backoff: check_backoff(&keys.exponential_backoff, &section.below("exponential_backoff"))?,
    })
}

fn check_backoff(keys: &BackoffKeys, section: &Section<'_>) -> Result<Backoff, ConfigError> {
    Ok(Backoff {
        initial_delay: section.milliseconds_or(
            "initial_delay_ms",
            keys.initial_delay_ms,
            Duration::from_millis(1000),
            0..=MILLISECONDS_MAX,
        )?,
        max_delay: section.milliseconds_or(
            "max_delay_ms",
            keys.max_delay_ms,
            Duration::from_millis(64_000),
            0..=MILLISECONDS_MAX,
        )?,
        coefficient: section.number_or("coefficient", keys.coefficient, 2, 1..=COUNT_MAX)?,
        max_attempts: section.number_or("max_attempts", keys.max_attempts, 3, 1..=COUNT_MAX)?,
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
