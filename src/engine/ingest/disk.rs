//! Reports a disk that keeps ingest waiting to the operator: once when that begins, once when it is over.
//!
//! A full device and a slow one are reported apart, because they need different help. Serving continues in both cases.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::counters::Counters;

/// A commit that takes longer is slow: nodes begin to wait.
const SLOW_COMMIT: Duration = Duration::from_secs(5);
/// How long commits must have been quicker again.
const CALM: Duration = Duration::from_secs(60);

/// Watches over the disk from where it is written.
pub(super) struct Disk {
    counters: Arc<Counters>,
    full_since: Option<Instant>,
    last_slow: Option<Instant>,
    look_fails: bool,
}

impl Disk {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Disk { counters, full_since: None, last_slow: None, look_fails: false }
    }

    /// There is no room, as `failure` says.
    pub(super) fn is_full(&mut self, failure: &dyn Display) {
        if self.full_since.is_none() {
            self.full_since = Some(Instant::now());
            self.counters.disk_full.add(1);
            self.counters.waits_for_room.set(true);
            error!(%failure, "the device is full; ingest waits, serving continues: make room");
        }
    }

    /// There is room.
    pub(super) fn has_room(&mut self) {
        if let Some(since) = self.full_since.take() {
            self.counters.waits_for_room.set(false);
            info!(after = ?rounded(since.elapsed()), "there is room on the device again, ingest resumes");
        }
    }

    /// Whether the log is still in its place could not be told; it is looked again after `retry`.
    pub(super) fn look_failed(&mut self, failure: &dyn Display, retry: Duration) {
        if !std::mem::replace(&mut self.look_fails, true) {
            warn!(%failure, ?retry, "cannot look whether the log is still in its place");
        }
    }

    /// The log is in its place.
    pub(super) fn look_succeeded(&mut self) {
        if std::mem::take(&mut self.look_fails) {
            info!("the log is in its place");
        }
    }

    /// A commit has taken this long.
    pub(super) fn commit_took(&mut self, time: Duration) {
        if time >= SLOW_COMMIT {
            self.counters.slow_commits.add(1);
            if self.last_slow.replace(Instant::now()).is_none() {
                warn!(took = ?rounded(time), "the disk is slow to commit; nodes wait meanwhile, serving continues");
            }
        } else if self.last_slow.is_some_and(|last| last.elapsed() >= CALM) {
            self.last_slow = None;
            info!(since = ?CALM, "the disk is quick enough again");
        }
    }
}

fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_counts_once_however_often_it_is_tried() {
        let counters = Arc::new(Counters::default());
        let mut disk = Disk::new(Arc::clone(&counters));
        let state = || (counters.disk_full.get(), counters.waits_for_room.get());
        disk.has_room();
        assert_eq!(state(), (0, false));
        for _ in 0..3 {
            disk.is_full(&"no room");
        }
        assert_eq!(state(), (1, true));
        disk.has_room();
        disk.has_room();
        assert_eq!(state(), (1, false));
        disk.is_full(&"no room");
        assert_eq!(state(), (2, true));
    }

    #[test]
    fn only_slow_commits_count() {
        let counters = Arc::new(Counters::default());
        let mut disk = Disk::new(Arc::clone(&counters));
        for time in [Duration::ZERO, SLOW_COMMIT / 2, SLOW_COMMIT, SLOW_COMMIT * 3] {
            disk.commit_took(time);
        }
        assert_eq!(counters.slow_commits.get(), 2);
    }
}
