//! The classifier: what a payload of a Casper 2.x node says, as far as identity and the views need it.
//!
//! Owns the kind numbers and the natural keys. One payload flows in; its [`Classified`] form, borrowed from it, flows
//! out. The whole payload is checked to be exactly one JSON value, and that is the only thing that makes it
//! [`Malformed`]: a kind or a shape that is not known here is an event like any other, known by the hash of its bytes.
//! Nothing here knows connections; a [`Kind`] of [`SHUTDOWN`] gets its identity from the connection that brought it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;

use crate::engine::dialect::{Facts, Identity};
use crate::engine::source::{ApiVersion, Kind};

/// A block was added to the node's chain.
pub const BLOCK_ADDED: Kind = Kind(1);
/// A transaction was accepted into the node's pool.
pub const TRANSACTION_ACCEPTED: Kind = Kind(2);
/// A transaction's time to live ran out.
pub const TRANSACTION_EXPIRED: Kind = Kind(3);
/// A transaction was executed as part of a block.
pub const TRANSACTION_PROCESSED: Kind = Kind(4);
/// A validator misbehaved.
pub const FAULT: Kind = Kind(5);
/// A validator signed a block.
pub const FINALITY_SIGNATURE: Kind = Kind(6);
/// An era ended: the effects of its last step.
pub const STEP: Kind = Kind(7);
/// The node is about to end.
pub const SHUTDOWN: Kind = Kind(8);
/// Any kind that has no number of its own.
pub const OTHER: Kind = Kind(63);

/// Every kind with its name on the wire; [`OTHER`] has none there and is called `Other`.
pub const KINDS: [(Kind, &str); 9] = [
    (BLOCK_ADDED, "BlockAdded"),
    (TRANSACTION_ACCEPTED, "TransactionAccepted"),
    (TRANSACTION_EXPIRED, "TransactionExpired"),
    (TRANSACTION_PROCESSED, "TransactionProcessed"),
    (FAULT, "Fault"),
    (FINALITY_SIGNATURE, "FinalitySignature"),
    (STEP, "Step"),
    (SHUTDOWN, "Shutdown"),
    (OTHER, "Other"),
];

/// The name of `kind` in [`KINDS`]; `Other` for a number that is not there.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("Other", |(_, name)| name)
}

/// Identity classes. Most natural keys belong to one kind and their class has its number; these have none of their own.
mod class {
    /// A signature in the form of Casper 1.x, whose time is an era. One in today's form has the class of its kind and
    /// a block height, so that each class is ordered by one measure. A block is signed in one of the two forms only.
    pub(super) const FINALITY_SIGNATURE_V1: u8 = 9;
    /// Known by the hash of the whole payload.
    pub(super) const CONTENT: u8 = 63;
}

/// A payload that is not exactly one JSON value.
#[derive(Debug, thiserror::Error)]
#[error("payload is not one JSON value: {0}")]
pub struct Malformed(#[from] serde_json::Error);

/// What a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classified<'a> {
    /// The node's protocol version, from here on in its stream. Not an event.
    ApiVersion(ApiVersion),
    /// The version of a sidecar, which no node should send. Not an event.
    SidecarVersion,
    /// An event.
    Event(EventFacts<'a>),
}

/// What identity, views and logging need of an event. Its `Display` form is its label in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFacts<'a> {
    /// The event's kind.
    pub kind: Kind,
    /// What makes it this event; for [`SHUTDOWN`] only a placeholder that the connection replaces.
    pub identity: Identity,
    /// The entries of a processed transaction's `messages`; 0 for every other kind.
    pub message_count: u64,
    /// The height of an added block.
    pub block_height: Option<u64>,
    /// The kind is not known, or is known but not in this shape: identity is the hash of the bytes.
    pub unclassified: bool,
    subject: Subject<'a>,
}

/// What an event is about, in the words of its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject<'a> {
    Nothing,
    Hash(&'a str),
    Era(u64),
    Key { public_key: &'a str, era: u64 },
    Signature { block_hash: &'a str, public_key: &'a str },
}

impl EventFacts<'_> {
    /// What the engine needs of them.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts {
            identity: self.identity,
            richness: u32::try_from(self.message_count).unwrap_or(u32::MAX),
            ordinal: self.block_height,
        }
    }
}

/// Reads what is needed of one payload.
///
/// # Errors
/// [`Malformed`] when `payload` is not exactly one JSON value, and for no other reason.
pub fn classify(payload: &str) -> Result<Classified<'_>, Malformed> {
    let Ok(known_shape) = serde_json::from_str::<Payload<'_>>(payload) else {
        return unclassified(payload);
    };
    Ok(Classified::Event(match known_shape {
        Payload::ApiVersion(FromText(version)) => return Ok(Classified::ApiVersion(version)),
        Payload::SidecarVersion(_) => return Ok(Classified::SidecarVersion),
        Payload::BlockAdded(block) => block.facts(),
        Payload::TransactionAccepted(transaction) => transaction.facts(),
        Payload::TransactionExpired(expired) => expired.transaction_hash.facts(TRANSACTION_EXPIRED, None),
        Payload::TransactionProcessed(processed) => processed.facts(),
        Payload::Fault(fault) => fault.facts(),
        Payload::FinalitySignature(signature) => signature.facts(),
        Payload::Step(step) => step.facts(),
        Payload::Shutdown => known(SHUTDOWN, 0, &[], Subject::Nothing),
    }))
}

/// The facts of a payload in no shape that is known here, or why it is no JSON.
fn unclassified(payload: &str) -> Result<Classified<'_>, Malformed> {
    serde_json::from_str::<IgnoredAny>(payload)?;
    let kind = serde_json::from_str::<Named>(payload).map_or(OTHER, |named| named.0);
    let identity = Identity { class: class::CONTENT, time: 0, hash: hash_of(&[payload.as_bytes()]) };
    Ok(Classified::Event(EventFacts {
        kind,
        identity,
        message_count: 0,
        block_height: None,
        unclassified: true,
        subject: Subject::Nothing,
    }))
}

/// The first 16 bytes of BLAKE3 over the parts of a natural key.
pub(super) fn hash_of(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

/// Hexadecimal digits in lower case, so that a hash or key is the same in every spelling: some nodes have sent checksummed
/// (mixed-case) ones. Any other text stays as it is.
pub(super) fn folded(text: &str) -> Cow<'_, str> {
    let is_mixed =
        text.bytes().any(|byte| byte.is_ascii_uppercase()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_mixed { Cow::Owned(text.to_ascii_lowercase()) } else { Cow::Borrowed(text) }
}

/// Stands between the texts of a natural key. No text borrowed from JSON contains it, so no two keys run together.
const BETWEEN: &[u8] = &[0];

/// The facts of an event in a known shape.
fn known<'a>(kind: Kind, time: u64, natural_key: &[&[u8]], subject: Subject<'a>) -> EventFacts<'a> {
    EventFacts {
        kind,
        identity: Identity { class: kind.0, time, hash: hash_of(natural_key) },
        message_count: 0,
        block_height: None,
        unclassified: false,
        subject,
    }
}

/// The shapes that a node's payloads have, cut down to what is needed of them.
///
/// Strings are borrowed, so a payload that writes a hash or key with escapes is in an unknown shape. Nodes do not.
#[derive(serde::Deserialize)]
pub(super) enum Payload<'a> {
    ApiVersion(FromText<ApiVersion>),
    SidecarVersion(IgnoredAny),
    #[serde(borrow)]
    BlockAdded(BlockAdded<'a>),
    TransactionAccepted(Transaction<'a>),
    TransactionExpired(TransactionExpired<'a>),
    TransactionProcessed(TransactionProcessed<'a>),
    Fault(Fault<'a>),
    FinalitySignature(FinalitySignature<'a>),
    Step(Step),
    Shutdown,
}

#[derive(serde::Deserialize)]
pub(super) struct BlockAdded<'a> {
    pub(super) block_hash: &'a str,
    pub(super) block: Block,
}

#[derive(serde::Deserialize)]
pub(super) enum Block {
    Version1(BlockContent),
    Version2(BlockContent),
}

#[derive(serde::Deserialize)]
pub(super) struct BlockContent {
    pub(super) header: BlockHeader,
}

#[derive(serde::Deserialize)]
pub(super) struct BlockHeader {
    pub(super) height: u64,
}

#[derive(serde::Deserialize)]
pub(super) enum Transaction<'a> {
    #[serde(borrow)]
    Deploy(SignedTransaction<'a>),
    Version1(SignedTransaction<'a>),
}

/// A transaction: when it was made, and by whom, is in the `header` of a deploy and in the `payload` of the newer form.
#[derive(serde::Deserialize)]
pub(super) struct SignedTransaction<'a> {
    hash: &'a str,
    #[serde(borrow)]
    header: Option<TransactionOrigin<'a>>,
    #[serde(borrow)]
    payload: Option<TransactionOrigin<'a>>,
}

/// The maker of a transaction may be written in any form: what is not understood there hides no event.
#[derive(serde::Deserialize)]
pub(super) struct TransactionOrigin<'a> {
    timestamp: FromText<Milliseconds>,
    #[serde(borrow, alias = "account")]
    pub(super) initiator_addr: Option<&'a RawValue>,
}

#[derive(Clone, Copy, serde::Deserialize)]
pub(super) enum TransactionHash<'a> {
    Deploy(&'a str),
    Version1(&'a str),
}

#[derive(serde::Deserialize)]
pub(super) struct TransactionExpired<'a> {
    #[serde(borrow)]
    pub(super) transaction_hash: TransactionHash<'a>,
}

#[derive(serde::Deserialize)]
pub(super) struct TransactionProcessed<'a> {
    #[serde(borrow)]
    pub(super) transaction_hash: TransactionHash<'a>,
    timestamp: Option<FromText<Milliseconds>>,
    #[serde(borrow)]
    pub(super) initiator_addr: Option<&'a RawValue>,
    /// Counted without an allocation: an entry that is passed over takes no room.
    messages: Option<Vec<IgnoredAny>>,
}

#[derive(serde::Deserialize)]
pub(super) struct Fault<'a> {
    pub(super) era_id: u64,
    pub(super) public_key: &'a str,
}

#[derive(serde::Deserialize)]
pub(super) enum FinalitySignature<'a> {
    V1 {
        #[serde(borrow)]
        block_hash: &'a str,
        era_id: u64,
        public_key: &'a str,
    },
    V2 {
        #[serde(borrow)]
        block_hash: &'a str,
        block_height: u64,
        public_key: &'a str,
    },
}

#[derive(serde::Deserialize)]
pub(super) struct Step {
    pub(super) era_id: u64,
}

impl<'a> BlockAdded<'a> {
    fn facts(self) -> EventFacts<'a> {
        let (Block::Version1(content) | Block::Version2(content)) = self.block;
        let height = content.header.height;
        let facts = known(BLOCK_ADDED, height, &[folded(self.block_hash).as_bytes()], Subject::Hash(self.block_hash));
        EventFacts { block_height: Some(height), ..facts }
    }
}

impl<'a> TransactionHash<'a> {
    fn facts(self, kind: Kind, timestamp: Option<FromText<Milliseconds>>) -> EventFacts<'a> {
        let (form, hash): (&[u8], _) = match self {
            Self::Deploy(hash) => (b"Deploy", hash),
            Self::Version1(hash) => (b"Version1", hash),
        };
        let time = timestamp.map_or(0, |FromText(Milliseconds(time))| time);
        known(kind, time, &[folded(hash).as_bytes(), BETWEEN, form], Subject::Hash(hash))
    }
}

impl<'a> Transaction<'a> {
    /// Its hash, and when it was made and by whom.
    pub(super) fn into_parts(self) -> (TransactionHash<'a>, Option<TransactionOrigin<'a>>) {
        let (hash, transaction) = match self {
            Self::Deploy(deploy) => (TransactionHash::Deploy(deploy.hash), deploy),
            Self::Version1(version1) => (TransactionHash::Version1(version1.hash), version1),
        };
        (hash, transaction.payload.or(transaction.header))
    }

    fn facts(self) -> EventFacts<'a> {
        let (hash, origin) = self.into_parts();
        hash.facts(TRANSACTION_ACCEPTED, origin.map(|origin| origin.timestamp))
    }
}

impl<'a> TransactionProcessed<'a> {
    fn facts(self) -> EventFacts<'a> {
        let facts = self.transaction_hash.facts(TRANSACTION_PROCESSED, self.timestamp);
        EventFacts { message_count: self.messages.map_or(0, |messages| messages.len() as u64), ..facts }
    }
}

impl<'a> Fault<'a> {
    fn facts(self) -> EventFacts<'a> {
        let Self { era_id: era, public_key } = self;
        known(FAULT, era, &[&era.to_le_bytes(), folded(public_key).as_bytes()], Subject::Key { public_key, era })
    }
}

impl<'a> FinalitySignature<'a> {
    fn facts(self) -> EventFacts<'a> {
        let (class, time, block_hash, public_key) = match self {
            Self::V1 { block_hash, era_id, public_key } => {
                (class::FINALITY_SIGNATURE_V1, era_id, block_hash, public_key)
            }
            Self::V2 { block_hash, block_height, public_key } => {
                (FINALITY_SIGNATURE.0, block_height, block_hash, public_key)
            }
        };
        let (of_block, of_signer) = (folded(block_hash), folded(public_key));
        let natural_key = [of_block.as_bytes(), BETWEEN, of_signer.as_bytes()];
        let mut facts = known(FINALITY_SIGNATURE, time, &natural_key, Subject::Signature { block_hash, public_key });
        facts.identity.class = class;
        facts
    }
}

impl Step {
    fn facts(self) -> EventFacts<'static> {
        known(STEP, self.era_id, &[&self.era_id.to_le_bytes()], Subject::Era(self.era_id))
    }
}

/// The name of a payload's only member, of any content.
struct Named(Kind);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMember;

        impl<'de> Visitor<'de> for OnlyMember {
            type Value = Named;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object with one member")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Named, A::Error> {
                let name = members.next_key::<std::borrow::Cow<'de, str>>()?.unwrap_or_default();
                let kind = KINDS.iter().find(|(kind, known)| *kind != OTHER && *known == name);
                members.next_value::<IgnoredAny>()?;
                match members.next_key::<IgnoredAny>()? {
                    None => Ok(Named(kind.map_or(OTHER, |(kind, _)| *kind))),
                    Some(_) => Err(serde::de::Error::custom("a second member")),
                }
            }
        }

        deserializer.deserialize_map(OnlyMember)
    }
}

/// A value that is written as a string.
#[derive(Clone, Copy)]
pub(super) struct FromText<T>(T);

impl<'de, T: std::str::FromStr<Err: fmt::Display>> Deserialize<'de> for FromText<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// A point in time as milliseconds since the Unix epoch, written in the form of RFC 3339.
#[derive(Clone, Copy)]
struct Milliseconds(u64);

impl std::str::FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = humantime::parse_rfc3339_weak(text).map_err(|error| error.to_string())?;
        let since_epoch = time.duration_since(std::time::UNIX_EPOCH).map_err(|error| error.to_string())?;
        u64::try_from(since_epoch.as_millis()).map(Self).map_err(|error| error.to_string())
    }
}

impl fmt::Display for EventFacts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(kind_name(self.kind))?;
        match self.subject {
            Subject::Nothing => Ok(()),
            Subject::Hash(hash) => write!(formatter, " {}", Shortened(hash)),
            Subject::Era(era) => write!(formatter, " of era {era}"),
            Subject::Key { public_key, era } => write!(formatter, " of {} in era {era}", Shortened(public_key)),
            Subject::Signature { block_hash, public_key } => {
                write!(formatter, " of block {} by {}", Shortened(block_hash), Shortened(public_key))
            }
        }
    }
}

/// A hash or key cut down to what distinguishes it in a log line: `3aa0c7..b7e8da`.
struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EACH_END: usize = 6;
        let text = self.0;
        if text.len() <= 2 * EACH_END + 2 {
            return formatter.write_str(text);
        }
        let (start, _) = text.split_at(text.floor_char_boundary(EACH_END));
        let (_, end) = text.split_at(text.ceil_char_boundary(text.len() - EACH_END));
        write!(formatter, "{start}..{end}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIGNATURE: &str = include_str!("../../tests/data/events/FinalitySignature.node_v2.json");
    const BLOCK: &str = include_str!("../../tests/data/events/BlockAdded.node_with_transactions.json");
    const BLOCK_V1: &str = include_str!("../../tests/data/events/BlockAdded.version1.json");
    const ACCEPTED_DEPLOY: &str = include_str!("../../tests/data/events/TransactionAccepted.deploy.json");
    const ACCEPTED_V1: &str = include_str!("../../tests/data/events/TransactionAccepted.node_version1.json");
    const PROCESSED: &str = include_str!("../../tests/data/events/TransactionProcessed.node_version1.json");
    const EXPIRED: &str = include_str!("../../tests/data/events/TransactionExpired.deploy.json");
    const FAULT_SAMPLE: &str = include_str!("../../tests/data/events/Fault.secp256k1.json");
    const STEP_SAMPLE: &str = include_str!("../../tests/data/events/Step.node_a.json");

    const SAMPLES: [(Kind, &str); 9] = [
        (FINALITY_SIGNATURE, SIGNATURE),
        (BLOCK_ADDED, BLOCK),
        (BLOCK_ADDED, BLOCK_V1),
        (TRANSACTION_ACCEPTED, ACCEPTED_DEPLOY),
        (TRANSACTION_ACCEPTED, ACCEPTED_V1),
        (TRANSACTION_PROCESSED, PROCESSED),
        (TRANSACTION_EXPIRED, EXPIRED),
        (FAULT, FAULT_SAMPLE),
        (STEP, STEP_SAMPLE),
    ];

    fn facts(payload: &str) -> EventFacts<'_> {
        match classify(payload) {
            Ok(Classified::Event(facts)) => facts,
            other => panic!("not an event: {other:?}"),
        }
    }

    /// What the natural keys of the module's interface hash to.
    fn key_hash(text: &[&str]) -> [u8; 16] {
        let hash = blake3::hash(text.join("\0").as_bytes());
        hash.as_bytes()[..16].try_into().unwrap()
    }

    #[test]
    fn every_sample_has_its_kind_and_is_classified() {
        for (kind, sample) in SAMPLES {
            let facts = facts(sample);
            assert_eq!((facts.kind, facts.unclassified), (kind, false), "{sample}");
            assert_eq!(facts.identity.class, kind.0);
        }
    }

    #[test]
    fn a_block_is_identified_by_its_hash_and_has_its_height() {
        let facts = facts(BLOCK);
        assert_eq!(facts.block_height, Some(13));
        let hash = key_hash(&["5c0f495c2aa90e7a7559879801b72991c00416517385f83bad79172027bef22c"]);
        assert_eq!(facts.identity, Identity { class: 1, time: 13, hash });
    }

    #[test]
    fn a_signature_is_known_by_block_and_key() {
        let hash = key_hash(&[
            "3aa0c7d7e04f38f730f50933d5855f15fadf8b7257c159b000021ec01ab7e8da",
            "01f60bce2bb1059c41910eac1e7ee6c3ef4c8fcc63a901eb9603c1524cadfb0c18",
        ]);
        assert_eq!(facts(SIGNATURE).identity, Identity { class: 6, time: 2, hash });
    }

    #[test]
    fn a_signature_of_the_old_form_is_ordered_by_era_in_a_class_of_its_own() {
        let payload =
            r#"{"FinalitySignature":{"V1":{"block_hash":"ab","era_id":9,"signature":"01","public_key":"cd"}}}"#;
        let facts = facts(payload);
        assert_eq!((facts.kind, facts.unclassified), (FINALITY_SIGNATURE, false));
        assert_eq!(facts.identity, Identity { class: 9, time: 9, hash: key_hash(&["ab", "cd"]) });
    }

    #[test]
    fn a_transaction_has_one_identity_per_kind_at_its_own_time() {
        let accepted = facts(ACCEPTED_V1).identity;
        // 2026-11-22T04:30:42.492Z
        let hash = key_hash(&["9e8b0a6433511f480cc09947e2a63b6709757dbb21f2c007614f80ba22d426f1", "Version1"]);
        assert_eq!(accepted, Identity { class: 2, time: 1_795_321_842_492, hash });
        assert_eq!(facts(PROCESSED).identity.class, 4);
        let expired = facts(EXPIRED).identity;
        let hash = key_hash(&["565d7147e28be402c34208a133fd59fde7ac785ae5f0298cb5fb7adfb1b054a8", "Deploy"]);
        assert_eq!(expired, Identity { class: 3, time: 0, hash });
        assert!(facts(ACCEPTED_DEPLOY).identity.time > 1_000_000_000_000);
    }

    #[test]
    fn a_fault_and_a_step_are_known_by_their_era() {
        assert_eq!(facts(FAULT_SAMPLE).identity.time, 769_794);
        assert_eq!(facts(STEP_SAMPLE).identity.time, 1);
        let other_key = FAULT_SAMPLE.replace("02034ce1", "02034ce2");
        assert_ne!(facts(FAULT_SAMPLE).identity, facts(&other_key).identity);
        let poorer_step = r#"{"Step":{"era_id":1,"execution_effects":[]}}"#;
        assert_eq!(facts(STEP_SAMPLE).identity, facts(poorer_step).identity);
    }

    #[test]
    fn messages_are_counted_but_are_no_part_of_identity() {
        let without = facts(PROCESSED);
        let payload = PROCESSED.replace(r#""messages":[]"#, r#""messages":[{"a":[1]}, 2]"#);
        let with = facts(&payload);
        assert_eq!((without.message_count, with.message_count), (0, 2));
        assert_eq!(with.identity, without.identity);
    }

    #[test]
    fn layout_and_unknown_members_do_not_change_identity() {
        for (_, sample) in SAMPLES {
            let value: serde_json::Value = serde_json::from_str(sample).unwrap();
            let other_layout = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(facts(&other_layout).identity, facts(sample).identity);
        }
        let extended = SIGNATURE.replace(r#"{"V2":{"#, r#"{"V2":{"new":[{}],"#);
        assert_eq!(facts(&extended).identity, facts(SIGNATURE).identity);
    }

    #[test]
    fn unknown_kinds_and_shapes_are_events_known_by_their_bytes() {
        let cases = [
            (r#"{"BlockFinalized":{"height":1}}"#, OTHER),
            (r#"{"BlockAdded":{"block_hash":7}}"#, BLOCK_ADDED),
            (r#"{"FinalitySignature":{"V3":{}}}"#, FINALITY_SIGNATURE),
            (r#"{"Step":{"era_id":1},"Fault":{}}"#, OTHER),
            (r#"{"ApiVersion":"two"}"#, OTHER),
            ("null", OTHER),
            ("[]", OTHER),
            (r#""Restart""#, OTHER),
        ];
        for (payload, kind) in cases {
            let facts = facts(payload);
            assert_eq!((facts.kind, facts.unclassified), (kind, true), "{payload}");
            assert_eq!(facts.identity, Identity { class: 63, time: 0, hash: key_hash(&[payload]) });
        }
    }

    #[test]
    fn nesting_of_any_depth_is_an_event() {
        let depth = 100_000;
        let payload = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(facts(&payload).unclassified);
        let payload = format!(r#"{{"Step":{{"era_id":1,"execution_effects":{payload}}}}}"#);
        assert!(!facts(&payload).unclassified);
    }

    #[test]
    fn versions_are_not_events() {
        let version = ApiVersion { major: 2, minor: 0, patch: 0 };
        assert_eq!(classify(r#"{"ApiVersion":"2.0.0"}"#).unwrap(), Classified::ApiVersion(version));
        assert_eq!(classify(r#"{"SidecarVersion":"1.0.0"}"#).unwrap(), Classified::SidecarVersion);
        assert_eq!(facts(r#""Shutdown""#).kind, SHUTDOWN);
    }

    #[test]
    fn labels_are_short_and_distinguish_events() {
        assert_eq!(facts(BLOCK).to_string(), "BlockAdded 5c0f49..bef22c");
        assert_eq!(facts(SIGNATURE).to_string(), "FinalitySignature of block 3aa0c7..b7e8da by 01f60b..fb0c18");
        assert_eq!(facts(STEP_SAMPLE).to_string(), "Step of era 1");
        assert_eq!(facts(FAULT_SAMPLE).to_string(), "Fault of 02034c..0d70d1 in era 769794");
        assert_eq!(facts(r#""Shutdown""#).to_string(), "Shutdown");
        assert_eq!(facts("7").to_string(), "Other");
        assert_eq!(Shortened("€€€€€€€€€x").to_string(), "€€..€x");
        assert_eq!(Shortened("short").to_string(), "short");
    }

    proptest! {
        #[test]
        fn only_what_is_no_json_value_is_malformed(
            sample in prop::sample::select(&SAMPLES[..]),
            cut in any::<prop::sample::Index>(),
            removed in 0_usize..4,
            inserted in r#"[\[\]{}",:0-9a-z \\]{0,3}"#,
        ) {
            let sample = sample.1.trim_end();
            let start = cut.index(sample.len());
            let end = (start + removed).min(sample.len());
            let payload = format!("{}{inserted}{}", &sample[..start], &sample[end..]);
            let json = serde_json::from_str::<IgnoredAny>(&payload);
            prop_assert_eq!(classify(&payload).is_ok(), json.is_ok());
        }

        #[test]
        fn any_text_is_classified_or_malformed_without_a_panic(payload in any::<String>()) {
            let json = serde_json::from_str::<IgnoredAny>(&payload);
            prop_assert_eq!(classify(&payload).is_ok(), json.is_ok());
        }
    }
}
