//! The crash tester: random lives of a log on a disk that breaks, checked against a plain list of events.
//!
//! A seed decides everything: durability, sizes, operations, faults, what a power cut takes. A seed that fails is printed
//! as the one command that replays it, with a trace of its steps. `TESTING.md` describes how to run it for hours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod model;
#[path = "../simulated_disk/mod.rs"]
mod simulated_disk;

use std::panic::{AssertUnwindSafe, catch_unwind};

use model::Model;
use sidecar_log_format::Durability;
use simulated_disk::{Lie, Tally};

/// Replays one seed, with a trace.
const SEED: &str = "SIDECAR_CRASH_SEED";
/// How many seeds each test runs.
const SEEDS: &str = "SIDECAR_CRASH_SEEDS";
/// Where it begins.
const FIRST_SEED: &str = "SIDECAR_CRASH_FIRST_SEED";

const LIVES: usize = 6;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Says how to replay the case that fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: {SEED}={} cargo test -p sidecar-log-format --test crash -- --nocapture", self.0);
        }
    }
}

/// The durability that a seed is for.
fn durability_of(seed: u64) -> Durability {
    match seed % 4 {
        0 | 1 => Durability::Commit,
        2 => Durability::Interval,
        _ => Durability::Os,
    }
}

/// What a seed's lives were made of.
fn live(seed: u64, trace: bool, lie: Option<Lie>) -> Tally {
    let mut model = Model::new(seed, durability_of(seed), trace);
    if let Some(lie) = lie {
        model.plant(lie);
    }
    for _ in 0..LIVES {
        model.live();
    }
    model.end()
}

/// Runs the seeds of one durability and prints what happened in them.
fn run(durability: Durability, seeds: u64) {
    if let Some(seed) = number(SEED) {
        if durability_of(seed) == durability {
            let _replay = Replay(seed);
            live(seed, true, None);
        }
        return;
    }
    let first = number(FIRST_SEED).unwrap_or(0);
    let chosen = (first..).filter(|&seed| durability_of(seed) == durability);
    let mut total = Tally::new();
    let asked = number(SEEDS);
    for seed in chosen.take(asked.unwrap_or(seeds) as usize) {
        let _replay = Replay(seed);
        for (what, count) in live(seed, false, None) {
            *total.entry(what).or_default() += count;
        }
    }
    println!("{durability:?}: {} seeds", asked.unwrap_or(seeds));
    for (what, count) in &total {
        println!("{count:>12} {what}");
    }
    if asked.is_some_and(|asked| asked < seeds) {
        return;
    }
    for what in [
        "`oldest` lost",
        "a byte that cannot be read",
        "EIO: read",
        "EIO: sync",
        "EIO: write",
        "ENOSPC: allocate",
        "bit flips: a block",
        "bit flips: a footer",
        "bit flips: a segment header",
        "bit flips: the file `oldest`",
        "bit flips: the head",
        "copied",
        "failed syncs: what was not written is forgotten and can be read",
        "head lost",
        "power cuts",
        "moved away",
        "process restarts",
        "reopened",
        "short reads",
        "stopped while compacting",
        "stopped while opening",
        "stopped while reopening",
        "stopped while repairing",
        "stopped while retaining",
        "stopped while sealing",
        "unsynced names: kept",
        "unsynced names: lost",
        "unsynced writes: pieces of different ages",
        "unsynced writes: some, reordered",
        "unsynced writes: some, torn",
    ] {
        assert!(total.contains_key(what), "no seed had: {what}");
    }
}

#[test]
fn a_committed_event_is_there_in_order_and_once_whatever_the_disk_does() {
    run(Durability::Commit, 240);
}

#[test]
fn a_synced_event_is_there_in_order_and_once_when_commits_are_synced_at_intervals() {
    run(Durability::Interval, 160);
}

#[test]
fn without_syncs_what_a_power_cut_takes_is_reported_and_never_wrong() {
    run(Durability::Os, 160);
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in [1, 2, 3] {
        assert_eq!(live(seed, false, None), live(seed, false, None));
    }
}

/// The tester must notice when the disk does not do what the log asks for, because that is what a log looks like that
/// does not ask.
#[test]
fn a_sync_that_is_left_out_makes_the_tester_fail() {
    for (lie, durability) in [
        (Lie::Segments, Durability::Commit),
        (Lie::Segments, Durability::Interval),
        (Lie::Directory, Durability::Commit),
        (Lie::Head, Durability::Os),
    ] {
        let mut seeds = (0..4000).filter(|&seed| durability_of(seed) == durability);
        let noticed = seeds.find(|&seed| catch_unwind(AssertUnwindSafe(|| live(seed, false, Some(lie)))).is_err());
        assert!(noticed.is_some(), "{lie:?} under {durability:?}: no seed fails");
    }
}
