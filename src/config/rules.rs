//! What must hold between the parts of a configuration, whatever format it was written in.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::Kind;
use super::mistake::{join, nearest};
use super::{Candidate, ClusterName, Config, Listen, NodeConfig, route_rules};

/// Databases that are the console itself.
const RESERVED: &[&str] = &["pgsluice", "pgbouncer"];
/// PostgreSQL cuts longer names.
const LONGEST_NAME: usize = 63;
/// `sun_path` has 108 bytes, of which `/.s.PGSQL.65535` and the end take 16.
const LONGEST_SOCKET_DIR: usize = 92;

/// A rule that is broken: path of the key, and what is wrong.
pub(super) type Broken = (String, String);

/// Checks all rules. `declared`: all clusters of the file, also those that have mistakes of their
/// own and therefore are not in `config`.
pub(super) fn broken(config: &Config, declared: &BTreeSet<String>) -> Vec<Broken> {
    let mut found = Vec::new();
    instance(config, &mut found);
    for cluster in config.clusters.values() {
        let path = format!("{}.nodes", join("clusters", cluster.name.as_str()));
        for node in cluster
            .nodes
            .iter()
            .filter(|node| is_self(node, &config.listen))
        {
            let what = "is the address that pgsluice itself listens on".to_owned();
            found.push((join(&path, node.name.as_str()), what));
        }
        if cluster
            .nodes
            .iter()
            .all(|node| node.candidate == Candidate::Never)
        {
            let what = "every node has candidate = \"never\": none can be lead".to_owned();
            found.push((path, what));
        }
    }
    for database in config.databases.values() {
        if !declared.contains(database.cluster.as_str()) {
            let path = format!("{}.cluster", join("databases", database.name.as_str()));
            let guess = nearest(
                database.cluster.as_str(),
                declared.iter().map(String::as_str),
            );
            let what = format!("no cluster {:?}{}", database.cluster, did_you_mean(guess));
            found.push((path, what));
        }
    }
    route_rules::broken(config, &mut found);
    found
}

/// Nodes that have the name or the address of another, over all clusters: two clusters with one
/// node would each choose a lead for the same data. And ids, which are unique in their cluster.
pub(super) fn duplicates<'a>(
    nodes: impl IntoIterator<Item = (&'a ClusterName, &'a NodeConfig)>,
) -> Vec<Broken> {
    let mut found = Vec::new();
    let mut names: BTreeMap<&str, &ClusterName> = BTreeMap::new();
    let mut ids: BTreeMap<(&str, u32), &NodeConfig> = BTreeMap::new();
    let mut addresses: BTreeMap<(String, u16), &NodeConfig> = BTreeMap::new();
    for (cluster, node) in nodes {
        let path = format!("{}.nodes", join("clusters", cluster.as_str()));
        let path = join(&path, node.name.as_str());
        if let Some(other) = names.get(node.name.as_str()) {
            let what = format!(
                "duplicate name: clusters.{other} has a node {} too",
                node.name
            );
            found.push((path.clone(), what));
        } else {
            names.insert(node.name.as_str(), cluster);
        }
        if let Some(other) = ids.insert((cluster.as_str(), node.id), node) {
            let what = format!(
                "duplicate id: {} has {} too (without an id, a node has its place in the file)",
                other.name, node.id
            );
            found.push((join(&path, "id"), what));
        }
        let is_directory = node.host.starts_with('/');
        let host = if is_directory {
            node.host.clone()
        } else {
            node.host.to_lowercase()
        };
        let address = (host, node.port);
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
pub fn bad_name(name: &str) -> Option<String> {
    let good = (1..=LONGEST_NAME).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    (!good).then(|| {
        format!("bad name: expected 1 to {LONGEST_NAME} letters, digits, underscores, hyphens")
    })
}

/// Is it one host name, address or socket directory?
pub fn is_host(text: &str) -> bool {
    Kind::Host.parse(text).is_ok()
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
    let socket_dir = config.listen.unix_socket_dir.as_ref();
    if socket_dir.is_some_and(|dir| dir.as_os_str().len() > LONGEST_SOCKET_DIR) {
        let what = format!("too long for a Unix socket: expected up to {LONGEST_SOCKET_DIR} bytes");
        found.push(("listen.unix_socket_dir".to_owned(), what));
    }
    if config.general.auth_file.is_none() {
        let what = "required: nobody can log in without a user list";
        found.push(("pgsluice.auth_file".to_owned(), what.to_owned()));
    }
}

/// Would the pooler dial itself? Each client would take all client connections at once.
fn is_self(node: &NodeConfig, listen: &Listen) -> bool {
    let here = ["localhost", "127.0.0.1", "::1"];
    let everywhere = ["*", "0.0.0.0", "::"];
    let host = node.host.as_str();
    let by_tcp = listen.address.iter().any(|address| {
        let address = address.as_str();
        let local = here.contains(&address) || everywhere.contains(&address);
        address == host || (local && here.contains(&host))
    });
    let by_socket = listen
        .unix_socket_dir
        .as_ref()
        .is_some_and(|dir| dir.as_os_str() == host);
    node.port == listen.port && (by_tcp || by_socket)
}
