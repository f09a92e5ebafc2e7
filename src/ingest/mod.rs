//! Ingest: from what the sources say to what the log holds.
//!
//! Owns the order of events and the decision which of them are new. Batches of all sources flow into one bounded channel;
//! a thread of its own, the committer, drops what the log has, appends the rest and commits. What flows out is the log,
//! and a watch on its head that wakes who waits for more.

mod committer;
pub mod counters;
mod gaps;
pub mod identity;
mod maintenance;
mod measured;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sidecar_log_format::storage::Directory;
use sidecar_log_format::{Durability, Head, Log, Opened, Recovery, RewriteOptions, Sequence, WriteOptions, Writer};
use tokio::sync::{mpsc, oneshot, watch};

use crate::source::Batch;
use committer::Committer;
use counters::Counters;
use identity::IdentityIndex;
use maintenance::Merging;
use measured::Measured;

/// How events are ordered and stored.
#[derive(Clone, Debug)]
pub struct Options {
    /// The log's directory; made if missing.
    pub log_directory: PathBuf,
    /// The identity index's file; its directory is made if missing.
    pub index_file: PathBuf,
    /// How the log is written.
    pub write: WriteOptions,
    /// How often a log with [`Durability::Interval`] is synced.
    pub sync_interval: Duration,
    /// How the identity index shares the machine.
    pub index: identity::Options,
    /// Keep at least this many of the newest events, and drop whole segments before them.
    pub keep_only_newest: Option<u64>,
    /// Batches that may wait for the committer.
    pub queued_batches: usize,
}

/// Why ingest has ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The log.
    #[error(transparent)]
    Log(#[from] sidecar_log_format::Error),
    /// The identity index.
    #[error(transparent)]
    Index(#[from] identity::IdentityIndexError),
    /// A directory of the storage cannot be made.
    #[error("cannot make the directory {}: {source}; look at its parents, or give another storage folder", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// There is no thread for the committer, or for the merging of blocks.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running ingest.
pub struct Ingest {
    /// Reads what is stored.
    pub log: Log,
    /// The visible head; changes with every commit.
    pub committed: watch::Receiver<Head>,
    /// Where sources send what they hear. Ingest ends in order once all copies of it are gone.
    pub batches: mpsc::Sender<Batch>,
    /// What became of it.
    pub counters: Arc<Counters>,
    /// What opening the log found and did.
    pub recovery: Recovery,
    /// Why ingest ended: `Ok` after all senders have hung up and the log is closed.
    pub ended: oneshot::Receiver<Result<(), IngestError>>,
}

/// Opens the log and starts the committer. History can be read at once; news waits until the identity index has caught up.
///
/// # Errors
/// When the log cannot be opened or made, or no thread can be started. Must be called within a tokio runtime.
pub fn start(options: Options) -> Result<Ingest, IngestError> {
    let cannot_make = |path: &Path| {
        let path = path.to_owned();
        move |source| IngestError::Directory { path, source }
    };
    if let Some(parent) = options.index_file.parent() {
        std::fs::create_dir_all(parent).map_err(cannot_make(parent))?;
    }
    let directory = Directory::create(&options.log_directory).map_err(cannot_make(&options.log_directory))?;
    let durability = options.write.durability;
    let merged_blocks =
        RewriteOptions { level: options.write.compression_level, block_bytes: options.write.block_bytes_max };
    let counters = Arc::new(Counters::default());
    let storage = Measured::new(directory, Arc::clone(&counters));
    let Opened { writer, log, recovery } = Writer::open(Arc::new(storage), options.write)?;

    let merging = Merging::start(writer.maintenance(), merged_blocks).map_err(IngestError::Thread)?;
    let (batches, receiver) = mpsc::channel(options.queued_batches.max(1));
    let (committed, committed_receiver) = watch::channel(log.head());
    let (end, ended) = oneshot::channel();
    let committer = Start {
        writer,
        lost_from: recovery.lost.as_ref().map(|lost| lost.start),
        log: log.clone(),
        index_file: options.index_file,
        index: options.index,
        batches: receiver,
        committed,
        counters: Arc::clone(&counters),
        durability,
        sync_interval: options.sync_interval,
        keep_only_newest: options.keep_only_newest,
        runtime: tokio::runtime::Handle::current(),
    };
    let committing = thread::Builder::new().name("committer".to_owned()).spawn(move || {
        let result = committer.run();
        // Whoever hears of the end may open the log again, which the merging would keep locked.
        drop(merging);
        // Nobody may be left to hear why.
        let _ = end.send(result);
    });
    committing.map_err(IngestError::Thread)?;
    Ok(Ingest { log, committed: committed_receiver, batches, counters, recovery, ended })
}

/// What the committer's thread begins with.
struct Start {
    writer: Writer,
    /// The first of the events that opening the log found gone, if any.
    lost_from: Option<Sequence>,
    log: Log,
    index_file: PathBuf,
    index: identity::Options,
    batches: mpsc::Receiver<Batch>,
    committed: watch::Sender<Head>,
    counters: Arc<Counters>,
    durability: Durability,
    sync_interval: Duration,
    keep_only_newest: Option<u64>,
    runtime: tokio::runtime::Handle,
}

impl Start {
    fn run(self) -> Result<(), IngestError> {
        let head = self.log.head().next_sequence;
        // An index that knows lost events must not keep a node from bringing them again.
        let known_end = self.lost_from.unwrap_or(head);
        let opened = IdentityIndex::open(&self.index_file, self.log.id(), known_end.checked_sub(1), self.index)?;
        if let Some(rebuild) = opened.rebuild.filter(|_| head > self.log.oldest()) {
            tracing::info!("the identity index is made anew from the log: {rebuild:?}");
        }
        let mut committer = Committer {
            gaps: gaps::Gaps::starting_at(Committer::newest_height(&self.log)?),
            writer: self.writer,
            log: self.log,
            index: opened.index,
            batches: self.batches,
            committed: self.committed,
            counters: self.counters,
            durability: self.durability,
            sync_interval: self.sync_interval,
            keep_only_newest: self.keep_only_newest,
            runtime: self.runtime,
        };
        committer.catch_up(opened.checkpoint)?;
        committer.run()
    }
}
