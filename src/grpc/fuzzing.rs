//! Entry points for `crate::fuzzing`: calls of a gateway that serves every type of field, and descriptor sets of any bytes.

#![allow(clippy::unwrap_used, reason = "a broken promise ends the run")]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use axum::http::{HeaderMap, HeaderValue, Method};
use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage};
#[cfg(test)]
use protox::file::{ChainFileResolver, IncludeFileResolver};
use serde::de::IgnoredAny;
use tempfile::TempDir;

use super::answers::Writing;
use super::binding::request_message;
use super::descriptors::Schema;
#[cfg(test)]
use super::descriptors::compile;
use super::gateway::called;
use super::json::JsonForm;
use super::openapi;
use super::rules::{Found, Routes, bindings};
use crate::engine::stream::Framing;

/// A service whose requests have a field of every type.
const EVERY_TYPE: &str = r#"
    syntax = "proto3"; package test;
    import "google/api/annotations.proto"; import "google/protobuf/timestamp.proto";
    import "google/protobuf/duration.proto"; import "google/protobuf/wrappers.proto";
    import "google/protobuf/field_mask.proto"; import "google/protobuf/struct.proto";
    enum Colour { NONE = 0; RED = 1; }
    message Inner { string text = 1; int32 number = 2; Inner deeper = 3; }
    message In {
        string name = 1; int64 page_size = 2; Inner inner = 3; repeated string tags = 4;
        map<string, int32> counts = 5; Colour colour = 6; bytes data = 7; bool flag = 8; double ratio = 9;
        google.protobuf.Timestamp at = 10; google.protobuf.Duration wait = 11;
        google.protobuf.Int64Value limit = 12; google.protobuf.FieldMask mask = 13;
        oneof choice { string left = 14; string right = 15; } optional int32 maybe = 16;
        google.protobuf.BoolValue sure = 17; repeated Colour colours = 18; repeated Inner inners = 19;
        google.protobuf.Struct free = 20; map<int64, Inner> numbered = 21; repeated google.protobuf.Value values = 22;
    }
    service S {
        rpc Get(In) returns (In) { option (google.api.http) = { get: "/get/{name}" }; }
        rpc All(In) returns (In) { option (google.api.http) = { post: "/all/{name}" body: "*" }; }
        rpc Part(In) returns (In) { option (google.api.http) = { post: "/part" body: "inner" }; }
        rpc Remove(In) returns (In) { option (google.api.http) = { delete: "/get/{name=**}" }; }
    }"#;

/// The schema of one `.proto` text.
pub(super) fn schema(text: &str) -> Schema {
    let (_folder, path) = proto_file(text);
    Schema::compile(&[path], &[]).unwrap()
}

/// The descriptor set of one `.proto` text.
#[cfg(test)]
pub(super) fn encoded(text: &str) -> Vec<u8> {
    let (folder, path) = proto_file(text);
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(folder.path().to_owned()));
    compile(resolver, &[path]).unwrap()
}

/// A temporary folder, and a file with the text in it.
fn proto_file(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.proto");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// Those of [`EVERY_TYPE`].
pub(super) static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let mut routes = Routes::default();
    routes.add(bindings(0, &schema(EVERY_TYPE), false).unwrap()).unwrap();
    routes
});

/// Binds a call: the result is a message that can be sent, or a refusal with a text.
pub(crate) fn request(bytes: &[u8]) {
    let mut parts = bytes.splitn(6, |&byte| byte == b'\n');
    let mut line = || parts.next().unwrap_or_default();
    let method = Method::from_bytes(line()).unwrap_or(Method::GET);
    let (path, query) = (String::from_utf8_lossy(line()), String::from_utf8_lossy(line()));
    let mut headers = HeaderMap::new();
    for name in ["content-type", "x-http-method-override"] {
        if let Ok(value) = HeaderValue::from_bytes(line()) {
            headers.insert(name, value);
        }
    }
    let body = line();
    let Ok((method, is_form)) = called(&method, &headers) else { return };
    let Ok(found) = ROUTES.find(&method, &path, is_form) else { return };
    for ignores_unknown in [false, true] {
        match request_message(&found, Some(&query), body, ignores_unknown) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(message) => {
                let encoded = message.encode_to_vec();
                let sent = DynamicMessage::decode(message.descriptor(), encoded.as_slice()).unwrap();
                assert_eq!(sent.encoded_len(), encoded.len());
                // Not every value has a form in JSON, as a mask with capitals in its names.
                let _ = JsonForm::default().write(&message, &mut Vec::new());
            }
        }
    }
}

/// A descriptor set is refused in words, or everything in it can be described, called and answered.
pub(crate) fn descriptor_set(bytes: &[u8]) {
    #[cfg(fuzzing)]
    {
        // The fuzzer's own hook aborts at panics that are caught; those that are not end the run without it as well.
        static WITHOUT_HOOK: LazyLock<()> = LazyLock::new(|| drop(std::panic::take_hook()));
        LazyLock::force(&WITHOUT_HOOK);
    }
    let schema = match Schema::decode(bytes) {
        Ok(schema) => schema,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut routes = Routes::default();
    match bindings(0, &schema, true).map(|bindings| routes.add(bindings)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => assert!(!error.to_string().is_empty()),
    }
    serde_json::from_slice::<IgnoredAny>(&openapi::document(&routes, false, true)).unwrap();
    for binding in routes.bindings() {
        let values = vec!["1".to_owned(); binding.template.variables().len()];
        let found = Found { binding: Arc::clone(binding), values, is_form: false };
        let _ = request_message(&found, Some("name=1&inner.text=2&tags[a]=3"), b"{}", true);
        let answer = DynamicMessage::new(binding.rpc.method.output());
        for framing in [Framing::EventStream, Framing::JsonLines] {
            let writing = Writing::of(binding, framing, JsonForm::default());
            let _ = writing.message(&answer, &mut Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines as a client may send them, whole or with anything in their place.
    fn line(usual: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop_oneof![4 => prop::sample::select(usual).prop_map(str::to_owned), 1 => "[ -~]{0,24}"]
    }

    fn query() -> impl Strategy<Value = String> {
        let names = "name page_size pageSize inner inner.text inner.number tags counts[a] counts[ colour data flag ratio \
                     at wait limit mask left right maybe sure colours inners.text free numbered[7] numbered[x] values \
                     free.fields";
        let values = "1 true RED %7B%7D 2026-01-02T03:04:05Z 1.5s NaN a,bC -_8";
        let known = prop::sample::select(names.split(' ').collect::<Vec<_>>());
        let usual = prop::sample::select(values.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let value = prop_oneof!["[ -~]{0,12}", usual];
        prop::collection::vec((known, value), 0..6).prop_map(|pairs| {
            pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
        })
    }

    proptest! {
        #[test]
        fn no_call_panics(
            method in line(&["GET", "POST", "DELETE"]),
            path in line(&["/get/x", "/get/a%2Fb", "/all/x", "/part", "/get/a/b"]),
            query in query(),
            content_type in line(&["", "application/x-www-form-urlencoded"]),
            overriding in line(&["", "GET", "delete"]),
            body in prop_oneof![query(), "[ -~]{0,40}", Just(r#"{"tags":["a"],"inner":{"text":"t"}}"#.to_owned())],
        ) {
            request([method, path, query, content_type, overriding, body].join("\n").as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_damage_to_a_descriptor_set_makes_it_panic(
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            static SET: LazyLock<Vec<u8>> = LazyLock::new(|| encoded(EVERY_TYPE));
            let mut set = SET.clone();
            for (place, byte) in &places {
                let place = place.index(set.len());
                set[place] = *byte;
            }
            descriptor_set(&set);
            descriptor_set(&set[..cut.index(set.len())]);
        }
    }
}
