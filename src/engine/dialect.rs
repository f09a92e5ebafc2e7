//! What the engine must know of a chain to store its events, and nothing more.
//!
//! A [`Dialect`] goes into a log's [ingest](super::ingest) when the log is opened; one instance serves one log. It names the
//! log's kinds and finds the [`Facts`] of a stored event. Sources find the facts of a new event themselves, since they look
//! at it anyway. So a dialect is asked only when the index is rebuilt, when events are dropped, and when a log is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sidecar_log_format::storage::Directory;
use sidecar_log_format::{FrameForm, Kind, Log, ReadOptions, Timestamp, WriteOptions};

/// One chain's events, as far as storing them depends on what they are.
pub trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// Its name, at most 16 bytes. It is in the header of every segment, and a log of another name is refused.
    fn name(&self) -> &str;

    /// The numbered kinds with their names on the wire.
    fn kinds(&self) -> &[(Kind, Box<str>)];

    /// How the log's frames look.
    fn frame_form(&self) -> FrameForm;

    /// The facts of a stored event; `None` where its payload is not an event.
    fn facts(&self, kind: Kind, payload: &str) -> Option<Facts>;

    /// The bits of the kinds whose identity only the source can tell. Each such event is stored with a mark that keeps its
    /// identity.
    fn marked_kinds(&self) -> u64 {
        0
    }

    /// The bits of the kinds whose every report is a new event. The identity index does not know them.
    fn unidentified_kinds(&self) -> u64 {
        0
    }

    /// The rule by which events are identified, where it depends on more than the dialect. Identities made by another rule are
    /// made again.
    fn identity_rule(&self) -> String {
        String::new()
    }

    /// The events that count up without holes, if there are such.
    fn series(&self) -> Option<Series> {
        None
    }
}

/// The kinds that the log in `directory` has numbers for; none where there is no log that can be read.
#[must_use]
pub fn stored_kinds(directory: &Path) -> Vec<(u8, String)> {
    // Opening the log for writing reports what is wrong with it.
    let stored = Log::open(Arc::new(Directory::at(directory)), ReadOptions { cache_bytes: 0 });
    stored.map(|log| log.kinds()).unwrap_or_default()
}

/// A dialect's `own` kinds and those that an operator has added by name. A name that is among the `stored` kinds keeps its
/// number; a new one gets the next number. Names for which no number is left are stored without one.
#[must_use]
pub fn with_added_kinds<'a>(
    own: Vec<(Kind, Box<str>)>,
    stored: Vec<(u8, String)>,
    added: impl IntoIterator<Item = &'a str>,
) -> Vec<(Kind, Box<str>)> {
    let mut kinds = own;
    let own_last = kinds.last().map_or(0, |(kind, _)| kind.0);
    let stored = stored.into_iter().filter(|(kind, _)| *kind > own_last && *kind < Kind::OTHER.0);
    kinds.extend(stored.map(|(kind, name)| (Kind(kind), name.into_boxed_str())));
    kinds.sort_unstable_by_key(|(kind, _)| *kind);
    for name in added {
        let next = kinds.last().map_or(1, |(kind, _)| kind.0 + 1);
        if next < Kind::OTHER.0 && kind_named(&kinds, name).is_none() {
            kinds.push((Kind(next), name.into()));
        }
    }
    kinds
}

/// The number that `kinds` has for a name.
#[must_use]
pub fn kind_named(kinds: &[(Kind, Box<str>)], name: &str) -> Option<Kind> {
    kinds.iter().find(|(_, known)| **known == *name).map(|(kind, _)| *kind)
}

/// How a log of `dialect` is written; the rest has the defaults of [`WriteOptions::new`].
#[must_use]
pub fn write_options(dialect: &dyn Dialect, new_log_id: [u8; 16], now: Timestamp) -> WriteOptions {
    WriteOptions {
        kinds: dialect.kinds().iter().map(|(kind, name)| (kind.0, name.to_string())).collect(),
        frame_form: dialect.frame_form(),
        ..WriteOptions::new(dialect.name(), new_log_id, now)
    }
}

/// The facts of a stored event; `None` where its payload is not an event.
pub(crate) fn facts_of(dialect: &dyn Dialect, kind: Kind, payload: &[u8]) -> Option<Facts> {
    dialect.facts(kind, std::str::from_utf8(payload).ok()?)
}

/// What the engine needs to know of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What makes it this event and no other.
    pub identity: Identity,
    /// How much it carries of what some copies lack. A copy with some is richer than one with 0.
    pub richness: u32,
    /// Its number in its [`Series`], or another number that orders events of its kind.
    pub ordinal: Option<u64>,
}

/// What makes two reports of one event the same event (design: *identity*).
///
/// Equal `class` and `hash` mean the same event. `time` says when, in the chain's own terms, so that an index ordered
/// by `(class, time)` grows at its right edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Which kind of natural key this is; identities of different classes never meet.
    pub class: u8,
    /// A height, an era, or a time in milliseconds, by which events of this class nearly ascend; 0 where the event tells
    /// none.
    pub time: u64,
    /// 16 bytes that stand for the natural key: of a BLAKE3 hash over it.
    pub hash: [u8; 16],
}

/// Events whose [ordinals](Facts::ordinal) count up without holes: a number that nobody brings is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// The bits of the kinds that count.
    pub kinds: u64,
    /// What is counted, as gap marks name it.
    pub of: &'static str,
}
