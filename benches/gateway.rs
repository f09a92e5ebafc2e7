//! The cost of one message in the gRPC gateway: `cargo bench --bench gateway`.
//!
//! Three processes on loopback: a gRPC server that makes small messages as fast as they are taken, the gateway, and a client
//! that only counts bytes. So the CPU time of each is its own. Prints medians of interleaved runs. `-- --quick` passes on a
//! tenth.

#![expect(clippy::indexing_slicing, reason = "a benchmark may stop where it finds something else than it expects")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use sidecar::engine::http::ListenOptions;
use sidecar::engine::stream::PortOptions;
use sidecar::grpc::{DescriptorSource, Options, Server, UpstreamOptions, Upstreams};
use sidecar_test_support::ping_pong::{self, PingPong};
use sidecar_test_support::process::Process;

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
    let runtime = tokio::runtime::Runtime::new()?;
    let mut upstream = Process::start(&mut this_program(&["upstream"])?);
    runtime.block_on(upstream.wait_for_output("\n"));
    let output = upstream.output();
    let address = output.trim().parse().with_context(|| format!("the server failed: {output}"))?;
    let gateway = serve(&runtime, address)?;
    let modes = [
        ("lines of JSON", "application/json", 1),
        ("event stream", "text/event-stream", 1),
        ("event stream, 10 clients", "text/event-stream", 10),
    ];
    let mut runs = vec![Vec::new(); modes.len()];
    for _ in 0..RUNS {
        for ((_, accept, clients), results) in modes.iter().zip(&mut runs) {
            let target = format!("/v1/balls/flood?count={}&bytes={TEXT_BYTES}", messages / clients);
            results.push(run(gateway, &upstream, &target, accept, *clients)?);
        }
    }
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

fn run(gateway: SocketAddr, server: &Process, target: &str, accept: &str, clients: u64) -> Result<Run> {
    let mut client = this_program(&["client", &gateway.to_string(), target, accept, &clients.to_string()])?;
    let (gateway_before, server_before) = (cpu_time()?, server.cpu_time());
    let begun = Instant::now();
    let output = String::from_utf8(client.stderr(Stdio::inherit()).output()?.stdout)?;
    let wall = begun.elapsed();
    let (bytes, client) = output.trim().split_once(' ').context("the client failed")?;
    Ok(Run {
        wall,
        gateway: cpu_time()? - gateway_before,
        server: server.cpu_time() - server_before,
        client: Duration::from_micros(client.parse()?),
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
    let port = PortOptions { listen: ListenOptions::on(Ipv4Addr::LOCALHOST), ..PortOptions::default() };
    let upstream = UpstreamOptions {
        name: "court".to_owned(),
        address: format!("http://{upstream}"),
        ca_certificate: None,
        descriptors: DescriptorSource::Set(descriptor_set),
    };
    runtime.block_on(async {
        let server = Server::bind(Upstreams::open(Options::new(port, vec![upstream]))?, [])?;
        let address = server.front().local_addr();
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
    println!("{bytes} {}", cpu_time()?.as_micros());
    Ok(())
}

fn this_program(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

/// User and system time of this process.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::ProcessCPUTime).try_into()?)
}
