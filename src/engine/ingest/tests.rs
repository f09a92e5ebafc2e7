use sidecar_log_format::{ApiVersion, Cursor, Event, FrameForm, Item, MarkKind, Read, WriteOptions};
use sidecar_test_support::wait::until;

use super::*;
use crate::engine::dialect::{facts_of, write_options};
use crate::engine::failing_reads::log_with_a_large_event;
use crate::engine::source::{Connection, Kind, Received};
use crate::engine::testing::{BELL, Notes, bell, connection, note, options, received};
use identity::{Fingerprint, Known};
use remembered::identity_mark;

#[tokio::test]
async fn no_stored_event_is_new_because_a_read_failed() {
    let folder = tempfile::tempdir().unwrap();
    let (log, reads) = log_with_a_large_event(folder.path());
    let index_file = |read: u64| folder.path().join(format!("{read}.redb"));
    let catch_up = |read: u64| {
        let options = WriteOptions::new("casper", [1; 16], 1);
        let Opened { writer, .. } = Writer::open(Arc::new(Directory::at(folder.path())), options).unwrap();
        let start = start(writer, log.clone(), index_file(read));
        reads.fail_after(read);
        // On a thread that may wait for the runtime.
        std::thread::scope(|scope| scope.spawn(|| start.run()).join().unwrap())
    };
    let failed = (0..).find(|&read| catch_up(read).is_ok()).unwrap();
    assert!(failed > 2, "the event is read more than once");

    reads.fail_after(1000);
    let Read::Large(event) = log.read(0).unwrap() else { panic!("a large event") };
    let payload = event.payload().unwrap();
    let fingerprint = Fingerprint::new(crc32fast::hash(&payload), false);
    let position = LogPosition {
        id: log.id(),
        rule: "",
        head: Some(0),
        oldest: 0,
        chain_after: &|sequence| log.chain_after(sequence),
    };
    let mut opened = IdentityIndex::open(&index_file(failed), position, identity::Options::default()).unwrap();
    let identity = facts_of(&Notes::default(), event.shape().row(0).unwrap().kind(), &payload).unwrap().identity;
    assert_eq!(opened.index.check(&identity, fingerprint).unwrap(), Known::Same);
}

/// What a committer of notes without a source begins with.
fn start(writer: Writer, log: Log, index_file: PathBuf) -> Start {
    Start {
        writer,
        lost_from: None,
        dialect: Arc::new(Notes::default()),
        index_file,
        index: identity::Options::default(),
        batches: mpsc::channel(1).1,
        committed: watch::channel(log.head()).0,
        counters: Arc::default(),
        durability: Durability::Commit,
        sync_interval: Duration::from_secs(1),
        free_bytes_min: 0,
        index_state: SharedIndexState::default(),
        runtime: tokio::runtime::Handle::current(),
        log,
    }
}

#[tokio::test]
async fn what_was_appended_and_not_committed_when_the_index_was_found_damaged_is_known_again() {
    let folder = tempfile::tempdir().unwrap();
    let write = write_options(&Notes::default(), [1; 16], 1);
    let Opened { writer, log, .. } =
        Writer::open(Arc::new(Directory::create(folder.path().join("log")).unwrap()), write).unwrap();
    let mut committer = start(writer, log.clone(), folder.path().join("index.redb")).begin().unwrap().unwrap();
    let connection = Arc::new(connection("source"));
    let batch = |events| Batch::Events { connection: Arc::clone(&connection), events };
    committer.take(batch(vec![note("a", 0), bell(1), note("b", 0), note("a", 1)])).unwrap();
    assert_eq!(log.head().next_sequence, 0, "nothing is committed");
    committer.index.note_damage();
    committer.take(batch(vec![note("c", 0)])).unwrap();
    committer.commit().unwrap();
    committer.take(batch(vec![note("a", 1), bell(1), note("b", 0), note("c", 0)])).unwrap();
    committer.commit().unwrap();
    let Counters { stored: new, duplicates, identity_conflicts, index_rebuilds, .. } = &*committer.counters;
    // The conflict is of the richer copy.
    assert_eq!([new, duplicates, identity_conflicts, index_rebuilds].map(|count| count.get()), [4, 5, 1, 1]);
    assert_eq!(stored(&log).len(), 4);
}

#[tokio::test]
async fn a_source_that_repeats_known_events_without_end_does_not_put_off_the_commit_of_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let write = write_options(&Notes::default(), [1; 16], 1);
    let Opened { writer, log, .. } =
        Writer::open(Arc::new(Directory::create(folder.path().join("log")).unwrap()), write).unwrap();
    let (sender, batches) = mpsc::channel(500);
    let start = Start { batches, ..start(writer, log, folder.path().join("index.redb")) };
    let mut committer = start.begin().unwrap().unwrap();
    let connection = Arc::new(connection("source"));
    let batch = |events| Batch::Events { connection: Arc::clone(&connection), events };
    // More than is looked at in any time that a commit may wait.
    while sender.try_send(batch((0..500).map(|_| note("a", 0)).collect())).is_ok() {}
    committer.fill(batch(vec![note("a", 0)])).unwrap();
    assert!(!committer.batches.is_empty(), "the rest waits for the next commit");
    assert!(committer.writer.uncommitted_bytes() > 0);
}

#[tokio::test]
async fn what_the_log_cannot_hold_is_refused_once_and_everything_else_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let (live, Run { batches, ended, .. }) = LiveLog::open(options(folder.path())).unwrap();
    // No source has so long a name; it is an example of what a log refuses.
    let (good, too_long) = (Arc::new(connection("source")), Arc::new(connection(&"s".repeat(256))));
    let events = |connection: &Arc<Connection>, event: Received| Batch::Events {
        connection: Arc::clone(connection),
        events: vec![event],
    };
    batches.send(events(&good, note("a", 0))).await.unwrap();
    let version = "2.0.0".parse().unwrap();
    batches.send(Batch::Version { connection: Arc::clone(&too_long), version }).await.unwrap();
    batches.send(Batch::Gap { connection: Arc::clone(&too_long), of: "time", from: 1, to: 2 }).await.unwrap();
    for _ in 0..3 {
        batches.send(events(&too_long, note("a", 5))).await.unwrap();
    }
    batches.send(events(&too_long, note("b", 0))).await.unwrap();
    batches.send(events(&good, note("c", 0))).await.unwrap();
    drop(batches);
    ended.await.unwrap().unwrap();
    let counters = &live.counters;
    assert_eq!([counters.stored.get(), counters.refused.get(), counters.amendments.get()], [2, 2, 0]);
    assert_eq!(live.log.head().next_sequence, 2);
}

#[tokio::test]
async fn a_log_is_resumed_around_its_readers() {
    let folder = tempfile::tempdir().unwrap();
    let (live, Run { batches, ended, .. }) = LiveLog::open(options(folder.path())).unwrap();
    let log = live.log.clone();
    let mut committed = live.committed.clone();
    let (logs, away) = (folder.path().join("logs"), folder.path().join("away"));
    std::fs::rename(&logs, &away).unwrap();
    let failure = ended.await.unwrap().unwrap_err();
    assert!(matches!(failure, IngestError::Log(sidecar_log_format::Error::NotInPlace { .. })), "{failure}");
    drop(batches);
    let refused = live.resume().err().unwrap();
    assert!(matches!(refused, IngestError::Log(sidecar_log_format::Error::LogMissing { .. })), "{refused}");
    assert!(!logs.exists());
    std::fs::rename(&away, &logs).unwrap();
    let Run { batches, .. } = live.resume().unwrap();
    let connection = Arc::new(connection("source"));
    batches.send(Batch::Events { connection, events: vec![note("a", 0)] }).await.unwrap();
    committed.wait_for(|head| head.next_sequence == 1).await.unwrap();
    assert!(matches!(log.read(0).unwrap(), Read::Events { .. }));
    assert_eq!(live.newest_network().unwrap().as_deref(), Some("notes-test"));
    assert_eq!(live.counters.reopened.get(), 1);
}

/// What sources of notes send: events of two kinds, one known by its name only, and bells whose payload does not show it.
fn said() -> Vec<Received> {
    vec![note("a", 0), bell(1), received(Kind::OTHER, "postcard", r#"{"from":"afar"}"#), bell(2), note("b", 0)]
}

/// The name and the wire form of every stored event.
fn stored(log: &Log) -> Vec<(String, String)> {
    let mut cursor = Cursor::new(log, 0);
    let mut stored = Vec::new();
    while let Some(run) = cursor.next_run().unwrap() {
        for item in run.items() {
            let Item::Event(row, _) = item else { panic!("an event is missing") };
            stored.push((row.name().to_owned(), String::from_utf8(row.frame().to_vec()).unwrap()));
        }
    }
    stored
}

#[tokio::test]
async fn a_dialect_of_named_frames_is_stored_once_and_known_again_after_a_restart_without_its_index() {
    let folder = tempfile::tempdir().unwrap();
    let mut counts = Vec::new();
    let mut logs = Vec::new();
    for start in 0..3 {
        let (live, Run { batches, ended, .. }) = LiveLog::open(options(folder.path())).unwrap();
        assert_eq!((live.log.dialect().as_str(), live.log.frame_form()), ("notes", FrameForm::Named));
        let connection = Arc::new(connection("source"));
        for events in [said(), said(), vec![note("a", 2)]] {
            batches.send(Batch::Events { connection: Arc::clone(&connection), events }).await.unwrap();
        }
        drop(batches);
        ended.await.unwrap().unwrap();
        let Counters { stored: new, duplicates, amendments, stored_richness, .. } = &*live.counters;
        counts.push([new, duplicates, amendments, stored_richness].map(|count| count.get()));
        logs.push(stored(&live.log));
        if start == 1 {
            std::fs::remove_file(folder.path().join("index/notes.redb")).unwrap();
        }
    }
    assert_eq!(counts, [[5, 6, 1, 0], [0, 11, 0, 0], [0, 11, 0, 0]]);
    let frames = [
        ("note", "event: note\ndata: {\"key\":\"a\",\"pictures\":0}\nid: 0\n\n"),
        ("bell", "event: bell\ndata: \"bell\"\nid: 1\n\n"),
        ("postcard", "event: postcard\ndata: {\"from\":\"afar\"}\nid: 2\n\n"),
        ("bell", "event: bell\ndata: \"bell\"\nid: 3\n\n"),
        ("note", "event: note\ndata: {\"key\":\"b\",\"pictures\":0}\nid: 4\n\n"),
    ];
    for log in logs {
        assert_eq!(log, frames.map(|(name, frame)| (name.to_owned(), frame.to_owned())));
    }
}

#[tokio::test]
async fn a_gap_that_a_source_knows_of_is_marked_between_the_events_it_is_between() {
    let folder = tempfile::tempdir().unwrap();
    let (live, Run { batches, ended, .. }) = LiveLog::open(options(folder.path())).unwrap();
    let connection = Arc::new(connection("source"));
    let events = |event| Batch::Events { connection: Arc::clone(&connection), events: vec![event] };
    batches.send(events(note("before", 0))).await.unwrap();
    batches.send(Batch::Gap { connection: Arc::clone(&connection), of: "time", from: 5, to: 9 }).await.unwrap();
    batches.send(events(note("after", 0))).await.unwrap();
    drop(batches);
    ended.await.unwrap().unwrap();
    let marks = live.log.marks(0).unwrap();
    let [gap] = &marks[..] else { panic!("one mark: {marks:?}") };
    assert_eq!((gap.kind, gap.position, gap.source.as_str()), (MarkKind::GAP, 1, "source"));
    assert_eq!(gap.body, r#"{"of":"time","from":5,"to":9}"#);
    assert_eq!((live.counters.gaps.get(), live.counters.missing_ordinals.get()), (1, 0));
    assert_eq!(stored(&live.log).len(), 2);
}

/// Notes of which none is known again.
#[derive(Debug, Default)]
struct Unidentified(Notes);

impl Dialect for Unidentified {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn kinds(&self) -> &[(Kind, Box<str>)] {
        self.0.kinds()
    }

    fn frame_form(&self) -> FrameForm {
        self.0.frame_form()
    }

    fn facts(&self, kind: Kind, payload: &str) -> Option<crate::engine::dialect::Facts> {
        self.0.facts(kind, payload)
    }

    fn unidentified_kinds(&self) -> u64 {
        u64::MAX
    }
}

#[tokio::test]
async fn of_an_unidentified_kind_every_report_is_a_new_event_after_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { dialect: Arc::new(Unidentified::default()), ..options(folder.path()) };
    for run in 1..=2 {
        let (live, Run { batches, ended, .. }) = LiveLog::open(options.clone()).unwrap();
        for _ in 0..3 {
            let connection = Arc::new(connection("source"));
            batches.send(Batch::Events { connection, events: vec![note("a", 0)] }).await.unwrap();
        }
        drop(batches);
        ended.await.unwrap().unwrap();
        assert_eq!(live.log.head().next_sequence, 3 * run);
        assert_eq!(live.counters.duplicates.get(), 0);
    }
}

#[tokio::test]
async fn the_mark_of_an_event_that_a_crash_took_says_nothing_of_the_event_that_has_its_sequence_now() {
    let folder = tempfile::tempdir().unwrap();
    let write = write_options(&Notes::default(), [1; 16], 1);
    let Opened { mut writer, log, .. } =
        Writer::open(Arc::new(Directory::create(folder.path().join("log")).unwrap()), write).unwrap();
    let (taken, kept) = (bell(1), bell(2));
    writer.mark_ahead(&identity_mark(0, "source", 5, &taken.facts.identity)).unwrap();
    writer.commit().unwrap();
    let event = Event {
        kind: BELL,
        name: "",
        source: "source",
        network: "",
        api_version: ApiVersion::NONE,
        upstream_id: None,
        received: 6,
        payload: &kept.payload,
    };
    let sequence = writer.append(&event).unwrap();
    writer.mark_ahead(&identity_mark(sequence, "source", 6, &kept.facts.identity)).unwrap();
    writer.commit().unwrap();
    let mut committer = start(writer, log.clone(), folder.path().join("index.redb")).begin().unwrap().unwrap();
    let connection = Arc::new(connection("source"));
    committer.take(Batch::Events { connection, events: vec![kept, taken] }).unwrap();
    committer.commit().unwrap();
    assert_eq!([committer.counters.duplicates.get(), committer.counters.stored.get()], [1, 1]);
    assert_eq!(stored(&log).len(), 2);
}

#[tokio::test]
async fn retention_makes_room_while_the_index_waits_for_room_and_what_went_is_still_known() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let options = Options { write: WriteOptions { segment_blocks_max: 1, ..options.write.clone() }, ..options };
    let connection = Arc::new(connection("source"));
    let notes = || (0..5).map(|number| note(&number.to_string(), 0));
    let (live, Run { batches, ended, .. }) = LiveLog::open(options.clone()).unwrap();
    let mut committed = live.committed.clone();
    for (number, note) in (1..).zip(notes()) {
        batches.send(Batch::Events { connection: Arc::clone(&connection), events: vec![note] }).await.unwrap();
        committed.wait_for(|head| head.next_sequence == number).await.unwrap();
    }
    drop(batches);
    ended.await.unwrap().unwrap();
    drop(live);

    let full = Options {
        write: WriteOptions { free_bytes_min: u64::MAX, ..options.write.clone() },
        retention: Retention { newest_events: Some(2), ..Retention::default() },
        ..options.clone()
    };
    let (live, Run { batches, ended, .. }) = LiveLog::open(full).unwrap();
    until(Duration::from_secs(60), "three dropped segments", async || live.log.oldest() >= 3).await;
    assert!(live.counters.waits_for_room.get());
    drop(batches);
    ended.await.unwrap().unwrap();
    drop(live);

    let (live, Run { batches, ended, .. }) = LiveLog::open(options).unwrap();
    batches.send(Batch::Events { connection, events: notes().collect() }).await.unwrap();
    drop(batches);
    ended.await.unwrap().unwrap();
    assert_eq!((live.counters.duplicates.get(), live.counters.index_rebuilds.get()), (5, 0));
    assert_eq!((live.log.oldest(), live.log.head().next_sequence), (3, 5));
}
