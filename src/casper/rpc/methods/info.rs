//! What the node says of itself.

use casper_binary_port::InformationRequestTag;
use casper_types::{ChainspecRawBytes, EraId, Peers, PublicKey, ValidatorChange};
use serde::{Deserialize, Serialize};

use super::super::bridge::{Node, Reply};
use super::super::failure::{Code, Failure};
use super::super::node_link::{EraIdentifier, NodeStatus, Request, Reward, ValidatorChanges};

pub(super) async fn get_peers(node: &Node<'_>) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetPeersResult {
        peers: Peers,
    }

    let request = Request::plain_information(InformationRequestTag::Peers);
    Reply::new(&GetPeersResult { peers: node.required("peers", request).await? })
}

pub(super) async fn get_status(node: &Node<'_>) -> Result<Reply, Failure> {
    let request = Request::plain_information(InformationRequestTag::NodeStatus);
    Reply::new(&node.required::<NodeStatus>("node status", request).await?)
}

pub(super) async fn get_validator_changes(node: &Node<'_>) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct StatusChange {
        era_id: EraId,
        validator_change: ValidatorChange,
    }

    #[derive(Serialize)]
    struct Changes {
        public_key: PublicKey,
        status_changes: Vec<StatusChange>,
    }

    #[derive(Serialize)]
    struct GetValidatorChangesResult {
        changes: Vec<Changes>,
    }

    let request = Request::plain_information(InformationRequestTag::ConsensusValidatorChanges);
    let found: ValidatorChanges = node.required("validator changes", request).await?;
    let changes = found.by_validator.into_iter().map(|(public_key, mut changes)| {
        changes.sort();
        let change = |(era_id, validator_change)| StatusChange { era_id, validator_change };
        Changes { public_key, status_changes: changes.into_iter().map(change).collect() }
    });
    Reply::new(&GetValidatorChangesResult { changes: changes.collect() })
}

pub(super) async fn get_chainspec(node: &Node<'_>) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetChainspecResult {
        chainspec_bytes: ChainspecRawBytes,
    }

    let request = Request::plain_information(InformationRequestTag::ChainspecRawBytes);
    Reply::new(&GetChainspecResult { chainspec_bytes: node.required("chainspec bytes", request).await? })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetRewardParams {
    era_identifier: Option<EraIdentifier>,
    validator: PublicKey,
    delegator: Option<PublicKey>,
}

pub(super) async fn get_reward(node: &Node<'_>, params: GetRewardParams) -> Result<Reply, Failure> {
    let request = Request::reward(params.era_identifier, &params.validator, params.delegator.as_ref());
    let found: Option<Reward> = node.value("rewards", request).await?;
    let reward = found.ok_or_else(|| Failure::new(Code::NoRewards, "the requested reward was not found"))?;
    Reply::new(&reward)
}
