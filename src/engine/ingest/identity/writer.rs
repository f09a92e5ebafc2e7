//! The index writer: batches into redb, off the hot path.
//!
//! Owns one thread, which has at most one batch at a time. Batches flow in, what was written, or the error that ended the
//! thread, flows out. A dropped writer finishes its batch first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use super::rows::{self, Entry, ROWS};
use super::{Durable, IdentityIndexError, Result, store};
use crate::engine::derived::{Database, DerivedError};
use crate::engine::thread;

/// Entries whose events are durable in the log.
struct Batch {
    entries: Vec<Entry>,
    /// With them, the index is complete up to here.
    durable: Durable,
}

/// What redb now holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) entries: usize,
    pub(super) checkpoint: u64,
}

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    /// `None` only while dropping.
    batches: Option<SyncSender<Batch>>,
    finished: Receiver<std::result::Result<Written, DerivedError>>,
    in_flight_entries: usize,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(path: &Path, database: Arc<Database>) -> Result<Self> {
        let (batches, to_write) = sync_channel::<Batch>(1);
        let (report, finished) = sync_channel(1);
        let run = move || {
            for batch in to_write {
                let written = write(&database, batch);
                let failed = written.is_err();
                if report.send(written).is_err() || failed {
                    break;
                }
            }
        };
        let thread =
            thread::start("identity-index", run).map_err(|error| gone(path, format!("it did not start: {error}")))?;
        Ok(Self { path: path.to_owned(), batches: Some(batches), finished, in_flight_entries: 0, thread: Some(thread) })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight_entries > 0
    }

    pub(super) fn entries_in_flight(&self) -> usize {
        self.in_flight_entries
    }

    /// Only for an idle writer, and not for an empty batch.
    pub(super) fn hand_over(&mut self, entries: Vec<Entry>, durable: Durable) -> Result<()> {
        let count = entries.len();
        let sent = self.batches.as_ref().is_some_and(|batches| batches.send(Batch { entries, durable }).is_ok());
        if !sent {
            return Err(gone(&self.path, "it took no batch".to_owned()));
        }
        self.in_flight_entries = count;
        Ok(())
    }

    /// What has been written since the last call, if the batch is finished. Never blocks.
    pub(super) fn poll(&mut self) -> Result<Option<Written>> {
        match self.finished.try_recv() {
            Ok(written) => self.note(written).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone(&self.path, "it panicked".to_owned())),
        }
    }

    /// The same, but waits for the batch, if there is one.
    pub(super) fn wait(&mut self) -> Result<Option<Written>> {
        if !self.is_busy() {
            return Ok(None);
        }
        match self.finished.recv() {
            Ok(written) => self.note(written).map(Some),
            Err(_) => Err(gone(&self.path, "it panicked".to_owned())),
        }
    }

    fn note(&mut self, written: std::result::Result<Written, DerivedError>) -> Result<Written> {
        self.in_flight_entries = 0;
        Ok(written?)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was, or would have been, reported by the next call.
            let _ = thread.join();
        }
    }
}

fn write(database: &Database, batch: Batch) -> std::result::Result<Written, DerivedError> {
    let Batch { mut entries, durable } = batch;
    let written = Written { entries: entries.len(), checkpoint: durable.sequence };
    // Stable, so that of one identity the last insert stays last, and then alone.
    entries.sort_by_key(Entry::key);
    entries.dedup_by(|later, kept| {
        let same = later.key() == kept.key();
        if same {
            *kept = *later;
        }
        same
    });
    database
        .work(|database| {
            let mut transaction = database.begin_write()?;
            // Otherwise an open after a crash reads the whole file.
            transaction.set_quick_repair(true);
            rows::upsert(&mut transaction.open_table(ROWS)?, &entries)?;
            store::set_checkpoint(&transaction, durable)?;
            Ok(transaction.commit()?)
        })
        .map(|()| written)
}

/// Takes entries out; their keys are sorted.
pub(super) fn remove(database: &Database, keys: &[rows::Key]) -> std::result::Result<usize, DerivedError> {
    database.work(|database| {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        let removed = rows::remove(&mut transaction.open_table(ROWS)?, keys)?;
        transaction.commit()?;
        Ok(removed)
    })
}

fn gone(path: &Path, reason: String) -> IdentityIndexError {
    IdentityIndexError::WriterGone { path: path.to_owned(), reason }
}
