//! The Casper source: one listener per node.
//!
//! Owns everything between a node's two ports and the ingest channel. A [`NodeOptions`] flows in; batches of events in
//! the node's order flow out, until the listener [ends](crate::engine::source::End). [`Counters`] report what happens on the way.
//!
//! - [`connection`]: one node's life: check, connect, handshake, read, retry.
//! - [`status`]: the check of `/status` before every connection.
//! - [`counters`]: what can be seen from outside.

pub mod connection;
pub mod counters;
mod event_lines;
pub mod status;

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::engine::source::LogNetwork;
use crate::sse_client::stream::Timeouts;

pub use connection::run;
pub use counters::{CountedError, Counters};

/// The default of [`NodeOptions::event_bytes_max`]: 32 MiB.
pub const EVENT_BYTES_MAX_DEFAULT: usize = 32 * 1024 * 1024;

/// How to listen to one node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// A host name or an IP address.
    pub host: String,
    /// The port of the node's event stream.
    pub sse_port: u16,
    /// The port of the node's REST server.
    pub rest_port: u16,
    /// How many attempts in a row may fail before the listener ends. One that delivered an event does not count.
    pub max_attempts: u32,
    /// Retry without end instead, with growing pauses. A node that is too old or of another network is retried too.
    pub keep_trying: bool,
    /// The pause before every attempt but the first.
    pub delay_between_retries: Duration,
    /// Log this node's events at INFO.
    pub enable_logging: bool,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// The network that the node must be on, as configured; `None` leaves it to the log.
    pub network_name: Option<String>,
    /// The network of the log that the events go to.
    pub log_network: LogNetwork,
    /// The longest frame of the stream that is taken, in bytes.
    pub event_bytes_max: usize,
}

impl NodeOptions {
    /// The node's name everywhere: `HOST:SSE_PORT`.
    #[must_use]
    pub fn source(&self) -> String {
        self.address(self.sse_port)
    }

    /// `HOST:PORT` as it is in a URL: an IPv6 address is bracketed.
    fn address(&self, port: u16) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{port}"),
            Err(_) => format!("{}:{port}", self.host),
        }
    }
}
