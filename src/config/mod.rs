//! Configuration: from the text of one TOML file, and the environment, to settings the rest of the program can trust.
//!
//! Owns the file format with every spelling it ever had, the defaults, the limits, and the texts that refuse a file.
//! A file's text flows in; a [`Config`] flows out, in which a part that is absent or switched off is `None` and every
//! number is inside its limits, together with the [`Warning`]s that `main` logs. Nothing here opens a port, a log or a
//! database, and only [`Config::load`] touches the file system and the process's environment.
//!
//! The steps, each in its own file:
//!
//! 1. `document`: text to a TOML table that remembers positions, and from there to the structs of `file`;
//! 2. `spelling`: in between, old spellings in that table become new ones;
//! 3. `known_keys`: the nearest known key for an unknown one;
//! 4. `checks`: from `file` to `settings`: defaults, limits, refused combinations;
//! 5. `postgresql`: the one exporter whose settings may come from the environment.

mod checks;
mod document;
mod error;
mod file;
mod known_keys;
mod postgresql;
mod settings;
mod spelling;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

pub use error::{
    ConfigError, DatabaseError, Fix, InvalidValue, NotConstructed, Refusal, TomlError, TwoSpellings, Warning,
};
pub use settings::{
    AdminApiServer, Config, CorsOrigin, Durability, EventStreamServer, ExponentialBackoff, LegacySseApi, LogSettings,
    NodeClient, NodeConnection, Password, PostgreSql, ReplayChunks, RestApiServer, RpcListener, RpcServer, Sqlite,
    SseServer, Storage, Threads, ZstdPassThrough,
};

use document::Document;

/// The longest configuration file that is read: 1 MiB, far above any real one.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What came out of a configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What the operator should know about the file, one log line each. Nothing here stops the program.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads the file at `path`, with the PostgreSQL variables of this process's environment.
    ///
    /// # Errors
    /// Every [`ConfigError`]; printed by `anyhow` from `main` it gives the texts operators know.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        let text = read_text(path).map_err(NotConstructed::Unreadable)?;
        Self::parse(&text, |variable| std::env::var(variable).ok())
    }

    /// The same from a text and an `environment` that answers for a variable's name.
    ///
    /// # Errors
    /// Every [`ConfigError`] but the unreadable file.
    pub fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Loaded, ConfigError> {
        let mut document = Document::parse(text).map_err(NotConstructed::Toml)?;
        let mut warnings = spelling::modernise(&mut document)?;
        let (file, unknown_keys) = document.read().map_err(NotConstructed::Toml)?;
        warnings.extend(unknown_keys);
        let config = checks::check(file, &document, &environment)?;
        Ok(Loaded { config, warnings })
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bytes_read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if bytes_read as u64 > FILE_BYTES_MAX {
        let message = format!("larger than {FILE_BYTES_MAX} bytes: this is no configuration file");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}
