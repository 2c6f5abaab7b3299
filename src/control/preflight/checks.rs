//! The checks: each pushes its refusals and warnings.

use std::time::Duration;

use tokio::time::Instant;

use super::super::node_link::{APPLICATION_NAME, LinkError, NodeLink, field};
use super::super::replication::{LinkKind, consumers, of_origin, sender_rows};
use super::{Pair, Parties, Verdict, bdr, coverage, int_array};
use crate::config::Promote;

pub(super) async fn check(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    check_identity(pair, verdict).await?;
    check_lead(pair, parties, verdict).await?;
    check_stream(pair, parties, verdict).await?;
    match pair.consumer.kind {
        LinkKind::Physical => check_standby(pair, parties, verdict).await?,
        LinkKind::Logical | LinkKind::Pglogical => check_masters(pair, parties, verdict).await?,
        LinkKind::Bdr => {
            bdr::check(pair, verdict).await?;
            check_masters(pair, parties, verdict).await?;
        }
    }
    Ok(())
}

/// Two nodes that take writes both.
async fn check_masters(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    check_databases(parties, verdict);
    check_logical(pair, verdict).await?;
    check_way_back(pair, parties, verdict).await?;
    check_clocks(pair, parties, verdict).await?;
    match coverage::check(pair, parties, verdict).await {
        // It only warns.
        Err(error) if !error.is_fatal() => {
            let text = format!("whether all tables are replicated is not known: {error}");
            verdict.warnings.push(text);
            Ok(())
        }
        result => result,
    }
}

async fn check_identity(pair: &Pair, verdict: &mut Verdict) -> Result<(), LinkError> {
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    let lead: String = field(&pair.lead.row(sql, &[]).await?, 0)?;
    let target: String = field(&pair.target.row(sql, &[]).await?, 0)?;
    let physical = pair.consumer.kind == LinkKind::Physical;
    if physical && lead != target {
        verdict
            .refusals
            .push("the nodes have different system identifiers".to_owned());
    }
    // A BDR node may be made of a physical copy; its name tells.
    if !physical && pair.consumer.kind != LinkKind::Bdr && lead == target {
        verdict
            .refusals
            .push("both names lead to the same server".to_owned());
    }
    Ok(())
}

async fn check_lead(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', \
               pg_has_role('pg_read_all_stats', 'USAGE'), \
               (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())";
    let row = pair.lead.row(sql, &[]).await?;
    let name = &parties.from.name;
    if field::<bool>(&row, 0)? || field::<bool>(&row, 1)? {
        verdict
            .refusals
            .push(format!("lead \"{name}\" is read-only"));
    }
    if !field::<bool>(&row, 2)? {
        verdict.refusals.push(format!(
            "role \"{}\" cannot see other sessions on \"{name}\": GRANT pg_monitor",
            parties.config.monitor.user
        ));
    }
    let prepared = field::<i64>(&row, 3)?;
    if prepared > 0 && pair.consumer.kind != LinkKind::Physical {
        verdict.refusals.push(format!(
            "{prepared} prepared transactions are open on \"{name}\""
        ));
    }
    check_foreign_sessions(pair, parties, verdict).await
}

/// Sessions that did not come through us are not held by our gate.
async fn check_foreign_sessions(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    let sql = "SELECT pid, usename::text, application_name, backend_xid IS NOT NULL \
               FROM pg_stat_activity WHERE datname = current_database() \
               AND backend_type = 'client backend' AND application_name <> $1 \
               AND pid <> ALL ($2::text::int4[]) ORDER BY pid";
    let own = int_array(parties.own_pids);
    let mut idle = 0_usize;
    for row in pair.lead.rows(sql, &[APPLICATION_NAME, &own]).await? {
        if !field::<bool>(&row, 3)? {
            idle += 1;
            continue;
        }
        let pid: i32 = field(&row, 0)?;
        let user: Option<&str> = field(&row, 1)?;
        let application: Option<&str> = field(&row, 2)?;
        verdict.warnings.push(format!(
            "a direct session writes on \"{}\": pid {pid}, user \"{}\", application \"{}\"",
            parties.from.name,
            user.unwrap_or_default(),
            application.unwrap_or_default()
        ));
    }
    if idle > 0 {
        let name = &parties.from.name;
        verdict.warnings.push(format!(
            "{idle} sessions are connected to \"{name}\" directly and will not be held"
        ));
    }
    Ok(())
}

async fn check_stream(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    if !pair.consumer.enabled {
        let name = &pair.consumer.subscription;
        verdict
            .refusals
            .push(format!("subscription \"{name}\" is disabled"));
        return Ok(());
    }
    let rows = sender_rows(&pair.lead, &pair.consumer).await?;
    let (to, most) = (&parties.to.name, parties.config.switchover_lag_max_bytes);
    let refusal = match rows.as_slice() {
        [] => Some(format!("\"{to}\" is not connected to the lead's slot")),
        // A walsender that has just started, and may end again: the apply worker retries.
        [row] if row.state.as_deref().is_some_and(|state| state == "startup") => {
            Some(format!("replication to \"{to}\" is in state startup"))
        }
        [row] => match (row.state.as_deref(), row.replay, row.lag) {
            (None, _, _) | (_, None, _) => Some(format!(
                "the position of \"{to}\" is hidden or unknown: GRANT pg_monitor"
            )),
            (Some(state), _, _) if state != "streaming" => {
                Some(format!("replication to \"{to}\" is in state {state}"))
            }
            (_, _, Some(lag)) if u64::try_from(lag).unwrap_or(0) > most => {
                Some(format!("\"{to}\" lags {lag} bytes, limit {most}"))
            }
            _ => None,
        },
        _ => Some(format!(
            "several consumers read what \"{to}\" reads; configure slots"
        )),
    };
    verdict.refusals.extend(refusal);
    Ok(())
}

/// Logical replication is a matter of one database, and so is the gate.
fn check_databases(parties: Parties<'_>, verdict: &mut Verdict) {
    let watched = &parties.config.monitor.dbname;
    for other in parties.dbnames.iter().filter(|name| *name != watched) {
        verdict.refusals.push(format!(
            "clients use database \"{other}\", but only \"{watched}\" is watched"
        ));
    }
}

async fn check_logical(pair: &Pair, verdict: &mut Verdict) -> Result<(), LinkError> {
    let pending = pair.consumer.pending_tables;
    if pending > 0 {
        let name = &pair.consumer.subscription;
        verdict.refusals.push(format!(
            "{pending} tables of \"{name}\" are still being copied"
        ));
    }
    let sql = "SELECT current_setting('wal_receiver_status_interval')::interval = interval '0', \
               current_setting('transaction_read_only') = 'on'";
    let row = pair.target.row(sql, &[]).await?;
    if field::<bool>(&row, 0)? {
        let text = "wal_receiver_status_interval is 0 on the target, so it reports no progress";
        verdict.refusals.push(text.to_owned());
    }
    if field::<bool>(&row, 1)? {
        verdict.refusals.push("the target is read-only".to_owned());
    }
    Ok(())
}

async fn check_standby(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    let sql = "SELECT pg_is_wal_replay_paused(), \
               current_setting('recovery_min_apply_delay')::interval > interval '0', \
               has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE')";
    let row = pair.target.row(sql, &[]).await?;
    if field::<bool>(&row, 0)? {
        verdict
            .refusals
            .push("WAL replay is paused on the target".to_owned());
    }
    if field::<bool>(&row, 1)? {
        verdict
            .refusals
            .push("recovery_min_apply_delay is set on the target".to_owned());
    }
    if parties.config.promote == Promote::PgPromote && !field::<bool>(&row, 2)? {
        verdict.refusals.push(format!(
            "role \"{}\" may not execute pg_promote on the target",
            parties.config.monitor.user
        ));
    }
    let text = "the old lead stays writable for sessions that do not come through pgsluice";
    verdict.warnings.push(text.to_owned());
    Ok(())
}

/// After the switchover the old lead must follow the new one.
async fn check_way_back(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    let all = consumers(&pair.lead, parties.config.replication).await?;
    let back = of_origin(&pair.target, all).await?;
    let (from, to) = (&parties.from.name, &parties.to.name);
    if back.is_empty() {
        verdict.warnings.push(format!(
            "\"{from}\" does not replicate from \"{to}\": it will fall behind after the switchover"
        ));
    }
    for consumer in back {
        let rows = sender_rows(&pair.target, &consumer).await?;
        if !consumer.enabled || rows.len() != 1 {
            verdict.refusals.push(format!(
                "\"{from}\" does not stream from \"{to}\" (subscription \"{}\")",
                consumer.subscription
            ));
        }
    }
    Ok(())
}

async fn check_clocks(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    let lead = clock_offset(&pair.lead).await?;
    let target = clock_offset(&pair.target).await?;
    let apart = Duration::from_micros(lead.abs_diff(target));
    let most = parties.config.clock_skew_max;
    if apart > most {
        let text = format!("the clocks of the nodes are {apart:?} apart, limit {most:?}");
        verdict.refusals.push(text);
    }
    Ok(())
}

/// Microseconds that the node's clock is ahead of a timeline of ours, by the quickest of seven
/// round trips (as NTP does it).
async fn clock_offset(node: &NodeLink) -> Result<i64, LinkError> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let origin = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let began = Instant::now();
    let mut best: Option<(Duration, i64)> = None;
    for _ in 0..7 {
        let sent = Instant::now();
        let row = node.row(sql, &[]).await?;
        let round_trip = sent.elapsed();
        let middle = origin + sent.duration_since(began) + round_trip / 2;
        let ours = i64::try_from(middle.as_micros()).unwrap_or(i64::MAX);
        let offset = field::<i64>(&row, 0)?.saturating_sub(ours);
        if best.is_none_or(|(shortest, _)| round_trip < shortest) {
            best = Some((round_trip, offset));
        }
    }
    Ok(best.map_or(0, |(_, offset)| offset))
}
