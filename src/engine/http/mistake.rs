//! A request whose handler panicked: a line for the operator, and an answer for the client.

use std::{any::Any, net::SocketAddr};

use axum::{body::Body, response::Response};
use hyper::{Method, Request, StatusCode, Uri};

/// What a line about a panic says of the request.
pub(super) struct Asked {
    client: SocketAddr,
    method: Method,
    uri: Uri,
}

impl Asked {
    pub(super) fn of<B>(request: &Request<B>, client: SocketAddr) -> Asked {
        Asked { client, method: request.method().clone(), uri: request.uri().clone() }
    }

    /// Logs the panic, and answers in place of the handler.
    pub(super) fn failed(&self, panic: &(dyn Any + Send)) -> Response {
        let Asked { client, method, uri } = self;
        let reason = panic.downcast_ref::<&str>().copied();
        let reason = reason.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown");
        let path = uri.path();
        tracing::error!(
            %client, %method, path, reason,
            "a request's handler panicked and was answered 500; this is a mistake in Sidecar, please report it"
        );
        let mut response = Response::new(Body::from("internal error"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }
}
