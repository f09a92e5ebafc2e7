//! What logs take on their devices, when they will be full, and since when events are kept.
//!
//! Measured at most once in [`MEASURED_FOR`], however many readers ask; only the newest event is looked at each time. It reads
//! files, so it belongs on a thread that may block.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use sidecar_log_format::Timestamp;
use sidecar_log_format::storage::{Directory, Storage};

use super::Logged;
use crate::engine::ingest::{newest_received, received_at};
use crate::engine::storage_folder::segments;
use crate::rfc3339::as_time;

/// How long a measurement is used.
const MEASURED_FOR: Duration = Duration::from_secs(5);
/// Shortest span of kept events from which growth is computed. A log that has just caught up would seem to grow too fast.
const GROWTH_KNOWN_AFTER: Duration = Duration::from_secs(3600);
const DAY: f64 = 24.0 * 3600.0;

/// The measurements in use, in the order of the logs.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<Option<(Instant, Vec<Disk>)>>);

/// What a log takes on its device.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Disk {
    /// Files of the log; absent if its folder cannot be read.
    segments: Option<u64>,
    bytes: Option<u64>,
    /// Bytes that the log may still take on its device. Ingest waits for room when they are used up.
    available_bytes: Option<u64>,
    retention_bytes_max: Option<u64>,
    retention_seconds_max: Option<u64>,
    /// How fast the log grew over the time that is kept, once that is an hour.
    bytes_per_day: Option<u64>,
    /// Days until the device is full at this rate; absent if retention ends the growth first.
    days_until_full: Option<f64>,
    #[serde(serialize_with = "as_time")]
    pub(super) oldest_received_at: Option<Timestamp>,
    #[serde(serialize_with = "as_time")]
    pub(super) newest_received_at: Option<Timestamp>,
}

impl Disks {
    pub(super) fn of(&self, logs: &[Logged]) -> Vec<Disk> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = known.take().filter(|(measured, _)| measured.elapsed() < MEASURED_FOR);
        let (at, mut disks) = measured.unwrap_or_else(|| (Instant::now(), logs.iter().map(Disk::of).collect()));
        for (disk, logged) in disks.iter_mut().zip(logs) {
            // One event is read at once, and readers compare it with the sources, whose times are current.
            disk.newest_received_at = newest_received(&logged.log);
        }
        *known = Some((at, disks.clone()));
        disks
    }
}

impl Disk {
    fn of(logged: &Logged) -> Disk {
        let Logged { log, log_directory, space_limits, .. } = logged;
        let (segments, bytes) = segments(log_directory).ok().unzip();
        let free_bytes = Directory::at(log_directory).free_space().ok();
        let available_bytes = free_bytes.map(|free| free.saturating_sub(space_limits.free_bytes_min));
        let oldest_received_at = log.ends().and_then(|(oldest, _)| received_at(log, oldest));
        let newest_received_at = newest_received(log);
        let kept = oldest_received_at.zip(newest_received_at);
        let kept = kept.map(|(oldest, newest)| Duration::from_micros(newest.saturating_sub(oldest)));
        let growth = bytes.zip(kept).and_then(|(bytes, kept)| Growth::over(kept, bytes));
        let (retention_bytes_max, age_max) = (space_limits.bytes_max, space_limits.age_max);
        Disk {
            segments,
            bytes,
            available_bytes,
            retention_bytes_max,
            retention_seconds_max: age_max.map(|age| age.as_secs()),
            bytes_per_day: growth.map(|growth| growth.bytes_per_day as u64),
            days_until_full: growth.zip(available_bytes).and_then(|(growth, available)| {
                let largest = growth.largest(retention_bytes_max, age_max);
                growth.days_until_full(available, largest)
            }),
            oldest_received_at,
            newest_received_at,
        }
    }
}

/// How a log grows.
#[derive(Clone, Copy, Debug)]
struct Growth {
    bytes: f64,
    bytes_per_day: f64,
}

impl Growth {
    /// `None` while the span is too short.
    fn over(kept: Duration, bytes: u64) -> Option<Growth> {
        let bytes = bytes as f64;
        let growth = Growth { bytes, bytes_per_day: bytes * DAY / kept.as_secs_f64() };
        (kept >= GROWTH_KNOWN_AFTER).then_some(growth)
    }

    /// Bytes that retention lets the log grow to.
    fn largest(self, bytes_max: Option<u64>, age_max: Option<Duration>) -> Option<f64> {
        let of_age = age_max.map(|age| self.bytes_per_day * age.as_secs_f64() / DAY);
        let of_bytes = bytes_max.map(|bytes| bytes as f64);
        of_bytes.into_iter().chain(of_age).min_by(f64::total_cmp)
    }

    fn days_until_full(self, available: u64, largest: Option<f64>) -> Option<f64> {
        let full = self.bytes + available as f64;
        let days = available as f64 / self.bytes_per_day;
        (days.is_finite() && largest.is_none_or(|largest| largest > full)).then_some(days)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A log of ten GiB that were received within five days.
    fn growth() -> Growth {
        Growth::over(Duration::from_secs(5 * 24 * 3600), 10 * GIB).unwrap()
    }

    #[test]
    fn a_device_is_full_after_as_many_days_as_the_growth_takes() {
        assert_eq!(growth().days_until_full(20 * GIB, None), Some(10.0));
        assert_eq!(growth().days_until_full(0, None), Some(0.0));
    }

    #[test]
    fn a_device_that_retention_keeps_from_filling_has_no_last_day() {
        let days = |bytes_max, age_max: Option<u64>| {
            let age_max = age_max.map(|days| Duration::from_secs(days * 24 * 3600));
            growth().days_until_full(20 * GIB, growth().largest(bytes_max, age_max))
        };
        assert_eq!(days(Some(25 * GIB), None), None);
        assert_eq!(days(None, Some(14)), None);
        assert_eq!(days(Some(40 * GIB), None), Some(10.0), "it fills before retention begins");
        assert_eq!(days(None, Some(16)), Some(10.0));
        assert_eq!(days(Some(40 * GIB), Some(14)), None);
    }

    #[test]
    fn the_growth_of_a_log_that_has_just_caught_up_is_unknown() {
        assert!(Growth::over(GROWTH_KNOWN_AFTER - Duration::from_secs(1), GIB).is_none());
        assert!(Growth::over(Duration::ZERO, 0).is_none());
    }
}
