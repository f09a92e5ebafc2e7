//! The command line, and the demo that a stranger tries first.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::process::Command;

use serde_json::{Value, json};
use sidecar_test_support::client::{Request, SseClient};
use sidecar_test_support::node::stream;
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Process, demo};
use sidecar_test_support::recordings;

const BINARY: &str = env!("CARGO_BIN_EXE_sidecar");

fn sidecar(arguments: &[&str]) -> Process {
    Process::start(Command::new(BINARY).args(arguments))
}

#[tokio::test]
async fn the_gateways_demo_serves_its_stream_recorded_and_as_it_comes() {
    let [gateway, admin] = std::array::from_fn(|_| ReservedPort::new());
    let mut command = demo(BINARY, &[("grpc", &gateway), ("admin", &admin)]);
    let mut demo = Process::start(command.args(["--dialect", "grpc"]));
    demo.wait_for_output("Ctrl-C ends it.").await;
    let first = Request::get(gateway.address(), "/streams/balls?start_from=0").open().await.read_messages(2).await;
    assert_eq!(first.iter().map(|message| message.id).collect::<Vec<_>>(), [Some(0), Some(1)]);
    let mut live = Request::get(gateway.address(), "/v1/balls/pong").header("accept", "text/event-stream").open().await;
    let ball: Value = serde_json::from_str(&live.expect_message().await.data).unwrap();
    assert_eq!(ball["event"], "pong");
    let served = Request::get(gateway.address(), "/v1/serve/anna?text=hello").answer().await;
    assert_eq!(served.json()["text"], "anna serves: hello");
    assert!(demo.terminate().success());
}

#[tokio::test]
async fn the_demo_plays_the_whole_recording_byte_for_byte() {
    let [port, rest, admin, rpc] = std::array::from_fn(|_| ReservedPort::new());
    let storage = tempfile::tempdir().unwrap();
    let mut command = demo(BINARY, &[("sse", &port), ("rest", &rest), ("admin", &admin), ("rpc", &rpc)]);
    let mut demo = Process::start(command.args(["--speed", "0", "--storage-path"]).arg(storage.path()));
    demo.wait_until_listening(port.address()).await;
    let recording = recordings::recorded_network();
    let expected = stream("2.0.0", 0, recording.iter().map(|(_, payload)| payload));
    assert_eq!(recording.len(), 3_905);
    SseClient::connect(port.address(), "/events?start_from=0").await.expect_bytes(&expected).await;

    for shown in ["/events?start_from=0".to_owned(), "curl".to_owned()]
        .into_iter()
        .chain([&port, &rest, &admin, &rpc].map(|port| format!(":{}/", port.number())))
    {
        demo.wait_for_output(&shown).await;
    }
    let newest = recorded_newest_block(&recording);
    let hash = newest["block_hash"].clone();
    let transaction = recorded_transaction(&recording);
    assert_eq!(
        call(&rpc, "chain_get_block", json!([{"Hash": hash}])).await["block_with_signatures"]["block"],
        newest["block"]
    );
    let known = &call(&rpc, "info_get_status", json!([])).await["last_added_block_info"]["hash"];
    assert_eq!(*known, hash);
    let found = call(&rpc, "info_get_transaction", json!([transaction["transaction_hash"]])).await;
    assert_eq!(found["execution_info"]["block_hash"], transaction["block_hash"]);
    assert_eq!(found["execution_info"]["execution_result"], transaction["execution_result"]);
    assert_eq!(call(&rpc, "info_get_peers", json!([])).await["peers"], json!([]));
    assert_eq!(call(&rpc, "rpc.discover", json!([])).await["name"], "OpenRPC Schema");
    for (port, path) in [(&rest, "/block/1"), (&rest, "/swagger-ui/"), (&admin, "/metrics"), (&admin, "/ready")] {
        assert_eq!(Request::get(port.address(), path).open().await.status(), 200, "{path}");
    }
    assert!(demo.terminate().success());
    assert!(storage.path().join("logs/casper").is_dir());
}

fn recorded_newest_block(recording: &[(u64, String)]) -> Value {
    last_recorded(recording, "BlockAdded")
}

fn recorded_transaction(recording: &[(u64, String)]) -> Value {
    last_recorded(recording, "TransactionProcessed")
}

fn last_recorded(recording: &[(u64, String)], kind: &str) -> Value {
    let payloads = recording.iter().rev().filter_map(|(_, payload)| serde_json::from_str::<Value>(payload).ok());
    payloads.into_iter().find_map(|mut payload| Some(payload.get_mut(kind)?.take())).unwrap()
}

/// The result of a JSON-RPC call.
async fn call(rpc: &ReservedPort, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let request = sidecar::sse_client::stream::http_client(std::time::Duration::from_secs(5))
        .unwrap()
        .post(format!("http://{}/rpc", rpc.address()));
    let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
    let mut answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    answer["result"].take()
}

#[test]
fn a_demo_that_cannot_run_reports_why() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (argument, words) in [
        (format!("--sse-port={port}"), [port.as_str(), "taken"]),
        (format!("--rest-port={port}"), [port.as_str(), "taken"]),
        (format!("--admin-port={port}"), [port.as_str(), "taken"]),
        (format!("--rpc-port={port}"), [port.as_str(), "taken"]),
        ("--speed=-1".to_owned(), ["--speed -1", "a number above 0"]),
        ("--speed -1".to_owned(), ["--speed -1", "a number above 0"]),
        ("--speed=fast".to_owned(), ["--speed", "fast"]),
    ] {
        // The last of two same flags counts.
        let mut demo = Process::start(demo(BINARY, &[]).args(argument.split(' ')));
        assert!(!demo.wait_for_exit().success());
        assert!(words.iter().all(|word| demo.errors().contains(word)), "{}", demo.errors());
        assert!(!demo.output().contains("curl"), "it told what to try: {}", demo.output());
    }
}

#[tokio::test]
async fn on_any_free_ports_the_demo_prints_which_they_are() {
    let mut demo = Process::start(&mut demo(BINARY, &[]));
    demo.wait_for_output("Ctrl-C ends it.").await;
    let output = demo.output();
    for (what, path) in [("event stream", "/events/sidecar"), ("look-ups", "/swagger-ui/"), ("metrics", "/metrics")] {
        let line = output.lines().find(|line| line.trim_start().starts_with(what)).unwrap();
        let (_, address) = line.split_once("http://").unwrap();
        let address = address.split('/').next().unwrap().parse().unwrap();
        assert_eq!(Request::get(address, path).open().await.status(), 200, "{line}");
    }
    assert!(demo.terminate().success());
}

#[test]
fn help_and_version_are_printed_and_a_missing_argument_is_a_usage_error() {
    for (arguments, text) in [
        (["--help"], "--path-to-config"),
        (["-h"], "--path-to-config"),
        (["--version"], concat!("sidecar ", env!("CARGO_PKG_VERSION"), " (commit ")),
        (["-V"], env!("CARGO_PKG_VERSION")),
    ] {
        let mut process = sidecar(&arguments);
        assert_eq!(process.wait_for_exit().code(), Some(0), "{arguments:?}");
        assert!(process.output().contains(text) && process.errors().is_empty(), "{}", process.output());
    }
    let mut process = sidecar(&[]);
    assert_eq!(process.wait_for_exit().code(), Some(2));
    let errors = process.errors();
    assert!(errors.starts_with("error: the following required arguments were not provided:\n"), "{errors}");
    assert!(errors.contains("--path-to-config <FILE>"), "{errors}");
    for wrong in [&["--path-to-confg", "x"][..], &["--path-to-config"], &["somewhere"]] {
        let mut process = sidecar(wrong);
        assert_eq!(process.wait_for_exit().code(), Some(2), "{wrong:?}");
        assert!(process.errors().starts_with("error: "), "{}", process.errors());
    }
}
