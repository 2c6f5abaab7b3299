//! The simulated world: two nodes that replicate, sessions that commit, backends that outlive
//! their clients, a store that may fail. It carries out the machine's actions and checks the
//! invariants itself, from what happened and not from what the machine believes.

use std::collections::BTreeMap;
use std::time::Duration;

use pgsluice::cluster::Epoch;
use pgsluice::config::{NodeName, OnDrainTimeout};
use pgsluice::control::switchover::{
    Action, Answer, End, Event, Findings, Kind, Limits, Machine, Phase, Plan, Promotion, Task,
    Ticket,
};

/// A bug to plant, so that the oracle can be seen to fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// None.
    None,
    /// The target is believed to have G without looking.
    SkipGate,
    /// Departed backends are not waited for.
    SkipBackends,
    /// Sessions are not waited for.
    SkipDrain,
    /// The gate opens before the record is durable.
    OpenBeforePersist,
    /// What was applied is believed to be durable.
    SkipDurable,
    /// The target's clock is not waited for.
    SkipClock,
    /// A failover does not wait for the apply queue.
    SkipApplied,
    /// An unknown commit is taken for one that failed.
    UnknownIsFailure,
}

/// SplitMix64.
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn micros(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.below(most))
    }
}

#[derive(Debug, Default, Clone)]
struct Node {
    up: bool,
    in_recovery: bool,
    /// Commits of its own, as a position. Synchronous, so they survive a crash.
    log: u64,
    /// Highest position whose commit a client was told of.
    acked: u64,
    /// Of the other node's log.
    received: u64,
    applied: u64,
    durable: u64,
    stalled_until: Duration,
    crashes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// The session that has it.
    Session(usize),
    /// Its connection ended in the middle; this process knows.
    Departed,
    /// Left over from an earlier process.
    Orphan,
}

#[derive(Debug, Clone)]
struct Backend {
    node: usize,
    epoch: u64,
    client: Client,
    running: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open { lead: usize, epoch: u64 },
    Held,
}

#[derive(Debug, Clone, Copy)]
enum Happening {
    /// A session tries to work.
    Work(usize),
    /// A dial ends: (session, generation of the gate in which it began).
    Dialed(usize, u64),
    /// A backend's statement commits.
    Commit(u64),
    ClientDrops(usize),
    Replicate(usize),
    Crash(usize),
    Return(usize),
    /// The monitor tells of a crash: (node, which crash).
    Seen(usize, u64),
    Execute(Ticket, Task),
    Deliver(Ticket, u8),
    Operate,
    GiveUp,
    ProcessDies,
    Tick,
    LookAtLead,
    Promoted(usize),
}

/// One run.
#[derive(Debug)]
pub struct World {
    rng: Rng,
    bug: Bug,
    physical: bool,
    nudge: bool,
    trouble: bool,
    now: Duration,
    queue: BTreeMap<(Duration, u64), (u64, Happening)>,
    sequence: u64,
    /// Number of the process; what an earlier one began is lost.
    boot: u64,
    nodes: [Node; 2],
    backends: BTreeMap<u64, Backend>,
    last_backend: u64,
    gate: Gate,
    gate_generation: u64,
    dialing: usize,
    record: (u64, usize),
    released: u64,
    /// Old writes up to this epoch are known about.
    excused: u64,
    /// The crash because of which the running failover was begun.
    dead_since_crash: Option<u64>,
    machine: Option<Machine>,
    /// What the gate was when the operation began.
    before: Gate,
    answers: Vec<Answer>,
    captured: Option<(u64, Duration)>,
    clock_skew: Duration,
    operations: u32,
    /// Operations that ended with a new lead.
    pub completed: u32,
    /// Operations that were given up.
    pub aborted: u32,
    /// Commits told to clients.
    pub commits: u64,
    violation: Option<String>,
}

const SESSIONS: usize = 4;

impl World {
    /// A world that is a function of its seed.
    pub fn new(seed: u64, bug: Bug) -> Self {
        let mut rng = Rng(seed);
        let physical = rng.chance(30);
        let node = Node {
            up: true,
            ..Node::default()
        };
        let standby = Node {
            in_recovery: physical,
            ..node.clone()
        };
        let mut world = Self {
            physical,
            nudge: rng.chance(50),
            trouble: rng.chance(80),
            clock_skew: rng.micros(20_000),
            rng,
            bug,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            boot: 0,
            nodes: [node, standby],
            backends: BTreeMap::new(),
            last_backend: 0,
            gate: Gate::Held,
            gate_generation: 0,
            dialing: 0,
            record: (1, 0),
            released: 0,
            excused: 0,
            dead_since_crash: None,
            machine: None,
            before: Gate::Held,
            answers: Vec::new(),
            captured: None,
            operations: 0,
            completed: 0,
            aborted: 0,
            commits: 0,
            violation: None,
        };
        for session in 0..SESSIONS {
            world.after(3_000, Happening::Work(session));
        }
        world.after(2_000, Happening::Replicate(0));
        world.after(2_000, Happening::Replicate(1));
        world.after(1_000, Happening::LookAtLead);
        world.after(100_000, Happening::Operate);
        if world.trouble {
            for _ in 0..world.rng.below(4) {
                world.plan_trouble();
            }
        }
        world
    }

    /// Runs to the end; the first broken invariant is the error.
    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..20_000 {
            let wake = self.machine.as_ref().map(Machine::wake);
            if wake == Some(None) {
                return Err("a running operation has no wake-up".to_owned());
            }
            let wake = wake.flatten().map(|at| at.max(self.now));
            let first = self.queue.first_key_value().map(|(key, _)| *key);
            let happening = match (wake, first) {
                (Some(at), Some((due, _))) if at < due => (at, Happening::Tick),
                (_, Some(key)) => {
                    let Some((boot, happening)) = self.queue.remove(&key) else {
                        return Err("queue".to_owned());
                    };
                    if boot != u64::MAX && boot != self.boot {
                        continue;
                    }
                    (key.0, happening)
                }
                (Some(at), None) => (at, Happening::Tick),
                (None, None) => return Ok(()),
            };
            self.now = happening.0;
            self.happen(happening.1);
            self.check();
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if self.operations >= 4 && self.machine.is_none() {
                return Ok(());
            }
        }
        let machine = self.machine.as_ref();
        let task = machine.map(|m| (m.plan().kind, m.phase(), m.waiting_for().to_owned()));
        Err(format!(
            "an operation never ended: {task:?} {:?} gate {:?} at {:?}",
            self.nodes, self.gate, self.now
        ))
    }

    fn plan_trouble(&mut self) {
        let node = self.rng.below(2) as usize;
        let session = self.rng.below(SESSIONS as u64) as usize;
        let what = match self.rng.below(10) {
            0..3 => Happening::Crash(node),
            3..7 => Happening::ClientDrops(session),
            7..9 => Happening::GiveUp,
            _ => Happening::ProcessDies,
        };
        self.after(600_000, what);
    }

    /// Within `most` microseconds, whatever process lives then.
    fn after(&mut self, most: u64, what: Happening) {
        let at = self.now + self.rng.micros(most);
        self.put(at, u64::MAX, what);
    }

    fn put(&mut self, at: Duration, boot: u64, what: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (boot, what));
    }

    fn broken(&mut self, what: &str) {
        if self.violation.is_none() {
            self.violation = Some(format!("at {:?}: {what}", self.now));
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Work(session) => self.work(session),
            Happening::Dialed(session, generation) => self.dialed(session, generation),
            Happening::Commit(backend) => self.commit(backend),
            Happening::ClientDrops(session) => {
                self.leave(
                    |client| client == Client::Session(session),
                    Client::Departed,
                );
            }
            Happening::Replicate(node) => self.replicate(node),
            Happening::Crash(node) => self.crash(node),
            Happening::Return(node) => {
                self.nodes[node].up = true;
                self.after(2_000, Happening::Replicate(node));
            }
            Happening::Seen(node, crash) => self.seen(node, crash),
            Happening::Execute(ticket, task) => self.execute(ticket, task),
            Happening::Deliver(ticket, index) => {
                let answer = self.answers.get(usize::from(index)).cloned();
                if let Some(answer) = answer {
                    self.feed(Event::Answer(ticket, answer));
                }
            }
            Happening::Operate => {
                self.after(150_000, Happening::Operate);
                self.operate();
            }
            Happening::GiveUp => self.feed(Event::Abort),
            Happening::ProcessDies => self.process_dies(),
            Happening::Tick => self.feed(Event::Tick),
            Happening::LookAtLead => self.look_at_lead(),
            Happening::Promoted(node) => self.nodes[node].in_recovery &= !self.nodes[node].up,
        }
    }

    fn check(&mut self) {
        if let Gate::Open { lead, epoch } = self.gate
            && (epoch, lead) != self.record
        {
            self.broken("the gate is open for another lead than the recorded one");
        }
    }
}

// Sessions and their backends.
impl World {
    fn work(&mut self, session: usize) {
        self.after(20_000, Happening::Work(session));
        let Gate::Open { lead, epoch } = self.gate else {
            return;
        };
        let mine = |b: &Backend| b.client == Client::Session(session);
        let backend = self.backends.iter_mut().find(|(_, b)| mine(b));
        match backend {
            None => {
                if self.nodes[lead].up {
                    self.dialing += 1;
                    let at = self.now + self.rng.micros(3_000);
                    self.put(
                        at,
                        self.boot,
                        Happening::Dialed(session, self.gate_generation),
                    );
                }
            }
            Some((id, backend)) if !backend.running => {
                if backend.epoch != epoch || backend.node != lead {
                    self.broken("a session kept a server of an old epoch");
                    return;
                }
                backend.running = true;
                let id = *id;
                let most = if self.rng.chance(10) { 120_000 } else { 8_000 };
                self.after(most, Happening::Commit(id));
            }
            Some(_) => {}
        }
    }

    fn dialed(&mut self, session: usize, generation: u64) {
        if generation != self.gate_generation {
            return;
        }
        self.dialing = self.dialing.saturating_sub(1);
        let has_one = self
            .backends
            .values()
            .any(|b| b.client == Client::Session(session));
        if let Gate::Open { lead, epoch } = self.gate
            && self.nodes[lead].up
            && !has_one
        {
            self.last_backend += 1;
            let backend = Backend {
                node: lead,
                epoch,
                client: Client::Session(session),
                running: false,
            };
            self.backends.insert(self.last_backend, backend);
        }
    }

    fn commit(&mut self, id: u64) {
        let Some(backend) = self.backends.get_mut(&id) else {
            return;
        };
        backend.running = false;
        let (node, epoch, client) = (backend.node, backend.epoch, backend.client);
        self.nodes[node].log += 1;
        if epoch < self.released && epoch > self.excused {
            self.broken("a write under an old epoch after a release under a newer one");
        }
        if let Client::Session(_) = client {
            self.nodes[node].acked = self.nodes[node].log;
            self.commits += 1;
        } else {
            self.backends.remove(&id);
        }
        self.feed(Event::DrainChanged);
    }

    /// Connections end. A backend in a statement goes on with it; an idle one is gone at once.
    fn leave(&mut self, who: impl Fn(Client) -> bool, becomes: Client) {
        for backend in self.backends.values_mut().filter(|b| who(b.client)) {
            backend.client = becomes;
        }
        let attached = |c| matches!(c, Client::Session(_));
        self.backends.retain(|_, b| b.running || attached(b.client));
    }

    fn open(&mut self, lead: usize, epoch: u64) {
        self.gate = Gate::Open { lead, epoch };
        self.gate_generation += 1;
        self.dialing = 0;
        self.released = self.released.max(epoch);
        for backend in self.backends.values_mut() {
            if (backend.node, backend.epoch) != (lead, epoch) {
                backend.client = match backend.client {
                    Client::Session(_) => Client::Departed,
                    other => other,
                };
            }
        }
        self.leave(|_| false, Client::Departed);
    }

    fn hold(&mut self) {
        self.gate = Gate::Held;
        self.gate_generation += 1;
        self.dialing = 0;
    }
}

// Nodes.
impl World {
    fn replicate(&mut self, node: usize) {
        self.after(4_000, Happening::Replicate(node));
        let (log, origin_up) = (self.nodes[1 - node].log, self.nodes[1 - node].up);
        let standby_broken = self.physical && !self.nodes[node].in_recovery;
        let step = self.rng.below(4);
        let (stalls, now) = (self.rng.chance(2), self.now);
        let me = &mut self.nodes[node];
        if !me.up || standby_broken {
            return;
        }
        if origin_up {
            me.received = (me.received + step * 3).min(log);
        }
        if stalls {
            me.stalled_until = now + Duration::from_millis(80);
        }
        if now >= me.stalled_until {
            me.applied = (me.applied + step).min(me.received);
        }
        if self.physical {
            me.durable = me.received;
        } else if step == 3 {
            me.durable = me.applied;
        }
    }

    fn crash(&mut self, node: usize) {
        let me = &mut self.nodes[node];
        if me.up {
            me.up = false;
            me.crashes += 1;
            me.applied = me.applied.min(me.durable);
            me.received = me.durable;
            let crash = me.crashes;
            self.backends.retain(|_, b| b.node != node);
            let back = if self.rng.chance(30) { 5_000 } else { 400_000 };
            self.after(back, Happening::Return(node));
            self.after(30_000, Happening::Seen(node, crash));
        }
    }

    fn seen(&mut self, node: usize, _crash: u64) {
        let Some(machine) = &self.machine else {
            if self.record.1 == node && !self.nodes[node].up {
                self.operate();
            }
            return;
        };
        let target = machine.plan().to == name(node);
        let why = "connection refused".to_owned();
        self.feed(if target {
            Event::TargetLost(why)
        } else {
            Event::LeadLost(why)
        });
    }

    fn look_at_lead(&mut self) {
        self.after(20_000, Happening::LookAtLead);
        let (epoch, lead) = self.record;
        let usable = self.nodes[lead].up && !self.nodes[lead].in_recovery;
        if self.machine.is_none() && self.gate == Gate::Held && usable {
            self.open(lead, epoch);
        }
    }

    fn process_dies(&mut self) {
        self.boot += 1;
        self.machine = None;
        self.hold();
        self.leave(|c| c != Client::Orphan, Client::Orphan);
        self.leave(|_| false, Client::Orphan);
    }
}

// The driver.
impl World {
    fn operate(&mut self) {
        if self.machine.is_some() {
            return;
        }
        self.operations += 1;
        if self.trouble {
            self.plan_trouble();
        }
        let (epoch, lead) = self.record;
        let failover = !self.nodes[lead].up || self.rng.chance(10);
        if !failover && self.gate == Gate::Held {
            return;
        }
        let plan = Plan {
            kind: if failover {
                Kind::Failover
            } else {
                Kind::Switchover
            },
            from: name(lead),
            to: name(1 - lead),
            epoch: Epoch(epoch + 1),
            on_drain_timeout: [
                OnDrainTimeout::Abort,
                OnDrainTimeout::Cancel,
                OnDrainTimeout::Terminate,
            ][self.rng.below(3) as usize],
            limits: Limits {
                preflight: self.rng.micros(60_000),
                prewarm: self.rng.micros(10_000),
                drain: self.rng.micros(120_000),
                force: self.rng.micros(40_000),
                quiesce: self.rng.micros(150_000),
                catchup: self.rng.micros(150_000),
                promote: self.rng.micros(60_000),
                retry: Duration::from_millis(1) + self.rng.micros(9_000),
                ..Limits::default()
            },
        };
        self.before = self.gate;
        self.captured = None;
        let (machine, actions) = Machine::start(plan, self.now);
        self.machine = Some(machine);
        self.carry_out(actions);
    }

    fn feed(&mut self, event: Event) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let refused = matches!(event, Event::Abort) && !machine.may_abort();
        let phase = machine.phase();
        let actions = machine.step(event, self.now);
        if refused && !actions.is_empty() && machine.phase() != phase {
            self.broken("an abort was obeyed after commit");
        }
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Begin(ticket, task @ (Task::Hold | Task::Open | Task::Stop)) => {
                    self.execute(ticket, task);
                }
                Action::Begin(ticket, task) => {
                    let hangs = task != Task::Persist && self.trouble && self.rng.chance(1);
                    if !hangs {
                        let at = self.now + self.rng.micros(1_500);
                        self.put(at, self.boot, Happening::Execute(ticket, task));
                    }
                }
                Action::CancelBlockers => self.cancel(),
                Action::StopBlockers => {
                    let running: Vec<u64> = self.running_attached();
                    for id in running {
                        if let Some(b) = self.backends.get_mut(&id) {
                            b.client = Client::Departed;
                        }
                    }
                }
                Action::Resume => self.resume(),
                Action::Report => self.report(),
                // An operator accepted the loss, and was told who is still running there.
                Action::Warn(text) if text.contains("were still running") => {
                    self.excused = self.released;
                }
                Action::NameBlockers
                | Action::Nudge
                | Action::ClosePrewarmed
                | Action::Adopt
                | Action::Warn(_) => {}
            }
        }
    }

    fn running_attached(&self) -> Vec<u64> {
        let blocks = |b: &Backend| b.running && matches!(b.client, Client::Session(_));
        let all = self.backends.iter();
        all.filter(|(_, b)| blocks(b)).map(|(id, _)| *id).collect()
    }

    /// Some statements end by it, without a commit.
    fn cancel(&mut self) {
        for id in self.running_attached() {
            if self.rng.chance(50)
                && let Some(b) = self.backends.get_mut(&id)
            {
                b.running = false;
            }
        }
        // Their commit must not happen any more: the backend gets another identity.
        let idle: Vec<u64> = self
            .backends
            .iter()
            .filter(|(_, b)| !b.running)
            .map(|(i, _)| *i)
            .collect();
        for id in idle {
            if let Some(backend) = self.backends.remove(&id) {
                self.last_backend += 1;
                self.backends.insert(self.last_backend, backend);
            }
        }
    }

    fn resume(&mut self) {
        let Some(machine) = &self.machine else {
            return;
        };
        if machine.plan().kind == Kind::Switchover {
            self.gate = self.before;
            self.gate_generation += 1;
        } else {
            self.hold();
        }
    }

    fn report(&mut self) {
        let Some(machine) = self.machine.take() else {
            self.broken("a report without an operation");
            return;
        };
        match machine.outcome() {
            Some(End::Completed) => {
                self.completed += 1;
                let lead = index(&machine.plan().to);
                let epoch = machine.plan().epoch.0;
                if self.gate != (Gate::Open { lead, epoch }) {
                    self.broken("completed, but the gate is not open at the target");
                }
            }
            Some(End::Aborted { phase, .. }) => {
                self.aborted += 1;
                if *phase == Phase::Release {
                    self.broken("aborted after commit");
                }
                if machine.plan().kind == Kind::Switchover && self.gate != self.before {
                    self.broken("an abort left a trace at the gate");
                }
            }
            None => self.broken("a report of an operation that runs"),
        }
    }

    fn execute(&mut self, ticket: Ticket, task: Task) {
        let Some(machine) = &self.machine else {
            return;
        };
        let plan = machine.plan().clone();
        let (from, to) = (index(&plan.from), index(&plan.to));
        let answer = self.answer(task, &plan, from, to);
        let now_or_later = match task {
            Task::Hold | Task::Open | Task::Stop => Duration::ZERO,
            _ => self.rng.micros(1_500),
        };
        // Answers are kept aside so that a happening stays small.
        if self.answers.len() > 200 {
            self.answers.rotate_left(100);
            self.answers.truncate(100);
        }
        let slot = (self.sequence % 200) as usize;
        while self.answers.len() <= slot {
            self.answers.push(Answer::Done);
        }
        self.answers[slot] = answer;
        let at = self.now + now_or_later;
        self.put(at, self.boot, Happening::Deliver(ticket, slot as u8));
    }

    fn answer(&mut self, task: Task, plan: &Plan, from: usize, to: usize) -> Answer {
        let both = self.nodes[from].up && self.nodes[to].up;
        let gone = || Answer::Failed("connection refused".to_owned());
        let not_yet = |yes: bool| match yes {
            true => Answer::Done,
            false => Answer::NotYet("not yet".to_owned()),
        };
        match task {
            Task::Preflight => self.preflight(plan, from, to),
            Task::Prewarm => Answer::Done,
            Task::Hold => {
                self.hold();
                Answer::Done
            }
            Task::Stop => {
                self.leave(|c| matches!(c, Client::Session(_)), Client::Departed);
                Answer::Done
            }
            Task::Drain => {
                let none = self.running_attached().is_empty() && self.dialing == 0;
                not_yet(none || self.bug == Bug::SkipDrain)
            }
            Task::Backends if !self.nodes[from].up => gone(),
            Task::Backends => {
                let busy = self.backends.values().any(|b| b.node == from && b.running);
                let lie = matches!(self.bug, Bug::SkipBackends | Bug::SkipDrain);
                not_yet(!busy || lie)
            }
            Task::Capture if !both => gone(),
            Task::Capture => {
                self.nodes[from].log += 1;
                self.captured = Some((self.nodes[from].log, self.now));
                Answer::Done
            }
            Task::Gate | Task::Clock if !both => gone(),
            Task::Applied | Task::Durable if !self.nodes[to].up => gone(),
            Task::Gate => {
                let goal = self.captured.map_or(u64::MAX, |(lsn, _)| lsn);
                let target = &self.nodes[to];
                let flush = self.nudge && !self.physical;
                let there = if flush {
                    target.durable
                } else {
                    target.applied
                };
                not_yet(self.bug == Bug::SkipGate || there >= goal)
            }
            Task::Applied => {
                let target = &self.nodes[to];
                not_yet(target.applied >= target.received || self.bug == Bug::SkipApplied)
            }
            Task::Durable => {
                if self.bug != Bug::SkipDurable {
                    self.nodes[to].durable = self.nodes[to].applied;
                }
                Answer::Done
            }
            Task::Clock => not_yet(self.clock_passed() || self.bug == Bug::SkipClock),
            Task::Promote => self.promote(to),
            Task::Promotion => not_yet(self.nodes[to].up && !self.nodes[to].in_recovery),
            Task::Persist => self.persist(plan.epoch.0, to),
            Task::Open => {
                self.check_release(plan.kind, from, to);
                self.open(to, plan.epoch.0);
                Answer::Done
            }
        }
    }

    fn preflight(&mut self, plan: &Plan, from: usize, to: usize) -> Answer {
        let replicates = !self.physical || self.nodes[to].in_recovery;
        let lead_ok = self.nodes[from].up || plan.kind == Kind::Failover;
        if !self.nodes[to].up || !lead_ok || !replicates {
            return Answer::Failed("refused".to_owned());
        }
        let lead = &self.nodes[from];
        self.dead_since_crash = (!lead.up).then_some(lead.crashes);
        Answer::Cleared(Findings {
            nudge: self.nudge && !self.physical,
            durable: !self.physical && (!self.nudge || plan.kind == Kind::Failover),
            clock: !self.physical,
            promote: if self.physical {
                Promotion::Sent
            } else {
                Promotion::NotNeeded
            },
            lead_answers: self.nodes[from].up,
            loss_accepted: false,
        })
    }

    fn clock_passed(&self) -> bool {
        let Some((_, at)) = self.captured else {
            return false;
        };
        self.now > at + self.clock_skew
    }

    fn promote(&mut self, to: usize) -> Answer {
        if !self.nodes[to].up || self.rng.chance(5) {
            return Answer::Failed("permission denied".to_owned());
        }
        if self.rng.chance(95) {
            self.after(30_000, Happening::Promoted(to));
        }
        if self.rng.chance(10) {
            return Answer::NotYet("connection lost".to_owned());
        }
        Answer::Done
    }

    fn persist(&mut self, epoch: u64, lead: usize) -> Answer {
        if self.bug == Bug::OpenBeforePersist {
            self.open(lead, epoch);
        }
        let fails = if self.trouble { 30 } else { 0 };
        if !self.rng.chance(fails) {
            self.write(epoch, lead);
            return Answer::Done;
        }
        if self.rng.chance(50) {
            return Answer::Failed("no space left on device".to_owned());
        }
        if self.rng.chance(50) {
            self.write(epoch, lead);
        }
        match self.bug {
            Bug::UnknownIsFailure => Answer::Failed("input/output error".to_owned()),
            _ => Answer::NotYet("input/output error".to_owned()),
        }
    }

    fn write(&mut self, epoch: u64, lead: usize) {
        if epoch < self.record.0 || (epoch == self.record.0 && lead != self.record.1) {
            self.broken("the recorded epoch went back or was used twice");
        }
        self.record = (epoch, lead);
    }

    fn check_release(&mut self, kind: Kind, from: usize, to: usize) {
        let target = self.nodes[to].clone();
        match kind {
            Kind::Switchover => {
                if target.applied < self.nodes[from].acked {
                    self.broken("released without an acknowledged commit");
                }
                if target.durable < self.nodes[from].acked {
                    self.broken("released before it was durable on the new lead");
                }
                if !self.physical && !self.clock_passed() {
                    self.broken("released before the new lead's clock had passed");
                }
            }
            Kind::Failover => {
                let lead = &self.nodes[from];
                let dead = !lead.up && self.dead_since_crash == Some(lead.crashes);
                if target.up && dead && target.applied < target.received {
                    self.broken("released before all that was received is applied");
                }
            }
        }
    }
}

fn name(node: usize) -> NodeName {
    NodeName::new(["n0", "n1"][node])
}

fn index(name: &NodeName) -> usize {
    usize::from(name.as_str() == "n1")
}
