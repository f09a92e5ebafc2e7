//! What a replay costs the SSE server: `cargo bench --bench stream`.
//!
//! Writes a log of about 1 GB of wire form into a temporary directory, serves it on loopback and lets another process
//! read it, so that the CPU time of this one is the server's alone. The yardstick is a bare socket that sends the same
//! number of bytes from memory. Prints medians of interleaved runs. `-- --quick` writes a tenth.
//!
//! Then 500 clients follow a log that grows by 100 events a second, on `/events`, on the 1.x stream that has the same
//! events, and on a recorded gRPC stream of them, in turns: `-- --live` does only that.

#![expect(clippy::indexing_slicing, reason = "a benchmark may stop where it finds something else than it expects")]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use sidecar::casper::events::{Options, READER_CLASSES, Server};
use sidecar::engine::dialect::write_options;
use sidecar::engine::http::ListenOptions;
use sidecar::engine::stream::{Hub, PortOptions, ReplayChunks, Resources};
use sidecar::grpc;
use sidecar_log_format::{
    ApiVersion, Durability, Event, Head, Kind, Log, Opened, ReadOptions, WriteOptions, Writer,
    storage::{Directory, Storage},
};
use sidecar_test_support::ping_pong;
use tokio::sync::watch;

const EVENTS: u64 = 1_300_000;
const RUNS: usize = 3;
const SIGNATURE: Kind = Kind(6);
const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 0 };
const STALLED_CLIENTS: usize = 1_000;
/// More than the cache has blocks.
const CLIENTS: u64 = 200;
const LIVE_CLIENTS: usize = 500;
const LIVE_EVENTS: u64 = 1_000;
const LIVE_EVENTS_PER_SECOND: u64 = 100;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "client", address, target, header] => {
            println!("{}", read_stream(address.parse()?, target, header)?);
            Ok(())
        }
        [_, "clients", address, events] => read_streams(address.parse()?, events.parse()?),
        [_, "live", address, target] => follow_streams(address.parse()?, target),
        [_, "stalled", address, events] => hold_streams(address.parse()?, events.parse()?),
        [_, "resident", directory, events] => {
            println!("{}", resident_with_stalled_clients(directory.as_ref(), events.parse()?)?);
            Ok(())
        }
        [_, .., "--live"] | [_, .., "--live", "--bench"] => measure_live(),
        _ => measure(if arguments.iter().any(|argument| argument == "--quick") { EVENTS / 10 } else { EVENTS }),
    }
}

fn measure(events: u64) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (log, _writer) = write_log(directory.path(), events)?;
    let recorded = Recorded::new()?;
    let (recorded_log, _recorded_writer) = recorded.write_log(events)?;
    let raw_bytes = events * 765;
    let modes: [(&str, ReplayChunks, &str, &str); 6] = [
        ("one event per chunk", ReplayChunks::Event, "", ""),
        ("large pieces", ReplayChunks::Block, "", ""),
        ("zstd, as stored", ReplayChunks::Event, "", "accept-encoding: zstd\r\n"),
        ("NDJSON", ReplayChunks::Event, "", "accept: application/x-ndjson\r\n"),
        ("types=FinalitySignature", ReplayChunks::Event, "&types=FinalitySignature", ""),
        ("types=Step (none there)", ReplayChunks::Block, "&types=Step", ""),
    ];
    let (mut bare, mut of_recorded) = (Vec::new(), Vec::new());
    let mut runs = vec![Vec::new(); modes.len()];
    let runtime = tokio::runtime::Runtime::new()?;
    for _ in 0..RUNS {
        bare.push(bare_socket(raw_bytes)?);
        // Right before the mode that it is compared with.
        let address = recorded.serve(&runtime, &recorded_log, watch::channel(recorded_log.head()).1)?;
        let target = format!("{RECORDED_PATH}?start_from=0&until={}", events - 1);
        of_recorded.push(run_client(&["client", &address.to_string(), &target, ""])?);
        for ((_, chunks, query, header), results) in modes.iter().zip(&mut runs) {
            results.push(replay(&runtime, &log, events, *chunks, query, header)?);
        }
    }
    let yardstick = events as f64 / median(bare).as_secs_f64();
    println!("{events} events, {:.2} GB", raw_bytes as f64 / 1e9);
    println!(
        "{:<26} {:>12} {:>8} {:>14} {:>10}",
        "replay, one client", "events/s", "of raw", "CPU us/event", "MB sent"
    );
    println!("{:<26} {yardstick:>12.0} {:>8.2}", "bare socket", 1.0);
    let names = modes.iter().map(|(name, ..)| *name).chain(["recorded gRPC stream"]);
    for (name, results) in names.zip(runs.into_iter().chain([of_recorded])) {
        let rate = events as f64 / median(results.iter().map(|run| run.wall).collect()).as_secs_f64();
        let cpu = median(results.iter().map(|run| run.cpu).collect()).as_secs_f64() * 1e6 / events as f64;
        let sent = results.first().map_or(0, |run| run.bytes);
        println!("{name:<26} {rate:>12.0} {:>8.2} {cpu:>14.2} {:>10}", rate / yardstick, sent / 1_000_000);
    }
    let address = serve(&runtime, &log, ReplayChunks::Event)?;
    let many = run_client(&["clients", &address.to_string(), &events.to_string()])?;
    println!(
        "{CLIENTS} clients, a part each: {:.0} events/s, {:.2} us CPU/event",
        events as f64 / many.wall.as_secs_f64(),
        many.cpu.as_secs_f64() * 1e6 / events as f64
    );
    // A process of its own: this one has held more than a server does.
    let place = directory.path().to_str().context("the temporary directory's name is no text")?;
    let resident = client(&["resident", place, &events.to_string()])?.wait_with_output()?.stdout;
    let resident: u64 = String::from_utf8(resident)?.trim().parse().context("the server failed")?;
    println!("{STALLED_CLIENTS} clients that stall in replays from different places: {} MiB resident", resident / 1024);
    measure_live()
}

fn measure_live() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let paths = ["/events", "/events/sigs", RECORDED_PATH];
    let mut runs = paths.map(|_| Vec::new());
    for _ in 0..RUNS {
        for (path, results) in paths.iter().zip(&mut runs) {
            results.push(live(&runtime, path)?);
        }
    }
    let [native, legacy, recorded] = runs.map(|results| median(results).as_secs_f64());
    println!(
        "{LIVE_CLIENTS} live clients, {LIVE_EVENTS_PER_SECOND} events/s: {native:.2} s CPU on /events, {legacy:.2} s on \
         /events/sigs, ratio {:.2}, {recorded:.2} s on a recorded gRPC stream, ratio {:.2}",
        legacy / native,
        recorded / native
    );
    Ok(())
}

/// The CPU time of this process while its clients follow a log that grows.
fn live(runtime: &tokio::runtime::Runtime, path: &str) -> Result<Duration> {
    let directory = tempfile::tempdir()?;
    let recorded = if path == RECORDED_PATH { Some(Recorded::new()?) } else { None };
    let (log, mut writer) = match &recorded {
        Some(recorded) => recorded.write_log(0)?,
        None => write_log(directory.path(), 0)?,
    };
    let committed = watch::Sender::new(log.head());
    let address = match &recorded {
        Some(recorded) => recorded.serve(runtime, &log, committed.subscribe())?,
        None => serve_growing(runtime, &log, ReplayChunks::Event, committed.subscribe())?,
    };
    let target = format!("{path}?until={}", LIVE_EVENTS - 1);
    let mut child = client(&["live", &address.to_string(), &target])?;
    let mut ready = [0; 1];
    child.stdout.as_mut().context("no pipe")?.read_exact(&mut ready)?;
    let cpu = cpu_time()?;
    let start = Instant::now();
    let mut random = 1u64;
    for number in 0..LIVE_EVENTS {
        append(&mut writer, number, &mut random)?;
        committed.send_replace(writer.commit()?);
        let due = start + Duration::from_millis((number + 1) * 1_000 / LIVE_EVENTS_PER_SECOND);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    ensure!(child.wait()?.success(), "a client failed");
    Ok(cpu_time()? - cpu)
}

/// In the other process: reads many streams to their ends.
fn follow_streams(address: SocketAddr, target: &str) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let request = format!("GET {target} HTTP/1.1\r\nhost: sidecar\r\nconnection: close\r\n\r\n");
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..LIVE_CLIENTS {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut piece = vec![0; 16 << 10];
            ensure!(stream.read(&mut piece).await? > 0, "no response");
            streams.spawn(async move {
                let mut bytes = 0;
                loop {
                    match stream.read(&mut piece).await {
                        Ok(0) => return Ok(bytes),
                        Ok(read) => bytes += read as u64,
                        Err(error) => return Err(error),
                    }
                }
            });
        }
        println!("ready");
        while let Some(stream) = streams.join_next().await {
            ensure!(stream?? > LIVE_EVENTS * 100, "a stream ended early");
        }
        Ok(())
    })
}

#[derive(Clone, Copy)]
struct Run {
    wall: Duration,
    cpu: Duration,
    bytes: u64,
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

const RECORDED_PATH: &str = "/streams/signatures";

/// A recorded gRPC stream whose upstream is never called.
struct Recorded {
    upstreams: grpc::Options,
    folder: tempfile::TempDir,
}

impl Recorded {
    fn new() -> Result<Recorded> {
        let folder = tempfile::tempdir()?;
        let descriptor_set = folder.path().join("court.binpb");
        ping_pong::write_descriptor_set(&descriptor_set);
        let upstream = grpc::UpstreamOptions {
            name: "court".to_owned(),
            address: "http://127.0.0.1:1".to_owned(),
            ca_certificate: None,
            descriptors: grpc::DescriptorSource::Set(descriptor_set),
        };
        let stream = grpc::StreamOptions {
            name: "signatures".to_owned(),
            upstream: upstream.name.clone(),
            method: "demo.v1.Events/Subscribe".to_owned(),
            request: serde_json::json!({}),
            path: RECORDED_PATH.to_owned(),
            event_field: Some("event".to_owned()),
            // Kinds as in the other log.
            event_names: (1..=SIGNATURE.0).map(|number| format!("kind_{number}")).collect(),
            identity_fields: Vec::new(),
        };
        let port = port(ReplayChunks::Event);
        let upstreams = grpc::Options { streams: vec![stream], ..grpc::Options::new(port, vec![upstream]) };
        Ok(Recorded { upstreams, folder })
    }

    fn write_log(&self, events: u64) -> Result<(Log, Writer)> {
        let runtime = tokio::runtime::Runtime::new()?;
        let _within = runtime.enter();
        let streams = grpc::Upstreams::open(self.upstreams.clone())?.streams()?;
        let dialect = streams.first().context("no stream")?.dialect(self.folder.path());
        let (log, mut writer) = open_log(self.folder.path(), write_options(&dialect, [7; 16], 1))?;
        append_all(&mut writer, events)?;
        Ok((log, writer))
    }

    fn serve(
        &self,
        runtime: &tokio::runtime::Runtime,
        log: &Log,
        committed: watch::Receiver<Head>,
    ) -> Result<SocketAddr> {
        let hub = Hub::new(log.clone(), committed, Arc::new(Resources::new(2)), grpc::READER_CLASSES);
        runtime.block_on(async {
            let upstreams = grpc::Upstreams::open(self.upstreams.clone())?;
            let streams = upstreams.streams()?;
            let stream = streams.first().context("no stream")?;
            let server = grpc::Server::bind(upstreams, [(stream, Arc::new(hub))])?;
            let address = server.front().local_addr();
            tokio::spawn(server.run(std::future::pending()));
            Ok(address)
        })
    }
}

fn write_log(directory: &Path, events: u64) -> Result<(Log, Writer)> {
    let (log, mut writer) = open_log(directory, WriteOptions::new("casper", [7; 16], 1))?;
    writer.announce_version(VERSION, "node", 1)?;
    append_all(&mut writer, events)?;
    Ok((log, writer))
}

fn open_log(directory: &Path, options: WriteOptions) -> Result<(Log, Writer)> {
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(directory));
    let options = WriteOptions { durability: Durability::Os, ..options };
    let Opened { writer, log, .. } = Writer::open(storage, options)?;
    Ok((log, writer))
}

fn append_all(writer: &mut Writer, events: u64) -> Result<()> {
    let mut random = 1u64;
    for number in 0..events {
        append(writer, number, &mut random)?;
        if writer.is_block_full() {
            writer.commit()?;
        }
    }
    writer.commit()?;
    Ok(())
}

fn append(writer: &mut Writer, number: u64, random: &mut u64) -> Result<()> {
    let payload = payload(number, random);
    writer.append(&Event {
        kind: SIGNATURE,
        name: "",
        source: "127.0.0.1:9999",
        network: "casper",
        api_version: VERSION,
        upstream_id: Some(number),
        received: 1,
        payload: &payload,
    })?;
    Ok(())
}

/// About 745 bytes that compress like a real finality signature's.
fn payload(number: u64, random: &mut u64) -> String {
    let mut hex = |length: usize| -> String {
        let words = std::iter::repeat_with(|| {
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            format!("{:016x}", *random)
        });
        words.take(length / 16).collect()
    };
    let (signature, hash) = (hex(256), hex(128));
    let known = "a9b2c4d7e1f0".repeat(14);
    format!(
        "{{\"FinalitySignature\":{{\"V2\":{{\"block_hash\":\"{hash}\",\"block_height\":{},\"era_id\":{},\
         \"chain_name_hash\":\"{known}\",\"signature\":\"02{signature}\",\"public_key\":\"02{}\"}}}}}}",
        number / 100,
        number / 10_000,
        "c0ffee11".repeat(4),
    )
}

fn replay(
    runtime: &tokio::runtime::Runtime,
    log: &Log,
    events: u64,
    replay_chunks: ReplayChunks,
    query: &str,
    header: &str,
) -> Result<Run> {
    let running = serve(runtime, log, replay_chunks)?;
    let target = format!("/events?start_from=0&until={}{query}", events - 1);
    run_client(&["client", &running.to_string(), &target, header])
}

/// Runs a client process to its end; the CPU time is this process's.
fn run_client(arguments: &[&str]) -> Result<Run> {
    let cpu = cpu_time()?;
    let start = Instant::now();
    let bytes = String::from_utf8(client(arguments)?.wait_with_output()?.stdout)?;
    Ok(Run { wall: start.elapsed(), cpu: cpu_time()? - cpu, bytes: bytes.trim().parse().context("the client failed")? })
}

fn serve(runtime: &tokio::runtime::Runtime, log: &Log, replay_chunks: ReplayChunks) -> Result<SocketAddr> {
    serve_growing(runtime, log, replay_chunks, watch::channel(log.head()).1)
}

fn serve_growing(
    runtime: &tokio::runtime::Runtime,
    log: &Log,
    replay_chunks: ReplayChunks,
    committed: watch::Receiver<Head>,
) -> Result<SocketAddr> {
    let port = port(replay_chunks);
    let hub = Arc::new(Hub::new(log.clone(), committed, Arc::new(Resources::new(2)), READER_CLASSES));
    runtime.block_on(async {
        let server = Server::bind(Options { port, legacy_enabled: true, ..Options::default() }, hub)?;
        let address = server.front().local_addr();
        tokio::spawn(server.run(std::future::pending()));
        Ok(address)
    })
}

fn port(replay_chunks: ReplayChunks) -> PortOptions {
    PortOptions {
        listen: ListenOptions::on(Ipv4Addr::LOCALHOST),
        replay_chunks,
        streams_max: 2_000,
        ..PortOptions::default()
    }
}

fn bare_socket(bytes: u64) -> Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let start = Instant::now();
    let mut child = client(&["client", &address.to_string(), "/", ""])?;
    let (mut stream, _) = listener.accept()?;
    let mut request = [0; 1024];
    ensure!(stream.read(&mut request)? > 0, "no request");
    let piece = vec![b'x'; 64 << 10];
    let mut left = bytes as usize;
    while left > 0 {
        let length = left.min(piece.len());
        stream.write_all(&piece[..length])?;
        left -= length;
    }
    drop(stream);
    ensure!(child.wait()?.success(), "the client failed");
    Ok(start.elapsed())
}

/// In another process: serves the log to clients that stall, and says how many KiB are resident then.
fn resident_with_stalled_clients(directory: &Path, events: u64) -> Result<u64> {
    let log = Log::open(Arc::new(Directory::at(directory)), ReadOptions::default())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let address = serve(&runtime, &log, ReplayChunks::Event)?;
    let mut child = client(&["stalled", &address.to_string(), &events.to_string()])?;
    let mut ready = [0; 1];
    child.stdout.as_mut().context("no pipe")?.read_exact(&mut ready)?;
    // Until every client's sockets are full, which shows in the CPU time.
    let mut cpu = cpu_time()?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = cpu_time()?;
        if now - cpu < Duration::from_millis(50) {
            break;
        }
        cpu = now;
    }
    let resident = resident_kib()?;
    child.kill()?;
    child.wait()?;
    Ok(resident)
}

fn client(arguments: &[&str]) -> Result<Child> {
    Ok(Command::new(std::env::current_exe()?).args(arguments).stdout(Stdio::piped()).spawn()?)
}

/// In the other process: reads a whole response and says how long it was.
fn read_stream(address: SocketAddr, target: &str, header: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!("GET {target} HTTP/1.1\r\nhost: sidecar\r\nconnection: close\r\n{header}\r\n");
    // In one piece: the bare socket reads only once.
    stream.write_all(request.as_bytes())?;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    Ok(bytes)
}

/// In the other process: each of many clients reads its own part of the log.
fn read_streams(address: SocketAddr, events: u64) -> Result<()> {
    let part = events / CLIENTS;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let target = format!("/events?start_from={}&until={}", number * part, (number + 1) * part - 1);
            std::thread::spawn(move || read_stream(address, &target, ""))
        })
        .collect();
    let mut bytes = 0;
    for client in clients {
        bytes += client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    println!("{bytes}");
    Ok(())
}

/// In the other process: opens streams, reads a little of each and then nothing.
fn hold_streams(address: SocketAddr, events: u64) -> Result<()> {
    let mut streams = Vec::new();
    for number in 0..STALLED_CLIENTS as u64 {
        let mut stream = TcpStream::connect(address)?;
        let start = events / STALLED_CLIENTS as u64 * number;
        write!(stream, "GET /events?start_from={start} HTTP/1.1\r\nhost: sidecar\r\n\r\n")?;
        stream.read_exact(&mut [0; 1024])?;
        streams.push(stream);
    }
    println!("ready");
    std::thread::sleep(Duration::from_secs(3600));
    Ok(())
}

/// User and system time of this process.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::ProcessCPUTime).try_into()?)
}

fn resident_kib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
