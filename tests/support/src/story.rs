//! Realistic events: one chain's life, told as a Casper node tells it on its event stream.
//!
//! In: a seed and [`StoryOptions`]. Out: a [`Story`], the [`StoryEvent`]s of a chain in a plausible order, with payloads
//! made from casper-types values and members in a node's order. The same seed and options give the same bytes.
//! Not here: ids and frames, which belong to the node that tells the story (`node`, `fast`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

use casper_types::account::AccountHash;
use casper_types::bytesrepr::{Bytes, ToBytes};
use casper_types::contract_messages::{Message, MessagePayload, TopicNameHash};
use casper_types::execution::{Effects, ExecutionResult, ExecutionResultV2, TransformKindV2, TransformV2};
use casper_types::system::mint::BalanceHoldAddr;
use casper_types::{
    AccessRights, Approval, AsymmetricType, Block, BlockHash, BlockTime, BlockV2, CLType, CLValue, ChainNameDigest,
    Deploy, Digest, EntityAddr, EraEndV2, EraId, FinalitySignature, FinalitySignatureV2, Gas, InitiatorAddr, Key,
    PricingMode, ProtocolVersion, PublicKey, RewardedSignatures, RuntimeArgs, Signature, StoredValue, TimeDiff,
    Timestamp, Transaction, TransactionArgs, TransactionEntryPoint, TransactionHash, TransactionInvocationTarget,
    TransactionRuntimeParams, TransactionScheduling, TransactionTarget, TransactionV1, TransactionV1Hash,
    TransactionV1Payload, Transfer, TransferV2, U512, URef,
};
use rand::distributions::Alphanumeric;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// What an event is about: the name of its outermost JSON member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A block joined the chain.
    BlockAdded,
    /// A transaction was accepted for execution.
    TransactionAccepted,
    /// A transaction was executed in a block.
    TransactionProcessed,
    /// A transaction was not executed in time.
    TransactionExpired,
    /// A validator misbehaved.
    Fault,
    /// A validator signed a block.
    FinalitySignature,
    /// The system's own changes at the end of an era.
    Step,
    /// The node stops.
    Shutdown,
    /// Something that no version of Sidecar knows, or a known name in an unknown shape.
    Unclassified,
}

/// One event of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryEvent {
    /// The text that follows `data:`; one line, unless it was made by [`pretty_printed`].
    pub payload: String,
    /// What it is about.
    pub kind: EventKind,
    /// What makes two reports of it the same event, for example `FinalitySignature:BLOCK_HASH:PUBLIC_KEY`.
    pub identity: String,
    /// The height of the block it belongs to. Unexecuted transactions, faults and edge cases have none.
    pub height: Option<u64>,
}

impl AsRef<str> for StoryEvent {
    fn as_ref(&self) -> &str {
        &self.payload
    }
}

/// The shape of a story. The default mix has 83 % finality signatures and about 765 bytes per event.
#[derive(Debug, Clone)]
pub struct StoryOptions {
    /// How many blocks the chain gets.
    pub blocks: u64,
    /// How many validators sign each block; the set stays the same.
    pub validators: usize,
    /// How many transactions a block executes.
    pub transactions_per_block: RangeInclusive<usize>,
    /// Every so many blocks comes a switch block, preceded by its step.
    pub blocks_per_era: u64,
    /// Height of the first block.
    pub first_height: u64,
    /// Era of the first block.
    pub first_era: u64,
    /// Timestamp of the first block, milliseconds since 1970.
    pub first_timestamp_ms: u64,
    /// Time from block to block in milliseconds.
    pub block_interval_ms: u64,
    /// The chain's name; its digest is in every finality signature.
    pub chain_name: String,
}

impl Default for StoryOptions {
    fn default() -> Self {
        Self {
            blocks: 20,
            validators: 100,
            transactions_per_block: 7..=12,
            blocks_per_era: 10,
            first_height: 0,
            first_era: 0,
            first_timestamp_ms: 1_795_000_000_000,
            block_interval_ms: 8_000,
            chain_name: "casper-test".to_owned(),
        }
    }
}

impl StoryOptions {
    /// The default mix with enough blocks for at least `events` events.
    pub fn with_at_least(events: usize) -> Self {
        let defaults = Self::default();
        // A block of the default mix brings its validators' signatures, itself and two events per transaction.
        let events_per_block = defaults.validators + 1 + 2 * *defaults.transactions_per_block.start();
        Self { blocks: events.div_ceil(events_per_block) as u64, ..defaults }
    }

    /// A few signatures and transactions per block, for tests that look at kinds and order, not at load.
    pub fn small(blocks: u64) -> Self {
        Self { blocks, validators: 4, transactions_per_block: 1..=3, blocks_per_era: 5, ..Self::default() }
    }
}

/// A chain's events in the order one node would send them, without ids.
#[derive(Debug, Clone)]
pub struct Story {
    events: Vec<StoryEvent>,
}

impl Story {
    /// Tells the story of `seed`.
    pub fn new(seed: u64, options: &StoryOptions) -> Self {
        Self { events: Teller::new(seed, options).tell() }
    }

    /// The events in order.
    pub fn events(&self) -> &[StoryEvent] {
        &self.events
    }

    /// The same events as another node might send them: signatures move by up to `window` places; the other kinds
    /// move against each other as far, but each keeps its own order, as a chain's blocks and eras do.
    pub fn reordered(&self, seed: u64, window: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut jittered: Vec<(usize, usize)> =
            (0..self.events.len()).map(|position| (position + rng.gen_range(0..=window), position)).collect();
        jittered.sort_unstable();

        let mut in_order: BTreeMap<EventKind, _> = BTreeMap::new();
        for event in &self.events {
            in_order.entry(event.kind).or_insert_with(std::collections::VecDeque::new).push_back(event);
        }
        let events = jittered
            .into_iter()
            .map(|(_, position)| match &self.events[position] {
                signature if signature.kind == EventKind::FinalitySignature => signature.clone(),
                other => in_order.get_mut(&other.kind).and_then(|queue| queue.pop_front()).unwrap().clone(),
            })
            .collect();
        Self { events }
    }

    /// What a node that was away sends for `heights` when it catches up: the blocks in descending order, each with its
    /// executed transactions and signatures, without contract messages; nothing accepted, no step.
    pub fn back_fill(&self, heights: Range<u64>) -> Vec<StoryEvent> {
        let mut events = Vec::new();
        for height in heights.rev() {
            let of_height = |kind| self.events.iter().filter(move |e| e.kind == kind && e.height == Some(height));
            events.extend(of_height(EventKind::BlockAdded).cloned());
            events.extend(of_height(EventKind::TransactionProcessed).map(without_messages));
            events.extend(of_height(EventKind::FinalitySignature).cloned());
        }
        events
    }
}

fn without_messages(event: &StoryEvent) -> StoryEvent {
    // "messages" is the last member of a processed transaction and appears nowhere before as a member's name.
    let start = event.payload.rfind(",\"messages\":[").expect("a processed transaction has messages");
    StoryEvent { payload: format!("{},\"messages\":[]}}}}", &event.payload[..start]), ..event.clone() }
}

/// The node says that it stops.
pub fn shutdown() -> StoryEvent {
    StoryEvent {
        payload: "\"Shutdown\"".to_owned(),
        kind: EventKind::Shutdown,
        identity: "Shutdown".to_owned(),
        height: None,
    }
}

/// An event of a kind that a later node might bring; `number` makes it unique.
pub fn unknown_kind(number: u64) -> StoryEvent {
    unclassified(format!(r#"{{"SomethingNew":{{"number":{number},"of":["a","later","node"]}}}}"#))
}

/// A known kind in a shape that nobody knows; `number` makes it unique.
pub fn unknown_shape(number: u64) -> StoryEvent {
    unclassified(format!(r#"{{"BlockAdded":{{"hashes":["{number:064x}"],"block":{{"Version9":[{number}]}}}}}}"#))
}

/// An event whose payload has exactly `bytes` bytes (at least 64); `number` makes it unique.
pub fn of_size(bytes: usize, number: u64) -> StoryEvent {
    let start = format!(r#"{{"Filler":{{"number":{number},"text":""#);
    let end = r#""}}"#;
    let filling = bytes.checked_sub(start.len() + end.len()).expect("the smallest event has 64 bytes");
    let text: String = "the quick brown fox jumps over the lazy dog ".chars().cycle().take(filling).collect();
    unclassified(format!("{start}{text}{end}"))
}

/// Like [`of_size`], but no compressor makes much less than three quarters of it.
pub fn of_random_text(bytes: usize, number: u64) -> StoryEvent {
    let start = format!(r#"{{"Filler":{{"number":{number},"text":""#);
    let end = r#""}}"#;
    let filling = bytes.checked_sub(start.len() + end.len()).expect("the smallest event has 64 bytes");
    let mut rng = StdRng::seed_from_u64(number);
    let text: String = (0..filling).map(|_| char::from(rng.sample(Alphanumeric))).collect();
    unclassified(format!("{start}{text}{end}"))
}

/// An event with text outside ASCII, escapes and characters of all UTF-8 lengths; `number` makes it unique.
pub fn non_ascii(number: u64) -> StoryEvent {
    unclassified(format!(r#"{{"SomethingNew":{{"number":{number},"text":"żółw é 漢字 😀 \"quoted\" \\ \n \u00e9"}}}}"#))
}

/// The same event with its JSON spread over several lines; on the wire each becomes a `data:` line of its own.
pub fn pretty_printed(event: &StoryEvent) -> StoryEvent {
    let value: serde_json::Value = serde_json::from_str(&event.payload).unwrap();
    StoryEvent { payload: serde_json::to_string_pretty(&value).unwrap(), ..event.clone() }
}

fn unclassified(payload: String) -> StoryEvent {
    StoryEvent { identity: payload.clone(), payload, kind: EventKind::Unclassified, height: None }
}

/// The outermost JSON of an event. casper-types has no such type; variants and members stand in a node's order.
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
struct Teller<'a> {
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

/// The key of a transaction's target among its fields.
const TARGET_FIELD: u16 = 1;

/// Where in time and on the chain the teller is.
#[derive(Clone, Copy)]
struct Moment {
    height: u64,
    era: EraId,
    timestamp: Timestamp,
    is_switch: bool,
}

impl<'a> Teller<'a> {
    fn new(seed: u64, options: &'a StoryOptions) -> Self {
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

    fn tell(mut self) -> Vec<StoryEvent> {
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

    fn accepted_transaction(&mut self, moment: Moment) -> Transaction {
        let transaction = self.make_transaction(moment);
        let identity = hash_identity("TransactionAccepted", &digest_of(&transaction));
        self.push(EventKind::TransactionAccepted, identity, None, &Outermost::TransactionAccepted(&transaction));
        transaction
    }

    fn make_transaction(&mut self, moment: Moment) -> Transaction {
        self.transactions_so_far += 1;
        let sent = Timestamp::from(moment.timestamp.millis() - self.rng.gen_range(0..self.options.block_interval_ms));
        let sender = self.accounts.choose(&mut self.rng).unwrap().clone();
        let receiver = self.accounts.choose(&mut self.rng).unwrap().clone();
        let approval = Approval::new(sender.clone(), random_signature(&mut self.rng, &sender));
        let amount = U512::from(self.rng.gen_range(2_500_000_000_u64..900_000_000_000));
        let ttl = TimeDiff::from_seconds(3_600);
        if self.rng.gen_bool(0.15) {
            let deploy = Deploy::native_transfer(
                self.options.chain_name.clone(),
                None,
                sender,
                receiver,
                Some(amount),
                // The transfer's number is not in a deploy's arguments: an own timestamp keeps its hash unique.
                Timestamp::from(sent.millis() - self.transactions_so_far % 997),
                ttl,
                1,
            );
            return Transaction::Deploy(deploy.with_approvals(BTreeSet::from([approval])));
        }
        let mut arguments = RuntimeArgs::new();
        arguments.insert("target", AccountHash::new(self.rng.r#gen())).unwrap();
        arguments.insert("amount", amount).unwrap();
        arguments.insert("id", Some(self.transactions_so_far)).unwrap();
        let runtime = TransactionRuntimeParams::VmCasperV1;
        let (target, entry_point) = match self.rng.gen_range(0..6) {
            0 => (TransactionTarget::Native, TransactionEntryPoint::Transfer),
            1..=3 => {
                let id = TransactionInvocationTarget::ByHash(self.contract);
                (TransactionTarget::Stored { id, runtime }, TransactionEntryPoint::Custom("transfer".to_owned()))
            }
            _ => {
                let mut module_bytes = vec![0; self.rng.gen_range(200..1_200)];
                self.rng.fill(&mut module_bytes[..]);
                let module_bytes = Bytes::from(module_bytes);
                let session = TransactionTarget::Session { is_install_upgrade: false, module_bytes, runtime };
                (session, TransactionEntryPoint::Call)
            }
        };
        // The numbers are the keys of a transaction's fields in the protocol.
        let fields = BTreeMap::from([
            (0, field(&TransactionArgs::Named(arguments))),
            (TARGET_FIELD, field(&target)),
            (2, field(&entry_point)),
            (3, field(&TransactionScheduling::Standard)),
        ]);
        let pricing =
            PricingMode::PaymentLimited { payment_amount: 100_000_000, gas_price_tolerance: 3, standard_payment: true };
        let initiator = match self.rng.r#gen() {
            true => InitiatorAddr::PublicKey(sender),
            false => InitiatorAddr::AccountHash(AccountHash::new(self.rng.r#gen())),
        };
        let payload = TransactionV1Payload::new(self.options.chain_name.clone(), sent, ttl, pricing, initiator, fields);
        let hash = TransactionV1Hash::from(Digest::hash(payload.to_bytes().unwrap()));
        Transaction::V1(TransactionV1::new(hash, payload, BTreeSet::from([approval])))
    }

    fn processed_transaction(&mut self, moment: Moment, transaction: &Transaction, block_hash: &BlockHash) {
        let initiator = transaction.initiator_addr();
        let cost = U512::from(self.rng.gen_range(100_000_000_u64..90_000_000_000));
        let consumed = Gas::new(self.rng.gen_range(10_000_000_u64..100_000_000));
        let failed = self.rng.gen_ratio(1, 40);
        let moves_only_money = is_native_transfer(transaction);
        let (transfers, effects, messages) = match (failed, moves_only_money) {
            (true, _) => (Vec::new(), self.fee(moment), Vec::new()),
            (false, true) => (vec![self.transfer(transaction, &initiator)], self.transfer_effects(moment), Vec::new()),
            (false, false) => (Vec::new(), self.contract_effects(), self.messages()),
        };
        let result = ExecutionResultV2 {
            initiator: initiator.clone(),
            error_message: failed.then(|| "User error: 66".to_owned()),
            current_price: 1,
            limit: Gas::new(cost),
            consumed,
            cost,
            refund: U512::zero(),
            transfers,
            size_estimate: self.rng.gen_range(360..520),
            effects,
        };
        let identity = hash_identity("TransactionProcessed", &digest_of(transaction));
        let payload = Outermost::TransactionProcessed {
            transaction_hash: transaction.hash(),
            initiator_addr: initiator,
            timestamp: transaction.timestamp(),
            ttl: transaction.ttl(),
            block_hash,
            execution_result: ExecutionResult::V2(Box::new(result)),
            messages,
        };
        self.push(EventKind::TransactionProcessed, identity, Some(moment.height), &payload);
    }

    fn transfer(&mut self, transaction: &Transaction, initiator: &InitiatorAddr) -> Transfer {
        Transfer::V2(TransferV2::new(
            transaction.hash(),
            initiator.clone(),
            Some(AccountHash::new(self.rng.r#gen())),
            URef::new(self.rng.r#gen(), AccessRights::READ_ADD_WRITE),
            URef::new(self.rng.r#gen(), AccessRights::ADD),
            U512::from(self.rng.gen_range(2_500_000_000_u64..900_000_000_000)),
            Gas::new(100_000_000_u64),
            Some(self.transactions_so_far),
        ))
    }

    /// The fee of a transaction is held on the payer's balance.
    fn fee(&mut self, moment: Moment) -> Effects {
        let payer = self.rng.r#gen();
        let hold = Key::BalanceHold(BalanceHoldAddr::new_gas(payer, BlockTime::new(moment.timestamp.millis())));
        let mut effects = Effects::new();
        effects.push(TransformV2::new(hold, write(U512::from(100_000_000_u64))));
        effects.push(TransformV2::new(hold, TransformKindV2::Identity));
        effects.push(TransformV2::new(Key::Balance(payer), write(U512::from(self.rng.r#gen::<u64>()))));
        effects.push(TransformV2::new(hold, TransformKindV2::Prune(hold)));
        effects
    }

    fn transfer_effects(&mut self, moment: Moment) -> Effects {
        let amount = U512::from(self.rng.gen_range(2_500_000_000_u64..900_000_000_000));
        let mut effects = self.fee(moment);
        effects.push(TransformV2::new(Key::Balance(self.rng.r#gen()), TransformKindV2::AddUInt512(amount)));
        effects
    }

    /// A contract writes into its dictionaries; the bytes are as hard to compress as hashes and keys are.
    fn contract_effects(&mut self) -> Effects {
        let mut effects = Effects::new();
        for _ in 0..self.rng.gen_range(2..=3) {
            let mut entry = vec![0; self.rng.gen_range(350..500)];
            self.rng.fill(&mut entry[..]);
            let entry = StoredValue::CLValue(CLValue::from_components(CLType::Any, entry));
            effects.push(TransformV2::new(Key::Dictionary(self.rng.r#gen()), TransformKindV2::Write(entry)));
        }
        effects
    }

    fn messages(&mut self) -> Vec<Message> {
        if !self.rng.gen_ratio(1, 12) {
            return Vec::new();
        }
        let text =
            format!("{{\"kind\":\"ping\",\"text\":\"a \\\"quoted\\\" line\\n and é😀 {}\"}}", self.rng.r#gen::<u32>());
        let payloads = [MessagePayload::String(text), MessagePayload::Bytes(Bytes::from(vec![0, 1, 2, 253, 254, 255]))];
        payloads
            .into_iter()
            .zip(0_u32..)
            .map(|(payload, index)| {
                Message::new(
                    EntityAddr::SmartContract(self.contract),
                    payload,
                    "events".to_owned(),
                    TopicNameHash::new(self.topic),
                    index,
                    u64::from(index),
                )
            })
            .collect()
    }

    /// What comes with a switch block: the era's step, a fault, and a transaction that nobody executed in time.
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

fn is_native_transfer(transaction: &Transaction) -> bool {
    match transaction {
        Transaction::Deploy(deploy) => deploy.is_transfer(),
        Transaction::V1(transaction) => {
            matches!(transaction.deserialize_field(TARGET_FIELD), Ok(TransactionTarget::Native))
        }
    }
}

fn write(amount: U512) -> TransformKindV2 {
    TransformKindV2::Write(StoredValue::CLValue(CLValue::from_t(amount).unwrap()))
}

fn field(value: &impl ToBytes) -> Bytes {
    Bytes::from(value.to_bytes().unwrap())
}

fn digest_of(transaction: &Transaction) -> Digest {
    match transaction.hash() {
        TransactionHash::Deploy(hash) => *hash.inner(),
        TransactionHash::V1(hash) => *hash.inner(),
    }
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

/// A key whose secret nobody knows: half of all numbers are points of the curve. One key in ten is secp256k1, as on the
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

/// Random bytes in a signature's form: nobody on the way through Sidecar verifies it, and signing tens of thousands of
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recordings;
    use serde_json::Value;
    use std::collections::HashSet;

    fn default_story() -> Story {
        Story::new(7, &StoryOptions { blocks: 40, ..StoryOptions::default() })
    }

    fn inner(event: &StoryEvent) -> Value {
        let value: Value = serde_json::from_str(&event.payload).unwrap();
        value.as_object().unwrap().values().next().unwrap().clone()
    }

    #[test]
    fn the_same_seed_tells_the_same_story() {
        let options = StoryOptions::small(10);
        assert_eq!(Story::new(3, &options).events(), Story::new(3, &options).events());
        assert_ne!(Story::new(3, &options).events(), Story::new(4, &options).events());
    }

    #[test]
    fn no_event_is_told_twice() {
        let story = default_story();
        let identities: HashSet<&str> = story.events().iter().map(|event| event.identity.as_str()).collect();
        assert_eq!(identities.len(), story.events().len());
    }

    #[test]
    fn the_default_mix_weighs_what_a_busy_network_sends() {
        let story = default_story();
        let count = story.events().len();
        let bytes: usize = story.events().iter().map(|event| event.payload.len()).sum();
        let signatures = story.events().iter().filter(|event| event.kind == EventKind::FinalitySignature).count();
        let (average, share) = (bytes / count, 100 * signatures / count);
        assert!((735..=795).contains(&average), "{average} bytes per event");
        assert!((81..=85).contains(&share), "{share} % finality signatures");
    }

    #[test]
    fn payloads_are_casper_types_values_in_their_own_spelling() {
        for event in Story::new(7, &StoryOptions::small(20)).events() {
            let value = inner(event);
            match event.kind {
                EventKind::BlockAdded => {
                    let block: Block = serde_json::from_value(value["block"].clone()).unwrap();
                    assert_eq!(serde_json::to_value(block.hash()).unwrap(), value["block_hash"]);
                    assert_eq!(Some(block.height()), event.height);
                }
                EventKind::TransactionAccepted => {
                    let transaction: Transaction = serde_json::from_value(value.clone()).unwrap();
                    assert_eq!(serde_json::to_value(transaction).unwrap(), value);
                }
                EventKind::TransactionProcessed => {
                    serde_json::from_value::<ExecutionResult>(value["execution_result"].clone()).unwrap();
                    serde_json::from_value::<Vec<Message>>(value["messages"].clone()).unwrap();
                }
                EventKind::FinalitySignature => {
                    let FinalitySignature::V2(signature) = serde_json::from_value(value.clone()).unwrap() else {
                        panic!("version 1 is not sent any more");
                    };
                    assert_eq!(Some(signature.block_height()), event.height);
                }
                EventKind::Step => {
                    serde_json::from_value::<Effects>(value["execution_effects"].clone()).unwrap();
                }
                EventKind::TransactionExpired => {
                    serde_json::from_value::<TransactionHash>(value["transaction_hash"].clone()).unwrap();
                }
                EventKind::Fault => {
                    serde_json::from_value::<PublicKey>(value["public_key"].clone()).unwrap();
                }
                EventKind::Shutdown | EventKind::Unclassified => panic!("not part of a story"),
            }
        }
    }

    /// Member names in order, down to where content decides about them.
    fn shape(value: &Value) -> Vec<String> {
        let Some(object) = value.as_object() else { return Vec::new() };
        let members = object
            .iter()
            .filter(|(name, _)| !["transactions", "effects", "fields", "era_end"].contains(&name.as_str()));
        members
            .flat_map(|(name, inner)| {
                std::iter::once(name.clone())
                    .chain(shape(inner).into_iter().map(move |deeper| format!("{name}.{deeper}")))
            })
            .collect()
    }

    #[test]
    fn members_stand_in_the_order_of_a_real_nodes_events() {
        let story = Story::new(7, &StoryOptions::small(200));
        let shapes: HashSet<Vec<String>> =
            story.events().iter().map(|event| shape(&serde_json::from_str(&event.payload).unwrap())).collect();
        for name in [
            "BlockAdded.node_with_transactions",
            "FinalitySignature.node_v2",
            "Step.node_a",
            "Fault.secp256k1",
            "TransactionAccepted.node_version1",
            "TransactionExpired.deploy",
            "TransactionProcessed.node_deploy",
        ] {
            let (_, sample) = recordings::samples().into_iter().find(|(known, _)| known == name).unwrap();
            let sample: Value = serde_json::from_str(&sample).unwrap();
            assert!(shapes.contains(&shape(&sample)), "no event has the shape of {name}: {:?}", shape(&sample));
        }
    }

    #[test]
    fn blocks_rise_one_by_one_and_events_stand_around_their_block() {
        let story = default_story();
        let heights: Vec<u64> =
            story.events().iter().filter(|e| e.kind == EventKind::BlockAdded).filter_map(|e| e.height).collect();
        assert_eq!(heights, (0..40).collect::<Vec<u64>>());
        let mut accepted = HashSet::new();
        for event in story.events() {
            match (event.kind, event.identity.split_once(':').unwrap().1) {
                (EventKind::TransactionAccepted, hash) => drop(accepted.insert(hash)),
                (EventKind::TransactionProcessed, hash) => assert!(accepted.contains(hash)),
                _ => {}
            }
        }
    }

    #[test]
    fn a_reordered_story_has_the_same_events_in_another_order() {
        let story = default_story();
        let reordered = story.reordered(5, 50);
        assert_ne!(story.events(), reordered.events());
        let sorted = |story: &Story| {
            let mut identities: Vec<String> = story.events().iter().map(|event| event.identity.clone()).collect();
            identities.sort();
            identities
        };
        assert_eq!(sorted(&story), sorted(&reordered));
        let of_kind =
            |story: &Story, kind| story.events().iter().filter(|e| e.kind == kind).cloned().collect::<Vec<_>>();
        assert_eq!(of_kind(&story, EventKind::BlockAdded), of_kind(&reordered, EventKind::BlockAdded));
    }

    #[test]
    fn back_fill_goes_down_and_has_no_messages() {
        let story = default_story();
        let back_fill = story.back_fill(10..20);
        let heights: Vec<u64> =
            back_fill.iter().filter(|e| e.kind == EventKind::BlockAdded).filter_map(|e| e.height).collect();
        assert_eq!(heights, (10..20).rev().collect::<Vec<u64>>());
        let with_messages = |event: &&StoryEvent| !inner(event)["messages"].as_array().is_none_or(Vec::is_empty);
        assert!(story.events().iter().any(|event| with_messages(&event)));
        assert!(!back_fill.iter().any(|event| with_messages(&event)));
        assert!(back_fill.iter().all(|e| e.kind != EventKind::TransactionAccepted && e.kind != EventKind::Step));
    }

    #[test]
    fn edge_cases_are_json_of_the_promised_size_and_unlike_each_other() {
        assert_eq!(of_size(3_000_000, 1).payload.len(), 3_000_000);
        let pretty = pretty_printed(&default_story().events()[0]);
        assert!(pretty.payload.contains('\n'));
        for event in
            [unknown_kind(1), unknown_kind(2), unknown_shape(1), non_ascii(1), of_size(64, 1), pretty, shutdown()]
        {
            serde_json::from_str::<Value>(&event.payload).unwrap();
        }
        assert_ne!(unknown_kind(1).identity, unknown_kind(2).identity);
        assert!(!non_ascii(1).payload.is_ascii());
    }
}
