//! `sidecar-log export`: a range of events in a file of another form.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read as _, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use indicatif::ProgressBar;
use sidecar::{
    config::ExportFrom,
    export::{export_range, sqlite},
};
use sidecar_log_format::{Log, Missing, Read, Row, Sequence};

use crate::{
    LogArgument,
    cat::{chosen_kinds, warn_missing, write_line},
    parquet::ParquetParts,
    print,
};

#[derive(clap::Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    log: LogArgument,
    /// The first sequence [default: the oldest retained]
    #[arg(long, value_name = "SEQUENCE")]
    from: Option<Sequence>,
    /// The last sequence, itself included [default: the newest]
    #[arg(long, value_name = "SEQUENCE")]
    until: Option<Sequence>,
    /// Only these kinds, for example BlockAdded,Step
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    types: Vec<String>,
    /// The form of the file
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// The file; it must not exist yet
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Go on with FILE where an interrupted export of the same range and kinds has left it
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line, as `cat` prints it
    Jsonl,
    /// Apache Parquet, compressed with zstd
    Parquet,
    /// The tables of the Casper Sidecar
    Sqlite,
}

/// Writes the file; says whether no event had to be left out because of damage.
pub(crate) fn export(arguments: &ExportArguments, out: &mut impl Write) -> anyhow::Result<bool> {
    let log = arguments.log.open()?;
    let kinds = chosen_kinds(&arguments.types, &log.kinds())?;
    let end = log.head().next_sequence;
    let end = arguments.until.map_or(end, |until| end.min(until.saturating_add(1)));
    let range = arguments.from.unwrap_or_else(|| log.oldest())..end;
    let output = &arguments.output;
    if !arguments.resume && fs::exists(output)? {
        bail!("{} exists; give another file, or --resume to go on with it", output.display());
    }
    let bar = print::event_bar("exporting", range.end.saturating_sub(range.start));
    let is_whole = match arguments.format {
        Format::Jsonl => jsonl(&log, range, kinds, output, &bar)?,
        Format::Parquet => parquet(&log, range, kinds, output, arguments.resume, &bar)?,
        Format::Sqlite => sqlite(&log, range, kinds, output, &bar)?,
    };
    bar.finish_and_clear();
    writeln!(out, "{}", output.display())?;
    Ok(is_whole)
}

/// Goes through the chosen events of a range in order; says whether none was damaged.
fn walk(
    log: &Log,
    range: Range<Sequence>,
    kinds: u64,
    bar: &ProgressBar,
    mut take: impl FnMut(&Row<'_>, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let (mut next, mut is_whole) = (range.start, true);
    while next < range.end {
        let before = next;
        match log.read(next)? {
            Read::Events { block, index } => {
                for row in block.rows().skip(index).take_while(|row| row.sequence() < range.end) {
                    if kinds & row.kind().bit() != 0 {
                        take(&row, &row.payload())?;
                    }
                }
                next = block.end_sequence();
            }
            Read::Large(large) => {
                if let Some(row) = large.shape().row(0).filter(|row| kinds & row.kind().bit() != 0) {
                    take(&row, &large.payload()?)?;
                }
                next = large.sequence().saturating_add(1);
            }
            Read::Missing { from, to, why } => {
                warn_missing(from, to.min(range.end), &why);
                is_whole &= !matches!(why, Missing::Quarantined(_));
                next = to;
            }
            Read::End => break,
        }
        bar.inc(next.min(range.end) - before);
    }
    Ok(is_whole)
}

fn jsonl(log: &Log, range: Range<Sequence>, kinds: u64, output: &Path, bar: &ProgressBar) -> anyhow::Result<bool> {
    let cannot_write = || format!("cannot write {}", output.display());
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(output).with_context(cannot_write)?;
    let start = match last_whole_line(&mut file).with_context(cannot_write)? {
        Some(last) => last.saturating_add(1).max(range.start),
        None => range.start,
    };
    bar.set_position(start - range.start);
    let names = log.kinds();
    let mut file = BufWriter::with_capacity(1 << 16, file);
    let is_whole = walk(log, start..range.end, kinds, bar, |row, payload| {
        write_line(&mut file, &names, row, payload).with_context(cannot_write)
    })?;
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .with_context(cannot_write)?;
    Ok(is_whole)
}

/// Cuts off a line that was not finished, and gives the sequence in the last one that was.
fn last_whole_line(file: &mut File) -> anyhow::Result<Option<Sequence>> {
    #[derive(serde::Deserialize)]
    struct Line {
        sequence: Sequence,
    }

    let (mut end, mut last) = (0, None);
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::with_capacity(1 << 20, &*file);
    let mut line = Vec::new();
    while reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? > 0 {
        if line.last() != Some(&b'\n') {
            break;
        }
        end += line.len() as u64;
        std::mem::swap(last.get_or_insert_with(Vec::new), &mut line);
        line.clear();
    }
    file.set_len(end)?;
    let Some(last) = last else { return Ok(None) };
    let Line { sequence } = serde_json::from_slice(&last).context("its last line is none of an export's")?;
    Ok(Some(sequence))
}

/// Longer than the line of the largest event.
const LINE_BYTES_MAX: u64 = 1 << 30;

fn parquet(
    log: &Log,
    range: Range<Sequence>,
    kinds: u64,
    output: &Path,
    resume: bool,
    bar: &ProgressBar,
) -> anyhow::Result<bool> {
    if resume && fs::exists(output)? {
        return Ok(true);
    }
    let mut parts = ParquetParts::open(output, log.kinds(), range.start)?;
    let start = parts.next_sequence();
    bar.set_position(start.saturating_sub(range.start));
    let is_whole = walk(log, start..range.end, kinds, bar, |row, payload| parts.push(row, payload))?;
    parts.finish()?;
    Ok(is_whole)
}

fn sqlite(log: &Log, range: Range<Sequence>, kinds: u64, output: &Path, bar: &ProgressBar) -> anyhow::Result<bool> {
    let options = sqlite::Options {
        file: output.to_owned(),
        wal_autocheckpointing_interval: 1000,
        export_from: ExportFrom::Oldest,
    };
    let start = range.start;
    let summary = export_range(log, &options, range, kinds, &mut |next| bar.set_position(next - start))?;
    if summary.collisions > 0 {
        eprintln!(
            "note: {} events share the keys of the SQL tables with another one and are left out",
            summary.collisions
        );
    }
    if summary.without_table > 0 {
        eprintln!("note: {} events are of a kind or shape that the SQL tables do not have", summary.without_table);
    }
    Ok(summary.missing == 0)
}
