//! `event_notifications`: at which events the notification command is run, and by what name each is
//! told. Whoever comes from repmgr keeps its names, and the script that knows them.

use super::event_kind::EventKind;
use super::field::Field;
use super::kind::Value;
use super::mistake::nearest;
use super::rules::did_you_mean;

/// repmgr's names for what happens here too.
pub(super) const ALIASES: &[(&str, EventKind)] = &[
    ("bdr_failover", EventKind::FailoverCompleted),
    ("bdr_reconnect", EventKind::NodeUp),
    ("bdr_recovery", EventKind::NodeRecovery),
    ("bdr_register", EventKind::NodeAdded),
    ("bdr_unregister", EventKind::NodeRemoved),
    ("child_node_disconnect", EventKind::ReplicationBroken),
    ("child_node_reconnect", EventKind::ReplicationRestored),
    ("node_rejoin", EventKind::NodeRecovery),
    ("primary_register", EventKind::NodeAdded),
    ("primary_unregister", EventKind::NodeRemoved),
    ("repmgrd_failover_aborted", EventKind::FailoverAborted),
    ("repmgrd_failover_promote", EventKind::FailoverCompleted),
    ("repmgrd_local_disconnect", EventKind::NodeDown),
    ("repmgrd_local_reconnect", EventKind::NodeUp),
    ("repmgrd_promote_error", EventKind::FailoverAborted),
    ("repmgrd_reload", EventKind::Reloaded),
    ("repmgrd_standby_reconnect", EventKind::NodeUp),
    ("repmgrd_upstream_disconnect", EventKind::NodeDown),
    ("repmgrd_upstream_reconnect", EventKind::NodeUp),
    ("standby_failure", EventKind::NodeDown),
    ("standby_promote", EventKind::FailoverCompleted),
    ("standby_recovery", EventKind::NodeRecovery),
    ("standby_register", EventKind::NodeAdded),
    ("standby_switchover", EventKind::SwitchoverCompleted),
    ("standby_unregister", EventKind::NodeRemoved),
    ("witness_register", EventKind::NodeAdded),
    ("witness_unregister", EventKind::NodeRemoved),
];

/// Events that are told. Empty: all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter(Vec<Chosen>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chosen {
    /// Our name or repmgr's, as it was written.
    name: String,
    kind: EventKind,
}

impl EventFilter {
    /// The name by which this kind is told: the first one given for it. `None`: it is not told.
    pub fn name_of(&self, kind: EventKind) -> Option<&str> {
        if self.0.is_empty() {
            return Some(kind.as_str());
        }
        let chosen = self.0.iter().find(|chosen| chosen.kind == kind);
        chosen.map(|chosen| chosen.name.as_str())
    }

    fn new(names: &[String]) -> Result<Self, String> {
        let chosen = |name: &String| {
            let kind = kind_of(name)?;
            let name = name.clone();
            Ok(Chosen { name, kind })
        };
        let chosen: Result<Vec<Chosen>, String> = names.iter().map(chosen).collect();
        chosen.map(Self)
    }
}

/// Are these events? The error says what is wrong.
pub(super) fn check(names: &[String]) -> Result<(), String> {
    EventFilter::new(names).map(drop)
}

fn kind_of(name: &str) -> Result<EventKind, String> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    let kind = alias.map(|(_, kind)| *kind);
    match kind.or_else(|| EventKind::from_word(name)) {
        Some(EventKind::NotificationFailed) => Err(format!(
            "the command is not run for its own failures ({name:?})"
        )),
        Some(kind) => Ok(kind),
        None => {
            let aliases = ALIASES.iter().map(|(alias, _)| *alias);
            let known = EventKind::WORDS.iter().copied().chain(aliases);
            Err(format!(
                "no event {name:?}{}",
                did_you_mean(nearest(name, known))
            ))
        }
    }
}

impl Field for EventFilter {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::List(names) => Self::new(&names).ok(),
            _ => None,
        }
    }

    fn to_value(&self) -> Value {
        Value::List(self.0.iter().map(|chosen| chosen.name.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use std::fs;
    use std::path::Path;

    use super::*;

    fn filter(names: &[&str]) -> Result<EventFilter, String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        EventFilter::new(&names)
    }

    #[test]
    fn each_kind_is_told_by_the_name_that_was_written() {
        let all = filter(&[]).unwrap();
        assert_eq!(all.name_of(EventKind::NodeDown), Some("node_down"));
        let some = filter(&["bdr_failover", "node_down", "failover_completed"]).unwrap();
        for (kind, name) in [
            (EventKind::FailoverCompleted, Some("bdr_failover")),
            (EventKind::NodeDown, Some("node_down")),
            (EventKind::NodeUp, None),
        ] {
            assert_eq!(some.name_of(kind), name);
        }
    }

    #[test]
    fn wrong_names_are_explained() {
        for (name, what) in [
            (
                "node_dwon",
                "no event \"node_dwon\", did you mean \"node_down\"?",
            ),
            (
                "bdr_recover",
                "no event \"bdr_recover\", did you mean \"bdr_recovery\"?",
            ),
            (
                "repmgrd_start_the_sluice",
                "no event \"repmgrd_start_the_sluice\"",
            ),
            ("", "no event \"\""),
            (
                "notification_failed",
                "the command is not run for its own failures (\"notification_failed\")",
            ),
        ] {
            assert_eq!(filter(&["node_up", name]).unwrap_err(), what);
        }
    }

    #[test]
    fn the_document_names_every_kind_and_every_alias() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md");
        let document = fs::read_to_string(path).unwrap();
        for kind in EventKind::WORDS {
            assert!(document.contains(&format!("| `{kind}` |")), "{kind}");
        }
        for (alias, kind) in ALIASES {
            let row = document
                .lines()
                .find(|line| line.starts_with('|') && line.contains(&format!("`{alias}`")));
            assert!(
                row.is_some_and(|row| row.contains(&format!("`{kind}`"))),
                "{alias}"
            );
            assert_eq!(
                EventKind::from_word(alias),
                None,
                "{alias} is a kind of our own"
            );
        }
    }
}
