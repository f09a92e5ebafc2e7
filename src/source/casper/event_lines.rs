//! The log lines about single events of one node.
//!
//! A node's whole ring is read again with every connection, so only ingest knows which events are new. It says so here, and
//! the line is written then, once for each event whichever node brought it first.

use tracing::{Level, debug, enabled, info, warn};

use super::event::{self, Classified, EventFacts, classify};
use super::log_lines::LineBudget;
use crate::source::Kind;
use crate::telemetry::EVENT_LINES;

/// Writes the lines about one node's events.
#[derive(Debug, Default)]
pub struct EventLines {
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

    /// Writes the line about an event that was stored just now, if one is wanted.
    pub fn stored(&self, kind: Kind, payload: &str) {
        let source = &self.source;
        match kind {
            event::FAULT | event::SHUTDOWN => {
                self.budget.spend(source, || {
                    about(payload, |facts| warn!(target: EVENT_LINES, node = source, "{facts}"));
                });
            }
            _ if !self.is_every_event_wanted => {}
            event::FINALITY_SIGNATURE if enabled!(target: EVENT_LINES, Level::DEBUG) => {
                about(payload, |facts| debug!(target: EVENT_LINES, node = source, "{facts}"));
            }
            event::FINALITY_SIGNATURE => {}
            _ if enabled!(target: EVENT_LINES, Level::INFO) => {
                about(payload, |facts| info!(target: EVENT_LINES, node = source, "{facts}"));
            }
            _ => {}
        }
    }
}

/// What was stored was classified before; only what is shown is classified again.
fn about(payload: &str, write: impl FnOnce(EventFacts<'_>)) {
    if let Ok(Classified::Event(facts)) = classify(payload) {
        write(facts);
    }
}
