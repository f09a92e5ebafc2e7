use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use redb::TableDefinition;
use tempfile::TempDir;

use super::*;

const LOG_ID: [u8; 16] = [7; 16];

/// 16 entries in the tail, 4 in a batch.
const TINY: Options = Options { tail_bytes_max: 16 * TAIL_ENTRY_BYTES, cache_bytes: 1 << 20 };

/// What the log's chain is after an event, unless the log was put back and has gone on differently.
fn chain_after(sequence: Sequence) -> ChainValue {
    [sequence as u8; 32]
}

fn durable(sequence: Sequence) -> Durable {
    Durable { sequence, chain: Some(chain_after(sequence)) }
}

fn open_index(path: &Path, log_id: [u8; 16], head: Option<Sequence>, options: Options) -> Result<Opened> {
    let position =
        LogPosition { id: log_id, rule: "", head, oldest: 0, chain_after: &|sequence| Ok(Some(chain_after(sequence))) };
    IdentityIndex::open(path, position, options)
}

fn new_index(options: Options) -> (TempDir, PathBuf, IdentityIndex) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.redb");
    let opened = open_index(&path, LOG_ID, None, options).unwrap();
    assert_eq!((opened.checkpoint, opened.rebuild), (None, Some(Rebuild::Missing)));
    (directory, path, opened.index)
}

fn signature(height: u64, number: u8) -> Identity {
    Identity { class: 5, time: height, hash: [number; 16] }
}

fn content(crc: u32) -> Fingerprint {
    Fingerprint::new(crc, false)
}

/// Inserts, commits and writes one signature per height; the sequence is the height.
fn write_heights(index: &mut IdentityIndex, heights: std::ops::Range<u64>) {
    for height in heights {
        let room = index.insert(&signature(height, 1), content(8), height).unwrap();
        index.committed(durable(height)).unwrap();
        if room == Room::Full {
            assert_eq!(index.wait_for_room().unwrap(), Room::Free);
        }
    }
    index.flush().unwrap();
}

#[test]
fn an_event_is_new_until_it_is_inserted() {
    let (_directory, _path, mut index) = new_index(Options::default());
    assert_eq!(index.check(&signature(1, 1), content(8)).unwrap(), Known::New);
    assert_eq!(index.insert(&signature(1, 1), content(8), 0).unwrap(), Room::Free);
    assert_eq!(index.check(&signature(1, 1), content(8)).unwrap(), Known::Same);
    assert_eq!(index.check(&signature(1, 2), content(8)).unwrap(), Known::New);
    let other_class = Identity { class: 6, ..signature(1, 1) };
    assert_eq!(index.check(&other_class, content(8)).unwrap(), Known::New);
}

#[test]
fn other_content_is_a_conflict_unless_it_adds_the_messages_that_were_missing() {
    let (_directory, _path, mut index) = new_index(Options::default());
    let event = signature(1, 1);
    let _ = index.insert(&event, Fingerprint::new(8, false), 0).unwrap();
    assert_eq!(index.check(&event, Fingerprint::new(16, false)).unwrap(), Known::Conflict);
    assert_eq!(index.check(&event, Fingerprint::new(16, true)).unwrap(), Known::RicherCopy);
    let _ = index.insert(&event, Fingerprint::new(16, true), 1).unwrap();
    assert_eq!(index.check(&event, Fingerprint::new(16, true)).unwrap(), Known::Same);
    assert_eq!(index.check(&event, Fingerprint::new(24, true)).unwrap(), Known::Conflict);
    assert_eq!(index.check(&event, Fingerprint::new(8, false)).unwrap(), Known::Conflict, "a poorer copy");
}

#[test]
fn what_memory_forgot_is_found_in_redb() {
    let (_directory, _path, mut index) = new_index(TINY);
    write_heights(&mut index, 0..200);
    assert!(!index.memory.would_hold(&signature(3, 1)), "so few entries do not make memory forget");
    for height in 0..200 {
        assert_eq!(index.check(&signature(height, 1), content(8)).unwrap(), Known::Same);
        assert_eq!(index.check(&signature(height, 2), content(8)).unwrap(), Known::New);
    }
    assert!(index.memory.would_hold(&signature(200, 1)), "newer than all, yet looked up in redb");
}

#[test]
fn a_look_up_while_a_batch_is_written_does_not_hide_that_batch_afterwards() {
    let (_directory, _path, mut index) = new_index(TINY);
    for height in 0..16 {
        let _ = index.insert(&signature(height, 1), content(8), height).unwrap();
    }
    let database = Arc::clone(&index.database);
    let held_up = database.run(|redb| {
        let hold_up_the_writer = redb.begin_write()?;
        index.committed(durable(15)).unwrap();
        assert!(index.writer.is_busy());
        assert_eq!(index.find_in_redb(&signature(15, 1)).unwrap(), None);
        hold_up_the_writer.abort()?;
        Ok::<_, redb::Error>(())
    });
    held_up.unwrap();
    index.flush().unwrap();

    for height in 16..48 {
        let _ = index.insert(&signature(height, 1), content(8), height).unwrap();
    }
    assert!(!index.memory.would_hold(&signature(15, 1)), "so few entries do not make memory forget");
    assert_eq!(index.check(&signature(15, 1), content(8)).unwrap(), Known::Same);
}

#[test]
fn memory_forgets_nothing_that_redb_does_not_hold() {
    let (_directory, _path, mut index) = new_index(TINY);
    for height in 0..200 {
        let _ = index.insert(&signature(height, 1), content(8), height).unwrap();
    }
    for height in 0..200 {
        assert_eq!(index.check(&signature(height, 1), content(8)).unwrap(), Known::Same);
    }
}

#[test]
fn an_event_that_the_log_has_not_made_durable_never_reaches_redb() {
    let (_directory, path, mut index) = new_index(TINY);
    for sequence in 0..10 {
        let _ = index.insert(&signature(sequence, 1), content(8), sequence).unwrap();
    }
    index.committed(durable(4)).unwrap();
    index.flush().unwrap();
    assert_eq!(index.checkpoint(), Some(4));
    drop(index);

    let mut opened = open_index(&path, LOG_ID, Some(4), TINY).unwrap();
    assert_eq!((opened.checkpoint, opened.rebuild), (Some(4), None));
    assert_eq!(opened.index.check(&signature(4, 1), content(8)).unwrap(), Known::Same);
    assert_eq!(opened.index.check(&signature(5, 1), content(8)).unwrap(), Known::New);
}

#[test]
fn a_full_tail_reports_it_and_has_room_again_once_its_events_are_durable_and_written() {
    let (_directory, _path, mut index) = new_index(TINY);
    for sequence in 0..15 {
        assert_eq!(index.insert(&signature(sequence, 1), content(8), sequence).unwrap(), Room::Free);
    }
    assert_eq!(index.insert(&signature(15, 1), content(8), 15).unwrap(), Room::Full);
    assert_eq!(index.wait_for_room().unwrap(), Room::Full, "nothing is durable, so nothing may be written");
    index.committed(durable(15)).unwrap();
    assert_eq!(index.wait_for_room().unwrap(), Room::Free);
}

#[test]
fn an_index_copied_with_its_stamp_is_rebuilt() {
    let (directory, path, mut index) = new_index(TINY);
    write_heights(&mut index, 0..50);
    let copy = directory.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["identity.redb", "identity.redb.stamp"] {
        fs::copy(directory.path().join(name), copy.join(name)).unwrap();
    }
    let mut opened = open_index(&copy.join("identity.redb"), LOG_ID, Some(49), TINY).unwrap();
    assert_eq!((opened.checkpoint, &opened.rebuild), (None, &Some(Rebuild::Copied)));
    assert_eq!(opened.index.check(&signature(1, 1), content(8)).unwrap(), Known::New);

    drop((index, opened));
    let kept = open_index(&path, LOG_ID, Some(49), TINY).unwrap();
    assert_eq!((kept.checkpoint, kept.rebuild), (Some(49), None), "the original is not touched");
}

#[test]
fn an_index_moved_with_its_directory_is_kept() {
    let (directory, path, mut index) = new_index(TINY);
    write_heights(&mut index, 0..50);
    drop(index);
    let moved = directory.path().join("moved");
    fs::create_dir(&moved).unwrap();
    for name in ["identity.redb", "identity.redb.stamp"] {
        fs::rename(directory.path().join(name), moved.join(name)).unwrap();
    }
    assert!(!path.exists());
    let opened = open_index(&moved.join("identity.redb"), LOG_ID, Some(49), TINY).unwrap();
    assert_eq!((opened.checkpoint, opened.rebuild), (Some(49), None));
}

/// Writes 50 heights, lets `damage` have the closed file, and returns what the next open makes of it.
fn reopened_after(damage: impl Fn(&Path), log_id: [u8; 16], head: Option<u64>) -> Option<Rebuild> {
    let (_directory, path, mut index) = new_index(TINY);
    write_heights(&mut index, 0..50);
    drop(index);
    damage(&path);
    let mut opened = open_index(&path, log_id, head, TINY).unwrap();
    if opened.rebuild.is_some() {
        assert_eq!(opened.checkpoint, None);
        assert_eq!(opened.index.check(&signature(1, 1), content(8)).unwrap(), Known::New);
        write_heights(&mut opened.index, 0..50);
        drop(opened.index);
        assert_eq!(open_index(&path, log_id, Some(49), TINY).unwrap().rebuild, None, "it did not last");
    }
    opened.rebuild
}

#[test]
fn an_index_that_cannot_be_trusted_is_rebuilt() {
    let nothing = |_: &Path| {};
    assert_eq!(reopened_after(nothing, LOG_ID, Some(49)), None);
    assert_eq!(reopened_after(nothing, [8; 16], Some(49)), Some(Rebuild::OtherLog));
    assert_eq!(reopened_after(nothing, LOG_ID, Some(48)), Some(Rebuild::AheadOfLog { checkpoint: 49 }));
    assert_eq!(reopened_after(nothing, LOG_ID, None), Some(Rebuild::AheadOfLog { checkpoint: 49 }));

    let overwrite = |path: &Path| fs::write(path, "not a database at all").unwrap();
    assert!(matches!(reopened_after(overwrite, LOG_ID, Some(49)), Some(Rebuild::Damaged(_))));
    let remove_stamp = |path: &Path| fs::remove_file(path.with_added_extension("stamp")).unwrap();
    assert_eq!(reopened_after(remove_stamp, LOG_ID, Some(49)), Some(Rebuild::Copied));
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    assert_eq!(reopened_after(remove, LOG_ID, Some(49)), Some(Rebuild::Missing));
    let next_format = |path: &Path| {
        change(&store::file(path).open(1 << 20, false).unwrap().unwrap(), |transaction| {
            transaction.open_table(TableDefinition::<&str, u128>::new("state"))?.insert("format", 3)?;
            Ok(())
        });
    };
    assert_eq!(reopened_after(next_format, LOG_ID, Some(49)), Some(Rebuild::OtherFormat));
    let of_redb_alone = |path: &Path| fs::write(path, [b"redb\x1a\n\xa9\r\n".as_slice(), &[0; 8183]].concat()).unwrap();
    assert_eq!(reopened_after(of_redb_alone, LOG_ID, Some(49)), Some(Rebuild::OtherFormat));
}

fn change(database: &Database, make: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>) {
    let write = |redb: &redb::Database| -> std::result::Result<(), redb::Error> {
        let transaction = redb.begin_write()?;
        make(&transaction)?;
        Ok(transaction.commit()?)
    };
    database.run(write).unwrap();
}

#[test]
fn an_index_of_identities_that_another_rule_made_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.redb");
    let open = |rule| {
        let position =
            LogPosition { id: LOG_ID, rule, head: Some(49), oldest: 0, chain_after: &|at| Ok(Some(chain_after(at))) };
        let mut opened = IdentityIndex::open(&path, position, TINY).unwrap();
        if opened.rebuild.is_some() {
            write_heights(&mut opened.index, 0..50);
        }
        opened.rebuild
    };
    let rebuilds = ["a", "a", "b", "", "", "a"].map(open);
    let [first, others @ ..] = rebuilds;
    assert_eq!(first, Some(Rebuild::Missing));
    assert_eq!(others, [false, true, true, false, true].map(|is_other| is_other.then_some(Rebuild::OtherRule)));
}

#[test]
fn an_index_of_a_log_that_was_restored_and_then_continued_differently_is_rebuilt() {
    let (_directory, path, mut index) = new_index(TINY);
    write_heights(&mut index, 0..50);
    drop(index);
    // The log holds others there, or nothing that can be read.
    for chain in [Some([0xee; 32]), None] {
        let copy = |from: &Path, to: &Path| fs::copy(from, to).unwrap();
        let aside = path.with_added_extension("kept");
        copy(&path, &aside);
        let position = LogPosition { id: LOG_ID, rule: "", head: Some(60), oldest: 5, chain_after: &|_| Ok(chain) };
        let opened = IdentityIndex::open(&path, position, TINY).unwrap();
        assert_eq!((opened.checkpoint, opened.rebuild), (None, Some(Rebuild::OtherHistory { checkpoint: 49 })));
        drop(opened.index);
        fs::write(&path, fs::read(&aside).unwrap()).unwrap();
    }
}

#[test]
fn an_index_that_ends_before_the_oldest_event_of_its_log_is_kept_for_what_a_node_may_send_again() {
    let (_directory, path, mut index) = new_index(TINY);
    write_heights(&mut index, 0..50);
    drop(index);
    let position = LogPosition { id: LOG_ID, rule: "", head: Some(200), oldest: 100, chain_after: &|_| Ok(None) };
    let mut opened = IdentityIndex::open(&path, position, TINY).unwrap();
    assert_eq!((opened.checkpoint, opened.rebuild), (Some(49), None));
    assert_eq!(opened.index.check(&signature(1, 1), content(8)).unwrap(), Known::Same);
}

#[test]
fn damage_ends_an_index_with_an_error_and_a_rebuilt_one_begins_empty() {
    let (_directory, path, mut index) = new_index(Options { cache_bytes: 0, ..TINY });
    write_heights(&mut index, 0..4000);
    // All but the header, under the open file.
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; length as usize - 4096], 4096).unwrap();
    let error = index.check(&signature(1, 1), content(8)).unwrap_err();
    let IdentityIndexError::File(DerivedError::Damaged { how, .. }) = error else { panic!("{error}") };

    let mut rebuilt = IdentityIndex::rebuild(&path, LOG_ID, "", how, TINY).unwrap();
    drop(index);
    assert_eq!(rebuilt.checkpoint, None);
    assert_eq!(rebuilt.index.check(&signature(1, 1), content(8)).unwrap(), Known::New);
    write_heights(&mut rebuilt.index, 0..50);
    drop(rebuilt);
    assert_eq!(open_index(&path, LOG_ID, Some(49), TINY).unwrap().rebuild, None);
    assert!(path.with_added_extension("aside").exists());
}

#[test]
fn a_scrub_finds_damage_that_no_look_up_has_met_and_the_index_reports_it() {
    let (_directory, path, mut index) = new_index(Options { cache_bytes: 0, ..TINY });
    write_heights(&mut index, 0..4000);
    let newest = signature(3999, 1);
    let (forgetter, mut scrub) = (index.forgetter(), Scrub::default());
    let rounds = 3 * 4000 / 100 / SCRUB_ROWS;
    (0..rounds).for_each(|_| forgetter.scrub(&mut scrub).unwrap());
    assert_eq!(index.check(&newest, content(8)).unwrap(), Known::Same);

    let bytes = fs::read(&path).unwrap();
    let packed = [[1; 16].as_slice(), &content(8).0.to_le_bytes()].concat();
    let at = bytes.windows(packed.len()).rposition(|window| window == packed).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[2], at as u64).unwrap();
    assert_eq!(index.check(&newest, content(8)).unwrap(), Known::Same, "which is in memory");
    assert!((0..rounds).any(|_| forgetter.scrub(&mut scrub).is_err()));
    let error = index.check(&newest, content(8)).unwrap_err();
    assert!(matches!(error, IdentityIndexError::File(DerivedError::Damaged { .. })), "{error}");
}

#[test]
fn an_index_in_use_is_refused_and_left_alone() {
    let (_directory, path, mut index) = new_index(TINY);
    write_heights(&mut index, 0..50);
    let error = open_index(&path, LOG_ID, Some(49), TINY).unwrap_err();
    assert!(matches!(error, IdentityIndexError::File(DerivedError::Redb { .. })), "{error}");
    write_heights(&mut index, 50..100);
    assert_eq!(index.checkpoint(), Some(99));
}

#[test]
fn a_failed_write_is_reported_once_and_ends_the_index() {
    let (_directory, _path, mut index) = new_index(TINY);
    change(&index.database, |transaction| {
        transaction.delete_table(ROWS)?;
        transaction.open_table(TableDefinition::<u8, u8>::new("identities"))?;
        Ok(())
    });

    let _ = index.insert(&signature(1, 1), content(8), 0).unwrap();
    index.committed(durable(0)).unwrap();
    let error = index.flush().unwrap_err();
    assert!(matches!(error, IdentityIndexError::File(DerivedError::Redb { .. })), "{error}");
    let error = index.check(&signature(1, 1), content(8)).unwrap_err();
    assert!(matches!(error, IdentityIndexError::Poisoned { .. }), "{error}");
    assert!(index.insert(&signature(2, 1), content(8), 1).is_err());
    assert!(index.committed(durable(1)).is_err());
}

/// What may happen to an index, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// A node reports an event; what is new, or richer, is appended.
    Report {
        identity: Identity,
        fingerprint: Fingerprint,
    },
    /// The same for a run of heights, as a node's ring.
    Ring {
        from: u64,
        heights: u64,
    },
    Commit,
    WaitForRoom,
    Flush,
    /// The process dies: what the log had not made durable is gone.
    Crash,
    /// Everything ever appended is checked.
    CheckAll,
}

fn any_step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![4 => 0..40_u64, 1 => Just(u64::MAX), 1 => Just(u64::from(u32::MAX) + 20)];
    let identity = (0..3_u8, time, 0..4_u8).prop_map(|(class, time, hash)| Identity { class, time, hash: [hash; 16] });
    let report = (identity, 0..3_u32, any::<bool>()).prop_map(|(identity, crc, has_messages)| Step::Report {
        identity,
        fingerprint: Fingerprint::new(crc << 1, has_messages),
    });
    prop_oneof![
        20 => report,
        4 => (0..400_u64, 1..40_u64).prop_map(|(from, heights)| Step::Ring { from, heights }),
        8 => Just(Step::Commit),
        2 => Just(Step::WaitForRoom),
        1 => Just(Step::Flush),
        1 => Just(Step::Crash),
        1 => Just(Step::CheckAll),
    ]
}

/// The index beside the simplest thing that does the same: a log in memory, and a map made from it.
struct Run {
    _directory: TempDir,
    path: PathBuf,
    index: IdentityIndex,
    log: Vec<(Identity, Fingerprint)>,
    durable_events: usize,
    model: HashMap<Identity, Fingerprint>,
}

impl Run {
    fn new() -> Self {
        let (directory, path, index) = new_index(TINY);
        Self { _directory: directory, path, index, log: Vec::new(), durable_events: 0, model: HashMap::new() }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Report { identity, fingerprint } => self.report(*identity, *fingerprint),
            Step::Ring { from, heights } => {
                for height in *from..from + heights {
                    self.report(Identity { class: 9, time: height, hash: [1; 16] }, content(8));
                    self.report(Identity { class: 0, time: 0, hash: [height as u8; 16] }, content(8));
                }
            }
            Step::Commit => self.commit(),
            Step::WaitForRoom => {
                let room = self.index.wait_for_room().unwrap();
                let uncommitted = self.log.len() - self.durable_events;
                assert!(room == Room::Free || uncommitted >= self.index.tail_entries_max);
            }
            Step::Flush => {
                self.index.flush().unwrap();
                assert_eq!(self.index.checkpoint(), (self.durable_events as u64).checked_sub(1));
            }
            Step::Crash => self.crash(),
            Step::CheckAll => self.check_all(),
        }
    }

    fn report(&mut self, identity: Identity, fingerprint: Fingerprint) {
        let expected = match self.model.get(&identity) {
            None => Known::New,
            Some(stored) if *stored == fingerprint => Known::Same,
            Some(stored) if stored.0 & 1 == 0 && fingerprint.0 & 1 == 1 => Known::RicherCopy,
            Some(_) => Known::Conflict,
        };
        assert_eq!(self.index.check(&identity, fingerprint).unwrap(), expected, "{identity:?}");
        if matches!(expected, Known::New | Known::RicherCopy) {
            let room = self.index.insert(&identity, fingerprint, self.log.len() as u64).unwrap();
            self.log.push((identity, fingerprint));
            self.model.insert(identity, fingerprint);
            if room == Room::Full {
                self.commit();
                assert_eq!(self.index.wait_for_room().unwrap(), Room::Free);
            }
        }
    }

    fn commit(&mut self) {
        self.durable_events = self.log.len();
        if let Some(head) = self.head() {
            self.index.committed(durable(head)).unwrap();
        }
    }

    fn crash(&mut self) {
        self.log.truncate(self.durable_events);
        self.model = self.log.iter().copied().collect();
        let head = self.head();
        let placeholder = new_index(TINY);
        drop(std::mem::replace(&mut self.index, placeholder.2));
        let opened = open_index(&self.path, LOG_ID, head, TINY).unwrap();
        assert_eq!(opened.rebuild, None);
        self.index = opened.index;
        let replay_from = opened.checkpoint.map_or(0, |checkpoint| checkpoint + 1);
        for (sequence, (identity, fingerprint)) in self.log.iter().enumerate().skip(replay_from as usize) {
            let room = self.index.insert(identity, *fingerprint, sequence as u64).unwrap();
            self.index.committed(durable(sequence as u64)).unwrap();
            if room == Room::Full {
                assert_eq!(self.index.wait_for_room().unwrap(), Room::Free);
            }
        }
        self.check_all();
    }

    fn check_all(&mut self) {
        for (identity, fingerprint) in &self.model {
            assert_eq!(self.index.check(identity, *fingerprint).unwrap(), Known::Same, "{identity:?}");
        }
    }

    fn head(&self) -> Option<u64> {
        (self.durable_events as u64).checked_sub(1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn it_knows_what_a_map_of_the_durable_log_knows_whatever_happens(
        steps in proptest::collection::vec(any_step(), 1..150)
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        run.crash();
    }
}
