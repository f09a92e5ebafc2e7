//! What cannot work is refused in words that name the thing and the way out, with the reference's texts and exit codes, and
//! costs nothing that is stored. And the orderly ends.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{WriteOptions, Writer};
use sidecar_test_support::client::{Ending, Request, SseClient};
use sidecar_test_support::node::{NodeOptions, SimulatedNode, stream};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Process, Sidecar, SidecarBuilder};
use sidecar_test_support::story::{Story, StoryOptions};
use sidecar_test_support::wait::until;

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A sidecar that has stored a story, and the stream it serves.
async fn with_history() -> (SimulatedNode, Sidecar, Vec<u8>) {
    let told = Story::new(1, &StoryOptions::small(5));
    let node = SimulatedNode::start();
    node.push_all(told.events());
    let sidecar = sidecar().node(node.address()).start().await;
    let history = stream("2.0.0", 0, told.events());
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
    (node, sidecar, history)
}

/// The standard error of a sidecar that must end with exit code 1.
fn refusal(builder: SidecarBuilder) -> String {
    let mut process = builder.spawn();
    assert_eq!(process.wait_for_exit().code(), Some(1), "{}", process.output());
    process.errors()
}

fn assert_names(errors: &str, parts: &[&str]) {
    for part in parts {
        assert!(errors.contains(part), "{part:?} is missing in:\n{errors}");
    }
}

#[test]
fn a_bad_configuration_is_refused_with_its_key_its_value_and_the_fix() {
    let node = ReservedPort::new();
    let cases: [(&str, &str, &[&str]); 9] = [
        (
            "storage_folder = ",
            "storage_folder = = ",
            &["Error: Error constructing config", "Error parsing config into TOML format", "line 3, column"],
        ),
        (
            "enable_server = true",
            "enable_server = 'yes'",
            &["Error: Error constructing config", "sse_server.enable_server", "'yes'", "expected a boolean"],
        ),
        (
            "max_concurrent_subscribers = 100\n",
            "",
            &["missing field `max_concurrent_subscribers`", "sse_server.event_stream_server"],
        ),
        (
            "[storage]",
            "[storage.log]\nblock_bytes_max = 17\n[storage]",
            &["Error: Error constructing config", "`storage.log.block_bytes_max` is 17", "4096"],
        ),
        (
            "max_attempts = 1000000",
            "max_attempts = 0",
            &[
                "Error: Error running component 'sse_event_server': Unable to run: max_attempts setting must be above 0 for the sidecar to attempt connection",
            ],
        ),
        (
            "enable_server = true",
            "enable_server = false",
            &["Error: At least one of RPC server or SSE server must be configured"],
        ),
        (
            "[storage]\nstorage_folder",
            "[elsewhere]\nfolder",
            &["Error: Can't run SSE if no `[storage.storage_folder]` is defined"],
        ),
        (
            "disable_event_persistence = false",
            "emulate_legacy_sse_apis = ['V2']",
            &["unknown variant `V2`, expected `V1`"],
        ),
        (
            "storage_folder = ",
            "storage_path = '/a'\nstorage_folder = ",
            &["`storage.storage_path`", "`storage.storage_folder`", "keep only"],
        ),
    ];
    for (text, by, parts) in cases {
        assert_names(&refusal(sidecar().node(node.address()).replacing(text, by)), parts);
    }
}

#[test]
fn a_configuration_that_has_nothing_to_run_is_answered_with_the_ways_out() {
    let rpc = "[rpc_server.main_server]\nip_address = '127.0.0.1'\nport = 0\n[rpc_server.node_client]\n";
    let alone = || sidecar().without_sse_server().sections("[storage]\nstorage_folder = 'not-made'");
    let errors = refusal(alone().sections(rpc).rest_api().admin_api());
    let ways_out = ["which needs `[sse_server]`: add that", "for REST without nodes set `rest_api_server.answer_from"];
    assert_names(&errors, &["Error: Can't run Rest api server with SSE events persistence disabled"]);
    assert_names(&errors, &ways_out);
    let errors = refusal(alone().rest_api());
    assert_names(&errors, &["Error: At least one of RPC server or SSE server must be configured", ways_out[1]]);
    assert!(!Path::new("not-made").exists());
}

#[test]
fn a_configuration_file_that_is_not_there_is_refused_in_the_references_words() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    let mut process = Process::start(command.arg("-p").arg(&missing).env("RUST_BACKTRACE", "1"));
    assert_eq!(process.wait_for_exit().code(), Some(1));
    let expected = format!(
        "Error: Error constructing config\n\n\
         Caused by:\n    \
             0: Error reading config file contents\n    \
             1: No such file or directory (os error 2)\n    \
             2: --path-to-config names the file {}\n",
        missing.display()
    );
    assert_eq!(process.errors(), expected);
}

#[tokio::test]
async fn each_server_reports_where_it_listens() {
    let node = SimulatedNode::start();
    let mut sidecar = sidecar().node(node.address()).rest_api().admin_api().start().await;
    for (server, address) in
        [("event stream", sidecar.sse_address()), ("REST", sidecar.rest_address()), ("admin", sidecar.admin_address())]
    {
        sidecar.wait_for_output(&format!("the {server} server listens on 0.0.0.0:{}", address.port())).await;
    }
}

#[tokio::test]
async fn an_event_stream_that_cannot_be_reached_is_reported_in_sidecars_words_only() {
    let (node, down) = (SimulatedNode::start(), ReservedPort::new());
    let (port, down) = (format!("sse_port = {}", node.address().port()), format!("sse_port = {}", down.number()));
    let mut sidecar = sidecar().node(node.address()).replacing(&port, &down).start().await;
    sidecar.wait_for_outputs("Lost connection to node", 2).await;
    assert!(!sidecar.output().contains("eventsource_client"), "{}", sidecar.output());
}

#[tokio::test]
async fn an_unknown_key_is_a_warning_with_the_nearest_known_one_and_stops_nothing() {
    let node = SimulatedNode::start();
    let mut sidecar = sidecar().node(node.address()).top_level("max_thread_cuont = 1").start().await;
    sidecar
        .wait_for_output("`max_thread_cuont` (line 1) is ignored; the nearest known key is `max_thread_count`")
        .await;
    node.wait_for_connections(1).await;
}

#[tokio::test]
async fn bad_requests_are_refused_in_the_references_words_or_our_own_and_disturb_no_other_client() {
    let (_node, sidecar, history) = with_history().await;
    let path = "invalid path: expected '/events' or '/events/sidecar'\n";
    let query = "invalid query: expected single field 'start_from=<EVENT ID>'\n";
    let cases = [
        ("GET", "/events?start_from=", 422, query),
        ("GET", "/events?start_from=-1", 422, query),
        ("GET", "/events?start_from=abc", 422, query),
        ("GET", "/events?start_from=18446744073709551616", 422, query),
        ("GET", "/events/main", 404, path),
        ("GET", "/nothing", 404, path),
        ("GET", "//events", 404, path),
        ("GET", "/events/%6dain", 404, path),
        ("GET", "/Events", 404, path),
        ("POST", "/events", 404, path),
        ("PUT", "/events/sidecar", 404, path),
    ];
    for (method, target, status, body) in cases {
        let mut answer = Request::new(method, sidecar.sse_address(), target).open().await;
        assert_eq!(answer.status(), status, "{method} {target}");
        assert_eq!(String::from_utf8(answer.body().await).unwrap(), body, "{method} {target}");
        assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()), "{method} {target}");
        assert_eq!(answer.header("content-type"), None, "{method} {target}");
    }
    for (target, status, words) in [
        ("/events?start_from=1&until=x", 422, "'until=<EVENT ID>'"),
        ("/events?start=1", 422, "'start_from=<EVENT ID>', 'until=<EVENT ID>', 'since=<RFC 3339 TIME>', 'types="),
        ("/events?start_from=1&x=2", 422, "unknown field"),
        ("/events?until=5&until=5", 422, "`until` is given more than once"),
        ("/events?log=00112233445566778899aabbccddeeff", 409, "this log is "),
        ("/", 200, "/events?start_from=0"),
    ] {
        let answer = Request::get(sidecar.sse_address(), target).answer().await;
        assert!(answer.status == status && answer.body.contains(words), "{target}: {answer:?}");
    }
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
}

#[tokio::test]
async fn one_subscriber_too_many_is_refused_until_another_leaves() {
    let node = SimulatedNode::start();
    let sidecar = sidecar().node(node.address()).max_concurrent_subscribers(2).start().await;
    let first = SseClient::connect(sidecar.sse_address(), "/events").await;
    let _second = SseClient::connect(sidecar.sse_address(), "/events/sidecar").await;
    let mut third = SseClient::connect(sidecar.sse_address(), "/events").await;
    assert_eq!(third.status(), 503);
    assert_eq!(third.body().await, b"server has reached limit of subscribers");
    drop(first);
    until(Duration::from_secs(30), "the place of the client that left is free", async || {
        SseClient::connect(sidecar.sse_address(), "/events").await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_its_owner_is_left_alone() {
    let (node, owner, history) = with_history().await;
    let taken = owner.sse_address().port().to_string();
    let second = sidecar().node(node.address());
    let own = second.sse_address().port().to_string();
    let errors = refusal(second.replacing(&format!("port = {own}\n"), &format!("port = {taken}\n")));
    let expected = [
        "Error: Error running component 'sse_event_server': Error starting EventStreamServer",
        &taken,
        "taken",
        "port",
    ];
    assert_names(&errors, &expected);
    SseClient::connect(owner.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
}

#[tokio::test]
async fn a_second_sidecar_on_the_same_storage_is_refused_and_the_first_continues() {
    let (node, owner, history) = with_history().await;
    let errors = refusal(sidecar().node(node.address()).storage_folder(owner.storage_path()));
    let log = owner.storage_path().join("logs/casper");
    assert_names(
        &errors,
        &[
            "Error: Error initializing component 'sse_event_server': ",
            log.to_str().unwrap(),
            "locked",
            "another process",
        ],
    );
    SseClient::connect(owner.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
}

#[tokio::test]
async fn a_log_of_another_dialect_is_refused_and_left_as_it_is() {
    let storage = tempfile::tempdir().unwrap();
    let log = storage.path().join("logs/casper");
    let foreign = Directory::create(&log).unwrap();
    Writer::open(Arc::new(foreign), WriteOptions::new("beacon", [1; 16], 1)).unwrap().writer.close().unwrap();
    let before = files(&log);

    let node = ReservedPort::new();
    let errors = refusal(sidecar().node(node.address()).storage_folder(storage.path()));
    assert_names(&errors, &["beacon", "casper", log.to_str().unwrap(), "another storage path"]);
    assert!(files(&log) == before, "nothing in it has changed");
}

#[tokio::test]
async fn a_damaged_header_of_the_newest_segment_is_named_and_restored_from_its_copy() {
    let (_node, mut sidecar, history) = with_history().await;
    assert!(sidecar.terminate().success());
    let (file, sound) = newest_segment(&sidecar);
    let mut damaged = sound.clone();
    damaged[40] ^= 0xFF;
    std::fs::write(&file, &damaged).unwrap();
    sidecar.restart().await;
    sidecar.wait_for_output("header was damaged and is restored from its copy").await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
    assert_eq!(std::fs::read(&file).unwrap()[40], sound[40]);
}

#[tokio::test]
async fn a_segment_whose_header_has_no_copy_either_is_refused_and_nothing_is_lost_by_it() {
    let without_header = |segment: &mut [u8], head: &mut [u8]| {
        segment[40] ^= 0xFF;
        head[1024..].fill(0);
    };
    refused_until_restored(without_header, &["corrupt", "sidecar-log repair"]).await;
}

#[tokio::test]
async fn a_newer_format_is_refused_with_its_version_and_nothing_is_lost_by_it() {
    // The version follows eight bytes that identify the file's type; the last four of the header are its checksum.
    let newer = |segment: &mut [u8], _: &mut [u8]| {
        segment[8..10].copy_from_slice(&999_u16.to_le_bytes());
        let end = usize::from(u16::from_le_bytes([segment[10], segment[11]])) - 4;
        let checksum = crc32fast::hash(&segment[..end]);
        segment[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    };
    refused_until_restored(newer, &["999", "newer release"]).await;
}

fn newest_segment(sidecar: &Sidecar) -> (PathBuf, Vec<u8>) {
    let log = sidecar.storage_path().join("logs/casper");
    let (name, bytes) = files(&log).into_iter().rfind(|(name, _)| name.ends_with(".segment")).unwrap();
    (log.join(name), bytes)
}

/// A log whose newest segment and head were changed is refused in these words and left alone; changed back, it serves all
/// it had.
async fn refused_until_restored(change: impl Fn(&mut [u8], &mut [u8]), words: &[&str]) {
    let (_node, mut sidecar, history) = with_history().await;
    assert!(sidecar.terminate().success());
    let (segment, sound_segment) = newest_segment(&sidecar);
    let head = segment.with_file_name("head");
    let sound_head = std::fs::read(&head).unwrap();
    let (mut changed_segment, mut changed_head) = (sound_segment.clone(), sound_head.clone());
    change(&mut changed_segment, &mut changed_head);
    std::fs::write(&segment, &changed_segment).unwrap();
    std::fs::write(&head, &changed_head).unwrap();

    sidecar.spawn_again();
    assert_eq!(sidecar.wait_for_exit().code(), Some(1), "{}", sidecar.output());
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert_names(&sidecar.errors(), &["Error: Error initializing component 'sse_event_server': ", name]);
    assert_names(&sidecar.errors(), words);
    assert!(std::fs::read(&segment).unwrap() == changed_segment, "what it cannot read it does not touch");

    std::fs::write(&segment, sound_segment).unwrap();
    std::fs::write(&head, sound_head).unwrap();
    sidecar.restart().await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.expect_bytes(&history).await;
}

#[test]
fn a_storage_folder_that_is_a_file_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("storage");
    std::fs::write(&file, "something else").unwrap();
    let node = ReservedPort::new();
    let errors = refusal(sidecar().node(node.address()).storage_folder(&file));
    assert_names(&errors, &["Error: Error initializing component 'sse_event_server': ", file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "something else");
}

#[tokio::test]
async fn no_log_is_created_in_the_place_of_an_import_that_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let importing = folder.path().join("logs/casper.importing");
    let unfinished = Arc::new(Directory::create(&importing).unwrap());
    let writer = Writer::open(unfinished, WriteOptions::new("casper", [7; 16], 0)).unwrap().writer;
    drop(writer);
    let stored = files(&importing);
    let node = SimulatedNode::start();
    let sidecar = || sidecar().node(node.address()).storage_folder(folder.path());
    let errors = refusal(sidecar());
    assert_names(
        &errors,
        &["let `sidecar-log import` end, start with `--import-history`, or remove", importing.to_str().unwrap()],
    );
    assert_eq!(files(&importing), stored);
    assert!(!folder.path().join("logs/casper").exists());

    std::fs::remove_dir_all(&importing).unwrap();
    sidecar().start().await.terminate();
    // A log that is there stays what it is.
    std::fs::create_dir(&importing).unwrap();
    sidecar().start().await;
}

/// The names and contents of a directory's files.
fn files(directory: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[tokio::test]
async fn both_signals_end_it_in_order_and_clients_are_cut_without_a_message() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let (node, mut sidecar, history) = with_history().await;
        let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
        client.expect_bytes(&history).await;
        let mut for_shutdowns = SseClient::connect(sidecar.sse_address(), "/events/sidecar").await;
        sidecar.signal(signal);
        assert!(client.body().await.is_empty(), "{name}");
        assert_eq!(client.ending(), Some(Ending::Cut), "{name}");
        let rest = String::from_utf8(for_shutdowns.body().await).unwrap();
        assert!(rest.starts_with("data:{\"SidecarVersion\":") && !rest.contains("Shutdown"), "{rest}");
        assert_eq!(sidecar.wait_for_exit().code(), Some(0), "{name}");
        assert_names(&sidecar.output(), &[&format!("Received {name} signal. Shutting down...")]);
        node.wait_for_no_connections().await;
    }
}

#[tokio::test]
async fn without_any_usable_node_it_notifies_its_watchers_and_ends_with_an_error() {
    let elsewhere =
        SimulatedNode::with(NodeOptions { chainspec_name: "another-net".to_owned(), ..NodeOptions::default() });
    let too_old = SimulatedNode::with(NodeOptions { build_version: "1.5.8".to_owned(), ..NodeOptions::default() });
    let unreachable = ReservedPort::new();
    let mut sidecar = sidecar()
        .top_level("network_name = 'casper-test'")
        .node(elsewhere.address())
        .node(too_old.address())
        .node_with(unreachable.address(), "max_attempts = 3")
        .start()
        .await;
    let mut watcher = SseClient::connect(sidecar.sse_address(), "/events/sidecar").await;
    let told = watcher.read_to_end().await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((told[1].data.as_str(), told[1].id), ("\"Shutdown\"", None));
    assert_eq!(sidecar.wait_for_exit().code(), Some(1));
    let text = "Error: Error running component 'sse_event_server': Connected node(s) are unavailable";
    assert_names(&sidecar.errors(), &[text]);

    assert_names(&refusal(self::sidecar()), &[text]);
}
