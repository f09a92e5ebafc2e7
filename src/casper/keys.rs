//! What a stored event is found by, and how its payload looks in answers.
//!
//! Owns the natural keys of the event kinds and the payload form that REST and the SQL tables share. A stored payload and
//! its kind flow in; [`Keys`] borrowed from it, or slices of it with a little text around them, flow out. Whatever the
//! classifier knows the shape of has keys here, and nothing else has.

mod account;
mod key;
mod scan;

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::event::{
    BLOCK_ADDED, Block, BlockAdded, FAULT, FINALITY_SIGNATURE, Fault, FinalitySignature, Payload, STEP, Step,
    TRANSACTION_ACCEPTED, TRANSACTION_EXPIRED, TRANSACTION_PROCESSED, Transaction, TransactionExpired, TransactionHash,
    TransactionProcessed, folded, kind_name,
};
use crate::engine::source::Kind;
use account::initiator;
pub use account::{account_of_initiator, account_of_key};
pub use key::{Keys, Stage, TransactionType};

/// The keys of a payload of this kind; `None` for kinds without any (`Shutdown`, unknown ones) and for unknown shapes.
///
/// `payload` must be one JSON value, as every stored one is: what is not wanted of it is not looked at.
#[must_use]
pub fn keys(kind: Kind, payload: &str) -> Option<Keys<'_>> {
    if !HAVE_KEYS.contains(&kind) {
        return None;
    }
    scan::scan(kind, payload).or_else(|| deserialized(kind, payload))
}

/// The same by the classifier's own shapes.
fn deserialized(kind: Kind, payload: &str) -> Option<Keys<'_>> {
    let (stated, keys) = match serde_json::from_str::<Payload<'_>>(payload).ok()? {
        Payload::BlockAdded(block) => (BLOCK_ADDED, block.keys()),
        Payload::TransactionAccepted(transaction) => (TRANSACTION_ACCEPTED, transaction.keys()),
        Payload::TransactionProcessed(processed) => (TRANSACTION_PROCESSED, processed.keys()),
        Payload::TransactionExpired(expired) => (TRANSACTION_EXPIRED, expired.keys()),
        Payload::Fault(fault) => (FAULT, fault.keys()),
        Payload::FinalitySignature(signature) => (FINALITY_SIGNATURE, signature.keys()),
        Payload::Step(step) => (STEP, step.keys()),
        Payload::ApiVersion(_) | Payload::SidecarVersion(_) | Payload::Shutdown => return None,
    };
    (stated == kind).then_some(keys)
}

/// The kinds that have keys, and with them a form in answers.
const HAVE_KEYS: [Kind; 7] =
    [BLOCK_ADDED, TRANSACTION_ACCEPTED, TRANSACTION_EXPIRED, TRANSACTION_PROCESSED, FAULT, FINALITY_SIGNATURE, STEP];

impl<'a> BlockAdded<'a> {
    fn keys(self) -> Keys<'a> {
        let (Block::Version1(content) | Block::Version2(content)) = self.block;
        Keys::Block { hash: folded(self.block_hash), height: content.header.height }
    }
}

impl<'a> Transaction<'a> {
    fn keys(self) -> Keys<'a> {
        let (hash, origin) = self.into_parts();
        hash.keys(Stage::Accepted, origin.and_then(|origin| initiator(origin.initiator_addr?.get())))
    }
}

impl<'a> TransactionProcessed<'a> {
    fn keys(self) -> Keys<'a> {
        self.transaction_hash.keys(Stage::Processed, self.initiator_addr.map(RawValue::get).and_then(initiator))
    }
}

impl<'a> TransactionExpired<'a> {
    fn keys(self) -> Keys<'a> {
        self.transaction_hash.keys(Stage::Expired, None)
    }
}

impl<'a> TransactionHash<'a> {
    fn keys(self, stage: Stage, initiator: Option<&'a str>) -> Keys<'a> {
        let (transaction_type, hash) = match self {
            Self::Deploy(hash) => (TransactionType::Deploy, hash),
            Self::Version1(hash) => (TransactionType::Version1, hash),
        };
        Keys::Transaction { stage, transaction_type, hash: folded(hash), initiator }
    }
}

impl<'a> Fault<'a> {
    fn keys(self) -> Keys<'a> {
        Keys::Fault { era: self.era_id, public_key: folded(self.public_key) }
    }
}

impl<'a> FinalitySignature<'a> {
    fn keys(self) -> Keys<'a> {
        let (Self::V1 { block_hash, public_key, .. } | Self::V2 { block_hash, public_key, .. }) = self;
        Keys::Signature { block_hash: folded(block_hash), public_key: folded(public_key) }
    }
}

impl Step {
    fn keys(self) -> Keys<'static> {
        Keys::Step { era: self.era_id }
    }
}

/// The payload as REST answers and the SQL tables have it: the wrapper that names the kind is off, an accepted transaction
/// is in a member `transaction`, and a step's `execution_effects` is called `execution_effect`. Everything else is
/// the payload's own bytes.
///
/// `kind` must be what the classifier said of this payload, so that it is known to have one member of that name. `None`
/// for kinds without such a form: `Shutdown` and unknown ones.
#[must_use]
pub fn rest_payload(kind: Kind, payload: &str) -> Option<Cow<'_, str>> {
    if !HAVE_KEYS.contains(&kind) {
        return None;
    }
    let content = unwrapped(kind_name(kind), payload)?;
    Some(match kind {
        TRANSACTION_ACCEPTED => Cow::Owned(format!(r#"{{"transaction":{content}}}"#)),
        STEP => with_execution_effect(content),
        _ => Cow::Borrowed(content),
    })
}

/// The value of the only member, which is called `name`.
fn unwrapped<'a>(name: &str, payload: &'a str) -> Option<&'a str> {
    let member = payload.trim().strip_prefix('{')?.strip_suffix('}')?.trim_start();
    let value = member.strip_prefix('"')?.strip_prefix(name)?.strip_prefix('"')?.trim_start().strip_prefix(':')?;
    Some(value.trim())
}

fn with_execution_effect(step: &str) -> Cow<'_, str> {
    const MEMBER: &str = r#""execution_effects""#;

    #[derive(serde::Deserialize)]
    struct Effects<'a> {
        #[serde(borrow)]
        execution_effects: &'a RawValue,
    }

    let renamed = || {
        let effects = serde_json::from_str::<Effects<'_>>(step).ok()?.execution_effects.get();
        // The member's name is the last text in quotes before its value, wherever else the same text may stand.
        let start_of_value = effects.as_ptr().addr().checked_sub(step.as_ptr().addr())?;
        let (before, value_and_rest) = step.split_at_checked(start_of_value)?;
        let (before, colon) = before.split_at_checked(before.rfind(MEMBER)?)?;
        let colon = colon.strip_prefix(MEMBER)?;
        Some(format!(r#"{before}"execution_effect"{colon}{value_and_rest}"#))
    };
    renamed().map_or(Cow::Borrowed(step), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::event::{Classified, OTHER, SHUTDOWN, classify};
    use super::*;

    const BLOCK: &str = include_str!("../../tests/data/events/BlockAdded.node_with_transactions.json");
    const BLOCK_V1: &str = include_str!("../../tests/data/events/BlockAdded.version1.json");
    const ACCEPTED_DEPLOY: &str = include_str!("../../tests/data/events/TransactionAccepted.deploy.json");
    const ACCEPTED_V1: &str = include_str!("../../tests/data/events/TransactionAccepted.node_version1.json");
    const PROCESSED_DEPLOY: &str = include_str!("../../tests/data/events/TransactionProcessed.node_deploy.json");
    const PROCESSED_V1: &str = include_str!("../../tests/data/events/TransactionProcessed.node_version1.json");
    const EXPIRED: &str = include_str!("../../tests/data/events/TransactionExpired.deploy.json");
    const FAULT_SAMPLE: &str = include_str!("../../tests/data/events/Fault.secp256k1.json");
    const SIGNATURE: &str = include_str!("../../tests/data/events/FinalitySignature.node_v2.json");
    const STEP_SAMPLE: &str = include_str!("../../tests/data/events/Step.node_a.json");
    const ACCOUNT: &str = "01522ef6c89038019cb7af05c340623804392dd2bb1f4dab5e4a9c3ab752fc0179";

    const SAMPLES: [(Kind, &str); 10] = [
        (BLOCK_ADDED, BLOCK),
        (BLOCK_ADDED, BLOCK_V1),
        (TRANSACTION_ACCEPTED, ACCEPTED_DEPLOY),
        (TRANSACTION_ACCEPTED, ACCEPTED_V1),
        (TRANSACTION_PROCESSED, PROCESSED_DEPLOY),
        (TRANSACTION_PROCESSED, PROCESSED_V1),
        (TRANSACTION_EXPIRED, EXPIRED),
        (FAULT, FAULT_SAMPLE),
        (FINALITY_SIGNATURE, SIGNATURE),
        (STEP, STEP_SAMPLE),
    ];

    #[test]
    fn a_block_of_either_form_has_hash_and_height() {
        let hash = "5c0f495c2aa90e7a7559879801b72991c00416517385f83bad79172027bef22c";
        assert_eq!(keys(BLOCK_ADDED, BLOCK), Some(Keys::Block { hash: hash.into(), height: 13 }));
        let hash = "d59359690ca5a251b513185da0767f744e77645adec82bb6ff785a89edc7591c";
        assert_eq!(keys(BLOCK_ADDED, BLOCK_V1), Some(Keys::Block { hash: hash.into(), height: 6_017_012 }));
    }

    #[test]
    fn a_transaction_has_stage_type_hash_and_initiator() {
        let cases = [
            (
                TRANSACTION_ACCEPTED,
                ACCEPTED_DEPLOY,
                Stage::Accepted,
                TransactionType::Deploy,
                "5a7709969c210db93d3c21bf49f8bf705d7c75a01609f606d04b0211af171d43",
                Some("02022c07e061d6e0b43bbaa25717b021c2ddc0f701a223946a0883b57ae842917438"),
            ),
            (
                TRANSACTION_ACCEPTED,
                ACCEPTED_V1,
                Stage::Accepted,
                TransactionType::Version1,
                "9e8b0a6433511f480cc09947e2a63b6709757dbb21f2c007614f80ba22d426f1",
                Some(ACCOUNT),
            ),
            (
                TRANSACTION_PROCESSED,
                PROCESSED_DEPLOY,
                Stage::Processed,
                TransactionType::Deploy,
                "0f9b73657bcff74d8f0960d98b2728f695ed26e9f33e7844b31f1bb194744953",
                Some(ACCOUNT),
            ),
            (
                TRANSACTION_PROCESSED,
                PROCESSED_V1,
                Stage::Processed,
                TransactionType::Version1,
                "518cce8a4119b6f05fdb5f350d3f3e111d93a8fdaf18ad1668127f699b3a4cdc",
                Some(ACCOUNT),
            ),
            (
                TRANSACTION_EXPIRED,
                EXPIRED,
                Stage::Expired,
                TransactionType::Deploy,
                "565d7147e28be402c34208a133fd59fde7ac785ae5f0298cb5fb7adfb1b054a8",
                None,
            ),
        ];
        for (kind, payload, stage, transaction_type, hash, initiator) in cases {
            let expected = Keys::Transaction { stage, transaction_type, hash: hash.into(), initiator };
            assert_eq!(keys(kind, payload), Some(expected));
        }
    }

    #[test]
    fn an_initiator_may_be_an_account_hash_and_one_that_is_not_understood_hides_nothing() {
        let initiator_of = |written: &str| {
            let payload = PROCESSED_V1.replace(&format!(r#"{{"PublicKey":"{ACCOUNT}"}}"#), written);
            match keys(TRANSACTION_PROCESSED, &payload) {
                Some(Keys::Transaction { initiator, .. }) => initiator.map(str::to_owned),
                other => panic!("no transaction: {other:?}"),
            }
        };
        let cases = [
            (r#"{"AccountHash":"account-hash-ab"}"#, Some("account-hash-ab")),
            (r#"{ "PublicKey" : "01ab" }"#, Some("01ab")),
            (r#""01cd""#, Some("01cd")),
            (r#"{"EntityAddr":"x"}"#, None),
            (r#"{"PublicKey":"0\u0031ab"}"#, None),
            ("null", None),
            ("[1]", None),
        ];
        for (written, expected) in cases {
            assert_eq!(initiator_of(written).as_deref(), expected, "{written}");
        }
    }

    #[test]
    fn a_public_key_and_its_account_hash_are_one_account() {
        // Both are in the transfer of the recorded processed deploy.
        let account = "account-hash-5bf7304d39cdc9c99b8a391234f6ad85c5fdcf41646a55493c3d35b68d6bb193";
        assert!(PROCESSED_DEPLOY.contains(ACCOUNT) && PROCESSED_DEPLOY.contains(account));
        assert_eq!(account_of_initiator(ACCOUNT), account_of_initiator(account));
        let secp256k1 = account_of_initiator("02022c07e061d6e0b43bbaa25717b021c2ddc0f701a223946a0883b57ae842917438");
        assert!(secp256k1.is_some());
        let too_long = format!("{ACCOUNT}00");
        for neither in ["", "01", "0122", "03ab", "account-hash-", "account-hash-5b", "x", &too_long, &"01".repeat(99)]
        {
            assert_eq!(account_of_initiator(neither), None, "{neither}");
        }
    }

    #[test]
    fn a_signature_of_either_form_has_block_and_key() {
        let expected = Keys::Signature {
            block_hash: "3aa0c7d7e04f38f730f50933d5855f15fadf8b7257c159b000021ec01ab7e8da".into(),
            public_key: "01f60bce2bb1059c41910eac1e7ee6c3ef4c8fcc63a901eb9603c1524cadfb0c18".into(),
        };
        assert_eq!(keys(FINALITY_SIGNATURE, SIGNATURE), Some(expected));
        let old_form =
            r#"{"FinalitySignature":{"V1":{"block_hash":"ab","era_id":9,"signature":"01","public_key":"cd"}}}"#;
        let expected = Keys::Signature { block_hash: "ab".into(), public_key: "cd".into() };
        assert_eq!(keys(FINALITY_SIGNATURE, old_form), Some(expected));
    }

    #[test]
    fn a_hash_or_key_in_any_case_is_the_same_key() {
        let hash_and_key = |payload: &str, kind| match keys(kind, payload) {
            Some(Keys::Block { hash, .. }) => (hash.into_owned(), None),
            Some(Keys::Transaction { hash, initiator, .. }) => {
                (hash.into_owned(), initiator.and_then(account_of_initiator).map(hex::encode))
            }
            Some(Keys::Fault { public_key, .. }) => (public_key.into_owned(), None),
            Some(Keys::Signature { block_hash, public_key }) => {
                (block_hash.into_owned(), Some(public_key.into_owned()))
            }
            other => panic!("no hash or key: {other:?}"),
        };
        let identity = |payload: &str| match classify(payload) {
            Ok(Classified::Event(facts)) => facts.identity,
            other => panic!("no event: {other:?}"),
        };
        for (kind, sample) in SAMPLES.into_iter().filter(|(kind, _)| *kind != STEP) {
            let is_hex = |text: &str| text.len() >= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let shout = |text: &str| if is_hex(text) { text.to_uppercase() } else { text.to_owned() };
            let shouted = sample.split('"').map(shout).collect::<Vec<_>>().join("\"");
            assert_ne!(shouted, sample);
            assert_eq!(hash_and_key(&shouted, kind), hash_and_key(sample, kind), "{sample}");
            assert_eq!(identity(&shouted), identity(sample), "{sample}");
        }
        assert_eq!(folded("Ab"), "ab");
        assert_eq!(folded("Xb"), "Xb", "no digits");
    }

    #[test]
    fn a_fault_and_a_step_have_their_era() {
        let public_key = "02034ce1acbceeb5eb2b20eeeef9965e3ca8e7a95655f2089342bcbb51319a0d70d1";
        assert_eq!(keys(FAULT, FAULT_SAMPLE), Some(Keys::Fault { era: 769_794, public_key: public_key.into() }));
        assert_eq!(keys(STEP, STEP_SAMPLE), Some(Keys::Step { era: 1 }));
    }

    #[test]
    fn the_scanner_reads_what_nodes_write_and_leaves_the_rest_to_the_deserializer() {
        for (kind, sample) in SAMPLES {
            let is_for_it = [TRANSACTION_ACCEPTED, TRANSACTION_PROCESSED, FINALITY_SIGNATURE].contains(&kind);
            let found = scan::scan(kind, sample.trim_end());
            assert_eq!(found, deserialized(kind, sample).filter(|_| is_for_it), "{sample}");
        }
        for (kind, sample, written, instead) in [
            (FINALITY_SIGNATURE, SIGNATURE, r#""era_id":1"#, r#""era_id":1,"block_hash":"00""#),
            (FINALITY_SIGNATURE, SIGNATURE, r#""era_id":1"#, r#""era_id":1,"block_hash":"\u0030""#),
            (FINALITY_SIGNATURE, SIGNATURE, r#""era_id":1"#, r#""era_id":1,"block\u005fhash":"00""#),
            (FINALITY_SIGNATURE, SIGNATURE, r#""block_height":2"#, r#""block_height":-2"#),
            (FINALITY_SIGNATURE, SIGNATURE, r#""block_height":2"#, r#""block_height":2.0"#),
            (FINALITY_SIGNATURE, SIGNATURE, r#""block_height":2,"#, ""),
            (TRANSACTION_ACCEPTED, ACCEPTED_V1, "04:30:42.492Z", "24:30:42.492Z"),
            (TRANSACTION_ACCEPTED, ACCEPTED_V1, "2026-11-22T", "2026-02-30T"),
            (TRANSACTION_ACCEPTED, ACCEPTED_V1, r#""approvals":"#, r#""header":{"timestamp":""},"approvals":"#),
            (TRANSACTION_ACCEPTED, ACCEPTED_V1, r#""ttl":"#, r#""account":"01ab","ttl":"#),
            (TRANSACTION_PROCESSED, PROCESSED_V1, r#""ttl":"#, r#""messages":{},"ttl":"#),
            (TRANSACTION_PROCESSED, PROCESSED_V1, r#""ttl":"#, r#""timestamp":null,"ttl":"#),
        ] {
            assert!(sample.contains(written), "{written}");
            let payload = sample.trim_end().replacen(written, instead, 1);
            assert_eq!(scan::scan(kind, &payload), None, "{payload}");
            assert_eq!(keys(kind, &payload), deserialized(kind, &payload), "{payload}");
        }
    }

    #[test]
    fn what_has_no_key_or_another_kind_has_none() {
        assert_eq!(keys(SHUTDOWN, r#""Shutdown""#), None);
        assert_eq!(keys(OTHER, r#"{"ApiVersion":"2.0.0"}"#), None);
        assert_eq!(keys(BLOCK_ADDED, r#"{"BlockAdded":{"block_hash":7}}"#), None);
        assert_eq!(keys(STEP, FAULT_SAMPLE), None);
        assert_eq!(rest_payload(SHUTDOWN, r#""Shutdown""#), None);
        assert_eq!(rest_payload(OTHER, r#"{"Other":{}}"#), None);
        assert_eq!(rest_payload(STEP, FAULT_SAMPLE), None);
    }

    /// What the reference stored and answered for the events of the recorded run.
    #[test]
    fn answers_have_the_bytes_of_the_reference() {
        const DATABASE: &str = include_str!("../../tests/data/transcript/sqlite-dump.sql");
        const REST: &str = include_str!("../../tests/data/transcript/rest.json");
        let events = include_str!("../../tests/data/transcript/node-events.tsv");
        let mut compared = 0;
        let mut in_answers = 0;
        for line in events.lines() {
            let (_, payload) = line.split_once('\t').unwrap();
            let Ok(Classified::Event(facts)) = classify(payload) else { panic!("no event: {payload}") };
            let Some(payload) = rest_payload(facts.kind, payload) else { continue };
            assert!(DATABASE.contains(&format!(",'{payload}',")), "{payload}");
            let quoted = serde_json::to_string(&format!(r#""payload":{payload}}}"#)).unwrap();
            in_answers += u32::from(REST.contains(quoted.trim_matches('"').trim_start_matches('\\')));
            compared += 1;
        }
        assert_eq!((compared, in_answers), (10, 7));
    }

    #[test]
    fn every_form_of_a_payload_keeps_its_own_bytes() {
        let cases = [
            (BLOCK_ADDED, r#"{"BlockAdded":{"b":1,  "a":[ ]}}"#, r#"{"b":1,  "a":[ ]}"#),
            (FAULT, " { \"Fault\" : {\"era_id\":1} } ", r#"{"era_id":1}"#),
            (FINALITY_SIGNATURE, r#"{"FinalitySignature":{"V3":{}}}"#, r#"{"V3":{}}"#),
            (TRANSACTION_ACCEPTED, r#"{"TransactionAccepted":{"Deploy":1}}"#, r#"{"transaction":{"Deploy":1}}"#),
            (STEP, r#"{"Step":{"era_id":1,"execution_effects":[]}}"#, r#"{"era_id":1,"execution_effect":[]}"#),
            (
                STEP,
                r#"{"Step":{"a":"execution_effects","b":{"execution_effects":[]},"execution_effects" : [1],"c":2}}"#,
                r#"{"a":"execution_effects","b":{"execution_effects":[]},"execution_effect" : [1],"c":2}"#,
            ),
            (STEP, r#"{"Step":{"era_id":1}}"#, r#"{"era_id":1}"#),
            (STEP, r#"{"Step":7}"#, "7"),
        ];
        for (kind, payload, expected) in cases {
            assert_eq!(rest_payload(kind, payload).as_deref(), Some(expected), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn an_event_has_keys_exactly_if_its_shape_is_known(
            sample in prop::sample::select(&SAMPLES[..]),
            cut in any::<prop::sample::Index>(),
            removed in 0_usize..4,
            inserted in r#"[\[\]{}",:0-9a-z \\]{0,3}"#,
        ) {
            let sample = sample.1.trim_end();
            let start = cut.index(sample.len());
            let end = (start + removed).min(sample.len());
            let payload = format!("{}{inserted}{}", &sample[..start], &sample[end..]);
            if let Ok(Classified::Event(facts)) = classify(&payload) {
                let found = keys(facts.kind, &payload);
                prop_assert_eq!(found.is_none(), facts.unclassified);
                prop_assert_eq!(found, deserialized(facts.kind, &payload));
                let form = rest_payload(facts.kind, &payload);
                prop_assert_eq!(form.is_none(), facts.kind == OTHER);
                if let Some(form) = form {
                    prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&form).is_ok(), "{}", form);
                }
            }
        }
    }
}
