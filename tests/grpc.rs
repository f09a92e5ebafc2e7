//! The gRPC gateway through the built binary, before a real gRPC server: streams and single answers, errors before and
//! within a stream, deadlines, cancellation, slow clients; and recorded streams, which miss nothing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sidecar_test_support::beacon::BeaconNode;
use sidecar_test_support::browser::EventSourcePage;
use sidecar_test_support::client::{Answer, Request, SseClient, events, get};
use sidecar_test_support::installed::python_with;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::ping_pong::{self, PingPong};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Process, Sidecar, SidecarBuilder};
use sidecar_test_support::story;
use sidecar_test_support::wait::until;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(60);
const EVENT_STREAM: &str = "text/event-stream";
const MIB: u64 = 1 << 20;

/// A gateway before a ping-pong server.
struct Court {
    server: PingPong,
    sidecar: Sidecar,
    gateway: ReservedPort,
}

/// Where the descriptors come from.
enum Described {
    Set,
    Proto,
    Reflection,
}

impl Court {
    async fn open() -> Court {
        Court::with(Described::Set, "", "").await
    }

    async fn with(described: Described, keys: &str, sections: &str) -> Court {
        let server = PingPong::start().await;
        let (sidecar, gateway) = gateway(&plain(server.address()), described, keys, sections).await;
        Court { server, sidecar, gateway }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    async fn get(&self, target: &str) -> Answer {
        get(self.address(), target).await
    }

    /// Starts the sidecar again after its end, and waits until it has subscribed again.
    async fn start_again(&mut self) {
        self.server.wait_for_open(0).await;
        self.sidecar.restart().await;
        self.server.wait_for_open(1).await;
    }

    fn events(&self, target: &str) -> Request {
        Request::get(self.address(), target).header("accept", EVENT_STREAM).patience(PATIENCE)
    }
}

fn plain(server: SocketAddr) -> String {
    format!("http://{server}")
}

/// A gateway before the server at `upstream`.
async fn gateway(upstream: &str, described: Described, keys: &str, sections: &str) -> (Sidecar, ReservedPort) {
    let gateway = ReservedPort::new();
    let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"));
    let folder = builder.storage_path();
    std::fs::create_dir_all(&folder).unwrap();
    let descriptors = match described {
        Described::Set => {
            let file = folder.join("court.binpb");
            ping_pong::write_descriptor_set(&file);
            format!("descriptor_set = {file:?}")
        }
        Described::Proto => {
            let file = folder.join("court.proto");
            ping_pong::write_proto(&file);
            format!("protos = [{file:?}]")
        }
        Described::Reflection => "reflection = true".to_owned(),
    };
    // Only recorded streams are stored.
    let storage = if sections.is_empty() { String::new() } else { format!("[storage]\nstorage_folder = {folder:?}\n") };
    let sections = format!(
        "{storage}[grpc]\nport = {}\n{keys}\n\
         [[grpc.upstreams]]\nname = \"court\"\naddress = \"{upstream}\"\n{descriptors}\n{sections}",
        gateway.number(),
    );
    let builder = builder.sections(&sections).without_sse_server().admin_api();
    (builder.serving(gateway.address()).start().await, gateway)
}

async fn text_until(client: &mut SseClient, end: &str) -> String {
    let read = client.body_until(|read| read.windows(end.len()).any(|part| part == end.as_bytes())).await;
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_stream_comes_as_lines_of_json_unless_an_event_stream_is_asked_for() {
    let court = Court::open().await;
    let lines = court.get("/v1/balls/flood?count=2").await;
    assert_eq!((lines.status, lines.header("content-type")), (200, Some("application/json")));
    let expected = "{\"result\":{\"id\":\"1\",\"event\":\"ping\",\"text\":\"\"}}\n{\"result\":{\"id\":\"2\",\"event\":\"ping\",\"text\":\"\"}}\n";
    assert_eq!(lines.body, expected);
    let mut stream = court.events("/v1/balls/flood?count=1&bytes=1").open().await;
    assert_eq!((stream.status(), stream.header("content-type")), (200, Some(EVENT_STREAM)));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    let body = String::from_utf8(stream.body().await).unwrap();
    let event = "data: {\"id\":\"1\",\"event\":\"ping\",\"text\":\"x\"}\n\n";
    assert_eq!(body, format!(":\n\n{event}event: end\ndata: {{}}\nid: end\n\n"));
    // What a browser sends when it comes again after the end.
    let again = court.events("/v1/balls/flood?count=1").header("last-event-id", "end").open().await;
    assert_eq!(again.status(), 204);
}

#[tokio::test]
async fn an_error_before_the_first_message_has_its_own_status_and_a_later_one_ends_the_stream() {
    let court = Court::open().await;
    let body = |code: u64| json!({"code": code, "message": "the ball is lost", "details": []});
    for (topic, code, status) in [("refuse", 5, 404), ("fail", 5, 404), ("refuse", 14, 503), ("fail", 7, 403)] {
        let target = format!("/v1/balls/{topic}?code={code}");
        let lines = court.get(&target).await;
        assert_eq!((lines.status, lines.json()), (status, json!({"error": body(code)})));
        assert_eq!(lines.header("retry-after").is_some(), status == 503);
        let events = court.events(&target).answer().await;
        assert_eq!((events.status, events.json()), (status, body(code)));
    }
    let text = r#"{"code":9,"message":"the ball is lost","details":[]}"#;
    let lines = court.get("/v1/balls/fail?count=1&code=9").await;
    assert_eq!(lines.status, 200);
    assert_eq!(lines.body.lines().last().unwrap(), format!("{{\"error\":{text}}}"));
    let events = court.events("/v1/balls/fail?count=1&code=9").answer().await;
    assert!(
        events.status == 200 && events.body.ends_with(&format!("\n\nevent: error\ndata: {text}\n\n")),
        "{}",
        events.body
    );
}

#[tokio::test]
async fn while_the_server_is_away_its_paths_are_unavailable_and_recorded_streams_are_served() {
    let server = ReservedPort::new();
    let (_sidecar, court) = gateway(&plain(server.address()), Described::Proto, "", PINGS).await;
    let away = get(court.address(), "/v1/echo/x").await;
    assert_eq!((away.status, away.json()["code"].as_u64()), (503, Some(14)));
    assert!(away.header("retry-after").is_some());
    let events = Request::get(court.address(), "/v1/balls/x").header("accept", EVENT_STREAM).answer().await;
    assert_eq!(events.status, 503);
    assert_eq!(Request::get(court.address(), "/streams/pings?start_from=0").open().await.status(), 200);

    let (_sidecar, court) = gateway(&plain(server.address()), Described::Reflection, "", "").await;
    let undescribed = get(court.address(), "/v1/echo/x").await;
    assert_eq!((undescribed.status, undescribed.json()["code"].as_u64()), (503, Some(14)));
}

#[tokio::test]
async fn a_single_answer_is_json_with_the_metadata_as_headers() {
    let court = Court::open().await;
    let request = Request::new("POST", court.address(), "/v1/echo").header("grpc-metadata-tenant", "blue");
    let request = request.header("grpc-metadata-content-length", "1");
    let answer = request.body(r#"{"topic":"hello","count":"7"}"#).answer().await;
    assert_eq!((answer.status, answer.header("grpc-metadata-court")), (200, Some("centre")));
    assert_eq!(answer.body, r#"{"id":"7","event":"hello","text":"tenant=blue"}"#);
    assert_eq!(court.get("/v1/echo/a%2Fb?count=9").await.json()["event"], "a/b");
    let failed = court.get("/v1/echo/x?code=16").await;
    assert_eq!((failed.status, failed.header("www-authenticate")), (401, Some("the ball is lost")));
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_json() {
    let court = Court::open().await;
    let refused = async |method: &str, target: &str, body: &str| {
        let answer = Request::new(method, court.address(), target).body(body).answer().await;
        (answer.status, answer.json()["code"].as_u64().unwrap())
    };
    assert_eq!(court.get("/nowhere").await.body, r#"{"code":5,"message":"Not Found","details":[]}"#);
    assert_eq!(refused("DELETE", "/v1/echo", "").await, (501, 12));
    assert_eq!(refused("GET", "/v1/echo/%zz", "").await, (400, 3));
    assert_eq!(refused("GET", "/v1/echo/x?count=many", "").await, (400, 3));
    assert_eq!(refused("GET", "/v1/echo/x?count=1&count=2", "").await, (400, 3));
    assert_eq!(refused("POST", "/v1/echo", "{").await, (400, 3));
    assert_eq!(refused("POST", "/demo.v1.Events/Unbound", "{}").await, (404, 5));
    let slow = Request::get(court.address(), "/v1/echo/x").header("grpc-timeout", "soon").answer().await;
    assert_eq!(slow.status, 400);
    assert!(court.get("/").await.body.contains("/openapi.json"));
    let document = court.get("/openapi.json").await.json();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/eth/v1/events", "/v1/balls/{topic}", "/v1/echo", "/v1/echo/{topic}"]);
}

#[tokio::test]
async fn head_and_options_are_answered_for_what_is_only_read() {
    let court = Court::with(Described::Set, "", PINGS).await;
    let ask = |method: &str, target: &str| Request::new(method, court.address(), target);
    for target in ["/", "/openapi.json", "/streams/pings?start_from=0"] {
        let (get, head) = (ask("GET", target).open().await, ask("HEAD", target).open().await);
        assert_eq!(head.status(), 200, "{target}");
        for name in ["content-type", "content-length", "cache-control", "vary"] {
            assert_eq!(head.header(name), get.header(name), "{target} {name}");
        }
        let options = ask("OPTIONS", target).answer().await;
        assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")), "{target}");
    }
    let post = ask("POST", "/streams/pings").answer().await;
    assert_eq!((post.status, post.header("allow")), (501, Some("GET, HEAD, OPTIONS")));
    let past = ask("HEAD", "/streams/pings?start_from=7&until=6").answer().await;
    assert_eq!((past.status, past.header("sidecar-log").is_some()), (204, true));
}

#[tokio::test]
async fn a_page_may_call_every_method_that_is_served() {
    let court = Court::open().await;
    let ask = |method: &str, target: &str| {
        Request::new(method, court.address(), target).header("origin", "http://page.example")
    };
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let preflight = ask("OPTIONS", "/v1/echo").header("access-control-request-method", method);
        let preflight = preflight.header("access-control-request-headers", "content-type").answer().await;
        assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, Some(method)));
        assert_eq!(preflight.header("access-control-allow-headers"), Some("content-type"));
    }
    let called = ask("POST", "/v1/echo").body(r#"{"topic":"a"}"#).answer().await;
    let allowed = called.header("access-control-allow-origin");
    assert_eq!((called.status, allowed), (200, Some("http://page.example")));
    assert_eq!(ask("DELETE", "/v1/echo").answer().await.status, 501, "the server refuses what no rule serves");
}

#[tokio::test]
async fn a_deadline_ends_a_call_before_and_within_its_stream() {
    let court = Court::open().await;
    let within = |target: &str| Request::get(court.address(), target).header("grpc-timeout", "200m").patience(PATIENCE);
    let single = within("/v1/echo/silent").answer().await;
    assert_eq!((single.status, single.json()["code"].as_u64()), (504, Some(4)));
    let lines = within("/v1/balls/silent").answer().await;
    assert_eq!((lines.status, lines.json()["error"]["code"].as_u64()), (504, Some(4)));
    let late = within("/v1/balls/silent").header("accept", EVENT_STREAM).answer().await;
    assert_eq!(late.status, 504);
    let stream = court.events("/v1/balls/silent").header("grpc-timeout", "600m").answer().await;
    assert!(stream.status == 200 && stream.body.contains("event: error\ndata: {\"code\":4,"), "{}", stream.body);
    court.server.wait_for_open(0).await;
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_call() {
    let court = Court::open().await;
    let quiet = court.events("/v1/balls/silent").open().await;
    assert_eq!(quiet.status(), 200);
    let mut live = Request::get(court.address(), "/v1/balls/live").patience(PATIENCE);
    live = live.header("accept", EVENT_STREAM);
    let mut live = live.open().await;
    court.server.wait_for_open(2).await;
    court.server.push("pong", "over the net");
    assert!(text_until(&mut live, "\n\n").await.contains(":"));
    drop(quiet);
    court.server.wait_for_open(1).await;
    drop(live);
    court.server.wait_for_open(0).await;
}

#[tokio::test]
async fn a_slow_client_holds_the_server_back_and_takes_no_memory() {
    let court = Court::open().await;
    let balls = 30_000;
    let target = format!("/v1/balls/flood?count={balls}&bytes=1000");
    let mut slow = Request::get(court.address(), &target).slow(4096).patience(PATIENCE).open().await;
    let first = slow.next_chunk().await.unwrap();
    // All buffers on the way are full when the server makes no more.
    let mut made = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = court.server.made();
        if now == made {
            break;
        }
        made = now;
    }
    assert!(made < balls / 2, "{made} balls were made for a client that takes none");
    let memory = court.sidecar.resident_memory_bytes().anonymous;
    assert!(memory < 64 * MIB, "{memory}");
    // Another client on the same connection to the server is not held up.
    let fast = court.get("/v1/balls/flood?count=1000&bytes=1000").await;
    assert_eq!(fast.body.lines().count(), 1000);
    slow.hurry();
    let rest = slow.body().await;
    assert_eq!(first.iter().chain(&rest).filter(|byte| **byte == b'\n').count() as u64, balls);
}

#[tokio::test]
async fn bodies_that_arrive_slowly_take_no_more_than_the_memory_for_bodies() {
    let court = Court::open().await;
    let before = court.sidecar.resident_memory_bytes().now;
    let head = format!("POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 4 * MIB);
    let most: Arc<str> = format!("{head}{{\"topic\":\"{}", "a".repeat((4 << 20) - 100)).into();
    let mut clients: JoinSet<()> = (0..80)
        .map(|_| {
            let (address, most) = (court.address(), Arc::clone(&most));
            async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(most.as_bytes()).await.unwrap();
                std::future::pending().await
            }
        })
        .collect();
    let memory = || court.sidecar.resident_memory_bytes().now.saturating_sub(before);
    until(PATIENCE, "the memory for bodies is used", async || memory() > 110 * MIB).await;
    // Another body has to wait now, and a call without one does not.
    let large = format!("{{\"topic\":\"{}\"}}", "b".repeat(MIB as usize));
    let large = Request::new("POST", court.address(), "/v1/echo").body(&large).patience(PATIENCE);
    let large = tokio::spawn(large.answer());
    assert_eq!(court.get("/v1/echo/small").await.status, 200);
    assert!(memory() < 192 * MIB, "{} MiB", memory() / MIB);
    assert!(!large.is_finished());
    clients.shutdown().await;
    assert_eq!(large.await.unwrap().json()["event"].as_str().map(str::len), Some(MIB as usize));
}

#[tokio::test]
async fn a_body_of_unknown_length_takes_room_only_when_it_is_not_small() {
    let court = Court::open().await;
    let begun = "POST /v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"top\r\n";
    let mut unfinished = Vec::new();
    for _ in 0..80 {
        let mut stream = TcpStream::connect(court.address()).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        unfinished.push(stream);
    }
    let client = sidecar::sse_client::stream::http_client(PATIENCE).unwrap();
    for bytes in [10, 100_000, 2 << 20] {
        let topic = "b".repeat(bytes);
        let pieces = ["{\"topic\":\"".to_owned(), topic, "\"}".to_owned()].map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        let request = client.post(format!("http://{}/v1/echo", court.address())).body(body);
        let answer = request.timeout(PATIENCE / 3).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(answer["event"].as_str().map(str::len), Some(bytes));
    }
    drop(unfinished);
}

#[tokio::test]
async fn a_single_answer_comes_whole_whether_it_needs_room_or_not() {
    let court = Court::open().await;
    for bytes in [10, 100_000, 2 * MIB as usize] {
        let body = format!("{{\"topic\":\"{}\"}}", "b".repeat(bytes));
        let request = Request::new("POST", court.address(), "/v1/echo").body(&body);
        let answer = request.patience(PATIENCE).answer().await;
        assert_eq!((answer.status, answer.json()["event"].as_str().map(str::len)), (200, Some(bytes)));
    }
}

#[tokio::test]
async fn more_streams_than_a_connection_takes_are_open_at_the_same_time() {
    let court = Court::open().await;
    // A server of tonic's takes 200 on one.
    let mut clients = JoinSet::new();
    for _ in 0..250 {
        clients.spawn(court.events("/v1/balls/silent").open());
    }
    let opened = clients.join_all().await;
    assert!(opened.iter().all(|client| client.status() == 200));
    court.server.wait_for_open(250).await;
    drop(opened);
    court.server.wait_for_open(0).await;
}

#[tokio::test]
async fn what_is_too_large_or_too_much_is_refused() {
    let court = Court::with(Described::Set, "message_bytes_max = 1024\nmax_concurrent_streams = 2", "").await;
    let body = format!("{{\"topic\":\"{}\"}}", "x".repeat(2000));
    let large = Request::new("POST", court.address(), "/v1/echo").body(&body).answer().await;
    assert_eq!((large.status, large.json()["code"].as_u64()), (413, Some(8)));
    let message = court.get("/v1/balls/flood?count=1&bytes=2000").await;
    assert_eq!((message.status, message.json()["error"]["code"].as_u64()), (400, Some(11)));
    let open = [court.events("/v1/balls/silent").open().await, court.events("/v1/balls/silent").open().await];
    let refused = court.get("/v1/echo/x").await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    drop(open);
    court.server.wait_for_open(0).await;
}

#[tokio::test]
async fn an_event_source_is_an_event_with_the_data_of_its_any() {
    let court = Court::open().await;
    let mut stream = Request::get(court.address(), "/eth/v1/events?topics=head").patience(PATIENCE).open().await;
    assert_eq!(stream.header("content-type"), Some(EVENT_STREAM));
    court.server.wait_for_open(1).await;
    court.server.push("head", "");
    let read = text_until(&mut stream, "}\n\n").await;
    let event = "event: head\ndata: {\"slot\":\"1\",\"block\":\"+/8=\",\"epochTransition\":false}\n\n";
    assert_eq!(read, format!(":\n\n{event}"));
    court.server.break_off();
    let end = text_until(&mut stream, "}\n\n").await;
    assert_eq!(end, "event: error\ndata: {\"code\":14,\"message\":\"broken off\",\"details\":[]}\n\n");
    let refused = court.get("/eth/v1/events?topics=weather_forecast").await;
    let body = r#"{"code":3,"message":"Invalid topic: weather_forecast","details":[]}"#;
    assert_eq!((refused.status, refused.body.as_str()), (400, body));
}

/// What the fork prysmaticlabs/grpc-gateway sends, byte for byte, but for the empty line after an error.
#[tokio::test]
async fn clients_of_the_fork_get_its_bytes_on_request() {
    let court = Court::with(Described::Set, "event_format = \"fork\"\nemit_unpopulated = false", "").await;
    let error = |status: u16, message: &str| {
        let name = "type.googleapis.com/gateway.EventStreamError";
        format!("event: error \ndata: {{\"@type\":\"{name}\",\"statusCode\":{status},\"message\":\"{message}\"}} \n\n")
    };
    let event = "event: head \ndata: {\"@type\":\"type.googleapis.com/demo.v1.EventHead\",\"slot\":\"1\",\"block\":\"+/8=\"} \n\n";
    let broken_off = r#"{"error":{"code":14,"message":"broken off","details":[]}}"#.to_owned() + "\n";
    let mut streams = Vec::new();
    for (accept, end) in [(EVENT_STREAM, error(503, "broken off")), ("application/json", broken_off)] {
        let request = Request::get(court.address(), "/eth/v1/events?topics=head").header("accept", accept);
        let stream = request.patience(PATIENCE).open().await;
        assert_eq!((stream.status(), stream.header("content-type")), (200, Some(EVENT_STREAM)));
        streams.push((stream, end));
    }
    court.server.wait_for_open(2).await;
    court.server.push("head", "");
    for (stream, _) in &mut streams {
        assert_eq!(text_until(stream, "\n\n").await, event);
    }
    court.server.break_off();
    for (mut stream, end) in streams {
        assert_eq!(String::from_utf8(stream.body().await).unwrap(), end);
    }
    let early = court.events("/eth/v1/events?topics=weather_forecast").answer().await;
    assert_eq!((early.status, early.body), (200, error(400, "Invalid topic: weather_forecast")));
    let early = court.get("/eth/v1/events?topics=weather_forecast").await;
    assert_eq!((early.status, early.json()["error"]["code"].as_u64()), (400, Some(3)));
    // Only its event streams are of another form.
    assert!(court.events("/v1/balls/flood?count=1").answer().await.body.starts_with(":\n\ndata: {\"id\":\"1\""));

    let court = Court::with(Described::Set, "event_format = \"fork\"\nuse_proto_names = true", "").await;
    let early = court.events("/eth/v1/events?topics=x").answer().await;
    assert!(early.body.contains(r#","status_code":400,"message":"Invalid topic: x"} "#), "{}", early.body);
}

#[tokio::test]
async fn a_form_is_handled_as_the_method_that_it_names() {
    let court = Court::open().await;
    let form = |court: &Court, target: &str| {
        Request::new("POST", court.address(), target)
            .header("content-type", "application/x-www-form-urlencoded")
            .body("count=7")
    };
    assert_eq!(form(&court, "/v1/echo/x").answer().await.json()["id"], "7");
    let large = format!("{}count=7", "absent=1&".repeat(100_000));
    assert_eq!(form(&court, "/v1/echo/x").body(&large).answer().await.json()["id"], "7");
    let named = form(&court, "/v1/echo/x").header("x-http-method-override", "get").answer().await;
    assert_eq!(named.json()["id"], "7");
    let other = form(&court, "/v1/echo/x").header("x-http-method-override", "DELETE").answer().await;
    assert_eq!((other.status, other.header("allow")), (501, Some("GET")));
    let bad = form(&court, "/v1/echo/x").header("x-http-method-override", "A B").answer().await;
    assert_eq!((bad.status, bad.json()["code"].as_u64()), (400, Some(3)));
    let json = Request::new("POST", court.address(), "/v1/echo").header("x-http-method-override", "DELETE");
    assert_eq!(
        json.body(r#"{"topic":"a"}"#).answer().await.json()["event"],
        "a",
        "only a form may name another method"
    );
    let strict = Court::with(Described::Set, "accept_forms = false\nwrap_results = false", "").await;
    assert_eq!(form(&strict, "/v1/echo/x").answer().await.status, 501);
    let bare = strict.get("/v1/balls/fail?count=1&code=9").await.body;
    let lines: Vec<Value> = bare.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["id"], &lines[1]["error"]["code"]), (&json!("1"), &json!(9)));
}

#[tokio::test]
async fn the_keys_choose_the_form_of_json_and_unbound_methods() {
    let keys =
        "data_format = \"quoted\"\nuse_proto_names = true\nemit_unpopulated = false\ngenerate_unbound_methods = true";
    let court = Court::with(Described::Proto, keys, "").await;
    let mut stream = Request::get(court.address(), "/eth/v1/events").patience(PATIENCE).open().await;
    court.server.wait_for_open(1).await;
    court.server.push("head", "");
    let read = text_until(&mut stream, "}\"\n\n").await;
    assert!(read.ends_with("event: head\ndata: \"{\\\"slot\\\":\\\"1\\\",\\\"block\\\":\\\"+/8=\\\"}\"\n\n"), "{read}");
    let unbound =
        Request::new("POST", court.address(), "/demo.v1.Events/Unbound").body("{\"topic\":\"x\"}").answer().await;
    assert_eq!(unbound.body, r#"{"event":"x","text":"tenant="}"#);
}

#[tokio::test]
async fn a_server_that_describes_itself_is_served_once_it_is_there() {
    let mut court = Court::with(Described::Reflection, "", "").await;
    court.sidecar.wait_for_output("the upstream has described its services").await;
    assert_eq!(court.get("/v1/echo/x").await.json()["event"], "x");
}

const PINGS: &str = "[[grpc.streams]]\nname = \"pings\"\nupstream = \"court\"\nmethod = \"demo.v1.Events/Subscribe\"\n\
                     request = { topic = \"live\" }\npath = \"/streams/pings\"\nevent_field = \"event\"\nidentity_fields = [\"id\"]\n";

fn expected(id: usize) -> Value {
    json!({"id": (id + 1).to_string(), "event": if id.is_multiple_of(2) { "ping" } else { "pong" }, "text": format!("number {id}")})
}

fn push(server: &PingPong, ids: std::ops::Range<usize>) {
    for id in ids {
        server.push(if id.is_multiple_of(2) { "ping" } else { "pong" }, &format!("number {id}"));
    }
}

async fn read_from(court: &Court, start: u64, count: usize) -> SseClient {
    let target = format!("/streams/pings?start_from={start}");
    let mut client = court.events(&target).open().await;
    let messages = client.read_messages(count).await;
    let events = events(&messages);
    assert!(events.iter().map(|(id, _)| *id).eq(start..start + count as u64), "{events:?}");
    for (id, data) in events {
        assert_eq!(serde_json::from_str::<Value>(data).unwrap(), expected(id as usize));
    }
    client
}

#[tokio::test]
async fn a_recorded_stream_is_subscribed_to_once_and_misses_nothing() {
    let mut court = Court::with(Described::Set, "", PINGS).await;
    court.server.wait_for_open(1).await;
    push(&court.server, 0..10);
    drop(read_from(&court, 0, 10).await);
    let bytes = b"event: ping\ndata: {\"id\":\"1\",\"event\":\"ping\",\"text\":\"number 0\"}\nid: 0\n\n";
    court.events("/streams/pings?start_from=0&until=0").open().await.expect_bytes(bytes).await;
    let lines =
        Request::get(court.address(), "/streams/pings?start_from=1&until=1").header("accept", "application/x-ndjson");
    assert_eq!(lines.answer().await.json(), json!({"id": 1, "event": "pong", "data": expected(1)}));

    // A browser that comes again has everything once.
    let client = read_from(&court, 4, 6).await;
    push(&court.server, 10..20);
    let mut again = client.reconnect().await;
    assert!(events(&again.read_messages(10).await).iter().map(|(id, _)| *id).eq(10..20));

    // The server breaks off and comes again: a gap is marked, and what follows is stored.
    court.server.break_off();
    court.sidecar.wait_for_output("the recorded stream is interrupted").await;
    court.server.wait_for_open(1).await;
    push(&court.server, 20..30);
    assert!(events(&again.read_messages(10).await).iter().map(|(id, _)| *id).eq(20..30));
    court.sidecar.wait_for_output("events are missing that cannot be had any more").await;

    // So it is after a crash of the sidecar.
    court.sidecar.kill9();
    court.start_again().await;
    push(&court.server, 30..40);
    drop(read_from(&court, 0, 40).await);
    let metrics = get(court.sidecar.admin_address(), "/metrics").await.body;
    assert!(metrics.contains("log=\"pings\""), "{metrics}");
}

#[tokio::test]
async fn readers_of_a_recorded_stream_select_the_names_that_are_listed() {
    let mut court = Court::with(Described::Set, "", &format!("{PINGS}event_names = [\"pong\"]\n")).await;
    court.server.wait_for_open(1).await;
    let selected = async |court: &Court, query: &str, until: u64| {
        let target = format!("/streams/pings?start_from=0&until={until}&types={query}");
        let messages = court.events(&target).open().await.read_to_end().await;
        events(&messages).into_iter().filter(|(_, data)| !data.is_empty()).map(|(id, _)| id).collect::<Vec<_>>()
    };
    push(&court.server, 0..10);
    assert_eq!(selected(&court, "pong", 9).await, [1, 3, 5, 7, 9]);
    let target = "/streams/pings?start_from=0&until=1&types=pong";
    let lines = Request::get(court.address(), target).header("accept", "application/x-ndjson").answer().await;
    assert_eq!(lines.json(), json!({"id": 1, "event": "pong", "data": expected(1)}));
    let unlisted = court.get("/streams/pings?types=ping").await;
    assert_eq!((unlisted.status, unlisted.json()["code"].as_u64()), (400, Some(3)));

    // A name that is listed later gets a number of its own, and the others keep theirs.
    court.sidecar.terminate();
    court.sidecar.reconfigure("[\"pong\"]", "[\"ping\", \"pong\"]");
    court.start_again().await;
    push(&court.server, 10..14);
    assert_eq!(selected(&court, "pong", 13).await, [1, 3, 5, 7, 9, 11, 13]);
    assert_eq!(selected(&court, "ping", 13).await, [10, 12]);
}

#[tokio::test]
async fn a_page_that_is_cut_off_from_a_recorded_stream_reconnects_by_itself_and_has_every_event_once() {
    let mut court = Court::with(Described::Set, "", PINGS).await;
    court.server.wait_for_open(1).await;
    let mut page = EventSourcePage::open(&format!("http://{}/streams/pings", court.address()), &["ping", "pong"]).await;
    push(&court.server, 0..20);
    let mut seen = page.events(20).await;
    for round in 1..=2 {
        court.sidecar.kill9();
        court.start_again().await;
        // Before the browser has reconnected: it pauses first.
        push(&court.server, 20 * round..20 * (round + 1));
        seen.extend(page.events(20).await);
    }
    assert_eq!(page.openings(), 3);
    for (id, event) in seen.iter().enumerate() {
        let ball = expected(id);
        assert_eq!((&*event.id, &*event.name), (&*id.to_string(), ball["event"].as_str().unwrap()));
        assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), ball);
    }
}

#[tokio::test]
async fn a_thousand_clients_share_one_subscription() {
    let court = Court::with(Described::Set, "max_concurrent_streams = 1100", PINGS).await;
    court.server.wait_for_open(1).await;
    let mut clients = JoinSet::new();
    for _ in 0..1000 {
        let request = court.events("/streams/pings?start_from=0");
        clients.spawn(async move {
            let mut client = request.open().await;
            let messages = client.read_messages(100).await;
            let ids: Vec<u64> = events(&messages).iter().map(|(id, _)| *id).collect();
            assert!(ids.into_iter().eq(0..100));
        });
    }
    push(&court.server, 0..100);
    clients.join_all().await;
    assert_eq!((court.server.opened(), court.server.open()), (1, 1));
}

/// Left out where Google's gRPC library is not installed.
#[tokio::test]
async fn a_server_that_is_not_rust_is_served_by_its_reflection() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/grpcio/bin/python");
    let Some(python) = python_with(own, "grpc_reflection") else { return };
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("court.binpb");
    ping_pong::write_descriptor_set(&set);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/python/ping_pong.py");
    let mut server = Process::start(Command::new(python).args([script.as_ref(), set.as_os_str()]));
    server.wait_for_output("listens on ").await;
    server.wait_for_output(".\n").await;
    let output = server.output();
    let port = output.split("listens on ").nth(1).unwrap().split('.').next().unwrap();
    let (mut sidecar, gateway) = gateway(&format!("http://127.0.0.1:{port}"), Described::Reflection, "", "").await;
    sidecar.wait_for_output("the upstream has described its services").await;

    let lines = get(gateway.address(), "/v1/balls/flood?count=1000&bytes=100").await;
    assert_eq!((lines.status, lines.body.lines().count()), (200, 1000));
    let refused = get(gateway.address(), "/v1/balls/refuse").await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_u64()), (404, Some(5)));
    let broken = get(gateway.address(), "/v1/balls/fail?count=2").await;
    let last: Value = serde_json::from_str(broken.body.lines().last().unwrap()).unwrap();
    assert_eq!((broken.status, last["error"]["code"].as_u64()), (200, Some(15)));
    let request = Request::new("POST", gateway.address(), "/v1/echo").header("grpc-metadata-tenant", "blue");
    let echoed = request.body(r#"{"topic":"hello","count":7}"#).answer().await;
    assert_eq!(echoed.header("grpc-metadata-court"), Some("centre"));
    assert_eq!(echoed.body, r#"{"id":"7","event":"hello","text":"tenant=blue"}"#);
    let quiet = Request::get(gateway.address(), "/v1/balls/silent").header("accept", EVENT_STREAM).open().await;
    assert_eq!(quiet.status(), 200);
    drop(quiet);
    server.wait_for_output("cancelled").await;
}

#[tokio::test]
async fn a_server_with_tls_is_called_when_its_certificate_is_trusted() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = PingPong::start_with_tls(&cert.pem(), &signing_key.serialize_pem()).await;
    let address = format!("https://localhost:{}", server.address().port());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    let trusting = format!("{address}\"\nca_certificate = {file:?}\n# \"");
    let (_sidecar, court) = gateway(&trusting, Described::Set, "", "").await;
    assert_eq!(get(court.address(), "/v1/echo/x").await.json()["event"], "x");
    let (_sidecar, court) = gateway(&address, Described::Set, "", "").await;
    assert_eq!(get(court.address(), "/v1/echo/x").await.status, 503);
}

#[tokio::test]
async fn logs_of_all_three_dialects_are_stored_side_by_side_and_recovered() {
    let node = SimulatedNode::start();
    let server = PingPong::start().await;
    let client = BeaconNode::start();
    let (port, beacon_port) = (ReservedPort::new(), ReservedPort::new());
    let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"));
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("court.binpb");
    ping_pong::write_descriptor_set(&set);
    let sections = format!(
        "[grpc]\nport = {}\n[[grpc.upstreams]]\nname = \"court\"\naddress = \"http://{}\"\n\
         descriptor_set = {set:?}\n{PINGS}\
         [beacon]\nport = {}\n[[beacon.connections]]\nurl = \"{}\"\n",
        port.number(),
        server.address(),
        beacon_port.number(),
        client.url(),
    );
    let builder = builder.node(node.address()).rest_api().admin_api().sections(&sections);
    let mut sidecar = builder.serving(port.address()).serving(beacon_port.address()).start().await;
    let payloads: Vec<String> = (0..20).map(|number| story::unknown_kind(number).payload).collect();
    let head = |slot: u64| format!(r#"{{"slot":"{slot}","block":"0x{slot:064x}"}}"#);
    for half in 0..2 {
        server.wait_for_open(1).await;
        sidecar.wait_for_output("reading a client's events").await;
        (10 * half as u64..10 * (half as u64 + 1)).for_each(|slot| client.push("head", &head(slot)));
        push(&server, 10 * half..10 * (half + 1));
        node.push_all(&payloads[10 * half..10 * (half + 1)]);
        let end = 10 * half as u64 + 9;
        let casper = format!("/events?start_from=0&until={end}");
        let casper = Request::get(sidecar.sse_address(), &casper).patience(PATIENCE).open().await.read_to_end().await;
        assert!(events(&casper).into_iter().eq((0..=end).zip(payloads.iter().map(String::as_str))));
        let pings = format!("/streams/pings?start_from=0&until={end}");
        let pings = Request::get(port.address(), &pings).patience(PATIENCE).open().await.read_to_end().await;
        assert!(events(&pings).iter().map(|(id, _)| *id).eq(0..=end));
        let heads = format!("/eth/v1/events?topics=head&start_from=0&until={end}");
        let heads = Request::get(beacon_port.address(), &heads).patience(PATIENCE).open().await.read_to_end().await;
        assert!(
            events(&heads).into_iter().map(|(id, data)| (id, data.to_owned())).eq((0..=end).map(|id| (id, head(id))))
        );
        let status = get(sidecar.admin_address(), "/status").await.json();
        for logs in [&status, &get(sidecar.rest_address(), "/logs").await.json()] {
            let logs = logs["logs"].as_array().unwrap();
            let names: Vec<&str> = logs.iter().map(|log| log["name"].as_str().unwrap()).collect();
            assert_eq!(names, ["casper", "beacon", "pings"]);
        }
        let page = get(sidecar.rest_address(), "/logs/pings/events?from=0&limit=2").await.json();
        assert_eq!(page["events"].as_array().unwrap().len(), 2, "{page}");
        assert_eq!(status["grpc_streams"][0]["is_connected"], true);
        sidecar.kill9();
        server.wait_for_open(0).await;
        sidecar.restart().await;
    }
}
