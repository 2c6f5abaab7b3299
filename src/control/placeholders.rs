//! What the placeholders of the notification command stand for. Pure.

use super::Event;
use crate::civil::with_offset;
use crate::cluster::{ClusterView, NodeView, Observed};
use crate::config::{ClusterConfig, EventKind, NodeName, Placeholder};

/// No node: ids begin at 1, and a script that compares numbers wants a number.
const NO_NODE: &str = "0";
/// repmgr's name that tells of the node that has failed; the others tell of the new lead.
const TELLS_OF_THE_FAILED: &str = "bdr_failover";

/// An event, and what is known of its cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// The event.
    pub event: &'a Event,
    /// The name by which it is told.
    pub name: &'a str,
    /// Its cluster, if it has one.
    pub cluster: Option<(&'a ClusterConfig, &'a ClusterView)>,
}

impl Told<'_> {
    /// The text that stands for `placeholder`; empty where there is nothing to tell.
    pub(super) fn value(&self, placeholder: Placeholder) -> String {
        match placeholder {
            Placeholder::NodeId => self.id(self.node()),
            Placeholder::PreviousLeadId => self.id(self.previous_lead()),
            Placeholder::Event => self.name.to_owned(),
            Placeholder::Success => u8::from(self.event.success).to_string(),
            Placeholder::Time => with_offset(self.event.time),
            Placeholder::Detail => self.event.detail.clone(),
            Placeholder::Conninfo => self.conninfo().unwrap_or_default(),
            Placeholder::NextNode => {
                let next = self.next();
                next.map(|node| node.name.to_string()).unwrap_or_default()
            }
        }
    }

    fn node(&self) -> Option<&NodeName> {
        if self.name == TELLS_OF_THE_FAILED {
            return self.previous_lead();
        }
        self.event.node.as_ref()
    }

    /// An event can be told before the view that shows its decision is published.
    fn previous_lead(&self) -> Option<&NodeName> {
        let (_, view) = self.cluster?;
        let shown = view.lead.as_ref();
        if self.made_a_lead() && shown != self.event.node.as_ref() {
            return shown;
        }
        view.previous.as_ref()
    }

    fn made_a_lead(&self) -> bool {
        matches!(
            self.event.kind,
            EventKind::FailoverCompleted | EventKind::SwitchoverCompleted | EventKind::LeadChosen
        )
    }

    /// Where clients can go: the new lead, the node that is back, else the lead unless it is down.
    fn next(&self) -> Option<&NodeView> {
        let (_, view) = self.cluster?;
        let find = |name: &NodeName| view.nodes.iter().find(|node| node.name == *name);
        if self.made_a_lead() || self.event.kind == EventKind::NodeRecovery {
            return find(self.event.node.as_ref()?);
        }
        find(view.lead.as_ref()?).filter(|node| node.observed != Observed::Down)
    }

    fn id(&self, node: Option<&NodeName>) -> String {
        let id = node.and_then(|node| {
            let (config, view) = self.cluster?;
            let configured = config.nodes.iter().find(|other| other.name == *node);
            configured.map(|node| node.id.to_string()).or_else(|| {
                let place = view.nodes.iter().position(|other| other.name == *node)?;
                Some((place + 1).to_string())
            })
        });
        id.unwrap_or_else(|| NO_NODE.to_owned())
    }

    /// As libpq reads it. Never a password.
    fn conninfo(&self) -> Option<String> {
        let (config, _) = self.cluster?;
        let node = self.next()?;
        Some(format!(
            "host={} port={} dbname={} user={}",
            conninfo_value(&node.host),
            node.port,
            conninfo_value(&config.monitor.dbname),
            conninfo_value(&config.monitor.user)
        ))
    }
}

/// libpq's quoting ("Keyword/Value Connection Strings").
fn conninfo_value(text: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && c != '\'' && c != '\\';
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::cluster::{Epoch, Role, Wanted};
    use crate::config::{Candidate, ClusterName, Config, check};

    const FILE: &str = r#"
[pgsluice]
auth_file = "/etc/userlist.txt"
[clusters.c]
monitor = { user = "o'brien", password = "sesame", dbname = "my app" }
[clusters.c.nodes]
n1 = { host = "10.0.0.1" }
n2 = { host = "/var/run/pg", port = 5433, id = 12 }
[databases.app]
cluster = "c"
"#;

    fn config() -> Arc<ClusterConfig> {
        let read = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let config: Config = check(FILE, "test", &|_| None, &read).unwrap();
        Arc::clone(&config.clusters["c"])
    }

    fn node(name: &str, host: &str, port: u16) -> NodeView {
        NodeView {
            name: name.into(),
            host: host.to_owned(),
            port,
            priority: 100,
            candidate: Candidate::Auto,
            role: Role::Shadow,
            wanted: Wanted::Ready,
            observed: Observed::Up,
            since: UNIX_EPOCH,
            reason: String::new(),
            condition: "",
            fence: None,
            maintenance_since: None,
            server_version: None,
            system_identifier: None,
            in_recovery: None,
            lsn: None,
            probe_us: None,
            bdr: None,
        }
    }

    /// n1 leads, n2 led before; n3 was added while running.
    fn view() -> ClusterView {
        ClusterView {
            name: "c".into(),
            epoch: Epoch(2),
            lead: Some("n1".into()),
            lead_since: None,
            lead_reason: String::new(),
            previous: Some("n2".into()),
            clients: "served",
            clients_why: String::new(),
            operation: None,
            nodes: vec![
                node("n1", "10.0.0.1", 5432),
                node("n2", "/var/run/pg", 5433),
                node("n3", "10.0.0.3", 5432),
            ],
            links: Vec::new(),
            slots: Vec::new(),
        }
    }

    fn event(kind: EventKind, node: Option<&str>) -> Event {
        Event {
            id: 7,
            time: UNIX_EPOCH + Duration::from_millis(951_782_399_900),
            cluster: Some(ClusterName::new("c")),
            node: node.map(NodeName::new),
            kind,
            success: true,
            detail: "a \"b\" 'c' $d".to_owned(),
        }
    }

    /// The values of `%n %p %a`.
    fn nodes(event: &Event, name: &str, view: &ClusterView) -> (String, String, String) {
        let config = config();
        let cluster = Some((&*config, view));
        let told = Told {
            event,
            name,
            cluster,
        };
        (
            told.value(Placeholder::NodeId),
            told.value(Placeholder::PreviousLeadId),
            told.value(Placeholder::NextNode),
        )
    }

    #[test]
    fn nodes_are_those_that_the_event_is_about() {
        for (kind, name, node, expected) in [
            (
                EventKind::NodeDown,
                "node_down",
                Some("n2"),
                ("12", "12", "n1"),
            ),
            (EventKind::NodeUp, "node_up", Some("n3"), ("3", "12", "n1")),
            (
                EventKind::NodeUp,
                "node_up",
                Some("gone"),
                ("0", "12", "n1"),
            ),
            (
                EventKind::AllNodesDown,
                "all_nodes_down",
                None,
                ("0", "12", "n1"),
            ),
            (
                EventKind::NodeRecovery,
                "bdr_recovery",
                Some("n2"),
                ("12", "12", "n2"),
            ),
            // The view shows the decision already,
            (
                EventKind::FailoverCompleted,
                "failover_completed",
                Some("n1"),
                ("1", "12", "n1"),
            ),
            (
                EventKind::FailoverCompleted,
                "bdr_failover",
                Some("n1"),
                ("12", "12", "n1"),
            ),
            // or not yet.
            (
                EventKind::FailoverCompleted,
                "failover_completed",
                Some("n2"),
                ("12", "1", "n2"),
            ),
            (
                EventKind::FailoverCompleted,
                "bdr_failover",
                Some("n2"),
                ("1", "1", "n2"),
            ),
            (
                EventKind::SwitchoverAborted,
                "switchover_aborted",
                Some("n2"),
                ("12", "12", "n1"),
            ),
        ] {
            let (id, previous, next) = nodes(&event(kind, node), name, &view());
            assert_eq!((&*id, &*previous, &*next), expected, "{name} {node:?}");
        }
    }

    #[test]
    fn a_lead_that_is_down_is_not_available() {
        let mut view = view();
        view.nodes[0].observed = Observed::Down;
        let event = event(EventKind::NodeDown, Some("n1"));
        assert_eq!(nodes(&event, "node_down", &view).2, "");
    }

    #[test]
    fn texts_are_quoted_for_their_reader_and_hold_no_password() {
        let (config, view) = (config(), view());
        let told = |event: &Event, placeholder| {
            let cluster = Some((&*config, &view));
            Told {
                event,
                name: "x",
                cluster,
            }
            .value(placeholder)
        };
        let back = event(EventKind::NodeRecovery, Some("n2"));
        assert_eq!(
            told(&back, Placeholder::Conninfo),
            r"host=/var/run/pg port=5433 dbname='my app' user='o\'brien'"
        );
        assert_eq!(told(&back, Placeholder::Time), "2000-02-28 23:59:59+00");
        assert_eq!(told(&back, Placeholder::Success), "1");
        assert_eq!(told(&back, Placeholder::Detail), "a \"b\" 'c' $d");
        for (text, quoted) in [("", "''"), ("a", "a"), (r"a\", r"'a\\'"), ("a=b", "a=b")] {
            assert_eq!(conninfo_value(text), quoted);
        }
    }

    #[test]
    fn an_event_without_a_cluster_has_empty_values() {
        let mut event = event(EventKind::Reloaded, None);
        event.cluster = None;
        let told = Told {
            event: &event,
            name: "reloaded",
            cluster: None,
        };
        for (placeholder, value) in [
            (Placeholder::NodeId, "0"),
            (Placeholder::PreviousLeadId, "0"),
            (Placeholder::Conninfo, ""),
            (Placeholder::NextNode, ""),
            (Placeholder::Event, "reloaded"),
        ] {
            assert_eq!(told.value(placeholder), value);
        }
    }
}
