//! Trouble that clients can cause as often as they like, in two log lines: one when it begins, one when it is over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Time without the trouble after which the episode is over.
const QUIET: Duration = Duration::from_secs(10);

/// One kind of trouble.
#[derive(Clone, Debug, Default)]
pub struct Episode(Arc<State>);

#[derive(Debug, Default)]
struct State {
    lasts: AtomicBool,
    times: AtomicU64,
}

/// An episode that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// How often it happened.
    pub times: u64,
    /// From its beginning to its end.
    pub seconds: u64,
}

impl Episode {
    /// Notes that it happened. Writes `begins` unless it lasts already, and `over` when it is over. Within a Tokio runtime
    /// only.
    pub fn note(&self, begins: impl FnOnce(), over: impl FnOnce(Over) + Send + 'static) {
        self.0.times.fetch_add(1, Ordering::Relaxed);
        if self.0.lasts.swap(true, Ordering::AcqRel) {
            return;
        }
        begins();
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            let begun = Instant::now();
            let mut known = 0;
            loop {
                let times = state.times.load(Ordering::Relaxed);
                if times == known {
                    break;
                }
                known = times;
                tokio::time::sleep(QUIET).await;
            }
            state.times.fetch_sub(known, Ordering::Relaxed);
            state.lasts.store(false, Ordering::Release);
            over(Over { times: known, seconds: begun.elapsed().as_secs() });
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_episode_is_logged_when_it_begins_and_when_it_is_over_with_its_count() {
        let (logged, mut lines) = mpsc::unbounded_channel();
        let episode = Episode::default();
        for round in 0..2 {
            for time in 0..50 {
                let (begins, over) = (logged.clone(), logged.clone());
                episode.note(|| begins.send(None).unwrap(), move |ended| over.send(Some(ended)).unwrap());
                let line = lines.try_recv();
                assert_eq!(line.is_ok(), time == 0, "round {round}, time {time}: {line:?}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let over = lines.recv().await.unwrap().unwrap();
            assert!(over.times == 50 && (50..=70).contains(&over.seconds), "{over:?}");
        }
    }
}
