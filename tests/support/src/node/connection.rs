//! One client's connection: its request, and the events that wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shared;
use crate::http;

/// What waits for one open stream, bounded by its bytes.
pub(super) struct Outbox {
    sender: mpsc::UnboundedSender<Outgoing>,
    waiting_bytes: Arc<AtomicUsize>,
    waiting_bytes_max: usize,
}

/// The other end of an [`Outbox`].
pub(super) struct Inbox {
    receiver: mpsc::UnboundedReceiver<Outgoing>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Outbox {
    pub(super) fn new(waiting_bytes_max: usize) -> (Self, Inbox) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let inbox = Inbox { receiver, waiting_bytes: Arc::clone(&waiting_bytes) };
        (Self { sender, waiting_bytes, waiting_bytes_max }, inbox)
    }

    /// `false` when the client lags too far behind; one that is closing just now does not.
    pub(super) fn send(&self, bytes: &Bytes) -> bool {
        let waiting = self.waiting_bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        let _ = self.sender.send(Outgoing::Chunk(bytes.clone()));
        waiting <= self.waiting_bytes_max
    }

    pub(super) fn end(&self) {
        let _ = self.sender.send(Outgoing::End); // it may be closing by itself
    }
}

impl Inbox {
    async fn recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.receiver.recv().await;
        self.taken(outgoing.as_ref());
        outgoing
    }

    fn try_recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.receiver.try_recv().ok();
        self.taken(outgoing.as_ref());
        outgoing
    }

    fn taken(&self, outgoing: Option<&Outgoing>) {
        if let Some(Outgoing::Chunk(bytes)) = outgoing {
            self.waiting_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

/// What goes to one open stream.
enum Outgoing {
    /// Sent as one HTTP chunk, as a real node sends each of its events.
    Chunk(Bytes),
    /// The orderly end of the body.
    End,
}

pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let mut state = shared.state();
        let number = state.next_connection;
        state.next_connection += 1;
        let connection = tokio::spawn(serve(Leaving { shared: Arc::clone(&shared), number }, socket));
        state.connections.insert(number, connection);
    }
}

/// Takes a connection out of the books however it ends.
struct Leaving {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.connections.remove(&self.number);
        if state.streams.remove(&self.number).is_some() {
            self.shared.open_streams.send_replace(state.streams.len());
        }
    }
}

async fn serve(connection: Leaving, mut socket: TcpStream) {
    let shared = &connection.shared;
    let Some(head) = http::read_head(&mut socket).await else { return };
    let Some((_, target)) = http::request(&head) else { return };
    let path = target.split('?').next().unwrap();
    let answer = match path {
        "/status" => http::answer(200, "application/json", &shared.status_body()),
        "/events" => match http::start_from(&target) {
            Err(complaint) => http::answer(422, "text/plain", &complaint),
            Ok(start_from) => match shared.open_stream(connection.number, start_from) {
                Err(status) => http::answer(status, "text/plain", "refused\n"),
                Ok(stream) => {
                    let (reader, writer) = socket.into_split();
                    tokio::select! {
                        () = closed_by_peer(reader) => {}
                        _ = send(shared, stream, writer) => {}
                    }
                    return;
                }
            },
        },
        _ => http::answer(404, "text/plain", "no such path\n"),
    };
    let _ = socket.write_all(answer.as_bytes()).await; // a client that has gone needs no answer
}

async fn closed_by_peer(mut reader: OwnedReadHalf) {
    let mut ignored = [0; 256];
    while matches!(reader.read(&mut ignored).await, Ok(1..)) {}
}

async fn send(shared: &Shared, mut stream: Inbox, mut writer: OwnedWriteHalf) -> std::io::Result<()> {
    /// Chunks that wait are written together up to this size.
    const WRITE_BYTES: usize = 64 * 1024;
    let mut silent = shared.silent.subscribe();
    writer.write_all(http::STREAM_HEAD.as_bytes()).await?;
    loop {
        let first = match timeout(shared.options.keep_alive, stream.recv()).await {
            Ok(outgoing) => outgoing,
            Err(_) => Some(Outgoing::Chunk(Bytes::from_static(b":\n\n"))),
        };
        if silent.wait_for(|silent| !silent).await.is_err() {
            return Ok(());
        }
        let mut outgoing = first;
        let mut pending = Vec::new();
        loop {
            match outgoing {
                Some(Outgoing::Chunk(bytes)) => http::append_chunk(&mut pending, &bytes),
                Some(Outgoing::End) | None => {
                    pending.extend_from_slice(http::LAST_CHUNK);
                    return writer.write_all(&pending).await;
                }
            }
            if pending.len() >= WRITE_BYTES {
                break;
            }
            match stream.try_recv() {
                Some(next) => outgoing = Some(next),
                None => break,
            }
        }
        writer.write_all(&pending).await?;
    }
}
