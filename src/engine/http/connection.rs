//! One connection from its place to its end: its requests go to the router, and the patience with it is limited.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, body::Body};
use futures_util::FutureExt;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tower::ServiceExt;

use super::{
    access::{AccessLine, Client},
    activity::{Activity, Busy},
    body::Observed,
    counters::FrontCounters,
    limits::FrontLimits,
    mistake::Asked,
    places::{Admitted, Places},
};

/// Grace period before a new connection counts as idle (only where connections wait for places).
const NEW_TIME: Duration = Duration::from_secs(1);
/// How long a displaced connection has for what is still on its way.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams that one HTTP/2 connection may hold open.
const HTTP2_STREAMS_MAX: u32 = 32;
/// How often an HTTP/2 peer is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// What an HTTP/2 peer may send before somebody reads it: requests here have no bodies to speak of.
const HTTP2_WINDOW_BYTES: u32 = 64 << 10;
/// How often a connection is looked at while its time-outs run.
const CHECKS_PER_TIMEOUT: u32 = 4;

/// One connection, from its first byte to its end.
pub(super) struct Connection {
    pub(super) client: SocketAddr,
    pub(super) router: Router,
    pub(super) limits: FrontLimits,
    pub(super) counters: Arc<FrontCounters>,
    pub(super) places: Arc<Places>,
    pub(super) activity: Arc<Activity>,
}

/// What a connection holds of its front.
pub(super) struct Admission {
    /// Not there yet while a displaced connection leaves it.
    pub(super) place: Option<OwnedSemaphorePermit>,
    /// Held until it has its place.
    pub(super) entrance: Option<OwnedSemaphorePermit>,
    pub(super) _client: Admitted,
}

impl Connection {
    /// Sets what the system is to do for the connection.
    pub(super) fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        // A live event leaves at once.
        stream.set_nodelay(true)?;
        Ok(limit_stall(stream, self.limits.write_stall_timeout)?)
    }

    /// Waits for the place, then serves what `opening` makes of the socket: the socket itself, or TLS on it.
    pub(super) async fn run<S>(self, admission: Admission, opening: impl Future<Output = io::Result<S>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Admission { place, entrance, _client } = admission;
        let place = match place {
            Some(place) => Some(place),
            // A displaced connection leaves its place in a moment.
            None => self.places.take().await,
        };
        drop(entrance);
        if let Some(_place) = place {
            self.serve(opening).await;
        }
    }

    async fn serve<S>(self, opening: impl Future<Output = io::Result<S>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _count = ConnectionCount::new(&self.counters);
        let mut watch = pin!(self.watch());
        let stream = tokio::select! {
            biased;
            opened = opening => match opened {
                Ok(stream) => stream,
                Err(error) => {
                    // One that only looks whether somebody listens has not failed.
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        self.counters.handshakes_failed.add(1);
                    }
                    tracing::debug!(client = %self.client, %error, "TLS handshake failed");
                    return;
                }
            },
            () = &mut watch => return,
            () = self.activity.displaced.notified() => {
                self.counters.displaced.add(1);
                return;
            }
        };
        let (router, activity, counters) = (&self.router, &self.activity, &self.counters);
        let service = service_fn(|request: Request<Incoming>| {
            let (router, busy) = (router.clone(), Busy::begin(activity, request.version()));
            let (limits, access) = (self.limits, AccessLine::begin(self.client, &request));
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Client(self.client));
            let (counters, asked) = (Arc::clone(counters), Asked::of(&request, self.client));
            async move {
                // A mistake in one request's handler must not end the others of its connection.
                let answered = AssertUnwindSafe(router.oneshot(request)).catch_unwind().await;
                let response = answered.unwrap_or_else(|panic| Ok(asked.failed(&*panic)))?;
                counters.refused_requests.note(response.status());
                let access = access.map(|line| line.with_status(response.status()));
                Ok::<_, Infallible>(response.map(|body| Observed::new(body, busy, &limits, access)))
            }
        });
        let builder = self.builder();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = &mut watch => return,
            () = self.activity.displaced.notified() => {}
        }
        self.counters.displaced.add(1);
        // The end of an answer may still be on its way, or one more request.
        if self.limits.waits_for_places
            && self.activity.has_asked.load(Ordering::Relaxed)
            && let Some(_leave) = self.places.may_finish()
        {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                _ = &mut connection => {}
                () = &mut watch => {}
                () = self.lasts(LEAVING_TIMEOUT, |activity| !activity.is_busy()) => {}
            }
        }
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let limits = &self.limits;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            // It would run while the connection is idle, too; see `watch`.
            .header_read_timeout(None)
            .writev(limits.http1_vectored)
            .max_buf_size(limits.http1_buffer_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(limits.http2_buffer_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(limits.http2_buffer_bytes);
        builder
    }

    /// Ends when the connection has used up the patience that there is with it.
    async fn watch(&self) {
        let FrontLimits { header_timeout, idle_timeout, write_stall_timeout, .. } = self.limits;
        let new_time = if self.limits.waits_for_places { header_timeout.min(NEW_TIME) } else { Duration::ZERO };
        let is_asked_late = async {
            tokio::time::sleep(new_time).await;
            self.activity.settle();
            tokio::time::sleep(header_timeout.saturating_sub(new_time)).await;
            if self.activity.has_asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let is_idle = self.lasts(idle_timeout, |activity| {
            let has_been_busy = activity.has_been_busy.swap(false, Ordering::Relaxed);
            !has_been_busy && !activity.is_busy()
        });
        let is_stalled = self.lasts(write_stall_timeout, |activity| {
            let has_moved = activity.has_moved.swap(false, Ordering::Relaxed);
            let is_sending = activity.sending.load(Ordering::Relaxed) > 0;
            // Of an HTTP/1.1 client the system knows better whether it takes anything: its buffers are large.
            activity.is_http2.load(Ordering::Relaxed) && is_sending && !has_moved
        });
        tokio::select! {
            () = is_asked_late => self.counters.idled_out.add(1),
            () = is_idle => self.counters.idled_out.add(1),
            () = is_stalled => self.counters.stalled.add(1),
            () = self.activity.overdue.notified() => self.counters.stalled.add(1),
        }
    }

    /// Ends once `holds` was true at every look for `duration`.
    async fn lasts(&self, duration: Duration, holds: impl Fn(&Activity) -> bool) {
        let mut looks = 0;
        while looks < CHECKS_PER_TIMEOUT {
            tokio::time::sleep(duration / CHECKS_PER_TIMEOUT).await;
            looks = if holds(&self.activity) { looks + 1 } else { 0 };
        }
    }
}

/// Has the system cut the connection when the other side acknowledges nothing, or has no room for more, for so long. It
/// counts from the last byte that the other side took, whatever still waits in buffers in between.
#[cfg(target_os = "linux")]
fn limit_stall(stream: &TcpStream, timeout: Duration) -> rustix::io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds)
}

/// Elsewhere the system's own time limit for a connection counts.
#[cfg(not(target_os = "linux"))]
fn limit_stall(_stream: &TcpStream, _timeout: Duration) -> rustix::io::Result<()> {
    Ok(())
}

struct ConnectionCount(Arc<FrontCounters>);

impl ConnectionCount {
    fn new(counters: &Arc<FrontCounters>) -> Self {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(counters))
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
