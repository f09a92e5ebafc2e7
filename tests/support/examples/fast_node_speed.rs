//! Prints what the fast node can do on this machine:
//! `cargo run --release -p sidecar-test-support --example fast_node_speed`.

use std::sync::Arc;
use std::time::Instant;

use sidecar_test_support::fast::{EndlessStory, FastNode, FastOptions, raw_reader};

const EVENTS: u64 = 10_000_000;

fn main() {
    let start = Instant::now();
    let story = Arc::new(EndlessStory::render(1, 200));
    println!("rendering {} events       {:>10.2} s", story.pass_events(), start.elapsed().as_secs_f64());
    println!("average payload               {:>10.1} bytes", story.average_payload_bytes());
    println!("finality signatures           {:>10.1} %", 100.0 * story.signature_share());

    let (mut raw, mut stored, mut next) = (0, 0, 0);
    let mut piece = Vec::new();
    while next < 2 * story.pass_events() {
        piece.clear();
        next += story.append_frames(next, u64::MAX, 256 * 1024, &mut piece);
        raw += piece.len();
        stored += zstd::bulk::compress(&piece, 1).unwrap().len();
    }
    println!("zstd -1 of 256 KiB pieces     {:>10.3} of the raw bytes", stored as f64 / raw as f64);

    let (start, mut next) = (Instant::now(), 0);
    while next < EVENTS {
        piece.clear();
        next += story.append_frames(next, EVENTS - next, 256 * 1024, &mut piece);
    }
    let rate = EVENTS as f64 / start.elapsed().as_secs_f64();
    println!("made in memory, one core      {:>10.2} million events/s", rate / 1e6);

    for _ in 0..5 {
        let node = FastNode::start(Arc::clone(&story), FastOptions { events: EVENTS, ..FastOptions::default() });
        let reading = raw_reader(node.address(), "/events", EVENTS).unwrap();
        let megabytes = reading.bytes as f64 / 1e6 / reading.elapsed.as_secs_f64();
        println!("through a socket              {:>10.2} million events/s, {megabytes:.0} MB/s", reading.rate() / 1e6);
    }
}
