//! `[storage]`: where everything is kept, and the databases below it.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    log::{self, LogSettings},
    postgresql, sqlite,
};
use crate::{
    casper::export,
    config::{
        description::{DefaultValue, KeyDescription, Kind, SectionDescription},
        environment::Environment,
        error::ConfigError,
        section::Section,
    },
};

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Storage")]
pub(in crate::config) struct Keys {
    pub(in crate::config) storage_folder: Option<PathBuf>,
    #[serde(default)]
    import_history: bool,
    #[serde(default)]
    log: log::Keys,
    pub(in crate::config) sqlite_config: Option<sqlite::Keys>,
    pub(in crate::config) postgresql_config: Option<postgresql::Keys>,
}

/// `[storage]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "storage",
    is_list: false,
    text: "Where everything is stored.",
    keys: &[
        KeyDescription::reference(
            "storage_folder",
            Kind::Path,
            DefaultValue::Required,
            "The folder that holds the log. It is created if it is missing. A relative path starts at the working directory.",
        )
        .with_example("\"./storage\""),
        KeyDescription::new(
            "import_history",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether the events in the SQLite database that a Casper Sidecar 2.x left in this folder are imported into the log \
             before anything is served, ids included. That is done once; --import-history on the command line does the same.",
        ),
    ],
};

/// `[storage]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// `storage_folder`; a relative path is relative to the working directory.
    pub folder: PathBuf,
    /// `import_history`: whether what the Casper Sidecar left in the folder is imported before anything is served.
    pub import_history: bool,
    /// The file that `[storage.sqlite_config]` names, enabled or not.
    pub sqlite_file: Option<PathBuf>,
    /// `[storage.log]`.
    pub log: LogSettings,
    /// `[storage.sqlite_config]` and `[storage.postgresql_config]`, as far as events are exported there.
    pub exports: export::Options,
}

/// The settings, with the exports that there are to be. `None` without a folder, which only the log needs.
pub(in crate::config) fn check(
    keys: Keys,
    exports: Exports,
    rest_from_log: bool,
    section: &Section<'_>,
) -> Result<Option<Storage>, ConfigError> {
    let Some(folder) = keys.storage_folder else { return Ok(None) };
    if folder == PathBuf::new() {
        return Err(section.invalid("storage_folder", "''", "set it to the folder that is to hold the log"));
    }
    let log = log::check(&keys.log, rest_from_log, &section.below("log"))?;
    let sqlite_file = keys.sqlite_config.as_ref().map(|sqlite| sqlite.file(&folder));
    let exports = match exports {
        Exports::Off => export::Options::default(),
        Exports::On { postgresql } => {
            let sqlite = keys.sqlite_config.filter(|sqlite| sqlite.enabled);
            let sqlite = sqlite.map(|sqlite| sqlite::check(sqlite, &folder, &section.below("sqlite_config")));
            export::Options { sqlite: sqlite.transpose()?, postgresql }
        }
    };
    Ok(Some(Storage { folder, import_history: keys.import_history, sqlite_file, log, exports }))
}

/// Whether events are exported to databases.
pub(in crate::config) enum Exports {
    /// To none.
    Off,
    /// To those that are enabled; to this one if it is there.
    On { postgresql: Option<export::postgresql::Options> },
}

/// The file of the enabled SQLite database, which is inside the storage folder.
pub(in crate::config) fn sqlite_file(keys: Option<&Keys>) -> Option<PathBuf> {
    let keys = keys?;
    let sqlite = keys.sqlite_config.as_ref().filter(|sqlite| sqlite.enabled)?;
    Some(sqlite.file(keys.storage_folder.as_ref()?))
}

/// The PostgreSQL database that `[storage]` or, without any database section, the environment asks for.
pub(in crate::config) fn check_postgresql(
    keys: Option<&mut Keys>,
    section: &Section<'_>,
    environment: &Environment<'_>,
) -> Result<Option<export::postgresql::Options>, ConfigError> {
    let (in_file, has_sqlite) = match keys {
        Some(keys) => (keys.postgresql_config.take(), keys.sqlite_config.is_some()),
        None => (None, false),
    };
    let asked_for_by_environment = in_file.is_none() && !has_sqlite && environment.decisive(postgresql::HOST).is_some();
    let keys = match asked_for_by_environment {
        true => Some(postgresql::Keys::default()),
        false => in_file.filter(|postgresql| postgresql.enabled),
    };
    keys.map(|keys| postgresql::check(keys, &section.below("postgresql_config"), environment)).transpose()
}

#[cfg(test)]
mod tests {
    use crate::config::samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, loaded, refused};

    #[test]
    fn an_empty_folder_is_refused_with_the_fix() {
        let error = refused(&DEFAULT_SSE_ONLY.replace("./storage", ""));
        assert!(error.contains("`storage.storage_folder` is '' (line 7); set it to the folder"), "{error}");
    }

    #[test]
    fn both_databases_may_be_on_at_once() {
        for enabled in ["enabled = true\n", ""] {
            let text = DEFAULT_FULL.replace("enabled = false\n", enabled);
            let exports = loaded(&text).config.storage.unwrap().exports;
            assert!(exports.sqlite.is_some() && exports.postgresql.is_some());
        }
    }
}
