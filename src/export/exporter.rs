//! The life of one exporter: connect, read on from the checkpoint, write, back off.
//!
//! It runs on a thread of its own, because reading the log and writing SQLite block. Whatever the database answers, the
//! exporter goes on: what may pass is tried again after a pause, with less at once; a batch that the database cannot hold is
//! cut down until the one event is found that it cannot hold, which is then left out and counted.

use std::{ops::Range, sync::Arc, time::Duration};

use sidecar_log_format::{Head, Log, Missing, Sequence};
use tokio::{runtime::Handle, sync::watch};
use tracing::{error, info, warn};

use super::{Advance, Checkpoint, MIGRATION, Written, batch::Batch, counters::Counters, rows::EventRow};
use crate::config::ExportFrom;

/// Pauses before the database is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The most events of one transaction.
pub(super) const BATCH_EVENTS_MAX: usize = 8192;

/// Why an export cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The database does not answer, or the connection broke.
    #[error("cannot reach {place}: {reason}")]
    Unreachable {
        /// Which database.
        place: String,
        /// What happened.
        reason: String,
    },
    /// The database answers that it does not let this user in, or has no database of this name.
    #[error("{place} refuses: {reason}; look at the user, the password and the database's name")]
    Refused {
        /// Which database.
        place: String,
        /// Its answer.
        reason: String,
    },
    /// The file cannot be a database, or not one of ours to write.
    #[error(
        "cannot use {place}: {reason}; give a file that is a SQLite database or not there yet, and that may be written"
    )]
    Unusable {
        /// Which file.
        place: String,
        /// Why not.
        reason: String,
    },
    /// A certificate that is to be trusted cannot be read.
    #[error("cannot use {path} as the root certificate: {reason}; give a file with certificates in PEM form")]
    RootCertificate {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// An earlier migration failed halfway, in the reference's words.
    #[error(
        "Cannot proceed with migration, newest migration version: {version} didn't finish correctly. It is that of {place}"
    )]
    UnfinishedMigration {
        /// Which database.
        place: String,
        /// The migration.
        version: i64,
    },
    /// The tables were made by something newer.
    #[error(
        "the tables of {place} are of migration version {found}, and this version of Sidecar knows version {MIGRATION} only; use a newer Sidecar, or give another database"
    )]
    UnknownMigration {
        /// Which database.
        place: String,
        /// The newest version in the table `Migration`.
        found: i64,
    },
    /// There are no tables to read.
    #[error(
        "{place} does not hold Sidecar's tables ({reason}); let a Sidecar that reads nodes export to it first, with `[sse_server]` and `[storage.postgresql_config]`, or give another database"
    )]
    NoTables {
        /// Which database.
        place: String,
        /// What is missing.
        reason: String,
    },
    /// There are tables that may not be read.
    #[error("{place} does not let its user read ({reason}); grant that user SELECT on all of Sidecar's tables")]
    Unreadable {
        /// Which database.
        place: String,
        /// Its answer.
        reason: String,
    },
    /// The statement failed; it is rolled back.
    #[error("{place}: {reason}")]
    Failed {
        /// Which database.
        place: String,
        /// Its answer.
        reason: String,
    },
    /// A value or a row that the database cannot hold; the transaction is rolled back.
    #[error("{place} cannot hold a row: {reason}")]
    Unstorable {
        /// Which database.
        place: String,
        /// Its answer.
        reason: String,
        /// Whether it was because another row has the same keys.
        is_collision: bool,
    },
    /// Somebody else has moved the checkpoint.
    #[error("another exporter of the same log writes to {place}")]
    CheckpointMoved {
        /// Which database.
        place: String,
    },
    /// The file holds an export of this log that began at another event.
    #[error("the file holds an export of this log that began with event {found}, not {wanted}; give another file")]
    OtherRange {
        /// Where that began.
        found: Sequence,
        /// Where this should.
        wanted: Sequence,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] sidecar_log_format::Error),
    /// The exporter was told to stop.
    #[error("stopped")]
    Stopped,
}

impl ExportError {
    /// Whether an operator must set something right before another attempt can help.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Unusable { .. }
                | Self::RootCertificate { .. }
                | Self::UnfinishedMigration { .. }
                | Self::UnknownMigration { .. }
                | Self::NoTables { .. }
                | Self::Unreadable { .. }
        )
    }
}

/// What a log is called in `sidecar_checkpoint`.
pub(super) fn log_id(log: &Log) -> String {
    format!("{:032x}", u128::from_be_bytes(log.id()))
}

/// A database that events are exported to.
pub(super) trait Database: Send {
    /// Connects, makes the tables if there are none, and gives the checkpoint of the log; `initial` is stored if there is
    /// none yet.
    fn open(&mut self, log_id: &str, initial: Checkpoint) -> Result<Checkpoint, ExportError>;

    /// Writes rows and checkpoint in one transaction.
    fn write(&mut self, rows: &[EventRow<'_>], advance: &Advance<'_>) -> Result<Written, ExportError>;
}

/// What an exporter works with.
pub(super) struct Setting {
    pub(super) export_from: ExportFrom,
    pub(super) log: Log,
    pub(super) committed: watch::Receiver<Head>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) counters: Arc<Counters>,
}

/// One exporter.
pub(super) struct Exporter<D> {
    name: &'static str,
    database: D,
    export_from: ExportFrom,
    log: Log,
    log_id: String,
    committed: watch::Receiver<Head>,
    stopping: watch::Receiver<bool>,
    counters: Arc<Counters>,
    runtime: Handle,
    pause: Duration,
    /// The most events of the next transaction.
    events_max: usize,
}

impl<D: Database> Exporter<D> {
    /// Must be called within a tokio runtime.
    pub(super) fn new(name: &'static str, database: D, setting: Setting) -> Self {
        let Setting { export_from, log, committed, stopping, counters } = setting;
        Exporter {
            name,
            database,
            export_from,
            log_id: log_id(&log),
            log,
            committed,
            stopping,
            counters,
            runtime: Handle::current(),
            pause: PAUSE_MIN,
            events_max: BATCH_EVENTS_MAX,
        }
    }

    /// Exports until it is told to stop or the log is closed.
    pub(super) fn run(mut self) {
        loop {
            match self.export() {
                Ok(()) | Err(ExportError::Stopped) => return,
                Err(error) => {
                    self.counters.failures.add(1);
                    self.counters.set_connected(false);
                    let (next, pause) = (self.counters.next_sequence(), self.pause);
                    if error.is_refusal() {
                        error!("export to {}: {error}; tried again in {pause:?}, from event {next} on", self.name);
                    } else {
                        warn!("export to {}: {error}; tried again in {pause:?}, from event {next} on", self.name);
                    }
                }
            }
            if !self.wait(self.pause) {
                return;
            }
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// One connection's life; `Ok` when there is nothing more to do.
    fn export(&mut self) -> Result<(), ExportError> {
        let mut checkpoint = self.begin()?;
        self.counters.set_connected(true);
        loop {
            self.counters.set_next_sequence(checkpoint.next_sequence);
            if !self.wait_for_events(checkpoint.next_sequence) {
                return Ok(());
            }
            let batch = Batch::read(&self.log, checkpoint.next_sequence..Sequence::MAX, self.events_max)?;
            let rows = batch.rows();
            let next = Checkpoint { next_sequence: batch.end, ..checkpoint };
            if !self.write(&rows, checkpoint, next)? {
                continue;
            }
            self.counters.without_table.add((batch.count(u64::MAX) - rows.len()) as u64);
            for (sequences, why) in &batch.missing {
                self.pass(sequences, why);
            }
            checkpoint = next;
        }
    }

    fn pass(&self, sequences: &Range<Sequence>, why: &Missing) {
        self.counters.missing.add(sequences.end - sequences.start);
        let why = match why {
            Missing::Dropped => "older than the oldest retained event",
            Missing::Hole => "the log has a marked hole there",
            Missing::Quarantined(damage) => damage,
        };
        warn!("events {} to {} are not exported: {why}", sequences.start, sequences.end - 1);
    }

    /// Opens the database and says where to go on.
    fn begin(&mut self) -> Result<Checkpoint, ExportError> {
        let head = self.log.head();
        let first_sequence = match self.export_from {
            ExportFrom::Oldest => self.log.oldest(),
            ExportFrom::Head => head.next_sequence,
        };
        let initial = Checkpoint { epoch: head.epoch, first_sequence, next_sequence: first_sequence };
        let stored = self.database.open(&self.log_id, initial)?;
        if stored.epoch == head.epoch && stored.next_sequence <= head.next_sequence {
            info!("export to {} goes on at event {}", self.name, stored.next_sequence);
            return Ok(stored);
        }
        // Sequences may name other events than those that were exported. Rows that are there already collide.
        let again = Checkpoint { epoch: head.epoch, next_sequence: stored.first_sequence, ..stored };
        warn!(
            "the log is not the one that was exported to {} up to event {}; all from event {} on is compared with what is there",
            self.name, stored.next_sequence, again.next_sequence
        );
        self.database.write(&[], &Advance { log_id: &self.log_id, from: stored, to: again })?;
        Ok(again)
    }

    /// Writes a batch; `false` when it must be read again in a smaller size.
    fn write(&mut self, rows: &[EventRow<'_>], from: Checkpoint, to: Checkpoint) -> Result<bool, ExportError> {
        let advance = Advance { log_id: &self.log_id, from, to };
        let written = match (self.database.write(rows, &advance), rows) {
            (Err(ExportError::Unstorable { place, reason, is_collision }), [row]) => {
                self.database.write(&[], &advance)?;
                if !is_collision {
                    error!("event {} is not exported: {place} cannot hold it: {reason}", row.sequence);
                }
                Written { rows: 0, collisions: is_collision.into(), refused: (!is_collision).into() }
            }
            (Ok(written), _) => written,
            (Err(error), _) => {
                // Whatever it was, less at once may be what the database can do.
                self.events_max = (rows.len() / 2).max(1);
                let is_to_be_cut = rows.len() > 1 && matches!(error, ExportError::Unstorable { .. });
                return if is_to_be_cut { Ok(false) } else { Err(error) };
            }
        };
        self.counters.rows.add(written.rows);
        self.counters.collisions.add(written.collisions);
        self.counters.refused.add(written.refused);
        self.counters.transactions.add(1);
        self.pause = PAUSE_MIN;
        self.events_max = (self.events_max * 2).min(BATCH_EVENTS_MAX);
        Ok(true)
    }

    /// Waits until the log has the event `next`; `false` when it will not.
    fn wait_for_events(&mut self, next: Sequence) -> bool {
        let (committed, stopping) = (&mut self.committed, &mut self.stopping);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => false,
                head = committed.wait_for(|head| head.next_sequence > next) => head.is_ok(),
            }
        })
    }

    /// Waits; `false` when it is to stop.
    fn wait(&mut self, pause: Duration) -> bool {
        let stopping = &mut self.stopping;
        self.runtime.block_on(async {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => false,
                () = tokio::time::sleep(pause) => true,
            }
        })
    }
}
