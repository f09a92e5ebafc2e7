//! Casper's event streams: `GET /events`, `GET /events/sidecar` and, where they are enabled, the three of 1.x nodes.
//!
//! Owns what the reference's clients know of them: paths, queries, refusals, greetings, and that a node's shutdown passes
//! every filter. `/events` comes as NDJSON, too, for a client that accepts `application/x-ndjson`. Requests flow in; what
//! they ask for goes to the [`Hub`] as a [`Subscription`].
//!
//! Not in here: the streams themselves (`engine::stream`), and what 1.x clients understand of an event (`legacy`).

mod request;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use sidecar_log_format::Sequence;

#[cfg(any(test, fuzzing))]
pub(crate) use request::check_request;
use request::{Endpoint, Refusal, Route, StreamRequest};

use super::{
    event::SHUTDOWN,
    legacy::{self, Legacy, LegacyStream},
};
use crate::engine::{
    http::{
        BindError, about,
        access::Client,
        episode::{Episode, Over},
        front::Front,
    },
    stream::{
        Coding, Delivery, Hub, JsonLines, LogName, OpenStream, OpenStreams, Port, PortCounters, PortOptions,
        ReaderClass, Rendering, Subscription,
    },
};

/// `/events`, every event.
const WHOLE: ReaderClass = ReaderClass("whole");
/// `/events` with `types` or `until`.
const FILTERED: ReaderClass = ReaderClass("filtered");
/// `/events` as NDJSON.
const JSON_LINES: ReaderClass = ReaderClass("ndjson");
/// `/events` as stored zstd frames.
const ZSTD: ReaderClass = ReaderClass("zstd");
/// `/events/sidecar`.
const SIDECAR: ReaderClass = ReaderClass("sidecar");
/// `/events/main`, `/events/deploys` and `/events/sigs`.
const LEGACY: ReaderClass = ReaderClass("legacy");

/// The kinds of streams that metrics distinguish.
pub const READER_CLASSES: &[ReaderClass] = &[WHOLE, FILTERED, ZSTD, JSON_LINES, SIDECAR, LEGACY];

/// What the answer depends on beside its path, where it has several forms, codings, or both.
const VARY: HeaderValue = HeaderValue::from_static("accept");
const VARY_CODING: HeaderValue = HeaderValue::from_static("accept-encoding");
const VARY_WITH_CODING: HeaderValue = HeaderValue::from_static("accept, accept-encoding");
/// Seconds after which a client that found no place may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");
/// The paths that exist, for people with a browser.
const INDEX: &str = "Sidecar's event streams: /events?start_from=0 replays every stored event and continues with new ones; \
                     /events/sidecar has the sidecar's version.\n";
/// The same where the 1.x streams are enabled.
const LEGACY_INDEX: &str =
    "/events/main, /events/deploys and /events/sigs have what clients of 1.x nodes understand.\n";

/// How the server listens and what it grants a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The port, and what is granted there.
    pub port: PortOptions,
    /// Which clients get a zstd stream.
    pub zstd: ZstdPassThrough,
    /// Whether the 1.x streams exist: `emulate_legacy_sse_apis` names `V1`.
    pub legacy_enabled: bool,
    /// What `/events/sidecar` announces.
    pub sidecar_version: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            port: PortOptions::default(),
            zstd: ZstdPassThrough::Sole,
            legacy_enabled: false,
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Which clients get stored blocks as they are, with `content-encoding: zstd`. Only unfiltered streams do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZstdPassThrough {
    /// A client whose `Accept-Encoding` names zstd and no other coding, or that asks with `?encoding=zstd`.
    #[default]
    Sole,
    /// Also a client that names zstd among others.
    Any,
    /// None.
    Off,
}

/// A bound server.
pub struct Server {
    port: Port,
    events: Arc<Events>,
}

/// The 1.x streams, each with its form.
struct LegacyRenderings {
    main: Arc<dyn Rendering>,
    deploys: Arc<dyn Rendering>,
    signatures: Arc<dyn Rendering>,
}

impl LegacyRenderings {
    fn of(hub: &Hub) -> Self {
        let rendering = |stream| Arc::new(Legacy::new(stream, Arc::clone(hub.counters())));
        LegacyRenderings {
            main: rendering(LegacyStream::Main),
            deploys: rendering(LegacyStream::Deploys),
            signatures: rendering(LegacyStream::Signatures),
        }
    }

    fn get(&self, stream: LegacyStream) -> &Arc<dyn Rendering> {
        match stream {
            LegacyStream::Main => &self.main,
            LegacyStream::Deploys => &self.deploys,
            LegacyStream::Signatures => &self.signatures,
        }
    }
}

/// What requests are answered from.
struct Events {
    hub: Arc<Hub>,
    json_lines: Arc<dyn Rendering>,
    legacy: LegacyRenderings,
    open_streams: OpenStreams,
    delivery: Delivery,
    zstd: ZstdPassThrough,
    legacy_enabled: bool,
    sidecar_version: String,
    /// Streams for which there was no place.
    refusals: Episode,
}

impl Server {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address or the file.
    pub fn bind(options: Options, hub: Arc<Hub>) -> Result<Server, BindError> {
        let port = Port::bind(&options.port)?;
        let events = Events {
            json_lines: Arc::new(JsonLines::of(hub.log())),
            legacy: LegacyRenderings::of(&hub),
            hub,
            open_streams: port.open_streams(),
            delivery: port.delivery(),
            zstd: options.zstd,
            legacy_enabled: options.legacy_enabled,
            sidecar_version: options.sidecar_version,
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
        self.port.serve(router(self.events), cancel).await;
    }
}

/// Paths are matched raw, not decoded, and every method is answered: all of it is the fallback's.
fn router(events: Arc<Events>) -> Router {
    Router::new().fallback(respond).with_state(events)
}

async fn respond(State(events): State<Arc<Events>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    events.answer(&request).await.unwrap_or_else(|refusal| events.refuse(&refusal, &request))
}

impl Events {
    async fn answer(&self, request: &Parts) -> Result<Response, Refusal> {
        let unknown_path = Refusal::UnknownPath { legacy: self.legacy_enabled };
        let route = request::route(&request.method, request.uri.path(), self.legacy_enabled);
        match route {
            Route::Nowhere => return Err(unknown_path),
            Route::Index => return Ok(self.index()),
            Route::IndexMethods => return Ok(about::read_methods()),
            Route::Stream(_) | Route::UnknownStream => {}
        }
        if self.open_streams.is_full() {
            return Err(Refusal::Full);
        }
        let Route::Stream(endpoint) = route else { return Err(unknown_path) };
        let wanted = request::parse(endpoint, request.uri.query(), &request.headers, self.zstd)?;
        let served = LogName::of(self.hub.log());
        if let Some(wanted) = wanted.log.filter(|wanted| !wanted.matches(&served)) {
            return Err(Refusal::OtherLog { served, wanted });
        }
        let place = self.open_streams.open().ok_or(Refusal::Full)?;
        let start = self.start(&wanted).await?;
        let mut response = self.hub.respond(request, self.subscription(&wanted, start, place));
        if endpoint != Endpoint::Sidecar {
            self.hub.name_log(response.headers_mut());
        }
        if let Some(vary) = self.vary(endpoint) {
            response.headers_mut().insert(header::VARY, vary);
        }
        Ok(response)
    }

    async fn start(&self, wanted: &StreamRequest) -> Result<Sequence, Refusal> {
        let since = match wanted.since {
            Some(time) => Some(self.hub.start_at_time(time).await.map_err(|_| Refusal::Unsearchable)?),
            None => None,
        };
        let next = self.hub.log().head().next_sequence;
        Ok(wanted.start.max(since).unwrap_or(next))
    }

    /// What an endpoint sends.
    fn subscription(&self, wanted: &StreamRequest, start: Sequence, place: OpenStream) -> Subscription {
        let is_partial = wanted.kinds.is_some() || wanted.until.is_some();
        let class = match wanted {
            StreamRequest { endpoint: Endpoint::Sidecar, .. } => SIDECAR,
            StreamRequest { endpoint: Endpoint::Legacy(_), .. } => LEGACY,
            StreamRequest { json_lines: true, .. } => JSON_LINES,
            StreamRequest { zstd: true, .. } => ZSTD,
            _ if is_partial => FILTERED,
            _ => WHOLE,
        };
        let kinds = wanted.kinds.unwrap_or(u64::MAX);
        let coding = if wanted.zstd { Coding::Zstd } else { Coding::Identity };
        let any = Subscription {
            start,
            until: wanted.until,
            kinds,
            progress_marks: is_partial,
            ..Subscription::new(class, self.delivery, place)
        };
        match wanted.endpoint {
            Endpoint::Events => Subscription {
                rendering: wanted.json_lines.then(|| Arc::clone(&self.json_lines)),
                explains_start: true,
                coding,
                ..any
            },
            Endpoint::Legacy(stream) => Subscription {
                kinds: kinds & stream.kinds(),
                rendering: Some(Arc::clone(self.legacy.get(stream))),
                greeting: Some(Bytes::from_static(legacy::GREETING.as_bytes())),
                explains_start: true,
                coding,
                ..any
            },
            Endpoint::Sidecar => Subscription {
                kinds: kinds & SHUTDOWN.bit(),
                versions: false,
                greeting: Some(format!("data:{{\"SidecarVersion\":\"{}\"}}\n\n", self.sidecar_version).into()),
                farewell: Some(Bytes::from_static(b"data:\"Shutdown\"\n\n")),
                ..any
            },
        }
    }

    /// What the answer depends on beside its path.
    fn vary(&self, endpoint: Endpoint) -> Option<HeaderValue> {
        match (endpoint, self.zstd) {
            (Endpoint::Events, ZstdPassThrough::Off) => Some(VARY),
            (Endpoint::Events, _) => Some(VARY_WITH_CODING),
            (Endpoint::Sidecar, _) | (Endpoint::Legacy(_), ZstdPassThrough::Off) => None,
            (Endpoint::Legacy(_), _) => Some(VARY_CODING),
        }
    }

    fn index(&self) -> Response {
        about::contents(if self.legacy_enabled { [INDEX, LEGACY_INDEX].concat() } else { INDEX.to_owned() })
    }

    fn refuse(&self, refusal: &Refusal, request: &Parts) -> Response {
        self.open_streams.counters().refused.add(1);
        if *refusal == Refusal::Full {
            self.note_full(Client::of(&request.extensions));
        }
        let mut response = Response::new(Body::from(refusal.body()));
        *response.status_mut() = refusal.status();
        if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if let Refusal::OtherLog { .. } = refusal {
            self.hub.name_log(response.headers_mut());
        }
        response
    }

    fn note_full(&self, client: Option<SocketAddr>) {
        let places = self.open_streams.max();
        let client = client.map(tracing::field::display);
        self.refusals.note(
            || tracing::info!(client, places, "streams are refused; raise `max_concurrent_subscribers` to take more"),
            |Over { times, seconds }| tracing::info!(refused = times, seconds, "streams are not refused any more"),
        );
    }
}
