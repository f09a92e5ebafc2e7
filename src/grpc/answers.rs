//! A method's messages as the body of an HTTP answer: JSON lines or server-sent events, with errors within it.
//!
//! The body asks the upstream for another message only when the client's connection has room, so that a slow client is held
//! back by HTTP/2's flow control and not by a queue. Messages that are there already leave in one piece. When the client goes,
//! the body is dropped and with it the call.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::Frame;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor};
use serde_json::Value as Json;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::counters::GatewayCounters;
use super::json::{JsonForm, event_name};
use super::rules::{AnswerKind, Binding};
use super::status;
use super::upstream::Call;
use crate::engine::stream::{Framing, OpenStream};

/// Pieces are sent when they have this many bytes, or when no message waits.
const PIECE_BYTES: usize = 16 << 10;
/// How often a quiet event stream shows that it is alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// A comment: it dispatches nothing.
const COMMENT: &[u8] = b":\n\n";
/// The id of the last event of a stream that has ended in order: a browser that reconnects sends it, and gets an answer that stops it.
pub(super) const END_ID: &str = "end";
const END: &[u8] = b"event: end\ndata: {}\nid: end\n\n";

/// How one method's messages are written.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub(super) framing: Framing,
    pub(super) errors: Errors,
    pub(super) kind: AnswerKind,
    pub(super) json: JsonForm,
    /// Whether a line has the message as its `result`, or is the message.
    pub(super) wraps_results: bool,
    /// Whether events have the bytes of the fork (see [`EventForm::Fork`]).
    pub(super) is_fork: bool,
    /// The field that is sent instead of the message.
    pub(super) response_body: Option<FieldDescriptor>,
    /// Where types of error details are looked up.
    pub(super) pool: DescriptorPool,
}

/// How an error is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errors {
    /// `{"error":…}` as the last line; before the first message also the HTTP status.
    Line,
    /// The last event; before the first message the HTTP status and a body.
    Event,
    /// The last event in the fork's form, even before the first message.
    ForkEvent,
}

/// The type of the fork's errors.
const FORK_ERROR_TYPE: &str = "type.googleapis.com/gateway.EventStreamError";

impl Writing {
    /// The usual form of a binding's answers.
    pub(super) fn of(binding: &Binding, framing: Framing, json: JsonForm) -> Writing {
        Writing {
            framing,
            errors: if framing == Framing::EventStream { Errors::Event } else { Errors::Line },
            kind: binding.rpc.answer,
            json,
            wraps_results: true,
            is_fork: false,
            response_body: binding.response_body.clone(),
            pool: binding.rpc.method.parent_pool().clone(),
        }
    }

    /// Appends a message in its frame; nothing is appended where it fails.
    pub(super) fn message(&self, message: &DynamicMessage, out: &mut Vec<u8>) -> Result<(), Status> {
        let start = out.len();
        let written = match self.framing {
            Framing::JsonLines => self.line(message, out),
            Framing::EventStream => self.event(message, out),
        };
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn line(&self, message: &DynamicMessage, out: &mut Vec<u8>) -> Result<(), Status> {
        match (&self.response_body, self.kind) {
            (None, AnswerKind::Raw) => out.extend_from_slice(&raw_data(message)),
            (field, _) if !self.wraps_results => self.value(message, field.as_ref(), out)?,
            (field, _) => {
                out.extend_from_slice(b"{\"result\":");
                self.value(message, field.as_ref(), out)?;
                out.push(b'}');
            }
        }
        out.push(b'\n');
        Ok(())
    }

    fn event(&self, message: &DynamicMessage, out: &mut Vec<u8>) -> Result<(), Status> {
        let is_event = self.kind == AnswerKind::Event && self.response_body.is_none();
        // The fork has a space at the end of each line.
        let line_end: &[u8] = if is_event && self.is_fork { b" \n" } else { b"\n" };
        if is_event {
            if let Some(name) = event_name(message) {
                out.extend_from_slice(b"event: ");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(line_end);
            }
            out.extend_from_slice(b"data: ");
            self.json.write_event_data(message, out)?;
        } else if self.kind == AnswerKind::Raw && self.response_body.is_none() {
            out.extend_from_slice(b"data: ");
            let data = raw_data(message);
            let mut before = b' ';
            for byte in &data {
                match byte {
                    // The second half of one line end.
                    b'\n' if before == b'\r' => {}
                    b'\n' | b'\r' => out.extend_from_slice(b"\ndata: "),
                    byte => out.push(*byte),
                }
                before = *byte;
            }
        } else {
            out.extend_from_slice(b"data: ");
            self.value(message, self.response_body.as_ref(), out)?;
        }
        out.extend_from_slice(line_end);
        out.push(b'\n');
        Ok(())
    }

    fn value(
        &self,
        message: &DynamicMessage,
        field: Option<&FieldDescriptor>,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        match field {
            Some(field) => self.json.write_field(message, field, out),
            None => self.json.write(message, out),
        }
    }

    /// Appends the end of a stream.
    fn end(&self, end: Result<(), Status>, out: &mut Vec<u8>) {
        let text = match (self.errors, end) {
            (Errors::Event, Ok(())) => return out.extend_from_slice(END),
            (Errors::Line | Errors::ForkEvent, Ok(())) => return,
            (Errors::Line, Err(error)) => status::last_line(&error, Some(&self.pool)),
            (Errors::Event, Err(error)) => {
                format!("event: error\ndata: {}\n\n", status::body(&error, Some(&self.pool)))
            }
            (Errors::ForkEvent, Err(error)) => format!("event: error \ndata: {} \n\n", self.fork_error(&error)),
        };
        out.extend_from_slice(text.as_bytes());
    }

    /// A `gateway.EventStreamError` in an `Any`.
    fn fork_error(&self, error: &Status) -> String {
        let code = if self.json.use_proto_names { "status_code" } else { "statusCode" };
        let (status, message) = (status::http_status(error.code()).as_u16(), Json::from(error.message()));
        format!(r#"{{"@type":"{FORK_ERROR_TYPE}","{code}":{status},"message":{message}}}"#)
    }
}

/// The bytes of a `google.api.HttpBody`.
pub(super) fn raw_data(message: &DynamicMessage) -> Bytes {
    let data = message.get_field_by_name("data");
    data.as_deref().and_then(|data| data.as_bytes()).cloned().unwrap_or_default()
}

type Opening = Pin<Box<dyn Future<Output = Result<Call, Status>> + Send>>;

/// The call that a body reads.
pub(super) enum Source {
    /// The upstream has not answered yet.
    Opening(Opening),
    /// It has.
    Open(Box<Call>),
    /// It is over.
    Ended,
}

impl Source {
    /// The next message; an error is the last item.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<DynamicMessage, Status>>> {
        loop {
            match self {
                Source::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(call) => *self = Source::Open(Box::new(call)),
                    Err(error) => {
                        *self = Source::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                Source::Open(call) => {
                    let item = ready!(call.messages.poll_next_unpin(context));
                    if !matches!(item, Some(Ok(_))) {
                        *self = Source::Ended;
                    }
                    return Poll::Ready(item);
                }
                Source::Ended => return Poll::Ready(None),
            }
        }
    }
}

/// The body of an answer with many messages.
pub(super) struct StreamedBody {
    source: Source,
    writing: Writing,
    out: Vec<u8>,
    is_over: bool,
    keep_alive: Option<Pin<Box<Sleep>>>,
    deadline: Option<Pin<Box<Sleep>>>,
    counters: Arc<GatewayCounters>,
    _place: OpenStream,
}

impl StreamedBody {
    /// Begins with `first`, which the upstream has said already.
    pub(super) fn new(
        source: Source,
        writing: Writing,
        first: Option<Result<DynamicMessage, Status>>,
        deadline: Option<Instant>,
        counters: Arc<GatewayCounters>,
        place: OpenStream,
    ) -> StreamedBody {
        let is_event_stream = writing.framing == Framing::EventStream;
        let keep_alive = is_event_stream.then(|| Box::pin(tokio::time::sleep(KEEP_ALIVE_INTERVAL)));
        let out = if is_event_stream && !writing.is_fork { COMMENT.to_vec() } else { Vec::new() };
        let mut body = StreamedBody {
            source,
            writing,
            out,
            is_over: false,
            keep_alive,
            deadline: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
            counters,
            _place: place,
        };
        match first {
            Some(Ok(first)) => body.write(&first),
            Some(Err(error)) => body.end(Err(error)),
            None => {}
        }
        body
    }

    fn write(&mut self, message: &DynamicMessage) {
        self.counters.messages.add(1);
        if let Err(error) = self.writing.message(message, &mut self.out) {
            self.end(Err(error));
        }
    }

    fn end(&mut self, end: Result<(), Status>) {
        if let Err(error) = &end {
            self.counters.count_error(error.code());
        }
        self.writing.end(end, &mut self.out);
        self.source = Source::Ended;
        self.is_over = true;
    }

    /// Writes what is there, until that is enough for a piece.
    fn fill(&mut self, context: &mut Context<'_>) {
        while !self.is_over && self.out.len() < PIECE_BYTES {
            match self.source.poll_next(context) {
                Poll::Ready(Some(Ok(message))) => self.write(&message),
                Poll::Ready(Some(Err(error))) => {
                    let deadline = self.deadline.as_ref().map(|deadline| deadline.deadline());
                    self.end(Err(status::of_deadline(error, deadline)));
                }
                Poll::Ready(None) => self.end(Ok(())),
                Poll::Pending => return,
            }
        }
    }
}

impl http_body::Body for StreamedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        this.fill(context);
        if !this.is_over
            && let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            this.end(Err(status::late()));
        }
        if this.out.is_empty() && !this.is_over {
            let Some(keep_alive) = &mut this.keep_alive else { return Poll::Pending };
            ready!(keep_alive.as_mut().poll(context));
            this.out.extend_from_slice(COMMENT);
        }
        if this.out.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(keep_alive) = &mut this.keep_alive {
            keep_alive.as_mut().reset(Instant::now() + KEEP_ALIVE_INTERVAL);
        }
        let piece = std::mem::take(&mut this.out);
        if !this.is_over {
            this.out.reserve(piece.len().min(PIECE_BYTES));
        }
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::schema;
    use super::*;

    #[test]
    fn each_line_of_raw_bytes_is_a_line_of_data_however_it_ends() {
        let text = "syntax = \"proto3\"; package test; import \"google/api/httpbody.proto\";
                    message Holder { google.api.HttpBody body = 1; }";
        let pool = schema(text).pool().clone();
        let mut message = DynamicMessage::new(pool.get_message_by_name("google.api.HttpBody").unwrap());
        message.set_field_by_name("data", prost_reflect::Value::Bytes(Bytes::from_static(b"a\r\nb\rc\n\n")));
        let writing = Writing {
            framing: Framing::EventStream,
            errors: Errors::Event,
            kind: AnswerKind::Raw,
            json: JsonForm::default(),
            wraps_results: true,
            is_fork: false,
            response_body: None,
            pool,
        };
        let mut out = Vec::new();
        writing.message(&message, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "data: a\ndata: b\ndata: c\ndata: \ndata: \n\n");
    }
}
