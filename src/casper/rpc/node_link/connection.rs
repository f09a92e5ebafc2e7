//! One TCP connection to a node: many requests at once, each answer matched to its request by the id that the node repeats.
//!
//! Requests flow in from any number of tasks, frames flow to the socket through one queue, and answers flow back, each to
//! the task that waits for it. When the connection ends, every waiting request fails at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use casper_binary_port::InformationRequestTag;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::answer::{Answer, Envelope};
use super::counters::LinkCounters;
use super::frame::{FrameError, FrameReader};
use super::request::Request;
use super::{LinkError, NodeLinkOptions};

/// Answers in a row that nobody waits for, after which the node is not believed any more.
const MISMATCHES_MAX: u32 = 100;
/// How often the time-outs of a connection are checked while one of them runs.
const CHECKS_PER_TIMEOUT: u32 = 4;
/// Frames that are put together for one write, at most.
const FRAMES_PER_WRITE: usize = 64;
/// Bytes up to which frames are put together for one write.
const WRITE_BYTES: usize = 64 << 10;

/// A connection, for as many tasks as want to use it. It ends when the last one is dropped.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

/// What the tasks of a connection share.
struct Shared {
    options: NodeLinkOptions,
    counters: Arc<LinkCounters>,
    table: Mutex<Table>,
    frames: mpsc::UnboundedSender<Bytes>,
}

/// The requests that are not answered yet.
struct Table {
    next_id: u16,
    pending: HashMap<u16, Pending>,
    /// Requests that were handed to the socket so far.
    sent: u64,
    last_answer: Instant,
    mismatches: u32,
    /// How the connection has ended, once it has.
    end: Option<Ended>,
}

/// How a connection has ended.
struct Ended {
    reason: LinkError,
    /// The request that the node was working on: it answers one after the other.
    current: Option<u16>,
}

/// A request that has been handed to the socket.
struct Pending {
    frame: Bytes,
    /// Its place among all that were handed to the socket.
    number: u64,
    begun: Instant,
    waiting: oneshot::Sender<Answer>,
    /// Kept until the answer is here, even when nobody waits for it any more: the node still has the request to work on.
    _place: Option<OwnedSemaphorePermit>,
}

/// Why a request has no answer.
pub(super) enum Unanswered {
    /// It was not sent, because the connection had ended.
    NotSent,
    /// It was sent, or may have been; the connection has ended.
    Lost {
        /// Why, as far as this request is concerned.
        reason: LinkError,
        /// Whether the node was working on this request, which may then be why.
        was_current: bool,
    },
    /// The answer did not come in time.
    TimedOut,
}

impl Connection {
    /// Takes over a connected socket.
    pub(super) fn start(stream: TcpStream, options: NodeLinkOptions, counters: Arc<LinkCounters>) -> Connection {
        // What is small must not wait for more; without this it is only slower.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (frames, queued) = mpsc::unbounded_channel();
        let table = Table {
            next_id: 0,
            pending: HashMap::new(),
            sent: 0,
            last_answer: Instant::now(),
            mismatches: 0,
            end: None,
        };
        let shared = Arc::new(Shared { options, counters, table: Mutex::new(table), frames });
        let (end, ended) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let shared = Arc::clone(&shared);
            async move {
                let reason = tokio::select! {
                    reason = shared.read(reader) => reason,
                    reason = write(writer, queued, &shared) => reason,
                    reason = shared.watch_silence() => reason,
                };
                shared.end(reason);
                let _ = end.send(true);
            }
        });
        Connection(Arc::new(Inner { shared, ended, _tasks: tasks }))
    }

    /// Sends requests that keep the node from closing the connection, until it has ended.
    pub(super) async fn keep_alive(&self) {
        let Ok(request) = Request::plain_information(InformationRequestTag::ProtocolVersion) else { return };
        let mut ticks = tokio::time::interval(self.0.shared.options.keepalive_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        while !self.has_ended() {
            ticks.tick().await;
            // Whether it is answered in time is for `watch_silence` to see.
            let _ = self.ask(&request, None).await;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.0.ended.borrow()
    }

    /// Waits for the connection's end.
    pub(super) async fn ended(&self) -> LinkError {
        let mut ended = self.0.ended.clone();
        let _ = ended.wait_for(|has_ended| *has_ended).await;
        self.0.shared.end_reason()
    }

    /// Sends a request and waits for its answer. `place` is given back when the answer is here or can't come any more.
    pub(super) async fn ask(
        &self,
        request: &Request,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Answer, Unanswered> {
        let shared = &self.0.shared;
        let (id, answer) = shared.send(request, place).ok_or(Unanswered::NotSent)?;
        match tokio::time::timeout(shared.options.message_timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(shared.lost(id)),
            Err(_) => {
                shared.counters.receiving_timeouts.add(1);
                Err(Unanswered::TimedOut)
            }
        }
    }
}

impl Shared {
    /// Hands a request to the socket, unless the connection has ended. Returns its id.
    fn send(&self, request: &Request, place: Option<OwnedSemaphorePermit>) -> Option<(u16, oneshot::Receiver<Answer>)> {
        let (waiting, answer) = oneshot::channel();
        let mut table = self.table();
        if table.end.is_some() {
            return None;
        }
        let id = table.free_id()?;
        let frame = request.frame(id);
        let pending =
            Pending { frame: frame.clone(), number: table.sent, begun: Instant::now(), waiting, _place: place };
        table.sent += 1;
        table.pending.insert(id, pending);
        // Within the lock, so that the node sees the ids in their order.
        self.frames.send(frame).ok()?;
        Some((id, answer))
    }

    /// Reads answers until that fails.
    async fn read(&self, reader: OwnedReadHalf) -> LinkError {
        let mut frames = FrameReader::new(reader, self.options.message_bytes_max);
        loop {
            let payload = match frames.next().await {
                Ok(payload) => payload,
                Err(FrameError::Closed | FrameError::Io(_)) => return LinkError::Lost,
                Err(FrameError::TooLarge { allowed, got }) => return LinkError::TooLarge { allowed, got },
                Err(error) => return LinkError::Request(error.to_string()),
            };
            match Envelope::parse(payload) {
                Ok(envelope) => {
                    if let Err(reason) = self.deliver(envelope) {
                        return reason;
                    }
                }
                Err(error) => return LinkError::Envelope(error.to_string()),
            }
        }
    }

    /// Gives an answer to the task that waits for it. One that nobody waits for came late, twice, or to another request.
    fn deliver(&self, envelope: Envelope) -> Result<(), LinkError> {
        let mut table = self.table();
        let id = envelope.id();
        let answered = id.filter(|id| table.pending.get(id).is_some_and(|pending| pending.frame == envelope.request));
        match answered.and_then(|id| table.pending.remove(&id)) {
            Some(pending) => {
                table.mismatches = 0;
                table.last_answer = Instant::now();
                self.counters.round_trips.observe_time(pending.begun.elapsed());
                // The task may have given up.
                let _ = pending.waiting.send(envelope.answer);
                Ok(())
            }
            None => {
                self.counters.mismatched_ids.add(1);
                table.mismatches += 1;
                tracing::debug!(?id, "an answer of the node belongs to no request");
                if table.mismatches < MISMATCHES_MAX { Ok(()) } else { Err(LinkError::Mismatches) }
            }
        }
    }

    /// Ends when requests wait and no answer has come for the message time-out.
    async fn watch_silence(&self) -> LinkError {
        let timeout = self.options.message_timeout;
        loop {
            tokio::time::sleep(timeout / CHECKS_PER_TIMEOUT).await;
            if self.table().is_silent_for(timeout) {
                return LinkError::Lost;
            }
        }
    }

    /// Fails what waits; nothing is sent afterwards.
    fn end(&self, reason: LinkError) {
        let mut table = self.table();
        let current = table.pending.iter().min_by_key(|(_, pending)| pending.number).map(|(id, _)| *id);
        table.end = Some(Ended { reason, current });
        table.pending.clear();
    }

    fn end_reason(&self) -> LinkError {
        self.table().end.as_ref().map_or(LinkError::Lost, |ended| ended.reason.clone())
    }

    /// What the end of the connection means for the request of this id.
    fn lost(&self, id: u16) -> Unanswered {
        let was_current = self.table().end.as_ref().is_some_and(|ended| ended.current == Some(id));
        let reason = match self.end_reason() {
            // What cannot be read is the answer to the current request.
            LinkError::TooLarge { .. } | LinkError::Request(_) if !was_current => LinkError::Lost,
            reason => reason,
        };
        Unanswered::Lost { reason, was_current }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The next id that no request has.
    fn free_id(&mut self) -> Option<u16> {
        if self.pending.len() > usize::from(u16::MAX) {
            return None;
        }
        while self.pending.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        Some(id)
    }

    /// Whether something waits for an answer while none has come for so long. What nobody waits for any more is dropped
    /// after twice that time: a node that answers others leaves it out.
    fn is_silent_for(&mut self, timeout: Duration) -> bool {
        self.pending.retain(|_, pending| !(pending.waiting.is_closed() && pending.begun.elapsed() > timeout * 2));
        let Some(oldest) = self.pending.values().map(|pending| pending.begun).min() else { return false };
        oldest.max(self.last_answer).elapsed() >= timeout
    }
}

/// Writes the queued frames until that fails, several at a time where several wait.
async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut queued: mpsc::UnboundedReceiver<Bytes>,
    shared: &Shared,
) -> LinkError {
    let mut frames = Vec::with_capacity(FRAMES_PER_WRITE);
    let mut together = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        if queued.recv_many(&mut frames, FRAMES_PER_WRITE).await == 0 {
            return LinkError::Lost;
        }
        let writing = async {
            for frame in frames.drain(..) {
                if together.len() + frame.len() > WRITE_BYTES {
                    writer.write_all(&together).await?;
                    together.clear();
                }
                if frame.len() > WRITE_BYTES {
                    writer.write_all(&frame).await?;
                } else {
                    together.extend_from_slice(&frame);
                }
            }
            writer.write_all(&together).await?;
            together.clear();
            Ok::<_, std::io::Error>(())
        };
        match tokio::time::timeout(shared.options.message_timeout, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return LinkError::Lost,
            Err(_) => {
                shared.counters.sending_timeouts.add(1);
                return LinkError::Request("timeout".to_owned());
            }
        }
    }
}
