//! Decoded blocks that readers share, within a byte bound.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Block, Sequence};

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
