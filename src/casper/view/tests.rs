use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use redb::{Durability, ReadableDatabase, ReadableTableMetadata, StorageBackend, TableDefinition, WriteTransaction};
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{ApiVersion, Event, Kind, Opened, Sequence, WriteOptions, Writer};
use sidecar_test_support::wait::until;
use tempfile::TempDir;

use super::*;
use crate::casper::event::{
    BLOCK_ADDED, FAULT, FINALITY_SIGNATURE, OTHER, SHUTDOWN, STEP, TRANSACTION_ACCEPTED, TRANSACTION_EXPIRED,
    TRANSACTION_PROCESSED,
};
use crate::casper::keys::{Stage, TransactionType, account_of_key};
use crate::engine::derived::{self, Database, DerivedError};
use crate::engine::view::batch::Batch;
use crate::engine::view::store::{self, Store, file, losses};
use crate::engine::view::{Rebuild, ViewError};

/// The content of an event, out of so small a choice that keys meet often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Block { hash: u8, height: u64 },
    Transaction { stage: Stage, transaction_type: TransactionType, hash: u8, initiator: Option<Initiator> },
    Fault { era: u64, key: u8 },
    Signature { old_form: bool, block: u8, key: u8 },
    Step { era: u64 },
    Shutdown,
    Unknown,
}

/// An account, named by its key or by its account hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Initiator {
    account: u8,
    by_hash: bool,
}

fn hash_bytes(number: u8) -> [u8; 32] {
    [number; 32]
}

fn hash(number: u8) -> String {
    hex::encode(hash_bytes(number))
}

fn key_bytes(number: u8) -> Vec<u8> {
    let mut key = vec![1];
    key.extend([number; 32]);
    key
}

fn key(number: u8) -> String {
    hex::encode(key_bytes(number))
}

impl Initiator {
    fn written(self) -> String {
        match self.by_hash {
            true => {
                let account = account_of_key(&key_bytes(self.account)).unwrap();
                format!(r#"{{"AccountHash":"account-hash-{}"}}"#, hex::encode(account))
            }
            false => format!(r#"{{"PublicKey":"{}"}}"#, key(self.account)),
        }
    }
}

impl Said {
    fn payload(self) -> (Kind, String) {
        match self {
            Self::Block { hash: number, height } => (
                BLOCK_ADDED,
                format!(
                    r#"{{"BlockAdded":{{"block_hash":"{}","block":{{"Version2":{{"header":{{"height":{height}}}}}}}}}}}"#,
                    hash(number)
                ),
            ),
            Self::Transaction { stage, transaction_type, hash: number, initiator } => {
                let (kind, name) = match stage {
                    Stage::Accepted => (TRANSACTION_ACCEPTED, "TransactionAccepted"),
                    Stage::Processed => (TRANSACTION_PROCESSED, "TransactionProcessed"),
                    Stage::Expired => (TRANSACTION_EXPIRED, "TransactionExpired"),
                };
                let (hash, initiator) = (hash(number), initiator.map_or("null".to_owned(), Initiator::written));
                let timestamp = r#""timestamp":"2024-04-25T20:00:35.640Z""#;
                let content = match stage {
                    Stage::Accepted => format!(
                        r#"{{"{transaction_type:?}":{{"hash":"{hash}","payload":{{"initiator_addr":{initiator},{timestamp}}}}}}}"#
                    ),
                    _ => format!(
                        r#"{{"transaction_hash":{{"{transaction_type:?}":"{hash}"}},"initiator_addr":{initiator},{timestamp}}}"#
                    ),
                };
                (kind, format!(r#"{{"{name}":{content}}}"#))
            }
            Self::Fault { era, key: number } => {
                (FAULT, format!(r#"{{"Fault":{{"era_id":{era},"public_key":"{}"}}}}"#, key(number)))
            }
            Self::Signature { old_form, block, key: number } => {
                let form = if old_form { r#"V1":{"era_id":1"# } else { r#"V2":{"block_height":1"# };
                let (block, key) = (hash(block), key(number));
                let payload =
                    format!(r#"{{"FinalitySignature":{{"{form},"block_hash":"{block}","public_key":"{key}"}}}}}}"#);
                (FINALITY_SIGNATURE, payload)
            }
            Self::Step { era } => (STEP, format!(r#"{{"Step":{{"era_id":{era},"execution_effects":[]}}}}"#)),
            Self::Shutdown => (SHUTDOWN, r#""Shutdown""#.to_owned()),
            Self::Unknown => (OTHER, r#"{"Other":{"era_id":1}}"#.to_owned()),
        }
    }
}

fn any_stage() -> impl Strategy<Value = Stage> {
    prop_oneof![Just(Stage::Accepted), Just(Stage::Processed), Just(Stage::Expired)]
}

fn any_type() -> impl Strategy<Value = TransactionType> {
    prop_oneof![Just(TransactionType::Deploy), Just(TransactionType::Version1)]
}

const HASHES: u8 = 6;
const KEYS: u8 = 4;
const NUMBERS: u64 = 5;

fn any_said() -> impl Strategy<Value = Said> {
    let initiator = (0..KEYS, any::<bool>()).prop_map(|(account, by_hash)| Initiator { account, by_hash });
    prop_oneof![
        3 => (0..HASHES, 0..NUMBERS).prop_map(|(hash, height)| Said::Block { hash, height }),
        6 => (any_stage(), any_type(), 0..HASHES, proptest::option::weighted(0.8, initiator)).prop_map(
            |(stage, transaction_type, hash, initiator)| {
                let initiator = initiator.filter(|_| stage != Stage::Expired);
                Said::Transaction { stage, transaction_type, hash, initiator }
            }
        ),
        2 => (0..NUMBERS, 0..KEYS).prop_map(|(era, key)| Said::Fault { era, key }),
        6 => (any::<bool>(), 0..HASHES, 0..KEYS)
            .prop_map(|(old_form, block, key)| Said::Signature { old_form, block, key }),
        1 => (0..NUMBERS).prop_map(|era| Said::Step { era }),
        1 => prop_oneof![Just(Said::Shutdown), Just(Said::Unknown)],
    ]
}

/// The retained events in a list: every question is answered by looking at all of them.
struct Model<'a>(Vec<(Sequence, &'a Said)>);

impl Model<'_> {
    fn first(&self, wanted: impl Fn(&Said) -> bool) -> Option<Sequence> {
        self.0.iter().find(|(_, said)| wanted(said)).map(|(sequence, _)| *sequence)
    }

    fn block_by_height(&self, wanted: u64) -> Option<Sequence> {
        self.first(|said| matches!(said, Said::Block { height, .. } if *height == wanted))
    }

    fn heights(&self) -> BTreeSet<u64> {
        let height = |said: &Said| match said {
            Said::Block { height, .. } => Some(*height),
            _ => None,
        };
        self.0.iter().filter_map(|(_, said)| height(said)).collect()
    }

    fn latest_block(&self) -> Option<Sequence> {
        self.block_by_height(*self.heights().last()?)
    }

    fn block_by_hash(&self, wanted: u8) -> Option<Sequence> {
        self.first(|said| matches!(said, Said::Block { hash, .. } if *hash == wanted))
    }

    fn transaction(&self, stage: Stage, transaction_type: TransactionType, wanted: u8) -> Option<Sequence> {
        self.first(|said| match said {
            Said::Transaction { stage: its_stage, transaction_type: its_type, hash, .. } => {
                (*its_stage, *its_type, *hash) == (stage, transaction_type, wanted)
            }
            _ => false,
        })
    }

    /// The first event of each key that `key_of` finds.
    fn firsts<K: Ord>(&self, key_of: impl Fn(&Said) -> Option<K>) -> Vec<Sequence> {
        let mut firsts = BTreeMap::new();
        for (sequence, said) in &self.0 {
            if let Some(key) = key_of(said) {
                firsts.entry(key).or_insert(*sequence);
            }
        }
        let mut firsts: Vec<_> = firsts.into_values().collect();
        firsts.sort_unstable();
        firsts
    }

    fn transactions_by_initiator(&self, wanted: u8) -> Vec<Sequence> {
        let mut first_of: HashMap<_, (Sequence, u8)> = HashMap::new();
        for (sequence, said) in &self.0 {
            if let Said::Transaction { transaction_type, hash, initiator: Some(initiator), .. } = said {
                first_of.entry((*transaction_type, *hash)).or_insert((*sequence, initiator.account));
            }
        }
        let mut listed: Vec<_> =
            first_of.into_values().filter(|(_, account)| *account == wanted).map(|(sequence, _)| sequence).collect();
        listed.sort_unstable_by(|one, other| other.cmp(one));
        listed
    }

    fn assert_answers_of(&self, views: &CasperViews) {
        assert_eq!(views.latest_block().unwrap(), self.latest_block());
        for number in 0..=NUMBERS {
            assert_eq!(views.block_by_height(number).unwrap(), self.block_by_height(number));
            assert_eq!(views.step(number).unwrap(), self.first(|said| *said == Said::Step { era: number }));
            let in_era = |said: &Said| match said {
                Said::Fault { era, key } if *era == number => Some(*key),
                _ => None,
            };
            assert_eq!(views.faults_by_era(number).unwrap(), self.firsts(in_era));
            let from: Vec<_> =
                self.heights().range(number..).filter_map(|at| Some((*at, self.block_by_height(*at)?))).collect();
            assert_eq!(views.blocks_up(number, None, usize::MAX).unwrap(), from);
            assert_eq!(views.blocks_up(number, None, 2).unwrap(), from[..from.len().min(2)]);
            let mut below: Vec<_> =
                self.heights().range(..number).filter_map(|at| Some((*at, self.block_by_height(*at)?))).collect();
            assert_eq!(views.blocks_up(0, Some(number), usize::MAX).unwrap(), below);
            below.reverse();
            assert_eq!(views.blocks_down(0, Some(number), usize::MAX).unwrap(), below);
            assert_eq!(views.blocks_down(0, Some(number), 2).unwrap(), below[..below.len().min(2)]);
            assert!(views.blocks_down(number, Some(number), 2).unwrap().is_empty());
            let newest = from.iter().rev().copied().collect::<Vec<_>>();
            assert_eq!(views.blocks_down(number, None, usize::MAX).unwrap(), newest);
        }
        for number in 0..=HASHES {
            let hash = hash_bytes(number);
            assert_eq!(views.block_by_hash(&hash).unwrap(), self.block_by_hash(number));
            let of_block = |said: &Said| match said {
                Said::Signature { block, key, .. } if *block == number => Some(*key),
                _ => None,
            };
            assert_eq!(views.signatures(&hash).unwrap(), self.firsts(of_block));
            for stage in [Stage::Accepted, Stage::Processed, Stage::Expired] {
                for transaction_type in [TransactionType::Deploy, TransactionType::Version1] {
                    let found = views.transaction(stage, transaction_type, &hash).unwrap();
                    assert_eq!(found, self.transaction(stage, transaction_type, number), "{stage:?} {number}");
                }
            }
        }
        for number in 0..=KEYS {
            let by_key = |said: &Said| match said {
                Said::Fault { era, key } if *key == number => Some(*era),
                _ => None,
            };
            assert_eq!(views.faults_by_key(&key_bytes(number)).unwrap(), self.firsts(by_key));
            self.assert_pages_of(views, number);
        }
    }

    fn assert_pages_of(&self, views: &CasperViews, account: u8) {
        let expected = self.transactions_by_initiator(account);
        let public_key = key_bytes(account);
        assert_eq!(views.transactions_by_initiator(&public_key, None, usize::MAX).unwrap(), expected);
        let account_hash = account_of_key(&public_key).unwrap();
        let mut paged = Vec::new();
        while paged.len() < expected.len() {
            let page = views.transactions_by_initiator(&account_hash, paged.last().copied(), 2).unwrap();
            assert!((1..=2).contains(&page.len()));
            paged.extend(page);
        }
        assert_eq!(paged, expected);
        assert!(views.transactions_by_initiator(&account_hash, paged.last().copied(), 2).unwrap().is_empty());
    }
}

/// A log, and everything that was ever said in it.
struct Told {
    directory: TempDir,
    writer: Writer,
    log: Log,
    said: Vec<Said>,
}

/// A payload with its hashes and keys in the other case.
fn in_upper_case(payload: &str) -> String {
    let is_hex = |text: &str| text.len() >= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shout = |text: &str| if is_hex(text) { text.to_uppercase() } else { text.to_owned() };
    payload.split('"').map(shout).collect::<Vec<_>>().join("\"")
}

const LOG_ID: [u8; 16] = [7; 16];

impl Told {
    fn new() -> Self {
        Self::with_id(LOG_ID)
    }

    fn with_id(id: [u8; 16]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let storage = Arc::new(Directory::create(directory.path().join("log")).unwrap());
        let options = WriteOptions {
            durability: sidecar_log_format::Durability::Os,
            allocate_bytes: 4096,
            ..WriteOptions::new("casper", id, 1)
        };
        let Opened { writer, log, .. } = Writer::open(storage, options).unwrap();
        Self { directory, writer, log, said: Vec::new() }
    }

    fn tell(&mut self, said: &[Said]) -> Head {
        for said in said {
            let (kind, mut payload) = said.payload();
            if self.said.len() % 2 == 1 {
                payload = in_upper_case(&payload);
            }
            let event = Event {
                kind,
                name: "",
                source: "node",
                network: "casper-test",
                api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
                upstream_id: None,
                received: 1,
                payload: &payload,
            };
            self.writer.append(&event).unwrap();
            self.said.push(*said);
        }
        self.writer.commit().unwrap()
    }

    fn drop_before(&self, sequence: Sequence) {
        self.writer.maintenance().drop_before(sequence).unwrap();
    }

    fn model_up_to(&self, end: Sequence) -> Model<'_> {
        let numbered = (0..).zip(&self.said);
        Model(numbered.filter(|(sequence, _)| (self.log.oldest()..end).contains(sequence)).collect())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("views").join("casper.redb")
    }

    fn options(&self) -> Options {
        Options::new(self.path(), 1 << 20)
    }

    fn views_in(&self, store: &Store) -> CasperViews {
        CasperViews(Views::of_store(store, self.path(), self.log.clone()))
    }

    fn store(&self) -> (Store, Option<Rebuild>) {
        store::open(&projection(), &self.options(), &self.log).unwrap()
    }

    /// Projects about so many more events into a store.
    fn project(&self, store: &mut Store, events: usize, durability: Durability) {
        let batch = Batch::read(&CasperProjection, &self.log, store.next(), events).unwrap();
        store.commit(batch, durability).unwrap();
    }
}

/// A disk that keeps, when the process dies, what was synced and any part of what was not.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Contents>>);

#[derive(Clone, Debug, Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Length(u64),
    Bytes(u64, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Bytes(offset, written) => {
                let end = *offset as usize + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset as usize..end].copy_from_slice(written);
            }
        }
    }
}

impl Disk {
    fn database(&self) -> Database {
        file(Path::new("disk")).open_over(self.clone(), 1 << 20, true).unwrap().expect("what was synced is sound")
    }

    /// What another process finds: of the unsynced changes those for which `survives` returns true.
    fn after_crash(&self, mut survives: impl FnMut() -> bool) -> Self {
        let mut contents = self.0.lock().unwrap().clone();
        for change in contents.unsynced.drain(..) {
            if survives() {
                change.apply(&mut contents.synced);
            }
        }
        contents.now.clone_from(&contents.synced);
        Self(Arc::new(Mutex::new(contents)))
    }

    fn change(&self, change: Change) {
        let mut contents = self.0.lock().unwrap();
        change.apply(&mut contents.now);
        contents.unsynced.push(change);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let contents = self.0.lock().unwrap();
        let bytes = contents.now.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        contents.synced = contents.now.clone();
        contents.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.change(Change::Bytes(offset, data.to_vec()));
        Ok(())
    }
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Tell(Vec<Said>),
    /// A batch of about this many events is committed, durably or not.
    Project {
        events: usize,
        durable: bool,
    },
    /// The machine dies; the bits say which unsynced writes survive. All of them do when only the process dies.
    Crash {
        survivors: u64,
    },
    /// The log's segment is sealed, so that retention can have it.
    Seal,
    /// Retention: what is older than this many events.
    Retain {
        events: u64,
    },
    Sweep {
        rows: usize,
    },
    Rebuild,
    Compare,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => proptest::collection::vec(any_said(), 1..12).prop_map(Happening::Tell),
        8 => (1..20_usize, any::<bool>()).prop_map(|(events, durable)| Happening::Project { events, durable }),
        2 => any::<u64>().prop_map(|survivors| Happening::Crash { survivors }),
        2 => prop_oneof![Just(0), Just(u64::MAX)].prop_map(|survivors| Happening::Crash { survivors }),
        3 => Just(Happening::Seal),
        2 => (0..30_u64).prop_map(|events| Happening::Retain { events }),
        2 => (1..8_usize).prop_map(|rows| Happening::Sweep { rows }),
        1 => Just(Happening::Rebuild),
        2 => Just(Happening::Compare),
    ]
}

/// Views on a disk that may lose writes, beside a log and its model.
struct Run {
    told: Told,
    disk: Disk,
    store: Store,
    /// Of the last durable commit that no crash undid.
    durable: Sequence,
}

impl Run {
    fn new() -> Self {
        let told = Told::new();
        let disk = Disk::default();
        let store = Store::begin(&projection(), disk.database(), &told.log, &losses(&told.log).unwrap()).unwrap();
        Self { told, disk, store, durable: 0 }
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Tell(said) => _ = self.told.tell(said),
            Happening::Project { events, durable } => self.project(*events, *durable),
            Happening::Crash { survivors } => self.crash(*survivors),
            Happening::Seal => self.told.writer.seal_now(1).unwrap(),
            Happening::Retain { events } => {
                self.told.drop_before(self.told.log.head().next_sequence.saturating_sub(*events));
            }
            Happening::Sweep { rows } => {
                self.store.note_oldest(self.told.log.oldest());
                self.store.sweep(*rows, Durability::None).unwrap();
            }
            Happening::Rebuild => {
                self.disk = Disk::default();
                let losses = losses(&self.told.log).unwrap();
                self.store = Store::begin(&projection(), self.disk.database(), &self.told.log, &losses).unwrap();
                self.durable = self.store.next();
            }
            Happening::Compare => {
                let views = self.told.views_in(&self.store);
                self.told.model_up_to(self.store.next()).assert_answers_of(&views);
            }
        }
    }

    fn project(&mut self, events: usize, durable: bool) {
        let durability = if durable { Durability::Immediate } else { Durability::None };
        self.told.project(&mut self.store, events, durability);
        if durable {
            self.durable = self.store.next();
        }
    }

    fn crash(&mut self, survivors: u64) {
        let mut bits = (0..).map(|bit: u32| survivors.rotate_left(bit) & 1 == 1);
        self.disk = self.disk.after_crash(|| bits.next().unwrap_or_default());
        let store = Store::adopt(&projection(), self.disk.database(), &self.told.log).unwrap();
        self.store = store.expect("what was synced is of this log");
        assert!(self.store.next() >= self.durable);
        if survivors == 0 || survivors == u64::MAX {
            assert_eq!(self.store.next(), self.durable);
        }
        self.durable = self.store.next();
    }

    fn finish(mut self) {
        self.project(usize::MAX, false);
        self.happen(&Happening::Compare);
        self.happen(&Happening::Rebuild);
        self.project(usize::MAX, false);
        self.happen(&Happening::Compare);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn views_answer_as_the_retained_log_read_from_its_start_whatever_happens(
        happenings in proptest::collection::vec(any_happening(), 1..60)
    ) {
        let mut run = Run::new();
        for happening in &happenings {
            run.happen(happening);
        }
        run.finish();
    }
}

#[test]
fn a_sweep_takes_every_row_of_dropped_events_and_no_other() {
    let mut told = Told::new();
    let story: Vec<_> = (0..40)
        .flat_map(|number| {
            let signatures = (0..100).map(move |key| Said::Signature { old_form: false, block: number, key });
            let initiator = Some(Initiator { account: 1, by_hash: false });
            let (stage, transaction_type) = (Stage::Accepted, TransactionType::Deploy);
            let block = Said::Block { hash: number, height: u64::from(number) };
            let others = [
                Said::Transaction { stage, transaction_type, hash: number, initiator },
                Said::Fault { era: u64::from(number), key: 1 },
                Said::Step { era: u64::from(number) },
            ];
            [block].into_iter().chain(others).chain(signatures)
        })
        .collect();
    let rows_of = |store: &Store| {
        let count = |redb: &redb::Database| -> std::result::Result<u64, redb::Error> {
            let transaction = redb.begin_read()?;
            Ok(transaction.open_table(tables::SIGNATURES.definition)?.len()?
                + transaction.open_table(tables::BLOCKS_BY_HEIGHT.definition)?.len()?
                + transaction.open_table(tables::STEPS.definition)?.len()?)
        };
        store.database().run(count).unwrap()
    };
    for half in story.chunks(story.len() / 2) {
        told.tell(half);
        told.writer.seal_now(1).unwrap();
    }
    let mut store = told.store().0;
    let batch = Batch::read(&CasperProjection, &told.log, 0, usize::MAX).unwrap();
    store.commit(batch, Durability::None).unwrap();
    assert_eq!(rows_of(&store), 3 * 40);
    told.drop_before(story.len() as u64 / 2);
    store.note_oldest(told.log.oldest());
    let mut steps = 0;
    while store.is_sweeping() {
        store.sweep(10, Durability::None).unwrap();
        steps += 1;
    }
    assert!(steps > 20, "{steps}");
    assert_eq!(rows_of(&store), 3 * 20);
    told.model_up_to(u64::MAX).assert_answers_of(&told.views_in(&store));
}

#[test]
fn a_busy_account_and_a_block_of_many_validators_are_cut_into_chunks() {
    let mut told = Told::new();
    let mut store = told.store().0;
    for part in 0..7_u8 {
        let initiator = Some(Initiator { account: 1, by_hash: part % 2 == 0 });
        let (stage, transaction_type) = (Stage::Processed, TransactionType::Version1);
        let said: Vec<_> = (0..100_u8)
            .flat_map(|number| {
                let hash = number.wrapping_mul(7).wrapping_add(part);
                [
                    Said::Transaction { stage, transaction_type, hash, initiator },
                    Said::Signature { old_form: false, block: 1, key: hash },
                ]
            })
            .collect();
        told.tell(&said);
        told.project(&mut store, usize::MAX, Durability::None);
    }
    let model = told.model_up_to(u64::MAX);
    model.assert_answers_of(&told.views_in(&store));
    assert_eq!(model.transactions_by_initiator(1).len(), 256);
}

#[test]
fn a_transactions_later_stages_are_found_however_often_an_earlier_one_was_sent() {
    let mut told = Told::new();
    let mut store = told.store().0;
    let said = |stage| Said::Transaction { stage, transaction_type: TransactionType::Deploy, hash: 1, initiator: None };
    for stage in [Stage::Accepted, Stage::Processed] {
        told.tell(&[said(stage); 100]);
        told.project(&mut store, usize::MAX, Durability::None);
    }
    told.tell(&[said(Stage::Expired)]);
    told.project(&mut store, usize::MAX, Durability::None);
    told.model_up_to(u64::MAX).assert_answers_of(&told.views_in(&store));
}

/// Projects a story, closes the file, lets `change` have it, and returns what the next open makes of it.
fn reopened_after(change: impl Fn(&mut Told)) -> Option<Rebuild> {
    let mut told = Told::new();
    told.tell(&[Said::Block { hash: 1, height: 1 }, Said::Step { era: 1 }, Said::Block { hash: 2, height: 2 }]);
    rebuild(&told.options(), &told.log, &mut |_| ()).unwrap();
    change(&mut told);
    let (mut store, found) = told.store();
    assert_eq!(store.next() < told.log.head().next_sequence, found.is_some());
    told.project(&mut store, usize::MAX, Durability::Immediate);
    told.model_up_to(u64::MAX).assert_answers_of(&told.views_in(&store));
    drop(store);
    assert_eq!(told.store().1, None, "it did not last");
    let is_kept = matches!(found, Some(Rebuild::Damaged(_) | Rebuild::OtherFormat | Rebuild::OtherLog));
    assert_eq!(derived::set_aside_path(&told.path()).exists(), is_kept, "{found:?}");
    found
}

fn change(path: &Path, make: impl FnOnce(&WriteTransaction) -> std::result::Result<(), redb::Error>) {
    let database = file(path).open(1 << 20, false).unwrap().unwrap();
    let write = |redb: &redb::Database| -> std::result::Result<(), redb::Error> {
        let transaction = redb.begin_write()?;
        make(&transaction)?;
        Ok(transaction.commit()?)
    };
    database.run(write).unwrap();
}

fn set_state(path: &Path, key: &str, value: &[u8]) {
    change(path, |transaction| {
        transaction.open_table(TableDefinition::<&str, &[u8]>::new("state"))?.insert(key, value)?;
        Ok(())
    });
}

#[test]
fn views_that_cannot_be_trusted_are_rebuilt() {
    assert_eq!(reopened_after(|_| ()), None);
    assert_eq!(reopened_after(|told| fs::remove_file(told.path()).unwrap()), Some(Rebuild::Missing));
    let overwritten = reopened_after(|told| fs::write(told.path(), "not a database at all").unwrap());
    assert!(matches!(overwritten, Some(Rebuild::Damaged(_))), "{overwritten:?}");
    let cut = reopened_after(|told| {
        let file = fs::OpenOptions::new().write(true).open(told.path()).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
    assert!(matches!(cut, Some(Rebuild::Damaged(_))), "{cut:?}");
    let bad_page = reopened_after(|told| {
        let mut bytes = fs::read(told.path()).unwrap();
        let row = crate::engine::view::keys::digest(hash(2));
        let at = bytes.windows(16).rposition(|window| window == row).unwrap();
        bytes[at] ^= 1;
        fs::write(told.path(), bytes).unwrap();
    });
    assert!(matches!(bad_page, Some(Rebuild::Damaged(_))), "{bad_page:?}");

    let number = |number: u64| number.to_le_bytes();
    let after_setting = |key: &str, value: &[u8]| reopened_after(|told| set_state(&told.path(), key, value));
    assert_eq!(after_setting("format", &number(99)), Some(Rebuild::OtherFormat));
    assert_eq!(after_setting("log_id", &[8; 16]), Some(Rebuild::OtherLog));
    assert_eq!(after_setting("epoch", &number(99)), Some(Rebuild::OtherEpoch));
    assert_eq!(after_setting("chain_before_next", &[9; 32]), Some(Rebuild::OtherHistory));
    assert_eq!(after_setting("next_sequence", &number(4)), Some(Rebuild::AheadOfLog));
    assert_eq!(after_setting("first_sequence", &number(1)), Some(Rebuild::LogGotOlderEvents));
    let lost = reopened_after(|told| {
        let mark = sidecar_log_format::Mark {
            kind: sidecar_log_format::MarkKind::LOSS,
            position: told.writer.next_sequence(),
            source: String::new(),
            received: 1,
            body: r#"{"from":2,"to":2,"reason":"a test"}"#.to_owned(),
        };
        told.writer.mark(&mark).unwrap();
        told.writer.commit().unwrap();
    });
    assert_eq!(lost, Some(Rebuild::LogLostEvents));
}

#[test]
fn a_file_in_use_is_refused_and_left_alone() {
    let told = Told::new();
    let (store, _) = told.store();
    let error = store::open(&projection(), &told.options(), &told.log).err().unwrap();
    assert!(matches!(error, ViewError::File(DerivedError::Redb { .. })), "{error}");
    drop(store);
    assert_eq!(told.store().1, None);
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_query_after_a_commit_sees_it_once_the_views_have_caught_up() {
    let mut told = Told::new();
    let (committed, receiver) = watch::channel(told.log.head());
    let views = CasperViews::open(told.options(), told.log.clone(), receiver).unwrap();
    for height in 0..NUMBERS {
        let head = told.tell(&[Said::Block { hash: height as u8, height }, Said::Shutdown]);
        committed.send_replace(head);
        assert!(views.views().caught_up_to(head.next_sequence, PATIENCE).await);
        assert_eq!(views.views().next_sequence(), head.next_sequence);
        told.model_up_to(u64::MAX).assert_answers_of(&views);
    }
    let head = told.log.head().next_sequence;
    assert!(!views.views().caught_up_to(head + 1, Duration::ZERO).await);
    assert_eq!((views.views().counters().projected.get(), views.views().counters().rebuilds.get()), (head, 1));
}

#[tokio::test]
async fn views_end_with_the_writer_and_resume_where_they_were() {
    let mut told = Told::new();
    told.tell(&[Said::Block { hash: 1, height: 1 }]);
    let (committed, receiver) = watch::channel(told.log.head());
    let views = CasperViews::open(told.options(), told.log.clone(), receiver).unwrap();
    assert!(views.views().caught_up_to(1, PATIENCE).await);
    drop(committed);
    views.views().ended().await;
    assert!(matches!(views.latest_block(), Err(ViewError::Closed { .. })));
    assert_eq!(views.views().next_sequence(), 0, "nobody takes them for current");
    assert!(!views.views().caught_up_to(1, PATIENCE).await, "nobody waits for views that have ended");

    told.tell(&[Said::Block { hash: 2, height: 2 }]);
    let (_committed, receiver) = watch::channel(told.log.head());
    let views = CasperViews::open(told.options(), told.log.clone(), receiver).unwrap();
    assert!(views.views().caught_up_to(2, PATIENCE).await);
    told.model_up_to(u64::MAX).assert_answers_of(&views);
    assert_eq!((views.views().counters().projected.get(), views.views().counters().rebuilds.get()), (1, 0));
}

#[tokio::test]
async fn views_forget_what_the_log_has_lost_when_it_is_recovered_in_place() {
    let mut told = Told::new();
    told.tell(&[Said::Block { hash: 1, height: 1 }]);
    let segment = told.directory.path().join("log").join(format!("{:020}.segment", 0));
    let kept = fs::read(&segment).unwrap();
    let (committed, receiver) = watch::channel(told.tell(&[Said::Block { hash: 2, height: 2 }]));
    let views = CasperViews::open(told.options(), told.log.clone(), receiver).unwrap();
    assert!(views.views().caught_up_to(2, PATIENCE).await);
    assert_eq!(views.block_by_height(2).unwrap(), Some(1));

    fs::write(&segment, kept).unwrap();
    let Told { directory, writer, log, .. } = told;
    drop(writer);
    let Opened { writer, recovery, .. } = Writer::reopen(&log, WriteOptions::new("casper", LOG_ID, 1)).unwrap();
    assert_eq!(recovery.lost, Some(1..2));
    // The node brings it again.
    let mut told = Told { directory, writer, log, said: vec![Said::Block { hash: 1, height: 1 }, Said::Shutdown] };
    let head = told.tell(&[Said::Block { hash: 2, height: 2 }]);
    committed.send_replace(head);
    until(PATIENCE, "a second rebuild", async || views.views().counters().rebuilds.get() >= 2).await;
    assert!(views.views().caught_up_to(head.next_sequence, PATIENCE).await);
    assert_eq!((views.block_by_height(1).unwrap(), views.block_by_height(2).unwrap()), (Some(0), Some(2)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn views_that_were_killed_resume_from_their_last_durable_commit(
        lives in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any_said(), 1..8), 1..6), 2..5),
        sync_events in 1..20_usize
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(kill_after_each(&lives, sync_events));
    }
}

/// Each life of the views follows some commits of the log.
async fn kill_after_each(lives: &[Vec<Vec<Said>>], sync_events: usize) {
    let mut told = Told::new();
    let options = Options { sync_events, sync_period: Duration::MAX, ..told.options() };
    let (mut durable, mut made_anew) = (0, 1);
    for life in lives {
        let (committed, receiver) = watch::channel(told.log.head());
        let views = CasperViews::open(options.clone(), told.log.clone(), receiver).unwrap();
        let (mut projected, mut unsynced) = (0, 0);
        // The first batch is what the life before did not make durable.
        for said in [&[][..]].into_iter().chain(life.iter().map(Vec::as_slice)) {
            let head = told.tell(said);
            committed.send_replace(head);
            assert!(views.views().caught_up_to(head.next_sequence, PATIENCE).await);
            let batch = match projected {
                0 => head.next_sequence - durable,
                _ => said.len() as u64,
            };
            (projected, unsynced) = (projected + batch, unsynced + batch);
            if unsynced >= sync_events as u64 {
                (durable, unsynced) = (head.next_sequence, 0);
            }
        }
        assert_eq!(
            (views.views().counters().projected.get(), views.views().counters().rebuilds.get()),
            (projected, made_anew)
        );
        told.model_up_to(u64::MAX).assert_answers_of(&views);
        made_anew = 0;

        let left = told.path().with_extension("left");
        fs::copy(told.path(), &left).unwrap();
        drop(committed);
        views.views().ended().await;
        fs::rename(left, told.path()).unwrap();
    }
}

#[tokio::test]
async fn a_malformed_row_is_reported_and_the_views_are_rebuilt() {
    let mut told = Told::new();
    told.tell(&[Said::Block { hash: 1, height: 1 }]);
    rebuild(&told.options(), &told.log, &mut |_| ()).unwrap();
    change(&told.path(), |transaction| {
        let row: &[u8] = &[0x80];
        transaction.open_table(tables::BLOCKS_BY_HEIGHT.definition)?.insert(&1_u64.to_be_bytes(), row)?;
        Ok(())
    });
    let (committed, receiver) = watch::channel(told.log.head());
    let views = CasperViews::open(told.options(), told.log.clone(), receiver).unwrap();
    assert!(views.views().caught_up_to(1, PATIENCE).await);
    assert!(matches!(views.latest_block(), Err(ViewError::File(DerivedError::Damaged { .. }))));
    let head = told.tell(&[Said::Block { hash: 2, height: 2 }]);
    committed.send_replace(head);
    while views.views().counters().failures.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(views.views().caught_up_to(1, PATIENCE).await);
    assert!(views.latest_block().is_ok(), "who waits is not sent to closed views");
    assert!(views.views().caught_up_to(2, PATIENCE).await);
    assert_eq!((views.views().counters().failures.get(), views.views().counters().rebuilds.get()), (1, 1));
    told.model_up_to(u64::MAX).assert_answers_of(&views);
}

#[tokio::test]
async fn views_whose_file_is_damaged_under_them_answer_right_or_not_at_all_and_are_rebuilt() {
    let mut told = Told::new();
    for part in 0..30_u8 {
        let said: Vec<_> = (0..100_u8)
            .flat_map(|number| {
                let (hash, height) = (number, u64::from(part) * 100 + u64::from(number));
                [Said::Block { hash, height }, Said::Signature { old_form: false, block: part, key: number }]
            })
            .collect();
        told.tell(&said);
    }
    let end = told.log.head().next_sequence;
    // Without a cache every query reads the file.
    let options = Options { cache_bytes: 0, ..told.options() };
    rebuild(&options, &told.log, &mut |_| ()).unwrap();
    let (_committed, receiver) = watch::channel(told.log.head());
    let views = CasperViews::open(options, told.log.clone(), receiver).unwrap();
    assert!(views.views().caught_up_to(end, PATIENCE).await);
    let ask = |height: u64| (views.block_by_height(height), views.signatures(&hash_bytes(height as u8 % 30)));
    let right: Vec<_> =
        (0..100).map(|height| ask(height * 30)).map(|(block, of)| (block.unwrap(), of.unwrap())).collect();
    for damage in 1..4_u64 {
        let file = fs::OpenOptions::new().write(true).open(told.path()).unwrap();
        let length = file.metadata().unwrap().len();
        for piece in 0..8 {
            let at = (length / 8 * piece + damage * 4096).min(length - 4096);
            std::os::unix::fs::FileExt::write_all_at(&file, &[0; 16 << 10][..(length - at).min(16 << 10) as usize], at)
                .unwrap();
        }
        while views.views().counters().failures.get() < damage {
            for (height, right) in right.iter().enumerate() {
                let (block, signatures) = ask(height as u64 * 30);
                assert!(block.is_err() || block.is_ok_and(|block| block == right.0), "{height}");
                assert!(signatures.is_err() || signatures.is_ok_and(|signatures| signatures == right.1), "{height}");
            }
            tokio::task::yield_now().await;
        }
        assert!(views.views().caught_up_to(end, PATIENCE).await);
        assert_eq!(views.block_by_height(30).unwrap(), right[1].0);
        assert_eq!(views.views().counters().rebuilds.get(), damage);
    }
    assert!(derived::set_aside_path(&told.path()).exists());
}

#[tokio::test]
async fn views_answer_what_they_know_while_the_log_cannot_be_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let (log, reads) = crate::engine::failing_reads::log_of_blocks(&folder.path().join("log"), &[0, 3 << 20]);
    assert!(matches!(log.read(0), Ok(sidecar_log_format::Read::Events { .. })), "in the cache from now on");
    reads.fail(true);
    let (_committed, receiver) = watch::channel(log.head());
    let options = Options::new(folder.path().join("views"), 1 << 20);
    let views = CasperViews::open(options, log, receiver).unwrap();
    assert!(views.views().caught_up_to(1, PATIENCE).await);
    while views.views().counters().failures.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((views.views().closed(), views.views().next_sequence()), (None, 1));
    assert_eq!(views.latest_block().unwrap(), Some(0));
    reads.fail(false);
    assert!(views.views().caught_up_to(2, PATIENCE).await);
    assert_eq!(views.latest_block().unwrap(), Some(1));
}

#[test]
fn no_event_is_left_out_because_a_read_failed() {
    let folder = tempfile::tempdir().unwrap();
    let (log, reads) = crate::engine::failing_reads::log_with_a_large_event(folder.path());
    let (failed, batch) = (0..)
        .find_map(|read| {
            reads.fail_after(read);
            Some((read, Batch::read(&CasperProjection, &log, 0, 8).ok()?))
        })
        .unwrap();
    assert!(failed > 2, "the event is read more than once");
    assert_eq!((batch.events(), batch.next()), (1, 1));
}
