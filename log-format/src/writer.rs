//! Writing a log: append, commit, seal.
//!
//! Events flow in through [`Writer::append`], gather in a block in memory, and become durable and then visible with
//! [`Writer::commit`]. A segment that is full is sealed on the way. The writer starts no thread and reads no clock: who
//! calls it decides when to commit, and the events' own receive times decide when a segment is old.

use std::sync::Arc;

use crate::{
    ApiVersion, Error, Event, Head, Log, Maintenance, Mark, MarkKind, ReadOptions, Result, Sequence, Timestamp,
    block::{BlockBuilder, BlockType, Built, Encoder},
    chain::next_chain_value,
    head::{HeadFile, HeadSlot},
    log::{Active, LARGE_BYTES, Shared},
    recovery::{self, Recovery},
    scan,
    segment::{BlockEntry, Footer, Position, SegmentFile, SegmentHeader, file_name, storage_error},
    storage::{Lock, Storage},
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
    /// The id of a log that is made anew: 16 random bytes.
    pub new_log_id: [u8; 16],
    /// The first sequence of a log that is made anew.
    pub first_sequence: Sequence,
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
            new_log_id,
            first_sequence: 0,
            now,
            durability: Durability::Commit,
            compression_level: 1,
            block_bytes_max: 512 << 10,
            segment_bytes_max: 128 << 20,
            segment_blocks_max: 1 << 16,
            segment_age_max: 24 * 3600 * 1_000_000,
            allocate_bytes: 16 << 20,
            read: ReadOptions::default(),
        }
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
    unsynced: Vec<Written>,
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
const NAME_BYTES_MAX: usize = 255;

impl Writer {
    /// Opens a log for writing, making it if the directory holds none, and recovers what a crash left behind.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process writes it, [`Error::OtherDialect`], [`Error::NewerFormat`], or what the
    /// storage answers.
    pub fn open(storage: Arc<dyn Storage>, options: WriteOptions) -> Result<Opened> {
        let lock = storage
            .lock()
            .map_err(storage_error("lock", "the directory"))?
            .ok_or_else(|| Error::Locked { directory: storage.name() })?;
        let encoder = Encoder::new(options.compression_level).map_err(storage_error("set up", "zstd"))?;
        let found = recovery::recover(storage.as_ref(), &options)?;
        let position = found.position;
        let header = found.active.as_ref().map_or(found.header, |active| active.file.header.clone());
        let (log_id, epoch) = (header.log_id, found.epoch);
        let log = Log::assemble(Arc::clone(&storage), options.read, header);
        let active = found.active.as_ref().map(|active| Active::new(Arc::clone(&active.file), &active.footer));
        log.shared.set_segments(found.sealed, active);
        let mut writer = Writer {
            shared: Arc::clone(&log.shared),
            options,
            encoder,
            active: found.active,
            head_file: HeadFile::open(storage.as_ref(), found.head_counter)?,
            log_id,
            epoch,
            open_block: None,
            pending: Vec::new(),
            pending_blocks: Vec::new(),
            unsynced: Vec::new(),
            position,
            written: position,
            poisoned: false,
            lock: Arc::from(lock),
        };
        if found.seal_active {
            writer.seal()?;
        }
        if writer.active.is_none() {
            writer.begin_segment(writer.options.now)?;
        }
        for mark in found.marks {
            writer.mark(&mark)?;
        }
        writer.commit()?;
        writer.sync()?;
        writer.publish(writer.head())?;
        writer.head_file.sync()?;
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
        check_event(event)?;
        let sequence = self.position.next_sequence;
        if sequence == Sequence::MAX {
            return Err(Error::Exhausted { last: sequence - 1 });
        }
        let large = event.payload.len() > LARGE_BYTES as usize;
        if large {
            self.close_block()?;
        }
        let chain = next_chain_value(
            &self.position.chain,
            sequence,
            event.kind,
            event.api_version,
            event.network,
            event.payload.as_bytes(),
        );
        let position = self.position;
        let rises = position.announced_version > position.wire_version;
        let rise = rises.then_some(position.announced_version);
        let builder = self.open_block.get_or_insert_with(|| BlockBuilder::new(position));
        builder.push_event(event, sequence, rise, chain);
        let is_full = large || builder.is_full(self.options.block_bytes_max);
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
        if version <= self.position.announced_version {
            return Ok(());
        }
        self.close_block()?;
        self.position.announced_version = version;
        let body = format!("{{\"version\":\"{version}\"}}");
        self.mark(&Mark {
            kind: MarkKind::VERSION,
            position: self.position.next_sequence,
            source: source.to_owned(),
            received,
            body,
        })
    }

    /// Adds a mark behind what was appended so far; durable with the next commit. Its position is filled in.
    ///
    /// # Errors
    /// [`Error::Refused`] when its body is not one line, [`Error::Poisoned`], or when compression fails.
    pub fn mark(&mut self, mark: &Mark) -> Result<()> {
        self.check_alive()?;
        if mark.body.contains(['\n', '\r']) || mark.body.is_empty() || mark.body.len() > EVENT_BYTES_MAX {
            return Err(Error::Refused { reason: "a mark's body must be one line of at most 256 MiB".to_owned() });
        }
        self.close_block()?;
        let mut builder = BlockBuilder::new(self.position);
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
        if !self.pending_blocks.is_empty() {
            self.write_pending()?;
        }
        match self.options.durability {
            Durability::Commit => self.sync(),
            Durability::Interval => Ok(*self.shared.lock_head()),
            Durability::Os => self.publish(self.head()),
        }
    }

    /// Makes everything that was committed durable and visible. Needed only with [`Durability::Interval`] and at the end.
    ///
    /// # Errors
    /// A failed sync poisons the writer: trying again would report success for data that is gone.
    pub fn sync(&mut self) -> Result<Head> {
        self.check_alive()?;
        if !self.unsynced.is_empty() {
            self.poisoning(|writer| writer.sync_active())?;
        }
        self.publish(self.head())
    }

    /// Commits, syncs and leaves a head that says that the log was closed in order.
    ///
    /// # Errors
    /// As [`Writer::commit`] and [`Writer::sync`].
    pub fn close(mut self) -> Result<()> {
        self.commit()?;
        self.sync()?;
        self.head_file.write(HeadSlot { clean: true, ..self.head_slot(self.head()) })?;
        self.head_file.sync()
    }

    /// Seals the active segment and begins the next: for tests, tools and idle logs; a commit seals by itself when due.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn seal_now(&mut self, now: Timestamp) -> Result<()> {
        self.commit()?;
        self.sync()?;
        if self.active.as_ref().is_some_and(ActiveSegment::has_events) {
            self.poisoning(|writer| {
                writer.seal()?;
                writer.begin_segment(now)
            })?;
            self.publish(self.head())?;
        }
        Ok(())
    }

    /// Removes whole sealed segments that hold only sequences below `sequence`; returns how many.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn drop_before(&mut self, sequence: Sequence) -> Result<usize> {
        let mut dropped = 0;
        let segments = self.shared.segment_list();
        for pair in segments.windows(2) {
            let &[first, next] = pair else { break };
            if next > sequence {
                break;
            }
            // Out of sight first, so that nobody opens what is about to go.
            self.shared.forget(first, true);
            let name = file_name(first);
            self.shared.storage.remove(&name).map_err(storage_error("remove", &name))?;
            dropped += 1;
        }
        if dropped > 0 {
            self.shared.storage.sync_directory().map_err(storage_error("sync", "the directory"))?;
        }
        Ok(dropped)
    }

    /// What keeps this log's sealed segments in shape, from another thread while this one writes.
    #[must_use]
    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(Arc::clone(&self.shared), Arc::clone(&self.lock))
    }

    fn check_alive(&self) -> Result<()> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Runs a step after whose failure nobody knows what the disk holds.
    fn poisoning<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = step(self);
        self.poisoned |= result.is_err();
        result
    }

    fn close_block(&mut self) -> Result<()> {
        match self.open_block.take() {
            Some(builder) => self.encode_block(builder, BlockType::EVENTS),
            None => Ok(()),
        }
    }

    fn encode_block(&mut self, builder: BlockBuilder, block_type: BlockType) -> Result<()> {
        self.poisoning(|writer| {
            let built = builder
                .finish(block_type, &mut writer.encoder, &mut writer.pending)
                .map_err(storage_error("compress", "a block"))?;
            writer.pending_blocks.push(built);
            Ok(())
        })
    }

    fn write_pending(&mut self) -> Result<()> {
        let newest = self.pending_blocks.iter().map(|built| built.header.received_max).max().unwrap_or_default();
        if self.active.as_ref().is_some_and(|active| active.is_due(&self.options, self.pending.len(), newest)) {
            if !self.unsynced.is_empty() {
                self.sync()?;
            }
            self.poisoning(|writer| {
                writer.seal()?;
                writer.begin_segment(newest)
            })?;
        }
        self.make_room()?;
        self.poisoning(|writer| writer.write_blocks())
    }

    /// Preallocates, so that a full disk shows here, where nothing is lost, and not in the write.
    fn make_room(&mut self) -> Result<()> {
        let step = self.options.allocate_bytes.max(1);
        let Some(active) = &mut self.active else { return Err(Error::Poisoned) };
        let end = active.end + self.pending.len() as u64;
        if end > active.allocated {
            let length = (end - active.allocated).div_ceil(step) * step;
            let file = &active.file;
            file.file.allocate(active.allocated, length).map_err(storage_error("reserve room in", &file.name))?;
            active.allocated += length;
        }
        Ok(())
    }

    fn write_blocks(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Err(Error::Poisoned) };
        let file = &active.file;
        file.file.write_at(&self.pending, active.end).map_err(storage_error("write", &file.name))?;
        self.pending.clear();
        for built in self.pending_blocks.drain(..) {
            active.add(&built);
            let entry = BlockEntry::new(&built.header, active.end);
            active.end += built.header.stored_bytes();
            self.unsynced.push(Written { entry, block: built.block });
        }
        self.written = self.position;
        Ok(())
    }

    fn sync_active(&mut self) -> Result<()> {
        let Some(active) = &self.active else { return Err(Error::Poisoned) };
        active.file.file.sync().map_err(storage_error("sync", &active.file.name))
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
    fn publish(&mut self, head: Head) -> Result<Head> {
        let slot = self.head_slot(head);
        self.poisoning(|writer| writer.head_file.write(slot))?;
        let entries: Vec<_> = self.unsynced.iter().map(|written| written.entry).collect();
        for written in self.unsynced.drain(..) {
            if let Some(block) = written.block.filter(|block| block.wire().len() <= LARGE_BYTES as usize) {
                self.shared.cache.insert(Arc::new(block));
            }
        }
        self.shared.publish(&entries, head);
        Ok(head)
    }

    /// Appends the footer; from then on the segment never changes.
    fn seal(&mut self) -> Result<()> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        if active.uncounted {
            scan::count_events(&active.file, &mut active.footer)?;
        }
        let file = &active.file;
        let bytes =
            active.footer.encode(active.end, &mut self.encoder).map_err(storage_error("compress", &file.name))?;
        file.file.set_len(active.end).map_err(storage_error("cut", &file.name))?;
        file.file.write_at(&bytes, active.end).map_err(storage_error("write", &file.name))?;
        file.file.sync().map_err(storage_error("sync", &file.name))?;
        self.shared.active_was_sealed();
        Ok(())
    }

    fn begin_segment(&mut self, created: Timestamp) -> Result<()> {
        let header = SegmentHeader {
            generation: 0,
            epoch: self.epoch,
            log_id: self.log_id,
            dialect: self.options.dialect.clone(),
            first_sequence: self.written.next_sequence,
            created,
            version_before: self.written.wire_version,
            version_announced: self.written.announced_version,
            chain_before: self.written.chain,
            kinds: self.options.kinds.clone(),
        };
        let storage = self.shared.storage.as_ref();
        let file = write_new_segment(storage, &header)?;
        let blocks_start = header.encode().len() as u64;
        let name = file_name(header.first_sequence);
        let file = Arc::new(SegmentFile { name, file, header, blocks_start });
        let footer = Footer::empty(&file.header);
        let active = ActiveSegment { file, footer, end: blocks_start, allocated: blocks_start, uncounted: false };
        self.shared.active_has_begun(Active::new(Arc::clone(&active.file), &active.footer));
        self.active = Some(active);
        Ok(())
    }
}

/// Makes a segment file that holds a header: written aside, synced, renamed.
pub(crate) fn write_new_segment(
    storage: &dyn Storage,
    header: &SegmentHeader,
) -> Result<Arc<dyn crate::storage::File>> {
    let name = file_name(header.first_sequence);
    let aside = format!("{name}.new");
    let file = storage.create(&aside).map_err(storage_error("create", &aside))?;
    file.write_at(&header.encode(), 0).map_err(storage_error("write", &aside))?;
    file.sync().map_err(storage_error("sync", &aside))?;
    storage.rename(&aside, &name).map_err(storage_error("rename", &aside))?;
    storage.sync_directory().map_err(storage_error("sync", "the directory"))?;
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
            || newest.saturating_sub(self.file.header.created) > options.segment_age_max
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
    if event.source.len() > NAME_BYTES_MAX || event.network.len() > NAME_BYTES_MAX {
        return refuse(format!("the name of a source or network is longer than {NAME_BYTES_MAX} bytes"));
    }
    Ok(())
}
