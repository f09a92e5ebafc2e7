//! `sidecar-log`: the command-line tool over a Sidecar event log.
//!
//! It owns what people type and see. What it knows about logs is in `sidecar-log-format`; what it knows about events, for
//! `export`, `import` and `rebuild-views`, is in `sidecar`. A log's directory goes in; tables, events or JSON come out on
//! stdout, warnings and progress on stderr.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when the output is closed")]

use std::{
    error::Error,
    fmt::{self, Display},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use sidecar::build_info::Build;
use sidecar::command_line::{Guesses, guessing};
use sidecar_log_format::{
    Log, ReadOptions,
    inspect::inspect,
    storage::{Directory, Storage},
    verify::verify,
};

mod cat;
mod compact;
mod export;
mod head;
mod import;
mod locate;
mod parquet;
mod print;
mod rebuild_views;
mod repair;
mod selection;
mod tail;
mod unfinished;

const EXAMPLES: &str = "\
Examples:
  sidecar-log inspect /var/lib/sidecar             what is stored, and whether it looks healthy
  sidecar-log cat /var/lib/sidecar --until 9       the first ten events, one JSON object a line
  sidecar-log cat LOG --types Step,Fault --follow  these kinds, and each new one as it is committed
  sidecar-log tail LOG -n 3 --follow               the newest three events, and each new one
  sidecar-log export LOG --output events.jsonl     everything in a file; also as Parquet or SQLite
  sidecar-log import --from sqlite:FILE LOG        the history of a Casper Sidecar as a log
  sidecar-log verify LOG                           read everything and check it
  sidecar-log verify LOG --chain                   which events follow from which, and where not
  sidecar-log head LOG                             one line to compare with a replica or a back-up
  sidecar-log repair LOG --dry-run                 what a repair would do
  sidecar-log compact LOG --dry-run                how much stronger compression would save
  sidecar-log rebuild-views LOG                    rebuild the REST server's views

LOG is the log's directory (<storage_path>/logs/casper), or the storage path itself while it holds \
one log. All but import, repair, compact and rebuild-views work on a log that is being written and on \
a read-only directory.

Exit status: 0 all is well, or the reader of the output closed it; 1 something is wrong with the \
log, or the command failed; 2 wrong usage.";

/// Inspect, read, verify, compact and repair a Sidecar event log.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a log holds: segments, kinds, sizes, sources, marks, health. Reads no events.
    #[command(after_help = "\
Examples:
  sidecar-log inspect LOG
  sidecar-log inspect LOG --json | jq .totals

Exit status: 0; 1 when something is visibly wrong (only verify reads everything).")]
    Inspect {
        #[command(flatten)]
        log: LogArgument,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print events.
    #[command(after_help = "\
Examples:
  sidecar-log cat LOG --from 100 --until 199         exactly the events 100 to 199
  sidecar-log cat LOG --types BlockAdded | jq .payload
  sidecar-log cat LOG --format sse > replay.sse      the bytes that GET /events?start_from=0 sends
  sidecar-log cat LOG --from 5000 --follow           from 5000 on, then every new event
  sidecar-log cat LOG --last 10                      the newest ten
  sidecar-log cat LOG --since 2026-01-02T03:00:00Z --until-time 2026-01-02T04:00:00Z

Times are those at which this sidecar received an event (received_at). Its clock may have been set: --since begins \
with the first event, in the order of the sequences, that was received then or later, and --until-time ends before \
the first one that was received after it.

Requested events that are not there are named on standard error.

Exit status: 0; 1 when damaged or missing events had to be left out.")]
    Cat(cat::CatArguments),
    /// Print the newest events; the same as `cat --last`.
    #[command(after_help = "\
Examples:
  sidecar-log tail LOG                          the newest ten
  sidecar-log tail LOG -n 1 | jq .received_at   when the newest one was received
  sidecar-log tail LOG -n 0 --follow            only what is new
  sidecar-log tail LOG --types Fault            the newest ten of this kind

Exit status: 0; 1 when damaged or missing events had to be left out.")]
    Tail(tail::TailArguments),
    /// Rewrite sealed segments into large blocks at a high zstd level. No event changes; clients can decode them as before.
    #[command(after_help = "\
Examples:
  sidecar-log compact LOG --dry-run    estimate the gain from samples
  nice sidecar-log compact LOG         do it; stop the sidecar first
  sidecar-log compact LOG --level 12   less of it, several times faster

Each segment is written aside, read back, compared event by event, and only then put in the place of \
the old one. It can be stopped at any time and resumes with the next segment when it is \
restarted. A running sidecar compacts its log by itself: see `compaction` under [storage.log] in its \
configuration.

Exit status: 0; 1 when a damaged segment was left alone, or the command failed.")]
    Compact(compact::CompactArguments),
    /// Write a range of events to a file: JSON lines, Parquet, or the SQL tables in SQLite.
    #[command(after_help = "\
Examples:
  sidecar-log export LOG --output events.jsonl
  sidecar-log export LOG --types BlockAdded,Step --format parquet --output blocks.parquet
  sidecar-log export LOG --from 1000 --until 1999 --format sqlite --output part.db3
  sidecar-log export LOG --output events.jsonl --resume     resume after an interruption

Parquet columns: sequence, received_at, kind, source, api_version, keys (JSON), payload.

FILE is there once it is whole, and its events and bytes are printed. Until then the export is in the \
folder FILE.unfinished, which --resume continues if log, --from, --until, --types and --format are the same; without --resume it is \
refused, and removing it restarts the export.

Exit status: 0; 1 when damaged events had to be left out, or the command failed.")]
    Export(export::ExportArguments),
    /// Make a log, or the older part of one, of the events in a database of the Casper Sidecar.
    #[command(after_help = "\
Examples:
  sidecar-log import --from sqlite:sqlite_database.db3 /var/lib/sidecar
  PGPASSWORD=… sidecar-log import --from 'postgresql://user@host/events?sslmode=require' LOG

Databases of the Casper Sidecar 2.x can be imported. The log of a storage path is made where the sidecar \
looks for it, in logs/casper, and is there once it is whole. Until then it is in logs/casper.importing: \
the sidecar does not start beside that, and an import that was stopped is restarted by the same command.

Where there is a log already, the history is put in front of it, without the events that it has: stop the \
sidecar first. The events get the ids before the log's first one, so a log that begins at 0, or that has \
dropped its first events, has no room for them. Its index and views are removed and rebuilt at the next \
start. An import that was stopped is continued by the same command.

The rows are read twice, as they are at the beginning: to check and count them, and to import them. \
Events come in the order of event_log_id, their types' names put around them again; they were received \
at their emitted_timestamp. Carriage returns between the parts of a JSON text become line feeds, as an \
event stream carries them. Where the storage path has the Casper Sidecar's sse_index, a new log ends \
before the id in it. `sidecar --import-history` does the same at a start, from the SQLite file in its storage folder.

Exit status: 0; 1 when an event was left out because its content is missing, not of its type, or more \
than a log can hold, or was stored without its API version because that cannot be read, or the command \
failed.")]
    Import(import::ImportArguments),
    /// Check every checksum, sequence and chain value. Changes nothing.
    #[command(after_help = "\
Examples:
  sidecar-log verify LOG
  sidecar-log verify LOG --json | jq '.problems[].reason'
  sidecar-log verify LOG --chain

The line `chain` is what `sidecar-log head --at` prints for the last event that could be checked.

With --chain it reports for each stretch of events what its hashes begin with, where it ends, and which \
sequences are holes between them. An event that was edited, moved, taken out or put in breaks the chain \
there. A writer that can replace the whole log can forge the chain too: compare `sidecar-log head` with a \
replica, a back-up or a note of an earlier day.

A copy of a log that was being written may end before what its head names. That is noted, and wrong with --whole.

Exit status: 0 when the log is sound; 1 when anything is wrong. A hole that a mark explains is not wrong.")]
    Verify {
        #[command(flatten)]
        log: LogArgument,
        /// For a copy: it must hold all that its head names.
        #[arg(long)]
        whole: bool,
        /// Show the chain: stretches of events that follow from each other, and the holes between them.
        #[arg(long)]
        chain: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print one line: log id, sequence and hash of the newest event, to compare with replicas, back-ups and earlier selves.
    #[command(after_help = "\
Examples:
  sidecar-log head LOG
  sidecar-log head LOG --at 41999      what a replica that ends there must print, too

The hash covers every event up to that sequence. Two logs that print the same line hold the same history.

Exit status: 0; 1 when the log does not know the hash at that sequence.")]
    Head(head::HeadArguments),
    /// Set right what verify finds: quarantine bad blocks, rebuild lost footers and heads, set broken tails aside.
    #[command(after_help = "\
Examples:
  sidecar-log repair LOG --dry-run    show what would be done
  sidecar-log repair LOG              do it; stop the sidecar first

Damaged bytes are kept beside the log in *.quarantined and *.lost files, and a mark says which events are gone.

Exit status: 0 when the log is sound now (with --dry-run: already was); 1 when something is left to do.")]
    Repair {
        #[command(flatten)]
        log: LogArgument,
        /// Change nothing; show what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Rebuild the views by which the REST server finds events.
    #[command(after_help = "\
Examples:
  sidecar-log rebuild-views LOG           stop the sidecar first
  sidecar-log rebuild-views LOG --json

The sidecar does the same by itself when the file is missing or cannot be trusted. A file that holds \
something else is set aside as FILE.aside.

Exit status: 0; 1 when the log is being written, or the views cannot be made.")]
    RebuildViews(rebuild_views::RebuildViewsArguments),
}

#[derive(clap::Args)]
struct LogArgument {
    /// The log's directory, or a storage path that holds one log.
    #[arg(value_name = "LOG")]
    path: PathBuf,
}

impl LogArgument {
    fn storage(&self) -> anyhow::Result<Arc<dyn Storage>> {
        Ok(Arc::new(Directory::at(locate::log_directory(&self.path)?)))
    }

    fn open(&self) -> anyhow::Result<Log> {
        Ok(Log::open(self.storage()?, ReadOptions::default())?)
    }
}

/// The command line, from which the shell completions and the manual pages are made.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what this process, which is `build`, was asked for.
#[must_use]
pub fn main(build: Build) -> ExitCode {
    let version = build.to_string().leak();
    let mut command = command().long_version(&*version);
    let matches = match command.try_get_matches_from_mut(std::env::args_os()) {
        Ok(matches) => matches,
        Err(refusal) => with_guess(refusal).exit(),
    };
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(arguments.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader closed our output.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(WrongUsage(message)) = error.downcast_ref()
                && let Some(command) = matches.subcommand_name().and_then(|name| command.find_subcommand_mut(name))
            {
                command.error(ErrorKind::ValueValidation, message).exit();
            }
            print::to_stderr(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What people type for other subcommands.
const GUESSES: &Guesses = &[
    ("stats", "sidecar-log inspect LOG"),
    ("stat", "sidecar-log inspect LOG"),
    ("info", "sidecar-log inspect LOG"),
    ("status", "sidecar-log inspect LOG"),
    ("show", "sidecar-log inspect LOG"),
    ("ls", "sidecar-log inspect LOG"),
    ("list", "sidecar-log inspect LOG"),
    ("du", "sidecar-log inspect LOG"),
    ("dump", "sidecar-log cat LOG"),
    ("print", "sidecar-log cat LOG"),
    ("read", "sidecar-log cat LOG"),
    ("get", "sidecar-log cat LOG"),
    ("events", "sidecar-log cat LOG"),
    ("follow", "sidecar-log tail LOG --follow"),
    ("watch", "sidecar-log tail LOG --follow"),
    ("check", "sidecar-log verify LOG"),
    ("fsck", "sidecar-log verify LOG"),
    ("validate", "sidecar-log verify LOG"),
    ("scrub", "sidecar-log verify LOG"),
    ("fix", "sidecar-log repair LOG"),
    ("recover", "sidecar-log repair LOG"),
    ("compress", "sidecar-log compact LOG"),
    ("vacuum", "sidecar-log compact LOG"),
    ("hash", "sidecar-log head LOG"),
    ("digest", "sidecar-log head LOG"),
    ("backup", "sidecar-log export LOG --output FILE"),
    ("csv", "sidecar-log export LOG --output FILE"),
    ("parquet", "sidecar-log export LOG --format parquet --output FILE"),
    ("sqlite", "sidecar-log export LOG --format sqlite --output FILE"),
    ("restore", "sidecar-log import --from DATABASE LOG"),
    ("load", "sidecar-log import --from DATABASE LOG"),
    ("migrate", "sidecar-log import --from DATABASE LOG"),
    ("rebuild", "sidecar-log rebuild-views LOG"),
    ("reindex", "sidecar-log rebuild-views LOG"),
    ("demo", "sidecar demo"),
    ("version", "sidecar-log --version"),
];

/// Adds what was probably meant to the refusal of a command line.
fn with_guess(refusal: clap::Error) -> clap::Error {
    guessing(refusal, GUESSES, |typed| Path::new(typed).is_dir().then(|| format!("sidecar-log inspect {typed}")))
}

/// What was typed wrong, where that only shows when more than one argument is looked at.
#[derive(Debug)]
struct WrongUsage(String);

impl Display for WrongUsage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for WrongUsage {}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Runs a command; returns whether all is well.
fn run(command: Command) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    let is_well = match command {
        Command::Inspect { log, json } => {
            let report = inspect(&log.open()?)?;
            if json {
                print_json(&mut out, &report)?
            } else {
                print::report(&mut out, &report)?
            }
            report.health.is_empty()
        }
        Command::Cat(arguments) => cat::cat(&arguments, &mut out)?,
        Command::Tail(arguments) => cat::cat(&arguments.into(), &mut out)?,
        Command::Compact(arguments) => compact::compact(&arguments, &mut out)?,
        Command::Export(arguments) => export::export(&arguments, &mut out)?,
        Command::Head(arguments) => head::head(&arguments, &mut out)?,
        Command::Import(arguments) => import::import(&arguments, &mut out)?,
        Command::Verify { log, whole, chain, json } => {
            let storage = log.storage()?;
            let bar = print::byte_bar("verifying");
            let mut verification = verify(&storage, &mut |progress| {
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes);
            })?;
            bar.finish_and_clear();
            if whole {
                verification.require_whole();
            }
            if json {
                print_json(&mut out, &verification)?
            } else {
                print::verification(&mut out, &verification, chain)?
            }
            verification.is_sound
        }
        Command::Repair { log, dry_run, json } => repair::repair(&log, dry_run, json, &mut out)?,
        Command::RebuildViews(arguments) => rebuild_views::rebuild_views(&arguments, &mut out).map(|()| true)?,
    };
    out.flush()?;
    Ok(is_well)
}

fn print_json(out: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
