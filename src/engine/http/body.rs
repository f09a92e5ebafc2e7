//! A response's body on its way: whether the client takes it, fast enough, and how much of it was sent.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::{task::JoinSet, time::Instant};

use super::{access::AccessLine, activity::Busy, limits::FrontLimits};

/// How often a client's pace is looked at within the time that it may leave a body untouched.
const LOOKS_PER_STALL: u32 = 4;

/// A body that notes when HTTP asks it for more, which it does when the client has taken what came before.
pub(super) struct Observed {
    body: Body,
    busy: Busy,
    /// Whether there was something for the client when the body was last asked.
    is_sending: bool,
    /// Bytes given out so far.
    sent: Arc<AtomicU64>,
    /// Ends the connection when the client is too slow.
    _pace: Option<JoinSet<()>>,
    access: Option<AccessLine>,
}

impl Observed {
    pub(super) fn new(body: Body, busy: Busy, limits: &FrontLimits, access: Option<AccessLine>) -> Self {
        let is_http2 = busy.activity().is_http2.load(Ordering::Relaxed);
        let sent = Arc::default();
        // Of a stream it is 0. HTTP/1.1 takes a small body at once; HTTP/2 takes none while the client gives it no room.
        let bytes = http_body::Body::size_hint(&body).lower();
        let has_pace = bytes > if is_http2 { 0 } else { limits.http1_buffer_bytes as u64 };
        let pace = has_pace.then(|| {
            let mut task = JoinSet::new();
            let overdue = Arc::clone(&busy.activity().overdue);
            let too_slow = is_too_slow(*limits, Arc::clone(&sent));
            task.spawn(async move {
                too_slow.await;
                overdue.notify_one();
            });
            task
        });
        let is_sending = !http_body::Body::is_end_stream(&body);
        let mut observed = Observed { body, busy, is_sending: false, sent, _pace: pace, access };
        observed.note_move(is_sending);
        observed
    }

    fn note_move(&mut self, is_sending: bool) {
        let activity = self.busy.activity();
        activity.has_moved.store(true, Ordering::Relaxed);
        match (self.is_sending, is_sending) {
            (false, true) => _ = activity.sending.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = activity.sending.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.is_sending = is_sending;
    }
}

/// Ends when a client has taken less than the least rate asks for, after the time that it may leave a body untouched.
async fn is_too_slow(limits: FrontLimits, sent: Arc<AtomicU64>) {
    let begun = Instant::now();
    let rate = limits.bytes_per_second_min.max(1);
    loop {
        tokio::time::sleep(limits.write_stall_timeout / LOOKS_PER_STALL).await;
        let paid_for = Duration::from_secs(sent.load(Ordering::Relaxed) / rate);
        if begun.elapsed() >= limits.write_stall_timeout.saturating_add(paid_for) {
            return;
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.note_move(false);
        if let Some(access) = self.access.take() {
            access.write(self.sent.load(Ordering::Relaxed));
        }
    }
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            // This is its only writer.
            let sent = self.sent.load(Ordering::Relaxed).saturating_add(bytes as u64);
            self.sent.store(sent, Ordering::Relaxed);
        }
        self.note_move(matches!(polled, Poll::Ready(Some(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
