//! Upgrade in place: a sidecar on the storage folder of the reference names the history there, imports it when asked, and lets
//! clients resume with the ids that the reference gave them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sidecar::engine::storage_folder::is_log;
use sidecar_test_support::client::{Request, SseClient, get};
use sidecar_test_support::node::{NodeOptions, SimulatedNode, stream};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::recordings;
use sidecar_test_support::wait::until;
use tempfile::TempDir;

/// The file name of every example configuration of the reference.
const FILE: &str = "sqlite_database.db3";
const SECTION: &str = "[storage.sqlite_config]\nenabled = false\nfile_name = 'sqlite_database.db3'\nmax_connections_in_pool = 100\nwal_autocheckpointing_interval = 1000\n";
const NOT_IN_THE_LOG: &str = "events of a Casper Sidecar are in the storage folder and not in the log";

fn sidecar(folder: &Path) -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).storage_folder(folder)
}

/// The storage folder as the reference left it after the recorded run: ten events, and the next id.
fn left_by_the_reference() -> (TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch(&recordings::sqlite_dump()).unwrap();
    fs::write(folder.path().join("sse_index"), 10_u32.to_le_bytes()).unwrap();
    (folder, connection)
}

/// What the node of the recorded run sent, once each.
fn said_once() -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for (_, payload) in recordings::transcript_events() {
        if !said.contains(&payload) {
            said.push(payload);
        }
    }
    said
}

/// The recorded node, which still has what it sent.
fn node(payloads: &[String]) -> SimulatedNode {
    let node = SimulatedNode::with(NodeOptions { chainspec_name: "casper-test".to_owned(), ..NodeOptions::default() });
    node.push_all(payloads);
    node
}

#[tokio::test]
async fn clients_resume_with_the_ids_that_the_reference_gave_them() {
    let (folder, connection) = left_by_the_reference();
    drop(connection);
    let said = said_once();
    // Without the shutdown, which is new each time.
    let node = node(&said[..9]);
    let mut sidecar = sidecar(folder.path()).node(node.address()).rest_api().argument("--import-history").start().await;
    let all = SseClient::connect(sidecar.sse_address(), "/events?start_from=0");
    all.await.expect_bytes(&stream("2.0.0", 0, &said)).await;
    // The bytes that the reference itself was recorded with.
    let recorded = recordings::transcript("events-start_from-3.stream");
    let mut from_3 = SseClient::connect(sidecar.sse_address(), "/events?start_from=3").await;
    from_3.expect_bytes(&recorded).await;
    let mut resumed = Request::get(sidecar.sse_address(), "/events").header("last-event-id", "6").open().await;
    assert_eq!(resumed.status(), 200);
    resumed.expect_bytes(&stream("2.0.0", 7, &said[7..])).await;

    // What is new gets the next id; what the node repeats is known.
    let new = r#"{"Step":{"era_id":77,"execution_effects":[]}}"#.to_owned();
    node.push_all([&new]);
    let mut live = SseClient::connect(sidecar.sse_address(), "/events?start_from=10").await;
    live.expect_bytes(&stream("2.0.0", 10, &[new])).await;
    assert_eq!(get(sidecar.rest_address(), "/block/6017012").await.status, 200);
    assert!(!sidecar.output().contains(NOT_IN_THE_LOG), "{}", sidecar.output());
    assert!(sidecar.output().contains("history imported"), "{}", sidecar.output());

    // It is done once.
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=3").await.expect_bytes(&recorded).await;
    assert!(!sidecar.output().contains("history imported"), "{}", sidecar.output());
    assert!(folder.path().join(FILE).exists(), "the database stays");
}

#[tokio::test]
async fn history_that_is_not_imported_is_named_with_the_line_to_type_and_can_be_imported_later() {
    let (folder, _connection) = left_by_the_reference();
    fs::write(folder.path().join("sse_index"), 1000_u32.to_le_bytes()).unwrap();
    let new = r#"{"Step":{"era_id":77,"execution_effects":[]}}"#.to_owned();
    let node = node(std::slice::from_ref(&new));
    let mut sidecar = sidecar(folder.path()).node(node.address()).sections(SECTION).start().await;
    sidecar.wait_for_output(NOT_IN_THE_LOG).await;
    let output = sidecar.output();
    assert!(output.contains("rows=10") && output.contains(FILE), "{output}");
    assert!(output.contains("--path-to-config ") && output.contains(" --import-history"), "{output}");
    SseClient::connect(sidecar.sse_address(), "/events?start_from=1000")
        .await
        .expect_bytes(&stream("2.0.0", 1000, std::slice::from_ref(&new)))
        .await;
    // Still so after a restart.
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    sidecar.wait_for_output(NOT_IN_THE_LOG).await;
    assert!(sidecar.terminate().success());

    let asked = sidecar_with_key(folder.path(), &node).start().await;
    let expected: Vec<String> = said_once().into_iter().chain([new]).collect();
    let mut all = SseClient::connect(asked.sse_address(), "/events?start_from=990").await;
    all.expect_bytes(&stream("2.0.0", 990, &expected)).await;
    assert!(!asked.output().contains(NOT_IN_THE_LOG), "{}", asked.output());
}

fn sidecar_with_key(folder: &Path, node: &SimulatedNode) -> SidecarBuilder {
    sidecar(folder).node(node.address()).replacing("[storage]", "[storage]\nimport_history = true")
}

fn exported_rows(export: &Connection) -> i64 {
    export.query_row(r#"SELECT count(*) FROM "event_log""#, [], |row| row.get(0)).unwrap_or_default()
}

/// A Sidecar that has exported three events into its storage folder, and was restarted; and the export.
async fn restarted_beside_an_own_export(sidecar: SidecarBuilder, folder: &Path) -> (Sidecar, Connection) {
    let exporting = SECTION.replace("enabled = false", "enabled = true");
    let mut sidecar = sidecar.sections(&exporting).start().await;
    let export = Connection::open(folder.join(FILE)).unwrap();
    until(Duration::from_secs(60), "three exported rows", async || exported_rows(&export) == 3).await;
    assert!(sidecar.terminate().success());
    sidecar.restart().await;
    (sidecar, export)
}

#[tokio::test]
async fn an_export_of_ones_own_is_not_taken_for_history() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sse_index"), 1000_u32.to_le_bytes()).unwrap();
    let node = node(&said_once()[..3]);
    let (sidecar, _) = restarted_beside_an_own_export(sidecar(folder.path()).node(node.address()), folder.path()).await;
    assert!(!sidecar.output().contains(NOT_IN_THE_LOG), "{}", sidecar.output());
}

#[tokio::test]
async fn while_history_is_asked_for_an_export_of_ones_own_keeps_no_start_from_succeeding() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(&said_once()[..3]);
    let (mut sidecar, export) =
        restarted_beside_an_own_export(sidecar_with_key(folder.path(), &node), folder.path()).await;
    sidecar.wait_for_output("the database is an export of the log").await;
    assert_eq!(exported_rows(&export), 3);
}

/// Adds faults of these eras to the reference's tables.
fn add_faults(connection: &mut Connection, eras: std::ops::Range<i64>, bytes: usize) {
    let transaction = connection.transaction().unwrap();
    for era in eras {
        let row = r#"INSERT INTO "event_log" SELECT 100 + ?1, 5, "event_source_address", 100 + ?1, ?1 || ' 01',
            "inserted_timestamp", "emitted_timestamp", "api_version", "network_name" FROM "event_log" WHERE "event_log_id" = 1"#;
        transaction.execute(row, [era]).unwrap();
        let fault = r#"INSERT INTO "Fault" VALUES(?1, '01', ?2, 100 + ?1)"#;
        transaction.execute(fault, (era, raw_fault(era, bytes))).unwrap();
    }
    transaction.commit().unwrap();
}

fn raw_fault(era: i64, bytes: usize) -> String {
    let padding = format!("{era:016x}").repeat(bytes / 16);
    format!(r#"{{"era_id":{era},"public_key":"01","padding":"{padding}"}}"#)
}

#[tokio::test]
async fn an_import_that_was_killed_leaves_no_log_and_the_next_start_makes_the_whole() {
    let (folder, mut connection) = left_by_the_reference();
    add_faults(&mut connection, 1..5_001, 1024);
    let node = node(&[]);
    let importing = folder.path().join("logs/casper.importing");
    let mut killed = sidecar_with_key(folder.path(), &node).spawn();
    let deadline = Instant::now() + Duration::from_secs(120);
    let has_begun = || fs::read_dir(&importing).is_ok_and(|entries| entries.count() > 0);
    while !has_begun() {
        assert!(Instant::now() < deadline, "{}", killed.output());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    killed.kill9();
    assert!(importing.exists(), "it was killed in the middle");

    // Without the import, its ids would be given to others.
    let mut refused = sidecar(folder.path()).node(node.address()).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    assert!(refused.errors().contains("start with `--import-history`"), "{}", refused.errors());

    let sidecar = sidecar_with_key(folder.path(), &node).rest_api().start().await;
    let head = get(sidecar.rest_address(), "/events?limit=1").await;
    assert!(head.body.ends_with(r#""head":5010}"#), "{:.300}", head.body);
    assert!(!importing.exists());
}

#[tokio::test]
async fn an_import_that_sigterm_stops_ends_in_order_and_the_command_it_logs_makes_the_whole() {
    let (folder, mut connection) = left_by_the_reference();
    add_faults(&mut connection, 1..10_001, 256);
    let node = node(&[]);
    let importing = folder.path().join("logs/casper.importing");
    for stage in ["stage=\"checking\"", "stage=\"importing\""] {
        let mut stopped = sidecar(folder.path()).node(node.address()).argument("--import-history").spawn();
        stopped.wait_for_output(stage).await;
        assert!(stopped.terminate().success(), "{}", stopped.errors());
        let output = stopped.output();
        assert!(output.contains("the import of history was stopped before its end"), "{output}");
        let command = format!("--path-to-config {} --import-history\"", stopped.config_file().display());
        assert!(output.contains(&command), "{output}");
        assert!(!output.contains("listens on"), "{output}");
        assert!(!is_log(&folder.path().join("logs/casper")).unwrap(), "it was stopped in the middle");
    }

    let sidecar = sidecar(folder.path()).node(node.address()).argument("--import-history").start().await;
    let faults = (1..10_001).map(|era| format!(r#"{{"Fault":{}}}"#, raw_fault(era, 256)));
    let whole: Vec<String> = said_once().into_iter().chain(faults).collect();
    let mut all = SseClient::connect(sidecar.sse_address(), "/events?start_from=0&until=10009").await;
    all.expect_bytes(&stream("2.0.0", 0, &whole)).await;
    assert_eq!(all.next_chunk().await, None, "nothing is doubled");
    assert!(!importing.exists());
}

#[tokio::test]
async fn a_database_that_cannot_be_imported_is_named_for_what_it_is() {
    let version_1 =
        r#"CREATE TABLE "event_log" ("event_log_id" integer); CREATE TABLE "DeployAccepted" ("deploy_hash" text)"#;
    let folder = tempfile::tempdir().unwrap();
    Connection::open(folder.path().join("old.db3")).unwrap().execute_batch(version_1).unwrap();
    let node = node(&[]);
    let why = "is a database of the Casper Sidecar 1.x: it has a table DeployAccepted; only databases of version 2.x can be imported";
    let mut refused = sidecar_with_key(folder.path(), &node).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    assert!(refused.errors().contains(why), "{}", refused.errors());
    assert!(!folder.path().join("logs/casper.importing").exists());

    let mut named = sidecar(folder.path()).node(node.address()).start().await;
    named.wait_for_output(why).await;

    let nothing = tempfile::tempdir().unwrap();
    let mut nothing = sidecar_with_key(nothing.path(), &node).start().await;
    nothing.wait_for_output("there is no history to import").await;
}
