//! Opening a log for writing after whatever happened to it.
//!
//! Only the newest segment is looked at, so opening costs the same whatever the log's size. What was durable is kept, a
//! torn tail that was never acknowledged is cut, and where the disk lost what it had acknowledged, nothing is cut: the
//! bytes are kept aside, a mark says what is missing, and numbering goes on above it.

use std::{ops::Range, sync::Arc};

use crate::{
    ApiVersion, CHAIN_START, Error, Mark, MarkKind, Result, Sequence,
    head::{self, HeadSlot, HeadState},
    log::{list_segments, read_segment_marks},
    scan::Scan,
    segment::{Footer, Position, SegmentFile, SegmentHeader, read_exact, storage_error},
    storage::Storage,
    writer::{ActiveSegment, Durability, WriteOptions},
};

/// What opening found and did, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The log was made anew.
    pub created: bool,
    /// Bytes of a torn, never acknowledged tail that were cut off.
    pub cut_bytes: u64,
    /// Sequences that were durable and are gone; the log carries a mark.
    pub lost: Option<Range<Sequence>>,
    /// Where the bytes in their place were kept.
    pub kept_aside: Option<String>,
    /// Damage before the end, left as it is: the events in it are quarantined.
    pub damage: Vec<String>,
    /// The directory is a copy of the log that the head was written for.
    pub copied: bool,
}

/// What the writer goes on from.
pub(crate) struct Found {
    pub(crate) sealed: Vec<Sequence>,
    pub(crate) active: Option<ActiveSegment>,
    /// The newest segment's header, or that of a log yet to be made.
    pub(crate) header: SegmentHeader,
    pub(crate) position: Position,
    pub(crate) epoch: u64,
    pub(crate) head_counter: u64,
    /// The active segment must not be gone on with.
    pub(crate) seal_active: bool,
    /// To be written first.
    pub(crate) marks: Vec<Mark>,
    pub(crate) recovery: Recovery,
}

pub(crate) fn recover(storage: &dyn Storage, options: &WriteOptions) -> Result<Found> {
    remove_leftovers(storage)?;
    let head_state = head::read(storage)?;
    let mut sealed = list_segments(storage)?;
    let Some(newest) = sealed.pop() else { return Ok(new_log(options, &head_state)) };

    let file = SegmentFile::open(storage, newest, true)?;
    if file.header.dialect != options.dialect {
        let (found, expected) = (file.header.dialect, options.dialect.clone());
        return Err(Error::OtherDialect { directory: storage.name(), found, expected });
    }
    let header = file.header.clone();
    let mut found = Found {
        sealed,
        active: None,
        position: start_of(&header),
        epoch: header.epoch,
        head_counter: head_state.slot().map_or(0, |slot| slot.counter),
        seal_active: false,
        marks: Vec::new(),
        recovery: Recovery { copied: matches!(head_state, HeadState::Copied(_)), ..Recovery::default() },
        header,
    };
    match Footer::read(&file.name, file.file.as_ref())? {
        Some((footer, _)) => {
            found.position = footer.position();
            found.sealed.push(newest);
            if let Some(slot) = head_state.slot() {
                found.account_for_loss(storage, None, slot, options)?;
            }
        }
        None => found.take_up_active(storage, file, &head_state, options)?,
    }
    if let Some(slot) = head_state.slot() {
        found.epoch = found.epoch.max(slot.epoch);
        if found.recovery.copied || (slot.unsynced && !slot.clean) {
            // Sequences may have been given out that this log does not know of.
            found.epoch += 1;
            found.seal_active = true;
        }
    }
    found.replace_segment_without_events()?;
    Ok(found)
}

/// Files that a crash left half-made: nothing refers to them.
fn remove_leftovers(storage: &dyn Storage) -> Result<()> {
    for name in storage.list().map_err(storage_error("list", "the directory"))? {
        if name.ends_with(".segment.new") {
            storage.remove(&name).map_err(storage_error("remove", &name))?;
        }
    }
    Ok(())
}

fn new_log(options: &WriteOptions, head_state: &HeadState) -> Found {
    // Without segments, a head still says which sequences were given out.
    let first_sequence = head_state.slot().map_or(0, |slot| slot.next_sequence).max(options.first_sequence);
    let header = SegmentHeader {
        generation: 0,
        epoch: head_state.slot().map_or(0, |slot| slot.epoch),
        log_id: options.new_log_id,
        dialect: options.dialect.clone(),
        first_sequence,
        created: options.now,
        version_before: ApiVersion::NONE,
        version_announced: ApiVersion::NONE,
        chain_before: CHAIN_START,
        kinds: options.kinds.clone(),
    };
    Found {
        sealed: Vec::new(),
        active: None,
        position: start_of(&header),
        epoch: header.epoch,
        head_counter: head_state.slot().map_or(0, |slot| slot.counter),
        seal_active: false,
        marks: Vec::new(),
        recovery: Recovery { created: true, ..Recovery::default() },
        header,
    }
}

fn start_of(header: &SegmentHeader) -> Position {
    Position {
        next_sequence: header.first_sequence,
        wire_version: header.version_before,
        announced_version: header.version_announced,
        chain: header.chain_before,
    }
}

impl Found {
    /// Goes on with a segment that was not sealed.
    fn take_up_active(
        &mut self,
        storage: &dyn Storage,
        file: SegmentFile,
        head_state: &HeadState,
        options: &WriteOptions,
    ) -> Result<()> {
        let trusted = match head_state {
            HeadState::Own(slot) if slot.segment == file.header.first_sequence && !slot.unsynced => slot.offset,
            _ => 0,
        };
        let mut scan = Scan::begin(&file);
        scan.advance(&file, trusted, u64::MAX)?;
        self.recovery.damage = scan.damage.iter().map(ToString::to_string).collect();
        self.position = scan.footer.position();
        let length = file.file.len().map_err(storage_error("read", &file.name))?;
        let mut active = ActiveSegment {
            file: Arc::new(file),
            footer: scan.footer,
            end: scan.end,
            allocated: length,
            uncounted: true,
        };
        let lost = match head_state.slot() {
            Some(slot) => self.account_for_loss(storage, Some(&active), slot, options)?,
            None => false,
        };
        if scan.tail.is_some() || lost {
            if !lost {
                self.recovery.cut_bytes = length - active.end;
            }
            let name = &active.file.name;
            active.file.file.set_len(active.end).map_err(storage_error("cut", name))?;
            active.file.file.sync().map_err(storage_error("sync", name))?;
            active.allocated = active.end;
        }
        self.active = Some(active);
        Ok(())
    }

    /// Where the head is beyond what the segments hold, durable data is gone: says so, and goes on above it.
    fn account_for_loss(
        &mut self,
        storage: &dyn Storage,
        active: Option<&ActiveSegment>,
        slot: &HeadSlot,
        options: &WriteOptions,
    ) -> Result<bool> {
        let from = self.position.next_sequence;
        if slot.next_sequence <= from {
            return Ok(false);
        }
        if let Some(active) = active.filter(|_| !self.recovery.copied) {
            self.recovery.kept_aside = keep_aside(storage, active)?;
        }
        let reason = match (self.recovery.copied, options.durability) {
            (true, _) => "the log was copied while it was being written",
            (false, Durability::Os) => "the log was written without syncs and the machine stopped",
            (false, _) => "the storage lost what it had acknowledged",
        };
        let to = slot.next_sequence;
        self.recovery.lost = Some(from..to);
        self.position.next_sequence = to;
        self.seal_active = true;
        self.marks.push(Mark {
            kind: MarkKind::LOSS,
            position: to,
            source: String::new(),
            received: options.now,
            body: format!("{{\"from\":{from},\"to\":{to},\"reason\":\"{reason}\"}}"),
        });
        Ok(true)
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
        let mut marks = read_segment_marks(&active.file, &active.footer)?;
        marks.append(&mut self.marks);
        self.marks = marks;
        self.seal_active = false;
        Ok(())
    }
}

/// Copies what stands behind the last sound block to a file of its own; `None` when that is nothing but zeros.
fn keep_aside(storage: &dyn Storage, active: &ActiveSegment) -> Result<Option<String>> {
    let file = &active.file;
    let length = usize::try_from(active.allocated - active.end).unwrap_or(usize::MAX);
    let bytes = read_exact(&file.name, file.file.as_ref(), active.end, length)?;
    let Some(last) = bytes.iter().rposition(|&byte| byte != 0) else { return Ok(None) };
    let name = format!("{}.{}.lost", file.name, active.end);
    let aside = storage.create(&name).map_err(storage_error("create", &name))?;
    aside.write_at(bytes.get(..=last).unwrap_or_default(), 0).map_err(storage_error("write", &name))?;
    aside.sync().map_err(storage_error("sync", &name))?;
    storage.sync_directory().map_err(storage_error("sync", "the directory"))?;
    Ok(Some(name))
}
