//! Configuration texts for tests: the example files, and a file of each era of the Casper Sidecar.

use std::error::Error;

use super::{Config, ConfigError, Loaded};

pub(super) const DEFAULT_SSE_ONLY: &str = include_str!("../../resources/example_configs/default_sse_only.toml");
pub(super) const DEFAULT_FULL: &str = include_str!("../../resources/example_configs/default_full.toml");
pub(super) const BEACON: &str = include_str!("../../resources/example_configs/beacon.toml");
pub(super) const REST_FROM_POSTGRESQL: &str = include_str!("../../resources/example_configs/rest_from_postgresql.toml");
pub(super) const GRPC: &str = include_str!("../../resources/example_configs/grpc.toml");

/// Every section, and in it only what has no default.
pub(super) const EVERY_SECTION: &str = "
    [storage]
    storage_folder = 'x'
    [storage.log]
    [storage.sqlite_config]
    file_name = 'x'
    [storage.postgresql_config]
    host = 'x'
    database_name = 'x'
    database_username = 'x'
    database_password = 'x'
    [sse_server]
    disable_event_persistence = false
    [[sse_server.connections]]
    ip_address = '127.0.0.1'
    sse_port = 1
    max_attempts = 1
    delay_between_retries_in_seconds = 1
    [sse_server.event_stream_server]
    port = 0
    max_concurrent_subscribers = 100
    [sse_server.event_stream_server.tls]
    enabled = false
    certificate_file = 'x'
    key_file = 'x'
    [sse_server.event_stream_server.bearer_tokens]
    enabled = false
    file = 'x'
    [rest_api_server]
    port = 0
    [rest_api_server.tls]
    enabled = false
    certificate_file = 'x'
    key_file = 'x'
    [rest_api_server.bearer_tokens]
    enabled = false
    file = 'x'
    [admin_api_server]
    port = 0
    [admin_api_server.tls]
    enabled = false
    certificate_file = 'x'
    key_file = 'x'
    [admin_api_server.bearer_tokens]
    enabled = false
    file = 'x'
    [rpc_server]
    [rpc_server.main_server]
    ip_address = '::'
    port = 0
    [rpc_server.main_server.tls]
    enabled = false
    certificate_file = 'x'
    key_file = 'x'
    [rpc_server.main_server.bearer_tokens]
    enabled = false
    file = 'x'
    [rpc_server.speculative_exec_server]
    ip_address = '::'
    port = 0
    [rpc_server.speculative_exec_server.tls]
    enabled = false
    certificate_file = 'x'
    key_file = 'x'
    [rpc_server.speculative_exec_server.bearer_tokens]
    enabled = false
    file = 'x'
    [rpc_server.node_client]
    [rpc_server.node_client.exponential_backoff]
    [beacon]
    [beacon.tls]
    enabled = false
    certificate_file = 'x'
    key_file = 'x'
    [beacon.bearer_tokens]
    enabled = false
    file = 'x'
    [[beacon.connections]]
    url = 'http://127.0.0.1:5052'
    [grpc]
    [grpc.tls]
    enabled = false
    certificate_file = 'x'
    key_file = 'x'
    [grpc.bearer_tokens]
    enabled = false
    file = 'x'
    [[grpc.upstreams]]
    name = 'chain'
    address = 'http://127.0.0.1:50051'
    reflection = true
    [[grpc.streams]]
    name = 'x'
    upstream = 'chain'
    method = 'a.B/C'
    path = '/x'
";

/// The smallest file with JSON-RPC.
pub(super) const RPC_ONLY: &str = "
    [rpc_server.main_server]
    ip_address = '0.0.0.0'
    port = 7777
    [rpc_server.node_client]
";

/// No part of any other text, so that finding it anywhere means that it leaked.
pub(super) const PASSWORD: &str = "xyzzyQ9";

/// Parses `text` in an empty environment.
pub(super) fn load(text: &str) -> Result<Loaded, ConfigError> {
    Config::parse(text, |_| None)
}

/// The same for a `text` that must load.
pub(super) fn loaded(text: &str) -> Loaded {
    load(text).unwrap_or_else(|error| panic!("{}", explained(&error)))
}

/// The whole error of a `text` that must not load.
pub(super) fn refused(text: &str) -> String {
    explained(&load(text).expect_err(text))
}

/// The error and what caused it, one per line.
pub(super) fn explained(error: &ConfigError) -> String {
    let causes = std::iter::successors(Some(error as &dyn Error), |error: &&dyn Error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// `text` with the key at the path `key` set to `value`; in an array of tables, in its first.
pub(super) fn with(text: &str, key: &str, value: toml::Value) -> String {
    changed(text, key, |table, name| {
        table.insert(name.to_owned(), value);
    })
}

/// `text` without the key at the path `key`; in an array of tables, in its first.
pub(super) fn without(text: &str, key: &str) -> String {
    changed(text, key, |table, name| {
        table.remove(name);
    })
}

fn changed(text: &str, key: &str, change: impl FnOnce(&mut toml::Table, &str)) -> String {
    let mut root: toml::Table = text.parse().unwrap();
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = &mut root;
    for step in section.split('.').filter(|step| !step.is_empty()) {
        let below = table.get_mut(step).unwrap_or_else(|| panic!("no `{step}` of `{key}`"));
        let below = if below.is_array() { &mut below[0] } else { below };
        table = below.as_table_mut().unwrap();
    }
    change(table, name);
    root.to_string()
}

/// A file of each era, oldest first.
pub(super) const EVERY_ERA: [&str; 11] = [
    ERA_2022_10,
    ERA_2022_11,
    ERA_2023_02,
    ERA_2023_06,
    ERA_2023_09,
    ERA_2024_01,
    ERA_2024_02,
    ERA_2024_05,
    ERA_2024_07,
    ERA_2024_11,
    ERA_2025_02,
];

pub(super) const ERA_2022_10: &str = r#"
node_connections = [
    { ip_address = "127.0.0.1", sse_port = 18101, rest_port = 14101, max_retries = 5, delay_between_retries_secs = 7, enable_event_logging = true },
    { ip_address = "127.0.0.1", sse_port = 18102, rest_port = 14102, max_retries = 6, delay_between_retries_secs = 8, enable_event_logging = false },
]

[storage]
storage_path = "./target/storage"

[storage.sqlite_config]
file_name = "sqlite_database.db3"
max_write_connections = 10
max_read_connections = 90
max_connections_in_pool = 100
wal_autocheckpointing_interval = 1000

[rest_server]
ip_address = "127.0.0.1"
port = 17777

[event_stream_server]
ip_address = "127.0.0.1"
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000
"#;

pub(super) const ERA_2022_11: &str = r#"
[connection]
node_connections = [
    { ip_address = "127.0.0.1", sse_port = 18101, rest_port = 14101, max_retries = 5, delay_between_retries_in_seconds = 5, allow_partial_connection = false, enable_logging = true, filter_priority = { main = 1, deploys = 2, sigs = 3 } },
]

[storage]
storage_path = "./target/storage"

[storage.sqlite_config]
file_name = "sqlite_database.db3"
max_connections_in_pool = 100
wal_autocheckpointing_interval = 1000

[rest_server]
port = 17777
max_concurrent_requests = 50
max_requests_per_second = 50
request_timeout_in_seconds = 10

[event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000
"#;

pub(super) const ERA_2023_02: &str = r#"
[[connections]]
ip_address = "127.0.0.1"
sse_port = 18101
rest_port = 14101
max_retries = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true
connection_timeout_in_seconds = 3

[[connections]]
ip_address = "127.0.0.1"
sse_port = 18102
rest_port = 14102
max_retries = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = false
connection_timeout_in_seconds = 3

[storage]
storage_path = "./target/storage"

[storage.sqlite_config]
file_name = "sqlite_database.db3"
max_connections_in_pool = 100
wal_autocheckpointing_interval = 1000

[rest_server]
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000
"#;

pub(super) const ERA_2023_06: &str = r#"
[[connections]]
ip_address = "127.0.0.1"
sse_port = 9999
rest_port = 8888
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true
force_reconnect_in_hours = 123

[storage]
storage_path = "/var/lib/casper-event-sidecar"

[storage.sqlite_config]
file_name = "sqlite_database.db3"
max_connections_in_pool = 100
wal_autocheckpointing_interval = 1000

[rest_server]
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000
"#;

pub(super) const ERA_2023_09: &str = r#"
[[connections]]
ip_address = "127.0.0.1"
sse_port = 18101
rest_port = 14101
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true

[storage]
storage_path = "./target/storage"

[storage.postgresql_config]
database_name = "event_sidecar"
host = "localhost"
database_password = "p@$$w0rd"
database_username = "postgres"
max_connections_in_pool = 30

[rest_server]
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000

[admin_server]
port = 18887
max_concurrent_requests = 1
max_requests_per_second = 1
"#;

pub(super) const ERA_2024_01: &str = r#"
[rpc_server.main_server]
enable_server = true
address = '0.0.0.0:7777'
qps_limit = 100
max_body_bytes = 2_621_440
cors_origin = ''

[rpc_server.speculative_exec_server]
enable_server = true
address = '0.0.0.0:7778'
qps_limit = 1
max_body_bytes = 2_621_440
cors_origin = '*'

[rpc_server.node_client]
address = '127.0.0.1:28101'
max_request_size_bytes = 4_194_304
max_response_size_bytes = 8_388_608
request_limit = 3
request_buffer_size = 16

[rpc_server.node_client.exponential_backoff]
initial_delay_ms = 1000
max_delay_ms = 32_000
coefficient = 2

[[sse_server.connections]]
ip_address = "127.0.0.1"
sse_port = 18101
rest_port = 14101
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true

[sse_server.storage]
storage_path = "./target/storage"

[sse_server.storage.sqlite_config]
file_name = "sqlite_database.db3"
max_connections_in_pool = 100
wal_autocheckpointing_interval = 1000

[sse_server.rest_server]
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[sse_server.event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000

[sse_server.admin_server]
port = 18887
max_concurrent_requests = 1
max_requests_per_second = 1
"#;

pub(super) const ERA_2024_02: &str = r#"
[sse_server.event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000

[[sse_server.connections]]
ip_address = "127.0.0.1"
sse_port = 18101
rest_port = 14101
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true

[storage]
storage_path = "./target/storage"

[storage.sqlite_config]
file_name = "sqlite_database.db3"
max_connections_in_pool = 100
wal_autocheckpointing_interval = 1000

[rest_api_server]
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[admin_api_server]
port = 18887
max_concurrent_requests = 1
max_requests_per_second = 1
"#;

pub(super) const ERA_2024_05: &str = r#"
[sse_server]
enable_server = true
emulate_legacy_sse_apis = ["V1"]

[sse_server.event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000

[[sse_server.connections]]
ip_address = "127.0.0.1"
sse_port = 18101
rest_port = 14101
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true
no_message_timeout_in_seconds = 10
sleep_between_keep_alive_checks_in_seconds = 5

[storage]
storage_path = "./target/storage"

[rest_api_server]
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[admin_api_server]
port = 18887
max_concurrent_requests = 1
max_requests_per_second = 1

[rpc_server.main_server]
enable_server = true
address = '0.0.0.0:7777'
qps_limit = 100
max_body_bytes = 2_621_440
cors_origin = ''

[rpc_server.node_client]
address = '127.0.0.1:28101'
max_message_size_bytes = 4_194_304
request_limit = 3
request_buffer_size = 16
message_timeout_secs = 30
client_access_timeout_secs = 2

[rpc_server.node_client.exponential_backoff]
initial_delay_ms = 1000
max_delay_ms = 32_000
coefficient = 2
max_attempts = 30
"#;

pub(super) const ERA_2024_07: &str = r#"
[rpc_server.main_server]
enable_server = true
address = '0.0.0.0:7777'
qps_limit = 100
max_body_bytes = 2_621_440
cors_origin = ''

[rpc_server.speculative_exec_server]
enable_server = true
address = '0.0.0.0:7778'
qps_limit = 1
max_body_bytes = 2_621_440
cors_origin = ''

[rpc_server.node_client]
address = '127.0.0.1:7779'
max_message_size_bytes = 4_194_304
request_limit = 3
request_buffer_size = 16
message_timeout_secs = 30
client_access_timeout_secs = 2

[rpc_server.node_client.exponential_backoff]
initial_delay_ms = 1000
max_delay_ms = 32_000
coefficient = 2
max_attempts = 30

[sse_server]
enable_server = true
disable_event_persistence = false
emulate_legacy_sse_apis = ["V1"]

[[sse_server.connections]]
ip_address = "127.0.0.1"
sse_port = 18101
rest_port = 14101
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true
connection_timeout_in_seconds = 3
no_message_timeout_in_seconds = 60
sleep_between_keep_alive_checks_in_seconds = 30

[sse_server.event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000

[storage]
storage_folder = "./target/storage"

[storage.sqlite_config]
enabled = true
file_name = "sqlite_database.db3"
max_connections_in_pool = 100
wal_autocheckpointing_interval = 1000

[rest_api_server]
enable_server = true
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[admin_api_server]
enable_server = true
port = 18887
max_concurrent_requests = 1
max_requests_per_second = 1
"#;

/// As the shipped example for PostgreSQL, without `enable_server` in the admin section.
pub(super) const ERA_2024_11: &str = r#"
[rpc_server.main_server]
enable_server = true
ip_address = "0.0.0.0"
port = 11102
qps_limit = 100
max_body_bytes = 2621440
cors_origin = ""

[rpc_server.node_client]
ip_address = "0.0.0.0"
port = 28102
max_message_size_bytes = 4194304
request_limit = 3
request_buffer_size = 16
message_timeout_secs = 30
client_access_timeout_secs = 2
keepalive_timeout_ms = 10_000

[rpc_server.node_client.exponential_backoff]
initial_delay_ms = 1000
max_delay_ms = 32000
coefficient = 2
max_attempts = 30

[sse_server]
enable_server = true
disable_event_persistence = false

[[sse_server.connections]]
ip_address = "127.0.0.1"
sse_port = 18101
rest_port = 14101
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true
no_message_timeout_in_seconds = 10
sleep_between_keep_alive_checks_in_seconds = 5

[sse_server.event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000

[storage]
storage_folder = "/var/lib/casper-sidecar"

[storage.postgresql_config]
enabled = true
database_name = "event_sidecar"
host = "localhost"
database_password = "p@$$w0rd"
database_username = "postgres"
max_connections_in_pool = 30

[rest_api_server]
enable_server = true
port = 18888
max_concurrent_requests = 50
max_requests_per_second = 50

[admin_api_server]
port = 18887
max_concurrent_requests = 1
max_requests_per_second = 1
"#;

/// Without a database, and with every key of the last release that no other sample has.
pub(super) const ERA_2025_02: &str = r#"
max_thread_count = 8
max_blocking_thread_count = 64
network_name = "casper"

[sse_server]
enable_server = true
disable_event_persistence = false
inbound_channel_size = 1000
outbound_channel_size = 1000

[[sse_server.connections]]
ip_address = "127.0.0.1"
sse_port = 9999
rest_port = 8888
max_attempts = 10
delay_between_retries_in_seconds = 5
allow_partial_connection = false
enable_logging = true

[sse_server.event_stream_server]
port = 19999
max_concurrent_subscribers = 100
event_stream_buffer_length = 5000

[storage]
storage_folder = "/var/lib/casper-sidecar"

[rpc_server.main_server]
enable_server = true
ip_address = "0.0.0.0"
port = 7777
qps_limit = 100
max_body_bytes = 2_621_440
cors_origin = ""

[rpc_server.node_client]
ip_address = "127.0.0.1"
port = 7779
max_message_size_bytes = 4_194_304
message_timeout_secs = 30
client_access_timeout_secs = 10
keepalive_timeout_ms = 10_000

[rpc_server.node_client.exponential_backoff]
initial_delay_ms = 1000
max_delay_ms = 32_000
coefficient = 2
max_attempts = 30
"#;
