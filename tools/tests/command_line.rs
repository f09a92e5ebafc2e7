//! The built binary, as people use it: what it prints, what it refuses, how it ends.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops where it fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read as _},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::Arc,
};

use sidecar_log_format::{
    ApiVersion, Event, Kind, Mark, MarkKind, Opened, WriteOptions, Writer,
    storage::{Directory, Storage},
};
use sidecar_test_support::documentation::expect_file;
use tempfile::TempDir;

/// 2026-01-02T03:04:05Z.
const TIME: u64 = 1_767_323_045_000_000;
const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 0 };

fn options() -> WriteOptions {
    WriteOptions {
        kinds: vec![(1, "BlockAdded".to_owned()), (7, "Step".to_owned())],
        allocate_bytes: 4096,
        ..WriteOptions::new("casper", [0xab; 16], TIME)
    }
}

fn open(log: &Path) -> Writer {
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(log).unwrap());
    let Opened { writer, .. } = Writer::open(storage, options()).unwrap();
    writer
}

fn append(writer: &mut Writer, numbers: Range<u64>) {
    for number in numbers {
        let (kind, payload) = match number % 3 {
            0 => (Kind(1), format!("{{\"BlockAdded\":{{\"height\":{number}}}}}")),
            1 => (Kind(7), format!("{{\"Step\":\n  {{\"era_id\":{number}}}}}")),
            _ => (Kind::OTHER, format!("{{\"New\":{number}}}")),
        };
        let event = Event {
            kind,
            name: "",
            source: "127.0.0.1:9999",
            network: "casper-test",
            api_version: VERSION,
            upstream_id: (number != 2).then_some(number + 100),
            received: TIME + number,
            payload: &payload,
        };
        writer.append(&event).unwrap();
    }
    writer.commit().unwrap();
}

/// A storage path whose log holds events 0 to 8 in a sealed segment and 9 to 11 in the active one.
fn some_storage() -> (TempDir, PathBuf) {
    let storage = tempfile::tempdir().unwrap();
    let log = storage.path().join("logs/casper");
    let mut writer = open(&log);
    writer.announce_version(VERSION, "127.0.0.1:9999", TIME).unwrap();
    append(&mut writer, 0..9);
    writer.seal_now(TIME + 9).unwrap();
    let body = "{\"of\":\"height\",\"from\":5,\"to\":7}".to_owned();
    writer.mark(&Mark { kind: MarkKind::GAP, position: 9, source: String::new(), received: TIME + 9, body }).unwrap();
    append(&mut writer, 9..12);
    writer.close().unwrap();
    (storage, log)
}

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidecar-log")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What the tool prints and its exit status, the temporary directory replaced by `LOG`.
fn run(log: &Path, arguments: &[&str]) -> (String, String, i32) {
    let path = log.to_str().unwrap();
    let mut all = vec![arguments[0], path];
    all.extend(&arguments[1..]);
    let output = tool(&all);
    let shown = |bytes: &[u8]| text(bytes).replace(path, "LOG");
    (shown(&output.stdout), shown(&output.stderr), output.status.code().unwrap())
}

/// Starts a command that follows: it prints the events `numbers`, of which those from `stored` on are appended meanwhile.
fn follow(
    arguments: &[&str],
    writer: &mut Writer,
    stored: u64,
    numbers: Range<u64>,
) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar-log"));
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in numbers {
        if number >= stored {
            append(writer, number..number + 1);
        }
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with(&format!("{{\"sequence\":{number},")), "{line}");
    }
    (child, lines)
}

fn flip(log: &Path, file: &str, offset: usize) {
    let path = log.join(file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

const SEALED: &str = "00000000000000000000.segment";
const NEWEST: &str = "00000000000000000009.segment";

#[test]
fn inspect_prints_a_table_and_the_same_as_json() {
    let (_storage, log) = some_storage();
    let (out, err, status) = run(&log, &["inspect"]);
    expect_file("tools/tests/golden/inspect.txt", &out);
    assert_eq!((err.as_str(), status), ("", 0));
    let (out, _, status) = run(&log, &["inspect", "--json"]);
    expect_file("tools/tests/golden/inspect.json", &out);
    assert_eq!(status, 0);
}

#[test]
fn a_storage_path_names_its_only_log() {
    let (storage, log) = some_storage();
    let by_log = tool(&["cat", log.to_str().unwrap()]);
    let by_storage = tool(&["cat", storage.path().to_str().unwrap()]);
    assert_eq!(by_log.stdout, by_storage.stdout);
    assert_eq!(by_storage.status.code(), Some(0));
}

#[test]
fn a_storage_path_with_two_logs_lists_them() {
    let (storage, _) = some_storage();
    open(&storage.path().join("logs/other")).close().unwrap();
    let (_, err, status) = run(storage.path(), &["verify"]);
    assert_eq!(err, "error: LOG holds 2 logs, name one of them: LOG/logs/casper, LOG/logs/other\n");
    assert_eq!(status, 1);
}

#[test]
fn a_directory_that_is_no_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["inspect", "cat", "compact", "verify", "head", "repair"] {
        let (out, err, status) = run(directory.path(), &[command]);
        assert!(err.starts_with("error: LOG is not a log: it holds no *.segment file"), "{err}");
        assert_eq!((out.as_str(), status), ("", 1));
    }
    let (_, err, status) = run(&directory.path().join("missing"), &["inspect"]);
    assert!(err.starts_with("error: cannot read LOG: No such file"), "{err}");
    assert_eq!(status, 1);
    assert_eq!(tool(&["inspect"]).status.code(), Some(2));
}

#[test]
fn cat_prints_both_ends_and_one_line_an_event() {
    let (_storage, log) = some_storage();
    let (out, err, status) = run(&log, &["cat", "--from", "1", "--until", "2"]);
    assert_eq!(
        out,
        "{\"sequence\":1,\"kind\":\"Step\",\"received_at\":\"2026-01-02T03:04:05.000001Z\",\"source\":\"127.0.0.1:9999\",\
         \"upstream_id\":101,\"api_version\":\"2.0.0\",\"network\":\"casper-test\",\"payload\":{\"Step\":   {\"era_id\":1}}}\n\
         {\"sequence\":2,\"kind\":\"other\",\"received_at\":\"2026-01-02T03:04:05.000002Z\",\"source\":\"127.0.0.1:9999\",\
         \"upstream_id\":null,\"api_version\":\"2.0.0\",\"network\":\"casper-test\",\"payload\":{\"New\":2}}\n"
    );
    assert_eq!((err.as_str(), status), ("", 0));
    let (out, _, _) = run(&log, &["cat"]);
    assert_eq!(out.lines().count(), 12);
    for line in out.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn cat_as_sse_prints_what_a_server_sends() {
    let (_storage, log) = some_storage();
    let (out, _, _) = run(&log, &["cat", "--from", "8", "--until", "10", "--format", "sse"]);
    assert_eq!(
        out,
        "data:{\"ApiVersion\":\"2.0.0\"}\n\ndata:{\"New\":8}\nid:8\n\ndata:{\"BlockAdded\":{\"height\":9}}\nid:9\n\n\
         data:{\"Step\":\ndata:   {\"era_id\":10}}\nid:10\n\n"
    );
    let (from_start, _, _) = run(&log, &["cat", "--format", "sse", "--until", "0"]);
    assert_eq!(from_start, "data:{\"ApiVersion\":\"2.0.0\"}\n\ndata:{\"BlockAdded\":{\"height\":0}}\nid:0\n\n");
}

#[test]
fn cat_filters_by_kind_and_names_the_known_ones() {
    let (_storage, log) = some_storage();
    let (out, _, _) = run(&log, &["cat", "--types", "BlockAdded,other", "--until", "5"]);
    let sequences: Vec<_> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, [0, 2, 3, 5]);
    let (_, err, status) = run(&log, &["cat", "--types", "Stpe"]);
    assert_eq!(err, "error: this log has no kind \"Stpe\"; it knows BlockAdded, Step, other\n");
    assert_eq!(status, 1);
}

#[test]
fn cat_prints_a_large_event() {
    let storage = tempfile::tempdir().unwrap();
    let mut writer = open(storage.path());
    let payload = format!("\"{}\"", "large ".repeat(400_000));
    let event =
        Event { source: "node", network: "casper-test", api_version: VERSION, ..Event::new(Kind(7), TIME, &payload) };
    writer.announce_version(VERSION, "node", TIME).unwrap();
    writer.append(&event).unwrap();
    writer.close().unwrap();
    let (out, _, _) = run(storage.path(), &["cat", "--format", "sse"]);
    assert!(out == format!("data:{{\"ApiVersion\":\"2.0.0\"}}\n\ndata:{payload}\nid:0\n\n"));
    let (out, _, _) = run(storage.path(), &["cat"]);
    assert!(out.ends_with(&format!("\"payload\":{payload}}}\n")));
    assert_eq!(run(storage.path(), &["verify"]).2, 0);
}

#[test]
fn cat_follows_until_the_last_wanted_event() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open(directory.path());
    append(&mut writer, 0..2);
    let path = directory.path().to_str().unwrap();
    let (child, mut lines) = follow(&["cat", path, "--follow", "--until", "4"], &mut writer, 2, 0..5);
    assert!(lines.next().is_none());
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(0)), "it waits for what is not stored");
}

#[test]
fn tail_prints_the_newest_events_and_follows() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open(directory.path());
    append(&mut writer, 0..20);
    let (ten, _, status) = run(directory.path(), &["tail"]);
    assert_eq!((ten, status), (run(directory.path(), &["cat", "--last", "10"]).0, 0));
    let (steps, _, _) = run(directory.path(), &["tail", "-n", "2", "--types", "Step", "--format", "sse"]);
    assert!(steps.contains("id:16\n") && steps.ends_with("id:19\n\n"), "{steps}");
    let path = directory.path().to_str().unwrap();
    let (mut child, _lines) = follow(&["tail", path, "-n1", "-f"], &mut writer, 20, 19..22);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_people_type_for_a_subcommand_is_guessed() {
    let mut answers = String::new();
    for typed in ["stats", "ls", "check", "dump", "follow", "backup", "version", "inspekt", "nonsense"] {
        let answer = tool(&[typed]);
        assert_eq!((answer.status.code(), answer.stdout.len()), (Some(2), 0));
        answers += &format!("$ sidecar-log {typed}\n{}\n", text(&answer.stderr));
    }
    expect_file("tools/tests/golden/guesses.txt", &answers);
    let (_storage, log) = some_storage();
    let answer = text(&tool(&[log.to_str().unwrap()]).stderr);
    assert!(answer.contains(&format!("did you mean `sidecar-log inspect {}`?", log.display())), "{answer}");
}

#[test]
fn cat_ends_quietly_when_its_output_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open(directory.path());
    append(&mut writer, 0..20_000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidecar-log"))
        .args(["cat", directory.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(0)));
}

/// A copy of a log without the last bytes of its newest segment, as `cp` leaves it that was faster than the writer.
fn torn_copy(log: &Path, bytes_left: u64) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(log).unwrap() {
        let name = entry.unwrap().file_name();
        fs::copy(log.join(&name), copy.path().join(&name)).unwrap();
    }
    let newest = fs::OpenOptions::new().write(true).open(copy.path().join(NEWEST)).unwrap();
    newest.set_len(bytes_left).unwrap();
    copy
}

/// Where the newest segment's blocks end.
fn blocks_end(log: &Path) -> u64 {
    let report: serde_json::Value = serde_json::from_str(&run(log, &["inspect", "--json"]).0).unwrap();
    report["segments"].as_array().unwrap().last().unwrap()["bytes_stored"].as_u64().unwrap()
}

#[test]
fn what_a_copy_lacks_of_what_its_head_names_is_reported_and_not_an_error() {
    let (_storage, log) = some_storage();
    let end_before = blocks_end(&log);
    let mut writer = open(&log);
    append(&mut writer, 12..15);
    writer.close().unwrap();

    // Torn in the header of the last block.
    let copy = torn_copy(&log, end_before + 50);
    let (out, err, status) = run(copy.path(), &["inspect"]);
    assert_eq!((err.as_str(), status), ("", 0));
    let health = "health         nothing is visibly wrong, but this copy ends before sequences 12 to 14; \
                  `sidecar-log verify` reads everything\n";
    assert!(out.ends_with(health), "{out}");
    let report: serde_json::Value = serde_json::from_str(&run(copy.path(), &["inspect", "--json"]).0).unwrap();
    assert_eq!(report["copy_lacks"], serde_json::json!({"first_sequence": 12, "last_sequence": 14}));

    let warning = "warning: this is a copy of a log that ends before sequences 12 to 14, which its head names\n";
    let (out, err, status) = run(copy.path(), &["cat"]);
    assert_eq!((out.lines().count(), err.as_str(), status), (12, warning, 0));
    assert_eq!(run(copy.path(), &["cat", "--until", "11"]).1, "", "nothing of that is lacking");
    assert_eq!(run(copy.path(), &["cat", "--until", "14"]).1, warning);
    let not_stored = format!("{warning}warning: sequences 15 to 20 are not stored yet\n");
    assert_eq!(run(copy.path(), &["cat", "--until", "20"]).1, not_stored);
    for format in ["jsonl", "parquet", "sqlite"] {
        let output = copy.path().join(format);
        let (_, err, status) = run(copy.path(), &["export", "--format", format, "--output", output.to_str().unwrap()]);
        assert!(err.starts_with(warning), "{err}");
        assert_eq!(status, 0);
    }

    let head = |at: &str| run(&log, &["head", "--at", at]).0.split(' ').next_back().unwrap().trim_end().to_owned();
    let (out, err, status) = run(copy.path(), &["verify"]);
    assert!(out.contains(&format!("\nchain          {} after sequence 11\n", head("11"))), "{out}");
    assert!(out.contains("\nsequences      0 to 11\n"), "{out}");
    assert!(
        out.contains("this is a copy, good up to where it ends, before sequences 12 to 14, which the head names"),
        "{out}"
    );
    assert_eq!((err.as_str(), status), ("", 0));

    // Torn in its events: its header has a chain value that cannot be checked.
    let copy = torn_copy(&log, blocks_end(&log) - 5);
    let (out, _, status) = run(copy.path(), &["verify"]);
    assert!(out.contains(&format!("\nchain          {} after sequence 11\n", head("11"))), "{out}");
    assert!(out.contains("before sequences 12 to 14, which the head names"), "{out}");
    assert_eq!(status, 0);
    let (json, _, _) = run(copy.path(), &["verify", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["last_checked"], &json["chain"]), (&11.into(), &head("11").into()));

    // A whole copy.
    let copy = torn_copy(&log, blocks_end(&log));
    assert_eq!(run(copy.path(), &["cat"]).1, "");
    let (out, _, _) = run(copy.path(), &["inspect"]);
    assert!(out.contains("health         nothing is visibly wrong; "), "{out}");
    let (out, _, _) = run(copy.path(), &["verify"]);
    assert!(out.contains(&format!("\nchain          {} after sequence 14\n", head("14"))), "{out}");

    // Damage is no end: in the log itself, and in a copy that has all of it.
    let (before, after) = (head("11"), head("14"));
    for damaged in [&log, copy.path()] {
        flip(damaged, NEWEST, usize::try_from(blocks_end(damaged)).unwrap() - 5);
        let (out, _, status) = run(damaged, &["verify"]);
        let checked = format!("\nchain          {before} after sequence 11, the last that could be checked\n");
        assert!(out.contains(&checked) && !out.contains(&after), "{out}");
        assert_eq!(status, 1);
    }
}

#[test]
fn what_is_asked_for_beyond_the_log_is_named() {
    let (_storage, log) = some_storage();
    let output = log.join("output");
    let output = output.to_str().unwrap();
    for command in [&["cat"][..], &["export", "--output", output]] {
        let (out, err, status) = run(&log, &[command, &["--from", "10", "--until", "5"]].concat());
        let expected = format!("error: --until 5 is before --from 10\n\nUsage: sidecar-log {} [OPTIONS] ", command[0]);
        assert!(err.starts_with(&expected), "{err}");
        assert_eq!((out.as_str(), status, Path::new(output).exists()), ("", 2, false));
        let (_, err, status) = run(&log, &[command, &["--from", "13"]].concat());
        assert_eq!((err.as_str(), status), ("warning: sequence 13 is not stored yet: 12 is next\n", 0));
        fs::remove_file(output).unwrap_or_default();
        for (range, warning) in [
            (&["--from", "12"][..], ""),
            (&["--until", "11"], ""),
            (&["--until", "12"], "warning: sequences 12 to 12 are not stored yet\n"),
            (&["--from", "12", "--until", "99"], "warning: sequences 12 to 99 are not stored yet\n"),
            (&["--from", "13", "--until", "99"], "warning: sequence 13 is not stored yet: 12 is next\n"),
        ] {
            let (_, err, status) = run(&log, &[command, range].concat());
            assert_eq!((err.as_str(), status), (warning, 0), "{range:?}");
            fs::remove_file(output).unwrap_or_default();
        }
    }
    fs::remove_file(log.join(SEALED)).unwrap();
    for (from, warning) in [
        (&[][..], "warning: sequences 0 to 5 are stored and lost: no segment holds them\n"),
        (&["--from", "3"], "warning: sequences 3 to 5 are stored and lost: no segment holds them\n"),
    ] {
        let (out, err, status) = run(&log, &[&["cat", "--until", "5"], from].concat());
        assert_eq!((out.as_str(), err.as_str(), status), ("", warning, 1));
    }
}

#[test]
fn what_retention_dropped_is_reported_as_dropped() {
    let (_storage, log) = some_storage();
    assert_eq!(open(&log).maintenance().drop_before(9).unwrap(), 1);
    for (from, warning) in [
        (&[][..], "warning: sequences up to 5 were dropped: the oldest is 9\n"),
        (&["--from", "3"], "warning: sequences 3 to 5 are older than the oldest retained event\n"),
    ] {
        let (out, err, status) = run(&log, &[&["cat", "--until", "5"], from].concat());
        assert_eq!((out.as_str(), err.as_str(), status), ("", warning, 0));
    }
    let (out, _, status) = run(&log, &["verify"]);
    assert!(out.ends_with("result         sound\n"), "{out}");
    assert_eq!(status, 0);
}

#[test]
fn a_lost_segment_is_named_until_a_repair_marks_it() {
    for (lost, first, last) in [(SEALED, 0, 8), (NEWEST, 9, 11)] {
        let (_storage, log) = some_storage();
        fs::remove_file(log.join(lost)).unwrap();
        let named = format!("lost           {} events, sequences {first} to {last}, missing\n", last - first + 1);
        let (out, _, status) = run(&log, &["verify"]);
        assert!(out.contains(&named), "{out}");
        assert_eq!(status, 1);
        let (out, _, status) = run(&log, &["inspect"]);
        let health = format!("health         {} events are missing, sequences {first} to {last}: ", last - first + 1);
        assert!(out.contains(&health), "{out}");
        assert_eq!(status, 1);
        let (out, _, status) = run(&log, &["repair"]);
        assert_eq!(status, 0, "{out}");
        let (out, _, status) = run(&log, &["verify"]);
        assert!(out.contains(&format!("marked hole    sequences {first} to {last}: ")), "{out}");
        assert!(out.ends_with("result         sound\n"), "{out}");
        assert_eq!(status, 0);
    }
}

#[test]
fn after_a_repair_that_gives_newest_events_up_nodes_may_bring_them_again() {
    let (storage, log) = some_storage();
    let index = storage.path().join("index/casper.redb");
    fs::create_dir(storage.path().join("index")).unwrap();
    fs::write(&index, "it knows all events").unwrap();
    // A footer that is made again loses nothing.
    let end = fs::metadata(log.join(SEALED)).unwrap().len() as usize;
    flip(&log, SEALED, end - 1);
    let (out, err, status) = run(&log, &["repair"]);
    assert_eq!((err.as_str(), status), ("", 0), "{out}");
    assert!(index.exists());
    fs::remove_file(log.join(NEWEST)).unwrap();
    let (_, _, status) = run(&log, &["repair", "--dry-run"]);
    assert!(status == 1 && index.exists());
    let (out, err, status) = run(&log, &["repair"]);
    assert!(err.contains("the identity index was removed"), "{err}");
    assert_eq!(status, 0, "{out}");
    assert!(!index.exists());
}

#[test]
fn inspect_and_cat_show_the_rest_of_a_log_with_a_bad_header() {
    for (bad, events) in [(SEALED, "9 to 11"), (NEWEST, "0 to 8")] {
        let (_storage, log) = some_storage();
        flip(&log, bad, 30);
        // It is read from its copy.
        let (out, _, status) = run(&log, &["inspect"]);
        assert!(out.contains(&format!("health         the header of {bad}: ")), "{out}");
        assert_eq!(status, 1);
        let (out, _, status) = run(&log, &["verify"]);
        assert!(out.contains("(read from its copy in the ") && !out.contains("lost "), "{out}");
        assert_eq!(status, 1);
        let (out, err, status) = run(&log, &["cat"]);
        assert_eq!((out.lines().count(), err.as_str(), status), (12, "", 0));
        // Without a copy, all else is shown.
        if bad == SEALED {
            let end = fs::metadata(log.join(bad)).unwrap().len() as usize;
            flip(&log, bad, end - 1);
        } else {
            flip(&log, "head", 1100);
        }
        let (out, _, status) = run(&log, &["inspect"]);
        assert!(out.contains(&format!("health         {bad} at byte 0 is corrupt")), "{out}");
        let (good, count) = if bad == SEALED { (NEWEST, 3) } else { (SEALED, 9) };
        assert!(out.contains(good), "{out}");
        assert_eq!(status, 1);
        let (out, err, status) = run(&log, &["cat"]);
        assert_eq!((out.lines().count(), status), (count, 1), "{events} are there: {err}");
        assert!(err.contains("are stored and damaged: "), "{err}");
    }
}

#[test]
fn segments_with_each_others_names_get_their_own_back() {
    let (_storage, log) = some_storage();
    fs::rename(log.join(SEALED), log.join("aside")).unwrap();
    fs::rename(log.join(NEWEST), log.join(SEALED)).unwrap();
    fs::rename(log.join("aside"), log.join(NEWEST)).unwrap();
    let (out, _, status) = run(&log, &["verify"]);
    let named = format!("it is the segment that begins at sequence 9 and belongs in {NEWEST}");
    assert!(out.contains(&named), "{out}");
    assert_eq!(status, 1);
    let renames = [(SEALED, NEWEST), (NEWEST, SEALED)];
    for (arguments, would, expected) in [(&["repair", "--dry-run"][..], "would ", 1), (&["repair"], "", 0)] {
        let (out, _, status) = run(&log, arguments);
        for (file, right) in renames {
            assert!(out.contains(&format!("{would}rename {file} to {right}, which it is by its header\n")), "{out}");
        }
        assert!(!out.contains("leave"), "{out}");
        assert_eq!(status, expected, "{out}");
    }
    let (out, _, status) = run(&log, &["verify"]);
    assert_eq!(status, 0, "{out}");
    let (out, _, _) = run(&log, &["cat"]);
    assert_eq!(out.lines().count(), 12);
}

#[test]
fn a_copy_that_ends_before_its_head_is_wrong_only_where_all_of_it_is_asked_for() {
    let (_storage, log) = some_storage();
    let copy = torn_copy(&log, blocks_end(&log) - 10);
    let (out, _, status) = run(copy.path(), &["verify"]);
    assert_eq!(status, 0, "{out}");
    let (out, _, status) = run(copy.path(), &["verify", "--whole"]);
    assert!(out.contains("it names events that are not in this copy"), "{out}");
    assert_eq!(status, 1);
    // Of the log itself nothing lacks.
    assert_eq!(run(&log, &["verify", "--whole"]).2, 0);
}

#[test]
fn cat_takes_times_and_the_last_events() {
    let (_storage, log) = some_storage();
    let sequences = |options: &[&str]| -> Vec<u64> {
        let (out, err, status) = run(&log, &[&["cat"], options].concat());
        assert_eq!((err.as_str(), status), ("", 0), "{options:?}");
        let lines = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["sequence"].as_u64().unwrap()).collect()
    };
    let time = |micros: u64| format!("2026-01-02T03:04:05.{micros:06}Z");
    assert_eq!(sequences(&["--since", &time(10)]), [10, 11]);
    assert_eq!(sequences(&["--since", "2026-01-02T04:04:05.000010+01:00"]), [10, 11]);
    assert_eq!(sequences(&["--since", &time(2), "--until-time", &time(4)]), [2, 3, 4]);
    assert_eq!(sequences(&["--until-time", &time(1)]), [0, 1]);
    assert!(sequences(&["--since", &time(100)]).is_empty());
    assert!(sequences(&["--until-time", "2020-01-01T00:00:00Z"]).is_empty());
    assert_eq!(sequences(&["--last", "2"]), [10, 11]);
    assert_eq!(sequences(&["--last", "2", "--types", "Step"]), [7, 10]);
    assert_eq!(sequences(&["--last", "3", "--until", "9"]), [7, 8, 9]);
    assert_eq!(sequences(&["--last", "100"]).len(), 12);
    assert!(sequences(&["--last", "0"]).is_empty());
    let (_, err, status) = run(&log, &["cat", "--since", "yesterday"]);
    assert!(err.contains("\"yesterday\" is not a time like 2026-01-02T03:04:05Z"), "{err}");
    assert_eq!(status, 2);
}

#[test]
fn an_error_names_once_what_the_operating_system_answers() {
    let (_storage, log) = some_storage();
    fs::remove_file(log.join("lock")).unwrap();
    fs::create_dir(log.join("lock")).unwrap();
    for command in ["repair", "compact"] {
        let (_, err, status) = run(&log, &[command]);
        assert_eq!((err.as_str(), status), ("error: lock LOG: Is a directory (os error 21)\n", 1), "{command}");
    }
    let (_, err, _) = run(&log, &["rebuild-views"]);
    assert_eq!(err, "error: cannot lock LOG: Is a directory (os error 21)\n");
}

#[test]
fn every_command_ends_quietly_when_its_output_is_closed() {
    let (_storage, log) = some_storage();
    let log = log.to_str().unwrap();
    for arguments in [
        &["--help"][..],
        &["cat", log],
        &["inspect", log],
        &["inspect", log, "--json"],
        &["verify", log, "--chain"],
        &["verify", log, "--json"],
        &["head", log],
        &["repair", log, "--dry-run"],
        &["compact", log, "--dry-run"],
        &["rebuild-views", log],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar-log"));
        let output = command.args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
        let output = output.unwrap();
        assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(0)), "{arguments:?}");
    }
}

#[test]
fn verify_is_content_with_a_sound_log() {
    let (_storage, log) = some_storage();
    let (out, err, status) = run(&log, &["verify"]);
    expect_file("tools/tests/golden/verify.txt", &out);
    assert_eq!((err.as_str(), status), ("", 0));
    let (out, _, _) = run(&log, &["repair"]);
    assert_eq!(out, "nothing to repair\n");
}

#[test]
fn verify_with_chain_shows_the_history_and_where_it_begins() {
    let (_storage, log) = some_storage();
    let (out, err, status) = run(&log, &["verify", "--chain"]);
    expect_file("tools/tests/golden/verify-chain.txt", &out);
    assert_eq!((err.as_str(), status), ("", 0));
    let writer = open(&log);
    writer.maintenance().drop_before(9).unwrap();
    writer.close().unwrap();
    let (out, _, status) = run(&log, &["verify", "--chain"]);
    expect_file("tools/tests/golden/verify-chain-retained.txt", &out);
    assert_eq!(status, 0);
}

#[test]
fn head_prints_one_line_that_a_replica_prints_too() {
    let (_storage, log) = some_storage();
    let (out, err, status) = run(&log, &["head"]);
    let [id, sequence, hash] = out.trim_end().split(' ').collect::<Vec<_>>()[..] else { panic!("{out}") };
    assert_eq!((id, sequence, hash.len()), ("ab".repeat(16).as_str(), "11", 64));
    assert_eq!((err.as_str(), status), ("", 0));
    assert_eq!(run(&log, &["head", "--at", "11"]).0, out);
    let (json, _, _) = run(&log, &["head", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["log_id"], &json["sequence"], &json["hash"]), (&id.into(), &11.into(), &hash.into()));

    // A replica that is behind, in other blocks.
    let replica = tempfile::tempdir().unwrap();
    let mut writer = open(replica.path());
    writer.announce_version(VERSION, "127.0.0.1:9999", TIME).unwrap();
    append(&mut writer, 0..5);
    append(&mut writer, 5..7);
    assert_eq!(run(replica.path(), &["head"]).0, run(&log, &["head", "--at", "6"]).0);

    for (at, why) in
        [("12", "sequence 12 is not stored yet: 12 is next"), ("5", "sequence 5 was dropped: the oldest is 9")]
    {
        let writer = open(&log);
        writer.maintenance().drop_before(9).unwrap();
        writer.close().unwrap();
        let (out, err, status) = run(&log, &["head", "--at", at]);
        assert_eq!((out.as_str(), err.as_str(), status), ("", format!("error: {why}\n").as_str(), 1));
    }
    assert_eq!(run(&log, &["head", "--at", "8"]).2, 0, "the oldest segment tells where the dropped ones ended");
}

#[test]
fn head_of_a_log_without_events_reports_that() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().unwrap();
    let (out, _, status) = run(directory.path(), &["head"]);
    assert_eq!((out, status), (format!("{} - {}\n", "ab".repeat(16), "0".repeat(64)), 0));
}

#[test]
fn damage_is_named_then_repaired_then_remembered() {
    let (_storage, log) = some_storage();
    let trailer = fs::metadata(log.join(SEALED)).unwrap().len() as usize - 3;
    flip(&log, SEALED, 600);
    flip(&log, SEALED, trailer);

    let (out, err, status) = run(&log, &["cat", "--from", "7", "--until", "9"]);
    assert!(err.starts_with("warning: sequences 7 to 8 are stored and damaged: "), "{err}");
    assert_eq!((out.lines().count(), status), (1, 1));

    let (out, _, status) = run(&log, &["verify", "--chain"]);
    expect_file("tools/tests/golden/verify-chain-damaged.txt", &out);
    assert_eq!(status, 1);
    let (out, err, status) = run(&log, &["verify"]);
    expect_file("tools/tests/golden/verify-damaged.txt", &out);
    assert_eq!((err.as_str(), status), ("", 1));
    let (out, _, status) = run(&log, &["verify", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((found["is_sound"].as_bool(), found["problem_count"].as_u64(), status), (Some(false), Some(2), 1));

    let (out, _, status) = run(&log, &["repair", "--dry-run"]);
    expect_file("tools/tests/golden/repair-dry-run.txt", &out);
    assert_eq!(status, 1);
    let (out, _, status) = run(&log, &["repair"]);
    expect_file("tools/tests/golden/repair.txt", &out);
    assert_eq!(status, 0);
    let (out, _, status) = run(&log, &["repair", "--json"]);
    assert_eq!((out.as_str(), status), ("[]\n", 0));

    let (out, _, status) = run(&log, &["verify"]);
    expect_file("tools/tests/golden/verify-repaired.txt", &out);
    assert_eq!(status, 0);
    let (_, err, status) = run(&log, &["cat"]);
    assert_eq!(err, "warning: sequences 0 to 8 are lost, as a mark in the log says\n");
    assert_eq!(status, 0);
    let (out, _, status) = run(&log, &["inspect"]);
    assert!(out.contains(".quarantined holds damaged bytes that were kept aside"), "{out}");
    assert_eq!(status, 0);
}

#[test]
fn repair_reports_that_the_log_is_being_written_and_everything_else_works() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open(directory.path());
    append(&mut writer, 0..5);
    let (_, err, status) = run(directory.path(), &["repair"]);
    assert_eq!(err, "error: LOG is locked: another process is writing this log; stop it first\n");
    assert_eq!(status, 1);
    for command in ["inspect", "verify", "head", "cat"] {
        assert_eq!(run(directory.path(), &[command]).2, 0, "{command}");
    }
}

#[test]
fn views_are_rebuilt_where_the_sidecar_has_them_unless_it_is_running() {
    let (storage, log) = some_storage();
    let (out, err, status) = run(storage.path(), &["rebuild-views"]);
    assert_eq!((err.as_str(), status), ("", 0));
    assert!(out.contains("/views/casper.redb: the views of 12 events, "), "{out}");
    assert!(storage.path().join("views/casper.redb").exists());

    let elsewhere = storage.path().join("elsewhere.redb");
    let (out, _, status) = run(&log, &["rebuild-views", "--json", "--views", elsewhere.to_str().unwrap()]);
    let made: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (made["events"].as_u64(), made["bytes"].as_u64()),
        (Some(12), Some(fs::metadata(&elsewhere).unwrap().len()))
    );
    assert_eq!(status, 0);

    let mistyped = storage.path().join("notes.txt");
    fs::write(&mistyped, "not to be lost").unwrap();
    let (_, err, status) = run(&log, &["rebuild-views", "--views", mistyped.to_str().unwrap()]);
    assert_eq!((err.as_str(), status), ("", 0));
    assert_eq!(fs::read_to_string(storage.path().join("notes.txt.aside")).unwrap(), "not to be lost");

    let _writer = open(&log);
    let (_, err, status) = run(&log, &["rebuild-views"]);
    assert_eq!(err, "error: LOG is locked: another process is writing this log; stop it first\n");
    assert_eq!(status, 1);
}

#[test]
fn views_of_a_log_outside_a_storage_path_must_be_named() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().unwrap();
    let (_, err, status) = run(directory.path(), &["rebuild-views"]);
    assert!(err.contains("name their file with --views"), "{err}");
    assert_eq!(status, 1);
}

#[test]
fn a_read_only_directory_can_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let (_storage, log) = some_storage();
    let set = |mode: u32, file_mode: u32| {
        for entry in fs::read_dir(&log).unwrap() {
            fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(file_mode)).unwrap();
        }
        fs::set_permissions(&log, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(0o555, 0o444);
    let statuses: Vec<_> = ["inspect", "verify", "cat"].into_iter().map(|command| run(&log, &[command]).2).collect();
    let dry_run = run(&log, &["repair", "--dry-run"]);
    set(0o755, 0o644);
    assert_eq!(statuses, [0, 0, 0]);
    assert_eq!((dry_run.0.as_str(), dry_run.2), ("nothing to repair\n", 0));
}

#[test]
fn help_teaches_by_example() {
    for command in ["inspect", "cat", "compact", "export", "import", "verify", "head", "repair", "rebuild-views"] {
        let output = tool(&[command, "--help"]);
        let help = text(&output.stdout);
        assert!(help.contains("Examples:") && help.contains("Exit status:"), "{help}");
    }
    assert_eq!(tool(&["frobnicate"]).status.code(), Some(2));
}

#[test]
fn compact_reports_what_it_would_save_then_saves_it_then_has_nothing_to_do() {
    let storage = tempfile::tempdir().unwrap();
    let log = storage.path().to_owned();
    let mut writer = open(&log);
    for start in (0..9_000).step_by(10) {
        append(&mut writer, start..start + 10);
        if start % 3_000 == 2_990 {
            writer.seal_now(TIME + start).unwrap();
        }
    }

    // Only the dry run works while the log is written.
    let (_, err, status) = run(&log, &["compact"]);
    assert!(err.contains("`compaction = \"on\"` under [storage.log]"), "{err}");
    assert_eq!(status, 1);
    let (out, _, status) = run(&log, &["compact", "--dry-run", "--json"]);
    let planned: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((planned["segments"].as_array().unwrap().len(), status), (3, 0));
    writer.close().unwrap();

    let (before, _, _) = run(&log, &["cat"]);
    let (out, err, status) = run(&log, &["compact"]);
    expect_file("tools/tests/golden/compact.txt", &out);
    assert_eq!((err.as_str(), status), ("", 0));
    let (after, _, _) = run(&log, &["cat"]);
    assert!(before == after, "no event has changed");
    assert_eq!(run(&log, &["verify"]).2, 0);
    let (out, _, _) = run(&log, &["inspect", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let levels: Vec<_> =
        report["segments"].as_array().unwrap().iter().map(|segment| &segment["rewritten_level"]).collect();
    assert_eq!(levels, [&19.into(), &19.into(), &19.into(), &serde_json::Value::Null]);

    let (out, _, status) = run(&log, &["compact", "--dry-run"]);
    assert_eq!(out, "nothing to do  no sealed segment that is not at level 19 already\n");
    assert_eq!(status, 0);
}

#[test]
fn compact_takes_block_sizes_that_a_reader_can_hold() {
    let (_storage, log) = some_storage();
    for (bytes, fits) in
        [("64KiB", true), ("8MiB", true), ("1048576", true), ("9MiB", false), ("1", false), ("x", false)]
    {
        let (_, err, status) = run(&log, &["compact", "--dry-run", "--block-bytes", bytes]);
        assert_eq!(status == 0, fits, "{bytes}: {err}");
        assert_eq!(err.contains("from 64KiB to 8MiB"), !fits, "{err}");
    }
}

#[test]
fn compact_leaves_a_damaged_segment_alone_and_reports_it() {
    let (_storage, log) = some_storage();
    flip(&log, SEALED, 700);
    let (out, _, status) = run(&log, &["compact"]);
    assert!(out.starts_with("left alone     00000000000000000000.segment"), "{out}");
    assert_eq!(status, 1);
}

#[test]
fn an_error_that_cannot_be_written_leaves_the_exit_status_as_it_is() {
    for arguments in [&["inspect", "/nowhere"][..], &["cat", "/nowhere"], &["verify", "/nowhere"]] {
        let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar-log"));
        let status = command.args(arguments).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}
