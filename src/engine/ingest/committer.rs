//! The committer: one thread that decides what is news, appends it and commits.
//!
//! Batches of all sources flow in through one bounded channel; events leave in one order, durable first, then visible. A
//! commit starts when the last has ended and takes what is queued, at most [`COMMIT_BYTES_MAX`]; while a source has more
//! waiting and the block has room, it continues to fill, at most [`FILL_TIME_MAX`]. What is known already fills nothing, so
//! a commit also takes what is queued for no longer than [`TAKE_TIME_MAX`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sidecar_log_format::{
    self as log_format, Cursor, Durability, Event, Head, Item, Kind, Log, Mark, MarkCursor, MarkKind, Sequence, Writer,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::counters::Counters;
use super::disk::Disk;
use super::gaps::{Gap, Gaps};
use super::identity::{self, Durable, Fingerprint, IdentityIndex, IdentityIndexError, Known, Opened, Room};
use super::remembered::{Remembered, identity_mark};
use super::{IndexState, IngestError, SharedIndexState};
use crate::engine::derived::DerivedError;
use crate::engine::dialect::{Dialect, Identity, facts_of};
use crate::engine::source::{BATCH_BYTES, BATCH_EVENTS_MAX, Batch, Connection, Received, Timestamp, now};

/// How long a commit waits for a source that has more.
const FILL_TIME_MAX: Duration = Duration::from_millis(2);
/// How long one commit takes what is queued: a source that repeats known events without end must not put it off.
const TAKE_TIME_MAX: Duration = Duration::from_millis(100);
/// How much wire form one commit takes: several blocks, so that under load the syncs cost a small part of the time.
const COMMIT_BYTES_MAX: usize = 2 << 20;
/// How long to wait before a full device is tried again.
pub(super) const DISK_FULL_PAUSE: Duration = Duration::from_secs(1);
/// How often a writer that has nothing to do looks whether the log is still where it was.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The state of the committer's thread.
pub(super) struct Committer {
    pub(super) writer: Writer,
    pub(super) log: Log,
    pub(super) dialect: Arc<dyn Dialect>,
    pub(super) index: IdentityIndex,
    pub(super) index_file: PathBuf,
    pub(super) index_options: identity::Options,
    pub(super) index_state: SharedIndexState,
    pub(super) gaps: Gaps,
    pub(super) batches: mpsc::Receiver<Batch>,
    pub(super) committed: watch::Sender<Head>,
    pub(super) counters: Arc<Counters>,
    pub(super) durability: Durability,
    pub(super) sync_interval: Duration,
    pub(super) disk: Disk,
    pub(super) runtime: Handle,
    /// What the time of gaps is measured from: the clock on the wall may jump.
    pub(super) begun: Instant,
}

impl Committer {
    /// Works until every source has hung up, then closes the log.
    pub(super) fn run(mut self) -> Result<(), IngestError> {
        match self.work() {
            Err(IngestError::EndedWithoutRoom) => {
                report_end_without_room();
                self.writer.abandon_uncommitted();
            }
            result => result?,
        }
        self.close()
    }

    /// Takes what sources bring, until all of it is committed and no more will come.
    fn work(&mut self) -> Result<(), IngestError> {
        let mut last_sync = Instant::now();
        let mut last_look = Instant::now();
        while let Some(batch) = self.next_batch(last_sync)? {
            if let Some(batch) = batch {
                self.fill(batch)?;
                self.commit()?;
            }
            if last_look.elapsed() >= LOOK_PERIOD {
                self.look()?;
                last_look = Instant::now();
            }
            if self.durability == Durability::Interval && last_sync.elapsed() >= self.sync_interval {
                self.sync()?;
                last_sync = Instant::now();
            }
        }
        self.commit()
    }

    /// Looks whether the log is still where it was. A failure of the look itself proves nothing.
    fn look(&mut self) -> Result<(), IngestError> {
        match self.writer.check_in_place() {
            Err(failure) if !self.writer.is_poisoned() => self.disk.look_failed(&failure, LOOK_PERIOD),
            result => {
                result?;
                self.disk.look_succeeded();
            }
        }
        Ok(())
    }

    /// The next batch; `Some(None)` when it is time to sync or to look around, `None` when there will be none.
    fn next_batch(&mut self, last_sync: Instant) -> Result<Option<Option<Batch>>, IngestError> {
        if let Ok(batch) = self.batches.try_recv() {
            return Ok(Some(Some(batch)));
        }
        let wait = match self.durability {
            Durability::Interval => self.sync_interval.saturating_sub(last_sync.elapsed()).min(LOOK_PERIOD),
            Durability::Commit | Durability::Os => LOOK_PERIOD,
        };
        let received = self.runtime.block_on(async { tokio::time::timeout(wait, self.batches.recv()).await });
        Ok(match received {
            Ok(batch) => batch.map(Some),
            Err(_) => Some(None),
        })
    }

    /// Appends a batch and what follows it closely.
    pub(super) fn fill(&mut self, first: Batch) -> Result<(), IngestError> {
        let begun = Instant::now();
        let mut batch = first;
        loop {
            let more_waits = is_full(&batch);
            self.take(batch)?;
            if self.writer.uncommitted_bytes() >= COMMIT_BYTES_MAX || begun.elapsed() >= TAKE_TIME_MAX {
                return Ok(());
            }
            batch = match self.batches.try_recv() {
                Ok(next) => next,
                Err(_) if !more_waits || self.writer.is_block_full() => return Ok(()),
                Err(_) => {
                    let left = FILL_TIME_MAX.saturating_sub(begun.elapsed());
                    match self.runtime.block_on(async { tokio::time::timeout(left, self.batches.recv()).await }) {
                        Ok(Some(next)) => next,
                        _ => return Ok(()),
                    }
                }
            };
        }
    }

    pub(super) fn take(&mut self, batch: Batch) -> Result<(), IngestError> {
        match batch {
            Batch::Version { connection, version } => {
                match self.writer.announce_version(version, &connection.source, now()) {
                    Err(log_format::Error::Refused { reason }) => {
                        warn!(source = connection.source, %version, reason, "version not noted");
                        Ok(())
                    }
                    result => Ok(result?),
                }
            }
            Batch::Events { connection, events } => {
                events.iter().try_for_each(|received| self.take_event(&connection, received))
            }
            Batch::Gap { connection, of, from, to } => self.mark_gap(Some(&connection.source), Gap { of, from, to }),
        }
    }

    fn take_event(&mut self, connection: &Connection, received: &Received) -> Result<(), IngestError> {
        let fingerprint = Fingerprint::new(crc32fast::hash(received.payload.as_bytes()), received.facts.richness > 0);
        if self.is_unidentified(received.kind) {
            return self.append(connection, received, fingerprint);
        }
        match self.with_index(|index| index.check(&received.facts.identity, fingerprint))? {
            Known::New => self.append(connection, received, fingerprint),
            Known::Same => {
                self.counters.duplicates.add(1);
                Ok(())
            }
            Known::Conflict => {
                self.counters.duplicates.add(1);
                self.counters.identity_conflicts.add(1);
                Ok(())
            }
            Known::RicherCopy => self.amend(connection, received, fingerprint),
        }
    }

    fn append(
        &mut self,
        connection: &Connection,
        received: &Received,
        fingerprint: Fingerprint,
    ) -> Result<(), IngestError> {
        let event = Event {
            kind: received.kind,
            name: &received.name,
            source: &connection.source,
            network: &connection.network,
            api_version: connection.api_version,
            upstream_id: received.upstream_id,
            received: received.received_at,
            payload: &received.payload,
        };
        let sequence = match self.writer.append(&event) {
            Ok(sequence) => sequence,
            Err(log_format::Error::Refused { reason }) => {
                self.refuse(connection, received, "event not stored", &reason);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.counters.stored.add(1);
        self.counters.stored_by_kind.add(received.kind);
        self.counters.stored_bytes.add(received.payload.len() as u64);
        self.counters.stored_richness.add(received.facts.richness.into());
        self.counters.newest_received.set(received.received_at);
        if let (Some(line), Some(event_lines)) = (&received.line, &connection.event_lines) {
            event_lines.stored(received.kind, line);
        }
        // Most events have none, and need no look at the clock.
        if received.facts.ordinal.is_some() {
            self.gaps.stored(received.kind, received.facts.ordinal, self.begun.elapsed());
            self.gaps.highest().into_iter().for_each(|highest| self.counters.highest_ordinal.set(highest));
        }
        if self.dialect.marked_kinds() & received.kind.bit() != 0 {
            // So that the index can be rebuilt.
            let identity = &received.facts.identity;
            self.writer.mark_ahead(&identity_mark(sequence, &connection.source, received.received_at, identity))?;
        }
        if self.is_unidentified(received.kind) {
            return Ok(());
        }
        self.note(&received.facts.identity, fingerprint, sequence)
    }

    /// Whether every report of a kind is a new event, so that the index has nothing to know of it.
    fn is_unidentified(&self, kind: Kind) -> bool {
        self.dialect.unidentified_kinds() & kind.bit() != 0
    }

    /// Keeps a later copy that is richer than the stored event.
    fn amend(
        &mut self,
        connection: &Connection,
        received: &Received,
        fingerprint: Fingerprint,
    ) -> Result<(), IngestError> {
        self.counters.duplicates.add(1);
        self.counters.identity_conflicts.add(1);
        let body = serde_json::json!({
            "reason": "richer than the stored event",
            "kind": received.kind.0,
            "upstream_id": received.upstream_id,
            "payload": received.payload,
        });
        match self.mark(MarkKind::AMENDMENT, &connection.source, received.received_at, body.to_string()) {
            Err(IngestError::Log(log_format::Error::Refused { reason })) => {
                self.refuse(connection, received, "a richer copy of a stored event was not kept", &reason);
            }
            result => {
                result?;
                self.counters.amendments.add(1);
            }
        }
        // Of a copy that was refused too: when a node brings it again, it is no news.
        let sequence = self.writer.next_sequence();
        self.note(&received.facts.identity, fingerprint, sequence)
    }

    /// Marks in the log which events `source` does not have any more, or no source has.
    fn mark_gap(&mut self, source: Option<&str>, gap: Gap) -> Result<(), IngestError> {
        let Gap { of, from, to } = gap;
        warn!(source, of, from, to, "events are missing that cannot be had any more, the log carries a mark");
        let of = serde_json::Value::from(of);
        let body = format!(r#"{{"of":{of},"from":{from},"to":{to}}}"#);
        match self.mark(MarkKind::GAP, source.unwrap_or_default(), now(), body) {
            Err(IngestError::Log(log_format::Error::Refused { reason })) => {
                warn!(source, reason, "gap not marked");
                Ok(())
            }
            result => {
                result?;
                self.counters.gaps.add(1);
                Ok(())
            }
        }
    }

    /// What the log cannot hold is left out, and everything else continues.
    fn refuse(&self, connection: &Connection, received: &Received, what: &'static str, reason: &str) {
        self.counters.refused.add(1);
        let bytes = received.payload.len();
        warn!(source = connection.source, upstream_id = received.upstream_id, bytes, reason, "{what}");
    }

    fn mark(&mut self, kind: MarkKind, source: &str, received: Timestamp, body: String) -> Result<(), IngestError> {
        let position = self.writer.next_sequence();
        Ok(self.writer.mark(&Mark { kind, position, source: source.to_owned(), received, body })?)
    }

    fn note(&mut self, identity: &Identity, fingerprint: Fingerprint, sequence: Sequence) -> Result<(), IngestError> {
        if self.with_index(|index| index.insert(identity, fingerprint, sequence))? == Room::Full {
            self.commit()?;
            // Still full then means that only an interval sync will make the rest durable.
            if self.with_index(IdentityIndex::wait_for_room)? == Room::Full {
                self.sync()?;
                let _room = self.with_index(IdentityIndex::wait_for_room)?;
            }
        }
        Ok(())
    }

    /// Asks the index. One that turns out to be damaged is rebuilt first, and asked again.
    fn with_index<T>(
        &mut self,
        mut ask: impl FnMut(&mut IdentityIndex) -> identity::Result<T>,
    ) -> Result<T, IngestError> {
        match ask(&mut self.index) {
            Err(IdentityIndexError::File(DerivedError::Damaged { how, .. })) => {
                self.rebuild_index(how)?;
                Ok(ask(&mut self.index)?)
            }
            answer => Ok(answer?),
        }
    }

    /// Puts an index in place that is read from the log. Ingest waits meanwhile; readers of the log do not.
    fn rebuild_index(&mut self, damage: String) -> Result<(), IngestError> {
        let file = self.index_file.display();
        warn!(%file, damage, "the identity index is damaged; it is rebuilt from the log, and ingest waits until then");
        self.counters.index_rebuilds.add(1);
        let begun = Instant::now();
        // What was appended is in no index but the damaged one: it must be in the log, and durable, before that is read.
        let head = self.when_there_is_room(|writer| {
            writer.commit()?;
            writer.sync()
        })?;
        self.committed.send_replace(head);
        self.index_state.set(IndexState::Incomplete);
        let rule = self.dialect.identity_rule();
        let opened = IdentityIndex::rebuild(&self.index_file, self.log.id(), &rule, damage, self.index_options);
        let Opened { index, checkpoint, .. } = opened?;
        self.index = index;
        let read = self.read_into_index(checkpoint);
        if matches!(read, Err(IngestError::Index(IdentityIndexError::File(DerivedError::Damaged { .. })))) {
            // After a panic in redb its handle keeps a lock on the file: the next run must find another one.
            IdentityIndex::set_aside(&self.index_file)?;
        }
        read?;
        self.index_state.set(IndexState::Complete(self.index.forgetter()));
        info!(seconds = begun.elapsed().as_secs(), "the identity index is rebuilt; ingest resumes");
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Result<(), IngestError> {
        for gap in self.gaps.certain(self.begun.elapsed()) {
            self.counters.missing_ordinals.add(gap.to.saturating_sub(gap.from).saturating_add(1));
            self.mark_gap(None, gap)?;
        }
        let head = self.when_there_is_room(Writer::commit)?;
        self.counters.commits.add(1);
        self.publish(head)
    }

    fn sync(&mut self) -> Result<(), IngestError> {
        let head = self.when_there_is_room(Writer::sync)?;
        self.publish(head)
    }

    /// Does what may find the device full, again and again until it does not. Sources wait meanwhile, and the nodes keep
    /// for them what they have not read.
    fn when_there_is_room(
        &mut self,
        attempt: impl Fn(&mut Writer) -> log_format::Result<Head>,
    ) -> Result<Head, IngestError> {
        loop {
            let begun = Instant::now();
            match attempt(&mut self.writer) {
                Err(failure) if failure.is_out_of_room() && !self.writer.is_poisoned() => {
                    self.disk.is_full(&failure);
                    if self.batches.is_closed() {
                        return Err(IngestError::EndedWithoutRoom);
                    }
                    std::thread::sleep(DISK_FULL_PAUSE);
                }
                result => {
                    let head = result?;
                    self.disk.has_room();
                    self.disk.commit_took(begun.elapsed());
                    return Ok(head);
                }
            }
        }
    }

    fn publish(&mut self, head: Head) -> Result<(), IngestError> {
        let advanced = self.committed.send_replace(head).next_sequence < head.next_sequence;
        if advanced {
            let durable = Durable { sequence: head.next_sequence.saturating_sub(1), chain: Some(head.chain) };
            self.with_index(|index| index.committed(durable))?;
        }
        Ok(())
    }

    fn close(mut self) -> Result<(), IngestError> {
        self.sync()?;
        // The log is closed in order whatever becomes of the index, which is made again from it.
        let flushed = self.index.flush();
        self.writer.close()?;
        Ok(flushed?)
    }

    /// Brings the index up to the log, and lets dropped events leave it from then on: not before, as the events that are
    /// being read in may be among the oldest.
    pub(super) fn catch_up(&mut self, checkpoint: Option<Sequence>) -> Result<(), IngestError> {
        match self.read_into_index(checkpoint) {
            Err(IngestError::Index(IdentityIndexError::File(DerivedError::Damaged { how, .. }))) => {
                self.rebuild_index(how)
            }
            result => {
                self.index_state.set(IndexState::Complete(self.index.forgetter()));
                result
            }
        }
    }

    /// Inserts the log's events after the index's checkpoint.
    fn read_into_index(&mut self, checkpoint: Option<Sequence>) -> Result<(), IngestError> {
        // Then there is nothing for it to know, and so no checkpoint either.
        if self.dialect.unidentified_kinds() == u64::MAX {
            return Ok(());
        }
        let head = self.log.head().next_sequence;
        let start = checkpoint.map_or(0, |checkpoint| checkpoint + 1).max(self.log.oldest());
        if start < head {
            info!(events = head - start, "reading events of the log into the identity index");
        }
        let mut marks = MarkCursor::new(&self.log, start).of_kinds(MarkKind::IDENTITY.bit()).waiting_for_the_device();
        let mut remembered = Remembered::before(start);
        // What is passed here would be new when a node brings it again.
        let mut cursor = Cursor::new(&self.log, start).until(head).waiting_for_the_device();
        while let Some(run) = cursor.next_run()? {
            while let Some(mark) = marks.next_to(run.sequences.end)? {
                remembered.note(&mark);
            }
            for item in run.items() {
                match item {
                    Item::Event(row, payload) => {
                        let remembered = remembered.take(&row);
                        self.insert_again(row.sequence(), row.kind(), &payload, remembered)?;
                    }
                    Item::Missing(sequences, reason) => {
                        let (from, to) = (sequences.start, sequences.end.saturating_sub(1));
                        warn!(from, to, %reason, "events of the log cannot be read, a node may bring them again");
                    }
                }
            }
            remembered.pass(run.sequences.end);
            let sequence = cursor.position().saturating_sub(1);
            let chain = self.log.chain_after(sequence)?;
            self.index.committed(Durable { sequence, chain })?;
            let _room = self.index.wait_for_room()?;
        }
        // The richer copies last: they are what the index compares with from now on. One may have come after the last
        // event that the index has.
        let mut marks = MarkCursor::new(&self.log, start).of_kinds(MarkKind::AMENDMENT.bit()).waiting_for_the_device();
        while let Some(mark) = marks.next_to(Sequence::MAX)? {
            if mark.position >= start
                && let Some((kind, payload)) = parse_amendment(&mark)
            {
                self.insert_again(head.saturating_sub(1), kind, payload.as_bytes(), None)?;
            }
        }
        Ok(())
    }

    fn insert_again(
        &mut self,
        sequence: Sequence,
        kind: Kind,
        payload: &[u8],
        remembered: Option<Identity>,
    ) -> Result<(), IngestError> {
        if self.is_unidentified(kind) {
            return Ok(());
        }
        // Should a stored payload not be an event any more, it has no identity that could come again.
        let Some(facts) = facts_of(&*self.dialect, kind, payload) else { return Ok(()) };
        let fingerprint = Fingerprint::new(crc32fast::hash(payload), facts.richness > 0);
        let _room = self.index.insert(&remembered.unwrap_or(facts.identity), fingerprint, sequence)?;
        Ok(())
    }
}

/// Reports an end for which ingest did not wait until there is room.
pub(super) fn report_end_without_room() {
    warn!("there was no room for what came last; the nodes are read again at the next start");
}

/// Whether a batch was cut off by the limits of batches, so that there is more.
fn is_full(batch: &Batch) -> bool {
    match batch {
        Batch::Version { .. } | Batch::Gap { .. } => false,
        Batch::Events { events, .. } => {
            events.len() >= BATCH_EVENTS_MAX
                || events.iter().map(|event| event.payload.len()).sum::<usize>() >= BATCH_BYTES
        }
    }
}

/// What is used again of the body of an amendment mark.
#[derive(Deserialize)]
struct Amendment {
    kind: Option<u8>,
    payload: String,
}

fn parse_amendment(mark: &Mark) -> Option<(Kind, String)> {
    let Amendment { kind, payload } = serde_json::from_str(&mark.body).ok()?;
    Some((kind.map_or(Kind::OTHER, Kind), payload))
}
