//! Looking through a log for what is lost, and explaining to a reader why an event is not there.
//!
//! Readers ask [`Shared::explain`]. A survey goes through the lists of all segments ([`Log::find_losses`]) or their blocks too
//! ([`Log::check_blocks`]); it also removes from the known losses what turns out to be readable again.

use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};

use super::{
    large::LargeEvent,
    reader::Log,
    state::{Sealed, Shared},
};
use crate::{
    Block, Error, Losses, MarkKind, Missing, Result, Sequence, block,
    error::Unreadable,
    loss_mark::parse_loss,
    losses::{Found, LossKind, NO_SEGMENT},
    segment::{BlockEntry, SegmentFile},
};

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
        self.shared.losses.losses(self.shared.retained.from())
    }

    /// Changes whenever [`Log::losses`] may have changed, other than by retention. A look at it costs nothing.
    #[must_use]
    pub fn losses_version(&self) -> u64 {
        self.shared.losses.version()
    }

    /// Changes whenever the known losses were forgotten, because the log was recovered in place or replaced: only
    /// [`Log::find_losses`] finds what is lost now.
    #[must_use]
    pub fn losses_generation(&self) -> u64 {
        self.shared.losses.generation()
    }

    /// Looks through all segments for what is lost: files, headers, footers and what they list, and no event. Of blocks it
    /// reads only those that are known to be damaged: what can be read again is no longer among [`Log::losses`]. Calls
    /// `step` before each segment, which may stop it.
    ///
    /// # Errors
    /// What the storage answers. Damage is not an error: it is among [`Log::losses`] afterwards.
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
    /// Why `sequence` is in no block though the log continues at `to`, and up to where that holds.
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
        if let Some((end, kind, reason)) = self.losses.at(sequence) {
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
            Missing::Quarantined(reason) | Missing::Unreadable(reason) => {
                self.losses.add(range, LossKind::Damaged, reason)
            }
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

    /// Looks at one segment, after which the log continues at `end`; returns where its events end, unless `step` stopped it.
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
                // A reader may have found more than a checksum shows.
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

    /// What LOSS marks say of a gap: they are where the log continues, in the segment before it or in the next one.
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
            contents.file.read_marks(&entries, &mut marks, Unreadable::IsDamage)?;
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
        let (events, marks) = footer.split_blocks();
        Ok(Contents { file, events, marks, broken_tail })
    }
}

/// Checks a block against its checksums, in pieces.
fn check_block(file: &SegmentFile, entry: &BlockEntry) -> Result<()> {
    let header = file.read_header(entry.offset)?;
    let header = header.ok_or_else(|| file.corrupt(entry.offset, block::corrupt("no block begins here")))?;
    file.check_listed(entry, &header)?;
    file.check_parts(entry.offset, &header)
}

/// Reads a block as a reader of its events does.
fn decode_block(file: &Arc<SegmentFile>, entry: &BlockEntry) -> Result<()> {
    if entry.is_large() {
        LargeEvent::open(Arc::clone(file), entry).map(drop)
    } else {
        file.load(entry, Block::decode).map(drop)
    }
}
