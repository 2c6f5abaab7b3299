//! Text forms of what is kept on disk: versioned, with a checksum, one field a line. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::cluster::{Epoch, Wanted};
use crate::config::{ClusterName, NodeName};

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
const WANTED_HEAD: &str = "pgsluice node states 1";

/// Prints a record, checksum last.
pub(super) fn print_record(record: &Record) -> String {
    let since = record.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let previous = record.previous.as_ref().map_or("", NodeName::as_str);
    let lines = [
        ("cluster", escape(record.cluster.as_str())),
        ("epoch", record.epoch.to_string()),
        ("node", escape(record.node.as_str())),
        ("previous", escape(previous)),
        ("since_ms", since.as_millis().to_string()),
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
    let since: u64 = next("since_ms")?
        .parse()
        .map_err(|_| "the time is not a number")?;
    let reason = next("reason")?;
    Ok(Record {
        cluster: ClusterName::new(&cluster),
        epoch: Epoch(epoch),
        node: NodeName::new(&node),
        since: UNIX_EPOCH + Duration::from_millis(since.min(1 << 50)),
        reason,
        previous: (!previous.is_empty()).then(|| NodeName::new(&previous)),
    })
}

/// Prints the operators' words.
pub(super) fn print_wanted(all: &BTreeMap<NodeName, Wanted>) -> String {
    let mut body = format!("{WANTED_HEAD}\n");
    for (node, wanted) in all {
        let node = escape(node.as_str());
        body.extend([wanted_word(*wanted), " ", &node, "\n"]);
    }
    seal(body)
}

/// Reads what [`print_wanted`] wrote.
pub(super) fn parse_wanted(text: &str) -> Result<BTreeMap<NodeName, Wanted>, &'static str> {
    let body = unseal(text)?;
    let mut lines = body.lines();
    if lines.next() != Some(WANTED_HEAD) {
        return Err("it is not a file of node states of version 1");
    }
    let mut all = BTreeMap::new();
    for line in lines {
        let (word, node) = line.split_once(' ').ok_or("a line has no node")?;
        let known = [Wanted::Ready, Wanted::Drain, Wanted::Maint, Wanted::Fenced];
        let wanted = known.into_iter().find(|w| wanted_word(*w) == word);
        all.insert(
            NodeName::new(&unescape(node)?),
            wanted.ok_or("a state is unknown")?,
        );
    }
    Ok(all)
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
