//! History: the events that the Casper Sidecar left in the storage folder. They are imported before anything is served, if that
//! is asked for; otherwise it is logged how they can be.

use std::env;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{Cursor, Item, Log, ReadOptions, Timestamp};
use tracing::{info, warn};

use super::plan;
use crate::casper::import::reference::{self, History, LeftDatabase};
use crate::casper::import::{self, Database, Outcome, Place, Progress, Stage, has_imported};
use crate::config::Storage;
use crate::engine::storage_folder::is_log;

/// Between two log lines about the progress of an import.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Rows with something wrong that get a line each; the others are only counted.
const WARNINGS_MAX: u64 = 20;

/// The argument that has history imported.
const IMPORT_HISTORY: &str = "--import-history";

/// What was found in the storage folder.
pub(super) struct Left {
    database: Option<LeftDatabase>,
    /// Whether the log has not begun yet, or has room for history in front of its first event ever.
    has_room: bool,
}

/// Imports the history, if that is asked for and is not done yet, and completes what an import was stopped in. `None` when `end`
/// came first: then the next start continues.
pub(super) async fn import(storage: &Storage, end: Pin<&mut impl Future<Output = ()>>) -> anyhow::Result<Option<Left>> {
    let is_stopped = Arc::new(AtomicBool::new(false));
    let importing = tokio::task::spawn_blocking({
        let (storage, shown) = (storage.clone(), Shown::new(Arc::clone(&is_stopped)));
        move || import_if_asked_for(&storage, shown)
    });
    let mut importing = pin!(importing);
    tokio::select! {
        done = importing.as_mut() => return done?.map(Some),
        () = end => is_stopped.store(true, Ordering::Relaxed),
    }
    // It holds the log's lock until it ends, which is soon.
    match importing.await? {
        Err(error) if error.is::<Stopped>() => {
            let command = command_to_import();
            warn!(command, "the import of history was stopped before its end; start with this command to complete it");
            Ok(None)
        }
        outcome => outcome.map(|_| None),
    }
}

fn import_if_asked_for(storage: &Storage, mut shown: Shown) -> anyhow::Result<Left> {
    let places = plan::log_places(storage);
    let directory = places.directory();
    let left = Left {
        database: reference::find_database(&storage.folder, storage.sqlite_file.as_deref()),
        has_room: Place::has_room(&directory),
    };
    let is_unfinished = Place::is_unfinished(&directory);
    if !storage.import_history && !is_unfinished {
        return Ok(left);
    }
    // It is done once, and then the databases in the folder may be of any kind.
    if !is_unfinished && Place::is_settled(&directory)? {
        return Ok(left);
    }
    let folder = storage.folder.display();
    let database = match &left.database {
        // The database is not needed to complete an import.
        _ if is_unfinished => Database::Sqlite(storage.folder.clone()),
        Some(LeftDatabase { history: Err(why), .. }) => {
            bail!("cannot import the history in the storage folder: {why:#}")
        }
        Some(LeftDatabase { file, history: Ok(history) }) if is_own_export(&directory, history)? => {
            let file = file.display();
            info!(%file, "there is no history to import: the database is an export of the log");
            return Ok(left);
        }
        Some(LeftDatabase { file, .. }) => Database::Sqlite(file.clone()),
        None => {
            if !is_log(&directory).unwrap_or(false) {
                warn!(%folder, "there is no history to import: no database of a Casper Sidecar is in the storage folder");
            }
            return Ok(left);
        }
    };
    let place = Place::claim(&directory, places)?;
    let outcome = import::import(&database, place, &mut shown).context("the history was not imported")?;
    shown.end();
    match outcome {
        Outcome::Continued { oldest } => info!(oldest, "a stopped import of history is complete"),
        Outcome::Imported(summary) if summary.is_complete() => {
            info!(events = summary.events, already_there = summary.already_there, "history imported");
        }
        Outcome::Imported(summary) => warn!(
            events = summary.events,
            left_out = summary.left_out,
            without_version = summary.without_version,
            "history imported, but some rows could not be taken over whole; the database keeps them"
        ),
    }
    Ok(left)
}

impl Left {
    /// Logs that there is history which the log has not, and how to import it.
    pub(super) fn name_if_missing_in(&self, log: &Log) {
        let Some(LeftDatabase { file, history }) = &self.database else { return };
        let is_empty = log.head().next_sequence == log.oldest();
        let file = file.display();
        match history {
            Ok(history)
                if is_empty
                    || (self.has_room
                        && first_received(log).is_some_and(|first_received| is_older(history, first_received))
                        && !has_imported(log).unwrap_or(true)) =>
            {
                let command = command_to_import();
                warn!(
                    %file,
                    rows = history.rows,
                    command,
                    "events of a Casper Sidecar are in the storage folder and not in the log; to import them, stop this \
                     process and start it with this command, or with `import_history = true` in `[storage]`"
                );
            }
            Err(why) if is_empty => {
                warn!(%file, reason = format!("{why:#}"), "a database in the storage folder cannot be imported; the log begins without it");
            }
            _ => {}
        }
    }
}

/// Whether `history` has rows from before the log's first event was received. An export of the log's own has none.
fn is_older(history: &History, first_received: Timestamp) -> bool {
    // Its time is in whole seconds.
    first_received >= history.begun.saturating_add(1_000_000)
}

/// Whether there is a log in `directory` whose first event is no newer than what is in the database.
fn is_own_export(directory: &Path, history: &History) -> anyhow::Result<bool> {
    if !is_log(directory).unwrap_or(false) {
        return Ok(false);
    }
    let log = Log::open(Arc::new(Directory::at(directory)), ReadOptions::default())?;
    Ok(first_received(&log).is_some_and(|first_received| !is_older(history, first_received)))
}

/// When the log's first event was received, if it has one that can be read.
fn first_received(log: &Log) -> Option<Timestamp> {
    let run = Cursor::new(log, log.oldest()).next_run().ok()??;
    run.items().find_map(|item| match item {
        Item::Event(row, _) => Some(row.received()),
        Item::Missing(..) => None,
    })
}

/// The command that started this process, with the argument to import.
fn command_to_import() -> String {
    let is_plain = |argument: &str| {
        !argument.is_empty() && argument.chars().all(|letter| letter.is_alphanumeric() || "-_./=:,+@%".contains(letter))
    };
    let quoted = |argument: String| match is_plain(&argument) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    };
    let arguments = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let others = arguments.filter(|argument| argument != IMPORT_HISTORY).map(quoted);
    others.chain([IMPORT_HISTORY.to_owned()]).collect::<Vec<_>>().join(" ")
}

/// A bar on a terminal, log lines elsewhere.
struct Shown {
    is_stopped: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
    stage: Stage,
    rows: u64,
    read: u64,
    reported: Instant,
    warnings: u64,
}

/// The process is to end.
#[derive(Debug, thiserror::Error)]
#[error("the import was stopped")]
struct Stopped;

impl Shown {
    fn new(is_stopped: Arc<AtomicBool>) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} history {wide_bar} {human_pos}/{human_len} events, {eta}");
            style
                .map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
                .with_finish(ProgressFinish::AndClear)
        });
        Shown { is_stopped, bar, stage: Stage::Check, rows: 0, read: 0, reported: Instant::now(), warnings: 0 }
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        info!(stage = self.stage.name(), read = self.read, rows = self.rows, "history is imported");
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Shown {
    fn begin(&mut self, stage: Stage, rows: u64) {
        (self.stage, self.rows, self.read) = (stage, rows, 0);
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_length(rows);
                bar.set_message(stage.name());
            }
            None => self.report(),
        }
    }

    fn advance(&mut self) {
        self.read += 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None if self.read.is_multiple_of(1024) && self.reported.elapsed() >= REPORT_INTERVAL => self.report(),
            None => {}
        }
    }

    fn stop_if_asked(&self) -> anyhow::Result<()> {
        ensure!(!self.is_stopped.load(Ordering::Relaxed), Stopped);
        Ok(())
    }

    fn warn(&mut self, row: i64, what: &str) {
        self.warnings += 1;
        if self.warnings <= WARNINGS_MAX {
            warn!(event_log_id = row, has = what, "a row of the history is not as a node would have it");
        }
    }
}
