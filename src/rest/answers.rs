//! What answers are made of: [`Found`] collects stored events in the form in which clients see them, and [`Failure`] says
//! why there are none.
//!
//! This is the seam between where events are looked up (the views and the log, or PostgreSQL) and HTTP, which only sees
//! bytes. Nothing is parsed and written again: an answer is the event's own bytes with fixed text around them.

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use sidecar_log_format::{Kind, Row, Sequence};
use tokio::sync::OwnedSemaphorePermit;

use super::counters::Counters;
use crate::source::casper::event::kind_name;
use crate::source::casper::keys::rest_payload;

/// Answers up to this size are made whenever they are asked for; one that grows larger needs a permit, so that only a few
/// such are in memory. A page ends before it does, unless its only event is larger.
pub(super) const FREE_BYTES: usize = 1 << 20;
/// Answers over the free size that may be in memory.
pub(super) const LARGE_ANSWERS_MAX: usize = 2;
/// No list becomes longer than this. A single event may be: the log and the exporters have their own limit for those.
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
    /// What the database holds is not JSON.
    #[error("Error deserializing returned data: {0}")]
    NotJson(String),
    /// The log or the views cannot be read.
    #[error("Unhandled error occurred in storage: {0}")]
    Storage(String),
    /// PostgreSQL cannot be asked. Where it is and what it says is the operator's business, and is logged.
    #[error("Unhandled error occurred in storage: the database does not answer as it should")]
    Database,
    /// PostgreSQL answers this question with an error. What it says is the operator's business, and is logged.
    #[error("Unhandled error occurred in storage: the database refuses this question; the log of this server says why")]
    Refused,
    /// The tables in PostgreSQL do not have it.
    #[error(
        "This server answers from PostgreSQL, which knows neither the sequences of the log nor the transactions of an \
         account; ask a Sidecar that answers from its log, or for /blocks, /block, /transaction, /faults, /signatures or /step"
    )]
    OnlyInLog,
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
    /// How many events there are, and the last one's place in their order. In the log that is its sequence; together they
    /// change when a growing answer does.
    pub(super) events: usize,
    pub(super) last: Sequence,
    /// Must be held for as long as an answer over [`FREE_BYTES`] is in memory.
    pub(super) room: Option<OwnedSemaphorePermit>,
    counters: Arc<Counters>,
}

/// A state of [`Found`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    body_bytes: usize,
    events: usize,
    last: Sequence,
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

    /// Where it is now, to come back to.
    pub(super) fn mark(&self) -> Mark {
        Mark { body_bytes: self.body.len(), events: self.events, last: self.last }
    }

    /// Takes out what was added since.
    pub(super) fn go_back_to(&mut self, mark: Mark) {
        self.body.truncate(mark.body_bytes);
        self.events = mark.events;
        self.last = mark.last;
    }

    /// Adds text that is no event.
    pub(super) fn push_text(&mut self, text: &str) {
        self.body.extend_from_slice(text.as_bytes());
    }

    /// Adds an event of the log.
    pub(super) fn push_row(&mut self, row: &Row<'_>, payload: &[u8]) -> Result<Pushed, Failure> {
        let sequence = row.sequence();
        let unknown_shape = || Failure::UnknownShape { sequence };
        let payload = std::str::from_utf8(payload).map_err(|_| unknown_shape())?;
        if self.form == Form::Envelope {
            let content = rest_payload(row.kind(), payload).ok_or_else(unknown_shape)?;
            return self.push_enveloped(sequence, row.kind(), row.api_version(), row.network(), &content);
        }
        let pushed = self.room_for(payload.len())?;
        if pushed == Pushed::Yes {
            self.begin_event(row.kind(), payload.len());
            self.push_facts(row);
            self.push_envelope(row.api_version(), row.network(), payload);
            self.note(sequence);
        }
        Ok(pushed)
    }

    /// Adds an event of which only the envelope shows: `content` is its payload as answers have it.
    pub(super) fn push_enveloped(
        &mut self,
        sequence: Sequence,
        kind: Kind,
        api_version: impl Display,
        network: &str,
        content: &str,
    ) -> Result<Pushed, Failure> {
        let pushed = self.room_for(content.len())?;
        if pushed == Pushed::Yes {
            self.begin_event(kind, content.len());
            self.push_text("{");
            self.push_envelope(api_version, network, content);
            self.note(sequence);
        }
        Ok(pushed)
    }

    /// Whether an event of this size may be added now.
    pub(super) fn room_for(&mut self, bytes: usize) -> Result<Pushed, Failure> {
        let is_large = self.body.len().saturating_add(bytes) > FREE_BYTES;
        if is_large && self.events > 0 && self.is_page {
            self.is_cut = true;
            return Ok(Pushed::PageIsFull);
        }
        if is_large && self.room.is_none() {
            return Ok(Pushed::NeedsRoom);
        }
        if self.events > 0 && self.body.len().saturating_add(bytes) > LIST_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        Ok(Pushed::Yes)
    }

    fn begin_event(&mut self, kind: Kind, bytes: usize) {
        if self.events > 0 && self.body.last() == Some(&b'}') {
            self.body.push(b',');
        }
        self.counters.count_read(kind, bytes);
        self.body.reserve(bytes + 384);
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
    fn push_envelope(&mut self, api_version: impl Display, network: &str, payload: &str) {
        self.push_text("\"header\":{\"api_version\":");
        self.push_string(format_args!("{api_version}"));
        self.push_text(",\"network_name\":");
        self.push_string(network);
        self.push_text("},\"payload\":");
        self.push_text(payload);
        self.push_text("}");
    }

    pub(super) fn push_string(&mut self, text: impl Serialize) {
        // Writing to memory does not fail, and a string is always JSON.
        let _ = serde_json::to_writer(&mut self.body, &text);
    }

    pub(super) fn push_display(&mut self, text: impl Display) {
        let _ = write!(self.body, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn an_event_is_added_only_if_the_list_stays_within_its_limit_or_it_is_the_only_one() {
        let room = || Arc::new(Semaphore::new(1)).try_acquire_owned().ok();
        let list = || Found { room: room(), ..Found::new("[", Form::Envelope, &Arc::default()) };
        let mut alone = list();
        assert_eq!(alone.room_for(2 * LIST_BYTES_MAX).unwrap(), Pushed::Yes);
        let mut list = list();
        list.push_enveloped(0, Kind(0), "2.0.0", "casper", "{}").unwrap();
        let left = LIST_BYTES_MAX - list.body.len();
        assert_eq!(list.room_for(left).unwrap(), Pushed::Yes);
        assert!(matches!(list.room_for(left + 1), Err(Failure::TooLong)));
    }
}
