//! `export` and `import` of the built binary: what goes out comes back, and what was interrupted resumes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]

use std::{
    fs,
    io::{BufRead, BufReader},
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, RowAccessor},
};
use sidecar::{
    casper::event::{Classified, KINDS, classify},
    casper::export::{ExportError, ExportFrom, export_range, sqlite},
};
use sidecar_log_format::{
    ApiVersion, Event, Log, Missing, Opened, ReadOptions, WriteOptions, Writer,
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
        name: "",
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

/// A command that is killed once a file of its has so many blocks of 512 bytes.
fn interrupted(blocks: u32, arguments: &[&str]) {
    let script = format!("ulimit -c 0; ulimit -f {blocks}; exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_sidecar-log")])
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None, "it was killed: {output:?}");
}

#[test]
fn json_lines_are_those_of_cat_and_an_interrupted_export_resumes() {
    let (folder, log) = some_log(300);
    let output = in_folder(&folder, "events.jsonl");
    let out = run(&["export", &log, "--output", &output, "--resume"]);
    assert!(out.starts_with(&format!("{output}: 301 events, ")) && out.ends_with("iB\n"), "{out}");
    let whole = run(&["cat", &log]);
    assert!(fs::read_to_string(&output).unwrap() == whole, "an export of everything prints what cat prints");
    for resume in [&[][..], &["--resume"]] {
        let (_, err, status) = tool(&[&["export", &log, "--output", &output], resume].concat());
        assert_eq!((err, status), (format!("error: {output} exists; give another file\n"), 1));
    }

    fs::remove_file(&output).unwrap();
    let unfinished = in_folder(&folder, "events.jsonl.unfinished");
    let part = format!("{unfinished}/events.jsonl");
    interrupted(30, &["export", &log, "--output", &output]);
    assert_eq!((fs::metadata(&part).unwrap().len(), fs::exists(&output).unwrap()), (30 * 512, false));
    let (_, err, status) = tool(&["export", &log, "--output", &output]);
    assert_eq!((status, err.contains("continue it with --resume, or remove that folder")), (1, true), "{err}");
    run(&["export", &log, "--output", &output, "--resume"]);
    assert!(fs::read_to_string(&output).unwrap() == whole);
    assert!(!fs::exists(&unfinished).unwrap());

    for length in [0, 1, 5_000, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::remove_file(&output).unwrap();
        interrupted(30, &["export", &log, "--output", &output]);
        fs::write(&part, &whole[..length]).unwrap();
        run(&["export", &log, "--output", &output, "--resume"]);
        assert!(fs::read_to_string(&output).unwrap() == whole, "interrupted after {length} bytes");
    }

    let part = in_folder(&folder, "part.jsonl");
    run(&["export", &log, "--from", "1010", "--until", "1250", "--types", "BlockAdded,other", "--output", &part]);
    let expected = run(&["cat", &log, "--from", "1010", "--until", "1250", "--types", "BlockAdded,other"]);
    assert_eq!(fs::read_to_string(&part).unwrap(), expected);
}

#[test]
fn what_is_no_part_of_an_export_is_refused_and_stays_as_it_is() {
    let (folder, log) = some_log(300);
    let output = in_folder(&folder, "events.jsonl");
    interrupted(30, &["export", &log, "--output", &output]);
    let part = format!("{output}.unfinished/events.jsonl");
    let no_line = "its last line is none of an export's";
    for (content, why) in [
        ("a diary\nof mine\nwithout an end", no_line),
        ("{\"sequence\":-1}\n", no_line),
        ("{\"sequence\":999}\ntail", "its last line, of sequence 999, is none of this export's"),
    ] {
        fs::write(&part, content).unwrap();
        let (_, err, status) = tool(&["export", &log, "--output", &output, "--resume"]);
        assert_eq!((status, err.contains(why)), (1, true), "{err}");
        assert_eq!(fs::read_to_string(&part).unwrap(), content);
    }

    // From the moment on that the folder is there.
    for output in [output, in_folder(&folder, "just begun")] {
        let unfinished = format!("{output}.unfinished");
        fs::create_dir_all(&unfinished).unwrap();
        let held = fs::File::open(&unfinished).unwrap();
        held.lock().unwrap();
        for resume in [&[][..], &["--resume"]] {
            let (_, err, status) = tool(&[&["export", &log, "--output", &output], resume].concat());
            assert_eq!((err, status), (format!("error: another process is exporting to {output}\n"), 1));
        }
    }

    let other = in_folder(&folder, "other");
    let diary = format!("{other}.unfinished/diary");
    fs::create_dir(format!("{other}.unfinished")).unwrap();
    fs::write(&diary, "mine").unwrap();
    let (_, err, status) = tool(&["export", &log, "--output", &other, "--resume"]);
    assert_eq!((status, err.contains("is not an interrupted export; remove it")), (1, true), "{err}");
    assert_eq!(fs::read_to_string(diary).unwrap(), "mine");
    let nowhere = in_folder(&folder, "missing/events");
    for format in ["jsonl", "parquet", "sqlite"] {
        let (_, err, status) = tool(&["export", &log, "--output", &nowhere, "--format", format]);
        assert_eq!((status, err.contains("cannot make the folder")), (1, true), "{err}");
    }
}

#[test]
fn an_export_that_was_stopped_at_its_first_or_last_step_resumes() {
    let (folder, log) = some_log(300);
    let whole = run(&["cat", &log]);
    let output = in_folder(&folder, "events.jsonl");
    let unfinished = format!("{output}.unfinished");
    let export = ["export", &log, "--output", &output, "--resume"];
    for note in [None, Some(r#"{"log_id""#)] {
        fs::create_dir(&unfinished).unwrap();
        if let Some(half) = note {
            fs::write(format!("{unfinished}/export.new"), half).unwrap();
        }
        run(&export);
        assert!(fs::read_to_string(&output).unwrap() == whole);
        fs::remove_file(&output).unwrap();
    }

    for (damage, expected) in [(false, 0), (true, 1)] {
        interrupted(30, &export);
        let part = format!("{unfinished}/events.jsonl");
        fs::write(&part, &whole).unwrap();
        fs::hard_link(&part, &output).unwrap();
        if damage {
            fs::write(format!("{unfinished}/damaged"), "").unwrap();
        }
        let (_, err, status) = tool(&export[..4]);
        assert_eq!((err, status), (format!("error: {output} exists; give another file\n"), 1));
        let (out, err, status) = tool(&export);
        let is_named = out.starts_with(&format!("{output}: "));
        assert_eq!((is_named, err.as_str(), status), (true, "", expected), "{out}");
        assert!(fs::read_to_string(&output).unwrap() == whole);
        assert!(!fs::exists(&unfinished).unwrap());
        fs::remove_file(&output).unwrap();
    }
}

#[test]
fn an_export_resumes_only_as_the_one_that_was_interrupted() {
    let (folder, log) = some_log(300);
    let (_other_folder, other_log) = {
        let other = tempfile::tempdir().unwrap();
        let from = format!("sqlite:{}", reference_sqlite(other.path()).display());
        run(&["import", "--from", &from, other.path().to_str().unwrap()]);
        let log = in_folder(&other, "logs/casper");
        (other, log)
    };
    for (format, other_format) in [("jsonl", "sqlite"), ("parquet", "jsonl"), ("sqlite", "parquet")] {
        let output = in_folder(&folder, format);
        let types = "BlockAdded,Step,FinalitySignature";
        let export = |log: &str, from: &str, until: &str, types: &str, format: &str| {
            let options = ["--from", from, "--until", until, "--types", types, "--format", format, "--output", &output];
            tool(&[&["export", log, "--resume"], &options[..]].concat())
        };
        let options = ["--from", "1001", "--until", "1299", "--types", types];
        interrupted(8, &[&["export", &log, "--format", format, "--output", &output], &options[..]].concat());
        for ((_, err, status), found, wanted) in [
            (export(&log, "1002", "1299", types, format), "--from 1001".to_owned(), "--from 1002"),
            (export(&log, "1001", "1200", types, format), "--until 1299".to_owned(), "--until 1200"),
            (
                export(&log, "1001", "1299", "Step", format),
                "--types BlockAdded,FinalitySignature,Step".to_owned(),
                "--types Step",
            ),
            (export(&log, "1001", "1299", types, other_format), format!("--format {format}"), "--format"),
            (export(&other_log, "1001", "1299", types, format), format!("log {}", "05".repeat(16)), "log"),
        ] {
            let difference = format!("it was begun with {found}, this is {wanted} ");
            let is_named = err.replace(';', " ;").contains(&difference);
            assert_eq!((status, is_named), (1, true), "{difference}: {err}");
        }
        let (_, err, status) = export(&log, "1001", "1299", "Step,FinalitySignature,BlockAdded", format);
        assert_eq!(status, 0, "the same kinds in another order: {err}");
        let expected = run(&[&["cat", &log], &options[..]].concat()).lines().count();
        assert_eq!(events_in(format, &output), expected, "{format}");
    }
}

/// How many events an export holds.
fn events_in(format: &str, output: &str) -> usize {
    match format {
        "jsonl" => fs::read_to_string(output).unwrap().lines().count(),
        "parquet" => {
            let reader = SerializedFileReader::new(fs::File::open(output).unwrap()).unwrap();
            usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap()
        }
        _ => {
            let connection = rusqlite::Connection::open(output).unwrap();
            let count: i64 = connection.query_row(r#"SELECT count(*) FROM "event_log""#, [], |row| row.get(0)).unwrap();
            usize::try_from(count).unwrap()
        }
    }
}

#[test]
fn every_form_names_damage_and_ends_where_it_should_all_the_same() {
    let (folder, log) = some_log(300);
    let segment = Path::new(&log).join("00000000000000001000.segment");
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let range = ["--until", "1249", "--types", "BlockAdded,FinalitySignature,Step"];
    let (printed, warning, _) = tool(&[&["cat", &log], &range[..]].concat());
    assert!(warning.starts_with("warning: sequences ") && warning.contains(" are stored and damaged: "), "{warning}");
    for format in ["jsonl", "parquet", "sqlite"] {
        let output = in_folder(&folder, format);
        let (_, err, status) = tool(&[&["export", &log, "--output", &output, "--format", format], &range[..]].concat());
        assert_eq!((err.as_str(), status), (warning.as_str(), 1), "{format}");
        assert_eq!(events_in(format, &output), printed.lines().count(), "{format}");
    }

    // A database is past damage only once that is noted.
    let output = in_folder(&folder, "interrupted.db3");
    let export = [&["export", &log, "--format", "sqlite", "--output", &output], &range[..], &["--resume"]].concat();
    interrupted(8, &export);
    let note = format!("{output}.unfinished/damaged");
    fs::create_dir(&note).unwrap();
    let (_, err, status) = tool(&export);
    assert_eq!((status, err.contains(&format!("cannot write {note}"))), (1, true), "{err}");
    fs::remove_dir(&note).unwrap();
    let (_, err, status) = tool(&export);
    assert_eq!((err.as_str(), status), (warning.as_str(), 1));

    let output = in_folder(&folder, "interrupted");
    interrupted(500, &["export", &log, "--output", &output]);
    let part = fs::read_to_string(format!("{output}.unfinished/events.jsonl")).unwrap();
    let last_damaged = warning.split(' ').nth(4).unwrap();
    assert!(
        part.contains(&format!("{{\"sequence\":{},", last_damaged.parse::<u64>().unwrap() + 1)),
        "it was past that"
    );
    let (_, err, status) = tool(&["export", &log, "--output", &output, "--resume"]);
    assert_eq!((err.as_str(), status), ("", 1), "what it left out before counts");
}

#[test]
fn parquet_has_a_row_per_event_and_its_keys() {
    let (folder, log) = some_log(300);
    let output = in_folder(&folder, "events.parquet");
    let out = run(&["export", &log, "--format", "parquet", "--output", &output]);
    assert!(out.starts_with(&format!("{output}: 301 events, ")), "{out}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing but the log and the file is left");
    let reader = SerializedFileReader::new(fs::File::open(&output).unwrap()).unwrap();
    let columns: Vec<_> =
        reader.metadata().file_metadata().schema_descr().columns().iter().map(|c| c.name().to_owned()).collect();
    assert_eq!(columns, ["sequence", "received_at", "kind", "source", "api_version", "keys", "payload"]);
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
fn a_large_event_is_exported_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let log = in_folder(&folder, "log");
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(Path::new(&log)).unwrap());
    let Opened { mut writer, .. } = Writer::open(storage, WriteOptions::new("casper", [5; 16], TIME)).unwrap();
    // Larger than what shares a block with others, as a node would send it with much whitespace.
    let padded = |payload: &str| payload.replacen(":{", &format!(":{{{}", " ".repeat(3 << 20)), 1);
    let mut said = Vec::new();
    for (id, payload) in recordings::recorded_network().into_iter().take(40) {
        let is_first_block =
            payload.starts_with(r#"{"BlockAdded"#) && !said.iter().any(|said: &String| said.len() > 3 << 20);
        said.push(if is_first_block { padded(&payload) } else { payload });
        append(&mut writer, id, &said[said.len() - 1]);
    }
    writer.close().unwrap();
    let large = said.iter().position(|payload| payload.len() > 3 << 20).unwrap();

    let output = |format: &str| {
        let output = in_folder(&folder, format);
        run(&["export", &log, "--format", format, "--output", &output]);
        assert_eq!(events_in(format, &output), said.len(), "{format}");
        output
    };
    let lines = fs::read_to_string(output("jsonl")).unwrap();
    let line = lines.lines().nth(large).unwrap();
    assert!(line.ends_with(&format!(r#","payload":{}}}"#, said[large])), "{}", &line[..200]);
    let reader = SerializedFileReader::new(fs::File::open(output("parquet")).unwrap()).unwrap();
    let row = reader.get_row_iter(None).unwrap().nth(large).unwrap().unwrap();
    assert!(row.get_string(6).unwrap() == &said[large]);
    let connection = rusqlite::Connection::open(output("sqlite")).unwrap();
    let raw: String = connection
        .query_row(r#"SELECT max("raw") FROM "BlockAdded" WHERE length("raw") > 3000000"#, [], |row| row.get(0))
        .unwrap();
    assert!(said[large] == format!(r#"{{"BlockAdded":{raw}}}"#), "{}", &raw[..200]);
}

#[test]
fn sqlite_has_the_tables_of_the_reference_and_resumes_where_it_was() {
    let (folder, log) = some_log(300);
    let output = in_folder(&folder, "events.db3");
    let export = ["export", &log, "--format", "sqlite", "--output", &output];
    interrupted(8, &export);
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(&log));
    let options = sqlite::Options {
        file: PathBuf::from(in_folder(&folder, "events.db3.unfinished/events.db3")),
        wal_autocheckpointing_interval: 1000,
        export_from: ExportFrom::Oldest,
    };
    let reader = Log::open(storage, ReadOptions::default()).unwrap();
    let missing = |_, why: &Missing| -> Result<(), ExportError> { panic!("{why:?}") };
    let summary = export_range(&reader, &options, 1000..1100, u64::MAX, |_| {}, missing).unwrap();
    assert_eq!((summary.first_sequence, summary.rows), (1000, 100));

    let (out, err, status) = tool(&[&export[..], &["--resume"]].concat());
    assert!(out.starts_with(&format!("{output}: 300 events, ")), "what was there before counts: {out}");
    let note = "note: 1 events from sequence 1100 on are of a kind or shape that the SQL tables do not have\n";
    assert_eq!((err.as_str(), status), (note, 0));
    let connection = rusqlite::Connection::open(&output).unwrap();
    let rows: (i64, i64) = connection
        .query_row(r#"SELECT count(*), count(DISTINCT "event_id") FROM "event_log""#, [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(rows, (300, 300));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing but the log and the file is left");
}

/// The database of the transcript as the reference left it.
fn reference_sqlite(folder: &Path) -> PathBuf {
    let file = folder.join("reference.db3");
    rusqlite::Connection::open(&file).unwrap().execute_batch(&recordings::sqlite_dump()).unwrap();
    file
}

/// What the node of the transcript sent, once each.
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
fn the_history_in_the_references_sqlite_database_becomes_what_the_node_sent() {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("sqlite:{}", reference_sqlite(folder.path()).display());
    fs::write(folder.path().join("sse_index"), 25_u32.to_le_bytes()).unwrap();
    run(&["import", "--from", &from, folder.path().to_str().unwrap()]);
    let log = in_folder(&folder, "logs/casper");
    assert_eq!(payloads(&log), said_once());
    let lines = run(&["cat", &log]);
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "sequence": 15, "kind": "BlockAdded", "received_at": "2026-01-02T03:04:05.000000Z", "source": "10.0.0.1:9999",
        "upstream_id": 0, "api_version": "2.0.0", "network": "casper-test", "payload": first["payload"],
    });
    assert_eq!(first, expected, "ten events end before the id in sse_index");
    let report: serde_json::Value = serde_json::from_str(&run(&["inspect", &log, "--json"])).unwrap();
    assert_eq!(report["marks"]["counts"]["import"], 2, "{report}");
    run(&["verify", &log]);

    let again = run(&["import", "--from", &from, &log]);
    assert_eq!(again, format!("0 events in {log}, in front of event 15, 10 that the log has already\n"));
    assert!(run(&["cat", &log]) == lines);
}

/// A log that the sidecar has created at `first`, with what its node still had.
fn begun_log(folder: &TempDir, first: u64, payloads: &[String]) -> String {
    let log = folder.path().join("logs/casper");
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(&log).unwrap());
    let options = WriteOptions { first_sequence: first, ..WriteOptions::new("casper", [5; 16], TIME) };
    let Opened { mut writer, .. } = Writer::open(storage, options).unwrap();
    for (id, payload) in (0..).zip(payloads) {
        append(&mut writer, id, payload);
    }
    writer.close().unwrap();
    log.to_str().unwrap().to_owned()
}

#[test]
fn history_is_put_in_front_of_an_existing_log_without_what_that_has() {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("sqlite:{}", reference_sqlite(folder.path()).display());
    let said = said_once();
    let mut still_there = vec![said[8].clone(), said[3].clone()];
    still_there.push(r#"{"Step":{"era_id":77,"execution_effects":[]}}"#.to_owned());
    let log = begun_log(&folder, 100, &still_there);
    let made_again = ["index", "views"].map(|name| folder.path().join(name).join("casper.redb"));
    for file in &made_again {
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(file, "of the log as it was").unwrap();
    }

    let held = fs::File::open(format!("{log}/lock")).unwrap();
    held.lock().unwrap();
    let (_, err, status) = tool(&["import", "--from", &from, folder.path().to_str().unwrap()]);
    assert_eq!((status, err.contains("stop the sidecar, or wait for the other import")), (1, true), "{err}");
    drop(held);
    let out = run(&["import", "--from", &from, folder.path().to_str().unwrap()]);
    assert_eq!(out, format!("8 events in {log}, in front of event 100, 2 that the log has already\n"));
    let history = said.iter().enumerate().filter(|(at, _)| ![3, 8].contains(at)).map(|(_, payload)| payload.clone());
    let expected: Vec<String> = history.chain(still_there).collect();
    assert_eq!(payloads(&log), expected);
    assert!(run(&["cat", &log]).starts_with("{\"sequence\":92,"));
    let chain = run(&["verify", &log, "--chain"]);
    assert!(chain.contains("from the first event that the log had before history was imported"), "{chain}");
    assert!(made_again.iter().all(|file| !file.exists()), "they know nothing of the history");
    assert!(!Path::new(&format!("{log}.importing")).exists());
}

#[test]
fn history_that_was_put_in_front_only_in_part_is_continued_by_the_same_command() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let from = format!("sqlite:{}", database.display());
    let log = begun_log(&folder, 100, &[r#"{"Step":{"era_id":77,"execution_effects":[]}}"#.to_owned()]);
    // It cannot be copied: something that is not a file has the name that the first segment is given first.
    let in_the_way = format!("{log}/00000000000000000090.segment.new");
    fs::create_dir(&in_the_way).unwrap();
    let (_, err, status) = tool(&["import", "--from", &from, &log]);
    assert_eq!((status, err.contains("run the same command again")), (1, true), "{err}");
    assert_eq!(run(&["cat", &log]).lines().count(), 1, "the log is as it was");
    fs::remove_dir(&in_the_way).unwrap();
    // The database is not needed any more.
    fs::write(&database, "").unwrap();
    let out = run(&["import", "--from", &from, &log]);
    assert_eq!(out, format!("the history that was imported before is in front of {log}, which begins at event 90\n"));
    assert_eq!(payloads(&log)[..10], said_once());
    run(&["verify", &log]);
}

#[test]
fn history_that_was_stopped_between_its_segments_is_continued_by_the_same_command() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let from = format!("sqlite:{}", database.display());
    // What was received long ago gets segments of its own: of 1, 4 and 5 events.
    let later_version = r#"UPDATE "event_log" SET "api_version" = '2.1.0' WHERE "event_log_id" > 4"#;
    assert_eq!(rusqlite::Connection::open(&database).unwrap().execute(later_version, []).unwrap(), 6);
    let log = begun_log(&folder, 10, &[r#"{"Step":{"era_id":77,"execution_effects":[]}}"#.to_owned()]);
    let in_the_way = format!("{log}/00000000000000000001.segment.new");
    fs::create_dir(&in_the_way).unwrap();
    let (_, err, status) = tool(&["import", "--from", &from, &log]);
    assert_eq!((status, err.contains("run the same command again")), (1, true), "{err}");
    assert_eq!(run(&["cat", &log]).lines().count(), 6, "the last segment of the history is in front");
    fs::remove_dir(&in_the_way).unwrap();
    let unfinished = format!("{log}.importing");
    let kept = in_folder(&folder, "kept");
    assert!(Command::new("cp").args(["-r", &unfinished, &kept]).status().unwrap().success());
    // The second time as if it had been stopped before the folder was removed.
    for was_removed in [true, false] {
        if !was_removed {
            fs::rename(&kept, &unfinished).unwrap();
        }
        let out = run(&["import", "--from", &from, &log]);
        assert_eq!(
            out,
            format!("the history that was imported before is in front of {log}, which begins at event 0\n")
        );
        assert_eq!(payloads(&log)[..10], said_once());
        run(&["verify", &log]);
        assert!(!fs::exists(&unfinished).unwrap());
    }
}

#[test]
fn history_whose_last_event_fills_a_block_is_marked_where_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let connection = rusqlite::Connection::open(&database).unwrap();
    // The step is the last with content.
    connection.execute_batch(r#"DELETE FROM "Shutdown"; DELETE FROM "event_log" WHERE "event_log_id" > 9"#).unwrap();
    let pad = r#"UPDATE "Step" SET "raw" = "raw" || ?1 WHERE "event_log_id" = 9"#;
    assert_eq!(connection.execute(pad, [" ".repeat(600_000)]).unwrap(), 1);
    let log = begun_log(&folder, 100, &[r#"{"Step":{"era_id":77,"execution_effects":[]}}"#.to_owned()]);
    run(&["import", "--from", &format!("sqlite:{}", database.display()), &log]);
    assert_eq!(payloads(&log).len(), 10);
    let chain = run(&["verify", &log, "--chain"]);
    assert!(chain.contains("from the first event that the log had before history was imported"), "{chain}");
}

#[test]
fn a_log_without_room_in_front_is_refused_with_the_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("sqlite:{}", reference_sqlite(folder.path()).display());
    for (first, why) in [
        (0, "begins at event 0, and history needs the ids before a log's first"),
        (7, "10 events do not fit in front of"),
    ] {
        let storage = tempfile::tempdir().unwrap();
        let log = begun_log(&storage, first, &[r#"{"Step":{"era_id":77,"execution_effects":[]}}"#.to_owned()]);
        let (_, err, status) = tool(&["import", "--from", &from, &log]);
        assert_eq!((status, err.contains(why)), (1, true), "{err}");
        assert!(
            err.contains("stop the sidecar, move ") && err.contains("views/casper.redb away, import, and start it"),
            "{err}"
        );
        assert_eq!(run(&["cat", &log]).lines().count(), 1);
    }
}

/// Imports a database beside an `sse_index` of 25, up to which the ids of what is left must reach; the standard error and
/// the log.
fn import_spoilt(from: &str, summary: &str, events: u64) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sse_index"), 25_u32.to_le_bytes()).unwrap();
    let (out, err, status) = tool(&["import", "--from", from, folder.path().to_str().unwrap()]);
    let log = in_folder(&folder, "logs/casper");
    assert_eq!((out, status), (format!("{events} events in {log}{summary}\n"), 1), "{err}");
    let lines = run(&["cat", &log]);
    assert_eq!(lines.lines().count() as u64, events);
    for (line, sequence) in lines.lines().zip(25 - events..) {
        assert!(line.starts_with(&format!("{{\"sequence\":{sequence},")), "what comes next is 25: {line}");
    }
    (err, lines)
}

/// Imports a database that lacks the content of event 9.
fn import_without_step(from: &str) {
    let (err, _) = import_spoilt(from, ", 1 left out", 9);
    assert_eq!(err, "warning: event_log_id 9 has no content; it is left out\n");
}

#[test]
fn imported_events_end_before_the_id_in_sse_index_whatever_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let connection = rusqlite::Connection::open(&database).unwrap();
    assert_eq!(connection.execute(r#"DELETE FROM "Step""#, []).unwrap(), 1);
    import_without_step(&format!("sqlite:{}", database.display()));
}

#[test]
fn what_no_node_sends_is_left_out_and_a_version_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let connection = rusqlite::Connection::open(&database).unwrap();
    for (table, column, value, id) in [
        ("TransactionAccepted", "raw", r#"{"transacti0n":{}}"#, 2),
        ("TransactionProcessed", "raw", r#"{"transaction_hash":"#, 4),
        ("Fault", "raw", r#"{"era_id":1,"public_key":"01"},"Step":{"era_id":1}"#, 6),
        ("FinalitySignature", "raw", r#"{"V3":"a shape that is not known"}"#, 7),
        ("event_log", "api_version", "two", 8),
    ] {
        let sql = format!(r#"UPDATE "{table}" SET "{column}" = ?1 WHERE "event_log_id" = ?2"#);
        assert_eq!(connection.execute(&sql, (value, id)).unwrap(), 1);
    }
    let from = format!("sqlite:{}", database.display());
    let (err, lines) = import_spoilt(&from, ", 3 left out, 1 without an API version", 7);
    for (warning, (id, what)) in err.lines().zip([
        (2, "content that is not a TransactionAccepted (missing field `transaction` at line 1 column 18); it is left out"),
        (
            4,
            "content that is not a TransactionProcessed (payload is not one JSON value: expected value at line 1 column \
             45); it is left out",
        ),
        (6, "content that is not a Fault; it is left out"),
        (8, "the API version 'two', which is none; it is stored without one"),
    ]) {
        assert_eq!(warning, format!("warning: event_log_id {id} has {what}"));
    }
    assert_eq!(err.lines().count(), 4, "{err}");
    assert!(lines.contains("a shape that is not known"), "it is an event all the same: {lines}");
    let versions = lines.lines().filter(|line| line.contains(r#""api_version":"2.0.0""#)).count();
    assert_eq!(versions, 6, "{lines}");
}

/// Adds faults of these eras to the reference's tables, as large as is asked for and hard to compress.
fn add_faults(connection: &mut rusqlite::Connection, eras: Range<i64>, bytes: usize) {
    let mut random = 1_u64;
    let mut character = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        char::from(b'#' + (random % u64::from(b'\\' - b'#')) as u8)
    };
    let transaction = connection.transaction().unwrap();
    for era in eras {
        let row = r#"INSERT INTO "event_log" SELECT 100 + ?1, 5, "event_source_address", 100 + ?1, ?1 || ' 01',
            "inserted_timestamp", "emitted_timestamp", "api_version", "network_name" FROM "event_log" WHERE "event_log_id" = 1"#;
        transaction.execute(row, [era]).unwrap();
        let padding: String = (0..bytes).map(|_| character()).collect();
        let raw = format!(r#"{{"era_id":{era},"public_key":"01","padding":"{padding}"}}"#);
        transaction.execute(r#"INSERT INTO "Fault" VALUES(?1, '01', ?2, 100 + ?1)"#, (era, raw)).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn a_killed_import_leaves_no_log_and_the_next_one_makes_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    add_faults(&mut rusqlite::Connection::open(&database).unwrap(), 1..25, 1 << 20);
    let from = format!("sqlite:{}", database.display());
    for storage in ["undisturbed", "killed"] {
        fs::create_dir(folder.path().join(storage)).unwrap();
        fs::write(folder.path().join(storage).join("sse_index"), 100_u32.to_le_bytes()).unwrap();
    }
    let undisturbed = in_folder(&folder, "undisturbed");
    run(&["import", "--from", &from, &undisturbed]);
    let whole = run(&["cat", &undisturbed]);
    assert_eq!(whole.lines().count(), 34);

    let storage = in_folder(&folder, "killed");
    let unfinished = format!("{storage}/logs/casper.importing");
    // A segment grows by 16 MiB at a time.
    interrupted((20 << 20) / 512, &["import", "--from", &from, &storage]);
    let part = run(&["cat", &unfinished]);
    let events = part.lines().count();
    assert!((11..34).contains(&events) && whole.starts_with(&part), "what was read is written soon: {events}");
    let (_, err, status) = tool(&["cat", &storage]);
    assert_eq!((status, err.contains("holds no log: there is no *.segment file in")), (1, true), "{err}");

    let held = fs::File::open(format!("{storage}/logs/casper/lock")).unwrap();
    held.lock().unwrap();
    let (_, err, status) = tool(&["import", "--from", &from, &storage]);
    assert_eq!((status, err.contains("stop the sidecar, or wait for the other import")), (1, true), "{err}");
    drop(held);
    run(&["import", "--from", &from, &storage]);
    assert!(run(&["cat", &storage]) == whole, "as if it had not been killed");
    assert!(!fs::exists(&unfinished).unwrap());
    run(&["verify", &storage]);
}

/// Imports a database in which more rows have no content than a pipe takes warnings, and calls `write` while it is read.
fn import_while_written(from: &str, write: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sse_index"), 25_u32.to_le_bytes()).unwrap();
    let mut import = Command::new(env!("CARGO_BIN_EXE_sidecar-log"))
        .args(["import", "--from", from, folder.path().to_str().unwrap()])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut warnings = BufReader::new(import.stderr.take().unwrap());
    let mut first = String::new();
    warnings.read_line(&mut first).unwrap();
    assert_eq!(first, "warning: event_log_id 1001 has no content; it is left out\n");
    write();
    let last = warnings.lines().map(Result::unwrap).last().unwrap();
    assert_eq!(last, "warning: event_log_id 4000 has no content; it is left out");
    let output = import.wait_with_output().unwrap();
    let log = in_folder(&folder, "logs/casper");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("10 events in {log}, 3000 left out\n"));
    let lines = run(&["cat", &log]);
    assert!(lines.starts_with("{\"sequence\":15,") && lines.lines().count() == 10, "{lines}");
}

/// Adds rows with these ids whose content is in no table.
fn add_rows(event_type: u8, ids: RangeInclusive<u64>) -> String {
    let (first, last) = ids.into_inner();
    format!(
        r#"INSERT INTO "event_log"
        WITH RECURSIVE rows(id) AS (SELECT {first} UNION ALL SELECT id + 1 FROM rows WHERE id < {last})
        SELECT id, {event_type}, 'http://10.0.0.1:9999/', id, CAST(id AS text), '2026-01-02 03:04:05',
            '2026-01-02 03:04:05', '2.0.0', 'casper-test' FROM rows"#
    )
}

#[test]
fn rows_that_are_written_while_an_import_reads_are_none_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch(&add_rows(7, 1001..=4000)).unwrap();
    // A shutdown needs no content.
    let later = add_rows(8, 5000..=5000);
    import_while_written(&format!("sqlite:{}", database.display()), || {
        connection.execute_batch(&later).unwrap();
    });

    let server = reference_postgresql();
    server.psql(DATABASE, &add_rows(7, 1001..=4000));
    import_while_written(&server.url(DATABASE), || {
        server.psql(DATABASE, &later);
    });
}

#[test]
fn a_log_is_imported_to_where_the_sidecar_looks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("sqlite:{}", reference_sqlite(folder.path()).display());
    let index = |path: &str| {
        fs::create_dir_all(path).unwrap();
        fs::write(format!("{path}/sse_index"), 110_u32.to_le_bytes()).unwrap();
    };
    index(&in_folder(&folder, "named"));
    for (asked, made, first) in [
        ("fresh", "fresh/logs/casper", "0"),
        ("a/b/c", "a/b/c/logs/casper", "0"),
        ("d/logs/mine/", "d/logs/mine/", "0"),
        ("a/b/c/logs/../../e", "a/b/c/logs/../../e/logs/casper", "0"),
        ("named/logs/mine", "named/logs/mine", "100"),
    ] {
        let made = in_folder(&folder, made);
        let out = run(&["import", "--from", &from, &in_folder(&folder, asked)]);
        assert_eq!(out, format!("10 events in {made}\n"));
        assert!(run(&["cat", &made]).starts_with(&format!("{{\"sequence\":{first},")), "{made}");
    }
}

#[test]
fn an_import_that_cannot_continue_names_what_it_was_reading() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let from = format!("sqlite:{}", database.display());
    let import = |from: &str| tool(&["import", "--from", from, &in_folder(&folder, "storage")]);
    for (missing, why) in
        [("sqlite:/no/such/file", "cannot read sqlite:/no/such/file: "), ("sqlite:/", "cannot read sqlite:/: ")]
    {
        let (_, err, status) = import(missing);
        assert_eq!((status, err.starts_with(&format!("error: {why}"))), (1, true), "{err}");
    }
    let (_, err, status) = import("file.db3");
    assert_eq!(
        (status, err.starts_with("error: --from: neither sqlite:FILE nor a postgresql:// URL")),
        (2, true),
        "{err}"
    );

    let connection = rusqlite::Connection::open(&database).unwrap();
    let set = |column: &str, value: &str| {
        let sql = format!(r#"UPDATE "event_log" SET "{column}" = {value} WHERE "event_log_id" = 4"#);
        assert_eq!(connection.execute(&sql, []).unwrap(), 1);
    };
    for (column, unreadable, sound, why) in [
        ("emitted_timestamp", "'yesterday'", "'2026-01-02 03:04:05'", "its emitted_timestamp is not a time after 1970"),
        ("event_id", "'many'", "3", "Invalid column type Text at index: 3, name: event_id"),
        ("api_version", "x'ff'", "'2.0.0'", "its api_version is not text"),
    ] {
        set(column, unreadable);
        let (_, err, status) = import(&from);
        let start = format!("error: cannot import the row of table event_log with event_log_id 4 in {from}: {why}");
        assert_eq!((status, err.starts_with(&start)), (1, true), "{err}");
        set(column, sound);
    }
    assert_eq!(import(&from).2, 0);
}

#[test]
fn what_a_log_cannot_hold_is_found_while_rows_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_sqlite(folder.path());
    let connection = rusqlite::Connection::open(&database).unwrap();
    // As a tool of Windows may leave it, and a name that is too long.
    let step = r#"UPDATE "Step" SET "raw" = replace("raw", '{"era_id"', '{' || char(13) || char(10) || '"era_id"')"#;
    assert_eq!(connection.execute(step, []).unwrap(), 1);
    let fault = r#"UPDATE "Fault" SET "raw" = "raw" || char(13)"#;
    assert_eq!(connection.execute(fault, []).unwrap(), 1);
    let block = r#"UPDATE "event_log" SET "network_name" = printf('%300s', 'x') WHERE "event_log_id" = 1"#;
    assert_eq!(connection.execute(block, []).unwrap(), 1);
    let (err, lines) = import_spoilt(&format!("sqlite:{}", database.display()), ", 1 left out", 9);
    let (warning, note) = err.split_once('\n').unwrap();
    assert!(warning.starts_with("warning: event_log_id 1 has content that a log cannot hold ("), "{err}");
    assert!(note.starts_with("note: 2 events, event_log_id 6 the first, have carriage returns"), "{err}");
    assert!(lines.contains("{\"Step\":{ \"era_id\""), "{lines}");
}

#[test]
fn databases_without_the_tables_to_read_are_named_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("old.db3");
    let connection = rusqlite::Connection::open(&file).unwrap();
    let import = || tool(&["import", "--from", &format!("sqlite:{}", file.display()), &in_folder(&folder, "storage")]);
    for (tables, why) in [
        (
            "CREATE TABLE diary (day text)",
            "does not hold the tables of the Casper Sidecar 2.x: there is no table event_log",
        ),
        (
            r#"CREATE TABLE event_log (event_log_id integer); CREATE TABLE "DeployAccepted" (deploy_hash text)"#,
            "is a database of the Casper Sidecar 1.x: it has a table DeployAccepted; only databases of version 2.x",
        ),
    ] {
        connection.execute_batch(tables).unwrap();
        let (_, err, status) = import();
        assert_eq!((status, err.contains(why)), (1, true), "{err}");
    }
}

#[test]
fn an_export_that_is_interrupted_from_the_keyboard_prints_how_to_resume_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_log_folder, log) = some_log(300);
    let output = in_folder(&folder, "events.jsonl");
    // A reader that never comes keeps the export where it is.
    let unfinished = format!("{output}.unfinished");
    interrupted(30, &["export", &log, "--output", &output]);
    let part = format!("{unfinished}/events.jsonl");
    fs::remove_file(&part).unwrap();
    assert!(Command::new("mkfifo").arg(&part).status().unwrap().success());
    let mut export = Command::new(env!("CARGO_BIN_EXE_sidecar-log"))
        .args(["export", &log, "--output", &output, "--resume"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let handles_interrupts = || {
        let status = fs::read_to_string(format!("/proc/{}/status", export.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&caught, 16).unwrap() & 2 != 0
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !handles_interrupts() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &export.id().to_string()]).status().unwrap().success());
    let mut err = String::new();
    std::io::Read::read_to_string(&mut export.stderr.take().unwrap(), &mut err).unwrap();
    assert_eq!(export.wait().unwrap().code(), Some(130));
    assert_eq!(err, format!("interrupted; the same command with --resume continues, from what is in {unfinished}\n"));
}

#[test]
fn what_was_imported_is_exported_as_the_rows_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let reference = reference_sqlite(folder.path());
    let emitted = r#"UPDATE "event_log" SET "emitted_timestamp" = '2026-01-01 00:00:0' || ("event_log_id" % 10)"#;
    assert_eq!(rusqlite::Connection::open(&reference).unwrap().execute(emitted, []).unwrap(), 10);
    let (log, output) = (in_folder(&folder, "storage"), in_folder(&folder, "again.db3"));
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
    let times = |file: &Path| -> Vec<String> {
        let connection = rusqlite::Connection::open(file).unwrap();
        let sql = r#"SELECT "emitted_timestamp" FROM "event_log" ORDER BY "event_log_id""#;
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(times(output.as_ref()), times(&reference));
}

/// The same database in PostgreSQL.
fn reference_postgresql() -> PostgreSql {
    let server = PostgreSql::start();
    server.psql(DATABASE, &String::from_utf8(recordings::transcript("postgres-schema.sql")).unwrap());
    let dump = recordings::sqlite_dump();
    for row in dump.lines().filter(|line| line.starts_with("INSERT INTO") && !line.contains("sqlite_sequence")) {
        let (table, values) = row["INSERT INTO ".len()..].split_once(" VALUES").unwrap();
        server.psql(DATABASE, &format!("INSERT INTO \"{table}\" VALUES{}", values.replace("(1,1);", "(1,true);")));
    }
    server
}

#[test]
fn the_history_in_postgresql_is_the_same_and_the_password_is_never_shown() {
    let server = reference_postgresql();
    let folder = tempfile::tempdir().unwrap();
    let log = in_folder(&folder, "storage");
    run(&["import", "--from", &server.url(DATABASE), &log]);
    assert_eq!(payloads(&log), said_once());
    let marks = run(&["inspect", &log, "--json"]);
    assert!(marks.contains("PostgreSQL database events at 127.0.0.1") && !marks.contains(PASSWORD), "{marks}");

    for (parameter, name) in
        [("options=-csearch_path%3Dother", "options"), ("sslmode=disable&hostaddr=127.0.0.2", "hostaddr")]
    {
        let url = format!("{}?{parameter}", server.url(DATABASE));
        let (_, err, status) = tool(&["import", "--from", &url, &in_folder(&folder, "other")]);
        let named = format!("--from: the parameter {name} is not honoured");
        assert_eq!((status, err.contains(&named)), (2, true), "{err}");
    }

    server.psql(DATABASE, r#"DELETE FROM "Step""#);
    import_without_step(&format!("{}?sslmode=disable", server.url(DATABASE)));

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
