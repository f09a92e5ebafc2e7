//! Finishing answers: the entity tag and the compressed form of a body.
//!
//! Either takes long for a large body. Small bodies are finished at once; others on threads that may block, a few at a time.
//! Bodies up to [`FREE_BYTES`] have threads of their own, so that they never queue behind large ones. What waits here
//! takes no turn from other requests.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::answers::{Found, SMALL_BYTES};
use super::coding::Coding;
use super::failure::Failure;
use super::memory::FREE_BYTES;
use crate::engine::http::{tags, turns};

/// As many as a small machine has cores.
const EACH_AT_A_TIME: usize = 2;

/// What is finished at a time.
pub(super) struct Finishing {
    middling: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Default for Finishing {
    fn default() -> Self {
        let permits = || Arc::new(Semaphore::new(EACH_AT_A_TIME));
        Finishing { middling: permits(), large: permits() }
    }
}

impl Finishing {
    /// The answer with its entity tag.
    pub(super) async fn tagged(&self, found: Found) -> Result<(Found, String), Failure> {
        let tagging = |found: Found| {
            let tag = tags::tag(&found.body);
            (found, tag)
        };
        // Hashing is fast enough for these.
        if found.body.len() <= FREE_BYTES {
            return Ok(tagging(found));
        }
        self.finish(found, tagging).await
    }

    /// The answer in this coding.
    pub(super) async fn compressed(&self, found: Found, coding: Coding) -> Result<Found, Failure> {
        let compressing = move |mut found: Found| {
            found.body = coding.compress(&found.body)?;
            std::io::Result::Ok(found)
        };
        let compressed = match found.body.len() <= SMALL_BYTES {
            true => compressing(found),
            false => self.finish(found, compressing).await?,
        };
        compressed.map_err(|error| Failure::Storage(error.to_string()))
    }

    async fn finish<T: Send + 'static>(
        &self,
        found: Found,
        work: impl FnOnce(Found) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let line = if found.body.len() > FREE_BYTES { &self.large } else { &self.middling };
        let permit = match Arc::clone(line).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let permit = turns::aside(Arc::clone(line).acquire_owned()).await;
                permit.map_err(|error| Failure::Storage(error.to_string()))?
            }
        };
        // The permit goes with the work, which does not end when its client leaves.
        let work = move || {
            let _permit = permit;
            work(found)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Storage(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::answers::Form;
    use super::*;
    use crate::engine::http::turns::Limits;

    fn of_bytes(bytes: usize) -> Found {
        Found::new(&"x".repeat(bytes), Form::Envelope, &Arc::default())
    }

    #[tokio::test]
    async fn smaller_answers_do_not_queue_behind_large_ones_and_a_waiting_one_yields_its_turn() {
        let finishing = Finishing::default();
        let all = Arc::clone(&finishing.large).acquire_many_owned(2).await.unwrap();
        for bytes in [SMALL_BYTES, FREE_BYTES] {
            let found = finishing.compressed(of_bytes(bytes), Coding::Zstd).await.unwrap();
            assert!(found.body.len() < bytes / 2);
        }
        let middling = Arc::clone(&finishing.middling).acquire_many_owned(2).await.unwrap();
        let found = finishing.compressed(of_bytes(SMALL_BYTES), Coding::Zstd).await.unwrap();
        assert!(found.body.len() < SMALL_BYTES / 2, "it needs no thread");

        let limits = Limits::new(1, 1000);
        let mut large = Box::pin(limits.turn(None).await.work(finishing.tagged(of_bytes(FREE_BYTES + 1))));
        assert!(tokio::time::timeout(Duration::ZERO, &mut large).await.is_err(), "it waits");
        let another = limits.turn(None).await;
        drop((all, middling, another));
        assert!(large.await.is_ok());
    }
}
