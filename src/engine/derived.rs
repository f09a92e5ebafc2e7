//! Derived files: redb databases beside the log that hold nothing the log does not.
//!
//! Owns how such a file is opened, checked and set aside; the identity index and the views own what is in it. No byte of
//! such a file may cause a wrong answer or an end of the process:
//!
//! * every page goes through a [checked file](checked_file), which makes a wrong byte an error of the read;
//! * a panic of redb is caught in [`Database::run`] and becomes such an error;
//! * the [`Damage`] that was found is remembered, so that what fails afterwards is known to fail because of it.
//!
//! The part that finds damage sets the file aside and rebuilds it from the log. A [`DerivedFile`] is what operators read of.

mod checked_file;

use std::any::Any;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{Builder, DatabaseError, StorageBackend, StorageError};

use checked_file::{CheckedFile, Damage, Rejected};

use super::thread::panic_message;

/// A file that can be rebuilt from the log: what it is called, and where it is. Displays as both.
#[derive(Clone, Debug)]
pub struct DerivedFile {
    name: &'static str,
    /// What to do when redb fails.
    advice: &'static str,
    path: PathBuf,
}

impl fmt::Display for DerivedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.path.display())
    }
}

/// What went wrong with a derived file. The log is not touched by any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DerivedError {
    /// A file or directory cannot be made, looked at or moved.
    #[error("{file}: cannot {action}: {source}; check the directory's permissions and free space")]
    Access {
        /// The file or directory.
        file: DerivedFile,
        /// What was tried.
        action: &'static str,
        /// Why it failed. The message has it, so it is not a `source()`, which would be printed again.
        r#source: io::Error,
    },
    /// redb failed to open, read or write.
    #[error("{file}: {source}; {}", file.advice)]
    Redb {
        /// The file.
        file: DerivedFile,
        /// Why it failed; as above.
        r#source: Box<redb::Error>,
    },
    /// The file is damaged. It answers nothing any more, and is to be rebuilt from the log.
    #[error("{file}: the file is damaged: {how}; it is set aside and rebuilt from the log")]
    Damaged {
        /// The file.
        file: DerivedFile,
        /// How it showed.
        how: String,
    },
}

/// What went wrong with the rows of a database, before it is known whether its file is damaged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error("{0}")]
    Redb(Box<redb::Error>),
    /// A row that was not written so.
    #[error("{0}")]
    Malformed(String),
}

impl<E: Into<redb::Error>> From<E> for RowError {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    file: DerivedFile,
    /// `None` only while dropping.
    redb: Option<redb::Database>,
    damage: Damage,
    has_panicked: AtomicBool,
}

/// Why a file is not opened, though the disk and the permissions are as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// An earlier version wrote it.
    OtherFormat,
    /// It is damaged, or something else; how it shows.
    Damaged(String),
}

/// What opening a database has come to.
pub(crate) type Opened = Result<Result<Database, Unusable>, redb::Error>;

impl DerivedFile {
    /// The file at `path`, by its name in messages. `advice` is what to do when redb fails.
    pub(crate) fn new(name: &'static str, advice: &'static str, path: &Path) -> Self {
        Self { name, advice, path: path.to_owned() }
    }

    /// The same for messages about another file or directory, which belongs to it.
    pub(crate) fn with_path(&self, path: PathBuf) -> Self {
        Self { path, ..*self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The error that `action` failed.
    pub(crate) fn cannot(&self, action: &'static str) -> impl FnOnce(io::Error) -> DerivedError {
        let file = self.clone();
        move |source| DerivedError::Access { file, action, source }
    }

    /// The error that redb failed.
    fn failed(&self, source: redb::Error) -> DerivedError {
        DerivedError::Redb { file: self.clone(), source: Box::new(source) }
    }

    /// Whether there is one.
    pub(crate) fn exists(&self) -> Result<bool, DerivedError> {
        std::fs::exists(&self.path).map_err(self.cannot("look for it"))
    }

    /// Opens the database. `check_integrity`: every page is read and checked first.
    pub(crate) fn open(
        &self,
        cache_bytes: usize,
        check_integrity: bool,
    ) -> Result<Result<Database, Unusable>, DerivedError> {
        let open = || -> Opened {
            let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
            if file.metadata()?.len() == 0 {
                return Ok(Err(Unusable::Damaged("the file is empty".to_owned())));
            }
            self.open_over(FileBackend::new(file)?, cache_bytes, check_integrity)
        };
        open().map_err(|error| self.failed(error))
    }

    /// Makes an empty database where no file is.
    pub(crate) fn create(&self, cache_bytes: usize) -> Result<Database, DerivedError> {
        let create = || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&self.path)?;
            let opened = self.open_over(FileBackend::new(file)?, cache_bytes, false)?;
            opened.map_err(|unusable| redb::Error::Corrupted(format!("a new file is unusable: {unusable:?}")))
        };
        create().map_err(|error| self.failed(error))
    }

    /// Opens the database in `storage`; an empty one is initialized.
    pub(crate) fn open_over(&self, storage: impl StorageBackend, cache_bytes: usize, check_integrity: bool) -> Opened {
        let damage = Damage::default();
        let is_new = storage.len()? == 0;
        let checked = match CheckedFile::open(storage, Damage::clone(&damage)) {
            Ok(checked) if !is_new && checked.len()? == 0 => {
                return Ok(Err(Unusable::Damaged("the file was cut short".to_owned())));
            }
            Ok(checked) => checked,
            Err(Rejected::WithoutChecksums) => return Ok(Err(Unusable::OtherFormat)),
            Err(Rejected::Damaged(how)) => return Ok(Err(Unusable::Damaged(how))),
            Err(Rejected::Io(error)) if is_damage(&error) => return Ok(Err(Unusable::Damaged(error.to_string()))),
            Err(Rejected::Io(error)) => return Err(error.into()),
        };
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(check_integrity);
        // Nothing of what the closure uses is looked at after a panic.
        match catch_unwind(AssertUnwindSafe(|| builder.create_with_backend(checked))) {
            Ok(Ok(redb)) => {
                let (file, has_panicked) = (self.clone(), AtomicBool::new(false));
                Ok(Ok(Database { file, redb: Some(redb), damage, has_panicked }))
            }
            Ok(Err(error)) => match damage.get() {
                Some(how) => Ok(Err(Unusable::Damaged(how.clone()))),
                None if is_unusable(&error) => Ok(Err(Unusable::Damaged(error.to_string()))),
                None => Err(error.into()),
            },
            Err(panic) => Ok(Err(Unusable::Damaged(panicked(panic.as_ref())))),
        }
    }

    /// Clears the file away, if there is one. `is_evidence`: it is kept aside.
    pub(crate) fn clear_away(&self, is_evidence: bool) -> Result<(), DerivedError> {
        let cleared = if is_evidence { self.move_aside() } else { std::fs::remove_file(&self.path) };
        ignore_missing(cleared).map_err(self.cannot("clear it away"))
    }

    /// Moves the file out of the way, if there is one.
    pub(crate) fn set_aside(&self) -> Result<(), DerivedError> {
        ignore_missing(self.move_aside()).map_err(self.cannot("set it aside"))
    }

    fn move_aside(&self) -> io::Result<()> {
        std::fs::rename(&self.path, set_aside_path(&self.path))
    }
}

impl Database {
    /// Does `work` with the database; what goes wrong is an error of its file.
    pub(crate) fn work<T>(&self, work: impl FnOnce(&redb::Database) -> Result<T, RowError>) -> Result<T, DerivedError> {
        self.run(work).map_err(|error| {
            let damage = match &error {
                RowError::Redb(source) => self.damage_behind(source),
                RowError::Malformed(what) => {
                    self.note_damage(what);
                    self.damage()
                }
            };
            match (damage, error) {
                (None, RowError::Redb(source)) => DerivedError::Redb { file: self.file.clone(), source },
                (how, _) => DerivedError::Damaged { file: self.file.clone(), how: how.unwrap_or_default().to_owned() },
            }
        })
    }

    /// The same, with what went wrong as it is. A panic in it is an error, and damage.
    pub(crate) fn run<T, E: From<redb::Error>>(
        &self,
        work: impl FnOnce(&redb::Database) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(redb) = &self.redb else { return Err(redb::Error::DatabaseClosed.into()) };
        // What `work` has changed of its caller's is given up with the database.
        catch_unwind(AssertUnwindSafe(|| work(redb))).unwrap_or_else(|panic| {
            self.has_panicked.store(true, Ordering::Release);
            let what = panicked(panic.as_ref());
            self.note_damage(&what);
            Err(redb::Error::Corrupted(what).into())
        })
    }

    /// An error if damage was found in the file by this or any other use of it.
    pub(crate) fn check(&self) -> Result<(), DerivedError> {
        match self.damage() {
            Some(how) => Err(DerivedError::Damaged { file: self.file.clone(), how: how.to_owned() }),
            None => Ok(()),
        }
    }

    /// What was first found wrong with the file, if anything was.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Remembers what is wrong with the file, unless something is known already.
    pub(crate) fn note_damage(&self, what: &str) {
        let _is_first = self.damage.set(what.to_owned());
    }

    /// What is wrong with the file, should that be why `error` came back.
    fn damage_behind(&self, error: &redb::Error) -> Option<&str> {
        match error {
            redb::Error::Corrupted(what) => self.note_damage(what),
            redb::Error::Io(error) if is_damage(error) => self.note_damage(&error.to_string()),
            redb::Error::LockPoisoned(_) => self.note_damage("redb has panicked before"),
            _ => {}
        }
        self.damage()
    }

    /// Whether redb has panicked. Then what it handed out must not even be dropped: that may panic again.
    pub(crate) fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Acquire)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let redb = self.redb.take();
        if self.has_panicked() {
            // A few megabytes and a file handle, after what must not happen in the first place.
            std::mem::forget(redb);
        }
    }
}

/// Where a file that cannot be used is kept; the next one replaces it.
pub(crate) fn set_aside_path(path: &Path) -> PathBuf {
    path.with_added_extension("aside")
}

/// The result of something done to a file, which may not be there.
pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether the file itself is the trouble, rather than free space, permissions, or another process that has it open.
fn is_unusable(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => is_damage(error),
        _ => false,
    }
}

/// Whether an I/O error is of the bytes that were read: wrong ones, or such as the device does not give back any more.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    format!("redb panicked: {}", panic_message(panic))
}

#[cfg(test)]
mod tests {
    use redb::{ReadableDatabase, TableDefinition};

    use super::*;

    const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");

    fn file(path: &Path) -> DerivedFile {
        DerivedFile::new("rows", "check the disk", path)
    }

    #[test]
    fn a_panic_is_an_error_and_remembered_as_damage() {
        let folder = tempfile::tempdir().unwrap();
        let database = file(&folder.path().join("file")).create(1 << 20).unwrap();
        let result: Result<(), redb::Error> = database.run(|_| panic!("a test"));
        assert!(matches!(result, Err(redb::Error::Corrupted(_))), "{result:?}");
        assert_eq!(database.damage(), Some("redb panicked: a test"));
    }

    fn fill(database: &Database, rows: u64) {
        let write = |database: &redb::Database| -> Result<(), redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            for row in 0..rows {
                transaction.open_table(TABLE)?.insert(row, [row as u8; 500].as_slice())?;
            }
            Ok(transaction.commit()?)
        };
        database.run(write).unwrap();
    }

    fn get(database: &Database, row: u64) -> Result<Option<Vec<u8>>, redb::Error> {
        database.run(|database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            Ok(table.get(row)?.map(|value| value.value().to_vec()))
        })
    }

    #[test]
    fn whatever_bytes_are_wrong_a_row_is_right_or_an_error_and_never_missing() {
        const ROWS: u64 = 300;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let database = file(&path).create(0).unwrap();
        fill(&database, ROWS);
        drop(database);
        let sound = std::fs::read(&path).unwrap();
        let mut found = 0;
        for at in (0..sound.len()).step_by(1511) {
            for zeros in [0, 4096, 64 << 10] {
                let mut bytes = sound.clone();
                bytes[at] ^= 0x10;
                let end = (at + zeros).min(bytes.len());
                bytes[at..end].fill(0);
                std::fs::write(&path, &bytes).unwrap();
                // Debug builds of redb assert what release builds return as errors: neither may get through.
                let Ok(database) = file(&path).open(0, false).unwrap() else {
                    found += 1;
                    continue;
                };
                for row in (0..ROWS + 10).step_by(7) {
                    match get(&database, row) {
                        Ok(value) => assert_eq!(value, (row < ROWS).then(|| vec![row as u8; 500])),
                        Err(error) => {
                            assert!(database.damage_behind(&error).is_some(), "{error}");
                            found += 1;
                        }
                    }
                }
            }
        }
        assert!(found > 100, "{found}");
    }
}
