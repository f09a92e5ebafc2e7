//! HTTP for a bounded number of clients: what the REST and the admin server share.
//!
//! Owns a listening socket and its connections. A router flows in; requests, HTTP/1.1 or HTTP/2, flow to it. Nobody is
//! refused: connections beyond the limit wait to be accepted, and requests beyond [`Limits`] wait in line. Nobody waits
//! for ever either: a client must send and read at a pace, or its connection is closed.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// Connections that the system holds ready to be accepted.
const BACKLOG: u32 = 1024;
/// The rest before the next try when no connection can be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a connection may take to send the head of its next request.
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a client may leave its answer unread.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Requests that one HTTP/2 connection may have open.
const HTTP2_STREAMS_MAX: u32 = 32;
/// How often an HTTP/2 peer is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", advice(source))]
pub struct BindError {
    /// Address and port.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; stop the program that has it, or set another `port`",
        _ => "set another `port`",
    }
}

/// A bound port.
pub struct Listener {
    listener: TcpListener,
    local_address: SocketAddr,
}

impl Listener {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address.
    pub fn bind(address: SocketAddr) -> Result<Listener, BindError> {
        listen(address).map_err(|source| BindError { address, source })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_address
    }

    /// Serves up to `connections_max` connections at a time until `cancel` is done; then all are cut.
    pub async fn serve(self, router: Router, connections_max: usize, cancel: impl Future<Output = ()>) {
        let room = Arc::new(Semaphore::new(connections_max));
        let mut cancel = pin!(cancel);
        // Dropped with it: the connections.
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut cancel => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.accept(&room) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    connections.spawn(serve_connection(stream, router.clone(), permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self, room: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, permit))
    }
}

fn listen(address: SocketAddr) -> io::Result<Listener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the last connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let local_address = listener.local_addr()?;
    Ok(Listener { listener, local_address })
}

async fn serve_connection(stream: TcpStream, router: Router, _permit: OwnedSemaphorePermit) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL_TIME_MAX));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    // The time-out above begins once it is clear which HTTP is spoken; a client may not take its time before that either.
    let has_asked = AtomicBool::new(false);
    let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        router.clone().oneshot(request.map(Body::new))
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tokio::time::sleep(HEADER_TIME_MAX) => {
            if !has_asked.load(Ordering::Relaxed) {
                return;
            }
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// CORS as the reference has it: any origin may read, and no preflight succeeds.
pub async fn allow_any_origin(request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    if request.method() == Method::OPTIONS {
        let mut response = Response::new(Body::from("CORS request forbidden: request-method not allowed"));
        *response.status_mut() = StatusCode::FORBIDDEN;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        return response;
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response
}

/// How many requests are worked on at once, and how many are begun in a second. What exceeds either waits in line; one
/// that goes away while it waits takes nobody's turn.
#[derive(Debug)]
pub struct Limits {
    at_once: Semaphore,
    per_second: u32,
    second: Mutex<Second>,
}

/// What is left of the present second.
#[derive(Debug)]
struct Second {
    ends: Instant,
    left: u32,
}

impl Limits {
    /// Both are at least 1.
    #[must_use]
    pub fn new(at_once: u32, per_second: u32) -> Self {
        let at_once = usize::try_from(at_once).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let per_second = per_second.max(1);
        Limits {
            at_once: Semaphore::new(at_once),
            per_second,
            second: Mutex::new(Second { ends: Instant::now(), left: 0 }),
        }
    }

    /// Waits until a request may begin; it is worked on for as long as it keeps what it gets here.
    pub async fn turn(&self) -> Turn<'_> {
        let permit = self.at_once.acquire().await.ok();
        // The line: its first waits for the next second while it holds this.
        let mut second = self.second.lock().await;
        if second.left == 0 {
            tokio::time::sleep_until(second.ends).await;
        }
        let now = Instant::now();
        if second.left == 0 || now >= second.ends {
            *second = Second { ends: now + Duration::from_secs(1), left: self.per_second };
        }
        second.left -= 1;
        Turn { _permit: permit }
    }
}

/// A request's turn.
#[derive(Debug)]
pub struct Turn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_rate_wait_for_the_next_second() {
        let limits = Limits::new(100, 2);
        let start = Instant::now();
        let mut begun = Vec::new();
        for _ in 0..5 {
            limits.turn().await;
            begun.push(start.elapsed().as_secs());
        }
        assert_eq!(begun, [0, 0, 1, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_beyond_the_number_at_once_waits_until_one_ends() {
        let limits = Arc::new(Limits::new(1, 1000));
        let first = limits.turn().await;
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move {
                limits.turn().await;
            }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_waiting_takes_no_turn() {
        let limits = Limits::new(100, 1);
        limits.turn().await;
        for _ in 0..50 {
            assert!(tokio::time::timeout(Duration::from_millis(1), limits.turn()).await.is_err());
        }
        let start = Instant::now();
        limits.turn().await;
        assert!(start.elapsed() <= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr();
        let Err(error) = Listener::bind(address) else { panic!("taken twice") };
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
