//! Keeping a log in shape: verify finds every flipped byte, repair sets it right, a rewrite changes nothing but sizes.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops where it fails")]

use std::{
    collections::BTreeMap,
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use sidecar_log_format::{
    ApiVersion, Error, Event, Kind, Log, Maintenance, Mark, MarkCursor, MarkKind, Missing, Opened, Read, ReadOptions,
    RewriteOptions, SealedSegment, SegmentPart, WriteOptions, Writer, estimate,
    inspect::inspect,
    repair::{Action, RepairOptions, repair},
    storage::{Directory, FileIdentity, Storage},
    verify::{StretchStart, Verification, verify},
};
use tempfile::TempDir;

const EVENTS: u64 = 260;

fn storage(directory: &Path) -> Arc<dyn Storage> {
    Arc::new(Directory::at(directory))
}

fn options() -> WriteOptions {
    WriteOptions {
        kinds: vec![(1, "BlockAdded".to_owned()), (7, "Step".to_owned())],
        segment_bytes_max: 12_000,
        allocate_bytes: 4096,
        ..WriteOptions::new("casper", [7; 16], 1_000)
    }
}

fn version(minor: u32) -> ApiVersion {
    ApiVersion { major: 2, minor, patch: 0 }
}

/// Payloads that compress little, so that blocks and segments have some size.
fn payload(number: u64) -> String {
    let noise: String = (0..number % 9).map(|part| blake3_hex(number * 100 + part)).collect();
    format!("{{\"Step\":{{\"era_id\":{number},\"noise\":\"{noise}\"}}}}")
}

fn blake3_hex(number: u64) -> String {
    blake3::hash(&number.to_le_bytes()).to_hex().to_string()
}

fn append(writer: &mut Writer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        if number % 90 == 0 {
            writer.announce_version(version((number / 90) as u32), "node", number).unwrap();
        }
        if number % 50 == 30 {
            let body = format!("{{\"of\":\"height\",\"from\":{number},\"to\":{number}}}");
            let mark = Mark { kind: MarkKind::GAP, position: 0, source: "node".to_owned(), received: number, body };
            writer.mark(&mark).unwrap();
        }
        let payload = payload(number);
        let event = Event {
            kind: Kind(if number % 10 == 0 { 1 } else { 7 }),
            name: "",
            source: if number % 3 == 0 { "127.0.0.1:9999" } else { "127.0.0.2:9999" },
            network: "casper-test",
            api_version: version((number / 90) as u32),
            upstream_id: (number % 5 != 0).then_some(number + 1000),
            received: 1_000_000 + number,
            payload: &payload,
        };
        assert_eq!(writer.append(&event).unwrap(), number);
        if number % 6 == 5 {
            writer.commit().unwrap();
        }
    }
    writer.commit().unwrap();
}

/// A log of several sealed segments and an active one.
fn some_log() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..EVENTS);
    writer.close().unwrap();
    directory
}

/// A copy of which the log believes that it was written there.
fn duplicate(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "head" {
            fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
    let head = to.path().join("head");
    fs::write(&head, fs::read(from.join("head")).unwrap()).unwrap();
    adopt(&head);
    to
}

/// Writes the file's own identity into both slots of a head, as its writer does.
fn adopt(head: &Path) {
    let FileIdentity { inode, born } = storage(head.parent().unwrap()).identity("head").unwrap();
    let mut bytes = fs::read(head).unwrap();
    for start in [0, 512] {
        let Some(slot) = bytes.get_mut(start..start + 96).filter(|slot| slot[0] != 0) else { continue };
        slot[48..56].copy_from_slice(&inode.to_le_bytes());
        slot[88..92].copy_from_slice(&born.to_le_bytes());
        let crc = crc32fast::hash(&slot[..92]);
        slot[92..].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(head, bytes).unwrap();
}

/// Several times: the number of a removed file goes to whichever file is made next.
#[test]
fn a_backup_that_is_put_back_is_not_taken_for_the_original() {
    for segments in 0..8 {
        let original = some_log();
        let Opened { mut writer, log, .. } = Writer::open(storage(original.path()), options()).unwrap();
        for number in 0..segments {
            append(&mut writer, EVENTS + number..EVENTS + number + 1);
            writer.seal_now(1).unwrap();
        }
        let backup = TempDir::new().unwrap();
        let copy = |from: &Path, to: &Path| {
            for file in fs::read_dir(from).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        };
        copy(original.path(), backup.path());
        let (at_backup, epoch) = (log.head().next_sequence, log.head().epoch);
        append(&mut writer, at_backup..at_backup + 10);
        writer.close().unwrap();
        drop(log);

        fs::remove_dir_all(original.path()).unwrap();
        fs::create_dir(original.path()).unwrap();
        copy(backup.path(), original.path());
        let Opened { log, recovery, .. } = Writer::open(storage(original.path()), options()).unwrap();
        assert!(recovery.copied, "{recovery:?}");
        assert_eq!(log.head().next_sequence, at_backup);
        assert!(log.head().epoch > epoch, "clients have seen what comes again");
        // It is the original from now on.
        let Opened { recovery, .. } = reopened(log, original.path());
        assert!(!recovery.copied, "{recovery:?}");
    }
}

#[test]
fn two_copies_of_one_log_begin_two_epochs_whatever_their_clocks_say() {
    let original = some_log();
    let epoch_of_copy = |now| {
        let copy = TempDir::new().unwrap();
        for file in fs::read_dir(original.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let Opened { log, .. } = Writer::open(storage(copy.path()), WriteOptions { now, ..options() }).unwrap();
        assert!(log.head().epoch > 0);
        log.head().epoch
    };
    assert_ne!(epoch_of_copy(1_800_000_000_000_000), epoch_of_copy(1_800_000_000_001_000));
    assert_eq!(epoch_of_copy(0), 1);
}

/// A log after all that had it open in this process are gone.
fn reopened(log: Log, directory: &Path) -> Opened {
    drop(log);
    Writer::open(storage(directory), options()).unwrap()
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    paths.sort();
    paths
}

fn checked(directory: &Path) -> Verification {
    verify(&storage(directory), &mut |_| {}).unwrap()
}

fn repaired(directory: &Path) -> Vec<Action> {
    repair(&storage(directory), RepairOptions { dry_run: false, now: 5_000 }).unwrap()
}

/// Every event there is by sequence: kind, source, version, upstream id, time, frame.
type Story = BTreeMap<u64, (u8, String, ApiVersion, Option<u64>, u64, Vec<u8>)>;

fn story(log: &Log) -> Story {
    let mut story = Story::new();
    let mut next = log.oldest();
    loop {
        match log.read(next).unwrap() {
            Read::Events { block, index } => {
                let row = block.row(index).unwrap();
                let told = (
                    row.kind().0,
                    row.source().to_owned(),
                    row.api_version(),
                    row.upstream_id(),
                    row.received(),
                    row.frame().to_vec(),
                );
                story.insert(next, told);
                next += 1;
            }
            Read::Missing { to, .. } => next = to,
            Read::Large(_) => panic!("no event here is large"),
            Read::End => return story,
        }
    }
}

fn story_of(directory: &Path) -> Story {
    story(&Log::open(storage(directory), ReadOptions::default()).unwrap())
}

fn wire(log: &Log) -> Vec<u8> {
    let (mut wire, mut next) = (Vec::new(), log.oldest());
    while let Read::Events { block, index } = log.read(next).unwrap() {
        assert_eq!(index, 0);
        wire.extend_from_slice(block.wire());
        next = block.end_sequence();
    }
    assert_eq!(next, log.head().next_sequence);
    wire
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Flips one byte and takes the log through verify, read, repair, verify, read, write.
fn survives_a_flip(original: &Path, whole: &Story, file: &Path, offset: usize) {
    let copy = duplicate(original);
    let name = file.file_name().unwrap().to_str().unwrap();
    let place = format!("{name} at {offset}");
    assert!(checked(copy.path()).is_sound, "{place}: the copy is sound before");
    flip(&copy.path().join(name), offset);

    let found = checked(copy.path());
    assert!(!found.is_sound, "{place}: verify finds nothing");
    if let Ok(log) = Log::open(storage(copy.path()), ReadOptions::default()) {
        for (sequence, told) in story(&log) {
            assert_eq!(Some(&told), whole.get(&sequence), "{place}: a reader gets something else");
        }
    }

    let planned = repair(&storage(copy.path()), RepairOptions { dry_run: true, now: 5_000 }).unwrap();
    assert_eq!(checked(copy.path()).problems, found.problems, "{place}: a dry run changes something");
    let done = repaired(copy.path());
    assert_eq!(done, planned, "{place}: a dry run says something else");
    assert!(!done.is_empty(), "{place}");
    let after = checked(copy.path());
    assert!(after.is_sound, "{place}: {:?} behind {done:?}", after.problems);
    assert_eq!(repaired(copy.path()), [], "{place}: a second repair finds more");

    let left = story_of(copy.path());
    let missing: Vec<_> = whole.keys().filter(|sequence| !left.contains_key(sequence)).copied().collect();
    let marked: Vec<_> = after.holes.iter().flat_map(|hole| hole.first_sequence..=hole.last_sequence).collect();
    assert_eq!(missing, marked, "{place}: what is missing is what is marked");
    assert!(missing.len() <= 6, "{place}: {} events went with one byte", missing.len());
    for (sequence, told) in &left {
        assert_eq!(Some(told), whole.get(sequence), "{place}: event {sequence} changed");
    }

    let Opened { mut writer, recovery, .. } = Writer::open(storage(copy.path()), options()).unwrap();
    assert_eq!(recovery.lost, None, "{place}");
    append(&mut writer, EVENTS..EVENTS + 20);
    writer.close().unwrap();
    let after = checked(copy.path());
    assert!(after.is_sound, "{place}: {:?} when the log went on", after.problems);
}

/// The offset of the last byte that was written.
fn written(path: &Path) -> usize {
    fs::read(path).unwrap().iter().rposition(|&byte| byte != 0).unwrap() + 1
}

#[test]
fn every_flipped_byte_of_a_segment_is_found_and_repaired() {
    let log = some_log();
    let whole = story_of(log.path());
    let files = segments(log.path());
    assert!(files.len() >= 4, "{} segments", files.len());
    for file in [&files[0], &files[2], files.last().unwrap()] {
        let length = written(file);
        let step = length / 24;
        // The header, then samples of all blocks, then the footer and the trailer.
        let offsets = (0..280).step_by(16).chain((280..length).step_by(step)).chain(((length - 20)..length).step_by(3));
        for offset in offsets {
            survives_a_flip(log.path(), &whole, file, offset);
        }
    }
}

#[test]
fn every_flipped_byte_of_the_head_is_found_and_repaired() {
    let log = some_log();
    let whole = story_of(log.path());
    for offset in (0..96).chain(512..608).step_by(11) {
        survives_a_flip(log.path(), &whole, &log.path().join("head"), offset);
    }
}

#[test]
fn a_log_of_one_segment_survives_damage_to_its_header() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..30);
    writer.close().unwrap();
    let whole = story_of(directory.path());
    flip(&segments(directory.path())[0], 80);
    assert!(matches!(repaired(directory.path()).first(), Some(Action::RebuildHeader { .. })));
    assert!(checked(directory.path()).is_sound);
    assert_eq!(story_of(directory.path()), whole);
}

#[test]
fn a_removed_segment_is_a_hole_until_repair_marks_it() {
    let log = some_log();
    let files = segments(log.path());
    let before = story_of(log.path());
    fs::remove_file(&files[1]).unwrap();
    let found = checked(log.path());
    assert_eq!(found.problem_count, 1, "{:?}", found.problems);
    let (first, last) = (found.problems[0].first_sequence.unwrap(), found.problems[0].last_sequence.unwrap());
    assert!(matches!(
        repaired(log.path()).as_slice(),
        [Action::MarkHole { first_sequence, last_sequence, .. }] if (*first_sequence, *last_sequence) == (first, last)
    ));
    let after = checked(log.path());
    assert!(after.is_sound, "{:?}", after.problems);
    // The header of the segment after the hole has the chain value there.
    let starts: Vec<_> = after.stretches.iter().map(|stretch| stretch.start).collect();
    assert_eq!(starts, [StretchStart::NewLog, StretchStart::AfterHole]);
    let left: Story = before.into_iter().filter(|(sequence, _)| !(first..=last).contains(sequence)).collect();
    assert_eq!(story_of(log.path()), left);
}

/// Where the slot of a head that was written last begins, and the other.
fn newest_slot(head: &[u8]) -> [usize; 2] {
    let number = |start: usize| u64::from_le_bytes(head[start + 8..start + 16].try_into().unwrap());
    if number(0) > number(512) { [0, 512] } else { [512, 0] }
}

#[test]
fn everything_after_the_first_bad_block_of_a_copy_is_a_tail_that_is_kept_aside() {
    let log = some_log();
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(log.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let newest = segments(copy.path()).pop().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let blocks: Vec<usize> = memchr::memmem::find_iter(&bytes, b"SBLK").collect();
    let (bad, rest) = (blocks[blocks.len() / 2], bytes.len() - blocks[blocks.len() / 2]);
    assert!(blocks.last().unwrap() > &bad, "sound blocks follow");
    flip(&newest, bad + 150);
    let Opened { recovery, log, .. } = Writer::open(storage(copy.path()), options()).unwrap();
    assert!(recovery.copied && recovery.damage.is_empty(), "{recovery:?}");
    let kept = fs::metadata(copy.path().join(recovery.kept_aside.unwrap())).unwrap().len();
    assert_eq!(kept, rest as u64);
    assert!(log.head().next_sequence < EVENTS);
}

#[test]
fn a_head_that_was_written_once_is_sound() {
    let log = some_log();
    let head = log.path().join("head");
    let mut bytes = fs::read(&head).unwrap();
    let [_, older] = newest_slot(&bytes);
    bytes[older..older + 96].fill(0);
    fs::write(&head, bytes).unwrap();
    assert!(checked(log.path()).is_sound);
}

#[test]
fn a_damaged_head_that_names_a_dropped_segment_gives_way_to_one_that_names_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..20);
    let head = directory.path().join("head");
    let mut early = fs::read(&head).unwrap();
    append(&mut writer, 20..EVENTS);
    writer.maintenance().drop_before(EVENTS / 2).unwrap();
    writer.close().unwrap();
    let left = story_of(directory.path());
    assert!(*left.first_key_value().unwrap().0 > 20, "what the early head names is gone");
    let [_, older] = newest_slot(&early);
    early[older + 20] ^= 1;
    fs::write(&head, early).unwrap();
    assert!(matches!(repaired(directory.path()).as_slice(), [Action::RebuildHead { .. }]));
    assert!(checked(directory.path()).is_sound);
    assert_eq!(repaired(directory.path()), []);
    // A head so old does not know the newest segment: the next opening finds what is in it.
    Writer::open(storage(directory.path()), options()).unwrap().writer.close().unwrap();
    assert!(story_of(directory.path()) == left, "an event is gone");
}

#[test]
fn a_head_beyond_the_segments_is_found_and_the_loss_is_marked() {
    let log = some_log();
    let files = segments(log.path());
    fs::remove_file(files.last().unwrap()).unwrap();
    let found = checked(log.path());
    assert!(!found.is_sound);
    assert_eq!(found.problems[0].last_sequence, Some(EVENTS - 1));
    repaired(log.path());
    let after = checked(log.path());
    assert!(after.is_sound, "{:?}", after.problems);
    assert_eq!(after.next_sequence, EVENTS);
}

#[test]
fn a_zeroed_stretch_costs_its_blocks_and_no_more() {
    let log = some_log();
    let file = &segments(log.path())[1];
    let mut bytes = fs::read(file).unwrap();
    bytes[3000..6000].fill(0);
    fs::write(file, bytes).unwrap();
    let whole = story_of(some_log().path());
    let actions = repaired(log.path());
    let [Action::Quarantine { kept_as, bytes, first_sequence, last_sequence, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(fs::metadata(log.path().join(kept_as)).unwrap().len(), *bytes);
    assert!(checked(log.path()).is_sound);
    let gone = first_sequence.unwrap()..=last_sequence.unwrap();
    assert!(gone.clone().count() < 40);
    let left: Story = whole.into_iter().filter(|(sequence, _)| !gone.contains(sequence)).collect();
    assert_eq!(story_of(log.path()), left);
}

#[test]
fn what_one_repair_set_aside_is_not_replaced_by_the_next() {
    let log = some_log();
    let file = &segments(log.path())[1];
    let quarantined = |actions: Vec<Action>| match actions.as_slice() {
        [Action::Quarantine { kept_as, offset, .. }] => (log.path().join(kept_as), *offset),
        _ => panic!("{actions:?}"),
    };
    flip(file, 3000);
    let (first, offset) = quarantined(repaired(log.path()));
    let kept = fs::read(&first).unwrap();
    // Now the mark is there.
    flip(file, offset as usize + 20);
    let (second, same_offset) = quarantined(repaired(log.path()));
    assert_eq!(same_offset, offset);
    assert_ne!(first, second);
    assert_eq!(fs::read(&first).unwrap(), kept);
}

#[test]
fn a_torn_tail_is_set_aside_and_its_durable_events_are_marked() {
    let log = some_log();
    let newest = segments(log.path()).pop().unwrap();
    let torn = written(&newest) - 10;
    let chain_told = Log::open(storage(log.path()), ReadOptions::default()).unwrap().head().chain;
    fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(torn as u64).unwrap();
    let whole = story_of(some_log().path());
    let found = checked(log.path());
    assert_eq!(found.problems.last().unwrap().last_sequence, Some(EVENTS - 1));
    let actions = repaired(log.path());
    let [Action::SetTailAside { kept_as, bytes, .. }, Action::RebuildHead { .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert!(kept_as.ends_with(".lost"));
    assert_eq!(fs::metadata(log.path().join(kept_as)).unwrap().len(), *bytes);
    let after = checked(log.path());
    assert!(after.is_sound, "{:?}", after.problems);
    let last = after.last_checked.unwrap();
    assert!(last < EVENTS - 1 && after.next_sequence == EVENTS, "what is lost was not checked");
    let untorn = some_log();
    let untorn_log = Log::open(storage(untorn.path()), ReadOptions::default()).unwrap();
    let chain = untorn_log.chain_after(last).unwrap().map(|chain| blake3::Hash::from(chain).to_hex().to_string());
    assert_eq!(after.chain, chain);
    // The head had the chain value after what is lost.
    assert_eq!(Log::open(storage(log.path()), ReadOptions::default()).unwrap().head().chain, chain_told);
    let left = story_of(log.path());
    assert!(left.len() as u64 >= EVENTS - 6);
    assert!(left.iter().all(|(sequence, told)| whole.get(sequence) == Some(told)));
}

#[test]
fn damage_in_many_places_at_once_is_repaired_in_one_run() {
    let original = some_log();
    let whole = story_of(original.path());
    for seed in 0..12 {
        let log = duplicate(original.path());
        let mut names: Vec<_> = segments(log.path());
        names.push(log.path().join("head"));
        for flipped in 0..8u64 {
            let noise = blake3::hash(&[seed, flipped as u8]);
            let number = |at: usize| u32::from_le_bytes(noise.as_bytes()[at..at + 4].try_into().unwrap()) as usize;
            let file = &names[number(0) % names.len()];
            flip(file, number(4) % written(file));
        }
        let found = checked(log.path());
        let actions = repaired(log.path());
        let after = checked(log.path());
        assert!(after.is_sound, "seed {seed}: {:?} behind {:?}, {actions:?}", after.problems, found.problems);
        let left = story_of(log.path());
        assert!(left.iter().all(|(sequence, told)| whole.get(sequence) == Some(told)), "seed {seed}");
        let marked: u64 = after.holes.iter().map(|hole| hole.last_sequence + 1 - hole.first_sequence).sum();
        assert_eq!(left.len() as u64 + marked, EVENTS, "seed {seed}");
        assert_eq!(repaired(log.path()), [], "seed {seed}");
    }
}

#[test]
fn a_repair_that_was_cut_short_before_the_head_is_finished_by_the_next() {
    let log = some_log();
    let whole = story_of(log.path());
    let head = log.path().join("head");
    let stale = fs::read(&head).unwrap();
    let newest = segments(log.path()).pop().unwrap();
    flip(&newest, written(&newest) / 2);
    repaired(log.path());
    let left = story_of(log.path());
    fs::write(&head, stale).unwrap();
    assert!(matches!(repaired(log.path()).as_slice(), [Action::RebuildHead { .. }]));
    assert_eq!(story_of(log.path()), left);
    assert!(left.len() < whole.len());
    assert!(checked(log.path()).is_sound);
}

#[test]
fn repair_needs_the_lock_and_a_dry_run_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..20);
    let run = |dry_run| repair(&storage(directory.path()), RepairOptions { dry_run, now: 1 });
    assert!(matches!(run(false), Err(Error::Locked { .. })));
    assert_eq!(run(true).unwrap(), []);
}

#[test]
fn an_edited_event_shows_in_the_chain_and_is_left_alone() {
    let log = some_log();
    // The same log with one other event has the same sequences and sound checksums, but another chain.
    let other = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(other.path()), options()).unwrap();
    let forged = "{\"Step\":{}}";
    let event =
        Event { source: "node", network: "casper-test", api_version: version(0), ..Event::new(Kind(7), 1, forged) };
    let files = segments(log.path());
    let second: u64 = files[1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    for _ in 0..second {
        writer.append(&event).unwrap();
    }
    writer.seal_now(2).unwrap();
    writer.close().unwrap();
    fs::copy(&segments(other.path())[0], &files[0]).unwrap();
    let found = checked(log.path());
    assert!(found.problems.iter().any(|problem| problem.reason.contains("chain value")), "{:?}", found.problems);
    assert!(repaired(log.path()).iter().all(|action| matches!(action, Action::Leave { .. })));
}

#[test]
fn a_forged_chain_value_under_a_sound_checksum_is_found() {
    let log = some_log();
    let file = &segments(log.path())[1];
    let mut bytes = fs::read(file).unwrap();
    let headers: Vec<_> = (0..bytes.len() - 144).filter(|&at| bytes[at..].starts_with(b"SBLK\x01")).collect();
    let header = &mut bytes[headers[3]..][..144];
    header[88] ^= 1;
    let crc = crc32fast::hash(&header[..140]);
    header[140..].copy_from_slice(&crc.to_le_bytes());
    fs::write(file, bytes).unwrap();
    let found = checked(log.path());
    // Neither does the value follow from its events, nor those of the next block from the value.
    let about: Vec<_> = found.problems.iter().map(|problem| (problem.offset as usize, &problem.reason)).collect();
    let reason = &"the chain value over its events is another than the one stored".to_owned();
    assert_eq!(about, [(headers[3], reason), (headers[4], reason)]);
    assert!(repaired(log.path()).iter().all(|action| matches!(action, Action::Leave { .. })));
}

#[test]
fn verify_works_while_the_log_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..6);
    std::thread::scope(|scope| {
        let checks = scope.spawn(|| {
            let mut last = 0;
            while last < EVENTS {
                let found = checked(directory.path());
                assert!(found.is_sound, "{:?}", found.problems);
                assert!(found.next_sequence >= last);
                last = found.next_sequence;
            }
        });
        append(&mut writer, 6..EVENTS);
        checks.join().unwrap();
    });
}

#[test]
fn a_copy_of_a_log_being_written_is_sound_and_is_called_a_copy() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..EVENTS);
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let newest = segments(copy.path()).pop().unwrap();
    let torn = written(&newest) - 10;
    fs::OpenOptions::new().write(true).open(newest).unwrap().set_len(torn as u64).unwrap();
    let found = checked(copy.path());
    assert!(found.is_sound, "{:?}", found.problems);
    assert!(found.notes.iter().any(|note| note.contains("copy")), "{:?}", found.notes);
    assert!(found.next_sequence < EVENTS);
}

#[test]
fn a_segment_that_a_rewrite_would_make_larger_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let options = WriteOptions { compression_level: 19, segment_bytes_max: 1 << 20, ..options() };
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options).unwrap();
    let text = (0..400).map(|number| format!("{} {number} ", blake3_hex(number % 37))).collect::<String>();
    for number in 0..EVENTS {
        let payload = format!("{{\"Step\":\"{number}{text}\"}}");
        let event = Event {
            source: "127.0.0.1:9999",
            network: "casper-test",
            api_version: version(0),
            ..Event::new(Kind(7), 1_000_000 + number, &payload)
        };
        writer.append(&event).unwrap();
    }
    writer.seal_now(2_000_000).unwrap();
    let (segment, maintenance) = (segments(directory.path()).remove(0), writer.maintenance());
    let before = fs::read(&segment).unwrap();
    let options = RewriteOptions { level: 1, block_bytes: 64 << 10 };
    let done = maintenance.rewrite(0, options).unwrap().unwrap();
    assert!(done.is_left && done.bytes_after > done.bytes_before, "{done:?}");
    assert_eq!(fs::read(&segment).unwrap(), before);
    assert!(!fs::exists(segment.with_extension("segment.new")).unwrap());
}

#[test]
fn a_rewrite_keeps_wire_bytes_marks_and_chain_and_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..EVENTS);
    let before = (wire(&log), log.marks(0).unwrap(), log.head(), story(&log));
    let sizes: u64 = segments(directory.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let maintenance = writer.maintenance();
    let small = maintenance.segments_with_small_blocks(0, 1 << 20).unwrap();
    assert!(small.len() >= 3, "{small:?}");

    // A reader holds a block of the old file meanwhile, and another process has it open.
    let other = Log::open(storage(directory.path()), ReadOptions { cache_bytes: 0 }).unwrap();
    assert!(matches!(other.read(small[1]).unwrap(), Read::Events { .. }));
    let rewritten = std::thread::spawn(move || {
        let options = RewriteOptions::default();
        let rewritten: Vec<_> =
            small.iter().map(|&first| maintenance.rewrite(first, options).unwrap().unwrap()).collect();
        // The writer may have sealed another one meanwhile.
        let still_small = maintenance.segments_with_small_blocks(0, 1 << 20).unwrap();
        assert!(still_small.iter().all(|first| !small.contains(first)), "{still_small:?}");
        rewritten
    });
    append(&mut writer, EVENTS..EVENTS + 1);
    let rewritten = rewritten.join().unwrap();
    assert!(rewritten.iter().all(|one| one.bytes_after < one.bytes_before && one.blocks_after < one.blocks_before));
    let shrunk: u64 = segments(directory.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(shrunk < sizes);

    let fresh = Log::open(storage(directory.path()), ReadOptions { cache_bytes: 0 }).unwrap();
    for log in [&log, &other, &fresh] {
        log.refresh().unwrap();
        let mut now = story(log);
        assert_eq!(now.pop_last().unwrap().0, EVENTS);
        assert_eq!(now, before.3);
    }
    assert!(wire(&fresh).starts_with(&before.0));
    assert_eq!(fresh.marks(0).unwrap(), before.1);
    let found = checked(directory.path());
    assert!(found.is_sound, "{:?}", found.problems);
    let report = inspect(&fresh).unwrap();
    assert_eq!(report.segments[0].generation, 1);
    assert_eq!(report.totals.events, EVENTS + 1);
}

#[test]
fn a_rewrite_leaves_large_events_in_blocks_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } =
        Writer::open(storage(directory.path()), WriteOptions { segment_bytes_max: 1 << 30, ..options() }).unwrap();
    append(&mut writer, 0..60);
    let payload = format!("\"{}\"", "large ".repeat(300_000));
    let event = Event {
        source: "node",
        network: "casper-test",
        api_version: version(0),
        ..Event::new(Kind(7), 1_000_060, &payload)
    };
    assert_eq!(writer.append(&event).unwrap(), 60);
    append(&mut writer, 61..120);
    writer.seal_now(2).unwrap();
    let rewritten = writer.maintenance().rewrite(0, RewriteOptions::default()).unwrap().unwrap();
    // A version, events, a mark, events, the large event, events, a mark, a version, events, a mark, events.
    assert!(rewritten.blocks_after <= 12, "{rewritten:?}");
    let Read::Large(large) = log.read(60).unwrap() else { panic!("event 60 is not read in pieces") };
    let mut wire = Vec::new();
    std::io::copy(&mut large.wire().unwrap(), &mut wire).unwrap();
    assert_eq!(wire, format!("data:{payload}\nid:60\n\n").into_bytes());
    assert!(checked(directory.path()).is_sound);
}

#[test]
fn a_rewrite_never_brings_back_what_retention_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..EVENTS);
    let maintenance = writer.maintenance();
    let second = maintenance.segments_with_small_blocks(1, 1 << 20).unwrap()[0];
    writer.maintenance().drop_before(second).unwrap();
    assert_eq!(maintenance.rewrite(0, RewriteOptions::default()).unwrap(), None);
    assert_eq!(log.oldest(), second);
    let fresh = Log::open(storage(directory.path()), ReadOptions::default()).unwrap();
    assert!(matches!(fresh.read(0).unwrap(), Read::Missing { to, why: Missing::Dropped, .. } if to == second));
}

#[test]
fn a_damaged_segment_is_not_rewritten() {
    let log = some_log();
    let file = &segments(log.path())[0];
    flip(file, 2000);
    let before = fs::read(file).unwrap();
    let Opened { writer, .. } = Writer::open(storage(log.path()), options()).unwrap();
    let result = writer.maintenance().rewrite(0, RewriteOptions::default());
    assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
    assert_eq!(fs::read(file).unwrap(), before);
    assert!(fs::read_dir(log.path()).unwrap().all(|entry| !entry.unwrap().path().to_str().unwrap().ends_with(".new")));
}

#[test]
fn a_report_counts_what_was_appended() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..3 {
        // Each time another writer takes the active segment over.
        let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
        append(&mut writer, round * 80..(round + 1) * 80);
        writer.close().unwrap();
    }
    let log = Log::open(storage(directory.path()), ReadOptions::default()).unwrap();
    let report = inspect(&log).unwrap();
    assert_eq!(report.health, Vec::<String>::new());
    assert_eq!(report.totals.events, 240);
    let kinds: Vec<_> = report.totals.kinds.iter().map(|kind| (kind.kind.as_str(), kind.events)).collect();
    assert_eq!(kinds, [("Step", 216), ("BlockAdded", 24)]);
    assert_eq!(report.totals.sources, ["127.0.0.1:9999", "127.0.0.2:9999"]);
    assert_eq!((report.totals.received_min, report.totals.received_max), (Some(1_000_000), Some(1_000_239)));
    assert_eq!(report.api_versions, ["2.0.0", "2.1.0", "2.2.0"]);
    assert_eq!(report.marks.counts, [("gap".to_owned(), 5), ("version".to_owned(), 3)].into());
    assert_eq!(report.totals.bytes_raw, wire(&log).len() as u64);
    assert!(checked(directory.path()).is_sound);
}

/// How a test compacts: blocks of 3,000 bytes, into which the events of 400 to 700 bytes do not fit by whole old blocks.
const COMPACTION: RewriteOptions = RewriteOptions { level: 19, block_bytes: 3_000 };

#[test]
fn a_compaction_cuts_new_blocks_and_changes_no_event() {
    let directory = some_log();
    let (before, whole) = (checked(directory.path()), story_of(directory.path()));
    let head = Log::open(storage(directory.path()), ReadOptions::default()).unwrap().head();
    let maintenance = Maintenance::open(storage(directory.path())).unwrap();
    let due = maintenance.segments_to_compact(0, COMPACTION).unwrap();
    assert_eq!(due, maintenance.sealed_segments());
    for &first in &due {
        let rewritten = maintenance.rewrite(first, COMPACTION).unwrap().unwrap();
        assert!(rewritten.bytes_after < rewritten.bytes_before, "{rewritten:?}");
    }
    let after = checked(directory.path());
    assert!(after.is_sound, "{:?}", after.problems);
    assert_eq!(
        (after.events, after.marks, &after.chain, after.bytes_raw),
        (before.events, before.marks, &before.chain, before.bytes_raw)
    );
    let log = Log::open(storage(directory.path()), ReadOptions::default()).unwrap();
    assert_eq!((log.head(), story(&log)), (head, whole));

    // Blocks are as full as whole events and the marks between them allow, and never fuller.
    let end = *due.last().unwrap();
    let (mut next, mut sizes) = (0, Vec::new());
    while let Read::Events { block, .. } = log.read(next).unwrap()
        && next < end
    {
        sizes.push(block.wire().len());
        next = block.end_sequence();
    }
    assert!(sizes.iter().all(|&size| size <= COMPACTION.block_bytes), "{sizes:?}");
    let full = sizes.iter().filter(|&&size| size > COMPACTION.block_bytes - 800).count();
    assert!(full * 2 > sizes.len(), "{sizes:?}");

    // Each is one frame that a client of HTTP can decode: with its content size, and a window of 8 MiB at most.
    let mut next = 0;
    while let Some(stored) = log.read_stored(next).unwrap().filter(|_| next < end) {
        let size = zstd::zstd_safe::get_frame_content_size(&stored.frame).unwrap().unwrap();
        let mut decoder = zstd::stream::read::Decoder::new(stored.frame.as_ref()).unwrap();
        decoder.window_log_max(23).unwrap();
        let mut wire = Vec::new();
        io::Read::read_to_end(&mut decoder, &mut wire).unwrap();
        assert_eq!(wire.len() as u64, size);
        next = stored.end_sequence;
    }

    // It is known that they are done.
    assert!(maintenance.segments_to_compact(0, COMPACTION).unwrap().is_empty());
    let lower = RewriteOptions { level: 3, ..COMPACTION };
    assert!(maintenance.segments_to_compact(0, lower).unwrap().is_empty());
    let higher = RewriteOptions { level: 20, ..COMPACTION };
    assert_eq!(maintenance.segments_to_compact(0, higher).unwrap(), due);
    let larger = RewriteOptions { block_bytes: 64_000, ..COMPACTION };
    assert!(!maintenance.segments_to_compact(0, larger).unwrap().is_empty());
    let report = inspect(&log).unwrap();
    let levels: Vec<_> = report.segments.iter().map(|segment| segment.rewritten_level).collect();
    let (newest, compacted) = levels.split_last().unwrap();
    assert!(newest.is_none() && compacted.iter().all(|&level| level == Some(19)), "{levels:?}");
}

#[test]
fn a_compacted_log_is_repaired_and_written_on_like_any_other() {
    let directory = some_log();
    let maintenance = Maintenance::open(storage(directory.path())).unwrap();
    for first in maintenance.sealed_segments() {
        maintenance.rewrite(first, COMPACTION).unwrap().unwrap();
    }
    drop(maintenance);
    let whole = story_of(directory.path());
    let Opened { mut writer, recovery, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    assert_eq!((recovery.lost, recovery.cut_bytes), (None, 0));
    append(&mut writer, EVENTS..EVENTS + 20);
    writer.close().unwrap();
    let found = checked(directory.path());
    assert!(found.is_sound, "{:?}", found.problems);
    let file = &segments(directory.path())[1];
    flip(file, 1_500);
    repaired(directory.path());
    let found = checked(directory.path());
    assert!(found.is_sound, "{:?}", found.problems);
    let left = story_of(directory.path());
    assert!(
        left.iter()
            .filter(|(sequence, _)| **sequence < EVENTS)
            .all(|(sequence, told)| whole.get(sequence) == Some(told))
    );
}

#[test]
fn a_compaction_that_is_stopped_changes_nothing_and_is_taken_up_again() {
    let directory = some_log();
    let maintenance = Maintenance::open(storage(directory.path())).unwrap();
    let due = maintenance.segments_to_compact(0, COMPACTION).unwrap();
    let files = || segments(directory.path()).iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    let before = files();
    for blocks in 0..3 {
        let mut left = blocks;
        let stopped = maintenance.rewrite_at_pace(due[0], COMPACTION, &mut |bytes| {
            assert!(bytes > 0);
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(stopped.unwrap(), None);
        assert!(files() == before);
    }
    assert!(
        fs::read_dir(directory.path()).unwrap().all(|entry| !entry.unwrap().path().to_str().unwrap().ends_with(".new"))
    );

    let mut bytes = 0;
    let mut note = |more| {
        bytes += more;
        ControlFlow::Continue(())
    };
    maintenance.rewrite_at_pace(due[0], COMPACTION, &mut note).unwrap().unwrap();
    assert_eq!(maintenance.segments_to_compact(0, COMPACTION).unwrap(), due[1..]);
    drop(maintenance);
    let log = Log::open(storage(directory.path()), ReadOptions::default()).unwrap();
    let first = &inspect(&log).unwrap().segments[0];
    assert!(bytes >= first.bytes_raw, "progress is told in wire bytes, those of marks included");
}

#[test]
fn only_one_process_maintains_a_log_and_none_does_while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Maintenance::open(storage(directory.path())), Err(Error::NotALog { .. })));
    let Opened { mut writer, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..EVENTS);
    assert!(matches!(Maintenance::open(storage(directory.path())), Err(Error::Locked { .. })));
    writer.close().unwrap();
    let maintenance = Maintenance::open(storage(directory.path())).unwrap();
    assert!(matches!(Maintenance::open(storage(directory.path())), Err(Error::Locked { .. })));
    assert!(matches!(Writer::open(storage(directory.path()), options()), Err(Error::Locked { .. })));
    drop(maintenance);
    Writer::open(storage(directory.path()), options()).unwrap();
}

#[test]
fn an_estimate_comes_close_to_what_a_compaction_makes() {
    let directory = tempfile::tempdir().unwrap();
    let large_segments = WriteOptions { segment_bytes_max: 200_000, ..options() };
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), large_segments).unwrap();
    append(&mut writer, 0..4_000);
    let compaction = RewriteOptions { level: 9, block_bytes: 30_000 };
    let mut told = Vec::new();
    let estimates = estimate(&log, compaction, &mut |progress| told.push(progress.bytes)).unwrap();
    assert!(estimates.len() >= 3 && told.len() == estimates.len() && told.is_sorted());
    let maintenance = writer.maintenance();
    for estimate in &estimates {
        assert!(estimate.bytes_sampled < estimate.bytes_raw);
        let done = maintenance.rewrite(estimate.first_sequence, compaction).unwrap().unwrap();
        assert_eq!(done.bytes_before, estimate.bytes_before);
        let off = done.bytes_after.abs_diff(estimate.bytes_after) as f64 / done.bytes_after as f64;
        assert!(off < 0.1, "{done:?}, {estimate:?}");
    }
    assert_eq!(estimate(&log, compaction, &mut |_| {}).unwrap(), []);
}

#[test]
fn the_oldest_segments_are_described_read_and_dropped_while_the_log_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..EVENTS);
    let whole = story(&log);
    let maintenance = writer.maintenance();
    let sealed = maintenance.sealed_segments();
    let oldest = maintenance.describe(sealed[0]).unwrap();
    let bytes = fs::metadata(&segments(directory.path())[0]).unwrap().len();
    let bytes_raw = inspect(&log).unwrap().segments[0].bytes_raw;
    let received_max = Some(1_000_000 + sealed[1] - 1);
    assert_eq!(oldest, SealedSegment { bytes_raw, first_sequence: 0, end_sequence: sealed[1], bytes, received_max });
    let newest = segments(directory.path()).pop().unwrap();
    assert_eq!(maintenance.unsealed_bytes().unwrap(), fs::metadata(newest).unwrap().len());

    let (mut frames, mut marks) = (Vec::new(), Vec::new());
    let read = maintenance.read_segment(sealed[0], &mut |part| match part {
        SegmentPart::Events(block) => frames.extend(block.rows().map(|row| row.frame().to_vec())),
        SegmentPart::Marks(mut read) => marks.append(&mut read),
        other => panic!("{other:?}"),
    });
    read.unwrap();
    assert!(frames.iter().eq(whole.range(..sealed[1]).map(|(_, told)| &told.5)));
    let expected: Vec<_> = log.marks(0).unwrap().into_iter().filter(|mark| mark.position < sealed[1]).collect();
    assert!(marks.starts_with(&expected) && !expected.is_empty());

    assert_eq!(maintenance.drop_before(sealed[1] - 1).unwrap(), 0);
    assert_eq!(maintenance.drop_before(sealed[2]).unwrap(), 2);
    assert_eq!((log.oldest(), maintenance.sealed_segments()), (sealed[2], sealed[2..].to_vec()));
    append(&mut writer, EVENTS..EVENTS + 20);
    drop(maintenance);
    writer.close().unwrap();
    let found = checked(directory.path());
    assert!(found.is_sound, "{:?}", found.problems);
    assert_eq!(found.first_sequence, sealed[2]);
}

#[test]
fn where_room_is_to_stay_free_commits_wait_and_the_log_can_be_closed() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    append(&mut writer, 0..30);
    writer.close().unwrap();
    drop(log);

    let no_room = WriteOptions { free_bytes_min: 1 << 60, ..options() };
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), no_room).unwrap();
    let payload = payload(30);
    let event = Event {
        source: "127.0.0.1:9999",
        network: "casper-test",
        api_version: version(0),
        ..Event::new(Kind(7), 1_000_030, &payload)
    };
    assert_eq!(writer.append(&event).unwrap(), 30);
    for _ in 0..2 {
        let full = writer.commit().unwrap_err();
        assert!(full.to_string().contains("are to stay free"), "{full}");
        assert!(matches!(&full, Error::Storage { source, .. } if source.kind() == io::ErrorKind::StorageFull));
        assert!(!writer.is_poisoned());
    }
    assert_eq!((log.head().next_sequence, story(&log).len()), (30, 30));
    writer.abandon_uncommitted();
    assert_eq!(writer.next_sequence(), 30);
    writer.close().unwrap();

    let Opened { mut writer, recovery, .. } = Writer::open(storage(directory.path()), options()).unwrap();
    assert_eq!((recovery.lost, recovery.cut_bytes), (None, 0));
    append(&mut writer, 30..40);
    writer.close().unwrap();
    assert!(checked(directory.path()).is_sound);
}

/// Appends small events and a mark for each that must not be lost while the event is there.
fn append_marked(writer: &mut Writer, numbers: std::ops::Range<u64>, commit_events: u64) {
    for number in numbers {
        let payload = format!("{{\"number\":{number},\"noise\":\"{}\"}}", blake3_hex(number));
        let event = Event { source: "node", network: "n", ..Event::new(Kind(7), number, &payload) };
        let sequence = writer.append(&event).unwrap();
        writer.mark_ahead(&identity_of(sequence, number)).unwrap();
        if number % commit_events == commit_events - 1 {
            writer.commit().unwrap();
        }
    }
}

fn identity_of(sequence: u64, number: u64) -> Mark {
    let body =
        format!(r#"{{"sequence":{sequence},"class":1,"time":{number},"hash":"{}"}}"#, &blake3_hex(!number)[..32]);
    Mark { kind: MarkKind::IDENTITY, position: 0, source: "node".to_owned(), received: number, body }
}

/// The identity marks, and the end of the block of events that each comes before.
fn identities(log: &Log) -> Vec<(Mark, u64)> {
    let mut marks = MarkCursor::new(log, 0).of_kinds(MarkKind::IDENTITY.bit());
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(outline) = log.outline(next).unwrap() {
        next = outline.end_sequence;
        while let Some(mark) = marks.next_to(next).unwrap() {
            found.push((Mark { position: 0, ..mark }, next));
        }
    }
    assert_eq!(marks.next_to(u64::MAX).unwrap(), None);
    found
}

#[test]
fn marks_about_the_events_of_a_commit_are_one_block_before_them_and_a_rewrite_joins_those_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let plain = WriteOptions::new("casper", [1; 16], 1);
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), plain.clone()).unwrap();
    append_marked(&mut writer, 0..2_000, 100);
    let body = r#"{"of":"height","from":1,"to":2}"#.to_owned();
    let gap = Mark { kind: MarkKind::GAP, position: 2_000, source: String::new(), received: 3, body };
    writer.mark(&gap).unwrap();
    append_marked(&mut writer, 2_000..5_000, 100);
    writer.seal_now(1).unwrap();
    let expected: Vec<_> = (0..5_000).map(|number| identity_of(number, number)).collect();
    let check = |log: &Log| {
        let found = identities(log);
        for ((_, known_at), sequence) in found.iter().zip(0..) {
            let end = log.outline(sequence).unwrap().unwrap().end_sequence;
            assert!(*known_at <= end, "in time for event {sequence}");
        }
        assert!(found.into_iter().map(|(mark, _)| mark).eq(expected.iter().cloned()));
        let others: Vec<_> = log.marks(0).unwrap().into_iter().filter(|mark| mark.kind != MarkKind::IDENTITY).collect();
        assert_eq!(others, std::slice::from_ref(&gap));
    };
    check(&log);
    let maintenance = writer.maintenance();
    let before = (wire(&log), log.head(), maintenance.describe(0).unwrap());
    assert_eq!(maintenance.segments_with_small_blocks(0, 1 << 20).unwrap(), [0]);
    let done = maintenance.rewrite(0, RewriteOptions::default()).unwrap().unwrap();
    // Of each commit one of marks and one of events, and the gap between two runs.
    assert_eq!((done.blocks_before, done.blocks_after, done.is_left), (101, 5, false));
    assert!(maintenance.segments_with_small_blocks(0, 1 << 20).unwrap().is_empty());
    check(&log);
    assert_eq!((wire(&log), log.head()), (before.0, before.1));
    // Cut smaller, each block has its marks before it.
    maintenance.rewrite(0, RewriteOptions { level: 1, block_bytes: 20_000 }).unwrap().unwrap();
    check(&log);
    drop((maintenance, log));
    append_marked(&mut writer, 5_000..5_001, 1);
    writer.close().unwrap();
    assert!(checked(directory.path()).is_sound);
}

#[test]
fn a_commit_that_finds_no_room_keeps_the_marks_before_their_events() {
    let directory = tempfile::tempdir().unwrap();
    let no_room = WriteOptions { free_bytes_min: 1 << 60, ..WriteOptions::new("casper", [1; 16], 1) };
    let Opened { writer, .. } =
        Writer::open(storage(directory.path()), WriteOptions::new("casper", [1; 16], 1)).unwrap();
    writer.close().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(directory.path()), no_room).unwrap();
    append_marked(&mut writer, 0..3, 100);
    assert!(writer.commit().is_err() && !writer.is_poisoned());
    append_marked(&mut writer, 3..5, 100);
    assert!(writer.commit().is_err() && !writer.is_poisoned());
    writer.abandon_uncommitted();
    assert_eq!((writer.next_sequence(), writer.uncommitted_bytes()), (0, 0));
    writer.close().unwrap();
    drop(log);
    let Opened { mut writer, log, .. } =
        Writer::open(storage(directory.path()), WriteOptions::new("casper", [1; 16], 1)).unwrap();
    assert!(identities(&log).is_empty());
    append_marked(&mut writer, 0..5, 100);
    writer.close().unwrap();
    assert_eq!(identities(&log).len(), 5);
}
