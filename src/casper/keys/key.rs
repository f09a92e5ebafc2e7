//! The keys by which an event is looked up.

use std::borrow::Cow;

/// The natural key of an event and what else it is looked up by. Hashes and keys are hex digits in lower case, in whatever
/// case the payload has them: two spellings are one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys<'a> {
    /// `BlockAdded`.
    Block {
        /// The block's hash.
        hash: Cow<'a, str>,
        /// Its height in the chain.
        height: u64,
    },
    /// `TransactionAccepted`, `TransactionProcessed` or `TransactionExpired`.
    Transaction {
        /// Which of the three.
        stage: Stage,
        /// In which of its two forms the transaction is.
        transaction_type: TransactionType,
        /// The transaction's hash.
        hash: Cow<'a, str>,
        /// Who it is from: a public key with its algorithm tag, or `account-hash-` and a hash. An expired transaction
        /// does not say.
        initiator: Option<&'a str>,
    },
    /// `Fault`.
    Fault {
        /// The era it happened in.
        era: u64,
        /// The faulty validator, with its algorithm tag.
        public_key: Cow<'a, str>,
    },
    /// `FinalitySignature`.
    Signature {
        /// The hash of the signed block.
        block_hash: Cow<'a, str>,
        /// The signer, with its algorithm tag.
        public_key: Cow<'a, str>,
    },
    /// `Step`.
    Step {
        /// The era that ended with it.
        era: u64,
    },
}

/// How far a transaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// In a node's pool.
    Accepted,
    /// Executed in a block.
    Processed,
    /// Too old to be executed any more.
    Expired,
}

/// The form of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransactionType {
    /// As in Casper 1.x.
    Deploy,
    /// As of Casper 2.0.
    Version1,
}
