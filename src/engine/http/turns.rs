//! Turns: requests beyond a server's limits wait in line, and none is refused.
//!
//! A request is worked on while it has a turn. Where it has to wait for something that other clients hold, such as memory
//! for a large answer, it waits [`aside`] and others have their turns meanwhile.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

tokio::task_local! {
    /// The turn of the request that is being worked on.
    static TURN: Turn;
}

/// How many requests are worked on at once, and how many are begun in a second. What exceeds either waits in line; one
/// that goes away while it waits takes no turn.
#[derive(Debug)]
pub struct Limits {
    at_once: Arc<Semaphore>,
    per_second: u32,
    second: AsyncMutex<Second>,
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
            at_once: Arc::new(Semaphore::new(at_once)),
            per_second,
            second: AsyncMutex::new(Second { ends: Instant::now(), left: 0 }),
        }
    }

    /// Waits until a request of `client` may begin; it is worked on for as long as it keeps what it gets here.
    pub async fn turn(&self, client: Option<IpAddr>) -> Turn {
        let permit = Arc::clone(&self.at_once).acquire_owned().await.ok();
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
        Turn { client, at_once: Arc::clone(&self.at_once), permit: Mutex::new(permit) }
    }
}

/// A request's turn.
#[derive(Debug)]
pub struct Turn {
    client: Option<IpAddr>,
    at_once: Arc<Semaphore>,
    /// Not there while the request waits aside.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Works on the request; its turn ends with the work.
    pub async fn work<T>(self, work: impl Future<Output = T>) -> T {
        TURN.scope(self, work).await
    }

    fn set_permit(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

/// Whose request is being worked on, if that is known.
#[must_use]
pub fn client() -> Option<IpAddr> {
    TURN.try_with(|turn| turn.client).ok().flatten()
}

/// Waits without keeping others from their turns; then waits for a turn again.
pub async fn aside<T>(waiting: impl Future<Output = T>) -> T {
    let line = TURN.try_with(|turn| {
        turn.set_permit(None);
        Arc::clone(&turn.at_once)
    });
    let waited_for = waiting.await;
    if let Ok(line) = line {
        let permit = line.acquire_owned().await.ok();
        // Within the same request still.
        let _ = TURN.try_with(|turn| turn.set_permit(permit));
    }
    waited_for
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
            limits.turn(None).await;
            begun.push(start.elapsed().as_secs());
        }
        assert_eq!(begun, [0, 0, 1, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_beyond_the_number_at_once_waits_until_one_ends() {
        let limits = Arc::new(Limits::new(1, 1000));
        let first = limits.turn(None).await;
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move {
                limits.turn(None).await;
            }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_aside_keeps_no_other_from_a_turn_and_comes_back_in_line() {
        let limits = Arc::new(Limits::new(1, 1000));
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move { limits.turn(None).await.work(aside(receiver)).await.is_ok() }
        });
        tokio::task::yield_now().await;
        let second = limits.turn(None).await;
        sender.send(()).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!first.is_finished(), "it waits for the second's turn to end");
        drop(second);
        assert!(first.await.unwrap());
        // One that is given up while it waits aside leaves exactly one turn.
        let given_up = limits.turn(None).await.work(aside(std::future::pending::<()>()));
        assert!(tokio::time::timeout(Duration::from_secs(1), given_up).await.is_err());
        assert_eq!(limits.at_once.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_goes_away_while_it_waits_takes_no_turn() {
        let limits = Limits::new(100, 1);
        limits.turn(None).await;
        for _ in 0..50 {
            assert!(tokio::time::timeout(Duration::from_millis(1), limits.turn(None)).await.is_err());
        }
        let start = Instant::now();
        limits.turn(None).await;
        assert!(start.elapsed() <= Duration::from_secs(1));
    }
}
