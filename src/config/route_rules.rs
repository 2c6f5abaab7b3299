//! What must hold between a database's route, its cluster and the instance.

use std::collections::BTreeSet;

use super::kind::Value;
use super::mistake::{join, nearest};
use super::row::Section;
use super::rules::{Broken, did_you_mean};
use super::{Candidate, ClusterConfig, Config, DatabaseConfig, ReadFallback, Route};

/// Settings that only `route = "read"` has a use for.
const READ_ONLY_SETTINGS: [&str; 3] = ["read_lag_max", "read_lag_max_time", "read_fallback"];

/// Checks all rules.
pub(super) fn broken(config: &Config, found: &mut Vec<Broken>) {
    for database in config.databases.values() {
        let path = join("databases", database.name.as_str());
        unused(database, &path, found);
        if let Some(cluster) = config.clusters.get(&database.cluster) {
            unserved(database, cluster, &path, found);
        }
    }
    elsewhere(config, found);
}

/// All nodes that say where they stand, stand elsewhere: surely a slip of the pen.
fn elsewhere(config: &Config, found: &mut Vec<Broken>) {
    let Some(here) = &config.general.datacenter else {
        return;
    };
    let nodes = config.clusters.values().flat_map(|cluster| &cluster.nodes);
    let known: BTreeSet<&str> = nodes
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    if !known.is_empty() && !known.contains(here.as_str()) {
        let guess = did_you_mean(nearest(here, known));
        let what = format!("no node has the datacenter {here:?}{guess}");
        found.push(("pgsluice.datacenter".to_owned(), what));
    }
}

/// A setting that the route has no use for, and that is not what it is when nobody says anything.
fn unused(database: &DatabaseConfig, path: &str, found: &mut Vec<Broken>) {
    let unused = DatabaseConfig::SETTINGS.iter().filter(|setting| {
        let key = setting.row.key;
        let of_reads = READ_ONLY_SETTINGS.contains(&key) && database.route != Route::Read;
        let of_many = key == "balance" && database.route == Route::Lead;
        let given = as_off((setting.get)(database));
        (of_reads || of_many) && setting.row.default().map(as_off) != Some(given)
    });
    found.extend(unused.map(|setting| {
        let what = format!("has no effect with route = \"{}\"", database.route);
        (join(path, setting.row.key), what)
    }));
}

/// Zero and nothing are the same for a time.
fn as_off(value: Value) -> Value {
    match value {
        Value::Time(time) if time.is_zero() => Value::Off,
        other => other,
    }
}

/// A route that no node could ever serve.
fn unserved(
    database: &DatabaseConfig,
    cluster: &ClusterConfig,
    path: &str,
    found: &mut Vec<Broken>,
) {
    let weighs = cluster.nodes.iter().filter(|node| node.weight > 0);
    let writable = weighs
        .clone()
        .filter(|node| node.candidate != Candidate::Never);
    match database.route {
        Route::Lead => {}
        Route::Read => {
            // One of them may be the lead.
            let served = weighs.count() > 0 && cluster.nodes.len() > 1;
            if database.read_fallback == ReadFallback::Refuse && !served {
                let what = "no node but the lead may serve reads: they would always be refused";
                found.push((join(path, "read_fallback"), what.to_owned()));
            }
        }
        Route::Any => {
            if writable.count() == 0 {
                let what = format!(
                    "no node of cluster {} may serve it: each has weight = 0 or candidate = \"never\"",
                    cluster.name
                );
                found.push((join(path, "route"), what));
            }
        }
    }
}
