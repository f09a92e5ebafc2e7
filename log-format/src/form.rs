//! The form of a log: how its frames look, and what its kinds are called.
//!
//! Owns what a segment's header says of all its events at once. A block of the segment cannot be read without it: a named
//! frame holds the event's name, and an event without a name of its own has that of its kind.

use std::sync::Arc;

use crate::{Error, FrameForm, Kind, Result};

/// The most kinds of a dialect: a segment's header holds them all.
pub const KINDS_MAX: usize = 62;
/// The longest name of a kind, in bytes.
pub const KIND_NAME_BYTES_MAX: usize = 64;

/// What all events of a segment have in common. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) frames: FrameForm,
    /// The dialect's kinds: number and name.
    kinds: Arc<[(u8, String)]>,
}

impl Form {
    pub(crate) fn new(frames: FrameForm, kinds: Vec<(u8, String)>) -> Self {
        Form { frames, kinds: kinds.into() }
    }

    pub(crate) fn kinds(&self) -> &[(u8, String)] {
        &self.kinds
    }

    /// The name of a kind; empty for one that the dialect has no name for.
    pub(crate) fn kind_name(&self, kind: Kind) -> &str {
        // A dialect lists its kinds by number, so the first guess is nearly always right.
        let guessed = usize::from(kind.0).checked_sub(1).and_then(|place| self.kinds.get(place));
        let found = guessed.filter(|(number, _)| *number == kind.0);
        let found = found.or_else(|| self.kinds.iter().find(|(number, _)| *number == kind.0));
        found.map_or("", |(_, name)| name.as_str())
    }

    /// The name of an event: its own, or that of its kind where its own is empty.
    pub(crate) fn name_of<'a>(&'a self, kind: Kind, own_name: &'a str) -> &'a str {
        if own_name.is_empty() { self.kind_name(kind) } else { own_name }
    }

    /// Checks the limits that a segment's header has room for.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::BadOption { option: "kinds", reason });
        if self.kinds.len() > KINDS_MAX {
            return bad(format!("{} kinds were given, at most {KINDS_MAX} fit", self.kinds.len()));
        }
        for (_, name) in self.kinds.iter() {
            if name.len() > KIND_NAME_BYTES_MAX {
                return bad(format!("the name {name:?} is longer than {KIND_NAME_BYTES_MAX} bytes"));
            }
            if name.contains(['\n', '\r']) {
                return bad(format!("the name {name:?} has a line break"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_wherever_the_dialect_lists_it() {
        let kinds = [(2, "two"), (1, "one"), (9, "nine")].map(|(number, name)| (number, name.to_owned()));
        let form = Form::new(FrameForm::Plain, kinds.to_vec());
        assert_eq!([0, 1, 2, 3, 9, 63].map(|kind| form.kind_name(Kind(kind))), ["", "one", "two", "", "nine", ""]);
    }

    #[test]
    fn an_event_without_a_name_of_its_own_has_that_of_its_kind() {
        let form = Form::new(FrameForm::Plain, vec![(1, "one".to_owned())]);
        let names = [(1, ""), (1, "own"), (2, ""), (2, "own")].map(|(kind, own)| form.name_of(Kind(kind), own));
        assert_eq!(names, ["one", "own", "", "own"]);
    }
}
