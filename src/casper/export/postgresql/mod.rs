//! Export to PostgreSQL: how to connect, what errors mean, how the tables are checked, also for the servers that read them.
//!
//! - `options`: which database, and how it is connected to.
//! - `write`: a batch of rows in one transaction, by `COPY`.
//! - `copy`: rows in the form that `COPY` takes.
//! - `tls`: TLS as `sslmode` says.

mod copy;
mod options;
mod tls;
mod write;

use std::{error::Error as _, future::Future, time::Duration};

use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tokio_postgres::{
    Client, GenericClient,
    error::{DbError, SqlState},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Advance, Checkpoint, Found, Written,
    exporter::{Database, ExportError},
    rows::EventRow,
    tables::{Tables, must_make, must_migrate},
};
pub use options::{Options, Password, SslMode};
pub(crate) use tls::connector;
use write::{Session, emptied};

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
    "next_sequence" bigint NOT NULL,
    "filled" bigint NOT NULL DEFAULT 0
)"#;
/// For a table of an earlier version.
const ADD_FILLED: &str = r#"ALTER TABLE "sidecar_checkpoint" ADD COLUMN "filled" bigint NOT NULL DEFAULT 0"#;

/// Any session. Keys are looked up by index, against the statistics if need be: they are made once, when the tables are empty.
const SESSION: &str = "SET client_min_messages = warning; SET plan_cache_mode = force_generic_plan; \
     SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
/// The session of an exporter. Timestamps are in UTC, as the reference's are.
const WRITING: &str = "SET TIME ZONE 'UTC'";

/// The tables that names without a schema mean.
const PRESENT: &str =
    "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'f') AND pg_table_is_visible(oid)";

const NEWEST_MIGRATION: &str = r#"SELECT "version", "is_success" FROM "Migration" ORDER BY "version" DESC LIMIT 1"#;

/// How long the server may take to let us in.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a transaction may take before the connection is given up.
const WRITE_TIME_MAX: Duration = Duration::from_secs(300);
/// How long a connection may be dead before the system says so.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The section of the configuration.
const SECTION: &str = "postgresql_config";

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
        return Err(ExportError::NoTables { place: options.place(), reason, section: SECTION });
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
    let newest = newest_migration(&transaction).await.map_err(failed)?;
    let present = transaction.query(PRESENT, &[]).await.map_err(failed)?;
    let present: Vec<String> = present.iter().filter_map(|row| row.try_get(0).ok()).collect();
    if must_make(newest, &present, &options.place())? {
        transaction.batch_execute(SCHEMA).await.map_err(failed)?;
        // No checkpoint knows the new tables yet.
        transaction.batch_execute(r#"DROP TABLE IF EXISTS "sidecar_checkpoint""#).await.map_err(failed)?;
    }
    transaction.batch_execute(CHECKPOINT_TABLE).await.map_err(failed)?;
    let has_filled =
        r#"SELECT 1 FROM pg_attribute WHERE attrelid = '"sidecar_checkpoint"'::regclass AND attname = 'filled'"#;
    if transaction.query_opt(has_filled, &[]).await.map_err(failed)?.is_none() {
        transaction.batch_execute(ADD_FILLED).await.map_err(failed)?;
    }
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
        // Constraints and triggers that an administrator has added. One that may be met later, a foreign key's, is not among them.
        SqlState::NOT_NULL_VIOLATION
        | SqlState::CHECK_VIOLATION
        | SqlState::EXCLUSION_VIOLATION
        | SqlState::RAISE_EXCEPTION => unstorable(false),
        SqlState::INVALID_CATALOG_NAME | SqlState::INSUFFICIENT_PRIVILEGE => {
            ExportError::Refused { place, reason, advice: advice(options, answer) }
        }
        SqlState::QUERY_CANCELED => ExportError::Failed { place, reason },
        ref code => match code.code().get(..2) {
            Some("28") => ExportError::Refused { place, reason, advice: advice(options, answer) },
            // A value out of its type's range or alphabet, or over a limit of the server.
            Some("22" | "54") => unstorable(false),
            Some("08" | "57") => ExportError::Unreachable { place, reason },
            _ => ExportError::Failed { place, reason },
        },
    }
}

/// What an operator can do about a refusal. Statements are complete, so that they can be pasted.
fn advice(options: &Options, answer: &DbError) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let (user, database) = (quoted(&options.username), quoted(&options.database_name));
    match *answer.code() {
        SqlState::INVALID_CATALOG_NAME => {
            format!("make it with `CREATE DATABASE {database} OWNER {user}`, or set `database_name`")
        }
        SqlState::INSUFFICIENT_PRIVILEGE => {
            // Since PostgreSQL 15 a new user may make no tables in `public`.
            let may_create = |schema: &str| format!("in that database, run `GRANT CREATE ON SCHEMA {schema} TO {user}`");
            match answer.message().strip_prefix("permission denied for ").and_then(|denied| denied.split_once(' ')) {
                Some(("schema", schema)) => may_create(schema),
                Some(("table" | "sequence" | "relation", _)) => format!(
                    "in that database, run `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}` \
                     and `GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}`"
                ),
                Some(("database", _)) => format!("run `GRANT CONNECT, CREATE ON DATABASE {database} TO {user}`"),
                // In other words or another language.
                _ => format!("grant {user} that; for a user who may not make tables, {}", may_create("public")),
            }
        }
        SqlState::INVALID_PASSWORD => "set the right `database_username` and `database_password`".to_owned(),
        _ => "set the right `database_username`, and look at the server's pg_hba.conf, which says who may come from where \
              and how"
            .to_owned(),
    }
}

/// The same for who only reads, and makes no tables.
pub(crate) fn failed_to_read(options: &Options, error: &tokio_postgres::Error) -> ExportError {
    match error.as_db_error() {
        Some(answer) if [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN].contains(answer.code()) => {
            ExportError::NoTables { place: options.place(), reason: answer.message().to_owned(), section: SECTION }
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

impl PostgreSqlDatabase {
    /// Must be called within a tokio runtime.
    pub(super) fn new(options: Options, stopping: watch::Receiver<bool>) -> Self {
        PostgreSqlDatabase { options, stopping, runtime: Handle::current(), session: None }
    }
}

/// Waits for the server, up to a limit, and not when it is to stop.
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
    fn open(&mut self, log_id: &str, initial: Checkpoint) -> Result<Found, ExportError> {
        self.session = None;
        let options = &self.options;
        let (session, found) = wait(&self.runtime, &mut self.stopping, options, async {
            let mut client = connect(options).await?;
            prepare(&mut client, options).await?;
            let failed = |error| failed(options, &error);
            let checkpoint = checkpoint(&client, log_id, initial).await.map_err(failed)?;
            let emptied = emptied(&client, checkpoint.filled).await.map_err(failed)?;
            Ok((Session::prepare(client).await.map_err(failed)?, Found { checkpoint, emptied }))
        })?;
        self.session = Some(session);
        Ok(found)
    }

    fn write(&mut self, rows: &[EventRow<'_>], advance: &Advance<'_>) -> Result<Written, ExportError> {
        let options = &self.options;
        let Some(session) = &mut self.session else {
            return Err(ExportError::Unreachable { place: options.place(), reason: "not connected".to_owned() });
        };
        wait(&self.runtime, &mut self.stopping, options, async {
            let outcome = session.write(rows, advance).await;
            outcome.map_err(|error| failed(options, &error))?.written(options.place())
        })
    }
}

async fn checkpoint(client: &Client, log_id: &str, initial: Checkpoint) -> Result<Checkpoint, tokio_postgres::Error> {
    let initial: [i64; 3] = [initial.epoch, initial.first_sequence, initial.next_sequence].map(u64::cast_signed);
    let [epoch, first_sequence, next_sequence] = &initial;
    client
        .execute(
            r#"INSERT INTO "sidecar_checkpoint" ("log_id", "epoch", "first_sequence", "next_sequence")
               VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"#,
            &[&log_id, epoch, first_sequence, next_sequence],
        )
        .await?;
    let stored = r#"SELECT "epoch", "first_sequence", "next_sequence", "filled" FROM "sidecar_checkpoint"
                    WHERE "log_id" = $1"#;
    let row = client.query_one(stored, &[&log_id]).await?;
    Ok(Checkpoint {
        epoch: row.try_get::<_, i64>(0)?.cast_unsigned(),
        first_sequence: row.try_get::<_, i64>(1)?.cast_unsigned(),
        next_sequence: row.try_get::<_, i64>(2)?.cast_unsigned(),
        filled: Tables(row.try_get(3)?),
    })
}
