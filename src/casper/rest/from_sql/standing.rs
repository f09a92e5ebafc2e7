//! Whether the database answers, and what is logged when it does not.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::casper::export::ExportError;
use crate::casper::rest::failure::Failure;
use crate::casper::rest::log_budget::LogBudget;

/// What is known of a database.
pub(super) struct Standing {
    /// The database, for log lines.
    place: String,
    is_answering: AtomicBool,
    refusals: LogBudget,
}

impl Standing {
    /// A database that has not failed yet.
    pub(super) fn new(place: String) -> Self {
        Standing { place, is_answering: AtomicBool::new(true), refusals: LogBudget::default() }
    }

    /// Whether the database answered when it was last asked.
    pub(super) fn has_answered(&self) -> bool {
        self.is_answering.load(Ordering::Relaxed)
    }

    /// Logs that the database answers again, if it did not.
    pub(super) fn report_answer(&self) {
        if !self.is_answering.swap(true, Ordering::Relaxed) {
            tracing::info!("{} answers again", self.place);
        }
    }

    /// Logs what is wrong with the database, once until it is right again.
    pub(super) fn lost(&self, error: &ExportError) -> Failure {
        if self.is_answering.swap(false, Ordering::Relaxed) {
            tracing::error!("{error}; REST requests are answered with 500 as long as that is so");
        }
        Failure::Database
    }

    /// Logs what is wrong with a question, but not at the rate of requests.
    pub(super) fn refused(&self, error: &ExportError) -> Failure {
        if self.refusals.allows() {
            tracing::error!("{error}; REST requests that need it are answered with 500");
        }
        Failure::Refused
    }

    /// The error of a database that does not answer.
    pub(super) fn unreachable(&self, reason: String) -> ExportError {
        ExportError::Unreachable { place: self.place.clone(), reason }
    }
}

/// Whether there is no database to answer, rather than an answer that is an error.
pub(super) fn is_loss(error: &ExportError) -> bool {
    matches!(error, ExportError::Unreachable { .. })
}
