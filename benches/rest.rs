//! The REST server, measured: `cargo bench --bench rest [-- --events N]` prints the rows of its table.
//!
//! The built binary reads a simulated node until its log holds N events, and then answers sixteen connections that ask one
//! question after the other, while they share the machine. Latencies are taken at half the rate that was reached, from
//! the moment when a request was due. `--seconds S` sets how long each row is measured. `--targets T` sets how many blocks
//! and transactions are looked up repeatedly: with more than the cache holds, most look-ups decode a block.
//! `--block-cache SIZE` sets `block_cache_bytes`. `--without-compaction` leaves the background compaction out. With
//! `--postgresql`, the events are exported too, and a second binary answers from there; the database server shares the
//! machine.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark ends at the first error")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use sidecar_test_support::fast::{EndlessStory, FastNode, FastOptions};
use sidecar_test_support::postgresql::{DATABASE, PostgreSql};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};

const BINARY: &str = env!("CARGO_BIN_EXE_sidecar");
const CONNECTIONS: usize = 16;
const THREADS: usize = 2;
const NEWEST: u64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(900);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test` hands over flags of its own.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let value = |name: &str| arguments.get(arguments.iter().position(|argument| argument == name)? + 1);
    let number = |name: &str, default: u64| value(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    let (events, seconds) = (number("--events", 1_000_000), number("--seconds", 5));
    let count = usize::try_from(number("--targets", 4_000)).expect("too many targets");
    let is_asked = |name: &str| arguments.iter().any(|argument| argument == name);
    let server = is_asked("--postgresql").then(PostgreSql::start);
    let compaction = if is_asked("--without-compaction") { "off" } else { "on" };
    let cache = value("--block-cache").map(|size| format!("block_cache_bytes = \"{size}\"\n")).unwrap_or_default();
    let folder = tempfile::tempdir().expect("no temporary directory");
    let story = Arc::new(EndlessStory::render(1, 200));
    let node = FastNode::start(story, FastOptions { events, ..FastOptions::default() });
    let sidecar = SidecarBuilder::new(BINARY)
        .storage_folder(folder.path())
        .node(node.address())
        .rest_api()
        .sections(&format!("[storage.log]\ncompaction = \"{compaction}\"\n{cache}"))
        .sections(&server.as_ref().map(PostgreSql::section).unwrap_or_default())
        .replacing("max_requests_per_second = 1000", "max_requests_per_second = 1000000")
        .spawn();
    let address = sidecar.rest_address();
    wait_for(address, events);

    let mut random = StdRng::seed_from_u64(1);
    let newest = events.saturating_sub(NEWEST);
    let bench = Bench { sidecar: &sidecar, address, duration: Duration::from_secs(seconds) };
    println!(
        "| REST, {events} events, {CONNECTIONS} connections | requests/s | MB/s | CPU per request | p50, p99 at half load |"
    );
    println!("|---|---|---|---|---|");
    let points = targets(address, newest, events, count, &mut random, point);
    bench.row("look-ups in the newest 100,000 events", &points);
    let signatures = targets(address, newest, events, 400, &mut random, |event| {
        Some(format!("/signatures/{}", event["payload"]["BlockAdded"]["block_hash"].as_str()?))
    });
    bench.row("a block's signatures", &signatures);
    let everywhere = targets(address, 0, events, count, &mut random, point);
    bench.row("look-ups all over the log", &everywhere);
    bench.row("status", &["/status".to_owned()]);

    let Some(server) = server else { return };
    let exported = r#"SELECT count(*) FROM "sidecar_checkpoint" WHERE "next_sequence" = "#;
    let begun = Instant::now();
    while server.psql(DATABASE, &format!("{exported}{events}")) != "1\n" {
        assert!(begun.elapsed() < PATIENCE, "the export stalls");
        thread::sleep(Duration::from_millis(500));
    }
    let from_postgresql = SidecarBuilder::new(BINARY)
        .without_sse_server()
        .rest_api_with("answer_from = 'postgresql'")
        .sections(&server.section())
        .replacing("max_requests_per_second = 1000", "max_requests_per_second = 1000000")
        .spawn();
    let address = from_postgresql.rest_address();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < PATIENCE, "no REST from PostgreSQL");
        thread::sleep(Duration::from_millis(50));
    }
    let bench = Bench { sidecar: &from_postgresql, address, ..bench };
    bench.row("from PostgreSQL: look-ups among the newest 100,000 events", &points);
    bench.row("from PostgreSQL: a block's signatures", &signatures);
    bench.row("from PostgreSQL: look-ups all over the tables", &everywhere);
}

struct Bench<'a> {
    sidecar: &'a Sidecar,
    address: SocketAddr,
    duration: Duration,
}

impl Bench<'_> {
    fn row(&self, what: &str, targets: &[String]) {
        self.run(targets, self.duration / 5, None);
        let before = self.sidecar.cpu_time();
        let full = self.run(targets, self.duration, None);
        let spent = self.sidecar.cpu_time() - before;
        let rate = full.latencies.len() as f64 / self.duration.as_secs_f64();
        let mut half = self.run(targets, self.duration, Some(rate / 2.0)).latencies;
        half.sort_unstable();
        let percentile = |percent: usize| half[half.len() * percent / 100].as_secs_f64() * 1e3;
        println!(
            "| {what} | {rate:.0} | {:.0} | {:.1} µs | {:.2} ms, {:.2} ms |",
            full.bytes as f64 / self.duration.as_secs_f64() / 1e6,
            spent.as_secs_f64() * 1e6 / full.latencies.len() as f64,
            percentile(50),
            percentile(99)
        );
    }

    /// Asks for `duration`, on every connection one request after the other: at once, or `rate` of them per second.
    fn run(&self, targets: &[String], duration: Duration, rate: Option<f64>) -> Load {
        let pause = rate.map(|rate| Duration::from_secs_f64(CONNECTIONS as f64 / rate));
        thread::scope(|scope| {
            // As many as other load generators use: each that waits for a core would be counted as the server's time.
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let connections = (0..CONNECTIONS / THREADS).map(|_| Connection::open(self.address)).collect();
                    let random = StdRng::seed_from_u64(number as u64);
                    scope.spawn(move || ask(connections, targets, duration, pause, random))
                })
                .collect();
            threads.into_iter().fold(Load::default(), |mut all, thread| {
                let load = thread.join().expect("a client failed");
                all.bytes += load.bytes;
                all.latencies.extend(load.latencies);
                all
            })
        })
    }
}

/// A connection, and when its next request is due.
struct Client {
    connection: Connection,
    due: Instant,
    is_waiting: bool,
}

/// Asks on several connections from one thread. With a `pause`, a request is due so long after the one before it was.
fn ask(
    connections: Vec<Connection>,
    targets: &[String],
    duration: Duration,
    pause: Option<Duration>,
    mut random: StdRng,
) -> Load {
    let begun = Instant::now();
    let mut load = Load::default();
    let mut clients: Vec<Client> = connections
        .into_iter()
        .map(|connection| {
            connection.socket.set_nonblocking(true).expect("cannot set the socket up");
            let due = begun + pause.map_or(Duration::ZERO, |pause| pause.mul_f64(random.r#gen()));
            Client { connection, due, is_waiting: false }
        })
        .collect();
    while begun.elapsed() < duration {
        let now = Instant::now();
        for client in clients.iter_mut().filter(|client| !client.is_waiting && client.due <= now) {
            client.connection.send(&targets[random.gen_range(0..targets.len())]);
            client.is_waiting = true;
        }
        let next_due = clients.iter().filter(|client| !client.is_waiting).map(|client| client.due).min();
        let next_due = next_due.unwrap_or(begun + duration).saturating_duration_since(now);
        let (waiting, _): (Vec<_>, Vec<_>) = clients.iter_mut().partition(|client| client.is_waiting);
        let mut readable: Vec<_> =
            waiting.iter().map(|client| PollFd::new(&client.connection.socket, PollFlags::IN)).collect();
        let timeout = Timespec::try_from(next_due).expect("no timeout");
        poll(&mut readable, Some(&timeout)).expect("cannot wait");
        let readable: Vec<_> = readable.iter().map(|socket| !socket.revents().is_empty()).collect();
        for (client, _) in waiting.into_iter().zip(readable).filter(|(_, is_readable)| *is_readable) {
            if let Some(bytes) = client.connection.receive() {
                load.bytes += bytes as u64;
                load.latencies.push(client.due.elapsed());
                client.due = pause.map_or_else(Instant::now, |pause| client.due + pause);
                client.is_waiting = false;
            }
        }
    }
    load
}

#[derive(Default)]
struct Load {
    bytes: u64,
    latencies: Vec<Duration>,
}

/// What a block or a transaction is looked up by.
fn point(event: &Value) -> Option<String> {
    let payload = &event["payload"];
    if let Some(hash) = payload["BlockAdded"]["block_hash"].as_str() {
        return Some(format!("/block/{hash}"));
    }
    let (stage, hash) = match event["kind"].as_str()? {
        "TransactionAccepted" => {
            let (form, transaction) = payload["TransactionAccepted"].as_object()?.iter().next()?;
            ("accepted", (form, transaction["hash"].as_str()?))
        }
        "TransactionProcessed" => {
            let (form, hash) = payload["TransactionProcessed"]["transaction_hash"].as_object()?.iter().next()?;
            ("processed", (form, hash.as_str()?))
        }
        _ => return None,
    };
    Some(format!("/transaction/{stage}/{}/{}", hash.0, hash.1))
}

/// Up to `count` targets out of the events from `first` to `end`, all answered.
fn targets(
    address: SocketAddr,
    first: u64,
    end: u64,
    count: usize,
    random: &mut StdRng,
    target: impl Fn(&Value) -> Option<String>,
) -> Vec<String> {
    let mut connection = Connection::open(address);
    let mut targets = Vec::new();
    while targets.len() < count {
        let from = random.gen_range(first..end);
        let kinds = "BlockAdded,TransactionAccepted,TransactionProcessed";
        connection.get(&format!("/events?from={from}&limit=20&types={kinds}"));
        let page: Value = serde_json::from_slice(connection.body()).expect("no page");
        targets.extend(page["events"].as_array().expect("no events").iter().filter_map(&target));
    }
    targets
}

fn wait_for(address: SocketAddr, events: u64) {
    let begun = Instant::now();
    let stored = |address| {
        let mut connection = Connection::try_open(address)?;
        connection.get("/status");
        let status: Value = serde_json::from_slice(connection.body()).ok()?;
        Some((status["log"]["next"].as_u64()?, status["views"]["lag"].as_u64()?))
    };
    while stored(address).is_none_or(|(next, lag)| next < events || lag > 0) {
        assert!(begun.elapsed() < PATIENCE, "ingest stalls at {:?}", stored(address));
        thread::sleep(Duration::from_millis(50));
    }
}

/// A connection that asks and reads whole answers.
struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of the answer that is being read.
    filled: usize,
    /// Where its body stands, once that is known.
    body: std::ops::Range<usize>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("cannot connect")
    }

    fn try_open(address: SocketAddr) -> Option<Self> {
        let socket = TcpStream::connect(address).ok()?;
        socket.set_nodelay(true).ok()?;
        Some(Connection { socket, buffer: vec![0; 1 << 20], filled: 0, body: 0..0 })
    }

    fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Sends a request and reads its answer; returns its bytes.
    fn get(&mut self, target: &str) -> usize {
        self.send(target);
        loop {
            if let Some(bytes) = self.receive() {
                return bytes;
            }
        }
    }

    fn send(&mut self, target: &str) {
        (self.filled, self.body) = (0, 0..0);
        let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        self.socket.write_all(request.as_bytes()).expect("cannot send");
    }

    /// Reads on; returns the answer's bytes once it is whole. It must be good.
    fn receive(&mut self) -> Option<usize> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        let read = match self.socket.read(&mut self.buffer[self.filled..]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            read => read.expect("cannot read"),
        };
        assert!(read > 0, "cut off");
        self.filled += read;
        if self.body.is_empty() {
            let head = self.buffer[..self.filled].windows(4).position(|end| end == b"\r\n\r\n")?;
            let text = std::str::from_utf8(&self.buffer[..head]).expect("no text");
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("no length");
            let length: usize = length.parse().expect("no length");
            self.body = head + 4..head + 4 + length;
        }
        (self.filled == self.body.end).then_some(self.filled)
    }
}
