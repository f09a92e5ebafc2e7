//! Two logs in one process: Casper's, and beside it one of a small dialect with named frames and no heights. What befalls
//! one of them does not affect the other.
//!
//! The process under test is this test's own program, started again. It is put together from the library's public parts
//! alone, as a third dialect would be: [`Tides`] is all that the engine must know of tides.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, request};
use axum::response::Response;
use serde::Deserialize;
use sidecar::admin::{self, AdminOptions, Logged, Parts};
use sidecar::casper::dialect::Casper;
use sidecar::casper::events;
use sidecar::casper::source::{self, Counters, NodeOptions as CasperNode};
use sidecar::engine::dialect::{Dialect, Facts, Identity, write_options};
use sidecar::engine::http::ListenOptions;
use sidecar::engine::ingest::{self, Retention, Rewriting, identity};
use sidecar::engine::log_set::{LogSet, OpenedLog, Sources};
use sidecar::engine::source::{Batch, Connection, End, LogNetwork, Received};
use sidecar::engine::storage_folder::LogPlaces;
use sidecar::engine::stream::{Delivery, Hub, OpenStreams, Port, PortOptions, ReaderClass, Resources, Subscription};
use sidecar::sse_client::stream::Timeouts;
use sidecar_log_format::{ApiVersion, Durability, FrameForm, Kind, RewriteOptions, WriteOptions};
use sidecar_test_support::client::{Message, Request, SseClient, events as with_ids, get};
use sidecar_test_support::disk::SmallDisk;
use sidecar_test_support::node::{NodeOptions, SimulatedNode};
use sidecar_test_support::process::Process;
use sidecar_test_support::story;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
/// Tells the program that it is the process under test, and what it is to do.
const ROLE: &str = "TWO_LOGS_ROLE";
const STOPPED: &str = "storing has stopped, serving continues";
const RESUMED: &str = "storing resumes";
const WAITS: &str = "the device is full; ingest waits, serving continues";
const GOES_ON: &str = "there is room on the device again";

// The dialect.

const HIGH: Kind = Kind(1);
const LOW: Kind = Kind(2);
const OTHER: Kind = Kind(62);

/// The dialect of one log of tides: `high` and `low`, each known by its station and number.
#[derive(Debug)]
struct Tides([(Kind, Box<str>); 2]);

#[derive(Deserialize)]
struct Tide {
    station: String,
    number: u64,
}

impl Default for Tides {
    fn default() -> Self {
        Tides([(HIGH, "high".into()), (LOW, "low".into())])
    }
}

impl Dialect for Tides {
    fn name(&self) -> &str {
        "tides"
    }

    fn kinds(&self) -> &[(Kind, Box<str>)] {
        &self.0
    }

    fn frame_form(&self) -> FrameForm {
        FrameForm::Named
    }

    fn facts(&self, kind: Kind, payload: &str) -> Option<Facts> {
        let tide: Tide = serde_json::from_str(payload).ok()?;
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&tide.number.to_be_bytes());
        for (place, byte) in hash[8..].iter_mut().zip(tide.station.bytes()) {
            *place = byte;
        }
        Some(Facts { identity: Identity { class: kind.0, time: tide.number, hash }, richness: 0, ordinal: None })
    }
}

/// Reads a station again and again, from its first tide on.
async fn read_station(station: SocketAddr, batches: mpsc::Sender<Batch>) -> End {
    let connection = Arc::new(Connection {
        source: station.to_string(),
        network: "north-sea".to_owned(),
        api_version: ApiVersion::NONE,
        event_lines: None,
    });
    let dialect = Tides::default();
    loop {
        let Ok(mut stream) = Request::get(station, "/events?start_from=0").try_open().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while let Some(message) = stream.next_message().await {
            let Some(upstream_id) = message.id else { continue };
            let (name, payload) = message.data.split_once(' ').unwrap();
            let kind = match name {
                "high" => HIGH,
                "low" => LOW,
                _ => OTHER,
            };
            let event = Received {
                facts: dialect.facts(kind, payload).unwrap(),
                payload: payload.to_owned(),
                kind,
                name: if kind == OTHER { name.into() } else { "".into() },
                upstream_id: Some(upstream_id),
                received_at: 1,
                line: None,
            };
            let batch = Batch::Events { connection: Arc::clone(&connection), events: vec![event] };
            if batches.send(batch).await.is_err() {
                return End::ReceiverGone;
            }
        }
    }
}

const CLASSES: &[ReaderClass] = &[ReaderClass("tides")];

/// What a client of tides asks for.
#[derive(Deserialize)]
struct Wanted {
    start_from: Option<u64>,
    until: Option<u64>,
    only: Option<String>,
}

type TidesServer = (Arc<Hub>, OpenStreams, Delivery);

async fn tides(
    State((hub, streams, delivery)): State<TidesServer>,
    Query(wanted): Query<Wanted>,
    request: request::Parts,
) -> Response {
    let Some(place) = streams.open() else {
        return Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(Default::default()).unwrap();
    };
    let kinds = match wanted.only.as_deref() {
        None => u64::MAX,
        Some("high") => HIGH.bit(),
        Some("low") => LOW.bit(),
        Some(_) => OTHER.bit(),
    };
    let subscription = Subscription {
        start: wanted.start_from.unwrap_or_else(|| hub.log().head().next_sequence),
        until: wanted.until,
        kinds,
        explains_start: true,
        ..Subscription::new(CLASSES[0], delivery, place)
    };
    let mut response = hub.respond(&request, subscription);
    hub.name_log(response.headers_mut());
    response
}

// The process.

/// What the process under test is to do; it serves at the addresses that it prints.
#[derive(Debug, Clone, serde::Serialize, Deserialize)]
struct Role {
    casper_folder: PathBuf,
    tides_folder: PathBuf,
    node: SocketAddr,
    station: SocketAddr,
}

#[derive(Debug, Clone, Copy, serde::Serialize, Deserialize)]
struct Addresses {
    casper: SocketAddr,
    tides: SocketAddr,
    admin: SocketAddr,
}

fn options(dialect: Arc<dyn Dialect>, folder: &Path) -> ingest::Options {
    let places = LogPlaces::new(folder, dialect.name());
    let write = WriteOptions {
        durability: Durability::Commit,
        segment_bytes_max: 1 << 20,
        allocate_bytes: 1 << 20,
        ..write_options(&*dialect, [dialect.name().len() as u8; 16], 1)
    };
    ingest::Options {
        log_directory: places.directory(),
        index_file: places.index_file(),
        dialect,
        write,
        sync_interval: Duration::ZERO,
        index: identity::Options { tail_bytes_max: 1 << 20, cache_bytes: 1 << 20 },
        retention: Retention::default(),
        rewriting: Rewriting::Merge(RewriteOptions { level: 1, block_bytes: 1 << 16 }),
        queued_batches: 4,
    }
}

fn open(dialect: Arc<dyn Dialect>, folder: &Path) -> OpenedLog {
    let name = dialect.name().to_owned();
    OpenedLog::open(options(dialect, folder), tracing::info_span!(target: "sidecar", "log", name)).unwrap()
}

fn casper_sources(node: SocketAddr) -> Sources {
    let counters = Arc::<Counters>::default();
    let options = CasperNode {
        host: node.ip().to_string(),
        sse_port: node.port(),
        rest_port: node.port(),
        max_attempts: u32::MAX,
        keep_trying: false,
        delay_between_retries: Duration::from_millis(50),
        enable_logging: false,
        timeouts: Timeouts::default(),
        network_name: None,
        log_network: LogNetwork::default(),
        event_bytes_max: 32 << 20,
    };
    Box::new(move |batches| {
        let mut sources = JoinSet::new();
        sources.spawn(source::run(options.clone(), batches.clone(), Arc::clone(&counters)));
        sources
    })
}

/// Stores and serves both logs until `end` is done.
async fn run(role: Role, serving: impl FnOnce(Addresses), end: impl Future<Output = ()>) {
    let local = PortOptions { listen: ListenOptions::on(Ipv4Addr::LOCALHOST), ..PortOptions::default() };
    let (casper, tide) =
        (open(Arc::new(Casper::default()), &role.casper_folder), open(Arc::new(Tides::default()), &role.tides_folder));
    let resources = Arc::new(Resources::new(2));
    let hub = |opened: &OpenedLog, classes| {
        let live = &opened.live;
        Arc::new(Hub::new(live.log.clone(), live.committed.clone(), Arc::clone(&resources), classes))
    };
    let (casper_hub, tides_hub) = (hub(&casper, events::READER_CLASSES), hub(&tide, CLASSES));
    let port = events::Options { port: local.clone(), ..events::Options::default() };
    let casper_server = events::Server::bind(port, Arc::clone(&casper_hub)).unwrap();
    let tides_port = Port::bind(&local).unwrap();
    let admin = AdminOptions {
        port: 0,
        listen: ListenOptions::on(Ipv4Addr::LOCALHOST),
        max_concurrent_requests: 10,
        max_requests_per_second: 1000,
    };
    let admin = admin::Server::bind(&admin).unwrap();
    let addresses = Addresses {
        casper: casper_server.front().local_addr(),
        tides: tides_port.front().local_addr(),
        admin: admin.front().local_addr(),
    };
    let logs = vec![
        Logged::of("casper", &casper.live, casper_hub.counters(), casper_server.counters()),
        Logged::of("tides", &tide.live, tides_hub.counters(), tides_port.open_streams().counters()),
    ];

    let cut = CancellationToken::new();
    let mut servers = JoinSet::new();
    let state = (tides_hub, tides_port.open_streams(), tides_port.delivery());
    let router = Router::new().route("/tides", axum::routing::get(tides)).with_state(state);
    servers.spawn(tides_port.serve(router, cut.clone().cancelled_owned()));
    servers.spawn(casper_server.run(cut.clone().cancelled_owned()));
    servers.spawn(admin.run(Parts { logs, ..Parts::default() }, cut.clone().cancelled_owned()));

    let mut set = LogSet::default();
    set.start("casper", casper, casper_sources(role.node)).unwrap();
    let station = role.station;
    let stations: Sources = Box::new(move |batches| {
        let mut sources = JoinSet::new();
        sources.spawn(read_station(station, batches.clone()));
        sources
    });
    set.start("tides", tide, stations).unwrap();
    serving(addresses);
    end.await;
    set.close().await;
    cut.cancel();
    servers.join_all().await;
}

/// What both logs must hold.
#[derive(Default)]
struct Told {
    casper: Vec<String>,
    tides: Vec<String>,
}

impl Told {
    /// More events, for both or for one.
    fn more(&mut self, node: &SimulatedNode, station: &SimulatedNode, count: u64) {
        self.more_casper(node, count);
        self.more_tides(station, count);
    }

    fn more_casper(&mut self, node: &SimulatedNode, count: u64) {
        let first = self.casper.len() as u64;
        let new: Vec<String> = (first..first + count).map(|number| story::unknown_kind(number).payload).collect();
        node.push_all(&new);
        self.casper.extend(new);
    }

    /// Every third is of a kind that has no number.
    fn more_tides(&mut self, station: &SimulatedNode, count: u64) {
        let first = self.tides.len() as u64;
        let name = |number: u64| ["high", "low", "spring"][(number % 3) as usize];
        let new: Vec<String> = (first..first + count)
            .map(|number| {
                let station = format!("hook-{}", number % 2);
                let details = story::of_random_text(2_000, number).payload;
                format!("{} {{\"station\":\"{station}\",\"number\":{number},\"of\":{details}}}", name(number))
            })
            .collect();
        station.push_all(&new);
        self.tides.extend(new);
    }

    async fn expect(&self, addresses: Addresses) {
        let read = async |address, path: &str, count: usize| {
            let target = format!("{path}?start_from=0&until={}", count - 1);
            Request::get(address, &target).patience(PATIENCE).open().await.read_to_end().await
        };
        let casper = read(addresses.casper, "/events", self.casper.len()).await;
        assert!(with_ids(&casper).into_iter().eq((0..).zip(self.casper.iter().map(String::as_str))), "Casper's, once");
        let tides = read(addresses.tides, "/tides", self.tides.len()).await;
        assert!(with_ids(&tides).into_iter().eq((0..).zip(self.tides.iter().map(|told| payload(told)))), "tides, once");
    }
}

fn payload(told: &str) -> &str {
    told.split_once(' ').unwrap().1
}

/// A node that keeps everything.
fn keeps_all() -> SimulatedNode {
    SimulatedNode::with(NodeOptions { ring_events: 100_000, ..NodeOptions::default() })
}

/// The process under test.
struct TwoLogs {
    role: Role,
    process: Process,
    addresses: Addresses,
}

impl TwoLogs {
    async fn start(role: Role) -> TwoLogs {
        let (process, addresses) = spawn(&role).await;
        TwoLogs { role, process, addresses }
    }

    async fn restart(&mut self) {
        (self.process, self.addresses) = spawn(&self.role).await;
    }

    async fn ready(&self) -> (u16, String) {
        let answer = get(self.addresses.admin, "/ready").await;
        (answer.status, answer.body)
    }
}

async fn spawn(role: &Role) -> (Process, Addresses) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "both_logs_begin_serve_and_end_in_one_process", "--nocapture"]);
    let mut process = Process::start(command.env(ROLE, serde_json::to_string(role).unwrap()));
    process.wait_for_output("}served").await;
    let output = process.output();
    let addresses = output.lines().find_map(|line| line.strip_prefix("serving")?.strip_suffix("served")).unwrap();
    let addresses = serde_json::from_str(addresses).unwrap();
    (process, addresses)
}

/// Reads Casper's events as they come, until it is stopped: no gap, and the longest pause.
struct Follower {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<(Vec<Message>, Duration)>,
}

impl Follower {
    async fn begin(address: SocketAddr, node: Arc<SimulatedNode>) -> Follower {
        let stop = CancellationToken::new();
        let mut stream = Request::get(address, "/events?start_from=0").patience(PATIENCE).open().await;
        let (stopped, feeding) = (stop.clone(), stop.clone());
        // An event every ten milliseconds, whatever happens to the other log.
        tokio::spawn(async move {
            let mut number = 1_000_000;
            while !feeding.is_cancelled() {
                node.push(story::unknown_kind(number).payload);
                number += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let task = tokio::spawn(async move {
            let (mut messages, mut longest, mut last) = (Vec::new(), Duration::ZERO, None);
            loop {
                tokio::select! {
                    message = stream.expect_message() => messages.push(message),
                    () = stopped.cancelled() => return (messages, longest),
                }
                let now = Instant::now();
                // What was stored before comes at once.
                if messages.len() > 1_000 {
                    longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
                }
                last = Some(now);
            }
        });
        Follower { stop, task }
    }

    /// Every id once, in order; and the longest pause between two of them.
    async fn end(self) -> (usize, Duration) {
        self.stop.cancel();
        let (messages, longest) = self.task.await.unwrap();
        let ids: Vec<u64> = messages.iter().filter_map(|message| message.id).collect();
        assert!(ids.iter().copied().eq(0..ids.len() as u64), "no gap: {ids:?}");
        (ids.len(), longest)
    }
}

/// This is also the process that the other tests start: then it runs until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn both_logs_begin_serve_and_end_in_one_process() {
    if let Ok(role) = std::env::var(ROLE) {
        let output = sidecar::telemetry::Output::start(std::io::stdout()).unwrap();
        sidecar::telemetry::start_logging(&output, &Default::default());
        let role = serde_json::from_str(&role).unwrap();
        let announce = |addresses| println!("\nserving{}served", serde_json::to_string(&addresses).unwrap());
        return run(role, announce, std::future::pending()).await;
    }
    let (folder, node, station) = (tempfile::tempdir().unwrap(), keeps_all(), keeps_all());
    let mut told = Told::default();
    told.more(&node, &station, 50);
    let folder = folder.path().to_owned();
    let role =
        Role { casper_folder: folder.clone(), tides_folder: folder, node: node.address(), station: station.address() };
    for _ in 0..2 {
        let (sender, addresses) = tokio::sync::oneshot::channel();
        let end = CancellationToken::new();
        let announce = |addresses| sender.send(addresses).unwrap();
        let running = tokio::spawn(run(role.clone(), announce, end.clone().cancelled_owned()));
        told.expect(addresses.await.unwrap()).await;
        end.cancel();
        running.await.unwrap();
        told.more(&node, &station, 10);
    }
}

#[tokio::test]
async fn a_second_dialect_is_stored_filtered_resumed_and_recovered_beside_caspers() {
    let (folder, node, station) = (tempfile::tempdir().unwrap(), keeps_all(), keeps_all());
    let mut told = Told::default();
    told.more(&node, &station, 300);
    let path = folder.path().to_owned();
    let role =
        Role { casper_folder: path.clone(), tides_folder: path, node: node.address(), station: station.address() };
    let mut logs = TwoLogs::start(role).await;
    told.expect(logs.addresses).await;

    let raw = Request::get(logs.addresses.tides, "/tides?start_from=2&until=2").answer().await;
    let expected = format!("event: spring\ndata: {}\nid: 2\n\n", payload(&told.tides[2]));
    assert!(raw.body.ends_with(&expected), "{}", raw.body);
    assert_ne!(
        raw.header("sidecar-log"),
        get(logs.addresses.casper, "/events?start_from=0&until=0").await.header("sidecar-log")
    );
    let low = Request::get(logs.addresses.tides, "/tides?start_from=0&until=299&only=low").open().await;
    let low: Vec<u64> = { low }.read_to_end().await.iter().filter_map(|message| message.id).collect();
    assert!(low.into_iter().eq((0..300).filter(|number| number % 3 == 1)));

    for _ in 0..3 {
        let mut resumed = SseClient::connect(logs.addresses.tides, "/tides?start_from=290").await;
        let first = told.tides.len();
        told.more(&node, &station, 40);
        let live = resumed.read_until_id(first as u64 + 39).await;
        assert!(with_ids(&live).into_iter().eq((290..).zip(told.tides[290..].iter().map(|told| payload(told)))));
        logs.process.kill9();
        told.more(&node, &station, 5);
        logs.restart().await;
        told.expect(logs.addresses).await;
    }
    let metrics = get(logs.addresses.admin, "/metrics").await.body;
    for (log, events) in [("casper", told.casper.len()), ("tides", told.tides.len())] {
        let line = format!("\nsidecar_log_head{{log=\"{log}\"}} {events}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    let status = get(logs.addresses.admin, "/status").await.json();
    assert_eq!((&status["logs"][0]["name"], &status["logs"][1]["name"]), (&"casper".into(), &"tides".into()));
}

#[tokio::test]
async fn a_log_whose_folder_goes_away_leaves_the_other_ones_readers_alone() {
    let (folders, node, station) =
        ((tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()), Arc::new(keeps_all()), keeps_all());
    let mut told = Told::default();
    told.more(&node, &station, 1_000);
    let role = Role {
        casper_folder: folders.0.path().to_owned(),
        tides_folder: folders.1.path().to_owned(),
        node: node.address(),
        station: station.address(),
    };
    let mut logs = TwoLogs::start(role).await;
    told.expect(logs.addresses).await;
    let follower = Follower::begin(logs.addresses.casper, Arc::clone(&node)).await;

    let (there, away) = (folders.1.path().join("logs"), folders.1.path().join("away"));
    fs::rename(&there, &away).unwrap();
    logs.process.wait_for_output(STOPPED).await;
    let (status, body) = logs.ready().await;
    assert!(status == 503 && body.starts_with("not ready: log tides: nothing is stored"), "{status} {body}");
    assert_eq!(get(logs.addresses.admin, "/health").await.body, "live");
    let metrics = get(logs.addresses.admin, "/metrics").await.body;
    assert!(metrics.contains("\nsidecar_ingest_stopped{log=\"casper\"} 0\nsidecar_ingest_stopped{log=\"tides\"} 1\n"));
    told.more_tides(&station, 20);
    fs::rename(&away, &there).unwrap();
    logs.process.wait_for_output(RESUMED).await;
    let line = logs.process.output().lines().find(|line| line.contains(STOPPED)).unwrap().to_owned();
    assert!(line.contains("log{name=\"tides\"}"), "the log is named: {line}");
    assert_eq!(logs.ready().await, (200, "ready".to_owned()));
    let (events, longest) = follower.end().await;
    println!("{events} events of the other log, the longest pause between two {longest:?}");
    assert!(longest < PATIENCE);
    let tides = Request::get(logs.addresses.tides, "/tides?start_from=0&until=1019").patience(PATIENCE).open().await;
    assert_eq!({ tides }.read_to_end().await.len(), 1020);
}

#[tokio::test]
async fn a_log_on_a_full_disk_leaves_the_other_ones_readers_alone() {
    let Some(disk) = SmallDisk::mount(24 << 20) else {
        println!("no file system may be mounted here");
        return;
    };
    let (folder, node, station) = (tempfile::tempdir().unwrap(), Arc::new(keeps_all()), keeps_all());
    let mut told = Told::default();
    told.more(&node, &station, 1_000);
    let role = Role {
        casper_folder: folder.path().to_owned(),
        tides_folder: disk.path().join("storage"),
        node: node.address(),
        station: station.address(),
    };
    let mut logs = TwoLogs::start(role).await;
    told.expect(logs.addresses).await;
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let follower = Follower::begin(logs.addresses.casper, Arc::clone(&node)).await;
    // As much as there is room for.
    let mut block = vec![1; 64 << 10];
    let mut file = fs::File::options().append(true).open(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    block.truncate(1);
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    drop(file);
    // More than the open segment has room for.
    told.more_tides(&station, 2_000);
    logs.process.wait_for_output(WAITS).await;
    assert_eq!(get(logs.addresses.admin, "/health").await.body, "live");
    let status = get(logs.addresses.admin, "/status").await.json();
    assert_eq!(
        (&status["logs"][0]["waits_for_room"], &status["logs"][1]["waits_for_room"]),
        (&false.into(), &true.into())
    );
    fs::remove_file(&ballast).unwrap();
    logs.process.wait_for_output(GOES_ON).await;
    let count = told.tides.len();
    let target = format!("/tides?start_from=0&until={}", count - 1);
    let tides = Request::get(logs.addresses.tides, &target).patience(PATIENCE).open().await;
    assert_eq!({ tides }.read_to_end().await.len(), count);
    let (events, longest) = follower.end().await;
    println!("{events} events of the other log, the longest pause between two {longest:?}");
    assert!(longest < PATIENCE);

    logs.process.kill9();
    logs.restart().await;
    let tides = Request::get(logs.addresses.tides, &target).patience(PATIENCE).open().await;
    assert_eq!({ tides }.read_to_end().await.len(), count);
    let until = format!("/events?start_from=0&until={}", events - 1);
    let casper = Request::get(logs.addresses.casper, &until).patience(PATIENCE).open().await;
    assert_eq!(with_ids(&{ casper }.read_to_end().await).len(), events);
}
