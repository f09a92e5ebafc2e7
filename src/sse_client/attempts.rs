//! Attempts to read a node: how many in a row have failed, and the pause before the next.
//!
//! The pause is the one that is configured, each time. A node that comes back is then read as soon as its operator expects.
//! Once the attempts are used up, the node is given up, or tried further with pauses that grow.

use std::time::Duration;

use tokio::time::sleep;

use crate::engine::backoff::Backoff;

/// The first pause after the attempts are used up, unless the configured one is longer.
const FURTHER_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause, unless the configured one is longer.
const FURTHER_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The attempts of one listener.
#[derive(Debug)]
pub struct Attempts {
    max: u32,
    pause: Duration,
    failed: u32,
    /// The pauses after the attempts are used up; without them there is no further attempt.
    further: Option<Backoff>,
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
        Self { max, pause, failed: 0, further: None }
    }

    /// Tries further when the attempts are used up, with pauses that grow.
    #[must_use]
    pub fn without_end(self) -> Self {
        let further = Backoff::new(self.pause.max(FURTHER_PAUSE_MIN), self.pause.max(FURTHER_PAUSE_MAX));
        Self { further: Some(further), ..self }
    }

    /// Whether as many in a row have failed as may.
    #[must_use]
    pub fn are_used_up(&self) -> bool {
        self.failed >= self.max
    }

    /// Whether there is no further attempt.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.are_used_up() && self.further.is_none()
    }

    /// Counts an attempt; returns how many in a row have failed.
    pub fn count(&mut self, attempt: Attempt) -> u32 {
        self.failed = match attempt {
            Attempt::Delivered => 0,
            Attempt::OtherNode => 1,
            Attempt::Failed => self.failed.saturating_add(1),
        };
        if let Some(further) = self.further.as_mut().filter(|_| self.failed < self.max) {
            further.reset();
        }
        self.failed
    }

    /// Waits for the next.
    pub async fn pause(&mut self) {
        sleep(self.next_pause()).await;
    }

    fn next_pause(&mut self) -> Duration {
        let are_used_up = self.are_used_up();
        match &mut self.further {
            Some(further) if are_used_up => further.take(),
            _ => self.pause,
        }
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
        assert!(attempts.are_over());
        assert!(Attempts::new(0, Duration::ZERO).are_over());
    }

    #[test]
    fn attempts_without_end_have_growing_pauses_once_they_are_used_up() {
        let pauses = |attempts: &mut Attempts, number: usize| -> Vec<u64> {
            let mut next = || {
                attempts.count(Attempt::Failed);
                assert!(!attempts.are_over());
                attempts.next_pause().as_secs()
            };
            (0..number).map(|_| next()).collect()
        };
        let mut attempts = Attempts::new(3, Duration::from_secs(5)).without_end();
        assert_eq!(pauses(&mut attempts, 8), [5, 5, 5, 10, 20, 40, 60, 60]);
        attempts.count(Attempt::Delivered);
        assert_eq!(attempts.next_pause().as_secs(), 5);
        assert_eq!(pauses(&mut attempts, 4), [5, 5, 5, 10]);
        assert_eq!(pauses(&mut Attempts::new(1, Duration::ZERO).without_end(), 4), [1, 2, 4, 8]);
        let long = &mut Attempts::new(1, Duration::from_secs(300)).without_end();
        assert_eq!(pauses(long, 2), [300, 300]);
    }
}
