//! Configuration files with a comment above each key, from the descriptions in the [`catalogue`].
//!
//! `sidecar print-config` and `sidecar init` print them, and the files in `resources/example_configs` are theirs.

use super::{
    catalogue::SECTIONS,
    description::{KeyDescription, SectionDescription},
};

/// The widest line.
const COLUMNS: usize = 120;

/// A file with every key that there is. A key whose default is not a single value is commented out, and a section with
/// such keys only.
#[must_use]
pub fn every_key() -> String {
    let intro = "Every key of Sidecar's configuration. Where a comment names a default, the key may be left out. Older spellings of \
                 keys and sections, back to those of 2022, still work.\n\
                 A size may be a number of bytes or a text such as \"128 MiB\"; a time a number or a text such as \"1 day\". Where \
                 a key of Sidecar's own may be 0, \"none\" is another word for that.\n\
                 Printed by `sidecar print-config --full`. `sidecar check-config FILE` reports what a file means.";
    let sections = SECTIONS.iter().map(|section| {
        section.keys.iter().fold(Section::new(section.path), |filled, key| match key.is_left_out() {
            true => filled.leaving_out(key.name),
            false => filled.with(key.name),
        })
    });
    Draft { intro: intro.to_owned(), sections: sections.collect() }.text()
}

/// A file with the keys that are needed beside one node on the same machine.
#[must_use]
pub fn few_keys() -> String {
    let intro = "Sidecar beside one node on this machine: reads its event stream, stores it, and serves it on port 19999.\n\
                 `sidecar print-config --full` prints every key there is. `sidecar check-config FILE` reports what a file means.";
    let storage = Section::new("storage").with("storage_folder");
    Draft { intro: intro.to_owned(), sections: beside_nodes(storage, vec![Section::node()]) }.text()
}

/// The sections that read `nodes`, store their events in `storage`, and serve them.
pub(super) fn beside_nodes(storage: Section, nodes: Vec<Section>) -> Vec<Section> {
    let sse_server = Section::new("sse_server").with("enable_server").with("keep_trying");
    let stream = Section::new("sse_server.event_stream_server").with("port").with("max_concurrent_subscribers");
    [storage, sse_server].into_iter().chain(nodes).chain([stream]).collect()
}

/// A file to write.
pub(super) struct Draft {
    /// What the file is; each line is a paragraph.
    pub(super) intro: String,
    pub(super) sections: Vec<Section>,
}

/// A section of a file to write.
pub(super) struct Section {
    path: &'static str,
    /// Names of keys, and the values to set, as TOML; `None` shows the key without setting it.
    keys: Vec<(&'static str, Option<String>)>,
}

impl Section {
    pub(super) fn new(path: &'static str) -> Self {
        Self { path, keys: Vec::new() }
    }

    /// A node with the ports that nodes have by default.
    pub(super) fn node() -> Self {
        let names = [
            "ip_address",
            "sse_port",
            "rest_port",
            "max_attempts",
            "delay_between_retries_in_seconds",
            "enable_logging",
        ];
        names.into_iter().fold(Self::new("sse_server.connections"), Self::with)
    }

    /// Sets the key `name` to the example of its description.
    pub(super) fn with(self, name: &'static str) -> Self {
        let key = self.description().and_then(|section| section.key(name));
        let example = key.map(KeyDescription::example).unwrap_or_default();
        self.with_value(name, example.to_owned())
    }

    /// Sets the key `name` to `value`, as TOML.
    pub(super) fn with_value(mut self, name: &'static str, value: String) -> Self {
        match self.keys.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = Some(value),
            None => self.keys.push((name, Some(value))),
        }
        self
    }

    /// Shows the key `name` without setting it.
    fn leaving_out(mut self, name: &'static str) -> Self {
        self.keys.push((name, None));
        self
    }

    /// Whether none of its keys is set.
    fn is_left_out(&self) -> bool {
        !self.keys.is_empty() && self.keys.iter().all(|(_, value)| value.is_none())
    }

    fn description(&self) -> Option<&'static SectionDescription> {
        SECTIONS.iter().find(|section| section.path == self.path)
    }
}

impl Draft {
    /// The file's text. Of several tables of a list, only the first has comments.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for paragraph in self.intro.lines() {
            write_comment(&mut text, paragraph);
        }
        let mut previous = None;
        for section in &self.sections {
            let Some(description) = section.description() else { continue };
            let has_comments = previous.replace(section.path) != Some(section.path);
            text.push('\n');
            if has_comments {
                write_comment(&mut text, description.text);
            }
            if let Some(header) = description.header() {
                text.push_str(&format!("{}{header}\n", if section.is_left_out() { "#" } else { "" }));
            }
            for (name, value) in &section.keys {
                let Some(key) = description.key(name) else { continue };
                if has_comments {
                    write_comment(&mut text, &comment(key));
                }
                match value {
                    Some(value) => text.push_str(&format!("{name} = {value}\n")),
                    None => text.push_str(&format!("#{name} = {}\n", key.example())),
                }
            }
        }
        text
    }
}

/// The comment above a key: its text, its limits, and the variable that overrides it.
fn comment(key: &KeyDescription) -> String {
    let mut comment = key.text.to_owned();
    let range = key.range();
    let mut letters = range.chars();
    if let Some(first) = letters.next() {
        comment.push_str(&format!(" {}{}.", first.to_uppercase(), letters.as_str()));
    }
    if let Some(variable) = key.variable {
        comment.push_str(&format!(" Environment: {variable}."));
    }
    comment
}

/// Writes `words` as comment lines that are not too wide.
fn write_comment(text: &mut String, words: &str) {
    let mut line = String::new();
    for word in words.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() + 3 > COLUMNS {
            text.push_str(&format!("# {line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        text.push_str(&format!("# {line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        catalogue,
        description::DefaultValue,
        samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, EVERY_SECTION, REST_FROM_POSTGRESQL, loaded, with},
    };

    #[test]
    fn the_example_files_are_what_the_binary_prints() {
        let hint = "write it again with `sidecar print-config`, with --full for default_full.toml";
        assert_eq!(every_key(), DEFAULT_FULL, "{hint}");
        assert_eq!(few_keys(), DEFAULT_SSE_ONLY, "{hint}");
    }

    #[test]
    fn the_example_of_rest_on_a_machine_of_its_own_has_the_comments_of_the_others() {
        let intro = REST_FROM_POSTGRESQL.split_once("\n\n").unwrap().0;
        let database = ["host", "database_name", "database_username", "database_password", "max_connections_in_pool"];
        let database = database.into_iter().fold(Section::new("storage.postgresql_config"), Section::with);
        let database = database
            .with_value("host", "\"database.example.org\"".to_owned())
            .with_value("database_username", "\"reader\"".to_owned())
            .with_value("sslmode", "\"verify-full\"".to_owned());
        let rest = Section::new("rest_api_server").with("port").with("request_timeout_in_seconds");
        let rest = rest.with_value("answer_from", "\"postgresql\"".to_owned());
        let admin = Section::new("admin_api_server").with("ip_address").with("port");
        let text = Draft { intro: String::new(), sections: vec![database, rest, admin] }.text();
        assert_eq!(format!("{intro}\n{text}"), REST_FROM_POSTGRESQL);
    }

    #[test]
    fn the_file_with_every_key_has_every_key_and_means_the_defaults() {
        let full = every_key();
        for section in &catalogue::SECTIONS {
            for key in section.keys {
                let line = format!("\n{} = {}\n", key.name, key.example());
                let left_out = line.replacen('\n', "\n#", 1);
                assert!(full.contains(&line) || full.contains(&left_out), "{line}");
            }
        }
        // What has no default, and what is an example instead of the default.
        let mut expected = EVERY_SECTION.to_owned();
        for section in &catalogue::SECTIONS {
            for key in section.keys {
                let is_default = matches!(key.default, DefaultValue::Value(default) if default == key.example());
                let is_set = full.contains(&format!("\n{} = {}\n", key.name, key.example()));
                if !is_default && is_set {
                    let value: toml::Table = format!("value = {}", key.example()).parse().unwrap();
                    expected = with(&expected, &section.path_of(key.name), value["value"].clone());
                }
            }
        }
        assert_eq!(loaded(&full).config, loaded(&expected).config);
        assert_eq!(loaded(&full).warnings, []);
    }

    #[test]
    fn no_line_is_too_wide() {
        for line in every_key().lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
    }
}
