//! The Casper dialect: what the engine must know to store a node's events.

use sidecar_log_format::FrameForm;

use super::event::{BLOCK_ADDED, Classified, KINDS, SHUTDOWN, classify};
use crate::engine::dialect::{Dialect, Facts, Series};
use crate::engine::source::Kind;

/// The dialect of one log with events of Casper nodes.
#[derive(Debug)]
pub struct Casper {
    kinds: [(Kind, Box<str>); KINDS.len()],
}

impl Default for Casper {
    fn default() -> Self {
        Casper { kinds: KINDS.map(|(kind, name)| (kind, name.into())) }
    }
}

impl Dialect for Casper {
    fn name(&self) -> &str {
        "casper"
    }

    fn kinds(&self) -> &[(Kind, Box<str>)] {
        &self.kinds
    }

    fn frame_form(&self) -> FrameForm {
        FrameForm::Plain
    }

    fn facts(&self, _: Kind, payload: &str) -> Option<Facts> {
        match classify(payload) {
            Ok(Classified::Event(event)) => Some(event.facts()),
            _ => None,
        }
    }

    /// All shutdowns have one payload.
    fn marked_kinds(&self) -> u64 {
        SHUTDOWN.bit()
    }

    fn series(&self) -> Option<Series> {
        Some(Series { kinds: BLOCK_ADDED.bit(), of: "height" })
    }
}
