//! Which database, and how it is connected to.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, de};

use crate::casper::export::ExportFrom;

/// Which database, and how it is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the database.
    pub database_name: String,
    /// User name.
    pub username: String,
    /// The user's password.
    pub password: Password,
    /// The most connections at once.
    pub max_connections: u32,
    /// Whether the connection is encrypted, and whether it is known who is at its other end.
    pub ssl_mode: SslMode,
    /// The file with the certificates that vouch for the server, in PEM form, for [`SslMode::VerifyFull`] and
    /// [`SslMode::Require`]; without it the first trusts those that the system trusts, and the second any.
    pub ssl_root_certificate: Option<PathBuf>,
    /// Where a new export begins.
    pub export_from: ExportFrom,
}

impl Options {
    /// The server and the database, for log lines.
    pub fn place(&self) -> String {
        format!("PostgreSQL database {} at {}:{}", self.database_name, self.host, self.port)
    }
}

/// TLS to PostgreSQL: the modes of its own clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server has it; the server's certificate is not checked.
    #[default]
    Prefer,
    /// Always; the server's certificate must be vouched for if [`Options::ssl_root_certificate`] is given, whatever host it
    /// names.
    Require,
    /// Always, and only with a server whose certificate is vouched for and names its host.
    VerifyFull,
}

/// A password, which no log line and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Keeps `secret`.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The password itself, for the one place that logs in with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The password itself, out of its cover.
    pub(crate) fn into_inner(self) -> String {
        self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(a password)")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own message would quote the value.
        String::deserialize(deserializer).map(Self).map_err(|_| de::Error::custom("expected a string in quotes"))
    }
}
