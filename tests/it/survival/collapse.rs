//! Everything fails at once, pgsluice too, in the middle of whatever it does; everything starts again in
//! any order. The recorded lead rules, and nothing that was promised is lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{AGAIN, FAST, Scene, SceneSpec, kill_at_once, leads, quiet};
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;
use crate::harness::proxy::{ADMIN, CLUSTER};
use crate::tool::start_console;

/// How often; `PGSLUICE_TEST_COLLAPSES` says otherwise.
const ROUNDS: u64 = 10;

/// Repeatable by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    fn shuffled<const N: usize>(&mut self, mut things: [&'static str; N]) -> [&'static str; N] {
        for last in (1..N).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap();
            things.swap(last, other);
        }
        things
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_everything_was_killed_the_recorded_lead_rules_and_nothing_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("PGSLUICE_TEST_COLLAPSES").unwrap_or(ROUNDS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("PGSLUICE_TEST_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("PGSLUICE_TEST_SEED={seed}");
    let mut dice = Dice(seed);

    let cluster = format!("{FAST}{AGAIN}");
    let mut spec = SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster);
    for node in &mut spec.mesh.nodes {
        node.fsync = true;
    }
    let mut scene = Scene::start(spec).await;
    let (mut lead, mut moves) = ("n1".to_owned(), 0);
    for round in 1..=rounds {
        let target = if lead == "n1" { "n2" } else { "n1" };
        scene.ready(target).await;
        scene
            .workload
            .begin(&format!("round {round}"), Nature::Unplanned);
        // In every second round a switchover is on its way.
        let moving = (round % 2 == 0).then(|| {
            start_console(
                &scene.proxy,
                ADMIN,
                &format!("SWITCHOVER {CLUSTER} TO {target}"),
            )
        });
        tokio::time::sleep(Duration::from_millis(dice.below(1000))).await;
        let killed = dice.shuffled(["n1", "n2", "proxy"]);
        kill_at_once(&mut scene, &killed);
        let recorded = scene.proxy.recorded_lead().expect("a record");
        let started = dice.shuffled(["n1", "n2", "proxy"]);
        for name in started {
            match name {
                "proxy" => scene.proxy.restart().await,
                node => scene.mesh.node_mut(node).start().await,
            }
        }
        scene.workload.all_served().await;
        let now = scene.proxy.lead().await.expect("a lead");
        println!("round {round}: killed {killed:?}, started {started:?}: {lead} -> {now}");
        assert_eq!(now, recorded, "the record rules");
        drop(moving);
        moves += u64::from(now != lead);
        lead = now;
    }
    leads(&scene.proxy, &lead).await;
    let (verdict, work, _) = scene.verdict(&["n1", "n2"]).await;
    println!("{verdict:?}");
    assert!(verdict.is_clean(moves), "{verdict:?}");
    quiet(&work);
}
