//! The plan: what a configuration asks of the log and of what is around it.
//!
//! Settings flow in; the options of the parts flow out, and refusals of what must not be begun. Nothing is started here.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use sidecar_log_format::{ReadOptions, RewriteOptions, WriteOptions};
use tokio::task::JoinSet;
use tracing::warn;

use crate::casper::dialect::Casper;
use crate::casper::import;
use crate::casper::source::{self, Counters, NodeOptions};
use crate::config::{Config, NodeConnection, SseServer, Storage};
use crate::engine::counters::microseconds;
use crate::engine::dialect::{Dialect, write_options};
use crate::engine::ingest::{self, LiveLog, Retention, Rewriting, identity};
use crate::engine::log_set::Sources;
use crate::engine::source::watch::SourceWatch;
use crate::engine::source::{End, LogNetwork, now};
use crate::engine::storage_folder::{self, LogPlaces};
use crate::engine::view;

/// The name of the log in its storage folder.
pub const LOG_NAME: &str = "casper";
/// Segments of a log that keeps only the newest events, so that dropping whole ones keeps little too much.
const SHORT_LOG_SEGMENT_BYTES: u64 = 4 << 20;
/// `inbound_channel_size` counts events; a busy source brings about this many in a batch.
const QUEUED_BATCH_EVENTS: usize = 250;
/// Batches of up to 256 KiB each: more would only hold memory.
const QUEUED_BATCHES_MAX: usize = 16;
/// The same for a log whose configuration does not name a number.
const QUEUED_BATCHES: usize = 4;

/// A node to read.
pub(super) struct Node {
    options: NodeOptions,
    pub(super) counters: Arc<Counters>,
}

impl Node {
    /// Its name, with what is counted of it as of every source.
    pub(super) fn watch(&self) -> SourceWatch {
        SourceWatch { name: self.options.source(), counters: Arc::clone(&self.counters.common) }
    }
}

pub(super) fn nodes(config: &Config, sse: &SseServer, storage: &Storage, log_network: &LogNetwork) -> Vec<Node> {
    let node = |connection: &NodeConnection| {
        let options = NodeOptions {
            host: connection.host.to_string(),
            sse_port: connection.sse_port,
            rest_port: connection.rest_port,
            max_attempts: u32::try_from(connection.max_attempts).unwrap_or(u32::MAX),
            keep_trying: sse.keep_trying,
            delay_between_retries: connection.delay_between_retries,
            enable_logging: connection.enable_logging,
            timeouts: connection.timeouts,
            network_name: config.network_name.clone(),
            log_network: log_network.clone(),
            event_bytes_max: storage.log.event_bytes_max,
        };
        Node { options, counters: Arc::default() }
    };
    sse.connections.iter().map(node).collect()
}

/// Listens to the nodes whenever the log is ready for their events. With `keep_trying` and no node at all, stored events are
/// served nevertheless.
pub(super) fn sources(nodes: Vec<Node>, keep_trying: bool) -> Sources {
    let is_archive = nodes.is_empty() && keep_trying;
    if is_archive {
        warn!("no node is configured in [[sse_server.connections]]; only stored events are served");
    }
    Box::new(move |batches| {
        let run = |node: &Node| source::run(node.options.clone(), batches.clone(), Arc::clone(&node.counters));
        let mut sources: JoinSet<End> = nodes.iter().map(run).collect();
        if is_archive {
            sources.spawn(std::future::pending());
        }
        sources
    })
}

pub(super) fn ingest_options(sse: &SseServer, storage: &Storage) -> anyhow::Result<ingest::Options> {
    let mut options = log_options(LOG_NAME, Arc::new(Casper::default()), storage)?;
    options.write.first_sequence = import::reference::index(&storage.folder);
    options.queued_batches = (sse.inbound_channel_size / QUEUED_BATCH_EVENTS).clamp(1, QUEUED_BATCHES_MAX);
    if let Some(newest_events) = sse.keep_only_newest {
        options.retention.newest_events = Some(newest_events);
        options.write.segment_bytes_max = options.write.segment_bytes_max.min(SHORT_LOG_SEGMENT_BYTES);
        // What is soon dropped is not worth the work.
        options.rewriting = merging(&options.write);
    }
    Ok(options)
}

/// Only makes small blocks larger.
fn merging(write: &WriteOptions) -> Rewriting {
    Rewriting::Merge(RewriteOptions { level: write.compression_level, block_bytes: write.block_bytes_max })
}

/// How the log `name` is stored, whatever its dialect.
pub(super) fn log_options(name: &str, dialect: Arc<dyn Dialect>, storage: &Storage) -> anyhow::Result<ingest::Options> {
    let log = &storage.log;
    let mut new_log_id = [0; 16];
    getrandom::fill(&mut new_log_id).map_err(|error| anyhow!("no random numbers for a log's id: {error}"))?;
    let write = WriteOptions {
        create_if_missing: log.create_if_missing,
        durability: log.durability,
        compression_level: log.compression_level,
        block_bytes_max: log.block_bytes_max,
        segment_bytes_max: log.segment_bytes_max,
        segment_age_max: microseconds(log.segment_age_max),
        free_bytes_min: log.free_bytes_min,
        read: ReadOptions { cache_bytes: log.block_cache_bytes },
        ..write_options(&*dialect, new_log_id, now())
    };
    let rewriting = match log.compaction {
        Some(compaction) => Rewriting::Compact {
            options: RewriteOptions { level: compaction.level, ..RewriteOptions::COMPACTION },
            bytes_per_second: compaction.bytes_per_second,
        },
        None => merging(&write),
    };
    let places = LogPlaces::new(&storage.folder, name);
    Ok(ingest::Options {
        log_directory: places.directory(),
        index_file: places.index_file(),
        write,
        dialect,
        sync_interval: log.sync_interval,
        index: identity::Options { tail_bytes_max: log.index_tail_bytes_max, cache_bytes: log.index_cache_bytes },
        retention: Retention {
            bytes_max: log.retention_bytes_max,
            age_max: log.retention_age_max,
            wait_bytes_max: log.retention_wait_bytes_max,
            ..Retention::default()
        },
        rewriting,
        queued_batches: QUEUED_BATCHES,
    })
}

/// Where the log of a storage folder is.
pub(super) fn log_places(storage: &Storage) -> LogPlaces {
    LogPlaces::new(&storage.folder, LOG_NAME)
}

/// Refuses to begin a log where the configuration forbids it: a volume that is not mounted looks like a first start.
pub(super) fn check_there_is_a_log(log: &Path) -> anyhow::Result<()> {
    if storage_folder::is_log(log).unwrap_or(false) {
        return Ok(());
    }
    bail!(
        "{} holds no log, and `create_if_missing = false` in `[storage.log]` forbids to begin one; mount the volume that \
         holds it, correct `storage_folder`, or set `create_if_missing = true` for a first start",
        log.display()
    );
}

/// Refuses to make a log where an import was about to: its first events would take the ids of the history.
pub(super) fn check_no_unfinished_import(log: &Path) -> anyhow::Result<()> {
    let importing = storage_folder::importing_directory(log);
    if importing.exists() && !storage_folder::is_log(log).unwrap_or(false) {
        bail!(
            "an import of history to {} is under way or was stopped; let `sidecar-log import` end, start with \
             `--import-history`, or remove {} to begin without that history",
            log.display(),
            importing.display()
        );
    }
    Ok(())
}

pub(super) fn view_options(storage: &Storage) -> view::Options {
    view::Options::new(log_places(storage).views_file(), storage.log.view_cache_bytes)
}

/// The network that the log's nodes must be on, if the log names one and it may not change.
pub(super) fn log_network(config: &Config, storage: &Storage, live: &LiveLog) -> anyhow::Result<LogNetwork> {
    if storage.log.allow_network_change {
        return Ok(LogNetwork::default());
    }
    let known = live.newest_network().context("Error initializing component 'sse_event_server'")?;
    if let (Some(known), Some(configured)) = (&known, &config.network_name)
        && known != configured
    {
        bail!(
            "the log in {} holds events of network {known}, and `network_name` is {configured}; give another storage \
             folder, or allow the change with `allow_network_change = true` in `[storage.log]`",
            log_places(storage).directory().display()
        );
    }
    Ok(LogNetwork::known(known))
}
