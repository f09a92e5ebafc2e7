//! What one node's listener counts, to be shown elsewhere.
//!
//! Plain atomics: written by the listener, read at any time by the admin server. A count never goes down; the status is
//! the only value that does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI8, Ordering};

use crate::casper::event::KINDS;
use crate::engine::counters::{Count, Tally};
use crate::engine::source::Kind;

/// Where a listener is in its life; the numbers are those of the gauge `node_statuses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum NodeStatus {
    /// Not started.
    Preparing = 0,
    /// Working on its first connection.
    Connecting = 1,
    /// The handshake is done.
    Connected = 2,
    /// A connection was lost.
    Reconnecting = 3,
    /// As many attempts in a row have failed as may. Ended, or retried with growing pauses.
    AttemptsUsedUp = -1,
    /// The node is too old, or on another network. Ended, or retried with growing pauses.
    Incompatible = -2,
}

/// An error that is counted under the reference's labels in `error_counts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CountedError {
    /// The node's `build_version` has no form that is known.
    BuildVersionForm,
    /// The node's status has no `build_version`.
    BuildVersionMissing,
    /// The node's status has no `chainspec_name`.
    ChainNameMissing,
    /// An event came without an id that is a number.
    EventWithoutId,
    /// A payload is malformed.
    Deserialization,
    /// The event stream failed, silence included.
    StreamFailed,
    /// An event could not be handed on.
    SendingEvent,
    /// A version could not be handed on.
    SendingApiVersion,
    /// The first message names `ApiVersion` but is something else.
    ApiVersionExpected,
    /// The first message names `ApiVersion` but is malformed.
    ApiVersionDeserialization,
}

impl CountedError {
    /// Every counted error.
    pub const ALL: [Self; 10] = [
        Self::BuildVersionForm,
        Self::BuildVersionMissing,
        Self::ChainNameMissing,
        Self::EventWithoutId,
        Self::Deserialization,
        Self::StreamFailed,
        Self::SendingEvent,
        Self::SendingApiVersion,
        Self::ApiVersionExpected,
        Self::ApiVersionDeserialization,
    ];

    /// The label `category`.
    #[must_use]
    pub const fn category(self) -> &'static str {
        match self {
            Self::BuildVersionForm | Self::BuildVersionMissing | Self::ChainNameMissing => {
                "fetching_build_version_for_node"
            }
            _ => "connection_manager",
        }
    }

    /// The label `description`.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::BuildVersionForm => "failed_parsing_protocol_version",
            Self::BuildVersionMissing => "failed_getting_build_version_from_node_status",
            Self::ChainNameMissing => "failed_getting_chainspec_name_from_node_status",
            Self::EventWithoutId => "event_without_id",
            Self::Deserialization => "deserialization_error:events",
            Self::StreamFailed => "fetching_from_stream_failed",
            Self::SendingEvent => "sending_downstream_failed",
            Self::SendingApiVersion => "api_version_sending_failed",
            Self::ApiVersionExpected => "api_version_expected",
            Self::ApiVersionDeserialization => "api_version_deserialization_failed",
        }
    }
}

/// A node by its name, with what its listener counts.
#[derive(Clone, Debug)]
pub struct NamedSource {
    /// `HOST:SSE_PORT`.
    pub name: String,
    /// Its counters.
    pub counters: Arc<Counters>,
}

/// The counters of one node.
#[derive(Debug, Default)]
pub struct Counters {
    status: AtomicI8,
    received: [Tally; KINDS.len()],
    errors: [Count; CountedError::ALL.len()],
    /// `ApiVersion` messages, handshakes included.
    pub api_versions: Tally,
    /// `SidecarVersion` messages, which no node should send.
    pub sidecar_versions: Tally,
    /// Payloads and frames that were dropped because they are not UTF-8 or not one JSON value.
    pub malformed: Count,
    /// Frames that were dropped because they are longer than `event_bytes_max`.
    pub oversized: Count,
    /// Events of an unknown kind, or of a known kind in an unknown shape.
    pub unclassified: Count,
    /// Entries in the `messages` of processed transactions, duplicates included.
    pub contract_messages: Count,
    /// Connections that were tried again after one was lost or failed.
    pub reconnects: Count,
}

impl Counters {
    /// The number that [`NodeStatus`] gives the listener's present state.
    #[must_use]
    pub fn status(&self) -> i8 {
        self.status.load(Ordering::Relaxed)
    }

    /// The same in the words of the metric `node_statuses`.
    #[must_use]
    pub fn status_name(&self) -> &'static str {
        match self.status() {
            0 => "preparing",
            1 => "connecting",
            2 => "connected",
            3 => "reconnecting",
            -1 => "connections_exhausted",
            _ => "incompatible",
        }
    }

    /// The events of `kind` that were received, duplicates included.
    #[must_use]
    pub fn received(&self, kind: Kind) -> &Tally {
        let [.., other] = &self.received;
        KINDS.iter().zip(&self.received).find(|((known, _), _)| *known == kind).map_or(other, |(_, tally)| tally)
    }

    /// How often `error` has happened.
    #[must_use]
    pub fn errors(&self, error: CountedError) -> u64 {
        self.error(error).get()
    }

    pub(super) fn count(&self, error: CountedError) {
        self.error(error).add(1);
    }

    pub(super) fn set_status(&self, status: NodeStatus) {
        self.status.store(status as i8, Ordering::Relaxed);
    }

    fn error(&self, error: CountedError) -> &Count {
        #[expect(clippy::indexing_slicing, reason = "ALL has every variant in the order of their numbers")]
        &self.errors[error as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counted_error_has_a_count_of_its_own() {
        let counters = Counters::default();
        for (number, error) in CountedError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, number);
            counters.count(error);
            assert_eq!(counters.errors(error), 1, "{error:?}");
        }
    }

    #[test]
    fn every_kind_has_a_tally_of_its_own_and_unknown_numbers_share_the_last() {
        let counters = Counters::default();
        for (kind, name) in KINDS {
            counters.received(kind).add(name);
        }
        for (kind, name) in KINDS {
            assert_eq!(counters.received(kind).snapshot().sum, name.len() as u64);
        }
        assert_eq!(counters.received(Kind(40)).snapshot().sum, "Other".len() as u64);
    }
}
