//! A database file for readers, which write nothing and make no tables.
//!
//! Nothing here opens the file by other means than SQLite's: when such a file is closed, the system takes away the locks that
//! this process has on it, those of an exporter too.

use std::{fs, io, path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{STATEMENTS, newest_migration, place};
use crate::casper::export::{ExportError, tables::must_migrate};

/// The section of the configuration.
const SECTION: &str = "sqlite_config";

/// Opens a file whose tables are only read. A lock is waited for as long as `busy_time_max`.
///
/// # Errors
/// When the file is not there, cannot be read, or has not the tables that this version knows.
pub(crate) fn open_to_read(file: &Path, busy_time_max: Duration) -> Result<Connection, ExportError> {
    let failed = |error: rusqlite::Error| failed_to_read(file, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).map_err(failed)?;
    connection.busy_timeout(busy_time_max).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let newest = newest_migration(&connection).map_err(failed)?;
    if must_migrate(newest, &place(file))? {
        return Err(no_tables(file, r#"the table "Migration" is empty"#.to_owned()));
    }
    Ok(connection)
}

/// What SQLite's error means for a reader.
pub(crate) fn failed_to_read(file: &Path, error: &rusqlite::Error) -> ExportError {
    let (place, reason) = (place(file), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ExportError::Unreachable { place, reason: format!("another program keeps it locked ({reason})") }
        }
        // SQLite does not say why.
        Some(ErrorCode::CannotOpen) => match fs::metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                ExportError::Unreachable { place, reason: error.to_string() }
            }
            Err(error) => ExportError::UnreadableFile { place, reason: error.to_string() },
            Ok(_) => ExportError::UnreadableFile { place, reason },
        },
        Some(
            ErrorCode::NotADatabase | ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::DatabaseCorrupt,
        ) => ExportError::UnreadableFile { place, reason },
        // It has no code of its own.
        Some(ErrorCode::Unknown)
            if ["no such table", "no such column"].iter().any(|start| reason.starts_with(start)) =>
        {
            no_tables(file, reason)
        }
        _ => ExportError::Failed { place, reason },
    }
}

fn no_tables(file: &Path, reason: String) -> ExportError {
    ExportError::NoTables { place: place(file), reason, section: SECTION }
}
