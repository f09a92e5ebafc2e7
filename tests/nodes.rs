//! Several nodes, nodes that come and go, and nodes that misbehave: one order of events, nothing doubled, nothing missing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::sync::Arc;

use sidecar_log_format::storage::Directory;
use sidecar_log_format::{Log, MarkKind};
use sidecar_test_support::client::{Message, SseClient, events};
use sidecar_test_support::node::{NodeOptions, SimulatedNode, api_version_frame, frame, malformed, stream};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::story::{self, EventKind, Story, StoryOptions};

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// The payloads in `messages`, sorted, after a look at their ids: consecutive from 0.
fn sorted_payloads(messages: &[Message]) -> Vec<&str> {
    let events = events(messages);
    let ids: Vec<u64> = events.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>());
    let mut payloads: Vec<&str> = events.into_iter().map(|(_, payload)| payload).collect();
    payloads.sort_unstable();
    payloads
}

fn sorted<'a>(payloads: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut payloads: Vec<&str> = payloads.into_iter().collect();
    payloads.sort_unstable();
    payloads
}

#[tokio::test]
async fn three_nodes_give_one_story_once_whatever_else_is_configured() {
    let told = Story::new(1, &StoryOptions::small(60));
    let tellers = [told.clone(), told.reordered(2, 40), told.reordered(3, 40)];
    let nodes =
        [0, 5_000, 9_000].map(|first_id| SimulatedNode::with(NodeOptions { first_id, ..NodeOptions::default() }));

    let unreachable = ReservedPort::new();
    let elsewhere =
        SimulatedNode::with(NodeOptions { chainspec_name: "another-net".to_owned(), ..NodeOptions::default() });
    let too_old = SimulatedNode::with(NodeOptions { build_version: "1.5.8".to_owned(), ..NodeOptions::default() });
    elsewhere.push(story::unknown_kind(1));
    too_old.push(story::unknown_kind(2));

    let others = [unreachable.address(), elsewhere.address(), too_old.address()];
    let all = others.into_iter().chain(nodes.iter().map(SimulatedNode::address));
    let builder = sidecar().top_level("network_name = 'casper-test'");
    let mut sidecar = all.fold(builder, SidecarBuilder::node).start().await;
    elsewhere.wait_for_status_requests(1).await;
    too_old.wait_for_status_requests(1).await;

    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    for step in 0..6 {
        for (node, teller) in nodes.iter().zip(&tellers) {
            let part = teller.events().len().div_ceil(6);
            node.push_all(teller.events().iter().skip(step * part).take(part));
        }
    }
    // Each node has sent everything; its last event is unlike the others'.
    for (node, number) in nodes.iter().zip(10..) {
        node.push(story::unknown_kind(number));
    }
    let ends = [10, 11, 12].map(|number| story::unknown_kind(number).payload);
    let expected =
        sorted(told.events().iter().map(|event| event.payload.as_str()).chain(ends.iter().map(String::as_str)));

    let mut ends_seen = 0;
    let lived = live
        .read_until(|message| {
            ends_seen += usize::from(ends.contains(&message.data));
            ends_seen == ends.len()
        })
        .await;
    assert_eq!(sorted_payloads(&lived), expected);
    let target = format!("/events?start_from=0&until={}", expected.len() - 1);
    let replayed = SseClient::connect(sidecar.sse_address(), &target).await.read_to_end().await;
    assert_eq!(events(&replayed), events(&lived));
    assert_eq!((elsewhere.streams_so_far(), too_old.streams_so_far()), (0, 0));
    assert!(sidecar.terminate().success());
}

#[tokio::test]
async fn a_node_that_cuts_its_stream_again_and_again_loses_and_repeats_nothing() {
    let told = Story::new(6, &StoryOptions::small(40));
    let node = SimulatedNode::start();
    let builder = sidecar().node_with(node.address(), "delay_between_retries_in_seconds = 0\nmax_attempts = 1000");
    let sidecar = builder.start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    for (part, cuts) in told.events().chunks(20).zip(1..) {
        node.push_all(part);
        node.wait_for_streams_so_far(cuts).await;
        node.disconnect_all().await;
    }
    live.expect_bytes(&stream("2.0.0", 0, told.events())).await;
}

#[tokio::test]
async fn each_shutdown_of_each_node_is_sent_once_to_every_client() {
    let nodes = [SimulatedNode::start(), SimulatedNode::start()];
    let builder = nodes.iter().fold(sidecar(), |builder, node| {
        builder.node_with(node.address(), "delay_between_retries_in_seconds = 0\nmax_attempts = 1000000")
    });
    let mut sidecar = builder.start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let mut expected = Vec::new();
    for life in 0..3 {
        for (node, number) in nodes.iter().zip([10, 20]) {
            let before = story::unknown_kind(life + number).payload;
            for payload in [before.as_str(), "\"Shutdown\""] {
                node.push(payload);
                live.read_until_id(expected.len() as u64).await;
                expected.push(payload.to_owned());
            }
            // The stream ends and the whole ring is read again before the node is really gone.
            let streams = node.streams_so_far();
            node.end_streams();
            node.wait_for_streams_so_far(streams + 1).await;
            let last = story::unknown_kind(100 + life + number).payload;
            node.push(&last);
            live.read_until_id(expected.len() as u64).await;
            expected.push(last);
            if life < 2 {
                node.restart_hard(0).await;
            }
        }
    }
    for (replay, number) in [("stored", 1_000), ("with a new identity index", 1_001)] {
        expected.push(story::unknown_kind(number).payload);
        nodes[0].push(&expected[expected.len() - 1]);
        let mut all = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
        all.expect_bytes(&stream("2.0.0", 0, &expected)).await;
        let target = format!("/events/sidecar?start_from=0&until={}", expected.len() - 1);
        let shutdowns = SseClient::connect(sidecar.sse_address(), &target).await.read_to_end().await;
        assert_eq!(events(&shutdowns).len(), 6, "{replay}: {shutdowns:?}");
        assert!(sidecar.terminate().success());
        std::fs::remove_dir_all(sidecar.storage_path().join("index")).unwrap();
        sidecar.restart().await;
    }
}

#[tokio::test]
async fn a_back_filling_node_brings_old_blocks_in_its_own_order_and_the_first_copy_stays() {
    let told = Story::new(4, &StoryOptions::small(40));
    let of_heights = |heights: std::ops::Range<u64>| {
        told.events().iter().filter(move |event| event.height.is_some_and(|height| heights.contains(&height)))
    };
    // It was away from height 10 to 29: these come in descending order and without messages, mixed with new ones.
    let (before, after): (Vec<_>, Vec<_>) =
        (of_heights(0..10).cloned().collect(), of_heights(30..40).cloned().collect());
    let back_fill = told.back_fill(10..30);
    let mut first_copies = before;
    let mut back_fill_parts = back_fill.chunks(10);
    for new in after.chunks(7) {
        first_copies.extend(new.iter().cloned());
        first_copies.extend(back_fill_parts.next().into_iter().flatten().cloned());
    }
    first_copies.extend(back_fill_parts.flatten().cloned());

    let away = SimulatedNode::start();
    let always_there = SimulatedNode::start();
    let mut sidecar = sidecar().node(away.address()).node(always_there.address()).start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    away.push_all(&first_copies);
    live.expect_bytes(&stream("2.0.0", 0, &first_copies)).await;

    // The other node sends the same blocks as they were live: nothing of it is new but what the back-fill lacked.
    let full_copies: Vec<_> = of_heights(0..40).cloned().collect();
    always_there.push_all(&full_copies);
    let without_copy = |event: &&story::StoryEvent| first_copies.iter().all(|copy| copy.identity != event.identity);
    let mut news: Vec<_> = full_copies.iter().filter(without_copy).cloned().collect();
    assert!(news.iter().all(|event| event.kind == EventKind::Step) && !news.is_empty(), "a back-fill has no steps");
    news.push(story::unknown_kind(1));
    always_there.push(&news[news.len() - 1]);
    for (id, event) in (first_copies.len() as u64..).zip(&news) {
        live.expect_bytes(&frame(&event.payload, Some(id))).await;
    }

    // Where only the later copy carries messages, it is kept beside the log's events.
    let with_messages = full_copies.iter().filter(|full| {
        first_copies.iter().any(|first| first.identity == full.identity && first.payload != full.payload)
    });
    let expected = sorted(with_messages.map(|event| event.payload.as_str()));
    assert!(!expected.is_empty(), "the story has contract messages");
    assert!(sidecar.terminate().success());
    let amendments = amended_payloads(&sidecar.storage_path().join("logs/casper"));
    assert_eq!(sorted(amendments.iter().map(String::as_str)), expected);
}

/// The payloads of all amendment marks in a log.
fn amended_payloads(log: &Path) -> Vec<String> {
    let log = Log::open(Arc::new(Directory::at(log)), sidecar_log_format::ReadOptions::default()).unwrap();
    let marks = log.marks(0).unwrap();
    marks
        .iter()
        .filter(|mark| mark.kind == MarkKind::AMENDMENT)
        .map(|mark| {
            let body: serde_json::Value = serde_json::from_str(&mark.body).unwrap();
            body["payload"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[tokio::test]
async fn bad_frames_in_the_middle_of_the_ring_cost_nothing_but_themselves() {
    const EVENT_BYTES_MAX: usize = 1_048_576;
    let node = SimulatedNode::start();
    let told = Story::new(5, &StoryOptions::small(10));
    let mut expected = Vec::new();
    let bad_frames = [
        malformed::not_utf8(100),
        malformed::not_json(101),
        malformed::truncated_json(&told.events()[0].payload, 102),
        frame(&story::of_size(EVENT_BYTES_MAX + 1, 1).payload, Some(103)),
    ];
    let kinds_of_bad = bad_frames.len();
    let part = told.events().len().div_ceil(kinds_of_bad + 1);
    let mut bad_frames = bad_frames.into_iter();
    for good in told.events().chunks(part) {
        node.push_all(good);
        expected.extend(good.iter().map(|event| event.payload.clone()));
        if let Some(bad) = bad_frames.next() {
            node.push_raw(bad);
        }
    }
    assert!(bad_frames.next().is_none());
    // Allowed by the standard, though no node does it.
    let unusual = [story::unknown_kind(1).payload, story::unknown_kind(2).payload];
    node.push_raw(malformed::carriage_returns(&unusual[0], node.next_id()));
    node.push_raw(malformed::without_id(&unusual[1]));
    expected.extend(unusual);

    let sidecar = sidecar()
        .node(node.address())
        .sections(&format!("[storage.log]\nevent_bytes_max = {EVENT_BYTES_MAX}"))
        .start()
        .await;
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    client.expect_bytes(&stream("2.0.0", 0, &expected)).await;

    // Live it is the same, on the same connection.
    for bad in [
        malformed::not_utf8(200),
        malformed::not_json(201),
        frame(&story::of_size(2 * EVENT_BYTES_MAX, 2).payload, Some(202)),
    ] {
        node.push_raw(bad);
        let good = story::unknown_kind(expected.len() as u64).payload;
        node.push(&good);
        client.expect_bytes(&frame(&good, Some(expected.len() as u64))).await;
        expected.push(good);
    }
    assert_eq!(node.streams_so_far(), 1, "the connection was kept");
}

#[tokio::test]
async fn a_rising_version_reaches_live_clients_at_once_and_replays_in_its_place() {
    let node = SimulatedNode::start();
    let lagging = SimulatedNode::with(NodeOptions { api_version: "2.0.0".to_owned(), ..NodeOptions::default() });
    let mut sidecar = sidecar().node(node.address()).node(lagging.address()).start().await;
    let payloads: Vec<String> = (0..5).map(|number| story::unknown_kind(number).payload).collect();
    node.push_all(&payloads[..3]);
    let mut live = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    live.expect_bytes(&stream("2.0.0", 0, &payloads[..3])).await;
    lagging.wait_for_connections(1).await;

    // To clients that have caught up at once, without an event; a version that is not higher changes nothing.
    let [first, second] = ["2.1.0", "2.2.0"].map(api_version_frame);
    node.announce_api_version("2.1.0");
    live.expect_bytes(&first).await;
    lagging.announce_api_version("2.0.5");
    node.announce_api_version("2.1.0");
    node.push_all(&payloads[3..]);
    let news = [frame(&payloads[3], Some(3)), frame(&payloads[4], Some(4))].concat();
    live.expect_bytes(&news).await;
    node.announce_api_version("2.2.0");
    live.expect_bytes(&second).await;

    let before = stream("2.0.0", 0, &payloads[..3]);
    let expected = |start: u64| match start {
        0 => [&before[..], &first, &news, &second].concat(),
        2 => [&stream("2.0.0", 2, &payloads[2..3])[..], &first, &news, &second].concat(),
        3 => [&first[..], &news, &second].concat(),
        5 => second.to_vec(),
        ahead => {
            let comment = format!(
                ":the newest event of this log is 4, before the start {ahead}; the stream continues with event 5\n\n"
            );
            [comment.as_bytes(), &second].concat()
        }
    };
    node.kill().await;
    lagging.kill().await;
    for _ in ["running", "restarted with every node down"] {
        for start in [0, 2, 3, 5, 1_000] {
            let mut replay = SseClient::connect(sidecar.sse_address(), &format!("/events?start_from={start}")).await;
            replay.expect_bytes(&expected(start)).await;
        }
        SseClient::connect(sidecar.sse_address(), "/events").await.expect_bytes(&second).await;
        sidecar.kill9();
        sidecar.restart().await;
    }
}

#[tokio::test]
async fn each_event_gets_a_line_if_it_is_to_be_logged_and_info_is_asked_for() {
    let told = Story::new(1, &StoryOptions::small(3));
    let line = |kind: &str| format!("sidecar::events: {kind}");
    for (enabled, filter, shown) in [
        ("true", None, false),
        ("true", Some("info"), true),
        ("true", Some("sidecar::events=info"), true),
        ("false", Some("info"), false),
    ] {
        let node = SimulatedNode::start();
        node.push_all(told.events());
        let last = node.push(r#"{"Fault":{"era_id":1,"public_key":"01ab"}}"#);
        let builder = sidecar().node_with(node.address(), &format!("enable_logging = {enabled}"));
        let mut sidecar =
            filter.into_iter().fold(builder, |builder, filter| builder.environment("RUST_LOG", filter)).start().await;
        SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.read_until_id(last).await;
        assert!(sidecar.terminate().success());
        let output = sidecar.output();
        assert!(output.contains(&line("Fault")), "{output}");
        assert_eq!(output.contains(&line("BlockAdded")), shown, "{enabled} {filter:?}\n{output}");
    }
}

#[tokio::test]
async fn asked_to_keep_trying_it_serves_history_without_its_nodes_and_comes_back_to_each() {
    const RETRIES_CONTINUE: &str = "Max connection attempts reached; retries continue with longer pauses";
    let nodes = [SimulatedNode::start(), SimulatedNode::start()];
    let upgraded = SimulatedNode::with(NodeOptions { build_version: "1.5.8".to_owned(), ..NodeOptions::default() });
    let builder = nodes.iter().chain([&upgraded]).fold(sidecar(), |builder, node| {
        builder.node_with(node.address(), "delay_between_retries_in_seconds = 0\nmax_attempts = 1")
    });
    let builder = builder.replacing("[sse_server]\n", "[sse_server]\nkeep_trying = true\n");
    let mut sidecar = builder.start().await;
    let payloads: Vec<String> = (0..4).map(|number| story::unknown_kind(number).payload).collect();
    nodes[0].push(&payloads[0]);
    let mut live = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    live.expect_bytes(&stream("2.0.0", 0, &payloads[..1])).await;
    nodes[1].wait_for_connections(1).await;
    for node in &nodes {
        node.kill().await;
    }
    // Of all three: the last was never of use.
    sidecar.wait_for_outputs(RETRIES_CONTINUE, 3).await;
    let mut history = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    history.expect_bytes(&stream("2.0.0", 0, &payloads[..1])).await;

    upgraded.set_status("2.0.0", "casper-test");
    for (node, number) in nodes.iter().zip(1..) {
        node.restart_clean().await;
        node.push(&payloads[number]);
        live.expect_bytes(&frame(&payloads[number], Some(number as u64))).await;
    }
    upgraded.push(&payloads[3]);
    live.expect_bytes(&frame(&payloads[3], Some(3))).await;
    assert!(sidecar.terminate().success());
}

#[tokio::test]
async fn asked_to_keep_trying_it_serves_history_even_without_any_node_in_its_file() {
    let node = SimulatedNode::start();
    let payload = story::unknown_kind(1).payload;
    node.push(&payload);
    let folder = tempfile::tempdir().unwrap();
    let mut first = sidecar().storage_folder(folder.path()).node(node.address()).start().await;
    let history = stream("2.0.0", 0, [&payload]);
    SseClient::connect(first.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
    assert!(first.terminate().success());
    let archive = sidecar().storage_folder(folder.path());
    let mut archive = archive.replacing("[sse_server]\n", "[sse_server]\nkeep_trying = true\n").start().await;
    SseClient::connect(archive.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
    archive.wait_for_output("only stored events are served").await;
    assert!(archive.terminate().success());
}
