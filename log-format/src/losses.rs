//! What a log is known to have lost: one answer for everybody who asks.
//!
//! Owns the distinction between events that retention dropped (nothing is wrong), that a segment file lacks, that a
//! damaged place holds, and that a mark in the log names as lost. A [`Log`] gathers what its readers meet and what its
//! surveys find: [`Log::find_losses`] in the lists of all segments, [`Log::check_blocks`] in their blocks too. A survey also
//! removes what turns out to be readable again. [`Losses`] is the answer at a moment.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    ops::{ControlFlow, Range},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use crate::{
    Block, Error, Log, MarkKind, Missing, Result, Sequence, block,
    examine::parse_loss,
    log::{LargeEvent, Sealed, Shared, check_listed, load, read_marks, split_entries},
    segment::{BlockEntry, SegmentFile},
};

/// How many ranges are kept apart: a log may be in pieces.
const RANGES_MAX: usize = 10_000;
/// How many ranges one line names.
const RANGES_NAMED_MAX: usize = 3;
/// What a range without a file is.
const NO_SEGMENT: &str = "no segment holds them, and no mark in the log says why";

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

    /// The ranges that no mark explains: somebody has to restore a file, or to run a repair.
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

    /// The ranges from `oldest` on; what retention has dropped meanwhile is no loss any more.
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
type Found = Vec<(Range<Sequence>, LossKind, String)>;

impl Known {
    pub(crate) fn add(&self, range: Range<Sequence>, kind: LossKind, reason: &str) {
        self.change(|collection| collection.add(range, kind, reason));
    }

    /// Sequences may name other events now, or other things may be lost: a survey has to look again.
    pub(crate) fn clear(&self) {
        self.change(|collection| *collection = Collection::default());
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn within(&self, range: &Range<Sequence>) -> Vec<(Range<Sequence>, LossKind)> {
        self.lock().within(range)
    }

    /// Replaces `before`, which was known when a survey began to look at a piece, by what it found there. What readers have
    /// added meanwhile stays.
    fn settle(&self, before: &[(Range<Sequence>, LossKind)], found: &Found) {
        self.change(|collection| {
            for (range, _) in before {
                collection.remove(range);
            }
            for (range, kind, reason) in found {
                collection.add(range.clone(), *kind, reason);
            }
        });
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

/// How closely a survey looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// At the lists of segments, and at those blocks that are known to be damaged.
    Lists,
    /// At the checksums of all blocks too.
    Blocks,
}

impl Log {
    /// What is known to be lost so far: what surveys have found, and what readers have met since.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.shared.losses.lock().losses(self.shared.retained.from())
    }

    /// Changes whenever [`Log::losses`] may have changed, other than by retention. A look at it costs nothing.
    #[must_use]
    pub fn losses_version(&self) -> u64 {
        self.shared.losses.version.load(Ordering::Acquire)
    }

    /// Changes whenever the known losses were forgotten, because the log was recovered in place or replaced: only
    /// [`Log::find_losses`] tells what is lost now.
    #[must_use]
    pub fn losses_generation(&self) -> u64 {
        self.shared.losses.generation.load(Ordering::Acquire)
    }

    /// Looks through all segments for what is lost: files, headers, footers and what they list, and no event. Of blocks it
    /// reads only those that are known to be damaged: what can be read again is no longer among [`Log::losses`]. Calls
    /// `step` before each segment, which may stop it.
    ///
    /// # Errors
    /// What the storage answers. Damage is no error: it is among [`Log::losses`] afterwards.
    pub fn find_losses(&self, step: &mut dyn FnMut() -> ControlFlow<()>) -> Result<()> {
        self.survey(Depth::Lists, &mut |_| step())
    }

    /// The same, and checks every visible block against its checksums. Calls `step` also before each block, with the bytes
    /// that will be read next, so that the caller can set the pace.
    ///
    /// # Errors
    /// As [`Log::find_losses`].
    pub fn check_blocks(&self, step: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        self.survey(Depth::Blocks, step)
    }

    fn survey(&self, depth: Depth, step: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        let shared = &self.shared;
        let head = self.head().next_sequence;
        let segments = shared.segment_list();
        let mut next = shared.retained.from();
        // What retention has dropped would take room from what is lost.
        let dropped = shared.losses.within(&(0..next));
        if !dropped.is_empty() {
            shared.losses.settle(&dropped, &Vec::new());
        }
        for (index, &first) in segments.iter().enumerate() {
            if step(0).is_break() {
                return Ok(());
            }
            let end = segments.get(index + 1).map_or(head, |&end| end.min(head));
            // Segments below the oldest may be left over from a drop.
            if next < first {
                shared.survey_gap(next.max(shared.retained.from())..first)?;
            }
            let ControlFlow::Continue(covered) = shared.survey_segment(first, end, depth, step)? else { return Ok(()) };
            next = next.max(covered);
        }
        if next < head { shared.survey_gap(next..head) } else { Ok(()) }
    }
}

/// What a segment lists, sealed or not.
struct Contents {
    file: Arc<SegmentFile>,
    events: Vec<BlockEntry>,
    marks: Vec<BlockEntry>,
    broken_tail: Option<String>,
}

impl Shared {
    /// Why `sequence` is in no block though the log goes on at `to`, and up to where that holds.
    pub(crate) fn explain(
        &self,
        sequence: Sequence,
        to: Sequence,
        broken_tail: Option<&String>,
    ) -> Result<(Sequence, Missing)> {
        if to <= sequence {
            return Ok((to, Missing::Hole));
        }
        let retained_from = self.retained.from();
        if sequence < retained_from {
            return Ok((to.min(retained_from), Missing::Dropped));
        }
        if let Some((end, kind, reason)) = self.losses.lock().at(sequence) {
            return Ok((end.min(to), Missing::of(kind, &reason)));
        }
        if let Some(reason) = broken_tail {
            return Ok((to, Missing::Quarantined(reason.clone())));
        }
        let pieces = self.gap(sequence..to)?;
        Ok(pieces.into_iter().next().map_or((to, Missing::Lost), |(range, kind, reason)| {
            let why = Missing::of(kind, &reason);
            (range.end, why)
        }))
    }

    /// What is found missing is remembered.
    pub(crate) fn note_missing(&self, range: Range<Sequence>, why: &Missing) {
        match why {
            Missing::Dropped => {}
            Missing::Lost => self.losses.add(range, LossKind::Missing, NO_SEGMENT),
            // Its reason is in the mark, and is found with that.
            Missing::Hole => {}
            Missing::Quarantined(reason) => self.losses.add(range, LossKind::Damaged, reason),
        }
    }

    /// Between two segments there is nothing that could be read.
    fn survey_gap(&self, gap: Range<Sequence>) -> Result<()> {
        let before = self.losses.within(&gap);
        let found = self.gap(gap)?;
        if !before.is_empty() || !found.is_empty() {
            self.losses.settle(&before, &found);
        }
        Ok(())
    }

    /// Looks at one segment, after which the log goes on at `end`; returns where its events end, unless `step` stopped it.
    fn survey_segment(
        &self,
        first: Sequence,
        end: Sequence,
        depth: Depth,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Sequence>> {
        let before = self.losses.within(&(first..end));
        let mut found = Found::new();
        let covered = self.find_in_segment(first, end, depth, &before, &mut found, step)?;
        if covered.is_continue() && (!before.is_empty() || !found.is_empty()) {
            self.losses.settle(&before, &found);
            // A reader may have an older file of this name open.
            self.forget(first, false);
        }
        Ok(covered)
    }

    fn find_in_segment(
        &self,
        first: Sequence,
        end: Sequence,
        depth: Depth,
        before: &[(Range<Sequence>, LossKind)],
        found: &mut Found,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Sequence>> {
        let contents = match self.contents(first) {
            Ok(contents) => contents,
            Err(error) if error.is_damage() => {
                found.push((first..end, LossKind::Damaged, error.to_string()));
                return Ok(ControlFlow::Continue(end));
            }
            Err(error) if error.is_gone() => {
                self.check_directory()?;
                if first >= self.retained.from() {
                    found.push((first..end, LossKind::Missing, NO_SEGMENT.to_owned()));
                }
                return Ok(ControlFlow::Continue(end));
            }
            Err(error) => return Err(error),
        };
        let is_known = |entry: &BlockEntry| {
            before.iter().any(|(range, kind)| {
                *kind == LossKind::Damaged && range.start < entry.end_sequence() && entry.first_sequence < range.end
            })
        };
        let mut next = first;
        for entry in &contents.events {
            if next < entry.first_sequence {
                found.append(&mut self.gap(next..entry.first_sequence)?);
            }
            next = entry.end_sequence();
            let checked = if entry.is_unreadable() {
                let reason = "no block begins here".to_owned();
                Err(Error::Corrupt { file: contents.file.name.clone(), offset: entry.offset, reason })
            } else if is_known(entry) {
                // A reader may have found more than a checksum tells.
                decode_block(&contents.file, entry)
            } else if depth == Depth::Blocks {
                if step(entry.stored_bytes.into()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                check_block(&contents.file, entry)
            } else {
                Ok(())
            };
            match checked {
                Ok(()) => {}
                Err(error) if error.is_damage() => {
                    let range = entry.first_sequence..next;
                    // At once: a survey of blocks takes long.
                    self.losses.add(range.clone(), LossKind::Damaged, &error.to_string());
                    found.push((range, LossKind::Damaged, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(reason) = contents.broken_tail
            && next < end
        {
            found.push((next..end, LossKind::Damaged, reason));
            return Ok(ControlFlow::Continue(end));
        }
        Ok(ControlFlow::Continue(next))
    }

    /// Sequences that are in no block: which of them a mark explains, and which are missing.
    fn gap(&self, gap: Range<Sequence>) -> Result<Found> {
        let mut pieces = Found::new();
        if gap.is_empty() {
            return Ok(pieces);
        }
        let marked = self.marks_of_losses(&gap)?;
        let mut next = gap.start;
        while next < gap.end {
            let (end, kind, reason) = match marked.iter().find(|(range, _)| range.contains(&next)) {
                Some((range, reason)) => (range.end, LossKind::Marked, reason.clone()),
                None => {
                    let starts = marked.iter().map(|(range, _)| range.start).filter(|&start| start > next);
                    (starts.min().unwrap_or(gap.end), LossKind::Missing, NO_SEGMENT.to_owned())
                }
            };
            let end = end.min(gap.end);
            pieces.push((next..end, kind, reason));
            next = end;
        }
        Ok(pieces)
    }

    /// What LOSS marks say of a gap: they are where the log goes on, in the segment before it or in the next one.
    fn marks_of_losses(&self, gap: &Range<Sequence>) -> Result<Vec<(Range<Sequence>, String)>> {
        let segments = self.segment_list();
        let before = segments.iter().rev().find(|&&first| first <= gap.start);
        let after = segments.iter().find(|&&first| first > gap.start && first <= gap.end);
        let mut marks = Vec::new();
        for &first in before.into_iter().chain(after) {
            let contents = match self.contents(first) {
                Ok(contents) => contents,
                Err(error) if error.is_damage() => continue,
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            };
            let is_there = |entry: &&BlockEntry| (gap.start + 1..=gap.end).contains(&entry.first_sequence);
            let entries: Vec<_> = contents.marks.iter().filter(is_there).copied().collect();
            read_marks(&contents.file, &entries, &mut marks)?;
        }
        let losses = marks.iter().filter(|mark| mark.kind == MarkKind::LOSS);
        Ok(losses.filter_map(|mark| parse_loss(&mark.body)).map(|(range, reason, _)| (range, reason)).collect())
    }

    fn contents(&self, first: Sequence) -> Result<Contents> {
        if let Some(active) = self.active_contents(first, |active| Contents {
            file: Arc::clone(&active.file),
            events: active.index.clone(),
            marks: active.marks.clone(),
            broken_tail: active.broken_tail.clone(),
        }) {
            return Ok(active);
        }
        // Past the segments that readers keep open.
        let Sealed { file, footer, broken_tail, .. } = self.open_of_this_log(first)?;
        let (events, marks) = split_entries(&footer.blocks);
        Ok(Contents { file, events, marks, broken_tail })
    }
}

/// Checks a block against its checksums, in pieces.
fn check_block(file: &SegmentFile, entry: &BlockEntry) -> Result<()> {
    let header = file.read_header(entry.offset)?;
    let header = header.ok_or_else(|| file.corrupt(entry.offset, block::corrupt("no block begins here")))?;
    check_listed(file, entry, &header)?;
    file.check_parts(entry.offset, &header)
}

/// Reads a block as a reader of its events does.
fn decode_block(file: &Arc<SegmentFile>, entry: &BlockEntry) -> Result<()> {
    if entry.is_large() {
        LargeEvent::open(Arc::clone(file), entry).map(drop)
    } else {
        load(file, entry, Block::decode).map(drop)
    }
}

impl Missing {
    fn of(kind: LossKind, reason: &str) -> Missing {
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
            Missing::Quarantined(_) => LossKind::Damaged.for_clients(),
        }
    }
}

/// What operators read of it; clients get [`Missing::for_clients`].
impl Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.for_clients())?;
        match self {
            // Reasons are one line, but they quote what is on the disk.
            Missing::Quarantined(reason) => write!(formatter, ": {}", reason.replace(['\r', '\n'], " ")),
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
