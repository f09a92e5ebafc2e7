//! The counters of one exporter, for the admin server: plain atomics, written by the exporter's thread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use sidecar_log_format::Sequence;

use crate::engine::counters::Count;

/// How far an exporter is, and what became of the events on its way.
#[derive(Debug, Default)]
pub struct Counters {
    /// The first sequence that is not exported yet; 0 before the database has been reached for the first time, so that
    /// nothing is dropped that it may want. The log's head less this is the lag in events.
    pub next_sequence: Arc<AtomicU64>,
    /// Whether the database was there at the last attempt.
    pub is_connected: AtomicBool,
    /// Events written, one row of `event_log` each.
    pub rows: Count,
    /// Events not written because a row with their keys was there.
    pub collisions: Count,
    /// Events not written because the tables have no place for them: unknown kinds and shapes.
    pub without_table: Count,
    /// Events not written because the database cannot hold a value of theirs, or has a constraint or trigger that
    /// refuses them.
    pub refused: Count,
    /// Sequences that the log had lost or dropped before they were exported.
    pub missing: Count,
    /// Transactions.
    pub transactions: Count,
    /// Attempts that ended in an error.
    pub failures: Count,
}

impl Counters {
    /// The first sequence that is not exported yet.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.next_sequence.load(Ordering::Relaxed)
    }

    pub(super) fn set_next_sequence(&self, sequence: Sequence) {
        self.next_sequence.store(sequence, Ordering::Relaxed);
    }

    pub(super) fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }
}
