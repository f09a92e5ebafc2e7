//! docs/limits.md against the code, and the code against it: every key that is a number has its default and the values that
//! it takes there, and is tested with them.

use std::{fs, sync::LazyLock};

use super::{
    catalogue,
    description::{Kind, Origin, Unit},
    samples::{EVERY_SECTION, load, loaded, refused, with},
};

static PAGE: LazyLock<String> =
    LazyLock::new(|| fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/limits.md")).unwrap());

/// A row that names a key.
struct KeyRow {
    key: &'static str,
    /// The whole cell with the number.
    number: &'static str,
}

impl KeyRow {
    fn all() -> Vec<Self> {
        let cells = PAGE.lines().filter_map(|line| line.strip_prefix("| ")).map(|line| line.split(" | "));
        let rows = cells.filter_map(|mut cells| {
            let number = cells.nth(1)?;
            let key = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some(KeyRow { key, number })
        });
        rows.collect()
    }

    /// The default, and what is in parentheses after it.
    fn parts(&self) -> (&'static str, Option<&'static str>) {
        match self.number.split_once(" (") {
            Some((default, allowed)) => (default, allowed.strip_suffix(')')),
            None => (self.number, None),
        }
    }

    /// The default, if it is one value.
    fn default(&self) -> Option<toml::Value> {
        match self.parts().0 {
            "required" | "one per CPU" | "none" => None,
            text => Some(match text.strip_prefix('`').and_then(|text| text.strip_suffix('`')) {
                Some(word) => toml::Value::String(word.trim_matches('"').to_owned()),
                None => toml::Value::Integer(self.integer(text)),
            }),
        }
    }

    /// The smallest and the largest value that the key takes; without the latter there is no limit.
    fn allowed(&self) -> Option<(i64, Option<i64>)> {
        let allowed = self.parts().1?;
        Some(match allowed.split_once(" to ") {
            Some((smallest, largest)) => (self.integer(smallest), Some(self.integer(largest))),
            None => (self.integer(allowed.strip_suffix(" or more").unwrap_or(allowed)), None),
        })
    }

    fn integer(&self, text: &str) -> i64 {
        let (digits, unit) = text.split_once(' ').unwrap_or((text, ""));
        let shift = match unit {
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            "PiB" => 50,
            "s" if self.key.ends_with("_seconds") || self.key.ends_with("_secs") => 0,
            "ms" if self.key.ends_with("_ms") => 0,
            "" => 0,
            _ => panic!("`{}` is not in {unit}", self.key),
        };
        let number: i64 = digits.replace(',', "").parse().unwrap_or_else(|_| panic!("`{}`: {text}", self.key));
        number << shift
    }
}

#[test]
fn every_key_on_the_page_is_known_and_every_number_is_on_the_page() {
    let rows = KeyRow::all();
    for row in &rows {
        assert!(catalogue::key(row.key).is_some(), "`{}` is unknown", row.key);
    }
    for section in &catalogue::SECTIONS {
        for key in section.keys {
            let is_limit = matches!(key.kind, Kind::Number { unit, .. } if unit != Unit::Port);
            let path = section.path_of(key.name);
            let is_needed = is_limit && key.origin != Origin::NoEffect;
            assert!(!is_needed || rows.iter().any(|row| row.key == path), "`{path}` is not on the page");
        }
    }
}

#[test]
fn every_default_on_the_page_is_the_one_of_the_code() {
    let without_rest = EVERY_SECTION.replace("[rest_api_server]", "[rest_api_server]\nenable_server = false");
    let without_persistence =
        EVERY_SECTION.replace("disable_event_persistence = false", "disable_event_persistence = true");
    let texts = [EVERY_SECTION, &without_rest, &without_persistence];
    for row in KeyRow::all() {
        let Some(default) = row.default() else { continue };
        let others: Vec<toml::Value> = match &default {
            toml::Value::Integer(number) => [number - 1, number + 1].map(toml::Value::Integer).into(),
            _ => vec![],
        };
        let config = |text: &str, value: &toml::Value| load(&with(text, row.key, value.clone())).ok();
        let is_default = texts.iter().any(|text| {
            let without = loaded(text);
            let has_effect = |other| config(text, other).is_some_and(|loaded| loaded.config != without.config);
            config(text, &default).is_some_and(|loaded| loaded.config == without.config)
                && (others.is_empty() || others.iter().any(has_effect))
        });
        assert!(is_default, "{} is not the default of `{}`", row.number, row.key);
    }
}

/// Ports are numbers, but not limits: each key's smallest one.
const PORTS: [(&str, i64); 11] = [
    ("storage.postgresql_config.port", 1),
    ("sse_server.connections.sse_port", 1),
    ("sse_server.connections.rest_port", 1),
    ("sse_server.event_stream_server.port", 0),
    ("rest_api_server.port", 0),
    ("admin_api_server.port", 0),
    ("beacon.port", 0),
    ("rpc_server.main_server.port", 0),
    ("rpc_server.speculative_exec_server.port", 0),
    ("rpc_server.node_client.port", 1),
    ("grpc.port", 0),
];

#[test]
fn every_number_is_taken_up_to_its_limits_and_refused_beyond_with_key_value_and_range() {
    let rows = KeyRow::all().into_iter();
    let limits = rows.filter_map(|row| row.allowed().map(|(smallest, largest)| (row.key, smallest, largest)));
    let ports = PORTS.into_iter().map(|(key, smallest)| (key, smallest, Some(65_535)));
    for (key, smallest, largest) in limits.chain(ports) {
        let with_number = |value| with(EVERY_SECTION, key, toml::Value::Integer(value));
        loaded(&with_number(smallest));
        loaded(&with_number(largest.unwrap_or(i64::MAX)));
        let too_small = [smallest - 1, i64::MIN].into_iter();
        for value in too_small.chain(largest.map(|largest| [largest + 1, i64::MAX]).into_iter().flatten()) {
            let error = refused(&with_number(value));
            let key = key.replace("connections.", "connections[0].");
            assert!(error.contains(&format!("`{key}` is {value} (line ")), "{error}");
            if let Some(largest) = largest {
                assert!(error.starts_with("Error constructing config\n"), "{error}");
                assert!(error.contains(&format!("; set it to a number from {smallest} to {largest}")), "{error}");
            }
        }
    }
}
