//! Has every other member what a node wrote? And what the members must forget of a node that is gone.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::gate_lsn::{self, Captured};
use super::links::links_between;
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
    let mut advice = Vec::new();
    for other in members.nodes.iter().filter(|m| m.name() != gone.name()) {
        let name = &other.config.name;
        let mut say = |sql: String| advice.push((name.clone(), sql));
        if other.facts.as_ref().is_some_and(|f| f.bdr.is_some()) {
            let node = gone
                .facts
                .as_ref()
                .and_then(|f| f.bdr.as_ref())
                .map_or_else(|| gone.name().to_string(), |bdr| bdr.name.clone());
            say(format!(
                "SELECT bdr.part_node(node_name := {}, wait_for_completion := true, force := false);",
                literal(&node)
            ));
            continue;
        }
        for link in links_between(gone, other) {
            match link.kind {
                "logical" => say(format!(
                    "ALTER SUBSCRIPTION {0} DISABLE; ALTER SUBSCRIPTION {0} SET (slot_name = NONE); \
                     DROP SUBSCRIPTION {0};",
                    identifier(&link.subscription)
                )),
                "pglogical" => say(format!(
                    "SELECT pglogical.drop_subscription({});",
                    literal(&link.subscription)
                )),
                _ => {}
            }
        }
        // The slots that it read from keep WAL until the disk is full.
        for link in links_between(other, gone)
            .iter()
            .filter(|l| !l.slot.is_empty())
        {
            say(format!(
                "SELECT pg_drop_replication_slot({});",
                literal(&link.slot)
            ));
        }
    }
    advice
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
