//! HTTP: from a request to a response.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use bytes::Bytes;
use sidecar_log_format::Sequence;

use super::answer_from::{AnswerFrom, OtherLogs};
use super::answers::{Form, Found};
use super::any_log::{Logs, NamedLog};
use super::counters::Counters;
use super::failure::Failure;
use super::log_budget::LogBudget;
use super::page::PageEnd;
use super::question::{Hash, PageOfBlocks, PageOfEvents, Question, Refusal, Request};
use super::{RestOptions, document, endpoints};
use crate::casper::keys::{Stage, TransactionType};
use crate::engine::http::{
    BindError, about,
    access::Client,
    coding::{COMPRESSED_BYTES, Coding},
    cors::{PageMethods, let_pages_in},
    finishing::Finishing,
    front::Front,
    limits::FrontLimits,
    memory::{MIDDLING_BYTES, SMALL_BYTES},
    tags,
    turns::Limits,
};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 512;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// For what its hash names: it never changes.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// The same where clients need a token: a cache that they share must not answer those without one.
const IMMUTABLE_FOR_ONE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
/// For all else: ask again, with the tag. After a restore, a sequence, a height or an era may name another event.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
/// What an answer depends on beside its path: a cache keeps the origin that may read it, and how it is compressed.
const VARY: HeaderValue = HeaderValue::from_static("origin, accept-encoding");

/// A bound REST server.
pub struct Server {
    front: Front,
    shared: Shared,
}

struct Shared {
    options: RestOptions,
    answers: AnswerFrom,
    logs: Logs,
    counters: Arc<Counters>,
    limits: Limits,
    swagger_ui: Arc<utoipa_swagger_ui::Config<'static>>,
    failures: LogBudget,
    finishing: Finishing,
}

impl Server {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address or the file.
    pub fn bind(options: RestOptions, answers: AnswerFrom) -> Result<Server, BindError> {
        let front =
            Front::bind(&options.listen, options.port, FrontLimits::of_answers(CONNECTIONS_MAX), Arc::default())?;
        Ok(Server { front, shared: Shared::new(options, answers) })
    }

    /// Answers for these logs by their names, too.
    #[must_use]
    pub fn with_logs(mut self, logs: Vec<NamedLog>) -> Server {
        self.shared.logs = Logs::new(logs, self.shared.answers.memory());
        self
    }

    /// Where it listens, and what it counts of connections and requests.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// What the server has done so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Serves until `cancel` is done; then every connection is cut.
    pub async fn run(self, cancel: impl Future<Output = ()>) {
        self.front.serve(router(Arc::new(self.shared)), cancel).await;
    }
}

/// `/logs` and what is below it, for another server: with limits of its own, so that REST clients do not share them.
pub struct LogPages(Arc<Shared>);

impl Default for LogPages {
    /// Of no log.
    fn default() -> Self {
        LogPages::new(Vec::new(), None)
    }
}

impl LogPages {
    /// Of these logs. Large answers share what those of `rest` may take, if there is one.
    #[must_use]
    pub fn new(logs: Vec<NamedLog>, rest: Option<&Server>) -> LogPages {
        let memory = rest.map(|rest| Arc::clone(rest.shared.answers.memory())).unwrap_or_default();
        let options = RestOptions { max_concurrent_requests: 4, max_requests_per_second: 50, ..RestOptions::new() };
        let mut shared = Shared::new(options, AnswerFrom::OtherLogs(OtherLogs { memory }));
        shared.logs = Logs::new(logs, shared.answers.memory());
        LogPages(Arc::new(shared))
    }

    /// Whether a path is one of these.
    #[must_use]
    pub fn has(path: &str) -> bool {
        path.strip_prefix("/logs").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Answers a request for one of these paths.
    pub async fn respond(&self, request: HttpRequest) -> Response {
        let turn = self.0.limits.turn(client_of(&request)).await;
        turn.work(respond(State(Arc::clone(&self.0)), request)).await
    }
}

/// Paths are matched raw, not decoded, and every method is answered: all of it is the fallback's.
fn router(shared: Arc<Shared>) -> Router {
    let count = middleware::from_fn_with_state(Arc::clone(&shared), count);
    let pages = (shared.options.listen.origins.clone(), PageMethods::Read);
    let cors = middleware::from_fn_with_state(pages, let_pages_in);
    Router::new().fallback(respond).with_state(shared).layer(cors).layer(count)
}

/// Lets a request wait for its turn and counts it, a preflight like any other.
async fn count(State(shared): State<Arc<Shared>>, request: HttpRequest, next: Next) -> Response {
    let turn = shared.limits.turn(client_of(&request)).await;
    let in_flight = shared.counters.begin(endpoints::label(request.uri().path()));
    let response = turn.work(next.run(request)).await;
    in_flight.end(response.status());
    response
}

fn client_of(request: &HttpRequest) -> Option<IpAddr> {
    Client::of(request.extensions()).map(|address| address.ip())
}

async fn respond(State(shared): State<Arc<Shared>>, request: HttpRequest) -> Response {
    let (request, _) = request.into_parts();
    let answering = shared.answer(&request.method, &request.uri, &request.headers);
    match tokio::time::timeout(shared.options.request_timeout, answering).await {
        Ok(response) => response,
        Err(_) => failure(&Failure::TooSlow, &shared.failures),
    }
}

impl Shared {
    fn new(options: RestOptions, answers: AnswerFrom) -> Shared {
        Shared {
            answers,
            logs: Logs::default(),
            counters: Arc::default(),
            limits: Limits::new(options.max_concurrent_requests, options.max_requests_per_second),
            swagger_ui: Arc::new(utoipa_swagger_ui::Config::from(document::PATH).try_it_out_enabled(true)),
            failures: LogBudget::default(),
            finishing: Finishing::default(),
            options,
        }
    }

    async fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
        let request = match endpoints::parse(method, uri.path(), uri.query()) {
            Ok(request) => request,
            Err(refusal) => return refused(&refusal),
        };
        let answer = match request {
            Request::One(question) => self.one(&question).await,
            Request::All(question) => self.all(&question).await,
            Request::Aggregate(form, hash, given) => self.aggregate(form, &hash, given).await,
            Request::Blocks(page) => self.blocks(page).await,
            Request::Transactions(question) => self.transactions(&question).await,
            Request::Event(sequence) => self.event(sequence).await,
            Request::Events(page) => self.events(page).await,
            Request::EventOf(log, sequence) => self.event_of(log, sequence).await,
            Request::EventsOf(log, query) => match self.logs.question(log, query) {
                Ok(Ok(page)) => self.events_of(log, page).await,
                Ok(Err(refusal)) => return refused(&refusal),
                Err(reason) => Err(reason),
            },
            Request::Logs => return with_type(StatusCode::OK, JSON, Bytes::from(self.logs.list())),
            Request::StatusOf(log) => match self.logs.status(log) {
                Ok(status) => return with_type(StatusCode::OK, JSON, Bytes::from(status)),
                Err(reason) => Err(reason),
            },
            Request::Contents => return about::contents(CONTENTS),
            Request::Methods => return about::read_methods(),
            Request::Status => return self.status(),
            Request::Document => return with_type(StatusCode::OK, JSON, document::json().clone()),
            Request::SwaggerUi => return redirect_to_swagger_ui(),
            Request::SwaggerFile(file) => return self.swagger_file(file),
        };
        let response = match answer {
            Ok(answer) => self.success(answer, headers).await,
            Err(reason) => Err(reason),
        };
        response.unwrap_or_else(|reason| failure(&reason, &self.failures))
    }

    fn found(&self, opening: &str, form: Form) -> Found {
        Found::new(opening, form, &self.counters)
    }

    async fn one(&self, question: &Question) -> Result<Answer, Failure> {
        let found = self.some(question, self.found("", Form::Envelope)).await?;
        Ok(Answer { found, is_final: question.is_by_hash() })
    }

    async fn all(&self, question: &Question) -> Result<Answer, Failure> {
        let mut found = self.some(question, self.found("[", Form::Envelope)).await?;
        found.push_text("]");
        Ok(Answer::new(found))
    }

    /// Adds the events that answer `question` to `found`, which has none; at least one.
    async fn some(&self, question: &Question, found: Found) -> Result<Found, Failure> {
        let found = self.answers.find(question, found).await?;
        if found.events == 0 { Err(Failure::NotFound) } else { Ok(found) }
    }

    /// What is known of a transaction: it must have been accepted, and once it is processed it does not expire.
    async fn aggregate(&self, form: TransactionType, hash: &Hash, given: &str) -> Result<Answer, Failure> {
        let at = |stage| Question::Transaction(stage, form, *hash);
        let opening = format!("{{\"transaction_hash\":\"{given}\",\"transaction_accepted\":");
        let mut found = self.some(&at(Stage::Accepted), self.found(&opening, Form::Envelope)).await?;
        found.push_text(",\"transaction_processed\":");
        let accepted = found.events;
        let mut found = self.answers.find(&at(Stage::Processed), found).await?;
        if found.events > accepted {
            found.push_text(",\"transaction_expired\":false}");
            return Ok(Answer { found, is_final: true });
        }
        let is_expired = self.answers.is_there(&at(Stage::Expired)).await?;
        found.push_display(format_args!("null,\"transaction_expired\":{is_expired}}}"));
        Ok(Answer::new(found))
    }

    async fn event(&self, sequence: Sequence) -> Result<Answer, Failure> {
        let found = self.answers.log()?.read(vec![sequence], self.found("", Form::Stored)).await?;
        if found.events == 0 {
            return Err(Failure::NotFound);
        }
        Ok(Answer::new(found))
    }

    async fn events(&self, page: PageOfEvents) -> Result<Answer, Failure> {
        let answers = self.answers.log()?;
        let (found, end) = answers.page(page, self.found("{\"events\":[", Form::Stored).paged()).await?;
        Ok(page_of(found, &end, answers.log().head().next_sequence))
    }

    async fn event_of(&self, log: &str, sequence: Sequence) -> Result<Answer, Failure> {
        let found = self.logs.event(log, sequence, self.found("", Form::StoredInAny)).await?;
        if found.events == 0 {
            return Err(Failure::NotFound);
        }
        Ok(Answer::new(found))
    }

    async fn events_of(&self, log: &str, page: PageOfEvents) -> Result<Answer, Failure> {
        let found = self.found("{\"events\":[", Form::StoredInAny).paged();
        let (found, end, head) = self.logs.page(log, page, found).await?;
        Ok(page_of(found, &end, head))
    }

    async fn blocks(&self, page: PageOfBlocks) -> Result<Answer, Failure> {
        let found = self.found("{\"blocks\":[", Form::Envelope).paged();
        let (mut found, next) = self.answers.blocks(page, found).await?;
        found.push_text("]");
        found.push_missing();
        found.push_text(",\"next\":");
        found.push_number(next);
        found.push_text("}");
        Ok(Answer::new(found))
    }

    async fn transactions(&self, question: &Question) -> Result<Answer, Failure> {
        let answers = self.answers.log()?;
        let sequences = answers.sequences(question).await?;
        let is_full = matches!(question, Question::TransactionsOf { limit, .. } if sequences.len() >= *limit);
        let found = self.found("{\"transactions\":[", Form::Stored).paged();
        let mut found = answers.read(sequences, found).await?;
        found.push_text("]");
        found.push_missing();
        found.push_text(",\"next\":");
        let next = found.last.filter(|_| found.is_cut || is_full);
        found.push_number(next);
        found.push_text("}");
        Ok(Answer::new(found))
    }

    fn status(&self) -> Response {
        let body = self.answers.status(self.options.version);
        with_type(StatusCode::OK, JSON, Bytes::from(body))
    }

    fn swagger_file(&self, file: &str) -> Response {
        match utoipa_swagger_ui::serve(file, Arc::clone(&self.swagger_ui)) {
            Ok(Some(file)) => {
                let content_type = HeaderValue::from_str(&file.content_type);
                let content_type = content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
                let bytes = match file.bytes {
                    Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                    Cow::Owned(bytes) => Bytes::from(bytes),
                };
                with_type(StatusCode::OK, content_type, bytes)
            }
            Ok(None) => empty(StatusCode::NOT_FOUND),
            Err(error) => failure(&Failure::Storage(error.to_string()), &self.failures),
        }
    }

    async fn success(&self, answer: Answer, headers: &HeaderMap) -> Result<Response, Failure> {
        let Answer { found, is_final } = answer;
        let (mut found, tag) = tagged(&self.finishing, found).await?;
        let coding = Coding::accepted(headers).filter(|_| COMPRESSED_BYTES.contains(&found.body.len()));
        let mut response = if tags::knows(headers, &tag) {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            if let Some(coding) = coding {
                found = compressed(&self.finishing, found, coding).await?;
            }
            let (body, room) = found.keep(self.answers.memory()).await?;
            let mut response = Response::new(body.into_body(room));
            response.headers_mut().insert(header::CONTENT_TYPE, JSON);
            if let Some(coding) = coding {
                response.headers_mut().insert(header::CONTENT_ENCODING, coding.header());
            }
            response
        };
        // A strong tag names bytes, and these are other bytes.
        let tag = if coding.is_some() { format!("W/{tag}") } else { tag };
        if let Ok(tag) = HeaderValue::try_from(tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        let cached = match is_final {
            true if self.options.listen.tokens.are_needed() => IMMUTABLE_FOR_ONE,
            true => IMMUTABLE,
            false => REVALIDATE,
        };
        response.headers_mut().insert(header::CACHE_CONTROL, cached);
        response.headers_mut().insert(header::VARY, VARY);
        Ok(response)
    }
}

/// The answer with its entity tag.
async fn tagged(finishing: &Finishing, found: Found) -> Result<(Found, String), Failure> {
    let tagging = |found: Found| {
        let tag = tags::tag(&found.body);
        (found, tag)
    };
    // Hashing is fast enough for these.
    if found.body.len() <= MIDDLING_BYTES {
        return Ok(tagging(found));
    }
    Ok(finishing.run(found.body.len(), move || tagging(found)).await?)
}

/// The answer in this coding.
async fn compressed(finishing: &Finishing, found: Found, coding: Coding) -> Result<Found, Failure> {
    let compressing = move |mut found: Found| {
        found.body = coding.compress(found.body.len(), std::iter::once(found.body.as_slice()))?;
        std::io::Result::Ok(found)
    };
    let compressed = match found.body.len() {
        0..=SMALL_BYTES => compressing(found),
        bytes => finishing.run(bytes, move || compressing(found)).await?,
    };
    compressed.map_err(|error| Failure::Storage(error.to_string()))
}

/// A page of events, with where the next one begins and where the log ends.
fn page_of(mut found: Found, end: &PageEnd, head: Sequence) -> Answer {
    found.push_text("]");
    found.push_missing();
    found.push_text(",\"next\":");
    found.push_number(end.next);
    found.push_display(format_args!(",\"head\":{head}}}"));
    Answer::new(found)
}

/// What was found.
struct Answer {
    found: Found,
    /// Whether it is named by a hash, and clients may keep it indefinitely.
    is_final: bool,
}

impl Answer {
    fn new(found: Found) -> Self {
        Answer { found, is_final: false }
    }
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The page at the server's address.
const CONTENTS: &str = concat!(
    "Sidecar ",
    env!("CARGO_PKG_VERSION"),
    ", REST: blocks, transactions, faults, signatures, steps and stored events of a Casper node.\n\
     Events of every log, of other dialects too: /logs\n\
     All requests, to read and to try: /swagger-ui/ (for programs: /api-doc.json). How the sidecar is: /status\n"
);

fn redirect_to_swagger_ui() -> Response {
    let mut response = empty(StatusCode::FOUND);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/swagger-ui/"));
    response
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Path => error(StatusCode::BAD_REQUEST, "Invalid request path provided"),
        Refusal::EmptySegment => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Unexpected error in REST server - please file a bug report!\nRejection(NotFound)",
        ),
        Refusal::Query(what) => error(StatusCode::BAD_REQUEST, &format!("Invalid parameter in query: {what}")),
    }
}

fn failure(failure: &Failure, log: &LogBudget) -> Response {
    let status = match failure {
        Failure::NotFound => StatusCode::NOT_FOUND,
        Failure::Lost { .. } => StatusCode::GONE,
        Failure::Behind { .. } | Failure::Closed | Failure::TooSlow | Failure::Crowded => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Failure::OnlyInLog { .. } | Failure::NoCasperLog => StatusCode::NOT_IMPLEMENTED,
        Failure::UnknownShape { .. }
        | Failure::NotJson(_)
        | Failure::Storage(_)
        | Failure::Database
        | Failure::Refused
        | Failure::TooLong => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // Of the database it is logged when it begins and when it is over.
    let is_logged = matches!(failure, Failure::Database | Failure::Refused);
    if status == StatusCode::INTERNAL_SERVER_ERROR && !is_logged && log.allows() {
        let reason = match failure {
            Failure::Storage(reason) => reason.clone(),
            other => other.to_string(),
        };
        tracing::error!(reason, "REST request failed; others that fail within a minute are not logged");
    }
    let mut response = error(status, &failure.to_string());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn error(status: StatusCode, message: &str) -> Response {
    let message = serde_json::Value::from(message);
    let body = format!("{{\"code\":{},\"message\":{message}}}", status.as_u16());
    with_type(status, JSON, Bytes::from(body))
}
