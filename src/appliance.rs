//! The appliance: sources, ingest, log and servers, put together as a configuration says.
//!
//! Owns the life of the process: start, the end by signal or because all nodes are gone, and starting over after the
//! storage has failed. Data does not pass through here.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use sidecar_log_format::{ReadOptions, Recovery, Sequence, WriteOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::{Config, Durability, ReplayChunks, SseServer, Storage, ZstdPassThrough};
use crate::ingest::{self, Ingest, IngestError, identity};
use crate::source::Batch;
use crate::source::casper::{self, Counters, End, NodeOptions, event::KINDS};
use crate::stream::{self, Server, StreamOptions};

/// How long clients of `/events/sidecar` are given to read that it ends.
const FAREWELL: Duration = Duration::from_millis(200);
/// How long closing the log may take before the process ends without (nothing durable is lost then).
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);
/// Pauses before the log is opened again after the storage failed.
const RESTART_PAUSE_MIN: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Segments of a log that keeps only the newest events, so that dropping whole ones keeps little too much.
const SHORT_LOG_SEGMENT_BYTES: u64 = 4 << 20;

/// Why one life of the appliance is over.
enum Outcome {
    /// SIGTERM or SIGINT.
    Signal,
    /// Every node's listener has ended.
    NodesUnavailable,
    /// Ingest has failed; the log must be opened anew.
    StorageFailed(IngestError),
}

/// Runs what the configuration says until a signal comes (`Ok`) or it cannot go on.
///
/// # Errors
/// In the reference's words (config.md section 3): a part that cannot start, or all nodes unavailable.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let (Some(sse), Some(storage)) = (&config.sse_server, &config.storage) else {
        info!("no part that is configured is built yet");
        return Ok(());
    };
    run_until(config, sse, storage, |_| (), termination()?).await
}

/// The same with an end of its own, and a look at the running ingest for who wants to follow it.
pub(crate) async fn run_until(
    config: &Config,
    sse: &SseServer,
    storage: &Storage,
    mut started: impl FnMut(&Ingest),
    end: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    tokio::pin!(end);
    let mut pause = RESTART_PAUSE_MIN;
    loop {
        let begun = tokio::time::Instant::now();
        match run_once(config, sse, storage, &mut started, end.as_mut()).await? {
            Outcome::Signal => return Ok(()),
            Outcome::NodesUnavailable => {
                bail!("Error running component 'sse_event_server': Connected node(s) are unavailable")
            }
            Outcome::StorageFailed(failure) => {
                if begun.elapsed() > RESTART_PAUSE_MAX {
                    pause = RESTART_PAUSE_MIN;
                }
                error!(
                    "the log is closed: {failure}; it is recovered from disk and the nodes are read again in {pause:?}"
                );
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = end.as_mut() => return Ok(()),
                }
                pause = (pause * 2).min(RESTART_PAUSE_MAX);
            }
        }
    }
}

async fn run_once(
    config: &Config,
    sse: &SseServer,
    storage: &Storage,
    started: &mut impl FnMut(&Ingest),
    end: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    let ingest = ingest::start(ingest_options(sse, storage)?)
        .map_err(|error| anyhow!("Error initializing component 'sse_event_server': {error}"))?;
    report(&ingest.recovery);
    started(&ingest);
    let server = Server::bind(stream_options(sse, storage), ingest.log.clone(), ingest.committed.clone())
        .context("Error running component 'sse_event_server': Error starting EventStreamServer")?;
    let handle = server.handle();
    let (cut, is_cut) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async { is_cut.await.unwrap_or_default() }));

    let Ingest { batches, mut ended, .. } = ingest;
    let mut listeners = listen(config, sse, storage, batches);
    let outcome = tokio::select! {
        () = end => Outcome::Signal,
        () = all_ended(&mut listeners) => Outcome::NodesUnavailable,
        result = &mut ended => match result {
            Ok(Err(failure)) => Outcome::StorageFailed(failure),
            Ok(Ok(())) => Outcome::NodesUnavailable,
            Err(_) => bail!("the committer's thread has panicked; this is a mistake in Sidecar, please report it"),
        },
    };
    // Dropping the listeners drops the last senders: ingest stores what it has and closes the log.
    listeners.shutdown().await;
    if matches!(outcome, Outcome::NodesUnavailable) {
        handle.announce_own_shutdown();
        tokio::time::sleep(FAREWELL).await;
    }
    if !matches!(outcome, Outcome::StorageFailed(_)) {
        match tokio::time::timeout(CLOSE_TIME_MAX, ended).await {
            Ok(Ok(Err(failure))) => error!("closing the log: {failure}; it is recovered at the next start"),
            Err(_) => warn!("the log did not close within {CLOSE_TIME_MAX:?}; it is recovered at the next start"),
            Ok(_) => {}
        }
    }
    drop(cut);
    // Awaited so that the port is free again when the appliance starts over.
    let _ = server.await;
    Ok(outcome)
}

/// Ends with SIGTERM or SIGINT.
pub(crate) fn termination() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!("Received {name} signal. Shutting down...");
    })
}

fn listen(config: &Config, sse: &SseServer, storage: &Storage, batches: mpsc::Sender<Batch>) -> JoinSet<End> {
    let mut listeners = JoinSet::new();
    for connection in &sse.connections {
        let node = NodeOptions {
            host: connection.host.to_string(),
            sse_port: connection.sse_port,
            rest_port: connection.rest_port,
            max_attempts: u32::try_from(connection.max_attempts).unwrap_or(u32::MAX),
            delay_between_retries: connection.delay_between_retries,
            enable_logging: connection.enable_logging,
            connection_timeout: connection.connection_timeout,
            no_message_timeout: connection.no_message_timeout,
            keep_alive_check_interval: connection.sleep_between_keep_alive_checks,
            network_name: config.network_name.clone(),
            event_bytes_max: storage.log.event_bytes_max as usize,
        };
        listeners.spawn(casper::run(node, batches.clone(), Arc::new(Counters::default())));
    }
    listeners
}

async fn all_ended(listeners: &mut JoinSet<End>) {
    while listeners.join_next().await.is_some() {}
}

fn report(recovery: &Recovery) {
    if recovery.cut_bytes > 0 {
        info!(
            "cut {} bytes of a commit that a crash interrupted; nothing that was published is lost",
            recovery.cut_bytes
        );
    }
    if let Some(lost) = &recovery.lost {
        error!(
            "events {} to {} were stored and are gone; the log goes on at {} and carries a mark{}",
            lost.start,
            lost.end - 1,
            lost.end,
            recovery
                .kept_aside
                .as_ref()
                .map(|file| format!("; what stood there is kept in {file}"))
                .unwrap_or_default(),
        );
    }
    for damage in &recovery.damage {
        error!("{damage}");
    }
    if recovery.copied {
        warn!("this log is a copy: it goes on under a new epoch");
    }
}

fn ingest_options(sse: &SseServer, storage: &Storage) -> anyhow::Result<ingest::Options> {
    let log = &storage.log;
    let (durability, sync_interval) = match log.durability {
        Durability::Commit => (sidecar_log_format::Durability::Commit, Duration::ZERO),
        Durability::Interval(interval) => (sidecar_log_format::Durability::Interval, interval),
        Durability::Os => (sidecar_log_format::Durability::Os, Duration::ZERO),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut new_log_id = [0; 16];
    getrandom::fill(&mut new_log_id).map_err(|error| anyhow!("no random numbers for a log's id: {error}"))?;
    let segment_bytes_max = match sse.keep_only_newest {
        Some(_) => log.segment_bytes_max.min(SHORT_LOG_SEGMENT_BYTES),
        None => log.segment_bytes_max,
    };
    let write = WriteOptions {
        kinds: KINDS.iter().map(|(kind, name)| (kind.0, (*name).to_owned())).collect(),
        first_sequence: reference_index(&storage.folder),
        durability,
        compression_level: log.compression_level,
        block_bytes_max: log.block_bytes_max as usize,
        segment_bytes_max,
        segment_age_max: u64::try_from(log.segment_age_max.as_micros()).unwrap_or(u64::MAX),
        read: ReadOptions { cache_bytes: usize::try_from(log.block_cache_bytes).unwrap_or(usize::MAX) },
        ..WriteOptions::new("casper", new_log_id, u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
    };
    Ok(ingest::Options {
        log_directory: storage.folder.join("logs").join("casper"),
        index_file: storage.folder.join("index").join("casper.redb"),
        write,
        sync_interval,
        index: identity::Options {
            tail_bytes_max: log.index_tail_bytes_max as u64,
            cache_bytes: log.index_cache_bytes,
        },
        keep_only_newest: sse.keep_only_newest,
        queued_batches: (sse.inbound_channel_size / QUEUED_BATCH_EVENTS).clamp(1, QUEUED_BATCHES_MAX),
    })
}

/// `inbound_channel_size` counts events; a busy source brings about this many in a batch.
const QUEUED_BATCH_EVENTS: usize = 250;
/// Batches of up to 256 KiB each: more would only hold memory.
const QUEUED_BATCHES_MAX: usize = 16;

/// The next id that the reference would have given out in this folder: four bytes, little-endian, in `sse_index`. 0
/// when there is none. A log that is made anew starts there, so that no id is reused.
fn reference_index(folder: &Path) -> Sequence {
    let bytes = std::fs::read(folder.join("sse_index")).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, |bytes| Sequence::from(u32::from_le_bytes(bytes)))
}

fn stream_options(sse: &SseServer, storage: &Storage) -> StreamOptions {
    let server = &sse.event_stream_server;
    StreamOptions {
        port: server.port,
        max_concurrent_subscribers: server.max_concurrent_subscribers,
        replay_chunks: match server.replay_chunks {
            ReplayChunks::Event => stream::ReplayChunks::Event,
            ReplayChunks::Block => stream::ReplayChunks::Block,
        },
        zstd: match server.zstd {
            ZstdPassThrough::Sole => stream::ZstdPassThrough::Sole,
            ZstdPassThrough::Any => stream::ZstdPassThrough::Any,
            ZstdPassThrough::Off => stream::ZstdPassThrough::Off,
        },
        client_buffer_bytes: server.client_buffer_bytes,
        max_connections: server.max_connections,
        header_timeout: server.header_timeout,
        idle_timeout: server.idle_timeout,
        write_stall_timeout: server.write_stall_timeout,
        decode_concurrency: storage.log.decode_concurrency,
        legacy_enabled: !sse.emulate_legacy_sse_apis.is_empty(),
        ..StreamOptions::new(&KINDS, casper::event::SHUTDOWN)
    }
}
