//! Forgetting: what the identity index knows of dropped events goes too, later.
//!
//! The identities of a segment's events are read from the segment itself while it is still there: events that are filled in
//! late have old times in new segments, so no range of the index belongs to one segment. They are kept until the log has gone
//! on by [`RECOGNISED_EVENTS`], because a node sends its newest events again at every connect, and what was dropped a moment
//! ago must not come back as news. Then they leave the index, a bounded number at a time. What a restart finds here is
//! forgotten itself: those rows stay, at most [`RECOGNISED_EVENTS`] of them.

use std::collections::VecDeque;

use sidecar_log_format::{Kind, Log, Maintenance, Row, SegmentPart, Sequence};
use tracing::warn;

use crate::engine::dialect::{Dialect, Identity, facts_of};
use crate::engine::ingest::identity::Forgetter;
use crate::engine::ingest::remembered::Remembered;

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
        dialect: &dyn Dialect,
        forgetter: &Forgetter,
    ) {
        let mut remembered = Remembered::default();
        // The identities of marked kinds are in marks; those of unidentified kinds are not in the index.
        let has_own = |kind: Kind| (dialect.marked_kinds() | dialect.unidentified_kinds()) & kind.bit() == 0;
        let identity_of = |row: &Row<'_>, payload: &[u8]| Some(facts_of(dialect, row.kind(), payload)?.identity);
        let result = maintenance.read_segment(segment, &mut |part| {
            match part {
                SegmentPart::Marks(marks) => marks.iter().for_each(|mark| remembered.note(mark)),
                SegmentPart::Events(block) => {
                    self.dropped.extend(block.rows().filter_map(|row| {
                        let marked = remembered.take(&row);
                        let own = || has_own(row.kind()).then(|| identity_of(&row, &row.payload())).flatten();
                        Some((row.sequence(), marked.or_else(own)?))
                    }));
                    remembered.pass(block.end_sequence());
                }
                SegmentPart::Large(event) => {
                    let identity = event.shape().row(0).and_then(|row| {
                        let own = || has_own(row.kind()).then(|| identity_of(&row, &event.payload().ok()?)).flatten();
                        remembered.take(&row).or_else(own)
                    });
                    self.dropped.extend(identity.map(|identity| (event.sequence(), identity)));
                }
                SegmentPart::Missing(..) => {}
            }
            // Now, so that a large segment takes no more memory than a small one.
            self.forget(log.head().next_sequence, forgetter);
        });
        if let Err(error) = result {
            warn!(segment, %error, "the events of a dropped segment stay in the identity index; they only take space");
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
                warn!(%error, "identities of dropped events stay in the identity index; they only take space");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use sidecar_log_format::storage::Directory;
    use sidecar_log_format::{ApiVersion, Event, Opened, Writer};

    use super::*;
    use crate::engine::dialect::write_options;
    use crate::engine::ingest::identity::{Durable, Fingerprint, IdentityIndex, Known, LogPosition, Options};
    use crate::engine::ingest::remembered::identity_mark;
    use crate::engine::testing::{BELL, NOTE, Notes};

    const BELL_IDENTITY: Identity = Identity { class: 7, time: 3, hash: [9; 16] };
    const ANY: u32 = 4;

    fn fingerprint() -> Fingerprint {
        Fingerprint::new(ANY, false)
    }

    fn append(writer: &mut Writer, kind: Kind, payload: &str) -> Identity {
        let event = Event {
            kind,
            name: "",
            source: "node",
            network: "notes-test",
            api_version: ApiVersion::NONE,
            upstream_id: None,
            received: 1,
            payload,
        };
        writer.append(&event).unwrap();
        Notes::default().facts(kind, payload).unwrap().identity
    }

    fn open(path: &Path, log: &Log) -> IdentityIndex {
        let head = log.head().next_sequence.checked_sub(1);
        let position = LogPosition {
            id: log.id(),
            rule: "",
            head,
            oldest: log.oldest(),
            chain_after: &|sequence| log.chain_after(sequence),
        };
        IdentityIndex::open(path, position, Options::default()).unwrap().index
    }

    #[test]
    fn the_index_forgets_what_was_dropped_when_the_log_has_gone_on_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(Directory::create(folder.path().join("log")).unwrap());
        let Opened { mut writer, log, .. } =
            Writer::open(storage, write_options(&Notes::default(), [1; 16], 1)).unwrap();
        let mut identities: Vec<Identity> =
            (0..10).map(|number| append(&mut writer, NOTE, &format!(r#"{{"key":"{number}"}}"#))).collect();
        append(&mut writer, BELL, "\"bell\"");
        identities.push(BELL_IDENTITY);
        writer.mark_ahead(&identity_mark(10, "node", 1, &BELL_IDENTITY)).unwrap();
        // Of an event that a crash took: the identity may be that of another event, which is kept.
        let taken = Notes::default().facts(NOTE, r#"{"key":"kept"}"#).unwrap().identity;
        writer.mark_ahead(&identity_mark(10, "node", 2, &taken)).unwrap();
        writer.seal_now(1).unwrap();
        let kept = append(&mut writer, NOTE, r#"{"key":"kept"}"#);
        writer.commit().unwrap();

        let path = folder.path().join("index.redb");
        let mut index = open(&path, &log);
        for (identity, sequence) in identities.iter().chain([&kept]).zip(0..) {
            let _room = index.insert(identity, fingerprint(), sequence).unwrap();
        }
        index.committed(Durable { sequence: 11, chain: log.chain_after(11).unwrap() }).unwrap();
        index.flush().unwrap();
        drop(index);
        let known = || {
            let mut index = open(&path, &log);
            let mut is_known = |identity| index.check(identity, fingerprint()).unwrap() == Known::Same;
            (identities.iter().filter(|identity| is_known(identity)).count(), is_known(&kept))
        };
        assert_eq!(known(), (11, true));

        let maintenance = writer.maintenance();
        let mut forgetting = Forgetting::default();
        let at_head = |forgetting: &mut Forgetting, head| {
            let forgetter = open(&path, &log).forgetter();
            if head == 0 {
                forgetting.take_leave(&maintenance, 0, &log, &Notes::default(), &forgetter);
            }
            forgetting.forget(head, &forgetter);
        };
        // What a node may well send again is still recognised.
        at_head(&mut forgetting, 0);
        assert_eq!(known(), (11, true));
        at_head(&mut forgetting, RECOGNISED_EVENTS + 3);
        assert_eq!(known(), (7, true));
        at_head(&mut forgetting, RECOGNISED_EVENTS + 1_000);
        assert_eq!(known(), (0, true));
    }
}
