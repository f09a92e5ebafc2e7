//! The commands about configuration files: `init`, `print-config` and `check-config`, as an operator and a script use them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What `sidecar` answers to `arguments`, with `input` piped in.
fn sidecar(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // One that asks nothing may have ended.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    process.wait_with_output().unwrap()
}

fn output(answer: &Output) -> String {
    String::from_utf8(answer.stdout.clone()).unwrap()
}

fn errors(answer: &Output) -> String {
    String::from_utf8(answer.stderr.clone()).unwrap()
}

fn written(folder: &Path, text: &str) -> String {
    let file = folder.join("written.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn printed_files_can_be_used_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["print-config"][..], &["print-config", "--full"]] {
        let printed = sidecar(arguments, "");
        assert!(printed.status.success() && printed.stderr.is_empty(), "{}", errors(&printed));
        let file = written(folder.path(), &output(&printed));
        let report = sidecar(&["check-config", &file], "");
        assert!(report.status.success() && report.stderr.is_empty(), "{}", errors(&report));
        let report = output(&report);
        let key = report.lines().position(|line| line.starts_with("  keep_trying = true ")).unwrap();
        let lines: Vec<&str> = report.lines().collect();
        assert!(lines[key].contains("line ") && lines[key].ends_with("new in Sidecar 0.1.0"), "{}", lines[key]);
        assert!(lines[key + 1].starts_with("      Whether a node is still tried"), "{}", lines[key + 1]);
    }
}

#[test]
fn what_is_wrong_with_a_file_is_an_error_for_people_and_for_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let good = output(&sidecar(&["print-config"], ""));
    let file = written(folder.path(), &good.replace("port = 19999", "port = 99999"));
    for arguments in [&["check-config", &file][..], &["check-config", "--json", &file]] {
        let answer = sidecar(arguments, "");
        assert_eq!(answer.status.code(), Some(1));
        let text = errors(&answer);
        assert!(text.starts_with("Error: Error constructing config\n"), "{text}");
        assert!(text.contains("`sse_server.event_stream_server.port` is 99999 (line "), "{text}");
    }
    let answer: Value = serde_json::from_str(&output(&sidecar(&["check-config", "--json", &file], ""))).unwrap();
    let cause = answer["errors"][1].as_str().unwrap();
    assert!(cause.contains("set it to a number from 0 to 65535"), "{answer}");

    let file = written(folder.path(), &good.replace("enable_logging", "enable_loging"));
    let answer = sidecar(&["check-config", "--json", &file], "");
    assert!(answer.status.success());
    let answer: Value = serde_json::from_str(&output(&answer)).unwrap();
    assert!(answer["warnings"][0].as_str().unwrap().contains("the nearest known key is"), "{answer}");
}

#[test]
fn init_writes_what_was_answered_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecar.toml");
    let path = file.to_str().unwrap();
    let cut_short = sidecar(&["init", path], "casper\n");
    assert_eq!(cut_short.status.code(), Some(1));
    assert!(errors(&cut_short).contains("--yes") && !file.exists(), "{}", errors(&cut_short));

    let answer = sidecar(&["init", path], "casper\nnode.example.org:1234:5678\n/var/lib/sidecar\nno\nyes\n");
    assert!(answer.status.success(), "{}", errors(&answer));
    assert!(output(&answer).contains(&format!("sidecar --path-to-config {path}")), "{}", output(&answer));
    let text = std::fs::read_to_string(&file).unwrap();
    for line in [
        "network_name = \"casper\"",
        "ip_address = \"node.example.org\"",
        "sse_port = 1234",
        "storage_folder = \"/var/lib/sidecar\"",
        "[admin_api_server]",
        "keep_trying = true",
    ] {
        assert!(text.lines().any(|written| written == line), "{line} in {text}");
    }
    assert!(!text.contains("[rest_api_server]"));
    assert!(sidecar(&["check-config", path], "").status.success());

    let again = sidecar(&["init", "--yes", path], "");
    assert_eq!(again.status.code(), Some(1));
    assert!(errors(&again).contains("--force"), "{}", errors(&again));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert!(sidecar(&["init", "--yes", "--force", path], "").status.success());
    assert_ne!(std::fs::read_to_string(&file).unwrap(), text);
}
