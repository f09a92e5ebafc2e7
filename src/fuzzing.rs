//! Doors for the fuzz targets in `fuzz/`: any bytes flow in, and what must hold for all of them is asserted here.
//!
//! Compiled for fuzzing and for tests only. The ordinary tests put every committed case of the corpus through the same
//! doors, so what a fuzzer once found stays found.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise ends the run")]

use std::error::Error;
use std::iter;

use axum::http::{HeaderMap, HeaderValue, Method};
use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::beacon;
use crate::casper;
use crate::casper::event::{self, Classified, classify};
use crate::casper::legacy::translation_door;
use crate::casper::rpc;
use crate::config::Config;
use crate::engine::dialect::Dialect;
use crate::grpc;
use crate::sse_client::transport::canned;

/// A configuration file is taken or refused, in words.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text, |_| None) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                assert!(!warning.to_string().is_empty());
            }
            let again = Config::parse(text, |_| None).unwrap();
            // The order of the warnings is nobody's business, and NaN is no setting.
            assert_eq!(again.config, loaded.config);
        }
        Err(error) => {
            let texts = iter::successors(Some(&error as &dyn Error), |error| (*error).source());
            assert!(texts.map(ToString::to_string).all(|text| !text.is_empty()));
        }
    }
}

/// A payload is an event, a version, or malformed, and malformed only if it is not one JSON value. 1.x clients get one line
/// of JSON of it, or nothing.
pub fn event(bytes: &[u8]) {
    let Ok(payload) = std::str::from_utf8(bytes) else { return };
    let classified = classify(payload);
    translation_door(bytes);
    assert_eq!(classified.is_ok(), serde_json::from_str::<IgnoredAny>(payload).is_ok());
    let dialect = beacon::dialect::Beacon::default();
    for (kind, _) in dialect.kinds() {
        assert_eq!(dialect.facts(*kind, payload).is_some(), classified.is_ok());
    }
    if let Ok(Classified::Event(facts)) = classified {
        assert!(event::KINDS.iter().any(|(kind, _)| *kind == facts.kind));
        assert!(facts.to_string().starts_with(event::kind_name(facts.kind)));
        assert_eq!(facts.block_height.is_some(), facts.kind == event::BLOCK_ADDED && !facts.unclassified);
        assert!(matches!(classify(payload), Ok(Classified::Event(again)) if again == facts));
    }
}

/// The head of a request for a stream, in lines: method, path, query, `Last-Event-ID`, `Accept-Encoding`
/// twice, `Accept`.
pub fn query(bytes: &[u8]) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let method = Method::from_bytes(line()).unwrap_or(Method::GET);
    let path = String::from_utf8_lossy(line());
    let query = String::from_utf8_lossy(line());
    let mut headers = HeaderMap::new();
    for name in ["last-event-id", "accept-encoding", "accept-encoding", "accept"] {
        if let Ok(value) = HeaderValue::from_bytes(line()) {
            headers.append(name, value);
        }
    }
    for check in [casper::events::check_request, beacon::events::check_request, grpc::check_events_request] {
        check(&method, &path, &query, &headers);
    }
}

/// A call of the gateway, in lines: method, path, query, `Content-Type`, `X-HTTP-Method-Override`; then the body.
pub fn grpc_request(bytes: &[u8]) {
    grpc::fuzzing::request(bytes);
}

/// The descriptor set of an upstream.
pub fn descriptor_set(bytes: &[u8]) {
    grpc::fuzzing::descriptor_set(bytes);
}

/// A node's stream. The first byte says how long the chunks are; how it is cut must not matter, and the client under it
/// reads any content to its end.
pub fn frames(bytes: &[u8]) {
    let Some((length, stream)) = bytes.split_first() else { return };
    let cut = |length: usize| stream.chunks(length.max(1)).map(Bytes::copy_from_slice).collect();
    let (events, dropped) = canned::read(cut(stream.len()));
    assert_eq!(canned::read(cut(usize::from(*length))), (events.clone(), dropped));
    for (payload, _) in events {
        assert!(payload.len() <= canned::EVENT_BYTES_MAX);
        event(payload.as_bytes());
    }
}

/// The body of a JSON-RPC request.
pub fn rpc_request(bytes: &[u8]) {
    rpc::fuzzing::request(bytes);
}

/// What a node answers on its binary port: the payload of a frame, or a value alone.
pub fn rpc_answer(bytes: &[u8]) {
    rpc::fuzzing::answer(bytes);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Puts every committed case of `target` through its check.
    fn hold(target: &str, check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let cases: Vec<_> = fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!cases.is_empty());
        cases.iter().for_each(|case| check(case));
    }

    #[test]
    fn every_configuration_file_of_the_corpus_holds() {
        hold("config", config);
    }

    #[test]
    fn every_event_of_the_corpus_holds() {
        hold("event", event);
    }

    #[test]
    fn every_stream_of_the_corpus_holds() {
        hold("frames", frames);
    }

    #[test]
    fn every_query_of_the_corpus_holds() {
        hold("query", query);
    }

    #[test]
    fn every_call_of_the_corpus_holds() {
        hold("grpc_request", grpc_request);
    }

    #[test]
    fn every_descriptor_set_of_the_corpus_holds() {
        hold("descriptor_set", descriptor_set);
    }

    #[test]
    fn every_rpc_request_of_the_corpus_holds() {
        hold("rpc_request", rpc_request);
    }

    #[test]
    fn every_rpc_answer_of_the_corpus_holds() {
        hold("rpc_answer", rpc_answer);
    }
}
