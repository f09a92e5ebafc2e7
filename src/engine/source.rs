//! Sources: where events come from.
//!
//! What a source hands over, whatever chain it reads: [`Batch`]es of [`Received`] events and of what only a source can know,
//! each with the [`Connection`] that it came on. A source is a task that sends them until it [ends](End). Nothing here stores
//! or orders anything; that is `ingest`'s. What sources count is in [`watch`].

pub mod watch;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

pub use sidecar_log_format::{ApiVersion, ApiVersionError, Kind, Timestamp};

use super::counters::microseconds;
use super::dialect::Facts;

/// The most events of one batch.
pub const BATCH_EVENTS_MAX: usize = 512;
/// A batch is sent on as soon as its payloads have this many bytes.
pub const BATCH_BYTES: usize = 256 * 1024;

/// The network whose events a log holds, known to all of its sources: they take no other's.
///
/// Where the log does not tell it, the node decides that brings the first event.
#[derive(Clone, Debug, Default)]
pub struct LogNetwork(Arc<OnceLock<String>>);

impl LogNetwork {
    /// The network of a log that holds events, if it is known.
    #[must_use]
    pub fn known(name: Option<String>) -> Self {
        let network = LogNetwork::default();
        if let Some(name) = name {
            network.claim(&name);
        }
        network
    }

    /// The network, once it is decided.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Decides for `name` if nothing is decided yet; returns what is.
    pub fn claim(&self, name: &str) -> &str {
        self.0.get_or_init(|| name.to_owned())
    }
}

/// What is true of every event of one connection to one node.
#[derive(Debug)]
pub struct Connection {
    /// Its name in the log and for operators: `HOST:PORT` of the node, as configured.
    pub source: String,
    /// The network that the node is on.
    pub network: String,
    /// The version of this connection's handshake; [`ApiVersion::NONE`] where the dialect has no versions.
    pub api_version: ApiVersion,
    /// Writes the log lines about its events, where there are such.
    pub event_lines: Option<Arc<dyn EventLines>>,
}

/// Log lines about single events. A source sends what it has sent before, so only ingest knows which events are new.
pub trait EventLines: fmt::Debug + Send + Sync {
    /// Writes the line that an event [came with](Received::line), which was stored just now.
    fn stored(&self, kind: Kind, line: &str);
}

/// One event as its source said it.
#[derive(Debug)]
pub struct Received {
    /// The payload, byte for byte.
    pub payload: String,
    /// Its kind.
    pub kind: Kind,
    /// Its name on the wire, where that is not its kind's; logs with plain frames have no use for it.
    pub name: Box<str>,
    /// What makes it this event, and what else ingest needs to know of it.
    pub facts: Facts,
    /// The id that the node gave it.
    pub upstream_id: Option<u64>,
    /// When it was received.
    pub received_at: Timestamp,
    /// What the log line about it says, where one is wanted.
    pub line: Option<Box<str>>,
}

/// What a source hands to ingest.
#[derive(Debug)]
pub enum Batch {
    /// The connection's handshake is done, or the node announced another version on it.
    Version {
        /// The connection it was announced on.
        connection: Arc<Connection>,
        /// What was announced.
        version: ApiVersion,
    },
    /// Events of one connection, in its order.
    Events {
        /// The connection they came on.
        connection: Arc<Connection>,
        /// The events; never empty.
        events: Vec<Received>,
    },
    /// Events that this source will never have, which nothing but the source can know. The log carries a mark.
    Gap {
        /// The connection that showed it.
        connection: Arc<Connection>,
        /// What `from` and `to` count, for instance `time` in microseconds since the Unix epoch.
        of: &'static str,
        /// The first number in the gap.
        from: u64,
        /// The last number in the gap.
        to: u64,
    },
}

/// The time, as events and marks carry it.
pub(crate) fn now() -> Timestamp {
    microseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Why a source ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// As many attempts in a row have failed as are allowed.
    AttemptsUsedUp,
    /// The node is too old.
    Incompatible,
    /// The node is on another network than configured, or than the log.
    WrongNetwork,
    /// The receiver of the events is gone.
    ReceiverGone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_three_numbers_and_orders_by_them() {
        let version: ApiVersion = "2.0.10".parse().unwrap();
        assert_eq!(version, ApiVersion { major: 2, minor: 0, patch: 10 });
        assert!(version > "2.0.9".parse().unwrap());
        assert_eq!(version.to_string(), "2.0.10");
    }

    #[test]
    fn a_version_of_another_form_is_refused() {
        for text in ["", "2", "2.0", "2.0.0.0", "2.0.x", "2.0.4294967296", "2.0.-1", "2.0.0-rc1"] {
            assert!(text.parse::<ApiVersion>().is_err(), "{text}");
        }
    }
}
