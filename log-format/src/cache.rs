//! Decoded blocks that readers share, within a byte bound.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Block, Sequence};

/// About what a block takes.
const BLOCK_BYTES: usize = 512 << 10;

/// Decoded blocks by first sequence; the least recently used go first.
///
/// An event's bytes are the same in every block that ever holds it, so a block stays valid when its segment is
/// rewritten or removed.
pub(crate) struct BlockCache {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    blocks: BTreeMap<Sequence, (u64, Arc<Block>)>,
    by_use: BTreeMap<u64, Sequence>,
    clock: u64,
    bytes: usize,
    /// Blocks that were read for one event each, by their first sequences, the latest last.
    read_lately: VecDeque<Sequence>,
}

impl BlockCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        BlockCache { bytes_max, inner: Mutex::new(Inner::default()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can stop half-way through a change that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block that holds an event.
    pub(crate) fn get(&self, sequence: Sequence) -> Option<Arc<Block>> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let (first, (used, block)) = inner.blocks.range_mut(..=sequence).next_back()?;
        block.index_of(sequence)?;
        inner.by_use.remove(used);
        inner.clock += 1;
        *used = inner.clock;
        inner.by_use.insert(inner.clock, *first);
        Some(Arc::clone(block))
    }

    /// Whether a block that is read for one event is worth a place here: it was read for another one lately. "Lately" is as
    /// many blocks ago as have a place, because what is asked for more seldom would be dropped before it is used again.
    pub(crate) fn admits(&self, first: Sequence) -> bool {
        let read_lately = &mut self.lock().read_lately;
        if read_lately.contains(&first) {
            return true;
        }
        if read_lately.len() >= (self.bytes_max / BLOCK_BYTES).max(1) {
            read_lately.pop_front();
        }
        read_lately.push_back(first);
        false
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    pub(crate) fn insert(&self, block: Arc<Block>) {
        let mut inner = self.lock();
        let first = block.first_sequence();
        inner.remove(first);
        inner.clock += 1;
        let clock = inner.clock;
        inner.bytes += block.memory_bytes();
        inner.by_use.insert(clock, first);
        inner.blocks.insert(first, (clock, block));
        // The newest stays, whatever its size: somebody is about to read it.
        while inner.bytes > self.bytes_max && inner.blocks.len() > 1 {
            let Some((_, oldest)) = inner.by_use.pop_first() else { break };
            inner.remove(oldest);
        }
    }
}

impl Inner {
    fn remove(&mut self, first: Sequence) {
        if let Some((used, block)) = self.blocks.remove(&first) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(block.memory_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_admitted_when_it_is_read_again_before_as_many_others_as_have_a_place() {
        let cache = BlockCache::new(3 * BLOCK_BYTES);
        assert!(![1, 2, 3].map(|first| cache.admits(first)).contains(&true));
        assert!(cache.admits(1));
        assert!(!cache.admits(4));
        assert!(!cache.admits(1), "three others were read since");
        assert!(cache.admits(4));
        let smallest = BlockCache::new(1);
        assert_eq!([1, 1, 2, 1].map(|first| smallest.admits(first)), [false, true, false, false]);
    }
}
