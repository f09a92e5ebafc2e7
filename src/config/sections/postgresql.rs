//! `[storage.postgresql_config]`: its settings come from the environment first and from the file second, key by key.

use std::{
    num::{NonZero, ParseIntError},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, de::IntoDeserializer};

use super::sqlite::export_from_key;
use crate::{
    casper::export::{
        ExportFrom,
        postgresql::{Options, Password, SslMode},
    },
    config::{
        bounds::COUNT_MAX,
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, count, port},
        environment::Environment,
        error::{ConfigError, DatabaseError, Fix},
        section::{Section, yes},
    },
};

/// The variable that alone asks for PostgreSQL where the file has no database section.
pub(super) const HOST: &str = "SIDECAR_POSTGRES_HOST";
const DATABASE_NAME: &str = "SIDECAR_POSTGRES_DATABASE_NAME";
const USERNAME: &str = "SIDECAR_POSTGRES_USERNAME";
const PASSWORD: &str = "SIDECAR_POSTGRES_PASSWORD";
const MAX_CONNECTIONS: &str = "SIDECAR_POSTGRES_MAX_CONNECTIONS";
const PORT: &str = "SIDECAR_POSTGRES_PORT";
/// Beyond the reference, named in its manner.
const SSL_MODE: &str = "SIDECAR_POSTGRES_SSLMODE";
const SSL_ROOT_CERTIFICATE: &str = "SIDECAR_POSTGRES_SSLROOTCERT";

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct PostgresqlConfig")]
pub(in crate::config) struct Keys {
    #[serde(default = "yes")]
    pub(in crate::config) enabled: bool,
    host: Option<String>,
    database_name: Option<String>,
    database_username: Option<String>,
    database_password: Option<Password>,
    max_connections_in_pool: Option<i64>,
    port: Option<i64>,
    sslmode: Option<SslMode>,
    sslrootcert: Option<PathBuf>,
    #[serde(default)]
    export_from: ExportFrom,
}

/// `[storage.postgresql_config]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "storage.postgresql_config",
    is_list: false,
    text: "Export to a PostgreSQL database. An environment variable overrides its key; the key may then be left out. A variable \
           with _FILE after its name holds the name of a file that holds the value. A server that is away delays nothing: the \
           export resumes when it is back.",
    keys: &[
        KeyDescription::reference(
            "enabled",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether this database is used.",
        )
        .with_example("false"),
        KeyDescription::reference("host", Kind::Host, DefaultValue::Required, "The server's address or host name.")
            .with_example("\"localhost\"")
            .with_variable(HOST),
        KeyDescription::reference("database_name", Kind::Text, DefaultValue::Required, "The database on that server.")
            .with_example("\"event_sidecar\"")
            .with_variable(DATABASE_NAME),
        KeyDescription::reference("database_username", Kind::Text, DefaultValue::Required, "The user who connects.")
            .with_example("\"postgres\"")
            .with_variable(USERNAME),
        KeyDescription::reference("database_password", Kind::Secret, DefaultValue::Required, "The password of that user.")
            .with_example("\"p@$$w0rd\"")
            .with_variable(PASSWORD),
        KeyDescription::reference(
            "max_connections_in_pool",
            count(1, COUNT_MAX),
            DefaultValue::Value("10"),
            "The most connections at once when the REST server answers from this database. The export needs one more.",
        )
        .with_variable(MAX_CONNECTIONS),
        KeyDescription::reference("port", port(1), DefaultValue::Value("5432"), "The server's port.").with_variable(PORT),
        KeyDescription::new(
            "sslmode",
            Kind::Word(&["disable", "prefer", "require", "verify-full"]),
            DefaultValue::Value("\"prefer\""),
            "When the connection uses TLS. \"disable\": never. \"prefer\": if the server has it. \"require\": always. \
             \"verify-full\": always, and only with a server whose certificate is trusted and names the host. Only the last one \
             proves which server it is.",
        )
        .with_variable(SSL_MODE),
        KeyDescription::new(
            "sslrootcert",
            Kind::Path,
            DefaultValue::Otherwise("the certificates that the system trusts"),
            "The certificates to trust with \"verify-full\", in a PEM file. With \"require\" the server's certificate must then be \
             trusted too, but may name any host. The other modes do not check it.",
        )
        .with_example("\"/etc/ssl/certs/ca-certificates.crt\"")
        .with_variable(SSL_ROOT_CERTIFICATE),
        export_from_key(),
    ],
};

/// The settings of an enabled `[storage.postgresql_config]`, or of an empty one where only the environment asks for it.
pub(super) fn check(keys: Keys, section: &Section<'_>, environment: &Environment<'_>) -> Result<Options, ConfigError> {
    let required = |variable, key, in_file: Option<String>| {
        environment.get(variable)?.or(in_file).ok_or_else(|| {
            let fix = Fix(format!("set the environment variable {variable} or the key `{}`", section.path_of(key)));
            ConfigError::Database { reason: DatabaseError::Missing { variable }, fix }
        })
    };
    let password = keys.database_password.map(Password::into_inner);
    Ok(Options {
        host: required(HOST, "host", keys.host)?,
        database_name: required(DATABASE_NAME, "database_name", keys.database_name)?,
        username: required(USERNAME, "database_username", keys.database_username)?,
        password: Password::new(required(PASSWORD, "database_password", password)?),
        max_connections: match number(environment, MAX_CONNECTIONS, "Max connections")? {
            Some(max_connections) => NonZero::<u32>::get(max_connections),
            None => section.number_or("max_connections_in_pool", keys.max_connections_in_pool, 10)?,
        },
        port: match number(environment, PORT, "Port")? {
            Some(port) => NonZero::<u16>::get(port),
            None => section.number_or("port", keys.port, 5432)?,
        },
        ssl_mode: match environment.get(SSL_MODE)? {
            Some(mode) => ssl_mode(&mode)?,
            None => keys.sslmode.unwrap_or_default(),
        },
        ssl_root_certificate: environment.get(SSL_ROOT_CERTIFICATE)?.map(Into::into).or(keys.sslrootcert),
        export_from: keys.export_from,
    })
}

/// The mode in the variable [`SSL_MODE`], in the words of the keys.
fn ssl_mode(text: &str) -> Result<SslMode, ConfigError> {
    let mode: Result<_, serde::de::value::Error> = SslMode::deserialize(text.into_deserializer());
    mode.map_err(|error| {
        let fix = format!("the environment variable {SSL_MODE} is '{text}'; set it to one of these or unset it");
        ConfigError::Database { reason: DatabaseError::NotAMode { error }, fix: Fix(fix) }
    })
}

/// The number in `variable`, if that is set; errors call it `option`.
fn number<Number: FromStr<Err = ParseIntError>>(
    environment: &Environment<'_>,
    variable: &'static str,
    option: &'static str,
) -> Result<Option<Number>, ConfigError> {
    let Some(text) = environment.get(variable)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error| {
        let fix = format!("the environment variable {variable} is '{text}'; set it to a number above 0 or unset it");
        ConfigError::Database { reason: DatabaseError::NotANumber { option, error }, fix: Fix(fix) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        samples::{DEFAULT_SSE_ONLY, explained},
    };

    const SECTION: &str = "
        [storage.postgresql_config]
        host = 'file-host'
        database_name = 'file-name'
        database_username = 'file-user'
        database_password = 'file-password'
        max_connections_in_pool = 7
        port = 7000
    ";
    const VARIABLES: [(&str, &str); 6] = [
        ("SIDECAR_POSTGRES_HOST", "variable-host"),
        ("SIDECAR_POSTGRES_DATABASE_NAME", "variable-name"),
        ("SIDECAR_POSTGRES_USERNAME", "variable-user"),
        ("SIDECAR_POSTGRES_PASSWORD", "variable-password"),
        ("SIDECAR_POSTGRES_MAX_CONNECTIONS", "8"),
        ("SIDECAR_POSTGRES_PORT", "8000"),
    ];

    /// PostgreSQL's settings from `DEFAULT_SSE_ONLY` with `sections`, in an environment with `variables`.
    fn postgresql(sections: &str, variables: &[(&str, &str)]) -> Result<Option<Options>, ConfigError> {
        let environment = |asked: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == asked);
            found.map(|(_, value)| (*value).to_owned())
        };
        let loaded = Config::parse(&format!("{DEFAULT_SSE_ONLY}{sections}"), environment)?;
        Ok(loaded.config.storage.unwrap().exports.postgresql)
    }

    fn settings(from: &str, max_connections: u32, port: u16) -> Options {
        Options {
            host: format!("{from}-host"),
            port,
            database_name: format!("{from}-name"),
            username: format!("{from}-user"),
            password: Password::new(format!("{from}-password")),
            max_connections,
            ssl_mode: SslMode::Prefer,
            ssl_root_certificate: None,
            export_from: ExportFrom::Oldest,
        }
    }

    #[test]
    fn the_file_alone_is_enough() {
        assert_eq!(postgresql(SECTION, &[]).unwrap(), Some(settings("file", 7, 7000)));
    }

    #[test]
    fn the_environment_overrides_the_file_key_by_key() {
        assert_eq!(postgresql(SECTION, &VARIABLES).unwrap(), Some(settings("variable", 8, 8000)));
        let expected = Options { host: "variable-host".into(), ..settings("file", 7, 7000) };
        assert_eq!(postgresql(SECTION, &VARIABLES[..1]).unwrap(), Some(expected));
    }

    #[test]
    fn without_any_database_section_the_host_variable_alone_asks_for_it() {
        assert_eq!(postgresql("", &VARIABLES).unwrap(), Some(settings("variable", 8, 8000)));
        assert_eq!(postgresql("", &VARIABLES[1..]).unwrap(), None);
        assert_eq!(postgresql("", &[]).unwrap(), None);
    }

    #[test]
    fn with_a_database_section_the_environment_alone_does_not_ask_for_it() {
        assert_eq!(postgresql("[storage.sqlite_config]\nfile_name = 'x'\n", &VARIABLES).unwrap(), None);
        assert_eq!(postgresql("[storage.postgresql_config]\nenabled = false\n", &VARIABLES).unwrap(), None);
        assert_eq!(
            postgresql("[storage.postgresql_config]\n", &VARIABLES).unwrap(),
            Some(settings("variable", 8, 8000))
        );
    }

    #[test]
    fn connections_and_port_have_defaults() {
        assert_eq!(postgresql("", &VARIABLES[..4]).unwrap(), Some(settings("variable", 10, 5432)));
    }

    #[test]
    fn tls_is_set_by_the_environment_first_and_then_by_the_file() {
        let section = format!("{SECTION}sslmode = 'require'\nsslrootcert = '/file.pem'\nexport_from = 'head'\n");
        let found = postgresql(&section, &[]).unwrap().unwrap();
        assert_eq!((found.ssl_mode, found.export_from), (SslMode::Require, ExportFrom::Head));
        assert_eq!(found.ssl_root_certificate, Some("/file.pem".into()));
        let variables = [(SSL_MODE, "verify-full"), (SSL_ROOT_CERTIFICATE, "/variable.pem")];
        let found = postgresql(&section, &variables).unwrap().unwrap();
        assert_eq!((found.ssl_mode, found.ssl_root_certificate), (SslMode::VerifyFull, Some("/variable.pem".into())));
    }

    #[test]
    fn a_mode_that_does_not_exist_is_refused_with_those_that_do() {
        let error = explained(&postgresql(SECTION, &[(SSL_MODE, "verify-ca")]).unwrap_err());
        assert!(error.contains("unknown variant `verify-ca`, expected one of `disable`, `prefer`"), "{error}");
        assert!(error.contains("SIDECAR_POSTGRES_SSLMODE is 'verify-ca'"), "{error}");
        let error = explained(&postgresql(&format!("{SECTION}sslmode = 'x'\n"), &[]).unwrap_err());
        assert!(error.contains("unknown variant `x`, expected one of `disable`, `prefer`"), "{error}");
    }

    #[test]
    fn a_missing_setting_is_refused_in_the_words_operators_know() {
        let keys = ["host", "database_name", "database_username", "database_password"];
        for (missing, key) in keys.into_iter().enumerate() {
            let mut variables = VARIABLES.to_vec();
            let (variable, _) = variables.remove(missing);
            let error = postgresql("[storage.postgresql_config]\n", &variables).unwrap_err();
            let text = error.to_string();
            assert_eq!(
                text,
                format!(
                    "failed to read sidecar configuration. Underlying reason: failed to parse the config option behind \
                     env_var {variable} with error: Config value not set in ENV vars or config file"
                )
            );
            let fix = format!("set the environment variable {variable} or the key `storage.postgresql_config.{key}`");
            assert_eq!(explained(&error), format!("{text}\n{fix}"));
        }
    }

    #[test]
    fn a_variable_that_is_no_number_is_refused_in_the_words_operators_know() {
        let prefix = "failed to read sidecar configuration. Underlying reason: failed to parse the config option for";
        let wrong = [
            ("SIDECAR_POSTGRES_PORT", "x", "Port", "invalid digit found in string"),
            ("SIDECAR_POSTGRES_PORT", "70000", "Port", "number too large to fit in target type"),
            ("SIDECAR_POSTGRES_MAX_CONNECTIONS", "x", "Max connections", "invalid digit found in string"),
            ("SIDECAR_POSTGRES_MAX_CONNECTIONS", "0", "Max connections", "number would be zero for non-zero type"),
        ];
        for (variable, value, option, reason) in wrong {
            let error = postgresql(SECTION, &[(variable, value)]).unwrap_err();
            assert_eq!(error.to_string(), format!("{prefix} {option} with error: {reason}"));
            assert!(explained(&error).contains(&format!("{variable} is '{value}'")), "{}", explained(&error));
        }
    }

    #[test]
    fn without_event_persistence_there_is_no_export_and_no_complaint_about_its_settings() {
        let no_persistence = DEFAULT_SSE_ONLY.replace("[sse_server]", "[sse_server]\ndisable_event_persistence = true");
        let text = format!("{no_persistence}[storage.postgresql_config]\n[storage.sqlite_config]\nfile_name = 'x'\n");
        let storage = Config::parse(&text, |_| None).unwrap().config.storage.unwrap();
        assert_eq!((storage.exports.sqlite, storage.exports.postgresql), (None, None));
    }
}
