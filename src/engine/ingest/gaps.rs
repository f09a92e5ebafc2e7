//! Events of the dialect's series that no source has any more.
//!
//! Ordinals flow in, in the order in which events are stored; ranges of ordinals that no source brought within a while flow
//! out, each once. A source that was away brings older ordinals later, so a hole is only a gap when it stays one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use sidecar_log_format::{Cursor, Item, Kind, Log, MarkCursor, MarkKind, Sequence};
use tracing::warn;

use crate::engine::dialect::{Dialect, Series, facts_of};

/// How long a hole may wait for a back-fill before it is a gap.
const PATIENCE: Duration = Duration::from_secs(300);
/// Holes remembered at once; a chain that skips more often is reported at once.
const HOLES_MAX: usize = 4096;
/// How far back the newest ordinal and holes are looked for when a log is opened.
const SEARCH_EVENTS: u64 = 20_000;
/// The part of those that only tells the highest ordinal, where older ones are not looked at: what is first there may have
/// been filled in late.
const SEED_PART: u64 = 4;

/// Finds gaps; none where the dialect has no series.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    series: Option<Series>,
    highest: Option<u64>,
    /// First ordinal to last ordinal and when the hole was seen, on a clock that does not jump.
    holes: BTreeMap<u64, (u64, Duration)>,
    /// Events were passed that may hold what seems to be missing before the next higher ordinal.
    is_blind: bool,
}

/// Numbers from `from` to `to`, both included, of what no event will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) of: &'static str,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Gaps {
    /// Continues after the newest stored events: above their greatest ordinal, and with the holes among them that no mark
    /// names yet, which are seen only now. A place that cannot be read is stepped over: what it holds is unknown, so nothing
    /// before it is a hole.
    pub(super) fn after(log: &Log, dialect: &dyn Dialect) -> Self {
        let mut gaps = Gaps { series: dialect.series(), ..Gaps::default() };
        let Some(Series { kinds, of }) = gaps.series else { return gaps };
        let head = log.head().next_sequence;
        let start = log.oldest().max(head.saturating_sub(SEARCH_EVENTS));
        // The first event of a log opens no hole either.
        let counts_from = if start == 0 { 0 } else { start + head.saturating_sub(start) / SEED_PART };
        let (mut position, mut step) = (start, 1_u64);
        while let Err((from, error)) = gaps.read(log, dialect, kinds, position..head, counts_from) {
            let outline = log.outline(from).ok().flatten();
            position = outline.map_or(0, |outline| outline.end_sequence).max(from.saturating_add(step));
            // Where no list of blocks can be read either, a device takes its time for each answer.
            step = step.saturating_mul(2);
            let to = position.saturating_sub(1);
            warn!(from, to, %error, "events cannot be read, gaps before them are not looked for");
            gaps.lose_sight();
        }
        gaps.settle_marked(log, start, of);
        gaps
    }

    /// Reads stored events, and returns where they cannot be read.
    fn read(
        &mut self,
        log: &Log,
        dialect: &dyn Dialect,
        kinds: u64,
        sequences: Range<Sequence>,
        counts_from: Sequence,
    ) -> Result<(), (Sequence, sidecar_log_format::Error)> {
        let mut cursor = Cursor::new(log, sequences.start).until(sequences.end).of_kinds(kinds);
        while let Some(run) = cursor.next_run().map_err(|error| (cursor.position(), error))? {
            for item in run.items() {
                match item {
                    Item::Event(row, payload) => {
                        let ordinal = facts_of(dialect, row.kind(), &payload).and_then(|facts| facts.ordinal);
                        if row.sequence() < counts_from {
                            self.highest = self.highest.max(ordinal);
                        } else {
                            self.stored(row.kind(), ordinal, Duration::ZERO);
                        }
                    }
                    Item::Missing(..) => self.lose_sight(),
                }
            }
        }
        Ok(())
    }

    /// Events were passed that may have any ordinal: nothing that is not there is known to be a hole.
    fn lose_sight(&mut self) {
        self.holes.clear();
        self.is_blind = true;
    }

    /// Takes out what marks from position `start` on name already.
    fn settle_marked(&mut self, log: &Log, start: Sequence, of: &str) {
        if self.holes.is_empty() {
            return;
        }
        let mut marks = MarkCursor::new(log, start).of_kinds(MarkKind::GAP.bit());
        loop {
            match marks.next_to(Sequence::MAX) {
                Ok(Some(mark)) => {
                    let marked = serde_json::from_str::<Marked<'_>>(&mark.body).ok().filter(|marked| marked.of == of);
                    marked.into_iter().for_each(|marked| self.take_out(marked.from, marked.to));
                }
                Ok(None) => return,
                Err(error) => {
                    warn!(%error, of, "the log's marks cannot be read, gaps from before this start are not looked for");
                    self.holes.clear();
                    return;
                }
            }
        }
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
            Some(highest) if ordinal <= highest => self.take_out(ordinal, ordinal),
            Some(highest) => {
                if ordinal - highest > 1 && !self.is_blind {
                    self.holes.insert(highest + 1, (ordinal - 1, time));
                }
                self.rise(ordinal);
            }
            None => self.rise(ordinal),
        }
    }

    fn rise(&mut self, ordinal: u64) {
        self.highest = Some(ordinal);
        self.is_blind = false;
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

    /// Takes the ordinals from `from` to `to`, both included, out of the holes.
    fn take_out(&mut self, from: u64, to: u64) {
        while let Some((&first, &(last, seen))) =
            self.holes.range(..=to).next_back().filter(|(_, (last, _))| *last >= from)
        {
            self.holes.remove(&first);
            if last > to {
                self.holes.insert(to + 1, (last, seen));
            }
            if first < from {
                self.holes.insert(first, (from - 1, seen));
                return;
            }
        }
    }
}

/// The body of a mark of a gap.
#[derive(Deserialize)]
struct Marked<'a> {
    of: &'a str,
    from: u64,
    to: u64,
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use sidecar_log_format::storage::Directory;
    use sidecar_log_format::{ApiVersion, Event, FrameForm, Mark, Opened, Writer};

    use super::*;
    use crate::engine::dialect::{Facts, Identity, write_options};
    use crate::engine::failing_reads::over_failing_reads;

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

    /// Takes a payload for the number that it counts.
    #[derive(Debug)]
    struct Counting;

    impl Dialect for Counting {
        fn name(&self) -> &str {
            "counting"
        }

        fn kinds(&self) -> &[(Kind, Box<str>)] {
            &[]
        }

        fn frame_form(&self) -> FrameForm {
            FrameForm::Plain
        }

        fn facts(&self, _kind: Kind, payload: &str) -> Option<Facts> {
            let identity = Identity { class: 0, time: 0, hash: [0; 16] };
            Some(Facts { identity, richness: 0, ordinal: payload.parse().ok() })
        }

        fn series(&self) -> Option<Series> {
            Some(Series { kinds: COUNTED.bit(), of: "height" })
        }
    }

    fn append(writer: &mut Writer, ordinals: impl IntoIterator<Item = u64>) {
        for ordinal in ordinals {
            let event = Event {
                kind: COUNTED,
                name: "",
                source: "",
                network: "",
                api_version: ApiVersion::NONE,
                upstream_id: None,
                received: 1,
                payload: &ordinal.to_string(),
            };
            writer.append(&event).unwrap();
        }
        writer.commit().unwrap();
    }

    fn open(folder: &Path) -> Opened {
        Writer::open(Arc::new(Directory::create(folder).unwrap()), write_options(&Counting, [1; 16], 1)).unwrap()
    }

    #[test]
    fn a_hole_that_was_no_gap_yet_when_the_log_was_closed_becomes_one_after_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let Opened { mut writer, log, .. } = open(folder.path());
        append(&mut writer, [100, 111, 105, 120, 130]);
        let body = r#"{"of":"height","from":112,"to":119}"#.to_owned();
        writer.mark(&Mark { kind: MarkKind::GAP, position: 0, source: String::new(), received: 1, body }).unwrap();
        let body = r#"{"of":"time","from":101,"to":129}"#.to_owned();
        writer.mark(&Mark { kind: MarkKind::GAP, position: 0, source: String::new(), received: 1, body }).unwrap();
        append(&mut writer, [131]);
        let mut gaps = Gaps::after(&log, &Counting);
        assert_eq!(gaps.highest(), Some(131));
        assert_eq!(gaps.certain(PATIENCE - Duration::from_secs(1)), [], "a node may still bring them");
        gaps.stored(COUNTED, Some(103), Duration::ZERO);
        assert_eq!(gaps.certain(PATIENCE), [gap(101, 102), gap(104, 104), gap(106, 110), gap(121, 129)]);
    }

    #[test]
    fn what_was_filled_in_late_opens_no_hole_where_the_search_begins() {
        let folder = tempfile::tempdir().unwrap();
        let Opened { mut writer, log, .. } = open(folder.path());
        append(&mut writer, 500..30_000);
        // A node brings old blocks, of which the oldest is the first that is looked at.
        append(&mut writer, 0..400);
        append(&mut writer, (30_000..50_000 - 401).chain([49_601]));
        let mut gaps = Gaps::after(&log, &Counting);
        assert_eq!(gaps.certain(Duration::MAX), [gap(49_599, 49_600)]);
    }

    #[test]
    fn before_a_place_that_cannot_be_read_nothing_is_a_hole_and_the_search_continues_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let Opened { mut writer, .. } = open(folder.path());
        for ordinals in [[1, 4], [5, 6], [7, 8], [10, 12]] {
            append(&mut writer, ordinals);
        }
        writer.close().unwrap();
        let (log, reads) = over_failing_reads(folder.path());
        let gaps_after = |read| {
            reads.fail_after(u64::MAX - 1);
            let log = log();
            reads.fail_after(read);
            Gaps::after(&log, &Counting)
        };
        let whole = gaps_after(u64::MAX - 1).certain(Duration::MAX);
        assert_eq!(whole, [gap(2, 3), gap(9, 9), gap(11, 11)]);
        let mut partly = 0;
        for read in 0..40 {
            let mut gaps = gaps_after(read);
            assert_eq!(gaps.highest().map(|highest| highest >= 8), Some(true), "{read}");
            let found = gaps.certain(Duration::MAX);
            assert!(found.iter().all(|gap| whole.contains(gap)), "{read}: {found:?}");
            partly += usize::from(found != whole && !found.is_empty());
        }
        assert!(partly > 0);
    }
}
