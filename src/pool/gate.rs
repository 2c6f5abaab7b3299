//! The gate: who may be given a server. The decision ([`admit`]) is pure; [`ClusterGate`] keeps
//! its cluster's half of the input.
//!
//! Two axes, each lifted only by its owner: the operator's ([`Operator`]: PAUSE, RESUME) and the
//! cluster's ([`ClusterState`]: the control plane's hold).
//!
//! How a hold is made tight: the state is changed first, then every pool of the cluster is locked
//! once. A checkout reads the state under its pool's lock, so when that round is over, each
//! checkout that still saw the gate open has its server on the pool's books, and none will come
//! after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::cluster::Epoch;
use crate::config::{ClusterName, NodeConfig, NodeName};
use crate::relay::HoldId;

use super::HoldOwner;
use super::route::Routes;

/// Span in which at most `per_ms` held clients are let through.
const PACE_WINDOW: Duration = Duration::from_millis(1);

/// The cluster's half.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ClusterState {
    /// Clients go to the lead.
    Open { lead: Arc<NodeConfig>, epoch: Epoch },
    /// Clients wait. `before` is what an abort goes back to.
    Held {
        owner: HoldOwner,
        id: HoldId,
        before: Option<(Arc<NodeConfig>, Epoch)>,
    },
    /// Clients are told 57P03.
    Refusing { why: Arc<str> },
}

/// The operator's half, for one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Operator {
    /// Nothing said, or RESUME.
    #[default]
    Open,
    /// PAUSE.
    Paused,
}

/// May a client be given a server now?
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Admission {
    /// Yes: of this node, under this epoch.
    Open { lead: Arc<NodeConfig>, epoch: Epoch },
    /// Later.
    Hold,
    /// No: 57P03.
    Refuse(Arc<str>),
}

/// The whole rule. An operator's pause also holds those whom the cluster would refuse: he asked
/// for quiet, not for errors.
pub(super) fn admit(operator: Operator, cluster: &ClusterState) -> Admission {
    match (operator, cluster) {
        (Operator::Paused, _) | (_, ClusterState::Held { .. }) => Admission::Hold,
        (Operator::Open, ClusterState::Refusing { why }) => Admission::Refuse(Arc::clone(why)),
        (Operator::Open, ClusterState::Open { lead, epoch }) => Admission::Open {
            lead: Arc::clone(lead),
            epoch: *epoch,
        },
    }
}

/// A backend whose connection ended in the middle of something, and that may still be running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Departed {
    pub(super) node: NodeName,
    pub(super) pid: i32,
}

/// One per cluster; shared by its pools.
#[derive(Debug)]
pub(super) struct ClusterGate {
    pub(super) name: ClusterName,
    state: RwLock<ClusterState>,
    last_hold: Mutex<HoldId>,
    departed: Mutex<Vec<Departed>>,
    pub(super) dialing: AtomicUsize,
    pace: Mutex<Pace>,
    /// What `route = "read"` and `route = "any"` go by; `None` until something was published.
    routes: RwLock<Option<Arc<Routes>>>,
    /// Sessions of those routes, by node.
    sessions: Mutex<BTreeMap<NodeName, Arc<AtomicUsize>>>,
    /// Rung when a session parks, goes on or ends, a dial ends, or the gate moves.
    bell: Arc<watch::Sender<u64>>,
}

impl ClusterGate {
    /// Closed until the control plane opens it.
    pub(super) fn new(name: ClusterName, bell: Arc<watch::Sender<u64>>) -> Self {
        let id = HoldId::FIRST;
        Self {
            name,
            state: RwLock::new(ClusterState::Held {
                owner: HoldOwner::NoLead,
                id,
                before: None,
            }),
            last_hold: Mutex::new(id),
            departed: Mutex::new(Vec::new()),
            dialing: AtomicUsize::new(0),
            pace: Mutex::new(Pace::default()),
            routes: RwLock::new(None),
            sessions: Mutex::default(),
            bell,
        }
    }

    pub(super) fn state(&self) -> ClusterState {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn admit(&self, operator: Operator) -> Admission {
        admit(
            operator,
            &self.state.read().unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// First half of a hold (see the module's text). A hold over a hold keeps the way back.
    pub(super) fn close(&self, owner: HoldOwner) -> HoldId {
        let mut last = lock(&self.last_hold);
        *last = last.next();
        let id = *last;
        self.change(|state| {
            let before = match state {
                ClusterState::Open { lead, epoch } => Some((Arc::clone(lead), *epoch)),
                ClusterState::Held { before, .. } => before.clone(),
                ClusterState::Refusing { .. } => None,
            };
            ClusterState::Held { owner, id, before }
        });
        id
    }

    /// Opens as it was before the hold, at this pace. `false`: there is no way back.
    pub(super) fn reopen(&self, pace: Pace) -> bool {
        *lock(&self.pace) = pace;
        let mut reopened = false;
        self.change(|state| match state {
            ClusterState::Held {
                before: Some((lead, epoch)),
                ..
            } => {
                reopened = true;
                ClusterState::Open {
                    lead: Arc::clone(lead),
                    epoch: *epoch,
                }
            }
            other => other.clone(),
        });
        reopened
    }

    /// Opens at a lead. The first `held` clients pass at most `per_ms` at a time.
    pub(super) fn open(&self, lead: Arc<NodeConfig>, epoch: Epoch, pace: Pace) {
        *lock(&self.pace) = pace;
        self.change(|_| ClusterState::Open { lead, epoch });
    }

    pub(super) fn refuse(&self, why: &str) {
        self.change(|_| ClusterState::Refusing {
            why: Arc::from(why),
        });
    }

    fn change(&self, next: impl FnOnce(&ClusterState) -> ClusterState) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = next(&state);
        drop(state);
        self.ring();
    }

    /// What was published last.
    pub(super) fn routes(&self) -> Option<Arc<Routes>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.clone()
    }

    /// First half of a publication (see the module's text).
    pub(super) fn set_routes(&self, routes: Routes) {
        let mut shown = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if shown.as_deref() != Some(&routes) {
            *shown = Some(Arc::new(routes));
            drop(shown);
            self.ring();
        }
    }

    /// How many sessions of `route = "read"` and `route = "any"` the node has.
    pub(super) fn sessions(&self, node: &NodeName) -> Arc<AtomicUsize> {
        let mut sessions = lock(&self.sessions);
        Arc::clone(sessions.entry(node.clone()).or_default())
    }

    /// Is a server of this node worth keeping? It is while the gate stands open there, or may go
    /// back to it.
    pub(super) fn keeps(&self, node: &NodeName) -> bool {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            ClusterState::Open { lead, .. }
            | ClusterState::Held {
                before: Some((lead, _)),
                ..
            } => lead.name == *node,
            ClusterState::Held { before: None, .. } | ClusterState::Refusing { .. } => false,
        }
    }

    pub(super) fn hold_id(&self) -> Option<HoldId> {
        match *self.state.read().unwrap_or_else(PoisonError::into_inner) {
            ClusterState::Held { id, .. } => Some(id),
            _ => None,
        }
    }

    /// May one more held client pass now? Else: when to ask again.
    pub(super) fn pass(&self, now: Instant) -> Result<(), Instant> {
        lock(&self.pace).pass(now)
    }

    pub(super) fn bell(&self) -> Arc<watch::Sender<u64>> {
        Arc::clone(&self.bell)
    }

    pub(super) fn ring(&self) {
        self.bell
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn departed_on(&self, node: &NodeName) -> Vec<i32> {
        lock(&self.departed)
            .iter()
            .filter(|d| d.node == *node)
            .map(|d| d.pid)
            .collect()
    }

    /// Notes a backend that may still be running.
    pub(super) fn depart(&self, departed: Departed) {
        let mut all = lock(&self.departed);
        if !all.contains(&departed) {
            all.push(departed);
        }
        drop(all);
        self.ring();
    }

    /// The backend was seen to be gone.
    pub(super) fn forget(&self, node: &NodeName, pids: &[i32]) {
        let mut departed = lock(&self.departed);
        let before = departed.len();
        departed.retain(|d| d.node != *node || !pids.contains(&d.pid));
        if departed.len() != before {
            drop(departed);
            self.ring();
        }
    }
}

/// Paced release: so that a thousand held clients do not reach the new lead in the same instant.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    remaining: usize,
    per_ms: u32,
    window: Option<Instant>,
    passed: u32,
}

impl Pace {
    /// For `held` waiting clients; `None` and 0: no limit.
    pub(super) fn new(held: usize, per_ms: Option<u32>) -> Self {
        let per_ms = per_ms.filter(|per_ms| *per_ms > 0);
        let (remaining, per_ms) = per_ms.map_or((0, 0), |per_ms| (held, per_ms));
        Self {
            remaining,
            per_ms,
            window: None,
            passed: 0,
        }
    }

    fn pass(&mut self, now: Instant) -> Result<(), Instant> {
        if self.remaining == 0 {
            return Ok(());
        }
        let window = match self.window {
            Some(window) if now < window + PACE_WINDOW => window,
            _ => {
                self.passed = 0;
                *self.window.insert(now)
            }
        };
        if self.passed >= self.per_ms {
            return Err(window + PACE_WINDOW);
        }
        self.passed += 1;
        self.remaining -= 1;
        Ok(())
    }
}

/// Counts a login in progress while it lives.
#[derive(Debug)]
pub(super) struct Dialing(Arc<ClusterGate>);

impl Dialing {
    pub(super) fn new(gate: &Arc<ClusterGate>) -> Self {
        gate.dialing.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(gate))
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.dialing.fetch_sub(1, Ordering::AcqRel);
        self.0.ring();
    }
}

/// A poisoned lock means that a thread panicked while it changed plain data; the data is whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test may panic")]

    use std::sync::Arc;
    use std::time::Instant;

    use super::{Admission, ClusterGate, ClusterState, Operator, Pace, admit};
    use crate::cluster::Epoch;
    use crate::config::{Candidate, NodeConfig};
    use crate::pool::HoldOwner;

    fn node(name: &str) -> Arc<NodeConfig> {
        Arc::new(NodeConfig {
            name: name.into(),
            host: "127.0.0.1".to_owned(),
            port: 5432,
            id: 1,
            priority: 100,
            candidate: Candidate::Auto,
            weight: 100,
            datacenter: None,
        })
    }

    #[test]
    fn each_axis_is_lifted_only_by_its_owner() {
        let gate = ClusterGate::new("main".into(), Arc::default());
        assert_eq!(
            gate.admit(Operator::Open),
            Admission::Hold,
            "closed until proven"
        );
        gate.open(node("n1"), Epoch(1), Pace::default());
        let open = Admission::Open {
            lead: node("n1"),
            epoch: Epoch(1),
        };
        assert_eq!(gate.admit(Operator::Open), open);
        assert_eq!(gate.admit(Operator::Paused), Admission::Hold);
        gate.close(HoldOwner::Switchover);
        assert_eq!(
            gate.admit(Operator::Open),
            Admission::Hold,
            "RESUME does not lift a hold"
        );
        assert!(gate.reopen(Pace::default()));
        assert_eq!(
            gate.admit(Operator::Paused),
            Admission::Hold,
            "an abort does not lift a PAUSE"
        );
        assert_eq!(gate.admit(Operator::Open), open);
    }

    #[test]
    fn a_hold_over_a_hold_keeps_the_way_back_and_gets_a_new_number() {
        let gate = ClusterGate::new("main".into(), Arc::default());
        assert!(
            !gate.reopen(Pace::default()),
            "there is no way back to nothing"
        );
        gate.open(node("n1"), Epoch(4), Pace::default());
        let first = gate.close(HoldOwner::Switchover);
        let second = gate.close(HoldOwner::NoLead);
        assert_ne!(first, second);
        assert!(gate.reopen(Pace::default()));
        assert!(matches!(
            gate.state(),
            ClusterState::Open {
                epoch: Epoch(4),
                ..
            }
        ));
    }

    #[test]
    fn a_paced_release_lets_so_many_through_in_each_window() {
        let start = Instant::now();
        let mut pace = Pace::new(3, Some(2));
        assert_eq!(pace.pass(start), Ok(()));
        assert_eq!(pace.pass(start), Ok(()));
        let again = pace.pass(start).expect_err("the window is full");
        assert_eq!(pace.pass(again), Ok(()));
        assert_eq!(pace.pass(again), Ok(()), "only the held are paced");
        assert_eq!(pace.pass(again), Ok(()));
    }

    #[test]
    fn refusing_gives_the_reason_but_a_pause_holds() {
        let refusing = ClusterState::Refusing {
            why: Arc::from("no node is up"),
        };
        assert_eq!(
            admit(Operator::Open, &refusing),
            Admission::Refuse(Arc::from("no node is up"))
        );
        assert_eq!(admit(Operator::Paused, &refusing), Admission::Hold);
    }
}
