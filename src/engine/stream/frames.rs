//! A block's events in the form in which they are sent: as they are stored, or rendered.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use sidecar_log_format::{ApiVersion, Block, Sequence};

use super::rendering::RenderedBlock;

/// A block in the form in which it is sent.
#[derive(Clone, Debug)]
pub(super) enum Frames {
    /// As it is stored.
    Stored(Arc<Block>),
    /// In another form.
    Rendered(Arc<RenderedBlock>),
}

/// The same, held weakly.
#[derive(Debug)]
pub(super) enum WeakFrames {
    Stored(Weak<Block>),
    Rendered(Weak<RenderedBlock>),
}

impl Default for WeakFrames {
    fn default() -> Self {
        WeakFrames::Stored(Weak::new())
    }
}

impl WeakFrames {
    pub(super) fn upgrade(&self) -> Option<Frames> {
        match self {
            WeakFrames::Stored(block) => block.upgrade().map(Frames::Stored),
            WeakFrames::Rendered(block) => block.upgrade().map(Frames::Rendered),
        }
    }
}

impl Frames {
    pub(super) fn downgrade(&self) -> WeakFrames {
        match self {
            Frames::Stored(block) => WeakFrames::Stored(Arc::downgrade(block)),
            Frames::Rendered(block) => WeakFrames::Rendered(Arc::downgrade(block)),
        }
    }

    pub(super) fn sequences(&self) -> Range<Sequence> {
        match self {
            Frames::Stored(block) => block.first_sequence()..block.end_sequence(),
            Frames::Rendered(block) => block.first_sequence()..block.end_sequence(),
        }
    }

    /// Bits of the kinds of which it has anything to send.
    pub(super) fn kinds(&self) -> u64 {
        match self {
            Frames::Stored(block) => block.kinds(),
            Frames::Rendered(block) => block.kinds(),
        }
    }

    pub(super) fn version_after(&self) -> ApiVersion {
        match self {
            Frames::Stored(block) => block.version_after(),
            Frames::Rendered(block) => block.version_after(),
        }
    }

    pub(super) fn version_in_force(&self, index: usize) -> ApiVersion {
        match self {
            Frames::Stored(block) => block.version_in_force(index),
            Frames::Rendered(block) => block.version_in_force(index),
        }
    }

    /// All that is sent of it, with the versions' messages where they rise.
    pub(super) fn wire(&self) -> &Bytes {
        match self {
            Frames::Stored(block) => block.wire(),
            Frames::Rendered(block) => block.wire(),
        }
    }

    pub(super) fn index_of(&self, sequence: Sequence) -> Option<usize> {
        match self {
            Frames::Stored(block) => block.index_of(sequence),
            Frames::Rendered(block) => block.index_of(sequence),
        }
    }

    /// The bit of a row's kind: 0 if nothing of it is sent, `None` past the last row.
    pub(super) fn kind_bit(&self, index: usize) -> Option<u64> {
        match self {
            Frames::Stored(block) => block.row(index).map(|row| row.kind().bit()),
            Frames::Rendered(block) => block.kind_bit(index),
        }
    }

    /// The version that is announced right before a row.
    pub(super) fn rise(&self, index: usize) -> Option<ApiVersion> {
        match self {
            Frames::Stored(block) => block.row(index)?.rise(),
            Frames::Rendered(block) => block.rise(index),
        }
    }

    /// Where a row's own message is in [`Frames::wire`].
    pub(super) fn range(&self, index: usize) -> Range<usize> {
        match self {
            Frames::Stored(block) => block.row(index).map_or(0..0, |row| row.range()),
            Frames::Rendered(block) => block.range(index),
        }
    }
}
