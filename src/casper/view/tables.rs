//! The tables: which keys an event is found by.
//!
//! | table | key | tag |
//! |---|---|---|
//! | `blocks_by_hash` | hash | |
//! | `blocks_by_height` | height | |
//! | `transactions` | hash | stage, type, whether it names its initiator: see [`TransactionTag`] |
//! | `signatures` | block hash | 21 bits that distinguish signers |
//! | `initiators` | account | distance to the transaction's event before this one; 0: this is the first |
//! | `faults_by_key` | public key, era | |
//! | `faults_by_era` | era, public key | |
//! | `steps` | era | |
//!
//! Of two blocks of one height the first answers for the height, as in the reference's tables, and each for its own hash.
//! Hashes and keys are compared as bytes: the case of their digits means nothing.

use sidecar_log_format::Kind;

use crate::casper::keys::{Keys, Stage, TransactionType, account_of_initiator, keys};
use crate::engine::view::keys::{digest, digest_and_number, number_and_digest};
use crate::engine::view::posting::Malformed;
use crate::engine::view::postings::Postings;
use crate::engine::view::projection::Projection;
use crate::engine::view::tables::{Lists, Result, Rows, Table};

pub(super) static BLOCKS_BY_HASH: Rows<16> = Rows::new(0, "blocks_by_hash");
pub(super) static BLOCKS_BY_HEIGHT: Rows<8> = Rows::new(1, "blocks_by_height");
pub(super) static TRANSACTIONS: Rows<16> =
    Rows::new(2, "transactions").listed_in(&INITIATORS, TransactionTag::VERSION1 | TransactionTag::NAMES_INITIATOR);
pub(super) static SIGNATURES: Lists = Lists::new(3, "signatures");
pub(super) static INITIATORS: Lists = Lists::new(4, "initiators");
pub(super) static FAULTS_BY_KEY: Rows<24> = Rows::new(5, "faults_by_key");
pub(super) static FAULTS_BY_ERA: Rows<24> = Rows::new(6, "faults_by_era");
pub(super) static STEPS: Rows<8> = Rows::new(7, "steps");

static TABLES: [&dyn Table; 8] = [
    &BLOCKS_BY_HASH,
    &BLOCKS_BY_HEIGHT,
    &TRANSACTIONS,
    &SIGNATURES,
    &INITIATORS,
    &FAULTS_BY_KEY,
    &FAULTS_BY_ERA,
    &STEPS,
];

/// Finds the keys of Casper's events.
pub(super) struct CasperProjection;

impl Projection for CasperProjection {
    fn form(&self) -> &'static str {
        "casper 1"
    }

    fn tables(&self) -> &'static [&'static dyn Table] {
        &TABLES
    }

    fn project(&self, kind: Kind, payload: &str, postings: &mut Postings) {
        match keys(kind, payload) {
            Some(Keys::Block { hash, height }) => {
                BLOCKS_BY_HASH.add(postings, &digest(hash.as_bytes()), 0);
                BLOCKS_BY_HEIGHT.add(postings, &height.to_be_bytes(), 0);
            }
            Some(Keys::Transaction { stage, transaction_type, hash, initiator }) => {
                let account = initiator.and_then(|initiator| {
                    INITIATORS.key(postings, initiator, |initiator| account_of_initiator(initiator).map(digest))
                });
                let tag = TransactionTag { stage, transaction_type, names_initiator: account.is_some() };
                TRANSACTIONS.add(postings, &digest(hash.as_bytes()), tag.packed());
                if let Some(account) = account {
                    postings.list(account);
                }
            }
            Some(Keys::Signature { block_hash, public_key }) => {
                if let Some(block) = SIGNATURES.key(postings, &block_hash, |hash| Some(digest(hash))) {
                    SIGNATURES.add(postings, &block, signer_tag(&public_key));
                }
            }
            Some(Keys::Fault { era, public_key }) => {
                let public_key = digest(public_key.as_bytes());
                FAULTS_BY_KEY.add(postings, &digest_and_number(public_key, era), 0);
                FAULTS_BY_ERA.add(postings, &number_and_digest(era, public_key), 0);
            }
            Some(Keys::Step { era }) => STEPS.add(postings, &era.to_be_bytes(), 0),
            None => {}
        }
    }
}

/// 21 bits of the signer's checksum: enough that two signers of one block hardly ever share them, and three bytes packed.
/// Where they do, the events are compared, so a checksum will do.
fn signer_tag(public_key: &str) -> u64 {
    u64::from(crc32fast::hash(public_key.as_bytes())) & ((1 << 21) - 1)
}

/// The tag of a posting in `transactions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransactionTag {
    pub(super) stage: Stage,
    pub(super) transaction_type: TransactionType,
    pub(super) names_initiator: bool,
}

impl TransactionTag {
    const STAGE: u64 = 0b0011;
    const VERSION1: u64 = 0b0100;
    const NAMES_INITIATOR: u64 = 0b1000;

    fn packed(self) -> u64 {
        let stage = match self.stage {
            Stage::Accepted => 0,
            Stage::Processed => 1,
            Stage::Expired => 2,
        };
        let version1 = if self.transaction_type == TransactionType::Version1 { Self::VERSION1 } else { 0 };
        stage | version1 | if self.names_initiator { Self::NAMES_INITIATOR } else { 0 }
    }

    pub(super) fn unpacked(tag: u64) -> Result<Self> {
        let stage = match tag & Self::STAGE {
            0 => Stage::Accepted,
            1 => Stage::Processed,
            2 => Stage::Expired,
            _ => return Err(Malformed.into()),
        };
        let is_version1 = tag & Self::VERSION1 != 0;
        Ok(Self {
            stage,
            transaction_type: if is_version1 { TransactionType::Version1 } else { TransactionType::Deploy },
            names_initiator: tag & Self::NAMES_INITIATOR != 0,
        })
    }
}
