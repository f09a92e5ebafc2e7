//! What a client asks for: path, query and headers of a request in, a [`StreamRequest`] or a [`Refusal`] out.
//!
//! Statuses, texts and the order of the checks are the reference's, byte for byte, wherever a request has nothing that the
//! reference does not know. One text differs: for an unknown path the reference may name a stream that is not there. Fields
//! of our own (`until`, `since`, `types`, `encoding`, `log`, `lastEventId`) follow its manner, and what is refused because of
//! them has a text of our own.

use std::borrow::Cow;

use axum::http::{HeaderMap, Method, StatusCode, header};
use sidecar_log_format::{Kind, Sequence, Timestamp};

use super::ZstdPassThrough;
use crate::{
    casper::{
        event::{KINDS, SHUTDOWN},
        legacy::LegacyStream,
    },
    engine::{
        http::{
            query::{Parameters, Repeated},
            weights::{accepts_only_zstd, names},
        },
        stream::{FieldError, Framing, LogName, StreamFields},
    },
    rfc3339,
};

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// All events.
    Events,
    /// The sidecar's version, and shutdowns.
    Sidecar,
    /// What a 1.x client understands.
    Legacy(LegacyStream),
}

/// Where a request leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To a stream.
    Stream(Endpoint),
    /// To a line that names the streams.
    Index,
    /// To the methods that this line takes.
    IndexMethods,
    /// To a path below `/events` that is not a stream: the limit of subscribers is checked first.
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
    /// The time from which on events are wanted; with a start too, the later of the two counts.
    pub(super) since: Option<Timestamp>,
    /// The last sequence wanted.
    pub(super) until: Option<Sequence>,
    /// Bits of the kinds wanted (see [`Kind::bit`]), if not all.
    pub(super) kinds: Option<u64>,
    /// Whether it is wanted as NDJSON.
    pub(super) json_lines: bool,
    /// Whether it is wanted in zstd frames.
    pub(super) zstd: bool,
    /// The log that the client believes it reads.
    pub(super) log: Option<LogName>,
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
    /// `start_from` is not an id.
    StartFrom,
    /// The query has a field that does not exist.
    UnknownField,
    /// A field that takes one value was given several times.
    Repeated(Repeated),
    /// `until` is not an id.
    Until,
    /// `since` is not a time.
    Since,
    /// `encoding` is not one we have.
    Encoding,
    /// `types` names something unknown; the names that are known.
    Type(String),
    /// `log` does not name a log.
    LogName,
    /// The client has ids of another log.
    OtherLog {
        /// The log that is served.
        served: LogName,
        /// The log that the client named.
        wanted: LogName,
    },
    /// The log could not be searched for a time.
    Unsearchable,
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Refusal::Full | Refusal::Unsearchable => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::UnknownPath { .. } => StatusCode::NOT_FOUND,
            Refusal::OtherLog { .. } => StatusCode::CONFLICT,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    pub(super) fn body(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Refusal::Full => "server has reached limit of subscribers",
            Refusal::UnknownPath { legacy: true } => {
                "invalid path: expected '/events/main', '/events/deploys' or '/events/sigs or '/events/sidecar'\n"
            }
            Refusal::UnknownPath { legacy: false } => "invalid path: expected '/events' or '/events/sidecar'\n",
            Refusal::StartFrom => "invalid query: expected single field 'start_from=<EVENT ID>'\n",
            Refusal::UnknownField => {
                "invalid query: unknown field; expected any of 'start_from=<EVENT ID>', 'until=<EVENT ID>', \
                 'since=<RFC 3339 TIME>', 'types=<NAME,NAME>', 'encoding=zstd', 'log=<LOG ID>', \
                 'lastEventId=<EVENT ID>'\n"
            }
            Refusal::Until => "invalid query: expected 'until=<EVENT ID>'\n",
            Refusal::Since => "invalid query: expected 'since=<RFC 3339 TIME>', for instance 2026-01-31T12:00:00Z\n",
            Refusal::Encoding => "invalid query: expected 'encoding=zstd' or 'encoding=identity'\n",
            Refusal::LogName => {
                "invalid query: expected 'log=<LOG ID>' as the header sidecar-log has it, with or without its epoch\n"
            }
            Refusal::Unsearchable => "the log cannot be searched for a time now; ask again\n",
            Refusal::Repeated(repeated) => return format!("invalid query: {repeated}\n").into(),
            Refusal::Type(known) => return format!("invalid query: expected 'types=' with any of {known}\n").into(),
            Refusal::OtherLog { served, wanted } => {
                return format!(
                    "this log is {served}, not {wanted}: the same ids name other events here; ask again without 'log' \
                     and without an id of the other log\n"
                )
                .into();
            }
        })
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::Repeated(repeated) => Refusal::Repeated(repeated),
            FieldError::Id("start_from") => Refusal::StartFrom,
            FieldError::Id(_) => Refusal::Until,
            FieldError::Encoding => Refusal::Encoding,
        }
    }
}

/// Finds what a method and a raw path lead to.
pub(super) fn route(method: &Method, path: &str, legacy_enabled: bool) -> Route {
    let Some(path) = path.strip_prefix('/') else { return Route::Nowhere };
    match *method {
        Method::GET | Method::HEAD if path.is_empty() => return Route::Index,
        Method::GET | Method::HEAD => {}
        Method::OPTIONS if path.is_empty() => return Route::IndexMethods,
        _ => return Route::Nowhere,
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    match path {
        "events" | "events/events" => Route::Stream(Endpoint::Events),
        "events/sidecar" => Route::Stream(Endpoint::Sidecar),
        "events/main" if legacy_enabled => Route::Stream(Endpoint::Legacy(LegacyStream::Main)),
        "events/deploys" if legacy_enabled => Route::Stream(Endpoint::Legacy(LegacyStream::Deploys)),
        "events/sigs" if legacy_enabled => Route::Stream(Endpoint::Legacy(LegacyStream::Signatures)),
        _ => match path.strip_prefix("events/") {
            Some(name) if !name.is_empty() && !name.contains('/') => Route::UnknownStream,
            _ => Route::Nowhere,
        },
    }
}

/// The fields of our own that only this server has.
const FIELDS: [&str; 3] = ["since", "types", "log"];

/// Reads query and headers of a request for a stream.
pub(super) fn parse(
    endpoint: Endpoint,
    query: Option<&str>,
    headers: &HeaderMap,
    zstd_mode: ZstdPassThrough,
) -> Result<StreamRequest, Refusal> {
    // Of several `start_from`, the reference's own field, the last counts, and only that one has to be right.
    let fields = Parameters::parse(query).with_last_of("start_from");
    if fields.unknown(&[FIELDS.as_slice(), &StreamFields::NAMES].concat()).is_some() {
        return Err(Refusal::UnknownField);
    }
    let StreamFields { start, until, zstd } = StreamFields::read(&fields, headers)?;
    let single = |name| fields.single(name).map_err(Refusal::Repeated);
    let since = single("since")?.map(|value| rfc3339::parse(value).ok_or(Refusal::Since)).transpose()?;
    let kinds = fields.list("types").map(kinds_named).transpose()?;
    let log = single("log")?.map(|value| LogName::parse(value).ok_or(Refusal::LogName)).transpose()?;
    let asks_zstd = zstd.unwrap_or_else(|| accepts_zstd(headers, zstd_mode));
    let zstd = asks_zstd && zstd_mode != ZstdPassThrough::Off && kinds.is_none() && endpoint != Endpoint::Sidecar;
    let json_lines = endpoint == Endpoint::Events
        && Framing::accepted(headers, &[Framing::JsonLines.media_type()], Framing::EventStream)
            == Some(Framing::JsonLines);
    Ok(StreamRequest { endpoint, start, since, until, kinds, json_lines, zstd, log })
}

const API_VERSION: &str = "ApiVersion";
const SHUTDOWN_NAME: &str = "Shutdown";

/// The bits of the kinds with these names; a shutdown always passes, and so does an API version, which is not a kind.
fn kinds_named<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<u64, Refusal> {
    let kind_of = |name: &str| match name {
        API_VERSION => Some(SHUTDOWN),
        _ => KINDS.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind),
    };
    names
        .try_fold(SHUTDOWN.bit(), |bits, name| Some(bits | kind_of(name).map(Kind::bit)?))
        .ok_or_else(|| Refusal::Type(known_types()))
}

fn known_types() -> String {
    let kinds = KINDS.iter().map(|(_, name)| *name).filter(|name| *name != SHUTDOWN_NAME);
    let names: Vec<_> = [API_VERSION].into_iter().chain(kinds).chain([SHUTDOWN_NAME]).collect();
    names.join(", ")
}

/// Whether `Accept-Encoding` asks for zstd as the mode wants it.
fn accepts_zstd(headers: &HeaderMap, mode: ZstdPassThrough) -> bool {
    match mode {
        ZstdPassThrough::Off => false,
        ZstdPassThrough::Any => names(headers, &header::ACCEPT_ENCODING, "zstd"),
        ZstdPassThrough::Sole => accepts_only_zstd(headers),
    }
}

/// For `crate::fuzzing`: every request gets a stream or a refusal in words. A request made of the wishes that were read
/// from it is read the same.
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, reason = "a broken promise ends the run")]
pub(crate) fn check_request(method: &Method, path: &str, query: &str, headers: &HeaderMap) {
    use axum::http::HeaderValue;

    let endpoint = match route(method, path, true) {
        Route::Stream(endpoint) => endpoint,
        Route::Index | Route::IndexMethods | Route::UnknownStream | Route::Nowhere => Endpoint::Events,
    };
    for zstd in [ZstdPassThrough::Sole, ZstdPassThrough::Any, ZstdPassThrough::Off] {
        match parse(endpoint, Some(query), headers, zstd) {
            Err(refusal) => assert!(refusal.status().is_client_error() && refusal.body().ends_with('\n')),
            Ok(wanted) => {
                let mut again: Vec<String> = Vec::new();
                again.extend(wanted.start.map(|start| format!("start_from={start}")));
                again.extend(wanted.until.map(|until| format!("until={until}")));
                again.extend(wanted.since.map(|since| format!("since={}", rfc3339::format(since))));
                again.extend(wanted.log.map(|log| format!("log={log}")));
                again.push(format!("encoding={}", if wanted.zstd { "zstd" } else { "identity" }));
                if let Some(kinds) = wanted.kinds {
                    let names = KINDS.iter().filter(|(kind, _)| kinds & kind.bit() != 0).map(|(_, name)| *name);
                    again.push(format!("types={}", names.collect::<Vec<_>>().join(",")));
                }
                let mut headers = HeaderMap::new();
                if wanted.json_lines {
                    headers.insert(header::ACCEPT, HeaderValue::from_static(Framing::JsonLines.media_type()));
                }
                let parsed = parse(endpoint, Some(&again.join("&")), &headers, zstd).unwrap();
                assert_eq!(parsed, wanted);
            }
        }
    }
}
