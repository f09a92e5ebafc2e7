//! A log's event streams, from any sequence on, to any number of clients over HTTP.
//!
//! The log's blocks flow in, woken by one watch on its head; the bytes of a client's stream flow out. Nothing is queued,
//! copied or parsed per client: the log holds events in the form in which they are sent, and a client is a position in it,
//! a filter, and the HTTP body that walks on from there. A slow client keeps its place and falls back to the disk; it is
//! never cut while it takes anything at all, and never holds a block while it waits.
//!
//! - [`Hub`][]: one log's readers; a dialect hands it a [`Subscription`] and gets the answer. [`StreamFields`][]: what the
//!   clients of every dialect may ask for.
//! - `subscriber`: that body; `cursor`: its place in the log; `ahead`, `large`, `compression`: what it reads and sends.
//! - [`Rendering`][]: events in another form; `rendered`: blocks in it, which subscribers share; [`JsonLines`][]: NDJSON.
//! - `frames`: a block in the form in which it is sent; [`Framing`][]: the messages that are not events.
//! - [`Resources`][]: what the streams of all logs share; [`Port`][]: what those of one port share.
//!
//! Not in here: paths, queries and refusals, which are the dialects', and how an event got its sequence (`ingest`).

mod ahead;
mod compression;
mod counters;
mod cursor;
mod fields;
mod frames;
mod framing;
mod hub;
mod json_lines;
mod large;
mod lending;
mod log_name;
mod port;
mod readers;
mod rendered;
mod rendering;
mod resources;
mod subscriber;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod written;

pub use counters::{HubCounters, PortCounters};
pub use fields::{FieldError, StreamFields};
pub use framing::{Framing, body_of_head};
pub use hub::{Hub, Subscription, Unsearchable};
pub use json_lines::JsonLines;
pub use log_name::LogName;
pub use port::{Delivery, OpenStream, OpenStreams, Port, PortOptions, ReplayChunks};
pub use readers::{ClassLag, ReaderClass, Readers};
pub use rendering::Rendering;
pub use resources::Resources;
pub use subscriber::Coding;

/// Names the range of sequences that the log retained when the stream began, as `OLDEST-NEWEST`, both inclusive. Absent
/// while the log is empty.
pub const RETAINED_RANGE_HEADER: &str = "sidecar-retained-range";

/// Names the log whose events a stream has, as `ID;epoch=N`. An id of one log says nothing about another, nor about another
/// epoch of the same.
pub const LOG_HEADER: &str = "sidecar-log";
