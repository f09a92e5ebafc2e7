//! Processed transactions. 1.x knew deploys of accounts with a public key, and results with all their transforms.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    text::Text,
    transaction::TransactionHash,
    transforms::{self, Transform},
};

#[derive(Deserialize)]
pub(super) struct TransactionProcessed<'a> {
    #[serde(borrow)]
    transaction_hash: TransactionHash<'a>,
    initiator_addr: Initiator<'a>,
    timestamp: Text<'a>,
    ttl: Text<'a>,
    block_hash: Text<'a>,
    execution_result: ExecutionResult<'a>,
}

/// `{"PublicKey":KEY}`; every other form counts as no public key.
#[derive(Deserialize)]
struct Initiator<'a> {
    #[serde(borrow, default, rename = "PublicKey")]
    public_key: Option<Text<'a>>,
}

#[derive(Deserialize)]
enum ExecutionResult<'a> {
    #[serde(borrow)]
    Version1(OldResult<'a>),
    Version2(NewResult<'a>),
}

/// A result of 1.x. It only loses its wrapper.
#[derive(Deserialize, Serialize)]
pub(super) enum OldResult<'a> {
    #[serde(borrow)]
    Success(&'a RawValue),
    Failure(&'a RawValue),
}

#[derive(Deserialize)]
struct NewResult<'a> {
    #[serde(borrow, default)]
    error_message: Option<Text<'a>>,
    cost: Text<'a>,
    effects: &'a RawValue,
}

#[derive(Serialize)]
pub(super) struct DeployProcessed<'a> {
    pub(super) deploy_hash: Text<'a>,
    pub(super) account: Text<'a>,
    pub(super) timestamp: Text<'a>,
    pub(super) ttl: Text<'a>,
    pub(super) dependencies: [(); 0],
    pub(super) block_hash: Text<'a>,
    pub(super) execution_result: LegacyResult<'a>,
}

/// A result as it is written.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum LegacyResult<'a> {
    Old(OldResult<'a>),
    Translated(TranslatedResult<'a>),
}

#[derive(Serialize)]
pub(super) enum TranslatedResult<'a> {
    Success { effect: Effect<'a>, transfers: [(); 0], cost: Text<'a> },
    Failure { effect: Effect<'a>, transfers: [(); 0], cost: Text<'a>, error_message: Text<'a> },
}

#[derive(Serialize)]
pub(super) struct Effect<'a> {
    operations: [(); 0],
    transforms: Vec<Transform<'a>>,
}

impl<'a> TransactionProcessed<'a> {
    /// `None` for what is not a deploy, or not from a public key.
    pub(super) fn translated(self) -> Option<DeployProcessed<'a>> {
        Some(DeployProcessed {
            deploy_hash: self.transaction_hash.deploy?,
            account: self.initiator_addr.public_key?,
            timestamp: self.timestamp,
            ttl: self.ttl,
            dependencies: [],
            block_hash: self.block_hash,
            execution_result: match self.execution_result {
                ExecutionResult::Version1(result) => LegacyResult::Old(result),
                ExecutionResult::Version2(result) => {
                    // A part of the transforms would be a wrong view of the effects.
                    let transforms = transforms::translated(result.effects).unwrap_or_default();
                    LegacyResult::Translated(TranslatedResult::new(transforms, result.cost, result.error_message))
                }
            },
        })
    }
}

impl<'a> TranslatedResult<'a> {
    /// A message makes it a failure, even an empty one.
    pub(super) fn new(transforms: Vec<Transform<'a>>, cost: Text<'a>, error_message: Option<Text<'a>>) -> Self {
        let effect = Effect { operations: [], transforms };
        match error_message {
            Some(error_message) => TranslatedResult::Failure { effect, transfers: [], cost, error_message },
            None => TranslatedResult::Success { effect, transfers: [], cost },
        }
    }
}
