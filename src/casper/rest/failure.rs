//! Why a question has no answer, in words for clients.

use sidecar_log_format::{Missing, Sequence};

use crate::engine::http::finishing::Unfinished;
use crate::engine::http::memory::Crowded;

/// No list becomes longer than this. A single event may be: the log and the exporters have their own limit for those.
pub(super) const LIST_BYTES_MAX: usize = 64 << 20;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Failure {
    /// There is no such event.
    #[error("Query returned no results")]
    NotFound,
    /// The event is there, but has no form that answers show.
    #[error("Error deserializing returned data: event {sequence} is not of a known shape")]
    UnknownShape {
        /// Its sequence.
        sequence: Sequence,
    },
    /// What the database holds is not JSON.
    #[error("Error deserializing returned data: {0}")]
    NotJson(String),
    /// It was stored, and the log has lost it.
    #[error("Event {sequence} is {}", why.for_clients())]
    Lost {
        /// Its sequence.
        sequence: Sequence,
        /// What became of it.
        why: Missing,
    },
    /// The log or the views cannot be read. Why, and in which file, is the operator's business, and is logged.
    #[error("Unhandled error occurred in storage: the log of this server says why")]
    Storage(String),
    /// The database cannot be asked. Where it is and what it says is the operator's business, and is logged.
    #[error("Unhandled error occurred in storage: the database does not answer as it should")]
    Database,
    /// The database answers this question with an error. What it says is the operator's business, and is logged.
    #[error("Unhandled error occurred in storage: the database refuses this question; the log of this server says why")]
    Refused,
    /// The tables of the database do not have it.
    #[error(
        "This server answers from {database}, which knows neither the sequences of the log nor the transactions of an \
         account; ask a Sidecar that answers from its log, or for /blocks, /block, /transaction, /faults, /signatures or /step"
    )]
    OnlyInLog {
        /// The database's name.
        database: &'static str,
    },
    /// There is no log of Casper's.
    #[error("This server has no Casper log; its logs are at /logs")]
    NoCasperLog,
    /// The views are too far behind the log to know.
    #[error("The views are {events} events behind the log and have no answer yet; ask again")]
    Behind {
        /// How many events they still have to read.
        events: u64,
    },
    /// The views are not open. Why is logged by the views.
    #[error("The views are not open now; ask again")]
    Closed,
    /// The list is too long for one answer.
    #[error(
        "Unhandled error occurred in storage: the answer is longer than {LIST_BYTES_MAX} bytes; read it with /events"
    )]
    TooLong,
    /// Too many answers wait for memory already.
    #[error("Too many large answers wait to be sent; ask again")]
    Crowded,
    /// It took longer than `request_timeout_in_seconds`.
    #[error("The answer took longer than request_timeout_in_seconds")]
    TooSlow,
}

impl From<Crowded> for Failure {
    fn from(Crowded: Crowded) -> Self {
        Failure::Crowded
    }
}

impl From<sidecar_log_format::Error> for Failure {
    fn from(error: sidecar_log_format::Error) -> Self {
        Failure::Storage(error.to_string())
    }
}

impl From<Unfinished> for Failure {
    fn from(unfinished: Unfinished) -> Self {
        Failure::Storage(unfinished.to_string())
    }
}
