//! One payload: the 2.x events that have a 1.x form, and that form.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    block::{AddedBlock, BlockAdded},
    compact::make_compact,
    processed::{DeployProcessed, TransactionProcessed},
    signature::{FinalitySignature, Signature},
    text::Text,
    transaction::{DeployExpired, TransactionAccepted, TransactionExpired},
};

/// The 2.x events that the 1.x streams know. Members that are not known are passed over.
#[derive(Deserialize)]
enum Payload<'a> {
    #[serde(borrow)]
    BlockAdded(BlockAdded<'a>),
    TransactionAccepted(TransactionAccepted<'a>),
    TransactionProcessed(TransactionProcessed<'a>),
    TransactionExpired(TransactionExpired<'a>),
    Fault(Fault<'a>),
    FinalitySignature(FinalitySignature<'a>),
    Shutdown,
}

/// Only to see that it is one: it is copied as it is.
#[derive(Deserialize)]
struct Fault<'a> {
    #[serde(rename = "era_id")]
    _era_id: u64,
    #[serde(borrow, rename = "public_key")]
    _public_key: Text<'a>,
    #[serde(borrow, rename = "timestamp")]
    _timestamp: Text<'a>,
}

#[derive(Serialize)]
enum LegacyEvent<'a> {
    BlockAdded(AddedBlock<'a>),
    DeployAccepted(&'a RawValue),
    DeployProcessed(DeployProcessed<'a>),
    DeployExpired(DeployExpired<'a>),
    FinalitySignature(Signature<'a>),
}

/// Appends the 1.x form of a payload. `false`: it has none, and nothing is appended.
///
/// # Errors
/// When it is in no shape that is known. What was appended by then is to be taken back.
pub(super) fn translate(payload: &[u8], out: &mut Vec<u8>) -> serde_json::Result<bool> {
    let start = out.len();
    let translated = match serde_json::from_slice::<Payload<'_>>(payload)? {
        Payload::Fault(Fault { .. }) | Payload::Shutdown => {
            out.extend_from_slice(payload);
            make_compact(out, start);
            return Ok(true);
        }
        Payload::BlockAdded(block) => Some(LegacyEvent::BlockAdded(block.translated())),
        Payload::TransactionAccepted(accepted) => accepted.deploy().map(LegacyEvent::DeployAccepted),
        Payload::TransactionProcessed(processed) => processed.translated().map(LegacyEvent::DeployProcessed),
        Payload::TransactionExpired(expired) => expired.translated().map(LegacyEvent::DeployExpired),
        Payload::FinalitySignature(signature) => Some(LegacyEvent::FinalitySignature(signature.unversioned())),
    };
    let Some(translated) = translated else { return Ok(false) };
    serde_json::to_writer(&mut *out, &translated)?;
    make_compact(out, start);
    Ok(true)
}

/// Appends the 1.x form of a processed deploy.
pub(super) fn write_processed(processed: DeployProcessed<'_>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(out, &LegacyEvent::DeployProcessed(processed))
}
