//! The wire form: how an event looks in a block's payload, which is how it is sent to SSE clients.
//!
//! ```text
//! plain                    named
//! data:<payload>\n         event: <name>\n
//! id:<sequence>\n          data: <payload>\n
//! \n                       id: <sequence>\n
//!                          \n
//! ```
//!
//! A payload with line feeds becomes several `data` lines. An SSE reader takes one space away after the colon: the plain
//! form has none, so a line that begins with a space gets one more. An event without a name has no `event` line. Where the
//! API version rises in a plain log, a frame without id precedes the event: `data:{"ApiVersion":"2.0.0"}\n\n`.

use std::fmt;

use crate::{ApiVersion, Sequence};

const EVENT: &[u8] = b"event: ";
pub(crate) const END: &[u8] = b"\n\n";

/// How the events of a log look on the wire, and so in its blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameForm {
    /// `data:PAYLOAD\nid:N\n\n`, as Casper nodes write them.
    #[default]
    Plain,
    /// `event: NAME\ndata: PAYLOAD\nid: N\n\n`, as beacon nodes write them. Such a log has no API versions.
    Named,
}

impl FrameForm {
    /// The must-understand bits of a segment's header that say so.
    pub(crate) fn bits(self) -> u32 {
        match self {
            FrameForm::Plain => 1,
            FrameForm::Named => 2,
        }
    }

    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        [FrameForm::Plain, FrameForm::Named].into_iter().find(|form| form.bits() == bits)
    }
}

impl fmt::Display for FrameForm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FrameForm::Plain => "plain",
            FrameForm::Named => "named",
        })
    }
}

impl FrameForm {
    pub(crate) const fn data(self) -> &'static [u8] {
        match self {
            FrameForm::Plain => b"data:",
            FrameForm::Named => b"data: ",
        }
    }

    pub(crate) const fn id(self) -> &'static [u8] {
        match self {
            FrameForm::Plain => b"\nid:",
            FrameForm::Named => b"\nid: ",
        }
    }
}

/// Appends the frame of one event; reports whether the payload had to be folded over lines or shifted by a space.
pub(crate) fn push_event(out: &mut Vec<u8>, form: FrameForm, name: &str, payload: &str, sequence: Sequence) -> Folded {
    if form == FrameForm::Named && !name.is_empty() {
        out.extend_from_slice(EVENT);
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    let is_shifted = form == FrameForm::Plain && payload.starts_with(' ');
    let folded = is_shifted || memchr::memchr(b'\n', payload.as_bytes()).is_some();
    if folded {
        for (number, line) in payload.split('\n').enumerate() {
            if number > 0 {
                out.push(b'\n');
            }
            out.extend_from_slice(form.data());
            if form == FrameForm::Plain && line.starts_with(' ') {
                out.push(b' ');
            }
            out.extend_from_slice(line.as_bytes());
        }
    } else {
        out.extend_from_slice(form.data());
        out.extend_from_slice(payload.as_bytes());
    }
    out.extend_from_slice(form.id());
    push_decimal(out, sequence);
    out.extend_from_slice(END);
    Folded(folded)
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

/// Whether the frame of a payload, its version frame or `event` line included, surely has at most `bytes_max`.
pub(crate) fn frame_fits(payload: &str, bytes_max: usize) -> bool {
    /// An `event` line, an `id` line and a version frame have fewer.
    const FIXED_BYTES_MAX: usize = 512;
    // Every line gets `data:` and a space at worst.
    let frame_length_max = |lines: usize| payload.len() + lines * FrameForm::Named.data().len() + FIXED_BYTES_MAX;
    // Nearly every payload would fit even if it were all line feeds, and need not be counted.
    frame_length_max(payload.len() + 1) <= bytes_max
        || frame_length_max(memchr::memchr_iter(b'\n', payload.as_bytes()).count() + 1) <= bytes_max
}

/// Reads the payload back out of an event's frame; `None` when the frame is not one.
pub(crate) fn unfold(form: FrameForm, frame: &[u8]) -> Option<Vec<u8>> {
    let mut body = frame.strip_suffix(END)?;
    body = body.get(..memchr::memmem::rfind(body, form.id())?)?;
    if form == FrameForm::Named && body.starts_with(EVENT) {
        body = body.get(memchr::memchr(b'\n', body)? + 1..)?;
    }
    let mut payload = Vec::with_capacity(body.len());
    for (number, line) in body.split(|&byte| byte == b'\n').enumerate() {
        if number > 0 {
            payload.push(b'\n');
        }
        let line = line.strip_prefix(form.data())?;
        let is_shifted = form == FrameForm::Plain && line.starts_with(b" ");
        payload.extend_from_slice(line.get(usize::from(is_shifted)..)?);
    }
    Some(payload)
}

/// Where the payload of an unfolded frame begins.
pub(crate) fn payload_start(form: FrameForm, name: &str) -> usize {
    let event_line = if form == FrameForm::Plain || name.is_empty() { 0 } else { EVENT.len() + name.len() + 1 };
    event_line + form.data().len()
}

fn push_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(payload: &str) -> Vec<u8> {
        let mut out = Vec::new();
        push_event(&mut out, FrameForm::Plain, "Step", payload, 7);
        out
    }

    fn framed_by_name(name: &str, payload: &str) -> String {
        let mut out = Vec::new();
        push_event(&mut out, FrameForm::Named, name, payload, 7);
        String::from_utf8(out).unwrap()
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
    fn a_named_frame_begins_with_its_name_and_needs_no_shift() {
        assert_eq!(framed_by_name("head", r#"{"a":1}"#), "event: head\ndata: {\"a\":1}\nid: 7\n\n");
        assert_eq!(framed_by_name("head", " 1\n 2"), "event: head\ndata:  1\ndata:  2\nid: 7\n\n");
        assert_eq!(framed_by_name("", "1"), "data: 1\nid: 7\n\n");
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
        fn every_payload_without_carriage_return_comes_back(payload in "[^\r]{0,200}", name in "[a-z_]{0,9}") {
            for form in [FrameForm::Plain, FrameForm::Named] {
                let mut frame = Vec::new();
                let folded = push_event(&mut frame, form, &name, &payload, 7);
                prop_assert_eq!(unfold(form, &frame).unwrap(), payload.as_bytes());
                if !folded.0 {
                    let start = payload_start(form, &name);
                    prop_assert_eq!(&frame[start..start + payload.len()], payload.as_bytes());
                }
            }
        }
    }
}
