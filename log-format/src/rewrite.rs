//! Rewriting sealed segments: small blocks become large ones, compressed harder, and every event stays byte for byte what
//! it was.
//!
//! A sealed segment goes in, one of the same name with fewer and larger blocks comes out: written aside, synced, read
//! back and compared, and only then renamed over the old one. Readers notice nothing. One block of either file is in
//! memory at a time.

use std::{
    ops::ControlFlow,
    sync::{Arc, PoisonError},
};

use crate::{
    ApiVersion, ChainValue, Error, Mark, MarkKind, Result, Sequence, Timestamp,
    block::{BLOCK_EVENTS_MAX, Block, BlockBuilder, BlockHeader, BlockType, Built, Encoder, LARGE_BYTES},
    error::{Operation, storage_error},
    examine::{Examiner, Extent},
    form::Form,
    log::Shared,
    loss_mark::{ChainAfterLoss, loss_body},
    pieces,
    position::Position,
    segment::{BlockEntry, Footer, SegmentFile, SegmentHeader, file_name},
    storage::{File, Storage},
};

/// How a segment is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewriteOptions {
    /// zstd level of the blocks.
    pub level: i32,
    /// Wire bytes that a block is to come close to and not exceed, unless a single event does.
    pub block_bytes: usize,
}

impl Default for RewriteOptions {
    /// Merging: 1 MiB at level 1, as fast as the disk.
    fn default() -> Self {
        RewriteOptions { level: 1, block_bytes: 1 << 20 }
    }
}

impl RewriteOptions {
    /// Compaction: 1 MiB at level 19, a few megabytes a second on a core. Higher levels and larger blocks save little more,
    /// and a reader that begins in the middle of a block has to decompress all of it.
    pub const COMPACTION: Self = RewriteOptions { level: 19, block_bytes: 1 << 20 };
}

/// What a rewrite did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Blocks before.
    pub blocks_before: usize,
    /// Blocks after.
    pub blocks_after: usize,
    /// Bytes of the file before.
    pub bytes_before: u64,
    /// Bytes of the file after.
    pub bytes_after: u64,
    /// Whether the segment was left as it was, because it would have grown.
    pub is_left: bool,
}

/// Gets the number of wire bytes that were taken in since its last call, after every block: to show progress, to hold a
/// pace by returning later, and to stop. After a stop the segment is as it was.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Larger events are copied as they are stored, so that no more than this is held in memory to compress it.
const RECOMPRESSED_BYTES_MAX: u32 = 32 << 20;

/// Rewrites the sealed segment that begins at `first_sequence`; `None` when nothing was changed, because the segment is
/// gone or `progress` has stopped it.
pub(crate) fn rewrite(
    shared: &Shared,
    first_sequence: Sequence,
    options: RewriteOptions,
    progress: Progress<'_>,
) -> Result<Option<Rewritten>> {
    let _one_at_a_time = shared.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
    let storage = shared.storage.as_ref();
    if !shared.sealed_list().contains(&first_sequence) {
        return Ok(None);
    }
    let (old, footer) = sealed_footer(storage, first_sequence)?;
    let rewritten_level = u8::try_from(options.level).unwrap_or_default();
    let header = SegmentHeader { rewritten_level, ..old.header.clone() };
    let mut new = Replacement::begin(storage, &header, options.level)?;
    let result = replace(shared, &old, &footer, &mut new, options.block_bytes, progress);
    if matches!(result, Ok(Some(Rewritten { is_left: false, .. }))) {
        pieces::sync_directory(storage)?;
    } else {
        // Nothing refers to it, and the next opening removes what is left of it.
        let _ = storage.remove(&new.name);
    }
    result
}

/// Fills the replacement, compares it with the segment, and puts it in place.
fn replace(
    shared: &Shared,
    old: &SegmentFile,
    footer: &Footer,
    new: &mut Replacement<'_>,
    block_bytes: usize,
    progress: Progress<'_>,
) -> Result<Option<Rewritten>> {
    let Some(digests) = merge(old, footer, new, block_bytes, progress)? else { return Ok(None) };
    // No event was touched, so these stay.
    new.footer.counts = footer.counts;
    new.footer.sources.clone_from(&footer.sources);
    let bytes_before = old.file.len().map_err(storage_error(Operation::Read, &old.name))?;
    let bytes_after = new.complete(true, 0)?;
    let rewritten = Rewritten {
        blocks_before: footer.blocks.len(),
        blocks_after: new.footer.blocks.len(),
        bytes_before,
        bytes_after,
        is_left: bytes_after > bytes_before,
    };
    if rewritten.is_left {
        return Ok(Some(rewritten));
    }
    let differs = if new.footer.position() != footer.position() {
        Some("the rewritten segment ends elsewhere than the old one")
    } else if new.digest()? != digests {
        Some("the rewritten segment holds other events than the old one")
    } else {
        None
    };
    if let Some(reason) = differs {
        return Err(Error::Corrupt { file: new.name.clone(), offset: 0, reason: reason.to_owned() });
    }
    let first_sequence = old.header.first_sequence;
    Ok(shared.replace_sealed(first_sequence, || new.put_in_place())?.then_some(rewritten))
}

/// A sealed segment and its own footer.
pub(crate) fn sealed_footer(storage: &dyn Storage, first_sequence: Sequence) -> Result<(SegmentFile, Footer)> {
    let file = SegmentFile::open(storage, first_sequence, false)?;
    match Footer::read(&file.name, file.file.as_ref())? {
        Some((footer, _)) => Ok((file, footer)),
        None => {
            let reason = "the segment does not end in a footer".to_owned();
            Err(Error::Corrupt { file: file.name, offset: 0, reason })
        }
    }
}

/// Whether blocks of this size would leave half as many or fewer. Of a segment that was rewritten so, this is never true.
pub(crate) fn has_small_blocks(blocks: &[BlockEntry], block_bytes: usize) -> bool {
    let (mut after, mut run, mut next) = (0, SmallBlocks::default(), None);
    for entry in blocks {
        let is_gathered = is_gathered(entry);
        let is_in_run = is_gathered || is_mergeable(entry);
        if !is_in_run || next != Some(entry.first_sequence) {
            after += std::mem::take(&mut run).blocks_after(block_bytes);
        }
        if is_gathered {
            run.mark_blocks += 1;
            run.mark_bytes += u64::from(entry.payload_raw);
        } else if is_in_run {
            run.event_bytes += u64::from(entry.payload_raw);
            run.events += u64::from(entry.count);
        } else {
            after += 1;
        }
        next = Some(entry.end_sequence());
    }
    after += run.blocks_after(block_bytes);
    blocks.len() > 1 && after <= blocks.len() as u64 / 2
}

/// Blocks that follow each other and are cut again.
#[derive(Default)]
struct SmallBlocks {
    events: u64,
    event_bytes: u64,
    mark_blocks: u64,
    mark_bytes: u64,
}

/// What a mark that is gathered has at least.
const GATHERED_MARK_BYTES_MIN: u64 = 32;

impl SmallBlocks {
    /// How many blocks they make, at least; a rewrite leaves less than twice as many.
    fn blocks_after(self, block_bytes: usize) -> u64 {
        let blocks_of = |bytes: u64, count: u64| {
            bytes.div_ceil(block_bytes.max(1) as u64).max(count.div_ceil(BLOCK_EVENTS_MAX as u64))
        };
        let of_events = blocks_of(self.event_bytes, self.events);
        // One before each block of events, and those that are full.
        let of_marks = of_events + blocks_of(self.mark_bytes, self.mark_bytes / GATHERED_MARK_BYTES_MIN);
        of_events + of_marks.min(self.mark_blocks)
    }
}

/// Whether a rewrite with these options would change a segment: it was not rewritten so before.
pub(crate) fn is_due(file: &SegmentFile, footer: &Footer, options: RewriteOptions) -> bool {
    i32::from(file.header.rewritten_level) < options.level || has_small_blocks(&footer.blocks, options.block_bytes)
}

/// Whether a block of this index entry is merged with its neighbours.
fn is_mergeable(entry: &BlockEntry) -> bool {
    entry.block_type == BlockType::EVENTS.0 && entry.payload_raw <= LARGE_BYTES
}

/// Whether a block of this index entry holds only identity marks, which are joined with those around it.
pub(crate) fn is_gathered(entry: &BlockEntry) -> bool {
    entry.block_type == BlockType::MARKS.0
        && entry.kinds == MarkKind::IDENTITY.bit()
        && entry.payload_raw <= RECOMPRESSED_BYTES_MAX
}

/// Whether a block of this index entry is decoded and compressed again.
pub(crate) fn is_recompressed(entry: &BlockEntry) -> bool {
    entry.block_type == BlockType::EVENTS.0 && entry.payload_raw <= RECOMPRESSED_BYTES_MAX
}

/// Fills a replacement with all that a segment holds; returns the digest of what went in, or `None` when stopped.
fn merge(
    old: &SegmentFile,
    footer: &Footer,
    new: &mut Replacement<'_>,
    block_bytes: usize,
    progress: Progress<'_>,
) -> Result<Option<Digests>> {
    let mut digest = Digest::default();
    let mut cutter = Cutter::new(old.header.form.clone(), block_bytes, old.header.chain_before);
    // Identity marks, which come before the block that the cutter fills.
    let mut marks: Option<BlockBuilder> = None;
    for entry in &footer.blocks {
        if is_gathered(entry) {
            let (header, read) = old.marks_of(entry)?;
            digest.add_marks(&read);
            if cutter.starts_unknown {
                new.append_some(marks.take(), BlockType::MARKS)?;
                new.append_some(cutter.finish(), BlockType::EVENTS)?;
            }
            let position = cutter.start().unwrap_or_else(|| position_of(&header));
            for mark in &read {
                let is_full = |marks: &BlockBuilder| {
                    marks.payload_bytes() + mark.body.len() > block_bytes || marks.is_full(usize::MAX)
                };
                if marks.as_ref().is_some_and(is_full) {
                    new.append_some(marks.take(), BlockType::MARKS)?;
                }
                let begin = || BlockBuilder::new(old.header.form.clone(), position, 0);
                marks.get_or_insert_with(begin).push_mark(mark, header.version_after);
            }
        } else {
            let mut append = |events: Option<BlockBuilder>| {
                new.append_some(marks.take(), BlockType::MARKS)?;
                new.append_some(events, BlockType::EVENTS)
            };
            if !is_mergeable(entry) {
                append(cutter.finish())?;
            }
            if is_recompressed(entry) {
                let block = old.load(entry, Block::decode)?;
                digest.add_events(&block);
                cutter.push(&block, &mut |full| append(Some(full)))?;
                if !is_mergeable(entry) {
                    append(cutter.finish())?;
                }
            } else {
                cutter.chain = new.copy(old, entry)?.chain_after;
            }
        }
        if progress(entry.payload_raw.into()).is_break() {
            return Ok(None);
        }
    }
    new.append_some(marks, BlockType::MARKS)?;
    new.append_some(cutter.finish(), BlockType::EVENTS)?;
    Ok(Some(digest.finish()))
}

/// Where a block of marks is.
fn position_of(header: &BlockHeader) -> Position {
    Position {
        next_sequence: header.first_sequence,
        wire_version: header.version_before,
        announced_version: header.version_after,
        chain: header.chain_after,
    }
}

/// What makes sure that everything that was taken apart is there again: digests of all events, and of the identity marks,
/// which have other events around them than before.
#[derive(Default)]
struct Digest {
    events: blake3::Hasher,
    marks: blake3::Hasher,
}

/// What a [`Digest`] found: of rows and frames, and of joined marks.
type Digests = [blake3::Hash; 2];

impl Digest {
    /// Takes in all of a block's events: everything that is known about them.
    fn add_events(&mut self, block: &Block) {
        let digest = &mut self.events;
        for row in block.rows() {
            let version = row.api_version();
            digest.update(&row.sequence().to_le_bytes());
            digest.update(&[row.kind().0, row.flags()]);
            for number in [version.major, version.minor, version.patch] {
                digest.update(&number.to_le_bytes());
            }
            digest.update(&row.upstream_id().unwrap_or_default().to_le_bytes());
            digest.update(&row.received().to_le_bytes());
            update_texts(
                digest,
                [row.name().as_bytes(), row.source().as_bytes(), row.network().as_bytes(), row.frame_with_rise()],
            );
        }
    }

    fn add_marks(&mut self, marks: &[Mark]) {
        for mark in marks {
            self.marks.update(&[mark.kind.0]);
            self.marks.update(&mark.received.to_le_bytes());
            update_texts(&mut self.marks, [mark.source.as_bytes(), mark.body.as_bytes()]);
        }
    }

    fn finish(self) -> Digests {
        [self.events.finalize(), self.marks.finalize()]
    }
}

fn update_texts<const COUNT: usize>(digest: &mut blake3::Hasher, texts: [&[u8]; COUNT]) {
    for text in texts {
        digest.update(&(text.len() as u64).to_le_bytes());
        digest.update(text);
    }
}

/// Cuts a run of events again into blocks.
pub(crate) struct Cutter {
    form: Form,
    block_bytes: usize,
    builder: Option<BlockBuilder>,
    /// Where it begins.
    start: Position,
    /// Whether the chain value there is unknown.
    starts_unknown: bool,
    /// The sequence that the open block continues with.
    next: Sequence,
    /// The chain value after what was taken in last.
    chain: ChainValue,
}

impl Cutter {
    pub(crate) fn new(form: Form, block_bytes: usize, chain: ChainValue) -> Self {
        let start =
            Position { next_sequence: 0, wire_version: ApiVersion::NONE, announced_version: ApiVersion::NONE, chain };
        Cutter { form, block_bytes, builder: None, start, starts_unknown: false, next: 0, chain }
    }

    /// Takes in a block's events; hands over each new block that is full.
    pub(crate) fn push(&mut self, block: &Block, full: &mut dyn FnMut(BlockBuilder) -> Result<()>) -> Result<()> {
        // After a loss it may be unknown what the chain continues from; then it is known only where the block ends.
        let chains = block.chain_values_from(self.chain);
        let may_cut = chains.is_some();
        let mut before = self.chain;
        for (index, row) in block.rows().enumerate() {
            let more = if may_cut { row.range_with_rise().len() } else { block.wire().len() };
            if (may_cut || index == 0)
                && self.builder.as_ref().is_some_and(|builder| !self.fits(builder, row.sequence(), more))
                && let Some(builder) = self.builder.take()
            {
                full(builder)?;
            }
            let position = Position {
                next_sequence: row.sequence(),
                wire_version: block.version_in_force(index),
                announced_version: block.version_after(),
                chain: before,
            };
            let chain = chains.as_ref().and_then(|chains| chains.get(index).copied()).unwrap_or(block.chain_after());
            let new = || {
                self.start = position;
                self.starts_unknown = !may_cut;
                BlockBuilder::new(self.form.clone(), position, self.block_bytes)
            };
            self.builder.get_or_insert_with(new).push_stored(row, chain);
            before = chain;
            self.next = row.sequence() + 1;
        }
        self.chain = block.chain_after();
        Ok(())
    }

    fn fits(&self, builder: &BlockBuilder, sequence: Sequence, more_bytes: usize) -> bool {
        // A block with very many names is full before its bytes are.
        sequence == self.next
            && builder.payload_bytes() + more_bytes <= self.block_bytes
            && !builder.is_full(usize::MAX)
    }

    /// Where the block begins that is not full yet, if there is one.
    fn start(&self) -> Option<Position> {
        self.builder.as_ref().map(|_| self.start)
    }

    /// The block that is not full yet.
    pub(crate) fn finish(&mut self) -> Option<BlockBuilder> {
        self.starts_unknown = false;
        self.builder.take()
    }
}

/// A segment that is being written aside, to take the place of the one of its name.
pub(crate) struct Replacement<'a> {
    storage: &'a dyn Storage,
    /// The name aside.
    pub(crate) name: String,
    header: SegmentHeader,
    file: Arc<dyn File>,
    pub(crate) footer: Footer,
    /// Where the last block ends.
    pub(crate) end: u64,
    encoder: Encoder,
    buffer: Vec<u8>,
}

impl<'a> Replacement<'a> {
    /// Begins a replacement of the next generation.
    pub(crate) fn begin(storage: &'a dyn Storage, old: &SegmentHeader, level: i32) -> Result<Self> {
        let header = SegmentHeader { generation: old.generation.saturating_add(1), ..old.clone() };
        let name = format!("{}.new", file_name(header.first_sequence));
        let file = storage.create(&name).map_err(storage_error(Operation::Create, &name))?;
        let bytes = header.encode();
        file.write_at(&bytes, 0).map_err(storage_error(Operation::Write, &name))?;
        Ok(Replacement {
            storage,
            footer: Footer::empty(&header),
            end: bytes.len() as u64,
            encoder: Encoder::new(level).map_err(storage_error(Operation::SetUp, "zstd"))?,
            buffer: Vec::new(),
            name,
            header,
            file,
        })
    }

    /// Copies a block as it is stored, in pieces.
    pub(crate) fn copy(&mut self, from: &SegmentFile, entry: &BlockEntry) -> Result<BlockHeader> {
        let header = from.read_header(entry.offset)?.filter(|header| BlockEntry::new(header, entry.offset) == *entry);
        let header = header.ok_or_else(|| from.not_listed(entry.offset))?;
        let block = entry.offset..entry.offset + header.stored_bytes();
        pieces::copy(&from.name, from.file.as_ref(), block, &self.name, self.file.as_ref(), self.end)?;
        self.footer.add(&header, self.end);
        self.end += header.stored_bytes();
        Ok(header)
    }

    /// Writes a block, if there is one.
    fn append_some(&mut self, builder: Option<BlockBuilder>, block_type: BlockType) -> Result<()> {
        builder.map_or(Ok(()), |builder| self.append(builder, block_type))
    }

    /// The digest of all that was compressed again, read back from the file.
    fn digest(&self) -> Result<Digests> {
        let written = SegmentFile::open_aside(self.storage, &self.name)?;
        let mut digest = Digest::default();
        for entry in &self.footer.blocks {
            if is_recompressed(entry) {
                digest.add_events(&written.load(entry, Block::decode)?);
            } else if is_gathered(entry) {
                digest.add_marks(&written.marks_of(entry)?.1);
            }
        }
        Ok(digest.finish())
    }

    /// Encodes and writes a block.
    fn append(&mut self, builder: BlockBuilder, block_type: BlockType) -> Result<()> {
        self.buffer.clear();
        let Built { header, .. } = builder
            .finish(block_type, &mut self.encoder, &mut self.buffer)
            .map_err(storage_error(Operation::Compress, &self.name))?;
        self.file.write_at(&self.buffer, self.end).map_err(storage_error(Operation::Write, &self.name))?;
        self.footer.add(&header, self.end);
        self.end += header.stored_bytes();
        Ok(())
    }

    /// Writes the mark of a loss. Its block says what the log continues from, as every block of marks does.
    pub(crate) fn mark_loss(&mut self, lost: &Loss, now: Timestamp) -> Result<()> {
        let chain = lost.chain.unwrap_or(self.footer.chain_after);
        let position = Position {
            next_sequence: lost.sequences.end,
            wire_version: lost.wire_version,
            announced_version: lost.announced_version,
            chain,
        };
        let mut builder = BlockBuilder::new(self.header.form.clone(), position, 0);
        let mark = Mark {
            kind: MarkKind::LOSS,
            position: lost.sequences.end,
            source: String::new(),
            received: now,
            body: loss_body(
                &lost.sequences,
                &lost.reason,
                lost.chain.map_or(ChainAfterLoss::Unknown, ChainAfterLoss::Value),
            ),
        };
        builder.push_mark(&mark, lost.announced_version);
        self.append(builder, BlockType::MARKS)
    }

    /// Ends the file, with a footer if it is to be sealed, syncs it and reads it back; returns its bytes. It may hold as
    /// many mismatches as what it replaces.
    pub(crate) fn complete(&mut self, is_sealed: bool, mismatches: usize) -> Result<u64> {
        let mut length = self.end;
        if is_sealed {
            let bytes = self
                .footer
                .encode(self.end, &mut self.encoder)
                .map_err(storage_error(Operation::Compress, &self.name))?;
            self.file.write_at(&bytes, self.end).map_err(storage_error(Operation::Write, &self.name))?;
            length += bytes.len() as u64;
        }
        self.file.sync().map_err(storage_error(Operation::Sync, &self.name))?;
        let extent = Extent { is_last: !is_sealed, durable_end: Some(self.end), end_sequence: None };
        let written = SegmentFile::open_aside(self.storage, &self.name)?;
        let found = Examiner::default().segment(written, extent, &mut |_| {})?;
        if found.needs_repair() || found.mismatches.len() > mismatches || found.footer != self.footer {
            let reason = found
                .damage
                .first()
                .map(|damage| damage.reason.clone())
                .or_else(|| found.mismatches.first().map(|mismatch| mismatch.reason.clone()))
                .or(found.footer_damage)
                .unwrap_or_else(|| "it does not hold what was written".to_owned());
            return Err(Error::Corrupt { file: self.name.clone(), offset: 0, reason });
        }
        Ok(length)
    }

    /// Takes the place of the old segment; durable when the directory is synced.
    pub(crate) fn put_in_place(&self) -> Result<()> {
        let name = file_name(self.header.first_sequence);
        self.storage.rename(&self.name, &name).map_err(storage_error(Operation::Rename, &self.name))
    }
}

/// A hole to be marked, and what the log continues from after it.
pub(crate) struct Loss {
    pub(crate) sequences: std::ops::Range<Sequence>,
    pub(crate) reason: String,
    /// `None`: the next block's chain value is taken as it is.
    pub(crate) chain: Option<ChainValue>,
    pub(crate) wire_version: ApiVersion,
    pub(crate) announced_version: ApiVersion,
}
