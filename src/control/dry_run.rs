//! DRY RUN: all checks, nothing held.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::driver::Operation;
use super::hands;
use super::report::first_report;
use super::{Outcome, Refusal, Report, refusals};
use crate::pool::Blocker;

/// A statement that has run for so long may well run on.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// All checks, and who would be in the way just now.
pub(super) async fn run(operation: Operation) -> Result<Report, Refusal> {
    let mut report = first_report(&operation);
    let began = Instant::now();
    let limit = operation.plan.limits.preflight;
    let checks = Box::pin(hands::preflight(operation.clone()));
    let refused = |why: &str| refusals::refused(&operation.config.name, &operation.plan, why);
    match timeout(limit, checks).await {
        Ok(hands::Outcome::Prepared(prepared)) => report.warnings = prepared.warnings,
        Ok(hands::Outcome::Refused(refusal)) => return Err(refused(&refusal.why)),
        Ok(_) => return Err(refused("preflight ended unexpectedly")),
        Err(_) => return Err(refused(&took_too_long(limit))),
    }
    let status = operation
        .gates
        .drain_status(&operation.config.name, &operation.plan.from);
    report.blockers = status.blockers;
    report.blockers.retain(is_in_the_way);
    report.blockers.sort_by_key(|blocker| Reverse(blocker.age));
    report.held = status.held;
    report.phases.push(("preflight", began.elapsed()));
    report.outcome = Outcome::Completed;
    Ok(report)
}

/// Who is idle stands at a safe point, and a statement that has just begun will soon have ended.
fn is_in_the_way(blocker: &Blocker) -> bool {
    match blocker.state {
        "idle" => false,
        "active" => blocker.age >= BUSY_FOR,
        _ => true,
    }
}

fn took_too_long(limit: Duration) -> String {
    format!("preflight took longer than {limit:?}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::is_in_the_way;
    use crate::pool::Blocker;

    #[test]
    fn only_who_may_stay_is_in_the_way() {
        for (state, age_ms, expected) in [
            ("idle", 60_000, false),
            ("active", 20, false),
            ("active", 1_000, true),
            ("idle in transaction", 0, true),
        ] {
            let blocker = Blocker {
                client_id: 1,
                addr: "unix".to_owned(),
                database: "app".into(),
                user: "app".into(),
                application_name: String::new(),
                state,
                age: Duration::from_millis(age_ms),
                backend_pid: 1,
            };
            assert_eq!(is_in_the_way(&blocker), expected, "{state} for {age_ms} ms");
        }
    }
}
