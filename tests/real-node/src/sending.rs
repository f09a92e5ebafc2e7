//! What is sent to the network, through the bridge.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sidecar_test_support::casper_types::{Deploy, Transaction};

use crate::methods::same;
use crate::network::{CHAIN, any_hash};
use crate::transactions::{call_deploy, contract_call, delegation, installation, signed, transfer, transfer_deploy};
use crate::{Run, case, contract};

/// What the user is sent by a transaction, and by a deploy.
pub(crate) const TRANSFERRED: [u64; 2] = [5_000_000_000, 6_000_000_000];
/// What the faucet delegates.
pub(crate) const DELEGATED: u64 = 600_000_000_000;

/// What was sent and executed.
pub(crate) struct Sent {
    pub(crate) transfer: Executed,
    pub(crate) transfer_deploy: Executed,
    pub(crate) contract_call: Executed,
    pub(crate) call_deploy: Executed,
}

/// A transaction, or a deploy, as it was sent, and the event of its execution.
pub(crate) struct Executed {
    pub(crate) hash: Value,
    pub(crate) sent: Value,
    pub(crate) event: Value,
}

impl Executed {
    /// Its hash alone.
    pub(crate) fn digest(&self) -> &str {
        any_hash(&self.hash).unwrap_or_default()
    }
}

/// Sends everything, each as its method takes it, and waits until it is executed.
pub(crate) async fn send_everything(run: &mut Run) -> Result<Sent> {
    let (faucet, user) = (&run.network.accounts.faucet, &run.user);
    let transfers = TRANSFERRED;
    let transfer = signed(CHAIN, faucet, transfer(user, transfers[0]))?;
    let installation = signed(CHAIN, faucet, installation(contract::module()?))?;
    let delegation = signed(CHAIN, faucet, delegation(&run.faucet(), &run.validator(), DELEGATED))?;
    let contract_call = signed(CHAIN, faucet, contract_call())?;
    let transfer_deploy = transfer_deploy(CHAIN, faucet, user, transfers[1]);
    let first_call_deploy = call_deploy(CHAIN, faucet);
    let of_other_chain = signed("another-chain", faucet, crate::transactions::contract_call())?;
    let deploy_of_other_chain = call_deploy("another-chain", faucet);

    let transfer = put_transaction(run, "a transfer", transfer).await?;
    put_transaction(run, "a contract's installation", installation).await?;
    put_transaction(run, "a delegation", delegation).await?;
    let contract_call = put_transaction(run, "a contract's call", contract_call).await?;
    let transfer_deploy = put_deploy(run, "a transfer", transfer_deploy).await?;
    let call_deploy = put_deploy(run, "a contract's call", first_call_deploy).await?;

    let method = "account_put_transaction";
    case!(run, method, "of another chain", {
        let params = json!({"transaction": of_other_chain});
        refused(&run.rpc.error(method, params).await?, -32016, "the transaction was invalid: ")?;
        let params = json!({"transaction": {"Deploy": deploy_of_other_chain}});
        refused(&run.rpc.error(method, params).await?, -32016, "the transaction was invalid: ")?;
    });
    let method = "account_put_deploy";
    case!(run, method, "of another chain", {
        let params = json!({"deploy": deploy_of_other_chain});
        refused(&run.rpc.error(method, params).await?, -32008, "the deploy was invalid: ")?;
    });
    Ok(Sent { transfer, transfer_deploy, contract_call, call_deploy })
}

async fn put_transaction(run: &mut Run, what: &str, transaction: Transaction) -> Result<Executed> {
    let (method, hash) = ("account_put_transaction", serde_json::to_value(transaction.hash())?);
    let result = run.rpc.result(method, json!({"transaction": transaction})).await;
    let accepted = result.and_then(|result| same("transaction_hash", &result["transaction_hash"], &hash));
    executed(run, method, what, accepted, hash, serde_json::to_value(&transaction)?["Version1"].take()).await
}

async fn put_deploy(run: &mut Run, what: &str, deploy: Deploy) -> Result<Executed> {
    let (method, hash) = ("account_put_deploy", json!({"Deploy": deploy.hash()}));
    let result = run.rpc.result(method, json!({"deploy": deploy})).await;
    let accepted = result.and_then(|result| same("deploy_hash", &result["deploy_hash"], &hash["Deploy"]));
    executed(run, method, what, accepted, hash, serde_json::to_value(&deploy)?).await
}

/// Waits for the execution of what was accepted under `hash`.
async fn executed(
    run: &mut Run,
    method: &str,
    what: &str,
    accepted: Result<()>,
    hash: Value,
    sent: Value,
) -> Result<Executed> {
    let is_accepted = accepted.is_ok();
    run.report.note(method, what, accepted);
    ensure!(is_accepted, "everything else needs {what}");
    let event = run.network.events.processed(any_hash(&hash).context("a hash has a form")?).await?;
    let error = &event["execution_result"]["Version2"]["error_message"];
    ensure!(error.is_null(), "{what} was not executed: {error}");
    Ok(Executed { hash, sent, event })
}

fn refused(error: &(i64, Value), code: i64, data: &str) -> Result<()> {
    let is_as_documented = error.0 == code && error.1.as_str().is_some_and(|text| text.starts_with(data));
    ensure!(is_as_documented, "{error:?} instead of {code}, {data}…");
    Ok(())
}
