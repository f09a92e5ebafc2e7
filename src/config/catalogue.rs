//! Every section and key that the file may have.
//!
//! The descriptions are beside the structs that read the sections; here they are one list, in the order of a commented file.

use super::{
    description::{KeyDescription, SectionDescription},
    sections::{
        self, admin_api_server, beacon, event_stream_server, grpc, listen, log, node_client, node_connection,
        postgresql, rest_api_server, rpc_server, sqlite, sse_server, storage,
    },
};

/// Every section, each after the one that it is in.
pub(super) static SECTIONS: [SectionDescription; 34] = [
    sections::TOP,
    storage::SECTION,
    log::SECTION,
    sqlite::SECTION,
    postgresql::SECTION,
    sse_server::SECTION,
    node_connection::SECTION,
    event_stream_server::SECTION,
    listen::tls("sse_server.event_stream_server.tls"),
    listen::bearer_tokens("sse_server.event_stream_server.bearer_tokens"),
    rest_api_server::SECTION,
    listen::tls("rest_api_server.tls"),
    listen::bearer_tokens("rest_api_server.bearer_tokens"),
    admin_api_server::SECTION,
    listen::tls("admin_api_server.tls"),
    listen::bearer_tokens("admin_api_server.bearer_tokens"),
    rpc_server::SECTION,
    rpc_server::MAIN_SERVER,
    listen::tls("rpc_server.main_server.tls"),
    listen::bearer_tokens("rpc_server.main_server.bearer_tokens"),
    rpc_server::SPECULATIVE_EXEC_SERVER,
    listen::tls("rpc_server.speculative_exec_server.tls"),
    listen::bearer_tokens("rpc_server.speculative_exec_server.bearer_tokens"),
    node_client::SECTION,
    node_client::EXPONENTIAL_BACKOFF,
    beacon::SECTION,
    listen::tls("beacon.tls"),
    listen::bearer_tokens("beacon.bearer_tokens"),
    beacon::CONNECTION,
    grpc::SECTION,
    listen::tls("grpc.tls"),
    listen::bearer_tokens("grpc.bearer_tokens"),
    grpc::UPSTREAM,
    grpc::STREAM,
];

impl SectionDescription {
    /// The line that begins it. The keys before the first section have none.
    pub(super) fn header(&self) -> Option<String> {
        match (self.path, self.is_list) {
            ("", _) => None,
            (path, true) => Some(format!("[[{path}]]")),
            (path, false) => Some(format!("[{path}]")),
        }
    }

    /// The full path of the key `name` in it.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The key `name` in it.
    pub(super) fn key(&self, name: &str) -> Option<&'static KeyDescription> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// The key with the full path `path`; in an array of tables, with or without indices.
pub(super) fn key(path: &str) -> Option<&'static KeyDescription> {
    let path = without_indices(path);
    let (section, name) = path.rsplit_once('.').unwrap_or(("", &path));
    SECTIONS.iter().find(|description| description.path == section)?.key(name)
}

/// The full path of every key and section.
pub(super) fn paths() -> impl Iterator<Item = String> {
    let sections = SECTIONS.iter().map(|section| section.path.to_owned()).filter(|path| !path.is_empty());
    sections.chain(SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| section.path_of(key.name))))
}

/// The key or section whose full path is most like `unknown`'s: a typing error in the right section first of all, and
/// also a good key in the wrong section.
pub(super) fn nearest(unknown: &str) -> String {
    let unknown = without_indices(unknown);
    let likeness = |known: &String| strsim::normalized_damerau_levenshtein(&unknown, known);
    paths().max_by(|one, other| likeness(one).total_cmp(&likeness(other))).unwrap_or_default()
}

/// `sse_server.connections[0].sse_port` without the `[0]`, which descriptions lack.
pub(super) fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once(']').map_or(part, |(_, after)| after))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::{
        Deserialize, Deserializer,
        de::{Visitor, value::Error},
        forward_to_deserialize_any,
    };

    use super::*;
    use crate::config::{
        description::{DefaultValue, Kind},
        samples::{EVERY_SECTION, load, loaded, with, without},
        sections::File,
    };

    #[test]
    fn every_key_and_section_is_described_and_nothing_else_is() {
        let read: BTreeSet<String> = keys_read().collect();
        let described: BTreeSet<String> = paths().collect();
        let missing: Vec<_> = read.difference(&described).collect();
        let unread: Vec<_> = described.difference(&read).collect();
        assert!(missing.is_empty(), "describe these beside the structs that read them: {missing:?}");
        assert!(unread.is_empty(), "nothing reads these: {unread:?}");
    }

    #[test]
    fn every_default_is_the_one_of_the_code() {
        for section in &SECTIONS {
            for key in section.keys {
                let path = section.path_of(key.name);
                let DefaultValue::Value(default) = key.default else { continue };
                let around = around_without(&path);
                let set = with(&around, &path, value(default));
                let unset = without(&around, &path);
                assert_eq!(loaded(&set).config, loaded(&unset).config, "{default} is not the default of `{path}`");
            }
        }
    }

    #[test]
    fn every_required_key_is_required_and_no_other_is() {
        for section in &SECTIONS {
            for key in section.keys {
                let path = section.path_of(key.name);
                let is_required = load(&without(&around_without(&path), &path)).is_err();
                assert_eq!(is_required, key.default == DefaultValue::Required, "`{path}`");
            }
        }
    }

    #[test]
    fn every_word_and_example_is_taken_and_no_other_word_is() {
        for section in &SECTIONS {
            for key in section.keys {
                let path = section.path_of(key.name);
                assert!(!key.text.is_empty() && key.text.ends_with('.'), "`{path}`");
                loaded(&with(&around(&path), &path, value(key.example())));
                let word = |word: &str| toml::Value::String(word.to_owned());
                let (words, list) = match key.kind {
                    Kind::Word(words) => (words, false),
                    Kind::Words(words) => (words, true),
                    _ => continue,
                };
                let set = |word| with(EVERY_SECTION, &path, if list { toml::Value::Array(vec![word]) } else { word });
                for known in words {
                    loaded(&set(word(known)));
                }
                assert!(load(&set(word("elephant"))).is_err(), "`{path}`");
            }
        }
    }

    /// Every section, with what the key at `path` needs beside it, and without what it excludes.
    fn around(path: &str) -> String {
        match path {
            // A password belongs to a user.
            "beacon.connections.password" => with(EVERY_SECTION, "beacon.connections.username", value("\"reader\"")),
            // An upstream's services are described once.
            "grpc.upstreams.descriptor_set" | "grpc.upstreams.protos" => {
                without(EVERY_SECTION, "grpc.upstreams.reflection")
            }
            _ => EVERY_SECTION.to_owned(),
        }
    }

    /// Every section, in a form that does not need the key at `path` unless everybody does.
    fn around_without(path: &str) -> String {
        match path {
            "grpc.upstreams.reflection" => {
                let others = without(EVERY_SECTION, path);
                with(&others, "grpc.upstreams.descriptor_set", value("\"chain.binpb\""))
            }
            _ => EVERY_SECTION.to_owned(),
        }
    }

    /// The value that a description has as TOML.
    fn value(toml: &str) -> toml::Value {
        let table: toml::Table = format!("value = {toml}").parse().unwrap_or_else(|_| panic!("{toml}"));
        table["value"].clone()
    }

    /// The full path of every key and section that the structs read.
    fn keys_read() -> impl Iterator<Item = String> {
        let sections = [
            ("", fields_of::<File>()),
            ("storage.", fields_of::<storage::Keys>()),
            ("storage.log.", fields_of::<log::Keys>()),
            ("storage.sqlite_config.", fields_of::<sqlite::Keys>()),
            ("storage.postgresql_config.", fields_of::<postgresql::Keys>()),
            ("sse_server.", fields_of::<sse_server::Keys>()),
            ("sse_server.connections.", fields_of::<node_connection::Keys>()),
            ("sse_server.event_stream_server.", fields_of::<event_stream_server::Keys>()),
            ("rest_api_server.", fields_of::<rest_api_server::Keys>()),
            ("admin_api_server.", fields_of::<admin_api_server::Keys>()),
            ("rpc_server.", fields_of::<rpc_server::Keys>()),
            ("rpc_server.main_server.", fields_of::<rpc_server::ListenerKeys>()),
            ("rpc_server.speculative_exec_server.", fields_of::<rpc_server::ListenerKeys>()),
            ("rpc_server.node_client.", fields_of::<node_client::Keys>()),
            ("rpc_server.node_client.exponential_backoff.", fields_of::<node_client::BackoffKeys>()),
            ("beacon.", fields_of::<beacon::Keys>()),
            ("beacon.connections.", fields_of::<beacon::ConnectionKeys>()),
            ("grpc.", fields_of::<grpc::Keys>()),
            ("grpc.upstreams.", fields_of::<grpc::UpstreamKeys>()),
            ("grpc.streams.", fields_of::<grpc::StreamKeys>()),
        ];
        let read =
            |section: &str, fields: &[&str]| fields.iter().map(|field| format!("{section}{field}")).collect::<Vec<_>>();
        sections.into_iter().flat_map(move |(section, fields)| {
            let is_server = fields.contains(&"bearer_tokens");
            let below =
                [("tls.", fields_of::<listen::TlsKeys>()), ("bearer_tokens.", fields_of::<listen::TokenKeys>())];
            let below = below.into_iter().filter(move |_| is_server);
            let below = below.flat_map(move |(name, fields)| read(&format!("{section}{name}"), fields));
            read(section, fields).into_iter().chain(below)
        })
    }

    /// The names that `Section`'s derived `Deserialize` asks its deserializer for.
    fn fields_of<'de, Section: Deserialize<'de>>() -> &'static [&'static str] {
        let mut fields: &'static [&'static str] = &[];
        // There is nothing to deserialize from, so this always ends in an error; by then the fields are noted.
        let _ = Section::deserialize(FieldNames(&mut fields));
        fields
    }

    /// A deserializer that notes the field names of the struct it is asked for.
    struct FieldNames<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for FieldNames<'_> {
        type Error = Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom("only field names are asked for"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
}
