//! Writing a log: append, commit, seal.
//!
//! Events flow in through [`Writer::append`], gather in a block in memory, and become durable and then visible with
//! [`Writer::commit`]. A segment that is full is sealed on the way. The writer starts no thread and reads no clock: its
//! caller decides when to commit, and the events' own receive times decide when a segment is old.
//!
//! - [`opening`][]: making a writer, after [`recovery`][] has found out what the disk holds.
//! - [`options`][], [`check`][]: what can be asked for, and what a log can hold.
//! - [`active`][]: the segment that is being written.

mod active;
mod check;
mod opening;
mod options;
mod recovery;

use std::{io, sync::Arc};

pub use options::{Durability, WriteOptions};
pub use recovery::Recovery;

use active::{ActiveSegment, write_new_segment};
use check::check_mark;

use crate::{
    ApiVersion, Error, Event, Head, Log, Maintenance, Mark, MarkKind, Result, Sequence, Timestamp,
    block::{BlockBuilder, BlockType, Built, Encoder, LARGE_BYTES},
    chain::next_chain_value,
    error::{Operation, storage_error},
    form::Form,
    head::{self, HeadFile, HeadSlot},
    lock::{check_lock, not_in_place},
    log::{Active, Shared},
    position::Position,
    segment::{BlockEntry, Footer, SegmentFile, SegmentHeader, file_name},
    storage::{FileIdentity, Lock},
    wire::FrameForm,
};

/// A log opened for writing.
pub struct Opened {
    /// Appends to it.
    pub writer: Writer,
    /// Reads it; sees what the writer has made visible.
    pub log: Log,
    /// What opening found and did.
    pub recovery: Recovery,
}

/// The one writer of a log.
pub struct Writer {
    shared: Arc<Shared>,
    options: WriteOptions,
    form: Form,
    encoder: Encoder,
    active: Option<ActiveSegment>,
    head_file: HeadFile,
    log_id: [u8; 16],
    epoch: u64,
    /// The block that is being filled.
    open_block: Option<BlockBuilder>,
    /// The block of marks that is being filled for the place before all that is not written yet.
    open_marks: Option<BlockBuilder>,
    /// Encoded blocks of them.
    marks_ahead: Pending,
    /// Encoded blocks that are not written yet.
    pending: Pending,
    /// Blocks that are written and not visible yet.
    unpublished: Vec<Written>,
    /// Whether the active segment holds what was not synced yet.
    is_dirty: bool,
    /// After the last appended event.
    position: Position,
    /// After the last written one.
    written: Position,
    poisoned: bool,
    lock: Arc<dyn Lock>,
}

/// Encoded blocks, one after the other.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    blocks: Vec<Built>,
}

impl Pending {
    fn payload_bytes(&self) -> usize {
        self.blocks.iter().map(|built| built.header.payload_raw as usize).sum()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.blocks.clear();
    }

    /// Puts all of `others` before these, and leaves them empty.
    fn put_first(&mut self, others: &mut Pending) {
        self.bytes.splice(0..0, others.bytes.drain(..));
        self.blocks.splice(0..0, others.blocks.drain(..));
    }
}

struct Written {
    entry: BlockEntry,
    block: Option<crate::Block>,
}

/// How far the last event of a block goes beyond the block's size, nearly always.
const BLOCK_SLACK_BYTES: usize = 64 << 10;
/// A buffer that grew larger for one event is not kept.
const PENDING_KEPT_BYTES_MAX: usize = 4 << 20;

impl Writer {
    /// What the next event will get.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.position.next_sequence
    }

    /// Wire bytes appended and not committed, with those of marks.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        let open = [&self.open_block, &self.open_marks].into_iter().flatten();
        open.map(BlockBuilder::payload_bytes).sum::<usize>()
            + self.pending.payload_bytes()
            + self.marks_ahead.payload_bytes()
    }

    /// Whether a block's worth of events waits for a commit.
    #[must_use]
    pub fn is_block_full(&self) -> bool {
        !self.pending.blocks.is_empty()
    }

    /// Appends an event in memory and gives it its sequence. Nothing is durable or visible before a commit.
    ///
    /// # Errors
    /// [`Error::Refused`] for an event that the log cannot hold (nothing else is affected), [`Error::Exhausted`],
    /// [`Error::Poisoned`].
    pub fn append(&mut self, event: &Event<'_>) -> Result<Sequence> {
        self.check_alive()?;
        event.check()?;
        let sequence = self.position.next_sequence;
        if sequence == Sequence::MAX {
            return Err(Error::Exhausted { last: sequence - 1 });
        }
        let large = event.payload.len() > LARGE_BYTES as usize;
        if large {
            self.close_block()?;
        }
        let name = self.form.name_of(event.kind, event.name);
        let chain = next_chain_value(
            &self.position.chain,
            sequence,
            event.kind,
            event.api_version,
            event.network,
            name,
            event.payload.as_bytes(),
        );
        let position = self.position;
        let rises = position.announced_version > position.wire_version;
        let rise = rises.then_some(position.announced_version);
        let payload_bytes = if large { 0 } else { self.options.block_bytes_max + BLOCK_SLACK_BYTES };
        let new = || BlockBuilder::new(self.form.clone(), position, payload_bytes);
        self.open_block.get_or_insert_with(new).push_event(event, name, sequence, rise, chain);
        let is_full =
            large || self.open_block.as_ref().is_some_and(|block| block.is_full(self.options.block_bytes_max));
        self.position =
            Position { next_sequence: sequence + 1, chain, wire_version: position.announced_version, ..position };
        if is_full {
            self.close_block()?;
        }
        Ok(sequence)
    }

    /// Announces an API version: if it is higher than any before, the log says so durably with the next commit, and in the
    /// wire form right before the next event.
    ///
    /// # Errors
    /// As [`Writer::mark`].
    pub fn announce_version(&mut self, version: ApiVersion, source: &str, received: Timestamp) -> Result<()> {
        if self.form.frames == FrameForm::Named {
            return Err(Error::Refused { reason: "a log with named frames has no API versions".to_owned() });
        }
        if version <= self.position.announced_version {
            return Ok(());
        }
        let mark = Mark {
            kind: MarkKind::VERSION,
            position: self.position.next_sequence,
            source: source.to_owned(),
            received,
            body: format!("{{\"version\":\"{version}\"}}"),
        };
        check_mark(&mark)?;
        self.close_block()?;
        self.position.announced_version = version;
        self.mark(&mark)
    }

    /// Adds a mark after what was appended so far; durable with the next commit. Its position is filled in.
    ///
    /// # Errors
    /// [`Error::Refused`] when its body is not one line or its source's name too long, [`Error::Poisoned`], or when compression fails.
    pub fn mark(&mut self, mark: &Mark) -> Result<()> {
        self.check_alive()?;
        check_mark(mark)?;
        self.close_block()?;
        let mut builder = BlockBuilder::new(self.form.clone(), self.position, 0);
        builder.push_mark(mark, self.position.announced_version);
        self.encode_block(builder, BlockType::MARKS)
    }

    /// Adds a mark about events that were appended since the last commit: it is stored before all of them, together with
    /// others in one block, so that no crash keeps such an event without its mark. Its position is filled in.
    ///
    /// A crash may keep the mark without the event, whose sequence is given out again. So a mark must name its event by more
    /// than the sequence.
    ///
    /// # Errors
    /// As [`Writer::mark`].
    pub fn mark_ahead(&mut self, mark: &Mark) -> Result<()> {
        self.check_alive()?;
        check_mark(mark)?;
        let is_too_large = mark.body.len() > LARGE_BYTES as usize;
        if is_too_large || self.open_marks.as_ref().is_some_and(|marks| marks.is_full(self.options.block_bytes_max)) {
            self.close_marks()?;
        }
        let new = || BlockBuilder::new(self.form.clone(), self.written, 0);
        self.open_marks.get_or_insert_with(new).push_mark(mark, self.written.announced_version);
        if is_too_large { self.close_marks() } else { Ok(()) }
    }

    /// Makes what was appended durable and visible, as far as the durability level says. Returns the visible head.
    ///
    /// # Errors
    /// When the device has no room: nothing is lost, and the same commit can be tried again. After any other failure the
    /// writer is poisoned and the log must be opened again.
    pub fn commit(&mut self) -> Result<Head> {
        self.check_alive()?;
        self.close_block()?;
        self.write_pending()?;
        match self.options.durability {
            Durability::Commit => self.sync(),
            Durability::Interval => Ok(*self.shared.lock_head()),
            Durability::Os => self.publish(),
        }
    }

    /// Makes everything that was committed durable and visible. Needed only with [`Durability::Interval`] and at the end.
    ///
    /// # Errors
    /// A failed sync poisons the writer: trying again would report success for data that is gone.
    pub fn sync(&mut self) -> Result<Head> {
        self.check_alive()?;
        self.sync_active()?;
        self.publish()
    }

    /// Forgets the events that were appended and not written yet, because the device stays full and the log is about to be
    /// closed. No reader has seen their sequences, which are given out again.
    pub fn abandon_uncommitted(&mut self) {
        self.open_block = None;
        self.open_marks = None;
        self.marks_ahead.clear();
        self.pending.clear();
        self.position = self.written;
    }

    /// Commits, syncs, gives back the room that was reserved for more, and leaves a head that says that the log was closed
    /// in order.
    ///
    /// # Errors
    /// As [`Writer::commit`] and [`Writer::sync`].
    pub fn close(mut self) -> Result<()> {
        self.commit()?;
        self.sync()?;
        // Without one, the device was too full to begin the next segment; the next writer does.
        if let Some(active) = &self.active {
            let file = &active.file;
            file.file.set_len(active.end).map_err(storage_error(Operation::Cut, &file.name))?;
            file.file.sync().map_err(storage_error(Operation::Sync, &file.name))?;
        }
        self.head_file.write_clean()?;
        self.head_file.sync()
    }

    /// Whether an earlier failure has closed the log for writing: it must be opened again.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Seals the active segment and begins the next: for tests, tools and idle logs; a commit seals by itself when due.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn seal_now(&mut self, now: Timestamp) -> Result<()> {
        self.commit()?;
        self.sync()?;
        if self.active.as_ref().is_some_and(ActiveSegment::has_events) {
            self.roll(now)?;
            self.publish()?;
        }
        Ok(())
    }

    /// Checks that what is written is what others find in the directory: the lock, the head and the active segment. For a
    /// caller that waits for events; a commit looks for the lock itself, and a new segment for all of them.
    ///
    /// # Errors
    /// [`Error::NotInPlace`], which poisons the writer. Or what the storage answers, which proves nothing: the writer can be
    /// used, and the check can be tried again.
    pub fn check_in_place(&mut self) -> Result<()> {
        self.check_alive()?;
        let result = self.find_in_place();
        self.poisoned |= matches!(result, Err(Error::NotInPlace { .. }));
        result
    }

    fn find_in_place(&self) -> Result<()> {
        check_lock(self.lock.as_ref(), self.shared.storage.as_ref())?;
        self.find_file(head::FILE, self.head_file.identity())?;
        let Some(ActiveSegment { file, .. }) = &self.active else { return Ok(()) };
        self.find_file(&file.name, file.file.identity().map_err(storage_error(Operation::Look, &file.name))?)
    }

    fn find_file(&self, name: &str, identity: FileIdentity) -> Result<()> {
        let storage = self.shared.storage.as_ref();
        let found = match storage.identity(name) {
            Ok(identity) => Some(identity),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(error) => return Err(storage_error(Operation::LookFor, name)(error)),
        };
        if found.is_some_and(|found| found.is_same_file(identity)) { Ok(()) } else { Err(not_in_place(storage, name)) }
    }

    /// What keeps this log's sealed segments in shape, from another thread while this one writes.
    #[must_use]
    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(Arc::clone(&self.shared), Arc::clone(&self.lock))
    }

    fn check_alive(&self) -> Result<()> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Takes a step, and poisons the writer if it fails: it is unknown then what the disk holds. A step that panics counts
    /// as failed.
    ///
    /// A device without room leaves no doubt: the bytes to write are still in memory, come after everything that was
    /// acknowledged, and are written to the same place again.
    fn step<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.poisoned = true;
        let result = step(self);
        self.poisoned = result.as_ref().is_err_and(|error| !error.is_out_of_room());
        result
    }

    fn close_block(&mut self) -> Result<()> {
        match self.open_block.take() {
            Some(builder) => self.encode_block(builder, BlockType::EVENTS),
            None => Ok(()),
        }
    }

    fn encode_block(&mut self, builder: BlockBuilder, block_type: BlockType) -> Result<()> {
        self.step(|writer| encode_into(&mut writer.pending, builder, block_type, &mut writer.encoder))
    }

    fn close_marks(&mut self) -> Result<()> {
        let Some(builder) = self.open_marks.take() else { return Ok(()) };
        self.step(|writer| encode_into(&mut writer.marks_ahead, builder, BlockType::MARKS, &mut writer.encoder))
    }

    fn write_pending(&mut self) -> Result<()> {
        self.close_marks()?;
        self.pending.put_first(&mut self.marks_ahead);
        let Some(newest) = self.pending.blocks.iter().map(|built| built.header.received_max).max() else {
            return Ok(());
        };
        let is_due = |active: &ActiveSegment| active.is_due(&self.options, self.pending.bytes.len(), newest);
        if self.active.as_ref().is_none_or(is_due) {
            self.sync()?;
            self.roll(newest)?;
        }
        self.step(|writer| {
            writer.make_room()?;
            writer.write_blocks()
        })
    }

    fn sync_active(&mut self) -> Result<()> {
        if let Some(active) = self.active.as_ref().filter(|_| self.is_dirty) {
            let file = Arc::clone(&active.file);
            self.step(|_| file.file.sync().map_err(storage_error(Operation::Sync, &file.name)))?;
            self.is_dirty = false;
        }
        Ok(())
    }

    /// Seals the active segment, if there is one, and begins the next.
    fn roll(&mut self, created: Timestamp) -> Result<()> {
        self.step(|writer| {
            writer.find_in_place()?;
            writer.seal()?;
            writer.begin_segment(created)
        })
    }

    /// Preallocates, so that a full disk shows here and not in the write. Room for the footer is reserved too: a segment on
    /// a full device can still be sealed.
    fn make_room(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Err(Error::Poisoned) };
        let end =
            active.end + self.pending.bytes.len() as u64 + active.footer.encoded_bytes_max(self.pending.blocks.len());
        let Some(needed) = end.checked_sub(active.allocated).filter(|&needed| needed > 0) else { return Ok(()) };
        let name = &active.file.name;
        let full = |reason: String| {
            storage_error(Operation::Reserve, name)(io::Error::new(io::ErrorKind::StorageFull, reason))
        };
        let room = match self.options.free_bytes_min {
            0 => u64::MAX,
            min => {
                let free = self.shared.storage.free_space().map_err(storage_error(Operation::LookForRoom, name))?;
                free.checked_sub(min)
                    .filter(|&room| room >= needed)
                    .ok_or_else(|| full(format!("{free} bytes are free on the device, and {min} are to stay free")))?
            }
        };
        let step = self.options.allocate_bytes.max(1);
        let whole_steps = needed.div_ceil(step).saturating_mul(step);
        let file = active.file.file.as_ref();
        let mut reserved = if whole_steps <= room { whole_steps } else { needed };
        match file.allocate(active.allocated, reserved) {
            // Near its end a device is used up in small pieces.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && reserved > needed => {
                reserved = needed;
                file.allocate(active.allocated, needed)
            }
            result => result,
        }
        .map_err(storage_error(Operation::Reserve, name))?;
        active.allocated += reserved;
        Ok(())
    }

    fn write_blocks(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Err(Error::Poisoned) };
        let Pending { bytes, blocks } = &mut self.pending;
        if let Some(first) = blocks.first_mut() {
            first.header.synced_before = !self.is_dirty;
            first.write_header(bytes, 0);
        }
        let file = &active.file;
        file.file.write_at(bytes, active.end).map_err(storage_error(Operation::Write, &file.name))?;
        self.is_dirty = true;
        self.take_up_pending();
        Ok(())
    }

    /// The pending blocks are at the end of the active segment now.
    fn take_up_pending(&mut self) {
        let Some(active) = &mut self.active else { return };
        let Pending { bytes, blocks } = &mut self.pending;
        bytes.clear();
        if bytes.capacity() > PENDING_KEPT_BYTES_MAX {
            *bytes = Vec::new();
        }
        for built in blocks.drain(..) {
            active.add(&built);
            let entry = BlockEntry::new(&built.header, active.end);
            active.end += built.header.stored_bytes();
            self.unpublished.push(Written { entry, block: built.block });
        }
        self.written = self.position;
    }

    fn head(&self) -> Head {
        Head {
            next_sequence: self.written.next_sequence,
            api_version: self.written.announced_version,
            chain: self.written.chain,
            epoch: self.epoch,
        }
    }

    fn head_slot(&self, head: Head) -> HeadSlot {
        HeadSlot {
            counter: 0,
            next_sequence: head.next_sequence,
            segment: self.active.as_ref().map_or(0, |active| active.file.header.first_sequence),
            offset: self.active.as_ref().map_or(0, |active| active.end),
            chain: head.chain,
            epoch: head.epoch,
            file_identity: FileIdentity { inode: 0, born: 0 },
            clean: false,
            unsynced: self.options.durability == Durability::Os,
        }
    }

    /// Head file, then readers.
    fn publish(&mut self) -> Result<Head> {
        // Without an active segment, nothing was written since the last one was published.
        let head = self.head();
        if self.active.is_none() {
            return Ok(head);
        }
        self.step(|writer| {
            // What was synced into a directory that others no longer find is not durable.
            check_lock(writer.lock.as_ref(), writer.shared.storage.as_ref())?;
            writer.head_file.write(writer.head_slot(head))
        })?;
        let entries: Vec<_> = self.unpublished.iter().map(|written| written.entry).collect();
        for written in self.unpublished.drain(..) {
            if let Some(block) = written.block.filter(|_| !written.entry.is_large()) {
                self.shared.cache.insert(Arc::new(block));
            }
        }
        self.shared.publish(&entries, head);
        Ok(head)
    }

    /// Appends the footer; from then on the segment never changes.
    fn seal(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if active.uncounted {
            // A damaged block counts for nothing; verify reports it.
            active.file.count_events(&mut active.footer, drop)?;
            active.uncounted = false;
        }
        let file = &active.file;
        let bytes = active
            .footer
            .encode(active.end, &mut self.encoder)
            .map_err(storage_error(Operation::Compress, &file.name))?;
        // Into the reserved room first, and only then is what is left of it given back.
        file.file.write_at(&bytes, active.end).map_err(storage_error(Operation::Write, &file.name))?;
        file.file.set_len(active.end + bytes.len() as u64).map_err(storage_error(Operation::Cut, &file.name))?;
        file.file.sync().map_err(storage_error(Operation::Sync, &file.name))?;
        self.active = None;
        self.is_dirty = false;
        self.shared.active_was_sealed();
        Ok(())
    }

    /// Makes the next segment. Marks that are pending go into it before it gets its name, so that nothing that was
    /// durable elsewhere is missing for a moment.
    fn begin_segment(&mut self, created: Timestamp) -> Result<()> {
        let header = SegmentHeader {
            generation: 0,
            rewritten_level: 0,
            epoch: self.epoch,
            log_id: self.log_id,
            dialect: self.options.dialect.clone(),
            first_sequence: self.written.next_sequence,
            created,
            version_before: self.written.wire_version,
            version_announced: self.written.announced_version,
            chain_before: self.written.chain,
            form: self.form.clone(),
        };
        let mut bytes = header.encode();
        let blocks_start = bytes.len() as u64;
        let only_marks = self.pending.blocks.iter().all(|built| built.header.block_type == BlockType::MARKS);
        // First, and durably: the segment has no footer for a long time, and until then a damaged header can be read from
        // nowhere else.
        self.head_file.copy_segment_header(&bytes)?;
        self.head_file.sync()?;
        if only_marks {
            bytes.extend_from_slice(&self.pending.bytes);
        }
        let name = file_name(header.first_sequence);
        let file = write_new_segment(self.shared.storage.as_ref(), &name, &bytes)?;
        let file = Arc::new(SegmentFile { name, file, header, blocks_start, header_damage: None });
        let footer = Footer::empty(&file.header);
        let active = ActiveSegment { file, footer, end: blocks_start, allocated: bytes.len() as u64, uncounted: false };
        self.shared.active_has_begun(Active::new(Arc::clone(&active.file), &active.footer));
        self.active = Some(active);
        if only_marks {
            self.take_up_pending();
        }
        Ok(())
    }
}

/// Encodes a block after those in `pending`.
fn encode_into(
    pending: &mut Pending,
    builder: BlockBuilder,
    block_type: BlockType,
    encoder: &mut Encoder,
) -> Result<()> {
    let built = builder.finish(block_type, encoder, &mut pending.bytes);
    pending.blocks.push(built.map_err(storage_error(Operation::Compress, "a block"))?);
    Ok(())
}
