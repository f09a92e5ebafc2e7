//! An event stream client that hides nothing: it shows the response head, the chunks as they were sent, and the
//! messages as a browser's EventSource would see them.
//!
//! In: a request to a server on loopback. Out: bytes or messages, each awaited with a deadline; a test that waits in vain
//! fails with what had arrived so far. It follows no redirects and keeps no connection for later.

use std::collections::VecDeque;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How long any one wait lasts before the test fails, unless the request has another limit.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a stream sends when it was silent for long.
const KEEP_ALIVE: &[u8] = b":\n\n";

/// A whole response.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names, in lower case, and values, as they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The first header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// What `GET target` is answered.
pub async fn get(address: SocketAddr, target: &str) -> Answer {
    Request::get(address, target).answer().await
}

/// The value of a metric that the admin server at `address` shows: `name` is the whole sample's, with its labels.
pub async fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = get(address, "/metrics").await.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// The bounds of a histogram's buckets in the text of `/metrics`, as they are written.
pub fn bucket_bounds<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let buckets = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket{"));
    let mut bounds: Vec<&str> = Vec::new();
    for bound in buckets.filter_map(|labels| labels.split_once("le=\"")?.1.split('"').next()) {
        if !bounds.contains(&bound) {
            bounds.push(bound);
        }
    }
    bounds
}

/// Opens `clients` streams of the same request: one in twenty reads what is `expected`, the others stall with full buffers.
/// Returns those that stall once the others have read.
pub async fn crowd(request: Request, clients: usize, expected: Vec<u8>) -> Vec<SseClient> {
    let expected = Arc::new(expected);
    let (mut stalled, mut reading) = (Vec::new(), JoinSet::new());
    for number in 0..clients {
        let request = request.clone();
        if number % 20 > 0 {
            stalled.push(request.slow(4_096).open().await);
            continue;
        }
        let expected = Arc::clone(&expected);
        reading.spawn(async move { request.open().await.expect_bytes(&expected).await });
    }
    reading.join_all().await;
    stalled
}

/// A request that has not been sent yet.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    address: SocketAddr,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
    last_event_id: Option<u64>,
    receive_buffer_bytes: Option<u32>,
    read_bytes: usize,
    patience: Duration,
}

impl Request {
    /// `GET target` (a path with its query).
    pub fn get(address: SocketAddr, target: &str) -> Self {
        Self::new("GET", address, target)
    }

    /// A request with any method, and no body unless one is [given](Self::body).
    pub fn new(method: &str, address: SocketAddr, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            address,
            target: target.to_owned(),
            headers: Vec::new(),
            body: String::new(),
            last_event_id: None,
            receive_buffer_bytes: None,
            read_bytes: 64 * 1024,
            patience: PATIENCE,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends a body.
    pub fn body(mut self, body: &str) -> Self {
        self.body = body.to_owned();
        self
    }

    /// Resumes after this id, as a browser does by itself.
    pub fn last_event_id(mut self, id: u64) -> Self {
        self.last_event_id = Some(id);
        self
    }

    /// Takes little at a time: the system buffers about `bytes` for this client, so that its slowness reaches the
    /// server soon.
    pub fn slow(mut self, bytes: u32) -> Self {
        self.receive_buffer_bytes = Some(bytes);
        self.read_bytes = bytes as usize;
        self
    }

    /// Waits this long instead of 30 s before a test fails.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends the request and reads the head of the response.
    pub async fn open(self) -> SseClient {
        let description = format!("{} {} on {}", self.method, self.target, self.address);
        let opened = tokio::time::timeout(self.patience, self.try_open()).await;
        let opened = opened.unwrap_or_else(|_| panic!("{description}: no answer in time"));
        opened.unwrap_or_else(|error| panic!("{description}: {error}"))
    }

    /// Sends the request and reads the whole response, which ends by itself and is text.
    pub async fn answer(self) -> Answer {
        let mut response = self.open().await;
        let headers = response.headers().to_vec();
        let body = String::from_utf8(response.body().await).expect("the body is no text");
        Answer { status: response.status(), headers, body }
    }

    /// Like [`open`](Self::open), but a refused or broken connection is an error and not the test's end.
    pub async fn try_open(self) -> std::io::Result<SseClient> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut stream = socket.connect(self.address).await?;
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.target, self.address);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(id) = self.last_event_id {
            head.push_str(&format!("last-event-id: {id}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        head.push_str(&self.body);
        stream.write_all(head.as_bytes()).await?;

        let mut input = BytesMut::with_capacity(self.read_bytes);
        let head = loop {
            if let Some(head) = ResponseHead::take_from(&mut input)? {
                break head;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        };
        let zstd = head.header("content-encoding") == Some("zstd");
        Ok(SseClient {
            body: Body::of(&head, &self.method),
            decoder: zstd.then(|| zstd::stream::write::Decoder::new(Vec::new()).unwrap()),
            head,
            stream,
            input,
            parser: EventParser::default(),
            ready: VecDeque::new(),
            comments: Vec::new(),
            unread: Vec::new(),
            recent: Bytes::new(),
            messages_so_far: 0,
            last_event_id: self.last_event_id,
            request: self,
        })
    }
}

/// What dispatches an event in a browser: data, ended by an empty line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The `data:` lines, joined by line feeds.
    pub data: String,
    /// The `id:` line of this very message; a browser would keep the last one instead.
    pub id: Option<u64>,
}

/// Those of `messages` that have an id, all but the versions on most streams: their ids and data.
pub fn events(messages: &[Message]) -> Vec<(u64, &str)> {
    messages.iter().filter_map(|message| Some((message.id?, message.data.as_str()))).collect()
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With the last chunk, or after the announced length.
    Finished,
    /// The connection was cut before.
    Cut,
}

/// An open response.
pub struct SseClient {
    request: Request,
    head: ResponseHead,
    stream: TcpStream,
    /// Received and not yet taken apart.
    input: BytesMut,
    body: Body,
    decoder: Option<zstd::stream::write::Decoder<'static, Vec<u8>>>,
    parser: EventParser,
    ready: VecDeque<Message>,
    comments: Vec<String>,
    /// Of a chunk that held more than [`SseClient::expect_bytes`] was to read.
    unread: Vec<u8>,
    /// The last piece of the body, shown when a test fails.
    recent: Bytes,
    messages_so_far: u64,
    last_event_id: Option<u64>,
}

impl SseClient {
    /// Opens `GET target`.
    pub async fn connect(address: SocketAddr, target: &str) -> Self {
        Request::get(address, target).open().await
    }

    /// The response's status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// All headers in the order sent, names in lower case.
    pub fn headers(&self) -> &[(String, String)] {
        &self.head.headers
    }

    /// The next chunk as the server sent it, compressed or not; `None` after the end. In a body without chunks, what
    /// arrived at once.
    pub async fn next_chunk(&mut self) -> Option<Bytes> {
        let patience = self.request.patience;
        let chunk = match tokio::time::timeout(patience, self.receive_chunk()).await {
            Ok(chunk) => chunk,
            Err(_) => panic!(
                "{} {}: nothing for {patience:?} after {} messages; the last piece of the body: {:?}",
                self.request.method,
                self.request.target,
                self.messages_so_far,
                String::from_utf8_lossy(&self.recent[self.recent.len().saturating_sub(2_000)..]),
            ),
        };
        self.recent = chunk.clone().unwrap_or_default();
        chunk
    }

    /// The rest of the body, decompressed, after what [`expect_bytes`](Self::expect_bytes) has taken.
    pub async fn body(&mut self) -> Vec<u8> {
        self.body_until(|_| false).await
    }

    /// The body, decompressed, up to the piece with which `enough` of all read by this call is true, or to its end.
    pub async fn body_until(&mut self, mut enough: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.unread);
        while !enough(&bytes) {
            let Some(chunk) = self.next_chunk().await else { break };
            let plain = self.decode(chunk);
            bytes.extend_from_slice(&plain);
        }
        bytes
    }

    /// Reads as many bytes of the body, decompressed, as `expected` has, and fails the test where they differ. Keep-alive
    /// comments that are not expected do not count.
    pub async fn expect_bytes(&mut self, expected: &[u8]) {
        let mut bytes = std::mem::take(&mut self.unread);
        let mut compared = 0;
        let mut same_so_far = |bytes: &[u8]| {
            let end = bytes.len().min(expected.len());
            let same = bytes[compared..end] == expected[compared..end];
            compared = end;
            same
        };
        while same_so_far(&bytes) && bytes.len() < expected.len() {
            let Some(chunk) = self.next_chunk().await else { break };
            let plain = self.decode(chunk);
            // On a slow machine a client may wait for so long that it gets one.
            let is_keep_alive = *plain == *KEEP_ALIVE && !expected[bytes.len()..].starts_with(KEEP_ALIVE);
            if !is_keep_alive {
                bytes.extend_from_slice(&plain);
            }
        }
        if !bytes.starts_with(expected) {
            let same = bytes.iter().zip(expected).take_while(|(got, wanted)| got == wanted).count();
            let around = |bytes: &[u8]| {
                let shown = &bytes[same.saturating_sub(200).min(bytes.len())..(same + 200).min(bytes.len())];
                String::from_utf8_lossy(shown).into_owned()
            };
            panic!(
                "{}: {} bytes read, wanted {}, they differ at byte {same}; around it:\n{:?}\nwanted:\n{:?}",
                self.request.target,
                bytes.len(),
                expected.len(),
                around(&bytes),
                around(expected),
            );
        }
        self.unread = bytes.split_off(expected.len());
    }

    /// Ends [`Request::slow`]: from now on the system buffers what it can, and reads are large.
    pub fn hurry(&mut self) {
        self.request.read_bytes = 64 * 1024;
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.stream, 4 * 1024 * 1024).unwrap();
    }

    /// The next message; `None` after the end of the stream.
    pub async fn next_message(&mut self) -> Option<Message> {
        while self.ready.is_empty() {
            let chunk = self.next_chunk().await?;
            let plain = self.decode(chunk);
            self.parser.take(&plain, &mut self.ready, &mut self.comments);
        }
        let message = self.ready.pop_front()?;
        self.messages_so_far += 1;
        self.last_event_id = message.id.or(self.last_event_id);
        Some(message)
    }

    /// The next message; the test fails if the stream ends instead.
    pub async fn expect_message(&mut self) -> Message {
        let message = self.next_message().await;
        message.unwrap_or_else(|| {
            panic!(
                "{}: the stream ended ({:?}) after {} messages",
                self.request.target,
                self.ending(),
                self.messages_so_far
            )
        })
    }

    /// The next `count` messages.
    pub async fn read_messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.expect_message().await);
        }
        messages
    }

    /// The messages up to the first that `is_last` knows, that one included.
    pub async fn read_until(&mut self, mut is_last: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.expect_message().await;
            let last = is_last(&message);
            messages.push(message);
            if last {
                return messages;
            }
        }
    }

    /// The messages up to the one with this id, that one included.
    pub async fn read_until_id(&mut self, id: u64) -> Vec<Message> {
        self.read_until(|message| message.id == Some(id)).await
    }

    /// All messages up to the end of the stream.
    pub async fn read_to_end(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.next_message().await {
            messages.push(message);
        }
        messages
    }

    /// The next `count` messages, not faster than `per_second`. [`Request::slow`] lets the server notice.
    pub async fn read_slowly(&mut self, count: usize, per_second: f64) -> Vec<Message> {
        let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            pace.tick().await;
            messages.push(self.expect_message().await);
        }
        messages
    }

    /// The comments among the messages read so far (the text after the colon), keep-alives included.
    pub fn comments(&self) -> &[String] {
        &self.comments
    }

    /// How the body ended, if it did.
    pub fn ending(&self) -> Option<Ending> {
        match self.body {
            Body::Over(ending) => Some(ending),
            _ => None,
        }
    }

    /// The id that a reconnect resumes after: of the last message read, or of a later `id:` line without data.
    pub fn last_event_id(&self) -> Option<u64> {
        if self.ready.is_empty() { self.parser.last_id.or(self.last_event_id) } else { self.last_event_id }
    }

    /// Connects again as a browser does: the same URL, with `Last-Event-ID` once there was an id. What was received and
    /// not read yet is given up.
    pub fn reconnect(self) -> impl Future<Output = SseClient> {
        let last_event_id = self.last_event_id();
        let request = Request { last_event_id, ..self.request };
        drop(self.stream);
        request.open()
    }

    fn decode(&mut self, chunk: Bytes) -> Bytes {
        let Some(decoder) = &mut self.decoder else { return chunk };
        decoder.write_all(&chunk).expect("the body is zstd, in one frame or several");
        decoder.flush().unwrap();
        std::mem::take(decoder.get_mut()).into()
    }

    async fn receive_chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.body.take_chunk(&mut self.input) {
                return Some(chunk);
            }
            if matches!(self.body, Body::Over(_)) {
                return None;
            }
            self.input.reserve(self.request.read_bytes);
            let mut limited = (&mut self.stream).take(self.request.read_bytes as u64);
            if !matches!(limited.read_buf(&mut self.input).await, Ok(1..)) {
                self.body.closed();
            }
        }
    }
}

struct ResponseHead {
    status: u16,
    headers: Vec<(String, String)>,
}

impl ResponseHead {
    /// Takes a complete head off the front of `input`.
    fn take_from(input: &mut BytesMut) -> std::io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(input).map_err(std::io::Error::other)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let head = Self {
            status: response.code.unwrap(),
            headers: response
                .headers
                .iter()
                .map(|header| (header.name.to_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
                .collect(),
        };
        input.advance(length);
        Ok(Some(head))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Where one is in the response's body.
enum Body {
    Chunks,
    Remaining(usize),
    UntilClose,
    Over(Ending),
}

impl Body {
    fn of(head: &ResponseHead, method: &str) -> Self {
        if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
            return Self::Over(Ending::Finished);
        }
        if head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Self::Chunks;
        }
        match head.header("content-length") {
            Some("0") => Self::Over(Ending::Finished),
            Some(length) => Self::Remaining(length.parse().unwrap()),
            None => Self::UntilClose,
        }
    }

    fn take_chunk(&mut self, input: &mut BytesMut) -> Option<Bytes> {
        match self {
            Self::Over(_) => None,
            _ if input.is_empty() => None,
            Self::UntilClose => Some(input.split().freeze()),
            Self::Remaining(length) => {
                let piece = input.split_to(input.len().min(*length)).freeze();
                *length -= piece.len();
                if *length == 0 {
                    *self = Self::Over(Ending::Finished);
                }
                Some(piece)
            }
            Self::Chunks => {
                let parsed = httparse::parse_chunk_size(input).expect("a chunk begins with its size");
                let httparse::Status::Complete((start, size)) = parsed else { return None };
                let size = usize::try_from(size).unwrap();
                if input.len() < start + size + 2 {
                    return None;
                }
                input.advance(start);
                let chunk = input.split_to(size).freeze();
                assert_eq!(&input[..2], b"\r\n", "a chunk has the announced size");
                input.advance(2);
                if size == 0 {
                    *self = Self::Over(Ending::Finished);
                    return None;
                }
                Some(chunk)
            }
        }
    }

    fn closed(&mut self) {
        *self = Self::Over(if matches!(self, Self::UntilClose) { Ending::Finished } else { Ending::Cut });
    }
}

/// Takes an event stream apart as the HTML standard defines: `\n`, `\r\n` and `\r` end lines, an empty line ends a message.
#[derive(Default)]
struct EventParser {
    line: Vec<u8>,
    after_carriage_return: bool,
    past_start: bool,
    data: Option<String>,
    id: Option<u64>,
    last_id: Option<u64>,
}

impl EventParser {
    fn take(&mut self, bytes: &[u8], messages: &mut VecDeque<Message>, comments: &mut Vec<String>) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            let second_half_of_line_end = self.after_carriage_return && end == 0 && rest[0] == b'\n';
            self.after_carriage_return = rest[end] == b'\r';
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if second_half_of_line_end {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let mut line = std::str::from_utf8(&line).expect("an event stream is UTF-8");
            if !std::mem::replace(&mut self.past_start, true) {
                line = line.strip_prefix('\u{FEFF}').unwrap_or(line);
            }
            self.end_line(line, messages, comments);
        }
        self.line.extend_from_slice(rest);
        if !rest.is_empty() {
            self.after_carriage_return = false;
        }
    }

    fn end_line(&mut self, line: &str, messages: &mut VecDeque<Message>, comments: &mut Vec<String>) {
        if line.is_empty() {
            let id = self.id.take();
            self.last_id = id.or(self.last_id);
            if let Some(data) = self.data.take() {
                messages.push_back(Message { data, id });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => comments.push(value.to_owned()),
            "data" => match &mut self.data {
                None => self.data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            "id" => self.id = Some(value.parse().expect("an id is a number")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&str]) -> (Vec<Message>, Vec<String>, EventParser) {
        let (mut parser, mut messages, mut comments) = (EventParser::default(), VecDeque::new(), Vec::new());
        for piece in pieces {
            parser.take(piece.as_bytes(), &mut messages, &mut comments);
        }
        (messages.into(), comments, parser)
    }

    fn message(data: &str, id: Option<u64>) -> Message {
        Message { data: data.to_owned(), id }
    }

    #[test]
    fn all_three_line_ends_end_a_line_wherever_the_pieces_are_cut() {
        let text = "data:a\r\nid:1\r\n\r\ndata: b\rdata:  c\rid:2\r\rdata:d\n\n";
        let expected = [message("a", Some(1)), message("b\n c", Some(2)), message("d", None)];
        for cut in 0..=text.len() {
            assert_eq!(parse(&[&text[..cut], &text[cut..]]).0, expected, "cut at {cut}");
        }
    }

    #[test]
    fn comments_and_unfinished_messages_dispatch_nothing() {
        let (messages, comments, _) = parse(&[":\n\n: hello\n\nevent:x\nretry:5\n\ndata:unfinished\nid:7\n"]);
        assert_eq!(messages, []);
        assert_eq!(comments, ["", "hello"]);
    }

    #[test]
    fn an_id_without_data_moves_the_last_id_and_dispatches_nothing() {
        let (messages, _, parser) = parse(&["id:41\n\n"]);
        assert_eq!(messages, []);
        assert_eq!(parser.last_id, Some(41));
    }

    #[test]
    fn a_byte_order_mark_at_the_start_is_no_part_of_the_first_field() {
        assert_eq!(parse(&["\u{FEFF}data:a\n\n"]).0, [message("a", None)]);
    }
}
