//! Answers from the views and the log: a view says which sequences answer a question, and the log has their bytes.
//!
//! A look-up in a view is a few small pages of a local file and happens where it is asked for. So does reading an event
//! whose block is in the cache; blocks are read from disk and decoded on blocking threads, a few at a time. For one event
//! a block is decoded no further than that event ends, and only one that is asked for again soon goes into the cache.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidecar_log_format::{Log, Missing, Read, Sequence};
use tokio::sync::Semaphore;

use super::answers::{Failure, Found, Memory, Pushed};
use super::question::{PageOfEvents, Question};
use super::status;
use crate::source::casper::NamedSource;
use crate::view::{ViewError, Views};

/// How long a question waits for the views to see what was stored when it was asked.
const VIEW_WAIT_MAX: Duration = Duration::from_secs(1);
/// How many blocks are remembered as having been read for one event.
const READ_LATELY_MAX: usize = 256;
/// Blocks that one page reads, and that it passes over because the index knows of no event of its kinds there, before it
/// says where to go on.
const PAGE_BLOCKS_READ_MAX: usize = 64;
const PAGE_BLOCKS_PASSED_MAX: usize = 4096;

/// Reads answers.
pub struct LogAnswers {
    log: Log,
    views: Views,
    sources: Vec<NamedSource>,
    decoders: Arc<Semaphore>,
    memory: Memory,
    read_lately: Arc<ReadLately>,
}

impl LogAnswers {
    /// `sources` are what `/status` shows; `decode_concurrency` blocks are decoded at a time, at least 1.
    #[must_use]
    pub fn new(log: Log, views: Views, sources: Vec<NamedSource>, decode_concurrency: usize) -> Self {
        LogAnswers {
            log,
            views,
            sources,
            decoders: Arc::new(Semaphore::new(decode_concurrency.max(1))),
            memory: Memory::default(),
            read_lately: Arc::default(),
        }
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How far log, views and sources are.
    pub(super) fn status(&self, version: &str) -> Vec<u8> {
        status::of_log(version, &self.log, self.view_lag(), &self.sources)
    }

    /// How many stored events the views have not seen yet.
    fn view_lag(&self) -> u64 {
        self.log.left_from(self.views.next_sequence())
    }

    /// Adds the events that answer `question` to `found`.
    pub(super) async fn find(&self, question: &Question, found: Found) -> Result<Found, Failure> {
        let sequences = self.sequences(question).await?;
        self.read(sequences, found).await
    }

    /// Whether an event answers `question`.
    pub(super) async fn is_there(&self, question: &Question) -> Result<bool, Failure> {
        Ok(!self.sequences(question).await?.is_empty())
    }

    /// Adds a page of blocks from a height on to `found`; says with which height to go on.
    pub(super) async fn blocks(&self, from_height: u64, limit: usize, found: Found) -> Result<(Found, u64), Failure> {
        let blocks = self.blocks_from(from_height, limit).await?;
        let sequences = blocks.iter().map(|(_, sequence)| *sequence).collect();
        let found = self.read(sequences, found).await?;
        let last = blocks.iter().find(|(_, sequence)| found.events > 0 && *sequence == found.last);
        let next = last.map_or(from_height, |(height, _)| height.saturating_add(1));
        Ok((found, next))
    }

    /// Adds the events of these sequences; those that retention has dropped meanwhile are left out.
    pub(super) async fn read(&self, sequences: Vec<Sequence>, found: Found) -> Result<Found, Failure> {
        let read_lately = Arc::clone(&self.read_lately);
        let mut reading = Reading { log: self.log.clone(), read_lately, sequences, next: 0, found };
        loop {
            match reading.go_on_in_memory()? {
                Stop::Done => return Ok(reading.found),
                Stop::NeedsRoom => self.memory.make_room(&mut reading.found).await?,
                Stop::NeedsDisk => {
                    let stop;
                    (reading, stop) = self
                        .on_disk(move || {
                            let stop = reading.go_on();
                            (reading, stop)
                        })
                        .await?;
                    match stop? {
                        Stop::Done => return Ok(reading.found),
                        _ => self.memory.make_room(&mut reading.found).await?,
                    }
                }
            }
        }
    }

    /// Adds a page of the log to `found`; says where to go on, and what of it is missing.
    pub(super) async fn page(&self, page: PageOfEvents, found: Found) -> Result<(Found, PageEnd), Failure> {
        let mut found = found;
        loop {
            let log = self.log.clone();
            let (scanned, result) = self
                .on_disk(move || {
                    let mut found = found;
                    let result = scan(&log, page, &mut found);
                    (found, result)
                })
                .await?;
            found = scanned;
            match result? {
                Some(end) => return Ok((found, end)),
                None => self.memory.make_room(&mut found).await?,
            }
        }
    }

    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let permit = Arc::clone(&self.decoders).acquire_owned().await;
        let permit = permit.map_err(|error| Failure::Storage(error.to_string()))?;
        // The permit goes with the work, which does not end when its client leaves.
        let work = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Storage(error.to_string()))
    }

    /// The sequences that answer, as of the moment of asking.
    pub(super) async fn sequences(&self, question: &Question) -> Result<Vec<Sequence>, Failure> {
        let head = self.log.head().next_sequence;
        // Asked before the look-up, which then sees at least as much.
        let is_current = self.views.next_sequence() >= head;
        let at_once = self.look_up(question).await;
        match &at_once {
            Ok(found) if is_current || (question.is_settled_by_one() && !found.is_empty()) => return at_once,
            // They may be about to open.
            Ok(_) | Err(Failure::Closed) => {}
            Err(_) => return at_once,
        }
        if self.views.caught_up_to(head, VIEW_WAIT_MAX).await {
            return self.look_up(question).await;
        }
        match (question, at_once) {
            // The newest that is known is an answer to this.
            (Question::LatestBlock, Ok(found)) if !found.is_empty() => Ok(found),
            (_, Err(closed)) => Err(closed),
            _ => Err(Failure::Behind { events: self.view_lag() }),
        }
    }

    async fn look_up(&self, question: &Question) -> Result<Vec<Sequence>, Failure> {
        let views = &self.views;
        let one = |found: Option<Sequence>| found.into_iter().collect();
        match question {
            Question::LatestBlock => views.latest_block().map(one),
            Question::BlockByHash(hash) => views.block_by_hash(hash).map(one),
            Question::BlockByHeight(height) => views.block_by_height(*height).map(one),
            Question::Transaction(stage, form, hash) => views.transaction(*stage, *form, hash).map(one),
            Question::FaultsByKey(key) => views.faults_by_key(key),
            Question::FaultsByEra(era) => views.faults_by_era(*era),
            Question::Signatures(block) => match views.signatures_in_memory(block) {
                Ok(Some(found)) => Ok(found),
                Ok(None) => {
                    let (views, block) = (views.clone(), *block);
                    self.on_disk(move || views.signatures(&block)).await?
                }
                Err(error) => Err(error),
            },
            Question::Step(era) => views.step(*era).map(one),
            Question::TransactionsOf { account, before, limit } => {
                views.transactions_by_initiator(account, *before, *limit)
            }
        }
        .map_err(|error| view_failure(&error))
    }

    /// Blocks from a height on, each with its height.
    async fn blocks_from(&self, height: u64, limit: usize) -> Result<Vec<(u64, Sequence)>, Failure> {
        let head = self.log.head().next_sequence;
        if self.views.next_sequence() < head && !self.views.caught_up_to(head, VIEW_WAIT_MAX).await {
            return Err(Failure::Behind { events: self.view_lag() });
        }
        self.views.blocks_from(height, limit).map_err(|error| view_failure(&error))
    }
}

fn view_failure(error: &ViewError) -> Failure {
    match error {
        ViewError::Closed { .. } => Failure::Closed,
        error => Failure::Storage(error.to_string()),
    }
}

/// Where a page of the log ends.
#[derive(Debug)]
pub(super) struct PageEnd {
    /// The sequence to go on from.
    pub(super) next: Sequence,
    /// Ranges (both ends inclusive) that hold no event any more, and why.
    pub(super) missing: Vec<(Sequence, Sequence, String)>,
}

enum Stop {
    Done,
    NeedsRoom,
    NeedsDisk,
}

/// Events on their way into an answer.
struct Reading {
    log: Log,
    read_lately: Arc<ReadLately>,
    sequences: Vec<Sequence>,
    /// The place in `sequences`.
    next: usize,
    found: Found,
}

impl Reading {
    /// Goes on for as long as that takes no I/O.
    fn go_on_in_memory(&mut self) -> Result<Stop, Failure> {
        while let Some(&sequence) = self.sequences.get(self.next) {
            let Some(read) = self.log.read_cached(sequence) else { return Ok(Stop::NeedsDisk) };
            if let Some(stop) = self.take(read)? {
                return Ok(stop);
            }
        }
        Ok(Stop::Done)
    }

    fn go_on(&mut self) -> Result<Stop, Failure> {
        while let Some(&sequence) = self.sequences.get(self.next) {
            let read = match self.sequences.len() {
                1 => self.read_lately.read(&self.log, sequence),
                _ => self.log.read(sequence),
            };
            let read = read.map_err(|error| Failure::Storage(error.to_string()))?;
            if let Some(stop) = self.take(read)? {
                return Ok(stop);
            }
        }
        Ok(Stop::Done)
    }

    fn take(&mut self, read: Read) -> Result<Option<Stop>, Failure> {
        match push(&mut self.found, read)? {
            Pushed::Yes => self.next += 1,
            Pushed::NeedsRoom => return Ok(Some(Stop::NeedsRoom)),
            Pushed::PageIsFull => return Ok(Some(Stop::Done)),
        }
        Ok(None)
    }
}

/// The blocks that were read for one event each, by their first sequences, the latest last.
#[derive(Default)]
struct ReadLately(Mutex<VecDeque<Sequence>>);

impl ReadLately {
    /// Reads one event; its whole block goes into the cache when it was read lately.
    fn read(&self, log: &Log, sequence: Sequence) -> sidecar_log_format::Result<Read> {
        match log.read_alone(sequence)? {
            Read::Events { block, .. } if self.note(block.first_sequence()) => log.read(sequence),
            read => Ok(read),
        }
    }

    /// Notes a block; says whether it was noted before.
    fn note(&self, block: Sequence) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.contains(&block) {
            return true;
        }
        if noted.len() == READ_LATELY_MAX {
            noted.pop_front();
        }
        noted.push_back(block);
        false
    }
}

fn push(found: &mut Found, read: Read) -> Result<Pushed, Failure> {
    match read {
        Read::Events { block, index } => match block.row(index) {
            Some(row) => found.push_row(&row, &row.payload()),
            None => Ok(Pushed::Yes),
        },
        Read::Large(event) => {
            let Some(row) = event.shape().row(0) else { return Ok(Pushed::Yes) };
            let room = found.room_for(usize::try_from(event.wire_bytes()).unwrap_or(usize::MAX))?;
            if room != Pushed::Yes {
                return Ok(room);
            }
            let payload = event.payload().map_err(|error| Failure::Storage(error.to_string()))?;
            found.push_row(&row, &payload)
        }
        Read::Missing { why: Missing::Dropped | Missing::Hole, .. } | Read::End => Ok(Pushed::Yes),
        Read::Missing { from, why: Missing::Quarantined(why), .. } => {
            Err(Failure::Storage(format!("event {from} is in a damaged block: {why}")))
        }
    }
}

pub(super) fn describe(why: &Missing) -> String {
    match why {
        Missing::Dropped => "older than the oldest retained event".to_owned(),
        Missing::Hole => "lost, or was never stored".to_owned(),
        // In which file is the operator's business.
        Missing::Quarantined(_) => "in a damaged block".to_owned(),
    }
}

/// Reads a page; `None` when its first event needs room.
fn scan(log: &Log, page: PageOfEvents, found: &mut Found) -> Result<Option<PageEnd>, Failure> {
    let mut end = PageEnd { next: page.from, missing: Vec::new() };
    let unreadable = |error: sidecar_log_format::Error| Failure::Storage(error.to_string());
    let (mut read, mut passed) = (0, 0);
    while found.events < page.limit && read < PAGE_BLOCKS_READ_MAX && passed < PAGE_BLOCKS_PASSED_MAX {
        let outline = log.outline(end.next).map_err(unreadable)?;
        if let Some(outline) = outline.filter(|outline| outline.kinds & page.kinds == 0) {
            passed += 1;
            end.next = outline.end_sequence;
            continue;
        }
        read += 1;
        match log.read(end.next).map_err(unreadable)? {
            Read::Events { block, index } => {
                for row in (index..block.len()).filter_map(|index| block.row(index)) {
                    if found.events == page.limit {
                        break;
                    }
                    if row.kind().bit() & page.kinds != 0 {
                        match found.push_row(&row, &row.payload())? {
                            Pushed::Yes => {}
                            Pushed::NeedsRoom => return Ok(None),
                            Pushed::PageIsFull => return Ok(Some(end)),
                        }
                    }
                    end.next = row.sequence() + 1;
                }
            }
            Read::Large(event) => match push(found, Read::Large(event))? {
                Pushed::Yes => end.next += 1,
                Pushed::NeedsRoom => return Ok(None),
                Pushed::PageIsFull => return Ok(Some(end)),
            },
            Read::Missing { from, to, why } => {
                let to = to.max(from + 1);
                end.missing.push((from, to - 1, describe(&why)));
                end.next = to;
            }
            Read::End => break,
        }
    }
    Ok(Some(end))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sidecar_log_format::storage::Directory;
    use sidecar_log_format::{ApiVersion, Event, Kind, ReadOptions, WriteOptions, Writer};

    use super::super::answers::Form;
    use super::*;
    use crate::source::casper::event::FINALITY_SIGNATURE;
    use crate::view;

    /// A log of a block of one event for each kind and payload, and a segment for each `per_segment` of them.
    fn log_of(folder: &Path, events: impl Iterator<Item = (Kind, String)>, per_segment: usize) -> Log {
        let options = WriteOptions::new("casper", [7; 16], 5);
        let mut writer = Writer::open(Arc::new(Directory::at(folder)), options).unwrap().writer;
        for (number, (kind, payload)) in events.enumerate() {
            let event = Event {
                kind,
                source: "10.0.0.1:9999",
                network: "casper-test",
                api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
                upstream_id: None,
                received: 5,
                payload: &payload,
            };
            writer.append(&event).unwrap();
            writer.commit().unwrap();
            if (number + 1) % per_segment == 0 {
                writer.seal_now(5).unwrap();
            }
        }
        writer.close().unwrap();
        opened(folder)
    }

    fn event_of(kind: u8) -> (Kind, String) {
        (Kind(kind), r#"{"Other":{}}"#.to_owned())
    }

    fn opened(folder: &Path) -> Log {
        Log::open(Arc::new(Directory::at(folder)), ReadOptions::default()).unwrap()
    }

    #[test]
    fn a_page_passes_over_blocks_without_its_kinds_and_reads_none_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let kinds = std::iter::repeat_n(1, 3 * PAGE_BLOCKS_READ_MAX).chain([2]);
        let log = log_of(folder.path(), kinds.map(event_of), usize::MAX);
        let last = 3 * PAGE_BLOCKS_READ_MAX as u64;
        let page = |kinds: u64| {
            let mut found = Found::new("", Form::Stored, &Arc::default()).paged();
            let end = scan(&log, PageOfEvents { from: 0, limit: 1000, kinds }, &mut found).unwrap().unwrap();
            (found.events, end.next)
        };
        assert_eq!(page(Kind(2).bit()), (1, last + 1));
        assert!(log.read_cached(0).is_none() && log.read_cached(last).is_some());
        assert_eq!(page(u64::MAX), (PAGE_BLOCKS_READ_MAX, PAGE_BLOCKS_READ_MAX as u64));
    }

    #[test]
    fn nothing_is_found_where_nothing_is_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        drop(log_of(folder.path(), [1; 6].into_iter().map(event_of), 2));
        let segment = |first: u64| folder.path().join(format!("{first:020}.segment"));
        std::fs::remove_file(segment(2)).unwrap();
        let mut bytes = std::fs::read(segment(0)).unwrap();
        let begin = bytes.windows(4).position(|magic| magic == b"SBLK").unwrap();
        bytes[begin + 150] ^= 1;
        std::fs::write(segment(0), bytes).unwrap();
        let log = opened(folder.path());
        let look_for = |sequence| {
            let found = Found::new("", Form::Stored, &Arc::default());
            let (log, sequences) = (log.clone(), vec![sequence]);
            let mut reading = Reading { log, read_lately: Arc::default(), sequences, next: 0, found };
            reading.go_on().map(|_| reading.found.events)
        };
        assert_eq!(look_for(3).unwrap(), 0, "a hole");
        assert_eq!(look_for(4).unwrap(), 1);
        assert_eq!(look_for(9).unwrap(), 0, "after the end");
        assert!(matches!(look_for(0), Err(Failure::Storage(why)) if why.contains("in a damaged block")));
    }

    const BLOCK: [u8; 32] = [7; 32];

    /// A key that signed twice, in the old form and in the new one: only the events tell that it is one key.
    fn log_of_two_signatures_of_one_key(folder: &Path) -> Log {
        let (block, key) = (hex::encode(BLOCK), format!("01{}", "a".repeat(64)));
        let signature = |form| {
            let payload =
                format!(r#"{{"FinalitySignature":{{{form},"block_hash":"{block}","public_key":"{key}"}}}}}}"#);
            (FINALITY_SIGNATURE, payload)
        };
        let forms = [r#""V1":{"era_id":1"#, r#""V2":{"block_height":1"#];
        log_of(folder, forms.into_iter().map(signature), usize::MAX)
    }

    #[tokio::test]
    async fn signatures_that_take_reading_the_log_wait_for_their_turn_to_decode() {
        let folder = tempfile::tempdir().unwrap();
        let log = log_of_two_signatures_of_one_key(folder.path());
        let options = view::Options::new(folder.path().join("views.redb"), 1 << 20);
        view::rebuild(&options, &log, &mut |_| ()).unwrap();
        // With nothing in its cache.
        let log = opened(folder.path());
        let (_committed, receiver) = tokio::sync::watch::channel(log.head());
        let views = Views::open(options, log.clone(), receiver).unwrap();
        assert!(views.caught_up_to(2, Duration::from_secs(30)).await);
        let answers = LogAnswers::new(log, views, Vec::new(), 1);
        let question = Question::Signatures(BLOCK);

        let turn = answers.decoders.acquire().await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, answers.sequences(&question)).await.is_err(), "it did not wait");
        drop(turn);
        assert_eq!(answers.sequences(&question).await.unwrap(), [0]);
        let _turn = answers.decoders.acquire().await.unwrap();
        assert_eq!(answers.sequences(&question).await.unwrap(), [0], "from memory it takes no turn");
    }
}
