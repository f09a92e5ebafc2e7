//! The system's figures of this process, from `/proc`.

use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, WithCurrentSystemInfo};

use super::families::{Families, Group};

/// The `process_*` families; one that the system does not report does not appear.
pub(super) fn families() -> Families {
    let mut families = Families::default();
    if let Err(error) = collect(&mut families.of_process()) {
        tracing::debug!(%error, "the process's figures cannot be read");
    }
    families
}

fn collect(group: &mut Group<'_>) -> ProcResult<()> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    group
        .counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        .sample(&[], (stat.utime + stat.stime) as f64 / ticks);
    group.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.").count(&[], stat.vsize);
    group.gauge("process_resident_memory_bytes", "Resident memory size in bytes.").count(&[], stat.rss_bytes().get());
    let started = procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks;
    group
        .gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")
        .sample(&[], started.floor());
    let threads = u64::try_from(stat.num_threads).unwrap_or_default();
    group.gauge("process_threads", "Number of OS threads in the process.").count(&[], threads);
    group.gauge("process_open_fds", "Number of open file descriptors.").count(&[], process.fd_count()? as u64);
    if let LimitValue::Value(limit) = process.limits()?.max_open_files.soft_limit {
        group.gauge("process_max_fds", "Maximum number of open file descriptors.").count(&[], limit);
    }
    Ok(())
}
