//! Has every other member what a node wrote? And what the members must forget of a node that is gone.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::gate_lsn::{self, Captured};
use super::links::links_between;
use super::member::Member;
use super::members::Members;
use super::node_link::NodeLink;
use super::preflight;
use super::replication::{Consumer, LinkKind, consumers, of_origin};
use crate::config::{ClusterConfig, NodeConfig, NodeName};

/// Between two questions.
const POLL: Duration = Duration::from_millis(20);

/// Waits until all of `others` that read from `node` have applied what it has written so far.
/// Gives their names.
///
/// # Errors
/// Who has not, and why.
pub(super) async fn everything(
    config: &ClusterConfig,
    node: &NodeConfig,
    others: Vec<NodeConfig>,
    limit: Duration,
) -> Result<Vec<NodeName>, String> {
    let origin = preflight::open(config, node).await?;
    let asked = |e| format!("\"{}\" could not be asked: {e}", node.name);
    let recovery = origin.yes("SELECT pg_is_in_recovery()", &[]).await;
    if recovery.map_err(asked)? {
        // A standby writes nothing of its own.
        return Ok(Vec::new());
    }
    let captured = gate_lsn::capture(&origin, None).await.map_err(asked)?;
    let deadline = Instant::now() + limit;
    let mut done = Vec::new();
    for other in others {
        let target = preflight::open(config, &other).await?;
        let asked = |e| format!("\"{}\" could not be asked: {e}", other.name);
        let all = consumers(&target, config.replication)
            .await
            .map_err(asked)?;
        for consumer in of_origin(&origin, all).await.map_err(asked)? {
            let links = (origin.as_ref(), target.as_ref());
            let applied = Box::pin(applied(links, &consumer, &captured, deadline)).await;
            applied.map_err(|why| format!("\"{}\": {why}", other.name))?;
            done.push(other.name.clone());
        }
    }
    Ok(done)
}

async fn applied(
    (origin, target): (&NodeLink, &NodeLink),
    consumer: &Consumer,
    captured: &Captured,
    deadline: Instant,
) -> Result<(), String> {
    loop {
        let seen = gate_lsn::poll((origin, target), consumer, None, captured).await;
        match seen.map_err(|e| e.to_string())? {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() >= deadline => return Err(why),
            Err(_) => {}
        }
        if consumer.kind != LinkKind::Physical {
            let nudged = gate_lsn::nudge(origin, target).await;
            nudged.map_err(|e| e.to_string())?;
        }
        sleep(POLL).await;
    }
}

/// SQL for the other members once a node is gone for good. We print it; operators run it.
pub(super) fn parting_advice(members: &Members, gone: &NodeName) -> Vec<(NodeName, String)> {
    let Some(gone) = members.get(gone) else {
        return Vec::new();
    };
    let others = || members.nodes.iter().filter(|m| m.name() != gone.name());
    let mut advice = Vec::new();
    for other in others() {
        let rest: Vec<&Member> = others().filter(|m| m.name() != other.name()).collect();
        let mut lines = match other.facts.as_ref().and_then(|facts| facts.bdr.as_ref()) {
            Some(_) => vec![part_node(gone)],
            None => known_links(gone, other),
        };
        if lines.is_empty() {
            lines = what_nobody_else_has(other, &rest);
        }
        advice.extend(
            lines
                .into_iter()
                .map(|sql| (other.config.name.clone(), sql)),
        );
    }
    advice
}

fn part_node(gone: &Member) -> String {
    let bdr = gone.facts.as_ref().and_then(|facts| facts.bdr.as_ref());
    let node = bdr.map_or_else(|| gone.name().to_string(), |bdr| bdr.name.clone());
    format!(
        "SELECT bdr.part_node(node_name := {}, wait_for_completion := true, force := false);",
        literal(&node)
    )
}

/// As both ends told while they could.
fn known_links(gone: &Member, other: &Member) -> Vec<String> {
    let mut lines = Vec::new();
    for link in links_between(gone, other) {
        lines.extend(unsubscribe(link.kind, &link.subscription));
    }
    // The slots that it read from keep WAL until the disk is full.
    for link in links_between(other, gone) {
        if !link.slot.is_empty() {
            lines.push(drop_slot(&link.slot));
        }
    }
    lines
}

/// The node is gone since before we looked, or another server has taken its address: what is left
/// of it is what belongs to no other member. Empty while one of them has not told.
fn what_nobody_else_has(other: &Member, rest: &[&Member]) -> Vec<String> {
    const DOUBT: &str = " -- no other member has to do with it: make sure that nobody else has";
    let told = |m: &Member| m.facts.as_ref().is_some_and(|f| f.consumers.is_some());
    let Some(facts) = &other.facts else {
        return Vec::new();
    };
    if !rest.iter().all(|m| told(m)) {
        return Vec::new();
    }
    let from_rest: Vec<_> = rest.iter().flat_map(|m| links_between(m, other)).collect();
    let to_rest: Vec<_> = rest.iter().flat_map(|m| links_between(other, m)).collect();
    let mut lines = Vec::new();
    for consumer in facts.consumers.iter().flatten() {
        let fed = from_rest
            .iter()
            .any(|link| link.subscription == consumer.subscription);
        if !fed {
            lines.extend(unsubscribe(consumer.kind.name(), &consumer.subscription));
        }
    }
    for sender in &facts.senders {
        let idle = !sender.active && !sender.temporary;
        if let Some(slot) = sender.slot.as_ref().filter(|_| idle)
            && !to_rest.iter().any(|link| link.slot == *slot)
        {
            lines.push(drop_slot(slot));
        }
    }
    lines.into_iter().map(|line| line + DOUBT).collect()
}

fn unsubscribe(kind: &str, subscription: &str) -> Option<String> {
    match kind {
        "logical" => Some(format!(
            "ALTER SUBSCRIPTION {0} DISABLE; ALTER SUBSCRIPTION {0} SET (slot_name = NONE); \
             DROP SUBSCRIPTION {0};",
            identifier(subscription)
        )),
        "pglogical" => Some(format!(
            "SELECT pglogical.drop_subscription({});",
            literal(subscription)
        )),
        _ => None,
    }
}

fn drop_slot(slot: &str) -> String {
    format!("SELECT pg_drop_replication_slot({});", literal(slot))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
