//! What the streams of all logs share: decoding at a time, and memory that clients may keep.
//!
//! One per process. With one per log, a second log would double what the process may hold.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Semaphore;

use super::{ahead::Places, large::LargeReaders, lending::Budget, rendered::RenderedBlocks};

/// Blocks and stored frames that connections may keep until their clients take them, all together.
const BUDGET_BYTES: usize = 8 << 20;
/// Blocks in other forms than the stored one, all together.
pub(super) const RENDERED_BYTES_MAX: usize = 16 << 20;

/// What all hubs of a process share.
pub struct Resources {
    /// Reads and decodings at a time.
    pub(super) decoders: Arc<Semaphore>,
    /// Searches for a time, one after the other: each reads a little of every segment.
    pub(super) time_searches: Arc<Semaphore>,
    /// Blocks that are read before their clients get there.
    pub(super) places_ahead: Arc<Places>,
    /// Bytes that HTTP may keep of blocks.
    pub(super) budget: Budget,
    /// Decoders of large events.
    pub(super) large_readers: Arc<LargeReaders>,
    /// Blocks in other forms than the stored one.
    pub(super) rendered: Arc<RenderedBlocks>,
    hubs: AtomicU64,
}

impl Resources {
    /// For `decode_concurrency` blocks that are read and decoded at the same time, at least 1.
    #[must_use]
    pub fn new(decode_concurrency: usize) -> Self {
        Resources {
            decoders: Arc::new(Semaphore::new(decode_concurrency.max(1))),
            time_searches: Arc::new(Semaphore::new(1)),
            places_ahead: Arc::default(),
            budget: Budget::new(BUDGET_BYTES),
            large_readers: Arc::default(),
            rendered: Arc::new(RenderedBlocks::new(RENDERED_BYTES_MAX)),
            hubs: AtomicU64::new(0),
        }
    }

    /// A number that no other hub has.
    pub(super) fn next_hub(&self) -> u64 {
        self.hubs.fetch_add(1, Ordering::Relaxed)
    }
}
