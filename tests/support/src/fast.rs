//! A node for benchmarks: an endless sequence of unique, realistic events, as fast as a socket takes them.
//!
//! In: a story, made once and rendered to the bytes of its frames ([`EndlessStory`]). Out: on each connection the same
//! sequence, pass after pass over the rendered bytes. Each pass differs in the fields that make events what they are: the
//! hashes of blocks and transactions, heights, eras, timestamps and ids, all of fixed width, patched in a copy of the
//! piece that is about to be written. So an event costs little more than copying its bytes.
//!
//! Also [`raw_reader`]: a client that only counts, the yardstick for everything between the two.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::http;
use crate::story::{EventKind, Story, StoryOptions};

/// Heights begin here, so that all of a run have eight digits.
const FIRST_HEIGHT: u64 = 10_000_000;
/// Eras begin here, so that all of a run have six digits.
const FIRST_ERA: u64 = 100_000;
/// Ids begin here, so that all of a run have ten digits (and the first two billion fit in 32 bits).
const FIRST_ID: u64 = 1_000_000_000;
const ID_DIGITS: usize = 10;
/// The end of a frame after its payload: a line feed, `id:`, the id, two line feeds.
const FRAME_END_BYTES: usize = 1 + 3 + ID_DIGITS + 2;
/// Events are written in pieces of about this size, each as one chunk.
const PIECE_BYTES: usize = 256 * 1024;

/// An endless sequence of events, numbered from 0, each unlike all others in its identity.
///
/// One pass is the rendered story; the sequence continues with heights, eras, timestamps and ids where the last pass ended.
/// Signatures' bytes and accounts repeat from pass to pass, 18 MB apart.
pub struct EndlessStory {
    frames: Vec<u8>,
    /// For each event of a pass: where its frame ends in `frames`, and where its patches end in `patches`.
    ends: Vec<End>,
    patches: Vec<Patch>,
    blocks: u64,
    eras: u64,
    milliseconds: u64,
    signatures: usize,
}

#[derive(Clone, Copy)]
struct End {
    frame: usize,
    patch: usize,
}

/// A field of a frame that changes from pass to pass.
struct Patch {
    offset: usize,
    field: Field,
}

enum Field {
    /// The first 32 bits of a hash, in 8 hexadecimal digits.
    Hash(u32),
    /// In 8 decimal digits.
    Height(u64),
    /// In 6 decimal digits.
    Era(u64),
    /// Milliseconds since 1970, as `2026-11-22T04:45:17.845Z`.
    Timestamp(u64),
}

impl EndlessStory {
    /// Renders a story of `blocks` blocks in the default mix (about 121 events and 93 kB each). It must be a whole
    /// number of eras of 10 blocks; 200 blocks repeat after 24,000 events.
    pub fn render(seed: u64, blocks: u64) -> Self {
        let options = StoryOptions {
            blocks,
            first_height: FIRST_HEIGHT,
            first_era: FIRST_ERA,
            block_interval_ms: 1_000,
            ..StoryOptions::default()
        };
        assert_eq!(blocks % options.blocks_per_era, 0, "a pass ends with an era");
        let story = Story::new(seed, &options);
        let changing = changing_hashes(&story);

        let (mut frames, mut ends, mut patches) = (Vec::new(), Vec::new(), Vec::new());
        for event in story.events() {
            frames.extend_from_slice(b"data:");
            find_patches(&event.payload, frames.len(), &changing, &mut patches);
            frames.extend_from_slice(event.payload.as_bytes());
            frames.extend_from_slice(format!("\nid:{:0ID_DIGITS$}\n\n", 0).as_bytes());
            ends.push(End { frame: frames.len(), patch: patches.len() });
        }
        let signatures = story.events().iter().filter(|event| event.kind == EventKind::FinalitySignature).count();
        Self {
            frames,
            ends,
            patches,
            blocks,
            eras: blocks / options.blocks_per_era,
            milliseconds: blocks * options.block_interval_ms,
            signatures,
        }
    }

    /// How many events one pass has.
    pub fn pass_events(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The average size of an event's payload in bytes.
    pub fn average_payload_bytes(&self) -> f64 {
        self.frames.len() as f64 / self.ends.len() as f64 - ("data:".len() + FRAME_END_BYTES) as f64
    }

    /// Which part of the events are finality signatures.
    pub fn signature_share(&self) -> f64 {
        self.signatures as f64 / self.ends.len() as f64
    }

    /// The upstream id of event `number`.
    pub fn id(number: u64) -> u64 {
        FIRST_ID + number
    }

    /// The payload of event `number`, for sending it again by other means.
    pub fn payload(&self, number: u64) -> String {
        let mut frame = Vec::new();
        self.append_frames(number, 1, usize::MAX, &mut frame);
        let payload = &frame["data:".len()..frame.len() - FRAME_END_BYTES];
        std::str::from_utf8(payload).unwrap().to_owned()
    }

    /// Appends the frames of the events from `first` on: at most `events` of them, at most `bytes_max` bytes but at least
    /// one event, and not beyond the end of a pass. Returns how many.
    pub fn append_frames(&self, first: u64, events: u64, bytes_max: usize, to: &mut Vec<u8>) -> u64 {
        let pass = first / self.pass_events();
        let from = (first % self.pass_events()) as usize;
        let start = from.checked_sub(1).map_or(End { frame: 0, patch: 0 }, |before| self.ends[before]);
        let within_bytes = self.ends[from..].partition_point(|end| end.frame - start.frame <= bytes_max).max(1);
        let until = from + within_bytes.min(usize::try_from(events).unwrap());
        let end = self.ends[until - 1];

        // Where a byte of `frames` comes to lie in `to`.
        let base = to.len();
        to.extend_from_slice(&self.frames[start.frame..end.frame]);
        let copy = &mut to[base..];
        for patch in &self.patches[start.patch..end.patch] {
            let field = &mut copy[patch.offset - start.frame..];
            match patch.field {
                // Multiplying by an odd number maps no two passes to the same bits.
                Field::Hash(bits) => write_hex(bits ^ (pass as u32).wrapping_mul(0x9E37_79B1), &mut field[..8]),
                Field::Height(height) => write_decimal(height + pass * self.blocks, &mut field[..8]),
                Field::Era(era) => write_decimal(era + pass * self.eras, &mut field[..6]),
                Field::Timestamp(time) => write_timestamp(time + pass * self.milliseconds, &mut field[..24]),
            }
        }
        for (number, end) in (first..).zip(&self.ends[from..until]) {
            let digits = end.frame - start.frame - 2 - ID_DIGITS;
            write_decimal(Self::id(number), &mut copy[digits..digits + ID_DIGITS]);
        }
        (until - from) as u64
    }
}

/// The hashes, as text, that a new pass must change: of the story's blocks and transactions.
fn changing_hashes(story: &Story) -> HashSet<&str> {
    let kinds = [EventKind::BlockAdded, EventKind::TransactionAccepted];
    let events = story.events().iter().filter(|event| kinds.contains(&event.kind));
    events.map(|event| event.identity.split_once(':').unwrap().1).collect()
}

/// Finds the fields to patch in a payload that will lie at `base`.
fn find_patches(payload: &str, base: usize, changing: &HashSet<&str>, patches: &mut Vec<Patch>) {
    let first = patches.len();
    // Every hash that is alone between quotes.
    let bytes = payload.as_bytes();
    for quote in memchr::memchr_iter(b'"', bytes) {
        if bytes.get(quote + 65) == Some(&b'"')
            && let Some(hash) = payload.get(quote + 1..quote + 65)
            && changing.contains(hash)
        {
            let bits = u32::from_str_radix(&hash[..8], 16).unwrap();
            patches.push(Patch { offset: base + quote + 1, field: Field::Hash(bits) });
        }
    }
    let mut find = |name: &str, field: &dyn Fn(&str) -> Field| {
        for (start, _) in payload.match_indices(name) {
            let value = &payload[start + name.len()..];
            patches.push(Patch { offset: base + start + name.len(), field: field(value) });
        }
    };
    find("\"height\":", &|value| Field::Height(leading_number(value, 8)));
    find("\"block_height\":", &|value| Field::Height(leading_number(value, 8)));
    find("\"era_id\":", &|value| Field::Era(leading_number(value, 6)));
    find("\"timestamp\":\"", &|value| {
        let timestamp: casper_types::Timestamp = value[..24].parse().expect("timestamps have milliseconds");
        Field::Timestamp(timestamp.millis())
    });
    // In the order of memory, for the processor's sake.
    patches[first..].sort_unstable_by_key(|patch| patch.offset);
}

fn leading_number(text: &str, digits: usize) -> u64 {
    assert!(!text.as_bytes()[digits].is_ascii_digit(), "the field has {digits} digits");
    text[..digits].parse().unwrap()
}

fn write_hex(bits: u32, field: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (digit, shift) in field.iter_mut().zip((0..32).step_by(4).rev()) {
        *digit = DIGITS[(bits >> shift & 0xF) as usize];
    }
}

fn write_decimal(mut number: u64, field: &mut [u8]) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    debug_assert_eq!(number, 0, "the number fits its field");
}

/// Writes `2026-11-22T04:45:17.845Z`.
fn write_timestamp(milliseconds: u64, field: &mut [u8]) {
    let (seconds, days) = (milliseconds / 1_000, milliseconds / 86_400_000);
    // Howard Hinnant's `civil_from_days`, for days after 1970.
    let shifted = days + 719_468;
    let (century, day_of_century) = (shifted / 146_097, shifted % 146_097);
    let year_of_century =
        (day_of_century - day_of_century / 1_460 + day_of_century / 36_524 - day_of_century / 146_096) / 365;
    let day_of_year = day_of_century - (365 * year_of_century + year_of_century / 4 - year_of_century / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_century + century * 400 + u64::from(month <= 2);

    field.copy_from_slice(b"0000-00-00T00:00:00.000Z");
    write_decimal(year, &mut field[0..4]);
    write_decimal(month, &mut field[5..7]);
    write_decimal(day, &mut field[8..10]);
    write_decimal(seconds / 3_600 % 24, &mut field[11..13]);
    write_decimal(seconds / 60 % 60, &mut field[14..16]);
    write_decimal(seconds % 60, &mut field[17..19]);
    write_decimal(milliseconds % 1_000, &mut field[20..23]);
}

/// How a fast node starts.
#[derive(Debug, Clone)]
pub struct FastOptions {
    /// Events are sent up to this number and not beyond, until [`FastNode::send_up_to`] allows more.
    pub events: u64,
    /// Events per second on each connection, evenly; without it as fast as the socket takes them.
    pub rate: Option<u32>,
    /// A new connection starts this many events before the furthest event sent so far, like a node's ring; without it
    /// at event 0.
    pub ring: Option<u64>,
    /// A comment is sent after this time without an event.
    pub keep_alive: Duration,
    /// `chainspec_name` of `/status`.
    pub chainspec_name: String,
}

impl Default for FastOptions {
    fn default() -> Self {
        Self {
            events: u64::MAX,
            rate: None,
            ring: None,
            keep_alive: Duration::from_secs(1),
            chainspec_name: "casper-test".to_owned(),
        }
    }
}

/// A running fast node; its threads end when it is dropped.
pub struct FastNode {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    story: Arc<EndlessStory>,
    options: FastOptions,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// One more than the last event that may be sent.
    allowed: u64,
    /// One more than the furthest event sent on any connection.
    sent: u64,
    /// When each event was handed to the system first, from event 0; kept only with a rate.
    sent_at: Vec<Instant>,
    stopping: bool,
}

impl FastNode {
    /// Starts telling `story` on a free port of loopback.
    pub fn start(story: Arc<EndlessStory>, options: FastOptions) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { allowed: options.events, sent: 0, sent_at: Vec::new(), stopping: false };
        let shared = Arc::new(Shared { story, options, state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if accepting.state().stopping {
                    return;
                }
                let (serving, socket) = (Arc::clone(&accepting), connection.unwrap());
                // An error only means that the client has gone.
                std::thread::spawn(move || serving.serve(socket));
            }
        });
        Self { address, shared }
    }

    /// Where it serves `/status` and everything else as the event stream.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the streams continue until `events` have been sent in all, counted from event 0.
    pub fn send_up_to(&self, events: u64) {
        self.shared.state().allowed = events;
        self.shared.changed.notify_all();
    }

    /// How many events have been handed to the system on the connection that is furthest.
    pub fn sent(&self) -> u64 {
        self.shared.state().sent
    }

    /// When event `number` was handed to the system first; known only for a node with a rate.
    pub fn sent_at(&self, number: u64) -> Option<Instant> {
        self.shared.state().sent_at.get(usize::try_from(number).ok()?).copied()
    }
}

impl Drop for FastNode {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address); // wakes the accepting thread
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(&self, mut socket: TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let mut head = Vec::new();
        let target = loop {
            let mut buffer = [0; 1024];
            let count = socket.read(&mut buffer)?;
            head.extend_from_slice(&buffer[..count]);
            if count == 0 || head.len() > http::HEAD_BYTES_MAX {
                return Ok(());
            }
            if let Some((_, target)) = http::request(&head) {
                break target;
            }
        };
        if target == "/status" {
            let status = serde_json::json!({
                "build_version": "2.0.3-simulated",
                "chainspec_name": self.options.chainspec_name,
            });
            return socket.write_all(http::answer(200, "application/json", &status.to_string()).as_bytes());
        }
        self.stream(socket)
    }

    fn stream(&self, mut socket: TcpStream) -> std::io::Result<()> {
        let mut piece = http::STREAM_HEAD.as_bytes().to_vec();
        http::append_chunk(&mut piece, b"data:{\"ApiVersion\":\"2.0.0\"}\n\n");
        socket.write_all(&piece)?;

        let mut next = self.options.ring.map_or(0, |ring| self.state().sent.saturating_sub(ring));
        // A replayed ring is sent at once; the pace begins after it.
        let pace = self.options.rate.map(|rate| Pace { start: Instant::now(), first: self.state().sent, rate });
        loop {
            let Some(due) = self.wait_for_due(next, pace.as_ref()) else { return Ok(()) };
            piece.clear();
            if due == 0 {
                http::append_chunk(&mut piece, b":\n\n");
                socket.write_all(&piece)?;
                continue;
            }
            // The chunk's size in a fixed place before it: leading zeros are allowed.
            piece.extend_from_slice(b"00000000\r\n");
            let events = self.story.append_frames(next, due, PIECE_BYTES, &mut piece);
            let size = u32::try_from(piece.len() - 10).unwrap();
            write_hex(size, &mut piece[..8]);
            piece.extend_from_slice(b"\r\n");
            self.note_sent(next, events);
            socket.write_all(&piece)?;
            next += events;
        }
    }

    /// How many events from `next` on may be sent now; 0 when it is time for a keep-alive, nothing when the node stops.
    fn wait_for_due(&self, next: u64, pace: Option<&Pace>) -> Option<u64> {
        let keep_alive_at = Instant::now() + self.options.keep_alive;
        let mut state = self.state();
        loop {
            if state.stopping {
                return None;
            }
            let now = Instant::now();
            let on_pace = pace.map_or(u64::MAX, |pace| pace.due(now));
            let due = state.allowed.min(on_pace).saturating_sub(next);
            if due > 0 {
                return Some(due);
            }
            let Some(until_keep_alive) = keep_alive_at.checked_duration_since(now) else { return Some(0) };
            let wait = match pace {
                Some(pace) if state.allowed > next => pace.instant(next).saturating_duration_since(now),
                _ => until_keep_alive,
            };
            state = self.changed.wait_timeout(state, wait.min(until_keep_alive)).unwrap().0;
        }
    }

    fn note_sent(&self, first: u64, events: u64) {
        let mut state = self.state();
        let until = first + events;
        if self.options.rate.is_some() && until > state.sent {
            let until = usize::try_from(until).unwrap();
            state.sent_at.resize(until, Instant::now());
        }
        state.sent = state.sent.max(until);
    }
}

/// An even rate from a start on.
struct Pace {
    start: Instant,
    first: u64,
    rate: u32,
}

impl Pace {
    /// One more than the last event that is due.
    fn due(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let events = elapsed * u128::from(self.rate) / 1_000_000_000;
        self.first + 1 + u64::try_from(events).unwrap()
    }

    fn instant(&self, number: u64) -> Instant {
        let nanoseconds = u128::from(number.saturating_sub(self.first)) * 1_000_000_000 / u128::from(self.rate);
        self.start + Duration::from_nanos(u64::try_from(nanoseconds + 1).unwrap())
    }
}

/// What a bare reader measured.
#[derive(Debug, Clone, Copy)]
pub struct RawReading {
    /// Frames read: events, the version and comments.
    pub frames: u64,
    /// Bytes read, HTTP's own included.
    pub bytes: u64,
    /// From the request to the last frame.
    pub elapsed: Duration,
}

impl RawReading {
    /// Frames per second.
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.elapsed.as_secs_f64()
    }
}

/// Asks for `GET target` and reads, counting the empty lines that end frames, until at least `frames` are there or the
/// server ends the connection. Nothing is parsed: what a socket gives at best.
pub fn raw_reader(address: SocketAddr, target: &str, frames: u64) -> std::io::Result<RawReading> {
    let mut socket = TcpStream::connect(address)?;
    let start = Instant::now();
    socket.write_all(format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes())?;

    let frame_end = memchr::memmem::Finder::new(b"\n\n");
    let mut buffer = vec![0; PIECE_BYTES];
    let mut reading = RawReading { frames: 0, bytes: 0, elapsed: Duration::ZERO };
    let mut cut_after_line_feed = false;
    while reading.frames < frames {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let received = &buffer[..count];
        // A frame's end may be cut in two; then its second half is no beginning of another.
        let whole = if cut_after_line_feed && received[0] == b'\n' {
            reading.frames += 1;
            &received[1..]
        } else {
            received
        };
        reading.frames += frame_end.find_iter(whole).count() as u64;
        reading.bytes += count as u64;
        cut_after_line_feed = whole.ends_with(b"\n") && !whole.ends_with(b"\n\n");
    }
    reading.elapsed = start.elapsed();
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::SseClient;
    use casper_types::{Block, FinalitySignature, Transaction};
    use serde_json::Value;

    fn story() -> Arc<EndlessStory> {
        Arc::new(EndlessStory::render(1, 10))
    }

    /// What makes an event what it is, with its height or timestamp if it has one.
    fn identity(payload: &str) -> String {
        let value: Value = serde_json::from_str(payload).unwrap();
        let (kind, inner) = value.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "BlockAdded" => {
                let block: Block = serde_json::from_value(inner["block"].clone()).unwrap();
                assert_eq!(serde_json::to_value(block.hash()).unwrap(), inner["block_hash"]);
                format!("{kind} {}", inner["block_hash"])
            }
            "FinalitySignature" => {
                let signature: FinalitySignature = serde_json::from_value(inner.clone()).unwrap();
                format!("{kind} {} {}", signature.block_hash(), signature.public_key())
            }
            "TransactionAccepted" => {
                serde_json::from_value::<Transaction>(inner.clone()).unwrap();
                let (version, transaction) = inner.as_object().unwrap().iter().next().unwrap();
                format!("{kind} {version} {}", transaction["hash"])
            }
            "TransactionProcessed" | "TransactionExpired" => format!("{kind} {}", inner["transaction_hash"]),
            "Fault" => format!("{kind} {} {}", inner["era_id"], inner["public_key"]),
            "Step" => format!("{kind} {}", inner["era_id"]),
            other => panic!("{other} is not part of a story"),
        }
    }

    #[test]
    fn events_of_several_passes_are_valid_and_all_different() {
        let story = story();
        let passes = 3;
        let identities: HashSet<String> =
            (0..passes * story.pass_events()).map(|number| identity(&story.payload(number))).collect();
        assert_eq!(identities.len() as u64, passes * story.pass_events());
    }

    #[test]
    fn blocks_keep_rising_from_pass_to_pass_and_signatures_belong_to_them() {
        let story = story();
        let (mut blocks, mut last_time) = (Vec::new(), String::new());
        for number in 0..3 * story.pass_events() {
            let value: Value = serde_json::from_str(&story.payload(number)).unwrap();
            if let Some(block) = value.pointer("/BlockAdded/block/Version2") {
                let time = block["header"]["timestamp"].as_str().unwrap().to_owned();
                assert!(time > last_time, "{time} after {last_time}");
                last_time = time;
                blocks.push((
                    block["hash"].clone(),
                    block["header"]["height"].as_u64().unwrap(),
                    block["header"]["era_id"].as_u64().unwrap(),
                ));
            }
            if let Some(signature) = value.pointer("/FinalitySignature/V2")
                && let Some(block) = blocks.iter().find(|(hash, ..)| *hash == signature["block_hash"])
            {
                assert_eq!(
                    (Some(block.1), Some(block.2)),
                    (signature["block_height"].as_u64(), signature["era_id"].as_u64())
                );
            }
        }
        assert_eq!(blocks.len(), 30);
        for (expected, (_, height, era)) in (0..).zip(&blocks) {
            assert_eq!((*height, *era), (FIRST_HEIGHT + expected, FIRST_ERA + expected / 10));
        }
    }

    #[test]
    fn timestamps_are_written_as_casper_types_reads_them() {
        for milliseconds in [0, 951_826_554_003, 1_709_251_199_999, 1_795_322_717_845, 4_102_444_800_000] {
            let mut text = [0; 24];
            write_timestamp(milliseconds, &mut text);
            let parsed: casper_types::Timestamp = std::str::from_utf8(&text).unwrap().parse().unwrap();
            assert_eq!(parsed.millis(), milliseconds);
        }
    }

    #[tokio::test]
    async fn a_client_gets_exactly_the_allowed_events_and_then_only_keep_alives() {
        let story = story();
        let events = story.pass_events() + 100;
        let options = FastOptions { events, keep_alive: Duration::from_millis(20), ..FastOptions::default() };
        let node = FastNode::start(Arc::clone(&story), options);
        let mut client = SseClient::connect(node.address(), "/events?start_from=0").await;
        assert_eq!(client.expect_message().await.data, r#"{"ApiVersion":"2.0.0"}"#);
        for (number, message) in (0..).zip(client.read_messages(events as usize).await) {
            assert_eq!((message.data, message.id), (story.payload(number), Some(EndlessStory::id(number))));
        }
        assert_eq!(client.next_chunk().await.unwrap(), ":\n\n");
        node.send_up_to(events + 1);
        assert_eq!(client.expect_message().await.data, story.payload(events));
        assert_eq!(node.sent(), events + 1);
    }

    #[tokio::test]
    async fn a_paced_node_knows_when_it_sent_what() {
        let options = FastOptions { events: 50, rate: Some(1_000), ..FastOptions::default() };
        let node = FastNode::start(story(), options);
        let before = Instant::now();
        let mut client = SseClient::connect(node.address(), "/events").await;
        client.read_messages(51).await;
        let sent: Vec<Instant> = (0..50).map(|number| node.sent_at(number).unwrap()).collect();
        assert!(sent.is_sorted() && before < sent[0]);
        assert!(sent[49] - before >= Duration::from_millis(49), "never faster than the rate");
        assert_eq!(node.sent_at(50), None);
    }

    #[tokio::test]
    async fn with_a_ring_a_later_connection_begins_shortly_before_the_others_position() {
        let options = FastOptions { events: 500, ring: Some(20), ..FastOptions::default() };
        let node = FastNode::start(story(), options);
        let mut first = SseClient::connect(node.address(), "/events?start_from=0").await;
        first.read_until_id(EndlessStory::id(499)).await;
        let mut second = SseClient::connect(node.address(), "/events?start_from=0").await;
        second.expect_message().await;
        assert_eq!(second.expect_message().await.id, Some(EndlessStory::id(480)));
    }

    #[test]
    fn the_raw_reader_counts_every_frame() {
        let node = FastNode::start(story(), FastOptions { events: 5_000, ..FastOptions::default() });
        let reading = raw_reader(node.address(), "/events", 5_001).unwrap();
        assert_eq!(reading.frames, 5_001);
        assert!(reading.bytes > 5_000 * 700, "{reading:?}");
    }
}
