//! Where a log, and the files that are made from it, are in the storage folder.
//!
//! ```text
//! logs/NAME             the log's segments
//! logs/NAME.importing   history that is not whole yet, and that nothing takes for a log
//! index/NAME.redb       the identity index
//! views/NAME.redb       the views
//! ```

use std::fs::DirEntry;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the name of a log's directory ends with until an import into it is whole.
pub const IMPORTING: &str = "importing";

const LOGS: &str = "logs";

/// The places of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlaces {
    storage_folder: PathBuf,
    name: PathBuf,
}

impl LogPlaces {
    /// Those of the log `name`.
    #[must_use]
    pub fn new(storage_folder: &Path, name: &str) -> Self {
        LogPlaces { storage_folder: storage_folder.to_owned(), name: name.into() }
    }

    /// Those of the log in `directory`; `None` for one that is not in the `logs` of a storage folder.
    #[must_use]
    pub fn of(directory: &Path) -> Option<Self> {
        let logs = directory.parent().filter(|logs| logs.ends_with(LOGS))?;
        Some(LogPlaces { storage_folder: logs.parent()?.to_owned(), name: directory.file_name()?.into() })
    }

    /// The storage folder.
    #[must_use]
    pub fn storage_folder(&self) -> &Path {
        &self.storage_folder
    }

    /// The log's own directory.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        logs_directory(&self.storage_folder).join(&self.name)
    }

    /// The file of the identity index.
    #[must_use]
    pub fn index_file(&self) -> PathBuf {
        self.derived_file("index")
    }

    /// The file of the views.
    #[must_use]
    pub fn views_file(&self) -> PathBuf {
        self.derived_file("views")
    }

    /// All files that are made from the log, and made again when they are missing.
    #[must_use]
    pub fn derived_files(&self) -> [PathBuf; 2] {
        [self.index_file(), self.views_file()]
    }

    fn derived_file(&self, folder: &str) -> PathBuf {
        self.storage_folder.join(folder).join(&self.name).with_added_extension("redb")
    }
}

/// The directory that has those of all logs in it.
#[must_use]
pub fn logs_directory(storage_folder: &Path) -> PathBuf {
    storage_folder.join(LOGS)
}

/// Where history is written until it is whole and becomes the log in `directory`, or part of it: beside it, on the same
/// disk.
#[must_use]
pub fn importing_directory(directory: &Path) -> PathBuf {
    let resolved = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    resolved.with_added_extension(IMPORTING)
}

/// Whether a directory holds a log.
///
/// # Errors
/// What the file system answers.
pub fn is_log(directory: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        if is_segment(&entry?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many segments the log in `directory` has, and the bytes that they take on the device.
///
/// # Errors
/// Where the directory cannot be read.
pub fn segments(directory: &Path) -> io::Result<(u64, u64)> {
    let mut together = (0, 0);
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if is_segment(&entry) {
            // Retention may have dropped the file since it was listed.
            let Ok(metadata) = entry.metadata() else { continue };
            together = (together.0 + 1, together.1 + metadata.blocks() * 512);
        }
    }
    Ok(together)
}

fn is_segment(entry: &DirEntry) -> bool {
    Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "segment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_and_what_is_made_from_it_have_one_name_in_four_places() {
        let places = LogPlaces::new(Path::new("/storage"), "casper");
        assert_eq!(places.directory(), Path::new("/storage/logs/casper"));
        assert_eq!(
            places.derived_files(),
            [Path::new("/storage/index/casper.redb"), Path::new("/storage/views/casper.redb")]
        );
        assert_eq!(importing_directory(&places.directory()), Path::new("/storage/logs/casper.importing"));
    }

    #[test]
    fn the_places_of_a_log_are_found_from_its_directory() {
        let places = LogPlaces::new(Path::new("/storage"), "a.b");
        assert_eq!(LogPlaces::of(&places.directory()), Some(places.clone()));
        assert_eq!(places.views_file(), Path::new("/storage/views/a.b.redb"));
        assert_eq!(
            ["/storage/casper", "logs", "/", "/logs/.."].map(|path| LogPlaces::of(Path::new(path))),
            [None, None, None, None]
        );
    }
}
