//! Which topics are being read from at least one client, and since when one is not.
//!
//! Shared by all readers of one log, for as long as that is written without a failure: what was received and could not be
//! stored is looked for again. A topic that two clients send has a gap only while both are away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sidecar_log_format::{Cursor, Item, Log, Timestamp};
use tracing::warn;

use super::super::identity;
use super::super::topics::{BLOCK, HEAD};
use crate::engine::counters::microseconds;
use crate::engine::source::now;

/// How far back the newest block is looked for when a log is opened.
const SEARCH_EVENTS: u64 = 20_000;
/// The pause after a failure to read them.
const RETRY_PERIOD: Duration = Duration::from_secs(10);

/// What all clients of a log have together.
#[derive(Debug)]
pub struct Coverage {
    topics: Mutex<HashMap<Box<str>, Topic>>,
    /// When the newest event that was stored before came; `None` for a new log.
    newest_stored: Option<Timestamp>,
    /// The slot of the newest block that was reported; 0 while none is known.
    newest_slot: AtomicU64,
}

#[derive(Debug)]
struct Topic {
    readers: usize,
    /// When the last client that was read for it went away; `None` while one is read.
    away_since: Option<Timestamp>,
}

/// A time in which no client was read: its beginning and end, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// The slot of the newest block before.
    pub(super) newest_slot: Option<u64>,
}

impl Coverage {
    /// After what `log` holds, which is read until that succeeds.
    pub async fn of(log: Log) -> Arc<Coverage> {
        loop {
            let log = log.clone();
            let read = tokio::task::spawn_blocking(move || Coverage::after(&log)).await;
            match read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string())) {
                Ok(coverage) => return Arc::new(coverage),
                Err(reason) => {
                    warn!(reason, retry = ?RETRY_PERIOD, "clients are not read yet: the newest events cannot be looked at");
                }
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// After what `log` holds.
    fn after(log: &Log) -> sidecar_log_format::Result<Coverage> {
        let head = log.head().next_sequence;
        let mut cursor = Cursor::new(log, log.oldest().max(head.saturating_sub(SEARCH_EVENTS))).until(head);
        cursor = cursor.without_large_payloads();
        let (mut newest_stored, mut newest_slot) = (None, 0);
        while let Some(run) = cursor.next_run()? {
            for item in run.items() {
                let Item::Event(row, payload) = item else { continue };
                newest_stored = newest_stored.max(Some(row.received()));
                if matches!(row.kind(), HEAD | BLOCK)
                    && let Ok(Ok(known)) = str::from_utf8(&payload).map(|text| identity::read(row.kind(), "", text))
                {
                    newest_slot = newest_slot.max(known.identity.time);
                }
            }
        }
        Ok(Coverage { topics: Mutex::default(), newest_stored, newest_slot: AtomicU64::new(newest_slot) })
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<Box<str>, Topic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a client is read for these topics until the returned [`Covered`] is dropped. Also returns the time before
    /// that in which no client was read for them, if there was one.
    pub(super) fn begin(self: &Arc<Self>, names: &[Box<str>]) -> (Covered, Option<Away>) {
        let now = now();
        let mut topics = self.topics();
        let mut away_since: Option<Timestamp> = None;
        for name in names {
            let unread = || Topic { readers: 0, away_since: self.newest_stored };
            let topic = topics.entry(name.clone()).or_insert_with(unread);
            topic.readers += 1;
            if let Some(since) = topic.away_since.take() {
                away_since = Some(away_since.map_or(since, |before| before.min(since)));
            }
        }
        let newest_slot = Some(self.newest_slot.load(Ordering::Relaxed)).filter(|slot| *slot > 0);
        // A clock that was set back makes no gap.
        let away = away_since.filter(|since| *since <= now).map(|from| Away { from, to: now, newest_slot });
        (Covered { coverage: Arc::clone(self), names: names.to_vec(), silent_for: Duration::ZERO }, away)
    }

    /// A block of this slot was reported.
    pub(super) fn note_slot(&self, slot: u64) {
        self.newest_slot.fetch_max(slot, Ordering::Relaxed);
    }
}

/// One client that is being read.
#[derive(Debug)]
pub(super) struct Covered {
    coverage: Arc<Coverage>,
    names: Vec<Box<str>>,
    silent_for: Duration,
}

impl Covered {
    /// Ends, and nothing has come for so long.
    pub(super) fn end(mut self, silent_for: Duration) {
        self.silent_for = silent_for;
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        let since = now().saturating_sub(microseconds(self.silent_for));
        let mut topics = self.coverage.topics();
        for name in &self.names {
            if let Some(topic) = topics.get_mut(name) {
                topic.readers = topic.readers.saturating_sub(1);
                if topic.readers == 0 {
                    topic.away_since = Some(since);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(newest_stored: Option<Timestamp>) -> Arc<Coverage> {
        Arc::new(Coverage { topics: Mutex::default(), newest_stored, newest_slot: AtomicU64::new(0) })
    }

    fn names(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn a_topic_has_a_gap_only_while_it_is_not_read() {
        let coverage = coverage(None);
        let (first, away) = coverage.begin(&names(&["head", "block"]));
        assert_eq!(away, None, "nothing is missing from a new log");
        let (second, away) = coverage.begin(&names(&["head"]));
        assert_eq!(away, None);
        first.end(Duration::ZERO);
        let (third, away) = coverage.begin(&names(&["head"]));
        assert_eq!(away, None, "the second reads it");
        let (fourth, away) = coverage.begin(&names(&["block"]));
        let away = away.unwrap();
        assert!(away.from <= away.to);
        coverage.note_slot(7);
        second.end(Duration::from_secs(30));
        third.end(Duration::from_secs(60));
        drop(fourth);
        let (_fifth, away) = coverage.begin(&names(&["head"]));
        let away = away.unwrap();
        assert!(away.to - away.from >= 60_000_000 && away.to - away.from < 90_000_000, "{away:?}");
        assert_eq!(away.newest_slot, Some(7));
    }

    #[test]
    fn what_came_before_the_start_of_a_log_that_holds_events_is_a_gap_of_each_topic_once() {
        let coverage = coverage(Some(5));
        let (first, away) = coverage.begin(&names(&["head"]));
        assert_eq!(away.map(|away| away.from), Some(5));
        let (_second, away) = coverage.begin(&names(&["head"]));
        assert_eq!(away, None);
        drop(first);
        let (_third, away) = coverage.begin(&names(&["head", "block"]));
        assert_eq!(away.map(|away| away.from), Some(5), "nobody has read blocks since");
    }
}
