//! What answers are made of: [`Found`] collects stored events in the form in which clients see them, and [`Failure`] says
//! why there are none.
//!
//! This is the seam between where events are looked up (the views and the log, or an exporter's database) and HTTP, which
//! only sees bytes. Nothing is parsed and written again: an answer is the event's own bytes with fixed text around them.

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use sidecar_log_format::{Row, Sequence};
use tokio::sync::OwnedSemaphorePermit;

use super::counters::Counters;
use crate::source::casper::event::kind_name;
use crate::source::casper::keys::rest_payload;

/// Answers up to this size are made whenever they are asked for; one that grows larger needs a permit, so that only a few
/// such are in memory. A page ends before it does, unless its only event is larger.
const FREE_BYTES: usize = 1 << 20;
/// No list becomes longer than this.
const LIST_BYTES_MAX: usize = 64 << 20;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Failure {
    /// There is no such event.
    #[error("Query returned no results")]
    NotFound,
    /// The event is there, but has no form that answers show.
    #[error("Error deserializing returned data: event {sequence} is not of a known shape")]
    UnknownShape {
        /// Its sequence.
        sequence: Sequence,
    },
    /// The log or the views cannot be read.
    #[error("Unhandled error occurred in storage: {0}")]
    Storage(String),
    /// The views are too far behind the log to know.
    #[error("The views are {events} events behind the log and cannot tell yet; ask again")]
    Behind {
        /// How many events they still have to read.
        events: u64,
    },
    /// The views are not open.
    #[error("The views are not open now: {0}; ask again")]
    Closed(String),
    /// The list is too long for one answer.
    #[error(
        "Unhandled error occurred in storage: the answer is longer than {LIST_BYTES_MAX} bytes; read it with /events"
    )]
    TooLong,
    /// It took longer than `request_timeout_in_seconds`.
    #[error("The answer took longer than request_timeout_in_seconds")]
    TooSlow,
}

/// How events stand in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One envelope, or several with commas between.
    Envelope,
    /// As the log has it: sequence, kind, source and time, and the payload as it came.
    Stored,
}

/// Whether an event was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Yes,
    /// Not without [`Found::room`].
    NeedsRoom,
    /// Not to this page.
    PageIsFull,
}

/// Events that answer a question, as the answer's body.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) body: Vec<u8>,
    form: Form,
    is_page: bool,
    /// Whether the page ended before all its events were in it.
    pub(super) is_cut: bool,
    /// How many events there are, and the last one's sequence: together they change when a growing answer does.
    pub(super) events: usize,
    pub(super) last: Sequence,
    /// Must be held for as long as an answer over [`FREE_BYTES`] is in memory.
    pub(super) room: Option<OwnedSemaphorePermit>,
    counters: Arc<Counters>,
}

impl Found {
    /// None yet; the body begins with `opening`.
    pub(super) fn new(opening: &str, form: Form, counters: &Arc<Counters>) -> Self {
        let mut body = Vec::with_capacity(4 << 10);
        body.extend_from_slice(opening.as_bytes());
        Found {
            body,
            form,
            is_page: false,
            is_cut: false,
            events: 0,
            last: 0,
            room: None,
            counters: Arc::clone(counters),
        }
    }

    /// A page ends early when it has become long.
    pub(super) fn paged(self) -> Self {
        Found { is_page: true, ..self }
    }

    /// Counts an event that shows in the answer without its bytes.
    pub(super) fn note(&mut self, sequence: Sequence) {
        self.events += 1;
        self.last = sequence;
    }

    /// Adds text that is no event.
    pub(super) fn push_text(&mut self, text: &str) {
        self.body.extend_from_slice(text.as_bytes());
    }

    /// Adds an event of the log.
    pub(super) fn push_row(&mut self, row: &Row<'_>, payload: &[u8]) -> Result<Pushed, Failure> {
        let sequence = row.sequence();
        if self.body.len() + payload.len() > FREE_BYTES && self.events > 0 && self.is_page {
            self.is_cut = true;
            return Ok(Pushed::PageIsFull);
        }
        if self.body.len() + payload.len() > FREE_BYTES && self.room.is_none() {
            return Ok(Pushed::NeedsRoom);
        }
        if self.body.len() > LIST_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        let unknown_shape = || Failure::UnknownShape { sequence };
        let payload = std::str::from_utf8(payload).map_err(|_| unknown_shape())?;
        if self.events > 0 && self.body.last() == Some(&b'}') {
            self.body.push(b',');
        }
        match self.form {
            Form::Envelope => {
                let content = rest_payload(row.kind(), payload).ok_or_else(unknown_shape)?;
                self.counters.count_read(row.kind(), content.len());
                self.body.reserve(content.len() + 256);
                self.push_text("{");
                self.push_envelope(row.api_version(), row.network(), &content);
            }
            Form::Stored => {
                self.counters.count_read(row.kind(), payload.len());
                self.body.reserve(payload.len() + 384);
                self.push_facts(row);
                self.push_envelope(row.api_version(), row.network(), payload);
            }
        }
        self.events += 1;
        self.last = sequence;
        Ok(Pushed::Yes)
    }

    fn push_facts(&mut self, row: &Row<'_>) {
        let received_at = humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(row.received()));
        self.push_display(format_args!(
            "{{\"sequence\":{},\"kind\":\"{}\",\"source\":",
            row.sequence(),
            kind_name(row.kind())
        ));
        self.push_string(row.source());
        self.push_display(format_args!(",\"received_at\":\"{received_at}\","));
    }

    /// Header and payload as the members of an object that is open already, and its end.
    pub(super) fn push_envelope(&mut self, api_version: impl Display, network: &str, payload: &str) {
        self.push_display(format_args!("\"header\":{{\"api_version\":\"{api_version}\",\"network_name\":"));
        self.push_string(network);
        self.push_text("},\"payload\":");
        self.push_text(payload);
        self.push_text("}");
    }

    pub(super) fn push_string(&mut self, text: &str) {
        // Writing to memory does not fail, and a string is always JSON.
        let _ = serde_json::to_writer(&mut self.body, text);
    }

    pub(super) fn push_display(&mut self, text: impl Display) {
        let _ = write!(self.body, "{text}");
    }
}
