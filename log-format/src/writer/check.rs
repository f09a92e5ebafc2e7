//! What a log can hold: the rules that an event or a mark has to keep before it is appended.

use crate::{Error, Event, Mark, Result, block::PAYLOAD_BYTES_MAX, wire};

const EVENT_BYTES_MAX: usize = 256 << 20;
const NAME_BYTES_MAX: usize = 255;

impl Event<'_> {
    /// Whether a log can hold the event, by the rules of [`crate::Writer::append`].
    ///
    /// # Errors
    /// [`Error::Refused`] with the rule that it breaks.
    pub fn check(&self) -> Result<()> {
        check_event(self)
    }
}

fn check_event(event: &Event<'_>) -> Result<()> {
    let refuse = |reason: String| Err(Error::Refused { reason });
    if event.payload.is_empty() {
        return refuse("the payload is empty".to_owned());
    }
    if event.payload.len() > EVENT_BYTES_MAX {
        return refuse(format!("the payload has {} bytes, at most {EVENT_BYTES_MAX} fit", event.payload.len()));
    }
    if memchr::memchr(b'\r', event.payload.as_bytes()).is_some() {
        return refuse("the payload holds a carriage return, which the wire form cannot carry".to_owned());
    }
    if !wire::frame_fits(event.payload, PAYLOAD_BYTES_MAX as usize) {
        return refuse(format!("the payload has so many lines that its wire form exceeds {PAYLOAD_BYTES_MAX} bytes"));
    }
    if [event.name, event.source, event.network].into_iter().any(|name| name.len() > NAME_BYTES_MAX) {
        return refuse(format!("the name of an event, source or network is longer than {NAME_BYTES_MAX} bytes"));
    }
    if event.name.contains(['\n', '\r', '\0']) {
        return refuse(format!("the event's name {:?} does not fit on a line", event.name));
    }
    Ok(())
}

pub(super) fn check_mark(mark: &Mark) -> Result<()> {
    let refuse = |reason: String| Err(Error::Refused { reason });
    if mark.body.contains(['\n', '\r']) || mark.body.is_empty() || mark.body.len() > EVENT_BYTES_MAX {
        return refuse("a mark's body must be one line of at most 256 MiB".to_owned());
    }
    if mark.source.len() > NAME_BYTES_MAX {
        return refuse(format!("the name of a source is longer than {NAME_BYTES_MAX} bytes"));
    }
    Ok(())
}
