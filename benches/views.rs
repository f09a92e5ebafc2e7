//! What the views cost: bytes on disk, events per second when they follow a log that is written and when they are made
//! anew, and look-ups.
//!
//! ```text
//! cargo bench --bench views               # 1 million events
//! cargo bench --bench views -- 10000000   # another number
//! ```
//!
//! The events are a Casper network's: 83 % finality signatures of 100 validators, 765 bytes each on average. A second log
//! holds its transactions only, which is where views are largest.

#![expect(clippy::expect_used, reason = "a benchmark ends at the first error")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sidecar::casper::event::{BLOCK_ADDED, FINALITY_SIGNATURE, KINDS, TRANSACTION_ACCEPTED, TRANSACTION_PROCESSED};
use sidecar::casper::keys::{Keys, Stage, TransactionType, keys};
use sidecar::casper::view::{self, CasperViews};
use sidecar::engine::view::Options;
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{
    ApiVersion, Durability, Event, Head, Kind, Log, Opened, Read, ReadOptions, Sequence, WriteOptions, Writer,
};
use sidecar_test_support::fast::EndlessStory;
use tokio::sync::watch;

const COMMIT_EVENTS: u64 = 1_000;
const LOOK_UPS: u64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(3600);

fn main() {
    let events = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let story = EndlessStory::render(1, 200);
    let directory = tempfile::tempdir().expect("a temporary directory");

    println!("{events} events of all kinds");
    let all = follow(&runtime, &story, events, &directory.path().join("all"), |_| true);
    rebuild(&all);
    look_up(&runtime, &all);
    let transactions = events / 5;
    println!("{transactions} events of transactions only");
    let path = directory.path().join("transactions");
    let is_wanted = |kind| kind == TRANSACTION_ACCEPTED || kind == TRANSACTION_PROCESSED;
    rebuild(&follow(&runtime, &story, transactions, &path, is_wanted));
}

/// A log, its views' file, and how many bytes its payloads have.
struct Made {
    log: Log,
    options: Options,
    raw_bytes: u64,
}

/// Writes a log twice, without and with views that follow it.
fn follow(
    runtime: &tokio::runtime::Runtime,
    story: &EndlessStory,
    events: u64,
    path: &Path,
    is_wanted: impl Fn(Kind) -> bool,
) -> Made {
    let alone = Instant::now();
    write(story, events, &path.join("alone"), &is_wanted, |_| None);
    let alone = alone.elapsed();

    let views_path = path.join("views").join("casper.redb");
    let options = Options::new(views_path, 16 << 20);
    let mut started = None;
    let (begun, cpu) = (Instant::now(), cpu_time());
    let (log, raw_bytes) = write(story, events, &path.join("log"), &is_wanted, |log| {
        let (committed, receiver) = watch::channel(log.head());
        started = Some(CasperViews::open(options.clone(), log.clone(), receiver).expect("the views' thread starts"));
        Some(committed)
    });
    let written = begun.elapsed();
    let views = started.expect("the log was begun");
    assert!(runtime.block_on(views.views().caught_up_to(events, PATIENCE)));
    let caught_up = begun.elapsed();
    runtime.block_on(views.views().ended());
    let rate = |time: Duration| events as f64 / time.as_secs_f64();
    println!("  writing the log alone     {:>10.0} events/s", rate(alone));
    println!("  with views following      {:>10.0} events/s, {:.2} of it", rate(written), rate(written) / rate(alone));
    println!("  views                     {:>10.0} events/s", rate(caught_up));
    println!("  behind at the end         {:>10.1} ms", (caught_up - written).as_secs_f64() * 1e3);
    println!("  commits                   {:>10}", views.views().counters().commits.get());
    println!(
        "  cpu, log and views        {:>10.2} us an event",
        (cpu_time() - cpu).as_secs_f64() * 1e6 / events as f64
    );
    print_size("size after following", &options.path, raw_bytes);
    Made { log, options, raw_bytes }
}

fn rebuild(made: &Made) {
    let (begun, cpu) = (Instant::now(), cpu_time());
    view::rebuild(&made.options, &made.log, &mut |_| ()).expect("a rebuild");
    let (time, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let events = made.log.head().next_sequence as f64;
    println!("  rebuild                   {:>10.0} events/s", events / time.as_secs_f64());
    println!("  cpu                       {:>10.2} us an event", cpu.as_secs_f64() * 1e6 / events);
    print_size("size after rebuild", &made.options.path, made.raw_bytes);
}

fn look_up(runtime: &tokio::runtime::Runtime, made: &Made) {
    let (committed, receiver) = watch::channel(made.log.head());
    let begun = Instant::now();
    let views = CasperViews::open(made.options.clone(), made.log.clone(), receiver).expect("the views' thread starts");
    let events = made.log.head().next_sequence;
    assert!(runtime.block_on(views.views().caught_up_to(events, PATIENCE)));
    println!("  open                      {:>10.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    assert_eq!(views.views().counters().rebuilds.get(), 0);
    for (place, from) in [("newest 100,000", events.saturating_sub(100_000)), ("anywhere", 0)] {
        let known = Known::sample(&made.log, from);
        let time = |name: &str, look: &dyn Fn(u64) -> bool| {
            let cpu = cpu_time();
            let found = (0..LOOK_UPS).filter(|number| look(scramble(*number))).count() as u64;
            assert!(found == LOOK_UPS || found == 0, "{name}: {found}");
            let each = (cpu_time() - cpu).as_secs_f64() * 1e6 / LOOK_UPS as f64;
            println!("  {name:<25} {each:>10.2} us of cpu, {place}");
        };
        let pick = |number: u64, of: &[[u8; 32]]| of.get(number as usize % of.len()).copied().expect("a key");
        let deploy = TransactionType::Deploy;
        time("block by hash", &|n| views.block_by_hash(&pick(n, &known.blocks)).expect("found").is_some());
        time("transaction", &|n| {
            let hash = pick(n, &known.deploys);
            views.transaction(Stage::Processed, deploy, &hash).expect("found").is_some()
        });
        time("transaction, not there", &|n| {
            let hash = *blake3::hash(&n.to_le_bytes()).as_bytes();
            views.transaction(Stage::Processed, deploy, &hash).expect("found").is_some()
        });
        time("signatures of a block", &|n| views.signatures(&pick(n, &known.signed)).expect("found").len() >= 50);
        time("latest block", &|_| views.latest_block().expect("found").is_some());
    }
    drop(committed);
    runtime.block_on(views.views().ended());
}

/// Keys that the log holds.
#[derive(Default)]
struct Known {
    blocks: Vec<[u8; 32]>,
    deploys: Vec<[u8; 32]>,
    signed: Vec<[u8; 32]>,
}

impl Known {
    /// Out of about a hundred of the log's blocks from a sequence on.
    fn sample(log: &Log, from: Sequence) -> Self {
        let (mut known, mut next) = (Self::default(), from);
        let head = log.head().next_sequence;
        while next < head {
            let Ok(Read::Events { block, .. }) = log.read(next) else { break };
            for row in block.rows().filter(|row| row.kind() != FINALITY_SIGNATURE || row.sequence() % 50 == 0) {
                let payload = row.payload();
                known.add(keys(row.kind(), std::str::from_utf8(&payload).expect("a payload is UTF-8")));
            }
            next = block.end_sequence() + (head - from) / 100;
        }
        // A block of which half the signatures are not in the log any more, or yet, is at the ends.
        let ends = known.signed.len() / 20;
        known.signed.truncate(known.signed.len() - ends);
        known.signed.drain(..ends);
        known
    }

    fn add(&mut self, keys: Option<Keys<'_>>) {
        let (list, hash) = match keys {
            Some(Keys::Block { hash, .. }) => (&mut self.blocks, hash),
            Some(Keys::Signature { block_hash, .. }) => (&mut self.signed, block_hash),
            Some(Keys::Transaction {
                stage: Stage::Processed,
                transaction_type: TransactionType::Deploy,
                hash,
                ..
            }) => (&mut self.deploys, hash),
            _ => return,
        };
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash.as_ref(), &mut bytes).expect("a hash is hex digits");
        list.push(bytes);
    }
}

/// Writes a log in commits of [`COMMIT_EVENTS`], telling of each whoever `follow` wants to know; returns it and the bytes
/// of its payloads.
fn write(
    story: &EndlessStory,
    events: u64,
    path: &PathBuf,
    is_wanted: &impl Fn(Kind) -> bool,
    follow: impl FnOnce(&Log) -> Option<watch::Sender<Head>>,
) -> (Log, u64) {
    let storage = Arc::new(Directory::create(path).expect("a directory"));
    let options = WriteOptions {
        durability: Durability::Os,
        read: ReadOptions { cache_bytes: 12 << 20 },
        ..WriteOptions::new("casper", [7; 16], 1)
    };
    let Opened { mut writer, log, .. } = Writer::open(storage, options).expect("a new log");
    let committed = follow(&log);
    let (mut next_in_story, mut piece, mut raw_bytes) = (0, Vec::new(), 0);
    while writer.next_sequence() < events {
        piece.clear();
        next_in_story += story.append_frames(next_in_story, u64::MAX, 1 << 20, &mut piece);
        let text = std::str::from_utf8(&piece).expect("frames are UTF-8");
        for payload in text.lines().filter_map(|line| line.strip_prefix("data:")) {
            let kind = kind_of(payload);
            if !is_wanted(kind) || writer.next_sequence() >= events {
                continue;
            }
            let event = Event {
                kind,
                name: "",
                source: "127.0.0.1:9999",
                network: "casper-test",
                api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
                upstream_id: Some(writer.next_sequence()),
                received: 1,
                payload,
            };
            writer.append(&event).expect("append");
            raw_bytes += payload.len() as u64;
            if writer.next_sequence() % COMMIT_EVENTS == 0 {
                let head = writer.commit().expect("commit");
                committed.as_ref().map(|committed| committed.send_replace(head));
            }
        }
    }
    let head = writer.commit().expect("commit");
    committed.as_ref().map(|committed| committed.send_replace(head));
    writer.close().expect("close");
    (log, raw_bytes)
}

fn kind_of(payload: &str) -> Kind {
    let name = payload.trim_start_matches("{\"").split('"').next().unwrap_or_default();
    KINDS.iter().find(|(_, known)| *known == name).map_or(BLOCK_ADDED, |(kind, _)| *kind)
}

fn print_size(name: &str, path: &Path, raw_bytes: u64) {
    let metadata = path.metadata().expect("the views' file");
    let on_disk = metadata.blocks() * 512;
    println!(
        "  {name:<25} {:>10.1} MB on disk, {:.4} of the raw bytes ({:.1} MB long)",
        on_disk as f64 / 1e6,
        on_disk as f64 / raw_bytes as f64,
        metadata.len() as f64 / 1e6,
    );
}

fn scramble(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
