//! How fast a log is verified and rewritten: `cargo bench -p sidecar-log-format --bench upkeep`.
//!
//! The log has the shape of a live one: events of about 765 bytes, most of them hexadecimal noise, ten to a commit, so
//! that its blocks are small. Rates are of raw bytes, on a warm page cache; the sizes of what is stored are printed first.

#![allow(missing_docs, reason = "criterion makes a public function")]
#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first error")]

use std::{fmt::Write as _, fs, path::Path, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sidecar_log_format::{
    ApiVersion, Durability, Event, Kind, Opened, RewriteOptions, WriteOptions, Writer,
    storage::{Directory, Storage},
    verify::verify,
};

const EVENTS: u64 = 100_000;

fn upkeep(criterion: &mut Criterion) {
    let (small, large) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(small.path());
    copy(small.path(), large.path());
    rewrite(&open(large.path()));
    let raw_bytes = verified(small.path());
    assert_eq!(verified(large.path()), raw_bytes);
    let of_raw = |log: &Path| bytes_on_disk(log) as f64 / raw_bytes as f64;
    println!("small blocks: {:.4} of the raw bytes; of 1 MiB: {:.4}", of_raw(small.path()), of_raw(large.path()));

    let mut group = criterion.benchmark_group("upkeep");
    group.sample_size(10).throughput(Throughput::Bytes(raw_bytes));
    group.bench_function("verify, small blocks", |bencher| bencher.iter(|| verified(small.path())));
    group.bench_function("verify, blocks of 1 MiB", |bencher| bencher.iter(|| verified(large.path())));
    group.bench_function("rewrite into blocks of 1 MiB", |bencher| {
        let copied = || {
            let log = tempfile::tempdir().unwrap();
            copy(small.path(), log.path());
            let writer = open(log.path());
            (log, writer)
        };
        let rewritten = |(log, writer)| {
            rewrite(&writer);
            (log, writer)
        };
        bencher.iter_batched(copied, rewritten, BatchSize::PerIteration);
    });
    group.finish();
}

fn open(log: &Path) -> Writer {
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(log));
    let options = WriteOptions {
        segment_bytes_max: 32 << 20,
        durability: Durability::Os,
        ..WriteOptions::new("casper", [1; 16], 1)
    };
    let Opened { writer, .. } = Writer::open(storage, options).unwrap();
    writer
}

fn write(log: &Path) {
    let mut writer = open(log);
    for number in 0..EVENTS {
        let payload = payload(number);
        let event = Event {
            kind: Kind(5),
            name: "",
            source: "127.0.0.1:9999",
            network: "casper",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            upstream_id: Some(number),
            received: 1_700_000_000_000_000 + number * 500,
            payload: &payload,
        };
        writer.append(&event).unwrap();
        if number % 10 == 9 {
            writer.commit().unwrap();
        }
    }
    writer.seal_now(1).unwrap();
    writer.close().unwrap();
}

fn rewrite(writer: &Writer) {
    let maintenance = writer.maintenance();
    for first in maintenance.segments_with_small_blocks(0, 1 << 20).unwrap() {
        maintenance.rewrite(first, RewriteOptions::default()).unwrap();
    }
}

/// The raw bytes of a log in which everything is sound.
fn verified(log: &Path) -> u64 {
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(log));
    let verification = verify(&storage, &mut |_| {}).unwrap();
    assert!(verification.is_sound, "{:?}", verification.problems);
    verification.bytes_raw
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn bytes_on_disk(log: &Path) -> u64 {
    fs::read_dir(log).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// A finality signature: three hashes, a key and a signature that do not compress beyond their digits.
fn payload(number: u64) -> String {
    let mut noise = String::new();
    for part in 0..5u64 {
        // A block's hash comes back in all its signatures.
        let seed = if part == 0 { number / 100 } else { number * 8 + part };
        let _ = write!(noise, "{}", blake3::hash(&seed.to_le_bytes()).to_hex());
    }
    format!(
        "{{\"FinalitySignature\":{{\"V2\":{{\"block_hash\":\"{}\",\"block_height\":{},\"era_id\":{},\
         \"chain_name_hash\":\"{}\",\"signature\":\"01{}\",\"public_key\":\"01{}\",\"filler\":\"{}\"}}}}}}",
        &noise[..64],
        number / 100,
        number / 10_000,
        "4".repeat(64),
        &noise[64..192],
        &noise[192..256],
        "same ".repeat(40),
    )
}

criterion_group!(benches, upkeep);
criterion_main!(benches);
