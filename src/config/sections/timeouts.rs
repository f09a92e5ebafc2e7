//! The keys of every section with nodes to read that say how long a node is waited for.
//!
//! Such a section has the three keys of [`Keys`] in its struct, and the descriptions of this file in its own.

use crate::{
    config::{
        bounds::SECONDS_MAX,
        description::{DefaultValue, KeyDescription, seconds},
        error::ConfigError,
        section::Section,
    },
    sse_client::stream::Timeouts,
};

/// `connection_timeout_in_seconds`.
pub(super) const CONNECTION: KeyDescription =
    key("connection_timeout_in_seconds", "5", "The time limit of the TCP connection.");

/// `no_message_timeout_in_seconds`.
pub(super) const SILENCE: KeyDescription =
    key("no_message_timeout_in_seconds", "120", "The silence after which the stream is closed and connected again.");

/// `sleep_between_keep_alive_checks_in_seconds`.
pub(super) const SILENCE_CHECK: KeyDescription =
    key("sleep_between_keep_alive_checks_in_seconds", "60", "How often silence is checked.");

const fn key(name: &'static str, default: &'static str, text: &'static str) -> KeyDescription {
    KeyDescription::new(name, seconds(1, SECONDS_MAX), DefaultValue::Value(default), text)
}

/// The keys that each such section has in its own struct.
pub(super) struct Keys {
    pub(super) connection: Option<i64>,
    pub(super) silence: Option<i64>,
    pub(super) silence_check: Option<i64>,
}

impl Keys {
    /// The settings of `section`.
    pub(super) fn check(self, section: &Section<'_>) -> Result<Timeouts, ConfigError> {
        let default = Timeouts::default();
        Ok(Timeouts {
            connection: section.seconds_or(CONNECTION.name, self.connection, default.connection)?,
            silence: section.seconds_or(SILENCE.name, self.silence, default.silence)?,
            silence_check: section.seconds_or(SILENCE_CHECK.name, self.silence_check, default.silence_check)?,
        })
    }
}
