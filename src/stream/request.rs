//! What a client asks for: path, query and headers of a request in, a [`StreamRequest`] or a [`Refusal`] out.
//!
//! Statuses, texts and the order of the checks are the reference's, byte for byte; what it does not know (`until`,
//! `types`, `encoding`) follows its manner.

use axum::http::{HeaderMap, Method, StatusCode, header};
use sidecar_log_format::{Kind, Sequence};

use super::{StreamOptions, ZstdPassThrough};

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// All events.
    Events,
    /// The sidecar's version, and shutdowns.
    Sidecar,
}

/// Where a request leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To a stream.
    Stream(Endpoint),
    /// To no stream below `/events`: the limit of subscribers is checked first.
    UnknownStream,
    /// To nothing: another method, or another path.
    Nowhere,
}

/// A stream as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamRequest {
    pub(super) endpoint: Endpoint,
    /// The first sequence wanted; `None`: only what is new.
    pub(super) start: Option<Sequence>,
    /// The last one wanted.
    pub(super) until: Option<Sequence>,
    /// Bits of the kinds wanted (see [`Kind::bit`]), if not all.
    pub(super) kinds: Option<u64>,
    /// Whether stored frames may go out as they are.
    pub(super) zstd: bool,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `max_concurrent_subscribers` streams are open.
    Full,
    /// No such path.
    UnknownPath {
        /// Whether the legacy endpoints are configured.
        legacy: bool,
    },
    /// The query is not one.
    Query,
    /// `until` is no id.
    Until,
    /// `encoding` is not one we have.
    Encoding,
    /// `types` names something unknown; the names that are known.
    Type(String),
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::UnknownPath { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    pub(super) fn body(&self) -> String {
        match self {
            Refusal::Full => "server has reached limit of subscribers",
            Refusal::UnknownPath { legacy: true } => {
                "invalid path: expected '/events/main', '/events/deploys' or '/events/sigs or '/events/sidecar'\n"
            }
            Refusal::UnknownPath { legacy: false } => "invalid path: expected '/events/main' or '/events/sidecar'\n",
            Refusal::Query => "invalid query: expected single field 'start_from=<EVENT ID>'\n",
            Refusal::Until => "invalid query: expected 'until=<EVENT ID>'\n",
            Refusal::Encoding => "invalid query: expected 'encoding=zstd' or 'encoding=identity'\n",
            Refusal::Type(known) => return format!("invalid query: expected 'types=' with any of {known}\n"),
        }
        .to_owned()
    }
}

/// Finds what a method and a raw path lead to.
pub(super) fn route(method: &Method, path: &str) -> Route {
    if method != Method::GET {
        return Route::Nowhere;
    }
    let Some(path) = path.strip_prefix('/') else { return Route::Nowhere };
    let path = path.strip_suffix('/').unwrap_or(path);
    match path {
        "events" | "events/events" => Route::Stream(Endpoint::Events),
        "events/sidecar" => Route::Stream(Endpoint::Sidecar),
        _ => match path.strip_prefix("events/") {
            Some(name) if !name.is_empty() && !name.contains('/') => Route::UnknownStream,
            _ => Route::Nowhere,
        },
    }
}

/// Reads query and headers of a request for a stream.
pub(super) fn parse(
    endpoint: Endpoint,
    query: Option<&str>,
    headers: &HeaderMap,
    options: &StreamOptions,
) -> Result<StreamRequest, Refusal> {
    let query = Query::parse(query.unwrap_or_default())?;
    let kinds = query.types.map(|types| kinds_named(&types, options)).transpose()?;
    let after_last_id = last_event_id(headers).map(|last| last.saturating_add(1));
    let asks_zstd = query.zstd.unwrap_or_else(|| accepts_zstd(headers, options.zstd));
    let zstd = asks_zstd && options.zstd != ZstdPassThrough::Off && kinds.is_none() && endpoint == Endpoint::Events;
    Ok(StreamRequest {
        endpoint,
        // `None` is less than any start: with both, the later one wins.
        start: query.start_from.max(after_last_id),
        until: query.until,
        kinds,
        zstd,
    })
}

#[derive(Default)]
struct Query {
    start_from: Option<Sequence>,
    until: Option<Sequence>,
    types: Option<String>,
    zstd: Option<bool>,
}

impl Query {
    /// Of a repeated key the last value counts, and only that one has to be right.
    fn parse(query: &str) -> Result<Query, Refusal> {
        let (mut start_from, mut until, mut types, mut encoding) = (None, None, None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "start_from" => start_from = Some(value),
                "until" => until = Some(value),
                "types" => types = Some(value),
                "encoding" => encoding = Some(value),
                _ => return Err(Refusal::Query),
            }
        }
        Ok(Query {
            start_from: start_from.map(|value| value.parse().map_err(|_| Refusal::Query)).transpose()?,
            until: until.map(|value| value.parse().map_err(|_| Refusal::Until)).transpose()?,
            types: types.map(|value| value.into_owned()),
            zstd: encoding
                .map(|value| match value.as_ref() {
                    "zstd" => Ok(true),
                    "identity" => Ok(false),
                    _ => Err(Refusal::Encoding),
                })
                .transpose()?,
        })
    }
}

const API_VERSION: &str = "ApiVersion";
const SHUTDOWN: &str = "Shutdown";

/// The bits of the kinds in a comma-separated list; a shutdown always passes, and so does an API version, which is no kind.
fn kinds_named(types: &str, options: &StreamOptions) -> Result<u64, Refusal> {
    let kind_of = |name: &str| match name {
        API_VERSION | SHUTDOWN => Some(options.shutdown_kind),
        _ => options.kinds.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind),
    };
    types
        .split(',')
        .try_fold(options.shutdown_kind.bit(), |bits, name| Some(bits | kind_of(name).map(Kind::bit)?))
        .ok_or_else(|| Refusal::Type(known_types(options)))
}

fn known_types(options: &StreamOptions) -> String {
    let kinds = options.kinds.iter().map(|(_, name)| *name).filter(|name| *name != SHUTDOWN);
    let names: Vec<_> = [API_VERSION].into_iter().chain(kinds).chain([SHUTDOWN]).collect();
    names.join(", ")
}

/// A header that is no id is ignored, as a browser's own empty one must be.
fn last_event_id(headers: &HeaderMap) -> Option<Sequence> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

/// Whether `Accept-Encoding` asks for zstd as the mode wants it.
fn accepts_zstd(headers: &HeaderMap, mode: ZstdPassThrough) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(',')).map(str::trim).filter(|coding| !coding.is_empty());
    match mode {
        ZstdPassThrough::Off => false,
        ZstdPassThrough::Any => codings.any(is_wanted_zstd),
        ZstdPassThrough::Sole => codings.next().is_some_and(is_wanted_zstd) && codings.next().is_none(),
    }
}

fn is_wanted_zstd(coding: &str) -> bool {
    let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
    let weight = parameters.trim().strip_prefix("q=").map(|weight| weight.trim().parse::<f32>().unwrap_or(0.0));
    name.trim().eq_ignore_ascii_case("zstd") && weight.is_none_or(|weight| weight > 0.0)
}

/// For `crate::fuzzing`: whatever a client asks for, it is a stream or a refusal in words, and what a stream was asked
/// for can be asked for again.
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, reason = "a broken promise ends the run")]
pub(crate) fn door(bytes: &[u8]) {
    use axum::http::HeaderValue;

    use crate::source::casper::event::{KINDS, SHUTDOWN};

    let mut lines = bytes.split(|&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let method = Method::from_bytes(line()).unwrap_or(Method::GET);
    let path = String::from_utf8_lossy(line()).into_owned();
    let query = String::from_utf8_lossy(line()).into_owned();
    let mut headers = HeaderMap::new();
    for name in ["last-event-id", "accept-encoding", "accept-encoding"] {
        if let Ok(value) = HeaderValue::from_bytes(line()) {
            headers.append(name, value);
        }
    }
    let endpoint = match route(&method, &path) {
        Route::Stream(endpoint) => endpoint,
        Route::UnknownStream | Route::Nowhere => Endpoint::Events,
    };
    for zstd in [ZstdPassThrough::Sole, ZstdPassThrough::Any, ZstdPassThrough::Off] {
        let options = StreamOptions { zstd, ..StreamOptions::new(&KINDS, SHUTDOWN) };
        match parse(endpoint, Some(&query), &headers, &options) {
            Err(refusal) => assert!(refusal.status().is_client_error() && refusal.body().ends_with('\n')),
            Ok(wanted) => {
                let mut again: Vec<String> = Vec::new();
                again.extend(wanted.start.map(|start| format!("start_from={start}")));
                again.extend(wanted.until.map(|until| format!("until={until}")));
                again.push(format!("encoding={}", if wanted.zstd { "zstd" } else { "identity" }));
                if let Some(kinds) = wanted.kinds {
                    let names = KINDS.iter().filter(|(kind, _)| kinds & kind.bit() != 0).map(|(_, name)| *name);
                    again.push(format!("types={}", names.collect::<Vec<_>>().join(",")));
                }
                let parsed = parse(endpoint, Some(&again.join("&")), &HeaderMap::new(), &options).unwrap();
                assert_eq!(parsed, wanted);
            }
        }
    }
}
