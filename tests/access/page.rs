//! The admin server's page in a real browser: what it shows, its events, with a token and below a proxy's prefix.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::Request as ProxyRequest;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use sidecar_test_support::chromium::Chromium;
use sidecar_test_support::client::{Request, SseClient};
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::recordings;
use tokio::net::TcpListener;

use super::TOKENS;

/// An event of an unknown kind, with markup in it.
const MARKUP: &str =
    r#"{"<img src=x onerror=document.title='bad'>":{"large":18446744073709551615,"html":"<b>bold</b>"}}"#;
/// A function from a figure's name to its text.
const TILE: &str = "(name) => [...document.querySelectorAll('.tiles dt')].find((dt) => dt.textContent === name)?.nextElementSibling.textContent";
/// The sequences of the events that are shown.
const SEQUENCES: &str = "[...document.querySelectorAll('#events .sequence')].map((span) => Number(span.textContent))";

/// A sidecar that has stored the first 500 events of the recorded network.
async fn with_events(keys: &str) -> (SimulatedNode, Sidecar) {
    let node = SimulatedNode::start();
    node.push_all(recordings::recorded_network().iter().map(|(_, payload)| payload).take(500));
    let builder =
        SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address()).rest_api().admin_api_with(keys);
    let sidecar = builder.environment("TOKENS_OF_TEST", TOKENS[0]).start().await;
    SseClient::connect(sidecar.sse_address(), "/events?start_from=0").await.read_until_id(499).await;
    (node, sidecar)
}

/// Fills in the form and waits for what it finds.
fn search(browser: &mut Chromium, start: &str, at: &str) {
    browser.evaluate(&format!(
        "document.getElementById('start').value = '{start}'; \
         document.getElementById('start').dispatchEvent(new Event('change')); \
         if ('{start}' !== 'newest') document.getElementById('{start}').value = '{at}'; \
         document.getElementById('events').replaceChildren(); document.getElementById('found').textContent = ''; \
         document.querySelector('#search button').click()"
    ));
    browser.wait_until("document.getElementById('found').textContent !== ''");
}

fn sequences(browser: &mut Chromium) -> Vec<u64> {
    serde_json::from_value(browser.evaluate(SEQUENCES)).unwrap()
}

/// Opens an event's row, and gives what it shows of it.
fn whole(browser: &mut Chromium, sequence: u64) -> String {
    browser.evaluate(&format!("document.querySelector('#events li[data-sequence=\"{sequence}\"] button').click()"));
    let text = browser
        .evaluate(&format!("document.querySelector('#events li[data-sequence=\"{sequence}\"] pre').textContent"));
    text.as_str().unwrap().to_owned()
}

fn is_live(browser: &mut Chromium) {
    browser.wait_until("document.getElementById('connection').textContent === 'live'");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_the_status_and_finds_events_and_queries_no_other_server() {
    let (node, sidecar) = with_events("").await;
    let mut browser = Chromium::start();
    let address = format!("http://{}/", sidecar.admin_address());
    browser.open(&address);
    is_live(&mut browser);

    let status = Request::get(sidecar.admin_address(), "/status").answer().await.json();
    let log = &status["logs"][0];
    assert_eq!(browser.evaluate("document.getElementById('version').textContent.split(' ')[0]"), status["version"]);
    for (name, value) in [("Newest event", "499"), ("Events kept", "500"), ("Subscribers", "0")] {
        browser.wait_until(&format!("({TILE})('{name}') === '{value}'"));
    }
    browser.wait_until(
        "[...document.querySelectorAll('#logs tbody tr')].some(({ cells }) => cells[0].textContent === 'view casper' && cells[2].textContent === '0')",
    );
    let rows = browser.evaluate(
        "[...document.querySelectorAll('#logs tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))",
    );
    let row = |first: &str| {
        rows.as_array().unwrap().iter().find(|row| row[0] == first).unwrap_or_else(|| panic!("{first}: {rows}"))
    };
    let source = row(log["nodes"][0]["name"].as_str().unwrap());
    assert_eq!((&source[1], &source[3], &source[4]), (&"connected".into(), &"500".into(), &"0".into()));
    let last_event = source[2].as_str().unwrap();
    assert!(last_event == "just now" || last_event.ends_with(" ago"), "{source}");
    for (kind, stored) in log["stored_by_kind"].as_object().unwrap() {
        assert_eq!(row(kind)[2], stored.to_string(), "{kind}");
    }

    // By sequence, by height and by time.
    browser.wait_until("document.querySelectorAll('#events li').length === 50");
    assert_eq!(sequences(&mut browser), (450..500).collect::<Vec<_>>(), "the newest at first");
    search(&mut browser, "sequence", "100");
    assert_eq!(sequences(&mut browser), (100..150).collect::<Vec<_>>());
    browser.evaluate("document.getElementById('earlier').click()");
    browser.wait_until(&format!("{SEQUENCES}[0] === 50"));
    browser.evaluate("document.getElementById('later').click()");
    browser.wait_until(&format!("{SEQUENCES}.at(-1) === 199"));
    assert_eq!(sequences(&mut browser), (50..200).collect::<Vec<_>>(), "each once");
    search(&mut browser, "height", "3");
    let first = sequences(&mut browser)[0];
    let shown: Value = serde_json::from_str(&whole(&mut browser, first)).unwrap();
    assert_eq!(shown["BlockAdded"]["block"]["Version2"]["header"]["height"], 3);
    assert_eq!(shown, serde_json::from_str::<Value>(&recordings::recorded_network()[first as usize].1).unwrap());
    search(&mut browser, "time", "2020-01-01T00:00:00");
    assert_eq!(sequences(&mut browser)[0], 0);
    search(&mut browser, "time", "2100-01-01T00:00:00");
    assert_eq!(browser.evaluate("document.getElementById('found').textContent"), "No events here.");

    // Some kinds, and then live.
    browser.evaluate("document.querySelector('#kinds [value=BlockAdded]').click()");
    search(&mut browser, "newest", "");
    let kinds = "[...new Set([...document.querySelectorAll('#events .kind')].map((span) => span.textContent))].join()";
    assert_eq!(browser.evaluate(kinds), "BlockAdded");
    browser.evaluate("document.querySelector('#kinds [value=BlockAdded]').click()");
    search(&mut browser, "newest", "");
    browser.evaluate("document.getElementById('follow').click()");
    node.push(MARKUP);
    browser.wait_until(&format!("{SEQUENCES}.at(-1) === 500"));
    browser.wait_until(&format!("({TILE})('Newest event') === '500'"));
    let text = whole(&mut browser, 500);
    assert!(
        text.contains("<img src=x onerror=document.title='bad'>") && text.contains("18446744073709551615"),
        "{text}"
    );
    assert_eq!(browser.evaluate("document.querySelectorAll('#events img, #events b').length"), 0);
    assert_eq!(browser.evaluate("document.title"), "Sidecar");

    // What cannot be answered leaves nothing that looks like an answer.
    search(&mut browser, "newest", "");
    browser.evaluate("document.getElementById('start').value = 'sequence'; document.getElementById('sequence').value = '99999999999999999999'; document.querySelector('#search button').click()");
    browser.wait_until("document.getElementById('explorer-problem').textContent.includes('99999999999999999999')");
    let left = "[document.getElementById('found').textContent, document.querySelectorAll('#events li').length, document.getElementById('earlier').hidden, document.getElementById('later').hidden]";
    assert_eq!(browser.evaluate(left), json!(["", 0, true, true]));

    // A source that is gone is named at the top, until it is back.
    let problems = "document.getElementById('problems').innerText";
    assert_eq!(browser.evaluate("document.getElementById('problems').hidden"), true);
    let port = node.address().port();
    drop(node);
    let states = "(reconnecting|connections exhausted)";
    browser.wait_until(&format!("/Log casper: the source .*:{port} is {states}\\./.test({problems})"));
    assert_eq!(browser.evaluate("document.title"), "1 problem – Sidecar");

    // Figures of a server that is gone are marked as old. The page reconnects by itself.
    let mut sidecar = sidecar;
    sidecar.kill9();
    browser.wait_until("document.getElementById('connection').textContent !== 'live'");
    browser.wait_until("!document.getElementById('stale').hidden");
    assert_eq!(browser.evaluate("document.getElementById('readiness').textContent"), "unknown");
    assert_eq!(browser.evaluate("document.title"), "No answer – Sidecar");
    sidecar.restart().await;
    is_live(&mut browser);
    browser.wait_until("document.getElementById('stale').hidden");
    browser.problems.retain(|problem| !problem.contains("400 (Bad Request)"));
    expect_quiet(browser, &address, "net::ERR_");
}

/// The page had only problems that name `expected`, and requested nothing from other servers.
fn expect_quiet(mut browser: Chromium, address: &str, expected: &str) {
    browser.problems.retain(|problem| !problem.contains(expected));
    assert_eq!(browser.problems, Vec::<String>::new());
    // The browser's own icon in a field for a time is an address with its data.
    let elsewhere =
        |asked: &&String| !asked.starts_with(address) && *asked != "about:blank" && !asked.starts_with("data:");
    assert_eq!(browser.requested.iter().find(elsewhere), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_works_with_a_token_and_below_a_prefix() {
    let (_node, sidecar) = with_events("bearer_tokens = { variable = 'TOKENS_OF_TEST' }").await;
    for path in ["/status", "/logs", "/metrics"] {
        assert_eq!(Request::get(sidecar.admin_address(), path).answer().await.status, 401, "{path}");
    }
    let address = format!("http://{}/some/prefix/", proxy(sidecar.admin_address()).await);
    let mut browser = Chromium::start();
    browser.open(&address);
    browser.wait_until("!document.getElementById('token-form').hidden && document.activeElement.id === 'token'");
    // Nothing is known yet, so nothing is said of events and warnings.
    let unknown = "['warned', 'explorer', 'problems'].every((id) => document.getElementById(id).hidden)";
    assert_eq!(browser.evaluate(unknown), true);
    let give = |token: &str| {
        format!(
            "document.getElementById('token').value = '{token}'; document.querySelector('#token-form button').click()"
        )
    };
    browser.evaluate(&give("not-one-of-them-at-all"));
    browser.wait_until("document.getElementById('token-problem').textContent.includes('does not know this token')");
    browser.evaluate(&give(TOKENS[0]));
    is_live(&mut browser);
    assert_eq!(browser.evaluate("document.getElementById('token-form').hidden"), true);
    browser.wait_until("document.querySelectorAll('#events li').length === 50");
    search(&mut browser, "sequence", "7");
    assert_eq!(sequences(&mut browser)[0], 7);
    // It lasts, in this tab, and what was searched for is part of the address.
    browser.call("Page.reload", json!({}));
    browser.wait_until(&format!("document.querySelectorAll('#events li').length === 50 && {SEQUENCES}[0] === 7"));
    let shown = browser.evaluate("location.href + document.documentElement.outerHTML");
    assert!(!shown.as_str().unwrap().contains(TOKENS[0]));
    // The browser reports each refusal itself.
    expect_quiet(browser, &address, "401");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_fits_a_phone_and_is_used_by_keyboard_in_the_dark() {
    let (node, sidecar) = with_events("").await;
    node.push(MARKUP);
    SseClient::connect(sidecar.sse_address(), "/events?start_from=500").await.read_until_id(500).await;
    let mut browser = Chromium::start();
    let phone = json!({ "width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true });
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    browser.open(&format!("http://{}/", sidecar.admin_address()));
    is_live(&mut browser);
    browser.wait_until("document.querySelectorAll('#events li').length === 50");
    let brightness =
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0)";
    let light = browser.evaluate(brightness).as_f64().unwrap();
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.call("Emulation.setEmulatedMedia", dark);
    assert!(light > 600.0 && browser.evaluate(brightness).as_f64().unwrap() < 200.0);

    // Every control is reached, in the order of the page.
    let controls = "[...document.querySelectorAll('a, button, input, select, summary')].filter((node) => node.checkVisibility() && !node.disabled && !node.closest('#events'))";
    let count = browser.evaluate(&format!("{controls}.length")).as_u64().unwrap();
    assert!(count > 15, "{count}");
    browser.evaluate("window.reached = new Set(); document.addEventListener('focusin', ({ target }) => window.reached.add(target)); document.activeElement.blur()");
    for _ in 0..count + 60 {
        browser.press("Tab", 9);
    }
    let missed = browser
        .evaluate(&format!("{controls}.filter((node) => !window.reached.has(node)).map((node) => node.outerHTML)"));
    assert_eq!(missed, json!([]));
    browser.evaluate("document.querySelector('#events [tabindex=\"0\"]').focus()");
    browser.press("ArrowDown", 40);
    browser.press("Enter", 13);
    browser.wait_until("document.querySelector('#events li:nth-child(2) pre') !== null");
    whole(&mut browser, 500);
    let widths = browser.evaluate("[document.documentElement.scrollWidth, window.innerWidth]");
    assert_eq!(widths, json!([360, 360]));
    assert_eq!(browser.problems, Vec::<String>::new());
}

/// A proxy that passes on what is below `/some/prefix`, without that; returns its address.
async fn proxy(server: SocketAddr) -> SocketAddr {
    let client = sidecar::sse_client::stream::http_client(std::time::Duration::from_secs(5)).unwrap();
    let pass_on = move |request: ProxyRequest| {
        let client = client.clone();
        async move {
            let target =
                request.uri().path_and_query().unwrap().as_str().strip_prefix("/some/prefix").map(str::to_owned);
            let Some(target) = target else { return not_found() };
            let mut headers = request.headers().clone();
            headers.remove("host");
            let answer = client.get(format!("http://{server}{target}")).headers(headers).send().await.unwrap();
            let mut response = Response::new(Body::empty());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            *response.body_mut() = Body::from_stream(answer.bytes_stream());
            response
        }
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(pass_on)).await });
    address
}

fn not_found() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
