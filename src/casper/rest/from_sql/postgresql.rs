//! PostgreSQL, as a driver of look-ups.
//!
//! Sessions are pooled and may only read. A question that is given up closes its session, so that no other question waits for
//! an answer that is not wanted any more. While the server is away each question fails, at once or soon, and the next one
//! tries again. What the server answers with an error is that one question's failure, and says nothing of the others.

use std::pin::pin;
use std::time::Duration;

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use futures_util::TryStreamExt;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, RowStream, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Columns;
use super::standing::{Standing, is_loss};
use super::statements::{Asked, Form, Words};
use crate::casper::export::ExportError;
use crate::casper::export::postgresql::{Options, connect_to_read, connector, failed_to_read};
use crate::casper::rest::answers::{Found, Pushed};
use crate::casper::rest::failure::Failure;

/// More sessions than any server lets one client have.
const SESSIONS_MAX: u32 = 1000;
/// How long the server may take to open a session.
const SESSION_TIME_MAX: Duration = Duration::from_secs(5);

/// The sessions with a server.
#[derive(Clone)]
pub(super) struct PostgreSql {
    sessions: Pool<Sessions>,
}

impl PostgreSql {
    /// Opens the first session of at most `max_connections`.
    pub(super) async fn open(options: Options, statement_timeout: Duration) -> Result<Self, ExportError> {
        let sessions_max = options.max_connections.min(SESSIONS_MAX) as usize;
        let place = options.place();
        let connector = connector(&options)?;
        let sessions = Sessions { options, connector, statement_timeout, standing: Standing::new(place.clone()) };
        let sessions = Pool::builder(sessions).max_size(sessions_max).build();
        let sessions = sessions.map_err(|error| ExportError::Unreachable { place, reason: error.to_string() })?;
        let server = PostgreSql { sessions };
        match server.open_first().await {
            Err(PoolError::Backend(error)) if error.is_refusal() => return Err(error),
            Err(error) => drop(server.no_session(error)),
            Ok(()) => {}
        }
        Ok(server)
    }

    /// Opens a session, and looks whether it may read everything. Preparing statements does not show that. Later sessions are not
    /// asked: what may not be read any more then is no reason to be silent about the rest.
    async fn open_first(&self) -> Result<(), PoolError<ExportError>> {
        let session = self.sessions.get().await?;
        let may_read = session.client.batch_execute(READ_NOTHING).await;
        may_read.map_err(|error| PoolError::Backend(failed_to_read(&self.sessions.manager().options, &error)))
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.sessions.manager().standing
    }

    /// Asks for an answer's sake, on an idle session.
    pub(super) async fn ask_nothing(&self) {
        let at_once = Timeouts { wait: Some(Duration::ZERO), ..Timeouts::new() };
        let mut session = match self.sessions.timeout_get(&at_once).await {
            Ok(session) => session,
            Err(PoolError::Timeout(TimeoutType::Wait)) => return,
            // A failure is logged, and known from then on.
            Err(error) => return drop(self.no_session(error)),
        };
        session.is_asked = true;
        match session.client.batch_execute("").await {
            Ok(()) => self.give_back(session),
            Err(error) => drop(self.failed(&mut session, &error)),
        }
    }

    /// Whether there is a row.
    pub(super) async fn has_rows(&self, asked: &Asked) -> Result<bool, Failure> {
        let mut session = self.session().await?;
        let mut rows = pin!(self.query(&mut session, asked, 0).await?);
        let any = rows.try_next().await.map_err(|error| self.failed(&mut session, &error))?.is_some();
        self.give_back(session);
        Ok(any)
    }

    /// Adds rows until there is no more, or no more fits.
    pub(super) async fn push_rows(&self, asked: &Asked, mut found: Found) -> Result<(Found, Pushed), Failure> {
        let mut session = self.session().await?;
        let pushed = self.push_rows_of(&mut session, asked, &mut found).await?;
        self.give_back(session);
        Ok((found, pushed))
    }

    async fn push_rows_of(&self, session: &mut Session, asked: &Asked, found: &mut Found) -> Result<Pushed, Failure> {
        let mut rows = pin!(self.query(session, asked, found.room_bytes()).await?);
        while let Some(row) = rows.try_next().await.map_err(|error| self.failed(session, &error))? {
            match self.columns(&row)?.push_to(found, asked.form.kind())? {
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

    fn columns<'a>(&self, row: &'a Row) -> Result<Columns<'a>, Failure> {
        let columns = || {
            Ok(Columns {
                place: row.try_get::<_, i64>(0)?.cast_unsigned(),
                api_version: row.try_get(1)?,
                network: row.try_get(2)?,
                raw_bytes: usize::try_from(row.try_get::<_, i32>(3)?).unwrap_or_default(),
                raw: row.try_get(4)?,
            })
        };
        let options = &self.sessions.manager().options;
        columns().map_err(|error: Error| self.standing().refused(&failed_to_read(options, &error)))
    }

    async fn query(&self, session: &mut Session, asked: &Asked, bytes_max: usize) -> Result<RowStream, Failure> {
        session.is_asked = true;
        let bytes_max = i32::try_from(bytes_max).unwrap_or(i32::MAX);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&bytes_max];
        parameters.extend(asked.keys.iter().map(|key| key as &(dyn ToSql + Sync)));
        let unprepared = || Failure::Storage(format!("no statement is prepared for {:?}", asked.form));
        let statement = session.statements.get(asked.form as usize).ok_or_else(unprepared)?;
        let rows = session.client.query_raw(statement, parameters).await;
        rows.map_err(|error| self.failed(session, &error))
    }

    async fn session(&self) -> Result<Object<Sessions>, Failure> {
        self.sessions.get().await.map_err(|error| self.no_session(error))
    }

    fn give_back(&self, mut session: Object<Sessions>) {
        session.is_asked = false;
        self.standing().report_answer();
    }

    fn no_session(&self, error: PoolError<ExportError>) -> Failure {
        let standing = self.standing();
        match error {
            // It has others for us, and answers there.
            PoolError::Backend(error) if !is_loss(&error) && self.sessions.status().size > 0 => {
                standing.refused(&error)
            }
            PoolError::Backend(error) => standing.lost(&error),
            other => standing.lost(&standing.unreachable(other.to_string())),
        }
    }

    fn failed(&self, session: &mut Session, error: &Error) -> Failure {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return Failure::TooSlow;
        }
        let reason = failed_to_read(&self.sessions.manager().options, error);
        if is_loss(&reason) {
            return self.standing().lost(&reason);
        }
        // The question is at its end. Only what was prepared for tables that have changed since must be prepared again.
        session.is_asked = error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED);
        self.standing().refused(&reason)
    }
}

/// Opens sessions.
struct Sessions {
    options: Options,
    /// Has read the certificates to trust, which takes too long to do for each session.
    connector: MakeRustlsConnect,
    statement_timeout: Duration,
    standing: Standing,
}

impl Sessions {
    async fn open(&self) -> Result<Session, ExportError> {
        let (client, task) = connect_to_read(&self.options, self.connector.clone(), self.statement_timeout).await?;
        let mut statements = Vec::with_capacity(Form::ALL.len());
        for form in Form::ALL {
            let statement = client.prepare(&form.sql(Words::PostgreSql)).await;
            statements.push(statement.map_err(|error| failed_to_read(&self.options, &error))?);
        }
        Ok(Session { client, statements, is_asked: false, _task: task })
    }
}

impl Manager for Sessions {
    type Type = Session;
    type Error = ExportError;

    async fn create(&self) -> Result<Session, ExportError> {
        // Before the request is given up, which would report no reason.
        let time_max = SESSION_TIME_MAX.min(self.statement_timeout / 2);
        let opened = tokio::time::timeout(time_max, self.open()).await;
        opened.unwrap_or_else(|_| Err(self.standing.unreachable(format!("no session within {time_max:?}"))))
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<ExportError> {
        match session.is_asked || session.client.is_closed() {
            true => Err(RecycleError::message("the connection is closed, or busy with an abandoned request")),
            false => Ok(()),
        }
    }
}

/// A connection with everything prepared.
struct Session {
    client: Client,
    /// A statement for each [`Form`], at its place.
    statements: Vec<Statement>,
    /// Whether it was asked a question that has not come to its end.
    is_asked: bool,
    /// Drives the connection, and cuts it when this is dropped.
    _task: JoinSet<()>,
}

/// Fails unless everything may be read.
const READ_NOTHING: &str = r#"
    SELECT FROM "event_log", "BlockAdded", "TransactionAccepted", "TransactionProcessed", "TransactionExpired", "Fault",
                "FinalitySignature", "Step" LIMIT 0
"#;
