//! Blocks, their transfers and their eras.

use casper_binary_port::InformationRequestTag;
use casper_types::{
    BlockHash, BlockHeader, BlockIdentifier, Digest, EraId, GlobalStateIdentifier, JsonBlockWithSignatures, Key,
    StoredValue, TimeDiff, Timestamp, Transfer,
};
use serde::{Deserialize, Serialize};

use super::super::bridge::{Node, Reply, proof_text};
use super::super::failure::Failure;
use super::super::node_link::{Request, StateItem};

/// After this time nothing about a block changes any more: a node may still collect signatures of a new one.
const SETTLING_TIME: TimeDiff = TimeDiff::from_seconds(600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetBlockParams {
    block_identifier: BlockIdentifier,
}

pub(super) async fn get_block(node: &Node<'_>, params: Option<GetBlockParams>) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetBlockResult {
        block_with_signatures: JsonBlockWithSignatures,
    }

    let identifier = params.map(|params| params.block_identifier);
    let (block, signatures) = node.block_with_signatures(identifier).await?.into_inner();
    let lasts = is_named_by_hash(identifier) && block.timestamp().saturating_add(SETTLING_TIME) < Timestamp::now();
    let block_with_signatures = JsonBlockWithSignatures::new(block, Some(signatures));
    Ok(Reply::new(&GetBlockResult { block_with_signatures })?.lasting(lasts))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetBlockTransfersParams {
    block_identifier: BlockIdentifier,
}

pub(super) async fn get_block_transfers(
    node: &Node<'_>,
    params: Option<GetBlockTransfersParams>,
) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetBlockTransfersResult {
        block_hash: BlockHash,
        transfers: Option<Vec<Transfer>>,
    }

    let identifier = params.map(|params| params.block_identifier);
    let block_hash = node.block_header(identifier).await?.block_hash();
    let transfers = node.transfers(block_hash).await?;
    let lasts = is_named_by_hash(identifier) && transfers.is_some();
    Ok(Reply::new(&GetBlockTransfersResult { block_hash, transfers })?.lasting(lasts))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetStateRootHashParams {
    block_identifier: BlockIdentifier,
}

pub(super) async fn get_state_root_hash(
    node: &Node<'_>,
    params: Option<GetStateRootHashParams>,
) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetStateRootHashResult {
        state_root_hash: Digest,
    }

    let identifier = params.map(|params| params.block_identifier);
    let state_root_hash = *node.block_header(identifier).await?.state_root_hash();
    Ok(Reply::new(&GetStateRootHashResult { state_root_hash })?.lasting(is_named_by_hash(identifier)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetEraInfoParams {
    block_identifier: BlockIdentifier,
}

pub(super) async fn get_era_info_by_switch_block(
    node: &Node<'_>,
    params: Option<GetEraInfoParams>,
) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetEraInfoResult {
        era_summary: Option<EraSummary>,
    }

    let header = header_or_latest_switch_block(node, params.map(|params| params.block_identifier)).await?;
    let era_summary = match header.is_switch_block() {
        true => Some(era_summary(node, &header).await?),
        false => None,
    };
    Reply::new(&GetEraInfoResult { era_summary })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetEraSummaryParams {
    block_identifier: BlockIdentifier,
}

pub(super) async fn get_era_summary(node: &Node<'_>, params: Option<GetEraSummaryParams>) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetEraSummaryResult {
        era_summary: EraSummary,
    }

    let header = header_or_latest_switch_block(node, params.map(|params| params.block_identifier)).await?;
    Reply::new(&GetEraSummaryResult { era_summary: era_summary(node, &header).await? })
}

#[derive(Serialize)]
struct EraSummary {
    block_hash: BlockHash,
    era_id: EraId,
    stored_value: StoredValue,
    state_root_hash: Digest,
    merkle_proof: String,
}

async fn header_or_latest_switch_block(
    node: &Node<'_>,
    identifier: Option<BlockIdentifier>,
) -> Result<BlockHeader, Failure> {
    match identifier {
        Some(_) => node.block_header(identifier).await,
        None => {
            let request = Request::plain_information(InformationRequestTag::LatestSwitchBlockHeader);
            node.block("latest switch block header", request).await
        }
    }
}

/// Blocks of newer protocols have the summary under one key, older ones under a key for each era.
async fn era_summary(node: &Node<'_>, header: &BlockHeader) -> Result<EraSummary, Failure> {
    let state_root_hash = *header.state_root_hash();
    let at = Some(GlobalStateIdentifier::StateRootHash(state_root_hash));
    let era_id = header.era_id();
    let found = match node.state_item("era summary", at, &Key::EraSummary, &[]).await? {
        Some(found) => Some(found),
        None => node.state_item("era info", at, &Key::EraInfo(era_id), &[]).await?,
    };
    let StateItem { value, proofs } = found.ok_or_else(Failure::no_such_value)?;
    Ok(EraSummary {
        block_hash: header.block_hash(),
        era_id,
        stored_value: value,
        state_root_hash,
        merkle_proof: proof_text(&proofs)?,
    })
}

fn is_named_by_hash(identifier: Option<BlockIdentifier>) -> bool {
    matches!(identifier, Some(BlockIdentifier::Hash(_)))
}
