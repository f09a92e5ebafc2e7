//! `sidecar-log export`: a range of events in a file of another form.
//!
//! Events flow from the log into the folder of the unfinished export, and what that holds in the end becomes the file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read as _, Write},
    ops::Range,
    path::{Path, PathBuf},
    process, thread,
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use indicatif::{HumanBytes, ProgressBar};
use sidecar::casper::export::{ExportFrom, export_range, sqlite};
use sidecar_log_format::{Cursor, Item, Kind, Log, Missing, Row, Sequence, inspect::kind_name};

use crate::{
    LogArgument,
    cat::write_line,
    parquet::ParquetParts,
    print,
    selection::{Selection, is_unsettled, warn_missing},
    unfinished::{Identity, Unfinished, sync_folder},
};

#[derive(clap::Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    log: LogArgument,
    #[command(flatten)]
    selection: Selection,
    /// The form of the file
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// The file; it must not exist yet, and is there once it is whole
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Continue where an interrupted export of the same log, range, kinds and format has left FILE.unfinished
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

/// Writes the file; returns whether no event had to be left out because of damage.
pub(crate) fn export(arguments: &ExportArguments, out: &mut impl Write) -> anyhow::Result<bool> {
    let selection = &arguments.selection;
    selection.check()?;
    let log = arguments.log.open()?;
    ensure!(
        arguments.format != Format::Sqlite || log.dialect() == "casper",
        "the tables of `--format sqlite` are for events of Casper nodes, and this is a log of dialect {}; use jsonl or parquet",
        log.dialect()
    );
    let kinds = selection.kinds(&log.kinds())?;
    let unfinished = Unfinished::open(&arguments.output, &identity(arguments, &log, kinds), arguments.resume)?;
    selection.warn_outside(&log)?;
    selection.warn_not_stored_yet(&log)?;
    let start = unfinished.first_sequence;
    let end = log.head().next_sequence;
    let end = selection.until.map_or(end, |until| end.min(until.saturating_add(1)));
    let export = Export { log: &log, range: start..end.max(start), kinds, folder: unfinished.folder() };
    let bar = print::event_bar("exporting", Some(end.saturating_sub(start)));
    mention_resume_when_interrupted(&arguments.output);
    let mut events = None;
    if !unfinished.is_in_place {
        let made = match arguments.format {
            Format::Jsonl => export.jsonl(&bar)?,
            Format::Parquet => export.parquet(&bar)?,
            Format::Sqlite => export.sqlite(&bar)?,
        };
        unfinished.put_in_place(&made.file)?;
        events = Some(made.events);
    }
    let is_whole = !fs::exists(export.damage_file())?;
    unfinished.remove()?;
    bar.finish_and_clear();
    let output = arguments.output.display();
    let bytes = HumanBytes(fs::metadata(&arguments.output).with_context(|| format!("cannot look at {output}"))?.len());
    match events {
        Some(events) => writeln!(out, "{output}: {events} events, {bytes}")?,
        None => writeln!(out, "{output}: {bytes}")?,
    }
    Ok(is_whole)
}

/// On Ctrl-C, says how the export can be continued. What is written so far stays, as after any other end.
fn mention_resume_when_interrupted(output: &Path) {
    let output = output.display().to_string();
    // Without it, Ctrl-C ends the export all the same.
    let _ = thread::Builder::new().spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            print::to_stderr(format_args!(
                "interrupted; the same command with --resume continues, from what is in {output}.unfinished"
            ));
            process::exit(INTERRUPTED);
        }
    });
}

/// What shells report of a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// A whole export, not in its place yet.
struct Made {
    file: PathBuf,
    events: u64,
}

fn identity(arguments: &ExportArguments, log: &Log, kinds: u64) -> Identity {
    let Selection { from, until, .. } = arguments.selection;
    let names = log.kinds();
    let chosen = (0..=Kind::OTHER.0).map(Kind).filter(|kind| kinds != u64::MAX && kinds & kind.bit() != 0);
    Identity {
        log_id: hex::encode(log.id()),
        epoch: log.head().epoch,
        format: arguments.format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
        from,
        until,
        types: chosen.map(|kind| kind_name(kind, &names)).collect(),
        // A beginning that is lost is named, too.
        first_sequence: from.unwrap_or_else(|| log.beginning()),
    }
}

/// What is exported into which folder. Each form makes a file there.
struct Export<'a> {
    log: &'a Log,
    range: Range<Sequence>,
    kinds: u64,
    folder: &'a Path,
}

impl Export<'_> {
    fn jsonl(&self, bar: &ProgressBar) -> anyhow::Result<Made> {
        let made = self.folder.join("events.jsonl");
        let cannot_write = || format!("cannot write {}", made.display());
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(&made).with_context(cannot_write)?;
        let whole_lines =
            self.whole_lines(&mut file).with_context(|| format!("cannot continue with {}", made.display()))?;
        let (start, mut events) = match whole_lines {
            Some((last, lines)) => (last.saturating_add(1), lines),
            None => (self.range.start, 0),
        };
        let names = self.log.kinds();
        let mut file = BufWriter::with_capacity(1 << 16, file);
        self.walk(start, bar, |row, payload| {
            events += 1;
            write_line(&mut file, &names, row, payload).with_context(cannot_write)
        })?;
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .with_context(cannot_write)?;
        Ok(Made { file: made, events })
    }

    /// The sequence in the last line that was finished, and how many were; one after it that was not is cut off.
    fn whole_lines(&self, file: &mut File) -> anyhow::Result<Option<(Sequence, u64)>> {
        #[derive(serde::Deserialize)]
        struct Line {
            sequence: Sequence,
        }

        let (mut end, mut lines, mut last) = (0, 0, None);
        let mut reader = BufReader::with_capacity(1 << 20, &*file);
        let mut line = Vec::new();
        while reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') {
                break;
            }
            end += line.len() as u64;
            lines += 1;
            std::mem::swap(last.get_or_insert_with(Vec::new), &mut line);
            line.clear();
        }
        let last = match last {
            Some(line) => {
                let Line { sequence } =
                    serde_json::from_slice(&line).context("its last line is none of an export's")?;
                ensure!(
                    self.range.contains(&sequence),
                    "its last line, of sequence {sequence}, is none of this export's"
                );
                Some((sequence, lines))
            }
            None => None,
        };
        file.set_len(end)?;
        Ok(last)
    }

    fn parquet(&self, bar: &ProgressBar) -> anyhow::Result<Made> {
        let mut parts = ParquetParts::open(self.folder, self.log.kinds(), self.range.start)?;
        self.walk(parts.next_sequence(), bar, |row, payload| parts.push(row, payload))?;
        let (file, events) = parts.finish()?;
        Ok(Made { file, events })
    }

    fn sqlite(&self, bar: &ProgressBar) -> anyhow::Result<Made> {
        let made = self.folder.join("events.db3");
        let options = sqlite::Options {
            file: made.clone(),
            wal_autocheckpointing_interval: 1000,
            export_from: ExportFrom::Oldest,
        };
        let start = self.range.start;
        let missing = |sequences: Range<Sequence>, why: &Missing| self.pass(sequences, why, bar);
        let progress = |next| bar.set_position(next - start);
        let summary = export_range(self.log, &options, self.range.clone(), self.kinds, progress, missing)?;
        let events = into_one_file(&made).with_context(|| format!("cannot write {}", made.display()))?;
        let since = match summary.first_sequence {
            resumed if resumed > start => format!(" from sequence {resumed} on"),
            _ => String::new(),
        };
        let note = |events: u64, what: &str| {
            if events > 0 {
                bar.suspend(|| print::to_stderr(format_args!("note: {events} events{since} {what}")));
            }
        };
        note(summary.collisions, "share the keys of the SQL tables with another one and are left out");
        note(summary.without_table, "are of a kind or shape that the SQL tables do not have");
        Ok(Made { file: made, events })
    }

    /// Goes through the chosen events of the range in order, beginning at `start`.
    fn walk(
        &self,
        start: Sequence,
        bar: &ProgressBar,
        mut take: impl FnMut(&Row<'_>, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut cursor = Cursor::new(self.log, start).until(self.range.end).of_kinds(self.kinds);
        while let Some(run) = cursor.next_run()? {
            bar.set_position(run.sequences.start - self.range.start);
            for item in run.items() {
                match item {
                    Item::Event(row, payload) => take(&row, &payload)?,
                    Item::Missing(sequences, why) => self.pass(sequences, why, bar)?,
                }
            }
        }
        Ok(())
    }

    /// Warns of sequences that name no event any more. That there was damage is remembered, for a run that resumes.
    fn pass(&self, sequences: Range<Sequence>, why: &Missing, bar: &ProgressBar) -> anyhow::Result<()> {
        bar.suspend(|| warn_missing(&sequences, why));
        if is_unsettled(why) {
            let file = self.damage_file();
            File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
            sync_folder(self.folder)?;
        }
        Ok(())
    }

    fn damage_file(&self) -> PathBuf {
        self.folder.join("damaged")
    }
}

/// Longer than the line of the largest event.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// Brings a database's write-ahead log into the database itself, which then needs no folder that can be written to; how
/// many events it holds.
fn into_one_file(database: &Path) -> anyhow::Result<u64> {
    let connection = rusqlite::Connection::open(database)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))?;
    ensure!(mode == "delete", "its write-ahead log is in use");
    let events: i64 = connection.query_row(r#"SELECT count(*) FROM "event_log""#, [], |row| row.get(0))?;
    Ok(events.cast_unsigned())
}
