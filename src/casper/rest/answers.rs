//! What answers are made of: [`Found`] collects stored events in the form in which clients see them.
//!
//! This is the seam between where events are looked up (the views and the log, or a database) and HTTP, which only sees
//! bytes. Nothing is parsed and written again: an answer is the event's own bytes with fixed text around them.

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;
use sidecar_log_format::{Kind, Missing, Read, Row, Sequence};

use super::counters::Counters;
use super::failure::{Failure, LIST_BYTES_MAX};
use crate::casper::event::kind_name;
use crate::casper::keys::rest_payload;
use crate::engine::http::memory::{AnswerMemory, LARGE_ANSWERS_BYTES, MIDDLING_BYTES, Pieces, Room, SMALL_BYTES};
use crate::engine::http::turns;
use crate::rfc3339;

/// What an answer may have beside its events' payloads.
const AROUND_BYTES: usize = 4 << 10;

/// Sequences (both ends inclusive) that hold no event any more, and why.
pub(super) type MissingRange = (Sequence, Sequence, &'static str);

/// The form of events in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One envelope, or several with commas between.
    Envelope,
    /// As the log has it: sequence, kind, source and time, and the payload as it came.
    Stored,
    /// The same of a log of any dialect.
    StoredInAny,
}

/// Whether an event was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Yes,
    /// Not before [`Found::make_room`].
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
    /// How many events there are.
    pub(super) events: usize,
    /// The place of the last event that was added or skipped, in the order of the events: in the log its sequence.
    pub(super) last: Option<Sequence>,
    /// What the page skipped because the log has lost it.
    pub(super) missing: Vec<MissingRange>,
    /// Its part of [`AnswerMemory`], while it is larger than [`MIDDLING_BYTES`]: only so many requests are worked on at once.
    room: Option<Room>,
    /// How large it wants to become, if that was more than it had room for.
    wanted_bytes: usize,
    counters: Arc<Counters>,
}

/// A state of [`Found`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    body_bytes: usize,
    events: usize,
    last: Option<Sequence>,
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
            last: None,
            missing: Vec::new(),
            room: None,
            wanted_bytes: 0,
            counters: Arc::clone(counters),
        }
    }

    /// Waits until it may become as large as it wanted to.
    pub(super) async fn make_room(&mut self, memory: &AnswerMemory) -> Result<(), Failure> {
        // What waits has no room, lest two that grow wait for each other.
        self.room = None;
        self.room = Some(memory.room(turns::client(), self.wanted_bytes, self.body.len()).await?);
        Ok(())
    }

    /// The finished body of an answer, and what must be held for as long as it is in memory. Waits for that, unless there
    /// was room to make it.
    pub(super) async fn keep(self, memory: &AnswerMemory) -> Result<(Pieces, Option<Room>), Failure> {
        let Found { body, room, .. } = self;
        let bytes = body.len();
        let room = match room {
            _ if bytes <= SMALL_BYTES => None,
            Some(room) => Some(room.shrunk_to(bytes)),
            None => Some(memory.room(turns::client(), bytes, bytes).await?),
        };
        Ok((Pieces::from(body), room))
    }

    /// A page ends early when it has become long.
    pub(super) fn paged(self) -> Self {
        Found { is_page: true, ..self }
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

    /// Passes over an event that the log does not hold any more. A page names it if it is lost, and continues: otherwise
    /// no client could read what comes after it.
    ///
    /// # Errors
    /// [`Failure::Lost`] where the answer is not a page.
    pub(super) fn skip(&mut self, sequence: Sequence, why: Missing) -> Result<(), Failure> {
        if why != Missing::Dropped {
            if !self.is_page {
                return Err(Failure::Lost { sequence, why });
            }
            self.missing.push((sequence, sequence, why.for_clients()));
        }
        self.last = Some(sequence);
        Ok(())
    }

    /// Adds what is missing of a page, as a member of an object that is open already.
    pub(super) fn push_missing(&mut self) {
        self.push_text(",\"missing\":[");
        for (place, (from, to, why)) in std::mem::take(&mut self.missing).into_iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            self.push_display(format_args!("{comma}{{\"from\":{from},\"to\":{to},\"why\":"));
            self.push_string(why);
            self.push_text("}");
        }
        self.push_text("]");
    }

    /// Adds text that is no event.
    pub(super) fn push_text(&mut self, text: &str) {
        self.body.extend_from_slice(text.as_bytes());
    }

    /// Adds what was read. A large event gets its room before its payload is read; a damaged one is skipped, like other damage.
    pub(super) fn push(&mut self, read: Read) -> Result<Pushed, Failure> {
        match read {
            Read::Events { block, index } => match block.row(index) {
                Some(row) => self.push_row(&row, &row.payload()),
                None => Ok(Pushed::Yes),
            },
            Read::Large(event) => {
                let Some(row) = event.shape().row(0) else { return Ok(Pushed::Yes) };
                let room = self.room_for(usize::try_from(event.wire_bytes()).unwrap_or(usize::MAX))?;
                if room != Pushed::Yes {
                    return Ok(room);
                }
                match event.payload() {
                    Ok(payload) => self.push_row(&row, &payload),
                    Err(error) if error.is_damage() => {
                        self.skip(row.sequence(), Missing::Quarantined(error.to_string())).map(|()| Pushed::Yes)
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Read::Missing { from, why, .. } => self.skip(from, why).map(|()| Pushed::Yes),
            Read::End => Ok(Pushed::Yes),
        }
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
            self.events += 1;
            self.last = Some(sequence);
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
            self.events += 1;
            self.last = Some(sequence);
        }
        Ok(pushed)
    }

    /// Whether an event of this size may be added now.
    pub(super) fn room_for(&mut self, bytes: usize) -> Result<Pushed, Failure> {
        let is_large = self.body.len().saturating_add(bytes) > MIDDLING_BYTES;
        if is_large && self.events > 0 && self.is_page {
            self.is_cut = true;
            return Ok(Pushed::PageIsFull);
        }
        let wanted = self.body.len().saturating_add(bytes);
        if wanted > if self.events > 0 { LIST_BYTES_MAX } else { LARGE_ANSWERS_BYTES - AROUND_BYTES } {
            return Err(Failure::TooLong);
        }
        if wanted > self.room_bytes() {
            // It is unknown how long a list becomes.
            self.wanted_bytes = AROUND_BYTES + if self.events > 0 { LIST_BYTES_MAX } else { wanted };
            return Ok(Pushed::NeedsRoom);
        }
        Ok(Pushed::Yes)
    }

    /// How large the answer may become now.
    pub(super) fn room_bytes(&self) -> usize {
        self.room.as_ref().map_or(MIDDLING_BYTES, Room::bytes)
    }

    fn begin_event(&mut self, kind: Kind, bytes: usize) {
        if self.events > 0 && self.body.last() == Some(&b'}') {
            self.body.push(b',');
        }
        // Only Casper's kinds are counted.
        if self.form != Form::StoredInAny {
            self.counters.count_read(kind, bytes);
        }
        self.body.reserve(bytes + 384);
    }

    fn push_facts(&mut self, row: &Row<'_>) {
        let received_at = rfc3339::format(row.received());
        self.push_display(format_args!("{{\"sequence\":{},\"kind\":", row.sequence()));
        match self.form {
            Form::StoredInAny => self.push_string(row.name()),
            Form::Stored | Form::Envelope => self.push_string(kind_name(row.kind())),
        }
        self.push_text(",\"source\":");
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

    pub(super) fn push_number(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.push_display(number),
            None => self.push_text("null"),
        }
    }

    pub(super) fn push_display(&mut self, text: impl Display) {
        let _ = write!(self.body, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn found(opening_bytes: usize) -> Found {
        Found::new(&"x".repeat(opening_bytes), Form::Envelope, &Arc::default())
    }

    #[tokio::test]
    async fn an_event_is_added_only_if_the_list_stays_within_its_limit_or_it_is_the_only_one() {
        let memory = AnswerMemory::default();
        let mut alone = found(1);
        for bytes in [2 * LIST_BYTES_MAX, 256 << 20] {
            assert_eq!(alone.room_for(bytes).unwrap(), Pushed::NeedsRoom);
            alone.make_room(&memory).await.unwrap();
            assert_eq!(alone.room_for(bytes).unwrap(), Pushed::Yes);
        }
        assert!(matches!(alone.room_for(LARGE_ANSWERS_BYTES), Err(Failure::TooLong)));
        drop(alone);
        let mut list = found(1);
        list.push_enveloped(0, Kind(0), "2.0.0", "casper", "{}").unwrap();
        assert_eq!(list.room_for(MIDDLING_BYTES).unwrap(), Pushed::NeedsRoom);
        list.make_room(&memory).await.unwrap();
        let left = LIST_BYTES_MAX - list.body.len();
        assert_eq!(list.room_for(left).unwrap(), Pushed::Yes);
        assert!(matches!(list.room_for(left + 1), Err(Failure::TooLong)));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_small_takes_its_size_until_it_is_gone() {
        let memory = AnswerMemory::default();
        let all = memory.left_bytes();
        let (_, room) = found(SMALL_BYTES).keep(&memory).await.unwrap();
        assert!(room.is_none());
        let (_, room) = found(SMALL_BYTES + 1).keep(&memory).await.unwrap();
        assert_eq!(memory.left_bytes(), [all[0] - SMALL_BYTES - 1024, all[1]]);
        drop(room);
        let mut list = found(MIDDLING_BYTES);
        list.events = 1;
        assert_eq!(list.room_for(1).unwrap(), Pushed::NeedsRoom);
        list.make_room(&memory).await.unwrap();
        assert_eq!(memory.left_bytes(), [all[0], all[1] - LIST_BYTES_MAX - AROUND_BYTES]);
        let (_, room) = list.keep(&memory).await.unwrap();
        assert_eq!(memory.left_bytes(), [all[0], all[1] - MIDDLING_BYTES]);
        drop(room);
        assert_eq!(memory.left_bytes(), all);
    }

    #[tokio::test]
    async fn an_answer_waits_until_there_is_memory_for_it_and_smaller_ones_do_not_wait_with_it() {
        let memory = AnswerMemory::default();
        let most = memory.room(None, LARGE_ANSWERS_BYTES, 0).await.unwrap();
        let mut large = found(0);
        assert_eq!(large.room_for(2 * MIDDLING_BYTES).unwrap(), Pushed::NeedsRoom);
        assert!(large.make_room(&memory).now_or_never().is_none());
        let mut smaller = Vec::new();
        while let Some(kept) = found(MIDDLING_BYTES).keep(&memory).now_or_never() {
            smaller.push(kept.unwrap());
        }
        assert!(smaller.len() >= 16, "{}", smaller.len());
        assert!(found(SMALL_BYTES).keep(&memory).now_or_never().is_some());
        smaller.pop();
        assert!(found(MIDDLING_BYTES).keep(&memory).now_or_never().is_some());
        drop(most);
        assert!(large.make_room(&memory).now_or_never().is_some());
    }
}
