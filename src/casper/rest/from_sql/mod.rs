//! Answers from a database: from the tables that an exporter, or the reference, fills.
//!
//! A question flows in and becomes one statement; the rows' `raw`, which is the payload as answers show it, flows with what
//! `event_log` says of it into [`Found`]. What is asked, and how an answer is put together, is the same for both databases.
//!
//! - `statements`: the statements, and which of them answers a question.
//! - `standing`: whether the database answers, and what is logged when it does not.
//! - `postgresql`, `sqlite`: the drivers. Each has a bounded number of connections that may only read.

mod postgresql;
mod sqlite;
mod standing;
mod statements;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use sidecar_log_format::Kind;

use super::answers::{Found, Pushed};
use super::failure::Failure;
use super::question::{PageOfBlocks, Question};
use super::status;
use crate::casper::export::{self, ExportError};
use crate::engine::http::memory::AnswerMemory;
use postgresql::PostgreSql;
use sqlite::Sqlite;
use standing::Standing;
use statements::Asked;

/// How long the database may take to say that it is there.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Which database to answer from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseOptions {
    /// The SQLite database in this file, which is only read.
    Sqlite(PathBuf),
    /// A PostgreSQL database, whose user may be one that can only read.
    PostgreSql(export::postgresql::Options),
}

/// Asks the database.
#[derive(Clone)]
pub struct SqlAnswers {
    driver: Driver,
    memory: Arc<AnswerMemory>,
}

#[derive(Clone)]
enum Driver {
    PostgreSql(PostgreSql),
    Sqlite(Sqlite),
}

impl SqlAnswers {
    /// Opens the database. No statement takes longer than `statement_timeout`.
    ///
    /// # Errors
    /// What an operator must set right first: a database that refuses, other tables than this version knows, or tables that
    /// may not be read. One that is not there, or does not answer, is not an error: it may come back.
    pub async fn open(options: DatabaseOptions, statement_timeout: Duration) -> Result<Self, ExportError> {
        let driver = match options {
            DatabaseOptions::PostgreSql(options) => {
                Driver::PostgreSql(PostgreSql::open(options, statement_timeout).await?)
            }
            DatabaseOptions::Sqlite(file) => Driver::Sqlite(Sqlite::open(file, statement_timeout).await?),
        };
        Ok(SqlAnswers { driver, memory: Arc::default() })
    }

    pub(super) fn memory(&self) -> &Arc<AnswerMemory> {
        &self.memory
    }

    /// The database's name, for clients.
    pub(super) fn product(&self) -> &'static str {
        match self.driver {
            Driver::PostgreSql(_) => "PostgreSQL",
            Driver::Sqlite(_) => "SQLite",
        }
    }

    fn standing(&self) -> &Standing {
        match &self.driver {
            Driver::PostgreSql(postgresql) => postgresql.standing(),
            Driver::Sqlite(sqlite) => sqlite.standing(),
        }
    }

    /// Whether the database answers now; while all connections are busy, whether it did when it was last asked.
    pub async fn is_answering(&self) -> bool {
        let asking = async {
            match &self.driver {
                Driver::PostgreSql(postgresql) => postgresql.ask_nothing().await,
                Driver::Sqlite(sqlite) => sqlite.ask_nothing().await,
            }
        };
        if tokio::time::timeout(ANSWER_TIME_MAX, asking).await.is_err() {
            let standing = self.standing();
            standing.lost(&standing.unreachable(format!("no answer within {ANSWER_TIME_MAX:?}")));
        }
        self.has_answered()
    }

    /// Whether the database answered when it was last asked.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.standing().has_answered()
    }

    /// The body of `/status`.
    pub(super) fn status(&self, version: &str) -> Vec<u8> {
        status::of_database(version, self.product(), self.has_answered())
    }

    /// Adds the events that answer `question` to `found`.
    pub(super) async fn find(&self, question: &Question, found: Found) -> Result<Found, Failure> {
        self.read(&Asked::of(question, self.product())?, found).await
    }

    /// Whether an event answers `question`.
    pub(super) async fn is_there(&self, question: &Question) -> Result<bool, Failure> {
        let asked = Asked::of(question, self.product())?;
        match &self.driver {
            Driver::PostgreSql(postgresql) => postgresql.has_rows(&asked).await,
            Driver::Sqlite(sqlite) => sqlite.has_rows(&asked).await,
        }
    }

    /// Adds a page of blocks to `found`; says with which height the next one begins, or below which it is, if there is one.
    pub(super) async fn blocks(&self, page: PageOfBlocks, found: Found) -> Result<(Found, Option<u64>), Failure> {
        // The table cannot hold greater heights.
        let Some(asked) = Asked::blocks(&page) else { return Ok((found, page.next(None, true))) };
        let found = self.read(&asked, found).await?;
        let next = page.next(found.last, found.events < page.limit && !found.is_cut);
        Ok((found, next))
    }

    /// Adds the rows that a statement finds to `found`.
    async fn read(&self, asked: &Asked, mut found: Found) -> Result<Found, Failure> {
        let start = found.mark();
        loop {
            // Has given its connection back before the wait for room: who has room may be waiting for a connection.
            let (read, pushed) = match &self.driver {
                Driver::PostgreSql(postgresql) => postgresql.push_rows(asked, found).await?,
                Driver::Sqlite(sqlite) => sqlite.push_rows(asked, found).await?,
            };
            found = read;
            match pushed {
                Pushed::Yes | Pushed::PageIsFull => return Ok(found),
                Pushed::NeedsRoom => {
                    found.go_back_to(start);
                    found.make_room(&self.memory).await?;
                }
            }
        }
    }
}

/// A row, as every statement gives it.
struct Columns<'a> {
    /// What the rows of an answer are in the order of.
    place: u64,
    api_version: &'a str,
    network: &'a str,
    raw_bytes: usize,
    /// Unless it has too many bytes.
    raw: Option<&'a str>,
}

impl Columns<'_> {
    /// Adds the row's event to `found`.
    fn push_to(&self, found: &mut Found, kind: Kind) -> Result<Pushed, Failure> {
        let Some(raw) = self.raw else {
            return match found.room_for(self.raw_bytes)? {
                Pushed::Yes => Err(Failure::TooLong),
                other => Ok(other),
            };
        };
        let content: &RawValue = serde_json::from_str(raw).map_err(|error| Failure::NotJson(error.to_string()))?;
        found.push_enveloped(self.place, kind, self.api_version, self.network, content.get())
    }
}
