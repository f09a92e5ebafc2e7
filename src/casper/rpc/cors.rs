//! Which web pages may call the server.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;

use crate::engine::http::cors::{self, Origins};

/// What CORS makes of a request.
pub(super) enum Checked {
    /// It is answered as any other; the origin, if there is one to let in, goes into the answer.
    LetIn(Option<HeaderValue>),
    /// This is the answer.
    Answered(Response),
}

/// Looks at a request's method and headers. Where `takes_tokens`, pages may present one.
pub(super) fn check(origins: &Origins, takes_tokens: bool, method: &Method, headers: &HeaderMap) -> Checked {
    let Some(origin) = headers.get(header::ORIGIN).filter(|_| *origins != Origins::Off) else {
        return Checked::LetIn(None);
    };
    if !origins.let_in(origin) {
        return forbidden("origin not allowed");
    }
    if method != Method::OPTIONS {
        return Checked::LetIn(Some(origin.clone()));
    }
    let asks_for_post = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|method| method == "POST");
    if !asks_for_post {
        return forbidden("request-method not allowed");
    }
    let wanted = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let mut names = wanted.iter().flat_map(|names| names.as_bytes().split(|byte| *byte == b','));
    let allowed = if takes_tokens { "content-type, authorization" } else { "content-type" };
    let is_allowed = |name: &[u8]| allowed.split(", ").any(|allowed| name.eq_ignore_ascii_case(allowed.as_bytes()));
    if !names.all(|name| is_allowed(name.trim_ascii())) {
        return forbidden("header not allowed");
    }
    let mut response = Response::new(Body::empty());
    let answered = response.headers_mut();
    answered.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    answered.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    cors::allow(answered, origin.clone());
    Checked::Answered(response)
}

fn forbidden(why: &str) -> Checked {
    Checked::Answered(cors::forbidden(why))
}
