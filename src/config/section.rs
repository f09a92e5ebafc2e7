//! One section of the file while its keys are checked: names each key in full and holds numbers to their limits.

use std::{fmt, time::Duration};

use super::{
    description::{KeyDescription, Kind},
    document::Document,
    environment::Environment,
    error::{ConfigError, InvalidValue},
};

/// serde's default for a switch: a section that is there is on unless it says otherwise.
pub(super) fn yes() -> bool {
    true
}

/// A section of the file, for messages that name its keys in full.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    environment: &'a Environment<'a>,
    describe: fn(&str) -> Option<&'static KeyDescription>,
    path: String,
}

impl<'a> Section<'a> {
    /// The section at `path` in `document`; the whole file when `path` is empty. `describe` returns the description
    /// of a key, by its full path.
    pub(super) fn new(
        document: &'a Document<'a>,
        environment: &'a Environment<'a>,
        describe: fn(&str) -> Option<&'static KeyDescription>,
        path: &str,
    ) -> Self {
        Self { document, environment, describe, path: path.to_owned() }
    }

    /// The section `name` inside this one.
    pub(super) fn below(&self, name: &str) -> Section<'a> {
        Section { path: self.path_of(name), ..*self }
    }

    /// The value of an environment variable that the section names.
    pub(super) fn environment(&self, variable: &str) -> Result<Option<String>, ConfigError> {
        self.environment.get(variable)
    }

    /// The full path of `key`.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// `value` of `key`, if it is within the limits that the key's description names.
    pub(super) fn number<Number: TryFrom<i64>>(&self, key: &str, value: i64) -> Result<Number, ConfigError> {
        let description = (self.describe)(&self.path_of(key));
        let (min, max) = match description.map(|description| description.kind) {
            Some(Kind::Number { min, max, .. }) => (min, max),
            _ => (i64::MIN, i64::MAX),
        };
        let inside = if (min..=max).contains(&value) { Number::try_from(value).ok() } else { None };
        inside.ok_or_else(|| {
            let or_none = if description.is_some_and(KeyDescription::takes_none) { ", or to 'none'" } else { "" };
            self.invalid(key, value, &format!("set it to a number from {min} to {max}{or_none}"))
        })
    }

    /// The same for a key with a default, which is not checked.
    pub(super) fn number_or<Number: TryFrom<i64>>(
        &self,
        key: &str,
        value: Option<i64>,
        default: Number,
    ) -> Result<Number, ConfigError> {
        value.map_or(Ok(default), |value| self.number(key, value))
    }

    /// The same for a time in whole seconds.
    pub(super) fn seconds_or(&self, key: &str, value: Option<i64>, default: Duration) -> Result<Duration, ConfigError> {
        value.map_or(Ok(default), |value| self.number(key, value).map(Duration::from_secs))
    }

    /// The same for a time in milliseconds.
    pub(super) fn milliseconds_or(
        &self,
        key: &str,
        value: Option<i64>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        value.map_or(Ok(default), |value| self.number(key, value).map(Duration::from_millis))
    }

    /// The error that `value` of `key` is not usable.
    pub(super) fn invalid<E: From<InvalidValue>>(&self, key: &str, value: impl fmt::Display, fix: &str) -> E {
        let key = self.path_of(key);
        let line = self.document.line_of(&key);
        InvalidValue { value: value.to_string(), line, fix: fix.to_owned(), key }.into()
    }
}
