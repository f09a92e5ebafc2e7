//! The database to import from: whether it has the tables, and its rows in order.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use sidecar_log_format::Kind;
use tokio_postgres::IsolationLevel;

use super::Importer;
use crate::casper::event::{self, KINDS};
use crate::casper::export::imported_tables;
use crate::casper::export::postgresql::{self, Options};

/// Where history is imported from.
pub enum Database {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    PostgreSql(Options),
}

impl Database {
    /// Hands every row to the importer, twice, from one snapshot.
    pub(super) fn read(&self, importer: &mut Importer<'_>) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(file) => read_sqlite(file, importer),
            Self::PostgreSql(settings) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(read_postgresql(settings, importer))
            }
        }
    }
}

/// An event as the database has it.
pub(super) struct Row<'a> {
    pub(super) id: i64,
    pub(super) kind: Kind,
    /// `http://HOST:PORT/`.
    pub(super) source_address: &'a str,
    pub(super) event_id: i64,
    /// Microseconds since 1970; `None` where it is not a time.
    pub(super) emitted: Option<i64>,
    pub(super) api_version: &'a str,
    pub(super) network: &'a str,
    /// `None` for a shutdown, and where the tables do not fit together.
    pub(super) raw: Option<&'a str>,
}

/// The tables that only a database of the Casper Sidecar 1.x has.
const TABLES_1: [&str; 2] = ["DeployAccepted", "DeployProcessed"];

/// Whether these tables are the reference's, of any version, and any number of them.
pub(super) fn is_of_the_reference(present: &[String]) -> bool {
    let is_present = |table: &str| present.iter().any(|found| found == table);
    is_present("event_log") || TABLES_1.iter().any(|table| is_present(table))
}

/// Refuses a database that has not the tables to read.
pub(super) fn check_tables(place: &str, present: &[String]) -> anyhow::Result<()> {
    let is_present = |table: &&str| present.iter().any(|found| found == table);
    let Some(missing) = imported_tables().find(|table| !is_present(table)) else { return Ok(()) };
    if let Some(table) = TABLES_1.into_iter().find(is_present) {
        bail!(
            "{place} is a database of the Casper Sidecar 1.x: it has a table {table}; only databases of version 2.x can be \
             imported, whose events a node of Casper 2 sent. Keep this one as it is, and begin the log without it"
        );
    }
    bail!(
        "{place} does not hold the tables of the Casper Sidecar 2.x: there is no table {missing}; give the file or the \
         database that `[storage]` of its configuration names"
    )
}

/// Every row, with or without something that can be imported.
const COUNT: &str = r#"SELECT count(*) FROM "event_log""#;

/// Contents are found by the keys that their tables have an index of: none has one of `event_log_id`.
const SQLITE_EVENTS: &str = r#"
SELECT l."event_log_id", l."event_type_id", l."event_source_address", l."event_id",
       CAST(strftime('%s', l."emitted_timestamp") AS INTEGER) * 1000000, l."api_version", l."network_name",
       COALESCE(b."raw", a."raw", e."raw", p."raw", f."raw", s."raw", t."raw") AS "raw"
FROM "event_log" l
LEFT JOIN "BlockAdded" b ON l."event_type_id" = 1 AND b."block_hash" = l."event_key" AND b."event_log_id" = l."event_log_id"
LEFT JOIN "TransactionAccepted" a ON l."event_type_id" = 2 AND a."transaction_type_id" IN (0, 1)
    AND a."transaction_hash" = l."event_key" AND a."event_log_id" = l."event_log_id"
LEFT JOIN "TransactionExpired" e ON l."event_type_id" = 3 AND e."transaction_hash" = l."event_key"
    AND e."event_log_id" = l."event_log_id"
LEFT JOIN "TransactionProcessed" p ON l."event_type_id" = 4 AND p."transaction_hash" = l."event_key"
    AND p."event_log_id" = l."event_log_id"
LEFT JOIN "Fault" f ON l."event_type_id" = 5
    AND f."era" = CAST(substr(l."event_key", 1, instr(l."event_key", ' ') - 1) AS NUMERIC) AND f."event_log_id" = l."event_log_id"
LEFT JOIN "FinalitySignature" s ON l."event_type_id" = 6
    AND s."block_hash" = substr(l."event_key", 1, instr(l."event_key", ' ') - 1)
    AND s."public_key" = substr(l."event_key", instr(l."event_key", ' ') + 1) AND s."event_log_id" = l."event_log_id"
LEFT JOIN "Step" t ON l."event_type_id" = 7 AND t."era" = CAST(l."event_key" AS NUMERIC) AND t."event_log_id" = l."event_log_id"
ORDER BY l."event_log_id""#;

/// The tables that names without a schema mean.
const POSTGRESQL_TABLES: &str =
    "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(oid)";

const POSTGRESQL_EVENTS: &str = r#"
SELECT l."event_log_id", l."event_type_id", l."event_source_address", l."event_id",
       CASE WHEN isfinite(l."emitted_timestamp") THEN (extract(epoch FROM l."emitted_timestamp") * 1000000)::bigint END, l."api_version", l."network_name", c."raw"
FROM "event_log" l LEFT JOIN (
    SELECT "event_log_id", "raw" FROM "BlockAdded"
    UNION ALL SELECT "event_log_id", "raw" FROM "TransactionAccepted"
    UNION ALL SELECT "event_log_id", "raw" FROM "TransactionExpired"
    UNION ALL SELECT "event_log_id", "raw" FROM "TransactionProcessed"
    UNION ALL SELECT "event_log_id", "raw" FROM "Fault"
    UNION ALL SELECT "event_log_id", "raw" FROM "FinalitySignature"
    UNION ALL SELECT "event_log_id", "raw" FROM "Step"
) c USING ("event_log_id")
ORDER BY l."event_log_id""#;

fn read_sqlite(file: &Path, importer: &mut Importer<'_>) -> anyhow::Result<()> {
    let place = format!("sqlite:{}", file.display());
    let cannot_read = || format!("cannot read {place}");
    let connection = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(cannot_read)?;
    let snapshot = connection.unchecked_transaction().with_context(cannot_read)?;
    let present = sqlite_tables(&snapshot).with_context(cannot_read)?;
    check_tables(&place, &present)?;
    let rows: i64 = snapshot.query_row(COUNT, [], |row| row.get(0)).with_context(cannot_read)?;
    importer.begin_checking(rows.cast_unsigned());
    take_sqlite(&snapshot, &place, importer)?;
    importer.begin_writing(&place)?;
    take_sqlite(&snapshot, &place, importer)
}

/// All tables, under any names.
pub(super) fn sqlite_tables(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<String>> {
    let mut tables = connection.prepare(r#"SELECT "name" FROM "sqlite_master" WHERE "type" IN ('table', 'view')"#)?;
    tables.query_map([], |row| row.get(0))?.collect()
}

fn take_sqlite(snapshot: &rusqlite::Transaction<'_>, place: &str, importer: &mut Importer<'_>) -> anyhow::Result<()> {
    let cannot_read = || format!("cannot read {place}");
    let mut statement = snapshot.prepare(SQLITE_EVENTS).with_context(cannot_read)?;
    let mut rows = statement.query([]).with_context(cannot_read)?;
    while let Some(row) = rows.next().with_context(cannot_read)? {
        let id = row.get(0).with_context(cannot_read)?;
        sqlite_row(id, row).and_then(|row| importer.take(&row)).with_context(|| in_row(place, id))?;
    }
    Ok(())
}

fn sqlite_row<'a>(id: i64, row: &'a rusqlite::Row<'_>) -> anyhow::Result<Row<'a>> {
    let text = |column: usize| {
        let value = row.get_ref(column)?.as_str_or_null();
        value.with_context(|| format!("its {} is not text", row.as_ref().column_name(column).unwrap_or_default()))
    };
    Ok(Row {
        id,
        kind: kind(row.get(1)?)?,
        source_address: text(2)?.unwrap_or_default(),
        event_id: row.get(3)?,
        emitted: row.get(4)?,
        api_version: text(5)?.unwrap_or_default(),
        network: text(6)?.unwrap_or_default(),
        raw: text(7)?,
    })
}

async fn read_postgresql(settings: &Options, importer: &mut Importer<'_>) -> anyhow::Result<()> {
    let place = settings.place();
    let cannot_read = || format!("cannot read {place}");
    // Its errors name the place.
    let mut client = postgresql::connect(settings).await?;
    let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let snapshot = snapshot.start().await.with_context(cannot_read)?;
    let present = snapshot.query(POSTGRESQL_TABLES, &[]).await.with_context(cannot_read)?;
    let present: Vec<String> = present.iter().filter_map(|row| row.try_get(0).ok()).collect();
    check_tables(&place, &present)?;
    let rows = snapshot.query_one(COUNT, &[]).await;
    let rows: i64 = rows.and_then(|row| row.try_get(0)).with_context(cannot_read)?;
    importer.begin_checking(rows.cast_unsigned());
    take_postgresql(&snapshot, &place, importer).await?;
    importer.begin_writing(&place)?;
    take_postgresql(&snapshot, &place, importer).await
}

async fn take_postgresql(
    snapshot: &tokio_postgres::Transaction<'_>,
    place: &str,
    importer: &mut Importer<'_>,
) -> anyhow::Result<()> {
    let cannot_read = || format!("cannot read {place}");
    let no_parameters: [&str; 0] = [];
    let rows = snapshot.query_raw(POSTGRESQL_EVENTS, no_parameters).await.with_context(cannot_read)?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await.with_context(cannot_read)? {
        let id = row.try_get(0).with_context(cannot_read)?;
        postgresql_row(id, &row).and_then(|row| importer.take(&row)).with_context(|| in_row(place, id))?;
    }
    Ok(())
}

fn postgresql_row(id: i64, row: &tokio_postgres::Row) -> anyhow::Result<Row<'_>> {
    Ok(Row {
        id,
        kind: kind(row.try_get::<_, i16>(1)?.into())?,
        source_address: row.try_get(2)?,
        event_id: row.try_get(3)?,
        emitted: row.try_get(4)?,
        api_version: row.try_get(5)?,
        network: row.try_get(6)?,
        raw: row.try_get(7)?,
    })
}

fn in_row(place: &str, id: i64) -> String {
    format!("cannot import the row of table event_log with event_log_id {id} in {place}")
}

/// Kinds were numbered after `event_type`.
fn kind(event_type: i64) -> anyhow::Result<Kind> {
    let kind = u8::try_from(event_type).ok().map(Kind);
    let known = kind.filter(|kind| *kind != event::OTHER && KINDS.iter().any(|(known, _)| known == kind));
    known.with_context(|| format!("the database has an event type {event_type} that is not known"))
}
