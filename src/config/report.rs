//! What a file means: each key's value, where the value came from, and what the key does.
//!
//! `sidecar check-config` prints it, for people or as JSON. No secret is in it.

use std::{fmt, path::Path};

use serde::Serialize;
use serde_json::Value;
use toml::de::DeValue;

use super::{
    Config, Loaded,
    catalogue::SECTIONS,
    description::{DefaultValue, KeyDescription, Kind, Origin, Quantity, SectionDescription, Unit},
    document::{Document, Respelled},
    environment::Environment,
    error::{ConfigError, NotConstructed, UnreadableFile},
    quantities::{self, Digits},
    read_text,
    sections::postgresql,
};
use crate::casper::rest::DatabaseOptions;

/// What is shown instead of a secret.
const HIDDEN: &str = "********";
/// Where the source of a value begins, in columns.
const SOURCE_COLUMN: usize = 56;

/// What a file means.
#[derive(Debug, Serialize)]
pub struct Report {
    file: String,
    warnings: Vec<String>,
    old_spellings: Vec<Respelled>,
    sections: Vec<SectionReport>,
}

/// What a section means.
#[derive(Debug, Serialize)]
struct SectionReport {
    /// As in the file: `sse_server.connections[0]`. Empty for the keys before the first section.
    section: String,
    /// Its line; without one the file does not have it.
    line: Option<usize>,
    /// Whether it has an effect.
    in_use: bool,
    keys: Vec<KeyReport>,
}

/// What a key means.
#[derive(Debug, Serialize)]
struct KeyReport {
    key: String,
    /// `null` where nothing is set and the default is no single value.
    value: Value,
    #[serde(flatten)]
    source: Source,
    #[serde(flatten)]
    status: Status,
    /// The value for people.
    #[serde(skip)]
    shown: String,
    #[serde(rename = "type")]
    kind: String,
    /// Limits and default.
    range: String,
    /// What it does.
    text: &'static str,
    #[serde(skip)]
    summary: &'static str,
}

/// Where a value came from.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
enum Source {
    File { line: Option<usize> },
    Environment { variable: String },
    Default,
}

/// What an operator of the Casper Sidecar should know of a key.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Status {
    /// The Casper Sidecar has it too.
    Reference,
    /// It has no effect any more.
    Deprecated,
    /// Only Sidecar has it.
    New { since: &'static str },
}

impl Report {
    /// Reads the file at `path`, with this process's environment.
    ///
    /// # Errors
    /// Those with which Sidecar would not start.
    pub fn of_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path).map_err(|error| NotConstructed::Unreadable(UnreadableFile::new(path, error)))?;
        Self::of_text(path.display().to_string(), &text, &|variable| std::env::var(variable).ok())
    }

    fn of_text(file: String, text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (digits, environment) = (Digits::default(), Environment::new(variables));
        let mut document = Document::parse(text).map_err(NotConstructed::Toml)?;
        let Loaded { config, warnings } = Config::read(&mut document, &digits, &environment)?;
        let sections = SECTIONS.iter().flat_map(|section| section_reports(section, &document, &config, &environment));
        let sections = sections.collect();
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Ok(Self { file, warnings, sections, old_spellings: document.respelled })
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> String {
        // Names and numbers cannot fail to be JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The reports of all tables that `section` describes.
fn section_reports(
    section: &SectionDescription,
    document: &Document<'_>,
    config: &Config,
    environment: &Environment<'_>,
) -> Vec<SectionReport> {
    let report = |path: String| {
        let line = if path.is_empty() { None } else { document.line_of(&path) };
        let in_use = line.is_some() || is_in_use_without_lines(section, document, config);
        let keys = match in_use {
            true => section.keys.iter().map(|key| key_report(key, &path, document, environment)).collect(),
            false => Vec::new(),
        };
        SectionReport { section: path, line, in_use, keys }
    };
    if !section.is_list {
        return vec![report(section.path.to_owned())];
    }
    let tables = document.value(section.path).and_then(|tables| tables.get_ref().as_array()).map_or(0, |all| all.len());
    (0..tables).map(|index| report(format!("{}[{index}]", section.path))).collect()
}

/// Whether a section that the file does not have is in use all the same.
fn is_in_use_without_lines(section: &SectionDescription, document: &Document<'_>, config: &Config) -> bool {
    if section.path == postgresql::SECTION.path {
        let in_storage = config.storage.as_ref().and_then(|storage| storage.exports.postgresql.as_ref());
        let in_rest = config.rest_api_server.as_ref().and_then(|rest| rest.database.as_ref());
        return in_storage.is_some() || matches!(in_rest, Some(DatabaseOptions::PostgreSql(_)));
    }
    let has_switch = section.keys.iter().any(|key| key.name == "enabled" || key.name == "enable_server");
    match section.path.rsplit_once('.') {
        None => section.path.is_empty(),
        Some((around, _)) => !has_switch && document.value(around).is_some(),
    }
}

fn key_report(
    key: &KeyDescription,
    section: &str,
    document: &Document<'_>,
    environment: &Environment<'_>,
) -> KeyReport {
    let path = if section.is_empty() { key.name.to_owned() } else { format!("{section}.{}", key.name) };
    let in_environment = key.variable.and_then(|variable| Some((variable, environment.decisive(variable)?)));
    let (value, source) = match (in_environment, document.value(&path)) {
        (Some((variable, decisive)), _) => {
            let value = environment.get(variable).ok().flatten().map_or(Value::Null, Value::String);
            (value, Source::Environment { variable: decisive })
        }
        (None, Some(value)) => (json(value.get_ref()), Source::File { line: document.line_of(&path) }),
        (None, None) => (default(key), Source::Default),
    };
    let value = if key.kind == Kind::Secret && !value.is_null() { Value::from(HIDDEN) } else { value };
    let status = match key.origin {
        Origin::Reference => Status::Reference,
        Origin::NoEffect => Status::Deprecated,
        Origin::New { since } => Status::New { since },
    };
    let shown = shown(key, &value);
    KeyReport {
        key: path,
        value,
        source,
        status,
        shown,
        kind: key.kind.to_string(),
        range: key.range(),
        text: key.text,
        summary: key.summary(),
    }
}

/// The value of a key that is not set.
fn default(key: &KeyDescription) -> Value {
    let DefaultValue::Value(default) = key.default else { return Value::Null };
    let Ok(default) = DeValue::parse(default) else { return Value::Null };
    match quantities::number_in_words(key, default.get_ref()) {
        Some(number) => Value::from(number),
        None => json(default.get_ref()),
    }
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Float(number) => Value::from(number.as_str()),
        DeValue::Boolean(switch) => Value::from(*switch),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(values) => values.iter().map(|value| json(value.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref()))).collect()
        }
    }
}

/// The value for people.
fn shown(key: &KeyDescription, value: &Value) -> String {
    match (key.kind, value.as_i64(), key.default) {
        (_, Some(0), _) if key.takes_none() => "none".to_owned(),
        (Kind::Number { unit: unit @ (Unit::Bytes | Unit::Seconds | Unit::Milliseconds), .. }, Some(number), _) => {
            Quantity(number, unit).to_string()
        }
        (_, _, DefaultValue::Otherwise(words)) if value.is_null() => format!("({words})"),
        _ => value.to_string(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, warnings, old_spellings, sections } = self;
        for section in sections {
            match (section.section.as_str(), section.line, section.in_use) {
                ("", ..) => writeln!(out, "{file}")?,
                (path, Some(line), _) => writeln!(out, "\n[{path}]  line {line}")?,
                (path, None, true) => writeln!(out, "\n[{path}]  not in the file; in use")?,
                (path, None, false) => writeln!(out, "\n[{path}]  not in the file; off")?,
            }
            section.keys.iter().try_for_each(|key| write!(out, "{key}"))?;
        }
        if !old_spellings.is_empty() {
            writeln!(out, "\nOld spellings, which still work:")?;
        }
        for Respelled { old, line, new } in old_spellings {
            writeln!(out, "  line {line}: `{old}` is now `{new}`")?;
        }
        if !warnings.is_empty() {
            writeln!(out, "\nWarnings:")?;
        }
        warnings.iter().try_for_each(|warning| writeln!(out, "  {warning}"))?;
        writeln!(out, "\n{file} can be used. Old spellings: {}. Warnings: {}.", old_spellings.len(), warnings.len())
    }
}

impl fmt::Display for KeyReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.key.rsplit_once('.').map_or(self.key.as_str(), |(_, name)| name);
        let setting = format!("{name} = {}", self.shown);
        let source = match &self.source {
            Source::File { line: Some(line) } => format!("line {line}"),
            Source::File { line: None } => "file".to_owned(),
            Source::Environment { variable } => variable.clone(),
            Source::Default => "default".to_owned(),
        };
        let status = match self.status {
            Status::Reference => String::new(),
            Status::Deprecated => ", deprecated".to_owned(),
            Status::New { since } => format!(", new in Sidecar {since}"),
        };
        let summary = self.summary;
        writeln!(out, "  {setting:SOURCE_COLUMN$} {source}{status}\n      {summary}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{
        DEFAULT_FULL, DEFAULT_SSE_ONLY, ERA_2023_09, EVERY_ERA, PASSWORD, REST_FROM_POSTGRESQL,
    };

    fn report_with(text: &str, variables: &[(&str, &str)]) -> Report {
        let variables =
            |asked: &str| variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned());
        Report::of_text("x.toml".to_owned(), text, &variables).unwrap()
    }

    fn report(text: &str) -> Report {
        report_with(text, &[])
    }

    impl Report {
        fn key(&self, path: &str) -> &KeyReport {
            let keys = self.sections.iter().flat_map(|section| &section.keys);
            keys.into_iter().find(|key| key.key == path).unwrap_or_else(|| panic!("`{path}`"))
        }
    }

    impl KeyReport {
        fn source_line(&self) -> Option<usize> {
            if let Source::File { line } = self.source { line } else { None }
        }
    }

    #[test]
    fn each_key_has_its_value_and_where_that_came_from() {
        let text = format!("{DEFAULT_SSE_ONLY}\n[storage.log]\nsegment_bytes_max = '64 MiB'\n");
        let report = report(&text);
        let line = |part: &str| text.lines().position(|line| line.starts_with(part)).map(|line| line + 1);
        let folder = report.key("storage.storage_folder");
        assert_eq!(folder.source, Source::File { line: line("storage_folder") });
        assert_eq!((folder.value.as_str(), &folder.status), (Some("./storage"), &Status::Reference));
        let size = report.key("storage.log.segment_bytes_max");
        assert_eq!((size.value.as_i64(), size.shown.as_str()), (Some(64 << 20), "64 MiB"));
        assert_eq!(size.source, Source::File { line: line("segment_bytes_max") });
        assert_eq!(size.status, Status::New { since: "0.1.0" });
        let age = report.key("storage.log.segment_age_max_seconds");
        assert_eq!((age.value.as_i64(), &age.source), (Some(86_400), &Source::Default));
        assert_eq!(report.key("storage.log.retention_age_max").shown, "none");
        assert_eq!(report.key("network_name").shown, "(any network)");
        assert_eq!(report.key("sse_server.connections[0].sse_port").value, Value::from(9999));
        let text = report.to_string();
        for part in
            ["segment_bytes_max = 64 MiB", "new in Sidecar 0.1.0", "A log file is finished when it has this size."]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn sections_that_are_not_in_the_file_are_off_or_have_their_defaults() {
        let report = report(DEFAULT_SSE_ONLY);
        let section = |path: &str| report.sections.iter().find(|section| section.section == path).unwrap();
        assert!(section("storage.log").in_use && !section("storage.log").keys.is_empty());
        for off in ["rest_api_server", "storage.sqlite_config", "storage.postgresql_config", "rpc_server.node_client"] {
            assert!(!section(off).in_use && section(off).keys.is_empty(), "{off}");
        }
    }

    #[test]
    fn addresses_and_the_sections_of_a_server_are_reported_as_the_file_has_them() {
        let report = report(&format!(
            "{DEFAULT_SSE_ONLY}\n[rest_api_server]\nport = 1\nip_address = ['127.0.0.1', '::1']\n\
             tls = {{ certificate_file = '/c', key_file = '/k' }}\n"
        ));
        let addresses = report.key("rest_api_server.ip_address");
        assert_eq!(
            (addresses.shown.as_str(), addresses.kind.as_str()),
            (r#"["127.0.0.1","::1"]"#, "IP address, or a list")
        );
        let line = addresses.source_line().unwrap();
        let certificate = report.key("rest_api_server.tls.certificate_file");
        assert_eq!((certificate.shown.as_str(), certificate.source_line()), (r#""/c""#, Some(line + 1)));
        assert_eq!(report.key("rest_api_server.tls.enabled").source, Source::Default);
        let is_in_use = |path: &str| report.sections.iter().find(|section| section.section == path).unwrap().in_use;
        assert!(is_in_use("rest_api_server.tls") && !is_in_use("rest_api_server.bearer_tokens"));
    }

    #[test]
    fn variables_and_the_files_that_they_name_are_sources() {
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut secret, PASSWORD.as_bytes()).unwrap();
        let variables = [
            ("SIDECAR_POSTGRES_HOST", "there"),
            ("SIDECAR_POSTGRES_DATABASE_NAME", "d"),
            ("SIDECAR_POSTGRES_USERNAME", "u"),
            ("SIDECAR_POSTGRES_PASSWORD_FILE", secret.path().to_str().unwrap()),
        ];
        for text in [DEFAULT_SSE_ONLY, REST_FROM_POSTGRESQL] {
            let report = report_with(text, &variables);
            let host = report.key("storage.postgresql_config.host");
            assert_eq!(host.source, Source::Environment { variable: "SIDECAR_POSTGRES_HOST".to_owned() });
            assert_eq!(host.value, Value::from("there"));
            let password = report.key("storage.postgresql_config.database_password");
            let variable = "SIDECAR_POSTGRES_PASSWORD_FILE".to_owned();
            assert_eq!((&password.source, password.value.as_str()), (&Source::Environment { variable }, Some(HIDDEN)));
            assert!(!format!("{report} {} {report:?}", report.json()).contains(PASSWORD));
        }
    }

    #[test]
    fn a_password_in_the_file_is_hidden() {
        let report = report(&DEFAULT_FULL.replace("p@$$w0rd", PASSWORD));
        assert_eq!(report.key("storage.postgresql_config.database_password").value, Value::from(HIDDEN));
        assert!(!format!("{report} {} {report:?}", report.json()).contains(PASSWORD));
    }

    #[test]
    fn old_spellings_and_deprecated_keys_are_marked() {
        let report = report(ERA_2023_09);
        let text = report.to_string();
        assert!(text.contains("`rest_server` is now `rest_api_server`"), "{text}");
        assert!(text.contains("`storage.storage_path` is now `storage.storage_folder`"), "{text}");
        assert_eq!(report.key("sse_server.connections[0].allow_partial_connection").status, Status::Deprecated);
        for era in EVERY_ERA {
            assert!(
                !Report::of_text(String::new(), era, &|_| None).unwrap().old_spellings.is_empty()
                    || !era.contains("storage_path")
            );
        }
    }

    #[test]
    fn the_report_for_programs_is_json_with_every_part() {
        let report: Value = serde_json::from_str(&report(DEFAULT_FULL).json()).unwrap();
        let keys =
            report["sections"].as_array().unwrap().iter().flat_map(|section| section["keys"].as_array().unwrap());
        let keys: Vec<&Value> = keys.collect();
        assert!(keys.len() > 100, "{}", keys.len());
        let port = keys.iter().find(|key| key["key"] == "rest_api_server.port").unwrap();
        assert_eq!((&port["value"], &port["source"]), (&Value::from(18888), &Value::from("file")));
        assert_eq!((&port["status"], &port["type"]), (&Value::from("reference"), &Value::from("port")));
        assert!(port["line"].is_u64() && port["text"].is_string());
    }
}
