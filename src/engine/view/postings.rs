//! Postings: what events mean for the tables, on their way from a projection.
//!
//! The keys of one event after the other flow in; entries flow out table by table, sorted.

use sidecar_log_format::Sequence;

use super::keys::{Digest, KEY_BYTES_MAX, joined};
use super::posting::Posting;

/// An event under one key of one table. The key is filled up with zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(super) key: [u8; KEY_BYTES_MAX],
    pub(super) posting: Posting,
}

/// What events mean for the tables.
#[derive(Debug)]
pub(crate) struct Postings {
    sequence: Sequence,
    /// By the table's place.
    entries: Vec<Vec<Entry>>,
    /// Which list an event's subject is on, in the order of the sequences.
    lists: Vec<(Sequence, Digest)>,
    remembered: Vec<Remembered>,
}

/// The text of a list's key, and its digest; no text at first.
#[derive(Clone, Debug, Default)]
struct Remembered {
    /// The list's place.
    place: usize,
    text: String,
    digest: Option<Digest>,
}

/// How many digests a batch remembers. The signatures of a block, and an account's transactions, come close together.
const REMEMBERED: usize = 64;
/// Longer texts are not remembered.
const REMEMBERED_BYTES_MAX: usize = 128;

impl Postings {
    pub(super) fn new(tables: usize) -> Self {
        let remembered = vec![Remembered::default(); REMEMBERED];
        Self { sequence: 0, entries: vec![Vec::new(); tables], lists: Vec::new(), remembered }
    }

    /// What follows is about the event at `sequence`, which is after those before.
    pub(super) fn begin_event(&mut self, sequence: Sequence) {
        self.sequence = sequence;
    }

    /// What the event is about is on the list `key`, see [`Rows::listed_in`](super::tables::Rows::listed_in).
    pub(crate) fn list(&mut self, key: Digest) {
        self.lists.push((self.sequence, key));
    }

    /// The digest that `make` finds for the text of a key of this table, if there is one; remembered, because the same text
    /// may come again soon.
    pub(super) fn remembered(
        &mut self,
        place: usize,
        text: &str,
        make: impl FnOnce(&str) -> Option<Digest>,
    ) -> Option<Digest> {
        // The last bytes of hashes and keys differ most.
        let number = text.bytes().rev().take(4).fold(0, |number, byte| number * 31 + usize::from(byte));
        match self.remembered.get_mut(number % REMEMBERED) {
            Some(remembered) if !text.is_empty() && text.len() <= REMEMBERED_BYTES_MAX => {
                if remembered.place != place || remembered.text != text {
                    remembered.digest = make(text);
                    remembered.place = place;
                    remembered.text.clear();
                    remembered.text.push_str(text);
                }
                remembered.digest
            }
            _ => make(text),
        }
    }

    /// Adds the event to a table.
    pub(super) fn add(&mut self, place: usize, key: &[u8], tag: u64) {
        self.push(place, key, Posting { sequence: self.sequence, tag });
    }

    pub(super) fn push(&mut self, place: usize, key: &[u8], posting: Posting) {
        if let Some(entries) = self.entries.get_mut(place) {
            entries.push(Entry { key: joined(key, &[]), posting });
        }
    }

    /// Which list the subject of an event is on.
    pub(super) fn list_of(&self, sequence: Sequence) -> Option<Digest> {
        let place = self.lists.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok()?;
        self.lists.get(place).map(|(_, list)| *list)
    }

    /// Takes the entries of a table out, sorted by key and sequence.
    pub(super) fn take_sorted(&mut self, place: usize) -> Vec<Entry> {
        let mut entries = self.entries.get_mut(place).map(std::mem::take).unwrap_or_default();
        // Not the unstable sort: events of one block or era come in runs, which this one finds.
        entries.sort_by_key(|entry| (entry.key, entry.posting.sequence));
        entries
    }
}
