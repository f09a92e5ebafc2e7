//! The text for people: a few lines for each log, what is wrong in colour.

use std::fmt::{Display, Write};

use indicatif::{BinaryBytes, HumanCount};
use sidecar_log_format::{Sequence, Timestamp};

use super::Overview;
use super::answer::{Follower, GrpcStream, Log, Lost, Node, Status, Streams};
use crate::rfc3339;
use crate::telemetry::printable;

/// Before the facts of a log.
const MARGIN: &str = "  ";
/// The width of their names.
const NAME_COLUMNS: usize = 11;
/// The state of a node that sends events.
const CONNECTED: &str = "connected";

/// How good something is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    Doubtful,
    Bad,
}

/// The text, as far as it is written.
pub(super) struct Screen {
    has_colour: bool,
    /// The server's time.
    now: Option<Timestamp>,
    text: String,
}

impl Screen {
    pub(super) fn new(has_colour: bool) -> Self {
        Screen { has_colour, now: None, text: String::new() }
    }

    pub(super) fn show(mut self, overview: &Overview) -> String {
        let Overview { address, is_ready, readiness, read, .. } = overview;
        let Status { version, commit, time, uptime_seconds, logs, grpc_streams } = read;
        self.now = time.as_deref().and_then(rfc3339::parse);
        let commit = commit.iter().map(|commit| format!(" ({commit})")).collect::<String>();
        let mood = match (is_ready, readiness.trim() == "ready") {
            (true, true) => Mood::Good,
            (true, false) => Mood::Doubtful,
            (false, _) => Mood::Bad,
        };
        let readiness = self.coloured(mood, printable(readiness.trim()));
        let uptime = uptime_seconds.map(|seconds| format!(", up {}", rounded(seconds))).unwrap_or_default();
        self.line(format_args!("Sidecar {}{} at {address}{uptime}", printable(version), printable(&commit)));
        self.line(readiness);
        for log in logs {
            self.log(log, grpc_streams);
        }
        self.text
    }

    fn log(&mut self, log: &Log, grpc_streams: &[GrpcStream]) {
        self.line("");
        self.line(format_args!("log {}", printable(&log.name)));
        match (log.oldest, log.newest) {
            (Some(oldest), Some(newest)) => self.events(log, oldest, newest),
            _ => self.fact("events", "none yet"),
        }
        if let Some(why) = &log.stopped {
            let why = self.coloured(Mood::Bad, format_args!("nothing is stored: {}", printable(why)));
            self.fact("storing", why);
        }
        self.disk(log);
        self.damage(&log.lost);
        for (number, node) in log.nodes.iter().enumerate() {
            self.node(if number == 0 { "nodes" } else { "" }, node);
        }
        for stream in grpc_streams.iter().filter(|stream| stream.log == log.name) {
            let mood = if stream.is_connected { Mood::Good } else { Mood::Bad };
            let state = self.coloured(mood, if stream.is_connected { CONNECTED } else { "not connected" });
            let received = HumanCount(stream.received);
            let last = self.last_event(stream.last_event_at.as_deref());
            self.fact("gRPC", format_args!("{state}, {received} messages received{last}"));
        }
        for (name, followers) in [("views", &log.views), ("exporters", &log.exporters)] {
            for (number, follower) in followers.iter().enumerate() {
                self.follower(if number == 0 { name } else { "" }, follower);
            }
        }
        self.clients(&log.streams);
    }

    fn events(&mut self, log: &Log, oldest: Sequence, newest: Sequence) {
        let events = newest.saturating_sub(oldest).saturating_add(1);
        self.fact("events", format_args!("{}: {oldest} to {newest}, epoch {}", HumanCount(events), log.epoch));
        if let Some(received_at) = &log.disk.newest_received_at {
            let age = self.age(received_at).map(|age| format!("{age} ago, ")).unwrap_or_default();
            self.fact("newest", format_args!("{age}{}", printable(received_at)));
        }
    }

    fn disk(&mut self, log: &Log) {
        let mut parts = Vec::new();
        if let Some(bytes) = log.disk.bytes {
            parts.push(BinaryBytes(bytes).to_string());
        }
        if let Some(segments) = log.disk.segments {
            parts.push(format!("{} {}", HumanCount(segments), plural(segments, "segment", "segments")));
        }
        if let Some(available) = log.disk.available_bytes {
            parts.push(format!("{} left", BinaryBytes(available)));
        }
        if log.waits_for_room {
            parts.push(self.coloured(Mood::Bad, "full: storing waits for room"));
        } else if let Some(days) = log.disk.days_until_full {
            let days = days.round() as u64;
            parts.push(format!("full in {days} {}", plural(days, "day", "days")));
        }
        if !parts.is_empty() {
            self.fact("disk", parts.join(", "));
        }
    }

    fn damage(&mut self, lost: &Lost) {
        let kinds = [("missing", lost.missing), ("damaged", lost.damaged), ("marked", lost.marked)];
        let found = kinds.iter().filter(|(_, events)| *events > 0);
        let found: Vec<String> = found.map(|(kind, events)| format!("{} {kind}", HumanCount(*events))).collect();
        match found.is_empty() {
            true => self.fact("lost", "none"),
            false => {
                let found = self.coloured(Mood::Bad, format_args!("{} events", found.join(", ")));
                self.fact("lost", format_args!("{found}; see `sidecar-log verify`"));
            }
        }
    }

    fn node(&mut self, name: &str, node: &Node) {
        let mood = match node.status.as_str() {
            CONNECTED => Mood::Good,
            "preparing" | "connecting" | "reconnecting" => Mood::Doubtful,
            _ => Mood::Bad,
        };
        let state = self.coloured(mood, printable(&node.status.replace('_', " ")));
        let last = self.last_event(node.last_event_at.as_deref());
        self.fact(name, format_args!("{} {state}{last}", printable(&node.name)));
    }

    fn follower(&mut self, name: &str, follower: &Follower) {
        let lag = match follower.lag {
            0 => "up to date".to_owned(),
            1 => "1 event behind".to_owned(),
            lag => format!("{} events behind", HumanCount(lag)),
        };
        let connection = match follower.is_connected {
            Some(false) => format!(", {}", self.coloured(Mood::Bad, "not connected")),
            _ => String::new(),
        };
        self.fact(name, format_args!("{} {lag}{connection}", printable(&follower.name)));
    }

    fn clients(&mut self, streams: &Streams) {
        let (open, connections) = (streams.open, streams.connections);
        let slowest = streams.classes.iter().filter(|class| class.lag_max > 0).max_by_key(|class| class.lag_max);
        let slowest = slowest.map(|class| {
            let who = class
                .slowest
                .as_deref()
                .map_or("the slowest".to_owned(), |who| format!("the slowest, {},", printable(who)));
            let kind = printable(&class.class);
            format!("; {who} is {} events behind (class {kind})", HumanCount(class.lag_max))
        });
        self.fact(
            "clients",
            format_args!(
                "{} {} on {} {}{}",
                HumanCount(open),
                plural(open, "stream", "streams"),
                HumanCount(connections),
                plural(connections, "connection", "connections"),
                slowest.unwrap_or_default()
            ),
        );
    }

    fn last_event(&self, time: Option<&str>) -> String {
        let age = time.and_then(|time| self.age(time));
        age.map(|age| format!(", last event {age} ago")).unwrap_or_default()
    }

    /// How long ago that was, by the server's clock.
    fn age(&self, time: &str) -> Option<String> {
        let age = self.now?.saturating_sub(rfc3339::parse(time)?);
        Some(rounded(age / 1_000_000))
    }

    fn fact(&mut self, name: &str, fact: impl Display) {
        self.line(format_args!("{MARGIN}{name:<NAME_COLUMNS$}{fact}"));
    }

    fn line(&mut self, line: impl Display) {
        // A String takes everything.
        let _ = writeln!(self.text, "{line}");
    }

    fn coloured(&self, mood: Mood, text: impl Display) -> String {
        let colour = match mood {
            _ if !self.has_colour => return text.to_string(),
            Mood::Good => "\u{1b}[32m",
            Mood::Doubtful => "\u{1b}[33m",
            Mood::Bad => "\u{1b}[31m",
        };
        format!("{colour}{text}\u{1b}[0m")
    }
}

/// A time in its two largest units.
fn rounded(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn plural(count: u64, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = include_str!("sample.json");

    fn overview(is_ready: bool, readiness: &str, status: &str) -> Overview {
        Overview {
            address: "http://127.0.0.1:18887/".to_owned(),
            is_ready,
            readiness: readiness.to_owned(),
            status: serde_json::from_str(status).unwrap(),
            read: serde_json::from_str(status).unwrap(),
        }
    }

    #[test]
    fn a_log_is_shown_in_a_dozen_lines() {
        let text = overview(false, "not ready: log casper: nothing is stored", STATUS).text(false);
        assert_eq!(text, include_str!("sample.txt"));
    }

    #[test]
    fn an_answer_of_another_version_is_shown_as_far_as_it_goes() {
        let text = overview(true, "ready", r#"{"version":"9","new":[1],"logs":[{"name":"a\u001b[2J","nodes":[{}]}]}"#)
            .text(false);
        assert_eq!(
            text,
            "Sidecar 9 at http://127.0.0.1:18887/\nready\n\nlog a\\u{1b}[2J\n  events     none yet\n  lost       none\n  \
             nodes       \n  clients    0 streams on 0 connections\n"
        );
    }

    #[test]
    fn a_single_day_is_not_days() {
        let status = r#"{"logs":[{"disk":{"days_until_full":1.2}},{"disk":{"days_until_full":12.0}}]}"#;
        let text = overview(true, "ready", status).text(false);
        assert!(text.contains("full in 1 day\n") && text.contains("full in 12 days\n"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_red_where_there_is_colour() {
        let text = overview(false, "not ready: x", STATUS).text(true);
        assert!(text.contains("\u{1b}[31mnot ready: x\u{1b}[0m\n"), "{text}");
        assert!(text.contains("127.0.0.1:9999 \u{1b}[32mconnected\u{1b}[0m"), "{text}");
    }

    #[test]
    fn an_age_has_its_two_largest_units() {
        let shown = [0, 59, 60, 3599, 3600, 86_399, 86_400, 200_000].map(rounded);
        assert_eq!(
            shown,
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 0 h", "2 d 7 h"]
        );
    }
}
