//! What a method works with: the node, asked in the method's own words, and the form of a result.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casper_binary_port::InformationRequestTag;
use casper_types::bytesrepr::{self, ToBytes};
use casper_types::{
    AvailableBlockRange, BlockHash, BlockHeader, BlockIdentifier, BlockWithSignatures, GlobalStateIdentifier, Key,
    TransactionHash, Transfer,
};
use serde::Serialize;

use super::apart::LARGE_BYTES;
use super::failure::{Code, Failure};
use super::from_log::LogAnswers;
use super::node_link::{
    Answer, FoundTransaction, LinkError, LinkState, NodeLink, NodeValue, Proofs, Request, StateItem, Transfers,
};
use crate::engine::counters::microseconds;
use crate::engine::http::memory::SMALL_BYTES;

/// The start of every result.
const API_VERSION: &[u8] = b"{\"api_version\":\"2.0.0\"";

/// A result, in JSON.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) json: Vec<u8>,
    /// It is the same whenever it is asked for again.
    pub(super) lasts: bool,
}

impl Reply {
    /// The members of `result` after the version. There is at least one.
    pub(super) fn new(result: &impl Serialize) -> Result<Reply, Failure> {
        let mut json = API_VERSION.to_vec();
        serde_json::to_writer(&mut json, result)
            .map_err(|error| Failure::new(Code::Internal, format!("failed to encode the result: {error}")))?;
        if let Some(brace) = json.get_mut(API_VERSION.len()) {
            *brace = b',';
        }
        // A large one may be kept for long.
        if json.len() > SMALL_BYTES {
            json.shrink_to_fit();
        }
        Ok(Reply { json, lasts: false })
    }

    pub(super) fn lasting(self, lasts: bool) -> Reply {
        Reply { lasts, ..self }
    }
}

/// The node, for one call.
pub(super) struct Node<'a> {
    link: &'a NodeLink,
    /// What is answered from while the node is away, if that is wanted.
    log: Option<LogAnswers>,
    waited_microseconds: AtomicU64,
    has_used_log: AtomicBool,
    has_large_answer: AtomicBool,
}

impl<'a> Node<'a> {
    pub(super) fn new(link: &'a NodeLink, log: Option<LogAnswers>) -> Self {
        Node {
            link,
            log,
            waited_microseconds: AtomicU64::new(0),
            has_used_log: AtomicBool::new(false),
            has_large_answer: AtomicBool::new(false),
        }
    }

    /// Whether the node has sent something that takes long to decode.
    pub(super) fn has_large_answer(&self) -> bool {
        self.has_large_answer.load(Ordering::Relaxed)
    }

    /// Whether something was answered from the log.
    pub(super) fn has_used_log(&self) -> bool {
        self.has_used_log.load(Ordering::Relaxed)
    }

    /// How long this call has waited for the node.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_microseconds.load(Ordering::Relaxed))
    }

    async fn ask(&self, request: Result<Request, bytesrepr::Error>) -> Result<Result<Answer, LinkError>, Failure> {
        let request = request.map_err(Failure::bytesrepr)?;
        let begun = Instant::now();
        let answer = self.link.ask(&request).await;
        let microseconds = microseconds(begun.elapsed());
        self.waited_microseconds.fetch_add(microseconds, Ordering::Relaxed);
        if answer.as_ref().is_ok_and(|answer| answer.bytes() > LARGE_BYTES) {
            self.has_large_answer.store(true, Ordering::Relaxed);
            // The call is worked on apart from here on.
            tokio::task::yield_now().await;
        }
        Ok(answer)
    }

    /// The answer to a request for `what`.
    pub(super) async fn answer(
        &self,
        what: &str,
        request: Result<Request, bytesrepr::Error>,
    ) -> Result<Answer, Failure> {
        self.ask(request).await?.map_err(|error| Failure::node(what, &error))
    }

    /// The value that was asked for as `what`, if the node has it.
    pub(super) async fn value<T: NodeValue>(
        &self,
        what: &str,
        request: Result<Request, bytesrepr::Error>,
    ) -> Result<Option<T>, Failure> {
        self.answer(what, request).await?.value().map_err(|error| Failure::node(what, &error))
    }

    /// The same, where the node always has one.
    pub(super) async fn required<T: NodeValue>(
        &self,
        what: &str,
        request: Result<Request, bytesrepr::Error>,
    ) -> Result<T, Failure> {
        self.answer(what, request).await?.required().map_err(|error| Failure::node(what, &error))
    }

    /// Hands over a transaction.
    pub(super) async fn submit(
        &self,
        request: Result<Request, bytesrepr::Error>,
        refused: impl Fn(&LinkError) -> Failure,
    ) -> Result<(), Failure> {
        let answer = self.ask(request).await?;
        answer.and_then(|answer| answer.accepted()).map_err(|error| refused(&error))
    }

    /// The header of a block; of the newest one where none is named.
    pub(super) async fn block_header(&self, block: Option<BlockIdentifier>) -> Result<BlockHeader, Failure> {
        let from_node = self.block("block header", Request::block_header(block));
        self.node_or_log(from_node, |log| async move { log.header(block).await }).await
    }

    /// A block, with its signatures.
    pub(super) async fn block_with_signatures(
        &self,
        block: Option<BlockIdentifier>,
    ) -> Result<BlockWithSignatures, Failure> {
        let from_node = self.block("block with signatures", Request::block_with_signatures(block));
        self.node_or_log(from_node, |log| async move { log.block(block).await }).await
    }

    /// The transfers of a block, if it is known to have been executed.
    pub(super) async fn transfers(&self, block: BlockHash) -> Result<Option<Vec<Transfer>>, Failure> {
        let from_node = async {
            let found = self.value("block transfers", Request::transfers(&block)).await?;
            Ok(found.map(|Transfers(transfers)| transfers))
        };
        self.node_or_log(from_node, |log| async move { log.transfers(block).await.map(Some) }).await
    }

    /// A transaction, and how it was executed.
    pub(super) async fn transaction(
        &self,
        hash: TransactionHash,
        with_finalized_approvals: bool,
    ) -> Result<Option<FoundTransaction>, Failure> {
        let from_node = self.value("transaction", Request::transaction(&hash, with_finalized_approvals));
        self.node_or_log(from_node, |log| async move { log.transaction(hash).await.map(Some) }).await
    }

    /// What the node answers. While it is away, and where it goes away meanwhile, what the log has, if that is wanted.
    async fn node_or_log<T, Reading: Future<Output = Option<T>>>(
        &self,
        from_node: impl Future<Output = Result<T, Failure>>,
        from_log: impl Fn(LogAnswers) -> Reading,
    ) -> Result<T, Failure> {
        if let Some(found) = self.look_up_in_log(&from_log).await {
            return Ok(found);
        }
        match from_node.await {
            Ok(found) => Ok(found),
            Err(failure) => self.look_up_in_log(&from_log).await.ok_or(failure),
        }
    }

    /// What the log has, if it is wanted: while the node is away.
    async fn look_up_in_log<T, Reading: Future<Output = Option<T>>>(
        &self,
        read: &impl Fn(LogAnswers) -> Reading,
    ) -> Option<T> {
        let log = self.log.as_ref().filter(|_| self.link.state() != LinkState::Connected)?;
        let found = read(log.clone()).await?;
        self.has_used_log.store(true, Ordering::Relaxed);
        Some(found)
    }

    /// What is known of a block. Where it is not found, the failure says which blocks are.
    pub(super) async fn block<T: NodeValue>(
        &self,
        what: &str,
        request: Result<Request, bytesrepr::Error>,
    ) -> Result<T, Failure> {
        match self.value(what, request).await? {
            Some(found) => Ok(found),
            None => {
                let request = Request::plain_information(InformationRequestTag::AvailableBlockRange);
                let range = self.required::<AvailableBlockRange>("available block range", request).await?;
                Err(Failure::no_such_block(range))
            }
        }
    }

    /// An item of the global state.
    pub(super) async fn state_item(
        &self,
        what: &str,
        at: Option<GlobalStateIdentifier>,
        key: &Key,
        path: &[String],
    ) -> Result<Option<StateItem>, Failure> {
        self.value(what, Request::state_item(at, key, path)).await
    }
}

/// The state after a block.
pub(super) fn state_after(block: BlockIdentifier) -> GlobalStateIdentifier {
    match block {
        BlockIdentifier::Hash(hash) => GlobalStateIdentifier::BlockHash(hash),
        BlockIdentifier::Height(height) => GlobalStateIdentifier::BlockHeight(height),
    }
}

/// Proofs, as results have them.
pub(super) fn proof_text(proofs: &Proofs) -> Result<String, Failure> {
    Ok(hex::encode(proofs.to_bytes().map_err(Failure::bytesrepr)?))
}
