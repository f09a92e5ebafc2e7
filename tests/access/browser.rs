//! A web page in a real browser, from another origin than the streams: over TLS, with a token, cut and resumed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::Value;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story::{Story, StoryOptions};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::tunnel::Identity;
use super::{TOKENS, toml};

/// How long any one report of the page may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// The browser's names, and the Debian package that brings the first.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
const PACKAGE: &str = BROWSERS[0];

/// Reports what `EventSource` and `fetch` get, in the order in which they get it.
const PAGE: &str = r#"<!doctype html>
<iframe src="@OTHER@/other"></iframe>
<script>
let reported = Promise.resolve();
const report = (what) => reported = reported.then(() => fetch("/report", { method: "POST", body: JSON.stringify(what) }));
const isEvent = (data) => !data.startsWith('{"ApiVersion"');

const source = new EventSource("@OPEN@/events?start_from=0");
source.onmessage = ({ data, lastEventId }) => { if (isEvent(data)) report({ client: "EventSource", id: lastEventId, data }); };

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
async function follow(lastId) {
  const headers = { "Accept": "text/event-stream", "Authorization": "Bearer @TOKEN@", "Cache-Control": "no-cache" };
  if (lastId) headers["Last-Event-ID"] = lastId;
  const response = await fetch("@GUARDED@/events" + (lastId ? "" : "?start_from=0"), { headers });
  const header = (name) => response.headers.get(name);
  report({ client: "head", status: response.status, log: header("sidecar-log"), range: header("sidecar-retained-range") });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "", read; !(read = await reader.read().catch(() => ({ done: true }))).done;) {
    const messages = (text + read.value).split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const lines = message.split("\n");
      const field = (name) => lines.find((line) => line.startsWith(name + ":"))?.slice(name.length + 1);
      if (!field("id") || !isEvent(field("data"))) continue;
      lastId = field("id");
      report({ client: "fetch", id: lastId, data: field("data") });
    }
  }
  return lastId;
}
(async () => {
  const refused = await fetch("@GUARDED@/events");
  report({ client: "without a token", status: refused.status });
  for (let lastId = null; ; await pause(200)) lastId = await follow(lastId).catch(() => lastId);
})();
</script>"#;

/// Of an origin that is not listed.
const OTHER_PAGE: &str = r#"<!doctype html>
<script>
const report = (what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });
fetch("@GUARDED@/events", { headers: { "Authorization": "Bearer @TOKEN@" } })
  .then(({ status }) => report({ client: "other origin", status }), (error) => report({ client: "other origin", error: error.name }));
</script>"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_reads_and_resumes_streams_over_tls_and_with_a_token() {
    let program = installed().unwrap_or_else(|| {
        panic!("this test needs a browser; install the package that has one: apt-get install {PACKAGE}");
    });
    let story = Story::new(7, &StoryOptions::small(12));
    let (before, after) = story.events().split_at(story.events().len() / 2);
    let node = SimulatedNode::start();
    node.push_all(before);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let page = listener.local_addr().unwrap();
    let identity = Identity::new();
    let mut open = start(&node, &identity, "").await;
    let token = format!("bearer_tokens = {{ variable = 'TOKENS_OF_TEST' }}\ncors_origin = ['http://{page}']");
    let mut guarded = start(&node, &identity, &token).await;
    let mut reports = serve(listener, open.sse_address(), guarded.sse_address());
    let _browser = Browser::open(&program, &format!("http://{page}/"));

    let mut seen = Seen::default();
    seen.wait_for(&mut reports, before.len()).await;
    for sidecar in [&mut open, &mut guarded] {
        sidecar.kill9();
    }
    node.push_all(after);
    for sidecar in [&mut open, &mut guarded] {
        sidecar.restart().await;
    }
    seen.wait_for(&mut reports, story.events().len()).await;

    let told: Vec<(u64, String)> = (0..).zip(story.events().iter().map(|event| event.payload.clone())).collect();
    for client in ["EventSource", "fetch"] {
        assert!(seen.events[client] == told, "{client}: {:?}", seen.events[client].iter().map(|event| event.0));
    }
    assert_eq!(seen.without_token, Some(401.into()));
    assert_eq!(seen.other_origin, Some("TypeError".into()));
    assert!(seen.heads.len() >= 2, "{:?}", seen.heads);
    for head in &seen.heads {
        assert!(head["status"] == 200 && head["log"].is_string() && head["range"].is_string(), "{head}");
    }
}

async fn start(node: &SimulatedNode, identity: &Identity, keys: &str) -> Sidecar {
    let (certificates, key) = (toml(&identity.certificates()), toml(&identity.key()));
    let tls = format!("tls = {{ certificate_file = {certificates}, key_file = {key} }}");
    let builder = SidecarBuilder::new(env!("CARGO_BIN_EXE_sidecar")).node(node.address());
    builder.event_stream_server(&format!("{tls}\n{keys}")).environment("TOKENS_OF_TEST", TOKENS[0]).start().await
}

/// Serves the pages; what they report comes out.
fn serve(listener: TcpListener, open: SocketAddr, guarded: SocketAddr) -> mpsc::UnboundedReceiver<Value> {
    let texts = [
        ("@OPEN@", format!("https://{open}")),
        ("@GUARDED@", format!("https://{guarded}")),
        ("@OTHER@", format!("http://localhost:{}", listener.local_addr().unwrap().port())),
        ("@TOKEN@", TOKENS[0].to_owned()),
    ];
    let filled = |page: &str| Html(texts.iter().fold(page.to_owned(), |page, (mark, text)| page.replace(mark, text)));
    let (page, other_page) = (filled(PAGE), filled(OTHER_PAGE));
    let (reported, reports) = mpsc::unbounded_channel();
    let report = move |body: String| async move {
        let _ = reported.send(serde_json::from_str(&body).unwrap());
    };
    let router = Router::new()
        .route("/", get(|| async { page }))
        .route("/other", get(|| async { other_page }))
        .route("/report", post(report));
    tokio::spawn(async move { axum::serve(listener, router).await });
    reports
}

/// What the pages have reported.
#[derive(Default)]
struct Seen {
    /// Of each client.
    events: BTreeMap<String, Vec<(u64, String)>>,
    heads: Vec<Value>,
    without_token: Option<Value>,
    other_origin: Option<Value>,
}

impl Seen {
    /// Waits until both clients have had so many events, and everything else is there.
    async fn wait_for(&mut self, reports: &mut mpsc::UnboundedReceiver<Value>, count: usize) {
        let has_all = |seen: &Seen| {
            let has = |client: &str| seen.events.get(client).is_some_and(|events| events.len() >= count);
            has("EventSource") && has("fetch") && seen.without_token.is_some() && seen.other_origin.is_some()
        };
        while !has_all(self) {
            let report = tokio::time::timeout(PATIENCE, reports.recv()).await;
            let counts = self.events.iter().map(|(client, events)| (client, events.len()));
            let report = report.unwrap_or_else(|_| panic!("nothing more after {:?}", counts.collect::<Vec<_>>()));
            self.note(report.unwrap());
        }
    }

    fn note(&mut self, report: Value) {
        match report["client"].as_str().unwrap() {
            "head" => self.heads.push(report),
            "without a token" => self.without_token = Some(report["status"].clone()),
            "other origin" => self.other_origin = Some(report["error"].clone()),
            client => {
                let id = report["id"].as_str().unwrap().parse().unwrap();
                let event = (id, report["data"].as_str().unwrap().to_owned());
                self.events.entry(client.to_owned()).or_default().push(event);
            }
        }
    }
}

/// A running browser without a window, and its profile.
struct Browser {
    process: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(program: &PathBuf, address: &str) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            // The certificate is made for this test; that it is checked is another test's business.
            .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Browser { process: command.spawn().unwrap(), _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let named = |name: &&str| folders.iter().map(|folder| folder.join(name)).find(|program| program.exists());
    BROWSERS.iter().find_map(named)
}
