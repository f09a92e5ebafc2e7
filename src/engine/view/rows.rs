//! The tables: which keys a view is asked for, and how their rows grow and go.
//!
//! Owns the form of the tables in redb. Sorted postings flow in from a batch; rows flow out to queries. Hashes, public keys
//! and accounts are stood for by 16 bytes of BLAKE3 over them: two meet by chance or malice as rarely as two events'
//! identities do, and nobody can name another key that meets a given one. Numbers in keys are big-endian, so that rows lie
//! in their order.
//!
//! | table | key | tag |
//! |---|---|---|
//! | `blocks_by_hash` | hash | |
//! | `blocks_by_height` | height | |
//! | `transactions` | hash | stage, type, whether it names its initiator: see [`TransactionTag`] |
//! | `signatures` | block hash, first sequence | 21 bits that tell signers apart |
//! | `initiators` | account, first sequence | how far back the transaction's event before this one is; 0: this is the first |
//! | `faults_by_key` | public key, era | |
//! | `faults_by_era` | era, public key | |
//! | `steps` | era | |
//!
//! `signatures` and `initiators` may have any number of events under one hash or account, so they are cut into rows of
//! [`CHUNK_POSTINGS_MAX`]. Elsewhere a second event of one key is a rare duplicate, and those beyond
//! [`DUPLICATES_MAX`] are not kept: the first is the answer. A transaction's row keeps the first of each stage and type.

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use sidecar_log_format::Sequence;

use super::postings::{Malformed, Posting, Postings, unpack};
use crate::casper::keys::{Stage, TransactionType};

/// 16 bytes that stand for a hash, a public key or an account.
pub(super) type Digest = [u8; 16];
type Definition<const N: usize> = TableDefinition<'static, &'static [u8; N], &'static [u8]>;
type Table<'a, const N: usize> = redb::Table<'a, &'static [u8; N], &'static [u8]>;

pub(super) const BLOCKS_BY_HASH: Definition<16> = TableDefinition::new("blocks_by_hash");
pub(super) const BLOCKS_BY_HEIGHT: Definition<8> = TableDefinition::new("blocks_by_height");
pub(super) const TRANSACTIONS: Definition<16> = TableDefinition::new("transactions");
pub(super) const SIGNATURES: Definition<24> = TableDefinition::new("signatures");
pub(super) const INITIATORS: Definition<24> = TableDefinition::new("initiators");
pub(super) const FAULTS_BY_KEY: Definition<24> = TableDefinition::new("faults_by_key");
pub(super) const FAULTS_BY_ERA: Definition<24> = TableDefinition::new("faults_by_era");
pub(super) const STEPS: Definition<8> = TableDefinition::new("steps");

/// A hundred validators' signatures of a block are one row, well within a page.
const CHUNK_POSTINGS_MAX: usize = 200;
const DUPLICATES_MAX: usize = 64;

/// What went wrong with the tables, before it is known in which file.
#[derive(Debug)]
pub(super) enum RowError {
    Redb(Box<redb::Error>),
    Malformed,
}

impl<E: Into<redb::Error>> From<E> for RowError {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

impl From<Malformed> for RowError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

pub(super) type Result<T> = std::result::Result<T, RowError>;

/// The digest of the text, or bytes, of a key.
pub(super) fn digest(key: impl AsRef<[u8]>) -> Digest {
    let mut digest = [0; 16];
    blake3::Hasher::new().update(key.as_ref()).finalize_xof().fill(&mut digest);
    digest
}

/// A key of two parts: 16 bytes, then 8 of a number.
pub(super) fn digest_and_number(digest: Digest, number: u64) -> [u8; 24] {
    joined(&digest, &number.to_be_bytes())
}

/// A key of two parts: 8 bytes of a number, then 16.
pub(super) fn number_and_digest(number: u64, digest: Digest) -> [u8; 24] {
    joined(&number.to_be_bytes(), &digest)
}

fn joined(first: &[u8], second: &[u8]) -> [u8; 24] {
    let mut key = [0; 24];
    key.iter_mut().zip(first.iter().chain(second)).for_each(|(place, byte)| *place = *byte);
    key
}

/// The tag of a row in `transactions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransactionTag {
    pub(super) stage: Stage,
    pub(super) transaction_type: TransactionType,
    pub(super) names_initiator: bool,
}

impl TransactionTag {
    const STAGE: u64 = 0b0011;
    const VERSION1: u64 = 0b0100;
    const NAMES_INITIATOR: u64 = 0b1000;

    pub(super) fn packed(self) -> u64 {
        let stage = match self.stage {
            Stage::Accepted => 0,
            Stage::Processed => 1,
            Stage::Expired => 2,
        };
        let version1 = if self.transaction_type == TransactionType::Version1 { Self::VERSION1 } else { 0 };
        stage | version1 | if self.names_initiator { Self::NAMES_INITIATOR } else { 0 }
    }

    pub(super) fn unpacked(tag: u64) -> Result<Self> {
        let stage = match tag & Self::STAGE {
            0 => Stage::Accepted,
            1 => Stage::Processed,
            2 => Stage::Expired,
            _ => return Err(RowError::Malformed),
        };
        let is_version1 = tag & Self::VERSION1 != 0;
        Ok(Self {
            stage,
            transaction_type: if is_version1 { TransactionType::Version1 } else { TransactionType::Deploy },
            names_initiator: tag & Self::NAMES_INITIATOR != 0,
        })
    }
}

/// Makes every table that is not there yet.
pub(super) fn create(transaction: &WriteTransaction) -> Result<()> {
    for table in [BLOCKS_BY_HEIGHT, STEPS] {
        transaction.open_table(table)?;
    }
    for table in [BLOCKS_BY_HASH, TRANSACTIONS] {
        transaction.open_table(table)?;
    }
    for table in [SIGNATURES, INITIATORS, FAULTS_BY_KEY, FAULTS_BY_ERA] {
        transaction.open_table(table)?;
    }
    Ok(())
}

/// The postings of a key; none when it is not there.
pub(super) fn find<const N: usize>(
    transaction: &ReadTransaction,
    table: Definition<N>,
    key: &[u8; N],
) -> Result<Vec<Posting>> {
    let row = transaction.open_table(table)?.get(key)?;
    row.map_or(Ok(Vec::new()), |row| Ok(unpack(row.value())?))
}

/// Adds postings in the order of their keys and, within a key, of their sequences.
pub(super) fn append<const N: usize>(
    transaction: &WriteTransaction,
    table: Definition<N>,
    postings: &[([u8; N], Posting)],
) -> Result<()> {
    let mut table = transaction.open_table(table)?;
    for of_one_key in postings.chunk_by(|(one, _), (next, _)| one == next) {
        let Some((key, _)) = of_one_key.first() else { continue };
        let mut row = stored(&table, key)?.unwrap_or_default();
        let room = DUPLICATES_MAX.saturating_sub(row.len());
        of_one_key.iter().take(room).for_each(|(_, posting)| row.push(*posting));
        table.insert(key, row.packed())?;
    }
    Ok(())
}

/// The same for the tables whose rows are cut into chunks.
pub(super) fn append_to_chunks(
    transaction: &WriteTransaction,
    table: Definition<24>,
    postings: &[(Digest, Posting)],
) -> Result<()> {
    let mut table = transaction.open_table(table)?;
    for of_one_key in postings.chunk_by(|(one, _), (next, _)| one == next) {
        let Some((digest, first)) = of_one_key.first() else { continue };
        let (mut key, mut row) = newest_chunk(&table, *digest)?
            .unwrap_or_else(|| (digest_and_number(*digest, first.sequence), Postings::default()));
        for (_, posting) in of_one_key {
            if row.len() >= CHUNK_POSTINGS_MAX {
                table.insert(&key, row.packed())?;
                key = digest_and_number(*digest, posting.sequence);
                row = Postings::default();
            }
            row.push(*posting);
        }
        table.insert(&key, row.packed())?;
    }
    Ok(())
}

/// A transaction's event on its way into the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransactionEvent {
    pub(super) hash: Digest,
    pub(super) sequence: Sequence,
    pub(super) stage: Stage,
    pub(super) transaction_type: TransactionType,
    /// Digest of the account that it is from.
    pub(super) initiator: Option<Digest>,
}

/// Adds the events of transactions, sorted by hash and sequence; returns what they mean for `initiators`.
pub(super) fn append_transactions(
    transaction: &WriteTransaction,
    events: &[TransactionEvent],
) -> Result<Vec<(Digest, Posting)>> {
    let mut table = transaction.open_table(TRANSACTIONS)?;
    let mut of_initiators = Vec::with_capacity(events.len());
    for of_one_hash in events.chunk_by(|one, next| one.hash == next.hash) {
        let Some(TransactionEvent { hash, .. }) = of_one_hash.first() else { continue };
        let mut row = stored(&table, hash)?.unwrap_or_default();
        let mut known = Known::in_row(row.packed())?;
        for event in of_one_hash {
            let TransactionEvent { sequence, stage, transaction_type, .. } = *event;
            let tag = TransactionTag { stage, transaction_type, names_initiator: event.initiator.is_some() };
            if !known.note_form(tag) && row.len() >= DUPLICATES_MAX {
                continue;
            }
            row.push(Posting { sequence, tag: tag.packed() });
            if let Some(initiator) = event.initiator {
                let before = known.replace(transaction_type, sequence);
                of_initiators
                    .push((initiator, Posting { sequence, tag: before.map_or(0, |before| sequence - before) }));
            }
        }
        table.insert(hash, row.packed())?;
    }
    Ok(of_initiators)
}

/// What a row says of the transactions that have one hash.
#[derive(Default)]
struct Known {
    /// The newest event with an initiator, of either type.
    deploy: Option<Sequence>,
    version1: Option<Sequence>,
    /// The stages and types that are there.
    forms: Vec<(Stage, TransactionType)>,
}

impl Known {
    fn in_row(packed: &[u8]) -> Result<Self> {
        let mut known = Self::default();
        for posting in unpack(packed)? {
            let tag = TransactionTag::unpacked(posting.tag)?;
            known.note_form(tag);
            if tag.names_initiator {
                known.replace(tag.transaction_type, posting.sequence);
            }
        }
        Ok(known)
    }

    /// Says whether there was none of this stage and type before.
    fn note_form(&mut self, tag: TransactionTag) -> bool {
        let form = (tag.stage, tag.transaction_type);
        let is_new = !self.forms.contains(&form);
        if is_new {
            self.forms.push(form);
        }
        is_new
    }

    fn replace(&mut self, transaction_type: TransactionType, sequence: Sequence) -> Option<Sequence> {
        match transaction_type {
            TransactionType::Deploy => self.deploy.replace(sequence),
            TransactionType::Version1 => self.version1.replace(sequence),
        }
    }
}

fn stored<const N: usize>(table: &Table<'_, N>, key: &[u8; N]) -> Result<Option<Postings>> {
    Ok(table.get(key)?.map(|row| Postings::stored(row.value())).transpose()?)
}

fn newest_chunk(table: &Table<'_, 24>, digest: Digest) -> Result<Option<([u8; 24], Postings)>> {
    let (oldest, newest) = (digest_and_number(digest, 0), digest_and_number(digest, u64::MAX));
    let Some((key, row)) = table.range::<&[u8; 24]>(&oldest..=&newest)?.next_back().transpose()? else {
        return Ok(None);
    };
    Ok(Some((*key.value(), Postings::stored(row.value())?)))
}

/// Taking out the rows of events that the log has dropped, a few rows at a time.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    /// What is older goes.
    oldest: Sequence,
    /// How many tables are done.
    tables_done: usize,
    /// Where to go on in the table that is not; empty at its start.
    resume_at: Vec<u8>,
}

impl Sweep {
    pub(super) fn new(oldest: Sequence) -> Self {
        Self { oldest, tables_done: 0, resume_at: Vec::new() }
    }

    /// The oldest sequence that stays.
    pub(super) fn oldest(&self) -> Sequence {
        self.oldest
    }

    /// Looks at the next `rows` rows; says whether there are no more.
    pub(super) fn step(&mut self, transaction: &WriteTransaction, rows: usize) -> Result<bool> {
        let (oldest, from) = (self.oldest, std::mem::take(&mut self.resume_at));
        let resume_at = match self.tables_done {
            0 => sweep(transaction, BLOCKS_BY_HASH, &from, oldest, rows)?,
            1 => sweep(transaction, BLOCKS_BY_HEIGHT, &from, oldest, rows)?,
            2 => sweep(transaction, TRANSACTIONS, &from, oldest, rows)?,
            3 => sweep(transaction, SIGNATURES, &from, oldest, rows)?,
            4 => sweep(transaction, INITIATORS, &from, oldest, rows)?,
            5 => sweep(transaction, FAULTS_BY_KEY, &from, oldest, rows)?,
            6 => sweep(transaction, FAULTS_BY_ERA, &from, oldest, rows)?,
            7 => sweep(transaction, STEPS, &from, oldest, rows)?,
            _ => return Ok(true),
        };
        match resume_at {
            Some(key) => self.resume_at = key,
            None => self.tables_done += 1,
        }
        Ok(false)
    }
}

/// Sweeps `rows` rows of a table beginning with the key `from`; returns the next one, if there is one.
fn sweep<const N: usize>(
    transaction: &WriteTransaction,
    table: Definition<N>,
    from: &[u8],
    oldest: Sequence,
    rows: usize,
) -> Result<Option<Vec<u8>>> {
    let mut table = transaction.open_table(table)?;
    let from: [u8; N] = from.try_into().unwrap_or([0; N]);
    let mut changed = Vec::new();
    let mut resume_at = None;
    for (looked_at, row) in table.range::<&[u8; N]>(&from..)?.enumerate() {
        let (key, row) = row?;
        if looked_at == rows {
            resume_at = Some(key.value().to_vec());
            break;
        }
        let postings = unpack(row.value())?;
        if postings.iter().any(|posting| posting.sequence < oldest) {
            let retained: Postings = postings.into_iter().filter(|posting| posting.sequence >= oldest).collect();
            changed.push((*key.value(), retained));
        }
    }
    for (key, retained) in changed {
        match retained.len() {
            0 => drop(table.remove(&key)?),
            _ => drop(table.insert(&key, retained.packed())?),
        }
    }
    Ok(resume_at)
}
