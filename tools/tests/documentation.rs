//! What the README and the pages in `docs/` say of `sidecar-log`.

use sidecar_test_support::documentation;

const BINARY: &str = env!("CARGO_BIN_EXE_sidecar-log");

#[test]
fn every_command_of_sidecar_log_is_one_that_it_takes() {
    documentation::expect_commands_to_be_taken("sidecar-log", BINARY);
}

#[test]
fn the_page_of_the_command_line_is_the_programs_help() {
    documentation::expect_page("docs/sidecar-log.md", &documentation::command_line_page("sidecar-log", BINARY));
}
