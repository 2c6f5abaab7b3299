//! What BDR and PGD know that no LSN tells: the state of the nodes, CAMO, consensus.

use super::super::bdr::{BdrNode, Camo, camo, local};
use super::super::catalog::Catalog;
use super::super::node_link::{LinkError, NodeLink};
use super::{Pair, Verdict};

pub(super) async fn check(pair: &Pair, verdict: &mut Verdict) -> Result<(), LinkError> {
    let lead = ask(&pair.lead).await?;
    let target = ask(&pair.target).await?;
    if lead.0.name == target.0.name {
        let text = "both names lead to the same BDR node";
        verdict.refusals.push(text.to_owned());
    }
    if target.0.kind != "data" {
        verdict.refusals.push(format!(
            "BDR node \"{}\" is of kind {}, not a full member: bdr.promote_node makes it one",
            target.0.name, target.0.kind
        ));
    }
    for (node, camo) in [&lead, &target] {
        check_node(node, camo, verdict);
    }
    Ok(())
}

async fn ask(link: &NodeLink) -> Result<(BdrNode, Camo), LinkError> {
    let catalog = Catalog::read(link).await?;
    let node = local(link, &catalog).await?;
    let node = node.ok_or_else(|| LinkError::Unexpected("not a BDR node any more".to_owned()))?;
    let camo = camo(link, &catalog, &node).await?;
    Ok((node, camo))
}

fn check_node(node: &BdrNode, camo: &Camo, verdict: &mut Verdict) {
    let name = &node.name;
    if node.state != "ACTIVE" {
        let state = &node.state;
        verdict
            .refusals
            .push(format!("BDR node \"{name}\" is in state {state}"));
    }
    if let Some(partner) = &camo.partner {
        if camo.connected == Some(false) || camo.ready == Some(false) {
            verdict.refusals.push(format!(
                "CAMO partner \"{partner}\" of BDR node \"{name}\" is not ready"
            ));
        }
        if camo.ready.is_none() {
            verdict.warnings.push(format!(
                "the role cannot see whether CAMO partner \"{partner}\" of BDR node \"{name}\" is \
                 ready: GRANT bdr_application"
            ));
        }
    }
    if camo.resolved == Some(false) {
        verdict.refusals.push(format!(
            "BDR node \"{name}\" has CAMO transactions that are not decided"
        ));
    }
    if let Some(raft) = node.raft.as_ref().filter(|raft| !raft.has_leader) {
        verdict.warnings.push(format!(
            "BDR node \"{name}\" sees no consensus ({}): DDL and global sequences will fail",
            raft.state
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::bdr::Raft;
    use super::*;

    fn node(state: &str) -> BdrNode {
        BdrNode {
            name: "a".to_owned(),
            kind: "data".to_owned(),
            state: state.to_owned(),
            raft: None,
        }
    }

    fn camo(partner: bool, connected: Option<bool>, ready: Option<bool>) -> Camo {
        Camo {
            partner: partner.then(|| "b".to_owned()),
            connected,
            ready,
            resolved: Some(true),
        }
    }

    #[test]
    fn what_is_refused_and_what_is_only_said() {
        let (yes, no) = (Some(true), Some(false));
        let undecided = Camo {
            resolved: no,
            ..camo(false, None, None)
        };
        for (state, camo, refusals, warnings) in [
            ("ACTIVE", Camo::default(), 0, 0),
            ("PARTING", Camo::default(), 1, 0),
            ("ACTIVE", camo(true, yes, yes), 0, 0),
            ("ACTIVE", camo(true, yes, no), 1, 0),
            ("ACTIVE", camo(true, no, yes), 1, 0),
            ("ACTIVE", camo(true, yes, None), 0, 1),
            // Where none is configured the functions say no, and mean nothing.
            ("ACTIVE", camo(false, no, no), 0, 0),
            ("ACTIVE", undecided, 1, 0),
        ] {
            let mut verdict = Verdict::default();
            check_node(&node(state), &camo, &mut verdict);
            let got = (verdict.refusals.len(), verdict.warnings.len());
            assert_eq!(got, (refusals, warnings), "{state} {camo:?}: {verdict:?}");
        }
        let mut verdict = Verdict::default();
        let raft = Raft {
            state: "RAFT_CANDIDATE".to_owned(),
            has_leader: false,
        };
        let electing = BdrNode {
            raft: Some(raft),
            ..node("ACTIVE")
        };
        check_node(&electing, &Camo::default(), &mut verdict);
        assert_eq!((verdict.refusals.len(), verdict.warnings.len()), (0, 1));
    }
}
