//! Added blocks. 2.x moved the proposer into the header, and sorts transactions into lanes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    era_end::{self, EraEnd},
    text::Text,
    transaction::TransactionHash,
};

/// The lane of native transfers.
const TRANSFERS: u64 = 0;

#[derive(Deserialize)]
pub(super) struct BlockAdded<'a> {
    #[serde(borrow)]
    block_hash: Text<'a>,
    block: VersionedBlock<'a>,
}

#[derive(Deserialize)]
enum VersionedBlock<'a> {
    #[serde(borrow)]
    Version1(OldBlock<'a>),
    Version2(Box<NewBlock<'a>>),
}

/// A block of 1.x. It only loses its wrapper.
#[derive(Deserialize, Serialize)]
struct OldBlock<'a> {
    #[serde(borrow)]
    hash: Text<'a>,
    header: &'a RawValue,
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct NewBlock<'a> {
    #[serde(borrow)]
    hash: Text<'a>,
    header: Header<'a>,
    body: NewBody<'a>,
}

/// A header of 2.x as it is read, of 1.x as it is written.
#[derive(Deserialize, Serialize)]
struct Header<'a> {
    #[serde(borrow)]
    parent_hash: Text<'a>,
    state_root_hash: Text<'a>,
    body_hash: Text<'a>,
    random_bit: bool,
    accumulated_seed: Text<'a>,
    #[serde(borrow, default, deserialize_with = "era_end::translated")]
    era_end: Option<EraEnd<'a>>,
    timestamp: Text<'a>,
    era_id: u64,
    height: u64,
    protocol_version: Text<'a>,
    #[serde(skip_serializing)]
    proposer: Text<'a>,
}

#[derive(Deserialize)]
struct NewBody<'a> {
    /// By the number of their lane.
    #[serde(borrow)]
    transactions: BTreeMap<u64, Vec<TransactionHash<'a>>>,
}

#[derive(Serialize)]
struct Body<'a> {
    proposer: Text<'a>,
    deploy_hashes: Vec<Text<'a>>,
    transfer_hashes: Vec<Text<'a>>,
}

#[derive(Serialize)]
pub(super) struct AddedBlock<'a> {
    block_hash: Text<'a>,
    block: Block<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Block<'a> {
    Old(OldBlock<'a>),
    Translated { hash: Text<'a>, header: Box<Header<'a>>, body: Body<'a> },
}

impl<'a> BlockAdded<'a> {
    pub(super) fn translated(self) -> AddedBlock<'a> {
        let block = match self.block {
            VersionedBlock::Version1(block) => Block::Old(block),
            VersionedBlock::Version2(block) => block.translated(),
        };
        AddedBlock { block_hash: self.block_hash, block }
    }
}

impl<'a> NewBlock<'a> {
    fn translated(self) -> Block<'a> {
        let NewBlock { hash, header, body: NewBody { mut transactions } } = self;
        let deploys = |lane: Vec<TransactionHash<'a>>| lane.into_iter().filter_map(|hash| hash.deploy);
        let transfers = transactions.remove(&TRANSFERS).unwrap_or_default();
        let body = Body {
            proposer: header.proposer.clone(),
            deploy_hashes: transactions.into_values().flat_map(deploys).collect(),
            transfer_hashes: deploys(transfers).collect(),
        };
        Block::Translated { hash, header: Box::new(header), body }
    }
}
