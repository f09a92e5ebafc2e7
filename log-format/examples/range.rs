//! Reads a range of a log, of some kinds only, and shows which sequences are missing and why.
//!
//! `cargo run -p sidecar-log-format --example range [DIRECTORY FROM UNTIL]`; without arguments it makes a log and damages it.

use std::{
    error::Error,
    fs,
    io::{self, Write},
    ops::Range,
    path::Path,
    sync::Arc,
};

use sidecar_log_format::{
    Cursor, Event, Item, Kind, Log, Opened, ReadOptions, WriteOptions, Writer, storage::Directory,
};

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [directory, from, until] => run(directory.as_ref(), from.parse()?..until.parse()?, &mut io::stdout()),
        _ => {
            damaged_log(temporary.path())?;
            run(temporary.path(), 3..12, &mut io::stdout())
        }
    }
}

/// Writes to `out` the events of a range of the log in `directory`, and what is missing.
///
/// # Errors
/// What the log answers.
pub(crate) fn run(directory: &Path, range: Range<u64>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    // Takes no lock: the log may be written meanwhile, and the directory may be read-only.
    let log = Log::open(Arc::new(Directory::at(directory)), ReadOptions::default())?;
    writeln!(out, "a log of {}, from {} to before {}", log.dialect(), log.oldest(), log.head().next_sequence)?;
    let mut cursor = Cursor::new(&log, range.start).until(range.end).of_kinds(Kind(1).bit());
    let (mut events, mut missing) = (0, 0);
    while let Some(run) = cursor.next_run()? {
        for item in run.items() {
            match item {
                Item::Event(row, payload) => {
                    writeln!(out, "{}: {}", row.sequence(), String::from_utf8_lossy(&payload))?;
                    events += 1;
                }
                Item::Missing(range, why) => {
                    writeln!(out, "{} to {}: {why}", range.start, range.end - 1)?;
                    missing += range.end - range.start;
                }
            }
        }
    }
    writeln!(out, "{events} events, {missing} missing")?;
    Ok(())
}

/// A log of twenty events, five in a block, with a flipped bit in the second block.
///
/// # Errors
/// What the log answers.
pub(crate) fn damaged_log(path: &Path) -> Result<(), Box<dyn Error>> {
    let options = WriteOptions::new("example", [7; 16], 0);
    let Opened { mut writer, .. } = Writer::open(Arc::new(Directory::at(path)), options)?;
    for number in 0..20u64 {
        let payload = format!("{{\"number\":{number}}}");
        writer.append(&Event { source: "example", ..Event::new(Kind(1), number, &payload) })?;
        if number % 5 == 4 {
            writer.commit()?;
        }
    }
    writer.close()?;
    let segment = path.join("00000000000000000000.segment");
    let mut bytes = fs::read(&segment)?;
    let starts: Vec<_> = (0..bytes.len()).filter(|&at| bytes.get(at..at + 4) == Some(b"SBLK")).collect();
    let second = starts.get(1).copied().ok_or("the log has one block only")?;
    if let Some(byte) = bytes.get_mut(second + 150) {
        *byte ^= 1;
    }
    fs::write(&segment, bytes)?;
    Ok(())
}
