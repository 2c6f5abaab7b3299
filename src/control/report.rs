//! What an operation says of itself: its report, its event, its record.

use std::time::{Duration, SystemTime};

use super::driver::Operation;
use super::record::Record;
use super::switchover::Kind;
use super::{Outcome, Report};
use crate::config::EventKind;

/// What is known before anything was done.
pub(super) fn first_report(operation: &Operation) -> Report {
    let plan = &operation.plan;
    Report {
        kind: plan.kind.name(),
        cluster: operation.config.name.clone(),
        from: Some(plan.from.clone()),
        to: plan.to.clone(),
        epoch: plan.epoch,
        started: SystemTime::now(),
        outcome: Outcome::Running { phase: "preflight" },
        phases: Vec::new(),
        held: 0,
        stopped: 0,
        blockers: Vec::new(),
        warnings: Vec::new(),
        estimated_loss_bytes: None,
    }
}

/// The event of its success.
pub(super) fn completed(kind: Kind) -> EventKind {
    match kind {
        Kind::Switchover => EventKind::SwitchoverCompleted,
        Kind::Failover => EventKind::FailoverCompleted,
    }
}

/// The event of its being given up.
pub(super) fn aborted(kind: Kind) -> EventKind {
    match kind {
        Kind::Switchover => EventKind::SwitchoverAborted,
        Kind::Failover => EventKind::FailoverAborted,
    }
}

/// The event of its not being begun.
pub(super) fn refused(kind: Kind) -> EventKind {
    match kind {
        Kind::Switchover => EventKind::SwitchoverRefused,
        Kind::Failover => EventKind::FailoverRefused,
    }
}

pub(super) fn new_record(operation: &Operation) -> Record {
    let plan = &operation.plan;
    // The record is compared with what is on disk, where there are milliseconds.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or_default();
    Record {
        cluster: operation.config.name.clone(),
        epoch: plan.epoch,
        node: plan.to.clone(),
        since: SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
        reason: plan.kind.name().to_owned(),
        previous: Some(plan.from.clone()),
    }
}

pub(super) fn summary(report: &Report) -> String {
    let from = report.from.as_ref().map_or("", |n| n.as_str());
    let loss = report.estimated_loss_bytes;
    let loss = loss.map_or_else(String::new, |n| format!(", estimated loss {n} bytes"));
    format!(
        "lead moved from \"{from}\" to \"{}\", epoch {}, {} held, {} stopped{loss}",
        report.to, report.epoch, report.held, report.stopped
    )
}
