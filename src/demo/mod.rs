//! The demo: a recorded network, replayed by a simulated node into a real log and the real server.
//!
//! Owns the recording and the little node that speaks it on loopback. Everything behind the node is the appliance as it
//! always runs.

mod node;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::sync::watch;

use crate::appliance::{self, Addresses};
use crate::config::{Config, Loaded};
use crate::ingest::LiveLog;
use node::{DemoNode, Recording};

/// What the recorded node said on `/events`, compressed.
const EVENTS: &[u8] = include_bytes!("../../resources/demo/devnet-events.sse.zst");
/// What it said on `/status`.
const STATUS: &str = include_str!("../../resources/demo/devnet-status.json");

/// How the demo runs.
#[derive(Clone, Debug)]
pub struct Options {
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
}

/// Runs the demo until SIGINT or SIGTERM.
///
/// # Errors
/// When the storage cannot be used or the port is taken.
pub fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.speed.is_finite() && options.speed >= 0.0,
        "--speed {}: give 0 for as fast as it goes, or a number above 0",
        options.speed
    );
    let temporary = tempfile::TempDir::with_prefix("sidecar-demo-").context("cannot make a temporary directory")?;
    let storage_path = options.storage_path.clone().unwrap_or_else(|| temporary.path().to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(replay(&options, &storage_path));
    runtime.shutdown_background();
    result
}

async fn replay(options: &Options, storage_path: &Path) -> anyhow::Result<()> {
    let mut stream = String::new();
    zstd::stream::read::Decoder::new(EVENTS)?.read_to_string(&mut stream)?;
    let recording = Recording::parse(&stream);
    let last_payload = recording.last_payload().to_owned();
    let events = recording.len();
    let node = DemoNode::start(recording, STATUS, options.speed).await?;
    let Loaded { config, .. } = Config::parse(&config_text(storage_path, node.port(), options)?, |_| None)?;
    let (Some(sse), Some(storage)) = (&config.sse_server, &config.storage) else {
        anyhow::bail!("the demo's configuration lacks its servers")
    };
    let (started_sender, started_receiver) = watch::channel(None);
    let narrator = tokio::spawn(narrate(storage_path.to_owned(), events, last_payload, started_receiver));
    let started = move |live: &LiveLog, addresses| {
        started_sender.send_replace(Some((addresses, live.log.clone(), live.committed.clone())));
    };
    let result = appliance::run_until(&config, sse, storage, started, appliance::termination()?).await;
    narrator.abort();
    result
}

type Running = Option<(Addresses, sidecar_log_format::Log, watch::Receiver<sidecar_log_format::Head>)>;

/// Tells on standard output what can be tried, and when the recording is over.
async fn narrate(storage_path: PathBuf, events: usize, last_payload: String, mut running: watch::Receiver<Running>) {
    let Ok(started) = running.wait_for(Option::is_some).await.map(|running| running.clone()) else { return };
    let Some((addresses, log, mut committed)) = started else { return };
    let addresses = [addresses.stream, addresses.rest, addresses.admin];
    let [port, rest, admin] = addresses.map(|address| address.map_or(0, |address| address.port()));
    let log_path = appliance::log_directory(&storage_path);
    println!("A recorded Casper network of {events} events flows through a simulated node into Sidecar.");
    println!();
    println!("  event stream   http://127.0.0.1:{port}/events");
    println!("  look-ups       http://127.0.0.1:{rest}/swagger-ui/");
    println!("  metrics        http://127.0.0.1:{admin}/metrics");
    println!("  log            {}", log_path.display());
    println!();
    println!("Try, in another terminal:");
    println!("  curl -N 'http://127.0.0.1:{port}/events?start_from=0'                    everything, then what is new");
    println!("  curl -N 'http://127.0.0.1:{port}/events?start_from=0&types=BlockAdded'   blocks only");
    println!("  curl -N 'http://127.0.0.1:{port}/events?start_from=0&until=9'            the first ten, then the end");
    println!("  curl 'http://127.0.0.1:{rest}/block'                                    the newest block");
    println!("  curl 'http://127.0.0.1:{rest}/events?from=0&limit=10'                    the first ten, as a page");
    println!("  curl 'http://127.0.0.1:{admin}/metrics'                                  how everything is");
    println!("  sidecar-log inspect {}", log_path.display());
    println!();
    println!("Ctrl-C ends it.");
    while committed.changed().await.is_ok() {
        let head = committed.borrow_and_update().next_sequence;
        let newest = head.checked_sub(1).and_then(|newest| log.read_cached(newest));
        if let Some(sidecar_log_format::Read::Events { block, index }) = newest
            && block.row(index).is_some_and(|row| *row.payload() == *last_payload.as_bytes())
        {
            println!("The recording is over: {head} events are in the log. Serving goes on until Ctrl-C.");
            return;
        }
    }
}

fn config_text(storage_path: &Path, node_port: u16, options: &Options) -> anyhow::Result<String> {
    let folder = storage_path.to_str().context("the storage path is not UTF-8")?;
    let Options { sse_port, rest_port, admin_port, .. } = options;
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
         max_requests_per_second = 10\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_runs_on_a_configuration_without_warnings() {
        let options = Options { storage_path: None, speed: 1.0, sse_port: 19999, rest_port: 18888, admin_port: 18887 };
        let text = config_text(Path::new("/tmp/a 'quoted' \"path\""), 9999, &options).unwrap();
        let Loaded { config, warnings } = Config::parse(&text, |_| None).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(config.storage.unwrap().folder, Path::new("/tmp/a 'quoted' \"path\""));
    }
}
