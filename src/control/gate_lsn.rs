//! The proof that the target has everything: G is captured once on the old lead, then the target
//! must have applied it, durably, and its clock must have passed it.
//!
//! G comes from a statement that itself commits, so its commit record flushes everything before
//! it; `pg_current_wal_lsn()` would miss commits of clients with `synchronous_commit = off`.

use super::bdr;
use super::node_link::{LinkError, NodeLink, field, lsn_field};
use super::replication::{Consumer, LinkKind, SenderRow, sender_rows};
use crate::config::NodeName;
use crate::lsn::Lsn;

/// The marker table, quoted, and the row that the old lead writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    table: String,
    node: NodeName,
}

impl Marker {
    /// `table` as configured: `name` or `schema.name`.
    pub(super) fn new(table: &str, node: &NodeName) -> Self {
        let quoted: Vec<String> = table.split('.').map(quote_identifier).collect();
        Self {
            table: quoted.join("."),
            node: node.clone(),
        }
    }
}

/// What was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Captured {
    /// G, a position in the old lead's WAL.
    pub lsn: Lsn,
    /// The old lead's clock then, microseconds since 1970.
    pub at: i64,
    /// Counter in the marker row, if there is one.
    pub count: Option<i64>,
}

/// Captures G. The caller has made sure that no client's statement runs any more.
pub(super) async fn capture(
    lead: &NodeLink,
    marker: Option<&Marker>,
) -> Result<Captured, LinkError> {
    let Some(marker) = marker else {
        let sql = "SELECT pg_logical_emit_message(true, 'pgsluice', '')::text, \
                   (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        let row = lead.row(sql, &[]).await?;
        return Ok(Captured {
            lsn: captured_lsn(&row)?,
            at: field(&row, 1)?,
            count: None,
        });
    };
    let sql = format!(
        "UPDATE {} SET n = n + 1, at = clock_timestamp() WHERE node = $1 \
         RETURNING pg_current_wal_insert_lsn()::text, \
         (extract(epoch FROM clock_timestamp()) * 1000000)::int8, n::int8",
        marker.table
    );
    let row = lead.row(&sql, &[marker.node.as_str()]).await?;
    Ok(Captured {
        lsn: captured_lsn(&row)?,
        at: field(&row, 1)?,
        count: Some(field(&row, 2)?),
    })
}

fn captured_lsn(row: &tokio_postgres::Row) -> Result<Lsn, LinkError> {
    lsn_field(row, 0)?.ok_or_else(|| LinkError::Unexpected("no WAL position".to_owned()))
}

/// One look: has the target applied G? `Err` text in the answer says what was seen instead.
pub(super) async fn poll(
    (lead, target): (&NodeLink, &NodeLink),
    consumer: &Consumer,
    marker: Option<&Marker>,
    captured: &Captured,
) -> Result<Result<(), String>, LinkError> {
    let rows = sender_rows(lead, consumer).await?;
    let row = match rows.as_slice() {
        [row] => row,
        [] => return Ok(Err("the target does not stream from the lead".to_owned())),
        _ => {
            return Ok(Err(
                "several consumers read from the target's slot".to_owned()
            ));
        }
    };
    if consumer.kind == LinkKind::Physical {
        // The standby's own word: without a slot the row may be another standby's.
        return Ok(if replayed(target, captured).await? {
            Ok(())
        } else {
            Err(format!("the standby has not replayed {}", captured.lsn))
        });
    }
    let seen = position(row, captured);
    // A row that is absent or a position that is NULL means "not yet".
    if seen.is_none_or(|lsn| lsn < captured.lsn) {
        let seen = seen.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string());
        let goal = captured.lsn;
        return Ok(Err(format!("the target has applied {seen} of {goal}")));
    }
    match (marker, captured.count) {
        (Some(marker), Some(count)) => {
            let there = marker_visible(target, marker, count).await?;
            match (&consumer.origin, &there) {
                (Some(origin), Ok(())) => queue_is_through(target, origin, captured).await,
                _ => Ok(there),
            }
        }
        _ => Ok(Ok(())),
    }
}

/// BDR receives and applies apart, and its own function knows both. Asked only with a marker: that
/// is a transaction which the target applies. A message is none, and the function might wait
/// for ever.
async fn queue_is_through(
    target: &NodeLink,
    origin: &str,
    captured: &Captured,
) -> Result<Result<(), String>, LinkError> {
    let through = bdr::waited(target, origin, captured.lsn).await?;
    Ok(if through {
        Ok(())
    } else {
        Err("bdr.wait_for_apply_queue has not returned on the target".to_owned())
    })
}

async fn replayed(standby: &NodeLink, captured: &Captured) -> Result<bool, LinkError> {
    let goal = captured.lsn.to_string();
    let sql = "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    standby.yes(sql, &[&goal]).await
}

/// Without the marker row the flush position is waited for: it proves durability as well, and
/// the nudges make it move.
fn position(row: &SenderRow, captured: &Captured) -> Option<Lsn> {
    match captured.count {
        None => row.flush,
        Some(_) => row.replay,
    }
}

async fn marker_visible(
    target: &NodeLink,
    marker: &Marker,
    count: i64,
) -> Result<Result<(), String>, LinkError> {
    let sql = format!(
        "SELECT coalesce(max(n), -1) >= $2::text::int8 FROM {} WHERE node = $1",
        marker.table
    );
    let wanted = count.to_string();
    let there = target.yes(&sql, &[marker.node.as_str(), &wanted]).await?;
    Ok(if there {
        Ok(())
    } else {
        Err("the marker row has not reached the target".to_owned())
    })
}

/// A message that commits synchronously: on the target it makes everything applied before it
/// durable; on the lead it makes the next feedback come.
pub(super) async fn emit(node: &NodeLink) -> Result<(), LinkError> {
    let sql = "SELECT pg_logical_emit_message(true, 'pgsluice', '')::text";
    node.row(sql, &[]).await.map(drop)
}

/// First the target flushes, then the lead has something to send that is answered with that.
pub(super) async fn nudge(lead: &NodeLink, target: &NodeLink) -> Result<(), LinkError> {
    emit(target).await?;
    emit(lead).await
}

/// Has the target's clock passed the moment of capture? Else last-update-wins may drop the next
/// write of a client.
pub(super) async fn clock_passed(
    target: &NodeLink,
    captured: &Captured,
) -> Result<bool, LinkError> {
    let at = captured.at.to_string();
    let sql = "SELECT extract(epoch FROM clock_timestamp()) * 1000000 > $1::text::numeric";
    target.yes(sql, &[&at]).await
}

/// `"` doubled and put around, as PostgreSQL's `quote_ident` does for any name.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::Marker;
    use crate::config::NodeName;

    #[test]
    fn a_table_name_cannot_leave_its_quotes() {
        for (given, quoted) in [
            ("marker", "\"marker\""),
            ("public.marker", "\"public\".\"marker\""),
            ("a\"; DROP TABLE b; --", "\"a\"\"; DROP TABLE b; --\""),
        ] {
            assert_eq!(Marker::new(given, &NodeName::new("n")).table, quoted);
        }
    }
}
