//! Opening a log for writing: recovery, then a writer that continues where it ended.

use std::sync::Arc;

use super::{
    Opened, Pending, Writer,
    options::WriteOptions,
    recovery::{self, Found, Known},
};
use crate::{
    Log, Result,
    block::Encoder,
    error::{Operation, storage_error},
    head::HeadFile,
    lock::lock,
    log::{Active, Reading},
    oldest::OldestFile,
    storage::{Lock, Storage},
};

impl Writer {
    /// Opens a log for writing, making it if the directory holds none, and recovers what a crash left behind.
    ///
    /// # Errors
    /// [`crate::Error::Locked`] when another process writes it, [`crate::Error::LogMissing`] when there is none and none may be made,
    /// [`crate::Error::OtherDialect`], [`crate::Error::NewerFormat`], or what the storage answers.
    pub fn open(storage: Arc<dyn Storage>, options: WriteOptions) -> Result<Opened> {
        options.check()?;
        if !options.create_if_missing {
            // Before the lock, which makes a file.
            recovery::check_log_is_there(storage.as_ref(), None)?;
        }
        let lock = lock(storage.as_ref())?;
        let found = recovery::recover(storage.as_ref(), &options, None)?;
        let log = Log::assemble(Arc::clone(&storage), options.read, found.newest_header(), Reading::ThisProcess);
        Writer::begin(log, lock, options, found)
    }

    /// Opens again, for writing, a log whose writer has failed or was dropped: recovers it from disk as [`Writer::open`]
    /// does, and has all readers of `log` see the result. They can read at any time meanwhile.
    ///
    /// A log is never begun, and no sequence that a reader has seen is given out again: where the disk lacks one, the log
    /// carries a mark. After an error this can be tried again.
    ///
    /// # Errors
    /// [`crate::Error::LogMissing`] and [`crate::Error::OtherLog`] when the log is not where it was; nothing is touched then. Else as
    /// [`Writer::open`].
    pub fn reopen(log: &Log, options: WriteOptions) -> Result<Opened> {
        options.check()?;
        let storage = log.shared.storage.as_ref();
        let known = Known::of(log);
        // Before the lock, which makes a file.
        recovery::check_log_is_there(storage, Some(&known))?;
        let lock = lock(storage)?;
        let found = recovery::recover(storage, &options, Some(&known))?;
        Writer::begin(log.clone(), lock, options, found)
    }

    /// Continues where recovery ended, and has the readers of `log` see what it found.
    fn begin(log: Log, lock: Arc<dyn Lock>, options: WriteOptions, found: Found) -> Result<Opened> {
        let encoder = Encoder::new(options.compression_level).map_err(storage_error(Operation::SetUp, "zstd"))?;
        let header = found.newest_header();
        let log_id = header.log_id;
        let active = found.active.as_ref().map(|active| Active::new(Arc::clone(&active.file), &active.footer));
        let oldest = found.sealed.first().copied();
        let oldest =
            oldest.unwrap_or_else(|| active.as_ref().map_or(found.position.next_sequence, Active::first_sequence));
        log.shared.replace_segments(header, found.sealed, active);
        let storage = Arc::clone(&log.shared.storage);
        let head_file = HeadFile::open(storage.as_ref(), found.head_counter)?;
        if let Some(active) = &found.active {
            // Synced with the head slots below. Nothing that becomes durable in between needs the copy.
            head_file.copy_segment_header(&active.file.header.encode())?;
        }
        let mut writer = Writer {
            shared: Arc::clone(&log.shared),
            form: options.form(),
            options,
            encoder,
            active: found.active,
            head_file,
            log_id,
            epoch: found.epoch,
            open_block: None,
            open_marks: None,
            marks_ahead: Pending::default(),
            pending: Pending::default(),
            unpublished: Vec::new(),
            // What a killed process left may be in the page cache only.
            is_dirty: true,
            position: found.position,
            written: found.position,
            poisoned: false,
            lock,
        };
        if found.recovery.created && found.head_counter == 0 {
            // A file of that name that a log before this one left says nothing about it.
            OldestFile::make(storage.as_ref(), oldest)?;
        }
        log.shared.retained.keep(storage.as_ref(), oldest)?;
        // A head, or a footer, must not say more than the disk holds.
        writer.sync_active()?;
        if found.seal_active {
            writer.seal()?;
        }
        for mark in found.marks {
            writer.mark(&mark)?;
        }
        if writer.active.is_none() {
            writer.begin_segment(writer.options.now)?;
        }
        writer.write_pending()?;
        writer.sync()?;
        // Over the other slot too: none may be left that says that the log was closed in order.
        writer.publish()?;
        writer.head_file.sync()?;
        // Only now: readers may have met what a mark explains since then, and what was lost before may be back.
        log.shared.losses.clear();
        Ok(Opened { writer, log, recovery: found.recovery })
    }
}
