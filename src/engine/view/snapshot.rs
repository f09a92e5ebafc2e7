//! Snapshots: the tables at one moment, for look-ups.
//!
//! A key flows in; sequences of retained events flow out. A snapshot sees whole batches only. What retention has dropped is
//! in no answer, even while rows still name it.

use std::ops::{RangeBounds, RangeInclusive};

use redb::{ReadTransaction, ReadableDatabase};
use sidecar_log_format::Sequence;

use super::keys::{Digest, digest_and_number};
use super::posting::{Posting, unpack};
use super::tables::{Lists, Result, Rows};

/// The tables at one moment, and from where on they count.
pub(crate) struct Snapshot {
    transaction: ReadTransaction,
    /// Rows may still name older events.
    oldest: Sequence,
}

impl Snapshot {
    pub(super) fn new(database: &redb::Database, oldest: Sequence) -> Result<Self> {
        Ok(Self { transaction: database.begin_read()?, oldest })
    }

    /// The events of a key.
    pub(crate) fn find<const N: usize>(&self, table: &Rows<N>, key: &[u8; N]) -> Result<Vec<Posting>> {
        let row = self.transaction.open_table(table.definition)?.get(key)?;
        row.map_or(Ok(Vec::new()), |row| self.retained(row.value()))
    }

    /// The first event of a key.
    pub(crate) fn first<const N: usize>(&self, table: &Rows<N>, key: &[u8; N]) -> Result<Option<Sequence>> {
        Ok(first_of(&self.find(table, key)?))
    }

    /// Keys with their first events, in the keys' order.
    pub(crate) fn firsts<const N: usize>(
        &self,
        table: &Rows<N>,
        keys: impl RangeBounds<[u8; N]>,
    ) -> Result<impl DoubleEndedIterator<Item = Result<([u8; N], Sequence)>>> {
        let keys = (keys.start_bound(), keys.end_bound());
        let rows = self.transaction.open_table(table.definition)?.range::<&[u8; N]>(keys)?;
        Ok(rows.filter_map(|row| {
            let first_of_row = || -> Result<_> {
                let (key, row) = row?;
                Ok(first_of(&self.retained(row.value())?).map(|first| (*key.value(), first)))
            };
            first_of_row().transpose()
        }))
    }

    /// The first event of every key of a range, in the log's order.
    pub(crate) fn firsts_in_log_order<const N: usize>(
        &self,
        table: &Rows<N>,
        keys: RangeInclusive<[u8; N]>,
    ) -> Result<Vec<Sequence>> {
        let firsts = self.firsts(table, keys)?.map(|row| Ok(row?.1));
        let mut firsts = firsts.collect::<Result<Vec<_>>>()?;
        firsts.sort_unstable();
        Ok(firsts)
    }

    /// All events of a list, in the log's order.
    pub(crate) fn list(&self, lists: &Lists, key: Digest) -> Result<Vec<Posting>> {
        let mut postings = Vec::new();
        let (first, last) = (digest_and_number(key, 0), digest_and_number(key, u64::MAX));
        for chunk in self.transaction.open_table(lists.definition)?.range::<&[u8; 24]>(&first..=&last)? {
            postings.extend(self.retained(chunk?.1.value())?);
        }
        Ok(postings)
    }

    /// What is listed under a key (see [`Rows::listed_in`]), each by its first event, the newest first: at most `limit`, and
    /// none after `newest`.
    pub(crate) fn listed(&self, lists: &Lists, key: Digest, newest: Sequence, limit: usize) -> Result<Vec<Sequence>> {
        let mut found = Vec::new();
        let (first, last) = (digest_and_number(key, 0), digest_and_number(key, newest));
        let table = self.transaction.open_table(lists.definition)?;
        for chunk in table.range::<&[u8; 24]>(&first..=&last)?.rev() {
            let postings = self.retained(chunk?.1.value())?;
            // What is before was dropped, too.
            if postings.is_empty() {
                break;
            }
            for posting in postings.into_iter().rev() {
                if found.len() >= limit {
                    return Ok(found);
                }
                let an_earlier_is_listed =
                    posting.tag > 0 && posting.sequence.saturating_sub(posting.tag) >= self.oldest;
                if posting.sequence <= newest && !an_earlier_is_listed {
                    found.push(posting.sequence);
                }
            }
        }
        Ok(found)
    }

    fn retained(&self, row: &[u8]) -> Result<Vec<Posting>> {
        let mut postings = unpack(row)?;
        postings.retain(|posting| posting.sequence >= self.oldest);
        Ok(postings)
    }
}

fn first_of(postings: &[Posting]) -> Option<Sequence> {
    postings.first().map(|posting| posting.sequence)
}
