//! Requests and responses; the connections that bring them are the front's.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    middleware,
    response::Response,
};
use bytes::Bytes;
use sidecar_log_format::{Head, Log, Missing, Read, Sequence, Timestamp};
use tokio::sync::{Semaphore, watch};

use super::{
    Counters, LOG_HEADER, RETAINED_RANGE_HEADER, ReplayChunks, StreamOptions, ZstdPassThrough,
    ahead::Places,
    cursor::{self, Cursor, Hold, Selection},
    large::LargeReaders,
    lending::Budget,
    log_name::LogName,
    readers::ReaderClass,
    request::{self, Endpoint, Refusal, Route, StreamRequest},
    subscriber::{COMPRESSED_PIECE_BYTES, Coding, Subscriber},
};
use crate::engine::http::{
    access::Client,
    cors::allow_any_origin,
    episode::{Episode, Over},
    front::Front,
    limits::{BYTES_PER_SECOND_MIN, FrontLimits},
};

/// What hyper asks for at least, and the room below.
const CLIENT_BUFFER_BYTES_MIN: usize = 9 << 10;
/// Once its buffer is full but for this, a connection writes before it takes another event.
const BUFFER_ROOM_BYTES: usize = 1 << 10;
/// What a buffer holds beside one large piece: the response's head, or the chunk's length.
const BESIDE_PIECE_BYTES: usize = 512;
/// The largest chunk of one event: no client library reads more at a time.
const EVENT_PIECE_BYTES: usize = 64 << 10;
/// Blocks and stored frames that connections may keep until their clients take them, all together.
const BUDGET_BYTES: usize = 8 << 20;

/// How many lines a client gets about what is missing before the oldest segment.
const MISSING_COMMENTS_MAX: usize = 16;

/// Asks nginx, and proxies that follow it, to pass a stream on as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Seconds after which a client that found no place may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");
/// The paths that exist, for people with a browser.
const INDEX: &str = "Sidecar's event streams: /events?start_from=0 replays every stored event and continues with new ones; \
                     /events/sidecar has the sidecar's version.\n";

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: the port is taken; stop the program that has it, or set another `port` in [sse_server.event_stream_server]"
    )]
    Taken {
        /// Address and port.
        address: SocketAddr,
    },
    /// The system refuses for another reason.
    #[error("cannot listen on {address}, the `port` of [sse_server.event_stream_server]: {source}")]
    Refused {
        /// Address and port.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: StreamOptions,
    pub(super) log: Log,
    pub(super) committed: watch::Receiver<Head>,
    /// How often the sidecar's own end was announced.
    pub(super) own_shutdowns: watch::Sender<u64>,
    /// Reads and decodings at a time.
    pub(super) decoders: Arc<Semaphore>,
    /// Searches for a time, one after the other: each reads a little of every segment.
    time_searches: Arc<Semaphore>,
    /// Streams for which there was no place.
    refusals: Episode,
    pub(super) places_ahead: Arc<Places>,
    pub(super) budget: Budget,
    pub(super) large_readers: Arc<LargeReaders>,
    pub(super) counters: Arc<Counters>,
}

impl Shared {
    fn subscribers_max(&self) -> usize {
        self.options.max_concurrent_subscribers as usize
    }

    fn note_full(&self, client: Option<SocketAddr>) {
        let places = self.subscribers_max();
        let client = client.map(tracing::field::display);
        self.refusals.note(
            || tracing::info!(client, places, "streams are refused; raise `max_concurrent_subscribers` to take more"),
            |Over { times, seconds }| tracing::info!(refused = times, seconds, "streams are not refused any more"),
        );
    }

    fn buffer_bytes(&self) -> usize {
        self.options.client_buffer_bytes.max(CLIENT_BUFFER_BYTES_MIN)
    }

    fn limits(&self) -> FrontLimits {
        let options = &self.options;
        FrontLimits {
            connections_max: options.max_connections,
            // Streams do not end by themselves.
            waits_for_places: false,
            // Streams may all come through one proxy.
            connections_per_client_max: options.max_connections,
            descriptors_percent: 60,
            header_timeout: options.header_timeout,
            idle_timeout: options.idle_timeout,
            write_stall_timeout: options.write_stall_timeout,
            bytes_per_second_min: BYTES_PER_SECOND_MIN,
            http1_buffer_bytes: self.buffer_bytes() - BUFFER_ROOM_BYTES,
            http2_buffer_bytes: self.buffer_bytes(),
            http1_vectored: !self.copies(),
        }
    }

    /// Whether HTTP/1.1 copies all that it is given into one buffer: best for many small chunks, which then leave in one
    /// write.
    fn copies(&self) -> bool {
        self.options.replay_chunks == ReplayChunks::Event
    }

    /// The pieces that a stored frame is cut into: where they are copied, one fills the buffer without making it grow.
    pub(super) fn stored_piece_bytes(&self) -> usize {
        if self.copies() { self.buffer_bytes() - BESIDE_PIECE_BYTES } else { usize::MAX }
    }
}

/// A bound SSE server.
pub struct Server {
    front: Front,
    shared: Arc<Shared>,
}

/// What the rest of the process may ask of a running server.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Announces to every open `/events/sidecar` client that the sidecar ends by itself. No id: it is not an event of the log.
    pub fn announce_own_shutdown(&self) {
        self.shared.own_shutdowns.send_modify(|announced| *announced += 1);
    }

    /// What the server has done so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }
}

impl Server {
    /// Takes the port. `committed` changes with every commit to `log`, after the log has made it visible. Within a Tokio
    /// runtime only.
    ///
    /// # Errors
    /// [`BindError::Taken`] names the address; [`BindError::Refused`] what else is wrong.
    pub fn bind(options: StreamOptions, log: Log, committed: watch::Receiver<Head>) -> Result<Server, BindError> {
        let address = SocketAddr::new(options.listen, options.port);
        let shared = Shared {
            decoders: Arc::new(Semaphore::new(options.decode_concurrency.max(1))),
            time_searches: Arc::new(Semaphore::new(1)),
            refusals: Episode::default(),
            places_ahead: Arc::default(),
            budget: Budget::new(BUDGET_BYTES),
            large_readers: Arc::default(),
            counters: Arc::default(),
            own_shutdowns: watch::Sender::new(0),
            options,
            log,
            committed,
        };
        let front = Front::bind(address, shared.limits(), Arc::clone(&shared.counters.front));
        let front = front.map_err(|error| match error.source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken { address },
            _ => BindError::Refused { address, source: error.source },
        })?;
        Ok(Server { front, shared: Arc::new(shared) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.front.local_addr()
    }

    /// To talk to it while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until `cancel` is done; then every connection is cut, without a message.
    pub async fn run(self, cancel: impl Future<Output = ()>) {
        self.front.serve(router(self.shared), cancel).await;
    }
}

/// Paths are matched raw, not decoded, and every method is answered: all of it is the fallback's.
fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(respond).with_state(shared).layer(middleware::from_fn(allow_any_origin))
}

async fn respond(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    answer(&shared, &request).await.unwrap_or_else(|refusal| {
        shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        if refusal == Refusal::Full {
            shared.note_full(client(&request));
        }
        refused(&shared, &refusal)
    })
}

fn client(request: &Parts) -> Option<SocketAddr> {
    request.extensions.get::<Client>().map(|Client(address)| *address)
}

fn refused(shared: &Shared, refusal: &Refusal) -> Response {
    let mut response = Response::new(Body::from(refusal.body()));
    *response.status_mut() = refusal.status();
    if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if let Refusal::OtherLog { .. } = refusal {
        name_log(&shared.log, &mut response);
    }
    response
}

async fn answer(shared: &Arc<Shared>, request: &Parts) -> Result<Response, Refusal> {
    let options = &shared.options;
    let unknown_path = Refusal::UnknownPath { legacy: options.legacy_enabled };
    let route = request::route(&request.method, request.uri.path());
    match route {
        Route::Nowhere => return Err(unknown_path),
        Route::Index => return Ok(index()),
        Route::Stream(_) | Route::UnknownStream => {}
    }
    if shared.counters.subscribers.load(Ordering::Relaxed) >= shared.subscribers_max() {
        return Err(Refusal::Full);
    }
    let Route::Stream(endpoint) = route else { return Err(unknown_path) };
    let wanted = request::parse(endpoint, request.uri.query(), &request.headers, options)?;
    let served = LogName::of(&shared.log);
    if let Some(wanted) = wanted.log.filter(|wanted| !wanted.matches(&served)) {
        return Err(Refusal::OtherLog { served, wanted });
    }
    let mut response = match request.method {
        // The headers of a stream, without one; its length is not known either.
        Method::HEAD => Response::new(Body::from_stream(futures_util::stream::empty::<io::Result<Bytes>>())),
        _ => open_stream(shared, &wanted, request).await?,
    };
    if endpoint == Endpoint::Events {
        name_log(&shared.log, &mut response);
    }
    if response.status() == StatusCode::OK {
        describe_stream(shared, &wanted, &mut response);
    }
    Ok(response)
}

async fn open_stream(shared: &Arc<Shared>, wanted: &StreamRequest, request: &Parts) -> Result<Response, Refusal> {
    let slot = Slot::take(shared).ok_or(Refusal::Full)?;
    let since = match wanted.since {
        Some(time) => Some(start_at_time(shared, time).await?),
        None => None,
    };
    let head = shared.log.head().next_sequence;
    let start = wanted.start.max(since).unwrap_or(head);
    if wanted.until.is_some_and(|until| start > until) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    Ok(Response::new(Body::new(subscribe(shared, slot, wanted, start, request))))
}

/// The first event received at `time` or later, or the next one that comes.
async fn start_at_time(shared: &Arc<Shared>, time: Timestamp) -> Result<Sequence, Refusal> {
    // Never closed.
    let permit = Arc::clone(&shared.time_searches).acquire_owned().await;
    let log = shared.log.clone();
    let search = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        log.start_at_time(time)
    });
    match search.await {
        Ok(Ok(start)) => Ok(start),
        Ok(Err(error)) => {
            tracing::error!(%error, "the log cannot be searched for a time");
            Err(Refusal::Unsearchable)
        }
        Err(error) => {
            tracing::error!(%error, "the search of the log for a time has ended early");
            Err(Refusal::Unsearchable)
        }
    }
}

/// The headers of a stream, but for those that name the log.
fn describe_stream(shared: &Shared, wanted: &StreamRequest, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    if wanted.endpoint == Endpoint::Events && shared.options.zstd != ZstdPassThrough::Off {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    if wanted.zstd {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
}

/// Names the log, and the range of ids that it retains.
fn name_log(log: &Log, response: &mut Response) {
    if let Ok(name) = HeaderValue::try_from(LogName::of(log).to_string()) {
        response.headers_mut().insert(LOG_HEADER, name);
    }
    if let Some(range) = retained_range(log) {
        response.headers_mut().insert(RETAINED_RANGE_HEADER, range);
    }
}

fn index() -> Response {
    let mut response = Response::new(Body::from(INDEX));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// One of the streams that may be open.
pub(super) struct Slot(Arc<Counters>);

impl Slot {
    fn take(shared: &Shared) -> Option<Slot> {
        let room_for_one = |open| (open < shared.subscribers_max()).then_some(open + 1);
        shared.counters.subscribers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room_for_one).ok()?;
        shared.counters.streams_opened.fetch_add(1, Ordering::Relaxed);
        Some(Slot(Arc::clone(&shared.counters)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn subscribe(shared: &Arc<Shared>, slot: Slot, wanted: &StreamRequest, start: Sequence, request: &Parts) -> Subscriber {
    let options = &shared.options;
    let coding = if wanted.zstd { Coding::Zstd } else { Coding::Identity };
    let copies = shared.copies() && request.version < Version::HTTP_2;
    let hold = match coding {
        Coding::Identity if !copies => Hold::Keeps(shared.budget.clone()),
        // What is compressed is not kept.
        _ => Hold::Copies,
    };
    let piece_bytes_max = if coding == Coding::Zstd { COMPRESSED_PIECE_BYTES } else { EVENT_PIECE_BYTES };
    let endpoint_kinds = match wanted.endpoint {
        Endpoint::Events => u64::MAX,
        Endpoint::Sidecar => options.shutdown_kind.bit(),
    };
    let selection_is_partial = wanted.kinds.is_some() || wanted.until.is_some();
    let selection = Selection {
        kinds: endpoint_kinds & wanted.kinds.unwrap_or(u64::MAX),
        versions: wanted.endpoint == Endpoint::Events,
        progress_marks: selection_is_partial,
        until: wanted.until.unwrap_or(u64::MAX),
        single_events: copies && coding == Coding::Identity,
        hold,
        piece_bytes_max,
    };
    // Older blocks may still be in memory, but what a client gets must not depend on that. And a start in the future does
    // not hold live events back.
    let (oldest, next) = (shared.log.oldest(), shared.log.head().next_sequence);
    let cursor = Cursor::new(shared.log.clone(), start.min(next).max(oldest), selection);
    let class = match wanted.endpoint {
        Endpoint::Sidecar => ReaderClass::Sidecar,
        Endpoint::Events if wanted.zstd => ReaderClass::Zstd,
        Endpoint::Events if selection_is_partial => ReaderClass::Filtered,
        Endpoint::Events => ReaderClass::Whole,
    };
    let subscriber = Subscriber::new(Arc::clone(shared), slot, class, client(request), cursor, coding);
    match wanted.endpoint {
        Endpoint::Events if start < oldest => subscriber.greet(missing_comments(&shared.log, start, oldest)),
        Endpoint::Events if start > next => subscriber.greet(ahead_comment(start, oldest, next)),
        Endpoint::Events => subscriber,
        Endpoint::Sidecar => {
            let greeting = format!("data:{{\"SidecarVersion\":\"{}\"}}\n\n", options.sidecar_version);
            subscriber.greet(Bytes::from(greeting)).tell_own_shutdown()
        }
    }
}

/// What became of the events from `start` to `oldest`, which no segment holds: retention dropped the first of them, the
/// others are lost.
fn missing_comments(log: &Log, start: Sequence, oldest: Sequence) -> Bytes {
    let dropped_to = log.retained_from().clamp(start, oldest);
    let mut comments = Vec::new();
    if start < dropped_to {
        comments.push(cursor::missing_comment(start, dropped_to, &Missing::Dropped));
    }
    let mut next = dropped_to;
    while next < oldest {
        let (to, why) = match log.read(next) {
            Ok(Read::Missing { to, why, .. }) if comments.len() < MISSING_COMMENTS_MAX => {
                (to.clamp(next + 1, oldest), why)
            }
            _ => (oldest, Missing::Lost),
        };
        comments.push(cursor::missing_comment(next, to, &why));
        next = to;
    }
    comments.concat().into()
}

/// For a client that wants events from `start` on, which the log has not reached: its ids may be another log's.
fn ahead_comment(start: Sequence, oldest: Sequence, next: Sequence) -> Bytes {
    let newest = match next.checked_sub(1).filter(|newest| oldest <= *newest) {
        Some(newest) => format!("the newest event of this log is {newest}"),
        None => "this log has no events yet".to_owned(),
    };
    Bytes::from(format!(":{newest}, before the start {start}; the stream continues with event {next}\n\n"))
}

fn retained_range(log: &Log) -> Option<HeaderValue> {
    let (oldest, next) = (log.oldest(), log.head().next_sequence);
    let newest = next.checked_sub(1).filter(|newest| oldest <= *newest)?;
    HeaderValue::from_str(&format!("{oldest}-{newest}")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use sidecar_log_format::{ApiVersion, Kind};
    use tokio::time::{Instant, advance};
    use tower::ServiceExt;

    use super::*;
    use crate::engine::stream::tests::{Written, options};

    async fn open(written: &Written, target: &str) -> Body {
        let server = Server::bind(options(), written.log.clone(), written.committed.subscribe()).unwrap();
        let request = Request::get(target).body(Body::empty()).unwrap();
        router(server.shared).oneshot(request).await.unwrap().into_body()
    }

    async fn next(body: &mut Body) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    fn written() -> Written {
        let mut written = Written::new();
        written.announce(ApiVersion { major: 2, minor: 0, patch: 0 });
        written.append(Kind(7), "0");
        written.commit();
        written
    }

    /// Seconds until the next piece, and the piece.
    async fn wait(body: &mut Body) -> (u64, Bytes) {
        let start = Instant::now();
        let piece = next(body).await;
        ((start.elapsed() + Duration::from_millis(10)).as_secs(), piece)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_alive_15_seconds_after_its_last_message() {
        let mut written = written();
        let mut body = open(&written, "/events").await;
        assert!(next(&mut body).await.starts_with(b"data:{\"ApiVersion"));
        for _ in 0..3 {
            assert_eq!(wait(&mut body).await, (15, Bytes::from_static(b":\n\n")));
        }
        advance(Duration::from_secs(10)).await;
        written.append(Kind(7), "1");
        written.commit();
        assert_eq!(wait(&mut body).await, (0, Bytes::from_static(b"data:1\nid:1\n\n")));
        assert_eq!(wait(&mut body).await, (15, Bytes::from_static(b":\n\n")));
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_a_client_does_not_get_do_not_break_its_silence() {
        let mut written = written();
        let mut sidecar = open(&written, "/events/sidecar").await;
        let mut faults = open(&written, "/events?types=Fault").await;
        next(&mut sidecar).await;
        next(&mut faults).await;
        let start = Instant::now();
        for body in [&mut sidecar, &mut faults] {
            assert!(tokio::time::timeout(Duration::from_secs(10), body.frame()).await.is_err());
            written.append(Kind(7), "skipped");
            written.commit();
            assert!(tokio::time::timeout(Duration::from_millis(1), body.frame()).await.is_err());
        }
        assert!(start.elapsed() > Duration::from_secs(20));
        assert_eq!(next(&mut sidecar).await, ":\n\n");
        // Instead of a comment it gets a mark of its position.
        assert_eq!(next(&mut faults).await, "id:2\n\n");
        assert_eq!(next(&mut faults).await, ":\n\n");
    }
}
