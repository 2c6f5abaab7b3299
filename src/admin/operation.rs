//! What a DBA reads about a switchover or failover: one line per blocker, one sentence per outcome,
//! an error that says who leads now. Pure.

use super::answer::Answer;
use super::failure::Failure;
use super::show::{self, ADVICE, FINDINGS, Finding, PHASES};
use crate::civil::length;
use crate::control::{Outcome, RemovedNode, Report};
use crate::pool::Blocker;
use crate::wire::NoticeResponse;

/// `client 17 app@10.0.0.9 "batch" idle in transaction for 31 s (backend pid 4711)`.
fn blocker_line(blocker: &Blocker) -> String {
    format!(
        "client {} {}@{} \"{}\" {} for {} (backend pid {})",
        blocker.client_id,
        blocker.user,
        blocker.addr,
        blocker.application_name,
        blocker.state,
        length(blocker.age),
        blocker.backend_pid
    )
}

/// What happened, in one line.
pub(super) fn summary(report: &Report) -> String {
    match &report.outcome {
        Outcome::Completed => {
            let from = report.from.as_ref().map_or("none", |node| node.as_str());
            format!(
                "lead {from} -> {}, epoch {}; {} held, {} reconnected",
                report.to,
                report.epoch,
                clients(report.held),
                sessions(report.stopped),
            )
        }
        Outcome::Aborted { phase, why } => format!("aborted in phase {phase}: {why}"),
        Outcome::Running { phase } if report.blockers.is_empty() => format!("in phase {phase}"),
        Outcome::Running { phase } => {
            let blockers: Vec<String> = report.blockers.iter().map(blocker_line).collect();
            format!("in phase {phase}, waiting for {}", blockers.join("; "))
        }
    }
}

fn clients(number: usize) -> String {
    counted(number, "client")
}

fn sessions(number: usize) -> String {
    counted(number, "session")
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// The answer to SWITCHOVER and FAILOVER.
pub(super) fn answer(tag: &'static str, report: &Report) -> Result<Answer, Failure> {
    if let Outcome::Aborted { phase, why } = &report.outcome {
        return Err(aborted(report, phase, why));
    }
    let warnings = report.warnings.iter();
    let mut notices: Vec<_> = warnings.cloned().map(NoticeResponse::warning).collect();
    if let Some(bytes) = report.estimated_loss_bytes.filter(|bytes| *bytes > 0) {
        notices.push(NoticeResponse::warning(format!(
            "up to {bytes} bytes of WAL of the old lead were not confirmed by \"{}\" and may be lost",
            report.to
        )));
    }
    let rows = show::rows(&[PHASES], &show::phases(report));
    Ok(Answer::rows(tag, rows).notices(notices))
}

/// `DRY RUN`: what was found. What would be refused outright is an error before this.
pub(super) fn findings(tag: &'static str, report: &Report) -> Answer {
    let warnings = report.warnings.iter().map(|text| Finding {
        level: "warning",
        text: text.clone(),
    });
    let blockers = report.blockers.iter().map(|blocker| Finding {
        level: "blocker",
        text: blocker_line(blocker),
    });
    let mut found: Vec<Finding> = blockers.chain(warnings).collect();
    let from = report.from.as_ref().map_or("none", |node| node.as_str());
    found.push(Finding {
        level: "result",
        text: format!(
            "switchover of cluster \"{}\" from \"{from}\" to \"{}\" can begin; nothing was changed",
            report.cluster, report.to
        ),
    });
    Answer::rows(tag, show::rows(&[FINDINGS], &found))
}

/// What REMOVE NODE leaves to the operator.
pub(super) fn advice(tag: &'static str, removed: &RemovedNode) -> Answer {
    let notice = NoticeResponse::notice(
        "the node is no member any more; run what follows on the nodes named, after a look at it",
    );
    let notices = if removed.advice.is_empty() {
        Vec::new()
    } else {
        vec![notice]
    };
    Answer::rows(tag, show::rows(&[ADVICE], &removed.advice)).notices(notices)
}

/// Who was in the way, and who leads now.
fn aborted(report: &Report, phase: &str, why: &str) -> Failure {
    let sqlstate = if report.blockers.is_empty() {
        "55000"
    } else {
        "55006"
    };
    let mut detail: Vec<String> = report.blockers.iter().map(blocker_line).collect();
    if let Some(lead) = &report.from {
        detail.push(format!(
            "The lead is still \"{lead}\", epoch {}.",
            report.epoch
        ));
    }
    let failure = Failure {
        detail: (!detail.is_empty()).then(|| detail.join("\n")),
        ..Failure::new(
            sqlstate,
            format!(
                "{} of cluster \"{}\" to \"{}\" was aborted in phase {phase}: {why}",
                report.kind, report.cluster, report.to
            ),
        )
    };
    if report.blockers.is_empty() {
        return failure;
    }
    failure.hint(format!(
        "End these sessions (KILL_CLIENT id), or repeat: SWITCHOVER {} TO {} ON DRAIN TIMEOUT terminate;",
        report.cluster, report.to
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::{Duration, UNIX_EPOCH};

    use super::{answer, findings};
    use crate::admin::answer::{Value, text_form};
    use crate::cluster::Epoch;
    use crate::config::{ClusterName, DatabaseName, NodeName, UserName};
    use crate::control::{Outcome, Report};
    use crate::pool::Blocker;
    use crate::wire::NoticeResponse;

    fn report(outcome: Outcome, blockers: Vec<Blocker>) -> Report {
        Report {
            kind: "switchover",
            cluster: ClusterName::new("main"),
            from: Some(NodeName::new("n1")),
            to: NodeName::new("n2"),
            epoch: Epoch(7),
            started: UNIX_EPOCH,
            outcome,
            phases: vec![
                ("drain", Duration::from_micros(12_345)),
                ("catchup", Duration::from_millis(3)),
            ],
            held: 120,
            stopped: 1,
            blockers,
            warnings: vec!["the clocks differ by 2 ms".to_owned()],
            estimated_loss_bytes: None,
        }
    }

    fn blocker() -> Blocker {
        Blocker {
            client_id: 17,
            addr: "10.0.0.9".to_owned(),
            database: DatabaseName::new("app"),
            user: UserName::new("app"),
            application_name: "batch".to_owned(),
            state: "idle in transaction",
            age: Duration::from_secs(31),
            backend_pid: 4711,
        }
    }

    fn lines(rows: Option<Vec<Vec<Value>>>) -> Vec<String> {
        let line = |row: Vec<Value>| row.iter().map(text_form).collect::<Vec<_>>().join("|");
        rows.unwrap().into_iter().map(line).collect()
    }

    #[test]
    fn a_switchover_prints_its_phases_and_what_it_did() {
        let answer = answer("SWITCHOVER", &report(Outcome::Completed, vec![])).unwrap();
        assert_eq!(
            lines(answer.rows),
            [
                "drain|12.345|",
                "catchup|3.000|",
                "total|15.345|lead n1 -> n2, epoch 7; 120 clients held, 1 session reconnected",
            ]
        );
        let warning = NoticeResponse::warning("the clocks differ by 2 ms");
        assert_eq!(answer.notices, [warning]);
    }

    #[test]
    fn an_aborted_switchover_names_who_was_in_the_way_and_who_leads() {
        let outcome = Outcome::Aborted {
            phase: "drain",
            why: "1 session did not reach a safe point within 300 ms".to_owned(),
        };
        let failure = answer("SWITCHOVER", &report(outcome, vec![blocker()])).unwrap_err();
        assert_eq!(
            failure.message,
            "switchover of cluster \"main\" to \"n2\" was aborted in phase drain: \
             1 session did not reach a safe point within 300 ms"
        );
        assert_eq!(
            failure.detail.unwrap(),
            "client 17 app@10.0.0.9 \"batch\" idle in transaction for 31 s (backend pid 4711)\n\
             The lead is still \"n1\", epoch 7."
        );
        assert!(failure.hint.unwrap().contains("ON DRAIN TIMEOUT terminate"));
        assert_eq!(failure.sqlstate, "55006");
    }

    #[test]
    fn a_dry_run_lists_what_it_found() {
        let answer = findings("SWITCHOVER", &report(Outcome::Completed, vec![blocker()]));
        assert_eq!(
            lines(answer.rows),
            [
                "blocker|client 17 app@10.0.0.9 \"batch\" idle in transaction for 31 s (backend pid 4711)",
                "warning|the clocks differ by 2 ms",
                "result|switchover of cluster \"main\" from \"n1\" to \"n2\" can begin; nothing was changed",
            ]
        );
    }
}
