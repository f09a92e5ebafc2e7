//! HTTP as all servers have it: connections within limits, requests that take turns, and CORS.
//!
//! A router flows in; requests, HTTP/1.1 or HTTP/2, flow to it. What they mean is the servers' business.
//!
//! - [`front`][]: the listening socket and its connections.
//! - [`query`][]: the parameters of a request.
//! - [`turns`][]: requests that wait in line.

pub mod front;
pub mod query;
pub mod turns;

use std::io;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", advice(source))]
pub struct BindError {
    /// Address and port.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; stop the program that has it, or set another `port`",
        _ => "set another `port`",
    }
}

/// CORS as the reference has it: any origin may read, and no preflight succeeds.
pub async fn allow_any_origin(request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    if request.method() == Method::OPTIONS {
        let mut response = Response::new(Body::from("CORS request forbidden: request-method not allowed"));
        *response.status_mut() = StatusCode::FORBIDDEN;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        return response;
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response
}
