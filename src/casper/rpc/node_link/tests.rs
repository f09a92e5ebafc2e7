//! The link against a simulated node.

use casper_binary_port::{BinaryResponse, Command, GetRequest, NodeStatus as PortNodeStatus, ResponseType};
use casper_types::bytesrepr::ToBytes;
use casper_types::testing::TestRng;
use casper_types::{AvailableBlockRange, BlockIdentifier, Deploy, Transaction};
use sidecar_test_support::binary_port::{BinaryPort, Reply, default_answer, information_tag};
use tokio::time::timeout as limit;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn options(node: &BinaryPort) -> NodeLinkOptions {
    NodeLinkOptions {
        address: node.address(),
        network_name: None,
        message_bytes_max: 1 << 20,
        message_timeout: PATIENCE,
        access_timeout: PATIENCE,
        keepalive_interval: Duration::from_secs(1),
        backoff: Backoff {
            initial_delay: Duration::from_millis(10),
            max_delay: Duration::from_millis(50),
            coefficient: 2,
            max_attempts: 1_000_000,
        },
        request_limit: 256,
        request_buffer_size: 4096,
    }
}

/// The height that a request for a block header names.
fn height(command: &Command) -> Option<u64> {
    match command {
        Command::Get(GetRequest::Information { key, .. })
            if information(command) == Some(InformationRequestTag::BlockHeader) =>
        {
            Some(u64::from_le_bytes(key.get(2..10)?.try_into().unwrap()))
        }
        _ => None,
    }
}

fn information(command: &Command) -> Option<InformationRequestTag> {
    match command {
        Command::Get(request) => information_tag(request),
        _ => None,
    }
}

/// A value with the requested height, used instead of a header.
fn range(height: u64) -> BinaryResponse {
    let range = AvailableBlockRange::new(height, height);
    BinaryResponse::from_raw_bytes(ResponseType::AvailableBlockRange, range.to_bytes().unwrap())
}

/// A node that answers each request for a header with its height, but for those that `reply` knows better.
fn node_that(reply: impl Fn(u64) -> Option<Reply> + Send + Sync + 'static) -> BinaryPort {
    BinaryPort::start(move |command| match height(command) {
        Some(height) => reply(height).unwrap_or_else(|| Reply::Answer(range(height))),
        None => Reply::Answer(default_answer(command)),
    })
}

fn header(height: u64) -> Request {
    Request::block_header(Some(BlockIdentifier::Height(height))).unwrap()
}

async fn ask(link: &NodeLink, height: u64) -> Result<u64, LinkError> {
    let answer = limit(PATIENCE * 2, link.ask(&header(height))).await.expect("no request waits forever")?;
    Ok(answer.required::<AvailableBlockRange>()?.low())
}

async fn reached(link: &NodeLink, state: LinkState) {
    let waiting = async {
        while link.state() != state {
            sleep(Duration::from_millis(2)).await;
        }
    };
    limit(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("the link is {:?}", link.state()));
}

fn put() -> (Transaction, Request) {
    // A thread may make only one of these generators.
    let making = std::thread::spawn(|| Transaction::Deploy(Deploy::random(&mut TestRng::new())));
    let transaction = making.join().unwrap();
    let request = Request::accept_transaction(&transaction).unwrap();
    (transaction, request)
}

#[tokio::test]
async fn many_requests_at_once_share_one_connection_and_each_gets_its_own_answer() {
    let node = node_that(|_| None);
    node.delay(Duration::from_millis(20));
    let link = NodeLink::start(options(&node));
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for height in 0..2000 {
        let link = link.clone();
        asking.spawn(async move { (height, ask(&link, height).await) });
    }
    for (height, answer) in asking.join_all().await {
        assert_eq!(answer, Ok(height));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "one at a time it takes 40 s");
    assert_eq!(node.connections(), 1);
    assert_eq!(link.in_flight(), 0);
}

#[tokio::test]
async fn late_double_and_wrong_answers_are_counted_and_cost_no_other_request() {
    let node = node_that(|height| match height {
        1 => Some(Reply::Twice(range(1))),
        2 => Some(Reply::WrongId(range(2))),
        3 => Some(Reply::After(Duration::from_millis(900), range(3))),
        _ => None,
    });
    let link = NodeLink::start(NodeLinkOptions { message_timeout: Duration::from_millis(600), ..options(&node) });
    assert_eq!(ask(&link, 1).await, Ok(1));
    assert_eq!(ask(&link, 4).await, Ok(4));
    // What it gets is another request's answer, so it gets none.
    assert_eq!(ask(&link, 2).await, Err(LinkError::Lost));
    assert_eq!(link.counters().receiving_timeouts.get(), 1);
    assert_eq!(ask(&link, 5).await, Ok(5));
    assert!(link.counters().mismatched_ids.get() >= 2);
}

#[tokio::test]
async fn a_node_that_answers_nothing_loses_the_connection_and_its_requests_end_in_time() {
    let node = BinaryPort::start(|command| match height(command) {
        Some(_) => Reply::After(Duration::from_secs(60), range(0)),
        None => Reply::Answer(default_answer(command)),
    });
    let link = NodeLink::start(NodeLinkOptions { message_timeout: Duration::from_millis(200), ..options(&node) });
    reached(&link, LinkState::Connected).await;
    assert_eq!(ask(&link, 1).await, Err(LinkError::Lost));
    let waiting = async {
        while node.connections() < 2 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    limit(PATIENCE, waiting).await.expect("a silent connection is replaced");
}

#[tokio::test]
async fn half_an_answer_or_none_has_the_request_sent_again_once() {
    for reply in [|| Reply::Half(range(7)), || Reply::Close, || Reply::Bytes(vec![0, 0, 0, 0])] {
        let asked = std::sync::atomic::AtomicU64::new(0);
        let node = node_that(move |_| {
            let count = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            (count == 0).then(reply)
        });
        let link = NodeLink::start(options(&node));
        assert_eq!(ask(&link, 7).await, Ok(7));
        assert_eq!(link.counters().sent_again.get(), 1);
        assert_eq!(node.connections(), 2);
    }
}

#[tokio::test]
async fn a_request_that_costs_the_connection_fails_alone() {
    const POISONED: [u64; 2] = [20, 40];
    let too_large = LinkError::TooLarge { allowed: 1 << 20, got: u32::MAX };
    let endings: [(fn() -> Reply, LinkError); 2] =
        [(|| Reply::Close, LinkError::Lost), (|| Reply::Bytes(vec![255; 8]), too_large)];
    for (ending, reason) in endings {
        let node = node_that(move |height| POISONED.contains(&height).then(ending));
        let link = NodeLink::start(options(&node));
        reached(&link, LinkState::Connected).await;
        let mut asking = JoinSet::new();
        for height in 0..64 {
            let link = link.clone();
            asking.spawn(async move { (height, ask(&link, height).await) });
        }
        for (height, answer) in asking.join_all().await {
            let expected = if POISONED.contains(&height) { Err(reason.clone()) } else { Ok(height) };
            assert_eq!(answer, expected, "{height}");
        }
    }
}

#[tokio::test]
async fn what_fails_twice_is_reported_with_its_reason() {
    for (bytes, reason) in [
        (vec![0, 0, 0, 0], "request error: Empty request"),
        (vec![255; 8], "request error: Request too large: allowed 1048576 bytes, got 4294967295 bytes"),
        (vec![3, 0, 0, 0, 1, 2, 3], "failed to deserialize the envelope of a response"),
    ] {
        let node = node_that(move |_| Some(Reply::Bytes(bytes.clone())));
        let link = NodeLink::start(options(&node));
        assert_eq!(ask(&link, 7).await.unwrap_err().to_string(), reason);
    }
}

#[tokio::test]
async fn a_node_that_only_sends_answers_to_others_is_not_believed_forever() {
    let node = node_that(|_| Some(Reply::WrongId(range(1))));
    let link = NodeLink::start(NodeLinkOptions { keepalive_interval: PATIENCE, ..options(&node) });
    let mut asking = JoinSet::new();
    for height in 0..150 {
        let link = link.clone();
        asking.spawn(async move { ask(&link, height).await });
    }
    let first = limit(PATIENCE, asking.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first, Err(LinkError::Mismatches));
}

#[tokio::test]
async fn a_transaction_that_the_node_may_have_is_not_sent_a_second_time() {
    for reply in [|| Reply::Close, || Reply::Half(BinaryResponse::new_empty())] {
        let node = BinaryPort::start(move |command| match command {
            Command::TryAcceptTransaction { .. } => reply(),
            other => Reply::Answer(default_answer(other)),
        });
        let link = NodeLink::start(options(&node));
        let (_, request) = put();
        let answer = limit(PATIENCE, link.ask(&request)).await.unwrap();
        assert_eq!(answer.unwrap_err(), LinkError::Lost);
        reached(&link, LinkState::Connected).await;
        assert_eq!(node.accepted().len(), 1);
        assert_eq!(link.counters().sent_again.get(), 0);
    }
}

#[tokio::test]
async fn a_transaction_that_was_not_sent_is_sent_once_the_node_is_there() {
    let mut node = BinaryPort::stopped(|command| Reply::Answer(default_answer(command)));
    let link = NodeLink::start(options(&node));
    let (transaction, request) = put();
    let asking = tokio::spawn({
        let link = link.clone();
        async move { link.ask(&request).await }
    });
    while link.counters().failed_attempts.get() < 2 {
        sleep(Duration::from_millis(2)).await;
    }
    node.restart();
    assert_eq!(limit(PATIENCE, asking).await.unwrap().unwrap().unwrap().accepted(), Ok(()));
    let accepted: Vec<_> = node.accepted().iter().map(|accepted| accepted.hash().to_string()).collect();
    assert_eq!(accepted, [transaction.hash().to_string()]);
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_and_beyond_the_buffer_are_refused() {
    let node = node_that(|height| (height == 0).then(|| Reply::After(Duration::from_millis(300), range(0))));
    let link = NodeLink::start(NodeLinkOptions { request_limit: 1, request_buffer_size: 1, ..options(&node) });
    reached(&link, LinkState::Connected).await;
    let ask_in_turn = |height| {
        let link = link.clone();
        tokio::spawn(async move { ask(&link, height).await })
    };
    let first = ask_in_turn(0);
    while link.in_flight() < 1 {
        tokio::task::yield_now().await;
    }
    let second = ask_in_turn(1);
    while link.shared.waiting.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&link, 2).await, Err(LinkError::Busy));
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(0), Ok(1)));
    assert_eq!(link.counters().refused.get(), 1);
}

#[tokio::test]
async fn a_request_that_gets_no_turn_in_time_fails() {
    let node = node_that(|height| (height == 0).then(|| Reply::After(Duration::from_millis(600), range(0))));
    let link = NodeLink::start(NodeLinkOptions {
        request_limit: 1,
        access_timeout: Duration::from_millis(100),
        ..options(&node)
    });
    reached(&link, LinkState::Connected).await;
    let slow = tokio::spawn({
        let link = link.clone();
        async move { ask(&link, 0).await }
    });
    while link.in_flight() < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&link, 1).await, Err(LinkError::Lost));
    assert_eq!(link.counters().access_timeouts.get(), 1);
    assert_eq!(slow.await.unwrap(), Ok(0));
}

#[tokio::test]
async fn once_the_attempts_are_used_up_requests_fail_at_once_and_the_node_is_found_again() {
    let mut node = BinaryPort::stopped(|command| match height(command) {
        Some(height) => Reply::Answer(range(height)),
        None => Reply::Answer(default_answer(command)),
    });
    let backoff = Backoff { max_attempts: 2, max_delay: Duration::from_secs(600), ..options(&node).backoff };
    let backoff = Backoff { coefficient: 1_000_000, ..backoff };
    let link = NodeLink::start(NodeLinkOptions { backoff, ..options(&node) });
    reached(&link, LinkState::Away).await;
    let begun = Instant::now();
    assert_eq!(ask(&link, 1).await, Err(LinkError::Lost));
    assert!(begun.elapsed() < PATIENCE);
    node.restart();
    // The pause is ten minutes by now; a request that fails has the node tried at once.
    let waiting = async {
        while ask(&link, 1).await != Ok(1) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    limit(PATIENCE, waiting).await.expect("the node is found again");
}

#[tokio::test]
async fn a_node_of_another_network_is_not_connected_to() {
    let node = BinaryPort::start(|command| match information(command) {
        Some(InformationRequestTag::NodeStatus) => Reply::Answer(BinaryResponse::from_value(status("casper"))),
        _ => Reply::Answer(default_answer(command)),
    });
    let named = |name: &str| NodeLinkOptions { network_name: Some(name.to_owned()), ..options(&node) };
    let link = NodeLink::start(named("casper"));
    reached(&link, LinkState::Connected).await;
    let other = NodeLink::start(NodeLinkOptions {
        backoff: Backoff { max_attempts: 2, ..options(&node).backoff },
        ..named("casper-test")
    });
    reached(&other, LinkState::Away).await;
}

fn status(chainspec_name: &str) -> PortNodeStatus {
    use sidecar_test_support::casper_types::{self, TimeDiff, Timestamp};

    PortNodeStatus {
        protocol_version: casper_types::ProtocolVersion::from_parts(2, 0, 0),
        peers: std::collections::BTreeMap::<String, String>::new().into(),
        build_version: "2.0.3".to_owned(),
        chainspec_name: chainspec_name.to_owned(),
        starting_state_root_hash: casper_types::Digest::default(),
        last_added_block_info: None,
        our_public_signing_key: None,
        round_length: None,
        next_upgrade: None,
        uptime: TimeDiff::from_seconds(1),
        reactor_state: casper_binary_port::ReactorStateName::new("Validate"),
        last_progress: Timestamp::zero(),
        available_block_range: casper_types::AvailableBlockRange::RANGE_0_0,
        block_sync: casper_types::BlockSynchronizerStatus::new(None, None),
        latest_switch_block_hash: None,
    }
}

#[tokio::test]
async fn the_connection_is_kept_alive_with_requests_that_the_node_counts() {
    let node = node_that(|_| None);
    let interval = Duration::from_millis(10);
    let link = NodeLink::start(NodeLinkOptions { keepalive_interval: interval, ..options(&node) });
    reached(&link, LinkState::Connected).await;
    let waiting = async {
        while node.requests() < 10 {
            sleep(interval).await;
        }
    };
    limit(PATIENCE, waiting).await.expect("a keep-alive every 10 ms");
    assert_eq!(node.connections(), 1);
}

#[tokio::test]
async fn a_request_above_the_message_size_is_refused_without_losing_the_connection() {
    let node = node_that(|_| None);
    let link = NodeLink::start(NodeLinkOptions { message_bytes_max: 100, ..options(&node) });
    let (_, request) = put();
    let error = link.ask(&request).await.unwrap_err().to_string();
    assert!(error.starts_with("request error: Request too large: allowed 100 bytes, got "), "{error}");
    assert_eq!(ask(&link, 3).await, Ok(3));
    assert_eq!(node.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_and_restarted_under_load_loses_no_request_and_accepts_no_transaction_twice() {
    let mut node = node_that(|_| None);
    node.delay(Duration::from_millis(1));
    let link = NodeLink::start(options(&node));
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for client in 0..16_u64 {
        let (link, is_over) = (link.clone(), Arc::clone(&is_over));
        readers.spawn(async move {
            let mut answered = 0_u64;
            let mut height = client * 1_000_000;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                // A request that is lost two times in a row fails; none gets a wrong answer.
                match ask(&link, height).await {
                    Ok(answer) => {
                        assert_eq!(answer, height);
                        answered += 1;
                    }
                    Err(error) => assert_eq!(error, LinkError::Lost),
                }
                height += 1;
            }
            answered
        });
    }
    let putting = tokio::spawn({
        let (link, is_over) = (link.clone(), Arc::clone(&is_over));
        async move {
            let mut put_hashes = Vec::new();
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let (transaction, request) = put();
                if limit(PATIENCE, link.ask(&request)).await.expect("no request waits forever").is_ok() {
                    put_hashes.push(transaction.hash().to_string());
                }
            }
            put_hashes
        }
    });
    for _ in 0..20 {
        sleep(Duration::from_millis(20)).await;
        let asked = node.requests();
        node.kill();
        sleep(Duration::from_millis(5)).await;
        node.restart();
        let answering = async {
            while node.requests() < asked + 20 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        limit(PATIENCE, answering).await.expect("the link comes back within the back-off");
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    let answered = readers.join_all().await;
    assert!(answered.iter().all(|answered| *answered > 20), "{answered:?}");
    let confirmed = putting.await.unwrap();
    let accepted: Vec<_> = node.accepted().iter().map(|transaction| transaction.hash().to_string()).collect();
    let mut once = accepted.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), accepted.len(), "a transaction was sent twice");
    assert!(!confirmed.is_empty() && confirmed.iter().all(|hash| accepted.contains(hash)));
    assert_eq!(link.in_flight(), 0);
}
