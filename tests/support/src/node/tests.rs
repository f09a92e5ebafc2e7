use super::*;
use crate::client::{Ending, Message, SseClient};
use crate::story::{self, Story, StoryOptions};

const API_VERSION: &str = r#"{"ApiVersion":"2.0.0"}"#;

fn data(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.data.as_str()).collect()
}

fn ids(messages: &[Message]) -> Vec<Option<u64>> {
    messages.iter().map(|message| message.id).collect()
}

async fn get(node: &SimulatedNode, target: &str) -> SseClient {
    SseClient::connect(node.address(), target).await
}

#[tokio::test]
async fn a_client_parses_what_the_node_sent_stored_and_live() {
    let node = SimulatedNode::start();
    let story = Story::new(1, &StoryOptions::small(6));
    let (stored, live) = story.events().split_at(20);
    node.push_all(stored);
    let mut client = get(&node, "/events?start_from=0").await;
    let first = client.expect_message().await;
    assert_eq!((first.data.as_str(), first.id), (API_VERSION, None));
    node.push_all(live);
    let messages = client.read_messages(story.events().len()).await;
    assert_eq!(data(&messages), story.events().iter().map(AsRef::as_ref).collect::<Vec<&str>>());
    assert_eq!(ids(&messages), (0..story.events().len() as u64).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_stream_is_byte_for_byte_a_nodes_and_one_event_per_chunk() {
    let node = SimulatedNode::start();
    node.push_all(["{\"a\":1}", "{\n\"b\":2}"]);
    let mut client = get(&node, "/events?start_from=0").await;
    assert_eq!((client.status(), client.header("Content-Type")), (200, Some("text/event-stream")));
    for expected in
        ["data:{\"ApiVersion\":\"2.0.0\"}\n\n", "data:{\"a\":1}\nid:0\n\n", "data:{\ndata:\"b\":2}\nid:1\n\n"]
    {
        assert_eq!(client.next_chunk().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn start_from_is_inclusive_and_reaches_back_to_the_rings_oldest() {
    let node = SimulatedNode::with(NodeOptions { ring_events: 3, first_id: 100, ..NodeOptions::default() });
    node.push_all((0..5).map(|number| number.to_string()));
    for (start_from, expected) in [("?start_from=0", 102), ("?start_from=103", 103), ("?start_from=104", 104)] {
        let mut client = get(&node, &format!("/events{start_from}")).await;
        client.expect_message().await;
        assert_eq!(client.expect_message().await.id, Some(expected), "{start_from}");
    }
    for from_now_on in ["", "?start_from=900"] {
        let mut client = get(&node, &format!("/events{from_now_on}")).await;
        client.expect_message().await;
        let next = node.push("live");
        assert_eq!(client.expect_message().await.id, Some(next), "{from_now_on}");
    }
}

#[tokio::test]
async fn bad_queries_refusals_and_too_many_streams_are_answered_with_their_status() {
    let node = SimulatedNode::with(NodeOptions { streams_max: 1, ..NodeOptions::default() });
    assert_eq!(get(&node, "/events?start_from=-1").await.status(), 422);
    assert_eq!(get(&node, "/nowhere").await.status(), 404);
    node.refuse(502);
    assert_eq!(get(&node, "/events").await.status(), 502);
    node.accept();
    let _only = get(&node, "/events").await;
    assert_eq!(get(&node, "/events").await.status(), 503);
}

#[tokio::test]
async fn status_is_what_the_test_wants() {
    let node = SimulatedNode::start();
    node.set_status("1.5.8-old", "casper-other");
    let mut answer = get(&node, "/status").await;
    let status: serde_json::Value = serde_json::from_slice(&answer.body().await).unwrap();
    assert_eq!(
        (status["build_version"].as_str(), status["chainspec_name"].as_str()),
        (Some("1.5.8-old"), Some("casper-other"))
    );
    node.set_status_body("<html>");
    assert_eq!(get(&node, "/status").await.body().await, b"<html>");
    node.wait_for_status_requests(2).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_before_too_much_waits_for_it() {
    let node = SimulatedNode::with(NodeOptions { waiting_bytes_max: 1 << 20, ..NodeOptions::default() });
    let mut stalled = get(&node, "/events").await;
    let event = "x".repeat(100_000);
    while node.open_streams() > 0 {
        node.push(&event);
        tokio::task::yield_now().await;
    }
    stalled.read_to_end().await;
    assert_eq!(stalled.ending(), Some(Ending::Cut));
}

#[tokio::test]
async fn streams_are_cut_or_ended_as_ordered() {
    let node = SimulatedNode::start();
    let mut cut = get(&node, "/events").await;
    node.wait_for_connections(1).await;
    node.disconnect_all().await;
    cut.read_to_end().await;
    assert_eq!(cut.ending(), Some(Ending::Cut));
    node.wait_for_no_connections().await;

    let mut ended = get(&node, "/events").await;
    node.push(story::shutdown());
    node.end_streams();
    assert_eq!(data(&ended.read_to_end().await), [API_VERSION, "\"Shutdown\""]);
    assert_eq!(ended.ending(), Some(Ending::Finished));
    assert_eq!(node.streams_so_far(), 2);
}

#[tokio::test]
async fn a_killed_node_refuses_connections_until_it_is_back_with_an_empty_ring() {
    let node = SimulatedNode::start();
    node.push_all(["1", "2", "3"]);
    node.kill().await;
    let refused = crate::client::Request::get(node.address(), "/events").try_open().await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(std::io::ErrorKind::ConnectionRefused));

    node.restart_clean().await;
    assert_eq!(node.push("4"), 3);
    node.restart_hard(1).await;
    assert_eq!(node.push("other content"), 1);
    let mut client = get(&node, "/events?start_from=0").await;
    assert_eq!(data(&client.read_messages(2).await), [API_VERSION, "other content"]);
}

#[tokio::test]
async fn a_silent_node_keeps_the_connection_and_what_was_pushed() {
    let keep_alive = Duration::from_millis(20);
    let node = SimulatedNode::with(NodeOptions { keep_alive, ..NodeOptions::default() });
    let mut client = get(&node, "/events").await;
    client.expect_message().await;
    assert_eq!(client.next_chunk().await.unwrap(), ":\n\n");
    node.go_silent();
    node.push("waits");
    // What was on its way may still arrive; then nothing does, however many keep-alives are due.
    while tokio::time::timeout(10 * keep_alive, client.next_chunk()).await.is_ok() {}
    node.resume();
    assert_eq!(client.expect_message().await.data, "waits");
}

#[tokio::test]
async fn a_new_version_is_announced_at_once_and_to_later_clients() {
    let node = SimulatedNode::start();
    let mut early = get(&node, "/events").await;
    early.expect_message().await;
    node.announce_api_version("2.1.0");
    assert_eq!(early.expect_message().await.data, r#"{"ApiVersion":"2.1.0"}"#);
    assert_eq!(get(&node, "/events").await.expect_message().await.data, r#"{"ApiVersion":"2.1.0"}"#);
}

#[tokio::test]
async fn malformed_frames_are_in_the_ring_where_they_were_pushed() {
    let node = SimulatedNode::start();
    node.push("0");
    node.push_raw(malformed::not_utf8(1));
    node.push_raw(malformed::truncated_json("{\"a\":\"b\"}", 2));
    node.push("3");
    let mut client = get(&node, "/events?start_from=1").await;
    let body = client.body_until(|bytes| bytes.ends_with(b"id:3\n\n")).await;
    let expected = [
        &b"data:{\"ApiVersion\":\"2.0.0\"}\n\n"[..],
        &malformed::not_utf8(1),
        b"data:{\"a\"\nid:2\n\n",
        b"data:3\nid:3\n\n",
    ];
    assert_eq!(body, expected.concat());
}

#[tokio::test]
async fn a_reconnecting_client_names_the_last_id_it_read() {
    let node = SimulatedNode::start();
    node.push_all(["0", "1", "2"]);
    let mut client = get(&node, "/events?start_from=1").await;
    client.read_messages(2).await;
    assert_eq!(client.last_event_id(), Some(1));
    let mut again = client.reconnect().await;
    // The simulated node ignores the header, as a real one does.
    assert_eq!(ids(&again.read_messages(2).await), [None, Some(1)]);
}
