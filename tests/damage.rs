//! A disk that lies: damage is named to those who cross it, costs nothing else, and what a node still has comes back.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::path::PathBuf;

use sidecar_test_support::client::{SseClient, events};
use sidecar_test_support::node::{SimulatedNode, stream};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story::{self, Story, StoryOptions};

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A sidecar that has ended, with a story in many small blocks; the node that has told it, and the payloads.
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
async fn a_damaged_block_is_named_to_those_who_cross_it_and_all_else_is_served() {
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
    assert!(second.output().contains(&format!("is kept in {aside}")), "{}", second.output());
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
