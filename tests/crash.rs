//! What was published survives: any death of Sidecar, any death of a node, and a copy of the log taken while it is
//! written.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sidecar_test_support::client::{Request, SseClient, events};
use sidecar_test_support::fast::EndlessStory;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::story::{self, Story, StoryOptions};

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// The id of the newest stored event.
fn newest(client: &SseClient) -> Option<u64> {
    client.header("sidecar-retained-range")?.split_once('-')?.1.parse().ok()
}

/// Everything that is stored, by id.
async fn replay_all(address: SocketAddr) -> BTreeMap<u64, String> {
    let all = SseClient::connect(address, "/events?start_from=0").await;
    let Some(newest) = newest(&all) else { return BTreeMap::new() };
    let messages =
        SseClient::connect(address, &format!("/events?start_from=0&until={newest}")).await.read_to_end().await;
    let stored: BTreeMap<u64, String> =
        events(&messages).into_iter().map(|(id, payload)| (id, payload.to_owned())).collect();
    assert_eq!(stored.len(), events(&messages).len(), "no id comes twice");
    assert!(stored.keys().copied().eq(0..=newest), "no id is missing");
    stored
}

#[tokio::test]
async fn nothing_published_is_lost_or_doubled_by_ten_kills() {
    kill_again_and_again("commit").await;
}

#[tokio::test]
async fn nor_where_the_disk_is_synced_at_intervals() {
    kill_again_and_again("interval").await;
}

#[tokio::test]
async fn nor_where_the_system_syncs_the_disk() {
    kill_again_and_again("os").await;
}

/// Ten times: the node sends at its own pace, a client reads, and Sidecar is killed at a random moment, every other time
/// again while it starts. Every third time the node is killed too, and then sends what Sidecar may not have got under ids
/// that it had used before.
async fn kill_again_and_again(durability: &str) {
    const KILLS: usize = 10;
    // Another one may be given to look further.
    let seed = std::env::var("SIDECAR_TEST_SEED").map_or(7, |seed| seed.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(seed);
    let payloads = story_that_fills_segments(seed);
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let node = SimulatedNode::start();
    let mut sidecar = sidecar()
        .node_with(node.address(), "delay_between_retries_in_seconds = 0")
        .sections(&format!("[storage.log]\ndurability = '{durability}'\nsegment_bytes_max = 1_048_576"))
        .start()
        .await;

    let mut pushed = 0;
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    for kill in 1..=KILLS {
        let context = format!("kill {kill} of seed {seed}");
        let in_this_round = payloads.len() * kill / KILLS;
        let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
        let telling = async {
            for part in payloads[pushed..in_this_round].chunks(10) {
                node.push_all(part);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let wanted = rng.gen_range(1..in_this_round - pushed);
        let killing = async {
            // The version comes first and counts as one.
            let messages = live.read_messages(wanted).await;
            sidecar.kill9();
            [messages, live.read_to_end().await].concat()
        };
        let (messages, ()) = tokio::join!(killing, telling);
        pushed = in_this_round;
        for (id, payload) in events(&messages) {
            let before = seen.insert(id, payload.to_owned());
            assert!(before.is_none_or(|before| before == payload), "{context}: id {id} was given out again");
        }

        if kill % 3 == 0 {
            let first_unseen = payloads.iter().position(|payload| !seen.values().any(|seen| seen == payload));
            let again_from = first_unseen.unwrap_or(pushed).min(pushed).saturating_sub(rng.gen_range(0..20));
            node.restart_hard(rng.gen_range(0..node.next_id())).await;
            node.push_all(&payloads[again_from..pushed]);
        }
        if kill % 2 == 0 {
            sidecar.spawn_again();
            tokio::time::sleep(Duration::from_millis(rng.gen_range(0..100))).await;
            sidecar.kill9();
        }
        sidecar.restart().await;
        let stored = replay_all(sidecar.sse_address()).await;
        for (id, payload) in &seen {
            assert_eq!(stored.get(id), Some(payload), "{context}: id {id} had been published");
        }
    }

    // In the end the log is the story, each event once.
    let target = format!("/events?start_from=0&until={}", payloads.len() - 1);
    SseClient::connect(sidecar.sse_address(), &target).await.read_to_end().await;
    let stored = replay_all(sidecar.sse_address()).await;
    let mut stored: Vec<&str> = stored.values().map(String::as_str).collect();
    let mut expected = payloads;
    stored.sort_unstable();
    expected.sort_unstable();
    assert!(stored == expected, "{} events are stored, {} were told (seed {seed})", stored.len(), expected.len());
    let segments = std::fs::read_dir(sidecar.storage_path().join("logs/casper")).unwrap();
    let segments =
        segments.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "segment"));
    assert!(segments.count() > 1, "segments were sealed on the way");
}

/// Realistic events, and now and then one that fills the disk.
fn story_that_fills_segments(seed: u64) -> Vec<String> {
    let told = Story::new(seed, &StoryOptions::small(200));
    let mut payloads = Vec::new();
    for (part, number) in told.events().chunks(20).zip(0..) {
        payloads.extend(part.iter().map(|event| event.payload.clone()));
        payloads.push(story::of_random_text(50_000, number).payload);
    }
    payloads
}

/// The long run: `SIDECAR_KILLS=200 cargo test --release --test crash under_load -- --nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn every_reader_gets_every_event_once_through_kills_under_load_of_three_nodes() {
    let kills: usize = std::env::var("SIDECAR_KILLS").map_or(10, |kills| kills.parse().unwrap());
    let seed = std::env::var("SIDECAR_TEST_SEED").map_or(11, |seed| seed.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes: Arc<[SimulatedNode; 3]> = Arc::new(std::array::from_fn(|_| SimulatedNode::start()));
    let mut builder = sidecar().sections("[storage.log]\nsegment_bytes_max = 1_048_576");
    for node in nodes.iter() {
        builder = builder.node_with(node.address(), "delay_between_retries_in_seconds = 0");
    }
    let mut sidecar = builder.start().await;

    let progress = Arc::new(Progress::default());
    let telling = tokio::spawn(tell_on_and_on(Arc::clone(&nodes), Arc::clone(&progress)));
    let paces = [
        Pace { target: "/events?start_from=0", burst: usize::MAX, pause: Duration::ZERO },
        Pace { target: "/events?start_from=0&encoding=zstd", burst: 500, pause: Duration::from_millis(100) },
        Pace { target: "/events?start_from=0", burst: 20, pause: Duration::from_millis(20) },
        Pace { target: "/events?start_from=0", burst: 1, pause: Duration::from_millis(20) },
    ];
    let readers: Vec<_> = paces
        .into_iter()
        .map(|pace| tokio::spawn(read_on_and_on(sidecar.sse_address(), pace, Arc::clone(&progress))))
        .collect();

    let mut killed = 0;
    while killed < kills {
        tokio::time::sleep(Duration::from_millis(rng.gen_range(0..250))).await;
        sidecar.kill9();
        killed += 1;
        if rng.gen_ratio(1, 4) && killed < kills {
            // Once more while it recovers.
            sidecar.spawn_again();
            tokio::time::sleep(Duration::from_millis(rng.gen_range(0..60))).await;
            sidecar.kill9();
            killed += 1;
        }
        sidecar.restart().await;
        assert!(!telling.is_finished() && readers.iter().all(|reader| !reader.is_finished()), "after kill {killed}");
    }

    progress.is_enough.store(true, Ordering::Relaxed);
    let told = telling.await.unwrap();
    let mut expected = told.clone();
    expected.sort_unstable();
    let mut streams = Vec::new();
    for reader in readers {
        let (stream, connections) = reader.await.unwrap();
        assert_eq!(stream.len(), told.len(), "of seed {seed}");
        let mut sorted = stream.clone();
        sorted.sort_unstable();
        assert!(sorted == expected, "a reader has each event once (seed {seed})");
        streams.push((stream, connections));
    }
    assert!(streams.iter().all(|(stream, _)| *stream == streams[0].0), "all readers have the same order (seed {seed})");
    let all = SseClient::connect(sidecar.sse_address(), "/events").await;
    assert_eq!(newest(&all), Some(told.len() as u64 - 1), "nothing is stored beside what was told (seed {seed})");
    let connections: Vec<usize> = streams.iter().map(|(_, connections)| *connections).collect();
    println!("{killed} kills, {} events, connections of each reader: {connections:?}", told.len());
}

/// What teller and readers know of each other.
#[derive(Default)]
struct Progress {
    /// Events that the fastest reader has.
    seen: AtomicU64,
    /// The teller may stop.
    is_enough: AtomicBool,
    /// How many events there are; 0 until the last is sent.
    total: AtomicU64,
}

/// A payload's hash: many are compared.
type Digest = [u8; 32];

fn digest(payload: &str) -> Digest {
    blake3::hash(payload.as_bytes()).into()
}

/// Has all nodes send one endless story, each of them a little later than the one before and in an order of its own. Waits
/// for the readers before the nodes could forget something; returns what was sent.
async fn tell_on_and_on(nodes: Arc<[SimulatedNode; 3]>, progress: Arc<Progress>) -> Vec<Digest> {
    const BATCH: u64 = 8;
    const UNSEEN_MAX: u64 = 3_000;
    let story = EndlessStory::render(3, 10);
    let batch = |number: u64| (number * BATCH..(number + 1) * BATCH).map(|event| story.payload(event));
    let mut batches = 0;
    let mut told = Vec::new();
    while !progress.is_enough.load(Ordering::Relaxed) {
        if batches * BATCH < progress.seen.load(Ordering::Relaxed) + UNSEEN_MAX {
            told.extend(batch(batches).map(|payload| digest(&payload)));
            nodes[0].push_all(batch(batches));
            for (node, behind) in nodes.iter().zip(0..).skip(1) {
                if let Some(number) = batches.checked_sub(behind) {
                    node.push_all(batch(number).collect::<Vec<_>>().into_iter().rev());
                }
            }
            batches += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    progress.total.store(told.len() as u64, Ordering::Relaxed);
    told
}

/// How a reader reads.
#[derive(Clone, Copy)]
struct Pace {
    target: &'static str,
    /// Messages between two pauses.
    burst: usize,
    pause: Duration,
}

/// Reads to the end of the story, over as many connections as it takes: the events in their order, and the connections.
async fn read_on_and_on(address: SocketAddr, pace: Pace, progress: Arc<Progress>) -> (Vec<Digest>, usize) {
    let mut stream = Vec::new();
    let mut connections = 0;
    let has_all = |stream: &[Digest]| match progress.total.load(Ordering::Relaxed) {
        0 => false,
        total => stream.len() as u64 >= total,
    };
    while !has_all(&stream) {
        let mut request = Request::get(address, pace.target);
        if let Some(last) = (stream.len() as u64).checked_sub(1) {
            request = request.last_event_id(last);
        }
        if pace.burst < usize::MAX {
            request = request.slow(16_384);
        }
        let Ok(mut client) = request.try_open().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        connections += 1;
        let mut in_burst = 0;
        while !has_all(&stream)
            && let Some(message) = client.next_message().await
        {
            let Some(id) = message.id else { continue };
            assert_eq!(id, stream.len() as u64, "{} on connection {connections}", pace.target);
            stream.push(digest(&message.data));
            progress.seen.fetch_max(stream.len() as u64, Ordering::Relaxed);
            in_burst += 1;
            if in_burst == pace.burst && !progress.is_enough.load(Ordering::Relaxed) {
                in_burst = 0;
                tokio::time::sleep(pace.pause).await;
            }
        }
    }
    (stream, connections)
}

#[tokio::test]
async fn a_copy_of_a_log_that_is_being_written_is_a_clean_prefix_and_continues_by_itself() {
    const COPIES: usize = 5;
    let payloads = story_that_fills_segments(8);
    let node = SimulatedNode::start();
    let original =
        sidecar().node(node.address()).sections("[storage.log]\nsegment_bytes_max = 1_048_576").start().await;
    let mut live = SseClient::connect(original.sse_address(), "/events").await;
    let copies = tempfile::tempdir().unwrap();

    let telling = async {
        for part in payloads.chunks(5) {
            node.push_all(part);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let copying = async {
        let mut published_before = Vec::new();
        for copy in 1..=COPIES {
            let id = (payloads.len() * copy / (COPIES + 1)) as u64;
            live.read_until_id(id).await;
            published_before.push(id);
            let (from, to) = (original.storage_path(), copies.path().join(copy.to_string()));
            tokio::task::spawn_blocking(move || copy_directory(&from, &to)).await.unwrap();
        }
        published_before
    };
    let ((), published_before) = tokio::join!(telling, copying);
    let end = payloads.len() as u64 - 1;
    live.read_until_id(end).await;
    let whole =
        Request::get(original.sse_address(), &format!("/events?start_from=0&until={end}")).open().await.body().await;

    for (copy, published) in (1..=COPIES).zip(published_before) {
        let folder = copies.path().join(copy.to_string());
        let down = ReservedPort::new();
        let mut of_copy = sidecar().node(down.address()).storage_folder(&folder).start().await;
        let newest = newest(&SseClient::connect(of_copy.sse_address(), "/events").await).unwrap();
        assert!((published..=end).contains(&newest), "copy {copy}: {newest}, {published} was published before it");
        let target = format!("/events?start_from=0&until={newest}");
        let prefix = SseClient::connect(of_copy.sse_address(), &target).await.body().await;
        assert!(whole.starts_with(&prefix), "copy {copy} is a prefix");
        assert!(prefix.ends_with(format!("\nid:{newest}\n\n").as_bytes()), "copy {copy} is whole up to {newest}");
        assert!(of_copy.terminate().success());

        // With the node it becomes whole.
        let with_node = sidecar().node(node.address()).storage_folder(&folder).start().await;
        let target = format!("/events?start_from=0&until={end}");
        assert!(
            SseClient::connect(with_node.sse_address(), &target).await.body().await == whole,
            "copy {copy} goes on"
        );
    }
}

fn copy_directory(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).output().unwrap();
    let errors = String::from_utf8(copied.stderr).unwrap();
    // A segment that is being made has another name from one moment to the next.
    assert!(errors.lines().all(|error| error.contains(".segment.new")), "{errors}");
    assert_eq!(copied.status.success(), errors.is_empty());
}
