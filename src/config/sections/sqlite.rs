//! `[storage.sqlite_config]`.

use std::path::Path;

use serde::Deserialize;

use crate::{
    casper::export::{ExportFrom, sqlite::Options},
    config::{
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

/// The settings of an enabled export to a file in `folder`.
pub(in crate::config) fn check(keys: Keys, folder: &Path, section: &Section<'_>) -> Result<Options, ConfigError> {
    let pages = keys.wal_autocheckpointing_interval;
    Ok(Options {
        file: folder.join(keys.file_name),
        wal_autocheckpointing_interval: section.number_or("wal_autocheckpointing_interval", pages, 1000, 0..=65_535)?,
        export_from: keys.export_from,
    })
}
