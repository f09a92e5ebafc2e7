//! The statements, one for each form of question, in the words of either database.
//!
//! The first parameter of each is how many bytes a `raw`, and in PostgreSQL those of a list before it, may have to be read;
//! the others are keys, all as text.

use sidecar_log_format::Kind;

use crate::casper::event::{
    BLOCK_ADDED, FAULT, FINALITY_SIGNATURE, STEP, TRANSACTION_ACCEPTED, TRANSACTION_EXPIRED, TRANSACTION_PROCESSED,
};
use crate::casper::keys::{Stage, TransactionType};
use crate::casper::rest::failure::Failure;
use crate::casper::rest::question::{Hash, Order, PageOfBlocks, Question};
use crate::engine::http::memory::MIDDLING_BYTES;

/// A statement with its keys.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) form: Form,
    pub(super) keys: Vec<String>,
}

impl Asked {
    fn new<const N: usize>(form: Form, keys: [String; N]) -> Self {
        Asked { form, keys: keys.into() }
    }

    /// The statement that answers a question.
    ///
    /// # Errors
    /// [`Failure::OnlyInLog`], with the name of the database, where none does.
    pub(super) fn of(question: &Question, database: &'static str) -> Result<Self, Failure> {
        let hash_and_type = |hash: &Hash, transaction_type: &TransactionType| {
            let transaction_type = match transaction_type {
                TransactionType::Deploy => "0",
                TransactionType::Version1 => "1",
            };
            [hex::encode(hash), transaction_type.to_owned()]
        };
        Ok(match question {
            Question::LatestBlock => Asked::new(Form::LatestBlock, []),
            Question::BlockByHash(hash) => Asked::new(Form::BlockByHash, [hex::encode(hash)]),
            // The table cannot hold greater heights.
            Question::BlockByHeight(height) if i64::try_from(*height).is_err() => return Err(Failure::NotFound),
            Question::BlockByHeight(height) => Asked::new(Form::BlockByHeight, [height.to_string()]),
            Question::Transaction(stage, transaction_type, hash) => {
                let form = match stage {
                    Stage::Accepted => Form::Accepted,
                    Stage::Processed => Form::Processed,
                    Stage::Expired => Form::Expired,
                };
                Asked::new(form, hash_and_type(hash, transaction_type))
            }
            Question::FaultsByKey(key) => Asked::new(Form::FaultsByKey, [hex::encode(key)]),
            Question::FaultsByEra(era) => Asked::new(Form::FaultsByEra, [era.to_string()]),
            Question::Signatures(block) => Asked::new(Form::Signatures, [hex::encode(block)]),
            Question::Step(era) => Asked::new(Form::Step, [era.to_string()]),
            Question::TransactionsOf { .. } => return Err(Failure::OnlyInLog { database }),
        })
    }

    /// The statement for a page of blocks; `None` where it begins above every height that a table can hold.
    pub(super) fn blocks(page: &PageOfBlocks) -> Option<Self> {
        let from = i64::try_from(page.from_height).ok()?;
        let last =
            page.before_height.map_or(i64::MAX, |before| i64::try_from(before).map_or(i64::MAX, |before| before - 1));
        let form = match page.order {
            Order::OldestFirst => Form::BlocksUp,
            Order::NewestFirst => Form::BlocksDown,
        };
        Some(Asked::new(form, [from.to_string(), last.to_string(), page.limit.to_string()]))
    }
}

/// The words of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    PostgreSql,
    Sqlite,
}

/// A form of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    LatestBlock,
    BlockByHash,
    BlockByHeight,
    BlocksUp,
    BlocksDown,
    Accepted,
    Processed,
    Expired,
    FaultsByKey,
    FaultsByEra,
    Signatures,
    Step,
}

impl Form {
    /// All of them, each at the place that is its number.
    pub(super) const ALL: [Form; 12] = [
        Form::LatestBlock,
        Form::BlockByHash,
        Form::BlockByHeight,
        Form::BlocksUp,
        Form::BlocksDown,
        Form::Accepted,
        Form::Processed,
        Form::Expired,
        Form::FaultsByKey,
        Form::FaultsByEra,
        Form::Signatures,
        Form::Step,
    ];

    /// The kind of the events that it finds.
    pub(super) fn kind(self) -> Kind {
        match self {
            Form::LatestBlock | Form::BlockByHash | Form::BlockByHeight | Form::BlocksUp | Form::BlocksDown => {
                BLOCK_ADDED
            }
            Form::Accepted => TRANSACTION_ACCEPTED,
            Form::Processed => TRANSACTION_PROCESSED,
            Form::Expired => TRANSACTION_EXPIRED,
            Form::FaultsByKey | Form::FaultsByEra => FAULT,
            Form::Signatures => FINALITY_SIGNATURE,
            Form::Step => STEP,
        }
    }

    /// The statement.
    pub(super) fn sql(self, words: Words) -> String {
        const BY_TRANSACTION: &str =
            r#"WHERE t."transaction_hash" = $2 AND t."transaction_type_id" = CAST(CAST($3 AS text) AS smallint)"#;
        let of = |table: &str, tail: &str| words.select(table, "event_log_id", tail);
        let list = |rows: &str| words.select_list(rows, r#""event_log_id""#, "event_log_id", "$1");
        let page = |order: &str| {
            let rows = format!(
                r#"(SELECT * FROM "BlockAdded"
                    WHERE "height" BETWEEN CAST(CAST($2 AS text) AS bigint) AND CAST(CAST($3 AS text) AS bigint)
                    ORDER BY {order} LIMIT CAST(CAST($4 AS text) AS bigint)) b"#
            );
            words.select_list(&rows, order, "height", &MIDDLING_BYTES.to_string())
        };
        let sql = match self {
            Form::LatestBlock => of(r#""BlockAdded""#, r#"ORDER BY t."height" DESC LIMIT 1"#),
            Form::BlockByHash => of(r#""BlockAdded""#, r#"WHERE t."block_hash" = $2"#),
            Form::BlockByHeight => of(r#""BlockAdded""#, r#"WHERE t."height" = CAST(CAST($2 AS text) AS bigint)"#),
            Form::BlocksUp => page(r#""height""#),
            Form::BlocksDown => page(r#""height" DESC"#),
            Form::Accepted => of(r#""TransactionAccepted""#, BY_TRANSACTION),
            Form::Processed => of(r#""TransactionProcessed""#, BY_TRANSACTION),
            Form::Expired => of(r#""TransactionExpired""#, BY_TRANSACTION),
            Form::FaultsByKey => list(r#""Fault" WHERE "public_key" = $2"#),
            Form::FaultsByEra => list(r#""Fault" WHERE "era" = CAST(CAST($2 AS text) AS numeric)"#),
            Form::Signatures => list(r#""FinalitySignature" WHERE "block_hash" = $2"#),
            Form::Step => of(r#""Step""#, r#"WHERE t."era" = CAST(CAST($2 AS text) AS numeric)"#),
        };
        match words {
            Words::PostgreSql => sql,
            Words::Sqlite => sql.replace('$', "?"),
        }
    }
}

impl Words {
    /// What [`Columns`](super::Columns) reads, from a table and its part of `event_log`.
    fn select(self, table: &str, place: &str, tail: &str) -> String {
        let join = match self {
            Words::PostgreSql => "JOIN",
            // In this order: without it, all of `event_log` may be read for the sake of the rows' order.
            Words::Sqlite => "CROSS JOIN",
        };
        format!(
            r#"SELECT t."{place}", l."api_version", l."network_name", octet_length(t."raw"),
                      CASE WHEN octet_length(t."raw") <= $1 THEN t."raw" END
               FROM {table} t {join} "event_log" l ON l."event_log_id" = t."event_log_id" {tail}"#
        )
    }

    /// The same of rows in order. An answer ends when it is long, or needs room that there is not yet. A server would send
    /// all rows at once, so it leaves out what has `bytes_max` bytes before it; of what goes over that limit, the row that
    /// does it comes too. SQLite finds one row after the other, and is not asked for more.
    fn select_list(self, rows: &str, order: &str, place: &str, bytes_max: &str) -> String {
        match self {
            Words::PostgreSql => {
                let before = format!("(ORDER BY {order} ROWS UNBOUNDED PRECEDING)");
                let rows = format!(
                    r#"(SELECT *, sum(octet_length("raw")) OVER {before} - octet_length("raw") AS "bytes_before" FROM {rows})"#
                );
                self.select(&rows, place, &format!(r#"WHERE t."bytes_before" <= {bytes_max} ORDER BY t.{order}"#))
            }
            Words::Sqlite => self.select(&format!("(SELECT * FROM {rows})"), place, &format!("ORDER BY t.{order}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_at_the_place_that_is_its_number() {
        for (place, form) in Form::ALL.into_iter().enumerate() {
            assert_eq!(form as usize, place);
        }
    }
}
