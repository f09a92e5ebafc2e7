//! The HTTP front: connections from the moment they are accepted to their end, each within limits.
//!
//! Owns a listening socket and every connection on it; requests flow to the router that a server hands in. Clients may
//! come ten thousand at a time and idle, dawdle over a request's head, ask for more than fits, or stop reading: that costs
//! them their own connection and nobody else's. What a request means, and how many may be answered at a time, is the
//! server's business.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use http_body::{Frame, SizeHint};
use hyper::{Request, Version, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tower::ServiceExt;

use super::BindError;

/// Connections that the system holds ready to be accepted.
const BACKLOG: u32 = 1024;
/// The rest before the next try when no connection can be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a new connection is not idle yet, where others wait for places.
const NEW_TIME: Duration = Duration::from_secs(1);
/// How long a connection that gives up its place has for what is still on its way.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams that one HTTP/2 connection may hold open.
const HTTP2_STREAMS_MAX: u32 = 32;
/// How often an HTTP/2 peer is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// What an HTTP/2 peer may send before somebody reads it: requests here have no bodies to speak of.
const HTTP2_WINDOW_BYTES: u32 = 64 << 10;
/// What a client takes at least of a large answer, per second.
pub const BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// How often a connection is looked at while its time-outs run.
const CHECKS_PER_TIMEOUT: u32 = 4;

/// What the clients of one server may take.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Open connections. One more takes the place of the connection that has been idle for longest.
    pub connections_max: usize,
    /// Whether further connections wait, with the system, while all are busy, and a new one keeps its place until it has had
    /// time to ask. Without, the newest is closed at once, as where nobody knows whether the others ever end.
    pub waits_for_places: bool,
    /// How long the head of the first request may take, from the connection's start on.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request; one counts once its head is complete.
    pub idle_timeout: Duration,
    /// How long a client may leave what it is sent untouched. A slow one that takes a little now and then is not cut for it.
    pub write_stall_timeout: Duration,
    /// Bytes per second that a client takes at least of a body that has an end and does not fit into the buffers, once the
    /// write-stall timeout has passed: what it leaves is kept in memory. At least 1.
    pub bytes_per_second_min: u64,
    /// Bytes of HTTP/1.1's buffer: of the head of a request, and of what is written at a time. At least 8192.
    pub http1_buffer_bytes: usize,
    /// Bytes of an HTTP/2 stream that wait to be sent, and of the head of a request.
    pub http2_buffer_bytes: usize,
    /// Whether HTTP/1.1 keeps the pieces of a body until they are taken, and writes them from where they are. Without, it
    /// copies each into its buffer at once: then many small chunks leave in one write, and no piece is held.
    pub http1_vectored: bool,
}

impl FrontLimits {
    /// For a server of short answers.
    #[must_use]
    pub fn of_answers(connections_max: usize) -> Self {
        FrontLimits {
            connections_max,
            waits_for_places: true,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
            write_stall_timeout: Duration::from_secs(30),
            bytes_per_second_min: BYTES_PER_SECOND_MIN,
            http1_buffer_bytes: 64 << 10,
            http2_buffer_bytes: 64 << 10,
            http1_vectored: true,
        }
    }

    /// How long a body may be on its way, if that is limited.
    fn for_body(&self, body: &Body) -> Option<Duration> {
        let bytes = http_body::Body::size_hint(body).exact()?;
        let is_large = bytes > self.http1_buffer_bytes.max(self.http2_buffer_bytes) as u64;
        is_large.then(|| self.write_stall_timeout + Duration::from_secs(bytes / self.bytes_per_second_min.max(1)))
    }
}

/// What happened at a front, for metrics.
#[derive(Debug, Default)]
pub struct FrontCounters {
    /// Open connections.
    pub connections: AtomicUsize,
    /// Connections ever accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once because all others were busy.
    pub refused: AtomicU64,
    /// Idle connections closed to make room for others.
    pub displaced: AtomicU64,
    /// Connections closed because they asked for nothing in time.
    pub idled_out: AtomicU64,
    /// Connections closed because the client took an answer too slowly, or in HTTP/2 nothing in time; of HTTP/1.1 the system
    /// closes those that take nothing.
    pub stalled: AtomicU64,
}

/// A bound front.
pub struct Front {
    listener: TcpListener,
    local_address: SocketAddr,
    limits: FrontLimits,
    counters: Arc<FrontCounters>,
}

impl Front {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address.
    pub fn bind(address: SocketAddr, limits: FrontLimits, counters: Arc<FrontCounters>) -> Result<Front, BindError> {
        let listener = listen(address).map_err(|source| BindError { address, source })?;
        let local_address = listener.local_addr().map_err(|source| BindError { address, source })?;
        Ok(Front { listener, local_address, limits, counters })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_address
    }

    /// Hands requests to `router` until `cancel` is done; then every connection is cut, without a message.
    pub async fn serve(self, router: Router, cancel: impl Future<Output = ()>) {
        let room = Arc::new(Semaphore::new(self.limits.connections_max));
        let idle = Arc::new(IdleConnections::default());
        let mut cancel = pin!(cancel);
        // Dropped with it: the connections.
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut cancel => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.counters.accepted.fetch_add(1, Ordering::Relaxed);
            let waits = self.limits.waits_for_places;
            let mut place = Arc::clone(&room).try_acquire_owned().ok();
            if place.is_none() && !idle.displace_longest(waits) {
                if !waits {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                // The others wait with the system until this one has a place.
                place = tokio::select! {
                    () = &mut cancel => return,
                    place = Arc::clone(&room).acquire_owned() => place.ok(),
                };
                idle.displace_no_more();
            }
            let connection = Connection {
                router: router.clone(),
                limits: self.limits,
                counters: Arc::clone(&self.counters),
                activity: Arc::new(Activity::new(Arc::clone(&idle), waits)),
            };
            let room = Arc::clone(&room);
            connections.spawn(async move {
                // Whoever was displaced leaves its place in a moment.
                let place = match place {
                    Some(place) => Ok(place),
                    None => room.acquire_owned().await,
                };
                if let Ok(place) = place {
                    connection.serve(stream, place).await;
                }
            });
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the last connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// One connection, from its first byte to its end.
struct Connection {
    router: Router,
    limits: FrontLimits,
    counters: Arc<FrontCounters>,
    activity: Arc<Activity>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let _count = ConnectionCount::new(&self.counters);
        // A live event leaves at once.
        if stream.set_nodelay(true).is_err() || limit_stall(&stream, self.limits.write_stall_timeout).is_err() {
            return;
        }
        let (router, activity) = (&self.router, &self.activity);
        let service = service_fn(|request: Request<Incoming>| {
            let (router, busy) = (router.clone(), Busy::begin(activity, request.version()));
            let limits = self.limits;
            async move {
                let response = router.oneshot(request.map(Body::new)).await?;
                Ok::<_, Infallible>(response.map(|body| Observed::new(body, busy, &limits)))
            }
        });
        let builder = self.builder();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut watch = pin!(self.watch());
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
        self.counters.displaced.fetch_add(1, Ordering::Relaxed);
        // The end of an answer may still be on its way, or one more request.
        if self.limits.waits_for_places && self.activity.has_asked.load(Ordering::Relaxed) {
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
            self.activity.is_new_no_more();
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
        let counted = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        tokio::select! {
            () = is_asked_late => counted(&self.counters.idled_out),
            () = is_idle => counted(&self.counters.idled_out),
            () = is_stalled => counted(&self.counters.stalled),
            () = self.activity.overdue.notified() => counted(&self.counters.stalled),
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
fn limit_stall(stream: &TcpStream, timeout: Duration) -> rustix::io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds)
}

/// What is going on in a connection.
struct Activity {
    standing: Mutex<Standing>,
    is_http2: AtomicBool,
    has_asked: AtomicBool,
    /// A request was begun since the last look.
    has_been_busy: AtomicBool,
    /// Bodies with something for the client to take. Others are quiet, or not begun while their requests wait their turns.
    sending: AtomicUsize,
    /// Some body began, or was asked for more, since the last look: the client has taken what came before.
    has_moved: AtomicBool,
    /// A body has been on its way for too long.
    overdue: Arc<Notify>,
    /// Somebody else needs the place.
    displaced: Arc<Notify>,
    idle: Arc<IdleConnections>,
}

/// Whether a connection could be missed.
#[derive(Clone, Copy)]
enum Standing {
    /// Its first request may be here already.
    New,
    /// Requests that are being answered, the bodies of their responses included.
    Busy(usize),
    /// Its number among the idle ones.
    Idle(u64),
}

impl Activity {
    fn new(idle: Arc<IdleConnections>, is_new: bool) -> Self {
        let displaced = Arc::new(Notify::new());
        let standing = if is_new { Standing::New } else { Standing::Idle(idle.enter(&displaced)) };
        Activity {
            standing: Mutex::new(standing),
            is_http2: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            has_been_busy: AtomicBool::new(false),
            sending: AtomicUsize::new(0),
            has_moved: AtomicBool::new(false),
            overdue: Arc::default(),
            displaced,
            idle,
        }
    }

    fn is_new_no_more(&self) {
        let mut standing = self.standing();
        if let Standing::New = *standing {
            *standing = Standing::Idle(self.idle.enter(&self.displaced));
        }
    }

    fn is_busy(&self) -> bool {
        matches!(*self.standing(), Standing::Busy(_))
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Standing::Idle(number) = *self.standing() {
            self.idle.leave(number);
        }
    }
}

/// A request from its head to the end of its response's body.
struct Busy(Arc<Activity>);

impl Busy {
    fn begin(activity: &Arc<Activity>, version: Version) -> Self {
        let mut standing = activity.standing();
        *standing = match *standing {
            Standing::New => Standing::Busy(1),
            Standing::Busy(requests) => Standing::Busy(requests + 1),
            Standing::Idle(number) => {
                activity.idle.leave(number);
                Standing::Busy(1)
            }
        };
        activity.is_http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        activity.has_asked.store(true, Ordering::Relaxed);
        activity.has_been_busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut standing = self.0.standing();
        *standing = match *standing {
            Standing::Busy(requests) if requests > 1 => Standing::Busy(requests - 1),
            Standing::Busy(_) => Standing::Idle(self.0.idle.enter(&self.0.displaced)),
            other => other,
        };
    }
}

/// A response's body that tells when it is asked for more.
struct Observed {
    body: Body,
    busy: Busy,
    /// Whether there was something for the client when the body was last asked.
    is_sending: bool,
    /// Tells when it has been on its way for too long.
    _time_limit: Option<JoinSet<()>>,
}

impl Observed {
    fn new(body: Body, busy: Busy, limits: &FrontLimits) -> Self {
        let time_limit = limits.for_body(&body).map(|limit| {
            let overdue = Arc::clone(&busy.0.overdue);
            let mut task = JoinSet::new();
            task.spawn(async move {
                tokio::time::sleep(limit).await;
                overdue.notify_one();
            });
            task
        });
        let is_sending = !http_body::Body::is_end_stream(&body);
        let mut observed = Observed { body, busy, is_sending: false, _time_limit: time_limit };
        observed.note_move(is_sending);
        observed
    }

    fn note_move(&mut self, is_sending: bool) {
        let activity = &self.busy.0;
        activity.has_moved.store(true, Ordering::Relaxed);
        match (self.is_sending, is_sending) {
            (false, true) => _ = activity.sending.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = activity.sending.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.is_sending = is_sending;
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.note_move(false);
    }
}

impl http_body::Body for Observed {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.note_move(matches!(polled, Poll::Ready(Some(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The connections without a request, in the order in which they fell idle.
#[derive(Default)]
struct IdleConnections(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next_number: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
    /// Somebody needs the place of the next one.
    is_next_displaced: bool,
}

impl IdleConnections {
    fn enter(&self, displaced: &Arc<Notify>) -> u64 {
        let mut queue = self.queue();
        let number = queue.next_number;
        queue.next_number += 1;
        if std::mem::take(&mut queue.is_next_displaced) {
            displaced.notify_one();
        } else {
            queue.waiting.insert(number, Arc::clone(displaced));
        }
        number
    }

    fn leave(&self, number: u64) {
        self.queue().waiting.remove(&number);
    }

    /// Has the one that has been idle for longest give up its place; `false` where none is idle. Then it may be the next one
    /// that falls idle, until [`displace_no_more`](Self::displace_no_more).
    fn displace_longest(&self, or_next: bool) -> bool {
        let mut queue = self.queue();
        let longest = queue.waiting.pop_first();
        queue.is_next_displaced = or_next && longest.is_none();
        longest.map(|(_, displaced)| displaced.notify_one()).is_some()
    }

    fn displace_no_more(&self) {
        self.queue().is_next_displaced = false;
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::{BodyExt, Empty};
    use hyper::client::conn::http2;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Running {
        address: SocketAddr,
        counters: Arc<FrontCounters>,
        _cancel: oneshot::Sender<()>,
    }

    impl Running {
        /// Answers `/` at once, `/late` after 600 ms, `/large` with 64 MiB, `/endless` for ever, and `/quiet` with a body that
        /// never comes.
        fn start(change: impl FnOnce(&mut FrontLimits)) -> Running {
            let mut limits = FrontLimits {
                connections_max: 10,
                waits_for_places: false,
                header_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                write_stall_timeout: PATIENCE,
                bytes_per_second_min: BYTES_PER_SECOND_MIN,
                http1_buffer_bytes: 8 << 10,
                http2_buffer_bytes: 8 << 10,
                http1_vectored: false,
            };
            change(&mut limits);
            let counters = Arc::new(FrontCounters::default());
            let front = Front::bind((Ipv4Addr::LOCALHOST, 0).into(), limits, Arc::clone(&counters)).unwrap();
            let address = front.local_addr();
            let piece = || Ok::<_, Infallible>(Bytes::from(vec![b'x'; 4096]));
            let router = Router::new()
                .route("/", get(|| async { "here" }))
                .route("/late", get(|| async { tokio::time::sleep(Duration::from_millis(600)).await }))
                .route("/large", get(|| async { Body::new(Large { left: LARGE_BYTES }) }))
                .route("/endless", get(move || async move { Body::from_stream(stream::repeat_with(piece)) }))
                .route("/quiet", get(|| async { Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()) }));
            let (cancel, cancelled) = oneshot::channel::<()>();
            tokio::spawn(front.serve(router, async { cancelled.await.unwrap_or_default() }));
            Running { address, counters, _cancel: cancel }
        }

        /// A connection that has sent these bytes.
        async fn send(&self, bytes: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream
        }

        /// The same for a request, and the head of its answer has begun to come.
        async fn ask(&self, path: &str) -> TcpStream {
            let mut stream = self.send(request(path).as_bytes()).await;
            read_until(&mut stream, "HTTP/1.1 200 OK").await;
            stream
        }

        async fn wait_for(&self, reached: impl Fn(&FrontCounters) -> bool) {
            let waiting = async {
                while !reached(&self.counters) {
                    tokio::task::yield_now().await;
                }
            };
            assert!(timeout(PATIENCE, waiting).await.is_ok(), "{:?}", self.counters);
        }
    }

    const LARGE_BYTES: u64 = 64 << 20;

    /// A body of a known size.
    struct Large {
        left: u64,
    }

    impl http_body::Body for Large {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 4096;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 4096])))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.left)
        }
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: front\r\n\r\n")
    }

    async fn read_until(stream: &mut TcpStream, wanted: &str) {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(wanted) {
            let count = timeout(PATIENCE, stream.read_buf(&mut read)).await.unwrap().unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&read));
        }
    }

    /// What comes until the connection is closed or reset.
    async fn rest(mut stream: TcpStream) -> String {
        let mut read = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("the connection is closed");
        String::from_utf8_lossy(&read).into_owned()
    }

    #[tokio::test]
    async fn one_connection_too_many_takes_the_place_of_the_one_that_has_been_idle_for_longest() {
        let running = Running::start(|limits| limits.connections_max = 3);
        let mut busy = running.ask("/endless").await;
        let has_asked_for_nothing = running.send(b"GET /").await;
        running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 2).await;
        let mut idle = running.ask("/").await;
        let _newest = running.ask("/").await;
        rest(has_asked_for_nothing).await;
        assert_eq!(running.counters.displaced.load(Ordering::Relaxed), 1);
        // The others are as they were.
        idle.write_all(request("/").as_bytes()).await.unwrap();
        read_until(&mut idle, "HTTP/1.1 200 OK").await;
        read_until(&mut busy, "xxx").await;
    }

    #[tokio::test]
    async fn while_all_are_busy_a_further_connection_is_closed() {
        let running = Running::start(|limits| limits.connections_max = 2);
        let mut busy = [running.ask("/endless").await, running.ask("/quiet").await];
        assert_eq!(rest(TcpStream::connect(running.address).await.unwrap()).await, "");
        assert_eq!(running.counters.refused.load(Ordering::Relaxed), 1);
        read_until(&mut busy[0], "xxx").await;
        // A place is free again once one of them has gone.
        drop(busy);
        running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 0).await;
        running.ask("/").await;
    }

    #[tokio::test]
    async fn where_connections_wait_a_further_one_has_its_answer_once_a_place_is_free() {
        let running = Running::start(|limits| (limits.connections_max, limits.waits_for_places) = (2, true));
        let mut busy = vec![running.ask("/endless").await, running.ask("/quiet").await];
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(running.send(request("/").as_bytes()).await);
        }
        running.wait_for(|counters| counters.accepted.load(Ordering::Relaxed) == 3).await;
        read_until(&mut busy[0], "xxx").await;
        drop(busy.pop());
        // Each one takes the place of the one before it, which is idle then and has its answer.
        for mut stream in waiting {
            read_until(&mut stream, "here").await;
        }
        assert_eq!(running.counters.refused.load(Ordering::Relaxed), 0);
        read_until(&mut busy[0], "xxx").await;
    }

    #[tokio::test]
    async fn where_connections_wait_a_burst_of_requests_is_answered() {
        let running = Running::start(|limits| (limits.connections_max, limits.waits_for_places) = (2, true));
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(running.send(request("/late").as_bytes()).await);
        }
        for mut stream in streams {
            read_until(&mut stream, "content-length: 0\r\n").await;
        }
        assert_eq!(running.counters.refused.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn where_connections_wait_one_that_asks_for_nothing_gives_up_its_place() {
        let running = Running::start(|limits| (limits.connections_max, limits.waits_for_places) = (1, true));
        let silent = running.send(b"GET /").await;
        running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 1).await;
        running.ask("/").await;
        assert_eq!(rest(silent).await, "");
        assert_eq!(running.counters.displaced.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_dawdles_over_a_request_is_cut_whatever_it_looks_like() {
        let running = Running::start(|limits| limits.header_timeout = Duration::from_millis(100));
        for start in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nhost:"] {
            let answer = rest(running.send(start.as_bytes()).await).await;
            assert!(!answer.contains("200 OK"), "{start:?}: {answer}");
        }
        assert_eq!(running.counters.idled_out.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn after_its_first_request_a_connection_has_the_idle_timeout_for_the_next() {
        let idle_timeout = Duration::from_millis(400);
        let running = Running::start(|limits| {
            limits.header_timeout = idle_timeout / 8;
            limits.idle_timeout = idle_timeout;
        });
        for start in ["", "GET / HTTP/1.1\r\n"] {
            let begun = tokio::time::Instant::now();
            let mut kept = running.ask("/").await;
            kept.write_all(start.as_bytes()).await.unwrap();
            rest(kept).await;
            assert!(begun.elapsed() >= idle_timeout, "{start:?}: {:?}", begun.elapsed());
        }
        assert_eq!(running.counters.idled_out.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_and_a_quiet_stream_is_not() {
        let running = Running::start(|limits| limits.idle_timeout = Duration::from_millis(100));
        let quiet = running.ask("/quiet").await;
        rest(running.ask("/").await).await;
        assert_eq!(running.counters.idled_out.load(Ordering::Relaxed), 1);
        assert_eq!(running.counters.connections.load(Ordering::Relaxed), 1);
        drop(quiet);
    }

    #[tokio::test]
    async fn an_idle_http_2_connection_is_closed() {
        let running = Running::start(|limits| limits.idle_timeout = Duration::from_millis(100));
        let (mut sender, connection) = http2_client(running.address).await;
        let response = sender.send_request(http2_request("/")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "here");
        timeout(PATIENCE, connection).await.unwrap().unwrap();
        assert_eq!(running.counters.idled_out.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_cut_in_either_http() {
        let running = Running::start(|limits| limits.write_stall_timeout = Duration::from_millis(500));
        let never_read = running.send(request("/endless").as_bytes()).await;
        let (mut sender, connection) = http2_client(running.address).await;
        let unread = sender.send_request(http2_request("/endless")).await.unwrap();
        running.wait_for(|counters| counters.accepted.load(Ordering::Relaxed) == 2).await;
        running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 0).await;
        assert_eq!(running.counters.stalled.load(Ordering::Relaxed), 1);
        drop((never_read, unread, connection));
    }

    #[tokio::test]
    async fn who_has_nothing_to_take_is_not_cut_in_http_2() {
        let running = Running::start(|limits| limits.write_stall_timeout = Duration::from_millis(100));
        for others in [&[][..], &["/quiet"], &["/quiet", "/quiet"]] {
            let (mut sender, _connection) = http2_client(running.address).await;
            let mut quiet = Vec::new();
            for path in others {
                quiet.push(sender.send_request(http2_request(path)).await.unwrap());
            }
            let late = sender.send_request(http2_request("/late")).await;
            assert!(late.is_ok(), "beside {others:?}: {late:?}");
        }
        assert_eq!(running.counters.stalled.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_takes_a_little_now_and_then_is_not_cut() {
        let stall = Duration::from_millis(500);
        let running = Running::start(|limits| limits.write_stall_timeout = stall);
        let mut slow = running.ask("/endless").await;
        let mut piece = vec![0; 1 << 20];
        let begun = tokio::time::Instant::now();
        let mut pace = tokio::time::interval(stall / 5);
        while begun.elapsed() < 4 * stall {
            pace.tick().await;
            slow.read_exact(&mut piece).await.unwrap();
        }
        assert_eq!(running.counters.connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_takes_an_answer_too_slowly_is_cut() {
        let stall = Duration::from_millis(500);
        let running = Running::start(|limits| {
            limits.write_stall_timeout = stall;
            limits.bytes_per_second_min = LARGE_BYTES + 1;
        });
        let mut slow = running.send(request("/large").as_bytes()).await;
        let mut pace = tokio::time::interval(stall / 20);
        let mut piece = vec![0; 1 << 20];
        let mut taken = 0;
        while let Ok(bytes @ 1..) = slow.read(&mut piece).await {
            taken += bytes as u64;
            pace.tick().await;
        }
        assert!(taken < LARGE_BYTES, "{taken}");
        assert_eq!(running.counters.stalled.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_takes_an_answer_in_time_gets_all_of_it() {
        let running = Running::start(|_| {});
        let mut client =
            running.send(request("/large").replacen("host", "connection: close\r\nhost", 1).as_bytes()).await;
        let mut read = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut read)).await.unwrap().unwrap();
        assert!(read.len() as u64 > LARGE_BYTES);
    }

    #[tokio::test]
    async fn a_head_that_does_not_fit_is_refused() {
        let running = Running::start(|_| {});
        let long_path = format!("GET /{} HTTP/1.1\r\nhost: front\r\n\r\n", "x".repeat(20_000));
        let long_header = format!("GET / HTTP/1.1\r\nhost: front\r\nx: {}\r\n\r\n", "x".repeat(20_000));
        let many_headers = format!("GET / HTTP/1.1\r\nhost: front\r\n{}\r\n", "x: y\r\n".repeat(1_000));
        for head in [long_path, long_header, many_headers] {
            let answer = rest(running.send(head.as_bytes()).await).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        running.ask("/").await;
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_is_not_read() {
        let running = Running::start(|_| {});
        let head = "POST / HTTP/1.1\r\nhost: front\r\ncontent-length: 1000000000000\r\n\r\n";
        let mut stream = running.send(head.as_bytes()).await;
        let body = vec![b'x'; 64 << 10];
        let sent = timeout(PATIENCE, async {
            let mut sent = 0_u64;
            while stream.write_all(&body).await.is_ok() {
                sent += body.len() as u64;
            }
            sent
        });
        assert!(sent.await.expect("the connection is closed") < 64 << 20);
    }

    async fn http2_client(address: SocketAddr) -> (http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<()>) {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        // Who is cut without a word sees an error; that it ends is what counts.
        (
            sender,
            tokio::spawn(async {
                let _ = connection.await;
            }),
        )
    }

    fn http2_request(path: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("http://front{path}")).body(Empty::new()).unwrap()
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let bind = |address| Front::bind(address, FrontLimits::of_answers(1), Arc::default());
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr();
        let Err(error) = bind(address) else { panic!("taken twice") };
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
