//! Text → one immutable, checked [`Config`]. Pure: reading the file is the caller's business.

mod command;
mod diff;
mod event_filter;
mod event_kind;
mod field;
mod kind;
mod mistake;
mod names;
mod profile;
mod reference;
mod resolve;
mod route_rules;
mod row;
mod rules;
mod settings;
mod shell_words;
mod show;
mod toml;
mod units;

pub use command::{CommandLine, CommandTemplate, Placeholder};
pub use diff::{Diff, diff};
pub use event_filter::EventFilter;
pub use event_kind::EventKind;
pub use kind::parse_time;
pub use mistake::{Mistake, nearest};
pub use names::{ClusterName, DatabaseName, NodeName, UserName};
pub use reference::reference;
pub use rules::{bad_name as bad_node_name, is_host};
pub use settings::{ClusterConfig, DatabaseConfig, General, Listen, MonitorLogin, NodeConfig};
pub use show::{ConfigRow, show_config};
pub use toml::check;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use field::words;

/// Everything an instance needs to know. Built only by the parsers in this module, so a `Config`
/// that exists is valid: every database's cluster exists, every cluster has a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where clients come in.
    pub listen: Listen,
    /// Instance-wide settings.
    pub general: General,
    /// Clusters by name.
    pub clusters: BTreeMap<ClusterName, Arc<ClusterConfig>>,
    /// Databases by the name that clients use.
    pub databases: BTreeMap<DatabaseName, Arc<DatabaseConfig>>,
}

/// Least important messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs an operator.
    Error,
    /// What may need one.
    Warn,
    /// What an operator wants to read afterwards.
    Info,
    /// What a developer wants to read.
    Debug,
    /// Every step.
    Trace,
}
words!(LogLevel {
    Error = "error",
    Warn = "warn",
    Info = "info",
    Debug = "debug",
    Trace = "trace",
});

/// How a client proves who it is (PgBouncer's `auth_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// No proof; the user must be in the user list.
    Trust,
    /// Password in clear.
    Plain,
    /// MD5, or SCRAM where the stored secret is a SCRAM one (PgBouncer's rule).
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
}
words!(AuthType {
    Trust = "trust",
    Plain = "plain",
    Md5 = "md5",
    ScramSha256 = "scram-sha-256",
});

/// How the members of a cluster replicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationKind {
    /// Found out by asking the nodes.
    Auto,
    /// Native logical replication (publications and subscriptions), PostgreSQL 16 and later.
    Logical,
    /// The pglogical extension.
    Pglogical,
    /// Streaming replication of a physical standby.
    Physical,
    /// BDR 3 and later, EDB Postgres Distributed.
    Bdr,
}
words!(ReplicationKind {
    Auto = "auto",
    Logical = "logical",
    Pglogical = "pglogical",
    Physical = "physical",
    Bdr = "bdr",
});

impl ReplicationKind {
    /// Does the setting allow that kind?
    pub fn may_be(self, kind: Self) -> bool {
        self == Self::Auto || self == kind
    }
}

/// Who performs `pg_promote` on a physical standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// Somebody else (Patroni, repmgr, an operator): we wait until it is writable.
    Wait,
    /// We call `pg_promote(false)`.
    PgPromote,
}
words!(Promote { Wait = "wait", PgPromote = "pg_promote" });

/// Who decides that a lead is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverPolicy {
    /// pgsluice, after fresh probes have confirmed it.
    Auto,
    /// An operator.
    Manual,
}
words!(FailoverPolicy { Auto = "auto", Manual = "manual" });

/// How quick a cluster's probes are where the file does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For any network.
    Standard,
    /// For nodes nearby.
    Fast,
}
words!(Profile { Standard = "standard", Fast = "fast" });

/// What happens to sessions that did not reach their safe point within `drain_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrainTimeout {
    /// Give up: everybody goes on at the old lead.
    Abort,
    /// Cancel the running statements, then give up if that did not help.
    Cancel,
    /// Close the sessions with 57P01.
    Terminate,
}
words!(OnDrainTimeout { Abort = "abort", Cancel = "cancel", Terminate = "terminate" });

/// May a node become lead?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    /// By switchover and by failover.
    Auto,
    /// Only when an operator names it.
    Manual,
    /// Never (logical standby, witness).
    Never,
}
words!(Candidate { Auto = "auto", Manual = "manual", Never = "never" });

/// PgBouncer's pool modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A server belongs to a session from login to disconnect.
    Session,
}
words!(PoolMode { Session = "session" });

/// Which node of the cluster a database's clients get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The lead.
    Lead,
    /// A node that follows the lead closely, read-only.
    Read,
    /// A node that takes writes, lead or not.
    Any,
}
words!(Route { Lead = "lead", Read = "read", Any = "any" });

/// How sessions are spread over nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// To the node with the fewest.
    LeastConnections,
}
words!(Balance {
    RoundRobin = "round-robin",
    LeastConnections = "least-connections",
});

/// Who serves reads when no node is fit for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFallback {
    /// The lead.
    Lead,
    /// Nobody: 57P03.
    Refuse,
}
words!(ReadFallback { Lead = "lead", Refuse = "refuse" });

/// A string that never shows itself.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself: for the one who must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}

#[cfg(test)]
mod tests;
