//! Failover: how far a target has come with what it received. Asked of the target alone; the origin may
//! be dead.

use super::bdr;
use super::catalog::denied;
use super::node_link::{LinkError, NodeLink, field};
use super::replication::{Consumer, LinkKind};

// Of the subscription to the dead lead alone: what comes from others never ends. A worker that is
// still connecting holds nothing, and a silent address holds it up for minutes.
const BUSY_WORKERS: &str = "SELECT count(*) = 0 FROM pg_stat_activity a \
    WHERE datname = current_database() AND (backend_type LIKE 'pglogical apply%' \
      OR backend_type LIKE 'logical replication %worker' AND ($1 = '' OR EXISTS \
        (SELECT FROM pg_stat_subscription s WHERE s.pid = a.pid AND s.subname = $1))) \
    AND coalesce(wait_event_type, '') NOT IN ('Activity', 'Extension') \
    AND lower(coalesce(wait_event, '')) <> 'libpqwalreceiverconnect'";

// What was received may end in the middle of a record, when its primary died over it: that is
// never replayed, and a promotion goes over it. So it also counts that nothing comes any more and
// that nothing moves: the caller compares the second column.
const REPLAYED: &str = "SELECT coalesce(pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn(), true), \
    CASE WHEN NOT pg_is_wal_replay_paused() AND NOT EXISTS \
      (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') \
    THEN pg_last_wal_replay_lsn()::text END";

/// How far a target has come with what it received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has applied everything.
    All,
    /// Not everything, but nothing comes any more: it stands here. Where it stands twice, it ends.
    Standing(String),
    /// It goes on.
    Moving,
}

impl Progress {
    fn all_if(all: bool) -> Self {
        if all { Self::All } else { Self::Moving }
    }
}

/// Failover: has the target applied all that it received? Asks the target alone; the origin may
/// be dead.
///
/// A logical apply worker receives and applies in one loop and sleeps (wait event of type Activity,
/// pglogical: Extension) only when its socket is empty. One that has ended keeps nothing:
/// an unfinished transaction is not carried over to the next worker. Ask twice: it may be
/// between two messages. BDR has a queue in between, and tells how far it is. An error says what our
/// role lacks to see it.
pub(super) async fn applied_so_far(
    target: &NodeLink,
    consumer: Option<&Consumer>,
) -> Result<Progress, LinkError> {
    match consumer.map(|c| (c.kind, c.origin.as_deref())) {
        Some((LinkKind::Physical, _)) => {
            let row = target.row(REPLAYED, &[]).await?;
            Ok(
                match (field::<bool>(&row, 0)?, field::<Option<&str>>(&row, 1)?) {
                    (true, _) => Progress::All,
                    (false, Some(position)) => Progress::Standing(position.to_owned()),
                    (false, None) => Progress::Moving,
                },
            )
        }
        Some((LinkKind::Bdr, origin)) => bdr::has_applied_all(target, origin)
            .await
            .map(Progress::all_if),
        Some((LinkKind::Logical | LinkKind::Pglogical, _)) | None => {
            let sql = "SELECT pg_has_role('pg_read_all_stats', 'USAGE')";
            if !target.yes(sql, &[]).await? {
                return Err(denied("cannot see the apply workers: GRANT pg_monitor"));
            }
            let subscription = consumer.map_or("", |c| c.subscription.as_str());
            let idle = target.yes(BUSY_WORKERS, &[subscription]).await?;
            Ok(Progress::all_if(idle))
        }
    }
}
