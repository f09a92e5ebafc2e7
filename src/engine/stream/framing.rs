//! The messages of a stream that are not events: versions, positions, missing events, comments and keep-alives.

use std::convert::Infallible;
use std::fmt;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use sidecar_log_format::{ApiVersion, Missing, Sequence, version_frame};

use crate::engine::http::weights::{weighed, weight_of};

/// The body of the answer to HEAD: its length is not known, as that of the stream is not.
pub fn body_of_head() -> Body {
    Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>())
}

/// How a stream is cut into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    EventStream,
    /// One JSON object a line:
    ///
    /// - `{"id":7,"data":…}` is an event, `{"data":…}` a message that has no id, as an API version;
    /// - `{"id":7}` only moves the position to resume from;
    /// - `{"missing":{"from":3,"to":5,"why":"…"}}` names events that the client will not get;
    /// - `{"comment":"…"}` is for people, and an empty line is a keep-alive.
    JsonLines,
}

impl Framing {
    /// Its media type, as `Content-Type` and `Accept` have it.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Framing::EventStream => "text/event-stream",
            Framing::JsonLines => "application/x-ndjson",
        }
    }

    /// The headers of an answer that is such a stream.
    pub fn describe(self, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Asks nginx, and proxies that follow it, to pass a stream on as it comes.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }

    /// The framing that a request's `Accept` prefers; `None` where it takes neither.
    ///
    /// `lines` are the media types that ask for JSON lines. Wildcards ask for `default`, and so does a request without
    /// `Accept`. Of two that are wanted alike, the one with a name wins, and events win where both have one.
    #[must_use]
    pub fn accepted(headers: &HeaderMap, lines: &[&str], default: Framing) -> Option<Framing> {
        let accepted: Vec<(&str, f32)> = weighed(headers, &header::ACCEPT).collect();
        if accepted.is_empty() {
            return Some(default);
        }
        let named_events = weight_of(&accepted, &[Framing::EventStream.media_type()]);
        let named_lines = lines.iter().filter_map(|name| weight_of(&accepted, &[name])).reduce(f32::max);
        let (events, lines) = match default {
            Framing::EventStream => (named_events.or_else(|| weight_of(&accepted, &["text/*", "*/*"])), named_lines),
            Framing::JsonLines => {
                (named_events, named_lines.or_else(|| weight_of(&accepted, &["application/*", "*/*"])))
            }
        };
        let (events, lines) = (events.unwrap_or_default(), lines.unwrap_or_default());
        if events <= 0.0 && lines <= 0.0 {
            return None;
        }
        let prefers_lines = if named_events.is_some() { lines > events } else { lines >= events };
        Some(if prefers_lines { Framing::JsonLines } else { Framing::EventStream })
    }

    /// As [`Framing::accepted`], for a server that never refuses: `default` where the client takes neither framing, and
    /// JSON lines where it refuses event streams by name.
    #[must_use]
    pub fn accepted_or_default(headers: &HeaderMap, lines: &[&str], default: Framing) -> Framing {
        Framing::accepted(headers, lines, default).unwrap_or_else(|| {
            let accepted: Vec<(&str, f32)> = weighed(headers, &header::ACCEPT).collect();
            match weight_of(&accepted, &[Framing::EventStream.media_type()]) {
                Some(_) => Framing::JsonLines,
                None => default,
            }
        })
    }

    /// The message that announces an API version.
    pub(super) fn version(self, version: ApiVersion) -> Vec<u8> {
        match self {
            Framing::EventStream => version_frame(version),
            Framing::JsonLines => format!("{{\"data\":{{\"ApiVersion\":\"{version}\"}}}}\n").into_bytes(),
        }
    }

    /// A message that moves a client's last id and dispatches nothing.
    pub(super) fn mark(self, id: Sequence) -> Bytes {
        Bytes::from(match self {
            Framing::EventStream => format!("id:{id}\n\n"),
            Framing::JsonLines => format!("{{\"id\":{id}}}\n"),
        })
    }

    /// A comment for people. `text` has no line break, and nothing that JSON would have to escape.
    pub(super) fn comment(self, text: impl fmt::Display) -> Bytes {
        Bytes::from(match self {
            Framing::EventStream => format!(":{text}\n\n"),
            Framing::JsonLines => format!("{{\"comment\":\"{text}\"}}\n"),
        })
    }

    /// Names the events `from` (inclusive) to `to` (exclusive) that a client will not get.
    pub(super) fn missing(self, from: Sequence, to: Sequence, why: &Missing) -> Bytes {
        let (last, why) = (to.saturating_sub(1), why.for_clients());
        match self {
            Framing::EventStream => self.comment(format_args!("events {from} to {last} are missing: {why}")),
            Framing::JsonLines => {
                Bytes::from(format!("{{\"missing\":{{\"from\":{from},\"to\":{last},\"why\":\"{why}\"}}}}\n"))
            }
        }
    }

    /// A keep-alive: it shows that the stream is alive, and carries nothing.
    pub(super) const fn keep_alive(self) -> Bytes {
        Bytes::from_static(match self {
            Framing::EventStream => b":\n\n",
            Framing::JsonLines => b"\n",
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_framing_that_is_wanted_most_is_accepted_and_wildcards_ask_for_the_default() {
        use Framing::{EventStream, JsonLines};

        const LINES: [&str; 2] = ["application/x-ndjson", "application/json"];
        for (accept, by_default) in [
            ("text/event-stream", [Some(EventStream); 2]),
            ("text/event-stream;q=0.5, application/json", [Some(JsonLines); 2]),
            ("text/event-stream, application/json;q=0.5", [Some(EventStream); 2]),
            ("application/x-ndjson, text/event-stream", [Some(EventStream); 2]),
            ("application/json;q=0.1", [Some(JsonLines); 2]),
            ("application/x-ndjson, */*", [Some(JsonLines); 2]),
            ("text/event-stream, */*", [Some(EventStream); 2]),
            ("*/*", [Some(EventStream), Some(JsonLines)]),
            ("text/html, */*;q=0.8", [Some(EventStream), Some(JsonLines)]),
            ("text/*", [Some(EventStream), None]),
            ("application/*", [None, Some(JsonLines)]),
            ("text/event-stream;q=0, */*", [None, Some(JsonLines)]),
            ("text/html", [None; 2]),
            ("text/event-stream;q=0", [None; 2]),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            let accepted = [EventStream, JsonLines].map(|default| Framing::accepted(&headers, &LINES, default));
            assert_eq!(accepted, by_default, "{accept}");
        }
        for default in [EventStream, JsonLines] {
            assert_eq!(Framing::accepted(&HeaderMap::new(), &LINES, default), Some(default));
        }
        for (accept, wanted) in [
            ("text/event-stream;q=0", [JsonLines; 2]),
            ("text/event-stream;q=0, text/html", [JsonLines; 2]),
            ("application/json;q=0", [EventStream, JsonLines]),
            ("text/html", [EventStream, JsonLines]),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            let framings =
                [EventStream, JsonLines].map(|default| Framing::accepted_or_default(&headers, &LINES, default));
            assert_eq!(framings, wanted, "{accept}");
        }
        let json = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        assert_eq!(Framing::accepted(&json, &LINES[..1], EventStream), None, "only listed types ask for lines");
    }
}
