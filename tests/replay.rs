//! Everything that was ever stored can be had again: from any sequence, over restarts, with every node down, and with
//! nothing doubled or missing where the past meets what is new.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::time::Duration;

use sidecar_test_support::client::{Ending, Request, SseClient, events};
use sidecar_test_support::node::{SimulatedNode, frame, stream};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story::{self, EventKind, Story, StoryOptions};
use sidecar_test_support::wait::until;

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A story, a node that has sent it, and a sidecar that has stored it all.
async fn told_and_stored(blocks: u64) -> (Vec<String>, SimulatedNode, Sidecar) {
    let told = Story::new(blocks, &StoryOptions::small(blocks));
    let payloads: Vec<String> = told.events().iter().map(|event| event.payload.clone()).collect();
    let node = SimulatedNode::start();
    node.push_all(&payloads);
    let sidecar = sidecar().node(node.address()).start().await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0")
        .await
        .expect_bytes(&stream("2.0.0", 0, &payloads))
        .await;
    (payloads, node, sidecar)
}

#[tokio::test]
async fn a_start_at_zero_in_the_middle_at_the_end_and_beyond_hands_over_to_live() {
    let (mut payloads, node, sidecar) = told_and_stored(20).await;
    let end = payloads.len();
    let mut clients = Vec::new();
    for start in [0, 1, end / 2, end - 1, end, end + 1_000_000, usize::MAX] {
        let mut client = SseClient::connect(sidecar.sse_address(), &format!("/events?start_from={start}")).await;
        let replayed = start.min(end);
        if start > end {
            let newest = end - 1;
            let comment = format!(
                ":the newest event of this log is {newest}, before the start {start}; the stream continues with event {end}\n\n"
            );
            client.expect_bytes(comment.as_bytes()).await;
        }
        client.expect_bytes(&stream("2.0.0", replayed as u64, &payloads[replayed..])).await;
        clients.push(client);
    }
    let mut without_start = SseClient::connect(sidecar.sse_address(), "/events").await;
    without_start.expect_bytes(&stream("2.0.0", 0, [""; 0])).await;
    clients.push(without_start);

    payloads.push(story::non_ascii(1).payload);
    node.push(&payloads[end]);
    for client in &mut clients {
        client.expect_bytes(&frame(&payloads[end], Some(end as u64))).await;
    }
}

#[tokio::test]
async fn the_later_of_start_from_and_last_event_id_wins() {
    let (payloads, _node, sidecar) = told_and_stored(10).await;
    let cases = [
        ("/events", Some("20"), 21),
        ("/events?start_from=5", Some("20"), 21),
        ("/events?start_from=30", Some("20"), 30),
        ("/events?start_from=5", Some("not a number"), 5),
        ("/events?start_from=5", Some(""), 5),
        ("/events?start_from=5", None, 5),
    ];
    for (target, last_event_id, first) in cases {
        let request = Request::get(sidecar.sse_address(), target);
        let request = last_event_id.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        let expected = stream("2.0.0", first as u64, &payloads[first..]);
        request.open().await.expect_bytes(&expected).await;
    }
}

#[tokio::test]
async fn until_ends_a_stream_in_order_and_stops_a_reconnect_past_it() {
    let (payloads, node, sidecar) = told_and_stored(10).await;
    let mut replay = SseClient::connect(sidecar.sse_address(), "/events?start_from=10&until=12").await;
    assert_eq!(replay.body().await, stream("2.0.0", 10, &payloads[10..=12]));
    assert_eq!(replay.ending(), Some(Ending::Finished));

    // A browser reconnects by itself; 204 stops it.
    let again = Request::get(sidecar.sse_address(), "/events?start_from=10&until=12").last_event_id(12).open().await;
    assert_eq!(again.status(), 204);

    // The end may lie in the future.
    let end = payloads.len() as u64;
    let target = format!("/events?start_from={end}&until={}", end + 1);
    let mut future = SseClient::connect(sidecar.sse_address(), &target).await;
    let news = [story::unknown_kind(1), story::unknown_kind(2), story::unknown_kind(3)];
    node.push_all(&news);
    assert_eq!(future.body().await, stream("2.0.0", end, &news[..2]));
    assert_eq!(future.ending(), Some(Ending::Finished));
}

#[tokio::test]
async fn a_filter_passes_its_types_versions_and_shutdowns_under_their_own_ids() {
    let told = Story::new(3, &StoryOptions::small(20));
    let node = SimulatedNode::start();
    node.push_all(told.events());
    let last = node.push(story::shutdown());
    let sidecar = sidecar().node(node.address()).start().await;

    let target = format!("/events?start_from=0&until={last}&types=BlockAdded,Step");
    let messages = SseClient::connect(sidecar.sse_address(), &target).await.read_to_end().await;
    assert_eq!(messages[0].data, r#"{"ApiVersion":"2.0.0"}"#);
    let wanted = |event: &story::StoryEvent| matches!(event.kind, EventKind::BlockAdded | EventKind::Step);
    let all = (0..).zip(told.events());
    let mut expected: Vec<(u64, &str)> =
        all.filter(|(_, event)| wanted(event)).map(|(id, event)| (id, event.payload.as_str())).collect();
    expected.push((last, "\"Shutdown\""));
    assert_eq!(events(&messages), expected);
    assert_eq!(messages.len(), 1 + expected.len());

    let mut refused = SseClient::connect(sidecar.sse_address(), "/events?types=BlockAdded,Blocks").await;
    assert_eq!(refused.status(), 422);
    let answer = String::from_utf8(refused.body().await).unwrap();
    for known in ["ApiVersion", "BlockAdded", "TransactionProcessed", "FinalitySignature", "Step", "Shutdown"] {
        assert!(answer.contains(known), "{answer}");
    }
}

#[tokio::test]
async fn two_restarts_neither_lose_nor_repeat_anything_and_ids_continue() {
    let (mut payloads, node, mut sidecar) = told_and_stored(10).await;
    for restart in 1..=2 {
        assert!(sidecar.terminate().success());
        // The node sends more while no client is connected.
        let news = Story::new(
            100 + restart,
            &StoryOptions { first_height: 1_000 * restart, first_era: 100 * restart, ..StoryOptions::small(5) },
        );
        node.push_all(news.events());
        payloads.extend(news.events().iter().map(|event| event.payload.clone()));
        sidecar.restart().await;

        let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
        client.expect_bytes(&stream("2.0.0", 0, &payloads)).await;
        // What comes next is new: the node's ring, read again, has repeated nothing.
        payloads.push(story::unknown_kind(restart).payload);
        node.push(payloads.last().unwrap());
        client.expect_bytes(&frame(payloads.last().unwrap(), Some(payloads.len() as u64 - 1))).await;
    }
}

#[tokio::test]
async fn a_lost_identity_index_is_rebuilt_from_the_log_and_nothing_is_stored_twice() {
    let (mut payloads, node, mut sidecar) = told_and_stored(20).await;
    let large: Vec<String> = (0..3).map(|number| story::of_size(1_500_000, number).payload).collect();
    node.push_all(&large);
    payloads.extend(large);
    for (kill, number) in [(false, 1), (true, 2)] {
        let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
        client.expect_bytes(&stream("2.0.0", 0, &payloads)).await;
        if kill {
            sidecar.kill9();
        } else {
            assert!(sidecar.terminate().success());
        }
        std::fs::remove_dir_all(sidecar.storage_path().join("index")).unwrap();
        payloads.push(story::unknown_kind(number).payload);
        node.push(payloads.last().unwrap());
        sidecar.restart().await;
    }
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0")
        .await
        .expect_bytes(&stream("2.0.0", 0, &payloads))
        .await;
}

#[tokio::test]
async fn a_browser_that_is_cut_twice_gets_every_event_once() {
    let (mut payloads, node, mut sidecar) = told_and_stored(20).await;
    let mut messages = Vec::new();

    // Cut in the middle of the replay.
    let mut browser = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    messages.extend(browser.read_messages(payloads.len() / 3).await);
    let mut browser = browser.reconnect().await;

    // Cut when it had caught up, by the death of the sidecar; more is sent meanwhile.
    messages.extend(browser.read_until_id(payloads.len() as u64 - 1).await);
    sidecar.kill9();
    assert_eq!(browser.next_message().await, None);
    let news: Vec<String> = (0..20).map(|number| story::unknown_kind(number).payload).collect();
    node.push_all(&news);
    payloads.extend(news);
    sidecar.restart().await;
    let mut browser = browser.reconnect().await;
    messages.extend(browser.read_until_id(payloads.len() as u64 - 1).await);

    let expected: Vec<(u64, &str)> = (0..).zip(payloads.iter().map(String::as_str)).collect();
    assert_eq!(events(&messages), expected);
}

#[tokio::test]
async fn history_is_served_at_start_while_every_node_is_down() {
    let (payloads, node, mut sidecar) = told_and_stored(10).await;
    node.kill().await;
    sidecar.kill9();
    sidecar.restart().await;
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    client.expect_bytes(&stream("2.0.0", 0, &payloads)).await;
    assert_eq!(client.header("sidecar-retained-range"), Some(format!("0-{}", payloads.len() - 1).as_str()));

    // And resumes where it stopped when the node is back.
    node.restart_clean().await;
    let new = story::unknown_kind(1);
    node.push(&new);
    client.expect_bytes(&frame(&new.payload, Some(payloads.len() as u64))).await;
}

#[tokio::test]
async fn without_persistence_only_whole_segments_of_the_newest_events_are_kept() {
    const EVENTS: u64 = 100;
    const KEPT: u64 = 20;
    let node = SimulatedNode::start();
    let mut sidecar = sidecar()
        .node(node.address())
        .disable_event_persistence()
        .event_stream_buffer_length(KEPT as u32)
        .sections("[storage.log]\nsegment_bytes_max = 1_048_576")
        .start()
        .await;
    // About 75 kB each once stored: fourteen fill a segment.
    let payloads: Vec<String> = (0..EVENTS).map(|number| story::of_random_text(100_000, number).payload).collect();
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    for part in payloads.chunks(10) {
        let last = node.push_all(part).end - 1;
        live.read_until_id(last).await;
    }

    for _ in ["running", "restarted"] {
        // Segments go a moment after the commit that made them superfluous.
        until(Duration::from_secs(30), "old segments are removed", async || {
            let look = SseClient::connect(sidecar.sse_address(), "/events").await;
            let (oldest, _) = look.header("sidecar-retained-range").unwrap().split_once('-').unwrap();
            oldest.parse::<u64>().unwrap() >= EVENTS - KEPT - 20
        })
        .await;
        let target = format!("/events?start_from=0&until={}", EVENTS - 1);
        let mut replay = SseClient::connect(sidecar.sse_address(), &target).await;
        let range = replay.header("sidecar-retained-range").unwrap().to_owned();
        let (oldest, newest) = range.split_once('-').unwrap();
        let (oldest, newest): (u64, u64) = (oldest.parse().unwrap(), newest.parse().unwrap());
        assert_eq!(newest, EVENTS - 1);
        assert!((EVENTS - KEPT - 20..=EVENTS - KEPT).contains(&oldest), "{oldest} is the oldest of {EVENTS}");

        let messages = replay.read_to_end().await;
        let expected: Vec<(u64, &str)> =
            (oldest..).zip(payloads[oldest as usize..].iter().map(String::as_str)).collect();
        let ids: Vec<u64> = events(&messages).iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, (oldest..EVENTS).collect::<Vec<_>>());
        assert!(events(&messages) == expected, "the retained events, and only those");
        let missing = replay.comments().iter().find(|comment| comment.contains(&(oldest - 1).to_string()));
        assert!(missing.is_some_and(|comment| comment.contains('0')), "{:?}", replay.comments());

        sidecar.kill9();
        sidecar.restart().await;
    }
}

#[tokio::test]
async fn a_new_log_continues_above_an_existing_index_file() {
    let storage = tempfile::tempdir().unwrap();
    std::fs::write(storage.path().join("sse_index"), 70_000_u32.to_le_bytes()).unwrap();
    let node = SimulatedNode::start();
    let mut sidecar = sidecar().node(node.address()).storage_folder(storage.path()).start().await;
    let payloads: Vec<String> = (0..3).map(|number| story::unknown_kind(number).payload).collect();
    node.push_all(&payloads);
    // What the reference has given out is not in this log.
    let mut expected = b":events 0 to 69999 are missing: older than the oldest retained event\n\n".to_vec();
    expected.extend(stream("2.0.0", 70_000, &payloads));
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.expect_bytes(&expected).await;

    // Whatever becomes of the file, the log knows better from now on.
    assert!(sidecar.terminate().success());
    std::fs::write(storage.path().join("sse_index"), 5_u32.to_le_bytes()).unwrap();
    sidecar.restart().await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.expect_bytes(&expected).await;
}
