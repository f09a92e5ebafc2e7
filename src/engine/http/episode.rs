//! Trouble that clients can cause as often as they like, in two log lines: one when it begins, one when it is over.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Time without the trouble after which the episode is over.
const QUIET: Duration = Duration::from_secs(10);

/// One kind of trouble.
#[derive(Clone, Debug, Default)]
pub struct Episode(Arc<State>);

/// The episode that lasts, if one does.
#[derive(Debug, Default)]
struct State(Mutex<Option<Lasting>>);

#[derive(Clone, Copy, Debug)]
struct Lasting {
    times: u64,
    begun: Instant,
    latest: Instant,
}

/// An episode that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// How often it happened.
    pub times: u64,
    /// From the first time to the last.
    pub seconds: u64,
}

impl Episode {
    /// Notes that it happened. Writes `begins` unless it lasts already, and `over` when it is over. Within a Tokio runtime
    /// only.
    pub fn note(&self, begins: impl FnOnce(), over: impl FnOnce(Over) + Send + 'static) {
        if !self.0.count() {
            return;
        }
        begins();
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut quiet_at = Instant::now() + QUIET;
            loop {
                tokio::time::sleep_until(quiet_at).await;
                match state.end_if_quiet() {
                    Ok(ended) => return over(ended),
                    Err(later) => quiet_at = later,
                }
            }
        });
    }
}

impl State {
    /// Counts one time more; says whether it is the first.
    fn count(&self) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        match &mut *state {
            Some(lasting) => {
                lasting.times += 1;
                lasting.latest = now;
                false
            }
            None => {
                *state = Some(Lasting { times: 1, begun: now, latest: now });
                true
            }
        }
    }

    /// Ends the episode; or says when it may be over.
    fn end_if_quiet(&self) -> Result<Over, Instant> {
        let mut state = self.lock();
        if let Some(lasting) = &*state
            && lasting.latest + QUIET > Instant::now()
        {
            return Err(lasting.latest + QUIET);
        }
        let ended = state.take();
        Ok(ended.map_or(Over { times: 0, seconds: 0 }, |Lasting { times, begun, latest }| Over {
            times,
            seconds: latest.duration_since(begun).as_secs(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Lasting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
            assert_eq!(over, Over { times: 50, seconds: 49 });
        }
    }
}
