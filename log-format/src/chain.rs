//! The chain: a hash over every event in order, so that an edited, dropped, inserted or reordered event shows.
//!
//! `h(n) = BLAKE3(h(n-1) ‖ sequence ‖ kind ‖ api_version ‖ network length ‖ network ‖ payload length ‖ payload)`, over
//! events and not blocks, so that it survives sealing, compaction and recompression. `h(-1)` of a new log is 32 zeros.

use crate::{ApiVersion, Kind, Sequence};

/// A chain value.
pub type ChainValue = [u8; 32];

/// The chain value before the first event of a log that begins at sequence 0.
pub const CHAIN_START: ChainValue = [0; 32];

/// The chain value after an event.
#[must_use]
pub fn next_chain_value(
    previous: &ChainValue,
    sequence: Sequence,
    kind: Kind,
    api_version: ApiVersion,
    network: &str,
    payload: &[u8],
) -> ChainValue {
    // One buffer for all short fields: BLAKE3 is fastest when fed in few pieces.
    let mut head = Vec::with_capacity(64 + network.len());
    head.extend_from_slice(previous);
    head.extend_from_slice(&sequence.to_le_bytes());
    head.push(kind.0);
    head.extend_from_slice(&api_version.major.to_le_bytes());
    head.extend_from_slice(&api_version.minor.to_le_bytes());
    head.extend_from_slice(&api_version.patch.to_le_bytes());
    head.extend_from_slice(&(network.len() as u16).to_le_bytes());
    head.extend_from_slice(network.as_bytes());
    head.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head);
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}
