//! The views of a running Sidecar: whole after any of its deaths, and the same when they are rebuilt.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sidecar::casper::keys::{Keys, keys};
use sidecar::casper::view::{self, CasperViews};
use sidecar::engine::view::Options;
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{Log, Read, ReadOptions, Sequence};
use sidecar_test_support::client::SseClient;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::story::{Story, StoryOptions};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn views_are_whole_after_any_kill_and_the_same_when_rebuilt() {
    const KILLS: usize = 5;
    let story = Story::new(11, &StoryOptions::small(400));
    let payloads: Vec<&str> = story.events().iter().map(AsRef::as_ref).collect();
    let mut rng = StdRng::seed_from_u64(11);
    let node = SimulatedNode::start();
    let mut sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
        .node_with(node.address(), "delay_between_retries_in_seconds = 0")
        .rest_api()
        .start()
        .await;
    for round in payloads.chunks(payloads.len().div_ceil(KILLS)) {
        let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
        node.push_all(round);
        live.read_messages(rng.gen_range(1..round.len())).await;
        sidecar.kill9();
        sidecar.restart().await;
    }
    let last = payloads.len() as Sequence - 1;
    SseClient::connect(sidecar.sse_address(), &format!("/events?start_from=0&until={last}")).await.read_to_end().await;
    sidecar.kill9();

    let storage = sidecar.storage_path();
    let log = Log::open(Arc::new(Directory::at(storage.join("logs/casper"))), ReadOptions::default()).unwrap();
    assert_eq!(log.head().next_sequence, last + 1);
    let left_by_sidecar = answers(&storage.join("views/casper.redb"), &log).await;
    let anew = storage.join("views/anew.redb");
    view::rebuild(&Options::new(anew.clone(), 1 << 20), &log, &mut |_| ()).unwrap();
    let made_anew = answers(&anew, &log).await;
    assert!(left_by_sidecar == made_anew);
}

/// What the views have of every event of the log, each time checked to be there.
async fn answers(path: &Path, log: &Log) -> Vec<Vec<Sequence>> {
    let (_committed, receiver) = watch::channel(log.head());
    let options = Options::new(path.to_owned(), 1 << 20);
    let views = CasperViews::open(options, log.clone(), receiver).unwrap();
    assert!(views.views().caught_up_to(log.head().next_sequence, PATIENCE).await);
    assert_eq!(views.views().counters().rebuilds.get(), 0, "a kill is no reason to begin anew");
    let mut answers = vec![views.latest_block().unwrap().into_iter().collect()];
    let mut next = 0;
    while let Read::Events { block, index } = log.read(next).unwrap() {
        let row = block.row(index).unwrap();
        next += 1;
        let payload = row.payload();
        let Some(keys) = keys(row.kind(), std::str::from_utf8(&payload).unwrap()) else { continue };
        let sequences = ask(&views, &keys);
        assert!(sequences.contains(&row.sequence()), "{keys:?}");
        answers.push(sequences);
    }
    answers
}

fn ask(views: &CasperViews, keys: &Keys<'_>) -> Vec<Sequence> {
    let hash_of = |digits: &str| <[u8; 32]>::try_from(hex::decode(digits).unwrap()).unwrap();
    match keys {
        Keys::Block { hash, height } => {
            let by_hash = views.block_by_hash(&hash_of(hash)).unwrap();
            assert_eq!(by_hash, views.block_by_height(*height).unwrap());
            by_hash.into_iter().collect()
        }
        Keys::Transaction { stage, transaction_type, hash, .. } => {
            views.transaction(*stage, *transaction_type, &hash_of(hash)).unwrap().into_iter().collect()
        }
        Keys::Fault { era, public_key } => {
            let by_era = views.faults_by_era(*era).unwrap();
            let by_key = views.faults_by_key(&hex::decode(public_key.as_ref()).unwrap()).unwrap();
            by_key.into_iter().filter(|sequence| by_era.contains(sequence)).collect()
        }
        Keys::Signature { block_hash, .. } => views.signatures(&hash_of(block_hash)).unwrap(),
        Keys::Step { era } => views.step(*era).unwrap().into_iter().collect(),
    }
}
