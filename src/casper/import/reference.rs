//! What the Casper Sidecar, the reference, leaves in its storage folder: the file `sse_index`, and its SQLite database.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use sidecar_log_format::Sequence;

use super::database::{check_tables, is_of_the_reference, sqlite_tables};

/// What a SQLite file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Files that are looked at; a storage folder has a few.
const FILES_MAX: usize = 256;

/// The next id that the reference would have given out in this folder: four bytes, little-endian, in `sse_index`. 0
/// when there is none. A new log starts there, so that no id is reused.
#[must_use]
pub fn index(folder: &Path) -> Sequence {
    let bytes = fs::read(folder.join("sse_index")).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, |bytes| Sequence::from(u32::from_le_bytes(bytes)))
}

/// A database of the reference.
#[derive(Debug)]
pub struct LeftDatabase {
    /// Its file.
    pub file: PathBuf,
    /// What can be imported from it, or why nothing can.
    pub history: anyhow::Result<History>,
}

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// How many rows `event_log` has: nothing is ever deleted from it.
    pub rows: u64,
    /// When the first of them was written, in microseconds since 1970.
    pub begun: u64,
}

/// The first database in the folder that is the reference's and has rows: the configured file, or else any other. Call this
/// before SQLite has one of these files open: when a file is closed, the system takes away the locks that this process has on
/// it.
#[must_use]
pub fn find_database(folder: &Path, configured: Option<&Path>) -> Option<LeftDatabase> {
    let entries = fs::read_dir(folder).ok()?.take(FILES_MAX).filter_map(|entry| Some(entry.ok()?.path()));
    let mut others: Vec<PathBuf> = entries.filter(|path| configured != Some(path)).collect();
    others.sort();
    let files = configured.map(Path::to_owned).into_iter().chain(others);
    files.filter(|file| is_database(file)).find_map(|file| {
        let history = look_into(&file).transpose()?;
        Some(LeftDatabase { file, history })
    })
}

fn is_database(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    // Not a pipe, which would be waited for.
    path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *MAGIC
}

/// What a database has; `None` if it is not the reference's, or has no rows.
fn look_into(file: &Path) -> anyhow::Result<Option<History>> {
    let place = format!("sqlite:{}", file.display());
    let cannot_read = || format!("cannot read {place}");
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).with_context(cannot_read)?;
    let present = match sqlite_tables(&connection) {
        // It only begins like one.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => return Ok(None),
        present => present.with_context(cannot_read)?,
    };
    if !is_of_the_reference(&present) {
        return Ok(None);
    }
    check_tables(&place, &present)?;
    let is_success = r#"SELECT "is_success" FROM "Migration" ORDER BY "version" DESC LIMIT 1"#;
    if present.iter().any(|table| table == "Migration") {
        let is_success = connection.query_row(is_success, [], |row| row.get(0)).optional().with_context(cannot_read)?;
        ensure!(
            is_success != Some(false),
            "the tables of {place} were made only in part: its newest migration did not finish; restore the database from a \
             backup, or begin the log without it"
        );
    }
    // Counting would read all of them.
    let rows = r#"SELECT max("event_log_id") FROM "event_log""#;
    let rows: Option<i64> = connection.query_row(rows, [], |row| row.get(0)).with_context(cannot_read)?;
    let first = r#"SELECT CAST(strftime('%s', "inserted_timestamp") AS INTEGER) FROM "event_log" ORDER BY "event_log_id" LIMIT 1"#;
    let begun: Option<i64> =
        connection.query_row(first, [], |row| row.get(0)).optional().with_context(cannot_read)?.flatten();
    let begun = begun.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0).saturating_mul(1_000_000);
    Ok(rows.and_then(|rows| u64::try_from(rows).ok()).filter(|rows| *rows > 0).map(|rows| History { rows, begun }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(file: &Path, sql: &str) {
        Connection::open(file).unwrap().execute_batch(sql).unwrap();
    }

    const DUMP: &str = include_str!("../../../tests/data/transcript/sqlite-dump.sql");

    fn dump() -> String {
        DUMP.replace("'TIMESTAMP'", "'2026-01-02 03:04:05'")
    }

    #[test]
    fn the_index_is_four_bytes_or_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(index(folder.path()), 0);
        for (bytes, expected) in [(&[1, 2, 0, 0][..], 513), (&[1, 2, 0], 0), (&[], 0), (&[0; 5], 0)] {
            fs::write(folder.path().join("sse_index"), bytes).unwrap();
            assert_eq!(index(folder.path()), expected);
        }
    }

    #[test]
    fn the_references_database_is_found_whatever_its_name_and_whatever_else_is_there() {
        let folder = tempfile::tempdir().unwrap();
        assert!(find_database(folder.path(), None).is_none());
        assert!(find_database(&folder.path().join("missing"), None).is_none());
        fs::write(folder.path().join("a"), MAGIC).unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        database(&folder.path().join("c"), "CREATE TABLE diary (day text)");
        // A new export has the tables, and no rows.
        let migration = r#"CREATE TABLE "Migration" ("version" integer, "is_success" boolean);"#;
        database(&folder.path().join("d"), &format!("{migration}{}", crate::casper::export::sqlite::SCHEMA));
        database(&folder.path().join("e.db3"), &dump());
        let found = find_database(folder.path(), Some(&folder.path().join("missing"))).unwrap();
        assert_eq!(found.file, folder.path().join("e.db3"));
        assert_eq!(found.history.unwrap(), History { rows: 10, begun: 1_767_323_045_000_000 });

        database(&folder.path().join("z.db3"), &dump());
        let configured = folder.path().join("z.db3");
        assert_eq!(find_database(folder.path(), Some(&configured)).unwrap().file, configured);
    }

    #[test]
    fn what_cannot_be_imported_is_named_for_what_it_is() {
        for (sql, why) in [
            (
                r#"CREATE TABLE event_log (event_log_id integer); CREATE TABLE "DeployAccepted" (deploy_hash text)"#
                    .to_owned(),
                "is a database of the Casper Sidecar 1.x: it has a table DeployAccepted; only databases of version 2.x",
            ),
            (format!(r#"{} DROP TABLE "Step""#, dump()), "there is no table Step"),
            (format!(r#"{} UPDATE "Migration" SET "is_success" = 0"#, dump()), "were made only in part"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            database(&folder.path().join("x"), &sql);
            let why_not = find_database(folder.path(), None).unwrap().history.unwrap_err().to_string();
            assert!(why_not.contains(why), "{why_not}");
        }
    }
}
