//! What the Casper source costs per event, part by part: CPU time of the one thread that does the work.
//!
//! Run with `cargo bench --bench source`. The stream is made of sample payloads, 83 % of them finality signatures. The
//! group `listener` is the whole listener over loopback, from a node that sends one event per HTTP chunk, as a real one
//! does, and from one that sends large chunks. The node runs on another thread, whose time is not counted.

#![allow(missing_docs, reason = "criterion makes a public function")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark ends at the first thing that goes wrong")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use eventsource_client::{Client, ClientBuilder, ReconnectOptions, SSE};
use futures_util::{StreamExt, stream};
use launchdarkly_sdk_transport::{HttpTransport, Request, Response, ResponseFuture};
use rustix::time::{ClockId, clock_gettime};
use sidecar::casper::event::classify;
use sidecar::casper::source::{Counters, EVENT_BYTES_MAX_DEFAULT, NodeOptions, run};
use sidecar::engine::source::Batch;
use sidecar::sse_client::frames::{DroppedFrame, FrameFilter};
use sidecar::sse_client::stream::Timeouts;
use sidecar::sse_client::transport::{StreamObserver, filtered};

const EVENTS: usize = 20_000;
const CHUNK_BYTES: usize = 64 * 1024;

/// Sample payloads and how many of a hundred events are like them.
const MIX: [(usize, &str); 5] = [
    (83, include_str!("../tests/data/events/FinalitySignature.node_v2.json")),
    (4, include_str!("../tests/data/events/BlockAdded.node_with_transactions.json")),
    (4, include_str!("../tests/data/events/TransactionAccepted.node_version1.json")),
    (8, include_str!("../tests/data/events/TransactionProcessed.node_version1.json")),
    (1, include_str!("../tests/data/events/Step.node_a.json")),
];

fn source(criterion: &mut Criterion) {
    let payloads: Vec<&str> = MIX.iter().flat_map(|(count, sample)| vec![sample.trim_end(); *count]).collect();
    let payloads: Vec<&str> =
        (0..EVENTS).filter_map(|event| payloads.get(event * 37 % payloads.len()).copied()).collect();
    let frames: Vec<String> =
        payloads.iter().enumerate().map(|(id, payload)| format!("data:{payload}\nid:{id}\n\n")).collect();
    let wire = Bytes::from(frames.concat());
    println!("{} bytes an event on the wire", wire.len() / EVENTS);

    let mut group = criterion.benchmark_group("source");
    group.sample_size(10).throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("frame filter", |bencher| {
        measure(bencher, || {
            let mut filter = FrameFilter::new(EVENT_BYTES_MAX_DEFAULT);
            for chunk in chunks(&wire) {
                filter.push(chunk, |frame| panic!("{frame:?}"));
                while filter.next_piece().is_some() {}
            }
            EVENTS
        });
    });
    group.bench_function("frame filter + eventsource-client", |bencher| measure(bencher, || parse(&wire, |_| {})));
    group.bench_function("frame filter + eventsource-client + classify", |bencher| {
        measure(bencher, || {
            parse(&wire, |payload| {
                classify(payload).unwrap();
            })
        });
    });
    group.bench_function("classify", |bencher| {
        measure(bencher, || payloads.iter().filter(|payload| classify(payload).is_ok()).count());
    });
    group.finish();

    let mut group = criterion.benchmark_group("listener");
    group.sample_size(10).throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("large chunks", |bencher| measure(bencher, || listen(&wire)));
    let one_per_chunk: String =
        frames.iter().map(|frame| format!("{:x}\r\n{frame}\r\n", frame.len())).chain(["0\r\n\r\n".into()]).collect();
    group.bench_function("one event per chunk", |bencher| measure(bencher, || listen(one_per_chunk.as_bytes())));
    group.finish();
}

/// Counts the CPU time of the calling thread. The work returns its number of events.
fn measure(bencher: &mut Bencher<'_>, work: impl Fn() -> usize) {
    bencher.iter_custom(|rounds| {
        let begun = thread_cpu_time();
        for _ in 0..rounds {
            assert_eq!(work(), EVENTS);
        }
        thread_cpu_time() - begun
    });
}

fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn chunks(wire: &Bytes) -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut wire = wire.clone();
    std::iter::from_fn(move || (!wire.is_empty()).then(|| wire.split_to(CHUNK_BYTES.min(wire.len()))))
}

#[derive(Clone)]
struct Canned(Arc<Mutex<Option<Bytes>>>);

impl HttpTransport for Canned {
    fn request(&self, _: Request<Option<Bytes>>) -> ResponseFuture {
        let wire = self.0.lock().unwrap().take().unwrap();
        let body = stream::iter(chunks(&wire).map(Ok));
        let body = filtered(body, FrameFilter::new(EVENT_BYTES_MAX_DEFAULT), Arc::new(Unobserved));
        Box::pin(std::future::ready(Ok(Response::new(body))))
    }
}

struct Unobserved;

impl StreamObserver for Unobserved {
    fn bytes_received(&self) {}

    fn frame_dropped(&self, frame: DroppedFrame) {
        panic!("{frame:?}");
    }
}

fn parse(wire: &Bytes, mut each: impl FnMut(&str)) -> usize {
    let mut messages = ClientBuilder::for_url("http://node/events")
        .unwrap()
        .reconnect(ReconnectOptions::reconnect(false).build())
        .build_with_transport(Canned(Arc::new(Mutex::new(Some(wire.clone())))))
        .stream();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut events = 0;
        while let Some(item) = messages.next().await {
            if let Ok(SSE::Event(event)) = item {
                each(&event.data);
                events += 1;
            }
        }
        events
    })
}

/// Runs a listener against a node on another thread that sends `body` once.
fn listen(body: &[u8]) -> usize {
    let node = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = node.local_addr().unwrap().port();
    let chunked = body.ends_with(b"\r\n0\r\n\r\n");
    thread::scope(|scope| {
        scope.spawn(|| serve(&node, body, chunked));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (out, mut batches) = tokio::sync::mpsc::channel(16);
        let options = NodeOptions {
            log_network: sidecar::engine::source::LogNetwork::default(),
            host: "127.0.0.1".into(),
            sse_port: port,
            rest_port: port,
            max_attempts: 1,
            keep_trying: false,
            delay_between_retries: Duration::ZERO,
            enable_logging: false,
            timeouts: Timeouts::default(),
            network_name: None,
            event_bytes_max: EVENT_BYTES_MAX_DEFAULT,
        };
        runtime.block_on(async {
            let listener = tokio::spawn(run(options, out, Arc::new(Counters::default())));
            let mut received = 0;
            while let Some(batch) = batches.recv().await {
                if let Batch::Events { events, .. } = batch {
                    received += events.len();
                }
            }
            listener.await.unwrap();
            received
        })
    })
}

/// Answers a status, the stream, and a status that ends the listener.
fn serve(node: &TcpListener, body: &[u8], chunked: bool) {
    let status = |version: &str| format!(r#"{{"build_version":"{version}","chainspec_name":"casper-bench"}}"#);
    let answer = |head: &str, parts: &[&[u8]]| {
        let (mut socket, _) = node.accept().unwrap();
        read_head(&mut socket);
        socket.write_all(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{head}\r\n").as_bytes()).unwrap();
        for part in parts {
            socket.write_all(part).unwrap();
        }
    };
    answer("", &[status("2.0.0").as_bytes()]);
    let version = "data:{\"ApiVersion\":\"2.0.0\"}\n\n";
    if chunked {
        let version = format!("{:x}\r\n{version}\r\n", version.len());
        answer("content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n", &[version.as_bytes(), body]);
    } else {
        answer("content-type: text/event-stream\r\n", &[version.as_bytes(), body]);
    }
    answer("", &[status("1.0.0").as_bytes()]);
}

fn read_head(socket: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
}

criterion_group!(benches, source);
criterion_main!(benches);
