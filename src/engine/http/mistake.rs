//! A request whose handler panicked: a line for the operator, and an answer for the client.

use std::{any::Any, net::SocketAddr};

use axum::{body::Body, response::Response};
use hyper::{Method, Request, StatusCode, Uri};

use super::access::shown_path;
use crate::engine::thread::panic_message;

/// The facts about a request that a panic's log line has.
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
        let (path, reason) = (shown_path(uri), panic_message(panic));
        tracing::error!(
            %client, %method, path, reason,
            "a request's handler panicked and was answered 500; this is a mistake in Sidecar, please report it"
        );
        let mut response = Response::new(Body::from("internal error"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }
}
