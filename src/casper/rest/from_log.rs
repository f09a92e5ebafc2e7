//! Answers from the views and the log: a view says which sequences answer a question, and the log has their bytes.
//!
//! A look-up in a view is a few small pages of a local file and happens where it is asked for. So does reading an event
//! whose block is in the cache; blocks are read from disk and decoded on blocking threads, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use sidecar_log_format::{Log, Read, Sequence};
use tokio::sync::Semaphore;

use super::answers::{Found, Pushed};
use super::failure::Failure;
use super::page::{self, PageEnd, Range};
use super::question::{Order, PageOfBlocks, PageOfEvents, Question};
use super::status;
use crate::casper::view::CasperViews;
use crate::engine::derived::DerivedError;
use crate::engine::http::memory::AnswerMemory;
use crate::engine::source::watch::SourceWatch;
use crate::engine::view::ViewError;

/// How long a question waits for the views to see what was stored when it was asked.
const VIEW_WAIT_MAX: Duration = Duration::from_secs(1);

/// Reads answers.
pub struct LogAnswers {
    reader: LogReader,
    views: CasperViews,
    sources: Vec<SourceWatch>,
}

/// Reads events of a log, a few at a time.
pub(super) struct LogReader {
    log: Log,
    decoders: Arc<Semaphore>,
    memory: Arc<AnswerMemory>,
}

impl LogAnswers {
    /// `sources` are what `/status` shows; `decode_concurrency` blocks are decoded at a time, at least 1.
    #[must_use]
    pub fn new(log: Log, views: CasperViews, sources: Vec<SourceWatch>, decode_concurrency: usize) -> Self {
        LogAnswers { reader: LogReader::new(log, decode_concurrency, Arc::default()), views, sources }
    }

    pub(super) fn log(&self) -> &Log {
        &self.reader.log
    }

    pub(super) fn memory(&self) -> &Arc<AnswerMemory> {
        &self.reader.memory
    }

    /// How far log, views and sources are.
    pub(super) fn status(&self, version: &str) -> Vec<u8> {
        status::of_log(version, self.log(), view_lag(self.log(), &self.views), &self.sources)
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

    /// Adds a page of blocks to `found`; returns the height with which the next one begins, or below which it is, if there is
    /// one.
    pub(super) async fn blocks(&self, page: PageOfBlocks, found: Found) -> Result<(Found, Option<u64>), Failure> {
        let blocks = self.blocks_of(page).await?;
        let sequences = blocks.iter().map(|(_, sequence)| *sequence).collect();
        let found = self.read(sequences, found).await?;
        let last = blocks.iter().find(|(_, sequence)| Some(*sequence) == found.last);
        let is_last_page = blocks.len() < page.limit && !found.is_cut;
        Ok((found, page.next(last.map(|(height, _)| *height), is_last_page)))
    }

    /// Adds the events of these sequences, see [`LogReader::read`].
    pub(super) async fn read(&self, sequences: Vec<Sequence>, found: Found) -> Result<Found, Failure> {
        self.reader.read(sequences, found).await
    }

    /// Adds a page of the log to `found`, see [`LogReader::page`].
    pub(super) async fn page(&self, page: PageOfEvents, found: Found) -> Result<(Found, PageEnd), Failure> {
        self.reader.page(page, Some(&self.views), found).await
    }

    /// The sequences that answer, as of the moment of asking.
    pub(super) async fn sequences(&self, question: &Question) -> Result<Vec<Sequence>, Failure> {
        let head = self.log().head().next_sequence;
        // Asked before the look-up, which then sees at least as much.
        let is_current = self.views.views().next_sequence() >= head;
        let at_once = self.look_up(question).await;
        match &at_once {
            Ok(found) if is_current || (question.is_settled_by_one() && !found.is_empty()) => return at_once,
            // They may be about to open.
            Ok(_) | Err(Failure::Closed) => {}
            Err(_) => return at_once,
        }
        if self.views.views().caught_up_to(head, VIEW_WAIT_MAX).await {
            return self.look_up(question).await;
        }
        match (question, at_once) {
            // The newest that is known is an answer to this.
            (Question::LatestBlock, Ok(found)) if !found.is_empty() => Ok(found),
            (_, Err(closed)) => Err(closed),
            _ => Err(Failure::Behind { events: view_lag(self.log(), &self.views) }),
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
                    self.reader.on_disk(move || views.signatures(&block)).await?
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

    /// The blocks of a page, each with its height.
    async fn blocks_of(&self, page: PageOfBlocks) -> Result<Vec<(u64, Sequence)>, Failure> {
        catch_up(self.log(), &self.views).await?;
        let PageOfBlocks { from_height, before_height, order, limit } = page;
        let blocks = match order {
            Order::OldestFirst => self.views.blocks_up(from_height, before_height, limit),
            Order::NewestFirst => self.views.blocks_down(from_height, before_height, limit),
        };
        blocks.map_err(|error| view_failure(&error))
    }
}

/// How many stored events the views have not seen yet.
fn view_lag(log: &Log, views: &CasperViews) -> u64 {
    log.left_from(views.views().next_sequence())
}

/// Waits until the views have caught up with the log.
async fn catch_up(log: &Log, views: &CasperViews) -> Result<(), Failure> {
    let head = log.head().next_sequence;
    if views.views().next_sequence() < head && !views.views().caught_up_to(head, VIEW_WAIT_MAX).await {
        return Err(Failure::Behind { events: view_lag(log, views) });
    }
    Ok(())
}

/// The page without the events before the block of its height: the block of that height, or of the next greater one, is the
/// first that it may have. Where there is none yet, the page begins at the head.
async fn from_its_height(page: PageOfEvents, log: &Log, views: &CasperViews) -> Result<PageOfEvents, Failure> {
    let Some(height) = page.from_height else { return Ok(page) };
    let head = log.head().next_sequence;
    catch_up(log, views).await?;
    let blocks = views.blocks_up(height, None, 1).map_err(|error| view_failure(&error))?;
    let begin = blocks.first().map_or(head, |(_, sequence)| *sequence);
    Ok(PageOfEvents { from: page.from.max(begin), ..page })
}

impl LogReader {
    /// Large answers share `memory`; `decode_concurrency` blocks are decoded at a time, at least 1.
    pub(super) fn new(log: Log, decode_concurrency: usize, memory: Arc<AnswerMemory>) -> Self {
        let decoders = Arc::new(Semaphore::new(decode_concurrency.max(1)));
        LogReader { log, decoders, memory }
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Adds the events of these sequences. Those that retention has dropped meanwhile are left out, and of a page also those
    /// that are lost.
    pub(super) async fn read(&self, sequences: Vec<Sequence>, found: Found) -> Result<Found, Failure> {
        let mut reading = Reading { log: self.log.clone(), sequences, next: 0, found };
        loop {
            match reading.read_in_memory()? {
                Stop::Done => return Ok(reading.found),
                Stop::NeedsRoom => reading.found.make_room(&self.memory).await?,
                Stop::NeedsDisk => {
                    let stop;
                    (reading, stop) = self
                        .on_disk(move || {
                            let stop = reading.read_from_disk();
                            (reading, stop)
                        })
                        .await?;
                    match stop? {
                        Stop::Done => return Ok(reading.found),
                        _ => reading.found.make_room(&self.memory).await?,
                    }
                }
            }
        }
    }

    /// Adds a page of the log to `found`; returns where the next one begins, and what of it is missing. `views` find the
    /// height that it begins with.
    pub(super) async fn page(
        &self,
        page: PageOfEvents,
        views: Option<&CasperViews>,
        found: Found,
    ) -> Result<(Found, PageEnd), Failure> {
        let page = match views {
            Some(views) => from_its_height(page, &self.log, views).await?,
            None => page,
        };
        let log = self.log.clone();
        let range = self.on_disk(move || Range::of(&log, &page)).await??;
        let mut found = found;
        loop {
            let log = self.log.clone();
            let (scanned, result) = self
                .on_disk(move || {
                    let mut found = found;
                    let result = match page.order {
                        Order::OldestFirst => page::scan(&log, range, &page, &mut found),
                        Order::NewestFirst => page::scan_back(&log, range, &page, &mut found),
                    };
                    (found, result)
                })
                .await?;
            found = scanned;
            match result? {
                Some(end) => return Ok((found, end)),
                None => found.make_room(&self.memory).await?,
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
}

fn view_failure(error: &ViewError) -> Failure {
    match error {
        // Damaged ones are about to be rebuilt.
        ViewError::Closed { .. } | ViewError::File(DerivedError::Damaged { .. }) => Failure::Closed,
        error => Failure::Storage(error.to_string()),
    }
}

enum Stop {
    Done,
    NeedsRoom,
    NeedsDisk,
}

/// Events on their way into an answer.
struct Reading {
    log: Log,
    sequences: Vec<Sequence>,
    /// The place in `sequences`.
    next: usize,
    found: Found,
}

impl Reading {
    /// Continues for as long as that takes no I/O.
    fn read_in_memory(&mut self) -> Result<Stop, Failure> {
        while let Some(&sequence) = self.sequences.get(self.next) {
            let Some(read) = self.log.read_alone_cached(sequence) else { return Ok(Stop::NeedsDisk) };
            if let Some(stop) = self.take(read)? {
                return Ok(stop);
            }
        }
        Ok(Stop::Done)
    }

    fn read_from_disk(&mut self) -> Result<Stop, Failure> {
        while let Some(left) = self.sequences.get(self.next..).filter(|left| !left.is_empty()) {
            let reads = self.log.read_few(left)?;
            for read in reads {
                if let Some(stop) = self.take(read)? {
                    return Ok(stop);
                }
            }
        }
        Ok(Stop::Done)
    }

    /// Adds what was read for the next sequence, and for those after it that are in the same block.
    fn take(&mut self, read: Read) -> Result<Option<Stop>, Failure> {
        let Read::Events { block, .. } = read else {
            let pushed = self.found.push(read)?;
            return Ok(self.pushed(pushed));
        };
        while let Some(row) = self.sequences.get(self.next).and_then(|&next| block.row(block.index_of(next)?)) {
            let pushed = self.found.push_row(&row, &row.payload())?;
            if let Some(stop) = self.pushed(pushed) {
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    fn pushed(&mut self, pushed: Pushed) -> Option<Stop> {
        match pushed {
            Pushed::Yes => self.next += 1,
            Pushed::NeedsRoom => return Some(Stop::NeedsRoom),
            Pushed::PageIsFull => return Some(Stop::Done),
        }
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use sidecar_log_format::storage::Directory;
    use sidecar_log_format::{ApiVersion, Event, Kind, Missing, ReadOptions, WriteOptions, Writer};

    use super::super::answers::Form;
    use super::*;
    use crate::casper::event::{BLOCK_ADDED, FINALITY_SIGNATURE};
    use crate::casper::view;
    use crate::engine::view::Options;

    /// A log of a block of one event for each kind and payload, and a segment for each `per_segment` of them.
    pub(in crate::casper::rest) fn log_of(
        folder: &Path,
        events: impl Iterator<Item = (Kind, String)>,
        per_segment: usize,
    ) -> Log {
        let options = WriteOptions::new("casper", [7; 16], 5);
        let mut writer = Writer::open(Arc::new(Directory::at(folder)), options).unwrap().writer;
        for (number, (kind, payload)) in events.enumerate() {
            let event = Event {
                kind,
                name: "",
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

    pub(in crate::casper::rest) fn event_of(kind: u8) -> (Kind, String) {
        (Kind(kind), r#"{"Other":{}}"#.to_owned())
    }

    pub(in crate::casper::rest) fn opened(folder: &Path) -> Log {
        Log::open(Arc::new(Directory::at(folder)), ReadOptions::default()).unwrap()
    }

    #[test]
    fn nothing_is_found_where_nothing_is_and_damage_is_reported() {
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
            let mut reading = Reading { log, sequences, next: 0, found };
            reading.read_from_disk().map(|_| reading.found.events)
        };
        assert!(matches!(look_for(3), Err(Failure::Lost { sequence: 3, why: Missing::Lost })));
        assert_eq!(look_for(4).unwrap(), 1);
        assert_eq!(look_for(9).unwrap(), 0, "after the end");
        assert!(matches!(look_for(0), Err(Failure::Lost { why: Missing::Quarantined(_), .. })));
    }

    #[tokio::test]
    async fn a_page_continues_past_what_is_lost_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let block = |height: u64| {
            let hash = hex::encode([u8::try_from(height).unwrap(); 32]);
            let block = format!(r#"{{"Version2":{{"hash":"{hash}","header":{{"height":{height}}}}}}}"#);
            (BLOCK_ADDED, format!(r#"{{"BlockAdded":{{"block_hash":"{hash}","block":{block}}}}}"#))
        };
        let log = log_of(folder.path(), (0..6).map(block), 2);
        let options = Options::new(folder.path().join("views.redb"), 1 << 20);
        view::rebuild(&options, &log, &mut |_| ()).unwrap();
        drop(log);
        std::fs::remove_file(folder.path().join(format!("{:020}.segment", 2))).unwrap();
        let log = opened(folder.path());
        let (_committed, receiver) = tokio::sync::watch::channel(log.head());
        let views = CasperViews::open(options, log.clone(), receiver).unwrap();
        assert!(views.views().caught_up_to(6, Duration::from_secs(30)).await);
        let answers = LogAnswers::new(log, views, Vec::new(), 1);
        let lost = |sequence| (sequence, sequence, Missing::Lost.for_clients());

        for (order, limit, expected) in [
            (Order::OldestFirst, 3, [(2, vec![lost(2)], Some(3)), (2, vec![lost(3)], Some(6)), (0, vec![], Some(6))]),
            // A page of which everything is lost.
            (Order::NewestFirst, 2, [(2, vec![], Some(4)), (0, vec![lost(3), lost(2)], Some(2)), (2, vec![], None)]),
        ] {
            let mut page = PageOfBlocks { from_height: 0, before_height: None, order, limit };
            for (events, missing, next) in expected {
                let found = Found::new("", Form::Envelope, &Arc::default()).paged();
                let (found, next_height) = answers.blocks(page, found).await.unwrap();
                assert_eq!((found.events, &found.missing, next_height), (events, &missing, next), "{page:?}");
                match order {
                    Order::OldestFirst => page.from_height = next_height.unwrap(),
                    Order::NewestFirst => page.before_height = next_height,
                }
            }
        }
        let list = Found::new("", Form::Envelope, &Arc::default());
        assert!(matches!(answers.read(vec![1, 2], list).await, Err(Failure::Lost { sequence: 2, .. })));
    }

    const BLOCK: [u8; 32] = [7; 32];

    /// A key that signed twice, in the old form and in the new one: only the events show that it is one key.
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
        let options = Options::new(folder.path().join("views.redb"), 1 << 20);
        view::rebuild(&options, &log, &mut |_| ()).unwrap();
        // With nothing in its cache.
        let log = opened(folder.path());
        let (_committed, receiver) = tokio::sync::watch::channel(log.head());
        let views = CasperViews::open(options, log.clone(), receiver).unwrap();
        assert!(views.views().caught_up_to(2, Duration::from_secs(30)).await);
        let answers = LogAnswers::new(log, views, Vec::new(), 1);
        let question = Question::Signatures(BLOCK);

        let turn = answers.reader.decoders.acquire().await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, answers.sequences(&question)).await.is_err(), "it did not wait");
        drop(turn);
        assert_eq!(answers.sequences(&question).await.unwrap(), [0]);
        let _turn = answers.reader.decoders.acquire().await.unwrap();
        assert_eq!(answers.sequences(&question).await.unwrap(), [0], "from memory it takes no turn");
    }
}
