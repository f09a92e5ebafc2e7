//! A log that does not grow forever: the oldest segments go, a client reading there is notified and continues, and
//! what is left is made smaller under the readers' eyes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use sidecar_test_support::client::{Request, SseClient, events};
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::story;
use sidecar_test_support::wait::{find, until};

/// How long upkeep may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Why a client does not get what retention has dropped.
const OLDER: &str = " are missing: older than the oldest retained event";

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// Events of 10 kB, of which the log holds about 130 in a segment of 1 MiB: what is in a block has no two texts alike.
fn payloads(numbers: Range<u64>) -> Vec<String> {
    static TEXTS: LazyLock<Vec<String>> =
        LazyLock::new(|| (0..80).map(|number| story::of_random_text(10_000, number).payload).collect());
    let payload = |number: u64| format!("{{\"Numbered\":[{number},{}]}}", TEXTS[number as usize % TEXTS.len()]);
    numbers.map(payload).collect()
}

/// The oldest and the newest retained id, once there is one.
async fn retained(address: SocketAddr) -> (u64, u64) {
    find(PATIENCE, "an event is stored", async || {
        let client = SseClient::connect(address, "/events").await;
        let (oldest, newest) = client.header("sidecar-retained-range")?.split_once('-')?;
        Some((oldest.parse().unwrap(), newest.parse().unwrap()))
    })
    .await
}

fn bytes_of_segments(storage: &Path) -> u64 {
    let files = std::fs::read_dir(storage.join("logs/casper")).unwrap().map(|file| file.unwrap());
    let segments = files.filter(|file| file.path().extension().is_some_and(|end| end == "segment"));
    // One may go between the two looks.
    segments.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// The ids that a comment on a stream names as dropped by retention.
fn named_as_missing(comment: &str) -> Range<u64> {
    let range = comment.strip_prefix("events ").and_then(|rest| rest.strip_suffix(OLDER)?.split_once(" to "));
    let (first, last) = range.unwrap_or_else(|| panic!("{comment}"));
    first.parse().unwrap()..last.parse::<u64>().unwrap() + 1
}

#[tokio::test]
async fn a_client_overtaken_by_retention_is_notified_of_what_it_missed_and_continues_at_the_oldest() {
    const EVENTS: u64 = 4_000;
    let node = SimulatedNode::start();
    let mut sidecar = sidecar()
        .node(node.address())
        .sections("[storage.log]\nsegment_bytes_max = 1_048_576\nretention_bytes_max = 20_000_000")
        .start()
        .await;
    let told = payloads(0..EVENTS);
    let (before, after) = told.split_at(EVENTS as usize / 2);
    node.push_all(before);
    // It begins to read, and stops while the log grows far beyond what the system holds for it.
    let mut slow =
        Request::get(sidecar.sse_address(), "/events?start_from=0").slow(4_096).patience(PATIENCE).open().await;
    let mut got = slow.read_messages(3).await;
    node.push_all(after);

    // What is reserved for more counts too, so that the disk holds no more than was allowed.
    until(PATIENCE, "the log shrinks to what is allowed", async || {
        let (_, newest) = retained(sidecar.sse_address()).await;
        newest == EVENTS - 1 && bytes_of_segments(&sidecar.storage_path()) <= 20_000_000
    })
    .await;
    let (oldest, _) = retained(sidecar.sse_address()).await;
    assert!(oldest > EVENTS / 2, "{oldest}");

    slow.hurry();
    got.extend(slow.read_until_id(EVENTS - 1).await);
    // Room in the system's buffers may have let it have a few more events while the oldest ones went.
    let missed: Vec<_> = slow.comments().iter().map(|comment| named_as_missing(comment)).collect();
    assert!(missed.is_sorted_by(|one, next| one.end < next.start), "{missed:?}");
    assert_eq!(missed.last().map(|range| range.end), Some(oldest), "{missed:?}");
    let expected = (0..EVENTS).filter(|id| !missed.iter().any(|range| range.contains(id)));
    let expected = expected.map(|id| (id, told[id as usize].as_str()));
    assert!(events(&got).into_iter().eq(expected), "every event that is not named as missing, once, in order");

    // What the node sends again is still known, and nothing comes back after a restart.
    node.disconnect_all().await;
    let new = story::unknown_kind(1).payload;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    assert_eq!(node.push(&new), EVENTS);
    let next = live.read_until(|message| message.data == new).await;
    assert_eq!(events(&next), [(EVENTS, new.as_str())]);
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    let new = story::unknown_kind(2).payload;
    node.push(&new);
    let target = format!("/events?start_from={}", EVENTS + 1);
    let next = SseClient::connect(sidecar.sse_address(), &target).await.read_until(|message| message.data == new).await;
    assert_eq!(events(&next), [(EVENTS + 1, new.as_str())]);
    assert!(retained(sidecar.sse_address()).await.0 >= oldest);
}

#[tokio::test]
async fn events_that_are_too_old_go_once_their_segment_is_finished() {
    let node = SimulatedNode::start();
    let sidecar = sidecar()
        .node(node.address())
        .sections("[storage.log]\nsegment_bytes_max = 1_048_576\nretention_age_max = '2s'")
        .start()
        .await;
    node.push_all(payloads(0..1_000));
    find(PATIENCE, "the finished segments go", async || {
        let (oldest, newest) = retained(sidecar.sse_address()).await;
        (newest == 999 && oldest > 500).then_some(())
    })
    .await;
    // The newest segment stays, however old.
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0&until=999").await;
    let left = client.read_to_end().await;
    let left: Vec<u64> = events(&left).iter().map(|(id, _)| *id).collect();
    assert!(left.first().is_some_and(|first| *first > 500), "{left:?}");
    assert!(left.iter().copied().eq(left[0]..1_000), "{left:?}");
}

#[tokio::test]
async fn finished_segments_are_compacted_while_clients_read_them() {
    const EVENTS: u64 = 6_000;
    let node = SimulatedNode::with(sidecar_test_support::node::NodeOptions {
        ring_events: EVENTS as usize,
        ..Default::default()
    });
    let mut sidecar = sidecar()
        .node(node.address())
        .environment("RUST_LOG", "sidecar=info")
        .sections("[storage.log]\nsegment_bytes_max = 1_048_576\ncompaction_level = 12\ncompaction_bytes_per_second = 1_000_000_000")
        .start()
        .await;
    let story = sidecar_test_support::fast::EndlessStory::render(3, 10);
    let told: Vec<String> = (0..EVENTS).map(|number| story.payload(number)).collect();
    let target = format!("/events?start_from=0&until={}", EVENTS - 1);
    let request = Request::get(sidecar.sse_address(), &target).patience(PATIENCE);
    let mut slow = request.clone().slow(4_096).open().await;
    node.push_all(&told);

    sidecar.wait_for_output("was made smaller").await;
    let all = request.open().await.read_to_end().await;
    slow.hurry();
    let slow = slow.read_to_end().await;
    for got in [all, slow] {
        assert!(events(&got).into_iter().eq((0..).zip(told.iter().map(String::as_str))), "every event once, in order");
    }
    assert!(sidecar.terminate().success());
}
