//! The topics of `/eth/v1/events`, and what of an event makes it this event.
//!
//! Two clients that report one event write it with the members in another order, or with hexadecimal digits in another
//! case. So an event is known by the members that are named here, which are the parts of its natural key. A number of a
//! topic, once given, stays: it is in the logs.

use sidecar_log_format::Kind;

/// A topic that Sidecar knows.
#[derive(Debug)]
pub struct Topic {
    /// Its number in logs.
    pub kind: Kind,
    /// Its name on the wire.
    pub name: &'static str,
    /// What an event is known by.
    pub(super) known_by: KnownBy,
}

/// What makes two events of a topic one.
#[derive(Debug)]
pub(super) enum KnownBy {
    /// The members at these paths, with dots between their names.
    Members {
        /// A slot or epoch, by which the events nearly ascend.
        time: Option<&'static str>,
        /// What every event has.
        always: &'static [&'static str],
        /// What an event may lack.
        sometimes: &'static [&'static str],
    },
    /// Nothing: it is about the client that says it, and every one is new.
    Saying,
}

/// The most members that an event is known by, its time included.
pub(super) const MEMBERS_MAX: usize = 20;

const fn topic(number: u8, name: &'static str, known_by: KnownBy) -> Topic {
    Topic { kind: Kind(number), name, known_by }
}

const fn of_slot(always: &'static [&'static str], sometimes: &'static [&'static str]) -> KnownBy {
    KnownBy::Members { time: Some("slot"), always, sometimes }
}

const fn at(time: &'static str, always: &'static [&'static str]) -> KnownBy {
    KnownBy::Members { time: Some(time), always, sometimes: &[] }
}

const fn timeless(always: &'static [&'static str]) -> KnownBy {
    KnownBy::Members { time: None, always, sometimes: &[] }
}

/// A client that has not verified the payload says so, and says the event again once it has: that is news.
const OPTIMISTIC: &[&str] = &["execution_optimistic"];

/// The number of `block`.
pub(super) const BLOCK: Kind = Kind(3);
/// The number of `head`.
pub(super) const HEAD: Kind = Kind(1);

/// Every topic that Sidecar knows, by number: those of the standard first, then what clients send beside it.
pub static TOPICS: [Topic; COUNT] = [
    topic(1, "head", of_slot(&["block"], OPTIMISTIC)),
    topic(
        2,
        "head_v2",
        KnownBy::Members {
            time: Some("data.slot"),
            always: &["data.block", "data.payload_status"],
            sometimes: &["data.execution_optimistic"],
        },
    ),
    topic(3, "block", of_slot(&["block"], OPTIMISTIC)),
    topic(4, "block_gossip", of_slot(&["block"], &[])),
    topic(
        5,
        "attestation",
        KnownBy::Members {
            time: Some("data.slot"),
            always: &[
                "aggregation_bits",
                "data.index",
                "data.beacon_block_root",
                "data.source.epoch",
                "data.source.root",
                "data.target.epoch",
                "data.target.root",
                "signature",
            ],
            sometimes: &["committee_bits"],
        },
    ),
    topic(
        6,
        "single_attestation",
        at(
            "data.slot",
            &[
                "committee_index",
                "attester_index",
                "data.index",
                "data.beacon_block_root",
                "data.source.epoch",
                "data.source.root",
                "data.target.epoch",
                "data.target.root",
                "signature",
            ],
        ),
    ),
    topic(7, "voluntary_exit", timeless(&["message.epoch", "message.validator_index", "signature"])),
    topic(
        8,
        "bls_to_execution_change",
        timeless(&["message.validator_index", "message.from_bls_pubkey", "message.to_execution_address", "signature"]),
    ),
    topic(
        9,
        "proposer_slashing",
        timeless(&[
            "signed_header_1.message.slot",
            "signed_header_1.message.proposer_index",
            "signed_header_1.message.parent_root",
            "signed_header_1.message.state_root",
            "signed_header_1.message.body_root",
            "signed_header_1.signature",
            "signed_header_2.message.slot",
            "signed_header_2.message.proposer_index",
            "signed_header_2.message.parent_root",
            "signed_header_2.message.state_root",
            "signed_header_2.message.body_root",
            "signed_header_2.signature",
        ]),
    ),
    topic(
        10,
        "attester_slashing",
        timeless(&[
            "attestation_1.attesting_indices",
            "attestation_1.data.slot",
            "attestation_1.data.index",
            "attestation_1.data.beacon_block_root",
            "attestation_1.data.source.root",
            "attestation_1.data.target.root",
            "attestation_1.signature",
            "attestation_2.attesting_indices",
            "attestation_2.data.slot",
            "attestation_2.data.index",
            "attestation_2.data.beacon_block_root",
            "attestation_2.data.source.root",
            "attestation_2.data.target.root",
            "attestation_2.signature",
        ]),
    ),
    topic(
        11,
        "finalized_checkpoint",
        KnownBy::Members { time: Some("epoch"), always: &["block"], sometimes: OPTIMISTIC },
    ),
    topic(12, "chain_reorg", of_slot(&["old_head_block", "new_head_block"], OPTIMISTIC)),
    topic(
        13,
        "contribution_and_proof",
        at(
            "message.contribution.slot",
            &[
                "message.aggregator_index",
                "message.contribution.beacon_block_root",
                "message.contribution.subcommittee_index",
                "message.contribution.aggregation_bits",
                "message.contribution.signature",
            ],
        ),
    ),
    topic(
        14,
        "light_client_finality_update",
        at(
            "data.signature_slot",
            &[
                "data.attested_header.beacon.slot",
                "data.attested_header.beacon.parent_root",
                "data.attested_header.beacon.state_root",
                "data.attested_header.beacon.body_root",
                "data.finalized_header.beacon.slot",
                "data.finalized_header.beacon.state_root",
                "data.finalized_header.beacon.body_root",
                "data.sync_aggregate.sync_committee_bits",
            ],
        ),
    ),
    topic(
        15,
        "light_client_optimistic_update",
        at(
            "data.signature_slot",
            &[
                "data.attested_header.beacon.slot",
                "data.attested_header.beacon.parent_root",
                "data.attested_header.beacon.state_root",
                "data.attested_header.beacon.body_root",
                "data.sync_aggregate.sync_committee_bits",
            ],
        ),
    ),
    topic(
        16,
        "payload_attributes",
        at(
            "data.proposal_slot",
            &[
                "data.proposer_index",
                "data.parent_block_root",
                "data.parent_block_hash",
                "data.payload_attributes.timestamp",
                "data.payload_attributes.prev_randao",
                "data.payload_attributes.suggested_fee_recipient",
            ],
        ),
    ),
    topic(17, "data_column_sidecar", of_slot(&["block_root", "index"], &[])),
    topic(18, "execution_payload", of_slot(&["builder_index", "block_hash", "block_root"], OPTIMISTIC)),
    topic(19, "execution_payload_gossip", of_slot(&["builder_index", "block_hash", "block_root"], &[])),
    topic(20, "execution_payload_available", of_slot(&["block_root"], &[])),
    topic(
        21,
        "execution_payload_bid",
        at(
            "data.message.slot",
            &[
                "data.message.builder_index",
                "data.message.parent_block_hash",
                "data.message.parent_block_root",
                "data.message.block_hash",
                "data.message.value",
                "data.signature",
            ],
        ),
    ),
    topic(
        22,
        "payload_attestation_message",
        at(
            "data.data.slot",
            &[
                "data.validator_index",
                "data.data.beacon_block_root",
                "data.data.payload_present",
                "data.data.blob_data_available",
            ],
        ),
    ),
    topic(23, "fast_confirmation", at("current_slot", &["slot", "block"])),
    topic(
        24,
        "proposer_preferences",
        at(
            "data.message.proposal_slot",
            &[
                "data.message.dependent_root",
                "data.message.validator_index",
                "data.message.fee_recipient",
                "data.message.target_gas_limit",
            ],
        ),
    ),
    topic(25, "blob_sidecar", of_slot(&["block_root", "index"], &[])),
    topic(26, "late_head", of_slot(&["block"], &[])),
    topic(27, "block_reward", at("meta.slot", &["block_root"])),
    topic(28, "sync_state", KnownBy::Saying),
];

/// How many topics Sidecar knows.
pub(super) const COUNT: usize = 28;
/// How many of [`TOPICS`] are in the standard, or were.
const STANDARD: usize = 25;

/// The topics of the standard: what is read from a client where nothing else is asked for.
pub fn standard() -> impl Iterator<Item = &'static Topic> {
    TOPICS.iter().take(STANDARD)
}

/// The topic of a name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.name == name)
}

/// The topic of a number; `None` for one that an operator has added.
pub(super) fn of_kind(kind: Kind) -> Option<&'static Topic> {
    TOPICS.get(usize::from(kind.0).checked_sub(1)?)
}

/// Whether every event of a kind is new, whatever it says.
pub(super) fn is_news_each_time(kind: Kind) -> bool {
    matches!(of_kind(kind), Some(Topic { known_by: KnownBy::Saying, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_the_number_of_its_place_a_name_of_its_own_and_members_within_the_limit() {
        for (place, topic) in TOPICS.iter().enumerate() {
            assert_eq!(usize::from(topic.kind.0), place + 1, "{}", topic.name);
            assert!(std::ptr::eq(named(topic.name).unwrap(), of_kind(topic.kind).unwrap()));
            if let KnownBy::Members { time, always, sometimes } = &topic.known_by {
                assert!(always.len() + sometimes.len() + usize::from(time.is_some()) <= MEMBERS_MAX);
            }
        }
        assert_eq!((of_kind(Kind(0)).is_none(), of_kind(Kind(29)).is_none()), (true, true));
        assert_eq!((named("block").unwrap().kind, named("head").unwrap().kind), (BLOCK, HEAD));
        assert_eq!(standard().last().unwrap().name, "blob_sidecar");
    }
}
