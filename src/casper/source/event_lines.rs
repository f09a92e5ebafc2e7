//! The log lines about single events of one node.
//!
//! A node's whole ring is read again with every connection, so only ingest knows which events are new. The text is made
//! where the event is classified anyway. It is written once the event is stored, once for each event whichever node
//! brought it first.

use tracing::{Level, debug, enabled, info, warn};

use crate::casper::event::{self, EventFacts};
use crate::engine::source::{self, Kind};
use crate::sse_client::log_lines::LineBudget;
use crate::telemetry::EVENT_LINES;

/// Writes the lines about one node's events.
#[derive(Debug)]
pub(super) struct EventLines {
    source: String,
    /// Whether there is a line for every event, as `enable_logging` asks.
    is_every_event_wanted: bool,
    /// For the lines that are written unasked.
    budget: LineBudget,
}

impl EventLines {
    pub(super) fn new(source: String, is_every_event_wanted: bool) -> Self {
        Self { source, is_every_event_wanted, budget: LineBudget::new() }
    }

    /// What the line about an event says, if one is wanted.
    pub(super) fn line(&self, facts: &EventFacts<'_>) -> Option<Box<str>> {
        let is_wanted = match facts.kind {
            event::FAULT | event::SHUTDOWN => true,
            _ if !self.is_every_event_wanted => false,
            event::FINALITY_SIGNATURE => enabled!(target: EVENT_LINES, Level::DEBUG),
            _ => enabled!(target: EVENT_LINES, Level::INFO),
        };
        is_wanted.then(|| facts.to_string().into_boxed_str())
    }
}

impl source::EventLines for EventLines {
    fn stored(&self, kind: Kind, line: &str) {
        let source = &self.source;
        match kind {
            event::FAULT | event::SHUTDOWN => {
                self.budget.spend(source, || warn!(target: EVENT_LINES, node = source, "{line}"));
            }
            event::FINALITY_SIGNATURE => debug!(target: EVENT_LINES, node = source, "{line}"),
            _ => info!(target: EVENT_LINES, node = source, "{line}"),
        }
    }
}
