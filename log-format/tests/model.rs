//! A plain list of events beside the log, driven by the same random operations, faults, kills and power cuts.
//!
//! Every case is made from a seed that is printed when it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod simulated_disk;

use std::sync::Arc;

use sidecar_log_format::{
    ApiVersion, CHAIN_START, Durability, Event, Kind, Log, Mark, MarkKind, Missing, Opened, Read, ReadOptions,
    WriteOptions, Writer, next_chain_value, storage::Storage,
};
use simulated_disk::{Fault, Random, SimulatedDisk};

const NETWORKS: [&str; 2] = ["casper-test", "casper-other"];

/// Prints the seed of the case that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    payload: String,
    kind: Kind,
    source: String,
    network: &'static str,
    api_version: ApiVersion,
    upstream_id: Option<u64>,
    received: u64,
}

fn some_event(random: &mut Random, announced: ApiVersion) -> Expected {
    let number = random.next();
    let payload = match random.below(40) {
        0 => format!("{{\n \"pretty\":\n  {number}}}"),
        1 => format!(" {number}"),
        2 => format!("\"{}{number}\"", "long ".repeat(random.below(3000) as usize)),
        _ => format!("{{\"Event\":{{\"number\":{number},\"text\":\"{}\"}}}}", "x".repeat(random.below(90) as usize)),
    };
    Expected {
        payload,
        kind: Kind(random.below(8) as u8 + 1),
        source: format!("127.0.0.{}:9999", random.below(3)),
        network: NETWORKS[random.one_in(20) as usize],
        api_version: announced,
        upstream_id: (!random.one_in(9)).then(|| random.below(1 << 20)),
        // The clock jumps back now and then.
        received: 1_000_000_000_000 + random.below(1 << 33),
    }
}

/// What is known of the log from outside.
struct Model {
    disk: SimulatedDisk,
    options: WriteOptions,
    random: Random,
    /// Appended, in order; `None` where a loss is marked.
    events: Vec<Option<Expected>>,
    /// How many of them were visible.
    visible: usize,
    marks: Vec<String>,
    marks_visible: usize,
    announced: ApiVersion,
    announced_visible: ApiVersion,
    epoch: u64,
}

impl Model {
    fn new(seed: u64, durability: Durability) -> Self {
        let mut random = Random(seed);
        let options = WriteOptions {
            durability,
            block_bytes_max: 1 + random.below(4000) as usize,
            segment_bytes_max: 1 + random.below(30_000),
            segment_blocks_max: 1 + random.below(60) as usize,
            allocate_bytes: 1 + random.below(5000),
            ..WriteOptions::new("casper", [7; 16], 1_000)
        };
        Model {
            disk: SimulatedDisk::new(seed),
            options,
            random,
            events: Vec::new(),
            visible: 0,
            marks: Vec::new(),
            marks_visible: 0,
            announced: ApiVersion::NONE,
            announced_visible: ApiVersion::NONE,
            epoch: 0,
        }
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.disk.clone())
    }

    /// Opens the log after whatever happened, also when it happens again meanwhile.
    fn open(&mut self) -> Opened {
        for _ in 0..3 {
            if self.random.one_in(3) {
                let fault = [Fault::Io, Fault::Full, Fault::Stop][self.random.below(3) as usize];
                self.disk.fail_after(self.random.below(60), fault);
            }
            match Writer::open(self.storage(), self.options.clone()) {
                Ok(opened) => {
                    self.disk.clear_fault();
                    return opened;
                }
                Err(_) => self.interrupt(),
            }
        }
        Writer::open(self.storage(), self.options.clone()).unwrap()
    }

    /// Ends the process, and perhaps the machine.
    fn interrupt(&mut self) {
        match self.random.one_in(2) {
            true => self.disk.cut_power(),
            false => self.disk.restart_process(),
        }
    }

    /// Takes over what of the uncommitted came through, having checked all of it.
    fn recovered(&mut self, opened: &Opened) {
        let recovery = &opened.recovery;
        let next = opened.log.head().next_sequence as usize;
        assert!(recovery.damage.is_empty(), "nothing was damaged: {recovery:?}");
        if self.options.durability != Durability::Os {
            assert_eq!(recovery.lost, None, "nothing that was visible is lost");
        }
        if let Some(lost) = &recovery.lost {
            assert!(opened.log.head().epoch > self.epoch, "another epoch begins where {lost:?} are lost");
        }
        // From the marks and not from the report: an opening that failed half-way may have made one already.
        for mark in opened.log.marks(0).unwrap().iter().filter(|mark| mark.kind == MarkKind::LOSS) {
            let numbers: Vec<usize> =
                mark.body.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
            self.events.resize(self.events.len().max(numbers[1] + 1), None);
            self.events[numbers[0]..=numbers[1]].fill(None);
        }
        if next < self.visible {
            assert_eq!(self.options.durability, Durability::Os, "sequences {next} to {} came back", self.visible);
            assert!(opened.log.head().epoch > self.epoch, "another epoch begins where sequences come back");
        }
        assert!(next <= self.events.len(), "events that nobody appended");
        self.events.truncate(next);
        self.visible = next;
        self.epoch = opened.log.head().epoch;
        let found = opened.log.head().api_version;
        if self.options.durability != Durability::Os {
            assert!(found >= self.announced_visible, "version {found} is older than {}", self.announced_visible);
        }
        (self.announced, self.announced_visible) = (found, found);
        let marks: Vec<_> =
            opened.log.marks(0).unwrap().into_iter().filter(|mark| mark.kind == MarkKind::GAP).collect();
        let bodies: Vec<_> = marks.into_iter().map(|mark| mark.body).collect();
        if self.options.durability != Durability::Os {
            assert!(bodies.len() >= self.marks_visible, "marks are missing");
        }
        assert!(self.marks.starts_with(&bodies), "marks in order, once");
        self.marks = bodies;
        self.marks_visible = self.marks.len();
        self.check(&opened.log);
    }

    /// Reads the whole log, and the wire form along with it.
    fn check(&self, log: &Log) {
        assert_eq!(log.head().next_sequence as usize, self.visible);
        let (mut next, mut version, mut chain, mut complete) = (0, ApiVersion::NONE, CHAIN_START, true);
        while next < self.visible {
            match log.read(next as u64).unwrap() {
                Read::Events { block, index } => {
                    assert_eq!(block.version_in_force(index), version, "before {next}");
                    for row in block.rows().skip(index) {
                        let expected = self.events[next].as_ref().expect("an event where none was");
                        assert_eq!(row.sequence() as usize, next);
                        assert_eq!(row.payload(), expected.payload.as_bytes());
                        assert_eq!((row.kind(), row.source()), (expected.kind, &*expected.source));
                        assert_eq!((row.network(), row.received()), (expected.network, expected.received));
                        assert_eq!(
                            (row.api_version(), row.upstream_id()),
                            (expected.api_version, expected.upstream_id)
                        );
                        let data = expected.payload.split('\n').map(|line| match line.starts_with(' ') {
                            true => format!("data: {line}\n"),
                            false => format!("data:{line}\n"),
                        });
                        let frame = format!("{}id:{next}\n\n", data.collect::<String>());
                        assert_eq!(row.frame(), frame.as_bytes());
                        if let Some(rise) = row.rise() {
                            assert!(rise > version, "{rise} does not rise above {version}");
                            version = rise;
                            let frame = format!("data:{{\"ApiVersion\":\"{rise}\"}}\n\n");
                            assert_eq!(&block.wire()[row.range_with_rise().start..row.range().start], frame.as_bytes());
                        }
                        assert!(version >= expected.api_version, "an event before its version");
                        chain = next_chain_value(
                            &chain,
                            next as u64,
                            row.kind(),
                            row.api_version(),
                            row.network(),
                            &row.payload(),
                        );
                        next += 1;
                    }
                    assert_eq!(block.version_after(), version);
                    if complete {
                        assert_eq!(block.chain_after(), chain);
                    }
                }
                Read::Missing { from, to, why } => {
                    assert_eq!((from as usize, why), (next, Missing::Hole));
                    assert!(self.events[next..to as usize].iter().all(Option::is_none), "{from} to {to} are missing");
                    let marked = |mark: &Mark| mark.kind == MarkKind::LOSS && mark.position == to;
                    assert!(log.marks(0).unwrap().iter().any(marked), "the hole up to {to} is not marked");
                    complete = false;
                    next = to as usize;
                    if let Read::Events { block, index } = log.read(to).unwrap() {
                        (version, chain) = (block.version_in_force(index), [0; 32]);
                    }
                }
                other => panic!("at {next}: {other:?}"),
            }
        }
        assert!(matches!(log.read(self.visible as u64).unwrap(), Read::End));
        if complete {
            assert_eq!(log.head().chain, chain);
        }
        assert!(log.head().api_version >= version);
    }

    /// A commit that may find the disk full, and then is tried again.
    fn commit(&mut self, writer: &mut Writer) -> Result<(), ()> {
        let mut result = match self.options.durability {
            Durability::Interval if self.random.one_in(2) => {
                return writer.commit().map(|_| ()).map_err(|_| ());
            }
            Durability::Interval => writer.commit().and_then(|_| writer.sync()),
            _ if self.random.one_in(12) => writer.seal_now(2_000).and_then(|()| writer.commit()),
            _ => writer.commit(),
        };
        if result.is_err() && !writer.is_poisoned() && !self.disk.is_stopped() {
            result = writer.commit().and_then(|_| writer.sync());
            assert!(result.is_ok(), "a full disk is no reason to give up: {result:?}");
        }
        let head = result.map_err(|_| ())?;
        assert_eq!(head.next_sequence as usize, self.events.len());
        self.visible = self.events.len();
        self.marks_visible = self.marks.len();
        self.announced_visible = self.announced;
        Ok(())
    }

    /// One life of the writer: to its end, in order or not.
    fn live(&mut self, opened: Opened) {
        let Opened { mut writer, log, .. } = opened;
        let other = Log::open(self.storage(), ReadOptions::default()).unwrap();
        if self.random.one_in(2) {
            let fault = [Fault::Io, Fault::Full, Fault::Full, Fault::Stop][self.random.below(4) as usize];
            self.disk.fail_after(self.random.below(120), fault);
        }
        for _ in 0..self.random.below(60) {
            let result = match self.random.below(20) {
                0 => {
                    self.announced.minor += self.random.below(3) as u32;
                    writer.announce_version(self.announced, "node", 5).map_err(|_| ())
                }
                1 => {
                    let body = format!("{{\"gap\":{}}}", self.random.next());
                    self.marks.push(body.clone());
                    let mark = Mark { kind: MarkKind::GAP, position: 0, source: "node".to_owned(), received: 3, body };
                    writer.mark(&mark).map_err(|_| ())
                }
                2..8 => self.commit(&mut writer),
                8 if !self.disk.is_stopped() => match other.refresh() {
                    Ok(head) => {
                        assert!(head.next_sequence as usize <= self.visible.max(log.head().next_sequence as usize));
                        Ok(())
                    }
                    Err(_) => Ok(()),
                },
                _ => {
                    let event = some_event(&mut self.random, self.announced);
                    let appended = writer.append(&Event {
                        kind: event.kind,
                        source: &event.source,
                        network: event.network,
                        api_version: event.api_version,
                        upstream_id: event.upstream_id,
                        received: event.received,
                        payload: &event.payload,
                    });
                    let result = appended.map_err(|_| ());
                    if let Ok(sequence) = result {
                        assert_eq!(sequence as usize, self.events.len());
                        self.events.push(Some(event));
                    }
                    result.map(|_| ())
                }
            };
            if result.is_err() {
                break;
            }
            if self.options.durability == Durability::Commit {
                assert_eq!(log.head().next_sequence as usize, self.visible, "nothing is visible before its commit");
            }
        }
        self.disk.clear_fault();
        if !writer.is_poisoned() && !self.disk.is_stopped() {
            if self.commit(&mut writer).is_ok() && self.options.durability != Durability::Interval {
                self.check(&log);
                assert_eq!(other.refresh().unwrap(), log.head(), "readers elsewhere see the same");
                self.check(&other);
            }
            if self.random.one_in(3) {
                writer.close().unwrap();
                (self.visible, self.marks_visible) = (self.events.len(), self.marks.len());
                self.announced_visible = self.announced;
                return;
            }
        }
        // Whatever was published counts, also when the caller never heard of it.
        self.visible = self.visible.max(log.head().next_sequence as usize);
        drop(writer);
        self.interrupt();
    }
}

/// Runs `cases` cases, or a multiple of them: `SIDECAR_MODEL_TIMES=10 cargo test`.
fn run(first_seed: u64, cases: u64, durability: Durability) {
    let times = std::env::var("SIDECAR_MODEL_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let mut faults = 0;
    for seed in first_seed..first_seed + cases * times {
        let printed = Seed(seed);
        let mut model = Model::new(seed, durability);
        for _ in 0..5 {
            let opened = model.open();
            model.recovered(&opened);
            model.live(opened);
        }
        let opened = model.open();
        model.recovered(&opened);
        if durability != Durability::Os {
            assert!(!model.disk.head_ran_ahead(), "a head spoke of what was not synced");
        }
        faults += model.disk.faults_fired();
        drop(printed);
    }
    assert!(faults > 100, "the faults did not fire: {faults}");
}

#[test]
fn every_committed_event_survives_faults_kills_and_power_cuts() {
    run(0, 400, Durability::Commit);
}

#[test]
fn every_synced_event_survives_when_commits_are_synced_at_intervals() {
    run(10_000, 150, Durability::Interval);
}

#[test]
fn without_syncs_what_a_power_cut_takes_is_marked_and_never_wrong() {
    run(20_000, 150, Durability::Os);
}
