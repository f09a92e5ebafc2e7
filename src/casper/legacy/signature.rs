//! Finality signatures, which had no versions.

use serde::{Deserialize, Serialize};

use super::text::Text;

#[derive(Deserialize)]
pub(super) enum FinalitySignature<'a> {
    #[serde(borrow)]
    V1(Signature<'a>),
    V2(Signature<'a>),
}

/// What both versions have; the second one's height and network are dropped.
#[derive(Deserialize, Serialize)]
pub(super) struct Signature<'a> {
    #[serde(borrow)]
    block_hash: Text<'a>,
    era_id: u64,
    signature: Text<'a>,
    public_key: Text<'a>,
}

impl<'a> FinalitySignature<'a> {
    pub(super) fn unversioned(self) -> Signature<'a> {
        let (FinalitySignature::V1(signature) | FinalitySignature::V2(signature)) = self;
        signature
    }
}
