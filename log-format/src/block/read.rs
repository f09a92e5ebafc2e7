//! Reading blocks: stored bytes in, events out.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use rkyv::rend::unaligned::u16_ule;

use super::{
    header::{BlockError, BlockHeader, corrupt},
    table::{ArchivedTable, FLAG_FOLDED, FLAG_UPSTREAM_ID, Rows, version},
};
use crate::{
    ApiVersion, ChainValue, FrameForm, Kind, Mark, MarkKind, Sequence, Timestamp, buffers,
    decompression::with_decompressor, form::Form, wire,
};

/// What decoding may need: a window of 8 MiB, so that every HTTP client can decode the frame (RFC 9659).
pub(crate) const WINDOW_LOG_MAX: u32 = 23;

/// A decoded block of events: the wire form of all of them, and what is known about each.
#[derive(Debug)]
pub struct Block {
    form: Form,
    first_sequence: Sequence,
    kinds: u64,
    received_min: Timestamp,
    version_before: ApiVersion,
    version_after: ApiVersion,
    chain_after: ChainValue,
    payload: Bytes,
    rows: Rows,
}

/// One event of a [`Block`].
#[derive(Clone, Copy)]
pub struct Row<'a> {
    block: &'a Block,
    index: usize,
}

impl Block {
    /// Decodes the parts of a block of events or marks, whose bytes follow its header.
    pub(crate) fn decode(header: &BlockHeader, form: &Form, parts: &[u8]) -> Result<Block, BlockError> {
        let table = decode_table_part(header, parts)?;
        let stored = checked_payload(header, parts)?;
        let payload = decompress(stored, header.payload_raw, "payload")?;
        Self::assemble(header, form, table, buffers::share(payload))
    }

    /// Decodes only what is known about the events of a block; their wire bytes stay empty.
    pub(crate) fn shape(header: &BlockHeader, form: &Form, table_part: &[u8]) -> Result<Block, BlockError> {
        let table = decode_table_part(header, table_part)?;
        let rows = Rows::open(header, form.frames, table, header.payload_raw as usize)?;
        Ok(Self::with_rows(header, form, rows, Bytes::new()))
    }

    /// A block of this table, not compressed, and this wire form.
    pub(super) fn assemble(
        header: &BlockHeader,
        form: &Form,
        table: Vec<u8>,
        payload: Bytes,
    ) -> Result<Block, BlockError> {
        let rows = Rows::open(header, form.frames, table, payload.len())?;
        Ok(Self::with_rows(header, form, rows, payload))
    }

    fn with_rows(header: &BlockHeader, form: &Form, rows: Rows, payload: Bytes) -> Block {
        Block {
            form: form.clone(),
            first_sequence: header.first_sequence,
            kinds: header.kinds,
            received_min: header.received_min,
            version_before: header.version_before,
            version_after: header.version_after,
            chain_after: header.chain_after,
            payload,
            rows,
        }
    }

    /// The same block with the wire form of its first events, or of all.
    pub(super) fn with_wire(self, wire: Bytes) -> Block {
        Block { payload: wire, ..self }
    }

    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    /// Where row `index` begins in the wire form, its version frame included; of the index after the last row, where that
    /// one ends.
    pub(super) fn start_of(&self, index: usize) -> usize {
        self.rows.bound(index)
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
        self.rows.len()
    }

    /// Whether it holds no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// One bit per kind it holds (see [`Kind::bit`]).
    #[must_use]
    pub fn kinds(&self) -> u64 {
        self.kinds
    }

    /// How its frames look.
    #[must_use]
    pub fn frame_form(&self) -> FrameForm {
        self.form.frames
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

    /// The chain value after the last event of the block as it is stored.
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
        self.rows.last_rise_before(index).unwrap_or(self.version_before)
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.payload.len() + self.rows.memory_bytes() + 512
    }
}

impl<'a> Row<'a> {
    /// The API version in force at the event: what the wire form has announced last before its own frame.
    #[must_use]
    pub fn version_in_force(&self) -> ApiVersion {
        self.rise().unwrap_or_else(|| self.block.version_in_force(self.index))
    }

    /// Its value in a column. Opening the table has checked that each column is as long as the block.
    fn value<T>(&self, column: &'a [T]) -> Option<&'a T> {
        column.get(self.index)
    }

    fn table(&self) -> &'a ArchivedTable {
        self.block.rows.table()
    }

    /// The text with this number in a column.
    fn text(&self, column: &'a [u16_ule]) -> &'a str {
        let number = self.value(column).map_or(0, |number| usize::from(number.to_native()));
        self.table().names.get(number).map_or("", |name| name.as_str())
    }

    /// Its sequence.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.block.first_sequence.saturating_add(self.index as u64)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind(self.value(&self.table().kind).copied().unwrap_or_default())
    }

    /// Its name: its own, or that of its kind; empty where it has neither.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.block.form.name_of(self.kind(), self.own_name())
    }

    /// The name that it does not have from its kind; empty otherwise.
    pub(crate) fn own_name(&self) -> &'a str {
        self.text(&self.table().name)
    }

    /// Which source said it.
    #[must_use]
    pub fn source(&self) -> &'a str {
        self.text(&self.table().source)
    }

    /// The network it belongs to.
    #[must_use]
    pub fn network(&self) -> &'a str {
        self.text(&self.table().network)
    }

    /// The API version that its source had announced.
    #[must_use]
    pub fn api_version(&self) -> ApiVersion {
        let number = self.value(&self.table().api_version).map_or(0, |number| usize::from(number.to_native()));
        let numbers = self.table().versions.get(number);
        numbers.map_or(ApiVersion::NONE, |numbers| version(numbers.map(|number| number.to_native())))
    }

    /// The id that its source gave it.
    #[must_use]
    pub fn upstream_id(&self) -> Option<u64> {
        let difference = self.value(&self.table().upstream_id)?.to_native();
        (self.flags() & FLAG_UPSTREAM_ID != 0).then(|| self.sequence().wrapping_add(difference))
    }

    /// When it was received.
    #[must_use]
    pub fn received(&self) -> Timestamp {
        let difference = self.value(&self.table().received).map_or(0, |difference| difference.to_native());
        self.block.received_min.wrapping_add(difference)
    }

    pub(crate) fn flags(&self) -> u8 {
        self.value(&self.table().flags).copied().unwrap_or_default()
    }

    pub(super) fn payload_length(&self) -> u32 {
        self.value(&self.table().payload_length).map_or(0, |length| length.to_native())
    }

    /// The version frame before it, if there is one, and its own frame.
    pub(crate) fn frame_with_rise(&self) -> &'a [u8] {
        self.block.payload.get(self.range_with_rise()).unwrap_or_default()
    }

    /// Where the version frame before it and its own frame are in [`Block::wire`].
    #[must_use]
    pub fn range_with_rise(&self) -> Range<usize> {
        self.block.start_of(self.index)..self.block.start_of(self.index + 1)
    }

    /// Where its frame is in [`Block::wire`].
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let rise_length = self.rise().map_or(0, wire::version_frame_length);
        self.block.start_of(self.index) + rise_length..self.block.start_of(self.index + 1)
    }

    /// The API version whose frame is right before it.
    #[must_use]
    pub fn rise(&self) -> Option<ApiVersion> {
        self.block.rows.rise(self.index)
    }

    /// Its frame: the bytes that an SSE client gets.
    #[must_use]
    pub fn frame(&self) -> &'a [u8] {
        self.block.payload.get(self.range()).unwrap_or_default()
    }

    /// Its payload, byte for byte as the source said it.
    #[must_use]
    pub fn payload(&self) -> Cow<'a, [u8]> {
        let frame = self.frame();
        if self.flags() & FLAG_FOLDED == 0 {
            let start = wire::payload_start(self.block.form.frames, self.name());
            let end = start + self.payload_length() as usize;
            return Cow::Borrowed(frame.get(start..end).unwrap_or_default());
        }
        Cow::Owned(wire::unfold(self.block.form.frames, frame).unwrap_or_default())
    }

    /// Whether row and frame agree: the frame is that of this name, payload length and sequence.
    pub(crate) fn is_sound(&self) -> bool {
        let (frames, frame) = (self.block.form.frames, self.frame());
        let Some(payload) = wire::unfold(frames, frame) else { return false };
        let Ok(text) = std::str::from_utf8(&payload) else { return false };
        let mut expected = Vec::with_capacity(frame.len());
        let folded = wire::push_event(&mut expected, frames, self.name(), text, self.sequence());
        expected == frame
            && payload.len() == self.payload_length() as usize
            && folded.0 == (self.flags() & FLAG_FOLDED != 0)
            && memchr::memchr(b'\r', frame).is_none()
    }
}

/// Decodes the marks of a marks block.
pub(crate) fn decode_marks(header: &BlockHeader, form: &Form, parts: &[u8]) -> Result<Vec<Mark>, BlockError> {
    let block = Block::decode(header, form, parts)?;
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

    use super::super::{BLOCK_HEADER_BYTES, BlockBuilder, BlockType, Encoder};
    use crate::{Event, FrameForm, position::Position};

    use super::*;

    /// What one event is made of, and whether the version rises before it.
    type Told = (u8, String, [String; 2], Option<u64>, u64, String, bool);

    fn told() -> impl Strategy<Value = Told> {
        let upstream_id = proptest::option::of(any::<u64>());
        let names = ["[a-z]{0,6}", "[a-z]{0,6}"];
        (0..64u8, "[a-z]{0,6}", names, upstream_id, any::<u64>(), "[^\r]{0,60}", any::<bool>())
    }

    proptest! {
        #[test]
        fn every_event_of_a_block_comes_back(
            first_sequence in 0..u64::MAX - 20,
            chain in any::<ChainValue>(),
            events in vec(told(), 1..20),
            frames in prop_oneof![Just(FrameForm::Plain), Just(FrameForm::Named)],
        ) {
            let before = ApiVersion { major: 2, minor: 0, patch: 0 };
            let form = Form::new(frames, vec![(7, "seven".to_owned())]);
            let position = Position {
                next_sequence: first_sequence,
                wire_version: before,
                announced_version: before,
                chain,
            };
            let mut builder = BlockBuilder::new(form.clone(), position, 512);
            let (mut version, mut rises) = (before, Vec::new());
            for ((kind, name, [source, network], upstream_id, received, payload, rises_here), sequence) in
                events.iter().zip(first_sequence..)
            {
                let rises_here = *rises_here && frames == FrameForm::Plain;
                version.patch += u32::from(rises_here);
                rises.push(rises_here.then_some(version));
                let event = Event {
                    kind: Kind(*kind),
                    name,
                    source,
                    network,
                    api_version: version,
                    upstream_id: *upstream_id,
                    received: *received,
                    payload,
                };
                let name = form.name_of(event.kind, name);
                builder.push_event(&event, name, sequence, rises_here.then_some(version), chain);
            }
            let mut bytes = Vec::new();
            builder.finish(BlockType::EVENTS, &mut Encoder::new(1).unwrap(), &mut bytes).unwrap();

            let header = BlockHeader::decode(&bytes).unwrap();
            prop_assert_eq!(header.stored_bytes(), bytes.len() as u64);
            prop_assert_eq!((header.version_before, header.version_after), (before, version));
            let block = Block::decode(&header, &form, &bytes[BLOCK_HEADER_BYTES..]).unwrap();
            prop_assert_eq!(block.len(), events.len());
            prop_assert_eq!((block.first_sequence(), block.chain_after()), (first_sequence, chain));
            for (index, (row, event)) in block.rows().zip(&events).enumerate() {
                let (kind, name, [source, network], upstream_id, received, payload, _) = event;
                let name = form.name_of(Kind(*kind), name);
                prop_assert!(row.is_sound());
                prop_assert_eq!(row.sequence(), first_sequence + index as u64);
                prop_assert_eq!((row.kind(), row.upstream_id(), row.received()), (Kind(*kind), *upstream_id, *received));
                prop_assert_eq!((row.name(), row.source(), row.network()), (name, source.as_str(), network.as_str()));
                prop_assert_eq!(row.payload(), payload.as_bytes());
                prop_assert_eq!(row.rise(), rises[index]);
            }
        }
    }
}
