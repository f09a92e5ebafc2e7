//! `sidecar-log cat`: events of a range, as JSON lines or as the bytes that a server sends.

use std::{
    io::{self, Read as _, Write},
    time::Duration,
};

use clap::ValueEnum;
use serde::Serialize;
use sidecar_log_format::{
    ApiVersion, Cursor, Item, LargeEvent, Log, Read, Row, Run, Sequence, Timestamp, inspect::kind_name, version_frame,
};

use crate::{
    LogArgument, print,
    selection::{Selection, is_unsettled, warn_missing},
};

#[derive(clap::Args)]
pub(crate) struct CatArguments {
    #[command(flatten)]
    pub(crate) log: LogArgument,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Begin with the first event that was received at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = print::parse_time, conflicts_with_all = ["from", "last"])]
    pub(crate) since: Option<Timestamp>,
    /// End before the first event that was received after this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = print::parse_time, conflicts_with_all = ["until", "follow"])]
    pub(crate) until_time: Option<Timestamp>,
    /// Only the last N events, of the chosen kinds
    #[arg(long, value_name = "N", conflicts_with = "from")]
    pub(crate) last: Option<u64>,
    /// How events are printed
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    pub(crate) format: Format,
    /// Continue with every new event as it is committed
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line: what is known about the event, and its payload
    Jsonl,
    /// The bytes that GET /events sends, ApiVersion frames included
    Sse,
}

/// How long to wait before looking whether another process has committed more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Prints events; says whether none had to be left out because of damage.
pub(crate) fn cat(arguments: &CatArguments, out: &mut impl Write) -> anyhow::Result<bool> {
    let selection = &arguments.selection;
    selection.check()?;
    let log = arguments.log.open()?;
    let names = log.kinds();
    let kinds = selection.kinds(&names)?;
    let mut printer = Printer {
        names,
        format: arguments.format,
        announced: ApiVersion::NONE,
        out: io::BufWriter::with_capacity(1 << 16, out),
    };
    selection.warn_outside(&log)?;
    if !arguments.follow {
        selection.warn_not_stored_yet(&log)?;
    }
    let until = match arguments.until_time {
        // The event after the last one that is wanted; none is wanted where even the first was received later.
        Some(time) => match log.first_received_at_or_after(time.saturating_add(1))? {
            Some(0) => return Ok(true),
            Some(later) => later - 1,
            None => Sequence::MAX,
        },
        None => selection.until.unwrap_or(Sequence::MAX),
    };
    let start = match (arguments.since, arguments.last) {
        (Some(time), _) => log.start_at_time(time)?,
        (None, Some(events)) => start_of_last(&log, events, kinds, until)?,
        // Lost events at the beginning are named, too.
        (None, None) => selection.from.unwrap_or_else(|| log.beginning()),
    };
    let end = until.saturating_add(1);
    let mut cursor = Cursor::new(&log, start).until(end).of_kinds(kinds).without_large_payloads();
    let mut is_whole = true;
    loop {
        match cursor.next_run()? {
            Some(run) => is_whole &= printer.run(&run)?,
            None if cursor.position() >= end => break,
            None => {
                printer.caught_up(log.head().api_version)?;
                if !arguments.follow {
                    break;
                }
                std::thread::sleep(FOLLOW_INTERVAL);
                log.refresh()?;
            }
        }
    }
    printer.out.flush()?;
    Ok(is_whole)
}

/// Where the last so many events of these kinds begin, up to `until`.
fn start_of_last(log: &Log, events: u64, kinds: u64, until: Sequence) -> anyhow::Result<Sequence> {
    let (oldest, end) = (log.oldest(), log.head().next_sequence.min(until.saturating_add(1)));
    let (mut start, mut left) = (end, events);
    while start > oldest && left > 0 {
        let last = start - 1;
        start = match log.read(last)? {
            Read::Events { block, index } => {
                for row in (0..=index).rev().filter_map(|index| block.row(index)) {
                    left -= u64::from(row.kind().bit() & kinds != 0);
                    if left == 0 {
                        return Ok(row.sequence());
                    }
                }
                block.first_sequence()
            }
            Read::Large(large) => {
                left -= u64::from(large.shape().kinds() & kinds != 0);
                last
            }
            // In one step, however many there are.
            Read::Missing { .. } | Read::End => match log.outline_before(start)? {
                Some(damaged) if damaged.end_sequence > last => damaged.first_sequence,
                before => before.map_or(oldest, |before| before.end_sequence),
            },
        };
    }
    Ok(start)
}

struct Printer<W: Write> {
    names: Vec<(u8, String)>,
    format: Format,
    /// The API version that the output has announced last.
    announced: ApiVersion,
    out: io::BufWriter<W>,
}

/// What is known about an event; the payload follows unchanged.
#[derive(Serialize)]
struct Line<'a> {
    sequence: Sequence,
    kind: &'a str,
    received_at: String,
    source: &'a str,
    upstream_id: Option<u64>,
    api_version: Option<String>,
    network: &'a str,
}

impl<W: Write> Printer<W> {
    /// Prints the events of a run; says whether none of its sequences had to be left out because of damage.
    fn run(&mut self, run: &Run) -> io::Result<bool> {
        let mut is_whole = true;
        for item in run.items() {
            match (item, run.large()) {
                (Item::Event(row, _), Some(large)) => self.large(&row, large)?,
                (Item::Event(row, payload), None) => self.event(&row, &payload)?,
                (Item::Missing(sequences, why), _) => {
                    warn_missing(&sequences, why);
                    is_whole &= !is_unsettled(why);
                }
            }
        }
        Ok(is_whole)
    }

    fn event(&mut self, row: &Row<'_>, payload: &[u8]) -> io::Result<()> {
        match self.format {
            Format::Sse => {
                self.announce(row.version_in_force())?;
                self.out.write_all(row.frame())
            }
            Format::Jsonl => write_line(&mut self.out, &self.names, row, payload),
        }
    }

    /// Prints an event whose bytes are read in pieces.
    fn large(&mut self, row: &Row<'_>, large: &LargeEvent) -> io::Result<()> {
        match self.format {
            Format::Sse => {
                let mut wire = large.wire()?;
                // The version frame before it is announced here, once.
                io::copy(&mut wire.by_ref().take(row.range().start as u64), &mut io::sink())?;
                self.announce(large.version_after())?;
                io::copy(&mut wire, &mut self.out).map(drop)
            }
            Format::Jsonl => {
                let mut payload = Vec::new();
                large.payload_pieces()?.read_to_end(&mut payload)?;
                write_line(&mut self.out, &self.names, row, &payload)
            }
        }
    }

    /// The log ends here: a version that rose since the last event is announced.
    fn caught_up(&mut self, version: ApiVersion) -> io::Result<()> {
        if self.format == Format::Sse {
            self.announce(version)?;
        }
        self.out.flush()
    }

    fn announce(&mut self, version: ApiVersion) -> io::Result<()> {
        if version > self.announced {
            self.announced = version;
            self.out.write_all(&version_frame(version))?;
        }
        Ok(())
    }
}

/// One event as a line of JSON, its payload unchanged but for line feeds.
pub(crate) fn write_line(
    out: &mut impl Write,
    names: &[(u8, String)],
    row: &Row<'_>,
    payload: &[u8],
) -> io::Result<()> {
    let version = row.api_version();
    let (name, kind_name) = (row.name(), kind_name(row.kind(), names));
    let line = Line {
        sequence: row.sequence(),
        // An event of no numbered kind may have a name of its own.
        kind: if name.is_empty() { &kind_name } else { name },
        received_at: print::time(row.received()),
        source: row.source(),
        upstream_id: row.upstream_id(),
        api_version: (!version.is_none()).then(|| version.to_string()),
        network: row.network(),
    };
    let line = serde_json::to_vec(&line)?;
    out.write_all(line.strip_suffix(b"}").unwrap_or(&line))?;
    out.write_all(b",\"payload\":")?;
    // A line feed cannot be inside a JSON string, so a space in its place changes no value.
    for (number, piece) in payload.split(|&byte| byte == b'\n').enumerate() {
        if number > 0 {
            out.write_all(b" ")?;
        }
        out.write_all(piece)?;
    }
    out.write_all(b"}\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sidecar_log_format::{
        Event, Kind, Opened, ReadOptions, WriteOptions, Writer,
        storage::{Directory, Storage},
    };

    use super::*;

    const HOLE: u64 = 1 << 40;

    /// The CRC-32 of zlib.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes
            .iter()
            .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1))))
    }

    fn append(writer: &mut Writer, count: u64) {
        for number in 0..count {
            let event = Event { source: "node", network: "casper-test", ..Event::new(Kind::OTHER, number, "1") };
            writer.append(&event).unwrap();
        }
        writer.commit().unwrap();
    }

    #[test]
    fn the_last_events_are_found_at_once_before_a_hole_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Directory::create(folder.path().join("log")).unwrap());
        let options = || WriteOptions::new("casper", [1; 16], 1);
        append(&mut Writer::open(Arc::clone(&storage), options()).unwrap().writer, 10);
        // A head that names far more than there is.
        let head = storage.open("head", true).unwrap();
        for start in [0, 512] {
            let mut slot = [0; 96];
            head.read_at(&mut slot, start).unwrap();
            slot[16..24].copy_from_slice(&HOLE.to_le_bytes());
            let crc = crc32(&slot[..92]);
            slot[92..].copy_from_slice(&crc.to_le_bytes());
            head.write_at(&slot, start).unwrap();
        }
        let Opened { mut writer, recovery, .. } = Writer::open(Arc::clone(&storage), options()).unwrap();
        assert_eq!(recovery.lost, Some(10..HOLE));
        append(&mut writer, 3);

        let log = Log::open(storage, ReadOptions::default()).unwrap();
        let start = |events, until| start_of_last(&log, events, u64::MAX, until).unwrap();
        assert_eq!(start(2, Sequence::MAX), HOLE + 1);
        assert_eq!(start(5, Sequence::MAX), 8);
        assert_eq!(start(5, HOLE / 2), 5);
        assert_eq!(start(100, Sequence::MAX), 0);
    }
}
