//! What ingest counts, for whoever shows it: plain atomics that only grow.

use crate::source::casper::counters::Count;

/// What became of the events that sources handed over.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events stored.
    pub stored: Count,
    /// Payload bytes stored.
    pub stored_bytes: Count,
    /// Events dropped because the log has them, byte for byte.
    pub duplicates: Count,
    /// Events dropped because the log has them, with other bytes.
    pub identity_conflicts: Count,
    /// Later copies with more in them than the stored event, kept as marks.
    pub amendments: Count,
    /// Events that the log cannot hold.
    pub refused: Count,
    /// Block heights that no node has any more.
    pub missing_blocks: Count,
    /// Group commits.
    pub commits: Count,
    /// Commits that had to wait for room on the device.
    pub disk_full: Count,
}
