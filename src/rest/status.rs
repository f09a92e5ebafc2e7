//! `GET /status`: the version first, as the reference has it, and then how far or how well everything is.

use serde::Serialize;
use sidecar_log_format::{Log, LossKind, Losses, LostRange, Sequence};

use crate::source::casper::NamedSource;

/// How many ranges of lost events are shown; all are counted.
const RANGES_SHOWN_MAX: usize = 100;

#[derive(Serialize)]
struct StatusOfLog<'a> {
    version: &'a str,
    log: LogStatus,
    views: ViewStatus,
    sources: Vec<SourceStatus<'a>>,
}

#[derive(Serialize)]
struct LogStatus {
    /// The oldest retained sequence.
    oldest: Sequence,
    /// The sequence that the next event will get.
    next: Sequence,
    api_version: String,
    epoch: u64,
    /// Events that were stored and are lost.
    lost: Lost,
}

#[derive(Serialize)]
struct Lost {
    /// How many no segment holds.
    missing: u64,
    /// How many are in a damaged place.
    damaged: u64,
    /// How many a mark in the log names.
    marked: u64,
    /// The first hundred ranges.
    ranges: Vec<LostRange>,
}

impl From<&Losses> for Lost {
    fn from(losses: &Losses) -> Self {
        Lost {
            missing: losses.events(LossKind::Missing),
            damaged: losses.events(LossKind::Damaged),
            marked: losses.events(LossKind::Marked),
            ranges: losses.ranges().iter().take(RANGES_SHOWN_MAX).cloned().collect(),
        }
    }
}

#[derive(Serialize)]
struct ViewStatus {
    /// Stored events that look-ups do not see yet.
    lag: u64,
}

#[derive(Serialize)]
struct SourceStatus<'a> {
    source: &'a str,
    status: &'static str,
    reconnects: u64,
}

#[derive(Serialize)]
struct StatusOfPostgreSql<'a> {
    version: &'a str,
    postgresql: PostgreSqlStatus,
}

#[derive(Serialize)]
struct PostgreSqlStatus {
    status: &'static str,
}

/// The answer's body where answers come from PostgreSQL.
pub(super) fn of_postgresql(version: &str, answers: bool) -> Vec<u8> {
    let status = if answers { "connected" } else { "unreachable" };
    // As below.
    serde_json::to_vec(&StatusOfPostgreSql { version, postgresql: PostgreSqlStatus { status } }).unwrap_or_default()
}

/// The answer's body where answers come from the log.
pub(super) fn of_log(version: &str, log: &Log, view_lag: u64, sources: &[NamedSource]) -> Vec<u8> {
    let head = log.head();
    let status = StatusOfLog {
        version,
        log: LogStatus {
            oldest: log.oldest(),
            next: head.next_sequence,
            api_version: head.api_version.to_string(),
            epoch: head.epoch,
            lost: (&log.losses()).into(),
        },
        views: ViewStatus { lag: view_lag },
        sources: sources
            .iter()
            .map(|source| SourceStatus {
                source: &source.name,
                status: source.counters.status_name(),
                reconnects: source.counters.reconnects.get(),
            })
            .collect(),
    };
    // Strings and numbers are always JSON.
    serde_json::to_vec(&status).unwrap_or_default()
}
