//! The segment that is being written.

use std::sync::Arc;

use super::options::WriteOptions;
use crate::{
    Result, Timestamp,
    block::{BlockType, Built},
    error::{Operation, storage_error},
    segment::{Footer, SegmentFile},
    storage::{File, Storage},
};

/// The segment that is being written.
pub(crate) struct ActiveSegment {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) footer: Footer,
    /// Where the last block ends.
    pub(crate) end: u64,
    /// How far the file is preallocated.
    pub(crate) allocated: u64,
    /// Whether its footer lacks counts by kind and source, because another process wrote its first blocks.
    pub(crate) uncounted: bool,
}

impl ActiveSegment {
    pub(crate) fn has_events(&self) -> bool {
        self.footer.end_sequence > self.file.header.first_sequence
    }

    /// Whether a commit of so many bytes, the newest of them received at `newest`, goes to the next segment.
    pub(super) fn is_due(&self, options: &WriteOptions, more_bytes: usize, newest: Timestamp) -> bool {
        // A segment without an event would have the same name as the next.
        if !self.has_events() {
            return false;
        }
        self.end + more_bytes as u64 > options.segment_bytes_max
            || self.footer.blocks.len() >= options.segment_blocks_max
            // Also of a segment from a time when the clock was ahead.
            || newest.abs_diff(self.file.header.created) > options.segment_age_max
    }

    /// Takes into account a block that was written at its end.
    pub(super) fn add(&mut self, built: &Built) {
        self.footer.add(&built.header, self.end);
        match &built.block {
            Some(block) => self.footer.count(block),
            None => self.uncounted |= built.header.block_type == BlockType::EVENTS,
        }
    }
}

/// Makes a segment file: written aside, synced, renamed.
pub(crate) fn write_new_segment(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<Arc<dyn File>> {
    let aside = format!("{name}.new");
    let file = storage.create(&aside).map_err(storage_error(Operation::Create, &aside))?;
    file.write_at(bytes, 0).map_err(storage_error(Operation::Write, &aside))?;
    // Not as a sync: nothing refers to this file yet, so that a full device leaves no doubt.
    file.sync().map_err(storage_error(Operation::Write, &aside))?;
    storage.rename(&aside, name).map_err(storage_error(Operation::Rename, &aside))?;
    storage.sync_directory().map_err(storage_error(Operation::Write, "the directory"))?;
    Ok(file)
}
