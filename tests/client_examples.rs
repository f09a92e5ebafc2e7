//! The client examples against the demo: each is killed in the middle and started again, sees Sidecar killed and started
//! again, and has every event once, in order.
//!
//! An example whose interpreter is missing is left out, with a line that names it. `.ci/run` installs them all.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sidecar_test_support::browser::{Browser, Pages};
use sidecar_test_support::installed::python_with;
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::postgresql::{DATABASE, PostgreSql};
use sidecar_test_support::process::{Process, SidecarBuilder, demo};
use sidecar_test_support::recordings;
use sidecar_test_support::wait::until;
use tempfile::TempDir;

/// How long the events may take to reach a client; the growing pauses of its attempts are in it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where `.ci/run` puts a Python with the packages that the example needs.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/client-examples/bin/python");

#[tokio::test]
async fn curl_in_a_shell_has_every_event_once() {
    if has("curl", "apt-get install curl") {
        resumes("bash", &example("curl/follow.sh")).await;
    }
}

#[tokio::test]
async fn node_has_every_event_once() {
    if has("node", "apt-get install nodejs") {
        resumes("node", &example("javascript/follow.mjs")).await;
    }
}

#[tokio::test]
async fn python_has_every_event_once() {
    match python_with(PYTHON, "requests, sseclient") {
        Some(python) => resumes(python, &example("python/follow.py")).await,
        None => {
            eprintln!("left out: no Python with the packages; pip install -r examples/clients/python/requirements.txt")
        }
    }
}

#[tokio::test]
async fn rust_has_every_event_once() {
    // Cargo builds examples with the tests, but not with one test alone, and does not report where they are.
    let test = std::env::current_exe().unwrap();
    let follow = test.parent().and_then(Path::parent).unwrap().join("examples/resuming_client");
    assert!(follow.exists(), "there is no {}: cargo build --example resuming_client", follow.display());
    resumes("env", &follow).await;
}

/// Reports each event that the page handles, and reloads the page in the middle. A report is made before the next event.
const WATCH: &str = r#"<script>
const handleAlone = handle;
handle = (id, event) => {
  handleAlone(id, event);
  const request = new XMLHttpRequest();
  request.open("POST", "/report", false);
  const kind = typeof event === "string" ? event : Object.keys(event)[0];
  const { rows } = document.getElementById("blocks");
  request.send(JSON.stringify({ id, kind, block: rows[0]?.cells[3].textContent, blocks: rows.length }));
  if (id === 500) location.reload();
};
</script>"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_has_every_event_once() {
    let mut demo = Demo::start("200").await;
    let page = std::fs::read_to_string(example("javascript/page.html")).unwrap() + WATCH;
    let pages = Pages::bind().await;
    let address = pages.address();
    let mut reports = pages.serve(&[("/", page)]);
    let _browser = Browser::open(&format!("http://{address}/?url={}", demo.url()));
    for (id, (_, payload)) in recordings::recorded_network().iter().enumerate() {
        let report = reports.next().await;
        assert!(report["id"] == id && report["kind"] == kind(payload), "{id}: {report}");
        if report["kind"] == "BlockAdded" {
            let event: Value = serde_json::from_str(payload).unwrap();
            assert_eq!(report["block"], event["BlockAdded"]["block_hash"], "the newest block is shown first");
        }
        assert!(report["blocks"].as_u64().unwrap() <= 20, "the page does not grow");
        if id == 1_000 {
            demo.kill_and_start_again().await;
        }
    }
}

#[tokio::test]
async fn sql_follows_the_exported_rows_and_answers_questions_alike_in_both_databases() {
    if !has("sqlite3", "apt-get install sqlite3") || !has("psql", "apt-get install postgresql-client") {
        return;
    }
    let mut demo = Demo::start("0").await;
    demo.process.wait_for_output("The recording is over").await;
    assert!(demo.process.terminate().success());
    let server = PostgreSql::start();
    let exports = format!("[storage.sqlite_config]\nfile_name = 'events.db3'\n{}", server.section());
    // Its node is gone; what is stored is exported all the same.
    let node = ReservedPort::new();
    let sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address());
    let _sidecar = sidecar.storage_folder(demo.storage.path()).sections(&exports).start().await;

    let sqlite = demo.storage.path().join("events.db3");
    let (sqlite, postgresql) = (sqlite.to_str().unwrap(), server.url(DATABASE));
    let recording = recordings::recorded_network();
    let folder = tempfile::tempdir().unwrap();
    for (name, database) in [("sqlite", sqlite), ("postgresql", &postgresql)] {
        let file = folder.path().join(name);
        let mut command = Command::new("bash");
        command.arg(example("sql/follow.sh")).arg(database).arg(&file);
        let mut client = Process::start_group(&mut command);
        wait_for_lines(&file, 1).await;
        client.kill9();
        let mut client = Process::start_group(&mut command);
        wait_for_lines(&file, recording.len()).await;
        client.kill9();
        let rows = std::fs::read_to_string(&file).unwrap();
        let found = rows.lines().map(|row| row.split('\t').take(2).collect::<Vec<_>>().join(" "));
        let expected = (1..).zip(&recording).map(|(id, (_, payload))| format!("{id} {}", kind(payload)));
        assert!(found.eq(expected), "{name}: {rows}");
    }

    let questions = std::fs::File::open(example("sql/questions.sql")).unwrap();
    let mut ask_sqlite = Command::new("sqlite3");
    ask_sqlite.args(["-readonly", "-csv", "-init"]).arg(example("sql/sqlite.sql")).arg(sqlite).stdin(questions);
    let mut ask_postgresql = Command::new("psql");
    ask_postgresql
        .args(["--no-psqlrc", "--csv", "--set", "ON_ERROR_STOP=1", "--file"])
        .arg(example("sql/postgresql.sql"));
    ask_postgresql.arg("--file").arg(example("sql/questions.sql")).arg(&postgresql);
    for (command, has_headings) in [(&mut ask_sqlite, false), (&mut ask_postgresql, true)] {
        // They differ in what they quote.
        let answers = output_of(command).replace('"', "");
        let rows: Vec<&str> = answers.lines().collect();
        for row in expected_rows(&recording) {
            assert!(rows.iter().any(|found| found.starts_with(&row)), "no {row} in\n{answers}");
        }
        assert_eq!(rows.iter().any(|row| row.starts_with("era,blocks")), has_headings, "{answers}");
    }
}

/// Starts of rows that the questions answer with, as counted here.
fn expected_rows(recording: &[(u64, String)]) -> Vec<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut eras: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    for (_, payload) in recording {
        *kinds.entry(kind(payload)).or_default() += 1;
        let event: Value = serde_json::from_str(payload).unwrap();
        let header = &event["BlockAdded"]["block"]["Version2"]["header"];
        if let (Some(era), Some(height)) = (header["era_id"].as_u64(), header["height"].as_u64()) {
            eras.entry(era).or_default().push(height);
        }
        let result = &event["TransactionProcessed"]["execution_result"]["Version2"];
        if let Some(error) = result["error_message"].as_str() {
            *failed.entry(error.to_owned()).or_default() += 1;
        }
    }
    let kinds = kinds.iter().map(|(kind, count)| format!("{kind},{count},"));
    let eras = eras.iter().rev().take(5);
    let eras = eras.map(|(era, heights)| {
        format!("{era},{},{},{}", heights.len(), heights.iter().min().unwrap(), heights.iter().max().unwrap())
    });
    let failed = failed.iter().map(|(error, count)| format!("{error},{count}"));
    kinds.chain(eras).chain(failed).collect()
}

/// A running `sidecar demo` whose log outlives it.
struct Demo {
    speed: &'static str,
    stream: ReservedPort,
    storage: TempDir,
    process: Process,
}

impl Demo {
    async fn start(speed: &'static str) -> Self {
        let (stream, storage) = (ReservedPort::new(), tempfile::tempdir().unwrap());
        let process = Self::spawn(speed, &stream, &storage);
        let mut demo = Self { speed, stream, storage, process };
        demo.process.wait_until_listening(demo.stream.address()).await;
        demo
    }

    fn spawn(speed: &str, stream: &ReservedPort, storage: &TempDir) -> Process {
        let mut command = demo(env!("CARGO_BIN_EXE_sidecar"), &[("sse", stream)]);
        Process::start(command.args(["--speed", speed, "--storage-path"]).arg(storage.path()))
    }

    async fn kill_and_start_again(&mut self) {
        self.process.kill9();
        self.process = Self::spawn(self.speed, &self.stream, &self.storage);
        self.process.wait_until_listening(self.stream.address()).await;
    }

    fn url(&self) -> String {
        format!("http://{}/events", self.stream.address())
    }
}

/// Runs an example, `interpreter program URL FOLDER`, and kills it and Sidecar on the way.
async fn resumes(interpreter: &str, program: &Path) {
    // Three to four seconds, so that the clients see stored and new events.
    let mut demo = Demo::start("200").await;
    let expected = expected_lines();
    let bytes = |events: usize| expected[..events].iter().map(String::len).sum::<usize>();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let mut command = Command::new(interpreter);
    command.arg(program).arg(demo.url()).arg(folder.path());

    let mut client = Process::start_group(&mut command);
    wait_for_bytes(&file, bytes(300), &mut client).await;
    client.kill9();
    let mut client = Process::start_group(&mut command);
    wait_for_bytes(&file, bytes(1_000), &mut client).await;
    demo.kill_and_start_again().await;
    wait_for_bytes(&file, bytes(expected.len()), &mut client).await;
    client.kill9();

    let found = std::fs::read_to_string(&file).unwrap();
    let mut found = found.split_inclusive('\n');
    for (id, expected) in expected.iter().enumerate() {
        assert_eq!(found.next(), Some(expected.as_str()), "event {id}");
    }
    // The demo's node has another address each time. If it had come to its end before it was killed, it ends twice.
    let again = format!("{{\"id\":{},\"data\":\"Shutdown\"}}\n", expected.len());
    assert!(found.all(|line| line == again));
}

async fn wait_for_bytes(file: &Path, bytes: usize, client: &mut Process) {
    let length = || std::fs::metadata(file).map_or(0, |metadata| metadata.len() as usize);
    until(PATIENCE, "bytes of the example", async || {
        assert!(!client.has_ended(), "the example ended with {} of {bytes} bytes", length());
        length() >= bytes
    })
    .await;
}

async fn wait_for_lines(file: &Path, lines: usize) {
    until(PATIENCE, "lines of the example", async || {
        std::fs::read_to_string(file).unwrap_or_default().lines().count() >= lines
    })
    .await;
}

/// The recording as the examples write it.
fn expected_lines() -> Vec<String> {
    let recording = recordings::recorded_network();
    let line = |(id, (_, payload)): (usize, &(u64, String))| format!("{{\"id\":{id},\"data\":{payload}}}\n");
    recording.iter().enumerate().map(line).collect()
}

/// The name of an event's kind.
fn kind(payload: &str) -> String {
    payload.split('"').nth(1).unwrap().to_owned()
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/clients").join(file)
}

/// Whether the program is there; if not, a line names the command that installs it.
fn has(program: &str, line: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        eprintln!("left out: there is no {program}; {line}");
    }
    is_there
}
