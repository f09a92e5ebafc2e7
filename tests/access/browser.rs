//! A web page in a real browser, from another origin than the streams: over TLS, with a token, cut and resumed.

use std::collections::BTreeMap;

use serde_json::Value;
use sidecar_test_support::browser::{Browser, Pages, Reports};
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::story::{Story, StoryOptions};

use super::tunnel::Identity;
use super::{TOKENS, toml};

/// Reports what `EventSource` and `fetch` get, in the order in which they get it.
const PAGE: &str = r#"<!doctype html>
<iframe src="@OTHER@/other"></iframe>
<script src="/report.js"></script>
<script>
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
<script src="/report.js"></script>
<script>
fetch("@GUARDED@/events", { headers: { "Authorization": "Bearer @TOKEN@" } })
  .then(({ status }) => report({ client: "other origin", status }), (error) => report({ client: "other origin", error: error.name }));
</script>"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_reads_and_resumes_streams_over_tls_and_with_a_token() {
    let story = Story::new(7, &StoryOptions::small(12));
    let (before, after) = story.events().split_at(story.events().len() / 2);
    let node = SimulatedNode::start();
    node.push_all(before);

    let pages = Pages::bind().await;
    let page = pages.address();
    let identity = Identity::new();
    let mut open = start(&node, &identity, "").await;
    let token = format!("bearer_tokens = {{ variable = 'TOKENS_OF_TEST' }}\ncors_origin = ['http://{page}']");
    let mut guarded = start(&node, &identity, &token).await;
    let texts = [
        ("@OPEN@", format!("https://{}", open.sse_address())),
        ("@GUARDED@", format!("https://{}", guarded.sse_address())),
        ("@OTHER@", format!("http://localhost:{}", page.port())),
        ("@TOKEN@", TOKENS[0].to_owned()),
    ];
    let filled = |page: &str| texts.iter().fold(page.to_owned(), |page, (mark, text)| page.replace(mark, text));
    let mut reports = pages.serve(&[("/", filled(PAGE)), ("/other", filled(OTHER_PAGE))]);
    let _browser = Browser::open(&format!("http://{page}/"));

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
    async fn wait_for(&mut self, reports: &mut Reports, count: usize) {
        let has_all = |seen: &Seen| {
            let has = |client: &str| seen.events.get(client).is_some_and(|events| events.len() >= count);
            has("EventSource") && has("fetch") && seen.without_token.is_some() && seen.other_origin.is_some()
        };
        while !has_all(self) {
            self.note(reports.next().await);
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
