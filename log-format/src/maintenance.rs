//! What can be done to the sealed segments of a log while others read it and its writer continues.
//!
//! Owns the right to do so: [`Maintenance`] shares the writer's lock, or holds it alone where no writer runs. It rewrites
//! segments, drops the oldest ones, and reads what a dropped one held. When any of it is due is for the caller to know.

use std::{
    io,
    ops::{ControlFlow, Range},
    sync::{Arc, PoisonError},
};

use crate::{
    Error, Log, Mark, Missing, ReadOptions, Result, RewriteOptions, Rewritten, Sequence, Timestamp,
    block::Block,
    error::{Operation, Unreadable, storage_error},
    lock::{check_lock, lock},
    log::{LargeEvent, Reading, Shared},
    pieces::{open, sync_directory},
    rewrite::{self, Progress, has_small_blocks, sealed_footer},
    segment::{SegmentFile, file_name, list_segments},
    storage::{Lock, Storage},
};

/// Keeps the sealed segments of a log in shape; for a thread of its own.
///
/// It holds the writer's lock too: drop it before the log is opened for writing again.
pub struct Maintenance {
    shared: Arc<Shared>,
    lock: Arc<dyn Lock>,
}

/// A sealed segment, as far as its footer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// The first sequence it may hold.
    pub first_sequence: Sequence,
    /// The sequence after its last event.
    pub end_sequence: Sequence,
    /// Bytes of its file; 0 where that is missing or cannot be opened.
    pub bytes: u64,
    /// Wire bytes of its events; 0 where its footer is damaged or missing.
    pub bytes_raw: u64,
    /// The latest receive time of its events, in microseconds since the Unix epoch; `None` where it holds none, or its
    /// footer is damaged or missing.
    pub received_max: Option<Timestamp>,
}

/// What [`Maintenance::read_segment`] finds.
#[derive(Debug)]
pub enum SegmentPart {
    /// A block of events.
    Events(Arc<Block>),
    /// A large event.
    Large(Box<LargeEvent>),
    /// Sequences whose events cannot be read, and why.
    Missing(Range<Sequence>, Missing),
    /// The marks of a block.
    Marks(Vec<Mark>),
}

impl Maintenance {
    pub(crate) fn new(shared: Arc<Shared>, lock: Arc<dyn Lock>) -> Self {
        Maintenance { shared, lock }
    }

    /// The maintenance of a log without a writer. The newest segment is left to the next writer, sealed or not.
    ///
    /// # Errors
    /// [`Error::Locked`] when it has a writer, [`Error::NotALog`], or what the storage answers.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let not_a_log = || Error::NotALog { directory: storage.name() };
        let newest = list_segments(storage.as_ref())?.last().copied().ok_or_else(not_a_log)?;
        let lock = lock(storage.as_ref())?;
        let header = SegmentFile::open(storage.as_ref(), newest, false)?.header;
        // Listed again: a writer may have ended only now.
        let mut segments = list_segments(storage.as_ref())?;
        segments.pop();
        let log = Log::assemble(storage, ReadOptions { cache_bytes: 0 }, header, Reading::ThisProcess);
        log.shared.retained.look(log.shared.storage.as_ref(), segments.first().copied().unwrap_or(newest))?;
        log.shared.set_segments(segments, None);
        Ok(Maintenance::new(log.shared, lock))
    }

    /// The first sequences of all sealed segments, oldest first. No I/O.
    #[must_use]
    pub fn sealed_segments(&self) -> Vec<Sequence> {
        self.shared.sealed_list()
    }

    /// Bytes that the segment takes which is being written, what is reserved in it included.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn unsealed_bytes(&self) -> Result<u64> {
        self.shared
            .active_file()
            .map_or(Ok(0), |active| active.file.len().map_err(storage_error(Operation::Read, &active.name)))
    }

    /// Bytes that are free on the device.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn free_bytes(&self) -> Result<u64> {
        self.shared.storage.free_space().map_err(storage_error(Operation::LookForRoom, "the directory"))
    }

    /// What is known about a sealed segment. Reads its footer.
    ///
    /// # Errors
    /// What the storage answers. Damage, and that its file is missing, are part of the answer.
    pub fn describe(&self, first_sequence: Sequence) -> Result<SealedSegment> {
        let storage = self.shared.storage.as_ref();
        let name = file_name(first_sequence);
        let bytes = match open(storage, &name) {
            Ok(file) => file.len().map_err(storage_error(Operation::Read, &name))?,
            Err(error) if error.is_damage() => 0,
            Err(error) if error.is_gone() => {
                self.shared.check_directory()?;
                0
            }
            Err(error) => return Err(error),
        };
        let (end_sequence, bytes_raw, received_max) = match sealed_footer(storage, first_sequence) {
            Ok((_, footer)) => {
                let received_max = Some(footer.received_max).filter(|&received| received > 0);
                (footer.end_sequence, footer.payload_raw, received_max)
            }
            // It ends where the next one begins, at the latest.
            Err(error) if error.is_damage() || error.is_gone() => {
                let next = self.shared.segment_list().into_iter().find(|&next| next > first_sequence);
                (next.unwrap_or(Sequence::MAX), 0, None)
            }
            Err(error) => return Err(error),
        };
        Ok(SealedSegment { first_sequence, end_sequence, bytes, bytes_raw, received_max })
    }

    /// The sealed segments from sequence `from` on that a rewrite with blocks of `block_bytes` would leave with half as
    /// many blocks or fewer. A segment that was rewritten is not among them. Reads one footer per segment.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn segments_with_small_blocks(&self, from: Sequence, block_bytes: usize) -> Result<Vec<Sequence>> {
        self.segments_that(from, |_, footer| has_small_blocks(&footer.blocks, block_bytes))
    }

    /// The sealed segments from sequence `from` on that were not yet rewritten at this level or a higher one, or that have
    /// small blocks all the same. Reads one footer per segment.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn segments_to_compact(&self, from: Sequence, options: RewriteOptions) -> Result<Vec<Sequence>> {
        self.segments_that(from, |file, footer| rewrite::is_due(file, footer, options))
    }

    fn segments_that(
        &self,
        from: Sequence,
        is_wanted: impl Fn(&SegmentFile, &crate::segment::Footer) -> bool,
    ) -> Result<Vec<Sequence>> {
        let mut found = Vec::new();
        for first in self.shared.sealed_list().into_iter().filter(|&first| first >= from) {
            match sealed_footer(self.shared.storage.as_ref(), first) {
                Ok((file, footer)) if is_wanted(&file, &footer) => found.push(first),
                Ok(_) => {}
                // What is wanted of it is known when it can be read: it is not settled.
                Err(error) if error.is_unreadable() => found.push(first),
                // A damaged segment is left to repair, a dropped one is settled.
                Err(error) if error.is_damage() || error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Where the segment begins that is not sealed yet: the next to look at, once it is.
    #[must_use]
    pub fn unsealed_segment(&self) -> Option<Sequence> {
        self.shared.segment_list().last().copied()
    }

    /// Cuts the sealed segment that begins at `first_sequence` again into blocks and compresses them. `None` when retention
    /// has dropped the segment meanwhile; nothing is changed then, nor after an error.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the segment is damaged or does not read back, or what the storage answers.
    pub fn rewrite(&self, first_sequence: Sequence, options: RewriteOptions) -> Result<Option<Rewritten>> {
        self.rewrite_at_pace(first_sequence, options, &mut |_| ControlFlow::Continue(()))
    }

    /// The same in the pace that `progress` sets; `None` also when that stops it.
    ///
    /// # Errors
    /// As [`Maintenance::rewrite`].
    pub fn rewrite_at_pace(
        &self,
        first_sequence: Sequence,
        options: RewriteOptions,
        progress: Progress<'_>,
    ) -> Result<Option<Rewritten>> {
        self.check_lock()?;
        rewrite::rewrite(&self.shared, first_sequence, options, progress)
    }

    /// Removes whole sealed segments that hold only sequences below `sequence`, oldest first; returns how many. Readers
    /// that are in one of them find that it was dropped.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn drop_before(&self, sequence: Sequence) -> Result<usize> {
        self.check_lock()?;
        let shared = &self.shared;
        let _one_at_a_time = shared.dropping.lock().unwrap_or_else(PoisonError::into_inner);
        let segments = shared.segment_list();
        let pairs = segments.windows(2).map_while(|pair| match *pair {
            [first, next] if next <= sequence => Some((first, next)),
            _ => None,
        });
        let to_drop: Vec<_> = pairs.collect();
        let Some(&(_, oldest)) = to_drop.last() else { return Ok(0) };
        // Recorded first: a segment that is missing without that is lost.
        shared.retained.record(shared.storage.as_ref(), oldest)?;
        for &(first, _) in &to_drop {
            // Out of sight first, so that no reader opens a segment that is about to be removed.
            shared.forget(first, true);
            if let Err(error) = remove_segment(shared.storage.as_ref(), first) {
                // The next drop begins with it again: one that stays behind would have a hole after it.
                shared.remember(first);
                return Err(error);
            }
        }
        Ok(to_drop.len())
    }

    /// Files of another log may have the same names.
    fn check_lock(&self) -> Result<()> {
        check_lock(self.lock.as_ref(), self.shared.storage.as_ref())
    }

    /// Goes through the blocks of a sealed segment past the cache, to undo what was done for its events. Marks come as far
    /// as they can be read; those about a block's events come before it.
    ///
    /// # Errors
    /// What the storage answers. Damage comes as [`SegmentPart::Missing`].
    pub fn read_segment(&self, first_sequence: Sequence, visit: &mut dyn FnMut(SegmentPart)) -> Result<()> {
        let (file, footer) = sealed_footer(self.shared.storage.as_ref(), first_sequence)?;
        let file = Arc::new(file);
        let (events, marks) = footer.split_blocks();
        let mut marks = marks.into_iter().peekable();
        let mut visit_marks = |position: Sequence, visit: &mut dyn FnMut(SegmentPart)| -> Result<()> {
            while let Some(entry) = marks.next_if(|entry| entry.first_sequence <= position) {
                let mut read = Vec::new();
                file.read_marks(&[entry], &mut read, Unreadable::IsDamage)?;
                visit(SegmentPart::Marks(read));
            }
            Ok(())
        };
        for entry in &events {
            visit_marks(entry.end_sequence(), visit)?;
            let part = if entry.is_large() {
                LargeEvent::open(Arc::clone(&file), entry).map(|large| SegmentPart::Large(Box::new(large)))
            } else {
                file.load(entry, Block::decode).map(|block| SegmentPart::Events(Arc::new(block)))
            };
            visit(match part {
                Err(error) if error.is_damage() => {
                    SegmentPart::Missing(entry.first_sequence..entry.end_sequence(), Missing::of_damage(&error))
                }
                part => part?,
            });
        }
        visit_marks(Sequence::MAX, visit)
    }
}

/// Removes a segment's file, and sees to it that a crash cannot bring it back without those after it.
fn remove_segment(storage: &dyn Storage, first_sequence: Sequence) -> Result<()> {
    let name = file_name(first_sequence);
    match storage.remove(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.map_err(storage_error(Operation::Remove, &name))?,
    }
    sync_directory(storage)
}
