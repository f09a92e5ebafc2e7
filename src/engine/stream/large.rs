//! Events too large to be held in memory: sent piece by piece, each read when the client takes it.
//!
//! A decoder half-way through an event holds up to 8 MiB, so only a few are open, for all clients together. The one used
//! longest ago is closed for a new one; its client, when it comes back, opens another and skips what it has had. So no
//! stalled client holds memory or makes others wait, and no thread ever waits for a client.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use sidecar_log_format::LargeEvent;

use super::rendering::Rendering;

/// Decoders that are open between two pieces.
const READERS_MAX: usize = 4;
/// Bytes read at a time.
const PIECE_BYTES: u64 = 64 << 10;

/// The open decoders, the one used longest ago in front.
#[derive(Default)]
pub(super) struct LargeReaders {
    idle: Mutex<VecDeque<Idle>>,
    next_id: AtomicU64,
}

struct Idle {
    id: u64,
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
        LargePass { event, rendering, readers: Arc::clone(readers), id, at: preamble + sent as u64 }
    }

    /// The next piece has been read.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes as u64;
    }

    /// What reads the next piece, on a thread that may block; `None` if the rendering leaves the event out.
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
                readers.put(Idle { id, at, reader });
            }
            Ok(Some(LargePiece { bytes: Bytes::from(piece), is_last }))
        }
    }
}

impl Drop for LargePass {
    fn drop(&mut self) {
        self.readers.lock().retain(|idle| idle.id != self.id);
    }
}

impl LargeReaders {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // Nothing in here can stop half-way through a change.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, id: u64, at: u64) -> Option<Box<dyn io::Read + Send>> {
        let mut idle = self.lock();
        let found = idle.iter().position(|idle| idle.id == id && idle.at == at)?;
        idle.remove(found).map(|idle| idle.reader)
    }

    fn put(&self, reader: Idle) {
        let mut idle = self.lock();
        if idle.len() >= READERS_MAX {
            idle.pop_front();
        }
        idle.push_back(reader);
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
