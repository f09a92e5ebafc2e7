//! Events of more than 1 MiB, within the memory that one of them may take.
//!
//! Up to 8 MiB they are translated like any other. Above that a deploy is copied in pieces, and a processed transaction
//! comes without its transforms, as if one of them could not be translated. Anything else of that size is left out: blocks,
//! faults and signatures do not come near it.

use std::io::{self, BufRead, BufReader, Read};

use serde::{Deserialize, de::IgnoredAny};
use sidecar_log_format::Sequence;

use super::{
    compact::JsonPlace,
    processed::{DeployProcessed, LegacyResult, TranslatedResult},
    text::Text,
    translation,
};

/// The wire form of the largest event that is held in memory as a whole.
pub(super) const TRANSLATED_WHOLE_MAX: u64 = 8 << 20;

const PIECE_BYTES: usize = 64 << 10;
/// How a message begins.
pub(super) const OPENING: &[u8] = b"data:";
/// How an accepted deploy begins without white space, and how its 1.x form begins.
const ACCEPTED: &[u8] = br#"{"TransactionAccepted":{"Deploy":{"#;
const DEPLOY_ACCEPTED: &[u8] = br#"{"DeployAccepted":{"#;

/// How a message ends.
pub(super) fn closing(sequence: Sequence) -> Vec<u8> {
    format!("\nid:{sequence}\n\n").into_bytes()
}

/// The message of an accepted deploy, to be read in pieces; `None` for any other payload.
pub(super) fn accepted_deploy(
    payload: impl Read + Send + 'static,
    sequence: Sequence,
) -> io::Result<Option<Box<dyn Read + Send>>> {
    let mut payload = BufReader::with_capacity(PIECE_BYTES, payload);
    let mut place = JsonPlace::default();
    let mut expected = ACCEPTED.iter();
    while !expected.as_slice().is_empty() {
        let Some(&byte) = payload.fill_buf()?.first() else { return Ok(None) };
        payload.consume(1);
        if place.passes(byte) && expected.next() != Some(&byte) {
            return Ok(None);
        }
    }
    let around = place.depth.saturating_sub(1);
    let deploy = RestOfObject { json: payload, place, around, is_complete: false };
    let mut after = b"}".to_vec();
    after.extend_from_slice(&closing(sequence));
    Ok(Some(Box::new(OPENING.chain(DEPLOY_ACCEPTED).chain(deploy).chain(io::Cursor::new(after)))))
}

/// The rest of an object in a JSON text, without white space between its tokens.
struct RestOfObject<R> {
    json: BufReader<R>,
    place: JsonPlace,
    /// How many others the object is in.
    around: u32,
    is_complete: bool,
}

impl<R: Read> Read for RestOfObject<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length == 0 && !self.is_complete && !out.is_empty() {
            let ready = self.json.fill_buf()?;
            if ready.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let ready = ready.get(..ready.len().min(out.len())).unwrap_or(ready);
            let run = self.place.run_in_string(ready);
            if let (1.., Some(from), Some(to)) = (run, ready.get(..run), out.get_mut(..run)) {
                // What makes events large is long strings.
                to.copy_from_slice(from);
                self.json.consume(run);
                return Ok(run);
            }
            let mut passed = 0;
            for &byte in ready {
                passed += 1;
                let is_kept = self.place.passes(byte);
                if let (true, Some(next)) = (is_kept, out.get_mut(length)) {
                    *next = byte;
                    length += 1;
                }
                self.is_complete = is_kept && self.place.depth <= self.around;
                if self.is_complete || self.place.is_in_string {
                    break;
                }
            }
            self.json.consume(passed);
        }
        Ok(length)
    }
}

/// A processed transaction without what makes it large.
#[derive(Deserialize)]
enum Payload {
    TransactionProcessed(Processed),
}

#[derive(Deserialize)]
struct Processed {
    transaction_hash: TransactionHash,
    initiator_addr: Initiator,
    timestamp: String,
    ttl: String,
    block_hash: String,
    execution_result: ExecutionResult,
}

#[derive(Deserialize)]
struct TransactionHash {
    #[serde(default, rename = "Deploy")]
    deploy: Option<String>,
}

#[derive(Deserialize)]
struct Initiator {
    #[serde(default, rename = "PublicKey")]
    public_key: Option<String>,
}

#[derive(Deserialize)]
enum ExecutionResult {
    Version2 {
        #[serde(default)]
        error_message: Option<String>,
        cost: String,
        #[serde(rename = "effects")]
        _effects: IgnoredAny,
    },
}

/// The message of a processed transaction with no transforms; `None` if 1.x would not know it.
pub(super) fn without_transforms(
    payload: impl Read,
    sequence: Sequence,
) -> serde_json::Result<Option<Box<dyn Read + Send>>> {
    let Payload::TransactionProcessed(processed) =
        serde_json::from_reader(BufReader::with_capacity(PIECE_BYTES, payload))?;
    let (Some(deploy_hash), Some(account)) = (processed.transaction_hash.deploy, processed.initiator_addr.public_key)
    else {
        return Ok(None);
    };
    let text = |text: String| Text(text.into());
    let ExecutionResult::Version2 { error_message, cost, .. } = processed.execution_result;
    let mut message = OPENING.to_vec();
    let translated = DeployProcessed {
        deploy_hash: text(deploy_hash),
        account: text(account),
        timestamp: text(processed.timestamp),
        ttl: text(processed.ttl),
        dependencies: [],
        block_hash: text(processed.block_hash),
        execution_result: LegacyResult::Translated(TranslatedResult::new(
            Vec::new(),
            text(cost),
            error_message.map(text),
        )),
    };
    translation::write_processed(translated, &mut message)?;
    message.extend_from_slice(&closing(sequence));
    Ok(Some(Box::new(io::Cursor::new(message))))
}
