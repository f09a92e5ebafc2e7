//! Recorded streams: what of an upstream's message is stored, and what makes it the message that it is.
//!
//! A message is stored as its JSON, under the name in its event field. Of a `gateway.EventSource` that is its data, under its
//! event's name. Names that the operator lists have numbers, by which readers select. Without identity fields every message
//! is a new event; with some, a repeated message is a duplicate.

use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::Value as Json;
use sidecar_log_format::{FrameForm, Kind};
use tonic::Status;

use super::json::{JsonForm, event_name, is_event_name};
use super::options::StreamOptions;
use super::rules::{AnswerKind, Rpc};
use crate::engine::dialect::{Dialect, Facts, Identity, kind_named, with_added_kinds};

/// The dialect of a recorded stream's log.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The paths of the fields that make a message what it is.
    identity_fields: Vec<String>,
    /// The field with the event's name, where that is in the payload.
    event_field: Option<String>,
    /// Whether a message's name is beside its payload.
    has_outer_name: bool,
    /// The names that have numbers.
    kinds: Vec<(Kind, Box<str>)>,
}

/// A message as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) payload: String,
    pub(super) kind: Kind,
    /// Its name, where its kind has none.
    pub(super) name: Box<str>,
    pub(super) facts: Facts,
}

/// Why a stream cannot be recorded as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The upstream has no such method.
    #[error("the upstream has no method `{method}`; set `method` to package.Service/Method")]
    NoMethod {
        /// As configured.
        method: String,
    },
    /// The method has one answer, or takes a stream.
    #[error(
        "the method `{method}` is not one with a single request and a stream of answers; only such methods are recorded"
    )]
    NoStream {
        /// As configured.
        method: String,
    },
    /// The request is not the method's.
    #[error("the `request` of `{method}` is not a {message}: {reason}")]
    Request {
        /// As configured.
        method: String,
        /// What the method takes.
        message: String,
        /// What is wrong.
        reason: String,
    },
    /// A field is not in the messages.
    #[error("`{field}` is not a field of {message}; correct `{key}`")]
    NoField {
        /// As configured.
        field: String,
        /// What the method answers.
        message: String,
        /// The key that names it.
        key: &'static str,
    },
}

impl Recorded {
    /// For a stream whose log has numbers for the `stored` kinds. `is_event_source` where its method answers with
    /// `gateway.EventSource`.
    #[must_use]
    pub fn new(options: &StreamOptions, is_event_source: bool, stored: Vec<(u8, String)>) -> Recorded {
        let event_names = options.event_names.iter().map(String::as_str);
        Recorded {
            identity_fields: options.identity_fields.clone(),
            event_field: options.event_field.clone().filter(|_| !is_event_source),
            has_outer_name: is_event_source,
            kinds: with_added_kinds(Vec::new(), stored, event_names),
        }
    }

    /// What is stored of a message.
    pub(super) fn store(&self, message: &DynamicMessage, answer: AnswerKind, json: JsonForm) -> Result<Stored, Status> {
        let mut payload = Vec::new();
        let name = if answer == AnswerKind::Event {
            json.write_event_data(message, &mut payload)?;
            event_name(message)
        } else {
            json.write(message, &mut payload)?;
            None
        };
        let payload = String::from_utf8(payload).map_err(|error| Status::internal(error.to_string()))?;
        let parsed = (!self.identity_fields.is_empty() || self.event_field.is_some()).then(|| parsed(&payload));
        let named = || {
            let name = text(field(parsed.as_ref()?, self.event_field.as_ref()?)?);
            Some(name).filter(|name| is_event_name(name))
        };
        let name = name.or_else(named).unwrap_or_default();
        let facts = Facts { identity: self.identity(&name, parsed.as_ref()), richness: 0, ordinal: None };
        Ok(match kind_named(&self.kinds, &name) {
            Some(kind) => Stored { payload, kind, name: Box::default(), facts },
            None => Stored { payload, kind: Kind::OTHER, name: name.into_boxed_str(), facts },
        })
    }

    /// Of a message's name and the identity fields of its payload. Fields that hold their default count as absent, because
    /// JSON may leave them out.
    fn identity(&self, name: &str, payload: Option<&Json>) -> Identity {
        let mut hasher = blake3::Hasher::new();
        let mut time = 0;
        hasher.update(name.as_bytes());
        for (number, path) in self.identity_fields.iter().enumerate() {
            let value = payload.and_then(|payload| field(payload, path)).filter(|value| !is_default(value));
            let value = value.map(text).unwrap_or_default();
            // The first is often a slot, a height or a number; the index likes numbers that grow.
            if number == 0 {
                time = value.parse().unwrap_or_default();
            }
            // With its name: of another field the same value is another event.
            hasher.update(&[0]).update(path.as_bytes()).update(&[0]).update(value.as_bytes());
        }
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        Identity { class: 1, time, hash }
    }
}

impl Dialect for Recorded {
    fn name(&self) -> &str {
        "grpc"
    }

    fn kinds(&self) -> &[(Kind, Box<str>)] {
        &self.kinds
    }

    fn frame_form(&self) -> FrameForm {
        FrameForm::Named
    }

    fn facts(&self, _: Kind, payload: &str) -> Option<Facts> {
        let parsed = parsed(payload);
        let name = self.event_field.as_ref().and_then(|path| field(&parsed, path)).map(text).unwrap_or_default();
        let name = if is_event_name(&name) { name } else { String::new() };
        Some(Facts { identity: self.identity(&name, Some(&parsed)), richness: 0, ordinal: None })
    }

    /// The payload of a `gateway.EventSource` does not tell its name.
    fn marked_kinds(&self) -> u64 {
        if self.has_outer_name && !self.identity_fields.is_empty() { u64::MAX } else { 0 }
    }

    fn unidentified_kinds(&self) -> u64 {
        if self.identity_fields.is_empty() { u64::MAX } else { 0 }
    }

    fn identity_rule(&self) -> String {
        format!("fields {:?}, name in {:?}", self.identity_fields, self.event_field)
    }
}

/// The method of a stream, and the request that begins it.
///
/// # Errors
/// [`RecordingError`].
pub(super) fn subscription(
    options: &StreamOptions,
    upstream: usize,
    method: Option<MethodDescriptor>,
) -> Result<(Rpc, DynamicMessage), RecordingError> {
    let name = || options.method.clone();
    let method = method.ok_or_else(|| RecordingError::NoMethod { method: name() })?;
    if method.is_client_streaming() || !method.is_server_streaming() {
        return Err(RecordingError::NoStream { method: name() });
    }
    let rpc = Rpc::new(upstream, method);
    let output = rpc.method.output();
    if rpc.answer != AnswerKind::Event {
        let identity = options.identity_fields.iter().map(|field| (field, "identity_fields"));
        for (path, key) in identity.chain(options.event_field.iter().map(|field| (field, "event_field"))) {
            if !has_field(&output, path) {
                let message = output.full_name().to_owned();
                return Err(RecordingError::NoField { field: path.clone(), message, key });
            }
        }
    }
    let request = DynamicMessage::deserialize(rpc.method.input(), options.request.clone());
    let request = request.map_err(|error| RecordingError::Request {
        method: name(),
        message: rpc.method.input().full_name().to_owned(),
        reason: error.to_string(),
    })?;
    Ok((rpc, request))
}

fn has_field(message: &prost_reflect::MessageDescriptor, path: &str) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let Some(field) = message.get_field_by_name(first).or_else(|| message.get_field_by_json_name(first)) else {
        return false;
    };
    match (rest, field.kind()) {
        (None, _) => true,
        (Some(rest), prost_reflect::Kind::Message(inner)) => has_field(&inner, rest),
        (Some(_), _) => false,
    }
}

fn parsed(payload: &str) -> Json {
    match serde_json::from_str(payload) {
        // Quoted data.
        Ok(Json::String(inner)) => serde_json::from_str(&inner).unwrap_or(Json::Null),
        Ok(parsed) => parsed,
        Err(_) => Json::Null,
    }
}

/// The value at a path of proto names or JSON names.
fn field<'a>(payload: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').try_fold(payload, |value, name| {
        value.get(name).or_else(|| value.get(camel_case(name))).or_else(|| value.get(snake_case(name)))
    })
}

fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut is_next_upper = false;
    for letter in name.chars() {
        match letter {
            '_' => is_next_upper = true,
            _ if std::mem::take(&mut is_next_upper) => camel.push(letter.to_ascii_uppercase()),
            _ => camel.push(letter),
        }
    }
    camel
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_default(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty() || text == "0",
        Json::Array(items) => items.is_empty(),
        Json::Bool(true) | Json::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::descriptors::Schema;
    use super::super::fuzzing::schema;
    use super::*;

    fn test_schema() -> Schema {
        schema(
            r#"syntax = "proto3"; package test; import "gateway/event_source.proto";
               message Ball { int64 ball_id = 1; string kind = 2; Inner inner = 3; }
               message Inner { string text = 1; }
               service S {
                   rpc Watch(Ball) returns (stream Ball); rpc One(Ball) returns (Ball);
                   rpc Events(Ball) returns (stream gateway.EventSource);
               }"#,
        )
    }

    fn options(method: &str, event_field: Option<&str>, identity_fields: &[&str]) -> StreamOptions {
        StreamOptions {
            name: "balls".to_owned(),
            upstream: "test".to_owned(),
            method: method.to_owned(),
            request: serde_json::json!({"kind": "ping"}),
            path: "/balls".to_owned(),
            event_field: event_field.map(str::to_owned),
            event_names: Vec::new(),
            identity_fields: identity_fields.iter().map(|field| (*field).to_owned()).collect(),
        }
    }

    /// A stream of a log that has no kinds yet.
    fn recorded(options: &StreamOptions, is_event_source: bool) -> Recorded {
        Recorded::new(options, is_event_source, Vec::new())
    }

    fn message(name: &str, json: &str) -> DynamicMessage {
        let descriptor = test_schema().pool().get_message_by_name(name).unwrap();
        DynamicMessage::deserialize(descriptor, &mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    #[test]
    fn what_the_index_is_rebuilt_from_is_what_was_stored_whatever_the_form_of_json() {
        let recorded = recorded(&options("test.S/Watch", Some("kind"), &["ball_id", "inner.text"]), false);
        let ball = message("test.Ball", r#"{"ballId":"7","kind":"ping","inner":{"text":"x"}}"#);
        let mut identities = Vec::new();
        for (emit_unpopulated, use_proto_names) in [(true, false), (false, true)] {
            let json = JsonForm { emit_unpopulated, use_proto_names, ..JsonForm::default() };
            let stored = recorded.store(&ball, AnswerKind::Json, json).unwrap();
            assert_eq!(&*stored.name, "ping");
            assert_eq!(recorded.facts(Kind::OTHER, &stored.payload), Some(stored.facts));
            assert_eq!(stored.facts.identity.time, 7);
            identities.push(stored.facts.identity);
        }
        assert_eq!(identities[0], identities[1]);
        let zero = message("test.Ball", "{}");
        let of = |emit_unpopulated| {
            let json = JsonForm { emit_unpopulated, ..JsonForm::default() };
            recorded.store(&zero, AnswerKind::Json, json).unwrap().facts.identity
        };
        assert_eq!(of(true), of(false));
        assert_ne!(of(true), identities[0]);
    }

    #[test]
    fn events_of_two_names_are_two_even_when_their_data_is_the_same() {
        let events = recorded(&options("test.S/Events", None, &["ball_id"]), true);
        let event = |name: &str| {
            let data = r#"{"@type":"type.googleapis.com/test.Ball","ballId":"7"}"#;
            let event = message("gateway.EventSource", &format!(r#"{{"event":"{name}","data":{data}}}"#));
            events.store(&event, AnswerKind::Event, JsonForm::default()).unwrap()
        };
        assert_eq!(&*event("ping").name, "ping");
        assert_ne!(event("ping").facts, event("pong").facts);
        assert_eq!(event("ping").facts, event("ping").facts);
        assert_eq!(events.marked_kinds(), u64::MAX);
        assert_eq!(recorded(&options("test.S/Events", None, &[]), true).unidentified_kinds(), u64::MAX);
    }

    #[test]
    fn the_same_value_of_another_field_is_another_event() {
        let recorded_by = |field: &str| recorded(&options("test.S/Watch", None, &[field]), false);
        let ball = message("test.Ball", r#"{"ballId":"7","kind":"7"}"#);
        let [one, other] = ["ball_id", "kind"].map(recorded_by);
        let identity =
            |stream: &Recorded| stream.store(&ball, AnswerKind::Json, JsonForm::default()).unwrap().facts.identity;
        assert_ne!(identity(&one), identity(&other));
        assert_ne!(one.identity_rule(), other.identity_rule());
    }

    #[test]
    fn a_listed_name_is_a_kind_with_the_number_that_the_log_has_for_it() {
        let listed = StreamOptions {
            event_names: vec!["pong".to_owned(), "ping".to_owned()],
            ..options("test.S/Watch", Some("kind"), &["ball_id"])
        };
        let listing = Recorded::new(&listed, false, vec![(1, "ping".to_owned())]);
        let store = |stream: &Recorded, kind: &str| {
            let ball = message("test.Ball", &format!(r#"{{"ballId":"7","kind":"{kind}"}}"#));
            stream.store(&ball, AnswerKind::Json, JsonForm::default()).unwrap()
        };
        let stored = |kind: &str| {
            let Stored { kind, name, .. } = store(&listing, kind);
            (kind, name.to_string())
        };
        assert_eq!(stored("ping"), (Kind(1), String::new()));
        assert_eq!(stored("pong"), (Kind(2), String::new()));
        assert_eq!(stored("lob"), (Kind::OTHER, "lob".to_owned()));
        // What makes it this event does not depend on what is listed.
        let unlisted = recorded(&options("test.S/Watch", Some("kind"), &["ball_id"]), false);
        assert_eq!(store(&unlisted, "ping").facts, store(&listing, "ping").facts);
        let Stored { kind, payload, facts, .. } = store(&listing, "ping");
        assert_eq!(listing.facts(kind, &payload), Some(facts));
    }

    #[test]
    fn a_stream_that_cannot_be_recorded_is_refused_with_its_reason() {
        let schema = test_schema();
        let check = |options: &StreamOptions| {
            subscription(options, 0, schema.method(&options.method)).map(|_| ()).unwrap_err().to_string()
        };
        assert!(subscription(&options("test.S/Watch", None, &["ballId"]), 0, schema.method("test.S/Watch")).is_ok());
        assert!(check(&options("test.S/Nobody", None, &[])).contains("has no method `test.S/Nobody`"));
        assert!(check(&options("test.S/One", None, &[])).contains("a stream of answers"));
        assert!(check(&options("test.S/Watch", Some("colour"), &[])).contains("correct `event_field`"));
        assert!(check(&options("test.S/Watch", None, &["inner.nobody"])).contains("correct `identity_fields`"));
        let wrong = StreamOptions { request: serde_json::json!({"colour": 1}), ..options("test.S/Watch", None, &[]) };
        assert!(check(&wrong).contains("is not a test.Ball"));
    }
}
