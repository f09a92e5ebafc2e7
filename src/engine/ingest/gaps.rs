//! Events of the dialect's series that no source has any more.
//!
//! Ordinals flow in, in the order in which events are stored; ranges of ordinals that no source brought within a while flow
//! out, each once. A source that was away brings older ordinals later, so a hole is only a gap when it stays one.

use std::collections::BTreeMap;
use std::time::Duration;

use sidecar_log_format::{Cursor, Item, Kind, Log};

use crate::engine::dialect::{Dialect, Series, facts_of};

/// How long a hole may wait for a back-fill before it is a gap.
const PATIENCE: Duration = Duration::from_secs(300);
/// Holes remembered at once; a chain that skips more often is reported at once.
const HOLES_MAX: usize = 4096;
/// How far back the newest ordinal is looked for when a log is opened.
const SEARCH_EVENTS: u64 = 20_000;

/// Finds gaps; none where the dialect has no series.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    series: Option<Series>,
    highest: Option<u64>,
    /// First ordinal to last ordinal and when the hole was seen, on a clock that does not jump.
    holes: BTreeMap<u64, (u64, Duration)>,
}

/// Numbers from `from` to `to`, both included, of what no event will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) of: &'static str,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Gaps {
    /// Continues above the greatest ordinal among the newest stored events.
    pub(super) fn after(log: &Log, dialect: &dyn Dialect) -> sidecar_log_format::Result<Self> {
        let mut gaps = Gaps { series: dialect.series(), ..Gaps::default() };
        let Some(Series { kinds, .. }) = gaps.series else { return Ok(gaps) };
        let head = log.head().next_sequence;
        let mut cursor = Cursor::new(log, log.oldest().max(head.saturating_sub(SEARCH_EVENTS))).until(head);
        cursor = cursor.of_kinds(kinds);
        while let Some(run) = cursor.next_run()? {
            let ordinals = run.items().filter_map(|item| match item {
                Item::Event(row, payload) => facts_of(dialect, row.kind(), &payload)?.ordinal,
                Item::Missing(..) => None,
            });
            gaps.highest = gaps.highest.max(ordinals.max());
        }
        Ok(gaps)
    }

    /// The highest ordinal so far.
    pub(super) fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// An event was stored.
    pub(super) fn stored(&mut self, kind: Kind, ordinal: Option<u64>, time: Duration) {
        let counts = self.series.is_some_and(|series| series.kinds & kind.bit() != 0);
        let Some(ordinal) = ordinal.filter(|_| counts) else { return };
        match self.highest {
            Some(highest) if ordinal <= highest => self.fill(ordinal),
            Some(highest) => {
                if ordinal - highest > 1 {
                    self.holes.insert(highest + 1, (ordinal - 1, time));
                }
                self.highest = Some(ordinal);
            }
            None => self.highest = Some(ordinal),
        }
    }

    /// The gaps that are certain by now.
    pub(super) fn certain(&mut self, now: Duration) -> Vec<Gap> {
        let Some(Series { of, .. }) = self.series else { return Vec::new() };
        let crowded = self.holes.len() > HOLES_MAX;
        let is_certain = |seen: Duration| crowded || now.saturating_sub(seen) >= PATIENCE;
        let certain = self.holes.iter().filter(|(_, (_, seen))| is_certain(*seen));
        let gaps: Vec<_> = certain.map(|(&from, &(to, _))| Gap { of, from, to }).collect();
        for gap in &gaps {
            self.holes.remove(&gap.from);
        }
        gaps
    }

    fn fill(&mut self, ordinal: u64) {
        let Some((&first, &(last, seen))) = self.holes.range(..=ordinal).next_back() else { return };
        if ordinal > last {
            return;
        }
        self.holes.remove(&first);
        if first < ordinal {
            self.holes.insert(first, (ordinal - 1, seen));
        }
        if ordinal < last {
            self.holes.insert(ordinal + 1, (last, seen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: Kind = Kind(1);

    fn gaps(highest: Option<u64>) -> Gaps {
        Gaps { series: Some(Series { kinds: COUNTED.bit(), of: "height" }), highest, ..Gaps::default() }
    }

    fn gap(from: u64, to: u64) -> Gap {
        Gap { of: "height", from, to }
    }

    #[test]
    fn a_skipped_ordinal_is_a_gap_once_it_has_not_arrived_for_a_while() {
        let mut gaps = gaps(Some(9));
        let second = Duration::from_secs(1);
        gaps.stored(COUNTED, Some(10), Duration::ZERO);
        gaps.stored(COUNTED, Some(14), second);
        assert_eq!(gaps.certain(PATIENCE), []);
        assert_eq!(gaps.certain(PATIENCE + second), [gap(11, 13)]);
        assert_eq!(gaps.certain(PATIENCE + 2 * second), []);
    }

    #[test]
    fn a_back_fill_in_descending_order_closes_the_hole() {
        let mut gaps = gaps(None);
        gaps.stored(COUNTED, Some(100), Duration::ZERO);
        gaps.stored(COUNTED, Some(105), Duration::ZERO);
        for height in [104, 103, 101] {
            gaps.stored(COUNTED, Some(height), Duration::from_secs(1));
        }
        assert_eq!(gaps.certain(PATIENCE), [gap(102, 102)]);
    }

    #[test]
    fn the_first_event_of_a_log_opens_no_hole_below_it() {
        let mut gaps = gaps(None);
        for height in [5_000, 4_999, 5_001] {
            gaps.stored(COUNTED, Some(height), Duration::ZERO);
        }
        assert_eq!(gaps.certain(Duration::MAX), []);
    }

    #[test]
    fn only_the_series_counts() {
        for mut gaps in [gaps(Some(1)), Gaps::default()] {
            gaps.stored(Kind(2), Some(9), Duration::ZERO);
            gaps.stored(COUNTED, None, Duration::ZERO);
            assert_eq!(gaps.certain(Duration::MAX), []);
        }
    }
}
