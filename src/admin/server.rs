//! HTTP: what the reference answers, two questions of process supervisors beside it, and a look at the parts for people.
//!
//! `/health` is answered as soon as the process serves. `/ready` is answered once look-ups see what is stored and events are
//! being stored, or while the database that look-ups go to answers, and while the node of the JSON-RPC servers is there.
//! Neither waits in the line of `/metrics`, which does not take all connections, so that a slow
//! scrape does not look like a dead process. `/health` is open to clients without a token.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use tokio::sync::Semaphore;

use super::status::Status;
use super::{AdminOptions, Logged, Parts, Role, metrics};
use crate::casper::rpc::{self, LinkState};
use crate::engine::http::{
    BindError,
    cors::{Origins, let_pages_read},
    front::Front,
    limits::FrontLimits,
    turns::Limits,
};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Requests for metrics at a time, those in line included. The other connections are left to supervisors.
const SCRAPES_MAX: usize = CONNECTIONS_MAX - 8;
/// Look-ups that are this many events behind wait for them when they are asked; further behind, they cannot tell.
const READY_LAG_EVENTS_MAX: u64 = 100_000;

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
        let (front, origins) = (front.with_open_path("/health"), options.listen.origins.clone());
        let limits = Limits::new(options.max_concurrent_requests, options.max_requests_per_second);
        Ok(Server { front, origins, limits })
    }

    /// Where it listens; at the first of its addresses, where it has several.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.front.local_addr()
    }

    /// Everywhere that it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.front.addresses()
    }

    /// Shows `parts` until `cancel` is done; then every connection is cut.
    pub async fn run(self, mut parts: Parts, cancel: impl Future<Output = ()>) {
        parts.fronts.push(("admin", Arc::clone(self.front.counters())));
        let shared = Arc::new(Shared { parts, limits: self.limits, scrapes: Semaphore::new(SCRAPES_MAX) });
        let cors = middleware::from_fn_with_state(self.origins, let_pages_read);
        let router = Router::new().fallback(respond).with_state(shared).layer(cors);
        self.front.serve(router, cancel).await;
    }
}

/// The paths that exist, for people with a browser.
const INDEX: &str = "Sidecar's admin server: /health, /ready, /status (JSON), /metrics (Prometheus)\n";
/// Methods that every path takes.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
/// Seconds after which a request that was refused for the moment may be made again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The paths that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Index,
    Metrics,
    Health,
    Ready,
    Status,
}

impl Place {
    fn at(path: &str) -> Option<Place> {
        if path == "/" {
            return Some(Place::Index);
        }
        match path.strip_suffix('/').unwrap_or(path) {
            "/metrics" => Some(Place::Metrics),
            "/health" => Some(Place::Health),
            "/ready" => Some(Place::Ready),
            "/status" => Some(Place::Status),
            _ => None,
        }
    }
}

async fn respond(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let Some(place) = Place::at(request.uri.path()) else { return empty(StatusCode::NOT_FOUND) };
    match request.method {
        // HTTP leaves the body out for HEAD.
        Method::GET | Method::HEAD => answer(&shared, place).await,
        Method::OPTIONS => allowed(empty(StatusCode::NO_CONTENT)),
        _ => allowed(text(StatusCode::METHOD_NOT_ALLOWED, "HTTP method not allowed")),
    }
}

async fn answer(shared: &Arc<Shared>, place: Place) -> Response {
    match place {
        Place::Index => text(StatusCode::OK, INDEX),
        Place::Metrics => match shared.scrapes.try_acquire() {
            Ok(_place) => metrics(shared).await,
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many requests for metrics wait; ask again"),
        },
        Place::Health => text(StatusCode::OK, "live"),
        Place::Ready => ready(&shared.parts).await,
        Place::Status => status(&shared.parts),
    }
}

fn status(parts: &Parts) -> Response {
    match serde_json::to_vec(&Status::of(parts)) {
        Ok(status) => {
            let mut response = Response::new(Body::from(status));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn allowed(mut response: Response) -> Response {
    response.headers_mut().insert(header::ALLOW, METHODS);
    response
}

async fn metrics(shared: &Arc<Shared>) -> Response {
    let _turn = shared.limits.turn(None).await;
    let collected = tokio::task::spawn_blocking({
        let shared = Arc::clone(shared);
        move || metrics::text(&shared.parts)
    });
    match collected.await {
        Ok(metrics) => text(StatusCode::OK, metrics),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn ready(parts: &Parts) -> Response {
    let no_look_ups = parts.logs.iter().find_map(unready);
    let not_ready = match &parts.database {
        Some(database) if !database.is_answering().await => Some("the database does not answer".to_owned()),
        _ => no_look_ups.or_else(|| parts.rpc.as_ref().and_then(lost_node)),
    };
    match not_ready {
        // History that is lost makes nothing else useless: supervisors must not restart the process for it.
        None => match parts.logs.iter().find_map(lost_events) {
            Some(lost) => text(StatusCode::OK, format!("ready; {lost}; see `sidecar-log verify`")),
            None => text(StatusCode::OK, "ready"),
        },
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}")),
    }
}

/// Why not everything works around a log.
fn unready(logged: &Logged) -> Option<String> {
    let why = stopped_ingest(logged).or_else(|| closed_views(logged)).or_else(|| late_view(logged))?;
    Some(format!("log {}: {why}", logged.name))
}

fn lost_events(logged: &Logged) -> Option<String> {
    Some(format!("log {}: {}", logged.name, logged.log.losses().summary()?))
}

fn stopped_ingest(logged: &Logged) -> Option<String> {
    let why = logged.ingest.stopped.reason()?;
    Some(format!("nothing is stored, what is stored is served: {why}"))
}

fn lost_node(rpc: &rpc::Watch) -> Option<String> {
    let state = match rpc.link.state() {
        LinkState::Connected => return None,
        LinkState::Connecting => "is being connected to",
        LinkState::Away => "cannot be reached",
    };
    Some(format!("the node's binary port {} {state}", rpc.link.node()))
}

fn closed_views(logged: &Logged) -> Option<String> {
    let why = logged.views.as_ref()?.closed()?;
    Some(format!("the views are not open: {why}"))
}

fn late_view(logged: &Logged) -> Option<String> {
    let mut views = logged.followers.iter().filter(|follower| follower.role == Role::View);
    views.find_map(|view| {
        let behind = view.lag(&logged.log);
        let is_late = behind > READY_LAG_EVENTS_MAX;
        is_late.then(|| format!("the view {} is {behind} events behind the log", view.name))
    })
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::engine::http::ListenOptions;

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn the_health_is_answered_while_more_scrapes_wait_than_there_are_connections() {
        let listen = ListenOptions::on(Ipv4Addr::LOCALHOST);
        let options = AdminOptions { port: 0, listen, max_concurrent_requests: 1, max_requests_per_second: 1 };
        let server = Server::bind(&options).unwrap();
        let address = server.local_addr();
        let parts = Parts { logs: Vec::new(), rest: None, database: None, rpc: None, grpc: None, fronts: Vec::new() };
        tokio::spawn(server.run(parts, std::future::pending()));
        let mut scrapes = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            scrapes.push(ask(address, "/metrics").await);
        }
        let mut answer = String::new();
        let mut health = ask(address, "/health").await;
        let told = tokio::time::timeout(Duration::from_secs(20), health.read_to_string(&mut answer));
        told.await.expect("in time").unwrap();
        assert!(answer.ends_with("live"), "{answer}");
    }
}
