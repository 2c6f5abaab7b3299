//! What RELOAD changes: the difference between the running [`Config`] and the file's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::row::{Reload, Section};
use super::{ClusterConfig, ClusterName, Config, DatabaseConfig, DatabaseName, NodeConfig};

/// The difference, and what is in force after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// Databases that clients may use from now on.
    pub databases_added: Vec<DatabaseName>,
    /// Databases that are gone.
    pub databases_removed: Vec<DatabaseName>,
    /// Databases with another cluster, dbname, pool mode, route or size.
    pub databases_changed: Vec<DatabaseName>,
    /// Instance and cluster settings that take effect now.
    pub settings_changed: Vec<Change>,
    /// Clusters with settings that take effect now.
    pub clusters_changed: Vec<ClusterName>,
    /// Paths of what differs and takes effect at the next start only.
    pub restart_required: Vec<String>,
    /// What holds after the reload: the file's configuration, but the running one where a restart
    /// is required. It is as valid as the two that it is made of.
    pub effective: Config,
}

impl Diff {
    /// Does nothing take effect now?
    pub fn is_empty(&self) -> bool {
        self.databases_added.is_empty()
            && self.databases_removed.is_empty()
            && self.databases_changed.is_empty()
            && self.settings_changed.is_empty()
    }
}

/// A setting that changes, with its values as `SHOW CONFIG` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it stands in the file, e.g. `pgsluice.max_client_conn`.
    pub path: String,
    /// The value until now.
    pub old: String,
    /// The value from now on.
    pub new: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.path, self.old, self.new)
    }
}

/// Compares the running configuration with that of the file.
pub fn diff(running: &Config, file: &Config) -> Diff {
    let mut diff = Diff {
        databases_added: Vec::new(),
        databases_removed: Vec::new(),
        databases_changed: Vec::new(),
        settings_changed: Vec::new(),
        clusters_changed: Vec::new(),
        restart_required: Vec::new(),
        effective: running.clone(),
    };
    diff.effective.listen = diff.settings(&running.listen, &file.listen, "listen");
    diff.effective.general = diff.settings(&running.general, &file.general, "pgsluice");
    diff.clusters(running, file);
    diff.databases(running, file);
    diff
}

impl Diff {
    /// The running section with what may change now, at `path` in the file.
    fn settings<S: Section + Clone>(&mut self, running: &S, file: &S, path: &str) -> S {
        let mut effective = running.clone();
        for setting in S::SETTINGS {
            let (old, new) = ((setting.get)(running), (setting.get)(file));
            if old == new {
                continue;
            }
            let path = format!("{path}.{}", setting.row.key);
            match setting.row.reload {
                Reload::Restart => self.restart_required.push(path),
                Reload::Live => {
                    (setting.copy)(&mut effective, file);
                    let show = |value| setting.row.kind.show(value);
                    let (old, new) = (show(&old), show(&new));
                    self.settings_changed.push(Change { path, old, new });
                }
            }
        }
        effective
    }

    fn clusters(&mut self, running: &Config, file: &Config) {
        for (name, cluster) in &file.clusters {
            match running.clusters.get(name) {
                Some(running) => self.cluster(running, cluster),
                None => self
                    .restart_required
                    .push(format!("clusters.{name} (added)")),
            }
        }
        for name in running
            .clusters
            .keys()
            .filter(|name| !file.clusters.contains_key(*name))
        {
            self.restart_required
                .push(format!("clusters.{name} (removed)"));
        }
    }

    fn cluster(&mut self, running: &Arc<ClusterConfig>, file: &Arc<ClusterConfig>) {
        let path = format!("clusters.{}", running.name);
        let mut effective = self.settings(&**running, &**file, &path);
        effective.monitor =
            self.settings(&running.monitor, &file.monitor, &format!("{path}.monitor"));
        effective.nodes = self.nodes(&running.nodes, &file.nodes, &format!("{path}.nodes"));
        if effective != **running {
            self.clusters_changed.push(running.name.clone());
            self.effective
                .clusters
                .insert(running.name.clone(), Arc::new(effective));
        }
    }

    /// The running nodes, with what may change now. Which nodes a cluster has changes with a restart
    /// only, and then nothing of them changes before: half of the new set is no set that anybody
    /// has checked.
    fn nodes(
        &mut self,
        running: &[NodeConfig],
        file: &[NodeConfig],
        path: &str,
    ) -> Vec<NodeConfig> {
        let added = file.iter().filter(|node| find(running, node).is_none());
        let removed = running.iter().filter(|node| find(file, node).is_none());
        let waiting: Vec<String> = added
            .map(|node| format!("{path}.{} (added)", node.name))
            .chain(removed.map(|node| format!("{path}.{} (removed)", node.name)))
            .collect();
        if waiting.is_empty() {
            let merge = |node: &NodeConfig| {
                let new = find(file, node).unwrap_or(node);
                self.settings(node, new, &format!("{path}.{}", node.name))
            };
            return running.iter().map(merge).collect();
        }
        self.restart_required.extend(waiting);
        let changed = running
            .iter()
            .filter(|node| find(file, node).is_some_and(|new| new != *node));
        self.restart_required
            .extend(changed.map(|node| format!("{path}.{}", node.name)));
        running.to_vec()
    }

    fn databases(&mut self, running: &Config, file: &Config) {
        let mut effective: BTreeMap<DatabaseName, Arc<DatabaseConfig>> = BTreeMap::new();
        for (name, database) in &file.databases {
            let old = running.databases.get(name);
            if !running.clusters.contains_key(&database.cluster) {
                self.restart_required
                    .push(format!("databases.{name} (in an added cluster)"));
                effective.extend(old.map(|old| (name.clone(), Arc::clone(old))));
                continue;
            }
            match old {
                Some(old) if old == database => {
                    effective.insert(name.clone(), Arc::clone(old));
                    continue;
                }
                Some(_) => self.databases_changed.push(name.clone()),
                None => self.databases_added.push(name.clone()),
            }
            effective.insert(name.clone(), Arc::clone(database));
        }
        let gone = running
            .databases
            .keys()
            .filter(|name| !file.databases.contains_key(*name));
        self.databases_removed.extend(gone.cloned());
        self.effective.databases = effective;
    }
}

/// The node of the same name.
fn find<'a>(nodes: &'a [NodeConfig], node: &NodeConfig) -> Option<&'a NodeConfig> {
    nodes.iter().find(|other| other.name == node.name)
}
