//! Checks of a node besides the probe's own queries: an HTTP status, as HAProxy's `httpchk` and
//! Patroni's REST API have it, and a program of the operator's.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::child::{self, End};
use crate::config::{ClusterConfig, CommandTemplate, NodeConfig};
use crate::net::{Stream, TcpOptions};

/// A status line is shorter.
const LONGEST_STATUS: usize = 4096;

/// Runs what is configured; the error says which check failed and why.
pub(super) async fn run(config: &ClusterConfig, node: &NodeConfig) -> Result<(), String> {
    if let Some(check) = &config.check_http {
        let limit = config.monitor_timeout;
        let asked = Box::pin(http(check, node));
        timeout(limit, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
            .map_err(|why| format!("HTTP check {check}: {why}"))?;
    }
    if let Some(template) = &config.check_command {
        command(template, config, node).await?;
    }
    Ok(())
}

async fn command(
    template: &CommandTemplate,
    config: &ClusterConfig,
    node: &NodeConfig,
) -> Result<(), String> {
    let mut command = template.expand(|_| String::new());
    let port = node.port.to_string();
    let ours = ["NOT_USED", "NOT_USED", &node.host, &port];
    command.arguments.extend(ours.map(str::to_owned));
    let name = command.program.clone();
    let (what, said) = match Box::pin(child::run(&command, config.monitor_timeout)).await {
        Ok(output) => match output.end {
            End::Exited(0) => return Ok(()),
            End::Exited(status) => (format!("exit status {status}"), output.said),
            End::Killed(signal) => (format!("killed by signal {signal}"), output.said),
        },
        Err(error) => (error.to_string(), String::new()),
    };
    let said = said.lines().next().unwrap_or_default();
    Err(format!("check command {name}: {what} {said}")
        .trim_end()
        .to_owned())
}

/// Where an HTTP check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    path: String,
}

impl Target {
    /// `:PORT/path` of the node's own host, or `http://host:port/path`.
    fn parse(text: &str, node_host: &str) -> Option<Self> {
        let (authority, path) = match text.strip_prefix("http://") {
            Some(rest) => split_path(rest),
            None => split_path(text),
        };
        let (host, port) = authority.rsplit_once(':')?;
        let host = if host.is_empty() { node_host } else { host };
        // An address of IPv6 stands in brackets in a URL.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
            path: path.to_owned(),
        })
    }
}

fn split_path(text: &str) -> (&str, &str) {
    match text.find('/') {
        Some(at) => text.split_at(at),
        None => (text, "/"),
    }
}

async fn http(check: &str, node: &NodeConfig) -> Result<(), String> {
    let target =
        Target::parse(check, &node.host).ok_or("is not :PORT/path or http://host:port/path")?;
    let text = |e: std::io::Error| e.to_string();
    let mut stream = Stream::connect(&target.host, target.port, &TcpOptions::default())
        .await
        .map_err(text)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\nUser-Agent: pgsluice\r\n\r\n",
        target.path, target.host, target.port
    );
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    let mut answer = Vec::new();
    loop {
        if let Some(status) = status_of(&answer)? {
            return match status {
                200..=299 => Ok(()),
                _ => Err(format!("status {status}")),
            };
        }
        if answer.len() > LONGEST_STATUS || stream.read_buf(&mut answer).await.map_err(text)? == 0 {
            return Err("the answer is not HTTP".to_owned());
        }
    }
}

/// The status of an answer whose first line is there; `None`: more is to come.
fn status_of(answer: &[u8]) -> Result<Option<u16>, String> {
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(answer.get(..end).unwrap_or_default());
    let mut words = line.split_whitespace();
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse().ok());
    match status {
        Some(status) if version.starts_with("HTTP/1.") => Ok(Some(status)),
        _ => Err("the answer is not HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, status_of};

    #[test]
    fn an_http_check_names_a_port_of_the_node_or_a_url() {
        let target = |host: &str, port, path: &str| {
            Some(Target {
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            })
        };
        for (text, expected) in [
            (":8008/health", target("n1", 8008, "/health")),
            (":8008", target("n1", 8008, "/")),
            (
                "http://patroni:8008/primary?x=/",
                target("patroni", 8008, "/primary?x=/"),
            ),
            ("http://[::1]:80/a", target("::1", 80, "/a")),
            ("8008/health", None),
            (":x/health", None),
            ("http://patroni/health", None),
        ] {
            assert_eq!(Target::parse(text, "n1"), expected, "{text}");
        }
    }

    #[test]
    fn a_status_is_read_from_the_first_line_alone() {
        assert_eq!(status_of(b"HTTP/1.1 20"), Ok(None));
        assert_eq!(status_of(b"HTTP/1.0 200 OK\r\n"), Ok(Some(200)));
        assert_eq!(
            status_of(b"HTTP/1.1 503 Service Unavailable\r\nX: y"),
            Ok(Some(503))
        );
        for foreign in [
            &b"SSH-2.0-OpenSSH\r\n"[..],
            b"HTTP/1.1 abc\n",
            b"\n",
            b"\xff\xfe\n",
        ] {
            assert!(status_of(foreign).is_err());
        }
    }
}
