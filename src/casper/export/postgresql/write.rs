//! A batch of rows in one transaction, by `COPY`, which leaves the server little to do per row.
//!
//! The checkpoint is moved first, which also waits for another writer of the same log; then those rows are found whose
//! keys are taken; the others are copied in, table by table.

use std::{
    borrow::Cow,
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::SinkExt;
use sidecar_log_format::Timestamp;
use tokio_postgres::{Client, GenericClient, Statement, Transaction};

use super::{
    super::{
        Advance, Outcome, Written,
        rows::{Content, EventRow},
        tables::{OF_KINDS, Tables},
    },
    copy::CopyRows,
};
use crate::casper::keys::Stage;

/// For each of [`OF_KINDS`], the condition that a row has a key `k` of two texts.
const HAS_KEY: [&str; 8] = [
    r#""height" = k.first::bigint"#,
    r#""transaction_type_id" = k.first::smallint AND "transaction_hash" = k.second"#,
    r#""transaction_hash" = k.second"#,
    r#""transaction_type_id" = k.first::smallint AND "transaction_hash" = k.second"#,
    r#""era" = k.first::numeric AND "public_key" = k.second"#,
    r#""block_hash" = k.first AND "public_key" = k.second"#,
    r#""era" = k.first::numeric"#,
    r#""event_source_address" = k.first
       AND date_trunc('second', "shutdown_timestamp") = timestamp 'epoch' + k.second::bigint * interval '1 second'"#,
];

const EVENT_LOG: &str = r#""event_log" ("event_log_id", "event_type_id", "event_source_address", "event_id", "event_key", "emitted_timestamp", "api_version", "network_name")"#;
const EVENT_LOG_COLUMNS: usize = 8;
const TRANSACTION_EVENT: &str = r#""transaction_event" ("event_log_id", "transaction_hash", "transaction_type_id")"#;
const TRANSACTION_EVENT_COLUMNS: usize = 3;

struct Statements {
    move_checkpoint: Statement,
    fill: Statement,
    new_ids: Statement,
    event_log: Statement,
    transaction_event: Statement,
    /// For each of [`OF_KINDS`].
    taken: Vec<Statement>,
    copy: Vec<Statement>,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let copy = async |columns: &str| client.prepare(&format!("COPY {columns} FROM STDIN (FORMAT binary)")).await;
        let mut statements = Statements {
            move_checkpoint: client
                .prepare(
                    r#"UPDATE "sidecar_checkpoint" SET "epoch" = $1, "first_sequence" = $2, "next_sequence" = $3, "filled" = $4
                       WHERE "log_id" = $5 AND "epoch" = $6 AND "next_sequence" = $7"#,
                )
                .await?,
            fill: client.prepare(r#"UPDATE "sidecar_checkpoint" SET "filled" = $1 WHERE "log_id" = $2"#).await?,
            new_ids: client
                .prepare(
                    "SELECT array_agg(nextval(pg_get_serial_sequence('event_log', 'event_log_id'))) FROM generate_series(1, $1)",
                )
                .await?,
            event_log: copy(EVENT_LOG).await?,
            transaction_event: copy(TRANSACTION_EVENT).await?,
            taken: Vec::new(),
            copy: Vec::new(),
        };
        for (table, has_key) in OF_KINDS.iter().zip(HAS_KEY) {
            let taken = format!(
                r#"SELECT k.number FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(first, second, number)
                   JOIN "{}" ON {has_key}"#,
                table.name
            );
            statements.taken.push(client.prepare(&taken).await?);
            statements.copy.push(copy(&table.with_columns()).await?);
        }
        Ok(statements)
    }
}

/// A connection with everything prepared.
pub(super) struct Session {
    client: Client,
    statements: Statements,
}

impl Session {
    pub(super) async fn prepare(client: Client) -> Result<Self, tokio_postgres::Error> {
        let statements = Statements::prepare(&client).await?;
        Ok(Session { client, statements })
    }

    /// Writes rows and checkpoint in one transaction.
    pub(super) async fn write(
        &mut self,
        rows: &[EventRow<'_>],
        advance: &Advance<'_>,
    ) -> Result<Outcome, tokio_postgres::Error> {
        let mut written = Written::default();
        let mut storable = Vec::with_capacity(rows.len());
        for row in rows {
            match unstorable(row) {
                Some(reason) => written.refused.push((row.sequence, reason)),
                None => storable.push(row),
            }
        }
        let Advance { log_id, from, to } = advance;

        let statements = &self.statements;
        let transaction = self.client.transaction().await?;
        let positions: [i64; 5] =
            [to.epoch, to.first_sequence, to.next_sequence, from.epoch, from.next_sequence].map(u64::cast_signed);
        let [to_epoch, to_first, to_next, from_epoch, from_next] = &positions;
        let moved = transaction
            .execute(
                &statements.move_checkpoint,
                &[to_epoch, to_first, to_next, &to.filled.0, log_id, from_epoch, from_next],
            )
            .await?;
        if moved != 1 {
            return Ok(Outcome::CheckpointMoved);
        }
        if !storable.is_empty() {
            let emptied = emptied(&transaction, from.filled).await?;
            if !emptied.is_none() {
                return Ok(Outcome::Emptied(emptied));
            }
        }
        let free = free_rows(&transaction, statements, &storable).await?;
        if !free.is_empty() {
            insert(&transaction, statements, &free).await?;
        }
        // A row that collides may have no row in its kind's table, if that alone was emptied.
        written.filled = to.filled.with(Tables::of(free.iter().copied()));
        if written.filled != to.filled {
            transaction.execute(&statements.fill, &[&written.filled.0, log_id]).await?;
        }
        transaction.commit().await?;
        written.rows = free.len() as u64;
        written.collisions = (storable.len() - free.len()) as u64;
        Ok(Outcome::Written(written))
    }
}

/// Of these tables those without a row.
pub(super) async fn emptied(client: &impl GenericClient, filled: Tables) -> Result<Tables, tokio_postgres::Error> {
    let exists: Vec<String> = filled.names().map(|table| format!(r#"EXISTS (SELECT 1 FROM "{table}")"#)).collect();
    if exists.is_empty() {
        return Ok(filled);
    }
    let found = client.query_one(&format!("SELECT {}", exists.join(", ")), &[]).await?;
    let mut columns = 0..;
    filled.emptied(|_| found.try_get(columns.next().unwrap_or_default()))
}

/// Why the columns of type `bigint` cannot hold the row's numbers, if they cannot.
fn unstorable(row: &EventRow<'_>) -> Option<String> {
    let height = match row.content {
        Content::Block { height, .. } => height,
        _ => 0,
    };
    let numbers = [("event_id", row.event_id), ("height", height)];
    let (column, number) = numbers.into_iter().find(|(_, number)| i64::try_from(*number).is_err())?;
    Some(format!("{column} {number} is above {}", i64::MAX))
}

/// What a row is looked up by, as two texts.
fn key<'a>(row: &'a EventRow<'_>) -> (Cow<'a, str>, Cow<'a, str>) {
    let none = Cow::Borrowed("");
    match &row.content {
        Content::Block { height, .. } => (height.to_string().into(), none),
        Content::Transaction { stage: Stage::Expired, hash, .. } => (none, hash.as_ref().into()),
        Content::Transaction { transaction_type, hash, .. } => {
            (transaction_type.to_string().into(), hash.as_ref().into())
        }
        Content::Fault { era, public_key, .. } => (era.to_string().into(), public_key.as_ref().into()),
        Content::Signature { block_hash, public_key, .. } => (block_hash.as_ref().into(), public_key.as_ref().into()),
        Content::Step { era, .. } => (era.to_string().into(), none),
        // Its second, as in its `event_key` and in SQLite, though this table keeps its time to the microsecond.
        Content::Shutdown => (row.source_address.as_str().into(), (row.received / 1_000_000).to_string().into()),
    }
}

/// The rows whose keys neither the tables nor an earlier one of these has.
async fn free_rows<'rows, 'a>(
    transaction: &Transaction<'_>,
    statements: &Statements,
    rows: &[&'rows EventRow<'a>],
) -> Result<Vec<&'rows EventRow<'a>>, tokio_postgres::Error> {
    let mut free = Vec::with_capacity(rows.len());
    for (table, taken) in statements.taken.iter().enumerate() {
        let candidates: Vec<_> = rows.iter().copied().filter(|row| row.content.table() == table).collect();
        if candidates.is_empty() {
            continue;
        }
        let keys: Vec<_> = candidates.iter().map(|row| key(row)).collect();
        let first: Vec<&str> = keys.iter().map(|(first, _)| first.as_ref()).collect();
        let second: Vec<&str> = keys.iter().map(|(_, second)| second.as_ref()).collect();
        let mut taken_numbers = HashSet::new();
        for found in transaction.query(taken, &[&first, &second]).await? {
            taken_numbers.insert(found.try_get::<_, i64>(0)?);
        }
        let (mut seen, mut seen_in_event_log) = (HashSet::new(), HashSet::new());
        for ((number, row), key) in (1..).zip(candidates).zip(&keys) {
            let key_in_event_log = (&row.source_address, row.event_id, &row.event_key);
            // What is not written takes no key from those after it.
            if taken_numbers.contains(&number) || seen.contains(key) || seen_in_event_log.contains(&key_in_event_log) {
                continue;
            }
            seen.insert(key);
            seen_in_event_log.insert(key_in_event_log);
            free.push(row);
        }
    }
    free.sort_unstable_by_key(|row| row.sequence);
    Ok(free)
}

/// Copies the rows into `event_log` and the tables of their kinds.
async fn insert(
    transaction: &Transaction<'_>,
    statements: &Statements,
    rows: &[&EventRow<'_>],
) -> Result<(), tokio_postgres::Error> {
    let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
    let mut ids: Vec<i64> = transaction.query_one(&statements.new_ids, &[&count]).await?.try_get(0)?;
    ids.sort_unstable();

    let mut event_log = CopyRows::new(EVENT_LOG_COLUMNS);
    let mut transaction_event = CopyRows::new(TRANSACTION_EVENT_COLUMNS);
    let mut tables: Vec<CopyRows> = OF_KINDS.iter().map(|table| CopyRows::new(table.columns.len())).collect();
    for (row, id) in rows.iter().zip(ids) {
        event_log
            .row()
            .bigint(id)
            .smallint(row.content.event_type())
            .text(&row.source_address)
            .bigint(row.event_id.cast_signed())
            .text(&row.event_key)
            .timestamp(system_time(row.received))
            .text(&row.api_version)
            .text(row.network);
        if let Content::Transaction { transaction_type, hash, .. } = &row.content {
            transaction_event.row().bigint(id).text(hash).smallint(*transaction_type);
        }
        if let Some(table) = tables.get_mut(row.content.table()) {
            push_content(table.row(), row).bigint(id);
        }
    }
    copy_in(transaction, &statements.event_log, event_log).await?;
    for (statement, table) in statements.copy.iter().zip(tables) {
        copy_in(transaction, statement, table).await?;
    }
    copy_in(transaction, &statements.transaction_event, transaction_event).await
}

/// Everything of a row in its kind's table but the last column, the row's id.
fn push_content<'table>(table: &'table mut CopyRows, row: &EventRow<'_>) -> &'table mut CopyRows {
    match &row.content {
        Content::Block { height, hash, raw } => table.bigint(height.cast_signed()).text(hash).text(raw),
        Content::Transaction { transaction_type, hash, raw, .. } => {
            table.text(hash).smallint(*transaction_type).text(raw)
        }
        Content::Fault { era, public_key, raw } => table.numeric(*era).text(public_key).text(raw),
        Content::Signature { block_hash, public_key, raw } => table.text(block_hash).text(public_key).text(raw),
        Content::Step { era, raw } => table.numeric(*era).text(raw),
        Content::Shutdown => table.text(&row.source_address).timestamp(system_time(row.received)),
    }
}

fn system_time(received: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(received)
}

async fn copy_in(
    transaction: &Transaction<'_>,
    statement: &Statement,
    rows: CopyRows,
) -> Result<(), tokio_postgres::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let sink = transaction.copy_in(statement).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(rows.finish()).await?;
    sink.finish().await.map(drop)
}
