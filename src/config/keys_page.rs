//! Generates `docs/configuration-keys.md` from the key descriptions. Checks that the loader accepts the keys on other pages.

use std::fmt::Write;

use sidecar_test_support::documentation::{self, Page};

use super::{
    catalogue::{self, SECTIONS},
    description::{DefaultValue, KeyDescription, Kind, Origin, SectionDescription},
    samples::{EVERY_SECTION, loaded, with},
};

const INTRO: &str = "\
# Every key

Every section and key of the configuration file. `sidecar print-config --full` prints the same as a file with comments.
[Configuration](configuration.md) explains how a file is read. A test writes this page: see [Testing](testing.md).

- **Type**: sizes and times are numbers in the unit named here, or texts with a unit such as `\"128 MiB\"` or `\"1 day\"`.
- **Limits and default**: a file with a number outside the limits is refused. *Required*: there is no default.
- **From**: the version of Sidecar that brought the key. *Casper Sidecar*: the key is the Casper Sidecar's too. *No effect*:
  accepted only for compatibility with Casper Sidecar files.
";

#[test]
fn the_page_of_keys_is_what_the_descriptions_say() {
    let mut page = INTRO.to_owned();
    for section in &SECTIONS {
        write_section(&mut page, section).unwrap();
    }
    documentation::expect_file("docs/configuration-keys.md", &page);
}

fn write_section(page: &mut String, section: &SectionDescription) -> std::fmt::Result {
    match section.header() {
        None => writeln!(page, "\n## Before the first section\n")?,
        Some(header) => writeln!(page, "\n## `{header}`\n")?,
    }
    if !section.text.is_empty() {
        writeln!(page, "{}\n", section.text)?;
    }
    if section.keys.is_empty() {
        return Ok(());
    }
    writeln!(page, "| Key | Type | Limits and default | From | What it does |\n|---|---|---|---|---|")?;
    for key in section.keys {
        let (range, origin) = (limits(key), origin(key));
        writeln!(page, "| `{}` | {} | {range} | {origin} | {} |", key.name, kind(key.kind), text(key))?;
    }
    Ok(())
}

/// What the key takes; words are listed.
fn kind(kind: Kind) -> String {
    let listed = |words: &[&str]| words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
    match kind {
        Kind::Word(words) => listed(words),
        Kind::Words(words) => format!("list of {}", listed(words)),
        kind => kind.to_string(),
    }
}

fn limits(key: &KeyDescription) -> String {
    let range = key.range();
    match key.default {
        DefaultValue::Required if range.is_empty() => "*required*".to_owned(),
        DefaultValue::Required => format!("{range}; *required*"),
        _ => range,
    }
}

fn origin(key: &KeyDescription) -> &'static str {
    match key.origin {
        Origin::Reference => "*Casper Sidecar*",
        Origin::NoEffect => "*no effect*",
        Origin::New { since } => since,
    }
}

fn text(key: &KeyDescription) -> String {
    let variable =
        key.variable.map(|name| format!(" The environment variable `{name}` overrides it.")).unwrap_or_default();
    format!("{}{variable}", key.text.replace('|', "\\|"))
}

#[test]
fn every_key_and_section_that_a_page_names_in_full_exists() {
    let roots: Vec<&str> = SECTIONS.iter().filter_map(|section| section.path.split('.').next()).collect();
    let mut count = 0;
    for page in Page::all() {
        for name in page.names() {
            let path = name.trim_matches(['[', ']']);
            let is_path =
                !path.is_empty() && path.chars().all(|letter| letter.is_ascii_lowercase() || "_.".contains(letter));
            let is_file = path.ends_with(".toml") || path.ends_with(".rs") || path.starts_with('.');
            let is_in_full = name.starts_with('[') || path.contains('.');
            let root = path.split('.').next().unwrap_or_default();
            if !is_path || is_file || !is_in_full || !roots.contains(&root) {
                continue;
            }
            let is_known = catalogue::key(path).is_some() || SECTIONS.iter().any(|section| section.path == path);
            assert!(is_known, "{}: nothing in the configuration is `{name}`", page.path.display());
            count += 1;
        }
    }
    assert!(count > 100, "only {count} keys are named");
}

#[test]
fn every_piece_of_configuration_on_a_page_is_taken() {
    let mut count = 0;
    for page in Page::all() {
        for block in page.blocks().iter().filter(|block| block.language == "toml") {
            let table: toml::Table =
                block.text.parse().unwrap_or_else(|error| panic!("{}: {error}", page.path.display()));
            let mut keys = Vec::new();
            collect("", &toml::Value::Table(table), &mut keys);
            for (path, value) in keys {
                assert!(catalogue::key(&path).is_some(), "{}: `{path}` is not a key", page.path.display());
                loaded(&with(EVERY_SECTION, &path, value));
                count += 1;
            }
        }
    }
    assert!(count > 10, "only {count} keys are set");
}

/// The full path and value of each key in `value`, which is at `path`.
fn collect(path: &str, value: &toml::Value, keys: &mut Vec<(String, toml::Value)>) {
    match value {
        toml::Value::Table(table) if catalogue::key(path).is_none() => {
            for (name, value) in table {
                collect(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, keys);
            }
        }
        toml::Value::Array(tables) if catalogue::key(path).is_none() => {
            tables.iter().for_each(|table| collect(path, table, keys));
        }
        value => keys.push((path.to_owned(), value.clone())),
    }
}
