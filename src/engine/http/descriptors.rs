//! How many connections the limit of open files leaves room for, beside log, views, exporters and nodes.

use rustix::process::{Resource, getrlimit};

/// Descriptors that are kept for everything but connections, where there are many.
const KEPT_MAX: u64 = 128;

/// As many of `wanted` connections as `percent` of the descriptors for connections allow, and at least two.
pub(super) fn connections(wanted: usize, percent: u64) -> Fit {
    let open_files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fitting = usize::try_from(fitting(open_files_max, percent)).unwrap_or(usize::MAX);
    Fit { connections: wanted.min(fitting), open_files_max }
}

/// What fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub(super) connections: usize,
    pub(super) open_files_max: u64,
}

fn fitting(open_files_max: u64, percent: u64) -> u64 {
    // With few descriptors a third is for connections: the log needs its files before clients need theirs.
    let kept = KEPT_MAX.min(open_files_max.saturating_sub(open_files_max / 3));
    ((open_files_max - kept) / 100)
        .saturating_mul(percent)
        .saturating_add((open_files_max - kept) % 100 * percent / 100)
        .max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        let of = |open_files_max| [60, 30, 10].map(|percent| fitting(open_files_max, percent));
        assert_eq!(of(60), [12, 6, 2]);
        assert_eq!(of(1024), [537, 268, 89]);
        assert_eq!(of(0), [2, 2, 2]);
        assert!(of(u64::MAX)[2] > 1 << 60);
    }
}
