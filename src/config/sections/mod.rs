//! The sections of the file, one file each: which keys a section may have, and what it comes to.
//!
//! `Keys` says which keys there are, which are required, and of what TOML type they are; nothing more. Every number in it
//! is an `i64`, TOML's own integer, so that a value outside its limits is refused with the limits in the message, not by
//! serde without them. `check` turns keys into settings: defaults filled in, limits kept, units in types. Where one part
//! of the program takes exactly these settings, they are that part's own options, and the defaults are the part's.
//!
//! A number is next to its key, its default and its limits. What one section means for another is not
//! checked here.

pub(super) mod admin_api_server;
pub(super) mod beacon;
pub(super) mod event_stream_server;
pub(super) mod grpc;
pub(super) mod listen;
pub(super) mod log;
pub(super) mod logging;
pub(super) mod node_client;
pub(super) mod node_connection;
pub(super) mod postgresql;
pub(super) mod rest_api_server;
pub(super) mod rpc_server;
pub(super) mod sqlite;
pub(super) mod sse_server;
pub(super) mod storage;
pub(super) mod threads;
pub(super) mod timeouts;

use serde::Deserialize;

use crate::telemetry::LogFormat;

use super::description::{DefaultValue, KeyDescription, Kind, SectionDescription, count};

/// The whole file.
#[derive(Debug, Deserialize)]
pub(super) struct File {
    pub(super) max_thread_count: Option<i64>,
    pub(super) max_blocking_thread_count: Option<i64>,
    pub(super) network_name: Option<String>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) log_level: Option<String>,
    pub(super) storage: Option<storage::Keys>,
    pub(super) sse_server: Option<sse_server::Keys>,
    pub(super) rest_api_server: Option<rest_api_server::Keys>,
    pub(super) admin_api_server: Option<admin_api_server::Keys>,
    pub(super) rpc_server: Option<rpc_server::Keys>,
    pub(super) beacon: Option<beacon::Keys>,
    pub(super) grpc: Option<grpc::Keys>,
}

/// The keys before the first section.
pub(super) const TOP: SectionDescription = SectionDescription {
    path: "",
    is_list: false,
    text: "",
    keys: &[
        KeyDescription::reference(
            "max_thread_count",
            count(1, threads::THREADS_MAX),
            DefaultValue::Otherwise("one per CPU"),
            "The number of worker threads.",
        )
        .with_example("4"),
        KeyDescription::reference(
            "max_blocking_thread_count",
            count(1, threads::THREADS_MAX),
            DefaultValue::Otherwise("max_thread_count, or 16 if that is not set either"),
            "The most threads that wait for the disk.",
        )
        .with_example("64"),
        KeyDescription::reference(
            "network_name",
            Kind::Text,
            DefaultValue::Otherwise("any network"),
            "The network that every node must be on. A node of another network is not used.",
        )
        .with_example("\"casper\""),
        KeyDescription::new(
            "log_format",
            Kind::Word(&["text", "json"]),
            DefaultValue::Value("\"text\""),
            "The form of log lines. \"text\": for people, in colour on a terminal unless NO_COLOR is set. \"json\": an \
             object a line, for programs.",
        ),
        KeyDescription::new(
            "log_level",
            Kind::Text,
            DefaultValue::Otherwise("\"warn,sidecar=info,sidecar::events=warn\""),
            "Which log lines are shown: a level (off, error, warn, info, debug, trace), or TARGET=LEVEL with commas \
             between. RUST_LOG overrides it. SIGHUP reads it again.",
        )
        .with_example("\"info\""),
    ],
};
