//! A segment open for reading, and where its header is found if the first one is damaged.

use std::{fmt, sync::Arc};

use super::{
    footer::{BlockEntry, Footer},
    header::SegmentHeader,
    name::{file_name, parse_file_name},
};
use crate::{
    Error, Mark, Result, Sequence,
    block::{self, BLOCK_HEADER_BYTES, Block, BlockError, BlockHeader, BlockType},
    buffers,
    error::{Operation, Unreadable, storage_error},
    form::Form,
    head,
    pieces::{checksum, open, read_at, read_exact, read_into, read_readable},
    storage::{File, Storage},
};

/// What is wrong with the header at the start of a segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderDamage {
    pub(crate) reason: String,
    /// Where the header was taken from instead.
    pub(crate) source: HeaderSource,
}

/// What a header is read from if the one at the start of the file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderSource {
    /// The copy in the segment's own footer.
    Footer,
    /// The copy of the newest segment's header in the file `head`.
    Head,
    /// No copy: it is put together from the segment's blocks and from other segments.
    Neighbours,
}

impl fmt::Display for HeaderDamage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            HeaderSource::Footer => "read from its copy in the footer",
            HeaderSource::Head => "read from its copy in the file `head`",
            HeaderSource::Neighbours => "it has no copy; a repair puts it together from other segments",
        };
        write!(formatter, "{} ({source})", self.reason)
    }
}

impl HeaderSource {
    /// Whether the header is byte for byte what was written.
    pub(crate) fn is_copy(self) -> bool {
        self != HeaderSource::Neighbours
    }
}

/// A segment's header, where its blocks begin, and what is wrong with the header at the start of the file.
pub(crate) struct FoundHeader {
    pub(crate) header: SegmentHeader,
    pub(crate) blocks_start: u64,
    pub(crate) damage: Option<HeaderDamage>,
}

/// Reads a segment's header, or a copy of it if it is damaged. The damage itself is the error if there is no copy.
pub(crate) fn find_header(storage: &dyn Storage, name: &str, file: &dyn File) -> Result<FoundHeader> {
    let error = match SegmentHeader::read(name, file) {
        Err(error) if error.is_bad_bytes() => error,
        read => return read.map(|(header, blocks_start)| FoundHeader { header, blocks_start, damage: None }),
    };
    let Some(((header, blocks_start), source)) = find_header_copy(storage, name, file)? else { return Err(error) };
    let reason = error.bad_bytes()?.reason;
    Ok(FoundHeader { header, blocks_start, damage: Some(HeaderDamage { reason, source }) })
}

/// A copy of a segment's header, with where its blocks begin, and where it was found.
fn find_header_copy(
    storage: &dyn Storage,
    name: &str,
    file: &dyn File,
) -> Result<Option<((SegmentHeader, u64), HeaderSource)>> {
    match Footer::read(name, file) {
        Ok(Some((footer, _))) => {
            if let Ok(copy) = SegmentHeader::decode(name, &footer.header) {
                return Ok(Some((copy, HeaderSource::Footer)));
            }
        }
        Ok(None) => {}
        Err(error) if error.is_damage() => {}
        Err(error) => return Err(error),
    }
    // An unsealed segment has no footer.
    let copy = match head::segment_header(storage) {
        Err(error) if error.is_bad_bytes() => None,
        copy => copy?,
    };
    let copy = copy.and_then(|copy| SegmentHeader::decode(name, &copy).ok());
    let copy = copy.filter(|(header, _)| Some(header.first_sequence) == parse_file_name(name));
    Ok(copy.map(|copy| (copy, HeaderSource::Head)))
}

/// A segment is in a file of another segment's name.
fn misnamed(file: String, first_sequence: Sequence) -> Error {
    let right = file_name(first_sequence);
    let reason = format!("it is the segment that begins at sequence {first_sequence} and belongs in {right}");
    Error::Corrupt { file, offset: 0, reason }
}

/// A segment file open for reading.
pub(crate) struct SegmentFile {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: SegmentHeader,
    /// Where the first block is.
    pub(crate) blocks_start: u64,
    /// What is wrong with the header at the start of the file: `header` was read elsewhere then.
    pub(crate) header_damage: Option<HeaderDamage>,
}

impl SegmentFile {
    pub(crate) fn open(storage: &dyn Storage, first_sequence: Sequence, write: bool) -> Result<Self> {
        let name = file_name(first_sequence);
        let file = match write {
            true => storage.open(&name, true).map_err(storage_error(Operation::Open, &name))?,
            false => open(storage, &name)?,
        };
        let found = find_header(storage, &name, file.as_ref())?;
        Self::found(name, file, first_sequence, found)
    }

    /// An open file whose header was found. That the header is of another segment than `first_sequence` is damage.
    pub(crate) fn found(
        name: String,
        file: Arc<dyn File>,
        first_sequence: Sequence,
        found: FoundHeader,
    ) -> Result<Self> {
        let FoundHeader { header, blocks_start, damage } = found;
        if header.first_sequence != first_sequence {
            return Err(misnamed(name, header.first_sequence));
        }
        Ok(SegmentFile { name, file, header, blocks_start, header_damage: damage })
    }

    /// Opens a file for reading that may have another name than its segment: one that is being written aside.
    pub(crate) fn open_aside(storage: &dyn Storage, name: &str) -> Result<Self> {
        let file = open(storage, name)?;
        let (header, blocks_start) = SegmentHeader::read(name, file.as_ref())?;
        Ok(SegmentFile { name: name.to_owned(), file, header, blocks_start, header_damage: None })
    }

    pub(crate) fn read_header(&self, offset: u64) -> Result<Option<BlockHeader>> {
        BlockHeader::read(&self.name, self.file.as_ref(), offset)
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
        error.at(&self.name, offset)
    }

    /// The first offset from `from` on where a sound block of events or marks is that begins at `sequence` or later
    /// and is `wanted`, and the sequence that it begins at.
    pub(crate) fn find_block_after(
        &self,
        from: u64,
        sequence: Sequence,
        unreadable: Unreadable,
        wanted: impl Fn(u64, &BlockHeader) -> bool,
    ) -> Result<Option<(u64, Sequence)>> {
        const STEP: usize = 1 << 20;
        let length = self.file.len().map_err(storage_error(Operation::Read, &self.name))?;
        let mut at = from;
        let mut bytes = vec![0; STEP + BLOCK_HEADER_BYTES];
        loop {
            let read = match unreadable {
                Unreadable::IsDamage => read_readable(&self.name, self.file.as_ref(), at, &mut bytes)?,
                Unreadable::IsAnError => read_at(&self.name, self.file.as_ref(), at, &mut bytes)?,
            };
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
                        Err(error) if unreadable.is_passed_over(&error) => {}
                        // A block that cannot be read just now is not a bad one: it must not be passed over.
                        Err(error) => return Err(error),
                    }
                }
            }
            at += STEP as u64;
            if read < bytes.len() || at >= length {
                return Ok(None);
            }
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
            if checksum(&self.name, self.file.as_ref(), at..at + u64::from(length))? != crc {
                let reason = format!("the {part}'s checksum does not fit");
                return Err(self.corrupt(offset, block::corrupt(reason)));
            }
        }
        Ok(())
    }

    /// Reads a listed block and decodes its stored parts, which need not outlive that.
    pub(crate) fn load<T>(
        &self,
        entry: &BlockEntry,
        decode: impl FnOnce(&BlockHeader, &Form, &[u8]) -> std::result::Result<T, BlockError>,
    ) -> Result<T> {
        let (header, stored) = self.read_entry(entry)?;
        let parts = stored.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        let decoded = decode(&header, &self.header.form, parts).map_err(|error| self.corrupt(entry.offset, error));
        buffers::give_back(stored);
        decoded
    }

    /// The bytes of a listed block of events.
    pub(crate) fn read_entry(&self, entry: &BlockEntry) -> Result<(BlockHeader, Vec<u8>)> {
        let mut bytes = buffers::take(entry.stored_bytes as usize);
        bytes.resize(entry.stored_bytes as usize, 0);
        let header = self.read_block_into(entry.offset, &mut bytes)?;
        self.check_listed(entry, &header)?;
        Ok((header, bytes))
    }

    /// Checks that a block is the one that its entry lists: a reader continues where the entry ends.
    pub(crate) fn check_listed(&self, entry: &BlockEntry, header: &BlockHeader) -> Result<()> {
        let is_listed = header.block_type == BlockType::EVENTS
            && header.first_sequence == entry.first_sequence
            && header.count == entry.count;
        if is_listed { Ok(()) } else { Err(self.not_listed(entry.offset)) }
    }

    /// Another block is where the index says.
    pub(crate) fn not_listed(&self, offset: u64) -> Error {
        self.corrupt(offset, block::corrupt("another block stands where the index says"))
    }

    /// Appends the marks of these blocks, as far as they can be read.
    pub(crate) fn read_marks(
        &self,
        entries: &[BlockEntry],
        marks: &mut Vec<Mark>,
        unreadable: Unreadable,
    ) -> Result<()> {
        for entry in entries {
            match self.marks_of(entry) {
                Ok((_, mut read)) => marks.append(&mut read),
                Err(error) if unreadable.is_passed_over(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The marks of a block, and its header.
    pub(crate) fn marks_of(&self, entry: &BlockEntry) -> Result<(BlockHeader, Vec<Mark>)> {
        let (header, bytes) = self.read_block(entry.offset, entry.stored_bytes)?;
        let parts = bytes.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        let marks = block::decode_marks(&header, &self.header.form, parts);
        let marks = marks.map_err(|error| self.corrupt(entry.offset, error))?;
        Ok((header, marks))
    }

    /// All marks of the segment, whose blocks `footer` lists, as far as they can be read.
    pub(crate) fn all_marks(&self, footer: &Footer) -> Result<Vec<Mark>> {
        let (_, entries) = footer.split_blocks();
        let mut marks = Vec::new();
        self.read_marks(&entries, &mut marks, Unreadable::IsDamage)?;
        Ok(marks)
    }

    /// Counts events by kind and source, which block headers do not have, from the tables of the listed blocks. A damaged
    /// block counts for nothing, and is handed to `on_damage`.
    pub(crate) fn count_events(&self, footer: &mut Footer, mut on_damage: impl FnMut(Error)) -> Result<()> {
        // What its writer has counted since it opened the segment is among the blocks too.
        footer.clear_counts();
        let (events, _) = footer.split_blocks();
        for entry in events {
            match self.read_shape(entry.offset) {
                Ok((_, shape)) => footer.count(&shape),
                Err(error) if error.is_damage() => on_damage(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
