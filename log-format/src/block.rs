//! Blocks: the unit of commit, checksum and compression.
//!
//! A [`BlockBuilder`] takes events (or marks) in and gives the bytes of one block out: a fixed header, a table with one
//! row per event, and the wire form of all of them as one zstd frame. [`BlockHeader::decode`] and [`Block::decode`] go
//! the other way and believe nothing: every length is checked against a limit, every part against its CRC-32, every
//! row against the payload. FORMAT.md has the byte tables.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use rkyv::rancor;
use zstd::zstd_safe::CParameter;

use crate::{
    ApiVersion, ChainValue, Event, Kind, Mark, MarkKind, Sequence, Timestamp, buffers,
    bytes_codec::{Reader, put_version},
    decompression::with_decompressor,
    segment::Position,
    wire,
};

/// Bytes of a block header on disk.
pub(crate) const BLOCK_HEADER_BYTES: usize = 144;
/// The largest wire form of one block: one event of the largest size, folded over lines at worst.
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 1 << 30;
/// The largest wire form of a block of more than one event: what a reader must hold in memory.
pub(crate) const SHARED_PAYLOAD_BYTES_MAX: u32 = 16 << 20;
/// The largest table: the footer of a segment of a million blocks.
const TABLE_BYTES_MAX: u32 = 64 << 20;
/// What the name table, the versions and the rises of a block take at most.
const TABLE_FIXED_BYTES_MAX: u64 = 1 << 20;
/// The most events in one block.
pub(crate) const BLOCK_EVENTS_MAX: usize = 65_535;

/// A block is closed at this many names or versions, which are numbered with 16 bits and searched one by one.
const BLOCK_NAMES_MAX: usize = 1024;

const MAGIC: [u8; 4] = *b"SBLK";
const HEADER_VERSION: u8 = 1;
const ROW_VERSION: u16 = 1;
/// What a row takes in the table's columns together.
const ROW_BYTES: u16 = 32;
/// Everything before this block was durable when it was written, so damage before it is no torn write.
const FLAG_SYNCED_BEFORE: u16 = 1;
/// What decoding may need: a window of 8 MiB, so that every HTTP client can decode the frame (RFC 9659).
pub(crate) const WINDOW_LOG_MAX: u32 = 23;
/// Entries of the tables that a strong level searches: 4 MiB each. Twice as many win nothing on blocks of 1 MiB.
const TABLE_LOG_MAX: u32 = 20;

/// What a block holds. Readers skip a type they don't know by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockType(pub(crate) u8);

impl BlockType {
    pub(crate) const EVENTS: BlockType = BlockType(1);
    pub(crate) const MARKS: BlockType = BlockType(2);
    pub(crate) const FOOTER: BlockType = BlockType(3);

    /// Whether its first sequence says where in the log it stands.
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
    /// Zeros, or nothing at all, where a header would stand: the end of what was written.
    End,
    /// Not what was written.
    Corrupt(Cow<'static, str>),
    /// Of a newer release: must-understand flags, header version << 16, row version << 24.
    Unknown(u32),
}

impl BlockHeader {
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
        let crc = crc32fast::hash(out.get(start..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
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
        let (covered, crc) = bytes.split_at(BLOCK_HEADER_BYTES - 4);
        if crc32fast::hash(covered).to_le_bytes() != crc {
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

/// The table of a block: one row per event, stored column by column because columns compress to a few bytes a row.
///
/// Differences wrap; what has no row before counts from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Table {
    /// Sources and networks, by number.
    names: Vec<String>,
    /// API versions, by number.
    versions: Vec<[u32; 3]>,
    /// Rows with a version frame before their own.
    rises: Vec<Rise>,
    payload_length: Vec<u32>,
    /// Length of the frame beyond that of the payload.
    frame_extra: Vec<u32>,
    kind: Vec<u8>,
    flags: Vec<u8>,
    source: Vec<u16>,
    network: Vec<u16>,
    api_version: Vec<u16>,
    /// Difference to the row before of the same source.
    upstream_id: Vec<u64>,
    /// Difference to the row before.
    received: Vec<u64>,
}

/// A version frame stands before the frame of this row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Rise {
    row: u32,
    version: [u32; 3],
}

/// The payload was folded over lines or shifted by a space.
const FLAG_FOLDED: u8 = 1;
/// The source gave the event an id.
const FLAG_UPSTREAM_ID: u8 = 2;

/// What a builder's finished block is: its bytes for the disk, and itself decoded for those who wait for it.
pub(crate) struct Built {
    pub(crate) header: BlockHeader,
    pub(crate) block: Option<Block>,
}

impl Built {
    /// Writes the header over its place in `out`.
    pub(crate) fn write_header(&self, out: &mut [u8], start: usize) {
        let mut bytes = Vec::with_capacity(BLOCK_HEADER_BYTES);
        self.header.encode(&mut bytes);
        if let Some(place) = out.get_mut(start..start + BLOCK_HEADER_BYTES) {
            place.copy_from_slice(&bytes);
        }
    }
}

/// Collects events into one block.
pub(crate) struct BlockBuilder {
    payload: Vec<u8>,
    table: Table,
    first_sequence: Sequence,
    kinds: u64,
    received_min: Timestamp,
    received_max: Timestamp,
    last_upstream_ids: Vec<u64>,
    last_received: Timestamp,
    version_before: ApiVersion,
    version_after: ApiVersion,
    chain_after: ChainValue,
}

impl BlockBuilder {
    /// A block that begins at `position` and will hold about `payload_bytes` of wire form.
    pub(crate) fn new(position: Position, payload_bytes: usize) -> Self {
        BlockBuilder {
            payload: buffers::take(payload_bytes),
            table: Table::default(),
            first_sequence: position.next_sequence,
            kinds: 0,
            received_min: Timestamp::MAX,
            received_max: 0,
            last_upstream_ids: Vec::new(),
            last_received: 0,
            version_before: position.wire_version,
            version_after: position.wire_version,
            chain_after: position.chain,
        }
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    pub(crate) fn is_full(&self, payload_bytes_max: usize) -> bool {
        self.payload.len() >= payload_bytes_max
            || self.table.kind.len() >= BLOCK_EVENTS_MAX
            || self.table.names.len() >= BLOCK_NAMES_MAX
            || self.table.versions.len() >= BLOCK_NAMES_MAX
            || self.table.rises.len() >= BLOCK_NAMES_MAX
    }

    /// Adds an event; `rise` announces a version before it.
    pub(crate) fn push_event(
        &mut self,
        event: &Event<'_>,
        sequence: Sequence,
        rise: Option<ApiVersion>,
        chain: ChainValue,
    ) {
        if let Some(version) = rise {
            self.payload.extend_from_slice(&wire::version_frame(version));
            self.table.rises.push(Rise { row: self.table.kind.len() as u32, version: numbers(version) });
            self.version_after = version;
        }
        let frame_start = self.payload.len();
        let folded = wire::push_event(&mut self.payload, event.payload, sequence);
        let mut flags = 0;
        if folded == wire::Folded(true) {
            flags |= FLAG_FOLDED;
        }
        if event.upstream_id.is_some() {
            flags |= FLAG_UPSTREAM_ID;
        }
        let extra = self.payload.len() - frame_start - event.payload.len();
        self.push_row(event, flags, event.payload.len() as u32, extra as u32);
        self.chain_after = chain;
    }

    /// Adds an event of another block as it stands there, with its version frame; `chain` is the value after it.
    pub(crate) fn push_stored(&mut self, row: Row<'_>, chain: ChainValue) {
        if let Some(rise) = row.rise() {
            self.table.rises.push(Rise { row: self.table.kind.len() as u32, version: numbers(rise) });
            self.version_after = rise;
        }
        self.payload.extend_from_slice(row.frame_with_rise());
        let event = Event {
            kind: row.kind(),
            source: row.source(),
            network: row.network(),
            api_version: row.api_version(),
            upstream_id: row.upstream_id(),
            received: row.received(),
            payload: "",
        };
        let payload_length = row.payload_length();
        let frame_extra = (row.range().len() as u32).saturating_sub(payload_length);
        self.push_row(&event, row.flags(), payload_length, frame_extra);
        self.chain_after = chain;
    }

    /// Adds a mark: its body is a line of the payload. `announced` is the highest version that any source has announced.
    pub(crate) fn push_mark(&mut self, mark: &Mark, announced: ApiVersion) {
        self.version_after = announced;
        let start = self.payload.len();
        self.payload.extend_from_slice(mark.body.as_bytes());
        self.payload.push(b'\n');
        let row = Event {
            kind: Kind(mark.kind.0),
            source: &mark.source,
            network: "",
            api_version: ApiVersion::NONE,
            upstream_id: None,
            received: mark.received,
            payload: &mark.body,
        };
        let extra = self.payload.len() - start - mark.body.len();
        self.push_row(&row, 0, mark.body.len() as u32, extra as u32);
    }

    /// Adds what is known about an event whose frame is in the payload already, and is `frame_extra` longer than its own.
    fn push_row(&mut self, event: &Event<'_>, flags: u8, payload_length: u32, frame_extra: u32) {
        let source = number(&mut self.table.names, event.source, |name| name.as_str(), str::to_owned);
        let network = number(&mut self.table.names, event.network, |name| name.as_str(), str::to_owned);
        let version = numbers(event.api_version);
        let api_version = number(&mut self.table.versions, &version, |version| version, |version| *version);
        self.last_upstream_ids.resize(self.table.names.len(), 0);
        let upstream_difference = match (event.upstream_id, self.last_upstream_ids.get_mut(usize::from(source))) {
            (Some(id), Some(last)) => id.wrapping_sub(std::mem::replace(last, id)),
            _ => 0,
        };
        let table = &mut self.table;
        table.payload_length.push(payload_length);
        table.frame_extra.push(frame_extra);
        table.kind.push(event.kind.0);
        table.flags.push(flags);
        table.source.push(source);
        table.network.push(network);
        table.api_version.push(api_version);
        table.upstream_id.push(upstream_difference);
        table.received.push(event.received.wrapping_sub(self.last_received));
        self.last_received = event.received;
        self.kinds |= event.kind.bit();
        self.received_min = self.received_min.min(event.received);
        self.received_max = self.received_max.max(event.received);
    }

    /// Appends the block's bytes to `out`.
    pub(crate) fn finish(
        self,
        block_type: BlockType,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) -> std::io::Result<Built> {
        let table_raw = rkyv::to_bytes::<rancor::Error>(&self.table).map_err(std::io::Error::other)?;
        let header_start = out.len();
        out.extend_from_slice(&[0; BLOCK_HEADER_BYTES]);
        let table_start = out.len();
        encoder.push(&table_raw, out)?;
        let payload_start = out.len();
        encoder.push_frame(&self.payload, out)?;
        let table_stored = out.get(table_start..payload_start).unwrap_or_default();
        let payload_stored = out.get(payload_start..).unwrap_or_default();
        let header = BlockHeader {
            block_type,
            count: self.table.kind.len() as u32,
            first_sequence: self.first_sequence,
            kinds: self.kinds,
            received_min: self.received_min,
            received_max: self.received_max,
            version_before: self.version_before,
            version_after: self.version_after,
            table_stored: table_stored.len() as u32,
            table_raw: table_raw.len() as u32,
            payload_stored: payload_stored.len() as u32,
            payload_raw: self.payload.len() as u32,
            chain_after: self.chain_after,
            table_crc: crc32fast::hash(table_stored),
            payload_crc: crc32fast::hash(payload_stored),
            synced_before: false,
        };
        let built = Built {
            block: match block_type {
                BlockType::EVENTS => Block::assemble(&header, self.table, buffers::share(self.payload)).ok(),
                _ => None,
            },
            header,
        };
        built.write_header(out, header_start);
        Ok(built)
    }
}

/// The number of `wanted` in `list`, added if missing. A block has few of these, so the list is searched.
fn number<T, W: PartialEq + ?Sized>(
    list: &mut Vec<T>,
    wanted: &W,
    view: impl Fn(&T) -> &W,
    own: impl Fn(&W) -> T,
) -> u16 {
    if let Some(found) = list.iter().position(|item| view(item) == wanted) {
        return found as u16;
    }
    list.push(own(wanted));
    (list.len() - 1) as u16
}

/// Footers and other rkyv parts share the block frame: a table part and no payload.
pub(crate) fn encode_plain(
    mut header: BlockHeader,
    table_raw: &[u8],
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> std::io::Result<BlockHeader> {
    let mut table = Vec::new();
    encoder.push(table_raw, &mut table)?;
    header.table_stored = table.len() as u32;
    header.table_raw = table_raw.len() as u32;
    header.table_crc = crc32fast::hash(&table);
    header.payload_stored = 0;
    header.payload_raw = 0;
    header.payload_crc = crc32fast::hash(&[]);
    header.encode(out);
    out.extend_from_slice(&table);
    Ok(header)
}

/// Compresses parts of blocks; keeps its working memory.
pub(crate) struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
}

impl Encoder {
    pub(crate) fn new(level: i32) -> std::io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        if level > 10 {
            compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG_MAX))?;
            compressor.set_parameter(CParameter::HashLog(TABLE_LOG_MAX))?;
            compressor.set_parameter(CParameter::ChainLog(TABLE_LOG_MAX))?;
        }
        Ok(Encoder { compressor })
    }

    /// One zstd frame with content size; without, if it would not be smaller.
    fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        let start = out.len();
        self.push_frame(raw, out)?;
        if out.len() - start >= raw.len() {
            out.truncate(start);
            out.extend_from_slice(raw);
        }
        Ok(())
    }

    /// Always a zstd frame: payloads go to clients as they are stored.
    fn push_frame(&mut self, raw: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let mut end = std::io::Cursor::new(&mut *out);
        end.set_position(end.get_ref().len() as u64);
        self.compressor.compress_to_buffer(raw, &mut end)?;
        Ok(())
    }
}

/// A decoded block of events: the wire form of all of them, and what is known about each.
#[derive(Debug)]
pub struct Block {
    first_sequence: Sequence,
    kinds: u64,
    version_before: ApiVersion,
    version_after: ApiVersion,
    chain_after: ChainValue,
    payload: Bytes,
    /// Where each row begins, its version frame included, and where the last one ends.
    bounds: Vec<u32>,
    table: Table,
    upstream_ids: Vec<u64>,
    received: Vec<Timestamp>,
}

/// One event of a [`Block`].
#[derive(Clone, Copy)]
pub struct Row<'a> {
    block: &'a Block,
    index: usize,
}

impl Block {
    /// Decodes the parts of a block of events or marks, whose bytes follow its header.
    pub(crate) fn decode(header: &BlockHeader, parts: &[u8]) -> Result<Block, BlockError> {
        let table = decode_table_part(header, parts)?;
        let table = rkyv::from_bytes::<Table, rancor::Error>(&table)
            .map_err(|error| corrupt(format!("the table does not decode: {error}")))?;
        let stored = checked_payload(header, parts)?;
        let payload = decompress(stored, header.payload_raw, "payload")?;
        Self::assemble(header, table, buffers::share(payload))
    }

    /// Decodes a block only as far as the end of one event: the rows after it have no wire bytes.
    pub(crate) fn decode_up_to(header: &BlockHeader, parts: &[u8], sequence: Sequence) -> Result<Block, BlockError> {
        let table = decode_table_part(header, parts)?;
        let table = rkyv::from_bytes::<Table, rancor::Error>(&table)
            .map_err(|error| corrupt(format!("the table does not decode: {error}")))?;
        let stored = checked_payload(header, parts)?;
        let block = Self::assemble_checked(header, table, header.payload_raw as usize)?;
        let end = block.index_of(sequence).and_then(|index| block.row(index)).map_or(0, |row| row.range().end);
        Ok(Block { payload: buffers::share(decompress_start(stored, end)?), ..block })
    }

    /// Decodes only what is known about the events of a block; their wire bytes stay empty.
    pub(crate) fn shape(header: &BlockHeader, table_part: &[u8]) -> Result<Block, BlockError> {
        let table = decode_table_part(header, table_part)?;
        let table = rkyv::from_bytes::<Table, rancor::Error>(&table)
            .map_err(|error| corrupt(format!("the table does not decode: {error}")))?;
        let mut block = Self::assemble_checked(header, table, header.payload_raw as usize)?;
        block.payload = Bytes::new();
        Ok(block)
    }

    fn assemble(header: &BlockHeader, table: Table, payload: Bytes) -> Result<Block, BlockError> {
        let block = Self::assemble_checked(header, table, payload.len())?;
        Ok(Block { payload, ..block })
    }

    fn assemble_checked(header: &BlockHeader, table: Table, payload_length: usize) -> Result<Block, BlockError> {
        let count = header.count as usize;
        let columns = [
            table.payload_length.len(),
            table.frame_extra.len(),
            table.kind.len(),
            table.flags.len(),
            table.source.len(),
            table.network.len(),
            table.api_version.len(),
            table.upstream_id.len(),
            table.received.len(),
        ];
        if columns.iter().any(|&length| length != count) {
            return Err(corrupt("a column of the table has another number of rows than the block"));
        }
        let names = table.names.len();
        if table.source.iter().chain(&table.network).any(|&name| usize::from(name) >= names)
            || table.api_version.iter().any(|&version| usize::from(version) >= table.versions.len())
        {
            return Err(corrupt("a row of the table names something that the name table lacks"));
        }
        check_rises(header, &table)?;
        let bounds = bounds(&table).ok_or_else(|| corrupt("the rows are longer than the payload"))?;
        if bounds.last().is_none_or(|&end| end as usize != payload_length) {
            return Err(corrupt("the rows do not add up to the payload"));
        }
        let upstream_ids = upstream_ids(&table);
        let received = running_sum(&table.received);
        Ok(Block {
            first_sequence: header.first_sequence,
            kinds: header.kinds,
            version_before: header.version_before,
            version_after: header.version_after,
            chain_after: header.chain_after,
            payload: Bytes::new(),
            bounds,
            table: Table { frame_extra: Vec::new(), upstream_id: Vec::new(), received: Vec::new(), ..table },
            upstream_ids,
            received,
        })
    }

    /// The sequence of the first event.
    #[must_use]
    pub fn first_sequence(&self) -> Sequence {
        self.first_sequence
    }

    /// The sequence after the last event.
    #[must_use]
    pub fn end_sequence(&self) -> Sequence {
        self.first_sequence.saturating_add(self.len() as u64)
    }

    /// How many events it holds; never 0.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.kind.len()
    }

    /// Whether it holds no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.kind.is_empty()
    }

    /// One bit per kind it holds (see [`Kind::bit`]).
    #[must_use]
    pub fn kinds(&self) -> u64 {
        self.kinds
    }

    /// The API version in force before the first event.
    #[must_use]
    pub fn version_before(&self) -> ApiVersion {
        self.version_before
    }

    /// The API version in force after the last event.
    #[must_use]
    pub fn version_after(&self) -> ApiVersion {
        self.version_after
    }

    /// The chain value after the last event.
    #[must_use]
    pub fn chain_after(&self) -> ChainValue {
        self.chain_after
    }

    /// The wire form of all events, version frames included.
    #[must_use]
    pub fn wire(&self) -> &Bytes {
        &self.payload
    }

    /// The event in row `index`; `None` past the last.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<Row<'_>> {
        (index < self.len()).then_some(Row { block: self, index })
    }

    /// The row of an event; `None` when it is not in this block.
    #[must_use]
    pub fn index_of(&self, sequence: Sequence) -> Option<usize> {
        let index = usize::try_from(sequence.checked_sub(self.first_sequence)?).ok()?;
        (index < self.len()).then_some(index)
    }

    /// All events in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.len()).map(move |index| Row { block: self, index })
    }

    /// The API version in force before row `index`, its own version frame not counted.
    #[must_use]
    pub fn version_in_force(&self, index: usize) -> ApiVersion {
        let before = self.table.rises.partition_point(|rise| (rise.row as usize) < index);
        let last = before.checked_sub(1).and_then(|last| self.table.rises.get(last));
        last.map_or(self.version_before, |rise| version(rise.version))
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.payload.len() + self.len() * 32 + 1024
    }
}

impl<'a> Row<'a> {
    fn column<T: Copy + Default>(&self, column: &'a [T]) -> T {
        // `assemble` has checked that every column has a value for every row.
        column.get(self.index).copied().unwrap_or_default()
    }

    fn bound(&self, offset: usize) -> usize {
        self.block.bounds.get(self.index + offset).copied().unwrap_or_default() as usize
    }

    fn name(&self, column: &'a [u16]) -> &'a str {
        self.block.table.names.get(usize::from(self.column(column))).map_or("", String::as_str)
    }

    /// Its sequence.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.block.first_sequence.saturating_add(self.index as u64)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind(self.column(&self.block.table.kind))
    }

    /// Which source said it.
    #[must_use]
    pub fn source(&self) -> &'a str {
        self.name(&self.block.table.source)
    }

    /// The network it belongs to.
    #[must_use]
    pub fn network(&self) -> &'a str {
        self.name(&self.block.table.network)
    }

    /// The API version that its source had announced.
    #[must_use]
    pub fn api_version(&self) -> ApiVersion {
        let [major, minor, patch] = self
            .block
            .table
            .versions
            .get(usize::from(self.column(&self.block.table.api_version)))
            .copied()
            .unwrap_or_default();
        ApiVersion { major, minor, patch }
    }

    /// The id that its source gave it.
    #[must_use]
    pub fn upstream_id(&self) -> Option<u64> {
        (self.flags() & FLAG_UPSTREAM_ID != 0).then(|| self.column(&self.block.upstream_ids))
    }

    /// When it was received.
    #[must_use]
    pub fn received(&self) -> Timestamp {
        self.column(&self.block.received)
    }

    pub(crate) fn flags(&self) -> u8 {
        self.column(&self.block.table.flags)
    }

    fn payload_length(&self) -> u32 {
        self.column(&self.block.table.payload_length)
    }

    /// The version frame before it, if there is one, and its own frame.
    pub(crate) fn frame_with_rise(&self) -> &'a [u8] {
        self.block.payload.get(self.range_with_rise()).unwrap_or_default()
    }

    /// Where the version frame before it and its own frame stand in [`Block::wire`].
    #[must_use]
    pub fn range_with_rise(&self) -> Range<usize> {
        self.bound(0)..self.bound(1)
    }

    /// Where its frame stands in [`Block::wire`].
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let rise_length = self.rise().map_or(0, wire::version_frame_length);
        self.bound(0) + rise_length..self.bound(1)
    }

    /// The API version whose frame stands right before it.
    #[must_use]
    pub fn rise(&self) -> Option<ApiVersion> {
        let rises = &self.block.table.rises;
        let at = rises.binary_search_by_key(&self.index, |rise| rise.row as usize).ok()?;
        rises.get(at).map(|rise| version(rise.version))
    }

    /// Its frame: the bytes that an SSE client gets.
    #[must_use]
    pub fn frame(&self) -> &'a [u8] {
        self.block.payload.get(self.range()).unwrap_or_default()
    }

    /// Its payload, byte for byte as the source said it.
    #[must_use]
    pub fn payload(&self) -> Cow<'a, [u8]> {
        self.payload_in(self.frame())
    }

    /// Its payload, out of its frame: for an event whose block was decoded without its wire form.
    #[must_use]
    pub fn payload_in<'frame>(&self, frame: &'frame [u8]) -> Cow<'frame, [u8]> {
        let length = self.payload_length() as usize;
        if self.flags() & FLAG_FOLDED == 0 {
            let start = wire::PAYLOAD_START;
            return Cow::Borrowed(frame.get(start..start + length).unwrap_or_default());
        }
        Cow::Owned(wire::unfold(frame).unwrap_or_default())
    }

    /// Whether row and frame agree: the frame is that of this payload length and this sequence.
    pub(crate) fn is_sound(&self) -> bool {
        let length = self.payload_length() as usize;
        let frame = self.frame();
        let ending = format!("\nid:{}\n\n", self.sequence());
        let Some(body) = frame.strip_suffix(ending.as_bytes()) else { return false };
        if self.flags() & FLAG_FOLDED == 0 {
            return body.len() == wire::PAYLOAD_START + length
                && body.starts_with(b"data:")
                && memchr::memchr2(b'\n', b'\r', body).is_none();
        }
        wire::unfold(frame).is_some_and(|payload| payload.len() == length)
    }
}

pub(crate) fn numbers(version: ApiVersion) -> [u32; 3] {
    [version.major, version.minor, version.patch]
}

pub(crate) fn version([major, minor, patch]: [u32; 3]) -> ApiVersion {
    ApiVersion { major, minor, patch }
}

/// Rises name rows in order, each a higher version than the one before, and the last is in force after the block.
fn check_rises(header: &BlockHeader, table: &Table) -> Result<(), BlockError> {
    if header.block_type != BlockType::EVENTS {
        return if table.rises.is_empty() { Ok(()) } else { Err(corrupt("a block without events raises the version")) };
    }
    let (mut next_row, mut in_force) = (0, header.version_before);
    for rise in &table.rises {
        if rise.row < next_row || rise.row >= header.count || version(rise.version) <= in_force {
            return Err(corrupt("the rises of the version are out of order"));
        }
        (next_row, in_force) = (rise.row + 1, version(rise.version));
    }
    if in_force != header.version_after {
        return Err(corrupt("the version after the block is not the last that rose in it"));
    }
    Ok(())
}

/// Where each row begins, its version frame included, and where the last one ends.
fn bounds(table: &Table) -> Option<Vec<u32>> {
    let mut bounds = Vec::with_capacity(table.kind.len() + 1);
    let mut rises = table.rises.iter().peekable();
    let mut end = 0u32;
    bounds.push(end);
    for (row, (&payload, &extra)) in table.payload_length.iter().zip(&table.frame_extra).enumerate() {
        if let Some(rise) = rises.next_if(|rise| rise.row as usize == row) {
            end = end.checked_add(wire::version_frame_length(version(rise.version)) as u32)?;
        }
        end = end.checked_add(payload)?.checked_add(extra)?;
        bounds.push(end);
    }
    Some(bounds)
}

fn upstream_ids(table: &Table) -> Vec<u64> {
    let mut last = vec![0u64; table.names.len()];
    let ids = table.source.iter().zip(&table.upstream_id);
    ids.map(|(&source, &difference)| {
        let Some(last) = last.get_mut(usize::from(source)) else { return 0 };
        *last = last.wrapping_add(difference);
        *last
    })
    .collect()
}

fn running_sum(differences: &[u64]) -> Vec<u64> {
    differences
        .iter()
        .scan(0u64, |sum, difference| {
            *sum = sum.wrapping_add(*difference);
            Some(*sum)
        })
        .collect()
}

/// Decodes the marks of a marks block.
pub(crate) fn decode_marks(header: &BlockHeader, parts: &[u8]) -> Result<Vec<Mark>, BlockError> {
    let block = Block::decode(header, parts)?;
    block
        .rows()
        .map(|row| {
            let body = row.frame().strip_suffix(b"\n").and_then(|body| std::str::from_utf8(body).ok());
            Ok(Mark {
                kind: MarkKind(row.kind().0),
                position: header.first_sequence,
                source: row.source().to_owned(),
                received: row.received(),
                body: body.ok_or_else(|| corrupt("a mark is not a line of text"))?.to_owned(),
            })
        })
        .collect()
}

/// The table part of a block, checked and decompressed.
pub(crate) fn decode_table_part(header: &BlockHeader, parts: &[u8]) -> Result<Vec<u8>, BlockError> {
    let stored = parts.get(..header.table_stored as usize).ok_or_else(|| corrupt("the table is cut off"))?;
    if crc32fast::hash(stored) != header.table_crc {
        return Err(corrupt("the table's checksum does not fit"));
    }
    if header.table_stored == header.table_raw {
        return Ok(stored.to_vec());
    }
    decompress(stored, header.table_raw, "table")
}

fn decompress(stored: &[u8], raw_length: u32, part: &str) -> Result<Vec<u8>, BlockError> {
    // The frame says its own length too: where the two differ, nothing is allocated.
    if zstd::zstd_safe::get_frame_content_size(stored).ok().flatten() != Some(raw_length.into()) {
        return Err(corrupt(format!("the {part} is not a zstd frame of the length in the header")));
    }
    let mut raw = buffers::take(raw_length as usize);
    with_decompressor(|decompressor| decompressor.decompress(&mut raw, stored)).map_err(|code| {
        corrupt(format!("the {part} does not decompress: {}", zstd::zstd_safe::get_error_name(code)))
    })?;
    if raw.len() != raw_length as usize {
        return Err(corrupt(format!("the {part} decompresses to another length")));
    }
    Ok(raw)
}

/// The first `length` bytes of what a frame holds.
fn decompress_start(stored: &[u8], length: usize) -> Result<Vec<u8>, BlockError> {
    let failed = |code| corrupt(format!("the payload does not decompress: {}", zstd::zstd_safe::get_error_name(code)));
    let mut raw = buffers::take(length);
    let mut input = zstd::zstd_safe::InBuffer::around(stored);
    with_decompressor(|decompressor| {
        raw.resize(length, 0);
        let mut output = zstd::zstd_safe::OutBuffer::around(raw.as_mut_slice());
        while output.pos() < length {
            let (read, written) = (input.pos(), output.pos());
            decompressor.decompress_stream(&mut output, &mut input).map_err(failed)?;
            if (read, written) == (input.pos(), output.pos()) {
                return Err(corrupt("the payload decompresses to another length"));
            }
        }
        Ok(())
    })?;
    Ok(raw)
}

/// The stored payload of a block, after its CRC.
pub(crate) fn checked_payload<'a>(header: &BlockHeader, parts: &'a [u8]) -> Result<&'a [u8], BlockError> {
    let start = header.table_stored as usize;
    let stored =
        parts.get(start..start + header.payload_stored as usize).ok_or_else(|| corrupt("the payload is cut off"))?;
    if crc32fast::hash(stored) != header.payload_crc {
        return Err(corrupt("the payload's checksum does not fit"));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What one event is made of, and whether the version rises before it.
    type Told = (u8, String, String, Option<u64>, u64, String, bool);

    fn told() -> impl Strategy<Value = Told> {
        let upstream_id = proptest::option::of(any::<u64>());
        (0..64u8, "[a-z]{0,6}", "[a-z]{0,6}", upstream_id, any::<u64>(), "[^\r]{0,60}", any::<bool>())
    }

    proptest! {
        #[test]
        fn every_event_of_a_block_comes_back(
            first_sequence in 0..u64::MAX - 20,
            chain in any::<ChainValue>(),
            events in vec(told(), 1..20),
        ) {
            let before = ApiVersion { major: 2, minor: 0, patch: 0 };
            let position = Position {
                next_sequence: first_sequence,
                wire_version: before,
                announced_version: before,
                chain,
            };
            let mut builder = BlockBuilder::new(position, 512);
            let (mut version, mut rises) = (before, Vec::new());
            for ((kind, source, network, upstream_id, received, payload, rises_here), sequence) in
                events.iter().zip(first_sequence..)
            {
                version.patch += u32::from(*rises_here);
                rises.push(rises_here.then_some(version));
                let event = Event {
                    kind: Kind(*kind),
                    source,
                    network,
                    api_version: version,
                    upstream_id: *upstream_id,
                    received: *received,
                    payload,
                };
                builder.push_event(&event, sequence, rises_here.then_some(version), chain);
            }
            let mut bytes = Vec::new();
            builder.finish(BlockType::EVENTS, &mut Encoder::new(1).unwrap(), &mut bytes).unwrap();

            let header = BlockHeader::decode(&bytes).unwrap();
            prop_assert_eq!(header.stored_bytes(), bytes.len() as u64);
            prop_assert_eq!((header.version_before, header.version_after), (before, version));
            let block = Block::decode(&header, &bytes[BLOCK_HEADER_BYTES..]).unwrap();
            prop_assert_eq!(block.len(), events.len());
            prop_assert_eq!((block.first_sequence(), block.chain_after()), (first_sequence, chain));
            for (index, (row, event)) in block.rows().zip(&events).enumerate() {
                let (kind, source, network, upstream_id, received, payload, _) = event;
                prop_assert!(row.is_sound());
                prop_assert_eq!(row.sequence(), first_sequence + index as u64);
                prop_assert_eq!((row.kind(), row.upstream_id(), row.received()), (Kind(*kind), *upstream_id, *received));
                prop_assert_eq!((row.source(), row.network()), (source.as_str(), network.as_str()));
                prop_assert_eq!(row.payload(), payload.as_bytes());
                prop_assert_eq!(row.rise(), rises[index]);
            }
        }
    }

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
