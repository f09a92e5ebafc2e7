//! What the REST server counts: plain atomics, and a bounded number of labels.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::endpoints;
use crate::casper::event::KINDS;
use crate::engine::counters::{Histogram, SIZE_BYTES, Snapshot};
use crate::engine::source::Kind;

/// The bounds of response times, in microseconds; shown in milliseconds.
const RESPONSE_MICROSECONDS: &[u64] = &[1000, 5000, 10_000, 30_000, 50_000, 100_000, 200_000, 300_000];

/// Every status that the server answers with, then `disconnected` for a client that did not wait, and `error`.
const STATUSES: [&str; 13] =
    ["200", "204", "302", "304", "400", "403", "404", "410", "500", "501", "503", "disconnected", "error"];
const DISCONNECTED: usize = STATUSES.len() - 2;
const ERROR: usize = STATUSES.len() - 1;

/// What the server has done.
#[derive(Debug)]
pub struct Counters {
    /// Requests that are worked on.
    pub in_flight: AtomicU64,
    /// Each label of the endpoints, and its response times by status.
    response_times: Vec<(&'static str, Vec<Histogram>)>,
    /// By kind.
    read_bytes: Vec<Histogram>,
}

impl Default for Counters {
    fn default() -> Self {
        let times = || STATUSES.iter().map(|_| Histogram::new(RESPONSE_MICROSECONDS)).collect();
        Counters {
            in_flight: AtomicU64::new(0),
            response_times: endpoints::labels().into_iter().map(|label| (label, times())).collect(),
            read_bytes: KINDS.iter().map(|_| Histogram::new(SIZE_BYTES)).collect(),
        }
    }
}

impl Counters {
    /// The response times in microseconds, by label and status; only of what has happened.
    pub fn response_times(&self) -> impl Iterator<Item = (&'static str, &'static str, Snapshot)> {
        let taken = self.response_times.iter().flat_map(|(label, times)| {
            STATUSES.iter().zip(times).map(|(status, times)| (*label, *status, times.snapshot()))
        });
        taken.filter(|(_, _, times)| times.count > 0)
    }

    /// The sizes in bytes of the payloads that were read for answers, by the kind's name; only of what has happened.
    pub fn read_bytes(&self) -> impl Iterator<Item = (&'static str, Snapshot)> {
        let taken = KINDS.iter().zip(&self.read_bytes).map(|((_, name), sizes)| (*name, sizes.snapshot()));
        taken.filter(|(_, sizes)| sizes.count > 0)
    }

    pub(super) fn count_read(&self, kind: Kind, bytes: usize) {
        let sizes = KINDS.iter().zip(&self.read_bytes).find(|((known, _), _)| *known == kind);
        if let Some((_, sizes)) = sizes {
            sizes.observe(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// A request with this label of the endpoints begins.
    pub(super) fn begin(&self, label: &str) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let label = self.response_times.iter().position(|(known, _)| *known == label);
        InFlight { counters: self, label: label.unwrap_or_default(), begun: Instant::now(), status: DISCONNECTED }
    }
}

/// A request that is worked on. Dropped without an end, its client has gone away.
#[derive(Debug)]
pub(super) struct InFlight<'a> {
    counters: &'a Counters,
    label: usize,
    begun: Instant,
    status: usize,
}

impl InFlight<'_> {
    pub(super) fn end(mut self, status: axum::http::StatusCode) {
        self.status = STATUSES.iter().position(|known| *known == status.as_str()).unwrap_or(ERROR);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        let times = self.counters.response_times.get(self.label);
        if let Some(times) = times.and_then(|(_, times)| times.get(self.status)) {
            times.observe_time(self.begun.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn an_answer_counts_under_its_label_and_status_and_only_what_happened_is_shown() {
        let counters = Counters::default();
        assert_eq!(counters.response_times().count(), 0);
        counters.begin("unknown").end(StatusCode::BAD_REQUEST);
        counters.begin("/block/(...)").end(StatusCode::OK);
        counters.begin("/block/(...)").end(StatusCode::OK);
        counters.begin("/block/(...)").end(StatusCode::GONE);
        counters.begin("/account/(...)").end(StatusCode::IM_A_TEAPOT);
        let shown: Vec<_> =
            counters.response_times().map(|(label, status, times)| (label, status, times.count)).collect();
        let expected = [
            ("/block/(...)", "200", 2),
            ("/block/(...)", "410", 1),
            ("/account/(...)", "error", 1),
            ("unknown", "400", 1),
        ];
        assert_eq!(shown, expected);
        assert_eq!(counters.in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_request_that_is_given_up_counts_as_disconnected() {
        let counters = Counters::default();
        let request = counters.begin("/step/(...)");
        assert_eq!(counters.in_flight.load(Ordering::Relaxed), 1);
        drop(request);
        let (label, status, times) = counters.response_times().next().unwrap();
        assert_eq!((label, status, times.count), ("/step/(...)", "disconnected", 1));
    }

    #[test]
    fn sizes_are_counted_by_kind() {
        let counters = Counters::default();
        counters.count_read(crate::casper::event::STEP, 700);
        let (kind, sizes) = counters.read_bytes().next().unwrap();
        assert_eq!((kind, sizes.count, sizes.sum), ("Step", 1, 700));
    }
}
