//! The tables: how their rows grow, and how the rows of dropped events are removed.
//!
//! Owns the two forms of a table in redb; a projection names its own. Sorted postings flow in from a batch. Rows flow out to
//! look-ups.
//!
//! | form | key | a row has |
//! |---|---|---|
//! | [`Rows`] | any of up to [`KEY_BYTES_MAX`] bytes | the first [`DUPLICATES_MAX`] events of its key; of others only the first of each further tag |
//! | [`Lists`] | a digest, and the first sequence of the row | up to [`CHUNK_POSTINGS_MAX`] events: a key may have any number of rows |

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use sidecar_log_format::Sequence;

use super::keys::{Digest, KEY_BYTES_MAX, digest_and_number};
use super::posting::{Packed, Posting, unpack};
use super::postings::{Entry, Postings};
use crate::engine::derived::RowError;

type Definition<const N: usize> = TableDefinition<'static, &'static [u8; N], &'static [u8]>;
type OpenTable<'a, const N: usize> = redb::Table<'a, &'static [u8; N], &'static [u8]>;

/// A hundred validators' signatures of a block are one row, well within a page.
const CHUNK_POSTINGS_MAX: usize = 200;
/// A second event of one key is a rare duplicate: the first is the answer.
const DUPLICATES_MAX: usize = 64;

pub(crate) type Result<T> = std::result::Result<T, RowError>;

/// A table, as all of them are handled alike.
pub(crate) trait Table: Sync {
    /// Makes the table if it is not there yet.
    fn create(&self, transaction: &WriteTransaction) -> Result<()>;

    /// Adds entries in the order of their keys and, within a key, of their sequences. `postings` has what the projection
    /// said beside them, and gets what they mean for later tables.
    fn append(&self, transaction: &WriteTransaction, entries: &[Entry], postings: &mut Postings) -> Result<()>;

    /// Removes the postings of events before `oldest` from `rows` rows, beginning with the key `from`; returns the next key,
    /// if there is one.
    fn sweep(
        &self,
        transaction: &WriteTransaction,
        from: &[u8],
        oldest: Sequence,
        rows: usize,
    ) -> Result<Option<Vec<u8>>>;
}

/// A table with one row for each key, of `N` bytes.
pub(crate) struct Rows<const N: usize> {
    pub(crate) definition: Definition<N>,
    /// Its place among the projection's tables.
    place: usize,
    listed_in: Option<Listing>,
}

/// Lists what the keys of a table stand for, each once: by the first of its events that is retained.
#[derive(Clone, Copy)]
struct Listing {
    lists: &'static Lists,
    /// Postings of a row are about the same thing if their tags have the same bits here.
    tag_mask: u64,
}

/// A table with any number of events for each key. The tag of a posting may say how far back the event before it is that
/// is about the same thing, see [`Rows::listed_in`].
pub(crate) struct Lists {
    pub(crate) definition: Definition<24>,
    place: usize,
}

impl<const N: usize> Rows<N> {
    pub(crate) const fn new(place: usize, name: &'static str) -> Self {
        const { assert!(N <= KEY_BYTES_MAX) };
        Self { definition: TableDefinition::new(name), place, listed_in: None }
    }

    /// Lists what a key stands for in `lists` as well, under the key that the projection gives with [`Postings::list`].
    /// Events of a row whose tags have the same bits in `tag_mask` are about one thing. The tag in the list is the distance
    /// to the event before that is about the same; 0 for the first. `lists` has a later place.
    pub(crate) const fn listed_in(self, lists: &'static Lists, tag_mask: u64) -> Self {
        Self { listed_in: Some(Listing { lists, tag_mask }), ..self }
    }

    /// The event at hand is found by `key`; `tag` describes it to look-ups.
    pub(crate) fn add(&self, postings: &mut Postings, key: &[u8; N], tag: u64) {
        postings.add(self.place, key, tag);
    }
}

impl Lists {
    pub(crate) const fn new(place: usize, name: &'static str) -> Self {
        Self { definition: TableDefinition::new(name), place }
    }

    /// The event at hand is among those of `key`; `tag` describes it to look-ups.
    pub(crate) fn add(&self, postings: &mut Postings, key: &Digest, tag: u64) {
        postings.add(self.place, key, tag);
    }

    /// The key that `make` finds for a text, if there is one; remembered for when the same text comes again soon, so it has to
    /// be the same for the same text.
    pub(crate) fn key(
        &self,
        postings: &mut Postings,
        text: &str,
        make: impl FnOnce(&str) -> Option<Digest>,
    ) -> Option<Digest> {
        postings.remembered(self.place, text, make)
    }
}

impl<const N: usize> Table for Rows<N> {
    fn create(&self, transaction: &WriteTransaction) -> Result<()> {
        transaction.open_table(self.definition)?;
        Ok(())
    }

    fn append(&self, transaction: &WriteTransaction, entries: &[Entry], postings: &mut Postings) -> Result<()> {
        let mut table = transaction.open_table(self.definition)?;
        for of_one_key in entries.chunk_by(|one, next| one.key == next.key) {
            let Some(key) = of_one_key.first().and_then(|entry| entry.key.first_chunk::<N>()) else { continue };
            let mut row = table.get(key)?.map_or(Ok(Vec::new()), |row| unpack(row.value()))?;
            for Entry { posting, .. } in of_one_key {
                if row.len() >= DUPLICATES_MAX && row.iter().any(|known| known.tag == posting.tag) {
                    continue;
                }
                if let Some(Listing { lists, tag_mask }) = self.listed_in
                    && let Some(list) = postings.list_of(posting.sequence)
                {
                    let is_of_same = |known: &&Posting| (known.tag ^ posting.tag) & tag_mask == 0;
                    let before = row.iter().rfind(is_of_same).map(|before| before.sequence);
                    let distance = before.map_or(0, |before| posting.sequence.saturating_sub(before));
                    postings.push(lists.place, &list, Posting { sequence: posting.sequence, tag: distance });
                }
                row.push(*posting);
            }
            table.insert(key, row.into_iter().collect::<Packed>().bytes())?;
        }
        Ok(())
    }

    fn sweep(
        &self,
        transaction: &WriteTransaction,
        from: &[u8],
        oldest: Sequence,
        rows: usize,
    ) -> Result<Option<Vec<u8>>> {
        sweep(transaction.open_table(self.definition)?, from, oldest, rows)
    }
}

impl Table for Lists {
    fn create(&self, transaction: &WriteTransaction) -> Result<()> {
        transaction.open_table(self.definition)?;
        Ok(())
    }

    fn append(&self, transaction: &WriteTransaction, entries: &[Entry], _postings: &mut Postings) -> Result<()> {
        let mut table = transaction.open_table(self.definition)?;
        for of_one_list in entries.chunk_by(|one, next| one.key == next.key) {
            let Some(first) = of_one_list.first() else { continue };
            let Some(list) = first.key.first_chunk::<16>() else { continue };
            let (mut key, mut row) = newest_chunk(&table, *list)?
                .unwrap_or_else(|| (digest_and_number(*list, first.posting.sequence), Packed::default()));
            for Entry { posting, .. } in of_one_list {
                if row.len() >= CHUNK_POSTINGS_MAX {
                    table.insert(&key, row.bytes())?;
                    key = digest_and_number(*list, posting.sequence);
                    row = Packed::default();
                }
                row.push(*posting);
            }
            table.insert(&key, row.bytes())?;
        }
        Ok(())
    }

    fn sweep(
        &self,
        transaction: &WriteTransaction,
        from: &[u8],
        oldest: Sequence,
        rows: usize,
    ) -> Result<Option<Vec<u8>>> {
        sweep(transaction.open_table(self.definition)?, from, oldest, rows)
    }
}

fn newest_chunk(table: &OpenTable<'_, 24>, list: Digest) -> Result<Option<([u8; 24], Packed)>> {
    let (oldest, newest) = (digest_and_number(list, 0), digest_and_number(list, u64::MAX));
    let Some((key, row)) = table.range::<&[u8; 24]>(&oldest..=&newest)?.next_back().transpose()? else {
        return Ok(None);
    };
    Ok(Some((*key.value(), Packed::stored(row.value())?)))
}

fn sweep<const N: usize>(
    mut table: OpenTable<'_, N>,
    from: &[u8],
    oldest: Sequence,
    rows: usize,
) -> Result<Option<Vec<u8>>> {
    let from: [u8; N] = from.try_into().unwrap_or([0; N]);
    let mut changed = Vec::new();
    let mut resume_at = None;
    for (looked_at, row) in table.range::<&[u8; N]>(&from..)?.enumerate() {
        let (key, row) = row?;
        if looked_at == rows {
            resume_at = Some(key.value().to_vec());
            break;
        }
        let postings = unpack(row.value())?;
        if postings.iter().any(|posting| posting.sequence < oldest) {
            let retained: Packed = postings.into_iter().filter(|posting| posting.sequence >= oldest).collect();
            changed.push((*key.value(), retained));
        }
    }
    for (key, retained) in changed {
        match retained.len() {
            0 => drop(table.remove(&key)?),
            _ => drop(table.insert(&key, retained.bytes())?),
        }
    }
    Ok(resume_at)
}

/// Removes the rows of events that the log has dropped, a few rows at a time.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    /// What is older is removed.
    oldest: Sequence,
    /// How many tables are done.
    tables_done: usize,
    /// Where to resume in the next table; empty at its start.
    resume_at: Vec<u8>,
}

impl Sweep {
    pub(super) fn new(oldest: Sequence) -> Self {
        Self { oldest, tables_done: 0, resume_at: Vec::new() }
    }

    /// The oldest sequence that stays.
    pub(super) fn oldest(&self) -> Sequence {
        self.oldest
    }

    /// Looks at the next `rows` rows; returns whether there are no more.
    pub(super) fn step(&mut self, transaction: &WriteTransaction, tables: &[&dyn Table], rows: usize) -> Result<bool> {
        let Some(table) = tables.get(self.tables_done) else { return Ok(true) };
        let from = std::mem::take(&mut self.resume_at);
        match table.sweep(transaction, &from, self.oldest, rows)? {
            Some(key) => self.resume_at = key,
            None => self.tables_done += 1,
        }
        Ok(false)
    }
}
