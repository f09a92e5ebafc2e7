//! A recorded stream's readers: its path, what a query may say, and refusals.
//!
//! `GET PATH` has new events as they come; `start_from=N`, or `Last-Event-ID` of a client that reconnects, replays from
//! there. `types=NAME,NAME` selects by the names that the operator has listed. It is an event stream, or JSON lines for a
//! client that accepts `application/x-ndjson`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use sidecar_log_format::{Kind, Sequence};
use tonic::Status;

use super::gateway::{LINES, client};
use super::status;
use crate::engine::http::query::Parameters;
use crate::engine::http::weights::accepts_only_zstd;
use crate::engine::stream::{
    Coding, Delivery, Framing, Hub, JsonLines, OpenStreams, ReaderClass, Rendering, Subscription,
};

const WHOLE: ReaderClass = ReaderClass("whole");
const JSON_LINES: ReaderClass = ReaderClass("ndjson");
const ZSTD: ReaderClass = ReaderClass("zstd");

/// The kinds of streams that metrics tell apart.
pub const READER_CLASSES: &[ReaderClass] = &[WHOLE, ZSTD, JSON_LINES];

const FIELDS: [&str; 5] = ["start_from", "until", "types", "lastEventId", "encoding"];

/// The readers of one recorded stream.
pub(super) struct Events {
    hub: Arc<Hub>,
    /// The names that a client can select by, with their numbers.
    kinds: Vec<(u8, String)>,
    json_lines: Arc<dyn Rendering>,
    open_streams: OpenStreams,
    delivery: Delivery,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// The first sequence; without one, only what is new.
    start: Option<Sequence>,
    until: Option<Sequence>,
    /// Bits of the kinds wanted, if not all.
    kinds: Option<u64>,
    json_lines: bool,
    zstd: bool,
}

impl Events {
    pub(super) fn new(hub: Arc<Hub>, open_streams: OpenStreams, delivery: Delivery) -> Events {
        let kinds = hub.log().kinds();
        Events { json_lines: Arc::new(JsonLines::of(hub.log())), hub, kinds, open_streams, delivery }
    }

    pub(super) fn answer(&self, request: Request) -> Response {
        let (head, _) = request.into_parts();
        self.try_answer(&head).unwrap_or_else(|status| {
            self.open_streams.counters().refused.add(1);
            status::answer(&status, None, false)
        })
    }

    fn try_answer(&self, head: &Parts) -> Result<Response, Status> {
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(Status::unimplemented("Method Not Allowed"));
        }
        let wanted = Wanted::parse(head.uri.query(), &head.headers, &self.kinds).map_err(Status::invalid_argument)?;
        let next = self.hub.log().head().next_sequence;
        let start = wanted.start.unwrap_or(next);
        let mut response = Response::new(Body::empty());
        if wanted.until.is_some_and(|until| start > until) {
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        if head.method == Method::GET {
            let place = self.open_streams.open();
            let place =
                place.ok_or_else(|| Status::unavailable("as many streams are open as may be; ask again later"))?;
            let class = match wanted {
                Wanted { json_lines: true, .. } => JSON_LINES,
                Wanted { zstd: true, .. } => ZSTD,
                _ => WHOLE,
            };
            let subscription = Subscription {
                start,
                until: wanted.until,
                kinds: wanted.kinds.unwrap_or(u64::MAX),
                // Progress marks show a selecting client its position while no event matches.
                progress_marks: wanted.kinds.is_some(),
                rendering: wanted.json_lines.then(|| Arc::clone(&self.json_lines)),
                versions: false,
                explains_start: true,
                coding: if wanted.zstd { Coding::Zstd } else { Coding::Identity },
                client: client(head),
                is_http2: head.version >= Version::HTTP_2,
                ..Subscription::new(class, self.delivery, place)
            };
            response = Response::new(self.hub.subscribe(subscription));
        }
        self.hub.name_log(response.headers_mut());
        let headers = response.headers_mut();
        let framing = if wanted.json_lines { Framing::JsonLines } else { Framing::EventStream };
        framing.describe(headers);
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        if wanted.zstd {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        }
        Ok(response)
    }
}

impl Wanted {
    fn parse(query: Option<&str>, headers: &HeaderMap, kinds: &[(u8, String)]) -> Result<Wanted, String> {
        let fields = Parameters::parse(query);
        if let Some(unknown) = fields.unknown(&FIELDS) {
            let known = FIELDS.join(", ");
            return Err(format!("`{}` is not a parameter; there are {known}", unknown.escape_debug()));
        }
        let id = |name| match fields.single(name).map_err(|repeated| repeated.to_string())? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("`{name}` takes an event's id, a whole number")),
        };
        let (start, until, in_query) = (id("start_from")?, id("until")?, id("lastEventId")?);
        let kinds = fields.list("types").map(|names| kinds_named(names, kinds)).transpose()?;
        // A browser's own empty id is none.
        let last_event_id = headers.get("last-event-id").and_then(|value| value.to_str().ok());
        let in_header: Option<Sequence> = last_event_id.and_then(|text| text.trim().parse().ok());
        let after_last = in_query.max(in_header).map(|last: Sequence| last.saturating_add(1));
        let framing = Framing::accepted_or_default(headers, &LINES, Framing::EventStream);
        let json_lines = framing == Framing::JsonLines;
        let zstd = match fields.single("encoding").map_err(|repeated| repeated.to_string())? {
            Some("zstd") => true,
            Some("identity") => false,
            Some(_) => return Err("`encoding` takes zstd or identity".to_owned()),
            None => accepts_only_zstd(headers),
        };
        Ok(Wanted { start: start.max(after_last), until, kinds, json_lines, zstd: zstd && !json_lines })
    }
}

/// The bits of the kinds with these names.
fn kinds_named<'a>(mut names: impl Iterator<Item = &'a str>, kinds: &[(u8, String)]) -> Result<u64, String> {
    if kinds.is_empty() {
        return Err("`types` selects names of `event_names`, of which this stream has none".to_owned());
    }
    names.try_fold(0, |bits, name| match kinds.iter().find(|(_, known)| known == name) {
        Some((kind, _)) => Ok(bits | Kind(*kind).bit()),
        None => {
            let known: Vec<&str> = kinds.iter().map(|(_, name)| name.as_str()).collect();
            Err(format!("`types` takes a list of {}, not `{}`", known.join(", "), name.escape_debug()))
        }
    })
}

/// For `crate::fuzzing`: every request gets a stream or a refusal in words.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_request(_: &Method, _: &str, query: &str, headers: &HeaderMap) {
    let kinds = [(1, "Step".to_owned()), (2, "Fault".to_owned())];
    match Wanted::parse(Some(query), headers, &kinds) {
        Ok(wanted) => assert!(wanted.kinds.is_none_or(|bits| bits != 0) && !(wanted.zstd && wanted.json_lines)),
        Err(refusal) => assert!(!refusal.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_later_start_wins_so_that_a_browser_resumes() {
        let start = |query, pairs: &[_]| Wanted::parse(Some(query), &headers(pairs), &[]).unwrap().start;
        assert_eq!(start("", &[]), None);
        assert_eq!(start("start_from=0", &[]), Some(0));
        assert_eq!(start("start_from=0", &[("last-event-id", "9")]), Some(10));
        assert_eq!(start("start_from=20", &[("last-event-id", "9")]), Some(20));
        assert_eq!(start("lastEventId=9", &[("last-event-id", "")]), Some(10));
        for query in ["start_from=x", "until=-1", "start_from=1&start_from=2", "nobody=1", "encoding=gzip"] {
            assert!(Wanted::parse(Some(query), &HeaderMap::new(), &[]).is_err(), "{query}");
        }
    }

    #[test]
    fn accept_chooses_the_form() {
        let wanted = |pairs: &[_]| {
            let Wanted { json_lines, zstd, .. } = Wanted::parse(None, &headers(pairs), &[]).unwrap();
            (json_lines, zstd)
        };
        assert_eq!(wanted(&[]), (false, false));
        assert_eq!(wanted(&[("accept", "application/x-ndjson")]), (true, false));
        assert_eq!(wanted(&[("accept", "text/event-stream;q=0")]), (true, false));
        assert_eq!(wanted(&[("accept-encoding", "zstd")]), (false, true));
        assert_eq!(wanted(&[("accept-encoding", "gzip, zstd")]), (false, false));
    }

    #[test]
    fn listed_names_can_be_selected() {
        let kinds = [(1, "ping".to_owned()), (2, "pong".to_owned())];
        let selected =
            |query, kinds: &[_]| Wanted::parse(Some(query), &HeaderMap::new(), kinds).map(|wanted| wanted.kinds);
        assert_eq!(selected("", &kinds), Ok(None));
        assert_eq!(selected("types=pong", &kinds), Ok(Some(0b100)));
        assert_eq!(selected("types=ping,pong&types=ping", &kinds), Ok(Some(0b110)));
        let unknown = selected("types=ping,lob", &kinds).unwrap_err();
        assert_eq!(unknown, "`types` takes a list of ping, pong, not `lob`");
        assert!(selected("types=", &kinds).is_err() && selected("types=ping", &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_query_panics(
            query in prop_oneof!["[a-z_=&%0-9]{0,40}", "(&?(types|start_from|until|encoding)=[A-Za-z0-9,%]{0,8}){0,4}"],
            accept in "[ -~]{0,40}",
        ) {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(&accept).unwrap())]);
            check_request(&Method::GET, "/", &query, &headers);
        }
    }
}
