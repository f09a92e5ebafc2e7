//! A client's place in the log: what it is sent next, as far as that is in memory.
//!
//! [`Cursor::next`] takes no lock and allocates nothing per event: it gives out slices of the shared block. Between two
//! calls it keeps a position and a weak hold on the block, so that a client that does not read pins no memory. What must
//! be read from disk is asked for with [`Step::Read`] and handed in with [`Cursor::accept`].
//!
//! One rule makes the API versions right for every start and interleaving: `version_due` rises with all that the
//! position passes, and whatever is sent next, a version that is due and higher than the one sent goes before it.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use sidecar_log_format::{ApiVersion, Head, LargeEvent, Log, Read, Sequence, StoredBlock};

use super::{
    frames::{Frames, WeakFrames},
    framing::Framing,
    lending::{Budget, COPIED_BYTES_MAX},
    rendered::Renderer,
    rendering::RenderedBlock,
};

/// After this many events passed in silence a filtered stream reports its position.
const PROGRESS_EVENTS: u64 = 10_000;

/// What HTTP does with a piece of a block.
#[derive(Clone, Debug)]
pub(super) enum Hold {
    /// It copies the piece into its own buffer at once: it gets a slice of the shared block.
    Copies,
    /// It keeps the piece until the client takes it, and must not keep the block beyond this budget.
    Keeps(Budget),
}

/// Which events a client gets, and in what pieces.
#[derive(Clone)]
pub(super) struct Selection {
    /// Makes their form, if that is not the stored one.
    pub(super) renderer: Option<Renderer>,
    /// Bits of the kinds that pass.
    pub(super) kinds: u64,
    /// Whether API versions are sent.
    pub(super) versions: bool,
    /// Whether the position is reported when events were passed in silence.
    pub(super) progress_marks: bool,
    /// The last sequence wanted.
    pub(super) until: Sequence,
    /// Whether every event is a piece of its own.
    pub(super) single_events: bool,
    /// What HTTP does with a piece.
    pub(super) hold: Hold,
    /// Bytes of the largest piece that HTTP copies; an event over that takes several.
    pub(super) piece_bytes_max: usize,
}

/// What a client is sent next.
#[derive(Debug)]
pub(super) enum Step {
    /// These bytes.
    Send(Bytes),
    /// The bytes at the position, once they are read.
    Read,
    /// Nothing before the next commit.
    CaughtUp,
    /// Nothing: the stream is complete.
    End,
}

/// What became of a read.
#[derive(Debug)]
pub(super) enum Accepted {
    /// The cursor continues.
    Continue,
    /// This comes first.
    Send(Bytes),
    /// An event to be sent in pieces; then [`Cursor::pass_event`].
    Large(Arc<LargeEvent>),
    /// The head has passed the position, but its segment cannot be found yet.
    NotYet,
}

/// The log cannot finish an event that it began to give out.
#[derive(Debug, thiserror::Error)]
#[error("event {sequence} became unreadable while it was being sent: {why}")]
pub(super) struct Torn {
    sequence: Sequence,
    why: String,
}

/// A position in the log, and what its client knows of it.
pub(super) struct Cursor {
    log: Log,
    selection: Selection,
    position: Sequence,
    /// Bytes of the event at the position that were sent.
    event_bytes_sent: usize,
    frames: WeakFrames,
    /// The block that was entered last, until it is taken.
    entered: Option<Range<Sequence>>,
    version_sent: ApiVersion,
    version_due: ApiVersion,
    /// What the client would ask for if it reconnected now.
    known: Sequence,
}

impl Cursor {
    pub(super) fn new(log: Log, position: Sequence, selection: Selection) -> Self {
        Cursor {
            log,
            selection,
            position,
            event_bytes_sent: 0,
            frames: WeakFrames::default(),
            entered: None,
            version_sent: ApiVersion::NONE,
            version_due: ApiVersion::NONE,
            known: position,
        }
    }

    pub(super) fn position(&self) -> Sequence {
        self.position
    }

    /// The last sequence wanted.
    pub(super) fn until(&self) -> Sequence {
        self.selection.until
    }

    /// Bits of the kinds that pass.
    pub(super) fn kinds(&self) -> u64 {
        self.selection.kinds
    }

    pub(super) fn next(&mut self) -> Step {
        loop {
            if self.position > self.selection.until {
                // Without this, a browser whose last match is long past would reconnect for the rest indefinitely.
                return self.take_mark(self.selection.until).map_or(Step::End, Step::Send);
            }
            if let Some(mark) = self.take_overdue_mark() {
                return Step::Send(mark);
            }
            if let Some((frames, index)) = self.frames_at_position() {
                if let Some(bytes) = self.next_in(&frames, index) {
                    return Step::Send(bytes);
                }
                continue;
            }
            let at_hand = match &self.selection.renderer {
                None => match self.log.read_cached(self.position) {
                    Some(Read::Events { block, .. }) => Some(Frames::Stored(block)),
                    Some(_) => return self.at_head(),
                    None => None,
                },
                Some(_) if self.position >= self.log.head().next_sequence => return self.at_head(),
                Some(renderer) => renderer.at_hand(self.position).map(Frames::Rendered),
            };
            match at_hand {
                Some(frames) => self.enter(&frames),
                None => return Step::Read,
            }
        }
    }

    /// Takes what was read at the position.
    ///
    /// # Errors
    /// [`Torn`] when the rest of an event is gone: the stream cannot continue.
    pub(super) fn accept(&mut self, read: Read) -> Result<Accepted, Torn> {
        match read {
            Read::Events { block, .. } => Ok(self.accept_frames(&Frames::Stored(block))),
            Read::Large(event) => {
                self.version_due = self.version_due.max(event.version_after());
                if event.shape().kinds() & self.selection.kinds == 0 {
                    self.position += 1;
                    return Ok(Accepted::Continue);
                }
                Ok(Accepted::Large(Arc::new(event)))
            }
            Read::Missing { from, to, why } => {
                if self.event_bytes_sent > 0 {
                    return Err(Torn { sequence: from, why: why.to_string() });
                }
                self.position = to.max(self.position + 1);
                Ok(Accepted::Send(self.framing().missing(from, self.position, &why)))
            }
            Read::End => Ok(Accepted::NotYet),
        }
    }

    /// Takes what was rendered at the position.
    pub(super) fn accept_rendered(&mut self, block: Arc<RenderedBlock>) -> Accepted {
        self.accept_frames(&Frames::Rendered(block))
    }

    /// Sends from here, so that every read moves the cursor even when the cache has no room for the block.
    fn accept_frames(&mut self, frames: &Frames) -> Accepted {
        self.enter(frames);
        let index = frames.index_of(self.position);
        let next = index.and_then(|index| self.next_in(frames, index));
        next.map_or(Accepted::Continue, Accepted::Send)
    }

    /// Makes the form of the events, if that is not the stored one.
    pub(super) fn renderer(&self) -> Option<&Renderer> {
        self.selection.renderer.as_ref()
    }

    pub(super) fn framing(&self) -> Framing {
        self.selection.renderer.as_ref().map_or(Framing::EventStream, |renderer| renderer.rendering().framing())
    }

    /// The version frame that has to go before anything else.
    pub(super) fn take_version(&mut self) -> Option<Bytes> {
        if !self.selection.versions || self.version_due <= self.version_sent {
            return None;
        }
        self.version_sent = self.version_due;
        Some(Bytes::from(self.framing().version(self.version_due)))
    }

    /// The sequences of the block that was entered last, if that was not taken yet.
    pub(super) fn take_entered(&mut self) -> Option<Range<Sequence>> {
        self.entered.take()
    }

    /// Bytes of the event at the position that were sent.
    pub(super) fn event_bytes_sent(&self) -> usize {
        self.event_bytes_sent
    }

    /// The event at the position was sent by other means.
    pub(super) fn pass_event(&mut self) {
        self.event_bytes_sent = 0;
        self.position += 1;
        self.known = self.position;
    }

    /// Nothing of the event at the position is sent.
    pub(super) fn leave_out_event(&mut self) {
        self.position += 1;
    }

    /// Whether a stored frame can stand for the events from the position on: it holds nothing past the end, and its
    /// version frames are the ones that this client needs. The version to send before it is then due.
    pub(super) fn fits(&mut self, stored: &StoredBlock) -> bool {
        let steady = stored.version_before == stored.version_after;
        if stored.end_sequence.saturating_sub(1) > self.selection.until
            || !(steady || stored.version_before == self.version_sent)
        {
            return false;
        }
        self.version_due = self.version_due.max(stored.version_before);
        true
    }

    /// A stored frame was sent.
    pub(super) fn pass_stored(&mut self, stored: &StoredBlock) {
        self.position = stored.end_sequence;
        self.known = self.position;
        self.version_sent = self.version_sent.max(stored.version_after);
        self.version_due = self.version_due.max(stored.version_after);
    }

    /// Whether the position is inside a block, or at one in memory of no more than `small` bytes: then its stored form
    /// cannot be used, or is not worth a read.
    pub(super) fn is_mid_block_or_small(&mut self, small: usize) -> bool {
        if self.event_bytes_sent > 0 {
            return true;
        }
        let found = self.frames_at_position().or_else(|| match self.log.read_cached(self.position)? {
            Read::Events { block, index } => Some((Frames::Stored(block), index)),
            _ => None,
        });
        found.is_some_and(|(frames, index)| index > 0 || frames.wire().len() <= small)
    }

    /// A mark that reports the position, if marks are wanted and the client does not know it.
    pub(super) fn take_progress(&mut self) -> Option<Bytes> {
        if !self.selection.progress_marks || self.event_bytes_sent > 0 {
            return None;
        }
        self.take_mark(self.position.checked_sub(1)?)
    }

    fn take_overdue_mark(&mut self) -> Option<Bytes> {
        if self.position.saturating_sub(self.known) < PROGRESS_EVENTS {
            return None;
        }
        self.take_progress()
    }

    fn take_mark(&mut self, id: Sequence) -> Option<Bytes> {
        if self.known > id {
            return None;
        }
        self.known = id.saturating_add(1);
        Some(self.framing().mark(id))
    }

    fn frames_at_position(&self) -> Option<(Frames, usize)> {
        let frames = self.frames.upgrade()?;
        let index = frames.index_of(self.position)?;
        Some((frames, index))
    }

    fn enter(&mut self, frames: &Frames) {
        if let Some(index) = frames.index_of(self.position) {
            let version = frames.rise(index).unwrap_or_else(|| frames.version_in_force(index));
            self.version_due = self.version_due.max(version);
        }
        self.frames = frames.downgrade();
        self.entered = Some(frames.sequences());
    }

    /// What is sent next out of a block; `None` once the position is past it, or past `until`.
    fn next_in(&mut self, frames: &Frames, index: usize) -> Option<Bytes> {
        if frames.kinds() & self.selection.kinds == 0 {
            let end = frames.sequences().end;
            let whole = end.saturating_sub(1) <= self.selection.until;
            self.version_due = if whole { self.version_due.max(frames.version_after()) } else { self.version_due };
            self.position = end;
            return None;
        }
        let mut index = index;
        while self.position <= self.selection.until {
            let kind_bit = frames.kind_bit(index)?;
            if let Some(rise) = frames.rise(index) {
                self.version_due = self.version_due.max(rise);
            }
            if let Some(version) = self.take_version() {
                return Some(version);
            }
            if kind_bit & self.selection.kinds != 0 {
                return Some(self.take_piece(frames, index, frames.range(index)));
            }
            index += 1;
            self.position += 1;
        }
        None
    }

    /// The rest of the event in row `index`, or what fits of it, or it and as many after it as fit.
    fn take_piece(&mut self, frames: &Frames, index: usize, range: Range<usize>) -> Bytes {
        let start = range.start + self.event_bytes_sent;
        let wire = frames.wire();
        let Hold::Keeps(budget) = &self.selection.hold else {
            let end = self.pass_piece(frames, index, start, range.end, self.selection.piece_bytes_max);
            return wire.slice(start..end);
        };
        let reserved = (wire.len() - start > COPIED_BYTES_MAX).then(|| budget.reserve(wire.len())).flatten();
        let bytes_max = if reserved.is_some() { wire.len() } else { COPIED_BYTES_MAX };
        let end = self.pass_piece(frames, index, start, range.end, bytes_max);
        let piece = wire.slice(start..end);
        match reserved.filter(|_| piece.len() > COPIED_BYTES_MAX) {
            Some(reserved) => reserved.lend(piece),
            None => Bytes::copy_from_slice(&piece),
        }
    }

    /// Moves past a piece of at most `bytes_max`, which begins at `start` in the event that ends at `event_end`; returns
    /// where the piece ends.
    fn pass_piece(&mut self, frames: &Frames, index: usize, start: usize, event_end: usize, bytes_max: usize) -> usize {
        let end_max = start + bytes_max;
        if event_end > end_max {
            self.event_bytes_sent += bytes_max;
            return end_max;
        }
        let mut end = event_end;
        self.event_bytes_sent = 0;
        self.position += 1;
        if !self.selection.single_events {
            let mut index = index + 1;
            while let Some(kind_bit) = frames.kind_bit(index).filter(|_| self.position <= self.selection.until) {
                let range = frames.range(index);
                // A version frame between two events shows as a gap; it is sent on its own or not at all.
                if range.start != end || range.end > end_max || kind_bit & self.selection.kinds == 0 {
                    break;
                }
                end = range.end;
                index += 1;
                self.position += 1;
            }
        }
        self.known = self.position;
        end
    }

    fn at_head(&mut self) -> Step {
        let Head { next_sequence, api_version, .. } = self.log.head();
        if self.position >= next_sequence {
            // Announced already, though no event carries it yet.
            self.version_due = self.version_due.max(api_version);
        }
        self.take_version().map_or(Step::CaughtUp, Step::Send)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sidecar_log_format::Kind;

    use super::*;
    use crate::engine::stream::written::Written;

    /// What the writer does, and how far clients get in between.
    #[derive(Clone, Debug)]
    enum Action {
        Announce(u32),
        Append(u8),
        Commit,
        Join { start: Sequence, kinds: u64 },
        Step(usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            1 => (0..6u32).prop_map(Action::Announce),
            8 => (1..4u8).prop_map(Action::Append),
            3 => Just(Action::Commit),
            2 => (0..40u64, prop_oneof![Just(u64::MAX), 1..16u64]).prop_map(|(start, kinds)| Action::Join { start, kinds }),
            4 => (1..5usize).prop_map(Action::Step),
        ];
        prop::collection::vec(action, 1..120)
    }

    /// A client, and the messages it got.
    struct Client {
        cursor: Cursor,
        start: Sequence,
        kinds: u64,
        messages: Vec<String>,
    }

    impl Client {
        fn join(log: &Log, start: Sequence, kinds: u64, single_events: bool) -> Client {
            let start = start.min(log.head().next_sequence);
            let selection = Selection {
                renderer: None,
                kinds,
                versions: true,
                progress_marks: false,
                until: u64::MAX,
                single_events,
                hold: Hold::Copies,
                piece_bytes_max: if single_events { 64 << 10 } else { 100 },
            };
            Client { cursor: Cursor::new(log.clone(), start, selection), start, kinds, messages: Vec::new() }
        }

        /// Takes up to `pieces` pieces.
        fn take(&mut self, log: &Log, pieces: usize) {
            let mut text = Vec::new();
            for _ in 0..pieces {
                match self.cursor.next() {
                    Step::Send(bytes) => text.extend_from_slice(&bytes),
                    Step::Read => match self.cursor.accept(log.read(self.cursor.position()).unwrap()).unwrap() {
                        Accepted::Continue => {}
                        Accepted::Send(bytes) => text.extend_from_slice(&bytes),
                        other => panic!("{other:?}"),
                    },
                    Step::CaughtUp => break,
                    Step::End => panic!("no end was asked for"),
                }
            }
            let text = String::from_utf8(text).unwrap();
            self.messages.extend(text.split_terminator("\n\n").map(str::to_owned));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        /// Every event once and in order; before it the version that was in force when it was appended; a version first of
        /// all; each rise once; none twice, none lower after a higher one; the newest once caught up.
        #[test]
        fn every_client_gets_its_events_in_order_under_the_right_version(actions in actions(), single_events: bool) {
            let mut written = Written::new();
            let version = |minor| ApiVersion { major: 2, minor, patch: 0 };
            written.announce(version(0));
            written.commit();
            let mut highest = 0;
            let mut events: Vec<(u8, u32)> = Vec::new();
            let mut clients: Vec<Client> = Vec::new();
            for action in actions {
                match action {
                    Action::Announce(minor) => {
                        written.announce(version(minor));
                        highest = highest.max(minor);
                    }
                    Action::Append(kind) => {
                        written.append(Kind(kind), &format!("{}", events.len()));
                        events.push((kind, highest));
                    }
                    Action::Commit => written.commit(),
                    Action::Join { start, kinds } => {
                        clients.push(Client::join(&written.log, start, kinds, single_events));
                    }
                    Action::Step(pieces) => clients.iter_mut().for_each(|client| client.take(&written.log, pieces)),
                }
            }
            written.commit();
            for client in &mut clients {
                client.take(&written.log, usize::MAX);
                let mut last_version = None;
                let mut got = Vec::new();
                for message in &client.messages {
                    if let Some(rest) = message.strip_prefix("data:{\"ApiVersion\":\"2.") {
                        let minor: u32 = rest.strip_suffix(".0\"}").unwrap().parse().unwrap();
                        prop_assert!(last_version < Some(minor), "{message} after {last_version:?}");
                        last_version = Some(minor);
                    } else {
                        let number: usize = message.rsplit_once("\nid:").unwrap().1.parse().unwrap();
                        prop_assert_eq!(last_version, Some(events[number].1), "before event {}", number);
                        got.push(number as u64);
                    }
                }
                let wanted = |number: &u64| client.kinds & Kind(events[*number as usize].0).bit() != 0;
                let expected: Vec<u64> = (client.start..events.len() as u64).filter(wanted).collect();
                prop_assert_eq!(got, expected);
                prop_assert_eq!(last_version, Some(highest));
            }
        }
    }
}
