//! What the servers count, for the metrics: plain atomics, and labels of which there are only so many.

use std::time::Duration;

use super::failure::Code;
use super::methods::{MAIN, Method, SPECULATIVE};
use super::node_link::TIME_MICROSECONDS;
use crate::engine::counters::{Count, Histogram, SIZE_BYTES, Snapshot};

/// How a call that no method answers is labelled.
const UNKNOWN: &str = "unknown-handler";

/// What both servers have done.
#[derive(Debug)]
pub struct Counters {
    /// Requests refused because their client sent too many.
    pub rate_limited: Count,
    /// Batches.
    pub batches: Count,
    /// Answers taken from the cache.
    pub cache_hits: Count,
    /// Answers that could have been in the cache and were not.
    pub cache_misses: Count,
    methods: Vec<(&'static str, MethodCounters)>,
    unknown: Histogram,
}

/// What one method has done.
#[derive(Debug)]
pub(super) struct MethodCounters {
    calls: Count,
    sizes: Histogram,
    node_waits: Histogram,
    success: Histogram,
    /// In the order of [`Code::ALL`].
    failures: Vec<Histogram>,
}

impl Default for Counters {
    fn default() -> Self {
        let mut names: Vec<&'static str> = MAIN.iter().chain(SPECULATIVE).map(|method| method.name).collect();
        names.sort_unstable();
        names.dedup();
        Counters {
            rate_limited: Count::default(),
            batches: Count::default(),
            cache_hits: Count::default(),
            cache_misses: Count::default(),
            methods: names.into_iter().map(|name| (name, MethodCounters::new())).collect(),
            unknown: Histogram::new(TIME_MICROSECONDS),
        }
    }
}

impl MethodCounters {
    fn new() -> Self {
        let times = || Histogram::new(TIME_MICROSECONDS);
        MethodCounters {
            calls: Count::default(),
            sizes: Histogram::new(SIZE_BYTES),
            node_waits: times(),
            success: times(),
            failures: Code::ALL.iter().map(|_| times()).collect(),
        }
    }

    /// A call of so many bytes was answered, after so much time, some of which the node had.
    pub(super) fn count(&self, bytes: usize, time: Duration, node_time: Duration, failure: Option<Code>) {
        self.calls.add(1);
        self.sizes.observe(bytes as u64);
        if !node_time.is_zero() {
            self.node_waits.observe_time(node_time);
        }
        let times = match failure.map(|code| Code::ALL.iter().position(|known| *known == code)) {
            None => Some(&self.success),
            Some(place) => place.and_then(|place| self.failures.get(place)),
        };
        if let Some(times) = times {
            times.observe_time(time);
        }
    }
}

impl Counters {
    /// The counters of a method.
    pub(super) fn of(&self, method: &Method) -> Option<&MethodCounters> {
        let place = self.methods.binary_search_by_key(&method.name, |(name, _)| name).ok()?;
        self.methods.get(place).map(|(_, counters)| counters)
    }

    pub(super) fn count_unknown(&self, time: Duration) {
        self.unknown.observe_time(time);
    }

    fn called(&self) -> impl Iterator<Item = &(&'static str, MethodCounters)> {
        self.methods.iter().filter(|(_, counters)| counters.calls.get() > 0)
    }

    /// Calls by method; only of what has happened.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.called().map(|(name, counters)| (*name, counters.calls.get()))
    }

    /// Bytes of request bodies by method.
    pub fn sizes(&self) -> impl Iterator<Item = (&'static str, Snapshot)> {
        self.called().map(|(name, counters)| (*name, counters.sizes.snapshot()))
    }

    /// How long calls waited for the node, by method, in microseconds.
    pub fn node_waits(&self) -> impl Iterator<Item = (&'static str, Snapshot)> {
        let waits = self.called().map(|(name, counters)| (*name, counters.node_waits.snapshot()));
        waits.filter(|(_, waits)| waits.count > 0)
    }

    /// Response times in microseconds, by method and status: `success`, or the error's code.
    pub fn response_times(&self) -> impl Iterator<Item = (&'static str, String, Snapshot)> {
        let known = self.methods.iter().flat_map(|(name, counters)| {
            let failures = Code::ALL.iter().map(|code| code.number().to_string()).zip(&counters.failures);
            let all = std::iter::once(("success".to_owned(), &counters.success)).chain(failures);
            all.map(|(status, times)| (*name, status, times.snapshot()))
        });
        let unknown = std::iter::once((UNKNOWN, UNKNOWN.to_owned(), self.unknown.snapshot()));
        known.chain(unknown).filter(|(_, _, times)| times.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_under_its_method_and_status() {
        let counters = Counters::default();
        let method = MAIN.iter().find(|method| method.name == "chain_get_block").unwrap();
        let (time, node_time) = (Duration::from_millis(3), Duration::from_millis(2));
        counters.of(method).unwrap().count(100, time, node_time, None);
        counters.of(method).unwrap().count(100, time, Duration::ZERO, Some(Code::NoSuchBlock));
        counters.count_unknown(time);
        assert_eq!(counters.calls().collect::<Vec<_>>(), [("chain_get_block", 2)]);
        assert_eq!(counters.node_waits().map(|(_, waits)| waits.count).collect::<Vec<_>>(), [1]);
        let statuses: Vec<_> = counters.response_times().map(|(name, status, _)| (name, status)).collect();
        let status = |text: &str| text.to_owned();
        let expected =
            [("chain_get_block", status("success")), ("chain_get_block", status("-32001")), (UNKNOWN, status(UNKNOWN))];
        assert_eq!(statuses, expected);
    }

    #[test]
    fn every_method_of_both_servers_is_counted() {
        let counters = Counters::default();
        assert!(MAIN.iter().chain(SPECULATIVE).all(|method| counters.of(method).is_some()));
    }
}
