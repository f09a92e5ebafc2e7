//! What a repair did, or would do.

use serde::Serialize;

use crate::Sequence;

/// Something that repair did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// A damaged block was taken out and a mark put in its place.
    Quarantine {
        /// The segment.
        file: String,
        /// Where the damage was.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// The first event that is gone with it.
        first_sequence: Option<Sequence>,
        /// The last one.
        last_sequence: Option<Sequence>,
        /// Where the bytes are kept.
        kept_as: String,
        /// What did not fit.
        reason: String,
    },
    /// What was after the last sound block was set aside.
    SetTailAside {
        /// The segment.
        file: String,
        /// Where the tail began.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// The first durable event that is gone with it.
        first_sequence: Option<Sequence>,
        /// The last one.
        last_sequence: Option<Sequence>,
        /// Where the bytes are kept.
        kept_as: String,
        /// What did not fit.
        reason: String,
    },
    /// Missing events that had no mark got one.
    MarkHole {
        /// The segment that has the mark now.
        file: String,
        /// The first missing sequence.
        first_sequence: Sequence,
        /// The last one.
        last_sequence: Sequence,
    },
    /// A segment's header was written again: from its copy, or put together from its blocks and the other segments.
    RebuildHeader {
        /// The segment.
        file: String,
        /// What was wrong.
        reason: String,
    },
    /// A segment's footer was put together from its blocks.
    RebuildFooter {
        /// The segment.
        file: String,
        /// What was wrong.
        reason: String,
    },
    /// The head file was rewritten.
    RebuildHead {
        /// What was wrong.
        reason: String,
    },
    /// The file `oldest` was written again.
    RebuildOldest {
        /// What was wrong.
        reason: String,
    },
    /// A segment got its own name back.
    Rename {
        /// The file it was in.
        file: String,
        /// The file it is in now.
        renamed_to: String,
    },
    /// Nothing can be done about this from the log alone.
    Leave {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}
