//! History that can be shown: what was changed in a log is found, even where the checksums were recomputed.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops where it fails")]

mod simulated_disk;

use std::{collections::BTreeMap, sync::Arc};

use sidecar_log_format::{
    ApiVersion, CHAIN_START, ChainValue, Event, Kind, Log, Mark, MarkKind, Opened, Read, ReadOptions, RewriteOptions,
    WriteOptions, Writer,
    history::{beginning, put_in_front},
    next_chain_value,
    repair::{RepairOptions, repair},
    storage::{Lock, Storage},
    verify::{StretchStart, Verification, verify},
};
use simulated_disk::SimulatedDisk;

const SEGMENT: &str = "00000000000000000000.segment";

fn storage(files: &BTreeMap<String, Vec<u8>>) -> Arc<dyn Storage> {
    Arc::new(SimulatedDisk::with_files(1, files.clone()))
}

/// The file in which retention notes that it dropped everything before `sequence`.
fn oldest(sequence: u64) -> Vec<u8> {
    let slot = [b"OLDS\0\0\0\0".as_slice(), &2u64.to_le_bytes(), &sequence.to_le_bytes(), &[0; 4]].concat();
    let crc = crc32fast::hash(&slot).to_le_bytes();
    [slot, crc.to_vec()].concat()
}

fn history() -> Vec<String> {
    (0..12).map(|number| format!("{{\"Step\":{{\"era_id\":{number}}}}}")).collect()
}

/// A log of one event a block, as a writer would have made it; sealed after `sealed` events.
fn written(payloads: &[String], per_commit: usize, sealed: Option<usize>) -> BTreeMap<String, Vec<u8>> {
    let disk = SimulatedDisk::new(1);
    let options = WriteOptions { allocate_bytes: 1, ..WriteOptions::new("casper", [7; 16], 1_000) };
    let Opened { mut writer, .. } = Writer::open(Arc::new(disk.clone()), options).unwrap();
    for (number, payload) in payloads.iter().enumerate() {
        let event = Event { source: "node", network: "net", ..Event::new(Kind(7), 5, payload) };
        writer.append(&event).unwrap();
        if (number + 1) % per_commit == 0 {
            writer.commit().unwrap();
        }
        if sealed == Some(number + 1) {
            writer.seal_now(6).unwrap();
        }
    }
    writer.close().unwrap();
    disk.files()
}

fn values(payloads: &[String]) -> Vec<ChainValue> {
    let mut chain = CHAIN_START;
    let next = |(sequence, payload): (usize, &String)| {
        chain = next_chain_value(&chain, sequence as u64, Kind(7), ApiVersion::NONE, "net", "", payload.as_bytes());
        chain
    };
    payloads.iter().enumerate().map(next).collect()
}

fn blocks(segment: &[u8]) -> Vec<std::ops::Range<usize>> {
    let number = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let mut at = usize::from(u16::from_le_bytes([segment[10], segment[11]]));
    let mut found = Vec::new();
    while segment.get(at..).is_some_and(|rest| rest.starts_with(b"SBLK\x01")) {
        let end = at + 144 + number(at + 72) + number(at + 80);
        found.push(at..end);
        at = end;
    }
    found
}

/// Writes chain values into block headers, with checksums that fit.
fn forge_values(segment: &mut [u8], values: &[ChainValue]) {
    let places = blocks(segment);
    assert_eq!(places.len(), values.len());
    for (place, value) in places.into_iter().zip(values) {
        let header = &mut segment[place.start..place.start + 144];
        header[88..120].copy_from_slice(value);
        let crc = crc32fast::hash(&header[..140]);
        header[140..].copy_from_slice(&crc.to_le_bytes());
    }
}

fn checked(files: &BTreeMap<String, Vec<u8>>) -> Verification {
    verify(&storage(files), &mut |_| {}).unwrap()
}

/// What was done to the history: which events it has now, and which of the old values each keeps.
fn forgeries() -> Vec<(&'static str, Vec<String>, Vec<usize>)> {
    let history = history();
    let mut edited = history.clone();
    edited[5] = edited[5].replace('5', "6");
    let mut reordered = history.clone();
    reordered.swap(5, 6);
    let mut dropped = history.clone();
    dropped.remove(5);
    let mut inserted = history.clone();
    inserted.insert(5, "{\"Step\":{}}".to_owned());
    let all = (0..12).collect::<Vec<_>>();
    let without = all.iter().copied().filter(|&number| number != 5).collect();
    let twice = (0..6).chain(5..12).collect();
    vec![
        ("edited", edited, all.clone()),
        ("reordered", reordered, all),
        ("dropped", dropped, without),
        ("inserted", inserted, twice),
    ]
}

#[test]
fn the_chain_value_after_an_event_is_known_while_its_block_from_before_a_merge_is_in_memory() {
    let disk = SimulatedDisk::with_files(1, written(&history(), 3, Some(12)));
    let options = WriteOptions::new("casper", [7; 16], 1_000);
    let Opened { writer, log, .. } = Writer::open(Arc::new(disk), options).unwrap();
    let chain = || (0..12).map(|sequence| log.chain_after(sequence).unwrap().unwrap()).collect::<Vec<_>>();
    assert_eq!(chain(), values(&history()));
    writer.maintenance().rewrite(0, RewriteOptions::default()).unwrap().unwrap();
    assert_eq!(chain(), values(&history()));
}

#[test]
fn an_edited_reordered_dropped_or_inserted_event_is_found_when_every_checksum_fits() {
    let original = values(&history());
    assert!(checked(&written(&history(), 1, None)).is_sound);
    for (what, payloads, kept) in forgeries() {
        let mut files = written(&payloads, 1, None);
        let kept: Vec<_> = kept.into_iter().map(|number| original[number]).collect();
        forge_values(files.get_mut(SEGMENT).unwrap(), &kept);
        let found = checked(&files);
        let first = found.problems.iter().find(|problem| problem.reason.contains("chain value"));
        let first = first.unwrap_or_else(|| panic!("{what}: {:?}", found.problems));
        assert!(matches!(first.first_sequence, Some(5 | 6)), "{what}: {first:?}");
        let broken = found.stretches.iter().find(|stretch| stretch.start == StretchStart::Broken).unwrap();
        assert_eq!(Some(broken.first_sequence), first.first_sequence, "{what}");
        assert!(found.stretches[0].last_sequence < broken.first_sequence, "{what}");
    }
}

#[test]
fn a_history_rewritten_from_a_change_on_differs_from_every_replica_from_there_on() {
    let replica = Log::open(storage(&written(&history(), 4, None)), ReadOptions::default()).unwrap();
    for (what, payloads, _) in forgeries() {
        let files = written(&payloads, 3, Some(6));
        assert!(checked(&files).is_sound, "{what}: one log alone cannot tell");
        let forged = Log::open(storage(&files), ReadOptions::default()).unwrap();
        for sequence in 0..11 {
            let (one, other) = (replica.chain_after(sequence).unwrap(), forged.chain_after(sequence).unwrap());
            assert_eq!(one.unwrap() == other.unwrap(), sequence < 5, "{what} at {sequence}");
        }
    }
}

#[test]
fn the_value_after_any_event_is_known_however_the_log_is_cut_into_blocks_and_segments() {
    let values = values(&history());
    for (per_commit, sealed) in [(1, None), (4, None), (5, Some(7)), (12, Some(3))] {
        let log = Log::open(storage(&written(&history(), per_commit, sealed)), ReadOptions::default()).unwrap();
        for (sequence, value) in values.iter().enumerate() {
            assert_eq!(log.chain_after(sequence as u64).unwrap(), Some(*value), "{sequence} of {per_commit}");
        }
        assert_eq!(log.chain_after(12).unwrap(), None);
    }
}

#[test]
fn after_a_quarantined_block_the_check_continues_and_names_the_hole() {
    let mut files = written(&history(), 3, None);
    let second = blocks(&files[SEGMENT])[1].clone();
    let values = values(&history());
    let hex = |value: ChainValue| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // Its header is whole and has its end; then the header is damaged, and the end is unknown.
    for (byte, start) in [(second.end - 3, StretchStart::AfterHole), (second.start + 9, StretchStart::Unknown)] {
        files.get_mut(SEGMENT).unwrap()[byte] ^= 1;
        let found = checked(&files);
        let stretches: Vec<_> =
            found.stretches.iter().map(|one| (one.first_sequence, one.last_sequence, one.start)).collect();
        assert_eq!(stretches, [(0, 2, StretchStart::NewLog), (6, 11, start)]);
        assert_eq!(found.problem_count, 1, "{:?}", found.problems);
        assert_eq!(found.chain, Some(hex(values[11])));
        let log = Log::open(storage(&files), ReadOptions::default()).unwrap();
        assert_eq!(log.chain_after(4).unwrap(), None);
    }
}

#[test]
fn after_retention_the_oldest_segment_has_the_start() {
    let mut files = written(&history(), 2, Some(6));
    files.remove(SEGMENT);
    assert!(!checked(&files).is_sound, "a segment that nothing says was dropped is lost");
    files.insert("oldest".to_owned(), oldest(6));
    let found = checked(&files);
    assert!(found.is_sound, "{:?}", found.problems);
    let [stretch] = found.stretches.as_slice() else { panic!("{:?}", found.stretches) };
    assert_eq!((stretch.first_sequence, stretch.last_sequence), (6, 11));
    assert_eq!(stretch.start, StretchStart::OldestSegment);
    let log = Log::open(storage(&files), ReadOptions::default()).unwrap();
    let values = values(&history());
    assert_eq!(log.chain_after(5).unwrap(), Some(values[5]), "a replica that ends there can be compared");
    assert_eq!(log.chain_after(4).unwrap(), None);
    assert_eq!(log.chain_after(6).unwrap(), Some(values[6]));
}

#[test]
fn a_repaired_log_keeps_its_hole_in_the_chain() {
    let mut files = written(&history(), 3, Some(9));
    let second = blocks(&files[SEGMENT])[1].clone();
    files.get_mut(SEGMENT).unwrap()[second.end - 3] ^= 1;
    let disk: Arc<dyn Storage> = storage(&files);
    repair(&disk, RepairOptions { dry_run: false, now: 9 }).unwrap();
    let found = verify(&disk, &mut |_| {}).unwrap();
    assert!(found.is_sound, "{:?}", found.problems);
    let stretches: Vec<_> =
        found.stretches.iter().map(|one| (one.first_sequence, one.last_sequence, one.start)).collect();
    assert_eq!(stretches, [(0, 2, StretchStart::NewLog), (6, 11, StretchStart::AfterHole)]);
    let log = Log::open(disk, ReadOptions::default()).unwrap();
    assert_eq!(log.chain_after(7).unwrap(), Some(values(&history())[7]));
}

/// A log that begins at `first`, with an import mark at its end where history ends.
fn log_from(first: u64, payloads: &[String], history_end: Option<u64>) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let options =
        WriteOptions { first_sequence: first, allocate_bytes: 1, ..WriteOptions::new("casper", [7; 16], 1_000) };
    let Opened { mut writer, .. } = Writer::open(Arc::new(disk.clone()), options).unwrap();
    writer.announce_version(ApiVersion { major: 2, minor: 0, patch: 0 }, "node", 5).unwrap();
    for (number, payload) in payloads.iter().enumerate() {
        let event = Event {
            source: "node",
            network: "net",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            ..Event::new(Kind(7), 5, payload)
        };
        writer.append(&event).unwrap();
        if history_end.is_some() && number % 3 == 2 {
            writer.seal_now(6).unwrap();
        }
    }
    if let Some(end) = history_end {
        let body = format!("{{\"import\":\"end\",\"in_front_of\":{end}}}");
        let mark = Mark { kind: MarkKind::IMPORT, position: end, source: String::new(), received: 6, body };
        writer.mark(&mark).unwrap();
        writer.seal_now(6).unwrap();
    }
    writer.close().unwrap();
    disk
}

/// Puts the history in front of the log; returns how many of its segments are new there.
fn put_all(log: &SimulatedDisk, lock: &dyn Lock, history: &SimulatedDisk) -> sidecar_log_format::Result<usize> {
    put_in_front(log, lock, history)?.try_fold(0, |copied, segment| segment.map(|_| copied + 1))
}

#[test]
fn history_in_front_of_a_log_is_read_with_it_and_shows_as_a_stretch_of_its_own_wherever_a_crash_stops_it() {
    let payloads: Vec<String> = (0..14).map(|number| format!("{{\"Step\":{{\"era_id\":{number}}}}}")).collect();
    let (older, newer) = payloads.split_at(8);
    // Segments of 3, 3 and 2 events; the last one has the mark.
    let history = log_from(92, older, Some(100));
    for copied_before_the_crash in 0..=3 {
        let log = log_from(100, newer, None);
        let begun = beginning(&log).unwrap();
        assert_eq!((begun.first_sequence, begun.log_id, begun.is_first_ever), (100, [7; 16], true));
        let lock = log.lock().unwrap().unwrap();
        let mut part = history.files();
        let older_ones: Vec<String> =
            part.keys().filter(|name| name.ends_with(".segment")).take(3 - copied_before_the_crash).cloned().collect();
        older_ones.iter().for_each(|name| drop(part.remove(name)));
        assert_eq!(put_all(&log, lock.as_ref(), &SimulatedDisk::with_files(1, part)).unwrap(), copied_before_the_crash);
        let first = [100, 98, 95, 92][copied_before_the_crash];
        for (again, first) in [(false, first), (true, 92)] {
            if again {
                assert_eq!(put_all(&log, lock.as_ref(), &history).unwrap(), 3 - copied_before_the_crash);
            }
            let storage: Arc<dyn Storage> = Arc::new(log.clone());
            let found = verify(&storage, &mut |_| {}).unwrap();
            assert!(found.is_sound, "{:?}", found.problems);
            assert_eq!((found.first_sequence, found.next_sequence), (first, 106));
            let reader = Log::open(storage, ReadOptions::default()).unwrap();
            assert_eq!(reader.retained_from(), first, "what is missing from there on is lost");
            for (sequence, payload) in (92..).zip(&payloads).skip_while(|(sequence, _)| *sequence < first) {
                let Read::Events { block, index } = reader.read(sequence).unwrap() else { panic!("{sequence}") };
                assert_eq!(block.row(index).unwrap().payload(), payload.as_bytes());
            }
        }
        let storage: Arc<dyn Storage> = Arc::new(log.clone());
        let found = verify(&storage, &mut |_| {}).unwrap();
        let starts: Vec<_> = found.stretches.iter().map(|stretch| (stretch.first_sequence, stretch.start)).collect();
        assert_eq!(starts, [(92, StretchStart::NewLog), (100, StretchStart::AfterHistory)]);
        // It continues as before.
        drop(lock);
        let options = WriteOptions { allocate_bytes: 1, ..WriteOptions::new("casper", [9; 16], 1_000) };
        let Opened { writer, recovery, .. } = Writer::open(Arc::new(log.clone()), options).unwrap();
        assert_eq!((writer.next_sequence(), recovery.lost), (106, None));
    }
}

#[test]
fn history_whose_caller_stops_between_its_segments_is_continued_by_the_next() {
    let payloads: Vec<String> = (0..14).map(|number| format!("{{\"Step\":{{\"era_id\":{number}}}}}")).collect();
    let (older, newer) = payloads.split_at(8);
    let (history, log) = (log_from(92, older, Some(100)), log_from(100, newer, None));
    let lock = log.lock().unwrap().unwrap();
    for begins_at in [98, 95, 92] {
        let mut copying = put_in_front(&log, lock.as_ref(), &history).unwrap();
        assert_eq!(copying.next().unwrap().unwrap(), begins_at);
        let found = verify(&(Arc::new(log.clone()) as Arc<dyn Storage>), &mut |_| {}).unwrap();
        assert!(found.is_sound, "{:?}", found.problems);
        assert_eq!((found.first_sequence, found.next_sequence), (begins_at, 106));
    }
    assert!(put_in_front(&log, lock.as_ref(), &history).unwrap().next().is_none());
}

#[test]
fn what_does_not_end_where_a_log_begins_or_has_no_mark_of_that_is_not_put_in_front() {
    let payloads: Vec<String> = (0..3).map(|number| format!("{{\"Step\":{{\"era_id\":{number}}}}}")).collect();
    let log = log_from(100, &payloads, None);
    let lock = log.lock().unwrap().unwrap();
    let refused = put_all(&log, lock.as_ref(), &log_from(90, &payloads, Some(93))).unwrap_err().to_string();
    assert!(refused.contains("00000000000000000093.segment cannot be in front"), "{refused}");

    // Without the mark, a chain that begins again would be a change.
    let unmarked = log_from(97, &payloads, Some(1));
    let refused = put_all(&log, lock.as_ref(), &unmarked).unwrap_err().to_string();
    assert!(refused.contains("no import mark in it names 100 as the first event after it"), "{refused}");
    // And what an earlier call copied is continued by the same history only.
    let history: Vec<String> = (0..5).map(|number| format!("{{\"Step\":{{\"era_id\":{number}}}}}")).collect();
    let mut last_part = log_from(95, &history, Some(100)).files();
    last_part.remove("00000000000000000095.segment").unwrap();
    assert_eq!(put_all(&log, lock.as_ref(), &SimulatedDisk::with_files(1, last_part)).unwrap(), 1);
    let other: Vec<String> = payloads.into_iter().rev().collect();
    let refused = put_all(&log, lock.as_ref(), &log_from(95, &other, Some(98))).unwrap_err().to_string();
    assert!(refused.contains("the log's chain does not continue its own"), "{refused}");
    let found = verify(&(Arc::new(log) as Arc<dyn Storage>), &mut |_| {}).unwrap();
    assert!(found.is_sound, "{:?}", found.problems);
}
