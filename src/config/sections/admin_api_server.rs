//! `[admin_api_server]`.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::{
    admin::AdminOptions,
    config::{
        error::ConfigError,
        section::{COUNT_MAX, PORT_MAX, Section, yes},
    },
};

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct AdminApiServer")]
pub(in crate::config) struct Keys {
    #[serde(default = "yes")]
    pub(in crate::config) enable_server: bool,
    port: i64,
    max_concurrent_requests: Option<i64>,
    max_requests_per_second: Option<i64>,
}

pub(in crate::config) fn check(keys: &Keys, section: &Section<'_>) -> Result<AdminOptions, ConfigError> {
    let (concurrent, per_second) = (keys.max_concurrent_requests, keys.max_requests_per_second);
    Ok(AdminOptions {
        port: section.number("port", keys.port, 0..=PORT_MAX)?,
        listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        max_concurrent_requests: section.number_or("max_concurrent_requests", concurrent, 1, 1..=COUNT_MAX)?,
        max_requests_per_second: section.number_or("max_requests_per_second", per_second, 1, 1..=COUNT_MAX)?,
    })
}
