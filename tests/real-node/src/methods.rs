//! The JSON-RPC methods, one after the other: good calls and documented bad ones.
//!
//! What is right comes from elsewhere than the bridge: the node's event stream, its REST server, its files, and what was sent.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sidecar_test_support::client::get;

use crate::contract::{CONTRACT, DICTIONARY, ENTRY_POINT, GREETING, ITEM};
use crate::sending::{DELEGATED, Executed, Sent, TRANSFERRED};
use crate::{Run, case, rpc};

const NOWHERE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Calls every method.
pub(crate) async fn check_all(run: &mut Run, sent: &Sent) -> Result<()> {
    // A whole era after the genesis's: its rewards are known then.
    let switch_block = run.network.events.wait_for("an era's end", |event| {
        let added = event.get("BlockAdded")?;
        let header = &added["block"]["Version2"]["header"];
        (!header["era_end"].is_null() && header["era_id"].as_u64()? >= 2).then(|| added.clone())
    });
    let switch_block = switch_block.await?;
    transactions(run, sent).await?;
    blocks(run, sent).await?;
    eras(run, &switch_block).await?;
    global_state(run, &switch_block).await?;
    balances(run).await?;
    accounts(run).await?;
    contracts(run).await?;
    auction(run, &switch_block).await?;
    information(run).await?;
    speculation(run, sent).await?;
    documents(run).await?;
    Ok(())
}

/// Fails where two values differ, and names both.
pub(crate) fn same(what: &str, got: &Value, wanted: &Value) -> Result<()> {
    ensure!(got == wanted, "{what} is {:.300}, wanted {:.300}", got.to_string(), wanted.to_string());
    Ok(())
}

fn is_error(error: &(i64, Value), code: i64, data: &str) -> Result<()> {
    ensure!(error.0 == code && error.1 == data, "{error:?} instead of {code}, {data}");
    Ok(())
}

async fn transactions(run: &mut Run, sent: &Sent) -> Result<()> {
    let method = "info_get_deploy";
    for (case, deploy) in [("a transfer", &sent.transfer_deploy), ("a contract's call", &sent.call_deploy)] {
        case!(run, method, case, {
            let result = run.rpc.result(method, json!({"deploy_hash": deploy.digest()})).await?;
            same("deploy", &result["deploy"], &deploy.sent)?;
            is_executed(&result["execution_info"], deploy)?;
        });
    }
    case!(run, method, "with finalized approvals", {
        let deploy = &sent.transfer_deploy;
        let result = run.rpc.result(method, json!([deploy.digest(), true])).await?;
        same("deploy", &result["deploy"], &deploy.sent)?;
    });
    case!(run, method, "unknown", {
        let error = run.rpc.error(method, json!([NOWHERE])).await?;
        is_error(&error, -32000, "no deploy for hash deploy-hash(0000..0000)")?;
    });
    let method = "info_get_transaction";
    for (case, transaction, form) in [
        ("a transfer", &sent.transfer, "Version1"),
        ("a contract's call", &sent.contract_call, "Version1"),
        ("a deploy", &sent.call_deploy, "Deploy"),
    ] {
        case!(run, method, case, {
            let params = json!({"transaction_hash": transaction.hash, "finalized_approvals": true});
            let result = run.rpc.result(method, params).await?;
            same("transaction", &result["transaction"], &json!({form: transaction.sent}))?;
            is_executed(&result["execution_info"], transaction)?;
        });
    }
    case!(run, method, "unknown", {
        let error = run.rpc.error(method, json!([{"Version1": NOWHERE}])).await?;
        is_error(&error, -32014, "no transaction for hash transaction-v1-hash(0000..0000)")?;
        let error = run.rpc.error(method, json!([{"Deploy": NOWHERE}])).await?;
        is_error(&error, -32014, "no transaction for hash deploy-hash(0000..0000)")?;
    });
    Ok(())
}

fn is_executed(info: &Value, executed: &Executed) -> Result<()> {
    same("execution_result", &info["execution_result"], &executed.event["execution_result"])?;
    same("block_hash", &info["block_hash"], &executed.event["block_hash"])
}

async fn blocks(run: &mut Run, sent: &Sent) -> Result<()> {
    let hash = sent.transfer.event["block_hash"].clone();
    let block = run.network.events.block(&hash)?;
    let height = block["Version2"]["header"]["height"].clone();
    let method = "chain_get_block";
    for (case, identifier) in [("by hash", json!({"Hash": hash})), ("by height", json!({"Height": height}))] {
        case!(run, method, case, {
            let result = run.rpc.result(method, json!({"block_identifier": identifier})).await?;
            let signed = &result["block_with_signatures"];
            same("block", &signed["block"], &block)?;
            let signature = run.network.events.find(|event| {
                let signature = &event.get("FinalitySignature")?["V2"];
                (signature["block_hash"] == hash)
                    .then(|| json!({"public_key": signature["public_key"], "signature": signature["signature"]}))
            });
            same("proofs", &signed["proofs"], &json!([signature.context("the block is signed")?]))?;
        });
    }
    case!(run, method, "the newest", {
        let result = run.rpc.result(method, Value::Null).await?;
        let block = &result["block_with_signatures"]["block"];
        same("block", block, &run.network.events.block(&block["Version2"]["hash"])?)?;
        ensure!(block["Version2"]["header"]["height"].as_u64() > height.as_u64(), "{block} is old");
    });
    case!(run, method, "of no height", {
        let (code, data) = run.rpc.error(method, json!([{"Height": 1_000_000}])).await?;
        ensure!(code == -32001 && data["message"] == "no block found for the provided identifier", "{code}, {data}");
        ensure!(data["available_block_range"]["high"].as_u64() >= height.as_u64(), "{data}");
    });
    let method = "chain_get_block_transfers";
    case!(run, method, "by hash", {
        let result = run.rpc.result(method, json!([{"Hash": hash}])).await?;
        same("block_hash", &result["block_hash"], &hash)?;
        let transfers = result["transfers"].as_array().context("no list")?;
        let of_transaction =
            transfers.iter().find(|transfer| transfer["Version2"]["transaction_hash"] == sent.transfer.hash);
        let transfer = &of_transaction.context("the transfer is not among them")?["Version2"];
        same("amount", &transfer["amount"], &json!(TRANSFERRED[0].to_string()))?;
        same("to", &transfer["to"], &json!(run.user.to_account_hash().to_formatted_string()))?;
        same("id", &transfer["id"], &json!(7))?;
    });
    case!(run, method, "of the genesis", {
        let result = run.rpc.result(method, json!([{"Height": 0}])).await?;
        same("transfers", &result["transfers"], &json!([]))?;
    });
    case!(run, method, "of no block", {
        ensure!(run.rpc.error(method, json!([{"Hash": NOWHERE}])).await?.0 == -32001);
    });
    let method = "chain_get_state_root_hash";
    let root = &block["Version2"]["header"]["state_root_hash"];
    for (case, identifier) in [("by hash", json!({"Hash": hash})), ("by height", json!({"Height": height}))] {
        case!(run, method, case, {
            same("root", &run.rpc.result(method, json!([identifier])).await?["state_root_hash"], root)?;
        });
    }
    case!(run, method, "the newest", {
        let newest = &run.rpc.result(method, json!([])).await?["state_root_hash"];
        let is_announced = |event: &Value| {
            (event.get("BlockAdded")?["block"]["Version2"]["header"]["state_root_hash"] == *newest).then_some(())
        };
        run.network.events.wait_for("the newest state root", is_announced).await?;
    });
    Ok(())
}

async fn eras(run: &mut Run, switch_block: &Value) -> Result<()> {
    let header = &switch_block["block"]["Version2"]["header"];
    let hash = &switch_block["block_hash"];
    for method in ["chain_get_era_info_by_switch_block", "chain_get_era_summary"] {
        case!(run, method, "of a switch block", {
            for identifier in [json!({"Hash": hash}), json!({"Height": header["height"]})] {
                let result = run.rpc.result(method, json!({"block_identifier": identifier})).await?;
                let summary = &result["era_summary"];
                same("block_hash", &summary["block_hash"], hash)?;
                same("era_id", &summary["era_id"], &header["era_id"])?;
                same("state_root_hash", &summary["state_root_hash"], &header["state_root_hash"])?;
                let allocations = summary["stored_value"]["EraInfo"]["seigniorage_allocations"].as_array();
                ensure!(allocations.is_some_and(|list| !list.is_empty()), "no allocations: {summary:.300}");
                is_proof(&summary["merkle_proof"])?;
            }
        });
        case!(run, method, "of the newest switch block", {
            let result = run.rpc.result(method, Value::Null).await?;
            let block = run.network.events.block(&result["era_summary"]["block_hash"])?;
            ensure!(!block["Version2"]["header"]["era_end"].is_null(), "{block} is not a switch block");
        });
        case!(run, method, "of no block", {
            ensure!(run.rpc.error(method, json!([{"Hash": NOWHERE}])).await?.0 == -32001);
        });
    }
    case!(run, "chain_get_era_info_by_switch_block", "of an ordinary block", {
        let ordinary = json!([{"Height": header["height"].as_u64().unwrap_or_default() - 1}]);
        let result = run.rpc.result("chain_get_era_info_by_switch_block", ordinary.clone()).await?;
        same("era_summary", &result["era_summary"], &Value::Null)?;
        let result = run.rpc.result("chain_get_era_summary", ordinary).await?;
        same("era_id", &result["era_summary"]["era_id"], &header["era_id"])?;
    });
    let (validator, delegator) = (run.validator(), run.delegator());
    let method = "info_get_reward";
    case!(run, method, "of a validator and of a delegator", {
        let mut paid = 0;
        for (delegator, era) in
            [(Value::Null, json!({"Era": header["era_id"]})), (json!(delegator), json!({"Block": {"Hash": hash}}))]
        {
            let params = json!({"validator": validator, "delegator": delegator, "era_identifier": era});
            let result = run.rpc.result(method, params).await?;
            same("era_id", &result["era_id"], &header["era_id"])?;
            same("switch_block_hash", &result["switch_block_hash"], hash)?;
            paid += number(&result["reward_amount"])?;
        }
        ensure!(paid > 0, "no reward");
    });
    case!(run, method, "of the newest era", {
        ensure!(number(&run.rpc.result(method, json!({"validator": validator})).await?["reward_amount"])? > 0);
    });
    case!(run, method, "of an era to come, and of a stranger", {
        let error = run.rpc.error(method, json!({"validator": validator, "era_identifier": {"Era": 100_000}})).await?;
        is_error(
            &error,
            -32023,
            "request for rewards has failed: the switch block for the requested era was not found",
        )?;
        let params = json!({"validator": run.user, "era_identifier": {"Era": header["era_id"]}});
        is_error(&run.rpc.error(method, params).await?, -32022, "the requested reward was not found")?;
    });
    Ok(())
}

fn number(value: &Value) -> Result<u128> {
    Ok(value.as_str().with_context(|| format!("{value} is not a number"))?.parse()?)
}

fn is_proof(value: &Value) -> Result<()> {
    let text = value.as_str().unwrap_or_default();
    let is_hex = text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
    ensure!(text.len() > 60 && is_hex, "{value:.300} is not a proof");
    Ok(())
}

async fn global_state(run: &mut Run, switch_block: &Value) -> Result<()> {
    let (hash, header) = (&switch_block["block_hash"], &switch_block["block"]["Version2"]["header"]);
    let root = &header["state_root_hash"];
    let era_summary = format!("era-summary-{NOWHERE}");
    let account = run.faucet().to_account_hash().to_formatted_string();
    let method = "state_get_item";
    case!(run, method, "an era's summary, an account, and a contract by path", {
        let result = run.rpc.result(method, json!({"state_root_hash": root, "key": era_summary})).await?;
        ensure!(result["stored_value"].get("EraInfo").is_some(), "{result:.300}");
        is_proof(&result["merkle_proof"])?;
        let result = run.rpc.result(method, json!([root, account])).await?;
        same("account", &result["stored_value"]["Account"]["account_hash"], &json!(account))?;
        let result = run.rpc.result(method, json!([root, account, [CONTRACT]])).await?;
        let entry_points = &result["stored_value"]["Contract"]["entry_points"];
        same("entry point", &entry_points[0]["name"], &json!(ENTRY_POINT))?;
    });
    case!(run, method, "of no state, and nothing", {
        let error = run.rpc.error(method, json!([NOWHERE, era_summary])).await?;
        let data = "request for global state item has failed: could not find the provided state root hash";
        is_error(&error, -32012, data)?;
        let error = run.rpc.error(method, json!([root, format!("account-hash-{NOWHERE}")])).await?;
        is_error(&error, -32003, "value was not found in the global state")?;
    });
    let method = "query_global_state";
    case!(run, method, "after a block, after a height, at a root and at the tip", {
        for (identifier, header) in [
            (json!({"BlockHash": hash}), json!({"Version2": header})),
            (json!({"BlockHeight": header["height"]}), json!({"Version2": header})),
            (json!({"StateRootHash": root}), Value::Null),
            (Value::Null, Value::Null),
        ] {
            let params = json!({"state_identifier": identifier, "key": account, "path": []});
            let result = run.rpc.result(method, params).await?;
            same("block_header", &result["block_header"], &header)?;
            same("account", &result["stored_value"]["Account"]["account_hash"], &json!(account))?;
            is_proof(&result["merkle_proof"])?;
        }
    });
    case!(run, method, "nothing", {
        let error = run.rpc.error(method, json!({"key": format!("account-hash-{NOWHERE}")})).await?;
        is_error(&error, -32003, "value was not found in the global state")?;
        let params = json!({"state_identifier": {"BlockHash": NOWHERE}, "key": account});
        ensure!(run.rpc.error(method, params).await?.0 == -32001);
    });
    let method = "state_get_trie";
    case!(run, method, "a root, and none", {
        let result = run.rpc.result(method, json!({"trie_key": root})).await?;
        is_proof(&result["maybe_trie_bytes"])?;
        let result = run.rpc.result(method, json!([NOWHERE])).await?;
        same("maybe_trie_bytes", &result["maybe_trie_bytes"], &Value::Null)?;
    });
    Ok(())
}

async fn balances(run: &mut Run) -> Result<()> {
    let balance = TRANSFERRED.iter().sum::<u64>().to_string();
    let account = run.user.to_account_hash();
    let info = run.rpc.result("state_get_account_info", json!({"public_key": run.user})).await?;
    let purse = info["account"]["main_purse"].clone();
    let root = run.rpc.result("chain_get_state_root_hash", Value::Null).await?["state_root_hash"].take();
    let method = "state_get_balance";
    case!(run, method, "of a purse", {
        let result = run.rpc.result(method, json!({"state_root_hash": root, "purse_uref": purse})).await?;
        same("balance_value", &result["balance_value"], &json!(balance))?;
        is_proof(&result["merkle_proof"])?;
    });
    case!(run, method, "of no purse", {
        let (code, data) = run.rpc.error(method, json!([root, "uref-0"])).await?;
        let is_named = data.as_str().is_some_and(|text| text.starts_with("the requested purse URef was invalid: "));
        ensure!(code == -32005 && is_named, "{code}, {data}");
        let (code, data) = run.rpc.error(method, json!([root, format!("uref-{NOWHERE}-007")])).await?;
        ensure!(code == -32026, "{code}, {data}");
    });
    for method in ["query_balance", "query_balance_details"] {
        let member = if method == "query_balance" { "balance" } else { "total_balance" };
        let identifiers = [
            json!({"main_purse_under_public_key": run.user}),
            json!({"main_purse_under_account_hash": account.to_formatted_string()}),
            json!({"main_purse_under_entity_addr": format!("entity-account-{account}", account = hex(account.as_bytes()))}),
            json!({"purse_uref": purse}),
        ];
        for identifier in identifiers {
            let case = identifier.as_object().and_then(|members| members.keys().next().cloned()).unwrap_or_default();
            case!(run, method, &case, {
                for state in [Value::Null, json!({"StateRootHash": root})] {
                    let params = json!({"state_identifier": state, "purse_identifier": identifier});
                    let result = run.rpc.result(method, params).await?;
                    same(member, &result[member], &json!(balance))?;
                    if method == "query_balance_details" {
                        same("available_balance", &result["available_balance"], &json!(balance))?;
                        same("holds", &result["holds"], &json!([]))?;
                        is_proof(&result["total_balance_proof"])?;
                    }
                }
            });
        }
        case!(run, method, "of no account", {
            let params =
                json!({"purse_identifier": {"main_purse_under_account_hash": format!("account-hash-{NOWHERE}")}});
            let (code, data) = run.rpc.error(method, params).await?;
            ensure!(code == -32026, "{code}, {data}");
        });
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn accounts(run: &mut Run) -> Result<()> {
    let (key, account) = (run.faucet(), run.faucet().to_account_hash().to_formatted_string());
    let method = "state_get_account_info";
    case!(run, method, "by key and by hash, now and after a block", {
        for (identifier, block) in [
            (json!({"account_identifier": key}), Value::Null),
            (json!({"public_key": key}), Value::Null),
            (json!({"account_identifier": account}), Value::Null),
            (json!({"account_identifier": account}), json!({"Height": 0})),
        ] {
            let mut params = identifier;
            if !block.is_null() {
                params["block_identifier"] = block.clone();
            }
            let result = run.rpc.result(method, params).await?;
            same("account_hash", &result["account"]["account_hash"], &json!(account))?;
            let has_contract = result["account"]["named_keys"].as_array().is_some_and(|keys| keys.len() == 2);
            ensure!(has_contract == block.is_null(), "{result:.500}");
            is_proof(&result["merkle_proof"])?;
        }
    });
    case!(run, method, "of no account", {
        let params = json!({"account_identifier": format!("account-hash-{NOWHERE}")});
        is_error(&run.rpc.error(method, params).await?, -32009, "the requested account was not found")?;
    });
    let method = "state_get_entity";
    case!(run, method, "an account, by all of its names", {
        for identifier in [json!({"PublicKey": key}), json!({"AccountHash": account})] {
            let result = run.rpc.result(method, json!({"entity_identifier": identifier})).await?;
            same("account_hash", &result["entity"]["Account"]["account_hash"], &json!(account))?;
            is_proof(&result["merkle_proof"])?;
        }
    });
    // A network whose accounts are not migrated has no entity under an entity's address.
    case!(run, method, "nothing, and an entity that the network does not have", {
        for identifier in [
            json!({"AccountHash": format!("account-hash-{NOWHERE}")}),
            json!({"EntityAddr": account.replace("account-hash-", "entity-account-")}),
        ] {
            let error = run.rpc.error(method, json!({"entity_identifier": identifier})).await?;
            is_error(&error, -32020, "the requested addressable entity was not found")?;
        }
    });
    Ok(())
}

async fn contracts(run: &mut Run) -> Result<()> {
    let account = run.faucet().to_account_hash().to_formatted_string();
    let info = run.rpc.result("state_get_account_info", json!({"account_identifier": account})).await?;
    let named = |name: &str| {
        let keys = info["account"]["named_keys"].as_array()?;
        keys.iter().find(|key| key["name"] == name)?["key"].as_str().map(str::to_owned)
    };
    let contract = named(CONTRACT).context("the contract is in its account")?;
    let dictionary = named(DICTIONARY).context("the dictionary is in its account")?;
    let identifier = json!({"ContractHash": contract.replace("hash-", "contract-")});
    let method = "state_get_entity";
    let mut package = Value::Null;
    for includes_wasm in [false, true] {
        case!(run, method, if includes_wasm { "a contract with its code" } else { "a contract" }, {
            let params = json!({"entity_identifier": identifier, "include_bytecode": includes_wasm});
            let mut result = run.rpc.result(method, params).await?;
            let found = &mut result["entity"]["Contract"];
            // Here they are a map, in `state_get_item` a list: so casper-types has it, and the reference with it.
            same("entry point", &found["contract"]["entry_points"][ENTRY_POINT]["name"], &json!(ENTRY_POINT))?;
            if includes_wasm {
                is_proof(&found["wasm"]["merkle_proof"])?;
            } else {
                same("wasm", &found["wasm"], &Value::Null)?;
            }
            package = found["contract"]["contract_package_hash"].take();
        });
    }
    let method = "state_get_package";
    case!(run, method, "of a contract", {
        let result = run.rpc.result(method, json!({"package_identifier": {"ContractPackageHash": package}})).await?;
        let versions = &result["package"]["ContractPackage"]["versions"];
        let contract = &versions[0]["contract_hash"];
        ensure!(*contract == identifier["ContractHash"], "{contract} instead of {identifier} in {versions:.300}");
        is_proof(&result["merkle_proof"])?;
    });
    case!(run, method, "nothing", {
        let params = json!({"package_identifier": {"ContractPackageHash": format!("contract-package-{NOWHERE}")}});
        is_error(&run.rpc.error(method, params).await?, -32020, "the requested addressable entity was not found")?;
    });
    let root = run.rpc.result("chain_get_state_root_hash", Value::Null).await?["state_root_hash"].take();
    let method = "state_get_dictionary_item";
    let item = |dictionary: Value| json!({"state_root_hash": root, "dictionary_identifier": dictionary});
    let names = |key: &str| json!({"key": key, "dictionary_name": DICTIONARY, "dictionary_item_key": ITEM});
    let mut key = Value::Null;
    for (case, identifier) in [
        ("by an account's name", json!({"AccountNamedKey": names(&account)})),
        ("by a contract's name", json!({"ContractNamedKey": names(&contract)})),
        ("by its seed", json!({"URef": {"seed_uref": dictionary, "dictionary_item_key": ITEM}})),
        ("by its own key", json!(null)),
    ] {
        case!(run, method, case, {
            let identifier = if identifier.is_null() { json!({"Dictionary": key}) } else { identifier };
            let mut result = run.rpc.result(method, item(identifier)).await?;
            same("value", &result["stored_value"]["CLValue"]["parsed"], &json!(GREETING))?;
            is_proof(&result["merkle_proof"])?;
            key = result["dictionary_key"].take();
        });
    }
    case!(run, method, "nothing, and no dictionary", {
        let missing = json!({"URef": {"seed_uref": dictionary, "dictionary_item_key": "klingon"}});
        let error = run.rpc.error(method, item(missing)).await?;
        is_error(&error, -32003, "value was not found in the global state")?;
        let (code, data) = run.rpc.error(method, item(json!({"ContractNamedKey": names(&account)}))).await?;
        let is_named = data.as_str().is_some_and(|text| text.ends_with("not a hash address"));
        ensure!(code == -32002 && is_named, "{code}, {data}");
    });
    Ok(())
}

async fn auction(run: &mut Run, switch_block: &Value) -> Result<()> {
    let (validator, faucet) = (json!(run.validator()), json!(run.faucet()));
    let header = &switch_block["block"]["Version2"]["header"];
    for method in ["state_get_auction_info", "state_get_auction_info_v2"] {
        case!(run, method, "after a block", {
            let result = run.rpc.result(method, json!([{"Hash": switch_block["block_hash"]}])).await?;
            let state = &result["auction_state"];
            same("state_root_hash", &state["state_root_hash"], &header["state_root_hash"])?;
            same("block_height", &state["block_height"], &header["height"])?;
            let next = &header["era_end"]["next_era_validator_weights"];
            let of_era = state["era_validators"].as_array().context("no list")?.iter();
            let mut of_era =
                of_era.filter(|era| era["era_id"].as_u64() == header["era_id"].as_u64().map(|era| era + 1));
            let weights = &of_era.next().context("the next era is not among them")?["validator_weights"];
            same("weight", &weights[0]["weight"], &next[0]["weight"])?;
            same("validator", &weights[0]["public_key"], &validator)?;
        });
        case!(run, method, "the newest", {
            let result = run.rpc.result(method, Value::Null).await?;
            let bids = result["auction_state"]["bids"].as_array().context("no list")?;
            let staked = json!(DELEGATED.to_string());
            let has_delegation = if method == "state_get_auction_info" {
                let bid = &bids.iter().find(|bid| bid["public_key"] == validator).context("no bid")?["bid"];
                let delegators = bid["delegators"].as_array().context("no delegators")?;
                delegators.iter().any(|delegator| delegator["delegator_public_key"] == faucet)
            } else {
                bids.iter().any(|bid| {
                    let delegator = &bid["bid"]["Delegator"];
                    delegator["delegator_kind"]["PublicKey"] == faucet && !delegator["staked_amount"].is_null()
                })
            };
            ensure!(has_delegation, "{faucet} delegates {staked}, and is not in {result:.2000}");
        });
        case!(run, method, "of no block", {
            ensure!(run.rpc.error(method, json!([{"Height": 1_000_000}])).await?.0 == -32001);
        });
    }
    Ok(())
}

async fn information(run: &mut Run) -> Result<()> {
    case!(run, "info_get_peers", "a lone node's", {
        same("peers", &run.rpc.result("info_get_peers", json!({})).await?["peers"], &json!([]))?;
    });
    case!(run, "info_get_status", "as its REST server has it", {
        let status = run.rpc.result("info_get_status", Value::Null).await?;
        let rest = get(run.network.rest(), "/status").await.json();
        let changing = ["last_added_block_info", "uptime", "last_progress", "available_block_range", "block_sync"];
        for (name, value) in rest.as_object().context("no object")? {
            let is_compared = !changing.contains(&name.as_str()) && name != "latest_switch_block_hash";
            if is_compared {
                same(name, &status[name], value)?;
            } else {
                ensure!(!status[name].is_null(), "{name} is missing");
            }
        }
    });
    case!(run, "info_get_validator_changes", "as its REST server has them", {
        let result = run.rpc.result("info_get_validator_changes", Value::Null).await?;
        let rest = get(run.network.rest(), "/validator-changes").await.json();
        same("changes", &result["changes"], &rest["changes"])?;
    });
    case!(run, "info_get_chainspec", "as its files are", {
        let result = run.rpc.result("info_get_chainspec", Value::Null).await?;
        let bytes = &result["chainspec_bytes"];
        same("chainspec", &bytes["chainspec_bytes"], &json!(hex(run.network.chainspec.as_bytes())))?;
        let accounts = &bytes["maybe_genesis_accounts_bytes"];
        same("accounts", accounts, &json!(hex(run.network.genesis_accounts.as_bytes())))?;
        same("global state", &bytes["maybe_global_state_bytes"], &Value::Null)?;
    });
    Ok(())
}

async fn speculation(run: &mut Run, sent: &Sent) -> Result<()> {
    let unavailable = "request for speculatively executing a transaction has failed: received v1 transaction for speculative execution";
    for (method, params) in [
        ("speculative_exec", json!({"deploy": sent.call_deploy.sent})),
        ("speculative_exec_txn", json!({"transaction": {"Deploy": sent.call_deploy.sent}})),
    ] {
        case!(run, method, "a deploy", {
            let result = run.rpc.result(method, params).await?;
            let execution = &result["execution_result"];
            same("error", &execution["error"], &Value::Null)?;
            let message = &execution["messages"][0]["message"];
            same("message", message, &json!({"String": GREETING}))?;
        });
    }
    case!(run, "speculative_exec_txn", "a transaction, which the node does not take", {
        let params = json!({"transaction": {"Version1": sent.contract_call.sent}});
        is_error(&run.rpc.error("speculative_exec_txn", params).await?, -32018, unavailable)?;
    });
    case!(run, "speculative_exec", "of another chain", {
        let mut deploy = sent.call_deploy.sent.clone();
        deploy["header"]["chain_name"] = json!("another-chain");
        let (code, data) = run.rpc.error("speculative_exec", json!([deploy])).await?;
        ensure!(code == -32018, "{code}, {data}");
    });
    Ok(())
}

async fn documents(run: &mut Run) -> Result<()> {
    case!(run, "rpc.discover", "both servers'", {
        same("document", &run.rpc.discover(true).await?, &rpc::main_document())?;
        same("document", &run.rpc.discover(false).await?, &rpc::speculative_document())?;
    });
    case!(run, "rpc.discover", "a method that is not in it", {
        let error = run.rpc.error("chain_get_nothing", Value::Null).await?;
        is_error(&error, -32601, "'chain_get_nothing' is not a supported json-rpc method on this server")?;
    });
    Ok(())
}
