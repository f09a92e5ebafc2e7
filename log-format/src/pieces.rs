//! Reading and writing bytes of a file that may be too long to hold in memory: a piece at a time.

use std::{io, ops::Range, sync::Arc};

use crate::{
    Error, Result,
    error::{Operation, storage_error},
    storage::{File, Storage},
};

/// How much of something long is read at a time.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Opens a file for reading; `None` if there is no file of that name.
pub(crate) fn open_if_there(storage: &dyn Storage, name: &str) -> Result<Option<Arc<dyn File>>> {
    match storage.open(name, false) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(storage_error(Operation::Open, name)(error)),
    }
}

/// Reads `length` bytes, or as many as there are.
pub(crate) fn read_up_to(name: &str, file: &dyn File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, offset).map_err(storage_error(Operation::Read, name))?;
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
    let read = file.read_at(bytes, offset).map_err(storage_error(Operation::Read, name))?;
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

/// Copies a range of a file, durably, to a new file named `to_name`.
pub(crate) fn copy_aside(
    storage: &dyn Storage,
    name: &str,
    file: &dyn File,
    range: Range<u64>,
    to_name: &str,
) -> Result<()> {
    let aside = storage.create(to_name).map_err(storage_error(Operation::Create, to_name))?;
    copy(name, file, range, to_name, aside.as_ref(), 0)?;
    aside.sync().map_err(storage_error(Operation::Sync, to_name))?;
    storage.sync_directory().map_err(storage_error(Operation::Sync, "the directory"))
}

/// Writes a range over itself, because the head does not say that it was synced.
///
/// A sync of it may have failed: then the kernel takes it for written, and the next sync would report success without
/// writing it.
pub(crate) fn write_again(name: &str, file: &dyn File, range: Range<u64>) -> Result<()> {
    let start = range.start;
    copy(name, file, range, name, file, start)
}
