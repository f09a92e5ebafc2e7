//! The exporters against the model, over any interleaving of events, commits and restarts.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sidecar::config::{ExportFrom, Password, PostgreSql as PostgreSqlSettings, SslMode};
use sidecar::export::{Exporters, Options, Running, sqlite};
use sidecar::source::casper::event::{Classified, classify};
use sidecar_log_format::{ApiVersion, Head, Log, Opened, WriteOptions, Writer, storage::Directory};
use sidecar_test_support::postgresql::{PASSWORD, PostgreSql, USER};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Database, Event, Model, PATIENCE};

const CASES: u32 = 16;
/// 2026-01-02T03:04:05Z.
const TIME: u64 = 1_767_323_045;

#[derive(Clone, Debug)]
enum Step {
    /// An event of one of few keys, so that many share them.
    Tell {
        kind: u8,
        first: u64,
        second: u64,
        form: bool,
        source: u16,
        id: u64,
    },
    Commit,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let tell = (0..10_u8, 0..4_u64, 0..3_u64, any::<bool>(), 0..2_u16, 0..5_u64);
    prop_oneof![
        12 => tell.prop_map(|(kind, first, second, form, source, id)| Step::Tell { kind, first, second, form, source, id }),
        2 => Just(Step::Commit),
        1 => Just(Step::Restart),
    ]
}

fn payload(kind: u8, first: u64, second: u64, form: bool) -> String {
    let transaction = if form { "Version1" } else { "Deploy" };
    match kind {
        0 => format!(
            r#"{{"BlockAdded":{{"block_hash":"b{second}","block":{{"Version2":{{"header":{{"height":{first}}}}}}}}}}}"#
        ),
        1 => format!(r#"{{"TransactionAccepted":{{"{transaction}":{{"hash":"t{first}","and":"\\\n"}}}}}}"#)
            .replace('\n', "n"),
        2 => format!(r#"{{"TransactionExpired":{{"transaction_hash":{{"{transaction}":"t{first}"}}}}}}"#),
        3 => format!(r#"{{"TransactionProcessed":{{"transaction_hash":{{"{transaction}":"t{first}"}},"ttl":"€"}}}}"#),
        4 => format!(r#"{{"Fault":{{"era_id":{first},"public_key":"k{second}"}}}}"#),
        5 if form => format!(
            r#"{{"FinalitySignature":{{"V1":{{"block_hash":"b{first}","era_id":0,"public_key":"k{second}"}}}}}}"#
        ),
        5 => format!(
            r#"{{"FinalitySignature":{{"V2":{{"block_hash":"b{first}","block_height":0,"public_key":"k{second}"}}}}}}"#
        ),
        6 => format!("{{\"Step\": {{\"era_id\": {first},\n \"execution_effects\": []}}}}"),
        7 => r#""Shutdown""#.to_owned(),
        8 => format!(r#"{{"Step":{{"era_id":"{first}"}}}}"#),
        _ => format!(r#"{{"New":{first}}}"#),
    }
}

/// A log that is written here, and its exporters.
struct World {
    runtime: Runtime,
    writer: Writer,
    log: Log,
    committed: watch::Sender<Head>,
    exporters: Exporters,
    running: Option<Running>,
    model: Model,
}

impl World {
    fn restart(&mut self) {
        let _inside = self.runtime.enter();
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop(PATIENCE));
        }
        self.running = Some(self.exporters.start(&self.log, &self.committed.subscribe()).unwrap());
    }

    fn commit(&mut self) {
        let head = self.writer.commit().unwrap();
        self.committed.send_replace(head);
    }

    fn tell(&mut self, payload: &str, source: u16, id: u64, second: u64) {
        let Ok(Classified::Event(facts)) = classify(payload) else { panic!("not an event: {payload}") };
        let source = format!("10.0.0.{source}:9999");
        let time = TIME + second;
        let event = sidecar_log_format::Event {
            kind: facts.kind,
            source: &source,
            network: "casper-test",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            upstream_id: Some(id),
            // Any part of the second: a shutdown is known by the whole.
            received: time * 1_000_000 + id * 199_999,
            payload,
        };
        self.writer.append(&event).unwrap();
        self.model.apply(&Event {
            payload: payload.to_owned(),
            source,
            id,
            api_version: "2.0.0".to_owned(),
            network: "casper-test".to_owned(),
            shutdown_second: Some(time.cast_signed()),
        });
    }

    fn wait_for_exporters(&self) {
        let head = self.log.head().next_sequence;
        let deadline = Instant::now() + PATIENCE;
        for (name, counters) in self.exporters.counters() {
            while counters.next_sequence() < head {
                assert!(Instant::now() < deadline, "{name} is at {} of {head}", counters.next_sequence());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn rows_in_both_databases_equal_the_models_after_any_interleaving_of_events_commits_and_restarts() {
    let server = PostgreSql::start();
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let case = std::cell::Cell::new(0);
    let result = runner.run(&prop::collection::vec(step(), 1..120), |steps| {
        case.set(case.get() + 1);
        let database = format!("case_{}", case.get());
        server.psql("postgres", &format!("CREATE DATABASE {database}"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.db3");
        let mut world = world(&server, &database, folder.path());
        world.restart();
        for step in &steps {
            match *step {
                Step::Tell { kind, first, second, form, source, id } => {
                    world.tell(&payload(kind, first, second, form), source, id, second);
                }
                Step::Commit => world.commit(),
                Step::Restart => world.restart(),
            }
        }
        world.commit();
        world.wait_for_exporters();
        world.runtime.block_on(world.running.take().unwrap().stop(PATIENCE));
        for database in [Database::Sqlite(&file), Database::PostgreSql(&server, &database)] {
            let rows = database.rows();
            if rows != world.model.rows() {
                return Err(TestCaseError::fail(format!("{rows:#?}\nis not\n{:#?}", world.model.rows())));
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn world(server: &PostgreSql, database: &str, folder: &std::path::Path) -> World {
    let storage = Arc::new(Directory::create(folder.join("log")).unwrap());
    let now = UNIX_EPOCH.elapsed().unwrap().as_micros().try_into().unwrap();
    let options = WriteOptions { block_bytes_max: 4096, ..WriteOptions::new("casper", [3; 16], now) };
    let Opened { writer, log, .. } = Writer::open(storage, options).unwrap();
    let options = Options {
        sqlite: Some(sqlite::Options {
            file: folder.join("events.db3"),
            wal_autocheckpointing_interval: 1000,
            export_from: ExportFrom::Oldest,
        }),
        postgresql: Some(PostgreSqlSettings {
            host: "127.0.0.1".to_owned(),
            port: server.port(),
            database_name: database.to_owned(),
            username: USER.to_owned(),
            password: Password::new(PASSWORD.to_owned()),
            max_connections: 1,
            ssl_mode: SslMode::Disable,
            ssl_root_certificate: None,
            export_from: ExportFrom::Oldest,
        }),
    };
    let runtime = Runtime::new().unwrap();
    let exporters = Exporters::new(options);
    runtime.block_on(exporters.check()).unwrap();
    let committed = watch::channel(log.head()).0;
    World { runtime, writer, log, committed, exporters, running: None, model: Model::default() }
}
