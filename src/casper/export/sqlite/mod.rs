//! Export to SQLite: a file that other programs may read while it is written.
//!
//! - `open_file`: the open file, and whether it is still the one at its path.
//! - `reading`: the file for readers, as look-ups and imports are.

mod open_file;
mod reading;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior,
    ffi::{SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE},
    params, params_from_iter,
    types::ToSqlOutput,
};

use super::{
    Advance, Checkpoint, Found, Outcome, Written,
    exporter::{Database, ExportError},
    rows::{Content, EventRow},
    tables::{OF_KINDS, Table, Tables, must_make},
};
use crate::{casper::export::ExportFrom, rfc3339};
use open_file::OpenFile;
pub(crate) use open_file::{FileId, file_id};
pub(crate) use reading::{failed_to_read, open_to_read};

/// The reference's tables.
pub const SCHEMA: &str = include_str!("schema.sql");

const MIGRATION_TABLE: &str = r#"
CREATE TABLE IF NOT EXISTS "Migration" (
    "version" integer NOT NULL,
    "is_success" boolean NOT NULL,
    CONSTRAINT "PDX_Migration" PRIMARY KEY ("version")
)"#;

const CHECKPOINT_TABLE: &str = r#"
CREATE TABLE IF NOT EXISTS "sidecar_checkpoint" (
    "log_id" text NOT NULL PRIMARY KEY,
    "epoch" bigint NOT NULL,
    "first_sequence" bigint NOT NULL,
    "next_sequence" bigint NOT NULL,
    "filled" bigint NOT NULL DEFAULT 0
)"#;
/// For a table of an earlier version.
const ADD_FILLED: &str = r#"ALTER TABLE "sidecar_checkpoint" ADD COLUMN "filled" bigint NOT NULL DEFAULT 0"#;

/// Pages that a transaction's random inserts touch, kept in memory: 4 MiB.
const CACHE_KIBIBYTES: i64 = -4_096;
/// Each of the few statements is prepared once.
const STATEMENTS: usize = 32;

/// Which file, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The database file; made if missing, with its folder.
    pub file: PathBuf,
    /// Pages per automatic checkpoint of its write-ahead log.
    pub wal_autocheckpointing_interval: u16,
    /// Where a new export begins.
    pub export_from: ExportFrom,
}

impl Options {
    /// The database, for log lines.
    pub(super) fn place(&self) -> String {
        place(&self.file)
    }
}

/// A database, for log lines.
pub(crate) fn place(file: &Path) -> String {
    format!("SQLite database {}", file.display())
}

/// Makes or checks the file and its tables.
///
/// # Errors
/// When the file cannot be opened or written, or its tables are of another migration.
pub fn check(options: &Options) -> Result<(), ExportError> {
    let database = SqliteDatabase::new(options.clone());
    // Only here: a folder that is gone later was removed from outside, and may come back.
    if let Some(folder) = options.file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| database.not_opened(&error))?;
    }
    database.connect().map(drop)
}

/// The file, while it is exported to.
pub(super) struct SqliteDatabase {
    options: Options,
    open: Option<OpenFile>,
}

impl SqliteDatabase {
    pub(super) fn new(options: Options) -> Self {
        SqliteDatabase { options, open: None }
    }

    fn error(&self, error: rusqlite::Error) -> ExportError {
        let (place, reason) = (self.options.place(), error.to_string());
        match error.sqlite_error_code() {
            // Constraints and triggers that an administrator has added. A foreign key's may be met later.
            Some(ErrorCode::ConstraintViolation) => match error.sqlite_error().map(|error| error.extended_code) {
                Some(SQLITE_CONSTRAINT_FOREIGNKEY) => ExportError::Failed { place, reason },
                code => {
                    let is_collision =
                        [SQLITE_CONSTRAINT_UNIQUE, SQLITE_CONSTRAINT_PRIMARYKEY].map(Some).contains(&code);
                    ExportError::Unstorable { place, reason, is_collision }
                }
            },
            Some(ErrorCode::TooBig) => ExportError::Unstorable { place, reason, is_collision: false },
            Some(ErrorCode::NotADatabase | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                ExportError::Unusable { place, reason }
            }
            // SQLite does not say why.
            Some(ErrorCode::CannotOpen) => match open_to_write(&self.options.file) {
                Ok(_) => ExportError::Unreachable { place, reason },
                Err(error) => self.not_opened(&error),
            },
            _ => ExportError::Failed { place, reason },
        }
    }

    /// What the file system's answer means.
    fn not_opened(&self, error: &io::Error) -> ExportError {
        let (place, reason) = (self.options.place(), error.to_string());
        match error.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory => ExportError::Unusable { place, reason },
            _ => ExportError::Unreachable { place, reason },
        }
    }

    fn connect(&self) -> Result<Connection, ExportError> {
        let mut connection = Connection::open(&self.options.file).map_err(|error| self.error(error))?;
        let newest = self.prepare(&mut connection).map_err(|error| self.error(error))?;
        let present = tables(&connection).map_err(|error| self.error(error))?;
        if must_make(newest, &present, &self.options.place())? {
            make_tables(&mut connection).map_err(|error| self.error(error))?;
        }
        Ok(connection)
    }

    /// Closes the file. One that is not at its path any more stays open until it is whole.
    fn close(&mut self) -> Result<(), ExportError> {
        if let Some(open) = self.open.as_ref().filter(|open| open.is_displaced()) {
            open.complete().map_err(|reason| ExportError::Failed { place: self.options.place(), reason })?;
        }
        if let Some(open) = self.open.take() {
            open.close();
        }
        Ok(())
    }

    /// Sets the connection up and returns the newest migration.
    fn prepare(&self, connection: &mut Connection) -> rusqlite::Result<Option<(i64, bool)>> {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", self.options.wal_autocheckpointing_interval)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", CACHE_KIBIBYTES)?;
        connection.execute_batch(MIGRATION_TABLE)?;
        newest_migration(connection)
    }
}

/// The newest migration's version, and whether it was a success.
fn newest_migration(connection: &Connection) -> rusqlite::Result<Option<(i64, bool)>> {
    let newest = r#"SELECT "version", "is_success" FROM "Migration" ORDER BY "version" DESC LIMIT 1"#;
    connection.query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn open_to_write(file: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(file)
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(r#"SELECT "name" FROM "sqlite_master" WHERE "type" = 'table'"#)?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Makes all tables. No checkpoint knows them yet.
fn make_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(r#"DROP TABLE IF EXISTS "sidecar_checkpoint""#)?;
    transaction.commit()
}

impl Database for SqliteDatabase {
    fn open(&mut self, log_id: &str, initial: Checkpoint) -> Result<Found, ExportError> {
        self.close()?;
        let connection = self.connect()?;
        let found = checkpoint(&connection, log_id, initial)
            .and_then(|checkpoint| Ok(Found { checkpoint, emptied: emptied(&connection, checkpoint.filled)? }));
        let found = found.map_err(|error| self.error(error))?;
        self.open = Some(OpenFile::new(connection, &self.options.file).map_err(|error| self.not_opened(&error))?);
        Ok(found)
    }

    fn write(&mut self, rows: &[EventRow<'_>], advance: &Advance<'_>) -> Result<Written, ExportError> {
        let Some(open) = &mut self.open else {
            return Err(ExportError::Failed { place: self.options.place(), reason: "it is not open".to_owned() });
        };
        if open.is_displaced() {
            self.close()?;
            return Err(ExportError::Displaced { place: self.options.place() });
        }
        let outcome = write(open.connection(), rows, advance);
        outcome.map_err(|error| self.error(error))?.written(self.options.place())
    }

    fn look_after(&mut self) -> Result<(), ExportError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.is_displaced() {
            self.close()?;
            return Err(ExportError::Displaced { place: self.options.place() });
        }
        open.empty_log().map_err(|error| self.error(error))
    }
}

fn checkpoint(connection: &Connection, log_id: &str, initial: Checkpoint) -> rusqlite::Result<Checkpoint> {
    connection.execute_batch(CHECKPOINT_TABLE)?;
    let has_filled = r#"SELECT 1 FROM pragma_table_info('sidecar_checkpoint') WHERE "name" = 'filled'"#;
    if !connection.prepare(has_filled)?.exists([])? {
        connection.execute_batch(ADD_FILLED)?;
    }
    connection.execute(
        r#"INSERT INTO "sidecar_checkpoint" ("log_id", "epoch", "first_sequence", "next_sequence")
           VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"#,
        params![
            log_id,
            initial.epoch.cast_signed(),
            initial.first_sequence.cast_signed(),
            initial.next_sequence.cast_signed()
        ],
    )?;
    let stored = r#"SELECT "epoch", "first_sequence", "next_sequence", "filled" FROM "sidecar_checkpoint"
                    WHERE "log_id" = ?1"#;
    connection.query_row(stored, [log_id], |row| {
        Ok(Checkpoint {
            epoch: row.get::<_, i64>(0)?.cast_unsigned(),
            first_sequence: row.get::<_, i64>(1)?.cast_unsigned(),
            next_sequence: row.get::<_, i64>(2)?.cast_unsigned(),
            filled: Tables(row.get(3)?),
        })
    })
}

/// Of these tables those without a row.
fn emptied(connection: &Connection, filled: Tables) -> rusqlite::Result<Tables> {
    filled.emptied(|table| connection.prepare_cached(&format!(r#"SELECT 1 FROM "{table}""#))?.exists([]))
}

/// Writes rows and checkpoint in one transaction.
fn write(connection: &mut Connection, rows: &[EventRow<'_>], advance: &Advance<'_>) -> rusqlite::Result<Outcome> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !rows.is_empty() {
        let emptied = emptied(&transaction, advance.from.filled)?;
        if !emptied.is_none() {
            return Ok(Outcome::Emptied(emptied));
        }
    }
    let mut written = Written { filled: advance.to.filled, ..Written::default() };
    for row in rows {
        if insert(&transaction, row)? {
            written.rows += 1;
            written.filled = written.filled.with(Tables::of([row]));
        } else {
            written.collisions += 1;
        }
    }
    if !move_checkpoint(&transaction, advance, written.filled)? {
        return Ok(Outcome::CheckpointMoved);
    }
    transaction.commit()?;
    Ok(Outcome::Written(written))
}

fn move_checkpoint(transaction: &Transaction<'_>, advance: &Advance<'_>, filled: Tables) -> rusqlite::Result<bool> {
    let mut update = transaction.prepare_cached(
        r#"UPDATE "sidecar_checkpoint" SET "epoch" = ?1, "first_sequence" = ?2, "next_sequence" = ?3, "filled" = ?4
           WHERE "log_id" = ?5 AND "epoch" = ?6 AND "next_sequence" = ?7"#,
    )?;
    let Advance { log_id, from, to } = advance;
    let moved = update.execute(params![
        to.epoch.cast_signed(),
        to.first_sequence.cast_signed(),
        to.next_sequence.cast_signed(),
        filled.0,
        log_id,
        from.epoch.cast_signed(),
        from.next_sequence.cast_signed(),
    ])?;
    Ok(moved == 1)
}

/// Of each of [`OF_KINDS`], the statement that finds a row by its key, and the one that inserts a row.
static STATEMENTS_OF_KINDS: LazyLock<Vec<[String; 2]>> = LazyLock::new(|| OF_KINDS.iter().map(statements).collect());

fn statements(table: &Table) -> [String; 2] {
    let place = |(number, column): (usize, &&str)| match column.ends_with("_timestamp") {
        true => format!("datetime(?{number}, 'unixepoch')"),
        false => format!("?{number}"),
    };
    let places: Vec<String> = (1..).zip(table.columns).map(place).collect();
    let of_key = table.columns.iter().zip(&places).take(table.key_columns);
    let key: Vec<String> = of_key.map(|(column, place)| format!(r#""{column}" = {place}"#)).collect();
    [
        format!(r#"SELECT 1 FROM "{}" WHERE {}"#, table.name, key.join(" AND ")),
        format!("INSERT INTO {} VALUES ({})", table.with_columns(), places.join(", ")),
    ]
}

/// Inserts the rows of one event, unless one with its keys is there; returns whether it did.
fn insert(transaction: &Transaction<'_>, row: &EventRow<'_>) -> rusqlite::Result<bool> {
    let EventRow { source_address, event_id, event_key, received, api_version, network, content, .. } = row;
    let place = content.table();
    let Some((table, [find, insert])) = OF_KINDS.get(place).zip(STATEMENTS_OF_KINDS.get(place)) else {
        return Ok(false);
    };
    let mut values = values(row);
    let key = values.iter().take(table.key_columns);
    if transaction.prepare_cached(find)?.exists(params_from_iter(key))? {
        return Ok(false);
    }
    let mut insert_into_event_log = transaction.prepare_cached(
        r#"INSERT INTO "event_log"
           ("event_type_id", "event_source_address", "event_id", "event_key", "emitted_timestamp", "api_version", "network_name")
           VALUES (?1, ?2, ?3, ?4, datetime(?5, 'unixepoch'), ?6, ?7) ON CONFLICT DO NOTHING"#,
    )?;
    let inserted = insert_into_event_log.execute(params![
        content.event_type(),
        source_address,
        number(*event_id),
        event_key,
        seconds(*received),
        api_version,
        network
    ])?;
    if inserted == 0 {
        return Ok(false);
    }
    let id = transaction.last_insert_rowid();
    values.push(id.into());
    transaction.prepare_cached(insert)?.execute(params_from_iter(&values))?;
    if let Content::Transaction { transaction_type, hash, .. } = content {
        let mut insert = transaction.prepare_cached(
            r#"INSERT INTO "transaction_event" ("event_log_id", "transaction_hash", "transaction_type_id") VALUES (?1, ?2, ?3)"#,
        )?;
        insert.execute(params![id, hash, transaction_type])?;
    }
    Ok(true)
}

/// The values of a row in its kind's table but for the last, the row's id.
fn values<'a>(row: &'a EventRow<'_>) -> Vec<ToSqlOutput<'a>> {
    fn text(text: &str) -> ToSqlOutput<'_> {
        text.into()
    }
    match &row.content {
        Content::Block { height, hash, raw } => vec![number(*height), text(hash), text(raw)],
        Content::Transaction { transaction_type, hash, raw, .. } => {
            vec![text(hash), (*transaction_type).into(), text(raw)]
        }
        Content::Fault { era, public_key, raw } => vec![number(*era), text(public_key), text(raw)],
        Content::Signature { block_hash, public_key, raw } => vec![text(block_hash), text(public_key), text(raw)],
        Content::Step { era, raw } => vec![number(*era), text(raw)],
        Content::Shutdown => vec![text(&row.source_address), seconds(row.received).into()],
    }
}

/// SQLite's integers have a sign; what is beyond them becomes a floating point number, as the reference's literals do.
fn number(value: u64) -> ToSqlOutput<'static> {
    i64::try_from(value).map_or((value as f64).into(), ToSqlOutput::from)
}

/// SQLite's dates end where those of RFC 3339 do.
fn seconds(received: sidecar_log_format::Timestamp) -> i64 {
    i64::try_from(received.min(rfc3339::LAST) / 1_000_000).unwrap_or(i64::MAX)
}
