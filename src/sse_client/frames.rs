//! The frame filter: makes any bytes of an event stream safe for eventsource-client.
//!
//! eventsource-client has no size limit, and it ends its stream at the first frame it cannot take. Owned here: where a
//! frame ends, and whether it may pass. Chunks of a response body flow in, cut anywhere; the same bytes flow out in
//! order, in whole frames, without those that would do harm. Good frames that lie whole in one chunk are passed on as
//! slices of it; only a frame that began in an earlier chunk is copied, once.
//!
//! A **frame** is everything up to and including a blank line; lines end in LF, CR or CRLF. At most `event_bytes_max`
//! bytes are held for a frame that is not complete, so memory is bounded by that and one chunk.

use std::collections::VecDeque;
use std::mem;

use bytes::{Buf, Bytes};
use memchr::{memchr, memchr2};

/// The most bytes handed on at once. eventsource-client holds up to some 30 bytes for each byte of short lines that it
/// is given, and keeps them only until it has parsed the piece.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// How much of a dropped frame is kept to show to an operator, in bytes.
const FIRST_BYTES_MAX: usize = 80;

/// The byte order mark that a stream may begin with.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// It is not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// It is longer than the limit. Reported when the limit is passed, whether or not the frame ever ends.
    #[error("it is longer than event_bytes_max = {event_bytes_max} bytes")]
    Oversized {
        /// The limit.
        event_bytes_max: usize,
    },
}

/// A frame that was taken out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedFrame {
    /// Why.
    pub reason: DropReason,
    /// How it begins, to recognise it by.
    pub first_bytes: Bytes,
}

/// One stream's filter.
#[derive(Debug)]
pub struct FrameFilter {
    event_bytes_max: usize,
    /// The frame in progress, as far as it came in earlier chunks.
    held: Vec<u8>,
    /// The frame in progress is too long: its bytes are thrown away up to its end.
    skipping: bool,
    /// The last line end was a CR, so that an LF right after it belongs to it.
    after_cr: bool,
    /// The line in progress has no bytes yet.
    at_line_start: bool,
    /// Nothing has been judged yet, so that a byte order mark may come first.
    at_stream_start: bool,
    /// Pieces that may pass.
    passed: VecDeque<Bytes>,
}

impl FrameFilter {
    /// A filter for a stream from its beginning, passing frames of at most `event_bytes_max` bytes.
    #[must_use]
    pub fn new(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            held: Vec::new(),
            skipping: false,
            after_cr: false,
            at_line_start: true,
            at_stream_start: true,
            passed: VecDeque::new(),
        }
    }

    /// Takes the stream's next chunk. What may pass is ready in [`next_piece`](Self::next_piece); what may not is
    /// reported to `dropped`.
    pub fn push(&mut self, mut chunk: Bytes, mut dropped: impl FnMut(DroppedFrame)) {
        // Frames that may pass and lie whole in this chunk are collected in `chunk[..run]`.
        let mut run = 0;
        while let Some(frame) = self.next_frame(chunk.get(run..).unwrap_or_default()) {
            let frame_length = frame.len();
            if self.skipping || !self.held.is_empty() {
                self.finish_held(frame, &mut dropped);
                chunk.advance(frame_length);
            } else if self.may_pass(frame, &mut dropped) {
                run += frame_length;
            } else {
                self.pass(chunk.split_to(run));
                chunk.advance(frame_length);
                run = 0;
            }
        }
        self.pass(chunk.split_to(run));
        self.hold(&chunk, &mut dropped);
    }

    /// The next bytes of the filtered stream, or `None` until another chunk is pushed.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        let front = self.passed.front_mut()?;
        if front.len() > PIECE_BYTES_MAX { Some(front.split_to(PIECE_BYTES_MAX)) } else { self.passed.pop_front() }
    }

    /// Cuts what is left of the frame in progress off the front of `bytes`; `None` if it does not end there.
    fn next_frame<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if bytes.is_empty() {
            return None;
        }
        let mut position = usize::from(mem::take(&mut self.after_cr) && bytes.starts_with(b"\n"));
        while let Some(length) = memchr2(b'\n', b'\r', bytes.get(position..).unwrap_or_default()) {
            let blank = length == 0 && self.at_line_start;
            self.at_line_start = true;
            position += length;
            if bytes.get(position) == Some(&b'\r') {
                match bytes.get(position + 1) {
                    Some(b'\n') => position += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            position += 1;
            if blank {
                return bytes.get(..position);
            }
        }
        self.at_line_start &= position == bytes.len();
        None
    }

    /// Completes the frame that began in an earlier chunk.
    fn finish_held(&mut self, rest: &[u8], dropped: &mut impl FnMut(DroppedFrame)) {
        if !mem::take(&mut self.skipping) && self.hold(rest, dropped) {
            let frame = mem::take(&mut self.held);
            if self.may_pass(&frame, dropped) {
                self.pass(Bytes::from(frame));
            }
        }
        self.skipping = false;
    }

    /// Keeps the frame in progress until more of it comes; `false` if it is too long to keep.
    fn hold(&mut self, bytes: &[u8], dropped: &mut impl FnMut(DroppedFrame)) -> bool {
        if self.skipping || bytes.is_empty() {
            return !self.skipping;
        }
        let length = self.held.len() + bytes.len();
        if length > self.event_bytes_max {
            let first_bytes = self.held.iter().chain(bytes).copied().take(FIRST_BYTES_MAX).collect();
            self.held = Vec::new();
            self.skipping = true;
            dropped(DroppedFrame { reason: self.oversized(), first_bytes });
            return false;
        }
        if length > self.held.capacity() {
            // Grows as a vector would, but never beyond the limit.
            let capacity = length.max(self.held.capacity() * 2).min(self.event_bytes_max);
            self.held.reserve_exact(capacity - self.held.len());
        }
        self.held.extend_from_slice(bytes);
        true
    }

    /// Whether a complete frame may pass. One that may not for a fault of its own is reported to `dropped`; one that
    /// dispatches nothing by the standard is left out silently.
    fn may_pass(&mut self, frame: &[u8], dropped: &mut impl FnMut(DroppedFrame)) -> bool {
        let at_stream_start = mem::take(&mut self.at_stream_start);
        let reason = if frame.len() > self.event_bytes_max {
            self.oversized()
        } else if std::str::from_utf8(frame).is_err() {
            DropReason::NotUtf8
        } else {
            let mark = if at_stream_start { BYTE_ORDER_MARK } else { &[] };
            return is_accepted(frame.strip_prefix(mark).unwrap_or(frame));
        };
        let first_bytes = frame.iter().copied().take(FIRST_BYTES_MAX).collect();
        dropped(DroppedFrame { reason, first_bytes });
        false
    }

    fn oversized(&self) -> DropReason {
        DropReason::Oversized { event_bytes_max: self.event_bytes_max }
    }

    fn pass(&mut self, frames: Bytes) {
        if !frames.is_empty() {
            self.passed.push_back(frames);
        }
    }
}

/// Whether eventsource-client takes this frame. It ends its stream at one that has fields, but none that leaves a trace
/// in the event it builds; only data and a usable id are sure to.
fn is_accepted(frame: &[u8]) -> bool {
    if frame.starts_with(b"data:") {
        return true;
    }
    let mut only_comments = true;
    for line in frame.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty()) {
        let (name, value) = match memchr(b':', line) {
            Some(colon) => line.split_at(colon),
            None => (line, &[][..]),
        };
        match name {
            b"data" => return true,
            b"id" if !value.contains(&0) => return true,
            // The second is not in the standard, but eventsource-client takes it for one.
            b"" | b"comment" => {}
            _ => only_comments = false,
        }
    }
    only_comments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of `chunks`, and what was dropped.
    fn filter(event_bytes_max: usize, chunks: &[&[u8]]) -> (Vec<Bytes>, Vec<DropReason>) {
        let mut filter = FrameFilter::new(event_bytes_max);
        let (mut passed, mut dropped) = (Vec::new(), Vec::new());
        for chunk in chunks {
            filter.push(Bytes::copy_from_slice(chunk), |frame| dropped.push(frame.reason));
            assert!(filter.held.capacity() <= event_bytes_max);
            passed.extend(std::iter::from_fn(|| filter.next_piece()));
        }
        (passed, dropped)
    }

    #[test]
    fn good_frames_of_one_chunk_pass_as_one_slice_of_it() {
        let chunk = Bytes::from_static(b"data:1\nid:1\n\n:\n\ndata:2\n\ndata:");
        let mut filter = FrameFilter::new(100);
        filter.push(chunk.clone(), |frame| panic!("{frame:?}"));
        let piece = filter.next_piece().unwrap();
        assert_eq!(piece, chunk[..24]);
        assert_eq!(piece.as_ptr(), chunk.as_ptr());
        assert_eq!(filter.next_piece(), None);
    }

    #[test]
    fn a_frame_is_passed_as_soon_as_its_blank_line_is_there() {
        for (before, last) in [("data:1\n", "\n"), ("data:1\r", "\r"), ("data:1\r\n", "\r"), ("data:1", "\n\n")] {
            let (passed, dropped) = filter(100, &[before.as_bytes(), last.as_bytes()]);
            assert_eq!(passed.concat(), [before, last].concat().as_bytes(), "{before:?}");
            assert!(dropped.is_empty());
        }
    }

    #[test]
    fn the_line_feed_after_a_carriage_return_never_ends_a_frame() {
        let (passed, _) = filter(100, &[b"data:1\r", b"\n", b"data:2\r", b"\n"]);
        assert!(passed.is_empty());
        let (passed, _) = filter(100, &[b"data:1\r", b"\ndata:2\r\n\r", b"\ndata:3\r\n\r\n"]);
        assert_eq!(passed.concat(), b"data:1\r\ndata:2\r\n\r\ndata:3\r\n\r\n");
    }

    #[test]
    fn a_bad_frame_is_taken_out_between_good_ones() {
        for bad in [&b"data:\xFF\n\n"[..], b"data:1\nid:\xFF\n\n", b"d\xFFta:1\n\n", b":\xFF\ndata:1\n\n"] {
            let (passed, dropped) = filter(100, &[b"data:1\n\n", bad, b"data:2\n\n"]);
            assert_eq!(passed.concat(), b"data:1\n\ndata:2\n\n");
            assert_eq!(dropped, [DropReason::NotUtf8]);
            let whole = [b"data:1\n\n", bad, b"data:2\n\n"].concat();
            assert_eq!(filter(100, &[&whole]).0.concat(), b"data:1\n\ndata:2\n\n");
        }
    }

    #[test]
    fn a_character_cut_by_a_chunk_is_whole_again() {
        let (passed, dropped) = filter(100, &[b"data:\xE2\x82", b"\xAC\n\n"]);
        assert_eq!(passed.concat(), "data:€\n\n".as_bytes());
        assert!(dropped.is_empty());
    }

    #[test]
    fn a_frame_of_the_limit_passes_and_a_longer_one_does_not() {
        let oversized = DropReason::Oversized { event_bytes_max: 10 };
        for chunks in [
            &[&b"data:678\n\ndata:6789\n\ndata:678\n\n"[..]][..],
            &[b"data:67", b"8\n\ndata:6789", b"\n\ndata:6", b"78\n\n"],
        ] {
            let (passed, dropped) = filter(10, chunks);
            assert_eq!(passed.concat(), b"data:678\n\ndata:678\n\n");
            assert_eq!(dropped, [oversized]);
        }
    }

    #[test]
    fn an_endless_frame_is_reported_once_and_not_kept() {
        let mut chunks = vec![&b"data:1\n\ndata:endless"[..]];
        chunks.extend([&b"more without a line end"[..]; 1000]);
        chunks.extend([&b"\ndata:still the same frame\n"[..], b"\ndata:2\n\n"]);
        let (passed, dropped) = filter(32, &chunks);
        assert_eq!(passed.concat(), b"data:1\n\ndata:2\n\n");
        assert_eq!(dropped, [DropReason::Oversized { event_bytes_max: 32 }]);
    }

    #[test]
    fn what_dispatches_nothing_is_left_out_silently_and_comments_stay() {
        let (passed, dropped) =
            filter(100, &[b"event:x\n\nfoo: bar\n\nretry:1\n\nid:\0\n\n:keep\n\nid:7\n\n\n\ndata\n\n"]);
        assert_eq!(passed.concat(), b":keep\n\nid:7\n\n\n\ndata\n\n");
        assert!(dropped.is_empty());
    }

    #[test]
    fn a_byte_order_mark_may_come_first_only() {
        let (passed, _) = filter(100, &[b"\xEF\xBB", b"\xBFdata:1\n\n\xEF\xBB\xBFdata:2\n\n"]);
        assert_eq!(passed.concat(), b"\xEF\xBB\xBFdata:1\n\n");
    }

    #[test]
    fn a_long_frame_is_handed_on_in_pieces() {
        let frame = [&b"data:"[..], &vec![b'x'; 3 * PIECE_BYTES_MAX], b"\n\n"].concat();
        let (passed, _) = filter(frame.len(), &[&frame]);
        assert!(passed.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
        assert_eq!(passed.concat(), frame);
    }

    #[test]
    fn a_dropped_frame_shows_how_it_began() {
        let mut shown = Vec::new();
        let mut filter = FrameFilter::new(100);
        filter.push(Bytes::from_static(b"data:{\"Step\"\xFF\n\n"), |frame| shown.push(frame.first_bytes));
        filter.push(Bytes::from_static(b"data:{\"Fa"), |frame| shown.push(frame.first_bytes));
        filter.push(Bytes::from(vec![b'u'; 100]), |frame| shown.push(frame.first_bytes));
        assert_eq!(shown.first().unwrap(), &b"data:{\"Step\"\xFF\n\n"[..]);
        assert!(shown.last().unwrap().starts_with(b"data:{\"Fauuu"));
        assert_eq!(shown.last().unwrap().len(), FIRST_BYTES_MAX);
    }
}
