//! How the parts are, for people and their scripts: one JSON object, with a list of the logs and what is around each.
//!
//! Figures over time are the metrics' business; here is what they cannot have, such as the address of the slowest client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;
use sidecar_log_format::Sequence;

use super::{Follower, Logged, Parts, Role};
use crate::build_info::{Build, build};
use crate::engine::losses::Lost;
use crate::engine::stream::{ClassLag, ReaderClass};
use crate::grpc::StreamCounters;

/// What `/status` answers.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    version: &'static str,
    commit: &'static str,
    logs: Vec<Log<'a>>,
    /// The recorded gRPC streams, where there is a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_streams: Option<Vec<GrpcStream<'a>>>,
}

/// A recorded gRPC stream, named as its log.
#[derive(Debug, Serialize)]
struct GrpcStream<'a> {
    log: &'a str,
    is_connected: bool,
    received: u64,
    reconnects: u64,
}

/// One log, what fills it and what reads it.
#[derive(Debug, Serialize)]
struct Log<'a> {
    name: &'a str,
    id: String,
    epoch: u64,
    /// Not there while the log is empty.
    oldest: Option<Sequence>,
    newest: Option<Sequence>,
    waits_for_room: bool,
    /// Why nothing is stored, while that is so.
    stopped: Option<String>,
    lost: Lost,
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
    pub(super) fn of(parts: &'a Parts) -> Status<'a> {
        let grpc_streams = parts.grpc.as_ref().map(|watch| watch.streams.iter().map(grpc_stream).collect());
        let Build { version, commit, .. } = build();
        Status { version, commit, logs: parts.logs.iter().map(log).collect(), grpc_streams }
    }
}

fn grpc_stream((log, stream): &(Box<str>, Arc<StreamCounters>)) -> GrpcStream<'_> {
    GrpcStream {
        log,
        is_connected: stream.is_connected.get(),
        received: stream.received.get(),
        reconnects: stream.reconnects.get(),
    }
}

fn log(logged: &Logged) -> Log<'_> {
    let head = logged.log.head();
    let oldest = logged.log.oldest();
    let newest = head.next_sequence.checked_sub(1).filter(|newest| oldest <= *newest);
    Log {
        name: &logged.name,
        id: hex::encode(logged.log.id()),
        epoch: head.epoch,
        oldest: newest.map(|_| oldest),
        newest,
        waits_for_room: logged.ingest.waits_for_room.get(),
        stopped: logged.ingest.stopped.reason(),
        lost: Lost::of(&logged.log),
        nodes: nodes(logged),
        streams: streams(logged),
        views: views(logged),
        exporters: exporters(logged),
    }
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
    let nodes = logged.sources.iter();
    let nodes = nodes.map(|source| Node { name: &source.name, status: source.counters.status.name() });
    let others = logged.other_sources.iter();
    nodes.chain(others.map(|source| Node { name: &source.name, status: source.counters.status.name() })).collect()
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
