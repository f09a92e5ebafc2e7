//! Writes a log and follows it: one thread appends and commits, another reads each event as soon as it is visible.
//!
//! `cargo run -p sidecar-log-format --example follow [DIRECTORY]`; without a directory, in one that is removed afterwards.

use std::{
    error::Error,
    io::{self, Write},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use sidecar_log_format::{
    ApiVersion, Cursor, Event, Item, Kind, Log, Opened, WriteOptions, Writer, storage::Directory,
};

const EVENTS: u64 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let path = std::env::args_os().nth(1).map_or_else(|| temporary.path().join("log"), Into::into);
    run(&path, &mut io::stdout())
}

/// Appends some events to the log in `path`, and writes to `out` what a reader gets.
///
/// # Errors
/// What the log answers.
pub(crate) fn run(path: &Path, out: &mut (dyn Write + Send)) -> Result<(), Box<dyn Error>> {
    // The id distinguishes this log from all others; take 16 random bytes.
    let options = WriteOptions { kinds: vec![(1, "Tick".to_owned())], ..WriteOptions::new("example", [7; 16], 0) };
    let Opened { writer, log, recovery } = Writer::open(Arc::new(Directory::create(path)?), options)?;
    writeln!(out, "{}", if recovery.created { "a new log" } else { "an older log, continued" })?;
    let start = log.head().next_sequence;
    thread::scope(|scope| {
        let reader = scope.spawn(|| follow(&log, start, out).map_err(|error| error.to_string()));
        write(writer)?;
        Ok(reader.join().map_err(|_| "the reader panicked")??)
    })
}

fn write(mut writer: Writer) -> sidecar_log_format::Result<()> {
    for number in 0..EVENTS {
        let payload = format!("{{\"tick\":{number}}}");
        writer.append(&Event {
            kind: Kind(1),
            name: "",
            source: "example",
            network: "",
            api_version: ApiVersion::NONE,
            upstream_id: Some(number),
            received: 1_700_000_000_000_000 + number,
            payload: &payload,
        })?;
        // Durable when this returns, and then visible.
        writer.commit()?;
    }
    // The next opening then knows that nothing was cut short.
    writer.close()
}

fn follow(log: &Log, start: u64, out: &mut (dyn Write + Send)) -> Result<(), Box<dyn Error>> {
    let mut cursor = Cursor::new(log, start);
    while cursor.position() < start + EVENTS {
        while let Some(run) = cursor.next_run()? {
            for item in run.items() {
                match item {
                    Item::Event(row, payload) => {
                        writeln!(out, "{} {}: {}", row.sequence(), row.name(), String::from_utf8_lossy(&payload))?;
                    }
                    Item::Missing(range, why) => writeln!(out, "{} to {}: {why}", range.start, range.end - 1)?,
                }
            }
        }
        // A reader in another process calls `Log::refresh` instead, as often as it likes.
        let _ = log.wait(cursor.position(), Duration::from_secs(1));
    }
    Ok(())
}
