//! From a connection's messages to ingest's batches.
//!
//! The source takes a [message](Delivery::next), says what it is, and [pushes](Delivery::push) it; batches of what came
//! together flow out, in order. The bounded channel they go into is the back-pressure: while it is full, nothing is read from
//! the node.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use eventsource_client::Event;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::stream::{EventStream, StreamError};
use crate::engine::source::{ApiVersion, BATCH_BYTES, BATCH_EVENTS_MAX, Batch, Connection, Received, Timestamp, now};

/// Why a connection's delivery is over.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The stream is.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The channel is closed.
    #[error("the receiver of the events is gone")]
    ReceiverGone(Undelivered),
}

/// Events that were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// Events.
    Events,
    /// A version.
    Version,
}

/// The messages of one connection, and the events made of them on their way to ingest.
pub struct Delivery {
    stream: EventStream,
    out: mpsc::Sender<Batch>,
    connection: Arc<Connection>,
    batch: Vec<Received>,
    /// The bytes of the batch's payloads.
    batch_bytes: usize,
    /// When the batch's first event was received, as the time of all of them.
    received_at: Timestamp,
}

impl Delivery {
    /// Of the rest of `stream`, to `out`.
    #[must_use]
    pub fn new(stream: EventStream, out: mpsc::Sender<Batch>, connection: Connection) -> Self {
        let connection = Arc::new(connection);
        Self { stream, out, connection, batch: Vec::new(), batch_bytes: 0, received_at: 0 }
    }

    /// The connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// How long ago the last bytes came.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.stream.silent_for()
    }

    /// The next message. What was pushed is sent before anything is waited for, so batches add no delay.
    ///
    /// # Errors
    /// When there is none. What came before is sent all the same.
    pub async fn next(&mut self) -> Result<Event, DeliveryError> {
        if self.batch.len() >= BATCH_EVENTS_MAX || self.batch_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        let mut ready = self.stream.ready();
        if ready.is_none() && !self.batch.is_empty() {
            // The HTTP task hands over one chunk at a time, and a node puts each event into a chunk of its own: without
            // a turn for that task every event would be a batch.
            give_a_turn().await;
            ready = self.stream.ready();
        }
        let message = match ready {
            Some(message) => message,
            None => {
                self.flush().await?;
                self.stream.next().await
            }
        };
        if message.is_err() {
            self.flush().await?;
        }
        Ok(message?)
    }

    /// Adds an event that was made of the last message, given the time at which that was received.
    pub fn push(&mut self, received: impl FnOnce(Timestamp) -> Received) {
        if self.batch.is_empty() {
            self.received_at = now();
        }
        let received = received(self.received_at);
        self.batch_bytes += received.payload.len();
        self.batch.push(received);
    }

    /// Sends a version on, after what was pushed.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn announce(&mut self, version: ApiVersion) -> Result<(), DeliveryError> {
        self.flush().await?;
        let connection = Arc::clone(&self.connection);
        self.send(Batch::Version { connection, version }, Undelivered::Version).await
    }

    /// Sends the batch on.
    async fn flush(&mut self) -> Result<(), DeliveryError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let events = mem::take(&mut self.batch);
        let connection = Arc::clone(&self.connection);
        self.send(Batch::Events { connection, events }, Undelivered::Events).await
    }

    async fn send(&mut self, batch: Batch, what: Undelivered) -> Result<(), DeliveryError> {
        let is_sent = match self.out.try_send(batch) {
            Err(TrySendError::Full(batch)) => {
                let sent = self.out.send(batch).await;
                self.stream.was_not_listened_to();
                sent.is_ok()
            }
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
        };
        if is_sent { Ok(()) } else { Err(DeliveryError::ReceiverGone(what)) }
    }
}

/// Lets the tasks that are ready run first. Unlike tokio's `yield_now` it does not ask the operating system for more.
async fn give_a_turn() {
    let mut given = false;
    poll_fn(|context| {
        if mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::super::stream::{StreamOptions, Timeouts, http_client};
    use super::*;
    use crate::engine::testing::connection;

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_full_channel_is_not_silence_of_the_node() {
        let (out, mut batches) = mpsc::channel(1);
        let timeouts = Timeouts::default();
        let options = StreamOptions { url: "http://node:1/events".to_owned(), event_bytes_max: 10_000, timeouts };
        let stream = EventStream::open(http_client(timeouts.connection).unwrap(), &options, |_| {}).unwrap();
        let mut delivery = Delivery::new(stream, out, connection("node:1"));
        delivery.stream.was_not_listened_to();
        delivery.announce(ApiVersion::NONE).await.unwrap();
        let (sent, _) = tokio::join!(delivery.announce(ApiVersion::NONE), async {
            tokio::time::sleep(2 * timeouts.silence).await;
            batches.recv().await
        });
        sent.unwrap();
        assert!(!delivery.stream.is_silent());
    }
}
