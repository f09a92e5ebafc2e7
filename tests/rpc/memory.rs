//! What requests and answers take of the built binary's memory, whatever clients do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casper_binary_port::{Command, InformationRequestTag};
use serde_json::{Value, json};
use sidecar_test_support::binary_port::{BinaryPort, Reply, default_answer, information_tag};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// A debug build takes its time for so many bytes.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// The binary before a node, without a limit of calls per second.
async fn bridge(node: &BinaryPort) -> (Sidecar, ReservedPort) {
    let port = ReservedPort::new();
    let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).rpc(port.number(), node.address());
    let builder = builder.replacing("[rpc_server.main_server]\n", "[rpc_server.main_server]\nqps_limit = 1000000\n");
    let mut sidecar = builder.without_sse_server().admin_api().spawn();
    sidecar.wait_until_listening(port.address()).await;
    (sidecar, port)
}

/// How many clients have got the beginning of an answer.
#[derive(Default)]
struct Answered {
    large: AtomicUsize,
    /// 503, or a JSON-RPC error.
    refused: AtomicUsize,
}

/// Sends a body from each of so many clients, who are slow to take their answers.
fn send_all(clients: usize, address: SocketAddr, body: String) -> (Arc<Answered>, JoinSet<()>) {
    let (answered, body): (Arc<Answered>, Arc<str>) = (Arc::default(), body.into());
    let sending = (0..clients).map(|_| send(address, Arc::clone(&body), Arc::clone(&answered))).collect();
    (answered, sending)
}

async fn send(address: SocketAddr, body: Arc<str>, answered: Arc<Answered>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = "POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ";
    // One that is refused early may not be able to send all.
    let _ = stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await;
    let mut piece = vec![0; 8 << 10];
    let read = stream.read(&mut piece).await.unwrap_or_default();
    let begin = String::from_utf8_lossy(&piece[..read]).into_owned();
    let Some((head, _)) = begin.split_once("\r\n\r\n") else { return };
    let bytes: u64 = head.split_once("content-length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
    assert_eq!(head.contains("retry-after: 1"), head.starts_with("HTTP/1.1 503 "), "{head}");
    let count = if bytes > MIB { &answered.large } else { &answered.refused };
    count.fetch_add(1, Ordering::Relaxed);
    // Faster than the least pace, and far from fast.
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn call(address: SocketAddr, body: String) -> Value {
    let client = sidecar::sse_client::stream::http_client(Duration::from_secs(5)).unwrap();
    let request = client.post(format!("http://{address}/rpc")).header("content-type", "application/json").body(body);
    serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn slow_clients_of_large_batches_take_no_more_than_the_memory_for_answers() {
    let node = BinaryPort::start(|command| Reply::Answer(default_answer(command)));
    let (sidecar, port) = bridge(&node).await;
    let batch = |calls: u64| {
        let call = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "rpc.discover"});
        Value::Array((0..calls).map(call).collect()).to_string()
    };
    assert_eq!(call(port.address(), batch(3)).await.as_array().unwrap().len(), 3);
    let before = sidecar.resident_memory_bytes().now;
    // An answer has 16 MB: 17 have room, some wait for it with what they have made, and the others are refused.
    let (answered, mut clients) = send_all(60, port.address(), batch(100));
    until(PATIENCE, "16 answers on their way", async || answered.large.load(Ordering::Relaxed) >= 16).await;
    until(PATIENCE, "20 refused", async || answered.refused.load(Ordering::Relaxed) >= 20).await;
    let grown = sidecar.resident_memory_bytes().highest.saturating_sub(before);
    assert!((200 * MIB..400 * MIB).contains(&grown), "{} MiB", grown / MIB);
    let crowded = "too many large answers wait to be sent; ask again";
    let error = json!({"code": -32603, "message": "Internal error", "data": crowded});
    assert_eq!(call(port.address(), batch(20)).await, json!({"jsonrpc": "2.0", "id": null, "error": error}));
    clients.shutdown().await;
    let mut answers = Value::Null;
    until(PATIENCE, "the memory is given back", async || {
        answers = call(port.address(), batch(20)).await;
        answers.is_array()
    })
    .await;
    let ids: Vec<u64> = answers.as_array().unwrap().iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
    assert!(answers.as_array().unwrap().iter().all(|answer| answer["result"]["name"] == "OpenRPC Schema"));
}

#[tokio::test]
async fn calls_that_wait_for_a_silent_node_take_no_more_than_the_memory_for_bodies() {
    let node = BinaryPort::start(|command| match command {
        Command::Get(request) if information_tag(request) == Some(InformationRequestTag::ProtocolVersion) => {
            Reply::Answer(default_answer(command))
        }
        _ => Reply::Silence,
    });
    let (sidecar, port) = bridge(&node).await;
    let before = sidecar.resident_memory_bytes().now;
    // Of few bytes each, and of many values.
    let path = vec![""; 200_000];
    let params = json!({"state_root_hash": "0".repeat(64), "key": format!("hash-{}", "0".repeat(64)), "path": path});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "state_get_item", "params": params}).to_string();
    // Some wait for the node, more for memory, and the others are refused.
    let (answered, _clients) = send_all(120, port.address(), body);
    until(PATIENCE, "20 refused", async || answered.refused.load(Ordering::Relaxed) >= 20).await;
    let grown = sidecar.resident_memory_bytes().highest.saturating_sub(before);
    assert!(grown < 256 * MIB, "{} MiB", grown / MIB);
    let small = json!({"jsonrpc": "2.0", "id": 7, "method": "nothing"}).to_string();
    assert_eq!(call(port.address(), small).await["error"]["code"], -32601, "small calls need no room");
}

#[tokio::test]
async fn a_body_of_too_many_values_is_refused() {
    let node = BinaryPort::start(|command| Reply::Answer(default_answer(command)));
    let (_sidecar, port) = bridge(&node).await;
    let client = sidecar::sse_client::stream::http_client(Duration::from_secs(5)).unwrap();
    let body = format!("[{}1]", "{\"\":0},".repeat(300_000));
    let request = client.post(format!("http://{}/rpc", port.address())).header("content-type", "application/json");
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    let message = answer.text().await.unwrap();
    assert!(message.contains("send fewer values in one request"), "{message}");
}
