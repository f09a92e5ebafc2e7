//! Blocks that are read into the cache before a client gets to them, so that one core decodes while another sends.
//!
//! A client that enters a block has the two after it read, on blocking threads. Nothing of them is held here: when the
//! client stalls, they leave the cache like any others and are read again. Only a few blocks are ahead of their clients at
//! a time, because the cache has no room for more, and where many replay, other clients keep the decoders busy.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sidecar_log_format::{Log, Sequence};
use tokio::{sync::Semaphore, task::JoinHandle};

use super::rendered::Renderer;

/// How many blocks a client has ahead: one core decodes about as fast as another sends.
const BLOCKS: usize = 2;
/// How many all clients have together.
const PLACES: usize = 4;
/// A client that has not come to its block by then has lost its place to others.
const PLACE_HELD_MAX: Duration = Duration::from_secs(1);

/// The blocks that are ahead of their clients now.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<Vec<(u64, Instant)>>,
    next: AtomicU64,
}

/// Given back when it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    fn take(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|(_, since)| now.saturating_duration_since(*since) < PLACE_HELD_MAX);
        if taken.len() == PLACES {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        taken.push((number, now));
        Some(Place { places: Arc::clone(self), number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|(number, _)| *number != self.number);
    }
}

/// What is ahead of one client.
pub(super) struct ReadAhead {
    log: Log,
    /// Makes the form that the client gets, if that is not the stored one.
    renderer: Option<Renderer>,
    decoders: Arc<Semaphore>,
    places: Arc<Places>,
    /// The last sequence that the client wants.
    until: Sequence,
    /// Where the first of the blocks begins.
    from: Sequence,
    /// In the order of the log, without a gap between; `None` is in the cache already.
    blocks: VecDeque<Option<BlockAhead>>,
}

struct BlockAhead {
    read: JoinHandle<()>,
    _place: Place,
}

impl ReadAhead {
    pub(super) fn new(
        log: Log,
        renderer: Option<Renderer>,
        decoders: Arc<Semaphore>,
        places: Arc<Places>,
        until: Sequence,
    ) -> Self {
        ReadAhead { log, renderer, decoders, places, until, from: 0, blocks: VecDeque::new() }
    }

    /// The client has come to a block, which holds these sequences.
    pub(super) fn enter(&mut self, block: Range<Sequence>) {
        if block.start == self.from {
            self.blocks.pop_front();
        } else {
            self.blocks.clear();
        }
        self.from = block.end;
        if self.from > self.until || self.from >= self.log.head().next_sequence {
            self.blocks.clear();
            return;
        }
        if self.blocks.is_empty() && self.is_at_hand(self.from) {
            // It was read for another client.
            self.blocks.push_back(None);
        }
        while self.blocks.len() < BLOCKS {
            let Some(block) = self.read(self.blocks.len()) else { return };
            self.blocks.push_back(Some(block));
        }
    }

    fn is_at_hand(&self, position: Sequence) -> bool {
        match &self.renderer {
            Some(renderer) => renderer.at_hand(position).is_some(),
            None => self.log.read_cached(position).is_some(),
        }
    }

    /// Begins to read the block `skipped` blocks after the first, if there is a place and a decoder for it.
    fn read(&self, skipped: usize) -> Option<BlockAhead> {
        let place = self.places.take(Instant::now())?;
        let decoder = Arc::clone(&self.decoders).try_acquire_owned().ok()?;
        let (log, from, until) = (self.log.clone(), self.from, self.until);
        let renderer = self.renderer.clone();
        let read = tokio::task::spawn_blocking(move || {
            // What is wrong shows again when the client gets there.
            let end_of_block = |position| Some(log.outline(position).ok().flatten()?.end_sequence);
            let position = (0..skipped).try_fold(from, |position, _| end_of_block(position));
            match (position.filter(|&position| position <= until), renderer) {
                (Some(position), Some(renderer)) => drop(renderer.read(position)),
                (Some(position), None) => drop(log.read(position)),
                (None, _) => {}
            }
            drop(decoder);
        });
        Some(BlockAhead { read, _place: place })
    }

    /// What is to be waited for before the block at `position` is read by other means.
    pub(super) fn take(&mut self, position: Sequence) -> Option<JoinHandle<()>> {
        let first = self.blocks.front_mut().filter(|_| position == self.from)?;
        Some(first.take()?.read)
    }
}

#[cfg(test)]
mod tests {
    use sidecar_log_format::{ReadOptions, storage::Directory};

    use super::super::written::Written;
    use super::*;

    /// A log of blocks of ten events, where each begins, and where the last one ends.
    fn written(blocks: u64) -> (Written, Vec<Sequence>) {
        let mut written = Written::new();
        for _ in 0..blocks {
            written.append_steps(10);
            written.commit();
        }
        (written, (0..=blocks).map(|block| 10 * block).collect())
    }

    fn ahead(written: &Written, places: &Arc<Places>, until: Sequence) -> ReadAhead {
        // As in another process: what was just written is not in this reader's cache.
        let storage = Arc::new(Directory::at(written.directory.path()));
        let log = Log::open(storage, ReadOptions::default()).unwrap();
        ReadAhead::new(log, None, Arc::new(Semaphore::new(8)), Arc::clone(places), until)
    }

    fn taken(places: &Arc<Places>) -> usize {
        places.taken.lock().unwrap().len()
    }

    #[tokio::test]
    async fn the_two_blocks_after_the_one_that_was_entered_are_read() {
        let (written, bounds) = written(6);
        let places = Arc::default();
        let mut ahead = ahead(&written, &places, u64::MAX);
        for at in 0..4 {
            ahead.enter(bounds[at]..bounds[at + 1]);
            ahead.take(bounds[at + 1]).unwrap().await.unwrap();
            assert!(ahead.log.read_cached(bounds[at + 1]).is_some());
            assert!(ahead.take(bounds[at + 1]).is_none(), "it is waited for once");
            assert!(ahead.take(bounds[at + 2]).is_none(), "its time has not come");
        }
        drop(ahead);
        assert_eq!(taken(&places), 0);
    }

    #[tokio::test]
    async fn a_client_that_jumps_is_read_ahead_of_from_there() {
        let (written, bounds) = written(6);
        let places = Arc::default();
        let mut ahead = ahead(&written, &places, u64::MAX);
        ahead.enter(bounds[0]..bounds[1]);
        ahead.enter(bounds[3]..bounds[4]);
        ahead.take(bounds[4]).unwrap().await.unwrap();
        assert!(ahead.log.read_cached(bounds[4]).is_some());
    }

    #[tokio::test]
    async fn nothing_is_read_beyond_the_end_and_what_others_have_read_is_not_read_again() {
        let (written, bounds) = written(4);
        let places = Arc::default();
        let mut ahead = ahead(&written, &places, bounds[3]);
        ahead.log.read(bounds[1]).unwrap();
        ahead.enter(bounds[0]..bounds[1]);
        assert!(ahead.take(bounds[1]).is_none());
        ahead.enter(bounds[1]..bounds[2]);
        ahead.take(bounds[2]).unwrap().await.unwrap();
        ahead.enter(bounds[2]..bounds[3]);
        ahead.take(bounds[3]).unwrap().await.unwrap();
        ahead.enter(bounds[3]..bounds[4]);
        assert_eq!((ahead.blocks.len(), taken(&places)), (0, 0), "the client wants no more");
    }

    #[test]
    fn a_client_that_stalls_loses_its_places_to_others() {
        let places: Arc<Places> = Arc::default();
        let now = Instant::now();
        let held: Vec<_> = (0..PLACES).map(|_| places.take(now).unwrap()).collect();
        let almost = now + PLACE_HELD_MAX - Duration::from_millis(1);
        assert!(places.take(almost).is_none());
        let others: Vec<_> = (0..PLACES).map(|_| places.take(now + PLACE_HELD_MAX).unwrap()).collect();
        // A client that has lost its place frees no other client's.
        drop(held);
        assert!(places.take(now + PLACE_HELD_MAX).is_none());
        drop(others);
        assert!(places.take(now + PLACE_HELD_MAX).is_some());
    }
}
