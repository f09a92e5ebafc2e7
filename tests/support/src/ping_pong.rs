//! A gRPC server for the gateway: balls that go to and fro, and the events of a consensus client.
//!
//! What it sends follows from the topic of a request: `flood` as many balls as are asked for, as fast as they are taken;
//! `fail` as many, and then an error; `silent` none; any other topic the balls that the test [pushes](PingPong::push).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;
use tower::util::BoxCloneSyncService;

const PROTO: &str = include_str!("../protos/ping_pong.proto");
const BUNDLED: [(&str, &str); 3] = [
    ("google/api/http.proto", include_str!("../../../src/grpc/protos/google/api/http.proto")),
    ("google/api/annotations.proto", include_str!("../../../src/grpc/protos/google/api/annotations.proto")),
    ("gateway/event_source.proto", include_str!("../../../src/grpc/protos/gateway/event_source.proto")),
];

/// What a call asks for.
#[derive(Clone, PartialEq, Message)]
pub struct SubscribeRequest {
    /// What is sent.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// How many balls.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// The bytes of a ball's text.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// The code of the error at the end.
    #[prost(int32, tag = "4")]
    pub code: i32,
}

/// What is sent.
#[derive(Clone, PartialEq, Message)]
pub struct Ball {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// `ping` or `pong`.
    #[prost(string, tag = "2")]
    pub event: String,
    /// Whatever.
    #[prost(string, tag = "3")]
    pub text: String,
}

#[derive(Clone, PartialEq, Message)]
struct EventTopicsRequest {
    #[prost(string, repeated, tag = "1")]
    topics: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct EventSource {
    #[prost(string, tag = "1")]
    event: String,
    #[prost(message, optional, tag = "2")]
    data: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EventHead {
    #[prost(uint64, tag = "1")]
    slot: u64,
    #[prost(bytes = "vec", tag = "2")]
    block: Vec<u8>,
    #[prost(bool, tag = "3")]
    epoch_transition: bool,
}

/// A running server; it ends when this is dropped.
pub struct PingPong {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    balls: Mutex<Vec<Ball>>,
    /// How many balls there are.
    pushed: watch::Sender<usize>,
    /// How many calls with a stream are open.
    open: watch::Sender<usize>,
    /// How many there have been.
    opened: AtomicU64,
    /// How many balls of `flood` were made.
    made: AtomicU64,
    /// How often all streams were broken off.
    broken: watch::Sender<u64>,
}

impl PingPong {
    /// Starts one on a free port.
    pub async fn start() -> PingPong {
        Self::serve(Server::builder()).await
    }

    /// Starts one with TLS, with a certificate and its key as PEM.
    pub async fn start_with_tls(certificate: &str, key: &str) -> PingPong {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        Self::serve(Server::builder().tls_config(tls).unwrap()).await
    }

    async fn serve(server: Server) -> PingPong {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(Box::leak(descriptor_set().into_boxed_slice()))
            .build_v1alpha()
            .unwrap();
        let reflection = BoxCloneSyncService::new(reflection);
        let service = PingPongService { shared: Arc::clone(&shared), reflection };
        let mut running = JoinSet::new();
        running.spawn(async move {
            server.serve_with_incoming(service, TcpIncoming::from(listener).with_nodelay(Some(true))).await.unwrap()
        });
        PingPong { address, shared, _server: running }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a ball to every subscriber.
    pub fn push(&self, event: &str, text: &str) {
        let mut balls = self.shared.balls.lock().unwrap();
        let id = balls.len() as u64 + 1;
        balls.push(Ball { id, event: event.to_owned(), text: text.to_owned() });
        self.shared.pushed.send_replace(balls.len());
    }

    /// Breaks all streams off with UNAVAILABLE.
    pub fn break_off(&self) {
        self.shared.broken.send_modify(|times| *times += 1);
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        *self.shared.open.borrow()
    }

    /// Waits until so many streams are open.
    pub async fn wait_for_open(&self, count: usize) {
        let mut open = self.shared.open.subscribe();
        let reached = open.wait_for(|open| *open == count);
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the streams open or end in time").unwrap();
    }

    /// How many streams were opened so far.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// How many balls of `flood` were made so far: those that the other side has room for.
    pub fn made(&self) -> u64 {
        self.shared.made.load(Ordering::Relaxed)
    }
}

/// The service's descriptor set, with everything that it imports.
pub fn descriptor_set() -> Vec<u8> {
    let mut compiler = protox::Compiler::with_file_resolver(Files);
    compiler.include_imports(true).open_file("ping_pong.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

/// Writes the service's descriptor set to a file.
pub fn write_descriptor_set(path: &Path) {
    std::fs::write(path, descriptor_set()).unwrap();
}

/// Writes the service's `.proto` file.
pub fn write_proto(path: &Path) {
    std::fs::write(path, PROTO).unwrap();
}

struct Files;

impl protox::file::FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        let own = [("ping_pong.proto", PROTO)];
        match own.iter().chain(&BUNDLED).find(|(known, _)| *known == name) {
            Some((name, text)) => protox::file::File::from_source(name, text),
            None => protox::file::GoogleFileResolver::new().open_file(name),
        }
    }
}

/// As Python's servers have it, only the older of two versions.
type Reflection = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

#[derive(Clone)]
struct PingPongService {
    shared: Arc<Shared>,
    reflection: Reflection,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;
type Many<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service<http::Request<Body>> for PingPongService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let mut reflection = self.reflection.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            Ok(match path.as_str() {
                "/demo.v1.Events/Subscribe" => {
                    let mut grpc = Grpc::new(ProstCodec::<Ball, SubscribeRequest>::default());
                    grpc.server_streaming(Subscribe(shared), request).await
                }
                "/demo.v1.Events/Echo" | "/demo.v1.Events/Unbound" => {
                    let mut grpc = Grpc::new(ProstCodec::<Ball, SubscribeRequest>::default());
                    grpc.unary(Echo, request).await
                }
                "/demo.v1.ChainEvents/StreamEvents" => {
                    let mut grpc = Grpc::new(ProstCodec::<EventSource, EventTopicsRequest>::default());
                    grpc.server_streaming(StreamEvents(shared), request).await
                }
                _ if path.starts_with("/grpc.reflection.v1alpha.") => reflection.call(request).await?,
                _ => Status::unimplemented(path).into_http(),
            })
        })
    }
}

/// Counts an open stream.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Open {
        shared.opened.fetch_add(1, Ordering::Relaxed);
        shared.open.send_modify(|open| *open += 1);
        Open(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

struct Subscribe(Arc<Shared>);

impl Service<Request<SubscribeRequest>> for Subscribe {
    type Response = Response<Many<Ball>>;
    type Error = Status;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<SubscribeRequest>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        let wanted = request.into_inner();
        Box::pin(async move {
            let end = Status::new(Code::from_i32(wanted.code), "the ball is lost");
            if wanted.topic == "refuse" {
                return Err(end);
            }
            let open = Open::new(&shared);
            let text = "x".repeat(wanted.bytes as usize);
            let ball = move |id| Ball { id, event: "ping".to_owned(), text: text.clone() };
            let balls: Many<Ball> = match wanted.topic.as_str() {
                "silent" => Box::pin(stream::pending()),
                "flood" => {
                    let made = Arc::clone(&shared);
                    Box::pin(stream::iter(1..=wanted.count).map(move |id| {
                        made.made.fetch_add(1, Ordering::Relaxed);
                        Ok(ball(id))
                    }))
                }
                "fail" => {
                    Box::pin(stream::iter(1..=wanted.count).map(move |id| Ok(ball(id))).chain(stream::iter([Err(end)])))
                }
                _ => live(shared),
            };
            let balls = balls.map(move |ball| {
                let _open = &open;
                ball
            });
            Ok(Response::new(Box::pin(balls) as Many<Ball>))
        })
    }
}

/// The balls that are pushed from now on.
fn live(shared: Arc<Shared>) -> Many<Ball> {
    let (pushed, mut broken) = (shared.pushed.subscribe(), shared.broken.subscribe());
    broken.mark_unchanged();
    let next = *pushed.borrow();
    Box::pin(stream::unfold(Some((shared, pushed, broken, next)), |state| async move {
        let (shared, mut pushed, mut broken, next) = state?;
        let is_broken = tokio::select! {
            _ = broken.changed() => true,
            _ = pushed.wait_for(|pushed| *pushed > next) => false,
        };
        if is_broken {
            return Some((Err(Status::unavailable("broken off")), None));
        }
        let ball = shared.balls.lock().unwrap()[next].clone();
        Some((Ok(ball), Some((shared, pushed, broken, next + 1))))
    }))
}

struct Echo;

impl Service<Request<SubscribeRequest>> for Echo {
    type Response = Response<Ball>;
    type Error = Status;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<SubscribeRequest>) -> Self::Future {
        Box::pin(async move {
            let tenant = request.metadata().get("tenant").and_then(|tenant| tenant.to_str().ok()).unwrap_or_default();
            let text = format!("tenant={tenant}");
            let wanted = request.into_inner();
            if wanted.topic == "silent" {
                std::future::pending::<()>().await;
            }
            if wanted.code != 0 {
                return Err(Status::new(Code::from_i32(wanted.code), "the ball is lost"));
            }
            let mut answer = Response::new(Ball { id: wanted.count, event: wanted.topic, text });
            answer.metadata_mut().insert("court", "centre".parse().unwrap());
            Ok(answer)
        })
    }
}

struct StreamEvents(Arc<Shared>);

impl Service<Request<EventTopicsRequest>> for StreamEvents {
    type Response = Response<Many<EventSource>>;
    type Error = Status;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<EventTopicsRequest>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let topics = request.into_inner().topics;
            if let Some(unknown) = topics.iter().find(|topic| *topic != "head") {
                return Err(Status::invalid_argument(format!("Invalid topic: {unknown}")));
            }
            let open = Open::new(&shared);
            // A pushed ball's id is the slot.
            let events = live(shared).map(move |ball| {
                let _open = &open;
                let head = EventHead { slot: ball?.id, block: vec![0xfb, 0xff], epoch_transition: false };
                let type_url = "type.googleapis.com/demo.v1.EventHead".to_owned();
                Ok(EventSource { event: "head".to_owned(), data: Some(Any { type_url, value: head.encode_to_vec() }) })
            });
            Ok(Response::new(Box::pin(events) as Many<EventSource>))
        })
    }
}
