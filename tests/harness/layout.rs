//! The configuration file of an instance in front of a pair, a mesh, or several of them.

use super::address::{Door, INSTANCES};
use super::client::{DATABASE, MONITOR};
use super::lab::Lab;
use super::pair::Kind;
use super::proxy::{ADMIN, Proxy, STATS};

/// What an instance serves. Texts are lines of TOML for the named section.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// `[pgsluice]`.
    pub general: String,
    pub clusters: Vec<Cluster>,
    pub databases: Vec<Database>,
}

/// `[clusters.NAME]`.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub name: String,
    pub kind: Kind,
    /// In the order of their priorities.
    pub members: Vec<Member>,
    /// `marker_table`: the harness's own. Not for physical replication.
    pub marker: bool,
    pub settings: String,
}

/// One line of `[clusters.NAME.nodes]`.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: &'static str,
    pub door: Door,
    /// More keys, such as `candidate = "never"`; `priority` too, when it is not the default.
    pub keys: String,
}

/// `[databases.NAME]`.
#[derive(Debug, Clone)]
pub struct Database {
    pub name: String,
    pub cluster: String,
    pub settings: String,
}

impl Cluster {
    /// All nodes of `lab`, as instance number `instance` reaches them (the first one is 0).
    pub fn new(name: &str, lab: &Lab<'_>, instance: u8) -> Self {
        assert!(instance < INSTANCES, "a node has no door for it");
        let member = |node: &&super::node::Node| Member {
            name: node.name(),
            door: node.door(instance),
            keys: String::new(),
        };
        Self {
            name: name.to_owned(),
            kind: lab.kind,
            members: lab.nodes.iter().map(member).collect(),
            marker: lab.kind != Kind::Physical,
            settings: String::new(),
        }
    }

    /// More lines for it.
    #[must_use]
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self
    }

    /// More keys for one of its nodes.
    #[must_use]
    pub fn keys(mut self, node: &str, keys: &str) -> Self {
        let found = self.members.iter_mut().find(|member| member.name == node);
        keys.clone_into(&mut found.expect("a member of that name").keys);
        self
    }

    fn text(&self) -> String {
        let name = &self.name;
        let replication = match self.kind {
            // The test's own word.
            _ if self.settings.contains("replication = ") => "",
            Kind::Pglogical => "replication = \"pglogical\"\n",
            Kind::Native => "replication = \"logical\"\n",
            Kind::Physical => "replication = \"physical\"\n",
        };
        let marker = if self.marker {
            "marker_table = \"public.pgsluice_marker\"\n"
        } else {
            ""
        };
        let members: Vec<String> = self
            .members
            .iter()
            .zip((10..=100).rev().step_by(10))
            .map(|(member, priority)| member.text(priority))
            .collect();
        format!(
            "[clusters.{name}]\n\
             {replication}\
             monitor = {{ user = \"{}\", password = \"{}\", dbname = \"{DATABASE}\" }}\n\
             {marker}{}\n\
             [clusters.{name}.nodes]\n\
             {}\n",
            MONITOR.user,
            MONITOR.password,
            self.settings,
            members.concat(),
        )
    }
}

impl Member {
    fn text(&self, priority: u32) -> String {
        let mut keys = format!("host = \"{}\", port = {}", self.door.ip(), self.door.port());
        if !self.keys.contains("priority") {
            keys.extend([", priority = ", &priority.to_string()]);
        }
        if !self.keys.is_empty() {
            keys.extend([", ", &self.keys]);
        }
        format!("{} = {{ {keys} }}\n", self.name)
    }
}

impl Database {
    fn text(&self) -> String {
        format!(
            "[databases.{}]\n\
             cluster = \"{}\"\n\
             pool_mode = \"session\"\n\
             pool_size = 50\n\
             {}\n",
            self.name, self.cluster, self.settings
        )
    }
}

impl Layout {
    /// With that cluster too.
    #[must_use]
    pub fn cluster(mut self, cluster: Cluster) -> Self {
        self.clusters.push(cluster);
        self
    }

    /// With that database too. On the nodes it is [`DATABASE`] unless the lines name another one.
    #[must_use]
    pub fn database(mut self, name: &str, cluster: &str, settings: &str) -> Self {
        let dbname = if name == DATABASE || settings.contains("dbname") {
            String::new()
        } else {
            format!("dbname = \"{DATABASE}\"\n")
        };
        self.databases.push(Database {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            settings: dbname + settings,
        });
        self
    }

    /// The file for that instance.
    pub fn text(&self, proxy: &Proxy) -> String {
        let directory = proxy.directory().display();
        let mut text = format!(
            "[listen]\n\
             address = [\"127.0.0.1\"]\n\
             port = {port}\n\
             unix_socket_dir = \"{directory}\"\n\
             \n\
             [pgsluice]\n\
             state_dir = \"{directory}/state\"\n\
             auth_type = \"scram-sha-256\"\n\
             auth_file = \"{directory}/userlist.txt\"\n\
             admin_users = [\"{admin}\"]\n\
             stats_users = [\"{stats}\"]\n\
             {general}\n\n",
            port = proxy.port(),
            admin = ADMIN.user,
            stats = STATS.user,
            general = self.general,
        );
        text.extend(self.clusters.iter().map(Cluster::text));
        text.extend(self.databases.iter().map(Database::text));
        text
    }
}
