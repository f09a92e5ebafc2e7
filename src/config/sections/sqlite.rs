//! `[storage.sqlite_config]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{
    casper::export::{ExportFrom, sqlite::Options},
    config::{
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, count},
        error::ConfigError,
        section::{Section, yes},
    },
};

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct SqliteConfig")]
pub(in crate::config) struct Keys {
    #[serde(default = "yes")]
    pub(in crate::config) enabled: bool,
    file_name: String,
    /// The reference asks for it, so files have it; here it has no effect.
    #[serde(rename = "max_connections_in_pool")]
    _max_connections_in_pool: Option<i64>,
    wal_autocheckpointing_interval: Option<i64>,
    #[serde(default)]
    export_from: ExportFrom,
}

/// `[storage.sqlite_config]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "storage.sqlite_config",
    is_list: false,
    text: "Export to a SQLite database, which the log does not need. To archive the file, move it away while Sidecar runs: it \
           is complete within two seconds, and a new one is made, which begins as export_from says.",
    keys: &[
        KeyDescription::reference(
            "enabled",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether events are exported to SQLite.",
        )
        .with_example("false"),
        KeyDescription::reference(
            "file_name",
            Kind::Text,
            DefaultValue::Required,
            "The name of the database's file in storage_folder.",
        )
        .with_example("\"sqlite_database.db3\""),
        KeyDescription::no_effect(
            "max_connections_in_pool",
            count(i64::MIN, i64::MAX),
            "100",
            "No effect: the export has one connection.",
        ),
        KeyDescription::reference(
            "wal_autocheckpointing_interval",
            count(0, 65_535),
            DefaultValue::Value("1000"),
            "Pages per automatic checkpoint of SQLite's write-ahead log.",
        ),
        export_from_key(),
    ],
};

/// The key `export_from`, the same for each database.
pub(super) const fn export_from_key() -> KeyDescription {
    KeyDescription::new(
        "export_from",
        Kind::Word(&["oldest", "head"]),
        DefaultValue::Value("\"oldest\""),
        "Where the export begins in a database that has nothing of this log yet. \"oldest\": with the oldest event of the log. \
         \"head\": with the next event that the log gets; in place of a SQLite file that was moved away, where that one ends.",
    )
}

impl Keys {
    /// The database's file in the storage folder.
    pub(super) fn file(&self, folder: &Path) -> PathBuf {
        folder.join(&self.file_name)
    }
}

/// The settings of an enabled export to a file in `folder`.
pub(in crate::config) fn check(keys: Keys, folder: &Path, section: &Section<'_>) -> Result<Options, ConfigError> {
    let pages = keys.wal_autocheckpointing_interval;
    Ok(Options {
        file: keys.file(folder),
        wal_autocheckpointing_interval: section.number_or("wal_autocheckpointing_interval", pages, 1000)?,
        export_from: keys.export_from,
    })
}
