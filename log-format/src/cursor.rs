//! Reading a log in order: a position, and the means to read on from it.
//!
//! A [`Log`] goes in, [`Run`]s come out: each is what one read found, with the events in it and the sequences that name no
//! event. A reader that follows a log (a view, an exporter, a tool) is a loop over runs; the streams that send clients the
//! stored bytes read blocks themselves.

use std::{borrow::Cow, io, ops::Range, sync::Arc};

use crate::{
    Block, Error, Kind, LargeEvent, Log, Missing, Read, Result, Row, Sequence,
    error::{Operation, Unreadable, storage_error},
};

/// A position in a log, which moves on with every run that is read.
pub struct Cursor {
    log: Log,
    position: Sequence,
    end: Sequence,
    kinds: u64,
    reads_large: bool,
    unreadable: Unreadable,
}

impl Cursor {
    /// Reads from `position` on; what was dropped or lost there comes as [`Item::Missing`].
    #[must_use]
    pub fn new(log: &Log, position: Sequence) -> Self {
        let log = log.clone();
        Cursor {
            position,
            log,
            end: Sequence::MAX,
            kinds: u64::MAX,
            reads_large: true,
            unreadable: Unreadable::IsDamage,
        }
    }

    /// Reads no event at or after `end`.
    #[must_use]
    pub fn until(self, end: Sequence) -> Self {
        Cursor { end, ..self }
    }

    /// Reads only events of these kinds, one bit each (see [`Kind::bit`]). Blocks without one of them are passed over by
    /// the segment's index, unread.
    #[must_use]
    pub fn of_kinds(self, kinds: u64) -> Self {
        Cursor { kinds, ..self }
    }

    /// Does not read the payloads of large events: their items have an empty one, and the caller reads them in pieces, from
    /// [`Run::large`].
    #[must_use]
    pub fn without_large_payloads(self) -> Self {
        Cursor { reads_large: false, ..self }
    }

    /// Bytes that the device does not give back are an error, and not missing events: for readers that remember what they
    /// have read, and would never look there again.
    #[must_use]
    pub fn waiting_for_the_device(self) -> Self {
        Cursor { unreadable: Unreadable::IsAnError, ..self }
    }

    /// The first sequence that was not read yet.
    #[must_use]
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// Reads on; `None` when there is nothing more, for now or because the range ends. A run is never empty of sequences,
    /// and the next one begins where it ends. A large event is read whole into memory, unless
    /// [`Cursor::without_large_payloads`] says otherwise.
    ///
    /// # Errors
    /// What the storage answers; the position stays, so that the same can be tried again. Damage is not an error: it comes as
    /// [`Item::Missing`].
    pub fn next_run(&mut self) -> Result<Option<Run>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let start = self.position;
        if self.kinds != u64::MAX
            && let Some(outline) = self.log.outline(start)?
            && outline.kinds & self.kinds == 0
        {
            return Ok(Some(self.advance(outline.end_sequence, Content::Passed)));
        }
        Ok(match self.log.read(start)? {
            Read::Events { block, index } => {
                let rows = index..block.len();
                Some(self.advance(block.end_sequence(), Content::Events { block, rows }))
            }
            Read::Large(large) => {
                let is_wanted = self.reads_large && large.shape().kinds() & self.kinds != 0;
                let content = match if is_wanted { large.payload() } else { Ok(Vec::new()) } {
                    Ok(payload) => Content::Large(Box::new(large), payload),
                    Err(error) if error.is_damage() && self.passes(&error) => {
                        Content::Missing(Missing::of_damage(&error))
                    }
                    Err(error) => return Err(error),
                };
                Some(self.advance(start.saturating_add(1), content))
            }
            Read::Missing { why: Missing::Unreadable(reason), .. } if self.unreadable == Unreadable::IsAnError => {
                return Err(storage_error(Operation::Read, "the log")(io::Error::other(reason)));
            }
            Read::Missing { to, why, .. } => Some(self.advance(to, Content::Missing(why))),
            Read::End => None,
        })
    }

    fn passes(&self, error: &Error) -> bool {
        self.unreadable == Unreadable::IsDamage || !error.is_unreadable()
    }

    fn advance(&mut self, to: Sequence, content: Content) -> Run {
        let start = self.position;
        // A cursor advances even where the index is damaged.
        self.position = to.max(start.saturating_add(1)).min(self.end);
        Run { sequences: start..self.position, kinds: self.kinds, content }
    }
}

/// What one read found.
pub struct Run {
    /// The sequences that it covers.
    pub sequences: Range<Sequence>,
    kinds: u64,
    content: Content,
}

enum Content {
    Events { block: Arc<Block>, rows: Range<usize> },
    Large(Box<LargeEvent>, Vec<u8>),
    Missing(Missing),
    Passed,
}

/// An event, or sequences that name none.
pub enum Item<'a> {
    /// An event and its payload.
    Event(Row<'a>, Cow<'a, [u8]>),
    /// Sequences that name no event any more, and why.
    Missing(Range<Sequence>, &'a Missing),
}

impl Run {
    /// What it holds, in order; of other kinds than those asked for, nothing.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let is_wanted = |kind: Kind| self.kinds & kind.bit() != 0;
        let rows = self.rows().filter(move |row| is_wanted(row.kind()));
        let events = rows.map(|row| match &self.content {
            Content::Large(_, payload) => Item::Event(row, Cow::Borrowed(payload.as_slice())),
            _ => Item::Event(row, row.payload()),
        });
        let missing = match &self.content {
            Content::Missing(why) => Some(Item::Missing(self.sequences.clone(), why)),
            _ => None,
        };
        events.chain(missing)
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let (block, rows) = match &self.content {
            Content::Events { block, rows } => (Some(&**block), rows.clone()),
            Content::Large(large, _) => (Some(large.shape()), 0..1),
            Content::Missing(_) | Content::Passed => (None, 0..0),
        };
        let end = self.sequences.end;
        let rows = rows.filter_map(move |index| block?.row(index));
        rows.take_while(move |row| row.sequence() < end)
    }

    /// The large event that it is, if it is one.
    #[must_use]
    pub fn large(&self) -> Option<&LargeEvent> {
        match &self.content {
            Content::Large(large, _) => Some(large),
            _ => None,
        }
    }

    /// The block that holds its events, where one does, to keep it for as long as they are needed.
    #[must_use]
    pub fn block(&self) -> Option<&Arc<Block>> {
        match &self.content {
            Content::Events { block, .. } => Some(block),
            _ => None,
        }
    }
}
