//! The streams of 1.x nodes through the built binary: what their clients get live, replayed, resumed, compressed and after a
//! restart, what it costs, and what clients that exist send.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;

use sidecar_test_support::client::{Ending, Request, SseClient, crowd, get, metric};
use sidecar_test_support::fast::EndlessStory;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::{recordings, story};
use tokio::task::JoinSet;

const STREAMS: [&str; 3] = ["main", "deploys", "sigs"];
/// How many blocks were put into a form that a client wants.
const RENDERED: &str = r#"sidecar_stream_blocks_rendered_total{log="casper"}"#;

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).legacy_streams()
}

/// What a stream of the recorded network begins with, and its events with their ids.
fn recorded(name: &str) -> (String, Vec<(u64, String)>) {
    let stream = String::from_utf8(recordings::legacy_network(name)).unwrap();
    let version = "data:{\"ApiVersion\":\"2.0.0\"}\n\n";
    let beginning = stream.find(version).unwrap() + version.len();
    let (beginning, events) = stream.split_at(beginning);
    let with_id = |message: &str| {
        let id = message.rsplit_once("\nid:").unwrap().1.trim_end().parse().unwrap();
        (id, message.to_owned())
    };
    (beginning.to_owned(), events.split_inclusive("\n\n").map(with_id).collect())
}

fn from(name: &str, first: u64, last: u64) -> String {
    let (beginning, events) = recorded(name);
    let wanted = events.into_iter().filter(|(id, _)| (first..=last).contains(id));
    beginning + &wanted.map(|(_, message)| message).collect::<String>()
}

#[tokio::test]
async fn a_recorded_network_gives_the_committed_streams_live_replayed_resumed_and_after_a_restart() {
    let node = SimulatedNode::start();
    let mut sidecar = sidecar().node(node.address()).start().await;
    node.wait_for_connections(1).await;
    let mut live = Vec::new();
    for name in STREAMS {
        live.push(SseClient::connect(sidecar.sse_address(), &format!("/events/{name}")).await);
    }
    let network = recordings::recorded_network();
    let last = network.last().unwrap().0;
    node.push_all(network.iter().map(|(_, payload)| payload));
    for (client, name) in live.iter_mut().zip(STREAMS) {
        client.expect_bytes(&recordings::legacy_network(name)).await;
    }
    for restart in [false, true] {
        if restart {
            node.kill().await;
            assert!(sidecar.terminate().success());
            sidecar.restart().await;
        }
        let address = sidecar.sse_address();
        for name in STREAMS {
            let path = format!("/events/{name}");
            for query in ["start_from=0", "start_from=0&encoding=zstd", "start_from=0&log="] {
                let query = match query.strip_suffix("log=") {
                    Some(query) => {
                        let log = get_head(address, &path, "sidecar-log").await.replace(';', "%3B");
                        format!("{query}log={log}")
                    }
                    None => query.to_owned(),
                };
                let mut replay = SseClient::connect(address, &format!("{path}?{query}")).await;
                replay.expect_bytes(&recordings::legacy_network(name)).await;
            }
            // In the middle, up to the end of the log, which is in every stream, and up to one that is not in this one.
            let resumed = Request::get(address, &format!("{path}?until={last}")).last_event_id(1_500);
            let queried = Request::get(address, &format!("{path}?lastEventId=1500&until={last}"));
            for request in [resumed, queried] {
                let mut rest = request.open().await;
                assert_eq!(String::from_utf8(rest.body().await).unwrap(), from(name, 1_501, last));
                assert_eq!(rest.ending(), Some(Ending::Finished));
            }
            let (_, events) = recorded(name);
            let not_in_it = (1_000..).find(|id| events.iter().all(|(known, _)| known != id)).unwrap();
            let mut part = SseClient::connect(address, &format!("{path}?start_from=10&until={not_in_it}")).await;
            let expected = from(name, 10, not_in_it) + &format!("id:{not_in_it}\n\n");
            assert_eq!(String::from_utf8(part.body().await).unwrap(), expected);
            assert_eq!(
                Request::get(address, &format!("{path}?until={last}")).last_event_id(last).open().await.status(),
                204
            );
        }
    }
}

async fn get_head(address: SocketAddr, target: &str, header: &str) -> String {
    Request::new("HEAD", address, target).open().await.header(header).unwrap().to_owned()
}

#[tokio::test]
async fn what_cannot_be_translated_is_left_out_counted_and_stops_nothing() {
    let node = SimulatedNode::start();
    let sidecar = sidecar().node(node.address()).admin_api().start().await;
    let signature = |number: u64| {
        format!(
            "{{\"FinalitySignature\":{{\"V2\":{{\"block_hash\":\"a{number}\",\"block_height\":{number},\"era_id\":1,\
             \"chain_name_hash\":\"c\",\"signature\":\"s\",\"public_key\":\"p\"}}}}}}"
        )
    };
    let old = |number: u64| {
        format!(
            "data:{{\"FinalitySignature\":{{\"block_hash\":\"a{number}\",\"era_id\":1,\"signature\":\"s\",\
             \"public_key\":\"p\"}}}}\nid:{number}\n\n"
        )
    };
    node.push(signature(0));
    node.push(r#"{"FinalitySignature":{"V3":{"block_hash":"a"}}}"#);
    node.push(r#"{"FinalitySignature":[null,17]}"#);
    node.push(story::unknown_kind(1).payload);
    node.push(signature(4));
    let expected = format!("data:{{\"ApiVersion\":\"2.0.0\"}}\n\n{}{}", old(0), old(4));
    let mut client = SseClient::connect(sidecar.sse_address(), "/events/sigs?start_from=0").await;
    let greeting = client.body_until(|body| body.ends_with(b"id:4\n\n")).await;
    assert!(String::from_utf8(greeting).unwrap().ends_with(&expected));
    let not_rendered =
        metric(sidecar.admin_address(), r#"sidecar_stream_events_not_rendered_total{log="casper"}"#).await;
    assert!(not_rendered >= 2.0, "{not_rendered}");
}

/// An accepted deploy of about so many bytes, and its 1.x form.
fn deploy(bytes: usize, number: u64) -> (String, String) {
    let filler = "0123456789abcdef".repeat(bytes / 16);
    let deploy = format!(
        "{{\"hash\":\"{number:064x}\",\"header\":{{\"timestamp\":\"2024-01-01T00:00:00.000Z\"}},\"x\":\"{filler}\"}}"
    );
    (format!("{{\"TransactionAccepted\":{{\"Deploy\":{deploy}}}}}"), format!("{{\"DeployAccepted\":{deploy}}}"))
}

#[tokio::test]
async fn large_events_are_translated_within_a_bound_of_memory_however_many_clients_stall() {
    let node = SimulatedNode::start();
    let sidecar = sidecar().node(node.address()).start().await;
    let mut expected = String::from_utf8(recordings::legacy_network("deploys")).unwrap();
    expected.truncate(recorded("deploys").0.len());
    for (id, bytes) in [300_000, 2_000_000, 9_000_000, 4_000_000].into_iter().enumerate() {
        let (payload, translated) = deploy(bytes, id as u64);
        node.push(payload);
        expected += &format!("data:{translated}\nid:{id}\n\n");
    }
    let target = "/events/deploys?start_from=0&until=3";
    // Once all is stored, so that what is compared is the same for all.
    SseClient::connect(sidecar.sse_address(), "/events/deploys?start_from=0")
        .await
        .expect_bytes(expected.as_bytes())
        .await;
    let before = sidecar.resident_memory_bytes().now;
    let mut stalled = Vec::new();
    for _ in 0..60 {
        stalled.push(Request::get(sidecar.sse_address(), target).slow(4_096).open().await);
    }
    let mut reading = JoinSet::new();
    for _ in 0..4 {
        let (expected, address) = (expected.clone(), sidecar.sse_address());
        reading.spawn(async move { SseClient::connect(address, target).await.expect_bytes(expected.as_bytes()).await });
    }
    reading.join_all().await;
    let grown = sidecar.resident_memory_bytes().now.saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB more for {} stalled clients", grown >> 20, stalled.len());
}

#[tokio::test]
async fn a_thousand_1x_clients_share_what_is_translated() {
    const CLIENTS: usize = 1_000;
    const EVENTS: u64 = 2_000;
    let story = EndlessStory::render(1, 10);
    let node = SimulatedNode::start();
    let payloads: Vec<String> = (0..EVENTS).map(|number| story.payload(number)).collect();
    node.push_all(&payloads);
    let sidecar = sidecar().node(node.address()).max_concurrent_subscribers(1_100).admin_api().start().await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.read_until_id(EVENTS - 1).await;
    let target = format!("/events/sigs?start_from=0&until={}", EVENTS - 1);
    let expected = SseClient::connect(sidecar.sse_address(), &target).await.body().await;
    let rendered = metric(sidecar.admin_address(), RENDERED).await;
    assert!(rendered > 0.0 && expected.len() > 100_000);

    let _stalled = crowd(Request::get(sidecar.sse_address(), &target), CLIENTS, expected).await;
    let address = sidecar.admin_address();
    assert_eq!(metric(address, RENDERED).await, rendered, "nothing is translated again");
    let _live = SseClient::connect(sidecar.sse_address(), "/events/sigs").await;
    let text = get(address, "/metrics").await.body;
    let open = text.lines().find(|line| line.starts_with("sidecar_stream_subscribers") && line.contains("legacy"));
    assert!(open.is_some_and(|line| !line.ends_with(" 0")), "{open:?}");
}

#[tokio::test]
async fn clients_that_exist_are_understood_on_every_stream() {
    let node = SimulatedNode::start();
    let sidecar = sidecar().node(node.address()).start().await;
    let network: Vec<String> =
        recordings::recorded_network().into_iter().take(50).map(|(_, payload)| payload).collect();
    node.push_all(&network);
    let address = sidecar.sse_address();
    SseClient::connect(address, "/events?start_from=0").await.read_until_id(49).await;
    for (path, accept) in [
        ("/events", "text/event-stream"),
        ("/events", "application/x-ndjson"),
        ("/events/main", "*/*"),
        ("/events/deploys", "*/*"),
        ("/events/sigs", "*/*"),
    ] {
        let request = |method: &str, query: &str| {
            Request::new(method, address, &format!("{path}{query}")).header("accept", accept)
        };
        // A polyfill sends its last id in the query, even an empty one.
        let by_query = request("GET", "?lastEventId=20&until=49").open().await.body().await;
        let by_header = request("GET", "?until=49").last_event_id(20).open().await.body().await;
        assert_eq!(by_query, by_header, "{path}");
        let empty = request("GET", "?lastEventId=").open().await;
        assert_eq!((empty.status(), empty.header("x-accel-buffering")), (200, Some("no")), "{path}");
        // An id that the log has not reached.
        let mut ahead = request("GET", "?lastEventId=7000").open().await;
        let text = ahead.body_until(|body| body.windows(10).any(|bytes| bytes == b"ApiVersion")).await;
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("the newest event of this log is 49, before the start 7001"), "{path}: {text}");
        // A list in one parameter or in two.
        let twice = request("GET", "?start_from=0&until=49&types=BlockAdded&types=Step").open().await.body().await;
        let once = request("GET", "?start_from=0&until=49&types=BlockAdded,Step").open().await.body().await;
        assert!(twice == once, "{path}");
        let head = request("HEAD", "").open().await;
        let got = request("GET", "").open().await;
        assert_eq!((head.status(), head.header("content-type")), (200, got.header("content-type")), "{path}");
        let preflight = request("OPTIONS", "")
            .header("origin", "http://example.org")
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "last-event-id, authorization")
            .open()
            .await;
        assert_eq!(preflight.status(), 204, "{path}");
        assert_eq!(preflight.header("access-control-allow-headers"), Some("last-event-id, authorization"), "{path}");
    }
}
