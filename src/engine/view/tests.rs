//! The views with a projection that no dialect has. What Casper's make of them is tested beside those.

use std::path::Path;

use redb::Durability;
use sidecar_log_format::storage::Directory;
use sidecar_log_format::{ApiVersion, Event, Kind, Opened, WriteOptions, Writer};

use super::keys::digest;
use super::postings::Postings;
use super::store::Store;
use super::tables::{Lists, Rows, Table};
use super::*;

static NUMBERS: Rows<8> = Rows::new(0, "numbers").listed_in(&OWNERS, 0b1);
static OWNERS: Lists = Lists::new(1, "owners");

/// A payload is a number and its owner. Kinds that are both even, or both odd, are about the same thing.
struct Toy {
    form: &'static str,
}

impl Projection for Toy {
    fn form(&self) -> &'static str {
        self.form
    }

    fn tables(&self) -> &'static [&'static dyn Table] {
        static TABLES: [&dyn Table; 2] = [&NUMBERS, &OWNERS];
        &TABLES
    }

    fn project(&self, kind: Kind, payload: &str, postings: &mut Postings) {
        let Some((number, owner)) = payload.split_once(' ') else { return };
        NUMBERS.add(postings, &number.parse::<u64>().unwrap().to_be_bytes(), kind.0.into());
        postings.list(digest(owner));
    }
}

fn toy(form: &'static str) -> Arc<dyn Projection> {
    Arc::new(Toy { form })
}

fn log_of(folder: &Path, events: impl Iterator<Item = (u8, &'static str)>) -> Log {
    let storage = Arc::new(Directory::create(folder.join("log")).unwrap());
    let Opened { mut writer, log, .. } = Writer::open(storage, WriteOptions::new("toy", [3; 16], 1)).unwrap();
    for (kind, payload) in events {
        let event =
            Event { api_version: ApiVersion { major: 1, minor: 0, patch: 0 }, ..Event::new(Kind(kind), 1, payload) };
        writer.append(&event).unwrap();
    }
    writer.commit().unwrap();
    log
}

/// The views of a log, projected `events` at a time.
fn views_of(folder: &Path, log: &Log, events: usize) -> (Store, Views) {
    let (toy, options) = (toy("toy 1"), Options::new(folder.join("views.redb"), 1 << 20));
    let mut store = store::open(&toy, &options, log).unwrap().0;
    while store.next() < log.head().next_sequence {
        let batch = Batch::read(toy.as_ref(), log, store.next(), events).unwrap();
        store.commit(batch, Durability::None).unwrap();
    }
    let views = Views::of_store(&store, options.path, log.clone());
    (store, views)
}

fn found(views: &Views, number: u64) -> Vec<Sequence> {
    let postings = views.query(|snapshot| snapshot.find(&NUMBERS, &number.to_be_bytes())).unwrap();
    postings.iter().map(|posting| posting.sequence).collect()
}

#[test]
fn events_are_found_by_what_a_projection_names_and_a_thing_is_listed_once() {
    let folder = tempfile::tempdir().unwrap();
    let events = [(1, "7 a"), (1, "8 a"), (3, "7 a"), (2, "7 b"), (1, "nothing"), (4, "7 b"), (5, "9 a")];
    let log = log_of(folder.path(), events.into_iter());
    let (_store, views) = views_of(folder.path(), &log, 1);
    assert_eq!([found(&views, 7), found(&views, 8), found(&views, 6)], [vec![0, 2, 3, 5], vec![1], vec![]]);
    let listed =
        |owner, newest, limit| views.query(|snapshot| snapshot.listed(&OWNERS, digest(owner), newest, limit)).unwrap();
    assert_eq!([listed("a", 9, 9), listed("b", 9, 9), listed("c", 9, 9)], [vec![6, 1, 0], vec![3], vec![]]);
    assert_eq!([listed("a", 5, 9), listed("a", 9, 2)], [vec![1, 0], vec![6, 1]]);
}

#[test]
fn a_row_keeps_its_first_events_and_the_first_of_each_further_tag() {
    let folder = tempfile::tempdir().unwrap();
    let events = std::iter::repeat_n((1, "7 a"), 100).chain([(2, "7 a"), (2, "7 a")]);
    let log = log_of(folder.path(), events);
    let (_store, views) = views_of(folder.path(), &log, usize::MAX);
    assert_eq!(found(&views, 7), (0..64).chain([100]).collect::<Vec<_>>());
}

#[test]
fn a_remembered_key_is_that_of_its_own_list() {
    let others = Lists::new(2, "others");
    let mut postings = Postings::new(3);
    let mut key = |lists: &Lists, made: Option<u8>| lists.key(&mut postings, "a", |_| made.map(|made| [made; 16]));
    assert_eq!(key(&OWNERS, Some(1)), Some([1; 16]));
    assert_eq!(key(&OWNERS, Some(9)), Some([1; 16]), "it is remembered");
    assert_eq!(key(&others, Some(2)), Some([2; 16]));
    assert_eq!(key(&OWNERS, None), None);
}

#[test]
fn views_of_another_projection_are_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let log = log_of(folder.path(), [(1, "7 a")].into_iter());
    drop(views_of(folder.path(), &log, 1));
    let options = Options::new(folder.path().join("views.redb"), 1 << 20);
    assert_eq!(store::open(&toy("toy 1"), &options, &log).unwrap().1, None);
    assert_eq!(store::open(&toy("toy 2"), &options, &log).unwrap().1, Some(Rebuild::OtherFormat));
}
