//! Events of any log by its name, whatever its dialect: `/logs`, and what is below it.
//!
//! A log says itself what its kinds are called. Pages are those of `/events`, and so is the form of an event.

use std::sync::Arc;

use serde::Serialize;
use sidecar_log_format::{Log, Sequence};

use super::answers::Found;
use super::failure::Failure;
use super::from_log::LogReader;
use super::memory::Memory;
use super::page::PageEnd;
use super::question::{PageOfEvents, Refusal, page_of_events};
use super::status::EndsOfLog;

/// A log by its name.
#[derive(Clone)]
pub struct NamedLog {
    /// That of its folder.
    pub name: Box<str>,
    /// The log.
    pub log: Log,
}

/// The logs that events are read from by name.
#[derive(Default)]
pub(super) struct Logs(Vec<(Box<str>, LogReader)>);

#[derive(Serialize)]
struct LogInList<'a> {
    name: &'a str,
    dialect: String,
    #[serde(flatten)]
    ends: EndsOfLog,
    kinds: Vec<String>,
}

impl Logs {
    /// `memory` is what large answers may take.
    pub(super) fn new(logs: Vec<NamedLog>, memory: &Arc<Memory>) -> Self {
        let reader = |NamedLog { name, log }: NamedLog| (name, LogReader::new(log, DECODERS, Arc::clone(memory)));
        Logs(logs.into_iter().map(reader).collect())
    }

    fn reader(&self, name: &str) -> Result<&LogReader, Failure> {
        let found = self.0.iter().find(|(known, _)| **known == *name);
        found.map(|(_, reader)| reader).ok_or(Failure::NotFound)
    }

    /// The body of `/logs`.
    pub(super) fn list(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct List<'a> {
            logs: Vec<LogInList<'a>>,
        }
        let logs = self.0.iter().map(|(name, reader)| LogInList::of(name, reader.log())).collect();
        // Strings and numbers are always JSON.
        serde_json::to_vec(&List { logs }).unwrap_or_default()
    }

    /// The body of `/logs/NAME/status`.
    pub(super) fn status(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let reader = self.reader(name)?;
        // As above.
        Ok(serde_json::to_vec(&LogInList::of(name, reader.log())).unwrap_or_default())
    }

    /// The page of a log that a query asks for.
    pub(super) fn question(&self, name: &str, query: Option<&str>) -> Result<Result<PageOfEvents, Refusal>, Failure> {
        let kinds = self.reader(name)?.log().kinds();
        Ok(page_of_events(query, &kinds.iter().map(|(kind, name)| (*kind, name.as_str())).collect::<Vec<_>>()))
    }

    /// Adds a page of a log to `found`; returns where the next one begins.
    pub(super) async fn page(
        &self,
        name: &str,
        page: PageOfEvents,
        found: Found,
    ) -> Result<(Found, PageEnd, Sequence), Failure> {
        let reader = self.reader(name)?;
        let (found, end) = reader.page(page, found).await?;
        Ok((found, end, reader.log().head().next_sequence))
    }

    /// Adds an event of a log to `found`.
    pub(super) async fn event(&self, name: &str, sequence: Sequence, found: Found) -> Result<Found, Failure> {
        self.reader(name)?.read(vec![sequence], found).await
    }
}

/// Blocks of one log that are decoded at a time.
const DECODERS: usize = 1;

impl<'a> LogInList<'a> {
    fn of(name: &'a str, log: &Log) -> Self {
        let kinds = log.kinds().into_iter().map(|(_, name)| name).collect();
        LogInList { name, dialect: log.dialect(), ends: EndsOfLog::of(log), kinds }
    }
}
