//! What all clones of a log share: which segments there are, which of them are open, and where the visible log ends.
//!
//! The writer of the same process changes it as it goes; a reader of another process's log replaces it at each refresh.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use rustix::process::{Resource, getrlimit};

use super::following::Following;
use crate::{
    Error, Result, Sequence,
    block::{self, BlockType},
    cache::BlockCache,
    error::Unreadable,
    head, losses,
    oldest::Retained,
    position::Head,
    scan::Scan,
    segment::{BlockEntry, Footer, SegmentFile, SegmentHeader},
    storage::Storage,
};

/// Sealed segments that are kept open for reading; few where the process may open few files.
static OPEN_SEGMENTS_MAX: LazyLock<usize> = LazyLock::new(|| {
    let open_files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(open_files_max / 12).unwrap_or(usize::MAX).clamp(2, 32)
});

/// The most blocks that open sealed segments list together: 48 bytes each. A segment that was not rewritten yet may list
/// 32,768.
const OPEN_BLOCKS_MAX: usize = 1 << 16;

pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) cache: BlockCache,
    header: RwLock<SegmentHeader>,
    segments: RwLock<Segments>,
    pub(crate) retained: Retained,
    pub(crate) losses: losses::Known,
    open: Mutex<OpenSegments>,
    pub(super) reading: Reading,
    /// Held during a refresh, so that an older look at the disk never replaces a newer one.
    pub(super) following: Mutex<Option<Following>>,
    head: Mutex<Head>,
    pub(super) committed: Condvar,
    /// Held while a sealed segment is rewritten: one at a time.
    pub(crate) rewriting: Mutex<()>,
    /// Held while segments are dropped, so that they go oldest first, and while a rewritten one is put in place.
    pub(crate) dropping: Mutex<()>,
}

/// Who writes the log that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The writer reports new events.
    ThisProcess,
    /// The disk does.
    AnotherProcess,
}

/// Which segments there are.
#[derive(Default)]
pub(super) struct Segments {
    pub(super) sealed: BTreeSet<Sequence>,
    pub(super) active: Option<Active>,
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
        let (index, marks) = footer.split_blocks();
        Active { file, index, marks, broken_tail: None }
    }

    pub(crate) fn first_sequence(&self) -> Sequence {
        self.file.header.first_sequence
    }
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
    /// The device did not give its footer back: it may list more when that can be read.
    is_provisional: bool,
}

impl Sealed {
    pub(crate) fn open(storage: &dyn Storage, first_sequence: Sequence) -> Result<Self> {
        let file = SegmentFile::open(storage, first_sequence, false)?;
        let read = Footer::read(&file.name, file.file.as_ref());
        let is_provisional = read.as_ref().is_err_and(Error::is_unreadable);
        let (footer, has_footer, broken_tail) = match read {
            Ok(Some((footer, _))) => (footer, true, None),
            Err(error) if !error.is_bad_bytes() => return Err(error),
            Ok(None) | Err(_) => {
                let mut scan = Scan::begin(&file, Unreadable::IsDamage);
                scan.advance(&file, u64::MAX, u64::MAX)?;
                let broken_tail = scan.tail.as_ref().map(ToString::to_string);
                (scan.footer, false, broken_tail)
            }
        };
        let lists_others = footer.blocks.iter().any(|entry| entry.block_type != BlockType::EVENTS.0);
        let events = lists_others.then(|| footer.split_blocks().0);
        Ok(Sealed { file: Arc::new(file), footer, has_footer, events, broken_tail, is_provisional })
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
    /// Counts how often a segment was forgotten.
    forgotten: u64,
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

impl Shared {
    /// Knows a log by the header of its newest segment, and no segment yet.
    pub(super) fn new(storage: Arc<dyn Storage>, cache_bytes: usize, header: SegmentHeader, reading: Reading) -> Self {
        let head = Head {
            next_sequence: header.first_sequence,
            api_version: header.version_announced,
            chain: header.chain_before,
            epoch: header.epoch,
        };
        Shared {
            storage,
            cache: BlockCache::new(cache_bytes),
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
        }
    }

    pub(crate) fn lock_head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read_header(&self) -> RwLockReadGuard<'_, SegmentHeader> {
        self.header.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_header(&self) -> RwLockWriteGuard<'_, SegmentHeader> {
        self.header.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_segments(&self) -> RwLockReadGuard<'_, Segments> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_segments(&self) -> RwLockWriteGuard<'_, Segments> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
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
        let mut segments = self.write_segments();
        segments.sealed = sealed.into_iter().collect();
        segments.active = active;
    }

    /// Forgets what is in memory of events and segments: sequences may name other events now.
    pub(super) fn forget_all(&self) {
        self.cache.clear();
        let mut open = self.lock_open();
        open.forgotten += 1;
        open.by_sequence.clear();
    }

    /// Replaces all that is known of the segments after the log was recovered: what was read before may not be there any
    /// more.
    pub(crate) fn replace_segments(&self, header: SegmentHeader, sealed: Vec<Sequence>, active: Option<Active>) {
        *self.write_header() = header;
        self.set_segments(sealed, active);
        self.forget_all();
    }

    /// The active segment is sealed now.
    pub(crate) fn active_was_sealed(&self) {
        let mut segments = self.write_segments();
        if let Some(active) = segments.active.take() {
            segments.sealed.insert(active.first_sequence());
        }
    }

    pub(crate) fn active_has_begun(&self, active: Active) {
        *self.write_header() = active.file.header.clone();
        self.write_segments().active = Some(active);
    }

    /// A sealed segment was rewritten or removed: readers open it again.
    pub(crate) fn forget(&self, first_sequence: Sequence, removed: bool) {
        if removed {
            self.write_segments().sealed.remove(&first_sequence);
        }
        let mut open = self.lock_open();
        open.forgotten += 1;
        open.by_sequence.remove(&first_sequence);
    }

    /// A segment that was to be removed may still be there.
    pub(crate) fn remember(&self, first_sequence: Sequence) {
        self.write_segments().sealed.insert(first_sequence);
    }

    /// Puts another file in the place of a sealed segment, unless it was dropped meanwhile; says whether it did. Readers
    /// open it again; those who read the old one continue with it.
    pub(crate) fn replace_sealed(
        &self,
        first_sequence: Sequence,
        replace: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        // A drop takes a segment off the list before it removes its file, and holds this lock: so the removed cannot come
        // back. Readers need the list all the time, and must not wait for the disk.
        let _no_drop = self.dropping.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.read_segments().sealed.contains(&first_sequence) {
            return Ok(false);
        }
        replace()?;
        self.forget(first_sequence, false);
        Ok(true)
    }

    /// Makes blocks of the active segment visible, then the head, and wakes who waits.
    pub(crate) fn publish(&self, entries: &[BlockEntry], head: Head) {
        {
            let mut segments = self.write_segments();
            if let Some(active) = &mut segments.active {
                let (mut index, mut marks) = BlockEntry::split(entries);
                active.index.append(&mut index);
                active.marks.append(&mut marks);
            }
        }
        *self.lock_head() = head;
        self.committed.notify_all();
    }

    pub(crate) fn open_sealed(&self, first_sequence: Sequence) -> Result<Arc<Sealed>> {
        let forgotten = match self.opened(first_sequence) {
            Ok(found) => return Ok(found),
            Err(forgotten) => forgotten,
        };
        // Read outside the lock: others need not wait for this disk read.
        let sealed = Arc::new(self.open_of_this_log(first_sequence)?);
        if sealed.is_provisional {
            return Ok(sealed);
        }
        let mut open = self.lock_open();
        // A file that was replaced or removed meanwhile would stay open, and its room taken.
        if open.forgotten != forgotten || !self.read_segments().sealed.contains(&first_sequence) {
            return Ok(sealed);
        }
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

    /// Where a file is missing: distinguishes a log whose directory is gone, whose readers must wait, from one that dropped a
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

    /// The segment if it is open; else how often one was forgotten so far.
    fn opened(&self, first_sequence: Sequence) -> std::result::Result<Arc<Sealed>, u64> {
        let mut open = self.lock_open();
        open.clock += 1;
        let clock = open.clock;
        let forgotten = open.forgotten;
        let (used, sealed) = open.by_sequence.get_mut(&first_sequence).ok_or(forgotten)?;
        *used = clock;
        Ok(Arc::clone(sealed))
    }
}
