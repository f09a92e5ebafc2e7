//! `/events` as NDJSON is the event stream in other words: the same ids and data, replayed, live, resumed, filtered,
//! compressed, and after a restart; and it costs its clients' number of sockets, not of renderings.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;

use serde_json::Value;
use sidecar_test_support::client::{Ending, Request, SseClient, crowd, events, metric};
use sidecar_test_support::fast::EndlessStory;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::story::{self, EventKind, Story, StoryOptions};

const NDJSON: &str = "application/x-ndjson";
const VERSION: &str = "{\"data\":{\"ApiVersion\":\"2.0.0\"}}\n";
/// How many blocks were put into a form that a client wants.
const RENDERED: &str = r#"sidecar_stream_blocks_rendered_total{log="casper"}"#;

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

fn request(address: SocketAddr, target: &str) -> Request {
    Request::get(address, target).header("accept", NDJSON)
}

/// The lines of these payloads, which are JSON, from an id on. Of each line of a payload the reader of a node's event stream
/// takes a leading space; a line break is only white space in JSON, and becomes a space.
fn lines(first_id: usize, payloads: &[String]) -> String {
    let line = |(id, payload): (usize, &String)| {
        let read: Vec<&str> = payload.split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        format!("{{\"id\":{id},\"data\":{}}}\n", read.join(" "))
    };
    (first_id..).zip(payloads).map(line).collect()
}

/// Every kind, in one line and in several, and of more than a block holds.
fn payloads() -> Vec<String> {
    let told = Story::new(1, &StoryOptions::small(20));
    let mut payloads: Vec<String> = told.events().iter().map(|event| event.payload.clone()).collect();
    let odd = [
        story::pretty_printed(
            &Story::new(2, &StoryOptions { first_height: 900, ..StoryOptions::small(1) }).events()[0],
        ),
        story::non_ascii(1),
        story::unknown_kind(1),
        story::of_size(100_000, 1),
        story::of_size(1_500_000, 2),
        story::of_size(3_000_000, 3),
    ];
    payloads.extend(odd.map(|event| event.payload));
    payloads.extend(["[]", "17", r#""text""#, r#"  {"SomethingNew":"begins with a space"}"#].map(str::to_owned));
    payloads
}

#[tokio::test]
async fn the_same_events_come_as_lines_live_replayed_resumed_compressed_and_after_a_restart() {
    let node = SimulatedNode::start();
    let mut sidecar = sidecar().node(node.address()).start().await;
    let mut live = request(sidecar.sse_address(), "/events").open().await;
    assert_eq!(live.header("content-type"), Some(NDJSON));
    let mut payloads = payloads();
    node.push_all(&payloads);
    let whole = format!("{VERSION}{}", lines(0, &payloads));
    live.expect_bytes(whole.as_bytes()).await;

    let last = payloads.len() - 1;
    for restart in [false, true] {
        if restart {
            node.kill().await;
            assert!(sidecar.terminate().success());
            sidecar.restart().await;
        }
        let address = sidecar.sse_address();
        for target in ["/events?start_from=0", "/events?start_from=0&encoding=zstd"] {
            request(address, target).open().await.expect_bytes(whole.as_bytes()).await;
        }
        // In the middle, by the header and by the query, up to an end.
        for (target, header) in [("/events?until=30", Some(9)), ("/events?start_from=10&until=30", None)] {
            let request = header.into_iter().fold(request(address, target), Request::last_event_id);
            let mut part = request.open().await;
            let expected = format!("{VERSION}{}", lines(10, &payloads[10..=30]));
            assert_eq!(String::from_utf8(part.body().await).unwrap(), expected);
            assert_eq!(part.ending(), Some(Ending::Finished));
        }
        assert_eq!(request(address, "/events?until=30").last_event_id(30).open().await.status(), 204);
        // From the middle of what was sent to what is new.
        let mut resumed = request(address, "/events").last_event_id(last as u64 - 2).open().await;
        let rest = format!("{VERSION}{}", lines(last - 1, &payloads[last - 1..]));
        resumed.expect_bytes(rest.as_bytes()).await;
        if restart {
            node.restart_clean().await;
            payloads.push(story::unknown_kind(2).payload);
            node.push(&payloads[last + 1]);
            resumed.expect_bytes(lines(last + 1, &payloads[last + 1..]).as_bytes()).await;
        }
    }
}

#[tokio::test]
async fn a_filter_passes_the_same_events_as_on_the_event_stream_and_marks_its_end() {
    let told = Story::new(3, &StoryOptions::small(20));
    let node = SimulatedNode::start();
    let last = node.push_all(told.events()).end - 1;
    let sidecar = sidecar().node(node.address()).start().await;
    let kinds = ["BlockAdded", "Step", "Fault,FinalitySignature"];
    for kinds in kinds {
        let target = format!("/events?start_from=0&until={last}&types={kinds}");
        let messages = SseClient::connect(sidecar.sse_address(), &target).await.read_to_end().await;
        let body = request(sidecar.sse_address(), &target).answer().await.body;
        let parsed: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_events = parsed.iter().filter(|line| line.get("data").is_some());
        let got: Vec<(u64, String)> =
            of_events.filter_map(|line| Some((line["id"].as_u64()?, line["data"].to_string()))).collect();
        let compact = |data: &str| serde_json::from_str::<Value>(data).unwrap().to_string();
        let expected: Vec<(u64, String)> = events(&messages).iter().map(|(id, data)| (*id, compact(data))).collect();
        assert_eq!(got, expected, "{kinds}");
        assert_eq!(parsed.last().unwrap()["id"], last, "the position is known although the last event did not pass");
    }
    let wanted = |event: &&story::StoryEvent| event.kind == EventKind::BlockAdded;
    assert!(told.events().iter().filter(wanted).count() > 10);
}

#[tokio::test]
async fn clients_that_do_not_ask_for_lines_get_an_event_stream_and_caches_distinguish_the_two() {
    let node = SimulatedNode::start();
    let sidecar = sidecar().node(node.address()).start().await;
    let cases = [
        (NDJSON, NDJSON),
        ("application/x-ndjson, */*", NDJSON),
        ("text/event-stream;q=0.5, Application/X-NDJSON;q=0.9", NDJSON),
        ("application/x-ndjson;q=0.1, text/event-stream", "text/event-stream"),
        ("application/x-ndjson, text/event-stream", "text/event-stream"),
        ("application/x-ndjson;q=0", "text/event-stream"),
        ("application/x-ndjson;q=0.5, */*", "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("application/json", "text/event-stream"),
        ("text/html, application/*;q=0.9", "text/event-stream"),
    ];
    for (accept, media_type) in cases {
        for method in ["GET", "HEAD"] {
            let request = Request::new(method, sidecar.sse_address(), "/events").header("accept", accept);
            let response = request.open().await;
            assert_eq!(response.header("content-type"), Some(media_type), "{method} {accept}");
            assert_eq!(response.header("vary"), Some("accept, accept-encoding"));
            assert_eq!(response.header("cache-control"), Some("no-cache"));
            assert!(response.header("sidecar-log").is_some());
        }
    }
    // The sidecar's own endpoint has one form.
    let own = request(sidecar.sse_address(), "/events/sidecar").open().await;
    assert_eq!((own.header("content-type"), own.header("vary")), (Some("text/event-stream"), None));
    // A refusal is the same in any form.
    assert_eq!(request(sidecar.sse_address(), "/events?start_from=x").open().await.status(), 422);
}

#[tokio::test]
async fn a_thousand_clients_share_what_is_rendered_and_memory_stays_bounded() {
    const CLIENTS: usize = 1_000;
    const EVENTS: u64 = 2_000;
    let story = EndlessStory::render(1, 10);
    let node = SimulatedNode::start();
    let payloads: Vec<String> = (0..EVENTS).map(|number| story.payload(number)).collect();
    node.push_all(&payloads);
    let sidecar = sidecar().node(node.address()).max_concurrent_subscribers(1_100).admin_api().start().await;
    let expected = format!("{VERSION}{}", lines(0, &payloads));
    let target = format!("/events?start_from=0&until={}", EVENTS - 1);
    request(sidecar.sse_address(), &target).open().await.expect_bytes(expected.as_bytes()).await;
    let rendered = metric(sidecar.admin_address(), RENDERED).await;
    assert!(rendered > 0.0);
    let memory_before = sidecar.resident_memory_bytes().now;

    let stalled = crowd(request(sidecar.sse_address(), &target), CLIENTS, expected.into_bytes()).await;
    let address = sidecar.admin_address();
    assert_eq!(metric(address, RENDERED).await, rendered, "nothing is rendered again");
    let grown = sidecar.resident_memory_bytes().now.saturating_sub(memory_before);
    assert!(grown < 96 << 20, "{} MiB more for {} stalled clients", grown >> 20, stalled.len());
}
