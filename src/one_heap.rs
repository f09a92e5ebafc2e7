//! Memory that is free goes back to the system: settings for glibc's allocator.
//!
//! glibc gives almost every thread a heap of its own, and buffers of blocks a place in these heaps. Threads here hand blocks
//! to each other, so every heap kept a few mebibytes that were free: a third of what the process held
//! (`benches/soak.rs` measures it). glibc takes other settings from the environment only, before `main`.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// One heap for all threads; what is as large as a block's buffer is a mapping of its own.
const SETTINGS: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "65536")];
/// Not a setting of glibc, which takes its own out of the environment of a program with file capabilities.
const IS_RESTARTED: &str = "SIDECAR_HAS_ONE_HEAP";
/// An operator's own settings stay.
const SET_BY_OPERATOR: [&str; 3] = ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"];

/// Replaces this program with itself under [`SETTINGS`], once. Called before any thread starts.
pub(crate) fn restart_with_one_heap() {
    if env::var_os(IS_RESTARTED).is_some() || SET_BY_OPERATOR.iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut command = Command::new(program);
    let mut arguments = env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Comes back only where it is not allowed. Then the settings stay as they are, and everything else works.
    let _error = command.args(arguments).envs(SETTINGS).env(IS_RESTARTED, "1").exec();
}
