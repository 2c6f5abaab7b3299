//! Bugs that tests/planted switches on to show that its ledger finds them. Only in a build with the
//! feature `planted-bugs`, which no release may have.

use super::switchover::Task;

/// Names the bug.
const VARIABLE: &str = "PGSLUICE_PLANTED_BUG";

/// Is this task taken for done unseen?
pub(super) fn skips(task: Task) -> bool {
    match task {
        Task::Gate | Task::Durable | Task::Clock => is_planted("skip-gate"),
        Task::Drain | Task::Backends => is_planted("skip-backends"),
        _ => false,
    }
}

/// Are clients released before the record is written?
pub(super) fn opens_early() -> bool {
    is_planted("open-early")
}

fn is_planted(name: &str) -> bool {
    std::env::var_os(VARIABLE).is_some_and(|bug| bug == name)
}
