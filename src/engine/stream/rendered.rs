//! Rendered blocks that subscribers share, within a byte bound.
//!
//! A block that is missing here is rendered by one thread, and all subscribers that need it share the result. No block is
//! kept for a subscriber that stalls: it asks again when it continues.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use sidecar_log_format::{Block, Log, Read, Result, Sequence};

use super::{
    counters::HubCounters,
    rendering::{RenderedBlock, Rendering},
};

/// A stored block up to this size is rendered where it is asked for; a larger one on a blocking thread.
const AT_ONCE_BYTES: usize = 16 << 10;
/// Blocks that may be rendered at a time: more than there are threads that do.
const TURNS: usize = 16;

/// The rendered blocks of all logs of a process.
pub(super) struct RenderedBlocks {
    bytes_max: usize,
    kept: Mutex<Kept>,
    /// Held while a block is rendered; the block's first sequence chooses one.
    turns: [Mutex<()>; TURNS],
}

/// The least recently used go first.
#[derive(Default)]
struct Kept {
    blocks: BTreeMap<Key, (u64, Arc<RenderedBlock>)>,
    by_use: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
}

/// What was rendered, and the first sequence of the block.
type Key = (Rendered, Sequence);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rendered {
    hub: u64,
    /// In another epoch the same sequences may name other events.
    epoch: u64,
    rendering: u16,
}

impl RenderedBlocks {
    pub(super) fn new(bytes_max: usize) -> Self {
        RenderedBlocks { bytes_max, kept: Mutex::default(), turns: Default::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing in here can stop half-way through a change that matters.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, of: Rendered, sequence: Sequence) -> Option<Arc<RenderedBlock>> {
        let mut kept = self.lock();
        let kept = &mut *kept;
        let (key, (used, block)) = kept.blocks.range_mut((of, 0)..=(of, sequence)).next_back()?;
        block.index_of(sequence)?;
        kept.by_use.remove(used);
        kept.clock += 1;
        *used = kept.clock;
        kept.by_use.insert(kept.clock, *key);
        Some(Arc::clone(block))
    }

    fn insert(&self, of: Rendered, block: Arc<RenderedBlock>) {
        let mut kept = self.lock();
        let (first, end) = (block.first_sequence(), block.end_sequence());
        let key = (of, first);
        // Of two blocks that overlap, as before and after a rewrite, each could hide the other.
        while let Some((&overlapped, _)) = kept
            .blocks
            .range((of, 0)..(of, end.max(first.saturating_add(1))))
            .next_back()
            .filter(|(_, (_, other))| other.end_sequence() > first || other.first_sequence() == first)
        {
            kept.remove(&overlapped);
        }
        kept.clock += 1;
        let clock = kept.clock;
        kept.bytes += block.memory_bytes();
        kept.by_use.insert(clock, key);
        kept.blocks.insert(key, (clock, block));
        // The newest stays, whatever its size: a subscriber is about to read it.
        while kept.bytes > self.bytes_max && kept.blocks.len() > 1 {
            let Some((_, oldest)) = kept.by_use.pop_first() else { break };
            kept.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.lock().bytes
    }

    fn turn(&self, sequence: Sequence) -> Option<&Mutex<()>> {
        self.turns.get(sequence as usize % TURNS)
    }
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some((used, block)) = self.blocks.remove(key) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(block.memory_bytes());
        }
    }
}

/// One log's blocks in one rendering.
#[derive(Clone)]
pub(super) struct Renderer {
    log: Log,
    rendering: Arc<dyn Rendering>,
    hub: u64,
    blocks: Arc<RenderedBlocks>,
    counters: Arc<HubCounters>,
}

/// What a read of rendered events finds.
pub(super) enum RenderedRead {
    /// The block that holds the event.
    Block(Arc<RenderedBlock>),
    /// What needs no rendering, or is too large for a block.
    Other(Box<Read>),
}

impl Renderer {
    pub(super) fn new(
        log: Log,
        rendering: Arc<dyn Rendering>,
        hub: u64,
        blocks: Arc<RenderedBlocks>,
        counters: Arc<HubCounters>,
    ) -> Self {
        Renderer { log, rendering, hub, blocks, counters }
    }

    pub(super) fn rendering(&self) -> &Arc<dyn Rendering> {
        &self.rendering
    }

    /// The rendered block that holds an event, if that takes no I/O and little time.
    pub(super) fn at_hand(&self, sequence: Sequence) -> Option<Arc<RenderedBlock>> {
        let of = self.rendered();
        if let Some(block) = self.blocks.get(of, sequence) {
            return Some(block);
        }
        let Read::Events { block, .. } = self.log.read_cached(sequence)? else { return None };
        if block.wire().len() > AT_ONCE_BYTES {
            return None;
        }
        // Where another renders, what it makes is waited for elsewhere.
        let turn = self.blocks.turn(block.first_sequence()).and_then(|turn| match turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })?;
        Some(self.render_in(turn, of, &block, sequence))
    }

    /// Reads and renders, on a thread that may block.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub(super) fn read(&self, sequence: Sequence) -> Result<RenderedRead> {
        // Before the read: what is read in an earlier epoch must not be taken for the later one's.
        let of = self.rendered();
        if let Some(block) = self.blocks.get(of, sequence) {
            return Ok(RenderedRead::Block(block));
        }
        match self.log.read(sequence)? {
            Read::Events { block, .. } => {
                let turn = self.blocks.turn(block.first_sequence());
                let turn = turn.map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(RenderedRead::Block(self.render_in(turn, of, &block, sequence)))
            }
            other => Ok(RenderedRead::Other(Box::new(other))),
        }
    }

    /// Renders a block, unless another has while this one waited for its turn.
    fn render_in(&self, _turn: impl Sized, of: Rendered, block: &Block, sequence: Sequence) -> Arc<RenderedBlock> {
        if let Some(made) = self.blocks.get(of, sequence) {
            return made;
        }
        let made = Arc::new(RenderedBlock::of(block, &*self.rendering));
        self.counters.blocks_rendered.add(1);
        self.blocks.insert(of, Arc::clone(&made));
        made
    }

    fn rendered(&self) -> Rendered {
        Rendered { hub: self.hub, epoch: self.log.head().epoch, rendering: self.rendering.id() }
    }
}

#[cfg(test)]
mod tests {
    use sidecar_log_format::{ReadOptions, RewriteOptions, storage::Directory};

    use super::*;
    use crate::engine::stream::{json_lines::JsonLines, written::Written};

    #[test]
    fn a_block_replaces_those_it_overlaps_and_no_others() {
        let mut written = Written::steps(100);
        let block = |log: &Log, sequence| match log.read(sequence).unwrap() {
            Read::Events { block, .. } => block,
            other => panic!("{other:?}"),
        };
        let rendering = JsonLines::of(&written.log);
        let rendered = |block: &Block| Arc::new(RenderedBlock::of(block, &rendering));
        let mut small = Vec::new();
        while small.len() < 4 {
            let next = small.last().map_or(0, |last: &Arc<RenderedBlock>| last.end_sequence());
            small.push(rendered(&block(&written.log, next)));
        }
        written.writer.seal_now(2_000_000).unwrap();
        written.writer.maintenance().rewrite(0, RewriteOptions::default()).unwrap().unwrap();
        let reopened = Log::open(Arc::new(Directory::at(written.directory.path())), ReadOptions::default()).unwrap();
        let merged = rendered(&block(&reopened, 0));
        assert_eq!((merged.first_sequence(), merged.end_sequence()), (0, 100));

        let kept = RenderedBlocks::new(1 << 20);
        let of = Rendered { hub: 1, epoch: 0, rendering: 1 };
        let others = [Rendered { hub: 2, ..of }, Rendered { epoch: 1, ..of }, Rendered { rendering: 2, ..of }];
        others.iter().for_each(|other| kept.insert(*other, Arc::clone(&small[1])));
        for block in &small[1..] {
            kept.insert(of, Arc::clone(block));
        }
        assert!(kept.get(of, small[3].first_sequence()).is_some());
        kept.insert(of, Arc::clone(&merged));
        for sequence in 0..100 {
            assert!(kept.get(of, sequence).is_some_and(|found| Arc::ptr_eq(&found, &merged)), "{sequence}");
        }
        assert!(others.iter().all(|other| kept.get(*other, small[1].first_sequence()).is_some()));
        assert_eq!(kept.kept_bytes(), merged.memory_bytes() + 3 * small[1].memory_bytes());
        kept.insert(of, Arc::clone(&small[2]));
        assert!(kept.get(of, 0).is_none() && kept.get(of, small[2].first_sequence()).is_some());
        assert_eq!(kept.kept_bytes(), small[2].memory_bytes() + 3 * small[1].memory_bytes());
    }
}
