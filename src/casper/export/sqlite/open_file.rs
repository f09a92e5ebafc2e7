//! The database file while it is open, and whether it is still the one at its path.
//!
//! People move a database file away to archive it, while it is written. SQLite then continues in a file without that
//! name, and its newest rows are in the write-ahead log, which keeps the old one: the archived file lacks them, and the
//! next file at the path would take them for its own.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

/// Device and inode: what a file is known by, under any name.
pub(crate) type FileId = (u64, u64);

/// What SQLite keeps beside a database while it is open.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// An open database file.
pub(super) struct OpenFile {
    connection: Connection,
    path: PathBuf,
    id: FileId,
    companions: [(PathBuf, Option<FileId>); COMPANIONS.len()],
    /// Whether the write-ahead log may hold what the file does not.
    has_log: bool,
}

impl OpenFile {
    /// The file at `path`, with a connection that has been used already: what is kept beside it is there.
    pub(super) fn new(connection: Connection, path: &Path) -> io::Result<Self> {
        let id = file_id(path)?;
        let companions = COMPANIONS.map(|suffix| {
            let path = beside(path, suffix);
            let id = file_id(&path).ok();
            (path, id)
        });
        Ok(OpenFile { connection, path: path.to_owned(), id, companions, has_log: true })
    }

    /// The connection, to write with.
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.has_log = true;
        &mut self.connection
    }

    /// Whether the path names another file now, or none.
    pub(super) fn is_displaced(&self) -> bool {
        match file_id(&self.path) {
            Ok(id) => id != self.id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Brings the write-ahead log into the file, as far as readers let it, so that a file at rest is whole by itself.
    pub(super) fn empty_log(&mut self) -> rusqlite::Result<()> {
        if self.has_log {
            self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            self.has_log = false;
        }
        Ok(())
    }

    /// Makes a file that is not at its path any more whole by itself.
    ///
    /// # Errors
    /// The reason, while a reader is in the way.
    pub(super) fn complete(&self) -> Result<(), String> {
        let is_busy = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        match is_busy {
            Ok(false) => {}
            Ok(true) => {
                return Err("it was moved or removed, and a program that reads it keeps its newest rows from being \
                            written to it; end that program"
                    .to_owned());
            }
            // There may be no room. The rows come again from the log, so they are missing in the old file only.
            Err(error) => {
                let file = self.path.display();
                tracing::error!(%file, %error, "the newest rows could not be written to the file that was moved");
            }
        }
        Ok(())
    }

    /// Closes the file. If it is not at its path any more, nothing is left there that the next file would take for its own.
    pub(super) fn close(self) {
        let is_displaced = self.is_displaced();
        drop(self.connection);
        for (path, id) in self.companions {
            // They may have been moved with the file, and others may have come.
            if is_displaced && id.is_some() && file_id(&path).ok() == id {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The file at a path now.
pub(crate) fn file_id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
