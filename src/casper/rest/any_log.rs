//! Events of a log of any dialect, by its name: `/logs`, and what is below it.
//!
//! A log says itself what its kinds are called. Pages are those of `/events`, and so is the form of an event.

use std::sync::Arc;

use serde::Serialize;
use sidecar_log_format::{Log, Sequence};

use super::answers::Found;
use super::failure::Failure;
use super::from_log::LogReader;
use super::page::PageEnd;
use super::question::{PageOfEvents, Refusal, page_of_events};
use super::status::EndsOfLog;
use crate::casper::view::CasperViews;
use crate::engine::http::memory::AnswerMemory;

/// A log by its name.
#[derive(Clone)]
pub struct NamedLog {
    /// That of its folder.
    pub name: Box<str>,
    /// The log.
    pub log: Log,
    /// The views that find its blocks by height, if there are any.
    pub views: Option<CasperViews>,
}

/// The logs that events are read from by name.
#[derive(Default)]
pub(super) struct Logs(Vec<ReadLog>);

/// One of them.
struct ReadLog {
    name: Box<str>,
    reader: LogReader,
    views: Option<CasperViews>,
}

#[derive(Serialize)]
struct LogInList<'a> {
    name: &'a str,
    dialect: String,
    #[serde(flatten)]
    ends: EndsOfLog,
    kinds: Vec<String>,
    /// Whether `from_height` finds blocks.
    has_heights: bool,
}

impl Logs {
    /// `memory` is what large answers may take.
    pub(super) fn new(logs: Vec<NamedLog>, memory: &Arc<AnswerMemory>) -> Self {
        let read_log = |NamedLog { name, log, views }: NamedLog| {
            let reader = LogReader::new(log, DECODERS, Arc::clone(memory));
            ReadLog { name, reader, views }
        };
        Logs(logs.into_iter().map(read_log).collect())
    }

    fn named(&self, name: &str) -> Result<&ReadLog, Failure> {
        self.0.iter().find(|log| *log.name == *name).ok_or(Failure::NotFound)
    }

    /// The body of `/logs`.
    pub(super) fn list(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct List<'a> {
            logs: Vec<LogInList<'a>>,
        }
        let logs = self.0.iter().map(LogInList::of).collect();
        // Strings and numbers are always JSON.
        serde_json::to_vec(&List { logs }).unwrap_or_default()
    }

    /// The body of `/logs/NAME/status`.
    pub(super) fn status(&self, name: &str) -> Result<Vec<u8>, Failure> {
        // As above.
        Ok(serde_json::to_vec(&LogInList::of(self.named(name)?)).unwrap_or_default())
    }

    /// The page of a log that a query asks for.
    pub(super) fn question(&self, name: &str, query: Option<&str>) -> Result<Result<PageOfEvents, Refusal>, Failure> {
        let ReadLog { reader, views, .. } = self.named(name)?;
        let kinds = reader.log().kinds();
        let page = page_of_events(query, &kinds.iter().map(|(kind, name)| (*kind, name.as_str())).collect::<Vec<_>>());
        Ok(match page {
            Ok(PageOfEvents { from_height: Some(_), .. }) if views.is_none() => Err(Refusal::Query(format!(
                "`from_height` is for logs whose blocks can be looked up, and {name} is none"
            ))),
            page => page,
        })
    }

    /// Adds a page of a log to `found`; returns where the next one begins.
    pub(super) async fn page(
        &self,
        name: &str,
        page: PageOfEvents,
        found: Found,
    ) -> Result<(Found, PageEnd, Sequence), Failure> {
        let ReadLog { reader, views, .. } = self.named(name)?;
        let (found, end) = reader.page(page, views.as_ref(), found).await?;
        Ok((found, end, reader.log().head().next_sequence))
    }

    /// Adds an event of a log to `found`.
    pub(super) async fn event(&self, name: &str, sequence: Sequence, found: Found) -> Result<Found, Failure> {
        self.named(name)?.reader.read(vec![sequence], found).await
    }
}

/// Blocks of one log that are decoded at a time.
const DECODERS: usize = 1;

impl<'a> LogInList<'a> {
    fn of(read_log: &'a ReadLog) -> Self {
        let log = read_log.reader.log();
        LogInList {
            name: &read_log.name,
            dialect: log.dialect(),
            ends: EndsOfLog::of(log),
            kinds: log.kinds().into_iter().map(|(_, name)| name).collect(),
            has_heights: read_log.views.is_some(),
        }
    }
}
