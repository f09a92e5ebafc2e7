//! Sources: where events come from.
//!
//! Owns the connections to upstream nodes. Bytes of a node's stream flow in; batches of [`Received`] events, with what
//! identity needs already borrowed out of the raw payload, flow out to `ingest`. Nothing here stores or orders anything.

pub mod casper;

use std::sync::Arc;

/// Microseconds since the Unix epoch.
pub type Timestamp = u64;

/// The kind of an event: a number of the stream's dialect, as the log stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(pub u8);

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

/// A protocol version `major.minor.patch` as a node announces it; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Patch number.
    pub patch: u32,
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
    /// Set for an event that can be told from a poorer copy of itself (`messages` of a processed transaction):
    /// whether this copy carries messages.
    pub has_messages: bool,
    /// The block height this event announces, for gap detection (`BlockAdded` only).
    pub block_height: Option<u64>,
    /// The id that the node gave it.
    pub upstream_id: Option<u64>,
    /// When it was received.
    pub received_at: Timestamp,
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
