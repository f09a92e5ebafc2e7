//! What goes wrong around a log, and what is then reported and done.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod simulated_disk;

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use proptest::prelude::*;
use sidecar_log_format::{
    Cursor, Error, Event, Kind, Log, LossKind, Maintenance, Mark, MarkKind, Missing, Opened, Read, ReadOptions,
    RewriteOptions, SealedSegment, WriteOptions, Writer,
    inspect::inspect,
    repair::{Action, RepairOptions, repair},
    storage::{Directory, Storage},
    verify::verify,
};
use simulated_disk::{Fault, Random, SimulatedDisk};

const SEGMENT: &str = "00000000000000000000.segment";

fn options() -> WriteOptions {
    WriteOptions { block_bytes_max: 300, allocate_bytes: 4096, ..WriteOptions::new("casper", [7; 16], 1_000) }
}

fn payload(number: u64) -> String {
    format!("{{\"number\":{number},\"filler\":\"{}\"}}", "y".repeat((number % 50) as usize))
}

fn append(writer: &mut Writer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        append_uncommitted(writer, number);
        writer.commit().unwrap();
    }
}

fn append_uncommitted(writer: &mut Writer, number: u64) {
    let payload = payload(number);
    let event = Event { source: "node", network: "net", ..Event::new(Kind(7), 1_000 + number, &payload) };
    assert_eq!(writer.append(&event).unwrap(), number);
}

fn open(disk: &SimulatedDisk) -> Opened {
    Writer::open(Arc::new(disk.clone()), options()).unwrap()
}

fn reader(disk: &SimulatedDisk) -> Log {
    Log::open(Arc::new(disk.clone()), ReadOptions::default()).unwrap()
}

/// The sequences that can be read, each checked, and why others cannot.
fn readable(log: &Log) -> (Vec<u64>, Vec<(u64, u64, Missing)>) {
    let (mut found, mut missing, mut next) = (Vec::new(), Vec::new(), 0);
    loop {
        match log.read(next).unwrap() {
            Read::Events { block, index } => {
                assert_eq!(block.row(index).unwrap().payload(), payload(next).as_bytes());
                found.push(next);
                next += 1;
            }
            Read::Missing { from, to, why } => {
                assert!(to > from);
                missing.push((from, to, why));
                next = to;
            }
            Read::End => return (found, missing),
            Read::Large(_) => panic!("no event is large"),
        }
    }
}

fn written(count: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    append(&mut open(&disk).writer, 0..count);
    disk
}

/// Where the blocks of a segment begin, from their headers.
fn block_offsets(segment: &[u8]) -> Vec<usize> {
    let number = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let mut offsets = vec![usize::from(u16::from_le_bytes([segment[10], segment[11]]))];
    while segment.get(offsets[offsets.len() - 1]..).is_some_and(|rest| rest.starts_with(b"SBLK")) {
        let at = offsets[offsets.len() - 1];
        offsets.push(at + 144 + number(at + 72) + number(at + 80));
    }
    offsets
}

fn seal_header(header: &mut [u8]) {
    let (covered, crc) = header.split_at_mut(140);
    crc.copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
}

#[test]
fn a_log_without_events_opens_again() {
    let disk = SimulatedDisk::new(1);
    for _ in 0..3 {
        let Opened { log, recovery, .. } = open(&disk);
        assert_eq!((log.head().next_sequence, log.head().epoch, recovery.lost), (0, 0, None));
    }
}

#[test]
fn damage_before_the_head_costs_its_block_and_no_more() {
    for part in [2, 5, 80, 160] {
        let disk = written(20);
        let at = block_offsets(&disk.files()[SEGMENT])[7] + part;
        disk.edit(SEGMENT, |bytes| bytes[at] ^= 0xff);
        disk.restart_process();
        let check = |log: &Log| {
            let (found, missing) = readable(log);
            assert_eq!(found, (0..20).filter(|&number| number != 7).collect::<Vec<_>>(), "byte {part}");
            assert!(matches!(missing[..], [(7, 8, Missing::Quarantined(_))]), "byte {part}: {missing:?}");
        };
        check(&reader(&disk));
        let Opened { mut writer, log, recovery } = open(&disk);
        assert_eq!((recovery.cut_bytes, &recovery.lost), (0, &None), "byte {part}");
        check(&log);
        writer.seal_now(5).unwrap();
        check(&log);
        check(&reader(&disk));
    }
}

#[test]
fn a_large_event_that_cannot_be_read_is_distinguished_from_a_damaged_one() {
    let disk = SimulatedDisk::new(1);
    let Opened { mut writer, log, .. } = open(&disk);
    let large = "x".repeat(3 << 20);
    let event = Event { source: "node", network: "net", ..Event::new(Kind(7), 1_000, &large) };
    writer.append(&event).unwrap();
    writer.commit().unwrap();
    let Read::Large(event) = log.read(0).unwrap() else { panic!("the event is large") };
    disk.fail_after(0, Fault::Io);
    assert!(matches!(event.payload(), Err(Error::Storage { .. })));
    assert!(event.payload().unwrap() == large.as_bytes());
    let [start, end] = block_offsets(&disk.files()[SEGMENT])[..] else { panic!("there is one block") };
    for at in start..end {
        disk.edit(SEGMENT, |bytes| bytes[at] ^= 1);
        assert!(matches!(event.payload(), Err(Error::Corrupt { .. })), "byte {at}");
        disk.edit(SEGMENT, |bytes| bytes[at] ^= 1);
    }
}

#[test]
fn after_megabytes_of_damage_the_log_continues() {
    let disk = SimulatedDisk::new(1);
    let mut random = Random(5);
    let large: String = (0..400_000).map(|_| format!("{:08x}", random.next() as u32)).collect();
    let Opened { mut writer, .. } = open(&disk);
    append(&mut writer, 0..3);
    let event = Event { source: "node", network: "net", ..Event::new(Kind(7), 1, &large) };
    writer.append(&event).unwrap();
    append(&mut writer, 4..8);
    drop(writer);
    let at = block_offsets(&disk.files()[SEGMENT])[3];
    disk.edit(SEGMENT, |bytes| bytes[at + 72] ^= 1);
    disk.restart_process();
    for log in [reader(&disk), open(&disk).log] {
        let (found, missing) = readable(&log);
        assert_eq!(found, (0..3).chain(4..8).collect::<Vec<_>>());
        assert!(matches!(missing[..], [(3, 4, Missing::Quarantined(_))]), "{missing:?}");
    }
}

#[test]
fn without_its_segments_a_log_continues_above_its_head() {
    for (is_copy, epoch) in [(false, 0), (true, 1)] {
        let mut disk = written(20);
        disk.remove(SEGMENT).unwrap();
        disk.restart_process();
        if is_copy {
            disk = SimulatedDisk::with_files(1, disk.files());
        }
        let Opened { log, recovery, .. } = open(&disk);
        assert_eq!((log.head().next_sequence, log.head().epoch, recovery.created), (20, epoch, true));
    }
}

#[test]
fn what_the_storage_loses_after_an_acknowledgement_is_marked_and_kept_aside() {
    let disk = written(20);
    let offsets = block_offsets(&disk.files()[SEGMENT]);
    disk.edit(SEGMENT, |bytes| bytes[offsets[15] + 10..offsets[20]].fill(0));
    disk.restart_process();
    let Opened { mut writer, log, recovery } = open(&disk);
    assert_eq!(recovery.lost, Some(15..20));
    assert_eq!(disk.files()[&recovery.kept_aside.unwrap()], b"SBLK\x01\x01\0\0\x01");
    let marks = log.marks(0).unwrap();
    assert_eq!((marks[0].kind, marks[0].position), (MarkKind::LOSS, 20));
    append(&mut writer, 20..25);
    let (found, missing) = readable(&log);
    assert_eq!(found, (0..15).chain(20..25).collect::<Vec<_>>());
    assert_eq!(missing, [(15, 20, Missing::Hole)]);
    assert_eq!(readable(&reader(&disk)), (found, missing));
}

#[test]
fn a_torn_block_after_the_head_is_cut_and_its_sequence_is_reused() {
    let disk = written(20);
    let head_behind = disk.files()["head"].clone();
    let end = block_offsets(&disk.files()[SEGMENT])[20];
    disk.edit(SEGMENT, |bytes| {
        let first = block_offsets(bytes)[0];
        let piece = bytes[first..first + 100].to_vec();
        bytes[end..end + 100].copy_from_slice(&piece);
    });
    disk.restart_process();
    assert_eq!(disk.files()["head"], head_behind);
    let Opened { mut writer, log, recovery } = open(&disk);
    assert!((90..=100).contains(&recovery.cut_bytes), "{recovery:?}");
    append(&mut writer, 20..22);
    assert_eq!(readable(&log), ((0..22).collect(), vec![]));
}

#[test]
fn without_its_head_file_a_log_opens_whole_in_another_epoch() {
    let disk = written(20);
    disk.restart_process();
    disk.remove("head").unwrap();
    assert_eq!(readable(&reader(&disk)).0.len(), 20);
    let Opened { mut writer, log, .. } = open(&disk);
    assert_eq!(log.head().epoch, 1);
    append(&mut writer, 20..21);
    assert_eq!(readable(&log), ((0..21).collect(), vec![]));
}

#[test]
fn a_log_whose_newest_segment_is_sealed_or_has_a_broken_footer_continues() {
    let disk = written(20);
    disk.restart_process();
    let Opened { mut writer, .. } = open(&disk);
    writer.seal_now(9).unwrap();
    drop(writer);
    disk.remove("00000000000000000020.segment").unwrap();
    let length = disk.files()[SEGMENT].len();
    for (broken, damage) in [(false, 0), (true, length - 40), (true, length - 10)] {
        let copy = SimulatedDisk::with_files(1, disk.files());
        copy.edit(SEGMENT, |bytes| bytes[damage] ^= u8::from(broken));
        let Opened { mut writer, log, recovery } = open(&copy);
        assert_eq!((recovery.lost, recovery.damage), (None, vec![]));
        append(&mut writer, 20..22);
        assert_eq!(readable(&log), ((0..22).collect(), vec![]));
    }
}

#[test]
fn a_newer_format_and_unknown_flags_are_refused_by_name() {
    let disk = written(3);
    disk.restart_process();
    let open = |disk: &SimulatedDisk| Writer::open(Arc::new(disk.clone()), options()).err().unwrap().to_string();
    let newer = SimulatedDisk::with_files(1, disk.files());
    newer.edit(SEGMENT, |bytes| {
        bytes[8] = 9;
        let length = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
        let crc = crc32fast::hash(&bytes[..length - 4]).to_le_bytes();
        bytes[length - 4..length].copy_from_slice(&crc);
    });
    assert!(open(&newer).contains("format version 9, this release reads up to 1"), "{}", open(&newer));
    let flagged = SimulatedDisk::with_files(1, disk.files());
    flagged.edit(SEGMENT, |bytes| {
        let at = block_offsets(bytes)[1];
        bytes[at + 6] = 4;
        seal_header(&mut bytes[at..at + 144]);
    });
    assert!(open(&flagged).contains("needs features"), "{}", open(&flagged));
}

#[test]
fn blocks_of_an_unknown_type_are_skipped() {
    let disk = written(6);
    disk.restart_process();
    disk.edit(SEGMENT, |bytes| {
        let offsets = block_offsets(bytes);
        let mut unknown = bytes[offsets[2]..offsets[3]].to_vec();
        unknown[4] = 77;
        seal_header(&mut unknown[..144]);
        let end = offsets[6];
        bytes[end..end + unknown.len()].copy_from_slice(&unknown);
    });
    let Opened { mut writer, log, .. } = open(&disk);
    append(&mut writer, 6..9);
    assert_eq!(readable(&log), ((0..9).collect(), vec![]));
    assert_eq!(readable(&reader(&disk)), ((0..9).collect(), vec![]));
}

#[test]
fn a_second_writer_and_another_dialect_are_refused_with_the_reason() {
    let disk = written(1);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let first = open(&disk);
    assert!(matches!(Writer::open(Arc::clone(&storage), options()), Err(Error::Locked { .. })));
    drop(first);
    let other = WriteOptions { dialect: "beacon".to_owned(), ..options() };
    assert!(matches!(Writer::open(storage, other), Err(Error::OtherDialect { .. })));
    let nowhere = Log::open(Arc::new(Directory::at("/nonexistent/log")), ReadOptions::default());
    assert!(matches!(nowhere, Err(Error::NotALog { .. })));
}

#[test]
fn a_full_disk_at_any_call_of_a_commit_or_a_seal_loses_nothing() {
    let mut fired = 0;
    for calls in 0..12 {
        let disk = SimulatedDisk::new(calls);
        let Opened { mut writer, log, .. } = open(&disk);
        append(&mut writer, 0..5);
        disk.fail_after(calls, Fault::Full);
        let sealed = writer.seal_now(9);
        fired += disk.faults_fired();
        disk.clear_fault();
        if let Some(error) = sealed.err().filter(|_| writer.is_poisoned()) {
            // Only a sync leaves the disk in doubt.
            assert!(error.to_string().starts_with("sync"));
            continue;
        }
        append(&mut writer, 5..9);
        assert_eq!(readable(&log), ((0..9).collect(), vec![]));
        drop(writer);
        assert_eq!(readable(&open(&disk).log), ((0..9).collect(), vec![]));
    }
    assert!(fired > 5, "{fired} faults fired");
}

#[test]
fn a_drop_that_failed_and_is_repeated_is_on_record_in_both_slots() {
    for calls in 0..6 {
        let disk = SimulatedDisk::new(calls);
        let Opened { mut writer, .. } = open(&disk);
        for first in [0, 3, 6] {
            append(&mut writer, first..first + 3);
            writer.seal_now(9).unwrap();
        }
        disk.fail_after(calls, Fault::Io);
        let _ = writer.maintenance().drop_before(6);
        disk.clear_fault();
        writer.maintenance().drop_before(6).unwrap();
        drop(writer);
        for slot in [0, 512] {
            let damaged = SimulatedDisk::with_files(1, disk.files());
            damaged.edit("oldest", |oldest| oldest[slot + 20] ^= 1);
            let (found, missing) = readable(&reader(&damaged));
            assert_eq!((found, missing), (vec![6, 7, 8], vec![(0, 6, Missing::Dropped)]), "slot {slot}, call {calls}");
        }
    }
}

#[test]
fn a_header_that_an_opening_has_restored_stays_whole_though_its_first_sync_failed() {
    // A failed sync may have written anything, and a power cut takes anything of what was not synced.
    let restored = |calls, seed| {
        let disk = SimulatedDisk::new(seed);
        append(&mut open(&disk).writer, 0..5);
        disk.edit(SEGMENT, |bytes| bytes[30] ^= 1);
        disk.fail_after(calls, Fault::Io);
        if let Ok(Opened { mut writer, .. }) = Writer::open(Arc::new(disk.clone()), options()) {
            append_uncommitted(&mut writer, 5);
            let _ = writer.commit();
        }
        let has_failed = disk.faults_fired() > 0;
        disk.clear_fault();
        let Opened { mut writer, log, .. } = open(&disk);
        let next = log.head().next_sequence;
        writer.seal_now(9).unwrap();
        append(&mut writer, next..next + 1);
        drop(writer);
        disk.cut_power();
        let found = verify(&(Arc::new(disk) as Arc<dyn Storage>), &mut |_| {}).unwrap();
        // A slot of the head may be torn.
        let in_segment = found.problems.iter().find(|problem| problem.file == SEGMENT);
        assert!(in_segment.is_none(), "call {calls} failed: {in_segment:?}");
        has_failed
    };
    let calls = (0..).take_while(|&calls| (1..20).filter(|&seed| restored(calls, seed)).count() > 0).count();
    assert!(calls > 10, "{calls}");
}

#[test]
fn a_copy_with_the_inode_number_of_the_original_is_told_by_its_birth_time() {
    let disk = written(20);
    let original = disk.identity("head").unwrap();
    disk.restart_process();
    disk.move_to_copy();
    let copy = disk.identity("head").unwrap();
    assert_eq!(copy.inode, original.inode);
    assert_ne!(copy.born, original.born);
    assert!(open(&disk).recovery.copied);
    disk.restart_process();
    assert!(!open(&disk).recovery.copied);
}

#[test]
fn a_head_without_a_birth_time_goes_by_the_inode_number() {
    let disk = written(20);
    disk.restart_process();
    disk.edit("head", |head| {
        for start in [0, 512] {
            head[start + 88..start + 92].fill(0);
            let crc = crc32fast::hash(&head[start..start + 92]).to_le_bytes();
            head[start + 92..start + 96].copy_from_slice(&crc);
        }
    });
    assert!(!open(&disk).recovery.copied);
    let born = disk.identity("head").unwrap().born;
    assert_ne!(born, 0);
    for start in [0, 512] {
        assert_eq!(disk.files()["head"][start + 88..start + 92], born.to_le_bytes());
    }
}

/// A log of four sealed segments of twenty events each, a mark in each, and the names of its segments.
fn four_segments() -> (SimulatedDisk, Vec<String>) {
    let disk = SimulatedDisk::new(1);
    let mut writer = open(&disk).writer;
    for segment in 0..4 {
        append(&mut writer, 20 * segment..20 * segment + 20);
        let body = format!("{{\"segment\":{segment}}}");
        writer.mark(&Mark { kind: MarkKind::GAP, position: 0, source: String::new(), received: 1, body }).unwrap();
        writer.seal_now(2_000).unwrap();
    }
    writer.close().unwrap();
    disk.restart_process();
    let names = disk.files().into_keys().filter(|name| name.ends_with(".segment")).collect();
    (disk, names)
}

const ALWAYS: u64 = u64::MAX;

/// What maintenance does with a log whose second segment is damaged; returns what it says of that one.
fn maintained(disk: &SimulatedDisk) -> SealedSegment {
    let maintenance = Maintenance::open(Arc::new(disk.clone())).unwrap();
    let sealed = maintenance.sealed_segments();
    let described: Vec<_> = sealed.iter().map(|&first| maintenance.describe(first).unwrap()).collect();
    for segment in &described {
        assert_eq!(segment.end_sequence, segment.first_sequence + 20);
    }
    let due = maintenance.segments_to_compact(0, RewriteOptions::COMPACTION).unwrap();
    assert!([0, 40, 60].iter().all(|first| due.contains(first)), "{due:?}");
    described[1]
}

#[test]
fn a_segment_with_marks_of_events_is_rewritten_after_a_repair_that_left_the_chain_unknown() {
    let disk = SimulatedDisk::new(1);
    let mut writer = open(&disk).writer;
    for numbers in [0..30, 30..60, 60..70] {
        append_marked(&mut writer, numbers);
    }
    writer.seal_now(2_000).unwrap();
    append_marked(&mut writer, 70..71);
    writer.close().unwrap();
    let bytes = disk.files()[SEGMENT].clone();
    let offsets = block_offsets(&bytes);
    let is_events = |at: &usize| bytes.get(at + 4) == Some(&1);
    let damaged = (1..offsets.len() - 1).find(|&at| is_events(&offsets[at]) && is_events(&offsets[at + 1])).unwrap();
    disk.edit(SEGMENT, |bytes| bytes[offsets[damaged]..offsets[damaged + 1]].fill(0xaa));
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    repair(&storage, RepairOptions { dry_run: false, now: 1 }).unwrap();
    disk.restart_process();
    let opened = open(&disk);
    let before = readable(&opened.log);
    opened.writer.maintenance().rewrite(0, RewriteOptions::default()).unwrap().unwrap();
    assert_eq!(readable(&opened.log), before);
    assert!(verify(&storage, &mut |_| {}).unwrap().is_sound);
}

/// Appends events in one commit, each with a mark about it.
fn append_marked(writer: &mut Writer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        append_uncommitted(writer, number);
        let received = 1_000 + number;
        let body = format!("{{\"sequence\":{number},\"hash\":\"{number:032x}\",\"class\":1,\"time\":{received}}}");
        let mark = Mark { kind: MarkKind::IDENTITY, position: number, source: String::new(), received, body };
        writer.mark_ahead(&mark).unwrap();
    }
    writer.commit().unwrap();
}

#[test]
fn a_block_that_cannot_be_read_costs_its_events_and_no_more() {
    let (disk, names) = four_segments();
    let segment = disk.files()[&names[1]].clone();
    let offsets = block_offsets(&segment);
    let at = offsets.iter().position(|&offset| offset > 4_200).unwrap();
    let (block, end) = (offsets[at], offsets[at + 1]);
    let first = u64::from_le_bytes(segment[block + 16..block + 24].try_into().unwrap());
    let count = u32::from_le_bytes(segment[block + 8..block + 12].try_into().unwrap());
    let lost = first..first + u64::from(count);
    disk.spoil(&names[1], end as u64 - 20..end as u64 - 10, ALWAYS);

    let log = reader(&disk);
    let (found, missing) = readable(&log);
    assert_eq!(found, (0..80).filter(|sequence| !lost.contains(sequence)).collect::<Vec<_>>());
    assert!(matches!(&missing[..], [(from, to, Missing::Unreadable(_))] if (*from..*to) == lost), "{missing:?}");
    // Who remembers what was read waits for the device instead.
    let mut waiting = Cursor::new(&log, lost.start).waiting_for_the_device();
    let failure = waiting.next_run().map(|_| ()).unwrap_err();
    assert!(!failure.is_damage() && failure.to_string().contains(&names[1]), "{failure}");
    assert_eq!(waiting.position(), lost.start);
    disk.heal(&names[1]);
    assert_eq!(waiting.next_run().unwrap().unwrap().sequences, lost);
    disk.spoil(&names[1], end as u64 - 20..end as u64 - 10, ALWAYS);
    let log = reader(&disk);
    assert_eq!(readable(&log).0, found);
    let mut blocks = 0;
    log.check_blocks(&mut |bytes| {
        blocks += u64::from(bytes > 0);
        ControlFlow::Continue(())
    })
    .unwrap();
    let listed: u64 = names
        .iter()
        .map(|name| {
            let content = &disk.files()[name];
            block_offsets(content).iter().filter(|&&at| content.get(at + 4) == Some(&1)).count() as u64
        })
        .sum();
    // One is known to be damaged, and is looked at like a reader does.
    assert_eq!(blocks, listed - 1);
    assert_eq!(log.losses().events(LossKind::Damaged), lost.end - lost.start);
    assert_eq!(log.marks(0).unwrap().len(), 4);
    assert_eq!(log.start_at_time(1_075).unwrap(), 75);
    inspect(&log).unwrap();
    assert!(maintained(&disk).received_max.is_some());

    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    assert!(!verify(&storage, &mut |_| {}).unwrap().is_sound);
    let repaired = repair(&storage, RepairOptions { dry_run: false, now: 1 }).unwrap();
    let [Action::Quarantine { kept_as, first_sequence, last_sequence, .. }] = &repaired[..] else {
        panic!("{repaired:?}")
    };
    assert_eq!((*first_sequence, *last_sequence), (Some(lost.start), Some(lost.end - 1)));
    // What can be read of it is kept: here, the page before.
    let kept = disk.files()[kept_as].clone();
    assert_eq!(kept.len(), end - block);
    assert!(kept.iter().zip(&segment[block..]).all(|(&kept, &written)| kept == written || kept == 0));
    assert!(verify(&storage, &mut |_| {}).unwrap().is_sound);
    assert_eq!(readable(&open(&disk).log).0, found);
}

#[test]
fn a_footer_that_cannot_be_read_costs_nothing() {
    let (disk, names) = four_segments();
    let length = disk.files()[&names[1]].len() as u64;
    disk.spoil(&names[1], length - 16..length, ALWAYS);
    let log = reader(&disk);
    assert_eq!(readable(&log), ((0..80).collect(), Vec::new()));
    log.find_losses(&mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(log.losses().summary(), None);
    assert_eq!(log.marks(0).unwrap().len(), 4);
    for at in [15, 35, 75] {
        assert_eq!(log.start_at_time(1_000 + at).unwrap(), at);
    }
    assert_eq!(maintained(&disk).received_max, None);

    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let repaired = repair(&storage, RepairOptions { dry_run: false, now: 1 }).unwrap();
    assert!(matches!(&repaired[..], [Action::RebuildFooter { .. }]), "{repaired:?}");
    assert!(verify(&storage, &mut |_| {}).unwrap().is_sound);
}

#[test]
fn a_segment_file_that_is_missing_is_described_by_what_follows() {
    let (disk, names) = four_segments();
    let maintenance = Maintenance::open(Arc::new(disk.clone())).unwrap();
    disk.remove(&names[1]).unwrap();
    let expected = SealedSegment { first_sequence: 20, end_sequence: 40, bytes: 0, bytes_raw: 0, received_max: None };
    assert_eq!(maintenance.describe(20).unwrap(), expected);
    disk.remove("head").unwrap();
    assert!(matches!(maintenance.describe(20), Err(Error::LogMissing { .. })), "all of the directory is away");
}

#[test]
fn what_can_be_read_the_second_time_is_not_damage() {
    let (disk, names) = four_segments();
    let log = reader(&disk);
    disk.spoil(&names[1], 0..ALWAYS, 1);
    assert_eq!(readable(&log), ((0..80).collect(), Vec::new()));
}

#[test]
fn an_opening_for_writing_cuts_nothing_because_of_what_cannot_be_read() {
    let disk = written(40);
    disk.restart_process();
    let before = disk.files();
    let offsets = block_offsets(&before[SEGMENT]);
    // Everything is checked where a head does not speak for it.
    disk.move_to_copy();
    let last = offsets[offsets.len() - 2] as u64;
    disk.spoil(SEGMENT, last + 150..last + 151, ALWAYS);
    let refused = Writer::open(Arc::new(disk.clone()), options()).err();
    assert!(matches!(refused, Some(Error::Unreadable { .. })), "{refused:?}");
    assert_eq!(disk.files()[SEGMENT], before[SEGMENT]);

    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    disk.restart_process();
    repair(&storage, RepairOptions { dry_run: false, now: 1 }).unwrap();
    disk.restart_process();
    let opened = open(&disk);
    let (found, _) = readable(&opened.log);
    assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
    assert!((30..40).contains(&found.len()), "{}", found.len());
}

#[test]
fn a_segment_of_which_nothing_can_be_read_is_left_as_it_is_by_a_repair() {
    let (disk, names) = four_segments();
    let before = disk.files();
    disk.spoil(&names[1], 0..ALWAYS, ALWAYS);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    assert_eq!(verify(&storage, &mut |_| {}).unwrap().losses.events(LossKind::Damaged), 20);
    let repaired = repair(&storage, RepairOptions { dry_run: false, now: 1 }).unwrap();
    assert!(matches!(&repaired[..], [Action::Leave { file, .. }] if *file == names[1]), "{repaired:?}");
    let after = disk.files();
    assert!(before.iter().all(|(name, content)| after[name] == *content));
    assert_eq!(readable(&reader(&disk)).0, (0..20).chain(40..80).collect::<Vec<_>>());
    disk.heal(&names[1]);
    assert_eq!(readable(&reader(&disk)), ((0..80).collect(), Vec::new()));
}

#[test]
fn a_head_or_an_oldest_that_cannot_be_read_is_made_again_by_a_repair() {
    for name in ["head", "oldest"] {
        let (disk, _) = four_segments();
        disk.spoil(name, 0..1, ALWAYS);
        let refused = Writer::open(Arc::new(disk.clone()), options()).err();
        assert!(matches!(&refused, Some(Error::Unreadable { file, .. }) if file == name), "{refused:?}");
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        assert!(verify(&storage, &mut |_| {}).unwrap().problems.iter().any(|problem| problem.file == name));
        repair(&storage, RepairOptions { dry_run: false, now: 1 }).unwrap();
        assert!(verify(&storage, &mut |_| {}).unwrap().is_sound);
        assert_eq!(readable(&open(&disk).log), ((0..80).collect(), Vec::new()));
    }
}

#[test]
fn a_head_with_the_last_counter_and_epoch_opens() {
    for (at, flags) in [(8, 0u32), (40, 2)] {
        let disk = written(20);
        disk.restart_process();
        disk.edit("head", |head| {
            for start in [0, 512] {
                let slot = &mut head[start..start + 96];
                slot[4..8].copy_from_slice(&flags.to_le_bytes());
                slot[at..at + 8].fill(0xff);
                let crc = crc32fast::hash(&slot[..92]).to_le_bytes();
                slot[92..].copy_from_slice(&crc);
            }
        });
        let mut opened = open(&disk);
        append(&mut opened.writer, 20..21);
        assert_eq!(readable(&opened.log).0, (0..21).collect::<Vec<_>>());
    }
}

#[test]
fn a_copy_of_a_log_that_is_being_written_opens_as_a_clean_prefix() {
    let original = tempfile::tempdir().unwrap();
    let options = WriteOptions { segment_bytes_max: 40_000, segment_blocks_max: 50, ..options() };
    // A copy begins when some more events do, and the next ones wait for it: otherwise they could outrun the reading.
    let (more, asked) = std::sync::mpsc::sync_channel::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let storage = Arc::new(Directory::at(original.path()));
            let mut writer = Writer::open(storage, options.clone()).unwrap().writer;
            let mut next = 0;
            for () in asked {
                for _ in 0..20 {
                    append(&mut writer, next..next + 5);
                    next += 5;
                }
            }
        });
        let (mut copies, mut longest) = (0, 0);
        while copies < 40 || longest < 100 {
            more.send(()).unwrap();
            let copy = tempfile::tempdir().unwrap();
            let mut names: Vec<_> =
                std::fs::read_dir(original.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            for name in names.iter().filter(|name| *name != "lock") {
                // What was renamed meanwhile is not copied, as with `cp`.
                let _ = std::fs::copy(original.path().join(name), copy.path().join(name));
            }
            if !names.iter().any(|name| name.to_string_lossy().ends_with(".segment")) {
                continue;
            }
            let storage = Arc::new(Directory::at(copy.path()));
            let (found, missing) = readable(&Log::open(storage.clone(), ReadOptions::default()).unwrap());
            assert_eq!((&found, &missing[..]), (&(0..found.len() as u64).collect(), &[][..]));
            let Opened { mut writer, log, recovery } = Writer::open(storage, options.clone()).unwrap();
            assert!(recovery.lost.is_none() && recovery.damage.is_empty(), "{recovery:?}");
            let next = found.len() as u64;
            append(&mut writer, next..next + 3);
            assert_eq!(readable(&log), ((0..next + 3).collect(), vec![]));
            copies += 1;
            longest = longest.max(found.len());
        }
        drop(more);
    });
}

fn small_log() -> BTreeMap<String, Vec<u8>> {
    let disk = SimulatedDisk::new(1);
    let Opened { mut writer, .. } = open(&disk);
    append(&mut writer, 0..8);
    writer.seal_now(7).unwrap();
    append(&mut writer, 8..14);
    disk.files()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is changed on disk, also with checksums that fit: no panic, and never another payload (`readable` checks).
    #[test]
    fn mutated_files_never_panic_and_never_read_as_other_events(
        changes in proptest::collection::vec((0usize..3, any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut files = small_log();
        for (file, at, byte) in changes {
            let content = files.values_mut().nth(file).unwrap();
            let at = at.index(content.len());
            content[at] = byte;
        }
        if let Some(cut) = cut {
            let content = files.values_mut().next().unwrap();
            content.truncate(cut.index(content.len()));
        }
        let disk = SimulatedDisk::with_files(1, files);
        if let Ok(log) = Log::open(Arc::new(disk.clone()), ReadOptions::default()) {
            let _ = readable(&log);
            let _ = log.marks(0);
        }
        if let Ok(Opened { log, .. }) = Writer::open(Arc::new(disk), options()) {
            let _ = readable(&log);
        }
    }

    /// Block headers that lie, with a checksum that fits: refused, not believed.
    #[test]
    fn headers_that_lie_with_a_fitting_checksum_never_panic(at in 0usize..140, bytes in any::<[u8; 4]>()) {
        let mut files = small_log();
        let segment = files.get_mut(SEGMENT).unwrap();
        let block = block_offsets(segment)[3];
        segment[block + at..(block + at + 4).min(block + 140)].copy_from_slice(&bytes[..4.min(140 - at)]);
        seal_header(&mut segment[block..block + 144]);
        let log = Log::open(Arc::new(SimulatedDisk::with_files(1, files)), ReadOptions::default());
        if let Ok(log) = log {
            for sequence in 0..14 {
                let _ = log.read(sequence);
                let _ = log.read_stored(sequence);
            }
        }
    }
}

#[test]
fn two_segments_with_each_others_names_come_right_however_often_the_repair_is_cut_short() {
    let disk = SimulatedDisk::new(1);
    let mut writer = open(&disk).writer;
    append(&mut writer, 0..5);
    writer.seal_now(2_000).unwrap();
    append(&mut writer, 5..10);
    writer.close().unwrap();
    let mut files = disk.files();
    let other = format!("{:020}.segment", 5);
    let (one, two) = (files.remove(SEGMENT).unwrap(), files.remove(&other).unwrap());
    files.insert(SEGMENT.to_owned(), two);
    files.insert(other, one);
    let options = RepairOptions { dry_run: false, now: 3_000 };
    for calls in 0.. {
        let disk = SimulatedDisk::with_files(calls + 1, files.clone());
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        disk.fail_after(calls, Fault::Stop);
        let is_cut_short = repair(&storage, options).is_err();
        disk.clear_fault();
        disk.restart_process();
        repair(&storage, options).unwrap();
        let found = verify(&storage, &mut |_| {}).unwrap();
        assert!(found.is_sound, "stopped at call {calls}: {:?}", found.problems);
        assert_eq!(readable(&reader(&disk)), ((0..10).collect(), vec![]));
        if !is_cut_short {
            assert!(calls > 10, "{calls}");
            break;
        }
    }
}
