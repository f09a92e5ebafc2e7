//! The life of one exporter: connect, continue from the checkpoint, write, back off.
//!
//! It runs on a thread of its own, because reading the log and writing SQLite block. Whatever the database answers, the
//! exporter continues: what may pass is tried again after a pause, with less at once; a batch that the database cannot hold
//! is cut down until the one event is found that it cannot hold, which is then left out, named and counted. Where the
//! database has lost what was exported to it (a file that was moved away, tables that were emptied), the export starts again.

use std::{
    any::Any,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use sidecar_log_format::{Head, Log, Missing, Sequence};
use tokio::{runtime::Handle, sync::watch};
use tracing::{error, info, warn};

use super::{
    Advance, Checkpoint, Found, Written,
    batch::Batch,
    counters::Counters,
    rows::EventRow,
    tables::{MIGRATION, Tables},
};
use crate::{
    engine::{backoff::Backoff, thread::panic_message},
    sse_client::log_lines::LineBudget,
};

/// Pauses before the database is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a failure that stays the same is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(600);
/// How often the database is looked after while there is nothing to write.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// The most events of one transaction.
pub(super) const BATCH_EVENTS_MAX: usize = 8192;

/// Why an export cannot begin or continue.
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
    /// The database answers that it does not let this user in or do something, or has no database of this name.
    #[error("{place} refuses: {reason}; {advice}")]
    Refused {
        /// Which database.
        place: String,
        /// Its answer.
        reason: String,
        /// What to do.
        advice: String,
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
    /// A certificate to trust cannot be read.
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
    /// Part of the tables is gone.
    #[error(
        "{place} lacks {tables}, while others of Sidecar's tables are there; restore them or give them their names back, or drop (or move to another schema) the others too: then all are made and filled again from the log"
    )]
    MissingTables {
        /// Which database.
        place: String,
        /// The names of those that are missing, quoted.
        tables: String,
    },
    /// There are no tables to read.
    #[error(
        "{place} does not hold Sidecar's tables ({reason}); let a Sidecar that reads nodes export to it first, with `[sse_server]` and `[storage.{section}]`, or give another database"
    )]
    NoTables {
        /// Which database.
        place: String,
        /// What is missing.
        reason: String,
        /// The section of the configuration that names such a database.
        section: &'static str,
    },
    /// There are tables that may not be read.
    #[error("{place} does not let its user read ({reason}); grant that user SELECT on all of Sidecar's tables")]
    Unreadable {
        /// Which database.
        place: String,
        /// Its answer.
        reason: String,
    },
    /// The file cannot be read as a database.
    #[error(
        "cannot read {place}: {reason}; give a file that is a SQLite database, and let the user of Sidecar read it and, unless another program has it open, write in its folder"
    )]
    UnreadableFile {
        /// Which file.
        place: String,
        /// Why not.
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
    /// The file is not at its path any more.
    #[error(
        "{place} was moved, replaced or removed while it was written to; what was exported is whole in the file that it was, and the events are exported again to a new one"
    )]
    Displaced {
        /// Which file.
        place: String,
    },
    /// Tables that rows were written to have none now.
    #[error("tables of {place} were emptied: {tables}")]
    Emptied {
        /// Which database.
        place: String,
        /// Their names.
        tables: String,
    },
    /// Another exporter has moved the checkpoint.
    #[error("another exporter of the same log writes to {place}")]
    CheckpointMoved {
        /// Which database.
        place: String,
    },
    /// A Sidecar on a copy of the log has begun to export to the same database.
    #[error(
        "another Sidecar that runs on a copy of this log (epoch {epoch}) exports to {place} now, so this one does not; give one of the two another database, and restart this one to have it export again"
    )]
    TakenOver {
        /// Which database.
        place: String,
        /// The epoch of the copy.
        epoch: u64,
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
    /// The exporter has panicked.
    #[error("the exporter has panicked ({message}): this is a mistake in Sidecar, please report it")]
    Panicked {
        /// Of the panic.
        message: String,
    },
    /// The exporter was stopped.
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
                | Self::MissingTables { .. }
                | Self::NoTables { .. }
                | Self::Unreadable { .. }
                | Self::UnreadableFile { .. }
                | Self::TakenOver { .. }
        )
    }
}

/// What a log is called in `sidecar_checkpoint`.
pub(super) fn log_id(log: &Log) -> String {
    format!("{:032x}", u128::from_be_bytes(log.id()))
}

/// A database that events are exported to.
pub(super) trait Database: Send {
    /// Connects, makes the tables if there are none, and reads the checkpoint of the log; `initial` is stored if there is
    /// none yet.
    fn open(&mut self, log_id: &str, initial: Checkpoint) -> Result<Found, ExportError>;

    /// Writes rows and checkpoint in one transaction. Rows go only to tables that still hold what was written to them.
    fn write(&mut self, rows: &[EventRow<'_>], advance: &Advance<'_>) -> Result<Written, ExportError>;

    /// Called from time to time while there is nothing to write: whether what was written is still there.
    fn look_after(&mut self) -> Result<(), ExportError> {
        Ok(())
    }
}

/// Where an export begins in a database that has no checkpoint of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFrom {
    /// With the oldest event of the log.
    #[default]
    Oldest,
    /// With the next event that the log gets.
    Head,
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
    backoff: Backoff,
    /// The most events of the next transaction.
    events_max: usize,
    /// Where the last transaction ended, in any file or tables.
    exported_to: Option<Sequence>,
    /// The database in which another exporter has moved the checkpoint since this one has last begun.
    moved_in: Option<String>,
    /// For events that the database cannot hold.
    refusals: LineBudget,
    /// The failure that was reported last, until the database is there again.
    reported: Option<(String, Instant)>,
    /// Whether it was reported since then that the export continues.
    continuing_reported: bool,
    /// Whether it was reported that the log has events from before the export's first.
    older_reported: bool,
}

/// Why an exporter's wait for events has ended.
enum Woken {
    Events,
    Idle,
    Stopping,
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
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
            events_max: BATCH_EVENTS_MAX,
            exported_to: None,
            moved_in: None,
            refusals: LineBudget::new(),
            reported: None,
            continuing_reported: false,
            older_reported: false,
        }
    }

    /// Exports until it is stopped or the log is closed.
    pub(super) fn run(mut self) {
        loop {
            // What it may have left half done is a transaction, which is rolled back.
            let exported = catch_unwind(AssertUnwindSafe(|| self.export()));
            let panicked =
                |panic: Box<dyn Any + Send>| ExportError::Panicked { message: panic_message(&*panic).to_owned() };
            match exported.map_err(panicked).flatten() {
                Ok(()) | Err(ExportError::Stopped) => return,
                Err(error) => {
                    if let ExportError::CheckpointMoved { place } = &error {
                        self.moved_in = Some(place.clone());
                    }
                    self.counters.failures.add(1);
                    self.counters.set_connected(false);
                    self.report(&error);
                }
            }
            let pause = self.backoff.take();
            if !self.wait(pause) {
                return;
            }
        }
    }

    /// Reports a failure, unless it was reported not long ago.
    fn report(&mut self, error: &ExportError) {
        let reason = error.to_string();
        if self.reported.as_ref().is_some_and(|(last, at)| *last == reason && at.elapsed() < REPORT_INTERVAL) {
            return;
        }
        let (exporter, next_sequence, retry_in) = (self.name, self.counters.next_sequence(), self.backoff.pause());
        if error.is_refusal() {
            error!(exporter, next_sequence, ?retry_in, %error, "export failed, it is retried");
        } else {
            warn!(exporter, next_sequence, ?retry_in, %error, "export failed, it is retried");
        }
        self.reported = Some((reason, Instant::now()));
        self.continuing_reported = false;
    }

    /// One connection's life; `Ok` when there is nothing more to do.
    fn export(&mut self) -> Result<(), ExportError> {
        let mut checkpoint = self.begin()?;
        self.counters.set_connected(true);
        loop {
            self.counters.set_next_sequence(checkpoint.next_sequence);
            self.exported_to = Some(checkpoint.next_sequence);
            match self.wait_for_events(checkpoint.next_sequence) {
                Woken::Events => {}
                Woken::Idle => {
                    self.database.look_after()?;
                    continue;
                }
                Woken::Stopping => return Ok(()),
            }
            let batch = Batch::read(&self.log, checkpoint.next_sequence..Sequence::MAX, self.events_max)?;
            let rows = batch.rows();
            let Some(next) = self.write(&rows, checkpoint, batch.end)? else { continue };
            self.counters.without_table.add((batch.count(u64::MAX) - rows.len()) as u64);
            for (sequences, why) in &batch.missing {
                self.pass(sequences, why);
            }
            checkpoint = next;
        }
    }

    fn pass(&self, sequences: &Range<Sequence>, why: &Missing) {
        self.counters.missing.add(sequences.end - sequences.start);
        let (first_sequence, last_sequence) = (sequences.start, sequences.end - 1);
        warn!(exporter = self.name, first_sequence, last_sequence, reason = %why, "events are not exported");
    }

    /// Opens the database and decides where to continue.
    fn begin(&mut self) -> Result<Checkpoint, ExportError> {
        let head = self.log.head();
        let first_sequence = match self.export_from {
            ExportFrom::Oldest => self.log.oldest(),
            // A file that takes the place of another continues where that one ends.
            ExportFrom::Head => self.exported_to.unwrap_or(head.next_sequence),
        };
        let start_at = |first_sequence| Checkpoint {
            epoch: head.epoch,
            first_sequence,
            next_sequence: first_sequence,
            filled: Tables::default(),
        };
        let exporter = self.name;
        let Found { checkpoint: stored, emptied } = self.database.open(&self.log_id, start_at(first_sequence))?;
        if stored.epoch == head.epoch {
            self.moved_in = None;
        }
        if let Some(place) = self.moved_in.clone() {
            // It would be taken back, and neither would get on.
            return Err(ExportError::TakenOver { place, epoch: stored.epoch });
        }
        let exported_to = stored.next_sequence;
        let checkpoint = if stored.epoch != head.epoch || stored.next_sequence > head.next_sequence {
            // Sequences may name other events than those that were exported. Rows that are there already collide. Of what
            // the log has dropped, only that is missing which was not exported before.
            let from = self.log.oldest().min(stored.next_sequence).max(stored.first_sequence);
            let again = Checkpoint { epoch: head.epoch, next_sequence: from, ..stored };
            warn!(
                exporter,
                exported_to, from, "the log is not the one that was exported, its events are compared again"
            );
            again
        } else if emptied.has_event_log() {
            let again = match self.export_from {
                ExportFrom::Oldest => start_at(first_sequence),
                ExportFrom::Head => start_at(stored.next_sequence),
            };
            let from = again.next_sequence;
            warn!(exporter, exported_to, from, "the exported rows are gone, the events are exported again");
            again
        } else if !emptied.is_none() {
            let tables = emptied.list();
            warn!(
                exporter,
                tables,
                "tables were emptied; they get new rows only, because event_log still has the rows of the old ones: to \
                 have all events exported again, empty event_log and what refers to it, too"
            );
            Checkpoint { filled: stored.filled.without(emptied), ..stored }
        } else {
            if !self.continuing_reported {
                info!(exporter, next_sequence = stored.next_sequence, "export continues");
                self.continuing_reported = true;
            }
            stored
        };
        if let Some(older) = self.never_exported(checkpoint) {
            self.report_older(&older);
        }
        if checkpoint != stored {
            self.database.write(&[], &Advance { log_id: &self.log_id, from: stored, to: checkpoint })?;
        }
        Ok(checkpoint)
    }

    /// The events that the log has from before the export's first: history that was put in front of it, or what an export
    /// from the head left out.
    fn never_exported(&self, checkpoint: Checkpoint) -> Option<Range<Sequence>> {
        let older = self.log.oldest()..checkpoint.first_sequence;
        (self.export_from == ExportFrom::Oldest && !older.is_empty()).then_some(older)
    }

    fn report_older(&mut self, older: &Range<Sequence>) {
        if std::mem::replace(&mut self.older_reported, true) {
            return;
        }
        let (exporter, first_sequence, last_sequence) = (self.name, older.start, older.end - 1);
        warn!(
            exporter,
            first_sequence,
            last_sequence,
            log_id = self.log_id,
            "the log has older events than the first exported one, and they are not exported: to have them, too, delete the \
             row of this log_id from sidecar_checkpoint; then all events are exported again, and rows that are there stay"
        );
    }

    /// Writes a batch and returns the checkpoint after it; `None` when it must be read again in a smaller size.
    fn write(
        &mut self,
        rows: &[EventRow<'_>],
        from: Checkpoint,
        next_sequence: Sequence,
    ) -> Result<Option<Checkpoint>, ExportError> {
        let advance = Advance { log_id: &self.log_id, from, to: Checkpoint { next_sequence, ..from } };
        let written = match (self.database.write(rows, &advance), rows) {
            (Err(ExportError::Unstorable { reason, is_collision, .. }), [row]) => {
                let passed = self.database.write(&[], &advance)?;
                let refused = if is_collision { Vec::new() } else { vec![(row.sequence, reason)] };
                Written { collisions: is_collision.into(), refused, ..passed }
            }
            (Ok(written), _) => written,
            (Err(error), _) => {
                // A smaller batch may be what the database can take.
                self.events_max = (rows.len() / 2).max(1);
                let must_be_cut = rows.len() > 1 && matches!(error, ExportError::Unstorable { .. });
                return if must_be_cut { Ok(None) } else { Err(error) };
            }
        };
        self.counters.rows.add(written.rows);
        self.counters.collisions.add(written.collisions);
        self.counters.transactions.add(1);
        for (sequence, reason) in &written.refused {
            self.refuse(*sequence, reason);
        }
        self.backoff.reset();
        self.reported = None;
        self.events_max = (self.events_max * 2).min(BATCH_EVENTS_MAX);
        Ok(Some(Checkpoint { filled: written.filled, ..advance.to }))
    }

    /// Names an event that the database cannot hold, and counts it.
    fn refuse(&self, sequence: Sequence, reason: &str) {
        let exporter = self.name;
        self.counters.refused.add(1);
        let (may_write, left_out) = self.refusals.count();
        if left_out > 0 {
            warn!(exporter, left_out, "more lines like the next one were left out");
        }
        if may_write {
            error!(exporter, sequence, reason, "the database cannot hold this event, it is not exported");
        }
    }

    /// Waits until the log has the event `next`, at most until it is time to look after the database.
    fn wait_for_events(&mut self, next: Sequence) -> Woken {
        let (committed, stopping) = (&mut self.committed, &mut self.stopping);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => Woken::Stopping,
                head = committed.wait_for(|head| head.next_sequence > next) => match head {
                    Ok(_) => Woken::Events,
                    Err(_) => Woken::Stopping,
                },
                () = tokio::time::sleep(IDLE_INTERVAL) => Woken::Idle,
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

#[cfg(test)]
mod tests {
    use sidecar_test_support::wait::until;

    use super::*;
    use crate::engine::failing_reads::log_of_blocks;

    /// A database that panics when it is first opened.
    #[derive(Default)]
    struct Panicking {
        has_panicked: bool,
    }

    impl Database for Panicking {
        fn open(&mut self, _: &str, initial: Checkpoint) -> Result<Found, ExportError> {
            assert!(std::mem::replace(&mut self.has_panicked, true), "a test");
            Ok(Found { checkpoint: initial, emptied: Tables::default() })
        }

        fn write(&mut self, _: &[EventRow<'_>], _: &Advance<'_>) -> Result<Written, ExportError> {
            Ok(Written::default())
        }
    }

    #[tokio::test]
    async fn an_export_continues_after_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let (log, _) = log_of_blocks(folder.path(), &[10, 10]);
        let (_writer, committed) = watch::channel(log.head());
        let (stop, stopping) = watch::channel(false);
        let counters: Arc<Counters> = Arc::default();
        let export_from = ExportFrom::Oldest;
        let setting = Setting { export_from, log, committed, stopping, counters: Arc::clone(&counters) };
        let exporter = Exporter::new("a test", Panicking::default(), setting);
        let thread = std::thread::spawn(move || exporter.run());
        until(Duration::from_secs(60), "two exported events", async || counters.next_sequence() >= 2).await;
        stop.send_replace(true);
        thread.join().unwrap();
        assert_eq!(counters.failures.get(), 1);
    }
}
