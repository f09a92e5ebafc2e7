//! Answers from the log, for when the node is away.
//!
//! The views say which events are about a block or a transaction, the log has their payloads, and here they become what the
//! node would have sent. What is not in the log, such as the global state, is not answered.

use std::sync::Arc;

use casper_types::execution::execution_result_v1::TransformKindV1;
use casper_types::execution::{ExecutionResult, ExecutionResultV1};
use casper_types::{
    Block, BlockHash, BlockHeader, BlockIdentifier, BlockSignatures, BlockSignaturesV1, BlockSignaturesV2,
    BlockWithSignatures, ChainNameDigest, ExecutionInfo, FinalitySignature, Transaction, TransactionHash, Transfer,
};
use serde::Deserialize;
use sidecar_log_format::{Log, Read};
use tokio::sync::Semaphore;

use super::node_link::{FoundTransaction, NodeValue as _};
use crate::casper::keys::{Stage, TransactionType};
use crate::casper::view::CasperViews;

/// Look-ups that read the log at a time.
const READERS_MAX: usize = 2;

/// The events that answers are made of.
#[derive(Deserialize)]
pub(crate) enum Event {
    BlockAdded { block: Block },
    FinalitySignature(FinalitySignature),
    TransactionAccepted(Transaction),
    TransactionProcessed { transaction_hash: TransactionHash, block_hash: BlockHash, execution_result: ExecutionResult },
}

/// A log and its views.
#[derive(Clone)]
pub struct LogAnswers {
    log: Log,
    views: CasperViews,
    readers: Arc<Semaphore>,
}

impl LogAnswers {
    /// Answers from this log.
    #[must_use]
    pub fn new(log: Log, views: CasperViews) -> Self {
        LogAnswers { log, views, readers: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    /// The header of a block.
    pub(super) async fn header(&self, identifier: Option<BlockIdentifier>) -> Option<BlockHeader> {
        self.read(move |answers| Some(answers.block_event(identifier)?.clone_header())).await
    }

    /// A block, with the signatures of it that the log holds.
    pub(super) async fn block(&self, identifier: Option<BlockIdentifier>) -> Option<BlockWithSignatures> {
        self.read(move |answers| {
            let block = answers.block_event(identifier)?;
            let signatures = answers.signatures(&block);
            Some(BlockWithSignatures::new(block, signatures))
        })
        .await
    }

    /// The transfers of a block, in the order of its transactions. A node has them in no order.
    pub(super) async fn transfers(&self, block: BlockHash) -> Option<Vec<Transfer>> {
        self.read(move |answers| {
            let block = answers.block_event(Some(BlockIdentifier::Hash(block)))?;
            let results = block.all_transaction_hashes().map(|hash| answers.execution(hash));
            let transfers = results.map(|executed| Some(successful_transfers(executed?.1)));
            Some(transfers.collect::<Option<Vec<_>>>()?.concat())
        })
        .await
    }

    /// A transaction that was accepted, and how it was executed if it was.
    pub(super) async fn transaction(&self, hash: TransactionHash) -> Option<FoundTransaction> {
        self.read(move |answers| {
            let Event::TransactionAccepted(transaction) = answers.transaction_event(Stage::Accepted, hash)? else {
                return None;
            };
            let execution_info = answers.execution_info(hash);
            Some(FoundTransaction { transaction, execution_info }).filter(|found| found.check_size().is_ok())
        })
        .await
    }

    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&LogAnswers) -> Option<T> + Send + 'static) -> Option<T> {
        let permit = Arc::clone(&self.readers).acquire_owned().await.ok()?;
        let answers = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&answers)
        });
        reading.await.ok()?
    }

    fn block_event(&self, identifier: Option<BlockIdentifier>) -> Option<Block> {
        let found = match identifier {
            Some(BlockIdentifier::Hash(hash)) => self.views.block_by_hash(&hash.inner().value()),
            Some(BlockIdentifier::Height(height)) => self.views.block_by_height(height),
            None => self.views.latest_block(),
        };
        match event(self.log.read_alone(found.ok()??))? {
            Event::BlockAdded { block } => Some(block),
            _ => None,
        }
    }

    fn signatures(&self, block: &Block) -> BlockSignatures {
        let (hash, height, era) = (*block.hash(), block.height(), block.era_id());
        let sequences = self.views.signatures(&hash.inner().value()).unwrap_or_default();
        // They are neighbours in the log: what is read for one has the others.
        let events = || sequences.iter().filter_map(|sequence| event(self.log.read(*sequence)));
        if let Block::V1(_) = block {
            let mut signatures = BlockSignaturesV1::new(hash, era);
            for event in events() {
                if let Event::FinalitySignature(FinalitySignature::V1(signature)) = event {
                    signatures.insert_signature(signature.public_key().clone(), *signature.signature());
                }
            }
            return BlockSignatures::V1(signatures);
        }
        // The network is in each signature, and in no result.
        let mut signatures = BlockSignaturesV2::new(hash, height, era, ChainNameDigest::from_chain_name(""));
        for event in events() {
            if let Event::FinalitySignature(FinalitySignature::V2(signature)) = event {
                signatures.insert_signature(signature.public_key().clone(), *signature.signature());
            }
        }
        BlockSignatures::V2(signatures)
    }

    /// How a transaction was executed, and in which block.
    fn execution(&self, hash: TransactionHash) -> Option<(BlockHash, ExecutionResult)> {
        match self.transaction_event(Stage::Processed, hash)? {
            Event::TransactionProcessed { block_hash, execution_result, .. } => Some((block_hash, execution_result)),
            _ => None,
        }
    }

    fn execution_info(&self, hash: TransactionHash) -> Option<ExecutionInfo> {
        let (block_hash, execution_result) = self.execution(hash)?;
        let block = self.block_event(Some(BlockIdentifier::Hash(block_hash)))?;
        let execution_result = Some(execution_result);
        Some(ExecutionInfo { block_hash, block_height: block.height(), execution_result })
    }

    fn transaction_event(&self, stage: Stage, hash: TransactionHash) -> Option<Event> {
        let (form, hash) = match hash {
            TransactionHash::Deploy(hash) => (TransactionType::Deploy, hash.inner().value()),
            TransactionHash::V1(hash) => (TransactionType::Version1, hash.inner().value()),
        };
        event(self.log.read_alone(self.views.transaction(stage, form, &hash).ok()??))
    }
}

/// The transfers that a node keeps: those of executions without an error.
fn successful_transfers(result: ExecutionResult) -> Vec<Transfer> {
    match result {
        ExecutionResult::V1(ExecutionResultV1::Success { effect, .. }) => {
            let written = effect.transforms.into_iter().filter_map(|entry| match entry.transform {
                TransformKindV1::WriteTransfer(transfer) => Some(Transfer::V1(transfer)),
                _ => None,
            });
            written.collect()
        }
        ExecutionResult::V2(result) if result.error_message.is_none() => result.transfers,
        ExecutionResult::V1(ExecutionResultV1::Failure { .. }) | ExecutionResult::V2(_) => Vec::new(),
    }
}

fn event(read: sidecar_log_format::Result<Read>) -> Option<Event> {
    let Ok(Read::Events { block, index }) = read else { return None };
    let row = block.row(index)?;
    serde_json::from_slice(&row.payload()).ok()
}
