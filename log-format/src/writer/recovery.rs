//! Opening a log for writing, after any crash or damage.
//!
//! Only the newest segment is looked at, so opening costs the same whatever the log's size. What was durable is kept, a
//! torn tail that was never acknowledged is cut, and where the disk lost what it had acknowledged, nothing is cut: the
//! bytes are kept aside, a mark says what is missing, and numbering continues above it.

use std::{ops::Range, sync::Arc};

use super::{
    active::ActiveSegment,
    options::{Durability, WriteOptions},
};
use crate::{
    ApiVersion, CHAIN_START, Error, Head, Log, Mark, MarkKind, Result, Sequence, Timestamp,
    error::{Operation, Unreadable, storage_error},
    head::{self, HeadState},
    loss_mark::{ChainAfterLoss, loss_body},
    pieces::{copy_aside, end_of_written, sync_directory, write_again},
    position::Position,
    scan::Scan,
    segment::{Footer, SegmentFile, SegmentHeader, list_segments},
    storage::Storage,
};

/// What opening found and did, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// A new log was begun.
    pub created: bool,
    /// Bytes of a torn, never acknowledged tail that were cut off.
    pub cut_bytes: u64,
    /// Sequences that were visible and are gone; the log carries a mark.
    pub lost: Option<Range<Sequence>>,
    /// Where the bytes in their place were kept.
    pub kept_aside: Option<String>,
    /// Damage before the end, left as it is: the events in it are quarantined.
    pub damage: Vec<String>,
    /// What was wrong with the header of the newest segment, which was written again from its copy.
    pub header_restored: Option<String>,
    /// The directory is a copy of the log that the head was written for.
    pub copied: bool,
}

/// What the writer continues from.
pub(crate) struct Found {
    pub(crate) sealed: Vec<Sequence>,
    pub(crate) active: Option<ActiveSegment>,
    /// The newest segment's header, or that of a log yet to be made.
    pub(crate) header: SegmentHeader,
    pub(crate) position: Position,
    pub(crate) epoch: u64,
    pub(crate) head_counter: u64,
    /// The active segment must be sealed before anything is appended.
    pub(crate) seal_active: bool,
    /// Marks to write first.
    pub(crate) marks: Vec<Mark>,
    pub(crate) recovery: Recovery,
}

/// What this process knows of a log that it had open for writing before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) log_id: [u8; 16],
    /// What its readers have seen.
    pub(crate) head: Head,
}

impl Known {
    pub(crate) fn of(log: &Log) -> Self {
        Known { log_id: log.id(), head: log.head() }
    }
}

/// Checks, before anything in the directory is touched, that a log is there; and that it is the known one.
pub(crate) fn check_log_is_there(storage: &dyn Storage, known: Option<&Known>) -> Result<()> {
    let missing = || Error::LogMissing { directory: storage.name() };
    let segments = list_segments(storage).map_err(|error| match error {
        Error::NotALog { .. } => missing(),
        error => error,
    })?;
    let newest = segments.last().copied().ok_or_else(missing)?;
    let Some(known) = known else { return Ok(()) };
    let header = SegmentFile::open(storage, newest, false)?.header;
    if header.log_id == known.log_id { Ok(()) } else { Err(Error::OtherLog { directory: storage.name() }) }
}

/// With a `known` log, none is ever begun, and its sequences never come again: what its readers have seen and the disk
/// lacks is lost, even where the head file has more.
pub(crate) fn recover(storage: &dyn Storage, options: &WriteOptions, known: Option<&Known>) -> Result<Found> {
    if known.is_some() || !options.create_if_missing {
        check_log_is_there(storage, known)?;
    }
    remove_leftovers(storage)?;
    let head_state = head::read(storage)?;
    let mut sealed = list_segments(storage)?;
    let Some(newest) = sealed.pop() else { return Ok(new_log(options, &head_state)) };

    let file = SegmentFile::open(storage, newest, true)?;
    if file.header.dialect != options.dialect {
        let (found, expected) = (file.header.dialect, options.dialect.clone());
        return Err(Error::OtherDialect { directory: storage.name(), found, expected });
    }
    if file.header.form.frames != options.frame_form {
        let (found, expected) = (file.header.form.frames, options.frame_form);
        return Err(Error::OtherFrameForm { directory: storage.name(), found, expected });
    }
    let header = file.header.clone();
    let mut found = Found {
        sealed,
        active: None,
        position: header.start(),
        epoch: header.epoch,
        head_counter: head_state.slot().map_or(0, |slot| slot.counter),
        // The names that its events have from their kinds are those of its header.
        seal_active: header.form != options.form(),
        marks: Vec::new(),
        recovery: Recovery { copied: matches!(head_state, HeadState::Copied(_)), ..Recovery::default() },
        header,
    };
    match Footer::read(&file.name, file.file.as_ref()) {
        Ok(Some((footer, offset))) => {
            found.position = footer.position();
            found.sealed.push(newest);
            found.write_header_again(&file)?;
            // The writer of the footer may have stopped before it was synced, and no later step syncs this segment.
            let length = file.file.len().map_err(storage_error(Operation::Read, &file.name))?;
            write_again(&file.name, file.file.as_ref(), offset..length)?;
            file.file.sync().map_err(storage_error(Operation::Sync, &file.name))?;
        }
        // A broken footer is a tail like any other: after the last block.
        Ok(None) | Err(Error::Corrupt { .. }) => found.take_up_active(storage, file, &head_state)?,
        Err(error) => return Err(error),
    }
    found.account_for_loss(&head_state, options, known);
    found.begin_epoch(&head_state, known, options.now);
    found.replace_segment_without_events()?;
    Ok(found)
}

/// Files that a crash left half-made: nothing refers to them.
fn remove_leftovers(storage: &dyn Storage) -> Result<()> {
    for name in storage.list().map_err(storage_error(Operation::List, "the directory"))? {
        if name.ends_with(".segment.new") {
            storage.remove(&name).map_err(storage_error(Operation::Remove, &name))?;
        }
    }
    // A segment that a crash left with its name, but without a synced directory, is about to be trusted.
    sync_directory(storage)
}

fn new_log(options: &WriteOptions, head_state: &HeadState) -> Found {
    // Without segments, a head still says which sequences were given out.
    let slot = head_state.slot();
    let first_sequence = slot.map_or(0, |slot| slot.next_sequence).max(options.first_sequence);
    let header = SegmentHeader {
        generation: 0,
        rewritten_level: 0,
        epoch: match slot {
            Some(slot) if may_have_given_out_more(head_state) => epoch_after(slot.epoch, options.now),
            slot => slot.map_or(0, |slot| slot.epoch),
        },
        log_id: options.new_log_id,
        dialect: options.dialect.clone(),
        first_sequence,
        created: options.now,
        version_before: ApiVersion::NONE,
        version_announced: ApiVersion::NONE,
        chain_before: CHAIN_START,
        form: options.form(),
    };
    Found {
        sealed: Vec::new(),
        active: None,
        position: header.start(),
        epoch: header.epoch,
        head_counter: slot.map_or(0, |slot| slot.counter),
        seal_active: false,
        marks: Vec::new(),
        recovery: Recovery { created: true, ..Recovery::default() },
        header,
    }
}

/// Whether sequences may have been given out that this log does not know of.
fn may_have_given_out_more(head_state: &HeadState) -> bool {
    match head_state {
        HeadState::Own(slot) => slot.unsynced && !slot.clean,
        HeadState::Missing | HeadState::Copied(_) => true,
    }
}

/// The epoch that begins at `now`. One more than before alone would be that of every copy: a backup that is put back a second
/// time gives the same sequences out again.
fn epoch_after(before: u64, now: Timestamp) -> u64 {
    before.saturating_add(1).max(now / 1000)
}

impl Found {
    /// The header of the newest segment, or of the log that is to be made.
    pub(crate) fn newest_header(&self) -> SegmentHeader {
        self.active.as_ref().map_or(&self.header, |active| &active.file.header).clone()
    }

    /// Continues a segment that was not sealed.
    fn take_up_active(&mut self, storage: &dyn Storage, file: SegmentFile, head_state: &HeadState) -> Result<()> {
        let slot = head_state.own().filter(|slot| slot.segment == file.header.first_sequence);
        // What was written without syncs may be torn before the head, too.
        let trusted = slot.filter(|slot| !slot.unsynced).map_or(0, |slot| slot.offset);
        // What is taken for damage here may be cut: a device that is away must not cost anything.
        let begin = if self.recovery.copied { Scan::begin_copied } else { Scan::begin };
        let mut scan = begin(&file, Unreadable::IsAnError);
        scan.advance(&file, trusted, u64::MAX)?;
        self.recovery.damage = scan.damage.iter().map(ToString::to_string).collect();
        self.position = scan.footer.position();
        let length = file.file.len().map_err(storage_error(Operation::Read, &file.name))?;
        self.write_header_again(&file)?;
        let (file, end) = (Arc::new(file), scan.end);
        let mut active =
            ActiveSegment { file: Arc::clone(&file), footer: scan.footer, end, allocated: length, uncounted: true };
        if !slot.is_some_and(|slot| slot.clean) {
            write_again(&file.name, file.file.as_ref(), trusted.max(file.blocks_start)..end)?;
        }
        let was_visible = slot.is_some_and(|slot| end < slot.offset);
        // Readers in other processes know what was there, and must not find something else in its place. An opening
        // that failed may have cut it already.
        self.seal_active |= was_visible;
        let written_end = end_of_written(&file.name, file.file.as_ref(), end)?;
        if written_end > end {
            if self.recovery.copied || was_visible {
                self.recovery.kept_aside = Some(keep_aside(storage, &file, end..written_end)?);
            } else {
                self.recovery.cut_bytes = written_end - end;
            }
            // Left there, it could be taken for a block once others are before it.
            file.file.set_len(end).map_err(storage_error(Operation::Cut, &file.name))?;
            file.file.sync().map_err(storage_error(Operation::Sync, &file.name))?;
            active.allocated = end;
        }
        self.active = Some(active);
        Ok(())
    }

    /// Writes a damaged header from its copy, and a sound one over itself: an opening before this one may have restored it,
    /// and failed to sync it.
    fn write_header_again(&mut self, file: &SegmentFile) -> Result<()> {
        let Some(damage) = &file.header_damage else {
            return write_again(&file.name, file.file.as_ref(), 0..file.blocks_start);
        };
        file.file.write_at(&file.header.encode(), 0).map_err(storage_error(Operation::Write, &file.name))?;
        self.recovery.header_restored = Some(damage.reason.clone());
        Ok(())
    }

    /// Where the head, or what readers of this process have seen, is beyond what the segments hold, durable data is gone:
    /// marks the loss, and numbering continues above it.
    ///
    /// The head of a copy does not count: its segments are older than its head, and nothing is gone where it came from.
    fn account_for_loss(&mut self, head_state: &HeadState, options: &WriteOptions, known: Option<&Known>) {
        let own = head_state.own();
        let seen = known.map_or(0, |known| known.head.next_sequence);
        let (from, to) = (self.position.next_sequence, own.map_or(0, |slot| slot.next_sequence).max(seen));
        if to <= from {
            return;
        }
        let unsynced = own.map_or(options.durability == Durability::Os, |slot| slot.unsynced);
        let reason = if unsynced {
            "the log was written without syncs and the machine stopped"
        } else {
            "the storage lost what it had acknowledged"
        };
        self.recovery.lost = Some(from..to);
        self.position.next_sequence = to;
        self.seal_active = true;
        self.marks.push(Mark {
            kind: MarkKind::LOSS,
            position: to,
            source: String::new(),
            received: options.now,
            body: loss_body(&(from..to), reason, ChainAfterLoss::Unchanged),
        });
    }

    /// Begins another epoch, in a segment of its own, where sequences may come again. They may not where this process knows
    /// which it has given out, and the log is where it was.
    fn begin_epoch(&mut self, head_state: &HeadState, known: Option<&Known>, now: Timestamp) {
        let slot_epoch = head_state.slot().map_or(0, |slot| slot.epoch);
        self.epoch = self.epoch.max(slot_epoch).max(known.map_or(0, |known| known.head.epoch));
        let is_all_known = known.is_some() && matches!(head_state, HeadState::Own(_));
        if may_have_given_out_more(head_state) && !is_all_known {
            self.epoch = epoch_after(self.epoch, now);
            self.seal_active = true;
        }
    }

    /// A segment without an event has the name of the one that is to follow: its marks move there.
    fn replace_segment_without_events(&mut self) -> Result<()> {
        if !self.seal_active {
            return Ok(());
        }
        let Some(active) = self
            .active
            .take_if(|active| !active.has_events() && active.file.header.first_sequence == self.position.next_sequence)
        else {
            return Ok(());
        };
        // One that cannot be read would be gone with the segment.
        for entry in active.footer.split_blocks().1 {
            if let Err(error @ Error::Unreadable { .. }) = active.file.read_block(entry.offset, entry.stored_bytes) {
                return Err(error);
            }
        }
        let mut marks = active.file.all_marks(&active.footer)?;
        // These are in the segment of their events, which were never stored then.
        marks.retain(|mark| mark.kind != MarkKind::IDENTITY);
        marks.append(&mut self.marks);
        self.marks = marks;
        self.seal_active = false;
        Ok(())
    }
}

/// Copies what is after the last sound block to a file of its own.
fn keep_aside(storage: &dyn Storage, segment: &SegmentFile, place: Range<u64>) -> Result<String> {
    let name = format!("{}.{}.lost", segment.name, place.start);
    copy_aside(storage, &segment.name, segment.file.as_ref(), place, &name, Unreadable::IsAnError)?;
    Ok(name)
}
