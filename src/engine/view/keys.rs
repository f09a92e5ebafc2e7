//! Keys of rows: hashes and numbers in a fixed number of bytes.
//!
//! Hashes and keys are represented by 16 bytes of BLAKE3 over them: two meet by chance or malice as rarely as the identities
//! of two events do, and no attacker can find another key that meets a given one. Numbers are big-endian, so that rows are in
//! their order.

/// 16 bytes that represent a hash, a public key or an account.
pub(crate) type Digest = [u8; 16];

/// The longest key of a table.
pub(super) const KEY_BYTES_MAX: usize = 24;

/// The digest of the text, or bytes, of a key.
pub(crate) fn digest(key: impl AsRef<[u8]>) -> Digest {
    joined(blake3::hash(key.as_ref()).as_bytes(), &[])
}

/// A key of two parts: 16 bytes, then 8 of a number.
pub(crate) fn digest_and_number(digest: Digest, number: u64) -> [u8; 24] {
    joined(&digest, &number.to_be_bytes())
}

/// A key of two parts: 8 bytes of a number, then 16.
pub(crate) fn number_and_digest(number: u64, digest: Digest) -> [u8; 24] {
    joined(&number.to_be_bytes(), &digest)
}

pub(super) fn joined<const N: usize>(first: &[u8], second: &[u8]) -> [u8; N] {
    let mut key = [0; N];
    key.iter_mut().zip(first.iter().chain(second)).for_each(|(place, byte)| *place = *byte);
    key
}
