//! The REST server: look-ups among the stored events.
//!
//! Owns the paths, the answers' bytes and their headers. Requests flow in; a question each flows to where events are
//! looked up, and the events' own bytes with fixed text around them flow out. What the reference answers is answered byte
//! for byte as it does; beyond it there are pages of events, of blocks and of an account's transactions.
//!
//! - `endpoints`: the paths, one table for the server, its counters and the document.
//! - `question`: what a request asks for.
//! - `answer_from`: where events are looked up, one of
//!   - `from_log`: the views and the log,
//!   - `from_sql`: the tables that an exporter fills, in SQLite or PostgreSQL.
//! - `any_log`: events of any log, by its name.
//! - `page`: a range of the log, upwards or downwards.
//! - `answers`: the form of what was found, and why nothing was.
//! - `server`: HTTP.
//! - `log_budget`: how often a failure is logged.
//! - `document`: the OpenAPI document.
//! - `counters`: what can be seen from outside.

mod answer_from;
mod answers;
mod any_log;
pub mod counters;
pub mod document;
mod endpoints;
mod failure;
mod from_log;
mod from_sql;
mod log_budget;
mod page;
mod question;
mod server;
mod status;

use std::time::Duration;

use crate::engine::http::ListenOptions;

pub use answer_from::{AnswerFrom, OtherLogs};
pub use any_log::NamedLog;
pub use counters::Counters;
pub use from_log::LogAnswers;
pub use from_sql::{DatabaseOptions, SqlAnswers};
pub use server::{LogPages, Server};

/// How the server listens and what it grants its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestOptions {
    /// The TCP port; 0 lets the system choose one.
    pub port: u16,
    /// Where the server listens on that port, and whom it lets in.
    pub listen: ListenOptions,
    /// Requests that are worked on at once; others wait.
    pub max_concurrent_requests: u32,
    /// Requests that are begun per second; others wait.
    pub max_requests_per_second: u32,
    /// The limit for answering one request once its turn has come.
    pub request_timeout: Duration,
    /// What `/status` says first.
    pub version: &'static str,
}

impl RestOptions {
    /// The defaults, on any free port.
    #[must_use]
    pub fn new() -> Self {
        RestOptions {
            port: 0,
            listen: ListenOptions::default(),
            max_concurrent_requests: 50,
            max_requests_per_second: 50,
            request_timeout: Duration::from_secs(30),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl Default for RestOptions {
    fn default() -> Self {
        Self::new()
    }
}
