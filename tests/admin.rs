//! What operators' tools get from the admin server, through the built binary.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

#[path = "admin/monitoring.rs"]
mod monitoring;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sidecar_test_support::client::{Request, SseClient, bucket_bounds, get, metric};
use sidecar_test_support::node::{SimulatedNode, malformed};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::recordings;
use sidecar_test_support::wait::until;

/// How long the views may take.
const PATIENCE: Duration = Duration::from_secs(60);
const TEXT: &str = "text/plain; charset=utf-8";

fn with_servers(node: &SimulatedNode) -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address()).rest_api().admin_api()
}

/// Two nodes with the same events, a frame that is not JSON, an export, and a few requests.
async fn used() -> (SimulatedNode, SimulatedNode, Sidecar) {
    let nodes = (SimulatedNode::start(), SimulatedNode::start());
    let export = "[storage.sqlite_config]\nfile_name = 'events.db3'\n";
    let sidecar = with_servers(&nodes.0).node(nodes.1.address()).sections(export).start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let events = recordings::recorded_network();
    let payloads = || events.iter().map(|(_, payload)| payload).take(500);
    nodes.0.push_all(payloads());
    live.read_until_id(499).await;
    nodes.1.push_all(payloads());
    nodes.1.push_raw(malformed::not_json(500));
    nodes.1.push(&events[500].1);
    live.read_until_id(500).await;
    for path in ["/block", "/block/1", "/nothing", "/transaction/anything/deploy/x"] {
        Request::get(sidecar.rest_address(), path).open().await.body().await;
    }
    (nodes.0, nodes.1, sidecar)
}

/// A sidecar that has served the whole recording, and two of its clients: one that does not read, and one that has read.
async fn with_a_stalled_client() -> (SimulatedNode, Sidecar, [SseClient; 2]) {
    let node = SimulatedNode::start();
    let sidecar = with_servers(&node).start().await;
    let stalled = Request::get(sidecar.sse_address(), "/events").slow(4096).open().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events?types=Step").await;
    node.push_all(recordings::recorded_network().iter().map(|(_, payload)| payload));
    live.read_until(|message| message.data == "\"Shutdown\"").await;
    (node, sidecar, [stalled, live])
}

/// Samples by their name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name, value.parse().unwrap())).collect()
}

#[tokio::test]
async fn the_metrics_of_the_reference_are_there_under_its_names_labels_and_help_texts() {
    let (first, second, sidecar) = used().await;
    let metrics = get(sidecar.admin_address(), "/metrics").await;
    assert_eq!((metrics.status, metrics.header("content-type")), (200, Some(TEXT)));
    let text = &metrics.body;
    assert_eq!(get(sidecar.admin_address(), "/metrics/").await.status, 200);
    for line in [
        "# HELP node_statuses Current status of node to which sidecar is connected. Numbers mean: 0 - preparing; 1 - connecting; 2 - connected; 3 - reconnecting; -1 - connections_exhausted -> used up all connection attempts ; -2 - incompatible -> node is in an incompatible version",
        "# TYPE node_statuses gauge",
        "# HELP error_counts Error counts",
        "# TYPE error_counts counter",
        "# HELP sse_server_received_bytes Received bytes from SSE inbound per message type",
        "# TYPE sse_server_received_bytes histogram",
        "# HELP sse_server_received_contract_messages Number of messages received in TransactionProcessed events.",
        "# TYPE sse_server_received_contract_messages gauge",
        "# HELP db_raw_data_size Size (in bytes) of raw data fetched from the database.",
        "# TYPE db_raw_data_size histogram",
        "# HELP rest_api_connected_clients Connected Clients",
        "# TYPE rest_api_connected_clients gauge",
        "# HELP rest_api_response_times Time it takes the service to produce a response in milliseconds",
        "# TYPE rest_api_response_times histogram",
        "# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.",
        "# TYPE process_cpu_seconds_total counter",
        "# HELP process_open_fds Number of open file descriptors.",
        "# HELP process_max_fds Maximum number of open file descriptors.",
        "# HELP process_virtual_memory_bytes Virtual memory size in bytes.",
        "# HELP process_resident_memory_bytes Resident memory size in bytes.",
        "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.",
        "# HELP process_threads Number of OS threads in the process.",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is missing in\n{text}");
    }
    let sizes = ["500", "1000", "2000", "5000", "50000", "500000", "5000000", "50000000", "+Inf"];
    let times = ["1", "5", "10", "30", "50", "100", "200", "300", "+Inf"];
    for (name, bounds) in
        [("sse_server_received_bytes", sizes), ("db_raw_data_size", sizes), ("rest_api_response_times", times)]
    {
        assert_eq!(bucket_bounds(text, name), bounds, "{name}");
    }
    let values = samples(text);
    let value = |name: &str| *values.get(name).unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
    for node in [&first, &second] {
        assert_eq!(value(&format!("node_statuses{{node=\"{}\"}}", node.address())), 2.0);
    }
    let deserialization = r#"error_counts{category="connection_manager",description="deserialization_error:events"}"#;
    assert_eq!(value(deserialization), 1.0);
    let payloads = recordings::recorded_network();
    // Both nodes send the first 500, and one of them the next one.
    let blocks: Vec<usize> = payloads[..500]
        .iter()
        .chain(&payloads[..501])
        .filter(|(_, payload)| payload.starts_with("{\"BlockAdded\""))
        .map(|(_, payload)| payload.len())
        .collect();
    let received = |rest: &str| value(&format!("sse_server_received_bytes{rest}"));
    assert_eq!(received(r#"_count{message_type="BlockAdded"}"#) as usize, blocks.len());
    assert_eq!(received(r#"_sum{message_type="BlockAdded"}"#) as usize, blocks.iter().sum::<usize>());
    let up_to_1000 = blocks.iter().filter(|bytes| **bytes <= 1000).count();
    assert_eq!(received(r#"_bucket{message_type="BlockAdded",le="1000"}"#) as usize, up_to_1000);
    assert_eq!(received(r#"_count{message_type="ApiVersion"}"#), 2.0);
    assert_eq!(value("rest_api_connected_clients"), 0.0);
    assert_eq!(value(r#"rest_api_response_times_count{label="/block/(...)",status="200"}"#), 2.0);
    assert_eq!(value(r#"rest_api_response_times_count{label="unknown",status="400"}"#), 2.0);
    assert_eq!(value(r#"db_raw_data_size_count{message_type="BlockAdded"}"#), 2.0);
    assert!(value("process_threads") > 1.0 && value("process_resident_memory_bytes") > 1e6);

    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let own = families.iter().position(|name| name.starts_with("process_")).unwrap();
    assert!(families[..own].is_sorted() && families[own..].is_sorted(), "{families:?}");
    assert!(families[own..].iter().all(|name| name.starts_with("process_")));
}

#[tokio::test]
async fn the_logs_own_metrics_agree_with_what_was_stored() {
    let (_first, _second, sidecar) = used().await;
    // The server may notice a little later that the client has gone.
    let subscribers = r#"sidecar_stream_subscribers{log="casper",class="whole"}"#;
    let admin = sidecar.admin_address();
    until(PATIENCE, "the end of the stream", async || metric(admin, subscribers).await == 0.0).await;
    let text = get(admin, "/metrics").await.body;
    let values = samples(&text);
    let value = |name: &str| *values.get(name).unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
    let of_log = |name: &str| value(&format!("{name}{{log=\"casper\"}}"));
    let events = recordings::recorded_network();
    let bytes: usize = events[..501].iter().map(|(_, payload)| payload.len()).sum();
    assert_eq!(of_log("sidecar_log_appends_total"), 501.0);
    assert_eq!(of_log("sidecar_log_payload_bytes_total"), bytes as f64);
    assert_eq!(of_log("sidecar_log_head"), 501.0);
    assert_eq!(of_log("sidecar_log_oldest"), 0.0);
    assert_eq!(of_log("sidecar_log_segments"), 1.0);
    assert_eq!(of_log("sidecar_ingest_duplicates_total"), 500.0);
    assert!(of_log("sidecar_log_commits_total") >= 1.0 && of_log("sidecar_log_sync_seconds_count") >= 1.0);
    assert!(of_log("sidecar_log_written_bytes_total") > 1000.0 && of_log("sidecar_log_bytes") > 1000.0);
    assert_eq!(value(r#"sidecar_stream_subscribers{log="casper",class="whole"}"#), 0.0);
    assert_eq!(of_log("sidecar_stream_opened_total"), 1.0);
    assert_eq!(value(r#"sidecar_view_lag_events{log="casper",view="casper"}"#), 0.0);
    assert_eq!(value(r#"sidecar_view_events_total{log="casper",view="casper"}"#), 501.0);
    assert_eq!(value(r#"sidecar_view_rebuilds_total{log="casper",view="casper"}"#), 1.0);
    assert_eq!(value(r#"sidecar_view_failures_total{log="casper",view="casper"}"#), 0.0);
    let commits = value(r#"sidecar_view_commits_total{log="casper",view="casper"}"#);
    assert!(commits >= 1.0 && value(r#"sidecar_view_durable_commits_total{log="casper",view="casper"}"#) <= commits);
}

#[tokio::test]
async fn a_sidecar_whose_views_cannot_be_opened_is_not_ready() {
    let (_first, _second, mut sidecar) = used().await;
    sidecar.kill9();
    let file = sidecar.storage_path().join("views/casper.redb");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    sidecar.restart().await;
    let address = sidecar.admin_address();
    let failures = r#"sidecar_view_failures_total{log="casper",view="casper"}"#;
    until(PATIENCE, "a failure to open the views", async || metric(address, failures).await > 0.0).await;
    let ready = get(address, "/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("not ready: log casper: the views are not open: "), "{}", ready.body);
    assert_eq!(metric(address, r#"sidecar_view_lag_events{log="casper",view="casper"}"#).await, 501.0);
}

#[tokio::test]
async fn a_client_that_does_not_read_shows_as_lag() {
    let (_node, sidecar, _clients) = with_a_stalled_client().await;
    let text = get(sidecar.admin_address(), "/metrics").await.body;
    let values = samples(&text);
    assert_eq!(values[r#"sidecar_stream_subscribers{log="casper",class="whole"}"#], 1.0);
    assert_eq!(values[r#"sidecar_stream_subscribers{log="casper",class="filtered"}"#], 1.0);
    assert!(values[r#"sidecar_stream_lag_events{log="casper",class="whole"}"#] > 100.0, "{text}");
    assert_eq!(values[r#"sidecar_stream_lag_events{log="casper",class="filtered"}"#], 0.0);
}

#[tokio::test]
async fn a_preflight_counts_as_the_request_that_it_is() {
    let node = SimulatedNode::start();
    let sidecar = with_servers(&node).start().await;
    let preflight = Request::new("OPTIONS", sidecar.rest_address(), "/block/1");
    let preflight = preflight.header("origin", "http://a").header("access-control-request-method", "GET");
    assert_eq!(preflight.open().await.status(), 204);
    let text = get(sidecar.admin_address(), "/metrics").await.body;
    let count = r#"rest_api_response_times_count{label="/block/(...)",status="204"}"#;
    assert_eq!(samples(&text).get(count), Some(&1.0), "{text}");
}

#[tokio::test]
async fn what_was_not_used_yet_does_not_appear() {
    let node = SimulatedNode::start();
    let sidecar = with_servers(&node).start().await;
    let text = get(sidecar.admin_address(), "/metrics").await.body;
    for name in ["rest_api_response_times", "rest_api_connected_clients", "db_raw_data_size", "rpc_server_"] {
        assert!(!text.contains(name), "{name} in\n{text}");
    }
}

#[tokio::test]
async fn other_requests_are_answered_for_people_and_supervisors() {
    let node = SimulatedNode::start();
    let sidecar = with_servers(&node).start().await;
    let address = sidecar.admin_address();
    let root = get(address, "/").await;
    assert_eq!((root.status, root.header("content-type"), root.body.lines().count()), (200, Some(TEXT), 1));
    for place in ["/health", "/ready", "/status", "/metrics", "/logs"] {
        assert!(root.body.contains(place), "{}", root.body);
        let mut options = Request::new("OPTIONS", address, place).open().await;
        assert_eq!((options.status(), options.header("allow")), (204, Some("GET, HEAD, OPTIONS")), "{place}");
        assert_eq!(options.body().await, b"");
    }
    let other = get(address, "/other").await;
    assert_eq!((other.status, other.header("content-type"), other.body.as_str()), (404, None, ""));
    for method in ["POST", "PUT", "DELETE"] {
        let mut response = Request::new(method, address, "/metrics").open().await;
        assert_eq!(response.status(), 405);
        assert_eq!(response.body().await, b"HTTP method not allowed");
    }
    until(PATIENCE, "views that are open", async || {
        !get(address, "/ready").await.body.contains("they are being opened")
    })
    .await;
    for (place, body) in [("/health", "live"), ("/ready", "ready")] {
        let answer = get(address, place).await;
        assert_eq!((answer.status, answer.header("content-type"), answer.body.as_str()), (200, Some(TEXT), body));
    }
    for place in ["/", "/health", "/ready", "/status", "/metrics"] {
        let get = Request::get(address, place).answer().await;
        let head = Request::new("HEAD", address, place).answer().await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{place}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{place}");
        // These bodies differ from request to request.
        let is_constant = !["/metrics", "/status"].contains(&place);
        assert!(head.header("content-length") == get.header("content-length") || !is_constant, "{place}");
    }
    let stream = Request::new("HEAD", address, "/status").header("accept", "text/event-stream").open().await;
    assert_eq!((stream.status(), stream.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(stream.header("content-length"), None);
}

#[tokio::test]
async fn the_status_names_the_log_its_nodes_and_the_slowest_client() {
    let (_node, sidecar, [stalled, _live]) = with_a_stalled_client().await;
    let events = recordings::recorded_network();
    let answer = get(sidecar.admin_address(), "/status").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let (status, body) = (answer.json(), &answer.body);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let log = &status["logs"][0];
    assert_eq!(log["name"], "casper");
    let named = format!("{};epoch={}", log["id"].as_str().unwrap(), log["epoch"]);
    assert_eq!(stalled.header("sidecar-log"), Some(named.as_str()));
    assert_eq!(log["oldest"], 0);
    assert!(log["newest"].as_u64().unwrap() > 100, "{body}");
    assert_eq!(log["nodes"][0]["status"], "connected");
    assert_eq!(log["nodes"][0]["received"].as_u64(), Some(events.len() as u64));
    assert_eq!(log["stored"], log["nodes"][0]["received"]);
    let by_kind = log["stored_by_kind"].as_object().unwrap();
    assert_eq!(by_kind.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), events.len() as u64);
    assert!(by_kind["BlockAdded"].as_u64().unwrap() > 10 && !by_kind.contains_key("Fault"), "{body}");
    let now = status["now"].as_str().unwrap();
    for time in
        [&log["nodes"][0]["last_event_at"], &log["disk"]["oldest_received_at"], &log["disk"]["newest_received_at"]]
    {
        assert!(time.as_str().unwrap() <= now, "{body}");
    }
    assert!(log["disk"]["bytes"].as_u64().unwrap() > 100_000 && log["disk"]["available_bytes"].is_u64(), "{body}");
    assert!(log["disk"]["days_until_full"].is_null(), "all came at once, so no rate is known: {body}");
    assert_eq!(log["streams"]["open"], 2);
    let whole = &log["streams"]["classes"][0];
    assert_eq!((&whole["class"], &whole["open"]), (&"whole".into(), &1.into()));
    assert!(whole["lag_max"].as_u64().unwrap() > 100, "{body}");
    let slowest: SocketAddr = whole["slowest"].as_str().unwrap().parse().unwrap();
    assert!(slowest.ip().is_loopback() && slowest.port() > 0, "{body}");
    assert_eq!(log["streams"]["classes"][1]["slowest"], Value::Null);
    assert_eq!(log["views"][0]["name"], "casper");
}

#[tokio::test]
async fn the_status_comes_as_an_event_stream_too_to_only_so_many() {
    let node = SimulatedNode::start();
    let sidecar = with_servers(&node).start().await;
    let request = Request::get(sidecar.admin_address(), "/status").header("accept", "text/event-stream");
    let mut streams = Vec::new();
    for _ in 0..16 {
        let stream = request.clone().open().await;
        assert_eq!((stream.status(), stream.header("content-type")), (200, Some("text/event-stream")));
        streams.push(stream);
    }
    let refused = request.clone().answer().await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.body);
    let mut times = BTreeSet::new();
    for stream in &mut streams[..2] {
        for _ in 0..2 {
            let status: Value = serde_json::from_str(&stream.expect_message().await.data).unwrap();
            assert_eq!(status["logs"][0]["name"], "casper");
            times.insert(status["now"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(get(sidecar.admin_address(), "/health").await.status, 200);
    // They do not render one each.
    assert!(times.len() <= 3, "{times:?}");
}

#[tokio::test]
async fn a_browser_gets_a_page_that_can_load_nothing_from_elsewhere_and_programs_get_a_line() {
    let node = SimulatedNode::start();
    let sidecar = with_servers(&node).start().await;
    let page = Request::get(sidecar.admin_address(), "/").header("accept", "text/html,*/*;q=0.8").answer().await;
    assert!(page.body.starts_with("<!doctype html>"), "{}", page.body);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("vary"), Some("accept"));
    for (path, media_type) in [
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.svg", "image/svg+xml"),
    ] {
        let file = Request::get(sidecar.admin_address(), path).answer().await;
        assert_eq!((file.status, file.header("content-type")), (200, Some(media_type)));
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!((file.header(name), page.header(name)), (Some(value), Some(value)), "{path}");
        }
        for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(file.header("content-security-policy").unwrap().contains(part));
            assert!(page.header("content-security-policy").unwrap().contains(part));
        }
        let tag = file.header("etag").unwrap();
        let known = Request::get(sidecar.admin_address(), path).header("if-none-match", tag).answer().await;
        assert_eq!((known.status, known.body.as_str()), (304, ""));
    }
}

/// With and without a REST server, whose pages they are.
#[tokio::test]
async fn events_are_read_at_the_admin_server_by_sequence_and_height() {
    let node = SimulatedNode::start();
    let events = recordings::recorded_network();
    node.push_all(events.iter().map(|(_, payload)| payload).take(500));
    for builder in
        [with_servers(&node), SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address()).admin_api()]
    {
        let has_rest = builder.configuration().contains("rest_api_server");
        let sidecar = builder.start().await;
        SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.read_until_id(499).await;
        let ask = async |target: &str| Request::get(sidecar.admin_address(), target).answer().await;
        until(PATIENCE, "views that have caught up", async || {
            ask("/logs/casper/events?from_height=0").await.status != 503
        })
        .await;
        let page = ask("/logs/casper/events?from=7&limit=2").await;
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        let page = page.json();
        assert_eq!((&page["events"][0]["sequence"], &page["next"], &page["head"]), (&7.into(), &9.into(), &500.into()));
        assert_eq!(ask("/logs/other/events").await.status, 404);
        assert_eq!(ask("/logsx").await.status, 404);
        assert_eq!(ask("/block/1").await.status, 404, "only logs are here");
        assert_eq!(ask("/logs").await.json()["logs"][0]["has_heights"], has_rest);
        let by_height = ask("/logs/casper/events?from_height=3&types=BlockAdded&limit=1").await;
        if has_rest {
            let first = &by_height.json()["events"][0];
            assert_eq!(first["payload"]["BlockAdded"]["block"]["Version2"]["header"]["height"], 3, "{first}");
            assert_eq!(ask("/logs/casper/events?from_height=99999").await.json()["next"], 500);
            for target in ["/events?from_height=3&limit=2", "/logs/casper/events?from_height=3&limit=2"] {
                let of_rest = Request::get(sidecar.rest_address(), target).answer().await.json();
                assert_eq!(of_rest["events"][0]["sequence"], first["sequence"], "{target}");
            }
        } else {
            assert_eq!(by_height.status, 400, "{}", by_height.body);
            assert!(
                by_height.body.contains("`from_height` is for logs whose blocks can be looked up"),
                "{}",
                by_height.body
            );
        }
    }
}

#[tokio::test]
async fn every_request_has_a_line_for_those_who_look_and_refusals_have_two() {
    let node = SimulatedNode::start();
    let builder = with_servers(&node).max_concurrent_subscribers(1).environment("RUST_LOG", "debug");
    let mut sidecar = builder.start().await;
    let stream = SseClient::connect(sidecar.sse_address(), "/events").await;
    for _ in 0..20 {
        let refused = Request::get(sidecar.sse_address(), "/events").answer().await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    }
    Request::get(sidecar.rest_address(), "/nothing").answer().await;
    Request::get(sidecar.admin_address(), "/health").answer().await;
    drop(stream);
    sidecar.wait_for_outputs("request answered", 23).await;
    let output = sidecar.output();
    let lines = |path: &str, status: &str| {
        let parts = [format!("path=\"{path}\""), format!("status={status}")];
        output.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    };
    assert_eq!((lines("/events", "200"), lines("/events", "503")), (1, 20), "{output}");
    assert_eq!((lines("/nothing", "400"), lines("/health", "200")), (1, 1), "{output}");
    assert_eq!(output.matches("streams are refused").count(), 1, "{output}");
}

#[tokio::test]
async fn a_taken_port_ends_the_process_and_is_named() {
    let node = SimulatedNode::start();
    for component in ["rest_api_server", "admin_api_server"] {
        let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
            .node(node.address())
            .sections(&format!("[{component}]\nport = {port}\n"))
            .spawn();
        assert_eq!(sidecar.wait_for_exit().code(), Some(1));
        let errors = sidecar.errors();
        let words = format!("Error: Error running component '{component}': Address already in use (os error 98)");
        assert!(errors.contains(&words) && errors.contains(&format!("0.0.0.0:{port}: the port is taken")), "{errors}");
    }
}

/// Where Prometheus's own tool is installed, it accepts everything but `error_counts`: a counter's name
/// should end with `_total`, but people's alerts ask for this one, which is the reference's.
#[tokio::test]
async fn promtool_takes_the_metrics_as_they_are() {
    let Ok(mut promtool) =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()
    else {
        eprintln!("promtool is not installed: nothing to compare with");
        return;
    };
    let (_first, _second, sidecar) = used().await;
    let text = get(sidecar.admin_address(), "/metrics").await.body;
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    let others: Vec<&str> = complaints.lines().filter(|line| !line.starts_with("error_counts ")).collect();
    assert_eq!(others, Vec::<&str>::new());
}

/// What `sidecar status` prints, and its exit status.
async fn status_command(arguments: &[&str]) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    command.arg("status").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let [out, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (out, errors, output.status.code().unwrap())
}

#[tokio::test]
async fn the_status_command_shows_on_one_screen_what_an_operator_wants_to_know() {
    let (first, second, sidecar) = used().await;
    let address = sidecar.admin_address().to_string();
    let (screen, errors, status) = status_command(&["--address", &address]).await;
    assert_eq!((status, errors.as_str()), (0, ""), "{screen}");
    for part in [
        &format!("Sidecar {}", env!("CARGO_PKG_VERSION")),
        &format!(" at http://{address}/"),
        "\nready\n",
        "\nlog casper\n  events     501: 0 to 500, epoch 0\n",
        &format!("\n  nodes      {} connected", first.address()),
        &format!("\n             {} connected", second.address()),
        "\n  lost       none\n",
        "\n  views      casper ",
        "\n  exporters  sqlite ",
        "\n  clients    ",
    ] {
        assert!(screen.contains(part), "{part:?} is missing in\n{screen}");
    }
    assert!(screen.lines().count() <= 24 && !screen.contains('\u{1b}'), "{screen}");
    let (json, _, status) = status_command(&["--json", "--address", &format!("http://{address}")]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["is_ready"], &json["readiness"]), (0, &Value::Bool(true), &Value::from("ready")));
    assert_eq!(json["status"]["logs"][0]["newest"], 500);
}

#[tokio::test]
async fn the_status_command_exits_differently_for_a_sidecar_that_is_not_ready_and_one_that_cannot_be_reached() {
    let away = ReservedPort::new();
    let port = ReservedPort::new();
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "a-token-of-this-test\n").unwrap();
    let keys = format!("bearer_tokens = {{ file = {tokens:?} }}");
    let node = SimulatedNode::start();
    let sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
        .node(node.address())
        .admin_api_with(&keys)
        .rpc(port.number(), away.address())
        .start()
        .await;
    let address = sidecar.admin_address().to_string();
    let (_, errors, status) = status_command(&["--address", &address]).await;
    assert!(status == 2 && errors.contains("--token-file"), "{errors}");
    let token_file = tokens.to_str().unwrap();
    let (screen, _, status) = status_command(&["--address", &address, "--token-file", token_file]).await;
    assert!(status == 1 && screen.contains("\nnot ready: the node's binary port "), "{screen}");
    let (_, errors, status) = status_command(&["--address", &away.address().to_string()]).await;
    assert!(status == 2 && errors.contains("is Sidecar running with [admin_api_server]"), "{errors}");
    let stream = sidecar.sse_address().to_string();
    let (_, errors, status) = status_command(&["--address", &stream]).await;
    assert!(status == 2 && errors.contains("is not an admin server's"), "{errors}");
}
