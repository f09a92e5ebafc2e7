//! The messages of a stream that are not events: versions, positions, missing events, comments and keep-alives.

use std::fmt;

use bytes::Bytes;
use sidecar_log_format::{ApiVersion, Missing, Sequence, version_frame};

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
