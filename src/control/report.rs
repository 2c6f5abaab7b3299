//! What an operation says of itself: its report, its event, its record.

use std::time::{Duration, SystemTime};

use super::driver::Operation;
use super::record::Record;
use super::switchover::Kind;
use super::{Outcome, Report};
use crate::cluster::Epoch;
use crate::config::{ClusterName, EventKind, NodeName};

/// What is known before anything was done.
pub(super) fn first_report(operation: &Operation) -> Report {
    let plan = &operation.plan;
    let outcome = Outcome::Running { phase: "preflight" };
    let cluster = &operation.config.name;
    bare(
        plan.kind,
        cluster,
        Some(plan.from.clone()),
        &plan.to,
        plan.epoch,
        outcome,
    )
}

/// What FAILOVER answers where nothing was moved, only decided.
pub(super) fn appointed(
    cluster: &ClusterName,
    from: Option<NodeName>,
    target: &NodeName,
    epoch: Epoch,
) -> Report {
    bare(
        Kind::Failover,
        cluster,
        from,
        target,
        epoch,
        Outcome::Completed,
    )
}

fn bare(
    kind: Kind,
    cluster: &ClusterName,
    from: Option<NodeName>,
    to: &NodeName,
    epoch: Epoch,
    outcome: Outcome,
) -> Report {
    Report {
        kind: kind.name(),
        cluster: cluster.clone(),
        from,
        to: to.clone(),
        epoch,
        started: SystemTime::now(),
        outcome,
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
