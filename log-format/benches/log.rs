//! What each step of the log's hot path costs, with events as a Casper node sends them: 83 % finality signatures.
//!
//! `cargo bench -p sidecar-log-format`; the sizes of what is stored are printed first.

#![allow(missing_docs, reason = "criterion makes a public function")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a benchmark")]

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidecar_log_format::{
    ApiVersion, CHAIN_START, Durability, Event, Kind, Log, Opened, Read, ReadOptions, WriteOptions, Writer,
    next_chain_value,
    storage::{Directory, Storage},
};

const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 0 };
const STARTED: u64 = 1_767_225_600_000_000;
const EVENTS: usize = 50_000;
const SOURCES: [&str; 3] = ["10.0.0.1:9999", "10.0.0.2:9999", "10.0.0.3:9999"];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn hex(&mut self, bytes: usize) -> String {
        (0..bytes.div_ceil(8)).map(|_| format!("{:016x}", self.next())).collect::<String>()[..bytes * 2].to_owned()
    }
}

/// Blocks of 100 validators: a finality signature from each, and what stands between them.
fn events() -> Vec<(Kind, String)> {
    let mut random = Random(42);
    let keys: Vec<_> = (0..100).map(|_| format!("01{}", random.hex(32))).collect();
    let chain_name_hash = random.hex(32);
    let mut events = Vec::with_capacity(EVENTS);
    let mut height = 2_000_000;
    while events.len() < EVENTS {
        let block_hash = random.hex(32);
        height += 1;
        for key in &keys {
            events.push((Kind(6), format!(
                r#"{{"FinalitySignature":{{"V2":{{"block_hash":"{block_hash}","block_height":{height},"era_id":{},"chain_name_hash":"{chain_name_hash}","signature":"01{}","public_key":"{key}"}}}}}}"#,
                height / 100,
                random.hex(64)
            )));
        }
        for _ in 0..20 {
            // A transaction of about 2 KiB: hashes, keys and arguments.
            let arguments: Vec<_> = (0..6)
                .map(|number| {
                    format!(
                        r#"["argument_{number}",{{"cl_type":{{"ByteArray":32}},"bytes":"{}","parsed":"{}"}}]"#,
                        random.hex(32),
                        random.hex(32)
                    )
                })
                .collect();
            events.push((Kind(2), format!(
                r#"{{"TransactionAccepted":{{"Version1":{{"hash":"{}","payload":{{"initiator_addr":{{"PublicKey":"{}"}},"timestamp":"2026-01-01T00:00:00.000Z","ttl":"30m","chain_name":"casper","pricing_mode":{{"PaymentLimited":{{"payment_amount":{},"gas_price_tolerance":1,"standard_payment":true}}}},"fields":{{"args":{{"Named":[{}]}},"entry_point":"Transfer"}}}},"approvals":[{{"signer":"{}","signature":"01{}"}}]}}}}}}"#,
                random.hex(32), keys[(random.next() % 100) as usize], random.next() % 1_000_000, arguments.join(","),
                keys[(random.next() % 100) as usize], random.hex(64)
            )));
        }
    }
    events.truncate(EVENTS);
    events
}

fn append_all(writer: &mut Writer, events: &[(Kind, String)], per_commit: usize) {
    let mut random = Random(7);
    let mut received = STARTED;
    let mut ids = [1_000u64, 50_000, 2_000_000];
    for (number, (kind, payload)) in events.iter().enumerate() {
        let source = (random.next() % 3) as usize;
        ids[source] += 1 + random.next() % 3;
        received += random.next() % 12;
        let event = Event {
            kind: *kind,
            name: "",
            source: SOURCES[source],
            network: "casper",
            api_version: VERSION,
            upstream_id: Some(ids[source]),
            received,
            payload,
        };
        writer.append(&event).unwrap();
        if number % per_commit == per_commit - 1 {
            writer.commit().unwrap();
        }
    }
    writer.commit().unwrap();
}

fn open(directory: &tempfile::TempDir, durability: Durability) -> Opened {
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(directory.path()));
    let mut opened =
        Writer::open(storage, WriteOptions { durability, ..WriteOptions::new("casper", [1; 16], STARTED) }).unwrap();
    opened.writer.announce_version(VERSION, "", 0).unwrap();
    opened
}

fn stored_bytes(directory: &tempfile::TempDir) -> u64 {
    let files = std::fs::read_dir(directory.path()).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// Bytes of headers, tables and payloads of all blocks of events of a log of one segment (see FORMAT.md).
fn block_sizes(directory: &tempfile::TempDir) -> [usize; 3] {
    let bytes = std::fs::read(directory.path().join("00000000000000000000.segment")).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
    let mut sizes = [0; 3];
    while bytes.get(at..at + 4) == Some(b"SBLK") {
        let parts = [144, number(at + 72), number(at + 80)];
        if bytes[at + 4] == 1 {
            sizes.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        }
        at += parts.iter().sum::<usize>();
    }
    sizes
}

fn print_sizes(events: &[(Kind, String)]) {
    let raw: usize = events.iter().map(|(_, payload)| payload.len()).sum();
    println!("{} events of {} bytes on average", events.len(), raw / events.len());
    for (name, count, per_commit) in [("full blocks", events.len(), usize::MAX), ("one event per block", 2000, 1)] {
        let events = &events[..count];
        let raw: usize = events.iter().map(|(_, payload)| payload.len()).sum();
        let directory = tempfile::tempdir().unwrap();
        let Opened { mut writer, .. } = open(&directory, Durability::Os);
        append_all(&mut writer, events, per_commit);
        let sizes = block_sizes(&directory);
        writer.seal_now(0).unwrap();
        let total = stored_bytes(&directory);
        println!(
            "{name}: {:.4} of the raw bytes; per event {:.1} header, {:.2} table, {:.1} payload",
            total as f64 / raw as f64,
            sizes[0] as f64 / events.len() as f64,
            sizes[1] as f64 / events.len() as f64,
            sizes[2] as f64 / events.len() as f64,
        );
    }
}

fn benches(criterion: &mut Criterion) {
    let events = events();
    print_sizes(&events);
    let mut group = criterion.benchmark_group("log");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("chain", |bencher| {
        bencher.iter(|| {
            let mut chain = CHAIN_START;
            for (sequence, (kind, payload)) in events.iter().enumerate() {
                chain = next_chain_value(&chain, sequence as u64, *kind, VERSION, "casper", "Step", payload.as_bytes());
            }
            chain
        });
    });
    for (name, durability, per_commit) in [
        ("append, commits of 1,000, synced", Durability::Commit, 1000),
        ("append, commits of 1,000, not synced", Durability::Os, 1000),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    let directory = tempfile::tempdir().unwrap();
                    let opened = open(&directory, durability);
                    (directory, opened)
                },
                |(directory, mut opened)| {
                    append_all(&mut opened.writer, &events, per_commit);
                    (directory, opened)
                },
                criterion::BatchSize::PerIteration,
            );
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, .. } = open(&directory, Durability::Os);
    append_all(&mut writer, &events, usize::MAX);
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(directory.path()));
    let replay = |log: &Log| {
        let (mut next, mut bytes) = (0, 0);
        while let Read::Events { block, .. } = log.read(next).unwrap() {
            bytes += black_box(block.wire()).len();
            next = block.end_sequence();
        }
        assert_eq!(next as usize, EVENTS);
        bytes
    };
    let cold = Log::open(Arc::clone(&storage), ReadOptions { cache_bytes: 0 }).unwrap();
    group.bench_function("replay, every block decoded", |bencher| bencher.iter(|| replay(&cold)));
    let warm = Log::open(Arc::clone(&storage), ReadOptions { cache_bytes: 1 << 30 }).unwrap();
    replay(&warm);
    group.bench_function("read_cached, every event", |bencher| {
        bencher.iter(|| {
            for sequence in 0..EVENTS as u64 {
                black_box(warm.read_cached(sequence));
            }
        });
    });
    group.bench_function("read_stored, every block", |bencher| {
        bencher.iter(|| {
            let mut next = 0;
            while let Some(stored) = cold.read_stored(next).unwrap() {
                next = black_box(stored).end_sequence;
            }
        });
    });
    group.finish();
}

criterion_group!(log, benches);
criterion_main!(log);
