//! The demo of the beacon dialect: a simulated consensus client, whose events flow into a real log and the real server.
//!
//! The client says a slot a second, made of the standard's examples. Like a real one it has no replay, and it answers for
//! the blocks of its chain.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::{Options, end};
use crate::appliance::{self, Addresses, Running};
use crate::config::{Config, Loaded};
use crate::engine::storage_folder::LogPlaces;
use crate::telemetry::Output;

/// One event of every topic, as the standard's examples have it.
const SAMPLES: &str = include_str!("../../resources/demo/beacon-topics.sse");
/// The slot that the client begins with.
const FIRST_SLOT: u64 = 9_600_000;
const SLOTS_PER_EPOCH: u64 = 32;
/// Events that a slow reader may be behind, as with a real client.
const READER_EVENTS_MAX: usize = 4096;
/// Attestations of single validators in a slot.
const ATTESTATIONS: u64 = 16;
/// How long the client is silent before it sends a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Runs until it is to end, and says on `output` what can be tried.
pub(super) async fn replay(options: &Options, storage_path: &Path, output: Output) -> anyhow::Result<()> {
    let client = start(options.speed).await?;
    let text = config_text(storage_path, client, options)?;
    let Loaded { config, .. } = Config::parse(&text, |_| None)?;
    let log = LogPlaces::new(storage_path, crate::beacon::dialect::NAME).directory();
    let started = move |running: Running| output.write_lines(introduction(running.addresses, &log).as_bytes());
    appliance::run_without_casper(&config, started, end()?).await
}

/// What the client says: topic and frame.
type Said = (&'static str, Bytes);

#[derive(Clone)]
struct Client {
    said: broadcast::Sender<Said>,
    slot: watch::Receiver<u64>,
}

/// Starts the client on a free port of the loopback interface.
async fn start(speed: f64) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot open a port for the client")?;
    let address = listener.local_addr()?;
    let (said, _) = broadcast::channel(READER_EVENTS_MAX);
    let (next, slot) = watch::channel(FIRST_SLOT);
    tokio::spawn(speak(said.clone(), next, speed));
    let router = Router::new()
        .route("/eth/v1/events", get(events))
        .route("/eth/v1/config/spec", get(spec))
        .route("/eth/v1/beacon/headers", get(headers))
        .route("/eth/v1/beacon/headers/{root}", get(one_header))
        .route("/eth/v1/beacon/states/head/finality_checkpoints", get(checkpoints))
        .with_state(Client { said, slot });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Says slot after slot; full speed is a hundred a second.
async fn speak(said: broadcast::Sender<Said>, next: watch::Sender<u64>, speed: f64) {
    let pause = if speed > 0.0 { 1.0 / speed } else { 0.01 };
    let pause = Duration::try_from_secs_f64(pause).unwrap_or(Duration::MAX);
    for slot in FIRST_SLOT + 1.. {
        tokio::time::sleep(pause).await;
        next.send_replace(slot);
        for (topic, payload) in events_of(slot) {
            // There may be no subscriber.
            let _ = said.send((topic, format!("event: {topic}\ndata: {payload}\n\n").into()));
        }
    }
}

/// The name of the topic and the payload of every sample.
fn samples() -> impl Iterator<Item = (&'static str, &'static str)> {
    SAMPLES.split_terminator("\n\n").filter_map(|frame| frame.strip_prefix("event: ")?.split_once("\ndata: "))
}

/// The events of one slot, in the order in which they come.
fn events_of(slot: u64) -> Vec<(&'static str, String)> {
    let epoch = slot / SLOTS_PER_EPOCH;
    let is_first_of_epoch = slot.is_multiple_of(SLOTS_PER_EPOCH);
    let mut events = Vec::new();
    let mut say = |topic: &'static str, members: &[(&str, String)]| {
        if let Some((_, sample)) = samples().find(|(name, _)| *name == topic) {
            let set = |payload: String, (name, value): &(&str, String)| with_member(&payload, name, value);
            let payload = members.iter().fold(sample.to_owned(), set);
            let transition = format!(r#""epoch_transition":{is_first_of_epoch}"#);
            events.push((topic, payload.replace(r#""epoch_transition":false"#, &transition)));
        }
    };
    let block = [("slot", slot.to_string()), ("block", root(slot)), ("state", state_root(slot))];
    let dependent = |epochs: u64| root((epoch - epochs) * SLOTS_PER_EPOCH - 1);
    say("block_gossip", &block);
    say("block", &block);
    let dependent = [("previous_duty_dependent_root", dependent(1)), ("current_duty_dependent_root", dependent(0))];
    say("head", &[&block[..], &dependent].concat());
    let of_block = |name: &'static str| [("slot", slot.to_string()), (name, root(slot))];
    for index in 0..2 {
        say("data_column_sidecar", &[&of_block("block_root")[..], &[("index", index.to_string())]].concat());
    }
    say("payload_attributes", &[("proposal_slot", (slot + 1).to_string()), ("parent_block_root", root(slot))]);
    let voted =
        [&of_block("beacon_block_root")[..], &[("epoch", epoch.to_string()), ("root", root(slot - 1))]].concat();
    for attester in 0..ATTESTATIONS {
        let attester = slot % 1000 * ATTESTATIONS + attester;
        say("single_attestation", &[&voted[..], &[("attester_index", attester.to_string())]].concat());
    }
    say("attestation", &voted);
    say("contribution_and_proof", &of_block("beacon_block_root"));
    if is_first_of_epoch {
        let finalized = (epoch - 2) * SLOTS_PER_EPOCH;
        let checkpoint =
            [("block", root(finalized)), ("state", state_root(finalized)), ("epoch", (epoch - 2).to_string())];
        say("finalized_checkpoint", &checkpoint);
    }
    events
}

/// The payload with another text as the value of every member of this name.
fn with_member(payload: &str, name: &str, value: &str) -> String {
    let opening = format!("\"{name}\":\"");
    let mut parts = payload.split(&opening);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.split_once('"').map_or("", |(_, rest)| rest);
        format!("{text}{opening}{value}\"{rest}")
    })
}

fn root(slot: u64) -> String {
    format!("0x{}", blake3::hash(format!("block {slot}").as_bytes()).to_hex())
}

fn state_root(slot: u64) -> String {
    format!("0x{}", blake3::hash(format!("state {slot}").as_bytes()).to_hex())
}

async fn events(State(client): State<Client>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let topics: Vec<String> = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "topics")
        .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    if let Some(unknown) = topics.iter().find(|topic| samples().all(|(known, _)| known != topic.as_str())) {
        let body = json!({"code": 400, "message": format!("Invalid topic: {unknown}")});
        return answer(StatusCode::BAD_REQUEST, &body);
    }
    let first = Bytes::from_static(b":\n\n");
    let state = (client.said.subscribe(), Some(first), Arc::new(topics));
    let frames = stream::unfold(state, |(mut said, first, topics)| async move {
        if let Some(first) = first {
            return Some((first, (said, None, topics)));
        }
        loop {
            let frame = match tokio::time::timeout(KEEP_ALIVE, said.recv()).await {
                Err(_) => Bytes::from_static(b":\n\n"),
                Ok(Ok((topic, frame))) if topics.iter().any(|wanted| wanted == topic) => frame,
                Ok(Ok(_)) => continue,
                Ok(Err(RecvError::Lagged(dropped))) => Bytes::from(format!(": error - dropped {dropped} messages\n\n")),
                Ok(Err(RecvError::Closed)) => return None,
            };
            return Some((frame, (said, None, topics)));
        }
    });
    let body = Body::from_stream(futures_util::StreamExt::map(frames, Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")], body).into_response()
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn data(data: &Value) -> Response {
    answer(StatusCode::OK, &json!({"execution_optimistic": false, "finalized": false, "data": data}))
}

async fn spec() -> Response {
    data(&json!({"CONFIG_NAME": "demo", "SLOTS_PER_EPOCH": SLOTS_PER_EPOCH.to_string()}))
}

async fn headers(State(client): State<Client>) -> Response {
    let newest = *client.slot.borrow();
    data(&json!([header_of(newest)]))
}

async fn one_header(State(client): State<Client>, UrlPath(wanted): UrlPath<String>) -> Response {
    let newest = *client.slot.borrow();
    // The client knows what it has said, and the two epochs before.
    let known = (FIRST_SLOT - 3 * SLOTS_PER_EPOCH..=newest).rev();
    match known.into_iter().find(|slot| root(*slot) == wanted) {
        Some(slot) => data(&header_of(slot)),
        None => answer(StatusCode::NOT_FOUND, &json!({"code": 404, "message": "Block not found"})),
    }
}

fn header_of(slot: u64) -> Value {
    let message = json!({
        "slot": slot.to_string(),
        "proposer_index": "1",
        "parent_root": root(slot - 1),
        "state_root": state_root(slot),
        "body_root": root(slot),
    });
    json!({"root": root(slot), "canonical": true, "header": {"message": message, "signature": "0x"}})
}

async fn checkpoints(State(client): State<Client>) -> Response {
    let epoch = *client.slot.borrow() / SLOTS_PER_EPOCH;
    let checkpoint =
        |back: u64| json!({"epoch": (epoch - back).to_string(), "root": root((epoch - back) * SLOTS_PER_EPOCH)});
    let (justified, finalized) = (checkpoint(1), checkpoint(2));
    data(&json!({"previous_justified": justified, "current_justified": justified, "finalized": finalized}))
}

fn introduction(addresses: Addresses, log: &Path) -> String {
    let [port, rest, admin] =
        [addresses.beacon, addresses.rest, addresses.admin].map(|address| address.map_or(0, |address| address.port()));
    let log = log.display();
    format!(
        "A simulated consensus client says a slot a second, which flows into Sidecar.\n\
         \n  \
           event stream   http://127.0.0.1:{port}/eth/v1/events?topics=head\n  \
           look-ups       http://127.0.0.1:{rest}/swagger-ui/\n  \
           in a browser   http://127.0.0.1:{admin}/\n  \
           metrics        http://127.0.0.1:{admin}/metrics\n  \
           log            {log}\n\
         \n\
         Try, in another terminal:\n  \
           curl -N 'http://127.0.0.1:{port}/eth/v1/events?topics=head,block'                  what is new\n  \
           curl -N 'http://127.0.0.1:{port}/eth/v1/events?topics=head&start_from=0'           everything, then what is new\n  \
           curl -N -H 'last-event-id: 9' 'http://127.0.0.1:{port}/eth/v1/events?topics=head'  as a browser resumes\n  \
           curl -N -H 'accept: application/x-ndjson' \\\n       \
                'http://127.0.0.1:{port}/eth/v1/events?topics=head&start_from=0'              as lines of JSON\n  \
           curl 'http://127.0.0.1:{port}/eth/v1/events?topics=weather_forecast'               an error as the standard has it\n  \
           curl 'http://127.0.0.1:{rest}/logs'                                                the logs\n  \
           curl 'http://127.0.0.1:{rest}/logs/beacon/events?newest=2&types=head'              the newest heads\n  \
           curl 'http://127.0.0.1:{admin}/metrics'                                             how everything is\n  \
           sidecar-log inspect {log}\n\
         \n\
         Ctrl-C ends it.\n"
    )
}

fn config_text(storage_path: &Path, client: SocketAddr, options: &Options) -> anyhow::Result<String> {
    let folder = storage_path.to_str().context("the storage path is not UTF-8")?;
    let folder = toml::Value::String(folder.to_owned());
    let Options { sse_port, rest_port, admin_port, .. } = options;
    Ok(format!(
        "[storage]\n\
         storage_folder = {folder}\n\
         [beacon]\n\
         port = {sse_port}\n\
         [[beacon.connections]]\n\
         url = 'http://{client}'\n\
         [rest_api_server]\n\
         port = {rest_port}\n\
         max_requests_per_second = 100000\n\
         [admin_api_server]\n\
         port = {admin_port}\n\
         max_requests_per_second = 10\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_events_of_its_own_in_the_form_of_the_samples() {
        let events = events_of(FIRST_SLOT + 32);
        let payload = |topic: &str| events.iter().find(|(name, _)| *name == topic).unwrap().1.clone();
        for (topic, payload) in &events {
            let slot = format!("\"{}\"", FIRST_SLOT + 32);
            assert!(serde_json::from_str::<Value>(payload).is_ok(), "{payload}");
            assert!(
                payload.contains(&slot) || ["payload_attributes", "finalized_checkpoint"].contains(topic),
                "{payload}"
            );
        }
        assert!(payload("head").contains(r#""epoch_transition":true"#));
        assert!(payload("finalized_checkpoint").contains(&root(FIRST_SLOT - 32)));
        assert_eq!(samples().count(), 29);
    }

    #[test]
    fn the_demo_runs_on_a_configuration_without_warnings() {
        let options = Options {
            dialect: super::super::DemoDialect::Beacon,
            storage_path: None,
            speed: 1.0,
            sse_port: 1,
            rest_port: 2,
            admin_port: 3,
            rpc_port: 4,
            grpc_port: 5,
        };
        let text = config_text(Path::new("/tmp/a 'quoted' \"path\""), ([127, 0, 0, 1], 5).into(), &options).unwrap();
        let Loaded { config, warnings } = Config::parse(&text, |_| None).unwrap();
        assert_eq!(warnings, []);
        assert!(config.beacon.is_some() && config.rest_api_server.is_some());
    }
}
