//! Where answers come from. What both can answer is asked here; what only the log has, through [`AnswerFrom::log`].

use std::sync::Arc;

use super::answers::Found;
use super::failure::Failure;
use super::from_log::LogAnswers;
use super::from_sql::SqlAnswers;
use super::question::{PageOfBlocks, Question};
use crate::engine::http::memory::AnswerMemory;

/// Where answers come from.
pub enum AnswerFrom {
    /// From the log, by its views.
    Log(LogAnswers),
    /// From the tables that an exporter fills, maybe another machine's.
    Database(SqlAnswers),
    /// From no log of Casper's: only those of other dialects are there.
    OtherLogs(OtherLogs),
}

/// What large answers may take where there is no log of Casper's.
#[derive(Default)]
pub struct OtherLogs {
    pub(super) memory: Arc<AnswerMemory>,
}

impl AnswerFrom {
    /// The log, for what is nowhere else.
    pub(super) fn log(&self) -> Result<&LogAnswers, Failure> {
        match self {
            AnswerFrom::Log(log) => Ok(log),
            AnswerFrom::Database(database) => Err(Failure::OnlyInLog { database: database.product() }),
            AnswerFrom::OtherLogs(_) => Err(Failure::NoCasperLog),
        }
    }

    /// What its large answers may take.
    pub(super) fn memory(&self) -> &Arc<AnswerMemory> {
        match self {
            AnswerFrom::Log(log) => log.memory(),
            AnswerFrom::Database(database) => database.memory(),
            AnswerFrom::OtherLogs(others) => &others.memory,
        }
    }

    /// Adds the events that answer `question` to `found`.
    pub(super) async fn find(&self, question: &Question, found: Found) -> Result<Found, Failure> {
        match self {
            AnswerFrom::Log(log) => log.find(question, found).await,
            AnswerFrom::Database(database) => database.find(question, found).await,
            AnswerFrom::OtherLogs(_) => Err(Failure::NoCasperLog),
        }
    }

    /// Whether an event answers `question`.
    pub(super) async fn is_there(&self, question: &Question) -> Result<bool, Failure> {
        match self {
            AnswerFrom::Log(log) => log.is_there(question).await,
            AnswerFrom::Database(database) => database.is_there(question).await,
            AnswerFrom::OtherLogs(_) => Err(Failure::NoCasperLog),
        }
    }

    /// Adds a page of blocks to `found`; says with which height the next one begins, or below which it is, if there is one.
    pub(super) async fn blocks(&self, page: PageOfBlocks, found: Found) -> Result<(Found, Option<u64>), Failure> {
        match self {
            AnswerFrom::Log(log) => log.blocks(page, found).await,
            AnswerFrom::Database(database) => database.blocks(page, found).await,
            AnswerFrom::OtherLogs(_) => Err(Failure::NoCasperLog),
        }
    }

    /// The body of `/status`.
    pub(super) fn status(&self, version: &str) -> Vec<u8> {
        match self {
            AnswerFrom::Log(log) => log.status(version),
            AnswerFrom::Database(database) => database.status(version),
            AnswerFrom::OtherLogs(_) => super::status::of_others(version),
        }
    }
}
