//! What the link counts, for the metrics.

use crate::engine::counters::{Count, Histogram};

/// The bounds of round trips and reconnects, in microseconds; shown in milliseconds.
pub(crate) const TIME_MICROSECONDS: &[u64] =
    &[1000, 5000, 10_000, 30_000, 50_000, 100_000, 300_000, 1_000_000, 3_000_000];

/// What happened on the link.
#[derive(Debug)]
pub struct LinkCounters {
    /// Requests that were not sent within the message time-out.
    pub sending_timeouts: Count,
    /// Requests that were not answered within the message time-out.
    pub receiving_timeouts: Count,
    /// Requests that did not get their turn, or the connection, within the access time-out.
    pub access_timeouts: Count,
    /// Requests whose connection was lost and did not come back within the access time-out.
    pub reconnect_timeouts: Count,
    /// Requests refused because too many were waiting.
    pub refused: Count,
    /// Requests sent again, because the connection was lost before their answer came.
    pub sent_again: Count,
    /// Answers that belong to no request.
    pub mismatched_ids: Count,
    /// Connections that were lost.
    pub disconnects: Count,
    /// Attempts to connect that failed.
    pub failed_attempts: Count,
    /// From the loss of a connection to the next one, in microseconds.
    pub reconnects: Histogram,
    /// From handing a request to the socket to its answer, in microseconds.
    pub round_trips: Histogram,
}

impl Default for LinkCounters {
    fn default() -> Self {
        LinkCounters {
            sending_timeouts: Count::default(),
            receiving_timeouts: Count::default(),
            access_timeouts: Count::default(),
            reconnect_timeouts: Count::default(),
            refused: Count::default(),
            sent_again: Count::default(),
            mismatched_ids: Count::default(),
            disconnects: Count::default(),
            failed_attempts: Count::default(),
            reconnects: Histogram::new(TIME_MICROSECONDS),
            round_trips: Histogram::new(TIME_MICROSECONDS),
        }
    }
}
