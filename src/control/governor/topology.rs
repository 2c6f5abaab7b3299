//! Which nodes a cluster has, and what is kept of them: operators' words, and who they are.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout};

use super::super::events::News;
use super::super::member::Member;
use super::super::record::{AddedNode, Membership, NodeRecord, wanted_word};
use super::super::{Refusal, handover, refusals};
use super::{Governor, RemovedNode, Reply};
use crate::cluster::{Observed, Wanted};
use crate::config::{Candidate, EventKind, NodeConfig, NodeName};

/// How long the disk may take.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at whether a node is empty.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Governor {
    /// The server that first answers at a node's address is that node from then on.
    pub(super) async fn keep_identities(&mut self) {
        let unknown = |m: &&Member| m.kept.identity.is_none() && m.identity().found.is_some();
        let Some(member) = self.members.nodes.iter().find(unknown) else {
            return;
        };
        let (node, found) = (member.config.name.clone(), member.identity().found);
        if let Err(refusal) = self.keep(&node, |kept| kept.identity = found).await {
            tracing::error!(%node, %refusal, "which server the node is could not be recorded");
            // Known for this life of the process at least; the next start asks again.
            if let Some(member) = self.members.get_mut(&node) {
                member.kept.identity = found;
            }
        }
    }

    /// Changes what is kept of a node: on disk first.
    async fn keep(
        &mut self,
        node: &NodeName,
        change: impl FnOnce(&mut NodeRecord),
    ) -> Result<(), Refusal> {
        let Some(member) = self.members.get(node) else {
            return Err(refusals::no_such_node(node));
        };
        let mut record = member.kept.clone();
        change(&mut record);
        self.store_node(node, record.clone()).await?;
        if let Some(member) = self.members.get_mut(node) {
            member.kept = record;
        }
        Ok(())
    }

    /// A store that hangs must not stop the watch over the cluster.
    async fn store_node(&self, node: &NodeName, record: NodeRecord) -> Result<(), Refusal> {
        let kept = timeout(
            STORE_PATIENCE,
            self.out.store.keep_node(node.clone(), record),
        );
        match kept.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(refusals::not_kept(&error.to_string())),
            Err(_) => Err(refusals::not_kept("the store does not answer")),
        }
    }

    fn leads(&self, node: &NodeName) -> bool {
        self.lead_name().as_ref() == Some(node)
    }

    /// A running operation's target must stay what it was when it was checked.
    fn not_the_target(&self, node: &NodeName) -> Result<(), Refusal> {
        match &self.running {
            Some(running) if running.view.target == *node => self.free(),
            _ => Ok(()),
        }
    }

    pub(super) async fn set_wanted(
        &mut self,
        node: &NodeName,
        wanted: Wanted,
    ) -> Result<(), Refusal> {
        if self.leads(node) && wanted != Wanted::Ready {
            return Err(refusals::is_lead(&self.members.config.name, node));
        }
        self.not_the_target(node)?;
        let found = self.members.get(node).and_then(|m| m.identity().found);
        // Whoever says READY has seen which server is there; but the lead's data is not a matter of
        // its address.
        let accepted = found.filter(|_| wanted == Wanted::Ready && !self.leads(node));
        let change = |kept: &mut NodeRecord| {
            kept.wanted = wanted;
            kept.identity = accepted.or(kept.identity);
            if wanted == Wanted::Ready {
                kept.maintenance_since = None;
            }
        };
        self.keep(node, change).await?;
        if wanted == Wanted::Ready
            && let Some(member) = self.members.get_mut(node)
        {
            member.beside_lead = false;
        }
        let text = format!("set to {} by an operator", wanted_word(wanted));
        self.tell(EventKind::NodeWanted, Some(node), true, text);
        self.judge_anew();
        Ok(())
    }

    /// States that depend on what is kept.
    pub(super) fn judge_anew(&mut self) {
        let (lead, now) = (self.lead_name(), self.now());
        let changes = self.members.judge(lead.as_ref(), now);
        self.tell_changes(&changes);
    }

    pub(super) async fn set_candidate(
        &mut self,
        node: &NodeName,
        candidate: Candidate,
    ) -> Result<(), Refusal> {
        if self.leads(node) && candidate == Candidate::Never {
            return Err(refusals::is_lead(&self.members.config.name, node));
        }
        self.not_the_target(node)?;
        self.keep(node, |kept| kept.candidate = Some(candidate))
            .await?;
        let text = format!("candidate = \"{candidate}\" by an operator");
        self.tell(
            EventKind::NodeEligible,
            Some(node),
            candidate != Candidate::Never,
            text,
        );
        Ok(())
    }

    pub(super) async fn add_node(
        &mut self,
        node: &NodeName,
        added: AddedNode,
    ) -> Result<(), Refusal> {
        let cluster = self.members.config.name.clone();
        if self.members.get(node).is_some() {
            return Err(refusals::is_member(&cluster, node));
        }
        if self.leads(node) {
            return Err(refusals::is_recorded_lead(&cluster, node));
        }
        let same = |m: &&Member| m.config.host == added.host && m.config.port == added.port;
        if let Some(other) = self.members.nodes.iter().find(same) {
            return Err(refusals::same_address(&cluster, other.name()));
        }
        let from_file = self.members.config.nodes.iter().find(|n| n.name == *node);
        let config = match from_file {
            // It was removed, and comes back.
            Some(config) if config.host == added.host && config.port == added.port => {
                Some(config.clone())
            }
            _ => NodeConfig::at(node, &added.host, added.port, added.priority),
        };
        let Some(config) = config else {
            return Err(refusals::not_kept("the node's settings are incomplete"));
        };
        let record = NodeRecord {
            membership: match from_file {
                Some(known) if *known == config => Membership::File,
                _ => Membership::Added(added.clone()),
            },
            ..NodeRecord::default()
        };
        self.store_node(node, record.clone()).await?;
        let member = Member::new(config, record);
        self.monitors.begin(&self.members.config, &member);
        self.members.nodes.push(member);
        let text = format!("added at {}:{}", added.host, added.port);
        self.tell(EventKind::NodeAdded, Some(node), true, text);
        Ok(())
    }

    /// The node is no member any more, whatever the file says, also after a restart. ADD NODE takes
    /// whichever server is there then.
    pub(super) async fn remove_node(&mut self, node: &NodeName) -> Result<RemovedNode, Refusal> {
        if self.leads(node) {
            return Err(refusals::is_lead(&self.members.config.name, node));
        }
        self.not_the_target(node)?;
        self.keep(node, |kept| kept.membership = Membership::Removed)
            .await?;
        let advice = handover::parting_advice(&self.members, node);
        self.monitors.end(node);
        self.members.nodes.retain(|m| m.name() != node);
        let text = "removed by an operator".to_owned();
        self.tell(EventKind::NodeRemoved, Some(node), true, text);
        Ok(RemovedNode { advice })
    }

    pub(super) async fn begin_maintenance(&mut self, node: &NodeName) -> Result<(), Refusal> {
        let cluster = self.members.config.name.clone();
        if self.leads(node) {
            return Err(refusals::is_lead(&cluster, node));
        }
        self.not_the_target(node)?;
        let others = self.members.nodes.iter().filter(|m| m.name() != node);
        if self
            .members
            .get(node)
            .is_some_and(|m| m.kept.wanted == Wanted::Fenced)
        {
            return Err(refusals::is_fenced(node));
        }
        let busy = others
            .filter(|m| m.kept.maintenance_since.is_some())
            .map(|m| m.config.name.clone())
            .next();
        if let Some(other) = busy {
            return Err(refusals::in_maintenance(&cluster, &other));
        }
        let change = |kept: &mut NodeRecord| {
            // Sessions leave at their safe points; out of service comes after that.
            kept.wanted = Wanted::Drain;
            kept.maintenance_since.get_or_insert_with(SystemTime::now);
        };
        self.keep(node, change).await?;
        let text = "no new work for the node".to_owned();
        self.tell(EventKind::MaintenanceBegun, Some(node), true, text);
        Ok(())
    }

    /// Asked beside the decisions: sessions take the time that they take.
    pub(super) fn wait_until_empty(&mut self, node: &NodeName, reply: Reply<usize>) {
        let (gates, node) = (Arc::clone(&self.out.gates), node.clone());
        let deadline = Instant::now() + self.members.config.drain_timeout;
        self.asides.spawn(async move {
            let left = loop {
                let left = gates.backend_pids(&node).len();
                if left == 0 || Instant::now() >= deadline {
                    break left;
                }
                sleep(LOOK_AGAIN).await;
            };
            let _ = reply.send(Ok(left));
        });
    }

    /// Asked beside the decisions: it may take as long as replication takes.
    pub(super) fn hand_over(
        &mut self,
        node: &NodeName,
        limit: Duration,
        reply: Reply<Vec<NodeName>>,
    ) {
        let Some(member) = self.members.get(node) else {
            drop(reply.send(Err(refusals::no_such_node(node))));
            return;
        };
        let up = |m: &&Member| m.name() != node && m.health.observed() == Observed::Up;
        let others = self.members.nodes.iter().filter(up);
        let others = others.map(|m| m.config.clone()).collect();
        let (config, node) = (Arc::clone(&self.members.config), member.config.clone());
        let journal = self.out.journal.clone();
        self.asides.spawn(async move {
            let done = Box::pin(handover::everything(&config, &node, others, limit)).await;
            let done = done.map_err(|why| refusals::not_handed_over(&node.name, &why));
            if let Ok(followers) = &done {
                let names: Vec<&str> = followers.iter().map(NodeName::as_str).collect();
                let detail = match names.as_slice() {
                    [] => "nobody reads from it: it can be stopped".to_owned(),
                    names => format!(
                        "all that it wrote is on {}: it can be stopped",
                        names.join(", ")
                    ),
                };
                journal.tell(News {
                    cluster: Some(config.name.clone()),
                    node: Some(node.name.clone()),
                    kind: EventKind::MaintenanceSafe,
                    success: true,
                    detail,
                });
            }
            let _ = reply.send(done);
        });
    }

    /// What was seen before the command may be of the node as it was before it was stopped.
    pub(super) async fn end_maintenance(
        &mut self,
        node: &NodeName,
        asked: Instant,
    ) -> Result<Option<String>, Refusal> {
        let asked = asked.saturating_duration_since(self.process_began);
        let lead = self.lead_name();
        let Some(member) = self.members.get(node) else {
            return Err(refusals::no_such_node(node));
        };
        if self.leads(node) || member.kept.maintenance_since.is_none() {
            return Err(refusals::not_in_maintenance(node));
        }
        let mut needed = self.members.nodes.iter();
        let unseen = needed.find(|m| {
            let needed = m.name() == node || lead.as_ref() == Some(m.name());
            needed && !m.answered_since(asked)
        });
        if let Some(unseen) = unseen {
            unseen.kick.ring();
            let (name, why) = (unseen.name(), &unseen.reason);
            return Ok(Some(format!("\"{name}\" does not answer: {why}")));
        }
        let identity = member.identity();
        if identity.found.is_some() && identity.found != identity.recorded {
            // Whichever server answers there is the node: an upgrade makes a new one.
            self.keep(node, |kept| kept.identity = identity.found)
                .await?;
        }
        if let Some(member) = self.members.get_mut(node) {
            member.beside_lead = false;
        }
        self.judge_anew();
        let unfit = |m: &&Member| m.observed != Observed::Up || m.fence.is_some();
        if let Some(member) = self.members.get(node).filter(unfit) {
            return Ok(Some(member.reason.clone()));
        }
        let change = |kept: &mut NodeRecord| {
            kept.wanted = Wanted::Ready;
            kept.maintenance_since = None;
        };
        self.keep(node, change).await?;
        let text = "the node is fit again".to_owned();
        self.tell(EventKind::MaintenanceEnded, Some(node), true, text);
        Ok(None)
    }
}
