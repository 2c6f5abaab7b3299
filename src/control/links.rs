//! The links between two nodes, from what each of them told.

use super::facts::Sender;
use super::members::Member;
use super::replication::{Consumer, LinkKind};
use crate::cluster::LinkView;
use crate::lsn::Lsn;

/// State of a link that our role may not see (it lacks `pg_monitor`).
pub(super) const HIDDEN: &str = "hidden";

/// A slot at one node and a consumer at the other that names it.
pub(super) fn links_between(from: &Member, to: &Member) -> Vec<LinkView> {
    let (Some(origin), Some(target)) = (&from.facts, &to.facts) else {
        return Vec::new();
    };
    let mut links = Vec::new();
    for consumer in target.consumers.iter().flatten() {
        for sender in origin.senders.iter().filter(|s| belongs(s, consumer)) {
            links.push(link_view((from, to), consumer, sender, origin.lsn));
        }
    }
    links
}

fn belongs(sender: &Sender, consumer: &Consumer) -> bool {
    match &consumer.slot {
        Some(slot) => sender.slot.as_ref() == Some(slot),
        None => consumer.kind == LinkKind::Physical && sender.slot.is_none(),
    }
}

fn link_view(
    (from, to): (&Member, &Member),
    consumer: &Consumer,
    sender: &Sender,
    lsn: Option<Lsn>,
) -> LinkView {
    let behind = |earlier: Option<Lsn>| match (lsn, earlier) {
        (Some(lsn), Some(earlier)) => Some(lsn.bytes_since(earlier)),
        _ => None,
    };
    let state = match &sender.state {
        Some(state) => state.clone(),
        None if !consumer.enabled => "disabled".to_owned(),
        None if sender.active => HIDDEN.to_owned(),
        None => "disconnected".to_owned(),
    };
    LinkView {
        from: from.config.name.clone(),
        to: to.config.name.clone(),
        kind: consumer.kind.name(),
        slot: sender.slot.clone().unwrap_or_default(),
        state,
        sent_lsn: lsn,
        replay_lsn: sender.replay,
        lag_bytes: behind(sender.replay),
        retained_bytes: behind(sender.restart),
    }
}
