//! The form of the index in redb: packed rows.
//!
//! A row holds up to [`ROW_ENTRIES_MAX`] entries of one class in ascending order, and all entries from its key up to the
//! next row's. A full row fills one leaf page of redb, so redb's own splits, which leave pages half empty behind an
//! ascending writer, do not matter. Entries flow in as sorted batches and out one at a time.
//!
//! The key is class, time and hash of the first entry (or of one that came before it and is gone). The value is, for each
//! entry, little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 4 | time, less the key's |
//! | 16 | hash |
//! | 4 | fingerprint |

use std::ops::Bound::{Excluded, Included};
use std::path::Path;

use redb::{ReadableTable, Table, TableDefinition};

use super::{Fingerprint, IdentityIndexError, redb_error};
use crate::source::Identity;

/// Class, time, hash (as a big-endian number, so that it is ordered as its bytes are).
pub(super) type Key = (u8, u64, u128);
pub(super) const ROWS: TableDefinition<Key, &[u8]> = TableDefinition::new("identities");

const ENTRY_BYTES: usize = 4 + 16 + 4;
/// What fits a page of 4,096 bytes beside redb's 4 for the page, 4 for the pair, and the key's 25.
const ROW_ENTRIES_MAX: usize = (4096 - 4 - 4 - 25) / ENTRY_BYTES;
/// Neighbouring rows are rewritten together up to about this many entries, which bounds the memory it takes.
const STRETCH_ENTRIES: usize = 64 * ROW_ENTRIES_MAX;

/// One identity and its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    hash: [u8; 16],
    time: u64,
    fingerprint: Fingerprint,
    class: u8,
}

impl Entry {
    pub(super) fn new(identity: &Identity, fingerprint: Fingerprint) -> Self {
        Self { hash: identity.hash, time: identity.time, fingerprint, class: identity.class }
    }

    /// The identity, in the order of the index.
    pub(super) fn key(&self) -> Key {
        (self.class, self.time, u128::from_be_bytes(self.hash))
    }

    fn pack(&self, row_time: u64, out: &mut Vec<u8>) {
        // `Layout::row_len` ends a row before its times span more than 32 bits.
        let time_offset = u32::try_from(self.time - row_time).unwrap_or(u32::MAX);
        out.extend_from_slice(&time_offset.to_le_bytes());
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&self.fingerprint.0.to_le_bytes());
    }

    fn unpack(row: Key, packed: &[u8; ENTRY_BYTES]) -> Self {
        let [t0, t1, t2, t3, hash @ .., f0, f1, f2, f3] = *packed;
        Self {
            hash,
            time: row.1.saturating_add(u64::from(u32::from_le_bytes([t0, t1, t2, t3]))),
            fingerprint: Fingerprint(u32::from_le_bytes([f0, f1, f2, f3])),
            class: row.0,
        }
    }
}

/// What went wrong with the rows, before it is known in which file.
#[derive(Debug)]
pub(super) enum RowError {
    Redb(redb::Error),
    Malformed { class: u8 },
}

impl RowError {
    pub(super) fn at(self, path: &Path) -> IdentityIndexError {
        match self {
            Self::Redb(source) => redb_error(path, source),
            Self::Malformed { class } => IdentityIndexError::MalformedRow { path: path.to_owned(), class },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for RowError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

type Result<T> = std::result::Result<T, RowError>;

/// The fingerprint stored for `identity`.
pub(super) fn find(
    rows: &impl ReadableTable<Key, &'static [u8]>,
    identity: &Identity,
) -> Result<Option<Fingerprint>> {
    let wanted = (identity.class, identity.time, u128::from_be_bytes(identity.hash));
    let Some(row) = rows.range(first_key(identity.class)..=wanted)?.next_back() else { return Ok(None) };
    let (key, value) = row?;
    let (key, entries) = (key.value(), packed_entries(key.value(), value.value())?);
    let found = entries.binary_search_by_key(&wanted, |packed| Entry::unpack(key, packed).key());
    Ok(found.ok().and_then(|at| entries.get(at)).map(|packed| Entry::unpack(key, packed).fingerprint))
}

/// The newest time of every class that has rows.
pub(super) fn newest_times(rows: &impl ReadableTable<Key, &'static [u8]>) -> Result<Vec<(u8, u64)>> {
    let mut newest = Vec::new();
    let mut last_row = rows.last()?;
    while let Some((key, value)) = last_row {
        let key = key.value();
        let last = packed_entries(key, value.value())?.last().map(|packed| Entry::unpack(key, packed));
        newest.push((key.0, last.map_or(key.1, |entry| entry.time)));
        last_row = rows.range(..first_key(key.0))?.next_back().transpose()?;
    }
    Ok(newest)
}

/// Adds entries, sorted and each once. Of one that is stored already the fingerprint is replaced.
pub(super) fn upsert(rows: &mut Table<'_, Key, &'static [u8]>, entries: &[Entry]) -> Result<()> {
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let class = first.class;
        // Neighbouring rows that all get something are one stretch: they are merged with it, and cut anew together.
        let mut stretch = Vec::new();
        let mut replaced = Vec::new();
        let mut row = home_row(rows, first.key())?;
        let first_row = row;
        let is_class_end = loop {
            let mut stored = Vec::new();
            if let Some(key) = row {
                replaced.push(key);
                stored = unpack_row(rows, key)?;
            }
            let next_row = row.map_or(Ok(None), |key| row_after(rows, key))?;
            let run_len = match next_row {
                Some(next) => rest.partition_point(|entry| entry.key() < next),
                None => rest.partition_point(|entry| entry.class == class),
            };
            let (run, after) = rest.split_at_checked(run_len).unwrap_or((rest, &[]));
            merge(&stored, run, &mut stretch);
            rest = after;
            let Some(next) = next_row else { break true };
            let goes_on = match rest.first() {
                Some(entry) if entry.class == class && stretch.len() < STRETCH_ENTRIES => {
                    home_row(rows, entry.key())? == Some(next)
                }
                _ => false,
            };
            if !goes_on {
                break false;
            }
            row = next_row;
        };
        let layout = if is_class_end {
            Layout::GrowsAtItsEnd
        } else if first_row.map_or(Ok(true), |key| is_first_of_class(rows, key))? {
            Layout::GrowsAtItsStart
        } else {
            Layout::GrowsWithin
        };
        write_stretch(rows, &stretch, layout, &replaced)?;
    }
    Ok(())
}

/// Where more entries are to be expected in a stretch of rows, so that the others can be filled up.
#[derive(Clone, Copy)]
enum Layout {
    /// The class's last rows: a running chain.
    GrowsAtItsEnd,
    /// The class's first rows: back-fill in descending heights.
    GrowsAtItsStart,
    /// In the midst.
    GrowsWithin,
}

impl Layout {
    /// How many of these entries, which begin with one for a new row, make up that row.
    fn row_len(self, entries: &[Entry]) -> usize {
        let wanted = match self {
            Self::GrowsAtItsEnd => ROW_ENTRIES_MAX,
            Self::GrowsAtItsStart => match entries.len() % ROW_ENTRIES_MAX {
                0 => ROW_ENTRIES_MAX,
                remainder => remainder,
            },
            Self::GrowsWithin => entries.len().div_ceil(entries.len().div_ceil(ROW_ENTRIES_MAX).max(1)),
        };
        let newest = entries.first().map_or(0, |first| first.time.saturating_add(u64::from(u32::MAX)));
        entries.iter().take(wanted).take_while(|entry| entry.time <= newest).count().max(1)
    }
}

fn write_stretch(
    rows: &mut Table<'_, Key, &'static [u8]>,
    stretch: &[Entry],
    layout: Layout,
    replaced: &[Key],
) -> Result<()> {
    let mut written = Vec::new();
    let mut value = Vec::with_capacity(ROW_ENTRIES_MAX * ENTRY_BYTES);
    let mut rest = stretch;
    while let Some(first) = rest.first() {
        let (row, after) = rest.split_at_checked(layout.row_len(rest)).unwrap_or((rest, &[]));
        value.clear();
        for entry in row {
            entry.pack(first.time, &mut value);
        }
        rows.insert(first.key(), value.as_slice())?;
        written.push(first.key());
        rest = after;
    }
    for key in replaced {
        if written.binary_search(key).is_err() {
            rows.remove(key)?;
        }
    }
    Ok(())
}

/// Merges two sorted lists; where both have an identity, the new one stays.
fn merge(stored: &[Entry], new: &[Entry], out: &mut Vec<Entry>) {
    out.reserve(stored.len() + new.len());
    let mut stored = stored.iter().peekable();
    for entry in new {
        while let Some(before) = stored.next_if(|stored| stored.key() < entry.key()) {
            out.push(*before);
        }
        stored.next_if(|stored| stored.key() == entry.key());
        out.push(*entry);
    }
    out.extend(stored);
}

/// The row that an entry with this key belongs to: the last that begins at or before it, otherwise the class's first.
fn home_row(rows: &Table<'_, Key, &'static [u8]>, key: Key) -> Result<Option<Key>> {
    if let Some(row) = rows.range(first_key(key.0)..=key)?.next_back() {
        return Ok(Some(row?.0.value()));
    }
    row_after(rows, key)
}

/// The next row of the same class.
fn row_after(rows: &Table<'_, Key, &'static [u8]>, key: Key) -> Result<Option<Key>> {
    let row = rows.range((Excluded(key), Included(last_key(key.0))))?.next();
    Ok(row.transpose()?.map(|(key, _)| key.value()))
}

fn is_first_of_class(rows: &Table<'_, Key, &'static [u8]>, key: Key) -> Result<bool> {
    Ok(rows.range(first_key(key.0)..key)?.next_back().is_none())
}

fn unpack_row(rows: &Table<'_, Key, &'static [u8]>, key: Key) -> Result<Vec<Entry>> {
    let Some(value) = rows.get(key)? else { return Ok(Vec::new()) };
    Ok(packed_entries(key, value.value())?.iter().map(|packed| Entry::unpack(key, packed)).collect())
}

fn packed_entries(key: Key, value: &[u8]) -> Result<&[[u8; ENTRY_BYTES]]> {
    match value.as_chunks() {
        (entries, []) => Ok(entries),
        _ => Err(RowError::Malformed { class: key.0 }),
    }
}

fn first_key(class: u8) -> Key {
    (class, 0, 0)
}

fn last_key(class: u8) -> Key {
    (class, u64::MAX, u128::MAX)
}
