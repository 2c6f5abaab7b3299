#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use proptest::prelude::*;

use super::{Action, plan};
use crate::admin::ShutdownMode;
use crate::admin::command::{Command, Privilege, VERBS};
use crate::admin::driver::Driver;
use crate::cluster::Wanted;
use crate::config::{ClusterName, DatabaseName, NodeName, OnDrainTimeout};
use crate::control::SwitchoverRequest;

fn only(query: &str) -> Action {
    let mut planned = plan(query).unwrap();
    assert_eq!(planned.len(), 1, "{query}");
    planned.remove(0).action
}

fn command(query: &str) -> Command {
    match only(query) {
        Action::Command(_, command) => command,
        Action::Driver(driver) => panic!("{query} is {driver:?}"),
    }
}

fn app() -> DatabaseName {
    DatabaseName::new("app")
}

fn pause(database: Option<DatabaseName>, timeout_ms: Option<u64>) -> Command {
    Command::Pause {
        database,
        timeout: timeout_ms.map(Duration::from_millis),
        begun: false,
    }
}

fn request() -> SwitchoverRequest {
    SwitchoverRequest {
        target: NodeName::new("n2"),
        drain_timeout: None,
        catchup_timeout: None,
        on_drain_timeout: None,
    }
}

fn switchover(request: SwitchoverRequest, dry_run: bool) -> Command {
    Command::Switchover {
        cluster: ClusterName::new("main"),
        request,
        dry_run,
    }
}

#[test]
fn pooler_commands() {
    for (query, expected) in [
        ("PAUSE", pause(None, None)),
        ("pause;", pause(None, None)),
        ("Pause app;", pause(Some(app()), None)),
        (
            "PAUSE \"app\" TIMEOUT '10s'",
            pause(Some(app()), Some(10_000)),
        ),
        ("PAUSE TIMEOUT 500ms", pause(None, Some(500))),
        (
            "PAUSE \"timeout\"",
            pause(Some(DatabaseName::new("timeout")), None),
        ),
        ("/* x */ RESUME app -- y", Command::Resume(Some(app()))),
        ("KILL", Command::Kill(None)),
        ("KILL_CLIENT 17", Command::KillClient(17)),
        ("RELOAD", Command::Reload),
        ("SHUTDOWN", Command::Shutdown(ShutdownMode::Immediate)),
        (
            "shutdown wait_for_clients",
            Command::Shutdown(ShutdownMode::WaitForClients),
        ),
        (
            "SHUTDOWN WAIT_FOR_SERVERS",
            Command::Shutdown(ShutdownMode::WaitForServers),
        ),
        (
            "DISABLE app",
            Command::Disable {
                database: app(),
                disabled: true,
            },
        ),
        (
            "ENABLE app",
            Command::Disable {
                database: app(),
                disabled: false,
            },
        ),
        ("SHOW help", Command::Help),
        (
            "WAIT_CLOSE TIMEOUT '1min'",
            Command::WaitClose {
                database: None,
                timeout: Some(Duration::from_mins(1)),
            },
        ),
        (
            "RECONNECT app",
            Command::Reconnect {
                database: Some(app()),
                and_pause: false,
            },
        ),
    ] {
        assert_eq!(command(query), expected, "{query}");
    }
}

#[test]
fn cluster_commands() {
    for (query, expected) in [
        ("SWITCHOVER main TO n2", switchover(request(), false)),
        (
            "switchover main to n2 dry run;",
            switchover(request(), true),
        ),
        (
            "SWITCHOVER main TO n2 ON DRAIN TIMEOUT Terminate CATCHUP TIMEOUT '1min' DRAIN TIMEOUT '300ms'",
            switchover(
                SwitchoverRequest {
                    drain_timeout: Some(Duration::from_millis(300)),
                    catchup_timeout: Some(Duration::from_mins(1)),
                    on_drain_timeout: Some(OnDrainTimeout::Terminate),
                    ..request()
                },
                false,
            ),
        ),
        (
            "ABORT SWITCHOVER main",
            Command::AbortSwitchover(ClusterName::new("main")),
        ),
        (
            "FAILOVER main TO n2 ACCEPT LOSS",
            Command::Failover {
                cluster: ClusterName::new("main"),
                target: NodeName::new("n2"),
                accept_loss: true,
            },
        ),
        (
            "FENCE dc-a.n1",
            Command::SetWanted {
                node: NodeName::new("dc-a.n1"),
                wanted: Wanted::Fenced,
            },
        ),
        (
            "READY \"N 1\"",
            Command::SetWanted {
                node: NodeName::new("N 1"),
                wanted: Wanted::Ready,
            },
        ),
    ] {
        assert_eq!(command(query), expected, "{query}");
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (query, sqlstate, message, at, hint) in [
        (
            "PAUZE",
            "42601",
            "invalid command 'PAUZE', use SHOW HELP;",
            Some(1),
            Some("Perhaps you meant PAUSE."),
        ),
        (
            "SHOW POOL",
            "42601",
            "invalid command 'SHOW POOL', use SHOW HELP;",
            Some(1),
            Some("Perhaps you meant SHOW POOLS."),
        ),
        (
            "RELOAD; é; XYZZY 1",
            "42601",
            "invalid command 'é', use SHOW HELP;",
            Some(9),
            None,
        ),
        (
            "PAUSE app now",
            "42601",
            "syntax error at or near \"now\"",
            Some(11),
            Some("Syntax: PAUSE [db] [TIMEOUT '10s']"),
        ),
        (
            "KILL_CLIENT",
            "42601",
            "syntax error at end of input",
            Some(12),
            Some("Syntax: KILL_CLIENT id"),
        ),
        (
            "KILL_CLIENT x",
            "22P02",
            "invalid client id: \"x\"",
            Some(1),
            Some("SHOW CLIENTS has it in its column \"id\"."),
        ),
        (
            "PAUSE TIMEOUT 'soon'",
            "22023",
            "invalid TIMEOUT: expected a time from 0ms to 30d (\"10s\"; a bare number is seconds), not \"soon\"",
            Some(1),
            None,
        ),
        (
            "PAUSE 'app'",
            "42601",
            "syntax error at or near \"app\"",
            Some(7),
            Some("Syntax: PAUSE [db] [TIMEOUT '10s']"),
        ),
        (
            "SET pool_size = 5",
            "0A000",
            "cannot SET \"pool_size\" on the console",
            None,
            Some("Change it in the configuration file, then RELOAD."),
        ),
        (
            "SELECT * FROM pg_class",
            "0A000",
            "the console has no tables and runs no SQL",
            Some(8),
            Some(
                "Use SHOW HELP; to see what it knows. To reach a database, connect to it by its name.",
            ),
        ),
        (
            "PAUSE $1",
            "0A000",
            "the console takes no parameters",
            Some(7),
            None,
        ),
    ] {
        let failure = plan(query).unwrap_err();
        assert_eq!(
            (
                failure.sqlstate,
                failure.message.as_str(),
                failure.at,
                failure.hint.as_deref()
            ),
            (sqlstate, message, at, hint),
            "{query}"
        );
    }
}

#[test]
fn reconnect_and_pause_of_the_same_scope_are_one_act() {
    for (query, fused) in [
        ("RECONNECT; PAUSE;", true),
        ("RECONNECT app; PAUSE app TIMEOUT '5s'", true),
        ("RECONNECT; PAUSE app", false),
        ("RECONNECT; SHOW POOLS; PAUSE", false),
        ("PAUSE; RECONNECT", false),
    ] {
        let planned = plan(query).unwrap();
        let marks: Vec<bool> = planned
            .iter()
            .filter_map(|statement| match &statement.action {
                Action::Command(_, Command::Reconnect { and_pause, .. }) => Some(*and_pause),
                Action::Command(_, Command::Pause { begun, .. }) => Some(*begun),
                _ => None,
            })
            .collect();
        assert_eq!(marks, [fused, fused], "{query}");
    }
}

#[test]
fn every_verb_but_show_needs_an_admin() {
    for verb in VERBS {
        let open = verb.syntax.starts_with("SHOW ");
        assert_eq!(verb.privilege == Privilege::Stats, open, "{}", verb.syntax);
    }
}

/// The syntax lines are the grammar: the shortest form of each must parse to its own row.
#[test]
fn every_syntax_line_is_understood() {
    for verb in VERBS {
        let query = shortest(verb.syntax);
        match only(&query) {
            Action::Command(found, _) => assert_eq!(found.syntax, verb.syntax),
            Action::Driver(driver) => panic!("{query} is {driver:?}"),
        }
    }
}

fn shortest(syntax: &str) -> String {
    let required = syntax.split('[').next().unwrap();
    let word = |word: &str| word.split('|').next().unwrap().to_owned();
    let words: Vec<String> = required.split_whitespace().map(word).collect();
    let required = words.join(" ");
    required.replace("table", "POOLS").replace(" id", " 1")
}

#[test]
fn drivers_are_answered_politely() {
    for (query, tag) in [
        ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "BEGIN"),
        ("START TRANSACTION", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("ABORT", "ROLLBACK"),
        ("SAVEPOINT a", "SAVEPOINT"),
        ("ROLLBACK TO SAVEPOINT a", "ROLLBACK"),
        ("RELEASE SAVEPOINT a", "RELEASE"),
        ("SET extra_float_digits = 3", "SET"),
        ("SET application_name = 'PostgreSQL JDBC Driver'", "SET"),
        ("SET SESSION timezone TO 'UTC'", "SET"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET",
        ),
        ("SET TIME ZONE 'UTC'", "SET"),
        ("set client_encoding to 'UTF8'", "SET"),
        ("RESET ALL", "RESET"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("DEALLOCATE PREPARE pdo_stmt_1", "DEALLOCATE"),
        ("CLOSE ALL", "CLOSE CURSOR"),
        ("UNLISTEN *", "UNLISTEN"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "SHOW"),
        ("show standard_conforming_strings", "SHOW"),
        ("SELECT 1", "SELECT 1"),
        ("select pg_catalog.version()", "SELECT 1"),
        ("SELECT current_schema(), 'x' AS y", "SELECT 1"),
        ("SELECT pg_advisory_unlock_all()", "SELECT 1"),
        ("SELECT set_config('TimeZone', 'UTC', false)", "SELECT 1"),
    ] {
        let given = match only(query) {
            Action::Driver(
                Driver::Begin(tag)
                | Driver::End(tag)
                | Driver::Ignored(tag)
                | Driver::Deallocate(_, tag)
                | Driver::Row(tag, _),
            ) => tag,
            Action::Command(verb, _) => panic!("{query} is {}", verb.syntax),
        };
        assert_eq!(given, tag, "{query}");
    }
}

proptest! {
    #[test]
    fn the_parser_never_panics(query in any::<String>()) {
        let _ = plan(&query);
    }

    /// Pieces of the grammar in any order find deeper paths than random text.
    #[test]
    fn the_parser_never_panics_on_its_own_words(
        words in proptest::collection::vec(
            prop_oneof![
                "PAUSE|RECONNECT|SWITCHOVER|ABORT|FAILOVER|SHOW|SET|SELECT|DEALLOCATE|TO|DRY|RUN",
                "ON|DRAIN|TIMEOUT|CATCHUP|ACCEPT|LOSS|ALL|AS|version|pools|terminate",
                "[;,()$*.'\"é-]",
                "'[a-z0-9]{0,3}'",
            ],
            0..12,
        )
    ) {
        let query = words.join(" ");
        match plan(&query) {
            Ok(statements) => prop_assert!(statements.len() <= query.len()),
            Err(failure) => {
                let length = query.chars().count();
                prop_assert!(failure.at.is_none_or(|at| (1..=length + 1).contains(&at)));
            }
        }
    }
}
