//! Sources: where events come from.
//!
//! Owns the connections to upstream nodes. Bytes of a node's stream flow in; batches of [`Received`] events, with what
//! identity needs already borrowed out of the raw payload, flow out to `ingest`. Nothing here stores or orders anything.

use std::sync::{Arc, OnceLock};

pub use crate::casper::source::EventLines;
pub use sidecar_log_format::{ApiVersion, ApiVersionError, Kind, Timestamp};

/// What makes two reports of one event the same event (design: *identity*).
///
/// Equal `class` and `hash` mean the same event. `time` says when, in the chain's own terms, so that an index ordered
/// by `(class, time)` grows at its right edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Which kind of natural key this is; identities of different classes never meet.
    pub class: u8,
    /// Block height, era or transaction timestamp in milliseconds; 0 where the event tells none.
    pub time: u64,
    /// 16 bytes that stand for the natural key: of a BLAKE3 hash over it.
    pub hash: [u8; 16],
}

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
    /// `HOST:SSE_PORT` of the node, as configured.
    pub source: String,
    /// The chain's name, from the node's `/status`.
    pub network: String,
    /// The version of this connection's handshake.
    pub api_version: ApiVersion,
    /// The log lines about its events, which are written once an event is known to be new.
    pub event_lines: Arc<EventLines>,
}

/// One event as its source said it.
#[derive(Debug)]
pub struct Received {
    /// The payload, byte for byte.
    pub payload: String,
    /// Its kind.
    pub kind: Kind,
    /// What makes it this event and no other.
    pub identity: Identity,
    /// The entries in the `messages` of a processed transaction, 0 otherwise: a copy with some is richer than one with
    /// none.
    pub message_count: u64,
    /// The block height this event announces, for gap detection (`BlockAdded` only).
    pub block_height: Option<u64>,
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
