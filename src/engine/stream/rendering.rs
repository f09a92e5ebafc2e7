//! Renderings: the log's events in another form than the stored one.
//!
//! A block is rendered once, and all subscribers of that form share it. Every row keeps its place, so that resuming,
//! filters and ends work as they do on the stored form; a row that a rendering leaves out is an empty one.

use std::{io, ops::Range};

use bytes::Bytes;
use sidecar_log_format::{ApiVersion, Block, LargeEvent, Row, Sequence};

use super::framing::Framing;

/// Another form of a log's events.
///
/// It is a function of the event alone: the same event always gets the same bytes.
pub trait Rendering: Send + Sync + 'static {
    /// Its number, which no other rendering has.
    fn id(&self) -> u16;

    /// How its stream is cut into messages.
    fn framing(&self) -> Framing;

    /// Appends the event's form, as a whole message. An event for which nothing is appended is left out.
    fn render(&self, row: &Row<'_>, payload: &[u8], out: &mut Vec<u8>);

    /// The same for an event of more than 1 MiB, to be read in pieces; `None` leaves it out. Until it is read to its end
    /// it may hold about as much memory as [`LargeEvent::payload_pieces`], 8 MiB. A client that was away opens it again and
    /// skips the bytes that it has had.
    ///
    /// # Errors
    /// What reading the event answers.
    fn render_large(&self, event: &LargeEvent) -> io::Result<Option<Box<dyn io::Read + Send>>>;
}

/// A block in another form.
#[derive(Debug)]
pub(super) struct RenderedBlock {
    first_sequence: Sequence,
    version_before: ApiVersion,
    version_after: ApiVersion,
    /// The kinds of the rows that are not left out.
    kinds: u64,
    /// All rows' messages, with a version's before each row where it rises.
    wire: Bytes,
    rows: Vec<RenderedRow>,
    rises: Vec<Rise>,
}

#[derive(Clone, Copy, Debug)]
struct RenderedRow {
    end: u32,
    /// The place of its kind's bit; [`LEFT_OUT`] has none.
    kind: u8,
}

const LEFT_OUT: u8 = u8::MAX;

#[derive(Clone, Copy, Debug)]
struct Rise {
    index: usize,
    /// Where the row's own message begins.
    start: u32,
    version: ApiVersion,
}

impl RenderedBlock {
    pub(super) fn of(block: &Block, rendering: &dyn Rendering) -> Self {
        let mut wire = Vec::with_capacity(block.wire().len() + block.wire().len() / 8);
        let mut rendered = RenderedBlock {
            first_sequence: block.first_sequence(),
            version_before: block.version_before(),
            version_after: block.version_after(),
            kinds: 0,
            wire: Bytes::new(),
            rows: Vec::with_capacity(block.len()),
            rises: Vec::new(),
        };
        let at = |wire: &[u8]| u32::try_from(wire.len()).unwrap_or(u32::MAX);
        for (index, row) in block.rows().enumerate() {
            if let Some(version) = row.rise() {
                wire.extend_from_slice(&rendering.framing().version(version));
                rendered.rises.push(Rise { index, start: at(&wire), version });
            }
            let start = wire.len();
            rendering.render(&row, &row.payload(), &mut wire);
            let bit = if wire.len() > start { row.kind().bit() } else { 0 };
            rendered.kinds |= bit;
            let kind = bit.checked_ilog2().map_or(LEFT_OUT, |place| place as u8);
            rendered.rows.push(RenderedRow { end: at(&wire), kind });
        }
        wire.shrink_to_fit();
        rendered.wire = wire.into();
        rendered
    }

    pub(super) fn first_sequence(&self) -> Sequence {
        self.first_sequence
    }

    pub(super) fn end_sequence(&self) -> Sequence {
        self.first_sequence.saturating_add(self.rows.len() as u64)
    }

    pub(super) fn version_after(&self) -> ApiVersion {
        self.version_after
    }

    pub(super) fn kinds(&self) -> u64 {
        self.kinds
    }

    pub(super) fn wire(&self) -> &Bytes {
        &self.wire
    }

    pub(super) fn index_of(&self, sequence: Sequence) -> Option<usize> {
        let index = usize::try_from(sequence.checked_sub(self.first_sequence)?).ok()?;
        (index < self.rows.len()).then_some(index)
    }

    /// The bit of a row's kind: 0 if it is left out, `None` past the last row.
    pub(super) fn kind_bit(&self, index: usize) -> Option<u64> {
        self.rows.get(index).map(|row| 1_u64.checked_shl(row.kind.into()).unwrap_or_default())
    }

    pub(super) fn rise(&self, index: usize) -> Option<ApiVersion> {
        self.rise_at(index).map(|rise| rise.version)
    }

    /// Where a row's own message is in [`RenderedBlock::wire`].
    pub(super) fn range(&self, index: usize) -> Range<usize> {
        let end_of = |index: usize| self.rows.get(index).map_or(0, |row| row.end);
        let before = index.checked_sub(1).map_or(0, end_of);
        let start = self.rise_at(index).map_or(before, |rise| rise.start);
        start as usize..end_of(index) as usize
    }

    /// The version in force before a row, its own rise not counted.
    pub(super) fn version_in_force(&self, index: usize) -> ApiVersion {
        let before = self.rises.partition_point(|rise| rise.index < index);
        before.checked_sub(1).and_then(|last| self.rises.get(last)).map_or(self.version_before, |rise| rise.version)
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let rows = self.rows.len() * size_of::<RenderedRow>() + self.rises.len() * size_of::<Rise>();
        self.wire.len() + rows + size_of::<Self>()
    }

    fn rise_at(&self, index: usize) -> Option<&Rise> {
        let at = self.rises.partition_point(|rise| rise.index < index);
        self.rises.get(at).filter(|rise| rise.index == index)
    }
}
