//! The registry's `casper-client`, pointed at the bridge.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::methods::same;
use crate::network::CHAIN;
use crate::{Run, case};

const TRANSFERRED: &str = "7000000000";

/// Runs what operators run, and compares what it prints with what the node announced.
pub(crate) async fn check(run: &mut Run, binary: &Path) -> Result<()> {
    let client = Client { binary, node: run.rpc.url() };
    let key = run.network.faucet_key_file()?;
    let key = key.to_str().context("the folder has a plain name")?;
    let (user, faucet) = (run.user.to_hex_string(), run.faucet().to_account_hash().to_formatted_string());
    let info = run.rpc.result("state_get_account_info", json!({"public_key": run.user})).await?;
    let purse = info["account"]["main_purse"].as_str().context("an account has a purse")?.to_owned();
    let balance = async |run: &Run| {
        let params = json!({"purse_identifier": {"purse_uref": purse}});
        anyhow::Ok(
            run.rpc.result("query_balance", params).await?["balance"].as_str().unwrap_or_default().parse::<u128>()?,
        )
    };
    let subject = "casper-client";

    case!(run, subject, "list-rpcs", {
        let result = client.result("list-rpcs", &[])?;
        // The client reads the schemas into types of its own and prints these, so only the names are compared.
        let names = |document: &Value| {
            let methods = document["methods"].as_array().into_iter().flatten();
            methods.map(|method| method["name"].clone()).collect::<Value>()
        };
        same("methods", &names(&result["schema"]), &names(&crate::rpc::main_document()))?;
    });
    case!(run, subject, "get-block", {
        let result = client.result("get-block", &["--block-identifier", "1"])?;
        let block = &result["block_with_signatures"]["block"];
        same("block", block, &run.network.events.block(&block["Version2"]["hash"])?)?;
        same("height", &block["Version2"]["header"]["height"], &json!(1))?;
    });
    let before = balance(run).await?;
    let common = ["--chain-name", CHAIN, "--secret-key", key];
    let transfer = ["transfer", "--target", &user, "--transfer-amount", TRANSFERRED];
    let pricing = ["--pricing-mode", "classic", "--payment-amount", "100000000"];
    let pricing = [&pricing[..], &["--gas-price-tolerance", "1", "--standard-payment", "true"]].concat();
    case!(run, subject, "put-transaction transfer, get-transaction", {
        let arguments = [&transfer[..], &common, &pricing].concat();
        let result = client.result("put-transaction", &arguments)?;
        let hash = result["transaction_hash"]["Version1"].as_str().context("no hash")?.to_owned();
        let event = run.network.events.processed(&hash).await?;
        same("error", &event["execution_result"]["Version2"]["error_message"], &Value::Null)?;
        let result = client.result("get-transaction", &[&hash])?;
        same("execution", &result["execution_info"]["execution_result"], &event["execution_result"])?;
    });
    case!(run, subject, "transfer, get-deploy", {
        let transfer = ["--target-account", &user, "--amount", TRANSFERRED, "--transfer-id", "10"];
        let arguments = [&transfer[..], &common, &["--payment-amount", "100000000"]].concat();
        let result = client.result("transfer", &arguments)?;
        let hash = result["deploy_hash"].as_str().context("no hash")?.to_owned();
        let event = run.network.events.processed(&hash).await?;
        let result = client.result("get-deploy", &[&hash])?;
        same("execution", &result["execution_info"]["execution_result"], &event["execution_result"])?;
    });
    case!(run, subject, "get-state-root-hash, get-balance", {
        let root = client.result("get-state-root-hash", &[])?;
        let root = root["state_root_hash"].as_str().context("no root")?;
        let result = client.result("get-balance", &["--state-root-hash", root, "--purse-uref", &purse])?;
        let balance: u128 = result["balance_value"].as_str().context("no balance")?.parse()?;
        let transferred: u128 = TRANSFERRED.parse()?;
        ensure!(balance == before + 2 * transferred, "{balance}, it was {before} before two transfers");
        let result = client.result("query-balance", &["--purse-identifier", &user])?;
        same("balance", &result["balance"], &json!(balance.to_string()))?;
    });
    case!(run, subject, "query-global-state", {
        let root = client.result("get-state-root-hash", &[])?;
        let root = root["state_root_hash"].as_str().context("no root")?;
        let result = client.result("query-global-state", &["--state-root-hash", root, "--key", &faucet])?;
        same("account", &result["stored_value"]["Account"]["account_hash"], &json!(faucet))?;
    });
    for command in [
        "get-node-status",
        "get-peers",
        "get-validator-changes",
        "get-chainspec",
        "get-auction-info",
        "get-era-info",
        "get-era-summary",
        "get-block-transfers",
    ] {
        case!(run, subject, command, {
            let answered = client.run(command, &[])?;
            ensure!(!answered.trim().is_empty(), "it prints nothing");
        });
    }
    Ok(())
}

struct Client<'a> {
    binary: &'a Path,
    node: String,
}

impl Client<'_> {
    /// The result that a command prints.
    fn result(&self, command: &str, arguments: &[&str]) -> Result<Value> {
        let printed = self.run(command, arguments)?;
        let json = printed.find('{').and_then(|start| printed.get(start..)).unwrap_or_default();
        let mut answer: Value = serde_json::Deserializer::from_str(json).into_iter().next().context("no JSON")??;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => bail!("no result in {printed}"),
        }
    }

    /// What a command prints; it must succeed.
    fn run(&self, command: &str, arguments: &[&str]) -> Result<String> {
        // `put-transaction` takes its options after the kind of transaction.
        let (kind, options) = match arguments.first() {
            Some(first) if !first.starts_with('-') => arguments.split_at(1),
            _ => arguments.split_at(0),
        };
        let mut program = Command::new(self.binary);
        program.arg(command).args(kind).args(["--node-address", &self.node]).args(options);
        let output = program.output().with_context(|| format!("{} cannot be started", self.binary.display()))?;
        let (printed, errors) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{program:?}: {}: {printed}{errors}", output.status);
        Ok(printed)
    }
}
