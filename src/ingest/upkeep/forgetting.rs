//! Forgetting: what the identity index knows of dropped events goes too, later.
//!
//! The identities of a segment's events are read from the segment itself while it is still there: events that are filled in
//! late have old times in new segments, so no range of the index stands for a segment. They are kept until the log has gone
//! on by [`RECOGNISED_EVENTS`], because a node sends its newest events again at every connect, and what was dropped a moment
//! ago must not come back as news. Then they leave the index, a bounded number at a time. What a restart finds here is
//! forgotten itself: those rows stay, at most [`RECOGNISED_EVENTS`] of them.

use std::collections::VecDeque;

use sidecar_log_format::{Log, Maintenance, MarkKind, Read, Sequence};
use tracing::warn;

use crate::ingest::committer::{identity_of, parse_identity_mark};
use crate::ingest::identity::Forgetter;
use crate::source::Identity;
use crate::source::casper::event::SHUTDOWN;

/// Dropped events are recognised until so many newer ones are stored: twenty times what a node sends again unless it is
/// configured otherwise.
pub(super) const RECOGNISED_EVENTS: u64 = 100_000;
/// Identities that leave the index in one transaction: some ten milliseconds, which its writer may have to wait.
const BATCH: usize = 4096;

/// Identities of dropped events that the index still knows.
#[derive(Default)]
pub(super) struct Forgetting {
    dropped: VecDeque<(Sequence, Identity)>,
    batch: Vec<Identity>,
    has_failed: bool,
}

impl Forgetting {
    /// Notes what the index knows of a segment that is about to be dropped.
    pub(super) fn take_leave(
        &mut self,
        maintenance: &Maintenance,
        segment: Sequence,
        log: &Log,
        forgetter: &Forgetter,
    ) {
        let result = maintenance.read_segment(segment, &mut |read| {
            match read {
                Read::Events { block, .. } => {
                    // A shutdown's identity stands in a mark.
                    let rows = block.rows().filter(|row| row.kind() != SHUTDOWN);
                    self.dropped.extend(rows.filter_map(|row| Some((row.sequence(), identity_of(&row.payload())?))));
                }
                Read::Large(event) => {
                    let identity = event.payload().ok().and_then(|payload| identity_of(&payload));
                    self.dropped.extend(identity.map(|identity| (event.sequence(), identity)));
                }
                Read::Missing { .. } | Read::End => {}
            }
            // Now, so that a large segment takes no more memory than a small one.
            self.forget(log.head().next_sequence, forgetter);
        });
        match result {
            Ok(marks) => {
                let marks = marks.iter().filter(|mark| mark.kind == MarkKind::IDENTITY);
                self.dropped.extend(marks.filter_map(parse_identity_mark));
            }
            Err(error) => warn!("the events of segment {segment} stay in the identity index: {error}"),
        }
    }

    /// Forgets what is old enough now.
    pub(super) fn forget(&mut self, head: Sequence, forgetter: &Forgetter) {
        let is_old = |&(sequence, _): &(Sequence, Identity)| sequence.saturating_add(RECOGNISED_EVENTS) <= head;
        while self.dropped.front().is_some_and(is_old) {
            while let Some((_, identity)) = self.dropped.pop_front_if(|dropped| is_old(dropped)) {
                self.batch.push(identity);
                if self.batch.len() >= BATCH {
                    break;
                }
            }
            let result = forgetter.forget(&self.batch);
            self.batch.clear();
            // They only take room. Once is enough to say it.
            if let Err(error) = result
                && !std::mem::replace(&mut self.has_failed, true)
            {
                warn!("identities of dropped events stay in the index: {error}");
            }
        }
    }
}
