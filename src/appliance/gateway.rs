//! The gRPC gateway of a process, with the logs of its recorded streams, put together from the configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::plan;
use crate::admin::Logged;
use crate::casper::rest::NamedLog;
use crate::config::Storage;
use crate::engine::dialect::Dialect;
use crate::engine::http::counters::FrontCounters;
use crate::engine::log_set::{LogSet, OpenedLog, Sources};
use crate::engine::storage_folder::LogPlaces;
use crate::engine::stream::{Hub, Resources};
use crate::grpc::{Options, READER_CLASSES, RecordedStream, Server, StartError, Upstreams, Watch};

/// A gateway whose port is taken and whose logs are open.
pub(super) struct Gateway {
    server: Server,
    logs: Vec<RecordedLog>,
    watch: Watch,
}

/// The log of a recorded stream.
struct RecordedLog {
    name: Box<str>,
    opened: OpenedLog,
    hub: Arc<Hub>,
    sources: Sources,
}

impl Gateway {
    /// Opens the logs, or makes them, and takes the port.
    pub(super) fn open(
        options: &Options,
        storage: Option<&Storage>,
        resources: &Arc<Resources>,
    ) -> anyhow::Result<Gateway> {
        let upstreams = Upstreams::open(options.clone()).map_err(cannot_run)?;
        let streams = upstreams.streams().map_err(cannot_run)?;
        let mut logs = Vec::new();
        for stream in &streams {
            // Checked with the configuration.
            let storage = storage.context("recorded streams need `[storage]`")?;
            logs.push(RecordedLog::open(stream, &upstreams, storage, resources)?);
        }
        let recorded = streams.iter().zip(logs.iter().map(|log| Arc::clone(&log.hub)));
        let server = Server::bind(upstreams, recorded).map_err(cannot_run)?;
        info!(address = %server.front().local_addr(), "gRPC gateway listens");
        let counters = streams.iter().map(|stream| (stream.name().into(), Arc::clone(stream.counters())));
        let watch = Watch { gateway: Arc::clone(server.counters()), streams: counters.collect() };
        Ok(Gateway { server, logs, watch })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.server.front().local_addr()
    }

    /// The logs, for readers of events by a log's name.
    pub(super) fn named(&self) -> impl Iterator<Item = NamedLog> {
        let named =
            |log: &RecordedLog| NamedLog { name: log.name.clone(), log: log.opened.live.log.clone(), views: None };
        self.logs.iter().map(named)
    }

    /// The logs as the admin server shows them.
    pub(super) fn logged(&self) -> impl Iterator<Item = Logged> {
        let port = self.server.port_counters();
        self.logs.iter().map(move |log| Logged::of(&log.name, &log.opened.live, log.hub.counters(), &port))
    }

    /// The calls and subscriptions as the admin server shows them.
    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// What the server counts of connections and requests.
    pub(super) fn front(&self) -> Arc<FrontCounters> {
        Arc::clone(self.server.front().counters())
    }

    /// Serves, subscribes to the streams and stores what comes, until `cut` is cancelled.
    pub(super) fn start(
        self,
        logs: &mut LogSet,
        servers: &mut JoinSet<()>,
        cut: &CancellationToken,
    ) -> anyhow::Result<()> {
        for RecordedLog { name, opened, sources, .. } in self.logs {
            logs.start(&name, opened, sources)
                .context("Error running component 'grpc': cannot start a thread that looks for losses")?;
        }
        servers.spawn(self.server.run(cut.clone().cancelled_owned()));
        Ok(())
    }
}

impl RecordedLog {
    fn open(
        stream: &RecordedStream,
        upstreams: &Upstreams,
        storage: &Storage,
        resources: &Arc<Resources>,
    ) -> anyhow::Result<RecordedLog> {
        let name = stream.name();
        let directory = LogPlaces::new(&storage.folder, name).directory();
        plan::check_no_unfinished_import(&directory)?;
        let dialect = Arc::new(stream.dialect(&directory));
        let options = plan::log_options(name, Arc::clone(&dialect) as Arc<dyn Dialect>, storage)?;
        let opened = OpenedLog::open(options, tracing::info_span!(target: "sidecar", "log", name))
            .map_err(|error| anyhow!("Error running component 'grpc': the log of the stream `{name}`: {error}"))?;
        let (log, committed) = (opened.live.log.clone(), opened.live.committed.clone());
        let sources = stream.sources(upstreams, &log, dialect);
        let hub = Arc::new(Hub::new(log, committed, Arc::clone(resources), READER_CLASSES));
        Ok(RecordedLog { name: name.into(), opened, hub, sources })
    }
}

fn cannot_run(error: StartError) -> anyhow::Error {
    match error {
        StartError::Bind(error) => super::cannot_run("grpc", error),
        error => anyhow::Error::new(error).context("Error running component 'grpc'"),
    }
}
