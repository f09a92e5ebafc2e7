//! Where an import goes: to a log that is not there yet, or in front of one that is.
//!
//! A new log is renamed into its place when it is whole. History is copied in front of a log segment by segment, which can be
//! stopped at any moment and continued.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use sidecar_log_format::{
    Log, MarkCursor, MarkKind, ReadOptions, Sequence,
    history::{self, Beginning},
    storage::{Directory, LOCK_FILE, Lock, Storage},
};

use super::{DIALECT, Progress, reference};
use crate::engine::storage_folder::{LogPlaces, importing_directory, is_log};

/// The place of the log to come, or of the log that history is put in front of.
pub struct Place {
    pub(super) directory: PathBuf,
    pub(super) places: LogPlaces,
    storage: Directory,
    /// Where the log begins, if there is one.
    pub(super) beginning: Option<Beginning>,
    /// Where what is imported is until it is whole.
    pub(super) unfinished: PathBuf,
    /// The log's lock: no other import, and no sidecar, writes in the directory meanwhile.
    lock: Box<dyn Lock>,
}

impl Place {
    /// The log in `directory`, with the places of what belongs to it. Its lock is held for as long as this is there.
    ///
    /// # Errors
    /// When another process has the log, or when the directory cannot be written or holds something else.
    pub fn claim(directory: &Path, places: LogPlaces) -> anyhow::Result<Self> {
        let directory = directory.to_owned();
        let cannot_write = || format!("cannot write {}", directory.display());
        let storage = Directory::create(&directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let lock = storage.lock().with_context(cannot_write)?.with_context(|| {
            format!("another process writes {}; stop the sidecar, or wait for the other import", directory.display())
        })?;
        let beginning = if is_log(&directory).with_context(cannot_write)? {
            Some(history::beginning(&storage)?)
        } else {
            ensure!(
                storage.list().with_context(cannot_write)? == [LOCK_FILE],
                "{} holds something that is not a log; move it away, or import to another storage path",
                directory.display()
            );
            None
        };
        let unfinished = importing_directory(&directory);
        Ok(Place { directory, places, storage, beginning, unfinished, lock })
    }

    /// Whether an import into the log in `directory` has read everything and was stopped before it was all in front of it. What
    /// is left of an import into another log, which was there before, does not count.
    #[must_use]
    pub fn is_unfinished(directory: &Path) -> bool {
        let is_of_this_log = |whole: String| {
            history::beginning(&Directory::at(directory)).is_ok_and(|log| whole == hex::encode(log.log_id))
        };
        is_log(directory).unwrap_or(false)
            && fs::read_to_string(importing_directory(directory).join(WHOLE)).is_ok_and(is_of_this_log)
    }

    /// Whether there is no log in `directory`, or one whose first event ever has sequences before it.
    #[must_use]
    pub fn has_room(directory: &Path) -> bool {
        !is_log(directory).unwrap_or(false)
            || history::beginning(&Directory::at(directory))
                .is_ok_and(|beginning| beginning.is_first_ever && beginning.first_sequence > 0)
    }

    /// Whether there is a log that can have no history any more: it has imported some already, or has dropped its first events,
    /// among which that may have been.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn is_settled(directory: &Path) -> anyhow::Result<bool> {
        if !is_log(directory).unwrap_or(false) {
            return Ok(false);
        }
        let storage = Directory::at(directory);
        Ok(!history::beginning(&storage)?.is_first_ever
            || has_imported(&Log::open(Arc::new(storage), ReadOptions::default())?)?)
    }

    /// The log's directory.
    pub(super) fn storage(&self) -> &Directory {
        &self.storage
    }

    /// Refuses a log that no history can be put in front of. An import that was stopped is resumed before: the log has part
    /// of the history then, and begins where that part does.
    pub(super) fn check_room(&self) -> anyhow::Result<()> {
        let why = match &self.beginning {
            Some(Beginning { dialect, .. }) if dialect != DIALECT => format!("is a log of another kind, {dialect}"),
            Some(Beginning { first_sequence: 0, .. }) => {
                "begins at event 0, and history needs the ids before a log's first".to_owned()
            }
            Some(Beginning { is_first_ever: false, .. }) => {
                "has dropped its first events, whose ids history would get".to_owned()
            }
            _ => return Ok(()),
        };
        bail!("{} {why}; {}", self.directory.display(), self.begin_again())
    }

    /// The way back where history cannot be put in front of the log.
    pub(super) fn begin_again(&self) -> String {
        let [index, views] = self.places.derived_files();
        format!(
            "to have the history all the same, stop the sidecar, move {}, {} and {} away, import, and start it: nodes send \
             again what they still have",
            self.directory.display(),
            index.display(),
            views.display()
        )
    }

    /// The sequence of the first of so many imported events.
    pub(super) fn first_sequence(&self, events: u64) -> anyhow::Result<Sequence> {
        let Some(beginning) = &self.beginning else {
            return Ok(reference::index(self.places.storage_folder()).saturating_sub(events));
        };
        let begins_at = beginning.first_sequence;
        begins_at.checked_sub(events).with_context(|| {
            format!(
                "{events} events do not fit in front of {}, which begins at event {begins_at}; {}",
                self.directory.display(),
                self.begin_again()
            )
        })
    }

    /// Ends what an earlier import has read and checked and was stopped before it was all in its place; `None` when there is
    /// no such.
    pub(super) fn resume(&self, progress: &dyn Progress) -> anyhow::Result<Option<Sequence>> {
        let Some(beginning) = &self.beginning else { return Ok(None) };
        match fs::read_to_string(self.unfinished.join(WHOLE)) {
            Ok(log_id) if log_id == hex::encode(beginning.log_id) => self.put_in_front(progress).map(Some),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.unfinished.display())),
        }
    }

    /// An empty folder for what is imported. What a stopped import left there cannot be continued.
    pub(super) fn begin(&self) -> anyhow::Result<Directory> {
        match fs::remove_dir_all(&self.unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Directory::create(&self.unfinished),
        }
        .with_context(|| format!("cannot make the directory {} again", self.unfinished.display()))
    }

    /// Puts what was imported in its place. Where that is in front of a log, returns where the log begins now.
    pub(super) fn finish(&self, progress: &dyn Progress) -> anyhow::Result<()> {
        if let Some(beginning) = &self.beginning {
            let note = self.unfinished.join(WHOLE);
            fs::write(&note, hex::encode(beginning.log_id))
                .and_then(|()| fs::File::open(&note)?.sync_all())
                .with_context(|| format!("cannot write {}", note.display()))?;
            sync_folder(&self.unfinished)?;
            return self.put_in_front(progress).map(drop);
        }
        let directory = self.unfinished.with_extension("");
        // A directory takes the place of an empty one only, so nothing that comes there now is lost.
        fs::remove_file(directory.join(LOCK_FILE))
            .and_then(|()| fs::rename(&self.unfinished, &directory))
            .with_context(|| format!("cannot rename {} to {}", self.unfinished.display(), directory.display()))?;
        directory.parent().map_or(Ok(()), sync_folder)
    }

    fn put_in_front(&self, progress: &dyn Progress) -> anyhow::Result<Sequence> {
        // They know nothing of the history, and are made again from the whole log.
        for file in self.places.derived_files() {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
            // Before the log has what they lack: a power cut must not bring them back.
            file.parent().filter(|folder| folder.is_dir()).map_or(Ok(()), sync_folder)?;
        }
        let cannot_put =
            || format!("cannot put the history in front of {}; run the same command again", self.directory.display());
        let unfinished = Directory::at(&self.unfinished);
        let in_front = history::put_in_front(&self.storage, self.lock.as_ref(), &unfinished);
        for segment in in_front.with_context(cannot_put)? {
            segment.with_context(cannot_put)?;
            progress.stop_if_asked()?;
        }
        fs::remove_dir_all(&self.unfinished).with_context(|| format!("cannot remove {}", self.unfinished.display()))?;
        Ok(history::beginning(&self.storage)?.first_sequence)
    }
}

/// In the folder of an import that has only to be put in its place: the id of the log that it belongs to.
const WHOLE: &str = "whole";

/// Whether history was imported into a log, as far as it still has the marks that say so.
///
/// # Errors
/// When the log cannot be read.
pub fn has_imported(log: &Log) -> anyhow::Result<bool> {
    let mut imports = MarkCursor::new(log, log.oldest()).of_kinds(MarkKind::IMPORT.bit());
    Ok(imports.next_to(Sequence::MAX)?.is_some())
}

fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    Directory::at(folder).sync_directory().with_context(|| format!("cannot sync {}", folder.display()))
}
