//! Blocks that no node has any more.
//!
//! Block heights flow in, in the order in which blocks are stored; ranges of heights that nobody brought within a while
//! flow out, each once. A node that was away brings older heights later, so a hole is only a gap when it stays one.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long a hole may wait for a back-fill before it is a gap.
const PATIENCE: Duration = Duration::from_secs(300);
/// Holes remembered at once; a chain that skips more often is reported at once.
const HOLES_MAX: usize = 4096;

/// Finds gaps.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    highest: Option<u64>,
    /// First height to last height and when the hole was seen, on a clock that does not jump.
    holes: BTreeMap<u64, (u64, Duration)>,
}

impl Gaps {
    /// Goes on above a height that is stored already.
    pub(super) fn starting_at(highest: Option<u64>) -> Self {
        Gaps { highest, holes: BTreeMap::new() }
    }

    /// A block was stored.
    pub(super) fn block(&mut self, height: u64, stored: Duration) {
        match self.highest {
            Some(highest) if height <= highest => self.fill(height),
            Some(highest) => {
                if height - highest > 1 {
                    self.holes.insert(highest + 1, (height - 1, stored));
                }
                self.highest = Some(height);
            }
            None => self.highest = Some(height),
        }
    }

    /// The gaps that are certain by now.
    pub(super) fn certain(&mut self, now: Duration) -> Vec<RangeInclusive<u64>> {
        let crowded = self.holes.len() > HOLES_MAX;
        let is_certain = |seen: Duration| crowded || now.saturating_sub(seen) >= PATIENCE;
        let certain = self.holes.iter().filter(|(_, (_, seen))| is_certain(*seen));
        let gaps: Vec<_> = certain.map(|(first, (last, _))| *first..=*last).collect();
        for gap in &gaps {
            self.holes.remove(gap.start());
        }
        gaps
    }

    fn fill(&mut self, height: u64) {
        let Some((&first, &(last, seen))) = self.holes.range(..=height).next_back() else { return };
        if height > last {
            return;
        }
        self.holes.remove(&first);
        if first < height {
            self.holes.insert(first, (height - 1, seen));
        }
        if height < last {
            self.holes.insert(height + 1, (last, seen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_height_is_a_gap_once_nobody_brought_it_for_a_while() {
        let mut gaps = Gaps::starting_at(Some(9));
        let second = Duration::from_secs(1);
        gaps.block(10, Duration::ZERO);
        gaps.block(14, second);
        assert_eq!(gaps.certain(PATIENCE), vec![]);
        assert_eq!(gaps.certain(PATIENCE + second), vec![11..=13]);
        assert_eq!(gaps.certain(PATIENCE + 2 * second), vec![]);
    }

    #[test]
    fn a_back_fill_in_descending_order_closes_the_hole() {
        let mut gaps = Gaps::default();
        gaps.block(100, Duration::ZERO);
        gaps.block(105, Duration::ZERO);
        for height in [104, 103, 101] {
            gaps.block(height, Duration::from_secs(1));
        }
        assert_eq!(gaps.certain(PATIENCE), vec![102..=102]);
    }

    #[test]
    fn the_first_block_of_a_log_opens_no_hole_below_it() {
        let mut gaps = Gaps::default();
        for height in [5_000, 4_999, 5_001] {
            gaps.block(height, Duration::ZERO);
        }
        assert_eq!(gaps.certain(Duration::MAX), vec![]);
    }
}
