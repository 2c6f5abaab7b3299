//! Medians of per-round ratios, as a table for people and as JSON for machines.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What one peer did with one workload in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    /// Operations per second.
    pub(crate) rate: f64,
    /// The pooler's CPU per operation in microseconds; not a number for the direct way.
    pub(crate) cpu_us: f64,
    /// Context switches of the pooler per operation.
    pub(crate) switches: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
}

type Key = (&'static str, &'static str);

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    peers: Vec<&'static str>,
    workloads: Vec<&'static str>,
    /// By workload and peer: one cell for each round, `None` where it failed.
    cells: BTreeMap<Key, Vec<Option<Cell>>>,
    /// KiB of resident memory per idle session, by peer.
    memory: BTreeMap<&'static str, Vec<f64>>,
}

/// A figure of a cell.
type Figure = fn(&Cell) -> f64;

/// Name in JSON, and the figure.
const FIGURES: [(&str, Figure); 5] = [
    ("rate_per_s", |cell| cell.rate),
    ("cpu_us", |cell| cell.cpu_us),
    ("context_switches", |cell| cell.switches),
    ("p50_us", |cell| cell.p50_us),
    ("p99_us", |cell| cell.p99_us),
];

/// What everything is a ratio to.
pub(crate) const REFERENCE: &str = "pgbouncer";

impl Results {
    /// An empty table with its rows and columns in the order of printing.
    pub(crate) fn new(peers: Vec<&'static str>, workloads: Vec<&'static str>) -> Self {
        Self {
            peers,
            workloads,
            ..Self::default()
        }
    }

    /// Adds one round's result.
    pub(crate) fn add(&mut self, workload: &'static str, peer: &'static str, cell: Option<Cell>) {
        self.cells.entry((workload, peer)).or_default().push(cell);
    }

    /// Adds one round's memory per session.
    pub(crate) fn add_memory(&mut self, peer: &'static str, kib: f64) {
        self.memory.entry(peer).or_default().push(kib);
    }

    fn of(&self, workload: &'static str, peer: &'static str) -> &[Option<Cell>] {
        self.cells.get(&(workload, peer)).map_or(&[], Vec::as_slice)
    }

    fn absolute(&self, workload: &'static str, peer: &'static str, figure: Figure) -> f64 {
        median(
            self.of(workload, peer)
                .iter()
                .flatten()
                .map(figure)
                .collect(),
        )
    }

    /// Median over the rounds of the ratio to the reference in the same round.
    fn ratio(&self, workload: &'static str, peer: &'static str, figure: Figure) -> f64 {
        let pairs = self
            .of(workload, peer)
            .iter()
            .zip(self.of(workload, REFERENCE));
        let ratios = pairs
            .filter_map(|(ours, theirs)| Some(figure(ours.as_ref()?) / figure(theirs.as_ref()?)));
        median(ratios.collect())
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let by_ratio = |figure| move |w, p| self.ratio(w, p, figure);
        let by_figure = |figure| move |w, p| self.absolute(w, p, figure);
        self.block(
            &mut out,
            "CPU per operation, pgbouncer = 1",
            2,
            by_ratio(FIGURES[1].1),
        );
        self.block(
            &mut out,
            "operations per second, pgbouncer = 1",
            2,
            by_ratio(FIGURES[0].1),
        );
        self.block(
            &mut out,
            "CPU per operation, us",
            1,
            by_figure(FIGURES[1].1),
        );
        self.block(
            &mut out,
            "context switches per operation",
            2,
            by_figure(FIGURES[2].1),
        );
        self.block(&mut out, "latency, median, us", 0, by_figure(FIGURES[3].1));
        self.block(
            &mut out,
            "latency, 99th percentile, us",
            0,
            by_figure(FIGURES[4].1),
        );
        if !self.memory.is_empty() {
            let _ = writeln!(out, "\nresident memory per idle session, KiB");
            for (peer, rounds) in &self.memory {
                let _ = writeln!(out, "  {peer:<12}{:>12}", number(median(rounds.clone()), 1));
            }
        }
        out
    }

    fn block(
        &self,
        out: &mut String,
        title: &str,
        decimals: usize,
        value: impl Fn(&'static str, &'static str) -> f64,
    ) {
        let _ = write!(out, "\n{title}\n  {:<12}", "");
        for workload in &self.workloads {
            let _ = write!(out, "{workload:>14}");
        }
        for &peer in &self.peers {
            let _ = write!(out, "\n  {peer:<12}");
            for &workload in &self.workloads {
                let _ = write!(out, "{:>14}", number(value(workload, peer), decimals));
            }
        }
        out.push('\n');
    }

    /// For machines: ratios and absolute medians, and every round.
    pub(crate) fn json(&self, rounds: usize, seconds: f64) -> String {
        let mut lines = Vec::new();
        for &workload in &self.workloads {
            for &peer in &self.peers {
                let cells = self.of(workload, peer);
                let mut fields = vec![format!(r#""workload": "{workload}", "peer": "{peer}""#)];
                for (name, figure) in FIGURES {
                    let all: Vec<String> = cells
                        .iter()
                        .map(|cell| value(cell.as_ref().map_or(f64::NAN, figure)))
                        .collect();
                    fields.push(format!(
                        r#""{name}": {{"median": {}, "ratio": {}, "rounds": [{}]}}"#,
                        value(self.absolute(workload, peer, figure)),
                        value(self.ratio(workload, peer, figure)),
                        all.join(", ")
                    ));
                }
                lines.push(format!("    {{{}}}", fields.join(", ")));
            }
        }
        let memory: Vec<String> = self
            .memory
            .iter()
            .map(|(peer, rounds)| format!(r#""{peer}": {}"#, value(median(rounds.clone()))))
            .collect();
        format!(
            "{{\n  \"reference\": \"{REFERENCE}\", \"rounds\": {rounds}, \"seconds\": {seconds},\n  \
             \"kib_per_idle_session\": {{{}}},\n  \"cells\": [\n{}\n  ]\n}}\n",
            memory.join(", "),
            lines.join(",\n")
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => f64::NAN,
        Some(&upper) if values.len() % 2 == 1 => upper,
        Some(&upper) => f64::midpoint(values[middle - 1], upper),
    }
}

fn number(value: f64, decimals: usize) -> String {
    if value.is_finite() {
        format!("{value:.decimals$}")
    } else {
        "-".to_owned()
    }
}

/// JSON knows no NaN.
fn value(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.4}")
    } else {
        "null".to_owned()
    }
}
