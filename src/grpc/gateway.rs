//! The gateway: a request becomes a call of an upstream's method, and its messages become the answer.
//!
//! A request flows in with its route; the answer of the upstream flows out in the form that the client accepts. Until the
//! first message an error has its own HTTP status; after it, it is the end of the stream.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use prost_reflect::DynamicMessage;
use tokio::time::Instant;
use tonic::Status;

use super::answers::{END_ID, Errors, Source, StreamedBody, Writing, raw_data};
use super::binding::request_message;
use super::counters::GatewayCounters;
use super::json::JsonForm;
use super::metadata;
use super::openapi;
use super::options::{EventForm, Options};
use super::rules::{AnswerKind, Binding, BodyRule, Found, NoRoute, Routes, RuleError, bindings};
use super::status;
use super::upstream::{Call, Upstream};
use crate::engine::http::about;
use crate::engine::http::access::Client;
use crate::engine::http::memory::{
    AnswerMemory, BodyMemory, BodyRoom, Crowded, FREE_BYTES, NotTaken, Pieces, SMALL_BYTES, Shape,
};
use crate::engine::http::weights::names;
use crate::engine::stream::{Framing, OpenStream, OpenStreams};

/// How long an event stream waits for a first message or error before it begins without.
const QUIET_START: Duration = Duration::from_millis(250);
/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const FORM: &str = "application/x-www-form-urlencoded";
/// The largest body that is read where it arrives.
const QUICK_BODY_BYTES: usize = 64 << 10;
/// Names the method that a form replaces; GET without it.
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
/// The media types that ask for a stream as lines of JSON.
pub(super) const LINES: [&str; 2] = [Framing::JsonLines.media_type(), "application/json"];
const OPENAPI_PATH: &str = "/openapi.json";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What requests are answered from.
pub(super) struct Gateway {
    options: Options,
    upstreams: Vec<Arc<Upstream>>,
    served: RwLock<Arc<Served>>,
    open_streams: OpenStreams,
    /// What bodies and answers of one message may take.
    bodies: BodyMemory,
    answers: AnswerMemory,
    counters: Arc<GatewayCounters>,
}

/// What the upstreams' descriptors say.
struct Served {
    routes: Routes,
    openapi: Bytes,
    /// Upstreams that have not described themselves.
    undescribed: Vec<String>,
}

/// What is answered instead of a call's answer.
struct Refused {
    status: Status,
    http: Option<StatusCode>,
    allow: Option<HeaderValue>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Refused { status, http: None, allow: None }
    }
}

impl From<Crowded> for Refused {
    fn from(Crowded: Crowded) -> Self {
        let status = Status::resource_exhausted(Crowded.to_string());
        Refused { status, http: Some(StatusCode::SERVICE_UNAVAILABLE), allow: None }
    }
}

impl From<NotTaken> for Refused {
    fn from(reason: NotTaken) -> Self {
        let http = match reason {
            NotTaken::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            NotTaken::TooManyValues { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        };
        Refused { status: Status::resource_exhausted(reason.to_string()), http: Some(http), allow: None }
    }
}

impl Gateway {
    /// # Errors
    /// For a rule that cannot be served; reading the rules of an upstream that describes itself is not an error of the start.
    pub(super) fn new(
        options: Options,
        upstreams: Vec<Arc<Upstream>>,
        open_streams: OpenStreams,
        counters: Arc<GatewayCounters>,
    ) -> Result<Gateway, RuleError> {
        let served = RwLock::new(Arc::new(Served::of(&options, &upstreams, |_, error| Err(error))?));
        let (bodies, answers) = (BodyMemory::new(options.message_bytes_max), AnswerMemory::default());
        Ok(Gateway { options, upstreams, served, open_streams, bodies, answers, counters })
    }

    /// Serves what an upstream has described by reflection, once it has.
    pub(super) async fn describe(&self, upstream: &Upstream) {
        upstream.describe().await;
        let refused = |upstream: &Upstream, error| {
            let upstream = upstream.name();
            tracing::error!(upstream, %error, "the methods of the upstream are not served; correct its rules, then restart");
            Ok(())
        };
        if let Ok(served) = Served::of(&self.options, &self.upstreams, refused) {
            *self.served.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served);
        }
    }

    fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn answer(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let answered = self.try_answer(&head, body).await;
        answered.unwrap_or_else(|Refused { status, http, allow }| {
            self.counters.count_error(status.code());
            let mut response = status::answer(&status::shortened(status), None, false);
            if let Some(http) = http {
                *response.status_mut() = http;
                status::ask_later(&mut response);
            }
            if let Some(allow) = allow {
                response.headers_mut().insert(header::ALLOW, allow);
            }
            response
        })
    }

    async fn try_answer(&self, head: &Parts, body: Body) -> Result<Response, Refused> {
        let served = self.served();
        let path = head.uri.path();
        let (method, is_form) = match self.options.takes_forms {
            true => called(&head.method, &head.headers)?,
            false => (head.method.clone(), false),
        };
        let found = match served.routes.find(&method, path, is_form) {
            Ok(found) => found,
            Err(NoRoute::NotFound) => {
                return self.own_page(&served, head).ok_or_else(|| served.refuse(NoRoute::NotFound));
            }
            Err(no_route) => return Err(served.refuse(no_route)),
        };
        let place = self.open_streams.open().ok_or_else(|| {
            self.open_streams.counters().refused.add(1);
            Status::unavailable("as many calls are open as may be; ask again later")
        })?;
        let binding = Arc::clone(&found.binding);
        let is_streaming = binding.rpc.method.is_server_streaming();
        if is_streaming && head.headers.get("last-event-id").is_some_and(|id| id == END_ID) {
            // The stream has ended in order: a browser shall not ask again.
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        let scalars = binding.scalars;
        let (body, room) = match (&binding.body, found.is_form) {
            (BodyRule::None, false) => (Bytes::new(), BodyRoom::default()),
            (_, true) => self.read(body, Client::of(&head.extensions), Shape::Form(scalars)).await?,
            (_, false) => self.read(body, Client::of(&head.extensions), Shape::Json(scalars)).await?,
        };
        let (message, room) = self.message(found, head.uri.query(), body, room).await?;
        let time = metadata::deadline(&head.headers).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let passed = metadata::request_metadata(&head.headers, Client::of(&head.extensions));
        let upstream = self.upstreams.get(binding.rpc.upstream).ok_or_else(|| Status::internal("no upstream"))?;
        let (upstream, rpc) = (Arc::clone(upstream), Arc::clone(&binding.rpc));
        let time = if is_streaming { time } else { Some(self.call_time(time)) };
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        let opening = async move {
            // What was made of the body is sent once the call is open.
            let _room = room;
            upstream.call(&rpc, message, passed, time).await
        };
        self.counters.calls.add(1);
        let call = Streamed { gateway: self, binding: &binding, head, deadline, place };
        let source = Source::Opening(Box::pin(opening));
        if is_streaming { call.stream(source).await } else { call.one(source).await }
    }

    /// What is answered at the paths that are the gateway's own, unless a rule has them.
    fn own_page(&self, served: &Served, head: &Parts) -> Option<Response> {
        match (head.uri.path(), &head.method) {
            ("/" | OPENAPI_PATH, &Method::OPTIONS) => Some(about::read_methods()),
            ("/", &Method::GET | &Method::HEAD) => Some(about::contents(index(&self.options))),
            (OPENAPI_PATH, &Method::GET | &Method::HEAD) => {
                let mut response = Response::new(Body::from(served.openapi.clone()));
                response.headers_mut().insert(header::CONTENT_TYPE, JSON);
                Some(response)
            }
            _ => None,
        }
    }

    /// The message that a request is for its method. A large one is read on a thread of its own, which takes a part of a
    /// second for one of several MiB.
    async fn message(
        &self,
        found: Found,
        query: Option<&str>,
        body: Bytes,
        room: BodyRoom,
    ) -> Result<(DynamicMessage, BodyRoom), Status> {
        let ignores_unknown = self.options.discard_unknown;
        let (read, room) = if body.len() <= QUICK_BODY_BYTES {
            (request_message(&found, query, &body, ignores_unknown), room)
        } else {
            let query = query.map(str::to_owned);
            // The room goes with the work, which does not end when its client leaves.
            let reading = move || (request_message(&found, query.as_deref(), &body, ignores_unknown), room);
            let reading = tokio::task::spawn_blocking(reading).await;
            reading.map_err(|error| Status::internal(error.to_string()))?
        };
        Ok((read.map_err(|error| Status::invalid_argument(error.to_string()))?, room))
    }

    fn call_time(&self, wanted: Option<Duration>) -> Duration {
        wanted.map_or(self.options.call_timeout, |wanted| wanted.min(self.options.call_timeout))
    }

    /// A body, and the room that it needs until the upstream has it.
    async fn read(&self, body: Body, client: Option<SocketAddr>, shape: Shape) -> Result<(Bytes, BodyRoom), Refused> {
        let most = self.options.message_bytes_max;
        let too_large = || Refused {
            status: Status::resource_exhausted(format!("the body is larger than {most} bytes")),
            http: Some(StatusCode::PAYLOAD_TOO_LARGE),
            allow: None,
        };
        if body.size_hint().lower() > most as u64 {
            return Err(too_large());
        }
        let client = client.map(|client| client.ip());
        let is_late = |_| Refused {
            status: Status::deadline_exceeded("the body has not arrived in time"),
            http: Some(StatusCode::REQUEST_TIMEOUT),
            allow: None,
        };
        let broken = |error: BoxError| match error.is::<http_body_util::LengthLimitError>() {
            true => too_large(),
            false => Status::cancelled(format!("the body has broken off: {error}")).into(),
        };
        let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let mut body = Limited::new(body, most);
        let (mut start, begun) = (Vec::new(), Instant::now());
        if length.is_none() {
            // Most are small, and then they need no room.
            let starting = async {
                while start.len() <= FREE_BYTES
                    && let Some(frame) = body.frame().await
                {
                    start.extend_from_slice(frame?.data_ref().map_or(&[], Bytes::as_ref));
                }
                Ok::<_, BoxError>(())
            };
            tokio::time::timeout(BODY_TIMEOUT, starting).await.map_err(is_late)?.map_err(broken)?;
        }
        let time_left = BODY_TIMEOUT.saturating_sub(begun.elapsed());
        let expected = length.unwrap_or(if start.len() <= FREE_BYTES { start.len() } else { most });
        let room = self.bodies.arriving(client, expected).await?;
        let rest = tokio::time::timeout(time_left, body.collect()).await.map_err(is_late)?.map_err(broken)?.to_bytes();
        let body = if start.is_empty() { rest } else { [start.as_slice(), &rest].concat().into() };
        let room = self.bodies.arrived(client, room, &body, shape).await?;
        Ok((body, room))
    }
}

impl Served {
    /// Without the upstreams whose rules cannot be served, as long as `refused` lets that pass.
    fn of(
        options: &Options,
        upstreams: &[Arc<Upstream>],
        refused: impl Fn(&Upstream, RuleError) -> Result<(), RuleError>,
    ) -> Result<Served, RuleError> {
        let mut routes = Routes::default();
        let mut undescribed = Vec::new();
        for (place, upstream) in upstreams.iter().enumerate() {
            let schema = upstream.schema().borrow().clone();
            let Some(schema) = schema else {
                undescribed.push(upstream.name().to_owned());
                continue;
            };
            let added = bindings(place, &schema, options.generate_unbound_methods).and_then(|all| routes.add(all));
            added.or_else(|error| refused(upstream, error))?;
        }
        let openapi = openapi::document(&routes, options.json.use_proto_names, options.wraps_results);
        Ok(Served { routes, openapi, undescribed })
    }

    fn refuse(&self, no_route: NoRoute) -> Refused {
        match no_route {
            NoRoute::NotFound if !self.undescribed.is_empty() => {
                let names = self.undescribed.join(", ");
                Status::unavailable(format!("no such path yet: the upstream {names} has not described its services"))
                    .into()
            }
            NoRoute::NotFound => Status::not_found("Not Found").into(),
            NoRoute::OtherMethods(methods) => {
                let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
                let allow = HeaderValue::try_from(names.join(", ")).ok();
                Refused { status: Status::unimplemented("Method Not Allowed"), http: None, allow }
            }
            NoRoute::BadEscape => Status::invalid_argument("the path has an escape that is not one").into(),
            NoRoute::NotAPath => Status::invalid_argument("Bad Request").into(),
        }
    }
}

/// A call that is being answered.
struct Streamed<'a> {
    gateway: &'a Gateway,
    binding: &'a Binding,
    head: &'a Parts,
    deadline: Option<Instant>,
    place: OpenStream,
}

impl Streamed<'_> {
    /// The answer of a method with many messages.
    async fn stream(self, mut source: Source) -> Result<Response, Refused> {
        let writing = self.writing();
        let Writing { framing, errors, kind, .. } = writing;
        let first = {
            let next = poll_fn(|context| source.poll_next(context));
            let limit = match framing {
                Framing::EventStream => Some(Instant::now() + QUIET_START),
                Framing::JsonLines => self.deadline,
            };
            match limit {
                None => Some(next.await),
                Some(limit) => tokio::time::timeout_at(limit, next).await.ok(),
            }
        };
        let is_late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let first = match first {
            None if is_late => Some(Some(Err(status::late()))),
            Some(Some(Err(error))) => Some(Some(Err(status::of_deadline(error, self.deadline)))),
            first => first,
        };
        if let Some(Some(Err(error))) = &first
            && errors != Errors::ForkEvent
        {
            self.gateway.counters.count_error(error.code());
            return Ok(status::answer(error, Some(&writing.pool), errors == Errors::Line));
        }
        let mut headers = HeaderMap::new();
        framing.describe(&mut headers);
        // Lines that are not asked for by their own name have the type of what is in them.
        if framing == Framing::JsonLines && !names(&self.head.headers, &header::ACCEPT, framing.media_type()) {
            let raw =
                first.as_ref().and_then(|first| first.as_ref()?.as_ref().ok()).filter(|_| kind == AnswerKind::Raw);
            headers.insert(header::CONTENT_TYPE, raw.and_then(media_type).unwrap_or(JSON));
        }
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        if let Source::Open(call) = &mut source {
            metadata::add_headers(&mut headers, std::mem::take(&mut call.metadata));
        }
        // A stream without a message is over: the body says so when it is asked.
        let first = first.flatten();
        let counters = Arc::clone(&self.gateway.counters);
        let body = StreamedBody::new(source, writing, first, self.deadline, counters, self.place);
        let mut response = Response::new(Body::new(body));
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// How the messages of a stream are written for this client.
    fn writing(&self) -> Writing {
        let Options { json, wraps_results, event_form, .. } = self.gateway.options;
        let is_event_source = self.binding.rpc.answer == AnswerKind::Event;
        let default = if is_event_source { Framing::EventStream } else { Framing::JsonLines };
        let headers = &self.head.headers;
        let wanted = Framing::accepted_or_default(headers, &LINES, default);
        let writing = Writing { wraps_results, ..Writing::of(self.binding, wanted, json) };
        if !is_event_source || event_form == EventForm::Standard {
            return writing;
        }
        let mut accepted = headers.get_all(header::ACCEPT).iter();
        let names_events = accepted.any(|value| value == Framing::EventStream.media_type());
        Writing {
            framing: Framing::EventStream,
            errors: if names_events { Errors::ForkEvent } else { Errors::Line },
            json: JsonForm { include_type_url: true, ..json },
            is_fork: true,
            ..writing
        }
    }

    /// The answer of a method with one message.
    async fn one(self, mut source: Source) -> Result<Response, Refused> {
        match self.message(&mut source).await {
            Ok((answer, mut headers, trailers)) => {
                let (bytes, client) = (answer.len(), Client::of(&self.head.extensions).map(|client| client.ip()));
                let room = match bytes {
                    0..=SMALL_BYTES => None,
                    _ => Some(self.gateway.answers.room(client, bytes, bytes).await?),
                };
                let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
                if let Ok(names) = HeaderValue::try_from(names.join(", "))
                    && !names.is_empty()
                {
                    headers.insert(header::TRAILER, names);
                }
                let mut response = Response::new(answer.into_body_with_trailers(room, trailers));
                *response.headers_mut() = headers;
                Ok(response)
            }
            Err(error) => {
                self.gateway.counters.count_error(error.code());
                Ok(status::answer(&error, Some(self.binding.rpc.method.parent_pool()), false))
            }
        }
    }

    /// The message as the body of an answer, its headers and its trailers.
    async fn message(&self, source: &mut Source) -> Result<(Pieces, HeaderMap, HeaderMap), Status> {
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + self.gateway.options.call_timeout);
        let in_time = |error| status::of_deadline(error, Some(deadline));
        let next = poll_fn(|context| source.poll_next(context));
        let message = tokio::time::timeout_at(deadline, next).await.map_err(|_| status::late())?;
        let message = message.ok_or_else(|| Status::internal("empty response"))?.map_err(in_time)?;
        self.gateway.counters.messages.add(1);
        let mut headers = HeaderMap::new();
        let mut trailers = HeaderMap::new();
        if let Source::Open(call) = source {
            let Call { messages, metadata: leading, .. } = &mut **call;
            // The status comes after the message.
            let trailing = tokio::time::timeout_at(deadline, messages.trailers()).await.map_err(|_| status::late())?;
            let trailing = trailing.map_err(in_time)?;
            metadata::add_headers(&mut headers, std::mem::take(leading));
            let takes_trailers = names(&self.head.headers, &header::TE, "trailers");
            if let Some(trailing) = trailing.filter(|_| takes_trailers) {
                metadata::add_trailers(&mut trailers, trailing);
            }
        }
        let mut answer = Pieces::default();
        let mut content_type = JSON;
        let mut out = Vec::new();
        let json = self.gateway.options.json;
        match (&self.binding.response_body, self.binding.rpc.answer) {
            (None, AnswerKind::Raw) => {
                answer.push(raw_data(&message));
                content_type = media_type(&message).unwrap_or(HeaderValue::from_static("application/octet-stream"));
            }
            (Some(field), _) => json.write_field(&message, field, &mut out)?,
            (None, _) => json.write(&message, &mut out)?,
        }
        answer.append(Pieces::from(out));
        headers.insert(header::CONTENT_TYPE, content_type);
        Ok((answer, headers, trailers))
    }
}

/// The paths that exist, for people with a browser.
fn index(options: &Options) -> String {
    let streams: String = options.streams.iter().map(|stream| format!("{}?start_from=0\n", stream.path)).collect();
    format!("Sidecar's gRPC gateway: {OPENAPI_PATH} says what is served.\n{streams}")
}

/// The media type of a `google.api.HttpBody`.
fn media_type(message: &DynamicMessage) -> Option<HeaderValue> {
    let value = message.get_field_by_name("content_type")?;
    value.as_str().filter(|text| !text.is_empty()).and_then(|text| HeaderValue::try_from(text).ok())
}

/// The method that a request is for, and whether a POST with a form replaces it.
pub(super) fn called(method: &Method, headers: &HeaderMap) -> Result<(Method, bool), Status> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let essence = text(header::CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
    if *method != Method::POST || !essence.trim().eq_ignore_ascii_case(FORM) {
        return Ok((method.clone(), false));
    }
    match text(METHOD_OVERRIDE).map(|name| name.trim().to_ascii_uppercase()).filter(|name| !name.is_empty()) {
        None => Ok((Method::POST, true)),
        Some(name) => Method::from_bytes(name.as_bytes()).map(|method| (method, true)).map_err(|_| {
            let text = "the header X-HTTP-Method-Override does not name a method; set it to GET, PUT, PATCH or DELETE";
            Status::invalid_argument(text)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{DescriptorSource, UpstreamOptions};
    use super::*;
    use crate::engine::stream::PortOptions;

    #[tokio::test]
    async fn an_upstream_with_rules_of_another_one_is_left_out_and_the_others_are_served() {
        let folder = tempfile::tempdir().unwrap();
        let upstream = |name: &str, path: &str| {
            let file = folder.path().join(format!("{name}.proto"));
            let rule = format!("option (google.api.http) = {{ get: \"{path}\" }};");
            let text = format!(
                "syntax = \"proto3\"; package {name}; import \"google/api/annotations.proto\"; message M {{}}
                 service S {{ rpc Own(M) returns (M) {{ option (google.api.http) = {{ get: \"/{name}\" }}; }}
                              rpc Same(M) returns (M) {{ {rule} }} }}"
            );
            std::fs::write(&file, text).unwrap();
            let descriptors = DescriptorSource::Protos { files: vec![file], include_paths: Vec::new() };
            let (name, address) = (name.to_owned(), "http://127.0.0.1:1".to_owned());
            let options = UpstreamOptions { name, address, ca_certificate: None, descriptors };
            Arc::new(Upstream::open(&options, 1 << 20).unwrap())
        };
        let upstreams = [upstream("first", "/same"), upstream("second", "/same"), upstream("third", "/other")];
        let options = Options::new(PortOptions::default(), Vec::new());
        let served = Served::of(&options, &upstreams, |_, _| Ok(())).unwrap();
        let is_served = |path: &str| served.routes.find(&Method::GET, path, false).is_ok();
        assert_eq!(["/first", "/same", "/second", "/third", "/other"].map(is_served), [true, true, false, true, true]);
        let refused = Served::of(&options, &upstreams, |upstream, error| {
            assert_eq!(upstream.name(), "second");
            Err(error)
        });
        assert!(refused.is_err());
    }
}
