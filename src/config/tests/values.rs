//! What single settings accept, what they mean, and that none is forgotten.

use std::time::Duration;

use proptest::prelude::{Strategy, any, prop, proptest};

use toml_edit::DocumentMut;

use super::{VALID, read, with};
use crate::config::kind::{Bare, Kind, LONGEST, Value};
use crate::config::mistake::nearest;
use crate::config::row::{Fallback, Reload, Row, Section};
use crate::config::units::human;
use crate::config::{
    AuthType, Candidate, ClusterConfig, Config, DatabaseConfig, FailoverPolicy, General, Listen,
    LogLevel, MonitorLogin, NodeConfig, OnDrainTimeout, Secret, UserName, parse_time, settings,
    show_config,
};

const TIME: Kind = Kind::time_or_off(100);
const TIME_MS: Kind = Kind::Time {
    min: Duration::from_millis(100),
    max: LONGEST,
    off: false,
    bare: Bare::Milliseconds,
};
const SIZE: Kind = Kind::Size { max: 1 << 44 };

#[test]
fn texts_become_values() {
    let ms = |ms| Value::Time(Duration::from_millis(ms));
    let text = |text: &str| Value::Text(text.to_owned());
    let list = |list: &[&str]| Value::List(list.iter().map(ToString::to_string).collect());
    let cases = [
        (TIME, "10s", ms(10_000)),
        (TIME, "300ms", ms(300)),
        (TIME, "5min", ms(300_000)),
        (TIME, "1h", ms(3_600_000)),
        (TIME, "1 d", ms(86_400_000)),
        (TIME, "10", ms(10_000)),
        (TIME, "0.3", ms(300)),
        (TIME, "1.5s", ms(1500)),
        (TIME, "0", ms(0)),
        (TIME, "0s", ms(0)),
        (TIME_MS, "12500", ms(12_500)),
        (TIME_MS, "12s", ms(12_000)),
        (SIZE, "16MB", Value::Size(16 << 20)),
        (SIZE, "1.5 GB", Value::Size(3 << 29)),
        (SIZE, "8kB", Value::Size(8192)),
        (SIZE, "100", Value::Size(100)),
        (SIZE, "16TB", Value::Size(1 << 44)),
        (Kind::Flag, "true", Value::Flag(true)),
        (Kind::Flag, "1", Value::Flag(true)),
        (Kind::Flag, "false", Value::Flag(false)),
        (Kind::Flag, "0", Value::Flag(false)),
        (Kind::Mode, "0777", Value::Integer(0o777)),
        (Kind::Mode, "600", Value::Integer(0o600)),
        (Kind::List, "a, b,,c ", list(&["a", "b", "c"])),
        (Kind::List, "", list(&[])),
        (Kind::Relation, "public.marker_2", text("public.marker_2")),
        (Kind::Relation, "", text("")),
        (
            Kind::Host,
            "/var/run/postgresql",
            text("/var/run/postgresql"),
        ),
        (Kind::Host, "fe80::1", text("fe80::1")),
    ];
    for (kind, from, expected) in cases {
        assert_eq!(kind.parse(from).as_ref(), Ok(&expected), "{kind}: {from:?}");
    }
}

#[test]
fn wrong_texts_are_refused() {
    let cases = [
        (
            TIME,
            &[
                "", "s", "-1", "+1", "1e3", "inf", "nan", "1.2.3s", ".", "10m", "10S", "10 s s",
            ][..],
        ),
        (TIME, &["50ms", "31d", "99999999999999999999999999999999d"]),
        (TIME_MS, &["0", "50"]),
        (
            SIZE,
            &[
                "16mb",
                "16M",
                "-1",
                "1e6",
                "17TB",
                "99999999999999999999999999TB",
            ],
        ),
        (Kind::Flag, &["yes", "on", "2", "", "TRUE"]),
        (
            Kind::Integer { min: 1, max: 9 },
            &["0", "10", "1.0", "", "x", "99999999999999999999"],
        ),
        (Kind::Mode, &["", "0888", "1777", "-1", "0o770", "rwx"]),
        (Kind::Name, &["", "a\0b"]),
        (Kind::Host, &["", "a,b", "a b", "a\n"]),
        (
            Kind::Relation,
            &["a.b.c", "a;b", "A", "\"a\"", "1a", ".a", "a."],
        ),
        (Kind::Secret, &["", "a\0b"]),
    ];
    for (kind, texts) in cases {
        for text in texts {
            assert!(kind.parse(text).is_err(), "{kind}: {text:?}");
        }
    }
}

#[test]
fn the_console_reads_times_as_the_file_does() {
    assert_eq!(parse_time("300ms"), Ok(Duration::from_millis(300)));
    assert_eq!(parse_time("0"), Ok(Duration::ZERO));
    let error = parse_time("10m").unwrap_err();
    assert_eq!(
        error,
        "\"10m\" has a wrong unit: use one of ms, s, min, h, d"
    );
    for (word, expected) in [("abort", Some(OnDrainTimeout::Abort)), ("ABORT", None)] {
        assert_eq!(OnDrainTimeout::from_word(word), expected);
    }
}

#[test]
fn times_are_told_in_the_largest_whole_unit() {
    for (ms, expected) in [
        (0, "0ms"),
        (1, "1ms"),
        (1500, "1500ms"),
        (90_000, "90s"),
        (300_000, "5min"),
        (86_400_000, "1d"),
    ] {
        assert_eq!(human(Duration::from_millis(ms)), expected);
    }
}

#[test]
fn defaults_hold_where_the_file_is_silent() {
    let config = read(VALID).unwrap();
    let seconds = Duration::from_secs;
    let general = &config.general;
    assert_eq!(config.listen.address, ["127.0.0.1"]);
    assert_eq!((config.listen.port, config.listen.backlog), (6432, 4096));
    assert_eq!(
        config.listen.unix_socket_dir.as_deref(),
        Some("/tmp".as_ref())
    );
    assert_eq!(config.listen.unix_socket_mode, 0o777);
    assert_eq!(
        (general.workers, general.state_dir.to_str()),
        (0, Some("/var/lib/pgsluice"))
    );
    assert_eq!(
        (general.auth_type, general.log_level),
        (AuthType::ScramSha256, LogLevel::Info)
    );
    assert!(general.log_connections && general.log_disconnections && general.tcp_keepalive);
    assert_eq!(
        (general.max_client_conn, general.default_pool_size),
        (100, 20)
    );
    assert_eq!(general.query_wait_timeout, Some(seconds(120)));
    assert_eq!(general.tcp_keepcnt, Some(3));
    assert_eq!(general.shutdown_timeout, None);
    assert_eq!(general.server_reset_query, "DISCARD ALL");
    let cluster = &config.clusters["main"];
    assert_eq!(cluster.failover, FailoverPolicy::Manual);
    assert_eq!(cluster.on_drain_timeout, OnDrainTimeout::Abort);
    assert_eq!((cluster.fall, cluster.rise), (3, 2));
    assert_eq!(cluster.switchover_lag_max_bytes, 16 << 20);
    assert_eq!(
        (cluster.marker_table.as_deref(), cluster.release_per_ms),
        (None, None)
    );
    assert_eq!(
        cluster.monitor.password,
        Some(Secret::new("sesame".to_owned()))
    );
    let nodes: Vec<_> = cluster
        .nodes
        .iter()
        .map(|n| (n.name.as_str(), n.priority))
        .collect();
    assert_eq!(nodes, [("n1", 100), ("n2", 90)]);
    assert_eq!(
        (cluster.nodes[0].port, cluster.nodes[0].candidate),
        (5432, Candidate::Auto)
    );
    // Only the line end is cut off a secret's file: a space may be part of it.
    let other = &config.clusters["other"].monitor.password;
    assert_eq!(other.as_ref().map(Secret::expose), Some("open "));
    assert_eq!(config.databases["app"].dbname, "app");
    assert_eq!(
        (
            config.databases["app2"].dbname.as_str(),
            config.databases["app2"].pool_size
        ),
        ("app", None)
    );
}

#[test]
fn zero_and_empty_are_off() {
    let text = with(
        "[pgsluice]",
        "unix_socket_dir = ''\n[pgsluice]\nquery_wait_timeout = 0\ntcp_keepidle = '0'\n\
         tcp_keepcnt = 0\nserver_reset_query = ''\nadmin_users = 'a, b'",
    );
    let config = read(&text).unwrap();
    assert_eq!(config.listen.unix_socket_dir, None);
    assert_eq!(config.general.query_wait_timeout, None);
    assert_eq!(
        (config.general.tcp_keepidle, config.general.tcp_keepcnt),
        (None, None)
    );
    assert_eq!(config.general.server_reset_query, "");
    assert_eq!(
        config.general.admin_users,
        [UserName::new("a"), UserName::new("b")]
    );
}

#[test]
fn variables_stand_for_any_part_of_a_text() {
    let password = |written: &str| {
        let config = read(&with("${GOOD}", written)).unwrap();
        config.clusters["main"]
            .monitor
            .password
            .as_ref()
            .unwrap()
            .expose()
            .to_owned()
    };
    assert_eq!(password("a${GOOD}b${PORT}"), "asesameb7777");
    assert_eq!(password("$${GOOD}$"), "${GOOD}$");
    // What a variable holds is taken as it is: neither expanded nor opened.
    assert_eq!(password("${FILE}"), "file:/secret");
    let config = read(&with("port = 6432", "port = '${PORT}'")).unwrap();
    assert_eq!(config.listen.port, 7777);
}

#[test]
fn secrets_are_never_shown() {
    let config = read(VALID).unwrap();
    let rows = show_config(&config);
    for shown in [
        format!("{config:?}"),
        format!("{config:#?}"),
        format!("{rows:?}"),
    ] {
        assert!(
            !shown.contains("sesame") && !shown.contains("open "),
            "{shown}"
        );
    }
}

#[test]
fn show_config_speaks_pgbouncers_language() {
    let text = with("port = 6432", "port = 6433\nunix_socket_mode = '0770'");
    let text = text.replace("[pgsluice]", "[pgsluice]\nquery_wait_timeout = '1500ms'");
    let rows = show_config(&read(&text).unwrap());
    let expected = [
        ("listen_addr", "127.0.0.1", "127.0.0.1", false),
        ("listen_port", "6433", "6432", false),
        ("unix_socket_mode", "0770", "0777", false),
        ("max_client_conn", "100", "100", true),
        ("query_wait_timeout", "1.5", "120", true),
        ("server_lifetime", "3600", "3600", true),
        ("shutdown_timeout", "0", "0", true),
        ("tcp_keepalive", "1", "1", true),
        ("tcp_user_timeout", "20000", "20000", true),
        ("auth_file", "/etc/userlist.txt", "", true),
        (
            "clusters.main.switchover_lag_max",
            "16777216",
            "16777216",
            false,
        ),
        ("clusters.main.marker_table", "", "", false),
    ];
    for (key, value, default, changeable) in expected {
        let row = rows.iter().find(|row| row.key == key).expect(key);
        let got = (row.value.as_str(), row.default.as_str(), row.changeable);
        assert_eq!(got, (value, default, changeable), "{key}");
    }
}

/// A row is all that a setting needs: each one has a readable default, takes another value from
/// the file, and gives it back.
#[test]
fn every_row_works() {
    fn of<S: Section>(path: &[&str], find: impl Fn(&Config) -> &S) {
        for setting in S::SETTINGS {
            let row = &setting.row;
            assert!(
                row.default().is_some() || row.fallback == Fallback::Required,
                "{}",
                row.key
            );
            let (text, value) = sample(row);
            let mut document: DocumentMut = VALID.parse().unwrap();
            let mut section = document.as_item_mut();
            for part in path {
                section = &mut section[part];
            }
            if row.key.starts_with("read_") || row.key == "balance" {
                section["route"] = toml_edit::value("read");
            }
            section[row.key] = if row.kind.is_textual() {
                toml_edit::value(text)
            } else {
                toml_edit::Item::Value(text.parse().unwrap())
            };
            let file = document.to_string();
            let config = read(&file).unwrap_or_else(|found| panic!("{found:?}\n{file}"));
            assert_eq!((setting.get)(find(&config)), value, "{}", row.key);
        }
    }
    of::<Listen>(&["listen"], |config| &config.listen);
    of::<General>(&["pgsluice"], |config| &config.general);
    of::<ClusterConfig>(&["clusters", "main"], |config| &config.clusters["main"]);
    of::<MonitorLogin>(&["clusters", "main", "monitor"], |c| {
        &c.clusters["main"].monitor
    });
    of::<NodeConfig>(&["clusters", "main", "nodes", "n1"], |c| {
        &c.clusters["main"].nodes[0]
    });
    of::<DatabaseConfig>(&["databases", "app"], |config| &config.databases["app"]);
}

/// A text that the row accepts and its value: not the default, where there is a choice.
fn sample(row: &Row) -> (String, Value) {
    let default = row.default();
    let text = match row.kind {
        Kind::Flag => (default == Some(Value::Flag(false))).to_string(),
        Kind::Integer { min, .. } => (min + 7).to_string(),
        Kind::Time {
            bare: Bare::Milliseconds,
            ..
        } => "1234".to_owned(),
        Kind::Time { .. } => "7.5".to_owned(),
        Kind::Size { .. } => "12345".to_owned(),
        Kind::Name if row.key == "cluster" => "other".to_owned(),
        Kind::Text | Kind::Name | Kind::Host | Kind::Secret => "/sample/text".to_owned(),
        Kind::Relation => "schema.table_2".to_owned(),
        Kind::List => "first,second".to_owned(),
        Kind::Command => "/sample/program %n \"a b\"".to_owned(),
        Kind::Events => "node_up,bdr_failover".to_owned(),
        Kind::Mode => "0701".to_owned(),
        Kind::Choice { words, later } => {
            let now: Vec<_> = words.iter().filter(|word| !later.contains(word)).collect();
            let other = now
                .iter()
                .find(|w| default != Some(Value::Text((**w).to_string())));
            other.or(now.first()).unwrap().to_string()
        }
    };
    let value = row.kind.parse(&text).unwrap();
    let one_choice =
        matches!(row.kind, Kind::Choice { words, later } if words.len() <= later.len() + 1);
    assert!(
        one_choice || default.as_ref() != Some(&value),
        "{}",
        row.key
    );
    (text, value)
}

#[test]
fn names_of_settings_are_unique_on_the_console() {
    let mut names: Vec<_> = Listen::rows()
        .chain(General::rows())
        .map(|row| row.pgbouncer)
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(settings::all().all(|(_, row)| row.doc.trim().len() > 4));
}

/// RELOAD takes a changed database whole.
#[test]
fn databases_need_no_restart() {
    assert!(DatabaseConfig::rows().all(|row| row.reload == Reload::Live));
}

#[test]
fn nearest_word_is_a_likely_one() {
    let known = ["port", "address", "query_wait_timeout"];
    for (word, expected) in [
        ("prot", Some("port")),
        ("pot", Some("port")),
        ("PORT", Some("port")),
        ("adress", Some("address")),
        ("query_wait_timeot", Some("query_wait_timeout")),
        ("query_timeout", Some("query_wait_timeout")),
        ("zzz", None),
        ("", None),
    ] {
        assert_eq!(nearest(word, known), expected, "{word}");
    }
}

/// Pieces of configuration files, whole and broken.
fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "\"",
        "\"\"\"",
        "'",
        "#",
        " ",
        "\\",
        "\r\n",
        "é",
        "\0",
        "listen",
        "pgsluice",
        "clusters",
        "databases",
        "monitor",
        "nodes",
        "port",
        "host",
        "n1",
        "[listen]\n",
        "[pgsluice]\n",
        "[clusters.a]\n",
        "[clusters.a.nodes]\n",
        "[databases.d]\n",
        "[[clusters]]\n",
        "port = 1\n",
        "address = [\"*\", 1]\n",
        "query_wait_timeout = 1e300\n",
        "n1 = { host = \"h\" }\n",
        "monitor = { user = \"u\", password = \"${X}\" }\n",
        "cluster = \"a\"\n",
        "pool_size = -9223372036854775808\n",
        "fall = inf\n",
        "\"${\"",
        "switchover_lag_max = \"9999999999999999TB\"\n",
        "1979-05-27",
        "0x7f",
        "nan",
        "true",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_stops_the_parser(text in toml_like()) {
        if let Err(found) = read(&text) {
            assert!(!found.is_empty());
            let lines = text.lines().count().max(1) + 1;
            assert!(found.iter().all(|mistake| (1..=lines).contains(&mistake.line)), "{found:?}");
        }
    }

    #[test]
    fn no_change_of_a_valid_file_stops_the_parser(
        at in 0..VALID.len(), length in 0..20_usize, new in any::<String>()
    ) {
        let at = VALID.floor_char_boundary(at);
        let end = VALID.floor_char_boundary((at + length).min(VALID.len()));
        let text = format!("{}{new}{}", &VALID[..at], &VALID[end.max(at)..]);
        if let Err(found) = read(&text) {
            assert!(!found.is_empty());
        }
    }

    #[test]
    fn no_text_stops_a_kind(text in any::<String>()) {
        for (_, row) in settings::all() {
            // What was accepted can be shown.
            if let Ok(value) = row.kind.parse(&text) {
                let _ = row.kind.show(&value);
            }
        }
    }
}
