//! Answers of a node, from the bytes of the binary port to values.
//!
//! Values are decoded with casper-types 7: what a node sends is of that version or of an older one, which it reads too.

use std::collections::BTreeMap;

use bincode::Options as _;
use bytes::{Buf, Bytes};
use casper_binary_port::{CommandHeader, ErrorCode, ResponseType};
use casper_types::bytesrepr::{self, FromBytes};
use casper_types::contract_messages::Messages;
use casper_types::contracts::{ContractHash, ContractPackage};
use casper_types::execution::Effects;
use casper_types::global_state::TrieMerkleProof;
use casper_types::system::auction::DelegationRate;
use casper_types::system::mint::BalanceHoldAddrTag;
use casper_types::{
    Account, AddressableEntity, AvailableBlockRange, BlockHash, BlockHeader, BlockSynchronizerStatus, BlockTime,
    BlockWithSignatures, ByteCode, ChainspecRawBytes, Contract, ContractWasm, Digest, EntityAddr, EraId, ExecutionInfo,
    Gas, Key, NextUpgrade, Package, Peers, ProtocolVersion, PublicKey, StoredValue, TimeDiff, Timestamp, Transaction,
    Transfer, U512, ValidatorChange,
};
use serde::Serialize;

use super::frame::LENGTH_BYTES;
use super::shown::{Budget, Shown, TooLarge};
use super::{LinkError, request};

/// The most that is decoded of a block's transfers, which are in a form that says itself how much memory it takes.
const TRANSFERS_BYTES_MAX: u64 = 256 << 20;

/// A Merkle proof.
pub(crate) type Proof = TrieMerkleProof<Key, StoredValue>;
/// Merkle proofs of a value.
pub(crate) type Proofs = Vec<Proof>;

/// What a node answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    error: u16,
    /// The kind of value, if there is one.
    kind: Option<u8>,
    payload: Bytes,
}

/// An answer and the frame of the request that it is for, which the node repeats.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) request: Bytes,
    pub(super) answer: Answer,
}

/// A payload that is not an answer.
#[derive(Debug, thiserror::Error)]
#[error("failed to deserialize the envelope of a response")]
pub(super) struct NotAnEnvelope;

impl Envelope {
    /// Takes a frame's payload apart. All of it must be used up.
    pub(super) fn parse(mut payload: Bytes) -> Result<Envelope, NotAnEnvelope> {
        let envelope = Self::take(&mut payload).ok_or(NotAnEnvelope)?;
        if payload.is_empty() { Ok(envelope) } else { Err(NotAnEnvelope) }
    }

    fn take(payload: &mut Bytes) -> Option<Envelope> {
        let request_bytes = payload.try_get_u32_le().ok()?;
        let request = take_bytes(payload, request_bytes)?;
        let version = payload.try_get_u16_le().ok()?;
        let error = payload.try_get_u16_le().ok()?;
        let kind = match payload.try_get_u8().ok()? {
            0 => None,
            1 => Some(payload.try_get_u8().ok()?),
            _ => return None,
        };
        let payload_bytes = payload.try_get_u32_le().ok()?;
        let value = take_bytes(payload, payload_bytes)?;
        let is_known = version == CommandHeader::HEADER_VERSION;
        is_known.then_some(Envelope { request, answer: Answer { error, kind, payload: value } })
    }

    /// The id in the repeated request, if that is a request.
    pub(super) fn id(&self) -> Option<u16> {
        let length = u32::from_le_bytes(*self.request.first_chunk::<LENGTH_BYTES>()?);
        let is_whole = usize::try_from(length).is_ok_and(|length| length == self.request.len() - LENGTH_BYTES);
        is_whole.then(|| request::id_of(&self.request)).flatten()
    }
}

fn take_bytes(from: &mut Bytes, count: u32) -> Option<Bytes> {
    let count = usize::try_from(count).ok()?;
    (count <= from.len()).then(|| from.split_to(count))
}

impl Answer {
    /// How long the value is, in the node's form.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// For a request that is answered with an error code only: an error, or nothing.
    pub(crate) fn accepted(&self) -> Result<(), LinkError> {
        match self.error {
            0 => Ok(()),
            error => Err(LinkError::Node(error)),
        }
    }

    /// The value, or `None` if the node has found nothing.
    pub(crate) fn value<T: NodeValue>(&self) -> Result<Option<T>, LinkError> {
        match self.found()? {
            Some(kind) if kind == T::KIND as u8 => self.decode().map(Some),
            Some(kind) => Err(LinkError::UnexpectedKind(kind)),
            None => Ok(None),
        }
    }

    /// The value, where the node always has one.
    pub(crate) fn required<T: NodeValue>(&self) -> Result<T, LinkError> {
        self.value()?.ok_or(LinkError::NoValue)
    }

    /// The kind of value, or `None` if the node has found nothing.
    pub(crate) fn found(&self) -> Result<Option<u8>, LinkError> {
        match self.error {
            0 => Ok(self.kind),
            error if error == ErrorCode::NotFound as u16 => Ok(None),
            error => Err(LinkError::Node(error)),
        }
    }

    /// The value, of whatever kind the answer says it is.
    pub(crate) fn decode<T: NodeValue>(&self) -> Result<T, LinkError> {
        let value = T::decode(&self.payload)?;
        value.check_size()?;
        Ok(value)
    }
}

/// A value that a node sends.
pub(crate) trait NodeValue: Sized {
    /// What the node calls it.
    const KIND: ResponseType;

    fn decode(payload: &[u8]) -> Result<Self, LinkError>;

    /// Takes what showing it needs out of the budget; most values are shown in about their own size.
    fn measure(&self, _: &mut Budget) -> Result<(), TooLarge> {
        Ok(())
    }

    /// Whether its JSON stays within the memory that an answer may take.
    fn check_size(&self) -> Result<(), TooLarge> {
        self.measure(&mut Budget::of_an_answer())
    }
}

/// Values in bytesrepr: each of these fields after the other. Those after `shows` are measured.
macro_rules! fields {
    ($($kind:ident => $type:ty { $($field:ident),* $(; shows $($shown:ident),*)? })*) => {
        $(impl FromBytes for $type {
            fn from_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), bytesrepr::Error> {
                $(let ($field, bytes) = FromBytes::from_bytes(bytes)?;)*
                Ok((Self { $($field),* }, bytes))
            }
        }
        sent_as!($kind => $type $(, shows $($shown),*)?);)*
    };
}

macro_rules! sent_as {
    ($($kind:ident => $type:ty;)*) => { $(sent_as!($kind => $type);)* };
    ($kind:ident => $type:ty $(, shows $($shown:ident),*)?) => {
        impl NodeValue for $type {
            const KIND: ResponseType = ResponseType::$kind;

            fn decode(payload: &[u8]) -> Result<Self, LinkError> {
                Ok(bytesrepr::deserialize_from_slice(payload)?)
            }

            $(fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
                $(self.$shown.measure(budget)?;)*
                Ok(())
            })?
        }
    };
}

sent_as! {
    AvailableBlockRange => AvailableBlockRange;
    BlockHeader => BlockHeader;
    BlockWithSignatures => BlockWithSignatures;
    ChainspecRawBytes => ChainspecRawBytes;
    Peers => Peers;
    ProtocolVersion => ProtocolVersion;
}

fields! {
    GlobalStateQueryResult => StateItem { value, proofs; shows value }
    DictionaryQueryResult => FoundDictionaryItem { key, item; shows item }
    BalanceResponse => Balance { total_balance, available_balance, total_balance_proof, holds }
    TransactionWithExecutionInfo => FoundTransaction { transaction, execution_info; shows transaction, execution_info }
    Reward => Reward { reward_amount, era_id, delegation_rate, switch_block_hash }
    ConsensusValidatorChanges => ValidatorChanges { by_validator }
    GetTrieFullResult => Trie { bytes }
    AccountInformation => FoundAccount { account, proofs }
    ContractInformation => FoundContract { hash, contract, wasm }
    AddressableEntityInformation => FoundEntity { address, entity, bytecode }
    ContractPackageWithProof => Proven<ContractPackage> { value, proofs }
    PackageWithProof => Proven<Package> { value, proofs }
    NodeStatus => NodeStatus {
        protocol_version, peers, build_version, chainspec_name, starting_state_root_hash, last_added_block_info,
        our_public_signing_key, round_length, next_upgrade, uptime, reactor_state, last_progress,
        available_block_range, block_sync, latest_switch_block_hash
    }
    SpeculativeExecutionResult => SpeculativeExecution {
        transfers, limit, consumed, effects, messages, error, block_hash; shows effects
    }
}

impl NodeValue for Vec<StoredValue> {
    const KIND: ResponseType = ResponseType::StoredValues;

    fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        Ok(bytesrepr::deserialize_from_slice(payload)?)
    }

    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        Shown::measure(self, budget)
    }
}

/// A value of the global state.
#[derive(Debug)]
pub(crate) struct StateItem {
    pub(crate) value: StoredValue,
    pub(crate) proofs: Proofs,
}

/// A dictionary's item, and the key that it is under.
#[derive(Debug)]
pub(crate) struct FoundDictionaryItem {
    pub(crate) key: Key,
    pub(crate) item: StateItem,
}

/// What a purse holds.
#[derive(Debug)]
pub(crate) struct Balance {
    pub(crate) total_balance: U512,
    pub(crate) available_balance: U512,
    pub(crate) total_balance_proof: Proof,
    pub(crate) holds: BTreeMap<BlockTime, BTreeMap<BalanceHoldAddrTag, (U512, Proof)>>,
}

/// A transaction, and how it was executed.
#[derive(Debug)]
pub(crate) struct FoundTransaction {
    pub(crate) transaction: Transaction,
    pub(crate) execution_info: Option<ExecutionInfo>,
}

/// A validator's or a delegator's reward; its fields are the result's.
#[derive(Debug, Serialize)]
pub(crate) struct Reward {
    pub(crate) reward_amount: U512,
    pub(crate) era_id: EraId,
    pub(crate) delegation_rate: DelegationRate,
    pub(crate) switch_block_hash: BlockHash,
}

/// How validators' standing changed.
#[derive(Debug)]
pub(crate) struct ValidatorChanges {
    pub(crate) by_validator: BTreeMap<PublicKey, Vec<(EraId, ValidatorChange)>>,
}

/// A part of the global state's tree.
#[derive(Debug)]
pub(crate) struct Trie {
    pub(crate) bytes: Option<bytesrepr::Bytes>,
}

/// An account.
#[derive(Debug)]
pub(crate) struct FoundAccount {
    pub(crate) account: Account,
    pub(crate) proofs: Proofs,
}

/// A contract and, if asked for, its code.
#[derive(Debug)]
pub(crate) struct FoundContract {
    #[expect(dead_code, reason = "the node sends it, and no result shows it")]
    pub(crate) hash: ContractHash,
    pub(crate) contract: Proven<Contract>,
    pub(crate) wasm: Option<Proven<ContractWasm>>,
}

/// An addressable entity and, if asked for, its code.
#[derive(Debug)]
pub(crate) struct FoundEntity {
    pub(crate) address: EntityAddr,
    pub(crate) entity: Proven<AddressableEntity>,
    pub(crate) bytecode: Option<Proven<ByteCode>>,
}

/// A value with its proofs.
#[derive(Debug)]
pub(crate) struct Proven<T> {
    pub(crate) value: T,
    pub(crate) proofs: Proofs,
}

/// How a node is; its fields are the result's.
#[derive(Debug, Serialize)]
pub(crate) struct NodeStatus {
    pub(crate) protocol_version: ProtocolVersion,
    pub(crate) peers: Peers,
    pub(crate) build_version: String,
    pub(crate) chainspec_name: String,
    pub(crate) starting_state_root_hash: Digest,
    pub(crate) last_added_block_info: Option<MinimalBlockInfo>,
    pub(crate) our_public_signing_key: Option<PublicKey>,
    pub(crate) round_length: Option<TimeDiff>,
    pub(crate) next_upgrade: Option<NextUpgrade>,
    pub(crate) uptime: TimeDiff,
    pub(crate) reactor_state: String,
    pub(crate) last_progress: Timestamp,
    pub(crate) available_block_range: AvailableBlockRange,
    pub(crate) block_sync: BlockSynchronizerStatus,
    pub(crate) latest_switch_block_hash: Option<BlockHash>,
}

/// The newest block in a node's status.
#[derive(Debug, Serialize)]
pub(crate) struct MinimalBlockInfo {
    hash: BlockHash,
    timestamp: Timestamp,
    era_id: EraId,
    height: u64,
    state_root_hash: Digest,
    creator: PublicKey,
}

/// What a transaction would have done; its fields are the result's.
#[derive(Debug, Serialize)]
pub(crate) struct SpeculativeExecution {
    block_hash: BlockHash,
    transfers: Vec<Transfer>,
    limit: Gas,
    consumed: Gas,
    effects: Effects,
    messages: Messages,
    error: Option<String>,
}

impl FromBytes for MinimalBlockInfo {
    fn from_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), bytesrepr::Error> {
        let (hash, bytes) = FromBytes::from_bytes(bytes)?;
        let (timestamp, bytes) = FromBytes::from_bytes(bytes)?;
        let (era_id, bytes) = FromBytes::from_bytes(bytes)?;
        let (height, bytes) = FromBytes::from_bytes(bytes)?;
        let (state_root_hash, bytes) = FromBytes::from_bytes(bytes)?;
        let (creator, bytes) = FromBytes::from_bytes(bytes)?;
        Ok((MinimalBlockInfo { hash, timestamp, era_id, height, state_root_hash, creator }, bytes))
    }
}

/// Code with its proofs, inside another answer.
macro_rules! proven {
    ($($type:ty),*) => {
        $(impl FromBytes for Proven<$type> {
            fn from_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), bytesrepr::Error> {
                let (value, bytes) = FromBytes::from_bytes(bytes)?;
                let (proofs, bytes) = FromBytes::from_bytes(bytes)?;
                Ok((Proven { value, proofs }, bytes))
            }
        })*
    };
}

proven!(Contract, ContractWasm, AddressableEntity, ByteCode);

/// The transfers of a block, which alone come in another encoding.
#[derive(Debug)]
pub(crate) struct Transfers(pub(crate) Vec<Transfer>);

impl NodeValue for Transfers {
    const KIND: ResponseType = ResponseType::Transfers;

    fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let form = bincode::options().with_fixint_encoding().with_limit(TRANSFERS_BYTES_MAX);
        form.deserialize(payload).map(Transfers).map_err(|error| LinkError::Undecodable(error.to_string()))
    }
}

/// For fuzzing: whatever kind of value an answer says it has, or does not, decoding ends, and what is decoded has a form in
/// JSON.
#[cfg(any(test, fuzzing))]
pub(crate) fn decode_anything(payload: Bytes) {
    let answer = match Envelope::parse(payload.clone()) {
        Ok(envelope) => {
            let _ = envelope.id();
            envelope.answer
        }
        // Most bytes are not an envelope. Then they are read as a value.
        Err(NotAnEnvelope) => Answer { error: 0, kind: None, payload },
    };
    let _ = (answer.accepted(), answer.found());
    fn decoded<T: NodeValue>(answer: &Answer, shown: impl Fn(&T) -> serde_json::Result<Vec<u8>>) {
        if let Ok(value) = answer.decode::<T>() {
            assert!(shown(&value).is_ok_and(|json| !json.is_empty()));
        }
    }
    use serde_json::to_vec;
    decoded::<AvailableBlockRange>(&answer, to_vec);
    decoded::<BlockHeader>(&answer, to_vec);
    decoded::<ChainspecRawBytes>(&answer, to_vec);
    decoded::<Peers>(&answer, to_vec);
    decoded::<ProtocolVersion>(&answer, to_vec);
    decoded::<Vec<StoredValue>>(&answer, to_vec);
    decoded::<StateItem>(&answer, |item| to_vec(&item.value));
    decoded::<FoundDictionaryItem>(&answer, |found| to_vec(&(&found.key, &found.item.value)));
    decoded::<Balance>(&answer, |balance| to_vec(&(balance.total_balance, balance.available_balance)));
    decoded::<FoundTransaction>(&answer, |found| to_vec(&(&found.transaction, &found.execution_info)));
    decoded::<Reward>(&answer, to_vec);
    decoded::<NodeStatus>(&answer, to_vec);
    decoded::<SpeculativeExecution>(&answer, to_vec);
    decoded::<FoundAccount>(&answer, |found| to_vec(&found.account));
    decoded::<FoundContract>(&answer, |found| to_vec(&found.contract.value));
    decoded::<FoundEntity>(&answer, |found| to_vec(&found.entity.value));
    decoded::<Proven<Package>>(&answer, |found| to_vec(&found.value));
    decoded::<Proven<ContractPackage>>(&answer, |found| to_vec(&found.value));
    decoded::<Transfers>(&answer, |Transfers(transfers)| to_vec(transfers));
    decoded::<BlockWithSignatures>(&answer, |found| {
        let (block, signatures) = (found.block().clone(), found.block_signatures().clone());
        to_vec(&casper_types::JsonBlockWithSignatures::new(block, Some(signatures)))
    });
    let _ = (answer.decode::<ValidatorChanges>(), answer.decode::<Trie>());
}
