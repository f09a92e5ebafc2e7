//! Segments: one file of a log each, named by its first sequence.
//!
//! A segment begins with a [`SegmentHeader`], goes on with blocks, and once sealed ends with a footer block and a
//! trailer that points at it. What follows the last block of an active segment reads as zeros. FORMAT.md has the byte
//! tables.

use std::{ops::Range, sync::Arc};

use rkyv::rancor;

use crate::{
    ApiVersion, ChainValue, Error, Result, Sequence, Timestamp,
    block::{self, BLOCK_HEADER_BYTES, Block, BlockError, BlockHeader, BlockType, Encoder, numbers, version},
    bytes_codec::{Reader, put_version},
    form::{Form, FrameForm, KINDS_MAX},
    log::LARGE_BYTES,
    storage::{File, Storage},
};

/// The format version that this release writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"SIDECLOG";
const FIXED_BYTES: usize = 140;
/// Two bytes: how many the header has.
const LENGTH_AT: usize = 10;
/// Behind magic, version, length and flags.
const FIXED_FIELDS_AT: usize = 20;
const HEADER_BYTES_MAX: usize = 8192;
pub(crate) const DIALECT_BYTES: usize = 16;
const SUFFIX: &str = ".segment";
const TRAILER_MAGIC: [u8; 4] = *b"SEAL";
const TRAILER_BYTES: u64 = 16;
/// How much of what is no block is looked at when somebody reads it.
const UNREADABLE_BYTES_MAX: u32 = 1 << 20;
/// How much of something long is read at a time.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
/// What a footer takes for each block, and beside blocks and sources: its root, and some sources that are still to come.
const FOOTER_ENTRY_BYTES: usize = 45;
const FOOTER_FIXED_BYTES_MAX: usize = 632 + 4096;
/// The most blocks of a segment: a footer lists them all.
pub(crate) const SEGMENT_BLOCKS_MAX: usize = 1 << 20;

/// The file name of the segment that begins at `first_sequence`.
pub(crate) fn file_name(first_sequence: Sequence) -> String {
    format!("{first_sequence:020}{SUFFIX}")
}

/// The first sequence in a segment's file name; `None` for any other file.
pub(crate) fn parse_file_name(name: &str) -> Option<Sequence> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// What a segment says of itself before its first block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Which writing of this range it is: compaction counts it up.
    pub(crate) generation: u32,
    /// The zstd level that the blocks of events were compressed anew with; 0 while they are as they were committed.
    pub(crate) rewritten_level: u8,
    pub(crate) epoch: u64,
    pub(crate) log_id: [u8; 16],
    pub(crate) dialect: String,
    pub(crate) first_sequence: Sequence,
    pub(crate) created: Timestamp,
    /// What the wire form announced last before the first event.
    pub(crate) version_before: ApiVersion,
    /// The highest that any source had announced.
    pub(crate) version_announced: ApiVersion,
    /// Before the first event.
    pub(crate) chain_before: ChainValue,
    /// How its frames look, and what its kinds are called.
    pub(crate) form: Form,
}

impl SegmentHeader {
    /// The header's bytes. Dialect and kinds are within the limits that [`crate::Writer::open`] checks.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&u32::from(self.rewritten_level).to_le_bytes());
        out.extend_from_slice(&self.form.frames.bits().to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.log_id);
        let mut dialect = self.dialect.as_bytes().to_vec();
        dialect.resize(DIALECT_BYTES, 0);
        out.extend_from_slice(&dialect);
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.created.to_le_bytes());
        put_version(&mut out, self.version_before);
        put_version(&mut out, self.version_announced);
        out.extend_from_slice(&self.chain_before);
        out.extend_from_slice(&(self.form.kinds().len() as u32).to_le_bytes());
        for (number, name) in self.form.kinds() {
            out.push(*number);
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        let length = (out.len() + 4) as u16;
        if let Some(place) = out.get_mut(LENGTH_AT..LENGTH_AT + 2) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header and says how many bytes it takes.
    pub(crate) fn read(name: &str, file: &dyn File) -> Result<(SegmentHeader, u64)> {
        Self::decode(name, &Self::bytes(name, file)?)
    }

    /// As much of a file as a header may take.
    fn bytes(name: &str, file: &dyn File) -> Result<Vec<u8>> {
        let mut bytes = vec![0; HEADER_BYTES_MAX];
        let read = file.read_at(&mut bytes, 0).map_err(storage_error("read", name))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn decode(name: &str, bytes: &[u8]) -> Result<(SegmentHeader, u64)> {
        let corrupt = |reason: &str| Error::Corrupt { file: name.to_owned(), offset: 0, reason: reason.to_owned() };
        let mut reader = Reader::new(bytes);
        let magic: [u8; 8] = reader.array();
        if magic != MAGIC || bytes.len() < FIXED_BYTES {
            return Err(corrupt("no segment header begins here"));
        }
        let version = reader.u16();
        if version > FORMAT_VERSION {
            return Err(Error::NewerFormat { file: name.to_owned(), found: version, known: FORMAT_VERSION });
        }
        let length = usize::from(reader.u16());
        let (Some(covered), Some(crc)) =
            (bytes.get(..length.saturating_sub(4)), bytes.get(length.saturating_sub(4)..length))
        else {
            return Err(corrupt("the header is cut off"));
        };
        if length < FIXED_BYTES + 4 || crc32fast::hash(covered).to_le_bytes() != crc {
            return Err(corrupt("the header's checksum does not fit"));
        }
        let may_ignore = reader.u32();
        let must_understand = reader.u32();
        let Some(frames) = FrameForm::from_bits(must_understand) else {
            let file = name.to_owned();
            return Err(match must_understand {
                0 => Error::UnreleasedFormat { file },
                flags => Error::UnknownFeature { file, offset: 0, flags },
            });
        };
        let mut reader = Reader::new(covered);
        reader.take(FIXED_FIELDS_AT);
        let header = Self::fields(may_ignore, frames, &mut reader);
        if header.dialect.len() > DIALECT_BYTES || header.form.check().is_err() {
            return Err(corrupt("the header has names that no writer gives"));
        }
        Ok((header, length as u64))
    }

    /// What a damaged header still says, believed as it stands; `None` when its checksum fits, because then it is not
    /// damaged but of a release that this one does not know.
    pub(crate) fn salvage(name: &str, file: &dyn File) -> Result<Option<SegmentHeader>> {
        let bytes = Self::bytes(name, file)?;
        let mut reader = Reader::new(&bytes);
        reader.take(MAGIC.len() + 2);
        let length = usize::from(reader.u16());
        if let Some((covered, crc)) =
            bytes.get(..length).and_then(|header| header.split_at_checked(length.checked_sub(4)?))
            && crc32fast::hash(covered).to_le_bytes() == crc
        {
            return Ok(None);
        }
        let mut reader = Reader::new(&bytes);
        reader.take(FIXED_FIELDS_AT);
        // Nothing vouches for what the blocks look like.
        Ok(Some(Self::fields(0, FrameForm::Plain, &mut reader)))
    }

    /// A damaged header as it was written, where one flipped bit is all that is wrong with it: the checksum tells which.
    pub(crate) fn mend(name: &str, file: &dyn File) -> Result<Option<(SegmentHeader, u64)>> {
        let mut bytes = Self::bytes(name, file)?;
        // A flipped bit of the length has the checksum looked for elsewhere, so each is tried. Any other is computed.
        let [low, high] = [0, 1].map(|at| bytes.get(LENGTH_AT + at).copied().unwrap_or_default());
        let length = u16::from_le_bytes([low, high]).into();
        let computed = flipped_bit(bytes.get(..length).unwrap_or_default());
        for bit in (8 * LENGTH_AT..8 * (LENGTH_AT + 2)).chain(computed) {
            let flip = |bytes: &mut Vec<u8>| bytes.get_mut(bit / 8).map(|byte| *byte ^= 1 << (bit % 8));
            flip(&mut bytes);
            if let Ok(mended) = Self::decode(name, &bytes) {
                return Ok(Some(mended));
            }
            flip(&mut bytes);
        }
        Ok(None)
    }

    /// The fields behind magic, version, length and flags.
    fn fields(may_ignore: u32, frames: FrameForm, reader: &mut Reader<'_>) -> SegmentHeader {
        let [rewritten_level, ..] = may_ignore.to_le_bytes();
        let generation = reader.u32();
        let epoch = reader.u64();
        let log_id = reader.array();
        let dialect = reader.array::<DIALECT_BYTES>();
        let dialect = String::from_utf8_lossy(dialect.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned();
        let first_sequence = reader.u64();
        let created = reader.u64();
        let version_before = reader.version();
        let version_announced = reader.version();
        let chain_before = reader.array();
        let kind_count = reader.u32().min(KINDS_MAX as u32);
        let kinds = (0..kind_count)
            .map(|_| {
                let number = reader.u8();
                let length = usize::from(reader.u8());
                (number, String::from_utf8_lossy(reader.take(length)).into_owned())
            })
            .collect();
        SegmentHeader {
            generation,
            rewritten_level,
            epoch,
            log_id,
            dialect,
            first_sequence,
            created,
            version_before,
            version_announced,
            chain_before,
            form: Form::new(frames, kinds),
        }
    }
}

/// Which bit, counted from the first byte's lowest, was flipped in bytes that end in their CRC-32, if one was.
///
/// What a flipped bit changes in a CRC depends on nothing but its distance from the end, so that going backwards from
/// there, one division step a bit, comes by the difference that is seen.
fn flipped_bit(bytes: &[u8]) -> Option<usize> {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let (covered, stored) = bytes.split_last_chunk::<4>()?;
    let difference = crc32fast::hash(covered) ^ u32::from_le_bytes(*stored);
    let bits = 8 * covered.len();
    if difference.is_power_of_two() {
        // In the CRC itself.
        return Some(bits + difference.trailing_zeros() as usize);
    }
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
    let mut of_bit = 1;
    (0..bits).rev().find(|_| {
        of_bit = step(of_bit);
        of_bit == difference
    })
}

/// Where one block of a segment stands, and what a reader must know to skip it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct BlockEntry {
    pub(crate) first_sequence: Sequence,
    pub(crate) offset: u64,
    pub(crate) kinds: u64,
    pub(crate) received_max: Timestamp,
    /// Events, or 0 for a block of another type.
    pub(crate) count: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) payload_raw: u32,
    pub(crate) block_type: u8,
}

impl BlockEntry {
    pub(crate) fn new(header: &BlockHeader, offset: u64) -> Self {
        BlockEntry {
            first_sequence: header.first_sequence,
            offset,
            kinds: header.kinds,
            received_max: header.received_max,
            count: if header.block_type == BlockType::EVENTS { header.count } else { 0 },
            stored_bytes: header.stored_bytes() as u32,
            payload_raw: header.payload_raw,
            block_type: header.block_type.0,
        }
    }

    pub(crate) fn end_sequence(&self) -> Sequence {
        self.first_sequence.saturating_add(self.count.into())
    }

    /// Whether it stands for bytes that were no block when it was listed: a block of events is never empty.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.count > 0 && self.payload_raw == 0
    }

    /// Whether it is one event that is streamed and not held in memory.
    pub(crate) fn is_large(&self) -> bool {
        self.count == 1 && self.payload_raw > LARGE_BYTES
    }
}

/// What a sealed segment says of itself after its last block.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Footer {
    /// The sequence after the last event.
    pub(crate) end_sequence: Sequence,
    /// Events by kind number.
    pub(crate) counts: [u64; 64],
    pub(crate) received_min: Timestamp,
    pub(crate) received_max: Timestamp,
    /// Wire bytes of all events.
    pub(crate) payload_raw: u64,
    pub(crate) marks: u64,
    /// What the wire form announced last.
    version_after: [u32; 3],
    /// The highest that any source had announced.
    version_announced: [u32; 3],
    pub(crate) chain_after: ChainValue,
    /// The segment's header as it is stored, in case that one is damaged.
    pub(crate) header: Vec<u8>,
    pub(crate) sources: Vec<String>,
    pub(crate) blocks: Vec<BlockEntry>,
}

impl Footer {
    /// A footer of no block yet.
    pub(crate) fn empty(header: &SegmentHeader) -> Self {
        Footer {
            end_sequence: header.first_sequence,
            counts: [0; 64],
            received_min: Timestamp::MAX,
            received_max: 0,
            payload_raw: 0,
            marks: 0,
            version_after: numbers(header.version_before),
            version_announced: numbers(header.version_announced),
            chain_after: header.chain_before,
            header: header.encode(),
            sources: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Takes one more block into account, except its events by kind and their sources.
    pub(crate) fn add(&mut self, header: &BlockHeader, offset: u64) {
        self.blocks.push(BlockEntry::new(header, offset));
        self.end_sequence = self.end_sequence.max(header.end_sequence());
        match header.block_type {
            BlockType::EVENTS => {
                self.payload_raw += u64::from(header.payload_raw);
                self.received_min = self.received_min.min(header.received_min);
                self.received_max = self.received_max.max(header.received_max);
                self.chain_after = header.chain_after;
                self.version_after = numbers(header.version_after);
            }
            BlockType::MARKS => {
                self.marks += u64::from(header.count);
                // The same as before, except behind a loss, where the log goes on from what its mark says.
                self.chain_after = header.chain_after;
                self.version_after = numbers(header.version_before);
            }
            _ => {}
        }
        self.version_announced = self.version_announced.max(numbers(header.version_after));
    }

    /// Lists bytes that are no block as if they were one that holds the events up to `end_sequence`: who reads it will
    /// find what is wrong with it.
    pub(crate) fn add_unreadable(&mut self, end_sequence: Sequence, place: Range<u64>) {
        let count = u32::try_from(end_sequence - self.end_sequence).unwrap_or(u32::MAX);
        if count > 0 {
            self.blocks.push(BlockEntry {
                first_sequence: self.end_sequence,
                offset: place.start,
                kinds: u64::MAX,
                received_max: self.received_max,
                count,
                stored_bytes: u32::try_from(place.end - place.start).unwrap_or(u32::MAX).min(UNREADABLE_BYTES_MAX),
                payload_raw: 0,
                block_type: BlockType::EVENTS.0,
            });
        }
        self.end_sequence = end_sequence;
    }

    /// Counts one event.
    pub(crate) fn count(&mut self, kind: crate::Kind, source: &str) {
        if let Some(count) = self.counts.get_mut(usize::from(kind.0.min(63))) {
            *count += 1;
        }
        if !self.sources.iter().any(|known| known == source) && self.sources.len() < 256 {
            self.sources.push(source.to_owned());
        }
    }

    /// Where the log stands after this segment.
    pub(crate) fn position(&self) -> Position {
        Position {
            next_sequence: self.end_sequence,
            wire_version: version(self.version_after),
            announced_version: version(self.version_announced),
            chain: self.chain_after,
        }
    }

    /// The most bytes that [`Footer::encode`] makes when so many blocks are still to come.
    pub(crate) fn encoded_bytes_max(&self, more_blocks: usize) -> u64 {
        let blocks = (self.blocks.len() + more_blocks) * FOOTER_ENTRY_BYTES;
        let sources: usize = self.sources.iter().map(|source| source.len() + 8).sum();
        (BLOCK_HEADER_BYTES + FOOTER_FIXED_BYTES_MAX + self.header.len() + sources + blocks) as u64 + TRAILER_BYTES
    }

    /// The footer block and the trailer behind it, for a segment whose blocks end at `offset`.
    pub(crate) fn encode(&self, offset: u64, encoder: &mut Encoder) -> std::io::Result<Vec<u8>> {
        let raw = rkyv::to_bytes::<rancor::Error>(self).map_err(std::io::Error::other)?;
        let header = BlockHeader {
            block_type: BlockType::FOOTER,
            count: 0,
            first_sequence: self.end_sequence,
            kinds: 0,
            received_min: self.received_min,
            received_max: self.received_max,
            version_before: version(self.version_after),
            version_after: version(self.version_announced),
            table_stored: 0,
            table_raw: 0,
            payload_stored: 0,
            payload_raw: 0,
            chain_after: self.chain_after,
            table_crc: 0,
            payload_crc: 0,
            synced_before: false,
        };
        let mut out = Vec::new();
        block::encode_plain(header, &raw, encoder, &mut out)?;
        out.extend_from_slice(&Self::trailer(offset));
        Ok(out)
    }

    /// The end of a segment whose footer begins at `offset`.
    pub(crate) fn trailer(offset: u64) -> Vec<u8> {
        let mut trailer = offset.to_le_bytes().to_vec();
        trailer.extend_from_slice(&TRAILER_MAGIC);
        let crc = crc32fast::hash(&trailer);
        trailer.extend_from_slice(&crc.to_le_bytes());
        trailer
    }

    /// Finds the footer block of a sealed segment: its header and offset; `None` when the file does not end in a trailer.
    ///
    /// The header alone tells where the events end and their receive times, in two small reads.
    pub(crate) fn find(name: &str, file: &dyn File) -> Result<Option<(BlockHeader, u64)>> {
        let length = file.len().map_err(storage_error("read", name))?;
        let Some(trailer_at) = length.checked_sub(TRAILER_BYTES) else { return Ok(None) };
        let trailer = read_exact(name, file, trailer_at, TRAILER_BYTES as usize)?;
        let (covered, crc) = trailer.split_at(trailer.len().saturating_sub(4));
        if !covered.ends_with(&TRAILER_MAGIC) || crc32fast::hash(covered).to_le_bytes() != crc {
            return Ok(None);
        }
        let offset = Reader::new(covered).u64();
        let no_footer =
            || Error::Corrupt { file: name.to_owned(), offset, reason: "the trailer points at no footer".to_owned() };
        if offset >= trailer_at {
            return Err(no_footer());
        }
        let header = read_block_header(name, file, offset)?.ok_or_else(no_footer)?;
        if header.block_type != BlockType::FOOTER || offset + header.stored_bytes() != trailer_at {
            return Err(no_footer());
        }
        Ok(Some((header, offset)))
    }

    /// Reads the footer of a sealed segment and says where it begins; `None` when the file does not end in a trailer.
    pub(crate) fn read(name: &str, file: &dyn File) -> Result<Option<(Footer, u64)>> {
        let Some((header, offset)) = Self::find(name, file)? else { return Ok(None) };
        let corrupt = |reason: String| Error::Corrupt { file: name.to_owned(), offset, reason };
        let parts = read_exact(name, file, offset + BLOCK_HEADER_BYTES as u64, header.table_stored as usize)?;
        let table = block::decode_table_part(&header, &parts).map_err(|error| block_error(name, offset, error))?;
        let footer = rkyv::from_bytes::<Footer, rancor::Error>(&table)
            .map_err(|error| corrupt(format!("the footer does not decode: {error}")))?;
        footer.check(offset).map_err(corrupt)?;
        Ok(Some((footer, offset)))
    }

    /// Whether the blocks it lists stand one behind the other, in the file and in their sequences.
    fn check(&self, footer_offset: u64) -> std::result::Result<(), String> {
        let (mut offset, mut sequence) = (0, 0);
        for entry in &self.blocks {
            let end = entry.offset.checked_add(entry.stored_bytes.into());
            let Some(end) = end.filter(|&end| entry.offset >= offset && end <= footer_offset) else {
                return Err(format!("the footer lists a block at byte {} that cannot be there", entry.offset));
            };
            if BlockType(entry.block_type).has_position() {
                if entry.first_sequence < sequence {
                    return Err(format!("the footer lists sequence {} behind {sequence}", entry.first_sequence));
                }
                sequence = entry.end_sequence();
            }
            offset = end;
        }
        if sequence > self.end_sequence {
            return Err(format!("the footer ends at sequence {} and lists {sequence}", self.end_sequence));
        }
        Ok(())
    }
}

/// A place between two events, and what is in force there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) next_sequence: Sequence,
    /// What the wire form has announced last.
    pub(crate) wire_version: ApiVersion,
    /// The highest that any source has announced; the wire form says so before the next event.
    pub(crate) announced_version: ApiVersion,
    pub(crate) chain: ChainValue,
}

/// A segment is in a file of another segment's name.
pub(crate) fn misnamed(file: String, first_sequence: Sequence) -> Error {
    let right = file_name(first_sequence);
    let reason = format!("it is the segment that begins at sequence {first_sequence} and belongs in {right}");
    Error::Corrupt { file, offset: 0, reason }
}

/// A segment file open for reading.
pub(crate) struct SegmentFile {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: SegmentHeader,
    /// Where the first block stands.
    pub(crate) blocks_start: u64,
}

impl SegmentFile {
    pub(crate) fn open(storage: &dyn Storage, first_sequence: Sequence, write: bool) -> Result<Self> {
        let name = file_name(first_sequence);
        let file = storage.open(&name, write).map_err(storage_error("open", &name))?;
        let (header, blocks_start) = SegmentHeader::read(&name, file.as_ref())?;
        if header.first_sequence != first_sequence {
            return Err(misnamed(name, header.first_sequence));
        }
        Ok(SegmentFile { name, file, header, blocks_start })
    }

    /// Opens a file for reading that may have another name than its segment: one that is being written aside.
    pub(crate) fn open_aside(storage: &dyn Storage, name: &str) -> Result<Self> {
        let file = storage.open(name, false).map_err(storage_error("open", name))?;
        let (header, blocks_start) = SegmentHeader::read(name, file.as_ref())?;
        Ok(SegmentFile { name: name.to_owned(), file, header, blocks_start })
    }

    pub(crate) fn read_header(&self, offset: u64) -> Result<Option<BlockHeader>> {
        read_block_header(&self.name, self.file.as_ref(), offset)
    }

    /// The bytes of a block: header and parts.
    pub(crate) fn read_block(&self, offset: u64, stored_bytes: u32) -> Result<(BlockHeader, Vec<u8>)> {
        let mut bytes = vec![0; stored_bytes as usize];
        let header = self.read_block_into(offset, &mut bytes)?;
        Ok((header, bytes))
    }

    /// Reads a block that is as long as `bytes`.
    pub(crate) fn read_block_into(&self, offset: u64, bytes: &mut [u8]) -> Result<BlockHeader> {
        read_into(&self.name, self.file.as_ref(), offset, bytes)?;
        let header = BlockHeader::decode(bytes).map_err(|error| self.corrupt(offset, error))?;
        if header.stored_bytes() != bytes.len() as u64 {
            return Err(self.corrupt(offset, block::corrupt("the block has another length than its index says")));
        }
        Ok(header)
    }

    pub(crate) fn corrupt(&self, offset: u64, error: BlockError) -> Error {
        block_error(&self.name, offset, error)
    }

    /// The first offset from `from` on where a sound block of events or marks stands that begins at `sequence` or later
    /// and is `wanted`, and the sequence that it begins at.
    pub(crate) fn find_block_after(
        &self,
        from: u64,
        sequence: Sequence,
        wanted: impl Fn(u64, &BlockHeader) -> bool,
    ) -> Result<Option<(u64, Sequence)>> {
        const STEP: usize = 1 << 20;
        let mut at = from;
        let mut bytes = vec![0; STEP + BLOCK_HEADER_BYTES];
        loop {
            let read = self.file.read_at(&mut bytes, at).map_err(storage_error("read", &self.name))?;
            let window = bytes.get(..read).unwrap_or_default();
            for found in memchr::memmem::find_iter(window, b"SBLK") {
                let offset = at + found as u64;
                if let Some(Ok(header)) = window.get(found..).map(BlockHeader::decode)
                    && header.first_sequence >= sequence
                    && header.block_type.has_position()
                    && wanted(offset, &header)
                {
                    match self.check_parts(offset, &header) {
                        Ok(()) => return Ok(Some((offset, header.first_sequence))),
                        Err(Error::Corrupt { .. }) => {}
                        // A block that cannot be read just now is not a bad one: it must not be passed over.
                        Err(error) => return Err(error),
                    }
                }
            }
            if read < bytes.len() {
                return Ok(None);
            }
            at += STEP as u64;
        }
    }

    /// What is known about the events of a block, without their wire form.
    pub(crate) fn read_shape(&self, offset: u64) -> Result<(BlockHeader, Block)> {
        let corrupt = |error| self.corrupt(offset, error);
        let header = self.read_header(offset)?.ok_or_else(|| corrupt(BlockError::End))?;
        let table_at = offset + BLOCK_HEADER_BYTES as u64;
        let table = read_exact(&self.name, self.file.as_ref(), table_at, header.table_stored as usize)?;
        let shape = Block::shape(&header, &self.header.form, &table).map_err(corrupt)?;
        Ok((header, shape))
    }

    /// Checks the parts of a block against their checksums, in pieces: the block may be larger than memory allows.
    pub(crate) fn check_parts(&self, offset: u64, header: &BlockHeader) -> Result<()> {
        let table_at = offset + BLOCK_HEADER_BYTES as u64;
        let payload_at = table_at + u64::from(header.table_stored);
        for (at, length, crc, part) in [
            (table_at, header.table_stored, header.table_crc, "table"),
            (payload_at, header.payload_stored, header.payload_crc, "payload"),
        ] {
            if self.checksum(at, length.into())? != crc {
                let reason = format!("the {part}'s checksum does not fit");
                return Err(self.corrupt(offset, block::corrupt(reason)));
            }
        }
        Ok(())
    }

    fn checksum(&self, mut at: u64, length: u64) -> Result<u32> {
        let mut crc = crc32fast::Hasher::new();
        let mut piece = vec![0; length.min(PIECE_BYTES as u64) as usize];
        let end = at + length;
        while at < end {
            piece.truncate((end - at).min(PIECE_BYTES as u64) as usize);
            read_into(&self.name, self.file.as_ref(), at, &mut piece)?;
            crc.update(&piece);
            at += piece.len() as u64;
        }
        Ok(crc.finalize())
    }

    /// The offset behind the last byte that is not zero, or `from` if there is none: preallocated room reads as zeros.
    pub(crate) fn end_of_written(&self, from: u64) -> Result<u64> {
        let mut end = from;
        self.read_pieces(from, |at, piece| {
            if let Some(last) = piece.iter().rposition(|&byte| byte != 0) {
                end = at + last as u64 + 1;
            }
            Ok(())
        })?;
        Ok(end)
    }

    /// Goes through the file from `from` to its end.
    pub(crate) fn read_pieces(&self, from: u64, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut at = from;
        loop {
            let read = self.file.read_at(&mut piece, at).map_err(storage_error("read", &self.name))?;
            each(at, piece.get(..read).unwrap_or_default())?;
            at += read as u64;
            if read < piece.len() {
                return Ok(());
            }
        }
    }
}

fn read_block_header(name: &str, file: &dyn File, offset: u64) -> Result<Option<BlockHeader>> {
    let mut bytes = [0; BLOCK_HEADER_BYTES];
    let read = file.read_at(&mut bytes, offset).map_err(storage_error("read", name))?;
    match BlockHeader::decode(bytes.get(..read).unwrap_or_default()) {
        Ok(header) => Ok(Some(header)),
        Err(BlockError::End) => Ok(None),
        Err(error) => Err(block_error(name, offset, error)),
    }
}

pub(crate) fn read_exact(name: &str, file: &dyn File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    read_into(name, file, offset, &mut bytes)?;
    Ok(bytes)
}

pub(crate) fn read_into(name: &str, file: &dyn File, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let read = file.read_at(bytes, offset).map_err(storage_error("read", name))?;
    if read < bytes.len() {
        let reason = format!("the file ends {} bytes too early", bytes.len() - read);
        return Err(Error::Corrupt { file: name.to_owned(), offset, reason });
    }
    Ok(())
}

pub(crate) fn block_error(name: &str, offset: u64, error: BlockError) -> Error {
    let file = name.to_owned();
    match error {
        BlockError::End => Error::Corrupt { file, offset, reason: "the block is missing".to_owned() },
        BlockError::Corrupt(reason) => Error::Corrupt { file, offset, reason: reason.into_owned() },
        BlockError::Unknown(flags) => Error::UnknownFeature { file, offset, flags },
    }
}

pub(crate) fn storage_error(operation: &'static str, file: &str) -> impl Fn(std::io::Error) -> Error {
    let file = file.to_owned();
    move |source| Error::Storage { operation, file: file.clone(), source }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::storage::Directory;

    #[test]
    fn a_header_is_set_right_whichever_bit_of_it_was_flipped_and_not_behind_two() {
        let header = SegmentHeader {
            generation: 1,
            rewritten_level: 19,
            epoch: 2,
            log_id: [7; 16],
            dialect: "casper".to_owned(),
            first_sequence: 12_345,
            created: 1_700_000_000_000_000,
            version_before: ApiVersion { major: 1, minor: 5, patch: 8 },
            version_announced: ApiVersion { major: 2, minor: 0, patch: 0 },
            chain_before: std::array::from_fn(|place| place as u8),
            form: Form::new(FrameForm::Named, vec![(1, "BlockAdded".to_owned()), (2, "Fault".to_owned())]),
        };
        let written = header.encode();
        let directory = tempfile::tempdir().unwrap();
        let file = Directory::at(directory.path()).create("a segment").unwrap();
        let mend = |bytes: &[u8]| {
            file.write_at(bytes, 0).unwrap();
            SegmentHeader::mend("a segment", file.as_ref()).unwrap()
        };
        let mut bytes = written.clone();
        bytes.extend_from_slice(b"SBLK and what a block is made of");
        for bit in 0..8 * written.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(mend(&bytes), Some((header.clone(), written.len() as u64)), "bit {bit}");
            let other = (bit * 7 + 13) % (8 * written.len());
            if other != bit {
                bytes[other / 8] ^= 1 << (other % 8);
                assert_eq!(mend(&bytes), None, "bits {bit} and {other}");
                bytes[other / 8] ^= 1 << (other % 8);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn every_footer_comes_back_and_no_flipped_byte_of_it_is_believed(
            blocks in vec((0..1000u32, 144..1_000_000u32, any::<[u64; 2]>(), any::<u32>()), 0..20),
            counts in any::<[u64; 2]>(),
            sources in vec("[a-z0-9.:]{0,20}", 0..5),
            chain_after in any::<ChainValue>(),
            versions in any::<[[u32; 3]; 2]>(),
            flipped in any::<prop::sample::Index>(),
        ) {
            let mut footer = Footer {
                end_sequence: 7,
                counts: std::array::from_fn(|place| counts[place % 2]),
                received_min: counts[0],
                received_max: counts[1],
                payload_raw: counts[0],
                marks: counts[1],
                version_after: versions[0],
                version_announced: versions[1],
                chain_after,
                header: vec![7; 150],
                sources,
                blocks: Vec::new(),
            };
            let mut end = 0;
            for (count, stored_bytes, [kinds, received_max], payload_raw) in blocks {
                footer.blocks.push(BlockEntry {
                    first_sequence: footer.end_sequence,
                    offset: end,
                    kinds,
                    received_max,
                    count,
                    stored_bytes,
                    payload_raw,
                    block_type: BlockType::EVENTS.0,
                });
                end += u64::from(stored_bytes);
                footer.end_sequence += u64::from(count);
            }
            let directory = tempfile::tempdir().unwrap();
            let file = Directory::at(directory.path()).create("a segment").unwrap();
            let mut bytes = footer.encode(end, &mut Encoder::new(1).unwrap()).unwrap();
            file.write_at(&bytes, end).unwrap();
            prop_assert_eq!(Footer::read("a segment", file.as_ref()).unwrap(), Some((footer, end)));

            *flipped.get_mut(&mut bytes) ^= 0x10;
            file.write_at(&bytes, end).unwrap();
            prop_assert!(!matches!(Footer::read("a segment", file.as_ref()), Ok(Some(_))));
        }
    }
}
