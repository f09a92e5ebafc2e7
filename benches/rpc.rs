//! The JSON-RPC bridge, measured: `cargo bench --bench rpc [-- --seconds S]` prints the rows of its table.
//!
//! The built binary stands before a simulated node that answers each request one millisecond after it came. Clients ask
//! for a block over one connection each, one request after the other, and share the machine with both. Latencies are taken
//! at half the rate that was reached, from the moment when a request was due.

#![expect(clippy::expect_used, reason = "a benchmark ends at the first error")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use casper_binary_port::{BinaryResponse, Command, GetRequest, InformationRequestTag, ResponseType};
use casper_types::bytesrepr::ToBytes;
use casper_types::testing::TestRng;
use casper_types::{BlockSignatures, BlockSignaturesV2, BlockWithSignatures, ChainNameDigest, TestBlockBuilder};
use sidecar_test_support::binary_port::{BinaryPort, Reply, default_answer, information_tag};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const NODE_DELAY: Duration = Duration::from_millis(1);
const CLIENTS: [usize; 3] = [1, 16, 256];
const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"chain_get_block","params":{"block_identifier":{"Height":7}}}"#;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test` hands over flags of its own.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let place = arguments.iter().position(|argument| argument == "--seconds");
    let seconds = place.and_then(|place| arguments.get(place + 1)?.parse().ok()).unwrap_or(5);
    let runtime = tokio::runtime::Runtime::new().expect("no runtime");
    runtime.block_on(measure(Duration::from_secs(seconds)));
}

async fn measure(duration: Duration) {
    let node = node();
    node.delay(NODE_DELAY);
    let port = ReservedPort::new();
    let sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
        .without_sse_server()
        .sections(&format!(
            "[rpc_server]\nanswer_cache_bytes = 0\n[rpc_server.main_server]\nip_address = '127.0.0.1'\nport = {}\n\
             qps_limit = 1000000\n[rpc_server.node_client]\nip_address = '127.0.0.1'\nport = {}\n",
            port.number(),
            node.address().port()
        ))
        .serving(port.address())
        .start()
        .await;
    println!("| JSON-RPC, the node answers after 1 ms | requests/s | CPU per request | p50, p99 at half load |");
    println!("|---|---|---|---|");
    for clients in CLIENTS {
        row(&sidecar, port.address(), clients, duration).await;
    }
}

async fn row(sidecar: &Sidecar, server: SocketAddr, clients: usize, duration: Duration) {
    run(server, clients, duration / 5, None).await;
    let before = sidecar.cpu_time();
    let answered = run(server, clients, duration, None).await.len();
    let spent = sidecar.cpu_time() - before;
    let rate = answered as f64 / duration.as_secs_f64();
    let mut half = run(server, clients, duration, Some(rate / 2.0)).await;
    half.sort_unstable();
    let percentile = |percent: usize| {
        let latency = half.get(half.len() * percent / 100).copied().unwrap_or_default();
        latency.as_secs_f64() * 1e3
    };
    println!(
        "| chain_get_block, {clients} clients | {rate:.0} | {:.0} µs | {:.1} ms, {:.1} ms |",
        spent.as_secs_f64() * 1e6 / answered.max(1) as f64,
        percentile(50),
        percentile(99)
    );
}

/// The latency of every request: as many as can be, or at this rate.
async fn run(server: SocketAddr, clients: usize, duration: Duration, rate: Option<f64>) -> Vec<Duration> {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for client in 0..clients {
        let pause = rate.map(|rate| Duration::from_secs_f64(clients as f64 / rate));
        let offset = pause.map_or(Duration::ZERO, |pause| pause.mul_f64(client as f64 / clients as f64));
        running.spawn(ask(server, begun + offset, begun + duration, pause));
    }
    running.join_all().await.into_iter().flatten().collect()
}

async fn ask(server: SocketAddr, first: Instant, end: Instant, pause: Option<Duration>) -> Vec<Duration> {
    let mut stream = TcpStream::connect(server).await.expect("no connection");
    stream.set_nodelay(true).expect("no socket");
    let request = format!(
        "POST /rpc HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let (mut latencies, mut buffer) = (Vec::new(), Vec::new());
    let mut due = first;
    while due < end && Instant::now() < end {
        if pause.is_some() {
            tokio::time::sleep_until(due.into()).await;
        } else {
            due = Instant::now();
        }
        stream.write_all(request.as_bytes()).await.expect("the request is not taken");
        read_answer(&mut stream, &mut buffer).await;
        latencies.push(due.elapsed());
        due += pause.unwrap_or_default();
    }
    latencies
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    buffer.clear();
    loop {
        assert!(stream.read_buf(buffer).await.expect("no answer") > 0, "the connection is closed");
        let Some(head) = memchr::memmem::find(buffer, b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(buffer.get(..head).unwrap_or_default()).expect("a head in ASCII");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if buffer.len() >= head + 4 + length.parse::<usize>().expect("a number") {
            assert!(memchr::memmem::find(buffer, b"block_with_signatures").is_some(), "an error is answered");
            return;
        }
    }
}

/// A node with one block.
fn node() -> BinaryPort {
    let block = TestBlockBuilder::new().height(7).build_versioned(&mut TestRng::new());
    let chain = ChainNameDigest::from_chain_name("bench");
    let signatures = BlockSignaturesV2::new(*block.hash(), block.height(), block.era_id(), chain);
    let block = BlockWithSignatures::new(block, BlockSignatures::V2(signatures));
    let payload = block.to_bytes().expect("a block in bytes");
    BinaryPort::start(move |command| match command {
        Command::Get(request @ GetRequest::Information { .. })
            if information_tag(request) == Some(InformationRequestTag::BlockWithSignatures) =>
        {
            Reply::Answer(BinaryResponse::from_raw_bytes(ResponseType::BlockWithSignatures, payload.clone()))
        }
        other => Reply::Answer(default_answer(other)),
    })
}
