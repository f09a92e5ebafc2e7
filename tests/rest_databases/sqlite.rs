//! SQLite: a file that is filled meanwhile, moved, locked, missing, or not the right one.

use std::path::Path;

use rusqlite::Connection;
use sidecar_test_support::client::get;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::recordings;
use tempfile::TempDir;

use crate::questions::{
    NO_DATABASE, assert_only_in_log, assert_recorded_answers, assert_same_answers, exported, payloads, sidecar,
    wait_for_status,
};

const FILE: &str = "sqlite_database.db3";
const SECTION: &str = "[storage.sqlite_config]\nfile_name = 'sqlite_database.db3'\nmax_connections_in_pool = 100\n";

/// Without nodes and log, on the file in this folder.
fn rest_alone(folder: &Path) -> SidecarBuilder {
    rest_alone_with(folder, "")
}

/// The same with further keys of the REST server.
fn rest_alone_with(folder: &Path, keys: &str) -> SidecarBuilder {
    let section = format!("[storage]\nstorage_folder = {folder:?}\n{SECTION}");
    sidecar().without_sse_server().sections(&section).rest_api_with(&format!("answer_from = 'sqlite'\n{keys}"))
}

/// A folder with the database that the reference has filled.
fn filled() -> (TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch(&recordings::sqlite_dump()).unwrap();
    (folder, connection)
}

#[tokio::test]
async fn answers_are_those_from_the_log_byte_for_byte_while_the_file_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let payloads = payloads();
    let builder = sidecar().sections(SECTION).storage_folder(folder.path());
    let (_node, from_log) = exported(builder, &payloads, || {
        let connection = Connection::open(folder.path().join(FILE)).unwrap();
        let checkpoint = r#"SELECT "next_sequence" FROM "sidecar_checkpoint""#;
        connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0)).unwrap_or_default() as u64
    })
    .await;
    let mut from_sqlite = rest_alone(folder.path()).start().await;
    assert_same_answers(&from_log, &from_sqlite, &payloads).await;
    assert!(from_sqlite.terminate().success());
}

#[tokio::test]
async fn what_the_tables_do_not_hold_is_refused_with_what_to_ask_instead() {
    let (folder, _connection) = filled();
    let sidecar = rest_alone(folder.path()).admin_api().start().await;
    assert_only_in_log(&sidecar, "SQLite").await;
    assert_eq!(get(sidecar.admin_address(), "/ready").await.body, "ready");
}

#[tokio::test]
async fn a_file_that_the_reference_filled_gives_the_references_recorded_answers_and_is_only_read() {
    let (folder, connection) = filled();
    drop(connection);
    let before = std::fs::read(folder.path().join(FILE)).unwrap();
    let mut sidecar = rest_alone(folder.path()).start().await;
    assert_recorded_answers(&sidecar).await;
    assert!(sidecar.terminate().success());
    assert!(std::fs::read(folder.path().join(FILE)).unwrap() == before);
    assert!(!folder.path().join("logs").exists(), "no log is made");
}

#[tokio::test]
async fn a_missing_file_is_waited_for_and_one_that_is_replaced_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut sidecar = rest_alone(folder.path()).admin_api().start().await;
    let address = sidecar.rest_address();
    let away = async || {
        for _ in 0..3 {
            let answer = get(address, "/block").await;
            assert_eq!((answer.status, answer.body.as_str()), (500, NO_DATABASE));
        }
        assert!(get(address, "/status").await.body.ends_with(r#""sqlite":{"status":"unreachable"}}"#));
        let ready = get(sidecar.admin_address(), "/ready").await;
        assert_eq!((ready.status, ready.body.as_str()), (503, "not ready: the database does not answer"));
    };
    away().await;
    let (other, connection) = filled();
    drop(connection);
    std::fs::rename(other.path().join(FILE), folder.path().join(FILE)).unwrap();
    let block = wait_for_status(address, "/block", 200).await;
    assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 200);

    std::fs::rename(folder.path().join(FILE), folder.path().join("archived")).unwrap();
    away().await;
    let (other, connection) = filled();
    connection.execute_batch(r#"DELETE FROM "BlockAdded" WHERE "height" = 6017012"#).unwrap();
    drop(connection);
    std::fs::rename(other.path().join(FILE), folder.path().join(FILE)).unwrap();
    assert_ne!(wait_for_status(address, "/block", 200).await.body, block.body);
    sidecar.wait_for_outputs("answers again", 2).await;
    assert!(sidecar.terminate().success());
    let output = sidecar.output();
    assert_eq!(output.matches("cannot reach SQLite database").count(), 2, "once each time: {output}");
}

#[tokio::test]
async fn a_locked_file_fails_the_questions_of_that_time_and_no_others() {
    let (folder, connection) = filled();
    // Only then a writer keeps readers out.
    connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
    let builder = rest_alone_with(folder.path(), "request_timeout_in_seconds = 2");
    let mut sidecar = builder.admin_api().start().await;
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let answer = get(sidecar.rest_address(), "/block").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, NO_DATABASE));
    assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 503);
    sidecar.wait_for_output("another program keeps it locked (database is locked)").await;
    connection.execute_batch("ROLLBACK").unwrap();
    assert_eq!(get(sidecar.rest_address(), "/block").await.status, 200);
    assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 200);
}

/// Makes a question for a step take longer than any client waits.
const SLOW_STEP: &str = r#"
    ALTER TABLE "Step" RENAME TO "fast";
    CREATE VIEW "Step" AS SELECT "fast".* FROM "fast" WHERE (
        WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT max(n) FROM numbers
    ) > 0
"#;

#[tokio::test]
async fn a_request_that_takes_too_long_is_cancelled_and_delays_no_other() {
    let (folder, connection) = filled();
    connection.execute_batch(SLOW_STEP).unwrap();
    let sidecar = rest_alone_with(folder.path(), "request_timeout_in_seconds = 1").start().await;
    let address = sidecar.rest_address();
    // More than are asked at once: without an end, none of them would leave room.
    let slow: Vec<_> = (0..8).map(|_| tokio::spawn(async move { get(address, "/step/1").await })).collect();
    for answer in slow {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.body.contains("longer than request_timeout_in_seconds"), "{}", answer.body);
    }
    wait_for_status(address, "/block", 200).await;
}

#[tokio::test]
async fn a_table_that_goes_is_one_questions_failure() {
    let (folder, connection) = filled();
    let sidecar = rest_alone(folder.path()).admin_api().start().await;
    connection.execute_batch(r#"ALTER TABLE "Step" RENAME TO "away""#).unwrap();
    for _ in 0..3 {
        let step = get(sidecar.rest_address(), "/step/1").await;
        assert_eq!(step.status, 500);
        assert!(step.body.contains("the database refuses this question"), "{}", step.body);
    }
    connection
        .execute_batch(r#"ALTER TABLE "away" RENAME TO "Step"; UPDATE "Step" SET "raw" = '{"era_id":1'"#)
        .unwrap();
    let broken = get(sidecar.rest_address(), "/step/1").await;
    assert!(broken.status == 500 && broken.body.contains("Error deserializing returned data: EOF"), "{}", broken.body);
    let output = sidecar.output();
    assert_eq!(output.matches("no such table: ").count(), 1, "{output}");
}

#[tokio::test]
async fn one_sidecar_may_fill_the_file_and_answer_from_it() {
    let node = SimulatedNode::start();
    node.push_all(payloads());
    let sidecar =
        sidecar().node(node.address()).rest_api_with("answer_from = 'sqlite'").sections(SECTION).start().await;
    let block = wait_for_status(sidecar.rest_address(), "/block/2000001", 200).await;
    assert!(block.body.contains(&format!("{:064x}", 2_000_001)), "{}", block.body);
    assert_eq!(get(sidecar.rest_address(), "/events").await.status, 501);
    assert!(!sidecar.storage_path().join("views").exists(), "nobody needs the views");
}

#[test]
fn a_file_without_the_tables_is_refused_with_what_to_do() {
    let place = |folder: &Path| format!("SQLite database {}", folder.join(FILE).display());
    let first = "let a Sidecar that reads nodes export to it first, with `[sse_server]` and `[storage.sqlite_config]`, or give another database";
    let missing = |what: &str| format!("PLACE does not hold Sidecar's tables ({what}); {first}");
    let cases = [
        (r#"DROP TABLE "Migration""#, missing("no such table: Migration")),
        (r#"DELETE FROM "Migration""#, missing(r#"the table "Migration" is empty"#)),
        (r#"DROP TABLE "Step""#, missing("no such table: Step")),
        (
            r#"INSERT INTO "Migration" VALUES (2, 1)"#,
            "the tables of PLACE are of migration version 2, and this version of Sidecar knows version 1 only"
                .to_owned(),
        ),
        (
            r#"UPDATE "Migration" SET "is_success" = 0"#,
            "Cannot proceed with migration, newest migration version: 1 didn't finish correctly. It is that of PLACE"
                .to_owned(),
        ),
    ];
    for (change, sentence) in cases {
        let (folder, connection) = filled();
        connection.execute_batch(change).unwrap();
        let mut refused = rest_alone(folder.path()).spawn();
        assert_eq!(refused.wait_for_exit().code(), Some(1));
        let sentence = sentence.replace("PLACE", &place(folder.path()));
        let expected = format!("Error: Error initializing component 'rest_api_server': {sentence}");
        assert!(refused.errors().starts_with(&expected), "{}", refused.errors());
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE), "a diary, and not a database").unwrap();
    let mut refused = rest_alone(folder.path()).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    assert!(
        refused.errors().contains("file is not a database; give a file that is a SQLite database"),
        "{}",
        refused.errors()
    );
}
