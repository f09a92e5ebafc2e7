//! Appends every event of a Sidecar to FOLDER/events.jsonl, one JSON object a line, and resumes where it was killed.
//!
//! ```text
//! cargo run --example resuming_client -- [URL] [FOLDER]
//! ```
//!
//! A program of your own needs `anyhow`, `reqwest`, `serde` (feature `derive`), `serde_json` (feature `raw_value`) and `tokio`
//! (features `rt`, `macros` and `time`).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// In a row that bring nothing new.
const ATTEMPTS_MAX: u32 = 10;
/// Sidecar sends an empty line after 15 s without an event, so this is a dead connection.
const SILENCE: Duration = Duration::from_secs(45);
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = Url::parse(&arguments.next().unwrap_or_else(|| "http://127.0.0.1:19999/events".to_owned()))?;
    let mut output = Output::open(Path::new(&arguments.next().unwrap_or_else(|| "events".to_owned())))?;
    // This workspace builds reqwest without a TLS library of its own; with reqwest's default features the line is not needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().connect_timeout(Duration::from_secs(10)).read_timeout(SILENCE).build()?;

    let mut failures = 0;
    while failures < ATTEMPTS_MAX {
        let before = output.position.id;
        let ended = follow(&client, &url, &mut output).await;
        output.save()?;
        let reason = match ended {
            Ok(Ended::Complete) => return Ok(()),
            Ok(Ended::Refused(answer)) => bail!("refused: {answer}"),
            Ok(Ended::Cut) => "the stream ended".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        failures = if output.position.id == before { failures + 1 } else { 0 };
        let pause = Duration::from_secs(30).min(Duration::from_secs(1 << failures));
        eprintln!("{reason}; connecting again in {} s", pause.as_secs());
        tokio::time::sleep(pause).await;
    }
    bail!("no event after {ATTEMPTS_MAX} attempts: is there a Sidecar at {url}?")
}

/// How a connection ended.
enum Ended {
    /// Nothing is left of what was asked for, which ends with `until=N`.
    Complete,
    /// The request is wrong; asking again would not help.
    Refused(String),
    Cut,
}

/// Reads one connection to its end. Its errors pass with time.
async fn follow(client: &Client, url: &Url, output: &mut Output) -> anyhow::Result<Ended> {
    let mut url = url.clone();
    let Position { log, id, .. } = &output.position;
    if let Some(log) = log {
        // Ids of another log (a node set up again) are an error then, instead of a wrong history.
        url.query_pairs_mut().append_pair("log", log);
    }
    if id.is_none() {
        url.query_pairs_mut().append_pair("start_from", "0");
    }
    let mut request = client.get(url).header("accept", "application/x-ndjson");
    if let Some(id) = id {
        request = request.header("last-event-id", *id);
    }
    let mut response = request.send().await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NO_CONTENT => return Ok(Ended::Complete),
        status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => bail!("{status}"),
        status if status.is_client_error() => {
            return Ok(Ended::Refused(format!("{status}: {}", response.text().await?.trim())));
        }
        status => bail!("{status}: {}", response.text().await?.trim()),
    }
    output.position.log = response.headers().get("sidecar-log").and_then(|log| Some(log.to_str().ok()?.to_owned()));

    // A line may come in several chunks, and a chunk may bring several lines. What is not a whole line when the connection is
    // cut comes again.
    let mut unread = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        unread.extend_from_slice(&chunk);
        let Some(end) = unread.iter().rposition(|byte| *byte == b'\n') else { continue };
        let rest = unread.split_off(end + 1);
        for line in std::str::from_utf8(&unread)?.lines() {
            output.take(line)?;
        }
        unread = rest;
    }
    Ok(Ended::Cut)
}

/// A line of the stream. Others have other members: the API version has no id, for instance.
#[derive(Deserialize)]
struct Line<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// Data that is not JSON.
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    missing: Option<&'a RawValue>,
}

/// `position.json`: the log, the last event's id, and the length of `events.jsonl` then.
#[derive(Default, Serialize, Deserialize)]
struct Position {
    log: Option<String>,
    id: Option<u64>,
    bytes: u64,
}

/// The two files.
///
/// The position is written after the events. A kill in between leaves events that it does not know; they are cut off at the
/// next start, and come again. So each event is in the file once.
struct Output {
    events: File,
    position: Position,
    position_path: PathBuf,
    saved: Instant,
}

impl Output {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let position_path = folder.join("position.json");
        let position: Position = match fs::read(&position_path) {
            Ok(json) => {
                serde_json::from_slice(&json).context("position.json is damaged: remove the folder to start again")?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Position::default(),
            Err(error) => return Err(error.into()),
        };
        let events = OpenOptions::new().create(true).append(true).open(folder.join("events.jsonl"))?;
        if events.metadata()?.len() < position.bytes {
            bail!("{} expects more bytes than events.jsonl has: remove both to start again", position_path.display());
        }
        events.set_len(position.bytes)?;
        Ok(Self { events, position, position_path, saved: Instant::now() })
    }

    fn take(&mut self, line: &str) -> anyhow::Result<()> {
        if line.is_empty() {
            return Ok(()); // A keep-alive.
        }
        let Line { id, data, text, missing } = serde_json::from_str(line)?;
        if let Some(missing) = missing {
            eprintln!("events that cannot be had: {missing}");
        }
        if let (Some(id), Some(_)) = (id, data.or(text)) {
            self.events.write_all(format!("{line}\n").as_bytes())?;
            self.position.id = Some(id);
            self.position.bytes += line.len() as u64 + 1;
        }
        if self.saved.elapsed() > SAVE_INTERVAL { self.save() } else { Ok(()) }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.events.sync_data()?;
        // A new file that replaces the old one: a reader finds one of them, and never half of one.
        let new_path = self.position_path.with_extension("json.new");
        let mut new = File::create(&new_path)?;
        new.write_all(&serde_json::to_vec(&self.position)?)?;
        new.sync_data()?;
        fs::rename(&new_path, &self.position_path)?;
        self.saved = Instant::now();
        Ok(())
    }
}
