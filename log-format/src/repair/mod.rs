//! Making a damaged log whole again, losing nothing that can still be read.
//!
//! What verify finds is set right segment by segment: a bad block, a broken tail, a lost footer or header. The segment is
//! rewritten without what is broken (aside, synced, read back, renamed), the broken bytes are kept in a file of their
//! own, and a LOSS mark is where events are gone, with the chain value to continue from.
//!
//! A second run does nothing, and names again what the first one left: a segment that was rewritten is examined again
//! before the next one is, so that every segment is judged and set right by what is before it from then on.

mod action;
mod misplaced;

use std::{ops::Range, sync::Arc};

pub use action::Action;
pub(crate) use misplaced::SUFFIX as MISPLACED_SUFFIX;

use crate::{
    ApiVersion, ChainValue, Error, Result, Sequence, Timestamp,
    block::{BlockHeader, BlockType},
    error::{BadBytes, Operation, Unreadable, storage_error},
    examine::{Damage, Examined, Extent, Survey, chain_behind},
    head::{self, HeadFile, HeadSlot, HeadState},
    lock::lock,
    oldest::OldestFile,
    pieces::{copy_aside, open_if_there, sync_directory, write_again},
    rewrite::{Loss, Replacement},
    segment::{SegmentFile, SegmentHeader, file_name},
    storage::{FileIdentity, Storage},
};

/// How a log is repaired.
#[derive(Clone, Copy, Debug)]
pub struct RepairOptions {
    /// Only say what would be done. Takes no lock and changes nothing.
    pub dry_run: bool,
    /// The time of the marks that are written.
    pub now: Timestamp,
}

/// How often one segment is rewritten at most.
const REWRITES_MAX: usize = 4;

/// Repairs a log; returns what was done, in order, and nothing for a sound log. What [`Action::Leave`] names is still
/// there afterwards, and the next run names it again and does nothing else.
///
/// A dry run judges each segment by those before it as they are now. Where they contradict each other, the repair itself
/// may find more to do, because it judges by what it has set right.
///
/// # Errors
/// [`Error::Locked`] while another process writes the log, [`Error::NotALog`], [`Error::Corrupt`] for a segment that does
/// not come right, or what the storage answers. What was done before an error stays done, and repair can be run again.
pub fn repair(storage: &Arc<dyn Storage>, options: RepairOptions) -> Result<Vec<Action>> {
    let _lock = if options.dry_run { None } else { Some(lock(storage.as_ref())?) };
    let mut actions = misplaced::put_right(storage.as_ref(), options.dry_run)?;
    let renamed: Vec<_> = actions.iter().filter_map(renamed_file).map(str::to_owned).collect();
    loop {
        let mut repair = Repair { survey: Survey::begin(Arc::clone(storage))?, options, actions: Vec::new() };
        let mut end = None;
        for index in 0..repair.survey.segments.len() {
            end = repair.segment(index)?;
        }
        repair.head(end)?;
        repair.oldest()?;
        // A segment left damaged because no other header named its log may be repaired after a header that follows it was
        // rebuilt. Each time there is one damaged header less.
        let is_told_more = !options.dry_run
            && repair.actions.iter().any(|action| matches!(action, Action::RebuildHeader { .. }))
            && repair.actions.iter().any(is_left);
        if !is_told_more {
            // A dry run meets segments under the names that they would not have any more.
            let is_renamed = |action: &Action| matches!(action, Action::Leave { file, .. } if renamed.contains(file));
            repair.actions.retain(|action| !(options.dry_run && is_renamed(action)));
            actions.append(&mut repair.actions);
            return Ok(actions);
        }
        actions.extend(repair.actions.into_iter().filter(|action| !is_left(action)));
    }
}

fn renamed_file(action: &Action) -> Option<&str> {
    match action {
        Action::Rename { file, .. } => Some(file),
        _ => None,
    }
}

fn is_left(action: &Action) -> bool {
    matches!(action, Action::Leave { .. })
}

struct Repair {
    survey: Survey,
    options: RepairOptions,
    actions: Vec<Action>,
}

/// Where the newest segment ends, for the head.
struct End {
    header: SegmentHeader,
    offset: u64,
    chain: ChainValue,
    is_sealed: bool,
    was_rewritten: bool,
}

impl Repair {
    /// Sets one segment right, if it needs it.
    fn segment(&mut self, index: usize) -> Result<Option<End>> {
        let before = self.survey.examiner.clone();
        let mut extent = self.survey.extent(index);
        let mut rewrites = 0;
        let examined = loop {
            self.survey.examiner = before.clone();
            let examined = match self.look_at(index, extent) {
                Ok(examined) => examined,
                Err(error) => {
                    let BadBytes { file, offset, reason } = error.bad_bytes()?;
                    self.actions.push(Action::Leave { file, offset, reason });
                    self.survey.examiner.skip_segment();
                    return Ok(None);
                }
            };
            if !examined.needs_repair() {
                break examined;
            }
            if rewrites == REWRITES_MAX {
                let reason = format!("it is still damaged after it was rewritten {REWRITES_MAX} times");
                return Err(Error::Corrupt { file: examined.file.name, offset: examined.end, reason });
            }
            self.announce(&examined)?;
            rewrites += 1;
            if self.options.dry_run {
                break examined;
            }
            self.rewrite(index, &examined, before.next_sequence())?;
            // What the head says of the old file is not true of the new one.
            extent.durable_end = None;
        };
        for mismatch in &examined.mismatches {
            let (file, offset) = (examined.file.name.clone(), mismatch.offset);
            let reason = mismatch.reason.clone();
            self.actions.push(Action::Leave { file, offset, reason });
        }
        Ok(Some(End {
            chain: self.survey.examiner.chain().unwrap_or(examined.footer.chain_after),
            offset: examined.end,
            is_sealed: examined.is_sealed,
            was_rewritten: rewrites > 0,
            header: examined.file.header,
        }))
    }

    /// Examines a segment, as far as it would be rewritten.
    fn look_at(&mut self, index: usize, extent: Extent) -> Result<Examined> {
        let before = self.survey.examiner.clone();
        let mut examined = self.survey.examine(index, extent, &mut |_| {})?;
        if let Some(durable_end) = extent.durable_end.filter(|_| examined.needs_repair()) {
            // It is rewritten whole: sound blocks after the head come along, which may be older than they are.
            self.survey.examiner = before.clone();
            let extent = Extent { durable_end: None, ..extent };
            examined = self.survey.examine(index, extent, &mut |_| {})?;
            if let Some(torn) = examined.torn_write(durable_end) {
                examined = self.survey.examine_before(index, extent, before, torn)?;
            }
        }
        if examined.needs_repair() {
            // Only what is rewritten loses it: it is kept beside the log.
            examined.damage.extend(examined.torn_end.take());
        }
        Ok(examined)
    }

    /// Says what is done to a segment.
    fn announce(&mut self, examined: &Examined) -> Result<()> {
        let file = examined.file.name.clone();
        if let Some(damage) = &examined.file.header_damage {
            self.actions.push(Action::RebuildHeader { file: file.clone(), reason: damage.to_string() });
        }
        for damage in &examined.damage {
            let (offset, bytes, reason) = (damage.offset, damage.length, damage.reason.clone());
            let sequences = Some(&damage.lost).filter(|lost| !lost.is_empty());
            let first_sequence = sequences.map(|lost| lost.start);
            let last_sequence = sequences.map(|lost| lost.end.saturating_sub(1));
            let kept_as = kept_as(self.survey.storage.as_ref(), &file, damage)?;
            let file = file.clone();
            self.actions.push(match (damage.length, first_sequence, last_sequence) {
                (0, Some(first_sequence), Some(last_sequence)) => {
                    Action::MarkHole { file, first_sequence, last_sequence }
                }
                _ if damage.is_tail => {
                    Action::SetTailAside { file, offset, bytes, first_sequence, last_sequence, kept_as, reason }
                }
                _ => Action::Quarantine { file, offset, bytes, first_sequence, last_sequence, kept_as, reason },
            });
        }
        if let Some(reason) = examined.footer_damage.clone() {
            self.actions.push(Action::RebuildFooter { file, reason });
        }
        Ok(())
    }

    /// Writes a segment again without its damage. The segments before it end at `before`.
    fn rewrite(&self, index: usize, examined: &Examined, before: Sequence) -> Result<()> {
        let storage = self.survey.storage.as_ref();
        let mut new = Replacement::begin(storage, &examined.file.header, 1)?;
        let mut state = GoingOn {
            chain: examined.chain_before,
            wire_version: examined.file.header.version_before,
            announced_version: examined.file.header.version_announced,
            has_events: false,
        };
        let first = examined.file.header.first_sequence;
        // Where segments contradict each other, a mark would have no place.
        if examined.file.header_damage.is_some() && state.chain.is_none() && before <= first {
            self.mark(&mut new, &state, first..first, "the segment's header was damaged")?;
        }
        let mut damage = examined.damage.iter().peekable();
        let mut blocks = examined.footer.blocks.iter().peekable();
        loop {
            let block_offset = blocks.peek().map(|entry| entry.offset);
            if let Some(damage) = damage.next_if(|damage| block_offset.is_none_or(|offset| damage.offset <= offset)) {
                if damage.length > 0 {
                    keep_aside(storage, examined, damage)?;
                }
                let next = match blocks.peek() {
                    Some(entry) => examined.file.read_header(entry.offset)?,
                    None => None,
                };
                self.step_over(&mut state, index, damage, next.as_ref())?;
                if !(damage.is_tail && damage.lost.is_empty()) {
                    self.mark(&mut new, &state, damage.lost.clone(), &damage.reason)?;
                }
            } else if let Some(entry) = blocks.next() {
                let header = new.copy(&examined.file, entry)?;
                state.follow(&header);
            } else {
                break;
            }
        }
        new.footer.counts = examined.footer.counts;
        new.footer.sources.clone_from(&examined.footer.sources);
        let is_last = index + 1 == self.survey.segments.len();
        // A sealed segment without an event would have the name of the one that follows it.
        let is_sealed = !is_last || new.footer.end_sequence > first;
        new.complete(is_sealed, examined.mismatches.len())?;
        new.put_in_place()?;
        sync_directory(storage)
    }

    /// Finds out what the log continues from after damage.
    fn step_over(&self, state: &mut GoingOn, index: usize, damage: &Damage, next: Option<&BlockHeader>) -> Result<()> {
        if let Some(header) = &damage.header {
            state.follow(header);
            state.chain = chain_behind(header, &damage.lost);
            return Ok(());
        }
        if let Some(next) = next {
            state.wire_version = next.version_before;
            state.announced_version = state.announced_version.max(next.version_before);
        }
        if damage.lost.is_empty() || (damage.length == 0 && next.is_some() && !state.has_events) {
            return Ok(());
        }
        let marks = next.filter(|next| next.block_type == BlockType::MARKS && next.first_sequence == damage.lost.end);
        match (marks, next) {
            (Some(marks), _) => state.chain = Some(marks.chain_after),
            (None, Some(_)) => state.chain = None,
            (None, None) => self.ask_outside(state, index, damage.lost.end)?,
        }
        Ok(())
    }

    /// What is in force before `sequence`, where the next segment begins with it or the head ends with it.
    fn ask_outside(&self, state: &mut GoingOn, index: usize, sequence: Sequence) -> Result<()> {
        state.chain = None;
        match (self.survey.segments.get(index + 1), &self.survey.head) {
            (Some(&next), _) if next == sequence => {
                match SegmentFile::open(self.survey.storage.as_ref(), next, false) {
                    Ok(next) => {
                        state.chain = Some(next.header.chain_before);
                        state.wire_version = next.header.version_before;
                        state.announced_version = next.header.version_announced;
                    }
                    // It is damaged too.
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
            (None, HeadState::Own(slot)) if slot.next_sequence == sequence => state.chain = Some(slot.chain),
            _ => {}
        }
        Ok(())
    }

    fn mark(&self, new: &mut Replacement<'_>, state: &GoingOn, lost: Range<Sequence>, reason: &str) -> Result<()> {
        let loss = Loss {
            sequences: lost,
            reason: reason.to_owned(),
            chain: state.chain,
            wire_version: state.wire_version,
            announced_version: state.announced_version,
        };
        new.mark_loss(&loss, self.options.now)
    }

    /// Writes the file `oldest` again where it is missing or damaged.
    fn oldest(&mut self) -> Result<()> {
        let state = self.survey.oldest;
        let reason = match state.sequence() {
            Some(_) if !state.is_damaged => return Ok(()),
            Some(_) => "one of its slots is damaged",
            None => "there is no sound one",
        };
        if !self.options.dry_run {
            let first = self.survey.segments.first().copied().unwrap_or_default();
            let storage = self.survey.storage.as_ref();
            match state.sequence() {
                Some(_) => OldestFile::open(storage, first)?,
                // It may be there and not be readable.
                None => OldestFile::make(storage, first)?,
            };
        }
        self.actions.push(Action::RebuildOldest { reason: reason.to_owned() });
        Ok(())
    }

    /// Writes the head again where it is damaged, missing, or speaks of a file that was replaced.
    fn head(&mut self, end: Option<End>) -> Result<()> {
        let storage = self.survey.storage.as_ref();
        let damaged = head::damaged_places(storage)?;
        let Some(end) = end else { return Ok(()) };
        let from_blocks = |slot: Option<&HeadSlot>| HeadSlot {
            counter: 0,
            next_sequence: self.survey.examiner.next_sequence(),
            segment: end.header.first_sequence,
            offset: end.offset,
            chain: end.chain,
            epoch: slot.map_or(end.header.epoch, |slot| slot.epoch.max(end.header.epoch)),
            file_identity: FileIdentity { inode: 0, born: 0 },
            clean: slot.is_some_and(|slot| slot.clean),
            // Without a head it is unknown which sequences were given out: the next opening begins another epoch.
            unsynced: slot.is_none_or(|slot| slot.unsynced),
        };
        let (slot, reason) = match &self.survey.head {
            HeadState::Missing => (from_blocks(None), "there is no sound head".to_owned()),
            // The next opening for writing takes the copy over.
            HeadState::Copied(_) => return Ok(()),
            HeadState::Own(slot) if end.was_rewritten => {
                (from_blocks(Some(slot)), format!("{} was written anew", file_name(end.header.first_sequence)))
            }
            // An earlier repair was cut short before it came to the head.
            HeadState::Own(slot)
                if end.is_sealed && slot.segment == end.header.first_sequence && slot.offset != end.offset =>
            {
                (from_blocks(Some(slot)), "it does not name the end of the last segment".to_owned())
            }
            HeadState::Own(slot) if !damaged.is_empty() => {
                // Retention may have dropped what an older head names.
                let is_there = self.survey.segments.contains(&slot.segment);
                let slot = if is_there { *slot } else { from_blocks(Some(slot)) };
                (slot, "a part of it is damaged".to_owned())
            }
            HeadState::Own(_) => return Ok(()),
        };
        if !self.options.dry_run {
            // What a killed process left may be in the page cache only, and a head must not say more than the disk holds. A
            // segment that was rewritten is on the disk.
            if !end.was_rewritten {
                let newest = file_name(slot.segment);
                let segment = storage.open(&newest, true).map_err(storage_error(Operation::Open, &newest))?;
                // A head may name more than is left.
                let length = segment.len().map_err(storage_error(Operation::Read, &newest))?;
                write_again(&newest, segment.as_ref(), 0..slot.offset.min(length))?;
                segment.sync().map_err(storage_error(Operation::Sync, &newest))?;
            }
            if self.survey.head == HeadState::Missing {
                // In a file that cannot be read nothing can be replaced, either.
                storage.create(head::FILE).map_err(storage_error(Operation::Create, head::FILE))?;
            }
            let counter = self.survey.head.slot().map_or(0, |slot| slot.counter);
            let mut file = HeadFile::open(storage, counter)?;
            // Both slots.
            file.write(slot)?;
            file.write(slot)?;
            file.copy_segment_header(&end.header.encode())?;
            file.sync()?;
            sync_directory(storage)?;
        }
        self.actions.push(Action::RebuildHead { reason });
        Ok(())
    }
}

/// What the log continues from while a segment is rewritten.
struct GoingOn {
    chain: Option<ChainValue>,
    wire_version: ApiVersion,
    announced_version: ApiVersion,
    /// Whether a block of events was met. Until then, the chain value is that of the segment's header.
    has_events: bool,
}

impl GoingOn {
    fn follow(&mut self, header: &BlockHeader) {
        let is_events = header.block_type == BlockType::EVENTS;
        self.has_events |= is_events;
        if is_events || header.block_type == BlockType::MARKS {
            self.chain = Some(header.chain_after);
            self.wire_version = if is_events { header.version_after } else { header.version_before };
            self.announced_version = self.announced_version.max(header.version_after);
        }
    }
}

/// Where damaged bytes will be kept: nothing that was kept before is replaced.
fn kept_as(storage: &dyn Storage, file: &str, damage: &Damage) -> Result<String> {
    let (offset, suffix) = (damage.offset, if damage.is_tail { "lost" } else { "quarantined" });
    let mut name = format!("{file}.{offset}.{suffix}");
    let mut number = 1u64;
    while open_if_there(storage, &name)?.is_some() {
        number += 1;
        name = format!("{file}.{offset}-{number}.{suffix}");
    }
    Ok(name)
}

/// Copies damaged bytes to a file of their own, with zeros for those that cannot be read.
fn keep_aside(storage: &dyn Storage, examined: &Examined, damage: &Damage) -> Result<()> {
    let name = kept_as(storage, &examined.file.name, damage)?;
    let damaged = damage.offset..damage.offset + damage.length;
    let (file, from) = (&examined.file.name, examined.file.file.as_ref());
    copy_aside(storage, file, from, damaged, &name, Unreadable::IsDamage)
}
