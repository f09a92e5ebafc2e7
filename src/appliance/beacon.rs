//! The beacon log of a process: its clients, its hub and its server, put together from the configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::plan;
use crate::admin::Logged;
use crate::beacon::dialect::{Beacon as BeaconDialect, NAME};
use crate::beacon::events::{self, Server};
use crate::beacon::source::coverage::Coverage;
use crate::beacon::source::{self, ClientOptions};
use crate::casper::rest::NamedLog;
use crate::config::{Beacon, Storage};
use crate::engine::dialect::Dialect;
use crate::engine::http::counters::FrontCounters;
use crate::engine::ingest::LiveLog;
use crate::engine::log_set::{LogSet, OpenedLog, Sources};
use crate::engine::source::LogNetwork;
use crate::engine::source::watch::SourceWatch;
use crate::engine::storage_folder::LogPlaces;
use crate::engine::stream::{Hub, Resources};

/// A beacon log that is open and whose port is taken.
pub(super) struct BeaconLog {
    pub(super) live: Arc<LiveLog>,
    hub: Arc<Hub>,
    clients: Vec<(ClientOptions, SourceWatch)>,
    opened: OpenedLog,
    server: Server,
}

impl BeaconLog {
    /// Opens the log, or makes it, and takes the port.
    pub(super) fn open(beacon: &Beacon, storage: &Storage, resources: &Arc<Resources>) -> anyhow::Result<BeaconLog> {
        let directory = LogPlaces::new(&storage.folder, NAME).directory();
        plan::check_no_unfinished_import(&directory)?;
        let names = || beacon.connections.iter().flat_map(|client| &client.topics).map(|name| &**name);
        let dialect = Arc::new(BeaconDialect::with_topics(names(), &directory));
        let options = plan::log_options(NAME, Arc::clone(&dialect) as Arc<dyn Dialect>, storage)?;
        let span = tracing::info_span!(target: "sidecar", "log", name = NAME);
        let opened = OpenedLog::open(options, span).context("Error initializing component 'beacon'")?;
        let live = Arc::clone(&opened.live);
        let clients = clients(beacon, storage, &live, &dialect).context("Error initializing component 'beacon'")?;
        let hub = Hub::new(live.log.clone(), live.committed.clone(), Arc::clone(resources), events::READER_CLASSES);
        let hub = Arc::new(hub);
        let server = Server::bind(&beacon.port, Arc::clone(&hub), dialect.kinds().to_vec())
            .map_err(|error| super::cannot_run("beacon", error))?;
        for address in server.front().addresses() {
            info!(%address, "beacon event stream server listens");
        }
        Ok(BeaconLog { live, hub, clients, opened, server })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.server.front().local_addr()
    }

    /// The log, for readers of events by its name.
    pub(super) fn named(&self) -> NamedLog {
        NamedLog { name: NAME.into(), log: self.live.log.clone(), views: None }
    }

    /// The log as the admin server shows it.
    pub(super) fn logged(&self) -> Logged {
        Logged {
            sources: self.clients.iter().map(|(_, watch)| watch.clone()).collect(),
            ..Logged::of(NAME, &self.live, self.hub.counters(), self.server.counters())
        }
    }

    /// What the server counts of connections and requests.
    pub(super) fn front(&self) -> Arc<FrontCounters> {
        Arc::clone(self.server.front().counters())
    }

    /// Reads the clients and serves their events, until `cut` is cancelled.
    pub(super) fn start(
        self,
        logs: &mut LogSet,
        servers: &mut JoinSet<()>,
        cut: &CancellationToken,
    ) -> anyhow::Result<()> {
        let (clients, log) = (self.clients, self.live.log.clone());
        let sources: Sources = Box::new(move |batches| {
            let coverage = Arc::new(OnceCell::new());
            let run = |(options, watch): &(ClientOptions, SourceWatch)| {
                let (options, counters) = (options.clone(), Arc::clone(&watch.counters));
                let (coverage, log, batches) = (Arc::clone(&coverage), log.clone(), batches.clone());
                async move {
                    let coverage = Arc::clone(coverage.get_or_init(|| Coverage::of(log)).await);
                    source::run(options, coverage, batches, counters).await
                }
            };
            clients.iter().map(run).collect()
        });
        logs.start(NAME, self.opened, sources)
            .context("Error initializing component 'beacon': cannot start a thread that looks for losses")?;
        servers.spawn(self.server.run(cut.clone().cancelled_owned()));
        Ok(())
    }
}

fn clients(
    beacon: &Beacon,
    storage: &Storage,
    live: &LiveLog,
    dialect: &Arc<BeaconDialect>,
) -> sidecar_log_format::Result<Vec<(ClientOptions, SourceWatch)>> {
    let known_network = if storage.log.allow_network_change { None } else { live.newest_network()? };
    let log_network = LogNetwork::known(known_network);
    let clients = beacon.connections.iter().map(|client| {
        let options = ClientOptions {
            endpoint: client.endpoint.clone(),
            topics: client.topics.clone(),
            max_attempts: client.max_attempts,
            first_pause: client.delay_between_retries,
            timeouts: client.timeouts,
            event_bytes_max: storage.log.event_bytes_max,
            dialect: Arc::clone(dialect),
            log_network: log_network.clone(),
        };
        let watch = SourceWatch { name: client.endpoint.name().to_owned(), counters: Arc::default() };
        (options, watch)
    });
    Ok(clients.collect())
}
