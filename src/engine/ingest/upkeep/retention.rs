//! Retention: the oldest segments go when the log is too large, or they are too old.
//!
//! Owns the decision, and the order of what follows it. The log's limits and the positions of its consumers flow in; whole
//! sealed segments go, oldest first, with what the identity index knows of their events. Consumers are waited for, up to a
//! limit; clients are not: one that is overtaken gets a report of what it missed.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sidecar_log_format::{Error, Log, Maintenance, SealedSegment, Sequence, Timestamp};
use tracing::{error, info, warn};

use super::Carried;
use super::clock::BelievedClock;
use super::forgetting::Forgetting;
use crate::engine::counters::microseconds;
use crate::engine::dialect::Dialect;
use crate::engine::ingest::counters::Counters;
use crate::engine::ingest::identity::{Forgetter, Scrub};
use crate::engine::ingest::{IndexState, SharedIndexState};
use crate::engine::source::now;
use crate::engine::thread::Stopped;

/// How long to leave the log alone after a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What of the log is kept. The default keeps everything.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// The log takes about this many bytes on disk at most.
    pub bytes_max: Option<u64>,
    /// Events are kept for about this long after they were received.
    pub age_max: Option<Duration>,
    /// Whole segments before this many of the newest events go.
    pub newest_events: Option<u64>,
    /// How many bytes of segments that should have gone may wait for those who need them.
    pub wait_bytes_max: u64,
    /// Where the views and exporters are.
    pub needed_from: NeededFrom,
}

/// For each view and exporter the next sequence that it needs. More can be added at any time; clones share them.
#[derive(Clone, Debug, Default)]
pub struct NeededFrom(Arc<Mutex<Vec<Arc<AtomicU64>>>>);

impl NeededFrom {
    /// Waits for one more from now on.
    pub fn add(&self, next_sequence: Arc<AtomicU64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(next_sequence);
    }

    /// The first sequence that a view or an exporter needs; `None` when none needs any.
    fn first(&self) -> Option<Sequence> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|next| next.load(Ordering::Acquire)).min()
    }
}

impl Retention {
    fn is_off(&self) -> bool {
        self.bytes_max.is_none() && self.age_max.is_none() && self.newest_events.is_none()
    }

    /// What is to become of the sealed segments, which are in order.
    fn decide(&self, segments: &[SealedSegment], unsealed_bytes: u64, head: Sequence, now: Timestamp) -> Verdict {
        let due = self.too_many_bytes(segments, unsealed_bytes).max(self.too_old(segments, now));
        let due = due.max(self.newest_events.map_or(0, |newest| {
            let oldest_wanted = head.saturating_sub(newest);
            segments.iter().take_while(|segment| segment.end_sequence <= oldest_wanted).count()
        }));
        let due = segments.get(..due).unwrap_or_default();
        let needed_from = self.needed_from.first();
        let is_free = |segment: &&SealedSegment| needed_from.is_none_or(|needed| segment.end_sequence <= needed);
        let free = due.iter().take_while(is_free).count();
        let mut drop = free;
        let mut waiting: u64 = due.iter().skip(free).map(|segment| segment.bytes).sum();
        while let Some(segment) = due.get(drop).filter(|_| waiting > self.wait_bytes_max) {
            waiting -= segment.bytes;
            drop += 1;
        }
        Verdict { drop, forced: drop - free, waiting: due.len() - drop }
    }

    fn too_many_bytes(&self, segments: &[SealedSegment], unsealed_bytes: u64) -> usize {
        let Some(bytes_max) = self.bytes_max else { return 0 };
        let mut bytes = unsealed_bytes + segments.iter().map(|segment| segment.bytes).sum::<u64>();
        let is_too_much = |segment: &&SealedSegment| {
            let too_much = bytes > bytes_max;
            bytes = bytes.saturating_sub(segment.bytes);
            too_much
        };
        segments.iter().take_while(is_too_much).count()
    }

    fn too_old(&self, segments: &[SealedSegment], now: Timestamp) -> usize {
        let Some(age_max) = self.age_max else { return 0 };
        let oldest_wanted = now.saturating_sub(microseconds(age_max));
        // One whose age is unknown goes with the next one whose age is known. A time in the future is a clock's that was
        // wrong.
        let received_max = |segment: &SealedSegment| segment.received_max.filter(|&newest| newest <= now);
        let may_be_old = |segment: &&SealedSegment| received_max(segment).is_none_or(|newest| newest < oldest_wanted);
        let old: Vec<_> = segments.iter().take_while(may_be_old).collect();
        old.iter().rposition(|segment| received_max(segment).is_some()).map_or(0, |last| last + 1)
    }
}

/// How many of the oldest segments are to go, and how many of those although somebody needs them; how many should and wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    drop: usize,
    forced: usize,
    waiting: usize,
}

/// Carries retention out.
pub(in crate::engine::ingest) struct Retainer {
    pub(in crate::engine::ingest) options: Retention,
    pub(in crate::engine::ingest) log: Log,
    pub(in crate::engine::ingest) dialect: Arc<dyn Dialect>,
    /// Nothing is dropped while the index is read in.
    pub(in crate::engine::ingest) index_state: SharedIndexState,
    pub(in crate::engine::ingest) counters: Arc<Counters>,
    /// When the newest event was received that was stored before the log was opened.
    pub(in crate::engine::ingest) newest_stored: Option<Timestamp>,
    pub(in crate::engine::ingest) state: State,
    pub(in crate::engine::ingest) carried: Carried,
}

/// What is known from one look to the next.
#[derive(Default)]
pub(in crate::engine::ingest) struct State {
    known: BTreeMap<Sequence, SealedSegment>,
    /// Segments that could not be looked at.
    undescribed: BTreeSet<Sequence>,
    forgetting: Forgetting,
    scrub: Scrub,
    is_waiting: bool,
    failed_at: Option<Instant>,
}

impl Retainer {
    /// Scrubs some of the index, and drops what is due, a segment at a time. Failures are logged and tried again later.
    pub(super) fn look(&mut self, maintenance: &Maintenance, stopped: &Stopped) {
        let has_just_failed = self.state.failed_at.is_some_and(|failed| failed.elapsed() < PAUSE_AFTER_FAILURE);
        // The committer reports what the scrub finds, and mends it.
        let scrub = |retainer: &mut Self, forgetter: Option<&Forgetter>| {
            let _found = forgetter.map(|forgetter| forgetter.scrub(&mut retainer.state.scrub));
        };
        if self.beside_index(scrub).is_none() || self.options.is_off() || has_just_failed {
            return;
        }
        let had_failed = self.state.failed_at.take().is_some();
        match self.drop_what_is_due(maintenance, stopped) {
            Err(error) => {
                error!(%error, "old segments stay for now; dropping them is tried again");
                self.state.failed_at = Some(Instant::now());
            }
            Ok(()) if had_failed => info!("old segments can be dropped again"),
            Ok(()) => {}
        }
        let head = self.log.head().next_sequence;
        self.beside_index(|retainer, forgetter| {
            if let Some(forgetter) = forgetter {
                retainer.state.forgetting.forget(head, forgetter);
            }
        });
    }

    /// Works while nothing is read into the index, which must not read what is being dropped; `None` while it is. What takes
    /// identities out of it is there unless the index waits for room. No such reading begins meanwhile: so this should not
    /// take long.
    fn beside_index<T>(&mut self, work: impl FnOnce(&mut Self, Option<&Forgetter>) -> T) -> Option<T> {
        let state = self.index_state.clone();
        let state = state.lock();
        match &*state {
            IndexState::Incomplete => None,
            IndexState::WaitsForRoom => Some(work(self, None)),
            IndexState::Complete(forgetter) => Some(work(self, Some(forgetter))),
        }
    }

    /// A segment has another size now.
    pub(super) fn was_rewritten(&mut self, first_sequence: Sequence) {
        self.state.known.remove(&first_sequence);
    }

    fn drop_what_is_due(&mut self, maintenance: &Maintenance, stopped: &Stopped) -> Result<(), Error> {
        // Asked for first: should it be sealed meanwhile, it is among the others then, and stays for now.
        let unsealed = maintenance.unsealed_segment();
        let sealed = maintenance.sealed_segments();
        let ends = sealed.iter().skip(1).copied().chain(unsealed);
        let segments = self.describe(&sealed.iter().copied().zip(ends).collect::<Vec<_>>(), maintenance);
        let now = self.believed_now(&segments);
        let verdict = self.options.decide(&segments, maintenance.unsealed_bytes()?, self.log.head().next_sequence, now);
        self.log_waiting(verdict.waiting > 0);
        let mut dropped: Vec<SealedSegment> = Vec::new();
        let ends = segments.iter().skip(1).map(|segment| segment.first_sequence).chain(unsealed);
        let mut result = Ok(());
        for (segment, next) in segments.iter().zip(ends).take(verdict.drop) {
            // A backlog of a large log takes hours, which neither the end nor a rebuild of the index waits for.
            if stopped.wait(Duration::ZERO).is_break() {
                break;
            }
            let drop = |retainer: &mut Self, forgetter: Option<&Forgetter>| {
                // What the index knows goes first: once the segment is gone, its events could not be found again. Should
                // we be killed in between, an event that is about to go could be stored again, if a node still sent it.
                if let Some(forgetter) = forgetter {
                    let (log, dialect) = (&retainer.log, &*retainer.dialect);
                    retainer.state.forgetting.take_leave(maintenance, segment.first_sequence, log, dialect, forgetter);
                }
                maintenance.drop_before(next)
            };
            match self.beside_index(drop) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    result = Err(error);
                    break;
                }
                None => break,
            }
            dropped.push(*segment);
            self.counters.dropped_segments.add(1);
            self.counters.dropped_bytes.add(segment.bytes);
        }
        if let [first, ..] = &*dropped
            && let Some(last) = dropped.last()
        {
            let bytes: u64 = dropped.iter().map(|segment| segment.bytes).sum();
            let (first, last) = (first.first_sequence, last.end_sequence.saturating_sub(1));
            info!(first, last, segments = dropped.len(), bytes, "retention dropped the oldest events");
            let forced = dropped.len().saturating_sub(verdict.drop - verdict.forced);
            if forced > 0 {
                warn!(
                    segments = forced,
                    last,
                    "segments were dropped though a view or an exporter still needed them: more than \
                     `retention_wait_bytes_max` was waiting; look at its lag, or raise that key"
                );
            }
        }
        result
    }

    /// What is known of the sealed segments, given where each begins and the next one does. One that cannot be looked at
    /// keeps no other from going: its bytes and its age are unknown until it can.
    fn describe(&mut self, sealed: &[(Sequence, Sequence)], maintenance: &Maintenance) -> Vec<SealedSegment> {
        let State { known, undescribed, .. } = &mut self.state;
        let is_there = |first: &Sequence| sealed.binary_search_by_key(first, |(first, _)| *first).is_ok();
        known.retain(|first, _| is_there(first));
        undescribed.retain(is_there);
        let describe = |&(first, next): &(Sequence, Sequence)| {
            let unknown = match known.entry(first) {
                Entry::Occupied(known) => return *known.get(),
                Entry::Vacant(unknown) => unknown,
            };
            match maintenance.describe(first) {
                // Its footer may be readable later.
                Ok(segment) if segment.received_max.is_none() => segment,
                Ok(segment) => {
                    undescribed.remove(&first);
                    *unknown.insert(segment)
                }
                Err(error) => {
                    if undescribed.insert(first) {
                        warn!(segment = first, %error, "segment cannot be looked at; retention counts it as empty until it can");
                    }
                    SealedSegment {
                        first_sequence: first,
                        end_sequence: next,
                        bytes: 0,
                        bytes_raw: 0,
                        received_max: None,
                    }
                }
            }
        };
        sealed.iter().map(describe).collect()
    }

    /// The time that ages are measured at.
    fn believed_now(&mut self, segments: &[SealedSegment]) -> Timestamp {
        let (wall, at) = (now(), Instant::now());
        let Some(age_max) = self.options.age_max else { return wall };
        let sealed = segments.iter().filter_map(|segment| segment.received_max);
        let newest = sealed.chain(self.newest_stored).filter(|&newest| newest <= wall).max();
        let mut carried = self.carried.lock();
        carried.clock.get_or_insert_with(|| BelievedClock::new(age_max)).now(wall, at, newest)
    }

    fn log_waiting(&mut self, is_waiting: bool) {
        match (is_waiting, self.state.is_waiting) {
            (true, false) => info!("retention waits for a view or an exporter that still needs the oldest events"),
            (false, true) => info!("retention no longer waits for a view or an exporter"),
            _ => {}
        }
        self.state.is_waiting = is_waiting;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use sidecar_log_format::storage::Directory;
    use sidecar_log_format::{ApiVersion, Event, Opened, Writer};

    use super::*;
    use crate::engine::dialect::write_options;
    use crate::engine::ingest::identity::{self, IdentityIndex, LogPosition};
    use crate::engine::testing::{NOTE, Notes};

    const MIB: u64 = 1 << 20;

    /// A log of four sealed segments, and what keeps nothing of it.
    pub(in super::super) fn four_segments(folder: &Path) -> (Writer, Retainer) {
        let storage = Arc::new(Directory::create(folder.join("log")).unwrap());
        let Opened { mut writer, log, .. } =
            Writer::open(storage, write_options(&Notes::default(), [1; 16], 1)).unwrap();
        for number in 0..40 {
            let event = Event {
                kind: NOTE,
                name: "",
                source: "node",
                network: "",
                api_version: ApiVersion::NONE,
                upstream_id: None,
                received: 1,
                payload: &format!(r#"{{"key":"{number}"}}"#),
            };
            writer.append(&event).unwrap();
            writer.commit().unwrap();
            if number % 10 == 9 {
                writer.seal_now(1).unwrap();
            }
        }
        let position = LogPosition {
            id: log.id(),
            rule: "",
            head: None,
            oldest: 0,
            chain_after: &|sequence| log.chain_after(sequence),
        };
        let options = identity::Options::default();
        let index = IdentityIndex::open(&folder.join("index.redb"), position, options).unwrap().index;
        let retainer = Retainer {
            options: Retention { newest_events: Some(0), ..Retention::default() },
            dialect: Arc::new(Notes::default()),
            index_state: SharedIndexState(Arc::new(Mutex::new(IndexState::Complete(index.forgetter())))),
            counters: Arc::default(),
            newest_stored: None,
            state: State::default(),
            carried: Carried::default(),
            log,
        };
        (writer, retainer)
    }

    #[test]
    fn a_backlog_is_dropped_in_one_look_unless_the_end_or_a_rebuild_of_the_index_comes_between() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, mut retainer) = four_segments(folder.path());
        let maintenance = writer.maintenance();
        let (stop, stopped) = Stopped::with_sender();
        drop(stop);
        retainer.look(&maintenance, &stopped);
        let (_stop, stopped) = Stopped::with_sender();
        let complete = std::mem::take(&mut *retainer.index_state.lock());
        retainer.look(&maintenance, &stopped);
        assert_eq!(maintenance.sealed_segments(), [0, 10, 20, 30]);
        retainer.index_state.set(complete);
        retainer.look(&maintenance, &stopped);
        assert!(maintenance.sealed_segments().is_empty());
        assert_eq!(retainer.counters.dropped_segments.get(), 4);
    }

    #[test]
    fn a_segment_that_cannot_be_looked_at_keeps_no_other_from_going() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, mut retainer) = four_segments(folder.path());
        let maintenance = writer.maintenance();
        let (_stop, stopped) = Stopped::with_sender();
        // As a file that cannot be opened.
        let bad = folder.path().join("log/00000000000000000010.segment");
        std::fs::remove_file(&bad).unwrap();
        std::fs::create_dir(&bad).unwrap();
        retainer.options.newest_events = Some(25);
        retainer.look(&maintenance, &stopped);
        assert_eq!(maintenance.sealed_segments(), [10, 20, 30]);
        std::fs::remove_dir(&bad).unwrap();
        retainer.options.newest_events = Some(0);
        retainer.look(&maintenance, &stopped);
        assert!(maintenance.sealed_segments().is_empty());
    }

    #[test]
    fn the_newest_event_of_all_shows_at_the_start_that_the_clock_may_be_right_though_the_sealed_ones_are_old() {
        let folder = tempfile::tempdir().unwrap();
        let (_writer, mut retainer) = four_segments(folder.path());
        let hour = Duration::from_secs(3600);
        retainer.options.age_max = Some(hour);
        let begun = now();
        let (segment, old) = (segments(1).0[0], begun - 5 * microseconds(hour));
        let mut believed = |newest_stored| {
            retainer.carried = Carried::default();
            retainer.newest_stored = newest_stored;
            retainer.believed_now(&[SealedSegment { received_max: Some(old), ..segment }])
        };
        assert_eq!(believed(None), old);
        assert!(believed(Some(begun)) >= begun);
    }

    /// Segments of 100 events, 10 MiB and an hour each, the last of which has just ended.
    fn segments(count: u64) -> (Vec<SealedSegment>, Timestamp) {
        let hour = 3_600_000_000;
        let segment = |number| SealedSegment {
            first_sequence: number * 100,
            end_sequence: (number + 1) * 100,
            bytes: 10 * MIB,
            bytes_raw: 40 * MIB,
            received_max: Some((number + 1) * hour),
        };
        ((0..count).map(segment).collect(), count * hour)
    }

    fn decide(options: &Retention) -> Verdict {
        let (segments, now) = segments(10);
        options.decide(&segments, 16 * MIB, 1_050, now)
    }

    #[test]
    fn without_limits_everything_is_kept() {
        assert!(Retention::default().is_off());
        assert_eq!(decide(&Retention::default()), Verdict::default());
    }

    #[test]
    fn as_many_go_as_are_over_the_bytes_and_the_unsealed_one_counts() {
        let dropped = |bytes_max| decide(&Retention { bytes_max: Some(bytes_max), ..Retention::default() }).drop;
        assert_eq!(dropped(116 * MIB), 0);
        assert_eq!(dropped(116 * MIB - 1), 1);
        assert_eq!(dropped(106 * MIB - 1), 2);
        assert_eq!(dropped(0), 10);
    }

    #[test]
    fn those_go_whose_newest_event_is_too_old() {
        let dropped = |hours: u64| {
            let age_max = Some(Duration::from_secs(3600 * hours));
            decide(&Retention { age_max, ..Retention::default() }).drop
        };
        assert_eq!([dropped(10), dropped(9), dropped(8), dropped(0)], [0, 0, 1, 9]);
    }

    #[test]
    fn a_segment_of_unknown_age_goes_with_the_next_old_one_and_not_alone() {
        let (mut segments, now) = segments(3);
        segments[0].received_max = None;
        segments[2].received_max = None;
        let options = Retention { age_max: Some(Duration::from_secs(1)), ..Retention::default() };
        assert_eq!(options.decide(&segments, 0, 300, now).drop, 2);
        segments[1].received_max = None;
        assert_eq!(options.decide(&segments, 0, 300, now).drop, 0);
    }

    #[test]
    fn a_clock_that_was_ahead_for_a_moment_keeps_no_segment_back() {
        let hour = 3_600_000_000;
        let (mut segments, _) = segments(7);
        for (segment, received) in segments.iter_mut().zip([0, 8760, 1, 2, 4, 6, 8]) {
            segment.received_max = Some(received * hour).filter(|&received| received > 0);
        }
        let options = Retention { age_max: Some(Duration::from_secs(3600)), ..Retention::default() };
        let dropped = |now: u64| options.decide(&segments, 0, 700, now * hour).drop;
        assert_eq!([dropped(10), dropped(9), dropped(3)], [7, 6, 3]);
        // While it is ahead, what it says of others is what it always is.
        assert_eq!(dropped(8762), 7);
    }

    #[test]
    fn of_the_newest_events_none_goes() {
        let dropped = |newest| decide(&Retention { newest_events: Some(newest), ..Retention::default() }).drop;
        assert_eq!([dropped(2_000), dropped(951), dropped(950), dropped(50)], [0, 0, 1, 10]);
    }

    #[test]
    fn consumers_are_waited_for_up_to_the_limit() {
        let needed_from = NeededFrom::default();
        let slower = Arc::new(AtomicU64::new(250));
        needed_from.add(Arc::new(AtomicU64::new(1_000)));
        needed_from.add(Arc::clone(&slower));
        let mut options =
            Retention { bytes_max: Some(66 * MIB), wait_bytes_max: 30 * MIB, needed_from, ..Retention::default() };
        // Five are due, the slower consumer has read two of them, and the other three may wait.
        assert_eq!(decide(&options), Verdict { drop: 2, forced: 0, waiting: 3 });
        options.wait_bytes_max = 30 * MIB - 1;
        assert_eq!(decide(&options), Verdict { drop: 3, forced: 1, waiting: 2 });
        options.wait_bytes_max = 0;
        assert_eq!(decide(&options), Verdict { drop: 5, forced: 3, waiting: 0 });
        slower.store(1_000, Ordering::Release);
        assert_eq!(decide(&options), Verdict { drop: 5, forced: 0, waiting: 0 });
    }
}
