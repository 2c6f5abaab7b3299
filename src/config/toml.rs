//! Native TOML → [`Config`], with all mistakes of the file at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use toml_edit::{Document, Item, TableLike};

use super::kind::{Kind, Value};
use super::mistake::{Lines, Mistake, join, nearest};
use super::names::{ClusterName, DatabaseName, NodeName};
use super::row::{Row, Section, Values};
use super::rules::{self, did_you_mean};
use super::settings::{self, ClusterConfig, DatabaseConfig, General, Listen, MonitorLogin};
use super::{Config, NodeConfig, profile, resolve};

/// A configuration is small; what is larger is some other file.
const LARGEST: usize = 4 << 20;
/// No more of a value than this is repeated in a message.
const SHOWN: usize = 60;

/// Reads the `text` of the TOML file `name`. `env` looks a `${VARIABLE}` up; `read_file` reads a
/// file of a secret. Either the file is right, or all its mistakes are told, by line.
pub fn check(
    text: &str,
    name: &str,
    env: &dyn Fn(&str) -> Option<String>,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Config, Vec<Mistake>> {
    let mut reader = Reader {
        file: name,
        text,
        lines: Lines::of(text),
        resolver: resolve::Resolver { env, read_file },
        places: BTreeMap::new(),
        found: Vec::new(),
    };
    let config = reader.document();
    reader.found.sort_by_key(|mistake| mistake.line);
    match config {
        Some(config) if reader.found.is_empty() => Ok(config),
        _ => Err(reader.found),
    }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    lines: Lines,
    resolver: resolve::Resolver<'a>,
    /// Line of each path that the file has.
    places: BTreeMap<String, usize>,
    found: Vec<Mistake>,
}

/// What the file declares: the built parts, and the names of all, built or not.
#[derive(Default)]
struct Clusters {
    built: BTreeMap<ClusterName, Arc<ClusterConfig>>,
    declared: BTreeSet<String>,
    /// In the file's order, also those of clusters that were not built.
    nodes: Vec<(ClusterName, NodeConfig)>,
}

impl Reader<'_> {
    fn document(&mut self) -> Option<Config> {
        if self.text.len() > LARGEST {
            self.mistake("", format!("file is larger than {} MB", LARGEST >> 20));
            return None;
        }
        let document = match Document::parse(self.text) {
            Ok(document) => document,
            Err(error) => {
                let line = self.lines.line(error.span().map_or(0, |span| span.start));
                self.places.insert(String::new(), line);
                // Only the message: the rest would repeat a line that may hold a secret.
                self.mistake("", error.message().replace('\n', " "));
                return None;
            }
        };
        let root = document.as_table();
        self.sections(root);
        let listen = self
            .section::<Listen>(root, "", "listen")
            .and_then(Listen::build);
        let general = self
            .section::<General>(root, "", "pgsluice")
            .and_then(General::build);
        let clusters = self.clusters(root);
        let databases = self.databases(root);
        let config = Config {
            listen: listen?,
            general: general?,
            clusters: clusters.built,
            databases,
        };
        let nodes = clusters.nodes.iter().map(|(cluster, node)| (cluster, node));
        let mut broken = rules::broken(&config, &clusters.declared);
        broken.extend(rules::duplicates(nodes));
        // The first mistake of a key says more than what follows from it.
        let told: BTreeSet<String> = self.found.iter().map(|found| found.key.clone()).collect();
        for (path, what) in broken.into_iter().filter(|(path, _)| !told.contains(path)) {
            self.mistake(&path, what);
        }
        Some(config)
    }

    /// Only known sections at the top.
    fn sections(&mut self, root: &dyn TableLike) {
        const KNOWN: [&str; 4] = ["listen", "pgsluice", "clusters", "databases"];
        for (key, item) in root.iter() {
            let path = join("", key);
            self.note(root, key, &path);
            if KNOWN.contains(&key) {
                continue;
            }
            let setting = settings::all().find(|(_, row)| row.key == key || row.pgbouncer == key);
            let hint = match setting {
                Some((section, row)) if !item.is_table_like() => {
                    format!("; {} belongs to [{section}]", row.key)
                }
                _ if key == "pgbouncer" => did_you_mean(Some("pgsluice")),
                _ => did_you_mean(nearest(key, KNOWN)),
            };
            self.mistake(&path, format!("unknown section{hint}"));
        }
        for (section, thing) in [("clusters", "cluster"), ("databases", "database")] {
            let table = root.get(section).map(Item::as_table_like);
            if table.is_none_or(|table| table.is_some_and(TableLike::is_empty)) {
                let what = format!("no {thing}: there must be a [{section}.NAME]");
                self.mistake(section, what);
            }
        }
    }

    fn clusters(&mut self, root: &dyn TableLike) -> Clusters {
        let mut clusters = Clusters::default();
        for (name, table) in self.tables(root, "", "clusters") {
            let path = join("clusters", name);
            clusters.declared.insert(name.to_owned());
            self.check_name(&path, rules::bad_name(name));
            let cluster = ClusterName::new(name);
            let mut values = self.values::<ClusterConfig>(table, &path, &["monitor", "nodes"]);
            if let Err((key, what)) = profile::fill(&mut values) {
                self.mistake(&join(&path, key), what);
            }
            let monitor = self
                .section::<MonitorLogin>(table, &path, "monitor")
                .and_then(MonitorLogin::build);
            let nodes = self.nodes(table, &path);
            clusters
                .nodes
                .extend(nodes.iter().map(|node| (cluster.clone(), node.clone())));
            let built = monitor
                .filter(|_| !nodes.is_empty())
                .and_then(|monitor| ClusterConfig::build(values, cluster.clone(), monitor, nodes));
            if let Some(built) = built {
                clusters.built.insert(cluster, Arc::new(built));
            }
        }
        clusters
    }

    fn nodes(&mut self, cluster: &dyn TableLike, path: &str) -> Vec<NodeConfig> {
        let mut nodes = Vec::new();
        let tables = self.tables(cluster, path, "nodes");
        if tables.is_empty() {
            self.mistake(
                &format!("{path}.nodes"),
                "a cluster must have a node".to_owned(),
            );
        }
        for (place, (name, table)) in (1..).zip(tables) {
            let path = join(&format!("{path}.nodes"), name);
            self.check_name(&path, rules::bad_name(name));
            let mut values = self.values::<NodeConfig>(table, &path, &[]);
            values.put_if_off("id", Value::Integer(place));
            nodes.extend(NodeConfig::build(values, NodeName::new(name)));
        }
        nodes
    }

    fn databases(&mut self, root: &dyn TableLike) -> BTreeMap<DatabaseName, Arc<DatabaseConfig>> {
        let mut databases = BTreeMap::new();
        let tables = self.tables(root, "", "databases");
        for (name, table) in tables {
            let path = join("databases", name);
            self.check_name(&path, rules::bad_database(name));
            let mut values = self.values::<DatabaseConfig>(table, &path, &[]);
            values.put_if_off("dbname", Value::Text(name.to_owned()));
            let database = DatabaseName::new(name);
            if let Some(built) = DatabaseConfig::build(values, database.clone()) {
                databases.insert(database, Arc::new(built));
            }
        }
        databases
    }

    fn check_name(&mut self, path: &str, bad: Option<String>) {
        if let Some(what) = bad {
            self.mistake(path, what);
        }
    }

    /// The tables within `parent.key`. What is not a table is told; an absent parent has none.
    fn tables<'t>(
        &mut self,
        parent: &'t dyn TableLike,
        path: &str,
        key: &str,
    ) -> Vec<(&'t str, &'t dyn TableLike)> {
        let Some(item) = parent.get(key) else {
            return Vec::new();
        };
        let path = join(path, key);
        self.note(parent, key, &path);
        let Some(table) = item.as_table_like() else {
            self.mistake(
                &path,
                format!("expected a section, not {}", item.type_name()),
            );
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, item) in table.iter() {
            let path = join(&path, name);
            self.note(table, name, &path);
            match item.as_table_like() {
                Some(inner) => tables.push((name, inner)),
                None => {
                    self.mistake(
                        &path,
                        format!("expected a section, not {}", item.type_name()),
                    );
                }
            }
        }
        tables
    }

    /// The values of section `parent.key`, which may be absent. `None`: it is not a section.
    fn section<S: Section>(
        &mut self,
        parent: &dyn TableLike,
        path: &str,
        key: &str,
    ) -> Option<Values> {
        let path = join(path, key);
        self.note(parent, key, &path);
        match parent.get(key) {
            None => {
                let empty = toml_edit::Table::new();
                Some(self.values::<S>(&empty, &path, &[]))
            }
            Some(item) => {
                if let Some(table) = item.as_table_like() {
                    Some(self.values::<S>(table, &path, &[]))
                } else {
                    self.mistake(
                        &path,
                        format!("expected a section, not {}", item.type_name()),
                    );
                    None
                }
            }
        }
    }

    /// The values of a section, defaults filled in. `parts` are its keys that are no settings.
    fn values<S: Section>(&mut self, table: &dyn TableLike, path: &str, parts: &[&str]) -> Values {
        let mut values = Values::default();
        let mut given = BTreeSet::new();
        for (key, item) in table.iter().filter(|(key, _)| !parts.contains(key)) {
            let path = join(path, key);
            self.note(table, key, &path);
            let Some(row) = S::rows().find(|row| row.key == key) else {
                self.mistake(&path, unknown::<S>(key, parts));
                continue;
            };
            given.insert(row.key);
            match self.value(row, item) {
                Ok(value) => values.put(row.key, value),
                Err(what) => self.mistake(&path, what),
            }
        }
        for row in S::rows() {
            match row.default() {
                Some(default) => values.put_if_absent(row.key, default),
                None if given.contains(row.key) => {}
                None => self.mistake(&join(path, row.key), "required".to_owned()),
            }
        }
        values
    }

    fn value(&self, row: &Row, item: &Item) -> Result<Value, String> {
        let kind = row.kind;
        let secret = kind == Kind::Secret;
        let shown = if secret {
            format!("this {}", item.type_name())
        } else {
            self.shown(item)
        };
        let text = match item {
            Item::Value(toml_edit::Value::String(text)) if secret => {
                self.resolver.secret(text.value())?
            }
            Item::Value(toml_edit::Value::String(text)) => self.resolver.expand(text.value())?,
            Item::Value(toml_edit::Value::Array(array)) if kind.is_list() => {
                let mut list = Vec::new();
                for value in array {
                    let text = value
                        .as_str()
                        .ok_or_else(|| kind.expected().explain(&shown))?;
                    list.push(self.resolver.expand(text)?);
                }
                return kind.parse_list(list).map_err(|fault| fault.explain(&shown));
            }
            _ if kind.is_textual() => return Err(kind.expected().explain(&shown)),
            Item::Value(toml_edit::Value::Integer(number)) => number.value().to_string(),
            Item::Value(toml_edit::Value::Float(number)) => number.value().to_string(),
            Item::Value(toml_edit::Value::Boolean(flag)) => flag.value().to_string(),
            _ => return Err(kind.expected().explain(&shown)),
        };
        kind.parse(&text).map_err(|fault| fault.explain(&shown))
    }

    /// The value as it is written: what a variable stands for is not shown.
    fn shown(&self, item: &Item) -> String {
        let text = item
            .span()
            .and_then(|span| self.text.get(span))
            .unwrap_or_default();
        match text.chars().nth(SHOWN) {
            _ if item.as_value().is_none() => item.type_name().to_owned(),
            None if !text.is_empty() && !text.contains('\n') => text.to_owned(),
            _ => format!("this {}", item.type_name()),
        }
    }

    /// Remembers the line of a key.
    fn note(&mut self, table: &dyn TableLike, key: &str, path: &str) {
        let span = table.key(key).and_then(toml_edit::Key::span);
        let span = span.or_else(|| table.get(key).and_then(Item::span));
        if let Some(span) = span {
            self.places
                .insert(path.to_owned(), self.lines.line(span.start));
        }
    }

    /// A mistake at the line of the key, or of the section that lacks it.
    fn mistake(&mut self, path: &str, what: String) {
        let parents = std::iter::successors(Some(path), |path| Some(path.rsplit_once('.')?.0));
        let line = parents
            .into_iter()
            .find_map(|path| self.places.get(path))
            .copied()
            .unwrap_or(1);
        self.found.push(Mistake {
            file: self.file.to_owned(),
            line,
            key: path.to_owned(),
            what,
        });
    }
}

/// What to say about a key that the section does not have.
fn unknown<S: Section>(key: &str, parts: &[&str]) -> String {
    let known = S::rows().map(|row| row.key).chain(parts.iter().copied());
    let guess = S::rows()
        .find(|row| row.pgbouncer == key)
        .map(|row| row.key);
    if let Some(guess) = guess.or_else(|| nearest(key, known)) {
        return format!("unknown key{}", did_you_mean(Some(guess)));
    }
    match settings::all().find(|(_, row)| row.key == key || row.pgbouncer == key) {
        Some((path, row)) => format!("unknown key; {} belongs to [{path}]", row.key),
        None => "unknown key".to_owned(),
    }
}
