//! What no barrier can see: tables that are not replicated, and sequences. Warnings only.

use std::collections::BTreeMap;

use super::super::catalog::Catalog;
use super::super::node_link::{LinkError, NodeLink, field};
use super::super::replication::LinkKind;
use super::{Pair, Parties, Verdict};

/// Names that a warning lists.
const NAMED: usize = 5;

/// Warns of both.
pub(super) async fn check(
    pair: &Pair,
    parties: Parties<'_>,
    verdict: &mut Verdict,
) -> Result<(), LinkError> {
    let lead = &pair.lead;
    let (count, names) = unpublished(lead, pair.consumer.kind).await?;
    if count > 0 {
        verdict.warnings.push(format!(
            "{count} tables on \"{}\" are not replicated: {names}",
            parties.from.name
        ));
    }
    // Native replication does not carry them; the others have ways of their own.
    if pair.consumer.kind == LinkKind::Logical {
        let here = sequences(lead).await?;
        let there = sequences(&pair.target).await?;
        verdict.warnings.extend(behind(&here, &there));
    }
    Ok(())
}

// pg_publication_tables knows FOR ALL TABLES, schemas and partitions.
const NATIVE: &str = "pg_publication_tables p WHERE p.schemaname = n.nspname \
    AND (p.tablename = c.relname OR p.tablename IN \
      (SELECT a.relname FROM pg_partition_ancestors(c.oid) x JOIN pg_class a ON a.oid = x.relid))";

const PGLOGICAL: &str = "pglogical.replication_set_table p WHERE p.set_reloid = c.oid";

const BDR: &str = "bdr.tables p WHERE p.nspname = n.nspname AND p.relname = c.relname \
    AND p.set_name IS NOT NULL";

/// How many tables nobody publishes, and some of their names.
async fn unpublished(lead: &NodeLink, kind: LinkKind) -> Result<(i64, String), LinkError> {
    let published = match kind {
        LinkKind::Logical => NATIVE,
        LinkKind::Pglogical => PGLOGICAL,
        LinkKind::Bdr if Catalog::read(lead).await?.grants("bdr.tables") => BDR,
        LinkKind::Bdr | LinkKind::Physical => return Ok((0, String::new())),
    };
    let sql = format!(
        "SELECT count(*), coalesce(string_agg(name, ', ' ORDER BY name) \
           FILTER (WHERE nth <= {NAMED}), '') \
         FROM (SELECT t.name, row_number() OVER (ORDER BY t.name) AS nth FROM \
           (SELECT format('%I.%I', n.nspname, c.relname) AS name \
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.relkind = 'r' AND c.relpersistence = 'p' \
              AND n.nspname NOT IN ('information_schema', 'pglogical', 'bdr') \
              AND n.nspname NOT LIKE 'pg\\_%' \
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                AND d.objid = c.oid AND d.deptype = 'e') \
              AND NOT EXISTS (SELECT FROM {published})) t) numbered"
    );
    let row = lead.row(&sql, &[]).await?;
    let (count, mut names): (i64, String) = (field(&row, 0)?, field(&row, 1)?);
    if usize::try_from(count).unwrap_or(0) > NAMED {
        names.push_str(", ...");
    }
    Ok((count, names))
}

type Sequences = BTreeMap<String, (Option<i64>, i64)>;

/// Last value (NULL: never used, or not for our role) and step of each.
async fn sequences(node: &NodeLink) -> Result<Sequences, LinkError> {
    let sql = "SELECT format('%I.%I', schemaname, sequencename), last_value, increment_by \
               FROM pg_sequences WHERE schemaname NOT IN ('pglogical', 'bdr') \
               ORDER BY 1 LIMIT 10000";
    let mut found = Sequences::new();
    for row in node.rows(sql, &[]).await? {
        found.insert(field(&row, 0)?, (field(&row, 1)?, field(&row, 2)?));
    }
    Ok(found)
}

/// Sequences that would give out on the target what the lead has given out already. Those that go in
/// steps are taken for interleaved: each node has numbers of its own.
fn behind(lead: &Sequences, target: &Sequences) -> Option<String> {
    let mut names = Vec::new();
    for (name, (last, step)) in lead {
        let (Some(last), 1 | -1) = (last, step) else {
            continue;
        };
        let there = target.get(name).and_then(|(last, _)| *last);
        let fresh = there.is_none_or(|there| there.saturating_sub(*last).saturating_mul(*step) < 0);
        if fresh {
            names.push(name.as_str());
        }
    }
    let count = names.len();
    names.truncate(NAMED);
    let more = if count > NAMED { ", ..." } else { "" };
    (count > 0).then(|| {
        format!(
            "{count} sequences are behind on the target and would give out used numbers: {}{more}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_that_would_give_out_used_numbers_is_named() {
        let one = |last, step| Sequences::from([("public.s".to_owned(), (last, step))]);
        for (lead, target, warns) in [
            (one(Some(7), 1), one(Some(7), 1), false),
            (one(Some(7), 1), one(Some(9), 1), false),
            (one(Some(7), 1), one(Some(6), 1), true),
            (one(Some(7), 1), one(None, 1), true),
            (one(Some(7), 1), Sequences::new(), true),
            (one(None, 1), one(None, 1), false),
            // Odd here, even there.
            (one(Some(7), 2), one(Some(2), 2), false),
            (one(Some(-7), -1), one(Some(-6), -1), true),
            (one(Some(-7), -1), one(Some(-9), -1), false),
        ] {
            assert_eq!(
                behind(&lead, &target).is_some(),
                warns,
                "{lead:?} {target:?}"
            );
        }
    }
}
