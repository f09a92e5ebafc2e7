//! The SQL exporters: rows complete and single in SQLite and PostgreSQL, whatever dies, stops or fills up on the way.
//!
//! What rows there must be is computed by a naive model that knows the tables' rules and nothing of Sidecar.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sidecar_test_support::client::Request;
use sidecar_test_support::disk::SmallDisk;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::postgresql::{DATABASE, PASSWORD, PostgreSql, PostgreSqlOptions};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::recordings;
use sidecar_test_support::story::{Story, StoryOptions};
use sidecar_test_support::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "export/checkpoints.rs"]
mod checkpoints;
#[path = "export/lost_rows.rs"]
mod lost_rows;
#[path = "export/model.rs"]
mod model;
#[path = "export/property.rs"]
mod property;
#[path = "export/refusing_tables.rs"]
mod refusing_tables;
#[path = "export/world.rs"]
mod world;

use model::{Event, Model};
use world::World;

const SQLITE: &str = "[storage.sqlite_config]\nfile_name = 'events.db3'\n";
/// How long the exporters may take to bring everything over.
const PATIENCE: Duration = Duration::from_secs(60);

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A database that can be asked.
#[derive(Clone, Copy)]
enum Database<'a> {
    Sqlite(&'a Path),
    PostgreSql(&'a PostgreSql, &'a str),
}

impl Database<'_> {
    /// The rows that a statement gives, all columns as text.
    fn query(self, sql: &str) -> Vec<Vec<String>> {
        match self {
            Self::Sqlite(file) => {
                let connection = rusqlite::Connection::open(file).unwrap();
                connection.busy_timeout(Duration::from_secs(5)).unwrap();
                let mut statement = connection.prepare(sql).unwrap();
                let columns = statement.column_count();
                let rows = statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect());
                rows.unwrap().map(Result::unwrap).collect()
            }
            Self::PostgreSql(server, database) => server.query(database, sql),
        }
    }

    /// The first sequence that is not exported yet, once the exporter has made its tables.
    fn checkpoint(self) -> Option<u64> {
        let table = match self {
            Self::Sqlite(file) if !file.exists() => return None,
            Self::Sqlite(_) => {
                r#"SELECT CAST(count(*) AS TEXT) FROM "sqlite_master" WHERE "name" = 'sidecar_checkpoint'"#
            }
            Self::PostgreSql(..) => {
                r#"SELECT CAST(count(*) AS TEXT) FROM "pg_tables" WHERE "tablename" = 'sidecar_checkpoint'"#
            }
        };
        if self.query(table) != [["1"]] {
            return None;
        }
        let rows = self.query(r#"SELECT CAST("next_sequence" AS TEXT) FROM "sidecar_checkpoint""#);
        rows.first().map(|row| row[0].parse().unwrap())
    }

    async fn wait_for_checkpoint(self, wanted: u64) {
        until(PATIENCE, &format!("exported up to {wanted}"), async || self.checkpoint() >= Some(wanted)).await;
    }

    /// Everything that the tables have of events, one text per event, in order.
    fn rows(self) -> Vec<String> {
        let event_log = self.query(
            r#"SELECT CAST("event_log_id" AS TEXT), CAST("event_type_id" AS TEXT), "event_source_address",
               CAST("event_id" AS TEXT), "event_key", "api_version", "network_name"
               FROM "event_log" l ORDER BY l."event_log_id""#,
        );
        let mut contents: HashMap<String, Vec<String>> = HashMap::new();
        let tables = [
            r#"'BlockAdded', CAST("height" AS TEXT), "block_hash", "raw" FROM "BlockAdded""#,
            r#"'TransactionAccepted', "transaction_hash", CAST("transaction_type_id" AS TEXT), "raw" FROM "TransactionAccepted""#,
            r#"'TransactionProcessed', "transaction_hash", CAST("transaction_type_id" AS TEXT), "raw" FROM "TransactionProcessed""#,
            r#"'TransactionExpired', "transaction_hash", CAST("transaction_type_id" AS TEXT), "raw" FROM "TransactionExpired""#,
            r#"'Fault', CAST("era" AS TEXT), "public_key", "raw" FROM "Fault""#,
            r#"'FinalitySignature', "block_hash", "public_key", "raw" FROM "FinalitySignature""#,
            r#"'Step', CAST("era" AS TEXT), '', "raw" FROM "Step""#,
            r#"'Shutdown', "event_source_address", substr(CAST("shutdown_timestamp" AS TEXT), 1, 19), '' FROM "Shutdown""#,
            r#"'transaction_event', "transaction_hash", CAST("transaction_type_id" AS TEXT), '' FROM "transaction_event""#,
        ];
        for table in tables {
            for mut row in self.query(&format!(r#"SELECT CAST("event_log_id" AS TEXT), {table}"#)) {
                let id = row.remove(0);
                contents.entry(id).or_default().push(row.join(" "));
            }
        }
        let rows = event_log.into_iter().map(|mut row| {
            let id = row.remove(0);
            let content = contents.remove(&id).unwrap_or_default();
            format!("{} | {}", row.join(" "), content.join(" | "))
        });
        let rows = rows.collect();
        assert!(contents.is_empty(), "rows without one in event_log: {contents:?}");
        rows
    }

    /// The rows are the model's, in its order.
    fn assert_equals(self, model: &Model) {
        let (found, expected) = (self.rows(), model.rows());
        let first_difference = found.iter().zip(expected).position(|(found, expected)| found != expected);
        if let Some(at) = first_difference {
            panic!("row {at} differs:\n{}\nis not\n{}", found[at], expected[at]);
        }
        assert_eq!(found.len(), expected.len(), "the first rows are the same");
    }
}

/// What the node of these tests says of each payload, told from id 0 on.
fn told<'a>(node: &SimulatedNode, payloads: impl IntoIterator<Item = &'a String>) -> Vec<Event> {
    let source = node.address().to_string();
    let events = payloads.into_iter().zip(0..);
    events
        .map(|(payload, id)| Event {
            payload: payload.clone(),
            source: source.clone(),
            id,
            api_version: "2.0.0".to_owned(),
            network: "casper-test".to_owned(),
            shutdown_second: None,
        })
        .collect()
}

/// Payloads of distinct events, some of which have no table or share SQL keys with others.
fn payloads() -> Vec<String> {
    let sample = |name: &str| std::fs::read_to_string(format!("tests/data/events/{name}.json")).unwrap();
    let mut payloads: Vec<String> =
        Story::new(11, &StoryOptions::small(150)).events().iter().map(|event| event.payload.clone()).collect();
    let expired = sample("TransactionExpired.deploy").trim_end().to_owned();
    let block = sample("BlockAdded.version1").trim_end().to_owned();
    let signature = sample("FinalitySignature.node_v2");
    let signature: Value = serde_json::from_str(&signature).unwrap();
    let v2 = &signature["FinalitySignature"]["V2"];
    let v1 = serde_json::json!({"FinalitySignature": {"V1": {
        "block_hash": v2["block_hash"], "era_id": 0, "signature": v2["signature"], "public_key": v2["public_key"],
    }}});
    let hash = &block[block.find("hash\":\"").unwrap() + 7..][..64];
    let others = [
        sample("Fault.secp256k1").trim_end().to_owned(),
        // One hash, two types: two identities, but `TransactionExpired` has the hash alone for its key.
        expired.replace("Deploy", "Version1"),
        expired,
        r#"{"SomethingNew":{"number":1}}"#.to_owned(),
        r#"{"Step":{"era_id":"in an unknown shape"}}"#.to_owned(),
        // Two blocks of one height.
        block.replace(hash, &"ab".repeat(32)),
        block,
        // One signature in its two forms.
        signature.to_string(),
        v1.to_string(),
        "{\"Fault\":\n{\"era_id\": 12345678901,\n\"public_key\": \"01ab\", \"timestamp\": \"later\"}}".to_owned(),
    ];
    for (other, at) in others.into_iter().zip((0..).step_by(17)) {
        payloads.insert(at, other);
    }
    payloads
}

fn model_of(events: &[Event]) -> Model {
    let mut model = Model::default();
    events.iter().for_each(|event| model.apply(event));
    model
}

fn sqlite_file(sidecar: &Sidecar) -> PathBuf {
    sidecar.storage_path().join("events.db3")
}

#[tokio::test]
async fn both_databases_get_every_event_once_where_the_tables_have_a_place_for_it() {
    let (node, server) = (SimulatedNode::start(), PostgreSql::start());
    let payloads = payloads();
    node.push_all(&payloads);
    let mut sidecar = sidecar().node(node.address()).sections(&format!("{SQLITE}{}", server.section())).start().await;
    let file = sqlite_file(&sidecar);
    let databases = [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)];
    let model = model_of(&told(&node, &payloads));
    assert!(model.collisions >= 3 && model.without_table >= 2, "{} {}", model.collisions, model.without_table);
    for database in databases {
        database.wait_for_checkpoint(payloads.len() as u64).await;
        database.assert_equals(&model);
        let migration = r#"SELECT CAST("version" AS TEXT), CAST("is_success" AS TEXT) FROM "Migration""#;
        let migration = database.query(migration);
        assert!(migration == [["1", "1"]] || migration == [["1", "true"]], "{migration:?}");
    }
    assert!(sidecar.terminate().success());
    assert!(!sidecar.output().contains(PASSWORD));
}

#[tokio::test]
async fn a_recorded_network_is_exported_with_its_shutdown() {
    let node = SimulatedNode::start();
    let payloads: Vec<String> = recordings::recorded_network().into_iter().map(|(_, payload)| payload).collect();
    node.push_all(&payloads);
    let sidecar = sidecar().node(node.address()).sections(SQLITE).start().await;
    let file = sqlite_file(&sidecar);
    let database = Database::Sqlite(&file);
    database.wait_for_checkpoint(payloads.len() as u64).await;
    let mut events = told(&node, &payloads);
    let shutdown = database.query(r#"SELECT strftime('%s', "shutdown_timestamp") FROM "Shutdown""#);
    events.last_mut().unwrap().shutdown_second = Some(shutdown[0][0].parse().unwrap());
    database.assert_equals(&model_of(&events));
}

#[tokio::test]
async fn a_recorded_run_of_the_reference_gives_the_rows_that_it_wrote() {
    let (node, server) = (SimulatedNode::start(), PostgreSql::start());
    node.push_all(recordings::transcript_events().iter().map(|(_, payload)| payload));
    let sidecar = sidecar().node(node.address()).sections(&format!("{SQLITE}{}", server.section())).start().await;
    let (file, folder) = (sqlite_file(&sidecar), tempfile::tempdir().unwrap());
    let theirs = folder.path().join("theirs");
    reference_sqlite(&theirs);
    // Each run has a node of its own, and its shutdown a time of its own.
    let of_any_run = |database: Database<'_>, node: &str| {
        let mut rows: Vec<String> = database.rows().iter().map(|row| row.replace(node, "NODE")).collect();
        let shutdown = rows.pop().unwrap();
        assert!(shutdown.starts_with("8 http://NODE/ 10 http://NODE/-"), "{shutdown}");
        rows
    };
    let expected = of_any_run(Database::Sqlite(&theirs), "10.0.0.1:9999");
    assert_eq!(expected.len(), 9);
    for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
        database.wait_for_checkpoint(10).await;
        assert_eq!(of_any_run(database, &node.address().to_string()), expected);
    }
}

#[test]
fn the_tables_are_the_references_own() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("theirs");
    reference_sqlite(&theirs);
    let ours = World::new(folder.path(), Some((&server, DATABASE))).file;
    let tables = r#"SELECT "name", "sql" FROM "sqlite_master" WHERE "sql" IS NOT NULL ORDER BY "name""#;
    let without_spaces = |file: &Path| -> BTreeMap<String, String> {
        let rows = Database::Sqlite(file).query(tables);
        rows.into_iter().map(|row| (row[0].clone(), row[1].split_whitespace().collect())).collect()
    };
    assert_eq!(without_spaces(&ours), without_spaces(&theirs));

    server.psql(DATABASE, r#"DROP TABLE "sidecar_checkpoint""#);
    server.psql("postgres", "CREATE DATABASE theirs");
    server.psql("theirs", &text_of_transcript("postgres-schema.sql"));
    let statements = |database: &str| {
        let schema = server.schema(database);
        let lines = schema.lines().filter(|line| !line.starts_with("--") && !line.starts_with("\\"));
        let schema = lines.collect::<Vec<_>>().join("\n");
        // Settings of the session, and the reference's dump has none.
        schema
            .split(";\n")
            .filter(|part| !part.trim_start().starts_with("SE"))
            .map(str::to_owned)
            .collect::<HashSet<_>>()
    };
    assert_eq!(statements(DATABASE), statements("theirs"));
}

fn text_of_transcript(file: &str) -> String {
    String::from_utf8(recordings::transcript(file)).unwrap()
}

/// A database with what the reference wrote into it: ten events.
fn reference_sqlite(file: &Path) {
    rusqlite::Connection::open(file).unwrap().execute_batch(&recordings::sqlite_dump()).unwrap();
}

#[test]
fn times_are_in_utc_and_in_the_references_form_wherever_the_server_is() {
    let server = PostgreSql::with(&PostgreSqlOptions {
        settings: "timezone = 'Asia/Tokyo'".to_owned(),
        ..PostgreSqlOptions::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let begun = now();
    world.tell(r#""Shutdown""#, 1, 1, 0);
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.stop();
    let file = world.file.clone();
    for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
        // With the second in which the node shut down.
        database.assert_equals(&world.model);
        let times = r#"SELECT CAST("inserted_timestamp" AS TEXT), CAST("emitted_timestamp" AS TEXT) FROM "event_log""#;
        let [inserted, emitted] = &database.query(times)[0][..] else { panic!("two columns were asked for") };
        let since = humantime::parse_rfc3339_weak(inserted).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!((begun..=now()).contains(&since.as_secs()), "{inserted}");
        // When it was received.
        let is_sqlite = matches!(database, Database::Sqlite(_));
        assert_eq!(emitted, if is_sqlite { "2026-01-02 03:04:05" } else { "2026-01-02 03:04:05.199999" });
        if is_sqlite {
            assert_eq!(inserted.len(), "YYYY-MM-DD HH:MM:SS".len(), "{inserted}");
        }
    }
}

#[tokio::test]
async fn databases_that_the_reference_filled_are_continued() {
    let (node, server) = (SimulatedNode::start(), PostgreSql::start());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.db3");
    reference_sqlite(&file);
    server.fill_as_the_reference(DATABASE);
    let databases = [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)];
    let before = databases.map(Database::rows);
    assert_eq!(before[0].len(), 10);
    assert_eq!(before[0], before[1]);

    // The node still has what the reference exported, and then more.
    let mut payloads: Vec<String> = recordings::transcript_events().into_iter().map(|(_, payload)| payload).collect();
    payloads.dedup();
    payloads.retain(|payload| payload != "\"Shutdown\"");
    let known = payloads.iter().collect::<HashSet<_>>().len();
    let new: Vec<String> = Story::new(3, &StoryOptions::small(5)).events().iter().map(|e| e.payload.clone()).collect();
    payloads.extend(new.iter().cloned());
    node.push_all(&payloads);
    let _sidecar = sidecar()
        .node(node.address())
        .storage_folder(folder.path())
        .sections(&format!("{SQLITE}{}", server.section()))
        .start()
        .await;
    let stored = known + new.len();
    let expected = model_of(&told(&node, &payloads)[payloads.len() - new.len()..]);
    for (database, before) in databases.into_iter().zip(before) {
        database.wait_for_checkpoint(stored as u64).await;
        let rows = database.rows();
        assert_eq!(rows[..10], before);
        assert_eq!(rows[10..], *expected.rows());
        let first_new = r#"SELECT CAST(count(*) AS TEXT) FROM "event_log" WHERE "event_log_id" <= 10"#;
        assert_eq!(database.query(first_new), [["10"]]);
    }
}

#[tokio::test]
async fn tables_of_an_unknown_or_unfinished_migration_are_refused_and_left_alone() {
    let unknown = "the tables of {} are of migration version 2, and this version of Sidecar knows version 1 only; use a newer Sidecar, or give another database";
    let unfinished =
        "Cannot proceed with migration, newest migration version: 1 didn't finish correctly. It is that of {}";
    let server = PostgreSql::start();
    for (change, sentence) in [
        (r#"INSERT INTO "Migration" VALUES (2, true)"#, unknown),
        (r#"UPDATE "Migration" SET "is_success" = false"#, unfinished),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.db3");
        reference_sqlite(&file);
        rusqlite::Connection::open(&file).unwrap().execute(change, []).unwrap();
        server.psql(DATABASE, "DROP SCHEMA public CASCADE; CREATE SCHEMA public");
        server.fill_as_the_reference(DATABASE);
        server.psql(DATABASE, change);
        let places = [
            format!("SQLite database {}", file.display()),
            format!("PostgreSQL database {DATABASE} at 127.0.0.1:{}", server.port()),
        ];
        for (section, place) in [SQLITE, &server.section()].into_iter().zip(places) {
            let down = ReservedPort::new();
            let builder = sidecar().node(down.address()).storage_folder(folder.path()).sections(section);
            let mut refused = builder.spawn();
            assert_eq!(refused.wait_for_exit().code(), Some(1));
            let sentence = sentence.replace("{}", &place);
            let expected = format!("Error: Error initializing component 'sse_event_server': {sentence}\n");
            assert_eq!(refused.errors(), expected);
        }
        for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
            assert_eq!(database.rows().len(), 10);
            assert_eq!(database.checkpoint(), None);
        }
    }
}

#[tokio::test]
async fn an_export_from_the_head_leaves_out_what_was_there_before() {
    let node = SimulatedNode::start();
    let payloads = payloads();
    let (before, after) = payloads.split_at(100);
    node.push_all(before);
    let mut sidecar = sidecar().node(node.address()).start().await;
    let mut client =
        sidecar_test_support::client::SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    client.read_until_id(99).await;
    assert!(sidecar.terminate().success());
    let storage = sidecar.storage_path();
    let export_from = |place: &str| {
        SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
            .node(node.address())
            .storage_folder(&storage)
            .sections(&format!("{SQLITE}export_from = '{place}'\n"))
            .start()
    };
    let mut second = export_from("head").await;
    let file = sqlite_file(&second);
    Database::Sqlite(&file).wait_for_checkpoint(100).await;
    node.push_all(after);
    Database::Sqlite(&file).wait_for_checkpoint(payloads.len() as u64).await;
    Database::Sqlite(&file).assert_equals(&model_of(&told(&node, &payloads)[100..]));
    assert!(second.terminate().success());

    // What is older than an export's first event is named, with the way to have it.
    let mut third = export_from("oldest").await;
    third.wait_for_output("delete the row of this log_id from sidecar_checkpoint").await;
    assert!(third.terminate().success());
    assert_eq!(Database::Sqlite(&file).rows().len(), model_of(&told(&node, &payloads)[100..]).rows().len());
    rusqlite::Connection::open(&file).unwrap().execute_batch(r#"DELETE FROM "sidecar_checkpoint""#).unwrap();
    let _fourth = export_from("oldest").await;
    Database::Sqlite(&file).wait_for_checkpoint(payloads.len() as u64).await;
    // Of two events with one key the first exported has the row.
    assert_eq!(Database::Sqlite(&file).rows().len(), model_of(&told(&node, &payloads)).rows().len());
}

#[tokio::test]
async fn rows_are_complete_and_single_after_kills_in_the_middle_of_an_export() {
    const KILLS: usize = 8;
    let seed = std::env::var("SIDECAR_TEST_SEED").map_or(5, |seed| seed.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(seed);
    let (node, server) = (SimulatedNode::start(), PostgreSql::start());
    let payloads = payloads();
    let sections = format!("{SQLITE}{}", server.section());
    let mut sidecar = sidecar().node(node.address()).sections(&sections).start().await;
    let file = sqlite_file(&sidecar);
    let databases = [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)];
    let parts = payloads.len().div_ceil(KILLS);
    for part in payloads.chunks(parts) {
        for few in part.chunks(7) {
            node.push_all(few);
            tokio::time::sleep(Duration::from_millis(rng.gen_range(0..5))).await;
        }
        sidecar.kill9();
        sidecar.restart().await;
    }
    let model = model_of(&told(&node, &payloads));
    for database in databases {
        database.wait_for_checkpoint(payloads.len() as u64).await;
        database.assert_equals(&model);
    }
}

#[tokio::test]
async fn postgresql_may_be_away_at_the_start_and_crash_in_the_middle() {
    let (node, mut server) = (SimulatedNode::start(), PostgreSql::start());
    server.stop_at_once();
    let payloads = payloads();
    let (first, rest) = payloads.split_at(payloads.len() / 3);
    node.push_all(first);
    let mut sidecar = sidecar().node(node.address()).sections(&server.section()).start().await;
    // Serving continues without it.
    let mut client =
        sidecar_test_support::client::SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    client.read_until_id(first.len() as u64 - 1).await;
    server.start_again();
    Database::PostgreSql(&server, DATABASE).wait_for_checkpoint(first.len() as u64).await;
    for part in rest.chunks(rest.len().div_ceil(3)) {
        for few in part.chunks(10) {
            node.push_all(few);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        server.stop_at_once();
        server.start_again();
    }
    let database = Database::PostgreSql(&server, DATABASE);
    database.wait_for_checkpoint(payloads.len() as u64).await;
    database.assert_equals(&model_of(&told(&node, &payloads)));
    assert!(sidecar.terminate().success());
    assert!(sidecar.output().contains("it is retried"), "{}", sidecar.output());
    assert!(!sidecar.output().contains(PASSWORD));
}

#[tokio::test]
async fn what_became_of_the_events_and_whether_the_databases_are_there_shows_in_the_metrics() {
    let (node, mut server) = (SimulatedNode::start(), PostgreSql::start());
    server.stop_at_once();
    let block = |hash: &str, height: u64| {
        let block = format!(r#"{{"Version2":{{"header":{{"height":{height}}}}}}}"#);
        format!(r#"{{"BlockAdded":{{"block_hash":"{}","block":{block}}}}}"#, hash.repeat(32))
    };
    let payloads = [
        block("01", 1),
        block("02", 2),
        // Another block of the same height.
        block("03", 2),
        // SQLite makes a floating point number of it, PostgreSQL takes none.
        block("04", u64::MAX),
        r#"{"New":1}"#.to_owned(),
    ];
    node.push_all(&payloads);
    let sections = format!("{SQLITE}{}", server.section());
    let mut sidecar = sidecar().node(node.address()).sections(&sections).admin_api().start().await;
    wait_for_metrics(&sidecar, r#"{log="casper",exporter="sqlite"}"#, &["connected 1", "lag_events 0", "rows_total 3"])
        .await;
    let away = r#"{log="casper",exporter="postgresql"}"#;
    let metrics = wait_for_metrics(&sidecar, away, &["connected 0", "lag_events 5", "rows_total 0"]).await;
    assert!(!metrics.contains(&format!("sidecar_exporter_failures_total{away} 0\n")), "{metrics}");
    wait_for_metrics(&sidecar, away, &["failures_total 3"]).await;
    let reports = sidecar.output().matches("export failed").count();
    assert_eq!(reports, 1, "a failure that stays the same is reported once:\n{}", sidecar.output());
    server.start_again();
    let there = ["connected 1", "lag_events 0", "rows_total 2", "collisions_total 1", "refused_total 1"];
    wait_for_metrics(&sidecar, away, &[&there[..], &["without_table_total 1"]].concat()).await;
    let sqlite = ["collisions_total 1", "refused_total 0", "without_table_total 1", "failures_total 0"];
    wait_for_metrics(&sidecar, r#"{log="casper",exporter="sqlite"}"#, &sqlite).await;
    sidecar.wait_for_output("the database cannot hold this event").await;
    let output = sidecar.output();
    let line = output.lines().find(|line| line.contains("the database cannot hold this event")).unwrap();
    assert!(line.contains("postgresql") && line.contains("height 18446744073709551615 is above"), "{line}");
}

/// Waits until the exporter with these labels has all these values, each after the end of its metric's name; all metrics.
async fn wait_for_metrics(sidecar: &Sidecar, labels: &str, values: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let body = Request::get(sidecar.admin_address(), "/metrics").open().await.body().await;
        let text = String::from_utf8(body).unwrap();
        let lines = values.iter().map(|value| value.split_once(' ').unwrap());
        let lines = lines.map(|(name, value)| format!("\nsidecar_exporter_{name}{labels} {value}\n"));
        if lines.into_iter().all(|line| text.contains(&line)) {
            return text;
        }
        assert!(Instant::now() < deadline, "no {values:?} for {labels} in\n{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

type Act<'a> = Box<dyn Fn() + 'a>;

#[tokio::test]
async fn a_full_disk_under_postgresql_holds_the_export_up_until_there_is_room() {
    let node = SimulatedNode::start();
    let server = PostgreSql::start();
    let disk = SmallDisk::mount_on(server.make_folder("small-disk"), 24 << 20);
    let (fill, free): (Act<'_>, Act<'_>) = match &disk {
        Some(disk) => {
            server.give_to_account(disk.path());
            server.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
            server.psql("postgres", &format!("ALTER DATABASE {DATABASE} SET TABLESPACE small"));
            let ballast = disk.path().join("ballast");
            let remove = ballast.clone();
            (
                Box::new(move || {
                    let mut all_there_is = std::fs::File::create(&ballast).unwrap();
                    while all_there_is.write_all(&[1; 4096]).is_ok() {}
                }),
                Box::new(move || std::fs::remove_file(&remove).unwrap()),
            )
        }
        None => {
            // Not by `eprintln`, which shows nothing of a test that passes.
            let told =
                b"no file system can be mounted here: PostgreSQL only says that its disk is full. It needs root.\n";
            std::io::stderr().write_all(told).unwrap();
            let fill = r#"
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
                CREATE TRIGGER refuse BEFORE INSERT ON "event_log" EXECUTE FUNCTION refuse()"#;
            let free = r#"DROP TRIGGER refuse ON "event_log""#;
            let server = &server;
            let run = move |sql: &str| drop(server.psql(DATABASE, sql));
            (Box::new(move || run(fill)), Box::new(move || run(free)))
        }
    };

    let payloads = payloads();
    let (first, rest) = payloads.split_at(100);
    node.push_all(first);
    let mut sidecar = sidecar().node(node.address()).sections(&server.section()).start().await;
    let database = Database::PostgreSql(&server, DATABASE);
    database.wait_for_checkpoint(100).await;
    fill();
    node.push_all(rest);
    sidecar.wait_for_output("it is retried").await;
    assert!(database.checkpoint() < Some(payloads.len() as u64));
    assert!(sidecar.output().contains("No space left on device"), "{}", sidecar.output());
    free();
    database.wait_for_checkpoint(payloads.len() as u64).await;
    database.assert_equals(&model_of(&told(&node, &payloads)));
    assert!(sidecar.terminate().success());
}

#[tokio::test]
async fn tls_is_used_as_sslmode_requires() {
    let key = rcgen::KeyPair::generate().unwrap();
    let of = |host: &str| rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    let certificate = of("localhost").self_signed(&key).unwrap().pem();
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&right, &certificate).unwrap();
    let other_key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&wrong, of("localhost").self_signed(&other_key).unwrap().pem()).unwrap();
    let server = PostgreSql::with(&PostgreSqlOptions {
        certificate: Some((certificate, key.serialize_pem())),
        only_tls: true,
        ..PostgreSqlOptions::default()
    });
    let node = SimulatedNode::start();
    let payloads = payloads();
    node.push_all(&payloads[..50]);
    let section = |host: &str, mode: &str, root: Option<&Path>| {
        let section = server.section().replace("127.0.0.1", host);
        let root = root.map(|root| format!("sslrootcert = '{}'\n", root.display())).unwrap_or_default();
        format!("{section}sslmode = '{mode}'\n{root}")
    };
    let (right, wrong) = (Some(&*right), Some(&*wrong));

    for (host, mode, root) in [
        ("localhost", "verify-full", right),
        // The certificate names another host.
        ("127.0.0.1", "require", right),
        ("127.0.0.1", "require", None),
        ("127.0.0.1", "prefer", wrong),
    ] {
        server.psql(DATABASE, "DROP SCHEMA public CASCADE; CREATE SCHEMA public");
        let _sidecar = sidecar().node(node.address()).sections(&section(host, mode, root)).start().await;
        Database::PostgreSql(&server, DATABASE).wait_for_checkpoint(50).await;
        let encrypted = "SELECT count(*)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'sidecar'";
        assert_eq!(server.psql(DATABASE, encrypted), "1\n", "{mode}");
    }

    // The environment's mode overrides the file's.
    let builder = sidecar().node(node.address()).sections(&section("localhost", "verify-full", right));
    let mut refused = builder.environment("SIDECAR_POSTGRES_SSLMODE", "disable").spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    assert!(refused.errors().contains("no pg_hba.conf entry"), "{}", refused.errors());
    let refused =
        [("localhost", "verify-full", wrong), ("127.0.0.1", "verify-full", right), ("localhost", "require", wrong)];
    for (host, mode, root) in refused {
        let mut waiting = sidecar().node(node.address()).sections(&section(host, mode, root)).start().await;
        waiting.wait_for_output("certificate").await;
        assert!(!waiting.output().contains(PASSWORD));
    }
}

/// What a client sends to a server that has no TLS, after that answer.
async fn said_without_tls(listener: &tokio::net::TcpListener) -> Vec<u8> {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut request = [0; 8];
    client.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f], "it asks for TLS first");
    client.write_all(b"N").await.unwrap();
    let mut said = vec![0; 1024];
    let length = client.read(&mut said).await.unwrap();
    said.truncate(length);
    said
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_without_tls_where_tls_is_required() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    std::fs::write(&root, certificate.pem()).unwrap();
    for (mode, is_said) in [("prefer", true), ("require", false), ("verify-full", false)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let down = ReservedPort::new();
        let section = format!(
            "[storage.postgresql_config]\nhost = 'localhost'\nport = {port}\ndatabase_name = '{DATABASE}'\n\
             database_username = 'somebody'\ndatabase_password = '{PASSWORD}'\nsslmode = '{mode}'\n\
             sslrootcert = '{}'\n",
            root.display()
        );
        let mut sidecar = sidecar().node(down.address()).sections(&section).spawn();
        let said = said_without_tls(&listener).await;
        assert_eq!(said.windows(8).any(|part| part == b"somebody"), is_said, "{mode}: {said:?}");
        if !is_said {
            assert!(said.is_empty(), "{mode}: {said:?}");
            sidecar.wait_for_output("server does not support TLS").await;
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_the_start_without_showing_it() {
    let server = PostgreSql::start();
    let down = ReservedPort::new();
    let section = server.section().replace(PASSWORD, "wr0ng-p@ssw0rd");
    let mut refused = sidecar().node(down.address()).sections(&section).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    let errors = refused.errors();
    assert!(errors.contains("password authentication failed for user \"sidecar\""), "{errors}");
    assert!(!refused.output().contains("wr0ng"), "{}", refused.output());
}

#[tokio::test]
async fn a_user_who_may_make_no_tables_is_refused_with_the_statement_that_helps() {
    let (node, server) = (SimulatedNode::start(), PostgreSql::start());
    server.psql("postgres", &format!("CREATE ROLE newcomer LOGIN PASSWORD '{PASSWORD}'"));
    server.psql("postgres", "CREATE DATABASE others");
    let section = server.section().replace("'sidecar'", "'newcomer'").replace(DATABASE, "others");
    let mut refused = sidecar().node(node.address()).sections(&section).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    let errors = refused.errors();
    let (_, statement) = errors.split_once("in that database, run `").unwrap();
    let (statement, _) = statement.split_once('`').unwrap();
    assert!(errors.contains("permission denied for schema public") && !errors.contains("the password"), "{errors}");
    server.psql("others", statement);
    node.push_all(&payloads()[..5]);
    let _sidecar = sidecar().node(node.address()).sections(&section).start().await;
    Database::PostgreSql(&server, "others").wait_for_checkpoint(5).await;
}

#[tokio::test]
async fn a_sqlite_file_that_is_locked_at_the_start_holds_up_its_export_alone() {
    let node = SimulatedNode::start();
    let payloads = payloads();
    node.push_all(&payloads);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.db3");
    let mut other = rusqlite::Connection::open(&file).unwrap();
    let lock = other.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive).unwrap();
    let builder = sidecar().node(node.address()).storage_folder(folder.path()).sections(SQLITE);
    let sidecar = builder.start().await;
    let mut client =
        sidecar_test_support::client::SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
    client.read_until_id(payloads.len() as u64 - 1).await;
    assert!(sidecar.output().contains("exported when it is back"), "{}", sidecar.output());
    lock.rollback().unwrap();
    Database::Sqlite(&file).wait_for_checkpoint(payloads.len() as u64).await;
    Database::Sqlite(&file).assert_equals(&model_of(&told(&node, &payloads)));
}

#[tokio::test]
async fn a_file_that_can_be_no_sqlite_database_is_refused_at_the_start() {
    let down = ReservedPort::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("events.db3"), "a letter to somebody, ".repeat(100)).unwrap();
    std::fs::create_dir(folder.path().join("folder.db3")).unwrap();
    for (name, reason) in [("events.db3", "file is not a database"), ("folder.db3", "Is a directory")] {
        let section = SQLITE.replace("events.db3", name);
        let mut refused = sidecar().node(down.address()).storage_folder(folder.path()).sections(&section).spawn();
        assert_eq!(refused.wait_for_exit().code(), Some(1));
        let place = format!("cannot use SQLite database {}: {reason}", folder.path().join(name).display());
        assert!(refused.errors().contains(&place), "{}", refused.errors());
    }
}
