//! The beacon server: `GET /eth/v1/events`, as the beacon API's standard has it.
//!
//! Owns what its clients know of it: the path, the query, the refusals. Beyond the standard every event has an `id:` line
//! after its `data:` line, and a client that names one gets what came after it. Requests flow in; what they ask for goes to
//! the [`Hub`] as a [`Subscription`].

mod request;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use sidecar_log_format::Kind;

#[cfg(any(test, fuzzing))]
pub(crate) use request::check_request;
use request::{Refusal, StreamRequest};

use crate::engine::{
    http::{
        BindError,
        about::{self, READ_METHODS},
        access::Client,
        episode::{Episode, Over},
        front::Front,
    },
    stream::{
        Coding, Delivery, Hub, JsonLines, OpenStream, OpenStreams, Port, PortCounters, PortOptions, ReaderClass,
        Rendering, Subscription,
    },
};

/// Where the stream is.
pub const PATH: &str = "/eth/v1/events";

/// As the standard has it.
const LIVE: ReaderClass = ReaderClass("live");
/// From an id on, or up to one.
const REPLAY: ReaderClass = ReaderClass("replay");
/// As NDJSON.
const JSON_LINES: ReaderClass = ReaderClass("ndjson");
/// As zstd frames.
const ZSTD: ReaderClass = ReaderClass("zstd");

/// The kinds of streams that metrics tell apart.
pub const READER_CLASSES: &[ReaderClass] = &[LIVE, REPLAY, ZSTD, JSON_LINES];

const VARY: HeaderValue = HeaderValue::from_static("accept, accept-encoding");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Seconds after which a client that found no place may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");
/// The path that exists, for people with a browser.
const INDEX: &str = "Sidecar's beacon event stream: /eth/v1/events?topics=head,block has new events; with start_from=0 it \
                     replays every stored one first.\n";

/// A bound server.
pub struct Server {
    port: Port,
    events: Arc<Events>,
}

/// What requests are answered from.
struct Events {
    hub: Arc<Hub>,
    /// The topics that are served, with their numbers.
    topics: Vec<(Kind, Box<str>)>,
    json_lines: Arc<dyn Rendering>,
    open_streams: OpenStreams,
    delivery: Delivery,
    /// Streams for which there was no place.
    refusals: Episode,
}

impl Server {
    /// Takes the port, to serve these topics. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address.
    pub fn bind(options: &PortOptions, hub: Arc<Hub>, topics: Vec<(Kind, Box<str>)>) -> Result<Server, BindError> {
        let port = Port::bind(options)?;
        let events = Events {
            json_lines: Arc::new(JsonLines::of(hub.log())),
            hub,
            topics,
            open_streams: port.open_streams(),
            delivery: port.delivery(),
            refusals: Episode::default(),
        };
        Ok(Server { port, events: Arc::new(events) })
    }

    /// Where it listens, and what it counts of connections and requests.
    #[must_use]
    pub fn front(&self) -> &Front {
        self.port.front()
    }

    /// What its port has done so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<PortCounters> {
        self.events.open_streams.counters()
    }

    /// Serves until `cancel` is done; then every connection is cut, without a message.
    pub async fn run(self, cancel: impl Future<Output = ()>) {
        let router = Router::new().fallback(respond).with_state(self.events);
        self.port.serve(router, cancel).await;
    }
}

async fn respond(State(events): State<Arc<Events>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    events.answer(&request).unwrap_or_else(|refusal| events.refuse(&refusal, &request))
}

impl Events {
    fn answer(&self, request: &Parts) -> Result<Response, Refusal> {
        if request.uri.path() == "/" && matches!(request.method, Method::GET | Method::HEAD) {
            return Ok(about::contents(INDEX));
        }
        request::route(&request.method, request.uri.path())?;
        let wanted = request::parse(request.uri.query(), &request.headers, |name| self.kind(name))?;
        let place = self.open_streams.open().ok_or(Refusal::Full)?;
        let mut response = self.hub.respond(request, self.subscription(&wanted, place));
        let headers = response.headers_mut();
        self.hub.name_log(headers);
        headers.insert(header::VARY, VARY);
        Ok(response)
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        self.topics.iter().find(|(_, known)| **known == *name).map(|(kind, _)| *kind)
    }

    fn subscription(&self, wanted: &StreamRequest, place: OpenStream) -> Subscription {
        let is_replay = wanted.start.is_some() || wanted.until.is_some();
        let class = match wanted {
            StreamRequest { json_lines: true, .. } => JSON_LINES,
            StreamRequest { zstd: true, .. } => ZSTD,
            _ if is_replay => REPLAY,
            _ => LIVE,
        };
        // A client sees a byte at once, as the field's servers do.
        let greeting: &[u8] = if wanted.json_lines { b"\n" } else { b":\n\n" };
        Subscription {
            start: wanted.start.unwrap_or_else(|| self.hub.log().head().next_sequence),
            until: wanted.until,
            kinds: wanted.kinds,
            rendering: wanted.json_lines.then(|| Arc::clone(&self.json_lines)),
            versions: false,
            // Some readers of the field take every frame for an event, so only those that know ids get these.
            progress_marks: is_replay || wanted.json_lines,
            explains_start: true,
            greeting: Some(Bytes::from_static(greeting)),
            coding: if wanted.zstd { Coding::Zstd } else { Coding::Identity },
            ..Subscription::new(class, self.delivery, place)
        }
    }

    fn refuse(&self, refusal: &Refusal, request: &Parts) -> Response {
        self.open_streams.counters().refused.add(1);
        if *refusal == Refusal::Full {
            self.note_full(request);
        }
        let mut response = Response::new(Body::from(refusal.body()));
        *response.status_mut() = refusal.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        match refusal {
            Refusal::Full => drop(headers.insert(header::RETRY_AFTER, RETRY_AFTER)),
            Refusal::Method => drop(headers.insert(header::ALLOW, READ_METHODS)),
            _ => {}
        }
        response
    }

    fn note_full(&self, request: &Parts) {
        let places = self.open_streams.max();
        let client = Client::of(&request.extensions).map(tracing::field::display);
        self.refusals.note(
            || tracing::info!(client, places, "streams are refused; raise `max_concurrent_subscribers` in [beacon]"),
            |Over { times, seconds }| tracing::info!(refused = times, seconds, "streams are not refused any more"),
        );
    }
}
