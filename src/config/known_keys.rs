//! Every key that the file may have, taken from the structs of [`sections`](super::sections) themselves.

use serde::{
    Deserialize, Deserializer,
    de::{Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::sections::{
    File, admin_api_server, event_stream_server, log, node_client, node_connection, postgresql, rest_api_server,
    rpc_server, sqlite, sse_server, storage,
};

/// The known key whose full path is most like `unknown`'s: a slip of the finger in the right section first of all, and
/// also a good key in the wrong section.
pub(super) fn nearest(unknown: &str) -> String {
    let unknown = without_indices(unknown);
    let likeness = |known: &String| strsim::normalized_damerau_levenshtein(&unknown, known);
    all().max_by(|one, other| likeness(one).total_cmp(&likeness(other))).unwrap_or_default()
}

/// `sse_server.connections[0].sse_port` without the `[0]`, which known keys lack.
pub(super) fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once(']').map_or(part, |(_, after)| after))
}

/// The full path of every key and section.
pub(super) fn all() -> impl Iterator<Item = String> {
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
    ];
    sections.into_iter().flat_map(|(section, fields)| fields.iter().map(move |field| format!("{section}{field}")))
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
