//! What a client asks for: query and headers of a request in, a [`StreamRequest`] or a [`Refusal`] out.
//!
//! Statuses and the form of bodies are the beacon API's. What it does not know (`start_from`, `until`, `encoding`,
//! `lastEventId`, the header `Last-Event-ID`) is Sidecar's own; any other field of a query is ignored, as the standard does.

use axum::http::{HeaderMap, Method, StatusCode};
use sidecar_log_format::{Kind, Sequence};

use crate::engine::{
    http::{query::Parameters, weights::accepts_only_zstd},
    stream::{FieldError, Framing, StreamFields},
};

/// A stream as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamRequest {
    /// Bits of the topics' numbers (see [`Kind::bit`]).
    pub(super) kinds: u64,
    /// The first sequence wanted; `None`: only what is new.
    pub(super) start: Option<Sequence>,
    /// The last sequence wanted.
    pub(super) until: Option<Sequence>,
    /// Whether it is wanted as NDJSON.
    pub(super) json_lines: bool,
    /// Whether it is wanted in zstd frames.
    pub(super) zstd: bool,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// No such path.
    #[error("Not found: the event stream is /eth/v1/events?topics=...")]
    Path,
    /// Not with this method.
    #[error("Method not allowed: the event stream takes GET and HEAD")]
    Method,
    /// `topics` is missing, or names nothing.
    #[error("No topics given: the topics parameter is required")]
    NoTopics,
    /// A topic that is not served.
    #[error("Invalid topic: {0}")]
    Topic(String),
    /// A field of our own cannot be read.
    #[error("Invalid query: {0}")]
    Field(#[from] FieldError),
    /// No form of the stream is accepted.
    #[error("Accepted media type is not supported")]
    MediaType,
    /// As many streams are open as may be.
    #[error("Too many event streams are open; try again later")]
    Full,
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Refusal::Path => StatusCode::NOT_FOUND,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::NoTopics | Refusal::Topic(_) | Refusal::Field(_) => StatusCode::BAD_REQUEST,
            Refusal::MediaType => StatusCode::NOT_ACCEPTABLE,
            Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> String {
        let message = serde_json::Value::from(self.to_string());
        format!("{{\"code\":{},\"message\":{message}}}", self.status().as_u16())
    }
}

/// Checks method and raw path.
pub(super) fn route(method: &Method, path: &str) -> Result<(), Refusal> {
    if path.strip_suffix('/').unwrap_or(path) != super::PATH {
        return Err(Refusal::Path);
    }
    if method != Method::GET && method != Method::HEAD {
        return Err(Refusal::Method);
    }
    Ok(())
}

/// Reads query and headers of a request for a stream. `kind_of` numbers the topics that are served.
pub(super) fn parse(
    query: Option<&str>,
    headers: &HeaderMap,
    kind_of: impl Fn(&str) -> Option<Kind>,
) -> Result<StreamRequest, Refusal> {
    let fields = Parameters::parse(query);
    let topics = fields.list("topics").into_iter().flatten().map(str::trim).filter(|topic| !topic.is_empty());
    let mut kinds = 0;
    for topic in topics {
        kinds |= kind_of(topic).ok_or_else(|| Refusal::Topic(shortened(topic)))?.bit();
    }
    if kinds == 0 {
        return Err(Refusal::NoTopics);
    }
    let framing = Framing::accepted(headers, &[Framing::JsonLines.media_type()], Framing::EventStream);
    let json_lines = framing.ok_or(Refusal::MediaType)? == Framing::JsonLines;
    let StreamFields { start, until, zstd } = StreamFields::read(&fields, headers)?;
    let zstd = zstd.unwrap_or_else(|| accepts_only_zstd(headers));
    Ok(StreamRequest { kinds, start, until, json_lines, zstd })
}

/// As much of a name as an answer shows.
fn shortened(name: &str) -> String {
    const CHARACTERS_MAX: usize = 100;
    name.chars().take(CHARACTERS_MAX).collect()
}

/// For `crate::fuzzing`: every request gets a stream of some topics or a refusal in JSON.
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, reason = "a broken promise ends the run")]
pub(crate) fn check_request(method: &Method, path: &str, query: &str, headers: &HeaderMap) {
    let refused = |refusal: Refusal| {
        let body: serde_json::Value = serde_json::from_str(&refusal.body()).unwrap();
        let has_message = body.get("message").is_some_and(serde_json::Value::is_string);
        assert!(refusal.status().is_client_error() && has_message);
    };
    route(method, path).unwrap_or_else(refused);
    // Every short name is a topic, so that streams are found as well.
    let kind_of = |name: &str| (name.len() < 8).then_some(Kind(name.len() as u8));
    match parse(Some(query), headers, kind_of) {
        Ok(wanted) => assert!(wanted.kinds != 0),
        Err(refusal) => refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::super::super::dialect::Beacon;
    use super::super::super::topics::named;
    use super::*;

    fn parse_with(query: Option<&str>, headers: &[(&'static str, &str)]) -> Result<StreamRequest, Refusal> {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()));
        let dialect = Beacon::default();
        parse(query, &headers.collect(), |name| Some(dialect.kind(name)).filter(|kind| *kind != Kind::OTHER))
    }

    fn bits(names: &[&str]) -> u64 {
        names.iter().fold(0, |bits, name| bits | named(name).unwrap().kind.bit())
    }

    #[test]
    fn topics_come_in_a_list_or_several_times_in_any_mix() {
        for query in [
            "topics=head,block",
            "topics=head&topics=block",
            "topics=%20head%20,,block,&topics=head&other=1",
            "topics=&topics=block%2Chead",
        ] {
            assert_eq!(parse_with(Some(query), &[]).unwrap().kinds, bits(&["head", "block"]), "{query}");
        }
    }

    #[test]
    fn the_bodies_of_refusals_are_those_of_the_standard() {
        for query in [None, Some(""), Some("topics="), Some("topics=,,%20,"), Some("topic=head")] {
            let body = r#"{"code":400,"message":"No topics given: the topics parameter is required"}"#;
            assert_eq!(parse_with(query, &[]).unwrap_err().body(), body);
        }
        let unknown = parse_with(Some("topics=head,weather_forecast"), &[]).unwrap_err();
        assert_eq!(unknown.body(), r#"{"code":400,"message":"Invalid topic: weather_forecast"}"#);
        let quoted = parse_with(Some("topics=%22%0A"), &[]).unwrap_err();
        assert_eq!(quoted.body(), r#"{"code":400,"message":"Invalid topic: \""}"#);
        let media_type = parse_with(Some("topics=head"), &[("accept", "application/json")]).unwrap_err();
        assert_eq!(media_type.body(), r#"{"code":406,"message":"Accepted media type is not supported"}"#);
    }

    #[test]
    fn a_field_of_our_own_that_is_wrong_or_repeated_is_refused_with_its_name() {
        for (fields, reason) in [
            ("start_from=x", "`start_from` takes an event's id, a whole number"),
            ("encoding=gzip", "`encoding` takes zstd or identity"),
            ("start_from=1&start_from=2", "`start_from` is given more than once; give it once"),
        ] {
            let refusal = parse_with(Some(&format!("topics=head&{fields}")), &[]).unwrap_err();
            let body = format!(r#"{{"code":400,"message":"Invalid query: {reason}"}}"#);
            assert_eq!((refusal.status(), refusal.body()), (StatusCode::BAD_REQUEST, body));
        }
    }

    #[test]
    fn accept_selects_the_form_that_a_client_gets() {
        for (accept, expected) in [
            ("text/event-stream", Ok(false)),
            ("*/*", Ok(false)),
            ("text/*;q=0.1", Ok(false)),
            ("application/json, text/event-stream", Ok(false)),
            ("application/x-ndjson", Ok(true)),
            ("application/x-ndjson, */*", Ok(true)),
            ("application/x-ndjson, */*;q=0.1", Ok(true)),
            ("application/x-ndjson, text/event-stream", Ok(false)),
            ("application/x-ndjson;q=0.5, text/event-stream", Ok(false)),
            ("application/json", Err(Refusal::MediaType)),
            ("text/event-stream;q=0", Err(Refusal::MediaType)),
            ("text/event-stream;q=0, */*", Err(Refusal::MediaType)),
        ] {
            let asked = parse_with(Some("topics=head"), &[("accept", accept)]);
            assert_eq!(asked.map(|asked| asked.json_lines), expected, "{accept}");
        }
    }

    #[test]
    fn only_the_path_of_the_standard_is_served_and_only_read() {
        assert_eq!(route(&Method::GET, "/eth/v1/events"), Ok(()));
        assert_eq!(route(&Method::HEAD, "/eth/v1/events/"), Ok(()));
        assert_eq!(route(&Method::POST, "/eth/v1/events"), Err(Refusal::Method));
        assert_eq!(route(&Method::GET, "/eth/v1/event"), Err(Refusal::Path));
        assert_eq!(route(&Method::GET, "/eth/v1/events//"), Err(Refusal::Path));
    }

    proptest! {
        #[test]
        fn every_request_gets_a_stream_or_a_refusal_in_json(
            query in prop_oneof![".{0,80}", "(&?(topics|start_from|until|encoding|lastEventId)=[a-z0-9%,_ ]{0,12}){0,6}"],
            accept in "[ -~]{0,40}",
            id in "[ -~]{0,24}",
        ) {
            match parse_with(Some(&query), &[("accept", &accept), ("last-event-id", &id)]) {
                Ok(wanted) => prop_assert!(wanted.kinds != 0),
                Err(refusal) => {
                    let body: serde_json::Value = serde_json::from_str(&refusal.body()).unwrap();
                    prop_assert_eq!(&body["code"], refusal.status().as_u16());
                    prop_assert!(refusal.status().is_client_error());
                }
            }
        }
    }
}
