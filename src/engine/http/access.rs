//! Requests as an operator follows them: the client's address for the handlers, and a debug line per request.

use std::{net::SocketAddr, time::Instant};

use hyper::{Method, Request, StatusCode, Uri, http::Extensions};

/// The target of these lines, as operators name it in `RUST_LOG`.
const ACCESS_LINES: &str = "sidecar::access";
/// Characters of a path that a log line shows.
const PATH_CHARACTERS_MAX: usize = 200;

/// Where a request came from; every request carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(pub SocketAddr);

impl Client {
    /// The address of the client that sent the request with these extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<SocketAddr> {
        extensions.get().map(|Client(address)| *address)
    }
}

/// What a line about a request says once its answer was sent. Made only while such lines are written.
pub(super) struct AccessLine {
    client: SocketAddr,
    method: Method,
    path: String,
    status: StatusCode,
    begun: Instant,
}

impl AccessLine {
    pub(super) fn begin<B>(client: SocketAddr, request: &Request<B>) -> Option<AccessLine> {
        tracing::enabled!(target: ACCESS_LINES, tracing::Level::DEBUG).then(|| AccessLine {
            client,
            method: request.method().clone(),
            path: shown_path(request.uri()),
            status: StatusCode::OK,
            begun: Instant::now(),
        })
    }

    pub(super) fn with_status(self, status: StatusCode) -> AccessLine {
        AccessLine { status, ..self }
    }

    pub(super) fn write(self, bytes: u64) {
        let milliseconds = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let AccessLine { client, method, path, status, .. } = self;
        tracing::debug!(target: ACCESS_LINES, %client, %method, path, status = status.as_u16(), bytes, milliseconds, "request answered");
    }
}

/// As much of a path as a log line shows, which a client could otherwise make very long.
pub(super) fn shown_path(uri: &Uri) -> String {
    uri.path().chars().take(PATH_CHARACTERS_MAX).collect()
}
