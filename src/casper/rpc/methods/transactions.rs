//! Transactions and deploys: handing them in, and looking them up.

use casper_types::{Deploy, DeployHash, ExecutionInfo, Transaction, TransactionHash};
use serde::{Deserialize, Serialize};

use super::super::bridge::{Node, Reply};
use super::super::failure::{Code, Failure, Submitted};
use super::super::node_link::{FoundTransaction, Request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutDeployParams {
    deploy: Deploy,
}

pub(super) async fn put_deploy(node: &Node<'_>, params: PutDeployParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct PutDeployResult {
        deploy_hash: DeployHash,
    }

    let deploy_hash = *params.deploy.hash();
    let request = Request::accept_transaction(&Transaction::Deploy(params.deploy));
    node.submit(request, |error| Failure::not_accepted("submitting a deploy", Submitted::Deploy, error)).await?;
    Reply::new(&PutDeployResult { deploy_hash })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutTransactionParams {
    transaction: Transaction,
}

pub(super) async fn put_transaction(node: &Node<'_>, params: PutTransactionParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct PutTransactionResult {
        transaction_hash: TransactionHash,
    }

    let transaction_hash = params.transaction.hash();
    let request = Request::accept_transaction(&params.transaction);
    let refused = |error: &_| Failure::not_accepted("submitting a transaction", Submitted::Transaction, error);
    node.submit(request, refused).await?;
    Reply::new(&PutTransactionResult { transaction_hash })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetDeployParams {
    deploy_hash: DeployHash,
    #[serde(default)]
    finalized_approvals: bool,
}

pub(super) async fn get_deploy(node: &Node<'_>, params: GetDeployParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetDeployResult {
        deploy: Deploy,
        execution_info: Option<ExecutionInfo>,
    }

    let hash = params.deploy_hash;
    let found = node.transaction(TransactionHash::Deploy(hash), params.finalized_approvals).await?;
    let FoundTransaction { transaction, execution_info } = found.ok_or_else(|| Failure::no_such_deploy(hash))?;
    let deploy = match transaction {
        Transaction::Deploy(deploy) => deploy,
        Transaction::V1(_) => {
            return Err(Failure::new(Code::VariantMismatch, "found a transaction when searching for a deploy"));
        }
    };
    let lasts = is_executed(execution_info.as_ref());
    Ok(Reply::new(&GetDeployResult { deploy, execution_info })?.lasting(lasts))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetTransactionParams {
    transaction_hash: TransactionHash,
    #[serde(default)]
    finalized_approvals: bool,
}

pub(super) async fn get_transaction(node: &Node<'_>, params: GetTransactionParams) -> Result<Reply, Failure> {
    #[derive(Serialize)]
    struct GetTransactionResult {
        transaction: Transaction,
        execution_info: Option<ExecutionInfo>,
    }

    let hash = params.transaction_hash;
    let found = node.transaction(hash, params.finalized_approvals).await?;
    let FoundTransaction { transaction, execution_info } = found.ok_or_else(|| Failure::no_such_transaction(hash))?;
    let lasts = is_executed(execution_info.as_ref());
    Ok(Reply::new(&GetTransactionResult { transaction, execution_info })?.lasting(lasts))
}

/// Nothing about an executed transaction changes any more.
fn is_executed(execution_info: Option<&ExecutionInfo>) -> bool {
    execution_info.is_some_and(|info| info.execution_result.is_some())
}
