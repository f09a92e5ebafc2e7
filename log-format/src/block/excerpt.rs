//! Excerpts: a few events of a block, in a small block of their own.
//!
//! A reader that looks up single events should neither decode nor keep the rest of their blocks. A block is decoded up to
//! the last event that is wanted, and each run of wanted events is copied out.

use std::ops::Range;

use zstd::zstd_safe::{InBuffer, OutBuffer, get_error_name};

use super::{
    build::BlockBuilder,
    header::{BlockError, BlockHeader, corrupt},
    read::{Block, checked_payload},
};
use crate::{Sequence, buffers, decompression::with_decompressor, form::Form, position::Position};

/// Wanted events with at most so many bytes between them share an excerpt: a second excerpt has about that
/// much overhead.
const BETWEEN_BYTES_MAX: usize = 1 << 10;

impl Block {
    /// Decodes a block, whose bytes follow its header, up to the last of these events. Returns excerpts that begin with
    /// events of the list, in its order.
    pub(crate) fn decode_excerpts(
        header: &BlockHeader,
        form: &Form,
        parts: &[u8],
        sequences: &[Sequence],
    ) -> Result<Vec<Block>, BlockError> {
        let shape = Block::shape(header, form, parts)?;
        let runs = shape.runs(sequences);
        let length = runs.iter().map(|rows| shape.start_of(rows.end)).max().unwrap_or_default();
        // A buffer of the size of the whole block fits the next block too.
        let mut start = buffers::take(header.payload_raw as usize);
        decompress_start(checked_payload(header, parts)?, length, &mut start)?;
        let block = shape.with_wire(buffers::lend(start));
        runs.into_iter().map(|rows| block.excerpt(rows)).collect()
    }

    /// The rows of these events, and of events between them where that is cheaper.
    fn runs(&self, sequences: &[Sequence]) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for index in sequences.iter().filter_map(|sequence| self.index_of(*sequence)) {
            let is_near = |run: &Range<usize>| {
                index >= run.end && self.start_of(index) - self.start_of(run.end) <= BETWEEN_BYTES_MAX
            };
            match runs.last_mut().filter(|run| is_near(run)) {
                Some(run) => run.end = index + 1,
                None => runs.push(index..index + 1),
            }
        }
        runs
    }

    fn excerpt(&self, rows: Range<usize>) -> Result<Block, BlockError> {
        let position = Position {
            next_sequence: self.first_sequence() + rows.start as u64,
            wire_version: self.version_in_force(rows.start),
            announced_version: self.version_after(),
            chain: self.chain_after(),
        };
        let bytes = self.start_of(rows.end) - self.start_of(rows.start);
        let mut builder = BlockBuilder::new(self.form().clone(), position, bytes);
        for row in rows.filter_map(|index| self.row(index)) {
            builder.push_stored(row, self.chain_after());
        }
        builder.into_block()
    }
}

/// Decodes the first `length` bytes of a frame into an empty buffer.
fn decompress_start(stored: &[u8], length: usize, raw: &mut Vec<u8>) -> Result<(), BlockError> {
    let failed = |code| corrupt(format!("the payload does not decompress: {}", get_error_name(code)));
    raw.resize(length, 0);
    let mut input = InBuffer::around(stored);
    let mut output = OutBuffer::around(raw.as_mut_slice());
    with_decompressor(|decompressor| {
        while output.pos() < length {
            let (read, written) = (input.pos(), output.pos());
            decompressor.decompress_stream(&mut output, &mut input).map_err(failed)?;
            if (read, written) == (input.pos(), output.pos()) {
                return Err(corrupt("the payload decompresses to another length"));
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        super::{BLOCK_HEADER_BYTES, BlockType, Encoder},
        *,
    };
    use crate::{ApiVersion, CHAIN_START, Event, FrameForm, Kind, Row};

    const FIRST: Sequence = 100;
    const BEFORE: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 0 };

    fn form() -> Form {
        Form::new(FrameForm::Plain, vec![(7, "seven".to_owned())])
    }

    /// A stored block of events with payloads of these lengths, each announcing a version if it has to.
    fn stored(events: &[(usize, bool)]) -> Vec<u8> {
        let position =
            Position { next_sequence: FIRST, wire_version: BEFORE, announced_version: BEFORE, chain: CHAIN_START };
        let mut builder = BlockBuilder::new(form(), position, 512);
        let mut version = BEFORE;
        for ((length, rises), sequence) in events.iter().zip(FIRST..) {
            version.patch += u32::from(*rises);
            let event = Event {
                kind: Kind(sequence as u8 % 9),
                name: if sequence % 2 == 0 { "even" } else { "" },
                source: &format!("source {}", sequence % 3),
                network: "casper-test",
                api_version: version,
                upstream_id: (sequence % 4 > 0).then_some(sequence * 7),
                received: 1_000 - sequence,
                payload: &if sequence % 5 == 0 { "\n" } else { "x" }.repeat(*length),
            };
            let name = form().name_of(event.kind, event.name).to_owned();
            builder.push_event(&event, &name, sequence, rises.then_some(version), CHAIN_START);
        }
        let mut bytes = Vec::new();
        builder.finish(BlockType::EVENTS, &mut Encoder::new(1).unwrap(), &mut bytes).unwrap();
        bytes
    }

    fn excerpts_of(stored: &[u8], sequences: &[Sequence]) -> Vec<Block> {
        let header = BlockHeader::decode(stored).unwrap();
        Block::decode_excerpts(&header, &form(), &stored[BLOCK_HEADER_BYTES..], sequences).unwrap()
    }

    fn seen(row: &Row<'_>) -> String {
        let version = (row.rise(), row.api_version(), row.version_in_force());
        let names = (row.name(), row.source(), row.network());
        let (frame, payload) = (row.frame(), row.payload());
        let facts = (row.sequence(), row.kind(), row.upstream_id(), row.received());
        format!("{facts:?} {version:?} {names:?} {frame:?} {payload:?}")
    }

    proptest! {
        #[test]
        fn an_excerpt_has_the_wanted_events_as_they_are_in_the_block(
            events in vec((0..700_usize, prop::bool::weighted(0.1)), 1..40),
            picks in vec(any::<prop::sample::Index>(), 1..12),
            is_sorted in any::<bool>(),
        ) {
            let stored = stored(&events);
            let header = BlockHeader::decode(&stored).unwrap();
            let block = Block::decode(&header, &form(), &stored[BLOCK_HEADER_BYTES..]).unwrap();
            let mut wanted: Vec<_> = picks.iter().map(|pick| FIRST + pick.index(events.len()) as u64).collect();
            if is_sorted {
                wanted.sort_unstable();
            }
            let excerpts = excerpts_of(&stored, &wanted);
            let mut left = wanted.iter().peekable();
            for excerpt in &excerpts {
                prop_assert_eq!(left.peek().copied(), Some(&excerpt.first_sequence()));
                for row in excerpt.rows() {
                    let index = block.index_of(row.sequence()).unwrap();
                    prop_assert!(row.is_sound());
                    prop_assert_eq!(seen(&row), seen(&block.row(index).unwrap()));
                    left.next_if(|&&next| next == row.sequence());
                }
                let last = excerpt.row(excerpt.len() - 1).unwrap();
                prop_assert_eq!(excerpt.version_after(), last.version_in_force());
                prop_assert!(wanted.contains(&last.sequence()));
            }
            prop_assert_eq!(left.next(), None);
        }
    }

    #[test]
    fn events_close_to_each_other_share_an_excerpt_and_others_do_not() {
        let stored = stored(&[(400, false); 20]);
        let ranges = |sequences: &[Sequence]| -> Vec<_> {
            let excerpts = excerpts_of(&stored, sequences);
            excerpts.iter().map(|excerpt| (excerpt.first_sequence(), excerpt.len())).collect()
        };
        assert_eq!(ranges(&[102, 103, 106, 111]), [(102, 2), (106, 1), (111, 1)]);
        assert_eq!(ranges(&[102, 105]), [(102, 4)], "the events between them take less than 1 KiB");
        assert_eq!(ranges(&[104, 103]), [(104, 1), (103, 1)]);
    }

    #[test]
    fn a_damaged_payload_makes_no_excerpt() {
        let mut stored = stored(&[(400, false); 20]);
        *stored.last_mut().unwrap() ^= 1;
        let header = BlockHeader::decode(&stored).unwrap();
        let parts = &stored[BLOCK_HEADER_BYTES..];
        assert!(matches!(Block::decode_excerpts(&header, &form(), parts, &[FIRST]), Err(BlockError::Corrupt(_))));
    }
}
