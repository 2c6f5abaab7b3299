//! Everything that is checked before a client is touched. Each refusal is a case in which the gate
//! would say yes wrongly or never.

mod bdr;
mod checks;
mod coverage;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::gate_lsn::{self, Marker};
use super::node_link::{Deadlines, LinkError, NodeLink};
use super::replication::{Consumer, LinkKind, consumers, of_origin};
use super::switchover::{Findings, Promotion};
use crate::config::{ClusterConfig, NodeConfig, Promote};

/// A lead and a target with a connection to each.
#[derive(Debug)]
pub(super) struct Pair {
    /// The old lead.
    pub lead: Arc<NodeLink>,
    /// The target.
    pub target: Arc<NodeLink>,
    /// The target's consumer of the lead's WAL.
    pub consumer: Consumer,
    /// Where the marker row is, if one is configured and the kind can use it.
    pub marker: Option<Marker>,
}

/// What preflight has to say.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict {
    /// Any of them refuses the switchover.
    pub refusals: Vec<String>,
    /// Worth a word.
    pub warnings: Vec<String>,
    /// The way to go.
    pub findings: Findings,
}

/// Who takes part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parties<'a> {
    /// Settings of the cluster.
    pub config: &'a ClusterConfig,
    /// The lead by record.
    pub from: &'a NodeConfig,
    /// The target.
    pub to: &'a NodeConfig,
    /// Backends of our own pools on the lead.
    pub own_pids: &'a [i32],
    /// Names on the node of the databases that the cluster's clients use.
    pub dbnames: &'a [String],
}

/// Runs all checks. `Err` is a refusal too: without a connection and a link nothing else can be
/// asked.
pub(super) async fn preflight(parties: Parties<'_>) -> Result<(Pair, Verdict), String> {
    let config = parties.config;
    let (lead, target) = (
        open(config, parties.from).await?,
        open(config, parties.to).await?,
    );
    let consumer = find_consumer(&lead, &target, parties).await?;
    let marker = match consumer.kind {
        LinkKind::Physical => None,
        LinkKind::Logical | LinkKind::Pglogical | LinkKind::Bdr => config
            .marker_table
            .as_deref()
            .map(|table| Marker::new(table, &parties.from.name)),
    };
    let pair = Pair {
        lead,
        target,
        consumer,
        marker,
    };
    let mut verdict = Verdict {
        findings: findings(&pair, config),
        ..Verdict::default()
    };
    checks::check(&pair, parties, &mut verdict)
        .await
        .map_err(|e| format!("preflight could not be completed: {e}"))?;
    if verdict.refusals.is_empty()
        && let Err(why) = rehearse(&pair, parties).await
    {
        verdict.refusals.push(why);
    }
    Ok((pair, verdict))
}

/// A connection that the gate will use too.
pub(super) async fn open(
    config: &ClusterConfig,
    node: &NodeConfig,
) -> Result<Arc<NodeLink>, String> {
    let link = Box::pin(NodeLink::open(
        node,
        &config.monitor,
        Deadlines::patient(config),
    ))
    .await;
    link.map(Arc::new)
        .map_err(|e| format!("cannot connect to \"{}\": {e}", node.name))
}

fn findings(pair: &Pair, config: &ClusterConfig) -> Findings {
    let physical = pair.consumer.kind == LinkKind::Physical;
    Findings {
        nudge: !physical && pair.marker.is_none(),
        durable: !physical && pair.marker.is_some(),
        clock: !physical,
        promote: match (physical, config.promote) {
            (false, _) => Promotion::NotNeeded,
            (true, Promote::Wait) => Promotion::Awaited,
            (true, Promote::PgPromote) => Promotion::Sent,
        },
        lead_answers: true,
        loss_accepted: false,
    }
}

async fn find_consumer(
    lead: &NodeLink,
    target: &NodeLink,
    parties: Parties<'_>,
) -> Result<Consumer, String> {
    let ask = async {
        let all = consumers(target, parties.config.replication).await?;
        of_origin(lead, all).await
    };
    let mut found = ask
        .await
        .map_err(|e| format!("cannot find how the nodes replicate: {e}"))?;
    match (found.pop(), found.len()) {
        (Some(consumer), 0) => Ok(consumer),
        (None, _) => Err(format!(
            "\"{}\" does not replicate from \"{}\"",
            parties.to.name, parties.from.name
        )),
        (Some(last), _) => {
            let mut names: Vec<String> = found.into_iter().map(|c| c.subscription).collect();
            names.push(last.subscription);
            Err(format!(
                "\"{}\" has several subscriptions to \"{}\": {}",
                parties.to.name,
                parties.from.name,
                names.join(", ")
            ))
        }
    }
}

/// The gate itself, tried while clients still run: proves that apply moves, that the marker row
/// is there and replicated, and that our role may do what it will have to do.
async fn rehearse(pair: &Pair, parties: Parties<'_>) -> Result<(), String> {
    let patience = parties.config.catchup_timeout.min(Duration::from_secs(5));
    let marker = pair.marker.as_ref();
    let tell = |e: LinkError| format!("the gate could not be tried: {e}");
    let captured = gate_lsn::capture(&pair.lead, marker).await.map_err(tell)?;
    let began = Instant::now();
    let links = (pair.lead.as_ref(), pair.target.as_ref());
    loop {
        match gate_lsn::poll(links, &pair.consumer, marker, &captured)
            .await
            .map_err(tell)?
        {
            Ok(()) => return Ok(()),
            Err(why) if began.elapsed() >= patience => {
                return Err(format!(
                    "apply is stuck or too slow: {why} after {patience:?}"
                ));
            }
            Err(_) => {}
        }
        if pair.consumer.kind != LinkKind::Physical && marker.is_none() {
            gate_lsn::nudge(&pair.lead, &pair.target)
                .await
                .map_err(tell)?;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `{1,2}`: an array as text, cast in the statement.
pub(super) fn int_array(numbers: &[i32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}
