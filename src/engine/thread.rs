//! Threads of a log's own.

use std::io;
use std::thread::{Builder, JoinHandle};

use tracing::Span;

/// Starts a thread whose log lines name the log that the caller's lines name.
pub(crate) fn start<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let span = Span::current();
    Builder::new().name(name.to_owned()).spawn(move || span.in_scope(run))
}
