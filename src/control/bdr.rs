//! BDR and PGD: what their views and functions tell. Which of them there are depends on the version
//! (BDR 3.6 to PGD 6) and on our role, so each is optional but `bdr.local_node_summary` and
//! `bdr.node_slots`. Columns that only some versions have are read through `to_jsonb`.

use super::catalog::{Catalog, denied};
use super::node_link::{LinkError, NodeLink, field};
use super::replication::{ApplyStats, Consumer, LinkKind};
use crate::lsn::Lsn;

/// What our role needs, for messages.
pub(super) const GRANT: &str = "GRANT bdr_monitor";

/// A node as BDR knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BdrNode {
    /// Its name in the group, which need not be ours.
    pub name: String,
    /// `data`, `standby`, `subscriber-only`, `witness`.
    pub kind: String,
    /// e.g. `ACTIVE`, `STANDBY`, `PARTED`.
    pub state: String,
    /// `None`: not told.
    pub raft: Option<Raft>,
}

/// A node's view of the group's consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raft {
    /// e.g. `RAFT_LEADER`.
    pub state: String,
    /// Does the node know a leader in each group that it votes in?
    pub has_leader: bool,
}

/// The Commit-At-Most-Once partner of a node; what is `None` is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Camo {
    /// Its name; `None`: none is configured, or that is not told.
    pub partner: Option<String>,
    /// Is it connected?
    pub connected: Option<bool>,
    /// Does it take part in commits?
    pub ready: Option<bool>,
    /// Are all transactions decided?
    pub resolved: Option<bool>,
}

/// What a slot of `bdr.node_slots` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BdrSlot {
    /// Feeds the node of that name.
    Peer(String),
    /// Kept for the group; nobody connects to it.
    Group,
    /// Of the decoding worker.
    Decoder,
}

const LOCAL: &str = "SELECT node_name::text, to_jsonb(s)->>'node_kind_name', \
    to_jsonb(s)->>'peer_state_name' FROM bdr.local_node_summary s LIMIT 1";

// One value in BDR 3, one row for each group later; one object of JSON, or columns.
const RAFT: &str = "SELECT min(x->>'state'), coalesce(bool_and( \
      coalesce(x->>'state', '') IN ('RAFT_LEADER', 'RAFT_FOLLOWER') \
      AND coalesce(x->>'leader_id', x->>'leader', '0') NOT IN ('0', '')), false) \
    FROM bdr.get_raft_status() r, \
      jsonb_array_elements(CASE jsonb_typeof(to_jsonb(r)) WHEN 'array' THEN to_jsonb(r) \
        ELSE jsonb_build_array(to_jsonb(r)) END) x";

/// The node's place in its group; `None`: no BDR here, or not a member of a group yet.
pub(super) async fn local(
    link: &NodeLink,
    catalog: &Catalog,
) -> Result<Option<BdrNode>, LinkError> {
    let views = ["bdr.local_node_summary", "bdr.node_slots"];
    for view in views {
        if !catalog.needs(view, GRANT)? {
            return Ok(None);
        }
    }
    let rows = link.rows(LOCAL, &[]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let state = field::<Option<String>>(row, 2)?.unwrap_or_default();
    let kind = match field::<Option<String>>(row, 1)? {
        Some(kind) => kind,
        // Before PGD 4 the state alone tells.
        None if state == "STANDBY" => "standby".to_owned(),
        None => "data".to_owned(),
    };
    Ok(Some(BdrNode {
        name: field(row, 0)?,
        kind,
        state,
        raft: raft(link, catalog).await?,
    }))
}

async fn raft(link: &NodeLink, catalog: &Catalog) -> Result<Option<Raft>, LinkError> {
    if !catalog.grants("bdr.get_raft_status()") {
        return Ok(None);
    }
    // A function of a foreign version that fails costs this answer, no more.
    let row = match link.row(RAFT, &[]).await {
        Ok(row) => row,
        Err(error) if error.is_of_the_node() => return Err(error),
        Err(_) => return Ok(None),
    };
    let state = field::<Option<String>>(&row, 0)?;
    let has_leader = field(&row, 1)?;
    Ok(state.map(|state| Raft { state, has_leader }))
}

/// The node's slots that are BDR's.
pub(super) async fn slots(link: &NodeLink) -> Result<Vec<(String, BdrSlot)>, LinkError> {
    let sql = "SELECT slot_name::text, target_name::text, \
               coalesce((to_jsonb(s)->>'is_group_slot')::bool, false), \
               coalesce((to_jsonb(s)->>'is_decoder_slot')::bool, false) \
               FROM bdr.node_slots s WHERE slot_name IS NOT NULL LIMIT 200";
    let mut slots = Vec::new();
    for row in link.rows(sql, &[]).await? {
        let target: Option<String> = field(&row, 1)?;
        let (group, decoder): (bool, bool) = (field(&row, 2)?, field(&row, 3)?);
        let slot = match target {
            _ if decoder => BdrSlot::Decoder,
            Some(target) if !group => BdrSlot::Peer(target),
            _ => BdrSlot::Group,
        };
        slots.push((field(&row, 0)?, slot));
    }
    Ok(slots)
}

/// What the node consumes: one of each origin where it tells them, else one that may be of any.
pub(super) async fn consumers(
    link: &NodeLink,
    catalog: &Catalog,
    node: &BdrNode,
) -> Result<Vec<Consumer>, LinkError> {
    let blank = Consumer {
        kind: LinkKind::Bdr,
        subscription: String::new(),
        slot: None,
        origin: None,
        node: Some(node.name.clone()),
        enabled: true,
        pending_tables: 0,
        stats: ApplyStats::default(),
    };
    if !catalog.grants("bdr.subscription_summary") {
        return Ok(vec![blank]);
    }
    let sql = "SELECT sub_name::text, origin_name::text, sub_enabled \
               FROM bdr.subscription_summary WHERE target_name = $1 ORDER BY 1 LIMIT 200";
    let mut found = Vec::new();
    for row in link.rows(sql, &[&node.name]).await? {
        found.push(Consumer {
            subscription: field(&row, 0)?,
            origin: field(&row, 1)?,
            enabled: field(&row, 2)?,
            ..blank.clone()
        });
    }
    Ok(found)
}

/// What went wrong while the node applied: per subscription since its statistics began, conflicts
/// of all of them in the last hour.
pub(super) async fn stats(
    link: &NodeLink,
    catalog: &Catalog,
    consumers: &mut [Consumer],
) -> Result<(), LinkError> {
    if catalog.grants("bdr.stat_subscription") {
        let sql = "SELECT sub_name::text, (to_jsonb(s)->>'nerror')::int8 \
                   FROM bdr.stat_subscription s LIMIT 200";
        for row in link.rows(sql, &[]).await? {
            let name: Option<&str> = field(&row, 0)?;
            let errors: Option<i64> = field(&row, 1)?;
            for consumer in consumers
                .iter_mut()
                .filter(|c| Some(c.subscription.as_str()) == name)
            {
                consumer.stats.apply_errors = errors.and_then(|n| u64::try_from(n).ok());
            }
        }
    }
    if catalog.grants("bdr.conflict_history_summary") {
        // Partitioned by this time; counted up to a bound, since it is asked with every probe.
        let sql = "SELECT count(*) FROM (SELECT FROM bdr.conflict_history_summary \
                   WHERE local_time > now() - interval '1 hour' LIMIT 10000) c";
        let count: i64 = field(&link.row(sql, &[]).await?, 0)?;
        for consumer in consumers {
            consumer.stats.conflicts = u64::try_from(count).ok();
        }
    }
    Ok(())
}

/// Has the node applied all that it received from the origin?
pub(super) async fn has_applied_all(
    target: &NodeLink,
    origin: Option<&str>,
) -> Result<bool, LinkError> {
    let Some(origin) = origin else {
        let unknown = "the BDR name of the origin is not known";
        return Err(LinkError::Unexpected(unknown.to_owned()));
    };
    let catalog = Catalog::read(target).await?;
    let functions = [
        "bdr.get_node_sub_receive_lsn()",
        "bdr.get_node_sub_apply_lsn()",
    ];
    let sql = if functions.iter().all(|name| catalog.grants(name)) {
        "SELECT received IS NULL OR bdr.get_node_sub_apply_lsn($1::text::name) >= received \
         FROM bdr.get_node_sub_receive_lsn($1::text::name) received"
    } else if catalog.grants("bdr.subscription_summary") {
        "SELECT receive_commit_lsn IS NULL OR last_xact_replay_lsn >= receive_commit_lsn \
         FROM bdr.subscription_summary WHERE origin_name = $1"
    } else {
        return Err(denied(&format!("cannot see what is applied: {GRANT}")));
    };
    target.yes(sql, &[origin]).await
}

/// The last position of the origin's WAL that the node has received.
pub(super) async fn received(target: &NodeLink, origin: &str) -> Result<Option<Lsn>, LinkError> {
    let catalog = Catalog::read(target).await?;
    let sql = if catalog.grants("bdr.get_node_sub_receive_lsn()") {
        "SELECT bdr.get_node_sub_receive_lsn($1::text::name)::text"
    } else if catalog.grants("bdr.subscription_summary") {
        "SELECT receive_commit_lsn::text FROM bdr.subscription_summary WHERE origin_name = $1"
    } else {
        return Ok(None);
    };
    let rows = target.rows(sql, &[origin]).await?;
    rows.first()
        .map_or(Ok(None), |row| super::node_link::lsn_field(row, 0))
}

/// How long one call of [`waited`] may take, in milliseconds.
const QUEUE_PATIENCE: &str = "500";

/// The node's own word that it has applied the origin's WAL up to there; `true` where it has no
/// function for it.
pub(super) async fn waited(target: &NodeLink, origin: &str, goal: Lsn) -> Result<bool, LinkError> {
    if !Catalog::read(target)
        .await?
        .grants("bdr.wait_for_apply_queue()")
    {
        return Ok(true);
    }
    // It waits without a limit of its own.
    let limit = "SELECT set_config('statement_timeout', $1, false)";
    let usual = "SELECT current_setting('statement_timeout')";
    let usual: String = field(&target.row(usual, &[]).await?, 0)?;
    target.row(limit, &[QUEUE_PATIENCE]).await?;
    let sql = "SELECT bdr.wait_for_apply_queue($1, $2::text::pg_lsn)";
    let waited = target.rows(sql, &[origin, &goal.to_string()]).await;
    target.row(limit, &[&usual]).await?;
    match waited {
        Ok(_) => Ok(true),
        Err(error) if error.sqlstate() == Some("57014") => Ok(false),
        Err(error) => Err(error),
    }
}

/// The node's CAMO partner, as far as it is told. Only for a look before a switchover: some of
/// these functions may fail where no partner is configured.
pub(super) async fn camo(
    link: &NodeLink,
    catalog: &Catalog,
    node: &BdrNode,
) -> Result<Camo, LinkError> {
    let partner = if catalog.grants("bdr.get_configured_camo_partner()") {
        let sql = "SELECT bdr.get_configured_camo_partner()::text";
        text(link, sql, &[]).await?
    } else if catalog.grants("bdr.get_configured_camo_partner_of()") {
        let sql = "SELECT bdr.get_configured_camo_partner_of($1)::text";
        text(link, sql, &[&node.name]).await?
    } else {
        None
    };
    Ok(Camo {
        partner: partner.filter(|name| !name.is_empty()),
        connected: asked(link, catalog, "bdr.is_camo_partner_connected()").await?,
        ready: asked(link, catalog, "bdr.is_camo_partner_ready()").await?,
        resolved: asked(link, catalog, "bdr.camo_transactions_resolved()").await?,
    })
}

async fn text(link: &NodeLink, sql: &str, params: &[&str]) -> Result<Option<String>, LinkError> {
    match link.row(sql, params).await {
        Ok(row) => field(&row, 0),
        Err(error) if error.is_of_the_node() => Err(error),
        Err(_) => Ok(None),
    }
}

async fn asked(
    link: &NodeLink,
    catalog: &Catalog,
    function: &str,
) -> Result<Option<bool>, LinkError> {
    if !catalog.grants(function) {
        return Ok(None);
    }
    let answer = text(link, &format!("SELECT ({function})::text"), &[]).await?;
    Ok(answer.map(|text| matches!(text.as_str(), "true" | "t")))
}
