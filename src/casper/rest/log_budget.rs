//! Lines about failed requests, but not at the rate of requests.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(60);

/// When something was logged last.
#[derive(Debug, Default)]
pub(super) struct LogBudget(Mutex<Option<Instant>>);

impl LogBudget {
    /// Whether a line may be logged now, after a pause without one.
    pub(super) fn allows(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let allows = last.is_none_or(|last| last.elapsed() >= PAUSE);
        if allows {
            *last = Some(Instant::now());
        }
        allows
    }
}
