//! Messages as proto3 JSON, in the form that the configuration asks for.

use std::io::Write;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, SerializeOptions, Value};
use tonic::Status;

/// How messages are written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonForm {
    /// Whether fields that hold their default are written.
    pub emit_unpopulated: bool,
    /// Whether fields have the names of the `.proto` file instead of lowerCamelCase.
    pub use_proto_names: bool,
    /// Whether the data of an event begins with its `@type`.
    pub include_type_url: bool,
    /// Whether the data of an event is a string with the JSON in it.
    pub quoted: bool,
}

impl Default for JsonForm {
    fn default() -> Self {
        JsonForm { emit_unpopulated: true, use_proto_names: false, include_type_url: false, quoted: false }
    }
}

impl JsonForm {
    /// Appends a message.
    ///
    /// # Errors
    /// INTERNAL where it has no JSON form, as an `Any` of an unknown type.
    pub fn write(self, message: &DynamicMessage, out: &mut Vec<u8>) -> Result<(), Status> {
        let mut json = serde_json::Serializer::new(out);
        message.serialize_with_options(&mut json, &self.options()).map_err(|error| no_form(&error))
    }

    /// Appends one field of a message.
    ///
    /// # Errors
    /// As [`JsonForm::write`].
    pub fn write_field(
        self,
        message: &DynamicMessage,
        field: &FieldDescriptor,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        // A message has a JSON form, a field's value alone has none: it is taken out of its message's.
        if let (Kind::Message(_), false, false) = (field.kind(), field.is_list(), field.is_map()) {
            return match message.has_field(field).then(|| message.get_field(field)).as_deref() {
                Some(Value::Message(value)) => self.write(value, out),
                _ => out.write_all(b"null").map_err(|error| no_form(&error)),
            };
        }
        let mut alone = DynamicMessage::new(message.descriptor());
        alone.set_field(field, message.get_field(field).into_owned());
        let options = self.options().skip_default_fields(false).use_proto_field_name(true);
        let whole =
            alone.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| no_form(&error))?;
        let value = whole.get(field.name()).unwrap_or(&serde_json::Value::Null);
        serde_json::to_writer(out, value).map_err(|error| no_form(&error))
    }

    /// Appends the data of a `gateway.EventSource`.
    ///
    /// # Errors
    /// As [`JsonForm::write`].
    pub fn write_event_data(self, event: &DynamicMessage, out: &mut Vec<u8>) -> Result<(), Status> {
        if self.quoted {
            let mut plain = Vec::new();
            JsonForm { quoted: false, ..self }.write_event_data(event, &mut plain)?;
            let text = String::from_utf8(plain).map_err(|error| no_form(&error))?;
            return serde_json::to_writer(out, &text).map_err(|error| no_form(&error));
        }
        let data = event.get_field_by_name("data").filter(|_| event.has_field_by_name("data"));
        let Some(any) = data.as_deref().and_then(|data| data.as_message()) else {
            return out.write_all(b"null").map_err(|error| no_form(&error));
        };
        if self.include_type_url {
            return self.write(any, out);
        }
        self.write(&unpacked(any)?, out)
    }

    fn options(self) -> SerializeOptions {
        SerializeOptions::new().skip_default_fields(!self.emit_unpopulated).use_proto_field_name(self.use_proto_names)
    }
}

/// The name of a `gateway.EventSource`, if it has one that fits into a line.
pub(super) fn event_name(event: &DynamicMessage) -> Option<String> {
    let name = event.get_field_by_name("event")?;
    name.as_str().filter(|name| is_event_name(name)).map(str::to_owned)
}

/// The longest name that a log takes, in bytes.
const EVENT_NAME_BYTES_MAX: usize = 255;

/// Whether a text can be an event's name.
pub(crate) fn is_event_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= EVENT_NAME_BYTES_MAX && !name.contains(['\r', '\n', '\0'])
}

/// The message in an `Any`.
fn unpacked(any: &DynamicMessage) -> Result<DynamicMessage, Status> {
    let text = any.get_field_by_name("type_url");
    let url = text.as_deref().and_then(|url| url.as_str()).unwrap_or_default();
    let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
    let unknown = || Status::internal(format!("the type `{name}` of an event's data is not in the descriptors"));
    let descriptor = any.descriptor().parent_pool().get_message_by_name(name).ok_or_else(unknown)?;
    let bytes = any.get_field_by_name("value");
    let bytes = bytes.as_deref().and_then(|bytes| bytes.as_bytes()).cloned().unwrap_or_default();
    DynamicMessage::decode(descriptor, bytes).map_err(|error| no_form(&error))
}

fn no_form(error: &dyn std::error::Error) -> Status {
    Status::internal(format!("a message has no JSON form: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::descriptors::Schema;
    use super::super::fuzzing::schema;
    use super::*;

    fn test_schema() -> Schema {
        schema(
            r#"syntax = "proto3"; package test; import "gateway/event_source.proto";
               message Ball { int64 big_number = 1; repeated string tags = 2; Ball inner = 3; optional int32 maybe = 4;
                              oneof choice { string left = 5; } bool flag = 6; }
               message Holder { gateway.EventSource event = 1; }"#,
        )
    }

    fn message(schema: &Schema, name: &str, json: &str) -> DynamicMessage {
        let descriptor = schema.pool().get_message_by_name(name).unwrap();
        DynamicMessage::deserialize(descriptor, &mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> Result<(), Status>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn options_choose_names_and_defaults() {
        let schema = test_schema();
        let ball = message(&schema, "test.Ball", r#"{"bigNumber":"9007199254740993"}"#);
        let form = JsonForm::default();
        let whole = r#"{"bigNumber":"9007199254740993","tags":[],"flag":false}"#;
        assert_eq!(text(|out| form.write(&ball, out)), whole);
        let short = JsonForm { emit_unpopulated: false, use_proto_names: true, ..form };
        assert_eq!(text(|out| short.write(&ball, out)), r#"{"big_number":"9007199254740993"}"#);
        let field = |name: &str| ball.descriptor().get_field_by_name(name).unwrap();
        assert_eq!(text(|out| form.write_field(&ball, &field("big_number"), out)), "\"9007199254740993\"");
        assert_eq!(text(|out| form.write_field(&ball, &field("tags"), out)), "[]");
        assert_eq!(text(|out| form.write_field(&ball, &field("inner"), out)), "null");
    }

    #[test]
    fn an_events_data_is_plain_or_quoted_and_has_its_type_on_request() {
        let schema = test_schema();
        let json = r#"{"event":"ball","data":{"@type":"type.googleapis.com/test.Ball","flag":true}}"#;
        let event = message(&schema, "gateway.EventSource", json);
        let form = JsonForm { emit_unpopulated: false, ..JsonForm::default() };
        assert_eq!(event_name(&event).as_deref(), Some("ball"));
        assert_eq!(text(|out| form.write_event_data(&event, out)), r#"{"flag":true}"#);
        let typed = JsonForm { include_type_url: true, ..form };
        let with_type = r#"{"@type":"type.googleapis.com/test.Ball","flag":true}"#;
        assert_eq!(text(|out| typed.write_event_data(&event, out)), with_type);
        let quoted = JsonForm { quoted: true, ..form };
        assert_eq!(text(|out| quoted.write_event_data(&event, out)), r#""{\"flag\":true}""#);
        let empty = message(&schema, "gateway.EventSource", "{\"event\":\"a\\nb\"}");
        assert_eq!((text(|out| form.write_event_data(&empty, out)), event_name(&empty)), ("null".to_owned(), None));
    }
}
