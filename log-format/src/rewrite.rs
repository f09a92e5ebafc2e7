//! Rewriting sealed segments, beside the running writer.
//!
//! Commits that wait for nothing make small blocks, which compress badly. A [`Maintenance`] handle merges the blocks of
//! a sealed segment into large ones: the same events, marks, versions and chain values, in a file written aside, synced,
//! read back and renamed over the old one. Readers notice nothing. One block is in memory at a time.

use std::sync::{Arc, PoisonError};

use crate::{
    ApiVersion, ChainValue, Error, Mark, Result, Sequence, Timestamp,
    block::{BLOCK_EVENTS_MAX, BLOCK_HEADER_BYTES, Block, BlockBuilder, BlockHeader, BlockType, Built, Encoder},
    examine::{Examiner, Extent, loss_body},
    log::{LARGE_BYTES, Shared},
    segment::{BlockEntry, Footer, Position, SegmentFile, SegmentHeader, file_name, read_exact, storage_error},
    storage::{File, Lock, Storage},
};

/// How a segment is rewritten.
#[derive(Clone, Copy, Debug)]
pub struct RewriteOptions {
    /// zstd level of the blocks.
    pub level: i32,
    /// Wire bytes that a block is to come close to and not exceed.
    pub block_bytes: usize,
}

impl Default for RewriteOptions {
    fn default() -> Self {
        RewriteOptions { level: 1, block_bytes: 1 << 20 }
    }
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
}

/// Keeps the sealed segments of a log in shape while its writer goes on; for a thread of its own.
///
/// It holds the writer's lock too: drop it before the log is opened for writing again.
pub struct Maintenance {
    shared: Arc<Shared>,
    _lock: Arc<dyn Lock>,
}

impl Maintenance {
    pub(crate) fn new(shared: Arc<Shared>, lock: Arc<dyn Lock>) -> Self {
        Maintenance { shared, _lock: lock }
    }

    /// The sealed segments from sequence `from` on that a rewrite with blocks of `block_bytes` would leave with half as
    /// many blocks or fewer. A segment that was rewritten is not among them. Reads one footer per segment.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn segments_with_small_blocks(&self, from: Sequence, block_bytes: usize) -> Result<Vec<Sequence>> {
        let mut found = Vec::new();
        for first in self.shared.sealed_list().into_iter().filter(|&first| first >= from) {
            match sealed_footer(self.shared.storage.as_ref(), first) {
                Ok((_, footer)) if is_worthwhile(&footer.blocks, block_bytes) => found.push(first),
                // A damaged segment is for repair, a dropped one for nobody.
                Ok(_) | Err(Error::Corrupt { .. }) => {}
                Err(Error::Storage { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Where the segment begins that is not sealed yet: the next to look at, once it is.
    #[must_use]
    pub fn unsealed_segment(&self) -> Option<Sequence> {
        self.shared.segment_list().last().copied()
    }

    /// Merges the blocks of the sealed segment that begins at `first_sequence`. `None` when retention has dropped the
    /// segment meanwhile; nothing is changed then, nor after an error.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the segment is damaged or does not read back, or what the storage answers.
    pub fn rewrite(&self, first_sequence: Sequence, options: RewriteOptions) -> Result<Option<Rewritten>> {
        let _one_at_a_time = self.shared.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let storage = self.shared.storage.as_ref();
        if !self.shared.sealed_list().contains(&first_sequence) {
            return Ok(None);
        }
        let (old, footer) = sealed_footer(storage, first_sequence)?;
        let mut new = Replacement::begin(storage, &old.header, options.level)?;
        let result = merge(&old, &footer, &mut new, options.block_bytes).and_then(|()| {
            // No event was touched, so these stay.
            new.footer.counts = footer.counts;
            new.footer.sources.clone_from(&footer.sources);
            let rewritten = Rewritten {
                blocks_before: footer.blocks.len(),
                blocks_after: new.footer.blocks.len(),
                bytes_before: old.file.len().map_err(storage_error("read", &old.name))?,
                bytes_after: new.complete(true, 0)?,
            };
            if new.footer.position() != footer.position() {
                let reason = "the rewritten segment ends elsewhere than the old one".to_owned();
                return Err(Error::Corrupt { file: new.name.clone(), offset: 0, reason });
            }
            Ok(self.shared.replace_sealed(first_sequence, || new.put_in_place())?.then_some(rewritten))
        });
        match result {
            Ok(Some(rewritten)) => {
                storage.sync_directory().map_err(storage_error("sync", "the directory"))?;
                Ok(Some(rewritten))
            }
            result => {
                // Nothing refers to it, and the next opening removes what is left of it.
                let _ = storage.remove(&new.name);
                result
            }
        }
    }
}

fn sealed_footer(storage: &dyn Storage, first_sequence: Sequence) -> Result<(SegmentFile, Footer)> {
    let file = SegmentFile::open(storage, first_sequence, false)?;
    match Footer::read(&file.name, file.file.as_ref())? {
        Some((footer, _)) => Ok((file, footer)),
        None => {
            let reason = "the segment does not end in a footer".to_owned();
            Err(Error::Corrupt { file: file.name, offset: 0, reason })
        }
    }
}

/// Whether a block of this index entry is merged with its neighbours.
fn is_mergeable(entry: &BlockEntry) -> bool {
    entry.block_type == BlockType::EVENTS.0 && entry.payload_raw <= LARGE_BYTES
}

/// Collects neighbouring blocks as long as they fit into one.
struct Fill {
    block_bytes: usize,
    bytes: usize,
    events: usize,
    /// The sequence that a block must begin with to be taken.
    next: Option<Sequence>,
}

impl Fill {
    fn new(block_bytes: usize) -> Self {
        Fill { block_bytes, bytes: 0, events: 0, next: None }
    }

    /// Takes a block in; says whether that began a new one.
    fn take(&mut self, entry: &BlockEntry) -> bool {
        let (bytes, events) = (entry.payload_raw as usize, entry.count as usize);
        let begins = self.next != Some(entry.first_sequence)
            || self.bytes + bytes > self.block_bytes
            || self.events + events > BLOCK_EVENTS_MAX;
        if begins {
            (self.bytes, self.events) = (0, 0);
        }
        self.bytes += bytes;
        self.events += events;
        self.next = Some(entry.end_sequence());
        begins
    }

    /// Something that is not merged stands in between.
    fn interrupt(&mut self) {
        self.next = None;
    }
}

fn is_worthwhile(blocks: &[BlockEntry], block_bytes: usize) -> bool {
    let mut fill = Fill::new(block_bytes);
    let after = blocks
        .iter()
        .filter(|entry| {
            if is_mergeable(entry) {
                fill.take(entry)
            } else {
                fill.interrupt();
                true
            }
        })
        .count();
    blocks.len() > 1 && after <= blocks.len() / 2
}

fn merge(old: &SegmentFile, footer: &Footer, new: &mut Replacement<'_>, block_bytes: usize) -> Result<()> {
    let mut fill = Fill::new(block_bytes);
    let mut builder: Option<BlockBuilder> = None;
    for entry in &footer.blocks {
        if !is_mergeable(entry) {
            fill.interrupt();
            if let Some(builder) = builder.take() {
                new.append(builder, BlockType::EVENTS)?;
            }
            new.copy(old, entry)?;
            continue;
        }
        let (header, bytes) = old.read_block(entry.offset, entry.stored_bytes)?;
        let block = Block::decode(&header, bytes.get(BLOCK_HEADER_BYTES..).unwrap_or_default())
            .map_err(|error| old.corrupt(entry.offset, error))?;
        // A block with very many names is full before its bytes are.
        if (fill.take(entry) || builder.as_ref().is_some_and(|builder| builder.is_full(usize::MAX)))
            && let Some(builder) = builder.take()
        {
            new.append(builder, BlockType::EVENTS)?;
        }
        builder
            .get_or_insert_with(|| {
                let position = Position {
                    next_sequence: block.first_sequence(),
                    wire_version: block.version_before(),
                    announced_version: block.version_after(),
                    chain: block.chain_after(),
                };
                BlockBuilder::new(position, block_bytes)
            })
            .push_block(&block);
    }
    match builder {
        Some(builder) => new.append(builder, BlockType::EVENTS),
        None => Ok(()),
    }
}

/// How much is copied at a time.
const PIECE_BYTES: usize = 256 << 10;

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
        let file = storage.create(&name).map_err(storage_error("create", &name))?;
        let bytes = header.encode();
        file.write_at(&bytes, 0).map_err(storage_error("write", &name))?;
        Ok(Replacement {
            storage,
            footer: Footer::empty(&header),
            end: bytes.len() as u64,
            encoder: Encoder::new(level).map_err(storage_error("set up", "zstd"))?,
            buffer: Vec::new(),
            name,
            header,
            file,
        })
    }

    /// Copies a block as it is stored, in pieces.
    pub(crate) fn copy(&mut self, from: &SegmentFile, entry: &BlockEntry) -> Result<BlockHeader> {
        let header = from.read_header(entry.offset)?.filter(|header| BlockEntry::new(header, entry.offset) == *entry);
        let header = header.ok_or_else(|| {
            from.corrupt(entry.offset, crate::block::corrupt("another block stands where the index says"))
        })?;
        copy_bytes(from, entry.offset, header.stored_bytes(), self.file.as_ref(), self.end, &self.name)?;
        self.footer.add(&header, self.end);
        self.end += header.stored_bytes();
        Ok(header)
    }

    /// Encodes and writes a block.
    fn append(&mut self, builder: BlockBuilder, block_type: BlockType) -> Result<()> {
        self.buffer.clear();
        let Built { header, .. } = builder
            .finish(block_type, &mut self.encoder, &mut self.buffer)
            .map_err(storage_error("compress", &self.name))?;
        self.file.write_at(&self.buffer, self.end).map_err(storage_error("write", &self.name))?;
        self.footer.add(&header, self.end);
        self.end += header.stored_bytes();
        Ok(())
    }

    /// Writes the mark of a loss. Its block says what the log goes on from, as every block of marks does.
    pub(crate) fn mark_loss(&mut self, lost: &Loss, now: Timestamp) -> Result<()> {
        let chain = lost.chain.unwrap_or(self.footer.chain_after);
        let position = Position {
            next_sequence: lost.sequences.end,
            wire_version: lost.wire_version,
            announced_version: lost.announced_version,
            chain,
        };
        let mut builder = BlockBuilder::new(position, 0);
        let mark = Mark {
            kind: crate::MarkKind::LOSS,
            position: lost.sequences.end,
            source: String::new(),
            received: now,
            body: loss_body(&lost.sequences, &lost.reason, lost.chain),
        };
        builder.push_mark(&mark, lost.announced_version);
        self.append(builder, BlockType::MARKS)
    }

    /// Ends the file, with a footer if it is to be sealed, syncs it and reads it back; returns its bytes. It may hold as
    /// many mismatches as what it replaces.
    pub(crate) fn complete(&mut self, is_sealed: bool, mismatches: usize) -> Result<u64> {
        let mut length = self.end;
        if is_sealed {
            let bytes =
                self.footer.encode(self.end, &mut self.encoder).map_err(storage_error("compress", &self.name))?;
            self.file.write_at(&bytes, self.end).map_err(storage_error("write", &self.name))?;
            length += bytes.len() as u64;
        }
        self.file.sync().map_err(storage_error("sync", &self.name))?;
        let extent = Extent { is_last: !is_sealed, durable_end: Some(self.end), end_sequence: None };
        let written = SegmentFile::open_aside(self.storage, &self.name)?;
        let found = Examiner::default().segment(written, None, extent, &mut |_| {})?;
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
        self.storage.rename(&self.name, &name).map_err(storage_error("rename", &self.name))
    }
}

/// A hole to be marked, and what the log goes on from behind it.
pub(crate) struct Loss {
    pub(crate) sequences: std::ops::Range<Sequence>,
    pub(crate) reason: String,
    /// `None`: the next block's chain value is taken as it stands.
    pub(crate) chain: Option<ChainValue>,
    pub(crate) wire_version: ApiVersion,
    pub(crate) announced_version: ApiVersion,
}

/// Copies bytes from a segment to another file, in pieces.
pub(crate) fn copy_bytes(
    from: &SegmentFile,
    mut at: u64,
    length: u64,
    to: &dyn File,
    mut to_at: u64,
    to_name: &str,
) -> Result<()> {
    let end = at + length;
    while at < end {
        let piece = (end - at).min(PIECE_BYTES as u64);
        let bytes = read_exact(&from.name, from.file.as_ref(), at, piece as usize)?;
        to.write_at(&bytes, to_at).map_err(storage_error("write", to_name))?;
        at += piece;
        to_at += piece;
    }
    Ok(())
}
