//! `GET /status`: the version first, as the reference has it, and then how far or how well everything is.

use serde::Serialize;
use sidecar_log_format::{Log, Sequence};

use crate::engine::losses::Lost;
use crate::engine::source::watch::SourceWatch;

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

/// The ends of a log of any dialect.
#[derive(Serialize)]
pub(super) struct EndsOfLog {
    /// Its id in hexadecimal.
    id: String,
    epoch: u64,
    /// The oldest retained sequence.
    oldest: Sequence,
    /// The sequence that the next event will get.
    next: Sequence,
    /// Events that were stored and are lost.
    lost: Lost,
}

impl EndsOfLog {
    pub(super) fn of(log: &Log) -> Self {
        let head = log.head();
        EndsOfLog {
            id: hex::encode(log.id()),
            epoch: head.epoch,
            oldest: log.oldest(),
            next: head.next_sequence,
            lost: Lost::of(log).for_clients(),
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

/// The answer's body where answers come from a database, for instance `{"version":"1.0.0","sqlite":{"status":"connected"}}`.
pub(super) fn of_database(version: &str, product: &str, answers: bool) -> Vec<u8> {
    let status = if answers { "connected" } else { "unreachable" };
    let version = serde_json::Value::from(version);
    let product = product.to_lowercase();
    format!("{{\"version\":{version},\"{product}\":{{\"status\":\"{status}\"}}}}").into_bytes()
}

/// The answer's body where there is no log of Casper's.
pub(super) fn of_others(version: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Alone<'a> {
        version: &'a str,
    }
    // As below.
    serde_json::to_vec(&Alone { version }).unwrap_or_default()
}

/// The answer's body where answers come from the log.
pub(super) fn of_log(version: &str, log: &Log, view_lag: u64, sources: &[SourceWatch]) -> Vec<u8> {
    let head = log.head();
    let status = StatusOfLog {
        version,
        log: LogStatus {
            oldest: log.oldest(),
            next: head.next_sequence,
            api_version: head.api_version.to_string(),
            epoch: head.epoch,
            lost: Lost::of(log).for_clients(),
        },
        views: ViewStatus { lag: view_lag },
        sources: sources
            .iter()
            .map(|source| SourceStatus {
                source: &source.name,
                status: source.counters.status.name(),
                reconnects: source.counters.reconnects.get(),
            })
            .collect(),
    };
    // Strings and numbers are always JSON.
    serde_json::to_vec(&status).unwrap_or_default()
}
