//! The demo: a recorded network, replayed by a simulated node into a real log and the real server. `beacon` has a
//! simulated consensus client instead, and `gateway` a ping-pong server before the gRPC gateway.
//!
//! Owns the recording and the little servers that speak on loopback. Everything after these is the appliance as it always
//! runs.

mod beacon;
mod binary_port;
mod gateway;
mod node;
mod ping_pong;

use std::error::Error;
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::appliance::{self, Addresses};
use crate::config::{Config, Loaded};
use crate::engine::http;
use crate::engine::ingest::LiveLog;
use crate::engine::storage_folder::LogPlaces;
use crate::telemetry::Output;
use node::{DemoNode, Recording};

/// What the recorded node said on `/events`, compressed.
const EVENTS: &[u8] = include_bytes!("../../resources/demo/devnet-events.sse.zst");
/// What it said on `/status`.
const STATUS: &str = include_str!("../../resources/demo/devnet-status.json");

/// Whose events the demo shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DemoDialect {
    /// A recorded Casper network.
    #[default]
    Casper,
    /// A simulated Ethereum consensus client.
    Beacon,
    /// A ping-pong server before the gRPC gateway.
    Grpc,
}

impl DemoDialect {
    /// How fast it runs where nothing is said.
    #[must_use]
    pub fn speed(self) -> f64 {
        match self {
            DemoDialect::Casper => 20.0,
            DemoDialect::Beacon | DemoDialect::Grpc => 1.0,
        }
    }

    /// The port of its event stream where nothing is said.
    #[must_use]
    pub fn sse_port(self) -> u16 {
        match self {
            // The gateway has a port of its own.
            DemoDialect::Casper | DemoDialect::Grpc => 19999,
            DemoDialect::Beacon => 15052,
        }
    }
}

/// How the demo runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose events it shows.
    pub dialect: DemoDialect,
    /// Where the log is kept; in a temporary directory that goes with the demo when `None`.
    pub storage_path: Option<PathBuf>,
    /// How many times faster than it happened; 0 is as fast as it goes.
    pub speed: f64,
    /// The event stream server's port.
    pub sse_port: u16,
    /// The REST server's port.
    pub rest_port: u16,
    /// The admin server's port.
    pub admin_port: u16,
    /// The JSON-RPC server's port.
    pub rpc_port: u16,
    /// The gRPC gateway's port.
    pub grpc_port: u16,
}

/// Runs the demo until SIGINT or SIGTERM, or until its terminal closes. What can be tried goes to `output`.
///
/// # Errors
/// When the storage cannot be used or the port is taken.
pub fn run(options: Options, output: Output) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.speed.is_finite() && options.speed >= 0.0,
        "--speed {}: give 0 for as fast as it goes, or a number above 0",
        options.speed
    );
    let temporary = tempfile::TempDir::with_prefix("sidecar-demo-").context("cannot make a temporary directory")?;
    let storage_path = options.storage_path.clone().unwrap_or_else(|| temporary.path().to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = match options.dialect {
        DemoDialect::Casper => runtime.block_on(replay(&options, &storage_path, output)),
        DemoDialect::Beacon => runtime.block_on(beacon::replay(&options, &storage_path, output)),
        DemoDialect::Grpc => runtime.block_on(gateway::play(&options, &storage_path, output)),
    };
    runtime.shutdown_background();
    result.map_err(|error| with_flag(error, &options))
}

async fn replay(options: &Options, storage_path: &Path, output: Output) -> anyhow::Result<()> {
    let mut recorded = String::new();
    zstd::stream::read::Decoder::new(EVENTS)?.read_to_string(&mut recorded)?;
    let recording = Recording::parse(&recorded);
    let about = Recorded { events: recording.len(), duration: recording.duration(options.speed) };
    let payloads = recording.payloads();
    let last_payload = payloads.last().cloned().unwrap_or_default();
    let node = DemoNode::start(recording, STATUS, options.speed).await?;
    let binary_port = binary_port::start(payloads, STATUS, node.said()).await?.port();
    let text = config_text(storage_path, node.port(), binary_port, options)?;
    let Loaded { config, .. } = Config::parse(&text, |_| None)?;
    let (Some(sse), Some(storage)) = (&config.sse_server, &config.storage) else {
        anyhow::bail!("the demo's configuration lacks its servers")
    };
    let (started_sender, started_receiver) = watch::channel(None);
    let narrator = tokio::spawn(narrate(output, storage_path.to_owned(), about, last_payload, started_receiver));
    let started = move |live: &LiveLog, running: appliance::Running| {
        started_sender.send_replace(Some((running.addresses, live.log.clone(), live.committed.clone())));
    };
    let result = appliance::run_until(&config, sse, storage, started, end()?).await;
    narrator.abort();
    result
}

/// Ends when the demo is to end; with its terminal, too, because its log goes then.
fn end() -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let termination = appliance::termination()?;
    Ok(async move {
        tokio::select! {
            () = termination => {}
            _ = hangup.recv() => {}
        }
    })
}

/// Names the flag of a port that cannot be had; the configuration key that the servers name is not the demo's.
fn with_flag(error: anyhow::Error, options: &Options) -> anyhow::Error {
    let Some((address, reason)) = error.chain().find_map(refused_address) else { return error };
    let flags = [
        (options.sse_port, "--sse-port"),
        (options.rest_port, "--rest-port"),
        (options.admin_port, "--admin-port"),
        (options.rpc_port, "--rpc-port"),
        (options.grpc_port, "--grpc-port"),
    ];
    let flag = flags.into_iter().find_map(|(port, flag)| (port == address.port()).then_some(flag));
    let flag = flag.unwrap_or("--sse-port");
    anyhow!("port {} {reason}; give another with {flag} PORT, or {flag} 0 for any free one", address.port())
}

fn refused_address(cause: &(dyn Error + 'static)) -> Option<(SocketAddr, String)> {
    let http::BindError::Address { address, source } = cause.downcast_ref()? else { return None };
    let reason = match source.kind() {
        ErrorKind::AddrInUse => "is taken".to_owned(),
        _ => format!("cannot be listened on: {source}"),
    };
    Some((*address, reason))
}

/// What the recording is like at the speed that is asked for.
#[derive(Clone, Copy)]
struct Recorded {
    events: usize,
    /// `None` at full speed.
    duration: Option<Duration>,
}

type Running = Option<(Addresses, sidecar_log_format::Log, watch::Receiver<sidecar_log_format::Head>)>;

/// Tells on standard output what can be tried, and when the recording is over.
async fn narrate(
    output: Output,
    storage_path: PathBuf,
    about: Recorded,
    last_payload: String,
    mut running: watch::Receiver<Running>,
) {
    let Ok(started) = running.wait_for(Option::is_some).await.map(|running| running.clone()) else { return };
    let Some((addresses, log, mut committed)) = started else { return };
    let directory = LogPlaces::new(&storage_path, appliance::LOG_NAME).directory();
    output.write_lines(introduction(addresses, &directory, about).as_bytes());
    while committed.changed().await.is_ok() {
        let head = committed.borrow_and_update().next_sequence;
        let newest = head.checked_sub(1).and_then(|newest| log.read_cached(newest));
        if let Some(sidecar_log_format::Read::Events { block, index }) = newest
            && block.row(index).is_some_and(|row| *row.payload() == *last_payload.as_bytes())
        {
            let end = format!("The recording is over: {head} events are in the log. Serving continues until Ctrl-C.\n");
            output.write_lines(end.as_bytes());
            return;
        }
    }
}

fn introduction(addresses: Addresses, log: &Path, Recorded { events, duration }: Recorded) -> String {
    let addresses = [addresses.stream, addresses.rest, addresses.admin, addresses.rpc];
    let [port, rest, admin, rpc] = addresses.map(|address| address.map_or(0, |address| address.port()));
    let log = log.display();
    let pace = match duration {
        Some(duration) => format!("It takes {} s; change that with --speed.", duration.as_secs().max(1)),
        None => "It comes as fast as it goes.".to_owned(),
    };
    format!(
        "A recorded Casper network of {events} events flows through a simulated node into Sidecar. {pace}\n\
         \n  \
           event stream   http://127.0.0.1:{port}/events\n  \
           look-ups       http://127.0.0.1:{rest}/swagger-ui/\n  \
           JSON-RPC       http://127.0.0.1:{rpc}/rpc\n  \
           in a browser   http://127.0.0.1:{admin}/\n  \
           metrics        http://127.0.0.1:{admin}/metrics\n  \
           log            {log}\n\
         \n\
         Try, in another terminal:\n  \
           curl -N 'http://127.0.0.1:{port}/events?start_from=0'                   everything, then what is new\n  \
           curl -N 'http://127.0.0.1:{port}/events?start_from=0&types=BlockAdded'  blocks only\n  \
           curl -N 'http://127.0.0.1:{port}/events?start_from=0&until=9'           the first ten, then the end\n  \
           curl -N -H 'accept: application/x-ndjson' \\\n       \
                'http://127.0.0.1:{port}/events?start_from=0'                      as lines of JSON, for jq and the like\n  \
           curl 'http://127.0.0.1:{rest}/block'                                    the newest block\n  \
           curl 'http://127.0.0.1:{rest}/events?from=0&limit=10'                   the first ten, as a page\n  \
           curl -H 'content-type: application/json' http://127.0.0.1:{rpc}/rpc \\\n       \
                -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"chain_get_block\"}}'          the same from the node\n  \
           curl 'http://127.0.0.1:{admin}/metrics'                                  how everything is\n  \
           sidecar-log inspect {log}\n\
         \n\
         Ctrl-C ends it.\n"
    )
}

fn config_text(storage_path: &Path, node_port: u16, binary_port: u16, options: &Options) -> anyhow::Result<String> {
    let folder = storage_path.to_str().context("the storage path is not UTF-8")?;
    let Options { sse_port, rest_port, admin_port, rpc_port, .. } = options;
    let folder = toml::Value::String(folder.to_owned());
    Ok(format!(
        "[storage]\n\
         storage_folder = {folder}\n\
         [sse_server]\n\
         enable_server = true\n\
         [[sse_server.connections]]\n\
         ip_address = '127.0.0.1'\n\
         sse_port = {node_port}\n\
         rest_port = {node_port}\n\
         max_attempts = 10\n\
         delay_between_retries_in_seconds = 1\n\
         allow_partial_connection = false\n\
         enable_logging = false\n\
         [sse_server.event_stream_server]\n\
         port = {sse_port}\n\
         max_concurrent_subscribers = 100\n\
         event_stream_buffer_length = 5000\n\
         [rest_api_server]\n\
         port = {rest_port}\n\
         max_concurrent_requests = 50\n\
         max_requests_per_second = 100000\n\
         [admin_api_server]\n\
         port = {admin_port}\n\
         max_concurrent_requests = 1\n\
         max_requests_per_second = 10\n\
         [rpc_server.main_server]\n\
         ip_address = '0.0.0.0'\n\
         port = {rpc_port}\n\
         [rpc_server.node_client]\n\
         ip_address = '127.0.0.1'\n\
         port = {binary_port}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_runs_on_a_configuration_without_warnings() {
        let ports = [19999, 18888, 18887, 7777, 15053];
        let [sse_port, rest_port, admin_port, rpc_port, grpc_port] = ports;
        let dialect = DemoDialect::Casper;
        let options =
            Options { dialect, storage_path: None, speed: 1.0, sse_port, rest_port, admin_port, rpc_port, grpc_port };
        let text = config_text(Path::new("/tmp/a 'quoted' \"path\""), 9999, 9998, &options).unwrap();
        let Loaded { config, warnings } = Config::parse(&text, |_| None).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(config.storage.unwrap().folder, Path::new("/tmp/a 'quoted' \"path\""));
    }
}
