//! Reading and writing bytes of a file that may be too long to hold in memory: a piece at a time.

use std::{io, ops::Range, sync::Arc};

use rustix::io::Errno;

use crate::{
    Error, Result,
    error::{Operation, Unreadable, storage_error},
    storage::{File, Storage},
};

/// How much of something long is read at a time.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
/// What the kernel reads at once: around a bad sector, so much cannot be read.
const PAGE_BYTES: usize = 4 << 10;

/// Opens a file for reading; `None` if there is no file of that name.
pub(crate) fn open_if_there(storage: &dyn Storage, name: &str) -> Result<Option<Arc<dyn File>>> {
    match storage.open(name, false) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(storage_error(Operation::Open, name)(error)),
    }
}

/// Opens a file for reading that must be there.
pub(crate) fn open(storage: &dyn Storage, name: &str) -> Result<Arc<dyn File>> {
    let opened = again_if_unreadable(|| storage.open(name, false));
    opened.map_err(|error| unreadable_or(Operation::Open, name, 0, error))
}

/// Makes durable which files there are, and under which names.
pub(crate) fn sync_directory(storage: &dyn Storage) -> Result<()> {
    storage.sync_directory().map_err(storage_error(Operation::Sync, "the directory"))
}

/// Reads until `bytes` is full or the file ends; returns the bytes read. Where the device does not give them back, it is
/// asked again once.
pub(crate) fn read_at(name: &str, file: &dyn File, offset: u64, bytes: &mut [u8]) -> Result<usize> {
    let read = again_if_unreadable(|| file.read_at(bytes, offset));
    read.map_err(|error| unreadable_or(Operation::Read, name, offset, error))
}

/// The same, with zeros for the pages that the device does not give back. For callers that cut nothing because of it.
pub(crate) fn read_readable(name: &str, file: &dyn File, offset: u64, bytes: &mut [u8]) -> Result<usize> {
    match read_at(name, file, offset, bytes) {
        Err(Error::Unreadable { .. }) => {}
        read => return read,
    }
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset + filled as u64;
        let to_page_end = PAGE_BYTES - (at % PAGE_BYTES as u64) as usize;
        let length = to_page_end.min(rest.len());
        let page = rest.get_mut(..length).unwrap_or_default();
        match read_at(name, file, at, page) {
            Err(Error::Unreadable { .. }) => page.fill(0),
            read => {
                let read = read?;
                if read < length {
                    return Ok(filled + read);
                }
            }
        }
        filled += length;
    }
    Ok(filled)
}

fn again_if_unreadable<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match attempt() {
        Err(error) if is_unreadable(&error) => attempt(),
        result => result,
    }
}

/// Whether the answer is that these bytes cannot be read, of all that the device holds.
fn is_unreadable(error: &io::Error) -> bool {
    let answers = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN];
    error.raw_os_error().is_some_and(|code| answers.iter().any(|answer| answer.raw_os_error() == code))
}

fn unreadable_or(operation: Operation, name: &str, offset: u64, error: io::Error) -> Error {
    match is_unreadable(&error) {
        true => Error::Unreadable { file: name.to_owned(), offset, source: error },
        false => storage_error(operation, name)(error),
    }
}

/// Reads `length` bytes, or as many as there are.
pub(crate) fn read_up_to(name: &str, file: &dyn File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let read = read_at(name, file, offset, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Reads `length` bytes. That there are fewer is damage.
pub(crate) fn read_exact(name: &str, file: &dyn File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    read_into(name, file, offset, &mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` from the file. That there are fewer is damage.
pub(crate) fn read_into(name: &str, file: &dyn File, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let read = read_at(name, file, offset, bytes)?;
    if read < bytes.len() {
        let reason = format!("the file ends {} bytes too early", bytes.len() - read);
        return Err(Error::Corrupt { file: name.to_owned(), offset, reason });
    }
    Ok(())
}

/// Reads a range of a file, and hands over each piece with its offset.
pub(crate) fn read_pieces(
    name: &str,
    file: &dyn File,
    range: Range<u64>,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let length_left = |at: u64| range.end.saturating_sub(at).min(PIECE_BYTES as u64) as usize;
    let mut piece = vec![0; length_left(range.start)];
    let mut at = range.start;
    while at < range.end {
        piece.truncate(length_left(at));
        read_into(name, file, at, &mut piece)?;
        each(at, &piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// The CRC-32 of a range of a file.
pub(crate) fn checksum(name: &str, file: &dyn File, range: Range<u64>) -> Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    read_pieces(name, file, range, |_, piece| {
        crc.update(piece);
        Ok(())
    })?;
    Ok(crc.finalize())
}

/// The offset after the last byte from `from` on that is not zero, or `from` if there is none: preallocated room reads as
/// zeros.
pub(crate) fn end_of_written(name: &str, file: &dyn File, from: u64) -> Result<u64> {
    let length = file.len().map_err(storage_error(Operation::Read, name))?;
    let mut end = from;
    read_pieces(name, file, from..length, |at, piece| {
        if let Some(last) = piece.iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        Ok(())
    })?;
    Ok(end)
}

/// Copies a range of a file to offset `to_offset` of another.
pub(crate) fn copy(
    name: &str,
    file: &dyn File,
    range: Range<u64>,
    to_name: &str,
    to: &dyn File,
    to_offset: u64,
) -> Result<()> {
    let start = range.start;
    read_pieces(name, file, range, |at, piece| {
        to.write_at(piece, to_offset + (at - start)).map_err(storage_error(Operation::Write, to_name))
    })
}

/// Copies a range of a file, durably, to a new file named `to_name`. Where what cannot be read is damage, it is zeros in
/// the copy.
pub(crate) fn copy_aside(
    storage: &dyn Storage,
    name: &str,
    file: &dyn File,
    range: Range<u64>,
    to_name: &str,
    unreadable: Unreadable,
) -> Result<()> {
    let aside = storage.create(to_name).map_err(storage_error(Operation::Create, to_name))?;
    match unreadable {
        Unreadable::IsAnError => copy(name, file, range, to_name, aside.as_ref(), 0)?,
        Unreadable::IsDamage => copy_readable(name, file, range, to_name, aside.as_ref())?,
    }
    aside.sync().map_err(storage_error(Operation::Sync, to_name))?;
    sync_directory(storage)
}

/// Copies what can be read of a range to the start of another file, with zeros for the rest.
fn copy_readable(name: &str, file: &dyn File, range: Range<u64>, to_name: &str, to: &dyn File) -> Result<()> {
    let mut at = range.start;
    let mut piece = vec![0; PIECE_BYTES];
    while at < range.end {
        piece.truncate(range.end.saturating_sub(at).min(PIECE_BYTES as u64) as usize);
        if read_readable(name, file, at, &mut piece)? == 0 {
            break;
        }
        to.write_at(&piece, at - range.start).map_err(storage_error(Operation::Write, to_name))?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Writes a range over itself, because the head does not say that it was synced.
///
/// A sync of it may have failed: then the kernel takes it for written, and the next sync would report success without
/// writing it.
pub(crate) fn write_again(name: &str, file: &dyn File, range: Range<u64>) -> Result<()> {
    let start = range.start;
    copy(name, file, range, name, file, start)
}
