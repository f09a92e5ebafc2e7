//! What the views count, to be shown elsewhere: plain atomics.

use crate::engine::counters::Count;

/// The work of the views' thread. How far it has come is [`super::Views::next_sequence`].
#[derive(Debug, Default)]
pub struct Counters {
    /// Events looked at.
    pub projected: Count,
    /// Commits, durable or not.
    pub commits: Count,
    /// Durable commits.
    pub syncs: Count,
    /// Times that the views began empty because there were none, or none that could be trusted.
    pub rebuilds: Count,
    /// Failures after which the file was opened again, or the log read again.
    pub failures: Count,
}
