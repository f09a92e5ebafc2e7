//! The beacon source: one reader per consensus client.
//!
//! Owns everything between a client's HTTP port and the ingest channel. A [`ClientOptions`] flows in; batches of events in
//! the client's order flow out. The beacon API has no replay: what no client was read for is marked in the log as a gap, and
//! the blocks, heads and checkpoints in it are asked for afterwards.
//!
//! - [`endpoint`]: where a client is, and what it is shown to be let in.
//! - `connection`: one client's life: connect, read, retry.
//! - [`coverage`]: which topics are being read, and since when one is not.
//! - `rest`: what a client is asked; `fill`: what becomes of the answers.

mod connection;
pub mod coverage;
pub mod endpoint;
mod fill;
mod rest;

use std::sync::Arc;
use std::time::Duration;

use super::dialect::Beacon;
use crate::engine::source::LogNetwork;
use crate::sse_client::stream::Timeouts;
use endpoint::Endpoint;

pub use connection::run;

/// How to read one consensus client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The topics that are asked for, each once.
    pub topics: Vec<Box<str>>,
    /// How many attempts in a row may fail before the reader ends; without it, it never does.
    pub max_attempts: Option<u32>,
    /// The pause after the first failed attempt; each further one is twice as long.
    pub first_pause: Duration,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// The longest frame of the stream that is taken, in bytes.
    pub event_bytes_max: usize,
    /// Numbers the topics.
    pub dialect: Arc<Beacon>,
    /// The network of the log that the events go to.
    pub log_network: LogNetwork,
}
