//! Reading a log's marks.

use std::{collections::VecDeque, sync::Arc, vec};

use super::{
    reader::Log,
    state::{Active, Shared},
};
use crate::{
    Mark, Result, Sequence,
    error::Unreadable,
    segment::{BlockEntry, SegmentFile},
};

impl Log {
    /// All marks from position `from` on, in order, as far as they can be read: those of a damaged block or segment are
    /// left out. All of them are in memory; [`MarkCursor`] reads them one after the other.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn marks(&self, from: Sequence) -> Result<Vec<Mark>> {
        let mut cursor = MarkCursor::new(self, from);
        let mut marks = Vec::new();
        while let Some(mark) = cursor.next_to(Sequence::MAX)? {
            if mark.position >= from {
                marks.push(mark);
            }
        }
        Ok(marks)
    }
}

/// Reads a log's marks in order, a block at a time, as far as they can be read: those of a damaged block or segment are left
/// out. Of the unsealed segment it reads what was visible when it got there.
pub struct MarkCursor {
    log: Log,
    kinds: u64,
    unreadable: Unreadable,
    /// The segment to read after this one.
    next_segment: Option<Sequence>,
    segment: Option<(Arc<SegmentFile>, vec::IntoIter<BlockEntry>)>,
    /// The next block of this segment.
    next_block: Option<BlockEntry>,
    marks: VecDeque<Mark>,
}

impl MarkCursor {
    /// Begins with the segment that holds the event at `from`: a mark about that event may be anywhere in it.
    #[must_use]
    pub fn new(log: &Log, from: Sequence) -> Self {
        let next_segment = log.shared.segment_at_or_after(from);
        MarkCursor {
            log: log.clone(),
            kinds: u64::MAX,
            unreadable: Unreadable::IsDamage,
            next_segment,
            segment: None,
            next_block: None,
            marks: VecDeque::new(),
        }
    }

    /// Reads only marks of these kinds, one bit each (see [`crate::MarkKind::bit`]). Blocks without one of them are passed
    /// over unread.
    #[must_use]
    pub fn of_kinds(self, kinds: u64) -> Self {
        MarkCursor { kinds, ..self }
    }

    /// Marks that the device does not give back are an error, and not left out: see
    /// [`Cursor::waiting_for_the_device`](crate::Cursor::waiting_for_the_device).
    #[must_use]
    pub fn waiting_for_the_device(self) -> Self {
        MarkCursor { unreadable: Unreadable::IsAnError, ..self }
    }

    /// The next mark, if its position is at most `position`. With the end of a block as the position, all marks about that
    /// block's events have come.
    ///
    /// # Errors
    /// What the storage answers; the same can be tried again.
    pub fn next_to(&mut self, position: Sequence) -> Result<Option<Mark>> {
        loop {
            if let Some(mark) = self.marks.pop_front() {
                return Ok(Some(mark));
            }
            if self.next_block.is_none() {
                let kinds = self.kinds;
                let blocks = self.segment.as_mut().map(|(_, blocks)| blocks);
                self.next_block = blocks.and_then(|blocks| blocks.find(|entry| entry.kinds & kinds != 0));
            }
            match (self.next_block, &self.segment) {
                (Some(entry), Some((file, _))) => {
                    if entry.first_sequence > position {
                        return Ok(None);
                    }
                    let mut marks = Vec::new();
                    file.read_marks(&[entry], &mut marks, self.unreadable)?;
                    self.next_block = None;
                    self.marks.extend(marks.into_iter().filter(|mark| mark.kind.bit() & self.kinds != 0));
                }
                _ => match self.next_segment.filter(|&first| first <= position) {
                    Some(first) => self.open(first)?,
                    None => return Ok(None),
                },
            }
        }
    }

    fn open(&mut self, first: Sequence) -> Result<()> {
        let shared = &self.log.shared;
        let of_active = |active: &Active| (Arc::clone(&active.file), active.marks.clone());
        let opened = match shared.active_contents(first, of_active) {
            Some((file, marks)) => Some((file, marks)),
            None => match shared.open_sealed(first) {
                Ok(sealed) => Some((Arc::clone(&sealed.file), sealed.footer.split_blocks().1)),
                // Retention was faster; or one bad header, which must not hide the marks of all other segments.
                Err(error) if error.is_gone() => None,
                Err(error) if error.is_unreadable() && self.unreadable == Unreadable::IsAnError => return Err(error),
                Err(error) if error.is_damage() => None,
                Err(error) => return Err(error),
            },
        };
        self.segment = opened.map(|(file, marks)| (file, marks.into_iter()));
        self.next_segment = shared.segment_after(first);
        Ok(())
    }
}

impl Shared {
    /// The segment that holds `sequence`; the oldest one for sequences before it.
    fn segment_at_or_after(&self, sequence: Sequence) -> Option<Sequence> {
        let segments = self.segment_list();
        let at = segments.partition_point(|&first| first <= sequence);
        segments.get(at.saturating_sub(1)).copied()
    }

    fn segment_after(&self, sequence: Sequence) -> Option<Sequence> {
        self.segment_list().into_iter().find(|&first| first > sequence)
    }
}
