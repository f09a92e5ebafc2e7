//! Casper's views: what its stored events are found by.
//!
//! Owns the tables of blocks, transactions, signatures, faults, steps and accounts, and the questions that they answer. The
//! engine's views call the projection with each event; look-ups of REST and JSON-RPC flow in, sequences flow out.

mod query;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sidecar_log_format::{Head, Log};
use tokio::sync::watch;

use crate::engine::view::projection::Projection;
use crate::engine::view::{self, Options, Progress, Result, Views};
use tables::CasperProjection;

/// The views of a log of Casper's events, see [`Views`]. Clones share everything.
#[derive(Clone)]
pub struct CasperViews(Views);

impl CasperViews {
    /// Starts the thread that opens the views of `log`, or makes them, and follows the log until the other end of
    /// `committed`, the log's writer, is gone. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no thread. That thread reports what is wrong with the file, and tries again.
    pub fn open(options: Options, log: Log, committed: watch::Receiver<Head>) -> Result<Self> {
        Views::open(projection(), options, log, committed).map(Self)
    }

    /// How far they have come.
    #[must_use]
    pub fn views(&self) -> &Views {
        &self.0
    }
}

/// Rebuilds the views of a log and brings them up to its head, in this thread. The caller holds the log's lock, so that
/// nothing writes it meanwhile.
///
/// # Errors
/// What the log, the file system or redb answers; then the next start continues with what is made so far.
pub fn rebuild(options: &Options, log: &Log, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    view::rebuild(&projection(), options, log, progress)
}

fn projection() -> Arc<dyn Projection> {
    Arc::new(CasperProjection)
}
