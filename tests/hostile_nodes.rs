//! Hostile nodes: whatever one sends, memory, disk and log lines stay bounded, its sound events are kept, and the
//! other nodes' events flow.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use sidecar_test_support::client::{Request, SseClient, events};
use sidecar_test_support::http::read_head;
use sidecar_test_support::node::{SimulatedNode, frame, malformed, stream};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const STATUS: &str =
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"build_version\":\"2.0.3\",\"chainspec_name\":\"casper-test\"}";
const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
/// What Sidecar may take beyond what it needs anyway, whatever it is sent.
const EXCESS_BYTES_MAX: u64 = 64 << 20;

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// How a node answers one request.
#[derive(Clone)]
struct Answer {
    start: Vec<u8>,
    /// Then this many times these bytes.
    repeated: (usize, Vec<u8>),
    end: Vec<u8>,
    /// Then nothing, and the connection stays open.
    then_silent: bool,
}

impl Answer {
    fn of(start: impl Into<Vec<u8>>) -> Self {
        Self { start: start.into(), repeated: (0, Vec::new()), end: Vec::new(), then_silent: false }
    }

    /// An event stream of these payloads that stays open.
    fn events(payloads: &[&str]) -> Self {
        Self { then_silent: true, ..Self::of([STREAM.as_bytes(), &stream("2.0.0", 0, payloads)].concat()) }
    }

    fn repeating(self, times: usize, bytes: impl Into<Vec<u8>>) -> Self {
        Self { repeated: (times, bytes.into()), ..self }
    }

    async fn give(self, mut socket: TcpStream) -> std::io::Result<()> {
        socket.write_all(&self.start).await?;
        for _ in 0..self.repeated.0 {
            socket.write_all(&self.repeated.1).await?;
        }
        socket.write_all(&self.end).await?;
        if self.then_silent {
            let _ = socket.read_u8().await;
        }
        Ok(())
    }
}

/// A node that gives an answer to each request of a path, the last one again and again.
struct ScriptedNode {
    address: SocketAddr,
    requests: Arc<Mutex<HashMap<String, usize>>>,
    listening: JoinHandle<()>,
}

impl ScriptedNode {
    async fn start(status: Vec<Answer>, events: Vec<Answer>) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST, status, events).await
    }

    async fn start_on(address: Ipv4Addr, status: Vec<Answer>, events: Vec<Answer>) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(HashMap::new()));
        let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::clone(&requests);
        let listening = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let Some(head) = read_head(&mut socket).await else { continue };
                let path = if head.starts_with(b"GET /status ") { "/status" } else { "/events" };
                let number = {
                    let mut seen = seen.lock().unwrap();
                    let count = seen.entry(path.to_owned()).or_default();
                    *count += 1;
                    *count - 1
                };
                let answers = if path == "/status" { &status } else { &events };
                let answer = answers[number.min(answers.len() - 1)].clone();
                tokio::spawn(answer.give(socket));
            }
        });
        Self { address, requests, listening }
    }

    fn requests(&self, path: &str) -> usize {
        self.requests.lock().unwrap().get(path).copied().unwrap_or_default()
    }
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A sidecar with a node that means well and these others, retried at once; the client has the good node's first event.
async fn beside_a_good_node(others: &[SocketAddr], keys: &str) -> (SimulatedNode, Sidecar, SseClient) {
    let good = SimulatedNode::start();
    good.push(story::unknown_kind(1));
    let keys = format!("delay_between_retries_in_seconds = 0\n{keys}");
    let builder = others.iter().fold(sidecar().node(good.address()), |builder, other| builder.node_with(*other, &keys));
    let sidecar = builder.sections("[storage.log]\nevent_bytes_max = 1_048_576").start().await;
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    client.read_until(|message| message.data == story::unknown_kind(1).payload).await;
    (good, sidecar, client)
}

/// Reads on until all of these payloads have come, in any order.
async fn read_all(client: &mut SseClient, payloads: &[&str]) {
    let mut missing = payloads.to_vec();
    while !missing.is_empty() {
        let message = client.expect_message().await;
        missing.retain(|payload| *payload != message.data);
    }
}

fn payloads(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| story::unknown_kind(number).payload).collect()
}

/// The size of a huge event; `SIDECAR_HOSTILE_MIB=1024` makes it one of a gigabyte.
fn hostile_mebibytes() -> usize {
    std::env::var("SIDECAR_HOSTILE_MIB").map_or(48, |mebibytes| mebibytes.parse().unwrap())
}

#[tokio::test]
async fn a_huge_event_is_left_out_in_bounded_memory_and_the_stream_continues() {
    let [before, after] = ["{\"Before\":1}", "{\"After\":1}"];
    let mut answer = Answer::events(&[before]);
    answer.start.extend_from_slice(b"data:{\"Huge\":\"");
    let mut answer = answer.repeating(hostile_mebibytes(), vec![b'x'; 1 << 20]);
    answer.end = [b"\"}\nid:1\n\n", &frame(after, Some(2))[..]].concat();
    let hostile = ScriptedNode::start(vec![Answer::of(STATUS)], vec![answer]).await;
    let usual = {
        let (_good, sidecar, _client) = beside_a_good_node(&[], "").await;
        sidecar.resident_memory_bytes().highest
    };
    let (good, sidecar, _client) = beside_a_good_node(&[hostile.address], "").await;
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    read_all(&mut client, &[before, after]).await;
    good.push("{\"StillThere\":1}");
    read_all(&mut client, &["{\"StillThere\":1}"]).await;
    let excess = sidecar.resident_memory_bytes().highest.saturating_sub(usual);
    println!("an event of {} MiB: {} KiB more memory at most", hostile_mebibytes(), excess >> 10);
    assert!(excess < EXCESS_BYTES_MAX, "{excess} bytes more than usual");
    assert_eq!(sidecar.output().matches("dropped a frame").count(), 1);
}

#[tokio::test]
async fn a_frame_that_never_ends_takes_no_more_memory_than_the_largest_event() {
    let endless = Answer::of(STREAM).repeating(usize::MAX, vec![b'x'; 1 << 16]);
    let lines = Answer::of(STREAM).repeating(usize::MAX, b"data:x\n".repeat(1_000));
    let comments = Answer::of(STREAM).repeating(usize::MAX, b":\n\n".repeat(1_000));
    let mut nodes = Vec::new();
    for answer in [endless, lines, comments] {
        nodes.push(ScriptedNode::start(vec![Answer::of(STATUS)], vec![answer]).await);
    }
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let (good, sidecar, mut client) = beside_a_good_node(&addresses, "").await;
    let early = sidecar.resident_memory_bytes().now;
    let told = payloads(10..400);
    for payload in &told {
        good.push(payload);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    read_all(&mut client, &told.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let excess = sidecar.resident_memory_bytes().highest.saturating_sub(early);
    println!("three endless streams: {} KiB more memory at most", excess >> 10);
    assert!(excess < EXCESS_BYTES_MAX, "{excess} bytes more than at the beginning");
}

#[tokio::test]
async fn ids_that_go_back_overflow_or_are_none_lose_no_event() {
    let (good, _sidecar, mut client) = beside_a_good_node(&[], "").await;
    let ids = ["5", "3", "5", "18446744073709551615", "18446744073709551616", "-1", "1e3", "", "\u{0}", "four", "0"];
    let told = payloads(10..10 + ids.len() as u64);
    for (id, payload) in ids.iter().zip(&told) {
        good.send_raw(format!("data:{payload}\nid:{id}\n\n"));
    }
    good.push("{\"Last\":1}");
    let messages = client.read_until(|message| message.data == "{\"Last\":1}").await;
    let got: Vec<(u64, &str)> = events(&messages).into_iter().collect();
    let expected = told.iter().map(String::as_str).chain(["{\"Last\":1}"]);
    assert!(got.into_iter().eq((1..).zip(expected)), "{messages:?}");
}

#[tokio::test]
async fn a_node_that_changes_its_network_is_left_whether_one_is_configured_or_not() {
    for configured in [true, false] {
        let (good, liar) = (SimulatedNode::start(), SimulatedNode::start());
        liar.push("{\"First\":1}");
        let mut builder = sidecar().node(good.address());
        if configured {
            builder = builder.top_level("network_name = 'casper-test'");
        }
        let mut sidecar = builder.node_with(liar.address(), "delay_between_retries_in_seconds = 0").start().await;
        let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
        read_all(&mut client, &["{\"First\":1}"]).await;
        liar.set_status("2.0.3", "elsewhere");
        liar.push("{\"Second\":1}");
        liar.disconnect_all().await;
        sidecar.wait_for_output("listening to node ends").await;
        liar.push("{\"OfAnotherNetwork\":1}");
        good.push("{\"Last\":1}");
        let messages = client.read_until(|message| message.data == "{\"Last\":1}").await;
        assert!(messages.iter().all(|message| !message.data.contains("OfAnotherNetwork")));
    }
}

#[tokio::test]
async fn whatever_a_node_answers_instead_of_its_status_it_is_asked_again_and_serves_later() {
    let elsewhere =
        ScriptedNode::start_on(Ipv4Addr::new(127, 0, 0, 2), vec![Answer::of(STATUS)], vec![Answer::events(&[])]).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/status\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        elsewhere.address
    );
    let gzip_bomb =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03";
    let deep = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "[".repeat(1 << 20));
    let status = vec![
        Answer::of("HTTP/1.1 200 OK\r\n\r\n{").repeating(usize::MAX, vec![b' '; 1 << 16]),
        Answer::of("HTTP/1.1 200 OK\r\n").repeating(usize::MAX, "x: y\r\n".repeat(1_000)),
        Answer::of("HTTP/1.1 200 OK\r\nx: ").repeating(usize::MAX, vec![b'y'; 1 << 16]),
        Answer::of(gzip_bomb).repeating(1 << 14, vec![0; 1 << 10]),
        Answer::of(deep),
        Answer::of(redirect.as_bytes()),
        Answer::of("not HTTP at all\r\n\r\n"),
        Answer::of(""),
        Answer::of(STATUS),
    ];
    let attacks = status.len() - 1;
    let hostile = ScriptedNode::start(status, vec![Answer::events(&["{\"AtLast\":1}"])]).await;
    let (_good, sidecar, mut client) = beside_a_good_node(&[hostile.address], "").await;
    read_all(&mut client, &["{\"AtLast\":1}"]).await;
    assert_eq!(hostile.requests("/status"), attacks + 1);
    assert_eq!(elsewhere.requests("/status"), 0, "a node does not decide whom Sidecar asks");
    let highest = sidecar.resident_memory_bytes().highest;
    println!("answers that are no status: {} KiB of memory at most", highest >> 10);
    assert!(highest < 2 * EXCESS_BYTES_MAX, "{highest}");
}

#[tokio::test]
async fn whatever_a_node_answers_instead_of_its_stream_it_is_asked_again_and_serves_later() {
    let elsewhere =
        ScriptedNode::start_on(Ipv4Addr::new(127, 0, 0, 2), vec![Answer::of(STATUS)], vec![Answer::events(&[])]).await;
    let redirect = |to: SocketAddr| {
        format!("HTTP/1.1 307 Away\r\nlocation: http://{to}/events\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    };
    let version = "data:{\"ApiVersion\":\"2.0.0\"}\n\n";
    let answers = vec![
        Answer::of("HTTP/1.1 200 OK\r\n").repeating(usize::MAX, "x: y\r\n".repeat(1_000)),
        Answer::of(redirect(elsewhere.address)),
        Answer::of(STREAM).repeating(100, vec![0x1f, 0x8b, 0xff, b'\n', b'\n']),
        Answer::of(format!("{STREAM}data:{{\"ApiVersion\":\"99999999999.0.0\"}}\n\n")),
        Answer::of(format!("{STREAM}{version}")),
        // Silent before its head, in its head, and after its handshake.
        Answer { then_silent: true, ..Answer::of("") },
        Answer { then_silent: true, ..Answer::of("HTTP/1.1 200 OK\r\ncontent-") },
        Answer { then_silent: true, ..Answer::of(format!("{STREAM}{version}")) },
        Answer::events(&["{\"AtLast\":1}"]),
    ];
    let attacks = answers.len() - 1;
    let hostile = ScriptedNode::start(vec![Answer::of(STATUS)], answers).await;
    let silence = "no_message_timeout_in_seconds = 1\nsleep_between_keep_alive_checks_in_seconds = 1";
    let (_good, _sidecar, mut client) = beside_a_good_node(&[hostile.address], silence).await;
    read_all(&mut client, &["{\"AtLast\":1}"]).await;
    assert!(hostile.requests("/events") > attacks);
    assert_eq!(elsewhere.requests("/events"), 0, "a node does not decide whom Sidecar reads");
}

#[tokio::test]
async fn a_flood_of_bad_frames_does_not_fill_the_disk_with_log_lines() {
    let (good, sidecar, mut client) = beside_a_good_node(&[], "").await;
    let flood: Vec<u8> = (0..5_000)
        .flat_map(|number| [malformed::not_json(number), malformed::not_utf8(number), malformed::without_id("[1]")])
        .flatten()
        .collect();
    good.send_raw(flood);
    good.push("{\"Last\":1}");
    read_all(&mut client, &["{\"Last\":1}"]).await;
    let lines = sidecar.output().lines().count();
    assert!((20..100).contains(&lines), "{lines} lines");
    // The stream of another client is as it should be.
    let mut other = Request::get(sidecar.sse_address(), "/events?start_from=0").open().await;
    read_all(&mut other, &["{\"Last\":1}"]).await;
}
