use std::time::Duration;

use super::{Changed, Condition, Decline, Health, Logins, Rules, Seen};
use crate::cluster::Observed;

const RULES: Rules = Rules {
    fall: 3,
    rise: 2,
    flap_limit: 3,
    flap_window: Duration::from_mins(10),
    flap_hold: Duration::from_mins(1),
};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fails() -> Seen {
    Seen::Fails("refused".to_owned())
}

fn note(health: &mut Health, seen: &Seen, seconds: u64) -> Changed {
    health.note(seen, &Logins::Untried, RULES, at(seconds))
}

#[test]
fn a_node_falls_and_rises_by_streaks() {
    let mut health = Health::default();
    assert!(!note(&mut health, &Seen::Answers, 0).state);
    assert_eq!(health.observed(), Observed::Unknown);
    assert!(note(&mut health, &Seen::Answers, 1).state);
    // Two failures and an answer in between are not a fall of three.
    for seen in [fails(), fails(), Seen::Answers, fails(), fails()] {
        note(&mut health, &seen, 2);
        assert_eq!(health.observed(), Observed::Up);
    }
    assert!(health.is_in_doubt());
    assert!(note(&mut health, &fails(), 3).state);
    assert_eq!(
        (health.observed(), health.reason()),
        (Observed::Down, "refused")
    );
    assert_eq!(health.down_for(at(10)), Some(at(7)));
    assert!(!note(&mut health, &Seen::Answers, 20).state);
    assert_eq!(health.away_since(), Some(at(2)), "since the first failure");
    note(&mut health, &Seen::Answers, 21);
    assert_eq!(health.away_since(), None);
    assert_eq!((health.observed(), health.reason()), (Observed::Up, ""));
    assert_eq!(health.up_for(at(30)), Some(at(9)));
    assert!(note(&mut health, &Seen::Starting("starting up".to_owned()), 40).state);
    assert_eq!(health.observed(), Observed::Recovering);
}

#[test]
fn a_node_that_says_no_to_the_monitor_is_alive() {
    let mut health = Health::default();
    note(&mut health, &Seen::Answers, 0);
    note(&mut health, &Seen::Answers, 1);
    for (decline, condition) in [
        (Decline::Full, Condition::Full),
        (Decline::Refused, Condition::MonitorRefused),
    ] {
        for second in 2..20 {
            note(
                &mut health,
                &Seen::Declines(decline, "no".to_owned()),
                second,
            );
        }
        assert_eq!(health.observed(), Observed::Up);
        assert_eq!((health.condition(), health.reason()), (condition, "no"));
    }
    assert!(note(&mut health, &Seen::Answers, 30).condition);
    assert_eq!((health.condition(), health.reason()), (Condition::Well, ""));
    // Who was never proven up is not made so by a refusal.
    let mut unknown = Health::default();
    note(
        &mut unknown,
        &Seen::Declines(Decline::Full, "no".to_owned()),
        0,
    );
    assert_eq!(unknown.observed(), Observed::Unknown);
}

#[test]
fn logins_that_fail_beside_an_answering_connection_are_told_but_take_nothing_down() {
    let mut health = Health::default();
    let stuck = Logins::Fail(Seen::Fails("login took longer than 2s".to_owned()));
    for second in 0..2 {
        health.note(&Seen::Answers, &Logins::Taken, RULES, at(second));
    }
    for second in 2..4 {
        assert!(
            !health
                .note(&Seen::Answers, &stuck, RULES, at(second))
                .condition
        );
    }
    assert!(health.note(&Seen::Answers, &stuck, RULES, at(4)).condition);
    assert_eq!(health.observed(), Observed::Up);
    assert_eq!(health.condition(), Condition::LoginsStuck);
    health.note(&Seen::Answers, &Logins::Untried, RULES, at(5));
    assert_eq!(
        health.condition(),
        Condition::LoginsStuck,
        "until one is taken"
    );
    health.note(&Seen::Answers, &Logins::Taken, RULES, at(6));
    assert_eq!(health.condition(), Condition::Well);
}

#[test]
fn a_node_that_falls_often_is_flapping_until_it_was_well_for_a_while() {
    let mut health = Health::default();
    for fall in 0..3 {
        for second in 0..2 {
            note(&mut health, &Seen::Answers, fall * 60 + second);
        }
        assert!(!health.is_flapping(RULES, at(fall * 60 + 2)), "fall {fall}");
        for second in 2..5 {
            note(&mut health, &fails(), fall * 60 + second);
        }
    }
    assert!(health.is_flapping(RULES, at(130)));
    note(&mut health, &Seen::Answers, 140);
    note(&mut health, &Seen::Answers, 141);
    assert!(health.is_flapping(RULES, at(200)));
    assert!(!health.is_flapping(RULES, at(201)), "well for a minute");
    let off = Rules {
        flap_limit: 0,
        ..RULES
    };
    assert!(!health.is_flapping(off, at(142)));
}

#[test]
fn what_a_server_says_is_read_as_what_it_means() {
    for (sqlstate, seen) in [
        ("57P03", Seen::Starting("x".to_owned())),
        ("53300", Seen::Declines(Decline::Full, "x".to_owned())),
        ("28P01", Seen::Declines(Decline::Refused, "x".to_owned())),
        ("28000", Seen::Declines(Decline::Refused, "x".to_owned())),
        ("3D000", Seen::Declines(Decline::Refused, "x".to_owned())),
        ("42501", Seen::Declines(Decline::Refused, "x".to_owned())),
        ("57014", Seen::Fails("x".to_owned())),
        ("57P01", Seen::Fails("x".to_owned())),
        ("58030", Seen::Fails("x".to_owned())),
        ("", Seen::Fails("x".to_owned())),
    ] {
        assert_eq!(
            Seen::of_server_error(sqlstate, "x".to_owned()),
            seen,
            "{sqlstate}"
        );
    }
}
