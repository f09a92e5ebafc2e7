//! The whole of Sidecar, measured: `cargo bench --bench end_to_end [-- --full]` prints the first table of docs/performance.md.
//!
//! The built binary reads a simulated node over a socket, stores durably (`durability = "commit"`) and serves. The same
//! node read by a bare socket in the same run is the yardstick, taken between the measurements; ratios to its median are
//! what counts, because machines differ and their speed drifts. `--full` adds the large logs (20 million events, 10 GB),
//! which take some ten minutes and 10 GB of disk; `--events N` sets the size of the plain run.

#![expect(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a benchmark ends at the first error")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{RewriteOptions, WriteOptions, Writer};
use sidecar_test_support::client::{Request, SseClient};
use sidecar_test_support::fast::{EndlessStory, FastNode, FastOptions, raw_reader};
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::recordings::recorded_network;

const BINARY: &str = env!("CARGO_BIN_EXE_sidecar");
const RAW_EVENTS: u64 = 2_000_000;
const PATIENCE: Duration = Duration::from_secs(900);

fn main() {
    // `cargo test` and `cargo bench` hand over flags of their own.
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let full = arguments.iter().any(|argument| argument == "--full");
    let events = arguments.iter().position(|argument| argument == "--events");
    let events = events.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(2_000_000);
    raise_file_limit();

    let only = arguments.iter().position(|argument| argument == "--only");
    let only = only.and_then(|at| arguments.get(at + 1)).cloned();

    let mut bench = Bench::new();
    let mut part = |name: &str, measure: &mut dyn FnMut(&mut Bench)| {
        if only.as_deref().is_none_or(|only| only == name) {
            measure(&mut bench);
        }
    };
    part("ingest", &mut |bench| bench.ingest_and_replay(events));
    part("live", &mut |bench| bench.live(100, Duration::from_secs(10)));
    part("live", &mut |bench| bench.live(2_000, Duration::from_secs(10)));
    part("memory", &mut |bench| bench.memory_of_many_readers(1_000));
    part("recording", &mut |bench| bench.recorded_network());
    if full {
        part("large", &mut |bench| bench.large_log());
    }
    bench.print();
}

struct Bench {
    story: Arc<EndlessStory>,
    /// Events per second through a bare socket, one reading after each measurement.
    raw: Vec<f64>,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    /// Events per second, where a ratio to the bare socket is asked for.
    rate: Option<f64>,
    figures: String,
    target: &'static str,
}

impl Bench {
    fn new() -> Self {
        let story = Arc::new(EndlessStory::render(1, 200));
        eprintln!(
            "{} events a pass, {:.0} bytes on average, {:.1} % finality signatures",
            story.pass_events(),
            story.average_payload_bytes(),
            100.0 * story.signature_share()
        );
        let mut bench = Bench { story, raw: Vec::new(), rows: Vec::new() };
        bench.read_raw();
        bench
    }

    fn read_raw(&mut self) {
        let node = self.node(RAW_EVENTS);
        let reading = raw_reader(node.address(), "/events", RAW_EVENTS).expect("the bare reader failed");
        self.raw.push(reading.rate());
    }

    fn node(&self, events: u64) -> FastNode {
        FastNode::start(Arc::clone(&self.story), FastOptions { events, ..FastOptions::default() })
    }

    fn row(&mut self, what: impl Into<String>, rate: Option<f64>, figures: String, target: &'static str) {
        let what = what.into();
        eprintln!("{what}: {} {figures}", rate.map_or(String::new(), |rate| format!("{rate:.0}/s")));
        self.rows.push(Row { what, rate, figures, target });
        self.read_raw();
    }

    fn ingest_and_replay(&mut self, events: u64) {
        let raw_bytes = events as f64 * self.story.average_payload_bytes();
        let folder = tempfile::tempdir().expect("no temporary directory");
        let mut rates = Vec::new();
        let mut processor_times = Vec::new();
        for round in 0..3 {
            let storage = folder.path().join(round.to_string());
            let node = self.node(events);
            let mut sidecar = start(sidecar_on(&storage).node(node.address()));
            let begun = Instant::now();
            wait_for_events(&sidecar, events);
            rates.push(events as f64 / begun.elapsed().as_secs_f64());
            processor_times.push(per_event(sidecar.cpu_time(), events));
            if round == 0 {
                let on_disk = bytes_under(&storage) as f64 / raw_bytes;
                let log = bytes_under(&storage.join("logs")) as f64 / raw_bytes;
                let figures = format!("{on_disk:.3} of the raw bytes (log {log:.3}, index {:.3})", on_disk - log);
                self.row("on disk right after ingest, all of it", None, figures, "≤ 0.33");
            }
            sidecar.terminate();
            if round == 0 {
                let log = bytes_under(&storage.join("logs")) as f64 / raw_bytes;
                self.row("on disk, the log once closed", None, format!("{log:.3} of the raw bytes"), "≤ 0.285");
            }
            self.read_raw();
        }
        let figures = format!("{:.2} µs CPU per event", median(&processor_times));
        self.row("ingest, durable and de-duplicated", Some(median(&rates)), figures, "≥ 0.08, ≤ 6 µs");

        let storage = folder.path().join("0");
        self.replay(&storage, events, "block", "", "replay, one client, in blocks", "≥ 0.5, ≤ 1 µs");
        self.replay(&storage, events, "event", "", "replay, one client, an event a chunk", "≥ 0.2");
        self.replay(&storage, events, "event", "&encoding=zstd", "replay, one client, zstd", "≤ 0.2 µs");
    }

    fn replay(&mut self, storage: &Path, events: u64, chunks: &str, more: &str, what: &str, target: &'static str) {
        let server = format!("replay_chunks = \"{chunks}\"\n");
        let mut sidecar = start(sidecar_on(storage).node(unreachable_node()).event_stream_server(&server));
        let target_path = format!("/events?start_from=0&until={}{more}", events - 1);
        let (mut rates, mut processor_times) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let before = sidecar.cpu_time();
            let begun = Instant::now();
            let bytes = read_to_end(sidecar.sse_address(), &target_path);
            assert!(bytes > events, "the replay was cut short after {bytes} bytes");
            rates.push(events as f64 / begun.elapsed().as_secs_f64());
            processor_times.push(per_event(sidecar.cpu_time() - before, events));
            self.read_raw();
        }
        sidecar.terminate();
        let figures = format!("{:.2} µs CPU per event", median(&processor_times));
        self.row(what, Some(median(&rates)), figures, target);
    }

    /// Live clients at 100 events a second: how long from the node to a client, and whether anyone misses one.
    fn live(&mut self, clients: usize, duration: Duration) {
        const RATE: u32 = 100;
        // Events that flow while the clients connect; what comes after them is measured.
        let lead = (5 + clients as u64 / 150) * u64::from(RATE);
        let events = lead + u64::from(RATE) * duration.as_secs();
        let options = FastOptions { events, rate: Some(RATE), ..FastOptions::default() };
        let node = Arc::new(FastNode::start(Arc::clone(&self.story), options));
        let folder = tempfile::tempdir().expect("no temporary directory");
        let sidecar =
            start(sidecar_on(folder.path()).max_concurrent_subscribers(clients as u32 + 10).node(node.address()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("no runtime");
        let (mut delays, deliveries, spent) = runtime.block_on(async {
            let address = sidecar.sse_address();
            let mut readers = Vec::new();
            for _ in 0..clients {
                let client = Request::get(address, "/events").patience(PATIENCE).open().await;
                readers.push(tokio::spawn(follow(client, Arc::clone(&node), lead, events)));
            }
            let sent = node.sent();
            assert!(sent < lead, "the clients took too long to connect");
            let before = sidecar.cpu_time();
            let mut delays = Vec::new();
            for reader in readers {
                delays.extend(reader.await.expect("a client failed"));
            }
            (delays, clients as u64 * (events - sent), sidecar.cpu_time() - before)
        });
        let cpu = per_event(spent, deliveries);
        delays.sort_unstable();
        let (p50, p99) = (percentile(&delays, 50), percentile(&delays, 99));
        let sync = percentile(&sync_times(folder.path()), 99);
        let figures = format!(
            "no gap; p50 {:.1} ms, p99 {:.1} ms (the disk's own sync p99 {:.1} ms), {cpu:.1} µs CPU per delivery",
            milliseconds(p50),
            milliseconds(p99),
            milliseconds(sync)
        );
        let target = if clients <= 100 { "p99 ≤ 10 ms beyond the sync" } else { "kept up with, no gap" };
        self.row(format!("live, {clients} clients, 100 events/s"), None, figures, target);
    }

    fn memory_of_many_readers(&mut self, clients: usize) {
        let events = 1_000_000;
        let folder = tempfile::tempdir().expect("no temporary directory");
        let node = self.node(events);
        let mut sidecar = start(
            sidecar_on(folder.path())
                .max_concurrent_subscribers(clients as u32 + 10)
                .event_stream_server("replay_chunks = \"block\"\n")
                .node(node.address()),
        );
        wait_for_events(&sidecar, events);
        let after_ingest = sidecar.resident_memory_bytes().highest;
        sidecar.terminate();
        let mut sidecar = start(
            sidecar_on(folder.path())
                .max_concurrent_subscribers(clients as u32 + 10)
                .event_stream_server("replay_chunks = \"block\"\n")
                .node(unreachable_node()),
        );
        eprintln!("idle: {} MiB", sidecar.resident_memory_bytes().now >> 20);
        // Each begins elsewhere and reads 4 MB; a few threads drive them all so that they stay abreast.
        let address = sidecar.sse_address();
        let mut sockets: Vec<TcpStream> = (0..clients as u64)
            .map(|client| {
                request(address, &format!("/events?start_from={}", client * (events - 20_000) / clients as u64))
            })
            .collect();
        let mut buffer = vec![0; 64 << 10];
        for _ in 0..64 {
            for socket in &mut sockets {
                let _ = socket.read(&mut buffer).expect("a replaying client was cut");
            }
        }
        let replaying = sidecar.resident_memory_bytes();
        drop(sockets);
        eprintln!("replaying: {} MiB, highest {}", replaying.now >> 20, replaying.highest >> 20);
        let live: Vec<TcpStream> = (0..clients).map(|_| request(address, "/events")).collect();
        let after_live = sidecar.resident_memory_bytes();
        drop(live);
        sidecar.terminate();
        let figures = format!(
            "{} MiB at most ({} MiB at most during ingest at full speed)",
            after_live.highest.max(replaying.highest) >> 20,
            after_ingest >> 20
        );
        self.row(format!("resident memory, {clients} clients replaying, then live"), None, figures, "≤ 100 MiB");
    }

    fn recorded_network(&mut self) {
        let recording = recorded_network();
        let raw: usize = recording.iter().map(|(_, payload)| payload.len()).sum();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("no runtime");
        let folder = tempfile::tempdir().expect("no temporary directory");
        runtime.block_on(async {
            let node = SimulatedNode::start();
            node.push_all(recording.iter().map(|(_, payload)| payload.clone()));
            let mut sidecar = start(sidecar_on(folder.path()).node(node.address()));
            wait_for_events(&sidecar, recording.len() as u64);
            sidecar.terminate();
        });
        let logs = folder.path().join("logs");
        let closed = bytes_under(&logs) as f64 / raw as f64;
        seal(&logs.join("casper"));
        let sealed = bytes_under(&logs) as f64 / raw as f64;
        let figures = format!("{sealed:.3} of the raw bytes once sealed ({closed:.3} before)");
        self.row("on disk, the recorded network", None, figures, "≤ 0.09");
    }

    /// 20 million events and 10 GB: the rate into a large log, opening after a kill, beginning anywhere, an old event sent
    /// again.
    fn large_log(&mut self) {
        const EVENTS: u64 = 20_000_000;
        const BYTES: u64 = 10_000_000_000;
        const WINDOW: Duration = Duration::from_secs(60);
        let folder = tempfile::tempdir().expect("no temporary directory");
        let node = self.node(EVENTS);
        let mut sidecar = start(sidecar_on(folder.path()).node(node.address()));
        let first_minute = rate_over(&sidecar, WINDOW);
        wait_for_events(&sidecar, EVENTS);
        node.send_up_to(u64::MAX);
        let last_minute = rate_over(&sidecar, WINDOW);
        let memory = sidecar.resident_memory_bytes().highest >> 20;
        let figures =
            format!("{:.2} of the first minute's {first_minute:.0}/s; {memory} MiB", last_minute / first_minute);
        self.row("ingest for a minute into 20 million events", Some(last_minute), figures, "≥ 0.8 of the first");

        while bytes_under(folder.path()) < BYTES {
            thread::sleep(Duration::from_millis(100));
        }
        // Killed while it stores at full speed, with index commits under way all the time.
        sidecar.kill9();
        drop(node);
        let size = bytes_under(folder.path()) as f64 / 1e9;
        let mut sidecar = sidecar_on(folder.path()).node(unreachable_node()).spawn();
        let opened = time_to_serve(&sidecar);
        let before = newest(&sidecar).expect("the log is empty");
        let mut first_bytes = times_to_first_byte(&sidecar, before, 50);
        let memory = sidecar.resident_memory_bytes().highest >> 20;
        sidecar.kill9();
        let figures = format!("{:.0} ms ({size:.1} GB)", milliseconds(opened));
        self.row("open after kill -9 until it serves", None, figures, "≤ 200 ms");
        first_bytes.sort_unstable();
        let [p50, p99] = [50, 99].map(|percent| milliseconds(percentile(&first_bytes, percent)));
        let figures = format!("first byte p50 {p50:.1} ms, p99 {p99:.1} ms; {memory} MiB");
        self.row(format!("replay from 50 random sequences of {size:.1} GB"), None, figures, "p99 ≤ 20 ms");

        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("no runtime");
        let after = runtime.block_on(async {
            let node = SimulatedNode::start();
            node.push_all([self.story.payload(5), self.story.payload(before + 1_000_000)]);
            let mut sidecar = start(sidecar_on(folder.path()).node(node.address()));
            wait_for_events(&sidecar, before + 2);
            let after = newest(&sidecar);
            sidecar.terminate();
            after
        });
        let dropped = after == Some(before + 1);
        let figures = if dropped { "dropped" } else { "STORED AGAIN" }.to_owned();
        self.row("an event of the first segment sent again", None, figures, "dropped");
    }

    fn print(&self) {
        let raw = median(&self.raw);
        println!();
        println!(
            "| measured beside a bare socket of {:.2} million events/s (median of {}) | events/s | of the socket | | target |",
            raw / 1e6,
            self.raw.len()
        );
        println!("|---|---|---|---|---|");
        for Row { what, rate, figures, target } in &self.rows {
            let (rate, ratio) = match rate {
                Some(rate) => (format!("{rate:.0}"), format!("{:.2}", rate / raw)),
                None => (String::new(), String::new()),
            };
            println!("| {what} | {rate} | {ratio} | {figures} | {target} |");
        }
    }
}

/// Reads live events until the last, without a gap, and says how long each took from the node, `lead` not counted.
async fn follow(mut client: SseClient, node: Arc<FastNode>, lead: u64, events: u64) -> Vec<Duration> {
    let mut delays = Vec::new();
    let mut next = None;
    while next != Some(events) {
        let Some(id) = client.expect_message().await.id else { continue };
        assert_eq!(id, next.unwrap_or(id), "a live client missed an event");
        next = Some(id + 1);
        // The node notes the instant right after it has handed the event to the system.
        if let Some(sent) = node.sent_at(id).filter(|_| id >= lead) {
            delays.push(sent.elapsed());
        }
    }
    delays
}

/// Does at once what a running sidecar does in the course of a day: seals the newest segment and merges small blocks.
fn seal(log: &Path) {
    let storage = Directory::create(log).expect("no log");
    let options = WriteOptions::new("casper", [0; 16], 0);
    let merged = RewriteOptions { level: options.compression_level, block_bytes: options.block_bytes_max };
    let mut writer = Writer::open(Arc::new(storage), options).expect("cannot open the log").writer;
    writer.seal_now(0).expect("cannot seal");
    let maintenance = writer.maintenance();
    for segment in maintenance.segments_with_small_blocks(0, merged.block_bytes).expect("cannot look at the segments") {
        maintenance.rewrite(segment, merged).expect("cannot merge");
    }
    writer.close().expect("cannot close the log");
}

fn sidecar_on(storage: &Path) -> SidecarBuilder {
    SidecarBuilder::new(BINARY).storage_folder(storage)
}

fn start(builder: SidecarBuilder) -> Sidecar {
    let sidecar = builder.spawn();
    time_to_serve(&sidecar);
    sidecar
}

/// A port without a listener: a node that is down.
fn unreachable_node() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("no free port");
    listener.local_addr().expect("no address")
}

/// From now until the first answer with a body.
fn time_to_serve(sidecar: &Sidecar) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if TcpStream::connect(sidecar.sse_address()).is_ok() && head_of_response(sidecar).is_some() {
            return begun.elapsed();
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("sidecar does not serve:\n{}", sidecar.output());
}

fn request(address: SocketAddr, target: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("cannot connect");
    write!(socket, "GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("cannot send");
    socket
}

/// Reads a response that ends by itself; returns its bytes.
fn read_to_end(address: SocketAddr, target: &str) -> u64 {
    let mut socket = request(address, target);
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match socket.read(&mut buffer).expect("the replay was cut") {
            0 => return bytes,
            read => bytes += read as u64,
        }
    }
}

fn head_of_response(sidecar: &Sidecar) -> Option<String> {
    let mut socket = request(sidecar.sse_address(), "/events");
    let mut head = Vec::new();
    let mut byte = [0; 512];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match socket.read(&mut byte).ok()? {
            0 => return None,
            read => head.extend_from_slice(&byte[..read]),
        }
    }
    Some(String::from_utf8_lossy(&head).to_ascii_lowercase())
}

/// From each request to the first byte of its stream.
fn times_to_first_byte(sidecar: &Sidecar, newest: u64, requests: usize) -> Vec<Duration> {
    let mut random = StdRng::seed_from_u64(1);
    let mut measure = || {
        let start = random.gen_range(0..newest);
        let begun = Instant::now();
        let mut socket = request(sidecar.sse_address(), &format!("/events?start_from={start}"));
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        // The head, and the first chunk's length and a byte of it.
        while received.windows(4).position(|end| end == b"\r\n\r\n").is_none_or(|end| received.len() < end + 12) {
            let read = socket.read(&mut buffer).expect("a replaying client was cut");
            assert!(read > 0, "a replaying client was cut");
            received.extend_from_slice(&buffer[..read]);
        }
        begun.elapsed()
    };
    (0..requests).map(|_| measure()).collect()
}

/// The newest visible sequence, from the header of a stream.
fn newest(sidecar: &Sidecar) -> Option<u64> {
    let head = head_of_response(sidecar)?;
    let range = head.lines().find_map(|line| line.strip_prefix("sidecar-retained-range:"))?;
    range.trim().rsplit_once('-')?.1.parse().ok()
}

fn wait_for_events(sidecar: &Sidecar, events: u64) {
    let begun = Instant::now();
    while newest(sidecar).is_none_or(|newest| newest + 1 < events) {
        assert!(begun.elapsed() < PATIENCE, "ingest stalls at {:?}:\n{}", newest(sidecar), sidecar.output());
        thread::sleep(Duration::from_millis(5));
    }
}

fn rate_over(sidecar: &Sidecar, window: Duration) -> f64 {
    let (begun, first) = (Instant::now(), newest(sidecar).unwrap_or_default());
    thread::sleep(window);
    let last = newest(sidecar).unwrap_or_default();
    (last - first) as f64 / begun.elapsed().as_secs_f64()
}

/// What a small write and its fdatasync take on this disk.
fn sync_times(folder: &Path) -> Vec<Duration> {
    let path = folder.join("sync-probe");
    let mut file = std::fs::File::create(&path).expect("cannot create the probe");
    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("cannot write the probe");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

fn bytes_under(path: &Path) -> u64 {
    let metadata = std::fs::metadata(path).expect("cannot look at the storage");
    if !metadata.is_dir() {
        // What the file takes on the device, not its length: the active segment is preallocated.
        return std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    }
    let entries = std::fs::read_dir(path).expect("cannot list the storage");
    entries.map(|entry| bytes_under(&entry.expect("cannot list the storage").path())).sum()
}

fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

fn per_event(time: Duration, events: u64) -> f64 {
    time.as_secs_f64() * 1e6 / events as f64
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}
