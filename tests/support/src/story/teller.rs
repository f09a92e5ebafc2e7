//! Makes a chain's blocks, each with its transactions and signatures, and the ends of eras.

mod transactions;

use std::collections::BTreeMap;

use casper_types::contract_messages::Message;
use casper_types::execution::{Effects, ExecutionResult, TransformKindV2, TransformV2};
use casper_types::{
    AccessRights, AsymmetricType, Block, BlockHash, BlockV2, ChainNameDigest, Digest, EraEndV2, EraId,
    FinalitySignature, FinalitySignatureV2, InitiatorAddr, Key, ProtocolVersion, PublicKey, RewardedSignatures,
    Signature, TimeDiff, Timestamp, Transaction, TransactionHash, U512, URef,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::{EventKind, StoryEvent, StoryOptions};
use transactions::{digest_of, write};

/// The outermost JSON of an event. casper-types has no such type; variants and members are in a node's order.
#[derive(Serialize)]
enum Outermost<'a> {
    BlockAdded {
        block_hash: &'a BlockHash,
        block: &'a Block,
    },
    TransactionAccepted(&'a Transaction),
    TransactionProcessed {
        transaction_hash: TransactionHash,
        initiator_addr: InitiatorAddr,
        timestamp: Timestamp,
        ttl: TimeDiff,
        block_hash: &'a BlockHash,
        execution_result: ExecutionResult,
        messages: Vec<Message>,
    },
    TransactionExpired {
        transaction_hash: TransactionHash,
    },
    Fault {
        era_id: EraId,
        public_key: &'a PublicKey,
        timestamp: Timestamp,
    },
    FinalitySignature(FinalitySignature),
    Step {
        era_id: EraId,
        execution_effects: Effects,
    },
}

/// Makes the events one block after the other.
pub(super) struct Teller<'a> {
    rng: StdRng,
    options: &'a StoryOptions,
    validators: Vec<PublicKey>,
    /// Those who send transactions. A busy network has more of them, but a key is costly to make.
    accounts: Vec<PublicKey>,
    contract: [u8; 32],
    topic: [u8; 32],
    chain_name_digest: ChainNameDigest,
    parent: BlockHash,
    last_switch_block: Option<BlockHash>,
    transactions_so_far: u64,
    events: Vec<StoryEvent>,
}

/// Where in time and on the chain the teller is.
#[derive(Clone, Copy)]
struct Moment {
    height: u64,
    era: EraId,
    timestamp: Timestamp,
    is_switch: bool,
}

impl<'a> Teller<'a> {
    pub(super) fn new(seed: u64, options: &'a StoryOptions) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let validators = (0..options.validators).map(|_| random_public_key(&mut rng)).collect();
        let accounts = (0..40).map(|_| random_public_key(&mut rng)).collect();
        Self {
            validators,
            accounts,
            contract: rng.r#gen(),
            topic: rng.r#gen(),
            chain_name_digest: ChainNameDigest::from_chain_name(&options.chain_name),
            parent: random_block_hash(&mut rng),
            last_switch_block: None,
            transactions_so_far: 0,
            events: Vec::new(),
            options,
            rng,
        }
    }

    pub(super) fn tell(mut self) -> Vec<StoryEvent> {
        for number in 0..self.options.blocks {
            let moment = Moment {
                height: self.options.first_height + number,
                era: EraId::from(self.options.first_era + number / self.options.blocks_per_era),
                timestamp: Timestamp::from(self.options.first_timestamp_ms + number * self.options.block_interval_ms),
                is_switch: (number + 1) % self.options.blocks_per_era == 0,
            };
            self.block(moment);
        }
        self.events
    }

    fn block(&mut self, moment: Moment) {
        let count = self.rng.gen_range(self.options.transactions_per_block.clone());
        let transactions: Vec<Transaction> = (0..count).map(|_| self.accepted_transaction(moment)).collect();
        if moment.is_switch {
            self.era_end(moment);
        }
        let block = self.make_block(moment, &transactions);
        let mut signatures: Vec<StoryEvent> = (0..self.validators.len())
            .map(|validator| self.finality_signature(moment, *block.hash(), validator))
            .collect();
        signatures.shuffle(&mut self.rng);

        // Now and then a quick validator's signature is here before the block itself.
        if self.rng.gen_ratio(1, 20)
            && let Some(early) = signatures.pop()
        {
            self.events.push(early);
        }
        self.block_added(moment, &block);
        for transaction in &transactions {
            self.processed_transaction(moment, transaction, block.hash());
        }
        self.events.extend(signatures);
        self.parent = *block.hash();
        if moment.is_switch {
            self.last_switch_block = Some(*block.hash());
        }
    }

    fn make_block(&mut self, moment: Moment, transactions: &[Transaction]) -> BlockV2 {
        let mut lanes: BTreeMap<u8, Vec<TransactionHash>> = BTreeMap::new();
        for (position, transaction) in transactions.iter().enumerate() {
            // Lane 0 holds transfers, lane 5 the smallest contract calls.
            lanes.entry(if position % 2 == 0 { 0 } else { 5 }).or_default().push(transaction.hash());
        }
        let era_end = moment.is_switch.then(|| {
            let weights =
                self.validators.iter().map(|key| (key.clone(), U512::from(600_004_761_904_785_u64))).collect();
            let rewards =
                self.validators.iter().map(|key| (key.clone(), vec![U512::from(2_285_714_297_u64)])).collect();
            EraEndV2::new(Vec::new(), Vec::new(), weights, rewards, 1)
        });
        BlockV2::new(
            self.parent,
            Digest::from(self.rng.r#gen::<[u8; 32]>()),
            Digest::from(self.rng.r#gen::<[u8; 32]>()),
            self.rng.r#gen(),
            era_end,
            moment.timestamp,
            moment.era,
            moment.height,
            ProtocolVersion::from_parts(2, 0, 0),
            self.validators.choose(&mut self.rng).expect("a chain has validators").clone(),
            lanes,
            RewardedSignatures::pack(vec![vec![1; self.validators.len()], vec![0; self.validators.len()]]),
            1,
            self.last_switch_block,
        )
    }

    fn block_added(&mut self, moment: Moment, block: &BlockV2) {
        let hash = *block.hash();
        let payload = Outermost::BlockAdded { block_hash: &hash, block: &Block::V2(block.clone()) };
        self.push(EventKind::BlockAdded, hash_identity("BlockAdded", hash.inner()), Some(moment.height), &payload);
    }

    fn finality_signature(&mut self, moment: Moment, block_hash: BlockHash, validator: usize) -> StoryEvent {
        let public_key = self.validators[validator].clone();
        let identity = format!("FinalitySignature:{}:{}", hex(block_hash.inner()), public_key.to_hex_string());
        let signature = FinalitySignatureV2::new(
            block_hash,
            moment.height,
            moment.era,
            self.chain_name_digest,
            random_signature(&mut self.rng, &public_key),
            public_key,
        );
        let payload = Outermost::FinalitySignature(FinalitySignature::V2(signature));
        story_event(EventKind::FinalitySignature, identity, Some(moment.height), &payload)
    }
    /// What comes with a switch block: the era's step, a fault, and a transaction that was not executed in time.
    fn era_end(&mut self, moment: Moment) {
        let mut effects = Effects::new();
        for _ in 0..24 {
            let key = Key::URef(URef::new(self.rng.r#gen(), AccessRights::NONE));
            let kind = if self.rng.gen_bool(0.7) {
                TransformKindV2::Identity
            } else {
                write(U512::from(self.rng.r#gen::<u64>()))
            };
            effects.push(TransformV2::new(key, kind));
        }
        let step = Outermost::Step { era_id: moment.era, execution_effects: effects };
        self.push(EventKind::Step, format!("Step:{}", moment.era.value()), Some(moment.height), &step);

        let public_key = self.validators.choose(&mut self.rng).unwrap().clone();
        let identity = format!("Fault:{}:{}", moment.era.value(), public_key.to_hex_string());
        let fault = Outermost::Fault { era_id: moment.era, public_key: &public_key, timestamp: moment.timestamp };
        self.push(EventKind::Fault, identity, None, &fault);

        let late = self.accepted_transaction(moment);
        let expired = Outermost::TransactionExpired { transaction_hash: late.hash() };
        let identity = hash_identity("TransactionExpired", &digest_of(&late));
        self.push(EventKind::TransactionExpired, identity, None, &expired);
    }

    fn push(&mut self, kind: EventKind, identity: String, height: Option<u64>, payload: &Outermost<'_>) {
        self.events.push(story_event(kind, identity, height, payload));
    }
}

fn story_event(kind: EventKind, identity: String, height: Option<u64>, payload: &Outermost<'_>) -> StoryEvent {
    StoryEvent { payload: serde_json::to_string(payload).unwrap(), kind, identity, height }
}

fn hash_identity(kind: &str, digest: &Digest) -> String {
    format!("{kind}:{}", hex(digest))
}

fn hex(digest: &Digest) -> String {
    digest.value().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_block_hash(rng: &mut StdRng) -> BlockHash {
    BlockHash::new(Digest::from(rng.r#gen::<[u8; 32]>()))
}

/// A key with an unknown secret: half of all numbers are points of the curve. One key in ten is secp256k1, as on the
/// main network.
fn random_public_key(rng: &mut StdRng) -> PublicKey {
    let secp256k1 = rng.gen_ratio(1, 10);
    loop {
        let bytes = rng.r#gen::<[u8; 32]>();
        let key = if secp256k1 {
            PublicKey::secp256k1_from_bytes([&[2][..], &bytes].concat())
        } else {
            PublicKey::ed25519_from_bytes(bytes)
        };
        if let Ok(key) = key {
            return key;
        }
    }
}

/// Random bytes in a signature's form: nothing on the way through Sidecar verifies it, and signing tens of thousands of
/// times would take a test's whole time.
fn random_signature(rng: &mut StdRng, signer: &PublicKey) -> Signature {
    loop {
        let mut bytes = [0; 64];
        rng.fill(&mut bytes);
        let signature = match signer {
            PublicKey::Secp256k1(_) => Signature::secp256k1(bytes),
            _ => Signature::ed25519(bytes),
        };
        if let Ok(signature) = signature {
            return signature;
        }
    }
}
