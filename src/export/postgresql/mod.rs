//! Export to PostgreSQL: batches by `COPY`, which leaves the server little to do per row.
//!
//! A batch is one transaction: the checkpoint is moved first, which also waits for whoever may be writing for the same
//! log; then those rows are found whose keys are taken; the others are copied in, table by table.
//!
//! How to connect, what errors mean and how the tables are checked is also for who reads them.

mod copy;
mod tls;

use std::{
    borrow::Cow,
    collections::HashSet,
    error::Error as _,
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::SinkExt;
use sidecar_log_format::Timestamp;
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tokio_postgres::{Client, GenericClient, Statement, Transaction, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Advance, Checkpoint, Written,
    exporter::{Database, ExportError},
    must_migrate,
    rows::{Content, EventRow},
};
use crate::{
    config::{PostgreSql as Options, SslMode},
    source::casper::keys::Stage,
};
use copy::CopyRows;
pub(crate) use tls::connector;

/// The reference's tables.
pub const SCHEMA: &str = include_str!("schema.sql");

const MIGRATION_TABLE: &str = r#"
CREATE TABLE IF NOT EXISTS "Migration" (
    "version" integer,
    "is_success" boolean NOT NULL,
    CONSTRAINT "PDX_Migration" PRIMARY KEY ("version")
)"#;

const CHECKPOINT_TABLE: &str = r#"
CREATE TABLE IF NOT EXISTS "sidecar_checkpoint" (
    "log_id" text PRIMARY KEY,
    "epoch" bigint NOT NULL,
    "first_sequence" bigint NOT NULL,
    "next_sequence" bigint NOT NULL
)"#;

/// Any session. Keys are looked up by index whatever the statistics say: they are made once, when the tables are empty.
const SESSION: &str = "SET client_min_messages = warning; SET plan_cache_mode = force_generic_plan; \
     SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
/// The session of an exporter. Timestamps are in UTC, as the reference's are.
const WRITING: &str = "SET TIME ZONE 'UTC'";

const NEWEST_MIGRATION: &str = r#"SELECT "version", "is_success" FROM "Migration" ORDER BY "version" DESC LIMIT 1"#;

/// How long the server may take to let us in.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a transaction may take before the connection is given up.
const WRITE_TIME_MAX: Duration = Duration::from_secs(300);
/// How long a connection may be dead before the system says so.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Makes or checks the tables.
///
/// # Errors
/// When the server cannot be reached or refuses, or its tables are of another migration.
pub async fn check(options: &Options) -> Result<(), ExportError> {
    let mut client = connect(options).await?;
    prepare(&mut client, options).await
}

/// Connects, and drives the connection on the runtime for as long as the client lives.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn connect(options: &Options) -> Result<Client, ExportError> {
    let (client, mut task) = connect_with_task(options, connector(options)?).await?;
    task.detach_all();
    Ok(client)
}

/// Connects to tables that are only read, with a time limit for each statement. The connection is cut when the task that
/// drives it is dropped.
///
/// # Errors
/// When the server cannot be reached or refuses, or has not the tables that this version knows.
pub(crate) async fn connect_to_read(
    options: &Options,
    connector: MakeRustlsConnect,
    statement_timeout: Duration,
) -> Result<(Client, JoinSet<()>), ExportError> {
    let failed = |error: tokio_postgres::Error| failed_to_read(options, &error);
    let (client, task) = connect_with_task(options, connector).await?;
    let milliseconds = statement_timeout.as_millis().clamp(1, i32::MAX as u128);
    let reading = format!("SET default_transaction_read_only = on; SET statement_timeout = {milliseconds}");
    client.batch_execute(&format!("{SESSION}; {reading}")).await.map_err(failed)?;
    let newest = newest_migration(&client).await.map_err(failed)?;
    if must_migrate(newest, &options.place())? {
        let reason = r#"the table "Migration" is empty"#.to_owned();
        return Err(ExportError::NoTables { place: options.place(), reason });
    }
    Ok((client, task))
}

async fn connect_with_task(
    options: &Options,
    connector: MakeRustlsConnect,
) -> Result<(Client, JoinSet<()>), ExportError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&options.host)
        .port(options.port)
        .dbname(&options.database_name)
        .user(&options.username)
        .password(options.password.reveal())
        .application_name("sidecar")
        .connect_timeout(CONNECT_TIME_MAX)
        .keepalives_idle(KEEP_ALIVE)
        .tcp_user_timeout(KEEP_ALIVE)
        .ssl_mode(match options.ssl_mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        });
    let (client, connection) = config.connect(connector).await.map_err(|error| failed(options, &error))?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        // The client's own call fails too, and that is reported.
        let _ = connection.await;
    });
    Ok((client, task))
}

/// The newest migration's version, and whether it was a success.
async fn newest_migration(client: &impl GenericClient) -> Result<Option<(i64, bool)>, tokio_postgres::Error> {
    let newest = client.query_opt(NEWEST_MIGRATION, &[]).await?;
    newest.map(|row| Ok((i64::from(row.try_get::<_, i32>(0)?), row.try_get(1)?))).transpose()
}

/// Makes the tables if there are none.
async fn prepare(client: &mut Client, options: &Options) -> Result<(), ExportError> {
    let failed = |error: tokio_postgres::Error| failed(options, &error);
    client.batch_execute(&format!("{SESSION}; {WRITING}")).await.map_err(failed)?;
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.batch_execute(MIGRATION_TABLE).await.map_err(failed)?;
    // Another exporter may be about to do the same.
    transaction.batch_execute(r#"LOCK TABLE "Migration" IN EXCLUSIVE MODE"#).await.map_err(failed)?;
    if must_migrate(newest_migration(&transaction).await.map_err(failed)?, &options.place())? {
        transaction.batch_execute(SCHEMA).await.map_err(failed)?;
    }
    transaction.batch_execute(CHECKPOINT_TABLE).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// What the driver's error means here. No text of it shows the password.
fn failed(options: &Options, error: &tokio_postgres::Error) -> ExportError {
    let place = options.place();
    let Some(answer) = error.as_db_error() else {
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        return ExportError::Unreachable { place, reason: format!("{error}{cause}") };
    };
    let detail = answer.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let reason = format!("{}{detail}", answer.message());
    let unstorable =
        |is_collision| ExportError::Unstorable { place: place.clone(), reason: reason.clone(), is_collision };
    match *answer.code() {
        SqlState::UNIQUE_VIOLATION => unstorable(true),
        // Constraints and triggers that somebody has added. One that may be met later, a foreign key's, is not among them.
        SqlState::NOT_NULL_VIOLATION
        | SqlState::CHECK_VIOLATION
        | SqlState::EXCLUSION_VIOLATION
        | SqlState::RAISE_EXCEPTION => unstorable(false),
        SqlState::INVALID_CATALOG_NAME | SqlState::INSUFFICIENT_PRIVILEGE => ExportError::Refused { place, reason },
        SqlState::QUERY_CANCELED => ExportError::Failed { place, reason },
        ref code => match code.code().get(..2) {
            Some("28") => ExportError::Refused { place, reason },
            // A value out of its type's range or alphabet, or over a limit of the server.
            Some("22" | "54") => unstorable(false),
            Some("08" | "57") => ExportError::Unreachable { place, reason },
            _ => ExportError::Failed { place, reason },
        },
    }
}

/// The same for who only reads, and makes no tables.
pub(crate) fn failed_to_read(options: &Options, error: &tokio_postgres::Error) -> ExportError {
    match error.as_db_error() {
        Some(answer) if [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN].contains(answer.code()) => {
            ExportError::NoTables { place: options.place(), reason: answer.message().to_owned() }
        }
        Some(answer) if *answer.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
            ExportError::Unreadable { place: options.place(), reason: answer.message().to_owned() }
        }
        _ => failed(options, error),
    }
}

/// The server, while it is exported to.
pub(super) struct PostgreSqlDatabase {
    options: Options,
    stopping: watch::Receiver<bool>,
    runtime: Handle,
    session: Option<Session>,
}

/// A connection with everything prepared.
struct Session {
    client: Client,
    statements: Statements,
}

impl PostgreSqlDatabase {
    /// Must be called within a tokio runtime.
    pub(super) fn new(options: Options, stopping: watch::Receiver<bool>) -> Self {
        PostgreSqlDatabase { options, stopping, runtime: Handle::current(), session: None }
    }
}

/// Waits for the server, but not for ever, and not when it is to stop.
fn wait<T>(
    runtime: &Handle,
    stopping: &mut watch::Receiver<bool>,
    options: &Options,
    future: impl Future<Output = Result<T, ExportError>>,
) -> Result<T, ExportError> {
    runtime.block_on(async {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => Err(ExportError::Stopped),
            result = tokio::time::timeout(WRITE_TIME_MAX, future) => result.unwrap_or_else(|_| {
                let reason = format!("no answer within {WRITE_TIME_MAX:?}");
                Err(ExportError::Unreachable { place: options.place(), reason })
            }),
        }
    })
}

impl Database for PostgreSqlDatabase {
    fn open(&mut self, log_id: &str, initial: Checkpoint) -> Result<Checkpoint, ExportError> {
        self.session = None;
        let options = &self.options;
        let (session, checkpoint) = wait(&self.runtime, &mut self.stopping, options, async {
            let mut client = connect(options).await?;
            prepare(&mut client, options).await?;
            let failed = |error| failed(options, &error);
            let checkpoint = checkpoint(&client, log_id, initial).await.map_err(failed)?;
            let statements = Statements::prepare(&client).await.map_err(failed)?;
            Ok((Session { client, statements }, checkpoint))
        })?;
        self.session = Some(session);
        Ok(checkpoint)
    }

    fn write(&mut self, rows: &[EventRow<'_>], advance: &Advance<'_>) -> Result<Written, ExportError> {
        let options = &self.options;
        let Some(session) = &mut self.session else {
            return Err(ExportError::Unreachable { place: options.place(), reason: "not connected".to_owned() });
        };
        wait(&self.runtime, &mut self.stopping, options, async {
            match session.write(rows, advance).await {
                Ok(Some(written)) => Ok(written),
                Ok(None) => Err(ExportError::CheckpointMoved { place: options.place() }),
                Err(error) => Err(failed(options, &error)),
            }
        })
    }
}

async fn checkpoint(client: &Client, log_id: &str, initial: Checkpoint) -> Result<Checkpoint, tokio_postgres::Error> {
    let initial: [i64; 3] = [initial.epoch, initial.first_sequence, initial.next_sequence].map(u64::cast_signed);
    let [epoch, first_sequence, next_sequence] = &initial;
    client
        .execute(
            r#"INSERT INTO "sidecar_checkpoint" VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"#,
            &[&log_id, epoch, first_sequence, next_sequence],
        )
        .await?;
    let stored = r#"SELECT "epoch", "first_sequence", "next_sequence" FROM "sidecar_checkpoint" WHERE "log_id" = $1"#;
    let row = client.query_one(stored, &[&log_id]).await?;
    Ok(Checkpoint {
        epoch: row.try_get::<_, i64>(0)?.cast_unsigned(),
        first_sequence: row.try_get::<_, i64>(1)?.cast_unsigned(),
        next_sequence: row.try_get::<_, i64>(2)?.cast_unsigned(),
    })
}

/// The tables of the kinds, in the order of their numbers in `event_type`.
const TABLES: [Table; 8] = [
    Table {
        taken: r#"JOIN "BlockAdded" ON "height" = k.first::bigint"#,
        copy: r#""BlockAdded" ("height", "block_hash", "raw", "event_log_id")"#,
        columns: 4,
    },
    Table {
        taken: r#"JOIN "TransactionAccepted" ON "transaction_type_id" = k.first::smallint AND "transaction_hash" = k.second"#,
        copy: r#""TransactionAccepted" ("transaction_hash", "transaction_type_id", "raw", "event_log_id")"#,
        columns: 4,
    },
    Table {
        taken: r#"JOIN "TransactionExpired" ON "transaction_hash" = k.second"#,
        copy: r#""TransactionExpired" ("transaction_hash", "transaction_type_id", "raw", "event_log_id")"#,
        columns: 4,
    },
    Table {
        taken: r#"JOIN "TransactionProcessed" ON "transaction_type_id" = k.first::smallint AND "transaction_hash" = k.second"#,
        copy: r#""TransactionProcessed" ("transaction_hash", "transaction_type_id", "raw", "event_log_id")"#,
        columns: 4,
    },
    Table {
        taken: r#"JOIN "Fault" ON "era" = k.first::numeric AND "public_key" = k.second"#,
        copy: r#""Fault" ("era", "public_key", "raw", "event_log_id")"#,
        columns: 4,
    },
    Table {
        taken: r#"JOIN "FinalitySignature" ON "block_hash" = k.first AND "public_key" = k.second"#,
        copy: r#""FinalitySignature" ("block_hash", "public_key", "raw", "event_log_id")"#,
        columns: 4,
    },
    Table {
        taken: r#"JOIN "Step" ON "era" = k.first::numeric"#,
        copy: r#""Step" ("era", "raw", "event_log_id")"#,
        columns: 3,
    },
    Table {
        taken: r#"JOIN "Shutdown" ON "event_source_address" = k.first
                  AND date_trunc('second', "shutdown_timestamp") = timestamp 'epoch' + k.second::bigint * interval '1 second'"#,
        copy: r#""Shutdown" ("event_source_address", "shutdown_timestamp", "event_log_id")"#,
        columns: 3,
    },
];

const EVENT_LOG: &str = r#""event_log" ("event_log_id", "event_type_id", "event_source_address", "event_id", "event_key", "api_version", "network_name")"#;
const EVENT_LOG_COLUMNS: i16 = 7;
const TRANSACTION_EVENT: &str = r#""transaction_event" ("event_log_id", "transaction_hash", "transaction_type_id")"#;
const TRANSACTION_EVENT_COLUMNS: i16 = 3;

struct Table {
    /// Finds the keys (two texts each) that the table has.
    taken: &'static str,
    /// The columns that rows are copied into.
    copy: &'static str,
    columns: i16,
}

struct Statements {
    move_checkpoint: Statement,
    new_ids: Statement,
    event_log: Statement,
    transaction_event: Statement,
    /// For each of [`TABLES`].
    taken: Vec<Statement>,
    copy: Vec<Statement>,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let copy = async |columns: &str| client.prepare(&format!("COPY {columns} FROM STDIN (FORMAT binary)")).await;
        let mut statements = Statements {
            move_checkpoint: client
                .prepare(
                    r#"UPDATE "sidecar_checkpoint" SET "epoch" = $1, "next_sequence" = $2
                       WHERE "log_id" = $3 AND "epoch" = $4 AND "next_sequence" = $5"#,
                )
                .await?,
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
        for table in &TABLES {
            let taken = format!(
                "SELECT k.number FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(first, second, number) {}",
                table.taken
            );
            statements.taken.push(client.prepare(&taken).await?);
            statements.copy.push(copy(table.copy).await?);
        }
        Ok(statements)
    }
}

impl Session {
    /// Writes rows and checkpoint in one transaction; `None` when the checkpoint is not where it should be.
    async fn write(
        &mut self,
        rows: &[EventRow<'_>],
        advance: &Advance<'_>,
    ) -> Result<Option<Written>, tokio_postgres::Error> {
        let statements = &self.statements;
        let transaction = self.client.transaction().await?;
        let Advance { log_id, from, to } = advance;
        let positions: [i64; 4] = [to.epoch, to.next_sequence, from.epoch, from.next_sequence].map(u64::cast_signed);
        let [to_epoch, to_next, from_epoch, from_next] = &positions;
        let moved = transaction
            .execute(&statements.move_checkpoint, &[to_epoch, to_next, log_id, from_epoch, from_next])
            .await?;
        if moved != 1 {
            return Ok(None);
        }
        let storable: Vec<_> = rows.iter().filter(|row| is_storable(row)).collect();
        let free = free_rows(&transaction, statements, &storable).await?;
        if !free.is_empty() {
            insert(&transaction, statements, &free).await?;
        }
        transaction.commit().await?;
        Ok(Some(Written {
            rows: free.len() as u64,
            collisions: (storable.len() - free.len()) as u64,
            refused: (rows.len() - storable.len()) as u64,
        }))
    }
}

/// Whether the columns of type `bigint` can hold the row's numbers.
fn is_storable(row: &EventRow<'_>) -> bool {
    let height = match row.content {
        Content::Block { height, .. } => height,
        _ => 0,
    };
    [row.event_id, height].into_iter().all(|number| i64::try_from(number).is_ok())
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
        Content::Shutdown { received } => {
            (row.source_address.as_str().into(), (received / 1_000_000).to_string().into())
        }
    }
}

/// The rows whose keys neither the tables nor an earlier one of these has.
async fn free_rows<'rows, 'a>(
    transaction: &Transaction<'_>,
    statements: &Statements,
    rows: &[&'rows EventRow<'a>],
) -> Result<Vec<&'rows EventRow<'a>>, tokio_postgres::Error> {
    let mut free = Vec::with_capacity(rows.len());
    for (table, taken) in (1_i16..).zip(&statements.taken) {
        let candidates: Vec<_> = rows.iter().copied().filter(|row| row.content.event_type() == table).collect();
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
    let mut tables: Vec<CopyRows> = TABLES.iter().map(|table| CopyRows::new(table.columns)).collect();
    for (row, id) in rows.iter().zip(ids) {
        let event_type = row.content.event_type();
        event_log
            .row()
            .bigint(id)
            .smallint(event_type)
            .text(&row.source_address)
            .bigint(row.event_id.cast_signed())
            .text(&row.event_key)
            .text(&row.api_version)
            .text(row.network);
        if let Content::Transaction { transaction_type, hash, .. } = &row.content {
            transaction_event.row().bigint(id).text(hash).smallint(*transaction_type);
        }
        if let Some(table) = usize::try_from(event_type - 1).ok().and_then(|table| tables.get_mut(table)) {
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
        Content::Shutdown { received } => table.text(&row.source_address).timestamp(system_time(*received)),
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
