//! How the parts are, for people and their scripts: one JSON object, with a list of the logs and what is around each.
//!
//! Figures over time are the metrics' business; here is what they cannot have, such as the address of the slowest client.
//! Counts are those since the start of the process: two answers give a rate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Serialize;
use sidecar_log_format::{Kind, Sequence, Timestamp};

use super::disk::{Disk, Disks};
use super::readiness::why_not_ready;
use super::{Follower, Logged, Parts, Role};
use crate::build_info::{Build, build};
use crate::casper::rpc;
use crate::engine::counters::CountPerKind;
use crate::engine::losses::Lost;
use crate::engine::source::now;
use crate::engine::source::watch::SourceWatch;
use crate::engine::stream::{ClassLag, ReaderClass};
use crate::grpc::StreamCounters;
use crate::rfc3339::{self, as_time};
use crate::telemetry::{Warning, recent_warnings};

/// What `/status` answers.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    version: &'static str,
    commit: &'static str,
    now: String,
    uptime_seconds: u64,
    is_ready: bool,
    /// Why it is not.
    why_not_ready: Option<String>,
    logs: Vec<Log<'a>>,
    /// The recorded gRPC streams, where there is a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_streams: Option<Vec<GrpcStream<'a>>>,
    /// The JSON-RPC servers, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc: Option<Rpc>,
    /// The REST server, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<Rest>,
    /// The last warnings and errors, the oldest first.
    warnings: Vec<Warning>,
}

#[derive(Debug, Serialize)]
struct Rpc {
    /// Of the node's binary port.
    node: SocketAddr,
    is_connected: bool,
    /// Requests that the node has not answered yet.
    in_flight: u64,
    /// By method.
    calls: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Rest {
    in_flight: u64,
    /// Requests answered.
    answered: u64,
    /// Whether the database that answers come from answered when last asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_database_connected: Option<bool>,
}

/// A recorded gRPC stream, named as its log.
#[derive(Debug, Serialize)]
struct GrpcStream<'a> {
    log: &'a str,
    is_connected: bool,
    received: u64,
    reconnects: u64,
    #[serde(serialize_with = "as_time")]
    last_event_at: Option<Timestamp>,
}

/// One log, what fills it and what reads it.
#[derive(Debug, Serialize)]
struct Log<'a> {
    name: &'a str,
    dialect: String,
    id: String,
    epoch: u64,
    /// Not there while the log is empty.
    oldest: Option<Sequence>,
    newest: Option<Sequence>,
    /// The greatest height of a stored block, where the dialect counts them.
    newest_height: Option<u64>,
    waits_for_room: bool,
    /// Why nothing is stored, while that is so.
    stopped: Option<String>,
    lost: Lost,
    /// Events stored.
    stored: u64,
    /// The same by their kinds.
    stored_by_kind: BTreeMap<String, u64>,
    disk: Disk,
    nodes: Vec<Node<'a>>,
    streams: Streams,
    views: Vec<Lag>,
    exporters: Vec<Exporter>,
}

#[derive(Debug, Serialize)]
struct Streams {
    connections: usize,
    open: u64,
    classes: Vec<Class>,
}

#[derive(Debug, Serialize)]
struct Class {
    class: &'static str,
    open: u64,
    /// Events that the slowest stream still has to be sent.
    lag_max: u64,
    /// Its client, while it lags.
    slowest: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    name: &'a str,
    status: &'static str,
    /// Events received, including those that another node had sent before.
    received: u64,
    reconnects: u64,
    #[serde(serialize_with = "as_time")]
    last_event_at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Lag {
    name: &'static str,
    lag: u64,
}

#[derive(Debug, Serialize)]
struct Exporter {
    name: &'static str,
    lag: u64,
    is_connected: bool,
}

impl<'a> Status<'a> {
    /// Reads files, so it belongs on a thread that may block.
    pub(super) fn of(parts: &'a Parts, disks: &Disks, started: Instant) -> Status<'a> {
        let why_not_ready = why_not_ready(parts);
        let grpc_streams = parts.grpc.as_ref().map(|watch| watch.streams.iter().map(grpc_stream).collect());
        let Build { version, commit, .. } = build();
        let disks = disks.of(&parts.logs);
        let logs = parts.logs.iter().zip(disks).map(|(logged, disk)| log(logged, disk));
        Status {
            version,
            commit,
            now: rfc3339::format(now()).to_string(),
            uptime_seconds: started.elapsed().as_secs(),
            is_ready: why_not_ready.is_none(),
            why_not_ready,
            logs: logs.collect(),
            grpc_streams,
            rpc: parts.rpc.as_ref().map(rpc),
            rest: rest(parts),
            warnings: recent_warnings(),
        }
    }
}

fn grpc_stream((log, stream): &(Box<str>, Arc<StreamCounters>)) -> GrpcStream<'_> {
    GrpcStream {
        log,
        is_connected: stream.is_connected.get(),
        received: stream.received.get(),
        reconnects: stream.reconnects.get(),
        last_event_at: stream.last_received.get(),
    }
}

fn rpc(watch: &rpc::Watch) -> Rpc {
    Rpc {
        node: watch.link.node(),
        is_connected: watch.link.state() == rpc::LinkState::Connected,
        in_flight: watch.link.in_flight(),
        calls: watch.counters.calls().collect(),
    }
}

fn rest(parts: &Parts) -> Option<Rest> {
    let counters = parts.rest.as_ref()?;
    Some(Rest {
        in_flight: counters.in_flight.load(Ordering::Relaxed),
        answered: counters.response_times().map(|(_, _, times)| times.count).sum(),
        is_database_connected: parts.database.as_ref().map(|database| database.has_answered()),
    })
}

fn log(logged: &Logged, disk: Disk) -> Log<'_> {
    let (oldest, newest) = logged.log.ends().unzip();
    Log {
        name: &logged.name,
        dialect: logged.log.dialect(),
        id: hex::encode(logged.log.id()),
        epoch: logged.log.head().epoch,
        oldest,
        newest,
        newest_height: logged.ingest.highest_ordinal.get(),
        waits_for_room: logged.ingest.waits_for_room.get(),
        stopped: logged.ingest.stopped.reason(),
        lost: Lost::of(&logged.log),
        stored: logged.ingest.stored.get(),
        stored_by_kind: by_kind(logged, &logged.ingest.stored_by_kind),
        disk,
        nodes: nodes(logged),
        streams: streams(logged),
        views: views(logged),
        exporters: exporters(logged),
    }
}

/// Those kinds of which there are any.
fn by_kind(logged: &Logged, counts: &CountPerKind) -> BTreeMap<String, u64> {
    let mut kinds = logged.log.kinds();
    if kinds.iter().all(|(kind, _)| *kind != Kind::OTHER.0) {
        kinds.push((Kind::OTHER.0, "other".to_owned()));
    }
    kinds.into_iter().map(|(kind, name)| (name, counts.get(Kind(kind)))).filter(|(_, count)| *count > 0).collect()
}

fn streams(logged: &Logged) -> Streams {
    let head = logged.log.head().next_sequence;
    let class = |(ReaderClass(class), ClassLag { readers, events_max, slowest })| Class {
        class,
        open: readers,
        lag_max: events_max,
        slowest,
    };
    let classes: Vec<Class> = logged.stream.readers.lags(head).map(class).collect();
    Streams {
        connections: logged.stream_port.front.connections.load(Ordering::Relaxed),
        open: classes.iter().map(|class| class.open).sum(),
        classes,
    }
}

fn nodes(logged: &Logged) -> Vec<Node<'_>> {
    let nodes = logged.sources.iter().map(|SourceWatch { name, counters }| Node {
        name,
        status: counters.status.name(),
        received: counters.received.get(),
        reconnects: counters.reconnects.get(),
        last_event_at: counters.last_received.get(),
    });
    nodes.collect()
}

fn views(logged: &Logged) -> Vec<Lag> {
    let views = logged.followers.iter().filter(|follower| follower.role == Role::View);
    views.map(|view| Lag { name: view.name, lag: view.lag(&logged.log) }).collect()
}

fn exporters(logged: &Logged) -> Vec<Exporter> {
    let lag = |follower: &Follower| follower.lag(&logged.log);
    let exporter = |follower: &Follower| {
        let counters = logged.exporters.iter().find(|(name, _)| *name == follower.name);
        let is_connected = counters.is_some_and(|(_, counters)| counters.is_connected.load(Ordering::Relaxed));
        Exporter { name: follower.name, lag: lag(follower), is_connected }
    };
    logged.followers.iter().filter(|follower| follower.role == Role::Exporter).map(exporter).collect()
}
