//! Why a command was not carried out, as the console says it. Pure.

use super::Refusal;
use super::switchover::Plan;
use crate::cluster::OperationView;
use crate::config::{ClusterName, NodeName};

/// One operation at a time.
pub(super) fn busy(cluster: &ClusterName, running: &OperationView) -> Refusal {
    refusal(
        "55006",
        format!("cluster \"{cluster}\" is busy"),
        Some(format!(
            "A {} to \"{}\" is in phase {}.",
            running.kind, running.target, running.phase
        )),
        Some(format!("ABORT SWITCHOVER {cluster}; gives it up.")),
    )
}

/// There is none.
pub(super) fn nothing_to_abort(cluster: &ClusterName) -> Refusal {
    let message = format!("no switchover is running in cluster \"{cluster}\"");
    refusal("55000", message, None, None)
}

/// From commit on.
pub(super) fn too_late(cluster: &ClusterName, running: &OperationView) -> Refusal {
    refusal(
        "55000",
        format!(
            "the {} of cluster \"{cluster}\" cannot be aborted any more",
            running.kind
        ),
        Some("Its decision is being recorded, or the target was told to promote.".to_owned()),
        None,
    )
}

/// An operation's task died.
pub(super) fn broken(cluster: &ClusterName) -> Refusal {
    let message = format!("the operation on cluster \"{cluster}\" ended unexpectedly");
    let hint = "SHOW CLUSTERS tells which lead holds.".to_owned();
    refusal("XX000", message, None, Some(hint))
}

/// The lead cannot be taken out of service like that.
pub(super) fn is_lead(cluster: &ClusterName, node: &NodeName) -> Refusal {
    refusal(
        "55000",
        format!("node \"{node}\" is the lead of cluster \"{cluster}\""),
        None,
        Some(format!("SWITCHOVER {cluster} TO another node first.")),
    )
}

/// Until it is clear which decision holds.
pub(super) fn in_doubt(cluster: &ClusterName, why: &str) -> Refusal {
    refusal(
        "55000",
        format!("which node leads cluster \"{cluster}\" is not certain"),
        Some(why.to_owned()),
        Some(format!(
            "Decide: FAILOVER {cluster} TO the node that shall lead; (with ACCEPT LOSS if it is not the remembered one)"
        )),
    )
}

/// FAILOVER without a lead to fail over from.
pub(super) fn needs_accept_loss(cluster: &ClusterName, why: &str) -> Refusal {
    refusal(
        "55000",
        format!("cluster \"{cluster}\" has no lead that a target could be compared with"),
        Some(why.to_owned()),
        Some("FAILOVER with ACCEPT LOSS makes the node lead as it is.".to_owned()),
    )
}

/// ADD NODE under the name of a lead that is gone.
pub(super) fn is_recorded_lead(cluster: &ClusterName, node: &NodeName) -> Refusal {
    refusal(
        "55000",
        format!("node \"{node}\" is the recorded lead of cluster \"{cluster}\""),
        Some("Whichever server answers there would be lead at once.".to_owned()),
        Some(format!(
            "FAILOVER {cluster} TO another node ACCEPT LOSS; first."
        )),
    )
}

/// MAINTENANCE BEGIN of a node that an operator has fenced.
pub(super) fn is_fenced(node: &NodeName) -> Refusal {
    let message = format!("node \"{node}\" is set to fenced");
    refusal(
        "55000",
        message,
        None,
        Some(format!("READY {node}; first.")),
    )
}

/// A word that only makes sense in maintenance.
pub(super) fn not_in_maintenance(node: &NodeName) -> Refusal {
    let message = format!("node \"{node}\" is not in maintenance");
    refusal(
        "55000",
        message,
        None,
        Some(format!("READY {node}; makes a node serve.")),
    )
}

/// ADD NODE of one that is there.
pub(super) fn is_member(cluster: &ClusterName, node: &NodeName) -> Refusal {
    let message = format!("node \"{node}\" is a member of cluster \"{cluster}\" already");
    refusal("42710", message, None, None)
}

/// ADD NODE at the address of another.
pub(super) fn same_address(cluster: &ClusterName, other: &NodeName) -> Refusal {
    let message = format!("node \"{other}\" of cluster \"{cluster}\" has this address");
    refusal("42710", message, None, None)
}

/// One node of a cluster at a time.
pub(super) fn in_maintenance(cluster: &ClusterName, other: &NodeName) -> Refusal {
    refusal(
        "55006",
        format!("node \"{other}\" of cluster \"{cluster}\" is in maintenance"),
        Some("Only one node of a cluster may be in maintenance at a time.".to_owned()),
        Some(format!("MAINTENANCE END {other}; when it is done.")),
    )
}

/// Somebody lacks what the node wrote.
pub(super) fn not_handed_over(node: &NodeName, why: &str) -> Refusal {
    refusal(
        "55000",
        format!("it is not safe to stop node \"{node}\" yet"),
        Some(why.to_owned()),
        Some("It takes no new work. Repeat the command to go on waiting.".to_owned()),
    )
}

/// MAINTENANCE END of a node that is not fit.
pub(super) fn not_fit(node: &NodeName, why: &str) -> Refusal {
    let detail = (!why.is_empty()).then(|| why.to_owned());
    refusal(
        "55000",
        format!("node \"{node}\" is not fit to serve yet"),
        detail,
        Some("It stays in maintenance. SHOW NODES; tells how it goes on.".to_owned()),
    )
}

/// MAINTENANCE BEGIN of the lead whose switchover was given up.
pub(super) fn not_moved(
    cluster: &ClusterName,
    target: &NodeName,
    phase: &str,
    why: &str,
) -> Refusal {
    refusal(
        "55000",
        format!("the lead of cluster \"{cluster}\" could not be moved to \"{target}\""),
        Some(format!("Aborted in phase {phase}: {why}")),
        Some("Nothing was changed.".to_owned()),
    )
}

/// MAINTENANCE BEGIN of the only node that can lead.
pub(super) fn nobody_takes_over(cluster: &ClusterName, node: &NodeName) -> Refusal {
    refusal(
        "55000",
        format!("no other node of cluster \"{cluster}\" can take over from \"{node}\""),
        None,
        Some("SHOW NODES; tells why.".to_owned()),
    )
}

/// The operator's word could not be made durable.
pub(super) fn not_kept(why: &str) -> Refusal {
    let message = "the state could not be recorded".to_owned();
    refusal("58030", message, Some(why.to_owned()), None)
}

/// Preflight says no.
pub(super) fn refused(cluster: &ClusterName, plan: &Plan, why: &str) -> Refusal {
    let kind = plan.kind.name();
    let message = format!(
        "{kind} of cluster \"{cluster}\" to \"{}\" is refused",
        plan.to
    );
    refusal("55000", message, Some(why.to_owned()), None)
}

/// Unknown to this instance.
pub(super) fn no_such_cluster(cluster: &ClusterName) -> Refusal {
    refusal(
        "42704",
        format!("cluster \"{cluster}\" does not exist"),
        None,
        None,
    )
}

/// Unknown to this instance.
pub(super) fn no_such_node(node: &NodeName) -> Refusal {
    refusal(
        "42704",
        format!("node \"{node}\" does not exist"),
        None,
        None,
    )
}

/// The control plane is going down.
pub(super) fn gone() -> Refusal {
    refusal(
        "57P03",
        "the control plane is shutting down".to_owned(),
        None,
        None,
    )
}

/// With an empty detail left out.
pub(super) fn refusal(
    sqlstate: &'static str,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
) -> Refusal {
    let detail = detail.filter(|text| !text.is_empty());
    Refusal {
        sqlstate,
        message,
        detail,
        hint,
    }
}
