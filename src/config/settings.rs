//! The settings, as the rest of the program sees them: defaults filled in, limits kept, units in types.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de};
use url::Host;

/// All settings. A part that is absent from the file or switched off in it is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How many threads to use.
    pub threads: Threads,
    /// The chain's name that every node must report; any when `None`.
    pub network_name: Option<String>,
    /// `[storage]`: where the log lives, and the databases it is exported to. Always there when `sse_server` is; without
    /// that, nothing uses it.
    pub storage: Option<Storage>,
    /// `[sse_server]`: which nodes to read, and the event stream server.
    pub sse_server: Option<SseServer>,
    /// `[rest_api_server]`.
    pub rest_api_server: Option<RestApiServer>,
    /// `[admin_api_server]`.
    pub admin_api_server: Option<AdminApiServer>,
    /// `[rpc_server]`: there when one of its two servers is enabled.
    pub rpc_server: Option<RpcServer>,
}

impl Config {
    /// One line for each part that the file asks for and this version does not have yet. The others run without it.
    pub fn parts_not_built_yet(&self) -> Vec<&'static str> {
        let legacy_apis = self.sse_server.as_ref().is_some_and(|sse| !sse.emulate_legacy_sse_apis.is_empty());
        [(legacy_apis, "`sse_server.emulate_legacy_sse_apis` is set, but the legacy SSE endpoints are not built yet")]
            .into_iter()
            .filter_map(|(asked_for, line)| asked_for.then_some(line))
            .collect()
    }
}

/// Sizes of the async runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Worker threads: `max_thread_count`, or one per CPU.
    pub workers: usize,
    /// The most blocking threads: `max_blocking_thread_count`, else `max_thread_count`, else 16.
    pub blocking: usize,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// `storage_folder`; a relative path is relative to the working directory.
    pub folder: PathBuf,
    /// `[storage.log]`.
    pub log: LogSettings,
    /// `[storage.sqlite_config]`; `None` too where `disable_event_persistence` rules out exports.
    pub sqlite: Option<Sqlite>,
    /// `[storage.postgresql_config]` and its variables; `None` too where `disable_event_persistence` rules out exports.
    pub postgresql: Option<PostgreSql>,
}

/// `[storage.log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// When an event counts as stored.
    pub durability: Durability,
    /// A segment is sealed when it has this many bytes.
    pub segment_bytes_max: u64,
    /// A segment is sealed when it is this old.
    pub segment_age_max: Duration,
    /// The most raw bytes that go into one block; a larger event gets a block of its own.
    pub block_bytes_max: u32,
    /// The zstd level of new blocks.
    pub compression_level: i32,
    /// The largest event that is taken from a node, in bytes.
    pub event_bytes_max: u32,
    /// The most memory that decompressed blocks take, in bytes.
    pub block_cache_bytes: u64,
    /// The most blocks that are decompressed at once.
    pub decode_concurrency: usize,
    /// The memory of the identity index's page cache, in bytes.
    pub index_cache_bytes: usize,
    /// The most memory that identities which are not yet in the index file take, in bytes.
    pub index_tail_bytes_max: usize,
    /// Ingest waits rather than leave fewer bytes than these free on the device.
    pub free_bytes_min: u64,
    /// Whether a log is begun where there is none.
    pub create_if_missing: bool,
    /// Whether the log takes events of another network than those that it holds.
    pub allow_network_change: bool,
    /// How finished segments are compacted; `None` leaves them as they were written, but for small blocks.
    pub compaction: Option<Compaction>,
    /// The most bytes on disk before the oldest segments are dropped; `None` keeps all.
    pub retention_bytes_max: Option<u64>,
    /// How long events are kept; `None` keeps all.
    pub retention_age_max: Option<Duration>,
    /// How many bytes more are kept for a view or exporter that has not read them yet.
    pub retention_wait_bytes_max: u64,
    /// The memory of the views' page cache, in bytes.
    pub view_cache_bytes: usize,
}

/// `compaction = "on"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The zstd level.
    pub level: i32,
    /// How many bytes of events are compressed anew per second at most.
    pub bytes_per_second: u64,
}

/// When an event counts as stored, and so may be shown to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once the disk confirms its group of events.
    Commit,
    /// The same, but the disk is asked only once per this time.
    Interval(Duration),
    /// Once the operating system has it; a power cut may lose it.
    Os,
}

/// `[storage.sqlite_config]`, enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sqlite {
    /// The database file inside the storage folder.
    pub file_name: String,
    /// Pages per automatic checkpoint of the write-ahead log.
    pub wal_autocheckpointing_interval: u16,
    /// Where a new export begins.
    pub export_from: ExportFrom,
}

/// Where an export begins in a database that has no checkpoint of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFrom {
    /// With the oldest event of the log.
    #[default]
    Oldest,
    /// With the next event that the log gets.
    Head,
}

/// `[storage.postgresql_config]`, enabled, with the environment's values in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgreSql {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the database.
    pub database_name: String,
    /// User name.
    pub username: String,
    /// The user's password.
    pub password: Password,
    /// The most connections at once.
    pub max_connections: u32,
    /// Whether the connection is encrypted, and whether it is known who is at its other end.
    pub ssl_mode: SslMode,
    /// The file with the certificates that vouch for the server, in PEM form, for [`SslMode::VerifyFull`] and
    /// [`SslMode::Require`]; without it the first trusts those that the system trusts, and the second any.
    pub ssl_root_certificate: Option<PathBuf>,
    /// Where a new export begins.
    pub export_from: ExportFrom,
}

impl PostgreSql {
    /// The server and the database, for log lines.
    pub fn place(&self) -> String {
        format!("PostgreSQL database {} at {}:{}", self.database_name, self.host, self.port)
    }
}

/// TLS to PostgreSQL: the modes of its own clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server has it; the server's certificate is not checked.
    #[default]
    Prefer,
    /// Always; the server's certificate must be vouched for if [`PostgreSql::ssl_root_certificate`] is given, whatever
    /// host it names.
    Require,
    /// Always, and only with a server whose certificate is vouched for and names its host.
    VerifyFull,
}

/// A password, which no log line and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Keeps `secret`.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The password itself, for the one place that logs in with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The password itself, out of its cover.
    pub(super) fn into_inner(self) -> String {
        self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(a password)")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own message would quote the value.
        String::deserialize(deserializer).map(Self).map_err(|_| de::Error::custom("expected a string in quotes"))
    }
}

/// `[sse_server]`, enabled.
#[derive(Clone, Debug, PartialEq)]
pub struct SseServer {
    /// `[[sse_server.connections]]`: the nodes to read, in the file's order. With none, there is nothing to connect to.
    pub connections: Vec<NodeConnection>,
    /// `[sse_server.event_stream_server]`.
    pub event_stream_server: EventStreamServer,
    /// The legacy APIs to serve beside the current one.
    pub emulate_legacy_sse_apis: Vec<LegacySseApi>,
    /// How many events may wait between a node's reader and the writer of the log.
    pub inbound_channel_size: usize,
    /// With `disable_event_persistence`: how many of the newest events to keep at least, `event_stream_buffer_length`.
    /// `None` keeps all.
    pub keep_only_newest: Option<u64>,
}

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
    /// The limit for the TCP connection to come about.
    pub connection_timeout: Duration,
    /// The silence after which the stream is given up and connected again.
    pub no_message_timeout: Duration,
    /// How often silence is looked for.
    pub sleep_between_keep_alive_checks: Duration,
}

/// `[sse_server.event_stream_server]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventStreamServer {
    /// Listening port; 0 is any free one.
    pub port: u16,
    /// The most streams open at once, on all endpoints together.
    pub max_concurrent_subscribers: u32,
    /// How replayed events are cut into HTTP chunks.
    pub replay_chunks: ReplayChunks,
    /// Which clients get stored zstd frames as they are.
    pub zstd: ZstdPassThrough,
    /// The buffer that a client's connection writes from, in bytes.
    pub client_buffer_bytes: usize,
    /// The most connections open at once, those without a stream included.
    pub max_connections: usize,
    /// The limit for a client to send its first request's header.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of its stream before it is cut.
    pub write_stall_timeout: Duration,
}

/// How replayed events are cut into HTTP chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayChunks {
    /// One event per chunk, which every client library can take.
    #[default]
    Event,
    /// Many events per chunk, which is faster.
    Block,
}

/// Which clients get stored zstd frames as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZstdPassThrough {
    /// Those that name zstd as the only coding they take.
    #[default]
    Sole,
    /// Those that name zstd at all.
    Any,
    /// None.
    Off,
}

/// A former API of the event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum LegacySseApi {
    /// `/events/main`, `/events/deploys` and `/events/sigs` of 1.x nodes.
    V1,
}

/// `[rest_api_server]`, enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestApiServer {
    /// Listening port; 0 is any free one.
    pub port: u16,
    /// How many requests are worked on at once; others wait.
    pub max_concurrent_requests: u32,
    /// How many requests are begun per second; others wait.
    pub max_requests_per_second: u32,
    /// The limit for answering one request.
    pub request_timeout: Duration,
    /// Where the answers come from.
    pub answer_from: AnswerFrom,
}

/// Where the answers of the REST server come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerFrom {
    /// From the log, which is there when `sse_server` is.
    Log,
    /// From this database, filled here or elsewhere.
    PostgreSql(PostgreSql),
}

/// `[admin_api_server]`, enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminApiServer {
    /// Listening port; 0 is any free one.
    pub port: u16,
    /// How many requests are worked on at once; others wait.
    pub max_concurrent_requests: u32,
    /// How many requests are begun per second; others wait.
    pub max_requests_per_second: u32,
}

/// `[rpc_server]` with at least one enabled server.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcServer {
    /// `[rpc_server.main_server]`, if enabled.
    pub main_server: Option<RpcListener>,
    /// `[rpc_server.speculative_exec_server]`, if enabled.
    pub speculative_exec_server: Option<RpcListener>,
    /// `[rpc_server.node_client]`.
    pub node_client: NodeClient,
    /// Bytes of answers that never change to keep; 0 keeps none.
    pub answer_cache_bytes: u64,
    /// Whether the log answers while the node is away.
    pub answer_from_log: bool,
}

/// One JSON-RPC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcListener {
    /// Listening address.
    pub ip_address: IpAddr,
    /// Listening port; 0 is any free one.
    pub port: u16,
    /// Requests per second allowed to one client address; at least 1.
    pub qps_limit: u32,
    /// The largest request body, in bytes.
    pub max_body_bytes: u64,
    /// Which web pages may read the answers.
    pub cors_origin: CorsOrigin,
    /// Whether a client's address is taken from the headers in which a proxy reports it.
    pub trust_client_ip_headers: bool,
    /// Requests in one batch, at most; 0 refuses batches.
    pub batch_requests_max: u32,
}

/// Which web pages may read a server's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigin {
    /// None: the server does not speak CORS.
    Disabled,
    /// All.
    Any,
    /// Those of this origin.
    Only(String),
}

/// `[rpc_server.node_client]`: the link to the node's binary port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeClient {
    /// The node's address.
    pub ip_address: IpAddr,
    /// The node's binary port.
    pub port: u16,
    /// The largest frame in either direction, in bytes.
    pub max_message_size_bytes: u32,
    /// The limit for sending a request, and again for each wait for a response.
    pub message_timeout: Duration,
    /// The limit for getting hold of the connection, and for a reconnect inside a request.
    pub client_access_timeout: Duration,
    /// The interval of keep-alive requests.
    pub keepalive_timeout: Duration,
    /// Requests that are sent and not answered, at most; at least 1.
    pub request_limit: u32,
    /// Requests that wait for their turn to be sent, at most; further ones are refused.
    pub request_buffer_size: u32,
    /// How to come back to a lost node.
    pub exponential_backoff: ExponentialBackoff,
}

/// `[rpc_server.node_client.exponential_backoff]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExponentialBackoff {
    /// The first pause.
    pub initial_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
    /// What each pause is multiplied with to get the next one; at least 1.
    pub coefficient: u64,
    /// How many attempts are made; at least 1.
    pub max_attempts: u32,
}
