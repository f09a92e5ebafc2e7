//! Reading a log: [`Log`] finds the block that holds an event, through one shared cache.
//!
//! Sequences go in, [`Read`]s come out. A reader holds a position and nothing else; files are opened and indexes loaded
//! when somebody needs them, so that opening a log costs the same whatever its size. The writer of the same process
//! publishes what it has made durable; in another process [`Log::refresh`] looks at the disk again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::process::{Resource, getrlimit};

use crate::{
    ApiVersion, Block, ChainValue, Error, Mark, Result, Sequence,
    block::{self, BLOCK_HEADER_BYTES, BlockError, BlockHeader, BlockType},
    buffers,
    cache::BlockCache,
    examine::chain_after,
    form::{Form, FrameForm},
    head::{self, HeadState},
    losses,
    oldest::Retained,
    scan::Scan,
    segment::{BlockEntry, Footer, PIECE_BYTES, SegmentFile, SegmentHeader, file_name, parse_file_name, storage_error},
    storage::Storage,
};

/// Events larger than this are streamed and not cached.
pub(crate) const LARGE_BYTES: u32 = 1 << 20;
/// Sealed segments that are kept open for reading; few where the process may open few files.
static OPEN_SEGMENTS_MAX: LazyLock<usize> = LazyLock::new(|| {
    let open_files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(open_files_max / 12).unwrap_or(usize::MAX).clamp(2, 32)
});

/// The most blocks that open sealed segments list together: 48 bytes each. A segment that was not rewritten yet may list
/// 65,536.
const OPEN_BLOCKS_MAX: usize = 1 << 17;

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

/// The last durable, visible position of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sequence after the last event: what the next one will get.
    pub next_sequence: Sequence,
    /// The highest API version that any source has announced.
    pub api_version: ApiVersion,
    /// The chain value after the last event.
    pub chain: ChainValue,
    /// Changes when sequences may have been given out twice.
    pub epoch: u64,
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

/// What stands at a sequence.
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
    /// No event; the log goes on at `to`.
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

/// Why sequences name no event. Displays as what operators read of them; clients get [`Missing::for_clients`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Retention has dropped them, or the log never held them.
    Dropped,
    /// They were stored, and no segment holds them any more. Nothing in the log says why.
    Lost,
    /// They are lost, and a mark in the log names them.
    Hole,
    /// The block that holds them is damaged: what does not fit.
    Quarantined(String),
}

/// A log open for reading. Clones share everything.
#[derive(Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) cache: BlockCache,
    pub(crate) header: RwLock<SegmentHeader>,
    segments: RwLock<Segments>,
    pub(crate) retained: Retained,
    pub(crate) losses: losses::Known,
    open: Mutex<OpenSegments>,
    reading: Reading,
    /// Held while a refresh goes on, so that an older look at the disk never replaces a newer one.
    following: Mutex<Option<Following>>,
    head: Mutex<Head>,
    committed: Condvar,
    /// Held while a sealed segment is rewritten: one at a time.
    pub(crate) rewriting: Mutex<()>,
    /// Held while segments are dropped, so that they go oldest first.
    pub(crate) dropping: Mutex<()>,
}

/// Who writes the log that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The writer tells what is new.
    ThisProcess,
    /// The disk does.
    AnotherProcess,
}

/// Which segments there are.
#[derive(Default)]
struct Segments {
    sealed: BTreeSet<Sequence>,
    active: Option<Active>,
}

/// The segment that is being written, as far as it is visible.
pub(crate) struct Active {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) index: Vec<BlockEntry>,
    pub(crate) marks: Vec<BlockEntry>,
    /// What follows the last block, where that should be another.
    pub(crate) broken_tail: Option<String>,
}

impl Active {
    pub(crate) fn new(file: Arc<SegmentFile>, footer: &Footer) -> Self {
        let (index, marks) = split_entries(&footer.blocks);
        Active { file, index, marks, broken_tail: None }
    }

    pub(crate) fn first_sequence(&self) -> Sequence {
        self.file.header.first_sequence
    }
}

/// The blocks of events, and those of marks.
pub(crate) fn split_entries(blocks: &[BlockEntry]) -> (Vec<BlockEntry>, Vec<BlockEntry>) {
    let of_type = |wanted: BlockType| blocks.iter().filter(move |entry| entry.block_type == wanted.0).copied();
    (of_type(BlockType::EVENTS).collect(), of_type(BlockType::MARKS).collect())
}

/// A sealed segment with its index in memory.
pub(crate) struct Sealed {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) footer: Footer,
    /// Whether the file has a footer of its own, or it was put together from the blocks.
    pub(crate) has_footer: bool,
    /// The blocks of events, where the footer lists others too.
    events: Option<Vec<BlockEntry>>,
    /// What follows the last block, where that should be another or the footer.
    pub(crate) broken_tail: Option<String>,
}

impl Sealed {
    pub(crate) fn open(storage: &dyn Storage, first_sequence: Sequence) -> Result<Self> {
        let file = SegmentFile::open(storage, first_sequence, false)?;
        let (footer, has_footer, broken_tail) = match Footer::read(&file.name, file.file.as_ref()) {
            Ok(Some((footer, _))) => (footer, true, None),
            Ok(None) | Err(Error::Corrupt { .. }) => {
                let mut scan = Scan::begin(&file);
                scan.advance(&file, u64::MAX, u64::MAX)?;
                let broken_tail = scan.tail.as_ref().map(ToString::to_string);
                (scan.footer, false, broken_tail)
            }
            Err(error) => return Err(error),
        };
        let lists_others = footer.blocks.iter().any(|entry| entry.block_type != BlockType::EVENTS.0);
        let events = lists_others.then(|| split_entries(&footer.blocks).0);
        Ok(Sealed { file: Arc::new(file), footer, has_footer, events, broken_tail })
    }

    /// The blocks of events.
    pub(crate) fn index(&self) -> &[BlockEntry] {
        self.events.as_deref().unwrap_or(&self.footer.blocks)
    }
}

#[derive(Default)]
struct OpenSegments {
    by_sequence: BTreeMap<Sequence, (u64, Arc<Sealed>)>,
    clock: u64,
}

impl OpenSegments {
    /// Closes the segments that were used least recently, as far as there are too many. The newest stays, whatever its size.
    fn close_unused(&mut self) {
        let mut blocks: usize = self.by_sequence.values().map(|(_, sealed)| sealed.footer.blocks.len()).sum();
        while self.by_sequence.len() > 1 && (self.by_sequence.len() > *OPEN_SEGMENTS_MAX || blocks > OPEN_BLOCKS_MAX) {
            let oldest = self.by_sequence.iter().min_by_key(|(_, (used, _))| *used).map(|(first, _)| *first);
            let Some((_, closed)) = oldest.and_then(|oldest| self.by_sequence.remove(&oldest)) else { return };
            blocks -= closed.footer.blocks.len();
        }
    }
}

/// How much of a block is decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    UpToEvent,
}

/// Where an event stands.
enum Place {
    Block(Arc<SegmentFile>, BlockEntry),
    Missing(Sequence, Missing),
}

/// The unsealed segment as a reader in another process knows it.
struct Following {
    file: Arc<SegmentFile>,
    identity: u64,
    scan: Scan,
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
        let head = Head {
            next_sequence: header.first_sequence,
            api_version: header.version_announced,
            chain: header.chain_before,
            epoch: header.epoch,
        };
        let shared = Shared {
            storage,
            cache: BlockCache::new(options.cache_bytes),
            header: RwLock::new(header),
            segments: RwLock::default(),
            retained: Retained::default(),
            losses: losses::Known::default(),
            open: Mutex::default(),
            reading,
            following: Mutex::default(),
            head: Mutex::new(head),
            committed: Condvar::new(),
            rewriting: Mutex::default(),
            dropping: Mutex::default(),
        };
        Log { shared: Arc::new(shared) }
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

    /// How many sequences that are stored and retained are left for who goes on with `next`.
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

    /// What stands at `sequence`, if that takes no I/O: the block is in the cache, or the log ends before.
    #[must_use]
    pub fn read_cached(&self, sequence: Sequence) -> Option<Read> {
        if sequence >= self.head().next_sequence {
            return Some(Read::End);
        }
        let block = self.shared.cache.get(sequence)?;
        let index = block.index_of(sequence)?;
        Some(Read::Events { block, index })
    }

    /// What stands at `sequence`.
    ///
    /// # Errors
    /// What the storage answers. Damage is no error: it comes back as [`Missing::Quarantined`].
    pub fn read(&self, sequence: Sequence) -> Result<Read> {
        self.read_to(sequence, Extent::Whole)
    }

    /// The same for who wants this event alone: a block that is not in the cache is decoded no further than the event's
    /// end, and is not kept. The rows after it have no wire bytes.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_alone(&self, sequence: Sequence) -> Result<Read> {
        self.read_to(sequence, Extent::UpToEvent)
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

    fn read_to(&self, sequence: Sequence, extent: Extent) -> Result<Read> {
        if let Some(read) = self.read_cached(sequence) {
            return Ok(read);
        }
        let read = self.read_from_disk(sequence, extent)?;
        if let Read::Missing { from, to, why } = &read {
            self.shared.note_missing(*from..*to, why);
        }
        Ok(read)
    }

    fn read_from_disk(&self, sequence: Sequence, extent: Extent) -> Result<Read> {
        let (file, entry) = match self.shared.locate(sequence)? {
            Place::Block(file, entry) => (file, entry),
            Place::Missing(to, _) if to <= sequence => return Ok(Read::End),
            Place::Missing(to, why) => return Ok(Read::Missing { from: sequence, to, why }),
        };
        let read = if entry.is_large() {
            LargeEvent::open(Arc::clone(&file), &entry).map(Read::Large)
        } else {
            let decode = |header: &BlockHeader, form: &Form, parts: &[u8]| match extent {
                Extent::Whole => Block::decode(header, form, parts),
                Extent::UpToEvent => Block::decode_up_to(header, form, parts, sequence),
            };
            load(&file, &entry, decode).map(|block| {
                let block = Arc::new(block);
                if extent == Extent::Whole {
                    self.shared.cache.insert(Arc::clone(&block));
                }
                Read::Events { index: block.index_of(sequence).unwrap_or_default(), block }
            })
        };
        let read = Log::quarantine(read, sequence, &entry)?;
        if let Read::Missing { why, .. } = &read {
            self.shared.note_missing(entry.first_sequence..entry.end_sequence(), why);
        }
        Ok(read)
    }

    /// Says of a damaged block that its events are missing from `sequence` on.
    pub(crate) fn quarantine(read: Result<Read>, sequence: Sequence, entry: &BlockEntry) -> Result<Read> {
        match read {
            Err(error) if error.is_damage() => {
                let why = Missing::Quarantined(error.to_string());
                Ok(Read::Missing { from: sequence, to: entry.end_sequence(), why })
            }
            read => read,
        }
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
        let (header, bytes) = read_entry(&file, &entry)?;
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

    /// The chain value after the event at `sequence`, to compare this log with a replica, a back-up or its earlier self.
    ///
    /// `None` where nothing tells it: no event is stored there, or what stands before it in its block's chain is damaged.
    /// For the sequence right before the oldest retained event, the oldest segment's header tells it.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn chain_after(&self, sequence: Sequence) -> Result<Option<ChainValue>> {
        let head = self.head();
        if head.next_sequence.checked_sub(1) == Some(sequence) {
            return Ok(Some(head.chain));
        }
        let (block, index) = match self.read(sequence)? {
            Read::Events { block, index } => (block, index),
            Read::Large(large) => return Ok(Some(large.header.chain_after)),
            Read::Missing { .. } => return self.chain_before_segment(sequence.saturating_add(1)),
            Read::End => return Ok(None),
        };
        if index + 1 == block.len() {
            return Ok(Some(block.chain_after()));
        }
        let Some(before) = self.chain_before(block.first_sequence())? else { return Ok(None) };
        let mut chain = before;
        let values: Vec<_> = block
            .rows()
            .map(|row| {
                chain = chain_after(chain, row);
                chain
            })
            .collect();
        // Behind a loss the value to begin with may not be known: then the block does not end where it says.
        Ok(values.get(index).copied().filter(|_| chain == block.chain_after()))
    }

    /// The chain value before the block that begins at `sequence`: after the block before it, or in its segment's header.
    fn chain_before(&self, sequence: Sequence) -> Result<Option<ChainValue>> {
        let Place::Block(file, entry) = self.shared.locate(sequence)? else { return Ok(None) };
        let Some(before) = self.shared.block_before(file.header.first_sequence, entry.offset)? else {
            return Ok(Some(file.header.chain_before));
        };
        match file.read_header(before.offset) {
            Ok(header) => Ok(header.map(|header| header.chain_after)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The chain value before the segment that begins at `sequence`, if one does.
    fn chain_before_segment(&self, sequence: Sequence) -> Result<Option<ChainValue>> {
        if !self.shared.segment_list().contains(&sequence) {
            return Ok(None);
        }
        match SegmentFile::open(self.shared.storage.as_ref(), sequence, false) {
            Ok(segment) => Ok(Some(segment.header.chain_before)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All marks from position `from` on, in order, as far as they can be read: those of a damaged block or segment are
    /// left out.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn marks(&self, from: Sequence) -> Result<Vec<Mark>> {
        let (sealed, active) = {
            let segments = self.shared.read_segments();
            let start = segments.sealed.range(..=from).next_back().copied().unwrap_or_default();
            let sealed: Vec<_> = segments.sealed.range(start..).copied().collect();
            (sealed, segments.active.as_ref().map(|active| (Arc::clone(&active.file), active.marks.clone())))
        };
        let mut marks = Vec::new();
        for first in sealed {
            let segment = match self.shared.open_sealed(first) {
                // Retention was faster.
                Err(error) if error.is_gone() => continue,
                // One bad header must not hide the marks of all other segments.
                Err(error) if error.is_damage() => continue,
                segment => segment?,
            };
            marks.append(&mut read_segment_marks(&segment.file, &segment.footer)?);
        }
        if let Some((file, entries)) = active {
            read_marks(&file, &entries, &mut marks)?;
        }
        marks.retain(|mark| mark.position >= from);
        Ok(marks)
    }

    /// Waits until the log goes on beyond `sequence`, at most `timeout`; says whether it does. For readers in the
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
                *self.shared.header.write().unwrap_or_else(PoisonError::into_inner) = active.file.header.clone();
                (head, Some(active))
            }
            // The segments before it can be read all the same; its own events are in a damaged place.
            Err(Error::Corrupt { .. }) if !names.is_empty() => {
                let head = self.head_before_damage(&head_state, newest);
                names.push(newest);
                (head, None)
            }
            Err(error) => return Err(error),
        };
        if head.epoch != self.head().epoch {
            // Sequences may name other events now.
            self.shared.cache.clear();
            *self.shared.lock_open() = OpenSegments::default();
            self.shared.losses.clear();
        }
        // After the segments were listed: a drop records itself before it removes any.
        self.shared.retained.look(storage, names.first().copied().unwrap_or(newest))?;
        self.shared.set_segments(names, active);
        *self.shared.lock_head() = head;
        Ok(head)
    }

    /// The position of a log whose newest segment has a damaged header, as far as the head and another header tell it.
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

impl Following {
    /// Goes on with the segment that was the newest, unless there is a newer one, or another of the same name.
    fn take_up(
        storage: &dyn Storage,
        known: Option<Following>,
        newest: Sequence,
        head_state: &HeadState,
    ) -> Result<Following> {
        let name = file_name(newest);
        if let Some(known) = known.filter(|known| known.file.header.first_sequence == newest) {
            let file = storage.open(&name, false).map_err(storage_error("open", &name))?;
            if file.identity().map_err(storage_error("read", &name))? == known.identity {
                return Ok(known);
            }
        }
        let file = SegmentFile::open(storage, newest, false)?;
        let identity = file.file.identity().map_err(storage_error("read", &name))?;
        let scan = match head_state {
            HeadState::Copied(_) => Scan::begin_copied(&file),
            _ => Scan::begin(&file),
        };
        Ok(Following { file: Arc::new(file), identity, scan })
    }

    /// Reads on up to the head, which is where visibility ends.
    fn advance(&mut self, head_state: &HeadState) -> Result<Head> {
        let newest = self.file.header.first_sequence;
        let (trusted, limit) = match head_state {
            HeadState::Own(slot) if slot.segment == newest => (slot.offset, slot.offset),
            // The newest segment was made after this head was written: nothing in it is visible yet.
            HeadState::Own(slot) if slot.segment < newest && slot.next_sequence <= newest => (0, 0),
            _ => (0, u64::MAX),
        };
        self.scan.advance(&self.file, trusted, limit)?;
        let position = self.scan.footer.position();
        let durable = match head_state {
            HeadState::Own(slot) => slot.next_sequence,
            HeadState::Copied(_) | HeadState::Missing => 0,
        };
        Ok(Head {
            // After what is damaged or missing at the very end.
            next_sequence: position.next_sequence.max(durable),
            api_version: position.announced_version,
            chain: position.chain,
            epoch: self.file.header.epoch,
        })
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

impl Shared {
    pub(crate) fn lock_head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read_header(&self) -> std::sync::RwLockReadGuard<'_, SegmentHeader> {
        self.header.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_segments(&self) -> std::sync::RwLockReadGuard<'_, Segments> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first sequences of all segments in order, the active one last.
    pub(crate) fn segment_list(&self) -> Vec<Sequence> {
        let segments = self.read_segments();
        segments.sealed.iter().copied().chain(segments.active.as_ref().map(Active::first_sequence)).collect()
    }

    /// The segment that is being written.
    pub(crate) fn active_file(&self) -> Option<Arc<SegmentFile>> {
        self.read_segments().active.as_ref().map(|active| Arc::clone(&active.file))
    }

    fn lock_open(&self) -> MutexGuard<'_, OpenSegments> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sealed_list(&self) -> Vec<Sequence> {
        self.read_segments().sealed.iter().copied().collect()
    }

    /// What `look` takes from the active segment, if it is the one that begins at `first_sequence`.
    pub(crate) fn active_contents<T>(&self, first_sequence: Sequence, look: impl FnOnce(&Active) -> T) -> Option<T> {
        let segments = self.read_segments();
        segments.active.as_ref().filter(|active| active.first_sequence() == first_sequence).map(look)
    }

    /// Replaces what is known of segments, when the writer opens, seals or begins one.
    pub(crate) fn set_segments(&self, sealed: impl IntoIterator<Item = Sequence>, active: Option<Active>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.sealed = sealed.into_iter().collect();
        segments.active = active;
    }

    /// Replaces all that is known of the segments after the log was recovered: what was read before may not be there any
    /// more.
    pub(crate) fn replace_segments(&self, header: SegmentHeader, sealed: Vec<Sequence>, active: Option<Active>) {
        *self.header.write().unwrap_or_else(PoisonError::into_inner) = header;
        self.set_segments(sealed, active);
        *self.lock_open() = OpenSegments::default();
        self.cache.clear();
    }

    /// The active segment is sealed now.
    pub(crate) fn active_was_sealed(&self) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(active) = segments.active.take() {
            segments.sealed.insert(active.first_sequence());
        }
    }

    pub(crate) fn active_has_begun(&self, active: Active) {
        *self.header.write().unwrap_or_else(PoisonError::into_inner) = active.file.header.clone();
        self.segments.write().unwrap_or_else(PoisonError::into_inner).active = Some(active);
    }

    /// A sealed segment was rewritten or removed: readers open it anew.
    pub(crate) fn forget(&self, first_sequence: Sequence, removed: bool) {
        if removed {
            self.segments.write().unwrap_or_else(PoisonError::into_inner).sealed.remove(&first_sequence);
        }
        self.lock_open().by_sequence.remove(&first_sequence);
    }

    /// A segment that was to be removed may still be there.
    pub(crate) fn remember(&self, first_sequence: Sequence) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).sealed.insert(first_sequence);
    }

    /// Puts another file in the place of a sealed segment, unless it was dropped meanwhile; says whether it did. Readers
    /// open it anew; those who read the old one go on with it.
    pub(crate) fn replace_sealed(
        &self,
        first_sequence: Sequence,
        replace: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        {
            // The writer takes a segment off this list before it removes its file, so the removed cannot come back.
            let segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            if !segments.sealed.contains(&first_sequence) {
                return Ok(false);
            }
            replace()?;
        }
        self.forget(first_sequence, false);
        Ok(true)
    }

    /// Makes blocks of the active segment visible, then the head, and wakes who waits.
    pub(crate) fn publish(&self, entries: &[BlockEntry], head: Head) {
        {
            let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(active) = &mut segments.active {
                let (mut index, mut marks) = split_entries(entries);
                active.index.append(&mut index);
                active.marks.append(&mut marks);
            }
        }
        *self.lock_head() = head;
        self.committed.notify_all();
    }

    pub(crate) fn open_sealed(&self, first_sequence: Sequence) -> Result<Arc<Sealed>> {
        if let Some(found) = self.opened(first_sequence) {
            return Ok(found);
        }
        // Read outside the lock: others need not wait for this disk read.
        let sealed = Arc::new(self.open_of_this_log(first_sequence)?);
        let mut open = self.lock_open();
        open.clock += 1;
        let clock = open.clock;
        open.by_sequence.insert(first_sequence, (clock, Arc::clone(&sealed)));
        open.close_unused();
        Ok(sealed)
    }

    /// Opens a sealed segment past those that are open, and refuses another log's.
    pub(crate) fn open_of_this_log(&self, first_sequence: Sequence) -> Result<Sealed> {
        let sealed = Sealed::open(self.storage.as_ref(), first_sequence)?;
        if sealed.file.header.log_id != self.read_header().log_id {
            return Err(self.foreign(&sealed.file));
        }
        Ok(sealed)
    }

    /// The last segment that begins before `sequence`.
    pub(crate) fn segment_before(&self, sequence: Sequence) -> Option<Sequence> {
        let segments = self.read_segments();
        let active = segments.active.as_ref().map(Active::first_sequence).filter(|first| *first < sequence);
        active.or_else(|| segments.sealed.range(..sequence).next_back().copied())
    }

    /// The last block of events in a segment that begins before `sequence`.
    pub(crate) fn block_of_events_before(
        &self,
        first_sequence: Sequence,
        sequence: Sequence,
    ) -> Result<Option<BlockEntry>> {
        let last_before = |index: &[BlockEntry]| {
            let begun = index.partition_point(|entry| entry.first_sequence < sequence);
            begun.checked_sub(1).and_then(|at| index.get(at)).copied()
        };
        {
            let segments = self.read_segments();
            if let Some(active) = segments.active.as_ref().filter(|active| active.first_sequence() == first_sequence) {
                return Ok(last_before(&active.index));
            }
        }
        Ok(last_before(self.open_sealed(first_sequence)?.index()))
    }

    /// Where a file is missing: tells a log whose directory is gone, whose readers must wait for it, from one that dropped a
    /// segment. A log that is being written always has a head.
    pub(crate) fn check_directory(&self) -> Result<()> {
        match self.storage.open(head::FILE, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.reading == Reading::ThisProcess => {
                Err(Error::LogMissing { directory: self.storage.name() })
            }
            _ => Ok(()),
        }
    }

    /// A segment is of another log: it was put among these by mistake, or all of the directory was replaced.
    fn foreign(&self, file: &SegmentFile) -> Error {
        let newest = self.segment_list().last().copied().unwrap_or_default();
        match SegmentFile::open(self.storage.as_ref(), newest, false) {
            Ok(newest) if newest.header.log_id == self.read_header().log_id => {
                file.corrupt(0, block::corrupt("it is a segment of another log"))
            }
            _ => Error::OtherLog { directory: self.storage.name() },
        }
    }

    /// The block of events or marks that stands before `offset` in a segment.
    fn block_before(&self, first_sequence: Sequence, offset: u64) -> Result<Option<BlockEntry>> {
        let before = |entry: &&BlockEntry| entry.offset < offset;
        {
            let segments = self.read_segments();
            if let Some(active) = segments.active.as_ref().filter(|active| active.first_sequence() == first_sequence) {
                let blocks = active.index.iter().chain(&active.marks);
                return Ok(blocks.filter(before).max_by_key(|entry| entry.offset).copied());
            }
        }
        let sealed = self.open_sealed(first_sequence)?;
        let blocks = sealed.footer.blocks.iter().filter(|entry| BlockType(entry.block_type).has_position());
        Ok(blocks.filter(before).max_by_key(|entry| entry.offset).copied())
    }

    fn opened(&self, first_sequence: Sequence) -> Option<Arc<Sealed>> {
        let mut open = self.lock_open();
        open.clock += 1;
        let clock = open.clock;
        let (used, sealed) = open.by_sequence.get_mut(&first_sequence)?;
        *used = clock;
        Some(Arc::clone(sealed))
    }

    fn locate(&self, sequence: Sequence) -> Result<Place> {
        let in_active = |active: &Active| {
            let found = search(&active.index, sequence).map(|entry| (Arc::clone(&active.file), entry));
            found.map_err(|to| (to, active.broken_tail.clone()))
        };
        let (found, first, next) = {
            let segments = self.read_segments();
            let active = segments.active.as_ref();
            let found = active.filter(|active| sequence >= active.first_sequence()).map(in_active);
            let after = segments.sealed.range(sequence.saturating_add(1)..).next().copied();
            let next = after.or_else(|| active.map(Active::first_sequence).filter(|&first| first > sequence));
            (found, segments.sealed.range(..=sequence).next_back().copied(), next)
        };
        let next = next.unwrap_or_else(|| self.lock_head().next_sequence);
        match found {
            Some(Ok((file, entry))) => return Ok(Place::Block(file, entry)),
            Some(Err((to, broken_tail))) => return self.missing(sequence, to, next, broken_tail.as_ref()),
            None => {}
        }
        let Some(first) = first else { return self.missing(sequence, None, next, None) };
        let sealed = match self.open_sealed(first) {
            Ok(sealed) => sealed,
            Err(error) if error.is_damage() => {
                let why = Missing::Quarantined(error.to_string());
                self.note_missing(first..next, &why);
                return Ok(Place::Missing(next, why));
            }
            Err(error) if error.is_gone() => {
                self.check_directory()?;
                if self.reading == Reading::AnotherProcess {
                    // Its retention may have dropped the segment since the last refresh.
                    self.retained.look(self.storage.as_ref(), next)?;
                }
                if first >= self.retained.from() {
                    self.note_missing(first..next, &Missing::Lost);
                }
                return self.missing(sequence, None, next, None);
            }
            Err(error) => return Err(error),
        };
        match search(sealed.index(), sequence) {
            Ok(entry) => Ok(Place::Block(Arc::clone(&sealed.file), entry)),
            Err(to) => self.missing(sequence, to, next, sealed.broken_tail.as_ref()),
        }
    }

    /// The place of an event that no block holds: the segment goes on at `to`, or is over and the log goes on at `next`.
    fn missing(
        &self,
        sequence: Sequence,
        to: Option<Sequence>,
        next: Sequence,
        broken_tail: Option<&String>,
    ) -> Result<Place> {
        let broken_tail = broken_tail.filter(|_| to.is_none());
        let (to, why) = self.explain(sequence, to.unwrap_or(next), broken_tail)?;
        Ok(Place::Missing(to, why))
    }
}

/// The entry that holds an event, or where the next one begins.
fn search(index: &[BlockEntry], sequence: Sequence) -> std::result::Result<BlockEntry, Option<Sequence>> {
    let after = index.partition_point(|entry| entry.first_sequence <= sequence);
    let found = after.checked_sub(1).and_then(|at| index.get(at)).filter(|entry| sequence < entry.end_sequence());
    found.copied().ok_or_else(|| index.get(after).map(|entry| entry.first_sequence))
}

/// Reads an indexed block and decodes its stored parts, which need not outlive that.
pub(crate) fn load(
    file: &SegmentFile,
    entry: &BlockEntry,
    decode: impl FnOnce(&BlockHeader, &Form, &[u8]) -> std::result::Result<Block, BlockError>,
) -> Result<Block> {
    let (header, stored) = read_entry(file, entry)?;
    let parts = stored.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
    let block = decode(&header, &file.header.form, parts).map_err(|error| file.corrupt(entry.offset, error));
    buffers::give_back(stored);
    block
}

/// The bytes of an indexed block of events.
fn read_entry(file: &SegmentFile, entry: &BlockEntry) -> Result<(BlockHeader, Vec<u8>)> {
    let mut bytes = buffers::take(entry.stored_bytes as usize);
    bytes.resize(entry.stored_bytes as usize, 0);
    let header = file.read_block_into(entry.offset, &mut bytes)?;
    check_listed(file, entry, &header)?;
    Ok((header, bytes))
}

/// Whether a block is the one of its index entry: a reader goes on where the entry ends.
pub(crate) fn check_listed(file: &SegmentFile, entry: &BlockEntry, header: &BlockHeader) -> Result<()> {
    let is_listed = header.block_type == BlockType::EVENTS
        && header.first_sequence == entry.first_sequence
        && header.count == entry.count;
    if !is_listed {
        return Err(file.corrupt(entry.offset, block::corrupt("another block stands where the index says")));
    }
    Ok(())
}

pub(crate) fn read_marks(file: &SegmentFile, entries: &[BlockEntry], marks: &mut Vec<Mark>) -> Result<()> {
    for entry in entries {
        let (header, bytes) = match file.read_block(entry.offset, entry.stored_bytes) {
            Ok(read) => read,
            Err(Error::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        let parts = bytes.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        marks.extend(block::decode_marks(&header, &file.header.form, parts).unwrap_or_default());
    }
    Ok(())
}

/// The header of the newest segment that has a sound one: what they all say of the log is the same.
fn newest_header(storage: &dyn Storage) -> Result<SegmentHeader> {
    let mut damaged = None;
    for first in list_segments(storage)?.into_iter().rev() {
        match SegmentFile::open(storage, first, false) {
            Ok(segment) => return Ok(segment.header),
            Err(error @ Error::Corrupt { .. }) => drop(damaged.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    Err(damaged.unwrap_or_else(|| Error::NotALog { directory: storage.name() }))
}

/// The first sequences of all segment files, in order.
pub(crate) fn list_segments(storage: &dyn Storage) -> Result<Vec<Sequence>> {
    let names = storage.list().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotALog { directory: storage.name() },
        _ => storage_error("list", "the directory")(error),
    })?;
    let mut sequences: Vec<_> = names.iter().filter_map(|name| parse_file_name(name)).collect();
    sequences.sort_unstable();
    Ok(sequences)
}

/// An event that is read in pieces.
pub struct LargeEvent {
    file: Arc<SegmentFile>,
    offset: u64,
    header: BlockHeader,
    shape: Block,
}

impl std::fmt::Debug for LargeEvent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LargeEvent").field("sequence", &self.header.first_sequence).finish_non_exhaustive()
    }
}

impl LargeEvent {
    /// Nothing is given out before all of it is known to be sound.
    pub(crate) fn open(file: Arc<SegmentFile>, entry: &BlockEntry) -> Result<LargeEvent> {
        let (header, shape) = file.read_shape(entry.offset)?;
        check_listed(&file, entry, &header)?;
        file.check_parts(entry.offset, &header)?;
        Ok(LargeEvent { file, offset: entry.offset, header, shape })
    }

    /// Its sequence.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.header.first_sequence
    }

    /// A block of its shape without the wire bytes: what is known about the event, but its frame and payload are empty.
    #[must_use]
    pub fn shape(&self) -> &Block {
        &self.shape
    }

    /// The API version in force after it.
    #[must_use]
    pub fn version_after(&self) -> ApiVersion {
        self.header.version_after
    }

    /// Bytes of its wire form, its version frame included.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        self.header.payload_raw.into()
    }

    /// Its payload, byte for byte as the source said it, whole in memory.
    ///
    /// # Errors
    /// What the storage answers, and [`Error::Corrupt`] when it gives something else than what was sound before.
    pub fn payload(&self) -> Result<Vec<u8>> {
        let corrupt = |error| self.file.corrupt(self.offset, error);
        let mut stored = vec![0; self.header.stored_bytes() as usize];
        let header = self.file.read_block_into(self.offset, &mut stored)?;
        let parts = stored.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        let form = &self.file.header.form;
        let block = Block::decode(&header, form, parts).map_err(corrupt)?;
        let payload = block.row(0).and_then(|row| crate::wire::unfold(form.frames, row.frame()));
        payload.ok_or_else(|| corrupt(block::corrupt("the event's frame is malformed")))
    }

    /// Reads its wire form in pieces; at most the decoder's window of 8 MiB is held in memory.
    ///
    /// # Errors
    /// When the decoder cannot be set up.
    pub fn wire(&self) -> io::Result<impl io::Read + Send + use<>> {
        let start = self.offset + BLOCK_HEADER_BYTES as u64 + u64::from(self.header.table_stored);
        let end = start + u64::from(self.header.payload_stored);
        let stored = PositionedReader { file: Arc::clone(&self.file.file), at: start, end };
        let mut decoder = zstd::stream::read::Decoder::with_buffer(io::BufReader::with_capacity(PIECE_BYTES, stored))?;
        decoder.window_log_max(block::WINDOW_LOG_MAX)?;
        Ok(decoder.single_frame())
    }
}

struct PositionedReader {
    file: Arc<dyn crate::storage::File>,
    at: u64,
    end: u64,
}

impl io::Read for PositionedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The marks of a segment whose blocks are known.
pub(crate) fn read_segment_marks(file: &SegmentFile, footer: &Footer) -> Result<Vec<Mark>> {
    let (_, entries) = split_entries(&footer.blocks);
    let mut marks = Vec::new();
    read_marks(file, &entries, &mut marks)?;
    Ok(marks)
}
