//! Places between two events of a log: [`Position`] for the writer, [`Head`] for readers.

use crate::{ApiVersion, ChainValue, Sequence};

/// A place between two events, and what is in force there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) next_sequence: Sequence,
    /// What the wire form has announced last.
    pub(crate) wire_version: ApiVersion,
    /// The highest that any source has announced; the wire form says so before the next event.
    pub(crate) announced_version: ApiVersion,
    pub(crate) chain: ChainValue,
}

/// The last durable, visible position of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sequence after the last event: what the next one will get.
    pub next_sequence: Sequence,
    /// The highest API version that any source has announced.
    pub api_version: ApiVersion,
    /// The chain value after the last event.
    pub chain: ChainValue,
    /// Changes when sequences may have been given out twice.
    pub epoch: u64,
}
