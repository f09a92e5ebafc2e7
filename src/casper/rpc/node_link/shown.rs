//! How much memory an answer's stored values take once they are JSON.
//!
//! casper-types shows a stored value as its bytes and, in `parsed`, as a tree with a JSON value for each element. It makes the
//! whole tree in memory, and the tree can be far larger than the bytes: a list of four thousand million units is 4 bytes long,
//! and an object of two bytes takes hundreds. Anyone can store such a value on a chain. So a decoded answer is measured here
//! before it is shown, and one whose trees would be too large is refused.

use casper_types::bytesrepr::{
    FromBytes, OPTION_NONE_TAG, OPTION_SOME_TAG, RESULT_ERR_TAG, RESULT_OK_TAG, U8_SERIALIZED_LENGTH,
    U32_SERIALIZED_LENGTH, U64_SERIALIZED_LENGTH,
};
use casper_types::crypto::{ED25519_TAG, SECP256K1_TAG};
use casper_types::execution::execution_result_v1::TransformKindV1;
use casper_types::execution::{Effects, ExecutionResult, ExecutionResultV1, TransformKindV2};
use casper_types::{
    CLType, CLValue, ExecutionInfo, Key, PublicKey, RuntimeArgs, StoredValue, Transaction, TransactionArgs,
    UREF_SERIALIZED_LENGTH,
};
use serde_json::Value;

use super::LinkError;

/// The most memory that the JSON trees of one answer may take, in bytes. A list of single bytes takes some 72 times its length:
/// of a node with the default limit of 4 MiB, all answers fit but the very longest of such lists.
const TREES_BYTES_MAX: usize = 256 << 20;

/// Memory of a value in a tree.
const VALUE_BYTES: usize = size_of::<Value>();

/// Memory of an object in a tree, which begins with room for four members.
const OBJECT_BYTES: usize = 4 * size_of::<(u64, String, Value)>();

/// The field of a version 1 transaction that has its arguments.
const ARGUMENTS_FIELD: u16 = 0;

/// A part of an answer that is shown with the values that it holds.
pub(super) trait Shown {
    /// Takes what the JSON of these values needs out of the budget.
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge>;
}

/// An answer's JSON would take too much memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the values' JSON would take more than {} MiB of memory", TREES_BYTES_MAX >> 20)]
pub(crate) struct TooLarge;

impl From<TooLarge> for LinkError {
    fn from(error: TooLarge) -> Self {
        LinkError::Undecodable(error.to_string())
    }
}

/// Memory that is left for the JSON of an answer.
pub(crate) struct Budget {
    bytes: usize,
}

/// Why a tree ends before its value.
enum End {
    /// The type cannot be shown, or the bytes are not of it. There is no `parsed` then.
    NotShown,
    TooLarge,
}

impl Budget {
    /// What one answer may take.
    pub(super) fn of_an_answer() -> Budget {
        Budget { bytes: TREES_BYTES_MAX }
    }

    fn take_value(&mut self, value: &CLValue) -> Result<(), TooLarge> {
        match self.take(value.cl_type(), value.inner_bytes()) {
            Err(End::TooLarge) => Err(TooLarge),
            Ok(_) | Err(End::NotShown) => Ok(()),
        }
    }

    /// Takes a value of this type, which the bytes begin with, and returns the bytes after it.
    fn take<'a>(&mut self, cl_type: &CLType, bytes: &'a [u8]) -> Result<&'a [u8], End> {
        self.take_bytes(VALUE_BYTES)?;
        match cl_type {
            CLType::Option(inner) => match u8::from_bytes(bytes)? {
                (OPTION_NONE_TAG, rest) => Ok(rest),
                (OPTION_SOME_TAG, rest) => self.take(inner, rest),
                _ => Err(End::NotShown),
            },
            CLType::Result { ok, err } => {
                self.take_bytes(OBJECT_BYTES)?;
                match u8::from_bytes(bytes)? {
                    (RESULT_OK_TAG, rest) => self.take(ok, rest),
                    (RESULT_ERR_TAG, rest) => self.take(err, rest),
                    _ => Err(End::NotShown),
                }
            }
            CLType::List(element) => {
                let (count, rest) = u32::from_bytes(bytes)?;
                (0..count).try_fold(rest, |rest, _| self.take(element, rest))
            }
            CLType::Map { key, value } => {
                let (count, rest) = u32::from_bytes(bytes)?;
                (0..count).try_fold(rest, |rest, _| {
                    self.take_bytes(OBJECT_BYTES)?;
                    let rest = self.take(key, rest)?;
                    self.take(value, rest)
                })
            }
            CLType::Tuple1(elements) => self.take_tuple(elements, bytes),
            CLType::Tuple2(elements) => self.take_tuple(elements, bytes),
            CLType::Tuple3(elements) => self.take_tuple(elements, bytes),
            scalar => {
                let length = scalar_length(scalar, bytes).ok_or(End::NotShown)?;
                let rest = bytes.get(length..).ok_or(End::NotShown)?;
                // In hexadecimal, or shorter.
                self.take_bytes(2 * length)?;
                Ok(rest)
            }
        }
    }

    fn take_tuple<'a>(&mut self, elements: &[Box<CLType>], bytes: &'a [u8]) -> Result<&'a [u8], End> {
        elements.iter().try_fold(bytes, |rest, element| self.take(element, rest))
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<(), End> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(End::TooLarge)?;
        Ok(())
    }
}

impl From<casper_types::bytesrepr::Error> for End {
    fn from(_: casper_types::bytesrepr::Error) -> Self {
        End::NotShown
    }
}

/// How many bytes the value has that these bytes begin with; `None` if it cannot be shown.
fn scalar_length(cl_type: &CLType, bytes: &[u8]) -> Option<usize> {
    match cl_type {
        CLType::Unit => Some(0),
        CLType::Bool | CLType::U8 => Some(U8_SERIALIZED_LENGTH),
        CLType::I32 | CLType::U32 => Some(U32_SERIALIZED_LENGTH),
        CLType::I64 | CLType::U64 => Some(U64_SERIALIZED_LENGTH),
        CLType::U128 | CLType::U256 | CLType::U512 => Some(U8_SERIALIZED_LENGTH + usize::from(*bytes.first()?)),
        CLType::String => {
            let (length, _) = u32::from_bytes(bytes).ok()?;
            usize::try_from(length).ok()?.checked_add(U32_SERIALIZED_LENGTH)
        }
        CLType::Key => Some(bytes.len() - Key::from_bytes(bytes).ok()?.1.len()),
        CLType::URef => Some(UREF_SERIALIZED_LENGTH),
        // Reading the key as one would compute with curves.
        CLType::PublicKey => match *bytes.first()? {
            ED25519_TAG => Some(U8_SERIALIZED_LENGTH + PublicKey::ED25519_LENGTH),
            SECP256K1_TAG => Some(U8_SERIALIZED_LENGTH + PublicKey::SECP256K1_LENGTH),
            _ => Some(U8_SERIALIZED_LENGTH),
        },
        CLType::ByteArray(length) => usize::try_from(*length).ok(),
        _ => None,
    }
}

impl Shown for StoredValue {
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        match self {
            StoredValue::CLValue(value) => budget.take_value(value),
            StoredValue::NamedKey(named_key) => {
                budget.take_value(named_key.get_key_as_cl_value())?;
                budget.take_value(named_key.get_name_as_cl_value())
            }
            _ => Ok(()),
        }
    }
}

impl Shown for Transaction {
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        match self {
            Transaction::Deploy(deploy) => {
                deploy.payment().args().measure(budget)?;
                deploy.session().args().measure(budget)
            }
            Transaction::V1(transaction) => match transaction.deserialize_field(ARGUMENTS_FIELD) {
                Ok(TransactionArgs::Named(arguments)) => arguments.measure(budget),
                Ok(TransactionArgs::Bytesrepr(_)) | Err(_) => Ok(()),
            },
        }
    }
}

impl Shown for RuntimeArgs {
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        self.named_args().try_for_each(|argument| budget.take_value(argument.cl_value()))
    }
}

impl Shown for ExecutionInfo {
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        match &self.execution_result {
            Some(ExecutionResult::V1(
                ExecutionResultV1::Success { effect, .. } | ExecutionResultV1::Failure { effect, .. },
            )) => effect.transforms.iter().try_for_each(|entry| match &entry.transform {
                TransformKindV1::WriteCLValue(value) => budget.take_value(value),
                _ => Ok(()),
            }),
            Some(ExecutionResult::V2(result)) => result.effects.measure(budget),
            None => Ok(()),
        }
    }
}

impl Shown for Effects {
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        self.transforms().iter().try_for_each(|transform| match transform.kind() {
            TransformKindV2::Write(value) => value.measure(budget),
            _ => Ok(()),
        })
    }
}

impl<T: Shown> Shown for Option<T> {
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        self.iter().try_for_each(|shown| shown.measure(budget))
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn measure(&self, budget: &mut Budget) -> Result<(), TooLarge> {
        self.iter().try_for_each(|shown| shown.measure(budget))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use casper_types::addressable_entity::NamedKeyValue;
    use casper_types::bytesrepr::{Bytes, ToBytes};
    use casper_types::execution::execution_result_v1::{ExecutionEffect, TransformV1};
    use casper_types::execution::{ExecutionResultV2, TransformV2};
    use casper_types::testing::TestRng;
    use casper_types::{
        AccessRights, BlockHash, Deploy, Digest, ExecutableDeployItem, InitiatorAddr, PricingMode, SecretKey, TimeDiff,
        Timestamp, TransactionV1, TransactionV1Payload, U128, U256, U512, URef, cl_value_to_json,
    };

    use super::*;

    fn measured(shown: &impl Shown) -> Result<(), TooLarge> {
        shown.measure(&mut Budget::of_an_answer())
    }

    /// A list with this many elements of a type, and no bytes for them.
    fn list(element: CLType, count: u32) -> CLValue {
        CLValue::from_components(CLType::List(Box::new(element)), count.to_bytes().unwrap())
    }

    #[test]
    fn a_list_of_values_without_bytes_is_refused_by_how_many_there_are() {
        let pair = CLType::Tuple2([Box::new(CLType::Unit), Box::new(CLType::ByteArray(0))]);
        for element in [CLType::Unit, CLType::ByteArray(0), pair] {
            assert_eq!(measured(&StoredValue::CLValue(list(element.clone(), u32::MAX))), Err(TooLarge), "{element:?}");
            assert_eq!(measured(&StoredValue::CLValue(list(element.clone(), 1_000))), Ok(()), "{element:?}");
        }
        let units = CLType::Map { key: Box::new(CLType::Unit), value: Box::new(CLType::Unit) };
        let map = CLValue::from_components(units, u32::MAX.to_bytes().unwrap());
        assert_eq!(measured(&StoredValue::CLValue(map)), Err(TooLarge));
    }

    #[test]
    fn many_objects_of_few_bytes_are_refused() {
        let mut element = CLType::Bool;
        for _ in 0..20 {
            element = CLType::Result { ok: Box::new(element), err: Box::new(CLType::Unit) };
        }
        let mut bytes = 30_000u32.to_bytes().unwrap();
        bytes.resize(4 + 30_000 * 21, 1);
        let value = CLValue::from_components(CLType::List(Box::new(element)), bytes);
        assert!(value.serialized_length() < 1 << 20);
        assert_eq!(measured(&StoredValue::CLValue(value)), Err(TooLarge));
    }

    #[test]
    fn a_long_list_of_single_bytes_is_shown() {
        let value = CLValue::from_t(Bytes::from(vec![7; 3 << 20])).unwrap();
        assert_eq!(measured(&StoredValue::CLValue(value)), Ok(()));
    }

    #[test]
    fn all_values_of_an_answer_share_one_budget() {
        let value = StoredValue::CLValue(list(CLType::Unit, 1_500_000));
        assert_eq!(measured(&value), Ok(()));
        assert_eq!(measured(&vec![value.clone(), value.clone()]), Ok(()));
        assert_eq!(measured(&vec![value; 3]), Err(TooLarge));
    }

    /// What is measured is what casper-types makes a tree of: it reads each type to the same byte.
    #[test]
    fn values_are_read_as_they_are_shown() {
        let rng = &mut TestRng::from_seed([3; 16]);
        let (ed25519, secp256k1) = (PublicKey::random_ed25519(rng), PublicKey::random_secp256k1(rng));
        let map = BTreeMap::from([("a".to_owned(), vec![Some(1u64), None]), ("b".to_owned(), vec![])]);
        let values = [
            CLValue::from_t((true, -1i32, i64::MIN)),
            CLValue::from_t((1u8, 2u32, 3u64)),
            CLValue::from_t((U128::one(), U256::MAX, U512::MAX)),
            CLValue::from_t(((), "text", (1u8,))),
            CLValue::from_t((Key::Hash([9; 32]), URef::new([1; 32], AccessRights::READ))),
            CLValue::from_t(vec![ed25519, secp256k1, PublicKey::System]),
            CLValue::from_t(vec![Ok::<u8, String>(1), Err("no".to_owned())]),
            CLValue::from_t(([7u8; 32], map)),
        ];
        for value in values {
            let value = value.unwrap();
            assert!(cl_value_to_json(&value).is_some(), "{value:?}");
            let mut budget = Budget::of_an_answer();
            let rest = budget.take(value.cl_type(), value.inner_bytes());
            assert!(matches!(rest, Ok([])), "{value:?}");
            for end in 0..value.inner_bytes().len() {
                let rest = Budget::of_an_answer().take(value.cl_type(), &value.inner_bytes()[..end]);
                assert!(matches!(rest, Err(End::NotShown)), "{value:?} to {end}");
            }
        }
    }

    #[test]
    fn values_are_found_wherever_an_answer_shows_them() {
        let huge = || list(CLType::Unit, u32::MAX);
        let name = CLValue::from_t("name").unwrap();
        assert_eq!(measured(&StoredValue::NamedKey(NamedKeyValue::new(huge(), name.clone()))), Err(TooLarge));
        assert_eq!(measured(&StoredValue::NamedKey(NamedKeyValue::new(name, huge()))), Err(TooLarge));

        let none = RuntimeArgs::new();
        let mut some = RuntimeArgs::new();
        some.insert_cl_value("huge", huge());
        let results = [(&none, &none, Ok(())), (&some, &none, Err(TooLarge)), (&none, &some, Err(TooLarge))];
        for (payment, session, result) in results {
            assert_eq!(measured(&deploy(payment, session)), result);
        }
        assert_eq!(measured(&version_1(TransactionArgs::Named(none))), Ok(()));
        assert_eq!(measured(&version_1(TransactionArgs::Named(some))), Err(TooLarge));
        assert_eq!(measured(&version_1(TransactionArgs::Bytesrepr(vec![1].into()))), Ok(()));

        assert_eq!(measured(&executed_by_version_1(TransformKindV1::WriteCLValue(huge()))), Err(TooLarge));
        assert_eq!(measured(&executed_by_version_1(TransformKindV1::Identity)), Ok(()));
        let written = TransformKindV2::Write(StoredValue::CLValue(huge()));
        assert_eq!(measured(&executed_by_version_2(written)), Err(TooLarge));
        assert_eq!(measured(&executed_by_version_2(TransformKindV2::Identity)), Ok(()));
    }

    fn deploy(payment: &RuntimeArgs, session: &RuntimeArgs) -> Transaction {
        let item = |arguments: &RuntimeArgs| ExecutableDeployItem::new_module_bytes(vec![1].into(), arguments.clone());
        let (now, life) = (Timestamp::zero(), TimeDiff::from_seconds(1));
        let key = SecretKey::ed25519_from_bytes([1; 32]).unwrap();
        let (payment, session) = (item(payment), item(session));
        Transaction::Deploy(Deploy::new_signed(now, life, 1, vec![], "chain".to_owned(), payment, session, &key, None))
    }

    fn version_1(arguments: TransactionArgs) -> Transaction {
        let fields = BTreeMap::from([(ARGUMENTS_FIELD, Bytes::from(arguments.to_bytes().unwrap()))]);
        let pricing = PricingMode::Fixed { additional_computation_factor: 0, gas_price_tolerance: 1 };
        let (now, life) = (Timestamp::zero(), TimeDiff::from_seconds(1));
        let initiator = InitiatorAddr::PublicKey(PublicKey::System);
        let payload = TransactionV1Payload::new("chain".to_owned(), now, life, pricing, initiator, fields);
        Transaction::V1(TransactionV1::new(Digest::default().into(), payload, BTreeSet::new()))
    }

    fn executed_by_version_1(transform: TransformKindV1) -> ExecutionInfo {
        let transforms = vec![TransformV1 { key: "key".to_owned(), transform }];
        let effect = ExecutionEffect { operations: vec![], transforms };
        executed(ExecutionResultV1::Success { effect, transfers: vec![], cost: U512::one() }.into())
    }

    fn executed_by_version_2(transform: TransformKindV2) -> ExecutionInfo {
        let mut result = ExecutionResultV2::example().clone();
        result.effects.push(TransformV2::new(Key::Hash([1; 32]), transform));
        executed(result.into())
    }

    fn executed(result: ExecutionResult) -> ExecutionInfo {
        ExecutionInfo { block_hash: BlockHash::default(), block_height: 1, execution_result: Some(result) }
    }
}
