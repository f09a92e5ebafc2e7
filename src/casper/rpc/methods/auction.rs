//! The auction: bids, and the validators of the coming eras.

use std::collections::BTreeMap;

use casper_types::bytesrepr::FromBytes;
use casper_types::system::AUCTION;
use casper_types::system::auction::{
    BidKind, EraValidators, SEIGNIORAGE_RECIPIENTS_SNAPSHOT_KEY, SeigniorageRecipientsSnapshotV1,
    SeigniorageRecipientsSnapshotV2,
};
use casper_types::{
    BlockHeader, BlockIdentifier, CLTyped, Digest, EntityAddr, EraId, GlobalStateIdentifier, HashAddr, Key, KeyTag,
    PublicKey, StoredValue, U512,
};
use serde::{Deserialize, Serialize};

use super::super::bridge::{Node, Reply, state_after};
use super::super::failure::{Code, Failure};
use super::super::node_link::{Request, StateItem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetAuctionInfoParams {
    block_identifier: BlockIdentifier,
}

/// The auction in the shape of protocol 1, into which the bids of later protocols are folded.
#[expect(deprecated, reason = "the shape is old and this method still answers in it")]
pub(super) async fn get_auction_info(node: &Node<'_>, params: Option<GetAuctionInfoParams>) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetAuctionInfoResult {
        auction_state: casper_types::AuctionState,
    }

    // The reference asks for the registry at the tip.
    let Auction { header, bids, validators } = auction(node, params, |_| None).await?;
    let (root, height) = (*header.state_root_hash(), header.height());
    let auction_state = casper_types::AuctionState::new(root, height, validators, bids);
    Reply::new(&GetAuctionInfoResult { auction_state })
}

/// The auction with every bid as it is.
pub(super) async fn get_auction_info_v2(
    node: &Node<'_>,
    params: Option<GetAuctionInfoParams>,
) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct Weight {
        public_key: PublicKey,
        weight: U512,
    }

    #[derive(Serialize)]
    struct EraWeights {
        era_id: EraId,
        validator_weights: Vec<Weight>,
    }

    #[derive(Serialize)]
    struct BidOfKey {
        public_key: PublicKey,
        bid: BidKind,
    }

    #[derive(Serialize)]
    struct AuctionState {
        state_root_hash: Digest,
        block_height: u64,
        era_validators: Vec<EraWeights>,
        bids: Vec<BidOfKey>,
    }

    #[derive(Serialize)]
    struct GetAuctionInfoResult {
        auction_state: AuctionState,
    }

    let Auction { header, bids, validators } = auction(node, params, Some).await?;
    let era_validators = validators.into_iter().map(|(era_id, weights)| EraWeights {
        era_id,
        validator_weights: weights.into_iter().map(|(public_key, weight)| Weight { public_key, weight }).collect(),
    });
    let auction_state = AuctionState {
        state_root_hash: *header.state_root_hash(),
        block_height: header.height(),
        era_validators: era_validators.collect(),
        bids: bids.into_iter().map(|bid| BidOfKey { public_key: bid.validator_public_key(), bid }).collect(),
    };
    Reply::new(&GetAuctionInfoResult { auction_state })
}

struct Auction {
    header: BlockHeader,
    bids: Vec<BidKind>,
    validators: EraValidators,
}

/// The auction after a block. `registry_at` says where the system's contracts are looked up.
async fn auction(
    node: &Node<'_>,
    params: Option<GetAuctionInfoParams>,
    registry_at: impl Fn(GlobalStateIdentifier) -> Option<GlobalStateIdentifier>,
) -> Result<Auction, Failure> {
    let identifier = params.map(|params| params.block_identifier);
    let header = node.block_header(identifier).await?;
    let at = identifier.map_or(GlobalStateIdentifier::BlockHeight(header.height()), state_after);
    let is_of_protocol_1 = header.protocol_version().value().major == 1;
    let bids = bids(node, at, is_of_protocol_1).await?;
    let auction = auction_address(node, registry_at(at)).await?;
    let snapshot = snapshot(node, at, auction).await?;
    let validators = match is_of_protocol_1 {
        true => weights(decode::<SeigniorageRecipientsSnapshotV1>(snapshot)?, |recipient| recipient.total_stake()),
        false => weights(decode::<SeigniorageRecipientsSnapshotV2>(snapshot)?, |recipient| recipient.total_stake()),
    };
    Ok(Auction { header, bids, validators })
}

async fn bids(node: &Node<'_>, at: GlobalStateIdentifier, is_of_protocol_1: bool) -> Result<Vec<BidKind>, Failure> {
    let kind = if is_of_protocol_1 { KeyTag::Bid } else { KeyTag::BidAddr };
    let values: Vec<StoredValue> = node.required("auction bids", Request::all_state_items(Some(at), kind)).await?;
    let bids = values.into_iter().map(|value| match (value, is_of_protocol_1) {
        (StoredValue::Bid(bid), true) => Ok(BidKind::Unified(bid)),
        (StoredValue::BidKind(bid), false) => Ok(bid),
        _ => Err(invalid()),
    });
    bids.collect()
}

async fn auction_address(node: &Node<'_>, at: Option<GlobalStateIdentifier>) -> Result<HashAddr, Failure> {
    let found = node.state_item("system contract registry", at, &Key::SystemEntityRegistry, &[]).await?;
    let registry: BTreeMap<String, HashAddr> = decode(found.ok_or_else(Failure::no_such_value)?)?;
    registry.get(AUCTION).copied().ok_or_else(invalid)
}

async fn snapshot(node: &Node<'_>, at: GlobalStateIdentifier, auction: HashAddr) -> Result<StateItem, Failure> {
    let path = [SEIGNIORAGE_RECIPIENTS_SNAPSHOT_KEY.to_owned()];
    for key in [Key::AddressableEntity(EntityAddr::System(auction)), Key::Hash(auction)] {
        if let Some(found) = node.state_item("auction snapshot", Some(at), &key, &path).await? {
            return Ok(found);
        }
    }
    Err(Failure::no_such_value())
}

fn decode<T: FromBytes + CLTyped>(item: StateItem) -> Result<T, Failure> {
    item.value.into_cl_value().and_then(|value| value.into_t().ok()).ok_or_else(invalid)
}

fn weights<R>(
    snapshot: BTreeMap<EraId, BTreeMap<PublicKey, R>>,
    total_stake: impl Fn(&R) -> Option<U512>,
) -> EraValidators {
    let weighed = |recipients: BTreeMap<PublicKey, R>| {
        let weights = recipients.into_iter().filter_map(|(key, recipient)| Some((key, total_stake(&recipient)?)));
        weights.collect()
    };
    snapshot.into_iter().map(|(era, recipients)| (era, weighed(recipients))).collect()
}

fn invalid() -> Failure {
    Failure::new(Code::Internal, "the auction state was invalid")
}
