//! The beacon dialect: what the engine must know to store the events of consensus clients.

use std::path::Path;

use sidecar_log_format::{FrameForm, Kind};

use super::identity;
use super::topics::{COUNT, TOPICS, named};
use crate::engine::dialect::{Dialect, Facts, kind_named, stored_kinds, with_added_kinds};

/// The dialect's name, and that of its log.
pub const NAME: &str = "beacon";

/// Topics that an operator may add: what is left of the numbers that a dialect has.
pub const ADDED_TOPICS_MAX: usize = 62 - COUNT;

/// The dialect of one log with events of consensus clients.
#[derive(Debug)]
pub struct Beacon {
    kinds: Vec<(Kind, Box<str>)>,
}

impl Default for Beacon {
    fn default() -> Self {
        Beacon { kinds: TOPICS.iter().map(|topic| (topic.kind, topic.name.into())).collect() }
    }
}

impl Beacon {
    /// With topics that an operator has added. One that the log in `directory` has a number for keeps it; those beyond
    /// [`ADDED_TOPICS_MAX`] are stored without a number.
    #[must_use]
    pub fn with_topics<'a>(added: impl IntoIterator<Item = &'a str>, directory: &Path) -> Self {
        Self::with_topics_after(added, stored_kinds(directory))
    }

    fn with_topics_after<'a>(added: impl IntoIterator<Item = &'a str>, stored: Vec<(u8, String)>) -> Self {
        Beacon { kinds: with_added_kinds(Beacon::default().kinds, stored, added) }
    }

    /// The number of a topic; [`Kind::OTHER`] for one without.
    #[must_use]
    pub fn kind(&self, name: &str) -> Kind {
        kind_named(&self.kinds, name).unwrap_or(Kind::OTHER)
    }
}

impl Dialect for Beacon {
    fn name(&self) -> &str {
        NAME
    }

    fn kinds(&self) -> &[(Kind, Box<str>)] {
        &self.kinds
    }

    fn frame_form(&self) -> FrameForm {
        FrameForm::Named
    }

    fn facts(&self, kind: Kind, payload: &str) -> Option<Facts> {
        let known = identity::read(kind, "", payload).ok()?;
        Some(Facts { identity: known.identity, richness: 0, ordinal: None })
    }

    /// The payload of an event without a number does not hold its name; of `sync_state`, not who said it and when.
    fn marked_kinds(&self) -> u64 {
        Kind::OTHER.bit() | named("sync_state").map_or(0, |topic| topic.kind.bit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_added_topic_keeps_its_number_whatever_is_added_later() {
        let first = Beacon::with_topics_after(["a", "head", "b"], Vec::new());
        assert_eq!(["a", "head", "b", "c"].map(|name| first.kind(name).0), [29, 1, 30, 63]);
        let stored: Vec<_> = first.kinds().iter().map(|(kind, name)| (kind.0, name.to_string())).collect();
        let second = Beacon::with_topics_after(["c", "b"], stored);
        assert_eq!(["a", "b", "c"].map(|name| second.kind(name).0), [29, 30, 31]);
        let names: Vec<String> = (0..60).map(|number| format!("topic_{number}")).collect();
        let many = Beacon::with_topics_after(names.iter().map(String::as_str), Vec::new());
        assert_eq!(many.kinds().len(), 62);
        assert_eq!(many.kind("topic_59"), Kind::OTHER);
    }
}
