//! `sidecar-log import`: the history in a database of the Casper Sidecar, as a log.
//!
//! A database keeps an event's content without the name of its type around it; that is put back, so that a payload is
//! what the node said as far as the database can tell. An event's receive time is its `emitted_timestamp`.
//!
//! Rows flow from one snapshot of the database twice: first they are checked, by the log's own rules, and counted, because
//! the number of events says which sequence is the first; then they are written. Until the log is whole it is in the folder
//! `LOG.importing`, which nothing takes for a log by itself.

use std::{
    fmt::Display,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::TryStreamExt;
use indicatif::ProgressBar;
use serde_json::value::RawValue;
use sidecar::{
    appliance,
    config::{ExportFrom, Password, PostgreSql, SslMode},
    export::postgresql,
    source::casper::event::{self, Classified, KINDS, classify, kind_name},
};
use sidecar_log_format::{
    ApiVersion, Durability, Event, Kind, Mark, MarkKind, Opened, Timestamp, WriteOptions, Writer,
    storage::{Directory, LOCK_FILE, Lock, Storage},
};
use tokio_postgres::IsolationLevel;

use crate::{WrongUsage, print, unfinished::sync_folder};

#[derive(clap::Args)]
pub(crate) struct ImportArguments {
    /// The database: sqlite:FILE, or postgresql://USER@HOST:PORT/NAME, with ?sslmode= and sslrootcert= behind it where
    /// needed, and no other parameter; the password stands in the variable PGPASSWORD, or in the URL as USER:PASSWORD
    #[arg(long, value_name = "DATABASE")]
    from: String,
    /// The storage path to put the log under, or the log's own directory in it, STORAGE_PATH/logs/NAME
    #[arg(value_name = "LOG")]
    log: PathBuf,
}

/// What `--from` names. It is read here and not by clap, whose messages would show a password.
enum Database {
    Sqlite(PathBuf),
    PostgreSql(PostgreSql),
}

impl Database {
    fn named(text: &str) -> anyhow::Result<Self> {
        match text.strip_prefix("sqlite:") {
            Some(file) => Ok(Self::Sqlite(file.into())),
            None => postgresql_settings(text).map(Self::PostgreSql),
        }
    }
}

/// The settings in a URL. No error shows a password.
fn postgresql_settings(text: &str) -> anyhow::Result<PostgreSql> {
    let mut url = url::Url::parse(text).context("neither sqlite:FILE nor a postgresql:// URL")?;
    ensure!(matches!(url.scheme(), "postgresql" | "postgres"), "neither sqlite:FILE nor a postgresql:// URL");
    let (mut ssl_mode, mut ssl_root_certificate, mut login) = (SslMode::default(), None, Vec::new());
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "sslmode" => {
                let modes = [
                    ("disable", SslMode::Disable),
                    ("prefer", SslMode::Prefer),
                    ("require", SslMode::Require),
                    ("verify-full", SslMode::VerifyFull),
                ];
                let known = modes.iter().find(|(name, _)| *name == value);
                ssl_mode = known.context("sslmode is disable, prefer, require or verify-full")?.1;
            }
            "sslrootcert" => ssl_root_certificate = Some(PathBuf::from(value.as_ref())),
            "host" | "port" | "dbname" | "user" | "password" => login.push((name.into_owned(), value.into_owned())),
            // Without it, other tables than the ones that are meant might be read.
            other => bail!(
                "the parameter {other} is not honoured; leave it out, and set what the connection needs for its user, as with \
                 ALTER ROLE ... SET search_path"
            ),
        }
    }
    url.set_query(None);
    if !login.is_empty() {
        url.query_pairs_mut().extend_pairs(login);
    }
    let config = tokio_postgres::Config::from_str(url.as_str()).context("not a URL that PostgreSQL's clients take")?;
    let host = match config.get_hosts() {
        [tokio_postgres::config::Host::Tcp(host)] => host.clone(),
        [tokio_postgres::config::Host::Unix(folder)] => folder.display().to_string(),
        _ => bail!("the URL must name one host"),
    };
    let password = config.get_password().and_then(|password| String::from_utf8(password.to_vec()).ok());
    Ok(PostgreSql {
        host,
        port: config.get_ports().first().copied().unwrap_or(5432),
        database_name: config.get_dbname().context("the URL must name the database")?.to_owned(),
        username: config.get_user().context("the URL must name the user")?.to_owned(),
        password: Password::new(password.or_else(|| std::env::var("PGPASSWORD").ok()).unwrap_or_default()),
        max_connections: 1,
        ssl_mode,
        ssl_root_certificate,
        export_from: ExportFrom::Oldest,
    })
}

/// An event as the database has it.
struct Row<'a> {
    id: i64,
    kind: Kind,
    /// `http://HOST:PORT/`.
    source_address: &'a str,
    event_id: i64,
    /// Microseconds since 1970; `None` where it is not a time.
    emitted: Option<i64>,
    api_version: &'a str,
    network: &'a str,
    /// `None` for a shutdown, and where the tables do not fit together.
    raw: Option<&'a str>,
}

/// Makes the log; says whether every event could be taken over whole.
pub(crate) fn import(arguments: &ImportArguments, out: &mut impl Write) -> anyhow::Result<bool> {
    let database = Database::named(&arguments.from).map_err(|error| WrongUsage(format!("--from: {error:#}")))?;
    let mut importer = Importer::new(Place::claim(&arguments.log)?);
    let result = match &database {
        Database::Sqlite(file) => read_sqlite(file, &mut importer),
        Database::PostgreSql(settings) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(read_postgresql(settings, &mut importer))
        }
    };
    result?;
    importer.finish(out)
}

/// The place of a log that is not there yet.
struct Place {
    directory: PathBuf,
    storage_folder: PathBuf,
    /// Where the log is until it is whole.
    unfinished: PathBuf,
    /// The lock of the log to come: no other import, and no sidecar, makes one in the directory meanwhile.
    _lock: Box<dyn Lock>,
}

impl Place {
    fn claim(path: &Path) -> anyhow::Result<Self> {
        let (directory, storage_folder) = places(path)?;
        let cannot_write = || format!("cannot write {}", directory.display());
        let storage = Directory::create(&directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let lock = storage.lock().with_context(cannot_write)?.with_context(|| {
            format!("another process writes {}; stop the sidecar, or wait for the other import", directory.display())
        })?;
        ensure!(
            storage.list().with_context(cannot_write)? == [LOCK_FILE],
            "{} holds a log, or something else, already; history is imported before the sidecar's first start, or to \
             another storage path",
            directory.display()
        );
        let unfinished = appliance::importing_directory(&directory);
        Ok(Place { directory, storage_folder, unfinished, _lock: lock })
    }

    /// An empty folder for the unfinished log. What a stopped import left there cannot be gone on with.
    fn begin(&self) -> anyhow::Result<Directory> {
        match fs::remove_dir_all(&self.unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Directory::create(&self.unfinished),
        }
        .with_context(|| format!("cannot make the directory {} anew", self.unfinished.display()))
    }

    /// Puts the whole log in its place at once.
    fn finish(&self) -> anyhow::Result<()> {
        let directory = self.unfinished.with_extension("");
        // A directory takes the place of an empty one only, so nothing that comes there now is lost.
        fs::remove_file(directory.join(LOCK_FILE))
            .and_then(|()| fs::rename(&self.unfinished, &directory))
            .with_context(|| format!("cannot rename {} to {}", self.unfinished.display(), directory.display()))?;
        directory.parent().map_or(Ok(()), sync_folder)
    }
}

/// The log's directory, and the storage folder that it is in: the one that is named, or, where a log's directory is
/// named, the one around it.
fn places(path: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let path = std::path::absolute(path).with_context(|| format!("cannot import to {}", path.display()))?;
    let logs = path.parent().filter(|logs| logs.ends_with("logs") && path.file_name().is_some());
    let around = logs.and_then(Path::parent).map(Path::to_owned);
    Ok(match around {
        Some(storage_folder) => (path, storage_folder),
        None if appliance::is_log(&path).unwrap_or(false) => (path.clone(), path),
        None => (appliance::log_directory(&path), path),
    })
}

/// Takes the rows twice, first to check and count what comes of them, then to make a log of that.
struct Importer {
    place: Place,
    /// `None` while rows are checked.
    target: Option<Target>,
    /// What comes of the rows that were checked.
    events: u64,
    left_out: u64,
    without_version: u64,
    with_line_ends: u64,
    /// The `event_log_id` of the first of those.
    first_with_line_ends: Option<i64>,
    bar: ProgressBar,
}

struct Target {
    writer: Writer,
    announced: ApiVersion,
    imported: u64,
}

impl Importer {
    fn new(place: Place) -> Self {
        let bar = print::event_bar("checking", None);
        Importer {
            place,
            target: None,
            events: 0,
            left_out: 0,
            without_version: 0,
            with_line_ends: 0,
            first_with_line_ends: None,
            bar,
        }
    }

    /// Makes the log, now that the number of events is known.
    fn begin_writing(&mut self, database: &str) -> anyhow::Result<()> {
        self.bar.reset();
        self.bar.set_message("importing");
        let mut new_log_id = [0; 16];
        getrandom::fill(&mut new_log_id).map_err(|error| anyhow!("no random numbers for a log's id: {error}"))?;
        let options = WriteOptions {
            kinds: KINDS.iter().map(|(kind, name)| (kind.0, (*name).to_owned())).collect(),
            first_sequence: appliance::reference_index(&self.place.storage_folder).saturating_sub(self.events),
            // The disk has to have it when it is put in its place, and not before.
            durability: Durability::Os,
            ..WriteOptions::new("casper", new_log_id, now())
        };
        let directory = self.place.begin()?;
        let Opened { mut writer, .. } = Writer::open(Arc::new(directory), options)
            .with_context(|| format!("cannot write the log in {}", self.place.unfinished.display()))?;
        mark(&mut writer, &serde_json::json!({"import": "begin", "from": database, "events": self.events}))?;
        self.target = Some(Target { writer, announced: ApiVersion::NONE, imported: 0 });
        Ok(())
    }

    fn take(&mut self, row: &Row<'_>) -> anyhow::Result<()> {
        self.bar.inc(1);
        let payload = match payload(row) {
            Ok(payload) => payload,
            Err(what) => {
                if self.target.is_none() {
                    self.left_out += 1;
                    self.warn(row, &format!("{what}; it is left out"));
                }
                return Ok(());
            }
        };
        let received = row.emitted.and_then(|emitted| Timestamp::try_from(emitted).ok());
        let received =
            received.context("its emitted_timestamp is not a time after 1970; set it right in the database")?;
        let api_version = row.api_version.parse().ok();
        let has_line_ends = payload.contains('\r');
        let payload = if has_line_ends { with_line_feeds(&payload) } else { payload };
        let event = Event {
            kind: row.kind,
            source: row.source_address.trim_start_matches("http://").trim_end_matches('/'),
            network: row.network,
            api_version: api_version.unwrap_or(ApiVersion::NONE),
            upstream_id: Some(row.event_id.cast_unsigned()),
            received,
            payload: &payload,
        };
        if let Err(refused) = event.check() {
            if self.target.is_none() {
                self.left_out += 1;
                self.warn(row, &format!("content that a log cannot hold ({refused}); it is left out"));
            }
            return Ok(());
        }
        let Some(target) = &mut self.target else {
            self.events += 1;
            if has_line_ends {
                self.with_line_ends += 1;
                self.first_with_line_ends.get_or_insert(row.id);
            }
            if api_version.is_none() {
                self.without_version += 1;
                self.warn(
                    row,
                    &format!("the API version '{}', which is none; it is stored without one", row.api_version),
                );
            }
            return Ok(());
        };
        if event.api_version > target.announced {
            target.writer.announce_version(event.api_version, event.source, received)?;
            target.announced = event.api_version;
        }
        target.writer.append(&event)?;
        target.imported += 1;
        if target.writer.is_block_full() {
            target.writer.commit()?;
        }
        Ok(())
    }

    fn warn(&self, row: &Row<'_>, what: &str) {
        self.bar.suspend(|| eprintln!("warning: event_log_id {} has {what}", row.id));
    }

    fn finish(mut self, out: &mut impl Write) -> anyhow::Result<bool> {
        self.bar.finish_and_clear();
        let Some(Target { mut writer, imported, .. }) = self.target.take() else { return Ok(true) };
        ensure!(
            imported == self.events,
            "{} events were counted in the database and {imported} read; import while nobody writes to it",
            self.events
        );
        mark(&mut writer, &serde_json::json!({"import": "end", "events": imported}))?;
        writer.close()?;
        self.place.finish()?;
        write!(out, "{imported} events in {}", self.place.directory.display())?;
        for (count, what) in [(self.left_out, "left out"), (self.without_version, "without an API version")] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out)?;
        if let Some(first) = self.first_with_line_ends {
            eprintln!(
                "note: {} events, event_log_id {first} the first, have carriage returns between the parts of their JSON, \
                 which no node sends; they are stored as line feeds, as an event stream carries them",
                self.with_line_ends
            );
        }
        Ok(self.left_out + self.without_version == 0)
    }
}

fn mark(writer: &mut Writer, body: &serde_json::Value) -> anyhow::Result<()> {
    let position = writer.next_sequence();
    let mark =
        Mark { kind: MarkKind::IMPORT, position, source: String::new(), received: now(), body: body.to_string() };
    Ok(writer.mark(&mark)?)
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::try_from(since_epoch.as_micros()).unwrap_or(Timestamp::MAX)
}

/// What the node said: the content with the name of its type around it, and two members as a node calls them. Or what
/// the row has instead.
fn payload(row: &Row<'_>) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct Accepted<'a> {
        #[serde(borrow)]
        transaction: &'a RawValue,
    }

    let name = kind_name(row.kind);
    let unreadable = |error: &dyn Display| format!("content that is no {name} ({error})");
    let payload = match (row.kind, row.raw) {
        (event::SHUTDOWN, _) => return Ok("\"Shutdown\"".to_owned()),
        (_, None) => return Err("no content".to_owned()),
        (event::TRANSACTION_ACCEPTED, Some(raw)) => {
            let Accepted { transaction } = serde_json::from_str(raw).map_err(|error| unreadable(&error))?;
            format!("{{\"{name}\":{transaction}}}")
        }
        // In JSON a name in plain quotes is no part of a string, and this one stands before the effects.
        (event::STEP, Some(raw)) => {
            format!("{{\"{name}\":{}}}", raw.replacen("\"execution_effect\"", "\"execution_effects\"", 1))
        }
        (_, Some(raw)) => format!("{{\"{name}\":{raw}}}"),
    };
    // Nothing comes into a log by this way that the sidecar would not take from a node.
    match classify(&payload) {
        Ok(Classified::Event(facts)) if facts.kind == row.kind => Ok(payload),
        Ok(_) => Err(format!("content that is no {name}")),
        Err(malformed) => Err(unreadable(&malformed)),
    }
}

/// The same JSON with the line ends that an event stream can carry. In JSON a carriage return is never part of a value.
fn with_line_feeds(json: &str) -> String {
    json.replace("\r\n", "\n").replace('\r', "\n")
}

/// The tables that are read.
const TABLES: [&str; 8] = [
    "event_log",
    "BlockAdded",
    "TransactionAccepted",
    "TransactionExpired",
    "TransactionProcessed",
    "Fault",
    "FinalitySignature",
    "Step",
];
/// What tells a database of the Casper Sidecar 1.x.
const TABLES_1: [&str; 2] = ["DeployAccepted", "DeployProcessed"];

/// Refuses a database that has not the tables to read.
fn check_tables(place: &str, present: &[String]) -> anyhow::Result<()> {
    let is_present = |table: &&&str| present.iter().any(|found| found == **table);
    let Some(missing) = TABLES.iter().find(|table| !is_present(table)) else { return Ok(()) };
    if let Some(table) = TABLES_1.iter().find(is_present) {
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

fn read_sqlite(file: &Path, importer: &mut Importer) -> anyhow::Result<()> {
    let place = format!("sqlite:{}", file.display());
    let cannot_read = || format!("cannot read {place}");
    let connection = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(cannot_read)?;
    let snapshot = connection.unchecked_transaction().with_context(cannot_read)?;
    let tables = "SELECT \"name\" FROM \"sqlite_master\" WHERE \"type\" IN ('table', 'view')";
    let present: Vec<String> = snapshot
        .prepare(tables)
        .and_then(|mut tables| tables.query_map([], |row| row.get(0))?.collect())
        .with_context(cannot_read)?;
    check_tables(&place, &present)?;
    let rows: i64 = snapshot.query_row(COUNT, [], |row| row.get(0)).with_context(cannot_read)?;
    importer.bar.set_length(rows.cast_unsigned());
    take_sqlite(&snapshot, &place, importer)?;
    importer.begin_writing(&place)?;
    take_sqlite(&snapshot, &place, importer)
}

fn take_sqlite(snapshot: &rusqlite::Transaction<'_>, place: &str, importer: &mut Importer) -> anyhow::Result<()> {
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
        value.with_context(|| format!("its {} is no text", row.as_ref().column_name(column).unwrap_or_default()))
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

async fn read_postgresql(settings: &PostgreSql, importer: &mut Importer) -> anyhow::Result<()> {
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
    importer.bar.set_length(rows.cast_unsigned());
    take_postgresql(&snapshot, &place, importer).await?;
    importer.begin_writing(&place)?;
    take_postgresql(&snapshot, &place, importer).await
}

async fn take_postgresql(
    snapshot: &tokio_postgres::Transaction<'_>,
    place: &str,
    importer: &mut Importer,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_says_more_when_it_is_read_again_becomes_no_log() {
        let storage_path = tempfile::tempdir().unwrap();
        let row = Row {
            id: 1,
            kind: event::FAULT,
            source_address: "http://10.0.0.1:9999/",
            event_id: 1,
            emitted: Some(1),
            api_version: "2.0.0",
            network: "casper-test",
            raw: Some(r#"{"era_id":1,"public_key":"01"}"#),
        };
        let mut importer = Importer::new(Place::claim(storage_path.path()).unwrap());
        importer.take(&row).unwrap();
        importer.begin_writing("a database").unwrap();
        importer.take(&row).unwrap();
        importer.take(&row).unwrap();
        let refused = importer.finish(&mut io::sink()).unwrap_err().to_string();
        assert!(refused.starts_with("1 events were counted in the database and 2 read"), "{refused}");
        assert!(!appliance::is_log(&appliance::log_directory(storage_path.path())).unwrap());
    }
}
