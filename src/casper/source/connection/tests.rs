use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use sidecar_test_support::http::read_head;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::*;
use crate::engine::source::{BATCH_EVENTS_MAX, LogNetwork};
use crate::sse_client::stream::Timeouts;

const STATUS: &str = r#"{"build_version":"2.0.3-","chainspec_name":"casper-test"}"#;
const VERSION: &str = "data:{\"ApiVersion\":\"2.0.0\"}\n\n";

/// How the node answers one request of `/events`.
enum Answer {
    /// With these bytes, then the end.
    Stream(Vec<u8>),
    /// With these bytes, then silence.
    StreamThenSilence(Vec<u8>),
    /// With the handshake and blocks of ascending height as fast as they are taken. Once one is not taken for a
    /// while it stops, and reports its blocks and that it stopped.
    Flood(Arc<Mutex<u64>>, Arc<Notify>),
    /// With this HTTP head and nothing else.
    Head(&'static str),
}

/// A node that follows a script; with the script at its end it refuses streams with 503.
struct ScriptedNode {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl ScriptedNode {
    async fn start(statuses: &[&'static str], answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let mut statuses: VecDeque<_> = statuses.to_vec().into();
        let mut answers: VecDeque<_> = answers.into();
        let task = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let Some(head) = read_head(&mut socket).await else { continue };
                let request = String::from_utf8(head).unwrap();
                seen.lock().unwrap().push(request.lines().next().unwrap_or_default().to_owned());
                if request.starts_with("GET /status ") {
                    let status = if statuses.len() > 1 { statuses.pop_front() } else { statuses.front().copied() };
                    let status = status.unwrap();
                    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}", status.len());
                    socket.write_all(format!("{head}\r\n\r\n{status}").as_bytes()).await.unwrap();
                } else {
                    let answer = answers.pop_front().unwrap_or(Answer::Head("503 Service Unavailable"));
                    tokio::spawn(answer.give(socket));
                }
            }
        });
        Self { address, requests, task: task.abort_handle() }
    }

    fn options(&self) -> NodeOptions {
        options(&self.address.ip().to_string(), self.address.port())
    }

    fn event_requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().filter(|request| request.contains("/events")).cloned().collect()
    }
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Answer {
    async fn give(self, mut socket: TcpStream) {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n";
        match self {
            Self::Head(head) => {
                socket.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await.unwrap();
            }
            Self::Stream(body) => {
                socket.write_all(head).await.unwrap();
                socket.write_all(&body).await.unwrap();
            }
            Self::StreamThenSilence(body) => {
                socket.write_all(head).await.unwrap();
                socket.write_all(&body).await.unwrap();
                let _closed = socket.read_u8().await;
            }
            Self::Flood(written, stalled) => {
                socket.write_all(head).await.unwrap();
                socket.write_all(VERSION.as_bytes()).await.unwrap();
                loop {
                    let height = *written.lock().unwrap();
                    let frame = block(height);
                    let mut writing = Box::pin(socket.write_all(frame.as_bytes()));
                    let taken = timeout(Duration::from_millis(200), &mut writing).await.is_ok();
                    if !taken {
                        stalled.notify_one();
                        writing.await.unwrap();
                    }
                    *written.lock().unwrap() += 1;
                    if !taken {
                        break;
                    }
                }
            }
        }
    }
}

fn options(host: &str, port: u16) -> NodeOptions {
    NodeOptions {
        host: host.into(),
        sse_port: port,
        rest_port: port,
        max_attempts: 2,
        keep_trying: false,
        delay_between_retries: Duration::ZERO,
        enable_logging: true,
        timeouts: Timeouts::default(),
        network_name: Some("casper-test".into()),
        log_network: LogNetwork::default(),
        event_bytes_max: 10_000,
    }
}

fn frame(id: u64, payload: &str) -> String {
    format!("data:{payload}\nid:{id}\n\n")
}

fn block(height: u64) -> String {
    let content = format!(r#"{{"Version2":{{"header":{{"height":{height}}}}}}}"#);
    frame(height, &format!(r#"{{"BlockAdded":{{"block_hash":"{height:064x}","block":{content}}}}}"#))
}

fn ring(frames: &[String]) -> Vec<u8> {
    [VERSION, &frames.concat()].concat().into_bytes()
}

/// Runs a listener to its end: the end, its batches and its counters.
async fn run_to_end(node: NodeOptions) -> (End, Vec<Batch>, Arc<Counters>) {
    let (out, mut batches) = mpsc::channel(1000);
    let counters = Arc::new(Counters::default());
    let end = run(node, out, Arc::clone(&counters)).await;
    let mut received = Vec::new();
    while let Some(batch) = batches.recv().await {
        received.push(batch);
    }
    (end, received, counters)
}

fn events(batches: Vec<Batch>) -> Vec<Received> {
    let events = batches.into_iter().filter_map(|batch| match batch {
        Batch::Events { events, .. } => Some(events),
        Batch::Version { .. } | Batch::Gap { .. } => None,
    });
    events.flatten().collect()
}

fn ids(events: &[Received]) -> Vec<u64> {
    events.iter().filter_map(|event| event.upstream_id).collect()
}

#[tokio::test]
async fn events_come_after_the_version_in_the_nodes_order_with_what_their_connection_says() {
    let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(ring(&[block(7), block(8)]))]).await;
    let (end, mut batches, counters) = run_to_end(node.options()).await;
    assert_eq!(end, End::AttemptsUsedUp);
    let Batch::Version { connection, version } = batches.remove(0) else { panic!("no version first") };
    assert_eq!(version, ApiVersion { major: 2, minor: 0, patch: 0 });
    assert_eq!((connection.source.as_str(), connection.network.as_str()), (&*node.options().source(), "casper-test"));
    let events = events(batches);
    assert_eq!(ids(&events), [7, 8]);
    let event = events.first().unwrap();
    assert_eq!(frame(7, &event.payload), block(7));
    assert_eq!((event.kind, event.facts.ordinal), (event::BLOCK_ADDED, Some(7)));
    assert!(event.received_at > 1_700_000_000_000_000);
    assert_eq!(counters.received(event::BLOCK_ADDED).snapshot().count, 2);
    assert_eq!(counters.common.received.get(), 2);
    assert_eq!(counters.api_versions.snapshot().count, 1);
}

#[tokio::test]
async fn every_connection_asks_for_the_whole_ring_and_only_failures_in_a_row_count() {
    let answers = (0..5).map(|height| Answer::Stream(ring(&[block(height)]))).collect();
    let node = ScriptedNode::start(&[STATUS], answers).await;
    let (end, batches, counters) = run_to_end(node.options()).await;
    assert_eq!(end, End::AttemptsUsedUp);
    assert_eq!(ids(&events(batches)), [0, 1, 2, 3, 4]);
    assert_eq!(node.event_requests(), vec!["GET /events?start_from=0 HTTP/1.1"; 7]);
    assert_eq!(counters.common.status.number(), SourceStatus::AttemptsUsedUp as i8);
    assert_eq!(counters.common.reconnects.get(), 6);
}

#[tokio::test]
async fn a_connection_without_an_event_is_a_failure() {
    let answers = (0..5).map(|_| Answer::Stream(VERSION.into())).collect();
    let node = ScriptedNode::start(&[STATUS], answers).await;
    let (end, _, _) = run_to_end(node.options()).await;
    assert_eq!(end, End::AttemptsUsedUp);
    assert_eq!(node.event_requests().len(), 2);
}

#[tokio::test]
async fn an_upgrade_of_the_node_restarts_the_count() {
    let upgraded = r#"{"build_version":"2.1.0","chainspec_name":"casper-test"}"#;
    let node = ScriptedNode::start(&[STATUS, upgraded], vec![]).await;
    let (end, _, _) = run_to_end(node.options()).await;
    assert_eq!(end, End::AttemptsUsedUp);
    assert_eq!(node.event_requests().len(), 3);
}

#[tokio::test]
async fn a_failed_handshake_is_a_failed_attempt_and_is_counted_as_what_it_is() {
    let cases = [
        (block(1), None),
        (String::new(), None),
        ("data:{\"ApiVersion\":\"two\"}\n\n".into(), Some(CountedError::ApiVersionDeserialization)),
        ("data:ApiVersion\n\n".into(), Some(CountedError::ApiVersionDeserialization)),
        (
            "data:{\"Step\":{\"era_id\":1,\"execution_effects\":\"ApiVersion\"}}\n\n".into(),
            Some(CountedError::ApiVersionExpected),
        ),
    ];
    for (first, counted) in cases {
        let body = [&first, VERSION, &block(2)].concat();
        let answer = if first.is_empty() { Answer::Stream(vec![]) } else { Answer::Stream(body.into()) };
        let node = ScriptedNode::start(&[STATUS], vec![answer]).await;
        let (end, batches, counters) = run_to_end(node.options()).await;
        assert_eq!(end, End::AttemptsUsedUp);
        assert!(batches.is_empty(), "{first}");
        for error in [CountedError::ApiVersionDeserialization, CountedError::ApiVersionExpected] {
            assert_eq!(counters.errors(error), u64::from(counted == Some(error)), "{first}: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_no_event_stream_is_a_failed_attempt() {
    let heads = ["404 Not Found", "200 OK\r\ncontent-type: text/html", "204 No Content", "200 OK"];
    for head in heads {
        let answers = vec![Answer::Head(head), Answer::Stream(ring(&[block(1)]))];
        let node = ScriptedNode::start(&[STATUS], answers).await;
        let (_, batches, counters) = run_to_end(node.options()).await;
        assert_eq!(ids(&events(batches)), [1], "{head}");
        assert_eq!(counters.errors(CountedError::StreamFailed), 3, "{head}");
    }
}

#[tokio::test]
async fn a_node_that_is_too_old_or_on_another_network_ends_the_listener_at_once() {
    let old = r#"{"build_version":"1.5.8","chainspec_name":"casper-test"}"#;
    let elsewhere = r#"{"build_version":"2.0.0","chainspec_name":"casper"}"#;
    for (status, end, number) in [(old, End::Incompatible, -2), (elsewhere, End::WrongNetwork, -2)] {
        let node = ScriptedNode::start(&[status], vec![]).await;
        let (ended, batches, counters) = run_to_end(node.options()).await;
        assert_eq!(ended, end);
        assert_eq!(counters.common.status.number(), number);
        assert!(batches.is_empty() && node.event_requests().is_empty());
    }
}

#[tokio::test]
async fn the_first_event_decides_for_a_network_and_a_node_without_events_does_not() {
    let elsewhere = r#"{"build_version":"2.0.0","chainspec_name":"casper"}"#;
    let log_network = LogNetwork::default();
    let options = |node: &ScriptedNode| NodeOptions {
        network_name: None,
        log_network: log_network.clone(),
        max_attempts: 1,
        ..node.options()
    };
    let silent = ScriptedNode::start(&[elsewhere], vec![Answer::Stream(ring(&[]))]).await;
    assert_eq!(run_to_end(options(&silent)).await.0, End::AttemptsUsedUp);
    assert_eq!(log_network.name(), None);
    let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(ring(&[block(1)]))]).await;
    assert_eq!(ids(&events(run_to_end(options(&node)).await.1)), [1]);
    assert_eq!(log_network.name(), Some("casper-test"));
    let other = ScriptedNode::start(&[elsewhere], vec![Answer::Stream(ring(&[block(2)]))]).await;
    let (end, batches, _) = run_to_end(options(&other)).await;
    assert_eq!((end, batches.len()), (End::WrongNetwork, 0));
}

#[tokio::test]
async fn a_useless_status_is_a_failed_attempt_and_is_counted() {
    let cases = [
        ("<html>", None),
        ("{}", Some(CountedError::BuildVersionMissing)),
        (r#"{"build_version":"2.0.0"}"#, Some(CountedError::ChainNameMissing)),
        (r#"{"build_version":"2.0","chainspec_name":"casper-test"}"#, Some(CountedError::BuildVersionForm)),
    ];
    for (status, counted) in cases {
        let node = ScriptedNode::start(&[status], vec![]).await;
        let (end, _, counters) = run_to_end(node.options()).await;
        assert_eq!(end, End::AttemptsUsedUp);
        for error in CountedError::ALL {
            assert_eq!(counters.errors(error), if counted == Some(error) { 2 } else { 0 }, "{status}: {error:?}");
        }
    }
}

#[tokio::test]
async fn bad_frames_are_counted_and_everything_after_them_arrives() {
    let mut body = ring(&[block(1)]);
    body.extend_from_slice(b"data:\"\xFF\"\nid:2\n\n");
    body.extend_from_slice(frame(3, r#"{"Step":"#).as_bytes());
    body.extend_from_slice(frame(4, &format!("\"{}\"", "x".repeat(20_000))).as_bytes());
    body.extend_from_slice(frame(5, r#"{"SidecarVersion":"1.0.0"}"#).as_bytes());
    body.extend_from_slice(frame(6, r#"{"BlockFinalized":{}}"#).as_bytes());
    body.extend_from_slice(block(7).as_bytes());
    let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(body)]).await;
    let (_, batches, counters) = run_to_end(node.options()).await;
    assert_eq!(ids(&events(batches)), [1, 6, 7]);
    let counts = [&counters.common.malformed, &counters.common.oversized, &counters.common.unclassified];
    assert_eq!(counts.map(|count| count.get()), [2, 1, 1]);
    assert_eq!(counters.sidecar_versions.snapshot().count, 1);
    assert_eq!(counters.errors(CountedError::Deserialization), 2);
}

#[tokio::test]
async fn an_event_without_an_id_is_delivered_and_counted() {
    let body = [VERSION, "data:{\"Step\":{\"era_id\":1}}\n\n"].concat();
    let node = ScriptedNode::start(&[STATUS], vec![Answer::Stream(body.into())]).await;
    let (_, batches, counters) = run_to_end(node.options()).await;
    assert_eq!(events(batches).first().unwrap().upstream_id, None);
    assert_eq!(counters.errors(CountedError::EventWithoutId), 1);
}

#[tokio::test]
async fn a_version_announced_later_stays_between_the_events_it_came_between() {
    let version = "data:{\"ApiVersion\":\"2.1.0\"}\n\n".to_owned();
    let answer = Answer::Stream(ring(&[block(1), version, block(2)]));
    let node = ScriptedNode::start(&[STATUS], vec![answer]).await;
    let (_, batches, _) = run_to_end(node.options()).await;
    let told: Vec<_> = batches
        .iter()
        .map(|batch| match batch {
            Batch::Version { version, connection } => format!("{version} on {}", connection.api_version),
            Batch::Events { events, .. } => format!("{:?}", ids(events)),
            Batch::Gap { .. } => panic!("a node shows no gaps"),
        })
        .collect();
    assert_eq!(told, ["2.0.0 on 2.0.0", "[1]", "2.1.0 on 2.0.0", "[2]"]);
}

#[tokio::test]
async fn a_shutdown_is_the_same_when_read_again_and_another_after_another_event_or_from_another_node() {
    let shutdown = || frame(9, "\"Shutdown\"");
    let answers = || {
        vec![
            Answer::Stream(ring(&[block(7), shutdown()])),
            Answer::Stream(ring(&[block(6), block(7), shutdown()])),
            Answer::Stream(ring(&[block(8), shutdown()])),
            Answer::Stream(ring(&[block(7), frame(10, "\"Shutdown\"")])),
        ]
    };
    let mut shutdowns = Vec::new();
    for _ in 0..2 {
        let node = ScriptedNode::start(&[STATUS], answers()).await;
        let (_, batches, _) = run_to_end(node.options()).await;
        let found = events(batches).into_iter().filter(|event| event.kind == event::SHUTDOWN);
        shutdowns.push(found.map(|event| event.facts.identity).collect::<Vec<_>>());
    }
    let [first_node, second_node] = &shutdowns[..] else { panic!("two nodes") };
    let [first, read_again, after_another, other_id] = first_node[..] else { panic!("four shutdowns") };
    assert_eq!(first, read_again);
    assert!(first != after_another && first != other_id && after_another != other_id);
    assert_ne!(first, second_node[0]);
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_tried_again() {
    let answers = vec![Answer::StreamThenSilence(ring(&[block(1)])), Answer::Stream(ring(&[block(2)]))];
    let node = ScriptedNode::start(&[STATUS], answers).await;
    let (silence, silence_check) = (Duration::from_millis(500), Duration::from_millis(10));
    let options =
        NodeOptions { timeouts: Timeouts { silence, silence_check, ..Timeouts::default() }, ..node.options() };
    let (_, batches, _) = run_to_end(options).await;
    assert_eq!(ids(&events(batches)), [1, 2]);
}

#[tokio::test]
async fn an_event_is_sent_on_before_anything_more_is_waited_for() {
    let node = ScriptedNode::start(&[STATUS], vec![Answer::StreamThenSilence(ring(&[block(1)]))]).await;
    let (out, mut batches) = mpsc::channel(1);
    let listener = tokio::spawn(run(node.options(), out, Arc::default()));
    assert!(matches!(batches.recv().await, Some(Batch::Version { .. })));
    assert!(matches!(batches.recv().await, Some(Batch::Events { .. })));
    drop(batches);
    assert_eq!(listener.await.unwrap(), End::ReceiverGone);
}

#[tokio::test]
async fn a_full_channel_stops_the_reading_and_loses_nothing() {
    let (written, stalled) = (Arc::new(Mutex::new(0)), Arc::new(Notify::new()));
    let flood = Answer::Flood(Arc::clone(&written), Arc::clone(&stalled));
    let node = ScriptedNode::start(&[STATUS], vec![flood]).await;
    let (out, mut batches) = mpsc::channel(1);
    let listener = tokio::spawn(run(node.options(), out, Arc::default()));
    stalled.notified().await;
    let mut received = Vec::new();
    while let Some(batch) = batches.recv().await {
        if let Batch::Events { events, .. } = &batch {
            assert!(!events.is_empty() && events.len() <= BATCH_EVENTS_MAX);
        }
        received.push(batch);
    }
    assert_eq!(listener.await.unwrap(), End::AttemptsUsedUp);
    let count = *written.lock().unwrap();
    assert_eq!(ids(&events(received)), (0..count).collect::<Vec<_>>());
    // The flood, and two refusals.
    assert_eq!(node.event_requests().len(), 3);
}

#[test]
fn a_host_name_or_an_address_of_either_family_makes_a_url() {
    let source = |host| options(host, 9999).source();
    assert_eq!(source("node.example.com"), "node.example.com:9999");
    assert_eq!(source("10.0.0.1"), "10.0.0.1:9999");
    assert_eq!(source("::1"), "[::1]:9999");
}
