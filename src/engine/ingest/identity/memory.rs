//! The recent window: what the index answers without redb.
//!
//! Owns two generations of a hash map and, per class, the newest time ever forgotten. Every insert flows in; nothing
//! leaves before redb holds it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::Fingerprint;
use crate::engine::dialect::Identity;

#[derive(Debug)]
pub(super) struct Memory {
    younger: Generation,
    elder: Generation,
    generation_entries: usize,
    /// Per class, the newest time of an identity that may be in redb only.
    newest_forgotten: NewestTimes,
    /// Inserts ever, and how many of the first of them redb holds.
    inserted: u64,
    written: u64,
}

impl Memory {
    /// Holds the last `generation_entries` at least, and twice as many at most, unless redb falls behind by more.
    pub(super) fn new(generation_entries: usize) -> Self {
        Self {
            younger: Generation::new(),
            elder: Generation::new(),
            generation_entries,
            newest_forgotten: NewestTimes::new(),
            inserted: 0,
            written: 0,
        }
    }

    pub(super) fn get(&self, identity: &Identity) -> Option<Fingerprint> {
        let key = EntryKey::new(identity);
        self.younger.entries.get(&key).or_else(|| self.elder.entries.get(&key)).copied()
    }

    /// Whether this identity, if it is known at all, is in memory.
    pub(super) fn would_hold(&self, identity: &Identity) -> bool {
        self.newest_forgotten.of(identity.class).is_none_or(|forgotten| identity.time > forgotten)
    }

    pub(super) fn insert(&mut self, identity: &Identity, fingerprint: Fingerprint) {
        if self.younger.entries.len() >= self.generation_entries && self.elder.last_inserted <= self.written {
            self.forget_the_elder();
        }
        self.inserted += 1;
        self.younger.last_inserted = self.inserted;
        self.younger.newest.raise(identity.class, identity.time);
        self.younger.entries.insert(EntryKey::new(identity), fingerprint);
    }

    /// Redb holds `entries` more of the inserted ones, in their order.
    pub(super) fn may_forget(&mut self, entries: usize) {
        self.written += entries as u64;
    }

    /// Something of `class` at `time` is in redb only.
    pub(super) fn forgot(&mut self, class: u8, time: u64) {
        self.newest_forgotten.raise(class, time);
    }

    fn forget_the_elder(&mut self) {
        self.newest_forgotten.raise_all(&self.elder.newest);
        self.elder.clear();
        std::mem::swap(&mut self.younger, &mut self.elder);
    }
}

#[derive(Debug)]
struct Generation {
    entries: HashMap<EntryKey, Fingerprint, BuildHasherDefault<AlreadyUniform>>,
    newest: NewestTimes,
    /// The number, among all inserts, of the last one here.
    last_inserted: u64,
}

impl Generation {
    fn new() -> Self {
        Self { entries: HashMap::default(), newest: NewestTimes::new(), last_inserted: 0 }
    }

    /// Keeps the map's memory for the next generation.
    fn clear(&mut self) {
        self.entries.clear();
        self.newest = NewestTimes::new();
        self.last_inserted = 0;
    }
}

/// A time per class, where there is one.
#[derive(Debug)]
struct NewestTimes(Box<[Option<u64>]>);

impl NewestTimes {
    fn new() -> Self {
        Self(vec![None; usize::from(u8::MAX) + 1].into())
    }

    fn of(&self, class: u8) -> Option<u64> {
        self.0.get(usize::from(class)).copied().flatten()
    }

    fn raise(&mut self, class: u8, time: u64) {
        if let Some(newest) = self.0.get_mut(usize::from(class)) {
            *newest = (*newest).max(Some(time));
        }
    }

    fn raise_all(&mut self, other: &Self) {
        for (newest, other) in self.0.iter_mut().zip(&other.0) {
            *newest = (*newest).max(*other);
        }
    }
}

/// Class, time and hash in the 16 bytes of the hash: folding the first two in keeps it as unlikely to collide as it was,
/// and the map a third smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryKey([u8; 16]);

impl EntryKey {
    fn new(identity: &Identity) -> Self {
        let class_and_time = u128::from(identity.class) << 64 | u128::from(identity.time);
        Self((u128::from_le_bytes(identity.hash) ^ class_and_time).to_le_bytes())
    }
}

impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bits = u128::from_le_bytes(self.0);
        state.write_u64((bits >> 64) as u64 ^ bits as u64);
    }
}

/// The hash of what is the output of a hash already: its own 64 bits.
#[derive(Default)]
struct AlreadyUniform(u64);

impl Hasher for AlreadyUniform {
    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
