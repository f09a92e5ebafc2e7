//! Looking at a log without reading its events: what there is, and what is visibly wrong.
//!
//! A [`Log`] goes in, a [`Report`] comes out. Of sealed segments only the header, the footer and the blocks of marks are
//! read; of the unsealed one also the tables.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::ControlFlow,
    sync::Arc,
};

use serde::Serialize;

use crate::{
    ApiVersion, FORMAT_VERSION, Kind, Log, Mark, MarkKind, Result, Sequence, Timestamp,
    bytes_codec::hex,
    error::{Operation, Unreadable, storage_error},
    head::{self, HeadState},
    log::Sealed,
    losses::{LossKind, Losses},
    oldest,
    repair::MISPLACED_SUFFIX,
    scan::Scan,
    segment::{Footer, SegmentFile},
};

/// How many marks are listed; all are counted.
const MARKS_LISTED_MAX: usize = 50;
/// How many findings and leftover files are listed.
const HEALTH_LISTED_MAX: usize = 100;

/// What a log holds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The log's directory.
    pub directory: String,
    /// The id that the log got when it was made, in hexadecimal digits.
    pub log_id: String,
    /// The dialect of its source.
    pub dialect: String,
    /// The newest format version that this release reads; the log's is not above.
    pub format_version: u16,
    /// Changes when sequences may have been given out twice.
    pub epoch: u64,
    /// The first retained sequence.
    pub oldest_sequence: Sequence,
    /// What the next event will get.
    pub next_sequence: Sequence,
    /// The chain value after the last event, in hexadecimal digits.
    pub chain: String,
    /// The highest API version that any source has announced.
    pub api_version: Option<String>,
    /// All API versions that were announced while the retained segments were written, ascending.
    pub api_versions: Vec<String>,
    /// Everything added up.
    pub totals: Totals,
    /// The segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// The marks.
    pub marks: MarksReport,
    /// Events that are lost, as far as headers and indexes show.
    pub losses: Losses,
    /// Events that are not in this copy though the head that came with it names them: nothing wrong, a copy is a prefix.
    pub copy_lacks: Option<CopyLacks>,
    /// What is visibly wrong, at most a hundred lines; empty when nothing is. Only verifying reads everything.
    pub health: Vec<String>,
    /// What is worth knowing and not wrong, at most a hundred lines: a copied log, bytes that a repair kept aside.
    pub notes: Vec<String>,
}

/// Sums over all segments.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Events.
    pub events: u64,
    /// Events by kind name, the most frequent first.
    pub kinds: Vec<KindCount>,
    /// Blocks of events and marks.
    pub blocks: u64,
    /// Wire bytes of all events.
    pub bytes_raw: u64,
    /// Bytes on disk, without what is only reserved.
    pub bytes_stored: u64,
    /// Bytes on disk per wire byte.
    pub ratio: Option<f64>,
    /// When the first event was received (by the clock), in microseconds since the Unix epoch.
    pub received_min: Option<Timestamp>,
    /// When the last event was received (by the clock).
    pub received_max: Option<Timestamp>,
    /// Who said the events.
    pub sources: Vec<String>,
}

/// What a copy of a log does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CopyLacks {
    /// The first sequence that its head names and its segments do not reach.
    pub first_sequence: Sequence,
    /// The last one that its head names.
    pub last_sequence: Sequence,
}

impl CopyLacks {
    /// What is named and not there, if the segments end before `next_sequence` and the head names `head` as the next.
    pub(crate) fn between(next_sequence: Sequence, head: Sequence) -> Option<Self> {
        (next_sequence < head).then(|| CopyLacks { first_sequence: next_sequence, last_sequence: head - 1 })
    }
}

impl std::fmt::Display for CopyLacks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first_sequence == self.last_sequence {
            true => write!(formatter, "sequence {}", self.first_sequence),
            false => write!(formatter, "sequences {} to {}", self.first_sequence, self.last_sequence),
        }
    }
}

/// What a log that was copied while it was being written lacks of what its head names: the head was copied after the
/// segments. `None` for a log in its own place, and for a copy that holds as much as its head says.
///
/// # Errors
/// What the storage answers.
pub fn copy_lacks(log: &Log) -> Result<Option<CopyLacks>> {
    Ok(match head::read(log.shared.storage.as_ref())? {
        HeadState::Copied(slot) => CopyLacks::between(log.head().next_sequence, slot.next_sequence),
        HeadState::Own(_) | HeadState::Missing => None,
    })
}

/// What is to be said of a log whose head was written for another directory.
pub(crate) fn copied_note(lacks: Option<CopyLacks>) -> String {
    let note = "the head was written for another directory: this is a copy, good up to where it ends";
    match lacks {
        Some(lacks) => format!("{note}, before {lacks}, which the head names"),
        None => note.to_owned(),
    }
}

/// How many events there are of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// The kind's name.
    pub kind: String,
    /// How many.
    pub events: u64,
}

/// What one segment holds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Its file, relative to the log's directory.
    pub file: String,
    /// The first sequence it may hold.
    pub first_sequence: Sequence,
    /// The last one; `None` while it holds no event.
    pub last_sequence: Option<Sequence>,
    /// Whether it never changes any more.
    pub is_sealed: bool,
    /// Which writing of this range it is; a rewrite counts it up.
    pub generation: u32,
    /// The zstd level that its blocks were last rewritten with; `None` while they are as they were committed.
    pub rewritten_level: Option<u8>,
    /// The epoch it was begun in.
    pub epoch: u64,
    /// When it was begun, in microseconds since the Unix epoch.
    pub created: Timestamp,
    /// Events.
    pub events: u64,
    /// Events by kind name, the most frequent first.
    pub kinds: Vec<KindCount>,
    /// Blocks of events and marks.
    pub blocks: u64,
    /// Marks.
    pub marks: u64,
    /// Wire bytes of its events.
    pub bytes_raw: u64,
    /// Bytes on disk, without what is only reserved.
    pub bytes_stored: u64,
    /// Bytes of the file.
    pub bytes_file: u64,
    /// Bytes on disk per wire byte.
    pub ratio: Option<f64>,
    /// The earliest receive time.
    pub received_min: Option<Timestamp>,
    /// The latest receive time.
    pub received_max: Option<Timestamp>,
    /// Who said its events.
    pub sources: Vec<String>,
}

/// The marks of a log.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct MarksReport {
    /// How many there are, by name.
    pub counts: BTreeMap<String, u64>,
    /// The newest fifty, oldest first.
    pub newest: Vec<MarkReport>,
}

/// A mark.
#[derive(Clone, Debug, Serialize)]
pub struct MarkReport {
    /// What it says: `gap`, `version`, `amendment`, `loss`, `import`.
    pub mark: &'static str,
    /// The sequence that the next event had.
    pub position: Sequence,
    /// Which source it is about; empty when about none.
    pub source: String,
    /// When it was made, in microseconds since the Unix epoch.
    pub received: Timestamp,
    /// Its JSON object, as it is stored.
    pub body: String,
}

/// Looks at a log as it was when `log` was opened or last refreshed; also while it is being written.
///
/// # Errors
/// What the storage answers. Damage is part of the report.
pub fn inspect(log: &Log) -> Result<Report> {
    let head = log.head();
    let mut inspection = Inspection::default();
    inspection.look_at_head(log)?;
    let segments = log.shared.segment_list();
    for (index, &first) in segments.iter().enumerate() {
        inspection.segment(log, first, index + 1 == segments.len())?;
    }
    inspection.look_for_leftovers(log)?;
    log.find_losses(&mut || ControlFlow::Continue(()))?;
    let losses = log.losses();
    for lost in losses.unmarked().filter(|lost| lost.kind == LossKind::Missing) {
        inspection.health.push(format!("{} events are missing, sequences {lost}: {}", lost.events(), lost.reason));
    }
    let mut totals = inspection.totals;
    totals.kinds = kind_counts(&inspection.counts, &log.kinds());
    totals.sources = inspection.sources.into_iter().collect();
    totals.ratio = ratio(totals.bytes_stored, totals.bytes_raw);
    inspection.versions.insert(head.api_version);
    inspection.versions.remove(&ApiVersion::NONE);
    inspection.marks.newest = inspection.newest_marks.into_iter().map(MarkReport::from).collect();
    inspection.health.truncate(HEALTH_LISTED_MAX);
    inspection.notes.truncate(HEALTH_LISTED_MAX);
    Ok(Report {
        directory: log.shared.storage.name(),
        log_id: hex(&log.id()),
        dialect: log.dialect(),
        format_version: FORMAT_VERSION,
        epoch: head.epoch,
        oldest_sequence: log.oldest(),
        next_sequence: head.next_sequence,
        chain: hex(&head.chain),
        api_version: (!head.api_version.is_none()).then(|| head.api_version.to_string()),
        api_versions: inspection.versions.iter().map(ToString::to_string).collect(),
        totals,
        segments: inspection.segments,
        marks: inspection.marks,
        losses,
        copy_lacks: inspection.copy_lacks,
        health: inspection.health,
        notes: inspection.notes,
    })
}

/// What is gathered on the way through the segments.
#[derive(Default)]
struct Inspection {
    totals: Totals,
    counts: BTreeMap<u8, u64>,
    sources: BTreeSet<String>,
    versions: BTreeSet<ApiVersion>,
    segments: Vec<SegmentReport>,
    marks: MarksReport,
    newest_marks: VecDeque<Mark>,
    copy_lacks: Option<CopyLacks>,
    health: Vec<String>,
    notes: Vec<String>,
}

impl Inspection {
    fn segment(&mut self, log: &Log, first: Sequence, is_last: bool) -> Result<()> {
        let (file, mut footer, is_sealed) = match open(log, first, is_last) {
            Ok(opened) => opened,
            // Dropped by retention meanwhile.
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) if error.is_damage() => {
                self.health.push(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(damage) = &file.header_damage {
            self.health.push(format!("the header of {}: {damage}; run `sidecar-log repair`", file.name));
        }
        if !is_sealed {
            if !is_last {
                self.health.push(format!("{} does not end in a sound footer", file.name));
            }
            file.count_events(&mut footer, |error| self.health.push(error.to_string()))?;
        }
        self.take_marks(&file, &footer)?;
        self.versions.insert(file.header.version_announced);
        self.versions.insert(footer.position().announced_version);
        self.add(log, &file, &footer, is_sealed)
    }

    fn add(&mut self, log: &Log, file: &SegmentFile, footer: &Footer, is_sealed: bool) -> Result<()> {
        let bytes_file = file.file.len().map_err(storage_error(Operation::Read, &file.name))?;
        let blocks_end =
            footer.blocks.last().map_or(file.blocks_start, |block| block.offset + u64::from(block.stored_bytes));
        let events = footer.blocks.iter().map(|block| u64::from(block.count)).sum();
        let counts: BTreeMap<u8, u64> = (0..).zip(footer.counts).filter(|(_, events)| *events > 0).collect();
        let segment = SegmentReport {
            file: file.name.clone(),
            first_sequence: file.header.first_sequence,
            last_sequence: (events > 0).then(|| footer.end_sequence.saturating_sub(1)),
            is_sealed,
            generation: file.header.generation,
            rewritten_level: Some(file.header.rewritten_level).filter(|&level| level > 0),
            epoch: file.header.epoch,
            created: file.header.created,
            events,
            kinds: kind_counts(&counts, &log.kinds()),
            blocks: footer.blocks.len() as u64,
            marks: footer.marks,
            bytes_raw: footer.payload_raw,
            bytes_stored: if is_sealed { bytes_file } else { blocks_end },
            bytes_file,
            ratio: ratio(if is_sealed { bytes_file } else { blocks_end }, footer.payload_raw),
            received_min: (events > 0).then_some(footer.received_min),
            received_max: (events > 0).then_some(footer.received_max),
            sources: footer.sources.clone(),
        };
        for (kind, events) in counts {
            *self.counts.entry(kind).or_default() += events;
        }
        self.sources.extend(footer.sources.iter().cloned());
        let totals = &mut self.totals;
        totals.events += segment.events;
        totals.blocks += segment.blocks;
        totals.bytes_raw += segment.bytes_raw;
        totals.bytes_stored += segment.bytes_stored;
        totals.received_min = [totals.received_min, segment.received_min].into_iter().flatten().min();
        totals.received_max = totals.received_max.max(segment.received_max);
        self.segments.push(segment);
        Ok(())
    }

    fn take_marks(&mut self, file: &SegmentFile, footer: &Footer) -> Result<()> {
        for mark in file.all_marks(footer)? {
            *self.marks.counts.entry(mark.kind.name().to_owned()).or_default() += 1;
            if mark.kind == MarkKind::VERSION
                && let Some(version) = announced(&mark.body)
            {
                self.versions.insert(version);
            }
            if self.newest_marks.len() == MARKS_LISTED_MAX {
                self.newest_marks.pop_front();
            }
            self.newest_marks.push_back(mark);
        }
        Ok(())
    }

    fn look_at_head(&mut self, log: &Log) -> Result<()> {
        let storage = log.shared.storage.as_ref();
        if oldest::read(storage)?.sequence().is_none() {
            let first = log.oldest();
            self.health.push(format!(
                "there is no file `oldest`, or no sound slot in it: it is unknown whether events before {first} were \
                 dropped or are lost"
            ));
        }
        match head::read(storage)? {
            HeadState::Missing => self.health.push("there is no head file, or no sound slot in it".to_owned()),
            HeadState::Copied(slot) => {
                self.copy_lacks = CopyLacks::between(log.head().next_sequence, slot.next_sequence);
                self.notes.push(copied_note(self.copy_lacks));
            }
            // What it names and no segment holds is among the losses.
            HeadState::Own(_) => {}
        }
        Ok(())
    }

    /// Files that recovery or repair kept aside, for an operator to look at and remove.
    fn look_for_leftovers(&mut self, log: &Log) -> Result<()> {
        let mut names = log.shared.storage.list().map_err(storage_error(Operation::List, "the directory"))?;
        names.sort();
        for name in names {
            if name.ends_with(".lost") || name.ends_with(".quarantined") {
                self.notes.push(format!("{name} holds damaged bytes that were kept aside"));
            } else if name.ends_with(MISPLACED_SUFFIX) {
                self.health
                    .push(format!("{name} is a segment that a repair was renaming; run `sidecar-log repair` again"));
            }
        }
        Ok(())
    }
}

/// Opens a segment; says whether it is sealed.
fn open(log: &Log, first: Sequence, is_last: bool) -> Result<(Arc<SegmentFile>, Footer, bool)> {
    let storage = log.shared.storage.as_ref();
    if !is_last {
        let Sealed { file, footer, has_footer, .. } = Sealed::open(storage, first)?;
        return Ok((file, footer, has_footer));
    }
    let file = Arc::new(SegmentFile::open(storage, first, false)?);
    if let Ok(Some((footer, _))) = Footer::read(&file.name, file.file.as_ref()) {
        return Ok((file, footer, true));
    }
    let durable_end = head::read(storage)?.durable_end(first).unwrap_or(u64::MAX);
    let mut scan = Scan::begin(&file, Unreadable::IsDamage);
    scan.advance(&file, durable_end, durable_end)?;
    Ok((file, scan.footer, false))
}

fn announced(body: &str) -> Option<ApiVersion> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    body.get("version")?.as_str()?.parse().ok()
}

/// Counts by name, the most frequent first.
fn kind_counts(counts: &BTreeMap<u8, u64>, names: &[(u8, String)]) -> Vec<KindCount> {
    let mut named: Vec<_> =
        counts.iter().map(|(&kind, &events)| KindCount { kind: kind_name(Kind(kind), names), events }).collect();
    named.sort_by(|one, other| other.events.cmp(&one.events).then_with(|| one.kind.cmp(&other.kind)));
    named
}

/// The name of a kind, in a log's dialect.
#[must_use]
pub fn kind_name(kind: Kind, names: &[(u8, String)]) -> String {
    match names.iter().find(|(number, _)| *number == kind.0) {
        Some((_, name)) => name.clone(),
        None if kind.0 >= Kind::OTHER.0 => "other".to_owned(),
        None => format!("kind-{}", kind.0),
    }
}

fn ratio(stored: u64, raw: u64) -> Option<f64> {
    (raw > 0).then(|| stored as f64 / raw as f64)
}

impl From<Mark> for MarkReport {
    fn from(mark: Mark) -> Self {
        MarkReport {
            mark: mark.kind.name(),
            position: mark.position,
            source: mark.source,
            received: mark.received,
            body: mark.body,
        }
    }
}
