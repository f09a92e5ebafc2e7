//! `[admin_api_server]`.

use std::net::IpAddr;

use serde::Deserialize;

use super::listen::{self, OneOrSeveral, TlsKeys, TokenKeys};
use crate::{
    admin::AdminOptions,
    config::{
        bounds::COUNT_MAX,
        description::{DefaultValue, KeyDescription, SectionDescription, count},
        error::ConfigError,
        section::{Section, yes},
    },
    engine::http::cors::Origins,
};

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct AdminApiServer")]
pub(in crate::config) struct Keys {
    #[serde(default = "yes")]
    pub(in crate::config) enable_server: bool,
    port: i64,
    ip_address: Option<OneOrSeveral<IpAddr>>,
    cors_origin: Option<OneOrSeveral<String>>,
    tls: Option<TlsKeys>,
    bearer_tokens: Option<TokenKeys>,
    max_concurrent_requests: Option<i64>,
    max_requests_per_second: Option<i64>,
}

/// `[admin_api_server]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "admin_api_server",
    is_list: false,
    text: "The admin server: /metrics, /health, /ready and /status.",
    keys: &[
        listen::ENABLE_SERVER,
        listen::IP_ADDRESS.with_example("\"127.0.0.1\""),
        listen::port("18887"),
        listen::cors_origin("\"\""),
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
    let listen = listen::Keys::new(&keys.ip_address, &keys.cors_origin, &keys.tls, &keys.bearer_tokens);
    Ok(AdminOptions {
        port: section.number("port", keys.port)?,
        listen: listen.check(Origins::Off, section)?,
        max_concurrent_requests: section.number_or("max_concurrent_requests", concurrent, 1)?,
        max_requests_per_second: section.number_or("max_requests_per_second", per_second, 1)?,
    })
}
