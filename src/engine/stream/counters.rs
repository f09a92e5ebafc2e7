//! What metrics show of the streams: per log, and per port.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize},
};

use super::readers::{ReaderClass, Readers};
use crate::engine::http::counters::FrontCounters;

/// What one log's hub has done.
#[derive(Debug)]
pub struct HubCounters {
    /// Bytes of streams handed to HTTP, before chunking.
    pub bytes_sent: AtomicU64,
    /// Streams ever opened.
    pub streams_opened: AtomicU64,
    /// Blocks rendered in another form than the stored one.
    pub blocks_rendered: AtomicU64,
    /// How far the open streams have come.
    pub readers: Readers,
}

impl HubCounters {
    pub(super) fn new(classes: &'static [ReaderClass]) -> Self {
        HubCounters {
            bytes_sent: AtomicU64::new(0),
            streams_opened: AtomicU64::new(0),
            blocks_rendered: AtomicU64::new(0),
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
    pub refused: AtomicU64,
    /// What happened to connections.
    pub front: Arc<FrontCounters>,
}
