//! PostgreSQL's settings, which come from the environment first and from the file second, key by key.

use std::num::{NonZero, ParseIntError};

use super::{
    checks::{COUNT_MAX, PORT_MAX, Section},
    error::{ConfigError, DatabaseError, Fix},
    file,
    settings::{Password, PostgreSql},
};

/// The variable that alone asks for PostgreSQL where the file has no database section.
pub(super) const HOST: &str = "SIDECAR_POSTGRES_HOST";

/// The settings of an enabled `[storage.postgresql_config]`, or of an empty one where only the environment asks for it.
pub(super) fn check(
    file: file::PostgresqlConfig,
    section: &Section<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<PostgreSql, ConfigError> {
    let required = |variable, key, in_file: Option<String>| {
        environment(variable).or(in_file).ok_or_else(|| {
            let fix = Fix(format!("set the environment variable {variable} or the key `{}`", section.path_of(key)));
            ConfigError::Database(DatabaseError::Missing { variable, fix })
        })
    };
    let password = file.database_password.map(Password::into_inner);
    Ok(PostgreSql {
        host: required(HOST, "host", file.host)?,
        database_name: required("SIDECAR_POSTGRES_DATABASE_NAME", "database_name", file.database_name)?,
        username: required("SIDECAR_POSTGRES_USERNAME", "database_username", file.database_username)?,
        password: Password::new(required("SIDECAR_POSTGRES_PASSWORD", "database_password", password)?),
        max_connections: match environment("SIDECAR_POSTGRES_MAX_CONNECTIONS") {
            Some(text) => {
                let count: Result<NonZero<u32>, _> = text.parse();
                not_a_number("SIDECAR_POSTGRES_MAX_CONNECTIONS", "Max connections", &text, count)?.get()
            }
            None => section.number_or("max_connections_in_pool", file.max_connections_in_pool, 10, 1..=COUNT_MAX)?,
        },
        port: match environment("SIDECAR_POSTGRES_PORT") {
            Some(text) => {
                let port: Result<NonZero<u16>, _> = text.parse();
                not_a_number("SIDECAR_POSTGRES_PORT", "Port", &text, port)?.get()
            }
            None => section.number_or("port", file.port, 5432, 1..=PORT_MAX)?,
        },
    })
}

/// Says which variable held the `text` that could not be parsed.
fn not_a_number<Number>(
    variable: &'static str,
    option: &'static str,
    text: &str,
    parsed: Result<Number, ParseIntError>,
) -> Result<Number, ConfigError> {
    parsed.map_err(|error| {
        let fix =
            Fix(format!("the environment variable {variable} is '{text}'; set it to a number above 0 or unset it"));
        ConfigError::Database(DatabaseError::NotANumber { option, error, fix })
    })
}
