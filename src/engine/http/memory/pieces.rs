//! The bytes of an answer, which are not copied together, and the body that holds its room until it is sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Room, SMALL_BYTES};

/// Bytes up to which a part is copied to what is before it.
const COPIED_BYTES: usize = 16 << 10;
/// Bytes that HTTP gets at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The bytes of an answer, part after part.
#[derive(Debug, Default)]
pub struct Pieces {
    whole: VecDeque<Bytes>,
    last: Vec<u8>,
    bytes: usize,
}

impl Pieces {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Has `bytes` fit in without being moved, and `part` with them if it will be copied.
    pub fn reserve_beside(&mut self, part: &Bytes, bytes: usize) {
        let copied = if part.len() <= COPIED_BYTES { part.len() } else { 0 };
        self.last.reserve(copied + bytes);
    }

    /// Adds a copy of these.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.last.extend_from_slice(bytes);
        self.bytes += bytes.len();
    }

    /// Adds these. Many are not copied.
    pub fn push(&mut self, part: Bytes) {
        if part.len() <= COPIED_BYTES {
            return self.extend(&part);
        }
        self.close_last();
        self.bytes += part.len();
        self.whole.push_back(part);
    }

    /// Adds all of `others`.
    pub fn append(&mut self, mut others: Pieces) {
        if others.bytes <= COPIED_BYTES {
            others.iter().for_each(|part| self.extend(part));
            return;
        }
        self.close_last();
        self.whole.append(&mut others.whole);
        self.last = others.last;
        self.bytes += others.bytes;
    }

    /// The parts, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.whole.iter().map(Bytes::as_ref).chain((!self.last.is_empty()).then_some(self.last.as_slice()))
    }

    fn close_last(&mut self) {
        if !self.last.is_empty() {
            shrink(&mut self.last);
            self.whole.push_back(Bytes::from(std::mem::take(&mut self.last)));
        }
    }

    /// The body of these parts, which keeps their room until it is sent or given up.
    pub fn into_body(self, room: Option<Room>) -> Body {
        self.into_body_with_trailers(room, HeaderMap::new())
    }

    /// The same, with trailers after it.
    pub fn into_body_with_trailers(mut self, room: Option<Room>, trailers: HeaderMap) -> Body {
        self.close_last();
        let trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
        match (self.whole.len(), room, trailers) {
            (0, _, None) => Body::empty(),
            (1, None, None) => Body::from(self.whole.pop_front().unwrap_or_default()),
            (_, room, trailers) => Body::new(HeldBody { parts: self.whole, left: self.bytes, trailers, _room: room }),
        }
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(mut last: Vec<u8>) -> Self {
        shrink(&mut last);
        Pieces { bytes: last.len(), whole: VecDeque::new(), last }
    }
}

/// Has bytes take no more memory than they are, as far as that matters.
fn shrink(bytes: &mut Vec<u8>) {
    if bytes.len() > SMALL_BYTES {
        bytes.shrink_to_fit();
    }
}

/// A body with the room that it takes. HTTP gets copies of it, piece by piece: with a slice, a client that is slow to take
/// the last piece would keep all of it, after the room was given back.
struct HeldBody {
    parts: VecDeque<Bytes>,
    /// Bytes that HTTP has not got yet.
    left: usize,
    trailers: Option<HeaderMap>,
    _room: Option<Room>,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(part) = self.parts.front_mut() else {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let piece = part.split_to(part.len().min(PIECE_BYTES));
        let piece = Bytes::copy_from_slice(&piece);
        if part.is_empty() {
            self.parts.pop_front();
        }
        self.left -= piece.len();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left as u64;
        match &self.trailers {
            None => SizeHint::with_exact(left),
            // With an exact one HTTP/1.1 would leave them out.
            Some(_) => {
                let mut hint = SizeHint::default();
                hint.set_lower(left);
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::super::AnswerMemory;
    use super::*;

    #[tokio::test]
    async fn the_pieces_of_a_large_answer_do_not_keep_it_in_memory() {
        let text = "0123456789".repeat(20_000);
        let memory = AnswerMemory::default();
        let left = memory.left_bytes();
        let room = memory.room(None, text.len(), text.len()).await.unwrap();
        let mut body = Pieces::from(text.clone().into_bytes()).into_body(Some(room));
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(200_000));
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_ne!(memory.left_bytes(), left);
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert!(pieces.len() == 4 && pieces.iter().all(Bytes::is_unique));
        assert!(http_body::Body::is_end_stream(&body));
        assert_eq!(pieces.concat(), text.as_bytes());
        drop(body);
        assert_eq!(memory.left_bytes(), left);
    }

    #[test]
    fn large_parts_are_not_copied_and_small_ones_are_joined() {
        let large = Bytes::from(vec![b'x'; COPIED_BYTES + 1]);
        let mut parts = Pieces::default();
        parts.extend(b"[");
        parts.push(Bytes::from_static(b"1,"));
        let mut answer = Pieces::default();
        answer.extend(b"{");
        answer.push(large.clone());
        answer.extend(b"}");
        parts.append(answer);
        parts.append(Pieces::from(b"]".to_vec()));
        let (all, lengths): (Vec<u8>, Vec<usize>) =
            (parts.iter().flatten().copied().collect(), parts.iter().map(<[u8]>::len).collect());
        assert_eq!(all, [b"[1,{", large.as_ref(), b"}]"].concat());
        assert_eq!((lengths, parts.len()), (vec![3, 1, large.len(), 2], all.len()));
        assert!(parts.whole.iter().any(|part| part.as_ptr() == large.as_ptr()));
    }

    #[tokio::test]
    async fn trailers_come_after_the_last_piece() {
        let trailers: HeaderMap = HeaderMap::from_iter([(axum::http::header::ETAG, "x".parse().unwrap())]);
        let body = Pieces::from(b"text".to_vec()).into_body_with_trailers(None, trailers.clone());
        let hint = http_body::Body::size_hint(&body);
        assert_eq!((hint.lower(), hint.upper()), (4, None));
        let body = body.collect().await.unwrap();
        assert_eq!(body.trailers(), Some(&trailers));
        assert_eq!(body.to_bytes(), "text");
    }
}
