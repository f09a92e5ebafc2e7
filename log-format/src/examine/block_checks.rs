//! What must hold within one block, and between a footer and the blocks that it lists.

use std::ops::Range;

use crate::{
    Block, ChainValue, Sequence,
    block::{BlockHeader, BlockType},
    segment::Footer,
    wire::version_frame,
};

/// The chain value after a damaged block, by its header and what is lost with it.
///
/// Marks that name a loss also say whether the chain continues from there, and they are gone.
pub(crate) fn chain_behind(header: &BlockHeader, lost: &Range<Sequence>) -> Option<ChainValue> {
    (header.block_type != BlockType::MARKS || lost.is_empty()).then_some(header.chain_after)
}

/// What does not fit between a block's header, its rows and its frames.
pub(super) fn unsound(header: &BlockHeader, events: &Block) -> Option<String> {
    let (mut kinds, mut earliest, mut latest) = (0, u64::MAX, 0);
    let mut version = header.version_before;
    for row in events.rows() {
        if !row.is_sound() {
            return Some(format!("the row of sequence {} does not fit its frame", row.sequence()));
        }
        if let Some(rise) = row.rise() {
            let frame = events.wire().get(row.range_with_rise().start..row.range().start);
            if rise <= version || frame != Some(&version_frame(rise)) {
                let sequence = row.sequence();
                return Some(format!("the version frame before sequence {sequence} is not one that rises"));
            }
            version = rise;
        }
        kinds |= row.kind().bit();
        earliest = earliest.min(row.received());
        latest = latest.max(row.received());
    }
    if version != header.version_after {
        return Some(format!("it ends at API version {version}, its header says {}", header.version_after));
    }
    if (kinds, earliest, latest) != (header.kinds, header.received_min, header.received_max) {
        return Some("its kinds or receive times are not those in its header".to_owned());
    }
    None
}

/// What a footer says differently from the blocks, as the subject of a sentence.
pub(super) fn difference(stored: &Footer, found: &Footer) -> Option<&'static str> {
    let checks = [
        (stored.blocks == found.blocks, "index does"),
        (stored.end_sequence == found.end_sequence, "last sequence does"),
        (stored.counts == found.counts, "events by kind do"),
        (stored.sources == found.sources, "sources do"),
        (stored.chain_after == found.chain_after, "chain value does"),
        (stored == found, "totals do"),
    ];
    checks.into_iter().find(|(fits, _)| !fits).map(|(_, what)| what)
}
