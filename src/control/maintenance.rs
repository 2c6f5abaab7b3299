//! Rolling upgrades: takes a node out of service so that it can be stopped, and takes it back when it
//! is fit again. Each step is one that an operator could say by hand.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::governor::Command;
use super::{Handle, Refusal, SwitchoverRequest, refusals};
use crate::cluster::{NodeView, Observed, Role, Wanted};
use crate::config::{Candidate, ClusterName, NodeName};

/// How long a node may take to be fit again, and to hand over what it wrote, where the command does
/// not say.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// In a word or two.
    pub name: &'static str,
    /// What it came to.
    pub detail: String,
}

/// What was done, in order; the last step says that it is over.
pub type Steps = Vec<Step>;

impl Handle {
    /// MAINTENANCE BEGIN: when it returns, the node can be stopped: it does not lead, gets no work,
    /// and every other member that is up has all that it wrote.
    pub async fn begin_maintenance(
        &self,
        node: &NodeName,
        limit: Option<Duration>,
    ) -> Result<Steps, Refusal> {
        let cluster = self.cluster_of(node)?;
        let mut steps = Steps::new();
        // Before the lead is moved for it.
        if let Some(other) = self.in_maintenance(&cluster, node) {
            return Err(refusals::in_maintenance(&cluster, &other));
        }
        if self.leads(&cluster, node) {
            let target = self.successor(&cluster, node)?;
            let request = SwitchoverRequest {
                target: target.clone(),
                drain_timeout: None,
                catchup_timeout: None,
                on_drain_timeout: None,
            };
            let report = self.switchover(&cluster, request).await?;
            if let super::Outcome::Aborted { phase, why } = &report.outcome {
                return Err(refusals::not_moved(&cluster, &target, phase, why));
            }
            steps.push(Step {
                name: "switchover",
                detail: format!("lead {node} -> {target}, epoch {}", report.epoch),
            });
        }
        let named = node.clone();
        self.ask(&cluster, |reply| Command::BeginMaintenance(named, reply))
            .await?;
        let named = node.clone();
        let left = self
            .ask(&cluster, |reply| Command::Emptied(named, reply))
            .await?;
        self.set_wanted(node, Wanted::Maint).await?;
        steps.push(Step {
            name: "maintenance",
            detail: match left {
                0 => format!("{node} gets no work"),
                left => format!("{node} gets no work; {left} sessions there were ended"),
            },
        });
        let (named, limit) = (node.clone(), limit.unwrap_or(PATIENCE));
        let done = self
            .ask(&cluster, |reply| Command::HandedOver(named, limit, reply))
            .await?;
        let followers: Vec<&str> = done.iter().map(NodeName::as_str).collect();
        steps.push(Step {
            name: "handed over",
            detail: match followers.as_slice() {
                [] => format!("nobody reads from {node}"),
                followers => format!("{} has all that {node} wrote", followers.join(", ")),
            },
        });
        steps.push(Step {
            name: "safe",
            detail: format!("{node} can be stopped; MAINTENANCE END {node}; when it is back"),
        });
        Ok(steps)
    }

    /// MAINTENANCE END: returns when the node is up again, replicates both ways and has caught up.
    /// Whichever server answers at its address is the node from now on (an upgrade makes a new one).
    pub async fn end_maintenance(
        &self,
        node: &NodeName,
        limit: Option<Duration>,
    ) -> Result<Steps, Refusal> {
        let cluster = self.cluster_of(node)?;
        let asked = Instant::now();
        let deadline = asked + limit.unwrap_or(PATIENCE);
        loop {
            let named = node.clone();
            let missing = self
                .ask(&cluster, |reply| {
                    Command::EndMaintenance(named, asked, reply)
                })
                .await?;
            match missing {
                None => break,
                Some(why) if Instant::now() >= deadline => {
                    return Err(refusals::not_fit(node, &why));
                }
                Some(_) => sleep(POLL).await,
            }
        }
        Ok(vec![Step {
            name: "ready",
            detail: format!("{node} is up, replicates and has caught up"),
        }])
    }

    fn in_maintenance(&self, cluster: &ClusterName, but: &NodeName) -> Option<NodeName> {
        let views = self.views();
        let view = views.iter().find(|view| view.name == *cluster)?;
        let mut others = view.nodes.iter().filter(|n| n.name != *but);
        let found = others.find(|n| n.maintenance_since.is_some())?;
        Some(found.name.clone())
    }

    fn leads(&self, cluster: &ClusterName, node: &NodeName) -> bool {
        let views = self.views();
        let view = views.iter().find(|view| view.name == *cluster);
        view.is_some_and(|view| view.lead.as_ref() == Some(node))
    }

    /// The shadow of highest priority that is fit.
    fn successor(&self, cluster: &ClusterName, lead: &NodeName) -> Result<NodeName, Refusal> {
        let views = self.views();
        let nodes = views
            .iter()
            .filter(|view| view.name == *cluster)
            .flat_map(|view| &view.nodes);
        let able = nodes.filter(|n| {
            n.role == Role::Shadow
                && n.candidate == Candidate::Auto
                && n.wanted == Wanted::Ready
                && is_fit(n)
        });
        able.max_by_key(|n| n.priority)
            .map(|n| n.name.clone())
            .ok_or_else(|| refusals::nobody_takes_over(cluster, lead))
    }
}

fn is_fit(node: &NodeView) -> bool {
    node.observed == Observed::Up && node.fence.is_none()
}
