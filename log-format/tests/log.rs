//! The log from outside: what is appended and committed is what every reader gets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use sidecar_log_format::{
    ApiVersion, Error, Event, Kind, Log, LossKind, Missing, Opened, Read, ReadOptions, RewriteOptions, WriteOptions,
    Writer,
    storage::{Directory, File, FileLayer, Layer, Storage},
};

#[path = "../examples/follow.rs"]
#[allow(dead_code, reason = "its entry point")]
mod follow;
#[path = "../examples/range.rs"]
#[allow(dead_code, reason = "its entry point")]
mod range;

const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 0 };

fn storage(directory: &tempfile::TempDir) -> Arc<dyn Storage> {
    Arc::new(Directory::at(directory.path()))
}

fn options() -> WriteOptions {
    WriteOptions { block_bytes_max: 4096, segment_bytes_max: 20_000, ..WriteOptions::new("casper", [7; 16], 1_000) }
}

fn payload(number: u64) -> String {
    format!("{{\"Step\":{{\"era_id\":{number},\"filler\":\"{}\"}}}}", "x".repeat((number % 97) as usize))
}

fn event(payload: &str, number: u64) -> Event<'_> {
    Event {
        kind: Kind(7),
        name: "",
        source: "127.0.0.1:9999",
        network: "casper-test",
        api_version: VERSION,
        upstream_id: Some(number + 1000),
        received: 1_000_000 + number,
        payload,
    }
}

fn append(writer: &mut Writer, range: std::ops::Range<u64>) {
    writer.announce_version(VERSION, "127.0.0.1:9999", 1).unwrap();
    for number in range {
        assert_eq!(writer.append(&event(&payload(number), number)).unwrap(), number);
        if number % 7 == 0 {
            writer.commit().unwrap();
        }
    }
    writer.commit().unwrap();
}

/// The wire form of everything from `from` on.
fn wire_from(log: &Log, from: u64) -> (Vec<u8>, Vec<(u64, u64)>) {
    let (mut wire, mut holes, mut next) = (Vec::new(), Vec::new(), from);
    loop {
        match log.read(next).unwrap() {
            Read::Events { block, index } => {
                let start = block.row(index).unwrap().range_with_rise().start;
                wire.extend_from_slice(&block.wire()[start..]);
                next = block.end_sequence();
            }
            Read::Missing { from, to, .. } => {
                holes.push((from, to));
                next = to;
            }
            Read::Large(large) => {
                std::io::copy(&mut large.wire().unwrap(), &mut wire).unwrap();
                next = large.sequence() + 1;
            }
            Read::End => return (wire, holes),
        }
    }
}

fn expected_wire(range: std::ops::Range<u64>) -> Vec<u8> {
    let mut wire = Vec::new();
    for number in range {
        if number == 0 {
            wire.extend_from_slice(b"data:{\"ApiVersion\":\"2.0.0\"}\n\n");
        }
        wire.extend_from_slice(format!("data:{}\nid:{number}\n\n", payload(number)).as_bytes());
    }
    wire
}

#[test]
fn an_event_read_alone_is_the_same_event_and_is_kept_without_its_block() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(&directory), options()).unwrap();
    append(&mut writer, 0..500);
    writer.close().unwrap();
    let log = Log::open(storage(&directory), ReadOptions::default()).unwrap();
    for sequence in (0..500).rev().step_by(7) {
        assert!(log.read_alone_cached(sequence).is_none());
        for read in [log.read_alone(sequence).unwrap(), log.read_alone_cached(sequence).unwrap()] {
            let Read::Events { block, index } = read else { panic!("{sequence} is missing") };
            assert_eq!((block.first_sequence(), block.len(), index), (sequence, 1, 0));
            assert_eq!(*block.row(0).unwrap().payload(), *payload(sequence).as_bytes());
        }
        assert!(log.read_cached(sequence).is_none(), "readers of whole blocks do not get it");
    }
    assert!(matches!(log.read_alone(500).unwrap(), Read::End));
    assert!(matches!(log.read_alone_cached(500), Some(Read::End)));
    assert_eq!(wire_from(&log, 0).0, expected_wire(0..500));
}

#[test]
fn few_events_come_from_one_block_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(&directory), options()).unwrap();
    append(&mut writer, 0..500);
    writer.close().unwrap();
    let log = Log::open(storage(&directory), ReadOptions::default()).unwrap();
    assert!(log.read_few(&[]).unwrap().is_empty());
    for wanted in [(0..500).collect::<Vec<_>>(), (0..500).rev().collect(), vec![3, 499, 4, 700]] {
        let mut next = 0;
        while let Some(left) = wanted.get(next..).filter(|left| !left.is_empty()) {
            let end = log.outline(left[0]).unwrap().map_or(u64::MAX, |outline| outline.end_sequence);
            for read in log.read_few(left).unwrap() {
                let Read::Events { block, .. } = read else {
                    assert_eq!(wanted[next..], [700]);
                    next += 1;
                    continue;
                };
                assert!(block.end_sequence() <= end);
                while let Some(index) = wanted.get(next).and_then(|next| block.index_of(*next)) {
                    assert_eq!(*block.row(index).unwrap().payload(), *payload(wanted[next]).as_bytes());
                    next += 1;
                }
            }
        }
        assert_eq!(next, wanted.len());
    }
}

#[test]
fn every_reader_gets_what_was_committed_in_its_wire_form() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, recovery } = Writer::open(storage(&directory), options()).unwrap();
    assert!(recovery.created);
    append(&mut writer, 0..1000);
    assert_eq!(log.head().next_sequence, 1000);
    assert_eq!(wire_from(&log, 0), (expected_wire(0..1000), vec![]));
    assert_eq!(wire_from(&log, 613), (expected_wire(613..1000), vec![]));

    let other = Log::open(storage(&directory), ReadOptions::default()).unwrap();
    assert_eq!(other.head(), log.head());
    assert_eq!(wire_from(&other, 0), (expected_wire(0..1000), vec![]));
    append(&mut writer, 1000..1500);
    assert_eq!(other.refresh().unwrap(), log.head());
    assert_eq!(wire_from(&other, 990), (expected_wire(990..1500), vec![]));
}

#[test]
fn a_log_resumes_where_it_was_left() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let Opened { mut writer, log, recovery } = Writer::open(storage(&directory), options()).unwrap();
        assert_eq!(recovery.lost, None);
        assert_eq!(recovery.cut_bytes, 0);
        append(&mut writer, round * 200..(round + 1) * 200);
        assert_eq!(wire_from(&log, 0), (expected_wire(0..(round + 1) * 200), vec![]));
        if round % 2 == 0 {
            writer.close().unwrap();
        }
    }
}

#[test]
fn rows_have_what_is_known_about_an_event() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(&directory), options()).unwrap();
    append(&mut writer, 0..100);
    let Read::Events { block, index } = log.read(42).unwrap() else { panic!("event 42 is missing") };
    let row = block.row(index).unwrap();
    assert_eq!(row.sequence(), 42);
    assert_eq!(row.kind(), Kind(7));
    assert_eq!(row.source(), "127.0.0.1:9999");
    assert_eq!(row.network(), "casper-test");
    assert_eq!(row.api_version(), VERSION);
    assert_eq!(row.upstream_id(), Some(1042));
    assert_eq!(row.received(), 1_000_042);
    assert_eq!(row.payload(), payload(42).as_bytes());
    assert_eq!(block.version_in_force(index), VERSION);
}

#[test]
fn a_large_event_is_read_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(&directory), options()).unwrap();
    let big = format!("\"{}\"", "0123456789abcdef".repeat(200_000));
    writer.append(&event("1", 0)).unwrap();
    writer.append(&event(&big, 1)).unwrap();
    writer.append(&event("2", 2)).unwrap();
    writer.commit().unwrap();
    let (wire, _) = wire_from(&log, 0);
    assert_eq!(wire, format!("data:1\nid:0\n\ndata:{big}\nid:1\n\ndata:2\nid:2\n\n").into_bytes());
    assert!(matches!(log.read(1).unwrap(), Read::Large(_)));
}

#[test]
fn a_flipped_bit_is_reported_and_never_returned() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(&directory), options()).unwrap();
    append(&mut writer, 0..1000);
    writer.close().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|extension| extension == "segment"));
    names.sort();
    assert!(names.len() > 2, "the log is to span segments");
    let mut bytes = std::fs::read(&names[0]).unwrap();
    bytes[3000] ^= 1;
    std::fs::write(&names[0], bytes).unwrap();
    let log = Log::open(storage(&directory), ReadOptions::default()).unwrap();
    let mut next = 0;
    let mut quarantined = 0;
    while next < 1000 {
        match log.read(next).unwrap() {
            Read::Events { block, index } => {
                let row = block.row(index).unwrap();
                assert_eq!(row.payload(), payload(next).as_bytes());
                next += 1;
            }
            Read::Missing { to, why: Missing::Quarantined(_), .. } => {
                quarantined += to - next;
                next = to;
            }
            other => panic!("unexpected at {next}: {other:?}"),
        }
    }
    assert!(quarantined > 0 && quarantined < 100, "one block is quarantined, not {quarantined} events");
}

#[test]
fn a_closed_log_keeps_no_room_that_it_does_not_use() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = Writer::open(storage(&directory), WriteOptions::new("casper", [7; 16], 1)).unwrap();
    append(&mut writer, 0..100);
    let segment = directory.path().join("00000000000000000000.segment");
    assert!(std::fs::metadata(&segment).unwrap().len() > 1 << 20, "the segment is preallocated while it is written");
    writer.close().unwrap();
    assert!(std::fs::metadata(&segment).unwrap().len() < 100 << 10);
    let Opened { mut writer, log, .. } = Writer::open(storage(&directory), options()).unwrap();
    append(&mut writer, 100..200);
    assert_eq!(wire_from(&log, 0), (expected_wire(0..200), vec![]));
}

#[test]
fn a_time_names_the_first_event_that_was_received_then_or_later_whatever_the_clock_did() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(&directory), options()).unwrap();
    // In the middle the clock is an hour ahead, and is set back: through sealed segments, and through the active one.
    let received = |number: u64| 1_000_000 + 10 * number + if (400..450).contains(&number) { 3_600_000_000 } else { 0 };
    for number in 0..900 {
        let payload = payload(number);
        writer.append(&Event { received: received(number), ..event(&payload, number) }).unwrap();
        if number % 7 == 0 {
            writer.commit().unwrap();
        }
    }
    writer.commit().unwrap();
    let times = (0..900).map(received);
    let another_process = Log::open(storage(&directory), ReadOptions::default()).unwrap();
    for time in times.flat_map(|time| [time - 1, time, time + 1]).chain([0, u64::MAX]) {
        let expected = (0..900).find(|&number| received(number) >= time);
        assert_eq!(log.first_received_at_or_after(time).unwrap(), expected, "{time}");
        assert_eq!(another_process.first_received_at_or_after(time).unwrap(), expected, "{time}");
    }
}

/// A folder in which something else happens just before a file is opened, once.
struct Interrupted {
    directory: Directory,
    before_open: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Layer for Interrupted {
    fn below(&self) -> &dyn Storage {
        &self.directory
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let before_open = self.before_open.lock().unwrap().take();
        if let Some(happens) = before_open {
            happens();
        }
        self.directory.open(name, write)
    }
}

#[test]
fn an_event_committed_during_the_search_for_a_time_is_not_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Interrupted { directory: Directory::at(directory.path()), before_open: Mutex::default() });
    let Opened { mut writer, log, .. } = Writer::open(Arc::clone(&storage) as Arc<dyn Storage>, options()).unwrap();
    append(&mut writer, 0..10);
    writer.seal_now(1).unwrap();
    // In a segment that the search does not know of.
    let commit_another = move || append(&mut writer, 10..11);
    *storage.before_open.lock().unwrap() = Some(Box::new(commit_another));
    assert_eq!(log.start_at_time(1_000_010).unwrap(), 10);
    assert_eq!(log.head().next_sequence, 11, "it was committed meanwhile");
    assert_eq!(log.start_at_time(1_000_010).unwrap(), 10);
    assert_eq!(log.start_at_time(1_000_011).unwrap(), 11);
}

/// A folder in which something else happens just after a file was opened, once; that file is given out in the hands of a
/// witness.
struct Overtaken {
    directory: Directory,
    after_open: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    witness: Mutex<Weak<()>>,
}

struct Witnessed {
    file: Arc<dyn File>,
    _witness: Arc<()>,
}

impl FileLayer for Witnessed {
    fn below(&self) -> &dyn File {
        self.file.as_ref()
    }
}

impl Layer for Overtaken {
    fn below(&self) -> &dyn Storage {
        &self.directory
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let file = self.directory.open(name, write)?;
        let after_open = self.after_open.lock().unwrap().take();
        let Some(happens) = after_open else { return Ok(file) };
        let witness = Arc::new(());
        *self.witness.lock().unwrap() = Arc::downgrade(&witness);
        happens();
        Ok(Arc::new(Witnessed { file, _witness: witness }))
    }
}

#[test]
fn a_segment_that_is_replaced_or_dropped_while_a_reader_opens_it_is_not_kept_open() {
    for is_dropped in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let storage = Arc::new(Overtaken {
            directory: Directory::at(directory.path()),
            after_open: Mutex::default(),
            witness: Mutex::default(),
        });
        let Opened { mut writer, log, .. } = Writer::open(Arc::clone(&storage) as Arc<dyn Storage>, options()).unwrap();
        append(&mut writer, 0..900);
        let maintenance = writer.maintenance();
        let second = maintenance.sealed_segments()[1];
        *storage.after_open.lock().unwrap() = Some(Box::new(move || match is_dropped {
            true => assert_eq!(maintenance.drop_before(second).unwrap(), 1),
            false => assert!(maintenance.rewrite(0, RewriteOptions::default()).unwrap().is_some()),
        }));
        assert!(log.outline(0).unwrap().is_some(), "the reader that has begun gets what it has opened");
        assert!(storage.witness.lock().unwrap().upgrade().is_none(), "dropped: {is_dropped}");
        assert_eq!(log.outline(0).unwrap().is_some(), !is_dropped);
    }
}

/// A folder in which a rename hangs for as long as a test wants.
struct SlowRename {
    directory: Directory,
    begun: mpsc::Sender<()>,
    hanging: Arc<Mutex<()>>,
}

impl Layer for SlowRename {
    fn below(&self) -> &dyn Storage {
        &self.directory
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.begun.send(()).unwrap();
        drop(self.hanging.lock().unwrap());
        Storage::rename(&self.directory, from, to)
    }
}

#[test]
fn readers_and_the_writer_do_not_wait_for_the_disk_that_puts_a_rewritten_segment_in_place() {
    let directory = tempfile::tempdir().unwrap();
    drop(Writer::open(storage(&directory), options()).unwrap());
    let (begun, has_begun) = mpsc::channel();
    let hanging = Arc::default();
    let slow = SlowRename { directory: Directory::at(directory.path()), begun, hanging: Arc::clone(&hanging) };
    let Opened { mut writer, log, .. } =
        Writer::open(Arc::new(slow), WriteOptions { segment_bytes_max: 1 << 20, ..options() }).unwrap();
    append(&mut writer, 0..900);
    let hangs = hanging.lock().unwrap();
    std::thread::scope(|scope| {
        // The segments are begun by a rename, too.
        scope.spawn(|| writer.seal_now(1));
        has_begun.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(hangs);
    });
    let maintenance = writer.maintenance();
    let rewritten = maintenance.sealed_segments()[0];
    let hangs = hanging.lock().unwrap();
    let (done, is_done) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| maintenance.rewrite(rewritten, RewriteOptions::default()).unwrap().unwrap());
        has_begun.recv_timeout(Duration::from_secs(10)).unwrap();
        scope.spawn(|| {
            assert_eq!(log.ends(), Some((0, 899)));
            assert!(log.outline(0).unwrap().is_some());
            append(&mut writer, 900..910);
            done.send(()).unwrap();
        });
        let in_time = is_done.recv_timeout(Duration::from_secs(10));
        drop(hangs);
        in_time.expect("readers and the writer continue while the rename hangs");
    });
    assert_eq!(log.ends(), Some((0, 909)));
}

#[test]
fn blocks_are_walked_backwards_through_every_segment_to_the_oldest() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, log, .. } = Writer::open(storage(&directory), options()).unwrap();
    append(&mut writer, 0..900);
    let mut forwards = Vec::new();
    let mut next = 0;
    while let Some(outline) = log.outline(next).unwrap() {
        assert_eq!(outline.first_sequence, next);
        next = outline.end_sequence;
        forwards.push(outline);
    }
    let walk_back = |log: &Log| {
        let mut backwards = Vec::new();
        let mut before = log.head().next_sequence;
        while let Some(outline) = log.outline_before(before).unwrap() {
            before = outline.first_sequence;
            backwards.push(outline);
        }
        backwards.reverse();
        backwards
    };
    assert_eq!((next, walk_back(&log)), (900, forwards.clone()));
    let another_process = Log::open(storage(&directory), ReadOptions::default()).unwrap();
    assert_eq!(walk_back(&another_process), forwards);
    // In the middle of a block, the block that holds the event before.
    let middle = &forwards[forwards.len() / 2];
    assert_eq!(log.outline_before(middle.first_sequence + 1).unwrap().as_ref(), Some(middle));

    writer.maintenance().drop_before(500).unwrap();
    let retained: Vec<_> = forwards.into_iter().filter(|outline| outline.first_sequence >= log.oldest()).collect();
    assert!(log.oldest() > 0 && !retained.is_empty());
    assert_eq!(walk_back(&log), retained);
}

#[test]
fn readers_wait_for_a_directory_that_is_gone_and_read_on_after_it_was_opened_again() {
    let parent = tempfile::tempdir().unwrap();
    let (path, away) = (parent.path().join("log"), parent.path().join("away"));
    // Nothing stays in the cache.
    let options = || WriteOptions { read: ReadOptions { cache_bytes: 1 }, ..options() };
    let directory = || Arc::new(Directory::create(&path).unwrap());
    let Opened { mut writer, log, .. } = Writer::open(directory(), options()).unwrap();
    append(&mut writer, 0..2_000);
    std::fs::rename(&path, &away).unwrap();
    // More than the reader has open: what it cannot reach is no event that retention dropped.
    let unreadable = (0..2_000).filter(|&sequence| match log.read(sequence) {
        Ok(Read::Events { .. }) => false,
        Err(Error::LogMissing { .. }) => true,
        other => panic!("{other:?}"),
    });
    assert!(unreadable.count() > 0);
    append_one(&mut writer, 2_000);
    assert!(matches!(writer.commit(), Err(Error::NotInPlace { .. })));
    assert!(writer.is_poisoned());
    assert_eq!(log.head().next_sequence, 2_000, "nothing becomes visible that is not in the log");
    drop(writer);
    assert!(matches!(Writer::reopen(&log, options()), Err(Error::LogMissing { .. })));
    assert!(!path.exists());

    // Another log has files of the same names, which are not read.
    let other = WriteOptions { new_log_id: [9; 16], ..options() };
    let Opened { writer: mut other, log: other_log, .. } = Writer::open(directory(), other).unwrap();
    append(&mut other, 0..2_000);
    assert!(matches!(Writer::reopen(&log, options()), Err(Error::OtherLog { .. })));
    assert!(
        (0..2_000).all(|sequence| matches!(log.read(sequence), Ok(Read::Events { .. }) | Err(Error::OtherLog { .. })))
    );
    drop((other, other_log));
    std::fs::remove_dir_all(&path).unwrap();

    std::fs::rename(&away, &path).unwrap();
    let Opened { mut writer, recovery, .. } = Writer::reopen(&log, options()).unwrap();
    assert!(!recovery.created && recovery.lost.is_none(), "{recovery:?}");
    let next = log.head().next_sequence;
    for number in next..next + 10 {
        append_one(&mut writer, number);
    }
    writer.commit().unwrap();
    assert_eq!(wire_from(&log, 0), (expected_wire(0..next + 10), vec![]));
}

fn append_one(writer: &mut Writer, number: u64) {
    assert_eq!(writer.append(&event(&payload(number), number)).unwrap(), number);
}

#[test]
fn what_readers_saw_keeps_its_sequence_when_an_older_copy_is_put_back() {
    let parent = tempfile::tempdir().unwrap();
    let (path, older) = (parent.path().join("log"), parent.path().join("older"));
    let options = || WriteOptions { segment_blocks_max: 4, ..options() };
    let Opened { mut writer, log, .. } = Writer::open(Arc::new(Directory::create(&path).unwrap()), options()).unwrap();
    append(&mut writer, 0..100);
    std::fs::create_dir(&older).unwrap();
    for file in std::fs::read_dir(&path).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), older.join(file.file_name())).unwrap();
    }
    append(&mut writer, 100..150);
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::rename(&older, &path).unwrap();
    assert!(matches!(writer.check_in_place(), Err(Error::NotInPlace { .. })));
    drop(writer);
    let Opened { mut writer, recovery, .. } = Writer::reopen(&log, options()).unwrap();
    assert_eq!(recovery.lost, Some(100..150));
    append_one(&mut writer, 150);
    writer.commit().unwrap();
    let (wire, holes) = wire_from(&log, 0);
    assert_eq!(holes, [(100, 150)]);
    assert!(wire.starts_with(&expected_wire(0..100)));
    log.find_losses(&mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(LossKind::ALL.map(|kind| log.losses().events(kind)), [0, 0, 50]);

    // A drop is recorded in the file that is in place now, so that the next start finds nothing missing before it.
    assert!(writer.maintenance().drop_before(60).unwrap() > 0);
    let retained_from = log.retained_from();
    writer.close().unwrap();
    let log = Log::open(Arc::new(Directory::at(&path)), ReadOptions::default()).unwrap();
    assert_eq!((log.retained_from(), log.oldest()), (retained_from, retained_from));
    log.find_losses(&mut || ControlFlow::Continue(())).unwrap();
    assert!(retained_from > 0 && log.losses().unmarked().next().is_none(), "{:?}", log.losses());
}

#[test]
fn a_loss_is_over_once_the_file_is_back_and_a_damaged_block_is_found_though_nobody_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = WriteOptions { segment_blocks_max: 4, read: ReadOptions { cache_bytes: 0 }, ..options() };
    let Opened { mut writer, log, .. } = Writer::open(storage(&directory), options).unwrap();
    append(&mut writer, 0..150);
    let second = *writer.maintenance().sealed_segments().get(1).unwrap();
    let (file, away) = (directory.path().join(format!("{second:020}.segment")), directory.path().join("away"));
    let kinds = || LossKind::ALL.map(|kind| log.losses().events(kind) > 0);
    let find_losses = || log.find_losses(&mut || ControlFlow::Continue(())).unwrap();

    std::fs::rename(&file, &away).unwrap();
    assert!(matches!(log.read(second).unwrap(), Read::Missing { why: Missing::Lost, .. }));
    find_losses();
    assert_eq!(kinds(), [true, false, false]);
    std::fs::rename(&away, &file).unwrap();
    find_losses();
    assert_eq!(kinds(), [false, false, false]);

    let sound = std::fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    let block = sound.windows(4).position(|bytes| bytes == b"SBLK").unwrap();
    damaged[block + 150] ^= 0xFF;
    std::fs::write(&file, damaged).unwrap();
    find_losses();
    assert_eq!(kinds(), [false, false, false]);
    let (version, mut checked) = (log.losses_version(), 0);
    let check = &mut |bytes| {
        checked += bytes;
        ControlFlow::Continue(())
    };
    log.check_blocks(check).unwrap();
    assert!(checked > sound.len() as u64 / 2 && log.losses_version() > version);
    assert_eq!(log.losses().ranges()[0].first_sequence, second);
    find_losses();
    assert_eq!(kinds(), [false, true, false]);
    assert!(matches!(log.read(second).unwrap(), Read::Missing { why: Missing::Quarantined(_), .. }));
    std::fs::write(&file, sound).unwrap();
    find_losses();
    assert_eq!(kinds(), [false, false, false]);
    assert!(matches!(log.read(second).unwrap(), Read::Events { .. }));
}

#[test]
fn where_no_log_may_be_created_none_is() {
    let directory = tempfile::tempdir().unwrap();
    let refusing = WriteOptions { create_if_missing: false, ..options() };
    assert!(matches!(Writer::open(storage(&directory), refusing.clone()), Err(Error::LogMissing { .. })));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    Writer::open(storage(&directory), options()).unwrap();
    Writer::open(storage(&directory), refusing).unwrap();
}

#[test]
fn a_directory_is_locked_though_its_lock_file_was_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Writer::open(storage(&directory), options()).unwrap();
    std::fs::remove_file(directory.path().join("lock")).unwrap();
    assert!(matches!(Writer::open(storage(&directory), options()), Err(Error::Locked { .. })));
    drop(opened);
    Writer::open(storage(&directory), options()).unwrap();
}

#[test]
fn a_segment_from_a_time_when_the_clock_was_ahead_is_sealed_once_it_is_right_again() {
    let directory = tempfile::tempdir().unwrap();
    let hour = 3_600_000_000;
    let options = WriteOptions { segment_age_max: hour, ..WriteOptions::new("casper", [7; 16], 8_760 * hour) };
    let Opened { mut writer, .. } = Writer::open(storage(&directory), options).unwrap();
    let store = |received: u64| {
        writer.append(&Event { received, ..event("{}", 1) }).unwrap();
        writer.commit().unwrap();
        let files = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "segment")).count()
    };
    assert_eq!([8_760 * hour, hour, 2 * hour - 1, hour / 2, 3 * hour].map(store), [1, 2, 2, 2, 3]);
}

/// A folder in which a sync of a segment panics, once.
struct Panicking {
    directory: Directory,
    is_due: Arc<AtomicBool>,
}

struct PanickingFile {
    file: Arc<dyn File>,
    is_due: Arc<AtomicBool>,
}

impl Layer for Panicking {
    fn below(&self) -> &dyn Storage {
        &self.directory
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = Storage::create(&self.directory, name)?;
        Ok(Arc::new(PanickingFile { file, is_due: Arc::clone(&self.is_due) }))
    }
}

impl FileLayer for PanickingFile {
    fn below(&self) -> &dyn File {
        self.file.as_ref()
    }

    fn sync(&self) -> io::Result<()> {
        assert!(!self.is_due.swap(false, Ordering::Relaxed), "a bug in the middle of a commit");
        self.file.sync()
    }
}

#[test]
fn a_panic_in_the_middle_of_a_commit_poisons_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let is_due = Arc::new(AtomicBool::new(false));
    let storage = Panicking { directory: Directory::at(directory.path()), is_due: Arc::clone(&is_due) };
    let Opened { mut writer, log, .. } = Writer::open(Arc::new(storage), options()).unwrap();
    append(&mut writer, 0..10);
    let head = log.head();
    let appended = writer.append(&event(&payload(10), 10)).unwrap();
    is_due.store(true, Ordering::Relaxed);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.commit()));
    assert!(caught.is_err() && writer.is_poisoned());
    assert!(matches!(writer.commit(), Err(Error::Poisoned)));
    assert_eq!(log.head(), head, "nothing became visible");
    drop(writer);
    let Opened { writer, .. } = Writer::reopen(&log, options()).unwrap();
    assert!(writer.next_sequence() >= appended);
    assert_eq!(log.head().next_sequence, writer.next_sequence());
}

#[test]
fn the_example_that_follows_a_log_prints_every_event_also_of_a_log_that_it_continues() {
    let directory = tempfile::tempdir().unwrap();
    for (begins, first) in [("a new log", 0), ("an older log, continued", 5)] {
        let mut out = Vec::new();
        follow::run(directory.path(), &mut out).unwrap();
        let events: String = (0..5).map(|number| format!("{} Tick: {{\"tick\":{number}}}\n", first + number)).collect();
        assert_eq!(String::from_utf8(out).unwrap(), format!("{begins}\n{events}"));
    }
}

#[test]
fn the_example_that_reads_a_range_names_what_is_damaged_in_it() {
    let directory = tempfile::tempdir().unwrap();
    range::damaged_log(directory.path()).unwrap();
    let mut out = Vec::new();
    range::run(directory.path(), 3..12, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..3], ["a log of example, from 0 to before 20", "3: {\"number\":3}", "4: {\"number\":4}"]);
    assert!(lines[3].starts_with("5 to 9: stored and damaged: 00000000000000000000.segment at byte "), "{}", lines[3]);
    assert_eq!(lines[4..], ["10: {\"number\":10}", "11: {\"number\":11}", "4 events, 5 missing"]);
}
