//! Finding out what an unsealed segment holds: block by block, from its headers.

use crate::{
    Error, Result, Sequence,
    block::{self, BlockError, BlockHeader, BlockType},
    error::{Operation, Unreadable, storage_error},
    segment::{Footer, SEGMENT_BLOCKS_MAX, SegmentFile},
};

/// What a scan found.
pub(crate) struct Scan {
    /// The blocks so far, as a footer would list them; events are not counted by kind.
    pub(crate) footer: Footer,
    /// Where the last sound block ends.
    pub(crate) end: u64,
    /// Bytes in the middle that are not a block, with sound blocks after them.
    pub(crate) damage: Vec<Error>,
    /// What is at `end`, when it is neither zeros nor the end of the file.
    pub(crate) tail: Option<Error>,
    /// The segment came here with a copy, so that any part of it may be older than what follows.
    copied: bool,
    unreadable: Unreadable,
}

impl Scan {
    pub(crate) fn begin(segment: &SegmentFile, unreadable: Unreadable) -> Self {
        let footer = Footer::empty(&segment.header);
        Scan { footer, end: segment.blocks_start, damage: Vec::new(), tail: None, copied: false, unreadable }
    }

    /// For a segment that was copied while it was being written: what is after a torn block proves nothing.
    pub(crate) fn begin_copied(segment: &SegmentFile, unreadable: Unreadable) -> Self {
        Scan { copied: true, ..Self::begin(segment, unreadable) }
    }

    /// Continues to the end of the segment, or to `limit`.
    ///
    /// Blocks that end at or before `trusted` were synced, so their headers are enough (a reader checks the parts when it
    /// needs them), and bytes that do not fit there are damage. After it every part is checked, because a block there may
    /// have been cut short by a crash; it is damage only if a block follows that was written after a sync.
    pub(crate) fn advance(&mut self, segment: &SegmentFile, trusted: u64, limit: u64) -> Result<()> {
        self.tail = None;
        let length = segment.file.len().map_err(storage_error(Operation::Read, &segment.name))?;
        while self.end < limit {
            let error = match self.next_block(segment, trusted, length) {
                // The end, as zeros are, unless blocks are after it: those were committed.
                Ok(Some(header)) if header.block_type == BlockType::FOOTER => None,
                Ok(Some(header)) => {
                    self.footer.add(&header, self.end);
                    self.end += header.stored_bytes();
                    continue;
                }
                Ok(None) => None,
                Err(error) if self.unreadable.is_passed_over(&error) => Some(error),
                Err(error) => return Err(error),
            };
            match self.next_sound_block(segment, trusted)?.filter(|&(offset, _)| offset < limit) {
                Some((offset, sequence)) => {
                    self.damage.push(error.unwrap_or_else(|| segment.corrupt(self.end, BlockError::End)));
                    self.footer.add_unreadable(sequence, self.end..offset);
                    self.end = offset;
                }
                None => {
                    self.tail = error;
                    break;
                }
            }
        }
        Ok(())
    }

    /// The block at the end of those found so far.
    fn next_block(&self, segment: &SegmentFile, trusted: u64, length: u64) -> Result<Option<BlockHeader>> {
        let corrupt = |reason: String| Err(segment.corrupt(self.end, block::corrupt(reason)));
        let Some(header) = segment.read_header(self.end)? else { return Ok(None) };
        let block_end = self.end + header.stored_bytes();
        if block_end > length {
            return corrupt(format!("the block ends at byte {block_end}, but the file at {length}"));
        }
        let expected = self.footer.end_sequence;
        let follows = match header.block_type {
            // A mark of a loss is after what is lost.
            BlockType::MARKS => header.first_sequence >= expected,
            _ => header.first_sequence == expected,
        };
        if header.block_type.has_position() && !follows {
            return corrupt(format!("the block begins at sequence {}, not at {expected}", header.first_sequence));
        }
        if self.footer.blocks.len() >= SEGMENT_BLOCKS_MAX {
            return corrupt(format!("the segment has more than {SEGMENT_BLOCKS_MAX} blocks"));
        }
        if block_end > trusted {
            segment.check_parts(self.end, &header)?;
        }
        Ok(Some(header))
    }

    /// Where the segment continues after what is not a block: at which byte and sequence.
    fn next_sound_block(&self, segment: &SegmentFile, trusted: u64) -> Result<Option<(u64, Sequence)>> {
        if self.copied {
            return Ok(None);
        }
        let (from, sequence) = (self.end + 1, self.footer.end_sequence);
        let is_proof = |offset, header: &BlockHeader| offset < trusted || header.synced_before;
        let Some((proof, _)) = segment.find_block_after(from, sequence, self.unreadable, is_proof)? else {
            return Ok(None);
        };
        // Sound blocks before it were committed too.
        segment.find_block_after(from, sequence, self.unreadable, |offset, _| offset <= proof)
    }
}
