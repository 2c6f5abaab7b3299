//! Preflight of a failover: is the lead really down, is the target fit, what may be lost.

use std::sync::Arc;

use super::applied::applied_so_far;
use super::health::Seen;
use super::monitor::probe;
use super::node_link::NodeLink;
use super::preflight::open;
use super::replication::{Consumer, LinkKind, consumers, received};
use super::switchover::{Findings, Promotion};
use crate::config::{ClusterConfig, NodeConfig, Promote};
use crate::lsn::Lsn;

/// What was known of the lead and of the link to the target before.
#[derive(Debug, Clone, Default)]
pub(super) struct LastSeen {
    /// The lead's position at the last probe that it answered.
    pub lead_lsn: Option<Lsn>,
    /// What the target had confirmed then.
    pub confirmed: Option<Lsn>,
    /// The slot that the target reads from.
    pub slot: Option<String>,
    /// The lead's name in a BDR group.
    pub origin: Option<String>,
}

impl LastSeen {
    /// Does it read from the lead, as far as that is known?
    fn feeds(&self, consumer: &Consumer) -> bool {
        let by = |known: &Option<String>, of: &Option<String>| known.is_some() && known == of;
        by(&self.slot, &consumer.slot) || by(&self.origin, &consumer.origin)
    }
}

/// What may be lost, and with it whether a lead that still answers may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// Nothing: an operator's FAILOVER.
    Nothing,
    /// So many bytes of WAL, by estimate: an automatic failover, whose probes have failed already.
    UpTo(u64),
    /// Whatever it is: FAILOVER with ACCEPT LOSS, or the primary was moved by somebody else.
    Anything,
}

impl Accept {
    fn allows(self, loss: Option<u64>) -> bool {
        match (self, loss) {
            (Self::Anything, _) | (_, Some(0)) => true,
            (Self::UpTo(most), Some(loss)) => loss <= most,
            (Self::Nothing | Self::UpTo(_), _) => false,
        }
    }
}

/// Who takes part, and on what terms.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// Settings of the cluster.
    pub config: Arc<ClusterConfig>,
    /// The lead by record.
    pub from: NodeConfig,
    /// The target.
    pub to: NodeConfig,
    /// What may be lost.
    pub accept: Accept,
    /// From the monitor.
    pub last: LastSeen,
}

/// Connections and findings for the rest of the way.
#[derive(Debug, Clone)]
pub(super) struct Cleared {
    /// The old lead, if it answers.
    pub lead: Option<Arc<NodeLink>>,
    /// The target.
    pub target: Arc<NodeLink>,
    /// What it applies, if it could be told which.
    pub consumer: Option<Consumer>,
    /// The way to go.
    pub findings: Findings,
    /// Worth a word.
    pub warnings: Vec<String>,
    /// WAL bytes that the target may lack; `None`: unknown.
    pub loss: Option<u64>,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// What is in the way.
    pub why: String,
    /// What the operator can do.
    pub hint: Option<&'static str>,
}

/// What the lead says to a last question.
enum LastWord {
    /// Nothing.
    Silence,
    /// It answers.
    Answers(Arc<NodeLink>),
    /// It is alive, but does not let us in: why.
    Alive(String),
    /// It answers, but a check of the operator's says no: why.
    Unfit(Arc<NodeLink>, String),
}

/// Runs all checks. The lead is asked a last time while the target is looked at.
pub(super) async fn preflight(terms: &Terms) -> Result<Cleared, Refused> {
    let (word, checked) = tokio::join!(Box::pin(last_word(terms)), Box::pin(check_target(terms)));
    let from = &terms.from.name;
    let given_up = terms.accept == Accept::Anything;
    let mut unfit = None;
    let (lead, alive) = match word {
        LastWord::Silence => (None, None),
        LastWord::Answers(link) => (Some(link), Some(format!("lead \"{from}\" answers"))),
        LastWord::Alive(why) => (None, Some(format!("lead \"{from}\" is alive: {why}"))),
        LastWord::Unfit(link, why) => {
            let text = format!("lead \"{from}\" answers, but {why}");
            // The check is the operator's word: an automatic failover acts by it, and sees to it
            // that what still runs there ends.
            let alive = (terms.accept == Accept::Nothing).then(|| text.clone());
            unfit = Some(text);
            (Some(link), alive)
        }
    };
    if let Some(why) = alive.clone().filter(|_| !given_up) {
        return Err(Refused {
            why,
            hint: Some("Use SWITCHOVER, or FAILOVER with ACCEPT LOSS to give the lead up."),
        });
    }
    let mut cleared = checked?;
    if let Some(alive) = alive.or(unfit) {
        let warning = format!("{alive}, and may be written by others");
        cleared.warnings.insert(0, warning);
    }
    cleared.findings.lead_answers = lead.is_some();
    cleared.findings.loss_accepted = given_up;
    cleared.lead = lead;
    Ok(cleared)
}

/// New connections one after the other; the first that works is the answer. An operator may have
/// come before the monitor was sure; an automatic failover comes after it.
async fn last_word(terms: &Terms) -> LastWord {
    let times = match terms.accept {
        Accept::UpTo(_) => 1,
        Accept::Nothing | Accept::Anything => terms.config.fall.max(1),
    };
    let mut word = LastWord::Silence;
    for _ in 0..times {
        let mut link = None;
        let observation = Box::pin(probe(&terms.config, &terms.from, &mut link)).await;
        match (observation.seen, link) {
            (Seen::Answers, Some(link)) => return LastWord::Answers(Arc::new(link)),
            (Seen::Answers, None) => {
                word = LastWord::Alive("it answers slowly".to_owned());
            }
            (Seen::Fails(why), Some(link)) if observation.facts.is_some() => {
                word = LastWord::Unfit(Arc::new(link), why);
            }
            (Seen::Declines(_, why), _) => word = LastWord::Alive(why),
            _ => {}
        }
    }
    word
}

async fn check_target(terms: &Terms) -> Result<Cleared, Refused> {
    let to = &terms.to.name;
    let plain = |why| Refused { why, hint: None };
    let target = open(&terms.config, &terms.to).await.map_err(plain)?;
    let failed = |e| plain(format!("\"{to}\" could not be asked: {e}"));
    let consumer = find_consumer(&target, terms).await?;
    let got = match &consumer {
        // Of any other consumer it is a position in another node's WAL.
        Some(consumer) if terms.last.feeds(consumer) => {
            received(&target, consumer).await.map_err(failed)?
        }
        _ => None,
    };
    let loss = estimate(&terms.last, got);
    if !terms.accept.allows(loss) {
        return Err(Refused {
            why: loss_text(&terms.last, got, loss),
            hint: Some("FAILOVER with ACCEPT LOSS goes on nevertheless."),
        });
    }
    let mut warnings = Vec::new();
    if loss != Some(0) {
        warnings.push(loss_text(&terms.last, got, loss));
    }
    let sql = "SELECT current_setting('transaction_read_only') = 'on' AND NOT pg_is_in_recovery()";
    if target.yes(sql, &[]).await.map_err(failed)? {
        return Err(plain(format!("\"{to}\" is read-only")));
    }
    let recovery = target
        .yes("SELECT pg_is_in_recovery()", &[])
        .await
        .map_err(failed)?;
    let findings = Findings {
        durable: !recovery,
        promote: match (recovery, terms.config.promote) {
            (false, _) => Promotion::NotNeeded,
            (true, Promote::Wait) => Promotion::Awaited,
            (true, Promote::PgPromote) => Promotion::Sent,
        },
        ..Findings::default()
    };
    Ok(Cleared {
        lead: None,
        target,
        consumer,
        findings,
        warnings,
        loss,
    })
}

/// What the target applies. Refused at once if our role cannot see when it has: that would be
/// waited for in vain.
async fn find_consumer(target: &NodeLink, terms: &Terms) -> Result<Option<Consumer>, Refused> {
    let failed = |e| Refused {
        why: format!("\"{}\" could not be asked: {e}", terms.to.name),
        hint: None,
    };
    let all = consumers(target, terms.config.replication)
        .await
        .map_err(failed)?;
    let mut consumer = choose(all, &terms.last);
    if let Some(consumer) = consumer.as_mut().filter(|c| c.origin.is_none()) {
        consumer.origin.clone_from(&terms.last.origin);
    }
    applied_so_far(target, consumer.as_ref())
        .await
        .map_err(failed)?;
    Ok(consumer)
}

/// Which consumer reads from the lead cannot be asked of a dead lead.
fn choose(all: Vec<Consumer>, last: &LastSeen) -> Option<Consumer> {
    let only = all.len() == 1;
    all.into_iter()
        .find(|c| only || c.kind == LinkKind::Physical || last.feeds(c))
}

/// Without a confirmation by the lead nothing says that the target ever read from it.
fn estimate(last: &LastSeen, received: Option<Lsn>) -> Option<u64> {
    let has = Some(last.confirmed?).max(received)?;
    last.lead_lsn.map(|lsn| lsn.bytes_since(has))
}

fn loss_text(last: &LastSeen, received: Option<Lsn>, loss: Option<u64>) -> String {
    let show = |lsn: Option<Lsn>| lsn.map_or_else(|| "unknown".to_owned(), |lsn| lsn.to_string());
    let bytes = loss.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
    format!(
        "the target may lack {bytes} bytes of WAL: last seen on the lead {}, confirmed by the \
         target {}, received by it {}",
        show(last.lead_lsn),
        show(last.confirmed),
        show(received)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_what_the_lead_had_and_the_target_never_got() {
        let last = |lead: Option<u64>, confirmed: Option<u64>| LastSeen {
            lead_lsn: lead.map(Lsn),
            confirmed: confirmed.map(Lsn),
            ..LastSeen::default()
        };
        for (last, received, loss) in [
            (last(Some(100), Some(60)), None, Some(40)),
            (last(Some(100), Some(60)), Some(90), Some(10)),
            (last(Some(100), Some(60)), Some(120), Some(0)),
            (last(Some(100), None), Some(100), None),
            (last(Some(100), None), None, None),
            (last(None, Some(100)), Some(100), None),
        ] {
            assert_eq!(
                estimate(&last, received.map(Lsn)),
                loss,
                "{last:?} {received:?}"
            );
        }
    }
}
