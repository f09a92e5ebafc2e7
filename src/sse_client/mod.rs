//! What every source of Server-Sent Events stands on.
//!
//! Bytes of a node's stream flow in; whole frames within limits flow out, to the SSE client of crate `eventsource-client`;
//! its messages flow on to the source, which says what they are, and as batches of events to ingest. Nothing here knows what
//! an event means.
//!
//! - [`transport`] and [`frames`]: the bytes of the stream, made safe for eventsource-client.
//! - [`stream`]: one stream from its request to its end; `silence`: connections that say nothing any more.
//! - `tls`: whom an HTTPS connection trusts.
//! - [`delivery`]: batches, and the back-pressure of ingest.
//! - [`attempts`]: how many attempts in a row may fail.
//! - `log_lines`: how many lines one connection may cause.

pub mod attempts;
pub mod delivery;
pub mod frames;
pub(crate) mod log_lines;
pub(crate) mod silence;
pub mod stream;
mod tls;
pub mod transport;
