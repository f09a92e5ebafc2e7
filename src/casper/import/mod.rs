//! Import: the history in a database of the Casper Sidecar, as a log.
//!
//! A database keeps an event's content without the name of its type around it; that is put back, so that a payload is
//! what the node said as far as the database has it. An event's receive time is its `emitted_timestamp`.
//!
//! Rows flow from one snapshot of the database twice: first they are checked, by the log's own rules, and counted, because
//! the number of events determines the first sequence; then they are written. Until the log is whole it is in the folder
//! `LOG.importing`, which nothing takes for a log by itself. History for a log that has begun already is written there, too,
//! and then put in front of it, without the events that the log has.
//!
//! - `database`: where rows come from.
//! - `place`: where the log is made, and how it gets there.
//! - `reference`: what the reference leaves in its storage folder.

mod database;
mod place;
pub mod reference;

use std::{
    collections::HashSet,
    fmt::{self, Display},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::value::RawValue;
use sidecar_log_format::{
    ApiVersion, Cursor, Durability, Event, Item, Kind, Log, Mark, MarkKind, Opened, ReadOptions, Sequence, Timestamp,
    WriteOptions, Writer, history::IN_FRONT_OF,
};

use crate::casper::dialect::Casper;
use crate::casper::event::{self, Classified, classify, kind_name};
use crate::engine::dialect::{Identity, write_options};
use crate::engine::source::now;
use crate::rfc3339;
pub use database::Database;
use database::Row;
pub use place::{Place, has_imported};

/// The dialect of the logs that are imported.
const DIALECT: &str = "casper";

/// What is shown of an import while it runs.
pub trait Progress {
    /// Begins to read about so many rows, from the first.
    fn begin(&mut self, stage: Stage, rows: u64);

    /// A row is read.
    fn advance(&mut self);

    /// Called often, so that an import can be stopped.
    ///
    /// # Errors
    /// When the import is to stop here.
    fn stop_if_asked(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Something that is wrong with a row, which the import passes over.
    fn warn(&mut self, row: i64, what: &str);
}

/// What is done with the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// They are checked and counted.
    Check,
    /// They are written to the log.
    Write,
}

impl Stage {
    /// The stage, for who watches.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Check => "checking",
            Stage::Write => "importing",
        }
    }
}

/// What became of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An earlier import had read everything and was stopped before it was all in front of the log. Now it is.
    Continued {
        /// The first event of the log.
        oldest: Sequence,
    },
    /// The rows are events of the log.
    Imported(Summary),
}

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events in the log.
    pub events: u64,
    /// The event of the log that they are in front of, if there was a log.
    pub in_front_of: Option<Sequence>,
    /// Rows whose event the log had already.
    pub already_there: u64,
    /// Rows that are not events, or that a log cannot hold.
    pub left_out: u64,
    /// Events whose API version is not one. They are stored without one.
    pub without_version: u64,
    /// Events whose JSON had carriage returns, which are stored as line feeds.
    pub with_line_ends: u64,
    /// The `event_log_id` of the first of those.
    pub first_with_line_ends: Option<i64>,
}

impl Summary {
    /// Whether every row could be taken over whole.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left_out + self.without_version == 0
    }
}

impl Display for Summary {
    /// What is not as usual, for instance `, in front of event 100, 2 that the log has already`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(beginning) = self.in_front_of {
            write!(f, ", in front of event {beginning}")?;
        }
        for (count, what) in [
            (self.already_there, "that the log has already"),
            (self.left_out, "left out"),
            (self.without_version, "without an API version"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Makes the log, or its older part.
///
/// # Errors
/// When the database cannot be read or is not the reference's, when the place is no place for its history, or when it
/// cannot be written. Then there is no new log, and a log that was there is as it was or has part of the history, which the
/// next import completes.
pub fn import(database: &Database, place: Place, progress: &mut dyn Progress) -> anyhow::Result<Outcome> {
    if let Some(oldest) = place.resume(progress)? {
        return Ok(Outcome::Continued { oldest });
    }
    place.check_room()?;
    let mut importer = Importer::new(place, Known::EVENTS_MAX, progress)?;
    database.read(&mut importer)?;
    importer.finish().map(Outcome::Imported)
}

/// The events of a log that history is put in front of, as far as it may hold them, too: the first thing in a log is what
/// its nodes still had when it began.
#[derive(Default)]
struct Known {
    identities: HashSet<Identity>,
    /// By node and the id that it gave: nothing in its payload distinguishes it.
    shutdowns: HashSet<(String, Option<u64>)>,
    /// The second of the last event that was read. From then on the log may hold events that are not known here. `None`:
    /// everything was read.
    read_until: Option<Timestamp>,
}

impl Known {
    /// More than any number of nodes keeps.
    const EVENTS_MAX: usize = 1_000_000;

    /// Reads the log, up to the block that has the `events_max`th event.
    fn read(log: &Log, events_max: usize, progress: &dyn Progress) -> anyhow::Result<Self> {
        let mut known = Known::default();
        let mut cursor = Cursor::new(log, log.oldest());
        let mut last_received = 0;
        while let Some(run) = cursor.next_run()? {
            progress.stop_if_asked()?;
            if known.len() >= events_max {
                // Databases that keep whole seconds have the next events from the beginning of this one.
                known.read_until = Some(last_received - last_received % 1_000_000);
                break;
            }
            for item in run.items() {
                // What is missing is not known here, so that an import may bring it again.
                if let Item::Event(row, payload) = item {
                    known.add(row.kind(), row.source(), row.upstream_id(), &payload);
                    last_received = row.received();
                }
            }
        }
        Ok(known)
    }

    fn len(&self) -> usize {
        self.identities.len() + self.shutdowns.len()
    }

    fn add(&mut self, kind: Kind, source: &str, upstream_id: Option<u64>, payload: &[u8]) {
        if kind == event::SHUTDOWN {
            self.shutdowns.insert((source.to_owned(), upstream_id));
        } else if let Ok(payload) = std::str::from_utf8(payload)
            && let Ok(Classified::Event(facts)) = classify(payload)
        {
            self.identities.insert(facts.identity);
        }
    }

    fn has(&self, event: &Event<'_>, identity: &Identity) -> bool {
        match event.kind {
            event::SHUTDOWN => self.shutdowns.contains(&(event.source.to_owned(), event.upstream_id)),
            _ => self.identities.contains(identity),
        }
    }
}

/// What the log that history is put in front of has already.
fn known_events(place: &Place, events_max: usize, progress: &dyn Progress) -> anyhow::Result<Known> {
    let log = Log::open(Arc::new(place.storage().clone()), ReadOptions::default())?;
    let known = Known::read(&log, events_max, progress)?;
    // Imported events are not in the order of their receive times, so these do not show what was not read.
    if known.read_until.is_some() && has_imported(&log)? {
        bail!(
            "{} has imported events already, and more events than the {events_max} that an import compares with, so it may \
             have what the database has; {}",
            place.directory.display(),
            place.begin_again()
        );
    }
    Ok(known)
}

/// Takes the rows twice, first to check and count what comes of them, then to make a log of that.
struct Importer<'a> {
    place: Place,
    /// `None` while rows are checked.
    target: Option<Target>,
    /// What the log has already.
    known: Known,
    /// What comes of the rows that were checked.
    checked: Summary,
    /// How many rows the database says that it has.
    rows: u64,
    progress: &'a mut dyn Progress,
}

struct Target {
    writer: Writer,
    announced: ApiVersion,
    imported: u64,
}

impl<'a> Importer<'a> {
    fn new(place: Place, known_max: usize, progress: &'a mut dyn Progress) -> anyhow::Result<Self> {
        let known = match place.beginning {
            Some(_) => known_events(&place, known_max, progress)?,
            None => Known::default(),
        };
        let in_front_of = place.beginning.as_ref().map(|beginning| beginning.first_sequence);
        let checked = Summary { in_front_of, ..Summary::default() };
        Ok(Importer { place, target: None, known, checked, rows: 0, progress })
    }

    /// Expects about so many rows to check.
    fn begin_checking(&mut self, rows: u64) {
        self.rows = rows;
        self.progress.begin(Stage::Check, rows);
    }

    /// Makes the log, now that the number of events is known.
    fn begin_writing(&mut self, database: &str) -> anyhow::Result<()> {
        self.progress.begin(Stage::Write, self.rows);
        let log_id = match &self.place.beginning {
            Some(beginning) => beginning.log_id,
            None => {
                let mut new = [0; 16];
                getrandom::fill(&mut new).map_err(|error| anyhow!("no random numbers for a log's id: {error}"))?;
                new
            }
        };
        let options = WriteOptions {
            first_sequence: self.place.first_sequence(self.checked.events)?,
            // The disk has to have it when it is put in its place, and not before.
            durability: Durability::Os,
            ..write_options(&Casper::default(), log_id, now())
        };
        let directory = self.place.begin()?;
        let Opened { mut writer, .. } = Writer::open(Arc::new(directory), options)
            .with_context(|| format!("cannot write the log in {}", self.place.unfinished.display()))?;
        mark(&mut writer, &serde_json::json!({"import": "begin", "from": database, "events": self.checked.events}))?;
        self.target = Some(Target { writer, announced: ApiVersion::NONE, imported: 0 });
        Ok(())
    }

    fn take(&mut self, row: &Row<'_>) -> anyhow::Result<()> {
        self.progress.stop_if_asked()?;
        self.progress.advance();
        let (payload, identity) = match payload(row) {
            Ok(content) => content,
            Err(what) => {
                if self.target.is_none() {
                    self.checked.left_out += 1;
                    self.progress.warn(row.id, &format!("{what}; it is left out"));
                }
                return Ok(());
            }
        };
        let received = row.emitted.and_then(|emitted| Timestamp::try_from(emitted).ok());
        let received =
            received.context("its emitted_timestamp is not a time after 1970; set it right in the database")?;
        let api_version = row.api_version.parse().ok();
        let has_line_ends = payload.contains('\r');
        let payload = if has_line_ends { with_line_feeds(&payload) } else { payload };
        let event = Event {
            kind: row.kind,
            name: "",
            source: row.source_address.trim_start_matches("http://").trim_end_matches('/'),
            network: row.network,
            api_version: api_version.unwrap_or(ApiVersion::NONE),
            upstream_id: Some(row.event_id.cast_unsigned()),
            received,
            payload: &payload,
        };
        if let Err(refused) = event.check() {
            if self.target.is_none() {
                self.checked.left_out += 1;
                self.progress.warn(row.id, &format!("content that a log cannot hold ({refused}); it is left out"));
            }
            return Ok(());
        }
        if self.known.has(&event, &identity) {
            self.checked.already_there += u64::from(self.target.is_none());
            return Ok(());
        }
        if let Some(read_until) = self.known.read_until.filter(|&read_until| received >= read_until) {
            bail!(
                "the log may have this event already: it was received at {} or later, and an import compares with the first \
                 {} events of {} only, which end there; import from a copy of the database without the rows from {} on",
                rfc3339::format(read_until),
                self.known.len(),
                self.place.directory.display(),
                rfc3339::format(read_until),
            );
        }
        let Some(target) = &mut self.target else {
            self.checked.events += 1;
            if has_line_ends {
                self.checked.with_line_ends += 1;
                self.checked.first_with_line_ends.get_or_insert(row.id);
            }
            if api_version.is_none() {
                self.checked.without_version += 1;
                let what = format!("the API version '{}', which is none; it is stored without one", row.api_version);
                self.progress.warn(row.id, &what);
            }
            return Ok(());
        };
        // Not as soon as it is full: the mark at the end must be written with an event, or it may get a segment of its own,
        // of the name that the log's own first segment has.
        if target.writer.is_block_full() {
            target.writer.commit()?;
        }
        if event.api_version > target.announced {
            target.writer.announce_version(event.api_version, event.source, received)?;
            target.announced = event.api_version;
        }
        target.writer.append(&event)?;
        target.imported += 1;
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Summary> {
        let Some(Target { mut writer, imported, .. }) = self.target.take() else { return Ok(self.checked) };
        ensure!(
            imported == self.checked.events,
            "{} events were counted in the database and {imported} read; import while nothing writes to it",
            self.checked.events
        );
        match &self.place.beginning {
            Some(beginning) => {
                let end =
                    serde_json::json!({"import": "end", "events": imported, IN_FRONT_OF: beginning.first_sequence});
                mark(&mut writer, &end)?;
                // The next segment is the log's own.
                writer.seal_now(now())?;
            }
            None => mark(&mut writer, &serde_json::json!({"import": "end", "events": imported}))?,
        }
        writer.close()?;
        self.place.finish(self.progress)?;
        Ok(self.checked)
    }
}

fn mark(writer: &mut Writer, body: &serde_json::Value) -> anyhow::Result<()> {
    let position = writer.next_sequence();
    let mark =
        Mark { kind: MarkKind::IMPORT, position, source: String::new(), received: now(), body: body.to_string() };
    Ok(writer.mark(&mark)?)
}

/// What the node said, and what makes it this event: the content with the name of its type around it, and two members as a
/// node calls them. Or what the row has instead.
fn payload(row: &Row<'_>) -> Result<(String, Identity), String> {
    #[derive(serde::Deserialize)]
    struct Accepted<'a> {
        #[serde(borrow)]
        transaction: &'a RawValue,
    }

    let name = kind_name(row.kind);
    let unreadable = |error: &dyn Display| format!("content that is not a {name} ({error})");
    let payload = match (row.kind, row.raw) {
        (event::SHUTDOWN, _) => "\"Shutdown\"".to_owned(),
        (_, None) => return Err("no content".to_owned()),
        (event::TRANSACTION_ACCEPTED, Some(raw)) => {
            let Accepted { transaction } = serde_json::from_str(raw).map_err(|error| unreadable(&error))?;
            format!("{{\"{name}\":{transaction}}}")
        }
        // In JSON a name in plain quotes is not part of a string, and this one is before the effects.
        (event::STEP, Some(raw)) => {
            format!("{{\"{name}\":{}}}", raw.replacen("\"execution_effect\"", "\"execution_effects\"", 1))
        }
        (_, Some(raw)) => format!("{{\"{name}\":{raw}}}"),
    };
    // Nothing comes into a log by this way that the sidecar would not take from a node.
    let identity = match classify(&payload) {
        Ok(Classified::Event(facts)) if facts.kind == row.kind => Ok(facts.identity),
        Ok(_) => Err(format!("content that is not a {name}")),
        Err(malformed) => Err(unreadable(&malformed)),
    }?;
    Ok((payload, identity))
}

/// The same JSON with the line ends that an event stream can carry. In JSON a carriage return is never part of a value.
fn with_line_feeds(json: &str) -> String {
    json.replace("\r\n", "\n").replace('\r', "\n")
}

#[cfg(test)]
mod tests {
    use std::{
        ops::RangeInclusive,
        path::{Path, PathBuf},
    };

    use sidecar_log_format::storage::Directory;

    use super::*;
    use crate::engine::storage_folder::{LogPlaces, is_log};

    /// Shows nothing.
    struct Unseen;

    impl Progress for Unseen {
        fn begin(&mut self, _: Stage, _: u64) {}
        fn advance(&mut self) {}
        fn warn(&mut self, _: i64, _: &str) {}
    }

    fn places(storage_path: &Path) -> LogPlaces {
        LogPlaces::new(storage_path, "casper")
    }

    fn log_directory(storage_path: &Path) -> PathBuf {
        places(storage_path).directory()
    }

    fn claim(storage_path: &Path) -> Place {
        Place::claim(&log_directory(storage_path), places(storage_path)).unwrap()
    }

    /// A log with a block for each of these eras' faults; the fault of era N was received at N.5 seconds.
    fn begun_log(storage_path: &Path, eras: RangeInclusive<u64>, has_import: bool) {
        let directory = Directory::create(log_directory(storage_path)).unwrap();
        let options = WriteOptions { first_sequence: 100, ..WriteOptions::new(DIALECT, [5; 16], 1) };
        let Opened { mut writer, .. } = Writer::open(Arc::new(directory), options).unwrap();
        if has_import {
            mark(&mut writer, &serde_json::json!({"import": "begin"})).unwrap();
        }
        for era in eras {
            let event = Event {
                kind: event::FAULT,
                name: "",
                source: "10.0.0.1:9999",
                network: "casper-test",
                api_version: ApiVersion::NONE,
                upstream_id: Some(era),
                received: era * 1_000_000 + 500_000,
                payload: &format!(r#"{{"Fault":{}}}"#, raw_fault(era)),
            };
            writer.append(&event).unwrap();
            writer.commit().unwrap();
        }
        writer.close().unwrap();
    }

    fn raw_fault(era: u64) -> String {
        format!(r#"{{"era_id":{era},"public_key":"01"}}"#)
    }

    /// The row of an era's fault, in a database that keeps whole seconds.
    fn fault_row(era: u64, raw: &str) -> Row<'_> {
        Row {
            id: 1,
            kind: event::FAULT,
            source_address: "http://10.0.0.1:9999/",
            event_id: 1,
            emitted: Some(era.cast_signed() * 1_000_000),
            api_version: "2.0.0",
            network: "casper-test",
            raw: Some(raw),
        }
    }

    #[test]
    fn rows_that_a_long_log_may_have_are_refused_and_older_ones_taken() {
        let storage_path = tempfile::tempdir().unwrap();
        begun_log(storage_path.path(), 10..=14, false);
        // Compared are 10 to 12; from the time of 12 on the log may have more.
        let mut unseen = Unseen;
        let mut importer = Importer::new(claim(storage_path.path()), 3, &mut unseen).unwrap();
        for era in [8, 11, 9, 12] {
            importer.take(&fault_row(era, &raw_fault(era))).unwrap();
        }
        assert_eq!((importer.checked.events, importer.checked.already_there), (2, 2));
        let raw = raw_fault(99);
        for era in [12, 13, 20] {
            let refused = importer.take(&fault_row(era, &raw)).unwrap_err().to_string();
            let expected = "the log may have this event already: it was received at 1970-01-01T00:00:12.000000Z or later, \
                            and an import compares with the first 3 events of";
            assert!(refused.starts_with(expected), "{refused}");
        }
        drop(importer);
        // All of them.
        let mut unseen = Unseen;
        let mut importer = Importer::new(claim(storage_path.path()), 5, &mut unseen).unwrap();
        for era in [13, 20] {
            importer.take(&fault_row(era, &raw_fault(era))).unwrap();
        }
        assert_eq!((importer.checked.events, importer.checked.already_there), (1, 1));
    }

    #[test]
    fn a_long_log_with_imported_events_gets_no_history() {
        let storage_path = tempfile::tempdir().unwrap();
        begun_log(storage_path.path(), 10..=14, true);
        let refused = Importer::new(claim(storage_path.path()), 4, &mut Unseen).err().unwrap().to_string();
        assert!(refused.contains("has imported events already, and more events than the 4 that"), "{refused}");
        assert!(refused.contains("to have the history all the same, stop the sidecar, move "), "{refused}");
        Importer::new(claim(storage_path.path()), 5, &mut Unseen).unwrap();
    }

    #[test]
    fn a_database_that_has_more_when_it_is_read_again_becomes_no_log() {
        let storage_path = tempfile::tempdir().unwrap();
        let raw = raw_fault(1);
        let row = fault_row(1, &raw);
        let mut unseen = Unseen;
        let mut importer = Importer::new(claim(storage_path.path()), Known::EVENTS_MAX, &mut unseen).unwrap();
        importer.take(&row).unwrap();
        importer.begin_writing("a database").unwrap();
        importer.take(&row).unwrap();
        importer.take(&row).unwrap();
        let refused = importer.finish().unwrap_err().to_string();
        assert!(refused.starts_with("1 events were counted in the database and 2 read"), "{refused}");
        assert!(!is_log(&log_directory(storage_path.path())).unwrap());
    }
}
