//! The start, the end and the coding that a client asks for, in every dialect.

use axum::http::HeaderMap;
use sidecar_log_format::Sequence;

use crate::engine::http::query::{Parameters, Repeated};

/// What a query and the header `Last-Event-ID` say of a stream, whatever its events are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamFields {
    /// The first sequence wanted; `None`: only what is new.
    pub start: Option<Sequence>,
    /// The last sequence wanted.
    pub until: Option<Sequence>,
    /// Whether `encoding` asks for zstd frames; `None` leaves it to `Accept-Encoding`.
    pub zstd: Option<bool>,
}

/// A field that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It takes one value and came several times.
    #[error(transparent)]
    Repeated(#[from] Repeated),
    /// It is not the id of an event.
    #[error("`{0}` takes an event's id, a whole number")]
    Id(&'static str),
    /// It is not a coding.
    #[error("`encoding` takes zstd or identity")]
    Encoding,
}

impl StreamFields {
    /// The fields' names.
    pub const NAMES: [&str; 4] = ["start_from", "until", "encoding", "lastEventId"];

    /// Reads them.
    ///
    /// # Errors
    /// [`FieldError`] names the first that cannot be read.
    pub fn read(query: &Parameters<'_>, headers: &HeaderMap) -> Result<StreamFields, FieldError> {
        let id = |name| match query.single(name)? {
            Some(value) => value.parse().map(Some).map_err(|_| FieldError::Id(name)),
            None => Ok(None),
        };
        let (start_from, until): (Option<Sequence>, _) = (id("start_from")?, id("until")?);
        let zstd = match query.single("encoding")? {
            Some("zstd") => Some(true),
            Some("identity") => Some(false),
            Some(_) => return Err(FieldError::Encoding),
            None => None,
        };
        // A widely used EventSource polyfill cannot set headers and sends the former.
        let in_query = query.single("lastEventId")?.and_then(last_id);
        let in_header = headers.get("last-event-id").and_then(|value| last_id(value.to_str().ok()?));
        let after_last = in_query.max(in_header).map(|last| last.saturating_add(1));
        // `None` is less than any start: with both, the later one wins, so that a browser resumes.
        Ok(StreamFields { start: start_from.max(after_last), until, zstd })
    }
}

/// The id that a client had last. What is not an id is ignored, as a browser's own empty one must be.
fn last_id(value: &str) -> Option<Sequence> {
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, last_event_id: &str) -> Result<StreamFields, FieldError> {
        let headers = HeaderMap::from_iter([("last-event-id".parse().unwrap(), last_event_id.parse().unwrap())]);
        StreamFields::read(&Parameters::parse(Some(query)), &headers)
    }

    #[test]
    fn the_later_of_two_starts_counts_and_an_empty_last_id_is_none() {
        for (query, last_event_id, start) in [
            ("", "", None),
            ("", " 6 ", Some(7)),
            ("start_from=0", "x", Some(0)),
            ("start_from=3", "6", Some(7)),
            ("start_from=9", "6", Some(9)),
            ("lastEventId=8", "6", Some(9)),
            ("lastEventId=", "6", Some(7)),
            ("lastEventId=18446744073709551615", "", Some(u64::MAX)),
        ] {
            assert_eq!(read(query, last_event_id).map(|fields| fields.start), Ok(start), "{query} {last_event_id}");
        }
    }

    #[test]
    fn the_end_and_the_coding_are_read() {
        let fields = |until, zstd| Ok(StreamFields { start: None, until, zstd });
        assert_eq!(read("until=7&encoding=zstd&other=1&other=2", ""), fields(Some(7), Some(true)));
        assert_eq!(read("encoding=identity", ""), fields(None, Some(false)));
        assert_eq!(read("", ""), fields(None, None));
    }

    #[test]
    fn a_field_that_is_wrong_or_repeated_is_named() {
        for (query, expected) in [
            ("start_from=x", "`start_from` takes an event's id, a whole number"),
            ("until=-1", "`until` takes an event's id, a whole number"),
            ("until=18446744073709551616", "`until` takes an event's id, a whole number"),
            ("encoding=gzip", "`encoding` takes zstd or identity"),
        ] {
            assert_eq!(read(query, "").unwrap_err().to_string(), expected, "{query}");
        }
        for name in StreamFields::NAMES {
            let repeated = read(&format!("{name}=1&{name}=1"), "").unwrap_err();
            assert_eq!(repeated, FieldError::Repeated(Repeated { name }));
        }
    }
}
