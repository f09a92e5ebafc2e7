//! What every source counts, to be shown elsewhere: plain atomics, written by the source and read at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI8, Ordering};

use crate::engine::counters::{Count, Latest};

/// Where a source is in its life; the numbers are those of the gauge `node_statuses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum SourceStatus {
    /// Not started.
    Preparing = 0,
    /// Working on its first connection.
    Connecting = 1,
    /// Its stream is open, and the handshake done where there is one.
    Connected = 2,
    /// A connection was lost.
    Reconnecting = 3,
    /// As many attempts in a row have failed as may. Ended, or retried with growing pauses.
    AttemptsUsedUp = -1,
    /// The node is too old, on another network, or cannot be read. Ended, or retried with growing pauses.
    Incompatible = -2,
}

/// A source by its name, with what it counts.
#[derive(Clone, Debug)]
pub struct SourceWatch {
    /// Its name in the log and for operators, without a secret in it.
    pub name: String,
    /// Its counters.
    pub counters: Arc<SourceCounters>,
}

/// The counters of one source. A count never goes down; the status is the only value that does.
#[derive(Debug, Default)]
pub struct SourceCounters {
    /// Where it is in its life.
    pub status: PresentStatus,
    /// Events that were received, duplicates included.
    pub received: Count,
    /// When the last of them was received, in microseconds since the Unix epoch.
    pub last_received: Latest,
    /// Payloads and frames that were dropped because they are not UTF-8 or not one JSON value.
    pub malformed: Count,
    /// Frames that were dropped because they are too long.
    pub oversized: Count,
    /// Events of an unknown kind, or of a known kind in an unknown shape.
    pub unclassified: Count,
    /// Connections that were tried again after one was lost or failed.
    pub reconnects: Count,
}

/// The present state of a source.
#[derive(Debug, Default)]
pub struct PresentStatus(AtomicI8);

impl PresentStatus {
    pub(crate) fn set(&self, status: SourceStatus) {
        self.0.store(status as i8, Ordering::Relaxed);
    }

    /// The number that [`SourceStatus`] gives it.
    #[must_use]
    pub fn number(&self) -> i8 {
        self.0.load(Ordering::Relaxed)
    }

    /// The same in the words of the metric `node_statuses`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.number() {
            0 => "preparing",
            1 => "connecting",
            2 => "connected",
            3 => "reconnecting",
            -1 => "connections_exhausted",
            _ => "incompatible",
        }
    }
}
