//! What watches a Sidecar, against a process in which everything runs: the dashboard and the alerts. `tests/documentation.rs`
//! looks at what the documents say of metrics.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use sidecar_test_support::beacon::BeaconNode;
use sidecar_test_support::binary_port::{BinaryPort, Reply, default_answer};
use sidecar_test_support::ping_pong::{self, PingPong};
use sidecar_test_support::port::ReservedPort;

use super::*;

const ALERTS: &str = include_str!("../../resources/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../resources/grafana/sidecar.json");

/// The names of the families that processes show in which everything runs and was used: sources, a log and a server of each
/// dialect, look-ups, an export, JSON-RPC; and, in another process, REST from a database.
async fn families() -> BTreeSet<String> {
    let (node, client, upstream) = (SimulatedNode::start(), BeaconNode::start(), PingPong::start().await);
    let binary_port = BinaryPort::start(|command| Reply::Answer(default_answer(command)));
    let (rpc, beacon, grpc) = (ReservedPort::new(), ReservedPort::new(), ReservedPort::new());
    let folder = tempfile::tempdir().unwrap();
    let descriptors = folder.path().join("court.binpb");
    ping_pong::write_descriptor_set(&descriptors);
    let sections = format!(
        "[storage.sqlite_config]\nfile_name = 'events.db3'\n\
         [beacon]\nport = {}\n[[beacon.connections]]\nurl = '{}'\n\
         [grpc]\nport = {}\n[[grpc.upstreams]]\nname = 'court'\naddress = 'http://{}'\ndescriptor_set = {descriptors:?}\n\
         [[grpc.streams]]\nname = 'pings'\nupstream = 'court'\nmethod = 'demo.v1.Events/Subscribe'\n\
         request = {{ topic = 'live' }}\npath = '/streams/pings'\n",
        beacon.number(),
        client.url(),
        grpc.number(),
        upstream.address(),
    );
    let builder = with_servers(&node).rpc(rpc.number(), binary_port.address()).sections(&sections);
    let mut sidecar = builder.start().await;
    for address in [rpc.address(), beacon.address(), grpc.address()] {
        sidecar.wait_until_listening(address).await;
    }
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let events = recordings::recorded_network();
    node.push_raw(malformed::not_json(500));
    node.push_all(events.iter().map(|(_, payload)| payload));
    live.read_until(|message| message.data == "\"Shutdown\"").await;
    for path in ["/block", "/block/1", "/nothing"] {
        Request::get(sidecar.rest_address(), path).answer().await;
    }
    call(rpc.address(), "info_get_peers").await;
    // A call of the gateway that fails.
    Request::get(grpc.address(), "/v1/nothing").answer().await;
    let database = format!(
        "[storage.postgresql_config]\nhost = '127.0.0.1'\nport = {}\ndatabase_name = 'd'\ndatabase_username = 'u'\n\
         database_password = 'p'\n",
        ReservedPort::new().number()
    );
    let rest_alone = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).without_sse_server().sections(&database);
    let rest_alone = rest_alone.rest_api().admin_api();
    let rest_alone = rest_alone.replacing("[rest_api_server]", "[rest_api_server]\nanswer_from = 'postgresql'");
    let rest_alone = rest_alone.start().await;
    let text = get(sidecar.admin_address(), "/metrics").await.2 + &get(rest_alone.admin_address(), "/metrics").await.2;
    text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect()
}

async fn call(address: SocketAddr, method: &str) {
    let client = sidecar::sse_client::stream::http_client(Duration::from_secs(30)).unwrap();
    let call = client.post(format!("http://{address}/rpc")).header("content-type", "application/json");
    let answer = call.body(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// The families that a text names. A word that ends with an underscore names all that begin with it.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let is_metric = |word: &&str| BEGINNINGS.iter().any(|beginning| word.starts_with(beginning));
    let family = |word: &str| {
        let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        suffix.unwrap_or(word).to_owned()
    };
    words.filter(is_metric).map(family).collect()
}

/// What the names of all metrics begin with, and of little else.
const BEGINNINGS: [&str; 9] = [
    "sidecar_",
    "process_",
    "node_statuses",
    "error_counts",
    "rest_api_response_",
    "rest_api_connected_",
    "rpc_server_",
    "sse_server_received_",
    "db_raw_data_",
];

fn is_there(name: &str, families: &BTreeSet<String>) -> bool {
    families.contains(name) || (name.ends_with('_') && families.iter().any(|family| family.starts_with(name)))
}

/// Every expression of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_metric_of_dashboard_and_alerts_exists_and_the_dashboard_shows_all_that_alert() {
    let families = families().await;
    let (shown, alerting) = (named(&expressions().join("\n")), named(&alert_expressions()));
    assert!(shown.len() > 50 && alerting.len() > 25, "{shown:?} {alerting:?}");
    for (place, names) in [("the dashboard", &shown), ("the alerts", &alerting)] {
        let unknown: Vec<_> = names.iter().filter(|name| !is_there(name, &families)).collect();
        assert!(unknown.is_empty(), "{place} names {unknown:?}, which no process shows; there are {families:?}");
    }
    let unseen: Vec<_> = alerting.difference(&shown).collect();
    assert!(unseen.is_empty(), "alerts use {unseen:?}, which the dashboard does not show");
    let whole = ["sidecar_exporter_", "sidecar_rest_database_", "sidecar_rpc_", "sidecar_grpc_", "sidecar_http_"];
    let elsewhere = ["sidecar_rpc_batches_total", "sidecar_rpc_node_wait_seconds"];
    let left_out: Vec<_> = families
        .difference(&shown)
        .filter(|name| whole.iter().any(|prefix| name.starts_with(prefix)) && !elsewhere.contains(&name.as_str()))
        .collect();
    assert!(left_out.is_empty(), "the dashboard does not show {left_out:?}");
}

/// The expressions of the alerts, without their words for people.
fn alert_expressions() -> String {
    ALERTS.lines().filter(|line| line.trim_start().starts_with("expr:")).collect::<Vec<_>>().join("\n")
}

/// Where Prometheus's own tool is installed: each alert fires when it is time, and not without cause.
#[test]
fn promtool_finds_the_alerts_right_and_each_fires_when_it_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let Ok(output) = Command::new("promtool").args(arguments).current_dir(&folder).output() else {
            eprintln!("promtool is not installed: nothing checks the alerts");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
    let tests = std::fs::read_to_string(folder.join("alerts_test.yml")).unwrap();
    for alert in ALERTS.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")) {
        let fires = tests.split(&format!("- name: {alert}\n")).nth(1);
        assert!(fires.is_some_and(|test| test.contains("exp_labels:")), "no test sees {alert} fire");
    }
}
