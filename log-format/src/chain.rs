//! The chain: a hash over every event in order, so that an edited, dropped, inserted or reordered event shows.
//!
//! `h(n) = BLAKE3(h(n-1) ‖ sequence ‖ kind ‖ api_version ‖ network length ‖ network ‖ name length ‖ name ‖ payload length ‖
//! payload)`, over events and not blocks, so that it survives sealing, compaction and recompression. `h(-1)` of a new log
//! is 32 zeros.

use crate::{ApiVersion, Kind, Sequence};

/// A chain value.
pub type ChainValue = [u8; 32];

/// The chain value before the first event of a log that begins at sequence 0.
pub const CHAIN_START: ChainValue = [0; 32];

/// The largest input that is gathered first: BLAKE3 is fastest when given a short input as one piece.
const GATHERED_BYTES_MAX: usize = 2048;

/// The chain value after an event; `network` and `name` have at most 255 bytes, as in [`crate::Event`]. `name` is what
/// [`crate::Row::name`] returns: that of the kind where the event has none of its own.
#[must_use]
pub fn next_chain_value(
    previous: &ChainValue,
    sequence: Sequence,
    kind: Kind,
    api_version: ApiVersion,
    network: &str,
    name: &str,
    payload: &[u8],
) -> ChainValue {
    let pieces: [&[u8]; 12] = [
        previous,
        &sequence.to_le_bytes(),
        &[kind.0],
        &api_version.major.to_le_bytes(),
        &api_version.minor.to_le_bytes(),
        &api_version.patch.to_le_bytes(),
        &(network.len() as u16).to_le_bytes(),
        network.as_bytes(),
        &(name.len() as u16).to_le_bytes(),
        name.as_bytes(),
        &(payload.len() as u64).to_le_bytes(),
        payload,
    ];
    let mut gathered = [0; GATHERED_BYTES_MAX];
    let mut length = 0;
    for piece in pieces {
        let Some(place) = gathered.get_mut(length..length + piece.len()) else {
            let mut hasher = blake3::Hasher::new();
            pieces.into_iter().for_each(|piece| _ = hasher.update(piece));
            return *hasher.finalize().as_bytes();
        };
        place.copy_from_slice(piece);
        length += piece.len();
    }
    *blake3::hash(gathered.get(..length).unwrap_or_default()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_event_is_hashed_as_the_concatenation_of_its_fields() {
        for length in [0, 1, 900, 1960, 1961, 1962, 5000] {
            let payload = vec![b'x'; length];
            let mut input = vec![9; 32];
            input.extend_from_slice(&7u64.to_le_bytes());
            input.push(3);
            for number in [2u32, 1, 4] {
                input.extend_from_slice(&number.to_le_bytes());
            }
            input.extend_from_slice(&11u16.to_le_bytes());
            input.extend_from_slice(b"casper-test");
            input.extend_from_slice(&4u16.to_le_bytes());
            input.extend_from_slice(b"Step");
            input.extend_from_slice(&(length as u64).to_le_bytes());
            input.extend_from_slice(&payload);
            let version = ApiVersion { major: 2, minor: 1, patch: 4 };
            let value = next_chain_value(&[9; 32], 7, Kind(3), version, "casper-test", "Step", &payload);
            assert_eq!(value, *blake3::hash(&input).as_bytes(), "at length {length}");
        }
    }
}
