//! NDJSON: one JSON object a line, `{"id":N,"data":PAYLOAD}`.
//!
//! The payload is the source's bytes, but that line feeds in it become spaces: in a JSON value they can only be white space
//! between tokens. A payload that is not exactly one JSON value is a string under another name: `{"id":N,"text":"…"}`. In a
//! log of named frames `"event":"NAME"` comes after the id.

use std::io::{self, Read};

use serde::de::IgnoredAny;
use sidecar_log_format::{FrameForm, LargeEvent, Log, Row};

use super::{framing::Framing, rendering::Rendering};

const LINE_END: &[u8] = b"}\n";
/// Bytes that are escaped at a time.
const PIECE_BYTES: usize = 16 << 10;

/// The events of one log as NDJSON.
#[derive(Clone, Copy, Debug)]
pub struct JsonLines {
    has_names: bool,
}

impl JsonLines {
    /// For a log.
    #[must_use]
    pub fn of(log: &Log) -> Self {
        JsonLines { has_names: log.frame_form() == FrameForm::Named }
    }

    /// Appends a line up to its payload.
    fn begin_line(self, row: &Row<'_>, is_json: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":");
        out.extend_from_slice(row.sequence().to_string().as_bytes());
        if self.has_names && !row.name().is_empty() {
            out.extend_from_slice(b",\"event\":\"");
            escape(row.name().as_bytes(), out);
            out.push(b'"');
        }
        out.extend_from_slice(if is_json { b",\"data\":" } else { b",\"text\":\"" });
    }
}

impl Rendering for JsonLines {
    fn id(&self) -> u16 {
        1
    }

    fn framing(&self) -> Framing {
        Framing::JsonLines
    }

    fn render(&self, row: &Row<'_>, payload: &[u8], out: &mut Vec<u8>) {
        let is_json = serde_json::from_slice::<IgnoredAny>(payload).is_ok();
        self.begin_line(row, is_json, out);
        if is_json {
            let start = out.len();
            out.extend_from_slice(payload);
            put_in_one_line(out.get_mut(start..).unwrap_or_default());
        } else {
            escape(payload, out);
            out.push(b'"');
        }
        out.extend_from_slice(LINE_END);
    }

    fn render_large(&self, event: &LargeEvent) -> io::Result<Option<Box<dyn Read + Send>>> {
        let Some(row) = event.shape().row(0) else { return Ok(None) };
        // Read twice: how the line begins depends on how the payload ends.
        let is_json = match serde_json::from_reader::<_, IgnoredAny>(io::BufReader::new(event.payload_pieces()?)) {
            Err(error) if error.is_io() => return Err(error.into()),
            read => read.is_ok(),
        };
        let mut opening = Vec::new();
        self.begin_line(&row, is_json, &mut opening);
        let opening = io::Cursor::new(opening);
        let payload = event.payload_pieces()?;
        Ok(Some(match is_json {
            true => Box::new(opening.chain(OneLine(payload)).chain(LINE_END)),
            false => Box::new(opening.chain(Escaped::new(payload)).chain(&b"\""[..]).chain(LINE_END)),
        }))
    }
}

/// Replaces line breaks, which are only white space in JSON.
fn put_in_one_line(json: &mut [u8]) {
    let mut rest = json;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        let Some((broken, after)) = rest.get_mut(at..).and_then(<[u8]>::split_first_mut) else { return };
        *broken = b' ';
        rest = after;
    }
}

/// Appends the bytes of UTF-8 text as they are inside a JSON string.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
}

struct OneLine<R>(R);

impl<R: Read> Read for OneLine<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(out)?;
        put_in_one_line(out.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}

struct Escaped<R> {
    text: R,
    piece: Vec<u8>,
    escaped: io::Cursor<Vec<u8>>,
}

impl<R: Read> Escaped<R> {
    fn new(text: R) -> Self {
        Escaped { text, piece: vec![0; PIECE_BYTES], escaped: io::Cursor::default() }
    }
}

impl<R: Read> Read for Escaped<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.escaped.read(out)?;
        if length > 0 || out.is_empty() {
            return Ok(length);
        }
        let read = self.text.read(&mut self.piece)?;
        let mut escaped = std::mem::take(&mut self.escaped).into_inner();
        escaped.clear();
        escape(self.piece.get(..read).unwrap_or_default(), &mut escaped);
        self.escaped = io::Cursor::new(escaped);
        self.escaped.read(out)
    }
}
