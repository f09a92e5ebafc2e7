//! What both databases are asked, and what they must answer: the same as the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use sidecar_test_support::client::{Answer, Request, get};
use sidecar_test_support::node::{NodeOptions, SimulatedNode};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::recordings;
use sidecar_test_support::story::{self, Story, StoryOptions};
use sidecar_test_support::wait::{find, until};

/// How long an export, or an answer after trouble, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const NO_DATABASE: &str =
    r#"{"code":500,"message":"Unhandled error occurred in storage: the database does not answer as it should"}"#;

pub(crate) fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
}

/// The first answer with this status.
pub(crate) async fn wait_for_status(address: SocketAddr, target: &str, status: u16) -> Answer {
    find(PATIENCE, &format!("{target} is answered with {status}"), async || {
        let answer = get(address, target).await;
        (answer.status == status).then_some(answer)
    })
    .await
}

/// A sidecar that has exported these payloads of a node on `casper-test`, and answers from its log. `next_sequence` reads
/// the export's checkpoint.
pub(crate) async fn exported(
    builder: SidecarBuilder,
    payloads: &[String],
    next_sequence: impl Fn() -> u64,
) -> (SimulatedNode, Sidecar) {
    let options = NodeOptions { chainspec_name: "casper-test".to_owned(), ..NodeOptions::default() };
    let node = SimulatedNode::with(options);
    node.push_all(payloads);
    let sidecar = builder.node(node.address()).rest_api().start().await;
    until(PATIENCE, "an export of all events", async || next_sequence() == payloads.len() as u64).await;
    (node, sidecar)
}

/// A block of a height that no story has, and about so many bytes.
fn block(height: u64, bytes: usize) -> String {
    let hash = format!("{height:064x}");
    let filling = "0123456789abcdef".repeat(bytes / 16);
    format!(
        r#"{{"BlockAdded":{{"block_hash":"{hash}","block":{{"Version2":{{"hash":"{hash}","header":{{"height":{height}}},"body":"{filling}"}}}}}}}}"#
    )
}

/// What a node sends: something of everything, and much of some things.
pub(crate) fn payloads() -> Vec<String> {
    let story = Story::new(21, &StoryOptions::small(40));
    let mut payloads: Vec<String> = story.events().iter().map(|event| event.payload.clone()).collect();
    // The story has a step of that era, and the others are not events with a table.
    let left_out = ["Step.node_a", "ApiVersion.plain", "SidecarVersion.plain", "Shutdown.plain"];
    let samples = recordings::samples().into_iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
    payloads.extend(samples.map(|(_, payload)| payload));
    let key = |digit: &str| format!("01{}", digit.repeat(64));
    let fault =
        |era: u64, key: String| format!(r#"{{"Fault":{{"era_id":{era},"public_key":"{key}","timestamp":"t"}}}}"#);
    payloads.extend([fault(7, key("b")), fault(7, key("a")), fault(9, key("b")), fault(u64::MAX, key("b"))]);
    payloads.push(
        "{\"Fault\":\n{\"era_id\": 10,\n\"public_key\": \"01ab\", \"timestamp\": \"later \\u0000 ż\"}}".to_owned(),
    );
    payloads.push(story::unknown_kind(1).payload);
    // Some nodes send checksummed digits.
    payloads.extend([
        fault(11, key("aB")[..66].to_owned()),
        block(3_000_000, 100).replace(&format!("{:064x}", 3_000_000), &"eF".repeat(32)),
    ]);
    // A list of more than a mebibyte.
    let long = fault(5000, key("0")).replace("\"t\"", &format!("\"{}\"", "t".repeat(300_000)));
    payloads.extend((0..9).map(|digit| long.replace(&key("0"), &key(&digit.to_string()))));
    // Pages end before they are longer than a mebibyte, unless their only block is.
    payloads.extend((0..8).map(|number| block(1_000_000 + number, 300_000)));
    payloads.push(block(2_000_000, 3_000_000));
    payloads.push(block(2_000_001, 100));
    payloads
}

/// Every question that these payloads answer, and some that they do not.
fn targets(payloads: &[String]) -> BTreeSet<String> {
    let (mut targets, mut heights) = (BTreeSet::new(), HashSet::new());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    for payload in payloads {
        let Ok(Value::Object(event)) = serde_json::from_str(payload) else { continue };
        let (kind, content) = event.into_iter().next().unwrap();
        match kind.as_str() {
            "BlockAdded" => {
                let hash = text(&content["block_hash"]).unwrap();
                let versions = content["block"].as_object().unwrap();
                let height = &versions.values().next().unwrap()["header"]["height"];
                targets.insert(format!("/block/{height}"));
                targets.insert(format!("/signatures/{hash}"));
                // The log has a second block of one height, too; the tables have no place for it.
                if heights.insert(height.clone()) {
                    targets.insert(format!("/block/{}", hash.to_uppercase()));
                    targets.insert(format!("/block/{}", hash.to_lowercase()));
                    targets.insert(format!("/block/{hash}/?any=query"));
                }
            }
            "TransactionAccepted" | "TransactionProcessed" | "TransactionExpired" => {
                let named = if kind == "TransactionAccepted" { &content } else { &content["transaction_hash"] };
                let (form, hash) = named.as_object().unwrap().iter().next().unwrap();
                let hash = text(hash).or_else(|| text(&hash["hash"])).unwrap();
                targets.insert(format!("/transaction/{form}/{hash}"));
                for stage in ["accepted", "processed", "expired"] {
                    for form in ["deploy", "Version1"] {
                        targets.insert(format!("/transaction/{stage}/{form}/{hash}"));
                    }
                }
            }
            "Fault" => {
                targets.insert(format!("/faults/{}", content["era_id"]));
                targets.insert(format!("/faults/{}", text(&content["public_key"]).unwrap()));
            }
            "Step" => {
                targets.insert(format!("/step/{}", content["era_id"]));
            }
            _ => {}
        }
    }
    let nothing = "0".repeat(64);
    targets.extend(
        ["/block", "/block/99999999", "/block/18446744073709551615", "/block/-1", "/block/x", "/", "//block", "/other"]
            .map(str::to_owned),
    );
    targets.extend(
        ["/faults/99", "/faults/x", "/step/18446744073709551615", "/step/x", "/signatures/1"].map(str::to_owned),
    );
    targets.extend([format!("/block/{nothing}"), format!("/signatures/{nothing}"), format!("/faults/01{nothing}")]);
    targets.extend([format!("/transaction/deploy/{nothing}"), format!("/transaction/other/{nothing}")]);
    targets.extend(["/api-doc.json", "/swagger-ui", "/swagger-ui/", "/swagger-ui/none"].map(str::to_owned));
    for query in [
        "",
        "?limit=3",
        "?from_height=7&limit=1000",
        "?from_height=1000000",
        "?from_height=1000006&limit=2",
        "?from_height=2000000",
        "?from_height=2000001",
        "?from_height=3000000",
        "?from_height=18446744073709551615",
        "?newest=3",
        "?newest=1000",
        "?newest=2&before_height=1000007",
        "?newest=1&before_height=7&from_height=6",
        "?newest=5&before_height=0",
        "?newest=5&before_height=18446744073709551615",
        "?newest=5&from_height=18446744073709551615",
        "?before_height=1000003&from_height=1000001",
        "?newest=3&limit=3",
        "?limit=0",
        "?from_height=x",
        "?other=1",
    ] {
        targets.insert(format!("/blocks{query}"));
    }
    targets
        .extend(["/events?limit=0", "/events?start_from=1", "/events/x", "/account/x/transactions"].map(str::to_owned));
    targets
}

/// Every answer of one is that of the other, byte for byte.
pub(crate) async fn assert_same_answers(from_log: &Sidecar, from_database: &Sidecar, payloads: &[String]) {
    let targets = targets(payloads);
    assert!(targets.len() > 300, "{}", targets.len());
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for target in &targets {
        let expected = get(from_log.rest_address(), target).await;
        let answer = get(from_database.rest_address(), target).await;
        assert!(answer.body == expected.body, "{target}: {:.300} is not {:.300}", answer.body, expected.body);
        assert_eq!(answer.status, expected.status, "{target}");
        for header in
            ["content-type", "content-length", "cache-control", "etag", "location", "access-control-allow-origin"]
        {
            assert_eq!(answer.header(header), expected.header(header), "{header} of {target}");
        }
        *statuses.entry(answer.status).or_default() += 1;
        if let Some(tag) = answer.header("etag") {
            let again = Request::get(from_database.rest_address(), target).header("if-none-match", tag);
            let again = again.answer().await;
            assert_eq!((again.status, again.body.as_str()), (304, ""), "{target}");
        }
    }
    assert!(statuses[&200] > 150 && statuses[&400] > 10 && statuses[&404] > 100, "{statuses:?}");

    for method in ["HEAD", "POST", "DELETE", "OPTIONS"] {
        let both = [from_log, from_database].map(|sidecar| Request::new(method, sidecar.rest_address(), "/block"));
        let [expected, answer] = both.map(|request| request.header("origin", "http://example.org"));
        let (expected, answer) = (expected.answer().await, answer.answer().await);
        assert_eq!((answer.status, answer.body), (expected.status, expected.body), "{method}");
    }
}

/// What only the log has is refused with what to ask instead. The sidecar has a server for metrics.
pub(crate) async fn assert_only_in_log(sidecar: &Sidecar, database: &str) {
    let account = format!("/account/01{}/transactions", "a".repeat(64));
    for target in ["/events", "/events?from=3", "/events/3", &account] {
        let answer = get(sidecar.rest_address(), target).await;
        assert_eq!((answer.status, answer.header("content-type")), (501, Some("application/json")), "{target}");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let message = body["message"].as_str().unwrap();
        assert!(
            body["code"] == 501 && message.starts_with(&format!("This server answers from {database}, which")),
            "{message}"
        );
        assert!(message.contains("ask a Sidecar that answers from its log, or for /blocks"), "{message}");
    }
    let status = get(sidecar.rest_address(), "/status").await;
    let expected = format!(
        r#"{{"version":"{}","{}":{{"status":"connected"}}}}"#,
        env!("CARGO_PKG_VERSION"),
        database.to_lowercase()
    );
    assert_eq!((status.status, status.body), (200, expected));
    let metrics = get(sidecar.admin_address(), "/metrics").await;
    assert!(metrics.body.contains("\nsidecar_rest_database_connected 1\n"));
    assert!(metrics.body.contains(r#"rest_api_response_times_count{label="/events/(...)",status="501"} 3"#));
    let of_a_log = metrics.body.replace("sidecar_log_lines_", "");
    assert!(!of_a_log.contains("sidecar_log_"), "there is no log");
}

/// The database that the reference filled gives the answers that were recorded of the reference.
pub(crate) async fn assert_recorded_answers(sidecar: &Sidecar) {
    let recorded: BTreeMap<String, Value> = serde_json::from_slice(&recordings::transcript("rest.json")).unwrap();
    assert!(recorded.len() > 10);
    for (path, expected) in recorded.iter().filter(|(path, _)| *path != "/status") {
        let answer = get(sidecar.rest_address(), path).await;
        assert_eq!(answer.body, expected["body"].as_str().unwrap(), "{path}");
        assert_eq!(u64::from(answer.status), expected["status"].as_u64().unwrap(), "{path}");
    }
}
