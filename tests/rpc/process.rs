//! The bridge as users run it: the built binary, with a configuration file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use casper_binary_port::{Command, InformationRequestTag};
use serde_json::{Value, json};
use sidecar_test_support::binary_port::{BinaryPort, Reply, default_answer, information_tag};
use sidecar_test_support::client::{bucket_bounds, get};
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::wait::until;

use super::bridge::{ANSWER, CALL, PATIENCE, no_peers};

const LOST: &str = "request for peers has failed: connection to node lost";

fn node() -> BinaryPort {
    BinaryPort::start(|command| match command {
        Command::Get(request) if information_tag(request) == Some(InformationRequestTag::Peers) => {
            Reply::Answer(no_peers())
        }
        _ => Reply::Answer(default_answer(command)),
    })
}

/// The binary with the bridge, which soon gives a node up.
fn with_bridge(port: u16, node: &BinaryPort) -> SidecarBuilder {
    let backoff =
        "[rpc_server.node_client.exponential_backoff]\ninitial_delay_ms = 10\nmax_delay_ms = 20\nmax_attempts = 2\n";
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).rpc(port, node.address()).sections(backoff)
}

async fn ask(port: &ReservedPort) -> String {
    let request = sidecar::sse_client::stream::http_client(Duration::from_secs(5))
        .unwrap()
        .post(format!("http://{}/rpc", port.address()));
    let response = request.header("content-type", "application/json").body(CALL).send().await.unwrap();
    response.text().await.unwrap()
}

async fn ready(sidecar: &Sidecar) -> (u16, String) {
    let answer = get(sidecar.admin_address(), "/ready").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn the_bridge_runs_alone_outlives_its_node_and_reports_its_state() {
    let (mut node, port) = (node(), ReservedPort::new());
    let builder = with_bridge(port.number(), &node).without_sse_server().admin_api();
    let mut sidecar = builder.serving(port.address()).start().await;
    assert_eq!(ask(&port).await, ANSWER);
    until(PATIENCE, "ready", async || ready(&sidecar).await == (200, "ready".to_owned())).await;
    node.kill();
    until(PATIENCE, "not ready", async || {
        let (status, text) = ready(&sidecar).await;
        status == 503 && text.contains("the node's binary port") && text.contains("cannot be reached")
    })
    .await;
    assert!(ask(&port).await.contains(LOST));
    node.restart();
    until(PATIENCE, "answered again", async || ask(&port).await == ANSWER).await;
    let metrics = get(sidecar.admin_address(), "/metrics").await.body;
    for line in [
        "rpc_server_endpoint_calls{endpoint_name=\"info_get_peers\"}",
        "rpc_server_endpoint_response_times_count{method=\"info_get_peers\",status=\"success\"}",
        "rpc_server_endpoint_response_times_count{method=\"info_get_peers\",status=\"-32018\"}",
        "rpc_server_request_sizes_count{endpoint=\"info_get_peers\"}",
        "rpc_server_disconnects 1",
        "rpc_server_reconnect_time_count 1",
        "# HELP rpc_server_endpoint_calls Endpoint calls",
        "# TYPE rpc_server_endpoint_calls counter",
        "# HELP rpc_server_endpoint_response_times Time it takes the service to produce a response in milliseconds",
        "# HELP rpc_server_request_sizes Endpoint request sizes",
        "# HELP rpc_server_reconnect_time Time it takes the service to reconnect to node binary port in milliseconds",
        "# HELP rpc_server_disconnects Number of TCP disconnects between sidecar and nodes binary port",
        "# TYPE rpc_server_disconnects gauge",
        "sidecar_rpc_node_connected 1",
        "sidecar_rpc_node_wait_seconds_count{method=\"info_get_peers\"}",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    let sizes = ["500", "1000", "2000", "5000", "50000", "500000", "5000000", "50000000", "+Inf"];
    let times = ["1", "5", "10", "30", "50", "100", "300", "1000", "3000", "+Inf"];
    assert_eq!(bucket_bounds(&metrics, "rpc_server_request_sizes"), sizes);
    for name in ["rpc_server_endpoint_response_times", "rpc_server_reconnect_time"] {
        assert_eq!(bucket_bounds(&metrics, name), times, "{name}");
    }
    assert_eq!(sidecar.terminate().code(), Some(0));
}

#[tokio::test]
async fn the_bridge_serves_beside_the_log_whether_its_node_is_there_or_not() {
    let (mut node, port, source) = (node(), ReservedPort::new(), SimulatedNode::start());
    node.kill();
    let sidecar = with_bridge(port.number(), &node).node(source.address()).admin_api().start().await;
    until(PATIENCE, "given up", async || ask(&port).await.contains(LOST)).await;
    let status = get(sidecar.admin_address(), "/health").await.status;
    assert_eq!(status, 200);
    node.restart();
    until(PATIENCE, "answered", async || ask(&port).await == ANSWER).await;
}

#[tokio::test]
async fn the_log_answers_while_the_node_is_away_where_that_is_wanted() {
    let is_asked_for_a_block = Arc::new(AtomicBool::new(false));
    let mut node = BinaryPort::stopped({
        let is_asked_for_a_block = Arc::clone(&is_asked_for_a_block);
        move |command| match command {
            Command::Get(request) => match information_tag(request) {
                Some(InformationRequestTag::Peers) => Reply::Answer(no_peers()),
                Some(InformationRequestTag::BlockWithSignatures) => {
                    is_asked_for_a_block.store(true, Ordering::SeqCst);
                    Reply::Silence
                }
                _ => Reply::Answer(default_answer(command)),
            },
            _ => Reply::Answer(default_answer(command)),
        }
    });
    let (port, source) = (ReservedPort::new(), SimulatedNode::start());
    let recording = sidecar_test_support::recordings::recorded_network();
    let events = || recording.iter().filter_map(|(_, payload)| serde_json::from_str::<Value>(payload).ok());
    let executions = || events().filter_map(|mut event| Some(event.get_mut("TransactionProcessed")?.take()));
    let transfers = |processed: &Value| processed["execution_result"]["Version2"]["transfers"].as_array().cloned();
    let processed = executions().find(|processed| transfers(processed).is_some_and(|list| !list.is_empty())).unwrap();
    let hash = processed["block_hash"].clone();
    // Up to the block after the one with that transfer.
    let mut is_processed = false;
    for (_, payload) in &recording {
        if is_processed && payload.contains("BlockAdded") {
            break;
        }
        is_processed |= payload.starts_with("{\"TransactionProcessed") && payload.contains(hash.as_str().unwrap());
        source.push(payload);
    }
    let builder = with_bridge(port.number(), &node).node(source.address());
    let sidecar = builder.sections("[rpc_server]\nanswer_from_log = true").start().await;
    let call = async |method: &str, params: Value| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let request = sidecar::sse_client::stream::http_client(Duration::from_secs(5))
            .unwrap()
            .post(format!("http://{}/rpc", port.address()));
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let is_from_log = response.headers().get("x-sidecar-answered-from").is_some_and(|from| from == "log");
        (is_from_log, serde_json::from_str::<Value>(&response.text().await.unwrap()).unwrap())
    };
    until(PATIENCE, "the block is in the log", async || call("chain_get_block", json!([{"Hash": hash}])).await.0).await;
    let (_, block) = call("chain_get_block", json!([{"Hash": hash}])).await;
    let recorded = recording
        .iter()
        .find(|(_, payload)| payload.contains("BlockAdded") && payload.contains(hash.as_str().unwrap()));
    let recorded: Value = serde_json::from_str(&recorded.unwrap().1).unwrap();
    assert_eq!(block["result"]["block_with_signatures"]["block"], recorded["BlockAdded"]["block"]);
    let transaction = &processed["transaction_hash"];
    until(PATIENCE, "the transaction is in the log", async || {
        let (is_from_log, found) = call("info_get_transaction", json!([transaction])).await;
        is_from_log && found["result"]["execution_info"]["execution_result"] == processed["execution_result"]
    })
    .await;
    let (is_from_log, root) = call("chain_get_state_root_hash", json!([{"Hash": hash}])).await;
    let header = &block["result"]["block_with_signatures"]["block"]["Version2"]["header"];
    assert_eq!((is_from_log, &root["result"]["state_root_hash"]), (true, &header["state_root_hash"]));
    let found_transfers = async || call("chain_get_block_transfers", json!([{"Hash": hash}])).await;
    until(PATIENCE, "all of the block is in the log", async || found_transfers().await.0).await;
    let (is_from_log, found) = found_transfers().await;
    let executed_there = executions().filter(|processed| processed["block_hash"] == hash);
    let transferred: Vec<Value> = executed_there.filter_map(|processed| transfers(&processed)).flatten().collect();
    assert_eq!((is_from_log, &found["result"]["transfers"]), (true, &Value::Array(transferred)));
    // That a block ended no era is in its header.
    let (is_from_log, era) = call("chain_get_era_info_by_switch_block", json!([{"Hash": hash}])).await;
    assert_eq!((is_from_log, &era["result"]["era_summary"]), (true, &Value::Null));
    // What the log does not hold is not made up; an era's summary is in the global state alone.
    for (method, params, what) in [
        ("info_get_peers", json!([]), "peers"),
        ("chain_get_era_info_by_switch_block", json!([{"Height": 0}]), "era summary"),
        ("chain_get_era_summary", json!([{"Hash": hash}]), "era summary"),
        ("chain_get_era_summary", json!([]), "latest switch block header"),
    ] {
        let (is_from_log, answer) = call(method, params).await;
        let lost = LOST.replace("peers", what);
        assert_eq!((is_from_log, &answer["error"]["data"]), (false, &json!(lost)), "{method}");
    }
    node.restart();
    until(PATIENCE, "answered by the node", async || ask(&port).await == ANSWER).await;
    // A call is on its way when the node goes away.
    let going_away = async {
        until(PATIENCE, "asked for a block", async || is_asked_for_a_block.load(Ordering::SeqCst)).await;
        node.kill();
    };
    let ((is_from_log, again), ()) = tokio::join!(call("chain_get_block", json!([{"Hash": hash}])), going_away);
    // More of its signatures may be stored by now.
    let block_in = |answer: &Value| answer["result"]["block_with_signatures"]["block"].clone();
    assert_eq!((is_from_log, block_in(&again)), (true, block_in(&block)));
    drop(sidecar);
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_start() {
    let node = node();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = _taken.local_addr().unwrap().port();
    let mut sidecar = with_bridge(taken, &node).without_sse_server().spawn();
    assert_eq!(sidecar.wait_for_exit().code(), Some(1));
    let errors = sidecar.errors();
    assert!(errors.contains("Error: Error running component 'rpc_api_server': Address already in use"), "{errors}");
}
