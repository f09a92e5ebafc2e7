//! The chain value after any event of a log.

use super::{
    locate::Place,
    reader::{Log, Read},
};
use crate::{Block, ChainValue, Result, Sequence, segment::SegmentFile};

impl Log {
    /// The chain value after the event at `sequence`, to compare this log with a replica, a back-up or its earlier self.
    ///
    /// `None` where it is unknown: no event is stored there, or what is before it in its block's chain is damaged.
    /// For the sequence right before the oldest retained event, it is in the oldest segment's header.
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
            Read::Large(large) => return Ok(Some(large.chain_after())),
            Read::Missing { .. } => return self.chain_before_segment(sequence.saturating_add(1)),
            Read::End => return Ok(None),
        };
        if index + 1 == block.len() {
            return Ok(Some(block.chain_after()));
        }
        let Some(before) = self.chain_before(block.first_sequence())? else { return Ok(None) };
        // After a loss the value to begin with may not be known: then the block does not end where it says.
        Ok(block.chain_values_from(before).and_then(|values| values.get(index).copied()))
    }

    /// The chain value before the event at `sequence`, with which a block begins or began before its segment was rewritten.
    fn chain_before(&self, sequence: Sequence) -> Result<Option<ChainValue>> {
        let Place::Block(file, entry) = self.shared.locate(sequence)? else { return Ok(None) };
        let before = match self.shared.block_before(file.header.first_sequence, entry.offset)? {
            None => Some(file.header.chain_before),
            Some(before) => unless_damaged(file.read_header(before.offset))?.flatten().map(|header| header.chain_after),
        };
        let Some(events_before) = sequence.checked_sub(entry.first_sequence).filter(|&events| events > 0) else {
            return Ok(before);
        };
        let (Some(before), Some(block)) = (before, unless_damaged(file.load(&entry, Block::decode))?) else {
            return Ok(None);
        };
        Ok(block.chain_values_from(before).and_then(|values| values.get(events_before as usize - 1).copied()))
    }

    /// The chain value before the segment that begins at `sequence`, if one does.
    fn chain_before_segment(&self, sequence: Sequence) -> Result<Option<ChainValue>> {
        if !self.shared.segment_list().contains(&sequence) {
            return Ok(None);
        }
        let segment = unless_damaged(SegmentFile::open(self.shared.storage.as_ref(), sequence, false))?;
        Ok(segment.map(|segment| segment.header.chain_before))
    }
}

/// `None` for what is damaged.
fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if error.is_damage() => Ok(None),
        read => read.map(Some),
    }
}
