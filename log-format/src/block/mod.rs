//! Blocks: the unit of commit, checksum and compression.
//!
//! A [`BlockBuilder`] takes events (or marks) in and gives the bytes of one block out: a fixed header, a table with one
//! row per event, and the wire form of all of them as one zstd frame. [`BlockHeader::decode`] and [`Block::decode`] do
//! the reverse and believe nothing: every length is checked against a limit, every part against its CRC-32, every
//! row against the payload. FORMAT.md has the byte tables.
//!
//! - [`header`][]: the fixed header.
//! - [`table`][]: the rows, read in place.
//! - [`build`][]: events in, bytes out.
//! - [`read`][]: bytes in, events out.
//! - [`excerpt`][]: a few events of a block.
//! - [`chain`][]: the chain over the rows.

mod build;
mod chain;
mod excerpt;
mod header;
mod read;
mod table;

pub(crate) use build::{BlockBuilder, Built, Encoder, encode_plain};
pub(crate) use header::{
    BLOCK_EVENTS_MAX, BLOCK_HEADER_BYTES, BlockError, BlockHeader, BlockType, LARGE_BYTES, PAYLOAD_BYTES_MAX, corrupt,
};
pub use read::{Block, Row};
pub(crate) use read::{WINDOW_LOG_MAX, checked_payload, decode_marks, decode_table_part};
pub(crate) use table::{numbers, version};
