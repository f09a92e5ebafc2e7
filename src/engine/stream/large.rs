//! Events too large to be held in memory: sent piece by piece, each read when the client takes it.
//!
//! A decoder half-way through an event holds up to 8 MiB, so only a few clients have one. The others wait in line for a turn.
//! If they did not, clients that take their pieces in alternation would close each other's decoders, and each piece would be
//! decoded from the event's start. A client loses its turn to a waiting one after a second, or after a tenth of a second in
//! which it takes no piece: stalled clients delay others only briefly. In its next turn, it opens another decoder and skips
//! the bytes that were sent. No thread ever waits for a client.

use std::{
    io::{self, Read as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sidecar_log_format::LargeEvent;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::Instant,
};

use super::rendering::Rendering;

/// Clients that have their turn at the same time, each with an open decoder between two pieces.
const TURNS_MAX: usize = 4;
/// How long a client keeps its turn though others wait.
const TURN_TIME: Duration = Duration::from_secs(1);
/// The same for one that takes no piece.
const IDLE_TIME: Duration = Duration::from_millis(100);
/// Bytes read at a time.
const PIECE_BYTES: u64 = 64 << 10;

/// The open decoders, and the line of clients that wait for a turn.
#[derive(Default)]
pub(super) struct LargeReaders {
    turns: Mutex<Vec<Turn>>,
    /// Held by the first in line while it waits.
    line: AsyncMutex<()>,
    /// Notified when a turn may have become free.
    freed: Notify,
    next_id: AtomicU64,
}

/// One client's turn.
struct Turn {
    id: u64,
    begun: Instant,
    /// The end of the last read. `None` during a read, when no other client may take the turn.
    idle_since: Option<Instant>,
    open: Option<Open>,
}

impl Turn {
    /// When another client may take it, if that is known.
    fn due(&self) -> Option<Instant> {
        self.idle_since.map(|idle_since| (idle_since + IDLE_TIME).min(self.begun + TURN_TIME))
    }
}

/// A decoder between two pieces.
struct Open {
    at: u64,
    reader: Box<dyn io::Read + Send>,
}

/// One client's way through one large event.
pub(super) struct LargePass {
    event: Arc<LargeEvent>,
    /// Makes its form, if that is not the stored one.
    rendering: Option<Arc<dyn Rendering>>,
    readers: Arc<LargeReaders>,
    id: u64,
    /// Bytes of the form that are not sent, or were sent before.
    begin: u64,
    /// Bytes of the form that were passed.
    at: u64,
}

/// The next bytes of a large event.
pub(super) struct LargePiece {
    pub(super) bytes: Bytes,
    pub(super) is_last: bool,
}

impl LargePass {
    /// Begins `sent` bytes into the event's own message; the version frame before it is left out.
    pub(super) fn new(
        event: Arc<LargeEvent>,
        rendering: Option<Arc<dyn Rendering>>,
        sent: usize,
        readers: &Arc<LargeReaders>,
    ) -> Self {
        let preamble = match rendering {
            Some(_) => 0,
            None => event.shape().row(0).map_or(0, |row| row.range().start as u64),
        };
        let id = readers.next_id.fetch_add(1, Ordering::Relaxed);
        let begin = preamble + sent as u64;
        LargePass { event, rendering, readers: Arc::clone(readers), id, begin, at: begin }
    }

    /// The next piece has been read.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes as u64;
    }

    /// Whether a piece has been read.
    pub(super) fn has_begun(&self) -> bool {
        self.at > self.begin
    }

    /// Waits for the client's turn to read a piece, unless it still has one.
    pub(super) fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let (readers, id) = (Arc::clone(&self.readers), self.id);
        async move { readers.turn(id).await }
    }

    /// What reads the next piece in the client's turn, on a thread that may block; `None` if the rendering leaves the event
    /// out.
    pub(super) fn read_piece(&self) -> impl FnOnce() -> io::Result<Option<LargePiece>> + Send + use<> {
        let (event, rendering) = (Arc::clone(&self.event), self.rendering.clone());
        let (readers, id, at) = (Arc::clone(&self.readers), self.id, self.at);
        move || {
            let mut reader = match readers.take(id, at) {
                Some(reader) => reader,
                None => match open_at(&event, rendering.as_deref(), at)? {
                    Some(reader) => reader,
                    None => return Ok(None),
                },
            };
            let mut piece = Vec::with_capacity(PIECE_BYTES as usize);
            reader.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)?;
            let at = at + piece.len() as u64;
            let is_last = match rendering {
                // How long it is shows at its end.
                Some(_) => piece.len() < PIECE_BYTES as usize,
                None if piece.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => at >= event.wire_bytes(),
            };
            if !is_last {
                readers.put(id, Open { at, reader });
            }
            Ok(Some(LargePiece { bytes: Bytes::from(piece), is_last }))
        }
    }
}

impl Drop for LargePass {
    fn drop(&mut self) {
        self.readers.lock().retain(|turn| turn.id != self.id);
        self.readers.freed.notify_one();
    }
}

impl LargeReaders {
    fn lock(&self) -> MutexGuard<'_, Vec<Turn>> {
        // Nothing in here can stop half-way through a change.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, id: u64) {
        if let Some(turn) = self.lock().iter_mut().find(|turn| turn.id == id) {
            turn.idle_since = None;
            return;
        }
        let _first = self.line.lock().await;
        while let Err(due) = self.begin(id) {
            let is_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.freed.notified() => {}
                () = is_due => {}
            }
        }
    }

    /// Gives this client a turn that is free, or that another one has had for long enough; else says when one may be taken, if
    /// that is known.
    fn begin(&self, id: u64) -> Result<(), Option<Instant>> {
        let now = Instant::now();
        let mut turns = self.lock();
        if turns.len() >= TURNS_MAX {
            let idle = turns.iter().enumerate().filter_map(|(place, turn)| Some((place, turn.due()?)));
            let Some((place, due)) = idle.min_by_key(|(_, due)| *due) else { return Err(None) };
            if due > now {
                return Err(Some(due));
            }
            turns.remove(place);
        }
        turns.push(Turn { id, begun: now, idle_since: None, open: None });
        Ok(())
    }

    fn take(&self, id: u64, at: u64) -> Option<Box<dyn io::Read + Send>> {
        let mut turns = self.lock();
        let open = turns.iter_mut().find(|turn| turn.id == id)?.open.take()?;
        (open.at == at).then_some(open.reader)
    }

    /// Keeps the decoder of a client that has read a piece; one whose client has left is closed.
    fn put(&self, id: u64, open: Open) {
        if let Some(turn) = self.lock().iter_mut().find(|turn| turn.id == id) {
            (turn.idle_since, turn.open) = (Some(Instant::now()), Some(open));
        }
        self.freed.notify_one();
    }
}

fn open_at(
    event: &LargeEvent,
    rendering: Option<&dyn Rendering>,
    at: u64,
) -> io::Result<Option<Box<dyn io::Read + Send>>> {
    let mut reader: Box<dyn io::Read + Send> = match rendering {
        None => Box::new(event.wire()?),
        Some(rendering) => match rendering.render_large(event)? {
            Some(reader) => reader,
            None => return Ok(None),
        },
    };
    let skipped = io::copy(&mut reader.by_ref().take(at), &mut io::sink())?;
    if skipped < at {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(reader))
}
