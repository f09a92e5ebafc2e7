//! `export` and `import` of the built binary: what goes out comes back, and what was interrupted goes on.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, RowAccessor},
};
use sidecar::source::casper::event::{Classified, KINDS, classify};
use sidecar_log_format::{
    ApiVersion, Event, Opened, WriteOptions, Writer,
    storage::{Directory, Storage},
};
use sidecar_test_support::{
    postgresql::{DATABASE, PASSWORD, PostgreSql},
    recordings,
};
use tempfile::TempDir;

/// 2026-01-02T03:04:05Z.
const TIME: u64 = 1_767_323_045_000_000;

/// The tool's standard output, standard error and exit status.
fn tool(arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_sidecar-log")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

/// What `tool` prints when all is well.
fn run(arguments: &[&str]) -> String {
    let (out, err, status) = tool(arguments);
    assert_eq!(status, 0, "{arguments:?}: {err}");
    out
}

/// A log of the recorded network's first events, and a folder for what becomes of it.
fn some_log(events: usize) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("logs/casper");
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(&log).unwrap());
    let options = WriteOptions {
        kinds: KINDS.iter().map(|(kind, name)| (kind.0, (*name).to_owned())).collect(),
        first_sequence: 1000,
        block_bytes_max: 64 << 10,
        ..WriteOptions::new("casper", [5; 16], TIME)
    };
    let Opened { mut writer, .. } = Writer::open(storage, options).unwrap();
    for (id, payload) in recordings::recorded_network().into_iter().take(events) {
        append(&mut writer, id, &payload);
    }
    append(&mut writer, 99, r#"{"SomethingNew":{"number":1}}"#);
    writer.commit().unwrap();
    writer.close().unwrap();
    (folder, log.to_str().unwrap().to_owned())
}

fn append(writer: &mut Writer, id: u64, payload: &str) {
    let Ok(Classified::Event(facts)) = classify(payload) else { panic!("not an event: {payload}") };
    let event = Event {
        kind: facts.kind,
        source: "10.0.0.1:9999",
        network: "casper-test",
        api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
        upstream_id: Some(id),
        received: TIME + id,
        payload,
    };
    writer.append(&event).unwrap();
}

fn in_folder(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// The payloads that `cat` prints.
fn payloads(log: &str) -> Vec<String> {
    let lines = run(&["cat", log]);
    let payload = |line: &str| line.split_once(r#","payload":"#).unwrap().1.strip_suffix('}').unwrap().to_owned();
    lines.lines().map(payload).collect()
}

#[test]
fn json_lines_are_those_of_cat_and_an_interrupted_export_goes_on() {
    let (folder, log) = some_log(300);
    let output = in_folder(&folder, "events.jsonl");
    run(&["export", &log, "--output", &output]);
    let whole = run(&["cat", &log]);
    assert!(fs::read_to_string(&output).unwrap() == whole, "an export of everything prints what cat prints");

    let (_, err, status) = tool(&["export", &log, "--output", &output]);
    assert_eq!((status, err.contains("exists; give another file, or --resume")), (1, true), "{err}");
    for length in [0, 1, 5_000, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::write(&output, &whole[..length]).unwrap();
        run(&["export", &log, "--output", &output, "--resume"]);
        assert!(fs::read_to_string(&output).unwrap() == whole, "interrupted after {length} bytes");
    }

    let part = in_folder(&folder, "part.jsonl");
    run(&["export", &log, "--from", "1010", "--until", "1250", "--types", "BlockAdded,other", "--output", &part]);
    let expected = run(&["cat", &log, "--from", "1010", "--until", "1250", "--types", "BlockAdded,other"]);
    assert_eq!(fs::read_to_string(&part).unwrap(), expected);
}

#[test]
fn parquet_has_a_row_per_event_and_its_keys() {
    let (folder, log) = some_log(300);
    let output = in_folder(&folder, "events.parquet");
    run(&["export", &log, "--format", "parquet", "--output", &output]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing but the log and the file is left");
    let reader = SerializedFileReader::new(fs::File::open(&output).unwrap()).unwrap();
    let columns: Vec<_> =
        reader.metadata().file_metadata().schema_descr().columns().iter().map(|c| c.name().to_owned()).collect();
    assert_eq!(columns, ["sequence", "time", "kind", "source", "api_version", "keys", "payload"]);
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let found: Vec<String> = rows.iter().map(|row| row.get_string(6).unwrap().clone()).collect();
    assert!(found == payloads(&log), "the payloads are those of the log");
    let (first, last) = (&rows[0], &rows[300]);
    assert_eq!((first.get_ulong(0).unwrap(), last.get_ulong(0).unwrap()), (1000, 1300));
    assert_eq!((last.get_string(2).unwrap().as_str(), last.get_string(4).unwrap().as_str()), ("Other", "2.0.0"));
    assert!(last.is_null(5).unwrap(), "an unknown kind has no keys");
    let block = rows.iter().find(|row| row.get_string(2).unwrap() == "BlockAdded").unwrap();
    let keys: serde_json::Value = serde_json::from_str(block.get_string(5).unwrap()).unwrap();
    assert!(keys["height"].is_u64() && keys["block_hash"].as_str().is_some_and(|hash| hash.len() == 64), "{keys}");
    assert!(matches!(first.get_column_iter().nth(1).unwrap().1, Field::TimestampMicros(_)));
}

#[test]
fn sqlite_has_the_tables_of_the_reference_and_goes_on_where_it_was() {
    let (folder, log) = some_log(300);
    let output = in_folder(&folder, "events.db3");
    run(&["export", &log, "--format", "sqlite", "--until", "1099", "--output", &output]);
    let count = |sql: &str| -> i64 {
        rusqlite::Connection::open(&output).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let event_log = r#"SELECT count(*) FROM "event_log""#;
    assert_eq!(count(event_log), 100);
    let (_, err, status) = tool(&["export", &log, "--format", "sqlite", "--output", &output, "--resume"]);
    assert_eq!(status, 0, "{err}");
    assert!(err.contains("note: 1 events are of a kind or shape that the SQL tables do not have"), "{err}");
    assert_eq!(count(event_log), 300);
    assert_eq!(count(r#"SELECT count(DISTINCT "event_id") FROM "event_log""#), 300);
    let (_, err, status) =
        tool(&["export", &log, "--format", "sqlite", "--from", "1001", "--output", &output, "--resume"]);
    assert_eq!(status, 1);
    assert!(err.contains("an export of this log that began with event 1000, not 1001"), "{err}");
}

/// The database of the transcript as the reference left it.
fn reference_dump() -> String {
    let dump = String::from_utf8(recordings::transcript("sqlite-dump.sql")).unwrap();
    dump.replace("'TIMESTAMP'", "'2026-01-02 03:04:05'").replace("NODE:SSEPORT", "10.0.0.1:9999")
}

fn reference_sqlite(folder: &Path) -> PathBuf {
    let file = folder.join("reference.db3");
    rusqlite::Connection::open(&file).unwrap().execute_batch(&reference_dump()).unwrap();
    file
}

/// What the node of the transcript said, once each.
fn said_once() -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for (_, payload) in recordings::transcript_events() {
        if !said.contains(&payload) {
            said.push(payload);
        }
    }
    said
}

#[test]
fn the_history_in_the_references_sqlite_database_becomes_what_the_node_said() {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("sqlite:{}", reference_sqlite(folder.path()).display());
    fs::write(folder.path().join("sse_index"), 25_u32.to_le_bytes()).unwrap();
    run(&["import", "--from", &from, folder.path().to_str().unwrap()]);
    let log = in_folder(&folder, "logs/casper");
    assert_eq!(payloads(&log), said_once());
    let lines = run(&["cat", &log]);
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "sequence": 15, "kind": "BlockAdded", "received": "2026-01-02T03:04:05.000000Z", "source": "10.0.0.1:9999",
        "upstream_id": 0, "api_version": "2.0.0", "network": "casper-test", "payload": first["payload"],
    });
    assert_eq!(first, expected, "ten events end before the id in sse_index");
    let report: serde_json::Value = serde_json::from_str(&run(&["inspect", &log, "--json"])).unwrap();
    assert_eq!(report["marks"]["counts"]["import"], 2, "{report}");
    run(&["verify", &log]);

    let (_, err, status) = tool(&["import", "--from", &from, &log]);
    assert_eq!(status, 1);
    assert!(err.contains("holds events already"), "{err}");
}

#[test]
fn what_was_imported_is_exported_as_the_rows_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let reference = reference_sqlite(folder.path());
    let (log, output) = (in_folder(&folder, "log"), in_folder(&folder, "again.db3"));
    run(&["import", "--from", &format!("sqlite:{}", reference.display()), &log]);
    run(&["export", &log, "--format", "sqlite", "--output", &output]);
    for table in [
        "BlockAdded",
        "TransactionAccepted",
        "TransactionProcessed",
        "TransactionExpired",
        "Fault",
        "FinalitySignature",
        "Step",
    ] {
        let raws = |file: &Path| -> Vec<(i64, String)> {
            let connection = rusqlite::Connection::open(file).unwrap();
            let sql = format!(r#"SELECT "event_log_id", "raw" FROM "{table}" ORDER BY "event_log_id""#);
            let mut statement = connection.prepare(&sql).unwrap();
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        let expected = raws(&reference);
        assert!(!expected.is_empty());
        assert_eq!(raws(output.as_ref()), expected, "{table}");
    }
}

#[test]
fn the_history_in_postgresql_is_the_same_and_the_password_is_shown_nowhere() {
    let server = PostgreSql::start();
    server.psql(DATABASE, &String::from_utf8(recordings::transcript("postgres-schema.sql")).unwrap());
    let dump = reference_dump();
    for row in dump.lines().filter(|line| line.starts_with("INSERT INTO") && !line.contains("sqlite_sequence")) {
        let (table, values) = row["INSERT INTO ".len()..].split_once(" VALUES").unwrap();
        server.psql(DATABASE, &format!("INSERT INTO \"{table}\" VALUES{}", values.replace("(1,1);", "(1,true);")));
    }
    let folder = tempfile::tempdir().unwrap();
    let log = in_folder(&folder, "log");
    run(&["import", "--from", &server.url(DATABASE), &log]);
    assert_eq!(payloads(&log), said_once());
    let marks = run(&["inspect", &log, "--json"]);
    assert!(marks.contains("PostgreSQL database events at 127.0.0.1") && !marks.contains(PASSWORD), "{marks}");

    for url in [
        server.url("missing"),
        server.url(DATABASE).replace("s3cret", "wr0ng"),
        server.url(DATABASE).replace("127.0.0.1", "127.0.0.1:x"),
        format!("{}?sslmode=verify-ca", server.url(DATABASE)),
    ] {
        let (out, err, status) = tool(&["import", "--from", &url, &in_folder(&folder, "other")]);
        assert_ne!(status, 0);
        for secret in ["s3cret", "wr0ng", "p@ssw0rd", "p%40ssw0rd"] {
            assert!(!out.contains(secret) && !err.contains(secret), "{err}");
        }
    }
}
