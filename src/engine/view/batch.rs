//! A batch: what a run of the log's events means for the tables.
//!
//! Events flow in from the log, and only their keys are kept; sorted postings flow out into one transaction of redb. An
//! event in which the projection finds no key leaves nothing.

use redb::WriteTransaction;
use sidecar_log_format::{ChainValue, Cursor, Item, Log, Run, Sequence};

use super::postings::Postings;
use super::projection::Projection;
use super::tables;

/// The keys of consecutive events.
#[derive(Debug)]
pub(crate) struct Batch {
    next: Sequence,
    chain_before_next: Option<ChainValue>,
    events: usize,
    postings: Postings,
}

impl Batch {
    /// Reads from `from` on to the head, or until it has at least `events_max` events (blocks are not cut). What the log
    /// does not hold any more, or is damaged, is stepped over.
    ///
    /// A read that fails ends the batch, and is an error when nothing comes before it.
    pub(crate) fn read(
        projection: &dyn Projection,
        log: &Log,
        from: Sequence,
        events_max: usize,
    ) -> sidecar_log_format::Result<Self> {
        let mut cursor = Cursor::new(log, from.max(log.oldest())).waiting_for_the_device();
        let (mut events, mut postings) = (0, Postings::new(projection.tables().len()));
        while events < events_max {
            match cursor.next_run() {
                Ok(Some(run)) => events += project(projection, &run, &mut postings),
                Ok(None) => break,
                Err(_) if events > 0 => break,
                Err(error) => return Err(error),
            }
        }
        let next = cursor.position();
        Ok(Self { next, chain_before_next: chain_before(log, next)?, events, postings })
    }

    /// The sequence after the last event.
    pub(crate) fn next(&self) -> Sequence {
        self.next
    }

    /// The log's chain value there, where the log can tell.
    pub(super) fn chain_before_next(&self) -> Option<ChainValue> {
        self.chain_before_next
    }

    /// How many events were looked at.
    pub(crate) fn events(&self) -> usize {
        self.events
    }

    /// Adds everything to the tables.
    pub(super) fn write(mut self, transaction: &WriteTransaction, tables: &[&dyn tables::Table]) -> tables::Result<()> {
        for (place, table) in tables.iter().enumerate() {
            let entries = self.postings.take_sorted(place);
            table.append(transaction, &entries, &mut self.postings)?;
        }
        Ok(())
    }
}

/// Adds the keys of a run's events; returns how many events there are.
fn project(projection: &dyn Projection, run: &Run, postings: &mut Postings) -> usize {
    let mut events = 0;
    for item in run.items() {
        let Item::Event(row, payload) = item else { continue };
        events += 1;
        postings.begin_event(row.sequence());
        if let Ok(payload) = std::str::from_utf8(&payload) {
            projection.project(row.kind(), payload, postings);
        }
    }
    events
}

/// The log's chain value before `sequence`; `None` where the log cannot tell, or has no event before.
pub(super) fn chain_before(log: &Log, sequence: Sequence) -> sidecar_log_format::Result<Option<ChainValue>> {
    sequence.checked_sub(1).map_or(Ok(None), |before| log.chain_after(before))
}
