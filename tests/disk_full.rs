//! A disk without room: ingest waits and resumes by itself, serving never stops, and in the end every event is there once.
//!
//! The disk is a tmpfs of its own where the test may mount one. What needs no permission is tested everywhere: room that is
//! to stay free, on whatever disk holds temporary files, and files that may not grow (`RLIMIT_FSIZE`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::process::{Resource, Rlimit, prlimit};
use sidecar_test_support::client::{Request, SseClient, events, get};
use sidecar_test_support::disk::SmallDisk;
use sidecar_test_support::node::{NodeOptions, SimulatedNode};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const WAITS: &str = "the device is full; ingest waits, serving continues";
const GOES_ON: &str = "there is room on the device again";

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A node that keeps everything, as one does that sent it only a moment ago.
fn node() -> SimulatedNode {
    SimulatedNode::with(NodeOptions { ring_events: 100_000, ..NodeOptions::default() })
}

/// Events of 100 kB, three quarters of which is left when they are stored: what is in a block has no two texts alike.
fn payloads(numbers: std::ops::Range<u64>) -> Vec<String> {
    static TEXTS: LazyLock<Vec<String>> =
        LazyLock::new(|| (0..8).map(|number| story::of_random_text(100_000, number).payload).collect());
    let payload = |number: u64| format!("{{\"Numbered\":[{number},{}]}}", TEXTS[number as usize % TEXTS.len()]);
    numbers.map(payload).collect()
}

fn free(path: &Path) -> u64 {
    let disk = statvfs(path).unwrap();
    disk.f_bavail * disk.f_frsize
}

/// Something else on the same disk.
fn ballast(folder: &Path, bytes: u64) -> PathBuf {
    let path = folder.join("ballast");
    let file = File::options().create(true).append(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    fallocate(&file, FallocateFlags::empty(), length, bytes).unwrap();
    path
}

/// What is stored, all of it, in order.
async fn expect_stored(sidecar: &Sidecar, told: &[String]) {
    let target = format!("/events?start_from=0&until={}", told.len() - 1);
    let messages = Request::get(sidecar.sse_address(), &target).patience(PATIENCE).open().await.read_to_end().await;
    assert!(events(&messages).into_iter().eq((0..).zip(told.iter().map(String::as_str))), "every event once, in order");
}

/// Everything that is stored is served, while more waits.
async fn expect_served_and_waiting(sidecar: &Sidecar, told: &[String]) {
    let client = SseClient::connect(sidecar.sse_address(), "/events").await;
    let newest: usize = client.header("sidecar-retained-range").unwrap().split_once('-').unwrap().1.parse().unwrap();
    assert!(newest + 1 < told.len(), "{newest} of {} are stored, none waits", told.len());
    expect_stored(sidecar, &told[..=newest]).await;
}

/// The tail of the story: pause, serve, room, resume, all there; also after a restart.
async fn is_waited_for(node: &SimulatedNode, sidecar: &mut Sidecar, told: &mut Vec<String>, make_room: impl FnOnce()) {
    sidecar.wait_for_output(WAITS).await;
    expect_served_and_waiting(sidecar, told).await;
    make_room();
    sidecar.wait_for_output(GOES_ON).await;
    told.push(story::unknown_kind(1).payload);
    node.push(told.last().unwrap());
    expect_stored(sidecar, told).await;
    let output = sidecar.output();
    assert_eq!((output.matches(WAITS).count(), output.matches(GOES_ON).count()), (1, 1), "one line each:\n{output}");
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    told.push(story::unknown_kind(2).payload);
    node.push(told.last().unwrap());
    expect_stored(sidecar, told).await;
}

#[tokio::test]
async fn where_room_is_to_stay_free_ingest_waits_for_it_and_serving_continues() {
    // Others use this disk too, so the room that makes the difference is more than they take in a moment.
    const ROOM: u64 = 1024 * MIB;
    let folder = tempfile::tempdir().unwrap();
    let other = ballast(folder.path(), ROOM);
    let min = free(folder.path()) + ROOM / 2;
    let node = node();
    let mut told = payloads(0..3);
    node.push_all(&told);
    let mut sidecar = sidecar()
        .node(node.address())
        .storage_folder(folder.path().join("storage"))
        .sections(&format!("[storage.log]\nfree_bytes_min = {min}"))
        .admin_api()
        .start()
        .await;
    sidecar.wait_for_output(WAITS).await;
    // History is served, of which there is none yet, so requests may come.
    assert_eq!(SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.status(), 200);
    assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 200);
    std::fs::remove_file(other).unwrap();
    sidecar.wait_for_output(GOES_ON).await;
    expect_stored(&sidecar, &told).await;

    // And while it runs; the room reserved so far is used up first.
    let more = payloads(3..400);
    let other = ballast(folder.path(), MIB);
    node.push_all(&more);
    told.extend(more);
    let deadline = Instant::now() + PATIENCE;
    while sidecar.output().matches(WAITS).count() < 2 {
        assert!(Instant::now() < deadline, "it does not wait");
        // Whatever others give back meanwhile is taken.
        let too_much = (free(folder.path()) + ROOM / 2).saturating_sub(min);
        ballast(folder.path(), too_much.max(4096));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    expect_served_and_waiting(&sidecar, &told).await;
    std::fs::remove_file(other).unwrap();
    expect_stored(&sidecar, &told).await;
    assert!(sidecar.terminate().success());
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_nothing_is_lost_or_doubled() {
    // Where mounting is not permitted, the other tests of this file are what is left of this one.
    let Some(disk) = SmallDisk::mount(64 * MIB) else { return not_permitted() };
    let node = node();
    let mut told = payloads(0..500);
    node.push_all(&told);
    let other = ballast(disk.path(), 34 * MIB);
    let mut sidecar = sidecar()
        .node(node.address())
        .storage_folder(disk.path().join("storage"))
        .sections("[storage.log]\nfree_bytes_min = 4_194_304\nsegment_bytes_max = 4_194_304\ncompaction = 'off'")
        .start()
        .await;
    is_waited_for(&node, &mut sidecar, &mut told, || std::fs::remove_file(other).unwrap()).await;
    assert!(free(disk.path()) >= 4 * MIB, "the reserve was left alone: {}", free(disk.path()));
}

#[tokio::test]
async fn a_disk_that_others_fill_to_the_last_byte_is_recovered_from() {
    let Some(disk) = SmallDisk::mount(64 * MIB) else { return not_permitted() };
    let node = node();
    let mut told = payloads(0..20);
    node.push_all(&told);
    // Each batch of the index is small, so that redb needs room while there is none.
    let mut sidecar = sidecar()
        .node_with(node.address(), "delay_between_retries_in_seconds = 0")
        .storage_folder(disk.path().join("storage"))
        .sections("[storage.log]\nfree_bytes_min = 1_048_576\nindex_tail_bytes_max = 1_048_576")
        .start()
        .await;
    expect_stored(&sidecar, &told).await;
    let other = ballast(disk.path(), free(disk.path()) / 4096 * 4096);
    // 40,000 small events fit into what the log has reserved; what the index must write of them does not.
    let more: Vec<String> = (0..40_000).map(|number| story::unknown_kind(number + 10).payload).collect();
    node.push_all(&more);
    told.extend(more);
    sidecar.wait_for_output(WAITS).await;
    assert_eq!(SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.status(), 200);
    std::fs::remove_file(other).unwrap();
    sidecar.wait_for_output(GOES_ON).await;
    expect_stored(&sidecar, &told).await;
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    told.push(story::unknown_kind(1).payload);
    node.push(told.last().unwrap());
    expect_stored(&sidecar, &told).await;
}

#[tokio::test]
async fn a_full_disk_does_not_keep_the_log_from_being_closed() {
    let Some(disk) = SmallDisk::mount(40 * MIB) else { return not_permitted() };
    let node = node();
    let told = payloads(0..600);
    node.push_all(&told);
    let mut sidecar = sidecar()
        .node(node.address())
        .storage_folder(disk.path().join("storage"))
        .sections("[storage.log]\nfree_bytes_min = 4_194_304\nsegment_bytes_max = 4_194_304\ncompaction = 'off'")
        .start()
        .await;
    sidecar.wait_for_output(WAITS).await;
    assert!(sidecar.terminate().success());
    assert!(!sidecar.output().contains("recovered at the next start"), "{}", sidecar.output());
    sidecar.restart().await;
    sidecar.wait_for_output(WAITS).await;
    expect_served_and_waiting(&sidecar, &told).await;
}

#[tokio::test]
async fn files_that_cannot_grow_are_recovered_from_once_they_can() {
    let folder = tempfile::tempdir().unwrap();
    // The signal that comes with the limit would end the process.
    let binary = folder.path().join("sidecar-that-survives");
    std::fs::write(&binary, format!("#!/bin/sh\ntrap '' XFSZ\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_sidecar")))
        .unwrap();
    std::fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
    let node = node();
    let mut told = payloads(0..20);
    node.push_all(&told);
    let mut sidecar = SidecarBuilder::new(binary)
        .node_with(node.address(), "delay_between_retries_in_seconds = 0")
        .storage_folder(folder.path().join("storage"))
        .start()
        .await;
    expect_stored(&sidecar, &told).await;
    let pid = sidecar.pid();
    let limit = |bytes| prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    assert_eq!(limit(Some(4096)).maximum, None);
    let more = payloads(20..400);
    node.push_all(&more);
    told.extend(more);
    sidecar.wait_for_output("storing has stopped").await;
    // Its ports stay open while it recovers.
    let mut client =
        Request::get(sidecar.sse_address(), "/events?start_from=0").patience(PATIENCE).try_open().await.unwrap();
    limit(None);
    client.read_until_id(told.len() as u64 - 1).await;
    expect_stored(&sidecar, &told).await;
    assert!(sidecar.terminate().success());
}

/// Says so where a test could not be made.
fn not_permitted() {
    // Not by `eprintln`, which shows nothing of a test that passes.
    let told = b"no file system can be mounted here: a test of full disks was left out. It needs root.\n";
    std::io::stderr().write_all(told).unwrap();
}
