//! The front over real sockets: connections, their places and their ends.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::stream;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ListenOptions, TlsFiles,
    counters::FrontCounters,
    front::Front,
    limits::{BYTES_PER_SECOND_MIN, FrontLimits},
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    counters: Arc<FrontCounters>,
    _cancel: oneshot::Sender<()>,
}

impl Running {
    /// Answers `/` at once, `/mistake` with a panic, `/late` after 600 ms, `/large` with 64 MiB, `/endless` without end, and
    /// `/quiet` with a body that never comes.
    fn start(change: impl FnOnce(&mut FrontLimits)) -> Running {
        Running::start_on(&local(), change)
    }

    fn start_on(listen: &ListenOptions, change: impl FnOnce(&mut FrontLimits)) -> Running {
        let mut limits = FrontLimits {
            connections_max: 10,
            waits_for_places: false,
            connections_per_client_max: 10,
            descriptors_percent: 60,
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
        let front = Front::bind(listen, 0, limits, Arc::clone(&counters)).unwrap();
        let address = front.local_addr();
        let piece = || Ok::<_, Infallible>(Bytes::from(vec![b'x'; 4096]));
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/mistake", get(|| async { fail() }))
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

/// A mistake in a handler.
fn fail() {
    panic!("a mistake");
}

fn local() -> ListenOptions {
    ListenOptions::on(Ipv4Addr::LOCALHOST)
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
    assert_eq!(running.counters.displaced.get(), 1);
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
    assert_eq!(running.counters.refused.get(), 1);
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
    running.wait_for(|counters| counters.accepted.get() == 3).await;
    read_until(&mut busy[0], "xxx").await;
    drop(busy.pop());
    // Each one takes the place of the one before it, which is idle then and has its answer.
    for mut stream in waiting {
        read_until(&mut stream, "here").await;
    }
    assert_eq!(running.counters.refused.get(), 0);
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
    assert_eq!(running.counters.refused.get(), 0);
}

#[tokio::test]
async fn where_connections_queue_one_without_a_request_loses_its_place() {
    let running = Running::start(|limits| (limits.connections_max, limits.waits_for_places) = (1, true));
    let silent = running.send(b"GET /").await;
    running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 1).await;
    running.ask("/").await;
    assert_eq!(rest(silent).await, "");
    assert_eq!(running.counters.displaced.get(), 1);
}

#[tokio::test]
async fn a_client_that_sends_a_request_too_slowly_is_cut_whatever_it_looks_like() {
    let running = Running::start(|limits| limits.header_timeout = Duration::from_millis(100));
    for start in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nhost:"] {
        let answer = rest(running.send(start.as_bytes()).await).await;
        assert!(!answer.contains("200 OK"), "{start:?}: {answer}");
    }
    assert_eq!(running.counters.idled_out.get(), 3);
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
    assert_eq!(running.counters.idled_out.get(), 2);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_quiet_stream_is_not() {
    let running = Running::start(|limits| limits.idle_timeout = Duration::from_millis(100));
    let quiet = running.ask("/quiet").await;
    rest(running.ask("/").await).await;
    assert_eq!(running.counters.idled_out.get(), 1);
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
    assert_eq!(running.counters.idled_out.get(), 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_in_either_http() {
    let running = Running::start(|limits| limits.write_stall_timeout = Duration::from_millis(500));
    let never_read = running.send(request("/endless").as_bytes()).await;
    let (mut sender, connection) = http2_client(running.address).await;
    let unread = sender.send_request(http2_request("/endless")).await.unwrap();
    running.wait_for(|counters| counters.accepted.get() == 2).await;
    running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 0).await;
    assert_eq!(running.counters.stalled.get(), 1);
    drop((never_read, unread, connection));
}

#[tokio::test]
async fn an_http_2_client_that_gives_no_room_for_a_small_answer_is_cut_whatever_else_it_takes() {
    let running = Running::start(|limits| limits.write_stall_timeout = Duration::from_millis(500));
    let stream = TcpStream::connect(running.address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.initial_stream_window_size(0).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async {
        let _ = connection.await;
    });
    let untaken = sender.send_request(http2_request("/")).await.unwrap();
    let head = || Request::head("http://front/").body(Empty::<Bytes>::new()).unwrap();
    let cut = timeout(PATIENCE, async { while sender.send_request(head()).await.is_ok() {} });
    cut.await.expect("it is cut");
    assert_eq!(running.counters.stalled.get(), 1);
    drop(untaken);
}

#[tokio::test]
async fn a_client_that_has_nothing_to_take_is_not_cut_in_http_2() {
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
    assert_eq!(running.counters.stalled.get(), 0);
}

#[tokio::test]
async fn a_client_that_takes_a_little_now_and_then_is_not_cut() {
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
async fn a_client_that_takes_an_answer_too_slowly_is_cut() {
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
    assert_eq!(running.counters.stalled.get(), 1);
}

#[tokio::test]
async fn a_client_that_takes_an_answer_in_time_gets_all_of_it() {
    let running = Running::start(|_| {});
    let mut client = running.send(request("/large").replacen("host", "connection: close\r\nhost", 1).as_bytes()).await;
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
async fn a_request_body_that_is_not_wanted_is_not_read() {
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

async fn http2_client(address: SocketAddr) -> (http2::SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    http2_client_on(TcpStream::connect(address).await.unwrap()).await
}

async fn http2_client_on<S>(stream: S) -> (http2::SendRequest<Empty<Bytes>>, JoinHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    // A client that is cut sees an error; what counts is that it ends.
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
    let bind = |port| Front::bind(&local(), port, FrontLimits::of_answers(1), Arc::default());
    let first = bind(0).unwrap();
    let address = first.local_addr();
    let Err(error) = bind(address.port()) else { panic!("taken twice") };
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

/// A server's certificate and key in files, and a client that trusts it.
struct Identity {
    _folder: TempDir,
    listen: ListenOptions,
    connector: TlsConnector,
}

impl Identity {
    fn new() -> Identity {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = TlsFiles { certificates: folder.path().join("chain.pem"), key: folder.path().join("key.pem") };
        std::fs::write(&files.certificates, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.certificates).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let listen = ListenOptions { tls: Some(files), ..local() };
        Identity { _folder: folder, listen, connector: TlsConnector::from(Arc::new(client)) }
    }

    async fn connect(&self, running: &Running) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(running.address).await.unwrap();
        self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }
}

#[tokio::test]
async fn over_tls_too_a_client_that_takes_nothing_is_cut_in_either_http() {
    let identity = Identity::new();
    let stall = Duration::from_millis(500);
    let running = Running::start_on(&identity.listen, |limits| limits.write_stall_timeout = stall);
    let mut never_read = identity.connect(&running).await;
    never_read.write_all(request("/endless").as_bytes()).await.unwrap();
    never_read.flush().await.unwrap();
    let (mut sender, connection) = http2_client_on(identity.connect(&running).await).await;
    let unread = sender.send_request(http2_request("/endless")).await.unwrap();
    running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 0).await;
    assert_eq!((running.counters.accepted.get(), running.counters.stalled.get()), (2, 1));
    drop((never_read, unread, connection));
}

#[tokio::test]
async fn a_connection_that_does_not_shake_hands_is_cut_in_time_and_is_the_first_to_give_up_its_place() {
    let identity = Identity::new();
    for start in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let running = Running::start_on(&identity.listen, |limits| limits.connections_max = 1);
        let halfway = running.send(start).await;
        running.wait_for(|counters| counters.connections.load(Ordering::Relaxed) == 1).await;
        let mut other = identity.connect(&running).await;
        assert_eq!((rest(halfway).await, running.counters.displaced.get()), (String::new(), 1));
        other.write_all(request("/").replace("host", "connection: close\r\nhost").as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = timeout(PATIENCE, other.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");

        let limit = Duration::from_millis(100);
        let running = Running::start_on(&identity.listen, |limits| limits.header_timeout = limit);
        assert_eq!(rest(running.send(start).await).await, "");
        assert_eq!((running.counters.idled_out.get(), running.counters.handshakes_failed.get()), (1, 0));
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_500_and_counted_and_its_connection_stays() {
    let running = Running::start(|_| {});
    let mut stream = running.send(request("/mistake").as_bytes()).await;
    read_until(&mut stream, "HTTP/1.1 500 Internal Server Error").await;
    stream.write_all(request("/").as_bytes()).await.unwrap();
    read_until(&mut stream, "here").await;
    let _missing = running.send(request("/nowhere").as_bytes()).await;
    let counted = |counters: &FrontCounters| {
        let counts = counters.refused_requests.by_reason().map(|(reason, count)| (reason, count.get()));
        counts.filter(|(_, count)| *count > 0).collect::<Vec<_>>()
    };
    running.wait_for(|counters| counted(counters) == [("not_found", 1), ("failed", 1)]).await;
}
