//! What a replay in another form costs against one in the stored form: `cargo bench --bench rendering`.
//!
//! A log of about 8 MB is read out of the hub without a network. NDJSON and the 1.x form are read twice: rendered for the
//! first time, and as they are shared after a first rendering. Both have every event of this log.

use std::{net::Ipv4Addr, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::BodyExt;
use sidecar::casper::legacy::{Legacy, LegacyStream};
use sidecar::engine::http::ListenOptions;
use sidecar::engine::stream::{
    Hub, JsonLines, Port, PortOptions, ReaderClass, Rendering, ReplayChunks, Resources, Subscription,
};
use sidecar_log_format::{ApiVersion, Durability, Event, Kind, Log, Opened, WriteOptions, Writer, storage::Directory};
use tokio::{runtime::Runtime, sync::watch};

const EVENTS: u64 = 10_000;
const CLASS: ReaderClass = ReaderClass("all");
const SAMPLE: &str = include_str!("../tests/data/events/FinalitySignature.node_v2.json");

fn write_log(directory: &std::path::Path) -> anyhow::Result<(Log, Writer)> {
    let options = WriteOptions { durability: Durability::Os, ..WriteOptions::new("casper", [7; 16], 1) };
    let Opened { mut writer, log, .. } = Writer::open(Arc::new(Directory::at(directory)), options)?;
    let api_version = ApiVersion { major: 2, minor: 0, patch: 0 };
    writer.announce_version(api_version, "node", 1)?;
    for number in 0..EVENTS {
        writer.append(&Event {
            kind: Kind(6),
            name: "",
            source: "127.0.0.1:9999",
            network: "casper",
            api_version,
            upstream_id: Some(number),
            received: 1,
            payload: SAMPLE.trim_end(),
        })?;
        if writer.is_block_full() {
            writer.commit()?;
        }
    }
    writer.commit()?;
    Ok((log, writer))
}

/// Reads the whole log.
async fn replay(hub: &Hub, port: &Port, rendering: Option<Arc<dyn Rendering>>) -> usize {
    let Some(place) = port.open_streams().open() else { return 0 };
    let any = Subscription::new(CLASS, port.delivery(), place);
    let mut body = hub.subscribe(Subscription { start: 0, until: Some(EVENTS - 1), rendering, ..any });
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |piece| piece.len());
    }
    bytes
}

fn rendered_replay(criterion: &mut Criterion) {
    let (Ok(runtime), Ok(directory)) = (Runtime::new(), tempfile::tempdir()) else { return };
    let Ok((log, _writer)) = write_log(directory.path()) else { return };
    let listen = ListenOptions::on(Ipv4Addr::LOCALHOST);
    let _entered = runtime.enter();
    let hub = || Hub::new(log.clone(), watch::channel(log.head()).1, Arc::new(Resources::new(2)), &[CLASS]);
    let forms = |hub: &Hub| -> [(&'static str, Arc<dyn Rendering>); 2] {
        let legacy = Legacy::new(LegacyStream::Signatures, Arc::clone(hub.counters()));
        [("NDJSON", Arc::new(JsonLines::of(&log))), ("/events/sigs", Arc::new(legacy))]
    };
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(EVENTS));
    for (chunks, replay_chunks) in [("events", ReplayChunks::Event), ("blocks", ReplayChunks::Block)] {
        let Ok(port) = Port::bind(&PortOptions { listen: listen.clone(), replay_chunks, ..PortOptions::default() })
        else {
            return;
        };
        let shared = hub();
        group.bench_function(format!("stored, in {chunks}"), |bencher| {
            bencher.iter(|| runtime.block_on(replay(&shared, &port, None)));
        });
        for (name, form) in forms(&shared) {
            group.bench_function(format!("{name} rendered before, in {chunks}"), |bencher| {
                bencher.iter(|| runtime.block_on(replay(&shared, &port, Some(Arc::clone(&form)))));
            });
            group.bench_function(format!("{name} rendered for the first time, in {chunks}"), |bencher| {
                let first = |hub: Hub| runtime.block_on(replay(&hub, &port, Some(Arc::clone(&form))));
                bencher.iter_batched(hub, first, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, rendered_replay);
criterion_main!(benches);
