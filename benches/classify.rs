//! What the classifier costs per event, by kind, over the sample payloads of a real node.
//!
//! Run with `cargo bench --bench classify`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidecar::casper::event::classify;

const SAMPLES: [(&str, &str); 7] = [
    ("FinalitySignature", include_str!("../tests/data/events/FinalitySignature.node_v2.json")),
    ("BlockAdded", include_str!("../tests/data/events/BlockAdded.node_with_transactions.json")),
    ("TransactionAccepted Deploy", include_str!("../tests/data/events/TransactionAccepted.deploy.json")),
    ("TransactionAccepted Version1", include_str!("../tests/data/events/TransactionAccepted.node_version1.json")),
    ("TransactionProcessed", include_str!("../tests/data/events/TransactionProcessed.node_version1.json")),
    ("Fault", include_str!("../tests/data/events/Fault.secp256k1.json")),
    ("Step", include_str!("../tests/data/events/Step.node_a.json")),
];

fn classify_samples(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classify");
    for (name, sample) in SAMPLES {
        let payload = sample.trim_end();
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| classify(black_box(payload))));
    }
    group.finish();
}

criterion_group!(benches, classify_samples);
criterion_main!(benches);
