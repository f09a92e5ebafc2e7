//! Where each server listens and which clients it admits: addresses, TLS, tokens and origins, through the built binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod browser;
mod page;
mod tunnel;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidecar_test_support::client::{Answer, Request, SseClient};
use sidecar_test_support::node::{SimulatedNode, stream};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story::{Story, StoryOptions};
use sidecar_test_support::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use tunnel::{Identity, Tunnel};

/// No part of any other text, so that finding one anywhere means that it leaked.
const TOKENS: [&str; 3] = ["xyzzyQ9-first-of-them", "xyzzyQ9-second-of-them", "xyzzyQ9-third-of-them"];

/// A sidecar with every server, before it is started, and the port of its JSON-RPC server, whose node is away. The section
/// of each server has `keys`.
fn every_server(node: &SimulatedNode, keys: &str, addresses: &str) -> (SidecarBuilder, ReservedPort) {
    let (rpc, away) = (ReservedPort::new(), ReservedPort::new());
    let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"));
    let keys = format!("ip_address = {addresses}\n{keys}");
    let builder = builder.node(node.address()).rpc(rpc.number(), away.address()).serving(rpc.address());
    let builder = builder.event_stream_server(&keys).rest_api_with(&keys).admin_api_with(&keys);
    let main = "[rpc_server.main_server]\nip_address = '127.0.0.1'\n";
    (builder.replacing(main, &format!("[rpc_server.main_server]\n{keys}\n")), rpc)
}

/// A node that has sent a story, and the stream that a sidecar serves of it.
fn with_story() -> (SimulatedNode, Vec<u8>) {
    let story = Story::new(1, &StoryOptions::small(5));
    let node = SimulatedNode::start();
    node.push_all(story.events());
    let history = stream("2.0.0", 0, story.events());
    (node, history)
}

async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = Request::get(address, path);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).answer().await
}

fn toml(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

#[tokio::test]
async fn every_server_listens_at_each_of_its_addresses_and_at_no_other() {
    let (node, _) = with_story();
    let (builder, rpc) = every_server(&node, "", "['127.0.0.1', '127.0.0.2', '::1']");
    let mut sidecar = builder.start().await;
    let servers =
        [sidecar.sse_address(), sidecar.rest_address(), sidecar.admin_address(), rpc.address()].map(|at| at.port());
    for (server, port) in ["event stream", "REST", "admin"].into_iter().zip(servers) {
        for address in ["127.0.0.1", "127.0.0.2", "[::1]"] {
            sidecar.wait_for_output(&format!("the {server} server listens on {address}:{port}")).await;
        }
    }
    for port in servers {
        for address in ["127.0.0.1", "127.0.0.2", "[::1]"] {
            let mut stream = TcpStream::connect(format!("{address}:{port}")).await.unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 "), "{address}:{port}: {answer}");
        }
        assert!(TcpStream::connect(("127.0.0.3", port)).await.is_err());
    }
}

#[tokio::test]
async fn an_old_file_that_kept_its_ports_from_the_network_still_does() {
    let (node, _) = with_story();
    let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address()).rest_api();
    let old = |section: &str| format!("[{section}]\nip_address = '127.0.0.1'\n");
    let builder = builder.replacing("[sse_server.event_stream_server]\n", &old("event_stream_server"));
    let sidecar = builder.replacing("[rest_api_server]\n", &old("rest_server")).start().await;
    for address in [sidecar.sse_address(), sidecar.rest_address()] {
        assert!(TcpStream::connect(address).await.is_ok());
        assert!(TcpStream::connect(("127.0.0.2", address.port())).await.is_err());
    }
    assert!(!sidecar.output().contains("ip_address"), "{}", sidecar.output());
}

#[test]
fn an_address_that_this_machine_does_not_have_is_refused_with_the_way_out() {
    for (section, component) in [
        ("sse_server.event_stream_server", "sse_event_server"),
        ("rest_api_server", "rest_api_server"),
        ("admin_api_server", "admin_api_server"),
    ] {
        let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).rest_api().admin_api();
        // Of a network that is kept for documentation.
        let keys = format!("[{section}]\nip_address = '192.0.2.1'\n");
        let mut sidecar = builder.replacing(&format!("[{section}]\n"), &keys).spawn();
        assert_eq!(sidecar.wait_for_exit().code(), Some(1));
        let errors = sidecar.errors();
        for part in [component, "192.0.2.1:", "this machine does not have that address; set `ip_address`"] {
            assert!(errors.contains(part), "{part} in {errors}");
        }
    }
}

/// A sidecar with TLS on every server, and the port of its JSON-RPC server.
async fn with_tls(node: &SimulatedNode, identity: &Identity, keys: &str) -> (Sidecar, ReservedPort) {
    let (certificates, key) = (toml(&identity.certificates()), toml(&identity.key()));
    let keys = format!("tls = {{ certificate_file = {certificates}, key_file = {key} }}\n{keys}");
    let (builder, rpc) = every_server(node, &keys, "'127.0.0.1'");
    (builder.event_stream_server("header_timeout_seconds = 1").start().await, rpc)
}

#[tokio::test]
async fn over_tls_every_server_answers_as_it_does_in_the_clear() {
    let (node, history) = with_story();
    let identity = Identity::new();
    let (sidecar, rpc) = with_tls(&node, &identity, "").await;
    let stream = Tunnel::to(sidecar.sse_address(), &identity).await;
    SseClient::connect(stream.address(), "/events?start_from=0").await.expect_bytes(&history).await;
    let zstd = Request::get(stream.address(), "/events?start_from=0").header("accept-encoding", "zstd");
    let mut zstd = zstd.open().await;
    assert_eq!(zstd.header("content-encoding"), Some("zstd"));
    zstd.expect_bytes(&history).await;
    let rest = Tunnel::to(sidecar.rest_address(), &identity).await;
    assert_eq!(get(rest.address(), "/status", &[("connection", "close")]).await.status, 200);
    let admin = Tunnel::to(sidecar.admin_address(), &identity).await;
    assert_eq!(get(admin.address(), "/health", &[]).await.body, "live");
    let rpc = Tunnel::to(rpc.address(), &identity).await;
    assert!(get(rpc.address(), "/health", &[]).await.body.starts_with("{\"node\":"));
}

#[tokio::test]
async fn browsers_agree_on_http_2_and_get_the_same_bytes() {
    let (node, history) = with_story();
    let identity = Identity::new();
    let (sidecar, _rpc) = with_tls(&node, &identity, "").await;
    let tls = identity.connect(sidecar.sse_address(), &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("https://localhost/events?start_from=0").body(Empty::<bytes::Bytes>::new());
    let mut body = sender.send_request(request.unwrap()).await.unwrap().into_body();
    let mut received = Vec::new();
    while received.len() < history.len() {
        let piece = tokio::time::timeout(Duration::from_secs(30), body.frame()).await.expect("in time");
        received.extend_from_slice(&piece.unwrap().unwrap().into_data().unwrap());
    }
    assert!(received == history);
    drop(sender);
    connection.abort();
}

#[tokio::test]
async fn a_client_without_a_tls_handshake_is_answered_or_cut_in_time() {
    let (node, _) = with_story();
    let identity = Identity::new();
    let (sidecar, _rpc) = with_tls(&node, &identity, "").await;
    let answer = get(sidecar.sse_address(), "/events", &[]).await;
    assert_eq!((answer.status, answer.body.contains("https://")), (400, true), "{answer:?}");
    let begun = Instant::now();
    let mut silent = TcpStream::connect(sidecar.sse_address()).await.unwrap();
    let mut halfway = TcpStream::connect(sidecar.sse_address()).await.unwrap();
    halfway.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    for stream in [&mut silent, &mut halfway] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        let _ = ended.expect("cut after header_timeout_seconds");
    }
    assert!(begun.elapsed() >= Duration::from_millis(900));
    let metrics = Tunnel::to(sidecar.admin_address(), &identity).await;
    let metrics = get(metrics.address(), "/metrics", &[]).await.body;
    assert!(metrics.contains("\nsidecar_stream_tls_handshakes_failed_total{log=\"casper\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart_and_a_bad_one_never_is() {
    let (node, history) = with_story();
    let mut identity = Identity::new();
    let (mut sidecar, _rpc) = with_tls(&node, &identity, "").await;
    let old = Tunnel::to(sidecar.sse_address(), &identity).await;
    let mut open = SseClient::connect(old.address(), "/events?start_from=0").await;
    open.expect_bytes(&history).await;
    let before = identity.clone();
    identity.renew();
    // Of each of the four servers.
    sidecar.wait_for_outputs("changed files are in use", 4).await;
    assert!(before.connect(sidecar.sse_address(), &[]).await.is_err(), "the old certificate is still shown");
    let new = Tunnel::to(sidecar.sse_address(), &identity).await;
    SseClient::connect(new.address(), "/events?start_from=0").await.expect_bytes(&history).await;
    for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let lines = sidecar.output().matches("changed files cannot be used").count();
        std::fs::write(identity.certificates(), bad).unwrap();
        sidecar.wait_for_outputs("changed files cannot be used", lines + 4).await;
        let client = SseClient::connect(new.address(), "/events?start_from=0");
        client.await.expect_bytes(&history).await;
    }
    let output = sidecar.output();
    assert!(output.contains("WARN") && output.contains(identity.certificates().to_str().unwrap()), "{output}");
    // Nothing of that touched who was connected.
    let more = Story::new(2, &StoryOptions::small(1));
    node.push_all(more.events());
    assert!(open.next_message().await.is_some());
}

#[test]
fn a_server_with_a_bad_certificate_or_without_its_tokens_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let (key, tokens) = (folder.path().join("key.pem"), folder.path().join("tokens"));
    std::fs::write(&key, TOKENS[0]).unwrap();
    std::fs::write(&tokens, "xyzzyQ9 is two short\n").unwrap();
    let missing = folder.path().join("missing.pem");
    let cases = [
        (
            format!("tls = {{ certificate_file = {}, key_file = {} }}", toml(&missing), toml(&key)),
            "missing.pem: No such file",
        ),
        (
            format!("tls = {{ certificate_file = {0}, key_file = {0} }}", toml(&key)),
            "it holds none; name a file of certificates",
        ),
        (format!("bearer_tokens = {{ file = {} }}", toml(&tokens)), "tokens: line 1 cannot be a token"),
        (
            "bearer_tokens = { variable = 'SIDECAR_NO_SUCH_TOKENS' }".to_owned(),
            "'SIDECAR_NO_SUCH_TOKENS', which is not set",
        ),
    ];
    for (keys, part) in cases {
        let mut sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).admin_api_with(&keys).spawn();
        assert_eq!(sidecar.wait_for_exit().code(), Some(1));
        let errors = sidecar.errors();
        assert!(errors.contains(part), "{part} in {errors}");
        assert!(!sidecar.output().contains("xyzzyQ9"), "{}", sidecar.output());
    }
}

#[tokio::test]
async fn a_token_opens_each_server_and_is_never_shown() {
    let (node, history) = with_story();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, format!("# of this year\n{}\n", TOKENS[0])).unwrap();
    let keys = format!("bearer_tokens = {{ file = {}, variable = 'TOKENS_OF_TEST' }}\ncors_origin = '*'", toml(&file));
    let (builder, rpc) = every_server(&node, &keys, "'127.0.0.1'");
    let builder = builder.environment("TOKENS_OF_TEST", TOKENS[1]).environment("RUST_LOG", "trace");
    let mut sidecar = builder.start().await;
    let (sse, rest, admin) = (sidecar.sse_address(), sidecar.rest_address(), sidecar.admin_address());
    let bearer = |token: &str| format!("Bearer {token}");

    let places = [(sse, "/events"), (sse, "/"), (rest, "/status"), (rest, "/api-doc.json"), (admin, "/metrics")];
    for (address, path) in places.into_iter().chain([(admin, "/ready"), (admin, "/status"), (rpc.address(), "/rpc")]) {
        let basic = format!("Basic {}", TOKENS[0]);
        let in_query = format!("{path}?access_token={}&start_from=0", TOKENS[0]);
        let nothing = get(address, path, &[("origin", "http://page.example")]).await;
        assert_eq!(
            (nothing.status, nothing.header("www-authenticate")),
            (401, Some("Bearer realm=\"sidecar\"")),
            "{path}"
        );
        assert_eq!(nothing.header("access-control-allow-origin"), Some("http://page.example"), "{path}");
        for headers in [vec![("authorization", basic.as_str())], vec![]] {
            assert_eq!(get(address, &in_query, &headers).await.status, 401, "{path}");
        }
        let wrong = get(address, path, &[("authorization", &bearer(TOKENS[2]))]).await;
        let challenge = Some("Bearer realm=\"sidecar\", error=\"invalid_token\"");
        assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, challenge), "{path}");
        for token in &TOKENS[..2] {
            let mut opened = Request::get(address, path).header("authorization", &bearer(token)).open().await;
            assert_ne!(opened.status(), 401, "{path}");
            if (address, path) == (sse, "/events") {
                assert!(opened.next_message().await.is_some());
            }
        }
    }
    for address in [admin, rpc.address()] {
        assert_ne!(get(address, "/health", &[]).await.status, 401, "supervisors have no token");
    }
    let preflight = Request::new("OPTIONS", sse, "/events").header("origin", "http://page.example");
    let preflight = preflight.header("access-control-request-method", "GET");
    let preflight = preflight.header("access-control-request-headers", "authorization,last-event-id").answer().await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization,last-event-id"));
    let preflight = Request::new("OPTIONS", rpc.address(), "/rpc").header("origin", "http://page.example");
    let preflight = preflight.header("access-control-request-method", "POST");
    let preflight = preflight.header("access-control-request-headers", "authorization, content-type").answer().await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (200, Some("POST")));

    // What only a token opens must not be in a cache that others share.
    let token = bearer(TOKENS[0]);
    let block = async |path: &str| get(rest, path, &[("authorization", &token)]).await;
    until(Duration::from_secs(60), "a block that is found", async || block("/block").await.status == 200).await;
    let hash = block("/block").await.json()["payload"]["block_hash"].as_str().unwrap().to_owned();
    let by_hash = block(&format!("/block/{hash}")).await;
    assert_eq!((by_hash.status, by_hash.header("cache-control")), (200, Some("private, max-age=31536000, immutable")));

    // A new token beside the old one; then without it.
    std::fs::write(&file, format!("{}\n{}\n", TOKENS[0], TOKENS[2])).unwrap();
    sidecar.wait_for_outputs("changed files are in use", 4).await;
    let status = async |token: &str| get(rest, "/status", &[("authorization", &bearer(token))]).await.status;
    assert_eq!((status(TOKENS[0]).await, status(TOKENS[2]).await), (200, 200));
    let events = Request::get(sse, "/events?start_from=0").header("authorization", &bearer(TOKENS[0]));
    let mut events = events.open().await;
    events.expect_bytes(&history).await;
    std::fs::write(&file, format!("{}\n", TOKENS[2])).unwrap();
    sidecar.wait_for_outputs("changed files are in use", 8).await;
    assert_eq!((status(TOKENS[0]).await, status(TOKENS[2]).await), (401, 200));

    let mut shown = String::new();
    for (address, path) in [(admin, "/metrics"), (admin, "/status"), (admin, "/ready"), (rest, "/status"), (rest, "/")]
    {
        let answer = get(address, path, &[("authorization", &bearer(TOKENS[1]))]).await;
        shown += &format!("{answer:?}");
    }
    assert!(shown.contains("sidecar_stream_unauthorized_total"), "{shown}");
    sidecar.terminate();
    shown += &sidecar.output();
    assert!(shown.contains("requests without a valid token are refused") && shown.contains("TRACE"));
    let place = shown.find("xyzzyQ9").map(|at| &shown[at.saturating_sub(300)..(at + 300).min(shown.len())]);
    assert_eq!(place, None, "a token is shown");
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_and_those_of_others_may_not() {
    let (node, _) = with_story();
    let listed = ["https://explorer.example", "http://localhost:3000"];
    let (builder, rpc) = every_server(&node, &format!("cors_origin = {listed:?}"), "'127.0.0.1'");
    let sidecar = builder.start().await;
    for (address, path) in [
        (sidecar.sse_address(), "/events/sidecar?start_from=nothing"),
        (sidecar.rest_address(), "/status"),
        (sidecar.admin_address(), "/metrics"),
        (rpc.address(), "/rpc"),
    ] {
        for origin in listed {
            let answer = get(address, path, &[("origin", origin)]).await;
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{path}");
        }
        for origin in ["https://explorer.example.org", "null", "http://explorer.example", "http://localhost"] {
            let answer = get(address, path, &[("origin", origin)]).await;
            let told = (answer.status, answer.body.as_str());
            assert_eq!(told, (403, "CORS request forbidden: origin not allowed"), "{path}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        assert_ne!(get(address, path, &[]).await.status, 403, "{path}");
    }
}
