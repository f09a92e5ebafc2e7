//! A log's life in a process: its storage fails, goes away, comes back or is another one. Ports, readers and supervisors'
//! questions live on, nothing is stored anywhere else, and in the end every event is there once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sidecar_log_format::storage::{Directory, LOCK_FILE};
use sidecar_log_format::{WriteOptions, Writer};
use sidecar_test_support::client::{Request, SseClient, events, get, metric};
use sidecar_test_support::node::{NodeOptions, SimulatedNode};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story;

const PATIENCE: Duration = Duration::from_secs(60);
const STOPPED: &str = "storing has stopped, serving continues";
const RESUMED: &str = "storing resumes";
const NOT_YET: &str = "the log cannot be opened yet";

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// With small segments, and a node that keeps everything.
fn small_segments(node: &SimulatedNode) -> SidecarBuilder {
    sidecar()
        .node_with(node.address(), "delay_between_retries_in_seconds = 0")
        .admin_api()
        .sections("[storage.log]\nsegment_bytes_max = 1_048_576\ncompaction = 'off'")
}

fn node() -> SimulatedNode {
    SimulatedNode::with(NodeOptions { ring_events: 100_000, ..NodeOptions::default() })
}

/// 5 kB each, hard to compress.
fn payloads(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| story::of_random_text(5_000, number).payload).collect()
}

async fn expect_stored(address: SocketAddr, told: &[String]) {
    let target = format!("/events?start_from=0&until={}", told.len() - 1);
    let messages = Request::get(address, &target).patience(PATIENCE).open().await.read_to_end().await;
    assert!(events(&messages).into_iter().eq((0..).zip(told.iter().map(String::as_str))), "every event once, in order");
}

async fn ready(sidecar: &Sidecar) -> (u16, String) {
    let answer = get(sidecar.admin_address(), "/ready").await;
    (answer.status, answer.body)
}

fn log_directory(sidecar: &Sidecar) -> PathBuf {
    sidecar.storage_path().join("logs/casper")
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Asks all servers again and again, as supervisors and clients do, until it is dropped.
struct Watch {
    is_over: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn begin(sidecar: &Sidecar) -> Watch {
        let (is_over, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stream, admin) = (sidecar.sse_address(), sidecar.admin_address());
        let task = tokio::spawn({
            let (is_over, looks) = (Arc::clone(&is_over), Arc::clone(&looks));
            async move {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(get(admin, "/health").await.status, 200);
                    assert_eq!(get(admin, "/metrics").await.status, 200);
                    let first = Request::get(stream, "/events?start_from=0&until=0").open().await.read_to_end().await;
                    assert_eq!(events(&first).len(), 1, "what is stored is served");
                    looks.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        Watch { is_over, looks, task }
    }

    async fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        assert!(self.looks.load(Ordering::Relaxed) > 5);
    }
}

#[tokio::test]
async fn a_log_whose_directory_goes_away_is_waited_for_and_never_recreated() {
    let node = node();
    let mut told = payloads(0..600);
    node.push_all(&told);
    let mut sidecar = small_segments(&node).environment("RUST_LOG", "sidecar=debug").start().await;
    expect_stored(sidecar.sse_address(), &told).await;
    let mut live = Request::get(sidecar.sse_address(), "/events?start_from=599").patience(PATIENCE).open().await;
    live.read_until_id(599).await;
    let watch = Watch::begin(&sidecar);
    let away = sidecar.storage_path().join("away");
    fs::rename(sidecar.storage_path().join("logs"), &away).unwrap();
    let more = payloads(600..1_200);
    node.push_all(&more);
    sidecar.wait_for_output(STOPPED).await;
    sidecar.wait_for_output("holds no log where one must be").await;
    let (status, body) = ready(&sidecar).await;
    assert_eq!(status, 503);
    assert!(body.starts_with("not ready: log casper: nothing is stored") && body.contains("logs/casper"), "{body}");
    assert_eq!(metric(sidecar.admin_address(), r#"sidecar_ingest_stopped{log="casper"}"#).await, 1.0);
    assert_eq!(metric(sidecar.admin_address(), r#"sidecar_log_head{log="casper"}"#).await, 600.0);
    assert!(!log_directory(&sidecar).exists(), "nothing is begun in its place");

    // An empty directory, as a mount point is, is no log either.
    fs::create_dir_all(log_directory(&sidecar)).unwrap();
    let attempts = sidecar.output().matches(NOT_YET).count();
    sidecar.wait_for_outputs(NOT_YET, attempts + 2).await;
    assert_eq!(names(&log_directory(&sidecar)), BTreeSet::new());
    fs::remove_dir_all(sidecar.storage_path().join("logs")).unwrap();

    fs::rename(&away, sidecar.storage_path().join("logs")).unwrap();
    sidecar.wait_for_output(RESUMED).await;
    told.extend(more);
    let messages = live.read_until_id(told.len() as u64 - 1).await;
    assert_eq!(events(&messages).len(), 600, "the same connection gets what comes afterwards");
    expect_stored(sidecar.sse_address(), &told).await;
    assert_eq!(ready(&sidecar).await, (200, "ready".to_owned()));
    assert_eq!(metric(sidecar.admin_address(), r#"sidecar_log_reopened_total{log="casper"}"#).await, 1.0);
    assert_eq!(metric(sidecar.admin_address(), r#"sidecar_ingest_stopped{log="casper"}"#).await, 0.0);
    watch.end().await;
    let output = sidecar.output();
    assert_eq!((output.matches(STOPPED).count(), output.matches(RESUMED).count()), (1, 1), "{output}");
    assert!(sidecar.terminate().success());
    let stopped = format!("stopped, next id {}", told.len());
    assert!(sidecar.output().contains(&stopped), "{}", sidecar.output());
    sidecar.restart().await;
    expect_stored(sidecar.sse_address(), &told).await;
}

#[tokio::test]
async fn another_log_in_its_place_is_left_alone_until_the_right_one_is_back() {
    let node = node();
    let mut told = payloads(0..50);
    node.push_all(&told);
    let mut sidecar = small_segments(&node).start().await;
    expect_stored(sidecar.sse_address(), &told).await;
    let log = log_directory(&sidecar);
    let away = sidecar.storage_path().join("away");
    fs::rename(&log, &away).unwrap();
    let other = WriteOptions::new("casper", [9; 16], 1);
    Writer::open(Arc::new(Directory::create(&log).unwrap()), other).unwrap().writer.close().unwrap();
    let before = names(&log);
    sidecar.wait_for_output("holds another log than the one that was opened there").await;
    assert_eq!(names(&log), before, "nothing is written to it");
    assert_eq!(ready(&sidecar).await.0, 503);
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&away, &log).unwrap();
    sidecar.wait_for_output(RESUMED).await;
    let more = payloads(50..60);
    node.push_all(&more);
    told.extend(more);
    expect_stored(sidecar.sse_address(), &told).await;
}

#[tokio::test]
async fn a_deleted_lock_file_lets_no_second_process_in_and_is_put_back() {
    let node = node();
    let mut told = payloads(0..50);
    node.push_all(&told);
    let mut first = small_segments(&node).start().await;
    expect_stored(first.sse_address(), &told).await;
    let lock = log_directory(&first).join(LOCK_FILE);
    assert!(fs::read_to_string(&lock).unwrap().contains("Leave it here"));
    // The second one opens while the lock file is gone, again and again.
    for _ in 0..3 {
        let resumed = first.output().matches(RESUMED).count();
        fs::remove_file(&lock).unwrap();
        let mut second = sidecar().node(node.address()).storage_folder(first.storage_path()).spawn();
        // It is refused, or is the only writer for as long as it lives.
        if second.wait_until_output_or_exit("listens on").await {
            first.wait_for_output("another process is writing this log").await;
            second.terminate();
        } else {
            assert!(second.errors().contains("another process is writing this log"), "{}", second.errors());
        }
        first.wait_for_outputs(RESUMED, resumed + 1).await;
        assert!(lock.exists());
    }
    let more = payloads(50..60);
    node.push_all(&more);
    told.extend(more);
    expect_stored(first.sse_address(), &told).await;
    assert!(first.terminate().success());
    first.restart().await;
    expect_stored(first.sse_address(), &told).await;
}

/// A library that has every fdatasync of a process fail while a file is there. `None` without a C compiler.
fn failing_syncs(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("failing.c"), folder.join("failing.so"));
    let code = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int file) {
  const char *name = getenv("FAIL_WHILE");
  if (name && access(name, F_OK) == 0) { errno = EIO; return -1; }
  return syscall(SYS_fdatasync, file);
}
"#;
    fs::write(&source, code).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    built.is_ok_and(|status| status.success()).then_some(library)
}

#[tokio::test]
async fn while_syncs_fail_all_ports_serve_and_storing_resumes_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    // It needs a C compiler, `cc`.
    let library = failing_syncs(folder.path()).unwrap();
    let fails = folder.path().join("fails");
    let node = node();
    let mut told = payloads(0..300);
    node.push_all(&told);
    let mut sidecar = small_segments(&node)
        .rest_api()
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .environment("FAIL_WHILE", fails.to_str().unwrap())
        .start()
        .await;
    expect_stored(sidecar.sse_address(), &told).await;
    let mut live = Request::get(sidecar.sse_address(), "/events?start_from=299").patience(PATIENCE).open().await;
    live.read_until_id(299).await;
    let watch = Watch::begin(&sidecar);
    for round in 0..2 {
        fs::write(&fails, "").unwrap();
        let next = told.len() as u64;
        let more = payloads(next..next + 50);
        node.push_all(&more);
        sidecar.wait_for_outputs(STOPPED, round + 1).await;
        assert_eq!(ready(&sidecar).await.0, 503);
        assert_eq!(get(sidecar.rest_address(), "/status").await.status, 200);
        fs::remove_file(&fails).unwrap();
        sidecar.wait_for_outputs(RESUMED, round + 1).await;
        told.extend(more);
        let messages = live.read_until_id(told.len() as u64 - 1).await;
        let got = events(&messages).into_iter().map(|(_, payload)| payload);
        assert!(got.eq(told.iter().skip(next as usize)), "the same connection, nothing lost or doubled");
    }
    assert_eq!(metric(sidecar.admin_address(), r#"sidecar_log_reopened_total{log="casper"}"#).await, 2.0);
    watch.end().await;
    expect_stored(sidecar.sse_address(), &told).await;
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    expect_stored(sidecar.sse_address(), &told).await;
}

#[tokio::test]
async fn a_signal_ends_a_process_whose_log_is_gone() {
    let node = node();
    node.push_all(payloads(0..5));
    let mut sidecar = small_segments(&node).start().await;
    expect_stored(sidecar.sse_address(), &payloads(0..5)).await;
    fs::remove_dir_all(sidecar.storage_path()).unwrap();
    sidecar.wait_for_output(STOPPED).await;
    assert!(sidecar.terminate().success());
    assert!(sidecar.output().contains("stopped, next id 5"), "{}", sidecar.output());
    assert!(!sidecar.storage_path().exists(), "nothing is made anew");
}

#[tokio::test]
async fn where_no_log_may_be_created_nothing_is() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("storage");
    let build = |may: bool| {
        let keys = format!("[storage.log]\ncreate_if_missing = {may}\n[storage.sqlite_config]\nfile_name = 'a.db3'\n");
        sidecar().node(node.address()).storage_folder(&storage).sections(&keys)
    };
    let mut refused = build(false).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    let errors = refused.errors();
    assert!(errors.contains("create_if_missing") && errors.contains("storage/logs/casper"), "{errors}");
    assert!(!storage.exists());
    let told = payloads(0..3);
    node.push_all(&told);
    let mut first = build(true).start().await;
    expect_stored(first.sse_address(), &told).await;
    assert!(first.output().contains("a new log begins"));
    assert!(first.terminate().success());
    let again = build(false).start().await;
    expect_stored(again.sse_address(), &told).await;
}

/// On a network of its own.
fn node_of(network: &str) -> SimulatedNode {
    SimulatedNode::with(NodeOptions { chainspec_name: network.to_owned(), ..NodeOptions::default() })
}

async fn node_status(sidecar: &Sidecar, node: &SimulatedNode) -> i64 {
    let answer = get(sidecar.admin_address(), "/metrics").await;
    let text = answer.body;
    let name = format!("node_statuses{{node=\"{}\"}} ", node.address());
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_log_takes_the_events_of_its_own_network_only() {
    let (right, wrong) = (node_of("casper-test"), node_of("another-net"));
    let told = payloads(0..3);
    right.push_all(&told);
    wrong.push_all(payloads(10..13));
    let folder = tempfile::tempdir().unwrap();
    let build = |nodes: &[&SimulatedNode]| {
        let builder = sidecar().storage_folder(folder.path().join("storage")).admin_api();
        nodes.iter().fold(builder, |builder, node| builder.node(node.address()))
    };
    // The first network is the log's.
    let mut sidecar = build(&[&right]).start().await;
    expect_stored(sidecar.sse_address(), &told).await;
    assert!(sidecar.terminate().success());
    // Also after a restart, whichever node comes first.
    let mut sidecar = build(&[&wrong, &right]).start().await;
    sidecar.wait_for_output("the log holds events of network casper-test and the node is on network another-net").await;
    assert!(sidecar.output().contains("ERROR"));
    sidecar.wait_for_output("connected, protocol version").await;
    assert_eq!((node_status(&sidecar, &wrong).await, node_status(&sidecar, &right).await), (-2, 2));
    // And where a node changes.
    right.set_status("2.0.3", "another-net");
    right.disconnect_all().await;
    assert_eq!(sidecar.wait_for_exit().code(), Some(1));
    right.set_status("2.0.3", "casper-test");
    // Not even a configured name makes it take another one, unless that is allowed.
    let mut refused = build(&[&wrong]).top_level("network_name = 'another-net'").spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    let errors = refused.errors();
    assert!(
        errors.contains("holds events of network casper-test") && errors.contains("allow_network_change"),
        "{errors}"
    );
    let allowed = build(&[&wrong])
        .top_level("network_name = 'another-net'")
        .sections("[storage.log]\nallow_network_change = true")
        .start()
        .await;
    let all: Vec<String> = told.into_iter().chain(payloads(10..13)).collect();
    expect_stored(allowed.sse_address(), &all).await;
}

#[tokio::test]
async fn of_two_networks_at_the_first_start_one_wins() {
    let nodes = [node_of("one"), node_of("two")];
    nodes[0].push_all(payloads(0..3));
    nodes[1].push_all(payloads(10..13));
    let builder = sidecar().admin_api();
    let mut sidecar = nodes.iter().fold(builder, |builder, node| builder.node(node.address())).start().await;
    sidecar.wait_for_output("listening to node ends: the log holds events of network").await;
    sidecar.wait_for_output("connected, protocol version").await;
    let statuses = [node_status(&sidecar, &nodes[0]).await, node_status(&sidecar, &nodes[1]).await];
    let winner = statuses.iter().position(|&status| status == 2).unwrap();
    assert_eq!(statuses[1 - winner], -2, "{statuses:?}");
    expect_stored(sidecar.sse_address(), &payloads([0..3, 10..13][winner].clone())).await;
    let client = SseClient::connect(sidecar.sse_address(), "/events").await;
    assert_eq!(client.header("sidecar-retained-range"), Some("0-2"));
}

#[tokio::test]
async fn warnings_about_events_come_once_however_often_a_node_is_read_again() {
    let node = node();
    let public_key = format!("01{:064x}", 1);
    let fault =
        format!(r#"{{"Fault":{{"era_id":7,"public_key":"{public_key}","timestamp":"2026-01-01T00:00:00.000Z"}}}}"#);
    node.push(&fault);
    let mut sidecar = sidecar().node_with(node.address(), "delay_between_retries_in_seconds = 0").start().await;
    expect_stored(sidecar.sse_address(), &[fault]).await;
    for reconnects in 1..4 {
        node.disconnect_all().await;
        node.wait_for_streams_so_far(reconnects + 1).await;
    }
    node.push(&story::unknown_kind(1).payload);
    let mut live = SseClient::connect(sidecar.sse_address(), "/events?start_from=1").await;
    live.read_until_id(1).await;
    sidecar.wait_for_output("Fault").await;
    let output = sidecar.output();
    let warnings = output.lines().filter(|line| line.contains("sidecar::events")).count();
    assert_eq!(warnings, 1, "{output}");
    assert!(!output.contains("made anew"), "{output}");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test]
async fn the_process_has_one_heap_unless_its_operator_wants_others() {
    let node = node();
    let heaps = async |builder: SidecarBuilder| {
        let sidecar = builder.node(node.address()).start().await;
        let environment = format!("/proc/{}/environ", sidecar.pid().as_raw_nonzero());
        let variables = std::fs::read_to_string(environment).unwrap();
        let value = variables.split('\0').find_map(|variable| variable.strip_prefix("MALLOC_ARENA_MAX="));
        value.map(str::to_owned)
    };
    assert_eq!(heaps(sidecar()).await.as_deref(), Some("1"));
    assert_eq!(heaps(sidecar().environment("MALLOC_ARENA_MAX", "7")).await.as_deref(), Some("7"));
    assert_eq!(heaps(sidecar().environment("GLIBC_TUNABLES", "glibc.malloc.arena_max=7")).await, None);
}
