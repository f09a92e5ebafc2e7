//! What can go wrong with views.

use std::path::PathBuf;

/// What went wrong with the views. The log is not touched by any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A file or directory cannot be made, looked at or moved.
    #[error("views {}: cannot {action}: {source}; check the directory's permissions and free space", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed. The message has it, so it is not a `source()`, which would be printed again.
        r#source: std::io::Error,
    },
    /// redb failed to open, read or write.
    #[error("views {}: {source}; check the disk and its free space: the views recover, or are rebuilt from the log", path.display())]
    Redb {
        /// The views' file.
        path: PathBuf,
        /// Why it failed; as above.
        r#source: Box<redb::Error>,
    },
    /// The file is damaged; the views are rebuilt.
    #[error("views {}: the file is damaged: {how}; it is set aside and rebuilt from the log", path.display())]
    Damaged {
        /// The views' file.
        path: PathBuf,
        /// How it showed.
        how: String,
    },
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
