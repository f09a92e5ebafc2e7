//! One client's stream as an HTTP body.
//!
//! HTTP polls it for a piece whenever the client has room; it asks its cursor, and where that needs a read or a commit it
//! waits for one. Disk reads and decoding happen on blocking threads, at most `decode_concurrency` at a time, and never
//! wait for a client. Commits wake it through one watch. Nothing is prepared ahead of the poll, but that a few clients have
//! the next blocks read into the cache.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use sidecar_log_format::{Error as LogError, Head, Log, Read, Sequence, StoredBlock};
use tokio::{
    sync::watch,
    task::JoinError,
    time::{Instant, Sleep},
};
use tokio_util::sync::ReusableBoxFuture;

use super::{
    ahead::ReadAhead,
    compression,
    counters::HubCounters,
    cursor::{Accepted, Cursor, Step, Torn},
    large::{LargePass, LargePiece},
    port::{Delivery, OpenStream},
    readers::Position,
    rendered::{RenderedRead, Renderer},
    rendering::RenderedBlock,
    resources::Resources,
};

/// How long a stream may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A block up to this size is compressed here when it is in memory: that is cheaper than reading its stored form.
pub(super) const COMPRESSED_PIECE_BYTES: usize = 64 << 10;
/// How long a stream rests before it looks again for what another process is still writing.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Bytes after which the shared counter learns of them.
const COUNT_BYTES: u64 = 256 << 10;

/// The coding in which a client gets its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// None.
    Identity,
    /// zstd frames.
    Zstd,
}

/// Why a stream breaks off; the connection is cut, so that the client sees that it did not end.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("the log cannot be read: {0}")]
    Log(#[from] LogError),
    #[error("a large event cannot be read: {0}")]
    Large(#[from] io::Error),
    #[error(transparent)]
    Torn(#[from] Torn),
    #[error("a piece cannot be compressed: {0}")]
    Compression(&'static str),
    #[error("a read was given up: {0}")]
    GivenUp(#[from] JoinError),
}

/// What a hub gives each of its streams.
#[derive(Clone)]
pub(super) struct Supply {
    pub(super) log: Log,
    pub(super) committed: watch::Receiver<Head>,
    pub(super) resources: Arc<Resources>,
    pub(super) counters: Arc<HubCounters>,
}

/// A client's stream.
pub(super) struct Subscriber {
    log: Log,
    cursor: Cursor,
    coding: Coding,
    delivery: Delivery,
    /// Sent before anything else.
    greetings: VecDeque<Bytes>,
    /// What is being read for this client.
    reading: Option<Reading>,
    ahead: ReadAhead,
    stored: Option<StoredPass>,
    /// Where the stored form was found to be unusable.
    stored_unfit_at: Option<Sequence>,
    large: Option<LargePass>,
    commits: Changes<Head>,
    farewell: Option<Farewell>,
    keep_alive: KeepAlive,
    bytes_uncounted: u64,
    resources: Arc<Resources>,
    counters: Arc<HubCounters>,
    position: Arc<Position>,
    _place: OpenStream,
}

/// Sent whenever the end is announced.
struct Farewell {
    announced: Changes<u64>,
    bytes: Bytes,
}

/// A stored frame on its way to the client. It is lent, because unlike a block it cannot be let go of half-way.
struct StoredPass {
    block: StoredBlock,
    sent: usize,
}

type Reading = Pin<Box<dyn Future<Output = Result<Outcome, StreamError>> + Send>>;

enum Outcome {
    Read(Box<Read>),
    Rendered(Arc<RenderedBlock>),
    Stored(Option<StoredBlock>),
    LargePiece(Option<LargePiece>),
    Explained(Bytes),
    Nothing,
}

impl Subscriber {
    pub(super) fn new(
        supply: Supply,
        cursor: Cursor,
        coding: Coding,
        delivery: Delivery,
        position: Arc<Position>,
        place: OpenStream,
    ) -> Self {
        let Supply { log, committed, resources, counters } = supply;
        let (decoders, places) = (Arc::clone(&resources.decoders), Arc::clone(&resources.places_ahead));
        let ahead = ReadAhead::new(log.clone(), cursor.renderer().cloned(), decoders, places, cursor.until());
        Subscriber {
            log,
            cursor,
            coding,
            delivery,
            greetings: VecDeque::new(),
            reading: None,
            ahead,
            stored: None,
            stored_unfit_at: None,
            large: None,
            commits: Changes::new(committed),
            farewell: None,
            keep_alive: KeepAlive::new(),
            bytes_uncounted: 0,
            resources,
            counters,
            position,
            _place: place,
        }
    }

    /// Adds a message that is sent before the events.
    pub(super) fn greet(&mut self, greeting: Bytes) {
        self.greetings.push_back(greeting);
    }

    /// Adds the message that `explain` makes, on a thread that may block; it is sent after the greetings.
    pub(super) fn explain(&mut self, explain: impl FnOnce() -> Bytes + Send + 'static) {
        self.reading = Some(self.on_blocking_thread(move || Ok(Outcome::Explained(explain()))));
    }

    /// Sets the message that is sent whenever the end is announced.
    pub(super) fn say_at_end(&mut self, announced: watch::Receiver<u64>, bytes: Bytes) {
        self.farewell = Some(Farewell { announced: Changes::new(announced), bytes });
    }

    /// The next bytes in the identity form or, where they come from a stored frame, as they are.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        if let Some(greeting) = self.greetings.pop_front() {
            return Poll::Ready(Some(self.finish(greeting)));
        }
        loop {
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(outcome) = reading.as_mut().poll(context) else { return self.poll_silence(context) };
                self.reading = None;
                match outcome.and_then(|outcome| self.accept(outcome)) {
                    Ok(Some(bytes)) => return Poll::Ready(Some(self.finish(bytes))),
                    Ok(None) => continue,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            if self.large.is_some() || self.stored.is_some() {
                if let Some(version) = self.cursor.take_version() {
                    return Poll::Ready(Some(self.finish(version)));
                }
                if let Some(piece) = self.next_stored_piece() {
                    return Poll::Ready(Some(Ok(piece)));
                }
                self.reading = self.large.as_ref().map(|large| self.read_large_piece(large));
                continue;
            }
            if self.wants_stored() {
                self.reading = Some(self.read_stored());
                continue;
            }
            match self.cursor.next() {
                Step::Send(bytes) => {
                    self.note_entered();
                    return Poll::Ready(Some(self.finish(bytes)));
                }
                Step::Read => self.reading = Some(self.take_ahead().unwrap_or_else(|| self.read())),
                Step::End => return Poll::Ready(None),
                Step::CaughtUp => {
                    if let Some(bytes) = ready!(self.poll_wait(context)) {
                        return Poll::Ready(Some(self.finish(bytes)));
                    }
                }
            }
        }
    }

    /// Waits until a message is due because a read takes long.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let is_within_event =
            self.cursor.event_bytes_sent() > 0 || self.large.as_ref().is_some_and(LargePass::has_begun);
        if is_within_event {
            return Poll::Pending;
        }
        let keep_alive = ready!(self.poll_keep_alive(context));
        Poll::Ready(Some(self.finish(keep_alive)))
    }

    /// The client's position, or a comment, when nothing was sent for a while.
    fn poll_keep_alive(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.keep_alive.poll(context));
        let mark = self.cursor.take_progress();
        Poll::Ready(mark.unwrap_or_else(|| self.cursor.framing().keep_alive()))
    }

    /// Waits for a commit (`None`), or until another message is due.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.count();
        if self.commits.poll(context).is_ready() {
            return Poll::Ready(None);
        }
        if let Some(farewell) = &mut self.farewell
            && farewell.announced.poll(context).is_ready()
        {
            return Poll::Ready(Some(farewell.bytes.clone()));
        }
        self.poll_keep_alive(context).map(Some)
    }

    fn accept(&mut self, outcome: Outcome) -> Result<Option<Bytes>, StreamError> {
        match outcome {
            Outcome::Read(read) => {
                let accepted = self.cursor.accept(*read)?;
                Ok(self.carry_on(accepted))
            }
            Outcome::Rendered(block) => {
                let accepted = self.cursor.accept_rendered(block);
                Ok(self.carry_on(accepted))
            }
            Outcome::Explained(bytes) => Ok(Some(bytes)),
            Outcome::Nothing => Ok(None),
            Outcome::Stored(block) => {
                self.stored = block.and_then(|block| self.admit(block));
                self.stored_unfit_at = self.stored.is_none().then(|| self.cursor.position());
                Ok(None)
            }
            Outcome::LargePiece(None) => {
                self.large = None;
                self.cursor.leave_out_event();
                Ok(None)
            }
            Outcome::LargePiece(Some(LargePiece { bytes, is_last })) => {
                if let Some(large) = &mut self.large {
                    large.advance(bytes.len());
                }
                if is_last {
                    self.large = None;
                    self.cursor.pass_event();
                }
                Ok((!bytes.is_empty()).then_some(bytes))
            }
        }
    }

    fn carry_on(&mut self, accepted: Accepted) -> Option<Bytes> {
        match accepted {
            Accepted::Continue => None,
            Accepted::Send(bytes) => {
                self.note_entered();
                Some(bytes)
            }
            Accepted::NotYet => {
                self.reading = Some(Box::pin(async {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    Ok(Outcome::Nothing)
                }));
                None
            }
            Accepted::Large(event) => {
                let sent = self.cursor.event_bytes_sent();
                let rendering = self.cursor.renderer().map(|renderer| Arc::clone(renderer.rendering()));
                self.large = Some(LargePass::new(event, rendering, sent, &self.resources.large_readers));
                None
            }
        }
    }

    /// Whether to look for the stored form of what comes next.
    fn wants_stored(&mut self) -> bool {
        self.coding == Coding::Zstd
            && self.cursor.renderer().is_none()
            && self.stored_unfit_at != Some(self.cursor.position())
            && self.cursor.position() < self.log.head().next_sequence
            && !self.cursor.is_mid_block_or_small(COMPRESSED_PIECE_BYTES)
    }

    /// Takes a stored frame that fits this client, while there is room for it. Without room the client is served from the
    /// shared block, a small frame at a time, so that clients that stall cannot take the memory or stop the others.
    fn admit(&mut self, mut block: StoredBlock) -> Option<StoredPass> {
        let reserved = self.resources.budget.reserve(block.frame.len())?;
        block.frame = reserved.lend(block.frame);
        self.cursor.fits(&block).then_some(StoredPass { block, sent: 0 })
    }

    fn next_stored_piece(&mut self) -> Option<Bytes> {
        let piece_bytes = self.delivery.stored_piece_bytes();
        let stored = self.stored.as_mut()?;
        let frame = &stored.block.frame;
        let end = frame.len().min(stored.sent.saturating_add(piece_bytes));
        let piece = frame.slice(stored.sent..end);
        stored.sent = end;
        if end == frame.len()
            && let Some(stored) = self.stored.take()
        {
            self.cursor.pass_stored(&stored.block);
        }
        Some(piece)
    }

    /// Gives a piece the coding in which this client gets it.
    fn finish(&self, bytes: Bytes) -> Result<Bytes, StreamError> {
        match self.coding {
            Coding::Identity => Ok(bytes),
            Coding::Zstd => compression::frame(&bytes).map_err(StreamError::Compression),
        }
    }

    fn read(&self) -> Reading {
        if let Some(renderer) = self.cursor.renderer() {
            return self.read_rendered(renderer.clone());
        }
        let (log, position) = (self.log.clone(), self.cursor.position());
        self.on_blocking_thread(move || Ok(Outcome::Read(Box::new(log.read(position)?))))
    }

    fn read_rendered(&self, renderer: Renderer) -> Reading {
        let (decoders, position) = (Arc::clone(&self.resources.decoders), self.cursor.position());
        Box::pin(async move {
            // The permit lasts as long as that of any other job, see `on_blocking_thread`.
            let permit = decoders.acquire_owned().await;
            // Many subscribers wait for the same block; most find it here, and need no thread.
            if let Some(block) = renderer.at_hand(position) {
                return Ok(Outcome::Rendered(block));
            }
            let (read, _permit) = tokio::task::spawn_blocking(move || (renderer.read(position), permit)).await?;
            Ok(match read? {
                RenderedRead::Block(block) => Outcome::Rendered(block),
                RenderedRead::Other(read) => Outcome::Read(read),
            })
        })
    }

    /// Waits for what is read ahead already.
    fn take_ahead(&mut self) -> Option<Reading> {
        self.note_entered();
        let read = self.ahead.take(self.cursor.position())?;
        Some(Box::pin(async move {
            read.await?;
            Ok(Outcome::Nothing)
        }))
    }

    fn note_entered(&mut self) {
        if let Some(block) = self.cursor.take_entered() {
            self.ahead.enter(block);
        }
    }

    fn read_stored(&self) -> Reading {
        let (log, position, kinds) = (self.log.clone(), self.cursor.position(), self.cursor.kinds());
        self.on_blocking_thread(move || {
            // A stored frame holds all of a block's events.
            if log.outline(position)?.is_some_and(|outline| outline.kinds & !kinds != 0) {
                return Ok(Outcome::Stored(None));
            }
            Ok(Outcome::Stored(match log.read_stored(position) {
                // Reading it as events names what is damaged, and continues after it.
                Err(error) if error.is_damage() => None,
                read => read?,
            }))
        })
    }

    fn read_large_piece(&self, large: &LargePass) -> Reading {
        let (turn, read) = (large.turn(), large.read_piece());
        let reading = self.on_blocking_thread(move || Ok(Outcome::LargePiece(read()?)));
        Box::pin(async move {
            turn.await;
            reading.await
        })
    }

    fn on_blocking_thread(&self, job: impl FnOnce() -> Result<Outcome, StreamError> + Send + 'static) -> Reading {
        let decoders = Arc::clone(&self.resources.decoders);
        Box::pin(async move {
            // Never closed. The permit goes with the job, for its client may leave while the job waits for a thread, and
            // lasts until the outcome is accepted, so that blocks that no client has taken yet are bounded too.
            let permit = decoders.acquire_owned().await;
            let (outcome, _permit) = tokio::task::spawn_blocking(move || (job(), permit)).await?;
            outcome
        })
    }

    fn count(&mut self) {
        self.counters.bytes_sent.add(self.bytes_uncounted);
        self.bytes_uncounted = 0;
    }
}

impl Body for Subscriber {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        let piece = this.poll_piece(context);
        this.position.set(this.cursor.position());
        let piece = ready!(piece);
        match &piece {
            Some(Ok(bytes)) => {
                this.keep_alive.message_sent();
                this.bytes_uncounted += bytes.len() as u64;
                if this.bytes_uncounted >= COUNT_BYTES {
                    this.count();
                }
            }
            Some(Err(error)) => tracing::error!(position = this.cursor.position(), %error, "event stream broken off"),
            None => {}
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.count();
    }
}

/// Changes of a watched value, to be polled.
struct Changes<T> {
    next: ReusableBoxFuture<'static, watch::Receiver<T>>,
}

impl<T: Send + Sync + 'static> Changes<T> {
    fn new(receiver: watch::Receiver<T>) -> Self {
        Changes { next: ReusableBoxFuture::new(change(receiver)) }
    }

    /// Ready once per change, or per several at once; never again when no sender is left.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let receiver = ready!(self.next.poll(context));
        self.next.set(change(receiver));
        Poll::Ready(())
    }
}

async fn change<T>(mut receiver: watch::Receiver<T>) -> watch::Receiver<T> {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    receiver
}

/// Fires when nothing was sent for a while. A message only leaves a note; the clock is read when the stream falls idle.
struct KeepAlive {
    timer: Pin<Box<Sleep>>,
    due: Instant,
    has_sent: bool,
}

impl KeepAlive {
    fn new() -> Self {
        let due = Instant::now() + KEEP_ALIVE;
        KeepAlive { timer: Box::pin(tokio::time::sleep_until(due)), due, has_sent: false }
    }

    fn message_sent(&mut self) {
        self.has_sent = true;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.has_sent) {
            self.due = Instant::now() + KEEP_ALIVE;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            // Set for an earlier silence: it is moved only when it fires, not with every message.
            let is_due = self.timer.deadline() >= self.due;
            if is_due {
                self.due = Instant::now() + KEEP_ALIVE;
            }
            self.timer.as_mut().reset(self.due);
            if is_due {
                return Poll::Ready(());
            }
        }
    }
}
