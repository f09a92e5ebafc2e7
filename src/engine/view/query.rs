//! Queries: the answers of the views.
//!
//! A key flows in; sequences of retained events flow out. Each query is one read transaction, and sees whole batches only.
//! Events are read for one question alone: whether two signers that share a tag are one.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::PoisonError;

use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use sidecar_log_format::{Read, Sequence};

use super::postings::{Posting, unpack};
use super::rows::{
    self, BLOCKS_BY_HASH, BLOCKS_BY_HEIGHT, FAULTS_BY_ERA, FAULTS_BY_KEY, INITIATORS, SIGNATURES, STEPS, TRANSACTIONS,
    TransactionTag, digest, digest_and_number, number_and_digest,
};
use super::{Result, ViewError, Views, store};
use crate::casper::keys::{Keys, Stage, TransactionType, account_of_key, keys};

impl Views {
    /// The block of the greatest height.
    ///
    /// # Errors
    /// As every query: [`ViewError::Closed`] for a moment around a failure of the file, or what redb answers.
    pub fn latest_block(&self) -> Result<Option<Sequence>> {
        self.query(|snapshot| {
            for row in snapshot.transaction.open_table(BLOCKS_BY_HEIGHT)?.iter()?.rev() {
                let (_, postings) = row?;
                if let Some(first) = snapshot.first(unpack(postings.value())?) {
                    return Ok(Some(first));
                }
            }
            Ok(None)
        })
    }

    /// The first block of this hash, whichever block of its height it was.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn block_by_hash(&self, hash: &[u8; 32]) -> Result<Option<Sequence>> {
        let key = digest(hex::encode(hash));
        self.query(|snapshot| Ok(snapshot.first(snapshot.find(BLOCKS_BY_HASH, &key)?)))
    }

    /// The first block of this height.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn block_by_height(&self, height: u64) -> Result<Option<Sequence>> {
        self.query(|snapshot| Ok(snapshot.first(snapshot.find(BLOCKS_BY_HEIGHT, &height.to_be_bytes())?)))
    }

    /// Heights and blocks from `height` on and below `before`, upwards, at most `limit`.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn blocks_up(&self, height: u64, before: Option<u64>, limit: usize) -> Result<Vec<(u64, Sequence)>> {
        self.query(|snapshot| snapshot.blocks(height, before, |rows| Box::new(rows), limit))
    }

    /// The same, downwards from the greatest height.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn blocks_down(&self, height: u64, before: Option<u64>, limit: usize) -> Result<Vec<(u64, Sequence)>> {
        self.query(|snapshot| snapshot.blocks(height, before, |rows| Box::new(rows.rev()), limit))
    }

    /// The first event of this stage of a transaction.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn transaction(
        &self,
        stage: Stage,
        transaction_type: TransactionType,
        hash: &[u8; 32],
    ) -> Result<Option<Sequence>> {
        let key = digest(hex::encode(hash));
        self.query(|snapshot| {
            for posting in snapshot.find(TRANSACTIONS, &key)? {
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
    /// See [`Views::latest_block`].
    pub fn faults_by_key(&self, public_key: &[u8]) -> Result<Vec<Sequence>> {
        let key = digest(hex::encode(public_key));
        self.query(|snapshot| {
            snapshot.firsts(FAULTS_BY_KEY, digest_and_number(key, 0), digest_and_number(key, u64::MAX))
        })
    }

    /// The faults of an era, one per validator, in the log's order.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn faults_by_era(&self, era: u64) -> Result<Vec<Sequence>> {
        self.query(|snapshot| {
            snapshot.firsts(FAULTS_BY_ERA, number_and_digest(era, [0; 16]), number_and_digest(era, [0xff; 16]))
        })
    }

    /// The signatures of a block, one per validator, in the log's order.
    ///
    /// # Errors
    /// See [`Views::latest_block`]; also what reading the log answers.
    pub fn signatures(&self, block_hash: &[u8; 32]) -> Result<Vec<Sequence>> {
        Ok(one_per_signer(&self.signature_postings(block_hash)?, |sequence| self.shared.log.read(sequence))?)
    }

    /// The same, if that takes no reading of the log's files.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn signatures_in_memory(&self, block_hash: &[u8; 32]) -> Result<Option<Vec<Sequence>>> {
        let read = |sequence| self.shared.log.read_cached(sequence).ok_or(());
        Ok(one_per_signer(&self.signature_postings(block_hash)?, read).ok())
    }

    fn signature_postings(&self, block_hash: &[u8; 32]) -> Result<Vec<Posting>> {
        let key = digest(hex::encode(block_hash));
        self.query(|snapshot| {
            let mut postings = Vec::new();
            let table = snapshot.transaction.open_table(SIGNATURES)?;
            let (first, last) = (digest_and_number(key, 0), digest_and_number(key, u64::MAX));
            for chunk in table.range::<&[u8; 24]>(&first..=&last)? {
                postings.extend(snapshot.retained(unpack(chunk?.1.value())?));
            }
            Ok(postings)
        })
    }

    /// The step of an era.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
    pub fn step(&self, era: u64) -> Result<Option<Sequence>> {
        self.query(|snapshot| Ok(snapshot.first(snapshot.find(STEPS, &era.to_be_bytes())?)))
    }

    /// The transactions of an account, given by a public key with its algorithm tag or by the 32 bytes of its account hash:
    /// the first event of each (accepted or processed), newest first, at most `limit`, and only those before `before`.
    ///
    /// # Errors
    /// See [`Views::latest_block`].
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
        let key = digest(account);
        self.query(|snapshot| {
            let mut found = Vec::new();
            let table = snapshot.transaction.open_table(INITIATORS)?;
            let (first, last) = (digest_and_number(key, 0), digest_and_number(key, newest));
            for chunk in table.range::<&[u8; 24]>(&first..=&last)?.rev() {
                let (_, postings) = chunk?;
                let mut postings = snapshot.retained(unpack(postings.value())?).rev().peekable();
                // What lies before was dropped too.
                if postings.peek().is_none() {
                    break;
                }
                for posting in postings {
                    if found.len() >= limit {
                        return Ok(found);
                    }
                    let an_earlier_is_listed = posting.tag > 0 && posting.sequence - posting.tag >= snapshot.oldest;
                    if posting.sequence <= newest && !an_earlier_is_listed {
                        found.push(posting.sequence);
                    }
                }
            }
            Ok(found)
        })
    }

    fn query<T>(&self, look: impl FnOnce(&Snapshot) -> rows::Result<T>) -> Result<T> {
        let shared = &self.shared;
        let database = match &*shared.database.read().unwrap_or_else(PoisonError::into_inner) {
            Ok(database) => Arc::clone(database),
            Err(reason) => {
                return Err(ViewError::Closed { path: shared.path.clone(), reason: reason.clone() });
            }
        };
        let oldest = shared.log.oldest();
        let answer = database.run(|database| look(&Snapshot::new(database, oldest)?));
        // The follower looks for damage now and then.
        answer.map_err(|error| store::of(&shared.path, &database, error))
    }
}

type HeightRows = redb::Range<'static, &'static [u8; 8], &'static [u8]>;
type HeightRow = <HeightRows as Iterator>::Item;

/// The tables at one moment, and from where on they count.
struct Snapshot {
    transaction: ReadTransaction,
    /// Rows may still name older events.
    oldest: Sequence,
}

impl Snapshot {
    fn new(database: &redb::Database, oldest: Sequence) -> rows::Result<Self> {
        Ok(Self { transaction: database.begin_read()?, oldest })
    }

    /// The retained events of a key.
    fn find<const N: usize>(
        &self,
        table: TableDefinition<'static, &'static [u8; N], &'static [u8]>,
        key: &[u8; N],
    ) -> rows::Result<Vec<Posting>> {
        let mut postings = rows::find(&self.transaction, table, key)?;
        postings.retain(|posting| posting.sequence >= self.oldest);
        Ok(postings)
    }

    /// Heights from `height` on and below `before`, with their first blocks, in the order in which `in_order` has the rows.
    fn blocks(
        &self,
        height: u64,
        before: Option<u64>,
        in_order: impl Fn(HeightRows) -> Box<dyn Iterator<Item = HeightRow>>,
        limit: usize,
    ) -> rows::Result<Vec<(u64, Sequence)>> {
        let mut blocks = Vec::new();
        if before.is_some_and(|before| before <= height) {
            return Ok(blocks);
        }
        let (first, end) = (height.to_be_bytes(), before.map(u64::to_be_bytes));
        let end = end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.transaction.open_table(BLOCKS_BY_HEIGHT)?;
        for row in in_order(table.range::<&[u8; 8]>((Bound::Included(&first), end))?) {
            if blocks.len() >= limit {
                break;
            }
            let (key, postings) = row?;
            let height = u64::from_be_bytes(*key.value());
            blocks.extend(self.first(unpack(postings.value())?).map(|first| (height, first)));
        }
        Ok(blocks)
    }

    fn retained(&self, postings: Vec<Posting>) -> impl DoubleEndedIterator<Item = Posting> + use<> {
        let oldest = self.oldest;
        postings.into_iter().filter(move |posting| posting.sequence >= oldest)
    }

    fn first(&self, postings: Vec<Posting>) -> Option<Sequence> {
        self.retained(postings).next().map(|posting| posting.sequence)
    }

    /// The first retained event of every row from key to key, in the log's order.
    fn firsts(
        &self,
        table: TableDefinition<'static, &'static [u8; 24], &'static [u8]>,
        from: [u8; 24],
        to: [u8; 24],
    ) -> rows::Result<Vec<Sequence>> {
        let mut firsts = Vec::new();
        for row in self.transaction.open_table(table)?.range::<&[u8; 24]>(&from..=&to)? {
            firsts.extend(self.first(unpack(row?.1.value())?));
        }
        firsts.sort_unstable();
        Ok(firsts)
    }
}

/// Leaves out later signatures of one key. Tags differ unless two keys share one by chance, or a key signed twice in two
/// forms: then the events tell.
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
