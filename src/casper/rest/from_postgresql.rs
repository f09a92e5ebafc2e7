//! Answers from PostgreSQL: from the tables that an exporter, or the reference, fills.
//!
//! A question flows in and becomes one prepared statement; the rows' `raw`, which is the payload as answers show it, flows
//! with what `event_log` says of it into [`Found`]. Sessions are pooled and may only read. A question that is given up
//! closes its session, so that no other question waits for an answer that is not wanted any more. While the server is away
//! each question fails, at once or soon, and the next one tries again. What the server answers with an error is that one
//! question's failure, and says nothing of the others.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use futures_util::TryStreamExt;
use serde_json::value::RawValue;
use sidecar_log_format::Kind;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, RowStream, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::answers::{Found, Pushed};
use super::failure::Failure;
use super::log_budget::LogBudget;
use super::memory::FREE_BYTES;
use super::memory::Memory;
use super::question::{Hash, Order, PageOfBlocks, Question};
use super::status;
use crate::casper::event::{
    BLOCK_ADDED, FAULT, FINALITY_SIGNATURE, STEP, TRANSACTION_ACCEPTED, TRANSACTION_EXPIRED, TRANSACTION_PROCESSED,
};
use crate::casper::export::ExportError;
use crate::casper::export::postgresql::{Options, connect_to_read, connector, failed_to_read};
use crate::casper::keys::{Stage, TransactionType};

/// More sessions than any server lets one client have.
const SESSIONS_MAX: u32 = 1000;
/// How long the server may take to open a session, or to say that it is there.
const SESSION_TIME_MAX: Duration = Duration::from_secs(5);

/// Asks the database.
#[derive(Clone)]
pub struct PostgreSqlAnswers {
    sessions: Pool<Sessions>,
    memory: Arc<Memory>,
}

impl PostgreSqlAnswers {
    /// Opens the first session of at most `max_connections`. No statement takes longer than `statement_timeout`.
    ///
    /// # Errors
    /// What an operator must set right first: a server that answers and refuses, other tables than this version knows, or
    /// tables that it may not read. One that does not answer is no error: it may come back.
    pub async fn open(options: Options, statement_timeout: Duration) -> Result<Self, ExportError> {
        let sessions_max = options.max_connections.min(SESSIONS_MAX) as usize;
        let (are_answering, refusals) = (AtomicBool::new(true), LogBudget::default());
        let connector = connector(&options)?;
        let sessions = Sessions { options, connector, statement_timeout, are_answering, refusals };
        let place = sessions.options.place();
        let sessions = Pool::builder(sessions).max_size(sessions_max).build();
        let sessions = sessions.map_err(|error| ExportError::Unreachable { place, reason: error.to_string() })?;
        let answers = PostgreSqlAnswers { sessions, memory: Arc::default() };
        match answers.open_first().await {
            Err(PoolError::Backend(error)) if error.is_refusal() => return Err(error),
            Err(error) => drop(answers.no_session(error)),
            Ok(()) => {}
        }
        Ok(answers)
    }

    /// Opens a session, and looks whether it may read everything. Preparing statements does not tell. Later sessions are not
    /// asked: what may not be read any more then is no reason to be silent about the rest.
    async fn open_first(&self) -> Result<(), PoolError<ExportError>> {
        let session = self.sessions.get().await?;
        let may_read = session.client.batch_execute(READ_NOTHING).await;
        may_read.map_err(|error| PoolError::Backend(failed_to_read(&self.sessions.manager().options, &error)))
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether the database answers now; while all sessions are busy, whether it did when it was last asked.
    pub async fn is_answering(&self) -> bool {
        if tokio::time::timeout(SESSION_TIME_MAX, self.ask_nothing()).await.is_err() {
            let sessions = self.sessions.manager();
            sessions.lost(&sessions.unreachable(format!("no answer within {SESSION_TIME_MAX:?}")));
        }
        self.has_answered()
    }

    /// Asks for an answer's sake, on a session that nobody else needs now.
    async fn ask_nothing(&self) -> Result<(), Failure> {
        let at_once = Timeouts { wait: Some(Duration::ZERO), ..Timeouts::new() };
        let mut session = match self.sessions.timeout_get(&at_once).await {
            Err(PoolError::Timeout(TimeoutType::Wait)) => return Ok(()),
            session => session.map_err(|error| self.no_session(error))?,
        };
        session.is_asked = true;
        let answered = session.client.batch_execute("").await;
        answered.map_err(|error| self.failed(&mut session, &error))?;
        self.give_back(session);
        Ok(())
    }

    /// Whether the database answered when it was last asked.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.sessions.manager().are_answering.load(Ordering::Relaxed)
    }

    /// The body of `/status`.
    pub(super) fn status(&self, version: &str) -> Vec<u8> {
        status::of_postgresql(version, self.has_answered())
    }

    /// Adds the events that answer `question` to `found`.
    pub(super) async fn find(&self, question: &Question, found: Found) -> Result<Found, Failure> {
        self.read(|statements| statements.answer(question), found).await
    }

    /// Whether an event answers `question`.
    pub(super) async fn is_there(&self, question: &Question) -> Result<bool, Failure> {
        let mut session = self.session().await?;
        let asked = session.statements.answer(question)?;
        let mut rows = pin!(self.query(&mut session, &asked, 0).await?);
        let any = rows.try_next().await.map_err(|error| self.failed(&mut session, &error))?.is_some();
        self.give_back(session);
        Ok(any)
    }

    /// Adds a page of blocks to `found`; says with which height the next one begins, or below which it is, if there is one.
    pub(super) async fn blocks(&self, page: PageOfBlocks, found: Found) -> Result<(Found, Option<u64>), Failure> {
        // The table cannot hold greater heights.
        let Ok(from) = i64::try_from(page.from_height) else { return Ok((found, page.next(None, true))) };
        let last =
            page.before_height.map_or(i64::MAX, |before| i64::try_from(before).map_or(i64::MAX, |before| before - 1));
        let keys = [from.to_string(), last.to_string(), page.limit.to_string()];
        let ask = |statements: &Statements| {
            let blocks = match page.order {
                Order::OldestFirst => &statements.blocks_up,
                Order::NewestFirst => &statements.blocks_down,
            };
            Ok(Asked::new(blocks, BLOCK_ADDED, keys.clone()))
        };
        let found = self.read(ask, found).await?;
        let next = page.next(found.last, found.events < page.limit && !found.is_cut);
        Ok((found, next))
    }

    /// Adds what a statement finds to `found`.
    async fn read(
        &self,
        ask: impl Fn(&Statements) -> Result<Asked, Failure>,
        mut found: Found,
    ) -> Result<Found, Failure> {
        let start = found.mark();
        loop {
            let mut session = self.session().await?;
            let asked = ask(&session.statements)?;
            let bytes_max = found.room_bytes();
            let pushed = self.push_rows(&mut session, &asked, bytes_max, &mut found).await?;
            // Before waiting for room: who has room may be waiting for a session.
            self.give_back(session);
            match pushed {
                Pushed::Yes | Pushed::PageIsFull => return Ok(found),
                Pushed::NeedsRoom => {
                    found.go_back_to(start);
                    self.memory.make_room(&mut found).await?;
                }
            }
        }
    }

    /// Adds rows until there is no more, or no more fits.
    async fn push_rows(
        &self,
        session: &mut Session,
        asked: &Asked,
        bytes_max: usize,
        found: &mut Found,
    ) -> Result<Pushed, Failure> {
        let mut rows = pin!(self.query(session, asked, bytes_max).await?);
        while let Some(row) = rows.try_next().await.map_err(|error| self.failed(session, &error))? {
            match self.push(&row, asked.kind, found)? {
                Pushed::Yes => {}
                stop => {
                    // Little: the statements see to that. The next question need not wait for it.
                    while rows.try_next().await.map_err(|error| self.failed(session, &error))?.is_some() {}
                    return Ok(stop);
                }
            }
        }
        Ok(Pushed::Yes)
    }

    fn push(&self, row: &Row, kind: Kind, found: &mut Found) -> Result<Pushed, Failure> {
        let sessions = self.sessions.manager();
        let columns = Columns::of(row).map_err(|error| sessions.refused(&failed_to_read(&sessions.options, &error)))?;
        let Some(raw) = columns.raw else {
            return match found.room_for(columns.raw_bytes)? {
                Pushed::Yes => Err(Failure::TooLong),
                other => Ok(other),
            };
        };
        let content: &RawValue = serde_json::from_str(raw).map_err(|error| Failure::NotJson(error.to_string()))?;
        found.push_enveloped(columns.place, kind, columns.api_version, columns.network, content.get())
    }

    async fn query(&self, session: &mut Session, asked: &Asked, bytes_max: usize) -> Result<RowStream, Failure> {
        session.is_asked = true;
        let bytes_max = i32::try_from(bytes_max).unwrap_or(i32::MAX);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&bytes_max];
        parameters.extend(asked.keys.iter().map(|key| key as &(dyn ToSql + Sync)));
        let rows = session.client.query_raw(&asked.statement, parameters).await;
        rows.map_err(|error| self.failed(session, &error))
    }

    async fn session(&self) -> Result<Object<Sessions>, Failure> {
        self.sessions.get().await.map_err(|error| self.no_session(error))
    }

    fn give_back(&self, mut session: Object<Sessions>) {
        session.is_asked = false;
        self.sessions.manager().report_answer();
    }

    fn no_session(&self, error: PoolError<ExportError>) -> Failure {
        let sessions = self.sessions.manager();
        match error {
            // It has others for us, and answers there.
            PoolError::Backend(error) if !is_loss(&error) && self.sessions.status().size > 0 => {
                sessions.refused(&error)
            }
            PoolError::Backend(error) => sessions.lost(&error),
            other => sessions.lost(&sessions.unreachable(other.to_string())),
        }
    }

    fn failed(&self, session: &mut Session, error: &Error) -> Failure {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return Failure::TooSlow;
        }
        let sessions = self.sessions.manager();
        let reason = failed_to_read(&sessions.options, error);
        if is_loss(&reason) {
            return sessions.lost(&reason);
        }
        // The question is at its end. Only what was prepared for tables that have changed since must be prepared again.
        session.is_asked = error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED);
        sessions.refused(&reason)
    }
}

/// Whether there is no server to answer, rather than an answer that is an error.
fn is_loss(error: &ExportError) -> bool {
    matches!(error, ExportError::Unreachable { .. })
}

/// Opens sessions, and knows whether the last one asked has answered.
struct Sessions {
    options: Options,
    /// Has read the certificates to trust, which takes too long to do for each session.
    connector: MakeRustlsConnect,
    statement_timeout: Duration,
    are_answering: AtomicBool,
    refusals: LogBudget,
}

impl Sessions {
    /// Logs what is wrong, once until it is right again.
    fn lost(&self, error: &ExportError) -> Failure {
        if self.are_answering.swap(false, Ordering::Relaxed) {
            tracing::error!("{error}; REST requests are answered with 500 as long as that is so");
        }
        Failure::Database
    }

    /// Logs what is wrong with a question, but not at the rate of requests.
    fn refused(&self, error: &ExportError) -> Failure {
        if self.refusals.allows() {
            tracing::error!("{error}; REST requests that need it are answered with 500");
        }
        Failure::Refused
    }

    fn report_answer(&self) {
        if !self.are_answering.swap(true, Ordering::Relaxed) {
            tracing::warn!("{} answers again", self.options.place());
        }
    }

    fn unreachable(&self, reason: String) -> ExportError {
        ExportError::Unreachable { place: self.options.place(), reason }
    }

    async fn open(&self) -> Result<Session, ExportError> {
        let (client, task) = connect_to_read(&self.options, self.connector.clone(), self.statement_timeout).await?;
        let statements = Statements::prepare(&client).await;
        let statements = statements.map_err(|error| failed_to_read(&self.options, &error))?;
        Ok(Session { client, statements, is_asked: false, _task: task })
    }
}

impl Manager for Sessions {
    type Type = Session;
    type Error = ExportError;

    async fn create(&self) -> Result<Session, ExportError> {
        // Before the request is given up, which would tell nobody why.
        let time_max = SESSION_TIME_MAX.min(self.statement_timeout / 2);
        let opened = tokio::time::timeout(time_max, self.open()).await;
        opened.unwrap_or_else(|_| Err(self.unreachable(format!("no session within {time_max:?}"))))
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<ExportError> {
        match session.is_asked || session.client.is_closed() {
            true => Err(RecycleError::message("the connection is closed, or busy with what nobody waits for")),
            false => Ok(()),
        }
    }
}

/// A connection with everything prepared.
struct Session {
    client: Client,
    statements: Statements,
    /// Whether it was asked a question that has not come to its end.
    is_asked: bool,
    /// Drives the connection, and cuts it when this is dropped.
    _task: JoinSet<()>,
}

/// A statement for each kind of question. The first parameter of each is how many bytes a `raw`, and those of a list before
/// it, may have to be sent; the others are keys, all as text.
struct Statements {
    latest_block: Statement,
    block_by_hash: Statement,
    block_by_height: Statement,
    blocks_up: Statement,
    blocks_down: Statement,
    accepted: Statement,
    processed: Statement,
    expired: Statement,
    faults_by_key: Statement,
    faults_by_era: Statement,
    signatures: Statement,
    step: Statement,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, Error> {
        let of = async |table: &str, tail: &str| client.prepare(&select(table, "event_log_id", tail)).await;
        let transaction = r#"WHERE t."transaction_hash" = $2 AND t."transaction_type_id" = $3::text::smallint"#;
        // Of what goes over the limit, the row that does it comes too.
        let list = async |rows: &str| {
            let tail = r#"WHERE t."bytes_before" <= $1 ORDER BY t."event_log_id""#;
            of(&in_order(rows, r#""event_log_id""#), tail).await
        };
        let page = async |order: &str| {
            let rows = format!("{BLOCKS} ORDER BY {order} LIMIT $4::text::bigint) b");
            let tail = format!(r#"WHERE t."bytes_before" <= {FREE_BYTES} ORDER BY t.{order}"#);
            client.prepare(&select(&in_order(&rows, order), "height", &tail)).await
        };
        Ok(Statements {
            latest_block: of(r#""BlockAdded""#, r#"ORDER BY t."height" DESC LIMIT 1"#).await?,
            block_by_hash: of(r#""BlockAdded""#, r#"WHERE t."block_hash" = $2"#).await?,
            block_by_height: of(r#""BlockAdded""#, r#"WHERE t."height" = $2::text::bigint"#).await?,
            blocks_up: page(r#""height""#).await?,
            blocks_down: page(r#""height" DESC"#).await?,
            accepted: of(r#""TransactionAccepted""#, transaction).await?,
            processed: of(r#""TransactionProcessed""#, transaction).await?,
            expired: of(r#""TransactionExpired""#, transaction).await?,
            faults_by_key: list(r#""Fault" WHERE "public_key" = $2"#).await?,
            faults_by_era: list(r#""Fault" WHERE "era" = $2::text::numeric"#).await?,
            signatures: list(r#""FinalitySignature" WHERE "block_hash" = $2"#).await?,
            step: of(r#""Step""#, r#"WHERE t."era" = $2::text::numeric"#).await?,
        })
    }

    /// The statement that answers a question, and its keys.
    fn answer(&self, question: &Question) -> Result<Asked, Failure> {
        let hash_and_type = |hash: &Hash, transaction_type: &TransactionType| {
            let transaction_type = match transaction_type {
                TransactionType::Deploy => "0",
                TransactionType::Version1 => "1",
            };
            [hex::encode(hash), transaction_type.to_owned()]
        };
        Ok(match question {
            Question::LatestBlock => Asked::new(&self.latest_block, BLOCK_ADDED, []),
            Question::BlockByHash(hash) => Asked::new(&self.block_by_hash, BLOCK_ADDED, [hex::encode(hash)]),
            // The table cannot hold greater heights.
            Question::BlockByHeight(height) if i64::try_from(*height).is_err() => return Err(Failure::NotFound),
            Question::BlockByHeight(height) => Asked::new(&self.block_by_height, BLOCK_ADDED, [height.to_string()]),
            Question::Transaction(Stage::Accepted, form, hash) => {
                Asked::new(&self.accepted, TRANSACTION_ACCEPTED, hash_and_type(hash, form))
            }
            Question::Transaction(Stage::Processed, form, hash) => {
                Asked::new(&self.processed, TRANSACTION_PROCESSED, hash_and_type(hash, form))
            }
            Question::Transaction(Stage::Expired, form, hash) => {
                Asked::new(&self.expired, TRANSACTION_EXPIRED, hash_and_type(hash, form))
            }
            Question::FaultsByKey(key) => Asked::new(&self.faults_by_key, FAULT, [hex::encode(key)]),
            Question::FaultsByEra(era) => Asked::new(&self.faults_by_era, FAULT, [era.to_string()]),
            Question::Signatures(block) => Asked::new(&self.signatures, FINALITY_SIGNATURE, [hex::encode(block)]),
            Question::Step(era) => Asked::new(&self.step, STEP, [era.to_string()]),
            Question::TransactionsOf { .. } => return Err(Failure::OnlyInLog),
        })
    }
}

/// Fails unless everything may be read.
const READ_NOTHING: &str = r#"
    SELECT FROM "event_log", "BlockAdded", "TransactionAccepted", "TransactionProcessed", "TransactionExpired", "Fault",
                "FinalitySignature", "Step" LIMIT 0
"#;

/// Blocks of a range of heights, both ends in it.
const BLOCKS: &str = r#"(SELECT * FROM "BlockAdded" WHERE "height" BETWEEN $2::text::bigint AND $3::text::bigint"#;

/// Rows in order, each with the bytes of those before it: an answer ends when it is long, or needs room that there is not
/// yet, and what will not be in it need not be sent.
fn in_order(rows: &str, order: &str) -> String {
    let before = format!("(ORDER BY {order} ROWS UNBOUNDED PRECEDING)");
    format!(r#"(SELECT *, sum(octet_length("raw")) OVER {before} - octet_length("raw") AS "bytes_before" FROM {rows})"#)
}

/// What [`Columns`] reads, from a table and its part of `event_log`.
fn select(table: &str, place: &str, tail: &str) -> String {
    format!(
        r#"SELECT t."{place}", l."api_version", l."network_name", octet_length(t."raw"),
                  CASE WHEN octet_length(t."raw") <= $1 THEN t."raw" END
           FROM {table} t JOIN "event_log" l ON l."event_log_id" = t."event_log_id" {tail}"#
    )
}

/// A row.
struct Columns<'a> {
    /// What the rows of an answer are in the order of.
    place: u64,
    api_version: &'a str,
    network: &'a str,
    raw_bytes: usize,
    /// Unless it has too many bytes.
    raw: Option<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(row: &'a Row) -> Result<Self, Error> {
        Ok(Columns {
            place: row.try_get::<_, i64>(0)?.cast_unsigned(),
            api_version: row.try_get(1)?,
            network: row.try_get(2)?,
            raw_bytes: usize::try_from(row.try_get::<_, i32>(3)?).unwrap_or_default(),
            raw: row.try_get(4)?,
        })
    }
}

/// A statement with its keys, and the kind of the events that it finds.
struct Asked {
    statement: Statement,
    kind: Kind,
    keys: Vec<String>,
}

impl Asked {
    fn new<const N: usize>(statement: &Statement, kind: Kind, keys: [String; N]) -> Self {
        Asked { statement: statement.clone(), kind, keys: keys.into() }
    }
}
