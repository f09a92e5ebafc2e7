//! A log knows what it lost: start-up lines, `/status`, `/ready`, `/metrics`, the answers of REST and SSE, and verify name
//! the same events, whatever happened to the files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sidecar_log_format::storage::{Directory, Storage};
use sidecar_log_format::verify::verify;
use sidecar_log_format::{ApiVersion, Event, Kind, LossKind, Opened, WriteOptions, Writer};
use sidecar_test_support::client::{Answer, SseClient, get};
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::SidecarBuilder;
use sidecar_test_support::wait::find;

/// How long the views may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events 0 to 9, 10 to 19 and 20 to 29 are in sealed segments, 30 to 34 in the newest; two are in a block.
const EVENTS: u64 = 35;

fn log_of(storage: &Path) -> PathBuf {
    storage.join("logs/casper")
}

fn segment(storage: &Path, first: u64) -> PathBuf {
    log_of(storage).join(format!("{first:020}.segment"))
}

fn write(storage: &Path, events: std::ops::Range<u64>) {
    let directory = Directory::create(log_of(storage)).unwrap();
    let Opened { mut writer, .. } = Writer::open(Arc::new(directory), WriteOptions::new("casper", [7; 16], 5)).unwrap();
    for number in events {
        let payload = format!("{{\"Numbered\":{number}}}");
        let event = Event {
            kind: Kind(63),
            name: "",
            source: "node:9999",
            network: "casper-test",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            upstream_id: Some(number),
            received: 5,
            payload: &payload,
        };
        writer.append(&event).unwrap();
        if number % 2 == 1 {
            writer.commit().unwrap();
        }
        if number % 10 == 9 {
            writer.seal_now(5).unwrap();
        }
    }
    writer.close().unwrap();
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Where the block of a segment begins that has `before` blocks before it.
fn block(bytes: &[u8], before: usize) -> usize {
    let is_block = |at: &usize| bytes[*at..].starts_with(b"SBLK");
    (0..bytes.len()).filter(is_block).nth(before).unwrap()
}

/// The same files, but others: what a back-up is.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(log_of(to)).unwrap();
    for file in fs::read_dir(log_of(from)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), log_of(to).join(file.file_name())).unwrap();
    }
}

/// What happens to the files, and what is lost by it: first, last and why.
struct Case {
    name: &'static str,
    happens: fn(&Path),
    lost: &'static [(u64, u64, LossKind)],
}

const CASES: [Case; 9] = [
    Case { name: "nothing", happens: |_| (), lost: &[] },
    Case {
        name: "the middle segment is deleted",
        happens: |storage| fs::remove_file(segment(storage, 10)).unwrap(),
        lost: &[(10, 19, LossKind::Missing)],
    },
    Case {
        name: "the oldest segment is deleted",
        happens: |storage| fs::remove_file(segment(storage, 0)).unwrap(),
        lost: &[(0, 9, LossKind::Missing)],
    },
    Case {
        name: "the newest segment is deleted",
        happens: |storage| fs::remove_file(segment(storage, 30)).unwrap(),
        lost: &[(30, 34, LossKind::Marked)],
    },
    Case {
        name: "a segment is cut short",
        happens: |storage| change(&segment(storage, 10), |bytes| bytes.truncate(block(bytes, 2) + 150)),
        lost: &[(14, 19, LossKind::Damaged)],
    },
    Case {
        name: "a block is damaged",
        happens: |storage| {
            change(&segment(storage, 10), |bytes| {
                let at = block(bytes, 2) + 150;
                bytes[at] ^= 0xFF;
            });
        },
        lost: &[(14, 15, LossKind::Damaged)],
    },
    Case {
        name: "a header and the footer with its copy are damaged",
        happens: |storage| {
            change(&segment(storage, 10), |bytes| {
                bytes[30..40].fill(0xAA);
                let end = bytes.len();
                bytes[end - 10..].fill(0xAA);
            });
        },
        lost: &[(10, 19, LossKind::Damaged)],
    },
    Case {
        name: "the head is lost",
        happens: |storage| fs::remove_file(log_of(storage).join("head")).unwrap(),
        lost: &[],
    },
    Case {
        name: "an older copy is put back",
        happens: |storage| {
            let older = tempfile::tempdir().unwrap();
            write(older.path(), 0..20);
            fs::remove_dir_all(log_of(storage)).unwrap();
            copy(older.path(), storage);
        },
        lost: &[],
    },
];

#[tokio::test]
async fn every_report_names_the_same_lost_events() {
    for case in &CASES {
        check(case).await;
    }
}

async fn check(case: &Case) {
    let name = case.name;
    let node = SimulatedNode::start();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0..EVENTS);
    (case.happens)(folder.path());
    let mut sidecar = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar"))
        .node(node.address())
        .storage_folder(folder.path())
        .rest_api()
        .admin_api()
        .start()
        .await;
    let (rest, admin) = (sidecar.rest_address(), sidecar.admin_address());
    let unmarked: Vec<_> = case.lost.iter().filter(|(.., kind)| *kind != LossKind::Marked).collect();
    if unmarked.is_empty() {
        sidecar.wait_for_output("all segments of the log are there").await;
    }
    for (first, last, kind) in &unmarked {
        sidecar.wait_for_output("stored events are lost").await;
        let output = sidecar.output();
        let line = output.lines().find(|line| line.contains("stored events are lost")).unwrap();
        for fact in [first.to_string(), last.to_string(), (last - first + 1).to_string(), kind.name().to_owned()] {
            assert!(line.contains(&fact), "{name}: {fact} in {line}");
        }
    }

    let lost = get(rest, "/status").await.json()["log"]["lost"].clone();
    let ranges: Vec<_> = lost["ranges"].as_array().unwrap().iter().map(range_in_json).collect();
    let expected: Vec<_> =
        case.lost.iter().map(|(first, last, kind)| (*first, *last, kind.name().to_owned())).collect();
    assert_eq!(ranges, expected, "{name}: /status");
    let reasons = |lost: &serde_json::Value| -> Vec<String> {
        lost["ranges"].as_array().unwrap().iter().map(|range| range["reason"].as_str().unwrap().to_owned()).collect()
    };
    let public: Vec<_> = case.lost.iter().map(|(.., kind)| kind.for_clients()).collect();
    assert_eq!(reasons(&lost), public, "{name}: clients do not read which file it is");
    let status = get(admin, "/status").await.json();
    let of_admin = &status["logs"][0]["lost"];
    assert_eq!(of_admin["ranges"].as_array().unwrap().iter().map(range_in_json).collect::<Vec<_>>(), expected);
    for (reason, (.., kind)) in reasons(of_admin).iter().zip(case.lost) {
        assert!(*kind != LossKind::Damaged || reason.contains(".segment"), "{name}: operators do: {reason}");
    }
    assert!(status["logs"][0]["stopped"].is_null(), "{status}");

    let metrics = get(admin, "/metrics").await.body;
    for kind in LossKind::ALL {
        let of_kind = case.lost.iter().filter(|(.., lost)| *lost == kind);
        let events: u64 = of_kind.map(|(first, last, _)| last - first + 1).sum();
        assert_eq!(lost[kind.name()], events, "{name}: {}", kind.name());
        let line = format!("sidecar_log_lost_events{{log=\"casper\",kind=\"{}\"}} {events}\n", kind.name());
        assert!(metrics.contains(&line), "{name}: {line}");
    }

    let ready = once_views_are_open(admin).await;
    let expected = unmarked.first().map_or_else(
        || "ready".to_owned(),
        |(first, last, _)| {
            format!(
                "ready; log casper: {} events are lost: {first} to {last}; see `sidecar-log verify`",
                last - first + 1
            )
        },
    );
    assert_eq!((ready.status, ready.body), (200, expected), "{name}: /ready");

    let mut client = SseClient::connect(sidecar.sse_address(), "/events?start_from=0&until=19").await;
    client.read_to_end().await;
    for (first, last, kind) in case.lost {
        if *last < 20 {
            let named = format!("events {first} to {last} are missing: {}", kind.for_clients());
            let comments = client.comments();
            assert!(comments.contains(&named), "{name}: {comments:?}");
        }
        let answer = get(rest, &format!("/events/{last}")).await;
        assert_eq!(answer.status, 410, "{name}: {}", answer.body);
        assert!(answer.body.contains("lost") || answer.body.contains("damaged"), "{name}: {}", answer.body);
    }

    let storage: Arc<dyn Storage> = Arc::new(Directory::at(log_of(folder.path())));
    let verification = verify(&storage, &mut |_| {}).unwrap();
    let ranges = verification.losses.ranges().iter();
    let found: Vec<_> = ranges.map(|lost| (lost.first_sequence, lost.last_sequence, lost.kind)).collect();
    assert_eq!(found, case.lost, "{name}: verify: {:?}", verification.problems);
    assert_eq!(verification.is_sound, unmarked.is_empty(), "{name}: verify: {:?}", verification.problems);
    assert!(sidecar.terminate().success(), "{name}");
}

/// What `/ready` answers then.
async fn once_views_are_open(admin: SocketAddr) -> Answer {
    find(PATIENCE, "views that are open", async || {
        let answer = get(admin, "/ready").await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

fn range_in_json(range: &serde_json::Value) -> (u64, u64, String) {
    let number = |field: &str| range[field].as_u64().unwrap();
    (number("first_sequence"), number("last_sequence"), range["kind"].as_str().unwrap().to_owned())
}
