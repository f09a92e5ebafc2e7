//! A log for tests, and its writer.

use std::{ops::Range, sync::Arc};

use sidecar_log_format::{
    ApiVersion, Event, Head, Kind, Log, Opened, WriteOptions, Writer,
    storage::{Directory, Storage},
};
use tokio::sync::watch;

pub(crate) const STEP: Kind = Kind(7);
pub(crate) const VERSION_FRAME: &str = "data:{\"ApiVersion\":\"2.0.0\"}\n\n";

pub(crate) fn version(major: u32, minor: u32) -> ApiVersion {
    ApiVersion { major, minor, patch: 0 }
}

pub(crate) fn payload(number: u64) -> String {
    format!("{{\"Step\":{{\"era_id\":{number},\"filler\":\"{}\"}}}}", "x".repeat((number * 37 % 300) as usize))
}

pub(crate) fn frame(number: u64) -> String {
    format!("data:{}\nid:{number}\n\n", payload(number))
}

pub(crate) fn frames(range: Range<u64>) -> String {
    range.map(frame).collect()
}

/// A log, and its writer.
pub(crate) struct Written {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) writer: Writer,
    pub(crate) log: Log,
    pub(crate) committed: watch::Sender<Head>,
}

impl Written {
    pub(crate) fn new() -> Written {
        Written::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut WriteOptions)) -> Written {
        let directory = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Directory::at(directory.path()));
        let mut options = WriteOptions::new("casper", [7; 16], 1_000);
        options.block_bytes_max = 4096;
        options.segment_bytes_max = 60_000;
        options.durability = sidecar_log_format::Durability::Os;
        change(&mut options);
        let Opened { writer, log, .. } = Writer::open(storage, options).unwrap();
        let committed = watch::Sender::new(log.head());
        Written { directory, writer, log, committed }
    }

    /// A log of Step events under version 2.0.0.
    pub(crate) fn steps(count: u64) -> Written {
        let mut written = Written::new();
        written.announce(version(2, 0));
        written.append_steps(count);
        written.commit();
        written
    }

    pub(crate) fn announce(&mut self, version: ApiVersion) {
        self.writer.announce_version(version, "node", 1).unwrap();
    }

    pub(crate) fn append(&mut self, kind: Kind, payload: &str) -> u64 {
        self.append_received(kind, payload, 1_000_000)
    }

    pub(crate) fn append_received(&mut self, kind: Kind, payload: &str, received: u64) -> u64 {
        self.append_event(kind, "", payload, received)
    }

    pub(crate) fn append_named(&mut self, name: &str, payload: &str) -> u64 {
        self.append_event(Kind::OTHER, name, payload, 1_000_000)
    }

    fn append_event(&mut self, kind: Kind, name: &str, payload: &str, received: u64) -> u64 {
        let event = Event {
            kind,
            name,
            source: "node",
            network: "casper-test",
            api_version: version(2, 0),
            upstream_id: None,
            received,
            payload,
        };
        self.writer.append(&event).unwrap()
    }

    pub(crate) fn append_steps(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.writer.next_sequence();
            self.append(STEP, &payload(number));
        }
    }

    pub(crate) fn commit(&mut self) {
        let head = self.writer.commit().unwrap();
        self.committed.send_replace(head);
    }
}
