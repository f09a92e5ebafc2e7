//! Quality values: what `Accept`, `Accept-Encoding` and their like name, and how much each is wanted.

use axum::http::{HeaderMap, HeaderName, header};

/// The names in all headers of this name, each with its weight: 1 where none is given, 0 where it is not a number.
pub fn weighed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = (&'a str, f32)> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(item).filter(|(name, _)| !name.is_empty())
}

/// The weight of the first of `names` that is among the weighed ones: from the most specific to the least.
#[must_use]
pub fn weight_of(weighed: &[(&str, f32)], names: &[&str]) -> Option<f32> {
    let weight = |name: &&str| weighed.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    names.iter().find_map(weight).map(|(_, weight)| *weight)
}

/// Whether a request names exactly this in one of these headers, and wants it.
#[must_use]
pub fn names(headers: &HeaderMap, header: &HeaderName, wanted: &str) -> bool {
    weighed(headers, header).any(|(name, weight)| name.eq_ignore_ascii_case(wanted) && weight > 0.0)
}

/// Whether a client takes zstd, and names no other coding: many clients that name several stop after the first of several
/// zstd frames.
#[must_use]
pub fn accepts_only_zstd(headers: &HeaderMap) -> bool {
    let mut codings = weighed(headers, &header::ACCEPT_ENCODING);
    let is_zstd = |(name, weight): (&str, f32)| name.eq_ignore_ascii_case("zstd") && weight > 0.0;
    codings.next().is_some_and(is_zstd) && codings.next().is_none()
}

fn item(item: &str) -> (&str, f32) {
    let mut parts = item.split(';');
    let name = parts.next().unwrap_or_default().trim();
    let parameters = parts.filter_map(|parameter| parameter.split_once('='));
    let mut weights = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    let weight = weights.next().map_or(1.0, |(_, weight)| weight.trim().parse::<f32>().unwrap_or(0.0));
    (name, if weight.is_finite() { weight } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn every_name_has_the_weight_that_its_q_says() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT, HeaderValue::from_static("text/html;level=1;q=0.7, ,*/*; Q = 0.1"));
        headers.append(header::ACCEPT, HeaderValue::from_static("a/b;q=x,c/d;q=NaN,e/f;charset=utf-8"));
        let found: Vec<_> = weighed(&headers, &header::ACCEPT).collect();
        assert_eq!(found, [("text/html", 0.7), ("*/*", 0.1), ("a/b", 0.0), ("c/d", 0.0), ("e/f", 1.0)]);
        assert_eq!(weight_of(&found, &["x/y", "TEXT/HTML", "*/*"]), Some(0.7));
        assert_eq!(weight_of(&found, &["x/y", "*/*"]), Some(0.1));
        assert_eq!(weight_of(&found, &["x/y"]), None);
        assert!(names(&headers, &header::ACCEPT, "Text/HTML") && names(&headers, &header::ACCEPT, "e/f"));
        assert!(!names(&headers, &header::ACCEPT, "a/b") && !names(&headers, &header::ACCEPT, "x/y"));
    }
}
