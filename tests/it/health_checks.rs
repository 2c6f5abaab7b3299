//! Checks besides the probe's own queries, and nodes that come and go.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::events::is_gone;
use crate::harness::eventually;
use crate::harness::lab::Part;
use crate::harness::privilege::{Need, may};
use crate::harness::stage::{Stage, StageSpec};
use crate::health::{fast, told};
use crate::health_network::{door, instance, server};

const QUICK: &str =
    "monitor_interval = \"100ms\"\nmonitor_timeout = \"400ms\"\nrise = 1\nfall = 2\n";

/// Does what the file `does` beside it says, once that is there; notes its arguments.
const SCRIPT: &str = r#"
here=${0%/*}
printf '%s ' "$@" >"$here/arguments"
[ -e "$here/does" ] && . "$here/does"
exit 0
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_check_command_has_a_word_in_it() {
    let node = server().await;
    let directory = node.workspace().directory("check");
    let script = directory.join("check.sh");
    fs::write(&script, SCRIPT).unwrap();
    let settings = format!(
        "{QUICK}check_command = '/bin/sh {} own'\n",
        script.display()
    );
    let proxy = instance(&node, &[("n1", door(node.port()), &settings)]).await;
    let haproxy = format!("own NOT_USED NOT_USED 127.0.0.1 {} ", node.port());
    eventually("it is given HAProxy's arguments", async || {
        fs::read_to_string(directory.join("arguments")).unwrap() == haproxy
    })
    .await;

    does(&directory, "echo 'replication is broken'; exit 3");
    proxy.node_is("n1", "observed", "down").await;
    let reason = "check command /bin/sh: exit status 3 replication is broken";
    assert_eq!(proxy.node("n1").await["reason"], reason);
    assert_eq!(told(&proxy, "node_down", "n1").await, [reason]);
    does(&directory, "");
    proxy.node_is("n1", "observed", "up").await;

    does(&directory, "sleep 1000 & echo $! >>\"$here/pids\"; wait");
    proxy.node_is("n1", "observed", "down").await;
    let reason = proxy.node("n1").await["reason"].clone();
    assert!(reason.contains("did not end within 400ms"), "{reason}");
    does(&directory, "");
    proxy.node_is("n1", "observed", "up").await;
    let pids = fs::read_to_string(directory.join("pids")).unwrap();
    assert!(pids.lines().count() >= 2, "{pids}");
    eventually("what it started is gone", async || {
        pids.lines().all(is_gone)
    })
    .await;
}

/// Replaced as a whole: the script may be reading it.
fn does(directory: &Path, text: &str) {
    let next: PathBuf = directory.join("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, directory.join("does")).unwrap();
}

/// A server of the monitor's kind: says the same to everybody, until told to say something else.
/// Nothing: it never answers.
async fn http_server() -> (u16, watch::Sender<Option<&'static str>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let says = watch::Sender::new(Some("HTTP/1.1 200 OK\r\n\r\n"));
    let now = says.subscribe();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let count = client.read(&mut request).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&request[..count]).into_owned();
            let answer = *now.borrow();
            match answer {
                Some(answer) if asked.starts_with("GET /health HTTP/1.1\r\n") => {
                    let _ = client.write_all(answer.as_bytes()).await;
                }
                Some(_) => {}
                None => kept.push(client),
            }
        }
    });
    (port, says)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_check_has_a_word_in_it() {
    let node = server().await;
    let (port, says) = http_server().await;
    let settings = format!("{QUICK}check_http = \":{port}/health\"\n");
    let proxy = instance(&node, &[("n1", door(node.port()), &settings)]).await;
    let bad = [
        (
            Some("HTTP/1.0 503 Service Unavailable\r\nX: y\r\n\r\n"),
            "status 503",
        ),
        (Some("SSH-2.0-OpenSSH_9.2\r\n"), "the answer is not HTTP"),
        (None, "no answer within 400ms"),
    ];
    for (answer, why) in bad {
        says.send_replace(answer);
        proxy.node_is("n1", "observed", "down").await;
        let reason = format!("HTTP check :{port}/health: {why}");
        assert_eq!(proxy.node("n1").await["reason"], reason);
        says.send_replace(Some("HTTP/1.1 204 No Content\r\n\r\n"));
        proxy.node_is("n1", "observed", "up").await;
        proxy.node_is("n1", "reason", "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_comes_and_goes_is_no_target_until_it_has_been_well() {
    if !may(Need::Packets) {
        return;
    }
    let spec = StageSpec {
        cluster: "profile = \"standard\"\nmonitor_interval = \"100ms\"\nfall = 2\nflap_limit = 2\n\
                  flap_hold = \"6s\"\n"
            .to_owned(),
        writers: 0,
        ..fast()
    };
    let stage = Stage::start(spec).await;
    stage.ready("n2").await;
    let proxy = &stage.proxy;
    let falls = async || {
        let cut = stage.pair.lab().refuse("n2", Part::Pgsluice);
        proxy.node_is("n2", "observed", "down").await;
        cut.heal();
    };
    falls().await;
    proxy.node_is("n2", "observed", "up").await;
    assert_eq!(told(proxy, "node_flapping", "n2").await.len(), 0, "not yet");
    falls().await;
    proxy.node_is("n2", "observed", "recovering").await;
    let refused = stage.switchover("n2", "DRY RUN").await.unwrap_err();
    let flapping = "fell 2 times lately: must be well for 6s first";
    assert!(refused.text.contains(flapping), "{refused:?}");
    assert_eq!(proxy.node("n2").await["reason"], flapping);
    proxy.event("node_flapping", "n2").await;
    proxy.node_is("n2", "observed", "up").await;
    stage.ready("n2").await;
}
