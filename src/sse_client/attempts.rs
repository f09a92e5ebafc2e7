//! Attempts to read a node: how many in a row have failed, and the pause before the next.
//!
//! The pause is the one that is configured, each time. A node that comes back is then read as soon as its operator expects.

use std::time::Duration;

use tokio::time::sleep;

/// The attempts of one listener.
#[derive(Debug)]
pub struct Attempts {
    max: u32,
    pause: Duration,
    failed: u32,
}

/// What an attempt has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It brought an event, so it was not a failure.
    Delivered,
    /// It brought nothing, but the node is another than before: the count begins again.
    OtherNode,
    /// It brought nothing.
    Failed,
}

impl Attempts {
    /// At most `max` failures in a row, with `pause` after each attempt.
    #[must_use]
    pub fn new(max: u32, pause: Duration) -> Self {
        Self { max, pause, failed: 0 }
    }

    /// Whether none is left.
    #[must_use]
    pub fn are_used_up(&self) -> bool {
        self.failed >= self.max
    }

    /// Counts an attempt; returns how many in a row have failed.
    pub fn count(&mut self, attempt: Attempt) -> u32 {
        self.failed = match attempt {
            Attempt::Delivered => 0,
            Attempt::OtherNode => 1,
            Attempt::Failed => self.failed.saturating_add(1),
        };
        self.failed
    }

    /// Waits for the next.
    pub async fn pause(&self) {
        sleep(self.pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_are_counted() {
        let mut attempts = Attempts::new(2, Duration::ZERO);
        let counted = [Attempt::Failed, Attempt::Delivered, Attempt::Failed, Attempt::OtherNode];
        assert_eq!(counted.map(|attempt| attempts.count(attempt)), [1, 0, 1, 1]);
        assert!(!attempts.are_used_up());
        assert_eq!(attempts.count(Attempt::Failed), 2);
        assert!(attempts.are_used_up());
        assert!(Attempts::new(0, Duration::ZERO).are_used_up());
    }
}
