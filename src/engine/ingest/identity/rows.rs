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

use redb::{AccessGuard, ReadableTable, Table, TableDefinition};

use super::Fingerprint;
use crate::engine::derived::RowError;
use crate::engine::dialect::Identity;

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
        // `Growth::row_len` ends a row before its times span more than 32 bits.
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

/// The key of an identity's entry.
pub(super) fn key_of(identity: &Identity) -> Key {
    (identity.class, identity.time, u128::from_be_bytes(identity.hash))
}

type Result<T> = std::result::Result<T, RowError>;
type Row<'a> = (AccessGuard<'a, Key>, AccessGuard<'a, &'static [u8]>);

/// The fingerprint stored for `identity`.
pub(super) fn find(rows: &impl ReadableTable<Key, &'static [u8]>, identity: &Identity) -> Result<Option<Fingerprint>> {
    let wanted = key_of(identity);
    let Some((key, value)) = row_at_or_before(rows, wanted)? else { return Ok(None) };
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

/// Reads `count` rows from the key `from` on, or from the first; returns the key after them, if there is one.
pub(super) fn check(
    rows: &impl ReadableTable<Key, &'static [u8]>,
    from: Option<Key>,
    count: usize,
) -> Result<Option<Key>> {
    let mut range = rows.range(from.unwrap_or_default()..)?;
    for row in range.by_ref().take(count) {
        let (key, value) = row?;
        packed_entries(key.value(), value.value())?;
    }
    Ok(range.next().transpose()?.map(|(key, _)| key.value()))
}

/// Adds entries, sorted and each once. Of one that is stored already the fingerprint is replaced.
pub(super) fn upsert(rows: &mut Table<'_, Key, &'static [u8]>, entries: &[Entry]) -> Result<()> {
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let class = first.class;
        // Neighbouring rows that all get something are one stretch: they are merged with it, and cut again together.
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
        let growth = if is_class_end {
            Growth::AtEnd
        } else if first_row.map_or(Ok(true), |key| is_first_of_class(rows, key))? {
            Growth::AtStart
        } else {
            Growth::Within
        };
        write_stretch(rows, &stretch, growth, &replaced)?;
    }
    Ok(())
}

/// Takes entries out, whose keys are sorted; those that are not there are passed over. Returns how many were.
pub(super) fn remove(rows: &mut Table<'_, Key, &'static [u8]>, keys: &[Key]) -> Result<usize> {
    let (mut rest, mut removed) = (keys, 0);
    while let Some((&first, after_first)) = rest.split_first() {
        let Some(row) = row_at_or_before(rows, first)?.map(|(row, _)| row.value()) else {
            rest = after_first;
            continue;
        };
        let next_row = row_after(rows, row)?;
        let is_in_row = |key: &Key| key.0 == row.0 && next_row.is_none_or(|next| *key < next);
        let (run, after) = rest.split_at_checked(rest.partition_point(is_in_row)).unwrap_or((rest, &[]));
        let mut entries = unpack_row(rows, row)?;
        let before = entries.len();
        entries.retain(|entry| run.binary_search(&entry.key()).is_err());
        if entries.is_empty() {
            rows.remove(row)?;
        } else if entries.len() < before {
            let mut value = Vec::with_capacity(entries.len() * ENTRY_BYTES);
            entries.iter().for_each(|entry| entry.pack(row.1, &mut value));
            rows.insert(row, value.as_slice())?;
        }
        removed += before - entries.len();
        rest = after;
    }
    Ok(removed)
}

/// Where more entries are to be expected in a stretch of rows, so that the others can be filled up.
#[derive(Clone, Copy)]
enum Growth {
    /// The class's last rows: a running chain.
    AtEnd,
    /// The class's first rows: back-fill in descending heights.
    AtStart,
    /// In the midst.
    Within,
}

impl Growth {
    /// How many of these entries, which begin with one for a new row, make up that row.
    fn row_len(self, entries: &[Entry]) -> usize {
        let wanted = match self {
            Self::AtEnd => ROW_ENTRIES_MAX,
            Self::AtStart => match entries.len() % ROW_ENTRIES_MAX {
                0 => ROW_ENTRIES_MAX,
                remainder => remainder,
            },
            Self::Within => entries.len().div_ceil(entries.len().div_ceil(ROW_ENTRIES_MAX).max(1)),
        };
        let newest = entries.first().map_or(0, |first| first.time.saturating_add(u64::from(u32::MAX)));
        entries.iter().take(wanted).take_while(|entry| entry.time <= newest).count().max(1)
    }
}

fn write_stretch(
    rows: &mut Table<'_, Key, &'static [u8]>,
    stretch: &[Entry],
    growth: Growth,
    replaced: &[Key],
) -> Result<()> {
    let mut written = Vec::new();
    let mut value = Vec::with_capacity(ROW_ENTRIES_MAX * ENTRY_BYTES);
    let mut rest = stretch;
    while let Some(first) = rest.first() {
        let (row, after) = rest.split_at_checked(growth.row_len(rest)).unwrap_or((rest, &[]));
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
    match row_at_or_before(rows, key)? {
        Some((row, _)) => Ok(Some(row.value())),
        None => row_after(rows, key),
    }
}

/// The last row of the same class that begins at or before this key. (A cursor walks down the tree once, a range twice.)
fn row_at_or_before<'a>(rows: &'a impl ReadableTable<Key, &'static [u8]>, key: Key) -> Result<Option<Row<'a>>> {
    let row = rows.upper_bound(Included(key))?.prev()?;
    Ok(row.filter(|(found, _)| found.value().0 == key.0))
}

/// The next row of the same class.
fn row_after(rows: &Table<'_, Key, &'static [u8]>, key: Key) -> Result<Option<Key>> {
    let row = rows.lower_bound(Excluded(key))?.next()?;
    Ok(row.map(|(found, _)| found.value()).filter(|found| found.0 == key.0))
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
        _ => Err(RowError::Malformed(format!("a malformed row of class {}", key.0))),
    }
}

fn first_key(class: u8) -> Key {
    (class, 0, 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, ReadableTableMetadata};

    use super::*;

    struct Rows(Database);

    impl Rows {
        fn new() -> Self {
            let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction.open_table(ROWS).unwrap();
            transaction.commit().unwrap();
            Self(database)
        }

        fn upsert(&self, entries: &[Entry]) {
            let transaction = self.0.begin_write().unwrap();
            upsert(&mut transaction.open_table(ROWS).unwrap(), entries).unwrap();
            transaction.commit().unwrap();
        }

        fn remove(&self, keys: &[Key]) -> usize {
            let transaction = self.0.begin_write().unwrap();
            let removed = remove(&mut transaction.open_table(ROWS).unwrap(), keys).unwrap();
            transaction.commit().unwrap();
            removed
        }

        /// All entries in the order of the rows, after checking that no row overlaps the next.
        fn all(&self) -> Vec<Entry> {
            let rows = self.0.begin_read().unwrap().open_table(ROWS).unwrap();
            let mut all: Vec<Entry> = Vec::new();
            for row in rows.iter().unwrap() {
                let (key, value) = row.unwrap();
                let key = key.value();
                assert!(all.last().is_none_or(|last| last.key() < key), "rows overlap at {key:?}");
                let entries = packed_entries(key, value.value()).unwrap();
                assert!((1..=ROW_ENTRIES_MAX).contains(&entries.len()));
                all.extend(entries.iter().map(|packed| Entry::unpack(key, packed)));
            }
            all
        }

        fn find(&self, entry: &Entry) -> Option<Fingerprint> {
            let rows = self.0.begin_read().unwrap().open_table(ROWS).unwrap();
            find(&rows, &Identity { class: entry.class, time: entry.time, hash: entry.hash }).unwrap()
        }

        /// Entries, as a share of what as many rows could hold.
        fn fill(&self) -> f64 {
            let rows = self.0.begin_read().unwrap().open_table(ROWS).unwrap().len().unwrap();
            self.all().len() as f64 / (rows as usize * ROW_ENTRIES_MAX) as f64
        }
    }

    fn entry(class: u8, time: u64, number: u64) -> Entry {
        let hash = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(number);
        Entry { class, time, hash: hash.to_be_bytes(), fingerprint: Fingerprint(number as u32) }
    }

    fn heights(heights: impl Iterator<Item = u64>, per_height: u64) -> Vec<Entry> {
        let mut entries: Vec<Entry> =
            heights.flat_map(|height| (0..per_height).map(move |number| entry(5, height, number))).collect();
        entries.sort_by_key(Entry::key);
        entries
    }

    #[test]
    fn rows_of_a_running_chain_are_full_though_its_heights_interleave() {
        let rows = Rows::new();
        for batch in 0..20 {
            // Half of a height comes with the heights before it, half with those after.
            let mut entries = heights(batch * 10 + 1..batch * 10 + 10, 100);
            entries.extend((0..50).map(|number| entry(5, batch * 10, number + 50)));
            entries.extend((0..50).map(|number| entry(5, batch * 10 + 10, number)));
            entries.sort_by_key(Entry::key);
            rows.upsert(&entries);
        }
        assert!(rows.fill() > 0.98, "{}", rows.fill());
    }

    #[test]
    fn rows_of_a_descending_back_fill_are_full() {
        let rows = Rows::new();
        rows.upsert(&heights(10_000..10_100, 100));
        for step in 1..100 {
            rows.upsert(&heights(10_000 - step * 3..10_000 - (step - 1) * 3, 7));
        }
        assert!(rows.fill() > 0.97, "{}", rows.fill());
    }

    #[test]
    fn rows_that_grow_in_their_midst_stay_half_full_at_least() {
        let rows = Rows::new();
        for step in 0..40 {
            rows.upsert(&heights((0..2_000).filter(|height| height * 7 % 40 == step), 5));
        }
        assert!(rows.fill() > 0.5, "{}", rows.fill());
    }

    #[test]
    fn a_row_of_another_length_is_reported_with_its_class() {
        let rows = Rows::new();
        let transaction = rows.0.begin_write().unwrap();
        transaction.open_table(ROWS).unwrap().insert((5, 0, 0), [0; ENTRY_BYTES + 1].as_slice()).unwrap();
        transaction.commit().unwrap();
        let table = rows.0.begin_read().unwrap().open_table(ROWS).unwrap();
        let error = find(&table, &Identity { class: 5, time: 1, hash: [0; 16] }).unwrap_err();
        assert_eq!(error.to_string(), "a malformed row of class 5");
    }

    fn any_batch() -> impl Strategy<Value = Vec<Entry>> {
        let far = u64::from(u32::MAX) + 2;
        let run = (0..3_u8, prop_oneof![0..3_000_u64, Just(far * 3), Just(u64::MAX - 50)], 1..50_u64, 1..40_u64);
        let scattered = (0..3_u8, prop_oneof![0..3_000_u64, Just(far), Just(far * 2)], 0..500_u64);
        let runs = proptest::collection::vec(run, 0..3);
        (runs, proptest::collection::vec(scattered, 0..400)).prop_map(|(runs, scattered)| {
            let runs = runs.into_iter().flat_map(|(class, from, heights, per_height)| {
                (from..from.saturating_add(heights))
                    .flat_map(move |height| (0..per_height).map(move |number| entry(class, height, number)))
            });
            let scattered = scattered.into_iter().map(|(class, time, number)| entry(class, time, number));
            let mut entries: Vec<Entry> = runs.chain(scattered).collect();
            entries.sort_by_key(Entry::key);
            entries.dedup_by_key(|entry| entry.key());
            entries
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn rows_hold_what_a_sorted_map_holds(batches in proptest::collection::vec(any_batch(), 1..12)) {
            let rows = Rows::new();
            let mut model = BTreeMap::new();
            for (round, batch) in batches.iter().enumerate() {
                let batch: Vec<Entry> = batch
                    .iter()
                    .map(|entry| Entry { fingerprint: Fingerprint(entry.fingerprint.0 + round as u32), ..*entry })
                    .collect();
                rows.upsert(&batch);
                model.extend(batch.iter().map(|entry| (entry.key(), *entry)));
                prop_assert_eq!(rows.all(), model.values().copied().collect::<Vec<_>>());
                // Every other time some go again: neighbours, scattered ones, and some that are not there.
                if round % 2 == 1 {
                    let some = model.keys().copied().skip(round * 20).take(3 * ROW_ENTRIES_MAX);
                    let scattered = model.keys().copied().step_by(7 + round);
                    let missing = [entry(1, 5, u64::MAX).key(), entry(9, 5, 5).key()];
                    let keys: std::collections::BTreeSet<Key> = some.chain(scattered).chain(missing).collect();
                    let before = model.len();
                    model.retain(|key, _| !keys.contains(key));
                    prop_assert_eq!(rows.remove(&keys.into_iter().collect::<Vec<_>>()), before - model.len());
                    prop_assert_eq!(rows.all(), model.values().copied().collect::<Vec<_>>());
                }
            }
            for entry in model.values().step_by(17) {
                prop_assert_eq!(rows.find(entry), Some(entry.fingerprint));
                prop_assert_eq!(rows.find(&Entry { hash: [0xee; 16], ..*entry }), None);
            }
            let table = rows.0.begin_read().unwrap().open_table(ROWS).unwrap();
            let mut newest: BTreeMap<u8, u64> = BTreeMap::new();
            for entry in model.values() {
                newest.insert(entry.class, entry.time);
            }
            let found: BTreeMap<u8, u64> = newest_times(&table).unwrap().into_iter().collect();
            prop_assert_eq!(found, newest);
        }
    }
}
