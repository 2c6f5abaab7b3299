//! The console's commands: one table row each. The syntax in the row is both the help text and the
//! grammar that the parser follows. Pure.

use std::time::Duration;

use super::ShutdownMode;
use super::failure::{Failure, probably, shorten};
use super::members;
use super::pattern::Captures;
use super::show::{self, Table};
use crate::cluster::Wanted;
use crate::config::{Candidate, ClusterName, DatabaseName, NodeName, OnDrainTimeout, parse_time};
use crate::control::{AddedNode, SwitchoverRequest};

/// What a console user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// `stats_users`: SHOW only.
    Stats,
    /// `admin_users`: everything.
    Admin,
}

/// A row of [`VERBS`].
#[derive(Debug)]
pub(super) struct Verb {
    /// Upper case: keyword. Lower case: a name. `'10s'`: a time. `[..]`: may be left out, in any
    /// order. `a|b`: one of these keywords.
    pub(super) syntax: &'static str,
    /// Who may.
    pub(super) privilege: Privilege,
    /// Command tag of the answer.
    pub(super) tag: &'static str,
    /// Line of SHOW HELP.
    pub(super) help: &'static str,
    pub(super) build: fn(&Captures<'_>) -> Result<Command, Failure>,
}

/// A command, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Show(&'static Table),
    Help,
    Pause {
        database: Option<DatabaseName>,
        timeout: Option<Duration>,
        /// The RECONNECT just before has closed the gate already.
        begun: bool,
    },
    Resume(Option<DatabaseName>),
    Reconnect {
        database: Option<DatabaseName>,
        /// `RECONNECT; PAUSE;`: one act.
        and_pause: bool,
    },
    WaitClose {
        database: Option<DatabaseName>,
        timeout: Option<Duration>,
    },
    Kill(Option<DatabaseName>),
    KillClient(u64),
    Disable {
        database: DatabaseName,
        disabled: bool,
    },
    Reload,
    Shutdown(ShutdownMode),
    SetWanted {
        node: NodeName,
        wanted: Wanted,
    },
    Switchover {
        cluster: ClusterName,
        request: SwitchoverRequest,
        dry_run: bool,
    },
    AbortSwitchover(ClusterName),
    Failover {
        cluster: ClusterName,
        target: NodeName,
        accept_loss: bool,
    },
    SetCandidate {
        node: NodeName,
        candidate: Candidate,
    },
    AddNode {
        node: NodeName,
        added: AddedNode,
    },
    RemoveNode(NodeName),
    Maintenance {
        node: NodeName,
        begin: bool,
        timeout: Option<Duration>,
    },
}

/// All commands, in the order of SHOW HELP.
pub(super) const VERBS: &[Verb] = &[
    Verb {
        syntax: "SHOW table",
        privilege: Privilege::Stats,
        tag: "SHOW",
        help: "see the list of tables below",
        build: |c| show_table(c.name("table")),
    },
    Verb {
        syntax: "PAUSE [db] [TIMEOUT '10s']",
        privilege: Privilege::Admin,
        tag: "PAUSE",
        help: "new work waits; answers when no client has a server",
        build: |c| {
            Ok(Command::Pause {
                database: c.optional("db").map(DatabaseName::new),
                timeout: c.duration("TIMEOUT")?,
                begun: false,
            })
        },
    },
    Verb {
        syntax: "RESUME [db]",
        privilege: Privilege::Admin,
        tag: "RESUME",
        help: "lift a PAUSE or KILL",
        build: |c| Ok(Command::Resume(c.optional("db").map(DatabaseName::new))),
    },
    Verb {
        syntax: "RECONNECT [db]",
        privilege: Privilege::Admin,
        tag: "RECONNECT",
        help: "close servers as they are released; \"RECONNECT; PAUSE;\" also stops sessions at their safe point",
        build: |c| {
            Ok(Command::Reconnect {
                database: c.optional("db").map(DatabaseName::new),
                and_pause: false,
            })
        },
    },
    Verb {
        syntax: "WAIT_CLOSE [db] [TIMEOUT '30s']",
        privilege: Privilege::Admin,
        tag: "WAIT_CLOSE",
        help: "answers when no server from before the last RECONNECT is left",
        build: |c| {
            Ok(Command::WaitClose {
                database: c.optional("db").map(DatabaseName::new),
                timeout: c.duration("TIMEOUT")?,
            })
        },
    },
    Verb {
        syntax: "KILL [db]",
        privilege: Privilege::Admin,
        tag: "KILL",
        help: "pause, and close every client and server at once",
        build: |c| Ok(Command::Kill(c.optional("db").map(DatabaseName::new))),
    },
    Verb {
        syntax: "KILL_CLIENT id",
        privilege: Privilege::Admin,
        tag: "KILL_CLIENT",
        help: "close one client (id: SHOW CLIENTS)",
        build: |c| client_id(c.name("id")),
    },
    Verb {
        syntax: "DISABLE db",
        privilege: Privilege::Admin,
        tag: "DISABLE",
        help: "refuse new logins",
        build: |c| Ok(disable(c, true)),
    },
    Verb {
        syntax: "ENABLE db",
        privilege: Privilege::Admin,
        tag: "ENABLE",
        help: "take logins again",
        build: |c| Ok(disable(c, false)),
    },
    Verb {
        syntax: "RELOAD",
        privilege: Privilege::Admin,
        tag: "RELOAD",
        help: "read the configuration again: all of it or nothing",
        build: |_| Ok(Command::Reload),
    },
    Verb {
        syntax: "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        privilege: Privilege::Admin,
        tag: "SHUTDOWN",
        help: "end this instance",
        build: |c| Ok(Command::Shutdown(shutdown_mode(c))),
    },
    Verb {
        syntax: "SWITCHOVER cluster TO node [DRY RUN] [DRAIN TIMEOUT '5s'] [CATCHUP TIMEOUT '10s'] \
                 [ON DRAIN TIMEOUT abort|cancel|terminate]",
        privilege: Privilege::Admin,
        tag: "SWITCHOVER",
        help: "move the lead without losing a commit; DRY RUN only looks",
        build: switchover,
    },
    Verb {
        syntax: "ABORT SWITCHOVER cluster",
        privilege: Privilege::Admin,
        tag: "ABORT SWITCHOVER",
        help: "give a running switchover up: everybody goes on at the old lead",
        build: |c| {
            Ok(Command::AbortSwitchover(ClusterName::new(
                c.name("cluster"),
            )))
        },
    },
    Verb {
        syntax: "FAILOVER cluster TO node [ACCEPT LOSS]",
        privilege: Privilege::Admin,
        tag: "FAILOVER",
        help: "move the lead off a dead node",
        build: |c| {
            Ok(Command::Failover {
                cluster: ClusterName::new(c.name("cluster")),
                target: NodeName::new(c.name("node")),
                accept_loss: c.given("ACCEPT LOSS"),
            })
        },
    },
    Verb {
        syntax: "READY node",
        privilege: Privilege::Admin,
        tag: "READY",
        help: "the node may serve",
        build: |c| Ok(wanted(c, Wanted::Ready)),
    },
    Verb {
        syntax: "DRAIN node",
        privilege: Privilege::Admin,
        tag: "DRAIN",
        help: "no new work for the node; no switchover to it",
        build: |c| Ok(wanted(c, Wanted::Drain)),
    },
    Verb {
        syntax: "MAINT node",
        privilege: Privilege::Admin,
        tag: "MAINT",
        help: "the node is out of service",
        build: |c| Ok(wanted(c, Wanted::Maint)),
    },
    Verb {
        syntax: "FENCE node",
        privilege: Privilege::Admin,
        tag: "FENCE",
        help: "the node must not be used until READY",
        build: |c| Ok(wanted(c, Wanted::Fenced)),
    },
    Verb {
        syntax: "MAINTENANCE BEGIN node [TIMEOUT '30s']",
        privilege: Privilege::Admin,
        tag: "MAINTENANCE",
        help: "take a node out, moving the lead off it first; answers when it is safe to stop it",
        build: |c| members::maintenance(c, true),
    },
    Verb {
        syntax: "MAINTENANCE END node [TIMEOUT '30s']",
        privilege: Privilege::Admin,
        tag: "MAINTENANCE",
        help: "take it back; answers when it is up, replicates and has caught up",
        build: |c| members::maintenance(c, false),
    },
    Verb {
        syntax: "SET NODE node ELIGIBLE|MANUAL|INELIGIBLE",
        privilege: Privilege::Admin,
        tag: "SET NODE",
        help: "whether it may become lead: by itself, only when named, or never",
        build: |c| Ok(members::set_candidate(c)),
    },
    Verb {
        syntax: "ADD NODE node TO cluster HOST 'host' [PORT 'port'] [PRIORITY 'number']",
        privilege: Privilege::Admin,
        tag: "ADD NODE",
        help: "a new member, kept besides the configuration file",
        build: members::add_node,
    },
    Verb {
        syntax: "REMOVE NODE node",
        privilege: Privilege::Admin,
        tag: "REMOVE NODE",
        help: "no member any more; answers with the SQL that the others need",
        build: |c| Ok(Command::RemoveNode(NodeName::new(c.name("node")))),
    },
];

fn show_table(name: &str) -> Result<Command, Failure> {
    if name.eq_ignore_ascii_case("help") {
        return Ok(Command::Help);
    }
    if let Some(table) = show::find(name) {
        return Ok(Command::Show(table));
    }
    let failure = Failure::new(
        "42601",
        format!("invalid command 'SHOW {}', use SHOW HELP;", shorten(name)),
    );
    let tables = show::TABLES.iter().map(|table| table.name);
    Err(match probably(name, tables.chain(["HELP"])) {
        Some(table) => failure.hint(format!("Perhaps you meant SHOW {table}.")),
        None => failure,
    })
}

fn client_id(text: &str) -> Result<Command, Failure> {
    text.parse().map(Command::KillClient).map_err(|_| {
        Failure::new("22P02", format!("invalid client id: \"{}\"", shorten(text)))
            .hint("SHOW CLIENTS has it in its column \"id\".")
    })
}

fn disable(captures: &Captures<'_>, disabled: bool) -> Command {
    Command::Disable {
        database: DatabaseName::new(captures.name("db")),
        disabled,
    }
}

fn wanted(captures: &Captures<'_>, wanted: Wanted) -> Command {
    Command::SetWanted {
        node: NodeName::new(captures.name("node")),
        wanted,
    }
}

fn shutdown_mode(captures: &Captures<'_>) -> ShutdownMode {
    match captures.choice("") {
        Some("WAIT_FOR_SERVERS") => ShutdownMode::WaitForServers,
        Some("WAIT_FOR_CLIENTS") => ShutdownMode::WaitForClients,
        _ => ShutdownMode::Immediate,
    }
}

fn switchover(captures: &Captures<'_>) -> Result<Command, Failure> {
    Ok(Command::Switchover {
        cluster: ClusterName::new(captures.name("cluster")),
        request: SwitchoverRequest {
            target: NodeName::new(captures.name("node")),
            drain_timeout: captures.duration("DRAIN TIMEOUT")?,
            catchup_timeout: captures.duration("CATCHUP TIMEOUT")?,
            on_drain_timeout: match captures.choice("ON DRAIN TIMEOUT") {
                Some("abort") => Some(OnDrainTimeout::Abort),
                Some("cancel") => Some(OnDrainTimeout::Cancel),
                Some("terminate") => Some(OnDrainTimeout::Terminate),
                _ => None,
            },
        },
        dry_run: captures.given("DRY RUN"),
    })
}

impl Captures<'_> {
    pub(super) fn duration(&self, key: &str) -> Result<Option<Duration>, Failure> {
        let time = self.optional(key).map(parse_time).transpose();
        time.map_err(|why| Failure::new("22023", format!("invalid {key}: {why}")))
    }
}
