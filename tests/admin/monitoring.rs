//! What watches a Sidecar, against the page of metrics: the dashboard and the alerts.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const ALERTS: &str = include_str!("../../resources/prometheus/alerts.yml");
const METRICS: &str = include_str!("../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../resources/grafana/sidecar.json");

/// The names of all families. `tests/documentation.rs` holds this page equal to what processes show in which everything runs.
fn families() -> BTreeSet<String> {
    let rows = METRICS.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split('`').next()?.to_owned())).collect()
}

/// The families that a text names. A word that ends with an underscore names all that begin with it.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let is_metric = |word: &&str| BEGINNINGS.iter().any(|beginning| word.starts_with(beginning));
    let family = |word: &str| {
        let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        suffix.unwrap_or(word).to_owned()
    };
    words.filter(is_metric).map(family).collect()
}

/// What the names of all metrics begin with, and of little else.
const BEGINNINGS: [&str; 9] = [
    "sidecar_",
    "process_",
    "node_statuses",
    "error_counts",
    "rest_api_response_",
    "rest_api_connected_",
    "rpc_server_",
    "sse_server_received_",
    "db_raw_data_",
];

fn is_there(name: &str, families: &BTreeSet<String>) -> bool {
    families.contains(name) || (name.ends_with('_') && families.iter().any(|family| family.starts_with(name)))
}

/// Every expression of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_metric_of_dashboard_and_alerts_exists_and_the_dashboard_shows_all_that_alert() {
    let families = families();
    let (shown, alerting) = (named(&expressions().join("\n")), named(&alert_expressions()));
    assert!(shown.len() > 50 && alerting.len() > 25, "{shown:?} {alerting:?}");
    for (place, names) in [("the dashboard", &shown), ("the alerts", &alerting)] {
        let unknown: Vec<_> = names.iter().filter(|name| !is_there(name, &families)).collect();
        assert!(
            unknown.is_empty(),
            "{place} names {unknown:?}, which are not on the page of metrics; there are {families:?}"
        );
    }
    let unseen: Vec<_> = alerting.difference(&shown).collect();
    assert!(unseen.is_empty(), "alerts use {unseen:?}, which the dashboard does not show");
    let whole = ["sidecar_exporter_", "sidecar_rest_database_", "sidecar_rpc_", "sidecar_grpc_", "sidecar_http_"];
    let elsewhere = ["sidecar_rpc_batches_total", "sidecar_rpc_node_wait_seconds"];
    let left_out: Vec<_> = families
        .difference(&shown)
        .filter(|name| whole.iter().any(|prefix| name.starts_with(prefix)) && !elsewhere.contains(&name.as_str()))
        .collect();
    assert!(left_out.is_empty(), "the dashboard does not show {left_out:?}");
}

/// Several logs and several processes are told apart, and no panel hides another.
#[test]
fn lines_of_the_dashboard_name_their_log_and_are_of_one_process_and_panels_do_not_overlap() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let [expression, legend] = ["expr", "legendFormat"].map(|member| target[member].as_str().unwrap());
        let selectors = expression.matches('{').count();
        assert_eq!(expression.matches(r#"{job="$job",instance="$instance""#).count(), selectors, "{expression}");
        let is_per_log = expression.contains("$log") && !expression.contains("sum by (le)");
        assert!(!is_per_log || legend.contains("{{log}}"), "{legend}: {expression}");
    }
    let place = |panel: &serde_json::Value| ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
    for (number, one) in panels.iter().enumerate() {
        let [x, y, w, h] = place(one);
        for other in &panels[number + 1..] {
            let [its_x, its_y, its_w, its_h] = place(other);
            let is_apart = x + w <= its_x || its_x + its_w <= x || y + h <= its_y || its_y + its_h <= y;
            assert!(is_apart && one["id"] != other["id"], "{} and {}", one["title"], other["title"]);
        }
    }
}

/// The expressions of the alerts, without their words for people.
fn alert_expressions() -> String {
    ALERTS.lines().filter(|line| line.trim_start().starts_with("expr:")).collect::<Vec<_>>().join("\n")
}

/// Where Prometheus's own tool is installed: each alert fires when it is time, and not without cause.
#[test]
fn promtool_finds_the_alerts_right_and_each_fires_when_it_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let Ok(output) = Command::new("promtool").args(arguments).current_dir(&folder).output() else {
            eprintln!("promtool is not installed: nothing checks the alerts");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
    let tests = std::fs::read_to_string(folder.join("alerts_test.yml")).unwrap();
    for alert in ALERTS.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")) {
        let fires = tests.split(&format!("- name: {alert}\n")).nth(1);
        assert!(fires.is_some_and(|test| test.contains("exp_labels:")), "no test sees {alert} fire");
    }
}
