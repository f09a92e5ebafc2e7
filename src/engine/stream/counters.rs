//! What metrics show of the streams: per log, and per port.

use std::sync::{Arc, atomic::AtomicUsize};

use super::readers::{ReaderClass, Readers};
use crate::engine::{counters::Count, http::counters::FrontCounters};

/// What one log's hub has done.
#[derive(Debug)]
pub struct HubCounters {
    /// Bytes of streams handed to HTTP, before chunking.
    pub bytes_sent: Count,
    /// Streams ever opened.
    pub streams_opened: Count,
    /// Blocks rendered in another form than the stored one.
    pub blocks_rendered: Count,
    /// Events that a form had to leave out because it could not read them, as often as their blocks were rendered.
    pub events_not_rendered: Count,
    /// How far the open streams have come.
    pub readers: Readers,
}

impl HubCounters {
    pub(super) fn new(classes: &'static [ReaderClass]) -> Self {
        HubCounters {
            bytes_sent: Count::default(),
            streams_opened: Count::default(),
            blocks_rendered: Count::default(),
            events_not_rendered: Count::default(),
            readers: Readers::new(classes),
        }
    }
}

/// What one port has done since it was bound.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Open streams.
    pub open_streams: AtomicUsize,
    /// Requests refused.
    pub refused: Count,
    /// What happened to connections.
    pub front: Arc<FrontCounters>,
}
