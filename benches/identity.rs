//! What the identity index costs: bytes on disk per entry, time per event on the hot path, look-ups of old events, opening,
//! and memory.
//!
//! ```text
//! cargo bench --bench identity                                # after a million entries
//! IDENTITY_BENCH_ENTRIES=20000000 cargo bench --bench identity
//! ```
//!
//! Sizes, memory and the writer's time are printed first. The mix is a Casper network's: of a height's 120 events 100 are
//! finality signatures, which arrive interleaved with those of the two heights before; then accepted and processed
//! transactions with timestamps that nearly increase, a block, now and then an expired transaction (which has no time), a
//! step and a fault per era.

#![expect(clippy::expect_used, reason = "a benchmark ends at the first error")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};
use sidecar::engine::dialect::Identity;
use sidecar::engine::ingest::identity::{
    self, Durable, Fingerprint, IdentityIndex, Known, LogPosition, Opened, Options, Room,
};

/// The mean size of these events on the wire; the disk target is stated per raw byte.
const RAW_BYTES_PER_EVENT: f64 = 765.0;
/// Events between two commits of the log, in whole heights.
const COMMIT_EVENTS: usize = 1_000;
const PROCESS: ClockId = ClockId::ProcessCPUTime;
const THREAD: ClockId = ClockId::ThreadCPUTime;
/// The environment variables of the number of entries, and of a process that writes the index until it is killed.
const ENTRIES: &str = "IDENTITY_BENCH_ENTRIES";
const GROW: &str = "IDENTITY_BENCH_GROW";

const BLOCK: u8 = 1;
const ACCEPTED: u8 = 2;
const PROCESSED: u8 = 3;
const EXPIRED: u8 = 4;
const SIGNATURE: u8 = 5;
const FAULT: u8 = 6;
const STEP: u8 = 7;

fn main() {
    if let Some(path) = std::env::var_os(GROW) {
        return grow_until_killed(Path::new(&path));
    }
    let mut criterion = Criterion::default().configure_from_args();
    let entries = std::env::var(ENTRIES).ok().and_then(|entries| entries.parse().ok()).unwrap_or(1_000_000);
    measure(&mut criterion, entries);
    criterion.final_summary();
}

/// The index of a log whose chain never changes.
fn open(path: &Path, head: Option<u64>) -> identity::Result<Opened> {
    let log = LogPosition { id: [7; 16], rule: "", head, oldest: 0, chain_after: &|_| Ok(Some([7; 32])) };
    IdentityIndex::open(path, log, Options::default())
}

fn durable(sequence: u64) -> Durable {
    Durable { sequence, chain: Some([7; 32]) }
}

fn measure(criterion: &mut Criterion, entries: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("identity.redb");
    let mut growing = Growing::new(&path);
    let (process_cpu, thread_cpu) = (cpu_time(PROCESS), cpu_time(THREAD));
    while growing.sequence < entries {
        growing.commit();
    }
    growing.index.flush().expect("flush");
    let (process_cpu, thread_cpu) = (cpu_time(PROCESS) - process_cpu, cpu_time(THREAD) - thread_cpu);
    let entries = growing.sequence;
    println!("{entries} entries");
    println!("  writer: {:.0} ns of CPU each", (process_cpu - thread_cpu).as_nanos() as f64 / entries as f64);
    print_size("right after ingest", &path, entries);
    println!("  resident: {:.1} MiB, at most {:.1}", status_mib("VmRSS"), status_mib("VmHWM"));

    let mut group = criterion.benchmark_group("identity");
    group.throughput(Throughput::Elements(1));
    let heights = entries / 120;
    let anywhere = |number: u64| scramble(number) % heights.saturating_sub(3_000).max(1);
    let index = &mut growing.index;
    let mut look_up = |name: &str, expected: Known, identity: &dyn Fn(u64) -> Identity| {
        let mut number = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                number += 1;
                let identity = identity(number);
                assert_eq!(index.check(&identity, fingerprint_of(&identity)).expect("check"), expected);
            });
        });
    };
    look_up("look-up, old, in order", Known::Same, &|number| signature(number / 100 % heights, number % 100));
    look_up("look-up, old, anywhere", Known::Same, &|number| signature(anywhere(number), number % 100));
    look_up("look-up, old, not there", Known::New, &|number| identity(SIGNATURE, anywhere(number), number, u64::MAX));
    group.bench_function("check and insert", |bencher| {
        // A commit has a few more events than asked for, so the time is scaled to the number of events asked for.
        bencher.iter_custom(|events| {
            let (mut time, from) = (Duration::ZERO, growing.sequence);
            while growing.sequence < from + events {
                time += growing.commit();
            }
            time.mul_f64(events as f64 / (growing.sequence - from) as f64)
        });
    });
    group.finish();
    let entries = growing.sequence;
    // As a clean end does, before which the newest entries are only in memory.
    growing.index.flush().expect("flush");
    drop(growing);
    print_size("closed", &path, entries);

    let mut group = criterion.benchmark_group("identity, opening");
    group.sample_size(10);
    group.bench_function("after a clean end", |bencher| {
        bencher.iter_custom(|openings| (0..openings).map(|_| time_to_open(&path, entries)).sum());
    });
    group.bench_function("after kill -9", |bencher| {
        bencher.iter_custom(|kills| (0..kills).map(|kill| time_to_open_after_kill(&path, kill)).sum());
    });
    group.finish();
}

/// Closes the index afterwards: a file is open once at a time.
fn time_to_open(path: &Path, entries: u64) -> Duration {
    let from = Instant::now();
    let opened = open(path, Some(entries)).expect("it opens again");
    let time = from.elapsed();
    assert_eq!((opened.rebuild, opened.checkpoint), (None, Some(entries - 1)));
    time
}

fn time_to_open_after_kill(path: &Path, kill: u64) -> Duration {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(GROW, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts itself");
    // The child reports that it has opened the index; from then on it commits all the time.
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut String::new()).expect("a line");
    std::thread::sleep(Duration::from_millis(100 + 37 * (kill % 10)));
    child.kill().expect("kill");
    child.wait().expect("wait");
    let from = Instant::now();
    let opened = open(path, Some(u64::MAX)).expect("it opens again");
    let time = from.elapsed();
    assert_eq!(opened.rebuild, None);
    time
}

/// An index into which a network's events come, commit by commit.
struct Growing {
    index: IdentityIndex,
    sequence: u64,
    stories: Stories,
    batch: Vec<(Identity, Fingerprint)>,
}

impl Growing {
    fn new(path: &Path) -> Self {
        let Opened { index, .. } = open(path, None).expect("a new index opens");
        Self { index, sequence: 0, stories: Stories::default(), batch: Vec::new() }
    }

    /// Adds the events of a commit, and returns the time it took without making them up.
    fn commit(&mut self) -> Duration {
        self.batch.clear();
        while self.batch.len() < COMMIT_EVENTS {
            self.stories.next_height(&mut self.batch);
        }
        let from = Instant::now();
        let mut room = Room::Free;
        for (identity, fingerprint) in &self.batch {
            assert_eq!(self.index.check(identity, *fingerprint).expect("check"), Known::New);
            room = self.index.insert(identity, *fingerprint, self.sequence).expect("insert");
            self.sequence += 1;
        }
        self.index.committed(durable(self.sequence - 1)).expect("committed");
        if room == Room::Full {
            assert_eq!(self.index.wait_for_room().expect("wait"), Room::Free);
        }
        from.elapsed()
    }
}

/// Commits batch after batch. Which sequences it uses does not matter here.
fn grow_until_killed(path: &Path) {
    let Opened { mut index, checkpoint, .. } = open(path, Some(u64::MAX)).expect("it opens");
    println!("opened");
    let mut stories = Stories { height: 1 << 40, late: Vec::new() };
    let mut batch = Vec::new();
    let mut sequence = checkpoint.expect("something is stored") + 1;
    loop {
        batch.clear();
        stories.next_height(&mut batch);
        for (identity, fingerprint) in &batch {
            if index.insert(identity, *fingerprint, sequence).expect("insert") == Room::Full {
                index.committed(durable(sequence)).expect("committed");
                assert_eq!(index.wait_for_room().expect("wait"), Room::Free);
            }
            sequence += 1;
        }
        index.committed(durable(sequence - 1)).expect("committed");
    }
}

fn print_size(when: &str, path: &Path, entries: u64) {
    let metadata = fs::metadata(path).expect("the index is there");
    let allocated = (metadata.blocks() * 512) as f64 / entries as f64;
    println!(
        "  {when}: {allocated:.2} bytes on disk each ({:.4} of raw), {:.2} in length",
        allocated / RAW_BYTES_PER_EVENT,
        metadata.len() as f64 / entries as f64
    );
}

/// A network's events, height by height.
#[derive(Default)]
struct Stories {
    height: u64,
    /// Signatures of the last heights that are still to come.
    late: Vec<(u64, u64)>,
}

impl Stories {
    fn next_height(&mut self, out: &mut Vec<(Identity, Fingerprint)>) {
        let height = self.height;
        self.height += 1;
        let now_ms = 1_700_000_000_000 + height * 8_000;
        let mut push = |identity: Identity| out.push((identity, fingerprint_of(&identity)));
        push(identity(BLOCK, height, 0, 0));
        for number in 0..9 {
            let time = now_ms + scramble(height * 31 + number) % 10_000;
            push(identity(ACCEPTED, time, height, number));
            push(identity(PROCESSED, time, height, number));
        }
        if height.is_multiple_of(2) {
            push(identity(EXPIRED, 0, height, 0));
        }
        if height.is_multiple_of(300) {
            push(identity(STEP, height / 300, 0, 0));
            push(identity(FAULT, height / 300, 0, 0));
        }
        for (height, validator) in std::mem::take(&mut self.late) {
            push(signature(height, validator));
        }
        for validator in 0..100 {
            // One in eight comes after the next block.
            if scramble(height * 100 + validator).is_multiple_of(8) {
                self.late.push((height, validator));
            } else {
                push(signature(height, validator));
            }
        }
    }
}

fn signature(height: u64, validator: u64) -> Identity {
    identity(SIGNATURE, height, height, validator)
}

fn identity(class: u8, time: u64, key: u64, more_key: u64) -> Identity {
    let high = scramble(scramble(key) ^ more_key.rotate_left(32) ^ u64::from(class));
    let hash = u128::from(high) << 64 | u128::from(scramble(high));
    Identity { class, time, hash: hash.to_le_bytes() }
}

fn fingerprint_of(identity: &Identity) -> Fingerprint {
    Fingerprint::new(crc32fast::hash(&identity.hash), false)
}

/// SplitMix64's finish: even bits from any number.
fn scramble(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn status_mib(key: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let kib = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}
