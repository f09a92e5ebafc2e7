//! Export to SQL, back-filling a log: `cargo bench --bench export [-- --events N]`.
//!
//! Each database gets the same log. The yardstick of each is the way in which the Casper Sidecar writes, in the same run: a
//! transaction per event with its values as literals. PostgreSQL is a real server on this machine, with its syncs on.

#![expect(clippy::expect_used, reason = "a benchmark ends at the first error")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sidecar::{
    casper::event::{Classified, classify},
    casper::export::{
        ExportFrom, Exporters, Options,
        postgresql::{self, Password, SslMode},
        sqlite,
    },
};
use sidecar_log_format::{
    ApiVersion, Durability, Event, Log, Opened, WriteOptions, Writer,
    storage::{Directory, Storage},
};
use sidecar_test_support::{
    fast::EndlessStory,
    postgresql::{DATABASE, PASSWORD, PostgreSql, PostgreSqlOptions, USER},
};
use tokio::{runtime::Runtime, sync::watch};

const EVENTS: u64 = 300_000;
/// Enough for a rate of what is slow.
const SINGLE_EVENTS: u64 = 2_000;

fn main() {
    // `cargo test` and `cargo bench` hand over flags of their own.
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let events = arguments.iter().position(|argument| argument == "--events");
    let events = events.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(EVENTS);

    let folder = tempfile::tempdir().expect("a temporary directory");
    let (log, _writer) = write_log(&folder.path().join("log"), events);
    let runtime = Runtime::new().expect("a runtime");
    let server = PostgreSql::with(&PostgreSqlOptions {
        settings: "fsync = on\nmax_wal_size = '1GB'".to_owned(),
        ..PostgreSqlOptions::default()
    });
    let settings = settings(&server, DATABASE);

    println!("{:<12} {:>10} {:>10} {:>20} {:>8}", "export to", "events", "events/s", "one by one, events/s", "times");
    let sqlite = |name: &str| sqlite::Options {
        file: folder.path().join(name),
        wal_autocheckpointing_interval: 1000,
        export_from: ExportFrom::Oldest,
    };
    let rate = export(&runtime, &log, &Options { sqlite: Some(sqlite("batches.db3")), postgresql: None });
    print("SQLite", events, rate, one_by_one_sqlite(&sqlite("single.db3")));
    let rate = export(&runtime, &log, &Options { sqlite: None, postgresql: Some(settings.clone()) });
    server.psql("postgres", "CREATE DATABASE single");
    let single = postgresql::Options { database_name: "single".to_owned(), ..settings };
    print("PostgreSQL", events, rate, one_by_one_postgresql(&runtime, &single));
}

fn print(name: &str, events: u64, rate: f64, one_by_one: f64) {
    println!("{name:<12} {events:>10} {rate:>10.0} {one_by_one:>20.0} {:>8.1}", rate / one_by_one);
}

fn settings(server: &PostgreSql, database: &str) -> postgresql::Options {
    postgresql::Options {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database_name: database.to_owned(),
        username: USER.to_owned(),
        password: Password::new(PASSWORD.to_owned()),
        max_connections: 1,
        ssl_mode: SslMode::Disable,
        ssl_root_certificate: None,
        export_from: ExportFrom::Oldest,
    }
}

/// A log of events in the default mix.
fn write_log(directory: &Path, events: u64) -> (Log, Writer) {
    let storage: Arc<dyn Storage> = Arc::new(Directory::create(directory).expect("a directory"));
    let options = WriteOptions { durability: Durability::Os, ..WriteOptions::new("casper", [7; 16], 1) };
    let Opened { mut writer, log, .. } = Writer::open(storage, options).expect("a new log");
    let story = EndlessStory::render(1, 200);
    for number in 0..events {
        let payload = story.payload(number);
        let Ok(Classified::Event(facts)) = classify(&payload) else { continue };
        let event = Event {
            kind: facts.kind,
            name: "",
            source: "127.0.0.1:9999",
            network: "casper-test",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            upstream_id: Some(EndlessStory::id(number)),
            received: 1_795_000_000_000_000 + number,
            payload: &payload,
        };
        writer.append(&event).expect("the log takes it");
        if writer.is_block_full() {
            writer.commit().expect("the log commits");
        }
    }
    writer.commit().expect("the log commits");
    (log, writer)
}

/// Events per second from the oldest to the head.
fn export(runtime: &Runtime, log: &Log, options: &Options) -> f64 {
    let exporters = Exporters::new(options.clone());
    runtime.block_on(exporters.check()).expect("the database is there");
    let head = log.head();
    let (_committed, committed) = watch::channel(head);
    let start = Instant::now();
    let running = {
        let _inside = runtime.enter();
        exporters.start(log, &committed).expect("a thread")
    };
    for (_, counters) in exporters.counters() {
        while counters.next_sequence() < head.next_sequence {
            std::thread::sleep(Duration::from_millis(2));
        }
        let written = counters.rows.get() + counters.collisions.get() + counters.without_table.get();
        assert_eq!(written, head.next_sequence, "every event is accounted for");
        assert_eq!(counters.collisions.get() + counters.failures.get(), 0, "no event is there already");
    }
    let elapsed = start.elapsed();
    runtime.block_on(running.stop(Duration::from_secs(10)));
    head.next_sequence as f64 / elapsed.as_secs_f64()
}

/// The statements of one signature, numbered to be unlike all others.
fn one(number: u64) -> (String, impl Fn(i64) -> String) {
    let (hash, key) = (format!("{number:064x}"), format!("01{number:064x}"));
    let event_log = format!(
        r#"INSERT INTO "event_log" ("event_type_id", "event_source_address", "event_id", "event_key", "api_version", "network_name") VALUES (6, 'http://127.0.0.1:9999/', {number}, '{hash} {key}', '2.0.0', 'casper-test') RETURNING "event_log_id""#
    );
    let raw = "x".repeat(600);
    let signature = move |id| {
        format!(
            r#"INSERT INTO "FinalitySignature" ("block_hash", "public_key", "raw", "event_log_id") VALUES ('{hash}', '{key}', '{raw}', {id})"#
        )
    };
    (event_log, signature)
}

fn one_by_one_sqlite(options: &sqlite::Options) -> f64 {
    sqlite::check(options).expect("a file");
    let mut connection = rusqlite::Connection::open(&options.file).expect("a file");
    connection.pragma_update(None, "foreign_keys", true).expect("SQLite has them");
    let start = Instant::now();
    for number in 0..SINGLE_EVENTS {
        let (event_log, signature) = one(number);
        let transaction = connection.transaction().expect("a transaction");
        let id = transaction.query_row(&event_log, [], |row| row.get(0)).expect("a row");
        transaction.execute(&signature(id), []).expect("a row");
        transaction.commit().expect("a commit");
    }
    SINGLE_EVENTS as f64 / start.elapsed().as_secs_f64()
}

fn one_by_one_postgresql(runtime: &Runtime, settings: &postgresql::Options) -> f64 {
    runtime.block_on(async {
        postgresql::check(settings).await.expect("the server");
        let mut client = postgresql::connect(settings).await.expect("the server");
        let start = Instant::now();
        for number in 0..SINGLE_EVENTS {
            let (event_log, signature) = one(number);
            let transaction = client.transaction().await.expect("a transaction");
            let id = transaction.query_one(&event_log, &[]).await.expect("a row").get(0);
            transaction.execute(&signature(id), &[]).await.expect("a row");
            transaction.commit().await.expect("a commit");
        }
        SINGLE_EVENTS as f64 / start.elapsed().as_secs_f64()
    })
}
