//! Finding the event that a time of receipt names: from a [`Timestamp`] to a [`Sequence`].
//!
//! Clocks jump, so receive times are not in the order of the sequences and nothing can be bisected. The greatest receive
//! time of every segment (in the header of its footer) and of every block (in the index) rules out nearly all of them:
//! two small reads per older segment, one footer, one table.

use std::sync::Arc;

use crate::{
    Log, Result, Sequence, Timestamp,
    log::Shared,
    pieces::open,
    segment::{BlockEntry, Footer, SegmentFile, file_name},
};

impl Log {
    /// The first event, in the order of the sequences, that was received at `time` (microseconds since the Unix epoch) or
    /// later. `None` when all readable events were received before.
    ///
    /// Events before it may have been received later than it only where a clock was set back. Damaged blocks are passed
    /// over. The search reads two small pieces per segment, so it belongs on a thread that may block.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn first_received_at_or_after(&self, time: Timestamp) -> Result<Option<Sequence>> {
        for first in self.shared.segment_list() {
            match self.shared.first_received_in(first, time) {
                Ok(None) => {}
                // Dropped by retention meanwhile, or damaged: its events cannot be given out.
                Err(error) if error.is_gone() => {}
                Err(error) if error.is_damage() => {}
                found => return found,
            }
        }
        Ok(None)
    }

    /// Where to read from for everything received at `time` or later: the first such event, or the head where there is none
    /// yet. The head is read before the search, so that no event committed during the search is skipped.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn start_at_time(&self, time: Timestamp) -> Result<Sequence> {
        let head = self.head().next_sequence;
        Ok(self.first_received_at_or_after(time)?.unwrap_or(head))
    }
}

impl Shared {
    fn first_received_in(&self, first_sequence: Sequence, time: Timestamp) -> Result<Option<Sequence>> {
        let active = self.active_contents(first_sequence, |active| (Arc::clone(&active.file), active.index.clone()));
        if let Some((file, index)) = active {
            return first_received_in_blocks(&file, &index, time);
        }
        if let Some(received_max) = self.received_max(first_sequence)?
            && received_max < time
        {
            return Ok(None);
        }
        let sealed = self.open_sealed(first_sequence)?;
        first_received_in_blocks(&sealed.file, sealed.index(), time)
    }

    /// The greatest receive time in a sealed segment; `None` where its footer does not have it.
    fn received_max(&self, first_sequence: Sequence) -> Result<Option<Timestamp>> {
        let name = file_name(first_sequence);
        let file = open(self.storage.as_ref(), &name)?;
        match Footer::find(&name, file.as_ref()) {
            Ok(found) => Ok(found.map(|(header, _)| header.received_max)),
            Err(error) if error.is_bad_bytes() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn first_received_in_blocks(
    file: &Arc<SegmentFile>,
    index: &[BlockEntry],
    time: Timestamp,
) -> Result<Option<Sequence>> {
    for entry in index.iter().filter(|entry| entry.received_max >= time) {
        let (header, shape) = match file.read_shape(entry.offset) {
            Ok(read) => read,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        // Another block where the index says: damaged, as for every other reader.
        if header.first_sequence != entry.first_sequence || header.count != entry.count {
            continue;
        }
        if let Some(row) = shape.rows().find(|row| row.received() >= time) {
            return Ok(Some(row.sequence()));
        }
    }
    Ok(None)
}
