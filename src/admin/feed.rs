//! `/status` as an event stream: one message per second, rendered once for all readers, and not at all without readers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::{Notify, Semaphore, watch};

/// Pause between two messages.
const PERIOD: Duration = Duration::from_secs(1);
/// Streams at a time.
pub(super) const STREAMS_MAX: usize = 16;

/// The newest status and its readers.
pub(super) struct Feed {
    /// As a message of an event stream; empty while there is none that is new.
    newest: watch::Sender<Bytes>,
    /// Notified when there is a first reader.
    wanted: Notify,
    places: Arc<Semaphore>,
}

impl Default for Feed {
    fn default() -> Self {
        Feed {
            newest: watch::Sender::new(Bytes::new()),
            wanted: Notify::new(),
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}

impl Feed {
    /// A stream for one more reader; `None` when there are [`STREAMS_MAX`] already.
    pub(super) fn open(&self) -> Option<Body> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut newest = self.newest.subscribe();
        newest.mark_changed();
        self.wanted.notify_one();
        let messages = stream::unfold((newest, place), |(mut newest, place)| async move {
            loop {
                newest.changed().await.ok()?;
                let message = newest.borrow_and_update().clone();
                if !message.is_empty() {
                    return Some((Ok::<_, Infallible>(message), (newest, place)));
                }
            }
        });
        Some(Body::from_stream(messages))
    }

    /// Sends what `render` makes, as JSON, to all readers while there are any.
    pub(super) async fn run<Rendering: Future<Output = Vec<u8>>>(&self, render: impl Fn() -> Rendering) -> Infallible {
        loop {
            while self.newest.is_closed() {
                // A message that is kept while there are no readers becomes old.
                self.newest.send_replace(Bytes::new());
                self.wanted.notified().await;
            }
            let message = [b"data: ", render().await.as_slice(), b"\n\n"].concat();
            self.newest.send_replace(message.into());
            tokio::time::sleep(PERIOD).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;
    use tokio::time::Instant;

    use super::*;

    async fn next(body: &mut Body) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    fn counting() -> (Arc<Feed>, Arc<AtomicUsize>) {
        counting_in(Duration::ZERO)
    }

    /// A feed whose messages count up. Each takes so long to render.
    fn counting_in(time: Duration) -> (Arc<Feed>, Arc<AtomicUsize>) {
        let (feed, rendered) = (Arc::new(Feed::default()), Arc::new(AtomicUsize::new(0)));
        tokio::spawn({
            let (feed, rendered) = (Arc::clone(&feed), Arc::clone(&rendered));
            async move {
                let render = || async {
                    if !time.is_zero() {
                        tokio::time::sleep(time).await;
                    }
                    (rendered.fetch_add(1, Ordering::Relaxed) + 1).to_string().into_bytes()
                };
                feed.run(render).await
            }
        });
        (feed, rendered)
    }

    #[tokio::test(start_paused = true)]
    async fn all_readers_share_one_rendering_a_second_and_there_is_none_without_a_reader() {
        let (feed, rendered) = counting();
        tokio::time::sleep(10 * PERIOD).await;
        assert_eq!(rendered.load(Ordering::Relaxed), 0);
        let begun = Instant::now();
        let mut first = feed.open().unwrap();
        assert_eq!(next(&mut first).await, "data: 1\n\n");
        let mut second = feed.open().unwrap();
        assert_eq!(next(&mut second).await, "data: 1\n\n", "it need not wait");
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for body in [&mut first, &mut second] {
            assert_eq!(next(body).await, "data: 2\n\n");
        }
        assert_eq!(begun.elapsed(), PERIOD);
        drop((first, second));
        tokio::time::sleep(10 * PERIOD).await;
        assert_eq!(rendered.load(Ordering::Relaxed), 2);
        assert_eq!(next(&mut feed.open().unwrap()).await, "data: 3\n\n", "not the old one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_comes_while_the_first_one_after_a_pause_waits_gets_no_old_message() {
        let (feed, _) = counting_in(PERIOD / 2);
        assert_eq!(next(&mut feed.open().unwrap()).await, "data: 1\n\n");
        tokio::time::sleep(10 * PERIOD).await;
        let mut first = feed.open().unwrap();
        tokio::time::sleep(PERIOD / 4).await;
        let mut second = feed.open().unwrap();
        assert_eq!(next(&mut second).await, "data: 2\n\n");
        assert_eq!(next(&mut first).await, "data: 2\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_beyond_the_bound_finds_no_place_until_another_one_is_gone() {
        let (feed, _) = counting();
        let mut readers: Vec<Body> = std::iter::from_fn(|| feed.open()).take(2 * STREAMS_MAX).collect();
        assert_eq!(readers.len(), STREAMS_MAX);
        readers.pop();
        assert!(feed.open().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_the_newest_and_none_of_what_it_missed() {
        let (feed, _) = counting();
        let mut reader = feed.open().unwrap();
        next(&mut reader).await;
        tokio::time::sleep(10 * PERIOD + PERIOD / 2).await;
        assert_eq!(next(&mut reader).await, "data: 11\n\n");
    }
}
