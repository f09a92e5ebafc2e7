//! The event streams of 1.x nodes, for clients that were never moved: `/events/main`, `/events/deploys`, `/events/sigs`.
//!
//! A stored 2.x payload flows in, and what a 1.x client understands of it flows out. Each stream is a [`Rendering`]: a block
//! is translated once, and all subscribers share the result. Ids stay the log's, so an event without a 1.x form is a gap.
//! A payload in no shape that is known here is left out, counted and logged; it never stops a stream.
//!
//! - `translation`: one payload; `block`, `era_end`, `transaction`, `processed`, `transforms`, `signature`: its parts.
//! - `compact`: JSON without white space; `large`: events that are read in pieces.
//!
//! Not in here: paths and requests (`events`), and how streams are served (`engine::stream`).

mod block;
mod compact;
mod era_end;
mod large;
mod processed;
mod signature;
#[cfg(test)]
mod tests;
mod text;
mod transaction;
mod transforms;
mod translation;

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use sidecar_log_format::{Kind, LargeEvent, Row, Sequence, Timestamp};

use super::event::{
    BLOCK_ADDED, FAULT, FINALITY_SIGNATURE, SHUTDOWN, TRANSACTION_ACCEPTED, TRANSACTION_EXPIRED, TRANSACTION_PROCESSED,
    kind_name,
};
use crate::engine::stream::{Framing, HubCounters, Rendering};

/// Sent first of all, in the reference's words.
pub(super) const GREETING: &str = ":This endpoint is NOT a 1 to 1 representation of events coming off of the node. Some \
                                   events are not transformable to legacy format. Please consult the documentation for \
                                   details. This endpoint is deprecated and will be removed in a future release. Please \
                                   migrate to the /events endpoint instead.\n\n";

/// One of the streams of a 1.x node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyStream {
    /// `/events/main`: blocks, processed and expired deploys, faults.
    Main,
    /// `/events/deploys`: accepted deploys.
    Deploys,
    /// `/events/sigs`: finality signatures.
    Signatures,
}

impl LegacyStream {
    /// Bits of the kinds that it may have.
    #[must_use]
    pub fn kinds(self) -> u64 {
        let own: &[Kind] = match self {
            LegacyStream::Main => &[BLOCK_ADDED, TRANSACTION_PROCESSED, TRANSACTION_EXPIRED, FAULT],
            LegacyStream::Deploys => &[TRANSACTION_ACCEPTED],
            LegacyStream::Signatures => &[FINALITY_SIGNATURE],
        };
        own.iter().fold(SHUTDOWN.bit(), |bits, kind| bits | kind.bit())
    }
}

/// The rendering of one of the streams.
pub struct Legacy {
    stream: LegacyStream,
    counters: Arc<HubCounters>,
    /// Large events that clients read now, so that they share them like blocks.
    large: Mutex<Vec<LargeMessage>>,
}

/// The message of a large event. Its time distinguishes events of one sequence in two epochs.
struct LargeMessage {
    sequence: Sequence,
    received: Timestamp,
    message: Weak<[u8]>,
}

impl Legacy {
    /// For a log's streams; `counters` are those of its hub.
    #[must_use]
    pub fn new(stream: LegacyStream, counters: Arc<HubCounters>) -> Self {
        Legacy { stream, counters, large: Mutex::default() }
    }

    fn has(&self, kind: Kind) -> bool {
        kind.bit() & self.stream.kinds() != 0
    }

    /// Appends a whole message, or nothing.
    fn message(&self, sequence: Sequence, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(large::OPENING);
        match translation::translate(payload, out) {
            Ok(true) => return out.extend_from_slice(&large::closing(sequence)),
            Ok(false) => {}
            Err(error) => self.note_dropped(sequence, kind, &error),
        }
        out.truncate(start);
    }

    /// The message of an event that is large, and not too large to be translated as a whole; `None`: it has none.
    fn large_message(&self, event: &LargeEvent, row: &Row<'_>) -> io::Result<Option<Arc<[u8]>>> {
        let (sequence, received) = (row.sequence(), row.received());
        let is_it = |large: &&LargeMessage| (large.sequence, large.received) == (sequence, received);
        if let Some(message) = self.lock().iter().find(is_it).and_then(|large| large.message.upgrade()) {
            return Ok(Some(message));
        }
        let mut payload = Vec::with_capacity(event.wire_bytes() as usize);
        event.payload_pieces()?.read_to_end(&mut payload)?;
        let mut message = Vec::new();
        self.message(sequence, row.kind(), &payload, &mut message);
        if message.is_empty() {
            return Ok(None);
        }
        drop(payload);
        let message: Arc<[u8]> = message.into();
        let mut large = self.lock();
        large.retain(|large| large.message.strong_count() > 0);
        large.push(LargeMessage { sequence, received, message: Arc::downgrade(&message) });
        Ok(Some(message))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LargeMessage>> {
        // Nothing in here can stop half-way through a change.
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_dropped(&self, sequence: Sequence, kind: Kind, error: &dyn std::fmt::Display) {
        self.counters.events_not_rendered.add(1);
        let kind = kind_name(kind);
        tracing::debug!(sequence, kind, %error, "event has no shape that can be translated for the 1.x streams");
    }
}

impl Rendering for Legacy {
    fn id(&self) -> u16 {
        match self.stream {
            LegacyStream::Main => 2,
            LegacyStream::Deploys => 3,
            LegacyStream::Signatures => 4,
        }
    }

    fn framing(&self) -> Framing {
        Framing::EventStream
    }

    fn render(&self, row: &Row<'_>, payload: &[u8], out: &mut Vec<u8>) {
        if self.has(row.kind()) {
            self.message(row.sequence(), row.kind(), payload, out);
        }
    }

    fn render_large(&self, event: &LargeEvent) -> io::Result<Option<Box<dyn Read + Send>>> {
        let Some(row) = event.shape().row(0).filter(|row| self.has(row.kind())) else { return Ok(None) };
        if event.wire_bytes() <= large::TRANSLATED_WHOLE_MAX {
            let message = self.large_message(event, &row)?;
            return Ok(message.map(|message| Box::new(io::Cursor::new(message)) as Box<dyn Read + Send>));
        }
        match row.kind() {
            TRANSACTION_ACCEPTED => large::accepted_deploy(event.payload_pieces()?, row.sequence()),
            TRANSACTION_PROCESSED => {
                large::without_transforms(event.payload_pieces()?, row.sequence()).or_else(|error| {
                    if error.is_io() {
                        return Err(error.into());
                    }
                    self.note_dropped(row.sequence(), row.kind(), &error);
                    Ok(None)
                })
            }
            kind => {
                self.note_dropped(row.sequence(), kind, &"it is too large");
                Ok(None)
            }
        }
    }
}

/// For `crate::fuzzing`: what is sent of any payload is one line of JSON.
#[cfg(any(test, fuzzing))]
pub(crate) fn translation_door(payload: &[u8]) {
    let mut out = Vec::new();
    if let Ok(has_form) = translation::translate(payload, &mut out) {
        assert_eq!(has_form, !out.is_empty());
        assert!(!out.contains(&b'\n'));
        assert!(!has_form || serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok());
    }
}
