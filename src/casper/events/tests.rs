//! The server over real sockets, with a real log behind it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidecar_log_format::{ApiVersion, Head, Kind, Log, storage::Directory};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, advance},
};
use tower::ServiceExt;

use super::*;
use crate::{
    casper::event::{BLOCK_ADDED, FAULT, STEP, TRANSACTION_ACCEPTED, TRANSACTION_PROCESSED},
    engine::{
        http::ListenOptions,
        stream::{
            LOG_HEADER, RETAINED_RANGE_HEADER, ReplayChunks, Resources,
            written::{VERSION_FRAME, Written, frame, frames, payload, version},
        },
    },
};

fn port() -> PortOptions {
    PortOptions { listen: ListenOptions::on(Ipv4Addr::LOCALHOST), ..PortOptions::default() }
}

fn options() -> Options {
    Options { port: port(), ..Options::default() }
}

/// With another port's options.
fn on(port: PortOptions) -> Options {
    Options { port, ..options() }
}

fn hub(log: &Log, committed: watch::Receiver<Head>) -> Arc<Hub> {
    Arc::new(Hub::new(log.clone(), committed, Arc::new(Resources::new(2)), READER_CLASSES))
}

/// A server that runs until it is dropped.
struct Running {
    address: SocketAddr,
    hub: Arc<Hub>,
    counters: Arc<PortCounters>,
    cancel: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(written: &Written, options: Options) -> Running {
        let hub = hub(&written.log, written.committed.subscribe());
        let server = Server::bind(options, Arc::clone(&hub)).unwrap();
        let (address, counters) = (server.front().local_addr(), Arc::clone(server.counters()));
        let (cancel, cancelled) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async {
            let _ = cancelled.await;
        }));
        Running { address, hub, counters, cancel: Some(cancel), task }
    }

    async fn get(&self, target: &str) -> Response {
        self.get_with(target, "").await
    }

    async fn get_with(&self, target: &str, headers: &str) -> Response {
        self.request(&format!("GET {target} HTTP/1.1\r\nhost: sidecar\r\n{headers}\r\n")).await
    }

    async fn request(&self, request: &str) -> Response {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).await.unwrap(), 0, "cut off in the head: {head:?}");
        }
        Response { head, reader, read: Vec::new() }
    }

    async fn stop(&mut self) {
        drop(self.cancel.take());
        (&mut self.task).await.unwrap();
    }
}

/// A response whose chunks are read one by one.
struct Response {
    head: String,
    reader: BufReader<TcpStream>,
    read: Vec<u8>,
}

impl Response {
    fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The next chunk; `None` for the last. What never comes fails the test instead of hanging it.
    async fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        tokio::time::timeout(Duration::from_secs(10), self.read_chunk()).await?
    }

    async fn read_chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = String::new();
        self.reader.read_line(&mut line).await?;
        let length = usize::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk).await?;
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    async fn read_until(&mut self, end: &str) -> String {
        while !self.read.ends_with(end.as_bytes()) {
            let chunk = self.chunk().await.unwrap().expect("the stream goes on");
            self.read.extend_from_slice(&chunk);
        }
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    async fn read_until_id(&mut self, id: u64) -> String {
        self.read_until(&format!("\nid:{id}\n\n")).await
    }

    async fn read_to_end(&mut self) -> Vec<u8> {
        while let Some(chunk) = self.chunk().await.unwrap() {
            self.read.extend_from_slice(&chunk);
        }
        std::mem::take(&mut self.read)
    }

    async fn text_to_end(&mut self) -> String {
        String::from_utf8(self.read_to_end().await).unwrap()
    }

    async fn fixed_body(&mut self) -> String {
        let length = self.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap()
    }
}

const UNKNOWN_PATH: &str = "invalid path: expected '/events' or '/events/sidecar'\n";
const BAD_QUERY: &str = "invalid query: expected single field 'start_from=<EVENT ID>'\n";
const FULL: &str = "server has reached limit of subscribers";

#[tokio::test]
async fn refusals_have_the_references_status_body_and_headers() {
    let written = Written::steps(3);
    let running = Running::start(&written, options());
    assert_eq!((BAD_QUERY.len(), FULL.len()), (61, 39));
    let paths = ["//events", "/events//", "/Events", "/events/%6dain", "/events/main", "/a/b/c", "/events/sigs"];
    for path in paths {
        let mut response = running.get(path).await;
        assert_eq!((response.status(), response.fixed_body().await.as_str()), (404, UNKNOWN_PATH), "{path}");
        assert_eq!(response.header("content-type"), None);
        assert!(response.header("date").is_some());
    }
    let queries = [
        "start_from=",
        "start_from",
        "start_from=-1",
        "start_from=18446744073709551616",
        "start_from=abc",
        "start_from=+",
        "start_from=+1",
        "start_from=1&start_from=x",
    ];
    for query in queries {
        let mut response = running.get(&format!("/events?{query}")).await;
        assert_eq!((response.status(), response.fixed_body().await.as_str()), (422, BAD_QUERY), "{query}");
        assert_eq!(response.header("content-type"), None);
    }
    let types = "invalid query: expected 'types=' with any of ApiVersion, BlockAdded, TransactionAccepted, \
                 TransactionExpired, TransactionProcessed, Fault, FinalitySignature, Step, Other, Shutdown\n";
    for (query, body) in [
        ("until=x", "invalid query: expected 'until=<EVENT ID>'\n"),
        ("encoding=gzip", "invalid query: expected 'encoding=zstd' or 'encoding=identity'\n"),
        ("types=Step,Stop", types),
        ("types=", types),
        ("types=Step&types=Stop", types),
        ("until=5&until=5", "invalid query: `until` is given more than once; give it once\n"),
        ("since=yesterday", "invalid query: expected 'since=<RFC 3339 TIME>', for instance 2026-01-31T12:00:00Z\n"),
        (
            "log=casper",
            "invalid query: expected 'log=<LOG ID>' as the header sidecar-log has it, with or without its epoch\n",
        ),
    ] {
        let mut response = running.get(&format!("/events?{query}")).await;
        assert_eq!((response.status(), response.fixed_body().await.as_str()), (422, body), "{query}");
    }
    for query in ["other=1", "start_from=1&other=1", "until=1&=", "Start_from=1"] {
        let mut response = running.get(&format!("/events?{query}")).await;
        assert_eq!(response.status(), 422, "{query}");
        let body = response.fixed_body().await;
        for field in ["start_from", "until", "since", "types", "encoding", "log", "lastEventId"] {
            assert!(body.contains(&format!("'{field}=")), "{field} is missing in {body}");
        }
    }
}

#[tokio::test]
async fn every_method_but_get_and_head_is_an_unknown_path() {
    let written = Written::steps(3);
    let running = Running::start(&written, options());
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} /events HTTP/1.1\r\nhost: sidecar\r\ncontent-length: 0\r\n\r\n");
        let mut response = running.request(&request).await;
        assert_eq!((response.status(), response.fixed_body().await.as_str()), (404, UNKNOWN_PATH), "{method}");
    }
}

/// The lines of a response's head that GET and HEAD have in common, sorted.
fn of_head(head: &str) -> String {
    const OTHERS: [&str; 3] = ["date", "connection", "transfer-encoding"];
    let mut lines: Vec<&str> =
        head.lines().filter(|line| !OTHERS.iter().any(|other| line.starts_with(other))).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_opens_no_stream() {
    let written = Written::steps(3);
    let running = Running::start(&written, on(PortOptions { streams_max: 1, ..port() }));
    for target in ["/events", "/events?start_from=1", "/events/sidecar", "/events?bad=1", "/nothing", "/"] {
        let get = running.get(target).await;
        let wanted = of_head(&get.head);
        drop(get);
        while running.counters.open_streams.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        let opened = running.hub.counters().streams_opened.get();
        let request = format!("HEAD {target} HTTP/1.1\r\nhost: sidecar\r\nconnection: close\r\n\r\n");
        let mut head = running.request(&request).await;
        assert_eq!(of_head(&head.head), wanted, "{target}");
        let mut body = Vec::new();
        head.reader.read_to_end(&mut body).await.unwrap();
        assert_eq!(body, b"", "{target}");
        let now_opened = running.hub.counters().streams_opened.get();
        assert_eq!(now_opened, opened, "{target}");
    }
}

#[tokio::test]
async fn the_root_lists_what_is_there() {
    let written = Written::steps(3);
    let running = Running::start(&written, options());
    let mut root = running.get("/").await;
    let body = root.fixed_body().await;
    assert!(root.status() == 200 && body.contains("/events?start_from=0") && body.lines().count() == 1, "{body}");
    let options = running.request("OPTIONS / HTTP/1.1\r\nhost: sidecar\r\n\r\n").await;
    assert_eq!((options.status(), options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
}

#[tokio::test]
async fn a_preflight_succeeds_for_get_with_any_header() {
    let written = Written::steps(3);
    let running = Running::start(&written, options());
    let preflight = async |headers: &str| {
        let head = "OPTIONS /events HTTP/1.1\r\nhost: sidecar\r\norigin: http://a\r\naccess-control-request-";
        running.request(&format!("{head}{headers}\r\n\r\n")).await
    };
    for headers in [
        "method: GET",
        "method: GET\r\naccess-control-request-headers: last-event-id",
        "method: GET\r\naccess-control-request-headers: cache-control,Last-Event-ID, authorization",
    ] {
        let response = preflight(headers).await;
        assert_eq!(response.status(), 204, "{headers}");
        assert_eq!(response.header("access-control-allow-origin"), Some("http://a"));
        assert_eq!(response.header("access-control-allow-methods"), Some("GET, HEAD"));
        let wanted = headers.split_once("headers: ").map(|(_, wanted)| wanted);
        assert_eq!(response.header("access-control-allow-headers"), wanted);
    }
    for headers in ["method: POST", "headers: last-event-id"] {
        let mut response = preflight(headers).await;
        assert_eq!(response.status(), 403, "{headers}");
        assert_eq!(response.fixed_body().await, "CORS request forbidden: request-method not allowed");
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(response.header("access-control-allow-methods"), None);
    }
}

#[tokio::test]
async fn every_origin_may_read_streams_and_refusals() {
    let written = Written::steps(3);
    let running = Running::start(&written, options());
    for (target, status) in
        [("/events", 200), ("/none", 404), ("/events?x=1", 422), ("/events?start_from=2&until=1", 204)]
    {
        let response = running.get_with(target, "origin: http://a\r\n").await;
        assert_eq!(response.status(), status);
        assert_eq!(response.header("access-control-allow-origin"), Some("http://a"), "{target}");
        let exposed = response.header("access-control-expose-headers").unwrap_or_default();
        let is_about_ids = status < 300;
        for name in [LOG_HEADER, RETAINED_RANGE_HEADER] {
            assert_eq!(exposed.split(", ").any(|exposed| exposed == name), is_about_ids, "{target}: {exposed}");
        }
    }
    let response = running.get("/events").await;
    for name in ["access-control-allow-origin", "access-control-expose-headers"] {
        assert_eq!(response.header(name), None);
    }
}

const LOG: &str = "07070707070707070707070707070707";

#[tokio::test]
async fn a_client_that_names_another_log_is_refused() {
    let written = Written::steps(3);
    let running = Running::start(&written, options());
    let name = running.get("/events").await.header(LOG_HEADER).unwrap().to_owned();
    let epoch = written.log.head().epoch;
    assert_eq!(name, format!("{LOG};epoch={epoch}"));
    for same in [LOG, &name, &name.replace(';', "%3B")] {
        let mut client = running.get(&format!("/events?start_from=1&until=2&log={same}")).await;
        assert_eq!(client.text_to_end().await, format!("{VERSION_FRAME}{}", frames(1..3)), "{same}");
    }
    for other in [LOG.replace("07", "08"), format!("{LOG};epoch={}", epoch + 1)] {
        let mut refused = running.get(&format!("/events?start_from=1&log={other}")).await;
        assert_eq!((refused.status(), refused.header(LOG_HEADER)), (409, Some(name.as_str())));
        let body = refused.fixed_body().await;
        assert!(body.starts_with(&format!("this log is {name}, not {other}: ")) && body.ends_with('\n'), "{body}");
    }
}

#[tokio::test]
async fn a_client_that_is_ahead_of_the_log_is_notified_once_and_gets_what_comes() {
    let mut written = Written::steps(3);
    let running = Running::start(&written, options());
    let comment = |start: u64| {
        format!(":the newest event of this log is 2, before the start {start}; the stream continues with event 3\n\n")
    };
    let mut clients = Vec::new();
    for (target, header, start) in [
        ("/events?start_from=4", "", Some(4)),
        ("/events", "last-event-id: 99999\r\n", Some(100_000)),
        ("/events?lastEventId=3&start_from=0", "", Some(4)),
        ("/events?start_from=4&types=Step", "", Some(4)),
        ("/events?start_from=3", "", None),
        ("/events", "last-event-id: 2\r\n", None),
        ("/events", "", None),
    ] {
        let mut client = running.get_with(target, header).await;
        let expected = format!("{}{VERSION_FRAME}", start.map(comment).unwrap_or_default());
        assert_eq!(client.read_until(VERSION_FRAME).await, expected, "{target} {header}");
        clients.push(client);
    }
    written.append_steps(1);
    written.commit();
    for client in &mut clients {
        assert_eq!(client.read_until_id(3).await, frame(3));
    }
    let empty = Written::new();
    let mut client = Running::start(&empty, options()).get("/events?start_from=5").await;
    let comment = ":this log has no events yet, before the start 5; the stream continues with event 0\n\n";
    assert_eq!(client.read_until("\n\n").await, comment);
}

#[tokio::test]
async fn a_list_that_is_given_twice_counts_as_one() {
    let mut written = Written::new();
    written.announce(version(2, 0));
    for (kind, payload) in [(STEP, "0"), (FAULT, "1"), (Kind::OTHER, "2")] {
        written.append(kind, payload);
    }
    written.commit();
    let running = Running::start(&written, options());
    let mut client = running.get("/events?start_from=0&types=Step&types=Fault&until=1").await;
    assert_eq!(client.text_to_end().await, format!("{VERSION_FRAME}data:0\nid:0\n\ndata:1\nid:1\n\n"));
}

#[tokio::test]
async fn since_starts_with_the_first_event_received_then_or_later() {
    let mut written = Written::new();
    written.announce(version(2, 0));
    const SECOND: u64 = 1_000_000;
    for number in 0..100 {
        written.append_received(STEP, &payload(number), number * SECOND);
    }
    written.commit();
    let running = Running::start(&written, options());
    for (query, start) in [
        ("since=1970-01-01T00:00:00Z", 0),
        ("since=1970-01-01T00:00:41.5Z", 42),
        ("since=1970-01-01T00:00:42Z&start_from=7", 42),
        ("since=1970-01-01T01:00:42%2B01:00&start_from=70", 70),
        ("since=1970-01-01T00:00:42Z&lastEventId=50", 51),
    ] {
        let mut client = running.get(&format!("/events?{query}&until=99")).await;
        assert_eq!(client.text_to_end().await, format!("{VERSION_FRAME}{}", frames(start..100)), "{query}");
    }
    // Nothing was received so late: what comes next is the first.
    let mut client = running.get("/events?since=2026-01-01T00:00:00Z").await;
    client.read_until(VERSION_FRAME).await;
    written.append_steps(1);
    written.commit();
    assert_eq!(client.read_until_id(100).await, frame(100));
}

#[tokio::test]
async fn the_limit_of_subscribers_comes_before_path_and_query_and_a_closed_stream_makes_room() {
    let mut written = Written::steps(3);
    let running = Running::start(&written, on(PortOptions { streams_max: 2, ..port() }));
    let first = running.get("/events").await;
    let second = running.get("/events/sidecar").await;
    assert_eq!((first.status(), second.status()), (200, 200));
    for target in ["/events", "/events/nothing", "/events/nothing/", "/events?bad=1"] {
        let mut response = running.get(target).await;
        assert_eq!((response.status(), response.fixed_body().await.as_str()), (503, FULL), "{target}");
        assert_eq!(response.header("retry-after"), Some("5"));
    }
    for target in ["/nothing", "/Events", "/event/sidecar", "/eventss", "/events/a/b", "/a/b/c", "//events"] {
        let mut response = running.get(target).await;
        assert_eq!((response.status(), response.fixed_body().await.as_str()), (404, UNKNOWN_PATH), "{target}");
    }
    assert_eq!(running.request("POST /events HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await.status(), 404);
    drop(first);
    while running.get("/events").await.status() != 200 {
        written.append_steps(1);
        written.commit();
    }
}

#[tokio::test]
async fn a_stream_has_the_references_headers_and_the_retained_range() {
    let written = Written::steps(100);
    let running = Running::start(&written, Options { zstd: ZstdPassThrough::Off, ..options() });
    for path in ["/events", "/events/", "/events/events", "/events/events/", "/events?", "/events?&"] {
        let response = running.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        let mut headers: Vec<_> =
            response.head.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        headers.sort_unstable();
        let of_the_reference = ["cache-control", "content-type", "date", "transfer-encoding"];
        let ours = [LOG_HEADER, RETAINED_RANGE_HEADER, "vary", "x-accel-buffering"];
        let mut expected = [&of_the_reference[..], &ours].concat();
        expected.sort_unstable();
        assert_eq!(headers, expected);
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        assert_eq!(response.header("cache-control"), Some("no-cache"));
        assert_eq!(response.header(RETAINED_RANGE_HEADER), Some("0-99"));
    }
    for path in ["/events/sidecar", "/events/sidecar/"] {
        assert_eq!(running.get(path).await.header(RETAINED_RANGE_HEADER), None);
    }
}

#[tokio::test]
async fn every_start_replays_from_there_and_continues_live() {
    let mut written = Written::steps(1_000);
    for replay_chunks in [ReplayChunks::Event, ReplayChunks::Block] {
        let running = Running::start(&written, on(PortOptions { replay_chunks, ..port() }));
        let mut clients = Vec::new();
        let next = written.log.head().next_sequence;
        for start in [0, 1, 7, 500, next - 1, next, next + 5, u64::MAX] {
            clients.push((start.min(next), running.get(&format!("/events?start_from=%2B0{start}")).await));
        }
        clients.push((next, running.get("/events").await));
        for (_, client) in &mut clients {
            let text = client.read_until(VERSION_FRAME).await;
            assert!(text == VERSION_FRAME || text.starts_with(":the newest event of this log is "), "{text}");
        }
        written.append_steps(3);
        written.commit();
        for (start, client) in &mut clients {
            assert_eq!(client.read_until_id(next + 2).await, frames(*start..next + 3));
        }
    }
}

#[tokio::test]
async fn one_event_is_one_chunk_unless_blocks_are_asked_for() {
    let written = Written::steps(500);
    let running = Running::start(&written, options());
    let mut client = running.get("/events?start_from=3&until=400").await;
    assert_eq!(client.chunk().await.unwrap().unwrap(), VERSION_FRAME.as_bytes());
    for number in 3..=400 {
        assert_eq!(client.chunk().await.unwrap().unwrap(), frame(number).as_bytes());
    }
    assert_eq!(client.chunk().await.unwrap(), None);

    let running = Running::start(&written, on(PortOptions { replay_chunks: ReplayChunks::Block, ..port() }));
    let mut client = running.get("/events?start_from=3&until=400").await;
    let mut chunks = 0;
    while let Some(chunk) = client.chunk().await.unwrap() {
        assert!(chunk.len() <= 16 << 10);
        client.read.extend_from_slice(&chunk);
        chunks += 1;
    }
    assert!(chunks < 60, "{chunks}");
    assert_eq!(String::from_utf8(client.read).unwrap(), format!("{VERSION_FRAME}{}", frames(3..401)));
}

#[tokio::test]
async fn the_later_of_start_from_and_last_event_id_wins() {
    let written = Written::steps(50);
    let running = Running::start(&written, options());
    for (query, header, start) in [
        ("?start_from=10&", "last-event-id: 20\r\n", 21),
        ("?start_from=30&", "last-event-id: 20\r\n", 30),
        ("?", "last-event-id: 20\r\n", 21),
        ("?start_from=10&", "last-event-id: x\r\n", 10),
        ("?start_from=10&", "last-event-id: \r\n", 10),
        ("?start_from=10&", "last-event-id: 18446744073709551616\r\n", 10),
        ("?start_from=10&", "last-event-id: -1\r\n", 10),
    ] {
        let mut client = running.get_with(&format!("/events{query}until=49"), header).await;
        assert_eq!(client.text_to_end().await, format!("{VERSION_FRAME}{}", frames(start..50)), "{query} {header}");
    }
}

#[tokio::test]
async fn until_ends_the_stream_and_a_reconnect_past_it_gets_no_content() {
    let mut written = Written::steps(50);
    let running = Running::start(&written, options());
    let mut replay = running.get("/events?start_from=48&until=48").await;
    assert_eq!(replay.text_to_end().await, format!("{VERSION_FRAME}{}", frames(48..49)));
    let mut live = running.get("/events?start_from=48&until=51").await;
    written.append_steps(5);
    written.commit();
    assert_eq!(live.text_to_end().await, format!("{VERSION_FRAME}{}", frames(48..52)));
    for (target, header) in [
        ("/events?start_from=48&until=51", "last-event-id: 51\r\n"),
        ("/events?start_from=52&until=51", ""),
        ("/events?until=51", ""),
        ("/events?start_from=999&until=998", ""),
    ] {
        let response = running.get_with(target, header).await;
        assert_eq!((response.status(), response.header("content-type")), (204, None), "{target}");
    }
}

#[tokio::test]
async fn types_select_events_and_versions_and_shutdowns_always_pass() {
    let mut written = Written::new();
    written.announce(version(2, 0));
    written.append(STEP, "0");
    written.append(FAULT, "1");
    written.append(SHUTDOWN, "\"Shutdown\"");
    written.append(Kind::OTHER, "3");
    written.announce(version(2, 1));
    written.append(STEP, "4");
    written.append(FAULT, "5");
    written.append(STEP, "6");
    written.commit();
    let running = Running::start(&written, options());
    let mut client = running.get("/events?start_from=0&until=6&types=Fault").await;
    let expected = "data:{\"ApiVersion\":\"2.0.0\"}\n\ndata:1\nid:1\n\ndata:\"Shutdown\"\nid:2\n\n\
                    data:{\"ApiVersion\":\"2.1.0\"}\n\ndata:5\nid:5\n\nid:6\n\n";
    assert_eq!(client.text_to_end().await, expected);
    let mut client = running.get("/events?start_from=0&until=4&types=Step,Fault,ApiVersion,Shutdown").await;
    let expected = "data:{\"ApiVersion\":\"2.0.0\"}\n\ndata:0\nid:0\n\ndata:1\nid:1\n\ndata:\"Shutdown\"\nid:2\n\n\
                    data:{\"ApiVersion\":\"2.1.0\"}\n\ndata:4\nid:4\n\n";
    assert_eq!(client.text_to_end().await, expected);
}

#[tokio::test]
async fn a_filtered_stream_sends_its_position_once_it_has_passed_many_events() {
    let mut written = Written::steps(25_000);
    let number = written.append(FAULT, "found");
    written.commit();
    let running = Running::start(&written, options());
    let mut client = running.get("/events?start_from=0&types=Fault").await;
    let text = client.read_until_id(number).await;
    let marks: Vec<u64> = text.split("\n\n").filter_map(|message| message.strip_prefix("id:")?.parse().ok()).collect();
    assert_eq!(marks.len(), 2);
    assert!(marks.iter().zip([10_000, 20_000]).all(|(mark, about)| mark.abs_diff(about) < 200), "{marks:?}");
    assert_eq!(text.split("\n\n").filter(|message| message.starts_with("data:")).count(), 2);
}

#[tokio::test]
async fn zstd_streams_decode_to_the_identity_stream() {
    let mut written = Written::with(|options| options.block_bytes_max = 300 << 10);
    written.announce(version(2, 0));
    written.append_steps(3_000);
    written.announce(version(2, 1));
    written.append_steps(3_000);
    written.commit();
    written.append_steps(5);
    written.commit();
    let running = Running::start(&written, options());
    for start in [0, 1, 2_000, 2_999, 3_000, 3_001, 6_000, 6_004] {
        for until in
            [start, start + 10, 2_999, 3_000, 5_000, 6_004].into_iter().filter(|until| (start..=6_004).contains(until))
        {
            let target = format!("/events?start_from={start}&until={until}");
            let identity = running.get(&target).await.text_to_end().await;
            let mut compressed = running.get_with(&target, "accept-encoding: zstd\r\n").await;
            assert_eq!(compressed.header("content-encoding"), Some("zstd"));
            let bytes = compressed.read_to_end().await;
            assert!(until - start < 100 || bytes.len() < identity.len() / 2);
            assert_eq!(String::from_utf8(zstd::decode_all(&bytes[..]).unwrap()).unwrap(), identity, "{target}");
        }
    }
    // All of it in stored blocks is as small as the log.
    let whole =
        running.get_with("/events?start_from=0&until=5999", "accept-encoding: zstd\r\n").await.read_to_end().await;
    let block = written.log.read_stored(0).unwrap().unwrap();
    assert_eq!(whole[..block.frame.len()], block.frame[..]);
}

#[tokio::test]
async fn zstd_continues_live() {
    let mut written = Written::steps(10);
    let running = Running::start(&written, options());
    let mut client = running.get("/events?encoding=zstd&until=14").await;
    let first = client.chunk().await.unwrap().unwrap();
    assert_eq!(zstd::decode_all(&first[..]).unwrap(), VERSION_FRAME.as_bytes());
    written.append_steps(1);
    written.commit();
    let second = client.chunk().await.unwrap().unwrap();
    assert_eq!(zstd::decode_all(&second[..]).unwrap(), frame(10).as_bytes());
    written.append_steps(10);
    written.commit();
    assert_eq!(zstd::decode_all(&client.read_to_end().await[..]).unwrap(), frames(11..15).as_bytes());
}

#[tokio::test]
async fn zstd_is_for_clients_that_name_it_as_the_mode_requires() {
    let written = Written::steps(10);
    let asks = [
        ("/events", "accept-encoding: zstd\r\n", [true, true, false]),
        ("/events", "accept-encoding: ZSTD;q=0.5\r\n", [true, true, false]),
        ("/events", "accept-encoding: gzip, zstd\r\n", [false, true, false]),
        ("/events", "accept-encoding: gzip\r\naccept-encoding: zstd\r\n", [false, true, false]),
        ("/events", "accept-encoding: zstd;q=0\r\n", [false, false, false]),
        ("/events", "accept-encoding: gzip, br\r\n", [false, false, false]),
        ("/events", "", [false, false, false]),
        ("/events?encoding=zstd", "", [true, true, false]),
        ("/events?encoding=identity", "accept-encoding: zstd\r\n", [false, false, false]),
        ("/events?types=Step", "accept-encoding: zstd\r\n", [false, false, false]),
        ("/events/sidecar", "accept-encoding: zstd\r\n", [false, false, false]),
    ];
    for (column, zstd) in [ZstdPassThrough::Sole, ZstdPassThrough::Any, ZstdPassThrough::Off].into_iter().enumerate() {
        let running = Running::start(&written, Options { zstd, ..options() });
        for (target, header, encoded) in asks {
            let response = running.get_with(target, header).await;
            let wanted = encoded[column].then_some("zstd");
            assert_eq!(response.header("content-encoding"), wanted, "{zstd:?} {target} {header}");
            let vary = if zstd == ZstdPassThrough::Off { "accept" } else { "accept, accept-encoding" };
            assert_eq!(response.header("vary"), (!target.contains("sidecar")).then_some(vary));
        }
    }
}

#[tokio::test]
async fn the_sidecar_endpoint_sends_its_version_then_shutdowns() {
    let mut written = Written::steps(10);
    written.append(SHUTDOWN, "\"Shutdown\"");
    written.append_steps(5);
    written.commit();
    let running = Running::start(&written, Options { sidecar_version: "1.2.3".into(), ..options() });
    let mut all = running.get("/events/sidecar?start_from=0").await;
    let greeting = "data:{\"SidecarVersion\":\"1.2.3\"}\n\n";
    let expected = format!("{greeting}data:\"Shutdown\"\nid:10\n\n");
    assert_eq!(all.read_until_id(10).await, expected);
    let mut live = running.get("/events/sidecar").await;
    assert_eq!(live.read_until(greeting).await, greeting);
    written.announce(version(3, 0));
    written.append(SHUTDOWN, "\"Shutdown\"");
    written.commit();
    assert_eq!(all.read_until_id(16).await, "data:\"Shutdown\"\nid:16\n\n");
    assert_eq!(live.read_until_id(16).await, "data:\"Shutdown\"\nid:16\n\n");

    let mut events = running.get("/events").await;
    running.hub.say_farewell();
    assert_eq!(all.chunk().await.unwrap().unwrap(), b"data:\"Shutdown\"\n\n");
    assert_eq!(live.chunk().await.unwrap().unwrap(), b"data:\"Shutdown\"\n\n");
    written.append_steps(1);
    written.commit();
    assert_eq!(events.read_until_id(17).await, format!("data:{{\"ApiVersion\":\"3.0.0\"}}\n\n{}", frame(17)));
}

#[tokio::test]
async fn what_is_missing_is_named_in_a_comment() {
    let mut written = Written::steps(1_000);
    written.writer.seal_now(2_000_000).unwrap();
    written.append_steps(1_000);
    written.commit();
    written.writer.maintenance().drop_before(1_000).unwrap();
    let oldest = written.log.oldest();
    assert_eq!(oldest, 1_000);
    let running = Running::start(&written, options());
    let mut client = running.get(&format!("/events?start_from=3&until={oldest}")).await;
    assert_eq!(client.header(RETAINED_RANGE_HEADER), Some(format!("{oldest}-1999").as_str()));
    let gap = oldest - 1;
    let expected = format!(
        ":events 3 to {gap} are missing: older than the oldest retained event\n\n{VERSION_FRAME}{}",
        frame(oldest)
    );
    assert_eq!(client.text_to_end().await, expected);
}

#[tokio::test]
async fn a_damaged_block_is_named_and_passed_also_in_zstd() {
    let written = Written::steps(2_000);
    let directory = written.directory.path();
    let mut segments: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    // What follows is preallocated.
    let middle = bytes.iter().rposition(|&byte| byte != 0).unwrap() / 2;
    bytes[middle..middle + 64].fill(0xff);
    std::fs::write(&segments[0], bytes).unwrap();
    let log = Log::open(Arc::new(Directory::at(directory)), Default::default()).unwrap();
    let (_committed, watched) = watch::channel(log.head());
    let hub = hub(&log, watched);
    let server = Server::bind(options(), Arc::clone(&hub)).unwrap();
    let (address, counters) = (server.front().local_addr(), Arc::clone(server.counters()));
    let task = tokio::spawn(server.run(std::future::pending()));
    let running = Running { address, hub, counters, cancel: None, task };
    let text = running.get("/events?start_from=0&until=1999").await.text_to_end().await;
    let comment = text.split("\n\n").find(|message| message.starts_with(":events ")).unwrap();
    let range: Vec<u64> = comment.split(' ').filter_map(|word| word.parse().ok()).collect();
    let expected = format!("{VERSION_FRAME}{}{comment}\n\n{}", frames(0..range[0]), frames(range[1] + 1..2_000));
    assert!(text == expected);
    let zstd = running.get("/events?start_from=0&until=1999&encoding=zstd").await.read_to_end().await;
    assert!(zstd::decode_all(&zstd[..]).unwrap() == text.as_bytes());
    let ndjson = "accept: application/x-ndjson\r\n";
    let lines = running.get_with("/events?start_from=0&until=1999", ndjson).await.text_to_end().await;
    let missing =
        format!("{{\"missing\":{{\"from\":{},\"to\":{},\"why\":\"stored and damaged\"}}}}\n", range[0], range[1]);
    assert!(lines.contains(&missing) && lines.lines().count() as u64 == 2_001 + range[0] - range[1]);
    running.task.abort();
}

#[tokio::test]
async fn large_events_are_streamed_in_every_form() {
    let mut written = Written::with(|options| options.read.cache_bytes = 1 << 20);
    written.announce(version(2, 0));
    let large: String = (0..400_000u64).map(|number| format!("{:x}", number * 2_654_435_761 % 4096)).collect();
    assert!(large.len() > 1 << 20);
    let medium = &large[..200_000];
    let mut expected = VERSION_FRAME.to_owned();
    for (number, payload) in [medium, &large, "small", &large, &large].into_iter().enumerate() {
        written.append(if number == 3 { FAULT } else { STEP }, payload);
        expected.push_str(&format!("data:{payload}\nid:{number}\n\n"));
    }
    written.commit();
    for replay_chunks in [ReplayChunks::Event, ReplayChunks::Block] {
        let running = Running::start(&written, on(PortOptions { replay_chunks, ..port() }));
        // More clients than decoders that are kept open, half-way at the same time.
        let mut clients = Vec::new();
        for _ in 0..12 {
            clients.push(running.get("/events?start_from=0&until=4").await);
        }
        for client in &mut clients {
            assert_eq!(client.text_to_end().await, expected);
        }
        let zstd = running.get("/events?start_from=0&until=4&encoding=zstd").await.read_to_end().await;
        assert_eq!(zstd::decode_all(&zstd[..]).unwrap(), expected.as_bytes());
        let mut faults = running.get("/events?start_from=0&until=4&types=Fault").await;
        assert_eq!(faults.text_to_end().await, format!("{VERSION_FRAME}data:{large}\nid:3\n\nid:4\n\n"));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_its_place() {
    let mut written = Written::with(|options| options.read.cache_bytes = 64 << 10);
    written.announce(version(2, 0));
    written.commit();
    let running = Running::start(&written, options());
    let mut slow = running.get("/events").await;
    assert_eq!(slow.read_until(VERSION_FRAME).await, VERSION_FRAME);
    for _ in 0..500 {
        written.append_steps(100);
        written.commit();
        tokio::task::yield_now().await;
    }
    // 10 MB are more than the sockets hold, and the cache forgot them long ago.
    assert_eq!(slow.read_until_id(49_999).await, frames(0..50_000));
}

/// Everything on one thread, and one more for what blocks.
#[test]
fn one_thread_serves_many_replays_while_the_log_grows() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut written = Written::with(|options| options.read.cache_bytes = 64 << 10);
        written.announce(version(2, 0));
        written.append_steps(3_000);
        written.commit();
        let running = Running::start(&written, options());
        let mut clients = Vec::new();
        for number in 0..50u64 {
            let start = number * 97 % 4_000;
            let encoding = if number % 5 == 0 { "zstd" } else { "identity" };
            let target = format!("/events?start_from={start}&encoding={encoding}&until=5999");
            let mut client = running.get(&target).await;
            let start = start.min(written.log.head().next_sequence);
            clients.push(tokio::spawn(async move {
                let mut bytes = client.read_to_end().await;
                if encoding == "zstd" {
                    bytes = zstd::decode_all(&bytes[..]).unwrap();
                }
                assert!(String::from_utf8(bytes).unwrap() == format!("{VERSION_FRAME}{}", frames(start..6_000)));
            }));
            written.append_steps(40);
            written.commit();
        }
        while written.log.head().next_sequence < 6_000 {
            written.append_steps(7);
            written.commit();
            tokio::task::yield_now().await;
        }
        for client in clients {
            client.await.unwrap();
        }
    });
}

#[tokio::test]
async fn cancelling_cuts_the_streams_without_a_last_chunk() {
    let written = Written::steps(3);
    let mut running = Running::start(&written, options());
    let mut client = running.get("/events?start_from=0").await;
    client.read_until_id(2).await;
    running.stop().await;
    assert!(client.chunk().await.is_err());
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let written = Written::steps(1);
    let taken = Running::start(&written, options());
    let again = on(PortOptions { port: taken.address.port(), ..port() });
    let error = Server::bind(again, Arc::clone(&taken.hub)).err().unwrap();
    assert!(matches!(error, BindError::Address { .. }));
    assert!(error.to_string().contains(&taken.address.to_string()), "{error}");
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let written = Written::steps(1);
    let running = Running::start(&written, on(PortOptions { header_timeout: Duration::from_millis(50), ..port() }));
    // The second looks like the beginning of HTTP/2, the third like a request.
    for start in ["", "PRI * HTTP", "GET /events HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "{start}");
    }
    assert_eq!(running.get("/events").await.status(), 200);
}

#[tokio::test]
async fn http_2_with_prior_knowledge_gets_the_same_bytes() {
    let written = Written::steps(1_000);
    let running = Running::start(&written, options());
    let stream = TcpStream::connect(running.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://{}/events?start_from=0&until=999", running.address))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body == format!("{VERSION_FRAME}{}", frames(0..1_000)));
    connection.abort();
}

async fn open(written: &Written, target: &str) -> Body {
    let server = Server::bind(with_legacy(), hub(&written.log, written.committed.subscribe())).unwrap();
    let request = Request::get(target).body(Body::empty()).unwrap();
    router(server.events).oneshot(request).await.unwrap().into_body()
}

async fn next(body: &mut Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

fn one_event() -> Written {
    let mut written = Written::new();
    written.announce(ApiVersion { major: 2, minor: 0, patch: 0 });
    written.append(Kind(7), "0");
    written.commit();
    written
}

/// Seconds until the next piece, and the piece.
async fn wait(body: &mut Body) -> (u64, Bytes) {
    let start = Instant::now();
    let piece = next(body).await;
    ((start.elapsed() + Duration::from_millis(10)).as_secs(), piece)
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive_15_seconds_after_its_last_message() {
    let mut written = one_event();
    let mut body = open(&written, "/events").await;
    assert!(next(&mut body).await.starts_with(b"data:{\"ApiVersion"));
    for _ in 0..3 {
        assert_eq!(wait(&mut body).await, (15, Bytes::from_static(b":\n\n")));
    }
    advance(Duration::from_secs(10)).await;
    written.append(Kind(7), "1");
    written.commit();
    assert_eq!(wait(&mut body).await, (0, Bytes::from_static(b"data:1\nid:1\n\n")));
    assert_eq!(wait(&mut body).await, (15, Bytes::from_static(b":\n\n")));
}

#[tokio::test(start_paused = true)]
async fn events_that_a_client_does_not_get_do_not_break_its_silence() {
    let mut written = one_event();
    let mut sidecar = open(&written, "/events/sidecar").await;
    let mut faults = open(&written, "/events?types=Fault").await;
    let mut signatures = open(&written, "/events/sigs").await;
    next(&mut sidecar).await;
    next(&mut faults).await;
    assert_eq!(next(&mut signatures).await, legacy::GREETING);
    next(&mut signatures).await;
    let start = Instant::now();
    for body in [&mut sidecar, &mut faults, &mut signatures] {
        assert!(tokio::time::timeout(Duration::from_secs(4), body.frame()).await.is_err());
        written.append(Kind(7), "skipped");
        written.commit();
        assert!(tokio::time::timeout(Duration::from_millis(1), body.frame()).await.is_err());
    }
    // Each was silent from when it was first asked for more: at the start, after 4 s, after 8 s.
    assert_eq!(next(&mut sidecar).await, ":\n\n");
    assert_eq!(start.elapsed().as_secs(), 15);
    // Instead of a comment it gets a mark of its position.
    assert_eq!(next(&mut faults).await, "id:3\n\n");
    assert_eq!(start.elapsed().as_secs(), 19);
    assert_eq!(next(&mut signatures).await, ":\n\n");
    assert_eq!(start.elapsed().as_secs(), 23);
    assert_eq!(next(&mut faults).await, ":\n\n");
}

/// A deploy and its result, each of about this many bytes.
fn large_deploy(bytes: usize) -> (String, String, String, String) {
    let hex: String =
        (0..bytes as u64 / 16).map(|number| format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let deploy =
        format!("{{\"hash\":\"{bytes}\",\"session\":{{\"ModuleBytes\":{{\"module_bytes\":\"{hex}\",\"args\":[]}}}}}}");
    let accepted = format!("{{\"TransactionAccepted\":{{\"Deploy\":{deploy}}}}}");
    let value = format!("{{\"cl_type\":\"Any\",\"bytes\":\"{hex}\",\"parsed\":null}}");
    let processed = format!(
        "{{\"TransactionProcessed\":{{\"transaction_hash\":{{\"Deploy\":\"{bytes}\"}},\"initiator_addr\":{{\"PublicKey\":\"01\"}},\
         \"timestamp\":\"t\",\"ttl\":\"1h\",\"block_hash\":\"b\",\"execution_result\":{{\"Version2\":{{\"error_message\":null,\
         \"cost\":\"7\",\"effects\":[{{\"key\":\"hash-1\",\"kind\":{{\"Write\":{{\"CLValue\":{value}}}}}}}]}}}},\"messages\":[]}}}}"
    );
    let transforms = match bytes > 8 << 20 {
        true => String::new(),
        false => format!("{{\"key\":\"hash-1\",\"transform\":{{\"WriteCLValue\":{value}}}}}"),
    };
    let result = format!(
        "{{\"DeployProcessed\":{{\"deploy_hash\":\"{bytes}\",\"account\":\"01\",\"timestamp\":\"t\",\"ttl\":\"1h\",\
         \"dependencies\":[],\"block_hash\":\"b\",\"execution_result\":{{\"Success\":{{\"effect\":{{\"operations\":[],\
         \"transforms\":[{transforms}]}},\"transfers\":[],\"cost\":\"7\"}}}}}}}}"
    );
    (accepted, processed, format!("{{\"DeployAccepted\":{deploy}}}"), result)
}

fn with_legacy() -> Options {
    Options { legacy_enabled: true, ..options() }
}

#[tokio::test]
async fn large_events_reach_1x_clients_in_pieces() {
    let mut written = Written::with(|options| options.read.cache_bytes = 1 << 20);
    written.announce(version(2, 0));
    let (mut deploys, mut main) = (VERSION_FRAME.to_owned(), VERSION_FRAME.to_owned());
    for bytes in [200_000, 1_500_000, 9_000_000] {
        let (accepted, processed, deploy, result) = large_deploy(bytes);
        let id = written.append(TRANSACTION_ACCEPTED, &accepted);
        deploys.push_str(&format!("data:{deploy}\nid:{id}\n\n"));
        let id = written.append(TRANSACTION_PROCESSED, &processed);
        main.push_str(&format!("data:{result}\nid:{id}\n\n"));
        // Large, of a kind that the streams have, and nothing for them.
        written.append(TRANSACTION_ACCEPTED, &accepted.replace("\"Deploy\"", "\"Version1\""));
        written.append(TRANSACTION_PROCESSED, &processed.replace("\"Deploy\"", "\"Version1\""));
        written.append(BLOCK_ADDED, &format!("{{\"BlockAdded\":\"{}\"}}", "x".repeat(bytes)));
    }
    written.commit();
    let running = Running::start(&written, with_legacy());
    for (path, expected) in [("deploys", &deploys), ("main", &main)] {
        // More clients than large events that are open, half-way at the same time; and one for the largest.
        for (clients, until) in [(6, 9), (1, 14)] {
            let expected = match expected.find("\nid:10\n").max(expected.find("\nid:11\n")) {
                Some(end) if until == 9 => &expected[..expected[..end].rfind("\n\n").unwrap() + 2],
                _ => expected.as_str(),
            };
            let mut streams = Vec::new();
            for _ in 0..clients {
                streams.push(running.get(&format!("/events/{path}?start_from=0&until={until}")).await);
            }
            for stream in &mut streams {
                let text = stream.text_to_end().await;
                let rest = text.strip_prefix(legacy::GREETING).unwrap();
                let wanted = format!("{expected}id:{until}\n\n");
                assert!(rest == wanted, "{path}: {} bytes for {}", rest.len(), wanted.len());
            }
        }
    }
    assert!(running.hub.counters().events_not_rendered.get() > 0, "the blocks are none");
}

#[tokio::test]
async fn the_1x_streams_exist_only_where_they_are_enabled() {
    let written = Written::steps(3);
    let without = Running::start(&written, options());
    let with = Running::start(&written, with_legacy());
    for name in ["main", "deploys", "sigs"] {
        for path in [format!("/events/{name}"), format!("/events/{name}/")] {
            let mut refused = without.get(&path).await;
            assert_eq!((refused.status(), refused.fixed_body().await.as_str()), (404, UNKNOWN_PATH));
            let mut client = with.get(&path).await;
            assert_eq!((client.status(), client.header("content-type")), (200, Some("text/event-stream")));
            assert_eq!(client.header("x-accel-buffering"), Some("no"));
            assert_eq!(client.header(RETAINED_RANGE_HEADER), Some("0-2"));
            assert!(client.header(LOG_HEADER).is_some());
            let beginning = format!("{}{VERSION_FRAME}", legacy::GREETING);
            assert_eq!(client.read_until(VERSION_FRAME).await, beginning);
        }
    }
    let mut unknown = with.get("/events/other").await;
    let expected = "invalid path: expected '/events/main', '/events/deploys' or '/events/sigs or '/events/sidecar'\n";
    assert_eq!((unknown.status(), unknown.fixed_body().await.as_str()), (404, expected));
    assert!(with.get("/").await.fixed_body().await.contains("/events/sigs"));
}

#[tokio::test]
async fn a_1x_stream_sends_positions_only_to_a_client_that_asks_for_a_part_of_it() {
    let mut written = Written::steps(25_000);
    let shutdown = written.append(SHUTDOWN, "\"Shutdown\"");
    written.commit();
    let running = Running::start(&written, with_legacy());
    let beginning = format!("{}{VERSION_FRAME}", legacy::GREETING);
    let end = format!("data:\"Shutdown\"\nid:{shutdown}\n\n");
    let mut whole = running.get("/events/sigs?start_from=0").await;
    assert_eq!(whole.read_until_id(shutdown).await, format!("{beginning}{end}"));
    let mut part = running.get(&format!("/events/sigs?start_from=0&until={shutdown}")).await;
    let text = part.text_to_end().await;
    assert_eq!(text.split("\n\n").filter(|message| message.starts_with("id:")).count(), 2);
    assert!(text.starts_with(legacy::GREETING) && text.ends_with(&format!("{VERSION_FRAME}{end}")), "{text}");
}
