//! The errors. Each names the file that it is about, and what an operator can do.

use std::{fmt, io};

use crate::{FrameForm, Sequence};

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage below failed.
    #[error("{operation} {file}: {source}")]
    Storage {
        /// What was being done.
        operation: Operation,
        /// The file, relative to the log's directory.
        file: String,
        /// The operating system's answer. The message has it, so it is no `source()` that would be printed again.
        r#source: io::Error,
    },
    /// The directory holds no log.
    #[error(
        "{directory} is not a log: it holds no *.segment file; give the directory that does, such as <storage_path>/logs/casper"
    )]
    NotALog {
        /// The directory that was given.
        directory: String,
    },
    /// Another process writes this log.
    #[error("{directory} is locked: another process is writing this log; stop it first")]
    Locked {
        /// The log's directory.
        directory: String,
    },
    /// There is no log where one must be.
    #[error(
        "{directory} holds no log where one must be, and none is begun in its place; bring it back (is its volume mounted?)"
    )]
    LogMissing {
        /// Where it must be.
        directory: String,
    },
    /// Another log is where the one that is open was.
    #[error("{directory} holds another log than the one that was opened there; put that one back")]
    OtherLog {
        /// The log's directory.
        directory: String,
    },
    /// The directory or a file that is being written is not the one that others find under its name.
    #[error(
        "{file} in {directory} is gone or was replaced while the log was being written; bring back what was deleted, \
         moved or unmounted"
    )]
    NotInPlace {
        /// The log's directory.
        directory: String,
        /// The file, relative to it.
        file: String,
    },
    /// The file was written by a newer release.
    #[error("{file} has format version {found}, this release reads up to {known}; use a newer release")]
    NewerFormat {
        /// The file, relative to the log's directory.
        file: String,
        /// The version in the file.
        found: u16,
        /// The newest version that this release reads.
        known: u16,
    },
    /// The file was written before format 1 was settled.
    #[error(
        "{file} was written by an unreleased build, in a format that no release reads; begin with an empty storage folder: \
         the nodes' buffers fill it again"
    )]
    UnreleasedFormat {
        /// The file, relative to the log's directory.
        file: String,
    },
    /// The file carries flags that a reader must understand and this release does not.
    #[error("{file} at byte {offset} needs features {flags:#x} that this release does not know; use a newer release")]
    UnknownFeature {
        /// The file, relative to the log's directory.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is not understood: must-understand flags; of a block, also header version << 16 or row version << 24.
        flags: u32,
    },
    /// Bytes on disk are not what was written.
    #[error(
        "{file} at byte {offset} is corrupt: {reason}; `sidecar-log verify` shows what is affected, `sidecar-log repair` sets it aside"
    )]
    Corrupt {
        /// The file, relative to the log's directory.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// The device does not give bytes back, also when it is asked again.
    #[error(
        "{file} at byte {offset} cannot be read: {source}; check the device: `sidecar-log verify` shows what is affected, \
         `sidecar-log repair` sets it aside"
    )]
    Unreadable {
        /// The file, relative to the log's directory.
        file: String,
        /// Where the read began.
        offset: u64,
        /// The operating system's answer. The message has it, so it is no `source()` that would be printed again.
        r#source: io::Error,
    },
    /// The log is of another dialect than the one that wants to write it.
    #[error("{directory} holds a log of dialect {found:?}, not {expected:?}; give another storage path")]
    OtherDialect {
        /// The log's directory.
        directory: String,
        /// The dialect in the log.
        found: String,
        /// The dialect that was asked for.
        expected: String,
    },
    /// The log's events look otherwise on the wire than the writer's.
    #[error("{directory} holds a log with {found} frames, not {expected} ones; give another storage path")]
    OtherFrameForm {
        /// The log's directory.
        directory: String,
        /// The form of the log.
        found: FrameForm,
        /// The form that was asked for.
        expected: FrameForm,
    },
    /// An option that the log cannot be written with.
    #[error("option {option}: {reason}")]
    BadOption {
        /// Its name in [`crate::WriteOptions`].
        option: &'static str,
        /// Which limit it breaks.
        reason: String,
    },
    /// An event that the log cannot hold.
    #[error("event refused: {reason}")]
    Refused {
        /// Which limit or rule it breaks.
        reason: String,
    },
    /// A sync or write failed earlier: what the disk holds is unknown until the log is opened again.
    #[error(
        "the log was closed after a failed write or sync; open it again to continue from what the disk really holds"
    )]
    Poisoned,
    /// Sequence numbers are used up.
    #[error("the log has reached the last sequence, {last}")]
    Exhausted {
        /// The last one.
        last: Sequence,
    },
}

impl Error {
    /// Whether bytes on disk are not what was written, cannot be read, or are of a release that this one does not know:
    /// everything else can be read. Trying again is useless, except for [`Error::is_unreadable`].
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.is_bad_bytes()
            || matches!(self, Error::NewerFormat { .. } | Error::UnknownFeature { .. } | Error::UnreleasedFormat { .. })
    }

    /// Whether the device does not give bytes back. It may do so later.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Error::Unreadable { .. })
    }

    /// Whether bytes on disk are not what was written, or cannot be read. What they held may be elsewhere, too.
    pub(crate) fn is_bad_bytes(&self) -> bool {
        matches!(self, Error::Corrupt { .. } | Error::Unreadable { .. })
    }

    /// What is wrong with which bytes; any other error comes back.
    pub(crate) fn bad_bytes(self) -> Result<BadBytes> {
        match self {
            Error::Corrupt { file, offset, reason } => Ok(BadBytes { file, offset, reason }),
            Error::Unreadable { file, offset, source } => {
                Ok(BadBytes { file, offset, reason: format!("the device does not give the bytes back: {source}") })
            }
            error => Err(error),
        }
    }

    /// Whether a device without room is all that is wrong: what was to be written can be written again to the same place.
    /// After a failed sync it is unknown what the disk holds, for any reason.
    #[must_use]
    pub fn is_out_of_room(&self) -> bool {
        let Error::Storage { operation, source, .. } = self else { return false };
        *operation != Operation::Sync
            && matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the file is not there any more, as after retention has dropped it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Storage { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Bytes that are not what was written, or that cannot be read.
pub(crate) struct BadBytes {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) reason: String,
}

/// What bytes that cannot be read are to a caller that can pass over damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Damage like any other: for callers that cut nothing because of it, or that keep what is left.
    IsDamage,
    /// An error: what is cut, or begins again, because of damage must not be so because a device is away.
    IsAnError,
}

impl Unreadable {
    /// Whether this error is damage that the caller passes over.
    pub(crate) fn is_passed_over(self, error: &Error) -> bool {
        match self {
            Unreadable::IsDamage => error.is_bad_bytes(),
            Unreadable::IsAnError => matches!(error, Error::Corrupt { .. }),
        }
    }
}

/// What the log was doing with a file when the storage failed. Displays as a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Compressing bytes for it.
    Compress,
    /// Creating it.
    Create,
    /// Cutting it to its length.
    Cut,
    /// Listing the directory.
    List,
    /// Taking the writer's lock.
    Lock,
    /// Looking at what it is.
    Look,
    /// Looking for it under its name.
    LookFor,
    /// Finding out how much room is left.
    LookForRoom,
    /// Opening it.
    Open,
    /// Reading from it.
    Read,
    /// Removing it.
    Remove,
    /// Renaming it.
    Rename,
    /// Reserving room in it.
    Reserve,
    /// Setting up what is needed for it.
    SetUp,
    /// Making it durable.
    Sync,
    /// Writing to it.
    Write,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Operation::Compress => "compress",
            Operation::Create => "create",
            Operation::Cut => "cut",
            Operation::List => "list",
            Operation::Lock => "lock",
            Operation::Look => "look at",
            Operation::LookFor => "look for",
            Operation::LookForRoom => "look for room in",
            Operation::Open => "open",
            Operation::Read => "read",
            Operation::Remove => "remove",
            Operation::Rename => "rename",
            Operation::Reserve => "reserve room in",
            Operation::SetUp => "set up",
            Operation::Sync => "sync",
            Operation::Write => "write",
        })
    }
}

/// Says of an answer of the storage what was being done with which file.
pub(crate) fn storage_error(operation: Operation, file: &str) -> impl Fn(io::Error) -> Error {
    let file = file.to_owned();
    move |source| Error::Storage { operation, file: file.clone(), source }
}

/// The result of an operation on a log.
pub type Result<T> = std::result::Result<T, Error>;
