//! Who dies in the middle of a move: the target, the lead, pgsluice. Each phase that waits for
//! something is made to wait for it, and then it happens. `abort.rs` and `crash.rs` have the gate;
//! `hold` and `release` wait for nothing.

use std::path::PathBuf;

use tokio_postgres::Client;

use crate::harness::client::{APP, DATABASE, simple};
use crate::harness::eventually;
use crate::harness::ledger::{Nature, slow_commit, slow_write};
use crate::harness::pair::Kind;
use crate::harness::raw::{RawConn, query};
use crate::harness::stage::{Command, Delay, Refused, Stage, StageSpec};
use crate::switchover::stage;

/// The advisory lock that delays a login.
const LOGIN_LOCK: i64 = 43;

/// A login of the application waits for [`LOGIN_LOCK`] on its node: a prewarm that does not end.
fn slow_login() -> String {
    format!(
        "CREATE FUNCTION slow_login() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN
             IF session_user = ''{}'' THEN
                 PERFORM pg_advisory_xact_lock_shared({LOGIN_LOCK});
             END IF;
         END';
         CREATE EVENT TRIGGER slow_login ON login EXECUTE FUNCTION slow_login();
         ALTER EVENT TRIGGER slow_login ENABLE ALWAYS;",
        APP.user
    )
}

pub(super) async fn on_stage(settings: &str) -> Stage {
    Stage::start(StageSpec {
        schema: slow_commit() + &slow_login(),
        cluster: settings.to_owned(),
        writers: 4,
        ..stage(Kind::Native)
    })
    .await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Prewarm,
    Drain,
    Quiesce,
    Commit,
}

/// A move that is in a phase and does not leave it by itself.
pub(super) struct Stuck {
    moving: Command,
    cause: Cause,
}

enum Cause {
    Logins(Client),
    Transaction(Client),
    Commit(Delay),
    Store(PathBuf),
}

impl Stuck {
    /// The move goes to `target`.
    pub(super) async fn in_phase(stage: &mut Stage, phase: Phase, target: &str) -> Self {
        // Prewarm gives up after 5 s, quiesce too: what happens to them happens at once.
        let clauses = "DRAIN TIMEOUT '1min'";
        let (name, moving, cause) = match phase {
            Phase::Prewarm => {
                let lock = stage.pair.node(target).connect(DATABASE).await;
                let sql = format!("SELECT pg_advisory_lock({LOGIN_LOCK})");
                simple(&lock, &sql).await.unwrap();
                let moving = stage.begin_switchover(target, clauses);
                ("prewarm", moving, Cause::Logins(lock))
            }
            Phase::Drain => {
                let blocker = stage.idle_in_transaction().await;
                let moving = stage.begin_switchover(target, clauses);
                ("drain", moving, Cause::Transaction(blocker))
            }
            Phase::Quiesce => {
                let delay = stage.delay_commits().await;
                vanishes_in_its_commit(stage).await;
                let moving = stage.begin_switchover(target, clauses);
                ("quiesce", moving, Cause::Commit(delay))
            }
            Phase::Commit => {
                let pipe = stage.stop_the_store();
                let moving = stage.begin_switchover(target, clauses);
                ("commit", moving, Cause::Store(pipe))
            }
        };
        stage.reaches(name).await;
        Self { moving, cause }
    }

    /// Why the move was given up; nothing is in the way any more.
    pub(super) async fn refused(self) -> Refused {
        if let Cause::Store(pipe) = &self.cause {
            // A pipe cannot be synced: the record is certainly not written.
            let pipe = pipe.clone();
            let read = tokio::task::spawn_blocking(move || {
                std::fs::read(&pipe).unwrap();
                std::fs::remove_file(&pipe)
            });
            drop(read);
        }
        self.moving.end().await.unwrap_err()
    }

    /// Nothing is in the way any more, and it comes to its end.
    pub(super) async fn goes_on(self) {
        match self.cause {
            Cause::Transaction(blocker) => {
                simple(&blocker, "COMMIT").await.unwrap();
            }
            Cause::Logins(lock) => drop(lock),
            Cause::Commit(delay) => delay.end().await,
            Cause::Store(pipe) => std::fs::remove_file(pipe).unwrap(),
        }
        self.moving.end().await.unwrap();
    }
}

/// A client of the lead leaves in the middle of its commit.
async fn vanishes_in_its_commit(stage: &mut Stage) {
    let id = -1 - i64::try_from(stage.in_doubt.len()).unwrap();
    let (mut client, _) = RawConn::login(stage.proxy.port(), APP, DATABASE).await;
    client.send(&query(&slow_write(id))).await;
    stage.in_doubt.push(id);
    stage.runs(&slow_write(id)).await;
    client.reset();
}

/// Falls of the test's own making are no flapping.
const NO_GUARD: &str = "flap_limit = 0\n";

const PHASES: [Phase; 4] = [Phase::Prewarm, Phase::Drain, Phase::Quiesce, Phase::Commit];

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_in_any_phase_is_nobodys_business() {
    let mut stage = on_stage(NO_GUARD).await;
    for phase in PHASES {
        stage.workload.begin(&format!("{phase:?}"), Nature::Planned);
        let stuck = Stuck::in_phase(&mut stage, phase, "n2").await;
        stage.pair.n2.kill9();
        let refused = stuck.refused().await;
        assert_eq!(refused.sqlstate, "55000", "{phase:?}: {refused:?}");
        stage.workload.all_served().await;
        assert_eq!(stage.workload.reconnects(), 0, "an abort leaves no trace");
        assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
        stage.pair.n2.start().await;
        stage.pair.catch_up().await;
        stage.ready("n2").await;
    }
    stage.moves_to("n2").await;
    // Each of them was told, and that it was over.
    for kind in ["switchover_aborted", "node_down", "node_recovery"] {
        eventually(&format!("{kind} is told each time"), async || {
            let events = stage.proxy.events().await;
            events.iter().filter(|e| e["type"] == kind).count() == PHASES.len()
        })
        .await;
    }
    stage.proves(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_dies_in_any_phase_is_waited_for_if_an_operator_decides() {
    let mut stage = on_stage(NO_GUARD).await;
    for phase in PHASES {
        stage
            .workload
            .begin(&format!("{phase:?}"), Nature::Unplanned);
        let stuck = Stuck::in_phase(&mut stage, phase, "n2").await;
        stage.pair.n1.kill9();
        let refused = stuck.refused().await;
        assert_eq!(refused.sqlstate, "55000", "{phase:?}: {refused:?}");
        assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
        stage.pair.n1.start().await;
        stage.workload.all_served().await;
        stage.pair.catch_up().await;
        stage.ready("n2").await;
    }
    stage.moves_to("n2").await;
    stage.proves(1).await;
}

/// Somebody else promotes: until then the target may go, and the lead goes by plan.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_promotion_is_awaited_the_target_may_die_and_the_lead_is_shut_down() {
    let mut stage = Stage::start(stage(Kind::Physical)).await;
    stage.workload.begin("target killed", Nature::Planned);
    let moving = stage.begin_switchover("n2", "");
    stage.reaches("promote").await;
    stage.pair.n2.kill9();
    let refused = moving.end().await.unwrap_err();
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), 0, "an abort leaves no trace");
    stage.pair.n2.start().await;
    stage.ready("n2").await;

    stage.workload.begin("lead shut down", Nature::Planned);
    let moving = stage.begin_switchover("n2", "");
    stage.reaches("promote").await;
    stage.pair.n1.stop();
    stage.proxy.event("node_down", "n1").await;
    stage.pair.n2.query("SELECT pg_promote()").await;
    moving.end().await.unwrap();
    stage.workload.all_served().await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    stage.proves(1).await;
}
