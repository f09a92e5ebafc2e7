//! `max_thread_count` and `max_blocking_thread_count`, at the top of the file.

use std::thread;

use crate::config::{error::ConfigError, section::Section};

pub(super) const THREADS_MAX: i64 = 4096;
/// Disk reads and host names keep few threads busy; each one that ever was keeps a decompressor's memory.
const BLOCKING_THREADS: usize = 16;

/// Sizes of the async runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Worker threads: `max_thread_count`, or one per CPU.
    pub workers: usize,
    /// The most blocking threads: `max_blocking_thread_count`, else `max_thread_count`, else 16.
    pub blocking: usize,
}

pub(in crate::config) fn check(
    workers: Option<i64>,
    blocking: Option<i64>,
    section: &Section<'_>,
) -> Result<Threads, ConfigError> {
    let cpus = || thread::available_parallelism().map_or(1, usize::from);
    let count = |key, count: Option<i64>| count.map(|count| section.number(key, count)).transpose();
    let workers = count("max_thread_count", workers)?;
    let blocking = count("max_blocking_thread_count", blocking)?;
    Ok(Threads { workers: workers.unwrap_or_else(cpus), blocking: blocking.or(workers).unwrap_or(BLOCKING_THREADS) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{DEFAULT_SSE_ONLY, loaded};

    #[test]
    fn thread_counts_limit_workers_and_blocking_threads() {
        let threads = |lines: &str| loaded(&format!("{lines}\n{DEFAULT_SSE_ONLY}")).config.threads;
        assert_eq!(threads("max_thread_count = 1"), Threads { workers: 1, blocking: 1 });
        let both = "max_thread_count = 2\nmax_blocking_thread_count = 9";
        assert_eq!(threads(both), Threads { workers: 2, blocking: 9 });
        assert_eq!(threads("max_blocking_thread_count = 9").blocking, 9);
        let cpus = thread::available_parallelism().unwrap().get();
        assert_eq!(threads(""), Threads { workers: cpus, blocking: 16 });
    }
}
