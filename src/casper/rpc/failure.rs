//! Why a call failed, in the reference's codes and words.

use std::borrow::Cow;

use casper_binary_port::ErrorCode;
use casper_types::{AvailableBlockRange, DeployHash, TransactionHash, bytesrepr};
use serde::Serialize;

use super::node_link::LinkError;
use crate::engine::http::memory::Crowded;

/// The codes of errors, and the message that belongs to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub(super) enum Code {
    ParseError = -32700,
    InvalidRequest = -32600,
    MethodNotFound = -32601,
    InvalidParams = -32602,
    Internal = -32603,
    NoSuchDeploy = -32000,
    NoSuchBlock = -32001,
    QueryKey = -32002,
    QueryFailed = -32003,
    QueryFailedToExecute = -32004,
    BalanceUref = -32005,
    InvalidDeploy = -32008,
    NoSuchAccount = -32009,
    NoSuchStateRoot = -32012,
    NoSuchTransaction = -32014,
    VariantMismatch = -32015,
    InvalidTransaction = -32016,
    NodeRequest = -32018,
    FunctionDisabled = -32019,
    NoSuchEntity = -32020,
    AccountMigrated = -32021,
    NoRewards = -32022,
    SwitchBlockNotFound = -32023,
    SwitchBlockParentNotFound = -32024,
    RewardsV1 = -32025,
    PurseNotFound = -32026,
}

impl Code {
    /// Every code that is ever answered.
    pub(super) const ALL: [Code; 26] = [
        Code::ParseError,
        Code::InvalidRequest,
        Code::MethodNotFound,
        Code::InvalidParams,
        Code::Internal,
        Code::NoSuchDeploy,
        Code::NoSuchBlock,
        Code::QueryKey,
        Code::QueryFailed,
        Code::QueryFailedToExecute,
        Code::BalanceUref,
        Code::InvalidDeploy,
        Code::NoSuchAccount,
        Code::NoSuchStateRoot,
        Code::NoSuchTransaction,
        Code::VariantMismatch,
        Code::InvalidTransaction,
        Code::NodeRequest,
        Code::FunctionDisabled,
        Code::NoSuchEntity,
        Code::AccountMigrated,
        Code::NoRewards,
        Code::SwitchBlockNotFound,
        Code::SwitchBlockParentNotFound,
        Code::RewardsV1,
        Code::PurseNotFound,
    ];

    pub(super) fn number(self) -> i64 {
        self as i64
    }

    fn message(self) -> &'static str {
        match self {
            Code::ParseError => "Parse error",
            Code::InvalidRequest => "Invalid Request",
            Code::MethodNotFound => "Method not found",
            Code::InvalidParams => "Invalid params",
            Code::Internal => "Internal error",
            Code::NoSuchDeploy => "No such deploy",
            Code::NoSuchBlock => "No such block",
            Code::QueryKey => "Failed to parse query key",
            Code::QueryFailed => "Query failed",
            Code::QueryFailedToExecute => "Query failed to execute",
            Code::BalanceUref => "Failed to parse get-balance URef",
            Code::InvalidDeploy => "Invalid Deploy",
            Code::NoSuchAccount => "No such account",
            Code::NoSuchStateRoot => "No such state root",
            Code::NoSuchTransaction => "No such transaction",
            Code::VariantMismatch => "Variant mismatch internal error",
            Code::InvalidTransaction => "Invalid transaction",
            Code::NodeRequest => "Node request failure",
            Code::FunctionDisabled => "Function needed to execute this request is disabled",
            Code::NoSuchEntity => "No such addressable entity",
            Code::AccountMigrated => "Account migrated to an addressable entity",
            Code::NoRewards => "No rewards found",
            Code::SwitchBlockNotFound => "Switch block not found",
            Code::SwitchBlockParentNotFound => "Switch block parent not found",
            Code::RewardsV1 => "Cannot serve rewards stored in V1 format",
            Code::PurseNotFound => "Purse not found",
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    data: Data,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data {
    Text(Cow<'static, str>),
    NoBlock { message: &'static str, available_block_range: AvailableBlockRange },
}

impl Failure {
    pub(super) fn new(code: Code, data: impl Into<Cow<'static, str>>) -> Self {
        Failure { code, data: Data::Text(data.into()) }
    }

    pub(super) fn no_such_block(available_block_range: AvailableBlockRange) -> Self {
        let message = "no block found for the provided identifier";
        Failure { code: Code::NoSuchBlock, data: Data::NoBlock { message, available_block_range } }
    }

    pub(super) fn no_such_deploy(hash: DeployHash) -> Self {
        Failure::new(Code::NoSuchDeploy, format!("no deploy for hash {hash}"))
    }

    pub(super) fn no_such_transaction(hash: TransactionHash) -> Self {
        Failure::new(Code::NoSuchTransaction, format!("no transaction for hash {hash}"))
    }

    pub(super) fn no_such_value() -> Self {
        Failure::new(Code::QueryFailed, "value was not found in the global state")
    }

    pub(super) fn no_such_entity() -> Self {
        Failure::new(Code::NoSuchEntity, "the requested addressable entity was not found")
    }

    /// There is no memory for the answer.
    pub(super) fn crowded() -> Self {
        Failure::new(Code::Internal, Crowded.to_string())
    }

    /// The answer does not fit beside those to other calls of its batch.
    pub(super) fn no_room_in_batch() -> Self {
        let text = "the answers to the batch take too many bytes; send fewer requests in one batch";
        Failure::new(Code::Internal, text)
    }

    pub(super) fn bytesrepr(error: bytesrepr::Error) -> Self {
        Failure::new(Code::Internal, format!("unexpected bytesrepr failure: {error}"))
    }

    /// The request for `what` failed.
    pub(super) fn node(what: &str, error: &LinkError) -> Self {
        let LinkError::Node(code) = *error else {
            return Failure::new(Code::NodeRequest, format!("request for {what} has failed: {error}"));
        };
        let (code, prefix) = match Class::of(code) {
            Class::Own(code) => (code, ""),
            Class::Speculation => (Code::InvalidDeploy, "speculative execution has failed: "),
            Class::Transaction => (Code::NodeRequest, "could not execute the provided transaction: "),
            Class::Other => (Code::NodeRequest, ""),
        };
        Failure::new(code, format!("request for {what} has failed: {prefix}{error}"))
    }

    /// A transaction, or a deploy, was not accepted.
    pub(super) fn not_accepted(what: &str, form: Submitted, error: &LinkError) -> Self {
        match *error {
            LinkError::Node(code) if matches!(Class::of(code), Class::Transaction) => match form {
                Submitted::Deploy => Failure::new(Code::InvalidDeploy, format!("the deploy was invalid: {error}")),
                Submitted::Transaction => {
                    Failure::new(Code::InvalidTransaction, format!("the transaction was invalid: {error}"))
                }
            },
            _ => Failure::node(what, error),
        }
    }
}

/// What was submitted, as the method says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Submitted {
    Deploy,
    Transaction,
}

impl Serialize for Failure {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;

        let mut error = serializer.serialize_struct("Error", 3)?;
        error.serialize_field("code", &self.code.number())?;
        error.serialize_field("message", self.code.message())?;
        error.serialize_field("data", &self.data)?;
        error.end()
    }
}

/// How an error of the node is passed on.
enum Class {
    /// Under a code of its own.
    Own(Code),
    /// As a failed speculative execution.
    Speculation,
    /// As a transaction that is not valid.
    Transaction,
    Other,
}

impl Class {
    fn of(code: u16) -> Class {
        use ErrorCode as E;

        let Ok(error) = ErrorCode::try_from(code) else { return Class::Other };
        match error {
            E::FunctionDisabled => Class::Own(Code::FunctionDisabled),
            E::RootNotFound => Class::Own(Code::NoSuchStateRoot),
            E::FailedQuery => Class::Own(Code::QueryFailedToExecute),
            E::SwitchBlockNotFound => Class::Own(Code::SwitchBlockNotFound),
            E::SwitchBlockParentNotFound => Class::Own(Code::SwitchBlockParentNotFound),
            E::UnsupportedRewardsV1Request => Class::Own(Code::RewardsV1),
            E::PurseNotFound => Class::Own(Code::PurseNotFound),
            E::InvalidItemVariant | E::WasmPreprocessing => Class::Speculation,
            E::NoError
            | E::NotFound
            | E::InternalError
            | E::BadRequest
            | E::UnsupportedRequest
            | E::DictionaryURefNotFound
            | E::NoCompleteBlocks
            | E::CommandHeaderVersionMismatch
            | E::GasPriceToleranceTooLow
            | E::ReceivedV1Transaction
            | E::RequestThrottled
            | E::TransferRecordMalformedKey
            | E::MalformedInformationRequest
            | E::TooLittleBytesForRequestHeaderVersion
            | E::MalformedCommandHeaderVersion
            | E::MalformedCommandHeader
            | E::MalformedCommand => Class::Other,
            _ => Class::Transaction,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(failure: &Failure) -> String {
        serde_json::to_string(failure).unwrap()
    }

    #[test]
    fn an_error_has_its_members_in_order() {
        let failure = Failure::no_such_block(AvailableBlockRange::new(0, 160));
        let expected = r#"{"code":-32001,"message":"No such block","data":{"message":"no block found for the provided identifier","available_block_range":{"low":0,"high":160}}}"#;
        assert_eq!(shown(&failure), expected);
    }

    #[test]
    fn errors_of_the_node_are_passed_on_in_the_references_classes() {
        let root = Failure::node("global state item", &LinkError::Node(3));
        let expected = r#"{"code":-32012,"message":"No such state root","data":"request for global state item has failed: could not find the provided state root hash"}"#;
        assert_eq!(shown(&root), expected);
        let data = |code: u16| {
            let value = serde_json::to_value(Failure::node("W", &LinkError::Node(code))).unwrap();
            (value["code"].as_i64().unwrap(), value["data"].as_str().unwrap().to_owned())
        };
        let of = |text: &str| format!("request for W has failed: {text}");
        assert_eq!(data(1), (-32019, of("attempted to use a function that's disabled on the node")));
        assert_eq!(data(5), (-32008, of("speculative execution has failed: wasm preprocessing")));
        assert_eq!(data(6), (-32018, of("node reported internal error")));
        let prefix = "could not execute the provided transaction: ";
        assert_eq!(data(12), (-32018, of(&format!("{prefix}The deploy had an invalid chain name"))));
        let new = "the transaction invocation target is unsupported under V2 runtime";
        assert_eq!(data(117), (-32018, of(&format!("{prefix}{new}"))));
        assert_eq!(data(59).0, -32025);
        assert_eq!(data(86).0, -32026);
        assert_eq!(data(87), (-32018, of("request was throttled by the node")));
        assert_eq!(data(999), (-32018, of("received an unexpected node error: unknown node error code (999)")));
        let transaction_codes = (12..=56).chain(61..=83).chain([88, 89]).chain(96..=117);
        for code in transaction_codes {
            assert!(data(code).1.starts_with(&of(prefix)), "{code}");
        }
        for code in [2, 6, 8, 9, 10, 11, 60, 84, 85, 87, 90, 91, 92, 93, 94, 95] {
            assert!(data(code).0 == -32018 && !data(code).1.contains("could not execute"), "{code}");
        }
    }

    #[test]
    fn a_submission_is_refused_under_the_methods_own_code() {
        let invalid = LinkError::Node(18);
        let deploy = Failure::not_accepted("submitting a deploy", Submitted::Deploy, &invalid);
        assert_eq!(
            shown(&deploy),
            r#"{"code":-32008,"message":"Invalid Deploy","data":"the deploy was invalid: The deploy had an invalid deploy hash"}"#
        );
        let transaction = Failure::not_accepted("submitting a transaction", Submitted::Transaction, &invalid);
        assert!(
            shown(&transaction)
                .contains(r#"-32016,"message":"Invalid transaction","data":"the transaction was invalid: "#)
        );
        let lost = Failure::not_accepted("submitting a deploy", Submitted::Deploy, &LinkError::Lost);
        assert!(
            shown(&lost).contains("-32018")
                && shown(&lost).contains("request for submitting a deploy has failed: connection to node lost")
        );
    }
}
