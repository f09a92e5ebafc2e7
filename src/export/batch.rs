//! The next events of the log, as many as go into one transaction.

use std::{ops::Range, sync::Arc};

use sidecar_log_format::{Block, LargeEvent, Log, Missing, Read, Row, Sequence};
use tracing::warn;

use super::rows::{EventRow, event_row};

/// A transaction takes no further event once it has so many bytes of payload.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Events that stand next to each other in the log, held for as long as their rows are needed.
pub(super) struct Batch {
    events: Vec<Stored>,
    /// The sequence after the last of them.
    pub(super) end: Sequence,
    /// Sequences in between that name no event any more.
    pub(super) missing: u64,
}

struct Stored {
    place: Place,
    /// The payload, where it does not stand in the block in one piece.
    payload: Option<String>,
}

enum Place {
    Shared(Arc<Block>, usize),
    Alone(Box<LargeEvent>),
}

impl Batch {
    /// Reads on from `next`: at least one sequence, unless the log ends there, and at most `events_max` events.
    pub(super) fn read(log: &Log, next: Sequence, events_max: usize) -> Result<Batch, sidecar_log_format::Error> {
        let mut batch = Batch { events: Vec::new(), end: next, missing: 0 };
        let mut bytes = 0;
        while batch.events.len() < events_max && bytes < BATCH_BYTES_MAX {
            match log.read(batch.end)? {
                Read::Events { block, index } => {
                    let room = events_max - batch.events.len();
                    for row in block.rows().skip(index).take(room) {
                        bytes += row.range().len();
                        let payload = folded_payload(&row);
                        let index = block.index_of(row.sequence()).unwrap_or_default();
                        batch.events.push(Stored { place: Place::Shared(Arc::clone(&block), index), payload });
                        batch.end = row.sequence() + 1;
                    }
                }
                Read::Large(large) => {
                    batch.end = large.sequence() + 1;
                    match large.payload() {
                        Ok(payload) => {
                            bytes += payload.len();
                            let payload = String::from_utf8(payload).ok();
                            batch.events.push(Stored { place: Place::Alone(Box::new(large)), payload });
                        }
                        Err(error) => batch.pass(large.sequence()..batch.end, &error.to_string()),
                    }
                }
                Read::Missing { from, to, why } => {
                    batch.end = to.max(from + 1);
                    let why = match why {
                        Missing::Dropped => "older than the oldest retained event",
                        Missing::Hole => "the log has a marked hole there",
                        Missing::Quarantined(ref damage) => damage,
                    };
                    batch.pass(from..batch.end, why);
                }
                Read::End => break,
            }
        }
        Ok(batch)
    }

    fn pass(&mut self, sequences: Range<Sequence>, why: &str) {
        self.missing += sequences.end - sequences.start;
        warn!("events {} to {} are not exported: {why}", sequences.start, sequences.end - 1);
    }

    /// How many events of these kinds it holds.
    pub(super) fn count(&self, kinds: u64) -> usize {
        let is_one = |event: &&Stored| event.row().is_some_and(|row| kinds & row.kind().bit() != 0);
        self.events.iter().filter(is_one).count()
    }

    /// The rows of the events that the tables have a place for.
    pub(super) fn rows(&self) -> Vec<EventRow<'_>> {
        self.events.iter().filter_map(Stored::event_row).collect()
    }
}

impl Stored {
    fn row(&self) -> Option<Row<'_>> {
        match &self.place {
            Place::Shared(block, index) => block.row(*index),
            Place::Alone(large) => large.shape().row(0),
        }
    }

    fn event_row(&self) -> Option<EventRow<'_>> {
        let row = self.row()?;
        let payload = match &self.payload {
            Some(payload) => payload,
            None => match row.payload() {
                std::borrow::Cow::Borrowed(payload) => std::str::from_utf8(payload).ok()?,
                // `folded_payload` has taken these.
                std::borrow::Cow::Owned(_) => return None,
            },
        };
        event_row(&row, payload)
    }
}

/// A payload that stands in its frame over several lines, in one piece.
fn folded_payload(row: &Row<'_>) -> Option<String> {
    match row.payload() {
        std::borrow::Cow::Borrowed(_) => None,
        std::borrow::Cow::Owned(payload) => String::from_utf8(payload).ok(),
    }
}
