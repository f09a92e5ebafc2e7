//! Configuration: from the text of one TOML file, and the environment, to settings the rest of the program can trust.
//!
//! Owns the file format with every spelling it ever had, the defaults, the limits, and the texts that refuse a file.
//! A file's text flows in; a [`Config`] flows out, in which a part that is absent or switched off is `None` and every
//! number is inside its limits, together with the [`Warning`]s that `main` logs. Nothing here opens a port, a log or a
//! database, and only [`Config::load`] and [`report::Report::of_file`] read the process's environment.
//!
//! The steps, each in its own file:
//!
//! 1. `document`: text to a TOML table that remembers positions;
//! 2. `spelling`: old spellings in that table become new ones; `quantities`: sizes and times in words become numbers;
//! 3. `file`: the table to the structs of `sections`;
//! 4. `combinations`: what the sections mean together, and from each section's keys to its settings;
//! 5. `sections`: one file a section, with its keys, their descriptions, its settings and defaults. `section` names keys in
//!    full and holds numbers to their limits; `environment` has what the environment says instead of a key.
//!
//! Each key is described once, beside the struct that reads it (`description`); `catalogue` lists the descriptions. They
//! hold the limits, and for an operator they become commented files (`commented`, `init`), what each key of a file means
//! (`report`), and the hint about a misspelled key.
//!
//! Where one part of the program takes just what a section says, the settings are that part's own options.

mod bounds;
mod catalogue;
mod combinations;
mod commented;
mod description;
mod document;
mod environment;
mod error;
mod file;
pub mod init;
mod quantities;
pub mod report;
mod section;
mod sections;
mod spelling;

#[cfg(test)]
mod keys_page;
#[cfg(test)]
mod limits_page;
#[cfg(test)]
mod samples;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

pub use combinations::Config;
pub use commented::{every_key, few_keys};
pub use error::{
    ConfigError, DatabaseError, Fix, InvalidValue, NotConstructed, Refusal, TomlError, TwoSpellings, UnreadableFile,
    VariableError, Warning,
};
pub use sections::{
    beacon::{Beacon, BeaconConnection},
    log::{Compaction, LogSettings},
    node_connection::NodeConnection,
    rest_api_server::RestApiServer,
    rpc_server::RpcServer,
    sse_server::SseServer,
    storage::Storage,
    threads::Threads,
};

use document::Document;
use environment::Environment;
use quantities::Digits;

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
        let text = read_text(path).map_err(|error| NotConstructed::Unreadable(UnreadableFile::new(path, error)))?;
        Self::parse(&text, |variable| std::env::var(variable).ok())
    }

    /// The same from a text and the `variables` of an environment. Of files, only those that variables name are read.
    ///
    /// # Errors
    /// Every [`ConfigError`] but the unreadable file.
    pub fn parse(text: &str, variables: impl Fn(&str) -> Option<String>) -> Result<Loaded, ConfigError> {
        let digits = Digits::default();
        let mut document = Document::parse(text).map_err(NotConstructed::Toml)?;
        Self::read(&mut document, &digits, &Environment::new(&variables))
    }

    /// The same from a parsed text, which is left in the newest spelling, with numbers in place of sizes and times.
    fn read<'text>(
        document: &mut Document<'text>,
        digits: &'text Digits,
        environment: &Environment<'_>,
    ) -> Result<Loaded, ConfigError> {
        let mut warnings = spelling::modernise(document)?;
        quantities::to_numbers(document, digits)?;
        let (file, unknown_keys) = file::read(document).map_err(NotConstructed::Toml)?;
        warnings.extend(unknown_keys);
        warnings.extend(combinations::nothing_to_export(&file, document));
        let config = combinations::check(file, document, environment).map_err(|error| error.explained_by(&warnings))?;
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, error::Error, io::Write};

    use proptest::prelude::*;
    use tempfile::NamedTempFile;

    use crate::casper::events;

    use super::{
        samples::{
            BEACON, DEFAULT_FULL, DEFAULT_SSE_ONLY, EVERY_ERA, EVERY_SECTION, GRPC, PASSWORD, REST_FROM_POSTGRESQL,
            explained, load, loaded, refused,
        },
        *,
    };

    #[test]
    fn the_example_files_load_without_a_warning() {
        for example in [DEFAULT_SSE_ONLY, DEFAULT_FULL, REST_FROM_POSTGRESQL, BEACON, GRPC] {
            assert_eq!(loaded(example).warnings, []);
        }
    }

    #[test]
    fn the_small_example_leaves_only_defaults_out() {
        let small = loaded(DEFAULT_SSE_ONLY).config;
        let full = loaded(DEFAULT_FULL).config;
        let (small_sse, full_sse) = (small.sse_server.unwrap(), full.sse_server.unwrap());
        let (small_log, full_log) = (small.storage.unwrap().log, full.storage.unwrap().log);
        // Look-ups need a larger cache, and only the full example has them.
        assert_eq!(LogSettings { block_cache_bytes: full_log.block_cache_bytes, ..small_log }, full_log);
        let legacy_enabled = small_sse.event_stream_server.legacy_enabled;
        let full_stream = events::Options { legacy_enabled, ..full_sse.event_stream_server };
        assert_eq!(small_sse.event_stream_server, full_stream);
        assert_eq!(small_sse.inbound_channel_size, full_sse.inbound_channel_size);
    }

    #[test]
    fn a_file_is_read_from_disk() {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(DEFAULT_SSE_ONLY.as_bytes()).unwrap();
        assert_eq!(Config::load(file.path()).unwrap(), loaded(DEFAULT_SSE_ONLY));
    }

    #[test]
    fn an_unreadable_file_is_reported_in_the_words_operators_know() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.toml");
        let lines = format!(
            "Error constructing config\nError reading config file contents\nNo such file or directory (os error 2)\n\
             --path-to-config names the file {}",
            missing.display()
        );
        assert_eq!(explained(&Config::load(&missing).unwrap_err()), lines);

        let answer = io::Error::from(io::ErrorKind::PermissionDenied);
        let unreadable = UnreadableFile::new(&missing, answer);
        assert!(format!("{}", unreadable.source().unwrap()).contains("let the user that runs Sidecar read it"));

        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&[0xff, 0xfe]).unwrap();
        assert!(explained(&Config::load(file.path()).unwrap_err()).contains("valid UTF-8"));
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(explained(&Config::load(file.path()).unwrap_err()).contains("larger than 1048576 bytes"));
    }

    #[test]
    fn broken_toml_is_reported_with_line_and_column_in_the_words_operators_know() {
        let error = refused("[storage]\nstorage_folder = ");
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[..2], ["Error constructing config", "Error parsing config into TOML format"]);
        assert_eq!(lines[2], "TOML parse error at line 2, column 18");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_its_line_and_full_path() {
        let error = refused(&DEFAULT_SSE_ONLY.replace("port = 19999", "port = 'x'"));
        for part in ["TOML parse error at line 38, column 8", "port = 'x'", "in `sse_server.event_stream_server.port`"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
        let error = refused(&DEFAULT_FULL.replace("\"V1\"", "\"V2\""));
        assert!(error.contains("unknown variant `V2`, expected `V1`"), "{error}");
    }

    #[test]
    fn a_missing_required_key_is_reported_with_its_section() {
        let error = refused(&DEFAULT_SSE_ONLY.replace("sse_port = 9999\n", ""));
        assert!(
            error.contains("missing field `sse_port`") && error.contains("in `sse_server.connections[0]`"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_key_that_is_only_misspelled_is_found() {
        for (good, misspelled, line) in [
            ("sse_port = 9999", "sse_prot = 9999", "`sse_server.connections[0].sse_prot` (line "),
            ("storage_folder", "storage_foldr", "`storage.storage_foldr` (line "),
            ("[sse_server.event_stream_server]", "[sse_server.event_stream_sever]", "`sse_server.event_stream_sever`"),
            ("sse_server", "sse_sever", "`sse_sever`"),
        ] {
            let error = refused(&DEFAULT_SSE_ONLY.replace(good, misspelled));
            assert!(error.contains(line) && error.contains("the nearest known key is `"), "{misspelled}: {error}");
        }
        let elsewhere = refused(&DEFAULT_SSE_ONLY.replace("sse_port = 9999", "allow_partail_connection = true"));
        assert!(!elsewhere.contains("nearest"), "{elsewhere}");
    }

    #[test]
    fn an_unknown_key_is_a_warning_that_names_its_path_its_line_and_the_nearest_known_key() {
        let misspelled = [
            ("storage_folder", "lgo = 1\nstorage_folder", "storage.lgo", "storage.log"),
            (
                "port = 19999",
                "port = 19999\nprot = 1",
                "sse_server.event_stream_server.prot",
                "sse_server.event_stream_server.port",
            ),
            (
                "sse_port",
                "enable_loging = true\nsse_port",
                "sse_server.connections[0].enable_loging",
                "sse_server.connections.enable_logging",
            ),
            (
                "[sse_server]",
                "block_bytes_max = 4096\n[sse_server]",
                "storage.block_bytes_max",
                "storage.log.block_bytes_max",
            ),
            ("[sse_server]", "[rest_api_sever]\nport = 1\n[sse_server]", "rest_api_sever", "rest_api_server"),
        ];
        for (place, with_mistake, key, nearest) in misspelled {
            let Loaded { config, warnings } = loaded(&DEFAULT_SSE_ONLY.replacen(place, with_mistake, 1));
            assert_eq!(config, loaded(DEFAULT_SSE_ONLY).config);
            let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
            let text = warning.to_string();
            assert!(text.contains(&format!("`{key}` (line ")), "{text}");
            assert!(text.ends_with(&format!("the nearest known key is `{nearest}`")), "{text}");
        }
    }

    #[test]
    fn two_unknown_keys_are_two_warnings() {
        let warnings = loaded(&format!("max_thread_cuont = 1\nfoo.bar = 2\n{DEFAULT_SSE_ONLY}")).warnings;
        let texts: BTreeSet<String> = warnings.iter().map(Warning::to_string).collect();
        assert_eq!(texts.len(), 2);
        assert!(texts.contains(
            "unknown configuration key `max_thread_cuont` (line 1) is ignored; the nearest known key is `max_thread_count`"
        ));
    }

    #[test]
    fn an_unknown_key_inside_the_rpc_section_is_an_error() {
        let places =
            ["[rpc_server.main_server]", "[rpc_server.node_client]", "[rpc_server.node_client.exponential_backoff]"];
        for section in places {
            let error = refused(&DEFAULT_FULL.replace(section, &format!("{section}\nbogus = 1")));
            assert!(error.contains("unknown field `bogus`, expected one of `"), "{error}");
            assert!(error.contains(&format!("in `{}", section.trim_matches(['[', ']']))), "{error}");
        }
        let error =
            refused(&DEFAULT_FULL.replace("[rpc_server.node_client]", "[rpc_server.bogus]\n[rpc_server.node_client]"));
        assert!(error.contains("unknown field `bogus`, expected one of `main_server`, "), "{error}");
        let main_server = refused(&DEFAULT_FULL.replace("qps_limit = 100", "bogus = 100"));
        assert!(
            main_server.contains("expected one of `enable_server`, `ip_address`, `port`, `qps_limit`"),
            "{main_server}"
        );
    }

    #[test]
    fn a_password_is_in_no_error_and_in_no_debug_text() {
        let lines = [
            format!("database_password = {PASSWORD}"),
            format!("database_password = '{PASSWORD}"),
            format!("database_password = ['{PASSWORD}']"),
            format!("database_password = \"\"\"\n{PASSWORD}"),
            format!("database_password = '{PASSWORD}' '{PASSWORD}'"),
            format!("database_password = '{PASSWORD}'\ndatabase_password = '{PASSWORD}'"),
            format!("database_password = '{PASSWORD}'\nport = '5432'"),
            format!("database_password = 12{PASSWORD}"),
        ];
        for line in lines {
            let error = load(&format!("{DEFAULT_SSE_ONLY}\n[storage.postgresql_config]\n{line}\n")).unwrap_err();
            assert!(!format!("{error:?} {}", explained(&error)).contains(PASSWORD), "{error:?}");
            assert!(explained(&error).contains("at line 4"), "{}", explained(&error));
        }
        let database =
            format!("host = 'h'\ndatabase_name = 'd'\ndatabase_username = 'u'\ndatabase_password = '{PASSWORD}'");
        let loaded = loaded(&format!("{DEFAULT_SSE_ONLY}\n[storage.postgresql_config]\n{database}\n"));
        assert!(!format!("{loaded:?}").contains(PASSWORD));
        let password = loaded.config.storage.unwrap().exports.postgresql.unwrap().password;
        assert_eq!(password.reveal(), PASSWORD);
    }

    #[test]
    fn a_number_as_password_is_refused_without_showing_it() {
        let error =
            refused(&format!("{DEFAULT_SSE_ONLY}\n[storage.postgresql_config]\ndatabase_password = 918273645\n"));
        assert!(error.contains("expected a string in quotes") && !error.contains("918273645"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = load(&text);
        }

        #[test]
        fn no_damage_to_a_good_file_makes_the_parser_panic_or_show_the_password(
            era in 0..EVERY_ERA.len() + 1,
            cut in 0.0..1.0_f64,
            length in 0..40_usize,
            insert in "[\\[\\]{}=.,'\"a-z0-9_\n -]{0,12}",
        ) {
            let with_password = DEFAULT_FULL.replace("p@$$w0rd", PASSWORD);
            let text = EVERY_ERA.get(era).copied().unwrap_or(&with_password);
            let start = text.floor_char_boundary((text.len() as f64 * cut) as usize);
            let end = text.floor_char_boundary((start + length).min(text.len()));
            // Damage to the password's own line can make it part of another key, which cannot be noticed.
            let secret_line = text.find("database_password = ").map(|start| start..start + text[start..].find('\n').unwrap());
            prop_assume!(secret_line.is_none_or(|line| end < line.start || line.end <= start));
            let damaged = format!("{}{insert}{}", &text[..start], &text[end..]);
            let shown = match load(&damaged) {
                Ok(loaded) => format!("{loaded:?}"),
                Err(error) => format!("{error:?} {}", explained(&error)),
            };
            prop_assert!(!shown.contains(PASSWORD), "{shown}");
        }

        #[test]
        fn any_number_anywhere_is_taken_or_refused_but_never_panics(key in 0..1_000_usize, value in any::<i64>()) {
            let keys: Vec<String> = catalogue::SECTIONS
                .iter()
                .flat_map(|section| section.keys.iter().map(|key| section.path_of(key.name)))
                .collect();
            let key = &keys[key % keys.len()];
            let text = samples::with(EVERY_SECTION, key, toml::Value::Integer(value));
            let _ = load(&text);
        }
    }
}
