//! HTTP's headers and gRPC's metadata: what of a request reaches the upstream, and what of its answer comes back.
//!
//! A request's headers become metadata under `grpcgateway-`; `Grpc-Metadata-X` becomes `x`, and `Authorization` passes
//! under its own name, too. Headers that are about the connection never pass.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use tonic::metadata::MetadataMap;

/// What the header of a deadline is called.
const GRPC_TIMEOUT: &str = "grpc-timeout";
const METADATA_PREFIX: &str = "grpc-metadata-";
const TRAILER_PREFIX: &str = "grpc-trailer-";
const GATEWAY_PREFIX: &str = "grpcgateway-";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers of HTTP that pass with the gateway's prefix: those that grpc-gateway passes.
const PASSED: [HeaderName; 24] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::FROM,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    HeaderName::from_static("if-schedule-tag-match"),
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PRAGMA,
    header::REFERER,
    header::USER_AGENT,
    header::VIA,
    header::WARNING,
    header::AUTHORIZATION,
];

/// Headers that gRPC or HTTP/2 sets itself or forbids: another value would break the call.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What is passed on of a request's headers.
pub(super) fn request_metadata(headers: &HeaderMap, client: Option<SocketAddr>) -> MetadataMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        if let Some(own) = name.as_str().strip_prefix(METADATA_PREFIX) {
            add(&mut metadata, own, value);
        } else if PASSED.contains(name) {
            add(&mut metadata, &format!("{GATEWAY_PREFIX}{name}"), value);
        }
        if name == header::AUTHORIZATION {
            metadata.append(header::AUTHORIZATION, value.clone());
        }
    }
    if let Some(host) = headers.get(&X_FORWARDED_HOST).or_else(|| headers.get(header::HOST)) {
        metadata.insert(X_FORWARDED_HOST, host.clone());
    }
    let before = headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
    let all: Vec<String> = before.chain(client.map(|client| client.ip().to_string())).collect();
    if let Ok(all) = HeaderValue::try_from(all.join(", ")) {
        metadata.insert(X_FORWARDED_FOR, all);
    }
    MetadataMap::from_headers(metadata)
}

/// Adds one, if gRPC may have it. Binary values are base64 in both worlds.
fn add(metadata: &mut HeaderMap, name: &str, value: &HeaderValue) {
    let is_reserved = name.starts_with("grpc-") || name.starts_with(':') || RESERVED.contains(&name);
    let is_text = value.to_str().is_ok();
    if let Ok(name) = HeaderName::try_from(name)
        && !is_reserved
        && is_text
    {
        metadata.append(name, value.clone());
    }
}

/// The time that a client gives the call: up to eight digits and a unit.
///
/// # Errors
/// When the header is there and says no time.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, BadTimeout> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let parse = || {
        let text = value.to_str().ok()?;
        let (unit_at, unit) = text.char_indices().next_back()?;
        let digits = text.get(..unit_at).filter(|digits| (1..=8).contains(&digits.len()))?;
        let number: u64 = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())??;
        Some(match unit {
            'H' => Duration::from_secs(number * 3600),
            'M' => Duration::from_secs(number * 60),
            'S' => Duration::from_secs(number),
            'm' => Duration::from_millis(number),
            'u' => Duration::from_micros(number),
            'n' => Duration::from_nanos(number),
            _ => return None,
        })
    };
    parse().map(Some).ok_or(BadTimeout)
}

/// A deadline's header that says no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`Grpc-Timeout` takes up to eight digits and one of H, M, S, m, u, n")]
pub(super) struct BadTimeout;

/// An answer's metadata as headers.
pub(super) fn add_headers(headers: &mut HeaderMap, metadata: MetadataMap) {
    add_with_prefix(headers, METADATA_PREFIX, metadata);
}

/// An answer's trailing metadata as headers, for a client that takes them.
pub(super) fn add_trailers(headers: &mut HeaderMap, metadata: MetadataMap) {
    add_with_prefix(headers, TRAILER_PREFIX, metadata);
}

fn add_with_prefix(headers: &mut HeaderMap, prefix: &str, metadata: MetadataMap) {
    for (name, value) in metadata.into_headers().iter() {
        let name = name.as_str();
        if matches!(name, "content-type" | "date") || name.starts_with("grpc-") {
            continue;
        }
        if let Ok(name) = HeaderName::try_from(format!("{prefix}{name}")) {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn headers_pass_by_their_rules() {
        let sent = headers(&[
            ("host", "example.org"),
            ("user-agent", "curl"),
            ("origin", "https://example.org"),
            ("authorization", "Bearer x"),
            ("grpc-metadata-tenant", "blue"),
            ("grpc-metadata-key-bin", "AAE="),
            ("grpc-metadata-grpc-timeout", "1S"),
            ("grpc-metadata-content-length", "1"),
            ("grpc-metadata-host", "other.example"),
            ("grpc-metadata-te", "gzip"),
            ("grpc-metadata-connection", "close"),
            ("connection", "keep-alive"),
            ("x-other", "1"),
            ("x-forwarded-for", "10.0.0.1"),
        ]);
        let passed = request_metadata(&sent, Some(([192, 0, 2, 1], 5).into())).into_headers();
        let expected = [
            ("grpcgateway-host", "example.org"),
            ("grpcgateway-user-agent", "curl"),
            ("grpcgateway-origin", "https://example.org"),
            ("grpcgateway-authorization", "Bearer x"),
            ("authorization", "Bearer x"),
            ("tenant", "blue"),
            ("key-bin", "AAE="),
            ("x-forwarded-host", "example.org"),
            ("x-forwarded-for", "10.0.0.1, 192.0.2.1"),
        ];
        assert_eq!(passed, headers(&expected));
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        for (text, time) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("123456789S", None),
            ("1X", None),
        ] {
            let found = deadline(&headers(&[("grpc-timeout", text)]));
            assert_eq!(found, time.map(Some).ok_or(BadTimeout), "{text}");
        }
        assert_eq!(deadline(&HeaderMap::new()), Ok(None));
    }
}
