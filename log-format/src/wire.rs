//! The wire form: how an event looks in a block's payload, which is how it looks on `GET /events`.
//!
//! ```text
//! data:<payload>\n
//! id:<sequence>\n
//! \n
//! ```
//!
//! A payload with line feeds becomes several `data:` lines; a line that begins with a space gets one more, because an
//! SSE reader takes one away. Where the API version rises, a frame without id stands before the event:
//! `data:{"ApiVersion":"2.0.0"}\n\n`.

use crate::{ApiVersion, Sequence};

const DATA: &[u8] = b"data:";
const ID: &[u8] = b"\nid:";
const END: &[u8] = b"\n\n";

/// Appends the frame of one event; says whether the payload had to be folded over lines or shifted by a space.
pub(crate) fn push_event(out: &mut Vec<u8>, payload: &str, sequence: Sequence) -> Folded {
    let folded = if payload.starts_with(' ') || memchr::memchr(b'\n', payload.as_bytes()).is_some() {
        for (number, line) in payload.split('\n').enumerate() {
            if number > 0 {
                out.push(b'\n');
            }
            out.extend_from_slice(DATA);
            if line.starts_with(' ') {
                out.push(b' ');
            }
            out.extend_from_slice(line.as_bytes());
        }
        Folded(true)
    } else {
        out.extend_from_slice(DATA);
        out.extend_from_slice(payload.as_bytes());
        Folded(false)
    };
    out.extend_from_slice(ID);
    push_decimal(out, sequence);
    out.extend_from_slice(END);
    folded
}

/// Whether a payload differs from the bytes between `data:` and the end of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Folded(pub(crate) bool);

/// The frame that announces an API version.
#[must_use]
pub fn version_frame(version: ApiVersion) -> Vec<u8> {
    format!("data:{{\"ApiVersion\":\"{version}\"}}\n\n").into_bytes()
}

/// Bytes of [`version_frame`].
pub(crate) fn version_frame_length(version: ApiVersion) -> usize {
    let digits = |number: u32| number.checked_ilog10().map_or(1, |log| log as usize + 1);
    b"data:{\"ApiVersion\":\"..\"}\n\n".len() + digits(version.major) + digits(version.minor) + digits(version.patch)
}

/// Whether the frame of a payload, its version frame included, surely has at most `bytes_max`.
pub(crate) fn frame_fits(payload: &str, bytes_max: usize) -> bool {
    // Every line gets `data:` and a space at worst.
    let frame_length_max = |lines: usize| payload.len() + lines * (DATA.len() + 1) + 128;
    // Nearly every payload would fit even if it were all line feeds, and need not be counted.
    frame_length_max(payload.len() + 1) <= bytes_max
        || frame_length_max(memchr::memchr_iter(b'\n', payload.as_bytes()).count() + 1) <= bytes_max
}

/// Reads the payload back out of an event's frame; `None` when the frame is not one.
pub(crate) fn unfold(frame: &[u8]) -> Option<Vec<u8>> {
    let body = frame.strip_suffix(END)?;
    let body = &body.get(..memchr::memmem::rfind(body, ID)?)?;
    let mut payload = Vec::with_capacity(body.len());
    for (number, line) in body.split(|&byte| byte == b'\n').enumerate() {
        if number > 0 {
            payload.push(b'\n');
        }
        let line = line.strip_prefix(DATA)?;
        payload.extend_from_slice(line.strip_prefix(b" ").unwrap_or(line));
    }
    Some(payload)
}

/// Where the payload of an unfolded frame begins.
pub(crate) const PAYLOAD_START: usize = DATA.len();

fn push_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(payload: &str) -> Vec<u8> {
        let mut out = Vec::new();
        push_event(&mut out, payload, 7);
        out
    }

    #[test]
    fn a_plain_payload_is_one_data_line() {
        assert_eq!(framed(r#"{"a":1}"#), b"data:{\"a\":1}\nid:7\n\n");
    }

    #[test]
    fn line_feeds_and_leading_spaces_survive_an_sse_reader() {
        assert_eq!(framed("{\n  \"a\": 1\n}"), b"data:{\ndata:   \"a\": 1\ndata:}\nid:7\n\n");
        assert_eq!(framed(" 1"), b"data:  1\nid:7\n\n");
    }

    #[test]
    fn the_length_of_a_version_frame_is_known_without_making_it() {
        for numbers in [[0, 0, 0], [2, 0, 10], [9, 99, 100], [u32::MAX, 1, 999_999_999]] {
            let version = ApiVersion { major: numbers[0], minor: numbers[1], patch: numbers[2] };
            assert_eq!(version_frame(version).len(), version_frame_length(version), "for {version}");
        }
    }

    proptest! {
        #[test]
        fn every_payload_without_carriage_return_comes_back(payload in "[^\r]{0,200}") {
            prop_assert_eq!(unfold(&framed(&payload)).unwrap(), payload.into_bytes());
        }
    }
}
