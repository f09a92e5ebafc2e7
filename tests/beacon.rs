//! Beacon streams through the built binary: from simulated consensus clients to a log of their own, and out again as the
//! standard has it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sidecar_test_support::beacon::BeaconNode;
use sidecar_test_support::browser::EventSourcePage;
use sidecar_test_support::client::{Request, SseClient, events as with_ids, get};
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Process, Sidecar, SidecarBuilder, demo};
use sidecar_test_support::story;

const PATIENCE: Duration = Duration::from_secs(60);
/// What is logged when a client is being read.
const READING: &str = "reading a client's events";
const SAMPLES: &str = include_str!("../resources/demo/beacon-topics.sse");

/// The topic and the payload of every sample.
fn samples() -> Vec<(&'static str, &'static str)> {
    let frames = SAMPLES.split_terminator("\n\n");
    frames.map(|frame| frame.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap()).collect()
}

/// A sidecar of beacon clients alone.
struct Beacon {
    sidecar: Sidecar,
    port: ReservedPort,
}

impl Beacon {
    fn builder(port: &ReservedPort, storage: &Path, clients: &[(&str, &str)]) -> SidecarBuilder {
        let clients = clients.iter().map(|(url, keys)| format!("[[beacon.connections]]\nurl = '{url}'\n{keys}\n"));
        let sections = format!(
            "[storage]\nstorage_folder = {storage:?}\n[beacon]\nport = {}\n{}",
            port.number(),
            clients.collect::<String>()
        );
        let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).without_sse_server();
        builder.sections(&sections).rest_api().admin_api().serving(port.address()).environment("RUST_LOG", "info")
    }

    async fn start(storage: &Path, clients: &[(&str, &str)]) -> Beacon {
        let port = ReservedPort::new();
        let sidecar = Self::builder(&port, storage, clients).start().await;
        Beacon { sidecar, port }
    }

    /// Starts it, and waits until every client is being read.
    async fn reading(storage: &Path, clients: &[(&str, &str)]) -> Beacon {
        let mut beacon = Self::start(storage, clients).await;
        beacon.sidecar.wait_for_outputs(READING, clients.len()).await;
        beacon
    }

    async fn restart(&mut self) {
        self.sidecar.restart().await;
        self.sidecar.wait_for_output(READING).await;
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The whole stream of some topics up to an id.
    async fn stored(&self, topics: &str, until: u64) -> Vec<(u64, String)> {
        let target = format!("/eth/v1/events?topics={topics}&start_from=0&until={until}");
        let mut stream = Request::get(self.address(), &target).patience(PATIENCE).open().await;
        let messages = stream.read_to_end().await;
        with_ids(&messages)
            .into_iter()
            .map(|(id, data)| (id, data.to_owned()))
            .filter(|(_, data)| !data.is_empty())
            .collect()
    }
}

fn block(slot: u64) -> String {
    format!(r#"{{"slot":"{slot}","block":"0x{slot:064x}","execution_optimistic":false}}"#)
}

#[tokio::test]
async fn every_topic_passes_byte_for_byte_in_the_order_of_the_standard_and_is_filtered() {
    let samples = samples();
    let (current, variants) = samples.split_at(25);
    for samples in [current, variants] {
        let (node, storage) = (BeaconNode::start(), tempfile::tempdir().unwrap());
        let beacon = Beacon::reading(storage.path(), &[(&node.url(), "")]).await;
        pass(&node, &beacon, samples).await;
    }
}

async fn pass(node: &BeaconNode, beacon: &Beacon, samples: &[(&str, &str)]) {
    let all = samples.iter().map(|(topic, _)| *topic).collect::<Vec<_>>().join(",");
    let mut live = SseClient::connect(beacon.address(), &format!("/eth/v1/events?topics={all}")).await;
    let mut expected = b":\n\n".to_vec();
    for (id, (topic, payload)) in samples.iter().enumerate() {
        node.push(topic, payload);
        expected.extend(format!("event: {topic}\ndata: {payload}\nid: {id}\n\n").into_bytes());
    }
    // Of two payload attributes for one proposal the first is kept.
    let is_dropped = |topic: &str, id: usize| topic == "payload_attributes" && id == 3;
    if is_dropped(samples.last().unwrap().0, samples.len() - 1) {
        expected.truncate(expected.windows(7).rposition(|bytes| bytes == b"event: ").unwrap());
    }
    live.expect_bytes(&expected).await;
    let stored: Vec<(usize, &(&str, &str))> =
        samples.iter().enumerate().filter(|(id, (topic, _))| !is_dropped(topic, *id)).collect();
    let last = stored.len() as u64 - 1;
    for (id, (topic, payload)) in &stored {
        assert_eq!(beacon.stored(topic, last).await, [(*id as u64, (*payload).to_owned())], "{topic}");
    }
    // The same events as zstd frames, and as NDJSON.
    let target = format!("/eth/v1/events?topics={all}&start_from=0&until={last}");
    let mut zstd = Request::get(beacon.address(), &target).header("accept-encoding", "zstd").open().await;
    assert_eq!(zstd.header("content-encoding"), Some("zstd"));
    let messages = zstd.read_to_end().await;
    let payloads = stored.iter().map(|(_, (_, payload))| *payload);
    assert!(with_ids(&messages).into_iter().map(|(_, data)| data).eq(payloads));
    let lines = Request::get(beacon.address(), &target).header("accept", "application/x-ndjson").answer().await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    for (id, (topic, payload)) in &stored {
        let line = format!("{{\"id\":{id},\"event\":\"{topic}\",\"data\":{payload}}}\n");
        assert!(lines.body.contains(&line), "{line} in {}", lines.body);
    }
}

#[tokio::test]
async fn headers_and_errors_are_those_of_the_standard() {
    let (node, storage) = (BeaconNode::start(), tempfile::tempdir().unwrap());
    let beacon = Beacon::start(storage.path(), &[(&node.url(), "")]).await;
    for (target, status, body) in [
        ("?topics=head,weather_forecast", 400, r#"{"code":400,"message":"Invalid topic: weather_forecast"}"#),
        ("", 400, r#"{"code":400,"message":"No topics given: the topics parameter is required"}"#),
        ("?topics=,,", 400, r#"{"code":400,"message":"No topics given: the topics parameter is required"}"#),
    ] {
        let answer = get(beacon.address(), &format!("/eth/v1/events{target}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let not_acceptable = Request::get(beacon.address(), "/eth/v1/events?topics=head").header("accept", "text/html");
    let not_acceptable = not_acceptable.answer().await;
    let body = r#"{"code":406,"message":"Accepted media type is not supported"}"#;
    assert_eq!((not_acceptable.status, not_acceptable.body.as_str()), (406, body));
    let post = Request::new("POST", beacon.address(), "/eth/v1/events?topics=head").answer().await;
    assert_eq!((post.status, post.json()["code"].clone()), (405, json!(405)));
    assert_eq!(get(beacon.address(), "/eth/v1/node").await.json()["code"], 404);
    assert!(get(beacon.address(), "/").await.body.contains("/eth/v1/events"));
    // A browser that has had the last event reconnects by itself; 204 stops it.
    let past = Request::get(beacon.address(), "/eth/v1/events?topics=head&start_from=0&until=6").last_event_id(6);
    assert_eq!(past.open().await.status(), 204);
    let head = Request::new("HEAD", beacon.address(), "/eth/v1/events?topics=head").open().await;
    assert_eq!((head.status(), head.header("content-length")), (200, None));
    let stream = SseClient::connect(beacon.address(), "/eth/v1/events?topics=head&topics=block").await;
    for (name, value) in
        [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
    {
        assert_eq!(stream.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn what_two_clients_report_is_stored_once_and_what_each_reports_alone_is_kept() {
    let (one, two, storage) = (BeaconNode::start(), BeaconNode::start(), tempfile::tempdir().unwrap());
    two.forget_topic("head_v2");
    let beacon = Beacon::reading(storage.path(), &[(&one.url(), ""), (&two.url(), "")]).await;
    let mut live = SseClient::connect(beacon.address(), "/eth/v1/events?topics=block,voluntary_exit").await;
    for slot in 1..=50 {
        one.push("block", &block(slot));
        // Another order of the members, and capital digits.
        two.push("block", &format!(r#"{{"execution_optimistic":false,"block":"0x{slot:064X}","slot":"{slot}"}}"#));
    }
    two.push("voluntary_exit", r#"{"message":{"epoch":"1","validator_index":"7"},"signature":"0xab"}"#);
    let messages = live.read_until(|message| message.data.contains("validator_index")).await;
    assert_eq!(messages.len(), 51);
    let metrics = get(beacon.sidecar.admin_address(), "/metrics").await.body;
    for line in [
        "sidecar_log_head{log=\"beacon\"} 51".to_owned(),
        format!("node_statuses{{node=\"{}\"}} 2", one.address()),
        format!("sidecar_source_received_total{{log=\"beacon\",node=\"{}\"}} 51", two.address()),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    let status = get(beacon.sidecar.admin_address(), "/status").await.json();
    assert_eq!(status["logs"][0]["name"], "beacon");
    assert_eq!(status["logs"][0]["nodes"][1]["status"], "connected");
    assert_eq!(get(beacon.sidecar.admin_address(), "/ready").await.body, "ready");
}

/// Answers for a chain with a block in every slot up to `head`.
fn answer_for_chain(node: &BeaconNode, head: u64) {
    let root = |slot: u64| format!("0x{slot:064x}");
    let header = |slot: u64| {
        let message = json!({"slot": slot.to_string(), "proposer_index": "0", "parent_root": root(slot.saturating_sub(1)),
            "state_root": root(slot), "body_root": root(slot)});
        json!({"root": root(slot), "canonical": true, "header": {"message": message, "signature": "0x00"}})
    };
    let answer = |data: Value| json!({"execution_optimistic": false, "finalized": false, "data": data}).to_string();
    node.answer("/eth/v1/beacon/headers", &answer(json!([header(head)])));
    for slot in 0..=head {
        node.answer(&format!("/eth/v1/beacon/headers/{}", root(slot)), &answer(header(slot)));
    }
    let checkpoint = |epoch: u64| json!({"epoch": epoch.to_string(), "root": root(epoch * 32)});
    let checkpoints =
        json!({"previous_justified": checkpoint(2), "current_justified": checkpoint(2), "finalized": checkpoint(1)});
    node.answer("/eth/v1/beacon/states/head/finality_checkpoints", &answer(checkpoints));
    node.answer("/eth/v1/config/spec", &json!({"data": {"CONFIG_NAME": "test", "SLOTS_PER_EPOCH": "32"}}).to_string());
}

#[tokio::test]
async fn after_a_client_was_away_a_gap_is_marked_and_blocks_heads_and_checkpoints_are_made_up_for() {
    let (mut node, storage) = (BeaconNode::start(), tempfile::tempdir().unwrap());
    answer_for_chain(&node, 70);
    let keys = "topics = ['head', 'block', 'finalized_checkpoint']";
    let mut beacon = Beacon::reading(storage.path(), &[(&node.url(), keys)]).await;
    let mut live = SseClient::connect(beacon.address(), "/eth/v1/events?topics=block,head,finalized_checkpoint").await;
    node.push("block", &block(66));
    live.expect_message().await;
    node.go_away().await;
    beacon.sidecar.wait_for_output("the connection to a client is lost").await;
    node.come_back();
    // Four blocks, each with a head, and the checkpoint.
    let made = live.read_messages(9).await;
    assert!(
        made.iter().any(|message| message.data == block(67)) && made.iter().any(|message| message.data == block(70))
    );
    let head = made.iter().find(|message| message.data.contains("duty") && message.data.contains(r#""slot":"68""#));
    let head: Value = serde_json::from_str(&head.unwrap().data).unwrap();
    assert_eq!(head["current_duty_dependent_root"], format!("0x{:064x}", 63));
    assert_eq!(head["previous_duty_dependent_root"], format!("0x{:064x}", 31));
    let checkpoint = made.iter().find(|message| message.data.contains("epoch\":\"1\"")).unwrap();
    assert!(checkpoint.data.contains(&format!("0x{:064x}", 32)));
    beacon.sidecar.wait_for_output("the log carries a mark").await;
    // The client reports one of them after all.
    node.push("block", &block(70));
    node.push("block", &block(71));
    assert_eq!(live.expect_message().await.data, block(71));

    beacon.sidecar.kill9();
    beacon.restart().await;
    let again = beacon.stored("block", 10).await;
    assert_eq!(again.len(), 6);
    // What was sent between the kill and now is a gap, too.
    beacon.sidecar.wait_for_output("the log carries a mark").await;
    let mut resumed = Request::get(beacon.address(), "/eth/v1/events?topics=block").last_event_id(9).open().await;
    node.push("block", &block(72));
    let rest = resumed.read_until(|message| message.data == block(72)).await;
    let rest: Vec<_> = with_ids(&rest).into_iter().filter(|(_, data)| !data.is_empty()).collect();
    assert_eq!(rest, [(10, block(71).as_str()), (11, block(72).as_str())]);
}

#[tokio::test]
async fn what_was_received_and_could_not_be_stored_is_asked_for_once_the_log_is_back() {
    let (node, storage) = (BeaconNode::start(), tempfile::tempdir().unwrap());
    answer_for_chain(&node, 68);
    let mut beacon = Beacon::reading(storage.path(), &[(&node.url(), "topics = ['block']")]).await;
    let mut live = SseClient::connect(beacon.address(), "/eth/v1/events?topics=block").await;
    node.push("block", &block(66));
    assert_eq!(live.expect_message().await.data, block(66));
    let (log, away) = (storage.path().join("logs/beacon"), storage.path().join("away"));
    std::fs::rename(&log, &away).unwrap();
    node.push("block", &block(67));
    beacon.sidecar.wait_for_output("storing has stopped").await;
    std::fs::rename(&away, &log).unwrap();
    for slot in [67, 68] {
        assert_eq!(live.expect_message().await.data, block(slot));
    }
    beacon.sidecar.wait_for_output("the log carries a mark").await;
}

#[tokio::test]
async fn topics_that_a_client_does_not_know_are_left_out_and_others_than_the_standards_are_served() {
    let (node, storage) = (BeaconNode::start(), tempfile::tempdir().unwrap());
    node.forget_topic("head_v2");
    let keys = "topics = ['head_v2', 'block', 'weather_forecast']\nusername = 'user'\npassword = 'XYZZY'";
    let mut beacon = Beacon::reading(storage.path(), &[(&node.url(), keys)]).await;
    beacon.sidecar.wait_for_output("the client does not know all topics").await;
    let mut live = SseClient::connect(beacon.address(), "/eth/v1/events?topics=weather_forecast").await;
    node.push("block", &block(1));
    node.push("weather_forecast", r#"{"rain":true}"#);
    node.send("block", "data: not json\n\n");
    node.send("block", "event: of_no_number\ndata: 1\n\n");
    node.push("weather_forecast", r#"{"rain":false}"#);
    let messages = live.read_messages(2).await;
    assert_eq!(with_ids(&messages), [(1, r#"{"rain":true}"#), (3, r#"{"rain":false}"#)]);
    let heads = node.request_heads();
    // "user:XYZZY"
    assert!(
        heads.iter().all(|head| head.to_lowercase().contains("authorization: basic dxnlcjpywvpawq==")),
        "{heads:?}"
    );
    assert!(!beacon.sidecar.output().contains("XYZZY"));

    let rest = beacon.sidecar.rest_address();
    let logs = get(rest, "/logs").await.json();
    assert_eq!((&logs["logs"][0]["name"], &logs["logs"][0]["next"]), (&json!("beacon"), &json!(4)));
    let page = get(rest, "/logs/beacon/events?types=weather_forecast&limit=1").await.json();
    assert_eq!(page["events"][0]["payload"], json!({"rain": true}));
    assert_eq!((&page["events"][0]["kind"], &page["next"]), (&json!("weather_forecast"), &json!(2)));
    let unnumbered = get(rest, "/logs/beacon/events/2").await.json();
    assert_eq!((&unnumbered["kind"], &unnumbered["payload"]), (&json!("of_no_number"), &json!(1)));
    assert_eq!(get(rest, "/logs/beacon/status").await.json()["dialect"], "beacon");
    for (target, status) in [
        ("/logs/beacon/events?types=rain", 400),
        ("/logs/beacon/events/9", 404),
        ("/logs/casper/events", 404),
        ("/logs/casper/status", 404),
        ("/block", 501),
    ] {
        assert_eq!(get(rest, target).await.status, status, "{target}");
    }
}

#[tokio::test]
async fn a_burst_of_attestations_reaches_ten_clients_without_a_gap() {
    const ATTESTATIONS: u64 = 20_000;
    let (node, storage) = (BeaconNode::start(), tempfile::tempdir().unwrap());
    let beacon = Beacon::reading(storage.path(), &[(&node.url(), "topics = ['single_attestation']")]).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let request = Request::get(beacon.address(), "/eth/v1/events?topics=single_attestation").patience(PATIENCE);
        clients.push(request.open().await);
    }
    let (_, sample) = samples().into_iter().find(|(topic, _)| *topic == "single_attestation").unwrap();
    for attester in 0..ATTESTATIONS {
        node.push(
            "single_attestation",
            &sample.replace(r#""attester_index":"1""#, &format!(r#""attester_index":"{attester}""#)),
        );
    }
    for mut client in clients {
        let messages = client.read_until_id(ATTESTATIONS - 1).await;
        assert!(messages.iter().filter_map(|message| message.id).eq(0..ATTESTATIONS));
    }
}

#[tokio::test]
async fn a_page_that_is_cut_off_reconnects_by_itself_and_has_every_event_once() {
    let (node, storage) = (BeaconNode::start(), tempfile::tempdir().unwrap());
    let mut beacon = Beacon::reading(storage.path(), &[(&node.url(), "topics = ['head', 'block']")]).await;
    let url = format!("http://{}/eth/v1/events?topics=head,block", beacon.address());
    let mut page = EventSourcePage::open(&url, &["head", "block"]).await;
    let push = |slots: std::ops::Range<u64>| {
        let expected =
            slots.clone().flat_map(|slot| [("block", block(slot)), ("head", block(slot))]).collect::<Vec<_>>();
        expected.iter().for_each(|(topic, payload)| node.push(topic, payload));
        expected
    };
    let mut expected = push(0..20);
    let mut seen = page.events(expected.len()).await;
    for round in 1..=2 {
        beacon.sidecar.kill9();
        beacon.restart().await;
        // Before the browser has reconnected: it pauses first.
        let missed = push(20 * round..20 * (round + 1));
        seen.extend(page.events(missed.len()).await);
        expected.extend(missed);
    }
    assert_eq!(page.openings(), 3);
    for (id, (event, (topic, payload))) in seen.iter().zip(&expected).enumerate() {
        assert_eq!((&*event.id, &*event.name, &event.data), (&*id.to_string(), *topic, payload));
    }
}

#[tokio::test]
async fn a_beacon_log_and_caspers_live_in_one_process_and_each_resumes_after_a_kill() {
    let (node, casper, storage) = (BeaconNode::start(), SimulatedNode::start(), tempfile::tempdir().unwrap());
    let port = ReservedPort::new();
    let sections = format!("[beacon]\nport = {}\n[[beacon.connections]]\nurl = '{}'\n", port.number(), node.url());
    let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(casper.address());
    let builder = builder.storage_folder(storage.path()).sections(&sections).rest_api().serving(port.address());
    let mut sidecar = builder.environment("RUST_LOG", "info").start().await;
    for round in 0..2_u64 {
        sidecar.wait_for_output(READING).await;
        let mut blocks = SseClient::connect(port.address(), "/eth/v1/events?topics=block&start_from=0").await;
        let mut events = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
        for slot in 0..100 {
            node.push("block", &block(100 * round + slot));
            casper.push(story::unknown_kind(100 * round + slot).payload);
        }
        let last = 100 * round + 99;
        let of_blocks = blocks.read_until_id(last).await;
        assert!(of_blocks.iter().filter_map(|message| message.id).eq(0..=last));
        events.read_until_id(last).await;
        let logs = get(sidecar.rest_address(), "/logs").await.json();
        let names: Vec<_> = logs["logs"].as_array().unwrap().iter().map(|log| log["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["casper", "beacon"]);
        let of_casper = get(sidecar.rest_address(), "/logs/casper/events/0").await;
        assert_eq!(of_casper.body, get(sidecar.rest_address(), "/events/0").await.body);
        sidecar.kill9();
        sidecar.restart().await;
    }
}

#[tokio::test]
async fn the_demo_serves_a_simulated_client() {
    let mut command = demo(env!("CARGO_BIN_EXE_sidecar"), &[]);
    let mut demo = Process::start(command.args(["--dialect", "beacon", "--speed=0"]));
    demo.wait_for_output("Ctrl-C ends it.").await;
    let output = demo.output();
    let (_, address) = output.split_once("http://").unwrap();
    let address: SocketAddr = address.split('/').next().unwrap().parse().unwrap();
    let mut stream = SseClient::connect(address, "/eth/v1/events?topics=head,finalized_checkpoint&start_from=0").await;
    let messages = stream.read_until(|message| message.data.contains("\"epoch\"")).await;
    let heads: Vec<u64> = messages
        .iter()
        .filter_map(|message| serde_json::from_str::<Value>(&message.data).ok()?["slot"].as_str()?.parse().ok())
        .collect();
    assert!(heads.len() > 1 && heads.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{heads:?}");
    assert!(demo.terminate().success());
}
