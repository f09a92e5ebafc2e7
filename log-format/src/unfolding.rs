//! A large event's payload in pieces, out of its wire form.

use std::io::{self, BufRead, BufReader, Read};

use crate::{FrameForm, LargeEvent, pieces::PIECE_BYTES, wire};

impl LargeEvent {
    /// Reads its payload in pieces, byte for byte as the source said it; at most the decoder's window of 8 MiB is held in
    /// memory.
    ///
    /// # Errors
    /// When the decoder cannot be set up. Reading fails where the wire form ends early.
    pub fn payload_pieces(&self) -> io::Result<impl Read + Send + use<>> {
        let row = self.shape().row(0).ok_or(io::ErrorKind::InvalidData)?;
        let form = self.shape().frame_form();
        let frame = row.range();
        let start = frame.start + wire::payload_start(form, row.name()) - form.data().len();
        let id_line = form.id().len() + self.sequence().to_string().len() + wire::END.len();
        let left = frame.end.checked_sub(start + id_line).ok_or(io::ErrorKind::InvalidData)?;
        let mut wire = BufReader::with_capacity(PIECE_BYTES, self.wire()?);
        io::copy(&mut wire.by_ref().take(start as u64), &mut io::sink())?;
        Ok(Unfolding { wire, left, form, place: Place::LineStart(0) })
    }
}

/// The lines of a frame's body without what SSE puts in front of each.
struct Unfolding<R> {
    wire: BufReader<R>,
    /// Bytes of the body that were not read yet.
    left: usize,
    form: FrameForm,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    /// So many bytes of `data:` have passed.
    LineStart(usize),
    /// A space here was put in by the plain form.
    AfterColon,
    /// Within a line of the payload.
    Line,
}

impl<R: Read> Read for Unfolding<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.left > 0 && !out.is_empty() {
            let ready = self.wire.fill_buf()?;
            let Some(ready) = ready.get(..ready.len().min(self.left)) else { break };
            let Some(&first) = ready.first() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            let data = self.form.data();
            let passed = match self.place {
                Place::LineStart(at) if data.get(at) == Some(&first) => {
                    self.place = match at + 1 {
                        next if next < data.len() => Place::LineStart(next),
                        _ if self.form == FrameForm::Plain => Place::AfterColon,
                        _ => Place::Line,
                    };
                    1
                }
                Place::LineStart(_) => return Err(io::ErrorKind::InvalidData.into()),
                Place::AfterColon => {
                    self.place = Place::Line;
                    usize::from(first == b' ')
                }
                Place::Line => {
                    let line_end = memchr::memchr(b'\n', ready).map(|at| at + 1);
                    let length = line_end.unwrap_or(ready.len()).min(out.len());
                    let (Some(from), Some(to)) = (ready.get(..length), out.get_mut(..length)) else { break };
                    to.copy_from_slice(from);
                    if line_end == Some(length) {
                        self.place = Place::LineStart(0);
                    }
                    self.wire.consume(length);
                    self.left -= length;
                    return Ok(length);
                }
            };
            self.wire.consume(passed);
            self.left -= passed;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{ApiVersion, Event, Kind, Opened, Read as LogRead, WriteOptions, Writer, storage::Directory};

    /// What comes out of a log of one large event in pieces, and as a whole.
    fn read_back(form: FrameForm, payload: &str) -> (Vec<u8>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = WriteOptions::new("test", [7; 16], 1);
        options.frame_form = form;
        let Opened { mut writer, log, .. } = Writer::open(Arc::new(Directory::at(folder.path())), options).unwrap();
        let api_version = match form {
            FrameForm::Plain => ApiVersion { major: 2, minor: 0, patch: 0 },
            FrameForm::Named => ApiVersion::NONE,
        };
        let event = Event { name: "head", api_version, ..Event::new(Kind::OTHER, 1, payload) };
        if form == FrameForm::Plain {
            writer.announce_version(api_version, "", 1).unwrap();
        }
        writer.append(&event).unwrap();
        writer.commit().unwrap();
        let LogRead::Large(event) = log.read(0).unwrap() else { panic!("it is not large") };
        let mut pieces = Vec::new();
        event.payload_pieces().unwrap().read_to_end(&mut pieces).unwrap();
        (pieces, event.payload().unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

        #[test]
        fn the_pieces_of_a_large_payload_are_the_payload(lines in prop::collection::vec("[ a-z:]{0,9}", 1..9)) {
            for form in [FrameForm::Plain, FrameForm::Named] {
                let payload = lines.join("\n").repeat((2 << 20) / (lines.join("\n").len() + 1) + 1);
                prop_assume!(payload.len() > 1 << 20);
                let (pieces, whole) = read_back(form, &payload);
                prop_assert!(pieces == payload.as_bytes() && whole == payload.as_bytes(), "{:?}", form);
            }
        }
    }
}
