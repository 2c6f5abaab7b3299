//! Automatic failover: how long clients are without a lead, and what they lose.

// On threads of their own: what kills a server blocks until it is gone, and the writers' clocks run.
use std::collections::BTreeSet;
use std::time::Duration;

use super::{AGAIN, FAST, leads, may_promote, quiet, refuses, told};
use crate::harness::cut::Cut;
use crate::harness::eventually;
use crate::harness::lab::{Part, Way};
use crate::harness::ledger::{Nature, Verdict, check_copies, rows_written_by};
use crate::harness::pair::Kind;
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

/// The bounds.
const KILLED: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(3);

/// The machine may be busy with something else; it is not, three times running.
const TRIES: usize = 3;

fn automatic(kind: Kind) -> StageSpec {
    StageSpec {
        cluster: FAST.to_owned(),
        ..stage(kind)
    }
}

/// The lead is lost, and comes back, until it was replaced within that time.
async fn is_replaced_within(bound: Duration, fault: Fault) {
    let spec = StageSpec {
        cluster: format!("{FAST}{AGAIN}"),
        ..stage(Kind::Native)
    };
    let mut stage = Stage::start(spec).await;
    let mut outages = Vec::new();
    for (victim, heir) in [("n1", "n2"), ("n2", "n1")].into_iter().cycle().take(TRIES) {
        stage.ready(heir).await;
        stage.workload.begin(victim, Nature::Unplanned);
        let cut = strike(&mut stage, victim, fault);
        let outage = stage.workload.outage(victim).await;
        println!("{fault:?}: {outage:?}");
        leads(&stage.proxy, heir).await;
        stage.proxy.event("failover_completed", heir).await;
        let good = outage.first < bound;
        outages.push(outage);
        if good {
            quiet(&stage.workload.stop().await);
            return;
        }
        match cut {
            Some(cut) => cut.heal(),
            None => stage.pair.node_mut(victim).start().await,
        }
    }
    panic!("not within {bound:?}: {outages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_lead_is_replaced_within_a_second() {
    is_replaced_within(KILLED, Fault::Kill9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_falls_silent_is_replaced_within_three_seconds() {
    is_replaced_within(SILENT, Fault::Silence).await;
}

/// How a lead is lost.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill9,
    Postmaster,
    Immediate,
    Fast,
    Silence,
    /// It hears pgsluice, and the other node, but pgsluice does not hear it.
    Mute,
    Refuse,
}

/// What one of them is, until it is undone.
fn strike(stage: &mut Stage, victim: &str, fault: Fault) -> Option<Cut> {
    match fault {
        Fault::Kill9 => stage.pair.node_mut(victim).kill9(),
        Fault::Postmaster => stage.pair.node_mut(victim).kill_postmaster(),
        Fault::Immediate => stage.pair.node_mut(victim).stop_immediate(),
        Fault::Fast => stage.pair.node_mut(victim).stop(),
        Fault::Silence => return Some(stage.pair.lab().silence(victim, Part::All, Way::Both)),
        Fault::Mute => return Some(stage.pair.lab().silence(victim, Part::Pgsluice, Way::From)),
        Fault::Refuse => return Some(stage.pair.lab().refuse(victim, Part::All)),
    }
    None
}

/// The lead is lost in each of these ways, and comes back each time as shadow. What the new lead
/// lacked was not received by it, and arrives when the old one is back.
async fn survives(kind: Kind, faults: &[Fault]) {
    let spec = StageSpec {
        cluster: format!("{FAST}{AGAIN}"),
        // A server that was cut off does not hear that its sessions are over, and they keep their
        // locks: it must ask.
        adjust: Some(|node| {
            node.settings.push_str(
                "tcp_keepalives_idle = 1\ntcp_keepalives_interval = 1\ntcp_keepalives_count = 3\n",
            );
        }),
        ..stage(kind)
    };
    let mut stage = Stage::start(spec).await;
    let (mut late, mut epoch) = (BTreeSet::new(), 1);
    for (&fault, (victim, heir)) in faults
        .iter()
        .zip([("n1", "n2"), ("n2", "n1")].iter().cycle())
    {
        stage.ready(heir).await;
        stage
            .workload
            .begin(&format!("{fault:?}"), Nature::Unplanned);
        let cut = strike(&mut stage, victim, fault);
        let outage = stage.workload.outage(victim).await;
        leads(&stage.proxy, heir).await;
        epoch += 1;
        let words = format!("to \"{heir}\", epoch {epoch}");
        let detail = told(&stage.proxy, "failover_completed", &words).await;
        let arrived = rows_written_by(stage.pair.node(heir), victim).await;
        match cut {
            Some(cut) => cut.heal(),
            None => stage.pair.node_mut(victim).start().await,
        }
        stage.pair.catch_up().await;
        stage.proxy.node_is(victim, "observed", "up").await;
        let all = rows_written_by(stage.pair.node(heir), victim).await;
        let tail = &all - &arrived;
        println!(
            "{kind:?} {fault:?}: {outage:?}, {} late; {detail}",
            tail.len()
        );
        late.extend(tail);
        assert!(detail.contains("estimated loss"), "{detail}");
        stage.workload.all_served().await;
        assert_eq!(
            stage.proxy.lead().await.as_deref(),
            Some(*heir),
            "no failback"
        );
        stage.workload.begin("calm", Nature::Calm);
    }
    let work = stage.workload.stop().await;
    stage.pair.catch_up().await;
    let copies = stage.pair.nodes();
    let verdict = check_copies(&copies, &work, &late).await;
    // A late update of a counter meets a later one of the new lead: native replication keeps
    // whichever came last, on each copy.
    let conflicts = u64::from(kind == Kind::Native && !late.is_empty());
    assert!(verdict.diverged <= conflicts, "{verdict:?}");
    let verdict = Verdict {
        diverged: 0,
        ..verdict
    };
    assert!(verdict.is_clean(faults.len() as u64), "{verdict:?}");
    quiet(&work);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_stopped_or_killed_is_replaced_and_comes_back() {
    let faults = [
        Fault::Postmaster,
        Fault::Immediate,
        Fault::Fast,
        Fault::Kill9,
    ];
    survives(Kind::Native, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_cannot_be_reached_is_replaced_and_comes_back() {
    survives(Kind::Native, &[Fault::Refuse, Fault::Silence, Fault::Mute]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_with_pglogical_is_replaced_and_comes_back() {
    survives(Kind::Pglogical, &[Fault::Kill9, Fault::Immediate]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_physical_standby_is_promoted_when_the_primary_is_lost() {
    let spec = StageSpec {
        cluster: format!("{FAST}promote = \"pg_promote\"\n"),
        schema: may_promote(),
        ..stage(Kind::Physical)
    };
    let mut stage = Stage::start(spec).await;
    stage.ready("n2").await;
    stage.workload.begin("killed", Nature::Unplanned);
    stage.pair.n1.kill9();
    let outage = stage.workload.outage("n1").await;
    let detail = told(&stage.proxy, "failover_completed", "to \"n2\"").await;

    // It comes back as it was, a second primary: nobody goes there.
    stage.pair.n1.start().await;
    stage.proxy.event("unexpected_primary", "n1").await;
    stage.workload.all_served().await;
    assert!(!stage.proxy.node("n1").await["fence"].is_empty());
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    let (verdict, work) = stage.verdict().await;
    println!(
        "physical kill -9: {outage:?}, lost {}; {detail}",
        verdict.lost
    );
    assert!(verdict.is_clean_but_for_losses(1), "{verdict:?}");
    quiet(&work);
}

/// Frozen, it says nothing and closes nothing; thawed, it ends what it had begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_lead_is_replaced_and_comes_back() {
    let stage = Stage::start(automatic(Kind::Native)).await;
    stage.ready("n2").await;
    stage.workload.begin("frozen", Nature::Unplanned);
    stage.pair.n1.freeze();
    let outage = stage.workload.outage("n1").await;
    println!("frozen: {outage:?}");
    leads(&stage.proxy, "n2").await;
    let arrived = rows_written_by(&stage.pair.n2, "n1").await;
    stage.pair.n1.thaw();
    stage.pair.catch_up().await;
    stage.proxy.node_is("n1", "observed", "up").await;
    let late = &rows_written_by(&stage.pair.n2, "n1").await - &arrived;
    stage.workload.all_served().await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    let work = stage.workload.stop().await;
    stage.pair.catch_up().await;
    let verdict = check_copies(&stage.pair.nodes(), &work, &late).await;
    println!("frozen: {} late", late.len());
    assert_eq!((verdict.lost, verdict.phantom), (0, 0), "{verdict:?}");
    assert_eq!(
        (verdict.overlap, verdict.lead_changes),
        (0, 1),
        "{verdict:?}"
    );
    quiet(&work);
}

/// What the target has received it applies first, however long that takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_waits_until_the_target_has_applied_what_it_received() {
    let mut stage = Stage::start(automatic(Kind::Native)).await;
    stage.ready("n2").await;
    stage.workload.begin("killed", Nature::Unplanned);
    let stall = stage.pair.stall_apply("n2").await;
    stage.workload.all_served().await;
    stage.pair.n1.kill9();
    stage.reaches("catch_up").await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    stall.end().await;
    stage.workload.outage("n1").await;
    told(&stage.proxy, "failover_completed", "to \"n2\"").await;
    let arrived = rows_written_by(&stage.pair.n2, "n1").await;
    stage.pair.n1.start().await;
    stage.pair.catch_up().await;
    let late = &rows_written_by(&stage.pair.n2, "n1").await - &arrived;
    let work = stage.workload.stop().await;
    stage.pair.catch_up().await;
    let verdict = check_copies(&stage.pair.nodes(), &work, &late).await;
    println!("stalled apply: {} late", late.len());
    assert_eq!(
        (verdict.lost, verdict.overlap, verdict.lead_changes),
        (0, 0, 1),
        "{verdict:?}"
    );
    quiet(&work);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lacks_too_much_is_for_the_operator_to_take() {
    let spec = StageSpec {
        cluster: format!("{FAST}failover_lag_max = \"32kB\"\nhold_timeout = \"1s\"\n"),
        schema: "CREATE TABLE bulk (k int PRIMARY KEY, v text);".to_owned(),
        ..stage(Kind::Native)
    };
    let mut stage = Stage::start(spec).await;
    stage.ready("n2").await;
    stage.workload.begin("killed", Nature::Unplanned);
    let stall = stage.pair.stall_apply("n2").await;
    let bulk = "INSERT INTO bulk SELECT i, repeat('x', 2000) FROM generate_series(1, 500) i";
    stage.pair.n1.query(bulk).await;
    eventually("the lag is seen", async || {
        let lag = stage.proxy.node("n2").await["lag_bytes"].parse::<u64>();
        lag.is_ok_and(|bytes| bytes > 500_000)
    })
    .await;
    stage.pair.n1.kill9();
    told(
        &stage.proxy,
        "failover_barred",
        "bytes behind when the lead was lost",
    )
    .await;
    refuses(&stage.proxy).await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    stall.end().await;
    let refused = stage.command("FAILOVER main TO n2".to_owned()).end().await;
    let refused = refused.expect_err("something may be lost");
    assert!(refused.text.contains("may lack"), "{refused:?}");
    let done = stage.command("FAILOVER main TO n2 ACCEPT LOSS".to_owned());
    done.end().await.expect("the operator's word");
    stage.workload.outage("n1").await;
    leads(&stage.proxy, "n2").await;
}
