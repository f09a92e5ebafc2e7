//! Entry points for fuzzing: any bytes flow in, and what must hold for all of them is asserted here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken promise ends the run")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::bridge::Node;
use super::json_rpc::{self, Body, Entry};
use super::methods::{MAIN, SPECULATIVE};
use super::node_link::{self, Backoff, NodeLink, NodeLinkOptions};
use crate::engine::http::memory::Pieces;

/// Every body is answered with JSON-RPC: parsed, its parameters read, and the node away.
pub(crate) fn request(bytes: &[u8]) {
    let entries = match json_rpc::parse(bytes, 10) {
        Body::One(entry) => vec![entry],
        Body::Batch(entries) => entries,
    };
    assert!(entries.len() <= 10);
    for entry in entries {
        let mut body = Pieces::default();
        match entry {
            Entry::Notification => continue,
            Entry::Malformed { id, failure } => json_rpc::write_answer(&id, Err(&failure), &mut body),
            Entry::Call(call) => {
                let method = MAIN.iter().chain(SPECULATIVE).find(|method| method.name == call.method);
                let Some(method) = method else { continue };
                let (runtime, link) = away();
                let outcome = runtime.block_on(async { method.run(&Node::new(link, None), call.params).await });
                let result = outcome.as_ref().map(|reply| Bytes::copy_from_slice(&reply.json));
                json_rpc::write_answer(&call.id, result, &mut body);
            }
        }
        let body: Vec<u8> = body.iter().flatten().copied().collect();
        let answer: Value = serde_json::from_slice(&body).expect("an answer is JSON");
        let answer = answer.as_object().expect("an answer is an object");
        assert!(answer.contains_key("id") && answer.contains_key("result") != answer.contains_key("error"));
    }
}

/// A link to a node that does not run.
fn away() -> &'static (Runtime, NodeLink) {
    static AWAY: OnceLock<(Runtime, NodeLink)> = OnceLock::new();
    AWAY.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pause = Duration::from_secs(3600);
        let options = NodeLinkOptions {
            // The discard port, where nothing listens.
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
            network_name: None,
            message_bytes_max: 1 << 20,
            message_timeout: pause,
            access_timeout: pause,
            keepalive_interval: pause,
            backoff: Backoff { initial_delay: pause, max_delay: pause, coefficient: 1, max_attempts: 1 },
            request_limit: 1,
            request_buffer_size: 1,
        };
        let link = runtime.block_on(async { NodeLink::start(options) });
        (runtime, link)
    })
}

/// A frame's payload is an answer or not, and its value is what it says or not.
pub(crate) fn answer(bytes: &[u8]) {
    node_link::decode_anything(Bytes::copy_from_slice(bytes));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        std::fs::read_dir(folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    /// A case with some bytes replaced, and cut.
    fn damaged(mut case: Vec<u8>, damage: &[(prop::sample::Index, u8)], end: prop::sample::Index) -> Vec<u8> {
        if !case.is_empty() {
            for (place, byte) in damage {
                let place = place.index(case.len());
                case[place] = *byte;
            }
            case.truncate(end.index(case.len()) + 1);
        }
        case
    }

    fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
        prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6)
    }

    proptest! {
        #[test]
        fn a_damaged_request_is_answered(case: prop::sample::Index, damage in damage(), end: prop::sample::Index) {
            let cases = corpus("rpc_request");
            request(&damaged(case.get(&cases).clone(), &damage, end));
        }

        #[test]
        fn a_damaged_answer_is_a_value_or_an_error(case: prop::sample::Index, damage in damage(), end: prop::sample::Index) {
            let cases = corpus("rpc_answer");
            answer(&damaged(case.get(&cases).clone(), &damage, end));
        }

        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes: Vec<u8>) {
            answer(&bytes);
            request(&bytes);
        }
    }
}
