//! A disk with wrong bytes: damage is named to clients that cross it, costs nothing else, and what a node still has comes
//! back.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sidecar_test_support::client::{SseClient, events, get};
use sidecar_test_support::node::{NodeOptions, SimulatedNode, stream};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story::{self, EventKind, Story, StoryOptions};

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A sidecar that has ended, with a story in many small blocks; the node that has sent it, and the payloads.
async fn stored_in_small_blocks(killed: bool) -> (SimulatedNode, Sidecar, Vec<String>) {
    let told = Story::new(1, &StoryOptions::small(60));
    let payloads: Vec<String> = told.events().iter().map(|event| event.payload.clone()).collect();
    let node = SimulatedNode::start();
    node.push_all(&payloads);
    let mut sidecar = sidecar().node(node.address()).sections("[storage.log]\nblock_bytes_max = 4096").start().await;
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    client.expect_bytes(&stream("2.0.0", 0, &payloads)).await;
    if killed {
        sidecar.kill9();
    } else {
        assert!(sidecar.terminate().success());
    }
    (node, sidecar, payloads)
}

/// The newest segment's path, and its bytes without the zeros at its end.
fn newest_segment(sidecar: &Sidecar) -> (PathBuf, Vec<u8>) {
    let files = std::fs::read_dir(sidecar.storage_path().join("logs/casper")).unwrap();
    let segments =
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "segment"));
    let newest = segments.max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    (newest, bytes)
}

#[tokio::test]
async fn a_damaged_block_is_named_to_clients_that_cross_it_and_all_else_is_served() {
    let (node, mut sidecar, payloads) = stored_in_small_blocks(false).await;
    node.kill().await;
    let (segment, mut bytes) = newest_segment(&sidecar);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    std::fs::write(&segment, &bytes).unwrap();
    sidecar.restart().await;

    let target = format!("/events?start_from=0&until={}", payloads.len() - 1);
    let mut client = SseClient::connect(sidecar.sse_address(), &target).await;
    let messages = client.read_to_end().await;
    let served = events(&messages);
    for (id, payload) in &served {
        assert_eq!(payload, &payloads[*id as usize], "id {id}");
    }
    let is_served = |id: u64| served.iter().any(|(served, _)| *served == id);
    let missing: Vec<u64> = (0..payloads.len() as u64).filter(|id| !is_served(*id)).collect();
    assert!(!missing.is_empty() && missing.len() < payloads.len() / 10, "{missing:?}");
    let (first, last) = (missing[0], missing[missing.len() - 1]);
    assert_eq!(missing, (first..=last).collect::<Vec<_>>());
    let named = format!("events {first} to {last} are missing: ");
    assert!(client.comments().iter().any(|comment| comment.starts_with(&named)), "{named}: {:?}", client.comments());
}

#[tokio::test]
async fn the_torn_end_of_a_copy_is_kept_aside_and_named() {
    let (node, sidecar, payloads) = stored_in_small_blocks(true).await;
    node.kill().await;
    let (segment, mut bytes) = newest_segment(&sidecar);
    // The copy was made while the last block was being written.
    bytes.truncate(bytes.len() - 10);
    let copy = tempfile::tempdir().unwrap();
    let log = copy.path().join("logs/casper");
    std::fs::create_dir_all(&log).unwrap();
    std::fs::copy(sidecar.storage_path().join("logs/casper/head"), log.join("head")).unwrap();
    std::fs::write(log.join(segment.file_name().unwrap()), &bytes).unwrap();

    let mut second = self::sidecar().node(node.address()).storage_folder(copy.path()).start().await;
    second.wait_for_output("this log is a copy").await;
    let files = std::fs::read_dir(&log).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let aside = files.into_iter().find(|name| name.ends_with(".lost")).unwrap();
    let output = second.output();
    assert!(output.contains("are kept beside the log's segments") && output.contains(&*aside), "{output}");
    let mut client = SseClient::connect(second.sse_address(), "/events?start_from=0").await;
    let first = client.read_until_id(0).await;
    assert_eq!(events(&first), [(0, payloads[0].as_str())]);
}

#[tokio::test]
async fn what_the_disk_lost_in_a_crash_comes_back_from_the_node_under_new_ids() {
    comes_back_under_new_ids(true).await;
}

#[tokio::test]
async fn what_the_disk_lost_after_an_orderly_end_comes_back_from_the_node_under_new_ids() {
    comes_back_under_new_ids(false).await;
}

async fn comes_back_under_new_ids(killed: bool) {
    let (node, mut sidecar, payloads) = stored_in_small_blocks(killed).await;
    let (segment, mut bytes) = newest_segment(&sidecar);
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&segment, &bytes).unwrap();
    sidecar.restart().await;

    let new = story::unknown_kind(1).payload;
    node.push(&new);
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    let messages = client.read_until(|message| message.data == new).await;
    let served = events(&messages);
    let kept = served.iter().take_while(|(id, _)| *id < payloads.len() as u64).count();
    assert!(kept > 0 && kept < payloads.len());
    let named = format!("events {kept} to {} are missing: ", payloads.len() - 1);
    assert!(client.comments().iter().any(|comment| comment.starts_with(&named)), "{named}: {:?}", client.comments());
    // Ids that were given out are not given out again.
    let ids = (0..kept as u64).chain(payloads.len() as u64..).zip(payloads.iter().chain([&new]));
    let expected: Vec<(u64, &str)> = ids.map(|(id, payload)| (id, payload.as_str())).collect();
    let first_difference = served.iter().zip(&expected).find(|(served, expected)| served != expected);
    assert!(served == expected, "{} served, {} expected, {first_difference:?}", served.len(), expected.len());
}

/// A sidecar with REST whose node has sent it a story and sends all of it again at every connect, and the payloads.
async fn with_index_and_views() -> (SimulatedNode, Sidecar, Vec<String>, Vec<u64>) {
    let told = Story::new(3, &StoryOptions::small(300));
    let payloads: Vec<String> = told.events().iter().map(|event| event.payload.clone()).collect();
    let heights = told.events().iter().filter(|event| event.kind == EventKind::BlockAdded);
    let heights = heights.filter_map(|event| event.height).collect();
    let node = SimulatedNode::start();
    node.push_all(&payloads);
    let sidecar = sidecar().node_with(node.address(), "delay_between_retries_in_seconds = 0").rest_api().start().await;
    expect_each_once(&node, &sidecar, &mut Vec::new(), &payloads).await;
    (node, sidecar, payloads, heights)
}

/// Lets the node send something new after all that it repeats, and expects the log to have nothing twice.
async fn expect_each_once(node: &SimulatedNode, sidecar: &Sidecar, news: &mut Vec<String>, payloads: &[String]) {
    let new = story::unknown_kind(1_000_000 + news.len() as u64).payload;
    node.push(&new);
    news.push(new);
    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    let messages = client.read_until(|message| Some(&message.data) == news.last()).await;
    let served: Vec<&str> = events(&messages).into_iter().map(|(_, payload)| payload).collect();
    let expected: Vec<&str> = payloads.iter().chain(news.iter()).map(String::as_str).collect();
    assert!(served == expected, "{} served, {} expected", served.len(), expected.len());
}

/// Writes over a part of a file, also of one that a process has open.
fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn flip_a_bit(path: &Path, at: u64) {
    let byte = std::fs::read(path).unwrap()[at as usize];
    overwrite(path, at, &[byte ^ 0x04]);
}

#[tokio::test]
async fn whatever_happens_to_index_and_views_between_two_runs_no_event_is_doubled_and_no_answer_wrong() {
    let (node, mut sidecar, payloads, heights) = with_index_and_views().await;
    let mut news = Vec::new();
    news.push(story::unknown_kind(1_000_000).payload);
    let mut rng = StdRng::seed_from_u64(3);
    let block = |height: u64| format!("/block/{height}");
    let mut right = Vec::new();
    for height in &heights {
        right.push((*height, get(sidecar.rest_address(), &block(*height)).await.body));
    }
    for round in 0..12 {
        if round % 2 == 0 {
            assert!(sidecar.terminate().success());
        } else {
            sidecar.kill9();
        }
        for file in ["index/casper.redb", "views/casper.redb"] {
            let path = sidecar.storage_path().join(file);
            let length = std::fs::metadata(&path).unwrap().len();
            match round % 3 {
                0 => (0..20).for_each(|_| flip_a_bit(&path, rng.gen_range(0..length))),
                1 => overwrite(&path, rng.gen_range(0..length / 4096) * 4096, &[0; 4096]),
                _ => overwrite(&path, rng.gen_range(0..length.div_ceil(65_536)) * 65_536, &[0; 65_536]),
            }
        }
        sidecar.restart().await;
        expect_each_once(&node, &sidecar, &mut news, &payloads).await;
        for (height, body) in right.iter().skip(round).step_by(23) {
            assert_eq!(&get(sidecar.rest_address(), &block(*height)).await.body, body, "{height}");
        }
    }
    assert!(sidecar.output().contains("the identity index is "), "{}", sidecar.output());
    assert!(!sidecar.errors().contains("panicked"), "{}", sidecar.errors());
}

#[tokio::test]
async fn an_index_damaged_under_the_running_process_is_rebuilt_while_ingest_waits() {
    let node = SimulatedNode::with(NodeOptions { ring_events: 100_000, ..NodeOptions::default() });
    let other = SimulatedNode::start();
    // The index is larger than redb's cache, so that it is read from the file.
    let payloads: Vec<String> = (0..50_000).map(|number| story::unknown_kind(number).payload).collect();
    node.push_all(&payloads);
    let reconnects_at_once = "delay_between_retries_in_seconds = 0";
    let mut sidecar = sidecar()
        .node_with(node.address(), reconnects_at_once)
        .node_with(other.address(), reconnects_at_once)
        .sections("[storage.log]\nindex_cache_bytes = 1_048_576\nindex_tail_bytes_max = 1_048_576")
        .start()
        .await;
    let mut news = Vec::new();
    expect_each_once(&node, &sidecar, &mut news, &payloads).await;
    // From its start on the process has nothing in memory of what the index holds.
    node.refuse(503);
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    let process = sidecar.pid();
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    // Once this is stored, the index is open.
    news.push(story::unknown_kind(2_000_000).payload);
    other.push(news.last().unwrap());
    live.read_until(|message| Some(&message.data) == news.last()).await;
    let path = sidecar.storage_path().join("index/casper.redb");
    let length = std::fs::metadata(&path).unwrap().len();
    overwrite(&path, 4096, &vec![0; length as usize - 4096]);
    node.accept();
    expect_each_once(&node, &sidecar, &mut news, &payloads).await;
    live.read_until(|message| Some(&message.data) == news.last()).await;
    sidecar.wait_for_output("the identity index is damaged; it is rebuilt from the log").await;
    sidecar.wait_for_output("the identity index is rebuilt; ingest resumes").await;
    assert_eq!(sidecar.pid(), process);
    assert!(path.with_added_extension("aside").exists());
    // And it lasts.
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    expect_each_once(&node, &sidecar, &mut news, &payloads).await;
    assert!(!sidecar.output().contains("the identity index is rebuilt from the log"), "{}", sidecar.output());
}

#[tokio::test]
async fn an_older_index_and_older_views_are_caught_up_or_rebuilt_and_nothing_is_doubled() {
    let (node, mut sidecar, payloads, heights) = with_index_and_views().await;
    let mut news = vec![story::unknown_kind(1_000_000).payload];
    assert!(sidecar.terminate().success());
    let storage = sidecar.storage_path();
    let files = ["index/casper.redb", "views/casper.redb"].map(|file| storage.join(file));
    let older = files.each_ref().map(|path| std::fs::read(path).unwrap());
    let log = storage.join("logs");
    let older_log = storage.join("older");
    let copied = std::process::Command::new("cp").arg("-a").arg(&log).arg(&older_log).status();
    assert!(copied.unwrap().success());

    sidecar.restart().await;
    expect_each_once(&node, &sidecar, &mut news, &payloads).await;
    assert!(sidecar.terminate().success());
    let newer = files.each_ref().map(|path| std::fs::read(path).unwrap());
    // In place, as a snapshot of the file system that is gone back to.
    files.iter().zip(&older).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    sidecar.restart().await;
    expect_each_once(&node, &sidecar, &mut news, &payloads).await;
    let target = format!("/block/{}", heights[7]);
    let right = get(sidecar.rest_address(), &target).await.body;

    // The other way: the log goes back, and what is beside it knows more.
    assert!(sidecar.terminate().success());
    files.iter().zip(&newer).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(&older_log, &log).unwrap();
    sidecar.restart().await;
    expect_each_once(&node, &sidecar, &mut news, &payloads).await;
    assert_eq!(get(sidecar.rest_address(), &target).await.body, right);
    let output = sidecar.output();
    assert!(output.contains("the identity index is rebuilt from the log"), "{output}");
    assert!(output.contains("the views are rebuilt from the log"), "{output}");
}
