//! What one node's listener counts beside what every source does, to be shown elsewhere.
//!
//! Plain atomics: written by the listener, read at any time by the admin server.

use std::sync::Arc;

use crate::casper::event::KINDS;
use crate::engine::counters::{Count, Tally};
use crate::engine::source::Kind;
use crate::engine::source::watch::SourceCounters;

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

/// The counters of one node.
#[derive(Debug, Default)]
pub struct Counters {
    /// What every source counts.
    pub common: Arc<SourceCounters>,
    received: [Tally; KINDS.len()],
    errors: [Count; CountedError::ALL.len()],
    /// `ApiVersion` messages, handshakes included.
    pub api_versions: Tally,
    /// `SidecarVersion` messages, which no node should send.
    pub sidecar_versions: Tally,
    /// Entries in the `messages` of processed transactions, duplicates included.
    pub contract_messages: Count,
}

impl Counters {
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
