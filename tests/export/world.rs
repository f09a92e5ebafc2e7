//! A log that a test writes itself, and exporters of it in the test's own process: what goes into one transaction is known.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use sidecar::casper::event::{Classified, classify};
use sidecar::casper::export::counters::Counters;
use sidecar::casper::export::postgresql::{self, Password, SslMode};
use sidecar::casper::export::{ExportFrom, Exporters, Options, Running, sqlite};
use sidecar_log_format::{ApiVersion, Head, Log, Opened, WriteOptions, Writer, storage::Directory};
use sidecar_test_support::postgresql::{DATABASE, PASSWORD, PostgreSql, USER};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Event, Model, PATIENCE};

/// 2026-01-02T03:04:05Z.
const TIME: u64 = 1_767_323_045;

pub(super) struct World {
    runtime: Runtime,
    pub(super) writer: Writer,
    log: Log,
    committed: watch::Sender<Head>,
    exporters: Exporters,
    running: Option<Running>,
    pub(super) model: Model,
    /// The SQLite database.
    pub(super) file: PathBuf,
}

impl World {
    /// The log in `folder`, empty if it is new, to be exported to SQLite and to a database of PostgreSQL, whose tables are made.
    pub(super) fn new(folder: &Path, postgresql: Option<(&PostgreSql, &str)>) -> Self {
        let storage = Arc::new(Directory::create(folder.join("log")).unwrap());
        let now = UNIX_EPOCH.elapsed().unwrap().as_micros().try_into().unwrap();
        let options = WriteOptions { block_bytes_max: 4096, ..WriteOptions::new("casper", [3; 16], now) };
        let Opened { writer, log, .. } = Writer::open(storage, options).unwrap();
        let file = folder.join("events.db3");
        let options = Options {
            sqlite: Some(sqlite::Options {
                file: file.clone(),
                wal_autocheckpointing_interval: 1000,
                export_from: ExportFrom::Oldest,
            }),
            postgresql: postgresql.map(|(server, database)| postgresql::Options {
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
        World { runtime, writer, log, committed, exporters, running: None, model: Model::default(), file }
    }

    pub(super) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop(PATIENCE));
        }
    }

    pub(super) fn restart(&mut self) {
        self.stop();
        let _inside = self.runtime.enter();
        self.running = Some(self.exporters.start(&self.log, &self.committed.subscribe()).unwrap());
    }

    pub(super) fn commit(&mut self) {
        let head = self.writer.commit().unwrap();
        self.committed.send_replace(head);
    }

    pub(super) fn tell(&mut self, payload: &str, source: u16, id: u64, second: u64) {
        let event = self.append(payload, source, id, second);
        self.model.apply(&event);
    }

    /// The same with an event that no table will have a row of.
    pub(super) fn append(&mut self, payload: &str, source: u16, id: u64, second: u64) -> Event {
        let Ok(Classified::Event(facts)) = classify(payload) else { panic!("not an event: {payload}") };
        let source = format!("10.0.0.{source}:9999");
        let time = TIME + second;
        let event = sidecar_log_format::Event {
            kind: facts.kind,
            name: "",
            source: &source,
            network: "casper-test",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            upstream_id: Some(id),
            // Any part of the second: a shutdown is known by the whole.
            received: time * 1_000_000 + id * 199_999,
            payload,
        };
        self.writer.append(&event).unwrap();
        Event {
            payload: payload.to_owned(),
            source,
            id,
            api_version: "2.0.0".to_owned(),
            network: "casper-test".to_owned(),
            shutdown_second: Some(time.cast_signed()),
        }
    }

    /// What the exporters count, each with its name.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&'static str, &Arc<Counters>)> {
        self.exporters.counters()
    }

    pub(super) fn wait_for_exporters(&self) {
        let head = self.log.head().next_sequence;
        self.wait_until(|counters| counters.next_sequence() >= head);
    }

    /// Waits until every exporter has counted so.
    pub(super) fn wait_until(&self, is_so: impl Fn(&Counters) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while let Some((name, counters)) = self.counters().find(|(_, counters)| !is_so(counters)) {
            assert!(Instant::now() < deadline, "{name}: {counters:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs the same statements in SQLite and in the server's first database.
    pub(super) fn change(&self, server: &PostgreSql, sql: &str) {
        let connection = rusqlite::Connection::open(&self.file).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.execute_batch(sql).unwrap();
        server.psql(DATABASE, sql);
    }
}

/// An event without anything but its era.
pub(super) fn step(era: u64) -> String {
    format!(r#"{{"Step":{{"era_id":{era},"execution_effects":[]}}}}"#)
}
