//! CORS: which web pages may read the answers, whatever headers their clients send to resume a stream, to pass caches by, to
//! get past a proxy or to present a token.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

/// What a page may read of an answer, beside what every page may and our own headers.
const RESPONSE_HEADERS: [HeaderName; 2] = [header::ETAG, header::RETRY_AFTER];
/// How our own headers begin.
const OWN_PREFIX: &str = "sidecar-";
/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("86400");

/// Whose pages are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// The server does not speak CORS.
    Off,
    /// Those of any origin.
    Any,
    /// Those of these origins, as browsers write them: `https://example.org`.
    Only(Vec<String>),
}

impl Origins {
    /// Whether pages of `origin` may read.
    #[must_use]
    pub fn let_in(&self, origin: &HeaderValue) -> bool {
        match self {
            Origins::Off => false,
            Origins::Any => true,
            Origins::Only(allowed) => allowed.iter().any(|allowed| origin == allowed.as_str()),
        }
    }
}

/// The methods that pages may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageMethods {
    /// GET and HEAD.
    Read,
    /// Each: the server itself refuses those that a path does not take.
    Any,
}

/// Lets pages of these origins use these methods and read what `next` answers, and answers their preflights.
pub async fn let_pages_in(
    State((origins, methods)): State<(Origins, PageMethods)>,
    request: Request,
    next: Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).filter(|_| origins != Origins::Off);
    let Some(origin) = origin.cloned() else { return next.run(request).await };
    if !origins.let_in(&origin) {
        return forbidden("origin not allowed");
    }
    let mut response = match *request.method() {
        Method::OPTIONS => match preflight(methods, request.headers()) {
            Some(response) => response,
            None => return forbidden("request-method not allowed"),
        },
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    let is_exposed = |name: &&HeaderName| name.as_str().starts_with(OWN_PREFIX) || RESPONSE_HEADERS.contains(name);
    if let Some(exposed) = list(headers.keys().filter(is_exposed)) {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response
}

/// Lets pages of `origin` read an answer.
pub(crate) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
}

/// `None` for a method that pages may not use.
fn preflight(methods: PageMethods, headers: &HeaderMap) -> Option<Response> {
    let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let allowed = match methods {
        PageMethods::Any => wanted.clone(),
        PageMethods::Read if wanted == "GET" || wanted == "HEAD" => HeaderValue::from_static("GET, HEAD"),
        PageMethods::Read => return None,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allowed);
    for names in headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.append(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    Some(response)
}

/// In the reference's words.
pub(crate) fn forbidden(why: &str) -> Response {
    let mut response = Response::new(Body::from(format!("CORS request forbidden: {why}")));
    *response.status_mut() = StatusCode::FORBIDDEN;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

fn list<'a>(names: impl IntoIterator<Item = &'a HeaderName>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.into_iter().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}
