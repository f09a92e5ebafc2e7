//! `[rest_api_server]`.

use std::{net::IpAddr, path::PathBuf};

use serde::Deserialize;

use super::listen::{self, OneOrSeveral, TlsKeys, TokenKeys};
use crate::{
    casper::{
        export::postgresql,
        rest::{DatabaseOptions, RestOptions},
    },
    config::{
        bounds::{COUNT_MAX, SECONDS_MAX},
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, count, seconds},
        error::ConfigError,
        section::{Section, yes},
    },
};

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct RestApiServer")]
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
    request_timeout_in_seconds: Option<i64>,
    #[serde(default)]
    pub(in crate::config) answer_from: AnswerFrom,
}

/// `[rest_api_server]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "rest_api_server",
    is_list: false,
    text: "The REST server.",
    keys: &[
        listen::ENABLE_SERVER,
        listen::IP_ADDRESS,
        listen::port("18888"),
        listen::cors_origin("\"*\""),
        KeyDescription::reference(
            "max_concurrent_requests",
            count(1, COUNT_MAX),
            DefaultValue::Value("50"),
            "How many requests are worked on at once. Others wait.",
        ),
        KeyDescription::reference(
            "max_requests_per_second",
            count(1, COUNT_MAX),
            DefaultValue::Value("50"),
            "How many requests are begun per second. Others wait.",
        ),
        KeyDescription::reference(
            "request_timeout_in_seconds",
            seconds(1, SECONDS_MAX),
            DefaultValue::Value("30"),
            "The time limit for one answer, once its turn has come.",
        ),
        KeyDescription::new(
            "answer_from",
            Kind::Word(&["log", "sqlite", "postgresql"]),
            DefaultValue::Value("\"log\""),
            "Where answers come from. \"log\": from the log, which needs [sse_server]. \"sqlite\" or \"postgresql\": from the \
             database of [storage.sqlite_config] or [storage.postgresql_config], which this or another Sidecar fills; then \
             nothing else is needed.",
        ),
    ],
};

/// Where the answers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum AnswerFrom {
    /// From the log, which is there when `[sse_server]` is.
    #[default]
    Log,
    /// From the database of `[storage.sqlite_config]`, filled here or elsewhere.
    Sqlite,
    /// From the database of `[storage.postgresql_config]`, filled here or elsewhere.
    PostgreSql,
}

impl AnswerFrom {
    /// Whether nodes and a log are not needed.
    pub(in crate::config) fn is_database(self) -> bool {
        self != AnswerFrom::Log
    }
}

/// `[rest_api_server]`, enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestApiServer {
    /// How the server listens, and what it grants its clients.
    pub options: RestOptions,
    /// The database that answers come from; from the log when `None`.
    pub database: Option<DatabaseOptions>,
}

/// The settings of an enabled server, where `sqlite` and `postgresql` are the databases that are configured.
pub(in crate::config) fn check(
    keys: &Keys,
    sqlite: Option<PathBuf>,
    postgresql: Option<postgresql::Options>,
    section: &Section<'_>,
) -> Result<RestApiServer, ConfigError> {
    let database = match (keys.answer_from, sqlite, postgresql) {
        (AnswerFrom::Log, _, _) => None,
        (AnswerFrom::Sqlite, Some(file), _) => Some(DatabaseOptions::Sqlite(file)),
        (AnswerFrom::PostgreSql, _, Some(database)) => Some(DatabaseOptions::PostgreSql(database)),
        (AnswerFrom::Sqlite, None, _) => {
            let fix = "no SQLite database is configured: add `[storage.sqlite_config]`, enabled, and `storage_folder` in \
                       `[storage]`, or set this key to 'log'";
            return Err(section.invalid("answer_from", "'sqlite'", fix));
        }
        (AnswerFrom::PostgreSql, _, None) => {
            let fix = "no PostgreSQL database is configured: add `[storage.postgresql_config]`, enabled, or set \
                       SIDECAR_POSTGRES_HOST and its like in the environment, or set this key to 'log'";
            return Err(section.invalid("answer_from", "'postgresql'", fix));
        }
    };
    let defaults = RestOptions::new();
    let listen = listen::Keys::new(&keys.ip_address, &keys.cors_origin, &keys.tls, &keys.bearer_tokens);
    let options = RestOptions {
        port: section.number("port", keys.port)?,
        listen: listen.check(defaults.listen.origins, section)?,
        max_concurrent_requests: section.number_or(
            "max_concurrent_requests",
            keys.max_concurrent_requests,
            defaults.max_concurrent_requests,
        )?,
        max_requests_per_second: section.number_or(
            "max_requests_per_second",
            keys.max_requests_per_second,
            defaults.max_requests_per_second,
        )?,
        request_timeout: section.seconds_or(
            "request_timeout_in_seconds",
            keys.request_timeout_in_seconds,
            defaults.request_timeout,
        )?,
        ..defaults
    };
    Ok(RestApiServer { options, database })
}
