//! Ingest: from what the sources say to what the log holds.
//!
//! Owns the order of events and the decision which of them are new. Batches of all sources flow into one bounded channel;
//! a thread of its own, the committer, drops what the log has, appends the rest and commits. What flows out is the log,
//! and a watch on its head that wakes readers that wait for more.
//!
//! A [`LiveLog`] lives as long as the process, and so do its readers. Its writer and the committer live for one [`Run`]: a
//! failure of the storage ends it, and the next one recovers the log from disk in place.

mod committer;
pub mod counters;
mod disk;
mod gaps;
pub mod identity;
mod measured;
mod network;
mod remembered;
#[cfg(test)]
mod tests;
mod upkeep;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidecar_log_format::storage::{Directory, Storage};
use sidecar_log_format::{Durability, Head, Log, Opened, Recovery, Sequence, WriteOptions, Writer};
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::dialect::Dialect;
use crate::engine::source::{self, Batch, Timestamp};
use crate::engine::thread;
use committer::Committer;
use counters::Counters;
use disk::Disk;
use gaps::Gaps;
use identity::{Forgetter, IdentityIndex, LogPosition, Rebuild};
use measured::Measured;
pub use upkeep::Rewriting;
use upkeep::Upkeep;
use upkeep::retention::Retainer;
pub use upkeep::retention::{NeededFrom, Retention};

/// How events are ordered and stored.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the events are.
    pub dialect: Arc<dyn Dialect>,
    /// The log's directory; made if missing, unless [`WriteOptions::create_if_missing`] forbids it.
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

/// How much of a log is kept, and how much room it leaves on its device.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceLimits {
    /// Retention keeps about this many bytes at most.
    pub bytes_max: Option<u64>,
    /// Retention keeps events for about this long.
    pub age_max: Option<Duration>,
    /// Ingest waits while the device has less room than this.
    pub free_bytes_min: u64,
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
    /// The log may not be read or written.
    #[error(
        "{source}; the user with the id {user} runs Sidecar and must be allowed to read and write {} and all in it: give it \
         that folder with `chown -R`, or set another storage folder",
        directory.display()
    )]
    NotPermitted {
        /// The log's directory.
        directory: PathBuf,
        /// The user that Sidecar runs as.
        user: u32,
        /// What was not permitted. The message has it, so it is no `source()` that would be printed again.
        r#source: Box<sidecar_log_format::Error>,
    },
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
    /// The committer has panicked.
    #[error("the committer's thread has panicked: this is a mistake in Sidecar, please report it")]
    Panicked,
    /// What reads a source has panicked.
    #[error("a source's {message}: this is a mistake in Sidecar, please report it")]
    SourcePanicked {
        /// Of the panic, with the task that it was in.
        message: String,
    },
    /// There is no thread for the committer, or for the upkeep.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// One log, and what is true of it however often its writer fails: its readers, its counters and its visible head.
pub struct LiveLog {
    /// Reads what is stored.
    pub log: Log,
    /// The visible head; changes with every commit.
    pub committed: watch::Receiver<Head>,
    /// Where the readers are that are to be waited for before the oldest segments are dropped.
    pub needed_from: NeededFrom,
    /// What became of events.
    pub counters: Arc<Counters>,
    publisher: watch::Sender<Head>,
    upkeep: upkeep::Carried,
    options: Options,
}

/// One run of a log's writer, from its opening to a failure or the end.
pub struct Run {
    /// Where sources send what they hear. The run ends in order once all copies of it are gone.
    pub batches: mpsc::Sender<Batch>,
    /// What opening the log found and did.
    pub recovery: Recovery,
    /// Why the run ended: `Ok` after all senders have hung up and the log is closed.
    pub ended: oneshot::Receiver<Result<(), IngestError>>,
}

impl LiveLog {
    /// Opens the log, or makes it, and starts its first run. History can be read at once; news waits until the identity
    /// index has caught up.
    ///
    /// # Errors
    /// When the log cannot be opened or made, or no thread can be started. Must be called within a tokio runtime.
    pub fn open(options: Options) -> Result<(LiveLog, Run), IngestError> {
        let directory = if options.write.create_if_missing {
            Directory::create(&options.log_directory).map_err(cannot_make(&options.log_directory))?
        } else {
            Directory::at(&options.log_directory)
        };
        let counters = Arc::new(Counters::default());
        let storage = Measured::new(directory, Arc::clone(&counters));
        let opened = Writer::open(Arc::new(storage), options.write.clone()).map_err(|error| options.explain(error))?;
        let (publisher, committed) = watch::channel(opened.log.head());
        let live = LiveLog {
            log: opened.log.clone(),
            committed,
            needed_from: options.retention.needed_from.clone(),
            counters,
            publisher,
            upkeep: upkeep::Carried::default(),
            options,
        };
        let run = live.run(opened)?;
        Ok((live, run))
    }

    /// Where the log's segments are.
    #[must_use]
    pub fn log_directory(&self) -> &Path {
        &self.options.log_directory
    }

    /// How much of the log is kept, and how much room it leaves.
    #[must_use]
    pub fn space_limits(&self) -> SpaceLimits {
        let Retention { bytes_max, age_max, .. } = self.options.retention;
        SpaceLimits { bytes_max, age_max, free_bytes_min: self.options.write.free_bytes_min }
    }

    /// The network of the newest stored event that tells one.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn newest_network(&self) -> sidecar_log_format::Result<Option<String>> {
        network::newest_network(&self.log)
    }

    /// Recovers the log from disk after a run has failed, and starts the next one. Readers notice nothing.
    ///
    /// # Errors
    /// While the log cannot be opened again, or is not where it was: another one is never begun. Must be called within a
    /// tokio runtime.
    pub fn resume(&self) -> Result<Run, IngestError> {
        let write = WriteOptions { now: source::now(), ..self.options.write.clone() };
        let opened = Writer::reopen(&self.log, write).map_err(|error| self.options.explain(error))?;
        self.publisher.send_replace(opened.log.head());
        let run = self.run(opened)?;
        self.counters.reopened.add(1);
        Ok(run)
    }

    fn run(&self, opened: Opened) -> Result<Run, IngestError> {
        let Opened { writer, log, recovery } = opened;
        let options = &self.options;
        // Only now that the log is known to be there: where a volume is not mounted, nothing is made.
        if let Some(parent) = options.index_file.parent() {
            std::fs::create_dir_all(parent).map_err(cannot_make(parent))?;
        }
        let free_bytes_min = options.write.free_bytes_min;
        let (batches, receiver) = mpsc::channel(options.queued_batches.max(1));
        let (end, ended) = oneshot::channel();
        let index_state = SharedIndexState::default();
        let retainer = Retainer {
            options: options.retention.clone(),
            log: log.clone(),
            dialect: Arc::clone(&options.dialect),
            index_state: index_state.clone(),
            counters: Arc::clone(&self.counters),
            // Only ages are measured by it.
            newest_stored: options.retention.age_max.and_then(|_| newest_received(&log)),
            state: Default::default(),
            carried: self.upkeep.clone(),
        };
        let (maintenance, counters) = (writer.maintenance(), Arc::clone(&self.counters));
        let upkeep = Upkeep::start(maintenance, options.rewriting, free_bytes_min, retainer, counters)
            .map_err(IngestError::Thread)?;
        let committer = Start {
            writer,
            lost_from: recovery.lost.as_ref().map(|lost| lost.start),
            log,
            dialect: Arc::clone(&options.dialect),
            index_file: options.index_file.clone(),
            index: options.index,
            batches: receiver,
            committed: self.publisher.clone(),
            counters: Arc::clone(&self.counters),
            durability: options.write.durability,
            sync_interval: options.sync_interval,
            free_bytes_min,
            index_state,
            runtime: tokio::runtime::Handle::current(),
        };
        let committing = thread::start("committer", move || {
            // Nothing of the committer is used after a panic; the panic itself is on standard error already.
            let result = catch_unwind(AssertUnwindSafe(|| committer.run())).unwrap_or(Err(IngestError::Panicked));
            // The next run opens the log and the index again, which the upkeep would keep locked.
            drop(upkeep);
            // There may be no receiver left for the reason.
            let _ = end.send(result);
        });
        committing.map_err(IngestError::Thread)?;
        Ok(Run { batches, recovery, ended })
    }
}

/// When the newest stored event was received, if it can be read.
#[must_use]
pub fn newest_received(log: &Log) -> Option<Timestamp> {
    received_at(log, log.head().next_sequence.checked_sub(1)?)
}

/// When an event was received, if it can be read.
#[must_use]
pub fn received_at(log: &Log, sequence: Sequence) -> Option<Timestamp> {
    Some(log.read_alone(sequence).ok()?.row()?.received())
}

fn cannot_make(path: &Path) -> impl Fn(io::Error) -> IngestError {
    let path = path.to_owned();
    move |source| IngestError::Directory { path: path.clone(), source }
}

impl Options {
    /// Says of a refused permission what to permit.
    fn explain(&self, error: sidecar_log_format::Error) -> IngestError {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let is_not_permitted = matches!(
            &error,
            sidecar_log_format::Error::Storage { source, .. }
                if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem)
        );
        if !is_not_permitted {
            return error.into();
        }
        IngestError::NotPermitted {
            directory: self.log_directory.clone(),
            user: rustix::process::geteuid().as_raw(),
            source: Box::new(error),
        }
    }
}

/// The identity index, as far as retention has to know of it.
#[derive(Default)]
enum IndexState {
    /// It is being opened, or read in from the log: nothing may be dropped meanwhile.
    #[default]
    Incomplete,
    /// The device has no room to open it. Segments may go, because nothing else makes room; their identities stay in it.
    WaitsForRoom,
    /// It is complete; this takes identities out of it.
    Complete(Forgetter),
}

/// Clones share it.
#[derive(Clone, Default)]
struct SharedIndexState(Arc<Mutex<IndexState>>);

impl SharedIndexState {
    fn lock(&self) -> MutexGuard<'_, IndexState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: IndexState) {
        *self.lock() = state;
    }
}

/// What the committer's thread begins with.
struct Start {
    writer: Writer,
    /// The first of the events that opening the log found gone, if any.
    lost_from: Option<Sequence>,
    log: Log,
    dialect: Arc<dyn Dialect>,
    index_file: PathBuf,
    index: identity::Options,
    batches: mpsc::Receiver<Batch>,
    committed: watch::Sender<Head>,
    counters: Arc<Counters>,
    durability: Durability,
    sync_interval: Duration,
    free_bytes_min: u64,
    index_state: SharedIndexState,
    runtime: tokio::runtime::Handle,
}

impl Start {
    fn run(self) -> Result<(), IngestError> {
        self.begin()?.map_or(Ok(()), Committer::run)
    }

    /// Opens the index and brings it up to the log. `None` when the end came before there was room for that; the log is
    /// closed then.
    fn begin(self) -> Result<Option<Committer>, IngestError> {
        let mut disk = Disk::new(Arc::clone(&self.counters));
        if !self.wait_for_room(&mut disk) {
            committer::report_end_without_room();
            self.writer.close()?;
            return Ok(None);
        }
        // From here on nothing is dropped until the index is complete.
        self.index_state.set(IndexState::Incomplete);
        let head = self.log.head().next_sequence;
        // An index that knows lost events must not keep a node from bringing them again.
        let known_end = self.lost_from.unwrap_or(head);
        let chain_after = |sequence| self.log.chain_after(sequence);
        let rule = self.dialect.identity_rule();
        let log = LogPosition {
            id: self.log.id(),
            rule: &rule,
            head: known_end.checked_sub(1),
            oldest: self.log.oldest(),
            chain_after: &chain_after,
        };
        let opened = IdentityIndex::open(&self.index_file, log, self.index)?;
        let rebuild = opened.rebuild.filter(|_| head > self.log.oldest());
        let is_rebuilt = rebuild.is_some();
        if let Some(rebuild) = rebuild {
            self.counters.index_rebuilds.add(1);
            let file = self.index_file.display();
            match rebuild {
                Rebuild::Missing | Rebuild::OtherFormat | Rebuild::OtherRule => {
                    tracing::info!(%file, reason = %rebuild, "the identity index is made from the log");
                }
                _ => tracing::warn!(%file, reason = %rebuild, "the identity index is rebuilt from the log"),
            }
        }
        let gaps = Gaps::after(&self.log, &*self.dialect);
        gaps.highest().into_iter().for_each(|highest| self.counters.highest_ordinal.set(highest));
        let mut committer = Committer {
            gaps,
            writer: self.writer,
            log: self.log,
            dialect: self.dialect,
            index: opened.index,
            index_file: self.index_file,
            index_options: self.index,
            index_state: self.index_state,
            batches: self.batches,
            committed: self.committed,
            counters: self.counters,
            durability: self.durability,
            sync_interval: self.sync_interval,
            disk,
            runtime: self.runtime,
            begun: Instant::now(),
        };
        committer.catch_up(opened.checkpoint)?;
        // A node has had no chance to fill a hole meanwhile.
        committer.begun = Instant::now();
        if is_rebuilt {
            tracing::info!("the identity index is complete; ingest begins");
        }
        Ok(Some(committer))
    }

    /// The index needs room to be opened and made. History is served meanwhile, and retention may make the room. Returns
    /// whether there is room; otherwise the end came first.
    fn wait_for_room(&self, disk: &mut Disk) -> bool {
        let Some(parent) = self.index_file.parent() else { return true };
        loop {
            // Where this cannot be known, opening the index reports it.
            let free = Directory::at(parent).free_space().unwrap_or(u64::MAX);
            if free >= self.free_bytes_min {
                disk.has_room();
                return true;
            }
            let min = self.free_bytes_min;
            disk.is_full(&format_args!("{free} bytes are free on the device, and {min} are to stay free"));
            self.index_state.set(IndexState::WaitsForRoom);
            if self.batches.is_closed() {
                return false;
            }
            std::thread::sleep(committer::DISK_FULL_PAUSE);
        }
    }
}
