//! What the identity index costs: bytes on disk per entry, time per event on the hot path and in its writer, look-ups of
//! old events, and memory.
//!
//! ```text
//! cargo bench --bench identity              # 1 and 20 million entries
//! cargo bench --bench identity -- 5000000   # another number
//! ```
//!
//! The mix is a Casper network's: of a height's 120 events 100 are finality signatures, which arrive interleaved with
//! those of the two heights before; then accepted and processed transactions with timestamps that nearly increase, a
//! block, now and then an expired transaction (which tells no time), a step and a fault per era.

#![expect(clippy::expect_used, reason = "a benchmark ends at the first error")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sidecar::engine::dialect::Identity;
use sidecar::engine::ingest::identity::{
    self, Durable, Fingerprint, IdentityIndex, Known, LogPosition, Opened, Options, Room,
};

/// The mean size of these events on the wire; the disk target is stated per raw byte.
const RAW_BYTES_PER_EVENT: f64 = 765.0;
/// Events between two commits of the log.
const COMMIT_EVENTS: usize = 1_000;
const PROCESS: ClockId = ClockId::ProcessCPUTime;
const THREAD: ClockId = ClockId::ThreadCPUTime;
const LOOK_UPS: u64 = 200_000;
/// How often a process that writes the index is killed, and the environment variable that makes one.
const KILLS: u64 = 10;
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
    let counts: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    for entries in if counts.is_empty() { vec![1_000_000, 20_000_000] } else { counts } {
        measure(entries);
    }
}

/// The index of a log whose chain never changes.
fn open(path: &Path, head: Option<u64>) -> identity::Result<Opened> {
    let log = LogPosition { id: [7; 16], head, oldest: 0, chain_after: &|_| Ok(Some([7; 32])) };
    IdentityIndex::open(path, log, Options::default())
}

fn durable(sequence: u64) -> Durable {
    Durable { sequence, chain: Some([7; 32]) }
}

fn measure(entries: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("identity.redb");
    let Opened { mut index, .. } = open(&path, None).expect("a new index opens");
    println!("{entries} entries");

    let mut generating = Duration::ZERO;
    let (wall, process_cpu, thread_cpu) = (Instant::now(), cpu_time(PROCESS), cpu_time(THREAD));
    let mut sequence = 0;
    let mut stories = Stories::default();
    let mut batch = Vec::new();
    while sequence < entries {
        let from = cpu_time(THREAD);
        batch.clear();
        while batch.len() < COMMIT_EVENTS {
            stories.next_height(&mut batch);
        }
        generating += cpu_time(THREAD) - from;
        let mut room = Room::Free;
        for (identity, fingerprint) in &batch {
            assert_eq!(index.check(identity, *fingerprint).expect("check"), Known::New);
            room = index.insert(identity, *fingerprint, sequence).expect("insert");
            sequence += 1;
        }
        index.committed(durable(sequence - 1)).expect("committed");
        if room == Room::Full {
            assert_eq!(index.wait_for_room().expect("wait"), Room::Free);
        }
    }
    index.flush().expect("flush");
    let (wall, process_cpu, thread_cpu) =
        (wall.elapsed(), cpu_time(PROCESS) - process_cpu, cpu_time(THREAD) - thread_cpu);
    let entries = sequence;
    let each = |time: Duration| time.as_nanos() as f64 / entries as f64;
    println!("  check + insert          {:>9.0} ns of cpu each", each(thread_cpu - generating));
    println!("  writer                  {:>9.0} ns of cpu each", each(process_cpu - thread_cpu));
    println!("  rate                    {:>9.0} entries/s", entries as f64 / (wall - generating).as_secs_f64());
    print_size("right after ingest", &path, entries);
    println!("  resident                {:>9.1} MiB, at most {:.1}", status_mib("VmRSS"), status_mib("VmHWM"));

    let heights = entries / 120;
    let time_look_ups = |name: &str, index: &mut IdentityIndex, height: &dyn Fn(u64) -> u64, expected: Known| {
        let from = Instant::now();
        for number in 0..LOOK_UPS {
            let identity = match expected {
                Known::New => identity(SIGNATURE, height(number), number, u64::MAX),
                _ => signature(height(number), number % 100),
            };
            assert_eq!(index.check(&identity, fingerprint_of(&identity)).expect("check"), expected);
        }
        println!("  {name:<24}{:>9.0} look-ups/s", LOOK_UPS as f64 / from.elapsed().as_secs_f64());
    };
    time_look_ups("old, in order", &mut index, &|number| number / 100, Known::Same);
    time_look_ups("old, anywhere", &mut index, &|number| scramble(number) % (heights - 3_000).max(1), Known::Same);
    time_look_ups("old, not there", &mut index, &|number| scramble(number) % (heights - 3_000).max(1), Known::New);
    drop(index);
    print_size("closed", &path, entries);

    let from = Instant::now();
    let opened = open(&path, Some(entries)).expect("it opens again");
    println!("  open                    {:>9.1} ms", from.elapsed().as_secs_f64() * 1e3);
    assert_eq!((opened.rebuild, opened.checkpoint), (None, Some(entries - 1)));
    drop(opened.index);

    let mut slowest = Duration::ZERO;
    for run in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .env(GROW, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts itself");
        // The child says when it has opened the index; from then on it commits all the time.
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut String::new()).expect("a line");
        std::thread::sleep(Duration::from_millis(100 + 37 * run));
        child.kill().expect("kill");
        child.wait().expect("wait");
        let from = Instant::now();
        let opened = open(&path, Some(u64::MAX)).expect("it opens again");
        slowest = slowest.max(from.elapsed());
        assert_eq!(opened.rebuild, None);
    }
    println!("  open after kill -9      {:>9.1} ms at most, of {KILLS}", slowest.as_secs_f64() * 1e3);
}

/// Commits batch after batch. What sequences it uses does not matter here.
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
        "  {when:<24}{allocated:>9.2} bytes on disk each ({:.4} of raw), {:.2} in length",
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
