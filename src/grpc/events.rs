//! A recorded stream's readers: its path, what a query may say, and refusals.
//!
//! `GET PATH` has new events as they come; `start_from=N`, or `Last-Event-ID` of a client that reconnects, replays from
//! there. `types=NAME,NAME` selects by the names that the operator has listed. It is an event stream, or JSON lines for a
//! client that accepts `application/x-ndjson`.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use sidecar_log_format::{Kind, Sequence};
use tonic::{Code, Status};

use super::gateway::LINES;
use super::status;
use crate::engine::http::about::{self, READ_METHODS};
use crate::engine::http::query::Parameters;
use crate::engine::http::weights::accepts_only_zstd;
use crate::engine::stream::{
    Coding, Delivery, Framing, Hub, JsonLines, OpenStreams, ReaderClass, Rendering, StreamFields, Subscription,
};

const WHOLE: ReaderClass = ReaderClass("whole");
const JSON_LINES: ReaderClass = ReaderClass("ndjson");
const ZSTD: ReaderClass = ReaderClass("zstd");

/// The kinds of streams that metrics tell apart.
pub const READER_CLASSES: &[ReaderClass] = &[WHOLE, ZSTD, JSON_LINES];

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
        let answered = match head.method {
            Method::GET | Method::HEAD => self.stream(&head),
            Method::OPTIONS => Ok(about::read_methods()),
            _ => Err(Status::unimplemented("Method Not Allowed")),
        };
        answered.unwrap_or_else(|status| {
            self.open_streams.counters().refused.add(1);
            let mut response = status::answer(&status, None, false);
            if status.code() == Code::Unimplemented {
                response.headers_mut().insert(header::ALLOW, READ_METHODS);
            }
            response
        })
    }

    fn stream(&self, head: &Parts) -> Result<Response, Status> {
        let wanted = Wanted::parse(head.uri.query(), &head.headers, &self.kinds).map_err(Status::invalid_argument)?;
        let place = self.open_streams.open();
        let place = place.ok_or_else(|| Status::unavailable("as many streams are open as may be; ask again later"))?;
        let class = match wanted {
            Wanted { json_lines: true, .. } => JSON_LINES,
            Wanted { zstd: true, .. } => ZSTD,
            _ => WHOLE,
        };
        let subscription = Subscription {
            start: wanted.start.unwrap_or_else(|| self.hub.log().head().next_sequence),
            until: wanted.until,
            kinds: wanted.kinds.unwrap_or(u64::MAX),
            // Progress marks show a selecting client its position while no event matches.
            progress_marks: wanted.kinds.is_some(),
            rendering: wanted.json_lines.then(|| Arc::clone(&self.json_lines)),
            versions: false,
            explains_start: true,
            coding: if wanted.zstd { Coding::Zstd } else { Coding::Identity },
            ..Subscription::new(class, self.delivery, place)
        };
        let mut response = self.hub.respond(head, subscription);
        let headers = response.headers_mut();
        self.hub.name_log(headers);
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        Ok(response)
    }
}

impl Wanted {
    fn parse(query: Option<&str>, headers: &HeaderMap, kinds: &[(u8, String)]) -> Result<Wanted, String> {
        let fields = Parameters::parse(query);
        let known = [StreamFields::NAMES.as_slice(), &["types"]].concat();
        if let Some(unknown) = fields.unknown(&known) {
            return Err(format!("`{}` is not a parameter; there are {}", unknown.escape_debug(), known.join(", ")));
        }
        let StreamFields { start, until, zstd } =
            StreamFields::read(&fields, headers).map_err(|error| error.to_string())?;
        let kinds = fields.list("types").map(|names| kinds_named(names, kinds)).transpose()?;
        let framing = Framing::accepted_or_default(headers, &LINES, Framing::EventStream);
        let json_lines = framing == Framing::JsonLines;
        let zstd = zstd.unwrap_or_else(|| accepts_only_zstd(headers)) && !json_lines;
        Ok(Wanted { start, until, kinds, json_lines, zstd })
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
    fn a_field_that_is_unknown_or_wrong_is_refused() {
        let refusal = |query| Wanted::parse(Some(query), &HeaderMap::new(), &[]).unwrap_err();
        let known = "start_from, until, encoding, lastEventId, types";
        assert_eq!(refusal("absent=1"), format!("`absent` is not a parameter; there are {known}"));
        assert_eq!(refusal("start_from=x"), "`start_from` takes an event's id, a whole number");
        assert_eq!(refusal("until=1&until=2"), "`until` is given more than once; give it once");
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
