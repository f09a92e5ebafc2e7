//! [`Log`]: opening it, reading events from it, and looking at the disk again.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    following::Following,
    large::LargeEvent,
    locate::Place,
    state::{Active, Reading, Shared},
};
use crate::{
    ApiVersion, Block, Error, Missing, Result, Row, Sequence,
    block::{self, BLOCK_HEADER_BYTES},
    buffers,
    cache::BlockCache,
    head::{self, HeadState},
    position::Head,
    segment::{BlockEntry, SegmentFile, SegmentHeader, list_segments},
    storage::Storage,
    wire::FrameForm,
};

/// What the log's index knows of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The sequence of its first event.
    pub first_sequence: Sequence,
    /// The kinds of its events, one bit each.
    pub kinds: u64,
    /// The sequence after its last event.
    pub end_sequence: Sequence,
}

impl Outline {
    pub(crate) fn of(entry: &BlockEntry) -> Self {
        let (first_sequence, end_sequence) = (entry.first_sequence, entry.end_sequence());
        Outline { first_sequence, kinds: entry.kinds, end_sequence }
    }
}

/// How a log is read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// Bytes of decoded blocks to keep.
    pub cache_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { cache_bytes: 8 << 20 }
    }
}

/// What is at a sequence.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is matched at once and not kept in numbers")]
pub enum Read {
    /// The event, in row `index` of `block`.
    Events {
        /// The decoded block.
        block: Arc<Block>,
        /// The row.
        index: usize,
    },
    /// An event too large to be held in memory: it is read in pieces.
    Large(LargeEvent),
    /// No event; the log continues at `to`.
    Missing {
        /// The sequence that was asked for.
        from: Sequence,
        /// The next one that the log may hold.
        to: Sequence,
        /// Why.
        why: Missing,
    },
    /// Nothing yet: the sequence is the head's or beyond.
    End,
}

impl Read {
    /// What is known about the event, if there is one. A large event's row has no wire bytes.
    #[must_use]
    pub fn row(&self) -> Option<Row<'_>> {
        match self {
            Read::Events { block, index } => block.row(*index),
            Read::Large(event) => event.shape().row(0),
            Read::Missing { .. } | Read::End => None,
        }
    }
}

/// A log open for reading. Clones share everything.
#[derive(Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
}

/// How much of a block is decoded and kept.
#[derive(Clone, Copy)]
enum Extent {
    Whole,
    Excerpts,
}

impl Log {
    /// Opens a log for reading, also while another process writes it, also on a read-only directory. No lock is taken.
    ///
    /// # Errors
    /// [`Error::NotALog`] when no segment is there, [`Error::NewerFormat`], or what the storage answers.
    pub fn open(storage: Arc<dyn Storage>, options: ReadOptions) -> Result<Log> {
        let header = newest_header(storage.as_ref())?;
        let log = Log::assemble(storage, options, header, Reading::AnotherProcess);
        log.refresh()?;
        Ok(log)
    }

    pub(crate) fn assemble(
        storage: Arc<dyn Storage>,
        options: ReadOptions,
        header: SegmentHeader,
        reading: Reading,
    ) -> Log {
        Log { shared: Arc::new(Shared::new(storage, options.cache_bytes, header, reading)) }
    }

    /// The last durable, visible position.
    #[must_use]
    pub fn head(&self) -> Head {
        *self.shared.lock_head()
    }

    /// The oldest retained sequence; the head's when the log is empty.
    #[must_use]
    pub fn oldest(&self) -> Sequence {
        let segments = self.shared.read_segments();
        let oldest = segments.sealed.first().copied();
        oldest
            .or_else(|| segments.active.as_ref().map(Active::first_sequence))
            .unwrap_or_else(|| self.head().next_sequence)
    }

    /// The oldest retained and the newest stored sequence; `None` while the log holds no event.
    #[must_use]
    pub fn ends(&self) -> Option<(Sequence, Sequence)> {
        let (oldest, next) = (self.oldest(), self.head().next_sequence);
        next.checked_sub(1).filter(|newest| oldest <= *newest).map(|newest| (oldest, newest))
    }

    /// The first sequence that the log has to hold: retention has dropped those before it. It is below [`Log::oldest`] where
    /// the oldest segments are lost.
    #[must_use]
    pub fn retained_from(&self) -> Sequence {
        self.shared.retained.from()
    }

    /// Where a reader of everything begins: the first sequence that the log holds, or has to hold.
    #[must_use]
    pub fn beginning(&self) -> Sequence {
        self.oldest().min(self.retained_from())
    }

    /// How many sequences that are stored and retained are left for a reader that continues with `next`.
    #[must_use]
    pub fn left_from(&self, next: Sequence) -> u64 {
        self.head().next_sequence.saturating_sub(next.max(self.oldest()))
    }

    /// The id that the log got when it was made.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.shared.read_header().log_id
    }

    /// The dialect of its source.
    #[must_use]
    pub fn dialect(&self) -> String {
        self.shared.read_header().dialect.clone()
    }

    /// The kinds that the dialect knows, by number.
    #[must_use]
    pub fn kinds(&self) -> Vec<(u8, String)> {
        self.shared.read_header().form.kinds().to_vec()
    }

    /// How its events look on the wire.
    #[must_use]
    pub fn frame_form(&self) -> FrameForm {
        self.shared.read_header().form.frames
    }

    /// What is at `sequence`, if that takes no I/O: the block is in the cache, or the log ends before.
    #[must_use]
    pub fn read_cached(&self, sequence: Sequence) -> Option<Read> {
        self.read_in(sequence, |cache| cache.get(sequence))
    }

    /// What is at `sequence`.
    ///
    /// # Errors
    /// What the storage answers. Damage is not an error: it comes back as [`Missing::Quarantined`].
    pub fn read(&self, sequence: Sequence) -> Result<Read> {
        match self.read_cached(sequence) {
            Some(read) => Ok(read),
            None => Ok(self.read_from_disk(&[sequence], Extent::Whole)?.pop().unwrap_or(Read::End)),
        }
    }

    /// Reads one event without its neighbours, see [`Log::read_few`].
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_alone(&self, sequence: Sequence) -> Result<Read> {
        Ok(self.read_few(&[sequence])?.pop().unwrap_or(Read::End))
    }

    /// What [`Log::read_alone`] finds at `sequence`, if that takes no I/O.
    #[must_use]
    pub fn read_alone_cached(&self, sequence: Sequence) -> Option<Read> {
        self.read_in(sequence, |cache| cache.get_any(sequence))
    }

    /// Reads the first of these events, and those that follow it in the list and are in the same block: for readers that
    /// want a few events here and there, and not the events between them.
    ///
    /// A block that is not in the cache is decoded only up to the last of them. They come in excerpts of it, blocks of one
    /// event or of several that are close to each other, and only the excerpts are kept. There is one [`Read`] for each, of
    /// its first event; an event of the list may be further down in the same excerpt. The first [`Read`] is of the first
    /// event of the list, so a list that has events never gives none.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_few(&self, sequences: &[Sequence]) -> Result<Vec<Read>> {
        let Some(&sequence) = sequences.first() else { return Ok(Vec::new()) };
        match self.read_alone_cached(sequence) {
            Some(read) => Ok(vec![read]),
            None => self.read_from_disk(sequences, Extent::Excerpts),
        }
    }

    /// Which kinds of events the block that holds an event has, one bit each (see [`crate::Kind::bit`]), and where it ends:
    /// at the first sequence of the next one. Reads no block.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn outline(&self, sequence: Sequence) -> Result<Option<Outline>> {
        Ok(match self.shared.locate(sequence)? {
            Place::Block(_, entry) => Some(Outline::of(&entry)),
            Place::Missing(..) => None,
        })
    }

    fn read_in(&self, sequence: Sequence, find: impl FnOnce(&BlockCache) -> Option<Arc<Block>>) -> Option<Read> {
        if sequence >= self.head().next_sequence {
            return Some(Read::End);
        }
        let block = find(&self.shared.cache)?;
        let index = block.index_of(sequence)?;
        Some(Read::Events { block, index })
    }

    /// Reads the first of these events, and of the others those in its block.
    fn read_from_disk(&self, sequences: &[Sequence], extent: Extent) -> Result<Vec<Read>> {
        let Some(&sequence) = sequences.first() else { return Ok(Vec::new()) };
        let missing = |from, to, why| {
            self.shared.note_missing(from..to, &why);
            Ok(vec![Read::Missing { from: sequence, to, why }])
        };
        let (file, entry) = match self.shared.locate(sequence)? {
            Place::Block(file, entry) => (file, entry),
            Place::Missing(to, _) if to <= sequence => return Ok(vec![Read::End]),
            Place::Missing(to, why) => return missing(sequence, to, why),
        };
        let read = if entry.is_large() {
            LargeEvent::open(file, &entry).map(|event| vec![Read::Large(event)])
        } else {
            file.load(&entry, |header, form, parts| match extent {
                Extent::Whole => Ok(vec![Block::decode(header, form, parts)?]),
                Extent::Excerpts => {
                    let is_in_block = |other: &&Sequence| (entry.first_sequence..entry.end_sequence()).contains(other);
                    let wanted: Vec<_> = sequences.iter().take_while(is_in_block).copied().collect();
                    Block::decode_excerpts(header, form, parts, &wanted)
                }
            })
            .map(|blocks| blocks.into_iter().map(|block| self.keep(block, sequence, extent)).collect())
        };
        match read {
            Err(error) if error.is_damage() => {
                missing(entry.first_sequence, entry.end_sequence(), Missing::of_damage(&error))
            }
            read => read,
        }
    }

    fn keep(&self, block: Block, sequence: Sequence, extent: Extent) -> Read {
        let block = Arc::new(block);
        match extent {
            Extent::Whole => self.shared.cache.insert(Arc::clone(&block)),
            Extent::Excerpts => self.shared.cache.insert_excerpt(Arc::clone(&block)),
        }
        Read::Events { index: block.index_of(sequence).unwrap_or_default(), block }
    }

    /// The stored form of the block that begins exactly at `sequence`: one zstd frame of its wire form, checked against
    /// its CRC. `None` when no block begins there, or it holds a [`Read::Large`] event. Where
    /// [`StoredBlock::version_before`] and [`StoredBlock::version_after`] differ, the wire form holds version frames.
    ///
    /// # Errors
    /// What the storage answers, and [`Error::Corrupt`].
    pub fn read_stored(&self, sequence: Sequence) -> Result<Option<StoredBlock>> {
        if sequence >= self.head().next_sequence {
            return Ok(None);
        }
        let Place::Block(file, entry) = self.shared.locate(sequence)? else { return Ok(None) };
        if entry.first_sequence != sequence || entry.is_large() {
            return Ok(None);
        }
        let (header, bytes) = file.read_entry(&entry)?;
        let parts = buffers::share(bytes).slice(BLOCK_HEADER_BYTES..);
        let range = block::checked_payload(&header, &parts)
            .map(|_| header.table_stored as usize..(header.table_stored + header.payload_stored) as usize)
            .map_err(|error| file.corrupt(entry.offset, error))?;
        Ok(Some(StoredBlock {
            frame: parts.slice(range),
            version_before: header.version_before,
            version_after: header.version_after,
            end_sequence: header.end_sequence(),
        }))
    }

    /// Waits until the log continues beyond `sequence`, at most `timeout`; says whether it does. For readers in the
    /// writer's process; others call [`Log::refresh`].
    #[must_use]
    pub fn wait(&self, sequence: Sequence, timeout: Duration) -> bool {
        let started = Instant::now();
        let mut head = self.shared.lock_head();
        while head.next_sequence <= sequence {
            let Some(left) = timeout.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
                return false;
            };
            head = self.shared.committed.wait_timeout(head, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Looks at the disk again, for readers of a log that another process writes. In the writer's process the head is
    /// always the newest, and this only returns it.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn refresh(&self) -> Result<Head> {
        if self.shared.reading == Reading::ThisProcess {
            return Ok(self.head());
        }
        let storage = self.shared.storage.as_ref();
        let mut following = self.shared.following.lock().unwrap_or_else(PoisonError::into_inner);
        // The head first: what it names was on disk before it.
        let head_state = head::read(storage)?;
        let mut names = list_segments(storage)?;
        let Some(newest) = names.pop() else { return Err(Error::NotALog { directory: storage.name() }) };
        let (head, active) = match Following::take_up(storage, following.take(), newest, &head_state) {
            Ok(mut current) => {
                let head = current.advance(&head_state)?;
                let mut active = Active::new(Arc::clone(&current.file), &current.scan.footer);
                active.broken_tail = current.scan.tail.as_ref().map(ToString::to_string);
                *following = Some(current);
                *self.shared.write_header() = active.file.header.clone();
                (head, Some(active))
            }
            // The segments before it can be read all the same; its own events are in a damaged place.
            Err(error) if error.is_bad_bytes() && !names.is_empty() => {
                let head = self.head_before_damage(&head_state, newest);
                names.push(newest);
                (head, None)
            }
            Err(error) => return Err(error),
        };
        if head.epoch != self.head().epoch {
            // Sequences may name other events now.
            self.shared.forget_all();
            self.shared.losses.clear();
        }
        // After the segments were listed: a drop records itself before it removes any.
        self.shared.retained.look(storage, names.first().copied().unwrap_or(newest))?;
        self.shared.set_segments(names, active);
        *self.shared.lock_head() = head;
        Ok(head)
    }

    /// The position of a log whose newest segment has a damaged header, as far as the head and another header have it.
    fn head_before_damage(&self, head_state: &HeadState, newest: Sequence) -> Head {
        let header = self.shared.read_header();
        let slot = head_state.slot().filter(|slot| slot.next_sequence >= newest);
        Head {
            next_sequence: slot.map_or(newest, |slot| slot.next_sequence),
            api_version: header.version_announced,
            chain: slot.map_or(header.chain_before, |slot| slot.chain),
            epoch: slot.map_or(header.epoch, |slot| slot.epoch),
        }
    }
}

/// A block as it is stored, for clients that decode zstd themselves.
#[derive(Clone, Debug)]
pub struct StoredBlock {
    /// One zstd frame; decompressed, the wire form of the block's events with their version frames.
    pub frame: Bytes,
    /// In force before its first event.
    pub version_before: ApiVersion,
    /// In force after its last event.
    pub version_after: ApiVersion,
    /// The sequence after its last event.
    pub end_sequence: Sequence,
}

/// The header of the newest segment that has a sound one: what they all say of the log is the same.
fn newest_header(storage: &dyn Storage) -> Result<SegmentHeader> {
    let mut damaged = None;
    for first in list_segments(storage)?.into_iter().rev() {
        match SegmentFile::open(storage, first, false) {
            Ok(segment) => return Ok(segment.header),
            Err(error) if error.is_bad_bytes() => drop(damaged.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    Err(damaged.unwrap_or_else(|| Error::NotALog { directory: storage.name() }))
}
