//! No client waits for another: a slow client loses nothing and costs the others nothing, and one thread is enough for all.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::time::Duration;

use sidecar_test_support::client::{Request, SseClient, events};
use sidecar_test_support::fast::EndlessStory;
use sidecar_test_support::node::{NodeOptions, SimulatedNode, stream};
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::story::{Story, StoryOptions};

fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

#[tokio::test]
async fn a_client_that_reads_an_event_a_second_while_50_000_arrive_still_gets_every_one() {
    const EVENTS: u64 = 50_000;
    let story = EndlessStory::render(1, 10);
    let node = SimulatedNode::with(NodeOptions { ring_events: EVENTS as usize, ..NodeOptions::default() });
    let sidecar = sidecar().node(node.address()).start().await;

    let request = Request::get(sidecar.sse_address(), "/events").patience(Duration::from_secs(60));
    let mut slow = request.clone().slow(4_096).open().await;
    let mut other = request.open().await;
    let payloads: Vec<String> = (0..EVENTS).map(|number| story.payload(number)).collect();
    for part in payloads.chunks(1_000) {
        node.push_all(part);
    }

    // The slow one reads all the while; the other has everything before it has read on. That is 38 MB, more than the
    // system holds for a client.
    let (begun, arrived) = tokio::join!(slow.read_slowly(4, 1.0), other.read_until_id(EVENTS - 1));
    let expected = |from: usize| (from as u64..).zip(payloads[from..].iter().map(String::as_str));
    assert!(events(&arrived).into_iter().eq(expected(0)), "the other client has every event once");

    slow.hurry();
    let rest = slow.read_until_id(EVENTS - 1).await;
    let all = events(&begun).into_iter().chain(events(&rest));
    assert!(all.eq(expected(0)), "the slow client has every event once");
}

#[tokio::test]
async fn one_thread_ingests_and_replays_to_fifty_clients() {
    const CLIENTS: usize = 50;
    let told = Story::new(1, &StoryOptions::small(60));
    let node = SimulatedNode::start();
    let sidecar = sidecar().node(node.address()).top_level("max_thread_count = 1").start().await;
    let (stored, live) = told.events().split_at(told.events().len() / 2);
    node.push_all(stored);
    let expected = stream("2.0.0", 0, stored);
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.expect_bytes(&expected).await;

    // Fifty replays that run into what is being sent meanwhile.
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let target = "/events?start_from=0";
        clients.push(Request::get(sidecar.sse_address(), target).patience(Duration::from_secs(60)).open().await);
    }
    let expected = std::sync::Arc::new(stream("2.0.0", 0, told.events()));
    let reading: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let expected = std::sync::Arc::clone(&expected);
            tokio::spawn(async move { client.expect_bytes(&expected).await })
        })
        .collect();
    for part in live.chunks(10) {
        node.push_all(part);
        tokio::task::yield_now().await;
    }
    for client in reading {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn it_ends_in_order_though_a_client_does_not_read_and_a_node_does_not_answer() {
    const EVENTS: u64 = 10_000;
    let story = EndlessStory::render(2, 10);
    let node = SimulatedNode::with(NodeOptions { ring_events: EVENTS as usize, ..NodeOptions::default() });
    node.push_all((0..EVENTS).map(|number| story.payload(number)));
    // Takes connections, and that is all.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sidecar = sidecar().node(node.address()).node(mute.local_addr().unwrap()).start().await;
    let mut slow = Request::get(sidecar.sse_address(), "/events?start_from=0").slow(4_096).open().await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.read_until_id(EVENTS - 1).await;
    assert!(sidecar.terminate().success());
    slow.hurry();
    let got = slow.read_to_end().await;
    assert!(got.len() < EVENTS as usize, "its stream was cut where it stood");
}
