//! From the file to the settings: defaults, limits, refused combinations.
//!
//! Each number stands on one line with its key, its default and its limits. A section that is switched off is not
//! looked at beyond its TOML types, so that a leftover in it stops nobody.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::PathBuf,
    thread,
    time::Duration,
};

use url::Host;

use super::{
    document::Document,
    error::{ConfigError, InvalidValue, Refusal},
    file, postgresql,
    settings::{
        AdminApiServer, Config, CorsOrigin, Durability, EventStreamServer, ExponentialBackoff, LogSettings, NodeClient,
        NodeConnection, RestApiServer, RpcListener, RpcServer, Sqlite, SseServer, Storage, Threads,
    },
};

pub(super) const COUNT_MAX: i64 = u32::MAX as i64;
pub(super) const PORT_MAX: i64 = u16::MAX as i64;

const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;
const GIB: i64 = 1024 * MIB;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Any time limit: more than anybody waits, and far from where adding it to a clock would overflow.
const SECONDS_MAX: i64 = 366 * 100 * DAY_SECONDS;
const MILLISECONDS_MAX: i64 = SECONDS_MAX * 1000;
const THREADS_MAX: i64 = 4096;

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The settings that `file`, read from `document`, and `environment` ask for.
pub(super) fn check(
    file: file::File,
    document: &Document<'_>,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let section = |path: &str| Section { document, path: path.to_owned() };

    let sse_enabled = file.sse_server.as_ref().is_some_and(|sse| sse.enable_server);
    let rpc_enabled = file.rpc_server.as_ref().is_some_and(|rpc| rpc.main_server.enable_server);
    if !sse_enabled && !rpc_enabled {
        return Err(Refusal::NothingEnabled.into());
    }
    if sse_enabled && file.storage.is_none() {
        return Err(Refusal::SseWithoutStorage.into());
    }

    let threads = threads(file.max_thread_count, file.max_blocking_thread_count, &section(""))?;
    let sse_server = file.sse_server.filter(|sse| sse.enable_server);
    let sse_server = sse_server.map(|sse| sse_server_settings(sse, &section("sse_server"))).transpose()?;
    let exports = sse_server.as_ref().is_none_or(|sse| sse.keep_only_newest.is_none());
    let storage = file.storage.map(|file| storage(file, exports, &section("storage"), environment)).transpose()?;
    let rest = file.rest_api_server.filter(|rest| rest.enable_server);
    let admin = file.admin_api_server.filter(|admin| admin.enable_server);
    Ok(Config {
        threads,
        network_name: file.network_name,
        storage,
        sse_server,
        rest_api_server: rest.map(|rest| rest_api_server(&rest, &section("rest_api_server"))).transpose()?,
        admin_api_server: admin.map(|admin| admin_api_server(&admin, &section("admin_api_server"))).transpose()?,
        rpc_server: file.rpc_server.map_or(Ok(None), |rpc| rpc_server(rpc, &section("rpc_server")))?,
    })
}

fn threads(workers: Option<i64>, blocking: Option<i64>, section: &Section<'_>) -> Result<Threads, ConfigError> {
    let cpus = || thread::available_parallelism().map_or(1, usize::from);
    let count = |key, count: Option<i64>| count.map(|count| section.number(key, count, 1..=THREADS_MAX)).transpose();
    let workers = count("max_thread_count", workers)?;
    let blocking = count("max_blocking_thread_count", blocking)?;
    Ok(Threads { workers: workers.unwrap_or_else(cpus), blocking: blocking.or(workers).unwrap_or(512) })
}

fn storage(
    file: file::Storage,
    exports: bool,
    section: &Section<'_>,
    environment: Environment<'_>,
) -> Result<Storage, ConfigError> {
    if file.storage_folder == PathBuf::new() {
        return Err(section.invalid("storage_folder", "''", "set it to the folder that is to hold the log"));
    }
    let log = log_settings(&file.log, &section.below("log"))?;
    let (mut sqlite, mut postgresql) = (None, None);
    if exports {
        let no_database_section = file.sqlite_config.is_none() && file.postgresql_config.is_none();
        let asked_for_by_environment = no_database_section && environment(postgresql::HOST).is_some();
        let postgresql_config = match file.postgresql_config {
            None if asked_for_by_environment => Some(file::PostgresqlConfig::default()),
            section => section.filter(|postgresql| postgresql.enabled),
        };
        let postgresql_section = section.below("postgresql_config");
        let check = |postgresql| postgresql::check(postgresql, &postgresql_section, environment);
        postgresql = postgresql_config.map(check).transpose()?;

        let sqlite_config = file.sqlite_config.filter(|sqlite| sqlite.enabled);
        let sqlite_section = section.below("sqlite_config");
        sqlite = sqlite_config.map(|sqlite| sqlite_settings(sqlite, &sqlite_section)).transpose()?;
    }
    Ok(Storage { folder: file.storage_folder, log, sqlite, postgresql })
}

fn log_settings(file: &file::Log, section: &Section<'_>) -> Result<LogSettings, ConfigError> {
    let sync_interval = section.milliseconds_or("sync_interval_ms", file.sync_interval_ms, 100, 1..=60_000)?;
    let age_max = file.segment_age_max_seconds;
    Ok(LogSettings {
        durability: match file.durability {
            file::DurabilityLevel::Commit => Durability::Commit,
            file::DurabilityLevel::Interval => Durability::Interval(sync_interval),
            file::DurabilityLevel::Os => Durability::Os,
        },
        segment_bytes_max: section.number_or("segment_bytes_max", file.segment_bytes_max, 128 * MIB, MIB..=16 * GIB)?,
        segment_age_max: section.seconds_or("segment_age_max_seconds", age_max, DAY_SECONDS, 1..=366 * DAY_SECONDS)?,
        block_bytes_max: section.number_or("block_bytes_max", file.block_bytes_max, 512 * KIB, 4 * KIB..=MIB)?,
        compression_level: section.number_or("compression_level", file.compression_level, 1, 1..=19)?,
        event_bytes_max: section.number_or("event_bytes_max", file.event_bytes_max, 32 * MIB, KIB..=256 * MIB)?,
        block_cache_bytes: section.number_or(
            "block_cache_bytes",
            file.block_cache_bytes,
            24 * MIB,
            MIB..=1024 * GIB,
        )?,
        decode_concurrency: section.number_or("decode_concurrency", file.decode_concurrency, 2, 1..=1024)?,
        index_cache_bytes: section.number_or("index_cache_bytes", file.index_cache_bytes, 8 * MIB, MIB..=1024 * GIB)?,
        index_tail_bytes_max: section.number_or(
            "index_tail_bytes_max",
            file.index_tail_bytes_max,
            16 * MIB,
            MIB..=1024 * GIB,
        )?,
    })
}

fn sqlite_settings(file: file::SqliteConfig, section: &Section<'_>) -> Result<Sqlite, ConfigError> {
    let pages = file.wal_autocheckpointing_interval;
    Ok(Sqlite {
        file_name: file.file_name,
        max_connections: section.number_or(
            "max_connections_in_pool",
            file.max_connections_in_pool,
            100,
            1..=COUNT_MAX,
        )?,
        wal_autocheckpointing_interval: section.number_or("wal_autocheckpointing_interval", pages, 1000, 0..=65_535)?,
    })
}

fn sse_server_settings(file: file::SseServer, section: &Section<'_>) -> Result<SseServer, ConfigError> {
    let connections = file.connections.into_iter().enumerate();
    let stream = &file.event_stream_server;
    let stream_section = section.below("event_stream_server");
    let buffer_length = stream.event_stream_buffer_length;
    let buffer_length = stream_section.number_or("event_stream_buffer_length", buffer_length, 5000, 1..=COUNT_MAX)?;
    Ok(SseServer {
        connections: connections
            .map(|(index, connection)| node_connection(&connection, &section.below(&format!("connections[{index}]"))))
            .collect::<Result<_, _>>()?,
        event_stream_server: event_stream_server(stream, &stream_section)?,
        emulate_legacy_sse_apis: file.emulate_legacy_sse_apis,
        inbound_channel_size: section.number_or(
            "inbound_channel_size",
            file.inbound_channel_size,
            1000,
            1..=1_000_000,
        )?,
        keep_only_newest: file.disable_event_persistence.then_some(buffer_length),
    })
}

fn node_connection(file: &file::Connection, section: &Section<'_>) -> Result<NodeConnection, ConfigError> {
    if file.max_attempts < 1 {
        let fix = "set it to 1 or more, or delete this connection";
        return Err(Refusal::NoAttempts(section.invalid("max_attempts", file.max_attempts, fix)).into());
    }
    let delay = file.delay_between_retries_in_seconds;
    let connection_timeout = file.connection_timeout_in_seconds;
    let silence = file.no_message_timeout_in_seconds;
    let checks = file.sleep_between_keep_alive_checks_in_seconds;
    let at_least_one = 1..=SECONDS_MAX;
    Ok(NodeConnection {
        host: host(&file.ip_address, section)?,
        sse_port: section.number("sse_port", file.sse_port, 1..=PORT_MAX)?,
        rest_port: section.number("rest_port", file.rest_port, 1..=PORT_MAX)?,
        max_attempts: section.number("max_attempts", file.max_attempts, 1..=i64::MAX)?,
        delay_between_retries: section.seconds_or(
            "delay_between_retries_in_seconds",
            Some(delay),
            0,
            0..=SECONDS_MAX,
        )?,
        enable_logging: file.enable_logging,
        connection_timeout: section.seconds_or(
            "connection_timeout_in_seconds",
            connection_timeout,
            5,
            at_least_one.clone(),
        )?,
        no_message_timeout: section.seconds_or("no_message_timeout_in_seconds", silence, 120, at_least_one.clone())?,
        sleep_between_keep_alive_checks: section.seconds_or(
            "sleep_between_keep_alive_checks_in_seconds",
            checks,
            60,
            at_least_one,
        )?,
    })
}

/// A node's address, or a name that a URL can carry.
fn host(text: &str, section: &Section<'_>) -> Result<Host, ConfigError> {
    match (text.parse::<IpAddr>(), Host::parse(text)) {
        (Ok(IpAddr::V4(address)), _) => Ok(Host::Ipv4(address)),
        (Ok(IpAddr::V6(address)), _) => Ok(Host::Ipv6(address)),
        (Err(_), Ok(Host::Domain(name))) => Ok(Host::Domain(name)),
        // URLs also read `127.1` as an address; here that is a slip.
        (Err(_), _) => {
            let fix = "set it to an IP address or a host name, without scheme and port";
            Err(section.invalid("ip_address", format_args!("'{text}'"), fix))
        }
    }
}

fn event_stream_server(
    file: &file::EventStreamServer,
    section: &Section<'_>,
) -> Result<EventStreamServer, ConfigError> {
    let subscribers = file.max_concurrent_subscribers;
    Ok(EventStreamServer {
        port: section.number("port", file.port, 0..=PORT_MAX)?,
        max_concurrent_subscribers: section.number("max_concurrent_subscribers", subscribers, 0..=COUNT_MAX)?,
        replay_chunks: file.replay_chunks,
        zstd: file.zstd,
        client_buffer_bytes: section.number_or(
            "client_buffer_bytes",
            file.client_buffer_bytes,
            16 * KIB,
            KIB..=16 * MIB,
        )?,
        header_timeout: section.seconds_or("header_timeout_seconds", file.header_timeout_seconds, 10, 1..=3600)?,
    })
}

fn rest_api_server(file: &file::RestApiServer, section: &Section<'_>) -> Result<RestApiServer, ConfigError> {
    let (concurrent, per_second) = (file.max_concurrent_requests, file.max_requests_per_second);
    let timeout = file.request_timeout_in_seconds;
    Ok(RestApiServer {
        port: section.number("port", file.port, 0..=PORT_MAX)?,
        max_concurrent_requests: section.number_or("max_concurrent_requests", concurrent, 50, 1..=COUNT_MAX)?,
        max_requests_per_second: section.number_or("max_requests_per_second", per_second, 50, 1..=COUNT_MAX)?,
        request_timeout: section.seconds_or("request_timeout_in_seconds", timeout, 30, 1..=SECONDS_MAX)?,
    })
}

fn admin_api_server(file: &file::AdminApiServer, section: &Section<'_>) -> Result<AdminApiServer, ConfigError> {
    let (concurrent, per_second) = (file.max_concurrent_requests, file.max_requests_per_second);
    Ok(AdminApiServer {
        port: section.number("port", file.port, 0..=PORT_MAX)?,
        max_concurrent_requests: section.number_or("max_concurrent_requests", concurrent, 1, 1..=COUNT_MAX)?,
        max_requests_per_second: section.number_or("max_requests_per_second", per_second, 1, 1..=COUNT_MAX)?,
    })
}

fn rpc_server(file: file::RpcServer, section: &Section<'_>) -> Result<Option<RpcServer>, ConfigError> {
    let listener = |file: Option<file::RpcListener>, name, qps_limit| {
        let enabled = file.filter(|listener| listener.enable_server);
        enabled.map(|listener| rpc_listener(listener, qps_limit, &section.below(name))).transpose()
    };
    let main_server = listener(Some(file.main_server), "main_server", 100)?;
    let speculative_exec_server = listener(file.speculative_exec_server, "speculative_exec_server", 1)?;
    if main_server.is_none() && speculative_exec_server.is_none() {
        return Ok(None);
    }
    let node_client = node_client(&file.node_client, &section.below("node_client"))?;
    Ok(Some(RpcServer { main_server, speculative_exec_server, node_client }))
}

fn rpc_listener(file: file::RpcListener, qps_limit: i64, section: &Section<'_>) -> Result<RpcListener, ConfigError> {
    Ok(RpcListener {
        ip_address: file.ip_address,
        port: section.number("port", file.port, 0..=PORT_MAX)?,
        qps_limit: section.number_or("qps_limit", file.qps_limit, qps_limit, 1..=COUNT_MAX)?,
        max_body_bytes: section.number_or("max_body_bytes", file.max_body_bytes, 2_621_440, 1..=i64::MAX)?,
        cors_origin: match file.cors_origin {
            origin if origin.is_empty() => CorsOrigin::Disabled,
            origin if origin == "*" => CorsOrigin::Any,
            origin if origin.bytes().all(|byte| byte.is_ascii_graphic()) => CorsOrigin::Only(origin),
            origin => {
                let fix = "set it to one origin such as 'https://example.org', to '*' for any, or to '' for none";
                return Err(section.invalid("cors_origin", format_args!("'{origin}'"), fix));
            }
        },
    })
}

fn node_client(file: &file::NodeClient, section: &Section<'_>) -> Result<NodeClient, ConfigError> {
    let message_size = file.max_message_size_bytes;
    let access_timeout = file.client_access_timeout_secs;
    let keepalive = file.keepalive_timeout_ms;
    let backoff = section.below("exponential_backoff");
    let (initial, max) = (file.exponential_backoff.initial_delay_ms, file.exponential_backoff.max_delay_ms);
    let (coefficient, attempts) = (file.exponential_backoff.coefficient, file.exponential_backoff.max_attempts);
    Ok(NodeClient {
        ip_address: file.ip_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: section.number_or("port", file.port, 28104, 1..=PORT_MAX)?,
        max_message_size_bytes: section.number_or("max_message_size_bytes", message_size, 4 * MIB, 1..=COUNT_MAX)?,
        message_timeout: section.seconds_or("message_timeout_secs", file.message_timeout_secs, 30, 1..=SECONDS_MAX)?,
        client_access_timeout: section.seconds_or("client_access_timeout_secs", access_timeout, 10, 1..=SECONDS_MAX)?,
        keepalive_timeout: section.milliseconds_or("keepalive_timeout_ms", keepalive, 1000, 1..=MILLISECONDS_MAX)?,
        exponential_backoff: ExponentialBackoff {
            initial_delay: backoff.milliseconds_or("initial_delay_ms", initial, 1000, 0..=MILLISECONDS_MAX)?,
            max_delay: backoff.milliseconds_or("max_delay_ms", max, 64_000, 0..=MILLISECONDS_MAX)?,
            coefficient: backoff.number_or("coefficient", coefficient, 2, 1..=COUNT_MAX)?,
            max_attempts: backoff.number_or("max_attempts", attempts, 3, 1..=COUNT_MAX)?,
        },
    })
}

/// A section of the file, for messages that name its keys in full.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    path: String,
}

impl Section<'_> {
    /// The section `name` inside this one.
    fn below(&self, name: &str) -> Section<'_> {
        Section { document: self.document, path: self.path_of(name) }
    }

    /// The full path of `key`.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// `value` of `key`, if it is `allowed`.
    pub(super) fn number<Number: TryFrom<i64>>(
        &self,
        key: &str,
        value: i64,
        allowed: RangeInclusive<i64>,
    ) -> Result<Number, ConfigError> {
        let inside = if allowed.contains(&value) { Number::try_from(value).ok() } else { None };
        inside.ok_or_else(|| {
            let fix = format!("set it to a number from {} to {}", allowed.start(), allowed.end());
            self.invalid(key, value, &fix)
        })
    }

    /// The same for a key with a default.
    pub(super) fn number_or<Number: TryFrom<i64>>(
        &self,
        key: &str,
        value: Option<i64>,
        default: i64,
        allowed: RangeInclusive<i64>,
    ) -> Result<Number, ConfigError> {
        self.number(key, value.unwrap_or(default), allowed)
    }

    fn seconds_or(
        &self,
        key: &str,
        value: Option<i64>,
        default: i64,
        allowed: RangeInclusive<i64>,
    ) -> Result<Duration, ConfigError> {
        self.number_or(key, value, default, allowed).map(Duration::from_secs)
    }

    fn milliseconds_or(
        &self,
        key: &str,
        value: Option<i64>,
        default: i64,
        allowed: RangeInclusive<i64>,
    ) -> Result<Duration, ConfigError> {
        self.number_or(key, value, default, allowed).map(Duration::from_millis)
    }

    /// The error that `value` of `key` is not usable.
    fn invalid<E: From<InvalidValue>>(&self, key: &str, value: impl fmt::Display, fix: &str) -> E {
        let key = self.path_of(key);
        let line = self.document.line_of(&key);
        InvalidValue { value: value.to_string(), line, fix: fix.to_owned(), key }.into()
    }
}
