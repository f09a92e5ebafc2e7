//! Transactions that were accepted or expired. 1.x knew only deploys.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text::Text;

/// `{"Deploy":HASH}`; every other form counts as no deploy.
#[derive(Deserialize)]
pub(super) struct TransactionHash<'a> {
    #[serde(borrow, default, rename = "Deploy")]
    pub(super) deploy: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct TransactionAccepted<'a> {
    #[serde(borrow, default, rename = "Deploy")]
    deploy: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct TransactionExpired<'a> {
    #[serde(borrow)]
    transaction_hash: TransactionHash<'a>,
}

#[derive(Serialize)]
pub(super) struct DeployExpired<'a> {
    deploy_hash: Text<'a>,
}

impl<'a> TransactionAccepted<'a> {
    /// The deploy, if it is one, as it is.
    pub(super) fn deploy(self) -> Option<&'a RawValue> {
        self.deploy.filter(|deploy| deploy.get().starts_with('{'))
    }
}

impl<'a> TransactionExpired<'a> {
    pub(super) fn translated(self) -> Option<DeployExpired<'a>> {
        self.transaction_hash.deploy.map(|deploy_hash| DeployExpired { deploy_hash })
    }
}
