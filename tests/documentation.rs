//! The README and the pages in `docs/`: what they name is there, and the commands in them work.
//!
//! `src/config/keys_page.rs` does the same for keys of the configuration, `tools/tests/documentation.rs` for `sidecar-log`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;
use sidecar::command_line::Arguments;
use sidecar_test_support::beacon::BeaconNode;
use sidecar_test_support::binary_port::{BinaryPort, Reply, default_answer};
use sidecar_test_support::client::{Request, SseClient, get};
use sidecar_test_support::documentation::{self, Page, REPOSITORY, arguments_of};
use sidecar_test_support::node::{SimulatedNode, malformed};
use sidecar_test_support::ping_pong::{self, PingPong};
use sidecar_test_support::port::ReservedPort;
use sidecar_test_support::process::{Process, SidecarBuilder, demo};
use sidecar_test_support::wait::until;
use sidecar_test_support::{recordings, repository};

const BINARY: &str = env!("CARGO_BIN_EXE_sidecar");

/// Names that begin as metrics do and are something else: a table, and packages.
const NOT_METRICS: [&str; 4] =
    ["sidecar_checkpoint", "sidecar_log_format", "sidecar_test_support", "sidecar_real_node"];

#[test]
fn every_link_leads_somewhere() {
    let pages: BTreeMap<_, _> = Page::all().into_iter().map(|page| (page.path.clone(), page)).collect();
    let mut links = 0;
    for page in pages.values() {
        for link in page.links() {
            let (target, anchor) = link.split_once('#').map_or((link.as_str(), None), |(to, at)| (to, Some(at)));
            let target = match target.strip_prefix(REPOSITORY) {
                Some(file) => Path::new(file).to_owned(),
                // What others publish is not looked up.
                None if target.contains("://") || target.starts_with("mailto:") => continue,
                None if target.is_empty() => page.path.clone(),
                None => without_parents(&page.path.parent().unwrap().join(target)),
            };
            let from = page.path.display();
            assert!(repository().join(&target).exists(), "{from}: {link} leads nowhere");
            let is_in_book = page.path.starts_with("docs");
            assert!(
                !is_in_book || link.starts_with(REPOSITORY) || target.starts_with("docs"),
                "{from}: {link} leads out of the book; begin it with {REPOSITORY}"
            );
            if let Some(anchor) = anchor {
                let anchors = pages.get(&target).map(Page::anchors).unwrap_or_default();
                assert!(anchors.contains(anchor), "{from}: {link} names no heading; there are {anchors:?}");
            }
            links += 1;
        }
    }
    assert!(links > 50, "only {links} links were found");
}

/// `docs/../log-format` is `log-format`.
fn without_parents(path: &Path) -> std::path::PathBuf {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.into_iter().collect()
}

#[test]
fn the_books_contents_list_every_page_once() {
    let mut listed = Page::read(Path::new("docs/SUMMARY.md")).links();
    listed.sort();
    let folder = std::fs::read_dir(repository().join("docs")).unwrap();
    let files = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = files.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect();
    pages.sort();
    assert_eq!(listed, pages);
}

#[test]
fn every_alert_is_explained_and_every_explained_alert_exists() {
    let rules = std::fs::read_to_string(repository().join("resources/prometheus/alerts.yml")).unwrap();
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let page = Page::read(Path::new("docs/operations.md"));
    let first_cells = page.text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(first_cells.filter(|name| name.starts_with("Sidecar")).collect::<BTreeSet<_>>(), alerts);
}

#[test]
fn the_debian_package_is_named_as_the_build_names_it() {
    let read = |file: &str| std::fs::read_to_string(repository().join(file)).unwrap();
    let manifest: toml::Table = read("packaging/Cargo.toml").parse().unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    let name = package["name"].as_str().unwrap();
    // Without the key, cargo-deb takes 1.
    let revision = package.get("revision").map_or("1", |revision| revision.as_str().unwrap());
    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    let newest = read("packaging/debian/changelog");
    assert!(newest.starts_with(&format!("{name} ({version}) ")), "the package's changelog begins with another version");
    let files = [
        format!("{name}_{version}_amd64.deb"),
        format!("{name}_{version}_arm64.deb"),
        // The pattern of them all.
        format!("{name}_VERSION-{revision}_ARCHITECTURE.deb"),
    ];
    let mut count = 0;
    for page in Page::all() {
        let words = page.text.split(|letter: char| letter.is_whitespace() || "/`'\"()".contains(letter));
        for file in words.filter(|word| word.ends_with(".deb") && !word.starts_with('*')) {
            assert!(files.iter().any(|made| made == file), "{}: {file} is none of {files:?}", page.path.display());
            count += 1;
        }
    }
    assert!(count >= 3, "the documents name only {count} packages");
}

#[test]
fn every_command_of_sidecar_is_one_that_it_takes() {
    documentation::expect_commands_to_be_taken("sidecar", BINARY);
}

#[test]
fn the_page_of_the_command_line_is_the_programs_help() {
    let page = documentation::command_line_page("sidecar", BINARY);
    for subcommand in Arguments::command().get_subcommands() {
        assert!(page.contains(&format!("\n## sidecar {}\n", subcommand.get_name())), "{subcommand}");
    }
    documentation::expect_file("docs/sidecar.md", &page);
}

/// A request to a server on this machine.
#[derive(Debug)]
struct Curl {
    method: String,
    port: u16,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Curl {
    /// What curl would send; nothing, if that goes to another machine.
    fn of_command(arguments: &[String]) -> Option<Self> {
        let (mut method, mut body, mut headers, mut address) = ("GET".to_owned(), String::new(), Vec::new(), None);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} lacks a value")).clone();
            match argument.as_str() {
                "-H" | "--header" => {
                    let header = value();
                    let (name, value) = header.split_once(':').unwrap_or_else(|| panic!("{header}"));
                    headers.push((name.to_owned(), value.trim().to_owned()));
                }
                "-d" | "--data" => (method, body) = ("POST".to_owned(), value()),
                "-o" | "--output" => drop(value()),
                "-N" | "-s" | "-f" | "-sS" | "-fsS" | "-i" => {}
                flag if flag.starts_with('-') => panic!("this test does not know curl's {flag}"),
                url => address = Some(url),
            }
        }
        Some(Self { method, headers, body, ..Self::get(address.unwrap())? })
    }

    /// A plain request for a URL, if that is on this machine.
    fn get(url: &str) -> Option<Self> {
        let (port, target) = url.strip_prefix("http://127.0.0.1:")?.split_once('/')?;
        Some(Self {
            method: "GET".to_owned(),
            port: port.parse().unwrap_or_else(|_| panic!("{url} has no port")),
            target: format!("/{target}"),
            headers: Vec::new(),
            body: String::new(),
        })
    }

    async fn expect_an_answer(&self, page: &str, address: SocketAddr) {
        let mut request = Request::new(&self.method, address, &self.target).body(&self.body);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        assert_eq!(request.open().await.status(), 200, "{page}: {self:?}");
    }
}

#[tokio::test]
async fn every_request_of_the_pages_is_answered_by_the_demo_that_the_page_starts() {
    // By the demo that they are sent to, and with their page.
    let mut requests: BTreeMap<String, Vec<(String, Curl)>> = BTreeMap::new();
    for page in Page::all() {
        let name = page.path.display().to_string();
        let mut dialect = "casper".to_owned();
        for command in page.commands() {
            // A demo that a page starts is the one that its next requests go to.
            if let Some([demo, options @ ..]) = arguments_of(&command, "sidecar")
                && demo == "demo"
            {
                let at = options.iter().position(|option| option == "--dialect");
                dialect = at.and_then(|at| options.get(at + 1)).map_or("casper", String::as_str).to_owned();
            }
            if command[0] == "curl"
                && let Some(curl) = Curl::of_command(&command[1..])
            {
                requests.entry(dialect.clone()).or_default().push((name.clone(), curl));
            }
        }
        // Other languages have the address between quotes.
        for block in page.blocks().iter().filter(|block| ["js", "html", "python"].contains(&block.language)) {
            let curls = block.text.split('"').filter_map(Curl::get).map(|curl| (name.clone(), curl));
            requests.entry("casper".to_owned()).or_default().extend(curls);
        }
    }
    assert_eq!(requests.keys().collect::<Vec<_>>(), ["beacon", "casper", "grpc"], "a demo without requests");
    for (dialect, requests) in requests {
        let [sse, rest, admin, rpc, grpc] = &std::array::from_fn(|_| ReservedPort::new());
        let mut command = demo(BINARY, &[("sse", sse), ("rest", rest), ("admin", admin), ("rpc", rpc), ("grpc", grpc)]);
        command.args(["--dialect", &dialect]);
        if dialect == "casper" {
            command.args(["--speed", "0"]);
        }
        let mut process = Process::start(&mut command);
        let all_there = if dialect == "casper" { "The recording is over" } else { "Ctrl-C ends it." };
        process.wait_for_output(all_there).await;
        for (page, curl) in &requests {
            let port = match curl.port {
                19999 | 15052 => sse,
                18888 => rest,
                18887 => admin,
                7777 => rpc,
                15053 => grpc,
                other => panic!("{page}: no server of the demo has port {other}"),
            };
            curl.expect_an_answer(page, port.address()).await;
        }
        assert!(process.terminate().success());
    }
}

/// A family of metrics.
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

#[tokio::test]
async fn every_metric_that_is_named_is_one_that_is_shown_and_the_page_of_metrics_has_all() {
    let families = families(&whole_exposition().await);
    documentation::expect_file("docs/metrics.md", &metrics_page(&families));
    let mut named = 0;
    for page in Page::all() {
        for name in metrics_named(&page.text) {
            let known = match name.strip_suffix('…') {
                Some(prefix) => families.keys().any(|family| family.starts_with(prefix)),
                None => families.contains_key(&name),
            };
            assert!(known, "{}: there is no metric {name}", page.path.display());
            named += 1;
        }
    }
    assert!(named > 100, "only {named} names of metrics were found");
}

/// What the admin servers of processes show that use everything there is.
async fn whole_exposition() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (node, client, court) = (SimulatedNode::start(), BeaconNode::start(), PingPong::start().await);
    let descriptors = folder.path().join("court.binpb");
    ping_pong::write_descriptor_set(&descriptors);
    let mut binary_port = BinaryPort::start(|command| Reply::Answer(default_answer(command)));
    let [beacon, gateway, rpc] = std::array::from_fn(|_| ReservedPort::new());
    let sections = format!(
        "[storage.sqlite_config]\nfile_name = 'events.db3'\n\
         [beacon]\nport = {}\n[[beacon.connections]]\nurl = '{}'\n\
         [grpc]\nport = {}\n[[grpc.upstreams]]\nname = 'court'\naddress = 'http://{}'\ndescriptor_set = {descriptors:?}\n\
         [[grpc.streams]]\nname = 'balls'\nupstream = 'court'\nmethod = 'demo.v1.Events/Subscribe'\nrequest = {{ topic = 'live' }}\n\
         path = '/streams/balls'\n",
        beacon.number(),
        client.url(),
        gateway.number(),
        court.address(),
    );
    let builder = SidecarBuilder::new(BINARY).node(node.address()).rest_api().admin_api().sections(&sections);
    let builder = builder.rpc(rpc.number(), binary_port.address()).serving(rpc.address());
    let sidecar = builder.serving(beacon.address()).serving(gateway.address()).start().await;
    let admin = sidecar.admin_address();

    let mut live = SseClient::connect(sidecar.sse_address(), "/events").await;
    let payloads = recordings::recorded_network();
    node.push_all(payloads.iter().take(500).map(|(_, payload)| payload));
    node.push_raw(malformed::not_json(500));
    live.read_until_id(499).await;
    get(sidecar.rest_address(), "/block").await;
    get(gateway.address(), "/v1/balls/flood?count=1").await;
    get(gateway.address(), "/v1/balls/refuse?code=5").await;
    call(&rpc).await;
    binary_port.kill();
    binary_port.restart();
    let reconnected = "\n# TYPE rpc_server_reconnect_time ";
    until(Duration::from_secs(60), "a new connection to the node", async || {
        get(admin, "/metrics").await.body.contains(reconnected)
    })
    .await;
    call(&rpc).await;

    // Look-ups that answer from a database, which is not there.
    let database = format!(
        "[storage.postgresql_config]\nhost = '127.0.0.1'\nport = {}\ndatabase_name = 'd'\ndatabase_username = 'u'\n\
         database_password = 'p'\n",
        ReservedPort::new().number()
    );
    let look_ups = SidecarBuilder::new(BINARY).without_sse_server().sections(&database).admin_api();
    let look_ups = look_ups.rest_api_with("answer_from = 'postgresql'").start().await;
    get(admin, "/metrics").await.body + &get(look_ups.admin_address(), "/metrics").await.body
}

async fn call(rpc: &ReservedPort) {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"info_get_peers"}"#;
    let request = Request::new("POST", rpc.address(), "/rpc").header("content-type", "application/json").body(body);
    assert_eq!(request.answer().await.status, 200);
}

/// The families of an exposition, by name.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let family = Family { kind: String::new(), help: help.to_owned(), labels: BTreeSet::new() };
            families.entry(name.to_owned()).or_insert(family);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let name = if families.contains_key(name) { name } else { without_suffix(name) };
            let family: &mut Family = families.get_mut(name).unwrap();
            let (labels, _) = labels.rsplit_once('}').unwrap();
            let names = labels.split(',').filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
            family.labels.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// A histogram's samples have these after its name.
fn without_suffix(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

fn metrics_page(families: &BTreeMap<String, Family>) -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Everything that `/metrics` of the admin server can show. Metrics without `sidecar_` in front are the Casper\n\
         Sidecar's, under its names. A part that is not configured shows nothing, and neither does a metric of the Casper\n\
         Sidecar that was not used yet: `rpc_server_timeout_counts` and `rpc_server_mismatched_ids` come with a first such\n\
         failure. The label `log` is the name of a log, `node` the address of a source.\n\
         [Operations](operations.md) names the ones to watch. A test writes this page: see [Testing](testing.md).\n\n\
         | Metric | Type | Labels | What it is |\n|---|---|---|---|\n",
    );
    for (name, Family { kind, help, labels }) in families {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!("| `{name}` | {kind} | {} | {} |\n", labels.join(" "), help.replace('|', "\\|")));
    }
    page
}

/// The names of metrics in a text; `a_{b,c}_total` is two, and `a_…` every one that begins so.
fn metrics_named(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_{,}…".contains(letter);
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("sidecar_") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || "_/-".contains(letter)) {
            continue;
        }
        let end = text[at..].find(|letter| !is_part(letter)).map_or(text.len(), |length| at + length);
        let written = &text[at..end];
        // Labels are in braces, too, with a quote or an equals sign in them.
        let written = if text[end..].starts_with(['=', '"']) { written.split('{').next().unwrap() } else { written };
        let (front, choices, back) = match written
            .split_once('{')
            .and_then(|(front, rest)| rest.split_once('}').map(|(choices, back)| (front, choices, back)))
        {
            Some(parts) => parts,
            None => (written.trim_end_matches([',', '{', '}']), "", ""),
        };
        for choice in choices.split(',') {
            let name = format!("{front}{choice}{}", back.trim_end_matches(','));
            if name != "sidecar_" && !NOT_METRICS.contains(&name.as_str()) {
                names.insert(without_suffix(&name).to_owned());
            }
        }
    }
    names
}
