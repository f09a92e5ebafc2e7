//! Deploys and transactions, signed.

use std::collections::BTreeMap;

use anyhow::Result;
use sidecar_test_support::casper_types::bytesrepr::{Bytes, ToBytes};
use sidecar_test_support::casper_types::{
    Deploy, Digest, ExecutableDeployItem, InitiatorAddr, PricingMode, PublicKey, RuntimeArgs, SecretKey, TimeDiff,
    Timestamp, Transaction, TransactionArgs, TransactionEntryPoint, TransactionInvocationTarget,
    TransactionRuntimeParams, TransactionScheduling, TransactionTarget, TransactionV1, TransactionV1Payload, U512,
    runtime_args,
};

use crate::contract::{CONTRACT, ENTRY_POINT};

/// What a transfer costs.
const TRANSFER_PAYMENT: u64 = 100_000_000;
/// More than a call of the contract costs.
const CALL_PAYMENT: u64 = 5_000_000_000;
/// What delegating costs.
const DELEGATION_PAYMENT: u64 = 2_500_000_000;
/// More than installing the contract costs.
const INSTALLATION_PAYMENT: u64 = 200_000_000_000;

const TTL: TimeDiff = TimeDiff::from_seconds(1800);

/// What is done, and what may be paid for it.
pub(crate) struct Work {
    target: TransactionTarget,
    entry_point: TransactionEntryPoint,
    arguments: RuntimeArgs,
    payment: u64,
}

/// A transfer to an account.
pub(crate) fn transfer(to: &PublicKey, motes: u64) -> Work {
    Work {
        target: TransactionTarget::Native,
        entry_point: TransactionEntryPoint::Transfer,
        arguments: runtime_args! { "target" => to.clone(), "amount" => U512::from(motes), "id" => Some(7_u64) },
        payment: TRANSFER_PAYMENT,
    }
}

/// A delegation to a validator.
pub(crate) fn delegation(delegator: &PublicKey, validator: &PublicKey, motes: u64) -> Work {
    Work {
        target: TransactionTarget::Native,
        entry_point: TransactionEntryPoint::Delegate,
        arguments: runtime_args! {
            "delegator" => delegator.clone(), "validator" => validator.clone(), "amount" => U512::from(motes)
        },
        payment: DELEGATION_PAYMENT,
    }
}

/// Installing a contract.
pub(crate) fn installation(module: Vec<u8>) -> Work {
    let target = TransactionTarget::Session {
        is_install_upgrade: true,
        module_bytes: module.into(),
        runtime: TransactionRuntimeParams::VmCasperV1,
    };
    Work {
        target,
        entry_point: TransactionEntryPoint::Call,
        arguments: RuntimeArgs::new(),
        payment: INSTALLATION_PAYMENT,
    }
}

/// Calling the contract of the account that signs.
pub(crate) fn contract_call() -> Work {
    let target = TransactionTarget::Stored {
        id: TransactionInvocationTarget::ByName(CONTRACT.to_owned()),
        runtime: TransactionRuntimeParams::VmCasperV1,
    };
    Work {
        target,
        entry_point: TransactionEntryPoint::Custom(ENTRY_POINT.to_owned()),
        arguments: RuntimeArgs::new(),
        payment: CALL_PAYMENT,
    }
}

/// A transaction of version 1.
pub(crate) fn signed(chain: &str, key: &SecretKey, work: Work) -> Result<Transaction> {
    let fields = [
        TransactionArgs::Named(work.arguments).to_bytes()?,
        work.target.to_bytes()?,
        work.entry_point.to_bytes()?,
        TransactionScheduling::Standard.to_bytes()?,
    ];
    let fields: BTreeMap<u16, Bytes> = (0..).zip(fields.map(Bytes::from)).collect();
    let pricing =
        PricingMode::PaymentLimited { payment_amount: work.payment, gas_price_tolerance: 1, standard_payment: true };
    let initiator = InitiatorAddr::PublicKey(PublicKey::from(key));
    let payload = TransactionV1Payload::new(chain.to_owned(), Timestamp::now(), TTL, pricing, initiator, fields);
    let hash = Digest::hash(payload.to_bytes()?);
    let mut transaction = TransactionV1::new(hash.into(), payload, Default::default());
    transaction.sign(key);
    Ok(transaction.into())
}

/// A deploy that transfers to an account.
pub(crate) fn transfer_deploy(chain: &str, key: &SecretKey, to: &PublicKey, motes: u64) -> Deploy {
    let session = ExecutableDeployItem::new_transfer(motes, None, to.clone(), Some(8));
    deploy(chain, key, TRANSFER_PAYMENT, session)
}

/// A deploy that calls the contract of the account that signs.
pub(crate) fn call_deploy(chain: &str, key: &SecretKey) -> Deploy {
    let session = ExecutableDeployItem::new_stored_contract_by_name(
        CONTRACT.to_owned(),
        ENTRY_POINT.to_owned(),
        RuntimeArgs::new(),
    );
    deploy(chain, key, CALL_PAYMENT, session)
}

fn deploy(chain: &str, key: &SecretKey, payment: u64, session: ExecutableDeployItem) -> Deploy {
    let payment = ExecutableDeployItem::new_standard_payment(payment);
    Deploy::new_signed(Timestamp::now(), TTL, 1, Vec::new(), chain.to_owned(), payment, session, key, None)
}
