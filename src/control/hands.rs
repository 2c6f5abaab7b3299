//! The tasks that ask nodes: what each of them does, and how its outcome reads as an answer.

use std::sync::Arc;
use std::time::Duration;

use super::applied::{Progress, applied_so_far};
use super::coordination::{CommitError, Store};
use super::driver::Operation;
use super::failover;
use super::gate_lsn::{self, Captured, Marker};
use super::node_link::{LinkError, NodeLink};
use super::preflight::{self, Parties};
use super::quiesce;
use super::record::Record;
use super::replication::{Consumer, LinkKind};
use super::switchover::{Answer, Findings, Kind, Task};
use crate::pool::DrainStatus;

/// Connections and what was found with them; kept for the length of an operation.
#[derive(Debug, Clone)]
pub(super) struct Hands {
    /// The old lead; `None` if it does not answer (failover).
    lead: Option<Arc<NodeLink>>,
    target: Arc<NodeLink>,
    consumer: Option<Arc<Consumer>>,
    marker: Option<Marker>,
    /// G.
    pub captured: Option<Captured>,
    /// The old lead's clock when quiesce began.
    pub quiesce_began: Option<String>,
}

/// What preflight hands on.
#[derive(Debug)]
pub(super) struct Prepared {
    /// For the tasks to come.
    pub hands: Hands,
    /// For the machine.
    pub findings: Findings,
    /// For the report.
    pub warnings: Vec<String>,
    /// For the report of a failover.
    pub loss: Option<u64>,
}

/// How a task ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// As the machine takes it.
    Answer(Answer),
    /// Preflight is through.
    Prepared(Prepared),
    /// G is known.
    Captured(Captured),
    /// A look at the backends, and the server's clock when the first one began.
    Looked(String, Answer),
    /// Preflight says no.
    Refused(failover::Refused),
}

/// Preflight of either kind.
pub(super) async fn preflight(operation: Operation) -> Outcome {
    match &operation.terms {
        Some(terms) => match Box::pin(failover::preflight(terms)).await {
            Err(refused) => Outcome::Refused(refused),
            Ok(cleared) => Outcome::Prepared(Prepared {
                hands: Hands {
                    lead: cleared.lead,
                    target: cleared.target,
                    consumer: cleared.consumer.map(Arc::new),
                    marker: None,
                    captured: None,
                    quiesce_began: None,
                },
                findings: cleared.findings,
                warnings: cleared.warnings,
                loss: cleared.loss,
            }),
        },
        None => planned(&operation).await,
    }
}

async fn planned(operation: &Operation) -> Outcome {
    let own_pids = operation.gates.backend_pids(&operation.plan.from);
    let parties = Parties {
        config: &operation.config,
        from: &operation.from,
        to: &operation.to,
        own_pids: &own_pids,
        dbnames: &operation.dbnames,
    };
    let refused = |why| Outcome::Refused(failover::Refused { why, hint: None });
    match Box::pin(preflight::preflight(parties)).await {
        Err(why) => refused(why),
        Ok((_, verdict)) if !verdict.refusals.is_empty() => refused(verdict.refusals.join("; ")),
        Ok((pair, verdict)) => Outcome::Prepared(Prepared {
            hands: Hands {
                lead: Some(pair.lead),
                target: pair.target,
                consumer: Some(Arc::new(pair.consumer)),
                marker: pair.marker,
                captured: None,
                quiesce_began: None,
            },
            findings: verdict.findings,
            warnings: verdict.warnings,
            loss: None,
        }),
    }
}

/// Have all sessions reached their safe point, or for a failover: are they closed?
pub(super) fn drained(operation: &Operation) -> Answer {
    #[cfg(feature = "planted-bugs")]
    if super::planted::skips(Task::Drain) {
        return Answer::Done;
    }
    let plan = &operation.plan;
    let status = operation
        .gates
        .drain_status(&operation.config.name, &plan.from);
    let parked_in_the_way = plan.kind == Kind::Failover && !status.parked_pids.is_empty();
    match in_the_way(&status) {
        Some(who) => Answer::NotYet(who),
        None if parked_in_the_way => Answer::NotYet("sessions are being closed".to_owned()),
        None => Answer::Done,
    }
}

fn in_the_way(status: &DrainStatus) -> Option<String> {
    let Some(first) = status.blockers.first() else {
        let dialing = status.dialing;
        return (dialing > 0).then(|| format!("{dialing} logins to the node in progress"));
    };
    let who = match status.blockers.len() {
        1 => "1 session is not at a safe point".to_owned(),
        many => format!("{many} sessions are not at a safe point; the first"),
    };
    Some(format!(
        "{who}: client {} ({}@{}), {} for {:.1} s",
        first.client_id,
        first.user,
        first.addr,
        first.state,
        first.age.as_secs_f32()
    ))
}

/// Writes the record.
pub(super) async fn persist(store: Arc<dyn Store>, record: Record) -> Outcome {
    let follows = crate::cluster::Epoch(record.epoch.0.saturating_sub(1));
    let answer = match store.commit(record, Some(follows)).await {
        Ok(()) => Answer::Done,
        Err(error @ CommitError::NotWritten(_)) => Answer::Failed(error.to_string()),
        Err(error @ CommitError::Unknown(_)) => Answer::NotYet(error.to_string()),
        Err(error @ CommitError::Superseded(_)) => Answer::Superseded(error.to_string()),
    };
    Outcome::Answer(answer)
}

/// A nudge that fails is made up for by the next one.
pub(super) async fn nudge(hands: Hands) {
    if let Some(lead) = &hands.lead {
        let _ = gate_lsn::nudge(lead, &hands.target).await;
    }
}

/// The tasks between hold and commit.
pub(super) async fn work(operation: Operation, hands: Hands, task: Task) -> Outcome {
    #[cfg(feature = "planted-bugs")]
    if super::planted::skips(task) {
        return done();
    }
    let result = match task {
        Task::Backends => backends(&operation, &hands).await,
        Task::Capture => match &hands.lead {
            Some(lead) => gate_lsn::capture(lead, hands.marker.as_ref())
                .await
                .map(Outcome::Captured),
            None => Ok(failed("the lead does not answer")),
        },
        Task::Gate => gate(&hands).await,
        Task::Applied => applied(&hands).await,
        Task::Durable => gate_lsn::emit(&hands.target).await.map(|()| done()),
        Task::Clock => match &hands.captured {
            Some(captured) => gate_lsn::clock_passed(&hands.target, captured)
                .await
                .map(|passed| yes(passed, "the target's clock is behind the old lead's")),
            None => Ok(failed("nothing was captured")),
        },
        Task::Promote => return promote(&operation, &hands).await,
        Task::Promotion => return promotion(&operation, &hands).await,
        _ => Ok(failed("not a task of this kind")),
    };
    result.unwrap_or_else(|error| Outcome::Answer(read(task, &error)))
}

/// A connection that broke ends the operation; what the server refused once it may grant next
/// time, except to capture, which is done once.
fn read(task: Task, error: &LinkError) -> Answer {
    let again = !error.is_fatal() && task != Task::Capture;
    if again {
        Answer::NotYet(error.to_string())
    } else {
        Answer::Failed(error.to_string())
    }
}

async fn backends(operation: &Operation, hands: &Hands) -> Result<Outcome, LinkError> {
    let Some(lead) = &hands.lead else {
        return Ok(failed("the lead does not answer"));
    };
    let began = match &hands.quiesce_began {
        Some(began) => began.clone(),
        None => quiesce::begin(lead).await?,
    };
    let (cluster, from) = (&operation.config.name, &operation.plan.from);
    // Taken before the node is asked: what is parked now was parked when the node answers.
    let status = operation.gates.drain_status(cluster, from);
    if let Some(who) = in_the_way(&status) {
        return Ok(Outcome::Looked(began, Answer::NotYet(who)));
    }
    let age = operation.process_began.elapsed();
    let rest = quiesce::look(lead, &status, &began, age).await?;
    operation.gates.forget_departed(cluster, from, &rest.gone);
    let answer = if !rest.busy.is_empty() {
        Answer::NotYet(rest.busy.join(", "))
    } else if prepared_meanwhile(lead, hands).await? {
        Answer::Failed("a transaction was prepared since the preflight".to_owned())
    } else {
        Answer::Done
    };
    Ok(Outcome::Looked(began, answer))
}

/// A prepared transaction stays on the old lead: on the target nobody can commit it. A standby that
/// is promoted has it.
async fn prepared_meanwhile(lead: &NodeLink, hands: &Hands) -> Result<bool, LinkError> {
    let logical = hands
        .consumer
        .as_ref()
        .is_some_and(|c| c.kind != LinkKind::Physical);
    let sql = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())";
    Ok(logical && lead.yes(sql, &[]).await?)
}

async fn gate(hands: &Hands) -> Result<Outcome, LinkError> {
    let (Some(lead), Some(consumer), Some(captured)) =
        (&hands.lead, &hands.consumer, &hands.captured)
    else {
        return Ok(failed("nothing was captured"));
    };
    let links = (lead.as_ref(), hands.target.as_ref());
    let marker = hands.marker.as_ref();
    let seen = gate_lsn::poll(links, consumer, marker, captured).await?;
    Ok(Outcome::Answer(match seen {
        Ok(()) => Answer::Done,
        Err(why) => Answer::NotYet(why),
    }))
}

/// Twice in a row: the apply worker may be seen between two messages, and replay between two
/// records.
async fn applied(hands: &Hands) -> Result<Outcome, LinkError> {
    let consumer = hands.consumer.as_deref();
    let first = applied_so_far(&hands.target, consumer).await?;
    let pause = match first {
        Progress::Standing(_) => Duration::from_millis(100),
        Progress::All | Progress::Moving => Duration::from_millis(20),
    };
    tokio::time::sleep(pause).await;
    let second = applied_so_far(&hands.target, consumer).await?;
    let ended = first == second && second != Progress::Moving;
    Ok(yes(ended, "the target still applies what it received"))
}

/// A refusal by the server is certain; a connection that broke in between is not.
async fn promote(operation: &Operation, hands: &Hands) -> Outcome {
    let target = if hands.target.is_closed() {
        match preflight::open(&operation.config, &operation.to).await {
            Ok(link) => link,
            Err(why) => return Outcome::Answer(Answer::NotYet(why)),
        }
    } else {
        Arc::clone(&hands.target)
    };
    let sent = target.row("SELECT pg_promote(false)", &[]).await;
    Outcome::Answer(match sent {
        Ok(_) => Answer::Done,
        Err(error) if error.is_fatal() => Answer::NotYet(error.to_string()),
        Err(error) => Answer::Failed(error.to_string()),
    })
}

/// On a new connection if the old one broke: a promotion by others may restart the node.
async fn promotion(operation: &Operation, hands: &Hands) -> Outcome {
    let sql = "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'";
    let asked = if hands.target.is_closed() {
        match preflight::open(&operation.config, &operation.to).await {
            Ok(link) => link.yes(sql, &[]).await,
            Err(why) => return Outcome::Answer(Answer::NotYet(why)),
        }
    } else {
        hands.target.yes(sql, &[]).await
    };
    match asked {
        Ok(writable) => yes(writable, "the target is still in recovery"),
        Err(error) => Outcome::Answer(Answer::NotYet(error.to_string())),
    }
}

fn done() -> Outcome {
    Outcome::Answer(Answer::Done)
}

fn failed(why: &str) -> Outcome {
    Outcome::Answer(Answer::Failed(why.to_owned()))
}

fn yes(yes: bool, else_why: &str) -> Outcome {
    if yes {
        done()
    } else {
        Outcome::Answer(Answer::NotYet(else_why.to_owned()))
    }
}
