//! One event stream, from the request to its end: its messages, under the eye of the silence monitor.

use std::error::Error;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use eventsource_client::{BoxStream, Client, ClientBuilder, Event, ReconnectOptions, SSE};
use futures_util::{FutureExt, StreamExt};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::frames::DroppedFrame;
use super::silence::SilenceMonitor;
use super::tls;
use super::transport::{FilteringTransport, ResponseError, StreamObserver};

/// How often a node may redirect a request.
const REDIRECTS_MAX: usize = 5;

/// How to read one event stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// What to ask for.
    pub url: String,
    /// The longest frame that is taken, in bytes.
    pub event_bytes_max: usize,
    /// How long to wait.
    pub timeouts: Timeouts,
}

/// How long a source waits for its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TCP connection to come about.
    pub connection: Duration,
    /// For the next bytes of a stream, before it is given up.
    pub silence: Duration,
    /// Between two looks at whether a stream is silent.
    pub silence_check: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connection: Duration::from_secs(5),
            silence: Duration::from_secs(120),
            silence_check: Duration::from_secs(60),
        }
    }
}

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Nothing was asked.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
    /// There was no stream, or it broke off.
    #[error("{0}")]
    Failed(String),
    /// The node answered with another status than 200.
    #[error("{}", ResponseError::Status(*.0))]
    Refused(StatusCode),
    /// Nothing came for too long.
    #[error("no bytes for {} s", no_message_timeout.as_secs())]
    Silent {
        /// How long.
        no_message_timeout: Duration,
    },
    /// The stream ended in order.
    #[error("the node ended the stream")]
    Ended,
}

/// The HTTP client for the requests of one connection to a node that speaks plain HTTP.
///
/// # Errors
/// [`StreamError::Client`].
pub fn http_client(connection_timeout: Duration) -> Result<reqwest::Client, StreamError> {
    client(connection_timeout, HeaderMap::new(), tls::without_roots())
}

/// The same for a node that may speak HTTPS, and with headers for every request.
///
/// # Errors
/// [`StreamError::Client`].
pub fn https_client(connection_timeout: Duration, headers: HeaderMap) -> Result<reqwest::Client, StreamError> {
    client(connection_timeout, headers, tls::with_system_roots())
}

/// The body of an answer; `None` if it is longer than `bytes_max`.
///
/// # Errors
/// When the body does not come whole.
pub async fn body_up_to(mut response: reqwest::Response, bytes_max: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

fn client(
    connection_timeout: Duration,
    headers: HeaderMap,
    tls: Result<rustls::ClientConfig, rustls::Error>,
) -> Result<reqwest::Client, StreamError> {
    let tls = tls.map_err(|error| StreamError::Client(with_causes(&error)))?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .default_headers(headers)
        .connect_timeout(connection_timeout)
        .tcp_nodelay(true)
        .no_proxy()
        .redirect(same_host())
        .build()
        .map_err(|error| StreamError::Client(with_causes(&error)))
}

/// A node may send a client on to another of its ports or paths, but not elsewhere: it does not decide whom Sidecar reads.
fn same_host() -> Policy {
    Policy::custom(|attempt| {
        let asked_first = attempt.previous().first().and_then(|url| url.host_str());
        if attempt.previous().len() > REDIRECTS_MAX || asked_first != attempt.url().host_str() {
            return attempt.stop();
        }
        attempt.follow()
    })
}

/// The messages of one connection.
pub struct EventStream {
    events: BoxStream<eventsource_client::Result<SSE>>,
    monitor: Arc<SilenceMonitor>,
    checks: Interval,
    no_message_timeout: Duration,
}

impl EventStream {
    /// A stream that is not asked for before its first message is awaited. `dropped` is called with every frame that was
    /// taken out of it.
    ///
    /// # Errors
    /// [`StreamError::Client`].
    pub fn open(
        client: reqwest::Client,
        options: &StreamOptions,
        dropped: impl Fn(DroppedFrame) + Send + Sync + 'static,
    ) -> Result<Self, StreamError> {
        let monitor = Arc::new(SilenceMonitor::new());
        let observer = Arc::new(Observer { monitor: Arc::clone(&monitor), dropped });
        let transport = FilteringTransport::new(client, options.event_bytes_max, observer);
        let events = ClientBuilder::for_url(&options.url)
            .map_err(|error| StreamError::Client(error.to_string()))?
            .reconnect(ReconnectOptions::reconnect(false).retry_initial(false).build())
            .build_with_transport(transport)
            .stream();
        // An interval of zero would never let anything else happen.
        let check_interval = options.timeouts.silence_check.max(Duration::from_millis(1));
        let mut checks = interval_at(Instant::now() + check_interval, check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { events, monitor, checks, no_message_timeout: options.timeouts.silence })
    }

    /// Waits until the node has answered, and its stream begins.
    ///
    /// # Errors
    /// When there is no stream.
    pub async fn opened(&mut self) -> Result<(), StreamError> {
        loop {
            tokio::select! {
                biased;
                item = self.events.next() => return match message(item) {
                    Some(Err(error)) => Err(error),
                    Some(Ok(_)) | None => Ok(()),
                },
                _ = self.checks.tick() => self.check_silence()?,
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// When there is none.
    pub async fn next(&mut self) -> Result<Event, StreamError> {
        loop {
            tokio::select! {
                biased;
                item = self.events.next() => if let Some(message) = message(item) {
                    return message;
                },
                _ = self.checks.tick() => self.check_silence()?,
            }
        }
    }

    /// The next message if it is there already.
    pub(super) fn ready(&mut self) -> Option<Result<Event, StreamError>> {
        loop {
            let item = self.events.next().now_or_never()?;
            if let Some(message) = message(item) {
                return Some(message);
            }
        }
    }

    fn check_silence(&self) -> Result<(), StreamError> {
        let no_message_timeout = self.no_message_timeout;
        if self.is_silent() { Err(StreamError::Silent { no_message_timeout }) } else { Ok(()) }
    }

    /// How long ago the last bytes came.
    pub(super) fn silent_for(&self) -> Duration {
        self.monitor.silent_for()
    }

    pub(super) fn is_silent(&self) -> bool {
        self.monitor.is_silent(self.no_message_timeout)
    }

    /// The stream was not read until now, so the node was not silent.
    pub(super) fn was_not_listened_to(&self) {
        self.monitor.heard();
    }
}

/// The message or the end that eventsource-client's item means, if any.
fn message(item: Option<eventsource_client::Result<SSE>>) -> Option<Result<Event, StreamError>> {
    use eventsource_client::Error;
    match item {
        Some(Ok(SSE::Event(event))) => Some(Ok(event)),
        Some(Ok(SSE::Connected(_) | SSE::Comment(_))) => None,
        Some(Err(Error::Eof | Error::UnexpectedEof)) | None => Some(Err(StreamError::Ended)),
        Some(Err(Error::Transport(error))) => Some(Err(match error.inner().downcast_ref() {
            Some(ResponseError::Status(status)) => StreamError::Refused(*status),
            _ => StreamError::Failed(with_causes(error.inner())),
        })),
        Some(Err(error)) => Some(Err(StreamError::Failed(with_causes(&error)))),
    }
}

/// Is notified for one connection of what its messages do not show.
struct Observer<F> {
    monitor: Arc<SilenceMonitor>,
    dropped: F,
}

impl<F: Fn(DroppedFrame) + Send + Sync + 'static> StreamObserver for Observer<F> {
    fn bytes_received(&self) {
        self.monitor.heard();
    }

    fn frame_dropped(&self, frame: DroppedFrame) {
        (self.dropped)(frame);
    }
}

/// An error with all that led to it.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let texts: Vec<_> = iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect();
    texts.join(": ")
}
