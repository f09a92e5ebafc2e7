//! What every part counts with: plain atomics without a lock, written by the part and read at any time.
//!
//! Each part has a struct of these. What they are called outside is known to the admin server only.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sidecar_log_format::Kind;

/// The bounds of sizes, in bytes.
pub const SIZE_BYTES: &[u64] = &[500, 1000, 2000, 5000, 50_000, 500_000, 5_000_000, 50_000_000];

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// How many there were so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

/// A count for each kind of event; those without a number of their own share one.
#[derive(Debug)]
pub struct CountPerKind([Count; u64::BITS as usize]);

impl Default for CountPerKind {
    fn default() -> Self {
        CountPerKind(std::array::from_fn(|_| Count::default()))
    }
}

impl CountPerKind {
    /// How many there were of `kind` so far.
    #[must_use]
    pub fn get(&self, kind: Kind) -> u64 {
        self.of(kind).map_or(0, Count::get)
    }

    pub(crate) fn add(&self, kind: Kind) {
        if let Some(count) = self.of(kind) {
            count.add(1);
        }
    }

    fn of(&self, kind: Kind) -> Option<&Count> {
        self.0.get(kind.bit().trailing_zeros() as usize)
    }
}

/// A condition that holds at the moment, or does not.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// Whether it is so.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, is_so: bool) {
        self.0.store(is_so, Ordering::Relaxed);
    }
}

/// The latest of some numbers, such as heights or times; none at first.
#[derive(Debug)]
pub struct Latest(AtomicU64);

/// Marks that there is no number yet.
const NONE: u64 = u64::MAX;

impl Default for Latest {
    fn default() -> Self {
        Latest(AtomicU64::new(NONE))
    }
}

impl Latest {
    /// The latest one.
    #[must_use]
    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|latest| *latest != NONE)
    }

    pub(crate) fn set(&self, latest: u64) {
        self.0.store(latest, Ordering::Relaxed);
    }
}

/// Payloads by their bytes.
#[derive(Debug)]
pub struct Tally(Histogram);

impl Default for Tally {
    fn default() -> Self {
        Tally(Histogram::new(SIZE_BYTES))
    }
}

impl Tally {
    pub(crate) fn add(&self, payload: &str) {
        self.0.observe(u64::try_from(payload.len()).unwrap_or(u64::MAX));
    }

    /// How many payloads there were, and how large.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }
}

/// How often observed values were within each of some bounds. Values and bounds are whole numbers of one unit; the sum
/// wraps after 2^64 of it.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// How many values were within the bound of the same place and above the one before; the last has those above all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one. `bounds` ascend; each is the largest value that still counts for it.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts `value`.
    pub fn observe(&self, value: u64) {
        let place = self.bounds.iter().take_while(|bound| value > **bound).count();
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a time, in microseconds.
    pub(crate) fn observe_time(&self, time: Duration) {
        self.observe(microseconds(time));
    }

    /// What was observed so far. Values that are observed meanwhile may show in part.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total = counts.iter().sum();
        let running = counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        let within = self.bounds.iter().copied().zip(running).collect();
        Snapshot { within, count: total, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Each bound, and how many values were not above it.
    pub within: Vec<(u64, u64)>,
    /// How many values.
    pub count: u64,
    /// All values together.
    pub sum: u64,
}

impl Snapshot {
    /// The values of both, which were counted within the same bounds.
    #[must_use]
    pub fn plus(&self, other: &Snapshot) -> Snapshot {
        let within = self.within.iter().zip(&other.within).map(|((bound, one), (_, more))| (*bound, one + more));
        Snapshot { within: within.collect(), count: self.count + other.count, sum: self.sum.wrapping_add(other.sum) }
    }
}

/// A time in whole microseconds; one that is too long is the longest.
pub(crate) fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_its_bound_and_every_larger_one() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1000] {
            histogram.observe(value);
        }
        let expected = Snapshot { within: vec![(10, 2), (20, 4)], count: 6, sum: 1062 };
        assert_eq!(histogram.snapshot(), expected);
    }

    #[test]
    fn the_latest_number_is_none_at_first_and_may_be_0() {
        let latest = Latest::default();
        assert_eq!(latest.get(), None);
        latest.set(0);
        assert_eq!(latest.get(), Some(0));
    }

    #[test]
    fn two_are_added_bound_by_bound() {
        let (one, more) = (Histogram::new(&[10, 20]), Histogram::new(&[10, 20]));
        one.observe(5);
        more.observe(15);
        let expected = Snapshot { within: vec![(10, 1), (20, 2)], count: 2, sum: 20 };
        assert_eq!(one.snapshot().plus(&more.snapshot()), expected);
    }

    #[test]
    fn nothing_observed_is_all_zeros() {
        assert_eq!(Histogram::new(&[1]).snapshot(), Snapshot { within: vec![(1, 0)], count: 0, sum: 0 });
    }
}
