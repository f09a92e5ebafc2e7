//! Putting older events in front of a log that has begun already.
//!
//! The older events are a log of their own at first: of the same id, with its last event right before the other log's first,
//! and with an import mark at its end that names that. Its segments are copied over, the newest first, so that there is no
//! hole in the log at any moment. The chain begins again where the log began before, because nothing that is stored changes.

use crate::{
    CHAIN_START, Error, MarkKind, Result, Sequence,
    error::{Operation, storage_error},
    oldest::OldestFile,
    pieces,
    segment::{Footer, SegmentFile, SegmentHeader, file_name, list_segments},
    storage::{Lock, Storage},
};

/// The key of an import mark's body that names the first event after the history.
pub const IN_FRONT_OF: &str = "in_front_of";

/// Where a log begins, and what history in front of it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The oldest sequence.
    pub first_sequence: Sequence,
    /// The log's id.
    pub log_id: [u8; 16],
    /// The log's dialect.
    pub dialect: String,
    /// Whether that is the first event that the log ever had. Otherwise older ones have used the sequences before it.
    pub is_first_ever: bool,
}

/// Reads where a log begins.
///
/// # Errors
/// [`Error::NotALog`], or what the storage answers.
pub fn beginning(log: &dyn Storage) -> Result<Beginning> {
    let header = oldest_header(log)?;
    Ok(Beginning {
        first_sequence: header.first_sequence,
        log_id: header.log_id,
        dialect: header.dialect,
        is_first_ever: header.chain_before == CHAIN_START,
    })
}

/// Reads the header of the oldest segment.
fn oldest_header(log: &dyn Storage) -> Result<SegmentHeader> {
    let oldest = list_segments(log)?.first().copied();
    let oldest = oldest.ok_or_else(|| Error::NotALog { directory: log.name() })?;
    Ok(SegmentFile::open(log, oldest, false)?.header)
}

/// Copies the segments of `history` in front of `log`, whose lock the caller holds. What an earlier call has copied already
/// is passed over; returns how many segments are new.
///
/// # Errors
/// [`Error::Refused`] when the history is of another log, does not end where the log begins, or lacks the mark that says so,
/// or what the storages answer. What was copied before that is part of the log.
pub fn put_in_front(log: &dyn Storage, _lock: &dyn Lock, history: &dyn Storage) -> Result<usize> {
    let SegmentHeader { mut first_sequence, mut chain_before, log_id, dialect, .. } = oldest_header(log)?;
    let mut oldest = OldestFile::open(log, first_sequence)?;
    // An earlier call may have been cut short before it recorded what it had copied.
    oldest.lower_to(first_sequence)?;
    let mut copied = 0;
    let older = list_segments(history)?.into_iter().rev().skip_while(|&segment| segment >= first_sequence);
    for segment in older.collect::<Vec<_>>() {
        let file = SegmentFile::open(history, segment, false)?;
        let refuse =
            |reason: String| Err(Error::Refused { reason: format!("{} cannot be in front: {reason}", file.name) });
        if file.header.log_id != log_id || file.header.dialect != dialect {
            return refuse("it belongs to another log".to_owned());
        }
        let Some((footer, _)) = Footer::read(&file.name, file.file.as_ref())? else {
            return refuse("it is not sealed".to_owned());
        };
        if footer.end_sequence != first_sequence {
            return refuse(format!("it ends before {}, and the log begins at {first_sequence}", footer.end_sequence));
        }
        // Only the log's own first event begins the chain again; what an earlier call has copied continues the history's.
        if chain_before == CHAIN_START {
            if !ends_history(&file, &footer, first_sequence)? {
                return refuse(format!("no import mark in it names {first_sequence} as the first event after it"));
            }
        } else if footer.chain_after != chain_before {
            return refuse("the log's chain does not continue its own".to_owned());
        }
        copy_segment(&file, log)?;
        // Only now: a log that has to hold what is not there yet has lost it.
        oldest.lower_to(segment)?;
        (first_sequence, chain_before) = (segment, file.header.chain_before);
        copied += 1;
    }
    Ok(copied)
}

/// Whether the segment has the mark by which readers know that the chain begins again at `next`.
fn ends_history(segment: &SegmentFile, footer: &Footer, next: Sequence) -> Result<bool> {
    let marks = segment.all_marks(footer)?;
    Ok(marks.iter().any(|mark| mark.kind == MarkKind::IMPORT && parse_in_front_of(&mark.body) == Some(next)))
}

fn copy_segment(segment: &SegmentFile, to: &dyn Storage) -> Result<()> {
    let name = file_name(segment.header.first_sequence);
    let aside = format!("{name}.new");
    let length = segment.file.len().map_err(storage_error(Operation::Read, &segment.name))?;
    let file = to.create(&aside).map_err(storage_error(Operation::Create, &aside))?;
    pieces::copy(&segment.name, segment.file.as_ref(), 0..length, &aside, file.as_ref(), 0)?;
    file.sync().map_err(storage_error(Operation::Sync, &aside))?;
    to.rename(&aside, &name).map_err(storage_error(Operation::Rename, &aside))?;
    to.sync_directory().map_err(storage_error(Operation::Sync, "the directory"))
}

/// The first event after the history, as the body of an import mark names it.
pub(crate) fn parse_in_front_of(body: &str) -> Option<Sequence> {
    serde_json::from_str::<serde_json::Value>(body).ok()?.get(IN_FRONT_OF)?.as_u64()
}
