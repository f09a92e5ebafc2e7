//! HTTP: the reference's paths, health and readiness for process supervisors, the status, and the page.
//!
//! `/health` is answered as soon as the process serves. `/ready` is answered once look-ups see what is stored and no log's
//! storage has failed, or while the database that look-ups go to answers, and while the node of the JSON-RPC servers is there.
//! Neither waits in the line of `/metrics`, which does not take all connections, so that a slow
//! scrape does not look like a dead process. `/health` is open to clients without a token, and so are the page's files: a
//! browser cannot send a token with its first request. What the page then asks for needs the token.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::disk::Disks;
use super::feed::{self, Feed};
use super::page::{self, File};
use super::readiness::{lost_events, why_not_ready};
use super::status::Status;
use super::{AdminOptions, Parts, metrics};
use crate::casper::rest::LogPages;
use crate::engine::http::{
    BindError,
    about::{READ_METHODS, read_methods},
    cors::{Origins, PageMethods, let_pages_in},
    front::Front,
    limits::FrontLimits,
    turns::Limits,
    weights::names,
};
use crate::engine::stream::{Framing, body_of_head};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Requests for events at a time, those in line included.
const READS_MAX: usize = 16;
/// Requests for metrics at a time, those in line included. The other connections are left to supervisors and
/// browsers.
const SCRAPES_MAX: usize = CONNECTIONS_MAX - feed::STREAMS_MAX - READS_MAX - 8;
/// Statuses that are rendered at a time.
const RENDERINGS_MAX: usize = 2;
/// Paths that are open to clients without a token.
const OPEN_PATHS: &[&str] = &["/health", "/", "/page.css", "/page.js", "/page.svg"];

/// A bound admin server.
pub struct Server {
    front: Front,
    origins: Origins,
    limits: Limits,
}

struct Shared {
    parts: Parts,
    limits: Limits,
    scrapes: Semaphore,
    reads: Semaphore,
    renderings: Arc<Semaphore>,
    feed: Feed,
    disks: Disks,
    started: Instant,
}

impl Shared {
    fn new(parts: Parts, limits: Limits) -> Shared {
        Shared {
            parts,
            limits,
            scrapes: Semaphore::new(SCRAPES_MAX),
            reads: Semaphore::new(READS_MAX),
            renderings: Arc::new(Semaphore::new(RENDERINGS_MAX)),
            feed: Feed::default(),
            disks: Disks::default(),
            started: Instant::now(),
        }
    }
}

impl Server {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address or the file.
    pub fn bind(options: &AdminOptions) -> Result<Server, BindError> {
        let front_limits = FrontLimits {
            connections_per_client_max: CONNECTIONS_MAX,
            descriptors_percent: 10,
            ..FrontLimits::of_answers(CONNECTIONS_MAX)
        };
        let front = Front::bind(&options.listen, options.port, front_limits, Arc::default())?;
        let (front, origins) = (front.with_open_paths(OPEN_PATHS), options.listen.origins.clone());
        let limits = Limits::new(options.max_concurrent_requests, options.max_requests_per_second);
        Ok(Server { front, origins, limits })
    }

    /// Where it listens, and what it counts of connections and requests.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// Shows `parts` until `cancel` is done; then every connection is cut.
    pub async fn run(self, mut parts: Parts, cancel: impl Future<Output = ()>) {
        parts.fronts.push(("admin", Arc::clone(self.front.counters())));
        let shared = Arc::new(Shared::new(parts, self.limits));
        let cors = middleware::from_fn_with_state((self.origins, PageMethods::Read), let_pages_in);
        let router = Router::new().fallback(respond).with_state(Arc::clone(&shared)).layer(cors);
        let render = || {
            let shared = Arc::clone(&shared);
            async move { status(&shared).await.unwrap_or_else(|error| failure(&error)) }
        };
        tokio::select! {
            () = self.front.serve(router, cancel) => {}
            never = shared.feed.run(render) => match never {},
        }
    }
}

/// The paths that exist, for people without a browser.
const INDEX: &str = "Sidecar's admin server: /health, /ready, /status (JSON, or an event stream), /metrics (Prometheus), \
    /logs (events); in a browser this is a page\n";
/// Seconds after which a request that was refused for the moment may be made again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The paths that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Page(File),
    Metrics,
    Health,
    Ready,
    Status,
    Logs,
}

impl Place {
    fn at(path: &str) -> Option<Place> {
        if let Some((_, file)) = page::PATHS.iter().find(|(known, _)| *known == path) {
            return Some(Place::Page(*file));
        }
        match path.strip_suffix('/').unwrap_or(path) {
            "/metrics" => Some(Place::Metrics),
            "/health" => Some(Place::Health),
            "/ready" => Some(Place::Ready),
            "/status" => Some(Place::Status),
            path => LogPages::has(path).then_some(Place::Logs),
        }
    }
}

async fn respond(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let Some(place) = Place::at(request.uri().path()) else { return StatusCode::NOT_FOUND.into_response() };
    match *request.method() {
        // HTTP leaves the body out for HEAD.
        Method::GET | Method::HEAD => answer(&shared, place, request).await,
        Method::OPTIONS => read_methods(),
        _ => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "HTTP method not allowed");
            response.headers_mut().insert(header::ALLOW, READ_METHODS);
            response
        }
    }
}

async fn answer(shared: &Arc<Shared>, place: Place, request: Request) -> Response {
    match place {
        Place::Page(File::Page) if !page::is_wanted(request.headers()) => varying(text(StatusCode::OK, INDEX)),
        Place::Page(File::Page) => varying(page::answer(File::Page, request.headers())),
        Place::Page(file) => page::answer(file, request.headers()),
        Place::Metrics => match shared.scrapes.try_acquire() {
            Ok(_place) => metrics(shared).await,
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many requests for metrics wait; ask again"),
        },
        Place::Health => text(StatusCode::OK, "live"),
        Place::Ready => ready(&shared.parts).await,
        Place::Status => varying(match names(request.headers(), &header::ACCEPT, Framing::EventStream.media_type()) {
            // A stream ends when its client is gone, which for HEAD is never.
            true if request.method() == Method::HEAD => stream(Some(body_of_head())),
            true => stream(shared.feed.open()),
            false => match status(shared).await {
                Ok(status) => ([(header::CONTENT_TYPE, JSON)], status).into_response(),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
            },
        }),
        Place::Logs => match shared.reads.try_acquire() {
            Ok(_place) => unsniffed(shared.parts.log_pages.respond(request).await),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many requests for events wait; ask again"),
        },
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn stream(body: Option<Body>) -> Response {
    match body {
        Some(body) => {
            let mut response = Response::new(body);
            Framing::EventStream.describe(response.headers_mut());
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        None => text(StatusCode::SERVICE_UNAVAILABLE, "too many read the status already; close a page and try again"),
    }
}

/// The status as JSON.
async fn status(shared: &Arc<Shared>) -> Result<Vec<u8>, String> {
    let permit = Arc::clone(&shared.renderings).acquire_owned().await;
    let rendered = tokio::task::spawn_blocking({
        let shared = Arc::clone(shared);
        move || {
            // It goes with the work: on a disk that hangs, that does not end when its client leaves.
            let _permit = permit;
            serde_json::to_vec(&Status::of(&shared.parts, &shared.disks, shared.started))
        }
    });
    rendered.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// The message sent instead of a status that cannot be rendered.
fn failure(error: &str) -> Vec<u8> {
    serde_json::json!({ "error": error }).to_string().into_bytes()
}

/// For what has several forms.
fn varying(mut response: Response) -> Response {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Forbids content sniffing: events hold text of other parties, which a browser must treat as JSON only.
fn unsniffed(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn metrics(shared: &Arc<Shared>) -> Response {
    let turn = shared.limits.turn(None).await;
    let collected = tokio::task::spawn_blocking({
        let shared = Arc::clone(shared);
        move || {
            // As a permit for the status.
            let _turn = turn;
            metrics::text(&shared.parts)
        }
    });
    match collected.await {
        Ok(metrics) => text(StatusCode::OK, metrics),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn ready(parts: &Parts) -> Response {
    if let Some(database) = &parts.database {
        database.is_answering().await;
    }
    match why_not_ready(parts) {
        // History that is lost makes nothing else useless: supervisors must not restart the process for it.
        None => match lost_events(parts) {
            Some(lost) => text(StatusCode::OK, format!("ready; {lost}; see `sidecar-log verify`")),
            None => text(StatusCode::OK, "ready"),
        },
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}")),
    }
}

fn text(status: StatusCode, body: impl Into<Cow<'static, str>>) -> Response {
    let mut response = (status, body.into()).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    use super::*;
    use crate::admin::Logged;
    use crate::engine::failing_reads::log_of_blocks;
    use crate::engine::http::ListenOptions;
    use crate::engine::ingest::LiveLog;
    use crate::engine::stream::{Hub, Resources};
    use crate::engine::testing::options;

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    #[test]
    fn every_file_of_the_page_is_open_to_a_browser_that_has_no_token_yet() {
        assert!(page::PATHS.iter().all(|(path, _)| OPEN_PATHS.contains(path)));
        assert_eq!(OPEN_PATHS.len(), page::PATHS.len() + 1, "and nothing else is, but for the health");
    }

    #[tokio::test]
    async fn what_is_given_up_while_the_disk_hangs_keeps_its_turn_so_that_threads_do_not_pile_up() {
        let folder = tempfile::tempdir().unwrap();
        let (live, _run) = LiveLog::open(options(&folder.path().join("live"))).unwrap();
        let (log, reads) = log_of_blocks(&folder.path().join("hanging"), &[100]);
        let (_committed, head) = watch::channel(log.head());
        let hub = Hub::new(log.clone(), head, Arc::new(Resources::new(1)), &[]);
        let logged = Logged { log, ..Logged::of("notes", &live, hub.counters(), &Arc::default()) };
        let parts = Parts { logs: vec![logged], ..Parts::default() };
        let shared = Arc::new(Shared::new(parts, Limits::new(1, 1000)));
        drop(shared.limits.turn(None).await);

        let hanging = reads.hang();
        assert!(metrics(&shared).now_or_never().is_none());
        assert!(shared.limits.turn(None).now_or_never().is_none());
        assert!((0..2 * RENDERINGS_MAX).all(|_| status(&shared).now_or_never().is_none()));
        assert_eq!(shared.renderings.available_permits(), 0);
        drop(hanging);
        assert_eq!(metrics(&shared).await.status(), StatusCode::OK);
        assert!(status(&shared).await.is_ok());
    }

    #[tokio::test]
    async fn the_health_is_answered_while_more_scrapes_wait_than_there_are_connections() {
        let listen = ListenOptions::on(Ipv4Addr::LOCALHOST);
        let options = AdminOptions { port: 0, listen, max_concurrent_requests: 1, max_requests_per_second: 1 };
        let server = Server::bind(&options).unwrap();
        let address = server.front().local_addr();
        tokio::spawn(server.run(Parts::default(), std::future::pending()));
        let mut scrapes = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            scrapes.push(ask(address, "/metrics").await);
        }
        let mut answer = String::new();
        let mut health = ask(address, "/health").await;
        let read = tokio::time::timeout(Duration::from_secs(20), health.read_to_string(&mut answer));
        read.await.expect("in time").unwrap();
        assert!(answer.ends_with("live"), "{answer}");
    }
}
