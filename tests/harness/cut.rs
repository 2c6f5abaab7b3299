//! Packets between two parties lost or refused, with nftables, for connections that exist as well as
//! for new ones.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::address::Door;
use super::privilege::{Need, require};
use super::workspace::{Workspace, random};

/// Packets through a door, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub door: Door,
    pub course: Course,
}

/// Towards the server that listens at the door, or away from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    In,
    Out,
}

impl Flow {
    /// Both directions through each of these doors.
    pub fn both(doors: &[Door]) -> Vec<Self> {
        let courses = [Course::In, Course::Out];
        doors
            .iter()
            .flat_map(|&door| courses.map(|course| Self { door, course }))
            .collect()
    }

    /// What a packet of this flow looks like to nft.
    fn pattern(self) -> String {
        let (address, port) = match self.course {
            Course::In => ("daddr", "dport"),
            Course::Out => ("saddr", "sport"),
        };
        let door = self.door;
        format!("ip {address} {} tcp {port} {}", door.ip(), door.port())
    }
}

/// A fault in the network. It ends with this value.
#[derive(Debug)]
pub struct Cut {
    table: String,
    _workspace: Arc<Workspace>,
}

impl Cut {
    /// These packets vanish: whoever waits for them hears nothing, for ever.
    pub fn silence(workspace: &Arc<Workspace>, flows: &[Flow]) -> Self {
        let rules: Vec<String> = flows.iter().map(|flow| flow.pattern() + " drop").collect();
        Self::make(workspace, &rules)
    }

    /// Each of these packets is answered with a reset: connecting is refused at once, and a
    /// connection breaks as soon as one of its ends says something.
    pub fn refuse(workspace: &Arc<Workspace>, doors: &[Door]) -> Self {
        let flows = Flow::both(doors);
        // A reset is not answered with a reset: it has to come through.
        let resets = flows
            .iter()
            .map(|flow| flow.pattern() + " tcp flags & rst == rst accept");
        let others = flows
            .iter()
            .map(|flow| flow.pattern() + " reject with tcp reset");
        let rules: Vec<String> = resets.chain(others).collect();
        Self::make(workspace, &rules)
    }

    /// Name of its table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// All is well again. What TCP still has to send, it sends when its next retry is due.
    pub fn heal(self) {
        drop(self);
    }

    fn make(workspace: &Arc<Workspace>, rules: &[String]) -> Self {
        require(Need::Packets);
        assert!(!rules.is_empty(), "a cut of nothing");
        let table = format!("pgsluice_test_{:016x}", random());
        // In the hook of incoming packets: a packet that is dropped on its way out is an error to
        // the sender's kernel, and no silence.
        let script = format!(
            "table inet {table} {{\n chain input {{\n type filter hook input priority 0;\n{}\n}}\n}}\n",
            rules.join("\n")
        );
        workspace.watch_table(&table);
        nft(&script);
        Self {
            table,
            _workspace: Arc::clone(workspace),
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = Command::new("nft")
            .args(["delete", "table", "inet", &self.table])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn nft(script: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("nft: {e}: run scripts/setup.sh test"));
    let mut input = child.stdin.take().expect("piped");
    input.write_all(script.as_bytes()).expect("nft reads");
    drop(input);
    let output = child.wait_with_output().expect("nft");
    assert!(
        output.status.success(),
        "nft: {}\n{script}",
        String::from_utf8_lossy(&output.stderr)
    );
}
