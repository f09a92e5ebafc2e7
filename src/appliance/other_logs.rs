//! The logs of the dialects other than Casper's, with their servers, as far as a configuration asks for them.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Addresses;
use super::beacon::BeaconLog;
use super::gateway::Gateway;
use crate::admin::{Logged, NamedFront};
use crate::casper::rest::NamedLog;
use crate::config::Config;
use crate::engine::log_set::LogSet;
use crate::engine::stream::Resources;
use crate::grpc;

/// Logs that are open and whose ports are taken. The gateway is here even if it records nothing.
pub(super) struct OtherLogs {
    beacon: Option<BeaconLog>,
    gateway: Option<Gateway>,
}

impl OtherLogs {
    /// Whether there is one.
    pub(super) fn are_asked_for(config: &Config) -> bool {
        config.beacon.is_some() || config.grpc.as_ref().is_some_and(|grpc| !grpc.streams.is_empty())
    }

    /// Opens the logs, or makes them, and takes the ports.
    pub(super) fn open(config: &Config, resources: &Arc<Resources>) -> anyhow::Result<OtherLogs> {
        // There is no beacon without a storage.
        let beacon = config.beacon.as_ref().zip(config.storage.as_ref());
        let beacon = beacon.map(|(beacon, storage)| BeaconLog::open(beacon, storage, resources)).transpose()?;
        let grpc = config.grpc.as_ref();
        let gateway = grpc.map(|grpc| Gateway::open(grpc, config.storage.as_ref(), resources)).transpose()?;
        Ok(OtherLogs { beacon, gateway })
    }

    /// `addresses` with those of the servers.
    pub(super) fn add_to(&self, addresses: Addresses) -> Addresses {
        let beacon = self.beacon.as_ref().map(BeaconLog::address);
        Addresses { beacon, grpc: self.gateway.as_ref().map(Gateway::address), ..addresses }
    }

    /// The logs, for readers of events by a log's name.
    pub(super) fn named(&self) -> impl Iterator<Item = NamedLog> {
        self.beacon.iter().map(BeaconLog::named).chain(self.gateway.iter().flat_map(Gateway::named))
    }

    /// The logs as the admin server shows them.
    pub(super) fn logged(&self) -> impl Iterator<Item = Logged> {
        self.beacon.iter().map(BeaconLog::logged).chain(self.gateway.iter().flat_map(Gateway::logged))
    }

    /// The gateway as the admin server shows it.
    pub(super) fn grpc_watch(&self) -> Option<grpc::Watch> {
        self.gateway.as_ref().map(Gateway::watch)
    }

    /// What the servers count of connections and requests.
    pub(super) fn fronts(&self) -> impl Iterator<Item = NamedFront> {
        let beacon = self.beacon.iter().map(|beacon| ("beacon", beacon.front()));
        beacon.chain(self.gateway.iter().map(|gateway| ("grpc", gateway.front())))
    }

    /// Reads the sources and serves their events, until `cut` is cancelled.
    pub(super) fn start(
        self,
        logs: &mut LogSet,
        servers: &mut JoinSet<()>,
        cut: &CancellationToken,
    ) -> anyhow::Result<()> {
        let OtherLogs { beacon, gateway } = self;
        beacon.map_or(Ok(()), |beacon| beacon.start(logs, servers, cut))?;
        gateway.map_or(Ok(()), |gateway| gateway.start(logs, servers, cut))
    }
}
