//! What metrics show of connections.

use std::sync::atomic::AtomicUsize;

use crate::engine::counters::Count;

/// What happened at a front, for metrics.
#[derive(Debug, Default)]
pub struct FrontCounters {
    /// Open connections.
    pub connections: AtomicUsize,
    /// Connections ever accepted.
    pub accepted: Count,
    /// Connections closed at once because all others were busy.
    pub refused: Count,
    /// Connections closed because TLS could not be agreed on.
    pub handshakes_failed: Count,
    /// Requests refused because they had no valid token.
    pub unauthorized: Count,
    /// Idle connections closed to make room for others.
    pub displaced: Count,
    /// Connections closed because they asked for nothing in time.
    pub idled_out: Count,
    /// Connections closed because the client took an answer too slowly, or in HTTP/2 nothing in time; of HTTP/1.1 the system
    /// closes those that take nothing.
    pub stalled: Count,
}
