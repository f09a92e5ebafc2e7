//! Questions: what Casper's views answer.
//!
//! A key flows in; sequences of retained events flow out. Each question is one snapshot of the tables. Events are read for
//! one question alone: whether two signers that share a tag are one.

use std::collections::HashSet;
use std::ops::Bound;

use sidecar_log_format::{Read, Sequence};

use super::CasperViews;
use super::tables::{
    BLOCKS_BY_HASH, BLOCKS_BY_HEIGHT, FAULTS_BY_ERA, FAULTS_BY_KEY, INITIATORS, SIGNATURES, STEPS, TRANSACTIONS,
    TransactionTag,
};
use crate::casper::keys::{Keys, Stage, TransactionType, account_of_key, keys};
use crate::engine::view::Result;
use crate::engine::view::keys::{digest, digest_and_number, number_and_digest};
use crate::engine::view::posting::Posting;
use crate::engine::view::snapshot::Snapshot;
use crate::engine::view::tables;

impl CasperViews {
    /// The block of the greatest height.
    ///
    /// # Errors
    /// As every question: [`ViewError::Closed`](crate::engine::view::ViewError::Closed) for a moment around a failure of the
    /// file, or what redb answers.
    pub fn latest_block(&self) -> Result<Option<Sequence>> {
        self.0.query(|snapshot| {
            let newest = snapshot.firsts(&BLOCKS_BY_HEIGHT, ..)?.next_back().transpose()?;
            Ok(newest.map(|(_, first)| first))
        })
    }

    /// The first block of this hash, whichever block of its height it was.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn block_by_hash(&self, hash: &[u8; 32]) -> Result<Option<Sequence>> {
        let key = digest(hex::encode(hash));
        self.0.query(|snapshot| snapshot.first(&BLOCKS_BY_HASH, &key))
    }

    /// The first block of this height.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn block_by_height(&self, height: u64) -> Result<Option<Sequence>> {
        self.0.query(|snapshot| snapshot.first(&BLOCKS_BY_HEIGHT, &height.to_be_bytes()))
    }

    /// Heights and blocks from `height` on and below `before`, upwards, at most `limit`.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn blocks_up(&self, height: u64, before: Option<u64>, limit: usize) -> Result<Vec<(u64, Sequence)>> {
        self.0.query(|snapshot| blocks(snapshot, height, before)?.take(limit).collect())
    }

    /// The same, downwards from the greatest height.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn blocks_down(&self, height: u64, before: Option<u64>, limit: usize) -> Result<Vec<(u64, Sequence)>> {
        self.0.query(|snapshot| blocks(snapshot, height, before)?.rev().take(limit).collect())
    }

    /// The first event of this stage of a transaction.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn transaction(
        &self,
        stage: Stage,
        transaction_type: TransactionType,
        hash: &[u8; 32],
    ) -> Result<Option<Sequence>> {
        let key = digest(hex::encode(hash));
        self.0.query(|snapshot| {
            for posting in snapshot.find(&TRANSACTIONS, &key)? {
                let tag = TransactionTag::unpacked(posting.tag)?;
                if (tag.stage, tag.transaction_type) == (stage, transaction_type) {
                    return Ok(Some(posting.sequence));
                }
            }
            Ok(None)
        })
    }

    /// The faults of a validator (a public key with its algorithm tag), one per era, in the log's order.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn faults_by_key(&self, public_key: &[u8]) -> Result<Vec<Sequence>> {
        let key = digest(hex::encode(public_key));
        let eras = digest_and_number(key, 0)..=digest_and_number(key, u64::MAX);
        self.0.query(|snapshot| snapshot.firsts_in_log_order(&FAULTS_BY_KEY, eras))
    }

    /// The faults of an era, one per validator, in the log's order.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn faults_by_era(&self, era: u64) -> Result<Vec<Sequence>> {
        let validators = number_and_digest(era, [0; 16])..=number_and_digest(era, [0xff; 16]);
        self.0.query(|snapshot| snapshot.firsts_in_log_order(&FAULTS_BY_ERA, validators))
    }

    /// The signatures of a block, one per validator, in the log's order.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`]; also what reading the log answers.
    pub fn signatures(&self, block_hash: &[u8; 32]) -> Result<Vec<Sequence>> {
        Ok(one_per_signer(&self.signature_postings(block_hash)?, |sequence| self.0.log().read_alone(sequence))?)
    }

    /// The same, if that takes no reading of the log's files.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn signatures_in_memory(&self, block_hash: &[u8; 32]) -> Result<Option<Vec<Sequence>>> {
        let read = |sequence| self.0.log().read_alone_cached(sequence).ok_or(());
        Ok(one_per_signer(&self.signature_postings(block_hash)?, read).ok())
    }

    fn signature_postings(&self, block_hash: &[u8; 32]) -> Result<Vec<Posting>> {
        let key = digest(hex::encode(block_hash));
        self.0.query(|snapshot| snapshot.list(&SIGNATURES, key))
    }

    /// The step of an era.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn step(&self, era: u64) -> Result<Option<Sequence>> {
        self.0.query(|snapshot| snapshot.first(&STEPS, &era.to_be_bytes()))
    }

    /// The transactions of an account, given by a public key with its algorithm tag or by the 32 bytes of its account hash:
    /// the first event of each (accepted or processed), newest first, at most `limit`, and only those before `before`.
    ///
    /// # Errors
    /// See [`CasperViews::latest_block`].
    pub fn transactions_by_initiator(
        &self,
        initiator: &[u8],
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Sequence>> {
        let account = <[u8; 32]>::try_from(initiator).ok().or_else(|| account_of_key(initiator));
        let (Some(account), Some(newest)) = (account, before.unwrap_or(Sequence::MAX).checked_sub(1)) else {
            return Ok(Vec::new());
        };
        self.0.query(|snapshot| snapshot.listed(&INITIATORS, digest(account), newest, limit))
    }
}

/// Heights from `height` on and below `before`, with their first blocks.
fn blocks(
    snapshot: &Snapshot,
    height: u64,
    before: Option<u64>,
) -> tables::Result<impl DoubleEndedIterator<Item = tables::Result<(u64, Sequence)>>> {
    let rows = if before.is_none_or(|before| height < before) {
        let end = before.map_or(Bound::Unbounded, |before| Bound::Excluded(before.to_be_bytes()));
        Some(snapshot.firsts(&BLOCKS_BY_HEIGHT, (Bound::Included(height.to_be_bytes()), end))?)
    } else {
        None
    };
    Ok(rows.into_iter().flatten().map(|row| row.map(|(key, first)| (u64::from_be_bytes(key), first))))
}

/// Leaves out later signatures of one key. Tags differ unless two keys share one by chance, or a key signed twice in two
/// forms: then the events decide.
fn one_per_signer<E>(
    postings: &[Posting],
    read: impl Fn(Sequence) -> std::result::Result<Read, E>,
) -> std::result::Result<Vec<Sequence>, E> {
    let mut tags = HashSet::with_capacity(postings.len());
    let shared_tags: HashSet<u64> =
        postings.iter().map(|posting| posting.tag).filter(|tag| !tags.insert(*tag)).collect();
    let mut signers = HashSet::new();
    let mut signatures = Vec::with_capacity(postings.len());
    for posting in postings {
        let is_first = !shared_tags.contains(&posting.tag)
            || signer(&read(posting.sequence)?).is_none_or(|signer| signers.insert(signer));
        if is_first {
            signatures.push(posting.sequence);
        }
    }
    Ok(signatures)
}

fn signer(read: &Read) -> Option<String> {
    let Read::Events { block, index } = read else { return None };
    let row = block.row(*index)?;
    match keys(row.kind(), std::str::from_utf8(&row.payload()).ok()?)? {
        Keys::Signature { public_key, .. } => Some(public_key.into_owned()),
        _ => None,
    }
}
