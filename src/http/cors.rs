//! CORS: pages of any origin may read, with the headers that clients of streams and answers send.
//!
//! Where nothing is asked for that the reference refuses, headers and refusals are the reference's.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

/// What a page may send: to resume a stream, to pass caches by, to revalidate, and to get past a proxy that asks who it is.
const REQUEST_HEADERS: [HeaderName; 6] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    header::IF_NONE_MATCH,
    HeaderName::from_static("last-event-id"),
];
/// What a page may read of an answer, beside what every page may and our own headers.
const RESPONSE_HEADERS: [HeaderName; 2] = [header::ETAG, header::RETRY_AFTER];
/// How our own headers begin.
const OWN_PREFIX: &str = "sidecar-";
/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("86400");

/// Lets pages of any origin read what `next` answers, and answers their preflights.
pub async fn allow_any_origin(request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    let mut response = match *request.method() {
        Method::OPTIONS => match preflight(request.headers()) {
            Ok(response) => response,
            Err(refusal) => return refused(refusal),
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

fn preflight(headers: &HeaderMap) -> Result<Response, &'static str> {
    let method = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).map(HeaderValue::as_bytes);
    if !matches!(method, Some(b"GET" | b"HEAD")) {
        return Err("request-method not allowed");
    }
    let wanted = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let mut wanted = wanted.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let is_allowed = |name: &[u8]| {
        name.is_empty() || REQUEST_HEADERS.iter().any(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes()))
    };
    if !wanted.all(is_allowed) {
        return Err("header not allowed");
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
    headers.extend(list(&REQUEST_HEADERS).map(|names| (header::ACCESS_CONTROL_ALLOW_HEADERS, names)));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    Ok(response)
}

fn refused(why: &str) -> Response {
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
