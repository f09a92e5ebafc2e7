//! HTTP and JSON-RPC, in the reference's words.

use std::time::Duration;

use casper_binary_port::{Command, ResponseType};
use casper_types::{AvailableBlockRange, BlockWithSignatures};
use serde_json::{Value, json};
use sidecar::casper::rpc::LinkState;
use sidecar::engine::http::cors::Origins;
use sidecar_test_support::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bridge::{ANSWER, Bridge, CALL, PATIENCE, Sample, no_peers, value};

/// A bridge whose node has no peers, however often it is asked.
fn bridge(change: impl FnOnce(&mut sidecar::casper::rpc::RpcOptions)) -> Bridge {
    Bridge::to_node(|_| Some(no_peers()), change)
}

/// Status and body of an answer.
async fn answered(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

fn message(text: &str) -> String {
    json!({ "message": text }).to_string()
}

#[tokio::test]
async fn what_is_not_a_call_over_http_is_answered_in_the_references_words() {
    let bridge = bridge(|_| ());
    let at = |path: &str| format!("http://{}{path}", bridge.main);
    let client = bridge.client();
    assert_eq!(answered(client.post(at("/other")).body(CALL)).await, (404, message("Path not found")));
    let (status, contents) = answered(client.get(at("/"))).await;
    assert!(status == 200 && contents.contains("/rpc") && contents.contains("/health"), "{contents}");
    assert_eq!(answered(client.get(at("/rpc"))).await, (405, message("HTTP method not allowed")));
    let unset = client.post(at("/rpc")).body(CALL);
    assert_eq!(answered(unset).await, (400, message("The request's content-type is not set")));
    let text = client.post(at("/rpc")).header("content-type", "text/plain").body(CALL);
    assert_eq!(answered(text).await, (415, message("The request's content-type is not supported")));
    let notification = bridge.request(bridge.main).body(r#"{"jsonrpc":"2.0","method":"info_get_peers"}"#);
    assert_eq!(answered(notification).await, (400, message("The request is missing the 'id' field")));
    assert!(bridge.asked().is_empty());
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        for path in ["/rpc", "/rpc/", "/rpc?query=ignored"] {
            let request = client.post(at(path)).header("content-type", content_type).body(CALL);
            assert_eq!(answered(request).await, (200, ANSWER.to_owned()), "{content_type} {path}");
        }
    }
}

#[tokio::test]
async fn a_body_of_the_limit_is_taken_and_a_longer_or_unmeasured_one_is_not() {
    let bridge = bridge(|options| options.servers[0].max_body_bytes = 200);
    let padded = |bytes: usize| format!("{CALL}{}", " ".repeat(bytes - CALL.len()));
    let request = |body: String| bridge.request(bridge.main).body(body);
    assert_eq!(answered(request(padded(200))).await, (200, ANSWER.to_owned()));
    let refused = (413, message("The request payload exceeds the maximum allowed of 200 bytes"));
    assert_eq!(answered(request(padded(201))).await, refused);
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(CALL)]);
    assert_eq!(answered(bridge.request(bridge.main).body(reqwest::Body::wrap_stream(chunks))).await, refused);
}

#[tokio::test]
async fn a_client_that_sends_too_much_is_refused_and_may_continue_a_second_later() {
    let bridge = bridge(|options| options.servers[0].qps_limit = 3);
    let client = bridge.client();
    // Checked first, so a wrong path counts.
    for _ in 0..3 {
        assert_eq!(answered(client.get(format!("http://{}/other", bridge.main))).await.0, 404);
    }
    let response = bridge.request(bridge.main).body(CALL).send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    assert_eq!(response.text().await.unwrap(), message("Too many requests"));
    // The other server counts for itself, and a report of a proxy is not believed.
    assert_eq!(answered(bridge.request(bridge.speculative).body(CALL)).await.0, 200);
    assert_eq!(answered(bridge.request(bridge.main).header("x-real-ip", "1.2.3.4").body(CALL)).await.0, 429);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(answered(bridge.request(bridge.main).body(CALL)).await.0, 200);
    assert_eq!(bridge.watch.counters.rate_limited.get(), 2);
}

#[tokio::test]
async fn the_clients_of_a_trusted_proxy_are_counted_apart() {
    let bridge = bridge(|options| {
        options.servers[0].qps_limit = 1;
        options.servers[0].trust_client_ip_headers = true;
    });
    let from = |client: &str| answered(bridge.request(bridge.main).header("x-forwarded-for", client).body(CALL));
    assert_eq!(from("1.2.3.4").await.0, 200);
    assert_eq!(from("1.2.3.5").await.0, 200);
    assert_eq!(from("9.9.9.9, 1.2.3.4").await.0, 429);
}

#[tokio::test]
async fn pages_of_the_allowed_origin_may_call_and_others_may_not() {
    let origin = "https://example.org";
    let bridge = bridge(|options| {
        options.servers[0].listen.origins = Origins::Only(vec![origin.to_owned()]);
        options.servers[1].listen.origins = Origins::Any;
    });
    let preflight = |origin: &str, method: &str, headers: &str| {
        let request = bridge.client().request(reqwest::Method::OPTIONS, format!("http://{}/rpc", bridge.main));
        let request = request.header("origin", origin).header("access-control-request-method", method);
        request.header("access-control-request-headers", headers)
    };
    let response = preflight(origin, "POST", "content-type").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), origin);
    assert_eq!(header("access-control-allow-methods"), "POST");
    assert_eq!(header("access-control-allow-headers"), "content-type");
    assert_eq!(response.text().await.unwrap(), "");
    let forbidden = |why: &str| (403, format!("CORS request forbidden: {why}"));
    assert_eq!(answered(preflight("https://x.org", "POST", "")).await, forbidden("origin not allowed"));
    assert_eq!(answered(preflight(origin, "PUT", "")).await, forbidden("request-method not allowed"));
    assert_eq!(answered(preflight(origin, "POST", "content-type, x-y")).await, forbidden("header not allowed"));
    let from = |server, origin: &str| bridge.request(server).header("origin", origin.to_owned()).body(CALL);
    assert_eq!(answered(from(bridge.main, "https://x.org")).await, forbidden("origin not allowed"));
    assert!(bridge.asked().is_empty(), "the method is not run");
    let response = from(bridge.main, origin).send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], origin);
    let response = from(bridge.speculative, "https://anybody.org").send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "https://anybody.org");
    assert_eq!(answered(bridge.request(bridge.main).body(CALL)).await.0, 200, "without an origin nothing changes");
}

#[tokio::test]
async fn without_cors_a_preflight_is_a_method_like_any_other() {
    let bridge = bridge(|_| ());
    let request = bridge.client().request(reqwest::Method::OPTIONS, format!("http://{}/rpc", bridge.main));
    assert_eq!(answered(request.header("origin", "https://x.org")).await, (405, message("HTTP method not allowed")));
}

#[tokio::test]
async fn answers_are_compressed_as_the_client_asks() {
    use std::io::Read as _;

    let bridge = bridge(|_| ());
    let described = r#"{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}"#;
    let plain = answered(bridge.request(bridge.main).body(described)).await.1;
    for (accepted, coding) in [
        ("gzip", Some("gzip")),
        ("zstd", Some("zstd")),
        ("br, gzip;q=0.5, zstd;q=0", Some("gzip")),
        ("identity", None),
        ("gzip;q=0", None),
    ] {
        let response =
            bridge.request(bridge.main).header("accept-encoding", accepted).body(described).send().await.unwrap();
        let sent = response.headers().get("content-encoding").map(|coding| coding.to_str().unwrap().to_owned());
        assert_eq!(sent.as_deref(), coding, "{accepted}");
        let bytes = response.bytes().await.unwrap();
        let mut text = String::new();
        match coding {
            Some("zstd") => text = String::from_utf8(zstd::decode_all(bytes.as_ref()).unwrap()).unwrap(),
            Some(_) => _ = flate2::read::GzDecoder::new(bytes.as_ref()).read_to_string(&mut text).unwrap(),
            None => text = String::from_utf8(bytes.to_vec()).unwrap(),
        }
        assert!(text == plain, "{accepted}");
    }
}

#[tokio::test]
async fn the_answer_is_byte_for_byte_the_references() {
    let bridge = bridge(|_| ());
    let request = |body: &'static str| bridge.request(bridge.main).body(body);
    assert_eq!(answered(request(CALL)).await.1, ANSWER);
    let unknown = r#"{"jsonrpc":"2.0","id":"a","method":"x"}"#;
    let expected = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32601,"message":"Method not found","data":"'x' is not a supported json-rpc method on this server"}}"#;
    assert_eq!(answered(request(unknown)).await.1, expected);
}

#[tokio::test]
async fn the_calls_of_a_batch_are_answered_in_their_order() {
    let bridge = bridge(|_| ());
    let call = |id: u64, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method});
    let notification = json!({"jsonrpc": "2.0", "method": "info_get_peers"});
    let batch =
        json!([call(1, "info_get_peers"), notification, {"foo": "boo"}, call(2, "x"), call(3, "info_get_peers")]);
    let answers = bridge.post(batch.to_string()).await;
    let answers = answers.as_array().unwrap();
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!(1), &Value::Null, &json!(2), &json!(3)]);
    assert_eq!(answers[0]["result"]["peers"], json!([]));
    assert_eq!((&answers[1]["error"]["code"], &answers[2]["error"]["code"]), (&json!(-32600), &json!(-32601)));
    assert_eq!(bridge.asked().len(), 2, "a notification is not executed");
    let too_many: Vec<Value> = (0..11).map(|id| call(id, "info_get_peers")).collect();
    let answer = bridge.post(json!(too_many).to_string()).await;
    assert_eq!(answer["error"]["data"], "a batch may have at most 10 requests, but has 11");
    let silent = answered(bridge.request(bridge.main).body(json!([notification]).to_string())).await;
    assert_eq!(silent, (400, message("The request is missing the 'id' field")));
}

#[tokio::test]
async fn where_batches_are_switched_off_they_are_the_references_parse_error() {
    let bridge = bridge(|options| options.servers[0].batch_requests_max = 0);
    let answer = bridge.post("[]").await;
    let data = "invalid type: sequence, expected a map at line 1 column 0";
    assert_eq!(answer["error"], json!({"code": -32700, "message": "Parse error", "data": data}));
}

#[tokio::test]
async fn health_reports_whether_the_node_is_there() {
    let mut bridge = bridge(|options| options.link.backoff.max_attempts = 1);
    let health = |bridge: &Bridge| answered(bridge.client().get(format!("http://{}/health", bridge.main)));
    bridge.call("info_get_peers", Value::Null).await;
    assert_eq!(health(&bridge).await, (200, r#"{"node":"connected"}"#.to_owned()));
    bridge.node.kill();
    until(PATIENCE, "the node is away", async || bridge.watch.link.state() == LinkState::Away).await;
    assert_eq!(health(&bridge).await, (503, r#"{"node":"away"}"#.to_owned()));
    let answer = bridge.call("info_get_peers", Value::Null).await;
    let data = "request for peers has failed: connection to node lost";
    assert_eq!(answer["error"], json!({"code": -32018, "message": "Node request failure", "data": data}));
}

#[tokio::test]
async fn an_answer_that_never_changes_is_asked_for_once_and_others_every_time() {
    let sample = Sample::read("chain_get_block");
    let block: casper_types::Block = sample.part("/block_with_signatures/block");
    let old = || {
        let chain = casper_types::ChainNameDigest::from_chain_name("casper-local");
        let signatures = casper_types::BlockSignaturesV2::new(*block.hash(), block.height(), block.era_id(), chain);
        BlockWithSignatures::new(block.clone(), casper_types::BlockSignatures::V2(signatures))
    };
    let (block, old) = (block.clone(), value(ResponseType::BlockWithSignatures, &[&old()]));
    let payload = old.payload().to_vec();
    let bridge = Bridge::to_node(
        move |command| match command {
            Command::Get(_) => Some(casper_binary_port::BinaryResponse::from_raw_bytes(
                ResponseType::BlockWithSignatures,
                payload.clone(),
            )),
            _ => None,
        },
        |options| options.answer_cache_bytes = 1 << 20,
    );
    let by_hash = json!({"block_identifier": {"Hash": block.hash()}});
    let by_height = json!({"block_identifier": {"Height": block.height()}});
    let first = bridge.call("chain_get_block", by_hash.clone()).await;
    assert_eq!(bridge.call("chain_get_block", by_hash).await, first);
    // The block was made in November 2026, which may be the future of the clock here; then nothing is kept.
    let is_old = block.timestamp() < casper_types::Timestamp::now();
    assert_eq!(bridge.asked().len(), if is_old { 1 } else { 2 });
    let asked = bridge.asked().len();
    for _ in 0..2 {
        bridge.call("chain_get_block", by_height.clone()).await;
    }
    assert_eq!(bridge.asked().len(), asked + 2);
}

#[tokio::test]
async fn a_failure_is_not_kept() {
    let bridge = Bridge::with([], |options| options.answer_cache_bytes = 1 << 20);
    let params = json!({"block_identifier": {"Hash": "01".repeat(32)}});
    for asked in 1..3 {
        assert_eq!(bridge.call("chain_get_state_root_hash", params.clone()).await["error"]["code"], -32018);
        assert_eq!(bridge.asked().len(), asked);
    }
}

#[tokio::test]
async fn a_request_has_an_id_of_its_own_or_the_clients() {
    let bridge = bridge(|_| ());
    let id = |request: reqwest::RequestBuilder| async move {
        let response = request.body(CALL).send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    let first: u64 = id(bridge.request(bridge.main)).await.parse().unwrap();
    let second: u64 = id(bridge.request(bridge.main)).await.parse().unwrap();
    assert_ne!(first, second);
    assert_eq!(id(bridge.request(bridge.main).header("x-request-id", "mine-7")).await, "mine-7");
    let long = "x".repeat(65);
    assert_ne!(id(bridge.request(bridge.main).header("x-request-id", &long)).await, long);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_delays_no_other_client() {
    let bridge = bridge(|_| ());
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(bridge.main).await.unwrap();
        let head = "POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 90000\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let asked = tokio::time::timeout(PATIENCE, bridge.call("info_get_peers", Value::Null)).await.unwrap();
    assert_eq!(asked["result"]["peers"], json!([]));
}

#[tokio::test]
async fn hostile_bodies_get_their_error_and_the_server_continues() {
    let bridge = bridge(|options| options.servers[0].max_body_bytes = 1 << 20);
    for body in [
        "[".repeat(900_000),
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"info_get_deploy\",\"params\":{}",
            "{\"a\":".repeat(100_000)
        ),
        "\u{0}".to_owned(),
        format!("\"{}\"", "x".repeat(900_000)),
        "1e999999".to_owned(),
        r#"{"jsonrpc":"2.0","id":1e999,"method":"m"}"#.to_owned(),
    ] {
        let answer = bridge.post(body).await;
        assert_eq!(answer["error"]["code"], -32700, "{answer}");
    }
    let long_name = json!({"jsonrpc": "2.0", "id": 1, "method": "m".repeat(100_000)}).to_string();
    assert_eq!(bridge.post(long_name).await["error"]["code"], -32601);
    let mut stream = TcpStream::connect(bridge.main).await.unwrap();
    stream.write_all(b"POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(bridge.call("info_get_peers", Value::Null).await["result"]["peers"], json!([]));
}

#[tokio::test]
async fn an_answer_of_the_node_is_matched_to_its_call_however_many_wait() {
    let bridge = Bridge::to_node(
        |command| match command {
            Command::Get(casper_binary_port::GetRequest::Information { key, .. }) => {
                let height = key.get(2..10).map_or(0, |height| u64::from_le_bytes(height.try_into().unwrap()));
                let range = AvailableBlockRange::new(height, height);
                // An unknown block, and the range names it.
                Some(match key.is_empty() {
                    true => value(ResponseType::AvailableBlockRange, &[&range]),
                    false => casper_binary_port::BinaryResponse::new_empty(),
                })
            }
            _ => None,
        },
        |_| (),
    );
    bridge.node.delay(Duration::from_millis(5));
    let calls = (0..200_u64).map(|id| {
        let bridge = &bridge;
        async move {
            let call = json!({"jsonrpc": "2.0", "id": id, "method": "chain_get_block", "params": [{"Height": id}]});
            let answer = bridge.post(call.to_string()).await;
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32001)), "{answer}");
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(bridge.node.connections(), 1);
}
