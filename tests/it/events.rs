//! The notification command: what it is told, in which order, and what becomes of one that hangs,
//! fails, or is slower than the events come.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::client::{DATABASE, MONITOR, connect};
use crate::harness::eventually;
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::proxy::{ADMIN, CLUSTER, CONSOLE, NamedRow, Proxy, ProxySpec, named_rows};
use crate::tool::{Running, Said};
use crate::twins::{pair, twins};

const BINARY: &str = env!("CARGO_BIN_EXE_pgsluice");

/// Appends its arguments to `told`, in its own directory: their number, then each, NUL behind each.
const WRITES: &str = "printf '%s\\0' \"$#\" \"$@\" >>\"${0%/*}/told\"\n";

/// The script, run by a shell that is named: a file that was just written may be busy.
fn script(proxy: &Proxy, text: &str) -> PathBuf {
    let path = proxy.directory().join("notify.sh");
    fs::write(&path, text).unwrap();
    path
}

/// From now on these settings hold; the script gets `arguments`.
async fn notifies(proxy: &Proxy, text: &str, arguments: &str, settings: &str) {
    let path = script(proxy, text);
    let command = format!("/bin/sh {} {arguments}", path.display());
    configure(proxy, &command, settings).await;
}

async fn configure(proxy: &Proxy, command: &str, settings: &str) {
    let text = proxy.read_config();
    let kept = text.lines().filter(|line| !line.starts_with("event_"));
    let kept: Vec<&str> = kept.collect();
    let section = format!("[pgsluice]\nevent_notification_command = '''{command}'''\n{settings}");
    proxy.write_config(&kept.join("\n").replace("[pgsluice]", &section));
    proxy.reload().await;
}

/// Each run's arguments.
fn told(proxy: &Proxy) -> Vec<Vec<String>> {
    let text = fs::read(proxy.directory().join("told")).unwrap_or_default();
    let text = String::from_utf8(text).unwrap();
    let mut fields = text.split_terminator('\0');
    let mut runs = Vec::new();
    while let Some(count) = fields.next() {
        let count: usize = count.parse().unwrap();
        let run: Vec<String> = fields.by_ref().take(count).map(str::to_owned).collect();
        if run.len() < count {
            // Being written.
            break;
        }
        runs.push(run);
    }
    runs
}

async fn told_of(proxy: &Proxy, runs: usize) -> Vec<Vec<String>> {
    eventually(&format!("{runs} runs"), async || told(proxy).len() >= runs).await;
    let told = told(proxy);
    assert_eq!(told.len(), runs, "{told:?}");
    told
}

async fn events(proxy: &Proxy, kind: &str) -> Vec<NamedRow> {
    let events = proxy.admin("SHOW EVENTS").await.unwrap();
    let found = events.into_iter().filter(|event| event["type"] == kind);
    found.collect()
}

/// Waits for that many failures, and tells the details.
async fn failures(proxy: &Proxy, count: usize) -> Vec<String> {
    eventually(&format!("{count} failures"), async || {
        events(proxy, "notification_failed").await.len() >= count
    })
    .await;
    let failures = events(proxy, "notification_failed").await;
    assert_eq!(failures.len(), count, "{failures:?}");
    let detail = |event: NamedRow| {
        assert_eq!(event["success"], "no");
        event["detail"].clone()
    };
    failures.into_iter().map(detail).collect()
}

async fn say(proxy: &Proxy, sql: &str) {
    proxy.admin(sql).await.unwrap();
}

pub(crate) fn is_gone(pid: &str) -> bool {
    let Ok(stat) = fs::read_to_string(Path::new("/proc").join(pid).join("stat")) else {
        return true;
    };
    // A grandchild is init's to reap, and a container may have none.
    stat.rsplit(") ")
        .next()
        .unwrap_or_default()
        .starts_with('Z')
}

#[tokio::test]
async fn each_argument_is_what_the_event_says() {
    let proxy = twins("argv").await;
    let arguments =
        r#"fixed 'two "words"' %n %p %e %s "%t" "%d" "%c" "%a" 100%% --next=%a:%n "" ''"#;
    let filter = "event_notifications = [\"standby_switchover\", \"node_wanted\"]\n";
    notifies(&proxy, WRITES, arguments, filter).await;
    say(&proxy, "DRAIN n2").await;
    say(&proxy, "READY n2").await;
    say(&proxy, &format!("SWITCHOVER {CLUSTER} TO n2")).await;

    let wanted = events(&proxy, "node_wanted").await;
    let moved = events(&proxy, "switchover_completed").await;
    let [drained, readied, moved] = [&wanted[0], &wanted[1], &moved[0]];
    assert!(
        moved["detail"].contains("lead moved from \"n1\" to \"n2\""),
        "{moved:?}"
    );
    let pair = pair().await;
    let run = |event: &NamedRow, previous: &str, name: &str, next: &str| {
        let port = pair.node(next).port();
        let conninfo = format!(
            "host=127.0.0.1 port={port} dbname={DATABASE} user={}",
            MONITOR.user
        );
        let time = event["time"].replace(" UTC", "+00");
        let detail = event["detail"].as_str();
        let next_of = format!("--next={next}:2");
        [
            "fixed",
            "two \"words\"",
            "2",
            previous,
            name,
            "1",
            &time,
            detail,
            &conninfo,
            next,
            "100%",
            &next_of,
            "",
            "",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    // operation_started and all others are not asked for.
    assert_eq!(
        told_of(&proxy, 3).await,
        [
            run(drained, "0", "node_wanted", "n1"),
            run(readied, "0", "node_wanted", "n1"),
            run(moved, "1", "standby_switchover", "n2"),
        ]
    );
}

#[tokio::test]
async fn a_reload_is_told_and_changes_who_is_told_of_what() {
    let mut proxy = twins("reloaded").await;
    notifies(
        &proxy,
        WRITES,
        "%n %e %s %c %d",
        "event_notifications = \"repmgrd_reload\"\n",
    )
    .await;
    say(&proxy, "DRAIN n2").await;
    let good = proxy.read_config();
    proxy.write_config(&good.replace("repmgrd_reload", "repmgrd_relaod"));
    let refused = proxy.admin("RELOAD").await.unwrap_err();
    assert!(refused.to_string().contains("db error"), "{refused:?}");
    proxy.write_config(&good.replace("\"repmgrd_reload\"", "[]"));
    proxy.reload().await;
    say(&proxy, "READY n2").await;
    let told = told_of(&proxy, 4).await;
    let heads: Vec<[&str; 4]> = told
        .iter()
        .map(|run| [&run[0], &run[1], &run[2], &run[3]].map(String::as_str))
        .collect();
    let readied = &heads[3];
    assert_eq!(
        heads[..3],
        [
            ["0", "repmgrd_reload", "1", ""],
            ["0", "repmgrd_reload", "0", ""],
            ["0", "reloaded", "1", ""],
        ]
    );
    assert_eq!((readied[0], readied[1]), ("2", "node_wanted"));
    let why = &told[1][4];
    assert!(
        why.contains("nothing was changed") && why.contains("did you mean \"repmgrd_reload\"?"),
        "{why}"
    );

    // What is shown is still there after a restart, with the same ids.
    let before = proxy.admin("SHOW EVENTS").await.unwrap();
    proxy.signal("QUIT");
    proxy.ended().await;
    proxy.restart().await;
    let after = proxy.admin("SHOW EVENTS").await.unwrap();
    assert_eq!(after[..before.len()], before);
}

/// Ignores SIGTERM, as does its child; their pids are in `pids`.
const HANGS: &str = "\
trap '' TERM
sh -c 'trap \"\" TERM; while :; do sleep 1000; done' &
echo \"$$ $!\" >>\"${0%/*}/pids\"
echo waits for a word that does not come
while :; do sleep 1000; done
";

fn hanging(proxy: &Proxy) -> Vec<String> {
    let pids = fs::read_to_string(proxy.directory().join("pids")).unwrap_or_default();
    let whole = pids.rfind('\n').unwrap_or_default();
    pids[..whole]
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_it_started_and_delays_no_switchover() {
    let mut proxy = twins("hangs").await;
    let filter = "event_notifications = \"node_wanted\"\n";
    // Long enough for the script to begin; if not, it is killed all the same, and tried again.
    let soon = format!("event_notification_timeout = '1s'\n{filter}");
    notifies(&proxy, HANGS, "%e", &soon).await;
    let mut tries = 0;
    while hanging(&proxy).is_empty() {
        tries += 1;
        say(&proxy, "READY n2").await;
        failures(&proxy, tries).await;
    }
    let failure = failures(&proxy, tries).await.pop().unwrap();
    for words in [
        "/bin/sh, told of event ",
        " (node_wanted), did not end within 1s and was killed: waits for a word that does not come",
    ] {
        assert!(failure.contains(words), "{failure}");
    }
    let pids = hanging(&proxy);
    eventually("both are killed", async || {
        pids.iter().all(|pid| is_gone(pid))
    })
    .await;

    let never = format!("event_notification_timeout = '1h'\n{filter}");
    notifies(&proxy, HANGS, "%e", &never).await;
    say(&proxy, "READY n2").await;
    eventually("it hangs", async || hanging(&proxy).len() == pids.len() + 2).await;
    say(&proxy, &format!("SWITCHOVER {CLUSTER} TO n2")).await;
    say(&proxy, &format!("SWITCHOVER {CLUSTER} TO n1")).await;
    let pids = hanging(&proxy).split_off(pids.len());
    assert!(!pids.iter().any(|pid| is_gone(pid)), "it hangs still");

    // Nor does it keep the instance from ending.
    proxy.signal("QUIT");
    let status = proxy.ended().await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    eventually("both are killed", async || {
        pids.iter().all(|pid| is_gone(pid))
    })
    .await;
    proxy.restart().await;
    let failure = failures(&proxy, tries + 1).await.pop().unwrap();
    assert!(failure.ends_with("was killed: shutting down"), "{failure}");
}

#[tokio::test]
async fn one_that_fails_is_an_event_that_it_is_not_told_of() {
    let proxy = twins("fails").await;
    let fails = format!("{WRITES}echo \"cannot reach the pager\" >&2\n\nexit 3\n");
    // All kinds: it would be told of its own failures if they were told.
    notifies(&proxy, &fails, "%e %s", "").await;
    say(&proxy, "DRAIN n2").await;
    let details = failures(&proxy, 2).await;
    for (detail, kind) in details.iter().zip(["reloaded", "node_wanted"]) {
        let end = format!(" ({kind}), ended with status 3: cannot reach the pager");
        assert!(detail.ends_with(&end), "{detail}");
    }
    let about: Vec<_> = events(&proxy, "notification_failed")
        .await
        .iter()
        .map(|event| (event["cluster"].clone(), event["node"].clone()))
        .collect();
    let pair = |cluster: &str, node: &str| (cluster.to_owned(), node.to_owned());
    assert_eq!(about, [pair("", ""), pair(CLUSTER, "n2")]);
    notifies(&proxy, "kill -9 $$", "%e", "").await;
    let detail = failures(&proxy, 3).await.pop().unwrap();
    assert!(
        detail.ends_with(" (reloaded), was ended by signal 9"),
        "{detail}"
    );
    configure(&proxy, "/no/such/program %e", "").await;
    let detail = failures(&proxy, 4).await.pop().unwrap();
    assert!(
        detail.contains("/no/such/program, told of event"),
        "{detail}"
    );
    assert!(
        detail.contains("could not be started: No such file or directory"),
        "{detail}"
    );
    assert!(
        proxy
            .log()
            .contains("/no/such/program is not an executable file"),
        "the reload warns"
    );

    notifies(&proxy, WRITES, "%e %s", "").await;
    say(&proxy, "READY n2").await;
    let kinds: Vec<_> = told_of(&proxy, 4)
        .await
        .into_iter()
        .map(|mut run| run.remove(0))
        .collect();
    assert_eq!(
        kinds,
        ["reloaded", "node_wanted", "reloaded", "node_wanted"]
    );
}

#[tokio::test]
async fn a_burst_is_told_in_order_and_what_does_not_fit_is_counted() {
    const FIT: usize = 200;
    const TOO_MANY: usize = 20;
    let proxy = twins("burst").await;
    let waits = format!(
        ": >>\"${{0%/*}}/begun\"\nuntil [ -e \"${{0%/*}}/gate\" ]; do sleep 0.05; done\n{WRITES}"
    );
    notifies(
        &proxy,
        &waits,
        "%d",
        "event_notifications = ['node_wanted']\n",
    )
    .await;
    let (console, _driver) = connect(proxy.port(), ADMIN, CONSOLE).await.unwrap();
    let words = ["DRAIN n2", "READY n2"].into_iter().cycle();
    for (n, word) in words.enumerate().take(1 + FIT + TOO_MANY) {
        named_rows(&console, word).await.unwrap();
        if n == 0 {
            let begun = proxy.directory().join("begun");
            eventually("the first run has begun", async || begun.exists()).await;
        }
    }
    fs::write(proxy.directory().join("gate"), "").unwrap();
    let told = told_of(&proxy, 1 + FIT).await;
    let happened = events(&proxy, "node_wanted").await;
    assert_eq!(happened.len(), 1 + FIT + TOO_MANY);
    let of = |event: &NamedRow| vec![event["detail"].clone()];
    let happened: Vec<_> = happened.iter().take(1 + FIT).map(of).collect();
    assert_eq!(told, happened);
    let failure = failures(&proxy, 1).await.pop().unwrap();
    assert!(failure.starts_with("20 events were not told"), "{failure}");
    // There is room again.
    say(&proxy, "DRAIN n2").await;
    told_of(&proxy, 2 + FIT).await;
}

#[tokio::test]
async fn a_node_that_dies_and_comes_back_is_told_by_repmgrs_names() {
    let mut pair = Pair::start(Kind::Native, PairSpec::default()).await;
    let spec = ProxySpec {
        cluster: "monitor_interval = \"100ms\"\n".to_owned(),
        ..ProxySpec::new(PathBuf::from(BINARY))
    };
    let proxy = Proxy::start(&pair, spec).await;
    proxy.serving().await;
    let observed = async |wanted: &str| {
        let nodes = proxy.admin("SHOW NODES").await.unwrap();
        nodes
            .iter()
            .any(|node| node["node"] == "n2" && node["observed"] == wanted)
    };
    eventually("n2 is up", async || observed("up").await).await;
    let filter = "event_notifications = \"standby_failure, bdr_reconnect\"\n";
    notifies(&proxy, WRITES, "%n %e %s %a %d", filter).await;
    pair.n2.kill9();
    let failed = told_of(&proxy, 1).await.remove(0);
    let detail = failed[4].as_str();
    assert_eq!(failed, ["2", "standby_failure", "0", "n1", detail]);
    assert_eq!(detail, events(&proxy, "node_down").await[0]["detail"]);
    pair.n2.start().await;
    let back = told_of(&proxy, 2).await.remove(1);
    assert_eq!(back[..4], ["2", "bdr_reconnect", "1", "n1"]);
}

/// `pgsluice check`, on the file of an instance with such a command.
async fn checked(proxy: &Proxy, command: &str) -> Said {
    let file = proxy.directory().join("checked.toml");
    let section = format!("[pgsluice]\nevent_notification_command = {command}");
    fs::write(&file, proxy.read_config().replace("[pgsluice]", &section)).unwrap();
    Running::start(Command::new(BINARY).arg("check").arg(&file), "")
        .said()
        .await
}

#[tokio::test]
async fn a_command_is_checked_before_it_is_needed() {
    let proxy = twins("checked").await;
    let plain = script(&proxy, WRITES);
    let plain = plain.display();
    for (command, warning) in [
        ("'/bin/sh %e'".to_owned(), None),
        ("'sh %e'".to_owned(), None),
        (
            format!("'{plain} %e'"),
            Some(format!("{plain} is not an executable file")),
        ),
        (
            "['/tmp', '%e']".to_owned(),
            Some("/tmp is not an executable file".to_owned()),
        ),
        (
            "'no-such-program'".to_owned(),
            Some("no-such-program is not".to_owned()),
        ),
    ] {
        let said = checked(&proxy, &command).await;
        let wanted = warning.unwrap_or_default();
        assert!(said.err.contains(&wanted), "{command}: {said:?}");
        assert_eq!(
            said.err.is_empty(),
            wanted.is_empty(),
            "{command}: {said:?}"
        );
        said.ok();
    }
    let said = checked(&proxy, "'/bin/sh %e >>/tmp/log'").await;
    said.refused(&[
        "pgsluice.event_notification_command: no shell runs it",
        "write a script",
    ]);
}
