//! Makes transactions: what is accepted, and what executing it does.

use std::collections::{BTreeMap, BTreeSet};

use casper_types::account::AccountHash;
use casper_types::bytesrepr::{Bytes, ToBytes};
use casper_types::contract_messages::{Message, MessagePayload, TopicNameHash};
use casper_types::execution::{Effects, ExecutionResult, ExecutionResultV2, TransformKindV2, TransformV2};
use casper_types::system::mint::BalanceHoldAddr;
use casper_types::{
    AccessRights, Approval, BlockHash, BlockTime, CLType, CLValue, Deploy, Digest, EntityAddr, Gas, InitiatorAddr, Key,
    PricingMode, RuntimeArgs, StoredValue, TimeDiff, Timestamp, Transaction, TransactionArgs, TransactionEntryPoint,
    TransactionHash, TransactionInvocationTarget, TransactionRuntimeParams, TransactionScheduling, TransactionTarget,
    TransactionV1, TransactionV1Hash, TransactionV1Payload, Transfer, TransferV2, U512, URef,
};
use rand::Rng;
use rand::seq::SliceRandom;

use super::super::EventKind;
use super::{Moment, Outermost, Teller, hash_identity, random_signature};

/// The key of a transaction's target among its fields.
const TARGET_FIELD: u16 = 1;

impl Teller<'_> {
    pub(super) fn accepted_transaction(&mut self, moment: Moment) -> Transaction {
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

    pub(super) fn processed_transaction(&mut self, moment: Moment, transaction: &Transaction, block_hash: &BlockHash) {
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
}

fn is_native_transfer(transaction: &Transaction) -> bool {
    match transaction {
        Transaction::Deploy(deploy) => deploy.is_transfer(),
        Transaction::V1(transaction) => {
            matches!(transaction.deserialize_field(TARGET_FIELD), Ok(TransactionTarget::Native))
        }
    }
}

pub(super) fn write(amount: U512) -> TransformKindV2 {
    TransformKindV2::Write(StoredValue::CLValue(CLValue::from_t(amount).unwrap()))
}

fn field(value: &impl ToBytes) -> Bytes {
    Bytes::from(value.to_bytes().unwrap())
}

pub(super) fn digest_of(transaction: &Transaction) -> Digest {
    match transaction.hash() {
        TransactionHash::Deploy(hash) => *hash.inner(),
        TransactionHash::V1(hash) => *hash.inner(),
    }
}
