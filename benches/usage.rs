//! What a process has used, from /proc: CPU of all its threads and children, context switches,
//! resident memory.

use std::fs;

/// Totals since the process began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Time on a CPU in nanoseconds (`schedstat`).
    pub(crate) cpu_ns: u64,
    /// Voluntary and other context switches.
    pub(crate) switches: u64,
}

impl Usage {
    /// Of the process `pid`, its threads and its children.
    pub(crate) fn of(pid: u32) -> Self {
        let mut sum = Self::default();
        for pid in family(pid) {
            for thread in threads(pid) {
                let read = |name: &str| fs::read_to_string(format!("{thread}/{name}"));
                let schedstat = read("schedstat").unwrap_or_default();
                sum.cpu_ns += number(schedstat.split_whitespace().next());
                sum.switches += read("status")
                    .unwrap_or_default()
                    .lines()
                    .filter(|line| line.contains("voluntary_ctxt_switches"))
                    .map(|line| number(line.split_whitespace().nth(1)))
                    .sum::<u64>();
            }
        }
        sum
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// Resident memory of the process and its children in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let of_one = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        number(line.and_then(|line| line.split_whitespace().nth(1)))
    };
    family(pid).into_iter().map(of_one).sum()
}

fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        for thread in threads(pid) {
            let children = fs::read_to_string(format!("{thread}/children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|c| c.parse::<u32>().ok()),
            );
        }
        at += 1;
    }
    all
}

fn threads(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let entries = entries.into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
