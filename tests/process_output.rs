//! Log lines and messages are for people: whether they are read makes no difference to anything else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use std::fs::{File, OpenOptions};
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sidecar_test_support::client::{Request, SseClient, get, metric};
use sidecar_test_support::documentation::expect_file;
use sidecar_test_support::fast::EndlessStory;
use sidecar_test_support::node::{NodeOptions, SimulatedNode};
use sidecar_test_support::process::{Process, Sidecar, SidecarBuilder};
use sidecar_test_support::wait::until;
use tokio::net::UnixDatagram;

const BINARY: &str = env!("CARGO_BIN_EXE_sidecar");
/// Each is logged; their lines are several times what is kept of them.
const EVENTS: u64 = 20_000;

fn dev_full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A sidecar that writes a line for each of its events to `output`.
async fn talkative(node: &SimulatedNode, output: impl Into<OwnedFd>) -> Sidecar {
    SidecarBuilder::new(BINARY)
        .node_with(node.address(), "enable_logging = true")
        .environment("RUST_LOG", "info,sidecar::events=debug")
        .admin_api()
        .output_to(output)
        .start()
        .await
}

fn node_with_events() -> SimulatedNode {
    let story = EndlessStory::render(1, 10);
    let node = SimulatedNode::with(NodeOptions { ring_events: EVENTS as usize, ..NodeOptions::default() });
    node.push_all((0..EVENTS).map(|number| story.payload(number)));
    node
}

/// Everything is stored and served, the admin server answers, and SIGTERM is followed.
async fn works_to_the_end(mut sidecar: Sidecar) {
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.read_until_id(EVENTS - 1).await;
    assert_eq!(get(sidecar.admin_address(), "/health").await.status, 200);
    // The line of an event is written a moment after it is served.
    let patience = Duration::from_secs(30);
    let admin = sidecar.admin_address();
    until(patience, "lines are dropped, and counted", async || {
        metric(admin, "sidecar_log_lines_dropped_total").await > 0.0
    })
    .await;
    assert_eq!(sidecar.terminate().code(), Some(0));
}

#[tokio::test]
async fn it_works_to_the_end_though_the_reader_of_its_lines_has_gone() {
    let node = node_with_events();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    works_to_the_end(talkative(&node, writer).await).await;
}

#[tokio::test]
async fn it_works_to_the_end_though_its_lines_go_to_a_full_disk() {
    let node = node_with_events();
    works_to_the_end(talkative(&node, dev_full()).await).await;
}

#[tokio::test]
async fn it_works_to_the_end_though_its_lines_are_not_read() {
    let node = node_with_events();
    let (_reader, writer) = pipe().unwrap();
    works_to_the_end(talkative(&node, writer).await).await;
}

/// What the process answers to `arguments`, and its exit status.
fn answer(arguments: &[&str]) -> (String, i32) {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (text, output.status.code().unwrap())
}

#[test]
fn what_people_type_for_a_subcommand_is_guessed() {
    let mut answers = String::new();
    for typed in ["run", "sidecar.toml", "validate", "health", "cat", "ini", "nonsense"] {
        let (refusal, status) = answer(&[typed]);
        assert_eq!(status, 2, "{refusal}");
        answers += &format!("$ sidecar {typed}\n{refusal}\n");
    }
    expect_file("tests/data/command_line/guesses.txt", &answers);
}

#[test]
fn messages_that_cannot_be_written_leave_the_exit_status_as_it_is() {
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let outputs: [OwnedFd; 2] = [closed.into(), dev_full().into()];
    for output in &outputs {
        for (arguments, status) in [
            (&["--help"][..], 0),
            (&["--version"], 0),
            (&[], 2),
            (&["--path-to-config", "/nowhere/sidecar.toml"], 1),
            (&["demo", "--speed=-1"], 1),
            (&["status", "--address", "127.0.0.1:0"], 2),
        ] {
            let mut process = Process::start_with_output(Command::new(BINARY).args(arguments), output);
            assert_eq!(process.wait_for_exit().code(), Some(status), "{arguments:?}");
        }
    }
}

#[test]
fn an_error_that_is_not_read_does_not_keep_the_process() {
    let (_reader, writer) = pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["--path-to-config", "/nowhere/sidecar.toml"]);
    let mut process = Process::start_with_output(&mut command, &writer.into());
    assert_eq!(process.wait_for_exit().code(), Some(1));
}

#[tokio::test]
async fn a_level_that_is_mistyped_is_named_and_the_usual_lines_come_without_colour() {
    for (wanted, named) in [("", "RUST_LOG is empty"), ("warn,sidecar=inof", "`sidecar=inof`"), ("inof", "`inof`")] {
        let node = SimulatedNode::start();
        let mut sidecar =
            SidecarBuilder::new(BINARY).node(node.address()).environment("RUST_LOG", wanted).start().await;
        sidecar.wait_for_output("listens on").await;
        assert!(sidecar.terminate().success());
        let output = sidecar.output();
        assert!(output.contains(named) && output.contains("RUST_LOG is ignored"), "{output}");
        assert!(output.contains("Received SIGTERM"), "{output}");
        assert!(!output.contains('\u{1b}'), "{output}");
    }
}

#[tokio::test]
async fn a_hangup_has_log_level_and_tokens_read_again_and_ends_nothing() {
    let (node, folder) = (SimulatedNode::start(), tempfile::tempdir().unwrap());
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "old-token-of-this-test\n").unwrap();
    let section = format!("[admin_api_server.bearer_tokens]\nfile = {tokens:?}\n");
    let builder = SidecarBuilder::new(BINARY).node(node.address()).admin_api().sections(&section);
    let mut sidecar = builder.top_level("log_level = 'warn,sidecar=info'").start().await;
    let admin = sidecar.admin_address();
    let status = async |token: &str| {
        let request = Request::get(admin, "/status").header("authorization", &format!("Bearer {token}"));
        request.answer().await.status
    };
    assert_eq!((status("old-token-of-this-test").await, status("new-token-of-this-test").await), (200, 401));
    let config = std::fs::read_to_string(sidecar.config_file()).unwrap();
    std::fs::write(sidecar.config_file(), config.replace("sidecar=info", "sidecar=debug")).unwrap();
    std::fs::write(&tokens, "new-token-of-this-test\n").unwrap();
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_output("changed files are in use").await;
    sidecar.wait_for_output("log_level=\"warn,sidecar=debug\"").await;
    assert_eq!((status("old-token-of-this-test").await, status("new-token-of-this-test").await), (401, 200));
    sidecar.wait_for_output("path=\"/status\"").await;

    // A file that cannot be used changes nothing.
    std::fs::write(sidecar.config_file(), config.replace("sidecar=info", "sidecar=inof")).unwrap();
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_output("the configuration cannot be used").await;
    assert!(sidecar.output().contains("`sidecar=inof`"), "{}", sidecar.output());
    SseClient::connect(sidecar.sse_address(), "/events").await;
    assert!(sidecar.terminate().success());
}

#[tokio::test]
async fn every_line_is_an_object_where_json_is_wanted_and_the_first_ones_name_what_runs_and_what_is_stored() {
    let node = SimulatedNode::start();
    let mut sidecar = SidecarBuilder::new(BINARY).node(node.address()).top_level("log_format = 'json'").start().await;
    sidecar.wait_for_output("listens on").await;
    assert!(sidecar.terminate().success());
    let output = sidecar.output();
    let lines: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&json!("INFO"), &json!("Sidecar starts")));
    assert_eq!(lines[0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(lines[0]["commit"].as_str().is_some_and(|commit| !commit.is_empty()), "{output}");
    let opened = lines.iter().find(|line| line["message"] == "the log is open").unwrap();
    assert_eq!((&opened["oldest"], &opened["next_id"]), (&json!(0), &json!(0)));
    assert!(["segments", "bytes", "milliseconds"].iter().all(|fact| opened[fact].is_u64()), "{opened}");
}

/// The next message to the service manager.
async fn notification(manager: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(30), manager.recv(&mut message));
    let length = received.await.expect("the service manager is notified").unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

/// Takes messages until there is one like that.
async fn notification_that(manager: &UnixDatagram, is_it: impl Fn(&str) -> bool) {
    let mut others = Vec::new();
    let begun = std::time::Instant::now();
    loop {
        let message = notification(manager).await;
        if is_it(&message) {
            return;
        }
        others.push(message);
        others.dedup();
        assert!(begun.elapsed() < Duration::from_secs(30), "{others:?}");
    }
}

#[tokio::test]
async fn a_service_manager_is_notified_of_the_start_the_life_and_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let node = SimulatedNode::start();
    let mut sidecar = SidecarBuilder::new(BINARY)
        .node(node.address())
        .environment("NOTIFY_SOCKET", socket.to_str().unwrap())
        .environment("WATCHDOG_USEC", "30000")
        .spawn();
    let mut ready = notification(&manager).await;
    while !ready.starts_with("READY=1\n") {
        assert!(ready.starts_with("EXTEND_TIMEOUT_USEC="), "{ready}");
        ready = notification(&manager).await;
    }
    assert_eq!(ready, "READY=1\nSTATUS=serving; log casper is empty");
    // It is notified when the port is open, and not before.
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let story = EndlessStory::render(1, 10);
    node.push_all((0..2).map(|number| story.payload(number)));
    live.read_until_id(1).await;
    notification_that(&manager, |message| message == "STATUS=serving; log casper has events 0 to 1\nWATCHDOG=1").await;
    // The same state is not sent again.
    assert_eq!([notification(&manager).await, notification(&manager).await], ["WATCHDOG=1"; 2]);
    assert!(sidecar.terminate().success());
    notification_that(&manager, |message| message.starts_with("STOPPING=1\nSTATUS=")).await;
}

#[tokio::test]
async fn a_service_manager_that_cannot_be_notified_is_named_and_ends_nothing() {
    let node = SimulatedNode::start();
    let mut sidecar =
        SidecarBuilder::new(BINARY).node(node.address()).environment("NOTIFY_SOCKET", "/nowhere/notify").start().await;
    sidecar.wait_for_output("correct or unset NOTIFY_SOCKET").await;
    assert!(sidecar.terminate().success());
}
