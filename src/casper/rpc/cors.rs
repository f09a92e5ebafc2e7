//! Which web pages may call the server.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;

use crate::engine::http::cors;

/// Which origins are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    /// The server does not speak CORS.
    Off,
    /// Any origin.
    Any,
    /// This one.
    Only(String),
}

/// What CORS makes of a request.
pub(super) enum Checked {
    /// It is answered as any other; the origin, if there is one to let in, goes into the answer.
    LetIn(Option<HeaderValue>),
    /// This is the answer.
    Answered(Response),
}

impl Cors {
    /// Looks at a request's method and headers.
    pub(super) fn check(&self, method: &Method, headers: &HeaderMap) -> Checked {
        let Some(origin) = headers.get(header::ORIGIN).filter(|_| *self != Cors::Off) else {
            return Checked::LetIn(None);
        };
        if !self.lets_in(origin) {
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
        if !names.all(|name| name.trim_ascii().eq_ignore_ascii_case(b"content-type")) {
            return forbidden("header not allowed");
        }
        let mut response = Response::new(Body::empty());
        let answered = response.headers_mut();
        answered.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
        answered.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        allow(answered, origin.clone());
        Checked::Answered(response)
    }

    fn lets_in(&self, origin: &HeaderValue) -> bool {
        match self {
            Cors::Off => false,
            Cors::Any => true,
            Cors::Only(allowed) => origin == allowed,
        }
    }
}

/// Lets pages of `origin` read the answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
}

fn forbidden(why: &str) -> Checked {
    Checked::Answered(cors::forbidden(why))
}
