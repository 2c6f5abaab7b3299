//! Carries commands out. What takes long notices a client who cancels or leaves; what either does
//! to the command is decided in `docs/decisions/0004-console-cancel.md`.

use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::answer::{Answer, Column};
use super::command::{Command, Privilege, VERBS, Verb};
use super::connection::Interrupt;
use super::driver::Constant;
use super::failure::Failure;
use super::session::{Session, Stop};
use super::show::{self, ADVICE, FINDINGS, PHASES, STEPS};
use super::{Request, operation};
use crate::civil::length;
use crate::config::{ClusterName, DatabaseName, NodeName};
use crate::control::SwitchoverRequest;
use crate::pool::VerbError;
use crate::wire::NoticeResponse;
use crate::wire::message::ColumnType;

/// The result set that a command answers, if it answers one.
pub(super) fn columns(command: &Command) -> Option<Vec<Column>> {
    match command {
        Command::Show(table) => Some(table.columns()),
        Command::Switchover { dry_run: true, .. } => Some(show::columns(&[FINDINGS])),
        Command::Switchover { .. } | Command::Failover { .. } => Some(show::columns(&[PHASES])),
        Command::Maintenance { .. } => Some(show::columns(&[STEPS])),
        Command::RemoveNode(_) => Some(show::columns(&[ADVICE])),
        _ => None,
    }
}

/// Type of a constant that a driver SELECTs.
pub(super) fn constant_type(constant: &Constant) -> ColumnType {
    match constant {
        Constant::Int(_) | Constant::Pid => ColumnType::Int4,
        Constant::Bool(_) => ColumnType::Bool,
        Constant::Text(_) | Constant::Null | Constant::User | Constant::Database => {
            ColumnType::Text
        }
    }
}

/// Carries one command out, after its privilege was checked.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    verb: &Verb,
    command: &Command,
    text: &str,
) -> Result<Answer, Stop> {
    let console = session.console;
    let pools = &console.pools;
    if verb.privilege == Privilege::Admin {
        info!(user = %session.login.user, command = text, "console command");
    }
    match command {
        Command::Show(table) => return Ok(Answer::rows(verb.tag, table.rows(console))),
        Command::Help => {
            return Ok(Answer::tag(verb.tag).notices(vec![NoticeResponse::notice(help())]));
        }
        Command::Pause {
            database,
            timeout,
            begun,
        } => {
            if !begun {
                pools.pause(database.as_ref())?;
            }
            pause_complete(session, database.as_ref(), *timeout).await?;
        }
        Command::Resume(database) => pools.resume_operator(database.as_ref())?,
        Command::Reconnect {
            database,
            and_pause: false,
        } => pools.reconnect(database.as_ref())?,
        Command::Reconnect {
            database,
            and_pause: true,
        } => {
            pools.reconnect_and_pause(database.as_ref())?;
        }
        Command::WaitClose { database, timeout } => {
            wait_close(session, database.as_ref(), *timeout).await?;
        }
        Command::Kill(database) => pools.kill(database.as_ref())?,
        Command::KillClient(id) if console.clients.kill(*id) => {}
        Command::KillClient(_) => return Err(VerbError::NoSuchClient.into()),
        Command::Disable { database, disabled } => pools.disable(database, *disabled)?,
        Command::Reload => return reload(session, verb.tag).await,
        Command::Shutdown(mode) => request(session, Request::Shutdown(*mode))?,
        cluster_or_node => return on_cluster(session, verb.tag, cluster_or_node).await,
    }
    Ok(Answer::tag(verb.tag))
}

/// Commands about clusters and their nodes.
async fn on_cluster<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    tag: &'static str,
    command: &Command,
) -> Result<Answer, Stop> {
    let control = &session.console.control;
    match command {
        Command::Switchover {
            cluster,
            request,
            dry_run: true,
        } => {
            let report = control.preflight(cluster, request.clone()).await?;
            return Ok(operation::findings(tag, &report));
        }
        Command::Switchover {
            cluster,
            request,
            dry_run: false,
        } => {
            return switchover(session, tag, cluster, request).await;
        }
        Command::AbortSwitchover(cluster) => control.abort(cluster).await?,
        Command::Failover {
            cluster,
            target,
            accept_loss,
        } => {
            return failover(session, tag, (cluster, target, *accept_loss)).await;
        }
        Command::SetWanted { node, wanted } => control.set_wanted(node, *wanted).await?,
        Command::SetCandidate { node, candidate } => {
            control.set_candidate(node, *candidate).await?;
        }
        Command::AddNode { node, added } => control.add_node(node, added.clone()).await?,
        Command::RemoveNode(node) => {
            let removed = control.remove_node(node).await?;
            return Ok(operation::advice(tag, &removed));
        }
        Command::Maintenance {
            node,
            begin,
            timeout,
        } => return maintenance(session, tag, (node, *begin), *timeout).await,
        _ => {}
    }
    Ok(Answer::tag(tag))
}

/// Waits for a pause that was just begun. Whoever asked for it and is told that it failed must not
/// find the instance paused; whoever left without asking otherwise finds it as he ordered it.
async fn pause_complete<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    database: Option<&DatabaseName>,
    limit: Option<Duration>,
) -> Result<(), Stop> {
    let console = session.console;
    let waited = {
        let paused = pin!(console.pools.paused(database));
        session.connection.until(paused, limit).await
    };
    let failure = match waited {
        Ok(true) => return Ok(()),
        Ok(false) => {
            let message = "the pause was lifted before it was complete";
            return Err(Failure::new("55000", message).into());
        }
        Err(Interrupt::ClientLeft) => {
            warn!(user = %session.login.user, "console left while its PAUSE was waiting: the pause goes on");
            return Err(Stop::ClientLeft);
        }
        Err(Interrupt::Cancelled) => Failure::cancelled(),
        Err(Interrupt::TimedOut) => Failure::new(
            "57014",
            format!(
                "PAUSE was not complete within {}",
                length(limit.unwrap_or_default())
            ),
        ),
    };
    let detail = holders(session, database);
    // It may be that another console has just lifted it.
    let _ = console.pools.resume_operator(database);
    let failure = failure.hint("The pause was lifted: all clients go on.");
    Err(match detail {
        Some(detail) => failure.detail(detail),
        None => failure,
    }
    .into())
}

/// Names clients that still have a server.
fn holders<S>(session: &Session<'_, S>, database: Option<&DatabaseName>) -> Option<String> {
    const MOST: usize = 10;
    let mut clients = session.console.clients.list();
    clients.retain(|c| c.link.is_some() && database.is_none_or(|name| c.database == *name));
    let lines: Vec<String> = clients
        .iter()
        .take(MOST)
        .map(|c| {
            let addr = c.addr.map_or_else(|| "unix".to_owned(), |a| a.to_string());
            format!(
                "client {} {}@{addr} \"{}\" still has a server of \"{}\" (backend pid {})",
                c.id,
                c.user,
                c.application_name,
                c.database,
                c.remote_pid.unwrap_or_default()
            )
        })
        .collect();
    let more = clients.len().saturating_sub(MOST);
    match (lines.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(lines.join("\n")),
        (false, more) => Some(format!("{}\nand {more} more", lines.join("\n"))),
    }
}

async fn wait_close<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    database: Option<&DatabaseName>,
    limit: Option<Duration>,
) -> Result<(), Stop> {
    let console = session.console;
    let closed = pin!(console.pools.closed(database));
    match session.connection.until(closed, limit).await {
        Ok(done) => Ok(done?),
        Err(Interrupt::ClientLeft) => Err(Stop::ClientLeft),
        Err(Interrupt::Cancelled) => Err(Failure::cancelled().into()),
        Err(Interrupt::TimedOut) => {
            let limit = length(limit.unwrap_or_default());
            let message = format!("servers from before the last RECONNECT are left after {limit}");
            Err(Failure::new("57014", message)
                .hint("SHOW SERVERS has them with close_needed = 1.")
                .into())
        }
    }
}

/// A cancel request means ABORT SWITCHOVER; the answer is then the operation's own report. From the
/// commit phase on the cancel comes too late and the report says what was done.
async fn switchover<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    tag: &'static str,
    cluster: &ClusterName,
    request: &SwitchoverRequest,
) -> Result<Answer, Stop> {
    let control = &session.console.control;
    let mut running = pin!(control.switchover(cluster, request.clone()));
    loop {
        match session.connection.until(running.as_mut(), None).await {
            Ok(report) => return Ok(operation::answer(tag, &report?)?),
            Err(Interrupt::ClientLeft) => return Err(left(session, tag)),
            Err(Interrupt::Cancelled | Interrupt::TimedOut) => {
                if let Err(refusal) = control.abort(cluster).await {
                    let notice = format!("cannot be cancelled any more: {refusal}");
                    session.write_notices(&[NoticeResponse::warning(notice)]);
                }
            }
        }
    }
}

/// An operation ends by itself; that its console is gone must not leave it half done.
fn left<S>(session: &Session<'_, S>, what: &str) -> Stop {
    warn!(user = %session.login.user, "console left while its {what} was running: it goes on");
    Stop::ClientLeft
}

/// A cancel request ends the wait; what was done so far stays, and repeating the command goes on.
async fn maintenance<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    tag: &'static str,
    (node, begin): (&NodeName, bool),
    timeout: Option<Duration>,
) -> Result<Answer, Stop> {
    let control = &session.console.control;
    let running = async {
        if begin {
            control.begin_maintenance(node, timeout).await
        } else {
            control.end_maintenance(node, timeout).await
        }
    };
    let running = pin!(running);
    match session.connection.until(running, None).await {
        Ok(steps) => Ok(Answer::rows(tag, show::rows(&[STEPS], &steps?))),
        Err(Interrupt::ClientLeft) => Err(left(session, tag)),
        Err(Interrupt::Cancelled | Interrupt::TimedOut) => Err(Failure::cancelled()
            .detail("What was done so far stays; a switchover that had begun goes on.")
            .hint("SHOW NODES tells how the node stands.")
            .into()),
    }
}

/// A failover cannot be taken back: a cancel request ends the wait for its report only.
async fn failover<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    tag: &'static str,
    (cluster, target, accept_loss): (&ClusterName, &NodeName, bool),
) -> Result<Answer, Stop> {
    let control = &session.console.control;
    let running = pin!(control.failover(cluster, target, accept_loss));
    match session.connection.until(running, None).await {
        Ok(report) => Ok(operation::answer(tag, &report?)?),
        Err(Interrupt::ClientLeft) => Err(left(session, tag)),
        Err(Interrupt::Cancelled | Interrupt::TimedOut) => Err(Failure::cancelled()
            .detail("The failover goes on.")
            .hint("SHOW SWITCHOVER tells how it ends.")
            .into()),
    }
}

async fn reload<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<'_, S>,
    tag: &'static str,
) -> Result<Answer, Stop> {
    let (sender, receiver) = oneshot::channel();
    request(session, Request::Reload(sender))?;
    match session.connection.until(pin!(receiver), None).await {
        Ok(Ok(Ok(notices))) => {
            let notices = notices.into_iter().map(NoticeResponse::notice).collect();
            Ok(Answer::tag(tag).notices(notices))
        }
        Ok(Ok(Err(why))) => {
            let message = "RELOAD failed, see logs for additional details";
            Err(Failure::new("F0000", message)
                .detail(why)
                .hint("Nothing was changed.")
                .into())
        }
        Ok(Err(_)) => Err(shutting_down().into()),
        Err(Interrupt::ClientLeft) => Err(Stop::ClientLeft),
        Err(Interrupt::Cancelled | Interrupt::TimedOut) => {
            Err(Failure::cancelled().detail("The reload goes on.").into())
        }
    }
}

fn request<S>(session: &Session<'_, S>, request: Request) -> Result<(), Failure> {
    use tokio::sync::mpsc::error::TrySendError;
    let sent = session.console.requests.try_send(request);
    sent.map_err(|error| match error {
        TrySendError::Full(_) => {
            Failure::new("55006", "earlier requests are still being carried out")
        }
        TrySendError::Closed(_) => shutting_down(),
    })
}

fn shutting_down() -> Failure {
    Failure::new("57P01", "pooler is shutting down")
}

/// Text of SHOW HELP.
fn help() -> String {
    let tables: Vec<&str> = show::TABLES.iter().map(|table| table.name).collect();
    let mut text = String::from("Console usage");
    for verb in VERBS {
        text.push_str("\n\t");
        text.push_str(verb.syntax);
        text.push_str("\n\t\t");
        text.push_str(verb.help);
    }
    text.push_str("\n\tTables of SHOW: HELP, ");
    text.push_str(&tables.join(", "));
    text
}
