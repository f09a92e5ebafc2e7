//! Decoded blocks that readers share, and events that were looked up, within one byte bound.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Block, Sequence};

/// The cache reserves 1/`PARTS` of its bytes for blocks, and as much for excerpts.
const PARTS: usize = 8;

/// Whole blocks, and excerpts of blocks that hold what was looked up; the least recently used are evicted first.
///
/// An event's bytes are the same in every block that ever holds it, so a block stays valid when its segment is
/// rewritten or removed.
pub(crate) struct BlockCache {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    blocks: Shelf,
    excerpts: Shelf,
    clock: u64,
}

/// Blocks in the order of their use. They do not overlap.
#[derive(Default)]
struct Shelf {
    by_first: BTreeMap<Sequence, (u64, Arc<Block>)>,
    by_use: BTreeMap<u64, Sequence>,
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

    /// The whole block that holds an event.
    pub(crate) fn get(&self, sequence: Sequence) -> Option<Arc<Block>> {
        let mut inner = self.lock();
        let now = inner.tick();
        inner.blocks.get(sequence, now)
    }

    /// A block or an excerpt that holds an event. A block that is only looked into is not used: look-ups would keep it for
    /// a few events, at the cost of hundreds of excerpts.
    pub(crate) fn get_any(&self, sequence: Sequence) -> Option<Arc<Block>> {
        let mut inner = self.lock();
        let now = inner.tick();
        inner.excerpts.get(sequence, now).or_else(|| inner.blocks.find(sequence).map(Arc::clone))
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    pub(crate) fn insert(&self, block: Arc<Block>) {
        let mut inner = self.lock();
        let now = inner.tick();
        inner.blocks.insert(block, now);
        inner.shrink_to(self.bytes_max);
    }

    pub(crate) fn insert_excerpt(&self, excerpt: Arc<Block>) {
        let mut inner = self.lock();
        let now = inner.tick();
        inner.excerpts.insert(excerpt, now);
        inner.shrink_to(self.bytes_max);
    }
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn shrink_to(&mut self, bytes_max: usize) {
        let part = bytes_max / PARTS;
        while self.blocks.bytes + self.excerpts.bytes > bytes_max {
            let are_blocks_older = self.blocks.oldest_use() < self.excerpts.oldest_use();
            let gives_blocks = self.excerpts.bytes <= part || (self.blocks.bytes > part && are_blocks_older);
            let shelf = if gives_blocks { &mut self.blocks } else { &mut self.excerpts };
            // The newest stays, of any size: a reader is about to use it.
            if shelf.oldest_use() == Some(self.clock) {
                return;
            }
            shelf.drop_oldest();
        }
    }
}

impl Shelf {
    fn get(&mut self, sequence: Sequence, now: u64) -> Option<Arc<Block>> {
        let (first, (used, block)) = self.by_first.range_mut(..=sequence).next_back()?;
        block.index_of(sequence)?;
        self.by_use.remove(used);
        *used = now;
        self.by_use.insert(now, *first);
        Some(Arc::clone(block))
    }

    fn find(&self, sequence: Sequence) -> Option<&Arc<Block>> {
        let (_, (_, block)) = self.by_first.range(..=sequence).next_back()?;
        block.index_of(sequence).map(|_| block)
    }

    fn insert(&mut self, block: Arc<Block>, now: u64) {
        let (first, end) = (block.first_sequence(), block.end_sequence());
        // Of two blocks that overlap, each could hide the other.
        while let Some((&other, _)) =
            self.by_first.range(..end).next_back().filter(|(_, (_, other))| other.end_sequence() > first)
        {
            self.remove(other);
        }
        self.bytes += block.memory_bytes();
        self.by_use.insert(now, first);
        self.by_first.insert(first, (now, block));
    }

    fn oldest_use(&self) -> Option<u64> {
        self.by_use.first_key_value().map(|(used, _)| *used)
    }

    fn drop_oldest(&mut self) {
        if let Some((_, &first)) = self.by_use.first_key_value() {
            self.remove(first);
        }
    }

    fn remove(&mut self, first: Sequence) {
        if let Some((used, block)) = self.by_first.remove(&first) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(block.memory_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApiVersion, CHAIN_START, Event, FrameForm, Kind, block::BlockBuilder, form::Form, position::Position};

    /// A block of so many events that takes about 10,000 bytes.
    fn block(first: Sequence, events: u64) -> Arc<Block> {
        let version = ApiVersion::NONE;
        let position =
            Position { next_sequence: first, wire_version: version, announced_version: version, chain: CHAIN_START };
        let mut builder = BlockBuilder::new(Form::new(FrameForm::Named, Vec::new()), position, 0);
        let payload = "x".repeat(9_000 / events as usize);
        for sequence in first..first + events {
            builder.push_event(&Event::new(Kind(1), 1, &payload), "", sequence, None, CHAIN_START);
        }
        Arc::new(builder.into_block().unwrap())
    }

    /// Has room for eight of these blocks.
    fn cache() -> BlockCache {
        BlockCache::new(8 * 10_000)
    }

    fn held(cache: &BlockCache) -> [usize; 2] {
        let inner = cache.lock();
        let bytes: usize = inner.blocks.bytes + inner.excerpts.bytes;
        let counted = inner.blocks.by_first.values().chain(inner.excerpts.by_first.values());
        assert_eq!(bytes, counted.map(|(_, block)| block.memory_bytes()).sum::<usize>());
        assert!(bytes <= cache.bytes_max);
        [&inner.blocks, &inner.excerpts].map(|shelf| {
            assert_eq!(shelf.by_first.len(), shelf.by_use.len());
            shelf.by_first.len()
        })
    }

    #[test]
    fn the_least_recently_used_block_or_excerpt_is_evicted() {
        let cache = cache();
        (0..4).for_each(|first| cache.insert(block(10 * first, 1)));
        (4..8).for_each(|first| cache.insert_excerpt(block(10 * first, 1)));
        assert_eq!(held(&cache), [4, 4]);
        assert!(cache.get(0).is_some() && cache.get_any(40).is_some());
        cache.insert_excerpt(block(80, 1));
        assert_eq!(held(&cache), [3, 5]);
        assert!(cache.get(10).is_none() && cache.get(0).is_some());
        (9..11).for_each(|first| cache.insert(block(10 * first, 1)));
        assert_eq!(held(&cache), [3, 5], "the two other old blocks were evicted");
        cache.insert(block(110, 1));
        assert_eq!(held(&cache), [4, 4]);
        assert!(cache.get_any(50).is_none() && cache.get_any(40).is_some());
    }

    #[test]
    fn neither_blocks_nor_excerpts_push_the_last_of_the_others_out() {
        let cache = cache();
        cache.insert(block(0, 1));
        (1..20).for_each(|first| cache.insert_excerpt(block(10 * first, 1)));
        assert_eq!(held(&cache), [1, 7]);
        (20..40).for_each(|first| cache.insert(block(10 * first, 1)));
        assert_eq!(held(&cache), [7, 1]);
        assert!(cache.get_any(190).is_some());
    }

    #[test]
    fn looking_into_a_block_does_not_keep_it() {
        let cache = cache();
        (0..4).for_each(|first| cache.insert(block(10 * first, 5)));
        for excerpt in 4..11 {
            assert!((0..2).all(|_| cache.get_any(2).is_some() == (excerpt < 9)), "{excerpt}");
            cache.insert_excerpt(block(10 * excerpt, 1));
        }
        assert_eq!(held(&cache), [1, 7]);
        assert!(cache.get(32).is_some(), "the block that came last");
    }

    #[test]
    fn a_block_replaces_those_it_overlaps_and_excerpts_hide_no_block() {
        let cache = cache();
        cache.insert(block(10, 5));
        cache.insert(block(15, 5));
        cache.insert(block(12, 6));
        assert!([10, 11, 18, 19].iter().all(|sequence| cache.get(*sequence).is_none()));
        assert!((12..18).all(|sequence| cache.get(sequence).is_some()));
        cache.insert_excerpt(block(13, 1));
        assert_eq!([13, 14].map(|sequence| cache.get_any(sequence).unwrap().len()), [1, 6]);
        assert!(cache.get(13).is_some_and(|block| block.len() == 6), "readers of whole blocks see no excerpt");
        assert_eq!(held(&cache), [1, 1]);
    }

    #[test]
    fn the_newest_block_stays_whatever_its_size() {
        let cache = BlockCache::new(1);
        cache.insert(block(0, 1));
        assert!(cache.get(0).is_some());
        cache.insert(block(10, 1));
        assert!(cache.get(0).is_none() && cache.get(10).is_some());
        cache.insert_excerpt(block(20, 1));
        assert!(cache.get(10).is_none() && cache.get_any(20).is_some());
    }
}
