//! The links between nodes and the slots on them, put together from what each node told. Pure.

use super::bdr::BdrSlot;
use super::facts::{NodeFacts, Sender};
use super::lag::written;
use super::member::Member;
use super::replication::{Consumer, LinkKind};
use crate::cluster::{BdrView, LinkView, SlotOwner, SlotView};
use crate::lsn::Lsn;

/// State of a link that our role may not see (it lacks `pg_monitor`).
pub(super) const HIDDEN: &str = "hidden";

/// All links between the nodes, each direction for itself.
pub(super) fn links(nodes: &[Member]) -> Vec<LinkView> {
    let pairs = nodes
        .iter()
        .flat_map(|from| nodes.iter().map(move |to| (from, to)));
    pairs
        .filter(|(from, to)| from.config.name != to.config.name)
        .flat_map(|(from, to)| links_between(from, to))
        .collect()
}

/// A slot at one node and a consumer at the other that reads from it.
pub(super) fn links_between(from: &Member, to: &Member) -> Vec<LinkView> {
    let (Some(origin), Some(target)) = (&from.facts, &to.facts) else {
        return Vec::new();
    };
    let mut links = Vec::new();
    for consumer in target.consumers.iter().flatten() {
        for sender in origin.senders.iter().filter(|s| feeds(s, origin, consumer)) {
            links.push(link_view((from, to), consumer, sender, origin.lsn));
        }
    }
    links
}

fn feeds(sender: &Sender, origin: &NodeFacts, consumer: &Consumer) -> bool {
    match (consumer.kind, &consumer.slot) {
        (LinkKind::Bdr, _) => {
            let (from, to) = (origin.bdr.as_ref(), consumer.node.as_ref());
            let asked = consumer.origin.as_ref();
            from.is_some_and(|node| asked.is_none_or(|name| *name == node.name))
                && to.is_some_and(|name| sender.bdr == Some(BdrSlot::Peer(name.clone())))
        }
        (_, Some(slot)) => sender.slot.as_ref() == Some(slot),
        (kind, None) => kind == LinkKind::Physical && sender.slot.is_none(),
    }
}

fn link_view(
    (from, to): (&Member, &Member),
    consumer: &Consumer,
    sender: &Sender,
    lsn: Option<Lsn>,
) -> LinkView {
    let logical = consumer.kind != LinkKind::Physical;
    let replay = match to.facts.as_ref() {
        // A standby's own word, while the origin does not hear from it; and always without a slot,
        // when the row may be another standby's.
        Some(facts) if !logical && (sender.replay.is_none() || sender.slot.is_none()) => facts.lsn,
        _ => sender.replay,
    };
    LinkView {
        from: from.config.name.clone(),
        to: to.config.name.clone(),
        kind: consumer.kind.name(),
        slot: sender.slot.clone().unwrap_or_default(),
        state: state(sender, consumer, to.facts.as_ref()),
        sent_lsn: sender.sent,
        replay_lsn: replay,
        lag_bytes: distance(lsn.map(written), replay),
        retained_bytes: distance(lsn, sender.restart),
        behind: from.positions.behind(replay),
        origin_lsn: lsn,
        write_lsn: sender.write,
        flush_lsn: sender.flush,
        slot_type: sender.slot_type.clone(),
        active: sender.active,
        wal_status: sender.wal_status.clone(),
        safe_wal_bytes: safe_wal(sender),
        subscription: consumer.subscription.clone(),
        enabled: logical.then_some(consumer.enabled),
        pending_tables: match consumer.kind {
            LinkKind::Logical | LinkKind::Pglogical => u64::try_from(consumer.pending_tables).ok(),
            LinkKind::Physical | LinkKind::Bdr => None,
        },
        apply_errors: consumer.stats.apply_errors,
        sync_errors: consumer.stats.sync_errors,
        conflicts: consumer.stats.conflicts,
    }
}

fn state(sender: &Sender, consumer: &Consumer, target: Option<&NodeFacts>) -> String {
    let bdr = target.and_then(|facts| facts.bdr.as_ref());
    let joining =
        bdr.is_some_and(|node| matches!(node.state.as_str(), "JOIN_START" | "JOINING" | "CATCHUP"));
    let copying = joining || consumer.pending_tables > 0;
    match sender.state.as_deref() {
        Some("streaming" | "catchup") if copying => "copying",
        Some(state) => state,
        None if !consumer.enabled => "disabled",
        None if sender.sends => HIDDEN,
        None => "disconnected",
    }
    .to_owned()
}

fn distance(later: Option<Lsn>, earlier: Option<Lsn>) -> Option<u64> {
    Some(later?.bytes_since(earlier?))
}

fn safe_wal(sender: &Sender) -> Option<u64> {
    sender
        .safe_wal
        .map(|bytes| u64::try_from(bytes).unwrap_or(0))
}

/// All slots of all nodes.
pub(super) fn slots(nodes: &[Member]) -> Vec<SlotView> {
    let mut slots = Vec::new();
    for member in nodes {
        let Some(facts) = &member.facts else {
            continue;
        };
        for sender in &facts.senders {
            let Some(slot) = &sender.slot else {
                continue;
            };
            slots.push(SlotView {
                node: member.config.name.clone(),
                slot: slot.clone(),
                owner: owner(sender, member, facts, nodes),
                slot_type: sender.slot_type.clone(),
                plugin: sender.plugin.clone(),
                database: sender.database.clone(),
                temporary: sender.temporary,
                active: sender.active,
                restart_lsn: sender.restart,
                confirmed_lsn: sender.confirmed,
                retained_bytes: distance(facts.lsn, sender.restart),
                wal_status: sender.wal_status.clone(),
                safe_wal_bytes: safe_wal(sender),
            });
        }
    }
    slots
}

fn owner(sender: &Sender, at: &Member, origin: &NodeFacts, nodes: &[Member]) -> SlotOwner {
    let others = || nodes.iter().filter(|m| m.config.name != at.config.name);
    let reads = |member: &&Member| {
        let consumers = member
            .facts
            .iter()
            .flat_map(|f| f.consumers.iter().flatten());
        consumers.into_iter().any(|c| feeds(sender, origin, c))
    };
    if let Some(member) = others().find(reads) {
        return SlotOwner::Member(member.config.name.clone());
    }
    let tells = |m: &Member| m.facts.as_ref().is_some_and(|f| f.consumers.is_some());
    match &sender.bdr {
        Some(BdrSlot::Peer(name)) => SlotOwner::Bdr(format!("bdr node {name}")),
        Some(BdrSlot::Group) => SlotOwner::Bdr("bdr group".to_owned()),
        Some(BdrSlot::Decoder) => SlotOwner::Bdr("bdr decoder".to_owned()),
        None if others().all(tells) => SlotOwner::Foreign,
        None => SlotOwner::Unknown,
    }
}

/// A node as BDR has it.
pub(super) fn bdr_view(facts: &NodeFacts) -> Option<BdrView> {
    let node = facts.bdr.as_ref()?;
    Some(BdrView {
        name: node.name.clone(),
        kind: node.kind.clone(),
        state: node.state.clone(),
        raft: node.raft.as_ref().map(|raft| raft.state.clone()),
        has_raft_leader: node.raft.as_ref().map(|raft| raft.has_leader),
    })
}
