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

/// Puts `history` in front of `log`, whose lock the caller holds. What an earlier call has copied already is passed over.
///
/// # Errors
/// What the storages answer.
pub fn put_in_front<'a>(log: &'a dyn Storage, _lock: &'a dyn Lock, history: &'a dyn Storage) -> Result<InFront<'a>> {
    let header = oldest_header(log)?;
    let mut oldest = OldestFile::open(log, header.first_sequence)?;
    // An earlier call may have been cut short before it recorded what it had copied.
    oldest.lower_to(header.first_sequence)?;
    let mut older = list_segments(history)?;
    older.retain(|&segment| segment < header.first_sequence);
    Ok(InFront { log, history, older, header, oldest })
}

/// Copies a segment of the history each time that it is asked for one, and returns the first sequence of the log then. A
/// caller may stop in between: the next call of [`put_in_front`] continues there.
///
/// An error is [`Error::Refused`] when the history is of another log, does not end where the log begins, or lacks the mark that
/// says so, or else what the storages answer. It ends the copying. What was copied before is part of the log.
#[must_use = "nothing is copied before a segment is asked for"]
pub struct InFront<'a> {
    log: &'a dyn Storage,
    history: &'a dyn Storage,
    /// The segments to copy. The last one is the next.
    older: Vec<Sequence>,
    /// Of the segment that the log begins with.
    header: SegmentHeader,
    oldest: OldestFile,
}

impl Iterator for InFront<'_> {
    type Item = Result<Sequence>;

    fn next(&mut self) -> Option<Self::Item> {
        let segment = self.older.pop()?;
        let copied = self.copy(segment);
        if copied.is_err() {
            self.older.clear();
        }
        Some(copied.map(|()| segment))
    }
}

impl InFront<'_> {
    fn copy(&mut self, segment: Sequence) -> Result<()> {
        let SegmentHeader { first_sequence, chain_before, log_id, dialect, .. } = &self.header;
        let file = SegmentFile::open(self.history, segment, false)?;
        let refuse =
            |reason: String| Err(Error::Refused { reason: format!("{} cannot be in front: {reason}", file.name) });
        if file.header.log_id != *log_id || file.header.dialect != *dialect {
            return refuse("it belongs to another log".to_owned());
        }
        let Some((footer, _)) = Footer::read(&file.name, file.file.as_ref())? else {
            return refuse("it is not sealed".to_owned());
        };
        if footer.end_sequence != *first_sequence {
            return refuse(format!("it ends before {}, and the log begins at {first_sequence}", footer.end_sequence));
        }
        // Only the log's own first event begins the chain again; what an earlier call has copied continues the history's.
        if *chain_before == CHAIN_START {
            if !ends_history(&file, &footer, *first_sequence)? {
                return refuse(format!("no import mark in it names {first_sequence} as the first event after it"));
            }
        } else if footer.chain_after != *chain_before {
            return refuse("the log's chain does not continue its own".to_owned());
        }
        copy_segment(&file, self.log)?;
        // Only now: a log that has to hold what is not there yet has lost it.
        self.oldest.lower_to(segment)?;
        self.header = file.header;
        Ok(())
    }
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
    pieces::sync_directory(to)
}

/// The first event after the history, as the body of an import mark names it.
pub(crate) fn parse_in_front_of(body: &str) -> Option<Sequence> {
    serde_json::from_str::<serde_json::Value>(body).ok()?.get(IN_FRONT_OF)?.as_u64()
}
