//! The transport under eventsource-client: HTTP by reqwest, with its body run through the frame filter.
//!
//! Owns what a good response is: status 200 and `text/event-stream`. A request flows in; a body of frames that
//! eventsource-client can take flows out. What happens on the way (bytes came, a frame was dropped) is
//! reported to the connection through [`StreamObserver`].

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

/// Is notified of what the filtered stream itself does not show.
pub trait StreamObserver: Send + Sync + 'static {
    /// Bytes of the body have arrived, of any meaning.
    fn bytes_received(&self);
    /// A frame was taken out of the stream.
    fn frame_dropped(&self, frame: DroppedFrame);
}

/// Why a node's answer is no event stream. None of them shows the URL, which may hold a key. All of them may pass: a node that starts or is over its limit of
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
    /// A transport that sends by `client`, passes frames of at most `event_bytes_max` bytes, and notifies `observer`.
    pub fn new(client: reqwest::Client, event_bytes_max: usize, observer: Arc<dyn StreamObserver>) -> Self {
        Self { client, event_bytes_max, observer }
    }

    async fn open(self, request: Request<Option<Bytes>>) -> Result<Response<ByteStream>, ResponseError> {
        let (head, body) = request.into_parts();
        let mut request = self.client.request(head.method, head.uri.to_string()).headers(head.headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|error| ResponseError::Request(error.without_url()))?;
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

/// Runs a response's body through `filter`, telling `observer`.
pub fn filtered(
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
                    return Poll::Ready(Some(Err(TransportError::new(ResponseError::Body(error.without_url())))));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

/// A transport under eventsource-client whose one answer is known: for tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod canned {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise ends the run")]

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use eventsource_client::{Client, ClientBuilder, Error, ReconnectOptions, SSE};
    use futures_util::{FutureExt, StreamExt, stream};

    use super::super::frames::DropReason;
    use super::*;

    pub(crate) const EVENT_BYTES_MAX: usize = 300;

    /// Answers with these chunks, filtered.
    #[derive(Clone)]
    struct Canned {
        chunks: Arc<Mutex<Vec<Bytes>>>,
        observer: Arc<Heard>,
    }

    #[derive(Default)]
    pub(crate) struct Heard {
        pub(crate) chunks: AtomicUsize,
        dropped: Mutex<Vec<DropReason>>,
    }

    impl StreamObserver for Heard {
        fn bytes_received(&self) {
            self.chunks.fetch_add(1, Ordering::Relaxed);
        }

        fn frame_dropped(&self, frame: DroppedFrame) {
            self.dropped.lock().unwrap().push(frame.reason);
        }
    }

    impl HttpTransport for Canned {
        fn request(&self, _: Request<Option<Bytes>>) -> ResponseFuture {
            let chunks = std::mem::take(&mut *self.chunks.lock().unwrap());
            let body = stream::iter(chunks.into_iter().map(Ok));
            let body = filtered(body, FrameFilter::new(EVENT_BYTES_MAX), self.observer.clone());
            Box::pin(std::future::ready(Ok(Response::new(body))))
        }
    }

    /// What eventsource-client makes of these chunks: data and id of each event, and what was dropped before it.
    pub(crate) fn read(chunks: Vec<Bytes>) -> (Vec<(String, Option<String>)>, Vec<DropReason>) {
        let observer = Arc::new(Heard::default());
        let transport = Canned { chunks: Arc::new(Mutex::new(chunks)), observer: observer.clone() };
        let mut messages = ClientBuilder::for_url("http://node/events")
            .unwrap()
            .reconnect(ReconnectOptions::reconnect(false).build())
            .build_with_transport(transport)
            .stream();
        let mut events = Vec::new();
        while let Some(item) = messages.next().now_or_never().unwrap() {
            match item {
                Ok(SSE::Event(event)) => events.push((event.data, event.id)),
                Ok(_) | Err(Error::Eof | Error::UnexpectedEof) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let dropped = observer.dropped.lock().unwrap().clone();
        (events, dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::{FutureExt, StreamExt, stream};
    use proptest::prelude::*;

    use super::super::frames::DropReason;
    use super::canned::{EVENT_BYTES_MAX, Heard, read};
    use super::*;

    #[test]
    fn every_chunk_is_noted_whatever_it_holds() {
        let chunks = [&b":\n\n"[..], b"data:unfinished", b"\xFF", b"\n\n"].map(|chunk| Ok(Bytes::from_static(chunk)));
        let observer = Arc::new(Heard::default());
        let body = filtered(stream::iter(chunks), FrameFilter::new(EVENT_BYTES_MAX), observer.clone());
        let passed: Vec<_> = body.map(Result::unwrap).collect().now_or_never().unwrap();
        assert_eq!(passed, [&b":\n\n"[..]]);
        assert_eq!(observer.chunks.load(Ordering::Relaxed), 4);
    }

    /// A frame's lines, and what must come of them.
    #[derive(Clone, Debug)]
    struct Frame {
        lines: Vec<Vec<u8>>,
        outcome: Outcome,
    }

    #[derive(Clone, Debug)]
    enum Outcome {
        Event { data: String, id: Option<String> },
        Nothing,
        Dropped(DropReason),
    }

    fn text() -> impl Strategy<Value = String> {
        "[a-z0-9:{}\"\u{e9}\u{20ac}\u{1f600}]{0,20}"
    }

    fn good() -> impl Strategy<Value = Frame> {
        let id = prop::option::of("[0-9]{1,5}");
        (prop::collection::vec(text(), 1..4), id, any::<[bool; 3]>()).prop_map(|(data, id, [space, comment, event])| {
            let mut lines = Vec::new();
            lines.extend(comment.then(|| ": a comment".into()));
            lines.extend(event.then(|| "event: message".into()));
            lines.extend(data.iter().map(|line| format!("data:{}{line}", if space { " " } else { "" }).into_bytes()));
            lines.extend(id.iter().map(|id| format!("id:{id}").into_bytes()));
            Frame { lines, outcome: Outcome::Event { data: data.join("\n"), id } }
        })
    }

    fn bad() -> impl Strategy<Value = Frame> {
        let bad_line = prop::sample::select(vec![&b"data:\xC3"[..], b"id:\xFF\xFE", b"da\xEDta: 1", b":\x80", b"\xC0"]);
        let not_utf8 = (good(), bad_line, any::<prop::sample::Index>()).prop_map(|(mut frame, line, place)| {
            frame.lines.insert(place.index(frame.lines.len()), line.to_vec());
            Frame { outcome: Outcome::Dropped(DropReason::NotUtf8), ..frame }
        });
        let oversized = (good(), 1..50_usize, 1..100_usize).prop_map(|(mut frame, length, excess)| {
            let lines = EVENT_BYTES_MAX.div_ceil(length + 1) + excess;
            frame.lines.extend(vec![vec![b'x'; length]; lines]);
            let reason = DropReason::Oversized { event_bytes_max: EVENT_BYTES_MAX };
            Frame { outcome: Outcome::Dropped(reason), ..frame }
        });
        let line = prop::sample::select(vec!["", ":", "event:x", "retry: 10", "foo", "foo: bar", "id:\0", "event"]);
        let nothing = line.prop_map(|line| Frame { lines: vec![line.into()], outcome: Outcome::Nothing });
        prop_oneof![not_utf8, oversized, nothing]
    }

    proptest! {
        #[test]
        fn exactly_the_good_events_come_through_in_order(
            byte_order_mark in any::<bool>(),
            frames in prop::collection::vec(
                (prop_oneof![2 => good(), 1 => bad()], prop::sample::select(vec!["\n", "\r", "\r\n"])),
                0..30,
            ),
            unfinished in prop::option::of(good()),
            chunk_lengths in prop::collection::vec(1..120_usize, 1..20),
        ) {
            let mut wire = if byte_order_mark { b"\xEF\xBB\xBF".to_vec() } else { Vec::new() };
            let (mut events, mut dropped, mut last_id) = (Vec::new(), Vec::new(), None);
            for (Frame { lines, outcome }, line_end) in frames {
                for line in lines.into_iter().chain([Vec::new()]) {
                    wire.extend_from_slice(&line);
                    wire.extend_from_slice(line_end.as_bytes());
                }
                match outcome {
                    Outcome::Event { data, id } => {
                        last_id = id.or(last_id);
                        events.push((data, last_id.clone()));
                    }
                    Outcome::Dropped(reason) => dropped.push(reason),
                    Outcome::Nothing => {}
                }
            }
            for line in unfinished.into_iter().flat_map(|frame| frame.lines) {
                wire.extend_from_slice(&line);
                wire.push(b'\n');
            }
            let mut wire = Bytes::from(wire);
            let mut lengths = chunk_lengths.into_iter().cycle();
            let chunks = std::iter::from_fn(|| {
                let length = lengths.next().unwrap_or(1).min(wire.len());
                (length > 0).then(|| wire.split_to(length))
            });
            prop_assert_eq!(read(chunks.collect()), (events, dropped));
        }

        #[test]
        fn no_bytes_at_all_make_eventsource_client_fail(
            chunks in prop::collection::vec(prop::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(0xEF), any::<u8>()], 0..40,
            ), 0..20),
        ) {
            read(chunks.into_iter().map(Bytes::from).collect());
        }
    }
}
