//! A batch: what a run of the log's events means for the tables.
//!
//! Events flow in from the log's blocks, and only their keys are kept; sorted postings flow out into one transaction of
//! redb. An event without a key that is known here (a shutdown, an unknown kind or shape) leaves nothing.

use redb::WriteTransaction;
use sidecar_log_format::{ChainValue, Error, Kind, Log, Read, Sequence};

use super::postings::Posting;
use super::rows::{
    self, BLOCKS_BY_HASH, BLOCKS_BY_HEIGHT, Digest, FAULTS_BY_ERA, FAULTS_BY_KEY, INITIATORS, SIGNATURES, STEPS,
    TransactionEvent, digest, digest_and_number, number_and_digest,
};
use super::store::chain_before;
use crate::casper::event::OTHER;
use crate::casper::keys::{Keys, account_of_initiator, keys};

/// The keys of consecutive events.
#[derive(Debug, Default)]
pub(super) struct Batch {
    next: Sequence,
    chain_before_next: Option<ChainValue>,
    events: usize,
    blocks_by_hash: Vec<([u8; 16], Posting)>,
    blocks_by_height: Vec<([u8; 8], Posting)>,
    transactions: Vec<TransactionEvent>,
    signatures: Vec<(Digest, Posting)>,
    faults_by_key: Vec<([u8; 24], Posting)>,
    faults_by_era: Vec<([u8; 24], Posting)>,
    steps: Vec<([u8; 8], Posting)>,
}

impl Batch {
    /// Reads from `from` on to the head, or until it has at least `events_max` events (blocks are not cut). What the log
    /// does not hold any more, or is damaged, is stepped over.
    ///
    /// A read that fails ends the batch, and is an error when nothing comes before it.
    pub(super) fn read(log: &Log, from: Sequence, events_max: usize) -> sidecar_log_format::Result<Self> {
        let mut batch = Self { next: from.max(log.oldest()), ..Self::default() };
        while batch.events < events_max {
            match batch.read_on(log) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if batch.events > 0 => break,
                Err(error) => return Err(error),
            }
        }
        batch.chain_before_next = chain_before(log, batch.next)?;
        Ok(batch)
    }

    /// Adds what stands next in the log; says whether there was something.
    fn read_on(&mut self, log: &Log) -> sidecar_log_format::Result<bool> {
        match log.read(self.next)? {
            Read::Events { block, index } => {
                for row in block.rows().skip(index) {
                    self.add(row.sequence(), row.kind(), &row.payload());
                }
                self.next = block.end_sequence();
            }
            Read::Large(large) => {
                let kind = large.shape().row(0).map_or(OTHER, |row| row.kind());
                match large.payload() {
                    Ok(payload) => self.add(large.sequence(), kind, &payload),
                    Err(error @ Error::Corrupt { .. }) => {
                        tracing::warn!("event {} is in no view: {error}", large.sequence());
                    }
                    Err(error) => return Err(error),
                }
                self.next = large.sequence() + 1;
            }
            Read::Missing { to, .. } => self.next = to,
            Read::End => return Ok(false),
        }
        Ok(true)
    }

    /// The sequence after the last event.
    pub(super) fn next(&self) -> Sequence {
        self.next
    }

    /// The log's chain value there, where the log can tell.
    pub(super) fn chain_before_next(&self) -> Option<ChainValue> {
        self.chain_before_next
    }

    /// How many events were looked at.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    fn add(&mut self, sequence: Sequence, kind: Kind, payload: &[u8]) {
        self.events += 1;
        let Some(keys) = std::str::from_utf8(payload).ok().and_then(|payload| keys(kind, payload)) else { return };
        let posting = Posting { sequence, tag: 0 };
        match keys {
            Keys::Block { hash, height } => {
                self.blocks_by_hash.push((digest(hash.as_bytes()), posting));
                self.blocks_by_height.push((height.to_be_bytes(), posting));
            }
            Keys::Transaction { stage, transaction_type, hash, initiator } => {
                let initiator = initiator.and_then(account_of_initiator).map(digest);
                let event =
                    TransactionEvent { hash: digest(hash.as_bytes()), sequence, stage, transaction_type, initiator };
                self.transactions.push(event);
            }
            Keys::Fault { era, public_key } => {
                let public_key = digest(public_key.as_bytes());
                self.faults_by_key.push((digest_and_number(public_key, era), posting));
                self.faults_by_era.push((number_and_digest(era, public_key), posting));
            }
            Keys::Signature { block_hash, public_key } => {
                let tag = signer_tag(&public_key);
                self.signatures.push((digest(block_hash.as_bytes()), Posting { sequence, tag }));
            }
            Keys::Step { era } => self.steps.push((era.to_be_bytes(), posting)),
        }
    }

    /// Adds everything to the tables.
    pub(super) fn write(mut self, transaction: &WriteTransaction) -> rows::Result<()> {
        rows::append(transaction, BLOCKS_BY_HASH, sorted(&mut self.blocks_by_hash))?;
        rows::append(transaction, BLOCKS_BY_HEIGHT, sorted(&mut self.blocks_by_height))?;
        rows::append(transaction, FAULTS_BY_KEY, sorted(&mut self.faults_by_key))?;
        rows::append(transaction, FAULTS_BY_ERA, sorted(&mut self.faults_by_era))?;
        rows::append(transaction, STEPS, sorted(&mut self.steps))?;
        rows::append_to_chunks(transaction, SIGNATURES, sorted(&mut self.signatures))?;
        self.transactions.sort_unstable_by_key(|event| (event.hash, event.sequence));
        let mut of_initiators = rows::append_transactions(transaction, &self.transactions)?;
        rows::append_to_chunks(transaction, INITIATORS, sorted(&mut of_initiators))
    }
}

/// 21 bits of the signer's digest: enough that two signers of one block hardly ever share them, and three bytes packed.
fn signer_tag(public_key: &str) -> u64 {
    let [first, second, third, ..] = digest(public_key);
    u64::from(u32::from_be_bytes([0, first, second, third])) & ((1 << 21) - 1)
}

fn sorted<K: Ord + Copy>(postings: &mut [(K, Posting)]) -> &[(K, Posting)] {
    postings.sort_unstable_by_key(|(key, posting)| (*key, posting.sequence));
    postings
}
