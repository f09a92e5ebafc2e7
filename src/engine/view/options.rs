//! What views are given.

use std::path::PathBuf;
use std::time::Duration;

/// Where the views live, and what they may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; its directory is made if missing.
    pub path: PathBuf,
    /// redb's page cache, in bytes.
    pub cache_bytes: usize,
    /// A commit is durable when this many events have come since the last such one,
    pub sync_events: usize,
    /// or so much time. What is projected again after a crash is no more than that.
    pub sync_period: Duration,
}

impl Options {
    /// Views at `path`; a crash costs a million events or ten seconds.
    #[must_use]
    pub fn new(path: PathBuf, cache_bytes: usize) -> Self {
        Self { path, cache_bytes, sync_events: 1_000_000, sync_period: Duration::from_secs(10) }
    }
}
