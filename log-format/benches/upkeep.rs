//! How fast a log is verified and rewritten: `cargo bench -p sidecar-log-format --bench upkeep`.
//!
//! The log has the shape of a live one: events of about 765 bytes, most of them hexadecimal noise, ten to a commit, so
//! that its blocks are small. Times are those of one run on a warm page cache.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Instant};

use sidecar_log_format::{
    ApiVersion, Event, Kind, Opened, RewriteOptions, WriteOptions, Writer,
    storage::{Directory, Storage},
    verify::verify,
};

const EVENTS: u64 = 300_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(directory.path()));
    let options = WriteOptions {
        segment_bytes_max: 32 << 20,
        durability: sidecar_log_format::Durability::Interval,
        ..WriteOptions::new("casper", [1; 16], 1)
    };
    let Opened { mut writer, .. } = Writer::open(Arc::clone(&storage), options)?;
    for number in 0..EVENTS {
        let payload = payload(number);
        writer.append(&Event {
            kind: Kind(5),
            name: "",
            source: "127.0.0.1:9999",
            network: "casper",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            upstream_id: Some(number),
            received: 1_700_000_000_000_000 + number * 500,
            payload: &payload,
        })?;
        if number % 10 == 9 {
            writer.commit()?;
        }
    }
    writer.seal_now(1)?;

    println!("{:<28} {:>12} {:>12} {:>10}", "", "raw MB", "stored MB", "raw MB/s");
    let (stored, start) = (bytes_on_disk(directory.path())?, Instant::now());
    let raw = verify(&storage, &mut |_| {})?.bytes_raw;
    print_line("verify, small blocks", raw, stored, start);
    let (maintenance, start) = (writer.maintenance(), Instant::now());
    for first in maintenance.segments_with_small_blocks(0, 1 << 20)? {
        maintenance.rewrite(first, RewriteOptions::default())?;
    }
    let stored = bytes_on_disk(directory.path())?;
    print_line("rewrite into 1 MiB blocks", raw, stored, start);
    let start = Instant::now();
    let verification = verify(&storage, &mut |_| {})?;
    print_line("verify, 1 MiB blocks", raw, stored, start);
    assert!(verification.is_sound, "{:?}", verification.problems);
    Ok(())
}

fn print_line(what: &str, raw: u64, stored: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let (raw, stored) = (raw as f64 / 1e6, stored as f64 / 1e6);
    println!("{what:<28} {raw:>12.1} {stored:>12.1} {:>10.0}", raw / seconds);
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

fn bytes_on_disk(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
