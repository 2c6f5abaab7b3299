//! The ledger finds nothing where nothing is wrong, and fires on each fault planted by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::bounce::Bounce;
use crate::harness::client::{APP, DATABASE};
use crate::harness::ledger::{
    Acknowledged, KEYS, Nature, Verdict, Work, Workload, WorkloadSpec, check, schema,
};
use crate::harness::node::Node;
use crate::harness::pair::{Kind, Pair, PairSpec};

/// Writes without a client: what is acknowledged is what the test says.
struct Hand {
    pair: Pair,
    work: Work,
}

impl Hand {
    async fn start(kind: Kind) -> Self {
        let pair = Pair::start(
            kind,
            PairSpec {
                schema: schema(),
                ..PairSpec::default()
            },
        )
        .await;
        let mut hand = Self {
            pair,
            work: Work::default(),
        };
        hand.write("n1", 1, 0).await;
        hand.write("n1", 2, 0).await;
        hand.pair.catch_up().await;
        hand.write("n2", 3, 0).await;
        hand
    }

    fn node(&self, name: &str) -> &Node {
        self.pair.node(name)
    }

    /// One good write.
    async fn write(&mut self, node: &str, id: i64, key: i32) {
        let value = self
            .node(node)
            .scalar(&format!(
                "WITH c AS (UPDATE counters SET n = n + 1 WHERE key = {key} RETURNING n) \
                 INSERT INTO ledger (id, writer, key, value) SELECT {id}, 0, {key}, n FROM c \
                 RETURNING value"
            ))
            .await
            .and_then(|value| value.parse().ok())
            .unwrap();
        self.work.acknowledged.push(Acknowledged { id, key, value });
    }

    /// Runs SQL that does not replicate.
    async fn alone(&self, node: &str, sql: &str) {
        self.node(node)
            .query(&format!(
                "SELECT pg_replication_origin_create('planted');\
                 SELECT pg_replication_origin_session_setup('planted');\
                 {sql};\
                 SELECT pg_replication_origin_session_reset()"
            ))
            .await;
    }

    async fn verdict(&self) -> Verdict {
        self.pair.catch_up().await;
        check(self.pair.nodes(), &self.work, &BTreeSet::new()).await
    }
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    for kind in [Kind::Native, Kind::Pglogical] {
        let hand = Hand::start(kind).await;
        let verdict = hand.verdict().await;
        assert!(verdict.is_clean(1), "{kind:?}: {verdict:?}");
        assert!(!verdict.is_clean(2), "the number of lead changes counts");
    }
}

#[tokio::test]
async fn a_row_on_one_node_only_is_lost() {
    let hand = Hand::start(Kind::Native).await;
    hand.alone("n2", "DELETE FROM ledger WHERE id = 2").await;
    let verdict = hand.verdict().await;
    assert_eq!((verdict.lost, verdict.diverged), (1, 1), "{verdict:?}");
}

#[tokio::test]
async fn a_write_that_nobody_was_told_of_is_a_phantom() {
    let mut hand = Hand::start(Kind::Native).await;
    hand.write("n2", 4, 0).await;
    hand.work.acknowledged.pop();
    assert_eq!(hand.verdict().await.phantom, 1);
    hand.work.in_doubt.push(4);
    assert!(hand.verdict().await.is_clean(1), "in doubt it may be there");
}

#[tokio::test]
async fn a_write_that_ran_twice_is_a_duplicate() {
    let mut hand = Hand::start(Kind::Native).await;
    hand.write("n2", 3, 0).await;
    hand.work.acknowledged.pop();
    assert_eq!(hand.verdict().await.duplicated, 1);
}

#[tokio::test]
async fn an_overwritten_increment_is_a_lost_update() {
    let mut hand = Hand::start(Kind::Native).await;
    hand.node("n2")
        .query("UPDATE counters SET n = n - 1 WHERE key = 0")
        .await;
    hand.write("n2", 4, 0).await;
    let verdict = hand.verdict().await;
    assert_eq!(
        (verdict.lost_updates, verdict.counter_mismatch),
        (1, 1),
        "{verdict:?}"
    );
    let late = BTreeSet::from([4]);
    let verdict = check(hand.pair.nodes(), &hand.work, &late).await;
    assert_eq!(
        (verdict.lost_updates, verdict.counter_mismatch),
        (0, 0),
        "left out: {verdict:?}"
    );
}

#[tokio::test]
async fn a_value_other_than_the_client_was_told_is_found() {
    let mut hand = Hand::start(Kind::Native).await;
    hand.work.acknowledged[0].value += 1;
    assert_eq!(hand.verdict().await.wrong_value, 1);
}

#[tokio::test]
async fn a_transaction_left_open_on_the_old_lead_overlaps() {
    let mut hand = Hand::start(Kind::Native).await;
    let open = hand.node("n2").connect(DATABASE).await;
    open.batch_execute("BEGIN; INSERT INTO ledger (id, writer, key, value) VALUES (4, 0, 5, 1)")
        .await
        .unwrap();
    hand.write("n1", 5, 1).await;
    open.batch_execute("UPDATE counters SET n = n + 1 WHERE key = 5; COMMIT")
        .await
        .unwrap();
    hand.work.acknowledged.push(Acknowledged {
        id: 4,
        key: 5,
        value: 1,
    });
    let verdict = hand.verdict().await;
    // Order by begin: n1 n1 n2 n2 n1, as a switchover would have it; but the last two overlap.
    assert_eq!(
        (verdict.overlap, verdict.lead_changes),
        (1, 2),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn a_write_on_the_old_lead_after_the_new_one_began_is_one_change_too_many() {
    let mut hand = Hand::start(Kind::Native).await;
    hand.write("n1", 4, 1).await;
    hand.write("n2", 5, 2).await;
    let verdict = hand.verdict().await;
    assert_eq!(
        (verdict.overlap, verdict.lead_changes),
        (0, 3),
        "{verdict:?}"
    );
    assert!(!verdict.is_clean(1));
}

#[tokio::test]
async fn writers_note_what_happened_to_them() {
    let spec = PairSpec {
        schema: schema(),
        fsync: true,
        ..PairSpec::default()
    };
    let mut pair = Pair::native(spec).await;
    let workload = Workload::start(WorkloadSpec {
        port: pair.n1.port(),
        login: APP,
        dbname: DATABASE.to_owned(),
        writers: 6,
        think: Duration::from_millis(2),
    })
    .await;
    workload.begin("killed", Nature::Unplanned);
    pair.n1.kill9();
    pair.n1.start().await;
    workload.all_served().await;
    workload.begin("after", Nature::Calm);
    workload.all_served().await;
    let work = workload.stop().await;
    pair.catch_up().await;

    let verdict = check(pair.nodes(), &work, &BTreeSet::new()).await;
    assert!(verdict.is_clean(0), "{verdict:?}");
    assert_eq!(work.errors().count(), 0, "{:?}", work.errors().next());
    assert_eq!(work.idle_intervals(), Vec::<&str>::new());
    let killed = work.during(Nature::Unplanned).next().unwrap();
    assert!(
        killed.failures.len() >= 6,
        "each client notices a kill: {killed:?}"
    );
    assert_eq!(killed.missing_at_release, 0);
    assert!(
        work.acknowledged.iter().any(|a| a.key == KEYS - 1),
        "all counters are used"
    );
}

/// The planted bug: somebody moves the clients without waiting for the new lead to catch up.
#[tokio::test]
async fn clients_moved_before_the_target_caught_up_miss_their_writes() {
    let spec = PairSpec {
        schema: schema(),
        ..PairSpec::default()
    };
    let pair = Pair::pglogical(spec).await;
    let road = Bounce::to(pair.n1.port()).await;
    let workload = Workload::start(WorkloadSpec {
        port: road.port(),
        login: APP,
        dbname: DATABASE.to_owned(),
        writers: 6,
        think: Duration::from_millis(2),
    })
    .await;
    let stall = pair.stall_apply("n2").await;
    workload.begin("behind", Nature::Calm);
    workload.all_served().await;
    workload.begin("moved", Nature::Planned);
    road.retarget(pair.n2.port());
    road.reset();
    workload.all_served().await;
    stall.end().await;
    let work = workload.stop().await;
    pair.catch_up().await;

    let moved = work.during(Nature::Planned).next().unwrap();
    assert!(moved.missing_at_release >= 6, "{moved:?}");
    let verdict = check(pair.nodes(), &work, &BTreeSet::new()).await;
    assert!(verdict.lost_updates > 0, "{verdict:?}");
    assert!(!verdict.is_clean(1), "{verdict:?}");
}
