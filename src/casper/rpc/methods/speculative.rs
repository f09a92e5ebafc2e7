//! Executing transactions without effect.

use casper_types::{Deploy, Transaction};
use serde::{Deserialize, Serialize};

use super::super::bridge::{Node, Reply};
use super::super::failure::{Code, Failure};
use super::super::node_link::{Request, SpeculativeExecution};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpeculativeExecParams {
    deploy: Deploy,
}

pub(super) async fn execute_deploy(node: &Node<'_>, params: SpeculativeExecParams) -> Result<Reply, Failure> {
    execute(node, &Transaction::Deploy(params.deploy)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpeculativeExecTxnParams {
    transaction: Transaction,
}

pub(super) async fn execute_transaction(node: &Node<'_>, params: SpeculativeExecTxnParams) -> Result<Reply, Failure> {
    execute(node, &params.transaction).await
}

async fn execute(node: &Node<'_>, transaction: &Transaction) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct SpeculativeExecResult {
        execution_result: SpeculativeExecution,
    }

    let request = Request::speculative_execution(transaction);
    let found = node.value("speculatively executing a transaction", request).await?;
    let execution_result =
        found.ok_or_else(|| Failure::new(Code::InvalidDeploy, "speculative execution returned nothing"))?;
    Reply::new(&SpeculativeExecResult { execution_result })
}
