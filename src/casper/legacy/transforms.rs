//! The effects of an execution, one transform each.
//!
//! Values that came with 2.x have no 1.x form. They are not listed here: what is not known cannot be translated, and so it
//! is with what later versions bring.

use casper_types::{addressable_entity::NamedKeyValue, execution::TransformError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text::Text;

#[derive(Deserialize)]
struct Effect<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    kind: Kind<'a>,
}

#[derive(Deserialize)]
enum Kind<'a> {
    Identity,
    #[serde(borrow)]
    Write(Written<'a>),
    AddInt32(i32),
    AddUInt64(u64),
    AddUInt128(Text<'a>),
    AddUInt256(Text<'a>),
    AddUInt512(Text<'a>),
    AddKeys(Vec<NamedKey<'a>>),
    Prune(Text<'a>),
    Failure(TransformError),
}

#[derive(Deserialize)]
enum Written<'a> {
    #[serde(borrow, rename = "CLValue")]
    ClValue(&'a RawValue),
    Account(Account<'a>),
    ContractWasm(serde::de::IgnoredAny),
    Contract(serde::de::IgnoredAny),
    ContractPackage(serde::de::IgnoredAny),
    #[serde(alias = "LegacyTransfer")]
    Transfer(&'a RawValue),
    DeployInfo(&'a RawValue),
    EraInfo(&'a RawValue),
    Bid(&'a RawValue),
    Withdraw(&'a RawValue),
    Unbonding(&'a RawValue),
    NamedKey(Box<NamedKeyValue>),
}

#[derive(Deserialize)]
struct Account<'a> {
    #[serde(borrow)]
    account_hash: Text<'a>,
}

#[derive(Serialize)]
pub(super) struct Transform<'a> {
    key: Text<'a>,
    transform: TransformKind<'a>,
}

#[derive(Serialize)]
enum TransformKind<'a> {
    Identity,
    #[serde(rename = "WriteCLValue")]
    WriteClValue(&'a RawValue),
    WriteAccount(Text<'a>),
    WriteContractWasm,
    WriteContract,
    WriteContractPackage,
    WriteTransfer(&'a RawValue),
    WriteDeployInfo(&'a RawValue),
    WriteEraInfo(&'a RawValue),
    WriteBid(&'a RawValue),
    WriteWithdraw(&'a RawValue),
    WriteUnbonding(&'a RawValue),
    AddInt32(i32),
    AddUInt64(u64),
    AddUInt128(Text<'a>),
    AddUInt256(Text<'a>),
    AddUInt512(Text<'a>),
    AddKeys(Vec<NamedKey<'a>>),
    Prune(Text<'a>),
    Failure(String),
}

#[derive(Deserialize, Serialize)]
struct NamedKey<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    key: Text<'a>,
}

/// The transforms of all effects in their order; `None` if one of them cannot be translated.
pub(super) fn translated(effects: &RawValue) -> Option<Vec<Transform<'_>>> {
    let effects: Vec<Effect<'_>> = serde_json::from_str(effects.get()).ok()?;
    effects.into_iter().map(Effect::translated).collect()
}

impl<'a> Effect<'a> {
    fn translated(self) -> Option<Transform<'a>> {
        let transform = match self.kind {
            Kind::Identity => TransformKind::Identity,
            Kind::Write(written) => written.translated()?,
            Kind::AddInt32(number) => TransformKind::AddInt32(number),
            Kind::AddUInt64(number) => TransformKind::AddUInt64(number),
            Kind::AddUInt128(number) => TransformKind::AddUInt128(number),
            Kind::AddUInt256(number) => TransformKind::AddUInt256(number),
            Kind::AddUInt512(number) => TransformKind::AddUInt512(number),
            Kind::AddKeys(mut keys) => {
                keys.sort_by(|left, right| left.name.cmp(&right.name));
                TransformKind::AddKeys(keys)
            }
            Kind::Prune(key) => TransformKind::Prune(key),
            Kind::Failure(error) => TransformKind::Failure(error.to_string()),
        };
        Some(Transform { key: self.key, transform })
    }
}

impl<'a> Written<'a> {
    fn translated(self) -> Option<TransformKind<'a>> {
        Some(match self {
            Written::ClValue(value) => TransformKind::WriteClValue(value),
            Written::Account(account) => TransformKind::WriteAccount(account.account_hash),
            Written::ContractWasm(_) => TransformKind::WriteContractWasm,
            Written::Contract(_) => TransformKind::WriteContract,
            Written::ContractPackage(_) => TransformKind::WriteContractPackage,
            Written::Transfer(transfer) => TransformKind::WriteTransfer(transfer),
            Written::DeployInfo(info) => TransformKind::WriteDeployInfo(info),
            Written::EraInfo(info) => TransformKind::WriteEraInfo(info),
            Written::Bid(bid) => TransformKind::WriteBid(bid),
            Written::Withdraw(purses) => TransformKind::WriteWithdraw(purses),
            Written::Unbonding(purses) => TransformKind::WriteUnbonding(purses),
            // The key in its display form, as the reference writes it here and nowhere else.
            Written::NamedKey(named) => TransformKind::AddKeys(vec![NamedKey {
                name: Text(named.get_name().ok()?.into()),
                key: Text(named.get_key().ok()?.to_string().into()),
            }]),
        })
    }
}
