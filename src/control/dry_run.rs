//! DRY RUN: all checks, nothing held.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::driver::Operation;
use super::hands;
use super::report::first_report;
use super::{Outcome, Refusal, Report, requests};

/// All checks, and who would be in the way just now.
pub(super) async fn run(operation: Operation) -> Result<Report, Refusal> {
    let mut report = first_report(&operation);
    let began = Instant::now();
    let limit = operation.plan.limits.preflight;
    let checks = Box::pin(hands::preflight(operation.clone()));
    let refused = |why: &str| requests::refused(&operation.config.name, &operation.plan, why);
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
    report.held = status.held;
    report.phases.push(("preflight", began.elapsed()));
    report.outcome = Outcome::Completed;
    Ok(report)
}

fn took_too_long(limit: Duration) -> String {
    format!("preflight took longer than {limit:?}")
}
