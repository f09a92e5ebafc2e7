//! A Parquet file that can be written in several goes.
//!
//! A Parquet file has its index at its end, so one that was interrupted is unusable. Therefore rows go into parts,
//! each a whole file of one row group named by its first and next sequence; in the end their row groups are put together
//! into one file, as they are.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use parquet::{
    basic::{Compression, ZstdLevel},
    column::writer::ColumnCloseResult,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::{parser::parse_message_type, types::TypePtr},
};
use sidecar::casper::keys::{Keys, Stage, TransactionType, keys};
use sidecar_log_format::{Kind, Row, Sequence, inspect::kind_name};

use crate::unfinished::sync_folder;

const SCHEMA: &str = "message event {
    REQUIRED INT64 sequence (INTEGER(64,false));
    REQUIRED INT64 received_at (TIMESTAMP(MICROS,true));
    REQUIRED BYTE_ARRAY kind (STRING);
    REQUIRED BYTE_ARRAY source (STRING);
    REQUIRED BYTE_ARRAY api_version (STRING);
    OPTIONAL BYTE_ARRAY keys (JSON);
    REQUIRED BYTE_ARRAY payload (STRING);
}";

/// A part is closed at this many events or bytes of payload, so that what is held in memory stays bounded.
const PART_EVENTS_MAX: usize = 100_000;
const PART_BYTES_MAX: usize = 64 << 20;

/// The parts of a file that is not finished.
pub(crate) struct ParquetParts {
    folder: PathBuf,
    names: Vec<(u8, String)>,
    schema: TypePtr,
    next_sequence: Sequence,
    rows: Rows,
}

/// Rows that are in no part yet, column by column.
#[derive(Default)]
struct Rows {
    sequence: Vec<i64>,
    received_at: Vec<i64>,
    kind: Vec<ByteArray>,
    source: Vec<ByteArray>,
    api_version: Vec<ByteArray>,
    /// Only those that there are; the levels say where.
    keys: Vec<ByteArray>,
    keys_levels: Vec<i16>,
    payload: Vec<ByteArray>,
    payload_bytes: usize,
}

impl ParquetParts {
    /// Begins at `first_sequence`, or continues after the parts that are in the folder.
    pub(crate) fn open(folder: &Path, names: Vec<(u8, String)>, first_sequence: Sequence) -> anyhow::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let mut parts = ParquetParts {
            folder: folder.to_owned(),
            names,
            schema,
            next_sequence: first_sequence,
            rows: Rows::default(),
        };
        let mut follows = true;
        for (first, next, part) in parts.list()? {
            follows &= first == parts.next_sequence;
            match follows {
                true => parts.next_sequence = next,
                // The one before it is gone: what comes after a hole is made again.
                false => fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?,
            }
        }
        sync_folder(&parts.folder)?;
        Ok(parts)
    }

    /// The first sequence that is in no part.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.next_sequence
    }

    /// The finished parts: first sequence, the one after the last event, and file.
    fn list(&self) -> anyhow::Result<Vec<(Sequence, Sequence, PathBuf)>> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".parquet"));
            let bounds = name.and_then(|name| name.split_once('-'));
            if let Some((Ok(first), Ok(next))) = bounds.map(|(first, next)| (first.parse(), next.parse())) {
                parts.push((first, next, path));
            }
        }
        parts.sort();
        Ok(parts)
    }

    /// Adds an event.
    pub(crate) fn push(&mut self, row: &Row<'_>, payload: &[u8]) -> anyhow::Result<()> {
        let rows = &mut self.rows;
        rows.sequence.push(row.sequence().cast_signed());
        rows.received_at.push(row.received().cast_signed());
        rows.kind.push(kind_name(row.kind(), &self.names).as_bytes().to_vec().into());
        rows.source.push(row.source().as_bytes().to_vec().into());
        rows.api_version.push(row.api_version().to_string().into_bytes().into());
        match std::str::from_utf8(payload).ok().and_then(|payload| keys_json(row.kind(), payload)) {
            Some(keys) => {
                rows.keys.push(keys.into_bytes().into());
                rows.keys_levels.push(1);
            }
            None => rows.keys_levels.push(0),
        }
        rows.payload.push(payload.to_vec().into());
        rows.payload_bytes += payload.len();
        if rows.sequence.len() >= PART_EVENTS_MAX || rows.payload_bytes >= PART_BYTES_MAX {
            self.write_part(row.sequence() + 1)?;
        }
        Ok(())
    }

    fn write_part(&mut self, next_sequence: Sequence) -> anyhow::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let name = format!("{:020}-{next_sequence:020}.parquet", self.next_sequence);
        let unfinished = self.folder.join("unfinished");
        let cannot_write = || format!("cannot write {}", unfinished.display());
        let mut writer = self.writer(&unfinished)?;
        let mut group = writer.next_row_group()?;
        rows.write(&mut group).with_context(cannot_write)?;
        group.close()?;
        writer.into_inner().with_context(cannot_write)?.sync_all().with_context(cannot_write)?;
        fs::rename(&unfinished, self.folder.join(name)).with_context(cannot_write)?;
        // Before the next part has its name: none may be there without those before it.
        sync_folder(&self.folder)?;
        self.next_sequence = next_sequence;
        Ok(())
    }

    fn writer(&self, path: &Path) -> anyhow::Result<SerializedFileWriter<File>> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        Ok(SerializedFileWriter::new(file, Arc::clone(&self.schema), properties)?)
    }

    /// Puts the parts together into one file; where that is, and how many events it holds.
    pub(crate) fn finish(mut self) -> anyhow::Result<(PathBuf, u64)> {
        if let Some(last) = self.rows.sequence.last() {
            self.write_part(last.cast_unsigned() + 1)?;
        }
        let whole = self.folder.join("whole");
        let mut writer = self.writer(&whole)?;
        let mut events = 0;
        for (_, _, part) in self.list()? {
            events +=
                append_groups(&mut writer, &part).with_context(|| format!("cannot take in {}", part.display()))?;
        }
        writer.into_inner()?.sync_all().with_context(|| format!("cannot write {}", whole.display()))?;
        Ok((whole, events))
    }
}

/// Adds the row groups of a file without decoding them; how many rows they have.
fn append_groups(writer: &mut SerializedFileWriter<File>, part: &Path) -> anyhow::Result<u64> {
    let file = File::open(part)?;
    let reader = SerializedFileReader::new(file.try_clone()?)?;
    let mut rows = 0;
    for group in reader.metadata().row_groups() {
        let mut out = writer.next_row_group()?;
        for column in group.columns() {
            let close = ColumnCloseResult {
                bytes_written: column.compressed_size().cast_unsigned(),
                rows_written: group.num_rows().cast_unsigned(),
                metadata: column.clone(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            out.append_column(&file, close)?;
        }
        out.close()?;
        rows += group.num_rows().cast_unsigned();
    }
    Ok(rows)
}

impl Rows {
    fn write(&self, group: &mut SerializedRowGroupWriter<'_, File>) -> parquet::errors::Result<()> {
        write_column::<Int64Type>(group, &self.sequence, None)?;
        write_column::<Int64Type>(group, &self.received_at, None)?;
        write_column::<ByteArrayType>(group, &self.kind, None)?;
        write_column::<ByteArrayType>(group, &self.source, None)?;
        write_column::<ByteArrayType>(group, &self.api_version, None)?;
        write_column::<ByteArrayType>(group, &self.keys, Some(&self.keys_levels))?;
        write_column::<ByteArrayType>(group, &self.payload, None)
    }
}

fn write_column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> parquet::errors::Result<()> {
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(values, levels, None)?;
        column.close()?;
    }
    Ok(())
}

/// The natural key of an event as a JSON object.
fn keys_json(kind: Kind, payload: &str) -> Option<String> {
    let keys = match keys(kind, payload)? {
        Keys::Block { hash, height } => serde_json::json!({"block_hash": hash, "height": height}),
        Keys::Transaction { stage, transaction_type, hash, initiator } => {
            let stage = match stage {
                Stage::Accepted => "accepted",
                Stage::Processed => "processed",
                Stage::Expired => "expired",
            };
            let transaction_type = match transaction_type {
                TransactionType::Deploy => "Deploy",
                TransactionType::Version1 => "Version1",
            };
            serde_json::json!({
                "transaction_hash": hash, "transaction_type": transaction_type, "stage": stage, "initiator": initiator,
            })
        }
        Keys::Fault { era, public_key } => serde_json::json!({"era_id": era, "public_key": public_key}),
        Keys::Signature { block_hash, public_key } => {
            serde_json::json!({"block_hash": block_hash, "public_key": public_key})
        }
        Keys::Step { era } => serde_json::json!({"era_id": era}),
    };
    Some(keys.to_string())
}

#[cfg(test)]
mod tests {
    use parquet::record::RowAccessor;
    use sidecar_log_format::{ApiVersion, Event, Opened, Read, WriteOptions, Writer, storage::Directory};

    use super::*;

    #[test]
    fn parts_of_an_interrupted_export_are_kept_and_what_is_in_none_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(Directory::create(folder.path().join("log")).unwrap());
        let Opened { mut writer, log, .. } = Writer::open(storage, WriteOptions::new("casper", [1; 16], 1)).unwrap();
        for number in 0..10 {
            let event = Event {
                kind: Kind::OTHER,
                name: "",
                source: "node",
                network: "casper-test",
                api_version: ApiVersion::NONE,
                upstream_id: None,
                received: number,
                payload: &format!("{{\"New\":{number}}}"),
            };
            writer.append(&event).unwrap();
        }
        writer.commit().unwrap();
        let Read::Events { block, .. } = log.read(0).unwrap() else { panic!("the log has events") };
        let push = |parts: &mut ParquetParts, from: usize, to: usize| {
            for row in block.rows().skip(from).take(to - from) {
                parts.push(&row, &row.payload()).unwrap();
            }
        };

        let mut interrupted = ParquetParts::open(folder.path(), Vec::new(), 0).unwrap();
        push(&mut interrupted, 0, 4);
        interrupted.write_part(4).unwrap();
        push(&mut interrupted, 4, 6);
        drop(interrupted);
        let mut resumed = ParquetParts::open(folder.path(), Vec::new(), 0).unwrap();
        assert_eq!(resumed.next_sequence(), 4);
        push(&mut resumed, 4, 10);
        let (whole, events) = resumed.finish().unwrap();
        assert_eq!(events, 10);

        let reader = SerializedFileReader::new(File::open(whole).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 2);
        let sequences: Vec<_> =
            reader.get_row_iter(None).unwrap().map(|row| row.unwrap().get_ulong(0).unwrap()).collect();
        assert_eq!(sequences, (0..10).collect::<Vec<_>>());

        // Without its second part, an export continues after the first.
        let folder = tempfile::tempdir().unwrap();
        let mut interrupted = ParquetParts::open(folder.path(), Vec::new(), 0).unwrap();
        for (from, to) in [(0, 3), (3, 5), (5, 8), (8, 9)] {
            push(&mut interrupted, from, to);
            interrupted.write_part(to as u64).unwrap();
        }
        let parts = interrupted.list().unwrap();
        std::fs::remove_file(&parts[1].2).unwrap();
        let mut resumed = ParquetParts::open(folder.path(), Vec::new(), 0).unwrap();
        assert_eq!(resumed.next_sequence(), 3);
        assert_eq!(resumed.list().unwrap(), parts[..1]);
        push(&mut resumed, 3, 10);
        assert_eq!(resumed.finish().unwrap().1, 10);
        // And without its first part, from the beginning.
        std::fs::remove_file(&parts[0].2).unwrap();
        assert_eq!(ParquetParts::open(folder.path(), Vec::new(), 0).unwrap().next_sequence(), 0);
    }
}
