//! Building blocks: events or marks in, the bytes of one block out.

use zstd::zstd_safe::CParameter;

use super::{
    header::{BLOCK_EVENTS_MAX, BLOCK_HEADER_BYTES, BlockError, BlockHeader, BlockType, corrupt},
    read::{Block, Row, WINDOW_LOG_MAX},
    table::{FLAG_FOLDED, FLAG_UPSTREAM_ID, Rise, Table, numbers},
};
use crate::{
    ApiVersion, ChainValue, Event, Kind, Mark, Sequence, Timestamp, buffers, form::Form, position::Position, wire,
};

/// Entries of the tables that a strong level searches: 4 MiB each. Twice as many win nothing on blocks of 1 MiB.
const TABLE_LOG_MAX: u32 = 20;

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
    form: Form,
    payload: Vec<u8>,
    table: Table,
    first_sequence: Sequence,
    kinds: u64,
    received_min: Timestamp,
    received_max: Timestamp,
    version_before: ApiVersion,
    version_after: ApiVersion,
    chain_after: ChainValue,
}

impl BlockBuilder {
    /// A block of a segment of this form that begins at `position` and will hold about `payload_bytes` of wire form.
    pub(crate) fn new(form: Form, position: Position, payload_bytes: usize) -> Self {
        BlockBuilder {
            form,
            payload: buffers::take(payload_bytes),
            table: Table::default(),
            first_sequence: position.next_sequence,
            kinds: 0,
            received_min: Timestamp::MAX,
            received_max: 0,
            version_before: position.wire_version,
            version_after: position.wire_version,
            chain_after: position.chain,
        }
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    pub(crate) fn is_full(&self, payload_bytes_max: usize) -> bool {
        self.payload.len() >= payload_bytes_max || self.table.len() >= BLOCK_EVENTS_MAX || self.table.is_full()
    }

    /// Adds an event, whose full name is `name`; `rise` announces a version before it.
    pub(crate) fn push_event(
        &mut self,
        event: &Event<'_>,
        name: &str,
        sequence: Sequence,
        rise: Option<ApiVersion>,
        chain: ChainValue,
    ) {
        if let Some(version) = rise {
            self.payload.extend_from_slice(&wire::version_frame(version));
            self.table.rises.push(Rise { row: self.table.len() as u32, version: numbers(version) });
            self.version_after = version;
        }
        let frame_start = self.payload.len();
        let folded = wire::push_event(&mut self.payload, self.form.frames, name, event.payload, sequence);
        let mut flags = 0;
        if folded == wire::Folded(true) {
            flags |= FLAG_FOLDED;
        }
        if event.upstream_id.is_some() {
            flags |= FLAG_UPSTREAM_ID;
        }
        let extra = self.payload.len() - frame_start - event.payload.len();
        let own_name = if name == self.form.kind_name(event.kind) { "" } else { name };
        let event = Event { name: own_name, ..*event };
        self.push_row(&event, sequence, flags, event.payload.len() as u32, extra as u32);
        self.chain_after = chain;
    }

    /// Adds an event of another block unchanged, with its version frame; `chain` is the value after it.
    pub(crate) fn push_stored(&mut self, row: Row<'_>, chain: ChainValue) {
        if let Some(rise) = row.rise() {
            self.table.rises.push(Rise { row: self.table.len() as u32, version: numbers(rise) });
            self.version_after = rise;
        }
        self.payload.extend_from_slice(row.frame_with_rise());
        let event = Event {
            kind: row.kind(),
            name: row.own_name(),
            source: row.source(),
            network: row.network(),
            api_version: row.api_version(),
            upstream_id: row.upstream_id(),
            received: row.received(),
            payload: "",
        };
        let payload_length = row.payload_length();
        let frame_extra = (row.range().len() as u32).saturating_sub(payload_length);
        self.push_row(&event, row.sequence(), row.flags(), payload_length, frame_extra);
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
            name: "",
            source: &mark.source,
            network: "",
            api_version: ApiVersion::NONE,
            upstream_id: None,
            received: mark.received,
            payload: &mark.body,
        };
        let extra = self.payload.len() - start - mark.body.len();
        self.push_row(&row, self.first_sequence, 0, mark.body.len() as u32, extra as u32);
    }

    /// Adds what is known about an event whose frame is in the payload already, and is `frame_extra` longer than its own.
    fn push_row(&mut self, event: &Event<'_>, sequence: Sequence, flags: u8, payload_length: u32, frame_extra: u32) {
        let table = &mut self.table;
        let mut number_of = |name: &str| number(&mut table.names, name, |name| name.as_str(), str::to_owned);
        let (name, source, network) = (number_of(event.name), number_of(event.source), number_of(event.network));
        let version = numbers(event.api_version);
        let api_version = number(&mut table.versions, &version, |version| version, |version| *version);
        table.payload_length.push(payload_length);
        table.frame_extra.push(frame_extra);
        table.kind.push(event.kind.0);
        table.flags.push(flags);
        table.name.push(name);
        table.source.push(source);
        table.network.push(network);
        table.api_version.push(api_version);
        table.upstream_id.push(event.upstream_id.map_or(0, |id| id.wrapping_sub(sequence)));
        table.received.push(event.received);
        self.kinds |= event.kind.bit();
        self.received_min = self.received_min.min(event.received);
        self.received_max = self.received_max.max(event.received);
    }

    /// Compresses what was collected and appends the block's bytes to `out`.
    pub(crate) fn finish(
        mut self,
        block_type: BlockType,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) -> std::io::Result<Built> {
        let (header, table_raw) = self.close(block_type)?;
        let header_start = out.len();
        out.extend_from_slice(&[0; BLOCK_HEADER_BYTES]);
        let table_start = out.len();
        encoder.push(&table_raw, out)?;
        let payload_start = out.len();
        encoder.push_frame(&self.payload, out)?;
        let table_stored = out.get(table_start..payload_start).unwrap_or_default();
        let payload_stored = out.get(payload_start..).unwrap_or_default();
        let header = BlockHeader {
            table_stored: table_stored.len() as u32,
            payload_stored: payload_stored.len() as u32,
            table_crc: crc32fast::hash(table_stored),
            payload_crc: crc32fast::hash(payload_stored),
            ..header
        };
        let built = Built {
            block: match block_type {
                BlockType::EVENTS => Block::assemble(&header, &self.form, table_raw, buffers::share(self.payload)).ok(),
                _ => None,
            },
            header,
        };
        built.write_header(out, header_start);
        Ok(built)
    }

    /// Makes a decoded block without compressing it.
    pub(crate) fn into_block(mut self) -> Result<Block, BlockError> {
        let closed = self.close(BlockType::EVENTS);
        let (header, table) = closed.map_err(|error| corrupt(format!("the rows do not make a table: {error}")))?;
        Block::assemble(&header, &self.form, table, buffers::share(self.payload))
    }

    /// The encoded table, and the header without the lengths and checksums of the stored parts.
    fn close(&mut self, block_type: BlockType) -> std::io::Result<(BlockHeader, Vec<u8>)> {
        for received in &mut self.table.received {
            *received -= self.received_min;
        }
        let table_raw = self.table.encode()?;
        let header = BlockHeader {
            block_type,
            count: self.table.len() as u32,
            first_sequence: self.first_sequence,
            kinds: self.kinds,
            received_min: self.received_min,
            received_max: self.received_max,
            version_before: self.version_before,
            version_after: self.version_after,
            table_stored: 0,
            table_raw: table_raw.len() as u32,
            payload_stored: 0,
            payload_raw: self.payload.len() as u32,
            chain_after: self.chain_after,
            table_crc: 0,
            payload_crc: 0,
            synced_before: false,
        };
        Ok((header, table_raw))
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
