//! Which nodes serve reads, and which take writes besides the lead, as the view has it. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::{ClusterView, LinkView, NodeView, Observed, Role, Wanted};
use crate::config::{ClusterConfig, NodeConfig, NodeName};
use crate::pool::{RouteNode, Routes, Standing};

/// State of a link whose lag means something.
const STREAMING: &str = "streaming";

/// What was published last, and since when nobody has been fit for `route = "any"`.
#[derive(Debug, Default)]
pub(super) struct Routing {
    shown: Routes,
    any_missing_since: Option<Instant>,
    /// Who served what when that was told last.
    told: Option<String>,
}

/// How far a node is behind the lead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Behind {
    bytes: Option<u64>,
    time: Option<Duration>,
}

impl Routing {
    /// What the view means for the routes; `nodes`: the cluster's, with host and port.
    pub(super) fn routes<'a>(
        &mut self,
        view: &ClusterView,
        cluster: &ClusterConfig,
        nodes: impl Iterator<Item = &'a NodeConfig>,
        now: Instant,
    ) -> Routes {
        let of = |config: &NodeConfig| {
            let seen = view.nodes.iter().find(|node| node.name == config.name)?;
            let before = self
                .shown
                .nodes
                .iter()
                .find(|one| one.node.name == config.name);
            let (reads, behind) = reads(view, seen, before, now);
            let same = before
                .map(|one| &one.node)
                .filter(|node| ***node == *config);
            Some(RouteNode {
                node: same.map_or_else(|| Arc::new(config.clone()), Arc::clone),
                up_since: seen.since,
                reads,
                writes: writes(seen),
                lag_bytes: behind.bytes,
                lag: behind.time,
            })
        };
        let nodes: Vec<RouteNode> = nodes.filter_map(of).collect();
        if nodes.iter().any(|one| one.writes == Standing::Fit) {
            self.any_missing_since = None;
        } else {
            self.any_missing_since.get_or_insert(now);
        }
        let missing_for = self.any_missing_since.map(|since| now - since);
        self.shown = Routes {
            nodes,
            slowstart: cluster.slowstart,
            confirm: cluster.monitor_interval,
            undecided: view.nodes.iter().any(is_undecided),
            any_is_hopeless: missing_for.is_some_and(|time| time >= cluster.hold_timeout),
        };
        self.shown.clone()
    }

    /// Who serves what now, if that was not told yet. How far a node may lag is each database's own
    /// word, and not in it.
    pub(super) fn change(&mut self) -> Option<String> {
        if self.shown.undecided {
            return None;
        }
        let fit = |of: fn(&RouteNode) -> &Standing| {
            let fit = self.shown.nodes.iter();
            let fit = fit.filter(|one| one.node.weight > 0 && *of(one) == Standing::Fit);
            let names: Vec<&str> = fit.map(|one| one.node.name.as_str()).collect();
            if names.is_empty() {
                "no node".to_owned()
            } else {
                names.join(", ")
            }
        };
        let reads = fit(|one| &one.reads);
        let now = format!("reads: {reads}; any: {}", fit(|one| &one.writes));
        let is_new = self.told.as_ref() != Some(&now);
        is_new.then(|| self.told.insert(now).clone())
    }
}

fn is_undecided(node: &NodeView) -> bool {
    node.observed == Observed::Unknown && node.wanted == Wanted::Ready
}

/// What no route can do with the node, or nothing that speaks against it.
fn hindrance(node: &NodeView) -> Option<Standing> {
    let because = |what: &str| match node.reason.as_str() {
        "" => Arc::from(what),
        why => Arc::from(format!("{what}: {why}")),
    };
    if let Some(why) = &node.fence {
        return Some(Standing::Lost(Arc::from(format!("is fenced: {why}"))));
    }
    match (node.wanted, node.observed) {
        (Wanted::Maint, _) => Some(Standing::Lost(Arc::from("is in maintenance"))),
        (Wanted::Fenced, _) => Some(Standing::Lost(Arc::from("is fenced"))),
        (_, Observed::Down) => Some(Standing::Lost(because("is down"))),
        // The gate decides about the lead.
        _ if node.role == Role::Lead => None,
        (Wanted::Drain, _) => Some(Standing::Unfit(Arc::from("is drained"))),
        (_, Observed::Unknown) => Some(Standing::Unfit(because("has not been proven yet"))),
        (_, Observed::Recovering) => Some(Standing::Unfit(because("is recovering"))),
        (Wanted::Ready, Observed::Up) => None,
    }
}

fn reads(
    view: &ClusterView,
    node: &NodeView,
    before: Option<&RouteNode>,
    now: Instant,
) -> (Standing, Behind) {
    if let Some(hindrance) = hindrance(node) {
        return (hindrance, Behind::default());
    }
    if node.role == Role::Lead {
        return (Standing::Lead, Behind::default());
    }
    let unfit = |why: String| (Standing::Unfit(Arc::from(why)), Behind::default());
    let lead = view.nodes.iter().find(|other| other.role == Role::Lead);
    match (lead, before) {
        (None, _) => unfit("has no lead to follow".to_owned()),
        (Some(lead), _) if lead.observed == Observed::Up => {
            match behind(view, (&lead.name, &node.name), now) {
                Ok(behind) => (Standing::Fit, behind),
                Err(state) => unfit(state),
            }
        }
        // Nothing is written while the lead is gone: who had kept up with it still has.
        (Some(_), Some(before)) if before.reads == Standing::Fit => {
            let behind = Behind {
                bytes: before.lag_bytes,
                time: before.lag,
            };
            (Standing::Fit, behind)
        }
        (Some(_), _) => unfit("cannot be compared with a lead that does not answer".to_owned()),
    }
}

/// By the link from the lead, or through one node between where there is none. What the lead itself
/// says of a broken link is worth nothing: its figures stand still.
fn behind(
    view: &ClusterView,
    (lead, node): (&NodeName, &NodeName),
    now: Instant,
) -> Result<Behind, String> {
    let to = |node: &NodeName| {
        let node = node.clone();
        view.links.iter().filter(move |link| link.to == node)
    };
    let mut direct = to(node).filter(|link| link.from == *lead).peekable();
    if let Some(first) = direct.peek() {
        let state = first.state.clone();
        let streams = direct.find(|link| link.state == STREAMING);
        return match streams {
            Some(link) => Ok(lag_of(link, now)),
            None => Err(format!("does not replicate from the lead ({state})")),
        };
    }
    let streaming = |link: &&LinkView| link.state == STREAMING;
    let mut ways = to(node).filter(streaming).filter_map(|last| {
        let first = to(&last.from)
            .filter(streaming)
            .find(|link| link.from == *lead)?;
        Some(sum(&lag_of(first, now), &lag_of(last, now)))
    });
    ways.next()
        .ok_or_else(|| "does not replicate from the lead".to_owned())
}

fn lag_of(link: &LinkView, now: Instant) -> Behind {
    Behind {
        bytes: link.lag_bytes,
        time: link.behind.age(now),
    }
}

fn sum(a: &Behind, b: &Behind) -> Behind {
    Behind {
        bytes: a.bytes.zip(b.bytes).map(|(a, b)| a.saturating_add(b)),
        time: a.time.zip(b.time).map(|(a, b)| a.saturating_add(b)),
    }
}

fn writes(node: &NodeView) -> Standing {
    if let Some(hindrance) = hindrance(node) {
        return hindrance;
    }
    let unfit = |why: &str| Standing::Unfit(Arc::from(why));
    match (node.observed, node.in_recovery) {
        _ if node.role == Role::Standby => unfit("must not take writes"),
        (Observed::Up, Some(false)) => Standing::Fit,
        (Observed::Up, Some(true)) => unfit("is a physical standby"),
        _ => unfit("is not known to take writes"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use std::time::{Duration, Instant, SystemTime};

    use super::Routing;
    use crate::cluster::{ClusterView, Epoch, LinkView, NodeView, Observed, Role, Wanted};
    use crate::config::{Candidate, ClusterConfig, check};
    use crate::pool::{Routes, Standing};

    fn cluster() -> ClusterConfig {
        let text = "[pgsluice]\nauth_file = \"/none\"\n[clusters.main]\n\
            monitor = { user = \"m\", dbname = \"app\" }\n[clusters.main.nodes]\n\
            n1 = { host = \"a\" }\nn2 = { host = \"b\" }\nn3 = { host = \"c\" }\n\
            [databases.app]\ncluster = \"main\"\n";
        let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let config = check(text, "test", &|_| None, &no_file);
        let config = config.unwrap_or_else(|found| panic!("{found:?}"));
        (*config.clusters["main"]).clone()
    }

    fn node(name: &str, role: Role) -> NodeView {
        NodeView {
            name: name.into(),
            host: String::new(),
            port: 0,
            priority: 100,
            candidate: Candidate::Auto,
            role,
            wanted: Wanted::Ready,
            observed: Observed::Up,
            since: SystemTime::UNIX_EPOCH,
            reason: String::new(),
            condition: "",
            fence: None,
            maintenance_since: None,
            server_version: None,
            system_identifier: None,
            in_recovery: Some(false),
            lsn: None,
            probe_us: None,
            bdr: None,
        }
    }

    fn link(from: &str, to: &str, lag: u64) -> LinkView {
        LinkView {
            lag_bytes: Some(lag),
            ..LinkView::streaming(from, to)
        }
    }

    /// n1 leads, n2 and n3 follow.
    fn view() -> ClusterView {
        ClusterView {
            name: "main".into(),
            epoch: Epoch(1),
            lead: Some("n1".into()),
            lead_since: None,
            lead_reason: String::new(),
            previous: None,
            clients: "served",
            clients_why: String::new(),
            operation: None,
            nodes: vec![
                node("n1", Role::Lead),
                node("n2", Role::Shadow),
                node("n3", Role::Standby),
            ],
            links: vec![link("n1", "n2", 10), link("n1", "n3", 20)],
            slots: Vec::new(),
        }
    }

    fn routes(routing: &mut Routing, view: &ClusterView, now: Instant) -> Routes {
        let cluster = cluster();
        routing.routes(view, &cluster, cluster.nodes.iter(), now)
    }

    /// One letter for each node: F fit, L lead, u unfit, x lost.
    fn letters(of: impl Iterator<Item = Standing>) -> String {
        of.map(|standing| match standing {
            Standing::Fit => 'F',
            Standing::Lead => 'L',
            Standing::Unfit(_) => 'u',
            Standing::Lost(_) => 'x',
        })
        .collect()
    }

    fn both(view: &ClusterView) -> (String, String) {
        let routes = routes(&mut Routing::default(), view, Instant::now());
        let reads = letters(routes.nodes.iter().map(|one| one.reads.clone()));
        (
            reads,
            letters(routes.nodes.iter().map(|one| one.writes.clone())),
        )
    }

    #[test]
    fn each_state_of_a_node_has_its_standing() {
        let expect = |change: &dyn Fn(&mut ClusterView), reads: &str, writes: &str| {
            let mut view = view();
            change(&mut view);
            assert_eq!(
                both(&view),
                (reads.to_owned(), writes.to_owned()),
                "{view:?}"
            );
        };
        expect(&|_| {}, "LFF", "FFu");
        expect(&|v| v.nodes[1].wanted = Wanted::Drain, "LuF", "Fuu");
        expect(&|v| v.nodes[1].wanted = Wanted::Maint, "LxF", "Fxu");
        expect(&|v| v.nodes[1].wanted = Wanted::Fenced, "LxF", "Fxu");
        expect(&|v| v.nodes[1].observed = Observed::Down, "LxF", "Fxu");
        expect(&|v| v.nodes[1].observed = Observed::Unknown, "LuF", "Fuu");
        expect(
            &|v| v.nodes[1].observed = Observed::Recovering,
            "LuF",
            "Fuu",
        );
        expect(&|v| v.nodes[1].in_recovery = Some(true), "LFF", "Fuu");
        expect(&|v| v.nodes[1].in_recovery = None, "LFF", "Fuu");
        expect(
            &|v| v.links[0].state = "disconnected".to_owned(),
            "LuF",
            "FFu",
        );
        expect(&|v| v.links.clear(), "Luu", "FFu");
        expect(&|v| v.nodes[0].observed = Observed::Down, "xuu", "xFu");
        expect(&|v| v.nodes[0].role = Role::Shadow, "uuu", "FFu");
    }

    #[test]
    fn who_had_kept_up_serves_on_while_the_lead_is_gone() {
        let mut routing = Routing::default();
        let (mut view, now) = (view(), Instant::now());
        view.links[1].state = "disconnected".to_owned();
        routes(&mut routing, &view, now);
        view.nodes[0].observed = Observed::Down;
        view.links.clear();
        let shown = routes(&mut routing, &view, now);
        assert_eq!(
            letters(shown.nodes.iter().map(|one| one.reads.clone())),
            "xFu"
        );
        assert_eq!(shown.nodes[1].lag_bytes, Some(10));
    }

    #[test]
    fn a_node_behind_another_is_behind_by_both_ways() {
        let mut view = view();
        view.links[1] = link("n2", "n3", 5);
        let shown = routes(&mut Routing::default(), &view, Instant::now());
        assert_eq!(
            (&shown.nodes[2].reads, shown.nodes[2].lag_bytes),
            (&Standing::Fit, Some(15))
        );
        view.links[1].lag_bytes = None;
        let shown = routes(&mut Routing::default(), &view, Instant::now());
        assert_eq!(shown.nodes[2].lag_bytes, None);
    }

    #[test]
    fn writers_wait_for_a_while_before_they_are_refused() {
        let mut routing = Routing::default();
        let (mut view, start) = (view(), Instant::now());
        for node in &mut view.nodes {
            node.observed = Observed::Down;
        }
        assert!(!routes(&mut routing, &view, start).any_is_hopeless);
        let early = start
            + cluster()
                .hold_timeout
                .saturating_sub(Duration::from_millis(1));
        assert!(!routes(&mut routing, &view, early).any_is_hopeless);
        assert!(routes(&mut routing, &view, start + cluster().hold_timeout).any_is_hopeless);
        view.nodes[1].observed = Observed::Up;
        let back = start + cluster().hold_timeout * 2;
        assert!(!routes(&mut routing, &view, back).any_is_hopeless);
        view.nodes[1].observed = Observed::Down;
        assert!(!routes(&mut routing, &view, back).any_is_hopeless);
    }

    #[test]
    fn a_change_is_told_once_and_not_before_all_is_known() {
        let mut routing = Routing::default();
        let (mut view, now) = (view(), Instant::now());
        let mut change = |view: &ClusterView| {
            routes(&mut routing, view, now);
            routing.change()
        };
        view.nodes[2].observed = Observed::Unknown;
        assert_eq!(change(&view), None);
        view.nodes[2].observed = Observed::Up;
        assert_eq!(change(&view).as_deref(), Some("reads: n2, n3; any: n1, n2"));
        view.links[0].lag_bytes = Some(11);
        assert_eq!(change(&view), None);
        view.nodes[1].wanted = Wanted::Drain;
        view.nodes[2].observed = Observed::Down;
        assert_eq!(change(&view).as_deref(), Some("reads: no node; any: n1"));
    }

    #[test]
    fn a_node_that_left_the_cluster_is_not_among_them() {
        let mut view = view();
        view.nodes.pop();
        let shown = routes(&mut Routing::default(), &view, Instant::now());
        let names: Vec<String> = (shown.nodes.iter())
            .map(|one| one.node.name.to_string())
            .collect();
        assert_eq!(names, ["n1", "n2"]);
    }
}
