//! A node's health by its probes: streaks of answers and failures, what an answering node still
//! refuses, and how often it has fallen lately. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::cluster::Observed;

/// Time since any fixed origin; only ever compared with its like.
pub(super) type Now = Duration;

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// Logged in and answered.
    Answers,
    /// Answers that it is not ready (57P03).
    Starting(String),
    /// It is alive, but says no to us: nothing is proven either way.
    Declines(Decline, String),
    /// Did not answer.
    Fails(String),
}

/// Why a living node says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decline {
    /// All connection slots are used (53300).
    Full,
    /// Our role may not log in, or may not ask: a matter between the operator and the node.
    Refused,
}

impl Seen {
    /// What a server's own error says of its health.
    pub(super) fn of_server_error(sqlstate: &str, why: String) -> Self {
        match sqlstate {
            "57P03" => Self::Starting(why),
            "53300" => Self::Declines(Decline::Full, why),
            // Authorisation, no such database, missing privilege, unknown view.
            _ if matches!(sqlstate.get(..2), Some("28" | "3D" | "42")) => {
                Self::Declines(Decline::Refused, why)
            }
            _ => Self::Fails(why),
        }
    }
}

/// Does the node take new logins, apart from the monitor's own connection that it still answers?
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Logins {
    /// Not tried this time.
    #[default]
    Untried,
    /// A new one was answered.
    Taken,
    /// A new one was not, though the old connection is.
    Fail(Seen),
}

/// What is wrong with a node that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Condition {
    /// Nothing.
    #[default]
    Well,
    /// All connection slots are used.
    Full,
    /// It does not let the monitor in.
    MonitorRefused,
    /// Sessions are answered, new logins are not (a frozen postmaster).
    LoginsStuck,
}

/// When a state changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Failed probes before a node is down.
    pub fall: u32,
    /// Good probes before it is up.
    pub rise: u32,
    /// So many falls within `flap_window` are flapping; 0: no guard.
    pub flap_limit: usize,
    /// See `flap_limit`.
    pub flap_window: Duration,
    /// Flapping is over when it was well for so long.
    pub flap_hold: Duration,
}

/// Streaks of probes of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Health {
    observed: Observed,
    condition: Condition,
    good: u32,
    bad: u32,
    logins_bad: u32,
    reason: String,
    /// When `observed` became what it is; `None`: it never changed.
    since: Option<Now>,
    /// When it was last proven up, if it has not left that state.
    up_since: Option<Now>,
    /// When it began to be away: the first failure after it was up.
    away_since: Option<Now>,
    /// The latest falls, oldest first; never more than `flap_limit`.
    falls: VecDeque<Now>,
}

/// What a probe changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Changed {
    /// `observed`.
    pub state: bool,
    /// `condition`.
    pub condition: bool,
}

impl Health {
    /// Takes one probe in.
    pub(super) fn note(&mut self, seen: &Seen, logins: &Logins, rules: Rules, now: Now) -> Changed {
        let before = (self.observed, self.condition);
        match seen {
            Seen::Answers => self.answered(rules, now),
            Seen::Starting(why) => {
                self.fail(why, now);
                // It says so itself: that is not a doubt.
                self.observed = Observed::Recovering;
                self.condition = Condition::Well;
            }
            Seen::Declines(decline, why) => {
                // Neither good nor bad: a wrong password of the monitor's takes no node down.
                self.bad = 0;
                self.condition = match decline {
                    Decline::Full => Condition::Full,
                    Decline::Refused => Condition::MonitorRefused,
                };
                self.reason.clone_from(why);
            }
            Seen::Fails(why) => {
                self.fail(why, now);
                if self.bad >= rules.fall {
                    self.fall(rules, now);
                }
            }
        }
        if *seen == Seen::Answers {
            self.note_logins(logins, rules);
        }
        let changed = Changed {
            state: self.observed != before.0,
            condition: self.condition != before.1,
        };
        if changed.state {
            self.since = Some(now);
        }
        if self.observed != Observed::Up {
            self.up_since = None;
        } else if self.bad == 0 {
            self.away_since = None;
        }
        changed
    }

    fn answered(&mut self, rules: Rules, now: Now) {
        self.good = self.good.saturating_add(1);
        self.bad = 0;
        if matches!(self.condition, Condition::Full | Condition::MonitorRefused) {
            self.condition = Condition::Well;
        }
        if self.good >= rules.rise {
            if self.observed != Observed::Up {
                self.up_since = Some(now);
            }
            self.observed = Observed::Up;
        }
        if self.observed == Observed::Up && self.condition == Condition::Well {
            self.reason.clear();
        }
    }

    fn note_logins(&mut self, logins: &Logins, rules: Rules) {
        match logins {
            Logins::Untried | Logins::Fail(Seen::Answers) => {}
            Logins::Taken => {
                self.logins_bad = 0;
                self.condition = Condition::Well;
                if self.observed == Observed::Up {
                    self.reason.clear();
                }
            }
            Logins::Fail(Seen::Declines(Decline::Full, why)) => {
                self.logins_bad = 0;
                self.condition = Condition::Full;
                self.reason.clone_from(why);
            }
            Logins::Fail(Seen::Declines(Decline::Refused, why)) => {
                self.logins_bad = 0;
                self.condition = Condition::MonitorRefused;
                self.reason.clone_from(why);
            }
            Logins::Fail(Seen::Fails(why) | Seen::Starting(why)) => {
                self.logins_bad = self.logins_bad.saturating_add(1);
                if self.logins_bad >= rules.fall {
                    self.condition = Condition::LoginsStuck;
                    self.reason = format!("takes no new logins: {why}");
                }
            }
        }
    }

    fn fail(&mut self, why: &str, now: Now) {
        self.good = 0;
        self.bad = self.bad.saturating_add(1);
        why.clone_into(&mut self.reason);
        self.away_since.get_or_insert(now);
    }

    fn fall(&mut self, rules: Rules, now: Now) {
        let was_seen = matches!(self.observed, Observed::Up | Observed::Recovering);
        if was_seen && rules.flap_limit > 0 {
            if self.falls.len() >= rules.flap_limit {
                self.falls.pop_front();
            }
            self.falls.push_back(now);
        }
        self.observed = Observed::Down;
        self.condition = Condition::Well;
        self.logins_bad = 0;
    }

    /// The state by probes alone.
    pub(super) fn observed(&self) -> Observed {
        self.observed
    }

    /// What is wrong although it is up.
    pub(super) fn condition(&self) -> Condition {
        self.condition
    }

    /// Why it is so; empty when all is well.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Did the last probe fail, though the node is not down yet?
    pub(super) fn is_in_doubt(&self) -> bool {
        self.bad > 0 && self.observed != Observed::Down
    }

    /// How long it has been down.
    pub(super) fn down_for(&self, now: Now) -> Option<Duration> {
        let since = self.since.filter(|_| self.observed == Observed::Down)?;
        Some(now.saturating_sub(since))
    }

    /// When it began to be away: at the first failure.
    pub(super) fn away_since(&self) -> Option<Now> {
        self.away_since
    }

    /// How long it has been up.
    pub(super) fn up_for(&self, now: Now) -> Option<Duration> {
        self.up_since.map(|since| now.saturating_sub(since))
    }

    /// Has it fallen too often lately, and not been well for long since?
    pub(super) fn is_flapping(&self, rules: Rules, now: Now) -> bool {
        let recent = |at: &&Now| now.saturating_sub(**at) <= rules.flap_window;
        let often =
            rules.flap_limit > 0 && self.falls.iter().filter(recent).count() >= rules.flap_limit;
        often && self.up_for(now).is_none_or(|well| well < rules.flap_hold)
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
