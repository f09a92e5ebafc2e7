//! Finding the block that holds an event, in the lists of the segments.

use std::sync::Arc;

use super::state::{Active, Reading, Shared};
use crate::{
    Missing, Result, Sequence,
    block::BlockType,
    segment::{BlockEntry, SegmentFile},
};

/// Where an event is.
pub(super) enum Place {
    Block(Arc<SegmentFile>, BlockEntry),
    Missing(Sequence, Missing),
}

impl Shared {
    /// Where the event at `sequence` is, or why it is not there.
    pub(super) fn locate(&self, sequence: Sequence) -> Result<Place> {
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
                let why = Missing::of_damage(&error);
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

    /// The place of an event that no block holds: the segment continues at `to`, or is over and the log continues at `next`.
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

    /// The block of events or marks that is before `offset` in a segment.
    pub(super) fn block_before(&self, first_sequence: Sequence, offset: u64) -> Result<Option<BlockEntry>> {
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
}

/// The entry that holds an event, or where the next one begins.
fn search(index: &[BlockEntry], sequence: Sequence) -> std::result::Result<BlockEntry, Option<Sequence>> {
    let after = index.partition_point(|entry| entry.first_sequence <= sequence);
    let found = after.checked_sub(1).and_then(|at| index.get(at)).filter(|entry| sequence < entry.end_sequence());
    found.copied().ok_or_else(|| index.get(after).map(|entry| entry.first_sequence))
}
