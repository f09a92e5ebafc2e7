//! Realistic events: one chain's life, as a Casper node sends it on its event stream.
//!
//! In: a seed and [`StoryOptions`]. Out: a [`Story`], the [`StoryEvent`]s of a chain in a plausible order, with payloads
//! made from casper-types values and members in a node's order. The same seed and options give the same bytes.
//! Beside them, single events that no story has ([`unknown_kind`], [`of_size`] …).
//! Not here: ids and frames, which belong to the node that sends the story (`node`, `fast`).

mod odd_events;
mod teller;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Range, RangeInclusive};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use odd_events::{non_ascii, of_random_text, of_size, pretty_printed, shutdown, unknown_kind, unknown_shape};
use teller::Teller;

/// What an event is about: the name of its outermost JSON member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A block joined the chain.
    BlockAdded,
    /// A transaction was accepted for execution.
    TransactionAccepted,
    /// A transaction was executed in a block.
    TransactionProcessed,
    /// A transaction was not executed in time.
    TransactionExpired,
    /// A validator misbehaved.
    Fault,
    /// A validator signed a block.
    FinalitySignature,
    /// The system's own changes at the end of an era.
    Step,
    /// The node stops.
    Shutdown,
    /// Something that no version of Sidecar knows, or a known name in an unknown shape.
    Unclassified,
}

/// One event of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryEvent {
    /// The text that follows `data:`; one line, unless it was made by [`pretty_printed`].
    pub payload: String,
    /// What it is about.
    pub kind: EventKind,
    /// What makes two reports of it the same event, for example `FinalitySignature:BLOCK_HASH:PUBLIC_KEY`.
    pub identity: String,
    /// The height of the block it belongs to. Unexecuted transactions, faults and edge cases have none.
    pub height: Option<u64>,
}

impl AsRef<str> for StoryEvent {
    fn as_ref(&self) -> &str {
        &self.payload
    }
}

/// The shape of a story. The default mix has 83 % finality signatures and about 765 bytes per event.
#[derive(Debug, Clone)]
pub struct StoryOptions {
    /// How many blocks the chain gets.
    pub blocks: u64,
    /// How many validators sign each block; the set stays the same.
    pub validators: usize,
    /// How many transactions a block executes.
    pub transactions_per_block: RangeInclusive<usize>,
    /// Every so many blocks comes a switch block, preceded by its step.
    pub blocks_per_era: u64,
    /// Height of the first block.
    pub first_height: u64,
    /// Era of the first block.
    pub first_era: u64,
    /// Timestamp of the first block, milliseconds since 1970.
    pub first_timestamp_ms: u64,
    /// Time from block to block in milliseconds.
    pub block_interval_ms: u64,
    /// The chain's name; its digest is in every finality signature.
    pub chain_name: String,
}

impl Default for StoryOptions {
    fn default() -> Self {
        Self {
            blocks: 20,
            validators: 100,
            transactions_per_block: 7..=12,
            blocks_per_era: 10,
            first_height: 0,
            first_era: 0,
            first_timestamp_ms: 1_795_000_000_000,
            block_interval_ms: 8_000,
            chain_name: "casper-test".to_owned(),
        }
    }
}

impl StoryOptions {
    /// The default mix with enough blocks for at least `events` events.
    pub fn with_at_least(events: usize) -> Self {
        let defaults = Self::default();
        // A block of the default mix brings its validators' signatures, itself and two events per transaction.
        let events_per_block = defaults.validators + 1 + 2 * *defaults.transactions_per_block.start();
        Self { blocks: events.div_ceil(events_per_block) as u64, ..defaults }
    }

    /// A few signatures and transactions per block, for tests that look at kinds and order, not at load.
    pub fn small(blocks: u64) -> Self {
        Self { blocks, validators: 4, transactions_per_block: 1..=3, blocks_per_era: 5, ..Self::default() }
    }
}

/// A chain's events in the order one node would send them, without ids.
#[derive(Debug, Clone)]
pub struct Story {
    events: Vec<StoryEvent>,
}

impl Story {
    /// Tells the story of `seed`.
    pub fn new(seed: u64, options: &StoryOptions) -> Self {
        Self { events: Teller::new(seed, options).tell() }
    }

    /// The events in order.
    pub fn events(&self) -> &[StoryEvent] {
        &self.events
    }

    /// The same events as another node might send them: signatures move by up to `window` places; the other kinds
    /// move against each other as far, but each keeps its own order, as a chain's blocks and eras do.
    pub fn reordered(&self, seed: u64, window: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut jittered: Vec<(usize, usize)> =
            (0..self.events.len()).map(|position| (position + rng.gen_range(0..=window), position)).collect();
        jittered.sort_unstable();

        let mut in_order: BTreeMap<EventKind, _> = BTreeMap::new();
        for event in &self.events {
            in_order.entry(event.kind).or_insert_with(VecDeque::new).push_back(event);
        }
        let events = jittered
            .into_iter()
            .map(|(_, position)| match &self.events[position] {
                signature if signature.kind == EventKind::FinalitySignature => signature.clone(),
                other => in_order.get_mut(&other.kind).and_then(|queue| queue.pop_front()).unwrap().clone(),
            })
            .collect();
        Self { events }
    }

    /// What a node that was away sends for `heights` when it catches up: the blocks in descending order, each with its
    /// executed transactions and signatures, without contract messages; nothing accepted, no step.
    pub fn back_fill(&self, heights: Range<u64>) -> Vec<StoryEvent> {
        let mut events = Vec::new();
        for height in heights.rev() {
            let of_height = |kind| self.events.iter().filter(move |e| e.kind == kind && e.height == Some(height));
            events.extend(of_height(EventKind::BlockAdded).cloned());
            events.extend(of_height(EventKind::TransactionProcessed).map(without_messages));
            events.extend(of_height(EventKind::FinalitySignature).cloned());
        }
        events
    }
}

fn without_messages(event: &StoryEvent) -> StoryEvent {
    // "messages" is the last member of a processed transaction and appears nowhere before as a member's name.
    let start = event.payload.rfind(",\"messages\":[").expect("a processed transaction has messages");
    StoryEvent { payload: format!("{},\"messages\":[]}}}}", &event.payload[..start]), ..event.clone() }
}
