//! What RELOAD would do.

use super::{VALID, read, with};
use crate::config::{Config, Diff, diff};

fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|found| panic!("{found:?}\n{text}"))
}

fn from_valid(text: &str) -> Diff {
    diff(&config(VALID), &config(text))
}

/// One line per thing that the diff says.
fn told(diff: &Diff) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    told.extend(diff.databases_added.iter().map(|name| format!("+ {name}")));
    told.extend(
        diff.databases_removed
            .iter()
            .map(|name| format!("- {name}")),
    );
    told.extend(
        diff.databases_changed
            .iter()
            .map(|name| format!("~ {name}")),
    );
    told.extend(diff.settings_changed.iter().map(ToString::to_string));
    told.extend(
        diff.clusters_changed
            .iter()
            .map(|name| format!("cluster {name}")),
    );
    told.extend(
        diff.restart_required
            .iter()
            .map(|path| format!("restart {path}")),
    );
    told
}

#[test]
fn same_files_do_not_differ() {
    let diff = from_valid(VALID);
    assert!(diff.is_empty() && diff.restart_required.is_empty());
    assert_eq!(diff.effective, config(VALID));
}

#[test]
fn each_change_is_told() {
    let cases = [
        (
            "[databases.app2]",
            "pool_size = 5\n[databases.app2]",
            &["~ app"][..],
        ),
        (
            "[databases.app2]",
            "[databases.app3]",
            &["+ app3", "- app2"],
        ),
        (
            "[clusters.main]",
            "max_client_conn = 7\n[clusters.main]",
            &["pgsluice.max_client_conn: 100 -> 7"],
        ),
        ("6432", "6433", &["restart listen.port"]),
        (
            "[clusters.main]",
            "[clusters.main]\nfall = 9",
            &["restart clusters.main.fall"],
        ),
        (
            "priority = 90",
            "priority = 200, candidate = 'never'",
            &[
                "restart clusters.main.nodes.n2.priority",
                "restart clusters.main.nodes.n2.candidate",
            ],
        ),
        (
            "${GOOD}",
            "other",
            &["restart clusters.main.monitor.password"],
        ),
        (
            "10.0.0.2",
            "10.0.0.9",
            &["restart clusters.main.nodes.n2.host"],
        ),
        (
            "n2 =",
            "n9 =",
            &[
                "restart clusters.main.nodes.n9 (added)",
                "restart clusters.main.nodes.n2 (removed)",
            ],
        ),
        // Two in one file: the one is not in the other's way.
        (
            "port = 6432\n[pgsluice]",
            "port = 6433\n[pgsluice]\nworkers = 3\nlog_disconnections = false",
            &[
                "pgsluice.log_disconnections: 1 -> 0",
                "restart listen.port",
                "restart pgsluice.workers",
            ],
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(
            told(&from_valid(&with(from, to))),
            expected,
            "{from} -> {to}"
        );
    }
}

/// What waits for a restart keeps its running value; what does not is the file's.
#[test]
fn effective_is_the_file_but_for_what_waits() {
    let text = with(
        "port = 6432\n[pgsluice]",
        "port = 6433\n[pgsluice]\nmax_client_conn = 7",
    );
    let effective = from_valid(&text).effective;
    assert_eq!(
        (effective.listen.port, effective.general.max_client_conn),
        (6432, 7)
    );
    // A second RELOAD of the same file says again that a restart is needed, and nothing else.
    assert_eq!(
        told(&diff(&effective, &config(&text))),
        ["restart listen.port"]
    );
}

/// A new set of nodes comes as a whole, or the running one could end up without a candidate.
#[test]
fn nodes_wait_for_their_set() {
    let text = VALID
        .replace("priority = 100", "priority = 100, candidate = 'never'")
        .replace("n2 = { host = \"10.0.0.2\"", "n9 = { host = \"10.0.0.9\"");
    let diff = from_valid(&text);
    let expected = [
        "restart clusters.main.nodes.n9 (added)",
        "restart clusters.main.nodes.n2 (removed)",
        "restart clusters.main.nodes.n1",
    ];
    assert_eq!(told(&diff), expected);
    assert_eq!(diff.effective, config(VALID));
}

/// A database never gets to a cluster that is not running.
#[test]
fn databases_wait_for_their_cluster() {
    let text = VALID
        .replace("clusters.other", "clusters.new")
        .replace("\"other\"", "\"new\"");
    let text = format!("{text}\n[databases.app3]\ncluster = 'new'\n");
    let diff = from_valid(&text);
    assert_eq!(
        told(&diff),
        [
            "restart clusters.new (added)",
            "restart clusters.other (removed)",
            "restart databases.app2 (in an added cluster)",
            "restart databases.app3 (in an added cluster)",
        ]
    );
    assert_eq!(diff.effective, config(VALID));
}

#[test]
fn secrets_do_not_show_in_a_diff() {
    let shown = format!("{:?}", from_valid(&with("${GOOD}", "hunter2")));
    assert!(
        !shown.contains("hunter2") && !shown.contains("sesame"),
        "{shown}"
    );
}
