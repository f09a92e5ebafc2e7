//! Identities that only marks tell, on their way from the log into the identity index or out of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use sidecar_log_format::{Mark, MarkKind, Row, Sequence, Timestamp};

use crate::engine::dialect::Identity;

/// Identities of events that were not reached yet.
///
/// A crash may have kept the mark of an event that was never stored, and its sequence was given to another one. So a mark is
/// about an event only if the receive time is the event's too.
#[derive(Default)]
pub(super) struct Remembered(BTreeMap<(Sequence, Timestamp), Identity>);

/// The body of an identity mark.
#[derive(Deserialize)]
struct Body {
    sequence: Sequence,
    class: u8,
    time: u64,
    /// 32 hexadecimal digits.
    hash: String,
}

impl Remembered {
    /// Takes in a mark, if it tells an identity.
    pub(super) fn note(&mut self, mark: &Mark) {
        let Some(body) = serde_json::from_str::<Body>(&mark.body).ok().filter(|_| mark.kind == MarkKind::IDENTITY)
        else {
            return;
        };
        if let Ok(hash) = u128::from_str_radix(&body.hash, 16) {
            let identity = Identity { class: body.class, time: body.time, hash: hash.to_be_bytes() };
            self.0.insert((body.sequence, mark.received), identity);
        }
    }

    /// The identity of an event.
    pub(super) fn take(&mut self, row: &Row<'_>) -> Option<Identity> {
        self.0.remove(&(row.sequence(), row.received()))
    }

    /// Forgets those before `sequence`, whose events were never stored.
    pub(super) fn forget_before(&mut self, sequence: Sequence) {
        while self.0.first_key_value().is_some_and(|((first, _), _)| *first < sequence) {
            self.0.pop_first();
        }
    }
}

/// The mark that keeps the identity of a stored event.
pub(super) fn identity_mark(sequence: Sequence, source: &str, received: Timestamp, identity: &Identity) -> Mark {
    let Identity { class, time, hash } = *identity;
    let hash = u128::from_be_bytes(hash);
    let body = format!(r#"{{"sequence":{sequence},"class":{class},"time":{time},"hash":"{hash:032x}"}}"#);
    Mark { kind: MarkKind::IDENTITY, position: sequence, source: source.to_owned(), received, body }
}
