//! Frames of the binary port: a length of four bytes, little-endian, then so many bytes of payload.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a frame's length.
pub(super) const LENGTH_BYTES: usize = 4;
/// Room that is made for what is read next. A frame's room grows with what arrives, not with the length that it claims.
const ROOM_BYTES: usize = 64 << 10;

/// Why no further frame can be read from a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the node closed the connection")]
    Closed,
    #[error("Empty request")]
    Empty,
    #[error("Request too large: allowed {allowed} bytes, got {got} bytes")]
    TooLarge { allowed: u32, got: u32 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads frames. Dropping a read loses nothing: what has arrived is kept for the next one.
pub(super) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    payload_bytes_max: u32,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(reader: R, payload_bytes_max: u32) -> Self {
        FrameReader { reader, buffer: BytesMut::new(), payload_bytes_max }
    }

    /// The next frame's payload.
    pub(super) async fn next(&mut self) -> Result<Bytes, FrameError> {
        loop {
            if let Some(payload) = self.take()? {
                return Ok(payload);
            }
            self.buffer.reserve(ROOM_BYTES);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(FrameError::Closed);
            }
        }
    }

    /// The next frame's payload, if all of it has arrived.
    fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.buffer.first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > self.payload_bytes_max {
            return Err(FrameError::TooLarge { allowed: self.payload_bytes_max, got: length });
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if self.buffer.len() - LENGTH_BYTES < length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that is read from these pieces, each of which arrives by itself.
    async fn read(pieces: &[&[u8]], payload_bytes_max: u32) -> (Vec<Bytes>, FrameError) {
        let mut arriving = tokio_test_reader(pieces);
        let mut reader = FrameReader::new(&mut arriving, payload_bytes_max);
        let mut frames = Vec::new();
        loop {
            match reader.next().await {
                Ok(frame) => frames.push(frame),
                Err(error) => return (frames, error),
            }
        }
    }

    fn tokio_test_reader(pieces: &[&[u8]]) -> impl AsyncRead + Unpin {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece))).collect();
        tokio_util::io::StreamReader::new(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn frames_are_read_whole_however_they_arrive() {
        let (frames, end) = read(&[&[2, 0, 0], &[0, 7], &[8, 1, 0, 0, 0, 9]], 10).await;
        assert_eq!(frames, [&[7, 8][..], &[9]]);
        assert!(matches!(end, FrameError::Closed), "{end}");
    }

    #[tokio::test]
    async fn an_empty_or_oversized_frame_ends_the_reading() {
        let (frames, end) = read(&[&[1, 0, 0, 0, 9, 0, 0, 0, 0]], 10).await;
        assert_eq!((frames.len(), end.to_string().as_str()), (1, "Empty request"));
        let (frames, end) = read(&[&[11, 0, 0, 0, 9]], 10).await;
        assert!(frames.is_empty());
        assert_eq!(end.to_string(), "Request too large: allowed 10 bytes, got 11 bytes");
    }

    #[tokio::test]
    async fn a_frame_that_claims_much_takes_no_room_before_it_arrives() {
        let mut arriving: &[u8] = &[0, 0, 0, 0x40, 1];
        let mut reader = FrameReader::new(&mut arriving, u32::MAX);
        assert!(matches!(reader.next().await, Err(FrameError::Closed)));
        assert!(reader.buffer.capacity() < 4 * ROOM_BYTES);
    }
}
