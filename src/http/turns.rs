//! Whose turn it is: requests beyond a server's limits wait in line, and nobody is refused.

use std::time::Duration;

use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    time::Instant,
};

/// How many requests are worked on at once, and how many are begun in a second. What exceeds either waits in line; one
/// that goes away while it waits takes nobody's turn.
#[derive(Debug)]
pub struct Limits {
    at_once: Semaphore,
    per_second: u32,
    second: Mutex<Second>,
}

/// What is left of the present second.
#[derive(Debug)]
struct Second {
    ends: Instant,
    left: u32,
}

impl Limits {
    /// Both are at least 1.
    #[must_use]
    pub fn new(at_once: u32, per_second: u32) -> Self {
        let at_once = usize::try_from(at_once).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let per_second = per_second.max(1);
        Limits {
            at_once: Semaphore::new(at_once),
            per_second,
            second: Mutex::new(Second { ends: Instant::now(), left: 0 }),
        }
    }

    /// Waits until a request may begin; it is worked on for as long as it keeps what it gets here.
    pub async fn turn(&self) -> Turn<'_> {
        let permit = self.at_once.acquire().await.ok();
        // The line: its first waits for the next second while it holds this.
        let mut second = self.second.lock().await;
        if second.left == 0 {
            tokio::time::sleep_until(second.ends).await;
        }
        let now = Instant::now();
        if second.left == 0 || now >= second.ends {
            *second = Second { ends: now + Duration::from_secs(1), left: self.per_second };
        }
        second.left -= 1;
        Turn { _permit: permit }
    }
}

/// A request's turn.
#[derive(Debug)]
pub struct Turn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_rate_wait_for_the_next_second() {
        let limits = Limits::new(100, 2);
        let start = Instant::now();
        let mut begun = Vec::new();
        for _ in 0..5 {
            limits.turn().await;
            begun.push(start.elapsed().as_secs());
        }
        assert_eq!(begun, [0, 0, 1, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_beyond_the_number_at_once_waits_until_one_ends() {
        let limits = Arc::new(Limits::new(1, 1000));
        let first = limits.turn().await;
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move {
                limits.turn().await;
            }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_waiting_takes_no_turn() {
        let limits = Limits::new(100, 1);
        limits.turn().await;
        for _ in 0..50 {
            assert!(tokio::time::timeout(Duration::from_millis(1), limits.turn()).await.is_err());
        }
        let start = Instant::now();
        limits.turn().await;
        assert!(start.elapsed() <= Duration::from_secs(1));
    }
}
