//! What the REST server answers, through the built binary: the reference's recorded answers byte for byte, then what is
//! there beyond them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use sidecar_test_support::client::{Answer, Request, SseClient, get};
use sidecar_test_support::node::{NodeOptions, SimulatedNode};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::recordings;
use sidecar_test_support::story;

const BLOCK: &str = "d59359690ca5a251b513185da0767f744e77645adec82bb6ff785a89edc7591c";
const DEPLOY: &str = "5a7709969c210db93d3c21bf49f8bf705d7c75a01609f606d04b0211af171d43";
const INVALID_PATH: &str = r#"{"code":400,"message":"Invalid request path provided"}"#;
const NOT_FOUND: &str = r#"{"code":404,"message":"Query returned no results"}"#;

/// A sidecar that has stored these payloads of a node on the network `casper-test`.
async fn holding<S: AsRef<str>>(payloads: impl IntoIterator<Item = S>) -> (SimulatedNode, Sidecar) {
    let options = NodeOptions { chainspec_name: "casper-test".to_owned(), ..NodeOptions::default() };
    let node = SimulatedNode::with(options);
    let sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address()).rest_api().start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let ids = node.push_all(payloads);
    if !ids.is_empty() {
        live.read_until_id(stored(ids.end) - 1).await;
    }
    (node, sidecar)
}

/// What the log calls the event that the node will give this id: tests begin at 0, and one event of the transcript is a
/// duplicate.
fn stored(id: u64) -> u64 {
    if id == 11 { 10 } else { id }
}

async fn transcript() -> (SimulatedNode, Sidecar) {
    holding(recordings::transcript_events().into_iter().map(|(_, payload)| payload)).await
}

#[tokio::test]
async fn the_recorded_answers_of_the_reference_are_given_byte_for_byte() {
    let (_node, sidecar) = transcript().await;
    let recorded: BTreeMap<String, Value> = serde_json::from_slice(&recordings::transcript("rest.json")).unwrap();
    assert!(recorded.len() > 10);
    for (path, expected) in recorded.iter().filter(|(path, _)| *path != "/status") {
        let answer = get(sidecar.rest_address(), path).await;
        assert_eq!(answer.body, expected["body"].as_str().unwrap(), "{path}");
        assert_eq!(u64::from(answer.status), expected["status"].as_u64().unwrap(), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()), "{path}");
        assert!(answer.header("date").is_some() && answer.header("content-encoding").is_none(), "{path}");
    }
}

#[tokio::test]
async fn requests_are_understood_and_refused_as_by_the_reference() {
    let (_node, sidecar) = transcript().await;
    let address = sidecar.rest_address();
    let block = get(address, "/block/6017012").await;
    for same in [
        "/block/".to_owned(),
        "/block?any=query".to_owned(),
        "/block/006017012".to_owned(),
        format!("/block/{BLOCK}/"),
        // The reference answers 404 to upper case.
        format!("/block/{}", BLOCK.to_uppercase()),
    ] {
        let answer = get(address, &same).await;
        assert_eq!((answer.status, &answer.body), (200, &block.body), "{same}");
    }
    let aggregate = get(address, &format!("/transaction/deploy/{DEPLOY}")).await;
    let other_case = get(address, &format!("/transaction/DePloY/{DEPLOY}")).await;
    assert_eq!(other_case.body, aggregate.body);

    for path in [
        "/other",
        "/block/x",
        "/block/-1",
        "/block//",
        "/block/1/2",
        "/transaction/deploy/1",
        "/faults/x",
        "/step/x",
        "/signatures/1",
        "/events/x",
        "/blocks/x",
        "/Block",
    ] {
        let answer = get(address, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, INVALID_PATH), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = Request::new(method, address, "/block").answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (400, INVALID_PATH), "{method}");
    }
    for path in ["/", "/blocks", "/events?limit=1", "/events/1", "/status", "/logs", "/logs/casper/events"] {
        let answer = Request::new("OPTIONS", address, path).answer().await;
        assert_eq!((answer.status, answer.header("allow")), (204, Some("GET, HEAD, OPTIONS")), "{path}");
        assert_eq!(Request::new("HEAD", address, path).answer().await.status, 200, "{path}");
    }
    let other = "0".repeat(64);
    let key = format!("01{other}");
    for path in [
        format!("/block/{other}"),
        "/block/99".to_owned(),
        format!("/transaction/version1/{DEPLOY}"),
        format!("/transaction/accepted/deploy/{other}"),
        format!("/transaction/processed/deploy/{other}"),
        format!("/transaction/expired/deploy/{other}"),
        format!("/transaction/deploy/{other}"),
        format!("/faults/{key}"),
        // No key has this tag, but only the length is looked at.
        format!("/faults/00{other}"),
        "/faults/1".to_owned(),
        format!("/signatures/{other}"),
        "/step/99".to_owned(),
        "/events/99".to_owned(),
    ] {
        let answer = get(address, &path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, NOT_FOUND), "{path}");
    }
    let odd = get(address, "//block").await;
    assert_eq!(odd.status, 500);
    let message = "Unexpected error in REST server - please file a bug report!\nRejection(NotFound)";
    assert_eq!(odd.json(), serde_json::json!({ "code": 500, "message": message }));
}

#[tokio::test]
async fn a_head_request_is_answered_as_get_is_without_the_body() {
    let (_node, sidecar) = transcript().await;
    let address = sidecar.rest_address();
    let account = format!("/account/01{}/transactions", "0".repeat(64));
    for path in [
        "/block",
        "/blocks",
        "/events",
        "/events/3",
        "/status",
        "/faults/769794",
        &account,
        "/",
        "/api-doc.json",
        "/swagger-ui/",
        "/swagger-ui",
        "/block/99",
        "/other",
        "/events?limit=0",
    ] {
        let of_get = get(address, path).await;
        let of_head = Request::new("HEAD", address, path).answer().await;
        assert_eq!((of_head.status, of_head.body.as_str()), (of_get.status, ""), "{path}");
        let headers = |answer: &Answer| {
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| name != "date");
            headers
        };
        assert_eq!(headers(&of_head), headers(&of_get), "{path}");
    }
}

#[tokio::test]
async fn the_root_lists_what_is_there() {
    let (_node, sidecar) = transcript().await;
    let answer = get(sidecar.rest_address(), "/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    for words in ["Sidecar", env!("CARGO_PKG_VERSION"), "/swagger-ui/", "/api-doc.json", "/status"] {
        assert!(answer.body.contains(words), "{}", answer.body);
    }
}

/// Nodes have sent checksummed hashes and keys, in which the case of the digits varies.
#[tokio::test]
async fn what_was_sent_in_mixed_case_is_found_under_any_spelling() {
    let mixed = "aBcD".repeat(16);
    let key = format!("01{mixed}");
    let payloads = [
        format!(
            r#"{{"BlockAdded":{{"block_hash":"{mixed}","block":{{"Version2":{{"hash":"{mixed}","header":{{"height":1}}}}}}}}}}"#
        ),
        format!(
            r#"{{"TransactionAccepted":{{"Version1":{{"hash":"{mixed}","payload":{{"initiator_addr":{{"PublicKey":"{key}"}},"timestamp":"2026-01-01T00:00:00.000Z"}}}}}}}}"#
        ),
        format!(
            r#"{{"TransactionProcessed":{{"transaction_hash":{{"Version1":"{mixed}"}},"block_hash":"{mixed}","messages":[]}}}}"#
        ),
        format!(r#"{{"TransactionExpired":{{"transaction_hash":{{"Version1":"{mixed}"}}}}}}"#),
        format!(r#"{{"Fault":{{"era_id":7,"public_key":"{key}","timestamp":"t"}}}}"#),
        format!(r#"{{"FinalitySignature":{{"V2":{{"block_hash":"{mixed}","block_height":1,"public_key":"{key}"}}}}}}"#),
    ];
    let (_node, sidecar) = holding(&payloads).await;
    for spell in [str::to_owned, str::to_lowercase, str::to_uppercase] {
        let (hash, key) = (spell(&mixed), spell(&key));
        for path in [
            format!("/block/{hash}"),
            format!("/transaction/version1/{hash}"),
            format!("/transaction/accepted/version1/{hash}"),
            format!("/transaction/processed/version1/{hash}"),
            format!("/transaction/expired/version1/{hash}"),
            format!("/faults/{key}"),
            format!("/signatures/{hash}"),
            format!("/account/{key}/transactions"),
        ] {
            let answer = get(sidecar.rest_address(), &path).await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(answer.body.contains(&mixed), "{path}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn two_blocks_of_one_height_are_each_found_by_their_hash_and_the_first_by_the_height() {
    let hashes = ["7", "1"].map(|last| format!("{}{last}", "0".repeat(63)));
    let block = |hash: &String| {
        format!(
            r#"{{"BlockAdded":{{"block_hash":"{hash}","block":{{"Version2":{{"hash":"{hash}","header":{{"height":7}}}}}}}}}}"#
        )
    };
    let (_node, sidecar) = holding(hashes.iter().map(block)).await;
    for hash in &hashes {
        let answer = get(sidecar.rest_address(), &format!("/block/{hash}")).await;
        assert_eq!((answer.status, answer.json()["payload"]["block_hash"].as_str()), (200, Some(hash.as_str())));
    }
    for path in ["/block/7", "/block"] {
        assert_eq!(get(sidecar.rest_address(), path).await.json()["payload"]["block_hash"], hashes[0], "{path}");
    }
    assert_eq!(get(sidecar.rest_address(), "/blocks").await.json()["blocks"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn large_answers_are_compressed_when_asked_for_and_small_ones_never() {
    use std::io::Read;

    let payloads: Vec<String> =
        recordings::recorded_network().into_iter().map(|(_, payload)| payload).take(300).collect();
    let (_node, sidecar) = holding(&payloads).await;
    let address = sidecar.rest_address();
    let plain = get(address, "/events?limit=300").await;
    assert!(plain.header("content-encoding").is_none() && plain.body.len() > 100_000);
    let tag = plain.header("etag").unwrap();
    for coding in ["gzip", "zstd"] {
        let request = || Request::get(address, "/events?limit=300").header("accept-encoding", coding);
        let mut response = request().open().await;
        assert_eq!(response.header("content-encoding"), Some(coding));
        assert_eq!(response.header("vary"), Some("origin, accept-encoding"));
        assert_eq!(response.header("etag"), Some(format!("W/{tag}").as_str()), "these are other bytes");
        let length: usize = response.header("content-length").unwrap().parse().unwrap();
        assert!(length < plain.body.len() / 3, "{length}");
        // The client decompresses zstd by itself.
        let body = response.body().await;
        let body = match coding {
            "gzip" => {
                let mut decompressed = Vec::new();
                flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut decompressed).unwrap();
                decompressed
            }
            _ => body,
        };
        assert!(body == plain.body.as_bytes());
        let known = request().header("if-none-match", tag).answer().await;
        assert_eq!((known.status, known.body.as_str()), (304, ""));
    }
    let small = Request::get(address, "/events?limit=1").header("accept-encoding", "gzip, zstd").answer().await;
    assert_eq!((small.header("content-encoding"), small.header("vary")), (None, Some("origin, accept-encoding")));
}

#[tokio::test]
async fn events_are_found_by_the_time_at_which_they_were_received_and_from_the_newest_on() {
    let payloads: Vec<String> =
        recordings::recorded_network().into_iter().map(|(_, payload)| payload).take(50).collect();
    let (_node, sidecar) = holding(&payloads).await;
    let address = sidecar.rest_address();
    let events = get(address, "/events").await.json()["events"].as_array().unwrap().clone();
    let time = |sequence: usize| events[sequence]["received_at"].as_str().unwrap();
    let sequences = |page: &Value| -> Vec<u64> {
        page["events"].as_array().unwrap().iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
    };
    for sequence in [0, 17, 49] {
        let page = get(address, &format!("/events?since={}", time(sequence))).await.json();
        let first = (0..50).find(|&other| time(other) >= time(sequence)).unwrap() as u64;
        assert_eq!((sequences(&page), page["next"].as_u64()), ((first..50).collect(), Some(50)), "since {sequence}");
        let page = get(address, &format!("/events?until_time={}", time(sequence))).await.json();
        assert_eq!((sequences(&page), page["next"].as_u64()), ((0..first).collect(), None), "until {sequence}");
    }
    let future = get(address, "/events?since=2999-01-01T00:00:00Z").await.json();
    assert_eq!((sequences(&future), future["next"].as_u64()), (vec![], Some(50)));

    let newest = get(address, "/events?newest=3").await.json();
    assert_eq!((sequences(&newest), newest["next"].as_u64()), (vec![49, 48, 47], Some(47)));
    let older = get(address, "/events?newest=100&before=47").await.json();
    assert_eq!((sequences(&older), older["next"].as_u64()), ((0..47).rev().collect(), None));

    let heights = |page: &Value| -> Vec<u64> {
        let height = |block: &Value| block["payload"]["block"]["Version2"]["header"]["height"].as_u64().unwrap();
        page["blocks"].as_array().unwrap().iter().map(height).collect()
    };
    let upwards = heights(&get(address, "/blocks").await.json());
    let (mut downwards, mut target) = (Vec::new(), "/blocks?newest=2".to_owned());
    loop {
        let page = get(address, &target).await.json();
        downwards.extend(heights(&page));
        let Some(next) = page["next"].as_u64() else { break };
        target = format!("/blocks?newest=2&before_height={next}");
    }
    downwards.reverse();
    assert!(upwards.len() > 2 && downwards == upwards, "{downwards:?} is not {upwards:?}");
}

#[tokio::test]
async fn a_transaction_is_shown_in_all_its_stages() {
    let hash = |number: u8| format!("{number:02x}").repeat(32);
    let accepted = |number| format!(r#"{{"TransactionAccepted":{{"Version1":{{"hash":"{}"}}}}}}"#, hash(number));
    let processed = |number| {
        format!(
            r#"{{"TransactionProcessed":{{"transaction_hash":{{"Version1":"{}"}},"block_hash":"{}","messages":[]}}}}"#,
            hash(number),
            hash(99)
        )
    };
    let expired =
        |number| format!(r#"{{"TransactionExpired":{{"transaction_hash":{{"Version1":"{}"}}}}}}"#, hash(number));
    let payloads =
        [accepted(1), accepted(2), processed(2), expired(2), accepted(3), expired(3), processed(4), expired(4)];
    let (_node, sidecar) = holding(payloads).await;
    let of = async |number| get(sidecar.rest_address(), &format!("/transaction/version1/{}", hash(number))).await;
    let tail = |answer: &Answer| {
        let (_, tail) = answer.body.split_once(r#","transaction_processed":"#).unwrap();
        tail.to_owned()
    };
    let only_accepted = of(1).await;
    assert_eq!(tail(&only_accepted), r#"null,"transaction_expired":false}"#);
    let was_processed = of(2).await;
    assert!(tail(&was_processed).ends_with(r#","transaction_expired":false}"#), "{}", was_processed.body);
    assert!(was_processed.json()["transaction_processed"]["payload"]["block_hash"] == hash(99));
    assert_eq!(tail(&of(3).await), r#"null,"transaction_expired":true}"#);
    assert_eq!(of(4).await.status, 404, "what was not accepted is not found");

    // Only what has been processed can not change any more.
    assert!(was_processed.header("cache-control").unwrap().contains("immutable"));
    assert_eq!(only_accepted.header("cache-control"), Some("no-cache"));
}

#[tokio::test]
async fn only_what_its_hash_names_is_kept_by_caches_and_the_rest_is_asked_for_again() {
    let (node, sidecar) = transcript().await;
    let address = sidecar.rest_address();
    let (forever, ask_again) = ("public, max-age=31536000, immutable", "no-cache");
    for (path, cached) in [
        (format!("/block/{BLOCK}"), forever),
        (format!("/transaction/accepted/deploy/{DEPLOY}"), forever),
        ("/block/6017012".to_owned(), ask_again),
        ("/block".to_owned(), ask_again),
        ("/step/1".to_owned(), ask_again),
        ("/faults/769794".to_owned(), ask_again),
        ("/events/3".to_owned(), ask_again),
        ("/events".to_owned(), ask_again),
        ("/blocks".to_owned(), ask_again),
    ] {
        let answer = get(address, &path).await;
        assert_eq!(answer.header("cache-control"), Some(cached), "{path}");
        // Else it would be kept for pages of one origin and refused to those of another.
        assert_eq!(answer.header("vary"), Some("origin, accept-encoding"), "{path}");
        let tag = answer.header("etag").unwrap().to_owned();
        let again = Request::get(address, &path).header("if-none-match", &format!("\"other\", W/{tag}")).answer().await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
    }
    let faults = get(address, "/faults/769794").await;
    let tag = faults.header("etag").unwrap().to_owned();
    let request = || Request::get(address, "/faults/769794").header("if-none-match", &tag);
    assert_eq!(request().answer().await.status, 304);
    let another = format!(r#"{{"Fault":{{"era_id":769794,"public_key":"01{}","timestamp":"t"}}}}"#, "a".repeat(64));
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    node.push(another);
    live.read_until_id(10).await;
    let grown = request().answer().await;
    assert_eq!(grown.status, 200);
    assert_eq!(grown.json().as_array().unwrap().len(), 2);
    assert_eq!(get(address, "/block/99").await.header("etag"), None);
}

/// What a browser has kept of a log must not be taken for what another log answers, whatever its sequences are.
#[tokio::test]
async fn the_tag_of_one_logs_answer_is_not_that_of_anothers() {
    let block = |hash: &str| {
        format!(
            r#"{{"BlockAdded":{{"block_hash":"{hash}","block":{{"Version2":{{"hash":"{hash}","header":{{"height":1}}}}}}}}}}"#
        )
    };
    let (_node, before) = holding([block(&"01".repeat(32))]).await;
    let (_other_node, after) = holding([block(&"02".repeat(32))]).await;
    for path in ["/events/0", "/block/1", "/block", "/blocks"] {
        let tag = get(before.rest_address(), path).await.header("etag").unwrap().to_owned();
        let known = Request::get(before.rest_address(), path).header("if-none-match", &tag).answer().await;
        assert_eq!(known.status, 304, "{path}");
        let asked_again = Request::get(after.rest_address(), path).header("if-none-match", &tag).answer().await;
        assert_eq!(asked_again.status, 200, "{path}");
        assert!(asked_again.body.contains(&"02".repeat(32)), "{path}");
    }
}

#[tokio::test]
async fn an_event_is_found_as_soon_as_a_client_has_seen_it() {
    let (node, sidecar) = transcript().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    for number in 0..50_u64 {
        let hash = format!("{number:064x}");
        node.push(format!(
            r#"{{"BlockAdded":{{"block_hash":"{hash}","block":{{"Version2":{{"hash":"{hash}","header":{{"height":{}}}}}}}}}}}"#,
            7_000_000 + number
        ));
        live.read_until_id(10 + number).await;
        let newest = get(sidecar.rest_address(), "/block").await;
        assert_eq!(newest.json()["payload"]["block_hash"], hash);
        assert_eq!(get(sidecar.rest_address(), &format!("/block/{hash}")).await.body, newest.body);
    }
}

#[tokio::test]
async fn pages_walk_the_whole_log_in_order_and_through_a_filter() {
    let network = recordings::recorded_network();
    let payloads: Vec<String> = network.into_iter().map(|(_, payload)| payload).take(700).collect();
    let (_node, sidecar) = holding(&payloads).await;
    let address = sidecar.rest_address();

    let mut seen = Vec::new();
    let mut next = 0;
    loop {
        let page = get(address, &format!("/events?from={next}&limit=97")).await.json();
        assert_eq!((page["head"].as_u64(), page["missing"].as_array().unwrap().len()), (Some(700), 0));
        for event in page["events"].as_array().unwrap() {
            assert_eq!(event["sequence"].as_u64().unwrap() as usize, seen.len());
            assert_eq!(event["header"], serde_json::json!({"api_version": "2.0.0", "network_name": "casper-test"}));
            seen.push(event["payload"].clone());
        }
        next = page["next"].as_u64().unwrap();
        if next == 700 {
            break;
        }
    }
    let all: Vec<Value> = payloads.iter().map(|payload| serde_json::from_str(payload).unwrap()).collect();
    assert!(seen == all);

    let blocks_among =
        |payloads: &[Value]| payloads.iter().filter(|payload| payload.get("BlockAdded").is_some()).count();
    let filtered = get(address, "/events?types=BlockAdded,Fault&limit=1000").await.json();
    assert_eq!(filtered["events"].as_array().unwrap().len(), blocks_among(&all));
    assert_eq!(filtered["next"], 700);
    let listed_twice = get(address, "/events?types=BlockAdded&types=Fault&limit=1000").await.json();
    assert_eq!(listed_twice, filtered);
    assert_eq!(filtered["events"][0]["kind"], "BlockAdded");

    let event = get(address, "/events/1").await;
    assert!(event.body.ends_with(&format!(r#","payload":{}}}"#, payloads[1])), "{}", event.body);

    let mut heights = Vec::new();
    let mut next = 3;
    loop {
        let page = get(address, &format!("/blocks?from_height={next}&limit=50")).await.json();
        let blocks = page["blocks"].as_array().unwrap();
        if blocks.is_empty() {
            break;
        }
        heights.extend(
            blocks.iter().map(|block| block["payload"]["block"]["Version2"]["header"]["height"].as_u64().unwrap()),
        );
        next = page["next"].as_u64().unwrap();
    }
    let expected: Vec<u64> = (3..blocks_among(&all) as u64).collect();
    assert_eq!(heights, expected);
}

#[tokio::test]
async fn an_accounts_transactions_come_newest_first_to_the_last_one() {
    const ACCOUNT: &str = "01522ef6c89038019cb7af05c340623804392dd2bb1f4dab5e4a9c3ab752fc0179";
    let network = recordings::recorded_network();
    let payloads: Vec<String> = network.into_iter().map(|(_, payload)| payload).take(700).collect();
    let (_node, sidecar) = holding(&payloads).await;
    let mut sequences: Vec<u64> = Vec::new();
    let mut target = format!("/account/{ACCOUNT}/transactions?limit=20");
    loop {
        let page = get(sidecar.rest_address(), &target).await.json();
        sequences
            .extend(page["transactions"].as_array().unwrap().iter().map(|event| event["sequence"].as_u64().unwrap()));
        let Some(next) = page["next"].as_u64() else { break };
        target = format!("/account/{ACCOUNT}/transactions?limit=20&before={next}");
    }
    assert!(sequences.len() > 40 && sequences.is_sorted_by(|newer, older| newer > older), "{sequences:?}");
    let mentions = |sequence: &u64| payloads[*sequence as usize].contains(ACCOUNT);
    assert!(sequences.iter().all(mentions));
    let nobody = get(sidecar.rest_address(), &format!("/account/01{}/transactions", "0".repeat(64))).await;
    assert_eq!((nobody.status, nobody.body.as_str()), (200, r#"{"transactions":[],"missing":[],"next":null}"#));
}

#[tokio::test]
async fn a_wrong_query_of_a_page_is_refused_with_the_reason() {
    let (_node, sidecar) = transcript().await;
    for (target, words) in [
        ("/events?limit=0", "`limit` is a decimal number from 1 to 1000, received: 0"),
        ("/events?from=x", "`from` is a decimal number"),
        ("/events?types=Nothing", "`types` is a comma-separated list of BlockAdded"),
        ("/events?start_from=1", "unknown parameter `start_from`"),
        ("/events?from=1&from=1", "`from` is given more than once; give it once"),
        ("/events?since=noon", "`since` is a time as RFC 3339 writes it"),
        ("/blocks?from_height=-1", "`from_height` is a decimal number"),
    ] {
        let answer = get(sidecar.rest_address(), target).await;
        assert_eq!(answer.status, 400, "{target}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("Invalid parameter in query: ") && message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn events_of_any_size_and_shape_can_be_read() {
    let large = story::of_size(5_000_000, 1).payload;
    let odd =
        ["[]".to_owned(), r#""text""#.to_owned(), story::unknown_kind(1).payload, large, "{\n\"a\":\n1}".to_owned()];
    let (_node, sidecar) = holding(&odd).await;
    for (sequence, payload) in odd.iter().enumerate() {
        let answer = get(sidecar.rest_address(), &format!("/events/{sequence}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["payload"], serde_json::from_str::<Value>(payload).unwrap());
    }
    let page = get(sidecar.rest_address(), "/events").await.json();
    assert_eq!((page["events"].as_array().unwrap().len(), page["next"].as_u64()), (3, Some(3)));
    let page = get(sidecar.rest_address(), "/events?from=3").await.json();
    assert_eq!((page["events"].as_array().unwrap().len(), page["next"].as_u64()), (1, Some(4)));
}

#[tokio::test]
async fn pages_of_other_origins_may_read_and_ask_with_any_header() {
    let (_node, sidecar) = transcript().await;
    let address = sidecar.rest_address();
    let origin = "http://example.org";
    for path in ["/block", "/nothing", "/status", "/api-doc.json"] {
        let answer = Request::get(address, path).header("origin", origin).answer().await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{path}");
    }
    let preflight = Request::new("OPTIONS", address, "/block").header("origin", origin);
    let preflight = preflight.header("access-control-request-headers", "if-none-match,x-any");
    let answer = preflight.clone().header("access-control-request-method", "GET").answer().await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(origin)));
    assert_eq!(answer.header("access-control-allow-headers"), Some("if-none-match,x-any"));
    let answer = Request::get(address, "/block").header("origin", origin).answer().await;
    assert_eq!(answer.header("access-control-expose-headers"), Some("etag"));
    let answer = preflight.header("access-control-request-method", "POST").answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (403, "CORS request forbidden: request-method not allowed"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[tokio::test]
async fn the_status_begins_with_the_version_and_describes_log_views_and_sources() {
    let (node, sidecar) = transcript().await;
    let answer = get(sidecar.rest_address(), "/status").await;
    assert!(answer.body.starts_with(&format!(r#"{{"version":"{}","#, env!("CARGO_PKG_VERSION"))), "{}", answer.body);
    let status = answer.json();
    let lost = serde_json::json!({"missing": 0, "damaged": 0, "marked": 0, "ranges": []});
    let log = serde_json::json!({"oldest": 0, "next": 10, "api_version": "2.0.0", "epoch": 0, "lost": lost});
    assert_eq!(status["log"], log);
    assert_eq!(status["sources"][0]["source"], node.address().to_string());
    assert_eq!(status["sources"][0]["status"], "connected");
}

#[tokio::test]
async fn http_2_is_spoken_without_asking() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let (_node, sidecar) = transcript().await;
    let stream = tokio::net::TcpStream::connect(sidecar.rest_address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://{}/block", sidecar.rest_address()));
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, hyper::Version::HTTP_2));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, get(sidecar.rest_address(), "/block").await.body);
}

#[tokio::test]
async fn more_requests_than_are_allowed_wait_and_are_all_answered() {
    let node = SimulatedNode::start();
    let sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
        .node(node.address())
        .rest_api()
        .replacing("max_requests_per_second = 1000", "max_requests_per_second = 10")
        .replacing("max_concurrent_requests = 50", "max_concurrent_requests = 1")
        .start()
        .await;
    let address = sidecar.rest_address();
    let begun = std::time::Instant::now();
    let requests: Vec<_> = (0..25).map(|_| tokio::spawn(async move { get(address, "/status").await.status })).collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "the third ten begin a second after the second");
}

#[tokio::test]
async fn the_document_and_its_pages_come_out_of_the_binary_and_name_nothing_outside() {
    let (_node, sidecar) = transcript().await;
    let address = sidecar.rest_address();
    let redirect = get(address, "/swagger-ui").await;
    assert_eq!((redirect.status, redirect.header("location")), (302, Some("/swagger-ui/")));
    let page = get(address, "/swagger-ui/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html")));
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "{}", page.body);
    let start = get(address, "/swagger-ui/swagger-initializer.js").await;
    assert!(start.body.contains("/api-doc.json"), "{}", start.body);
    let nothing = get(address, "/swagger-ui/nothing.js").await;
    assert_eq!((nothing.status, nothing.body.as_str()), (404, ""));

    let document = get(address, "/api-doc.json").await;
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    let document = document.json();
    assert_eq!(document["info"]["title"], "casper-event-sidecar");
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 18);
    for (path, item) in paths {
        let answer = &item["get"]["responses"]["200"]["content"]["application/json"];
        assert!(!answer["schema"].is_null(), "{path} has no schema");
        assert!(!answer["example"].is_null(), "{path} has no example");
    }
}

/// The document's examples are what the recorded network answers, so they are compared with its answers.
#[tokio::test]
async fn the_documents_examples_are_answers_of_the_recorded_network() {
    let examples: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("../resources/openapi/examples.json")).unwrap();
    let node =
        SimulatedNode::with(NodeOptions { chainspec_name: "casper-devnet".to_owned(), ..NodeOptions::default() });
    let sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address()).rest_api().start().await;
    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let events = recordings::recorded_network();
    node.push_all(events.iter().map(|(_, payload)| payload));
    live.read_until_id(events.len() as u64 - 1).await;
    for (target, example) in examples {
        // The recording has no fault; and the status is that of a moment.
        if target.starts_with("/faults") || target.ends_with("/status") || target == "/logs" {
            continue;
        }
        let mut answer = get(sidecar.rest_address(), &target).await.json();
        let mut example = example;
        for value in [&mut answer, &mut example] {
            blank(value);
        }
        assert_eq!(answer, example, "{target}");
    }
}

/// Takes out what differs from run to run.
fn blank(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !["source", "received_at", "head", "network_name"].contains(&name.as_str()));
            members.values_mut().for_each(blank);
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

/// Where schemathesis is installed, it finds no answer that the document does not describe, and none of 500.
///
/// It would have 405 for methods that the document does not name; the reference answers them as paths that it does not know.
#[tokio::test]
async fn schemathesis_finds_every_answer_as_the_document_says() {
    let (_node, sidecar) = transcript().await;
    let folder = tempfile::tempdir().unwrap();
    // No document can list which kinds a log has.
    let configuration = "[[operations]]\ninclude-path = \"/logs/{log}/events\"\n\
                         checks.positive_data_acceptance.expected-statuses = [200, 400, 404, 410, 503]\n";
    std::fs::write(folder.path().join("schemathesis.toml"), configuration).unwrap();
    let asking = Command::new("schemathesis")
        .args(["run", &format!("http://{}/api-doc.json", sidecar.rest_address())])
        .args(["--exclude-checks", "unsupported_method", "--max-examples", "30", "--seed", "1", "--warnings", "off"])
        .current_dir(folder.path())
        .output();
    let output = match asking {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("schemathesis is not installed: nobody asks what the document allows");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("Tested: 18"), "{report}");
}
