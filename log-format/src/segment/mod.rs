//! Segments: one file of a log each, named by its first sequence.
//!
//! A segment begins with a [`SegmentHeader`], then come blocks, and once sealed it ends with a footer block and a trailer
//! that points at it. After the last block of an active segment everything reads as zeros. FORMAT.md has the byte tables.
//!
//! - [`name`][]: which files of a directory are segments.
//! - [`header`][]: what a segment says of itself before its first block.
//! - [`footer`][]: what a sealed one says of itself after its last block, and the list of its blocks.
//! - [`file`][]: a segment open for reading; where its header is found if the first one is damaged.

mod file;
mod footer;
mod header;
mod name;

pub(crate) use file::{HeaderDamage, HeaderSource, SegmentFile, find_header};
pub(crate) use footer::{BlockEntry, Footer, SEGMENT_BLOCKS_MAX};
pub use header::FORMAT_VERSION;
pub(crate) use header::{DIALECT_BYTES, SegmentHeader};
pub(crate) use name::{file_name, list_segments, parse_file_name};
