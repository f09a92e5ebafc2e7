//! What can be wrong with a configuration, in the words an operator reads.
//!
//! The first line of each [`ConfigError`] is the text that the Casper Sidecar printed in that case, so that scripts
//! which look for it continue to work; what the operator should do about it follows as the error's source, which `anyhow`
//! prints below `Caused by:`.

use std::{fmt, io, num::ParseIntError, path::Path};

use thiserror::Error;

/// Why there is no [`Config`](super::Config).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read, is no TOML, or a key in it does not fit.
    #[error("Error constructing config")]
    NotConstructed(#[from] NotConstructed),
    /// The settings of a database are unusable.
    #[error("failed to read sidecar configuration. Underlying reason: {reason}")]
    Database {
        /// What is wrong.
        reason: DatabaseError,
        /// What to do.
        #[source]
        fix: Fix,
    },
    /// The value of an environment variable cannot be known.
    #[error("failed to read sidecar configuration. Underlying reason: {reason}")]
    Variable {
        /// What is wrong.
        reason: VariableError,
        /// What to do.
        #[source]
        fix: Fix,
    },
    /// Each key is fine, but Sidecar refuses to run with them.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ConfigError {
    /// Adds what a misspelled section's name may have to do with a refusal to run without that section.
    pub(super) fn explained_by(self, warnings: &[Warning]) -> Self {
        let unknown = warnings.iter().find(|warning| matches!(warning, Warning::UnknownKey { .. }));
        match (self, unknown) {
            (Self::Refused(Refusal::NothingEnabled(Fix(fix))), Some(unknown)) => {
                Self::Refused(Refusal::NothingEnabled(Fix(format!("{fix}\n{unknown}"))))
            }
            (Self::Refused(Refusal::SseWithoutStorage(None)), Some(unknown)) => {
                Self::Refused(Refusal::SseWithoutStorage(Some(Fix(unknown.to_string()))))
            }
            (error, _) => error,
        }
    }
}

impl From<InvalidValue> for ConfigError {
    fn from(invalid: InvalidValue) -> Self {
        Self::NotConstructed(NotConstructed::InvalidValue(invalid))
    }
}

/// Why a file did not become a configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotConstructed {
    /// The file could not be read.
    #[error("Error reading config file contents")]
    Unreadable(#[source] UnreadableFile),
    /// The text is not TOML, or lacks a required key, or a value is of the wrong type.
    #[error("Error parsing config into TOML format")]
    Toml(#[source] TomlError),
    /// A value is outside its limits.
    #[error(transparent)]
    InvalidValue(#[from] InvalidValue),
    /// One setting is given twice, under two of its names.
    #[error(transparent)]
    TwoSpellings(#[from] TwoSpellings),
}

/// The system's answer, and below it the file that it is about.
#[derive(Debug, Error)]
#[error("{answer}")]
pub struct UnreadableFile {
    answer: io::Error,
    #[source]
    fix: Fix,
}

impl UnreadableFile {
    pub(super) fn new(path: &Path, answer: io::Error) -> Self {
        let mut fix = format!("--path-to-config names the file {}", path.display());
        if answer.kind() == io::ErrorKind::PermissionDenied {
            fix.push_str("; let the user that runs Sidecar read it and enter the directories above it");
        }
        Self { answer, fix: Fix(fix) }
    }
}

/// A combination that Sidecar does not run with.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither `[sse_server]` nor `[rpc_server.main_server]` is there and enabled, nor REST from a database.
    #[error("At least one of RPC server or SSE server must be configured")]
    NothingEnabled(#[source] Fix),
    /// The REST server has no log to answer from.
    #[error("Can't run Rest api server with SSE events persistence disabled")]
    RestWithoutLog(#[source] Fix),
    /// The SSE server has nowhere to put its log; the key may be there, but misspelled.
    #[error("Can't run SSE if no `[storage.storage_folder]` is defined")]
    SseWithoutStorage(#[source] Option<Fix>),
    /// A node may never be connected to.
    #[error(
        "Error running component 'sse_event_server': Unable to run: max_attempts setting must be above 0 for the sidecar to attempt connection"
    )]
    NoAttempts(#[source] InvalidValue),
}

/// A setting of PostgreSQL is missing or is not a number.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Neither the variable nor the key is set.
    #[error(
        "failed to parse the config option behind env_var {variable} with error: Config value not set in ENV vars or config file"
    )]
    Missing {
        /// The environment variable's name.
        variable: &'static str,
    },
    /// The variable's value is not a number of the right size.
    #[error("failed to parse the config option for {option} with error: {error}")]
    NotANumber {
        /// The option's name: `Port` or `Max connections`.
        option: &'static str,
        /// What is wrong with the number.
        error: ParseIntError,
    },
    /// The variable's value is none of the words that it may be.
    #[error("failed to parse the config option for Ssl mode with error: {error}")]
    NotAMode {
        /// What it may be.
        error: serde::de::value::Error,
    },
}

/// An environment variable is set, and its value cannot be known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VariableError {
    /// The file that should hold the variable's value cannot be read.
    #[error("failed to read the file with the value of {variable}: {error}")]
    UnreadableFile {
        /// The environment variable's name, without `_FILE`.
        variable: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The variable and the file that should hold its value are both set.
    #[error("{variable} is set both as a variable and as a file")]
    SetTwice {
        /// The environment variable's name, without `_FILE`.
        variable: String,
    },
}

/// What an operator should do.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Fix(pub(super) String);

/// A key whose value is outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{key}` is {value}{}; {fix}", Line(*line))]
pub struct InvalidValue {
    /// The key's full path in the new spelling, such as `sse_server.connections[0].max_attempts`.
    pub key: String,
    /// The value as it is in the file.
    pub value: String,
    /// The line it is in, counted from 1.
    pub line: Option<usize>,
    /// What to set instead.
    pub fix: String,
}

/// Two keys of the file that mean the same setting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{old}` (line {line}) is an old spelling of `{new}`, which is set too; keep only `{new}`")]
pub struct TwoSpellings {
    /// The old spelling's full path.
    pub old: String,
    /// The new spelling's full path.
    pub new: String,
    /// The line of the old spelling, counted from 1.
    pub line: usize,
}

/// An error of the TOML text, with line, column and where possible the line itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TomlError(String);

impl TomlError {
    /// `error` was found in `text`, at `key` when the text itself was TOML; `misspelled` may be why.
    pub(super) fn new(mut error: toml::de::Error, text: &str, key: Option<&str>, misspelled: Option<&Warning>) -> Self {
        // A quoted line could be the one with the secret; a file that has one, maybe in a URL, is never quoted.
        let mut message = if ["password", "bearer_token", "://"].iter().any(|sign| text.contains(sign)) {
            let start = error.span().map_or(0, |span| span.start);
            let (line, column) = line_and_column(text, start);
            format!("TOML parse error at line {line}, column {column}\n{}", error.message())
        } else {
            error.set_input(Some(text));
            error.to_string().trim_end().to_owned()
        };
        if let Some(key) = key {
            message.push_str(&format!("\nin `{key}`"));
        }
        if let Some(misspelled) = misspelled {
            message.push_str(&format!("\n{misspelled}"));
        }
        Self(message)
    }
}

/// The position of the byte `offset` in `text`, both counted from 1, the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.chars().count() - before.get(..line_start).map_or(0, |lines| lines.chars().count()) + 1;
    (line_at(text, offset), column)
}

/// The line of the byte `offset` in `text`, counted from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Something odd in the file that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A key or section that means nothing here.
    UnknownKey {
        /// Its full path.
        key: String,
        /// The line it is in, counted from 1.
        line: Option<usize>,
        /// The full path of the most similar key that does mean something.
        nearest: String,
    },
    /// A key that meant something once.
    NoEffect {
        /// Its full path.
        key: String,
        /// The line it is in, counted from 1.
        line: usize,
        /// Why it means nothing any more.
        reason: &'static str,
    },
    /// A database that events would be exported to, if there were any, or if they were kept.
    NothingToExport {
        /// The section's full path.
        section: &'static str,
        /// Why, and what would change that.
        reason: &'static str,
        /// The line it is in, counted from 1.
        line: Option<usize>,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key, line, nearest } => {
                let line = Line(*line);
                write!(
                    formatter,
                    "unknown configuration key `{key}`{line} is ignored; the nearest known key is `{nearest}`"
                )
            }
            Self::NoEffect { key, line, reason } => {
                write!(formatter, "configuration key `{key}` (line {line}) has no effect any more: {reason}")
            }
            Self::NothingToExport { section, reason, line } => {
                let line = Line(*line);
                write!(
                    formatter,
                    "nothing is exported to `[{section}]`{line}: {reason}, or set `enabled = false` there"
                )
            }
        }
    }
}

/// Writes ` (line N)`, or nothing.
struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(formatter, " (line {line})"))
    }
}
