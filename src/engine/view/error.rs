//! What can go wrong with views.

use std::path::PathBuf;

use crate::engine::derived::DerivedError;

/// What went wrong with the views. The log is not touched by any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The views' file.
    #[error(transparent)]
    File(#[from] DerivedError),
    /// The views' thread has panicked.
    #[error("the views' thread has panicked: this is a mistake in Sidecar, please report it")]
    Panicked,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] sidecar_log_format::Error),
    /// The system has no thread for the views.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The views are not open: they are about to be, or the log's writer has ended.
    #[error("views {}: not open now: {reason}; ask again in a moment", path.display())]
    Closed {
        /// The views' file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A result of the views.
pub type Result<T> = std::result::Result<T, ViewError>;
