//! The identity index: which events the log already holds, exactly, however old they are.
//!
//! Owns one redb file beside the log, and the memory that keeps the hot path away from it. The [`Identity`] and a
//! [`Fingerprint`] of every appended event flow in; an answer whether a report is news flows out. The index holds nothing
//! that the log does not: when it is lost it is rebuilt from there.
//!
//! ```text
//! insert ──► memory: the unwritten tail and a recent window ──► writer thread ──► redb: packed rows, right edge
//! check  ──► memory ──► newer than anything memory ever forgot? then it is new ──► otherwise redb
//! ```
//!
//! * **Memory** is two generations of a hash map. When the younger is full, the elder is forgotten, and the newest time it
//!   held per class is remembered: an identity with a later time that is not in memory is not in redb either. Events of a
//!   running chain have such times, so only back-fill and events without a time of their own look into redb.
//! * **redb** is written in batches by one thread. A batch holds only entries whose events are durable in the log, and
//!   commits the sequence up to which the index is now complete (its *checkpoint*) in the same transaction. So the index
//!   never knows an event that a crash took from the log, and after a crash the log's events behind the checkpoint are
//!   inserted again.
//! * Two identities are the same when class, time and hash are equal: `time` follows from what `hash` identifies.

mod memory;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadableDatabase};
use sidecar_log_format::{ChainValue, Sequence};

use crate::engine::derived::{Database, DerivedError};
use crate::engine::dialect::Identity;
use memory::Memory;
use rows::{Entry, Key, ROWS};
pub use store::Rebuild;
use writer::{Writer, Written};

/// Bytes that one entry of the unwritten tail takes in memory.
const TAIL_ENTRY_BYTES: u64 = size_of::<Unwritten>() as u64;

/// How the index shares the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most bytes of memory for entries that are not yet in redb, 40 an entry. A quarter of it makes a batch, and the
    /// window of recent entries is sized by it too (about 1.4 times as many bytes), so it is the one knob for memory.
    /// At least 4 entries' worth is used.
    pub tail_bytes_max: u64,
    /// redb's page cache, in bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { tail_bytes_max: 4 << 20, cache_bytes: 4 << 20 }
    }
}

/// Tells one content of an event from another: the CRC-32 of its payload, whose lowest bit is replaced by whether this copy is
/// rich.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u32);

impl Fingerprint {
    const IS_RICH: u32 = 1;

    /// Of the CRC-32 of a payload, and whether that payload carries what some copies lack.
    pub fn new(payload_crc: u32, is_rich: bool) -> Self {
        Self(payload_crc & !Self::IS_RICH | u32::from(is_rich))
    }

    fn is_rich(self) -> bool {
        self.0 & Self::IS_RICH != 0
    }
}

/// What the index knows of a reported event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: the log does not hold this event.
    New,
    /// The log holds it, byte for byte.
    Same,
    /// The log holds it with other content.
    Conflict,
    /// The log holds it without what this copy carries.
    RicherCopy,
}

/// Whether the unwritten tail has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the tail is bounded only if its writers wait when it is full"]
pub enum Room {
    /// Go on.
    Free,
    /// The tail is at its limit: commit the log, call [`IdentityIndex::committed`], then
    /// [`IdentityIndex::wait_for_room`].
    Full,
}

/// What went wrong with the index. The log is not touched by any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityIndexError {
    /// The index's file.
    #[error(transparent)]
    File(#[from] DerivedError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] sidecar_log_format::Error),
    /// The writer's thread could not be started, or ended by itself.
    #[error("identity index {}: the writer thread is gone: {reason}; restart the process", path.display())]
    WriterGone {
        /// The index file.
        path: PathBuf,
        /// What is known of the cause.
        reason: String,
    },
    /// An earlier call reported a failure; nothing is answered any more until the index is opened again.
    #[error("identity index {}: unusable since an earlier failure: {reason}", path.display())]
    Poisoned {
        /// The index file.
        path: PathBuf,
        /// The earlier failure.
        reason: String,
    },
}

/// A result of the index.
pub type Result<T> = std::result::Result<T, IdentityIndexError>;

/// What an index needs to know of the log to tell whether it is that log's.
#[derive(Clone, Copy)]
pub struct LogPosition<'a> {
    /// The log's id.
    pub id: [u8; 16],
    /// The [rule](crate::engine::dialect::Dialect::identity_rule) by which its events are identified.
    pub rule: &'a str,
    /// The sequence of its last durable event.
    pub head: Option<Sequence>,
    /// The oldest sequence that it still holds.
    pub oldest: Sequence,
    /// Its chain value after an event; `None` where it cannot tell.
    pub chain_after: &'a dyn Fn(Sequence) -> sidecar_log_format::Result<Option<ChainValue>>,
}

/// Up to where the log is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The sequence of its last durable event.
    pub sequence: Sequence,
    /// The chain value after that event; `None` where the log cannot tell.
    pub chain: Option<ChainValue>,
}

/// An index just opened, and from where the log must be read into it.
#[derive(Debug)]
pub struct Opened {
    /// The index.
    pub index: IdentityIndex,
    /// The log's events behind this sequence must be inserted (all of them for `None`) before the first
    /// [`IdentityIndex::check`].
    pub checkpoint: Option<u64>,
    /// Why the index begins empty, unless it was opened as it stood. Worth a line in the operator's log.
    pub rebuild: Option<Rebuild>,
}

/// The index of all identities in one log. See the module's description.
#[derive(Debug)]
pub struct IdentityIndex {
    path: PathBuf,
    database: Arc<Database>,
    /// The rows as they stood at the first look-up since a batch was handed over or finished. Not kept longer: redb
    /// cannot reuse pages that a reader may still see, and memory may forget what a finished batch wrote.
    rows: Option<ReadOnlyTable<Key, &'static [u8]>>,
    memory: Memory,
    /// Entries not handed to the writer, in the order of their sequences.
    tail: Vec<Unwritten>,
    /// Entries that make a batch.
    batch_entries: usize,
    /// Entries, with those at the writer, at which the tail is full.
    tail_entries_max: usize,
    /// The log is durable up to here.
    durable: Option<Durable>,
    writer: Writer,
    /// Redb holds everything up to here.
    checkpoint: Option<u64>,
    /// The failure that ended this index.
    poisoned: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Unwritten {
    entry: Entry,
    sequence: u64,
}

impl IdentityIndex {
    /// Opens the index of `log` at `path`, or begins an empty one there.
    ///
    /// An index is kept only if it can be trusted: a file that is missing, damaged, of another log or format, a copy
    /// (which may be torn), or that was made from other events than the log holds, is removed; a damaged one is set aside.
    pub fn open(path: &Path, log: LogPosition<'_>, options: Options) -> Result<Opened> {
        Self::over(path, store::open_or_create(path, log, options.cache_bytes)?, options)
    }

    /// Sets aside the file of an index, which may still be open.
    pub fn set_aside(path: &Path) -> Result<()> {
        Ok(store::file(path).set_aside()?)
    }

    /// Sets aside the damaged file of an index, which may still be open, and begins an empty one.
    pub fn rebuild(path: &Path, log_id: [u8; 16], rule: &str, damage: String, options: Options) -> Result<Opened> {
        Self::over(path, store::begin(path, log_id, rule, options.cache_bytes, Rebuild::Damaged(damage))?, options)
    }

    fn over(path: &Path, stored: store::Stored, options: Options) -> Result<Opened> {
        let database = Arc::new(stored.database);
        let tail_entries_max = usize::try_from(options.tail_bytes_max / TAIL_ENTRY_BYTES).unwrap_or(usize::MAX).max(4);
        let mut index = Self {
            path: path.to_owned(),
            rows: None,
            memory: Memory::new(tail_entries_max),
            tail: Vec::new(),
            batch_entries: tail_entries_max / 4,
            tail_entries_max,
            durable: None,
            writer: Writer::start(path, Arc::clone(&database))?,
            checkpoint: stored.checkpoint,
            poisoned: None,
            database,
        };
        for (class, time) in stored.newest_times {
            index.memory.forgot(class, time);
        }
        Ok(Opened { index, checkpoint: stored.checkpoint, rebuild: stored.rebuild })
    }

    /// What the index knows of an event with this identity and content.
    pub fn check(&mut self, identity: &Identity, fingerprint: Fingerprint) -> Result<Known> {
        self.healthy()?;
        let stored = match self.memory.get(identity) {
            Some(stored) => Some(stored),
            None if self.memory.would_hold(identity) => None,
            None => {
                let found = self.find_in_redb(identity);
                self.poison_on_error(found)?
            }
        };
        Ok(match stored {
            None => Known::New,
            Some(stored) if stored == fingerprint => Known::Same,
            Some(stored) if fingerprint.is_rich() && !stored.is_rich() => Known::RicherCopy,
            Some(_) => Known::Conflict,
        })
    }

    /// Notes that the log holds, or is about to hold, an event; a known identity takes the new fingerprint.
    ///
    /// `sequence` is what the log must be durable up to for this to be true: the event's own or, for what carries no
    /// sequence (an amendment), the next to be appended. It never goes down from call to call.
    pub fn insert(&mut self, identity: &Identity, fingerprint: Fingerprint, sequence: u64) -> Result<Room> {
        self.healthy()?;
        let newest = self.tail.last().map_or(sequence, |last| last.sequence.max(sequence));
        self.tail.push(Unwritten { entry: Entry::new(identity, fingerprint), sequence: newest });
        self.memory.insert(identity, fingerprint);
        Ok(self.room())
    }

    /// Notes that the log is durable up to here, and every entry up to there was inserted. Never blocks.
    pub fn committed(&mut self, durable: Durable) -> Result<()> {
        self.healthy()?;
        if self.durable.is_none_or(|before| before.sequence <= durable.sequence) {
            self.durable = Some(durable);
        }
        let finished = self.writer.poll();
        self.note_written(finished)?;
        if self.durable_entries() >= self.batch_entries { self.hand_over() } else { Ok(()) }
    }

    /// Blocks until the tail has room again, or holds only what the log has not made durable (then still
    /// [`Room::Full`]: commit the log first).
    pub fn wait_for_room(&mut self) -> Result<Room> {
        self.healthy()?;
        while self.room() == Room::Full && (self.writer.is_busy() || self.durable_entries() > 0) {
            self.write_some()?;
        }
        Ok(self.room())
    }

    /// Blocks until redb holds every durable entry. For a clean shutdown: the next open then has nothing to replay.
    pub fn flush(&mut self) -> Result<()> {
        self.healthy()?;
        while self.writer.is_busy() || self.durable_entries() > 0 {
            self.write_some()?;
        }
        Ok(())
    }

    /// What takes identities out of the index again, on another thread.
    pub fn forgetter(&self) -> Forgetter {
        Forgetter { database: Arc::clone(&self.database) }
    }

    /// The sequence up to which redb holds everything; what a crash now would leave to be replayed begins behind it.
    pub fn checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// Waits for the batch being written, and hands over the next.
    fn write_some(&mut self) -> Result<()> {
        let finished = self.writer.wait();
        self.note_written(finished)?;
        self.hand_over()
    }

    fn note_written(&mut self, finished: Result<Option<Written>>) -> Result<()> {
        if let Some(written) = self.poison_on_error(finished)? {
            self.memory.may_forget(written.entries);
            self.checkpoint = Some(written.checkpoint);
            self.rows = None;
        }
        Ok(())
    }

    /// Gives all durable entries to the writer, if it is idle.
    fn hand_over(&mut self) -> Result<()> {
        let count = self.durable_entries();
        let (false, Some(durable), 1..) = (self.writer.is_busy(), self.durable, count) else {
            return Ok(());
        };
        let batch = self.tail.drain(..count).map(|unwritten| unwritten.entry).collect();
        self.rows = None;
        let handed_over = self.writer.hand_over(batch, durable);
        self.poison_on_error(handed_over)
    }

    fn durable_entries(&self) -> usize {
        self.durable.map_or(0, |durable| self.tail.partition_point(|unwritten| unwritten.sequence <= durable.sequence))
    }

    fn room(&self) -> Room {
        if self.tail.len() + self.writer.entries_in_flight() < self.tail_entries_max { Room::Free } else { Room::Full }
    }

    fn find_in_redb(&mut self, identity: &Identity) -> Result<Option<Fingerprint>> {
        let rows = &mut self.rows;
        let found = self.database.work(|database| {
            // The rows with all that memory may have forgotten.
            let rows = match rows {
                Some(rows) => rows,
                none => none.insert(database.begin_read()?.open_table(ROWS)?),
            };
            rows::find(rows, identity)
        });
        Ok(found?)
    }

    fn healthy(&self) -> Result<()> {
        // Whoever found it, nothing that is in memory only would reach the file any more.
        self.database.check()?;
        match &self.poisoned {
            None => Ok(()),
            Some(reason) => Err(IdentityIndexError::Poisoned { path: self.path.clone(), reason: reason.clone() }),
        }
    }

    fn poison_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.poisoned = Some(error.to_string()))
    }
}

#[cfg(test)]
impl IdentityIndex {
    /// As if a damaged page had been read.
    pub(super) fn note_damage(&self) {
        self.database.note_damage("a test");
    }
}

impl Drop for IdentityIndex {
    fn drop(&mut self) {
        if self.database.has_panicked() {
            std::mem::forget(self.rows.take());
        }
    }
}

/// Where a scrub of the index resumes.
#[derive(Debug, Default)]
pub struct Scrub {
    next_row: Option<Key>,
}

/// Rows that one step of a scrub reads: a page each. At a step a second, an index of a gigabyte takes five hours.
const SCRUB_ROWS: usize = 16;

/// Takes identities out of an index whose events are no longer in the log.
///
/// Only out of redb: what memory holds is recognised a little longer. The index must not be opened again before this is
/// dropped.
#[derive(Clone, Debug)]
pub struct Forgetter {
    database: Arc<Database>,
}

impl Forgetter {
    /// Reads the next few rows of the file, round and round, so that damage is found before an event needs them. The index
    /// itself reports it from then on.
    pub fn scrub(&self, scrub: &mut Scrub) -> Result<()> {
        scrub.next_row = self.database.work(|database| {
            let table = database.begin_read()?.open_table(ROWS)?;
            rows::check(&table, scrub.next_row, SCRUB_ROWS)
        })?;
        Ok(())
    }

    /// Takes these out in one transaction, and returns how many were there. While it goes on, the index's writer waits, so
    /// they should be few.
    pub fn forget(&self, identities: &[Identity]) -> Result<usize> {
        let mut keys: Vec<Key> = identities.iter().map(rows::key_of).collect();
        keys.sort_unstable();
        Ok(writer::remove(&self.database, &keys)?)
    }
}
