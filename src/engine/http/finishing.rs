//! Finishing answers: work on a whole body, such as compressing it, that takes long for a large one.
//!
//! It is done on threads that may block, a few bodies at a time. Those up to [`MIDDLING_BYTES`] have threads of their own, so that
//! they never queue behind large ones. What waits here takes no turn from other requests.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::memory::MIDDLING_BYTES;
use super::turns;

/// As many as a small machine has cores.
const EACH_AT_A_TIME: usize = 2;

/// What is finished at a time.
pub struct Finishing {
    middling: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// The work has not ended in order, because of a mistake in it.
#[derive(Debug, thiserror::Error)]
#[error("an answer could not be finished: {0}")]
pub struct Unfinished(String);

impl Default for Finishing {
    fn default() -> Self {
        let permits = || Arc::new(Semaphore::new(EACH_AT_A_TIME));
        Finishing { middling: permits(), large: permits() }
    }
}

impl Finishing {
    /// Does the work on a body of `bytes`, which is to hold the body's room.
    ///
    /// # Errors
    /// [`Unfinished`].
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let line = if bytes > MIDDLING_BYTES { &self.large } else { &self.middling };
        let permit = match Arc::clone(line).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let permit = turns::aside(Arc::clone(line).acquire_owned()).await;
                permit.map_err(|error| Unfinished(error.to_string()))?
            }
        };
        // The permit goes with the work, which does not end when its client leaves.
        let work = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| Unfinished(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::turns::Limits;
    use super::*;

    #[tokio::test]
    async fn smaller_answers_do_not_queue_behind_large_ones_and_a_waiting_one_yields_its_turn() {
        let finishing = Finishing::default();
        let all = Arc::clone(&finishing.large).acquire_many_owned(2).await.unwrap();
        assert_eq!(finishing.run(MIDDLING_BYTES, || 1).await.unwrap(), 1);
        let limits = Limits::new(1, 1000);
        let mut large = Box::pin(limits.turn(None).await.work(finishing.run(MIDDLING_BYTES + 1, || 2)));
        assert!(tokio::time::timeout(Duration::ZERO, &mut large).await.is_err(), "it waits");
        let another = limits.turn(None).await;
        drop((all, another));
        assert_eq!(large.await.unwrap(), 2);
    }
}
