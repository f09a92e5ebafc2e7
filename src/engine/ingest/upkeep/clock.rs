//! The time that ages are measured at, on a machine whose clock may jump.
//!
//! What retention drops is gone, so a clock that leaps ahead is not believed at once. Time then passes as the steady clock
//! of the system says, until the other one is back, or has kept to its new time for a while.

use std::time::{Duration, Instant};

use sidecar_log_format::Timestamp;
use tracing::{info, warn};

use crate::engine::counters::microseconds;

/// How long a leap must last, at most, before it is believed, where it is no longer than the retention age. A longer one
/// would drop everything: it must last as long as that age.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// The clock on the wall, as far as it is believed.
pub(super) struct BelievedClock {
    age_max: Duration,
    /// The time that was believed last, and when that was on the steady clock.
    last: Option<(Timestamp, Instant)>,
    /// Since when the clock on the wall is too far ahead.
    ahead_since: Option<Instant>,
}

impl BelievedClock {
    /// A clock for events that are kept for `age_max`.
    pub(super) fn new(age_max: Duration) -> Self {
        BelievedClock { age_max, last: None, ahead_since: None }
    }

    /// The time to believe at `at`, when the clock on the wall shows `wall`. `newest` is when the newest event was received
    /// that was stored before the start: at first nothing else shows how late it is.
    pub(super) fn now(&mut self, wall: Timestamp, at: Instant, newest: Option<Timestamp>) -> Timestamp {
        let expected = match self.last {
            Some((time, since)) => time.saturating_add(microseconds(at.saturating_duration_since(since))),
            None => {
                newest.filter(|&newest| newest <= wall && wall - newest > microseconds(self.age_max)).unwrap_or(wall)
            }
        };
        let leap = Duration::from_micros(wall.saturating_sub(expected));
        let time = if leap > self.age_max / 2 && !self.is_patience_over(at, leap) {
            expected
        } else {
            if self.ahead_since.take().is_some() {
                info!("events are dropped by age again");
            }
            wall
        };
        self.last = Some((time, at));
        time
    }

    fn is_patience_over(&mut self, at: Instant, leap: Duration) -> bool {
        let patience = if leap > self.age_max { self.age_max } else { self.age_max.min(PATIENCE_MAX) };
        if self.ahead_since.is_none() {
            warn!(
                ahead_seconds = leap.as_secs(),
                wait_seconds = patience.as_secs(),
                "the clock has leapt ahead, or Sidecar was stopped for long: no event is dropped by age because of that \
                 until the wait is over; set the clock right if it is wrong"
            );
        }
        at.saturating_duration_since(*self.ahead_since.get_or_insert(at)) >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;

    struct Told {
        clock: BelievedClock,
        begun: Instant,
    }

    impl Told {
        fn new(age_max_hours: u64) -> Self {
            let clock = BelievedClock::new(Duration::from_secs(3600 * age_max_hours));
            Told { clock, begun: Instant::now() }
        }

        /// What is believed after so many minutes, in hours.
        fn at(&mut self, minutes: u64, wall_hours: f64) -> f64 {
            let wall = (wall_hours * HOUR as f64) as u64;
            let time = self.clock.now(wall, self.begun + Duration::from_secs(60 * minutes), None);
            time as f64 / HOUR as f64
        }
    }

    #[test]
    fn a_leap_ahead_for_a_moment_is_not_believed() {
        let mut told = Told::new(24);
        assert_eq!(told.at(0, 100.0), 100.0);
        assert_eq!(told.at(30, 8_860.5), 100.5);
        assert_eq!(told.at(60, 101.0), 101.0);
        assert_eq!(told.at(90, 8_861.5), 101.5);
    }

    #[test]
    fn a_leap_that_stays_is_believed_after_the_age_or_after_an_hour_where_it_is_shorter() {
        let mut told = Told::new(24);
        told.at(0, 100.0);
        assert_eq!(told.at(1, 200.0), 100.0 + 1.0 / 60.0);
        assert_eq!(told.at(61, 201.0), 101.0 + 1.0 / 60.0);
        assert_eq!(told.at(24 * 60, 224.0), 124.0);
        assert_eq!(told.at(24 * 60 + 1, 224.5), 224.5);
        let mut told = Told::new(24);
        told.at(0, 100.0);
        assert_eq!(told.at(1, 120.0), 100.0 + 1.0 / 60.0);
        assert_eq!(told.at(61, 121.0), 121.0);
        let mut told = Told { clock: BelievedClock::new(Duration::from_secs(60)), begun: Instant::now() };
        told.at(0, 100.0);
        assert_eq!(told.at(1, 200.0), 100.0 + 1.0 / 60.0);
        assert_eq!(told.at(2, 200.0), 200.0);
    }

    #[test]
    fn a_step_back_and_a_small_step_ahead_are_believed_at_once() {
        let mut told = Told::new(24);
        told.at(0, 100.0);
        assert_eq!(told.at(1, 50.0), 50.0);
        assert_eq!(told.at(2, 62.0), 62.0);
    }

    #[test]
    fn at_the_first_check_the_newest_event_shows_whether_the_clock_may_be_right() {
        let clock = || BelievedClock::new(Duration::from_secs(3600));
        let now = Instant::now();
        assert_eq!(clock().now(10 * HOUR, now, Some(9 * HOUR)), 10 * HOUR);
        assert_eq!(clock().now(10 * HOUR, now, Some(8 * HOUR)), 8 * HOUR);
        // A time in the future proves nothing.
        assert_eq!(clock().now(10 * HOUR, now, Some(11 * HOUR)), 10 * HOUR);
        assert_eq!(clock().now(10 * HOUR, now, None), 10 * HOUR);
    }
}
