//! Entity tags: which body a client has already.

use axum::http::{HeaderMap, header};

/// An entity tag that differs whenever the body does, whichever server answers and whatever its log has been through.
#[must_use]
pub fn tag(body: &[u8]) -> String {
    let digits: String = blake3::hash(body).to_hex().chars().take(32).collect();
    format!("\"{digits}\"")
}

/// Whether a request names this tag, or any, as that of the body that it has.
#[must_use]
pub fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(|known| known.trim().trim_start_matches("W/"));
    tags.any(|known| known == "*" || known == tag)
}
