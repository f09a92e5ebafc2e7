//! SQLite, as a driver of look-ups.
//!
//! A few connections may only read, each on a thread that may block while a question is asked. A question that is given up is
//! stopped where it is. A file that is moved away, or replaced, is opened again at its path for the next question. What SQLite
//! answers with an error is that one question's failure, unless it says that the database is not there.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, ToSql, types::FromSqlError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Columns;
use super::standing::{Standing, is_loss};
use super::statements::{Asked, Form, Words};
use crate::casper::export::ExportError;
use crate::casper::export::sqlite::{FileId, failed_to_read, file_id, open_to_read, place};
use crate::casper::rest::answers::{Found, Pushed};
use crate::casper::rest::failure::Failure;

/// Questions that are asked at once; others wait. Threads that may block also serve event streams.
const QUESTIONS_MAX: usize = 4;
/// How long a lock of another program is waited for.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);
/// Steps of SQLite between two looks at whether a question is given up: a fraction of a millisecond.
const STEPS: i32 = 1000;

/// The connections to a file.
#[derive(Clone)]
pub(super) struct Sqlite(Arc<Shared>);

struct Shared {
    file: PathBuf,
    busy_time_max: Duration,
    standing: Standing,
    places: Arc<Semaphore>,
    /// The connections that are not in use.
    idle: Mutex<Vec<Reader>>,
}

/// A connection, and the file that it is to.
struct Reader {
    connection: Connection,
    id: FileId,
}

/// Why a question has no answer.
enum Ended {
    Failed(Failure),
    BySqlite(rusqlite::Error),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Ended::Failed(failure)
    }
}

impl From<rusqlite::Error> for Ended {
    fn from(error: rusqlite::Error) -> Self {
        Ended::BySqlite(error)
    }
}

impl From<FromSqlError> for Ended {
    fn from(error: FromSqlError) -> Self {
        Ended::BySqlite(error.into())
    }
}

impl Sqlite {
    /// Opens the file, if it is there.
    pub(super) async fn open(file: PathBuf, statement_timeout: Duration) -> Result<Self, ExportError> {
        let shared = Arc::new(Shared {
            standing: Standing::new(place(&file)),
            file,
            // Before the request is given up, which would report no reason.
            busy_time_max: BUSY_TIME_MAX.min(statement_timeout / 2),
            places: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            idle: Mutex::default(),
        });
        let opening = Arc::clone(&shared);
        let opened = tokio::task::spawn_blocking(move || opening.open_first()).await;
        match opened.map_err(|error| shared.standing.unreachable(error.to_string())).flatten() {
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => drop(shared.standing.lost(&error)),
            Ok(()) => {}
        }
        Ok(Sqlite(shared))
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.0.standing
    }

    /// Asks for an answer's sake, if there is a free place.
    pub(super) async fn ask_nothing(&self) {
        if let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() {
            let asking =
                |connection: &Connection| Ok(connection.prepare_cached(r#"SELECT 1 FROM "Migration""#)?.exists([])?);
            // A failure is logged, and known from then on.
            let _ = self.ask_in(place, asking).await;
        }
    }

    /// Whether there is a row.
    pub(super) async fn has_rows(&self, asked: &Asked) -> Result<bool, Failure> {
        let asked = asked.clone();
        self.ask(move |connection| {
            let mut statement = connection.prepare_cached(&asked.form.sql(Words::Sqlite))?;
            Ok(statement.exists(parameters(&asked, &0).as_slice())?)
        })
        .await
    }

    /// Adds rows until there is no more, or no more fits.
    pub(super) async fn push_rows(&self, asked: &Asked, mut found: Found) -> Result<(Found, Pushed), Failure> {
        let asked = asked.clone();
        self.ask(move |connection| {
            let bytes_max = i64::try_from(found.room_bytes()).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(&asked.form.sql(Words::Sqlite))?;
            let mut rows = statement.query(parameters(&asked, &bytes_max).as_slice())?;
            while let Some(row) = rows.next()? {
                let columns = Columns {
                    place: row.get::<_, i64>(0)?.cast_unsigned(),
                    api_version: row.get_ref(1)?.as_str()?,
                    network: row.get_ref(2)?.as_str()?,
                    raw_bytes: usize::try_from(row.get::<_, i64>(3)?).unwrap_or_default(),
                    raw: row.get_ref(4)?.as_str_or_null()?,
                };
                match columns.push_to(&mut found, asked.form.kind())? {
                    Pushed::Yes => {}
                    stop => return Ok((found, stop)),
                }
            }
            Ok((found, Pushed::Yes))
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, Ended> + Send + 'static,
    ) -> Result<T, Failure> {
        let place = Arc::clone(&self.0.places).acquire_owned().await;
        let place = place.map_err(|error| Failure::Storage(error.to_string()))?;
        self.ask_in(place, question).await
    }

    async fn ask_in<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        question: impl FnOnce(&Connection) -> Result<T, Ended> + Send + 'static,
    ) -> Result<T, Failure> {
        let waiting = Waiting::default();
        let (shared, is_given_up) = (Arc::clone(&self.0), Arc::clone(&waiting.is_given_up));
        // The place goes with the question, which may end after its client has left.
        let asking = move || {
            let _place = place;
            shared.ask(is_given_up, question)
        };
        let answer = tokio::task::spawn_blocking(asking).await;
        answer.map_err(|error| Failure::Storage(error.to_string())).flatten()
    }
}

impl Shared {
    fn ask<T>(
        &self,
        is_given_up: Arc<AtomicBool>,
        question: impl FnOnce(&Connection) -> Result<T, Ended>,
    ) -> Result<T, Failure> {
        let mut reader = self.reader().map_err(|error| self.standing.lost(&error))?;
        let stop = move || is_given_up.load(Ordering::Relaxed);
        let answer = reader.connection.progress_handler(STEPS, Some(stop)).map_err(Ended::BySqlite);
        match answer.and_then(|()| question(&reader.connection)) {
            Ok(answer) => {
                self.keep(reader);
                self.standing.report_answer();
                Ok(answer)
            }
            Err(Ended::Failed(failure)) => {
                self.keep(reader);
                Err(failure)
            }
            Err(Ended::BySqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                self.keep(reader);
                Err(Failure::TooSlow)
            }
            Err(Ended::BySqlite(error)) => match failed_to_read(&self.file, &error) {
                error if is_loss(&error) => Err(self.standing.lost(&error)),
                error => {
                    self.keep(reader);
                    Err(self.standing.refused(&error))
                }
            },
        }
    }

    /// An idle connection to the file that is at the path now, or a new one.
    fn reader(&self) -> Result<Reader, ExportError> {
        let now = file_id(&self.file).ok();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|reader| Some(reader.id) == now);
        let reader = idle.pop();
        drop(idle);
        reader.map_or_else(|| self.open_reader(), Ok)
    }

    fn open_reader(&self) -> Result<Reader, ExportError> {
        let connection = open_to_read(&self.file, self.busy_time_max)?;
        let id = file_id(&self.file).map_err(|error| self.standing.unreachable(error.to_string()))?;
        Ok(Reader { connection, id })
    }

    /// Opens the first connection, and looks whether all tables and columns are there. Later ones are not asked: what is not
    /// there any more then is no reason to be silent about the rest.
    fn open_first(&self) -> Result<(), ExportError> {
        let reader = self.open_reader()?;
        for form in Form::ALL {
            let prepared = reader.connection.prepare_cached(&form.sql(Words::Sqlite));
            prepared.map_err(|error| failed_to_read(&self.file, &error))?;
        }
        self.keep(reader);
        Ok(())
    }

    fn keep(&self, reader: Reader) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
    }
}

/// Gives a question up when it is dropped.
#[derive(Default)]
struct Waiting {
    is_given_up: Arc<AtomicBool>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}

fn parameters<'a>(asked: &'a Asked, bytes_max: &'a i64) -> Vec<&'a dyn ToSql> {
    let keys = asked.keys.iter().map(|key| key as &dyn ToSql);
    std::iter::once(bytes_max as &dyn ToSql).chain(keys).collect()
}
