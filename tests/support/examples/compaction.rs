//! What compaction makes of a log: `cargo run --release -p sidecar-test-support --example compaction -- COMMAND`.
//!
//! * `write DIRECTORY [MB]`: writes a log of about so many raw megabytes (1,000) of simulated mainnet traffic, as Sidecar
//!   does it when it catches up (level 1, blocks of 512 KiB).
//! * `write-recording DIRECTORY`: the same with the recorded network.
//! * `compact DIRECTORY`: compacts it (level 19, 1 MiB), on one thread.
//! * `read DIRECTORY`: reads all of it on one thread, without a cache, and prints the throughput, the bytes stored per raw
//!   byte, and a digest of all events with all that is known about them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use sidecar_log_format::storage::{Directory, Storage};
use sidecar_log_format::{
    ApiVersion, Durability, Event, Kind, Log, Maintenance, Opened, Read, ReadOptions, RewriteOptions, WriteOptions,
    Writer, inspect::inspect,
};
use sidecar_test_support::fast::EndlessStory;
use sidecar_test_support::recordings::recorded_network;

const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 0 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["write", directory] => write(directory, 1_000, simulated()),
        ["write", directory, megabytes] => write(directory, megabytes.parse().unwrap(), simulated()),
        ["write-recording", directory] => {
            write(directory, u64::MAX, recorded_network().into_iter().map(|(_, payload)| payload))
        }
        ["compact", directory] => compact(directory),
        ["read", directory] => read(directory),
        _ => eprintln!("give `write`, `write-recording`, `compact` or `read`, and a directory"),
    }
}

fn simulated() -> impl Iterator<Item = String> {
    let story = EndlessStory::render(1, 200);
    (0..).map(move |number| story.payload(number))
}

fn write(directory: &str, megabytes: u64, payloads: impl Iterator<Item = String>) {
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(directory).unwrap());
    let options = WriteOptions { durability: Durability::Interval, ..WriteOptions::new("casper", [1; 16], 1) };
    let Opened { mut writer, .. } = Writer::open(storage, options).unwrap();
    writer.announce_version(VERSION, "127.0.0.1:9999", 1).unwrap();
    let (mut bytes, mut number) = (0, 0);
    for payload in payloads {
        writer
            .append(&Event {
                kind: Kind(1),
                name: "",
                source: "127.0.0.1:9999",
                network: "casper",
                api_version: VERSION,
                upstream_id: Some(number),
                received: 1_700_000_000_000_000 + number * 4_321,
                payload: &payload,
            })
            .unwrap();
        number += 1;
        bytes += payload.len() as u64;
        if writer.is_block_full() {
            writer.commit().unwrap();
        }
        if bytes >= megabytes.saturating_mul(1_000_000) {
            break;
        }
    }
    writer.seal_now(2).unwrap();
    writer.close().unwrap();
    println!("{number} events, {:.1} MB of payload", bytes as f64 / 1e6);
}

fn compact(directory: &str) {
    let maintenance = Maintenance::open(Arc::new(Directory::at(directory))).unwrap();
    let begun = Instant::now();
    let due = maintenance.segments_to_compact(0, RewriteOptions::COMPACTION).unwrap();
    let mut bytes = 0;
    for &segment in &due {
        let mut note = |more| {
            bytes += more;
            ControlFlow::Continue(())
        };
        maintenance.rewrite_at_pace(segment, RewriteOptions::COMPACTION, &mut note).unwrap().unwrap();
    }
    let (megabytes, seconds) = (bytes as f64 / 1e6, begun.elapsed().as_secs_f64());
    println!("{} segments, {megabytes:.1} MB raw in {seconds:.1} s: {:.2} MB/s", due.len(), megabytes / seconds);
}

fn read(directory: &str) {
    let log = Log::open(Arc::new(Directory::at(directory)), ReadOptions { cache_bytes: 0 }).unwrap();
    let digest = digest(&log);
    let (begun, mut bytes, mut next) = (Instant::now(), 0, log.oldest());
    loop {
        match log.read(next).unwrap() {
            Read::Events { block, .. } => {
                bytes += block.wire().len() as u64;
                next = block.end_sequence();
            }
            Read::Large(event) => {
                bytes += std::io::copy(&mut event.wire().unwrap(), &mut std::io::sink()).unwrap();
                next += 1;
            }
            Read::Missing { to, .. } => next = to,
            Read::End => break,
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let totals = inspect(&log).unwrap().totals;
    println!(
        "{} events, {:.1} MB raw, {:.1} MB stored, {:.4} of raw; read at {:.0} MB/s ({:.0} events/s); digest {digest}",
        totals.events,
        totals.bytes_raw as f64 / 1e6,
        totals.bytes_stored as f64 / 1e6,
        totals.ratio.unwrap(),
        bytes as f64 / 1e6 / seconds,
        totals.events as f64 / seconds,
    );
}

/// Of the wire form and all that is known about every event.
fn digest(log: &Log) -> String {
    let mut digest = blake3::Hasher::new();
    let mut next = log.oldest();
    loop {
        match log.read(next).unwrap() {
            Read::Events { block, .. } => {
                for row in block.rows() {
                    let about =
                        format!("{:?}", (row.sequence(), row.kind(), row.source(), row.upstream_id(), row.received()));
                    digest.update(about.as_bytes());
                    digest.update(row.frame());
                }
                next = block.end_sequence();
            }
            Read::Large(event) => {
                digest.update(&event.payload().unwrap());
                next += 1;
            }
            Read::Missing { to, .. } => next = to,
            Read::End => break,
        }
    }
    digest.finalize().to_hex().to_string()
}
