//! Memory over time: `cargo bench --bench soak [-- --minutes 60]` prints what a busy Sidecar takes, minute by minute.
//!
//! The built binary reads 2,000 events a second from a simulated node, stores them, keeps the views and a SQLite export
//! current and answers REST, while clients of the event stream come and go: live, replaying, filtered and compressed. The
//! figures must not grow once every cache is full. `--binary FILE` measures another build, `--rate N` and `--clients N`
//! another load, `--top-level TOML` adds a line to the configuration; an environment variable of this process, for instance of the allocator, reaches Sidecar too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sidecar_test_support::fast::{EndlessStory, FastNode, FastOptions};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};

/// How long a client stays at most, and how long until it comes back.
const VISIT_MAX: Duration = Duration::from_secs(8);
/// The most events that one replay asks for.
const REPLAY_EVENTS_MAX: u64 = 20_000;
const REST_INTERVAL: Duration = Duration::from_millis(50);
const TABLES: &str = "[storage.sqlite_config]\nfile_name = \"events.db3\"\nmax_connections_in_pool = 10\nwal_autocheckpointing_interval = 1000\n";

fn main() {
    // `cargo test` and `cargo bench` pass flags of their own.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let binary = option("--binary").unwrap_or_else(|| env!("CARGO_BIN_EXE_sidecar").to_owned());
    let minutes: u64 = option("--minutes").unwrap_or(15);
    let clients: u64 = option("--clients").unwrap_or(50);
    let node = FastNode::start(
        Arc::new(EndlessStory::render(1, 200)),
        FastOptions { rate: Some(option("--rate").unwrap_or(2_000)), ..FastOptions::default() },
    );
    let sidecar = SidecarBuilder::new(binary)
        .top_level(&option::<String>("--top-level").unwrap_or_default())
        .node(node.address())
        .max_concurrent_subscribers(1_000)
        .sections(TABLES)
        .rest_api()
        .admin_api()
        .spawn();
    wait_until_serving(&sidecar);

    let load = Arc::new(Load::default());
    let begun = Instant::now();
    for client in 0..clients {
        let (load, address) = (Arc::clone(&load), sidecar.sse_address());
        thread::spawn(move || load.visit_again_and_again(address, client));
    }
    let (asking, address) = (Arc::clone(&load), sidecar.rest_address());
    thread::spawn(move || asking.ask_again_and_again(address));

    println!(
        "| time | resident MiB | of it heap and stacks | highest | threads | events | CPU s | visits | requests |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for seconds in sample_times(minutes) {
        let next = begun + Duration::from_secs(seconds);
        // Events are counted by the node: what is not stored yet is a few milliseconds old.
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::sleep(left.min(Duration::from_secs(5)));
            load.head.store(node.sent(), Ordering::Relaxed);
        }
        let memory = sidecar.resident_memory_bytes();
        println!(
            "| {}:{:02} | {} | {} | {} | {} | {} | {} | {} | {} |",
            seconds / 60,
            seconds % 60,
            memory.now >> 20,
            memory.anonymous >> 20,
            memory.highest >> 20,
            sidecar.threads(),
            node.sent(),
            sidecar.cpu_time().as_secs(),
            load.visits.load(Ordering::Relaxed),
            load.requests.load(Ordering::Relaxed),
        );
    }
    load.is_over.store(true, Ordering::Relaxed);
}

fn option<T: FromStr>(name: &str) -> Option<T> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

/// Often at first, then every minute, then every five.
fn sample_times(minutes: u64) -> impl Iterator<Item = u64> {
    let minute = (1..=minutes).filter(|minute| *minute < 15 || minute % 5 == 0).map(|minute| minute * 60);
    [5, 15, 30].into_iter().chain(minute)
}

fn wait_until_serving(sidecar: &Sidecar) {
    let begun = Instant::now();
    while TcpStream::connect(sidecar.sse_address()).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "sidecar does not serve:\n{}", sidecar.output());
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the clients do, and how often.
#[derive(Default)]
struct Load {
    /// About the number of events that are stored.
    head: AtomicU64,
    visits: AtomicU64,
    requests: AtomicU64,
    is_over: AtomicBool,
}

impl Load {
    fn visit_again_and_again(&self, address: SocketAddr, client: u64) {
        let mut random = StdRng::seed_from_u64(client);
        while !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(random.gen_range(Duration::ZERO..VISIT_MAX));
            let head = self.head.load(Ordering::Relaxed).max(1);
            let start = random.gen_range(0..head);
            let until = start + random.gen_range(0..REPLAY_EVENTS_MAX);
            let target = match random.gen_range(0..6) {
                0 | 1 => "/events".to_owned(),
                2 => format!("/events?start_from={}", head.saturating_sub(random.gen_range(0..REPLAY_EVENTS_MAX))),
                3 => format!("/events?start_from={start}&until={until}"),
                4 => format!("/events?start_from={start}&until={until}&types=BlockAdded,TransactionProcessed"),
                _ => format!("/events?start_from={start}&until={until}&encoding=zstd"),
            };
            let end = Instant::now() + random.gen_range(Duration::ZERO..VISIT_MAX);
            let _ = read(address, &target, Some(end));
            self.visits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ask_again_and_again(&self, address: SocketAddr) {
        let mut random = StdRng::seed_from_u64(0);
        while !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(REST_INTERVAL);
            let number = random.gen_range(0..self.head.load(Ordering::Relaxed).max(1));
            let target = match random.gen_range(0..5) {
                0 => "/block".to_owned(),
                // The simulated node's first height, and some 121 events a block.
                1 => format!("/block/{}", 10_000_000 + number / 121),
                2 => format!("/events/{number}"),
                3 => format!("/events?from={number}&limit=100"),
                _ => "/status".to_owned(),
            };
            let _ = read(address, &target, None);
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends a request and reads the answer to its end or until `end`; what it holds does not matter here.
fn read(address: SocketAddr, target: &str, end: Option<Instant>) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    write!(socket, "GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let left = match end {
            Some(end) => end.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(60),
        };
        if left.is_zero() {
            return Ok(());
        }
        socket.set_read_timeout(Some(left))?;
        if socket.read(&mut buffer)? == 0 {
            return Ok(());
        }
    }
}
