//! What every source of Server-Sent Events stands on.
//!
//! Bytes of a node's stream flow in; whole frames within limits flow out, to the SSE client of crate `eventsource-client`.
//! Nothing here knows what an event means.
//!
//! - [`transport`] and [`frames`]: the bytes of the stream, made safe for eventsource-client.
//! - `silence`: connections that say nothing any more.
//! - `log_lines`: how many lines one connection may cause.

pub mod frames;
pub(crate) mod log_lines;
pub(crate) mod silence;
pub mod transport;
