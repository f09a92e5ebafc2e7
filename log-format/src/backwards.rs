//! Reading from the newest event to older ones: from a [`Sequence`] to the block before it.

use crate::{Log, Outline, Result, Sequence};

impl Log {
    /// The last block that begins before `sequence`, as the index knows it. Between its end and `sequence` there may be a
    /// gap, of which [`Log::read`] says why it is there. Reads no block; segments that cannot be read are passed over.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn outline_before(&self, sequence: Sequence) -> Result<Option<Outline>> {
        let mut before = sequence;
        while let Some(first) = self.shared.segment_before(before) {
            match self.shared.block_of_events_before(first, sequence) {
                Ok(Some(entry)) => return Ok(Some(Outline::of(&entry))),
                Ok(None) => {}
                // Dropped by retention meanwhile, or damaged: its events cannot be given out.
                Err(error) if error.is_gone() => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
            before = first;
        }
        Ok(None)
    }
}
