//! Every method: against recorded answers, and its documented bad cases.

use std::collections::BTreeMap;

use casper_binary_port::{BinaryResponse, ErrorCode, ResponseType};
use casper_types::account::AccountHash;
use casper_types::contracts::NamedKeys;
use casper_types::system::auction::{BidKind, DelegatorKind, SeigniorageRecipientV2, ValidatorBid};
use casper_types::testing::TestRng;
use casper_types::{
    AccessRights, Account, AvailableBlockRange, Block, BlockHeader, BlockSignatures, BlockSignaturesV2,
    BlockSynchronizerStatus, BlockWithSignatures, CLValue, ChainNameDigest, ChainspecRawBytes, Deploy, Digest, EraId,
    ExecutionInfo, Key, NextUpgrade, Peers, ProtocolVersion, PublicKey, Signature, StoredValue, TestBlockBuilder,
    TimeDiff, Timestamp, Transaction, TransactionV1, U512, URef, ValidatorChange,
};
use serde_json::{Value, json};

use super::bridge::{Bridge, Raw, Sample, error, nothing, value};

/// Compares the answer to a recorded request with the recorded answer, over a node that gives these answers.
async fn compare(name: &str, answers: Vec<BinaryResponse>) -> Vec<String> {
    let sample = Sample::read(name);
    let bridge = Bridge::answering(answers);
    assert_eq!(bridge.answer_to(&sample).await, sample.response, "{name}");
    bridge.asked()
}

fn item(sample: &Sample) -> BinaryResponse {
    let stored: StoredValue = sample.part("/stored_value");
    value(ResponseType::GlobalStateQueryResult, &[&stored, &Raw(sample.proof("/merkle_proof"))])
}

fn header(header: &BlockHeader) -> BinaryResponse {
    value(ResponseType::BlockHeader, &[header])
}

fn range(low: u64, high: u64) -> BinaryResponse {
    value(ResponseType::AvailableBlockRange, &[&AvailableBlockRange::new(low, high)])
}

/// The header of the block with the recorded state.
fn recorded_header() -> BlockHeader {
    Sample::read("query_global_state").part("/block_header")
}

fn made_header(era: u64, is_switch_block: bool, root: Digest) -> BlockHeader {
    let making = move || {
        let block = TestBlockBuilder::new().era(era).switch_block(is_switch_block).state_root_hash(root);
        BlockHeader::V2(block.build(&mut TestRng::new()).header().clone())
    };
    // A thread may make only one of these generators.
    std::thread::spawn(making).join().unwrap()
}

#[tokio::test]
async fn blocks_are_answered_as_recorded() {
    for name in ["chain_get_block", "chain_get_block_latest"] {
        let sample = Sample::read(name);
        let block: Block = sample.part("/block_with_signatures/block");
        let chain = ChainNameDigest::from_chain_name("casper-local");
        let mut signatures = BlockSignaturesV2::new(*block.hash(), block.height(), block.era_id(), chain);
        for proof in sample.part::<Vec<Value>>("/block_with_signatures/proofs") {
            let key: PublicKey = serde_json::from_value(proof["public_key"].clone()).unwrap();
            let signature: Signature = serde_json::from_value(proof["signature"].clone()).unwrap();
            signatures.insert_signature(key, signature);
        }
        let block = BlockWithSignatures::new(block, BlockSignatures::V2(signatures));
        let asked = compare(name, vec![value(ResponseType::BlockWithSignatures, &[&block])]).await;
        assert_eq!(asked, ["BlockWithSignatures"]);
    }
}

#[tokio::test]
async fn a_block_that_is_not_there_is_answered_with_the_range_of_those_that_are() {
    let asked = compare("block_missing", vec![nothing(), range(0, 160)]).await;
    assert_eq!(asked, ["BlockWithSignatures", "AvailableBlockRange"]);
    // The node's own word for it is the same.
    compare("block_missing", vec![error(ErrorCode::NotFound), range(0, 160)]).await;
}

#[tokio::test]
async fn transfers_are_answered_as_recorded() {
    let transfers = BinaryResponse::from_raw_bytes(ResponseType::Transfers, vec![0; 8]);
    let asked = compare("chain_get_block_transfers", vec![header(&recorded_header()), transfers]).await;
    assert_eq!(asked.len(), 2);
    assert!(asked[1].starts_with("Record { record_type_tag: 6"), "{asked:?}");
}

#[tokio::test]
async fn transfers_are_decoded_from_their_own_encoding_and_null_without_any() {
    use casper_types::{Transfer, TransferV2};

    let transfer = |amount: u64| {
        let recorded: TransferV2 = serde_json::from_value(json!({
            "transaction_hash": {"Version1": "11".repeat(32)},
            "from": {"AccountHash": format!("account-hash-{}", "22".repeat(32))},
            "to": null,
            "source": format!("uref-{}-007", "33".repeat(32)),
            "target": format!("uref-{}-007", "44".repeat(32)),
            "amount": amount.to_string(),
            "gas": "0",
            "id": 7
        }))
        .unwrap();
        Transfer::V2(recorded)
    };
    let transfers = bincode::serialize(&vec![transfer(5), transfer(6)]).unwrap();
    let transfers = BinaryResponse::from_raw_bytes(ResponseType::Transfers, transfers);
    let bridge = Bridge::answering([header(&recorded_header()), transfers, header(&recorded_header()), nothing()]);
    let answer = bridge.call("chain_get_block_transfers", json!([])).await;
    assert_eq!(answer["result"]["transfers"][1]["Version2"]["amount"], "6", "{answer}");
    let answer = bridge.call("chain_get_block_transfers", json!([])).await;
    assert_eq!(answer["result"]["transfers"], Value::Null, "{answer}");
}

#[tokio::test]
async fn the_state_root_hash_is_the_headers() {
    let bridge = Bridge::answering([header(&recorded_header())]);
    let answer = bridge.call("chain_get_state_root_hash", Value::Null).await;
    let expected = "d16476b48f5f745cd9a9fdc08f614fa360c750f0a6ccca2f432065e4b40547a6";
    assert_eq!(answer["result"], json!({"api_version": "2.0.0", "state_root_hash": expected}));
}

#[tokio::test]
async fn eras_are_answered_as_recorded() {
    for (name, params) in
        [("chain_get_era_summary", Value::Null), ("chain_get_era_info_by_switch_block", json!([{"Height": 150}]))]
    {
        let sample = Sample::read(name);
        let root: Digest = sample.part("/era_summary/state_root_hash");
        let header_of_era = made_header(15, true, root);
        let stored: StoredValue = sample.part("/era_summary/stored_value");
        let proof = Raw(sample.proof("/era_summary/merkle_proof"));
        let summary = || value(ResponseType::GlobalStateQueryResult, &[&stored, &proof]);
        // Older blocks have it under another key.
        let bridge =
            Bridge::answering([header(&header_of_era), summary(), header(&header_of_era), nothing(), summary()]);
        let mut expected = sample.result().clone();
        expected["era_summary"]["block_hash"] = serde_json::to_value(header_of_era.block_hash()).unwrap();
        for _ in 0..2 {
            assert_eq!(bridge.call(name, params.clone()).await["result"], expected, "{name}");
        }
        let asked = bridge.asked();
        let first = if params.is_null() { "LatestSwitchBlockHeader" } else { "BlockHeader" };
        assert_eq!(asked[0], first);
        assert!(asked[3].contains("EraSummary") && asked[4].contains("EraInfo"), "{asked:?}");
    }
}

#[tokio::test]
async fn an_era_info_of_a_block_inside_an_era_is_null_and_an_era_without_any_is_not_found() {
    let inside = made_header(3, false, Digest::hash([1]));
    let asked = compare("era_info_nonswitch", vec![header(&inside)]).await;
    assert_eq!(asked, ["BlockHeader"]);
    let bridge = Bridge::answering([header(&inside), nothing(), nothing()]);
    let answer = bridge.call("chain_get_era_summary", json!([{"Height": 2}])).await;
    assert_eq!(answer["error"]["code"], -32003);
}

#[tokio::test]
async fn values_of_the_global_state_are_answered_as_recorded() {
    let sample = Sample::read("state_get_item");
    compare("state_get_item", vec![item(&sample)]).await;
    let sample = Sample::read("qgs_srh");
    compare("qgs_srh", vec![item(&sample)]).await;
    let sample = Sample::read("query_global_state");
    let asked = compare("query_global_state", vec![header(&recorded_header()), item(&sample)]).await;
    assert_eq!(asked[0], "BlockHeader");
    assert!(asked[1].contains("State") && asked[1].contains("EraSummary"), "{asked:?}");
    compare("qgs_missing", vec![nothing()]).await;
    compare("item_badroot", vec![error(ErrorCode::RootNotFound)]).await;
}

#[tokio::test]
async fn balances_are_answered_as_recorded() {
    let sample = Sample::read("query_balance_details");
    let (total, available): (U512, U512) = (sample.part("/total_balance"), sample.part("/available_balance"));
    // One proof, which results have as a list of one.
    let proof = Raw(sample.proof("/total_balance_proof")[4..].to_vec());
    let balance = || value(ResponseType::BalanceResponse, &[&total, &available, &proof, &0_u32]);
    for name in ["query_balance", "query_balance_details", "state_get_balance"] {
        let asked = compare(name, vec![balance()]).await;
        assert!(asked[0].contains("Balance"), "{asked:?}");
    }
}

#[tokio::test]
async fn holds_on_a_balance_are_listed_with_their_proofs() {
    let sample = Sample::read("query_balance_details");
    let total: U512 = sample.part("/total_balance");
    let proof = sample.proof("/total_balance_proof");
    let one = Raw(proof[4..].to_vec());
    let (held, held_by) = (U512::from(77_u64), 0_u8);
    // A map of times to maps of kinds: one of each.
    let parts: &[&dyn super::bridge::Part] = &[&total, &total, &one, &1_u32, &1234_u64, &1_u32, &held_by, &held, &one];
    let bridge = Bridge::answering([value(ResponseType::BalanceResponse, parts)]);
    let purse = json!({"purse_uref": format!("uref-{}-007", "01".repeat(32))});
    let answer = bridge.call("query_balance_details", json!({"purse_identifier": purse})).await;
    let expected = json!([{"time": 1234, "amount": "77", "proof": hex::encode(&proof)}]);
    assert_eq!(answer["result"]["holds"], expected, "{answer}");
}

#[tokio::test]
async fn accounts_are_answered_as_recorded() {
    let sample = Sample::read("state_get_account_info");
    let account: Account = sample.part("/account");
    let proof = Raw(sample.proof("/merkle_proof"));
    let stored = StoredValue::Account(account.clone());
    let answer = value(ResponseType::GlobalStateQueryResult, &[&stored, &proof]);
    let asked = compare("state_get_account_info", vec![answer]).await;
    assert!(asked[0].contains("Key::Account"), "{asked:?}");
    let entity = value(ResponseType::AccountInformation, &[&account, &proof]);
    assert_eq!(compare("state_get_entity", vec![entity]).await, ["Entity"]);
}

#[tokio::test]
async fn a_missing_account_and_a_migrated_one_have_their_own_errors() {
    let migrated = StoredValue::CLValue(CLValue::from_t(1_u32).unwrap());
    let migrated = value(ResponseType::GlobalStateQueryResult, &[&migrated, &0_u32]);
    let bridge = Bridge::answering([nothing(), migrated]);
    let params = json!([format!("account-hash-{}", "01".repeat(32)), null]);
    let answer = bridge.call("state_get_account_info", params.clone()).await;
    assert_eq!(answer["error"]["code"], -32009, "{answer}");
    let answer = bridge.call("state_get_account_info", params).await;
    assert_eq!(answer["error"]["code"], -32021, "{answer}");
}

#[tokio::test]
async fn a_key_of_protocol_2_1_is_passed_on_and_can_be_asked_for() {
    let account = Account::create(
        AccountHash::new([1; 32]),
        NamedKeys::from(BTreeMap::from([("rewards".to_owned(), Key::RewardsHandling)])),
        URef::new([2; 32], AccessRights::READ_ADD_WRITE),
    );
    let stored = StoredValue::Account(account);
    let bridge = Bridge::answering([value(ResponseType::GlobalStateQueryResult, &[&stored, &0_u32])]);
    let params = json!([format!("account-hash-{}", "01".repeat(32)), null]);
    let answer = bridge.call("state_get_account_info", params).await;
    let key = Key::RewardsHandling.to_formatted_string();
    assert_eq!(answer["result"]["account"]["named_keys"], json!([{"name": "rewards", "key": key}]), "{answer}");
    // casper-binary-port cannot read the key, so the simulated node answers that the request is malformed: it was sent.
    let answer = bridge.call("query_global_state", json!({"key": key})).await;
    let data = "request for global state item has failed: malformed command";
    assert_eq!(answer["error"]["data"], data, "{answer}");
}

#[tokio::test]
async fn an_addressable_entity_is_answered_with_its_keys_and_entry_points() {
    use casper_types::addressable_entity::{ActionThresholds, AssociatedKeys};
    use casper_types::{AddressableEntity, ByteCode, ByteCodeHash, ByteCodeKind, EntityAddr, EntityKind, PackageHash};
    use casper_types::{EntityEntryPoint, EntryPointAccess, EntryPointPayment, EntryPointType, EntryPointValue};

    let entity = AddressableEntity::new(
        PackageHash::new([3; 32]),
        ByteCodeHash::new([4; 32]),
        ProtocolVersion::from_parts(2, 0, 0),
        URef::new([5; 32], AccessRights::READ_ADD_WRITE),
        AssociatedKeys::new(AccountHash::new([1; 32]), casper_types::addressable_entity::Weight::new(1)),
        ActionThresholds::default(),
        EntityKind::SmartContract(casper_types::ContractRuntimeTag::VmCasperV1),
    );
    let address = EntityAddr::SmartContract([7; 32]);
    let code = ByteCode::new(ByteCodeKind::V1CasperWasm, vec![0xab]);
    let found = value(ResponseType::AddressableEntityInformation, &[&address, &entity, &0_u32, &true, &code, &0_u32]);
    let named_key = casper_types::addressable_entity::NamedKeyValue::from_concrete_values(
        Key::RewardsHandling,
        "rewards".to_owned(),
    );
    let stored = |values: Vec<StoredValue>| value(ResponseType::StoredValues, &[&values]);
    let entry_point = EntryPointValue::new_v1_entry_point_value(EntityEntryPoint::new(
        "call",
        Vec::new(),
        casper_types::CLType::Unit,
        EntryPointAccess::Public,
        EntryPointType::Called,
        EntryPointPayment::Caller,
    ));
    let bridge = Bridge::answering([
        found,
        stored(vec![StoredValue::NamedKey(named_key.unwrap())]),
        stored(vec![StoredValue::EntryPoint(entry_point)]),
        stored(Vec::new()),
    ]);
    let identifier = json!({"EntityAddr": address.to_formatted_string()});
    let params = json!({"entity_identifier": identifier, "include_bytecode": true});
    let answer = bridge.call("state_get_entity", params).await;
    let found = &answer["result"]["entity"]["AddressableEntity"];
    assert_eq!(found["named_keys"][0]["name"], "rewards", "{answer}");
    assert_eq!(found["entry_points"][0]["V1CasperVm"]["name"], "call", "{answer}");
    assert_eq!(found["bytecode"], json!({"code": {"kind": "V1CasperWasm", "bytes": "ab"}, "merkle_proof": "00000000"}));
    let asked = bridge.asked();
    let prefixes = ["NamedKeysByEntity", "EntryPointsV1ByEntity", "EntryPointsV2ByEntity"];
    for (asked, prefix) in asked[1..].iter().zip(prefixes) {
        assert!(asked.contains(prefix), "{asked}");
    }
}

#[tokio::test]
async fn contracts_and_packages_are_answered_in_their_own_forms() {
    use casper_types::contracts::{Contract, ContractHash, ContractPackage, ContractPackageHash};
    use casper_types::{
        CLType, ContractWasm, ContractWasmHash, EntryPointAccess, EntryPointType, Package, contracts::EntryPoint,
    };

    let (access, kind) = (EntryPointAccess::Public, EntryPointType::Called);
    let entry_point = EntryPoint::new("greet", Vec::new(), CLType::Unit, access, kind);
    let contract = Contract::new(
        ContractPackageHash::new([1; 32]),
        ContractWasmHash::new([2; 32]),
        NamedKeys::new(),
        vec![entry_point].into(),
        ProtocolVersion::from_parts(1, 5, 8),
    );
    let (hash, wasm) = (ContractHash::new([3; 32]), ContractWasm::new(vec![1, 2]));
    let found = value(ResponseType::ContractInformation, &[&hash, &contract, &0_u32, &true, &wasm, &0_u32]);
    let package = value(ResponseType::PackageWithProof, &[&Package::default(), &0_u32]);
    let contract_package = value(ResponseType::ContractPackageWithProof, &[&ContractPackage::default(), &0_u32]);
    let bridge = Bridge::answering([found, package, contract_package, range(0, 1)]);
    let identifier = json!({"ContractHash": hash.to_formatted_string()});
    let answer = bridge.call("state_get_entity", json!([identifier, null, true])).await;
    let found = &answer["result"]["entity"]["Contract"];
    assert_eq!(found["contract"]["protocol_version"], "1.5.8", "{answer}");
    assert_eq!(found["wasm"]["merkle_proof"], "00000000", "{answer}");
    // By name, as a real node's contract was answered; the document describes a list.
    let greet = json!({"name": "greet", "args": [], "ret": "Unit", "access": "Public", "entry_point_type": "Called"});
    assert_eq!(found["contract"]["entry_points"], json!({"greet": greet}), "{answer}");
    let identifier = json!({"PackageAddr": format!("package-{}", "05".repeat(32))});
    let answer = bridge.call("state_get_package", json!([identifier, {"Height": 5}])).await;
    assert!(answer["result"]["package"]["Package"]["versions"].is_array(), "{answer}");
    let identifier = json!({"ContractPackageHash": format!("contract-package-wasm{}", "05".repeat(32))});
    let answer = bridge.call("state_get_package", json!({"package_identifier": identifier})).await;
    assert!(answer["result"]["package"]["ContractPackage"]["versions"].is_array(), "{answer}");
    // Something that is neither.
    let answer = bridge.call("state_get_package", json!({"package_identifier": identifier})).await;
    let data = "request for package has failed: unexpected payload variant received in the response: 24";
    assert_eq!((&answer["error"]["code"], &answer["error"]["data"]), (&json!(-32018), &json!(data)));
    compare("state_get_package", vec![nothing()]).await;
}

#[tokio::test]
async fn dictionary_items_are_found_under_each_kind_of_identifier() {
    let seed = format!("uref-{}-007", "01".repeat(32));
    let hash = "02".repeat(32);
    let key = Key::Dictionary([9; 32]);
    let stored = StoredValue::CLValue(CLValue::from_t("item").unwrap());
    let identifiers = [
        json!({"AccountNamedKey": {"key": format!("account-hash-{hash}"), "dictionary_name": "d", "dictionary_item_key": "i"}}),
        json!({"ContractNamedKey": {"key": format!("hash-{hash}"), "dictionary_name": "d", "dictionary_item_key": "i"}}),
        json!({"EntityNamedKey": {"key": format!("entity-contract-{hash}"), "dictionary_name": "d", "dictionary_item_key": "i", "unknown": 1}}),
        json!({"URef": {"seed_uref": seed, "dictionary_item_key": "i"}}),
        json!({"Dictionary": format!("dictionary-{hash}")}),
    ];
    let found = || value(ResponseType::DictionaryQueryResult, &[&key, &stored, &0_u32]);
    let bridge = Bridge::answering(identifiers.iter().map(|_| found()).chain([nothing()]));
    let params = |identifier: &Value| json!({"state_root_hash": hash, "dictionary_identifier": identifier});
    for identifier in &identifiers {
        let answer = bridge.call("state_get_dictionary_item", params(identifier)).await;
        assert_eq!(answer["result"]["dictionary_key"], key.to_formatted_string(), "{answer}");
        assert_eq!(answer["result"]["stored_value"]["CLValue"]["parsed"], "item", "{answer}");
    }
    let answer = bridge.call("state_get_dictionary_item", params(&identifiers[4])).await;
    assert_eq!(answer["error"]["code"], -32003);
    for (identifier, why) in [
        (
            json!({"ContractNamedKey": {"key": seed, "dictionary_name": "d", "dictionary_item_key": "i"}}),
            "not a hash address",
        ),
        (json!({"Dictionary": seed}), "not a dictionary key"),
    ] {
        let answer = bridge.call("state_get_dictionary_item", params(&identifier)).await;
        let expected = json!({"code": -32002, "message": "Failed to parse query key",
            "data": format!("the provided dictionary key was invalid: {why}")});
        assert_eq!(answer["error"], expected);
    }
    let answer = bridge.call("state_get_balance", json!([hash, "no-uref"])).await;
    assert_eq!(answer["error"]["message"], "Failed to parse get-balance URef", "{answer}");
}

#[tokio::test]
async fn a_trie_is_answered_as_recorded() {
    let sample = Sample::read("state_get_trie");
    let bytes = hex::decode(sample.part::<String>("/maybe_trie_bytes")).unwrap();
    let bytes = casper_types::bytesrepr::Bytes::from(bytes);
    let trie = value(ResponseType::GetTrieFullResult, &[&Some(bytes)]);
    compare("state_get_trie", vec![trie]).await;
    let bridge = Bridge::answering([value(ResponseType::GetTrieFullResult, &[&0_u8])]);
    let answer = bridge.call("state_get_trie", json!(["01".repeat(32)])).await;
    assert_eq!(answer["result"]["maybe_trie_bytes"], Value::Null, "{answer}");
}

/// The answers to the requests that both versions of the auction's method make.
fn auction(version: &str) -> Vec<BinaryResponse> {
    let recorded = Sample::read("state_get_auction_info_v2");
    let bids: Vec<StoredValue> = recorded
        .part::<Vec<Value>>("/auction_state/bids")
        .into_iter()
        .map(|bid| StoredValue::BidKind(serde_json::from_value(bid["bid"].clone()).unwrap()))
        .collect();
    let mut snapshot = BTreeMap::new();
    for era in recorded.part::<Vec<Value>>("/auction_state/era_validators") {
        let mut recipients = BTreeMap::new();
        for weight in era["validator_weights"].as_array().unwrap() {
            let key: PublicKey = serde_json::from_value(weight["public_key"].clone()).unwrap();
            let stake: U512 = serde_json::from_value(weight["weight"].clone()).unwrap();
            let none = BTreeMap::<DelegatorKind, U512>::new();
            recipients.insert(key, SeigniorageRecipientV2::new(stake, 0, none, BTreeMap::new()));
        }
        let era: EraId = serde_json::from_value(era["era_id"].clone()).unwrap();
        snapshot.insert(era, recipients);
    }
    let registry = BTreeMap::from([("auction".to_owned(), [7_u8; 32])]);
    let stored =
        |stored: CLValue| value(ResponseType::GlobalStateQueryResult, &[&StoredValue::CLValue(stored), &0_u32]);
    assert!(version == "v1" || version == "v2");
    vec![
        header(&recorded_header()),
        value(ResponseType::StoredValues, &[&bids]),
        stored(CLValue::from_t(registry).unwrap()),
        nothing(),
        stored(CLValue::from_t(snapshot).unwrap()),
    ]
}

#[tokio::test]
async fn the_auction_is_answered_as_recorded_in_both_shapes() {
    for (name, version, at) in
        [("state_get_auction_info", "v1", "None"), ("state_get_auction_info_v2", "v2", "Some(BlockHeight(159))")]
    {
        let asked = compare(name, auction(version)).await;
        assert_eq!(asked[0], "BlockHeader");
        assert!(asked[1].contains("BidAddr") && asked[1].contains("BlockHeight(159)"), "{}", asked[1]);
        let registry = format!("State(GlobalStateRequest {{ state_identifier: {at}");
        assert!(asked[2].starts_with(&registry) && asked[2].contains("SystemEntityRegistry"), "{}", asked[2]);
        assert!(asked[3].contains("AddressableEntity") && asked[4].contains("Key::Hash"), "{asked:?}");
    }
}

#[tokio::test]
async fn an_auction_that_cannot_be_made_is_answered_with_the_reason() {
    let recorded = header(&recorded_header());
    let disabled = Bridge::answering([recorded, error(ErrorCode::FunctionDisabled)]);
    let answer = disabled.call("state_get_auction_info_v2", Value::Null).await;
    assert_eq!(answer["error"]["code"], -32019, "{answer}");
    let mut answers = auction("v2");
    answers[1] = value(ResponseType::StoredValues, &[&vec![StoredValue::RawBytes(vec![1])]]);
    let answer = Bridge::answering(answers).call("state_get_auction_info_v2", Value::Null).await;
    let expected = json!({"code": -32603, "message": "Internal error", "data": "the auction state was invalid"});
    assert_eq!(answer["error"], expected);
    let mut answers = auction("v2");
    answers[2] = nothing();
    let answer = Bridge::answering(answers).call("state_get_auction_info", Value::Null).await;
    assert_eq!(answer["error"]["code"], -32003, "{answer}");
}

#[tokio::test]
async fn delegators_are_folded_into_the_bids_of_known_validators_only() {
    use casper_types::system::auction::DelegatorBid;

    let mut random = TestRng::new();
    let (validator, stranger) = (PublicKey::random(&mut random), PublicKey::random(&mut random));
    let delegator = PublicKey::random(&mut random);
    let purse = URef::new([1; 32], AccessRights::READ_ADD_WRITE);
    let bid = ValidatorBid::unlocked(validator.clone(), purse, U512::from(10), 5, 0, u64::MAX, 0);
    let of = |validator: &PublicKey| {
        let delegator = DelegatorKind::PublicKey(delegator.clone());
        let bid = DelegatorBid::unlocked(delegator, U512::from(3), purse, validator.clone());
        StoredValue::BidKind(BidKind::Delegator(Box::new(bid)))
    };
    let bids = vec![StoredValue::BidKind(BidKind::Validator(Box::new(bid))), of(&validator), of(&stranger)];
    let mut answers = auction("v1");
    answers[1] = value(ResponseType::StoredValues, &[&bids]);
    let answer = Bridge::answering(answers).call("state_get_auction_info", Value::Null).await;
    let folded = answer["result"]["auction_state"]["bids"].as_array().unwrap();
    assert_eq!(folded.len(), 1, "{answer}");
    assert_eq!(folded[0]["bid"]["delegators"].as_array().unwrap().len(), 1, "{answer}");
}

#[tokio::test]
async fn what_the_node_reports_about_itself_is_answered_as_recorded() {
    let sample = Sample::read("info_get_peers");
    let peers: Peers = sample.part("/peers");
    compare("info_get_peers", vec![value(ResponseType::Peers, &[&peers])]).await;
    let sample = Sample::read("info_get_chainspec");
    let chainspec: ChainspecRawBytes = sample.part("/chainspec_bytes");
    compare("info_get_chainspec", vec![value(ResponseType::ChainspecRawBytes, &[&chainspec])]).await;
    let changes = BTreeMap::<PublicKey, Vec<(EraId, ValidatorChange)>>::new();
    let none = value(ResponseType::ConsensusValidatorChanges, &[&changes]);
    compare("info_get_validator_changes", vec![none]).await;
    let sample = Sample::read("info_get_status");
    let block: Value = sample.part("/last_added_block_info");
    let part = |name: &str| block[name].clone();
    let status = value(
        ResponseType::NodeStatus,
        &[
            &sample.part::<ProtocolVersion>("/protocol_version"),
            &sample.part::<Peers>("/peers"),
            &sample.part::<String>("/build_version"),
            &sample.part::<String>("/chainspec_name"),
            &sample.part::<Digest>("/starting_state_root_hash"),
            &true,
            &serde_json::from_value::<casper_types::BlockHash>(part("hash")).unwrap(),
            &serde_json::from_value::<Timestamp>(part("timestamp")).unwrap(),
            &serde_json::from_value::<EraId>(part("era_id")).unwrap(),
            &block["height"].as_u64().unwrap(),
            &serde_json::from_value::<Digest>(part("state_root_hash")).unwrap(),
            &serde_json::from_value::<PublicKey>(part("creator")).unwrap(),
            &sample.part::<Option<PublicKey>>("/our_public_signing_key"),
            &sample.part::<Option<TimeDiff>>("/round_length"),
            &None::<NextUpgrade>,
            &sample.part::<TimeDiff>("/uptime"),
            &sample.part::<String>("/reactor_state"),
            &sample.part::<Timestamp>("/last_progress"),
            &sample.part::<AvailableBlockRange>("/available_block_range"),
            &sample.part::<BlockSynchronizerStatus>("/block_sync"),
            &sample.part::<Option<casper_types::BlockHash>>("/latest_switch_block_hash"),
        ],
    );
    assert_eq!(compare("info_get_status", vec![status]).await, ["NodeStatus"]);
}

#[tokio::test]
async fn validator_changes_are_sorted_by_era_and_change() {
    let key = PublicKey::random(&mut TestRng::new());
    let changes = vec![
        (EraId::new(5), ValidatorChange::Removed),
        (EraId::new(2), ValidatorChange::SeenAsFaulty),
        (EraId::new(2), ValidatorChange::Added),
    ];
    let changes = BTreeMap::from([(key, changes)]);
    let bridge = Bridge::answering([value(ResponseType::ConsensusValidatorChanges, &[&changes])]);
    let answer = bridge.call("info_get_validator_changes", json!({})).await;
    let expected = json!([
        {"era_id": 2, "validator_change": "Added"},
        {"era_id": 2, "validator_change": "SeenAsFaulty"},
        {"era_id": 5, "validator_change": "Removed"}
    ]);
    assert_eq!(answer["result"]["changes"][0]["status_changes"], expected, "{answer}");
}

#[tokio::test]
async fn rewards_are_answered_as_recorded() {
    for name in ["info_get_reward", "reward_era1"] {
        let sample = Sample::read(name);
        let reward = value(
            ResponseType::Reward,
            &[
                &sample.part::<U512>("/reward_amount"),
                &sample.part::<EraId>("/era_id"),
                &sample.part::<u8>("/delegation_rate"),
                &sample.part::<casper_types::BlockHash>("/switch_block_hash"),
            ],
        );
        assert_eq!(compare(name, vec![reward]).await, ["Reward"]);
    }
    compare("reward_era100", vec![error(ErrorCode::SwitchBlockNotFound)]).await;
    let validator = Sample::read("info_get_reward").request["params"]["validator"].clone();
    for (answer, code) in [
        (nothing(), -32022),
        (error(ErrorCode::SwitchBlockParentNotFound), -32024),
        (error(ErrorCode::UnsupportedRewardsV1Request), -32025),
    ] {
        let params = json!({"validator": validator, "delegator": validator});
        let answer = Bridge::answering([answer]).call("info_get_reward", params).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
}

#[tokio::test]
async fn transactions_are_found_with_how_they_were_executed() {
    let mut random = TestRng::new();
    let deploy = Deploy::random(&mut random);
    let transaction = Transaction::V1(TransactionV1::random(&mut random));
    let info = ExecutionInfo {
        block_hash: casper_types::BlockHash::random(&mut random),
        block_height: 5,
        execution_result: Some(casper_types::execution::ExecutionResult::random(&mut random)),
    };
    let found = |transaction: &Transaction, info: Option<ExecutionInfo>| {
        value(ResponseType::TransactionWithExecutionInfo, &[transaction, &info])
    };
    let as_transaction = Transaction::Deploy(deploy.clone());
    let bridge = Bridge::answering([
        found(&as_transaction, Some(info.clone())),
        found(&as_transaction, None),
        found(&transaction, Some(info.clone())),
        found(&transaction, None),
    ]);
    let (deploy_hash, hash) = (json!(deploy.hash()), json!(transaction.hash()));
    let answer = bridge.call("info_get_deploy", json!([deploy_hash])).await;
    let expected = json!({"api_version": "2.0.0", "deploy": deploy, "execution_info": info});
    assert_eq!(answer["result"], expected);
    let answer = bridge.call("info_get_transaction", json!({"transaction_hash": {"Deploy": deploy_hash}})).await;
    assert_eq!(answer["result"]["execution_info"], Value::Null, "{answer}");
    assert_eq!(answer["result"]["transaction"], json!(as_transaction));
    let answer = bridge.call("info_get_transaction", json!([hash, true])).await;
    assert_eq!(answer["result"], json!({"api_version": "2.0.0", "transaction": transaction, "execution_info": info}));
    let answer = bridge.call("info_get_deploy", json!([deploy_hash])).await;
    let expected = json!({"code": -32015, "message": "Variant mismatch internal error",
        "data": "found a transaction when searching for a deploy"});
    assert_eq!(answer["error"], expected);
    compare("info_get_deploy", vec![nothing()]).await;
    compare("info_get_transaction", vec![nothing()]).await;
}

#[tokio::test]
async fn a_refused_transaction_is_answered_as_recorded() {
    let refused = || error(ErrorCode::InvalidDeployChainName);
    for name in ["account_put_deploy", "account_put_transaction"] {
        assert_eq!(compare(name, vec![refused()]).await, ["TryAcceptTransaction"]);
    }
    assert_eq!(compare("speculative_exec", vec![refused()]).await, ["TrySpeculativeExec"]);
}

#[tokio::test]
async fn an_accepted_transaction_is_answered_with_its_hash_and_reaches_the_node_unchanged() {
    let mut random = TestRng::new();
    let deploy = Deploy::random(&mut random);
    let transaction = Transaction::V1(TransactionV1::random(&mut random));
    let bridge = Bridge::answering([nothing(), nothing()]);
    let answer = bridge.call("account_put_deploy", json!({"deploy": deploy})).await;
    assert_eq!(answer["result"], json!({"api_version": "2.0.0", "deploy_hash": deploy.hash()}));
    let answer = bridge.call("account_put_transaction", json!([transaction])).await;
    assert_eq!(answer["result"], json!({"api_version": "2.0.0", "transaction_hash": transaction.hash()}));
    let accepted: Vec<Value> = bridge.node.accepted().iter().map(|accepted| json!(accepted)).collect();
    assert_eq!(accepted, [json!(Transaction::Deploy(deploy)), json!(transaction)]);
}

#[tokio::test]
async fn speculative_execution_is_answered_with_what_it_would_have_done() {
    use sidecar_test_support::casper_types::testing::TestRng;

    let deploy = Sample::read("speculative_exec").request["params"]["deploy"].clone();
    let executed = casper_binary_port::SpeculativeExecutionResult::example();
    let executed = || BinaryResponse::from_value(executed.clone());
    let bridge = Bridge::answering([executed(), executed(), nothing(), error(ErrorCode::WasmPreprocessing)]);
    let transaction = sidecar_test_support::casper_types::Transaction::from(
        sidecar_test_support::casper_types::TransactionV1::random(&mut TestRng::new()),
    );
    for (method, params) in
        [("speculative_exec", json!([deploy])), ("speculative_exec_txn", json!({"transaction": transaction}))]
    {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let answer = bridge.request(bridge.speculative).body(body).send().await.unwrap().text().await.unwrap();
        let expected = json!({"block_hash": "00".repeat(32), "transfers": [], "limit": "0", "consumed": "0",
            "effects": [], "messages": [], "error": null});
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["result"], json!({"api_version": "2.0.0", "execution_result": expected}), "{answer}");
    }
    for data in [
        "speculative execution returned nothing",
        "request for speculatively executing a transaction has failed: speculative execution has failed: wasm preprocessing",
    ] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "speculative_exec", "params": [deploy]}).to_string();
        let answer = bridge.request(bridge.speculative).body(body).send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["error"], json!({"code": -32008, "message": "Invalid Deploy", "data": data}));
    }
}

#[tokio::test]
async fn each_server_has_its_own_methods_and_describes_them() {
    let bridge = Bridge::answering([]);
    let on_other = json!({"jsonrpc": "2.0", "id": 1, "method": "info_get_peers"}).to_string();
    let answer = bridge.request(bridge.speculative).body(on_other).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("-32601") && answer.contains("'info_get_peers' is not a supported json-rpc method"));
    let described = bridge.call("rpc.discover", Value::Null).await;
    assert_eq!(described["result"]["name"], "OpenRPC Schema");
    let methods: Vec<&str> = described["result"]["schema"]["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| method["name"].as_str().unwrap())
        .collect();
    assert_eq!(methods.len(), 25);
    // Every described method exists: with an unknown parameter it is refused for that, or it has none.
    for method in methods {
        let answer = bridge.call(method, json!({"no_such_parameter": 1})).await;
        let is_lenient = matches!(method, "query_balance" | "query_balance_details");
        assert_eq!(answer["error"]["code"], -32602, "{method}: {answer}");
        let data = answer["error"]["data"].as_str().unwrap();
        let is_named =
            data.contains("unknown field `no_such_parameter`") || data.starts_with("'params' field should be");
        assert!(is_named || (is_lenient && data.contains("missing field")), "{method}: {answer}");
    }
    assert!(bridge.asked().is_empty());
}

#[tokio::test]
async fn parameters_are_refused_in_the_references_words() {
    let bridge = Bridge::answering([]);
    let prefix = "Failed to parse 'params' field: ";
    for (method, params, data) in [
        ("info_get_deploy", None, "Missing 'params' field".to_owned()),
        (
            "info_get_deploy",
            Some(json!([])),
            format!("{prefix}invalid length 0, expected struct GetDeployParams with 2 elements"),
        ),
        (
            "info_get_deploy",
            Some(Value::Null),
            format!("{prefix}invalid length 0, expected struct GetDeployParams with 2 elements"),
        ),
        (
            "info_get_deploy",
            Some(json!({"x": 1})),
            format!("{prefix}unknown field `x`, expected `deploy_hash` or `finalized_approvals`"),
        ),
        ("account_put_deploy", Some(json!({})), format!("{prefix}missing field `deploy`")),
        (
            "info_get_peers",
            Some(json!([1])),
            "'params' field should be an empty Array '[]', an empty Object '{}' or absent".to_owned(),
        ),
        (
            "chain_get_block",
            Some(json!([{"a": 1}])),
            format!("{prefix}unknown variant `a`, expected `Hash` or `Height`"),
        ),
        (
            "chain_get_block",
            Some(json!([{"Hash": "zz".repeat(32)}])),
            format!("{prefix}Invalid byte `b'z'`, at index 0."),
        ),
        (
            "state_get_account_info",
            Some(json!([1, null])),
            format!("{prefix}data did not match any variant of untagged enum AccountIdentifier"),
        ),
        (
            "state_get_item",
            Some(json!(["01".repeat(32), format!("hash-{}", "01".repeat(32)), [], 4])),
            format!("{prefix}invalid length 4, expected fewer elements in array"),
        ),
        (
            "state_get_account_info",
            Some(json!({"account_identifier": format!("account-hash-{}", "01".repeat(32)), "public_key": "01"})),
            format!("{prefix}duplicate field `account_identifier`"),
        ),
    ] {
        let mut call = json!({"jsonrpc": "2.0", "id": 1, "method": method});
        if let Some(params) = params {
            call["params"] = params;
        }
        let answer = bridge.post(call.to_string()).await;
        let expected = json!({"code": -32602, "message": "Invalid params", "data": data});
        assert_eq!(answer["error"], expected, "{call}");
    }
    for params in [json!({"block_identifier": null}), json!([null])] {
        assert_eq!(bridge.call("chain_get_block", params).await["error"]["code"], -32602);
    }
}

#[tokio::test]
async fn an_answer_of_the_node_that_is_not_of_its_announced_type_is_an_error() {
    let garbage = BinaryResponse::from_raw_bytes(ResponseType::Peers, vec![255; 40]);
    let too_long = value(ResponseType::AvailableBlockRange, &[&1_u64, &2_u64, &3_u8]);
    let bridge = Bridge::answering([garbage, range(1, 2), nothing(), nothing(), too_long]);
    let answer = bridge.call("info_get_peers", Value::Null).await;
    assert!(
        answer["error"]["data"]
            .as_str()
            .unwrap()
            .starts_with("request for peers has failed: failed to deserialize a response: "),
        "{answer}"
    );
    let answer = bridge.call("info_get_peers", Value::Null).await;
    assert_eq!(
        answer["error"]["data"],
        "request for peers has failed: unexpected payload variant received in the response: 24"
    );
    let answer = bridge.call("info_get_peers", Value::Null).await;
    assert_eq!(answer["error"]["data"], "request for peers has failed: unexpectedly received an empty envelope");
    let answer = bridge.call("chain_get_block", Value::Null).await;
    assert!(
        answer["error"]["data"].as_str().unwrap().contains("available block range has failed: failed to deserialize"),
        "{answer}"
    );
}
