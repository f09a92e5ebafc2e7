//! Checks the commands of `sidecar-log` in the README and `docs/`.

use sidecar_test_support::documentation;

const BINARY: &str = env!("CARGO_BIN_EXE_sidecar-log");

#[test]
fn every_command_of_sidecar_log_is_one_that_it_takes() {
    documentation::expect_commands_to_be_taken("sidecar-log", BINARY);
}

#[test]
fn the_page_of_the_command_line_is_the_programs_help() {
    let page = documentation::command_line_page("sidecar-log", BINARY);
    for subcommand in sidecar_log::command().get_subcommands() {
        assert!(page.contains(&format!("\n## sidecar-log {}\n", subcommand.get_name())), "{subcommand}");
    }
    documentation::expect_file("docs/sidecar-log.md", &page);
}
