//! How often one node may make Sidecar write a log line: a hostile one must not fill the disk with them.
//!
//! Owns the count of one kind of line in the minute that runs. Within the budget every line is written; beyond it lines
//! are counted, and the count is reported with the first line of a later minute. The metrics have every case.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// The most of a payload that a log line shows, in bytes.
const SHOWN_BYTES_MAX: usize = 80;

const LINES_PER_PERIOD: u32 = 20;
const PERIOD: Duration = Duration::from_secs(60);

/// The budget for one kind of line about one node.
#[derive(Debug)]
pub(crate) struct LineBudget {
    period: Mutex<Period>,
}

#[derive(Debug)]
struct Period {
    begun: Instant,
    written: u32,
    left_out: u64,
}

impl Default for LineBudget {
    fn default() -> Self {
        Self::new()
    }
}

impl LineBudget {
    pub(crate) fn new() -> Self {
        Self { period: Mutex::new(Period { begun: Instant::now(), written: 0, left_out: 0 }) }
    }

    /// Writes a line about `source` by `write`, or counts it.
    pub(crate) fn spend(&self, source: &str, write: impl FnOnce()) {
        let (may_write, left_out) = self.count();
        if left_out > 0 {
            warn!(node = source, lines = left_out, "more log lines like the next one were left out");
        }
        if may_write {
            write();
        }
    }

    /// Whether one more line may be written, and how many were left out before the period that begins with it.
    pub(crate) fn count(&self) -> (bool, u64) {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        if period.begun.elapsed() >= PERIOD {
            left_out = period.left_out;
            *period = Period { begun: Instant::now(), written: 0, left_out: 0 };
        }
        let may_write = period.written < LINES_PER_PERIOD;
        if may_write {
            period.written += 1;
        } else {
            period.left_out += 1;
        }
        (may_write, left_out)
    }
}

/// The first bytes of a payload, fit for a log line.
pub(crate) fn shown(payload: &[u8]) -> String {
    let first_bytes = payload.get(..SHOWN_BYTES_MAX).unwrap_or(payload);
    first_bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_lines_of_a_minute_are_written_and_the_others_counted() {
        let budget = LineBudget::new();
        let mut written = 0;
        for _ in 0..1_000 {
            budget.spend("node", || written += 1);
        }
        assert_eq!(written, LINES_PER_PERIOD);
        tokio::time::advance(PERIOD).await;
        assert_eq!(budget.count(), (true, 1_000 - u64::from(LINES_PER_PERIOD)));
        assert_eq!(budget.count(), (true, 0));
    }
}
