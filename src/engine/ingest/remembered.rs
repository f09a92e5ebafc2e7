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
pub(super) struct Remembered {
    identities: BTreeMap<(Sequence, Timestamp), Identity>,
    /// Events before it were reached.
    next: Sequence,
}

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
    /// Before the event at `next`.
    pub(super) fn before(next: Sequence) -> Self {
        Remembered { next, ..Remembered::default() }
    }

    /// Takes in a mark, if it tells an identity.
    pub(super) fn note(&mut self, mark: &Mark) {
        if mark.kind != MarkKind::IDENTITY {
            return;
        }
        let Ok(body) = serde_json::from_str::<Body>(&mark.body) else { return };
        if body.sequence >= self.next
            && let Ok(hash) = u128::from_str_radix(&body.hash, 16)
        {
            let identity = Identity { class: body.class, time: body.time, hash: hash.to_be_bytes() };
            self.identities.insert((body.sequence, mark.received), identity);
        }
    }

    /// The identity of an event.
    pub(super) fn take(&mut self, row: &Row<'_>) -> Option<Identity> {
        self.identities.remove(&(row.sequence(), row.received()))
    }

    /// All events before `next` were reached: what is left of them was never stored.
    pub(super) fn pass(&mut self, next: Sequence) {
        self.next = next;
        while self.identities.first_key_value().is_some_and(|((sequence, _), _)| *sequence < next) {
            self.identities.pop_first();
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
