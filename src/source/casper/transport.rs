//! The transport under eventsource-client: HTTP by reqwest, with its body run through the frame filter.
//!
//! Owns what a good response is: status 200 and `text/event-stream`. A request flows in; a body of frames that
//! eventsource-client can take flows out. What happens on the way (bytes came, a frame was dropped) is told to the
//! connection through [`StreamObserver`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use launchdarkly_sdk_transport::{ByteStream, HttpTransport, Request, Response, ResponseFuture, TransportError};
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use sync_wrapper::{SyncFuture, SyncStream};

use super::frames::{DroppedFrame, FrameFilter};

/// Hears what the filtered stream itself does not show.
pub trait StreamObserver: Send + Sync + 'static {
    /// Bytes of the body have arrived, of whatever meaning.
    fn bytes_received(&self);
    /// A frame was taken out of the stream.
    fn frame_dropped(&self, frame: DroppedFrame);
}

/// Why a node's answer is no event stream. All of them may pass: a node that starts or is over its limit of
/// subscribers answers so too.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// There was no answer.
    #[error("no answer from the node's event stream port")]
    Request(#[source] reqwest::Error),
    /// An answer of another status than 200.
    #[error("the node's event stream port answered with HTTP status {0} instead of 200")]
    Status(StatusCode),
    /// An answer that is something else than an event stream.
    #[error("the node's event stream port answered with content type `{0}` instead of `text/event-stream`")]
    ContentType(String),
    /// The answer broke off.
    #[error("the event stream broke off")]
    Body(#[source] reqwest::Error),
}

/// The transport of one connection.
#[derive(Clone)]
pub struct FilteringTransport {
    client: reqwest::Client,
    event_bytes_max: usize,
    observer: Arc<dyn StreamObserver>,
}

impl FilteringTransport {
    /// A transport that sends by `client`, passes frames of at most `event_bytes_max` bytes, and tells `observer`.
    pub fn new(client: reqwest::Client, event_bytes_max: usize, observer: Arc<dyn StreamObserver>) -> Self {
        Self { client, event_bytes_max, observer }
    }

    async fn open(self, request: Request<Option<Bytes>>) -> Result<Response<ByteStream>, ResponseError> {
        let (head, body) = request.into_parts();
        let mut request = self.client.request(head.method, head.uri.to_string()).headers(head.headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(ResponseError::Request)?;
        if response.status() != StatusCode::OK {
            return Err(ResponseError::Status(response.status()));
        }
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !essence.eq_ignore_ascii_case(b"text/event-stream") {
            return Err(ResponseError::ContentType(String::from_utf8_lossy(content_type).into_owned()));
        }
        let filter = FrameFilter::new(self.event_bytes_max);
        Ok(Response::new(filtered(response.bytes_stream(), filter, self.observer)))
    }
}

impl HttpTransport for FilteringTransport {
    fn request(&self, request: Request<Option<Bytes>>) -> ResponseFuture {
        let response = self.clone().open(request);
        Box::pin(SyncFuture::new(async move { response.await.map_err(TransportError::new) }))
    }
}

/// Runs a response's body through `filter`.
pub(super) fn filtered(
    body: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
    filter: FrameFilter,
    observer: Arc<dyn StreamObserver>,
) -> ByteStream {
    Box::pin(SyncStream::new(FilteredBody { body: Box::pin(body), filter, observer }))
}

struct FilteredBody {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    filter: FrameFilter,
    observer: Arc<dyn StreamObserver>,
}

impl Stream for FilteredBody {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = this.filter.next_piece() {
                return Poll::Ready(Some(Ok(piece)));
            }
            match ready!(this.body.as_mut().poll_next(context)) {
                Some(Ok(chunk)) => {
                    this.observer.bytes_received();
                    this.filter.push(chunk, |frame| this.observer.frame_dropped(frame));
                }
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(TransportError::new(ResponseError::Body(error)))));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}
