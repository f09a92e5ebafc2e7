//! Writing a log: append, commit, seal.
//!
//! Events flow in through [`Writer::append`], gather in a block in memory, and become durable and then visible with
//! [`Writer::commit`]. A segment that is full is sealed on the way. The writer starts no thread and reads no clock: who
//! calls it decides when to commit, and the events' own receive times decide when a segment is old.

use std::{io, sync::Arc};

use crate::{
    ApiVersion, Error, Event, Head, Log, Maintenance, Mark, MarkKind, ReadOptions, Result, Sequence, Timestamp,
    block::{BlockBuilder, BlockType, Built, Encoder, PAYLOAD_BYTES_MAX},
    chain::next_chain_value,
    form::{Form, FrameForm},
    head::{self, HeadFile, HeadSlot},
    log::{Active, LARGE_BYTES, Reading, Shared},
    maintenance,
    oldest::OldestFile,
    recovery::{self, Found, Known, Recovery},
    scan,
    segment::{
        BlockEntry, DIALECT_BYTES, Footer, Position, SEGMENT_BLOCKS_MAX, SegmentFile, SegmentHeader, file_name,
        storage_error,
    },
    storage::{LOCK_FILE, Lock, Storage},
    wire,
};

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is synced, then visible.
    #[default]
    Commit,
    /// Commits are written; [`Writer::sync`] makes them durable and visible, at the caller's interval.
    Interval,
    /// Commits are visible once written. After a power cut the newest events may be gone and their sequences come again,
    /// under another epoch.
    Os,
}

/// How a log is written.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The dialect of the log's source, at most 16 bytes; an existing log must be of the same.
    pub dialect: String,
    /// The dialect's kinds: number (1 to 62) and name.
    pub kinds: Vec<(u8, String)>,
    /// How its events look on the wire; an existing log must have the same.
    pub frame_form: FrameForm,
    /// The id of a log that is made anew: 16 random bytes.
    pub new_log_id: [u8; 16],
    /// The first sequence of a log that is made anew.
    pub first_sequence: Sequence,
    /// Whether a log is begun where there is none. Without, that is [`Error::LogMissing`].
    pub create_if_missing: bool,
    /// The time of opening, for the header of a segment that is made then.
    pub now: Timestamp,
    /// What a commit waits for.
    pub durability: Durability,
    /// zstd level of the blocks.
    pub compression_level: i32,
    /// Wire bytes after which a block is closed.
    pub block_bytes_max: usize,
    /// Bytes on disk after which a segment is sealed.
    pub segment_bytes_max: u64,
    /// Blocks after which a segment is sealed: opening looks at each block of the unsealed one.
    pub segment_blocks_max: usize,
    /// Microseconds between the first event of a segment and the event that has it sealed.
    pub segment_age_max: u64,
    /// The active segment grows in steps of this many bytes.
    pub allocate_bytes: u64,
    /// It does not grow where fewer bytes than these would then be free on the device: commits fail as on a full one, and
    /// what else lives there can go on.
    pub free_bytes_min: u64,
    /// How it is read.
    pub read: ReadOptions,
}

impl WriteOptions {
    /// The defaults, for a log of this dialect.
    #[must_use]
    pub fn new(dialect: &str, new_log_id: [u8; 16], now: Timestamp) -> Self {
        WriteOptions {
            dialect: dialect.to_owned(),
            kinds: Vec::new(),
            frame_form: FrameForm::default(),
            new_log_id,
            first_sequence: 0,
            create_if_missing: true,
            now,
            durability: Durability::Commit,
            compression_level: 1,
            block_bytes_max: 512 << 10,
            segment_bytes_max: 128 << 20,
            segment_blocks_max: 1 << 16,
            segment_age_max: 24 * 3600 * 1_000_000,
            allocate_bytes: 16 << 20,
            free_bytes_min: 0,
            read: ReadOptions::default(),
        }
    }
}

impl WriteOptions {
    /// The form of the segments that are begun.
    pub(crate) fn form(&self) -> Form {
        Form::new(self.frame_form, self.kinds.clone())
    }
}

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
    /// Encoded blocks that are not written yet.
    pending: Vec<u8>,
    pending_blocks: Vec<Built>,
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

/// The segment that is being written.
pub(crate) struct ActiveSegment {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) footer: Footer,
    /// Where the last block ends.
    pub(crate) end: u64,
    /// How far the file is preallocated.
    pub(crate) allocated: u64,
    /// Whether its footer lacks counts by kind and source, because another process wrote its first blocks.
    pub(crate) uncounted: bool,
}

struct Written {
    entry: BlockEntry,
    block: Option<crate::Block>,
}

const EVENT_BYTES_MAX: usize = 256 << 20;
/// The largest block that may be asked for: a reader holds a whole one in memory.
const BLOCK_BYTES_MAX: usize = 8 << 20;
/// How far the last event of a block goes beyond the block's size, nearly always.
const BLOCK_SLACK_BYTES: usize = 64 << 10;
/// A buffer that grew larger for one event is not kept.
const PENDING_KEPT_BYTES_MAX: usize = 4 << 20;
const NAME_BYTES_MAX: usize = 255;

impl Writer {
    /// Opens a log for writing, making it if the directory holds none, and recovers what a crash left behind.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process writes it, [`Error::LogMissing`] when there is none and none may be made,
    /// [`Error::OtherDialect`], [`Error::NewerFormat`], or what the storage answers.
    pub fn open(storage: Arc<dyn Storage>, options: WriteOptions) -> Result<Opened> {
        check_options(&options)?;
        if !options.create_if_missing {
            // Before the lock, which makes a file.
            recovery::check_log_is_there(storage.as_ref(), None)?;
        }
        let lock = lock(storage.as_ref())?;
        let found = recovery::recover(storage.as_ref(), &options, None)?;
        let log = Log::assemble(Arc::clone(&storage), options.read, found.newest_header(), Reading::ThisProcess);
        Writer::begin(log, lock, options, found)
    }

    /// Opens again, for writing, a log whose writer has failed or was dropped: recovers it from disk as [`Writer::open`]
    /// does, and has all readers of `log` see the result. They can read at any time meanwhile.
    ///
    /// A log is never begun, and no sequence that a reader has seen is given out again: where the disk lacks one, the log
    /// carries a mark. After an error this can be tried again.
    ///
    /// # Errors
    /// [`Error::LogMissing`] and [`Error::OtherLog`] when the log is not where it was; nothing is touched then. Else as
    /// [`Writer::open`].
    pub fn reopen(log: &Log, options: WriteOptions) -> Result<Opened> {
        check_options(&options)?;
        let storage = log.shared.storage.as_ref();
        let known = Known::of(log);
        // Before the lock, which makes a file.
        recovery::check_log_is_there(storage, Some(&known))?;
        let lock = lock(storage)?;
        let found = recovery::recover(storage, &options, Some(&known))?;
        Writer::begin(log.clone(), lock, options, found)
    }

    /// Continues where recovery ended, and has the readers of `log` see what it found.
    fn begin(log: Log, lock: Arc<dyn Lock>, options: WriteOptions, found: Found) -> Result<Opened> {
        let encoder = Encoder::new(options.compression_level).map_err(storage_error("set up", "zstd"))?;
        let header = found.newest_header();
        let log_id = header.log_id;
        let active = found.active.as_ref().map(|active| Active::new(Arc::clone(&active.file), &active.footer));
        let oldest = found.sealed.first().copied();
        let oldest =
            oldest.unwrap_or_else(|| active.as_ref().map_or(found.position.next_sequence, Active::first_sequence));
        log.shared.replace_segments(header, found.sealed, active);
        let storage = Arc::clone(&log.shared.storage);
        let mut writer = Writer {
            shared: Arc::clone(&log.shared),
            form: options.form(),
            options,
            encoder,
            active: found.active,
            head_file: HeadFile::open(storage.as_ref(), found.head_counter)?,
            log_id,
            epoch: found.epoch,
            open_block: None,
            pending: Vec::new(),
            pending_blocks: Vec::new(),
            unpublished: Vec::new(),
            // What a killed process left may be in the page cache only.
            is_dirty: true,
            position: found.position,
            written: found.position,
            poisoned: false,
            lock,
        };
        if found.recovery.created && found.head_counter == 0 {
            // A file of that name that a log before this one left says nothing about it.
            OldestFile::make(storage.as_ref(), oldest)?;
        }
        log.shared.retained.keep(storage.as_ref(), oldest)?;
        // A head, or a footer, must not say more than the disk holds.
        writer.sync_active()?;
        if found.seal_active {
            writer.seal()?;
        }
        for mark in found.marks {
            writer.mark(&mark)?;
        }
        if writer.active.is_none() {
            writer.begin_segment(writer.options.now)?;
        }
        writer.write_pending()?;
        writer.sync()?;
        // Over the other slot too: none may be left that says that the log was closed in order.
        writer.publish()?;
        writer.head_file.sync()?;
        // Only now: readers may have met what a mark explains since then, and what was lost before may be back.
        log.shared.losses.clear();
        Ok(Opened { writer, log, recovery: found.recovery })
    }

    /// What the next event will get.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.position.next_sequence
    }

    /// Wire bytes appended and not committed.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        self.pending_blocks.iter().map(|built| built.header.payload_raw as usize).sum::<usize>()
            + self.open_block.as_ref().map_or(0, BlockBuilder::payload_bytes)
    }

    /// Whether a block's worth of events waits for a commit.
    #[must_use]
    pub fn is_block_full(&self) -> bool {
        !self.pending_blocks.is_empty()
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
        let name = if event.name.is_empty() { self.form.kind_name(event.kind) } else { event.name };
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

    /// Adds a mark behind what was appended so far; durable with the next commit. Its position is filled in.
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

    /// Makes what was appended durable and visible, as far as the durability level says. Returns the visible head.
    ///
    /// # Errors
    /// When the device has no room: nothing is lost, and the same commit can be tried again. After any other failure the
    /// writer is poisoned and the log must be opened anew.
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

    /// Forgets what was appended and is not written yet, because the device stays full and the log is to be closed. The
    /// sequences it got were visible to nobody and come again.
    pub fn abandon_uncommitted(&mut self) {
        self.open_block = None;
        self.pending.clear();
        self.pending_blocks.clear();
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
            file.file.set_len(active.end).map_err(storage_error("cut", &file.name))?;
            file.file.sync().map_err(storage_error("sync", &file.name))?;
        }
        self.head_file.write_clean()?;
        self.head_file.sync()
    }

    /// Whether an earlier failure has closed the log for writing: it must be opened anew.
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
        self.find_file(&file.name, file.file.identity().map_err(storage_error("look at", &file.name))?)
    }

    fn find_file(&self, name: &str, identity: u64) -> Result<()> {
        let storage = self.shared.storage.as_ref();
        let found = match storage.identity(name) {
            Ok(identity) => Some(identity),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(error) => return Err(storage_error("look for", name)(error)),
        };
        if found == Some(identity) { Ok(()) } else { Err(not_in_place(storage, name)) }
    }

    /// Removes whole sealed segments that hold only sequences below `sequence`; returns how many.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn drop_before(&mut self, sequence: Sequence) -> Result<usize> {
        maintenance::drop_before(&self.shared, sequence)
    }

    /// What keeps this log's sealed segments in shape, from another thread while this one writes.
    #[must_use]
    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(Arc::clone(&self.shared), Arc::clone(&self.lock))
    }

    fn check_alive(&self) -> Result<()> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Poisons the writer when a step failed after which nobody knows what the disk holds.
    ///
    /// A device without room leaves no doubt: what was to be written is still in memory, stands behind everything that
    /// was acknowledged, and is written to the same place again.
    fn guard<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.poisoned |= !is_out_of_room(error);
        }
        result
    }

    fn close_block(&mut self) -> Result<()> {
        match self.open_block.take() {
            Some(builder) => self.encode_block(builder, BlockType::EVENTS),
            None => Ok(()),
        }
    }

    fn encode_block(&mut self, builder: BlockBuilder, block_type: BlockType) -> Result<()> {
        let built = builder
            .finish(block_type, &mut self.encoder, &mut self.pending)
            .map_err(storage_error("compress", "a block"));
        let built = self.guard(built)?;
        self.pending_blocks.push(built);
        Ok(())
    }

    fn write_pending(&mut self) -> Result<()> {
        let Some(newest) = self.pending_blocks.iter().map(|built| built.header.received_max).max() else {
            return Ok(());
        };
        let is_due = |active: &ActiveSegment| active.is_due(&self.options, self.pending.len(), newest);
        if self.active.as_ref().is_none_or(is_due) {
            self.sync()?;
            self.roll(newest)?;
        }
        let result = self.make_room().and_then(|()| self.write_blocks());
        self.guard(result)
    }

    fn sync_active(&mut self) -> Result<()> {
        if let Some(active) = self.active.as_ref().filter(|_| self.is_dirty) {
            let result = active.file.file.sync().map_err(storage_error(SYNC, &active.file.name));
            self.guard(result)?;
            self.is_dirty = false;
        }
        Ok(())
    }

    /// Seals the active segment, if there is one, and begins the next.
    fn roll(&mut self, created: Timestamp) -> Result<()> {
        let result = self.find_in_place().and_then(|()| self.seal()).and_then(|()| self.begin_segment(created));
        self.guard(result)
    }

    /// Preallocates, so that a full disk shows here and not in the write. Room for the footer is reserved too: a segment on
    /// a full device can still be sealed.
    fn make_room(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Err(Error::Poisoned) };
        let end = active.end + self.pending.len() as u64 + active.footer.encoded_bytes_max(self.pending_blocks.len());
        let Some(needed) = end.checked_sub(active.allocated).filter(|&needed| needed > 0) else { return Ok(()) };
        let name = &active.file.name;
        let full = |reason: String| storage_error(RESERVE, name)(io::Error::new(io::ErrorKind::StorageFull, reason));
        let room = match self.options.free_bytes_min {
            0 => u64::MAX,
            min => {
                let free = self.shared.storage.free_space().map_err(storage_error("look for room for", name))?;
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
        .map_err(storage_error(RESERVE, name))?;
        active.allocated += reserved;
        Ok(())
    }

    fn write_blocks(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Err(Error::Poisoned) };
        if let Some(first) = self.pending_blocks.first_mut() {
            first.header.synced_before = !self.is_dirty;
            first.write_header(&mut self.pending, 0);
        }
        let file = &active.file;
        file.file.write_at(&self.pending, active.end).map_err(storage_error("write", &file.name))?;
        self.is_dirty = true;
        self.take_up_pending();
        Ok(())
    }

    /// The pending blocks stand at the end of the active segment now.
    fn take_up_pending(&mut self) {
        let Some(active) = &mut self.active else { return };
        self.pending.clear();
        if self.pending.capacity() > PENDING_KEPT_BYTES_MAX {
            self.pending = Vec::new();
        }
        for built in self.pending_blocks.drain(..) {
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
            file_identity: 0,
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
        // What was synced into a directory that others no longer find is not durable.
        let result = check_lock(self.lock.as_ref(), self.shared.storage.as_ref())
            .and_then(|()| self.head_file.write(self.head_slot(head)));
        self.guard(result)?;
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
            scan::count_events(&active.file, &mut active.footer)?;
            active.uncounted = false;
        }
        let file = &active.file;
        let bytes =
            active.footer.encode(active.end, &mut self.encoder).map_err(storage_error("compress", &file.name))?;
        // Into the reserved room first, and only then is what is left of it given back.
        file.file.write_at(&bytes, active.end).map_err(storage_error("write", &file.name))?;
        file.file.set_len(active.end + bytes.len() as u64).map_err(storage_error("cut", &file.name))?;
        file.file.sync().map_err(storage_error(SYNC, &file.name))?;
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
        let only_marks = self.pending_blocks.iter().all(|built| built.header.block_type == BlockType::MARKS);
        if only_marks {
            bytes.extend_from_slice(&self.pending);
        }
        let name = file_name(header.first_sequence);
        let file = write_new_segment(self.shared.storage.as_ref(), &name, &bytes)?;
        let file = Arc::new(SegmentFile { name, file, header, blocks_start });
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

/// Takes the lock of the one writer.
pub(crate) fn lock(storage: &dyn Storage) -> Result<Arc<dyn Lock>> {
    let lock = storage.lock().map_err(storage_error("lock", &storage.name()))?;
    lock.map(Arc::from).ok_or_else(|| Error::Locked { directory: storage.name() })
}

/// Refuses to change a directory whose lock is not held any more.
pub(crate) fn check_lock(lock: &dyn Lock, storage: &dyn Storage) -> Result<()> {
    match lock.is_held().map_err(storage_error("look for", LOCK_FILE))? {
        true => Ok(()),
        false => Err(not_in_place(storage, LOCK_FILE)),
    }
}

fn not_in_place(storage: &dyn Storage, file: &str) -> Error {
    Error::NotInPlace { directory: storage.name(), file: file.to_owned() }
}

/// The name of the operation after whose failure the disk is in doubt, whatever the reason.
const SYNC: &str = "sync";
const RESERVE: &str = "reserve room in";

fn is_out_of_room(error: &Error) -> bool {
    matches!(
        error,
        Error::Storage { operation, source, .. }
            if *operation != SYNC
                && matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    )
}

/// Makes a segment file: written aside, synced, renamed.
pub(crate) fn write_new_segment(
    storage: &dyn Storage,
    name: &str,
    bytes: &[u8],
) -> Result<Arc<dyn crate::storage::File>> {
    let aside = format!("{name}.new");
    let file = storage.create(&aside).map_err(storage_error("create", &aside))?;
    file.write_at(bytes, 0).map_err(storage_error("write", &aside))?;
    file.sync().map_err(storage_error("write", &aside))?;
    storage.rename(&aside, name).map_err(storage_error("rename", &aside))?;
    storage.sync_directory().map_err(storage_error("write", "the directory"))?;
    Ok(file)
}

impl ActiveSegment {
    pub(crate) fn has_events(&self) -> bool {
        self.footer.end_sequence > self.file.header.first_sequence
    }

    fn is_due(&self, options: &WriteOptions, more_bytes: usize, newest: Timestamp) -> bool {
        // A segment without an event would have the same name as the next.
        if !self.has_events() {
            return false;
        }
        self.end + more_bytes as u64 > options.segment_bytes_max
            || self.footer.blocks.len() >= options.segment_blocks_max
            // Also of a segment from a time when the clock was ahead.
            || newest.abs_diff(self.file.header.created) > options.segment_age_max
    }

    fn add(&mut self, built: &Built) {
        self.footer.add(&built.header, self.end);
        match &built.block {
            Some(block) => {
                for row in block.rows() {
                    self.footer.count(row.kind(), row.source());
                }
            }
            None => self.uncounted |= built.header.block_type == BlockType::EVENTS,
        }
    }
}

impl Event<'_> {
    /// Whether a log can hold the event, by the rules of [`Writer::append`].
    ///
    /// # Errors
    /// [`Error::Refused`] with the rule that it breaks.
    pub fn check(&self) -> Result<()> {
        check_event(self)
    }
}

fn check_event(event: &Event<'_>) -> Result<()> {
    let refuse = |reason: String| Err(Error::Refused { reason });
    if event.payload.is_empty() {
        return refuse("the payload is empty".to_owned());
    }
    if event.payload.len() > EVENT_BYTES_MAX {
        return refuse(format!("the payload has {} bytes, at most {EVENT_BYTES_MAX} fit", event.payload.len()));
    }
    if memchr::memchr(b'\r', event.payload.as_bytes()).is_some() {
        return refuse("the payload holds a carriage return, which the wire form cannot carry".to_owned());
    }
    if !wire::frame_fits(event.payload, PAYLOAD_BYTES_MAX as usize) {
        return refuse(format!("the payload has so many lines that its wire form exceeds {PAYLOAD_BYTES_MAX} bytes"));
    }
    if [event.name, event.source, event.network].into_iter().any(|name| name.len() > NAME_BYTES_MAX) {
        return refuse(format!("the name of an event, source or network is longer than {NAME_BYTES_MAX} bytes"));
    }
    if event.name.contains(['\n', '\r', '\0']) {
        return refuse(format!("the event's name {:?} does not fit on a line", event.name));
    }
    Ok(())
}

fn check_mark(mark: &Mark) -> Result<()> {
    let refuse = |reason: String| Err(Error::Refused { reason });
    if mark.body.contains(['\n', '\r']) || mark.body.is_empty() || mark.body.len() > EVENT_BYTES_MAX {
        return refuse("a mark's body must be one line of at most 256 MiB".to_owned());
    }
    if mark.source.len() > NAME_BYTES_MAX {
        return refuse(format!("the name of a source is longer than {NAME_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn check_options(options: &WriteOptions) -> Result<()> {
    let bad = |option, reason: String| Err(Error::BadOption { option, reason });
    if options.dialect.is_empty() || options.dialect.len() > DIALECT_BYTES || options.dialect.contains('\0') {
        return bad("dialect", format!("{:?} is not a name of 1 to {DIALECT_BYTES} bytes", options.dialect));
    }
    options.form().check()?;
    if !(1..=BLOCK_BYTES_MAX).contains(&options.block_bytes_max) {
        return bad("block_bytes_max", format!("{} is not in 1 to {BLOCK_BYTES_MAX}", options.block_bytes_max));
    }
    if !(1..=SEGMENT_BLOCKS_MAX / 2).contains(&options.segment_blocks_max) {
        let most = SEGMENT_BLOCKS_MAX / 2;
        return bad("segment_blocks_max", format!("{} is not in 1 to {most}", options.segment_blocks_max));
    }
    Ok(())
}
