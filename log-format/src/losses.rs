//! What a log is known to have lost: one answer for every caller.
//!
//! Owns the distinction between events that retention dropped (nothing is wrong), that a segment file lacks, that a
//! damaged place holds, and that a mark in the log names as lost. Readers and surveys of a [`crate::Log`] add what they
//! find to [`Known`]; [`Losses`] is the answer at a moment, and [`Missing`] that for one reader.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use crate::{Error, Sequence};

/// How many ranges are kept apart: a log may be in pieces.
const RANGES_MAX: usize = 10_000;
/// How many ranges one line names.
const RANGES_NAMED_MAX: usize = 3;
/// What a range without a file is.
pub(crate) const NO_SEGMENT: &str = "no segment holds them, and no mark in the log says why";

/// Why events are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// No segment holds them: a file is gone or was cut short.
    Missing,
    /// They are in a damaged place of a segment.
    Damaged,
    /// A mark in the log names them: recovery or repair found them lost, and nothing is left to do.
    Marked,
}

impl LossKind {
    /// All of them.
    pub const ALL: [LossKind; 3] = [LossKind::Missing, LossKind::Damaged, LossKind::Marked];

    /// The name of it, as metrics and JSON have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LossKind::Missing => "missing",
            LossKind::Damaged => "damaged",
            LossKind::Marked => "marked",
        }
    }

    /// What clients may read of it. Which file is damaged is only for the operator.
    #[must_use]
    pub fn for_clients(self) -> &'static str {
        match self {
            LossKind::Missing => "stored and lost: no segment holds them",
            LossKind::Damaged => "stored and damaged",
            LossKind::Marked => "lost, as a mark in the log says",
        }
    }
}

/// Events in a row that were stored and are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostRange {
    /// The first one.
    pub first_sequence: Sequence,
    /// The last one.
    pub last_sequence: Sequence,
    /// Why.
    pub kind: LossKind,
    /// The same in words.
    pub reason: String,
}

impl LostRange {
    /// How many events there are.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.last_sequence.saturating_sub(self.first_sequence).saturating_add(1)
    }
}

/// What a log has lost, in the order of the sequences; no two ranges overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Losses {
    ranges: Vec<LostRange>,
}

impl Losses {
    /// All ranges, those of marks included.
    #[must_use]
    pub fn ranges(&self) -> &[LostRange] {
        &self.ranges
    }

    /// The ranges that no mark explains: an operator has to restore a file, or to run a repair.
    pub fn unmarked(&self) -> impl Iterator<Item = &LostRange> {
        self.ranges.iter().filter(|range| range.kind != LossKind::Marked)
    }

    /// How many events are lost for this reason.
    #[must_use]
    pub fn events(&self, kind: LossKind) -> u64 {
        self.ranges.iter().filter(|range| range.kind == kind).map(LostRange::events).sum()
    }

    /// One line about the ranges that no mark explains; `None` where there are none.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        let events: u64 = self.unmarked().map(LostRange::events).sum();
        let count = self.unmarked().count();
        let named: Vec<_> = self.unmarked().take(RANGES_NAMED_MAX).map(ToString::to_string).collect();
        let more = match count.saturating_sub(named.len()) {
            0 => String::new(),
            more => format!(" and {more} more ranges"),
        };
        let are = if events == 1 { "event is" } else { "events are" };
        (events > 0).then(|| format!("{events} {are} lost: {}{more}", named.join(", ")))
    }
}

/// `1000`, or `1000 to 51192`.
impl Display for LostRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first_sequence == self.last_sequence {
            true => write!(formatter, "{}", self.first_sequence),
            false => write!(formatter, "{} to {}", self.first_sequence, self.last_sequence),
        }
    }
}

/// Puts ranges together as they are found, in any order. What was found first stays.
#[derive(Default)]
pub(crate) struct Collection {
    /// By first sequence: the end, why, and the same in words.
    ranges: BTreeMap<Sequence, (Sequence, LossKind, Arc<str>)>,
}

impl Collection {
    pub(crate) fn add(&mut self, range: Range<Sequence>, kind: LossKind, reason: &str) {
        let mut next = range.start;
        while next < range.end && self.ranges.len() < RANGES_MAX {
            if let Some((end, ..)) = self.at(next) {
                next = end;
                continue;
            }
            let end = self.ranges.range(next..).next().map_or(range.end, |(&start, _)| start.min(range.end));
            match self.ranges.range_mut(..next).next_back() {
                Some((_, (last, known, why))) if *last == next && *known == kind && **why == *reason => *last = end,
                _ => drop(self.ranges.insert(next, (end, kind, Arc::from(reason)))),
            }
            next = end;
        }
    }

    /// The known pieces of a range.
    fn within(&self, range: &Range<Sequence>) -> Vec<(Range<Sequence>, LossKind)> {
        let before = self.ranges.range(..range.start).next_back();
        let pieces = before.into_iter().chain(self.ranges.range(range.start..range.end.max(range.start)));
        pieces
            .map(|(&start, &(end, kind, _))| (start.max(range.start)..end.min(range.end), kind))
            .filter(|(piece, _)| !piece.is_empty())
            .collect()
    }

    /// Removes what is known of a range; a larger one around it is cut.
    fn remove(&mut self, range: &Range<Sequence>) {
        let around = self.ranges.range(..range.start).next_back().map(|(&start, known)| (start, known.clone()));
        let inside = self.ranges.range(range.start..range.end.max(range.start));
        let inside: Vec<_> = inside.map(|(&start, known)| (start, known.clone())).collect();
        for (start, (end, kind, reason)) in around.into_iter().chain(inside) {
            if end <= range.start {
                continue;
            }
            self.ranges.remove(&start);
            if start < range.start {
                self.ranges.insert(start, (range.start, kind, Arc::clone(&reason)));
            }
            if end > range.end {
                self.ranges.insert(range.end, (end, kind, reason));
            }
        }
    }

    /// What is known of a sequence: up to where it holds, and why.
    fn at(&self, sequence: Sequence) -> Option<(Sequence, LossKind, Arc<str>)> {
        let (_, (end, kind, reason)) = self.ranges.range(..=sequence).next_back()?;
        (sequence < *end).then(|| (*end, *kind, Arc::clone(reason)))
    }

    /// The ranges from `oldest` on; what retention has dropped meanwhile is not a loss any more.
    pub(crate) fn losses(&self, oldest: Sequence) -> Losses {
        let ranges = self.ranges.iter().filter(|(_, (end, ..))| *end > oldest);
        let ranges = ranges.map(|(&start, (end, kind, reason))| LostRange {
            first_sequence: start.max(oldest),
            last_sequence: end.saturating_sub(1),
            kind: *kind,
            reason: reason.to_string(),
        });
        Losses { ranges: ranges.collect() }
    }
}

/// What readers and surveys of one process have found.
#[derive(Default)]
pub(crate) struct Known {
    collection: Mutex<Collection>,
    /// Counts changes of the collection.
    version: AtomicU64,
    /// Counts how often everything was forgotten.
    generation: AtomicU64,
}

/// What is lost in a piece of the log: where, why, and the same in words.
pub(crate) type Found = Vec<(Range<Sequence>, LossKind, String)>;

impl Known {
    pub(crate) fn add(&self, range: Range<Sequence>, kind: LossKind, reason: &str) {
        self.change(|collection| collection.add(range, kind, reason));
    }

    /// Sequences may name other events now, or other things may be lost: a survey has to look again.
    pub(crate) fn clear(&self) {
        self.change(|collection| *collection = Collection::default());
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The known pieces of a range.
    pub(crate) fn within(&self, range: &Range<Sequence>) -> Vec<(Range<Sequence>, LossKind)> {
        self.lock().within(range)
    }

    /// Replaces `before`, which was known when a survey began to look at a piece, by what it found there. What readers have
    /// added meanwhile stays.
    pub(crate) fn settle(&self, before: &[(Range<Sequence>, LossKind)], found: &Found) {
        self.change(|collection| {
            for (range, _) in before {
                collection.remove(range);
            }
            for (range, kind, reason) in found {
                collection.add(range.clone(), *kind, reason);
            }
        });
    }

    /// What is known of a sequence: up to where it holds, and why.
    pub(crate) fn at(&self, sequence: Sequence) -> Option<(Sequence, LossKind, Arc<str>)> {
        self.lock().at(sequence)
    }

    /// What is lost from `oldest` on.
    pub(crate) fn losses(&self, oldest: Sequence) -> Losses {
        self.lock().losses(oldest)
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce(&mut Collection)) {
        let mut collection = self.lock();
        change(&mut collection);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    fn lock(&self) -> MutexGuard<'_, Collection> {
        self.collection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why sequences name no event. Displays as what operators read of them; clients get [`Missing::for_clients`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Retention has dropped them, or the log never held them.
    Dropped,
    /// They were stored, and no segment holds them any more. Nothing in the log says why.
    Lost,
    /// They are lost, and a mark in the log names them.
    Hole,
    /// The block that holds them is damaged: what does not fit.
    Quarantined(String),
    /// The device does not give back the bytes that hold them, at least not now: what cannot be read.
    Unreadable(String),
}

impl Missing {
    /// Why the events of a part that does not decode are missing.
    pub(crate) fn of_damage(error: &Error) -> Missing {
        let reason = error.to_string();
        if error.is_unreadable() { Missing::Unreadable(reason) } else { Missing::Quarantined(reason) }
    }

    pub(crate) fn of(kind: LossKind, reason: &str) -> Missing {
        match kind {
            LossKind::Missing => Missing::Lost,
            LossKind::Damaged => Missing::Quarantined(reason.to_owned()),
            LossKind::Marked => Missing::Hole,
        }
    }

    /// What clients may read of it, on one line. Which file is damaged is only for the operator.
    #[must_use]
    pub fn for_clients(&self) -> &'static str {
        match self {
            Missing::Dropped => "older than the oldest retained event",
            Missing::Lost => LossKind::Missing.for_clients(),
            Missing::Hole => LossKind::Marked.for_clients(),
            Missing::Quarantined(_) | Missing::Unreadable(_) => LossKind::Damaged.for_clients(),
        }
    }
}

/// What operators read of it; clients get [`Missing::for_clients`].
impl Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.for_clients())?;
        match self {
            // Reasons are one line, but they quote what is on the disk.
            Missing::Quarantined(reason) | Missing::Unreadable(reason) => {
                write!(formatter, ": {}", reason.replace(['\r', '\n'], " "))
            }
            Missing::Dropped | Missing::Lost | Missing::Hole => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_together_in_whatever_order_they_are_found() {
        let mut found = Collection::default();
        found.add(10..20, LossKind::Damaged, "a");
        found.add(5..30, LossKind::Missing, "b");
        found.add(12..14, LossKind::Damaged, "a");
        found.add(30..31, LossKind::Missing, "b");
        found.add(40..50, LossKind::Marked, "c");
        let losses = found.losses(0);
        let ranges: Vec<_> = losses.ranges().iter().map(|range| (range.to_string(), range.kind)).collect();
        let expected = [
            ("5 to 9", LossKind::Missing),
            ("10 to 19", LossKind::Damaged),
            ("20 to 30", LossKind::Missing),
            ("40 to 49", LossKind::Marked),
        ];
        assert_eq!(ranges, expected.map(|(range, kind)| (range.to_owned(), kind)));
        assert_eq!(LossKind::ALL.map(|kind| losses.events(kind)), [16, 10, 10]);
        assert_eq!(losses.summary().unwrap(), "26 events are lost: 5 to 9, 10 to 19, 20 to 30");
        // What retention drops is lost no more.
        assert_eq!(found.losses(30).summary().unwrap(), "1 event is lost: 30");
        assert_eq!(found.losses(31).summary(), None);
        assert_eq!(found.losses(31).events(LossKind::Marked), 10);
    }

    #[test]
    fn what_is_found_again_leaves_the_range_around_it() {
        let mut found = Collection::default();
        found.add(0..30, LossKind::Missing, "a");
        found.add(40..50, LossKind::Damaged, "b");
        assert_eq!(found.within(&(20..45)), [(20..30, LossKind::Missing), (40..45, LossKind::Damaged)]);
        found.remove(&(10..20));
        found.remove(&(25..45));
        found.remove(&(60..70));
        let ranges: Vec<_> = found.losses(0).ranges().iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["0 to 9", "20 to 24", "45 to 49"]);
    }

    #[test]
    fn a_log_in_a_million_pieces_is_not_remembered_without_end() {
        let mut found = Collection::default();
        for sequence in 0..2 * RANGES_MAX as u64 {
            found.add(2 * sequence..2 * sequence + 1, LossKind::Damaged, "x");
        }
        assert_eq!(found.losses(0).ranges().len(), RANGES_MAX);
        assert!(found.losses(0).summary().unwrap().ends_with(" and 9997 more ranges"));
    }
}
