//! The seam below the log: files in one flat directory.
//!
//! Everything the log does to a disk goes through [`Storage`] and [`File`], so that a test can put a disk there that
//! loses, tears or refuses. [`Directory`] is the real one.

use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// An open file: positioned reads and writes, no cursor.
pub trait File: Send + Sync {
    /// Reads some bytes at `offset`, at least one unless the file ends there; returns how many (pread).
    ///
    /// # Errors
    /// What the device answers.
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read. A device may give less than it
    /// has: only a read of nothing is the end.
    ///
    /// # Errors
    /// What the device answers.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_some_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the device answers; the bytes may be there in part.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, the length included (fdatasync).
    ///
    /// # Errors
    /// What the device answers; what was written since the last sync may then be lost.
    fn sync(&self) -> io::Result<()>;

    /// Reserves `length` bytes on the device from `offset` on; new bytes read as zeros and count as length.
    ///
    /// # Errors
    /// `StorageFull` when the device has no room.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// What the device answers.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the device answers.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    ///
    /// # Errors
    /// What the device answers.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// What the file keeps for life and a copy of it does not share.
    ///
    /// # Errors
    /// What the device answers.
    fn identity(&self) -> io::Result<FileIdentity>;
}

/// What a file keeps while it is rewritten in place or renamed, and a copy of it does not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// The inode number. A file system may give that of a removed file to the next one.
    pub inode: u64,
    /// The fold of the birth time; 0 where it is unknown.
    pub born: u32,
}

impl FileIdentity {
    /// Whether both are of one file. Where the birth time of either is unknown, the inode number alone decides.
    #[must_use]
    pub fn is_same_file(self, other: Self) -> bool {
        self.inode == other.inode && (self.born == other.born || self.born == 0 || other.born == 0)
    }

    fn of(metadata: &fs::Metadata) -> Self {
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        FileIdentity { inode: metadata.ino(), born: born.map_or(0, fold_birth_time) }
    }
}

/// A birth time in 32 bits, of which none are 0.
fn fold_birth_time(born: Duration) -> u32 {
    let nanoseconds = born.as_nanos() as u64;
    ((nanoseconds >> 32) as u32 ^ nanoseconds as u32).max(1)
}

/// Held while one process writes the log; released on drop.
pub trait Lock: Send + Sync {
    /// Whether the lock still guards the directory that others find under this name. `false` once the directory was removed,
    /// unmounted or replaced, or its lock file was deleted.
    ///
    /// # Errors
    /// What the device answers.
    fn is_held(&self) -> io::Result<bool>;
}

/// A flat directory of files.
pub trait Storage: Send + Sync {
    /// Creates an empty file, replacing one of the same name.
    ///
    /// # Errors
    /// What the device answers.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file; for writing too if asked.
    ///
    /// # Errors
    /// `NotFound`, or what the device answers.
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>>;

    /// What [`File::identity`] says of the file of this name. A real directory opens no descriptor for that: it can be
    /// asked when none is left.
    ///
    /// # Errors
    /// `NotFound`, or what the device answers.
    fn identity(&self, name: &str) -> io::Result<FileIdentity> {
        self.open(name, false)?.identity()
    }

    /// Renames a file, replacing one of the new name.
    ///
    /// # Errors
    /// What the device answers.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the device answers.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// What the device answers.
    fn sync_directory(&self) -> io::Result<()>;

    /// The names of all files, in no order.
    ///
    /// # Errors
    /// What the device answers.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Takes the one writer's lock; `None` when another process holds it.
    ///
    /// # Errors
    /// What the device answers.
    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>>;

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// What the device answers.
    fn free_space(&self) -> io::Result<u64>;

    /// What people call this directory.
    fn name(&self) -> String;
}

/// A storage on top of another one, which changes how some files are opened, created, renamed or used. All else is done by the one
/// below: every layer is a [`Storage`].
pub trait Layer: Send + Sync {
    /// The storage below.
    fn below(&self) -> &dyn Storage;

    /// As [`Storage::create`].
    ///
    /// # Errors
    /// What the storage below answers.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.below().create(name)
    }

    /// As [`Storage::open`].
    ///
    /// # Errors
    /// What the storage below answers.
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        self.below().open(name, write)
    }

    /// As [`Storage::rename`].
    ///
    /// # Errors
    /// What the storage below answers.
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.below().rename(from, to)
    }
}

impl<L: Layer> Storage for L {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Layer::create(self, name)
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        Layer::open(self, name, write)
    }

    fn identity(&self, name: &str) -> io::Result<FileIdentity> {
        self.below().identity(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Layer::rename(self, from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.below().remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.below().sync_directory()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.below().list()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        self.below().lock()
    }

    fn free_space(&self) -> io::Result<u64> {
        self.below().free_space()
    }

    fn name(&self) -> String {
        self.below().name()
    }
}

/// A file of a [`Layer`]: what it does not change is done by the file below. Every one is a [`File`].
pub trait FileLayer: Send + Sync {
    /// The file below.
    fn below(&self) -> &dyn File;

    /// As [`File::read_some_at`].
    ///
    /// # Errors
    /// What the file below answers.
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.below().read_some_at(buffer, offset)
    }

    /// As [`File::write_at`].
    ///
    /// # Errors
    /// What the file below answers.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.below().write_at(bytes, offset)
    }

    /// As [`File::sync`].
    ///
    /// # Errors
    /// What the file below answers.
    fn sync(&self) -> io::Result<()> {
        self.below().sync()
    }
}

impl<L: FileLayer> File for L {
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileLayer::read_some_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileLayer::write_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        FileLayer::sync(self)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.below().allocate(offset, length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.below().set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.below().len()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.below().identity()
    }
}

/// A real directory.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// The name of the file that the one writer of a [`Directory`] holds a lock on.
pub const LOCK_FILE: &str = "lock";
/// What that file says to a person who wonders whether it may be deleted.
const LOCK_TEXT: &[u8] =
    b"The process that writes this log holds a lock on this file. Leave it here, also when it looks old.\n";

impl Directory {
    /// An existing directory; nothing is touched.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Directory { path: path.into() }
    }

    /// The directory, durably made with its parents if missing: without its directory, an acknowledged event is gone.
    ///
    /// # Errors
    /// What the operating system answers.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = Self::at(path);
        make_directories(&directory.path, &mut |parent| match fs::File::open(parent) {
            // A parent may be writable and not readable; then only the file system can sync it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            parent => parent?.sync_all(),
        })?;
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a directory and its parents, as far as they are missing, and syncs the parent of each that it makes.
fn make_directories(path: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent != path {
        make_directories(parent, sync)?;
    }
    match fs::create_dir(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result?,
    }
    sync(parent)
}

impl Storage for Directory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path.join(name))?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(write).open(self.path.join(name))?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn identity(&self, name: &str) -> io::Result<FileIdentity> {
        Ok(FileIdentity::of(&fs::metadata(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        let path = self.path.join(LOCK_FILE);
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        // Locked too, because it cannot be deleted by mistake. Some file systems cannot lock a directory.
        let directory = fs::File::open(&self.path)?;
        if !try_lock(&file)? {
            return Ok(None);
        }
        let lock = DirectoryLock { path, file, directory };
        if matches!(try_lock(&lock.directory), Ok(false)) {
            return Ok(None);
        }
        if lock.file.metadata()?.len() != LOCK_TEXT.len() as u64 {
            // Only a note: the lock is as good without.
            let _ = lock.file.write_all_at(LOCK_TEXT, 0);
        }
        Ok(Some(Box::new(lock)))
    }

    fn free_space(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Takes an exclusive lock; `false` when another process holds it.
fn try_lock(file: &fs::File) -> io::Result<bool> {
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The kernel drops the locks with the last copy of the descriptors, also when the process is killed.
struct DirectoryLock {
    path: PathBuf,
    file: fs::File,
    directory: fs::File,
}

impl Drop for DirectoryLock {
    /// Closing is not enough: a child that this process is just starting has copies of the descriptors until it executes its program.
    fn drop(&mut self) {
        for file in [&self.file, &self.directory] {
            let _ = rustix::fs::flock(file, rustix::fs::FlockOperation::Unlock);
        }
    }
}

impl Lock for DirectoryLock {
    fn is_held(&self) -> io::Result<bool> {
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match fs::metadata(&self.path) {
            Ok(found) => Ok(place(found) == place(self.file.metadata()?)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

struct DiskFile {
    file: fs::File,
}

impl File for DiskFile {
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), offset, length) {
            // Some filesystems cannot reserve; the length alone then still keeps later syncs cheap.
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(offset + length),
            result => Ok(result?),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity::of(&self.file.metadata()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_that_is_made_is_synced_in_its_parent_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        let mut synced = Vec::new();
        let mut make = |path: &Path| {
            make_directories(path, &mut |parent| {
                let made: Vec<_> = fs::read_dir(parent)?.map(|entry| entry.unwrap().file_name()).collect();
                synced.push((parent.to_owned(), made));
                Ok(())
            })
        };
        make(&storage.join("logs/casper")).unwrap();
        make(&storage.join("logs/casper")).unwrap();
        fs::write(storage.join("file"), "").unwrap();
        assert!(make(&storage.join("file/casper")).is_err());
        let expected = [
            (folder.path().to_owned(), vec!["storage".into()]),
            (storage.clone(), vec!["logs".into()]),
            (storage.join("logs"), vec!["casper".into()]),
        ];
        assert_eq!(synced, expected);
    }

    #[test]
    fn a_lock_ends_with_its_holder_though_a_child_still_has_copies_of_its_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Directory::create(folder.path()).unwrap();
        let open = |path: &Path| fs::File::open(path).unwrap();
        drop(storage.lock().unwrap().unwrap());
        let path = folder.path().join(LOCK_FILE);
        let lock = DirectoryLock { file: open(&path), directory: open(folder.path()), path };
        assert!(try_lock(&lock.file).unwrap() && try_lock(&lock.directory).unwrap());
        let copies = [&lock.file, &lock.directory].map(|file| file.try_clone().unwrap());
        assert!(storage.lock().unwrap().is_none());
        drop(lock);
        assert!(storage.lock().unwrap().is_some());
        drop(copies);
    }
}
