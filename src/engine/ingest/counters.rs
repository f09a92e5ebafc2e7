//! What ingest counts, to be shown elsewhere: plain atomics that only grow, except those of what waits at the moment.

use std::sync::{Mutex, PoisonError};

use crate::engine::counters::{Count, CountPerKind, Flag, Histogram, Latest};

/// The bounds of sync times, in microseconds.
const SYNC_MICROSECONDS: &[u64] =
    &[100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// What the log's files went through.
#[derive(Debug)]
pub struct DiskCounters {
    /// Bytes written, rewritten ones included.
    pub written_bytes: Count,
    /// How long making them durable took, in microseconds.
    pub syncs: Histogram,
}

impl Default for DiskCounters {
    fn default() -> Self {
        DiskCounters { written_bytes: Count::default(), syncs: Histogram::new(SYNC_MICROSECONDS) }
    }
}

/// What became of the events that sources handed over.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events stored.
    pub stored: Count,
    /// The same by their kinds.
    pub stored_by_kind: CountPerKind,
    /// Payload bytes stored.
    pub stored_bytes: Count,
    /// The [richness](crate::engine::dialect::Facts::richness) of the stored events, summed.
    pub stored_richness: Count,
    /// Events dropped because the log has them, byte for byte.
    pub duplicates: Count,
    /// Events dropped because the log has them, with other bytes.
    pub identity_conflicts: Count,
    /// Later copies with more in them than the stored event, kept as marks.
    pub amendments: Count,
    /// Events that the log cannot hold.
    pub refused: Count,
    /// Gaps marked in the log: events that cannot be had any more.
    pub gaps: Count,
    /// Ordinals of the dialect's series in those gaps.
    pub missing_ordinals: Count,
    /// When the newest event that was stored since the start was received, in microseconds since the Unix epoch.
    pub newest_received: Latest,
    /// The highest ordinal of the dialect's series that is stored.
    pub highest_ordinal: Latest,
    /// Group commits.
    pub commits: Count,
    /// How many times ingest had to wait for room on the device.
    pub disk_full: Count,
    /// Whether it waits for room now.
    pub waits_for_room: Flag,
    /// How many times the log was opened again in place after a failure of its storage.
    pub reopened: Count,
    /// Why nothing is stored at the moment, while the log is not open for writing.
    pub stopped: Stopped,
    /// Commits that took longer than five seconds.
    pub slow_commits: Count,
    /// Times that the identity index was rebuilt from a log that holds events.
    pub index_rebuilds: Count,
    /// Segments that were merged or compacted.
    pub rewritten_segments: Count,
    /// Their bytes before.
    pub rewritten_bytes_before: Count,
    /// Their bytes after.
    pub rewritten_bytes_after: Count,
    /// Segments that retention dropped.
    pub dropped_segments: Count,
    /// Their bytes.
    pub dropped_bytes: Count,
    /// What the log's files went through.
    pub disk: DiskCounters,
}

/// Why something has stopped, while it has.
#[derive(Debug, Default)]
pub struct Stopped(Mutex<Option<String>>);

impl Stopped {
    /// The reason; `None` while it works.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the reason; returns the one before.
    pub(crate) fn set(&self, reason: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), reason)
    }
}
