//! What must hold between the parts of a configuration, whatever format it was written in.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::Kind;
use super::mistake::nearest;
use super::{Candidate, ClusterName, Config, NodeConfig};

/// Databases that are the console itself.
const RESERVED: &[&str] = &["pgsluice", "pgbouncer"];
/// PostgreSQL cuts longer names.
const LONGEST_NAME: usize = 63;

/// A rule that is broken: path of the key, and what is wrong.
pub(super) type Broken = (String, String);

/// Checks all rules. `declared`: all clusters of the file, also those that have mistakes of their
/// own and therefore are not in `config`.
pub(super) fn broken(config: &Config, declared: &BTreeSet<String>) -> Vec<Broken> {
    let mut found = Vec::new();
    instance(config, &mut found);
    for cluster in config.clusters.values() {
        if cluster
            .nodes
            .iter()
            .all(|node| node.candidate == Candidate::Never)
        {
            let path = format!("clusters.{}.nodes", cluster.name);
            found.push((
                path,
                "every node has candidate = \"never\": none can be lead".to_owned(),
            ));
        }
    }
    for database in config.databases.values() {
        if !declared.contains(database.cluster.as_str()) {
            let path = format!("databases.{}.cluster", database.name);
            let guess = nearest(
                database.cluster.as_str(),
                declared.iter().map(String::as_str),
            );
            found.push((
                path,
                format!("no cluster \"{}\"{}", database.cluster, did_you_mean(guess)),
            ));
        }
    }
    found
}

/// Nodes that have the name or the address of another, over all clusters: two clusters with one
/// node would each choose a lead for the same data.
pub(super) fn duplicates<'a>(
    nodes: impl IntoIterator<Item = (&'a ClusterName, &'a NodeConfig)>,
) -> Vec<Broken> {
    let mut found = Vec::new();
    let mut names: BTreeMap<&str, &ClusterName> = BTreeMap::new();
    let mut addresses: BTreeMap<(String, u16), &NodeConfig> = BTreeMap::new();
    for (cluster, node) in nodes {
        let path = format!("clusters.{cluster}.nodes.{}", node.name);
        if let Some(other) = names.get(node.name.as_str()) {
            let what = format!(
                "duplicate name: clusters.{other} has a node {} too",
                node.name
            );
            found.push((path.clone(), what));
        } else {
            names.insert(node.name.as_str(), cluster);
        }
        let address = (node.host.to_lowercase(), node.port);
        if let Some(other) = addresses.get(&address) {
            found.push((
                path,
                format!("duplicate of {} (same host and port)", other.name),
            ));
        } else {
            addresses.insert(address, node);
        }
    }
    found
}

/// Why a cluster or node cannot have this name. Names become words on the console and parts of
/// file names.
pub(super) fn bad_name(name: &str) -> Option<String> {
    let good = (1..=LONGEST_NAME).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    (!good).then(|| {
        format!("bad name: expected 1 to {LONGEST_NAME} letters, digits, underscores, hyphens")
    })
}

/// Why a database cannot have this name.
pub(super) fn bad_database(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        Some("reserved name: clients reach the console by it".to_owned())
    } else if name == "*" {
        Some("a database for all other names is not supported yet".to_owned())
    } else if name.is_empty() || name.len() > LONGEST_NAME {
        Some(format!("bad name: expected 1 to {LONGEST_NAME} bytes"))
    } else {
        Kind::Name
            .parse(name)
            .err()
            .map(|fault| format!("bad name: {fault}"))
    }
}

/// `, did you mean x?`, or nothing.
pub(super) fn did_you_mean(guess: Option<&str>) -> String {
    guess
        .map(|guess| format!(", did you mean \"{guess}\"?"))
        .unwrap_or_default()
}

fn instance(config: &Config, found: &mut Vec<Broken>) {
    if config.listen.address.is_empty() && config.listen.unix_socket_dir.is_none() {
        let what = "nothing to listen on: neither address nor unix_socket_dir";
        found.push(("listen.address".to_owned(), what.to_owned()));
    }
    if config.general.auth_file.is_none() {
        let what = "required: nobody can log in without a user list";
        found.push(("pgsluice.auth_file".to_owned(), what.to_owned()));
    }
}
