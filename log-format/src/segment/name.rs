//! Which files of a directory are segments, and in which order.

use std::io;

use crate::{
    Error, Result, Sequence,
    error::{Operation, storage_error},
    storage::Storage,
};

const SUFFIX: &str = ".segment";

/// The file name of the segment that begins at `first_sequence`.
pub(crate) fn file_name(first_sequence: Sequence) -> String {
    format!("{first_sequence:020}{SUFFIX}")
}

/// The first sequence in a segment's file name; `None` for any other file.
pub(crate) fn parse_file_name(name: &str) -> Option<Sequence> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// The first sequences of all segment files, in order.
pub(crate) fn list_segments(storage: &dyn Storage) -> Result<Vec<Sequence>> {
    let names = storage.list().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotALog { directory: storage.name() },
        _ => storage_error(Operation::List, "the directory")(error),
    })?;
    let mut sequences: Vec<_> = names.iter().filter_map(|name| parse_file_name(name)).collect();
    sequences.sort_unstable();
    Ok(sequences)
}
