//! Exporters: the log's events as rows in an external database.
//!
//! Owns what the tables of the Casper Sidecar say about an event, and its way into SQLite and PostgreSQL. Events flow in
//! from the log, from a checkpoint on; rows flow out in batches, each in one transaction with the checkpoint that follows
//! it. An exporter lags when its database is slow, away or full, and catches up by itself; ingest never waits for it.
//!
//! - `rows`: what one event writes, and where that cannot be said.
//! - `batch`: the next events of the log, as many as go into one transaction.
//! - `exporter`: the life of one exporter on its own thread: connect, write, back off.
//! - `range`: one range into a file, without an end to wait for.
//! - `tables`: whether a database has the tables, and whether they still hold what was written.
//! - `sqlite`, `postgresql`: the two databases. The statements are theirs; the rules are the modules' above.

mod batch;
pub mod counters;
mod exporter;
pub mod postgresql;
mod range;
mod rows;
pub mod sqlite;
mod tables;

use std::{sync::Arc, time::Duration};

use sidecar_log_format::{Head, Log, Sequence};
use tokio::{
    sync::{oneshot, watch},
    task::JoinError,
    time::error::Elapsed,
};

pub use exporter::{ExportError, ExportFrom};
pub use range::{Summary, export_range};

use crate::engine::thread;
use counters::Counters;
use exporter::{Database, Exporter};
use tables::Tables;
pub(in crate::casper) use tables::imported_tables;

/// How far an exporter is: a row of the table `sidecar_checkpoint`, which the reference does not know and leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checkpoint {
    /// The log's epoch that the sequences belong to.
    epoch: u64,
    /// Where the export began.
    first_sequence: Sequence,
    /// The first event that is not exported yet.
    next_sequence: Sequence,
    /// The tables that rows were written to since then.
    filled: Tables,
}

/// A step from one checkpoint of a log to the next.
struct Advance<'a> {
    log_id: &'a str,
    from: Checkpoint,
    to: Checkpoint,
}

/// What a database has of an export.
struct Found {
    checkpoint: Checkpoint,
    /// Of the tables that rows were written to, those that have none now.
    emptied: Tables,
}

/// What became of the rows of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written {
    rows: u64,
    /// Rows whose keys were there already.
    collisions: u64,
    /// Events that the database cannot hold, and why.
    refused: Vec<(Sequence, String)>,
    /// The tables that the checkpoint now lists as filled.
    filled: Tables,
}

/// What became of a transaction.
enum Outcome {
    Written(Written),
    /// The checkpoint is not where it should be.
    CheckpointMoved,
    /// These tables have lost their rows.
    Emptied(Tables),
}

impl Outcome {
    /// What was written to the database `place`.
    fn written(self, place: String) -> Result<Written, ExportError> {
        match self {
            Outcome::Written(written) => Ok(written),
            Outcome::CheckpointMoved => Err(ExportError::CheckpointMoved { place }),
            Outcome::Emptied(emptied) => Err(ExportError::Emptied { place, tables: emptied.list() }),
        }
    }
}

/// What is exported where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// To SQLite.
    pub sqlite: Option<sqlite::Options>,
    /// To PostgreSQL.
    pub postgresql: Option<postgresql::Options>,
}

/// How long a database that does not answer may hold up the start.
const CHECK_TIME_MAX: Duration = Duration::from_secs(5);

/// The exporters that are asked for, running or not; what they count outlives their runs.
pub struct Exporters {
    options: Options,
    sqlite: Arc<Counters>,
    postgresql: Arc<Counters>,
}

/// The exporters while they run.
pub struct Running {
    ended: Vec<oneshot::Receiver<()>>,
    stop: watch::Sender<bool>,
}

impl Exporters {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Exporters { options, sqlite: Arc::default(), postgresql: Arc::default() }
    }

    /// What each exporter counts, with its name: `sqlite` or `postgresql`.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, &Arc<Counters>)> {
        let sqlite = self.options.sqlite.is_some().then_some(("sqlite", &self.sqlite));
        let postgresql = self.options.postgresql.is_some().then_some(("postgresql", &self.postgresql));
        sqlite.into_iter().chain(postgresql)
    }

    /// Looks at the databases once, and makes the tables where they are missing.
    ///
    /// # Errors
    /// What an operator must set right first: a file that is not a database or may not be written, a migration that this
    /// version does not know, or a server that answers and refuses. What may pass by itself is not an error.
    pub async fn check(&self) -> Result<(), ExportError> {
        let sqlite = async {
            let Some(options) = self.options.sqlite.clone() else { return Ok(()) };
            let place = options.place();
            let checked = tokio::task::spawn_blocking(move || sqlite::check(&options));
            let checked = async {
                let failed = |error: JoinError| ExportError::Failed { place: place.clone(), reason: error.to_string() };
                checked.await.map_err(failed).flatten()
            };
            report(&place, tokio::time::timeout(CHECK_TIME_MAX, checked).await)
        };
        let postgresql = async {
            let Some(options) = &self.options.postgresql else { return Ok(()) };
            let checked = tokio::time::timeout(CHECK_TIME_MAX, postgresql::check(options)).await;
            report(&options.place(), checked)
        };
        tokio::try_join!(sqlite, postgresql).map(drop)
    }

    /// Starts a thread for each. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no thread for an exporter.
    pub fn start(&self, log: &Log, committed: &watch::Receiver<Head>) -> std::io::Result<Running> {
        let (stop, stopping) = watch::channel(false);
        let mut running = Running { ended: Vec::new(), stop };
        let setting = |export_from, counters: &Arc<Counters>| exporter::Setting {
            export_from,
            log: log.clone(),
            committed: committed.clone(),
            stopping: stopping.clone(),
            counters: Arc::clone(counters),
        };
        if let Some(sqlite) = &self.options.sqlite {
            let database = sqlite::SqliteDatabase::new(sqlite.clone());
            running.spawn("sqlite", database, setting(sqlite.export_from, &self.sqlite))?;
        }
        if let Some(postgresql) = &self.options.postgresql {
            let database = postgresql::PostgreSqlDatabase::new(postgresql.clone(), stopping.clone());
            running.spawn("postgresql", database, setting(postgresql.export_from, &self.postgresql))?;
        }
        Ok(running)
    }
}

/// Passes a refusal on, and reports what the exporter itself will retry.
fn report(place: &str, checked: Result<Result<(), ExportError>, Elapsed>) -> Result<(), ExportError> {
    let trouble = match checked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if error.is_refusal() => return Err(error),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("{place} does not answer"),
    };
    tracing::warn!(
        trouble,
        "a database cannot be exported to now; events stay in the log and are exported when it is back"
    );
    Ok(())
}

impl Running {
    fn spawn(
        &mut self,
        name: &'static str,
        database: impl Database + 'static,
        setting: exporter::Setting,
    ) -> std::io::Result<()> {
        let exporter = Exporter::new(name, database, setting);
        let (end, ended) = oneshot::channel();
        thread::start(&format!("export-{name}"), move || {
            exporter.run();
            // The receiver may be gone.
            let _ = end.send(());
        })?;
        self.ended.push(ended);
        Ok(())
    }

    /// Stops all, each after the transaction that it is in, and waits for them at most `time_max`. What is not exported
    /// then is exported after the next start.
    pub async fn stop(self, time_max: Duration) {
        self.stop.send_replace(true);
        let all_ended = async {
            for ended in self.ended {
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(time_max, all_ended).await.is_err() {
            tracing::warn!(waited = ?time_max, "an exporter did not stop in time, its last transaction is rolled back");
        }
    }
}
