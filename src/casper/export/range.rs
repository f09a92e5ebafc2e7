//! One range of a log into a SQLite file, for `sidecar-log export`.

use std::ops::Range;

use sidecar_log_format::{Log, Missing, Sequence};

use super::{
    Advance, Checkpoint, Found, Written,
    batch::Batch,
    exporter::{BATCH_EVENTS_MAX, Database, ExportError, log_id},
    sqlite::{Options, SqliteDatabase},
    tables::Tables,
};

/// What became of the events of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Where it began, or resumed: what was left out before is not counted here.
    pub first_sequence: Sequence,
    /// Events written now.
    pub rows: u64,
    /// Events not written because a row with their keys was there.
    pub collisions: u64,
    /// Chosen events not written because the tables have no place for them.
    pub without_table: u64,
}

/// Writes the events of `range` whose kind's bit is in `kinds`. Interrupted and called again with the same range, it
/// continues where it was. `progress` gets the next sequence after each transaction. `missing` gets what of the range names
/// no event any more, before the file is past it: its error ends the export, and the next one reports it again.
///
/// # Errors
/// [`ExportError::OtherRange`] when the file holds an export of this log that began elsewhere, what the file or the log
/// answers, and the error of `missing`.
pub fn export_range<E: From<ExportError>>(
    log: &Log,
    options: &Options,
    range: Range<Sequence>,
    kinds: u64,
    mut progress: impl FnMut(Sequence),
    mut missing: impl FnMut(Range<Sequence>, &Missing) -> Result<(), E>,
) -> Result<Summary, E> {
    let log_id = log_id(log);
    let mut database = SqliteDatabase::new(options.clone());
    let initial = Checkpoint {
        epoch: log.head().epoch,
        first_sequence: range.start,
        next_sequence: range.start,
        filled: Tables::default(),
    };
    let Found { mut checkpoint, .. } = database.open(&log_id, initial)?;
    if checkpoint.first_sequence != range.start || checkpoint.epoch != initial.epoch {
        return Err(ExportError::OtherRange { found: checkpoint.first_sequence, wanted: range.start }.into());
    }
    let mut summary = Summary { first_sequence: checkpoint.next_sequence, ..Summary::default() };
    while checkpoint.next_sequence < range.end {
        progress(checkpoint.next_sequence);
        let batch =
            Batch::read(log, checkpoint.next_sequence..range.end, BATCH_EVENTS_MAX).map_err(ExportError::from)?;
        if batch.end == checkpoint.next_sequence {
            break;
        }
        for (sequences, why) in &batch.missing {
            missing(sequences.clone(), why)?;
        }
        let mut rows = batch.rows();
        rows.retain(|row| kinds & row.content.kind().bit() != 0);
        summary.without_table += (batch.count(kinds) - rows.len()) as u64;
        let to = Checkpoint { next_sequence: batch.end, ..checkpoint };
        let Written { rows, collisions, filled, .. } =
            database.write(&rows, &Advance { log_id: &log_id, from: checkpoint, to })?;
        summary.rows += rows;
        summary.collisions += collisions;
        checkpoint = Checkpoint { filled, ..to };
    }
    progress(checkpoint.next_sequence);
    Ok(summary)
}
