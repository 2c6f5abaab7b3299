//! From a console's words to a plan, or the refusal that it meets before anything is asked of a
//! node. Pure.

use std::sync::Arc;

use super::failover::{Accept, Terms};
use super::health::Now;
use super::member::Member;
use super::members::Members;
use super::record::{Record, wanted_word};
use super::refusals::refusal;
use super::switchover::{Kind, Limits, Plan};
use super::{Refusal, SwitchoverRequest};
use crate::cluster::{Epoch, Observed, Wanted};
use crate::config::{Candidate, ClusterConfig, NodeName, OnDrainTimeout};

/// Old and new lead of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'a> {
    /// The lead by record.
    pub from: &'a Member,
    /// The target.
    pub to: &'a Member,
    /// The epoch that holds.
    pub epoch: Epoch,
}

/// Who takes part, if the target may be lead at all.
pub(super) fn parties<'a>(
    members: &'a Members,
    record: Option<&Record>,
    target: &NodeName,
) -> Result<Chosen<'a>, Refusal> {
    let cluster = &members.config.name;
    let state = |message, detail| refusal("55000", message, detail, None);
    let to = member(members, target)?;
    let Some((record, from)) = record.and_then(|r| members.get(&r.node).map(|from| (r, from)))
    else {
        let message = format!("cluster \"{cluster}\" has no lead yet");
        return Err(state(message, None));
    };
    if from.config.name == *target {
        return Err(state(
            format!("node \"{target}\" is the lead already"),
            None,
        ));
    }
    may_lead(to)?;
    Ok(Chosen {
        from,
        to,
        epoch: record.epoch,
    })
}

fn member<'a>(members: &'a Members, node: &NodeName) -> Result<&'a Member, Refusal> {
    members.get(node).ok_or_else(|| {
        let cluster = &members.config.name;
        let message = format!("node \"{node}\" is not a member of cluster \"{cluster}\"");
        refusal("42704", message, None, None)
    })
}

/// Can the node be made lead just as it is? Nothing is promoted and nothing waited for.
pub(super) fn can_be_appointed(members: &Members, target: &NodeName) -> Result<(), Refusal> {
    let to = member(members, target)?;
    may_lead(to)?;
    let facts = to.facts.as_ref();
    if facts.is_none_or(|f| f.in_recovery || f.read_only) {
        let message = format!("node \"{target}\" takes no writes");
        return Err(refusal("55000", message, Some(to.reason.clone()), None));
    }
    Ok(())
}

/// May it become lead at all, and is it up?
fn may_lead(to: &Member) -> Result<(), Refusal> {
    let target = to.name();
    if to.candidate() == Candidate::Never {
        let detail = "It is configured with candidate = \"never\".".to_owned();
        let message = format!("node \"{target}\" must not become lead");
        let hint = format!("SET NODE {target} ELIGIBLE; once it is a full member.");
        return Err(refusal("55000", message, Some(detail), Some(hint)));
    }
    if let Some(why) = &to.fence {
        let message = format!("node \"{target}\" is fenced");
        let detail = format!("It is fenced since {why}.");
        return Err(refusal("55000", message, Some(detail), None));
    }
    let wanted = to.kept.wanted;
    if wanted != Wanted::Ready {
        let message = format!("node \"{target}\" is set to {}", wanted_word(wanted));
        return Err(refusal(
            "55000",
            message,
            None,
            Some(format!("READY {target}; first.")),
        ));
    }
    if to.health.observed() != Observed::Up {
        let message = format!("node \"{target}\" is not up");
        return Err(refusal("55000", message, Some(to.reason.clone()), None));
    }
    Ok(())
}

/// The plan of a switchover; what the console did not say comes from the configuration.
pub(super) fn switchover_plan(
    chosen: &Chosen<'_>,
    config: &ClusterConfig,
    request: &SwitchoverRequest,
) -> Result<Plan, Refusal> {
    if !chosen.from.is_usable_lead() {
        let from = &chosen.from.config.name;
        return Err(refusal(
            "55000",
            format!("lead \"{from}\" is not available"),
            Some(chosen.from.reason.clone()),
            Some("Use FAILOVER if it does not come back.".to_owned()),
        ));
    }
    if let Some(why) = &chosen.to.flapping {
        let to = &chosen.to.config.name;
        let message = format!("node \"{to}\" is flapping");
        return Err(refusal("55000", message, Some(why.clone()), None));
    }
    let mut plan = plan(chosen, config, Kind::Switchover);
    plan.on_drain_timeout = request.on_drain_timeout.unwrap_or(config.on_drain_timeout);
    plan.limits.drain = request.drain_timeout.unwrap_or(config.drain_timeout);
    plan.limits.catchup = request.catchup_timeout.unwrap_or(config.catchup_timeout);
    Ok(plan)
}

/// The plan of a failover.
pub(super) fn failover_plan(chosen: &Chosen<'_>, config: &ClusterConfig) -> Plan {
    plan(chosen, config, Kind::Failover)
}

fn plan(chosen: &Chosen<'_>, config: &ClusterConfig, kind: Kind) -> Plan {
    let defaults = Limits::default();
    Plan {
        kind,
        from: chosen.from.config.name.clone(),
        to: chosen.to.config.name.clone(),
        epoch: Epoch(chosen.epoch.0 + 1),
        on_drain_timeout: OnDrainTimeout::Abort,
        limits: Limits {
            // A silent lead is asked `fall` times, and each step of a probe may take its deadline.
            preflight: defaults.preflight
                + (config.monitor_connect_timeout
                    + config.monitor_login_timeout
                    + config.monitor_timeout)
                    * config.fall,
            drain: config.drain_timeout,
            catchup: config.catchup_timeout,
            ..defaults
        },
    }
}

/// What a failover needs to know.
/// `alive`: when sessions on the lead were last seen to be answered.
pub(super) fn terms(
    chosen: &Chosen<'_>,
    members: &Members,
    accept: Accept,
    alive: Option<Now>,
) -> Terms {
    let (from, to) = (&chosen.from.config, &chosen.to.config);
    Terms {
        config: Arc::clone(&members.config),
        from: from.clone(),
        to: to.clone(),
        accept,
        last: members.last_seen(&from.name, &to.name, alive),
    }
}
