//! Is everything that we ever started on a node at rest? Asked of the node itself, since closing a
//! socket does not stop a statement.

use std::time::Duration;

use super::node_link::{APPLICATION_NAME, LinkError, NodeLink, field};
use super::preflight::int_array;
use crate::pool::DrainStatus;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// Departed backends that are gone.
    pub gone: Vec<i32>,
    /// What still runs, in words.
    pub busy: Vec<String>,
}

/// The server's clock now, as text: the beginning of quiesce. A backend that started later has
/// only the pid of one of ours.
pub(super) async fn begin(node: &NodeLink) -> Result<String, LinkError> {
    let row = node.row("SELECT clock_timestamp()::text", &[]).await?;
    field(&row, 0)
}

// $1 parked, $2 departed, $3 beginning of quiesce, $4 age of this process in microseconds,
// $5 our own application_name. The last branch finds what an earlier process of this host left
// behind in the middle of a statement.
const BUSY: &str = "SELECT a.pid, coalesce(a.state, 'hidden'), \
    CASE WHEN a.pid = ANY ($1::text::int4[]) THEN 'parked' \
         WHEN a.pid = ANY ($2::text::int4[]) THEN 'departed' ELSE 'left over' END \
    FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND \
    (a.pid = ANY ($1::text::int4[]) \
       AND (a.state IS DISTINCT FROM 'idle' OR a.backend_xid IS NOT NULL) \
     OR a.pid = ANY ($2::text::int4[]) AND a.backend_start < $3::text::timestamptz \
     OR a.pid <> ALL ($1::text::int4[]) AND a.application_name <> $5 \
       AND a.state IS DISTINCT FROM 'idle' \
       AND a.backend_start < clock_timestamp() - $4::text::int8 * interval '1 microsecond' \
       AND a.client_addr IS NOT DISTINCT FROM \
         (SELECT m.client_addr FROM pg_stat_activity m WHERE m.pid = pg_backend_pid()))";

/// Looks once. `status` was taken after the gate was closed and shows no blockers, so nothing new
/// can have started on these backends.
pub(super) async fn look(
    node: &NodeLink,
    status: &DrainStatus,
    began: &str,
    process_age: Duration,
) -> Result<Rest, LinkError> {
    let parked = int_array(&status.parked_pids);
    let departed = int_array(&status.departed_pids);
    let age = process_age.as_micros().to_string();
    let params = [parked.as_str(), &departed, began, &age, APPLICATION_NAME];
    let mut rest = Rest {
        gone: status.departed_pids.clone(),
        busy: Vec::new(),
    };
    for row in node.rows(BUSY, &params).await? {
        let pid: i32 = field(&row, 0)?;
        let (state, whose): (&str, &str) = (field(&row, 1)?, field(&row, 2)?);
        rest.gone.retain(|gone| *gone != pid);
        rest.busy.push(format!("{whose} backend {pid} is {state}"));
    }
    Ok(rest)
}
