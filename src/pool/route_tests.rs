#![allow(clippy::indexing_slicing, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Lagging, RouteNode, Routes, Standing, Stay, Way, Wish};
use crate::config::{DatabaseConfig, NodeName, Route, check};

const KB: u64 = 1024;
const CONFIRM: Duration = Duration::from_secs(1);

struct World {
    routes: Routes,
    databases: Vec<Arc<DatabaseConfig>>,
    lagging: Lagging,
    now: Instant,
    here: Option<&'static str>,
}

impl World {
    /// n1 leads in the east; n2 in the east and n3 in the west follow.
    fn new() -> Self {
        let text = "[pgsluice]\nauth_file = \"/none\"\n[clusters.main]\n\
            monitor = { user = \"m\", dbname = \"app\" }\n[clusters.main.nodes]\n\
            n1 = { host = \"a\", datacenter = \"east\" }\n\
            n2 = { host = \"b\", datacenter = \"east\" }\n\
            n3 = { host = \"c\", datacenter = \"west\" }\n\
            [databases]\n\
            a_read = { cluster = \"main\", route = \"read\", read_lag_max = \"100kB\" }\n\
            b_strict = { cluster = \"main\", route = \"read\", read_lag_max_time = \"10s\", read_fallback = \"refuse\" }\n\
            c_any = { cluster = \"main\", route = \"any\" }\n";
        let no_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let config = check(text, "test", &|_| None, &no_file);
        let config = config.unwrap_or_else(|found| panic!("{found:?}"));
        let node = |at: usize, reads| RouteNode {
            node: Arc::new(config.clusters["main"].nodes[at].clone()),
            up_since: SystemTime::UNIX_EPOCH,
            reads,
            writes: Standing::Fit,
            lag_bytes: Some(0),
            lag: Some(Duration::ZERO),
        };
        Self {
            routes: Routes {
                nodes: vec![
                    node(0, Standing::Lead),
                    node(1, Standing::Fit),
                    node(2, Standing::Fit),
                ],
                confirm: CONFIRM,
                ..Routes::default()
            },
            databases: config.databases.values().cloned().collect(),
            lagging: Lagging::new(),
            now: Instant::now(),
            here: None,
        }
    }

    fn wish(&self, database: usize) -> Wish<'_> {
        let config = &self.databases[database];
        Wish {
            route: config.route,
            config,
            here: self.here,
            lagging: &self.lagging,
        }
    }

    /// Names, or what else becomes of a newcomer.
    fn way(&self, database: usize, avoid: &[&str]) -> String {
        let avoid = |name: &NodeName| avoid.contains(&name.as_str());
        match self.routes.way(self.wish(database), avoid) {
            Way::Among(nodes) => {
                let names: Vec<&str> = nodes.iter().map(|one| one.node.name.as_str()).collect();
                names.join(" ")
            }
            Way::ToLead => "lead".to_owned(),
            Way::Wait => "wait".to_owned(),
            Way::Refused(why) => format!("refused: {why}"),
        }
    }

    fn note_lag(&mut self) {
        let config = &self.databases[READ];
        self.lagging = self.routes.lagging(config, &self.lagging, self.now);
    }

    fn lose(&mut self, at: usize) {
        let lost = Standing::Lost(Arc::from("is down"));
        self.routes.nodes[at].reads = lost.clone();
        self.routes.nodes[at].writes = lost;
    }
}

const READ: usize = 0;
const STRICT: usize = 1;
const ANY: usize = 2;

#[test]
fn newcomers_go_where_the_route_says() {
    let mut world = World::new();
    assert_eq!(world.databases[ANY].route, Route::Any);
    assert_eq!(
        [READ, ANY].map(|d| world.way(d, &[])),
        ["n2 n3", "n1 n2 n3"]
    );
    assert_eq!(
        world.way(READ, &["n2"]),
        "n3",
        "one that failed is passed over"
    );
    assert_eq!(world.way(READ, &["n2", "n3"]), "lead");
    assert_eq!(
        world.way(STRICT, &["n2", "n3"]),
        "wait",
        "they are still fit"
    );
    world.here = Some("west");
    assert_eq!([READ, ANY].map(|d| world.way(d, &[])), ["n3", "n3"]);
    assert_eq!(world.way(ANY, &["n3"]), "n1 n2", "nobody is left here");
    world.here = Some("north");
    assert_eq!(world.way(READ, &[]), "n2 n3");
}

#[test]
fn when_nobody_is_fit_the_fallback_says_what_happens() {
    let mut world = World::new();
    world.lose(1);
    world.routes.nodes[2].reads = Standing::Unfit(Arc::from("is drained"));
    assert_eq!(world.way(READ, &[]), "lead");
    let why =
        "refused: no node is fit for reads: \"n1\" is the lead, \"n2\" is down, \"n3\" is drained";
    assert_eq!(world.way(STRICT, &[]), why);
    world.routes.undecided = true;
    assert_eq!(world.way(STRICT, &[]), "wait", "it may yet turn out well");
    for at in 0..3 {
        world.lose(at);
    }
    assert_eq!(world.way(ANY, &[]), "wait");
    world.routes.any_is_hopeless = true;
    assert!(
        world
            .way(ANY, &[])
            .starts_with("refused: no node takes writes: \"n1\" is down")
    );
}

#[test]
fn a_node_without_weight_gets_nobody() {
    let mut world = World::new();
    let mut light = (*world.routes.nodes[1].node).clone();
    light.weight = 0;
    world.routes.nodes[1].node = Arc::new(light);
    assert_eq!([READ, ANY].map(|d| world.way(d, &[])), ["n3", "n1 n3"]);
}

#[test]
fn who_is_there_stays_leaves_or_ends() {
    let mut world = World::new();
    let stay = |world: &World, database, name: &str| {
        world
            .routes
            .stay(world.wish(database), &name.into(), world.now)
    };
    assert_eq!(stay(&world, READ, "n2"), Stay::Yes);
    assert_eq!(stay(&world, READ, "n1"), Stay::Yes, "it has become lead");
    assert_eq!(
        stay(&world, STRICT, "n1"),
        Stay::Leave,
        "the lead is not for reads"
    );
    assert_eq!(stay(&world, ANY, "n1"), Stay::Yes);
    assert_eq!(stay(&world, READ, "n9"), Stay::End, "it was removed");
    world.routes.nodes[1].lag_bytes = Some(101 * KB);
    world.note_lag();
    assert_eq!(world.way(READ, &[]), "n3");
    assert_eq!(stay(&world, READ, "n2"), Stay::Yes, "a burst");
    world.now += CONFIRM;
    world.note_lag();
    assert_eq!(stay(&world, READ, "n2"), Stay::Leave);
    world.routes.nodes[1].reads = Standing::Unfit(Arc::from("is drained"));
    world.note_lag();
    assert_eq!(stay(&world, READ, "n2"), Stay::Leave);
    world.lose(1);
    assert_eq!(stay(&world, READ, "n2"), Stay::End);
}

#[test]
fn lag_that_is_not_known_is_not_zero() {
    let mut world = World::new();
    world.routes.nodes[1].lag = None;
    assert_eq!(world.way(READ, &[]), "n2 n3", "only bytes count there");
    assert_eq!(world.way(STRICT, &[]), "n3");
    world.routes.nodes[1].lag_bytes = None;
    assert_eq!(world.way(READ, &[]), "n3");
}

#[test]
fn a_node_that_was_turned_away_comes_back_at_half_the_limit() {
    let mut world = World::new();
    let mut turned_away = |lag: u64| {
        world.routes.nodes[1].lag_bytes = Some(lag * KB);
        world.note_lag();
        world.way(READ, &[]) == "n3"
    };
    let seen = [100, 101, 100, 51, 50, 100, 101].map(&mut turned_away);
    assert_eq!(seen, [false, true, true, true, false, false, true]);
}
