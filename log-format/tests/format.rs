//! The bytes on disk: FORMAT.md's worked example is what this release writes, and the golden logs of every released
//! format read as they always did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod simulated_disk;

use std::{collections::BTreeMap, fmt::Write, path::Path, sync::Arc};

use sidecar_log_format::{
    ApiVersion, Cursor, Event, FrameForm, Item, Kind, Log, Mark, MarkKind, Opened, Read, ReadOptions, WriteOptions,
    Writer,
    repair::{RepairOptions, repair},
    storage::{Directory, Storage},
    verify::{Problem, verify},
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

/// The log of the worked example: two events in one block, sealed, and the head after them.
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

fn golden_options(frame_form: FrameForm) -> WriteOptions {
    WriteOptions {
        frame_form,
        kinds: vec![(7, "Step".to_owned()), (9, "Shutdown".to_owned())],
        block_bytes_max: 400,
        allocate_bytes: 1,
        ..WriteOptions::new("casper", *b"golden golden go", 1_000)
    }
}

/// A log with everything in it: segments, marks, a version that rises twice, folded payloads, a large event, names.
fn write_golden(storage: Arc<dyn Storage>, frame_form: FrameForm) {
    let Opened { mut writer, .. } = Writer::open(storage, golden_options(frame_form)).unwrap();
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
            // A log that is there would be continued.
            std::fs::remove_dir_all(&directory).unwrap();
            write_golden(Arc::new(Directory::create(&directory).unwrap()), frame_form);
            std::fs::remove_file(directory.join("lock")).unwrap();
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

const SEGMENTS: [&str; 3] =
    ["00000000000000000000.segment", "00000000000000000015.segment", "00000000000000000030.segment"];

/// The golden log with plain frames, at home on a disk of its own, after `damage` was done to its files.
fn damaged(damage: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> SimulatedDisk {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1");
    let names = [SEGMENTS[0], SEGMENTS[1], SEGMENTS[2], "head", "oldest"];
    let mut files: BTreeMap<_, _> =
        names.map(|name| (name.to_owned(), std::fs::read(directory.join(name)).unwrap())).into();
    damage(&mut files);
    let disk = SimulatedDisk::with_files(1, files);
    if let Ok(identity) = disk.identity("head") {
        // Otherwise it is a copy's.
        disk.edit("head", |head| {
            for start in [0, 512] {
                let slot = &mut head[start..start + 96];
                let is_sound = slot[92..] == crc32fast::hash(&slot[..92]).to_le_bytes();
                slot[48..56].copy_from_slice(&identity.inode.to_le_bytes());
                slot[88..92].copy_from_slice(&identity.born.to_le_bytes());
                let crc = crc32fast::hash(&slot[..92]).to_le_bytes();
                slot[92..].copy_from_slice(&if is_sound { crc } else { [0; 4] });
            }
        });
    }
    disk
}

/// Where the blocks of a segment begin, the footer last if there is one.
fn blocks(segment: &[u8]) -> Vec<usize> {
    let number = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let mut at = usize::from(u16::from_le_bytes([segment[10], segment[11]]));
    let mut offsets = Vec::new();
    while segment.get(at..).is_some_and(|rest| rest.starts_with(b"SBLK")) {
        offsets.push(at);
        at += 144 + number(at + 72) + number(at + 80);
    }
    offsets
}

type Damage = fn(&mut BTreeMap<String, Vec<u8>>);

/// What is done to a golden log, and what it is called.
const DAMAGE: [(&str, Damage); 14] = [
    ("a flipped bit in the header of a sealed segment", |files| flip(files, SEGMENTS[1], 80)),
    ("no header before a sealed segment's blocks", |files| files.get_mut(SEGMENTS[0]).unwrap()[..150].fill(0)),
    ("a flipped bit in the header of the newest segment", |files| flip(files, SEGMENTS[2], 80)),
    ("the same, and in its copy in the head", |files| {
        flip(files, SEGMENTS[2], 80);
        flip(files, "head", 1100);
    }),
    ("a cut footer", |files| {
        let segment = files.get_mut(SEGMENTS[1]).unwrap();
        segment.truncate(segment.len() - 20);
    }),
    ("a flipped bit in a footer", |files| {
        let footer = *blocks(&files[SEGMENTS[1]]).last().unwrap();
        flip(files, SEGMENTS[1], footer + 200);
    }),
    ("a flipped bit in a block of events", |files| {
        let segment = &files[SEGMENTS[1]];
        let events = blocks(segment).into_iter().find(|&at| segment[at + 4] == 1).unwrap();
        flip(files, SEGMENTS[1], events + 160);
    }),
    ("a flipped bit in a block of marks", |files| {
        let segment = &files[SEGMENTS[1]];
        let marks = blocks(segment).into_iter().find(|&at| segment[at + 4] == 2).unwrap();
        flip(files, SEGMENTS[1], marks + 20);
    }),
    ("a flipped bit in a large event", |files| {
        let segment = &files[SEGMENTS[0]];
        let raw_bytes = |at: usize| u32::from_le_bytes(segment[at + 84..at + 88].try_into().unwrap());
        let large = blocks(segment).into_iter().find(|&at| raw_bytes(at) > 1 << 20).unwrap();
        flip(files, SEGMENTS[0], large + 200);
    }),
    ("a newest segment that is cut in its last block", |files| {
        let segment = files.get_mut(SEGMENTS[2]).unwrap();
        let last = *blocks(segment).last().unwrap();
        segment.truncate(last + 150);
    }),
    ("a half-written block after the head's end", |files| {
        let segment = files.get_mut(SEGMENTS[2]).unwrap();
        let end = segment.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        segment.truncate(end);
        let first = blocks(segment)[0];
        segment.extend_from_within(first..first + 100);
    }),
    ("a missing segment", |files| drop(files.remove(SEGMENTS[1]))),
    ("a lost head", |files| drop(files.remove("head"))),
    ("a flipped bit in a slot of the head, and in one of `oldest`", |files| {
        flip(files, "head", 20);
        flip(files, "oldest", 20);
    }),
];

fn flip(files: &mut BTreeMap<String, Vec<u8>>, file: &str, byte: usize) {
    files.get_mut(file).unwrap()[byte] ^= 0x10;
}

/// What readers, verify, repair and the next writer report about a log.
fn findings(damage: Damage) -> String {
    let mut out = String::new();
    let disk = damaged(damage);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    match Log::open(Arc::clone(&storage), ReadOptions::default()) {
        Ok(log) => {
            let mut cursor = Cursor::new(&log, 0);
            let mut events = 0;
            while let Some(run) = cursor.next_run().unwrap() {
                for item in run.items() {
                    match item {
                        Item::Event(..) => events += 1,
                        Item::Missing(range, why) => {
                            writeln!(out, "a reader misses {} to {}: {why}", range.start, range.end - 1).unwrap();
                        }
                    }
                }
            }
            writeln!(out, "a reader gets {events} events and {} marks", log.marks(0).unwrap().len()).unwrap();
        }
        Err(error) => writeln!(out, "a reader cannot open it: {error}").unwrap(),
    }
    verified(&mut out, &storage);
    let written = SimulatedDisk::with_files(1, disk.files());
    match Writer::open(Arc::new(written), golden_options(FrameForm::Plain)) {
        Ok(opened) => writeln!(out, "a writer opens it: {:?}", opened.recovery).unwrap(),
        Err(error) => writeln!(out, "a writer cannot open it: {error}").unwrap(),
    }
    for action in repair(&storage, RepairOptions { dry_run: false, now: 5_000 }).unwrap() {
        writeln!(out, "repair: {action:?}").unwrap();
    }
    verified(&mut out, &storage);
    out
}

fn verified(out: &mut String, storage: &Arc<dyn Storage>) {
    let found = verify(storage, &mut |_| {}).unwrap();
    for problem in &found.problems {
        let Problem { file, offset, first_sequence, last_sequence, reason } = problem;
        let range = first_sequence.zip(*last_sequence).map(|(first, last)| format!(", events {first} to {last}"));
        writeln!(out, "verify: {file} at {offset}{}: {reason}", range.unwrap_or_default()).unwrap();
    }
    let sound = if found.is_sound { "sound" } else { "not sound" };
    let lost: u64 = found.losses.ranges().iter().map(|lost| lost.events()).sum();
    writeln!(out, "verify: {sound}, {} events checked, {lost} lost", found.events).unwrap();
}

#[test]
fn each_damaged_golden_log_is_reported_and_repaired_as_it_always_was() {
    let mut found = String::new();
    for (name, damage) in DAMAGE {
        write!(found, "## {name}\n\n{}\n", findings(damage)).unwrap();
    }
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1-damaged.txt");
    if std::env::var_os("SIDECAR_WRITE_GOLDEN").is_some() {
        std::fs::write(&expected, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(expected).unwrap());
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
