//! The admin server: how the running parts are, for operators and their tools.
//!
//! Owns the names of metrics and the paths they are read at. The parts' own counters flow in, read with each request;
//! text in the Prometheus format flows out, whether the process lives and is ready, and a page for people. Nothing is counted
//! here.
//!
//! - `metrics`: which counter is which metric.
//! - `families`: the samples of a scrape, and their text.
//! - `process`: what the system knows of the process.
//! - `status`: how the parts are, in a form for people and their scripts; `disk`: what logs take on their devices; `feed`: the
//!   same as an event stream.
//! - `readiness`: whether the parts work.
//! - `page`: all of it in a browser, with the events of each log.
//! - `server`: HTTP.
//! - [`overview`]: asks such a server, for `sidecar status`.

mod disk;
mod families;
mod feed;
mod metrics;
pub mod overview;
mod page;
#[cfg(target_os = "linux")]
mod process;
mod readiness;
mod server;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidecar_log_format::Log;

use crate::casper::rest::SqlAnswers;
use crate::casper::rpc;
use crate::casper::{export, rest, source};
use crate::engine::http::{ListenOptions, counters::FrontCounters};
use crate::engine::source::watch::SourceWatch;
use crate::engine::view::Views;
use crate::engine::{ingest, stream};
use crate::grpc;

pub use server::Server;

/// How the server listens and what it grants its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminOptions {
    /// The TCP port; 0 lets the system choose one.
    pub port: u16,
    /// Where the server listens on that port, and whom it lets in.
    pub listen: ListenOptions,
    /// Requests for metrics that are worked on at once; others wait.
    pub max_concurrent_requests: u32,
    /// Requests for metrics that are begun per second; others wait.
    pub max_requests_per_second: u32,
}

/// The running parts, as far as the admin server shows them.
#[derive(Default)]
pub struct Parts {
    /// The logs and what is around each; none where REST answers from another machine's database.
    pub logs: Vec<Logged>,
    /// Reads the logs' events by the names of the logs.
    pub log_pages: rest::LogPages,
    /// What the REST server counts, if there is one.
    pub rest: Option<Arc<rest::Counters>>,
    /// What the REST server answers from, if that is a database.
    pub database: Option<SqlAnswers>,
    /// The JSON-RPC servers and their link to a node, if there are any.
    pub rpc: Option<rpc::Watch>,
    /// The gRPC gateway and the streams that it records, if there is one.
    pub grpc: Option<grpc::Watch>,
    /// What the other servers count of connections and requests, by the name of the server.
    pub fronts: Vec<NamedFront>,
}

/// A server by its name in metrics, with what its front counts.
pub type NamedFront = (&'static str, Arc<FrontCounters>);

impl Parts {
    /// The sources that are read, of all logs.
    fn sources(&self) -> impl Iterator<Item = &SourceWatch> {
        self.logs.iter().flat_map(|logged| &logged.sources)
    }

    /// What the Casper nodes among them count, of all logs.
    fn casper_nodes(&self) -> impl Iterator<Item = &source::Counters> {
        self.logs.iter().flat_map(|logged| &logged.casper_nodes).map(Arc::as_ref)
    }
}

/// One log, what fills it and what reads it.
pub struct Logged {
    /// Its name: that of its folder.
    pub name: Box<str>,
    /// The log.
    pub log: Log,
    /// Where its segments are.
    pub log_directory: PathBuf,
    /// How much of it is kept, and how much room it leaves.
    pub space_limits: ingest::SpaceLimits,
    /// What ingest counts.
    pub ingest: Arc<ingest::counters::Counters>,
    /// The sources that are read.
    pub sources: Vec<SourceWatch>,
    /// What these count beside that, if they are Casper nodes.
    pub casper_nodes: Vec<Arc<source::Counters>>,
    /// What the log's event streams count.
    pub stream: Arc<stream::HubCounters>,
    /// What the port of the event streams counts.
    pub stream_port: Arc<stream::PortCounters>,
    /// What look-ups in the log need, if there are any.
    pub views: Option<Views>,
    /// The followers of the log, with the next sequence that each will read.
    pub followers: Vec<Follower>,
    /// What each exporter counts, with its name.
    pub exporters: Vec<(&'static str, Arc<export::counters::Counters>)>,
}

impl Logged {
    /// A log with its event streams, and nothing else around it.
    #[must_use]
    pub fn of(
        name: &str,
        live: &ingest::LiveLog,
        stream: &Arc<stream::HubCounters>,
        port: &Arc<stream::PortCounters>,
    ) -> Logged {
        Logged {
            name: name.into(),
            log: live.log.clone(),
            log_directory: live.log_directory().to_owned(),
            space_limits: live.space_limits(),
            ingest: Arc::clone(&live.counters),
            sources: Vec::new(),
            casper_nodes: Vec::new(),
            stream: Arc::clone(stream),
            stream_port: Arc::clone(port),
            views: None,
            followers: Vec::new(),
            exporters: Vec::new(),
        }
    }
}

/// A view or an exporter.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Which of the two it is.
    pub role: Role,
    /// Its name, for instance `casper` or `sqlite`.
    pub name: &'static str,
    /// The first sequence that it has not stored yet.
    pub next_sequence: Arc<AtomicU64>,
}

impl Follower {
    /// How many stored events it has not read yet. Until it knows where it continues, that is all of them.
    fn lag(&self, log: &Log) -> u64 {
        log.left_from(self.next_sequence.load(Ordering::Relaxed))
    }
}

/// What a follower of the log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look-ups need it.
    View,
    /// It fills a database.
    Exporter,
}

#[cfg(test)]
mod tests {
    use sidecar_log_format::storage::Directory;
    use sidecar_log_format::{Event, Kind, WriteOptions, Writer};

    use super::*;

    #[test]
    fn a_follower_that_has_not_started_lags_by_the_events_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let options = WriteOptions { first_sequence: 1_000_000, ..WriteOptions::new("casper", [7; 16], 5) };
        let mut opened = Writer::open(Arc::new(Directory::at(folder.path())), options).unwrap();
        let event = Event::new(Kind(1), 5, "{}");
        for _ in 0..3 {
            opened.writer.append(&event).unwrap();
        }
        opened.writer.commit().unwrap();
        let follower = |next| Follower { role: Role::Exporter, name: "sqlite", next_sequence: Arc::new(next) };
        let lag = |next| follower(AtomicU64::new(next)).lag(&opened.log);
        assert_eq!([0, 1_000_000, 1_000_002, 1_000_003].map(lag), [3, 3, 1, 0]);
    }
}
