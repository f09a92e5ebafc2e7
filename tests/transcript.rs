//! What a node sends is what clients get: byte for byte, live and replayed, and where the reference was recorded, its bytes
//! too.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use sidecar_test_support::client::{Request, SseClient};
use sidecar_test_support::node::{NodeOptions, SimulatedNode, stream};
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::story::{self, Story, StoryOptions};
use sidecar_test_support::{client::Ending, recordings};

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A payload of every kind, and of every oddity that a node or a later version of it might send.
fn every_payload() -> Vec<String> {
    let samples = recordings::samples().into_iter();
    let events = samples.filter(|(name, _)| !name.starts_with("ApiVersion") && !name.starts_with("SidecarVersion"));
    let mut payloads: Vec<String> = events.map(|(_, payload)| payload).collect();
    let told = Story::new(1, &StoryOptions::small(5));
    let odd = [
        story::unknown_kind(1),
        story::unknown_shape(1),
        story::non_ascii(1),
        story::pretty_printed(&told.events()[0]),
        story::of_size(100_000, 1),
        story::of_size(1_048_577, 2),
        story::of_size(5_000_000, 3),
    ];
    payloads.extend(odd.map(|event| event.payload));
    // An event stream's reader takes one space off; the other belongs to the payload.
    payloads.push(r#"  {"SomethingNew":"begins with a space"}"#.to_owned());
    payloads.extend(["[]", "17", "null", r#""text""#, r#"{"BlockAdded":null}"#].map(str::to_owned));
    payloads.extend(told.events()[1..].iter().map(|event| event.payload.clone()));
    payloads
}

#[tokio::test]
async fn clients_get_a_nodes_bytes_live_replayed_compressed_and_after_a_restart() {
    let node = SimulatedNode::with(NodeOptions { first_id: 700, ..NodeOptions::default() });
    let mut sidecar = sidecar().node(node.address()).start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let payloads = every_payload();
    node.push_all(&payloads);
    let expected = stream("2.0.0", 0, &payloads);
    live.expect_bytes(&expected).await;

    let replays = [
        "/events?start_from=0",
        "/events/?start_from=0",
        "/events/events?start_from=0",
        "/events?start_from=0&encoding=zstd",
    ];
    for target in replays {
        SseClient::connect(sidecar.sse_address(), target).await.expect_bytes(&expected).await;
    }
    node.kill().await;
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    for target in replays {
        SseClient::connect(sidecar.sse_address(), target).await.expect_bytes(&expected).await;
    }
}

#[tokio::test]
async fn each_message_is_a_chunk_of_its_own_unless_blocks_are_asked_for() {
    let node = SimulatedNode::start();
    let told = Story::new(2, &StoryOptions::small(30));
    node.push_all(told.events());
    let expected = stream("2.0.0", 0, told.events());
    let target = format!("/events?start_from=0&until={}", told.events().len() - 1);

    let by_event = sidecar().node(node.address()).start().await;
    let mut client = SseClient::connect(by_event.sse_address(), &target).await;
    let mut messages = 0;
    while let Some(chunk) = client.next_chunk().await {
        assert!(chunk.starts_with(b"data:") && chunk.ends_with(b"\n\n"), "{chunk:?}");
        messages += 1;
    }
    assert_eq!(messages, 1 + told.events().len());

    let in_blocks = sidecar().node(node.address()).event_stream_server("replay_chunks = 'block'").start().await;
    // Once all is stored, so that it is a replay.
    SseClient::connect(in_blocks.sse_address(), &target).await.expect_bytes(&expected).await;
    let mut client = SseClient::connect(in_blocks.sse_address(), &target).await;
    let mut chunks = 0;
    let mut bytes = Vec::new();
    while let Some(chunk) = client.next_chunk().await {
        chunks += 1;
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes == expected, "chunks do not change the bytes");
    assert!(chunks < messages / 4, "{chunks} chunks for {messages} messages");
}

#[tokio::test]
async fn an_answer_has_the_headers_of_the_reference() {
    let node = SimulatedNode::start();
    let sidecar = sidecar().node(node.address()).start().await;
    let client = Request::get(sidecar.sse_address(), "/events").header("origin", "http://example.org").open().await;
    assert_eq!(client.status(), 200);
    assert_eq!(client.header("content-type"), Some("text/event-stream"));
    assert_eq!(client.header("cache-control"), Some("no-cache"));
    assert_eq!(client.header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.header("access-control-allow-origin"), Some("http://example.org"));
    assert!(client.header("date").is_some());
    assert_eq!(client.header("content-encoding"), None);
}

/// One whole run of the reference, sent to Sidecar by the same scripted node. Sidecar differs on purpose in two places,
/// both on `/events/sidecar`: its version is its own, and its own shutdown has no id.
#[tokio::test]
async fn a_recorded_run_of_the_reference_gives_the_same_bytes() {
    let node = SimulatedNode::start();
    let builder = sidecar().node_with(node.address(), "max_attempts = 1\ndelay_between_retries_in_seconds = 0");
    let mut sidecar = builder.legacy_streams().start().await;
    let legacy = ["main", "deploys", "sigs"];
    let mut legacy_clients = Vec::new();
    for name in legacy {
        legacy_clients.push(SseClient::connect(sidecar.sse_address(), &format!("/events/{name}")).await);
    }
    let mut events = SseClient::connect(sidecar.sse_address(), "/events").await;
    let mut shutdowns = SseClient::connect(sidecar.sse_address(), "/events/sidecar").await;
    node.push_all(recordings::transcript_events().iter().map(|(_, payload)| payload));

    let all = recordings::transcript("events.stream");
    events.expect_bytes(&all).await;
    let mut replay = SseClient::connect(sidecar.sse_address(), "/events?start_from=3").await;
    let from_3 = recordings::transcript("events-start_from-3.stream");
    replay.expect_bytes(&from_3).await;
    for (client, name) in legacy_clients.iter_mut().zip(legacy) {
        client.expect_bytes(&recordings::transcript(&format!("events-{name}.stream"))).await;
    }
    let mut legacy_replay = SseClient::connect(sidecar.sse_address(), "/events/main?start_from=0").await;
    legacy_replay.expect_bytes(&recordings::transcript("events-main-start_from-0.stream")).await;

    node.end_streams();
    node.kill().await;
    let of_the_reference = String::from_utf8(recordings::transcript("events-sidecar.stream")).unwrap();
    let own_version = format!(r#"{{"SidecarVersion":"{}"}}"#, env!("CARGO_PKG_VERSION"));
    let expected = of_the_reference.replace(r#"{"SidecarVersion":"1.0.0"}"#, &own_version).replace("id:10\n", "");
    assert_eq!(String::from_utf8(shutdowns.body().await).unwrap(), expected);
    // Nothing came after, and the end of the process cuts the streams.
    assert!(events.body().await.is_empty() && replay.body().await.is_empty());
    assert_eq!(events.ending(), Some(Ending::Cut));
    assert_eq!(sidecar.wait_for_exit().code(), Some(1));
    assert!(sidecar.errors().contains("Connected node(s) are unavailable"), "{}", sidecar.errors());
}
