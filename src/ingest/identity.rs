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
//! * Two identities are the same when class, time and hash are equal: `time` follows from what `hash` stands for.

mod memory;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadOnlyTable, ReadableDatabase};

use crate::source::Identity;
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
        Self { tail_bytes_max: 4 << 20, cache_bytes: 8 << 20 }
    }
}

/// Tells one content of an event from another: the CRC-32 of its payload, in whose lowest bit stands instead whether this
/// copy carries messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u32);

impl Fingerprint {
    const HAS_MESSAGES: u32 = 1;

    /// Of the CRC-32 of a payload, and whether that payload carries messages.
    pub fn new(payload_crc: u32, has_messages: bool) -> Self {
        Self(payload_crc & !Self::HAS_MESSAGES | u32::from(has_messages))
    }

    fn has_messages(self) -> bool {
        self.0 & Self::HAS_MESSAGES != 0
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
    /// The log holds it without messages, and this copy has some.
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
    /// The file cannot be created, read or removed.
    #[error("identity index {}: cannot {action}: {source}; check the directory's permissions and free space", path.display())]
    File {
        /// The file concerned.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// redb failed to open, read or write.
    #[error("identity index {}: {source}; check the disk, then restart: the index recovers, or is rebuilt from the log", path.display())]
    Redb {
        /// The index file.
        path: PathBuf,
        /// Why it failed.
        source: Box<redb::Error>,
    },
    /// A row does not have the form that this version writes.
    #[error("identity index {}: a malformed row for class {class}; stop the process and delete the file, it is rebuilt from the log", path.display())]
    MalformedRow {
        /// The index file.
        path: PathBuf,
        /// The class the row belongs to.
        class: u8,
    },
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
    durable: Option<u64>,
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
    /// Opens the index of the log `log_id` at `path`, or begins an empty one there.
    ///
    /// An index is kept only if it can be trusted: a file that is missing, unreadable, of another log or format, a copy
    /// (which may be torn), or that knows more than the log, whose last durable sequence is `head`, is removed.
    pub fn open(path: &Path, log_id: [u8; 16], head: Option<u64>, options: Options) -> Result<Opened> {
        let stored = store::open_or_create(path, log_id, head, options.cache_bytes)?;
        let database = Arc::new(stored.database);
        let tail_entries_max = usize::try_from(options.tail_bytes_max / TAIL_ENTRY_BYTES).unwrap_or(usize::MAX).max(4);
        let mut index = Self {
            path: path.to_owned(),
            rows: None,
            memory: Memory::new(tail_entries_max),
            tail: Vec::new(),
            batch_entries: tail_entries_max / 4,
            tail_entries_max,
            durable: stored.checkpoint,
            writer: Writer::start(path, Arc::clone(&database))?,
            checkpoint: stored.checkpoint,
            poisoned: None,
            database,
        };
        let newest_times = rows::newest_times(index.rows()?).map_err(|error| error.at(path))?;
        for (class, time) in newest_times {
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
            Some(stored) if fingerprint.has_messages() && !stored.has_messages() => Known::RicherCopy,
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

    /// Tells that the log is durable up to `head_sequence`, and every entry up to there was inserted. Never blocks.
    pub fn committed(&mut self, head_sequence: u64) -> Result<()> {
        self.healthy()?;
        self.durable = self.durable.max(Some(head_sequence));
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
        Forgetter { path: self.path.clone(), database: Arc::clone(&self.database) }
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
        let (false, Some(durable), Some(last)) = (self.writer.is_busy(), self.durable, self.tail.last()) else {
            return Ok(());
        };
        if count == 0 {
            return Ok(());
        }
        let checkpoint = durable.min(last.sequence);
        let batch = self.tail.drain(..count).map(|unwritten| unwritten.entry).collect();
        self.rows = None;
        let handed_over = self.writer.hand_over(batch, checkpoint);
        self.poison_on_error(handed_over)
    }

    fn durable_entries(&self) -> usize {
        self.durable.map_or(0, |durable| self.tail.partition_point(|unwritten| unwritten.sequence <= durable))
    }

    fn room(&self) -> Room {
        if self.tail.len() + self.writer.entries_in_flight() < self.tail_entries_max { Room::Free } else { Room::Full }
    }

    fn find_in_redb(&mut self, identity: &Identity) -> Result<Option<Fingerprint>> {
        let found = rows::find(self.rows()?, identity);
        found.map_err(|error| error.at(&self.path))
    }

    /// The rows with all that memory may have forgotten.
    fn rows(&mut self) -> Result<&ReadOnlyTable<Key, &'static [u8]>> {
        match &mut self.rows {
            Some(rows) => Ok(rows),
            none => {
                let open =
                    || -> std::result::Result<_, redb::Error> { Ok(self.database.begin_read()?.open_table(ROWS)?) };
                Ok(none.insert(open().map_err(|source| redb_error(&self.path, source))?))
            }
        }
    }

    fn healthy(&self) -> Result<()> {
        match &self.poisoned {
            None => Ok(()),
            Some(reason) => Err(IdentityIndexError::Poisoned { path: self.path.clone(), reason: reason.clone() }),
        }
    }

    fn poison_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.poisoned = Some(error.to_string()))
    }
}

/// Takes identities out of an index whose events are no longer in the log.
///
/// Only out of redb: what memory holds is recognised a little longer. The index must not be opened anew before this is
/// dropped.
#[derive(Clone, Debug)]
pub struct Forgetter {
    path: PathBuf,
    database: Arc<Database>,
}

impl Forgetter {
    /// Takes these out in one transaction, and returns how many were there. While it goes on, the index's writer waits, so
    /// they should be few.
    pub fn forget(&self, identities: &[Identity]) -> Result<usize> {
        let mut keys: Vec<Key> = identities.iter().map(rows::key_of).collect();
        keys.sort_unstable();
        writer::remove(&self.database, &keys).map_err(|error| error.at(&self.path))
    }
}

fn redb_error(path: &Path, source: impl Into<redb::Error>) -> IdentityIndexError {
    IdentityIndexError::Redb { path: path.to_owned(), source: Box::new(source.into()) }
}
