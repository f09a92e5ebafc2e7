//! The configuration file, section by section, in its newest spelling.
//!
//! These structs say which keys exist, which are required, and of what TOML type they are; nothing more. Every number
//! is an `i64`, TOML's own integer, so that a value outside its limits is refused by `checks` with the limits in the
//! message, not by serde without them. A key that is `Option` has its default in `checks`.

use std::{net::IpAddr, path::PathBuf};

use serde::Deserialize;

use super::settings::{ExportFrom, LegacySseApi, Password, ReplayChunks, SslMode, ZstdPassThrough};

/// A section that is there is switched on unless it says otherwise.
fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
pub(super) struct File {
    pub(super) max_thread_count: Option<i64>,
    pub(super) max_blocking_thread_count: Option<i64>,
    pub(super) network_name: Option<String>,
    pub(super) storage: Option<Storage>,
    pub(super) sse_server: Option<SseServer>,
    pub(super) rest_api_server: Option<RestApiServer>,
    pub(super) admin_api_server: Option<AdminApiServer>,
    pub(super) rpc_server: Option<RpcServer>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Storage {
    pub(super) storage_folder: Option<PathBuf>,
    #[serde(default)]
    pub(super) log: Log,
    pub(super) sqlite_config: Option<SqliteConfig>,
    pub(super) postgresql_config: Option<PostgresqlConfig>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Log {
    #[serde(default)]
    pub(super) durability: DurabilityLevel,
    pub(super) sync_interval_ms: Option<i64>,
    pub(super) segment_bytes_max: Option<i64>,
    pub(super) segment_age_max_seconds: Option<i64>,
    pub(super) block_bytes_max: Option<i64>,
    pub(super) compression_level: Option<i64>,
    pub(super) event_bytes_max: Option<i64>,
    pub(super) block_cache_bytes: Option<i64>,
    pub(super) decode_concurrency: Option<i64>,
    pub(super) index_cache_bytes: Option<i64>,
    pub(super) index_tail_bytes_max: Option<i64>,
    pub(super) free_bytes_min: Option<i64>,
    pub(super) create_if_missing: Option<bool>,
    pub(super) allow_network_change: Option<bool>,
    #[serde(default)]
    pub(super) compaction: Switch,
    pub(super) compaction_level: Option<i64>,
    pub(super) compaction_bytes_per_second: Option<i64>,
    pub(super) retention_bytes_max: Option<i64>,
    pub(super) retention_age_max: Option<String>,
    pub(super) retention_wait_bytes_max: Option<i64>,
    pub(super) view_cache_bytes: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Switch {
    #[default]
    On,
    Off,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DurabilityLevel {
    #[default]
    Commit,
    Interval,
    Os,
}

#[derive(Debug, Deserialize)]
pub(super) struct SqliteConfig {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    pub(super) file_name: String,
    /// The reference asks for it, so files have it; here it has no effect.
    #[serde(rename = "max_connections_in_pool")]
    _max_connections_in_pool: Option<i64>,
    pub(super) wal_autocheckpointing_interval: Option<i64>,
    #[serde(default)]
    pub(super) export_from: ExportFrom,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct PostgresqlConfig {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    pub(super) host: Option<String>,
    pub(super) database_name: Option<String>,
    pub(super) database_username: Option<String>,
    pub(super) database_password: Option<Password>,
    pub(super) max_connections_in_pool: Option<i64>,
    pub(super) port: Option<i64>,
    pub(super) sslmode: Option<SslMode>,
    pub(super) sslrootcert: Option<PathBuf>,
    #[serde(default)]
    pub(super) export_from: ExportFrom,
}

#[derive(Debug, Deserialize)]
pub(super) struct SseServer {
    #[serde(default = "yes")]
    pub(super) enable_server: bool,
    #[serde(default)]
    pub(super) emulate_legacy_sse_apis: Vec<LegacySseApi>,
    #[serde(default)]
    pub(super) disable_event_persistence: bool,
    pub(super) inbound_channel_size: Option<i64>,
    // Subscribers read the log themselves, so no queue stands between the handler and them.
    #[serde(rename = "outbound_channel_size")]
    pub(super) _outbound_channel_size: Option<i64>,
    pub(super) connections: Vec<Connection>,
    pub(super) event_stream_server: EventStreamServer,
}

#[derive(Debug, Deserialize)]
pub(super) struct Connection {
    pub(super) ip_address: String,
    pub(super) sse_port: i64,
    pub(super) rest_port: i64,
    pub(super) max_attempts: i64,
    pub(super) delay_between_retries_in_seconds: i64,
    // A leftover of the time when a node had several streams.
    #[serde(rename = "allow_partial_connection")]
    pub(super) _allow_partial_connection: Option<bool>,
    #[serde(default)]
    pub(super) enable_logging: bool,
    pub(super) connection_timeout_in_seconds: Option<i64>,
    pub(super) no_message_timeout_in_seconds: Option<i64>,
    pub(super) sleep_between_keep_alive_checks_in_seconds: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EventStreamServer {
    pub(super) port: i64,
    pub(super) max_concurrent_subscribers: i64,
    pub(super) event_stream_buffer_length: Option<i64>,
    #[serde(default)]
    pub(super) replay_chunks: ReplayChunks,
    #[serde(default)]
    pub(super) zstd: ZstdPassThrough,
    pub(super) client_buffer_bytes: Option<i64>,
    pub(super) max_connections: Option<i64>,
    pub(super) header_timeout_seconds: Option<i64>,
    pub(super) idle_timeout_seconds: Option<i64>,
    pub(super) write_stall_timeout_seconds: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RestApiServer {
    #[serde(default = "yes")]
    pub(super) enable_server: bool,
    pub(super) port: i64,
    pub(super) max_concurrent_requests: Option<i64>,
    pub(super) max_requests_per_second: Option<i64>,
    pub(super) request_timeout_in_seconds: Option<i64>,
    #[serde(default)]
    pub(super) answer_from: AnswerFrom,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AnswerFrom {
    #[default]
    Log,
    PostgreSql,
}

#[derive(Debug, Deserialize)]
pub(super) struct AdminApiServer {
    #[serde(default = "yes")]
    pub(super) enable_server: bool,
    pub(super) port: i64,
    pub(super) max_concurrent_requests: Option<i64>,
    pub(super) max_requests_per_second: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RpcServer {
    pub(super) main_server: RpcListener,
    pub(super) speculative_exec_server: Option<RpcListener>,
    pub(super) node_client: NodeClient,
    pub(super) answer_cache_bytes: Option<i64>,
    #[serde(default)]
    pub(super) answer_from_log: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RpcListener {
    #[serde(default = "yes")]
    pub(super) enable_server: bool,
    pub(super) ip_address: IpAddr,
    pub(super) port: i64,
    pub(super) qps_limit: Option<i64>,
    pub(super) max_body_bytes: Option<i64>,
    #[serde(default)]
    pub(super) cors_origin: String,
    #[serde(default)]
    pub(super) trust_client_ip_headers: bool,
    pub(super) batch_requests_max: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeClient {
    pub(super) ip_address: Option<IpAddr>,
    pub(super) port: Option<i64>,
    pub(super) max_message_size_bytes: Option<i64>,
    pub(super) message_timeout_secs: Option<i64>,
    pub(super) client_access_timeout_secs: Option<i64>,
    pub(super) keepalive_timeout_ms: Option<i64>,
    pub(super) request_limit: Option<i64>,
    pub(super) request_buffer_size: Option<i64>,
    #[serde(default)]
    pub(super) exponential_backoff: ExponentialBackoff,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExponentialBackoff {
    pub(super) initial_delay_ms: Option<i64>,
    pub(super) max_delay_ms: Option<i64>,
    pub(super) coefficient: Option<i64>,
    pub(super) max_attempts: Option<i64>,
}
