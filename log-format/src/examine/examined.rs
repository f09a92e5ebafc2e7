//! What an examination finds in a segment.

use std::ops::Range;

use crate::{
    ChainValue, Sequence,
    block::BlockHeader,
    segment::{Footer, SegmentFile},
};

/// Bytes that are not what was written, or sequences that are missing without a mark.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    /// 0 when events are missing and no byte is wrong.
    pub(crate) length: u64,
    /// The events that are gone with it.
    pub(crate) lost: Range<Sequence>,
    /// The header of the last damaged block, where that at least is sound: it says how the log continues.
    pub(crate) header: Option<BlockHeader>,
    /// No sound block follows.
    pub(crate) is_tail: bool,
    pub(crate) reason: String,
}

/// Sound bytes that do not fit what is before them: nothing that could be repaired from the log alone.
#[derive(Clone, Debug)]
pub(crate) struct Mismatch {
    pub(crate) offset: u64,
    pub(crate) sequences: Range<Sequence>,
    pub(crate) reason: String,
}

/// Sequences that name no event, and the mark that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) sequences: Range<Sequence>,
    pub(crate) reason: String,
}

/// Events whose chain was recomputed from one to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) sequences: Range<Sequence>,
    pub(crate) start: StretchStart,
    /// Before the first of them, where it is known.
    pub(crate) chain_before: Option<ChainValue>,
    pub(crate) chain_after: ChainValue,
}

/// What a stretch of the chain begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StretchStart {
    /// The first event of the log.
    NewLog,
    /// The value in the header of the oldest segment: what was before was dropped and cannot be checked.
    OldestSegment,
    /// The first event that the log had before history was imported in front of it.
    AfterHistory,
    /// The value that the log says it continues from after a hole.
    AfterHole,
    /// It is unknown what was before: the first block is taken as it is.
    Unknown,
    /// The events do not follow from what is before them: something was changed.
    Broken,
}

/// What one segment really holds.
pub(crate) struct Examined {
    pub(crate) file: SegmentFile,
    /// Why the footer cannot be used, or that it is missing where there must be one.
    pub(crate) footer_damage: Option<String>,
    pub(crate) is_sealed: bool,
    /// The sound blocks, counted, as a footer lists them.
    pub(crate) footer: Footer,
    /// Where the blocks end.
    pub(crate) end: u64,
    pub(crate) damage: Vec<Damage>,
    /// What is after `end` and was never visible: a copy's torn end, or a write that a crash cut short.
    pub(crate) torn_end: Option<Damage>,
    pub(crate) mismatches: Vec<Mismatch>,
    /// The chain value before the first event, where it is known.
    pub(crate) chain_before: Option<ChainValue>,
    /// Events whose chain value had nothing to be computed from.
    pub(crate) trusted: Vec<Range<Sequence>>,
}

impl Examined {
    /// Whether a repair has anything to do here.
    pub(crate) fn needs_repair(&self) -> bool {
        self.file.header_damage.is_some() || self.footer_damage.is_some() || !self.damage.is_empty()
    }

    /// Where the newest segment of a log that was copied while it was being written is torn: a copy is not made at one
    /// moment, so nothing after the first bad block proves anything, and what the copied head does not speak of was not
    /// visible then.
    pub(super) fn torn_end_of_copy(&self, head: Sequence) -> Option<Damage> {
        if self.is_sealed && self.footer_damage.is_none() {
            return None;
        }
        let is_torn = |damage: &&Damage| (damage.is_tail && damage.lost.is_empty()) || damage.lost.start >= head;
        self.damage.iter().find(is_torn).map(|damage| self.torn_from(damage))
    }

    /// A write that a crash cut short after `durable_end`: it was never acknowledged.
    pub(crate) fn torn_write(&self, durable_end: u64) -> Option<Damage> {
        let last = self.damage.last().filter(|last| last.offset + last.length == self.end)?;
        (last.length > 0 && last.offset >= durable_end).then(|| self.torn_from(last))
    }

    /// Everything from some damage on, as what no event is lost with.
    fn torn_from(&self, damage: &Damage) -> Damage {
        Damage {
            length: self.end - damage.offset,
            lost: damage.lost.start..damage.lost.start,
            header: None,
            is_tail: true,
            ..damage.clone()
        }
    }
}

/// How far to look in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// The segment may lack a footer, because it is being written.
    pub(crate) is_last: bool,
    /// Blocks up to here are durable; `None`: all that is found.
    pub(crate) durable_end: Option<u64>,
    /// The sequence after the last event, as far as something outside the segment says so.
    pub(crate) end_sequence: Option<Sequence>,
}
