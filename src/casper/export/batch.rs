//! The next events of the log, as many as go into one transaction.

use std::{ops::Range, sync::Arc};

use sidecar_log_format::{Block, Error, LargeEvent, Log, Missing, Read, Row, Sequence};

use super::rows::{EventRow, event_row};

/// A transaction takes no further event once it has so many bytes of payload.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Adjacent events of the log, held for as long as their rows are needed.
pub(super) struct Batch {
    events: Vec<Stored>,
    /// The sequence after the last of them.
    pub(super) end: Sequence,
    /// Sequences in between that name no event any more, and why.
    pub(super) missing: Vec<(Range<Sequence>, Missing)>,
}

struct Stored {
    place: Place,
    /// The payload, where it is not in the block in one piece.
    payload: Option<String>,
}

enum Place {
    Shared(Arc<Block>, usize),
    Alone(Box<LargeEvent>),
}

impl Batch {
    /// Reads a range on from its start: at least one sequence, unless the range or the log ends there, and at most
    /// `events_max` events and gaps.
    pub(super) fn read(log: &Log, range: Range<Sequence>, events_max: usize) -> Result<Batch, Error> {
        let mut batch = Batch { events: Vec::new(), end: range.start, missing: Vec::new() };
        let mut bytes = 0;
        while batch.end < range.end && batch.events.len() + batch.missing.len() < events_max && bytes < BATCH_BYTES_MAX
        {
            match log.read(batch.end)? {
                Read::Events { block, index } => {
                    let room = events_max - batch.events.len() - batch.missing.len();
                    let wanted = block.rows().take_while(|row| row.sequence() < range.end);
                    for row in wanted.skip(index).take(room) {
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
                        Err(error @ Error::Corrupt { .. }) => {
                            let why = Missing::Quarantined(error.to_string());
                            batch.missing.push((large.sequence()..batch.end, why));
                        }
                        Err(error) => return Err(error),
                    }
                }
                Read::Missing { from, to, why } => {
                    batch.end = to.max(from + 1).min(range.end);
                    batch.missing.push((from..batch.end, why));
                }
                Read::End => break,
            }
        }
        Ok(batch)
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

/// A payload that its frame has over several lines, in one piece.
fn folded_payload(row: &Row<'_>) -> Option<String> {
    match row.payload() {
        std::borrow::Cow::Borrowed(_) => None,
        std::borrow::Cow::Owned(payload) => String::from_utf8(payload).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::failing_reads::log_with_a_large_event;

    #[test]
    fn no_event_is_missing_because_a_read_failed() {
        let folder = tempfile::tempdir().unwrap();
        let (log, reads) = log_with_a_large_event(folder.path());
        let (failed, batch) = (0..)
            .find_map(|read| {
                reads.fail_after(read);
                Some((read, Batch::read(&log, 0..Sequence::MAX, 8).ok()?))
            })
            .unwrap();
        assert!(failed > 2, "the event is read more than once");
        assert_eq!((batch.rows().len(), batch.missing), (1, Vec::new()));
    }
}
