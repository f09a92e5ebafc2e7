//! Recorded pairs, events made by the types' own generators, and payloads that no node should send.

use std::{collections::BTreeSet, fs, path::Path};

use casper_types::{
    Block, BlockV1, Deploy, FinalitySignature, InitiatorAddr, PublicKey, StoredValue, TestBlockBuilder, Transaction,
    TransactionHash,
    execution::{
        Effects, ExecutionResult, ExecutionResultV1, ExecutionResultV2, TransformKindV2, TransformV2,
        execution_result_v1::{ExecutionEffect, NamedKey, TransformKindV1, TransformV1},
    },
    gens::{key_arb, stored_value_arb},
    testing::TestRng,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    large::{accepted_deploy, without_transforms},
    *,
};

/// The 1.x payload; `None` for an event without one.
fn translated(payload: &str) -> serde_json::Result<Option<String>> {
    let mut out = b"before".to_vec();
    let has_form = translation::translate(payload.as_bytes(), &mut out)?;
    let text = String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned();
    assert!(has_form != text.is_empty());
    Ok(has_form.then_some(text))
}

/// Recorded pairs: their names, 2.x payloads, and 1.x payloads.
fn pairs() -> Vec<(String, String, Option<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/legacy");
    let mut pairs = Vec::new();
    for event in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for path in fs::read_dir(&event).unwrap().map(|entry| entry.unwrap().path()) {
            let Some(name) = path.to_str().unwrap().strip_suffix(".in.json").map(str::to_owned) else { continue };
            let read = |path: &str| fs::read_to_string(path).unwrap().trim_end().to_owned();
            let output = read(&format!("{name}.out.json"));
            pairs.push((name.clone(), read(path.to_str().unwrap()), (output != "null").then_some(output)));
        }
    }
    pairs
}

/// Versions are no events of a log: the engine sends them itself.
fn is_event(payload: &str) -> bool {
    !payload.starts_with("{\"ApiVersion\"") && !payload.starts_with("{\"SidecarVersion\"")
}

#[test]
fn recorded_events_have_the_references_form() {
    let pairs = pairs();
    assert_eq!(pairs.len(), 47);
    for (name, payload, expected) in pairs.iter().filter(|(_, payload, _)| is_event(payload)) {
        // A kind that no stream has is not even looked at.
        let got = translated(payload).or_else(|error| if name.contains("/step/") { Ok(None) } else { Err(error) });
        assert_eq!(&got.unwrap(), expected, "{name}");
    }
}

#[test]
fn white_space_between_tokens_and_unknown_members_change_nothing() {
    fn with_more_members(value: &mut Value, depth: usize) {
        match value {
            Value::Object(members) => {
                members.values_mut().for_each(|member| with_more_members(member, depth + 1));
                // Not where members are names of variants, keys or lanes, nor in what is copied whole.
                if members.len() > 2 && depth < 6 && !members.contains_key("0") {
                    members.insert("new_in_3".to_owned(), json!({"a": [null, " "]}));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| with_more_members(item, depth + 1)),
            _ => {}
        }
    }
    let mut changed = 0;
    for (name, payload, expected) in
        pairs().into_iter().filter(|(_, payload, output)| is_event(payload) && output.is_some())
    {
        let same = |got: Option<String>| {
            let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert!(got.as_deref().is_some_and(|got| !got.contains('\n')), "{name}");
            assert_eq!(got.as_deref().map(value), expected.as_deref().map(value), "{name}");
        };
        let mut value: Value = serde_json::from_str(&payload).unwrap();
        same(translated(&serde_json::to_string_pretty(&value).unwrap()).unwrap());
        if name.contains("/transaction_accepted/")
            || name.contains("v1_")
            || name.contains("v1result")
            || name.contains("/fault/")
        {
            continue;
        }
        with_more_members(&mut value, 0);
        changed += 1;
        same(translated(&value.to_string()).unwrap());
    }
    assert!(changed > 25, "{changed}");
}

#[test]
fn the_streams_share_only_the_shutdown() {
    let kinds = [LegacyStream::Main, LegacyStream::Deploys, LegacyStream::Signatures].map(LegacyStream::kinds);
    assert_eq!(kinds[0] & kinds[1], SHUTDOWN.bit());
    assert_eq!(kinds[0] & kinds[2], SHUTDOWN.bit());
    assert_eq!(kinds[1] & kinds[2], SHUTDOWN.bit());
}

#[test]
fn the_order_of_keys_is_that_of_the_types() {
    let mut rng = TestRng::new();
    let mut keys: Vec<PublicKey> = (0..100).map(|_| PublicKey::random(&mut rng)).collect();
    let mut texts: Vec<String> = keys.iter().map(PublicKey::to_hex_string).collect();
    keys.sort();
    texts.sort();
    assert_eq!(keys.iter().map(PublicKey::to_hex_string).collect::<Vec<_>>(), texts);
}

fn block_added(block: &Block) -> String {
    json!({"BlockAdded": {"block_hash": block.hash(), "block": block}}).to_string()
}

fn processed(result: &ExecutionResult) -> Value {
    let hash = "58aca0009fc41bd045d303db9e9f07416ff1fd8c76ecd98545eedf86f9459e80";
    json!({"TransactionProcessed": {
        "transaction_hash": {"Deploy": hash},
        "initiator_addr": {"PublicKey": "0203d98e2ec694b981cebd7cf35ac531d8717e86dc35912f2536b8807ad550621147"},
        "timestamp": "2020-08-07T01:24:41.209Z",
        "ttl": "4h 58m 10s 327ms",
        "block_hash": hash,
        "execution_result": result,
        "messages": [],
    }})
}

fn member<T: serde::de::DeserializeOwned>(text: &str, pointer: &str) -> T {
    let value: Value = serde_json::from_str(text).unwrap();
    serde_json::from_value(value.pointer(pointer).unwrap().clone()).unwrap()
}

#[test]
fn any_block_reads_as_one_of_1x() {
    let mut rng = TestRng::new();
    for number in 0..60 {
        let builder = TestBlockBuilder::new().random_transactions(number % 7, &mut rng).switch_block(number % 2 == 0);
        let block = builder.build(&mut rng);
        let text = translated(&block_added(&Block::V2(block.clone()))).unwrap().unwrap();
        let (read, hash): (BlockV1, String) =
            (member(&text, "/BlockAdded/block"), member(&text, "/BlockAdded/block_hash"));
        assert_eq!((read.height(), read.proposer()), (block.height(), block.proposer()));
        assert_eq!(hash, block.hash().to_hex_string());
        let deploys = block.all_transactions().filter(|hash| matches!(hash, TransactionHash::Deploy(_))).count();
        assert_eq!(read.deploy_and_transfer_hashes().count(), deploys);
        // Rewards of these blocks may be above 64 bits: then there is no end of an era.
        let end: Option<Value> = member(&text, "/BlockAdded/block/header/era_end");
        assert!(end.is_none() || block.era_end().is_some());
    }
}

#[test]
fn any_transaction_and_signature_reads_as_one_of_1x() {
    let mut rng = TestRng::new();
    let (mut deploys, mut others) = (0, 0);
    for _ in 0..60 {
        let transaction = Transaction::random(&mut rng);
        let accepted = translated(&json!({"TransactionAccepted": transaction}).to_string()).unwrap();
        let expired = json!({"TransactionExpired": {"transaction_hash": transaction.hash()}}).to_string();
        let expired = translated(&expired).unwrap();
        match transaction {
            Transaction::Deploy(deploy) => {
                deploys += 1;
                assert_eq!(member::<Deploy>(&accepted.unwrap(), "/DeployAccepted"), deploy);
                assert_eq!(
                    member::<String>(&expired.unwrap(), "/DeployExpired/deploy_hash"),
                    deploy.hash().to_hex_string()
                );
            }
            Transaction::V1(_) => {
                others += 1;
                assert_eq!((accepted, expired), (None, None));
            }
        }
        let signature = FinalitySignature::random(&mut rng);
        let payload = json!({"FinalitySignature": signature}).to_string();
        let text = translated(&payload).unwrap().unwrap();
        let v1: casper_types::FinalitySignatureV1 = member(&text, "/FinalitySignature");
        assert_eq!(
            (v1.block_hash(), v1.era_id(), v1.public_key()),
            (signature.block_hash(), signature.era_id(), signature.public_key())
        );
    }
    assert!(deploys > 0 && others > 0);
}

/// What the types say the 1.x form of a transform is.
fn expected_kind(kind: &TransformKindV2) -> Option<TransformKindV1> {
    Some(match kind.clone() {
        TransformKindV2::Identity => TransformKindV1::Identity,
        TransformKindV2::AddInt32(number) => TransformKindV1::AddInt32(number),
        TransformKindV2::AddUInt64(number) => TransformKindV1::AddUInt64(number),
        TransformKindV2::AddUInt128(number) => TransformKindV1::AddUInt128(number),
        TransformKindV2::AddUInt256(number) => TransformKindV1::AddUInt256(number),
        TransformKindV2::AddUInt512(number) => TransformKindV1::AddUInt512(number),
        TransformKindV2::AddKeys(keys) => {
            let named = |(name, key): (&String, &casper_types::Key)| NamedKey {
                name: name.clone(),
                key: key.to_formatted_string(),
            };
            TransformKindV1::AddKeys(keys.iter().map(named).collect())
        }
        TransformKindV2::Prune(key) => TransformKindV1::Prune(key),
        TransformKindV2::Failure(error) => TransformKindV1::Failure(error.to_string()),
        TransformKindV2::Write(value) => match value {
            StoredValue::CLValue(value) => TransformKindV1::WriteCLValue(value),
            StoredValue::Account(account) => TransformKindV1::WriteAccount(account.account_hash()),
            StoredValue::ContractWasm(_) => TransformKindV1::WriteContractWasm,
            StoredValue::Contract(_) => TransformKindV1::WriteContract,
            StoredValue::ContractPackage(_) => TransformKindV1::WriteContractPackage,
            StoredValue::Transfer(transfer) => TransformKindV1::WriteTransfer(transfer),
            StoredValue::DeployInfo(info) => TransformKindV1::WriteDeployInfo(info),
            StoredValue::EraInfo(info) => TransformKindV1::WriteEraInfo(info),
            StoredValue::Bid(bid) => TransformKindV1::WriteBid(bid),
            StoredValue::Withdraw(purses) => TransformKindV1::WriteWithdraw(purses),
            StoredValue::Unbonding(purses) => TransformKindV1::WriteUnbonding(purses),
            StoredValue::NamedKey(named) => {
                let (name, key) = (named.get_name().ok()?, named.get_key().ok()?.to_string());
                TransformKindV1::AddKeys(vec![NamedKey { name, key }])
            }
            _ => return None,
        },
    })
}

fn expected_result(result: &ExecutionResultV2) -> ExecutionResultV1 {
    let transform = |effect: &TransformV2| {
        Some(TransformV1 { key: effect.key().to_formatted_string(), transform: expected_kind(effect.kind())? })
    };
    let transforms = result.effects.transforms().iter().map(transform).collect::<Option<_>>().unwrap_or_default();
    let effect = ExecutionEffect { operations: Vec::new(), transforms };
    let (transfers, cost) = (Vec::new(), result.cost);
    match result.error_message.clone() {
        Some(error_message) => ExecutionResultV1::Failure { effect, transfers, cost, error_message },
        None => ExecutionResultV1::Success { effect, transfers, cost },
    }
}

fn assert_result_is_as_expected(result: ExecutionResultV2) {
    let expected = expected_result(&result);
    let payload = processed(&ExecutionResult::V2(Box::new(result)));
    let text = translated(&payload.to_string()).unwrap().unwrap();
    let pointer = "/DeployProcessed/execution_result";
    assert_eq!(member::<ExecutionResultV1>(&text, pointer), expected);
    assert_eq!(member::<Value>(&text, pointer), serde_json::to_value(&expected).unwrap());
}

#[test]
fn any_execution_result_reads_as_one_of_1x() {
    let mut rng = TestRng::new();
    for _ in 0..100 {
        assert_result_is_as_expected(ExecutionResultV2::random(&mut rng));
        match ExecutionResult::random(&mut rng) {
            ExecutionResult::V2(result) => assert_result_is_as_expected(*result),
            old => {
                let payload = processed(&old);
                let text = translated(&payload.to_string()).unwrap().unwrap();
                let ExecutionResult::V1(inner) = old else { unreachable!() };
                assert_eq!(member::<ExecutionResultV1>(&text, "/DeployProcessed/execution_result"), inner);
            }
        }
    }
    // 1.x has no form for who is known by a hash only.
    let mut payload = processed(&ExecutionResult::random(&mut rng));
    let hash = InitiatorAddr::AccountHash(casper_types::account::AccountHash::new([7; 32]));
    payload["TransactionProcessed"]["initiator_addr"] = serde_json::to_value(hash).unwrap();
    assert_eq!(translated(&payload.to_string()).unwrap(), None);
}

/// Any JSON.
fn json_arb() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[ -~é\\n\"]{0,12}".prop_map(Value::from),
        "[0-9]{0,200}".prop_map(Value::from),
        Just(json!("18446744073709551615")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z0-9_]{0,8}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The `number`th value in the tree, counted from its root.
fn nth<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Object(members) => members.values_mut().find_map(|member| nth(member, number)),
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, number)),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_stored_value_is_translated_as_the_types_say(
        values in prop::collection::vec((key_arb(), stored_value_arb()), 1..4),
        message in prop::option::of(".{0,20}"),
    ) {
        let mut effects = Effects::new();
        for (key, value) in values {
            effects.push(TransformV2::new(key, TransformKindV2::Write(value)));
        }
        let example = ExecutionResultV2::example().clone();
        assert_result_is_as_expected(ExecutionResultV2 { effects, error_message: message, ..example });
    }

    /// Whatever a member becomes, nothing panics, and what is sent is one line of JSON.
    #[test]
    fn a_payload_with_anything_in_it_is_translated_or_left_out(pair: prop::sample::Index, at: prop::sample::Index, value in json_arb()) {
        let pairs = pairs();
        let (_, payload, _) = pair.get(&pairs);
        let mut changed: Value = serde_json::from_str(payload).unwrap();
        let mut number = at.index(200);
        if let Some(place) = nth(&mut changed, &mut number) {
            *place = value;
        }
        if let Ok(Some(text)) = translated(&changed.to_string()) {
            prop_assert!(!text.contains('\n'));
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
        let bytes = changed.to_string();
        let cut = at.index(bytes.len());
        prop_assert!(translation::translate(&bytes.as_bytes()[..cut], &mut Vec::new()).is_err());
        // The same for what is read in pieces.
        let mut pieces = Vec::new();
        if let Ok(Some(mut message)) = accepted_deploy(io::Cursor::new(bytes.clone().into_bytes()), 7) {
            let _ = message.read_to_end(&mut pieces);
        }
        let _ = without_transforms(bytes.as_bytes(), 7);
    }
}

fn message(reader: Option<Box<dyn Read + Send>>) -> Option<String> {
    let mut text = String::new();
    reader?.read_to_string(&mut text).unwrap();
    Some(text)
}

#[test]
fn what_is_read_in_pieces_is_the_same_but_for_the_transforms() {
    let (mut deploys, mut processed) = (BTreeSet::new(), BTreeSet::new());
    for (name, payload, expected) in pairs() {
        let expected = expected.map(|expected| format!("data:{expected}\nid:7\n\n"));
        if name.contains("/transaction_accepted/") {
            let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&payload).unwrap()).unwrap();
            assert_eq!(message(accepted_deploy(io::Cursor::new(payload.into_bytes()), 7).unwrap()), expected, "{name}");
            let of_pretty = message(accepted_deploy(io::Cursor::new(pretty.into_bytes()), 7).unwrap());
            assert_eq!(of_pretty.map(|text| text.len()), expected.map(|text| text.len()), "{name}");
            deploys.insert(name);
        } else if name.contains("/transaction_processed/") && !name.contains("deploy_v1result") {
            let got = message(without_transforms(payload.as_bytes(), 7).unwrap()).unwrap();
            let expected = expected.unwrap();
            let data =
                |message: &str| message.strip_prefix("data:").unwrap().split_once("\nid:7\n\n").unwrap().0.to_owned();
            let mut wanted: Value = serde_json::from_str(&data(&expected)).unwrap();
            let result = &mut wanted["DeployProcessed"]["execution_result"];
            let name_of_result = if result.get("Success").is_some() { "Success" } else { "Failure" };
            result[name_of_result]["effect"]["transforms"] = json!([]);
            assert_eq!(serde_json::from_str::<Value>(&data(&got)).unwrap(), wanted, "{name}");
            processed.insert(name);
        }
    }
    assert!(deploys.len() >= 2 && processed.len() > 20);
}
