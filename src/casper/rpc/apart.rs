//! Calls that take long to work on, so that they hold up no other task.
//!
//! An answer of a few MiB from the node becomes tens of MiB of JSON, which takes a part of a second. Work on a call begins where
//! the call arrived. Once it is known to be large it continues on a thread whose other tasks continue elsewhere, for a few
//! calls at a time.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// A larger body or answer takes long to parse.
pub(super) const LARGE_BYTES: usize = 64 << 10;
/// As many as a small machine has cores.
const AT_A_TIME: usize = 2;

/// What is worked on apart at a time.
pub(super) struct Apart(Arc<Semaphore>);

impl Default for Apart {
    fn default() -> Self {
        Apart(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl Apart {
    /// Works where it is until `is_large`, and then apart. What becomes large while it is polled should yield then.
    pub(super) async fn run<T>(&self, is_large: impl Fn() -> bool, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let small = poll_fn(|context| match is_large() {
            true => Poll::Ready(None),
            false => work.as_mut().poll(context).map(Some),
        });
        if let Some(done) = small.await {
            return done;
        }
        let mut turn = PollSemaphore::new(Arc::clone(&self.0));
        poll_fn(|context| {
            // Given back while it waits for the node.
            let _turn = ready!(turn.poll_acquire(context));
            in_place(|| work.as_mut().poll(context))
        })
        .await
    }
}

/// Works on this thread, whose other tasks continue on another one. On a runtime of one thread they wait.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn large_work_holds_up_no_other_task_of_the_only_thread() {
        let call = tokio::spawn(async {
            let is_large = AtomicBool::new(false);
            let work = async {
                is_large.store(true, Ordering::Relaxed);
                tokio::task::yield_now().await;
                let (done, is_done) = mpsc::channel();
                tokio::spawn(async move { done.send(()) });
                is_done.recv_timeout(Duration::from_secs(10))
            };
            Apart::default().run(|| is_large.load(Ordering::Relaxed), work).await
        });
        assert_eq!(call.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn only_some_large_work_is_done_at_a_time_and_what_waits_for_the_node_does_not_count() {
        let apart = Apart::default();
        let mut waiting: Vec<_> =
            (0..2 * AT_A_TIME).map(|_| Box::pin(apart.run(|| true, std::future::pending::<()>()))).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let turns = apart.0.acquire_many(u32::try_from(AT_A_TIME).unwrap()).await.unwrap();
        let mut work = Box::pin(apart.run(|| true, async { 1 }));
        assert!((&mut work).now_or_never().is_none());
        assert_eq!(apart.run(|| false, async { 2 }).await, 2);
        drop(turns);
        assert_eq!(work.await, 1);
    }
}
