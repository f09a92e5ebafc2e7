//! Web pages in a real browser: a headless Chromium, and a server of pages that report what they see.
//!
//! A page includes `/report.js` and calls `report(value)`; its reports arrive at the test in the order in which they were made.
//! [`EventSourcePage`] is the page that most tests need.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::installed::in_path;
use crate::process::Process;

/// How long any one report of a page may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// The browser's names, and the Debian package that brings the first.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
const PACKAGE: &str = BROWSERS[0];

const REPORT_SCRIPT: &str = r#"let reported = Promise.resolve();
const report = (what) => reported = reported.then(() => fetch("/report", { method: "POST", body: JSON.stringify(what) }));
"#;

/// What it runs with: no window, and no request of its own.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // Certificates are made for each test; another test checks that they are verified.
    "--ignore-certificate-errors",
];

/// A running browser without a window, and its profile.
pub struct Browser {
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Opens the page at `address`.
    pub fn open(address: &str) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program());
        command.args(arguments(&profile)).arg("--remote-debugging-port=0").arg(address);
        // Debian's program is a script that starts the browser and would leave it running.
        Browser { _process: Process::start_group(&mut command), _profile: profile }
    }
}

/// What the browser is started with, however it is driven.
pub(crate) fn arguments(profile: &TempDir) -> impl Iterator<Item = String> {
    let profile = format!("--user-data-dir={}", profile.path().display());
    FLAGS.map(str::to_owned).into_iter().chain([profile])
}

pub(crate) fn program() -> PathBuf {
    BROWSERS.iter().find_map(|name| in_path(name)).unwrap_or_else(|| {
        panic!("this test needs a browser; install the package that has one: apt-get install {PACKAGE}");
    })
}

/// A server of pages that has its port but no pages yet.
pub struct Pages {
    listener: TcpListener,
}

impl Pages {
    /// Takes a free port.
    pub async fn bind() -> Pages {
        Pages { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap() }
    }

    /// Where the pages will be.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Serves pages, each a path with its HTML, and collects what they report.
    pub fn serve(self, pages: &[(&str, String)]) -> Reports {
        let (reported, reports) = mpsc::unbounded_channel();
        let report = move |body: String| async move {
            let _ = reported.send(serde_json::from_str(&body).unwrap());
        };
        let script = || async { ([("content-type", "text/javascript")], REPORT_SCRIPT) };
        let mut router = Router::new().route("/report", post(report)).route("/report.js", get(script));
        for (path, page) in pages {
            let page = page.clone();
            router = router.route(path, get(|| async { Html(page) }));
        }
        tokio::spawn(async move { axum::serve(self.listener, router).await });
        Reports { reports }
    }
}

/// What pages have reported.
pub struct Reports {
    reports: mpsc::UnboundedReceiver<Value>,
}

impl Reports {
    /// Waits for the next report.
    pub async fn next(&mut self) -> Value {
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        report.expect("the page reports in time").expect("the pages are served")
    }
}

/// An event as `EventSource` dispatches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEvent {
    /// Its name; `message` where it has none.
    pub name: String,
    /// `lastEventId`.
    pub id: String,
    /// Its data.
    pub data: String,
}

const EVENT_SOURCE_PAGE: &str = r#"<!doctype html>
<script src="/report.js"></script>
<script>
const source = new EventSource("@URL@");
let expected = 0;
const take = ({ type, lastEventId, data }) => {
  if (lastEventId !== String(expected)) report({ fault: `event ${lastEventId} came where ${expected} was due` });
  expected += 1;
  report({ name: type, id: lastEventId, data });
};
@NAMES@.forEach((name) => source.addEventListener(name, take));
source.onopen = () => report({ opened: true });
</script>"#;

/// A page in a browser that follows one event stream with `EventSource`, and checks that each id comes once, in order, from 0.
pub struct EventSourcePage {
    reports: Reports,
    openings: usize,
    _browser: Browser,
}

impl EventSourcePage {
    /// Opens the page, and waits until its `EventSource` is connected. It listens to events with these names.
    pub async fn open(url: &str, names: &[&str]) -> EventSourcePage {
        let pages = Pages::bind().await;
        let names = serde_json::to_string(names).unwrap();
        let (address, page) = (pages.address(), EVENT_SOURCE_PAGE.replace("@URL@", url).replace("@NAMES@", &names));
        let reports = pages.serve(&[("/", page)]);
        let browser = Browser::open(&format!("http://{address}/"));
        let mut page = EventSourcePage { reports, openings: 0, _browser: browser };
        while page.openings == 0 {
            assert_eq!(page.next().await, None, "an event comes after the opening");
        }
        page
    }

    /// How often the browser has connected.
    pub fn openings(&self) -> usize {
        self.openings
    }

    /// Waits for so many more events.
    pub async fn events(&mut self, count: usize) -> Vec<PageEvent> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await);
        }
        events
    }

    /// The next event, or `None` when the browser has connected.
    async fn next(&mut self) -> Option<PageEvent> {
        let report = self.reports.next().await;
        assert!(report["fault"].is_null(), "{report}");
        if report["opened"] == true {
            self.openings += 1;
            return None;
        }
        let text = |member: &str| report[member].as_str().unwrap().to_owned();
        Some(PageEvent { name: text("name"), id: text("id"), data: text("data") })
    }
}
