//! What the views cost: bytes on disk, events per second when they follow a log that is written and when they are rebuilt,
//! and look-ups.
//!
//! ```text
//! cargo bench --bench views                             # a million events
//! VIEWS_BENCH_EVENTS=10000000 cargo bench --bench views
//! ```
//!
//! The events are a Casper network's: 83 % finality signatures of 100 validators, 765 bytes each on average. A second log
//! holds its transactions only, which is where views are largest. Sizes are printed first.

#![allow(missing_docs, reason = "criterion makes a public function")]
#![expect(clippy::expect_used, reason = "a benchmark ends at the first error")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sidecar::casper::event::{BLOCK_ADDED, FINALITY_SIGNATURE, KINDS, TRANSACTION_ACCEPTED, TRANSACTION_PROCESSED};
use sidecar::casper::keys::{Keys, Stage, TransactionType, keys};
use sidecar::casper::view::{self, CasperViews};
use sidecar::engine::view::Options;
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{
    ApiVersion, Durability, Event, Head, Kind, Log, Opened, Read, ReadOptions, Sequence, WriteOptions, Writer,
};
use sidecar_test_support::fast::EndlessStory;
use tempfile::TempDir;
use tokio::sync::watch;

const COMMIT_EVENTS: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(3600);

fn views(criterion: &mut Criterion) {
    let events = std::env::var("VIEWS_BENCH_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let story = EndlessStory::render(1, 200);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let all = Made::new("all kinds", &runtime, &story, events, &directory.path().join("all"), |_| true);
    let is_transaction = |kind| kind == TRANSACTION_ACCEPTED || kind == TRANSACTION_PROCESSED;
    let path = directory.path().join("transactions");
    let transactions = Made::new("transactions", &runtime, &story, events / 5, &path, is_transaction);

    let mut group = criterion.benchmark_group("views, rebuild");
    group.sample_size(10);
    for made in [&all, &transactions] {
        group.throughput(Throughput::Elements(made.events()));
        group.bench_function(made.name, |bencher| bencher.iter(|| made.rebuild()));
    }
    group.finish();

    // Until the last event is visible; with views, until it can be looked up.
    let mut group = criterion.benchmark_group("views, writing a log");
    let written = events / 5;
    let folder = || tempfile::tempdir().expect("a temporary directory");
    group.sample_size(10).throughput(Throughput::Elements(written));
    group.bench_function("alone", |bencher| {
        let alone = |folder: TempDir| {
            write(&story, written, &folder.path().join("log"), &|_| true, |_| None);
            folder
        };
        bencher.iter_batched(folder, alone, BatchSize::PerIteration);
    });
    group.bench_function("with views", |bencher| {
        let followed = |folder: TempDir| {
            follow(&runtime, &story, written, folder.path(), &|_| true);
            folder
        };
        bencher.iter_batched(folder, followed, BatchSize::PerIteration);
    });
    group.finish();

    look_up(criterion, &runtime, &all);
}

/// A log, its views' file, and how many bytes its payloads have.
struct Made {
    name: &'static str,
    log: Log,
    options: Options,
    raw_bytes: u64,
}

impl Made {
    /// Writes a log with views that follow it.
    fn new(
        name: &'static str,
        runtime: &tokio::runtime::Runtime,
        story: &EndlessStory,
        events: u64,
        path: &Path,
        is_wanted: impl Fn(Kind) -> bool,
    ) -> Self {
        let (log, options, raw_bytes) = follow(runtime, story, events, path, &is_wanted);
        let made = Self { name, log, options, raw_bytes };
        println!("{events} events, {name}");
        made.print_size("after following");
        made.rebuild();
        made.print_size("after a rebuild");
        made
    }

    fn events(&self) -> u64 {
        self.log.head().next_sequence
    }

    fn rebuild(&self) {
        view::rebuild(&self.options, &self.log, &mut |_| ()).expect("a rebuild");
    }

    fn print_size(&self, when: &str) {
        let metadata = self.options.path.metadata().expect("the views' file");
        let on_disk = metadata.blocks() * 512;
        println!(
            "  {when}: {:.1} MB on disk, {:.4} of the raw bytes ({:.1} MB long)",
            on_disk as f64 / 1e6,
            on_disk as f64 / self.raw_bytes as f64,
            metadata.len() as f64 / 1e6,
        );
    }
}

/// Writes a log while views follow it, until they have caught up.
fn follow(
    runtime: &tokio::runtime::Runtime,
    story: &EndlessStory,
    events: u64,
    path: &Path,
    is_wanted: &impl Fn(Kind) -> bool,
) -> (Log, Options, u64) {
    let options = Options::new(path.join("views").join("casper.redb"), 16 << 20);
    let mut started = None;
    let (log, raw_bytes) = write(story, events, &path.join("log"), is_wanted, |log| {
        let (committed, receiver) = watch::channel(log.head());
        started = Some(CasperViews::open(options.clone(), log.clone(), receiver).expect("the views' thread starts"));
        Some(committed)
    });
    let views = started.expect("the log was begun");
    assert!(runtime.block_on(views.views().caught_up_to(events, PATIENCE)));
    runtime.block_on(views.views().ended());
    (log, options, raw_bytes)
}

fn look_up(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, made: &Made) {
    let (committed, receiver) = watch::channel(made.log.head());
    let views = CasperViews::open(made.options.clone(), made.log.clone(), receiver).expect("the views' thread starts");
    let events = made.events();
    assert!(runtime.block_on(views.views().caught_up_to(events, PATIENCE)));
    assert_eq!(views.views().counters().rebuilds.get(), 0);
    for (place, from) in [("in the newest 100,000", events.saturating_sub(100_000)), ("anywhere", 0)] {
        let known = Known::sample(&made.log, from);
        let mut group = criterion.benchmark_group(format!("views, look-up {place}"));
        group.throughput(Throughput::Elements(1));
        let mut time = |name: &str, is_right: &dyn Fn(u64) -> bool| {
            let mut number = 0;
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    number += 1;
                    assert!(is_right(scramble(number)), "{name}");
                });
            });
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
            views.transaction(Stage::Processed, deploy, &hash).expect("found").is_none()
        });
        time("signatures of a block", &|n| views.signatures(&pick(n, &known.signed)).expect("found").len() >= 50);
        time("latest block", &|_| views.latest_block().expect("found").is_some());
        group.finish();
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

/// Writes a log in commits of [`COMMIT_EVENTS`], each of which is sent to the channel that `follow` returns; returns the log
/// and the bytes of its payloads.
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

fn scramble(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

criterion_group!(benches, views);
criterion_main!(benches);
