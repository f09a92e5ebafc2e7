//! `sidecar-log import`: the history in a database of the Casper Sidecar, as a log. What it does is in `sidecar`; here is what
//! the command line names, and what is shown meanwhile.

use std::{
    io::Write,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use sidecar::appliance::LOG_NAME;
use sidecar::casper::{
    export::{
        ExportFrom,
        postgresql::{Options, Password, SslMode},
    },
    import::{self, Database, Outcome, Place, Progress, Stage},
};
use sidecar::engine::storage_folder::{LogPlaces, is_log};

use crate::{WrongUsage, print};

#[derive(clap::Args)]
pub(crate) struct ImportArguments {
    /// The database: sqlite:FILE, or postgresql://USER@HOST:PORT/NAME, with ?sslmode= and sslrootcert= after it where
    /// needed, and no other parameter; the password is in the variable PGPASSWORD, or in the URL as USER:PASSWORD
    #[arg(long, value_name = "DATABASE")]
    from: String,
    /// The storage path to put the log under, or the log's own directory in it, STORAGE_PATH/logs/NAME
    #[arg(value_name = "LOG")]
    log: PathBuf,
}

/// Makes the log, or its older part; returns whether every event could be taken over whole.
pub(crate) fn import(arguments: &ImportArguments, out: &mut impl Write) -> anyhow::Result<bool> {
    let database = named_database(&arguments.from).map_err(|error| WrongUsage(format!("--from: {error:#}")))?;
    let (directory, places) = places(&arguments.log)?;
    let mut shown = Shown { bar: print::event_bar(Stage::Check.name(), None) };
    let outcome = import::import(&database, Place::claim(&directory, places)?, &mut shown)?;
    shown.bar.finish_and_clear();
    let directory = directory.display();
    let summary = match outcome {
        Outcome::Continued { oldest } => {
            writeln!(
                out,
                "the history that was imported before is in front of {directory}, which begins at event {oldest}"
            )?;
            return Ok(true);
        }
        Outcome::Imported(summary) => summary,
    };
    writeln!(out, "{} events in {directory}{summary}", summary.events)?;
    if let Some(first) = summary.first_with_line_ends {
        print::to_stderr(format_args!(
            "note: {} events, event_log_id {first} the first, have carriage returns between the parts of their JSON, \
             which no node sends; they are stored as line feeds, as an event stream carries them",
            summary.with_line_ends
        ));
    }
    Ok(summary.is_complete())
}

/// A bar, and a line for each warning.
struct Shown {
    bar: ProgressBar,
}

impl Progress for Shown {
    fn begin(&mut self, stage: Stage, rows: u64) {
        self.bar.reset();
        self.bar.set_length(rows);
        self.bar.set_message(stage.name());
    }

    fn advance(&mut self) {
        self.bar.inc(1);
    }

    fn warn(&mut self, row: i64, what: &str) {
        self.bar.suspend(|| print::to_stderr(format_args!("warning: event_log_id {row} has {what}")));
    }
}

/// What `--from` names. It is read here and not by clap, whose messages would show a password.
fn named_database(text: &str) -> anyhow::Result<Database> {
    match text.strip_prefix("sqlite:") {
        Some(file) => Ok(Database::Sqlite(file.into())),
        None => postgresql_settings(text).map(Database::PostgreSql),
    }
}

/// The settings in a URL. No error shows a password.
fn postgresql_settings(text: &str) -> anyhow::Result<Options> {
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
    Ok(Options {
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

/// The log's directory, and the places of what belongs to it: in the storage folder that is named or, where a log's
/// directory is named, in the one around it.
fn places(path: &Path) -> anyhow::Result<(PathBuf, LogPlaces)> {
    let path = std::path::absolute(path).with_context(|| format!("cannot import to {}", path.display()))?;
    let in_folder = LogPlaces::new(&path, LOG_NAME);
    Ok(match LogPlaces::of(&path) {
        Some(places) => (path, places),
        None if is_log(&path).unwrap_or(false) => (path, in_folder),
        None => (in_folder.directory(), in_folder),
    })
}
