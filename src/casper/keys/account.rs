//! Accounts: who a transaction is from, in each of the spellings that nodes use.

/// The account in either of its spellings, whatever is around it: `"01…"`, as a deploy writes it, or
/// `{"PublicKey":"01…"}` or `{"AccountHash":"account-hash-…"}`. Takes one JSON value.
pub(super) fn initiator(written: &str) -> Option<&str> {
    #[derive(serde::Deserialize)]
    enum InitiatorAddress<'a> {
        PublicKey(&'a str),
        AccountHash(&'a str),
    }

    let is_plain = |text: &&str| memchr::memchr2(b'"', b'\\', text.as_bytes()).is_none();
    let key = written.strip_prefix(r#"{"PublicKey":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
    if let Some(key) = key.filter(is_plain) {
        return Some(key);
    }
    if written.starts_with('"') {
        return serde_json::from_str(written).ok();
    }
    let (InitiatorAddress::PublicKey(account) | InitiatorAddress::AccountHash(account)) =
        serde_json::from_str(written).ok()?;
    Some(account)
}

/// The account hash of an initiator, in either of the spellings that [`Keys::Transaction`](super::Keys::Transaction) has:
/// 32 bytes, the same for a public key and for its own `account-hash-…`. `None` for any other text.
#[must_use]
pub fn account_of_initiator(initiator: &str) -> Option<[u8; 32]> {
    if let Some(digits) = initiator.strip_prefix("account-hash-") {
        let mut account = [0; 32];
        return hex::decode_to_slice(digits, &mut account).is_ok().then_some(account);
    }
    let mut bytes = [0; PUBLIC_KEY_BYTES_MAX];
    let public_key = bytes.get_mut(..initiator.len() / 2)?;
    hex::decode_to_slice(initiator, public_key).ok()?;
    account_of_key(public_key)
}

/// The account hash of a public key, which is its algorithm tag and 32 or 33 bytes: BLAKE2b-256 of the algorithm's name, a
/// zero byte and the key without its tag. `None` for an unknown tag or another length.
#[must_use]
pub fn account_of_key(public_key: &[u8]) -> Option<[u8; 32]> {
    let (algorithm, key) = match public_key {
        [1, key @ ..] if key.len() == 32 => ("ed25519", key),
        [2, key @ ..] if key.len() == 33 => ("secp256k1", key),
        _ => return None,
    };
    let mut state = blake2b_simd::Params::new().hash_length(32).to_state();
    state.update(algorithm.as_bytes()).update(&[0]).update(key);
    state.finalize().as_bytes().try_into().ok()
}

const PUBLIC_KEY_BYTES_MAX: usize = 34;
