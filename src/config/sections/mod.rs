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
pub(super) mod event_stream_server;
pub(super) mod log;
pub(super) mod node_client;
pub(super) mod node_connection;
pub(super) mod postgresql;
pub(super) mod rest_api_server;
pub(super) mod rpc_server;
pub(super) mod sqlite;
pub(super) mod sse_server;
pub(super) mod storage;
pub(super) mod threads;

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
pub(super) struct File {
    pub(super) max_thread_count: Option<i64>,
    pub(super) max_blocking_thread_count: Option<i64>,
    pub(super) network_name: Option<String>,
    pub(super) storage: Option<storage::Keys>,
    pub(super) sse_server: Option<sse_server::Keys>,
    pub(super) rest_api_server: Option<rest_api_server::Keys>,
    pub(super) admin_api_server: Option<admin_api_server::Keys>,
    pub(super) rpc_server: Option<rpc_server::Keys>,
}
