//! Block headers: 144 bytes before the parts of a block, which say all that a reader needs to skip it.
//!
//! [`BlockHeader::decode`] believes nothing: the checksum covers every byte, and every length is checked against its limit.

use std::borrow::Cow;

use crate::{
    ApiVersion, ChainValue, Error, Sequence, Timestamp,
    bytes_codec::{Reader, checked, put_checksum, put_version},
    pieces::read_at,
    storage::File,
};

/// Bytes of a block header on disk.
pub(crate) const BLOCK_HEADER_BYTES: usize = 144;
/// The largest wire form of one block: one event of the largest size, folded over lines at worst.
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 1 << 30;
/// The largest wire form of a block of more than one event: what a reader must hold in memory.
pub(crate) const SHARED_PAYLOAD_BYTES_MAX: u32 = 16 << 20;
/// An event larger than this has a block of its own. It is read in pieces and not cached.
pub(crate) const LARGE_BYTES: u32 = 1 << 20;
/// The largest table: the footer of a segment of a million blocks.
const TABLE_BYTES_MAX: u32 = 64 << 20;
/// What the name table, the versions and the rises of a block take at most.
const TABLE_FIXED_BYTES_MAX: u64 = 1 << 20;
/// The most events in one block.
pub(crate) const BLOCK_EVENTS_MAX: usize = 65_535;

const MAGIC: [u8; 4] = *b"SBLK";
const HEADER_VERSION: u8 = 1;
const ROW_VERSION: u16 = 1;
/// What a row takes in the table's columns together.
const ROW_BYTES: u16 = 34;
/// Everything before this block was durable when it was written, so damage before it is not a torn write.
const FLAG_SYNCED_BEFORE: u16 = 1;

/// What a block holds. Readers skip a type they don't know by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockType(pub(crate) u8);

impl BlockType {
    pub(crate) const EVENTS: BlockType = BlockType(1);
    pub(crate) const MARKS: BlockType = BlockType(2);
    pub(crate) const FOOTER: BlockType = BlockType(3);

    /// Whether its first sequence says where in the log it is.
    pub(crate) fn has_position(self) -> bool {
        matches!(self, Self::EVENTS | Self::MARKS)
    }
}

/// A block's header, as on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) block_type: BlockType,
    pub(crate) count: u32,
    pub(crate) first_sequence: Sequence,
    pub(crate) kinds: u64,
    pub(crate) received_min: Timestamp,
    pub(crate) received_max: Timestamp,
    /// In force before the block's first event.
    pub(crate) version_before: ApiVersion,
    /// In force after the block.
    pub(crate) version_after: ApiVersion,
    pub(crate) table_stored: u32,
    pub(crate) table_raw: u32,
    pub(crate) payload_stored: u32,
    pub(crate) payload_raw: u32,
    pub(crate) chain_after: ChainValue,
    pub(crate) table_crc: u32,
    pub(crate) payload_crc: u32,
    /// Everything before this block was durable when it was written.
    pub(crate) synced_before: bool,
}

/// Why bytes are not a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockError {
    /// Zeros, or nothing at all, where a header would be: the end of what was written.
    End,
    /// Not what was written.
    Corrupt(Cow<'static, str>),
    /// Of a newer release: must-understand flags, header version << 16, row version << 24.
    Unknown(u32),
}

impl BlockError {
    /// The same of the block at `offset` of a file.
    pub(crate) fn at(self, file: &str, offset: u64) -> Error {
        let file = file.to_owned();
        match self {
            BlockError::End => Error::Corrupt { file, offset, reason: "the block is missing".to_owned() },
            BlockError::Corrupt(reason) => Error::Corrupt { file, offset, reason: reason.into_owned() },
            BlockError::Unknown(flags) => Error::UnknownFeature { file, offset, flags },
        }
    }
}

impl BlockHeader {
    /// Reads the header at `offset` of a file; `None` where the blocks end.
    pub(crate) fn read(name: &str, file: &dyn File, offset: u64) -> crate::Result<Option<BlockHeader>> {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        let read = read_at(name, file, offset, &mut bytes)?;
        match BlockHeader::decode(bytes.get(..read).unwrap_or_default()) {
            Ok(header) => Ok(Some(header)),
            Err(BlockError::End) => Ok(None),
            Err(error) => Err(error.at(name, offset)),
        }
    }

    /// Bytes of the whole block on disk.
    pub(crate) fn stored_bytes(&self) -> u64 {
        BLOCK_HEADER_BYTES as u64 + u64::from(self.table_stored) + u64::from(self.payload_stored)
    }

    /// The sequence after the block's last event.
    pub(crate) fn end_sequence(&self) -> Sequence {
        match self.block_type {
            BlockType::EVENTS => self.first_sequence.saturating_add(u64::from(self.count)),
            _ => self.first_sequence,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.push(self.block_type.0);
        out.push(HEADER_VERSION);
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&ROW_VERSION.to_le_bytes());
        out.extend_from_slice(&ROW_BYTES.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.kinds.to_le_bytes());
        out.extend_from_slice(&self.received_min.to_le_bytes());
        out.extend_from_slice(&self.received_max.to_le_bytes());
        put_version(out, self.version_before);
        put_version(out, self.version_after);
        out.extend_from_slice(&self.table_stored.to_le_bytes());
        out.extend_from_slice(&self.table_raw.to_le_bytes());
        out.extend_from_slice(&self.payload_stored.to_le_bytes());
        out.extend_from_slice(&self.payload_raw.to_le_bytes());
        out.extend_from_slice(&self.chain_after);
        out.extend_from_slice(&self.table_crc.to_le_bytes());
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        let may_ignore = if self.synced_before { FLAG_SYNCED_BEFORE } else { 0 };
        out.extend_from_slice(&may_ignore.to_le_bytes());
        out.extend_from_slice(&[0; 10]);
        put_checksum(out, start);
        debug_assert_eq!(out.len() - start, BLOCK_HEADER_BYTES);
    }

    /// Reads a header from the first [`BLOCK_HEADER_BYTES`] of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<BlockHeader, BlockError> {
        let Some(bytes) = bytes.get(..BLOCK_HEADER_BYTES) else {
            return Err(if bytes.iter().all(|&byte| byte == 0) {
                BlockError::End
            } else {
                corrupt("the header is cut off")
            });
        };
        let mut reader = Reader::new(bytes);
        let magic: [u8; 4] = reader.array();
        if magic != MAGIC {
            return Err(if bytes.iter().all(|&byte| byte == 0) {
                BlockError::End
            } else {
                corrupt("no block begins here")
            });
        }
        if checked(bytes).is_none() {
            return Err(corrupt("the header's checksum does not fit"));
        }
        let block_type = BlockType(reader.u8());
        let header_version = reader.u8();
        let must_understand = u32::from(reader.u16());
        if header_version != HEADER_VERSION || must_understand != 0 {
            return Err(BlockError::Unknown(must_understand | u32::from(header_version) << 16));
        }
        let count = reader.u32();
        let row = (reader.u16(), reader.u16());
        let header = BlockHeader {
            block_type,
            count,
            first_sequence: reader.u64(),
            kinds: reader.u64(),
            received_min: reader.u64(),
            received_max: reader.u64(),
            version_before: reader.version(),
            version_after: reader.version(),
            table_stored: reader.u32(),
            table_raw: reader.u32(),
            payload_stored: reader.u32(),
            payload_raw: reader.u32(),
            chain_after: reader.array(),
            table_crc: reader.u32(),
            payload_crc: reader.u32(),
            synced_before: reader.u16() & FLAG_SYNCED_BEFORE != 0,
        };
        if header.table_raw > TABLE_BYTES_MAX
            || header.table_stored > TABLE_BYTES_MAX
            || header.payload_raw > PAYLOAD_BYTES_MAX
            || header.payload_stored > PAYLOAD_BYTES_MAX
        {
            return Err(corrupt("a length is over its limit"));
        }
        if block_type.has_position() {
            if row != (ROW_VERSION, ROW_BYTES) {
                return Err(BlockError::Unknown(u32::from(row.0) << 24));
            }
            if count == 0
                || count as usize > BLOCK_EVENTS_MAX
                || header.first_sequence.checked_add(count.into()).is_none()
            {
                return Err(corrupt("the event count is out of range"));
            }
            if u64::from(header.table_raw) > u64::from(count) * u64::from(ROW_BYTES) + TABLE_FIXED_BYTES_MAX
                || (count > 1 && header.payload_raw > SHARED_PAYLOAD_BYTES_MAX)
            {
                return Err(corrupt("a length is over what its number of events allows"));
            }
        }
        Ok(header)
    }
}

pub(crate) fn corrupt(reason: impl Into<Cow<'static, str>>) -> BlockError {
    BlockError::Corrupt(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(block_type: BlockType, count: u32) -> BlockHeader {
        BlockHeader {
            block_type,
            count,
            first_sequence: 5,
            kinds: 2,
            received_min: 1,
            received_max: 1,
            version_before: ApiVersion::NONE,
            version_after: ApiVersion::NONE,
            table_stored: 10,
            table_raw: 10,
            payload_stored: 10,
            payload_raw: 10,
            chain_after: [3; 32],
            table_crc: 1,
            payload_crc: 2,
            synced_before: true,
        }
    }

    fn decoded(header: &BlockHeader) -> Result<BlockHeader, BlockError> {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        BlockHeader::decode(&bytes)
    }

    #[test]
    fn a_header_is_taken_at_each_limit_and_refused_beyond() {
        let events = header(BlockType::EVENTS, 2);
        let table_raw_max = 2 * u32::from(ROW_BYTES) + TABLE_FIXED_BYTES_MAX as u32;
        let count_max = BLOCK_EVENTS_MAX as u32;
        let at_and_beyond: [(BlockHeader, BlockHeader); 8] = [
            (
                BlockHeader { table_stored: TABLE_BYTES_MAX, ..events.clone() },
                BlockHeader { table_stored: TABLE_BYTES_MAX + 1, ..events.clone() },
            ),
            (
                BlockHeader { table_raw: table_raw_max, ..events.clone() },
                BlockHeader { table_raw: table_raw_max + 1, ..events.clone() },
            ),
            (
                BlockHeader { payload_stored: PAYLOAD_BYTES_MAX, ..events.clone() },
                BlockHeader { payload_stored: PAYLOAD_BYTES_MAX + 1, ..events.clone() },
            ),
            (
                BlockHeader { payload_raw: SHARED_PAYLOAD_BYTES_MAX, ..events.clone() },
                BlockHeader { payload_raw: SHARED_PAYLOAD_BYTES_MAX + 1, ..events.clone() },
            ),
            (
                BlockHeader { payload_raw: PAYLOAD_BYTES_MAX, count: 1, ..events.clone() },
                BlockHeader { payload_raw: PAYLOAD_BYTES_MAX + 1, count: 1, ..events.clone() },
            ),
            (
                BlockHeader { count: count_max, ..events.clone() },
                BlockHeader { count: count_max + 1, ..events.clone() },
            ),
            (
                BlockHeader { first_sequence: Sequence::MAX - 2, ..events.clone() },
                BlockHeader { first_sequence: Sequence::MAX - 1, ..events.clone() },
            ),
            (
                BlockHeader { table_raw: TABLE_BYTES_MAX, ..header(BlockType::FOOTER, 0) },
                BlockHeader { table_raw: TABLE_BYTES_MAX + 1, ..header(BlockType::FOOTER, 0) },
            ),
        ];
        for (at, beyond) in at_and_beyond {
            assert_eq!(decoded(&at).as_ref(), Ok(&at));
            assert!(matches!(decoded(&beyond), Err(BlockError::Corrupt(_))), "{beyond:?}");
        }
        assert!(matches!(decoded(&header(BlockType::EVENTS, 0)), Err(BlockError::Corrupt(_))));
    }

    #[test]
    fn zeros_are_the_end_and_anything_else_that_is_no_header_is_damage() {
        assert_eq!(BlockHeader::decode(&[]), Err(BlockError::End));
        assert_eq!(BlockHeader::decode(&[0; 60]), Err(BlockError::End));
        assert_eq!(BlockHeader::decode(&[0; 200]), Err(BlockError::End));
        let mut bytes = vec![0; 200];
        bytes[100] = 1;
        assert!(matches!(BlockHeader::decode(&bytes), Err(BlockError::Corrupt(_))));
        assert!(matches!(BlockHeader::decode(&bytes[..120]), Err(BlockError::Corrupt(_))));
    }

    #[test]
    fn a_header_of_a_newer_release_is_named_and_not_read() {
        let mut bytes = Vec::new();
        header(BlockType::EVENTS, 2).encode(&mut bytes);
        for (at, value, flags) in [(5, 2, 2 << 16), (6, 4, (1 << 16) | 4), (12, 2, 2 << 24), (14, 33, 1 << 24)] {
            let mut newer = bytes.clone();
            newer[at] = value;
            let crc = crc32fast::hash(&newer[..140]);
            newer[140..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(BlockHeader::decode(&newer), Err(BlockError::Unknown(flags)), "byte {at}");
        }
        for at in 0..144 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(matches!(BlockHeader::decode(&flipped), Err(BlockError::Corrupt(_))), "byte {at}");
        }
    }
}
