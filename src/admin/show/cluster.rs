//! Our tables: clusters, nodes, replication, operations, events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Console;
use super::super::operation::summary;
use super::{Col, int4, int8, maybe, millis, seconds, signed, text};
use crate::civil::utc;
use crate::cluster::{
    BdrView, ClusterView, LinkView, NodeView, Observed, Role, SlotOwner, SlotView, Wanted,
};
use crate::config::{Candidate, NodeName};
use crate::control::{Event, Outcome, Report, Step};

type View = Arc<ClusterView>;

pub(super) const CLUSTERS: &[Col<View>] = &[
    text("cluster", |c| c.name.to_string()),
    maybe("lead", |c| c.lead.as_ref().map(NodeName::to_string)),
    int8("epoch", |c| Some(c.epoch.0)),
    maybe("lead_since", |c| c.lead_since.map(utc)),
    text("lead_reason", |c| c.lead_reason.clone()),
    maybe("previous", |c| c.previous.as_ref().map(NodeName::to_string)),
    int4("nodes", |c| c.nodes.len() as u64),
    int4("nodes_up", |c| {
        let up = |node: &&NodeView| node.observed == Observed::Up;
        c.nodes.iter().filter(up).count() as u64
    }),
    maybe("operation", |c| {
        c.operation.as_ref().map(|o| o.kind.to_owned())
    }),
    maybe("phase", |c| {
        c.operation.as_ref().map(|o| o.phase.to_owned())
    }),
    maybe("target", |c| {
        c.operation.as_ref().map(|o| o.target.to_string())
    }),
    maybe("operation_since", |c| {
        c.operation.as_ref().map(|o| utc(o.since))
    }),
    text("clients", |c| c.clients.to_owned()),
    text("why", |c| c.clients_why.clone()),
];

pub(super) fn clusters(console: &Console) -> Vec<View> {
    console.control.views()
}

/// A node in its cluster.
pub(super) struct Node {
    pub(super) cluster: View,
    pub(super) view: NodeView,
}

impl Node {
    /// The link from the lead to this node.
    fn link_from_lead(&self) -> Option<&LinkView> {
        let lead = self.cluster.lead.as_ref()?;
        let mut links = self.cluster.links.iter();
        links.find(|link| link.from == *lead && link.to == self.view.name)
    }

    fn bdr(&self, get: impl FnOnce(&BdrView) -> Option<String>) -> Option<String> {
        self.view.bdr.as_ref().and_then(get)
    }
}

pub(super) const NODES: &[Col<Node>] = &[
    text("node", |n| n.view.name.to_string()),
    text("cluster", |n| n.cluster.name.to_string()),
    text("host", |n| n.view.host.clone()),
    int4("port", |n| u64::from(n.view.port)),
    text("role", |n| {
        match n.view.role {
            Role::Lead => "lead",
            Role::Shadow => "shadow",
            Role::Standby => "standby",
        }
        .to_owned()
    }),
    text("wanted", |n| {
        match n.view.wanted {
            Wanted::Ready => "ready",
            Wanted::Drain => "drain",
            Wanted::Maint => "maint",
            Wanted::Fenced => "fenced",
        }
        .to_owned()
    }),
    text("observed", |n| {
        match n.view.observed {
            Observed::Unknown => "unknown",
            Observed::Up => "up",
            Observed::Down => "down",
            Observed::Recovering => "recovering",
        }
        .to_owned()
    }),
    text("since", |n| utc(n.view.since)),
    int8("lag_bytes", |n| {
        n.link_from_lead().and_then(|link| link.lag_bytes)
    }),
    maybe("lsn", |n| n.view.lsn.map(|lsn| lsn.to_string())),
    text("reason", |n| n.view.reason.clone()),
    text("replication", |n| {
        n.link_from_lead()
            .map_or_else(String::new, |link| link.state.clone())
    }),
    int8("probe_us", |n| n.view.probe_us),
    signed("priority", |n| n.view.priority),
    text("candidate", |n| {
        match n.view.candidate {
            Candidate::Auto => "auto",
            Candidate::Manual => "manual",
            Candidate::Never => "never",
        }
        .to_owned()
    }),
    maybe("in_recovery", |n| {
        n.view
            .in_recovery
            .map(|yes| if yes { "yes" } else { "no" }.to_owned())
    }),
    maybe("server_version", |n| {
        n.view.server_version.map(|number| number.to_string())
    }),
    maybe("system_identifier", |n| {
        n.view.system_identifier.map(|id| id.to_string())
    }),
    seconds("lag_seconds", |n| {
        n.link_from_lead()
            .and_then(|link| link.behind.age(Instant::now()))
    }),
    maybe("kind", |n| n.bdr(|bdr| Some(bdr.kind.clone()))),
    maybe("bdr_node", |n| n.bdr(|bdr| Some(bdr.name.clone()))),
    maybe("bdr_state", |n| n.bdr(|bdr| Some(bdr.state.clone()))),
    maybe("raft_state", |n| n.bdr(|bdr| bdr.raft.clone())),
    maybe("raft_has_leader", |n| {
        n.bdr(|bdr| bdr.has_raft_leader.map(yes_no))
    }),
    text("condition", |n| n.view.condition.to_owned()),
    maybe("fence", |n| n.view.fence.clone()),
    maybe("maintenance_since", |n| n.view.maintenance_since.map(utc)),
];

pub(super) fn nodes(console: &Console) -> Vec<Node> {
    let mut nodes = Vec::new();
    for cluster in console.control.views() {
        nodes.extend(cluster.nodes.iter().map(|view| Node {
            cluster: Arc::clone(&cluster),
            view: view.clone(),
        }));
    }
    nodes
}

/// One direction of replication, and the cluster it is in.
pub(super) struct Link {
    pub(super) cluster: String,
    pub(super) view: LinkView,
}

pub(super) const REPLICATION: &[Col<Link>] = &[
    text("cluster", |l| l.cluster.clone()),
    text("source", |l| l.view.from.to_string()),
    text("target", |l| l.view.to.to_string()),
    text("kind", |l| l.view.kind.to_owned()),
    text("slot", |l| l.view.slot.clone()),
    text("state", |l| l.view.state.clone()),
    maybe("sent_lsn", |l| l.view.sent_lsn.map(|lsn| lsn.to_string())),
    maybe("replay_lsn", |l| {
        l.view.replay_lsn.map(|lsn| lsn.to_string())
    }),
    int8("lag_bytes", |l| l.view.lag_bytes),
    int8("retained_bytes", |l| l.view.retained_bytes),
    seconds("lag_seconds", |l| l.view.behind.age(Instant::now())),
    maybe("origin_lsn", |l| {
        l.view.origin_lsn.map(|lsn| lsn.to_string())
    }),
    maybe("write_lsn", |l| l.view.write_lsn.map(|lsn| lsn.to_string())),
    maybe("flush_lsn", |l| l.view.flush_lsn.map(|lsn| lsn.to_string())),
    maybe("slot_type", |l| l.view.slot_type.clone()),
    text("active", |l| yes_no(l.view.active)),
    maybe("wal_status", |l| l.view.wal_status.clone()),
    int8("safe_wal_bytes", |l| l.view.safe_wal_bytes),
    text("subscription", |l| l.view.subscription.clone()),
    maybe("enabled", |l| l.view.enabled.map(yes_no)),
    int8("pending_tables", |l| l.view.pending_tables),
    int8("apply_errors", |l| l.view.apply_errors),
    int8("sync_errors", |l| l.view.sync_errors),
    int8("conflicts", |l| l.view.conflicts),
];

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

pub(super) fn replication(console: &Console) -> Vec<Link> {
    let mut links = Vec::new();
    for cluster in console.control.views() {
        links.extend(cluster.links.iter().map(|view| Link {
            cluster: cluster.name.to_string(),
            view: view.clone(),
        }));
    }
    links
}

/// A slot of a node, and the cluster it is in.
pub(super) struct Slot {
    pub(super) cluster: String,
    pub(super) view: SlotView,
}

pub(super) const SLOTS: &[Col<Slot>] = &[
    text("cluster", |s| s.cluster.clone()),
    text("node", |s| s.view.node.to_string()),
    text("slot", |s| s.view.slot.clone()),
    maybe("owner", |s| match &s.view.owner {
        SlotOwner::Member(name) => Some(name.to_string()),
        SlotOwner::Bdr(what) => Some(what.clone()),
        SlotOwner::Foreign => Some("foreign".to_owned()),
        SlotOwner::Unknown => None,
    }),
    maybe("slot_type", |s| s.view.slot_type.clone()),
    maybe("plugin", |s| s.view.plugin.clone()),
    maybe("database", |s| s.view.database.clone()),
    text("temporary", |s| yes_no(s.view.temporary)),
    text("active", |s| yes_no(s.view.active)),
    maybe("restart_lsn", |s| {
        s.view.restart_lsn.map(|lsn| lsn.to_string())
    }),
    maybe("confirmed_lsn", |s| {
        s.view.confirmed_lsn.map(|lsn| lsn.to_string())
    }),
    int8("retained_bytes", |s| s.view.retained_bytes),
    maybe("wal_status", |s| s.view.wal_status.clone()),
    int8("safe_wal_bytes", |s| s.view.safe_wal_bytes),
];

pub(super) fn slots(console: &Console) -> Vec<Slot> {
    let mut slots = Vec::new();
    for cluster in console.control.views() {
        slots.extend(cluster.slots.iter().map(|view| Slot {
            cluster: cluster.name.to_string(),
            view: view.clone(),
        }));
    }
    slots
}

/// A phase of an operation, or its total.
pub(in crate::admin) struct Phase {
    name: &'static str,
    took: Duration,
    detail: String,
}

/// What SWITCHOVER and FAILOVER answer.
pub(in crate::admin) const PHASES: &[Col<Phase>] = &[
    text("phase", |p| p.name.to_owned()),
    millis("ms", |p| p.took),
    text("detail", |p| p.detail.clone()),
];

/// The phases, then their sum with the summary beside it.
pub(in crate::admin) fn phases(report: &Report) -> Vec<Phase> {
    let phase = |(name, took): &(&'static str, Duration)| Phase {
        name,
        took: *took,
        detail: String::new(),
    };
    let total = Phase {
        name: "total",
        took: report.phases.iter().map(|(_, took)| *took).sum(),
        detail: summary(report),
    };
    report.phases.iter().map(phase).chain([total]).collect()
}

/// A phase of the running or the last operation of a cluster.
pub(super) struct Operation {
    report: Arc<Report>,
    phase: Phase,
}

pub(super) const SWITCHOVER: &[Col<Operation>] = &[
    text("cluster", |o| o.report.cluster.to_string()),
    text("operation", |o| o.report.kind.to_owned()),
    maybe("source", |o| {
        o.report.from.as_ref().map(NodeName::to_string)
    }),
    text("target", |o| o.report.to.to_string()),
    int8("epoch", |o| Some(o.report.epoch.0)),
    text("started", |o| utc(o.report.started)),
    text("outcome", |o| outcome(&o.report).to_owned()),
    text("phase", |o| o.phase.name.to_owned()),
    millis("ms", |o| o.phase.took),
    text("detail", |o| o.phase.detail.clone()),
];

pub(super) fn operations(console: &Console) -> Vec<Operation> {
    let mut rows = Vec::new();
    for report in console.control.operations() {
        let report = Arc::new(report);
        rows.extend(phases(&report).into_iter().map(|phase| Operation {
            report: Arc::clone(&report),
            phase,
        }));
    }
    rows
}

fn outcome(report: &Report) -> &'static str {
    match report.outcome {
        Outcome::Running { .. } => "running",
        Outcome::Completed => "completed",
        Outcome::Aborted { .. } => "aborted",
    }
}

/// A line of `DRY RUN`.
pub(in crate::admin) struct Finding {
    pub(in crate::admin) level: &'static str,
    pub(in crate::admin) text: String,
}

/// What `SWITCHOVER ... DRY RUN` answers.
pub(in crate::admin) const FINDINGS: &[Col<Finding>] = &[
    text("level", |f| f.level.to_owned()),
    text("finding", |f| f.text.clone()),
];

/// What MAINTENANCE answers.
pub(in crate::admin) const STEPS: &[Col<Step>] = &[
    text("step", |s| s.name.to_owned()),
    text("detail", |s| s.detail.clone()),
];

/// What REMOVE NODE answers.
pub(in crate::admin) const ADVICE: &[Col<(NodeName, String)>] = &[
    text("node", |a| a.0.to_string()),
    text("sql", |a| a.1.clone()),
];

pub(super) const EVENTS: &[Col<Event>] = &[
    int8("id", |e| Some(e.id)),
    text("time", |e| utc(e.time)),
    maybe("cluster", |e| e.cluster.as_ref().map(ToString::to_string)),
    maybe("node", |e| e.node.as_ref().map(NodeName::to_string)),
    text("type", |e| e.kind.to_string()),
    text("success", |e| {
        if e.success { "yes" } else { "no" }.to_owned()
    }),
    text("detail", |e| e.detail.clone()),
];

pub(super) fn events(console: &Console) -> Vec<Event> {
    console.control.events()
}
