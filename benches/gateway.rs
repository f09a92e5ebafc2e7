//! What a message costs the gRPC gateway that it passes on: `cargo bench --bench gateway`.
//!
//! Three processes on loopback: a gRPC server that makes small messages as fast as they are taken, the gateway, and a client
//! that only counts bytes. So the CPU time of each is its own. Prints medians of interleaved runs. `-- --quick` passes on a
//! tenth.

#![expect(clippy::indexing_slicing, reason = "a benchmark may stop where it finds something else than it expects")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sidecar::engine::http::ListenOptions;
use sidecar::engine::stream::PortOptions;
use sidecar::grpc::{DescriptorSource, EventForm, JsonForm, Options, Server, UpstreamOptions, Upstreams};
use sidecar_test_support::ping_pong::{self, PingPong};

const MESSAGES: u64 = 1_000_000;
/// Bytes of a message's text.
const TEXT_BYTES: u64 = 20;
const RUNS: usize = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "upstream"] => serve_messages(),
        [_, "client", address, target, accept, clients] => {
            read_streams(address.parse()?, target, accept, clients.parse()?)
        }
        _ => measure(if arguments.iter().any(|argument| argument == "--quick") { MESSAGES / 10 } else { MESSAGES }),
    }
}

fn measure(messages: u64) -> Result<()> {
    let mut upstream = start(&["upstream"])?;
    let mut line = String::new();
    BufReader::new(upstream.stdout.as_mut().context("no pipe")?).read_line(&mut line)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let gateway = serve(&runtime, line.trim().parse()?)?;
    let modes = [
        ("lines of JSON", "application/json", 1),
        ("event stream", "text/event-stream", 1),
        ("event stream, 10 clients", "text/event-stream", 10),
    ];
    let mut runs = vec![Vec::new(); modes.len()];
    for _ in 0..RUNS {
        for ((_, accept, clients), results) in modes.iter().zip(&mut runs) {
            let target = format!("/v1/balls/flood?count={}&bytes={TEXT_BYTES}", messages / clients);
            results.push(run(gateway, upstream.id(), &target, accept, *clients)?);
        }
    }
    upstream.kill()?;
    upstream.wait()?;
    println!("{messages} messages, {} bytes each at the client", runs[0][0].bytes / messages);
    println!("{:<26} {:>12} {:>34}", "", "messages/s", "CPU us/message: gateway, server, client");
    for ((name, ..), results) in modes.iter().zip(&runs) {
        let of = |part: fn(&Run) -> Duration| median(results.iter().map(part).collect()).as_secs_f64();
        let each = |seconds: f64| seconds * 1e6 / messages as f64;
        let rate = messages as f64 / of(|run| run.wall);
        let [gateway, server, client] = [of(|run| run.gateway), of(|run| run.server), of(|run| run.client)].map(each);
        println!("{name:<26} {rate:>12.0} {gateway:>18.2} {server:>7.2} {client:>7.2}");
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Run {
    wall: Duration,
    gateway: Duration,
    server: Duration,
    client: Duration,
    bytes: u64,
}

fn run(gateway: SocketAddr, server: u32, target: &str, accept: &str, clients: u64) -> Result<Run> {
    let own = std::process::id();
    let (gateway_before, server_before) = (cpu_time(own)?, cpu_time(server)?);
    let begun = Instant::now();
    let client = start(&["client", &gateway.to_string(), target, accept, &clients.to_string()])?;
    let output = String::from_utf8(client.wait_with_output()?.stdout)?;
    let wall = begun.elapsed();
    let (bytes, client) = output.trim().split_once(' ').context("the client failed")?;
    Ok(Run {
        wall,
        gateway: cpu_time(own)? - gateway_before,
        server: cpu_time(server)? - server_before,
        client: Duration::from_millis(client.parse()?),
        bytes: bytes.parse()?,
    })
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

fn serve(runtime: &tokio::runtime::Runtime, upstream: SocketAddr) -> Result<SocketAddr> {
    let folder = tempfile::tempdir()?;
    let descriptor_set = folder.path().join("court.binpb");
    ping_pong::write_descriptor_set(&descriptor_set);
    let options = Options {
        port: PortOptions { listen: ListenOptions::on(Ipv4Addr::LOCALHOST), ..PortOptions::default() },
        upstreams: vec![UpstreamOptions {
            name: "court".to_owned(),
            address: format!("http://{upstream}"),
            ca_certificate: None,
            descriptors: DescriptorSource::Set(descriptor_set),
        }],
        streams: Vec::new(),
        generate_unbound_methods: false,
        discard_unknown: true,
        json: JsonForm::default(),
        wraps_results: true,
        event_form: EventForm::Standard,
        takes_forms: true,
        message_bytes_max: 4 << 20,
        call_timeout: Duration::from_secs(60),
    };
    runtime.block_on(async {
        let server = Server::bind(Upstreams::open(options)?, [])?;
        let address = server.local_addr();
        tokio::spawn(server.run(std::future::pending()));
        Ok(address)
    })
}

/// In another process: the gRPC server.
fn serve_messages() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = PingPong::start().await;
        println!("{}", server.address());
        std::future::pending().await
    })
}

/// In another process: reads streams to their ends, and prints how many bytes they had and the CPU time of that.
fn read_streams(address: SocketAddr, target: &str, accept: &str, clients: usize) -> Result<()> {
    let (target, accept) = (target.to_owned(), accept.to_owned());
    let read = move || -> Result<u64> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {accept}\r\n\r\n")?;
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    };
    let clients: Vec<_> = (0..clients).map(|_| std::thread::spawn(read.clone())).collect();
    let mut bytes = 0;
    for client in clients {
        bytes += client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    ensure!(bytes > 100_000, "the streams ended early");
    println!("{bytes} {}", cpu_time(std::process::id())?.as_millis());
    Ok(())
}

fn start(arguments: &[&str]) -> Result<Child> {
    Ok(Command::new(std::env::current_exe()?).args(arguments).stdout(Stdio::piped()).spawn()?)
}

/// User and system time of a process.
fn cpu_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}
