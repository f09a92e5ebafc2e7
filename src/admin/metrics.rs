//! The metrics: the reference's under its names, and the log's own in addition to them.
//!
//! Every part counts for itself; here the counts are only read and named. A family of the reference's that has not been
//! used yet does not appear, as there.

use std::sync::atomic::Ordering;

use sidecar_log_format::LossKind;

use super::families::{Families, Group};
#[cfg(target_os = "linux")]
use super::process;
use super::{Logged, NamedFront, Parts, Role};
use crate::build_info::{Build, build};
use crate::casper::event::KINDS;
use crate::casper::export::counters::Counters as ExporterCounters;
use crate::casper::rest;
use crate::casper::rpc;
use crate::casper::source::{CountedError, Counters};
use crate::engine::counters::{Count, Tally};
use crate::engine::ingest::newest_received;
use crate::engine::source::watch::SourceCounters;
use crate::engine::storage_folder::segments;
use crate::engine::stream::{ClassLag, ReaderClass};
use crate::engine::view::Views;
use crate::grpc;
use crate::telemetry;

/// Durations are counted in microseconds, sizes in bytes.
const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1_000_000;
const BYTE: u64 = 1;

const NODE_STATUSES: &str = "Current status of node to which sidecar is connected. Numbers mean: 0 - preparing; \
    1 - connecting; 2 - connected; 3 - reconnecting; -1 - connections_exhausted -> used up all connection attempts ; \
    -2 - incompatible -> node is in an incompatible version";

/// All metrics, as the text that Prometheus reads.
pub(super) fn text(parts: &Parts) -> String {
    let mut families = Families::default();
    for logged in &parts.logs {
        let group = &mut families.of_log(&logged.name);
        sources(group, logged);
        ingest(group, logged);
        log(group, logged);
        stream(group, logged);
        followers(group, logged);
        views(group, logged);
        exporters(group, logged);
    }
    let group = &mut families.of_process();
    let Build { version, commit, .. } = build();
    group
        .gauge("sidecar_build_info", "The version that runs; the value is always 1")
        .count(&[("version", version), ("commit", commit)], 1);
    fronts(group, &parts.fronts);
    group
        .counter("sidecar_log_lines_dropped_total", "Log lines dropped because standard output did not take them")
        .count(&[], telemetry::log_lines_dropped());
    nodes(group, parts);
    received(group, parts);
    if let Some(counters) = &parts.rest {
        rest(group, counters);
    }
    if let Some(watch) = &parts.rpc {
        rpc(group, watch);
    }
    if let Some(watch) = &parts.grpc {
        grpc(group, watch);
    }
    if let Some(database) = &parts.database {
        group
            .gauge("sidecar_rest_database_connected", "1 if the database of the REST server answered when last asked")
            .count(&[], database.has_answered().into());
    }
    let text = families.into_text();
    #[cfg(target_os = "linux")]
    let text = text + &process::families().into_text();
    text
}

fn fronts(group: &mut Group<'_>, fronts: &[NamedFront]) {
    for (server, front) in fronts {
        let server = ("server", *server);
        group
            .gauge("sidecar_http_connections", "Open connections to a server")
            .count(&[server], front.connections.load(Ordering::Relaxed) as u64);
        group
            .counter("sidecar_http_connections_accepted_total", "Connections that a server accepted")
            .count(&[server], front.accepted.get());
        let reasons = [
            ("refused", &front.refused),
            ("displaced", &front.displaced),
            ("timed_out", &front.idled_out),
            ("stalled", &front.stalled),
            ("tls", &front.handshakes_failed),
        ];
        let help = "Connections that a server closed: too many were open, an idle one made room, no request came in time, \
                    the client took too little, or TLS could not be agreed on";
        let mut closed = group.counter("sidecar_http_connections_closed_total", help);
        for (reason, count) in reasons {
            closed.count(&[server, ("reason", reason)], count.get());
        }
        let help = "Requests answered with an error, by the reason that its status gives";
        let mut refused = group.counter("sidecar_http_requests_refused_total", help);
        for (reason, count) in front.refused_requests.by_reason() {
            refused.count(&[server, ("reason", reason)], count.get());
        }
    }
}

fn nodes(group: &mut Group<'_>, parts: &Parts) {
    let mut statuses = group.gauge("node_statuses", NODE_STATUSES);
    for source in parts.sources() {
        statuses.whole(&[("node", &source.name)], source.counters.status.number().into());
    }
    // A counter's name should end with `_total`, as `promtool check metrics` demands; but operators' alerts ask for this one,
    // which is the reference's.
    let mut errors = group.counter("error_counts", "Error counts");
    for error in CountedError::ALL {
        let count = parts.casper_nodes().map(|node| node.errors(error)).sum();
        if count > 0 {
            errors.count(&[("category", error.category()), ("description", error.description())], count);
        }
    }
}

fn sources(group: &mut Group<'_>, logged: &Logged) {
    let mut per_node = |name, help, counted: fn(&SourceCounters) -> &Count| {
        let mut family = group.counter(name, help);
        for source in &logged.sources {
            family.count(&[("node", &source.name)], counted(&source.counters).get());
        }
    };
    per_node(
        "sidecar_source_malformed_total",
        "Payloads and frames dropped because they are not UTF-8 or not one JSON value",
        |counters| &counters.malformed,
    );
    per_node(
        "sidecar_source_oversized_total",
        "Frames dropped because they are longer than event_bytes_max",
        |counters| &counters.oversized,
    );
    per_node(
        "sidecar_source_unclassified_total",
        "Events of an unknown kind, or of a known kind in an unknown shape; they are stored",
        |counters| &counters.unclassified,
    );
    per_node("sidecar_source_reconnects_total", "Connections tried again after one was lost or failed", |counters| {
        &counters.reconnects
    });
    // Of Casper nodes by message type, and under the reference's name: see `received`.
    if logged.casper_nodes.is_empty() {
        per_node("sidecar_source_received_total", "Events received, duplicates included", |counters| {
            &counters.received
        });
    }
    let help = "When the last event of a node was received";
    let mut last = group.gauge("sidecar_source_last_event_timestamp_seconds", help);
    for source in &logged.sources {
        last.time(&[("node", &source.name)], source.counters.last_received.get());
    }
}

fn received(group: &mut Group<'_>, parts: &Parts) {
    let mut sizes = group.histogram("sse_server_received_bytes", "Received bytes from SSE inbound per message type");
    let mut add = |name: &str, tally: &dyn Fn(&Counters) -> &Tally| {
        let snapshots = parts.casper_nodes().map(|node| tally(node).snapshot());
        if let Some(sum) = snapshots.reduce(|sum, more| sum.plus(&more)).filter(|sum| sum.count > 0) {
            sizes.distribution(&[("message_type", name)], &sum, BYTE);
        }
    };
    add("ApiVersion", &|counters| &counters.api_versions);
    for (kind, name) in KINDS {
        add(name, &|counters| counters.received(kind));
    }
    add("SidecarVersion", &|counters| &counters.sidecar_versions);

    let all: u64 = parts.casper_nodes().map(|node| node.contract_messages.get()).sum();
    if all > 0 {
        let unique = parts.logs.iter().map(|logged| logged.ingest.stored_richness.get()).sum();
        let help = "Number of messages received in TransactionProcessed events.";
        group
            .gauge("sse_server_received_contract_messages", help)
            .count(&[("label", "all")], all)
            .count(&[("label", "unique")], unique);
    }
}

fn ingest(group: &mut Group<'_>, logged: &Logged) {
    let counters = &logged.ingest;
    group.counted("sidecar_log_appends_total", "Events appended to the log", &counters.stored);
    group.counted(
        "sidecar_log_payload_bytes_total",
        "Bytes of the payloads appended to the log",
        &counters.stored_bytes,
    );
    group.counted("sidecar_log_commits_total", "Group commits", &counters.commits);
    group.counted(
        "sidecar_log_written_bytes_total",
        "Bytes written to the log's files, rewritten blocks included",
        &counters.disk.written_bytes,
    );
    group.counted("sidecar_log_disk_full_total", "How many times ingest had to wait for room", &counters.disk_full);
    group.counted(
        "sidecar_log_reopened_total",
        "How many times the log was opened again in place after a failure of its storage",
        &counters.reopened,
    );
    group.counted("sidecar_log_slow_commits_total", "Commits that took more than five seconds", &counters.slow_commits);
    group.counted(
        "sidecar_index_rebuilds_total",
        "How many times the identity index was rebuilt from the log",
        &counters.index_rebuilds,
    );
    group.counted("sidecar_log_rewritten_segments_total", "Segments made smaller", &counters.rewritten_segments);
    group.counted("sidecar_log_rewritten_bytes_before_total", "Their bytes before", &counters.rewritten_bytes_before);
    group.counted("sidecar_log_rewritten_bytes_after_total", "Their bytes after", &counters.rewritten_bytes_after);
    group.counted("sidecar_log_dropped_segments_total", "Segments dropped by retention", &counters.dropped_segments);
    group.counted("sidecar_log_dropped_bytes_total", "Their bytes", &counters.dropped_bytes);
    group.counted("sidecar_ingest_duplicates_total", "Events dropped because the log has them", &counters.duplicates);
    group.counted(
        "sidecar_ingest_conflicts_total",
        "Events dropped because the log has them, though with other bytes",
        &counters.identity_conflicts,
    );
    group.counted(
        "sidecar_ingest_amendments_total",
        "Later copies with more in them than the stored event, kept as marks",
        &counters.amendments,
    );
    group.counted("sidecar_ingest_refused_total", "Events that the log cannot hold", &counters.refused);
    group.counted(
        "sidecar_ingest_missing_blocks_total",
        "Block heights in gaps, which no node has any more",
        &counters.missing_ordinals,
    );
    group.counted(
        "sidecar_ingest_gaps_total",
        "Gaps marked in the log: events that cannot be had any more",
        &counters.gaps,
    );
    group
        .gauge("sidecar_log_waits_for_room", "1 while ingest waits for room on the device")
        .count(&[], counters.waits_for_room.get().into());
    group
        .gauge("sidecar_ingest_stopped", "1 while nothing is stored, because the log's storage has failed")
        .count(&[], counters.stopped.reason().is_some().into());
    group.histogram("sidecar_log_sync_seconds", "How long it took to make what was written durable").distribution(
        &[],
        &counters.disk.syncs.snapshot(),
        SECOND,
    );
}

fn log(group: &mut Group<'_>, logged: &Logged) {
    let (oldest, head) = (logged.log.oldest(), logged.log.head().next_sequence);
    group.gauge("sidecar_log_head", "The sequence that the next event will get").count(&[], head);
    group.gauge("sidecar_log_oldest", "The oldest retained sequence").count(&[], oldest);
    let help = "When the newest stored event was received";
    // Until the first event since the start, it is read from the log.
    let newest = logged.ingest.newest_received.get().or_else(|| newest_received(&logged.log));
    group.gauge("sidecar_log_last_event_timestamp_seconds", help).time(&[], newest);
    if let Some(height) = logged.ingest.highest_ordinal.get() {
        let help = "The highest block whose event is stored";
        group.gauge("sidecar_log_newest_block_height", help).count(&[], height);
    }
    let losses = logged.log.losses();
    let mut lost = group.gauge(
        "sidecar_log_lost_events",
        "Events that were stored and are lost: missing, in a damaged place that was met, or named by a mark",
    );
    for kind in LossKind::ALL {
        lost.count(&[("kind", kind.name())], losses.events(kind));
    }
    let Ok((segments, bytes)) = segments(&logged.log_directory) else { return };
    group.gauge("sidecar_log_segments", "Segment files of the log").count(&[], segments);
    group.gauge("sidecar_log_bytes", "Bytes that the log's segments take on the device").count(&[], bytes);
    let (payload, written) = (logged.ingest.stored_bytes.get(), logged.ingest.disk.written_bytes.get());
    if payload > 0 {
        let ratio = written as f64 / payload as f64;
        group
            .gauge("sidecar_log_written_ratio", "Bytes written per byte of payload since the start")
            .sample(&[], ratio);
    }
}

fn stream(group: &mut Group<'_>, logged: &Logged) {
    let (counters, port) = (&logged.stream, &logged.stream_port);
    let head = logged.log.head().next_sequence;
    let lags: Vec<(ReaderClass, ClassLag)> = counters.readers.lags(head).collect();
    let mut subscribers = group.gauge("sidecar_stream_subscribers", "Open event streams");
    for (ReaderClass(class), lag) in &lags {
        subscribers.count(&[("class", class)], lag.readers);
    }
    let mut behind =
        group.gauge("sidecar_stream_lag_events", "Events that the slowest open stream still has to be sent");
    for (ReaderClass(class), lag) in &lags {
        behind.count(&[("class", class)], lag.events_max);
    }
    group
        .gauge("sidecar_stream_connections", "Open connections to the event stream server")
        .count(&[], port.front.connections.load(Ordering::Relaxed) as u64);
    group.counted("sidecar_stream_sent_bytes_total", "Bytes of event streams handed to HTTP", &counters.bytes_sent);
    group.counted("sidecar_stream_opened_total", "Event streams opened", &counters.streams_opened);
    group.counted(
        "sidecar_stream_blocks_rendered_total",
        "Blocks put into another form than the stored one, for all streams that want it",
        &counters.blocks_rendered,
    );
    group.counted(
        "sidecar_stream_events_not_rendered_total",
        "Events left out of another form because their shape is not known, as often as their blocks were rendered",
        &counters.events_not_rendered,
    );
    group.counted("sidecar_stream_refused_total", "Requests for event streams that were refused", &port.refused);
    group.counted(
        "sidecar_stream_connections_refused_total",
        "Connections closed because too many were open",
        &port.front.refused,
    );
    group.counted(
        "sidecar_stream_tls_handshakes_failed_total",
        "Connections closed because TLS could not be agreed on",
        &port.front.handshakes_failed,
    );
    group.counted(
        "sidecar_stream_unauthorized_total",
        "Requests refused because they had no valid token",
        &port.front.unauthorized,
    );
}

fn rest(group: &mut Group<'_>, counters: &rest::Counters) {
    let mut sizes = group.histogram("db_raw_data_size", "Size (in bytes) of raw data fetched from the database.");
    for (kind, snapshot) in counters.read_bytes() {
        sizes.distribution(&[("message_type", kind)], &snapshot, BYTE);
    }
    let help = "Time it takes the service to produce a response in milliseconds";
    let mut times = group.histogram("rest_api_response_times", help);
    let mut is_used = false;
    for (label, status, snapshot) in counters.response_times() {
        is_used = true;
        times.distribution(&[("label", label), ("status", status)], &snapshot, MILLISECOND);
    }
    let in_flight = counters.in_flight.load(Ordering::Relaxed);
    if is_used || in_flight > 0 {
        group.gauge("rest_api_connected_clients", "Connected Clients").count(&[], in_flight);
    }
}

fn grpc(group: &mut Group<'_>, watch: &grpc::Watch) {
    let gateway = &watch.gateway;
    group.counted("sidecar_grpc_calls_total", "Calls made to upstreams for clients of the gateway", &gateway.calls);
    group.counted("sidecar_grpc_messages_total", "Messages that upstreams answered to these", &gateway.messages);
    let mut errors =
        group.counter("sidecar_grpc_errors_total", "Requests and calls that ended with an error, by its code");
    for (code, count) in gateway.errors().filter(|(_, count)| *count > 0) {
        errors.count(&[("code", &i32::from(code).to_string())], count);
    }
    let help = "1 while the upstream of the recorded stream is subscribed to";
    let mut connected = group.gauge("sidecar_grpc_stream_connected", help);
    for (name, stream) in &watch.streams {
        connected.count(&[("log", name)], stream.is_connected.get().into());
    }
    let mut per_stream = |name, help, counted: fn(&grpc::StreamCounters) -> &Count| {
        let mut family = group.counter(name, help);
        for (log, stream) in &watch.streams {
            family.count(&[("log", log)], counted(stream).get());
        }
    };
    per_stream("sidecar_grpc_stream_received_total", "Messages received", |stream| &stream.received);
    per_stream(
        "sidecar_grpc_stream_malformed_total",
        "Messages without a form in which they can be stored",
        |stream| &stream.malformed,
    );
    per_stream("sidecar_grpc_stream_reconnects_total", "Subscriptions tried again", |stream| &stream.reconnects);
}

fn rpc(group: &mut Group<'_>, watch: &rpc::Watch) {
    rpc_methods(group, &watch.counters);
    let (state, link) = (watch.link.state(), watch.link.counters());
    let help = "1 while the binary port of the JSON-RPC servers' node is connected";
    group.gauge("sidecar_rpc_node_connected", help).count(&[], (state == rpc::LinkState::Connected).into());
    group
        .gauge("sidecar_rpc_requests_in_flight", "Requests that are sent to the node and not answered")
        .count(&[], watch.link.in_flight());
    let timeouts = [
        ("sending_payload", &link.sending_timeouts),
        ("receiving_response", &link.receiving_timeouts),
        ("acquiring_client", &link.access_timeouts),
        ("reacquiring_connection", &link.reconnect_timeouts),
    ];
    let help = "Counters for how many of the requests failed due to internal timeout";
    let mut family = group.counter("rpc_server_timeout_counts", help);
    for (timer, count) in timeouts.into_iter().filter(|(_, count)| count.get() > 0) {
        family.count(&[("timer", timer)], count.get());
    }
    let help = "Time it takes the service to reconnect to node binary port in milliseconds";
    let reconnects = link.reconnects.snapshot();
    if reconnects.count > 0 {
        group.histogram("rpc_server_reconnect_time", help).distribution(&[], &reconnects, MILLISECOND);
    }
    // Gauges that only rise, as the reference has them.
    let mut gauge = |name, help, count: &Count| {
        if count.get() > 0 {
            group.gauge(name, help).count(&[], count.get());
        }
    };
    gauge(
        "rpc_server_mismatched_ids",
        "Number of mismatched ID events observed in responses from binary port",
        &link.mismatched_ids,
    );
    gauge(
        "rpc_server_disconnects",
        "Number of TCP disconnects between sidecar and nodes binary port",
        &link.disconnects,
    );
    group.counted(
        "sidecar_rpc_failed_connects_total",
        "Attempts to connect to the node that failed",
        &link.failed_attempts,
    );
    group.counted(
        "sidecar_rpc_sent_again_total",
        "Requests sent again because the connection was lost before their answer came",
        &link.sent_again,
    );
    group.counted("sidecar_rpc_refused_total", "Requests refused because too many waited for the node", &link.refused);
    group
        .histogram("sidecar_rpc_node_round_trip_seconds", "From sending a request to the node to its answer")
        .distribution(&[], &link.round_trips.snapshot(), SECOND);
}

fn rpc_methods(group: &mut Group<'_>, counters: &rpc::Counters) {
    let mut calls = group.counter("rpc_server_endpoint_calls", "Endpoint calls");
    for (method, count) in counters.calls() {
        calls.count(&[("endpoint_name", method)], count);
    }
    let mut sizes = group.histogram("rpc_server_request_sizes", "Endpoint request sizes");
    for (method, snapshot) in counters.sizes() {
        sizes.distribution(&[("endpoint", method)], &snapshot, BYTE);
    }
    let help = "Time it takes the service to produce a response in milliseconds";
    let mut times = group.histogram("rpc_server_endpoint_response_times", help);
    for (method, status, snapshot) in counters.response_times() {
        times.distribution(&[("method", method), ("status", &status)], &snapshot, MILLISECOND);
    }
    let help = "How long calls waited for the node";
    let mut waits = group.histogram("sidecar_rpc_node_wait_seconds", help);
    for (method, snapshot) in counters.node_waits() {
        waits.distribution(&[("method", method)], &snapshot, SECOND);
    }
    group.counted(
        "sidecar_rpc_rate_limited_total",
        "Requests refused because their client sent too many",
        &counters.rate_limited,
    );
    group.counted("sidecar_rpc_batches_total", "JSON-RPC batches", &counters.batches);
    group.counted("sidecar_rpc_cache_hits_total", "Answers taken from the cache", &counters.cache_hits);
    group.counted("sidecar_rpc_cache_misses_total", "Answers put into the cache", &counters.cache_misses);
}

fn followers(group: &mut Group<'_>, logged: &Logged) {
    for (role, name, help, label) in [
        (Role::View, "sidecar_view_lag_events", "Stored events that a view has not read yet", "view"),
        (
            Role::Exporter,
            "sidecar_exporter_lag_events",
            "Stored events that an exporter has not written yet",
            "exporter",
        ),
    ] {
        let mut lags = group.gauge(name, help);
        for follower in logged.followers.iter().filter(|follower| follower.role == role) {
            lags.count(&[(label, follower.name)], follower.lag(&logged.log));
        }
    }
}

fn views(group: &mut Group<'_>, logged: &Logged) {
    let Some(counters) = logged.views.as_ref().map(Views::counters) else { return };
    let mut counted = |name, help, count: &Count| {
        group.counter(name, help).count(&[("view", "casper")], count.get());
    };
    counted("sidecar_view_events_total", "Events read into a view", &counters.projected);
    counted("sidecar_view_commits_total", "Commits of a view's file, durable or not", &counters.commits);
    counted("sidecar_view_durable_commits_total", "Durable commits of a view's file", &counters.syncs);
    counted("sidecar_view_rebuilds_total", "How many times a view was rebuilt", &counters.rebuilds);
    counted(
        "sidecar_view_failures_total",
        "Failures after which a view's file was opened again, or the log read again",
        &counters.failures,
    );
}

fn exporters(group: &mut Group<'_>, logged: &Logged) {
    let mut connected =
        group.gauge("sidecar_exporter_connected", "1 if an exporter's database was there when last needed");
    for (name, counters) in &logged.exporters {
        connected.count(&[("exporter", name)], counters.is_connected.load(Ordering::Relaxed).into());
    }
    let mut counted = |name, help, count: fn(&ExporterCounters) -> &Count| {
        let mut family = group.counter(name, help);
        for (exporter, counters) in &logged.exporters {
            family.count(&[("exporter", exporter)], count(counters).get());
        }
    };
    counted("sidecar_exporter_rows_total", "Events written to a database", |counters| &counters.rows);
    counted("sidecar_exporter_collisions_total", "Events whose keys a database had already", |counters| {
        &counters.collisions
    });
    counted(
        "sidecar_exporter_without_table_total",
        "Events of an unknown kind or shape, for which the tables have no place",
        |counters| &counters.without_table,
    );
    counted("sidecar_exporter_refused_total", "Events that a database cannot hold or refuses", |counters| {
        &counters.refused
    });
    counted(
        "sidecar_exporter_missing_total",
        "Events that the log had lost or dropped before they were exported",
        |counters| &counters.missing,
    );
    counted("sidecar_exporter_failures_total", "Attempts to export that failed and were made again", |counters| {
        &counters.failures
    });
}
