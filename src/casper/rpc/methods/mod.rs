//! The methods of both servers.
//!
//! Each one takes parameters and the node, and makes a result. This file lists the methods; those of one subject
//! have a file of their own.

mod auction;
mod chain;
mod discover;
mod info;
mod speculative;
mod state;
mod transactions;

use std::pin::Pin;

use serde_json::Value;

use super::bridge::{Node, Reply};
use super::failure::Failure;

/// A call that is being worked on.
type Answering<'a> = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send + 'a>>;

/// A method by its name.
pub(super) struct Method {
    pub(super) name: &'static str,
    run: for<'a> fn(&'a Node<'a>, Option<Value>) -> Answering<'a>,
}

impl Method {
    /// Whether some of its answers never change.
    pub(super) fn may_last(&self) -> bool {
        matches!(
            self.name,
            "chain_get_block"
                | "chain_get_block_transfers"
                | "chain_get_state_root_hash"
                | "info_get_deploy"
                | "info_get_transaction"
                | "query_global_state"
                | "state_get_dictionary_item"
                | "state_get_item"
        )
    }

    /// Answers a call with these parameters.
    pub(super) fn run<'a>(&self, node: &'a Node<'a>, params: Option<Value>) -> Answering<'a> {
        (self.run)(node, params)
    }
}

/// A table of methods: name, how parameters are given, and the function.
macro_rules! methods {
    ($($table:ident { $($name:literal: $kind:ident $module:ident::$function:ident;)* })*) => {
        $(pub(super) static $table: &[Method] = &[
            $(Method { name: $name, run: |node, params| Box::pin(async move { run!($kind, node, params, $module::$function) }) },)*
        ];)*
    };
}

macro_rules! run {
    (none, $node:ident, $params:ident, $function:path) => {{
        super::params::none($params)?;
        $function($node).await
    }};
    ($kind:ident, $node:ident, $params:ident, $function:path) => {
        $function($node, super::params::$kind($params)?).await
    };
}

methods! {
    MAIN {
        "account_put_deploy": required transactions::put_deploy;
        "account_put_transaction": required transactions::put_transaction;
        "info_get_deploy": required transactions::get_deploy;
        "info_get_transaction": required transactions::get_transaction;
        "state_get_account_info": required state::get_account_info;
        "state_get_entity": required state::get_entity;
        "state_get_package": required state::get_package;
        "state_get_dictionary_item": required state::get_dictionary_item;
        "query_global_state": required state::query_global_state;
        "query_balance": required state::query_balance;
        "query_balance_details": required state::query_balance_details;
        "info_get_peers": none info::get_peers;
        "info_get_status": none info::get_status;
        "info_get_reward": required info::get_reward;
        "info_get_validator_changes": none info::get_validator_changes;
        "info_get_chainspec": none info::get_chainspec;
        "chain_get_block": optional chain::get_block;
        "chain_get_block_transfers": optional chain::get_block_transfers;
        "chain_get_state_root_hash": optional chain::get_state_root_hash;
        "state_get_item": required state::get_item;
        "state_get_balance": required state::get_balance;
        "chain_get_era_info_by_switch_block": optional chain::get_era_info_by_switch_block;
        "state_get_auction_info": optional auction::get_auction_info;
        "state_get_auction_info_v2": optional auction::get_auction_info_v2;
        "chain_get_era_summary": optional chain::get_era_summary;
        "state_get_trie": required state::get_trie;
        "rpc.discover": none discover::main;
    }
    SPECULATIVE {
        "speculative_exec": required speculative::execute_deploy;
        "speculative_exec_txn": required speculative::execute_transaction;
        "rpc.discover": none discover::speculative;
    }
}
