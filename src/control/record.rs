//! Text forms of what is kept on disk: versioned, with a checksum, one field a line. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::cluster::{Epoch, Wanted};
use crate::config::{Candidate, ClusterName, NodeName};

/// A decision "cluster → lead".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it holds.
    pub cluster: ClusterName,
    /// Its number.
    pub epoch: Epoch,
    /// The lead.
    pub node: NodeName,
    /// When it was made, to the millisecond.
    pub since: SystemTime,
    /// `initial`, `switchover`, `failover`.
    pub reason: String,
    /// The lead before.
    pub previous: Option<NodeName>,
}

const RECORD_HEAD: &str = "pgsluice lead record 1";
const NODES_HEAD: &str = "pgsluice node states 2";

/// Prints a record, checksum last.
pub(super) fn print_record(record: &Record) -> String {
    let previous = record.previous.as_ref().map_or("", NodeName::as_str);
    let lines = [
        ("cluster", escape(record.cluster.as_str())),
        ("epoch", record.epoch.to_string()),
        ("node", escape(record.node.as_str())),
        ("previous", escape(previous)),
        ("since_ms", millis(record.since).to_string()),
        ("reason", escape(&record.reason)),
    ];
    let mut body = format!("{RECORD_HEAD}\n");
    for (key, value) in lines {
        body.extend([key, " ", &value, "\n"]);
    }
    seal(body)
}

/// Reads what [`print_record`] wrote, and nothing else.
pub(super) fn parse_record(text: &str) -> Result<Record, &'static str> {
    let body = unseal(text)?;
    let mut lines = body.lines();
    if lines.next() != Some(RECORD_HEAD) {
        return Err("it is not a lead record of version 1");
    }
    let mut next = |key: &str| -> Result<String, &'static str> {
        let line = lines.next().ok_or("a field is missing")?;
        let (found, value) = line.split_once(' ').ok_or("a field has no value")?;
        if found != key {
            return Err("a field is missing");
        }
        unescape(value)
    };
    let cluster = next("cluster")?;
    let epoch = next("epoch")?
        .parse()
        .map_err(|_| "the epoch is not a number")?;
    let node = next("node")?;
    let previous = next("previous")?;
    let since = time_of(&next("since_ms")?)?;
    let reason = next("reason")?;
    Ok(Record {
        cluster: ClusterName::new(&cluster),
        epoch: Epoch(epoch),
        node: NodeName::new(&node),
        since,
        reason,
        previous: (!previous.is_empty()).then(|| NodeName::new(&previous)),
    })
}

/// What is kept of a node: operators' words, and which server it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeRecord {
    /// READY, DRAIN, MAINT, FENCE.
    pub wanted: Wanted,
    /// `system_identifier` of the server that was first seen at its address.
    pub identity: Option<u64>,
    /// SET NODE ... ELIGIBLE: overrides the file.
    pub candidate: Option<Candidate>,
    /// MAINTENANCE BEGIN was given, then.
    pub maintenance_since: Option<SystemTime>,
    /// Where it comes from.
    pub membership: Membership,
}

/// Where a node of a cluster comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Membership {
    /// The configuration file.
    #[default]
    File,
    /// ADD NODE on the console.
    Added(AddedNode),
    /// REMOVE NODE: not a member, whatever the file says.
    Removed,
}

/// A node that the file does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedNode {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Host name, address or socket directory.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Preference as lead.
    pub priority: i32,
}

/// All nodes of which something is kept.
pub(super) type NodeRecords = BTreeMap<NodeName, NodeRecord>;

/// Prints what is kept of the nodes: a line with the name, then one for each word.
pub(super) fn print_nodes(all: &NodeRecords) -> String {
    let mut body = format!("{NODES_HEAD}\n");
    let mut line = |key: &str, value: &str| body.extend([key, " ", value, "\n"]);
    for (name, node) in all {
        line("node", &escape(name.as_str()));
        line("wanted", wanted_word(node.wanted));
        if let Some(identity) = node.identity {
            line("identity", &identity.to_string());
        }
        if let Some(candidate) = node.candidate {
            line("candidate", candidate.as_str());
        }
        if let Some(since) = node.maintenance_since {
            line("maintenance_ms", &millis(since).to_string());
        }
        match &node.membership {
            Membership::File => {}
            Membership::Removed => line("removed", "by_operator"),
            Membership::Added(added) => {
                line("added", &escape(added.cluster.as_str()));
                line("host", &escape(&added.host));
                line("port", &added.port.to_string());
                line("priority", &added.priority.to_string());
            }
        }
    }
    seal(body)
}

/// Reads what [`print_nodes`] wrote.
pub(super) fn parse_nodes(text: &str) -> Result<NodeRecords, &'static str> {
    let body = unseal(text)?;
    let mut lines = body.lines();
    if lines.next() != Some(NODES_HEAD) {
        return Err("it is not a file of node states of version 2");
    }
    let mut all = NodeRecords::new();
    let mut current: Option<(NodeName, NodeRecord)> = None;
    for line in lines {
        let (key, value) = line.split_once(' ').ok_or("a field has no value")?;
        let value = unescape(value)?;
        if key == "node" {
            all.extend(current.replace((NodeName::new(&value), NodeRecord::default())));
            continue;
        }
        let (_, node) = current.as_mut().ok_or("a word stands before its node")?;
        take_word(node, key, &value)?;
    }
    all.extend(current);
    Ok(all)
}

fn take_word(node: &mut NodeRecord, key: &str, value: &str) -> Result<(), &'static str> {
    match (key, &mut node.membership) {
        ("wanted", _) => {
            let known = [Wanted::Ready, Wanted::Drain, Wanted::Maint, Wanted::Fenced];
            let wanted = known.into_iter().find(|w| wanted_word(*w) == value);
            node.wanted = wanted.ok_or("a state is unknown")?;
        }
        ("identity", _) => {
            let number = value.parse().map_err(|_| "an identity is not a number")?;
            node.identity = Some(number);
        }
        ("candidate", _) => {
            let word = Candidate::from_word(value).ok_or("a candidate word is unknown")?;
            node.candidate = Some(word);
        }
        ("maintenance_ms", _) => node.maintenance_since = Some(time_of(value)?),
        ("removed", membership) => *membership = Membership::Removed,
        ("added", membership) => {
            *membership = Membership::Added(AddedNode {
                cluster: ClusterName::new(value),
                host: String::new(),
                port: 0,
                priority: 0,
            });
        }
        ("host", Membership::Added(added)) => value.clone_into(&mut added.host),
        ("port", Membership::Added(added)) => {
            added.port = value.parse().map_err(|_| "a port is not a number")?;
        }
        ("priority", Membership::Added(added)) => {
            added.priority = value.parse().map_err(|_| "a priority is not a number")?;
        }
        _ => return Err("a word is unknown"),
    }
    Ok(())
}

fn millis(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
}

fn time_of(text: &str) -> Result<SystemTime, &'static str> {
    let millis: u64 = text.parse().map_err(|_| "the time is not a number")?;
    Ok(UNIX_EPOCH + Duration::from_millis(millis.min(1 << 50)))
}

/// As the console has it.
pub(super) const fn wanted_word(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Ready => "ready",
        Wanted::Drain => "drain",
        Wanted::Maint => "maint",
        Wanted::Fenced => "fenced",
    }
}

fn seal(mut body: String) -> String {
    let sum = checksum(&body);
    body.extend(["sha256 ", &sum, "\n"]);
    body
}

fn unseal(text: &str) -> Result<&str, &'static str> {
    let at = text.rfind("sha256 ").ok_or("it has no checksum")?;
    let (body, seal) = text.split_at(at);
    if seal == format!("sha256 {}\n", checksum(body)) {
        Ok(body)
    } else {
        Err("its checksum is wrong")
    }
}

fn checksum(body: &str) -> String {
    let digest = Sha256::digest(body.as_bytes());
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles
        .filter_map(|nibble| char::from_digit(u32::from(nibble), 16))
        .collect()
}

/// Keeps a value on its line.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

fn unescape(value: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('\\')) => out.push('\\'),
            ('\\', _) => return Err("a value is not escaped as it should be"),
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}
