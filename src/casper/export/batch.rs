//! The next events of the log, as many as go into one transaction.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use sidecar_log_format::{Cursor, Error, Item, Log, Missing, Row, Run, Sequence};

use super::rows::{EventRow, event_row};

/// A transaction takes no further event once it has so many bytes of payload.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Adjacent events of the log, held for as long as their rows are needed.
pub(super) struct Batch {
    /// What was read, and how many events of it are in the batch.
    runs: Vec<(Run, usize)>,
    /// Payloads that are not in one piece in the log.
    folded: BTreeMap<Sequence, String>,
    /// The sequence after the last of them.
    pub(super) end: Sequence,
    /// Sequences in between that name no event any more, and why.
    pub(super) missing: Vec<(Range<Sequence>, Missing)>,
}

impl Batch {
    /// Reads a range on from its start: at least one sequence, unless the range or the log ends there, and at most
    /// `events_max` events and gaps.
    pub(super) fn read(log: &Log, range: Range<Sequence>, events_max: usize) -> Result<Batch, Error> {
        let mut cursor = Cursor::new(log, range.start).until(range.end).waiting_for_the_device();
        let mut batch = Batch { runs: Vec::new(), folded: BTreeMap::new(), end: range.start, missing: Vec::new() };
        let (mut room, mut bytes) = (events_max, 0);
        while room > 0
            && bytes < BATCH_BYTES_MAX
            && let Some(run) = cursor.next_run()?
        {
            let mut events = 0;
            for item in run.items().take(room) {
                room -= 1;
                match item {
                    Item::Event(row, payload) => {
                        events += 1;
                        bytes += payload.len();
                        batch.end = row.sequence() + 1;
                        if let Cow::Owned(payload) = payload
                            && let Ok(payload) = String::from_utf8(payload)
                        {
                            batch.folded.insert(row.sequence(), payload);
                        }
                    }
                    Item::Missing(sequences, why) => {
                        batch.end = sequences.end;
                        batch.missing.push((sequences, why.clone()));
                    }
                }
            }
            batch.runs.push((run, events));
        }
        Ok(batch)
    }

    /// How many events of these kinds it holds.
    pub(super) fn count(&self, kinds: u64) -> usize {
        self.events().filter(|(row, _)| kinds & row.kind().bit() != 0).count()
    }

    /// The rows of the events that the tables have a place for.
    pub(super) fn rows(&self) -> Vec<EventRow<'_>> {
        self.events()
            .filter_map(|(row, payload)| match payload {
                Cow::Borrowed(payload) => event_row(&row, std::str::from_utf8(payload).ok()?),
                Cow::Owned(_) => event_row(&row, self.folded.get(&row.sequence())?),
            })
            .collect()
    }

    fn events(&self) -> impl Iterator<Item = (Row<'_>, Cow<'_, [u8]>)> {
        self.runs.iter().flat_map(|(run, events)| {
            let event = |item| match item {
                Item::Event(row, payload) => Some((row, payload)),
                Item::Missing(..) => None,
            };
            run.items().filter_map(event).take(*events)
        })
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
