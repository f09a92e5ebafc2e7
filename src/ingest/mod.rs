//! Ingest: from what the sources say to what the log holds.
//!
//! Owns the order of events and the decision which of them are new. Batches of all sources flow into one bounded channel;
//! a thread of its own, the committer, drops what the log has, appends the rest and commits. What flows out is the log,
//! and a watch on its head that wakes who waits for more.

mod committer;
pub mod counters;
mod disk;
mod gaps;
pub mod identity;
mod measured;
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use sidecar_log_format::storage::{Directory, Storage};
use sidecar_log_format::{Durability, Head, Log, Opened, Recovery, Sequence, WriteOptions, Writer};
use tokio::sync::{mpsc, oneshot, watch};

use crate::source::Batch;
use committer::Committer;
use counters::Counters;
use disk::Disk;
use identity::{Forgetter, IdentityIndex};
use measured::Measured;
pub use upkeep::Rewriting;
use upkeep::Upkeep;
use upkeep::retention::Retainer;
pub use upkeep::retention::{NeededFrom, Retention};

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
    /// What of the log is kept.
    pub retention: Retention,
    /// How sealed segments are made small.
    pub rewriting: Rewriting,
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
    /// Ingest was to end while it waited for room on the device.
    #[error(
        "there was no room left on the device for what came last; it is read from the nodes again at the next start"
    )]
    EndedWithoutRoom,
    /// There is no thread for the committer, or for the upkeep.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running ingest.
pub struct Ingest {
    /// Reads what is stored.
    pub log: Log,
    /// The visible head; changes with every commit.
    pub committed: watch::Receiver<Head>,
    /// Who follows the log and is to be waited for before its oldest segments are dropped.
    pub needed_from: NeededFrom,
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
    let free_bytes_min = options.write.free_bytes_min;
    let counters = Arc::new(Counters::default());
    let storage = Measured::new(directory, Arc::clone(&counters));
    let Opened { writer, log, recovery } = Writer::open(Arc::new(storage), options.write)?;

    let (batches, receiver) = mpsc::channel(options.queued_batches.max(1));
    let (committed, committed_receiver) = watch::channel(log.head());
    let (end, ended) = oneshot::channel();
    let needed_from = options.retention.needed_from.clone();
    let forgetter = Arc::default();
    let retainer = Retainer {
        options: options.retention,
        log: log.clone(),
        forgetter: Arc::clone(&forgetter),
        counters: Arc::clone(&counters),
        state: Default::default(),
    };
    let (maintenance, upkeep_counters) = (writer.maintenance(), Arc::clone(&counters));
    let upkeep = Upkeep::start(maintenance, options.rewriting, free_bytes_min, retainer, upkeep_counters)
        .map_err(IngestError::Thread)?;
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
        free_bytes_min,
        forgetter,
        runtime: tokio::runtime::Handle::current(),
    };
    let committing = thread::Builder::new().name("committer".to_owned()).spawn(move || {
        let result = committer.run();
        // Whoever hears of the end may open the log and the index again, which the upkeep would keep locked.
        drop(upkeep);
        // Nobody may be left to hear why.
        let _ = end.send(result);
    });
    committing.map_err(IngestError::Thread)?;
    Ok(Ingest { log, committed: committed_receiver, needed_from, batches, counters, recovery, ended })
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
    free_bytes_min: u64,
    forgetter: Arc<OnceLock<Forgetter>>,
    runtime: tokio::runtime::Handle,
}

impl Start {
    fn run(self) -> Result<(), IngestError> {
        let mut disk = Disk::new(Arc::clone(&self.counters));
        self.wait_for_room(&mut disk)?;
        let head = self.log.head().next_sequence;
        // An index that knows lost events must not keep a node from bringing them again.
        let known_end = self.lost_from.unwrap_or(head);
        let opened = IdentityIndex::open(&self.index_file, self.log.id(), known_end.checked_sub(1), self.index)?;
        if let Some(rebuild) = opened.rebuild.filter(|_| head > self.log.oldest()) {
            tracing::info!("the identity index is made anew from the log: {rebuild:?}");
        }
        let forgetter = opened.index.forgetter();
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
            disk,
            runtime: self.runtime,
        };
        committer.catch_up(opened.checkpoint)?;
        // Nothing is dropped before: the events that are being read in may be among the oldest.
        let _ = self.forgetter.set(forgetter);
        committer.run()
    }

    /// The index needs room to be opened and made. History is served meanwhile.
    fn wait_for_room(&self, disk: &mut Disk) -> Result<(), IngestError> {
        let Some(parent) = self.index_file.parent() else { return Ok(()) };
        loop {
            // Where this cannot be told, opening the index will tell.
            let free = Directory::at(parent).free_space().unwrap_or(u64::MAX);
            if free >= self.free_bytes_min {
                disk.has_room();
                return Ok(());
            }
            let min = self.free_bytes_min;
            disk.is_full(&format_args!("{free} bytes are free on the device, and {min} are to stay free"));
            if self.batches.is_closed() {
                return Err(IngestError::EndedWithoutRoom);
            }
            thread::sleep(committer::DISK_FULL_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use sidecar_log_format::{Read, WriteOptions};

    use super::*;
    use crate::failing_reads::log_with_a_large_event;
    use identity::{Fingerprint, Known};

    #[tokio::test]
    async fn no_stored_event_is_new_because_a_read_failed() {
        let folder = tempfile::tempdir().unwrap();
        let (log, reads) = log_with_a_large_event(folder.path());
        let index_file = |read: u64| folder.path().join(format!("{read}.redb"));
        let catch_up = |read: u64| {
            let options = WriteOptions::new("casper", [1; 16], 1);
            let Opened { writer, .. } = Writer::open(Arc::new(Directory::at(folder.path())), options).unwrap();
            let start = Start {
                writer,
                lost_from: None,
                log: log.clone(),
                index_file: index_file(read),
                index: identity::Options::default(),
                batches: mpsc::channel(1).1,
                committed: watch::channel(log.head()).0,
                counters: Arc::default(),
                durability: Durability::Commit,
                sync_interval: Duration::from_secs(1),
                free_bytes_min: 0,
                forgetter: Arc::default(),
                runtime: tokio::runtime::Handle::current(),
            };
            reads.fail_after(read);
            // On a thread that may wait for the runtime.
            thread::scope(|scope| scope.spawn(|| start.run()).join().unwrap())
        };
        let failed = (0..).find(|&read| catch_up(read).is_ok()).unwrap();
        assert!(failed > 2, "the event is read more than once");

        reads.fail_after(1000);
        let Read::Large(event) = log.read(0).unwrap() else { panic!("a large event") };
        let payload = event.payload().unwrap();
        let fingerprint = Fingerprint::new(crc32fast::hash(&payload), false);
        let mut opened =
            IdentityIndex::open(&index_file(failed), log.id(), Some(0), identity::Options::default()).unwrap();
        let identity = committer::identity_of(&payload).unwrap();
        assert_eq!(opened.index.check(&identity, fingerprint).unwrap(), Known::Same);
    }
}
