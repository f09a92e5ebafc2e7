//! A simulated node's binary port, on the types of crate casper-binary-port.
//!
//! In: what to answer to a request. Out: a server on a port of its own that answers in order, as a node does, and that can
//! be late, wrong, half, twice or silent, and can be killed and started again. It records the transactions that it is
//! handed.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use casper_binary_port::{
    BinaryResponse, BinaryResponseAndRequest, Command, CommandHeader, CommandTag, ErrorCode, GetRequest,
    InformationRequestTag,
};
use casper_types::bytesrepr::{FromBytes, ToBytes};
use casper_types::{ProtocolVersion, Transaction};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::port::ReservedPort;

/// What the node does with a request.
#[derive(Debug)]
pub enum Reply {
    /// Answers.
    Answer(BinaryResponse),
    /// Answers after so much time; the requests after it wait.
    After(Duration, BinaryResponse),
    /// Answers two times.
    Twice(BinaryResponse),
    /// Answers another request than this one.
    WrongId(BinaryResponse),
    /// Sends these bytes as they are.
    Bytes(Vec<u8>),
    /// Sends the first half of the answer and closes the connection.
    Half(BinaryResponse),
    /// Does not answer, and continues with the next request.
    Silence,
    /// Closes the connection.
    Close,
}

/// The answer of a node of protocol 2.0.0 to a keep-alive; an error to anything else.
pub fn default_answer(command: &Command) -> BinaryResponse {
    match command {
        Command::Get(request) if information_tag(request) == Some(InformationRequestTag::ProtocolVersion) => {
            BinaryResponse::from_value(ProtocolVersion::from_parts(2, 0, 0))
        }
        Command::TryAcceptTransaction { .. } => BinaryResponse::new_empty(),
        _ => BinaryResponse::new_error(ErrorCode::UnsupportedRequest),
    }
}

/// What kind of information is asked for, if any is.
pub fn information_tag(request: &GetRequest) -> Option<InformationRequestTag> {
    match request {
        GetRequest::Information { info_type_tag, .. } => InformationRequestTag::try_from(*info_type_tag).ok(),
        _ => None,
    }
}

type Handler = dyn Fn(&Command) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    delay: Mutex<Duration>,
    accepted: Mutex<Vec<Transaction>>,
    requests: AtomicU64,
    connections: AtomicU64,
}

/// A running node's binary port.
pub struct BinaryPort {
    shared: Arc<Shared>,
    port: ReservedPort,
    runtime: Option<Runtime>,
}

impl BinaryPort {
    /// Starts a node that answers as `handler` returns.
    pub fn start(handler: impl Fn(&Command) -> Reply + Send + Sync + 'static) -> BinaryPort {
        let mut port = BinaryPort::stopped(handler);
        port.restart();
        port
    }

    /// A node that has a port and does not run.
    pub fn stopped(handler: impl Fn(&Command) -> Reply + Send + Sync + 'static) -> BinaryPort {
        let shared = Shared {
            handler: Box::new(handler),
            delay: Mutex::default(),
            accepted: Mutex::default(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        };
        BinaryPort { shared: Arc::new(shared), port: ReservedPort::new(), runtime: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Has every answer leave so long after its request has come.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// The transactions that the node was handed, in order.
    pub fn accepted(&self) -> Vec<Transaction> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// Requests so far, keep-alives included.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends at once, as a killed process does.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Until everything is closed; a thread of another runtime may not wait for one.
            let ending = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(20)));
            ending.join().unwrap();
        }
    }

    /// Listens, after a `kill` again.
    pub fn restart(&mut self) {
        self.kill();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        runtime.spawn(accept(self.port.listen(), Arc::clone(&self.shared)));
        drop(_inside);
        self.runtime = Some(runtime);
    }
}

impl Drop for BinaryPort {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        connections.spawn(async move { serve(stream, shared).await.unwrap_or_default() });
    }
}

/// Bytes that leave at their time; nothing after them if they are the last.
struct Leaving {
    at: Instant,
    bytes: Vec<u8>,
    is_last: bool,
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut queued) = mpsc::unbounded_channel::<Leaving>();
    let writing = async move {
        let mut batch = Vec::new();
        while let Some(first) = queued.recv().await {
            sleep_until(first.at).await;
            batch.clear();
            batch.extend(first.bytes);
            let mut is_last = first.is_last;
            while !is_last && batch.len() < 64 << 10 {
                match queued.try_recv() {
                    Ok(next) if next.at <= Instant::now() => {
                        batch.extend(next.bytes);
                        is_last = next.is_last;
                    }
                    Ok(next) => {
                        writer.write_all(&batch).await?;
                        batch.clear();
                        sleep_until(next.at).await;
                        batch.extend(next.bytes);
                        is_last = next.is_last;
                    }
                    Err(_) => break,
                }
            }
            writer.write_all(&batch).await?;
            if is_last {
                return Ok(());
            }
        }
        std::future::pending::<io::Result<()>>().await
    };
    let reading = async move {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            while let Some(frame) = take_frame(&mut buffer) {
                shared.requests.fetch_add(1, Ordering::SeqCst);
                let leaving = shared.reply(&frame);
                let is_last = leaving.is_last;
                let _ = answers.send(leaving);
                if is_last {
                    return std::future::pending::<io::Result<()>>().await;
                }
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof));
            }
        }
    };
    tokio::select! {
        end = writing => end,
        end = reading => end,
    }
}

/// A whole frame, its length included.
fn take_frame(buffer: &mut BytesMut) -> Option<Vec<u8>> {
    let length = (buffer.len() >= 4).then(|| buffer.as_ref().get_u32_le())? as usize;
    (buffer.len() >= 4 + length).then(|| buffer.split_to(4 + length).to_vec())
}

impl Shared {
    fn reply(&self, frame: &[u8]) -> Leaving {
        let now = Instant::now() + *self.delay.lock().unwrap();
        let command = read_command(&frame[4..]);
        if let Ok(Command::TryAcceptTransaction { transaction }) = &command {
            self.accepted.lock().unwrap().push(transaction.clone());
        }
        let reply = match &command {
            Ok(command) => (self.handler)(command),
            Err(code) => Reply::Answer(BinaryResponse::new_error(*code)),
        };
        let leaving = |at, bytes, is_last| Leaving { at, bytes, is_last };
        match reply {
            Reply::Answer(answer) => leaving(now, response(frame, answer), false),
            Reply::After(delay, answer) => leaving(now + delay, response(frame, answer), false),
            Reply::Twice(answer) => leaving(now, response(frame, answer).repeat(2), false),
            Reply::WrongId(answer) => {
                let mut other = frame.to_vec();
                other[7] ^= 0x80;
                leaving(now, response(&other, answer), false)
            }
            Reply::Bytes(bytes) => leaving(now, bytes, false),
            Reply::Half(answer) => {
                let bytes = response(frame, answer);
                leaving(now, bytes[..bytes.len() / 2].to_vec(), true)
            }
            Reply::Silence => leaving(now, Vec::new(), false),
            Reply::Close => leaving(now, Vec::new(), true),
        }
    }
}

fn read_command(payload: &[u8]) -> Result<Command, ErrorCode> {
    let (header, body) = CommandHeader::from_bytes(payload).map_err(|_| ErrorCode::MalformedCommandHeader)?;
    if header.version() != CommandHeader::HEADER_VERSION {
        return Err(ErrorCode::CommandHeaderVersionMismatch);
    }
    let tag = CommandTag::try_from(header.type_tag()).map_err(|_| ErrorCode::UnsupportedRequest)?;
    Command::try_from((tag, body)).map_err(|_| ErrorCode::MalformedCommand)
}

/// The frame of an answer to the request in `frame`.
pub fn response(frame: &[u8], answer: BinaryResponse) -> Vec<u8> {
    let answer = BinaryResponseAndRequest::new(answer, frame.to_vec().into()).to_bytes().unwrap();
    let mut bytes = Vec::with_capacity(answer.len() + 4);
    bytes.put_u32_le(answer.len() as u32);
    bytes.extend(answer);
    bytes
}
