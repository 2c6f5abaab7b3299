#![allow(clippy::panic, reason = "tests fail loudly")]

use std::time::Duration;

use super::*;

const STEP: Duration = Duration::from_millis(10);

fn plan(kind: Kind) -> Plan {
    Plan {
        kind,
        from: NodeName::new("old"),
        to: NodeName::new("new"),
        epoch: Epoch(7),
        on_drain_timeout: OnDrainTimeout::Abort,
        limits: Limits::default(),
    }
}

fn begun(actions: &[Action]) -> Option<(Ticket, Task)> {
    actions.iter().find_map(|action| match action {
        Action::Begin(ticket, task) => Some((*ticket, *task)),
        _ => None,
    })
}

/// Answers everything well until `stop` has begun; what was asked on the way.
struct Walk {
    machine: Machine,
    now: Now,
    ticket: Ticket,
    asked: Vec<Task>,
}

impl Walk {
    fn to(plan: Plan, findings: Findings, stop: Task) -> Self {
        let (mut machine, actions) = Machine::start(plan, Duration::ZERO);
        let Some((mut ticket, mut task)) = begun(&actions) else {
            panic!("nothing was begun");
        };
        let (mut now, mut asked) = (Duration::ZERO, vec![task]);
        while task != stop {
            now += STEP;
            let answer = match task {
                Task::Preflight => Answer::Cleared(findings),
                _ => Answer::Done,
            };
            let actions = machine.step(Event::Answer(ticket, answer), now);
            let Some(next) = begun(&actions) else {
                panic!("nothing follows {task:?}: {actions:?}");
            };
            (ticket, task) = next;
            asked.push(task);
        }
        Self {
            machine,
            now,
            ticket,
            asked,
        }
    }

    fn answer(&mut self, answer: Answer) -> Vec<Action> {
        self.now += STEP;
        self.machine
            .step(Event::Answer(self.ticket, answer), self.now)
    }
}

fn logical() -> Findings {
    Findings {
        durable: true,
        clock: true,
        ..Findings::default()
    }
}

fn physical() -> Findings {
    Findings {
        promote: Promotion::Sent,
        ..Findings::default()
    }
}

#[test]
fn each_kind_takes_its_way() {
    use Task::{
        Applied, Backends, Capture, Clock, Drain, Durable, Gate, Hold, Open, Persist, Preflight,
        Prewarm, Promote, Stop,
    };
    let held = [Hold, Drain, Backends, Capture, Gate];
    let warm = [Preflight, Prewarm];
    let walk = Walk::to(plan(Kind::Switchover), logical(), Open);
    assert_eq!(
        walk.asked,
        [&warm[..], &held, &[Durable, Clock, Persist, Open]].concat()
    );
    let walk = Walk::to(plan(Kind::Switchover), physical(), Open);
    let promoted = [Promote, Task::Promotion, Persist, Open];
    assert_eq!(walk.asked, [&[Preflight], &held[..], &promoted].concat());
    let walk = Walk::to(plan(Kind::Failover), logical(), Open);
    assert_eq!(
        walk.asked,
        [
            Preflight, Hold, Stop, Drain, Applied, Durable, Persist, Open
        ]
    );
}

#[test]
fn an_abort_before_commit_resumes_and_after_it_is_refused() {
    let before = [
        Task::Hold,
        Task::Drain,
        Task::Backends,
        Task::Capture,
        Task::Gate,
        Task::Durable,
    ];
    for task in before {
        let mut walk = Walk::to(plan(Kind::Switchover), logical(), task);
        assert!(walk.machine.may_abort(), "{task:?}");
        let actions = walk.machine.step(Event::Abort, walk.now);
        assert_eq!(
            actions,
            [Action::Resume, Action::ClosePrewarmed, Action::Report],
            "{task:?}"
        );
        assert_eq!(walk.machine.wake(), None);
    }
    for (findings, task) in [
        (logical(), Task::Persist),
        (logical(), Task::Open),
        (physical(), Task::Promote),
        (physical(), Task::Promotion),
    ] {
        let mut walk = Walk::to(plan(Kind::Switchover), findings, task);
        assert!(!walk.machine.may_abort(), "{task:?}");
        assert_eq!(walk.machine.step(Event::Abort, walk.now), []);
        let lost = Event::TargetLost("reset".to_owned());
        assert_eq!(walk.machine.step(lost, walk.now), []);
    }
}

#[test]
fn nothing_is_held_when_preflight_refuses() {
    let mut walk = Walk::to(plan(Kind::Switchover), logical(), Task::Preflight);
    let actions = walk.answer(Answer::Failed("no".to_owned()));
    assert_eq!(actions, [Action::Report]);
    let end = End::Aborted {
        phase: Phase::Preflight,
        why: "no".to_owned(),
    };
    assert_eq!(walk.machine.outcome(), Some(&end));
}

#[test]
fn a_commit_that_certainly_failed_aborts_and_an_unknown_one_is_written_again() {
    let mut walk = Walk::to(plan(Kind::Switchover), logical(), Task::Persist);
    let actions = walk.answer(Answer::Failed("disk full".to_owned()));
    assert_eq!(actions.first(), Some(&Action::Resume));

    let mut walk = Walk::to(plan(Kind::Switchover), logical(), Task::Persist);
    assert_eq!(walk.answer(Answer::NotYet("no answer".to_owned())), []);
    let again = walk.now + Limits::default().retry;
    let actions = walk.machine.step(Event::Tick, again);
    let Some((ticket, Task::Persist)) = begun(&actions) else {
        panic!("it was not written again: {actions:?}");
    };
    // The first try may have been written: what fails now proves nothing about it.
    let failed = Event::Answer(ticket, Answer::Failed("disk full".to_owned()));
    assert_eq!(begun(&walk.machine.step(failed, again)), None);
    assert_eq!(walk.machine.outcome(), None);
    assert!(!walk.machine.may_abort());
}

#[test]
fn a_late_answer_is_dropped() {
    let mut walk = Walk::to(plan(Kind::Switchover), logical(), Task::Gate);
    let stale = walk.ticket;
    walk.answer(Answer::NotYet("behind".to_owned()));
    let Some(again) = walk.machine.wake() else {
        panic!("it sleeps for ever");
    };
    let actions = walk.machine.step(Event::Tick, again);
    assert!(matches!(begun(&actions), Some((_, Task::Gate))));
    assert_eq!(
        walk.machine.step(Event::Answer(stale, Answer::Done), again),
        []
    );
    assert_eq!(walk.machine.task(), Task::Gate);
}

#[test]
fn what_drain_timeout_does_is_the_operators_choice() {
    for (choice, first) in [
        (
            OnDrainTimeout::Abort,
            vec![Action::NameBlockers, Action::Resume],
        ),
        (OnDrainTimeout::Cancel, vec![Action::CancelBlockers]),
        (
            OnDrainTimeout::Terminate,
            vec![Action::CancelBlockers, Action::StopBlockers],
        ),
    ] {
        let mut plan = plan(Kind::Switchover);
        plan.on_drain_timeout = choice;
        let mut walk = Walk::to(plan, logical(), Task::Drain);
        walk.answer(Answer::NotYet("client 5 is busy".to_owned()));
        let late = walk.now + Limits::default().drain;
        let actions = walk.machine.step(Event::Tick, late);
        assert_eq!(
            actions.get(..first.len()),
            Some(first.as_slice()),
            "{choice:?}"
        );
        if choice == OnDrainTimeout::Abort {
            let end = End::Aborted {
                phase: Phase::Drain,
                why: "drain timed out: client 5 is busy".to_owned(),
            };
            assert_eq!(walk.machine.outcome(), Some(&end));
            continue;
        }
        // Force has a limit too.
        let actions = walk
            .machine
            .step(Event::Tick, late + Limits::default().force);
        let named = [Action::NameBlockers, Action::Resume];
        assert_eq!(actions.get(..2), Some(&named[..]), "{choice:?}");
    }
}

#[test]
fn the_lead_may_be_lost_when_it_is_a_failover_or_promotion_shuts_it_down() {
    let lost = || Event::LeadLost("reset".to_owned());
    let mut walk = Walk::to(plan(Kind::Switchover), logical(), Task::Gate);
    assert_eq!(
        walk.machine.step(lost(), walk.now).first(),
        Some(&Action::Resume)
    );
    let mut walk = Walk::to(plan(Kind::Failover), logical(), Task::Applied);
    assert_eq!(walk.machine.step(lost(), walk.now), []);
    let awaited = Findings {
        promote: Promotion::Awaited,
        ..Findings::default()
    };
    let mut walk = Walk::to(plan(Kind::Switchover), awaited, Task::Promotion);
    assert_eq!(walk.machine.step(lost(), walk.now), []);
    assert!(walk.machine.may_abort());
}

#[test]
fn a_promotion_that_was_forgotten_is_sent_again() {
    let mut walk = Walk::to(plan(Kind::Switchover), physical(), Task::Promotion);
    walk.answer(Answer::NotYet("in recovery".to_owned()));
    let late = walk.now + Limits::default().promote;
    let actions = walk.machine.step(Event::Tick, late);
    assert!(
        matches!(begun(&actions), Some((_, Task::Promote))),
        "{actions:?}"
    );
    let Some((ticket, _)) = begun(&actions) else {
        return;
    };
    // It was promoted in between: the refusal is no reason to go back.
    let refused = Event::Answer(ticket, Answer::Failed("not in recovery".to_owned()));
    let actions = walk.machine.step(refused, late);
    assert!(
        matches!(begun(&actions), Some((_, Task::Promotion))),
        "{actions:?}"
    );
}
