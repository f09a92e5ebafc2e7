//! Hostile clients: whatever they do, memory stays bounded, and other clients do not notice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use std::net::SocketAddr;
use std::time::Duration;

use sidecar_test_support::client::{Request, SseClient, events, get};
use sidecar_test_support::fast::EndlessStory;
use sidecar_test_support::node::{NodeOptions, SimulatedNode};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story;
use sidecar_test_support::wait::{find, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How long it may take until the end of an attack is noticed.
const PATIENCE: Duration = Duration::from_secs(60);
/// What all the clients of an attack together may cost.
const EXCESS_BYTES_MAX: u64 = 96 << 20;

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// A node that sends a story, a sidecar beside it, and a client that has read what was sent so far.
struct Scene {
    story: EndlessStory,
    node: SimulatedNode,
    sidecar: Sidecar,
    client: SseClient,
    told: u64,
    memory_before: u64,
}

impl Scene {
    async fn with(events: u64, builder: SidecarBuilder) -> Self {
        let story = EndlessStory::render(1, 10);
        let node = SimulatedNode::with(NodeOptions { ring_events: 100_000, ..NodeOptions::default() });
        node.push_all((0..events).map(|number| story.payload(number)));
        let sidecar = builder.node(node.address()).start().await;
        let client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await;
        let mut scene = Self { story, node, sidecar, client, told: 0, memory_before: 0 };
        scene.expect(0..events).await;
        scene.told = events;
        scene.memory_before = scene.sidecar.resident_memory_bytes().now;
        scene
    }

    fn address(&self) -> SocketAddr {
        self.sidecar.sse_address()
    }

    /// The client that was there before the attack gets what happens meanwhile, and so does a new one.
    async fn all_is_well(&mut self) {
        let next = self.told + 100;
        self.node.push_all((self.told..next).map(|number| self.story.payload(number)));
        self.expect(self.told..next).await;
        let mut newcomer = SseClient::connect(self.address(), &format!("/events?start_from={}", self.told)).await;
        newcomer.read_until_id(next - 1).await;
        self.told = next;
    }

    async fn expect(&mut self, numbers: std::ops::Range<u64>) {
        if numbers.is_empty() {
            return;
        }
        let messages = self.client.read_until_id(numbers.end - 1).await;
        let expected: Vec<String> = numbers.clone().map(|number| self.story.payload(number)).collect();
        assert!(events(&messages).into_iter().eq(numbers.zip(expected.iter().map(String::as_str))));
    }

    /// Prints what an attack cost in memory, and fails if that was too much.
    fn memory_is_bounded(&self, attack: &str) {
        let memory = self.sidecar.resident_memory_bytes();
        let excess = memory.highest.saturating_sub(self.memory_before);
        println!(
            "{attack}: {} KiB before, {} KiB at most, {} KiB now",
            self.memory_before >> 10,
            memory.highest >> 10,
            memory.now >> 10
        );
        assert!(excess < EXCESS_BYTES_MAX, "{attack}: {excess} bytes more than before");
    }
}

/// `count` connections that have sent `bytes`; those that are not let in are left out.
async fn connections(address: SocketAddr, count: usize, bytes: &'static [u8]) -> Vec<TcpStream> {
    const AT_ONCE: usize = 50;
    let mut connecting = JoinSet::new();
    let mut connected = Vec::new();
    for _ in 0..count {
        if connecting.len() == AT_ONCE {
            connected.extend(connecting.join_next().await.unwrap().unwrap());
        }
        connecting.spawn(async move {
            let mut stream = TcpStream::connect(address).await.ok()?;
            stream.write_all(bytes).await.ok()?;
            Some(stream)
        });
    }
    connected.extend(connecting.join_all().await.into_iter().flatten());
    connected
}

/// Opens as many files as the system lets it; a test of its own process.
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[tokio::test]
async fn ten_thousand_idle_connections_are_nobodys_business() {
    allow_open_files();
    let mut scene = Scene::with(1_000, sidecar()).await;
    let idle = connections(scene.address(), 10_000, b"").await;
    scene.all_is_well().await;
    scene.memory_is_bounded("10,000 idle connections");
    drop(idle);
    scene.all_is_well().await;
}

#[tokio::test]
async fn headers_that_come_a_byte_at_a_time_cost_their_own_connection_only() {
    allow_open_files();
    let builder = sidecar().event_stream_server("header_timeout_seconds = 1");
    let mut scene = Scene::with(1_000, builder).await;
    let slow = connections(scene.address(), 2_000, b"GET /events?start_from=0 HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    let mut dripping = JoinSet::new();
    for mut stream in slow {
        dripping.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            let mut answer = Vec::new();
            loop {
                tokio::select! {
                    _ = pace.tick() => if stream.write_all(b"x").await.is_err() { return answer },
                    read = stream.read_buf(&mut answer) => if !matches!(read, Ok(1..)) { return answer },
                }
            }
        });
    }
    scene.all_is_well().await;
    while let Some(answer) = dripping.join_next().await {
        assert!(!answer.unwrap().starts_with(b"HTTP/1.1 200"));
    }
    scene.memory_is_bounded("2,000 slow headers");
    scene.all_is_well().await;
}

#[tokio::test]
async fn readers_that_never_read_hold_nothing_and_are_cut_in_the_end() {
    const READERS: usize = 90;
    let builder = sidecar().event_stream_server("write_stall_timeout_seconds = 3");
    let mut scene = Scene::with(20_000, builder).await;
    let mut stalled = Vec::new();
    for number in 0..READERS {
        let coding = if number % 2 == 0 { "" } else { "&encoding=zstd" };
        let request = Request::get(scene.address(), &format!("/events?start_from=0{coding}"));
        stalled.push(request.slow(4_096).open().await);
    }
    scene.all_is_well().await;
    scene.memory_is_bounded("90 readers that never read");
    // Their places are free again, though none of them has moved: as many others read everything.
    for _ in 0..20 {
        let mut other = newcomer(scene.address()).await;
        other.read_until_id(scene.told - 1).await;
        stalled.push(other);
    }
    scene.all_is_well().await;
}

/// A client that gets in as soon as there is a place.
async fn newcomer(address: SocketAddr) -> SseClient {
    find(PATIENCE, "a free place", async || {
        let client = SseClient::connect(address, "/events?start_from=0").await;
        assert!([200, 503].contains(&client.status()), "{}", client.status());
        (client.status() == 200).then_some(client)
    })
    .await
}

#[tokio::test]
async fn a_flood_of_connections_that_come_and_go_leaves_nothing_behind() {
    let mut scene = Scene::with(1_000, sidecar()).await;
    let starts: [&[u8]; 4] = [b"", b"GET /ev", b"GET /events?start_from=0 HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\n\0"];
    for round in 0..20 {
        drop(connections(scene.address(), 250, starts[round % starts.len()]).await);
        if round % 5 == 0 {
            scene.all_is_well().await;
        }
    }
    scene.all_is_well().await;
    scene.memory_is_bounded("5,000 connections that come and go");
}

#[tokio::test]
async fn requests_that_are_too_long_or_no_text_are_refused() {
    let mut scene = Scene::with(100, sidecar()).await;
    let get = |target: &[u8], headers: &[u8]| [b"GET ", target, b" HTTP/1.1\r\nhost: x\r\n", headers, b"\r\n"].concat();
    let long = vec![b'7'; 4 << 20];
    let many = b"x-y: z\r\n".repeat(100_000);
    let requests: Vec<Vec<u8>> = vec![
        get(&[b"/events?start_from=", &long[..]].concat(), b""),
        get(&[b"/events?start_from=", &long[..5_000]].concat(), b""),
        get(&[b"/", &long[..]].concat(), b""),
        get(b"/events", &[b"last-event-id: ", &long[..], b"\r\n"].concat()),
        get(b"/events", &many),
        get(&[b"/events?", &b"types=Step&".repeat(1_000)[..], b"types=x"].concat(), b""),
        get(b"/events?start_from=\xff\xfe", b""),
        get(b"/\xc3\x28", b""),
        get(b"/events?start_from=%ff%fe", b""),
        get(b"/events?%ff=%fe", b""),
        get(b"/events?types=%00", b""),
        b"GET /events HTTP/9.9\r\n\r\n".to_vec(),
        b"\xff\xfe\xfd\xfc\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\xff\xff\x04\0\0\0\0\0".to_vec(),
        [b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 4194304\r\n\r\n", &long[..]].concat(),
        b"POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec(),
    ];
    for request in &requests {
        let answer = answer_to(scene.address(), request).await;
        let status = answer.get(9..12).unwrap_or("cut").to_owned();
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        let is_http1 = answer.starts_with("HTTP/1.1");
        assert!(!is_http1 || status.starts_with('4'), "{status} for {shown:?}");
    }
    // An id that is none is not a reason to refuse a client.
    for header in [&b"last-event-id: \xff\xfe\r\n"[..], b"last-event-id: 99999999999999999999\r\n"] {
        let mut stream = TcpStream::connect(scene.address()).await.unwrap();
        stream.write_all(&get(b"/events", header)).await.unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
    }
    scene.all_is_well().await;
    scene.memory_is_bounded("requests that are too long");
}

#[tokio::test]
async fn with_few_descriptors_clients_cost_neither_the_log_nor_health_nor_clients_with_a_place() {
    let builder = sidecar().rest_api().admin_api().open_files_max(60);
    let builder = builder.sections("[storage.log]\nsegment_bytes_max = 1_048_576\n");
    let mut scene = Scene::with(100, builder).await;
    let request = b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut crowd = connections(scene.address(), 80, request).await;
    crowd.extend(connections(scene.sidecar.rest_address(), 40, b"GET /blo").await);
    crowd.extend(connections(scene.sidecar.admin_address(), 20, b"GET /hea").await);
    let segments = |sidecar: &Sidecar| {
        let entries = std::fs::read_dir(sidecar.storage_path().join("logs/casper")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|is| is == "segment")).count()
    };
    let before = segments(&scene.sidecar);
    while segments(&scene.sidecar) < before + 3 {
        let next = scene.told + 2_000;
        scene.node.push_all((scene.told..next).map(|number| scene.story.payload(number)));
        scene.expect(scene.told..next).await;
        scene.told = next;
        let health = Request::get(scene.sidecar.admin_address(), "/health").answer().await;
        assert_eq!((health.status, health.body.as_str()), (200, "live"));
    }
    drop(crowd);
    let admin = scene.sidecar.admin_address();
    until(PATIENCE, "the crowd's connections are closed", async || {
        get(admin, "/status").await.json()["logs"][0]["streams"]["connections"] == 1
    })
    .await;
    // A client that has a place reads all segments, and more are written meanwhile.
    newcomer(scene.address()).await.read_until_id(scene.told - 1).await;
    scene.all_is_well().await;
    let output = scene.sidecar.output();
    assert!(output.contains("raise the limit of open files"), "{output}");
    assert!(output.matches("connections are refused").count() <= 3, "{output}");
    for never in ["Too many open files", "the log is closed"] {
        assert!(!output.contains(never), "{output}");
    }
}

/// Clients that ask for large answers and take nothing: others have their turns, and middling answers do not wait.
#[tokio::test]
async fn answers_that_are_not_read_stop_no_other_answer() {
    const UNREAD: usize = 20;
    let node = SimulatedNode::start();
    let builder = sidecar().node(node.address()).rest_api();
    let builder = builder.replacing("max_concurrent_requests = 50", "max_concurrent_requests = 3");
    let sidecar = builder.start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    node.push(story::of_size(20_000_000, 0).payload);
    let last = node.push(story::of_size(500_000, 1).payload);
    live.read_until_id(last).await;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(sidecar.rest_address()).await.unwrap();
        stream.write_all(b"GET /events/0 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        unread.push(stream);
    }
    let begun = std::time::Instant::now();
    for (target, bytes_min) in [("/status", 10), ("/nothing", 10), ("/events/1", 500_000), ("/api-doc.json", 10_000)] {
        let answer = Request::get(sidecar.rest_address(), target).answer().await;
        assert!(answer.body.len() > bytes_min, "{target}: {}", answer.body.len());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(unread);
}

/// What is answered until the connection ends or falls silent.
async fn answer_to(address: SocketAddr, request: &[u8]) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    let (mut reader, mut writer) = socket.connect(address).await.unwrap().into_split();
    let request = request.to_vec();
    // Who is refused early is not read to the end.
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&request).await;
        let _ = writer.shutdown().await;
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut answer)).await.expect("it ends");
    writing.abort();
    String::from_utf8_lossy(&answer).into_owned()
}
