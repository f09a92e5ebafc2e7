//! The bytes on disk: FORMAT.md's worked example is what this release writes, and the golden logs of every released
//! format read as they always did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod simulated_disk;

use std::{collections::BTreeMap, fmt::Write, path::Path, sync::Arc};

use sidecar_log_format::{
    ApiVersion, Event, FrameForm, Kind, Log, Mark, MarkKind, Opened, Read, ReadOptions, WriteOptions, Writer,
    storage::{Directory, Storage},
};
use simulated_disk::SimulatedDisk;

const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 1 };

fn event(payload: &str, upstream_id: Option<u64>, received: u64) -> Event<'_> {
    Event {
        kind: Kind(7),
        name: "",
        source: "node:9999",
        network: "casper-test",
        api_version: VERSION,
        upstream_id,
        received,
        payload,
    }
}

/// The log of the worked example: two events in one block, sealed, and the head behind them.
fn example() -> BTreeMap<String, Vec<u8>> {
    let disk = SimulatedDisk::new(0);
    let options = WriteOptions {
        kinds: vec![(7, "Step".to_owned())],
        ..WriteOptions::new("casper", *b"0123456789abcdef", 1_000_000)
    };
    let Opened { mut writer, .. } = Writer::open(Arc::new(disk.clone()), options).unwrap();
    writer.announce_version(VERSION, "node:9999", 2_000_000).unwrap();
    writer.append(&event("{\"Step\":1}", Some(40), 3_000_000)).unwrap();
    writer.append(&event("{\n\"Step\":2}", Some(41), 3_000_005)).unwrap();
    writer.commit().unwrap();
    writer.seal_now(4_000_000).unwrap();
    disk.files()
}

/// The bytes of a fenced block `hex <file>`: lines of `offset  hex bytes  | what they are`.
fn documented(file: &str) -> Vec<u8> {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("FORMAT.md")).unwrap();
    let mut bytes = Vec::new();
    let mut lines = document.lines().skip_while(|line| *line != format!("```hex {file}")).skip(1);
    for line in lines.by_ref().take_while(|line| *line != "```") {
        let (offset, rest) = line.split_once(' ').unwrap();
        assert_eq!(offset.parse::<usize>().unwrap(), bytes.len(), "at line {line:?}");
        let hex: String = rest.split('|').next().unwrap().split_whitespace().collect();
        for pair in hex.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        }
    }
    bytes
}

#[test]
fn the_worked_example_is_what_this_release_writes() {
    for (name, written) in example() {
        if let Some(directory) = std::env::var_os("SIDECAR_WRITE_EXAMPLE") {
            std::fs::write(Path::new(&directory).join(&name), &written).unwrap();
        } else {
            assert_eq!(documented(&name), written, "{name} differs from FORMAT.md");
        }
    }
}

#[test]
fn the_chain_value_of_the_worked_example_is_that_of_the_document() {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("FORMAT.md")).unwrap();
    let chain = sidecar_log_format::next_chain_value(
        &sidecar_log_format::CHAIN_START,
        0,
        Kind(7),
        VERSION,
        "casper-test",
        "Step",
        b"{\"Step\":1}",
    );
    let hex = chain.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert!(document.contains(&hex), "FORMAT.md lacks h(0) = {hex}");
}

/// The golden logs of format 1, by directory.
const GOLDEN: [(&str, FrameForm); 2] = [("format-1", FrameForm::Plain), ("format-1-named", FrameForm::Named)];

/// A log with everything in it: segments, marks, a version that rises twice, folded payloads, a large event, names.
fn write_golden(storage: Arc<dyn Storage>, frame_form: FrameForm) {
    let options = WriteOptions {
        frame_form,
        kinds: vec![(7, "Step".to_owned()), (9, "Shutdown".to_owned())],
        block_bytes_max: 400,
        allocate_bytes: 1,
        ..WriteOptions::new("casper", *b"golden golden go", 1_000)
    };
    let Opened { mut writer, .. } = Writer::open(storage, options).unwrap();
    let large = format!("\"{}\"", "0123456789".repeat(150_000));
    for number in 0..40u64 {
        let version = ApiVersion { major: 2, minor: (number / 25) as u32, patch: 0 };
        if frame_form == FrameForm::Plain {
            writer.announce_version(version, "node:9999", number).unwrap();
        }
        let payload = match number {
            11 => large.clone(),
            12 => "{\n  \"folded\": true\n}".to_owned(),
            13 => " 13".to_owned(),
            _ => format!("{{\"Step\":{{\"era_id\":{number}}}}}"),
        };
        let source = ["node:9999", "other:9999"][(number % 2) as usize];
        let (kind, name) = match number {
            39 => (Kind(9), ""),
            20 => (Kind::OTHER, "a_kind_without_a_number"),
            21 => (Kind::OTHER, ""),
            22 => (Kind(7), "another_name"),
            _ => (Kind(7), ""),
        };
        let upstream_id = (number != 5).then_some(1000 - number);
        let event = event(&payload, upstream_id, 1_000_000 + number * 7);
        writer.append(&Event { kind, name, source, api_version: version, ..event }).unwrap();
        if number % 5 == 4 {
            let body = format!("{{\"of\":\"height\",\"from\":{number},\"to\":{number}}}");
            let (source, received) = ("node:9999".to_owned(), number);
            writer.mark(&Mark { kind: MarkKind::GAP, position: 0, source, received, body }).unwrap();
            writer.commit().unwrap();
        }
        if number % 15 == 14 {
            writer.seal_now(number).unwrap();
        }
    }
    writer.commit().unwrap();
}

fn listing(log: &Log) -> String {
    let mut out = String::new();
    let kinds = log.kinds();
    let (dialect, frames) = (log.dialect(), log.frame_form());
    writeln!(out, "dialect {dialect}, {frames} frames, kinds {kinds:?} oldest {} head {:?}", log.oldest(), log.head())
        .unwrap();
    let mut next = 0;
    loop {
        match log.read(next).unwrap() {
            Read::Events { block, index } => {
                let row = block.row(index).unwrap();
                let payload = String::from_utf8(row.payload().into_owned()).unwrap();
                writeln!(
                    out,
                    "{next} kind {} {:?} from {} {:?} on {} version {} in force {} rises {:?} received {} {payload:?}",
                    row.kind().0,
                    row.name(),
                    row.source(),
                    row.upstream_id(),
                    row.network(),
                    row.api_version(),
                    block.version_in_force(index),
                    row.rise(),
                    row.received()
                )
                .unwrap();
            }
            Read::Large(large) => {
                let payload = large.payload().unwrap();
                writeln!(out, "{next} large: {} bytes, CRC-32 {:08x}", payload.len(), crc32fast::hash(&payload))
                    .unwrap();
            }
            Read::Missing { from, to, why } => panic!("{from} to {to}: {why:?}"),
            Read::End => break,
        }
        next += 1;
    }
    for mark in log.marks(0).unwrap() {
        let (kind, source) = (mark.kind.name(), &mark.source);
        writeln!(out, "mark {kind} before {} from {source} at {}: {}", mark.position, mark.received, mark.body)
            .unwrap();
    }
    out
}

#[test]
fn the_golden_logs_of_format_1_read_as_they_always_did() {
    for (name, frame_form) in GOLDEN {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("SIDECAR_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(&directory).unwrap();
            write_golden(Arc::new(Directory::at(&directory)), frame_form);
        }
        let log = Log::open(Arc::new(Directory::at(&directory)), ReadOptions::default()).unwrap();
        let found = listing(&log);
        let expected = directory.join("listing.txt");
        if std::env::var_os("SIDECAR_WRITE_GOLDEN").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(expected).unwrap());
    }
}

#[test]
fn this_release_reads_what_it_writes_as_the_golden_logs_read() {
    for (name, frame_form) in GOLDEN {
        let disk = SimulatedDisk::new(0);
        write_golden(Arc::new(disk.clone()), frame_form);
        let log = Log::open(Arc::new(disk), ReadOptions::default()).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("listing.txt");
        assert_eq!(listing(&log), std::fs::read_to_string(golden).unwrap());
    }
}

#[test]
fn a_log_of_the_unreleased_form_is_refused_with_the_way_out() {
    let mut files = example();
    let segment = files.get_mut("00000000000000000000.segment").unwrap();
    let length = usize::from(u16::from_le_bytes([segment[10], segment[11]]));
    segment[16] = 0;
    let crc = crc32fast::hash(&segment[..length - 4]).to_le_bytes();
    segment[length - 4..length].copy_from_slice(&crc);
    files.remove("00000000000000000002.segment");
    let disk = Arc::new(SimulatedDisk::with_files(1, files));
    let error = Log::open(disk, ReadOptions::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("unreleased build") && error.contains("empty storage folder"), "{error}");
}

#[test]
fn a_log_is_written_in_its_own_frame_form_only() {
    let disk = Arc::new(SimulatedDisk::with_files(1, example()));
    let options = WriteOptions { frame_form: FrameForm::Named, ..WriteOptions::new("casper", [1; 16], 1) };
    let error = Writer::open(disk, options).map(drop).unwrap_err().to_string();
    assert!(error.contains("plain frames, not named ones"), "{error}");
}
