//! Which segments of a log there are, and how far each is looked at.

use std::sync::Arc;

use super::{
    examined::{Damage, Examined, Extent},
    examiner::Examiner,
};
use crate::{
    CHAIN_START, Error, Result, Sequence,
    error::{Operation, Unreadable, storage_error},
    head::{self, HeadState},
    oldest::{self, OldestState},
    pieces::open,
    segment::{HeaderDamage, HeaderSource, SegmentFile, SegmentHeader, file_name, find_header, list_segments},
    storage::Storage,
};

/// Which segments there are, and how far each is to be looked at.
pub(crate) struct Survey {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) head: HeadState,
    pub(crate) segments: Vec<Sequence>,
    pub(crate) oldest: OldestState,
    pub(crate) examiner: Examiner,
}

impl Survey {
    /// Looks at the head first: what it names was on disk before it. A head or a file `oldest` that cannot be read is as good
    /// as none here.
    pub(crate) fn begin(storage: Arc<dyn Storage>) -> Result<Self> {
        let head = match head::read(storage.as_ref()) {
            Err(error) if error.is_bad_bytes() => HeadState::Missing,
            head => head?,
        };
        let segments = list_segments(storage.as_ref())?;
        if segments.is_empty() {
            return Err(Error::NotALog { directory: storage.name() });
        }
        // After the segments were listed: a drop records itself before it removes any.
        let oldest = match oldest::read(storage.as_ref()) {
            Err(error) if error.is_bad_bytes() => OldestState::DAMAGED,
            oldest => oldest?,
        };
        let mut examiner = Examiner::default();
        let first = segments.first().copied();
        // Segments below it may be left over from a drop that was cut short.
        examiner.expect_from(oldest.sequence().filter(|&oldest| first.is_some_and(|first| oldest < first)));
        Ok(Survey { storage, head, segments, oldest, examiner })
    }

    /// How far the segment at `index` is to be looked at.
    pub(crate) fn extent(&self, index: usize) -> Extent {
        let next = self.segments.get(index + 1).copied();
        if next.is_some() {
            return Extent { is_last: false, durable_end: None, end_sequence: next };
        }
        let newest = self.segments.get(index).copied().unwrap_or_default();
        let durable_end = self.head.durable_end(newest);
        // A segment that was begun after the head was written has nothing visible in it.
        let end_sequence = self.head.own().map(|slot| slot.next_sequence).filter(|_| durable_end != Some(0));
        Extent { is_last: true, durable_end, end_sequence }
    }

    /// Examines the segment at `index`; those before it must have been.
    pub(crate) fn examine(&mut self, index: usize, extent: Extent, progress: &mut dyn FnMut(u64)) -> Result<Examined> {
        let copied = match self.head {
            HeadState::Copied(slot) if extent.is_last => Some((slot, self.examiner.clone())),
            _ => None,
        };
        let examined = self.examine_to(index, extent, progress)?;
        if let Some((slot, before)) = copied
            && let Some(torn) = examined.torn_end_of_copy(slot.next_sequence)
        {
            return self.examine_before(index, extent, before, torn);
        }
        Ok(examined)
    }

    /// Examines a segment as if it ended where `torn` begins, from what was `before` it.
    pub(crate) fn examine_before(
        &mut self,
        index: usize,
        extent: Extent,
        before: Examiner,
        torn: Damage,
    ) -> Result<Examined> {
        self.examiner = before;
        let extent = Extent { durable_end: Some(torn.offset), ..extent };
        let examined = self.examine_to(index, extent, &mut |_| {})?;
        Ok(Examined { torn_end: Some(torn), ..examined })
    }

    fn examine_to(&mut self, index: usize, extent: Extent, progress: &mut dyn FnMut(u64)) -> Result<Examined> {
        let first = self.segments.get(index).copied().unwrap_or_default();
        let file = self.open(first)?;
        self.examiner.segment(file, extent, progress)
    }

    /// Opens a segment, with a header put together from elsewhere where its own is damaged and no copy is left.
    fn open(&self, first: Sequence) -> Result<SegmentFile> {
        let name = file_name(first);
        let storage = self.storage.as_ref();
        let file = open(storage, &name)?;
        let error = match find_header(storage, &name, file.as_ref()) {
            Ok(found) => return SegmentFile::found(name, file, first, found),
            Err(error) => error,
        };
        let is_unreadable = error.is_unreadable();
        let reason = error.bad_bytes()?.reason;
        let Some(header) = self.other_header(first) else {
            let reason = format!(
                "{reason}, and neither a copy of it nor another segment has the id of this log; restore it from a backup"
            );
            return Err(Error::Corrupt { file: name, offset: 0, reason });
        };
        let header_damage = Some(HeaderDamage { reason: reason.clone(), source: HeaderSource::Neighbours });
        let mut segment = SegmentFile { name, file, header, blocks_start: 0, header_damage };
        let has_blocks = self.restore_header(&mut segment, first)?;
        // All of it may be readable again later: a repair must not put an empty segment in its place.
        if is_unreadable && !has_blocks {
            let reason =
                format!("{reason}, of neither its header nor a block; check the device, or restore it from a backup");
            return Err(Error::Corrupt { file: segment.name, offset: 0, reason });
        }
        Ok(segment)
    }

    /// Fills in what a segment's blocks and the segment before it show of its header; says whether a block was found.
    fn restore_header(&self, segment: &mut SegmentFile, first: Sequence) -> Result<bool> {
        let length = segment.file.len().map_err(storage_error(Operation::Read, &segment.name))?;
        let start = segment.find_block_after(0, first, Unreadable::IsDamage, |_, _| true)?.map(|(offset, _)| offset);
        let block = match start {
            Some(start) => segment.read_header(start)?,
            None => None,
        };
        let thread = self.examiner.thread();
        let follows = thread.next_sequence == Some(first);
        let version = block.as_ref().map_or(thread.wire_version.unwrap_or_default(), |block| block.version_before);
        segment.blocks_start = start.unwrap_or(length);
        segment.header = SegmentHeader {
            generation: 0,
            rewritten_level: 0,
            first_sequence: first,
            created: block.as_ref().map_or(0, |block| block.received_min),
            version_before: version,
            version_announced: thread.announced_version.max(version),
            chain_before: thread.chain.filter(|_| follows).unwrap_or(CHAIN_START),
            ..segment.header.clone()
        };
        Ok(start.is_some())
    }

    /// The header of the nearest other segment that has a sound one.
    fn other_header(&self, first: Sequence) -> Option<SegmentHeader> {
        let (before, after): (Vec<_>, Vec<_>) =
            self.segments.iter().copied().filter(|&other| other != first).partition(|&other| other < first);
        before
            .into_iter()
            .rev()
            .chain(after)
            .find_map(|other| SegmentFile::open(self.storage.as_ref(), other, false).ok())
            .map(|segment| segment.header)
    }
}
