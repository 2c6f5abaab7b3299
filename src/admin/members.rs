//! The commands that change which nodes a cluster has and what they may do: from words to commands.
//! Pure.

use super::command::Command;
use super::failure::{Failure, shorten};
use super::pattern::Captures;
use crate::config::{Candidate, ClusterName, NodeName, bad_node_name, is_host};
use crate::control::AddedNode;

pub(super) fn maintenance(captures: &Captures<'_>, begin: bool) -> Result<Command, Failure> {
    Ok(Command::Maintenance {
        node: NodeName::new(captures.name("node")),
        begin,
        timeout: captures.duration("TIMEOUT")?,
    })
}

pub(super) fn set_candidate(captures: &Captures<'_>) -> Command {
    let candidate = match captures.choice("SET NODE") {
        Some("ELIGIBLE") => Candidate::Auto,
        Some("MANUAL") => Candidate::Manual,
        _ => Candidate::Never,
    };
    Command::SetCandidate {
        node: NodeName::new(captures.name("node")),
        candidate,
    }
}

pub(super) fn add_node(captures: &Captures<'_>) -> Result<Command, Failure> {
    let bad = |what: &str| Failure::new("22023", format!("invalid {what}"));
    let host = captures.name("ADD NODE TO HOST");
    let port = captures.optional("PORT").unwrap_or("5432");
    let priority = captures.optional("PRIORITY").unwrap_or("100");
    let node = captures.name("node");
    // The rules of the configuration file hold here too.
    if let Some(why) = bad_node_name(node) {
        return Err(bad(&format!("node name \"{}\": {why}", shorten(node))));
    }
    if !is_host(host) {
        return Err(bad(&format!("HOST \"{}\"", shorten(host))));
    }
    Ok(Command::AddNode {
        node: NodeName::new(node),
        added: AddedNode {
            cluster: ClusterName::new(captures.name("cluster")),
            host: host.to_owned(),
            port: port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                bad(&format!(
                    "PORT \"{}\": a number from 1 to 65535",
                    shorten(port)
                ))
            })?,
            priority: priority.parse().map_err(|_| {
                bad(&format!(
                    "PRIORITY \"{}\": a whole number",
                    shorten(priority)
                ))
            })?,
        },
    })
}
