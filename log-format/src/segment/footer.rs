//! The footer of a sealed segment: what it says of itself after its last block, and the list of its blocks.
//!
//! [`Footer::find`] reads two small pieces, [`Footer::read`] all of it. While a segment is being written, its footer is put
//! together block by block in memory.

use std::ops::Range;

use rkyv::rancor;

use super::header::SegmentHeader;
use crate::{
    ChainValue, Error, Result, Sequence, Timestamp,
    block::{self, BLOCK_HEADER_BYTES, Block, BlockHeader, BlockType, Encoder, LARGE_BYTES, numbers, version},
    bytes_codec::{Reader, checked, put_checksum},
    error::{Operation, storage_error},
    pieces::read_exact,
    position::Position,
    storage::File,
};

const TRAILER_MAGIC: [u8; 4] = *b"SEAL";
const TRAILER_BYTES: u64 = 16;
/// How much of what is not a block is read when a reader asks for it.
const UNREADABLE_BYTES_MAX: u32 = 1 << 20;
/// What a footer takes for each block, and beside blocks and sources: its root, and some sources that are still to come.
const FOOTER_ENTRY_BYTES: usize = 45;
const FOOTER_FIXED_BYTES_MAX: usize = 632 + 4096;
/// The most blocks of a segment: a footer lists them all.
pub(crate) const SEGMENT_BLOCKS_MAX: usize = 1 << 20;
/// The most sources that a footer lists.
const SOURCES_MAX: usize = 256;

/// Where one block of a segment is, and what a reader must know to skip it.
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

    /// Whether it represents bytes that were not a block when it was listed: a block of events is never empty.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.count > 0 && self.payload_raw == 0
    }

    /// The entries of blocks of events, and those of marks.
    pub(crate) fn split(blocks: &[BlockEntry]) -> (Vec<BlockEntry>, Vec<BlockEntry>) {
        let of_type = |wanted: BlockType| blocks.iter().filter(move |entry| entry.block_type == wanted.0).copied();
        (of_type(BlockType::EVENTS).collect(), of_type(BlockType::MARKS).collect())
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
                // The same as before, except after a loss, where the log continues from what its mark says.
                self.chain_after = header.chain_after;
                self.version_after = numbers(header.version_before);
            }
            _ => {}
        }
        self.version_announced = self.version_announced.max(numbers(header.version_after));
    }

    /// Lists bytes that are not a block as if they were one that holds the events up to `end_sequence`: who reads it will
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

    /// Counts the events of a block by kind, and lists their sources.
    pub(crate) fn count(&mut self, events: &Block) {
        for row in events.rows() {
            if let Some(count) = self.counts.get_mut(usize::from(row.kind().0.min(63))) {
                *count += 1;
            }
            if !self.sources.iter().any(|known| known == row.source()) && self.sources.len() < SOURCES_MAX {
                self.sources.push(row.source().to_owned());
            }
        }
    }

    /// Forgets what [`Footer::count`] has counted.
    pub(crate) fn clear_counts(&mut self) {
        self.counts = [0; 64];
        self.sources.clear();
    }

    /// The blocks of events, and those of marks.
    pub(crate) fn split_blocks(&self) -> (Vec<BlockEntry>, Vec<BlockEntry>) {
        BlockEntry::split(&self.blocks)
    }

    /// Where the log is after this segment.
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

    /// The footer block and the trailer after it, for a segment whose blocks end at `offset`.
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
        put_checksum(&mut trailer, 0);
        trailer
    }

    /// Finds the footer block of a sealed segment: its header and offset; `None` when the file does not end in a trailer.
    ///
    /// The header alone has the end of the events and their receive times, in two small reads.
    pub(crate) fn find(name: &str, file: &dyn File) -> Result<Option<(BlockHeader, u64)>> {
        let length = file.len().map_err(storage_error(Operation::Read, name))?;
        let Some(trailer_at) = length.checked_sub(TRAILER_BYTES) else { return Ok(None) };
        let trailer = read_exact(name, file, trailer_at, TRAILER_BYTES as usize)?;
        let covered = checked(&trailer).filter(|covered| covered.ends_with(&TRAILER_MAGIC));
        let Some(covered) = covered else { return Ok(None) };
        let offset = Reader::new(covered).u64();
        let no_footer =
            || Error::Corrupt { file: name.to_owned(), offset, reason: "the trailer points at no footer".to_owned() };
        if offset >= trailer_at {
            return Err(no_footer());
        }
        let header = BlockHeader::read(name, file, offset)?.ok_or_else(no_footer)?;
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
        let table = block::decode_table_part(&header, &parts).map_err(|error| error.at(name, offset))?;
        let footer = rkyv::from_bytes::<Footer, rancor::Error>(&table)
            .map_err(|error| corrupt(format!("the footer does not decode: {error}")))?;
        footer.check(offset).map_err(corrupt)?;
        Ok(Some((footer, offset)))
    }

    /// Whether the blocks it lists are one after the other, in the file and in their sequences.
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::storage::{Directory, Storage};

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
