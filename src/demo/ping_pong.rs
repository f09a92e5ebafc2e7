//! The demo's gRPC server: a ball a second, `ping` and `pong` in turn.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use futures_util::{Stream, StreamExt, stream};
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tower::Service;

use crate::grpc::DynamicCodec;
use crate::grpc::descriptors::Schema;

/// The time between two balls.
const PACE: Duration = Duration::from_secs(1);

/// The running server; it ends when this is dropped.
pub(super) struct PingPong {
    pub(super) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl PingPong {
    /// Starts it on a free port of the loopback interface. `schema` is that of its `.proto` file.
    pub(super) async fn start(schema: &Schema) -> anyhow::Result<PingPong> {
        let ball =
            schema.pool().get_message_by_name("demo.v1.Ball").context("the demo's .proto file lacks a message")?;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port for the demo's server")?;
        let address = listener.local_addr()?;
        let (played, watched) = watch::channel(0_u64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(PACE).await;
                played.send_modify(|balls| *balls += 1);
            }
        });
        let court = Court { schema: schema.clone(), ball, played: watched };
        tasks.spawn(async move {
            // An answer is several small writes: without this each would wait for the last one's acknowledgement.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let served = tonic::transport::Server::builder().serve_with_incoming(court, incoming).await;
            if let Err(error) = served {
                tracing::error!(%error, "the demo's gRPC server has ended");
            }
        });
        Ok(PingPong { address, _tasks: tasks })
    }
}

/// What calls are answered from.
#[derive(Clone)]
struct Court {
    schema: Schema,
    ball: MessageDescriptor,
    /// How many balls were played so far.
    played: watch::Receiver<u64>,
}

type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;
type Balls = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;

impl Service<axum::http::Request<Body>> for Court {
    type Response = axum::http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<Body>) -> Self::Future {
        let court = self.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let Some(method) = court.schema.method(&path) else {
                return Ok(Status::unimplemented("no such method").into_http());
            };
            let mut grpc = Grpc::new(DynamicCodec { decoded: method.input() });
            Ok(match method.name() {
                "Subscribe" => grpc.server_streaming(Subscribe(court), request).await,
                _ => grpc.unary(Serve(court), request).await,
            })
        })
    }
}

impl Court {
    fn ball(&self, id: u64, event: &str, text: String) -> DynamicMessage {
        let mut ball = DynamicMessage::new(self.ball.clone());
        ball.set_field_by_name("id", Value::U64(id));
        ball.set_field_by_name("event", Value::String(event.to_owned()));
        ball.set_field_by_name("text", Value::String(text));
        ball
    }
}

struct Subscribe(Court);

impl Service<Request<DynamicMessage>> for Subscribe {
    type Response = Response<Balls>;
    type Error = Status;
    type Future = Answer<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<DynamicMessage>) -> Self::Future {
        let court = self.0.clone();
        Box::pin(async move {
            let topic = text(request.get_ref(), "topic");
            let next = court.played.borrow().saturating_add(1);
            let balls = stream::unfold((court, next), |(mut court, id)| async move {
                court.played.wait_for(|played| *played >= id).await.ok()?;
                let event = if id % 2 == 1 { "ping" } else { "pong" };
                let ball = court.ball(id, event, format!("ball {id} crosses the net"));
                Some(((event, ball), (court, id.saturating_add(1))))
            });
            let wanted = move |event: &str| !matches!(topic.as_str(), "ping" | "pong") || topic == event;
            let balls = balls.filter_map(move |(event, ball)| {
                let ball = wanted(event).then_some(Ok(ball));
                async move { ball }
            });
            Ok(Response::new(Box::pin(balls) as Balls))
        })
    }
}

struct Serve(Court);

impl Service<Request<DynamicMessage>> for Serve {
    type Response = Response<DynamicMessage>;
    type Error = Status;
    type Future = Answer<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<DynamicMessage>) -> Self::Future {
        let (player, said) = (text(request.get_ref(), "player"), text(request.get_ref(), "text"));
        let ball = self.0.ball(*self.0.played.borrow(), "serve", format!("{player} serves: {said}"));
        Box::pin(async move { Ok(Response::new(ball)) })
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.descriptor().get_field_by_name(field).map(|field| message.get_field(&field).into_owned());
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
