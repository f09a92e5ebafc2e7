//! The binary; all of it is in the library.

use std::process::ExitCode;

use sidecar::build_info::Build;

fn main() -> ExitCode {
    sidecar_log::main(Build::of_commit(sidecar_build_info::commit!()))
}
