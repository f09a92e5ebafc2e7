//! One log's readers: a dialect describes a stream, and the hub opens it.
//!
//! Paths, queries and refusals are the dialect's. A hub knows one log. Limits that all logs share are in [`Resources`], the
//! limits of a port in [`super::port`].

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use sidecar_log_format::{Head, Log, Missing, Read, Sequence, Timestamp};
use tokio::sync::watch;

use super::{
    LOG_HEADER, RETAINED_RANGE_HEADER,
    counters::HubCounters,
    cursor::{Cursor, Hold, Selection},
    framing::{Framing, body_of_head},
    log_name::LogName,
    port::{Delivery, OpenStream},
    readers::ReaderClass,
    rendered::Renderer,
    rendering::Rendering,
    resources::Resources,
    subscriber::{COMPRESSED_PIECE_BYTES, Coding, Subscriber, Supply},
};
use crate::engine::http::access::Client;

/// The largest chunk of one event: no client library reads more at a time.
const EVENT_PIECE_BYTES: usize = 64 << 10;
/// How many lines a client gets about what is missing before the oldest segment.
const MISSING_COMMENTS_MAX: usize = 16;

/// One log, and what its streams share.
pub struct Hub {
    supply: Supply,
    /// How often the end was announced.
    farewells: watch::Sender<u64>,
    /// Which of the process's hubs it is.
    number: u64,
}

/// A stream as a dialect wants it.
pub struct Subscription {
    /// The first sequence wanted. One before the oldest retained event starts there, one in the future with the next event.
    pub start: Sequence,
    /// The last sequence wanted.
    pub until: Option<Sequence>,
    /// Bits of the kinds wanted (see [`sidecar_log_format::Kind::bit`]).
    pub kinds: u64,
    /// The form of its events, if that is not the stored one.
    pub rendering: Option<Arc<dyn Rendering>>,
    /// Whether API versions are sent.
    pub versions: bool,
    /// Whether the position is reported when events were passed in silence.
    pub progress_marks: bool,
    /// Whether a start that the log does not hold is explained.
    pub explains_start: bool,
    /// Sent before everything else.
    pub greeting: Option<Bytes>,
    /// Sent when the end is announced.
    pub farewell: Option<Bytes>,
    /// How the bytes are coded.
    pub coding: Coding,
    /// What kind of stream it counts as.
    pub class: ReaderClass,
    /// Whose it is, if that is known.
    pub client: Option<SocketAddr>,
    /// How HTTP takes its pieces.
    pub delivery: Delivery,
    /// Whether that is HTTP/2.
    pub is_http2: bool,
    /// Its place among the port's streams.
    pub place: OpenStream,
}

impl Subscription {
    /// Every event as it is stored, from the next one on.
    #[must_use]
    pub fn new(class: ReaderClass, delivery: Delivery, place: OpenStream) -> Self {
        Subscription {
            start: Sequence::MAX,
            until: None,
            kinds: u64::MAX,
            rendering: None,
            versions: true,
            progress_marks: false,
            explains_start: false,
            greeting: None,
            farewell: None,
            coding: Coding::Identity,
            class,
            client: None,
            delivery,
            is_http2: false,
            place,
        }
    }
}

/// The log could not be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be searched for a time")]
pub struct Unsearchable;

impl Hub {
    /// For a log. `committed` changes with every commit to it, after the log has made it visible.
    #[must_use]
    pub fn new(
        log: Log,
        committed: watch::Receiver<Head>,
        resources: Arc<Resources>,
        classes: &'static [ReaderClass],
    ) -> Self {
        let counters = Arc::new(HubCounters::new(classes));
        let number = resources.next_hub();
        Hub { supply: Supply { log, committed, resources, counters }, farewells: watch::Sender::new(0), number }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.supply.log
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<HubCounters> {
        &self.supply.counters
    }

    /// Announces the end to every open stream that has a farewell.
    pub fn say_farewell(&self) {
        self.farewells.send_modify(|announced| *announced += 1);
    }

    /// The first event received at `time` or later, or the next one that comes.
    ///
    /// # Errors
    /// [`Unsearchable`]; why is logged.
    pub async fn start_at_time(&self, time: Timestamp) -> Result<Sequence, Unsearchable> {
        // Never closed.
        let permit = Arc::clone(&self.supply.resources.time_searches).acquire_owned().await;
        let log = self.supply.log.clone();
        let search = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            log.start_at_time(time)
        });
        match search.await {
            Ok(Ok(start)) => Ok(start),
            Ok(Err(error)) => {
                tracing::error!(%error, "the log cannot be searched for a time");
                Err(Unsearchable)
            }
            Err(error) => {
                tracing::error!(%error, "the search of the log for a time has ended early");
                Err(Unsearchable)
            }
        }
    }

    /// The answer to a request for a stream: for HEAD its headers, and 204, which stops an `EventSource`, where the last event
    /// wanted is before the first. The address of the client and the version of HTTP are those of the request.
    #[must_use]
    pub fn respond(&self, request: &Parts, wanted: Subscription) -> Response {
        if wanted.until.is_some_and(|until| wanted.start > until) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return response;
        }
        let framing = wanted.rendering.as_ref().map_or(Framing::EventStream, |rendering| rendering.framing());
        let coding = wanted.coding;
        let mut response = Response::new(match request.method {
            Method::HEAD => body_of_head(),
            _ => self.subscribe(Subscription {
                client: Client::of(&request.extensions),
                is_http2: request.version >= Version::HTTP_2,
                ..wanted
            }),
        });
        framing.describe(response.headers_mut());
        if coding == Coding::Zstd {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        }
        response
    }

    /// Opens a stream.
    pub fn subscribe(&self, wanted: Subscription) -> Body {
        self.supply.counters.streams_opened.add(1);
        let Subscription { start, coding, delivery, .. } = wanted;
        let copies = delivery.copies() && !wanted.is_http2;
        let hold = match coding {
            Coding::Identity if !copies => Hold::Keeps(self.supply.resources.budget.clone()),
            // What is compressed is not kept.
            _ => Hold::Copies,
        };
        let renderer = wanted.rendering.map(|rendering| {
            let Supply { log, resources, counters, .. } = self.supply.clone();
            Renderer::new(log, rendering, self.number, Arc::clone(&resources.rendered), counters)
        });
        let selection = Selection {
            renderer,
            kinds: wanted.kinds,
            versions: wanted.versions,
            progress_marks: wanted.progress_marks,
            until: wanted.until.unwrap_or(u64::MAX),
            single_events: copies && coding == Coding::Identity,
            hold,
            piece_bytes_max: if coding == Coding::Zstd { COMPRESSED_PIECE_BYTES } else { EVENT_PIECE_BYTES },
        };
        // Older blocks may still be in memory, but what a client gets must not depend on that. And a start in the future
        // does not hold live events back.
        let (oldest, next) = (self.supply.log.oldest(), self.supply.log.head().next_sequence);
        let cursor = Cursor::new(self.supply.log.clone(), start.min(next).max(oldest), selection);
        let framing = cursor.framing();
        let position = self.supply.counters.readers.enter(wanted.class, wanted.client, cursor.position());
        let mut subscriber = Subscriber::new(self.supply.clone(), cursor, coding, delivery, position, wanted.place);
        wanted.greeting.into_iter().for_each(|greeting| subscriber.greet(greeting));
        if wanted.explains_start && start > next {
            subscriber.greet(framing.comment(Ahead { start, oldest, next }));
        } else if wanted.explains_start && start < oldest {
            let log = self.supply.log.clone();
            subscriber.explain(move || missing_before(&log, start, oldest, framing));
        }
        if let Some(farewell) = wanted.farewell {
            subscriber.say_at_end(self.farewells.subscribe(), farewell);
        }
        Body::new(subscriber)
    }

    /// Names the log in a response's headers, and the range of ids that it retains.
    pub fn name_log(&self, headers: &mut HeaderMap) {
        if let Ok(name) = HeaderValue::try_from(LogName::of(&self.supply.log).to_string()) {
            headers.insert(LOG_HEADER, name);
        }
        if let Some(range) = retained_range(&self.supply.log) {
            headers.insert(RETAINED_RANGE_HEADER, range);
        }
    }
}

/// What became of the events from `start` to `oldest`, which no segment holds: retention dropped the first of them, the
/// others are lost.
fn missing_before(log: &Log, start: Sequence, oldest: Sequence, framing: Framing) -> Bytes {
    let dropped_to = log.retained_from().clamp(start, oldest);
    let mut messages = Vec::new();
    if start < dropped_to {
        messages.push(framing.missing(start, dropped_to, &Missing::Dropped));
    }
    let mut next = dropped_to;
    while next < oldest {
        let (to, why) = match log.read(next) {
            Ok(Read::Missing { to, why, .. }) if messages.len() < MISSING_COMMENTS_MAX => {
                (to.clamp(next + 1, oldest), why)
            }
            _ => (oldest, Missing::Lost),
        };
        messages.push(framing.missing(next, to, &why));
        next = to;
    }
    messages.concat().into()
}

/// For a client that wants events from `start` on, which the log has not reached: its ids may be another log's.
struct Ahead {
    start: Sequence,
    oldest: Sequence,
    next: Sequence,
}

impl fmt::Display for Ahead {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ahead { start, oldest, next } = self;
        match next.checked_sub(1).filter(|newest| oldest <= newest) {
            Some(newest) => write!(out, "the newest event of this log is {newest}")?,
            None => out.write_str("this log has no events yet")?,
        }
        write!(out, ", before the start {start}; the stream continues with event {next}")
    }
}

fn retained_range(log: &Log) -> Option<HeaderValue> {
    let (oldest, newest) = log.ends()?;
    HeaderValue::from_str(&format!("{oldest}-{newest}")).ok()
}
