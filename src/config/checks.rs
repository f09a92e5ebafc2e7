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
    error::{ConfigError, Fix, InvalidValue, Refusal, Warning},
    file, postgresql,
    settings::{
        AdminApiServer, AnswerFrom, Compaction, Config, CorsOrigin, Durability, EventStreamServer, ExponentialBackoff,
        LogSettings, NodeClient, NodeConnection, PostgreSql, RestApiServer, RpcListener, RpcServer, Sqlite, SseServer,
        Storage, Threads,
    },
};

pub(super) const COUNT_MAX: i64 = u32::MAX as i64;
pub(super) const PORT_MAX: i64 = u16::MAX as i64;

const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;
const GIB: i64 = 1024 * MIB;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Enough for clients of the event stream, who read in order.
const BLOCK_CACHE_BYTES: i64 = 8 * MIB;
/// Enough for the newest 26,000 events, where most look-ups go.
const REST_BLOCK_CACHE_BYTES: i64 = 24 * MIB;
/// Any time limit: more than anybody waits, and far from where adding it to a clock would overflow.
const SECONDS_MAX: i64 = 366 * 100 * DAY_SECONDS;
const MILLISECONDS_MAX: i64 = SECONDS_MAX * 1000;
const THREADS_MAX: i64 = 4096;
/// Disk reads and host names keep few threads busy; each one that ever was keeps a decompressor's memory.
const BLOCKING_THREADS: usize = 16;
/// Half of the numbers that requests on one connection to a node can have.
const REQUESTS_MAX: i64 = 32_768;
/// More than any system here lets one process have.
const CONNECTIONS_MAX: i64 = 1_000_000;

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
    let rest = file.rest_api_server.filter(|rest| rest.enable_server);
    let rest_from = |place| rest.as_ref().is_some_and(|rest| rest.answer_from == place);
    let rest_from_log = rest_from(file::AnswerFrom::Log);
    let rest_from_postgresql = rest_from(file::AnswerFrom::PostgreSql);
    if !sse_enabled && !rpc_enabled && !rest_from_postgresql {
        return Err(Refusal::NothingEnabled(Fix(format!("add `[sse_server]`; {REST_ALONE}"))).into());
    }
    let storage_folder = file.storage.as_ref().and_then(|storage| storage.storage_folder.as_ref());
    if sse_enabled && storage_folder.is_none() {
        return Err(Refusal::SseWithoutStorage(None).into());
    }
    if rest_from_log && !sse_enabled {
        let fix =
            format!("`[rest_api_server]` answers from the log, which needs `[sse_server]`: add that; {REST_ALONE}");
        return Err(Refusal::RestWithoutLog(Fix(fix)).into());
    }

    let threads = threads(file.max_thread_count, file.max_blocking_thread_count, &section(""))?;
    let sse_server = file.sse_server.filter(|sse| sse.enable_server);
    let sse_server = sse_server.map(|sse| sse_server_settings(sse, &section("sse_server"))).transpose()?;
    let exports = sse_server.as_ref().is_none_or(|sse| sse.keep_only_newest.is_none());
    let mut file_storage = file.storage;
    let postgresql = match exports || rest_from_postgresql {
        true => postgresql_settings(file_storage.as_mut(), &section("storage"), environment)?,
        false => None,
    };
    let exported_to = postgresql.clone().filter(|_| exports);
    let storage = file_storage.map(|file| storage(file, exports, exported_to, rest_from_log, &section("storage")));
    let admin = file.admin_api_server.filter(|admin| admin.enable_server);
    let rest = rest.map(|rest| rest_api_server(&rest, postgresql, &section("rest_api_server")));
    Ok(Config {
        threads,
        network_name: file.network_name,
        storage: storage.transpose()?.flatten(),
        sse_server,
        rest_api_server: rest.transpose()?,
        admin_api_server: admin.map(|admin| admin_api_server(&admin, &section("admin_api_server"))).transpose()?,
        rpc_server: file.rpc_server.map_or(Ok(None), |rpc| rpc_server(rpc, sse_enabled, &section("rpc_server")))?,
    })
}

/// The enabled databases that no events are exported to, but for the one that REST answers from.
pub(super) fn nothing_to_export(file: &file::File, document: &Document<'_>) -> Vec<Warning> {
    let reason = match file.sse_server.as_ref().filter(|sse| sse.enable_server) {
        None => "without `[sse_server]` there are no events; add that",
        Some(sse) if sse.disable_event_persistence => {
            "`disable_event_persistence = true` keeps only the newest events; set that to false"
        }
        Some(_) => return Vec::new(),
    };
    let Some(storage) = &file.storage else { return Vec::new() };
    let rest = file.rest_api_server.as_ref().filter(|rest| rest.enable_server);
    let is_read = rest.is_some_and(|rest| rest.answer_from == file::AnswerFrom::PostgreSql);
    let sqlite = storage.sqlite_config.as_ref().is_some_and(|sqlite| sqlite.enabled);
    let postgresql = storage.postgresql_config.as_ref().is_some_and(|postgresql| postgresql.enabled && !is_read);
    let sections = [(sqlite, "storage.sqlite_config"), (postgresql, "storage.postgresql_config")];
    let unused = sections.into_iter().filter(|(is_unused, _)| *is_unused);
    unused.map(|(_, section)| Warning::NothingToExport { section, reason, line: document.line_of(section) }).collect()
}

/// The other way out for a file with REST and without nodes.
const REST_ALONE: &str = "for REST without nodes set `rest_api_server.answer_from = \"postgresql\"`, which answers from a \
    database that another Sidecar fills";

fn threads(workers: Option<i64>, blocking: Option<i64>, section: &Section<'_>) -> Result<Threads, ConfigError> {
    let cpus = || thread::available_parallelism().map_or(1, usize::from);
    let count = |key, count: Option<i64>| count.map(|count| section.number(key, count, 1..=THREADS_MAX)).transpose();
    let workers = count("max_thread_count", workers)?;
    let blocking = count("max_blocking_thread_count", blocking)?;
    Ok(Threads { workers: workers.unwrap_or_else(cpus), blocking: blocking.or(workers).unwrap_or(BLOCKING_THREADS) })
}

/// `None` without a folder, which only the log needs.
fn storage(
    file: file::Storage,
    exports: bool,
    postgresql: Option<PostgreSql>,
    rest_from_log: bool,
    section: &Section<'_>,
) -> Result<Option<Storage>, ConfigError> {
    let Some(folder) = file.storage_folder else { return Ok(None) };
    if folder == PathBuf::new() {
        return Err(section.invalid("storage_folder", "''", "set it to the folder that is to hold the log"));
    }
    let log = log_settings(&file.log, rest_from_log, &section.below("log"))?;
    let sqlite = file.sqlite_config.filter(|sqlite| exports && sqlite.enabled);
    let sqlite = sqlite.map(|sqlite| sqlite_settings(sqlite, &section.below("sqlite_config"))).transpose()?;
    Ok(Some(Storage { folder, log, sqlite, postgresql }))
}

/// The PostgreSQL database that `[storage]` or, without any database section, the environment asks for.
fn postgresql_settings(
    storage: Option<&mut file::Storage>,
    section: &Section<'_>,
    environment: Environment<'_>,
) -> Result<Option<PostgreSql>, ConfigError> {
    let (in_file, has_sqlite) = match storage {
        Some(storage) => (storage.postgresql_config.take(), storage.sqlite_config.is_some()),
        None => (None, false),
    };
    let asked_for_by_environment = in_file.is_none() && !has_sqlite && environment(postgresql::HOST).is_some();
    let settings = match asked_for_by_environment {
        true => Some(file::PostgresqlConfig::default()),
        false => in_file.filter(|postgresql| postgresql.enabled),
    };
    let section = section.below("postgresql_config");
    settings.map(|settings| postgresql::check(settings, &section, environment)).transpose()
}

fn log_settings(file: &file::Log, rest_from_log: bool, section: &Section<'_>) -> Result<LogSettings, ConfigError> {
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
            if rest_from_log { REST_BLOCK_CACHE_BYTES } else { BLOCK_CACHE_BYTES },
            MIB..=1024 * GIB,
        )?,
        decode_concurrency: section.number_or("decode_concurrency", file.decode_concurrency, 2, 1..=1024)?,
        index_cache_bytes: section.number_or("index_cache_bytes", file.index_cache_bytes, 8 * MIB, MIB..=1024 * GIB)?,
        index_tail_bytes_max: section.number_or(
            "index_tail_bytes_max",
            file.index_tail_bytes_max,
            4 * MIB,
            MIB..=1024 * GIB,
        )?,
        free_bytes_min: section.number_or("free_bytes_min", file.free_bytes_min, 64 * MIB, 0..=1024 * GIB)?,
        create_if_missing: file.create_if_missing.unwrap_or(true),
        allow_network_change: file.allow_network_change.unwrap_or(false),
        compaction: compaction(file, section)?,
        retention_bytes_max: Some(section.number_or(
            "retention_bytes_max",
            file.retention_bytes_max,
            0,
            0..=1024 * 1024 * GIB,
        )?)
        .filter(|&bytes_max| bytes_max > 0),
        retention_age_max: retention_age_max(file.retention_age_max.as_deref(), section)?,
        retention_wait_bytes_max: section.number_or(
            "retention_wait_bytes_max",
            file.retention_wait_bytes_max,
            GIB,
            0..=1024 * 1024 * GIB,
        )?,
        view_cache_bytes: section.number_or("view_cache_bytes", file.view_cache_bytes, 8 * MIB, MIB..=1024 * GIB)?,
    })
}

fn compaction(file: &file::Log, section: &Section<'_>) -> Result<Option<Compaction>, ConfigError> {
    let rate = file.compaction_bytes_per_second;
    let compaction = Compaction {
        level: section.number_or("compaction_level", file.compaction_level, 19, 1..=19)?,
        bytes_per_second: section.number_or("compaction_bytes_per_second", rate, 256 * KIB, KIB..=1024 * GIB)?,
    };
    Ok((file.compaction == file::Switch::On).then_some(compaction))
}

fn retention_age_max(text: Option<&str>, section: &Section<'_>) -> Result<Option<Duration>, ConfigError> {
    let Some(text) = text.filter(|&text| text != "off") else { return Ok(None) };
    match humantime::parse_duration(text) {
        Ok(age) if !age.is_zero() => Ok(Some(age)),
        _ => {
            let fix = "set it to a time such as '30 days' or '12h', or to 'off'";
            Err(section.invalid("retention_age_max", format_args!("'{text}'"), fix))
        }
    }
}

fn sqlite_settings(file: file::SqliteConfig, section: &Section<'_>) -> Result<Sqlite, ConfigError> {
    let pages = file.wal_autocheckpointing_interval;
    Ok(Sqlite {
        file_name: file.file_name,
        wal_autocheckpointing_interval: section.number_or("wal_autocheckpointing_interval", pages, 1000, 0..=65_535)?,
        export_from: file.export_from,
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
        max_concurrent_subscribers: section.number("max_concurrent_subscribers", subscribers, 1..=COUNT_MAX)?,
        replay_chunks: file.replay_chunks,
        zstd: file.zstd,
        client_buffer_bytes: section.number_or(
            "client_buffer_bytes",
            file.client_buffer_bytes,
            16 * KIB,
            KIB..=16 * MIB,
        )?,
        max_connections: section.number_or(
            "max_connections",
            file.max_connections,
            subscribers.saturating_add(1000).min(CONNECTIONS_MAX),
            1..=CONNECTIONS_MAX,
        )?,
        header_timeout: section.seconds_or("header_timeout_seconds", file.header_timeout_seconds, 10, 1..=3600)?,
        idle_timeout: section.seconds_or("idle_timeout_seconds", file.idle_timeout_seconds, 60, 1..=DAY_SECONDS)?,
        write_stall_timeout: section.seconds_or(
            "write_stall_timeout_seconds",
            file.write_stall_timeout_seconds,
            900,
            1..=DAY_SECONDS,
        )?,
    })
}

fn rest_api_server(
    file: &file::RestApiServer,
    postgresql: Option<PostgreSql>,
    section: &Section<'_>,
) -> Result<RestApiServer, ConfigError> {
    let answer_from = match (file.answer_from, postgresql) {
        (file::AnswerFrom::Log, _) => AnswerFrom::Log,
        (file::AnswerFrom::PostgreSql, Some(database)) => AnswerFrom::PostgreSql(database),
        (file::AnswerFrom::PostgreSql, None) => {
            let fix = "no PostgreSQL database is configured: add `[storage.postgresql_config]`, enabled, or set \
                       SIDECAR_POSTGRES_HOST and its like in the environment, or set this key to 'log'";
            return Err(section.invalid("answer_from", "'postgresql'", fix));
        }
    };
    let (concurrent, per_second) = (file.max_concurrent_requests, file.max_requests_per_second);
    let timeout = file.request_timeout_in_seconds;
    Ok(RestApiServer {
        port: section.number("port", file.port, 0..=PORT_MAX)?,
        max_concurrent_requests: section.number_or("max_concurrent_requests", concurrent, 50, 1..=COUNT_MAX)?,
        max_requests_per_second: section.number_or("max_requests_per_second", per_second, 50, 1..=COUNT_MAX)?,
        request_timeout: section.seconds_or("request_timeout_in_seconds", timeout, 30, 1..=SECONDS_MAX)?,
        answer_from,
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

fn rpc_server(file: file::RpcServer, has_log: bool, section: &Section<'_>) -> Result<Option<RpcServer>, ConfigError> {
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
    let cache_bytes = file.answer_cache_bytes;
    let answer_cache_bytes = section.number_or("answer_cache_bytes", cache_bytes, 32 * MIB, 0..=1024 * GIB)?;
    let answer_from_log = file.answer_from_log;
    if answer_from_log && !has_log {
        let fix = "add `[sse_server]`, which makes the log, or set it to false";
        return Err(section.invalid("answer_from_log", "true", fix));
    }
    Ok(Some(RpcServer { main_server, speculative_exec_server, node_client, answer_cache_bytes, answer_from_log }))
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
        trust_client_ip_headers: file.trust_client_ip_headers,
        batch_requests_max: section.number_or("batch_requests_max", file.batch_requests_max, 100, 0..=10_000)?,
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
        request_limit: section.number_or("request_limit", file.request_limit, 256, 1..=REQUESTS_MAX)?,
        request_buffer_size: section.number_or("request_buffer_size", file.request_buffer_size, 4096, 0..=COUNT_MAX)?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Loaded, ReplayChunks, ZstdPassThrough,
        samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, load, loaded, refused, with},
    };

    const RPC_ONLY: &str = "
        [rpc_server.main_server]
        ip_address = '0.0.0.0'
        port = 7777
        [rpc_server.node_client]
    ";

    /// Every number of the file, its limits, and what stands in the file's full example.
    const LIMITS: [(&str, RangeInclusive<i64>); 61] = [
        ("max_thread_count", 1..=4096),
        ("max_blocking_thread_count", 1..=4096),
        ("storage.log.sync_interval_ms", 1..=60_000),
        ("storage.log.segment_bytes_max", 1_048_576..=17_179_869_184),
        ("storage.log.segment_age_max_seconds", 1..=31_622_400),
        ("storage.log.block_bytes_max", 4096..=1_048_576),
        ("storage.log.compression_level", 1..=19),
        ("storage.log.event_bytes_max", 1024..=268_435_456),
        ("storage.log.block_cache_bytes", 1_048_576..=1_099_511_627_776),
        ("storage.log.decode_concurrency", 1..=1024),
        ("storage.log.index_cache_bytes", 1_048_576..=1_099_511_627_776),
        ("storage.log.index_tail_bytes_max", 1_048_576..=1_099_511_627_776),
        ("storage.log.free_bytes_min", 0..=1_099_511_627_776),
        ("storage.log.compaction_level", 1..=19),
        ("storage.log.compaction_bytes_per_second", 1024..=1_099_511_627_776),
        ("storage.log.retention_bytes_max", 0..=1_125_899_906_842_624),
        ("storage.log.retention_wait_bytes_max", 0..=1_125_899_906_842_624),
        ("storage.log.view_cache_bytes", 1_048_576..=1_099_511_627_776),
        ("storage.sqlite_config.wal_autocheckpointing_interval", 0..=65_535),
        ("storage.postgresql_config.max_connections_in_pool", 1..=4_294_967_295),
        ("storage.postgresql_config.port", 1..=65_535),
        ("sse_server.inbound_channel_size", 1..=1_000_000),
        ("sse_server.connections.sse_port", 1..=65_535),
        ("sse_server.connections.rest_port", 1..=65_535),
        ("sse_server.connections.delay_between_retries_in_seconds", 0..=SECONDS_MAX),
        ("sse_server.connections.connection_timeout_in_seconds", 1..=SECONDS_MAX),
        ("sse_server.connections.no_message_timeout_in_seconds", 1..=SECONDS_MAX),
        ("sse_server.connections.sleep_between_keep_alive_checks_in_seconds", 1..=SECONDS_MAX),
        ("sse_server.event_stream_server.port", 0..=65_535),
        ("sse_server.event_stream_server.max_concurrent_subscribers", 1..=4_294_967_295),
        ("sse_server.event_stream_server.event_stream_buffer_length", 1..=4_294_967_295),
        ("sse_server.event_stream_server.client_buffer_bytes", 1024..=16_777_216),
        ("sse_server.event_stream_server.max_connections", 1..=1_000_000),
        ("sse_server.event_stream_server.header_timeout_seconds", 1..=3600),
        ("sse_server.event_stream_server.idle_timeout_seconds", 1..=86_400),
        ("sse_server.event_stream_server.write_stall_timeout_seconds", 1..=86_400),
        ("rest_api_server.port", 0..=65_535),
        ("rest_api_server.max_concurrent_requests", 1..=4_294_967_295),
        ("rest_api_server.max_requests_per_second", 1..=4_294_967_295),
        ("rest_api_server.request_timeout_in_seconds", 1..=SECONDS_MAX),
        ("admin_api_server.port", 0..=65_535),
        ("admin_api_server.max_concurrent_requests", 1..=4_294_967_295),
        ("admin_api_server.max_requests_per_second", 1..=4_294_967_295),
        ("rpc_server.main_server.port", 0..=65_535),
        ("rpc_server.main_server.qps_limit", 1..=4_294_967_295),
        ("rpc_server.speculative_exec_server.port", 0..=65_535),
        ("rpc_server.speculative_exec_server.qps_limit", 1..=4_294_967_295),
        ("rpc_server.node_client.port", 1..=65_535),
        ("rpc_server.node_client.max_message_size_bytes", 1..=4_294_967_295),
        ("rpc_server.node_client.message_timeout_secs", 1..=SECONDS_MAX),
        ("rpc_server.node_client.client_access_timeout_secs", 1..=SECONDS_MAX),
        ("rpc_server.node_client.keepalive_timeout_ms", 1..=MILLISECONDS_MAX),
        ("rpc_server.answer_cache_bytes", 0..=1024 * GIB),
        ("rpc_server.node_client.request_limit", 1..=32_768),
        ("rpc_server.node_client.request_buffer_size", 0..=4_294_967_295),
        ("rpc_server.main_server.batch_requests_max", 0..=10_000),
        ("rpc_server.speculative_exec_server.batch_requests_max", 0..=10_000),
        ("rpc_server.node_client.exponential_backoff.initial_delay_ms", 0..=MILLISECONDS_MAX),
        ("rpc_server.node_client.exponential_backoff.max_delay_ms", 0..=MILLISECONDS_MAX),
        ("rpc_server.node_client.exponential_backoff.coefficient", 1..=4_294_967_295),
        ("rpc_server.node_client.exponential_backoff.max_attempts", 1..=4_294_967_295),
    ];

    #[test]
    fn every_number_is_taken_up_to_its_limits_and_refused_beyond_with_key_value_and_range() {
        let all_enabled = DEFAULT_FULL
            .replace("enabled = false", "enabled = true")
            .replace("enable_server = false", "enable_server = true");
        for (key, allowed) in LIMITS {
            let with_number = |value| with(&all_enabled, key, toml::Value::Integer(value));
            loaded(&with_number(*allowed.start()));
            loaded(&with_number(*allowed.end()));
            for value in [allowed.start() - 1, allowed.end() + 1, i64::MIN, i64::MAX] {
                let error = refused(&with_number(value));
                let key = key.replace("connections.", "connections[0].");
                let (smallest, largest) = (allowed.start(), allowed.end());
                assert!(error.starts_with("Error constructing config\n"), "{error}");
                assert!(error.contains(&format!("`{key}` is {value} (line ")), "{error}");
                assert!(error.contains(&format!("; set it to a number from {smallest} to {largest}")), "{error}");
            }
        }
    }

    #[test]
    fn retention_and_compaction_are_switched_by_their_keys() {
        let log = |keys: &str| {
            let text = DEFAULT_SSE_ONLY.replace("[sse_server]", &format!("[storage.log]\n{keys}\n[sse_server]"));
            loaded(&text).config.storage.unwrap().log
        };
        let day = Duration::from_secs(86_400);
        assert_eq!(log("retention_age_max = '30 days'").retention_age_max, Some(30 * day));
        assert_eq!(log("retention_age_max = '1day 12h'").retention_age_max, Some(day + day / 2));
        assert_eq!(log("retention_age_max = 'off'").retention_age_max, None);
        assert_eq!(log("retention_bytes_max = 1_000_000").retention_bytes_max, Some(1_000_000));
        assert_eq!(log("compaction = 'off'").compaction, None);
        for wrong in ["0s", "yesterday", "30", ""] {
            let age = format!("[storage.log]\nretention_age_max = '{wrong}'\n[sse_server]");
            let error = refused(&DEFAULT_SSE_ONLY.replace("[sse_server]", &age));
            assert!(error.contains("`storage.log.retention_age_max` is '"), "{error}");
            assert!(error.contains("set it to a time such as '30 days'"), "{error}");
        }
    }

    #[test]
    fn no_number_of_the_full_example_is_without_a_tested_limit() {
        let elsewhere = ["max_attempts", "max_body_bytes", "outbound_channel_size"];
        let numbers = DEFAULT_FULL.lines().filter_map(|line| line.split_once(" = ")).filter(|(key, value)| {
            !key.starts_with('#') && value.replace('_', "").parse::<i64>().is_ok() && !elsewhere.contains(key)
        });
        for (key, _) in numbers {
            assert!(LIMITS.iter().any(|(path, _)| path.ends_with(key)), "`{key}`");
        }
    }

    #[test]
    fn with_look_ups_the_block_cache_is_larger_unless_it_is_set() {
        let cache = |text: &str| loaded(text).config.storage.unwrap().log.block_cache_bytes;
        let with_rest = format!("{DEFAULT_SSE_ONLY}\n[rest_api_server]\nport = 18888\n");
        assert_eq!(cache(&with_rest), 25_165_824);
        let switched_off = format!("{with_rest}enable_server = false\n");
        assert_eq!(cache(&switched_off), 8_388_608);
        let set = format!("{with_rest}[storage.log]\nblock_cache_bytes = 2_000_000\n");
        assert_eq!(cache(&set), 2_000_000);
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = loaded(DEFAULT_SSE_ONLY).config;
        let log = LogSettings {
            durability: Durability::Commit,
            segment_bytes_max: 134_217_728,
            segment_age_max: Duration::from_secs(86_400),
            block_bytes_max: 524_288,
            compression_level: 1,
            event_bytes_max: 33_554_432,
            block_cache_bytes: 8_388_608,
            decode_concurrency: 2,
            index_cache_bytes: 8_388_608,
            index_tail_bytes_max: 4_194_304,
            free_bytes_min: 67_108_864,
            create_if_missing: true,
            allow_network_change: false,
            compaction: Some(Compaction { level: 19, bytes_per_second: 262_144 }),
            retention_bytes_max: None,
            retention_age_max: None,
            retention_wait_bytes_max: 1_073_741_824,
            view_cache_bytes: 8_388_608,
        };
        assert_eq!(config.storage, Some(Storage { folder: "./storage".into(), log, sqlite: None, postgresql: None }));
        let sse = config.sse_server.unwrap();
        let expected = EventStreamServer {
            port: 19999,
            max_concurrent_subscribers: 100,
            replay_chunks: ReplayChunks::Event,
            zstd: ZstdPassThrough::Sole,
            client_buffer_bytes: 16_384,
            max_connections: 1100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(900),
        };
        assert_eq!(sse.event_stream_server, expected);
        assert_eq!((sse.inbound_channel_size, sse.keep_only_newest), (1000, None));
        assert_eq!(sse.emulate_legacy_sse_apis, []);
        let node = &sse.connections[0];
        assert_eq!(node.connection_timeout, Duration::from_secs(5));
        assert_eq!(node.no_message_timeout, Duration::from_secs(120));
        assert_eq!(node.sleep_between_keep_alive_checks, Duration::from_secs(60));
        assert_eq!((config.network_name, config.rest_api_server, config.admin_api_server), (None, None, None));
        assert_eq!(config.threads.workers, thread::available_parallelism().unwrap().get());
        assert_eq!(config.threads.blocking, 16);
    }

    #[test]
    fn defaults_of_the_rpc_section_are_the_documented_ones() {
        let speculative = "[rpc_server.speculative_exec_server]\nip_address = '::'\nport = 0\n";
        let rpc = loaded(&format!("{RPC_ONLY}{speculative}")).config.rpc_server.unwrap();
        let main = rpc.main_server.unwrap();
        assert_eq!((main.qps_limit, main.max_body_bytes, main.cors_origin), (100, 2_621_440, CorsOrigin::Disabled));
        assert_eq!((main.trust_client_ip_headers, main.batch_requests_max), (false, 100));
        assert_eq!(rpc.speculative_exec_server.unwrap().qps_limit, 1);
        assert_eq!((rpc.answer_cache_bytes, rpc.answer_from_log), (32 << 20, false));
        let expected = NodeClient {
            ip_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 28104,
            max_message_size_bytes: 4_194_304,
            message_timeout: Duration::from_secs(30),
            client_access_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_millis(1000),
            request_limit: 256,
            request_buffer_size: 4096,
            exponential_backoff: ExponentialBackoff {
                initial_delay: Duration::from_millis(1000),
                max_delay: Duration::from_millis(64_000),
                coefficient: 2,
                max_attempts: 3,
            },
        };
        assert_eq!(rpc.node_client, expected);
    }

    #[test]
    fn answers_from_the_log_need_a_log() {
        let error = refused(&format!("[rpc_server]\nanswer_from_log = true\n{RPC_ONLY}"));
        assert!(error.contains("`rpc_server.answer_from_log` is true (line 2); add `[sse_server]`"), "{error}");
        let full = DEFAULT_FULL.replace("answer_from_log = false", "answer_from_log = true");
        assert!(loaded(&full).config.rpc_server.unwrap().answer_from_log);
    }

    #[test]
    fn words_choose_among_the_typed_settings() {
        let durability = |word: &str| {
            let text = DEFAULT_FULL.replace("sync_interval_ms = 100", "sync_interval_ms = 250");
            let text = text.replace("durability = \"commit\"", &format!("durability = \"{word}\""));
            load(&text).map(|loaded| loaded.config.storage.unwrap().log.durability)
        };
        assert_eq!(durability("commit").unwrap(), Durability::Commit);
        assert_eq!(durability("interval").unwrap(), Durability::Interval(Duration::from_millis(250)));
        assert_eq!(durability("os").unwrap(), Durability::Os);
        let error = refused(&DEFAULT_FULL.replace("durability = \"commit\"", "durability = \"never\""));
        assert!(error.contains("unknown variant `never`, expected one of `commit`, `interval`, `os`"), "{error}");
        assert!(error.contains("in `storage.log.durability`"), "{error}");

        let text = DEFAULT_FULL.replace("\"event\"", "\"block\"").replace("\"sole\"", "\"any\"");
        let stream = loaded(&text).config.sse_server.unwrap().event_stream_server;
        assert_eq!((stream.replay_chunks, stream.zstd), (ReplayChunks::Block, ZstdPassThrough::Any));
        let text = DEFAULT_FULL.replace("\"sole\"", "\"off\"");
        assert_eq!(loaded(&text).config.sse_server.unwrap().event_stream_server.zstd, ZstdPassThrough::Off);
    }

    #[test]
    fn neither_rpc_nor_sse_is_refused_in_the_words_operators_know() {
        let text = "At least one of RPC server or SSE server must be configured\n\
                    add `[sse_server]`; for REST without nodes set `rest_api_server.answer_from = \"postgresql\"`, which \
                    answers from a database that another Sidecar fills";
        assert_eq!(refused(""), text);
        assert_eq!(refused("[storage]\nstorage_folder = 'x'\n[rest_api_server]\nport = 1"), text);
        assert_eq!(refused(&DEFAULT_SSE_ONLY.replace("enable_server = true", "enable_server = false")), text);
        let speculative_alone =
            format!("{RPC_ONLY}[rpc_server.speculative_exec_server]\nip_address = '::'\nport = 0\n")
                .replace("port = 7777", "port = 7777\nenable_server = false");
        assert_eq!(refused(&speculative_alone), text);
    }

    #[test]
    fn sse_without_storage_is_refused_in_the_words_operators_know() {
        let without = DEFAULT_SSE_ONLY.replace("[storage]\n", "").replace("storage_folder = \"./storage\"\n", "");
        let text = "Can't run SSE if no `[storage.storage_folder]` is defined";
        assert_eq!(refused(&without), text);
        assert_eq!(refused(&without.replace("[sse_server]", "[storage.log]\n[sse_server]")), text);
        let error = refused(&DEFAULT_SSE_ONLY.replace("./storage", ""));
        assert!(error.contains("`storage.storage_folder` is '' (line 6); set it to the folder"), "{error}");
    }

    const POSTGRESQL: &str = "
        [storage.postgresql_config]
        host = 'h'
        database_name = 'd'
        database_username = 'u'
        database_password = 'p'
    ";
    const REST_FROM_POSTGRESQL: &str = "[rest_api_server]\nport = 18888\nanswer_from = 'postgresql'\n";

    #[test]
    fn rest_from_postgresql_needs_nothing_but_the_database() {
        let admin = "[admin_api_server]\nport = 18887\n";
        let with_folder = format!("[storage]\nstorage_folder = 'x'\n{POSTGRESQL}{REST_FROM_POSTGRESQL}{admin}");
        for text in [&format!("{POSTGRESQL}{REST_FROM_POSTGRESQL}"), &with_folder] {
            let Loaded { config, warnings } = loaded(text);
            assert_eq!((warnings, config.sse_server), (vec![], None));
            let rest = config.rest_api_server.unwrap();
            let AnswerFrom::PostgreSql(database) = rest.answer_from else { panic!("{rest:?}") };
            assert_eq!((database.host.as_str(), database.port, database.max_connections), ("h", 5432, 10));
        }
        let variables = |variable: &str| variable.starts_with("SIDECAR_POSTGRES_").then(|| "7".to_owned());
        let variables = |variable: &str| variables(variable).filter(|_| !variable.contains("SSL"));
        let config = Config::parse(REST_FROM_POSTGRESQL, variables).unwrap().config;
        let AnswerFrom::PostgreSql(database) = config.rest_api_server.unwrap().answer_from else { panic!() };
        assert_eq!((database.host.as_str(), database.port), ("7", 7));
    }

    #[test]
    fn rest_from_postgresql_goes_with_everything_else() {
        let full = DEFAULT_FULL.replace("answer_from = \"log\"", "answer_from = \"postgresql\"");
        let error = refused(&full);
        for part in [
            "`rest_api_server.answer_from` is 'postgresql' (line ",
            "no PostgreSQL database is configured: add `[storage.postgresql_config]`, enabled, or set SIDECAR_POSTGRES_HOST",
            "or set this key to 'log'",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let full = full.replace("enabled = false", "enabled = true");
        let answer_from = |text: &str| loaded(text).config.rest_api_server.unwrap().answer_from;
        let exported_to = |text: &str| loaded(text).config.storage.unwrap().postgresql;
        assert_eq!(answer_from(&full), AnswerFrom::PostgreSql(exported_to(&full).unwrap()));
        // Nothing is exported then, but another may fill the database.
        let short = full.replace("disable_event_persistence = false", "disable_event_persistence = true");
        assert!(matches!(answer_from(&short), AnswerFrom::PostgreSql(_)));
        assert_eq!(exported_to(&short), None);
        assert_eq!(answer_from(DEFAULT_FULL), AnswerFrom::Log);

        let error = refused(&DEFAULT_FULL.replace("answer_from = \"log\"", "answer_from = \"sqlite\""));
        assert!(error.contains("unknown variant `sqlite`, expected `log` or `postgresql`"), "{error}");
    }

    #[test]
    fn a_database_that_nothing_is_exported_to_is_named() {
        let sqlite = "[storage.sqlite_config]\nfile_name = 'x'\n";
        let warnings = |text: &str| loaded(text).warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rest_alone = format!("{sqlite}{POSTGRESQL}{REST_FROM_POSTGRESQL}");
        let words = "nothing is exported to `[storage.sqlite_config]` (line 1): without `[sse_server]` there are no events; \
                     add that, or set `enabled = false` there";
        assert_eq!(warnings(&rest_alone), [words]);
        assert_eq!(warnings(&rest_alone.replace("'x'", "'x'\nenabled = false")), [""; 0]);
        let rpc_alone = warnings(&format!("{RPC_ONLY}[storage]\nstorage_folder = 'x'\n{sqlite}{POSTGRESQL}"));
        assert_eq!(rpc_alone.len(), 2, "{rpc_alone:?}");
        assert!(rpc_alone[1].contains("`[storage.postgresql_config]` (line "), "{rpc_alone:?}");
        let exported = DEFAULT_FULL.replace("enabled = false", "enabled = true");
        assert_eq!(warnings(&exported), [""; 0]);
        let short = exported.replace("disable_event_persistence = false", "disable_event_persistence = true");
        let words = "`disable_event_persistence = true` keeps only the newest events; set that to false, or set";
        assert_eq!(warnings(&short).iter().filter(|warning| warning.contains(words)).count(), 2, "{short}");
    }

    #[test]
    fn rest_from_a_log_that_nobody_writes_is_refused_with_both_ways_out() {
        let rest =
            "[storage]\nstorage_folder = 'x'\n[rest_api_server]\nport = 18888\n[admin_api_server]\nport = 18887\n";
        let error = refused(&format!("{RPC_ONLY}{rest}"));
        let expected = "Can't run Rest api server with SSE events persistence disabled\n`[rest_api_server]` answers from the \
                        log, which needs `[sse_server]`: add that; for REST without nodes set \
                        `rest_api_server.answer_from = \"postgresql\"`, which answers from a database that another Sidecar fills";
        assert_eq!(error, expected);
        let from_postgresql = rest.replace("port = 18888", "port = 18888\nanswer_from = 'postgresql'");
        assert!(loaded(&format!("{RPC_ONLY}{from_postgresql}{POSTGRESQL}")).config.rpc_server.is_some());
        loaded(&format!("{RPC_ONLY}{}", rest.replace("[rest_api_server]", "[rest_api_server]\nenable_server = false")));
    }

    #[test]
    fn rpc_alone_needs_no_storage() {
        let config = loaded(RPC_ONLY).config;
        assert!(config.rpc_server.is_some() && config.storage.is_none() && config.sse_server.is_none());
    }

    #[test]
    fn rest_and_admin_need_no_database_and_no_enable_key() {
        let text = format!("{DEFAULT_SSE_ONLY}[rest_api_server]\nport = 18888\n[admin_api_server]\nport = 18887\n");
        let Loaded { config, warnings } = loaded(&text);
        assert_eq!(warnings, []);
        assert_eq!((config.rest_api_server.unwrap().port, config.admin_api_server.unwrap().port), (18888, 18887));
    }

    #[test]
    fn both_databases_may_be_on_at_once() {
        let storage = loaded(&DEFAULT_FULL.replace("enabled = false", "enabled = true")).config.storage.unwrap();
        assert!(storage.sqlite.is_some() && storage.postgresql.is_some());
        let storage = loaded(&DEFAULT_FULL.replace("enabled = false\n", "")).config.storage.unwrap();
        assert!(storage.sqlite.is_some() && storage.postgresql.is_some());
    }

    #[test]
    fn what_is_switched_off_is_absent_and_may_hold_useless_numbers() {
        let text = DEFAULT_FULL
            .replace("enable_server = true\n# Listens", "enable_server = false\n# Listens")
            .replace("max_requests_per_second = 50", "max_requests_per_second = 0")
            .replace("max_concurrent_requests = 1\n", "max_concurrent_requests = -1\n");
        let config = loaded(&text).config;
        assert_eq!((config.rest_api_server, config.admin_api_server), (None, None));
        assert_eq!(config.rpc_server.unwrap().speculative_exec_server, None);
    }

    #[test]
    fn sse_may_be_off_while_rpc_is_on() {
        let text = DEFAULT_FULL.replacen("enable_server = true", "enable_server = false", 1);
        let text = text.replace(
            "[rest_api_server]\n# Default: true when the section is there.\nenable_server = true",
            "[rest_api_server]\nenable_server = false",
        );
        let config = loaded(&text).config;
        assert!(config.sse_server.is_none() && config.rpc_server.is_some());
    }

    #[test]
    fn no_attempts_are_refused_in_the_words_operators_know() {
        let error = refused(&DEFAULT_SSE_ONLY.replace("max_attempts = 10", "max_attempts = 0"));
        let expected = "Error running component 'sse_event_server': \
                        Unable to run: max_attempts setting must be above 0 for the sidecar to attempt connection\n\
                        `sse_server.connections[0].max_attempts` is 0 (line 21); set it to 1 or more, or delete this connection";
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
                format!("`sse_server.connections[0].ip_address` is '{text}' (line 15); set it to an IP address or");
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn a_cors_origin_is_none_any_or_one() {
        let origin = |text: &str| {
            let file = DEFAULT_FULL.replace("cors_origin = \"\"", &format!("cors_origin = \"{text}\""));
            loaded(&file).config.rpc_server.unwrap().main_server.unwrap().cors_origin
        };
        assert_eq!(origin(""), CorsOrigin::Disabled);
        assert_eq!(origin("*"), CorsOrigin::Any);
        assert_eq!(origin("https://example.org"), CorsOrigin::Only("https://example.org".into()));
        let error = refused(&DEFAULT_FULL.replace("cors_origin = \"\"", "cors_origin = \"a b\""));
        assert!(error.contains("`rpc_server.main_server.cors_origin` is 'a b' (line "), "{error}");
    }

    #[test]
    fn without_event_persistence_the_buffer_length_says_how_many_events_to_keep() {
        let text = DEFAULT_FULL.replace("disable_event_persistence = false", "disable_event_persistence = true");
        let kept = |text: &str| loaded(text).config.sse_server.unwrap().keep_only_newest;
        assert_eq!(kept(&text), Some(5000));
        assert_eq!(kept(&text.replace("event_stream_buffer_length = 5000", "event_stream_buffer_length = 7")), Some(7));
        assert_eq!(kept(DEFAULT_FULL), None);
    }

    #[test]
    fn thread_counts_limit_workers_and_blocking_threads() {
        let threads = |lines: &str| loaded(&format!("{lines}\n{DEFAULT_SSE_ONLY}")).config.threads;
        assert_eq!(threads("max_thread_count = 1"), Threads { workers: 1, blocking: 1 });
        let both = "max_thread_count = 2\nmax_blocking_thread_count = 9";
        assert_eq!(threads(both), Threads { workers: 2, blocking: 9 });
        assert_eq!(threads("max_blocking_thread_count = 9").blocking, 9);
    }
}
