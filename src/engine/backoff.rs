//! Back-off: pauses between attempts, each longer than the one before.
//!
//! There is no jitter: what is tried again here is one disk, or one database or node of this sidecar's own, which no
//! crowd retries at the same moment; and operators find the pauses that they have configured.

use std::time::Duration;

/// The pauses between the attempts at one thing.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    factor: u32,
    next: Duration,
}

impl Backoff {
    /// Begins with `first`; every further pause is twice the one before, at most `max`.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, max, factor: 2, next: first }
    }

    /// Every further pause is `factor` times the one before.
    pub(crate) fn with_factor(self, factor: u32) -> Self {
        Backoff { factor, ..self }
    }

    /// How long the next pause is.
    pub(crate) fn pause(&self) -> Duration {
        self.next
    }

    /// Takes the next pause.
    pub(crate) fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.checked_mul(self.factor).unwrap_or(self.max).min(self.max);
        pause
    }

    /// Begins again, after what was tried has worked.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        assert_eq!([(); 4].map(|()| backoff.take()), [1, 2, 4, 5].map(seconds));
        backoff.reset();
        assert_eq!([backoff.pause(), backoff.take(), backoff.take()], [1, 1, 2].map(seconds));
    }

    #[test]
    fn any_factor_is_held_without_an_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX).with_factor(u32::MAX);
        for _ in 0..10 {
            backoff.take();
        }
        assert_eq!(backoff.take(), Duration::MAX);
        let mut steady = Backoff::new(Duration::from_secs(3), Duration::from_secs(9)).with_factor(1);
        assert_eq!([steady.take(), steady.take()], [Duration::from_secs(3); 2]);
    }
}
