//! A note of lead and epoch that is kept on the nodes themselves, as a setting of the monitor's own
//! role: any role may set it, it survives the loss of `state_dir`, and no session ever sees it, since
//! ours name themselves at login. It decides nothing while a record is there that is as new.

use std::fmt;

use super::node_link::{LinkError, NodeLink};
use super::record::Record;
use crate::cluster::Epoch;
use crate::config::{ClusterName, NodeName};

/// What a node remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeadNote {
    /// Where the decision held.
    pub cluster: ClusterName,
    /// Its number.
    pub epoch: Epoch,
    /// The lead.
    pub lead: NodeName,
    /// `system_identifier` of the server that it was left with: roles are copied from server to
    /// server, and a copy says nothing of this one.
    pub server: u64,
}

const HEAD: &str = "application_name=pgsluice lead ";

impl LeadNote {
    /// The note of a decision, for a server.
    pub(super) fn of(record: &Record, server: u64) -> Self {
        Self {
            cluster: record.cluster.clone(),
            epoch: record.epoch,
            lead: record.node.clone(),
            server,
        }
    }

    /// Reads an entry of `pg_roles.rolconfig`; `None`: it is not ours.
    pub(super) fn parse(entry: &str) -> Option<Self> {
        let mut words = entry.strip_prefix(HEAD)?.split(' ');
        let note = Self {
            epoch: Epoch(words.next()?.parse().ok()?),
            lead: NodeName::new(words.next()?),
            cluster: ClusterName::new(words.next()?),
            server: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(note)
    }
}

/// The value of the setting. Names have letters, digits, hyphens and underscores only.
impl fmt::Display for LeadNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            epoch,
            lead,
            server,
        } = self;
        write!(f, "pgsluice lead {epoch} {lead} {cluster} {server}")
    }
}

/// Leaves the note with a node.
pub(super) async fn leave(link: &NodeLink, note: &LeadNote) -> Result<(), LinkError> {
    let text = note.to_string().replace('\'', "''");
    let sql = format!("ALTER ROLE CURRENT_USER SET application_name = '{text}'");
    link.rows(&sql, &[]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::LeadNote;
    use crate::cluster::Epoch;

    #[test]
    fn a_note_is_read_as_it_was_written_and_nothing_else_is() {
        let note = LeadNote {
            cluster: "dc_a".into(),
            epoch: Epoch(7),
            lead: "n-2".into(),
            server: u64::MAX,
        };
        let entry = format!("application_name={note}");
        assert_eq!(LeadNote::parse(&entry), Some(note));
        for foreign in [
            "",
            "application_name=psql",
            "application_name=pgsluice lead",
            "application_name=pgsluice lead x n2 dc_a 1",
            "application_name=pgsluice lead 7 n2",
            "application_name=pgsluice lead 7 n2 dc_a",
            "application_name=pgsluice lead 7 n2 dc_a x",
            "application_name=pgsluice lead 7 n2 dc_a 1 and more",
            "search_path=pgsluice lead 7 n2 dc_a 1",
        ] {
            assert_eq!(LeadNote::parse(foreign), None, "{foreign}");
        }
    }
}
