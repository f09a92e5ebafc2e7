//! What is read from `/status`. Each part may be missing: it may be that of another version.

use serde::Deserialize;
use sidecar_log_format::Sequence;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) commit: Option<String>,
    /// The server's own clock, in RFC 3339: ages are computed from it.
    #[serde(rename = "now")]
    pub(super) time: Option<String>,
    pub(super) uptime_seconds: Option<u64>,
    pub(super) logs: Vec<Log>,
    pub(super) grpc_streams: Vec<GrpcStream>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GrpcStream {
    pub(super) log: String,
    pub(super) is_connected: bool,
    pub(super) received: u64,
    pub(super) last_event_at: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Log {
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) oldest: Option<Sequence>,
    pub(super) newest: Option<Sequence>,
    pub(super) disk: Disk,
    pub(super) waits_for_room: bool,
    pub(super) stopped: Option<String>,
    pub(super) lost: Lost,
    pub(super) nodes: Vec<Node>,
    pub(super) streams: Streams,
    pub(super) views: Vec<Follower>,
    pub(super) exporters: Vec<Follower>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Disk {
    pub(super) segments: Option<u64>,
    pub(super) bytes: Option<u64>,
    /// What the device has left for the log.
    pub(super) available_bytes: Option<u64>,
    pub(super) days_until_full: Option<f64>,
    pub(super) newest_received_at: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lost {
    pub(super) missing: u64,
    pub(super) damaged: u64,
    pub(super) marked: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) status: String,
    /// When its last event was received.
    pub(super) last_event_at: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Streams {
    pub(super) connections: u64,
    pub(super) open: u64,
    pub(super) classes: Vec<Class>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Class {
    pub(super) class: String,
    pub(super) lag_max: u64,
    pub(super) slowest: Option<String>,
}

/// A view or an exporter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Follower {
    pub(super) name: String,
    pub(super) lag: u64,
    /// Only exporters are connected to something.
    pub(super) is_connected: Option<bool>,
}
