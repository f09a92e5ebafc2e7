//! Threads of a log's own, and the messages of panics.

use std::any::Any;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tracing::Span;

/// Starts a thread whose log lines name the log that the caller's lines name.
pub(crate) fn start<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let span = Span::current();
    Builder::new().name(name.to_owned()).spawn(move || span.in_scope(run))
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    message.unwrap_or("no message")
}

/// A running thread that ends when this is dropped, which waits for that.
pub(crate) struct Stoppable {
    /// Hung up to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Reports to such a thread whether it is to end.
pub(crate) struct Stopped(mpsc::Receiver<()>);

impl Stoppable {
    /// Starts the thread as [`start`] does; it looks at what it is given often.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(crate) fn start(name: &str, run: impl FnOnce(Stopped) + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = start(name, move || run(Stopped(stopped)))?;
        Ok(Stoppable { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has reported its failures itself.
            let _ = thread.join();
        }
    }
}

impl Stopped {
    /// Waits, unless the thread is to end.
    pub(crate) fn wait(&self, time: Duration) -> ControlFlow<()> {
        match self.0.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
impl Stopped {
    /// Reports the end once the sender is gone.
    pub(crate) fn with_sender() -> (mpsc::Sender<()>, Self) {
        let (stop, stopped) = mpsc::channel();
        (stop, Stopped(stopped))
    }
}
