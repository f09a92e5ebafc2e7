//! `[admin_api_server]`.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::{
    admin::AdminOptions,
    config::{
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, count, port},
        error::ConfigError,
        section::{COUNT_MAX, Section, yes},
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

/// `[admin_api_server]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "admin_api_server",
    is_list: false,
    text: "The admin server: /metrics, /health, /ready and /status.",
    keys: &[
        KeyDescription::reference(
            "enable_server",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether this server runs.",
        ),
        KeyDescription::reference(
            "port",
            port(0),
            DefaultValue::Required,
            "The port to listen on, on all interfaces. 0 is any free port.",
        )
        .with_example("18887"),
        KeyDescription::reference(
            "max_concurrent_requests",
            count(1, COUNT_MAX),
            DefaultValue::Value("1"),
            "How many requests are worked on at once. Others wait.",
        ),
        KeyDescription::reference(
            "max_requests_per_second",
            count(1, COUNT_MAX),
            DefaultValue::Value("1"),
            "How many requests are begun per second. Others wait.",
        ),
    ],
};

pub(in crate::config) fn check(keys: &Keys, section: &Section<'_>) -> Result<AdminOptions, ConfigError> {
    let (concurrent, per_second) = (keys.max_concurrent_requests, keys.max_requests_per_second);
    Ok(AdminOptions {
        port: section.number("port", keys.port)?,
        listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        max_concurrent_requests: section.number_or("max_concurrent_requests", concurrent, 1)?,
        max_requests_per_second: section.number_or("max_requests_per_second", per_second, 1)?,
    })
}
