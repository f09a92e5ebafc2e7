//! HTTP: from a request to calls, and from their results to a response.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use serde_json::Value;

use super::apart::LARGE_BYTES;
use super::bridge::Node;
use super::cache::Cache;
use super::cors::{self, Checked};
use super::failure::{Code, Failure};
use super::json_rpc::{self, Call, Entry};
use super::methods::{MAIN, Method, SPECULATIVE};
use super::node_link::LinkState;
use super::rate_limit::{RateLimit, reported_client};
use super::{Memory, Watch};
use crate::engine::http::{
    BindError, ListenOptions, about,
    access::Client,
    coding::{COMPRESSED_BYTES, Coding},
    cors::allow,
    front::Front,
    limits::FrontLimits,
    memory::{BodyRoom, Crowded, GrowingAnswer, NotTaken, Pieces, Room, SMALL_BYTES, Shape, Ungrown},
};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 512;
/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls of one batch that are worked on at a time.
const BATCH_CONCURRENCY: usize = 16;
/// The longest request id of a client that is taken over.
const REQUEST_ID_BYTES_MAX: usize = 64;
/// A call's own id is repeated up to so many bytes in an answer for which there is no room.
const REPEATED_ID_BYTES_MAX: usize = 1 << 10;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The paths that exist, for people with a browser.
const INDEX: &str = "Sidecar's JSON-RPC server: POST calls to /rpc, rpc.discover describes them; GET /health reports whether the \
                     node is connected\n";
const REQUEST_ID: &str = "x-request-id";
/// Marks what was answered from the log, because the node is away.
const ANSWERED_FROM: &str = "x-sidecar-answered-from";

/// Which of the two servers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything but speculative execution.
    Main,
    /// Speculative execution.
    Speculative,
}

/// How a server listens, and what it grants its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Which of the two servers it is.
    pub role: Role,
    /// The TCP port; 0 lets the system choose one.
    pub port: u16,
    /// Where the server listens on that port, and whom it lets in.
    pub listen: ListenOptions,
    /// Requests per second of each client address.
    pub qps_limit: u32,
    /// The largest request body.
    pub max_body_bytes: u64,
    /// Whether a client's address is taken from the headers in which a proxy reports it.
    pub trust_client_ip_headers: bool,
    /// Calls in one batch, at most; 0 refuses batches.
    pub batch_requests_max: u32,
}

/// A bound server.
pub struct Server {
    front: Front,
    shared: Arc<Shared>,
}

struct Shared {
    options: ServerOptions,
    methods: HashMap<&'static str, &'static Method>,
    watch: Watch,
    cache: Arc<Cache>,
    rate_limit: RateLimit,
    memory: Arc<Memory>,
    next_request: AtomicU64,
}

impl Server {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address or the file.
    pub(super) fn bind(
        options: ServerOptions,
        watch: Watch,
        cache: Arc<Cache>,
        memory: Arc<Memory>,
    ) -> Result<Server, BindError> {
        let limits = FrontLimits::of_answers(CONNECTIONS_MAX);
        let front = Front::bind(&options.listen, options.port, limits, Arc::default())?.with_open_paths(&["/health"]);
        let methods = match options.role {
            Role::Main => MAIN,
            Role::Speculative => SPECULATIVE,
        };
        let shared = Shared {
            methods: methods.iter().map(|method| (method.name, method)).collect(),
            watch,
            cache,
            rate_limit: RateLimit::new(options.qps_limit),
            memory,
            next_request: AtomicU64::new(1),
            options,
        };
        Ok(Server { front, shared: Arc::new(shared) })
    }

    /// Where it listens, and what it counts of connections and requests.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// Which of the two servers it is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.shared.options.role
    }

    /// Serves until `cancel` is done; then every connection is cut.
    pub async fn run(self, cancel: impl Future<Output = ()>) {
        let router = Router::new().fallback(respond).with_state(self.shared);
        self.front.serve(router, cancel).await;
    }
}

/// Where the answer to a request came from, as far as that is not the node.
#[derive(Default)]
struct Origin {
    /// At least one call was answered from the log.
    is_log: AtomicBool,
}

/// The client of a request, and how it is answered.
struct Asking<'a> {
    client: IpAddr,
    coding: Option<Coding>,
    /// The request's id, for log lines.
    id: &'a HeaderValue,
    origin: Origin,
}

async fn respond(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let id = shared.request_id(request.headers());
    let mut response = shared.respond(request, &id).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

impl Shared {
    /// The client's own id of a request where it is a plain one, else a number.
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let is_plain = |id: &&HeaderValue| {
            let is_graphic = id.as_bytes().iter().all(u8::is_ascii_graphic);
            is_graphic && (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        };
        let given = headers.get(REQUEST_ID).filter(is_plain).cloned();
        given.unwrap_or_else(|| HeaderValue::from(self.next_request.fetch_add(1, Ordering::Relaxed)))
    }

    async fn respond(&self, request: Request, id: &HeaderValue) -> Response {
        if matches!(request.uri().path(), "/health" | "/health/")
            && matches!(*request.method(), HttpMethod::GET | HttpMethod::HEAD)
        {
            return self.health();
        }
        if request.uri().path() == "/" && matches!(*request.method(), HttpMethod::GET | HttpMethod::HEAD) {
            return about::contents(INDEX);
        }
        let client = self.client(&request);
        if let Err(wait) = self.rate_limit.take(client) {
            self.watch.counters.rate_limited.add(1);
            let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "Too many requests");
            let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            return response;
        }
        let ListenOptions { origins, tokens, .. } = &self.options.listen;
        let origin = match cors::check(origins, tokens.are_needed(), request.method(), request.headers()) {
            Checked::LetIn(origin) => origin,
            Checked::Answered(response) => return response,
        };
        let coding = Coding::accepted(request.headers());
        let mut response = match self.body(request, client).await {
            Ok((body, room)) => self.answer(body, room, Asking { client, coding, id, origin: Origin::default() }).await,
            Err(refusal) => refusal,
        };
        if let Some(origin) = origin {
            allow(response.headers_mut(), origin);
        }
        response
    }

    /// Whether calls can be answered now, for load balancers. It is not rate-limited.
    fn health(&self) -> Response {
        let (status, node) = match self.watch.link.state() {
            LinkState::Connected => (StatusCode::OK, "connected"),
            LinkState::Connecting => (StatusCode::SERVICE_UNAVAILABLE, "connecting"),
            LinkState::Away => (StatusCode::SERVICE_UNAVAILABLE, "away"),
        };
        json(status, format!("{{\"node\":\"{node}\"}}"))
    }

    fn client(&self, request: &Request) -> IpAddr {
        let reported = self.options.trust_client_ip_headers.then(|| reported_client(request.headers())).flatten();
        let peer = Client::of(request.extensions()).map(|address| address.ip());
        reported.or(peer).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The body of a request that may be a call, and the room that the request needs until it is answered.
    async fn body(&self, request: Request, client: IpAddr) -> Result<(Bytes, BodyRoom), Response> {
        if !matches!(request.uri().path(), "/rpc" | "/rpc/") {
            return Err(plain(StatusCode::NOT_FOUND, "Path not found"));
        }
        if request.method() != HttpMethod::POST {
            return Err(plain(StatusCode::METHOD_NOT_ALLOWED, "HTTP method not allowed"));
        }
        match request.headers().get(header::CONTENT_TYPE) {
            None => return Err(plain(StatusCode::BAD_REQUEST, "The request's content-type is not set")),
            Some(content_type) if is_json(content_type) => {}
            Some(_) => {
                let message = "The request's content-type is not supported";
                return Err(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
            }
        }
        let limit = self.options.max_body_bytes;
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let Some(length) = length.filter(|length| *length <= limit) else {
            let message = format!("The request payload exceeds the maximum allowed of {limit} bytes");
            return Err(plain(StatusCode::PAYLOAD_TOO_LARGE, &message));
        };
        let bodies = &self.memory.bodies;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let room = bodies.arriving(Some(client), length).await.map_err(not_taken)?;
        let body = match tokio::time::timeout(BODY_TIMEOUT, request.into_body().collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return Err(plain(StatusCode::BAD_REQUEST, "The request's body did not arrive")),
            Err(_) => return Err(plain(StatusCode::REQUEST_TIMEOUT, "The request's body did not arrive in time")),
        };
        let room = bodies.arrived(Some(client), room, &body, Shape::JsonRpc).await.map_err(not_taken)?;
        Ok((body, room))
    }

    async fn answer(&self, body: Bytes, room: BodyRoom, asking: Asking<'_>) -> Response {
        let batch_max = usize::try_from(self.options.batch_requests_max).unwrap_or(usize::MAX);
        let bytes = body.len();
        let parsed = self.memory.apart.run(|| bytes > LARGE_BYTES, async { json_rpc::parse(&body, batch_max) }).await;
        drop(body);
        let (id, answer, answer_room) = match parsed {
            json_rpc::Body::One(entry) => match self.answer_entry(entry, bytes, &asking).await {
                Some((id, answer)) => (id, answer, None),
                None => return without_id(),
            },
            json_rpc::Body::Batch(entries) => {
                self.watch.counters.batches.add(1);
                self.rate_limit.charge(asking.client, entries.len().saturating_sub(1));
                match self.answer_batch(entries, bytes, &asking).await {
                    Ok((answer, room)) if !answer.is_empty() => (Value::Null, answer, room),
                    Ok(_) => return without_id(),
                    Err(failure) => (Value::Null, refusal(&Value::Null, &failure), None),
                }
            }
        };
        let id = repeated(id);
        drop(room);
        let sent = self.send(answer, answer_room, &asking).await;
        let mut response = sent.unwrap_or_else(|failure| respond_with(refusal(&id, &failure), None));
        if asking.origin.is_log.into_inner() {
            response.headers_mut().insert(ANSWERED_FROM, HeaderValue::from_static("log"));
        }
        response
    }

    /// The answers in the order of the calls, and their room; none where there are only notifications.
    async fn answer_batch(
        &self,
        entries: Vec<Entry>,
        bytes: usize,
        asking: &Asking<'_>,
    ) -> Result<(Pieces, Option<Room>), Failure> {
        let share = bytes / entries.len().max(1);
        let growing = GrowingAnswer::new(&self.memory.answers, Some(asking.client));
        let answers = stream::iter(entries).map(async |entry| {
            let Some((id, answer)) = self.answer_entry(entry, share, asking).await else { return Ok(None) };
            match growing.add(answer.len()).await {
                Ok(()) => Ok(Some(answer)),
                Err(Ungrown::TooLong) => Ok(Some(refusal(&repeated(id), &Failure::no_room_in_batch()))),
                Err(Ungrown::Crowded) => Err(Failure::crowded()),
            }
        });
        let mut answers = Box::pin(answers.buffered(BATCH_CONCURRENCY));
        let mut body = Pieces::default();
        while let Some(answer) = answers.next().await {
            let Some(answer) = answer? else { continue };
            body.extend(if body.is_empty() { b"[" } else { b"," });
            body.append(answer);
        }
        drop(answers);
        if !body.is_empty() {
            body.extend(b"]");
        }
        Ok((body, growing.into_room()))
    }

    /// The answer to a call, and its id.
    async fn answer_entry(&self, entry: Entry, bytes: usize, asking: &Asking<'_>) -> Option<(Value, Pieces)> {
        let mut answer = Pieces::default();
        let id = match entry {
            Entry::Notification => return None,
            Entry::Malformed { id, failure } => {
                tracing::debug!(request = ?asking.id, code = failure.code.number(), "malformed call");
                json_rpc::write_answer(&id, Err(&failure), &mut answer);
                id
            }
            Entry::Call(Call { id, method, params }) => {
                let outcome = self.call(&method, params, bytes, asking).await;
                json_rpc::write_answer(&id, outcome.as_ref().map(Bytes::clone), &mut answer);
                id
            }
        };
        Some((id, answer))
    }

    /// Waits until an answer may be as large as it is, and compresses it as the client asks.
    async fn send(&self, answer: Pieces, room: Option<Room>, asking: &Asking<'_>) -> Result<Response, Failure> {
        let Memory { answers, finishing, .. } = &*self.memory;
        let bytes = answer.len();
        let room = match room {
            None if bytes > SMALL_BYTES => {
                let room = answers.room(Some(asking.client), bytes, bytes).await;
                Some(room.map_err(|Crowded| Failure::crowded())?)
            }
            room => room,
        };
        if !COMPRESSED_BYTES.contains(&bytes) {
            return Ok(respond_with(answer, room));
        }
        let (answer, room) = match asking.coding {
            None => (answer, room),
            Some(coding) => {
                let compressing = move || (coding.compress(bytes, answer.iter()), room);
                let (compressed, room) = match bytes {
                    0..=SMALL_BYTES => compressing(),
                    _ => finishing.run(bytes, compressing).await.map_err(internal)?,
                };
                (Pieces::from(compressed.map_err(internal)?), room)
            }
        };
        let mut response = respond_with(answer, room);
        if let Some(coding) = asking.coding {
            response.headers_mut().insert(header::CONTENT_ENCODING, coding.header());
        }
        response.headers_mut().insert(header::VARY, HeaderValue::from_name(header::ACCEPT_ENCODING));
        Ok(response)
    }

    /// Answers a call from the cache or has its method answer it.
    async fn call(
        &self,
        name: &str,
        params: Option<Value>,
        bytes: usize,
        asking: &Asking<'_>,
    ) -> Result<Bytes, Failure> {
        let begun = Instant::now();
        let Some(method) = self.methods.get(name) else {
            self.watch.counters.count_unknown(begun.elapsed());
            let text = format!("'{name}' is not a supported json-rpc method on this server");
            return Err(Failure::new(Code::MethodNotFound, text));
        };
        let node = Node::new(&self.watch.link, self.watch.log.get());
        let answering = self.answer_or_cached(method, params, &node);
        let outcome = self.memory.apart.run(|| bytes > LARGE_BYTES || node.has_large_answer(), answering).await;
        let (time, failure) = (begun.elapsed(), outcome.as_ref().err().map(|failure| failure.code));
        if let Some(counters) = self.watch.counters.of(method) {
            counters.count(bytes, time, node.waited(), failure);
        }
        // A call that failed was not answered, even if the log knew some of it.
        let is_from_log = outcome.is_ok() && node.has_used_log();
        let (code, from) = (failure.map(Code::number), if is_from_log { "log" } else { "node" });
        asking.origin.is_log.fetch_or(is_from_log, Ordering::Relaxed);
        tracing::debug!(request = ?asking.id, method = method.name, from, ?code, ?time, node_time = ?node.waited(), "call answered");
        outcome
    }

    async fn answer_or_cached(
        &self,
        method: &Method,
        params: Option<Value>,
        node: &Node<'_>,
    ) -> Result<Bytes, Failure> {
        let key = (self.cache.is_on() && method.may_last()).then(|| cache_key(method, params.as_ref()));
        if let Some(answer) = key.as_deref().and_then(|key| self.cache.get(key)) {
            self.watch.counters.cache_hits.add(1);
            return Ok(answer);
        }
        let reply = method.run(node, params).await?;
        let json = Bytes::from(reply.json);
        // What the log lacks, the node may have.
        if let Some(key) = key.filter(|_| reply.lasts && !node.has_used_log()) {
            self.watch.counters.cache_misses.add(1);
            self.cache.put(key, json.clone());
        }
        Ok(json)
    }
}

fn cache_key(method: &Method, params: Option<&Value>) -> String {
    match params {
        Some(params) => format!("{} {params}", method.name),
        None => method.name.to_owned(),
    }
}

/// Whether a content type is JSON, with or without parameters, in any case.
fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// What is answered outside of JSON-RPC.
fn plain(status: StatusCode, message: &str) -> Response {
    let message = Value::from(message);
    json(status, format!("{{\"message\":{message}}}"))
}

fn without_id() -> Response {
    plain(StatusCode::BAD_REQUEST, "The request is missing the 'id' field")
}

fn not_taken(reason: NotTaken) -> Response {
    match reason {
        NotTaken::Crowded => {
            let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, &reason.to_string());
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        NotTaken::TooManyValues { .. } => plain(StatusCode::PAYLOAD_TOO_LARGE, &reason.to_string()),
    }
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, error.to_string())
}

/// The id of a call in an answer that has no room: a long one is left out.
fn repeated(id: Value) -> Value {
    match id {
        Value::String(id) if id.len() > REPEATED_ID_BYTES_MAX => Value::Null,
        id => id,
    }
}

fn refusal(id: &Value, failure: &Failure) -> Pieces {
    let mut answer = Pieces::default();
    json_rpc::write_answer(id, Err(failure), &mut answer);
    answer
}

/// An answer, with as much of its room as it needs while it is sent.
fn respond_with(answer: Pieces, room: Option<Room>) -> Response {
    let bytes = answer.len();
    let room = room.filter(|_| bytes > SMALL_BYTES).map(|room| room.shrunk_to(bytes));
    let mut response = Response::new(answer.into_body(room));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn json(status: StatusCode, body: String) -> Response {
    let mut response = respond_with(Pieces::from(body.into_bytes()), None);
    *response.status_mut() = status;
    response
}
