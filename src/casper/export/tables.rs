//! Whether a database has the tables to write to, and whether they still hold what was written.
//!
//! A checkpoint says how far an export is, the tables hold the rows. They disagree when tables are dropped, renamed or
//! emptied, so both databases ask here after every connect and before every batch.

use super::{ExportError, rows::EventRow};

/// The newest migration that this version knows.
pub(super) const MIGRATION: i64 = 1;

/// A table with a row for each event of one kind.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The columns that rows are written to, in this order. The last is the number of the row in `event_log`.
    pub(super) columns: &'static [&'static str],
    /// How many of the first columns tell its rows apart.
    pub(super) key_columns: usize,
}

impl Table {
    const fn new(name: &'static str, columns: &'static [&'static str], key_columns: usize) -> Self {
        Table { name, columns, key_columns }
    }

    /// The table with its columns, as statements that write to it name them.
    pub(super) fn with_columns(&self) -> String {
        format!(r#""{}" ("{}")"#, self.name, self.columns.join(r#"", ""#))
    }
}

const OF_TRANSACTIONS: &[&str] = &["transaction_hash", "transaction_type_id", "raw", "event_log_id"];

/// The tables of the kinds, in the order of their numbers in `event_type`.
pub(super) const OF_KINDS: [Table; 8] = [
    Table::new("BlockAdded", &["height", "block_hash", "raw", "event_log_id"], 1),
    Table::new("TransactionAccepted", OF_TRANSACTIONS, 2),
    Table::new("TransactionExpired", OF_TRANSACTIONS, 1),
    Table::new("TransactionProcessed", OF_TRANSACTIONS, 2),
    Table::new("Fault", &["era", "public_key", "raw", "event_log_id"], 2),
    Table::new("FinalitySignature", &["block_hash", "public_key", "raw", "event_log_id"], 2),
    Table::new("Step", &["era", "raw", "event_log_id"], 1),
    Table::new("Shutdown", &["event_source_address", "shutdown_timestamp", "event_log_id"], 2),
];

/// The tables that rows are written to: `event_log`, and those of the kinds, whose places here are their numbers.
fn written() -> impl Iterator<Item = &'static str> {
    std::iter::once("event_log").chain(OF_KINDS.into_iter().map(|table| table.name))
}

/// The tables that an import reads: shutdowns have no payload there.
pub(in crate::casper) fn imported_tables() -> impl Iterator<Item = &'static str> {
    written().filter(|table| *table != "Shutdown")
}

/// What is needed beside those.
const NEEDED: [&str; 3] = ["transaction_event", "event_type", "TransactionType"];

/// Whether all tables must be made, by the newest version in `Migration`, whether that was a success, and
/// the names of the tables that there are.
pub(super) fn must_make(newest: Option<(i64, bool)>, present: &[String], place: &str) -> Result<bool, ExportError> {
    if must_migrate(newest, place)? {
        return Ok(true);
    }
    let is_missing = |table: &&str| !present.iter().any(|found| found == table);
    let missing: Vec<&str> = written().chain(NEEDED).filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    // Part of them alone cannot be made again: the rows of the others refer to rows that are gone.
    if written().any(|table| !is_missing(&table)) {
        let tables = missing.join("\", \"");
        return Err(ExportError::MissingTables { place: place.to_owned(), tables: format!("\"{tables}\"") });
    }
    Ok(true)
}

/// Whether the tables must be made, by `Migration` alone.
pub(super) fn must_migrate(newest: Option<(i64, bool)>, place: &str) -> Result<bool, ExportError> {
    match newest {
        None => Ok(true),
        Some((version, false)) => Err(ExportError::UnfinishedMigration { place: place.to_owned(), version }),
        Some((MIGRATION, true)) => Ok(false),
        Some((found, true)) => Err(ExportError::UnknownMigration { place: place.to_owned(), found }),
    }
}

/// A set of the tables that rows are [`written`] to, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables(pub(super) i64);

impl Tables {
    const EVENT_LOG: i64 = 1;

    /// The tables that have a row once these rows are inserted.
    pub(super) fn of<'rows, 'a: 'rows>(rows: impl IntoIterator<Item = &'rows EventRow<'a>>) -> Self {
        Tables(rows.into_iter().fold(0, |bits, row| bits | Self::EVENT_LOG | 1 << row.content.event_type()))
    }

    pub(super) fn with(self, more: Self) -> Self {
        Tables(self.0 | more.0)
    }

    pub(super) fn without(self, others: Self) -> Self {
        Tables(self.0 & !others.0)
    }

    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has_event_log(self) -> bool {
        self.0 & Self::EVENT_LOG != 0
    }

    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        (0..).zip(written()).filter(move |(number, _)| self.0 & (1 << number) != 0).map(|(_, name)| name)
    }

    /// Their names in one text.
    pub(super) fn list(self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }

    /// Those of these that `has_rows` denies.
    pub(super) fn emptied<E>(self, mut has_rows: impl FnMut(&'static str) -> Result<bool, E>) -> Result<Self, E> {
        let mut emptied = 0;
        for (number, name) in (0..).zip(written()) {
            if self.0 & (1 << number) != 0 && !has_rows(name)? {
                emptied |= 1 << number;
            }
        }
        Ok(Tables(emptied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_made_when_none_is_there_and_not_beside_others() {
        let all: Vec<String> = written().chain(NEEDED).map(str::to_owned).collect();
        assert!(must_make(None, &[], "here").unwrap());
        assert!(!must_make(Some((1, true)), &all, "here").unwrap());
        assert!(must_make(Some((1, true)), &["event_type".to_owned()], "here").unwrap());
        let refused = must_make(Some((1, true)), &all[1..], "here").unwrap_err().to_string();
        assert!(
            refused.starts_with(r#"here lacks "event_log", while others of Sidecar's tables are there"#),
            "{refused}"
        );
        must_make(Some((1, false)), &all, "here").unwrap_err();
    }
}
