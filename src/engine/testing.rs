//! For tests: a chain that is nothing like Casper's, so that the engine is seen to know none.
//!
//! Its frames are named, its events have no heights, and it has no API versions. A note is known by its key, whatever its
//! layout; a bell says nothing at all, so only its source can tell one from another; anything else is known by its bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sidecar_log_format::{ApiVersion, FrameForm, Kind, RewriteOptions, Timestamp};

use super::dialect::{Dialect, Facts, Identity, write_options};
use super::ingest::{self, Retention, Rewriting, identity};
use super::source::{Connection, Received};

pub(crate) const NOTE: Kind = Kind(1);
pub(crate) const BELL: Kind = Kind(2);

/// The dialect of one log of notes and bells.
#[derive(Debug)]
pub(crate) struct Notes {
    kinds: [(Kind, Box<str>); 2],
}

impl Default for Notes {
    fn default() -> Self {
        Notes { kinds: [(NOTE, "note".into()), (BELL, "bell".into())] }
    }
}

impl Dialect for Notes {
    fn name(&self) -> &str {
        "notes"
    }

    fn kinds(&self) -> &[(Kind, Box<str>)] {
        &self.kinds
    }

    fn frame_form(&self) -> FrameForm {
        FrameForm::Named
    }

    fn facts(&self, kind: Kind, payload: &str) -> Option<Facts> {
        let note: Option<Note<'_>> = serde_json::from_str(payload).ok().filter(|_| kind == NOTE);
        let known_by = note.as_ref().map_or(payload, |note| note.key);
        let richness = note.as_ref().map_or(0, |note| note.pictures);
        let mut hash = [0; 16];
        blake3::Hasher::new().update(known_by.as_bytes()).finalize_xof().fill(&mut hash);
        Some(Facts { identity: Identity { class: kind.0, time: 0, hash }, richness, ordinal: None })
    }

    fn marked_kinds(&self) -> u64 {
        BELL.bit()
    }
}

#[derive(Deserialize)]
struct Note<'a> {
    key: &'a str,
    /// What some copies lack.
    #[serde(default)]
    pictures: u32,
}

/// An event of a kind as a source of notes would hand it over.
pub(crate) fn received(kind: Kind, name: &str, payload: &str) -> Received {
    Received {
        payload: payload.to_owned(),
        kind,
        name: name.into(),
        facts: Notes::default().facts(kind, payload).unwrap(),
        upstream_id: None,
        received_at: RECEIVED_AT,
        line: None,
    }
}

const RECEIVED_AT: Timestamp = 1;

/// A note, with as many pictures.
pub(crate) fn note(key: &str, pictures: u32) -> Received {
    received(NOTE, "", &format!(r#"{{"key":"{key}","pictures":{pictures}}}"#))
}

/// A bell that its source tells from others by `number`.
pub(crate) fn bell(number: u8) -> Received {
    let mut bell = received(BELL, "", "\"bell\"");
    bell.facts.identity.hash = [number; 16];
    bell
}

/// A connection to a source of this name.
pub(crate) fn connection(source: &str) -> Connection {
    Connection {
        source: source.to_owned(),
        network: "notes-test".to_owned(),
        api_version: ApiVersion::NONE,
        event_lines: None,
    }
}

/// How a log of notes in `folder` is stored.
pub(crate) fn options(folder: &Path) -> ingest::Options {
    let dialect = Arc::new(Notes::default());
    ingest::Options {
        log_directory: folder.join("logs/notes"),
        index_file: folder.join("index/notes.redb"),
        write: write_options(&*dialect, [1; 16], 1),
        dialect,
        sync_interval: Duration::from_secs(1),
        index: identity::Options::default(),
        retention: Retention::default(),
        rewriting: Rewriting::Merge(RewriteOptions::COMPACTION),
        queued_batches: 4,
    }
}
