//! Streams in another form than the stored one, and logs side by side.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, HttpBody};
use axum::http::{Method, Request, StatusCode, header};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;
use sidecar_log_format::{FrameForm, Kind, LargeEvent, Log, ReadOptions, Row, Sequence, storage::Directory};
use tokio::sync::watch;

use super::{
    Coding, Framing, Hub, JsonLines, Port, PortOptions, ReaderClass, Rendering, ReplayChunks, Resources, Subscription,
    written::{STEP, VERSION_FRAME, Written, frames, payload, version},
};
use crate::engine::{failing_reads::over_failing_reads, http::ListenOptions};

const FAULT: Kind = Kind(5);
const CLASS: ReaderClass = ReaderClass("all");

/// A port on which streams can be opened without a connection.
fn port(replay_chunks: ReplayChunks) -> Port {
    let listen = ListenOptions::on(Ipv4Addr::LOCALHOST);
    Port::bind(&PortOptions { listen, replay_chunks, streams_max: 2_000, ..PortOptions::default() }).unwrap()
}

fn hub(written: &Written, resources: &Arc<Resources>) -> Hub {
    Hub::new(written.log.clone(), written.committed.subscribe(), Arc::clone(resources), &[CLASS])
}

/// Every event from `start` to `until`, as it is stored.
fn stored(port: &Port, start: Sequence, until: Sequence) -> Subscription {
    let any = Subscription::new(CLASS, port.delivery(), port.open_streams().open().unwrap());
    Subscription { start, until: Some(until), progress_marks: true, explains_start: true, ..any }
}

fn rendered(port: &Port, rendering: impl Rendering, start: Sequence, until: Sequence) -> Subscription {
    Subscription { rendering: Some(Arc::new(rendering)), ..stored(port, start, until) }
}

/// The log with nothing in memory.
fn log_of_another_process(written: &Written) -> Log {
    Log::open(Arc::new(Directory::at(written.directory.path())), ReadOptions::default()).unwrap()
}

async fn bytes(body: Body) -> Vec<u8> {
    body.collect().await.unwrap().to_bytes().to_vec()
}

async fn text(body: Body) -> String {
    String::from_utf8(bytes(body).await).unwrap()
}

async fn next(body: &mut Body) -> String {
    let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
    String::from_utf8(piece.to_vec()).unwrap()
}

/// Only steps of even number, in capital letters.
struct EvenSteps;

impl EvenSteps {
    fn has(row: &Row<'_>) -> bool {
        row.kind() == STEP && row.sequence().is_multiple_of(2)
    }
}

impl Rendering for EvenSteps {
    fn id(&self) -> u16 {
        900
    }

    fn framing(&self) -> Framing {
        Framing::EventStream
    }

    fn render(&self, row: &Row<'_>, payload: &[u8], out: &mut Vec<u8>) {
        if Self::has(row) {
            out.extend_from_slice(b"data:");
            out.extend(payload.to_ascii_uppercase());
            out.extend_from_slice(format!("\nid:{}\n\n", row.sequence()).as_bytes());
        }
    }

    fn render_large(&self, event: &LargeEvent) -> io::Result<Option<Box<dyn io::Read + Send>>> {
        let row = event.shape().row(0).filter(Self::has);
        Ok(row.map(|row| {
            let mut out = Vec::new();
            self.render(&row, &event.payload().unwrap(), &mut out);
            Box::new(io::Cursor::new(out)) as Box<dyn io::Read + Send>
        }))
    }
}

#[tokio::test]
async fn rows_that_a_rendering_leaves_out_keep_their_place() {
    let mut written = Written::with(|options| options.block_bytes_max = 2_000);
    written.announce(version(2, 0));
    let large = "x".repeat(2 << 20);
    let kinds = [STEP, STEP, FAULT, STEP, STEP, STEP, STEP, STEP, FAULT, STEP];
    for (number, kind) in kinds.into_iter().enumerate() {
        if number == 4 {
            written.announce(version(2, 1));
        }
        let payload = if (6..9).contains(&number) { large.clone() } else { format!("{{\"a\":{number}}}") };
        written.append(kind, &payload);
    }
    written.commit();
    let hub = hub(&written, &Arc::new(Resources::new(2)));
    let capital = |number: u64| format!("data:{{\"A\":{number}}}\nid:{number}\n\n");
    let large = format!("data:{}\nid:6\n\n", "X".repeat(2 << 20));
    let new_version = "data:{\"ApiVersion\":\"2.1.0\"}\n\n";
    for replay_chunks in [ReplayChunks::Event, ReplayChunks::Block] {
        let port = port(replay_chunks);
        let whole = [VERSION_FRAME, &capital(0), new_version, &capital(4), &large, "id:9\n\n"].concat();
        assert!(text(hub.subscribe(rendered(&port, EvenSteps, 0, 9))).await == whole);
        // From the middle of a block, and to it.
        let part = [VERSION_FRAME, new_version, &capital(4), "id:5\n\n"].concat();
        assert_eq!(text(hub.subscribe(rendered(&port, EvenSteps, 1, 5))).await, part);
        let none = [new_version, "id:9\n\n"].concat();
        assert_eq!(text(hub.subscribe(rendered(&port, EvenSteps, 7, 9))).await, none);
        // What a filter leaves out is out, and what is left out does not come back by a filter.
        let faults = Subscription { kinds: FAULT.bit(), ..rendered(&port, EvenSteps, 0, 9) };
        assert_eq!(text(hub.subscribe(faults)).await, none);
    }
}

#[tokio::test]
async fn a_thousand_subscribers_share_one_rendering_in_replay_and_live() {
    let mut written = Written::with(|options| options.block_bytes_max = 40_000);
    written.announce(version(2, 0));
    written.append_steps(1_000);
    written.commit();
    let hub = hub(&written, &Arc::new(Resources::new(2)));
    let port = port(ReplayChunks::Block);
    let made = || hub.counters().blocks_rendered.get();
    let mut bodies = Vec::new();
    for _ in 0..1_000 {
        bodies.push(hub.subscribe(rendered(&port, JsonLines::of(&written.log), 0, 1_009)));
    }
    // All of them at once, so that many want the same block at the same time.
    let readers: Vec<_> = bodies.into_iter().map(|body| tokio::spawn(text(body))).collect();
    let mut blocks = 0;
    let mut at = 0;
    while let Some(block) = written.log.outline(at).unwrap() {
        (blocks, at) = (blocks + 1, block.end_sequence);
    }
    assert!(blocks > 3, "{blocks}");
    while made() < blocks {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        written.append_steps(1);
        written.commit();
        blocks += 1;
        while made() < blocks {
            tokio::task::yield_now().await;
        }
    }
    let line = |number: u64| format!("{{\"id\":{number},\"data\":{}}}\n", payload(number));
    let lines: String = (0..1_010).map(line).collect();
    let expected = format!("{{\"data\":{{\"ApiVersion\":\"2.0.0\"}}}}\n{lines}");
    for reader in readers {
        assert!(reader.await.unwrap() == expected);
    }
    assert_eq!(made(), blocks);
}

#[tokio::test]
async fn two_logs_share_what_the_process_has_and_nothing_else() {
    let resources = Arc::new(Resources::new(1));
    let (first, mut second) = (Written::steps(300), Written::new());
    for _ in 0..300 {
        second.append(STEP, "2");
    }
    second.commit();
    let (first, second) = (hub(&first, &resources), hub(&second, &resources));
    let port = port(ReplayChunks::Event);
    // Both wait for the same decoder and the same cache, in turns.
    for _ in 0..2 {
        let (one, two) = tokio::join!(
            text(first.subscribe(stored(&port, 0, 299))),
            text(second.subscribe(rendered(&port, JsonLines::of(second.log()), 0, 299)))
        );
        assert_eq!(one, format!("{VERSION_FRAME}{}", frames(0..300)));
        assert_eq!(two, (0..300).map(|number| format!("{{\"id\":{number},\"data\":2}}\n")).collect::<String>());
        let lines = text(first.subscribe(rendered(&port, JsonLines::of(first.log()), 299, 299))).await;
        assert!(lines.ends_with(&format!("{{\"id\":299,\"data\":{}}}\n", payload(299))));
    }
    let rendered = |hub: &Hub| hub.counters().blocks_rendered.get();
    assert!(rendered(&first) > 0 && rendered(&second) > 0);
}

#[tokio::test]
async fn a_farewell_goes_to_streams_that_have_one_and_a_silent_stream_stays_alive_in_its_form() {
    tokio::time::pause();
    let written = Written::steps(1);
    let hub = hub(&written, &Arc::new(Resources::new(1)));
    let port = port(ReplayChunks::Event);
    let silent = |farewell| Subscription {
        rendering: Some(Arc::new(JsonLines::of(&written.log))),
        progress_marks: false,
        farewell,
        ..stored(&port, 1, u64::MAX)
    };
    let mut with = hub.subscribe(silent(Some("bye\n".into())));
    let mut without = hub.subscribe(silent(None));
    for body in [&mut with, &mut without] {
        assert_eq!(next(body).await, "{\"data\":{\"ApiVersion\":\"2.0.0\"}}\n");
        assert_eq!(next(body).await, "\n");
    }
    hub.say_farewell();
    assert_eq!(next(&mut with).await, "bye\n");
    assert_eq!(next(&mut without).await, "\n");
}

#[tokio::test]
async fn a_stream_that_waits_long_for_a_read_is_not_silent_meanwhile() {
    tokio::time::pause();
    let written = Written::steps(300);
    let resources = Arc::new(Resources::new(1));
    let (port, log) = (port(ReplayChunks::Event), log_of_another_process(&written));
    let (_committed, head) = watch::channel(log.head());
    let hub = Hub::new(log, head, Arc::clone(&resources), &[CLASS]);
    let others_read = resources.decoders.acquire().await.unwrap();
    let selected = Subscription { kinds: FAULT.bit(), ..stored(&port, 7, 299) };
    for wanted in [stored(&port, 7, 299), selected] {
        let mut body = hub.subscribe(wanted);
        for _ in 0..2 {
            let begun = tokio::time::Instant::now();
            let keep_alive = tokio::time::timeout(Duration::from_secs(60), next(&mut body)).await.unwrap();
            assert_eq!((keep_alive.as_str(), begun.elapsed().as_secs()), (":\n\n", 15));
        }
    }
    drop(others_read);
    assert_eq!(text(hub.subscribe(stored(&port, 7, 299))).await, format!("{VERSION_FRAME}{}", frames(7..300)));
}

/// Lines of JSON, and how often a large event was opened for one of their readers.
#[derive(Clone)]
struct Opening {
    lines: JsonLines,
    opened: Arc<AtomicUsize>,
}

impl Rendering for Opening {
    fn id(&self) -> u16 {
        901
    }

    fn framing(&self) -> Framing {
        self.lines.framing()
    }

    fn render(&self, row: &Row<'_>, payload: &[u8], out: &mut Vec<u8>) {
        self.lines.render(row, payload, out);
    }

    fn render_large(&self, event: &LargeEvent) -> io::Result<Option<Box<dyn io::Read + Send>>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.lines.render_large(event)
    }
}

#[tokio::test]
async fn a_large_event_is_opened_once_for_each_of_many_clients_and_a_client_that_stalls_holds_no_other_up() {
    // The clock stands while threads read.
    tokio::time::pause();
    let mut written = Written::new();
    written.announce(version(2, 0));
    let large = "x".repeat(2 << 20);
    written.append(STEP, &large);
    written.commit();
    let hub = hub(&written, &Arc::new(Resources::new(2)));
    let port = port(ReplayChunks::Event);
    let opening = Opening { lines: JsonLines::of(&written.log), opened: Arc::default() };
    let subscribe = || hub.subscribe(rendered(&port, opening.clone(), 0, 0));
    let whole = format!("{{\"data\":{{\"ApiVersion\":\"2.0.0\"}}}}\n{{\"id\":0,\"text\":\"{large}\"}}\n");
    let read = futures_util::future::join_all((0..12).map(|_| text(subscribe()))).await;
    assert!(read.iter().all(|text| *text == whole));
    assert_eq!(opening.opened.load(Ordering::Relaxed), 12);

    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut body = subscribe();
        let begun = next(&mut body).await + &next(&mut body).await;
        stalled.push((body, begun));
    }
    let begun = tokio::time::Instant::now();
    assert!(text(subscribe()).await == whole);
    assert_eq!(begun.elapsed().as_millis() / 10, 10, "it has waited for one of them, and no longer");
    for (body, begun) in stalled {
        assert!(begun + &text(body).await == whole);
    }
    assert_eq!(opening.opened.load(Ordering::Relaxed), 12 + 4 + 1 + 1, "one has lost its turn");
}

#[tokio::test]
async fn head_gets_the_headers_of_a_stream_and_a_request_past_its_end_stops_a_client() {
    let (written, port) = (Written::steps(3), port(ReplayChunks::Event));
    let hub = hub(&written, &Arc::new(Resources::new(1)));
    let respond = |method: &Method, wanted| {
        let request = Request::builder().method(method).body(()).unwrap();
        hub.respond(&request.into_parts().0, wanted)
    };
    for method in [Method::GET, Method::HEAD] {
        let past = respond(&method, stored(&port, 2, 1));
        assert_eq!((past.status(), past.headers().len()), (StatusCode::NO_CONTENT, 0));
        let zstd = Subscription { coding: Coding::Zstd, ..rendered(&port, JsonLines::of(&written.log), 0, 2) };
        let zstd = respond(&method, zstd);
        assert_eq!(zstd.headers()[header::CONTENT_TYPE], "application/x-ndjson");
        assert_eq!(zstd.headers()[header::CONTENT_ENCODING], "zstd");
        let plain = respond(&method, stored(&port, 0, 2));
        assert_eq!(plain.status(), StatusCode::OK);
        assert_eq!(plain.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(HttpBody::size_hint(plain.body()).exact(), None, "the length is not known");
        let expected = if method == Method::GET { [VERSION_FRAME, &frames(0..3)].concat() } else { String::new() };
        assert_eq!(text(plain.into_body()).await, expected);
    }
    assert_eq!(hub.counters().streams_opened.get(), 2, "for HEAD none is opened");
}

#[tokio::test]
async fn a_start_that_the_log_does_not_hold_is_explained_in_json() {
    let mut written = Written::steps(1_000);
    written.writer.seal_now(2_000_000).unwrap();
    written.append_steps(1_000);
    written.commit();
    written.writer.maintenance().drop_before(1_000).unwrap();
    let hub = hub(&written, &Arc::new(Resources::new(1)));
    let port = port(ReplayChunks::Event);
    let lines = text(hub.subscribe(rendered(&port, JsonLines::of(&written.log), 3, 1_000))).await;
    let parsed: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let missing = &parsed[0]["missing"];
    assert_eq!((missing["from"].as_u64(), missing["to"].as_u64()), (Some(3), Some(999)));
    assert_eq!(missing["why"], "older than the oldest retained event");
    assert_eq!((parsed.len(), parsed[2]["id"].as_u64()), (3, Some(1_000)));
    let mut ahead =
        hub.subscribe(Subscription { until: None, ..rendered(&port, JsonLines::of(&written.log), 5_000, u64::MAX) });
    let comment = "the newest event of this log is 1999, before the start 5000; the stream continues with event 2000";
    assert_eq!(next(&mut ahead).await, format!("{{\"comment\":\"{comment}\"}}\n"));
}

#[tokio::test]
async fn while_the_disk_hangs_a_start_among_lost_events_waits_for_its_explanation_and_nothing_else_does() {
    let Written { mut writer, directory, log, .. } = Written::steps(1_000);
    writer.seal_now(2_000_000).unwrap();
    writer.close().unwrap();
    drop(log);
    let (open, reads) = over_failing_reads(directory.path());
    let oldest = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    let oldest = oldest.filter(|path| path.extension().is_some_and(|end| end == "segment")).min().unwrap();
    std::fs::remove_file(oldest).unwrap();
    let log = open();
    let lost = log.oldest();
    assert!(lost > 0);
    let (_committed, head) = watch::channel(log.head());
    let hub = Hub::new(log.clone(), head, Arc::new(Resources::new(1)), &[CLASS]);
    let port = port(ReplayChunks::Event);
    let hanging = reads.hang();
    let mut body = hub.subscribe(rendered(&port, JsonLines::of(&log), 0, lost));
    assert!(next(&mut body).now_or_never().is_none());
    drop(hanging);
    let parsed: Value = serde_json::from_str(&next(&mut body).await).unwrap();
    assert_eq!((parsed["missing"]["from"].as_u64(), parsed["missing"]["to"].as_u64()), (Some(0), Some(lost - 1)));
}

#[tokio::test]
async fn the_lines_of_a_named_log_have_the_events_names() {
    let mut written = Written::with(|options| options.frame_form = FrameForm::Named);
    written.append_named("head", "{\"slot\":\"10\"}");
    written.append_named("", "not json");
    written.commit();
    let hub = hub(&written, &Arc::new(Resources::new(1)));
    let lines = text(hub.subscribe(rendered(&port(ReplayChunks::Event), JsonLines::of(&written.log), 0, 1))).await;
    assert_eq!(lines, "{\"id\":0,\"event\":\"head\",\"data\":{\"slot\":\"10\"}}\n{\"id\":1,\"text\":\"not json\"}\n");
}

/// An event's id and its data, a text where that is not JSON; or a mark's id.
#[derive(Debug, PartialEq)]
struct Message {
    id: Option<u64>,
    data: Option<Result<Value, String>>,
}

fn of_event_stream(text: &str) -> Vec<Message> {
    let message = |message: &str| {
        let mut data: Option<String> = None;
        let mut id = None;
        for line in message.split('\n') {
            let (name, value) = line.split_once(':').unwrap();
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "data" => data = Some(data.map_or(value.to_owned(), |data| format!("{data}\n{value}"))),
                "id" => id = Some(value.parse().unwrap()),
                other => panic!("{other}"),
            }
        }
        Message { id, data: data.map(|data| serde_json::from_str(&data).map_err(|_| data)) }
    };
    text.split_terminator("\n\n").map(message).collect()
}

fn of_lines(text: &str) -> Vec<Message> {
    let message = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = line.get("text").map(|text| Err(text.as_str().unwrap().to_owned()));
        Message { id: line.get("id").map(|id| id.as_u64().unwrap()), data: line.get("data").cloned().map(Ok).or(text) }
    };
    text.lines().map(message).collect()
}

/// Payloads of every kind that a log may hold: JSON in one line and in several, text, and what looks like a frame.
fn payloads() -> impl Strategy<Value = Vec<String>> {
    let payload = prop_oneof![
        4 => Just("{\"a\":[1,\"é\\n\"]}".to_owned()),
        2 => Just("{\n  \"a\": 1\n}".to_owned()),
        1 => Just(" \n17\n ".to_owned()),
        2 => "[^\r]{1,40}",
        1 => Just("\nid:7\n\ndata:{}".to_owned()),
        1 => Just("\u{1}\"\\\t\u{7f}".repeat(300_000)),
        1 => Just(format!("[\n\"{}\"]", "x".repeat(1_200_000))),
    ];
    prop::collection::vec(payload, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn ids_and_data_of_ndjson_are_those_of_the_event_stream(
        payloads in payloads(),
        commits in prop::collection::vec(any::<bool>(), 12),
        start in 0..12_u64,
        kinds in prop_oneof![Just(u64::MAX), Just(FAULT.bit())],
        by_block: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut written = Written::new();
            written.announce(version(2, 0));
            for (number, payload) in payloads.iter().enumerate() {
                written.append(if number % 3 == 0 { FAULT } else { STEP }, payload);
                if commits[number] {
                    written.commit();
                }
            }
            written.commit();
            let (start, until) = (start.min(payloads.len() as u64 - 1), payloads.len() as u64 - 1);
            let port = port(if by_block { ReplayChunks::Block } else { ReplayChunks::Event });
            let hub = hub(&written, &Arc::new(Resources::new(2)));
            let sse = text(hub.subscribe(Subscription { kinds, ..stored(&port, start, until) })).await;
            let lines = || Subscription { kinds, ..rendered(&port, JsonLines::of(&written.log), start, until) };
            let ndjson = text(hub.subscribe(lines())).await;
            let (expected, got) = (of_event_stream(&sse), of_lines(&ndjson));
            assert!(got == expected, "{} and {} messages", got.len(), expected.len());
            // Compressed, it is the same.
            let zstd = bytes(hub.subscribe(Subscription { coding: Coding::Zstd, ..lines() })).await;
            assert!(zstd::decode_all(&zstd[..]).unwrap() == ndjson.as_bytes());
        });
    }
}

#[tokio::test]
async fn what_is_rendered_stays_within_its_bound() {
    let mut written = Written::with(|options| {
        options.block_bytes_max = 256 << 10;
        options.segment_bytes_max = 64 << 20;
    });
    written.announce(version(2, 0));
    // More in this form than is kept.
    let payload = format!("{{\"Step\":\"{}\"}}", "x".repeat(60_000));
    let events = 600;
    for _ in 0..events {
        written.append(STEP, &payload);
    }
    written.commit();
    let resources = Arc::new(Resources::new(2));
    let hub = hub(&written, &resources);
    let port = port(ReplayChunks::Block);
    let mut body = hub.subscribe(rendered(&port, JsonLines::of(&written.log), 0, events - 1));
    let mut read = 0;
    while let Some(piece) = body.frame().await {
        read += piece.unwrap().into_data().unwrap().len();
        assert!(resources.rendered.kept_bytes() <= super::resources::RENDERED_BYTES_MAX);
    }
    assert!(read > 2 * super::resources::RENDERED_BYTES_MAX);
    assert!(resources.rendered.kept_bytes() > super::resources::RENDERED_BYTES_MAX / 2);
}
