//! Reading from the newest event to older ones: from a [`Sequence`] to the block before it.

use std::io;

use crate::{Error, Log, Result, Sequence, log::Outline};

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
                Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(Error::Corrupt { .. } | Error::NewerFormat { .. } | Error::UnknownFeature { .. }) => {}
                Err(error) => return Err(error),
            }
            before = first;
        }
        Ok(None)
    }
}
