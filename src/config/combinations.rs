//! Checks across sections: which parts may run together, and what one section means for another.
//!
//! A section that is switched off is checked for its TOML types only, so that a leftover in it stops no start.

use super::{
    catalogue,
    document::Document,
    environment::Environment,
    error::{ConfigError, Fix, Refusal, Warning},
    section::Section,
    sections::{
        File, admin_api_server,
        beacon::{self, Beacon},
        grpc, logging,
        rest_api_server::{self, AnswerFrom, RestApiServer},
        rpc_server::{self, RpcServer},
        sse_server::{self, SseServer},
        storage::{self, Exports, Storage},
        threads::{self, Threads},
    },
};
use crate::admin::AdminOptions;
use crate::grpc::Options as GrpcOptions;
use crate::telemetry::LogOptions;

/// All settings. A part that is absent from the file or switched off in it is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How many threads to use.
    pub threads: Threads,
    /// How log lines look, and which are shown.
    pub logging: LogOptions,
    /// The chain's name that every node must report; any when `None`.
    pub network_name: Option<String>,
    /// `[storage]`: where the log is, and the databases it is exported to. Always there when `sse_server` is; without
    /// that, nothing uses it.
    pub storage: Option<Storage>,
    /// `[sse_server]`: which nodes to read, and the event stream server.
    pub sse_server: Option<SseServer>,
    /// `[rest_api_server]`.
    pub rest_api_server: Option<RestApiServer>,
    /// `[admin_api_server]`.
    pub admin_api_server: Option<AdminOptions>,
    /// `[rpc_server]`: there when one of its two servers is enabled.
    pub rpc_server: Option<RpcServer>,
    /// `[beacon]`: which consensus clients to read, and the server of their events. `storage` is there when this is.
    pub beacon: Option<Beacon>,
    /// `[grpc]`: the gRPC gateway and the streams that it records. With such streams, `storage` is there too.
    pub grpc: Option<GrpcOptions>,
}

/// The settings that `file`, read from `document`, and `environment` ask for.
pub(super) fn check(file: File, document: &Document<'_>, environment: &Environment<'_>) -> Result<Config, ConfigError> {
    let section = |path: &str| Section::new(document, environment, catalogue::key, path);

    let sse_enabled = file.sse_server.as_ref().is_some_and(|sse| sse.enable_server);
    let rpc_enabled = file.rpc_server.as_ref().is_some_and(|rpc| rpc.main_server.enable_server);
    let rest = file.rest_api_server.filter(|rest| rest.enable_server);
    let rest_from = |place| rest.as_ref().is_some_and(|rest| rest.answer_from == place);
    let rest_from_log = rest_from(AnswerFrom::Log);
    let rest_from_postgresql = rest_from(AnswerFrom::PostgreSql);
    let rest_from_database = rest.as_ref().is_some_and(|rest| rest.answer_from.is_database());
    let beacon_enabled = file.beacon.as_ref().is_some_and(|beacon| beacon.enable_server);
    let grpc = file.grpc.filter(|grpc| grpc.enable_server);
    let records_grpc = grpc.as_ref().is_some_and(|grpc| !grpc.streams.is_empty());
    if !sse_enabled && !rpc_enabled && !rest_from_database && !beacon_enabled && grpc.is_none() {
        return Err(Refusal::NothingEnabled(Fix(format!("add `[sse_server]`; {REST_ALONE}"))).into());
    }
    let storage_folder = file.storage.as_ref().and_then(|storage| storage.storage_folder.as_ref());
    if sse_enabled && storage_folder.is_none() {
        return Err(Refusal::SseWithoutStorage(None).into());
    }
    if rest_from_log && !sse_enabled && !beacon_enabled && !records_grpc {
        let fix =
            format!("`[rest_api_server]` answers from the log, which needs `[sse_server]`: add that; {REST_ALONE}");
        return Err(Refusal::RestWithoutLog(Fix(fix)).into());
    }

    let grpc = grpc.map(|grpc| grpc::check(grpc, &section("grpc"))).transpose()?;
    if storage_folder.is_none() && records_grpc {
        let fix = "`[[grpc.streams]]` are stored in logs: set `storage_folder` in `[storage]`, or delete them";
        return Err(section("grpc").invalid("streams", "set", fix));
    }
    let threads = threads::check(file.max_thread_count, file.max_blocking_thread_count, &section(""))?;
    let logging = logging::check(file.log_format, file.log_level, &section(""))?;
    let sse_server = file.sse_server.filter(|sse| sse.enable_server);
    let sse_server = sse_server.map(|sse| sse_server::check(sse, &section("sse_server"))).transpose()?;
    let is_exporting = sse_server.as_ref().is_none_or(|sse| sse.keep_only_newest.is_none());
    let mut storage = file.storage;
    let postgresql = match is_exporting || rest_from_postgresql {
        true => storage::check_postgresql(storage.as_mut(), &section("storage"), environment)?,
        false => None,
    };
    let exports = match is_exporting {
        true => Exports::On { postgresql: postgresql.clone() },
        false => Exports::Off,
    };
    let sqlite = storage::sqlite_file(storage.as_ref());
    let storage = storage.map(|storage| storage::check(storage, exports, rest_from_log, &section("storage")));
    let storage = storage.transpose()?.flatten();
    let rest = rest.map(|rest| rest_api_server::check(&rest, sqlite, postgresql, &section("rest_api_server")));
    let rest_api_server = rest.transpose()?;
    let admin = file.admin_api_server.filter(|admin| admin.enable_server);
    let admin = admin.map(|admin| admin_api_server::check(&admin, &section("admin_api_server")));
    let admin_api_server = admin.transpose()?;
    let beacon = file.beacon.filter(|beacon| beacon.enable_server);
    let beacon = beacon.map(|beacon| beacon::check(beacon, storage.is_some(), &section("beacon"))).transpose()?;
    let network_name = file.network_name.as_deref();
    let rpc = file.rpc_server.map(|rpc| rpc_server::check(rpc, sse_enabled, network_name, &section("rpc_server")));
    let rpc_server = rpc.transpose()?.flatten();
    Ok(Config {
        threads,
        logging,
        network_name: file.network_name,
        storage,
        sse_server,
        rest_api_server,
        admin_api_server,
        rpc_server,
        beacon,
        grpc,
    })
}

/// The enabled databases that no events are exported to, but for the one that REST answers from.
pub(super) fn nothing_to_export(file: &File, document: &Document<'_>) -> Vec<Warning> {
    let reason = match file.sse_server.as_ref().filter(|sse| sse.enable_server) {
        None => "without `[sse_server]` there are no events; add that",
        Some(sse) if sse.disable_event_persistence => {
            "`disable_event_persistence = true` keeps only the newest events; set that to false"
        }
        Some(_) => return Vec::new(),
    };
    let Some(storage) = &file.storage else { return Vec::new() };
    let rest = file.rest_api_server.as_ref().filter(|rest| rest.enable_server);
    let is_read = |place| rest.is_some_and(|rest| rest.answer_from == place);
    let sqlite = storage.sqlite_config.as_ref().is_some_and(|sqlite| sqlite.enabled && !is_read(AnswerFrom::Sqlite));
    let postgresql = storage
        .postgresql_config
        .as_ref()
        .is_some_and(|postgresql| postgresql.enabled && !is_read(AnswerFrom::PostgreSql));
    let sections = [(sqlite, "storage.sqlite_config"), (postgresql, "storage.postgresql_config")];
    let unused = sections.into_iter().filter(|(is_unused, _)| *is_unused);
    unused.map(|(_, section)| Warning::NothingToExport { section, reason, line: document.line_of(section) }).collect()
}

/// The other way out for a file with REST and without nodes.
const REST_ALONE: &str = "for REST without nodes set `rest_api_server.answer_from` to \"postgresql\" or \"sqlite\", which \
    answers from a database that another Sidecar fills";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        casper::{
            export,
            rest::DatabaseOptions,
            rpc::{Role, ServerOptions},
        },
        config::{
            Loaded,
            samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, RPC_ONLY, loaded, refused},
        },
    };

    #[test]
    fn with_look_ups_the_block_cache_is_larger_unless_it_is_set() {
        let cache = |text: &str| loaded(text).config.storage.unwrap().log.block_cache_bytes;
        let with_rest = format!("{DEFAULT_SSE_ONLY}\n[rest_api_server]\nport = 18888\n");
        assert_eq!(cache(&with_rest), 16_777_216);
        let switched_off = format!("{with_rest}enable_server = false\n");
        assert_eq!(cache(&switched_off), 8_388_608);
        let set = format!("{with_rest}[storage.log]\nblock_cache_bytes = 2_000_000\n");
        assert_eq!(cache(&set), 2_000_000);
    }

    #[test]
    fn neither_rpc_nor_sse_is_refused_in_the_words_operators_know() {
        let text = "At least one of RPC server or SSE server must be configured\n\
                    add `[sse_server]`; for REST without nodes set `rest_api_server.answer_from` to \"postgresql\" or \
                    \"sqlite\", which answers from a database that another Sidecar fills";
        assert_eq!(refused(""), text);
        assert_eq!(refused("[storage]\nstorage_folder = 'x'\n[rest_api_server]\nport = 1"), text);
        assert_eq!(refused(&DEFAULT_SSE_ONLY.replace("enable_server = true", "enable_server = false")), text);
        let speculative_alone =
            format!("{RPC_ONLY}[rpc_server.speculative_exec_server]\nip_address = '::'\nport = 0\n")
                .replace("port = 7777", "port = 7777\nenable_server = false");
        assert_eq!(refused(&speculative_alone), text);
    }

    #[test]
    fn sse_without_storage_is_refused_in_the_words_operators_know() {
        let without = DEFAULT_SSE_ONLY.replace("[storage]\n", "").replace("storage_folder = \"./storage\"\n", "");
        let text = "Can't run SSE if no `[storage.storage_folder]` is defined";
        assert_eq!(refused(&without), text);
        assert_eq!(refused(&without.replace("[sse_server]", "[storage.log]\n[sse_server]")), text);
    }

    const POSTGRESQL: &str = "
        [storage.postgresql_config]
        host = 'h'
        database_name = 'd'
        database_username = 'u'
        database_password = 'p'
    ";
    const REST_FROM_POSTGRESQL: &str = "[rest_api_server]\nport = 18888\nanswer_from = 'postgresql'\n";

    #[test]
    fn rest_from_postgresql_needs_nothing_but_the_database() {
        let admin = "[admin_api_server]\nport = 18887\n";
        let with_folder = format!("[storage]\nstorage_folder = 'x'\n{POSTGRESQL}{REST_FROM_POSTGRESQL}{admin}");
        for text in [&format!("{POSTGRESQL}{REST_FROM_POSTGRESQL}"), &with_folder] {
            let Loaded { config, warnings } = loaded(text);
            assert_eq!((warnings, &config.sse_server), (vec![], &None));
            let database = postgresql(config).unwrap();
            assert_eq!((database.host.as_str(), database.port, database.max_connections), ("h", 5432, 10));
        }
        let variables = |variable: &str| variable.starts_with("SIDECAR_POSTGRES_").then(|| "7".to_owned());
        let variables =
            |variable: &str| variables(variable).filter(|_| !variable.contains("SSL") && !variable.ends_with("_FILE"));
        let config = Config::parse(REST_FROM_POSTGRESQL, variables).unwrap().config;
        let database = postgresql(config).unwrap();
        assert_eq!((database.host.as_str(), database.port), ("7", 7));
    }

    #[test]
    fn rest_from_postgresql_goes_with_everything_else() {
        let full = DEFAULT_FULL.replace("answer_from = \"log\"", "answer_from = \"postgresql\"");
        let error = refused(&full);
        for part in [
            "`rest_api_server.answer_from` is 'postgresql' (line ",
            "no PostgreSQL database is configured: add `[storage.postgresql_config]`, enabled, or set SIDECAR_POSTGRES_HOST",
            "or set this key to 'log'",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let full = full.replace("\nenabled = false", "\nenabled = true");
        let answers_from = |text: &str| postgresql(loaded(text).config);
        let exported_to = |text: &str| loaded(text).config.storage.unwrap().exports.postgresql;
        assert!(answers_from(&full).is_some());
        assert_eq!(answers_from(&full), exported_to(&full));
        // Nothing is exported then, but another may fill the database.
        let short = full.replace("disable_event_persistence = false", "disable_event_persistence = true");
        assert!(answers_from(&short).is_some());
        assert_eq!(exported_to(&short), None);
        assert_eq!(answers_from(DEFAULT_FULL), None);

        let error = refused(&DEFAULT_FULL.replace("answer_from = \"log\"", "answer_from = \"sqlite3\""));
        assert!(error.contains("unknown variant `sqlite3`, expected one of `log`, `sqlite`, `postgresql`"), "{error}");
    }

    #[test]
    fn rest_from_sqlite_reads_the_file_of_its_section_with_and_without_an_export() {
        let from_sqlite = |text: &str| text.replace("answer_from = \"log\"", "answer_from = \"sqlite\"");
        let full = from_sqlite(DEFAULT_FULL);
        let error = refused(&full);
        for part in [
            "`rest_api_server.answer_from` is 'sqlite' (line ",
            "no SQLite database is configured: add `[storage.sqlite_config]`, enabled, and `storage_folder`",
            "or set this key to 'log'",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let config = loaded(&full.replace("enabled = false", "enabled = true")).config;
        let file = PathBuf::from("./storage/sqlite_database.db3");
        assert_eq!(config.rest_api_server.unwrap().database, Some(DatabaseOptions::Sqlite(file.clone())));
        assert_eq!(config.storage.unwrap().exports.sqlite.unwrap().file, file);

        let alone = "[storage]\nstorage_folder = 'x'\n[storage.sqlite_config]\nfile_name = 'y'\n\
                     [rest_api_server]\nport = 1\nanswer_from = 'sqlite'\n";
        let Loaded { config, warnings } = loaded(alone);
        assert_eq!((warnings, config.sse_server), (vec![], None));
        assert_eq!(config.rest_api_server.unwrap().database, Some(DatabaseOptions::Sqlite("x/y".into())));
        refused(&alone.replace("storage_folder = 'x'\n", ""));
    }

    fn postgresql(config: Config) -> Option<export::postgresql::Options> {
        match config.rest_api_server.unwrap().database {
            Some(DatabaseOptions::PostgreSql(database)) => Some(database),
            _ => None,
        }
    }

    #[test]
    fn a_database_that_nothing_is_exported_to_is_named() {
        let sqlite = "[storage.sqlite_config]\nfile_name = 'x'\n";
        let warnings = |text: &str| loaded(text).warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rest_alone = format!("{sqlite}{POSTGRESQL}{REST_FROM_POSTGRESQL}");
        let words = "nothing is exported to `[storage.sqlite_config]` (line 1): without `[sse_server]` there are no events; \
                     add that, or set `enabled = false` there";
        assert_eq!(warnings(&rest_alone), [words]);
        assert_eq!(warnings(&rest_alone.replace("'x'", "'x'\nenabled = false")), [""; 0]);
        let rpc_alone = warnings(&format!("{RPC_ONLY}[storage]\nstorage_folder = 'x'\n{sqlite}{POSTGRESQL}"));
        assert_eq!(rpc_alone.len(), 2, "{rpc_alone:?}");
        assert!(rpc_alone[1].contains("`[storage.postgresql_config]` (line "), "{rpc_alone:?}");
        let exported = DEFAULT_FULL.replace("\nenabled = false", "\nenabled = true");
        assert_eq!(warnings(&exported), [""; 0]);
        let short = exported.replace("disable_event_persistence = false", "disable_event_persistence = true");
        let words = "`disable_event_persistence = true` keeps only the newest events; set that to false, or set";
        assert_eq!(warnings(&short).iter().filter(|warning| warning.contains(words)).count(), 2, "{short}");
    }

    #[test]
    fn rest_from_a_log_without_a_writer_is_refused_with_both_remedies() {
        let rest =
            "[storage]\nstorage_folder = 'x'\n[rest_api_server]\nport = 18888\n[admin_api_server]\nport = 18887\n";
        let error = refused(&format!("{RPC_ONLY}{rest}"));
        let expected = "Can't run Rest api server with SSE events persistence disabled\n`[rest_api_server]` answers from the \
                        log, which needs `[sse_server]`: add that; for REST without nodes set \
                        `rest_api_server.answer_from` to \"postgresql\" or \"sqlite\", which answers from a database that \
                        another Sidecar fills";
        assert_eq!(error, expected);
        let from_postgresql = rest.replace("port = 18888", "port = 18888\nanswer_from = 'postgresql'");
        assert!(loaded(&format!("{RPC_ONLY}{from_postgresql}{POSTGRESQL}")).config.rpc_server.is_some());
        loaded(&format!("{RPC_ONLY}{}", rest.replace("[rest_api_server]", "[rest_api_server]\nenable_server = false")));
    }

    #[test]
    fn rpc_alone_needs_no_storage() {
        let config = loaded(RPC_ONLY).config;
        assert!(config.rpc_server.is_some() && config.storage.is_none() && config.sse_server.is_none());
    }

    #[test]
    fn rest_and_admin_need_no_database_and_no_enable_key() {
        let text = format!("{DEFAULT_SSE_ONLY}[rest_api_server]\nport = 18888\n[admin_api_server]\nport = 18887\n");
        let Loaded { config, warnings } = loaded(&text);
        assert_eq!(warnings, []);
        let ports = (config.rest_api_server.unwrap().options.port, config.admin_api_server.unwrap().port);
        assert_eq!(ports, (18888, 18887));
    }

    #[test]
    fn what_is_switched_off_is_absent_and_may_hold_useless_numbers() {
        let text = DEFAULT_FULL
            .replacen("enable_server = true\n# The address", "enable_server = false\n# The address", 2)
            .replace("max_requests_per_second = 50", "max_requests_per_second = 0")
            .replace("max_concurrent_requests = 1\n", "max_concurrent_requests = -1\n");
        let config = loaded(&text).config;
        assert_eq!((config.rest_api_server, config.admin_api_server), (None, None));
        let servers = config.rpc_server.unwrap().options.servers;
        assert!(matches!(servers.as_slice(), [ServerOptions { role: Role::Main, .. }]), "{servers:?}");
    }

    #[test]
    fn sse_may_be_off_while_rpc_is_on() {
        let text = DEFAULT_FULL.replacen("enable_server = true", "enable_server = false", 1);
        let text = text.replace(
            "[rest_api_server]\n# Whether this server runs. Default true.\nenable_server = true",
            "[rest_api_server]\nenable_server = false",
        );
        let config = loaded(&text).config;
        assert!(config.sse_server.is_none() && config.rpc_server.is_some());
    }
}
